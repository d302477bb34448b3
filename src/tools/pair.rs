//! `pair`: the configurations and keys of both ends of a new tunnel, in a directory for each.
//!
//! `settings` checks what was typed, `files` makes the files of it and of random bytes; both are pure. `write` puts them
//! into the file system, all or none of them, and `next` says what to do with them.

use std::io::{self, Write as _};
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;

use self::files::Chance;
use self::settings::{Settings, Typed};
use super::keys::random;
use crate::transport::resolve::service_port;
use crate::tunnel::keys::{PrivateKey, SharedSecret};

mod files;
pub mod invite;
mod next;
mod settings;
#[cfg(test)]
mod tests;
mod write;

/// Write the configurations and keys of both ends of a new tunnel.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:\n  \
    simpletun pair berlin --server gateway.example.net --behind-server 10.2.0.0/24\n\n\
    makes berlin/client and berlin/server, each with what belongs into /etc/simpletun of its host, and says how to bring \
    it there. Nothing is overwritten.")]
pub struct Pair {
    /// Name of the tunnel: that of its device, of its files and of its service, simpletun@NAME
    #[arg(value_name = "NAME")]
    name: String,

    /// Name or address by which the client reaches the server, and the server's port [default port: 55555]
    #[arg(long, value_name = "HOST[:PORT]")]
    server: String,

    /// Use tap devices, which carry Ethernet frames
    #[arg(long)]
    tap: bool,

    /// Carry the packets over TCP in place of UDP
    #[arg(long)]
    tcp: bool,

    /// Network of the tunnel's own addresses, one of IPv4, one of IPv6 or both; the server gets the first address and the
    /// client the second; none for devices without addresses, such as those in a bridge [default: a random /30 of
    /// 10.128.0.0/9 and a random /64 of fd00::/8 (RFC 4193)]
    #[arg(long, value_name = "CIDR|none")]
    addresses: Vec<String>,

    /// Network behind the server, to which the client gets a route (repeatable)
    #[arg(long, value_name = "CIDR")]
    behind_server: Vec<String>,

    /// Network behind the client, to which the server gets a route (repeatable)
    #[arg(long, value_name = "CIDR")]
    behind_client: Vec<String>,

    /// Secure the link by one shared secret in place of key pairs with a pre-shared key
    #[arg(long)]
    secret: bool,

    /// Directory to be made, with client and server in it [default: NAME]
    #[arg(long, value_name = "DIRECTORY")]
    output: Option<PathBuf>,
}

impl Pair {
    /// Makes the files and prints what to do with them; no key is printed.
    ///
    /// # Errors
    /// A setting cannot be used ([`ConfigError`](crate::config::ConfigError)), there is no randomness, the directory
    /// exists already or cannot be made. In each case nothing is left behind.
    pub fn run(&self) -> Result<()> {
        let settings = Settings::new(&self.typed(), &service_port)?;
        let directory = self.output.clone().unwrap_or_else(|| PathBuf::from(&settings.name));
        let ends = files::both_ends(&settings, &draw()?)?;
        write::write(&directory, &ends)?;
        let text = next::steps(&settings, &ends, &directory);
        io::stdout().write_all(text.as_bytes()).context("The files are made, but standard output cannot be written")
    }

    fn typed(&self) -> Typed<'_> {
        Typed {
            name: &self.name,
            server: &self.server,
            tap: self.tap,
            tcp: self.tcp,
            addresses: &self.addresses,
            behind_server: &self.behind_server,
            behind_client: &self.behind_client,
            secret: self.secret,
        }
    }
}

fn draw() -> Result<Chance> {
    let network = random()?;
    let [ipv4, ipv6] =
        [0, 4].map(|at| network.iter().skip(at).take(8).fold(0, |bits, byte| bits << 8 | u64::from(*byte)));
    Ok(Chance {
        client: PrivateKey::from_bytes(*random()?),
        server: PrivateKey::from_bytes(*random()?),
        secret: SharedSecret::from_bytes(*random()?),
        ipv4,
        ipv6,
    })
}

//! `pair`: the configurations and keys of both ends of a new tunnel, in a directory for each, or in their places at both
//! ends, which are started.
//!
//! `settings` checks what was typed, `files` makes the files of it and of random bytes; both are pure. `write` puts them
//! into the file system, all or none of them, and `next` says what to do with them. With another host named, `remote` has
//! both ends set up by the program itself: `end` is what works there, and `wire` how the two talk.

use std::io::{self, Write as _};
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;

use self::files::Chance;
use self::remote::Destination;
use self::settings::{Settings, Typed};
use self::wire::Interrupt;
use super::keys::random;
use crate::config::ConfigError;
use crate::transport::resolve::service_port;
use crate::tunnel::keys::{PrivateKey, SharedSecret};

pub mod end;
mod files;
pub mod invite;
mod next;
mod remote;
mod settings;
#[cfg(test)]
mod tests;
mod wire;
mod write;

/// Set up both ends of a new tunnel: write their configurations and keys, or put them into place over ssh and start them.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:\n  \
    simpletun pair berlin --server gateway.example.net --behind-server 10.2.0.0/24\n\n\
    makes berlin/client and berlin/server, each with what belongs into /etc/simpletun of its host, and says how to bring \
    it there. Nothing is overwritten.\n\n  \
    simpletun pair root@gateway.example.net\n\n\
    puts the files into place here and there, each end with a private key that it has made itself, starts the service at \
    both ends and waits until the tunnel is up. If anything fails everything is undone. Both hosts need the package.")]
pub struct Pair {
    /// Name of the tunnel: that of its device, of its files and of its service, simpletun@NAME; or the server's host, as for
    /// --to, and the name is made of the host's
    #[arg(value_name = "NAME|USER@HOST")]
    name: String,

    /// Put everything into place at both ends and start it: this host is the client, and the server is the one that ssh
    /// reaches by this name, such as root@gateway
    #[arg(long, value_name = "[USER@]HOST")]
    to: Option<String>,

    /// Command line to be used in place of ssh, which takes the same arguments [default: ssh]
    #[arg(long, value_name = "COMMAND")]
    ssh: Option<String>,

    /// Name or address by which the client reaches the server, and the server's port [default: the host that ssh reaches;
    /// default port: 55555]
    #[arg(long, value_name = "HOST[:PORT]")]
    server: Option<String>,

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
    /// Makes the files and prints what to do with them, or does that, too; no key is printed.
    ///
    /// # Errors
    /// A setting cannot be used ([`ConfigError`]), there is no randomness, the directory exists already or cannot be made,
    /// or a step at one of the ends has failed. In each case nothing is left behind, or what is left is named.
    pub fn run(&self) -> Result<()> {
        let destination = match (&self.to, self.name.contains('@')) {
            (Some(to), _) => Some(Destination::new(to)?),
            (None, true) => Some(Destination::new(&self.name)?),
            (None, false) => None,
        };
        match destination {
            Some(destination) => self.set_up(&destination),
            None => self.write_files(),
        }
    }

    fn write_files(&self) -> Result<()> {
        let refuse = |text: &str| Err(ConfigError::Combination(text.to_owned()).into());
        if self.ssh.is_some() {
            return refuse("Option ssh is for the host that both ends are set up from: add --to HOST, or leave it out");
        }
        let Some(server) = &self.server else {
            return refuse(
                "Option --server <HOST[:PORT]> is missing: how the client reaches the server; or give USER@HOST in place of \
                 the name, and both ends are set up over ssh",
            );
        };
        let settings = Settings::new(&self.typed(&self.name, server), &service_port)?;
        let directory = self.output.clone().unwrap_or_else(|| PathBuf::from(&settings.name));
        let interrupt = Interrupt::new()?;
        let ends = files::both_ends(&settings, &chance()?)?;
        write::write(&directory, &ends, &interrupt)?;
        print(&next::steps(&settings, &ends, &directory)).context("The files are made")
    }

    fn set_up(&self, destination: &Destination) -> Result<()> {
        if self.output.is_some() {
            let problem = "Option output cannot be used where both ends are set up: their files go to /etc/simpletun; leave \
                           it out, or name the server by --server alone";
            return Err(ConfigError::Combination(problem.to_owned()).into());
        }
        let ssh = self.ssh.as_deref().unwrap_or("ssh");
        let ssh = shell_words::split(ssh).map_err(|error| ConfigError::value("ssh", ssh, error.to_string()))?;
        let name = if self.to.is_some() { self.name.clone() } else { destination.tunnel_name() };
        let server = self.server.clone().unwrap_or_else(|| destination.address(&ssh));
        let settings = Settings::new(&self.typed(&name, &server), &service_port)?;
        remote::run(&settings, destination, &ssh, draw()?)
    }

    fn typed<'a>(&'a self, name: &'a str, server: &'a str) -> Typed<'a> {
        Typed {
            name,
            server,
            tap: self.tap,
            tcp: self.tcp,
            addresses: &self.addresses,
            behind_server: &self.behind_server,
            behind_client: &self.behind_client,
            secret: self.secret,
        }
    }
}

fn print(text: &str) -> Result<()> {
    io::stdout().write_all(text.as_bytes()).context("Standard output cannot be written")
}

/// What is random about a tunnel beside the keys of its ends.
struct Draw {
    secret: SharedSecret,
    ipv4: u64,
    ipv6: u64,
}

fn draw() -> Result<Draw> {
    let network = random()?;
    let [ipv4, ipv6] =
        [0, 4].map(|at| network.iter().skip(at).take(8).fold(0, |bits, byte| bits << 8 | u64::from(*byte)));
    Ok(Draw { secret: SharedSecret::from_bytes(*random()?), ipv4, ipv6 })
}

fn chance() -> Result<Chance> {
    let Draw { secret, ipv4, ipv6 } = draw()?;
    let [client, server] = [PrivateKey::from_bytes(*random()?), PrivateKey::from_bytes(*random()?)];
    Ok(Chance { client, server, secret, ipv4, ipv6 })
}

//! `-s --pair`: a secret for one run of a server, and the command line by which its client joins it.
//!
//! The secret is in memory and in that line, nowhere else. It stands to the configuration as if it had come by standard
//! input, so it is read once and is still there for a reload.

use std::io::{self, IsTerminal as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use ipnet::IpNet;
use zeroize::Zeroizing;

use super::files::{Side, address};
use crate::config::{AeadChoice, Config, ConfigError, DEFAULT_PORT, InterfaceAddress, LinkLayer, Protocol};
use crate::device::netlink::Netlink;
use crate::tools::keys::random;
use crate::tunnel::keys::SharedSecret;

/// What is in the line in place of an address that is not known.
const UNKNOWN: &str = "SERVER";

/// Addresses that are told beside the one in the line.
const MAX_OTHERS: usize = 8;

/// Where the line may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// To a terminal.
    #[value(hide = true)]
    Terminal,
    /// Wherever standard output goes.
    Print,
}

/// A secret for one run.
pub struct Invitation {
    secret: Zeroizing<String>,
}

impl Invitation {
    /// With a fresh secret.
    ///
    /// # Errors
    /// Standard output is no terminal and that was not asked for ([`ConfigError`]), or there is no randomness.
    pub fn new(output: Output) -> Result<Self> {
        if output == Output::Terminal && !io::stdout().is_terminal() {
            return Err(ConfigError::Combination(
                "Option pair prints a secret, and standard output is no terminal but may be a log: write --pair=print if \
                 nobody else reads what goes there"
                    .to_owned(),
            )
            .into());
        }
        Ok(Self { secret: SharedSecret::from_bytes(*random()?).to_text() })
    }

    /// What would be in a file of the secret.
    pub fn key(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.secret.as_bytes().to_vec())
    }

    /// Prints the client's command line, and what is to be known about it as comments of the shell.
    ///
    /// # Errors
    /// It cannot be written, and nobody would have the secret.
    pub fn print(&self, config: &Config) -> Result<()> {
        let hosts = match config.link.bind.address {
            Some(address) if !address.is_unspecified() => vec![address],
            _ => own_addresses(),
        };
        let text = text(config, &self.secret, &hosts);
        let mut stdout = io::stdout().lock();
        let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
        written.context("Cannot write the client's command line to standard output")
    }
}

/// The addresses of this host by which others may reach it, that of the default route first.
fn own_addresses() -> Vec<IpAddr> {
    // Addresses for documentation (RFC 5737, RFC 3849), to which nothing is sent: no route but the default one is theirs.
    let elsewhere: [(IpAddr, IpAddr); 2] = [
        (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into()),
        (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()),
    ];
    let source = |(any, to): (IpAddr, IpAddr)| {
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect((to, DEFAULT_PORT)).ok()?;
        socket.local_addr().ok().map(|address| address.ip())
    };
    let mut addresses: Vec<IpAddr> = elsewhere.into_iter().filter_map(source).collect();
    let others = Netlink::open().and_then(|mut netlink| Ok((netlink.links()?, netlink.addresses()?)));
    let (links, others) = others.unwrap_or_default();
    let is_outside =
        |index: u32| links.iter().any(|link| link.index == index && link.is_up && link.kind.as_deref() != Some("tun"));
    addresses.extend(others.iter().filter(|other| is_outside(other.index)).map(|other| other.local));
    let mut unique = Vec::new();
    for address in addresses.into_iter().filter(is_reachable) {
        if !unique.contains(&address) {
            unique.push(address);
        }
    }
    unique
}

/// Not those that mean something on one host or one cable only.
fn is_reachable(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !address.is_loopback() && !address.is_link_local() && !address.is_unspecified(),
        IpAddr::V6(address) => !address.is_loopback() && !address.is_unicast_link_local() && !address.is_unspecified(),
    }
}

/// The line, with a blank in front, which keeps it out of the history of many shells, and comments around it. `echo` is
/// part of the shells, so that the secret is in no list of processes.
fn text(config: &Config, secret: &str, hosts: &[IpAddr]) -> Zeroizing<String> {
    let port = config.link.bind.port;
    let (host, about) = match hosts {
        [] => (UNKNOWN.to_owned(), format!("# Put a name or an address of this host in place of {UNKNOWN}.\n")),
        [first] => (host(first, port), String::new()),
        [first, others @ ..] => {
            let others: Vec<String> = others.iter().take(MAX_OTHERS).map(|other| self::host(other, port)).collect();
            let first = self::host(first, port);
            (first, format!("# Other addresses of this host, to be put in place of that one: {}\n", others.join(", ")))
        }
    };
    let host = if hosts.is_empty() && port != DEFAULT_PORT { format!("{host}:{port}") } else { host };
    let mut arguments = format!("simpletun -i {} -c {}", shell_words::quote(&config.device.name), host);
    arguments.extend(options(config).into_iter().flat_map(|option| [" ".to_owned(), option]));
    let comments =
        "# The secret is this server's as long as it runs: a reload keeps it, a restart makes another one.\n";
    let missing = if config.network.addresses.iter().any(|own| counterpart(own).is_none()) {
        "# An address of the server leaves none for the client in its network; add one by --address.\n"
    } else {
        ""
    };
    let parts = ["# On the client, as root:\n echo ", secret, " | ", &arguments, " --secret-file -\n", &about, missing];
    let parts = parts.into_iter().chain([comments]);
    // Of the whole length at once: a text that grows leaves copies behind that are not wiped.
    let mut text = Zeroizing::new(String::with_capacity(parts.clone().map(str::len).sum()));
    parts.for_each(|part| text.push_str(part));
    text
}

/// As the option `connect` takes it.
fn host(address: &IpAddr, port: u16) -> String {
    match (address, port) {
        (IpAddr::V4(address), DEFAULT_PORT) => address.to_string(),
        (IpAddr::V6(address), DEFAULT_PORT) => format!("[{address}]"),
        (address, port) => std::net::SocketAddr::new(*address, port).to_string(),
    }
}

/// What has to be the same on the client, or the counterpart.
fn options(config: &Config) -> Vec<String> {
    let mut options = Vec::new();
    if config.device.kind == LinkLayer::Tap {
        options.push("--tap".to_owned());
    }
    if config.link.protocol == Protocol::Udp {
        options.push("--udp".to_owned());
    }
    match config.link.aead {
        AeadChoice::Auto => {}
        AeadChoice::Aes256Gcm => options.push("--aead aes-256-gcm".to_owned()),
        AeadChoice::ChaCha20Poly1305 => options.push("--aead chacha20-poly1305".to_owned()),
    }
    for own in &config.network.addresses {
        options.extend(counterpart(own).map(|address| format!("--address {address}")));
        let follows = own.local.is_ipv4() && own.prefix_len == 31;
        options.extend(own.peer.filter(|_| !follows).map(|_| format!("--peer-address {}", own.local)));
    }
    if config.network.addresses.is_empty() && config.network.up {
        options.push("--up".to_owned());
    }
    options.extend(config.network.mtu.map(|mtu| format!("--mtu {mtu}")));
    options
}

/// The client's address: that of the far end if one was given, else another one of the same network.
fn counterpart(own: &InterfaceAddress) -> Option<IpNet> {
    if let Some(peer) = own.peer {
        return IpNet::new(peer, own.prefix_len).ok();
    }
    let network = IpNet::new(own.local, own.prefix_len).ok()?.trunc();
    let hosts = [Side::Server, Side::Client].map(|side| address(&network, side));
    // The only address of a network of one is none for another host.
    let has_room = network.prefix_len() < network.max_prefix_len();
    hosts.into_iter().find(|host| host.addr() != own.local).filter(|_| has_room)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{KeyFiles, Options};
    use clap::Parser as _;

    const SECRET: &str = "st1psk:the-secret";

    #[derive(clap::Parser)]
    struct Flags {
        #[command(flatten)]
        options: Options,
    }

    fn config(line: &str) -> Config {
        let flags = Flags::try_parse_from(line.split_whitespace()).expect("options");
        Config::new(&flags.options, &|_, _| None, &KeyFiles::from_environment()).expect("a configuration")
    }

    fn client(server: &str, hosts: &[&str]) -> String {
        let hosts: Vec<IpAddr> = hosts.iter().map(|host| host.parse().expect("an address")).collect();
        let text = text(&config(&format!("simpletun -i tun0 -s {server}")), SECRET, &hosts);
        assert!(text.lines().all(|line| line.starts_with('#') || line.starts_with(" echo ")), "a shell takes {text:?}");
        let line = text.lines().find(|line| line.starts_with(" echo")).expect("a command line");
        let line = line.strip_prefix(" echo st1psk:the-secret | simpletun -i tun0 -c ").expect("its beginning");
        line.strip_suffix(" --secret-file -").expect("its end").to_owned()
    }

    #[test]
    fn the_line_mirrors_the_server() {
        for (server, line) in [
            ("", "192.0.2.7"),
            ("--udp -a -p 4000 --mtu 1400", "192.0.2.7:4000 --tap --udp --mtu 1400"),
            ("--address 10.0.0.1/24", "192.0.2.7 --address 10.0.0.2/24"),
            ("--address 10.0.0.2/24", "192.0.2.7 --address 10.0.0.1/24"),
            ("--address 10.0.0.9/24", "192.0.2.7 --address 10.0.0.1/24"),
            ("--address 10.0.0.1/31 --address fd00::1/64", "192.0.2.7 --address 10.0.0.0/31 --address fd00::2/64"),
            ("--address 10.0.0.1 --peer-address 10.9.9.9", "192.0.2.7 --address 10.9.9.9/32 --peer-address 10.0.0.1"),
            ("--up --udp", "192.0.2.7 --udp --up"),
        ] {
            assert_eq!(client(server, &["192.0.2.7"]), line, "{server}");
        }
        assert_eq!(client("", &["2001:db8::7"]), "[2001:db8::7]");
        assert_eq!(client("-p 4000", &["2001:db8::7", "192.0.2.7"]), "[2001:db8::7]:4000");
        assert_eq!(client("-p 4000", &[]), "SERVER:4000");
    }

    #[test]
    fn what_is_left_to_decide_is_said() {
        let said = |line: &str, hosts: &[IpAddr]| text(&config(line), SECRET, hosts).to_string();
        let hosts: Vec<IpAddr> = (1..=3).map(|number| Ipv4Addr::new(192, 0, 2, number).into()).collect();
        let several = said("simpletun -i tun0 -s --address 10.0.0.1/32", &hosts);
        assert!(several.contains("in place of that one: 192.0.2.2, 192.0.2.3\n"), "{several}");
        assert!(several.contains("leaves none for the client"), "{several}");
        assert!(said("simpletun -i tun0 -s", &[]).contains("in place of SERVER"));
    }
}

//! The files of both ends. Pure: what is random comes from the caller, and where the files will be is a name.
//!
//! Each configuration is read again by the daemon's own reader before it is handed out, so that none is made that the
//! daemon does not take.

use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use anyhow::{Result, bail};
use ipnet::IpNet;
use toml::Value;
use zeroize::Zeroizing;

use super::settings::{Addresses, Protection, Settings};
use super::wire::Request;
use crate::config::{Config, ConfigError, KeyFileError, KeySource, LinkLayer, Options, Protocol};
use crate::tunnel::keys::{PrivateKey, PublicKey, SharedSecret};

/// Where the files will be on either host.
pub(super) const DIRECTORY: &str = "/etc/simpletun";

/// What is random about a pair.
pub(super) struct Chance {
    pub(super) client: PrivateKey,
    pub(super) server: PrivateKey,
    /// The pre-shared key of key pairs, or the secret.
    pub(super) secret: SharedSecret,
    /// Bits of the addresses' networks.
    pub(super) ipv4: u64,
    pub(super) ipv6: u64,
}

/// What both configurations are made of, without a private key.
pub(super) struct Material {
    /// The client's, if there are key pairs.
    pub(super) client: Option<PublicKey>,
    /// The server's.
    pub(super) server: Option<PublicKey>,
    /// As in [`Chance`], and so on.
    pub(super) secret: SharedSecret,
    pub(super) ipv4: u64,
    pub(super) ipv6: u64,
}

/// Which end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// Connects.
    Client,
    /// Waits.
    Server,
}

impl Side {
    /// Also the name of its directory.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }

    fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// One end as it is put into place.
pub(super) struct End {
    pub(super) side: Side,
    /// Its own addresses with their networks' length.
    pub(super) addresses: Vec<IpNet>,
    /// The configuration comes first, the secret that both ends have last.
    pub(super) files: Vec<File>,
}

impl End {
    /// What puts its files into place, where its private key is.
    ///
    /// # Errors
    /// None that is known of.
    pub(super) fn request(&self) -> Result<Request> {
        let (Some(configuration), Some(secret)) = (self.files.first(), self.files.last()) else {
            bail!("An end without files")
        };
        let text = |file: &File| file.content.as_str().to_owned();
        Ok(Request::Install { configuration: text(configuration), secret: text(secret) })
    }
}

/// A file of an end.
pub(super) struct File {
    /// Without a directory.
    pub(super) name: String,
    pub(super) content: Zeroizing<String>,
}

/// Client and server.
///
/// # Errors
/// The daemon would not take what has been made.
pub(super) fn both_ends(settings: &Settings, chance: &Chance) -> Result<[End; 2], ConfigError> {
    let mut ends = ends(
        settings,
        &Material {
            client: Some(chance.client.public()),
            server: Some(chance.server.public()),
            secret: chance.secret.clone(),
            ipv4: chance.ipv4,
            ipv6: chance.ipv6,
        },
    );
    for end in &mut ends {
        let private = match end.side {
            Side::Client => &chance.client,
            Side::Server => &chance.server,
        };
        if settings.protection == Protection::Keys {
            end.files.insert(1, key_file(&settings.name, private));
        }
        check(&end.files)?;
    }
    Ok(ends)
}

/// Client and server without their private keys, and unchecked.
pub(super) fn ends(settings: &Settings, material: &Material) -> [End; 2] {
    [Side::Client, Side::Server].map(|side| end(settings, material, side))
}

/// The file of a private key.
pub(super) fn key_file(name: &str, private: &PrivateKey) -> File {
    File { name: format!("{name}.key"), content: line(&private.to_text()) }
}

fn end(settings: &Settings, material: &Material, side: Side) -> End {
    let networks = networks(&settings.addresses, material);
    let own: Vec<IpNet> = networks.iter().map(|network| address(network, side)).collect();
    let peers: Vec<IpNet> = networks.iter().map(|network| address(network, side.other())).collect();
    let file =
        |extension: &str, content: Zeroizing<String>| File { name: format!("{}.{extension}", settings.name), content };
    let files = vec![
        file("toml", configuration(settings, material, side, &own, &peers).into()),
        file(settings.protection.extension(), line(&material.secret.to_text())),
    ];
    End { side, addresses: own, files }
}

/// The text of a key with the end of its line, without a copy that is not wiped.
fn line(key: &str) -> Zeroizing<String> {
    let mut line = Zeroizing::new(String::with_capacity(key.len() + 1));
    line.push_str(key);
    line.push('\n');
    line
}

fn networks(addresses: &Addresses, material: &Material) -> Vec<IpNet> {
    match addresses {
        Addresses::Of(networks) => networks.clone(),
        Addresses::None => Vec::new(),
        Addresses::Random => {
            let ipv4 = Ipv4Addr::from_bits(0x0a80_0000 | (material.ipv4 as u32 & 0x007f_fffc));
            // The global and the subnet identifier of RFC 4193.
            let ipv6 = Ipv6Addr::from_bits(u128::from(0xfd << 56 | material.ipv6 >> 8) << 64);
            let random = [(IpAddr::from(ipv4), 30), (IpAddr::from(ipv6), 64)];
            random.into_iter().filter_map(|(address, len)| IpNet::new(address, len).ok()).collect()
        }
    }
}

/// The server's is the first one for a host: behind the network's own, which a network of two addresses does not have
/// (RFC 3021, RFC 6164).
pub(super) fn address(network: &IpNet, side: Side) -> IpNet {
    let has_own = network.max_prefix_len() - network.prefix_len() > 1;
    let number = u32::from(has_own) + u32::from(side == Side::Client);
    let address = match network.network() {
        IpAddr::V4(first) => Ipv4Addr::from_bits(first.to_bits() | number).into(),
        IpAddr::V6(first) => Ipv6Addr::from_bits(first.to_bits() | u128::from(number)).into(),
    };
    IpNet::new(address, network.prefix_len()).unwrap_or(*network)
}

fn configuration(settings: &Settings, material: &Material, side: Side, own: &[IpNet], peers: &[IpNet]) -> String {
    let Settings { name, server, .. } = settings;
    let (what, other) = match side {
        Side::Client => ("the end that connects", "server"),
        Side::Server => ("the end that waits", "client"),
    };
    let mut text = format!("# Tunnel {name}: {what}. Made by simpletun pair, together with the {other}'s.\n\n");
    protection(&mut text, settings, material, side);
    text.push('\n');
    set(&mut text, "interface", name.as_str());
    if settings.kind == LinkLayer::Tap {
        set(&mut text, "tap", true);
    }
    match settings.protocol {
        Protocol::Tcp => set(&mut text, "tcp", true),
        Protocol::Udp => set(&mut text, "udp", true),
    }
    match side {
        Side::Client => set(&mut text, "connect", server.to_string()),
        Side::Server => {
            set(&mut text, "server", true);
            set(&mut text, "port", i64::from(server.port));
        }
    }
    text.push('\n');
    if own.is_empty() {
        set(&mut text, "up", true);
    } else {
        let peers: Vec<String> = peers.iter().map(|peer| peer.addr().to_string()).collect();
        text.push_str(&format!("# The {other} has {}.\n", peers.join(" and ")));
        set(&mut text, "address", texts(own));
    }
    let routes = match side {
        Side::Client => &settings.behind_server,
        Side::Server => &settings.behind_client,
    };
    if !routes.is_empty() {
        text.push_str(&format!("# Behind the {other}.\n"));
        set(&mut text, "route", texts(routes));
    }
    text
}

fn protection(text: &mut String, settings: &Settings, material: &Material, side: Side) {
    let path = |extension: &str| format!("{DIRECTORY}/{}.{extension}", settings.name);
    match settings.protection {
        Protection::Keys => {
            let peer = match side {
                Side::Client => &material.server,
                Side::Server => &material.client,
            };
            text.push_str(
                "# Encrypted and authenticated by the keys of both ends, and by a secret that both hold beside.\n",
            );
            set(text, "security", "keys");
            set(text, "private-key-file", path("key"));
            set(text, "peer-public-key", peer.iter().map(ToString::to_string).collect::<Vec<_>>());
            set(text, "psk-file", path("psk"));
        }
        Protection::Secret => {
            text.push_str("# Encrypted and authenticated by one secret that both ends hold.\n");
            set(text, "security", "secret");
            set(text, "secret-file", vec![path("secret")]);
        }
    }
}

/// Writes a key; the value is quoted as TOML wants it, whatever is in it.
pub(super) fn set(text: &mut String, key: &str, value: impl Into<Value>) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "{key} = {}", value.into());
}

fn texts(networks: &[IpNet]) -> Vec<String> {
    networks.iter().map(IpNet::to_string).collect()
}

/// Reads the files of an end as the daemon will.
///
/// # Errors
/// It would not take them.
pub(super) fn check(files: &[File]) -> Result<(), ConfigError> {
    let Some(file) = files.first() else { return Ok(()) };
    let options = Options::from_toml(&file.content, &file.name)?;
    Config::new(&options, &|_, _| None, &Made(files)).map(drop)
}

/// The files as if they were in their place.
struct Made<'a>(&'a [File]);

impl KeySource for Made<'_> {
    fn read(&self, path: &str) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
        let name = path.strip_prefix(DIRECTORY).and_then(|name| name.strip_prefix('/'));
        let found = self.0.iter().find(|file| Some(file.name.as_str()) == name);
        let found = found.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        Ok(Zeroizing::new(found.content.as_bytes().to_vec()))
    }

    fn credential(&self, _: &str) -> Option<String> {
        None
    }

    fn state_directory(&self) -> Option<PathBuf> {
        None
    }
}

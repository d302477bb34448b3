//! `pair USER@HOST`: sets up both ends, this host's and that of a server that ssh(1) reaches, and starts them.
//!
//! The same program works at either end (`end`) and makes the private key there; here is only the order of the steps.
//! Either all of them are done or what was done is undone, at both ends.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::unistd::geteuid;

use super::files::{DIRECTORY, Material, Side, ends};
use super::next::{ends_text, forwarding};
use super::settings::{Protection, Settings};
use super::wire::{Answer, Interrupt, Peer, Request};
use super::{Draw, print};
use crate::config::ConfigError;
use crate::tunnel::keys::PublicKey;

/// How long the link may take to come up once both ends run, in seconds.
const WAIT_SECONDS: u32 = 30;

/// What the other host is asked to run.
const FAR_COMMAND: &str = "simpletun pair-end";

/// What this host is called.
const HERE: &str = "this host";

/// The name of a tunnel to a host that has an address and no name.
const NAMELESS: &str = "st-peer";

/// Devices whose names begin so are left alone by networkd and NetworkManager, which the package tells them.
const PREFIX: &str = "st-";

/// Longest part of a host's name in that of a tunnel, which is a device's, too.
const MAX_LABEL_LEN: usize = 12;

/// A host as ssh takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Destination {
    /// `HOST`, `USER@HOST` or `ssh://[USER@]HOST[:PORT]`.
    pub(super) text: String,
    /// The host in it.
    pub(super) host: String,
}

impl Destination {
    /// # Errors
    /// It names no host, or ssh would take it for an option.
    pub(super) fn new(text: &str) -> Result<Self, ConfigError> {
        let rest = text.strip_prefix("ssh://");
        let host = rest.unwrap_or(text).rsplit('@').next().unwrap_or_default();
        let host = match (rest, host.strip_prefix('[').and_then(|host| host.split_once(']'))) {
            (_, Some((host, _))) => host,
            (Some(_), None) => host.split([':', '/']).next().unwrap_or_default(),
            (None, None) => host,
        };
        let is_usable = |part: &str| {
            !part.is_empty() && !part.starts_with('-') && !part.contains(|c: char| c.is_whitespace() || c.is_control())
        };
        if !is_usable(text) || !is_usable(host) {
            return Err(ConfigError::value("to", text, "it names no host; write it as for ssh, such as root@gateway"));
        }
        Ok(Self { text: text.to_owned(), host: host.to_owned() })
    }

    /// A name for a tunnel to this host.
    pub(super) fn tunnel_name(&self) -> String {
        let is_address = self.host.contains(':') || self.host.chars().all(|c| c.is_ascii_digit() || c == '.');
        let label = self.host.split('.').next().unwrap_or_default();
        let label: String =
            label.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(MAX_LABEL_LEN).collect();
        if is_address || label.is_empty() { NAMELESS.to_owned() } else { format!("{PREFIX}{}", label.to_lowercase()) }
    }

    /// The host behind a name that ssh's configuration gives it; as it was written if that is not known.
    pub(super) fn address(&self, ssh: &[String]) -> String {
        let [program, arguments @ ..] = ssh else { return self.host.clone() };
        // Another program may do something else when it is asked.
        if Path::new(program).file_name().is_none_or(|name| name != "ssh") {
            return self.host.clone();
        }
        let mut command = Command::new(program);
        command.args(arguments).args(["-G", &self.text]).stdin(Stdio::null()).stderr(Stdio::null());
        let said = command.output().ok().filter(|output| output.status.success()).map(|output| output.stdout);
        let said = String::from_utf8_lossy(&said.unwrap_or_default()).into_owned();
        let name = said.lines().find_map(|line| line.strip_prefix("hostname "));
        name.map_or_else(|| self.host.clone(), str::to_owned)
    }
}

/// Does it all, and says what has been done.
///
/// # Errors
/// A step has failed: which one, and how the ends are now.
pub(super) fn run(settings: &Settings, to: &Destination, ssh: &[String], draw: Draw) -> Result<()> {
    let interrupt = Interrupt::new()?;
    let mut near = Peer::start(HERE, near_command()?, &interrupt)?;
    let mut far = Peer::start(&to.text, far_command(to, ssh)?, &interrupt)?;
    match steps(settings, &mut near, &mut far, draw) {
        Ok(text) => print(&text),
        Err(error) => {
            let (here, there) = (near.undo(), far.undo());
            Err(anyhow!("{error:#}; the tunnel {} is not set up: {here}, {there}", settings.name))
        }
    }
}

fn near_command() -> Result<Command> {
    let program = std::env::current_exe().context("Cannot find this program")?;
    let mut command = if geteuid().is_root() {
        Command::new(program)
    } else {
        // It may ask for the password, on the terminal.
        let mut sudo = Command::new("sudo");
        sudo.arg(program);
        sudo
    };
    command.arg("pair-end");
    Ok(command)
}

fn far_command(to: &Destination, ssh: &[String]) -> Result<Command> {
    let [program, arguments @ ..] = ssh else { bail!("Option ssh names no program") };
    let mut command = Command::new(program);
    // No terminal there, which would put its echo among the answers.
    command.args(arguments).arg("-T").arg(&to.text).arg(FAR_COMMAND);
    Ok(command)
}

/// The server is up before the client tries to reach it, and neither stays before both are there.
fn steps(settings: &Settings, near: &mut Peer, far: &mut Peer, draw: Draw) -> Result<String> {
    let client = prepared(near, settings)?;
    let server = prepared(far, settings)?;
    let material = Material { client, server, secret: draw.secret, ipv4: draw.ipv4, ipv6: draw.ipv6 };
    let ends = ends(settings, &material);
    for (peer, side) in [(&mut *far, Side::Server), (&mut *near, Side::Client)] {
        let end = ends.iter().find(|end| end.side == side).context("An end is missing")?;
        peer.order(&end.request()?)?;
    }
    print(&format!("The files of tunnel {} are in {DIRECTORY} of both ends\n", settings.name))?;
    far.order(&Request::Start)?;
    near.order(&Request::Start)?;
    near.order(&Request::Wait { seconds: WAIT_SECONDS }).with_context(|| {
        format!(
            "Both ends run and do not reach each other: the server has to let {} port {} in",
            super::next::protocol(settings),
            settings.server.port
        )
    })?;
    // Not one end without the other.
    far.ignore_signals();
    near.ignore_signals();
    far.order(&Request::Keep)?;
    near.order(&Request::Keep)?;
    Ok(format!(
        "The tunnel {name} is up, and comes with the boot of either end (simpletun@{name}):\n{ends}{forwarding}\
         simpletun check {name} says how it is.\n",
        name = settings.name,
        ends = ends_text(settings, &ends),
        forwarding = forwarding(settings),
    ))
}

/// The public key of an end, if there are key pairs.
fn prepared(peer: &mut Peer, settings: &Settings) -> Result<Option<PublicKey>> {
    let (name, protection) = (settings.name.clone(), settings.protection);
    let Answer::Key(key) = peer.ask(&Request::Prepare { name, protection })? else {
        bail!("An end answers another question");
    };
    let key = key.map(|key| PublicKey::parse(&key)).transpose().map_err(|_| anyhow!("An end has made no key"))?;
    if key.is_some() != (protection == Protection::Keys) {
        bail!("An end has made no key");
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_one_of_ssh() {
        for (text, host, name) in [
            ("root@gateway.example.net", "gateway.example.net", "st-gateway"),
            ("gw", "gw", "st-gw"),
            ("a@b@Host_1.lan", "Host_1.lan", "st-host1"),
            ("ssh://root@gateway.example.net:2222", "gateway.example.net", "st-gateway"),
            ("ssh://[2001:db8::1]:22", "2001:db8::1", "st-peer"),
            ("root@192.0.2.1", "192.0.2.1", "st-peer"),
            ("root@2001:db8::1", "2001:db8::1", "st-peer"),
            ("root@a-very-long-name-of-a-host", "a-very-long-name-of-a-host", "st-a-very-long-n"),
        ] {
            let destination = Destination::new(text).expect(text);
            assert_eq!(destination.host, host, "{text}");
            let tunnel = destination.tunnel_name();
            assert!(name.starts_with(&tunnel) && tunnel.len() > 3 && tunnel.len() <= 15, "{text}: {tunnel}");
        }
        for text in ["", "-oProxyCommand=x", "root@", "root@-x", "a b", "root@a\nb", "ssh://"] {
            assert!(Destination::new(text).is_err(), "{text:?}");
        }
    }
}

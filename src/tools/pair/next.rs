//! What is said about a new pair: what it is, and the commands that put it into place. Pure; no key is in it.

use std::net::IpAddr;
use std::path::Path;

use super::files::{DIRECTORY, End, Side};
use super::settings::Settings;
use crate::config::{Host, Protocol};

/// The first port that takes no right of its own (`net.ipv4.ip_unprivileged_port_start`).
const UNPRIVILEGED: u16 = 1024;

/// The text for standard output.
pub(super) fn steps(settings: &Settings, ends: &[End], directory: &Path) -> String {
    let name = &settings.name;
    let mut text = format!("{} has the configurations and keys of tunnel {name}:\n", directory.display());
    text += &ends_text(settings, ends);
    text += &format!(
        "\nOn the client, if that is this host, as root:\n  \
           install -o simpletun -m 600 {client} {DIRECTORY}/\n  \
           systemctl enable --now simpletun@{name}\n\
         To the server, which has to let {protocol} port {port} in:\n  \
           scp -p {server} {to}:{DIRECTORY}/\n  \
           ssh {at} 'chown simpletun {DIRECTORY}/{name}.* && systemctl enable --now simpletun@{name}'\n",
        client = source(directory, Side::Client),
        server = source(directory, Side::Server),
        protocol = protocol(settings),
        port = settings.server.port,
        to = shell_words::quote(&format!("root@{}", host(settings, "[", "]"))),
        at = shell_words::quote(&format!("root@{}", host(settings, "", ""))),
    );
    if settings.server.port < UNPRIVILEGED {
        text += "The service may not use a port below 1024 by itself; simpletun@.service says what to add.\n";
    }
    text += &forwarding(settings);
    let peer = ends.iter().find(|end| end.side == Side::Server).and_then(|end| addresses(end).into_iter().next());
    let ping = peer.map(|peer| format!("  ping {peer}\n")).unwrap_or_default();
    text += &format!("Then, on the client:\n  simpletun check {name}\n{ping}");
    text += &format!("Whoever has {} has the keys; remove it once they are in place.\n", directory.display());
    text
}

/// As firewalls call it.
pub(super) fn protocol(settings: &Settings) -> &'static str {
    match settings.protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
    }
}

/// What either end is, each in a line.
pub(super) fn ends_text(settings: &Settings, ends: &[End]) -> String {
    let mut text = String::new();
    for end in ends {
        let link = match end.side {
            Side::Client => format!("connects to {}", settings.server),
            Side::Server => format!("waits on {} port {}", protocol(settings), settings.server.port),
        };
        let addresses = addresses(end).join(" and ");
        let addresses = if addresses.is_empty() { "no address".to_owned() } else { addresses };
        text += &format!("  {}: {link}, {addresses}\n", end.side.name());
    }
    text
}

/// What hosts with networks behind them have to do.
pub(super) fn forwarding(settings: &Settings) -> String {
    let mut text = String::new();
    for (side, networks) in [(Side::Client, &settings.behind_client), (Side::Server, &settings.behind_server)] {
        if !networks.is_empty() {
            let has = |is_ipv4| networks.iter().any(|network| network.addr().is_ipv4() == is_ipv4);
            let keys = [(has(true), "net.ipv4.ip_forward=1"), (has(false), "net.ipv6.conf.all.forwarding=1")];
            let keys: Vec<&str> = keys.into_iter().filter(|(needed, _)| *needed).map(|(_, key)| key).collect();
            text += &format!("The {} has to forward:\n  sysctl -w {}\n", side.name(), keys.join(" "));
        }
    }
    text
}

fn addresses(end: &End) -> Vec<String> {
    end.addresses.iter().map(|own| own.addr().to_string()).collect()
}

/// The files of an end, as a shell finds them and no program takes them for an option or a host.
fn source(directory: &Path, side: Side) -> String {
    let directory = directory.to_string_lossy();
    let is_misread = directory.starts_with('-') || directory.contains(':') && directory.starts_with(|c| c != '/');
    let directory = if is_misread { format!("./{directory}") } else { directory.into_owned() };
    format!("{}/{}/*", shell_words::quote(directory.trim_end_matches('/')), side.name())
}

/// The server without its port, an IPv6 address between the marks.
fn host(settings: &Settings, open: &str, close: &str) -> String {
    match &settings.server.host {
        Host::Address(IpAddr::V6(address)) => format!("{open}{address}{close}"),
        Host::Name(name) if name.contains(':') => format!("{open}{name}{close}"),
        host => host.to_string(),
    }
}

//! The firewall of this host: whether it lets the link's packets in and out. What firewalls on the way do nobody can see
//! from here.

use std::io;
use std::path::Path;

use super::ruleset::{Obstacle, Packet, obstacles};
use super::subject::Subject;
use super::{Finding, command};
use crate::config::{Access, Config, Endpoint, Host, Role};

const CHECK: &str = "firewall";

/// The rules of nftables, or of iptables where nft is missing.
pub fn check(subject: &Subject) -> Vec<Finding> {
    let Some(config) = &subject.config else { return Vec::new() };
    vec![match command::output("nft", &["-j", "list", "ruleset"]) {
        Ok(text) => judge_ruleset(config, &text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => match command::output("iptables", &["-S", "INPUT"]) {
            Ok(text) => judge_iptables(config, &text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Finding::note(CHECK, "neither nft nor iptables is installed, so nothing is known of it")
            }
            Err(error) => unknown(subject, &error),
        },
        Err(error) => unknown(subject, &error),
    }]
}

fn unknown(subject: &Subject, error: &io::Error) -> Finding {
    let finding = Finding::note(CHECK, format!("its rules cannot be read ({error})"));
    match subject.own.uid {
        0 => finding,
        _ => finding.with_cure(format!("sudo simpletun doctor {}", subject.shown())),
    }
}

/// What the link sends and gets: a server is spoken to, a client speaks first.
fn packets(config: &Config) -> Vec<Packet> {
    let protocol = config.link.protocol.to_string();
    let packet = |hook, port, state, is_ipv4| Packet { hook, protocol: protocol.clone(), port, state, is_ipv4 };
    let family = |endpoint: &Endpoint| match endpoint.host {
        Host::Address(address) => Some(address.is_ipv4()),
        Host::Name(_) => None,
    };
    match &config.link.role {
        Role::Connect(endpoint) => {
            let is_ipv4 = family(endpoint);
            vec![packet("output", Some(endpoint.port), "new", is_ipv4), packet("input", None, "established", is_ipv4)]
        }
        Role::Listen(access) => {
            let is_ipv4 = match access {
                Access::Remote { endpoint, .. } => family(endpoint),
                _ => config.link.bind.address.map(|address| address.is_ipv4()),
            };
            vec![
                packet("input", Some(config.link.bind.port), "new", is_ipv4),
                packet("output", None, "established", is_ipv4),
            ]
        }
    }
}

fn judge_ruleset(config: &Config, text: &str) -> Finding {
    let mut uncertain = None;
    for packet in packets(config) {
        let found = match obstacles(text, &packet) {
            Ok(found) => found,
            Err(error) => return Finding::note(CHECK, format!("the answer of nft cannot be understood: {error}")),
        };
        for obstacle in found {
            if !obstacle.is_uncertain {
                return obstructed(&packet, &obstacle);
            }
            uncertain.get_or_insert((packet.clone(), obstacle));
        }
    }
    match uncertain {
        None => Finding::ok(CHECK, "no rule of this host is in the way"),
        Some((packet, Obstacle { chain, .. })) => Finding::note(
            CHECK,
            format!(
                "the chain {chain} drops by default, and whether a rule of it accepts {} is not clear",
                shown(&packet)
            ),
        )
        .with_cure(format!("nft list chain {chain}")),
    }
}

fn shown(Packet { protocol, port, hook, .. }: &Packet) -> String {
    match (port, *hook) {
        (Some(port), "input") => format!("{protocol} port {port}"),
        (Some(port), _) => format!("what goes to {protocol} port {port}"),
        (None, _) => format!("answers over {protocol}"),
    }
}

fn obstructed(packet: &Packet, Obstacle { chain, is_policy, .. }: &Obstacle) -> Finding {
    let shown = shown(packet);
    let found = if *is_policy {
        format!("the chain {chain} drops by default and no rule of it accepts {shown}")
    } else {
        format!("a rule of the chain {chain} drops {shown}")
    };
    let admits = match packet.port {
        Some(port) => format!("{} dport {port}", packet.protocol),
        None => "ct state established,related".to_owned(),
    };
    // Behind all rules, or before the one that drops.
    let verb = if *is_policy { "add" } else { "insert" };
    let by_nft = format!("nft {verb} rule {chain} {admits} accept");
    let manager = packet.port.filter(|_| packet.hook == "input").and_then(|port| by_manager(port, &packet.protocol));
    Finding::warning(CHECK, found, manager.unwrap_or(by_nft))
}

/// Programs that write the rules themselves would write them again.
fn by_manager(port: u16, protocol: &str) -> Option<String> {
    if Path::new("/run/firewalld").exists() && command::output("firewall-cmd", &["--state"]).is_ok() {
        let cure = format!("firewall-cmd --permanent --add-port={port}/{protocol} && firewall-cmd --reload");
        return Some(cure);
    }
    let settings = std::fs::read_to_string("/etc/ufw/ufw.conf").unwrap_or_default();
    settings.lines().any(|line| line.trim() == "ENABLED=yes").then(|| format!("ufw allow {port}/{protocol}"))
}

fn judge_iptables(config: &Config, text: &str) -> Finding {
    let (port, protocol) = (config.link.bind.port, config.link.protocol);
    let is_closed = text.lines().any(|line| line == "-P INPUT DROP" || line == "-A INPUT -j DROP");
    let admits = |line: &str| line.contains(&format!("--dport {port} ")) && line.ends_with("-j ACCEPT");
    if !is_closed || config.link.role.is_client() || text.lines().any(admits) {
        return Finding::ok(CHECK, "no rule of iptables is known to be in the way");
    }
    Finding::warning(
        CHECK,
        format!("the chain INPUT of iptables drops by default and no rule of it names {protocol} port {port}"),
        format!("iptables -I INPUT -p {protocol} --dport {port} -j ACCEPT"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::KeyFiles;
    use crate::tools::doctor::Verdict;

    fn config(line: &str) -> Config {
        let arguments = format!("simpletun -i tun3 {line}");
        let cli = crate::cli::Cli::from_arguments(arguments.split_whitespace()).unwrap();
        Config::new(&cli.options, &|_, _| None, &KeyFiles::from_environment()).unwrap()
    }

    fn chain(hook: &str) -> String {
        format!(
            r#"{{"nftables":[{{"chain":{{"family":"inet","table":"f","name":"c","hook":"{hook}","policy":"drop"}}}}]}}"#
        )
    }

    #[test]
    fn a_closed_chain_is_opened_for_what_the_role_needs() {
        for (line, hook, cure) in [
            ("-s --udp", "input", "nft add rule inet f c udp dport 55555 accept"),
            ("-s --udp", "output", "nft add rule inet f c ct state established,related accept"),
            ("-c 192.0.2.1", "output", "nft add rule inet f c tcp dport 55555 accept"),
            ("-c 192.0.2.1", "input", "nft add rule inet f c ct state established,related accept"),
        ] {
            let finding = judge_ruleset(&config(line), &chain(hook));
            assert_eq!((finding.verdict, finding.cure.as_deref()), (Verdict::Warning, Some(cure)));
        }
        assert_eq!(judge_ruleset(&config("-s"), &chain("forward")).verdict, Verdict::Ok);
        assert_eq!(judge_ruleset(&config("-s"), "?").verdict, Verdict::Note);
    }

    #[test]
    fn iptables_is_read_line_by_line() {
        let closed = "-P INPUT DROP\n-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n";
        let open = format!("{closed}-A INPUT -p tcp -m tcp --dport 55555 -j ACCEPT\n");
        let judged = |line: &str, text: &str| judge_iptables(&config(line), text).verdict;
        assert_eq!(judged("-s", closed), Verdict::Warning);
        assert_eq!((judged("-s", &open), judged("-c 192.0.2.1", closed)), (Verdict::Ok, Verdict::Ok));
    }
}

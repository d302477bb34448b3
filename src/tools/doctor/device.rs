//! The device: whether it is there, of the right kind, free, and left alone by other managers of the network.

use std::fs;
use std::path::Path;

use super::subject::{Account, Subject};
use super::{Finding, command};
use crate::config::Config;
use crate::device::holder as device_holder;
use crate::device::netlink::{Link, Netlink, TunDevice};
use crate::holder::Holder;

const CHECK: &str = "device";

/// What is known of the device.
struct Facts {
    link: Option<Link>,
    tun: Option<TunDevice>,
    is_running: bool,
    /// Whoever starts the daemon may do anything.
    has_rights: bool,
    account: Account,
}

/// The device itself, who holds it, its bridge, and who else takes it for theirs.
pub fn check(subject: &Subject) -> Vec<Finding> {
    let (Some(config), Some(name)) = (&subject.config, subject.device()) else { return Vec::new() };
    let Ok(mut netlink) = Netlink::open() else { return Vec::new() };
    let tun = netlink.tun_devices().unwrap_or_default().into_iter().find(|device| device.link.name == name);
    let account = subject.account();
    let facts = Facts {
        link: netlink.link(name).ok(),
        tun,
        is_running: subject.running.is_some(),
        has_rights: account.uid == 0 || subject.unit.as_ref().is_some_and(|unit| unit.has("cap_net_admin")),
        account,
    };
    let mut findings = vec![judge(name, config, &facts)];
    let holder = device_holder::find(name);
    let helper_of = |holder: &Holder| parent(holder.pid);
    if facts.tun.is_some() {
        let is_ours = holder.as_ref().is_some_and(|it| Some(it.pid) == subject.pid() || helper_of(it) == subject.pid());
        findings.push(judge_holder(name, holder.as_ref(), is_ours, &facts, subject.own.uid == 0));
    }
    if let Some(bridge) = config.network.bridge.as_ref().filter(|_| config.network.lan_ports.is_empty()) {
        let is_right = netlink.link(bridge.as_str()).ok().map(|link| is_bridge(&link));
        findings.push(judge_bridge(bridge.as_str(), is_right));
    }
    for port in &config.network.lan_ports {
        findings.push(judge_lan_port(port.as_str(), netlink.link(port.as_str()).is_ok()));
    }
    if let Some(output) = config.link.bind_device.as_deref().filter(|output| netlink.link(output).is_err()) {
        let found = format!("the interface {output} of bind-device does not exist");
        findings.push(Finding::fault("bind-device", found, "ip -br link shows those that do"));
    }
    findings.extend(managers(name, facts.link.as_ref().map(|link| link.index)));
    findings
}

fn judge(name: &str, config: &Config, facts: &Facts) -> Finding {
    let wanted = config.device.kind;
    let Some(link) = &facts.link else {
        return Finding::ok(CHECK, format!("{name} does not exist yet and will be made ({wanted})"));
    };
    let Some(tun) = &facts.tun else {
        let free = format!("ip link set dev {name} down && ip link set dev {name} name {name:.11}-old");
        return if is_bridge(link) {
            let found = format!("{name} is a bridge: the tunnel takes a tap of another name with bridge = \"{name}\"");
            Finding::fault(CHECK, found, format!("simpletun … --tap --interface st-{name:.12} --bridge {name}"))
        } else {
            let kind = link.kind.as_deref().unwrap_or("network interface");
            let found = format!("{name} is a {kind} and no tun or tap: take another name for the tunnel's, or for it");
            Finding::fault(CHECK, found, free)
        };
    };
    let make_anew = || {
        let dev = format!("simpletun rmtun --dev {name} && simpletun mktun --dev {name} --dev-type {wanted}");
        format!("{dev} --user {}", facts.account.name)
    };
    if tun.layer != wanted {
        let found = format!("{name} is a {} and the tunnel wants a {wanted}", tun.layer);
        return Finding::fault(CHECK, found, make_anew());
    }
    if !facts.has_rights && !facts.is_running && !super::machine::belongs(tun, &facts.account) {
        let found = format!("{name} belongs to {} and not to {}", owners(tun), facts.account.name);
        return Finding::fault(CHECK, found, make_anew());
    }
    if facts.is_running && !link.is_up {
        let cure = format!("ip link set dev {name} up");
        return Finding::fault(CHECK, format!("{name} is down, so that no packet passes"), cure);
    }
    let mut found = format!("{name} is a {wanted}");
    found.push_str(if tun.persistent { ", persistent" } else { "" });
    found.push_str(if tun.multi_queue { ", with several queues" } else { "" });
    found.push_str(if link.is_up { ", up" } else { ", down" });
    found.push_str(if link.is_up && !link.has_carrier { ", without carrier" } else { "" });
    if tun.owner.is_some() || tun.group.is_some() {
        found = format!("{found}, of {}", owners(tun));
    }
    Finding::ok(CHECK, found)
}

fn owners(tun: &TunDevice) -> String {
    let user = |uid: u32| Account::named(&uid.to_string()).map_or_else(|| format!("uid {uid}"), |user| user.name);
    match (tun.owner, tun.group) {
        (Some(uid), Some(gid)) => format!("{} and group {gid}", user(uid)),
        (Some(uid), None) => user(uid),
        (None, Some(gid)) => format!("group {gid}"),
        (None, None) => "root".to_owned(),
    }
}

fn judge_holder(name: &str, holder: Option<&Holder>, is_ours: bool, facts: &Facts, is_root: bool) -> Finding {
    const CHECK: &str = "holder";
    let has_carrier = facts.link.as_ref().is_some_and(|link| link.has_carrier);
    match holder {
        Some(holder) if is_ours => Finding::ok(CHECK, format!("{name} is held by this tunnel: {holder}")),
        // Each program has a queue of its own then.
        Some(holder) if facts.tun.as_ref().is_some_and(|tun| tun.multi_queue) => {
            Finding::note(CHECK, format!("{name} has several queues, one of them held by {holder}"))
        }
        Some(holder) => Finding::fault(CHECK, format!("{name} is in use by {holder}"), end_of(holder.pid)),
        None if is_root || facts.is_running => Finding::ok(CHECK, format!("nobody holds {name}")),
        None if has_carrier => Finding::note(CHECK, format!("{name} is in use, by whom root may see"))
            .with_cure(format!("sudo grep -l iff:.{name} /proc/*/fdinfo/*")),
        None => Finding::ok(CHECK, format!("nobody is seen to hold {name}")),
    }
}

/// The command that ends a process: its service, if it is one.
pub fn end_of(pid: u32) -> String {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    match service(&groups) {
        Some(unit) => format!("systemctl stop {}", shell_words::quote(unit)),
        None => format!("kill {pid}"),
    }
}

/// The service of the system that a process belongs to, by its control groups. Below those of a user's session names are
/// that user's choice.
fn service(groups: &str) -> Option<&str> {
    // Each line has a number, controllers and a path (cgroups(7)).
    let paths = groups.lines().filter_map(|line| line.splitn(3, ':').nth(2)?.strip_prefix("/system.slice/"));
    paths.filter_map(|path| path.rsplit('/').next()).find(|unit| unit.ends_with(".service"))
}

fn parent(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

fn is_bridge(link: &Link) -> bool {
    link.kind.as_deref() == Some("bridge")
}

/// `is_right` is whether what has the name is a bridge.
fn judge_bridge(bridge: &str, is_right: Option<bool>) -> Finding {
    const CHECK: &str = "bridge";
    match is_right {
        Some(true) => Finding::ok(CHECK, format!("{bridge} is there")),
        Some(false) => {
            Finding::fault(CHECK, format!("{bridge} is no bridge"), "ip link show type bridge lists those that are")
        }
        None => Finding::fault(
            CHECK,
            format!("{bridge} does not exist"),
            format!("ip link add {bridge} type bridge && ip link set {bridge} up"),
        ),
    }
}

/// A device that becomes a port of the bridge that is made.
fn judge_lan_port(port: &str, exists: bool) -> Finding {
    const CHECK: &str = "bridge";
    if exists {
        return Finding::ok(CHECK, format!("{port} is there and becomes a port"));
    }
    let found = format!("{port} of bridge-create does not exist");
    Finding::fault(CHECK, found, "ip -br link shows those that do")
}

/// What systemd-networkd and NetworkManager think of the device.
fn managers(name: &str, index: Option<u32>) -> Vec<Finding> {
    let networkd = Path::new("/run/systemd/netif/links").exists().then(|| {
        let link = index.and_then(|index| fs::read_to_string(format!("/run/systemd/netif/links/{index}")).ok());
        judge_networkd(name, index.is_some(), link.as_deref())
    });
    let manager = Path::new("/run/NetworkManager").exists().then(|| {
        let states = command::output("nmcli", &["--terse", "--fields", "DEVICE,STATE", "device"]);
        judge_network_manager(name, states.ok().as_deref())
    });
    let findings: Vec<Finding> = networkd.into_iter().chain(manager).collect();
    if findings.is_empty() {
        vec![Finding::ok("managers", "neither systemd-networkd nor NetworkManager")]
    } else {
        findings
    }
}

/// The name by which the package's own rules know devices of tunnels.
fn is_known_name(name: &str) -> bool {
    name.starts_with("st-")
}

fn judge_networkd(name: &str, exists: bool, link: Option<&str>) -> Finding {
    const CHECK: &str = "networkd";
    let file = format!("/etc/systemd/network/10-simpletun-{name}.network");
    let cure = format!(
        "printf '[Match]\\nName={name}\\n\\n[Link]\\nUnmanaged=yes\\n' > {file} && networkctl reload && \
         networkctl reconfigure {name}"
    );
    let state = link.and_then(|text| text.lines().find_map(|line| line.strip_prefix("ADMIN_STATE=")));
    match state {
        Some("unmanaged") => Finding::ok(CHECK, format!("systemd-networkd leaves {name} alone")),
        Some(state) => Finding::warning(
            CHECK,
            format!("systemd-networkd manages {name} ({state}) and takes away what it has not configured itself"),
            cure,
        ),
        None if exists || is_known_name(name) => Finding::ok(CHECK, format!("systemd-networkd says nothing of {name}")),
        None => {
            let cure = cure.split(" && networkctl reconfigure").next().unwrap_or_default().to_owned();
            Finding::note(CHECK, format!("systemd-networkd runs, and a file of its own may match {name}"))
                .with_cure(cure)
        }
    }
}

fn judge_network_manager(name: &str, states: Option<&str>) -> Finding {
    const CHECK: &str = "NetworkManager";
    let Some(states) = states else { return Finding::ok(CHECK, "NetworkManager does not run") };
    let state = states.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let file = "/etc/NetworkManager/conf.d/simpletun.conf";
    let cure = format!(
        "printf '[device-{name}]\\nmatch-device=interface-name:{name}\\nmanaged=0\\n' >> {file} && \
         nmcli general reload conf"
    );
    match state {
        Some("unmanaged") => Finding::ok(CHECK, format!("NetworkManager leaves {name} alone")),
        // One that another program has made and configured; it is looked at and not touched.
        Some(state) if state.contains("externally") => {
            Finding::ok(CHECK, format!("NetworkManager sees {name} and does not touch it"))
        }
        Some(state) => Finding::warning(
            CHECK,
            format!("NetworkManager manages {name} ({state}) and may take its addresses away"),
            format!("{cure} && nmcli device set {name} managed no"),
        ),
        None if is_known_name(name) => Finding::ok(CHECK, format!("NetworkManager does not know {name} yet")),
        None => {
            Finding::note(CHECK, format!("NetworkManager runs and may take {name} once it is there")).with_cure(cure)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::doctor::Verdict;

    #[test]
    fn networkd_is_told_to_leave_the_device_alone() {
        let judged = |exists, link| judge_networkd("tun3", exists, link);
        assert_eq!(judged(true, Some("ADMIN_STATE=unmanaged\nOPER_STATE=up\n")).verdict, Verdict::Ok);
        let finding = judged(true, Some("ADMIN_STATE=configured\n"));
        assert_eq!(finding.verdict, Verdict::Warning);
        assert!(finding.cure.unwrap().contains("> /etc/systemd/network/10-simpletun-tun3.network"));
        assert_eq!(judged(true, None).verdict, Verdict::Ok);
        assert_eq!(judged(false, None).verdict, Verdict::Note);
        assert_eq!(judge_networkd("st-a", false, None).verdict, Verdict::Ok);
    }

    #[test]
    fn network_manager_is_told_to_leave_the_device_alone() {
        let judged = |states| judge_network_manager("tun3", states);
        assert_eq!(judged(None).verdict, Verdict::Ok);
        assert_eq!(judged(Some("tun33:connected\ntun3:unmanaged\n")).verdict, Verdict::Ok);
        assert_eq!(judged(Some("tun3:connected (externally)\n")).verdict, Verdict::Ok);
        assert_eq!(judged(Some("tun3:disconnected\n")).verdict, Verdict::Warning);
        assert_eq!(judged(Some("eth0:connected\n")).verdict, Verdict::Note);
    }

    #[test]
    fn a_process_is_ended_with_its_service_if_that_is_the_system_s() {
        assert_eq!(service("0::/system.slice/system-a.slice/a@b.service\n"), Some("a@b.service"));
        let of_session = "0::/user.slice/user-7.slice/user@7.service/";
        for text in ["x;y.service", "system.slice/x.service"].map(|path| format!("{of_session}{path}")) {
            assert_eq!(service(&text), None, "{text}");
        }
        for text in ["0::/", "", "0::/system.slice/a.scope"] {
            assert_eq!(service(text), None, "{text}");
        }
    }

    #[test]
    fn a_bridge_has_to_be_there_and_one() {
        assert_eq!(judge_bridge("br0", Some(true)).verdict, Verdict::Ok);
        assert_eq!(judge_bridge("br0", Some(false)).verdict, Verdict::Fault);
        assert!(judge_bridge("br0", None).cure.unwrap().starts_with("ip link add br0 type bridge"));
    }
}

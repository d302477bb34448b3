//! The machine: the tun driver and its device node, the rights that are there, and what a container leaves of them.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use caps::{CapSet, Capability};
use nix::libc;
use nix::sys::resource::{Resource, getrlimit};

use super::Finding;
use super::subject::{Account, Subject, read_line};
use crate::config::Config;
use crate::device::ioctl::{self, CLONE_DEVICE};
use crate::device::netlink::{Netlink, TunDevice};

/// Numbers of the clone device (`Documentation/admin-guide/devices.txt`).
const CLONE_DEVICE_NUMBERS: (u64, u64) = (10, 200);

/// Descriptors that a daemon may need: those of its peers and watchers, at their caps.
const DESCRIPTORS: u64 = 256;

/// What keeps this process apart from the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Container {
    /// Its kind, such as `docker` or `lxc`; empty if it has none.
    kind: String,
    /// Root here is somebody else outside.
    is_unprivileged: bool,
}

impl Container {
    fn here() -> Self {
        let by_file = |path: &str, kind: &str| Path::new(path).exists().then(|| kind.to_owned());
        let kind = read_line("/run/systemd/container")
            .ok()
            .or_else(|| by_file("/.dockerenv", "docker"))
            .or_else(|| by_file("/run/.containerenv", "podman"))
            .or_else(of_first_process)
            .unwrap_or_default();
        let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        Self { kind, is_unprivileged: !is_whole(&map) }
    }

    fn shown(&self) -> String {
        let kind = if self.kind.is_empty() { "a container" } else { &self.kind };
        if self.is_unprivileged { format!("{kind}, unprivileged") } else { kind.to_owned() }
    }

    fn exists(&self) -> bool {
        !self.kind.is_empty() || self.is_unprivileged
    }

    /// How the one who starts the container lets the device in.
    fn admits_device(&self) -> &'static str {
        match self.kind.as_str() {
            "lxc" | "lxc-libvirt" => {
                "on the host, in the container's configuration: lxc.cgroup2.devices.allow = c 10:200 rwm and \
                 lxc.mount.entry = /dev/net/tun dev/net/tun none bind,create=file"
            }
            "systemd-nspawn" => {
                "on the host: systemd-nspawn --bind=/dev/net/tun --property=DeviceAllow='/dev/net/tun rwm' …"
            }
            "podman" => "on the host: podman run --device /dev/net/tun --cap-add NET_ADMIN …",
            _ => "on the host: docker run --device /dev/net/tun --cap-add NET_ADMIN …",
        }
    }
}

/// Only root may read the environment of the first process.
fn of_first_process() -> Option<String> {
    let environment = fs::read("/proc/1/environ").ok()?;
    let mut variables = environment.split(|byte| *byte == 0);
    let value = variables.find_map(|variable| variable.strip_prefix(b"container="))?;
    Some(String::from_utf8_lossy(value).into_owned())
}

/// True if all users of the machine are users here.
fn is_whole(uid_map: &str) -> bool {
    let numbers: Vec<&str> = uid_map.split_whitespace().collect();
    uid_map.is_empty() || numbers == ["0", "0", "4294967295"]
}

/// The driver, its node, the container and its limits.
pub fn check(subject: &Subject) -> Vec<Finding> {
    let container = Container::here();
    let has_driver = fs::read_to_string("/proc/misc").map(|text| text.lines().any(|line| line.ends_with(" tun"))).ok();
    let node = Node::look(CLONE_DEVICE);
    let mut findings = vec![
        judge_driver(has_driver, node.opened.is_ok(), &container),
        judge_node(&node, &subject.account(), &subject.own, &container),
    ];
    if container.exists() {
        findings.push(Finding::note("container", format!("this is {}", container.shown())));
    }
    let of_unit = subject.unit.as_ref().map(|unit| (unit.descriptors, unit.name.as_str()));
    let own = getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft);
    findings.push(judge_limit(of_unit, own));
    findings
}

fn judge_driver(has_driver: Option<bool>, can_open: bool, container: &Container) -> Finding {
    const CHECK: &str = "driver";
    match has_driver {
        Some(true) => Finding::ok(CHECK, "the kernel has tun"),
        _ if can_open => Finding::ok(CHECK, "the kernel has tun"),
        _ if container.exists() => {
            Finding::fault(CHECK, "the kernel has not loaded tun, and a container cannot", "on the host: modprobe tun")
        }
        Some(false) => Finding::fault(CHECK, "the kernel has not loaded tun", "modprobe tun"),
        None => Finding::note(CHECK, "/proc/misc cannot be read"),
    }
}

/// The clone device as it is found.
struct Node {
    path: String,
    /// What the file is, or why that is not known.
    file: Result<File, io::ErrorKind>,
    opened: Result<(), Option<i32>>,
}

struct File {
    /// Major and minor number of a character device.
    numbers: Option<(u64, u64)>,
    mode: u32,
    uid: u32,
    gid: u32,
}

impl Node {
    fn look(path: &str) -> Self {
        let file = fs::metadata(path).map_err(|error| error.kind()).map(|file| File {
            numbers: file.file_type().is_char_device().then(|| {
                let device = file.rdev();
                (nix::sys::stat::major(device), nix::sys::stat::minor(device))
            }),
            mode: file.mode() & 0o7777,
            uid: file.uid(),
            gid: file.gid(),
        });
        let is_ours = file.as_ref().is_ok_and(|file| file.numbers == Some(CLONE_DEVICE_NUMBERS));
        // Opened and closed again: without an interface nothing comes of it. Something else is not opened.
        let opened = if is_ours {
            ioctl::open_clone_device(path).map(drop).map_err(|error| error.raw_os_error())
        } else {
            Err(None)
        };
        Self { path: path.to_owned(), file, opened }
    }
}

/// `account` is whom the daemon is started as, `own` who asks.
fn judge_node(node: &Node, account: &Account, own: &Account, container: &Container) -> Finding {
    const CHECK: &str = "device node";
    let path = &node.path;
    let directory = Path::new(path).parent().map(|parent| parent.display().to_string()).unwrap_or_default();
    let make = format!("mkdir -p {directory} && mknod -m 0666 {path} c 10 200");
    let file = match &node.file {
        Ok(file) => file,
        Err(io::ErrorKind::NotFound) if container.is_unprivileged => {
            return Finding::fault(CHECK, format!("{path} does not exist"), container.admits_device());
        }
        Err(io::ErrorKind::NotFound) => return Finding::fault(CHECK, format!("{path} does not exist"), make),
        Err(kind) => return Finding::fault(CHECK, format!("{path}: {kind}"), format!("ls -ld {directory}")),
    };
    if file.numbers != Some(CLONE_DEVICE_NUMBERS) {
        let found = format!("{path} is not the character device 10:200 of the tun driver");
        return Finding::fault(CHECK, found, format!("mv {path} {path}.wrong && {make}"));
    }
    let mode = format!("{path} has the mode {:04o}", file.mode);
    match node.opened {
        Err(Some(libc::EPERM)) => {
            let found = format!("{path} may not be opened: the device 10:200 is not allowed here");
            Finding::fault(CHECK, found, container.admits_device())
        }
        Err(Some(libc::EACCES)) => {
            Finding::fault(CHECK, format!("{mode}: {} may not open it", own.name), format!("chmod 0666 {path}"))
        }
        Err(Some(libc::ENODEV | libc::ENXIO)) => {
            Finding::fault(CHECK, format!("{path} leads nowhere: the kernel has no tun driver"), "modprobe tun")
        }
        Err(errno) => {
            let error = errno.map_or_else(String::new, |errno| io::Error::from_raw_os_error(errno).to_string());
            Finding::fault(CHECK, format!("{path} cannot be opened: {error}"), format!("ls -l {path}"))
        }
        Ok(()) if !account.may(6, file.mode, file.uid, file.gid) => {
            let found = format!("{mode}: {}, whom the service runs as, may not open it", account.name);
            Finding::fault(CHECK, found, format!("chmod 0666 {path}"))
        }
        Ok(()) => Finding::ok(CHECK, format!("{path} can be opened")),
    }
}

fn judge_limit(of_unit: Option<(Option<u64>, &str)>, own: Option<u64>) -> Finding {
    const CHECK: &str = "limits";
    let limit = of_unit.map_or(own, |(limit, _)| limit);
    match (limit, of_unit) {
        (Some(limit), Some((_, unit))) if limit < DESCRIPTORS => Finding::warning(
            CHECK,
            format!("{unit} may open {limit} descriptors, and {DESCRIPTORS} may be needed"),
            super::drop_in(unit, "limits", &["LimitNOFILE=1024"]),
        ),
        (Some(limit), None) if limit < DESCRIPTORS => Finding::warning(
            CHECK,
            format!("a process may open {limit} descriptors here, and {DESCRIPTORS} may be needed"),
            "ulimit -n 1024",
        ),
        (Some(limit), _) => Finding::ok(CHECK, format!("{limit} descriptors")),
        (None, _) => Finding::ok(CHECK, "none known"),
    }
}

/// Who may do what: the process, or the service.
struct Rights {
    net_admin: bool,
    /// A port that takes a right, and whether that is there.
    port: Option<(u16, bool)>,
    /// The device is there, and this user may attach to it.
    has_device: bool,
}

/// The capabilities that the tunnel takes.
pub fn capabilities(subject: &Subject) -> Vec<Finding> {
    let account = subject.account();
    let held = |capability: Capability| match &subject.unit {
        Some(unit) => unit.has(&capability.to_string()),
        None => caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false),
    };
    let device = subject.device().and_then(|name| {
        let devices = Netlink::open().and_then(|mut netlink| netlink.tun_devices()).unwrap_or_default();
        devices.into_iter().find(|device| device.link.name == name)
    });
    let port = subject.config.as_ref().map(|config| config.link.bind.port).filter(|port| *port != 0 && is_kept(*port));
    let rights = Rights {
        net_admin: held(Capability::CAP_NET_ADMIN),
        port: port.map(|port| (port, held(Capability::CAP_NET_BIND_SERVICE))),
        has_device: device.is_some_and(|device| belongs(&device, &account)),
    };
    let unit = subject.unit.as_ref().map(|unit| unit.name.as_str());
    judge_rights(&rights, subject.config.as_ref(), unit, &account, &Container::here())
}

/// A port that takes a right (`ip_unprivileged_port_start` of ip(7)).
fn is_kept(port: u16) -> bool {
    let first = read_line("/proc/sys/net/ipv4/ip_unprivileged_port_start").ok().and_then(|text| text.parse().ok());
    port < first.unwrap_or(1024)
}

/// The kernel lets a user attach who is the owner and in the group, as far as these are set (`tun_not_capable` of
/// drivers/net/tun.c).
pub fn belongs(device: &TunDevice, account: &Account) -> bool {
    (device.owner.is_some() || device.group.is_some())
        && device.owner.is_none_or(|uid| uid == account.uid)
        && device.group.is_none_or(|gid| account.gids.contains(&gid))
}

fn judge_rights(
    rights: &Rights,
    config: Option<&Config>,
    unit: Option<&str>,
    account: &Account,
    container: &Container,
) -> Vec<Finding> {
    const CHECK: &str = "capabilities";
    let mut findings = Vec::new();
    let name = &account.name;
    findings.push(match (rights.net_admin, config, unit) {
        (true, _, _) => Finding::ok(CHECK, "CAP_NET_ADMIN is there"),
        (false, _, Some(unit)) => Finding::fault(
            CHECK,
            format!("{unit} starts without CAP_NET_ADMIN, so that no device can be made or configured"),
            super::drop_in(
                unit,
                "rights",
                &["AmbientCapabilities=CAP_NET_ADMIN", "CapabilityBoundingSet=CAP_NET_ADMIN"],
            ),
        ),
        (false, Some(config), None) if rights.has_device => {
            let found = format!("none is needed: the device {} was made for {name}", config.device.name);
            Finding::ok(CHECK, found)
        }
        (false, _, None) if account.uid == 0 => {
            Finding::fault(CHECK, "root has no CAP_NET_ADMIN here", container.admits_device())
        }
        (false, Some(config), None) => Finding::fault(
            CHECK,
            format!("{name} has no CAP_NET_ADMIN and no device that was made for {name}"),
            format!(
                "sudo simpletun mktun --dev {} --dev-type {} --user {name}",
                config.device.name, config.device.kind
            ),
        ),
        (false, None, None) => {
            Finding::note(CHECK, format!("{name} has no CAP_NET_ADMIN: devices have to be made by root"))
        }
    });
    if let Some((port, false)) = rights.port {
        let found = format!("port {port} takes CAP_NET_BIND_SERVICE, which {} has not", unit.unwrap_or(name));
        let lines = ["AmbientCapabilities=CAP_NET_BIND_SERVICE", "CapabilityBoundingSet=CAP_NET_BIND_SERVICE"];
        let cure = unit.map_or_else(
            || format!("sysctl -w net.ipv4.ip_unprivileged_port_start={port}"),
            |unit| super::drop_in(unit, "port", &lines),
        );
        findings.push(Finding::fault(CHECK, found, cure));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::doctor::Verdict;

    fn account(uid: u32) -> Account {
        Account { name: format!("user{uid}"), uid, gids: vec![uid] }
    }

    fn node(file: Result<File, io::ErrorKind>, opened: Result<(), Option<i32>>) -> Node {
        Node { path: CLONE_DEVICE.to_owned(), file, opened }
    }

    fn clone_device(mode: u32) -> Result<File, io::ErrorKind> {
        Ok(File { numbers: Some(CLONE_DEVICE_NUMBERS), mode, uid: 0, gid: 0 })
    }

    #[test]
    fn each_state_of_the_node_has_its_cure() {
        let lxc = Container { kind: "lxc".to_owned(), is_unprivileged: true };
        let none = Container::default();
        let judged = |file, opened, container| judge_node(&node(file, opened), &account(0), &account(0), container);
        assert_eq!(judged(clone_device(0o600), Ok(()), &none).verdict, Verdict::Ok);
        for (file, opened, container, words) in [
            (Err(io::ErrorKind::NotFound), Err(None), &none, "mknod -m 0666 /dev/net/tun c 10 200"),
            (Err(io::ErrorKind::NotFound), Err(None), &lxc, "lxc.mount.entry"),
            (Err(io::ErrorKind::PermissionDenied), Err(None), &none, "ls -ld /dev/net"),
            (Ok(File { numbers: None, mode: 0o644, uid: 0, gid: 0 }), Err(None), &none, "mv /dev/net/tun"),
            (clone_device(0o666), Err(Some(libc::EPERM)), &lxc, "lxc.cgroup2.devices.allow = c 10:200 rwm"),
            (clone_device(0o666), Err(Some(libc::EPERM)), &none, "docker run --device /dev/net/tun"),
            (clone_device(0o600), Err(Some(libc::EACCES)), &none, "chmod 0666 /dev/net/tun"),
            (clone_device(0o600), Err(Some(libc::ENODEV)), &none, "modprobe tun"),
            (clone_device(0o600), Err(Some(libc::EMFILE)), &none, "ls -l"),
        ] {
            let finding = judged(file, opened, container);
            assert_eq!(finding.verdict, Verdict::Fault, "{finding:?}");
            assert!(finding.cure.as_ref().is_some_and(|cure| cure.contains(words)), "{finding:?}");
        }
        // Root may open it, and the service's user may not.
        let finding = judge_node(&node(clone_device(0o600), Ok(())), &account(7), &account(0), &none);
        assert_eq!((finding.verdict, finding.cure.as_deref()), (Verdict::Fault, Some("chmod 0666 /dev/net/tun")));
    }

    #[test]
    fn a_missing_driver_is_loaded_where_that_is_possible() {
        let none = Container::default();
        let docker = Container { kind: "docker".to_owned(), is_unprivileged: false };
        assert_eq!(judge_driver(Some(true), false, &none).verdict, Verdict::Ok);
        assert_eq!(judge_driver(None, true, &none).verdict, Verdict::Ok);
        assert_eq!(judge_driver(Some(false), false, &none).cure.as_deref(), Some("modprobe tun"));
        assert_eq!(judge_driver(Some(false), false, &docker).cure.as_deref(), Some("on the host: modprobe tun"));
    }

    #[test]
    fn modes_count_for_owner_group_and_others_in_this_order() {
        let user = account(7);
        assert!(user.may(6, 0o600, 7, 0) && user.may(6, 0o060, 0, 7) && user.may(6, 0o006, 0, 0));
        // An owner who may not is not one of the others.
        assert!(!user.may(4, 0o044, 7, 0) && !user.may(4, 0o604, 0, 7) && !user.may(6, 0o004, 0, 0));
        assert!(account(0).may(6, 0, 1, 1));
    }

    #[test]
    fn rights_are_those_of_the_process_or_of_the_service() {
        let none = Container::default();
        let judged = |rights: Rights, unit| judge_rights(&rights, None, unit, &account(7), &none);
        let rights = |net_admin, port| Rights { net_admin, port, has_device: false };
        assert_eq!(judged(rights(true, None), None)[0].verdict, Verdict::Ok);
        assert_eq!(judged(rights(false, None), None)[0].verdict, Verdict::Note);
        let findings = judged(rights(false, Some((80, false))), Some("simpletun@a.service"));
        let cures: Vec<&str> = findings.iter().filter_map(|finding| finding.cure.as_deref()).collect();
        assert!(cures[0].contains("CAP_NET_ADMIN") && cures[1].contains("CAP_NET_BIND_SERVICE"), "{cures:?}");
        assert!(judged(rights(true, Some((80, false))), None)[1].cure.as_ref().unwrap().contains("port_start=80"));
        assert_eq!(judged(rights(true, Some((80, true))), None).len(), 1);
    }

    #[test]
    fn few_descriptors_are_a_warning() {
        assert_eq!(judge_limit(None, Some(1024)).verdict, Verdict::Ok);
        assert_eq!(judge_limit(None, Some(64)).cure.as_deref(), Some("ulimit -n 1024"));
        let finding = judge_limit(Some((Some(64), "simpletun@a.service")), Some(1024));
        assert!(finding.cure.as_ref().is_some_and(|cure| cure.contains("LimitNOFILE=1024")), "{finding:?}");
    }

    #[test]
    fn a_user_namespace_is_known_by_its_map() {
        assert!(is_whole("         0          0 4294967295\n") && is_whole(""));
        assert!(!is_whole("0 1000 1\n") && !is_whole("0 100000 65536\n"));
    }
}

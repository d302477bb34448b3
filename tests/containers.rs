//! The package as an administrator meets it: two hosts with a systemd of their own, of the oldest and of the newest Debian
//! that it is made for, joined by a cable, on which it is installed, configured, enabled, reloaded, upgraded and removed.
//! Needs what `scripts/container-test.sh` prepares.

use crate::common::container::{Container, PATIENCE, Release};
use crate::common::lab::Lab;
use crate::common::wait::{wait_for, wait_until};
use serde_json::Value;

const UNIT: &str = "simpletun@link";
const CONFIG: &str = "/etc/simpletun/link.toml";
const SECRET: &str = "/etc/simpletun/link.secret";
/// A file with a mistake.
const BROKEN: &str = "security = 'secret'\nno-such-key = 1\n";
const NEAR: &str = "192.168.0.1";
const FAR: &str = "192.168.0.2";
/// Sets of capabilities as /proc writes them.
const NOTHING: &str = "0000000000000000";
const NET_ADMIN: &str = "0000000000001000";

/// Installing starts nothing. What is enabled is there after a boot, without a right that it does not need, and
/// `systemctl status` tells how the link is.
#[test]
fn an_enabled_tunnel_comes_with_the_boot() {
    let mut hosts = Hosts::new();
    assert_eq!(hosts.remote.run("systemctl list-units --all --plain --no-legend simpletun*"), "");
    assert!(!hosts.remote.succeeds("systemctl is-enabled simpletun.target"));
    hosts.configure();
    // The other way for keys: as root's file, handed over by systemd.
    hosts.remote.run(&format!("chown root:root {SECRET}"));
    hosts.remote.write(
        "/etc/systemd/system/simpletun@link.service.d/key.conf",
        &format!("[Service]\nLoadCredential=secret:{SECRET}\n"),
    );
    hosts.remote.write(CONFIG, &server(""));
    for host in [&hosts.local, &hosts.remote] {
        host.run("systemctl daemon-reload");
        host.run(&format!("systemctl enable --now {UNIT}"));
    }
    hosts.wait_for_tunnel();
    wait_until(PATIENCE, "status of the link", || hosts.local.show(UNIT, "StatusText") == "up, peer 10.86.43.52:55555");
    hosts.remote.reboot();
    hosts.wait_for_tunnel();
    assert_eq!(hosts.remote.show(UNIT, "ActiveState"), "active");
    // Nothing is wrong with either of them.
    for host in [&hosts.local, &hosts.remote] {
        host.run("simpletun doctor link");
        for check in ["configuration", "keys", "tunnel", "device node", "capabilities", "holder", "service"] {
            assert_eq!(diagnosis(host, "link", check)[0], "ok", "{check}: {:?}", diagnosis(host, "link", check));
        }
    }
    for host in [&hosts.local, &hosts.remote] {
        holds_no_right(host);
        // Who is in the group may ask how the tunnel is, and nobody else.
        assert_eq!(host.run("stat -c %a:%G /run/simpletun/link.sock").trim(), "660:simpletun");
        host.run("useradd --groups simpletun member");
        let status = host.run("runuser -u member -- simpletun status link");
        assert!(status.contains("up"), "{status}");
        assert!(!host.succeeds("runuser -u nobody -- simpletun status link"));
    }
}

/// The daemon has no capability and cannot get one, and its helper has one.
#[track_caller]
fn holds_no_right(host: &Container) {
    let main = pid(host, UNIT);
    let helper = host.run(&format!("cat /proc/{main}/task/{main}/children"));
    let user = host.run("id -u simpletun");
    for (process, held) in [(main.as_str(), NOTHING), (helper.trim(), NET_ADMIN)] {
        let status = host.run(&format!("cat /proc/{process}/status"));
        let value = |key: &str| {
            let line = status.lines().find(|line| line.starts_with(key)).expect(key);
            line.split_whitespace().nth(1).expect(key).to_owned()
        };
        assert_eq!((value("Uid:").as_str(), value("NoNewPrivs:").as_str()), (user.trim(), "1"));
        assert_eq!(value("Seccomp:"), "2");
        for (set, held) in [("CapInh:", NOTHING), ("CapPrm:", held), ("CapEff:", held), ("CapAmb:", NOTHING)] {
            assert_eq!(value(set), held, "{set} {status}");
        }
        // What a process without CAP_SETPCAP cannot give up, and nobody without new privileges can use.
        assert_eq!(value("CapBnd:"), NET_ADMIN, "{status}");
    }
    // systemd has a filter of its own, so the number above would be the same without the daemon's.
    let journal = host.journal(UNIT);
    assert!(journal.contains("without capabilities, seccomp, Landlock (version"), "{journal}");
}

/// Other keys come into force while the daemon runs. A file with a mistake changes nothing but the status.
#[test]
fn a_reload_takes_new_keys_and_refuses_a_broken_file() {
    let hosts = Hosts::in_use();
    let pids = hosts.pids();
    hosts.remote.write(SECRET, &hosts.new_secret());
    hosts.remote.run(&format!("systemctl reload {UNIT}"));
    wait_until(PATIENCE, "end of a tunnel whose keys differ", || !answers(&hosts.local, FAR));
    let secret = hosts.remote.run(&format!("cat {SECRET}"));
    hosts.local.write(SECRET, &secret);
    hosts.local.run(&format!("systemctl reload {UNIT}"));
    hosts.wait_for_tunnel();

    // Root may look before, though the key is the service's.
    hosts.local.run(&format!("simpletun --config {CONFIG} --check-config"));
    hosts.local.write(CONFIG, BROKEN);
    assert!(!hosts.local.succeeds(&format!("simpletun --config {CONFIG} --check-config")));
    hosts.local.run(&format!("systemctl reload {UNIT}"));
    wait_until(PATIENCE, "status that tells of it", || hosts.local.show(UNIT, "StatusText").contains("refused"));
    let journal = hosts.local.journal(UNIT);
    assert!(journal.contains("link.toml") && journal.contains("the configuration that is in force"), "{journal}");
    assert!(answers(&hosts.local, FAR));
    hosts.local.write(CONFIG, &client());
    hosts.local.run(&format!("systemctl reload {UNIT}"));
    wait_until(PATIENCE, "status of the link", || hosts.local.show(UNIT, "StatusText").starts_with("up, peer"));
    assert!(!hosts.local.show(UNIT, "StatusText").contains("refused"));
    assert_eq!(hosts.pids(), pids);
}

/// A daemon that was killed and one that hangs are begun anew. One whose configuration has a mistake is not.
#[test]
fn a_daemon_that_dies_or_hangs_is_begun_anew() {
    let hosts = Hosts::new();
    hosts.configure();
    hosts.remote.write(
        "/etc/systemd/system/simpletun@link.service.d/watchdog.conf",
        "[Service]\nWatchdogSec=3\nTimeoutAbortSec=2\n",
    );
    hosts.remote.run("systemctl daemon-reload");
    hosts.start();
    for signal in ["KILL", "STOP"] {
        let earlier = pid(&hosts.remote, UNIT);
        hosts.remote.run(&format!("kill -{signal} {earlier}"));
        wait_until(PATIENCE, format!("another daemon after {signal}"), || {
            hosts.remote.show(UNIT, "ActiveState") == "active" && pid(&hosts.remote, UNIT) != earlier
        });
        hosts.wait_for_tunnel();
    }
    let journal = hosts.remote.journal(UNIT);
    assert!(journal.contains("Watchdog timeout"), "{journal}");

    hosts.remote.write("/etc/simpletun/broken.toml", BROKEN);
    assert!(!hosts.remote.succeeds("systemctl start simpletun@broken"));
    assert_eq!(hosts.remote.show("simpletun@broken", "ActiveState"), "failed");
    assert_eq!(hosts.remote.show("simpletun@broken", "NRestarts"), "0");
    services_get_well_by_what_doctor_says(&hosts.remote);
}

/// Each fault of a service is found, and what doctor prints cures it.
fn services_get_well_by_what_doctor_says(host: &Container) {
    let [verdict, found, _] = diagnosis(host, "broken", "service");
    assert!(verdict == "fail" && found.contains("unknown field"), "{found}");
    assert_eq!(diagnosis(host, "broken", "configuration")[0], "fail");
    host.write("/etc/simpletun/broken.toml", "security = 'plain'\ninterface = 'st-broken'\nserver = true\nport = 80\n");
    // Right by now, and without the right to its port.
    let [.., cure] = diagnosis(host, "broken", "service");
    assert!(cure.starts_with("systemctl restart simpletun@broken"), "{cure}");
    is_cured(host, "broken", "capabilities", "fail", "port 80 takes CAP_NET_BIND_SERVICE");
    is_cured(host, "broken", "service", "note", "will not be there after the next boot");
    host.run("systemctl stop simpletun@broken");
    is_cured(host, "broken", "service", "warn", "does not run");
    host.run("systemctl disable --now simpletun@broken");
    host.run("systemctl mask simpletun@broken");
    is_cured(host, "broken", "service", "fail", "is masked");

    host.write("/etc/systemd/system/simpletun@link.service.d/less.conf", "[Service]\nAmbientCapabilities=\n");
    host.run("systemctl daemon-reload");
    is_cured(host, "link", "capabilities", "fail", "starts without CAP_NET_ADMIN");
    host.write("/etc/systemd/system/simpletun@link.service.d/less.conf", "[Service]\nLimitNOFILE=100\n");
    is_cured(host, "link", "service", "warn", "systemd has not read it again");
    is_cured(host, "link", "limits", "warn", "100 descriptors");
    let closed = "systemd-run --quiet --pipe --wait -p DevicePolicy=closed simpletun doctor link";
    let said = String::from_utf8_lossy(&host.try_run(closed).stdout).into_owned();
    assert!(said.contains("the device 10:200 is not allowed here") && said.contains("--bind=/dev/net/tun"), "{said}");
    host.run(&format!("chown root {SECRET}"));
    is_cured(host, "link", "keys", "fail", "simpletun may not read");
    host.run("chmod 700 /etc/simpletun");
    is_cured(host, "link", "configuration", "fail", "simpletun may not enter /etc/simpletun");
}

/// Verdict, text and cure of a check of doctor's: of several findings the first that is not as it should be.
#[track_caller]
fn diagnosis(host: &Container, tunnel: &str, check: &str) -> [String; 3] {
    let output = host.try_run(&format!("simpletun doctor {tunnel} --json"));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let findings = answer["findings"].as_array().expect("findings");
    let of_check = || findings.iter().filter(|finding| finding["check"] == check);
    let finding = of_check().find(|finding| finding["verdict"] != "ok").or_else(|| of_check().next());
    let finding = finding.unwrap_or_else(|| panic!("no {check} in {findings:#?}"));
    ["verdict", "found", "cure"].map(|key| finding[key].as_str().unwrap_or_default().to_owned())
}

/// There is this finding, and it is no more once what is printed with it has been typed.
#[track_caller]
fn is_cured(host: &Container, tunnel: &str, check: &str, verdict: &str, words: &str) {
    let [given, found, cure] = diagnosis(host, tunnel, check);
    assert!(given == verdict && found.contains(words), "{check}: {given} {found}");
    host.shell(&cure);
    wait_until(PATIENCE, format!("health of {check} after {cure}"), || diagnosis(host, tunnel, check)[0] == "ok");
}

/// `systemctl stop` leaves the host as it was before, with a device of the daemon's and with one that was there; and so
/// does the end of a tunnel both of whose processes were killed.
#[test]
fn a_tunnel_that_is_stopped_or_killed_leaves_nothing_behind() {
    let hosts = Hosts::new();
    let present = |host: &Container| {
        let routes = host.run("ip route show table all").replace(" linkdown", "");
        [host.run("ip -br link"), routes, host.run("ss -Hlntu"), host.run("ls /run/simpletun")]
    };
    hosts.configure();
    hosts.remote.run("ip tuntap add dev st-link mode tun");
    let before = [present(&hosts.local), present(&hosts.remote)];
    hosts.start();
    assert_ne!(present(&hosts.local), before[0]);
    assert!(hosts.remote.run("ip addr show dev st-link").contains(FAR));
    hosts.local.run(&format!("systemctl stop {UNIT}"));
    hosts.remote.run("systemctl stop simpletun.target");
    wait_until(PATIENCE, "end of the tunnel", || hosts.remote.show(UNIT, "ActiveState") == "inactive");
    assert_eq!(present(&hosts.local), before[0]);
    let after = present(&hosts.remote);
    assert_eq!(after[1..], before[1][1..]);
    assert!(after[0].contains("st-link") && !hosts.remote.run("ip addr show dev st-link").contains(FAR));

    hosts.remote.write("/etc/systemd/system/simpletun@link.service.d/once.conf", "[Service]\nRestart=no\n");
    hosts.remote.run("systemctl daemon-reload");
    hosts.start();
    assert!(hosts.remote.run("ip addr show dev st-link").contains(FAR));
    // Not by "systemctl kill": where that kills the whole group at once, kernels kill what is started in it later, too.
    let main = pid(&hosts.remote, UNIT);
    let helper = hosts.remote.run(&format!("pgrep -P {main}"));
    hosts.remote.run(&format!("kill -KILL {} {main}", helper.trim()));
    wait_until(PATIENCE, "end of the tunnel", || hosts.remote.show(UNIT, "ActiveState") == "failed");
    let after = present(&hosts.remote);
    assert_eq!(after[1..], before[1][1..]);
    assert!(!hosts.remote.run("ip addr show dev st-link").contains(FAR));
}

/// An upgrade keeps what was configured; tunnels get the new program, unless it does not take their configuration. Removal
/// ends them, and a purge leaves what the administrator has made.
#[test]
fn an_upgrade_keeps_what_was_configured_and_tunnels_go_on() {
    let hosts = Hosts::in_use();
    let local = &hosts.local;
    local
        .write("/etc/simpletun/other.toml", "security = 'plain'\ninterface = 'st-other'\nserver = true\nport = 4000\n");
    local.run("systemctl start simpletun@other");
    local.write("/etc/simpletun/other.toml", BROKEN);
    let (link, other) = (pid(local, UNIT), pid(local, "simpletun@other"));
    local.install("0.1.0-2");
    assert_eq!(local.run(&format!("cat {CONFIG}")), client());
    assert_ne!(pid(local, UNIT), link);
    assert_eq!(pid(local, "simpletun@other"), other);
    hosts.wait_for_tunnel();

    local.run("dpkg -P simpletun");
    assert!(!local.run("ip -br link").contains("st-"));
    for file in [
        "/var/lib/simpletun",
        "/usr/bin/simpletun",
        "/etc/systemd/system/multi-user.target.wants/simpletun@link.service",
    ] {
        assert!(!local.exists(file), "{file}");
    }
    assert_eq!(local.run(&format!("cat {CONFIG}")), client());
}

/// One command sets up both ends: keys, files and services, and packets pass. A failure or a signal in the middle leaves
/// both hosts as they were, and what is there already stays.
#[test]
fn pair_sets_up_both_ends_over_ssh_or_neither() {
    let hosts = Hosts::new();
    hosts.allow_ssh();
    let both = [&hosts.local, &hosts.remote];
    let present = || {
        both.map(|host| {
            let devices = host.run("ip -br link");
            let devices: Vec<&str> = devices.lines().filter_map(|line| line.split_whitespace().next()).collect();
            let units = host.run("systemctl list-units --all --plain --no-legend simpletun@*");
            format!(
                "{devices:?} {units} {}",
                host.run("find /etc/simpletun /var/lib/simpletun /etc/systemd -name *s*t*")
            )
        })
    };
    let said = hosts.local.run("simpletun pair site --to root@10.86.43.52");
    assert!(said.contains("The tunnel site is up"), "{said}");
    let address = hosts.remote.run("ip -4 -o address show dev site");
    let address = address.split_whitespace().nth(3).and_then(|address| address.split('/').next()).expect("an address");
    assert!(answers(&hosts.local, address) && said.contains(address), "{address}: {said}");
    for host in both {
        let owners = host.run("stat -c %U:%a /etc/simpletun/site.toml /etc/simpletun/site.key /etc/simpletun/site.psk");
        assert_eq!(owners, "simpletun:600\n".repeat(3));
        assert!(host.succeeds("systemctl is-enabled simpletun@site"));
    }
    // Each has made its own.
    let [here, there] = both.map(|host| host.run("cat /etc/simpletun/site.key"));
    assert!(here != there && !there.is_empty(), "private keys do not travel");

    let before = present();
    for (args, word) in [
        ("site --to root@10.86.43.52", "exists already"),
        // The port is the first tunnel's.
        ("other --to root@10.86.43.52", "55555 is in use"),
    ] {
        let output = hosts.local.try_run(&format!("simpletun pair {args}"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(word) && said.contains("this host is as it was before"), "{word} in {said}");
        assert_eq!(present(), before, "{said}");
    }
    for signal in ["TERM", "KILL"] {
        // Nobody answers there, so that it would wait.
        let pair = "simpletun pair other --to root@10.86.43.52 --server 10.86.43.99:4000";
        hosts.local.run(&format!("systemd-run --quiet --unit=pairing-{signal} {pair}"));
        wait_until(PATIENCE, "both ends at work", || {
            both.iter().all(|host| host.show("simpletun@other", "ActiveState") == "active")
        });
        assert_ne!(present(), before);
        hosts.local.run(&format!("kill -{signal} {}", pid(&hosts.local, &format!("pairing-{signal}"))));
        wait_until(PATIENCE, format!("both ends as they were before {signal}"), || present() == before);
    }
    assert!(answers(&hosts.local, address));
}

/// systemd-networkd, told to manage everything, leaves the device alone.
#[test]
fn networkd_leaves_the_device_alone() {
    let hosts = Hosts::in_use();
    let local = &hosts.local;
    local.write(
        "/etc/systemd/network/20-all.network",
        "[Match]\nName=st-* other0\n[Network]\nAddress=10.99.0.1/24\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n",
    );
    local.run("ip link add other0 type veth peer name other1");
    local.run("ip link set other1 up");
    local.run("systemctl start systemd-networkd");
    let (links, _) = wait_for(PATIENCE, "networkd at work", || {
        let links = local.run("networkctl --no-pager --no-legend");
        links.lines().any(|line| line.contains("other0") && line.contains("configured")).then_some(links)
    });
    let ours = links.lines().find(|line| line.contains("st-link")).expect("our device");
    assert!(ours.ends_with("unmanaged"), "{links}");
    assert!(!local.run("ip addr show dev st-link").contains("10.99.0.1"));
    hosts.wait_for_tunnel();

    // A device of another name has to be given to the tunnel.
    assert_eq!(diagnosis(local, "link", "networkd")[0], "ok");
    local.write("/etc/simpletun/other.toml", "security = 'plain'\ninterface = 'tun7'\nserver = true\nport = 4000\n");
    local.write("/etc/systemd/network/20-tun.network", "[Match]\nName=tun*\n[Network]\nAddress=10.99.0.2/24\n");
    local.run("networkctl reload");
    assert_eq!(diagnosis(local, "other", "networkd")[0], "note");
    local.run("systemctl start simpletun@other");
    let is_taken = || diagnosis(local, "other", "networkd")[0] == "warn";
    wait_until(PATIENCE, "networkd at the other device", is_taken);
    is_cured(local, "other", "networkd", "warn", "systemd-networkd manages tun7");
}

/// NetworkManager, which runs when the package comes, sees the device and leaves it alone.
#[test]
fn network_manager_leaves_the_device_alone() {
    let hosts = Hosts::new_with(Some("NetworkManager"));
    hosts.configure();
    hosts.start();
    for host in [&hosts.local, &hosts.remote] {
        let (states, _) = wait_for(PATIENCE, "both devices in its list", || {
            let states = host.run("nmcli --terse --fields DEVICE,STATE device");
            (states.contains("st-link:") && states.contains("eth0:connected")).then_some(states)
        });
        assert!(states.lines().any(|line| line == "st-link:unmanaged"), "{states}");
        assert_eq!(diagnosis(host, "link", "NetworkManager")[0], "ok");
        // A device of another name has to be given to the tunnel.
        host.run("ip tuntap add dev tun7 mode tun");
        let device = "nmcli --terse --fields DEVICE device";
        wait_until(PATIENCE, "other device in its list", || host.run(device).contains("tun7"));
        host.run("nmcli device set tun7 managed yes");
        host.write("/etc/simpletun/other.toml", "security = 'plain'\ninterface = 'tun7'\nserver = true\nport = 4000\n");
        wait_until(PATIENCE, "NetworkManager at it", || diagnosis(host, "other", "NetworkManager")[0] == "warn");
        is_cured(host, "other", "NetworkManager", "warn", "NetworkManager manages tun7");
    }
    hosts.wait_for_tunnel();
}

/// Two hosts, `local` with the client and `remote` with the server.
struct Hosts {
    local: Container,
    remote: Container,
}

impl Hosts {
    /// With the package installed, and no other service that takes to devices.
    #[track_caller]
    fn new() -> Self {
        Self::new_with(None)
    }

    /// With this service, and with the package that is installed while it runs.
    #[track_caller]
    fn new_with(service: Option<&str>) -> Self {
        let lab = Lab::new();
        let local = Container::start(&lab.local, Release::Bookworm);
        let remote = Container::start(&lab.remote, Release::Trixie);
        let hosts = Self { local: local.booted(), remote: remote.booted() };
        for host in [&hosts.local, &hosts.remote] {
            if let Some(service) = service {
                host.run(&format!("systemctl start {service}"));
            }
            host.install("0.1.0-1");
        }
        hosts
    }

    /// With a tunnel between them.
    #[track_caller]
    fn in_use() -> Self {
        let hosts = Self::new();
        hosts.configure();
        hosts.start();
        hosts
    }

    /// Root of the local host may log in to the remote one.
    #[track_caller]
    fn allow_ssh(&self) {
        self.local.write("/root/keygen", "ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519\n");
        self.local.write("/root/.ssh/config", "BatchMode yes\nStrictHostKeyChecking accept-new\n");
        self.local.run("sh /root/keygen");
        self.remote.write("/root/.ssh/authorized_keys", &self.local.run("cat /root/.ssh/id_ed25519.pub"));
        self.remote.run("systemctl start ssh");
    }

    /// Both ends of a secure link over UDP, with their secret in a file of the service's user.
    #[track_caller]
    fn configure(&self) {
        let secret = self.new_secret();
        for (host, config) in [(&self.local, client()), (&self.remote, server(&secret_file()))] {
            host.write(CONFIG, &config);
            host.write(SECRET, &secret);
            host.run(&format!("chmod 600 {SECRET}"));
            host.run(&format!("chown simpletun {SECRET}"));
        }
    }

    #[track_caller]
    fn start(&self) {
        for host in [&self.remote, &self.local] {
            host.run(&format!("systemctl enable --now {UNIT}"));
        }
        self.wait_for_tunnel();
    }

    #[track_caller]
    fn new_secret(&self) -> String {
        self.local.run("simpletun genpsk")
    }

    #[track_caller]
    fn wait_for_tunnel(&self) {
        wait_until(PATIENCE, "answer through the tunnel", || answers(&self.local, FAR) && answers(&self.remote, NEAR));
    }

    fn pids(&self) -> [String; 2] {
        [pid(&self.local, UNIT), pid(&self.remote, UNIT)]
    }
}

fn answers(host: &Container, address: &str) -> bool {
    host.succeeds(&format!("ping -n -c 1 -W 1 {address}"))
}

fn pid(host: &Container, unit: &str) -> String {
    host.show(unit, "MainPID")
}

fn secret_file() -> String {
    format!("secret-file = ['{SECRET}']\n")
}

fn client() -> String {
    let secret = secret_file();
    format!(
        "security = 'secret'\n{secret}interface = 'st-link'\nconnect = '10.86.43.52'\nudp = true\n\
         address = ['{NEAR}/24']\nroute = ['10.2.0.0/24']\nkeepalive = '1s'\ndown-after = '3s'\n"
    )
}

fn server(secret: &str) -> String {
    format!(
        "security = 'secret'\n{secret}interface = 'st-link'\nserver = true\nudp = true\naddress = ['{FAR}/24']\n\
         route = ['10.1.0.0/24']\nkeepalive = '1s'\ndown-after = '3s'\n"
    )
}

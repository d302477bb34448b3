//! `doctor` finds each fault that is really there, and the command that it prints makes the finding go away.

use std::fs;
use std::path::Path;

use crate::common::daemon::{Daemon, public_binary, server, simpletun};
use crate::common::lab::{Lab, NOBODY, Ns, REMOTE, wire};
use crate::common::line;
use crate::common::names::Hosts;
use crate::common::secure::{new_key, new_secret};
use crate::common::wait::{DEADLINE, succeed, wait_until};
use serde_json::Value;

const FAIL: &str = "fail";
const WARN: &str = "warn";
const NOTE: &str = "note";

/// A patient: where it is and what doctor is asked about.
struct Patient<'a> {
    ns: &'a Ns,
    uid: u32,
    args: String,
}

impl<'a> Patient<'a> {
    fn new(ns: &'a Ns, args: impl Into<String>) -> Self {
        Self { ns, uid: 0, args: args.into() }
    }

    fn of_nobody(ns: &'a Ns, args: impl Into<String>) -> Self {
        Self { uid: NOBODY, ..Self::new(ns, args) }
    }

    /// The exit status and all findings.
    #[track_caller]
    fn examine(&self) -> (Option<i32>, Vec<Value>) {
        let binary = public_binary();
        let mut command = if self.uid == 0 { self.ns.command(&binary) } else { self.ns.command_as(self.uid, &binary) };
        command.args(["doctor", "--json"]).args(self.args.split_whitespace());
        let output = command.output().expect("run doctor");
        let said = String::from_utf8_lossy(&output.stdout);
        let answer: Value = serde_json::from_str(&said)
            .unwrap_or_else(|error| panic!("{error}: {said} {}", String::from_utf8_lossy(&output.stderr)));
        (output.status.code(), answer["findings"].as_array().expect("findings").clone())
    }

    /// What a check says; of several findings the first that is not as it should be.
    #[track_caller]
    fn says(&self, check: &str) -> (String, String, String) {
        let (status, findings) = self.examine();
        let has_fault = findings.iter().any(|finding| finding["verdict"] == FAIL);
        assert_eq!(status, Some(i32::from(has_fault)), "{findings:#?}");
        let of_check = || findings.iter().filter(|finding| finding["check"] == check);
        let worst = of_check().find(|finding| finding["verdict"] != "ok").or_else(|| of_check().next());
        let finding = worst.unwrap_or_else(|| panic!("no {check} in {findings:#?}"));
        let text = |key: &str| finding[key].as_str().unwrap_or_default().to_owned();
        (text("verdict"), text("found"), text("cure"))
    }

    #[track_caller]
    fn is_well(&self, check: &str) {
        let (verdict, found, _) = self.says(check);
        assert_eq!(verdict, "ok", "{check}: {found}");
    }

    /// Has this finding, whose text has these words. Its cure.
    #[track_caller]
    fn suffers(&self, check: &str, verdict: &str, words: &str) -> String {
        let (given, found, cure) = self.says(check);
        assert_eq!(given, verdict, "{check}: {found}");
        assert!(found.contains(words), "{check}: {found}");
        cure
    }

    /// Has this finding, and has it no longer once the command has been run that is printed with it.
    #[track_caller]
    fn is_cured(&self, check: &str, verdict: &str, words: &str) {
        self.is_cured_with(check, verdict, words, str::to_owned);
    }

    /// The same with a command in which something has to be filled in.
    #[track_caller]
    fn is_cured_with(&self, check: &str, verdict: &str, words: &str, fill_in: impl Fn(&str) -> String) {
        let cure = fill_in(&self.suffers(check, verdict, words));
        self.take(&cure);
        // Whoever was ended takes a moment.
        wait_until(DEADLINE, format!("health of {check} after {cure}"), || self.says(check).0 == "ok");
    }

    /// Runs a cure, as root.
    #[track_caller]
    fn take(&self, cure: &str) {
        let directory = Path::new(&public_binary()).parent().expect("a directory").display().to_string();
        let path = format!("{directory}:{}", std::env::var("PATH").unwrap_or_default());
        let mut shell = self.ns.command("sh");
        shell.env("PATH", path).args(["-e", "-c", &cure.replace("sudo ", "")]);
        succeed(shell.output().expect("run sh"), format_args!("{cure:?}"));
    }
}

/// On a host without the device node, with a wrong one or one that is closed, doctor says what to type.
#[test]
fn the_device_node_and_the_limits_of_the_machine() {
    let here = Ns::here();
    let machine = Patient::new(&here, "");
    machine.is_well("device node");
    machine.is_well("driver");
    assert_eq!(machine.examine().0, Some(0));
    here.run("mount -t tmpfs -o mode=0755 tmpfs /dev/net");
    if is_root_of_the_machine() {
        machine.is_cured("device node", FAIL, "does not exist");
        here.run("rm /dev/net/tun");
        here.run("touch /dev/net/tun");
        machine.is_cured("device node", FAIL, "is not the character device 10:200");
        here.run("chmod 0600 /dev/net/tun");
        Patient::of_nobody(&here, "").is_cured("device node", FAIL, "may not open it");
        here.run("rm /dev/net/tun");
    } else {
        let cure = machine.suffers("device node", FAIL, "does not exist");
        assert!(cure.starts_with("on the host: "), "{cure}");
    }
    fs::write("/run/misc", "183 hw_random\n").expect("write a file");
    here.run("mount --bind /run/misc /proc/misc");
    let cure = machine.suffers("driver", FAIL, "has not loaded tun");
    assert!(cure.ends_with("modprobe tun"), "{cure}");

    let without_rights = ["--bounding-set=-net_admin", &public_binary(), "doctor"];
    let output = here.command("setpriv").args(without_rights).output().expect("run setpriv");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("root has no CAP_NET_ADMIN here") && output.status.code() == Some(1), "{said}");
    let output =
        here.command("prlimit").args(["--nofile=64", &public_binary(), "doctor"]).output().expect("run prlimit");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("64 descriptors") && said.contains("cure: ulimit -n 1024"), "{said}");
}

fn is_root_of_the_machine() -> bool {
    fs::read_to_string("/proc/self/uid_map").expect("read a file").contains("4294967295")
}

/// A device of another kind, of somebody else or in use, a name that is taken, a bridge that is missing.
#[test]
fn the_device_and_who_has_it() {
    let host = Ns::new("host");
    host.run("ip tuntap add dev tun3 mode tap");
    let tun3 = Patient::new(&host, "-i tun3 -s");
    tun3.is_cured("device", FAIL, "is a tap and the tunnel wants a tun");
    let nobody = Patient::of_nobody(&host, "-i tun3 -s");
    nobody.is_cured("device", FAIL, "belongs to root and not to nobody");
    nobody.is_well("capabilities");
    Patient::of_nobody(&host, "-i tun4 -c 127.0.0.1").is_cured("capabilities", FAIL, "has no CAP_NET_ADMIN");

    host.run("ip link add tun5 type veth peer name end5");
    Patient::new(&host, "-i tun5 -s").is_cured("device", FAIL, "is a veth and no tun or tap");
    host.run("ip link add br7 type bridge");
    let cure = Patient::new(&host, "-i br7 -s").suffers("device", FAIL, "is a bridge");
    assert!(cure.contains("--bridge br7"), "{cure}");
    let bridged = Patient::new(&host, "-i tap8 -a -s --bridge br8");
    bridged.is_cured("bridge", FAIL, "br8 does not exist");
    let created = Patient::new(&host, "-i tap8 -a -s --bridge br9 --bridge-create no8");
    created.is_cured_with("bridge", FAIL, "no8 of bridge-create does not exist", |_| {
        "ip link add no8 type veth peer name end8".to_owned()
    });
    Patient::new(&host, "-i tap8 -a -s --bridge end5").suffers("bridge", FAIL, "end5 is no bridge");
    Patient::new(&host, "-i tun9 -s --bind-device no9").suffers("bind-device", FAIL, "no9");

    host.run("ip tuntap add dev tun6 mode tun");
    let _holder = host.start(&format!("{} echo -i tun6", public_binary()));
    let tun6 = Patient::new(&host, "-i tun6 -s");
    wait_until(DEADLINE, "holder of tun6", || tun6.says("holder").0 == FAIL);
    tun6.is_cured("holder", FAIL, "tun6 is in use by simpletun");
}

/// A tunnel that runs holds its own device and port, which is as it should be; a device that is down is not.
#[test]
fn a_tunnel_that_runs_is_known() {
    let lab = Lab::new();
    fs::create_dir_all("/run/simpletun").expect("make a directory");
    let _near = server(&lab.local, "-i tun3 -s --address 192.168.0.1/24");
    let by_name = Patient::new(&lab.local, "tun3");
    let (status, findings) = by_name.examine();
    assert_eq!(status, Some(0), "{findings:#?}");
    for patient in [by_name, Patient::new(&lab.local, "-i tun3 -s")] {
        for check in ["holder", "port", "device"] {
            patient.is_well(check);
        }
        let (_, found, _) = patient.says("tunnel");
        assert!(found.contains("the link is waiting"), "{found}");
        lab.local.run("ip link set tun3 down");
        patient.is_cured("device", FAIL, "is down");
    }
    let silent = Patient::new(&lab.local, "tun4");
    silent.suffers("configuration", FAIL, "/etc/simpletun/tun4.toml does not exist");
}

/// A port that is taken, an address of another host, a firewall that is closed.
#[test]
fn the_port_and_the_firewall() {
    let lab = Lab::new();
    let ns = &lab.remote;
    for (transport, listen) in [("--tcp", "TCP4-LISTEN"), ("--udp", "UDP4-RECV")] {
        let server = Patient::new(ns, format!("-i tun3 -s {transport}"));
        server.is_well("port");
        let mut other = ns.start(&format!("socat -u {listen}:55555 OPEN:/dev/null"));
        wait_until(DEADLINE, "socat at the port", || server.says("port").0 == FAIL);
        server.is_cured("port", FAIL, "is in use by socat");
        wait_until(DEADLINE, "end of socat", || !other.is_running());
    }
    let elsewhere = Patient::new(ns, "-i tun3 -s --bind 10.9.9.9");
    elsewhere.is_cured_with("port", FAIL, "no address of this host", |cure| cure.replace("INTERFACE", "eth0"));
    let low = Patient::of_nobody(ns, "-i tun3 -s --port 80");
    let cure = low.suffers("port", NOTE, "takes a right");
    assert_eq!(cure, "");

    ns.run("nft add table inet f");
    ns.run("nft add chain inet f in { type filter hook input priority 0 ; policy drop ; }");
    ns.run("nft add rule inet f in tcp dport 22 accept");
    let server = Patient::new(ns, "-i tun3 -s --udp");
    server.is_cured("firewall", WARN, "the chain inet f in drops by default and no rule of it accepts udp port 55555");
    Patient::new(ns, "-i tun3 -c 10.86.43.51").is_cured("firewall", WARN, "accepts answers over tcp");
    ns.run("nft insert rule inet f in udp dport 55555 reject");
    server.is_cured("firewall", WARN, "a rule of the chain inet f in drops udp port 55555");
    ns.run("nft flush chain inet f in");
    ns.run("nft add rule inet f in ip saddr 10.86.43.51 accept");
    server.suffers("firewall", NOTE, "is not clear");
    let cure = Patient::of_nobody(ns, "-i tun3 -s").suffers("firewall", NOTE, "cannot be read");
    assert_eq!(cure, "sudo simpletun doctor with the same options");
}

/// A name that nobody knows, a peer without a route or behind the tunnel itself, a path that is narrower than the device.
#[test]
fn the_way_to_the_peer() {
    let lab = Lab::new();
    let ns = &lab.local;
    let _hosts = Hosts::mount();
    let named = Patient::new(ns, "-i tun3 -c far.example");
    named.is_cured_with("peer name", FAIL, "far.example cannot be looked up", |cure| cure.replace("ADDRESS", REMOTE));
    named.is_well("route");

    let far = Patient::new(ns, "-i tun3 -c 203.0.113.5 --route 0.0.0.0/0");
    far.is_cured_with("route", FAIL, "there is no route to the peer", |cure| cure.replace("GATEWAY", REMOTE));
    ns.run("ip route del 203.0.113.5");
    ns.run(&format!("ip route add default via {REMOTE}"));
    far.is_cured("route", FAIL, "the route 0.0.0.0/0 of the tunnel leads the peer 203.0.113.5 into the tunnel itself");
    ns.run("ip route del 203.0.113.5");
    let daemon = simpletun(ns, "-i tun3 -c 203.0.113.5 --udp --route 203.0.113.0/24");
    daemon.wait_for(line::SENDING);
    let running = Patient::new(ns, "-i tun3 -c 203.0.113.5 --udp --route 203.0.113.0/24");
    running.is_cured("route", FAIL, "the peer 203.0.113.5 is routed into the tunnel itself (tun3)");

    ns.run("ip tuntap add dev tun4 mode tun");
    let narrow = Patient::new(ns, format!("-i tun4 -c {REMOTE} --udp"));
    narrow.is_cured("path mtu", WARN, "packets of 1500 bytes become datagrams of 1528");
    ns.run("ip link set eth0 mtu 1400");
    narrow.is_cured("path mtu", WARN, "1400, and packets of 1472 bytes become datagrams of 1500");
}

/// A gateway that does not forward, and reverse path checks that drop what comes another way.
#[test]
fn forwarding_and_the_reverse_path() {
    let lab = Lab::new();
    let ns = &lab.local;
    let host = Ns::new("host");
    wire((ns, "lan"), (&host, "eth0"));
    let routed = Patient::new(ns, format!("-i tun3 -c {REMOTE} --route 10.2.0.0/24"));
    routed.suffers("forwarding", NOTE, "hosts behind it cannot");
    ns.address("lan", &["10.1.0.1/24"]);
    routed.is_cured("forwarding", WARN, "the hosts of the networks here do not use the tunnel");

    let _daemon = up(ns, &format!("-i tun3 -c {REMOTE} --udp --route 10.2.0.0/24"));
    let running = Patient::new(ns, format!("-i tun3 -c {REMOTE} --udp --route 10.2.0.0/24"));
    ns.sysctl("net.ipv4.conf.tun3.rp_filter", "1");
    running.is_well("rp_filter");
    ns.run(&format!("ip route add 10.2.0.0/25 via {REMOTE}"));
    running.is_cured("rp_filter", WARN, "10.2.0.0/24 is reached another way");

    ns.run("ip rule add fwmark 7 table 100");
    ns.run(&format!("ip route add default via {REMOTE} table 100"));
    let marked = "-i tun4 -c 203.0.113.5 --udp --fwmark 7 --route 203.0.113.0/24";
    let _marked = up(ns, marked);
    ns.sysctl("net.ipv4.conf.eth0.rp_filter", "1");
    let marked = Patient::new(ns, marked);
    marked.is_well("route");
    marked.is_cured("rp_filter", FAIL, "by which marked packets leave");
}

/// A daemon that sends, with a control socket.
fn up(ns: &Ns, args: &str) -> Daemon {
    fs::create_dir_all("/run/simpletun").expect("make a directory");
    let daemon = simpletun(ns, args);
    daemon.wait_for(line::SENDING);
    daemon
}

/// A file with a mistake, keys that are missing, open to others or no keys, and a clock that is behind the file.
#[test]
fn the_configuration_and_its_keys() {
    let here = Ns::here();
    let file = "/run/site.toml";
    let patient = Patient::new(&here, format!("--config {file}"));
    patient.suffers("configuration", FAIL, "does not exist");
    let text = |protection: &str| format!("{protection}\ninterface = 'tun3'\nserver = true\n");
    fs::write(file, text("security = 'plain'\nno-such-key = 1")).expect("write a file");
    patient.suffers("configuration", FAIL, "line 2: unknown field");
    fs::write(file, text("security = 'secret'\nsecret-file = ['/run/site.secret']")).expect("write a file");
    patient.is_well("configuration");
    patient.is_cured("keys", FAIL, "No such file or directory");
    here.run("chmod 644 /run/site.secret");
    patient.is_cured("keys", FAIL, "its mode is 0644");
    here.run("chown nobody /run/site.secret");
    patient.is_cured("keys", FAIL, "it belongs to user 65534");
    fs::write("/run/site.secret", "correct horse battery staple\n").expect("write a file");
    patient.is_cured("keys", FAIL, "this is not a key at all");
    here.run(&format!("chmod 600 {file}"));
    let cure =
        Patient::of_nobody(&here, format!("--config {file}")).suffers("configuration", FAIL, "nobody may not read");
    assert_eq!(cure, format!("sudo simpletun doctor --config {file}"));

    let own = new_key("/run/site.key");
    let keys = format!("security = 'keys'\nprivate-key-file = '/run/site.key'\npeer-public-key = ['{own}']");
    fs::write(file, text(&keys)).expect("write a file");
    patient.suffers("keys", FAIL, "this is the public key of this end");

    here.run(&format!("touch -d tomorrow {file}"));
    patient.suffers("clock", WARN, "/run/site.toml was written");
    here.run(&format!("touch {file}"));
    assert_ne!(patient.says("clock").0, WARN);
}

/// What a tunnel left that was killed with its helper.
#[test]
fn what_a_killed_tunnel_has_left() {
    let here = Ns::here();
    new_secret("/run/secret");
    here.run("ip tuntap add dev tun3 mode tun");
    let args = "-i tun3 -s --udp --secret-file /run/secret --address 192.168.0.1/24";
    let mut daemon = server(&here, args);
    let patient = Patient::new(&here, args);
    let children = format!("/proc/{0}/task/{0}/children", daemon.pid());
    let helper = fs::read_to_string(children).expect("the process runs");
    here.run(&format!("kill -KILL {} {}", helper.trim(), daemon.pid()));
    daemon.wait_status();
    patient.is_cured("leftovers", WARN, "a tunnel that was killed");
    assert!(!here.run("ip addr show dev tun3").contains("192.168.0.1"));
}

/// A mistake in the options is none of the tunnel's.
#[test]
fn wrong_options_are_a_mistake_in_usage() {
    let here = Ns::here();
    for args in ["-i tun3", "--nonsense", "-i tun3 -s --mtu 5", "a b"] {
        let output = here.command(&public_binary()).arg("doctor").args(args.split(' ')).output().expect("run doctor");
        assert_eq!(output.status.code(), Some(2), "{args}");
        assert_eq!(String::from_utf8_lossy(&output.stderr).lines().count(), 1, "{args}");
    }
}

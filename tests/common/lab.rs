//! Namespaces, the wires between them, and programs run inside.

use std::net::IpAddr;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use super::fault_wire::FaultWire;
use super::wait::{DEADLINE, succeed, wait_until};

/// A user without rights: "nobody" on every distribution.
pub const NOBODY: u32 = 65534;
/// Another one, who owns nothing.
pub const STRANGER: u32 = 65533;

/// The system's own: one found by `PATH` may be in a directory that other users cannot enter.
pub const PYTHON: &str = "/usr/bin/python3";

/// A network namespace; the empty name is the one that the test itself runs in.
#[derive(Clone, Debug)]
pub struct Ns {
    name: String,
}

/// Two hosts on one wire, `local` and `remote` as in the tutorial.
pub struct Lab {
    pub local: Ns,
    pub remote: Ns,
}

pub const LOCAL: &str = "10.86.43.51";
pub const REMOTE: &str = "10.86.43.52";
pub const LOCAL6: &str = "fd86:43::51";
pub const REMOTE6: &str = "fd86:43::52";

impl Lab {
    pub fn new() -> Self {
        Self::between(Ns::new("local"), Ns::new("remote"))
    }

    /// The local end is the test's own namespace, so that the test can open sockets there itself.
    pub fn with_test_inside() -> Self {
        Self::between(Ns::here(), Ns::new("remote"))
    }

    /// As [`Lab::with_test_inside`], and the kernel at the remote end says nothing by itself on any device.
    pub fn quiet() -> Self {
        let lab = Self::with_test_inside();
        lab.remote.silence();
        lab
    }

    /// As [`Lab::new`], on a wire that carries super-packets whole, as a network card that cuts them itself does.
    pub fn with_wire_offloads() -> Self {
        let lab = Self::new();
        lab.local.restore_offloads("eth0");
        lab.remote.restore_offloads("eth0");
        lab
    }

    /// As [`Lab::new`], on a wire that can lose, repeat, delay, reorder and damage what it carries, by a seed.
    pub fn with_fault_wire(seed: u64) -> (Self, FaultWire) {
        let lab = Self { local: Ns::new("local"), remote: Ns::new("remote") };
        let wire = FaultWire::new(["wire-l", "wire-r"], seed);
        for (ns, end) in [(&lab.local, "wire-l"), (&lab.remote, "wire-r")] {
            Ns::here().run(&format!("ip link set {end} netns {} name eth0", ns.name));
            ns.run("ip link set eth0 up");
        }
        (lab.addressed(), wire)
    }

    /// As [`Lab::new`], with names of their own, for a test that makes several.
    pub fn with(local: &str, remote: &str) -> Self {
        Self::between(Ns::new(local), Ns::new(remote))
    }

    fn between(local: Ns, remote: Ns) -> Self {
        wire((&local, "eth0"), (&remote, "eth0"));
        Self { local, remote }.addressed()
    }

    fn addressed(self) -> Self {
        self.local.address("eth0", &[&format!("{LOCAL}/24"), &format!("{LOCAL6}/64")]);
        self.remote.address("eth0", &[&format!("{REMOTE}/24"), &format!("{REMOTE6}/64")]);
        self
    }
}

/// Joins two namespaces by a veth pair, both ends up, without the offloads that hide packet sizes.
pub fn wire((left, left_device): (&Ns, &str), (right, right_device): (&Ns, &str)) {
    let here = Ns::here();
    here.run("ip link add wire-l type veth peer name wire-r");
    for (ns, device, temporary) in [(left, left_device, "wire-l"), (right, right_device, "wire-r")] {
        if ns.name.is_empty() {
            here.run(&format!("ip link set {temporary} name {device}"));
        } else {
            here.run(&format!("ip link set {temporary} netns {} name {device}", ns.name));
        }
        ns.run(&format!("ethtool -K {device} tso off gso off gro off tx off"));
        ns.run(&format!("ip link set {device} up"));
    }
}

impl Ns {
    pub fn new(name: &str) -> Self {
        assert_isolated();
        Self::here().run(&format!("ip netns add {name}"));
        let ns = Self { name: name.to_owned() };
        ns.run("ip link set lo up");
        ns.configure();
        ns
    }

    pub fn here() -> Self {
        assert_isolated();
        let ns = Self { name: String::new() };
        ns.configure();
        ns
    }

    /// Addresses are usable at once.
    fn configure(&self) {
        self.sysctl("net.ipv6.conf.all.accept_dad", "0");
        self.sysctl("net.ipv6.conf.default.accept_dad", "0");
    }

    /// No link-local addresses on devices to come, hence no solicitations and reports from them.
    pub fn silence(&self) {
        self.sysctl("net.ipv6.conf.default.addr_gen_mode", "1");
        self.sysctl("net.ipv6.conf.default.router_solicitations", "0");
    }

    /// Undoes what [`wire`] switched off.
    pub fn restore_offloads(&self, device: &str) {
        self.run(&format!("ethtool -K {device} tx on tso on gso on gro on"));
    }

    pub fn forward(&self) {
        self.sysctl("net.ipv4.ip_forward", "1");
        self.sysctl("net.ipv6.conf.all.forwarding", "1");
    }

    pub fn sysctl(&self, key: &str, value: &str) {
        self.run(&format!("sysctl -qw {key}={value}"));
    }

    pub fn address(&self, device: &str, addresses: &[&str]) {
        for address in addresses {
            self.run(&format!("ip addr add {address} dev {device}"));
        }
    }

    /// `program` inside this namespace, ready to be given arguments.
    pub fn command(&self, program: &str) -> Command {
        if self.name.is_empty() {
            return Command::new(program);
        }
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// As [`Ns::command`], as a user without capabilities.
    pub fn command_as(&self, uid: u32, program: &str) -> Command {
        let mut command = self.command("setpriv");
        command.args(["--reuid", &uid.to_string(), "--regid", &uid.to_string(), "--clear-groups"]);
        command.args(["--inh-caps=-all", "--", program]);
        command
    }

    fn words(&self, line: &str) -> Command {
        let mut words = line.split_whitespace();
        let mut command = self.command(words.next().expect("a program"));
        command.args(words);
        command
    }

    /// Runs a command line of plain words that must succeed; its standard output.
    #[track_caller]
    pub fn run(&self, line: &str) -> String {
        succeed(self.try_run(line), format_args!("{line} (in {})", self.label()))
    }

    pub fn try_run(&self, line: &str) -> Output {
        self.words(line).stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{line}: {e}"))
    }

    pub fn succeeds(&self, line: &str) -> bool {
        self.try_run(line).status.success()
    }

    /// Starts a program that goes on in the background and ends with the value. What it complains about is shown with
    /// the test's own messages.
    pub fn start(&self, line: &str) -> Background {
        let child = self.words(line).stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        Background(child.unwrap_or_else(|e| panic!("{line}: {e}")))
    }

    /// `count` pings of `size` bytes of payload that may not be fragmented; every one must be answered.
    #[track_caller]
    pub fn ping(&self, address: &str, count: u32, size: u32) {
        self.run(&format!("ping -n -c {count} -i 0.05 -W 5 -M do -s {size} {address}"));
    }

    pub fn answers(&self, address: &str) -> bool {
        self.succeeds(&format!("ping -n -q -c 1 -W 0.2 {address}"))
    }

    /// Pings until there is an answer; how long that took.
    #[track_caller]
    pub fn ping_until_answered(&self, address: &str, deadline: Duration) -> Duration {
        let what = format!("answer from {address} to {}", self.label());
        wait_until(deadline, what, || self.answers(address))
    }

    pub fn has_device(&self, device: &str) -> bool {
        self.succeeds(&format!("ip link show dev {device}"))
    }

    #[track_caller]
    pub fn wait_for_device(&self, device: &str) {
        wait_until(DEADLINE, format!("device {device} in {}", self.label()), || self.has_device(device));
    }

    /// True once something listens on the TCP port.
    #[track_caller]
    pub fn wait_for_listener(&self, port: u16) {
        wait_until(DEADLINE, format!("listener on port {port} in {}", self.label()), || {
            !self.run(&format!("ss -Hltn sport = :{port}")).is_empty()
        });
    }

    pub fn label(&self) -> &str {
        if self.name.is_empty() { "the test's own namespace" } else { &self.name }
    }
}

/// A program in the background, killed when dropped.
pub struct Background(Child);

impl Background {
    pub fn is_running(&mut self) -> bool {
        self.0.try_wait().expect("wait for child").is_none()
    }

    pub fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.kill();
    }
}

/// `host/prefix` for a host address; IPv6 gets /64, IPv4 /24.
pub fn with_prefix(address: &str) -> String {
    match address.parse().expect("an address") {
        IpAddr::V4(_) => format!("{address}/24"),
        IpAddr::V6(_) => format!("{address}/64"),
    }
}

fn assert_isolated() {
    assert!(
        std::env::var_os("SIMPLETUN_NETNS").is_some(),
        "this test makes devices and needs namespaces of its own: run scripts/test.sh"
    );
}

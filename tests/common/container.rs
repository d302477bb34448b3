//! Containers with a systemd of their own, each in a network namespace of the lab. They are made of the root directory of a
//! Debian release, which they do not change, and packages, all of which `scripts/container-test.sh` prepares.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Once;
use std::time::Duration;

use super::lab::Ns;
use super::wait::{exit_of, succeed, wait_for, wait_until};

/// For what takes a container seconds on a machine that does nothing else.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Status of systemd-nspawn when what is inside wants to be started again.
const WANTS_REBOOT: i32 = 133;

/// The Debian releases that containers are made of, and the version of their systemd.
#[derive(Clone, Copy, Debug)]
pub enum Release {
    /// systemd 252.
    Bookworm,
    /// systemd 257.
    Trixie,
}

/// A container; it ends with the value.
pub struct Container {
    ns: Ns,
    nspawn: Child,
    /// The first process inside, as seen from outside.
    leader: u32,
}

impl Container {
    /// Starts one with what the package manager has left in the release's root directory. It lives in the namespace `ns`.
    #[track_caller]
    pub fn start(ns: &Ns, release: Release) -> Self {
        static PREPARED: Once = Once::new();
        PREPARED.call_once(prepare);
        let roots = from_environment("SIMPLETUN_TEST_CONTAINERS");
        let own = own_directory(ns);
        for directory in ["upper", "work", "root"] {
            fs::create_dir_all(own.join(directory)).expect("make a directory");
        }
        let [upper, work, merged] = ["upper", "work", "root"].map(|name| own.join(name).display().to_string());
        let root = roots.join(format!("{release:?}").to_lowercase()).display().to_string();
        let layers = format!("lowerdir={root},upperdir={upper},workdir={work}");
        must("CAP_SYS_ADMIN", &["mount", "-t", "overlay", "overlay", "-o", &layers, &merged]);
        Self { ns: ns.clone(), nspawn: spawn(ns), leader: 0 }
    }

    /// Waits until it has started what it starts at boot.
    #[track_caller]
    pub fn booted(mut self) -> Self {
        self.wait_for_boot();
        self
    }

    #[track_caller]
    fn wait_for_boot(&mut self) {
        let pid = self.nspawn.id();
        let (leader, _) = wait_for(PATIENCE, format!("container {}", self.ns.label()), || {
            if let Ok(Some(status)) = self.nspawn.try_wait() {
                let said = fs::read_to_string(own_directory(&self.ns).join("console")).unwrap_or_default();
                panic!("systemd-nspawn ended with {status}; it has to be root with CAP_SYS_ADMIN: {said}");
            }
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
            let leader: u32 = children.split_whitespace().next()?.parse().ok()?;
            Path::new(&format!("/proc/{leader}/root/run/systemd/private")).exists().then_some(leader)
        });
        self.leader = leader;
        wait_until(PATIENCE, "an answer from systemd", || self.try_run("systemctl is-system-running").stdout.len() > 1);
        let state = String::from_utf8_lossy(&self.try_run("systemctl is-system-running --wait").stdout).into_owned();
        assert_eq!(state.trim(), "running", "{}", self.run("systemctl --failed --no-pager"));
    }

    /// Boots it anew, what was written to its files stays.
    #[track_caller]
    pub fn reboot(&mut self) {
        self.run("systemctl --no-block reboot");
        let status = exit_of(&mut self.nspawn, PATIENCE, "the container");
        assert_eq!(status.code(), Some(WANTS_REBOOT));
        self.nspawn = spawn(&self.ns);
        self.wait_for_boot();
    }

    /// Where a file of the container is, seen from outside.
    fn path(&self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{file}", self.leader))
    }

    pub fn write(&self, file: &str, text: &str) {
        let path = self.path(file);
        fs::create_dir_all(path.parent().expect("a directory")).expect("make a directory");
        fs::write(path, text).unwrap_or_else(|error| panic!("{file}: {error}"));
    }

    pub fn exists(&self, file: &str) -> bool {
        self.path(file).exists()
    }

    pub fn try_run(&self, line: &str) -> Output {
        self.enter(&line.split_whitespace().collect::<Vec<_>>())
    }

    fn enter(&self, words: &[&str]) -> Output {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.leader.to_string(), "-a", "--"]).args(words);
        command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// Runs what an administrator types, which must succeed; its standard output.
    #[track_caller]
    pub fn shell(&self, line: &str) -> String {
        succeed(self.enter(&["sh", "-e", "-c", line]), format_args!("{line} (in {})", self.ns.label()))
    }

    pub fn succeeds(&self, line: &str) -> bool {
        self.try_run(line).status.success()
    }

    /// Runs a command line of plain words that must succeed; its standard output.
    #[track_caller]
    pub fn run(&self, line: &str) -> String {
        succeed(self.try_run(line), format_args!("{line} (in {})", self.ns.label()))
    }

    /// Installs the package of this version.
    #[track_caller]
    pub fn install(&self, version: &str) -> String {
        let architecture = self.run("dpkg --print-architecture");
        self.run(&format!("dpkg -i /packages/simpletun_{version}_{}.deb", architecture.trim()))
    }

    /// What systemd says of a unit's property.
    #[track_caller]
    pub fn show(&self, unit: &str, property: &str) -> String {
        self.run(&format!("systemctl show -P {property} {unit}")).trim().to_owned()
    }

    /// What a unit has logged.
    #[track_caller]
    pub fn journal(&self, unit: &str) -> String {
        self.run(&format!("journalctl -b --no-pager -o cat -u {unit}"))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if std::thread::panicking() && self.leader != 0 {
            let output = self.try_run("journalctl -b --no-pager -n 60 -u simpletun@*");
            eprintln!("--- journal of {}\n{}", self.ns.label(), String::from_utf8_lossy(&output.stdout));
        }
        // With the first process everything inside ends, and then systemd-nspawn itself.
        if self.leader == 0 {
            let _ = self.nspawn.kill();
        } else {
            let _ = Command::new("kill").args(["-KILL", &self.leader.to_string()]).status();
        }
        let _ = self.nspawn.wait();
        // A process that was killed takes a moment to leave its group.
        let group = cgroup(&self.ns);
        for _ in 0..500 {
            let _ = Command::new("find").args([&group, "-depth", "-type", "d", "-delete"]).output();
            if !Path::new(&group).exists() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A directory that the machine has prepared for these tests.
#[track_caller]
pub fn from_environment(name: &str) -> PathBuf {
    let value = std::env::var_os(name).unwrap_or_else(|| {
        panic!("{name} is not set: scripts/container-test.sh prepares what containers are made of and runs this test")
    });
    PathBuf::from(value)
}

fn own_directory(ns: &Ns) -> PathBuf {
    Path::new("/run/containers").join(ns.label())
}

fn cgroup(ns: &Ns) -> String {
    format!("/sys/fs/cgroup/simpletun-test-{}-{}", test_id(), ns.label())
}

/// Different for each test of this machine: its namespace of network devices.
fn test_id() -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata("/proc/self/ns/net").map(|metadata| metadata.ino()).unwrap_or_default()
}

/// systemd wants the second version of control groups by itself.
fn prepare() {
    assert!(nix::unistd::geteuid().is_root(), "containers with systemd take root: run this test as root");
    let _ = Command::new("umount").args(["-R", "/sys/fs/cgroup"]).output();
    must("CAP_SYS_ADMIN and a kernel with cgroup2", &["mount", "-t", "cgroup2", "cgroup2", "/sys/fs/cgroup"]);
}

/// Runs what takes a privilege, which is named if it is not there.
#[track_caller]
fn must(privilege: &str, words: &[&str]) {
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap_or_else(|error| panic!("{words:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "containers take {privilege}, which is missing here: {words:?}: {said}");
}

fn spawn(ns: &Ns) -> Child {
    let (own, cgroup, name) = (own_directory(ns), cgroup(ns), ns.label());
    fs::create_dir_all(&cgroup).unwrap_or_else(|error| panic!("containers take a writable cgroup2: {cgroup}: {error}"));
    let console = fs::File::create(own.join("console")).expect("make a file");
    let packages = from_environment("SIMPLETUN_TEST_PACKAGES");
    let mut command = Command::new("sh");
    command.args(["-c", "echo $$ >\"$0\"/cgroup.procs && exec systemd-nspawn \"$@\"", &cgroup]);
    command.args(["--quiet", "--boot", "--register=no", "--keep-unit", "--console=pipe", "--link-journal=no"]);
    command.args(["--resolv-conf=off", "--timezone=off", "--bind=/dev/net/tun"]);
    // What systemd's device policy and the daemon's Landlock take, as on a host.
    for call in ["bpf", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"] {
        command.arg(format!("--system-call-filter={call}"));
    }
    command.arg("--capability=CAP_BPF,CAP_PERFMON,CAP_SYS_ADMIN,CAP_NET_ADMIN");
    command.arg(format!("--directory={}", own.join("root").display()));
    command.arg(format!("--machine={name}"));
    command.arg(format!("--network-namespace-path=/run/netns/{name}"));
    command.arg(format!("--bind-ro={}:/packages", packages.display()));
    command.env("SYSTEMD_NSPAWN_API_VFS_WRITABLE", "network").env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1");
    command.stdin(Stdio::null()).stdout(console.try_clone().expect("a second descriptor")).stderr(console);
    command.spawn().expect("systemd-nspawn of the package systemd-container")
}

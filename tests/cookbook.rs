//! The recipes of docs/COOKBOOK.md work: each is run as it stands there, its files and commands on the hosts that it names,
//! in the order of the document, and what it promises is seen.

use std::cell::RefCell;
use std::fmt::{self, Display};
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use crate::common::daemon::{Daemon, public_binary};
use crate::common::lab::{Ns, wire};
use crate::common::line;
use crate::common::wait::{succeed, wait_until};

/// Makes a test of each recipe, by the title of its section and the hosts that it is about; a third expression is what
/// else is looked at once it has been run.
macro_rules! recipes {
    ($($test:ident: $title:literal on $world:expr $(, then $look:expr)?;)*) => {
        $(
            #[doc = concat!("The recipe \"", $title, "\" works as it is written.")]
            #[test]
            fn $test() {
                let mut world = $world;
                world.follow($title);
                $( $look(&mut world); )?
            }
        )*
        const TESTED: &[&str] = &[$($title),*];
    };
}

recipes! {
    quick_link: "Quick link" on World::routed();
    quick_secure_link: "Quick link across the internet" on World::routed(), then the_printed_line_is_run;
    site_to_site: "Site to site" on World::routed();
    pair: "Both ends' files in one command" on World::routed();
    two_lans_as_one: "Two LANs as one Ethernet segment" on World::segment();
    laptop_behind_nat: "Laptop behind NAT" on World::with_nat(), then the_laptop_moves;
    ipv6_over_ipv4: "IPv6 over a path that has only IPv4" on World::routed();
    network_namespace: "A namespace that has nothing but the tunnel" on World::routed();
    failover: "Failover of two tunnels" on World::with_second_line();
    ospf: "OSPF over the tunnel" on World::routed();
    bgp: "BGP over the tunnel" on World::routed();
    guests: "A tap for a virtual machine" on World::segment(), then alice_attaches_a_guest;
    from_the_original: "From the original simpletun" on World::routed();
    from_vtun: "From vtun" on World::routed();
    from_openvpn: "From OpenVPN with a static key" on World::routed();
    from_ssh: "From ssh -w" on World::routed();
    from_gretap: "From gretap or VXLAN" on World::segment();
}

/// Everything has settled by then, routing daemons as well, on a machine that does other things beside.
const SETTLED: Duration = Duration::from_secs(60);

/// Said when the device is configured and the transport open: the commands that follow in a recipe find both.
const READY: &str = "This link is ";

/// A new recipe is tried, too.
#[test]
fn every_recipe_is_tried() {
    let titles: Vec<String> =
        recipes().into_iter().filter(|recipe| !recipe.blocks.is_empty()).map(|recipe| recipe.title).collect();
    assert_eq!(titles, TESTED);
}

/// As if it were pasted into a shell of the client.
fn the_printed_line_is_run(world: &mut World) {
    let said = world.daemons[0].text();
    let line = said.lines().find(|line| line.starts_with(" echo ")).unwrap_or_else(|| panic!("no line in {said}"));
    let line = line.trim_end();
    let (start, end) = (" echo st1psk:", "--udp --address 192.168.0.1/24 --secret-file -");
    assert!(line.starts_with(start) && line.contains(" -c 198.51.100.2 ") && line.ends_with(end), "{line}");
    let client = world.host("left").shell(&format!("{line} >&2"));
    let client = Daemon::spawn("the printed line".to_owned(), client);
    client.wait_for(line::UP);
    world.daemons.push(client);
    world.host("left").ns.ping_until_answered("192.168.0.2", SETTLED);
}

/// It gets another address: the link goes on, and the office hears from where.
fn the_laptop_moves(world: &mut World) {
    let laptop = &world.host("left-host").ns;
    laptop.run("ip address delete 10.1.0.10/24 dev eth0");
    laptop.address("eth0", &["10.1.0.77/24"]);
    laptop.run("ip route replace default via 10.1.0.1");
    laptop.ping_until_answered("10.2.0.10", SETTLED);
    // Said of a link that is up still.
    world.daemons[0].wait_for(line::MOVED);
}

/// What alice runs is no virtual machine but a program that answers pings of any address behind the device. It attaches
/// to the device in the same way, without rights.
fn alice_attaches_a_guest(world: &mut World) {
    let guest = world
        .host("right")
        .shell("exec setpriv --reuid alice --regid 65533 --clear-groups --inh-caps=-all -- simpletun echo -i tap1 >&2");
    let guest = Daemon::spawn("a guest".to_owned(), guest);
    guest.wait_for("Answering on device tap1");
    world.daemons.push(guest);
    world.host("left-host").ns.ping_until_answered("192.168.1.50", SETTLED);
}

/// A section of the document.
struct Recipe {
    title: String,
    blocks: Vec<Block>,
}

/// What stands between two fences whose first one names a host.
struct Block {
    host: String,
    kind: Kind,
    text: String,
}

enum Kind {
    /// ```` ```toml left:/etc/simpletun/site.toml ````
    File(String),
    /// ```` ```sh left ````
    Commands,
    /// ```` ```sh left check ````: has to succeed, at the latest when everything has settled.
    Check,
}

fn recipes() -> Vec<Recipe> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/COOKBOOK.md");
    let document = fs::read_to_string(path).expect("the document");
    let mut recipes: Vec<Recipe> = Vec::new();
    let mut lines = document.lines();
    while let Some(line) = lines.next() {
        if let Some(info) = line.strip_prefix("```") {
            let text: String = lines.by_ref().take_while(|line| *line != "```").flat_map(|line| [line, "\n"]).collect();
            let Some(block) = Block::new(info, text) else { continue };
            recipes.last_mut().expect("a heading before the first block").blocks.push(block);
        } else if line.starts_with("##") {
            recipes.push(Recipe { title: line.trim_start_matches('#').trim().to_owned(), blocks: Vec::new() });
        }
    }
    recipes
}

impl Block {
    /// None if it is there to be looked at.
    fn new(info: &str, text: String) -> Option<Self> {
        let words: Vec<&str> = info.split(' ').collect();
        let (host, kind) = match words[..] {
            ["text"] => return None,
            ["sh", host] => (host, Kind::Commands),
            ["sh", host, "check"] => (host, Kind::Check),
            [_, place] if place.contains(":/") => {
                let (host, path) = place.split_once(':').expect("a host and a path");
                (host, Kind::File(path.to_owned()))
            }
            _ => panic!("a block that is neither text nor says where it belongs: {info:?}"),
        };
        // A reader of the page does not see what stands at the fence.
        let named = match &kind {
            Kind::File(path) => format!("# {host}: {path}\n"),
            Kind::Commands => format!("# {host}\n"),
            Kind::Check => format!("# {host}: check\n"),
        };
        assert!(text.starts_with(&named), "{info:?} begins with {named:?}:\n{text}");
        Some(Self { host: host.to_owned(), kind, text })
    }
}

/// The hosts of the document, joined by wires.
struct World {
    hosts: Vec<Host>,
    daemons: Vec<Daemon>,
}

/// A network namespace and a mount namespace with its own files below /etc/simpletun and /etc/bird, its own sockets,
/// named namespaces and a user alice.
struct Host {
    name: &'static str,
    ns: Ns,
    /// Keeps both namespaces; ends with this process.
    holder: Child,
}

/// Where the hosts' own files are, by the hosts' names and addresses.
const FILES: &str = "/run/hosts";

/// Makes the mount namespace of a host, whose own files are in the directory `$1`.
const FURNISH: &str = "\
    mkdir -p $1/etc $1/work
    mount --make-rprivate /
    mount -t overlay -o lowerdir=/etc,upperdir=$1/etc,workdir=$1/work overlay /etc
    for name in simpletun bird; do
        mkdir -p /etc/$name $1/$name /run/$name
        mount --bind $1/$name /etc/$name
        mount -t tmpfs tmpfs /run/$name
    done
    { cat /etc/passwd; echo alice:x:65533:65533::/:/bin/sh; } >$1/passwd
    mount --bind $1/passwd /etc/passwd
    mount -t tmpfs tmpfs /run/netns
    echo ready
    exec cat";

/// Programs that the recipes call and that would need more of a host than there is: `scp` copies files to the host that has
/// the address, and `systemctl restart bird` starts bird.
const STAND_INS: [(&str, &str); 2] = [
    (
        "scp",
        "[ \"$1\" != -p ] || shift\n\
         for to; do :; done; to=${to#root@}\n\
         while [ $# -gt 1 ]; do cp -p \"$1\" \"/run/hosts/${to%%:*}/${to#*:/etc/}\"; shift; done",
    ),
    ("systemctl", "[ \"$*\" = 'restart bird' ]; exec bird"),
];

impl World {
    /// Two sites with a gateway each, `left` and `right`, and a network between them that knows nothing of the sites.
    fn routed() -> Self {
        let world = Self::gateways();
        for (site, number) in [("left", 1), ("right", 2)] {
            let gateway = &world.host(site).ns;
            gateway.address("lan", &[&format!("10.{number}.0.1/24"), &format!("2001:db8:{number}::1/64")]);
            let host = &world.host(&format!("{site}-host")).ns;
            host.address("eth0", &[&format!("10.{number}.0.10/24"), &format!("2001:db8:{number}::10/64")]);
            host.run(&format!("ip route add default via 10.{number}.0.1"));
            host.run(&format!("ip -6 route add default via 2001:db8:{number}::1"));
        }
        world
    }

    /// The same hosts; those of both LANs have addresses of one network.
    fn segment() -> Self {
        let world = Self::gateways();
        world.host("left-host").ns.address("eth0", &["192.168.1.10/24"]);
        world.host("right-host").ns.address("eth0", &["192.168.1.20/24"]);
        world
    }

    /// The gateway of the left LAN translates addresses.
    fn with_nat() -> Self {
        let world = Self::routed();
        let gateway = &world.host("left").ns;
        gateway.forward();
        gateway.run("nft add table ip nat");
        gateway.run("nft add chain ip nat out { type nat hook postrouting priority srcnat ; }");
        gateway.run("nft add rule ip nat out oifname wan masquerade");
        world.host("right").hears_of("10.2.0.1");
        world
    }

    /// A second line between the gateways.
    fn with_second_line() -> Self {
        let world = Self::routed();
        let (left, right) = (world.host("left"), world.host("right"));
        wire((&left.ns, "wan2"), (&right.ns, "wan2"));
        left.ns.address("wan2", &["192.0.2.1/30"]);
        right.ns.address("wan2", &["192.0.2.2/30"]);
        world
    }

    fn gateways() -> Self {
        let bin = Path::new("/run/bin");
        fs::create_dir_all(bin).expect("make directory");
        for (name, script) in STAND_INS {
            fs::write(bin.join(name), format!("#!/bin/sh\nset -eu\n{script}\n")).expect("write program");
            fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).expect("make it executable");
        }
        symlink(public_binary(), bin.join("simpletun")).expect("link the daemon");
        let hosts = ["left-host", "left", "internet", "right", "right-host"].map(Host::new);
        let [left_host, left, internet, right, right_host] = &hosts;
        wire((&left_host.ns, "eth0"), (&left.ns, "lan"));
        wire((&left.ns, "wan"), (&internet.ns, "left"));
        wire((&internet.ns, "right"), (&right.ns, "wan"));
        wire((&right.ns, "lan"), (&right_host.ns, "eth0"));
        internet.ns.forward();
        for (gateway, side, address, network) in
            [(left, "left", "203.0.113.1", "203.0.113"), (right, "right", "198.51.100.2", "198.51.100")]
        {
            internet.ns.address(side, &[&format!("{network}.254/24")]);
            gateway.ns.address("wan", &[&format!("{address}/24")]);
            gateway.ns.run(&format!("ip route add default via {network}.254"));
            gateway.hears_of(address);
        }
        Self { hosts: hosts.into(), daemons: Vec::new() }
    }

    #[track_caller]
    fn host(&self, name: &str) -> &Host {
        self.hosts.iter().find(|host| host.name == name).unwrap_or_else(|| panic!("no host {name}"))
    }

    fn follow(&mut self, title: &str) {
        let recipe = recipes().into_iter().find(|recipe| recipe.title == title);
        let recipe = recipe.unwrap_or_else(|| panic!("no recipe {title:?}"));
        assert!(!recipe.blocks.is_empty(), "{title:?} has nothing to do");
        for block in recipe.blocks {
            let host = self.host(&block.host);
            match block.kind {
                Kind::File(path) => host.write(&path, &block.text),
                Kind::Commands => {
                    let daemons = host.run(&block.text);
                    self.daemons.extend(daemons);
                }
                Kind::Check => host.check(&block.text),
            }
        }
    }
}

impl Host {
    fn new(name: &'static str) -> Self {
        let ns = Ns::new(name);
        let files = format!("{FILES}/{name}");
        let mut holder = ns
            .command("sh")
            .args(["-euc", FURNISH, "sh", &files])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the holder of a host");
        let mut said = String::new();
        BufReader::new(holder.stdout.as_mut().expect("stdout is piped")).read_line(&mut said).expect("read");
        assert_eq!(said, "ready\n", "{name} has files of its own");
        Self { name, ns, holder }
    }

    /// Files can be copied to it by this address.
    fn hears_of(&self, address: &str) {
        symlink(self.name, format!("{FILES}/{address}")).expect("link to the host");
    }

    fn write(&self, path: &str, text: &str) {
        let path = path.strip_prefix("/etc/").unwrap_or_else(|| panic!("{path} is not below /etc"));
        fs::write(format!("{FILES}/{}/{path}", self.name), text).unwrap_or_else(|e| panic!("{path}: {e}"));
    }

    /// Runs a script; lines that start a tunnel begin a daemon that goes on.
    #[track_caller]
    fn run(&self, script: &str) -> Vec<Daemon> {
        let mut daemons = Vec::new();
        let mut commands = String::new();
        for line in script.replace("\\\n", " ").lines() {
            if !line.starts_with("simpletun -") {
                commands += line;
                commands.push('\n');
                continue;
            }
            self.must(&std::mem::take(&mut commands));
            // What is for a terminal only gets one, by script(1).
            let command = match line.contains("--pair") {
                true => self.shell(&format!("exec script -qefc '{line}' /dev/null >&2")),
                false => self.shell(&format!("exec {line}")),
            };
            let daemon = Daemon::spawn(format!("{line} (on {})", self.name), command);
            daemon.wait_for(READY);
            daemons.push(daemon);
        }
        self.must(&commands);
        daemons
    }

    #[track_caller]
    fn must(&self, script: &str) {
        succeed(self.try_run(script), format_args!("on {}:\n{script}", self.name));
    }

    #[track_caller]
    fn check(&self, script: &str) {
        let failure = Failure { host: self.name, script, output: RefCell::default() };
        wait_until(SETTLED, &failure, || {
            let output = self.try_run(script);
            let succeeds = output.status.success();
            failure.output.replace(Some(output));
            succeeds
        });
    }

    fn try_run(&self, script: &str) -> Output {
        self.shell(script).stdin(Stdio::null()).output().expect("run nsenter")
    }

    fn shell(&self, script: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-n", "-m", "-t", &self.holder.id().to_string(), "sh", "-euc", script]);
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("/run/bin:{path}:/usr/sbin:/sbin"));
        command
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// A check that does not succeed, told with what it said last.
struct Failure<'a> {
    host: &'a str,
    script: &'a str,
    output: RefCell<Option<Output>>,
}

impl Display for Failure<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "success on {} of\n{}", self.host, self.script)?;
        let output = self.output.borrow();
        let Some(output) = output.as_ref() else { return Ok(()) };
        f.write_str(&String::from_utf8_lossy(&output.stdout))?;
        f.write_str(&String::from_utf8_lossy(&output.stderr))
    }
}

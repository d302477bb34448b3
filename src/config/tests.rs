//! What the parser accepts, what it makes of it, and the sentence for each mistake.

use super::*;
use clap::Parser;

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    options: Options,
}

/// A host without keys, credentials and state.
struct NoKeys;

impl KeySource for NoKeys {
    fn read(&self, file: &str) -> Result<zeroize::Zeroizing<Vec<u8>>, KeyFileError> {
        panic!("a plain link reads no key, and not from {file}")
    }

    fn credential(&self, name: &str) -> Option<String> {
        panic!("a plain link asks for no credential, and not for {name}")
    }

    fn state_directory(&self) -> Option<PathBuf> {
        None
    }
}

pub(super) fn options(line: &str) -> Options {
    Flags::try_parse_from(std::iter::once("simpletun").chain(line.split_whitespace())).expect("legal flags").options
}

fn parse(line: &str) -> Result<Config, ConfigError> {
    Config::new(&options(line), &|name, _| (name == "domain").then_some(53), &NoKeys)
}

fn config(line: &str) -> Config {
    parse(line).unwrap_or_else(|error| panic!("{line}: {error}"))
}

fn mistake(line: &str) -> String {
    parse(line).err().unwrap_or_else(|| panic!("{line} is accepted")).to_string()
}

fn endpoint(line: &str) -> String {
    match config(line).link.role {
        Role::Connect(endpoint) => endpoint.to_string(),
        Role::Listen(access) => panic!("a client was expected, not {access:?}"),
    }
}

#[test]
fn the_defaults_are_those_of_the_original() {
    let server = config("-i tun3 -s");
    assert_eq!(server.link.bind, Bind { address: None, port: 55_555 });
    assert_eq!((server.link.protocol, server.device.kind), (Protocol::Tcp, LinkLayer::Tun));
    assert_eq!(server.link.role, Role::Listen(Access::Protected));
    assert_eq!(endpoint("-i tun11 -c 10.86.43.52"), "10.86.43.52:55555");
    assert_eq!(config("-i tun11 -c 10.86.43.52").link.bind.port, 0);
}

#[test]
fn servers_are_named_in_every_usual_form() {
    for (given, expected) in [
        ("host.example", "host.example:55555"),
        ("host.example:99", "host.example:99"),
        ("host:domain", "host:53"),
        ("192.0.2.1:99", "192.0.2.1:99"),
        ("2001:db8::1", "[2001:db8::1]:55555"),
        ("[2001:db8::1]", "[2001:db8::1]:55555"),
        ("[2001:db8::1]:99", "[2001:db8::1]:99"),
        ("fe80::1%eth0", "[fe80::1%eth0]:55555"),
        ("[fe80::1%eth0]:99", "[fe80::1%eth0]:99"),
        ("::ffff:192.0.2.1", "192.0.2.1:55555"),
    ] {
        assert_eq!(endpoint(&format!("-i t -c {given}")), expected);
    }
    assert_eq!(endpoint("-i t -c host -p domain"), "host:53");
}

#[test]
fn addresses_take_their_peer_and_mask() {
    for (line, local, peer, prefix_len) in [
        ("--address 10.66.66.1/24", "10.66.66.1", None, 24),
        (
            "--address 10.66.66.1 --peer-address 10.66.66.2 --netmask 255.255.255.0",
            "10.66.66.1",
            Some("10.66.66.2"),
            24,
        ),
        ("--address 10.66.66.1 --peer-address 10.66.66.2", "10.66.66.1", Some("10.66.66.2"), 32),
        ("--address 10.66.66.2/31", "10.66.66.2", Some("10.66.66.3"), 31),
        ("--address 192.0.2.1/24 --peer-address 198.51.100.1", "192.0.2.1", Some("198.51.100.1"), 24),
        ("--address 172.31.7.57 --netmask 255.255.240.0", "172.31.7.57", None, 20),
        ("--address fd00::1 --peer-address fd00::2", "fd00::1", Some("fd00::2"), 128),
        ("--address fd00::1/64", "fd00::1", None, 64),
    ] {
        let network = config(&format!("-i t -s {line}")).network;
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let expected = InterfaceAddress { local: ip(local), peer: peer.map(ip), prefix_len };
        assert_eq!(network.addresses, [expected], "{line}");
        assert!(network.up, "an address implies up");
    }
}

#[test]
fn a_peer_address_goes_to_the_address_of_its_family() {
    let network = config("-i t -s --address 10.0.0.1/24 --address fd00::1 --peer-address fd00::2").network;
    assert_eq!(network.addresses[0].peer, None);
    assert_eq!(network.addresses[1].peer, Some("fd00::2".parse().expect("an address")));
}

#[test]
fn access_follows_the_options() {
    let access = |line: &str| match config(&format!("-i t -s {line}")).link.role {
        Role::Listen(access) => access,
        Role::Connect(_) => panic!("a server was expected"),
    };
    assert_eq!(access("--allow any"), Access::Any);
    assert_eq!(access("--allow 192.0.2.0/24 --allow any"), Access::Any);
    let networks = vec!["192.0.2.0/24".parse().expect("a net"), "2001:db8::1/128".parse().expect("a net")];
    assert_eq!(access("--allow 192.0.2.0/24 --allow 2001:db8::1"), Access::Networks(networks));
    let endpoint = |port| Endpoint { host: Host::Name("peer".to_owned()), port };
    assert_eq!(access("--remote peer -p 7"), Access::Remote { endpoint: endpoint(7), port_given: false });
    assert_eq!(access("--remote peer:9 -p 7"), Access::Remote { endpoint: endpoint(9), port_given: true });
}

#[test]
fn the_local_end_of_both_roles_can_be_given() {
    let bind = |line: &str| config(line).link.bind;
    let address = Some("192.0.2.1".parse().expect("an address"));
    assert_eq!(bind("-i t -s --bind 192.0.2.1 -p 7"), Bind { address, port: 7 });
    assert_eq!(bind("-i t -s --bind 192.0.2.1:8"), Bind { address, port: 8 });
    assert_eq!(bind("-i t -c host --bind 192.0.2.1:8 -p 7"), Bind { address, port: 8 });
}

#[test]
fn the_mtu_that_fits_a_datagram_follows_the_address_family() {
    let fitting = |line: &str| config(line).link.fitting_mtu();
    assert_eq!(fitting("-i t -c 192.0.2.1"), None);
    assert_eq!(fitting("-i t -U -c 192.0.2.1"), Some(1472));
    assert_eq!(fitting("-i t -U -c ::ffff:192.0.2.1"), Some(1472));
    assert_eq!(fitting("-i t -U -c 2001:db8::1"), Some(1452));
    assert_eq!(fitting("-i t -U -c host"), Some(1452));
    assert_eq!(fitting("-i t -U -s"), Some(1452));
    assert_eq!(fitting("-i t -U -s --bind 192.0.2.1"), Some(1472));
    assert_eq!(fitting("-i t -U -s --remote 192.0.2.1"), Some(1472));
}

/// Every mistake is one sentence that names the option, the value and the cure.
#[test]
fn mistakes_name_option_value_and_cure() {
    for (line, option, value) in [
        ("-i waytoolongname16 -s", "interface", "waytoolongname16"),
        ("-i a/b -s", "interface", "a/b"),
        ("-i a:b -s", "interface", "a:b"),
        ("-i .. -s", "interface", ".."),
        ("-i tun%s -s", "interface", "tun%s"),
        ("-i t%d%d -s", "interface", "t%d%d"),
        ("-i t -s -p 0", "port", "0"),
        ("-i t -s -p 65536", "port", "65536"),
        ("-i t -s -p -1", "port", "-1"),
        ("-i t -s -p nosuchservice", "port", "nosuchservice"),
        ("-i t -c host:0", "connect", "host:0"),
        ("-i t -c host:", "connect", "host:"),
        ("-i t -c [fe80::1", "connect", "[fe80::1"),
        ("-i t -c [fe80::1]x", "connect", "[fe80::1]x"),
        ("-i t -c 10.0.0.256", "connect", "10.0.0.256"),
        ("-i t -c 10.0.0", "connect", "10.0.0"),
        ("-i t -c fe80::g", "connect", "fe80::g"),
        ("-i t -c ho/st", "connect", "ho/st"),
        ("-i t -c -host", "connect", "-host"),
        ("-i t -c 0.0.0.0", "connect", "0.0.0.0"),
        ("-i t -c 224.0.0.1", "connect", "224.0.0.1"),
        ("-i t -c host:7 -p 8", "connect", "7"),
        ("-i t -s --bind host", "bind", "host"),
        ("-i t -s --bind 224.0.0.1", "bind", "224.0.0.1"),
        ("-i t -s --bind 192.0.2.1:7 -p 8", "bind", "7"),
        ("-i t -s --address 10.0.0.1", "address", "10.0.0.1"),
        ("-i t -s --address 10.0.0.1/33", "address", "10.0.0.1/33"),
        ("-i t -s --address 10.0.0.1/0", "address", "10.0.0.1/0"),
        ("-i t -s --address 10.0.0.1/x", "address", "10.0.0.1/x"),
        ("-i t -s --address 224.0.0.1/24", "address", "224.0.0.1"),
        ("-i t -s --address x/24", "address", "x"),
        ("-i t -s --address 10.0.0.1/24 --netmask 255.255.0.0", "netmask", "255.255.0.0"),
        ("-i t -s --address 10.0.0.1 --netmask 255.0.255.0", "netmask", "255.0.255.0"),
        ("-i t -s --netmask 255.255.255.0", "netmask", "255.255.255.0"),
        ("-i t -s --peer-address 10.0.0.2", "peer-address", "10.0.0.2"),
        ("-i t -s --address 10.0.0.1/24 --peer-address fd00::2", "peer-address", "fd00::2"),
        ("-i t -s --route 10.0.0.1/8", "route", "10.0.0.1/8"),
        ("-i t -s --route here", "route", "here"),
        ("-i t -s --mtu 67", "mtu", "67"),
        ("-i t -s --mtu 65536", "mtu", "65536"),
        ("-i t -s --mtu x", "mtu", "x"),
        ("-i t -s --mtu 1279 --address fd00::1/64", "mtu", "1279"),
        ("-i t -s --mac 02:00:5e:10:00:01", "mac", "02:00:5e:10:00:01"),
        ("-i t -s -a --mac 01:00:5e:10:00:01", "mac", "01:00:5e:10:00:01"),
        ("-i t -s -a --mac 02:00:5e:10:00", "mac", "02:00:5e:10:00"),
        ("-i t -s -a --mac 02:00:5e:10:00:+1", "mac", "02:00:5e:10:00:+1"),
        ("-i t -s --txqueuelen -1", "txqueuelen", "-1"),
        ("-i t -s --fwmark 0xg", "fwmark", "0xg"),
        ("-i t -s --keepalive soon", "keepalive", "soon"),
        ("-i t -s --keepalive 500ms", "keepalive", "500ms"),
        ("-i t -s --down-after 2h", "down-after", "2h"),
        ("-i t -s --keepalive 8s --down-after 10s", "down-after", "10s"),
        ("-i t -s --offload maybe", "offload", "maybe"),
        ("-i t -s --carrier maybe", "carrier", "maybe"),
        ("-i t -s --control status.sock", "control", "root on"),
        ("-i t -s --metrics 9586", "metrics", "an address and a port"),
        ("-i t -s --metrics localhost:9586", "metrics", "127.0.0.1:9586"),
        ("-i t -s --metrics 0.0.0.0:9586", "metrics", "proxy"),
        ("-i t -s --metrics [2001:db8::1]:9586", "metrics", "proxy"),
        ("-i t -s --metrics 127.0.0.1:0", "metrics", "port"),
        ("-i t -s --mss-clamp on", "mss-clamp", "on"),
        ("-i t -s --split on", "split", "on"),
        ("-i t -s --mss-clamp 47", "mss-clamp", "47"),
        ("-i t -s --mss-clamp 65496", "mss-clamp", "65496"),
        ("-i t -s -U --congestion bbr", "congestion", "bbr"),
        ("-i t -s --congestion b/r", "congestion", "b/r"),
        ("-i t -s --congestion averylongname1234", "congestion", "averylongname1234"),
        ("-i t -s --sndbuf 1", "sndbuf", "1"),
        ("-i t -s --rcvbuf 4g", "rcvbuf", "4g"),
        ("-i t -s --allow here", "allow", "here"),
        ("-i t -s --allow 10.0.0.1/8", "allow", "10.0.0.1/8"),
        ("-i t -s --remote host --allow any", "remote", "host"),
        ("-i t -c host --allow any", "allow", "any"),
        ("-i t -c host --remote peer", "remote", "peer"),
        ("-i t -s --bind-device a/b", "bind-device", "a/b"),
        ("-i t -s --bind-device tun%d", "bind-device", "tun%d"),
        ("-i t -s -U --once", "once", "udp"),
    ] {
        // clap takes a value that begins with a hyphen only behind an equals sign.
        let line = line.replace(" -1", "=-1").replace("-c -host", "-c=-host");
        let text = mistake(&line);
        assert!(text.contains(option) && text.contains(value), "{line}: {text}");
        assert!(!text.contains('\n') && text.contains([';', ':']), "{line}: {text}");
    }
}

#[test]
fn the_original_texts_are_kept_and_come_in_its_order() {
    assert_eq!(mistake("-s"), "Must specify interface name!");
    assert_eq!(mistake(""), "Must specify interface name!");
    assert_eq!(mistake("-i t"), "Must specify client or server mode!");
    assert_eq!(mistake("-i t -c="), "Must specify server address!");
}

fn file(text: &str) -> Result<Options, ConfigError> {
    Options::from_toml(text, "t.toml")
}

#[test]
fn a_file_has_the_keys_of_the_flags_and_flags_override_it() {
    let text = "security = 'plain'\ninterface = 'tun3'\nserver = true\nport = 7\nmtu = '1400'\nudp = true\n\
                address = ['10.0.0.1/24', 'fd00::1/64']\nkeepalive = '4s'\n";
    let from_file =
        Config::new(&file(text).expect("a legal file"), &|_, _| None, &NoKeys).expect("a legal configuration");
    assert_eq!(from_file.link.bind.port, 7);
    assert_eq!(from_file.link.protocol, Protocol::Udp);
    assert_eq!(from_file.network.mtu, Some(1400));
    assert_eq!(from_file.network.addresses.len(), 2);
    assert_eq!(from_file.link.keepalive, Duration::from_secs(4));
    let flags = options("-c host -a --tcp --address 10.9.9.9/8 -p 8");
    let merged = file(text).expect("a legal file").overlaid_with(flags);
    let merged = Config::new(&merged, &|_, _| None, &NoKeys).expect("a legal configuration");
    assert!(merged.link.role.is_client());
    assert_eq!((merged.device.kind, merged.link.protocol), (LinkLayer::Tap, Protocol::Tcp));
    assert_eq!((merged.network.addresses.len(), merged.network.mtu), (1, Some(1400)));
}

#[test]
fn the_segment_size_is_clamped_unless_that_is_switched_off() {
    for (line, expected) in [
        ("-i t -s", MssClamp::Auto),
        ("-i t -s --mss-clamp auto", MssClamp::Auto),
        ("-i t -s --mss-clamp off", MssClamp::Off),
        ("-i t -s --mss-clamp 48", MssClamp::Fixed(48)),
        ("-i t -s --mss-clamp 65495", MssClamp::Fixed(65_495)),
    ] {
        let config = Config::new(&options(line), &|_, _| None, &NoKeys).expect("a legal configuration");
        assert_eq!(config.link.mss_clamp, expected, "{line}");
    }
    let text = "security = 'plain'\ninterface = 't'\nserver = true\nmss-clamp = 1300\n";
    let config = Config::new(&file(text).expect("a legal file"), &|_, _| None, &NoKeys).expect("a legal configuration");
    assert_eq!(config.link.mss_clamp, MssClamp::Fixed(1300));
}

#[test]
fn mistakes_in_a_file_name_the_line() {
    for (text, expected) in [
        ("interface = 'tun3'\nserver = true\n", "security = \"plain\""),
        ("security = 'plain'\nserver = true\nconnect = 'x'\n", "both server and connect"),
        ("security = 'plain'\ntun = true\ntap = true\n", "both tun and tap"),
        ("security = 'plain'\nadress = ['10.0.0.1/24']\n", "line 2"),
        ("security = 'plain'\naddress = '10.0.0.1/24'\n", "line 2"),
        ("security = 'plain'\n\nserver = 1\n", "line 3"),
        ("security = 'plain'\nserver\n", "line 2"),
        ("security = 'plain'\nmtu = 1.5\n", "line 2"),
    ] {
        let error = file(text).expect_err(text).to_string();
        assert!(error.contains(expected) && error.contains("t.toml") && !error.contains('\n'), "{text}: {error}");
    }
}

#[test]
fn an_unknown_word_for_the_security_is_refused() {
    let options = file("security = 'Plain'\ninterface = 't'\nserver = true\n").expect("a legal file");
    let error = Config::new(&options, &|_, _| None, &NoKeys).expect_err("an unknown word").to_string();
    assert!(error.contains("security") && error.contains("plain"), "{error}");
}

#[test]
fn a_tunnel_can_be_watched_where_it_is_asked_for() {
    let control = |line: &str| config(line).control;
    assert_eq!(control("-i t -s"), ControlConfig::default());
    assert_eq!(control("-i t -s --control off").socket, ControlChoice::Off);
    assert_eq!(control("-i t -s --control /run/a.sock").socket, ControlChoice::Path("/run/a.sock".into()));
    for address in ["127.0.0.1:9586", "127.8.9.1:1", "[::1]:9586"] {
        assert_eq!(
            control(&format!("-i t -s --metrics {address}")).metrics,
            Some(address.parse().expect("an address"))
        );
    }
    let text = "security = 'plain'\ninterface = 't'\nserver = true\ncontrol = 'off'\nmetrics = '127.0.0.1:9586'\n";
    let options = Options::from_toml(text, "file").expect("a legal file");
    let config = Config::new(&options, &|_, _| None, &NoKeys).expect("legal settings");
    assert_eq!((config.control.socket, config.control.metrics.is_some()), (ControlChoice::Off, true));
}

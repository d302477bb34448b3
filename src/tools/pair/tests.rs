//! What is made of any settings is taken by the daemon and says what was asked for.

use ipnet::IpNet;
use proptest::prelude::*;

use super::files::{Chance, End, both_ends, set};
use super::next::steps;
use super::settings::{Settings, Typed};
use crate::config::{ConfigError, Options, Protocol};
use crate::tunnel::keys::{KeyKind, PrivateKey, SharedSecret};

fn service(name: &str, _: Protocol) -> Option<u16> {
    (name == "https").then_some(443)
}

fn chance(ipv4: u64, ipv6: u64) -> Chance {
    let [client, server] = [1, 2].map(|byte| PrivateKey::from_bytes([byte; 32]));
    Chance { client, server, secret: SharedSecret::from_bytes([3; 32]), ipv4, ipv6 }
}

fn made(typed: &Typed<'_>, chance: &Chance) -> Result<(Settings, [End; 2]), ConfigError> {
    let settings = Settings::new(typed, &service)?;
    let ends = both_ends(&settings, chance)?;
    Ok((settings, ends))
}

fn options(end: &End) -> Options {
    Options::from_toml(&end.files[0].content, "file").expect("it was read before")
}

/// The sentence about one setting, beside others that are right.
fn mistake(change: impl FnOnce(&mut Typed<'_>)) -> String {
    let mut typed = Typed { name: "site", server: "192.0.2.1", ..Typed::default() };
    change(&mut typed);
    match made(&typed, &chance(0, 0)) {
        Ok(_) => panic!("{typed:?} is taken"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn what_cannot_be_used_is_named_with_the_cure() {
    for (name, word) in [
        ("", "letters, digits"),
        ("-a", "letters, digits"),
        (".a", "letters, digits"),
        ("a/b", "letters, digits"),
        ("tun%d", "letters, digits"),
        ("a\"b", "letters, digits"),
        ("straße", "letters, digits"),
        ("abcdefghijklmnop", "15 bytes"),
        ("all", "choose another"),
    ] {
        let said = mistake(|typed| typed.name = name);
        assert!(said.starts_with("Option NAME cannot be") && said.contains(word), "{name:?}: {said}");
    }
    for server in ["", "a b", "host:0", "host:none", "1.2.3", "0.0.0.0", "[::1"] {
        let said = mistake(|typed| typed.server = server);
        assert!(said.starts_with("Option server cannot be"), "{server:?}: {said}");
    }
    for (network, word) in [
        ("10.0.0.1", "both ends need one"),
        ("fd00::1/128", "both ends need one"),
        ("10.0.0.1/24", "bits behind the prefix"),
        ("none of them", "not a network"),
        ("0.0.0.0/0", "not those of hosts"),
        ("127.0.0.0/8", "not those of hosts"),
        ("224.0.0.0/24", "not those of hosts"),
        ("ff00::/64", "not those of hosts"),
        ("::/96", "not those of hosts"),
    ] {
        let said = mistake(|typed| typed.addresses = Box::leak(Box::new([network.to_owned()])));
        assert!(said.starts_with("Option addresses cannot be") && said.contains(word), "{network:?}: {said}");
    }
    let two = ["10.1.0.0/30".to_owned(), "10.2.0.0/30".to_owned()];
    assert!(mistake(|typed| typed.addresses = Box::leak(Box::new(two.clone()))).contains("keep one of them"));
}

#[test]
fn networks_that_lead_nowhere_are_refused() {
    fn texts(text: &str) -> &'static [String] {
        Box::leak(Box::new([text.to_owned()]))
    }
    let both =
        mistake(|typed| (typed.behind_server, typed.behind_client) = (texts("10.1.0.0/24"), texts("10.1.0.0/24")));
    assert!(both.contains("behind the server, too"), "{both}");
    let around = mistake(|typed| typed.behind_server = texts("0.0.0.0/0"));
    assert!(around.contains("the tunnel into the tunnel"), "{around}");
    let own = mistake(|typed| (typed.addresses, typed.behind_client) = (texts("10.1.0.0/16"), texts("10.1.2.0/24")));
    assert!(own.contains("another network"), "{own}");
    let tap = mistake(|typed| (typed.tap, typed.behind_client) = (true, texts("10.1.0.0/24")));
    assert!(tap.contains("needs a gateway"), "{tap}");
}

/// Two hosts on one network each, and the server is the first.
#[test]
fn addresses_are_the_first_two_of_the_network() {
    for (network, server, client) in [
        ("10.9.0.0/30", "10.9.0.1/30", "10.9.0.2/30"),
        ("10.9.0.4/31", "10.9.0.4/31", "10.9.0.5/31"),
        ("10.0.0.0/8", "10.0.0.1/8", "10.0.0.2/8"),
        ("fd00:9::/64", "fd00:9::1/64", "fd00:9::2/64"),
        ("fd00:9::8/127", "fd00:9::8/127", "fd00:9::9/127"),
    ] {
        let addresses = [network.to_owned()];
        let typed = Typed { name: "site", server: "host", addresses: &addresses, ..Typed::default() };
        let (_, ends) = made(&typed, &chance(0, 0)).expect("a pair");
        let found = ends.map(|end| options(&end).address[0].to_string());
        assert_eq!(found, [client, server], "{network}");
    }
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![4 => "[a-z0-9][a-zA-Z0-9_.-]{0,14}", 1 => "\\PC{0,18}", 1 => any::<String>()]
}

fn server() -> impl Strategy<Value = String> {
    let address = any::<std::net::IpAddr>().prop_map(|address| address.to_string());
    prop_oneof![4 => "[a-z0-9.-]{1,20}(:[0-9]{1,5})?", 2 => address, 1 => "\\PC{0,30}(:https)?", 1 => any::<String>()]
}

fn networks() -> impl Strategy<Value = Vec<String>> {
    let network = (any::<std::net::IpAddr>(), 0..=128u8).prop_filter_map("a length", |(address, len)| {
        IpNet::new(address, len).ok().map(|network| network.trunc().to_string())
    });
    prop::collection::vec(prop_oneof![8 => network, 1 => any::<String>()], 0..3)
}

proptest! {
    /// Whatever is typed: it is refused with a sentence, or the daemon takes the files of both ends and reads what was meant.
    #[test]
    fn what_is_made_is_taken(
        (name, server) in (name(), server()),
        (addresses, behind_server, behind_client) in (networks(), networks(), networks()),
        [tap, tcp, secret] in any::<[bool; 3]>(),
        (ipv4, ipv6) in any::<(u64, u64)>(),
    ) {
        let typed = Typed {
            name: &name, server: &server, tap, tcp, secret,
            addresses: &addresses, behind_server: &behind_server, behind_client: &behind_client,
        };
        let settings = match Settings::new(&typed, &service) {
            Ok(settings) => settings,
            Err(error) => {
                let said = error.to_string();
                prop_assert!(said.starts_with("Option ") && said.lines().count() == 1, "{said}");
                return Ok(());
            }
        };
        let ends = both_ends(&settings, &chance(ipv4, ipv6));
        let ends = ends.map_err(|error| TestCaseError::fail(format!("{typed:?}: {error}")))?;
        let [client, waiting] = [options(&ends[0]), options(&ends[1])];
        let text = |text: Option<crate::config::Text>| text.map(|text| text.to_string());
        prop_assert_eq!(text(client.interface), Some(name.clone()));
        prop_assert_eq!(text(waiting.interface), Some(name.clone()));
        prop_assert_eq!(text(client.connect), Some(settings.server.to_string()));
        prop_assert_eq!(text(waiting.port), Some(settings.server.port.to_string()));
        prop_assert!(waiting.server && !client.server);
        prop_assert_eq!(client.route.len(), settings.behind_server.len());
        prop_assert_eq!(waiting.route.len(), settings.behind_client.len());
        prop_assert_eq!(client.address.len(), waiting.address.len());
        for (own, peer) in ends[0].addresses.iter().zip(&ends[1].addresses) {
            prop_assert_ne!(own, peer);
            prop_assert_eq!(own.trunc(), peer.trunc());
        }
        let said = steps(&settings, &ends, name.as_ref());
        for kind in [KeyKind::Private, KeyKind::Secret] {
            prop_assert!(!said.contains(kind.prefix()), "{said}");
        }
    }

    /// No bits make anything but a network of our own.
    #[test]
    fn random_networks_are_private(ipv4: u64, ipv6: u64) {
        let typed = Typed { name: "site", server: "host", ..Typed::default() };
        let (_, ends) = made(&typed, &chance(ipv4, ipv6)).expect("a pair");
        let [all, local] = ["10.128.0.0/9", "fd00::/8"].map(|text| text.parse::<IpNet>().expect("a network"));
        for end in ends {
            let found: Vec<IpNet> = end.addresses;
            prop_assert!(all.contains(&found[0]) && found[0].prefix_len() == 30, "{found:?}");
            prop_assert!(local.contains(&found[1]) && found[1].prefix_len() == 64, "{found:?}");
        }
    }

    /// A value stays a value, whatever is in it.
    #[test]
    fn values_are_quoted(value: String) {
        let mut text = "security = \"plain\"\n".to_owned();
        set(&mut text, "interface", value.as_str());
        set(&mut text, "server", true);
        let options = Options::from_toml(&text, "file").map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(options.interface.map(|text| text.to_string()), Some(value));
        prop_assert!(options.server);
    }
}

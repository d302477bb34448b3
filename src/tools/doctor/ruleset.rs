//! What the rules of nftables do with a packet, as far as that can be told from their text (libnftables-json(5)). Pure.
//!
//! Rules ask for much that is not known here. Each match is answered by yes, no or perhaps, and what stays open is
//! said to be open.

use serde_json::{Map, Value};

/// Chains that lead to each other are followed so far; the kernel allows 16 (`NFT_JUMP_STACK_SIZE`).
const MAX_DEPTH: usize = 16;

/// What is asked about.
#[derive(Clone, Debug)]
pub struct Packet {
    /// `input` or `output`.
    pub hook: &'static str,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The port that it goes to; nothing for answers to a port that is not known beforehand.
    pub port: Option<u16>,
    /// `new` or `established`.
    pub state: &'static str,
    /// True for IPv4, nothing if it may be either.
    pub is_ipv4: Option<bool>,
}

/// A chain that is in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// `family table chain`, as nft takes it.
    pub chain: String,
    /// Nothing accepts the packet, and the chain drops what nothing accepts; otherwise a rule drops it.
    pub is_policy: bool,
    /// It may be accepted by a rule that asks for what is not known.
    pub is_uncertain: bool,
}

/// What becomes of a packet in a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Accepted,
    Dropped,
    /// It goes on behind the chain; true if it may have been accepted.
    Passes(bool),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    No,
    Perhaps,
    Yes,
}

impl From<bool> for Fit {
    fn from(fits: bool) -> Self {
        if fits { Self::Yes } else { Self::No }
    }
}

/// The chains that do not let the packet pass, of the answer of `nft -j list ruleset`.
///
/// # Errors
/// The text is no such answer.
pub fn obstacles(text: &str, packet: &Packet) -> Result<Vec<Obstacle>, serde_json::Error> {
    let answer: Value = serde_json::from_str(text)?;
    let objects: &[Value] = answer["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_base = |chain: &&Value| {
        let family = chain["family"].as_str().unwrap_or_default();
        let is_of_family = match packet.is_ipv4 {
            Some(true) => ["inet", "ip"].contains(&family),
            Some(false) => ["inet", "ip6"].contains(&family),
            None => ["inet", "ip", "ip6"].contains(&family),
        };
        chain["hook"] == packet.hook && is_of_family
    };
    let bases = objects.iter().filter_map(|object| object.get("chain")).filter(is_base);
    Ok(bases.filter_map(|chain| obstacle(objects, chain, packet)).collect())
}

fn obstacle(objects: &[Value], chain: &Value, packet: &Packet) -> Option<Obstacle> {
    let name = |key| chain[key].as_str().unwrap_or_default();
    let shown = format!("{} {} {}", name("family"), name("table"), name("name"));
    let found = |is_policy, is_uncertain| Some(Obstacle { chain: shown, is_policy, is_uncertain });
    match walk(objects, chain, name("name"), packet, 0) {
        Fate::Accepted => None,
        Fate::Dropped => found(false, false),
        Fate::Passes(perhaps) if chain["policy"] == "drop" => found(true, perhaps),
        Fate::Passes(_) => None,
    }
}

/// Follows the rules of the chain of this name in the table of `base`.
fn walk(objects: &[Value], base: &Value, name: &str, packet: &Packet, depth: usize) -> Fate {
    let mut perhaps = false;
    let is_ours =
        |rule: &&Value| rule["family"] == base["family"] && rule["table"] == base["table"] && rule["chain"] == name;
    for rule in objects.iter().filter_map(|object| object.get("rule")).filter(is_ours) {
        let statements = rule["expr"].as_array().map(Vec::as_slice).unwrap_or_default();
        let mut fit = Fit::Yes;
        for statement in statements.iter().filter_map(Value::as_object) {
            fit = fit.min(fits(statement, packet));
            let Some((verdict, certainty)) = verdict(statement, packet) else { continue };
            let fate = follow(objects, base, &verdict, packet, depth);
            match (fit.min(certainty), fate) {
                (Fit::No, _) | (_, Fate::Passes(false)) => {}
                (Fit::Yes, Fate::Accepted | Fate::Dropped) => return settled(fate, perhaps),
                (_, Fate::Accepted | Fate::Passes(true)) => perhaps = true,
                // What is dropped perhaps is not said to be.
                (Fit::Perhaps, Fate::Dropped) => {}
            }
            if fit == Fit::Yes && verdict.ends_walk() {
                return Fate::Passes(perhaps);
            }
        }
    }
    Fate::Passes(perhaps)
}

/// A packet that may have been accepted before it is dropped for certain.
fn settled(fate: Fate, perhaps: bool) -> Fate {
    if fate == Fate::Dropped && perhaps { Fate::Passes(true) } else { fate }
}

enum Verdict {
    Accept,
    Drop,
    Jump(String),
    Goto(String),
    Return,
}

impl Verdict {
    fn of(statement: &Map<String, Value>) -> Option<Self> {
        let target = |value: &Value| value["target"].as_str().unwrap_or_default().to_owned();
        statement.iter().find_map(|(key, value)| match key.as_str() {
            "accept" | "queue" => Some(Self::Accept),
            "drop" | "reject" => Some(Self::Drop),
            "jump" => Some(Self::Jump(target(value))),
            "goto" => Some(Self::Goto(target(value))),
            "return" => Some(Self::Return),
            _ => None,
        })
    }

    fn ends_walk(&self) -> bool {
        matches!(self, Self::Return | Self::Goto(_))
    }
}

fn follow(objects: &[Value], base: &Value, verdict: &Verdict, packet: &Packet, depth: usize) -> Fate {
    match verdict {
        Verdict::Accept => Fate::Accepted,
        Verdict::Drop => Fate::Dropped,
        Verdict::Jump(chain) | Verdict::Goto(chain) if depth < MAX_DEPTH => {
            walk(objects, base, chain, packet, depth + 1)
        }
        Verdict::Jump(_) | Verdict::Goto(_) | Verdict::Return => Fate::Passes(false),
    }
}

/// The verdict of a statement and how certain it is, be it by itself or by a map of verdicts.
fn verdict(statement: &Map<String, Value>, packet: &Packet) -> Option<(Verdict, Fit)> {
    if let Some(verdict) = Verdict::of(statement) {
        return Some((verdict, Fit::Yes));
    }
    let map = statement.get("vmap")?;
    let entries = map["data"]["set"].as_array()?;
    let fitting = entries.iter().filter_map(|entry| {
        let (key, verdict) = (entry.get(0)?, Verdict::of(entry.get(1)?.as_object()?)?);
        let fit = compare(&map["key"], key, packet);
        (fit != Fit::No).then_some((verdict, fit))
    });
    // One that fits for certain before others.
    fitting.max_by_key(|(_, fit)| *fit)
}

/// Whether the packet is one of those that a statement asks for.
fn fits(statement: &Map<String, Value>, packet: &Packet) -> Fit {
    let Some((key, value)) = statement.iter().next() else { return Fit::Yes };
    match key.as_str() {
        "match" => {
            let fit = compare(&value["left"], &value["right"], packet);
            match (value["op"].as_str().unwrap_or("=="), fit) {
                ("==" | "in", fit) => fit,
                ("!=", Fit::Yes) => Fit::No,
                ("!=", Fit::No) => Fit::Yes,
                _ => Fit::Perhaps,
            }
        }
        // Some of those that fit.
        "limit" | "ct count" | "xt" | "quota" => Fit::Perhaps,
        _ => Fit::Yes,
    }
}

fn compare(left: &Value, right: &Value, packet: &Packet) -> Fit {
    let payload = &left["payload"];
    let asked = (payload["protocol"].as_str(), payload["field"].as_str(), left["meta"]["key"].as_str());
    match asked {
        (Some(protocol @ ("tcp" | "udp" | "th")), Some("dport"), _) => {
            if protocol != "th" && protocol != packet.protocol {
                return Fit::No;
            }
            holds_port(right, packet.port)
        }
        (Some(protocol @ ("tcp" | "udp" | "icmp" | "icmpv6" | "sctp" | "dccp")), _, _) => {
            if protocol == packet.protocol { Fit::Perhaps } else { Fit::No }
        }
        (_, Some("protocol" | "nexthdr"), _) | (_, _, Some("l4proto")) => holds_word(right, &packet.protocol),
        // It comes from outside.
        (_, _, Some("iifname" | "iif" | "oifname" | "oif")) if right == "lo" => Fit::No,
        (_, _, Some("nfproto")) => match packet.is_ipv4 {
            Some(true) => holds_word(right, "ipv4"),
            Some(false) => holds_word(right, "ipv6"),
            None => Fit::Perhaps,
        },
        _ if left["ct"]["key"] == "state" => holds_word(right, packet.state),
        _ => Fit::Perhaps,
    }
}

/// Whether a value, a set or a range has the port. One that is not known is one of many, and hardly the one that a rule
/// names.
fn holds_port(value: &Value, port: Option<u16>) -> Fit {
    if let Some(values) = value["set"].as_array().or(value.as_array()) {
        return values.iter().map(|value| holds_port(value, port)).max().unwrap_or(Fit::No);
    }
    let range = value["range"].as_array().and_then(|range| Some((range.first()?.as_u64()?, range.get(1)?.as_u64()?)));
    match (range, value.as_u64(), port.map(u64::from)) {
        (Some((from, to)), _, Some(port)) => (from..=to).contains(&port).into(),
        (_, Some(value), Some(port)) => (value == port).into(),
        (_, Some(_), None) => Fit::No,
        _ => Fit::Perhaps,
    }
}

/// Whether a value or a set has the word. A set with a name has what it has.
fn holds_word(value: &Value, word: &str) -> Fit {
    if let Some(values) = value["set"].as_array().or(value.as_array()) {
        return values.iter().map(|value| holds_word(value, word)).max().unwrap_or(Fit::No);
    }
    match value.as_str() {
        Some(value) if value.starts_with('@') => Fit::Perhaps,
        Some(value) => (value == word).into(),
        None => Fit::Perhaps,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn new_packet() -> Packet {
        Packet { hook: "input", protocol: "udp".to_owned(), port: Some(55_555), state: "new", is_ipv4: None }
    }

    /// An input chain with this policy and these rules.
    fn ruleset(policy: &str, rules: &[Value]) -> String {
        let chain = json!({ "chain": { "family": "inet", "table": "filter", "name": "input", "type": "filter",
            "hook": "input", "prio": 0, "policy": policy } });
        let extra = json!({ "chain": { "family": "inet", "table": "filter", "name": "extra" } });
        let rule = |chain: &str, expr: &Value| json!({ "rule": { "family": "inet", "table": "filter", "chain": chain, "expr": expr } });
        let mut objects = vec![json!({ "metainfo": {} }), chain, extra];
        objects.extend(rules.iter().map(|expr| rule("input", expr)));
        objects.push(rule("extra", &json!([port(json!(55_555)), { "accept": null }])));
        json!({ "nftables": objects }).to_string()
    }

    fn port(right: Value) -> Value {
        json!({ "match": { "op": "==", "left": { "payload": { "protocol": "udp", "field": "dport" } }, "right": right } })
    }

    fn state(right: Value) -> Value {
        json!({ "match": { "op": "in", "left": { "ct": { "key": "state" } }, "right": right } })
    }

    fn found(policy: &str, rules: &[Value]) -> Vec<(bool, bool)> {
        let found = obstacles(&ruleset(policy, rules), &new_packet()).unwrap();
        assert!(found.iter().all(|obstacle| obstacle.chain == "inet filter input"));
        found.iter().map(|obstacle| (obstacle.is_policy, obstacle.is_uncertain)).collect()
    }

    const BY_POLICY: [(bool, bool); 1] = [(true, false)];
    const BY_RULE: [(bool, bool); 1] = [(false, false)];
    const PERHAPS: [(bool, bool); 1] = [(true, true)];

    #[test]
    fn what_no_rule_accepts_is_left_to_the_policy() {
        assert_eq!(found("accept", &[]), []);
        assert_eq!(found("drop", &[]), BY_POLICY);
        assert_eq!(found("drop", &[json!([state(json!(["established", "related"])), { "accept": null }])]), BY_POLICY);
        let lo = json!({ "match": { "op": "==", "left": { "meta": { "key": "iifname" } }, "right": "lo" } });
        assert_eq!(found("drop", &[json!([lo, { "accept": null }])]), BY_POLICY);
        assert_eq!(found("drop", &[json!([port(json!(22)), { "accept": null }])]), BY_POLICY);
    }

    #[test]
    fn a_port_is_accepted_by_itself_by_a_set_a_range_or_another_chain() {
        for right in [json!(55_555), json!({ "set": [22, 55_555] }), json!({ "set": [{ "range": [50_000, 60_000] }] })]
        {
            assert_eq!(found("drop", &[json!([port(right), { "counter": null }, { "accept": null }])]), []);
        }
        assert_eq!(found("drop", &[json!([{ "jump": { "target": "extra" } }])]), []);
        assert_eq!(found("drop", &[json!([{ "goto": { "target": "extra" } }])]), []);
        assert_eq!(found("drop", &[json!([{ "jump": { "target": "missing" } }])]), BY_POLICY);
    }

    #[test]
    fn rules_count_in_their_order() {
        let accept = json!([port(json!(55_555)), { "accept": null }]);
        let reject = json!([{ "reject": null }]);
        assert_eq!(found("accept", &[accept.clone(), reject.clone()]), []);
        assert_eq!(found("accept", &[reject, accept.clone()]), BY_RULE);
        assert_eq!(found("drop", &[json!([{ "return": null }]), accept]), BY_POLICY);
    }

    #[test]
    fn what_cannot_be_known_stays_open() {
        let source = json!({ "match": { "op": "==",
            "left": { "payload": { "protocol": "ip", "field": "saddr" } }, "right": "192.0.2.1" } });
        assert_eq!(found("drop", &[json!([source, { "accept": null }])]), PERHAPS);
        assert_eq!(found("drop", &[json!([port(json!("@ports")), { "accept": null }])]), PERHAPS);
        // What is dropped perhaps is not called dropped.
        assert_eq!(found("accept", &[json!([source, { "drop": null }])]), []);
    }

    #[test]
    fn maps_of_verdicts_are_read() {
        let by_state = json!({ "vmap": { "key": { "ct": { "key": "state" } },
            "data": { "set": [["established", { "accept": null }], ["invalid", { "drop": null }]] } } });
        assert_eq!(found("drop", &[json!([by_state])]), BY_POLICY);
        let by_port = json!({ "vmap": { "key": { "payload": { "protocol": "udp", "field": "dport" } },
            "data": { "set": [[55_555, { "accept": null }]] } } });
        assert_eq!(found("drop", &[json!([by_port])]), []);
    }

    #[test]
    fn what_is_no_ruleset_is_an_error_or_without_obstacles() {
        assert!(obstacles("", &new_packet()).is_err());
        for text in ["{}", "[]", "{\"nftables\":7}", "{\"nftables\":[{\"chain\":{\"hook\":\"input\"}},{\"rule\":4}]}"] {
            assert_eq!(obstacles(text, &new_packet()).unwrap(), []);
        }
        // Chains that lead to each other have an end.
        assert_eq!(found("drop", &[json!([{ "jump": { "target": "input" } }])]), BY_POLICY);
    }
}

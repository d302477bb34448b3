//! What may cross between two LANs that a tap joins, and what is done about loops.

use std::fmt;
use std::time::Duration;

use super::parse::{auto_on_off, duration, number};
use super::{ConfigError, LinkLayer, Options, Text};

const DEFAULT_HOLD: Duration = Duration::from_secs(30);

/// Broadcast and multicast frames a second that nobody misses the rest of: ten streams of video, or the chatter of
/// thousands of hosts.
const DEFAULT_BROADCAST_LIMIT: u32 = 5000;
const MAX_BROADCAST_LIMIT: u32 = 10_000_000;

/// The highest number of a VLAN (IEEE 802.1Q); 4095 is reserved.
const MAX_VLAN: u16 = 4094;

/// Whether loops are looked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GuardChoice {
    /// While the device is a port of a bridge.
    #[default]
    Auto,
    /// On every tap.
    On,
    /// Never.
    Off,
}

/// What becomes of the frames of spanning tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bpdus {
    /// They cross, so that the bridges of both LANs find their loops themselves.
    #[default]
    Pass,
    /// They do not, and each LAN has a spanning tree of its own.
    Drop,
}

/// The rules of a segment of two LANs; only taps have one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentConfig {
    /// Whether loops are looked for.
    pub guard: GuardChoice,
    /// How long nothing is forwarded after the last sign of a loop.
    pub hold: Duration,
    /// Broadcast and multicast frames a second towards the peer, if there is a limit.
    pub broadcast_limit: Option<u32>,
    /// The frames of spanning tree.
    pub bpdus: Bpdus,
    /// The VLANs that cross, if not all do.
    pub vlans: Option<VlanList>,
    /// The protocols that cross, if not all do.
    pub protocols: Option<ProtocolList>,
}

impl Default for SegmentConfig {
    fn default() -> Self {
        Self {
            guard: GuardChoice::Auto,
            hold: DEFAULT_HOLD,
            broadcast_limit: Some(DEFAULT_BROADCAST_LIMIT),
            bpdus: Bpdus::Pass,
            vlans: None,
            protocols: None,
        }
    }
}

/// A set of VLANs; frames without a tag count as VLAN 0.
#[derive(Clone, PartialEq, Eq)]
pub struct VlanList(Box<[u64; 64]>);

/// A set of protocols by their EtherType.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProtocolList {
    types: Vec<u16>,
    llc: bool,
}

/// The word for frames without a tag.
const UNTAGGED: &str = "untagged";

/// The word for frames that have a length in the place of the type (IEEE 802.3).
const LLC: &str = "llc";

/// Types below this one are lengths (IEEE 802.3).
const FIRST_TYPE: u16 = 0x0600;

/// Names for protocols (IANA, "IEEE 802 Numbers").
const PROTOCOLS: [(&str, &[u16]); 8] = [
    ("ipv4", &[0x0800]),
    ("arp", &[0x0806]),
    ("wol", &[0x0842]),
    ("ipv6", &[0x86dd]),
    ("mpls", &[0x8847, 0x8848]),
    ("pppoe", &[0x8863, 0x8864]),
    ("eapol", &[0x888e]),
    ("lldp", &[0x88cc]),
];

impl VlanList {
    /// True if frames of this VLAN cross, or those without a tag (0).
    pub fn contains(&self, vlan: u16) -> bool {
        self.0.get(usize::from(vlan / 64)).is_some_and(|word| word >> (vlan % 64) & 1 == 1)
    }

    /// The VLAN of the list that follows this one; behind the last one comes the first. Of an empty list it is 0.
    pub fn next(&self, vlan: u16) -> u16 {
        let behind = (vlan.saturating_add(1)..=MAX_VLAN).chain(0..=vlan.min(MAX_VLAN));
        behind.into_iter().find(|vlan| self.contains(*vlan)).unwrap_or_default()
    }

    fn add(&mut self, vlan: u16) {
        if let Some(word) = self.0.get_mut(usize::from(vlan / 64)) {
            *word |= 1 << (vlan % 64);
        }
    }
}

/// As it could be written.
impl fmt::Debug for VlanList {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries((0..=MAX_VLAN).filter(|vlan| self.contains(*vlan))).finish()
    }
}

impl ProtocolList {
    /// True if frames of this type cross; a type below 0x0600 is a length.
    pub fn contains(&self, protocol: u16) -> bool {
        if protocol < FIRST_TYPE { self.llc } else { self.types.contains(&protocol) }
    }
}

/// The rules of a tap. On a tun, whose packets have no Ethernet header, none of the options means anything.
pub(super) fn segment(options: &Options, kind: LinkLayer) -> Result<Option<SegmentConfig>, ConfigError> {
    let Options { loop_guard, loop_hold, broadcast_limit, bpdu, vlan, ethertype, .. } = options;
    if kind == LinkLayer::Tun {
        let given = [
            ("loop-guard", loop_guard),
            ("loop-hold", loop_hold),
            ("broadcast-limit", broadcast_limit),
            ("bpdu", bpdu),
            ("vlan", vlan),
            ("ethertype", ethertype),
        ];
        let misplaced = given.into_iter().find_map(|(option, text)| text.as_ref().map(|text| (option, text)));
        return misplaced.map_or(Ok(None), |(option, text)| {
            Err(ConfigError::value(option, &text.0, "a tun device has no Ethernet header; use tap or leave it out"))
        });
    }
    let choices = [GuardChoice::Auto, GuardChoice::On, GuardChoice::Off];
    Ok(Some(SegmentConfig {
        guard: auto_on_off("loop-guard", loop_guard.as_ref(), choices)?,
        hold: duration("loop-hold", loop_hold.as_ref(), DEFAULT_HOLD)?,
        broadcast_limit: limit(broadcast_limit.as_ref())?,
        bpdus: bpdus(bpdu.as_ref())?,
        vlans: vlan.as_ref().map(|text| vlans(&text.0)).transpose()?,
        protocols: ethertype.as_ref().map(|text| protocols(&text.0)).transpose()?,
    }))
}

fn limit(text: Option<&Text>) -> Result<Option<u32>, ConfigError> {
    match text.map(|text| text.0.as_str()) {
        None => Ok(Some(DEFAULT_BROADCAST_LIMIT)),
        Some("off") => Ok(None),
        Some(other) => number("broadcast-limit", other, 1, MAX_BROADCAST_LIMIT).map(Some),
    }
}

fn bpdus(text: Option<&Text>) -> Result<Bpdus, ConfigError> {
    match text.map(|text| text.0.as_str()) {
        None | Some("pass") => Ok(Bpdus::Pass),
        Some("drop") => Ok(Bpdus::Drop),
        Some(other) => Err(ConfigError::value("bpdu", other, "it must be pass or drop")),
    }
}

fn vlans(text: &str) -> Result<VlanList, ConfigError> {
    let mut list = VlanList(Box::new([0; 64]));
    for item in text.split(',').map(str::trim) {
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        let vlan = |text: &str| text.trim().parse().ok().filter(|vlan| (1..=MAX_VLAN).contains(vlan));
        match (vlan(first), vlan(last)) {
            _ if item == UNTAGGED => list.add(0),
            (Some(first), Some(last)) if first <= last => (first..=last).for_each(|vlan| list.add(vlan)),
            _ => {
                let problem = format!(
                    "{item:?} is no VLAN: numbers from 1 to {MAX_VLAN}, ranges and {UNTAGGED} are, as in 10,20-29,{UNTAGGED}"
                );
                return Err(ConfigError::value("vlan", text, problem));
            }
        }
    }
    Ok(list)
}

fn protocols(text: &str) -> Result<ProtocolList, ConfigError> {
    let mut list = ProtocolList::default();
    for item in text.split(',').map(str::trim) {
        let number = item.strip_prefix("0x").and_then(|digits| u16::from_str_radix(digits, 16).ok());
        let named = PROTOCOLS.iter().find(|(name, _)| *name == item);
        match (named, number.filter(|number| *number >= FIRST_TYPE)) {
            _ if item == LLC => list.llc = true,
            (Some((_, types)), _) => list.types.extend(*types),
            (None, Some(number)) => list.types.push(number),
            (None, None) => {
                let names: Vec<&str> = PROTOCOLS.iter().map(|(name, _)| *name).chain([LLC]).collect();
                let problem =
                    format!("{item:?} is no protocol: {}, or a number from 0x0600 to 0xffff", names.join(", "));
                return Err(ConfigError::value("ethertype", text, problem));
            }
        }
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Result<Option<SegmentConfig>, String> {
        let options = crate::config::tests::options(line);
        let kind = if options.tap { LinkLayer::Tap } else { LinkLayer::Tun };
        segment(&options, kind).map_err(|error| error.to_string())
    }

    fn tap(line: &str) -> SegmentConfig {
        of(&format!("-i t -s -a {line}")).expect("legal options").expect("a tap")
    }

    #[test]
    fn a_tap_has_rules_from_the_start_and_a_tun_none() {
        assert_eq!(tap(""), SegmentConfig::default());
        assert_eq!(of("-i t -s"), Ok(None));
        for option in ["loop-guard off", "loop-hold 5s", "broadcast-limit 9", "bpdu drop", "vlan 1", "ethertype arp"] {
            let mistake = of(&format!("-i t -s --{option}")).expect_err("a mistake");
            let name = option.split(' ').next().expect("a name");
            assert!(mistake.contains(name) && mistake.contains("use tap"), "{mistake}");
        }
    }

    #[test]
    fn lists_hold_what_was_written() {
        let vlans = tap("--vlan 10,20-29,untagged,4094").vlans.expect("a list");
        let expected: Vec<u16> = [0, 10].into_iter().chain(20..=29).chain([4094]).collect();
        assert_eq!((0..=u16::MAX).filter(|vlan| vlans.contains(*vlan)).collect::<Vec<_>>(), expected);
        let mut vlan = 0;
        for next in expected.iter().skip(1).chain(&expected[..1]) {
            vlan = vlans.next(vlan);
            assert_eq!(vlan, *next);
        }
        assert_eq!(vlans.next(u16::MAX), 0);
        let protocols = tap("--ethertype ipv4,0x88cc,pppoe").protocols.expect("a list");
        let found: Vec<u16> = (0..=u16::MAX).filter(|protocol| protocols.contains(*protocol)).collect();
        assert_eq!(found, [0x0800, 0x8863, 0x8864, 0x88cc]);
        let protocols = tap("--ethertype llc").protocols.expect("a list");
        assert!(protocols.contains(38) && !protocols.contains(0x0600));
    }

    #[test]
    fn values_mean_what_they_say_and_mistakes_are_named() {
        let config = tap("--loop-guard on --loop-hold 2m --broadcast-limit off --bpdu drop");
        assert_eq!((config.guard, config.hold), (GuardChoice::On, Duration::from_secs(120)));
        assert_eq!((config.broadcast_limit, config.bpdus), (None, Bpdus::Drop));
        for (option, word) in [
            ("loop-guard maybe", "auto, on or off"),
            ("loop-hold 0s", "from 1s to 1h"),
            ("broadcast-limit 0", "from 1 to"),
            ("bpdu forward", "pass or drop"),
            ("vlan 4095", "from 1 to 4094"),
            ("vlan 0", "from 1 to 4094"),
            ("vlan 30-20", "30-20"),
            ("vlan 10,,20", "is no VLAN"),
            ("ethertype 0x0599", "from 0x0600"),
            ("ethertype ip", "ipv4"),
        ] {
            let mistake = of(&format!("-i t -s -a --{option}")).expect_err("a mistake");
            assert!(mistake.contains(word), "{mistake}");
        }
    }
}

//! What the tunnel's decisions are called in the log.

use std::time::Instant;

use log::info;

use crate::config::LinkLayer;
use crate::counters::Drop;
use crate::fault::FaultLog;
use crate::link_state::Outlook;
use crate::transport::DownReason;
use crate::tunnel::path_mtu::Source;
use crate::tunnel::{Notice, Refused, Rejection};

/// The stable word for why a path has ended.
pub fn reason(why: Rejection) -> &'static str {
    match why {
        Rejection::Occupied => "occupied",
        Rejection::Replaced => "replaced",
        Rejection::WantsSecure => "wants-secure",
        Rejection::NotAuthentic => "not-authentic",
        Rejection::Silent => "silence",
        Rejection::PeerClosed | Rejection::PeerBeginsAnew => "peer-closed",
        Rejection::KeyRemoved => "key-removed",
    }
}

/// Whether somebody may come back soon: `why` is the tunnel's reason for the end of the link, or `reason` the word for
/// that of its path.
pub fn outlook(why: Option<Rejection>, reason: &str) -> Outlook {
    match why {
        Some(Rejection::Silent | Rejection::PeerClosed | Rejection::KeyRemoved) => Outlook::Final,
        // The kernel has waited for an answer as long as the tunnel would.
        None if reason == DownReason::Timeout.word() => Outlook::Final,
        // It would be turned away again.
        None if reason == DownReason::NotAllowed.word() => Outlook::Final,
        _ => Outlook::Passing,
    }
}

/// What is said about a path that was turned away, with the kind of fault; `None` if the decision speaks for itself.
pub fn rejection(why: Rejection) -> Option<(&'static str, &'static str)> {
    match why {
        Rejection::Occupied => Some((
            "occupied",
            "Turned away another peer while the live one is there: one server serves one peer, start another server \
             on a port of its own",
        )),
        Rejection::WantsSecure => Some((
            "wants-secure",
            "The peer wants a secure link and this end is plain: give both ends the same secret (--secret-file) or keys",
        )),
        Rejection::Replaced
        | Rejection::NotAuthentic
        | Rejection::Silent
        | Rejection::PeerClosed
        | Rejection::PeerBeginsAnew
        | Rejection::KeyRemoved => None,
    }
}

/// How a path MTU is known.
pub fn source(source: Source) -> &'static str {
    match source {
        Source::Interface => "interface",
        Source::Probed => "probed",
    }
}

/// Tells the administrator what the tunnel has noticed, once a minute each.
pub fn tell(notice: Notice, own_kind: LinkLayer, faults: &mut FaultLog, now: Instant) {
    match notice {
        Notice::Session { aead, whole_super_packets } => {
            let supers = if whole_super_packets { " super-packets=whole" } else { "" };
            info!("secure session aead={aead}{supers}");
        }
        Notice::PeerKind(kind) => {
            let kind = kind.map_or("of a kind that this version does not know".to_owned(), |kind| kind.to_string());
            let text =
                format_args!("The peer is {kind}, this end is {own_kind}: use the same kind of device on both ends");
            faults.note(now, "peer-kind", text);
        }
        Notice::Feature => faults.note(
            now,
            "peer-feature",
            "The two ends insist on different things: give both the same --aead, or neither, and the same version",
        ),
        Notice::Busy => faults.note(
            now,
            "peer-busy",
            "The peer is busy with another end that has the same key and is alive: stop one of the two, or give it a \
             link and a key of its own",
        ),
        Notice::TwoPeers(peer) => faults.note(
            now,
            "two-peers",
            format_args!(
                "Two ends with the same key take turns at this one, and {peer} is turned away: stop one of the two, or \
                 give it a link and a key of its own"
            ),
        ),
        Notice::MtuDiffers(ours, theirs) => faults.note(
            now,
            "mtu-differs",
            format_args!(
                "The device's MTU is {ours} here and {theirs} on the other end: set the same --mtu on both, or longer \
                 packets get lost"
            ),
        ),
        Notice::ClockBehind(seconds) => faults.note(
            now,
            "clock-behind",
            format_args!(
                "The clock of this machine is {seconds} s behind what the peer has seen from it; the link works all \
                 the same"
            ),
        ),
        Notice::SameSide(peer) => faults.note(
            now,
            "same-side",
            format_args!(
                "The end at {peer} has the right key and the same role as this one: one end connects (--connect), the \
                 other listens (--server)"
            ),
        ),
        Notice::WrongKey(peer) => faults.note(
            now,
            "wrong-key",
            format_args!(
                "A handshake from {peer} was made with another secret or other keys: if that is the peer, give both \
                 ends the same secret, or each the other's public key"
            ),
        ),
        Notice::PlainPeer(peer) => faults.note(
            now,
            "plain-peer",
            format_args!(
                "The end at {peer} speaks plain and this end is secure: give both ends the same secret (--secret-file) \
                 or keys"
            ),
        ),
        Notice::NoAnswer(peer) => faults.note(
            now,
            "no-answer",
            format_args!(
                "No answer from {peer}: it does not run, a firewall is in the way, it is a plain link, or its secret \
                 or keys are others; trying again"
            ),
        ),
    }
}

impl From<Refused> for Drop {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::NotLive => Self::NotLive,
            Refused::Invalid => Self::Invalid,
            Refused::WantsSecure => Self::WantsSecure,
            Refused::NotAMessage => Self::NotAMessage,
            Refused::BadHandshake => Self::BadHandshake,
            Refused::HandshakeReplayed => Self::HandshakeReplayed,
            Refused::HandshakeLimited => Self::HandshakeLimited,
            Refused::HandshakeRefused => Self::HandshakeRefused,
            Refused::UnknownSession => Self::UnknownSession,
            Refused::Replayed => Self::Replayed,
            Refused::NotAuthentic => Self::NotAuthentic,
        }
    }
}

//! What is wanted of a measurement, and what is told of it.

use std::time::Duration;

use super::RoundTrip;
use super::wire::Count;

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// How long each direction is loaded.
    pub time: Duration,
    /// The greatest rate in kbit/s; 0 is as fast as it goes.
    pub kbit: u32,
}

/// What has become of the load in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carried {
    /// Messages sent, as far as that is known.
    pub sent: u32,
    /// What has come.
    pub count: Count,
}

/// What is told of this end's own measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// The round trip.
    RoundTrip(RoundTrip),
    /// What came from the peer.
    Download(Carried),
    /// What went to the peer.
    Upload(Carried),
    /// It is over.
    Finished,
    /// It is over early.
    Failed(Failure),
}

/// Why a measurement has ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No ping was answered.
    NoAnswer,
    /// The other end answers pings and no wishes.
    NotKnown,
    /// It measures already.
    Busy,
    /// It has measured enough.
    Enough,
    /// The link has gone.
    LinkDown,
}

impl Failure {
    /// For people.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::NoAnswer => "The other end answers no ping",
            Self::NotKnown => "The other end does not answer measurements: it needs a version that has them",
            Self::Busy => "The other end measures already: try again",
            Self::Enough => "The other end was measured for long enough within the last minute: try again in a minute",
            Self::LinkDown => "The link went down",
        }
    }
}

/// Why a measurement does not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The link is plain: there is nothing in it but packets.
    Plain,
    /// There is no session.
    NoPeer,
    /// One is under way.
    Busy,
}

impl Refusal {
    /// For people.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Plain => {
                "The link is plain, and nothing but packets crosses it: use a secure link, or iperf3 between the \
                 addresses of the two devices"
            }
            Self::NoPeer => "The peer is not there",
            Self::Busy => "A measurement is under way already, from here or from the other end",
        }
    }
}

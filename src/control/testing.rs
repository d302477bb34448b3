//! What is told of a measurement of the link, line by line, each a JSON object; written and read. Pure.

use serde::{Deserialize, Serialize};

use crate::relay::report::seconds;
use crate::tunnel::meter::{Carried, News, RoundTrip};

/// One line, or several as one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TestLine {
    /// The round trip.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round_trip: Option<RoundTripStatus>,
    /// What came from the peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub download: Option<LoadStatus>,
    /// What went to the peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload: Option<LoadStatus>,
    /// Why it has ended early.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// It is over.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub finished: bool,
}

/// Round trips, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RoundTripStatus {
    /// Pings sent.
    pub sent: u32,
    /// Pings answered.
    pub answered: u32,
    /// The part that was not, from 0 to 1.
    pub loss: f64,
    /// The shortest.
    pub min_seconds: f64,
    /// The mean.
    pub mean_seconds: f64,
    /// Half of them took no longer.
    pub median_seconds: f64,
    /// 95 of a hundred took no longer.
    pub p95_seconds: f64,
    /// The longest.
    pub max_seconds: f64,
    /// The mean difference of one to the next.
    pub jitter_seconds: f64,
}

/// A load in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoadStatus {
    /// Bits a second that arrived in the second half of the time.
    pub bits_per_second: u64,
    /// Bytes that arrived.
    pub bytes: u64,
    /// Messages sent.
    pub sent: u32,
    /// Messages that arrived.
    pub received: u32,
    /// The part that did not, from 0 to 1.
    pub loss: f64,
    /// Messages that arrived behind one that was sent later.
    pub reordered: u32,
}

impl From<News> for TestLine {
    fn from(news: News) -> Self {
        let mut line = Self::default();
        match news {
            News::RoundTrip(trip) => line.round_trip = Some(trip.into()),
            News::Download(carried) => line.download = Some(carried.into()),
            News::Upload(carried) => line.upload = Some(carried.into()),
            News::Finished => line.finished = true,
            News::Failed(failure) => line.failed = Some(failure.sentence().to_owned()),
        }
        line
    }
}

impl From<RoundTrip> for RoundTripStatus {
    fn from(trip: RoundTrip) -> Self {
        Self {
            sent: trip.sent,
            answered: trip.answered,
            loss: missing(trip.answered, trip.sent),
            min_seconds: seconds(trip.least),
            mean_seconds: seconds(trip.mean),
            median_seconds: seconds(trip.median),
            p95_seconds: seconds(trip.p95),
            max_seconds: seconds(trip.most),
            jitter_seconds: seconds(trip.jitter),
        }
    }
}

impl From<Carried> for LoadStatus {
    fn from(carried: Carried) -> Self {
        let count = carried.count;
        Self {
            bits_per_second: count.rate,
            bytes: count.bytes,
            sent: carried.sent,
            received: count.received,
            loss: missing(count.received, carried.sent),
            reordered: count.swapped,
        }
    }
}

impl TestLine {
    /// True if no other line follows.
    pub fn is_last(&self) -> bool {
        self.finished || self.failed.is_some()
    }

    /// Takes what a later line has.
    pub fn merge(&mut self, later: Self) {
        self.round_trip = later.round_trip.or(self.round_trip);
        self.download = later.download.or(self.download);
        self.upload = later.upload.or(self.upload);
        self.failed = later.failed.or(self.failed.take());
        self.finished |= later.finished;
    }
}

/// The part of `all` that is not among `there`.
fn missing(there: u32, all: u32) -> f64 {
    if all == 0 { 0.0 } else { f64::from(all.saturating_sub(there)) / f64::from(all) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::meter::Failure;
    use crate::tunnel::meter::wire::Count;

    #[test]
    fn lines_are_read_as_they_were_written_and_put_together() {
        let count = Count { received: 90, next: 100, swapped: 3, bytes: 90_000, rate: 8_000_000 };
        let news = [
            News::RoundTrip(RoundTrip { sent: 20, answered: 15, ..RoundTrip::default() }),
            News::Download(Carried { sent: 100, count }),
            News::Upload(Carried { sent: 0, count: Count::default() }),
            News::Finished,
        ];
        let mut whole = TestLine::default();
        for news in news {
            assert!(!whole.is_last());
            let line = TestLine::from(news);
            let text = serde_json::to_string(&line).unwrap();
            assert_eq!(serde_json::from_str::<TestLine>(&text).unwrap(), line);
            whole.merge(line);
        }
        assert!(whole.is_last());
        let loss = |load: Option<LoadStatus>| load.map(|load| load.loss);
        assert_eq!((loss(whole.download), loss(whole.upload)), (Some(0.1), Some(0.0)));
        assert_eq!(whole.round_trip.map(|trip| trip.loss), Some(0.25));
        assert!(TestLine::from(News::Failed(Failure::Busy)).is_last());
    }
}

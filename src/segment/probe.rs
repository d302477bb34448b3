//! Probes: frames that this end puts into its LAN and nowhere else, so that one that comes back has found a loop.
//!
//! A probe is an Ethernet broadcast of the type for local experiments (IEEE 802), 60 bytes without a tag:
//!
//! | bytes | |
//! |---|---|
//! | 14 | header: broadcast address, a locally administered source of its own, type 0x88B5 (behind the tag of its VLAN) |
//! | 8 | `stunloop` |
//! | 1 | version, 1 |
//! | 1 | tunnels that it has crossed |
//! | 16 | random number of the end, made when it starts |
//! | 4 | number of the probe, from 1 |
//! | 16 | zeros, up to the shortest frame of Ethernet |
//!
//! Broadcast, because every bridge floods that, whereas one that looks for the listeners of multicast groups may not.

use byteorder::{BigEndian, ByteOrder as _};

use super::frame::{Frame, TYPE_VLAN};

const TYPE_EXPERIMENT: u16 = 0x88b5;
const MAGIC: [u8; 8] = *b"stunloop";
const VERSION: u8 = 1;

/// Offsets behind the type.
const HOPS: usize = MAGIC.len() + 1;
const ID: usize = HOPS + 1;
const NUMBER: usize = ID + 16;
const LEN: usize = NUMBER + 4;
const PADDING: usize = 60 - super::frame::HEADER_LEN - LEN;

/// Tunnels that a probe may cross: more than lie in a row between the LANs of one segment.
const MAX_HOPS: u8 = 8;

/// Own probes back to this one count as a sign; what is older has been kept somewhere.
const RECENT: u32 = 8;

/// Random bytes that an end needs: its number, and the address that it sends from.
pub const RANDOM_LEN: usize = 16 + 6;

/// A probe that was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Met {
    /// One's own, of late.
    Own,
    /// One's own that is old, or another's that has crossed too many tunnels: it goes no further.
    Spent,
    /// Another's: it has to cross, so that its sender sees it. With the place where its tunnels are counted.
    Other(usize),
}

/// The probes of one end.
#[derive(Debug)]
pub struct Prober {
    id: [u8; 16],
    source: [u8; 6],
    sent: u32,
}

impl Prober {
    /// With random bytes of its own.
    pub fn new(random: [u8; RANDOM_LEN]) -> Self {
        let (mut id, mut source) = ([0; 16], [0; 6]);
        id.copy_from_slice(&random[..16]);
        source.copy_from_slice(&random[16..]);
        // Locally administered, and that of one station.
        source[0] = source[0] & !0x03 | 0x02;
        Self { id, source, sent: 0 }
    }

    /// The next probe, for this VLAN or without a tag (0).
    pub fn make(&mut self, vlan: u16) -> Vec<u8> {
        self.sent = self.sent.wrapping_add(1);
        let mut frame = [&[0xff; 6], &self.source[..]].concat();
        if vlan != 0 {
            frame.extend(TYPE_VLAN.to_be_bytes());
            frame.extend(vlan.to_be_bytes());
        }
        frame.extend(TYPE_EXPERIMENT.to_be_bytes());
        frame.extend(MAGIC);
        frame.extend([VERSION, 0]);
        frame.extend(self.id);
        frame.extend(self.sent.to_be_bytes());
        frame.extend([0; PADDING]);
        frame
    }

    /// Says whether a frame is a probe, and whose.
    pub fn look(&self, frame: &Frame<'_>) -> Option<Met> {
        if frame.protocol() != TYPE_EXPERIMENT {
            return None;
        }
        let (payload, at) = frame.payload();
        let probe = payload.first_chunk::<LEN>().filter(|probe| probe.starts_with(&MAGIC))?;
        if probe[ID..NUMBER] == self.id {
            let age = self.sent.wrapping_sub(BigEndian::read_u32(&probe[NUMBER..]));
            return Some(if age < RECENT { Met::Own } else { Met::Spent });
        }
        Some(if probe[HOPS] < MAX_HOPS { Met::Other(at + HOPS) } else { Met::Spent })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(prober: &Prober, frame: &[u8]) -> Option<Met> {
        prober.look(&Frame::parse(frame).expect("a frame"))
    }

    #[test]
    fn an_end_knows_its_own_probes_and_those_of_others() {
        let (mut own, mut other) = (Prober::new([7; 22]), Prober::new([9; 22]));
        for vlan in [0, 5] {
            let first = own.make(vlan);
            assert_eq!(first.len(), if vlan == 0 { 60 } else { 64 });
            assert_eq!((look(&own, &first), look(&other, &first).is_some()), (Some(Met::Own), true));
            let mut foreign = other.make(vlan);
            let Some(Met::Other(hops)) = look(&own, &foreign) else { panic!("another's probe") };
            assert_eq!(foreign[hops], 0);
            foreign[hops] = MAX_HOPS;
            assert_eq!(look(&own, &foreign), Some(Met::Spent));
            (1..RECENT).for_each(|_| drop(own.make(vlan)));
            assert_eq!(look(&own, &first), Some(Met::Own));
            own.make(vlan);
            assert_eq!(look(&own, &first), Some(Met::Spent), "one that was kept");
        }
    }

    #[test]
    fn a_probe_comes_from_a_station_of_its_own() {
        for byte in [0x00, 0x55, 0xff] {
            let frame = Prober::new([byte; 22]).make(0);
            assert!(frame.starts_with(&[0xff; 6]));
            assert_eq!(frame[6] & 0x03, 0x02);
        }
    }

    #[test]
    fn other_experiments_are_left_alone() {
        let mut prober = Prober::new([7; 22]);
        let mut frame = prober.make(0);
        assert_eq!(look(&prober, &frame[..40]), None, "cut off");
        frame[14] ^= 1;
        assert_eq!(look(&prober, &frame), None);
    }
}

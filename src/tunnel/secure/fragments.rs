//! Packets that are longer than the path carries, on datagram links whose two ends have agreed on it.

use std::time::Instant;

use super::Secure;
use crate::offload::Checksum;
use crate::tunnel::message::{FEATURE_FRAGMENTS, FLAG_CHECKSUM_MADE, FRAG};
use crate::tunnel::parts::{self, PART_HEADER_LEN, Part};
use crate::tunnel::{Event, Opened, Refused, is_packet};

impl Secure {
    /// Length of the parts that a packet too long for one message is cut into; see [`super::super::Tunnel::part_len`].
    pub fn part_len(&self, packet_len: usize) -> Option<usize> {
        let session = self.current.as_ref()?;
        let longest = self.max_packet()?.checked_sub(PART_HEADER_LEN)?;
        (session.terms.features & FEATURE_FRAGMENTS != 0).then(|| parts::part_len(packet_len, longest)).flatten()
    }

    /// A number for the next packet that is sent in parts.
    pub fn number_packet(&mut self) -> u32 {
        self.packets_in_parts = self.packets_in_parts.wrapping_add(1);
        self.packets_in_parts
    }

    /// Seals a part of a packet; `message` is as long as [`message_len`](Self::message_len) says for the part and
    /// [`PART_HEADER_LEN`].
    pub fn seal_part(&mut self, part: &Part<'_>, checksum: Checksum, message: &mut [u8], now: Instant) {
        let flags = if checksum == Checksum::Made { FLAG_CHECKSUM_MADE } else { 0 };
        let mut plain = std::mem::take(&mut self.part);
        plain.clear();
        part.write(&mut plain);
        self.seal(FRAG, flags, &plain, message, now);
        self.part = plain;
    }

    /// Takes a part that came under the session of this index.
    ///
    /// # Errors
    /// It is none, or what it completes is no packet.
    pub(super) fn join<'a>(
        &mut self,
        session: u32,
        plain: &[u8],
        flags: u16,
        now: Instant,
    ) -> Result<Opened<'a>, Refused> {
        let part = Part::parse(plain).ok_or(Refused::Invalid)?;
        let result = self.joiner.take(session, part, flags, now);
        self.tell_lost_parts();
        match result? {
            None => Ok(Opened::Nothing),
            Some(joined) if is_packet(self.settings.kind, &joined.bytes) => {
                let made = joined.flags & FLAG_CHECKSUM_MADE != 0;
                Ok(Opened::Joined(joined.bytes, if made { Checksum::Made } else { Checksum::Unknown }))
            }
            Some(_) => Err(Refused::Invalid),
        }
    }

    /// Gives up packets whose parts do not come.
    pub(super) fn expire_parts(&mut self, now: Instant) {
        self.joiner.expire(now);
        self.tell_lost_parts();
    }

    fn tell_lost_parts(&mut self) {
        let lost = self.joiner.take_lost();
        if lost > 0 {
            self.events.push_back(Event::Incomplete(lost));
        }
    }
}

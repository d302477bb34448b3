//! What one read from the device brings, and how it is taken apart. It knows the virtio header, not the device.

use crate::config::LinkLayer;
use crate::offload::split::{self, Segments, SplitError};
use crate::offload::{Segmentation, VIRTIO_HEADER_LEN, VirtioHeader};

/// What one read from the device has brought: a packet, or a super-packet with its virtio header.
#[derive(Debug)]
pub struct Received<'a> {
    bytes: &'a mut [u8],
    form: Form,
}

/// How what is read from a device lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// A virtio header stands in front of every packet.
    pub(super) has_header: bool,
    /// What is in front of a packet's IP header.
    pub(super) kind: LinkLayer,
}

impl Form {
    /// What is in front of a packet's IP header.
    pub fn kind(self) -> LinkLayer {
        self.kind
    }

    /// What was read from a device of this form, now or earlier.
    pub fn received(self, bytes: &mut [u8]) -> Received<'_> {
        Received { bytes, form: self }
    }

    /// Length of what stands in front of a packet in bytes.
    fn header_len(self) -> usize {
        if self.has_header { VIRTIO_HEADER_LEN } else { 0 }
    }
}

impl<'a> Received<'a> {
    /// All of it, as it was read.
    pub fn bytes(&self) -> &[u8] {
        self.bytes
    }

    /// The packet or super-packet, without the virtio header.
    pub fn packet(&self) -> &[u8] {
        self.bytes.get(self.form.header_len()..).unwrap_or_default()
    }

    /// The same, to be changed where it is.
    pub fn packet_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.form.header_len()..).unwrap_or_default()
    }

    /// The same, to be changed by whoever takes it.
    pub fn into_packet(self) -> &'a mut [u8] {
        self.bytes.get_mut(self.form.header_len()..).unwrap_or_default()
    }

    /// About how many packets it becomes: those of a super-packet's header, which is not checked here.
    pub fn segment_count(&self) -> u16 {
        let header = self.bytes.first_chunk::<VIRTIO_HEADER_LEN>().filter(|_| self.form.has_header);
        let header = header.and_then(|bytes| VirtioHeader::parse(bytes).ok());
        let Some(header) = header.filter(|header| header.segmentation.is_some()) else { return 1 };
        let payload_len = self.packet().len().saturating_sub(header.header_len.into());
        let count = payload_len.div_ceil(usize::from(header.segment_len).max(1));
        u16::try_from(count).unwrap_or(u16::MAX).max(1)
    }

    /// If it is a super-packet that can cross a link whole: its kind, and the virtio header with the packet behind it.
    pub fn as_whole(&mut self) -> Option<(Segmentation, &[u8])> {
        if !self.form.has_header {
            return None;
        }
        let (bytes, packet) = self.bytes.split_first_chunk_mut::<VIRTIO_HEADER_LEN>()?;
        let header = VirtioHeader::parse(bytes).ok().filter(|header| header.segmentation.is_some())?;
        let header = split::check_whole(&header, packet, self.form.kind).ok()?;
        *bytes = header.to_bytes();
        header.segmentation.map(|kind| (kind, &*self.bytes))
    }

    /// The packets in it, to be taken one by one.
    ///
    /// # Errors
    /// The header does not fit the packet; nothing of it can be used.
    pub fn into_segments(self) -> Result<Segments<'a>, SplitError> {
        if !self.form.has_header {
            return Ok(Segments::whole(self.bytes));
        }
        let (header, packet) = self.bytes.split_first_chunk_mut::<VIRTIO_HEADER_LEN>().ok_or(SplitError::Malformed)?;
        let header = VirtioHeader::parse(header).map_err(|_| SplitError::Malformed)?;
        Segments::new(&header, packet, self.form.kind)
    }
}

//! What one read from the device brings, and how it is taken apart. It knows the virtio header, not the device.

use crate::config::LinkLayer;
use crate::offload::split::{self, Segments, SplitError};
use crate::offload::{Segmentation, VIRTIO_HEADER_LEN, VirtioHeader};

/// What one read from the device has brought: a packet, or a super-packet with its virtio header.
#[derive(Debug)]
pub struct Received<'a> {
    pub(super) bytes: &'a mut [u8],
    pub(super) has_header: bool,
    pub(super) kind: LinkLayer,
}

impl<'a> Received<'a> {
    /// The packet or super-packet, without the virtio header.
    pub fn packet(&self) -> &[u8] {
        let header_len = if self.has_header { VIRTIO_HEADER_LEN } else { 0 };
        self.bytes.get(header_len..).unwrap_or_default()
    }

    /// If it is a super-packet that can cross a link whole: its kind, and the virtio header with the packet behind it.
    pub fn as_whole(&mut self) -> Option<(Segmentation, &[u8])> {
        if !self.has_header {
            return None;
        }
        let (bytes, packet) = self.bytes.split_first_chunk_mut::<VIRTIO_HEADER_LEN>()?;
        let header = VirtioHeader::parse(bytes).ok().filter(|header| header.segmentation.is_some())?;
        let header = split::check_whole(&header, packet, self.kind).ok()?;
        *bytes = header.to_bytes();
        header.segmentation.map(|kind| (kind, &*self.bytes))
    }

    /// The packets in it, to be taken one by one.
    ///
    /// # Errors
    /// The header does not fit the packet; nothing of it can be used.
    pub fn into_segments(self) -> Result<Segments<'a>, SplitError> {
        if !self.has_header {
            return Ok(Segments::whole(self.bytes));
        }
        let (header, packet) = self.bytes.split_first_chunk_mut::<VIRTIO_HEADER_LEN>().ok_or(SplitError::Malformed)?;
        let header = VirtioHeader::parse(header).map_err(|_| SplitError::Malformed)?;
        Segments::new(&header, packet, self.kind)
    }
}

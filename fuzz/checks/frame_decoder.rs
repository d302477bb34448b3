//! What has to hold for the frame decoder whatever arrives: it returns the frames that a plain reading of the whole
//! stream gives, in order, and has room whenever it has no complete frame.

use simpletun::transport::frame::Decoder;

/// The first byte says how the rest is sliced; the rest is the stream.
pub fn check(data: &[u8]) {
    let Some((&slicing, stream)) = data.split_first() else { return };
    let mut decoder = Decoder::with_capacity(0);
    let mut expected = frames(stream);
    let mut rest = stream;
    let mut step = usize::from(slicing);
    while !rest.is_empty() {
        let space = decoder.space();
        assert!(!space.is_empty(), "a decoder without a complete frame has room");
        step = step.wrapping_mul(31).wrapping_add(7) % 4099;
        let len = step.clamp(1, rest.len()).min(space.len());
        space[..len].copy_from_slice(&rest[..len]);
        decoder.advance(len);
        rest = &rest[len..];
        while let Some(frame) = decoder.next_frame() {
            assert_eq!(Some(&*frame), expected.next());
        }
    }
    assert_eq!(expected.next(), None, "every complete frame was handed out");
}

/// The frames of a stream by a reading that has all of it at once.
fn frames(mut stream: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (header, rest) = stream.split_first_chunk::<2>()?;
        let (frame, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*header)))?;
        stream = rest;
        Some(frame)
    })
}

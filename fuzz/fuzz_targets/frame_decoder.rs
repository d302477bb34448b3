//! Arbitrary bytes in arbitrary slices at the frame decoder.
//!
//! Run with `cargo fuzz run frame_decoder` (on a stable compiler with `RUSTC_BOOTSTRAP=1`). The ordinary tests replay
//! the corpus through the same check.

#![no_main]

#[path = "../checks/frame_decoder.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|data: &[u8]| check::check(data));

//! A hostile virtio header and packet at the splitter.
//!
//! Run with `cargo fuzz run split` (on a stable compiler with `RUSTC_BOOTSTRAP=1`). The ordinary tests replay the
//! corpus through the same check.

#![no_main]

#[path = "../checks/split.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|data: &[u8]| check::check(data));

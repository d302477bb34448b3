//! Arbitrary packets and flows at the merger.
//!
//! Run with `cargo fuzz run merge` (on a stable compiler with `RUSTC_BOOTSTRAP=1`). The ordinary tests replay the
//! corpus through the same check.

#![no_main]

#[path = "../checks/merge.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|data: &[u8]| check::check(data));

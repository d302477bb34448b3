//! Any text at the parsers of keys.
//!
//! Run with `cargo fuzz run key_text` (on a stable compiler with `RUSTC_BOOTSTRAP=1`). The ordinary tests replay the
//! corpus through the same check.

#![no_main]

#[path = "../checks/key_text.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|data: &[u8]| check::check(data));

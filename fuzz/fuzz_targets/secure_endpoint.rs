//! A stranger's message at one end of a secure link.
//!
//! Run with `cargo fuzz run secure_endpoint` (on a stable compiler with `RUSTC_BOOTSTRAP=1`). The ordinary tests replay the
//! corpus through the same check.

#![no_main]

#[path = "../checks/secure_endpoint.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|data: &[u8]| check::check(data));

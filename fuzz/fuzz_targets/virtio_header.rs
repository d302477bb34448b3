//! Arbitrary bytes as virtio header and packet.
//!
//! Run with `cargo fuzz run virtio_header` (on a stable compiler with `RUSTC_BOOTSTRAP=1`). The ordinary tests replay the
//! corpus through the same check.

#![no_main]

#[path = "../checks/virtio_header.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|data: &[u8]| check::check(data));

//! Every test with real devices and real processes, as one program: each file is a module here, and what they share
//! (`common`) is compiled once. The runner gives each test a process and namespaces of its own all the same.
//!
//! `cargo nextest run --test suite bridge::` runs those of one file.

#[macro_use]
mod common;

mod access;
mod addressing;
mod bridge;
mod containers;
mod cookbook;
mod devices;
mod doctor;
mod dump_and_test;
mod faulty_wire;
mod hooks;
mod hostile;
mod interop;
mod lan;
mod latency;
mod link;
mod link_truth;
mod matrix;
mod mtu;
mod names;
mod offload;
mod one_host;
mod outage;
mod pair;
mod privileges;
mod recovery;
mod reload;
mod second_implementation;
mod secure_flood;
mod secure_interop;
mod secure_mistakes;
mod secure_mobility;
mod secure_recovery;
mod secure_rekey;
mod secure_secrets;
mod secure_strangers;
mod segmentation;
mod small_programs;
mod soak;
mod status;
mod supervised;
mod topology;
mod tutorial;
mod vectors;

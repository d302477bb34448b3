//! The tools beside the tunnel, one file each.

pub mod attached;
pub mod check;
pub mod cleanup;
pub mod doctor;
pub mod dump;
pub mod echo;
pub mod keys;
pub mod list;
pub mod mktun;
pub mod pair;
pub mod relatives;
pub mod status;
pub mod test;

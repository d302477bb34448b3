//! The tools beside the tunnel, one file each.

pub mod keys;
pub mod mktun;
pub mod relatives;

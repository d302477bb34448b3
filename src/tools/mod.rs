//! The tools beside the tunnel, one file each.

pub mod mktun;
pub mod relatives;

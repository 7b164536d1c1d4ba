//! Where bytes go: finding the target again, mounting it, and writing to it safely.

pub mod identity;
mod partition;
mod superblock;

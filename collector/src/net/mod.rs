//! The network of the crash kernel: makes true what the plan's [`crate::plan::network`] says, by route netlink.
//!
//! ```text
//! Network --path_to(target)--> NICs found by permanent address -> names -> bonds, bridges, VLANs, bottom up
//!                                  -> up -> carrier -> addresses -> route -> the next hop answers
//! ```
//!
//! It runs in a child of PID 1. Each step has a deadline, and an error says which link, which step, and what was seen. It
//! resolves no name, starts no program and takes no advice from the network, but for a DHCP server where an address came
//! from one and does not work any more.

pub mod link;
pub mod netlink;

mod bringup;
pub mod dhcp;
pub mod fence;
pub mod kinds;
pub mod neighbour;

pub use bringup::{NetError, Reached, reach};

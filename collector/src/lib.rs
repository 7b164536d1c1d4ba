//! The collector: what runs when the kernel has died.
//!
//! The words, the data flow and the map of modules are written here as the parts land.
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

pub mod addr;
pub mod byhand;
pub mod engine;
pub mod filter;
pub mod format;
pub mod kernel;
pub mod manifest;
pub mod plan;
pub mod problem;
pub mod progress;
pub mod source;
pub mod sys;
pub mod target;
pub mod vmcore;

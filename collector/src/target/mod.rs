//! Where bytes go: finding the target again, mounting it, and writing to it safely.

mod blocks;
mod direct;
pub mod directory;
pub mod file;
pub mod identity;
pub mod local;
mod partition;
pub mod raw;
pub mod remote;
pub mod share;
pub mod signature;
pub mod ssh;
pub mod store;
mod superblock;

use std::io;

/// Something could not be done to the target.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {what}")]
pub struct TargetError {
    /// The operation: `create`, `mount`.
    pub doing: &'static str,
    /// On what.
    pub what: String,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

impl TargetError {
    pub(crate) fn new(doing: &'static str, what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self { doing, what: what.into(), source: source.into() }
    }
}

/// Whether an error says that the target has no room: no space, over quota, or over the largest size of a file.
pub fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

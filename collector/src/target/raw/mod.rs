//! A raw partition as a target: dumps without a file system, which the next boot copies to one.
//!
//! There is nothing to mount, so nothing that a crash may have damaged, and no module but the disk's. The partition bears a
//! label that `vmcorectl target prepare` has written; without it, or with anything else's signature on it, nothing is ever
//! written there. What it looks like on the disk is in [`layout`].

pub mod directory;
pub mod layout;
mod partition;
mod read;
mod store;
#[cfg(test)]
mod tests;

pub use directory::{Chunk, Directory, Dump, FileRecord, Found, Label, State};
pub use partition::{Partition, prepare};
pub use read::Content;
pub use store::RawDump;

use crate::problem::Code;
use std::io;

/// What [`super::identity::probe`] calls a partition that was prepared.
pub const FILESYSTEM: &str = "vmcored_raw";

/// The manifest: where it is, its dump was finished.
pub const MANIFEST: &str = "manifest.json";

/// Why a raw partition cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RawError {
    /// There is no label.
    #[error("{0} was not prepared for raw dumps: run `vmcorectl target prepare {0}`")]
    NotPrepared(String),
    /// Something else is on it.
    #[error("{0} holds {1}, and is not written: if that can go, run `vmcorectl target prepare --force {0}`")]
    Holds(String, String),
    /// The label, or both directories, are damaged.
    #[error("the {1} of {0} is damaged: run `vmcorectl target prepare --force {0}`; dumps on it are lost")]
    Damaged(String, &'static str),
    /// A label of another version.
    #[error("{0} was prepared by another version (layout {1}, this one knows {version}): prepare it again", version = layout::VERSION)]
    Version(String, u32),
    /// It has become smaller than its label says.
    #[error("{0} has {1} MiB, but had {2} when it was prepared: prepare it again")]
    Smaller(String, u64, u64),
    /// Somebody uses it.
    #[error("{0} is in use: it is mounted, swap, or a part of another device")]
    Busy(String),
    /// The disk fails.
    #[error("cannot {doing} {node}")]
    Io {
        /// The operation: `open`.
        doing: &'static str,
        /// The device.
        node: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl RawError {
    /// The code for the manifest.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::NotPrepared(_) | Self::Version(..) => Code::RAW_NOT_PREPARED,
            Self::Holds(..) => Code::RAW_FOREIGN,
            Self::Damaged(..) | Self::Smaller(..) => Code::RAW_DAMAGED,
            Self::Busy(_) => Code::RAW_BUSY,
            Self::Io { .. } => Code::TARGET_WRITE_FAILED,
        }
    }
}

//! Raw partitions: which may be a target, and what becomes of the dumps on them.

pub mod prepare;
pub mod recover;

use crate::resolve::{self, ResolveError};
use collector::plan::DeviceId;
use collector::target::{identity, raw, signature};
use initramfs::root::Root;
use std::path::PathBuf;

/// A `[[target]]` with `raw`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PartitionSettings {
    /// The partition.
    pub device: DeviceId,
    /// Where the next boot copies its dumps to.
    pub path: String,
}

/// Why a partition cannot be a raw target.
#[derive(Debug, thiserror::Error)]
pub enum RawTargetError {
    /// Nobody has said that it may be written.
    #[error(
        "raw target {0} was not prepared: if nothing on it is needed, run `vmcorectl target prepare {0}`"
    )]
    NotPrepared(String),
    /// It holds something.
    #[error(
        "raw target {0} holds {1}: a dump would overwrite it; choose another, or, if that can go, \
         run `vmcorectl target prepare --force {0}`"
    )]
    Holds(String, String),
}

/// A partition that may be written.
pub(crate) struct Found {
    /// Kernel name: `vda1`.
    pub name: String,
    pub node: PathBuf,
    pub id: DeviceId,
}

/// Finds the partition, and looks whether it was prepared.
pub(crate) fn find(
    settings: &PartitionSettings,
    root: &Root,
    warnings: &mut Vec<String>,
) -> Result<Found, ResolveError> {
    let (name, node) = device(&settings.device, root)?;
    let shown = node.display().to_string();
    let read = |source| ResolveError::Read { what: shown.clone(), source };
    let real = root.path(&node);
    let identity = identity::probe(&real).map_err(read)?;
    resolve::refuse_swap(&node, &identity, root)?;
    if let Some(other) = signature::foreign(&real).map_err(read)? {
        return Err(RawTargetError::Holds(shown, other).into());
    }
    if identity.filesystem.as_deref() != Some(raw::FILESYSTEM) {
        return Err(RawTargetError::NotPrepared(shown).into());
    }
    let id = resolve::stable_identity(Some(&settings.device), &name, &node, &identity, root, warnings)?;
    Ok(Found { name, node, id })
}

/// The device's node.
pub fn node(id: &DeviceId, root: &Root) -> Result<PathBuf, ResolveError> {
    device(id, root).map(|(_, node)| node)
}

/// The kernel's name of a device, and its node.
fn device(id: &DeviceId, root: &Root) -> Result<(String, PathBuf), ResolveError> {
    let name = resolve::name_of(id, root)?;
    let node = PathBuf::from("/dev").join(name.replace('!', "/"));
    Ok((name, node))
}

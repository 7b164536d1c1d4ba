//! Mounts of shares: NFS, virtio-fs, 9p.

use super::TargetError;
use crate::plan::share::{ShareKind, ShareTarget};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::io;
use std::path::Path;

/// Mounts the share at `point`, for writing. mount(2) of a server that does not answer returns only after its own retries,
/// so this is for a child with a deadline.
pub fn mount_at(target: &ShareTarget, point: &Path) -> Result<(), TargetError> {
    std::fs::create_dir_all(point).map_err(|e| TargetError::new("create", point.display().to_string(), e))?;
    let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NOATIME;
    let kind = target.kind.filesystem();
    let data = (!target.options.is_empty()).then_some(target.options.as_str());
    mount(Some(target.source.as_str()), point, Some(kind), flags, data).map_err(|e| {
        let why = match (target.kind, e) {
            (_, Errno::ENODEV) => "the kernel does not know this file system: its module is missing",
            (ShareKind::Nfs, Errno::EACCES | Errno::EPERM) => {
                "the server refuses this client: look at its exports"
            }
            (ShareKind::Nfs, Errno::ENOENT) => "the server has no such export",
            (ShareKind::Nfs, Errno::EPROTONOSUPPORT | Errno::EINVAL) => {
                "the server or the kernel does not speak this version, or refuses an option"
            }
            (ShareKind::Nfs, Errno::ECONNREFUSED) => "nobody listens there: the NFS server is not running",
            (ShareKind::Nfs, Errno::ETIMEDOUT | Errno::EIO) => "the server does not answer",
            (ShareKind::Virtiofs | ShareKind::Plan9, Errno::EINVAL | Errno::ENOENT) => {
                "the host offers no share with this tag"
            }
            (_, e) => return TargetError::new("mount", target.to_string(), e),
        };
        TargetError::new("mount", target.to_string(), io::Error::other(format!("{why} ({})", e.desc())))
    })
}

/// Takes a share away whose server does not answer. What waits for the server is told that there is none, and what was to be
/// written is dropped; whoever still has a file open keeps that, and nothing else.
pub fn abandon(point: &Path) -> Result<(), TargetError> {
    match umount2(point, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH) {
        Ok(()) | Err(Errno::EINVAL) => Ok(()),
        Err(e) => Err(TargetError::new("give up", point.display().to_string(), e)),
    }
}

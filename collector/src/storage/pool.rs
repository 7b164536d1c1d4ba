//! A btrfs on several devices: the kernel mounts one of them and has to know the others.

use super::Say;
use super::disks::Device;
use crate::problem::Code;
use crate::sys;
use crate::target::TargetError;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;

const CONTROL: &str = "/dev/btrfs-control";

/// Tells btrfs of each device that is there; the first is to be mounted.
pub(super) fn announce(members: &[&Device], wanted: usize, say: Say<'_>) -> Result<Device, TargetError> {
    let control = File::options().read(true).write(true).open(CONTROL);
    let control = control.map_err(|e| TargetError::new("open", CONTROL, e))?;
    let mut first = None;
    for member in members {
        let shown = member.node.display().to_string();
        let path = CString::new(member.node.as_os_str().as_bytes()).map_err(io::Error::other);
        path.and_then(|path| sys::btrfs_scan(&control, &path))
            .map_err(|e| TargetError::new("tell btrfs of", shown, e))?;
        first.get_or_insert(*member);
    }
    if members.len() < wanted {
        let message = format!("btrfs: {} of {wanted} devices are there", members.len());
        say(Code::ARRAY_DEGRADED, message);
    }
    first.cloned().ok_or_else(|| TargetError::new("find", "a device of the btrfs", io::ErrorKind::NotFound))
}

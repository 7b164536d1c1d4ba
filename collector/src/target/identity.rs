//! A block device's identity, and the way back from an identity to a device.
//!
//! There is no udev in the crash kernel, so superblocks and partition tables are read here. `config` uses the
//! same functions on the live system: what is planned there is what is found after the crash.

use super::{partition, superblock};
use crate::plan::DeviceId;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// What a device says about itself, in the words of `blkid`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Identity {
    /// File system type (`ext4`, `xfs`, `vfat`, …), or `swap`, `crypto_LUKS`, `LVM2_member`,
    /// `linux_raid_member`, or [`super::raw::FILESYSTEM`].
    pub filesystem: Option<String>,
    /// UUID as `blkid` prints it.
    pub uuid: Option<String>,
    /// Label.
    pub label: Option<String>,
    /// `UUID_SUB`: the UUID of this device among those that share `uuid`, which md and btrfs give.
    pub member: Option<String>,
}

/// Reads the superblock of a block device (or of an image file). A device that holds nothing known gives an
/// empty [`Identity`]; an error means that it could not be opened.
pub fn probe(device: &Path) -> io::Result<Identity> {
    superblock::recognise(&File::open(device)?)
}

/// PARTUUID of the block device `name` (`vda1`), as `blkid` prints it; `None` when it is no partition or its
/// table has none. `sys_root` is `/sys`, `dev_root` is `/dev`.
pub fn partuuid(sys_root: &Path, dev_root: &Path, name: &str) -> io::Result<Option<String>> {
    let here = fs::canonicalize(sys_root.join("class/block").join(name))?;
    let Some(number) = number_in(&here.join("partition")) else { return Ok(None) };
    let disk = here.parent().filter(|p| p.join("queue").is_dir() || p.join("size").is_file());
    let Some(disk) = disk else { return Ok(None) };
    let Some(disk_name) = disk.file_name() else { return Ok(None) };
    let block = number_in(&disk.join("queue/logical_block_size")).unwrap_or(512);
    // sysfs counts in 512-byte units whatever the device's block size.
    let start = number_in(&here.join("start")).unwrap_or(0).saturating_mul(512);
    partition::partuuid(&File::open(dev_root.join(disk_name))?, block, number, start)
}

/// Finds the device node of an identity; `None` when it is not (yet) there. Devices that cannot be read are
/// passed over. Where several match, as the paths of a multipath device do, one that nothing is built upon
/// wins.
pub fn find(dev_root: &Path, sys_root: &Path, id: &DeviceId) -> io::Result<Option<PathBuf>> {
    if let DeviceId::Path(path) = id {
        return match fs::metadata(path) {
            Ok(meta) if meta.file_type().is_block_device() => Ok(Some(PathBuf::from(path))),
            Ok(_) => Ok(None),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        };
    }
    let mut held = None;
    for name in block_devices(sys_root)? {
        let node = dev_root.join(name.replace('!', "/"));
        if !matches(sys_root, dev_root, &name, &node, id) {
            continue;
        }
        let holders = fs::read_dir(sys_root.join("class/block").join(&name).join("holders"));
        if holders.map_or(true, |mut h| h.next().is_none()) {
            return Ok(Some(node));
        }
        held.get_or_insert(node);
    }
    Ok(held)
}

/// Names of the block devices that have a size, sorted. Floppies are left out: opening one takes seconds.
pub fn block_devices(sys_root: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(sys_root.join("class/block"))? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let floppy = name.strip_prefix("fd").is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()));
        if !floppy && number_in(&entry.path().join("size")).is_some_and(|size| size > 0) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Whether the block device `name`, whose node is `node`, bears this identity.
pub(crate) fn matches(sys_root: &Path, dev_root: &Path, name: &str, node: &Path, id: &DeviceId) -> bool {
    let same = |a: Option<String>, b: &str| a.is_some_and(|a| a.eq_ignore_ascii_case(b));
    let failed = |e: io::Error| log::debug!("{}: {e}", node.display());
    match id {
        DeviceId::Uuid(uuid) => probe(node).map_err(failed).is_ok_and(|i| same(i.uuid, uuid)),
        DeviceId::Label(label) => probe(node).map_err(failed).is_ok_and(|i| i.label.as_ref() == Some(label)),
        DeviceId::PartUuid(uuid) => {
            partuuid(sys_root, dev_root, name).map_err(failed).is_ok_and(|found| same(found, uuid))
        }
        DeviceId::Path(path) => Path::new(path) == node,
    }
}

/// The number that a sysfs attribute holds.
fn number_in(attribute: &Path) -> Option<u64> {
    fs::read_to_string(attribute).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests;

//! What was mounted where, as the first process saw it.

use crate::triage::{Dead, Known, Unknown};
use serde::Serialize;

/// A mount.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Mount {
    /// What: `/dev/vda`, `tmpfs`, `server:/export`.
    pub device: String,
    /// Where.
    pub point: String,
    /// Its file system.
    pub kind: String,
    /// Not writable: the mount, or the whole file system.
    pub read_only: bool,
}

/// Mounts that are believed, and steps from one to the root.
const MAX_MOUNTS: usize = 1024;
const MAX_DEPTH: usize = 256;
/// SB_RDONLY of the superblock, and MNT_READONLY of the mount.
const SB_RDONLY: u64 = 1;
const MNT_READONLY: u64 = 0x40;

/// All mounts of the first namespace. File systems without anything to store are left out.
pub(super) fn all(dead: &Dead<'_>) -> Vec<Mount> {
    let mut mounts = Vec::new();
    let walked = each(dead, |at| {
        if mounts.len() >= MAX_MOUNTS {
            return Err(Unknown::senseless(format!("there are more than {MAX_MOUNTS}")));
        }
        if let Some(mount) = dead.known("a mount", one(dead, at)) {
            mounts.push(mount);
        }
        Ok(())
    });
    dead.known("mounts", walked);
    mounts
}

fn each(dead: &Dead<'_>, mut visit: impl FnMut(u64) -> Known<()>) -> Known<()> {
    let proxy = dead.get(dead.symbol("init_task")?, "task_struct", "nsproxy")?;
    let namespace = dead.get(proxy, "nsproxy", "mnt_ns")?;
    // A tree since Linux commit 2eea9ce4310d ("mounts: keep list of mounts in an rbtree") (in v6.8); before, a list, and `mounts` was
    // their number.
    if !dead.has("mnt_namespace", "mounts.rb_node") {
        return dead.list(dead.place(namespace, "mnt_namespace", "list")?, "mount", "mnt_list", visit);
    }
    let root = dead.get(namespace, "mnt_namespace", "mounts.rb_node")?;
    let offset = dead.member("mount", "mnt_node")?.offset;
    let mut ahead = Vec::new();
    let (mut node, mut steps) = (root, 0);
    while node != 0 || !ahead.is_empty() {
        steps += 1;
        if steps > 4 * MAX_MOUNTS {
            return Err(Unknown::senseless("their tree does not end"));
        }
        if node != 0 {
            ahead.push(node);
            node = dead.get(node, "rb_node", "rb_left")?;
        } else if let Some(next) = ahead.pop() {
            visit(next.wrapping_sub(offset))?;
            node = dead.get(next, "rb_node", "rb_right")?;
        }
    }
    Ok(())
}

fn one(dead: &Dead<'_>, at: u64) -> Known<Mount> {
    let device = dead.get(at, "mount", "mnt_devname")?;
    let superblock = dead.get(at, "mount", "mnt.mnt_sb")?;
    let kind = dead.get(superblock, "super_block", "s_type")?;
    let flags = dead.get(superblock, "super_block", "s_flags")?;
    Ok(Mount {
        device: if device == 0 { String::new() } else { dead.cstring(device, 256)? },
        point: path(dead, at)?,
        kind: dead.cstring(dead.get(kind, "file_system_type", "name")?, 32)?,
        read_only: flags & SB_RDONLY != 0 || dead.get(at, "mount", "mnt.mnt_flags")? & MNT_READONLY != 0,
    })
}

/// Where a mount is: from its mount point up, through the mounts that this is in.
fn path(dead: &Dead<'_>, at: u64) -> Known<String> {
    let mut names: Vec<String> = Vec::new();
    let mut mount = at;
    let mut steps = 0;
    loop {
        let parent = dead.get(mount, "mount", "mnt_parent")?;
        if parent == mount || parent == 0 {
            break;
        }
        let mut dentry = dead.get(mount, "mount", "mnt_mountpoint")?;
        let top = dead.get(parent, "mount", "mnt.mnt_root")?;
        while dentry != top {
            steps += 1;
            let up = dead.get(dentry, "dentry", "d_parent")?;
            if steps > MAX_DEPTH || up == dentry {
                break;
            }
            names.push(dead.cstring(dead.get(dentry, "dentry", "d_name.name")?, 256)?);
            dentry = up;
        }
        steps += 1;
        if steps > MAX_DEPTH {
            return Err(Unknown::senseless("its mount point has no root"));
        }
        mount = parent;
    }
    let path: String = names.iter().rev().map(|name| format!("/{name}")).collect();
    Ok(if path.is_empty() { "/".to_owned() } else { path })
}

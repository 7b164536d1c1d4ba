//! A local block device: waiting for it, mounting it.

use super::{TargetError, identity};
use crate::plan::storage::Part;
use crate::plan::{DeviceId, LocalTarget};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often the list of devices is looked at.
const GLANCE: Duration = Duration::from_millis(25);
/// How often every device is read again although the list has not changed: a disk may spin up late.
const RESCAN: Duration = Duration::from_millis(500);
/// When to say first what is being waited for.
const SPEAK_FIRST: Duration = Duration::from_secs(3);
/// And then how often.
const SPEAK_AGAIN: Duration = Duration::from_secs(10);

/// Waits until the device is there. The error names what was there instead.
pub fn wait_for(id: &DeviceId, limit: Duration) -> Result<PathBuf, TargetError> {
    let (dev, sys) = (Path::new("/dev"), Path::new("/sys"));
    let start = Instant::now();
    let mut seen = None;
    let mut read_at = start;
    let mut speak_at = SPEAK_FIRST;
    loop {
        let names =
            identity::block_devices(sys).map_err(|e| TargetError::new("list", "/sys/class/block", e))?;
        if seen.as_ref() != Some(&names) || read_at.elapsed() >= RESCAN {
            let found =
                identity::find(dev, sys, id).map_err(|e| TargetError::new("look for", id.to_string(), e))?;
            if let Some(node) = found {
                return Ok(node);
            }
            read_at = Instant::now();
            seen = Some(names);
        }
        let waited = start.elapsed();
        if waited >= limit {
            let why =
                format!("not there after {} s (block devices: {})", limit.as_secs(), inventory(dev, sys));
            return Err(TargetError::new("find", id.to_string(), io::Error::other(why)));
        }
        if waited >= speak_at {
            log::info!(
                "waiting for {id} since {} s (block devices: {})",
                waited.as_secs(),
                inventory(dev, sys)
            );
            speak_at = waited.saturating_add(SPEAK_AGAIN);
        }
        std::thread::sleep(GLANCE.min(limit.saturating_sub(waited)));
    }
}

/// The block devices that are there and what they hold, for people.
fn inventory(dev: &Path, sys: &Path) -> String {
    let names = identity::block_devices(sys).unwrap_or_default();
    let each = names.iter().take(16).map(|name| match identity::probe(&dev.join(name.replace('!', "/"))) {
        Ok(i) => format!(
            "{name} ({}{})",
            i.filesystem.unwrap_or_else(|| "nothing known".to_owned()),
            i.uuid.map(|u| format!(" {u}")).unwrap_or_default()
        ),
        Err(e) => format!("{name} ({e})"),
    });
    let list = each.collect::<Vec<_>>().join(", ");
    if list.is_empty() { "none".to_owned() } else { list }
}

/// Mounts the target's file system at `point`, for writing. Its journal is replayed by the kernel: after a
/// crash it is never clean. Nothing is checked or repaired: that is for the next boot, with more memory and
/// somebody to ask.
pub fn mount_at(target: &LocalTarget, node: &Path, point: &Path) -> Result<(), TargetError> {
    let holds = identity::probe(node).map_err(|e| TargetError::new("read", node.display().to_string(), e))?;
    if let Some(other @ ("swap" | "crypto_LUKS" | "LVM2_member" | "linux_raid_member")) =
        holds.filesystem.as_deref()
    {
        let why = io::Error::other(format!("it is {other}, not a file system"));
        return Err(TargetError::new("mount", node.display().to_string(), why));
    }
    std::fs::create_dir_all(point).map_err(|e| TargetError::new("create", point.display().to_string(), e))?;
    let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    let try_with = |options: &str| {
        let data = (!options.is_empty()).then_some(options);
        mount(Some(node), point, Some(target.filesystem.as_str()), flags, data)
    };
    let mut result = try_with(&target.options);
    if let Err(e) = result
        && let Some(options) = degraded(target)
    {
        // Of what is kept twice one copy is enough. Where nothing is, btrfs refuses this too.
        log::warn!("{}: {e}; mounting it without the devices that it lacks", node.display());
        result = try_with(&options);
    }
    if result == Err(Errno::EINVAL) && !target.options.is_empty() {
        // The crash kernel may be another version than the one the options are for. A mount without them still
        // saves the dump.
        log::warn!(
            "{}: mount options {:?} are refused; mounting without them",
            node.display(),
            target.options
        );
        result = try_with("");
    }
    result.map_err(|e| {
        let what = format!("{} ({})", node.display(), target.filesystem);
        match e {
            Errno::ENODEV => TargetError::new(
                "mount",
                what,
                io::Error::other("the kernel does not know this file system: its module is missing"),
            ),
            e => TargetError::new("mount", what, e),
        }
    })
}

/// The options with which a btrfs of several devices is mounted when some are missing.
fn degraded(target: &LocalTarget) -> Option<String> {
    let top = target.stack.as_ref()?.0.last()?;
    let both = if target.options.is_empty() { "" } else { "," };
    matches!(top, Part::Pool(_)).then(|| format!("{}{both}degraded", target.options))
}

/// Unmounts. Where somebody still has a file open (a process that cannot be killed), what was written is made
/// durable instead.
pub fn unmount(point: &Path) -> Result<(), TargetError> {
    match nix::mount::umount(point) {
        Ok(()) | Err(Errno::EINVAL) => Ok(()),
        Err(e) => {
            log::warn!("cannot unmount {}: {e}; syncing it", point.display());
            let failed = |e: io::Error| TargetError::new("sync", point.display().to_string(), e);
            let root = std::fs::File::open(point).map_err(failed)?;
            nix::unistd::syncfs(&root).map_err(|e| failed(e.into()))
        }
    }
}

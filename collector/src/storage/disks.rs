//! The disks of a stack: finding them by what they say of themselves.

use crate::plan::storage::{DiskId, Part, Stack};
use crate::target::{TargetError, identity};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often the list of devices is looked at.
const GLANCE: Duration = Duration::from_millis(25);
/// How often every device is read again although the list has not changed.
const RESCAN: Duration = Duration::from_millis(500);
/// When to say what is being waited for.
const SPEAK: Duration = Duration::from_secs(3);

/// A block device that is there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Device {
    /// The kernel's name: `sda1`.
    pub(super) name: String,
    /// Its node.
    pub(super) node: PathBuf,
    /// Major and minor.
    pub(super) number: (u32, u32),
    /// Its size, in sectors of 512 bytes.
    pub(super) sectors: u64,
}

impl Device {
    /// By the kernel's name.
    pub(super) fn named(sys_root: &Path, dev_root: &Path, name: &str) -> io::Result<Self> {
        let here = sys_root.join("class/block").join(name);
        let bad = || io::Error::new(io::ErrorKind::InvalidData, format!("{} says nothing", here.display()));
        let dev = fs::read_to_string(here.join("dev"))?;
        let (major, minor) = dev.trim().split_once(':').ok_or_else(bad)?;
        let number = (major.parse().map_err(|_| bad())?, minor.parse().map_err(|_| bad())?);
        let sectors = fs::read_to_string(here.join("size"))?.trim().parse().map_err(|_| bad())?;
        let node = dev_root.join(name.replace('!', "/"));
        Ok(Self { name: name.to_owned(), node, number, sectors })
    }

    /// By its number.
    pub(super) fn numbered(sys_root: &Path, dev_root: &Path, (major, minor): (u32, u32)) -> io::Result<Self> {
        let link = fs::canonicalize(sys_root.join(format!("dev/block/{major}:{minor}")))?;
        let name = link.file_name().and_then(|name| name.to_str());
        Self::named(sys_root, dev_root, name.ok_or(io::ErrorKind::InvalidData)?)
    }

    /// As tables have it: `8:1`.
    pub(super) fn number(&self) -> String {
        format!("{}:{}", self.number.0, self.number.1)
    }
}

/// Kernel names of all block devices that bear an identity, sorted. `sys_root` is `/sys`, `dev_root` is `/dev`.
pub fn find_all(dev_root: &Path, sys_root: &Path, id: &DiskId) -> io::Result<Vec<String>> {
    let mut names = identity::block_devices(sys_root)?;
    names.retain(|name| bears(dev_root, sys_root, name, id));
    Ok(names)
}

fn bears(dev_root: &Path, sys_root: &Path, name: &str, id: &DiskId) -> bool {
    let attribute = |paths: [&str; 2], wanted: &str| {
        let here = sys_root.join("class/block").join(name);
        paths.iter().any(|path| fs::read_to_string(here.join(path)).is_ok_and(|text| text.trim() == wanted))
    };
    let node = dev_root.join(name.replace('!', "/"));
    match id {
        // NVMe, SCSI.
        DiskId::Wwid(wwid) => attribute(["wwid", "device/wwid"], wwid),
        // virtio-blk, NVMe.
        DiskId::Serial(serial) => attribute(["serial", "device/serial"], serial),
        DiskId::Member(uuid) => identity::probe(&node)
            .is_ok_and(|i| i.member.is_some_and(|member| member.eq_ignore_ascii_case(uuid))),
        DiskId::Device(id) => identity::matches(sys_root, dev_root, name, &node, id),
    }
}

/// The kernel's name of partition `number` of the disk `name`.
pub fn partition_of(sys_root: &Path, name: &str, number: u32) -> Option<String> {
    let entries = fs::read_dir(sys_root.join("class/block").join(name)).ok()?;
    entries.flatten().find_map(|entry| {
        let text = fs::read_to_string(entry.path().join("partition")).ok()?;
        (text.trim().parse() == Ok(number)).then(|| entry.file_name().into_string().ok())?
    })
}

/// What was found of the disks of a stack.
#[derive(Debug)]
pub(super) struct Gathered {
    /// For each part, the devices that it is found as; none where it is no disk.
    pub(super) parts: Vec<Vec<Device>>,
    /// Nothing is missing.
    pub(super) complete: bool,
}

/// Waits for the disks: for all of them until `patience` is over, and for those without which there is no target until `limit` is,
/// both counted from `start`.
pub(super) fn gather(
    stack: &Stack,
    start: Instant,
    patience: Duration,
    limit: Duration,
) -> Result<Gathered, TargetError> {
    let (dev, sys) = (Path::new("/dev"), Path::new("/sys"));
    let listed = |e| TargetError::new("list", "/sys/class/block", e);
    let mut seen = None;
    let mut read_at = start;
    let mut spoken = false;
    let mut parts: Vec<Vec<Device>> = vec![Vec::new(); stack.0.len()];
    loop {
        let names = identity::block_devices(sys).map_err(listed)?;
        if seen.as_ref() != Some(&names) || read_at.elapsed() >= RESCAN {
            for (found, part) in parts.iter_mut().zip(&stack.0) {
                look(dev, sys, part, found).map_err(listed)?;
            }
            read_at = Instant::now();
            seen = Some(names);
        }
        let missing: Vec<(usize, &Part)> = stack
            .0
            .iter()
            .enumerate()
            .filter(|(at, part)| parts.get(*at).is_some_and(|found| found.len() < wanted(part)))
            .collect();
        let waited = start.elapsed();
        let needed = missing
            .iter()
            .find(|(at, _)| parts.get(*at).is_none_or(Vec::is_empty) && !stack.can_do_without(*at));
        if missing.is_empty() || (needed.is_none() && waited >= patience) {
            return Ok(Gathered { parts, complete: missing.is_empty() });
        }
        let Some((_, first)) = needed.or(missing.first()) else { continue };
        if waited >= limit {
            let there = seen.unwrap_or_default();
            let list = there.iter().take(16).map(String::as_str).collect::<Vec<_>>().join(", ");
            let why = format!(
                "not there after {} s (block devices: {})",
                limit.as_secs(),
                if list.is_empty() { "none" } else { &list }
            );
            return Err(TargetError::new("find", first.to_string(), io::Error::other(why)));
        }
        if waited >= SPEAK && !spoken {
            log::info!("waiting for {first} since {} s", waited.as_secs());
            spoken = true;
        }
        std::thread::sleep(GLANCE);
    }
}

/// How many devices a part is found as.
fn wanted(part: &Part) -> usize {
    match part {
        Part::Disk(_) => 1,
        Part::Multipath(paths) => paths.paths,
        Part::Mapped(_) | Part::Array(_) | Part::Slice(_) | Part::Pool(_) => 0,
    }
}

/// Looks for a part, if it is a disk and was not found yet.
fn look(dev: &Path, sys: &Path, part: &Part, found: &mut Vec<Device>) -> io::Result<()> {
    let (id, sectors) = match part {
        Part::Disk(disk) => (&disk.id, disk.sectors),
        Part::Multipath(paths) => (&paths.id, paths.sectors),
        Part::Mapped(_) | Part::Array(_) | Part::Slice(_) | Part::Pool(_) => return Ok(()),
    };
    if found.len() >= wanted(part) {
        return Ok(());
    }
    let devices = find_all(dev, sys, id)?.into_iter().filter_map(|name| Device::named(sys, dev, &name).ok());
    let fits = |device: &Device| {
        let fits = device.sectors >= sectors;
        if !fits {
            log::debug!("{} is smaller than {part}", device.name);
        }
        fits
    };
    *found = devices.filter(fits).collect();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_found_by_what_they_say() {
        let root = tempfile::tempdir().unwrap();
        let sys = root.path().join("sys");
        for (path, text) in [
            ("vda/size", "100"),
            ("vda/dev", "254:0"),
            ("vda/serial", "S1"),
            ("vdb/size", "100"),
            ("vdb/serial", "S2"),
            ("sda/size", "100"),
            ("sda/device/wwid", "naa.5000 "),
            ("sdb/size", "100"),
            ("sdb/device/wwid", "naa.5000\n"),
            ("nvme0n1/size", "100"),
            ("nvme0n1/wwid", "eui.1"),
            ("nvme0n1/device/serial", "S3"),
            ("md_x/size", "100"),
            ("md_x/md_xp2/partition", "2"),
            ("md_x/md_x1/partition", "x"),
        ] {
            let path = sys.join("class/block").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let find = |id: &str| {
            find_all(root.path(), &sys, &DiskId::try_from(id.to_owned()).unwrap()).unwrap().join(" ")
        };
        for (id, names) in [
            ("SERIAL=S1", "vda"),
            ("SERIAL=S3", "nvme0n1"),
            ("SERIAL=S", ""),
            ("WWID=naa.5000", "sda sdb"),
            ("WWID=eui.1", "nvme0n1"),
            ("UUID=none", ""),
        ] {
            assert_eq!(find(id), names, "{id}");
        }
        assert_eq!(partition_of(&sys, "md_x", 2).as_deref(), Some("md_xp2"));
        assert_eq!(partition_of(&sys, "md_x", 1), None);
        let vda = Device::named(&sys, Path::new("/dev"), "vda").unwrap();
        assert_eq!((vda.number(), vda.sectors, vda.node), ("254:0".to_owned(), 100, "/dev/vda".into()));
        assert!(Device::named(&sys, Path::new("/dev"), "vdb").is_err(), "it has no number");
    }
}

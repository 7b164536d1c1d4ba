//! What a local target lies on, written down so that it can be put together again after a crash: device-mapper tables, md
//! arrays, and below them disks under identities that survive a reboot.
//!
//! sysfs says what lies on what, and device-mapper itself what its tables are. What the crash kernel could not put together is
//! refused here, with the reason.

pub mod crypt;
pub mod explain;
mod table;

use collector::plan::DeviceId;
use collector::plan::storage::{
    Array, Disk, DiskId, Mapped, Multipath, Part, Place, Pool, Segment, Slice, Stack, To,
};
use collector::storage::find_all;
use collector::storage::mapper::{CONTROL, Line, Mapper};
use collector::target::identity::{self, Identity};
use initramfs::root::Root;
use std::collections::{BTreeSet, HashMap};
use std::ffi::CString;
use std::io;
use std::path::{Path, PathBuf};

/// How deep layers may lie on each other.
const DEEPEST: usize = 16;

/// What a target lies on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Storage {
    /// For the plan.
    pub stack: Stack,
    /// Kernel names of the disks and partitions below all layers.
    pub disks: Vec<String>,
    /// Modules of the layers.
    pub modules: Vec<String>,
    /// Descriptions of volume keys that the kernel has to hand on: [`crypt::hand_over`].
    pub keys: Vec<String>,
    /// What the user should know, a sentence each.
    pub warnings: Vec<String>,
}

/// Why it cannot be put together after a crash.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// Nobody has taught the collector this.
    #[error("{device} is {what}: {advice}")]
    Unsupported {
        /// The device, `dm-0`.
        device: String,
        /// What it is.
        what: String,
        /// What to do.
        advice: &'static str,
    },
    /// Device-mapper does not tell.
    #[error("cannot read the device-mapper table of {device} through {CONTROL}")]
    Table {
        /// The device, `dm-0`.
        device: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// sysfs does not say what it should.
    #[error("{0} does not say what the device is made of: is /sys mounted?")]
    Sysfs(PathBuf),
    /// A device could not be read.
    #[error("cannot read {node}")]
    Read {
        /// Its node.
        node: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// sysfs.
    #[error(transparent)]
    Root(#[from] initramfs::Error),
}

/// Where tables come from.
pub trait Tables {
    /// The live table of a device-mapper device.
    fn table(&mut self, major: u32, minor: u32) -> io::Result<Vec<Line>>;
    /// Whether the kernel finds a `logon` key of this description.
    fn has_key(&mut self, description: &str) -> io::Result<bool>;
}

/// The running kernel's.
#[derive(Debug)]
pub struct Live<'r> {
    root: &'r Root,
    mapper: Option<Mapper>,
}

impl<'r> Live<'r> {
    /// Opens nothing before it is asked.
    pub fn new(root: &'r Root) -> Self {
        Self { root, mapper: None }
    }
}

impl Tables for Live<'_> {
    fn table(&mut self, major: u32, minor: u32) -> io::Result<Vec<Line>> {
        let mapper = match self.mapper.take() {
            Some(mapper) => mapper,
            None => Mapper::open_at(&self.root.path(CONTROL))?,
        };
        self.mapper.insert(mapper).table(major, minor)
    }

    fn has_key(&mut self, description: &str) -> io::Result<bool> {
        collector::sys::has_logon_key(&CString::new(description)?)
    }
}

/// What the block device `name` (`dm-0`) lies on; `None` when the kernel finds it by itself.
pub fn of_device(name: &str, root: &Root, tables: &mut dyn Tables) -> Result<Option<Storage>, StorageError> {
    let mut walker = Walker::new(root, tables);
    walker.part(name, 0)?;
    Ok(match walker.parts.as_slice() {
        [Part::Disk(_)] => None,
        _ => Some(walker.done()),
    })
}

/// What a file system lies on that has several devices, all of which bear `uuid`; `None` when there is only one.
pub fn of_pool(
    name: &str,
    uuid: &str,
    root: &Root,
    tables: &mut dyn Tables,
) -> Result<Option<Storage>, StorageError> {
    let (dev, sys) = (root.path("/dev"), root.path("/sys"));
    let read = |source| StorageError::Read { node: "/sys/class/block".to_owned(), source };
    let all = find_all(&dev, &sys, &DiskId::Device(DeviceId::Uuid(uuid.to_owned()))).map_err(read)?;
    let mut walker = Walker::new(root, tables);
    let mut members = Vec::new();
    let mut known = BTreeSet::new();
    for name in all {
        // Ways to a multipath disk show the same member.
        let held = !root.list(Path::new("/sys/class/block").join(&name).join("holders"))?.is_empty();
        let member = identity::probe(&walker.node(&name)).ok().and_then(|i| i.member);
        if !held && member.is_some_and(|member| known.insert(member)) {
            members.push(walker.part(&name, 0)?);
        }
    }
    if members.len() < 2 {
        return of_device(name, root, walker.tables);
    }
    walker.parts.push(Part::Pool(Pool { members }));
    Ok(Some(walker.done()))
}

struct Walker<'w> {
    root: &'w Root,
    tables: &'w mut dyn Tables,
    parts: Vec<Part>,
    known: HashMap<String, usize>,
    disks: Vec<String>,
    modules: BTreeSet<String>,
    keys: Vec<String>,
    warnings: Vec<String>,
}

impl<'w> Walker<'w> {
    fn new(root: &'w Root, tables: &'w mut dyn Tables) -> Self {
        let (known, modules) = (HashMap::new(), BTreeSet::new());
        Self {
            root,
            tables,
            parts: Vec::new(),
            known,
            disks: Vec::new(),
            modules,
            keys: Vec::new(),
            warnings: Vec::new(),
        }
    }

    fn done(self) -> Storage {
        let Self { parts, disks, modules, keys, warnings, .. } = self;
        Storage { stack: Stack(parts), disks, modules: modules.into_iter().collect(), keys, warnings }
    }

    fn needs(&mut self, module: &str) {
        self.modules.insert(module.to_owned());
    }

    fn node(&self, name: &str) -> PathBuf {
        self.root.path(Path::new("/dev").join(name.replace('!', "/")))
    }

    /// The place of a device in the stack, where it is put behind what it is made of.
    fn part(&mut self, name: &str, depth: usize) -> Result<usize, StorageError> {
        if let Some(place) = self.known.get(name) {
            return Ok(*place);
        }
        if depth > DEEPEST {
            return Err(refused(name, "below more layers than there can be".to_owned(), PLAIN));
        }
        let class = Path::new("/sys/class/block").join(name);
        let here = self.root.canonical(&class)?.ok_or_else(|| StorageError::Sysfs(class.clone()))?;
        let above = here.parent().map(Path::to_owned).unwrap_or_default();
        let part = if self.root.exists(here.join("dm"))? {
            self.mapped(name, &here, depth)?
        } else if self.root.exists(here.join("md"))? {
            self.array(name, &here, depth)?
        } else if self.root.exists(here.join("partition"))? && self.root.exists(above.join("md"))? {
            let number = self.line(here.join("partition"))?.parse();
            let whole = above.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            let number = number.map_err(|_| StorageError::Sysfs(here.clone()))?;
            Part::Slice(Slice { part: self.part(&whole, depth + 1)?, number })
        } else {
            self.disks.push(name.to_owned());
            Part::Disk(self.disk(name)?)
        };
        self.parts.push(part);
        let place = self.parts.len() - 1;
        self.known.insert(name.to_owned(), place);
        Ok(place)
    }

    fn line(&self, path: PathBuf) -> Result<String, StorageError> {
        self.root.read_line(&path)?.ok_or(StorageError::Sysfs(path))
    }

    fn sectors(&self, name: &str) -> Result<u64, StorageError> {
        let path = Path::new("/sys/class/block").join(name).join("size");
        self.line(path.clone())?.parse().map_err(|_| StorageError::Sysfs(path))
    }

    fn mapped(&mut self, name: &str, here: &Path, depth: usize) -> Result<Part, StorageError> {
        let called = self.line(here.join("dm/name"))?;
        let uuid = self.root.read_line(here.join("dm/uuid"))?.unwrap_or_default();
        let number = self.line(here.join("dev"))?;
        let number = number.split_once(':').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        let (major, minor) = number.ok_or_else(|| StorageError::Sysfs(here.join("dev")))?;
        let lines = self.tables.table(major, minor);
        let lines = lines.map_err(|source| StorageError::Table { device: name.to_owned(), source })?;
        self.needs("dm_mod");
        if let [line] = lines.as_slice()
            && line.kind == "multipath"
        {
            return self.multipath(name, here, line, (called, uuid));
        }
        let mut table = Vec::new();
        for line in &lines {
            if line.kind == "crypt" {
                table.push(self.crypt(name, &uuid, line, depth)?);
                continue;
            }
            let mut place = |number: &str| -> Result<usize, StorageError> {
                let below = self.root.link_name(format!("/sys/dev/block/{number}"))?;
                let below = below.ok_or_else(|| StorageError::Sysfs(here.join("slaves")))?;
                self.part(&below, depth + 1)
            };
            table.push(table::segment(name, line, &mut place)?);
        }
        Ok(Part::Mapped(Mapped { name: called, uuid, table }))
    }

    fn crypt(&mut self, name: &str, uuid: &str, line: &Line, depth: usize) -> Result<Segment, StorageError> {
        let crypt = crypt::read(name, uuid, line, self.root, self.tables)?;
        self.modules.extend(crypt::modules(&crypt.cipher, self.root)?);
        let (number, start) = &crypt.below;
        let below = self.root.link_name(format!("/sys/dev/block/{number}"))?;
        let below = below.ok_or_else(|| StorageError::Sysfs(Path::new("/sys/dev/block").join(number)))?;
        let (part, key) = (self.part(&below, depth + 1)?, crypt.key());
        self.keys.push(crypt.description);
        let place = Place { part, start: *start };
        let (cipher, iv_offset, options) = (crypt.cipher, crypt.iv_offset, crypt.options);
        Ok(Segment { sectors: line.sectors, to: To::Crypt { cipher, key, iv_offset, place, options } })
    }

    fn multipath(
        &mut self,
        name: &str,
        here: &Path,
        line: &Line,
        (called, uuid): (String, String),
    ) -> Result<Part, StorageError> {
        let ways = self.root.list(here.join("slaves"))?;
        let mut id = None;
        for way in &ways {
            let wwid = self.attribute(way, ["wwid", "device/wwid"])?;
            match (wwid, &id) {
                (Some(wwid), None) => id = Some(wwid),
                (Some(wwid), Some(id)) if wwid == *id => {}
                _ => {
                    let what = format!("multipath, and the ways to it ({}) have no WWID", ways.join(", "));
                    return Err(refused(name, what, PLAIN));
                }
            }
        }
        let id = id.ok_or_else(|| refused(name, "multipath without a way".to_owned(), PLAIN))?;
        let handler = table::handler(&line.parameters);
        self.needs("dm_multipath");
        self.needs("dm_service_time");
        if let Some(handler) = &handler {
            self.needs(&format!("scsi_dh_{handler}"));
        }
        let paths = ways.len();
        self.disks.extend(ways);
        Ok(Part::Multipath(Multipath {
            name: called,
            uuid,
            id: DiskId::Wwid(id),
            paths,
            sectors: line.sectors,
            handler,
        }))
    }

    fn array(&mut self, name: &str, here: &Path, depth: usize) -> Result<Part, StorageError> {
        let level = self.line(here.join("md/level"))?;
        let version = self.line(here.join("md/metadata_version"))?;
        let metadata = version.split_once('.').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        let module = match level.as_str() {
            "raid0" | "raid1" | "raid10" | "linear" => level.as_str(),
            "raid4" | "raid5" | "raid6" => "raid456",
            _ => return Err(refused(name, format!("an md array of level {level:?}"), PLAIN)),
        };
        let Some(metadata @ ((0, 90) | (1, 0..=2))) = metadata else {
            let what = format!("an md array with {version} metadata, which needs mdadm");
            return Err(refused(name, what, PLAIN));
        };
        self.needs("md_mod");
        self.needs(module);
        let mut members = Vec::new();
        let mut uuid = None;
        for entry in self.root.list(here.join("md"))?.iter().filter(|entry| entry.starts_with("dev-")) {
            let member = here.join("md").join(entry);
            let state = self.root.read_line(member.join("state"))?.unwrap_or_default();
            let Some(below) = self.root.link_name(member.join("block"))? else { continue };
            if state.contains("faulty") {
                self.warnings.push(format!("{below} is a faulty member of {name}: left out"));
                continue;
            }
            if uuid.is_none() {
                uuid = self.probe(&below)?.uuid;
            }
            members.push(self.part(&below, depth + 1)?);
        }
        if members.is_empty() {
            return Err(StorageError::Sysfs(here.join("md")));
        }
        // Metadata 0.90 has one that blkid writes in another order; nobody looks for it.
        let uuid = uuid.unwrap_or_else(|| name.to_owned());
        Ok(Part::Array(Array { uuid, level, metadata, members }))
    }

    fn probe(&self, name: &str) -> Result<Identity, StorageError> {
        let shown = || Path::new("/dev").join(name.replace('!', "/")).display().to_string();
        identity::probe(&self.node(name)).map_err(|source| StorageError::Read { node: shown(), source })
    }

    fn attribute(&self, name: &str, paths: [&str; 2]) -> Result<Option<String>, StorageError> {
        for path in paths {
            let text = self.root.read_line(Path::new("/sys/class/block").join(name).join(path))?;
            if let Some(text) = text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()) {
                return Ok(Some(text));
            }
        }
        Ok(None)
    }

    /// The identity by which a disk or partition, and no other, is found again.
    ///
    /// What a layer wrote onto it for itself comes first where it is of this very device, then what says nothing of the contents.
    fn disk(&mut self, name: &str) -> Result<Disk, StorageError> {
        let sectors = self.sectors(name)?;
        let (dev, sys) = (self.root.path("/dev"), self.root.path("/sys"));
        let holds = self.probe(name)?;
        let shown = format!("/dev/{}", name.replace('!', "/"));
        let read = |source| StorageError::Read { node: shown.clone(), source };
        let partuuid = identity::partuuid(&sys, &dev, name).map_err(read)?;
        // An array's UUID is that of all its members.
        let uuid = holds.uuid.filter(|_| holds.filesystem.as_deref() != Some("linux_raid_member"));
        let candidates = [
            holds.member.map(DiskId::Member),
            partuuid.map(|uuid| DiskId::Device(DeviceId::PartUuid(uuid))),
            self.attribute(name, ["wwid", "device/wwid"])?.map(DiskId::Wwid),
            self.attribute(name, ["serial", "device/serial"])?.map(DiskId::Serial),
            uuid.map(|uuid| DiskId::Device(DeviceId::Uuid(uuid))),
        ];
        for id in candidates.into_iter().flatten() {
            let all = find_all(&dev, &sys, &id).map_err(read)?;
            if all == [name] {
                return Ok(Disk { id, sectors });
            }
            if all.len() > 1 {
                self.warnings.push(format!("{id} of {shown} is also that of another device: not used"));
            }
        }
        self.warnings.push(format!(
            "{shown} has no identity that survives a reboot, so it is looked for by this name: give the disk a partition table"
        ));
        Ok(Disk { id: DiskId::Device(DeviceId::Path(shown)), sectors })
    }
}

/// What to do where there is no way.
const PLAIN: &str =
    "not supported yet; choose a target on a disk, a partition, LVM (linear, striped), multipath or md RAID";

fn refused(device: &str, what: String, advice: &'static str) -> StorageError {
    StorageError::Unsupported { device: device.to_owned(), what, advice }
}

#[cfg(test)]
mod tests;

//! What a local target is built from, where its file system does not lie on a disk or partition itself: device-mapper
//! tables, md arrays, file systems of several disks.
//!
//! Nothing is named by what it is called now. Disks bear the identity that finds them again, and everything above says which
//! parts it is made of by their place in the list.

use super::DeviceId;
use serde::{Deserialize, Serialize};

/// Sectors of device-mapper and md, bytes, whatever the disk's own are.
pub const SECTOR: u64 = 512;

/// The parts of a target, each made of earlier ones only; the last is what is mounted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Stack(pub Vec<Part>);

/// A block device of a [`Stack`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Part {
    /// Something to wait for.
    Disk(Disk),
    /// A device-mapper device.
    Mapped(Mapped),
    /// One disk by several ways.
    Multipath(Multipath),
    /// A software RAID.
    Array(Array),
    /// A partition of an array: the kernel makes it once the array runs.
    Slice(Slice),
    /// A file system that lies on several devices.
    Pool(Pool),
}

/// A disk or partition that the kernel finds by itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// How it is found.
    pub id: DiskId,
    /// Its size at least, in sectors of 512 bytes: a smaller one is another.
    pub sectors: u64,
}

/// A device-mapper device.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mapped {
    /// Its name: `vg-root`.
    pub name: String,
    /// Its UUID, by which others see what it is: `LVM-…`. May be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uuid: String,
    /// Its table, without gaps, from sector 0.
    pub table: Vec<Segment>,
}

/// A stretch of a table.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    /// Its length in sectors.
    pub sectors: u64,
    /// Where it leads.
    pub to: To,
}

/// Where a stretch of a table leads.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum To {
    /// A stretch of one part.
    Linear(Place),
    /// Stretches of several, in turn.
    Striped {
        /// Sectors of each before it is the next one's turn.
        chunk: u64,
        /// In this order.
        stripes: Vec<Place>,
    },
    /// Nowhere: whatever is read or written fails.
    Error,
    /// A stretch of one part, encrypted.
    Crypt {
        /// `aes-xts-plain64`.
        cipher: String,
        /// The key in the crash kernel's keyring: `:64:user:kdump-cryptsetup:vk-…`. Never the key itself.
        key: String,
        /// Added to the sector for the initialisation vector.
        iv_offset: u64,
        /// The encrypted stretch.
        place: Place,
        /// `allow_discards`, `sector_size:4096`, …
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        options: Vec<String>,
    },
}

/// A sector of a part.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Which: its place in the stack.
    pub part: usize,
    /// The first sector.
    pub start: u64,
}

/// One disk by several ways. Of those that do not come back none is needed, as long as there is one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Multipath {
    /// Its name: `mpatha`.
    pub name: String,
    /// Its UUID: `mpath-…`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uuid: String,
    /// What all ways have in common.
    pub id: DiskId,
    /// How many there were.
    pub paths: usize,
    /// Its length in sectors.
    pub sectors: u64,
    /// How ways are switched, where the disk has to be told: `alua`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handler: Option<String>,
}

/// A software RAID with metadata of its own.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Array {
    /// Its UUID, as blkid prints it of the members.
    pub uuid: String,
    /// `raid0`, `raid1`, `raid4`, `raid5`, `raid6`, `raid10`, `linear`.
    pub level: String,
    /// Version of the metadata: 0 and 90, 1 and 0 to 2.
    pub metadata: (u8, u8),
    /// Which parts.
    pub members: Vec<usize>,
}

impl Array {
    /// Whether it works without one of its members.
    #[must_use]
    pub fn is_redundant(&self) -> bool {
        !matches!(self.level.as_str(), "raid0" | "linear")
    }
}

/// A partition of an array.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slice {
    /// Of which part.
    pub part: usize,
    /// Its number, from 1.
    pub number: u32,
}

/// A btrfs on several devices, of which the kernel has to be told.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// Which parts.
    pub members: Vec<usize>,
}

/// How a disk of a stack is found again. Written `UUID_SUB=…`, `WWID=…`, `SERIAL=…`, or as a [`DeviceId`], whose UUID may also be
/// that of an LVM physical volume.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DiskId {
    /// The member's own UUID, which md and btrfs give each of their devices, as blkid prints it.
    Member(String),
    /// World-wide identifier, as sysfs shows it: `naa.…`, `eui.…`, `t10.…`.
    Wwid(String),
    /// Serial number, as sysfs shows it.
    Serial(String),
    /// Anything that can be said of a target, too.
    Device(DeviceId),
}

impl std::fmt::Display for DiskId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Member(v) => write!(f, "UUID_SUB={v}"),
            Self::Wwid(v) => write!(f, "WWID={v}"),
            Self::Serial(v) => write!(f, "SERIAL={v}"),
            Self::Device(id) => id.fmt(f),
        }
    }
}

impl From<DiskId> for String {
    fn from(id: DiskId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for DiskId {
    type Error = super::BadDeviceId;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        match text.split_once('=') {
            Some((_, "")) => Err(super::BadDeviceId(text)),
            Some(("UUID_SUB", v)) => Ok(Self::Member(v.to_owned())),
            Some(("WWID", v)) => Ok(Self::Wwid(v.to_owned())),
            Some(("SERIAL", v)) => Ok(Self::Serial(v.to_owned())),
            _ => text.parse().map(Self::Device),
        }
    }
}

impl Part {
    /// The parts that it is made of.
    #[must_use]
    pub fn below(&self) -> Vec<usize> {
        match self {
            Self::Disk(_) | Self::Multipath(_) => Vec::new(),
            Self::Mapped(mapped) => {
                let places = |segment: &Segment| match &segment.to {
                    To::Linear(place) | To::Crypt { place, .. } => vec![place.part],
                    To::Striped { stripes, .. } => stripes.iter().map(|place| place.part).collect(),
                    To::Error => Vec::new(),
                };
                let mut parts: Vec<usize> = mapped.table.iter().flat_map(places).collect();
                parts.sort_unstable();
                parts.dedup();
                parts
            }
            Self::Array(array) => array.members.clone(),
            Self::Slice(slice) => vec![slice.part],
            Self::Pool(pool) => pool.members.clone(),
        }
    }
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Disk(disk) => write!(f, "{}", disk.id),
            Self::Mapped(mapped) => {
                let mut kinds: Vec<&str> = mapped.table.iter().map(|s| s.to.kind()).collect();
                kinds.dedup();
                write!(f, "{} ({})", mapped.name, kinds.join(", "))
            }
            Self::Multipath(paths) => {
                write!(f, "{} ({} ways to {})", paths.name, paths.paths, paths.id)
            }
            Self::Array(array) => {
                write!(f, "array {} ({} of {})", array.uuid, array.level, array.members.len())
            }
            Self::Slice(slice) => write!(f, "partition {}", slice.number),
            Self::Pool(pool) => write!(f, "file system of {} devices", pool.members.len()),
        }
    }
}

impl To {
    /// What device-mapper calls it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Linear(_) => "linear",
            Self::Striped { .. } => "striped",
            Self::Error => "error",
            Self::Crypt { .. } => "crypt",
        }
    }
}

impl Stack {
    /// Whether each part is made of earlier ones, and there is one.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        !self.0.is_empty()
            && self.0.iter().enumerate().all(|(at, part)| part.below().iter().all(|below| *below < at))
    }

    /// Whether the target can do without this part: everything that is made of it can.
    #[must_use]
    pub fn can_do_without(&self, part: usize) -> bool {
        let mut users = self.0.iter().enumerate().filter(|(_, user)| user.below().contains(&part)).peekable();
        users.peek().is_some()
            && users.all(|(at, user)| match user {
                Part::Array(array) => array.is_redundant(),
                Part::Pool(_) => true,
                // Users come later in the list, so this ends.
                _ => at > part && self.can_do_without(at),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(id: &str) -> Part {
        Part::Disk(Disk { id: DiskId::try_from(id.to_owned()).unwrap(), sectors: 8 })
    }

    fn linear(part: usize) -> Part {
        let table = vec![Segment { sectors: 8, to: To::Linear(Place { part, start: 0 }) }];
        Part::Mapped(Mapped { name: "m".to_owned(), uuid: String::new(), table })
    }

    fn array(level: &str, members: &[usize]) -> Part {
        let (uuid, level) = ("u".to_owned(), level.to_owned());
        Part::Array(Array { uuid, level, metadata: (1, 2), members: members.to_vec() })
    }

    #[test]
    fn identities_are_read_and_written() {
        for text in ["UUID_SUB=1", "WWID=naa.5", "SERIAL=a b", "UUID=x", "PARTUUID=y-01", "/dev/vda"] {
            let id = DiskId::try_from(text.to_owned()).unwrap();
            assert_eq!(id.to_string(), text);
            assert_eq!(serde_json::from_str::<DiskId>(&serde_json::to_string(&id).unwrap()).unwrap(), id);
        }
        for text in ["", "WWID=", "vda", "SIZE=3"] {
            assert!(DiskId::try_from(text.to_owned()).is_err(), "{text}");
        }
    }

    #[test]
    fn what_can_be_missing() {
        for (parts, without) in [
            (vec![disk("/dev/a")], vec![false]),
            (vec![disk("/dev/a"), linear(0)], vec![false, false]),
            (vec![disk("/dev/a"), disk("/dev/b"), array("raid1", &[0, 1])], vec![true, true, false]),
            (vec![disk("/dev/a"), disk("/dev/b"), array("raid0", &[0, 1])], vec![false, false, false]),
            // One member is a table over a disk, and the array is itself below a table.
            (
                vec![disk("/dev/a"), linear(0), disk("/dev/b"), array("raid5", &[1, 2]), linear(3)],
                vec![true, true, true, false, false],
            ),
        ] {
            let stack = Stack(parts);
            assert!(stack.is_sound());
            let can: Vec<bool> = (0..stack.0.len()).map(|at| stack.can_do_without(at)).collect();
            assert_eq!(can, without, "{stack:?}");
        }
        assert!(!Stack(vec![linear(0)]).is_sound() && !Stack(Vec::new()).is_sound());
    }
}

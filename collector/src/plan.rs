//! The plan: everything that is decided before the crash, and the whole contract between `config`, `initramfs` and
//! the collector. It is baked into the image as [`PLAN_PATH`], JSON.
//!
//! In it no name is left to resolve and no choice to make: modules are a list in load order, the device is a stable
//! identity, limits are numbers.

pub mod aside;
pub mod network;
pub mod share;
pub mod ssh;
pub mod storage;

use aside::{Hooks, Shell, Watchdog};
use network::{Fence, Network};
use serde::{Deserialize, Serialize};
use share::ShareTarget;
use ssh::SshTarget;
use storage::Stack;

/// Where the plan lies in the image.
pub const PLAN_PATH: &str = "/plan.json";

/// Version of this structure; a collector refuses a plan of another version.
pub const PLAN_VERSION: u32 = 2;

/// What to do after the crash.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// [`PLAN_VERSION`].
    pub version: u32,
    /// The host's name: the first part of the dump's directory.
    pub host: String,
    /// `uname -r` of the crash kernel, for which `modules` are.
    pub kernel_release: String,
    /// Modules to load, in this order.
    pub modules: Vec<Module>,
    /// The ladder: where dumps go, in the order to try.
    pub targets: Vec<Rung>,
    /// The links, addresses and routes that lead to targets on the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// Whom to tell that this machine is dumping.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<Fence>,
    /// What to write to the target, in this order; the first is the dump proper.
    pub dumps: Vec<DumpSpec>,
    /// Whether a report on the crash is written before the dump.
    #[serde(default = "yes")]
    pub triage: bool,
    /// Deadlines.
    pub limits: Limits,
    /// What to do once the dump is complete.
    pub final_action: Action,
    /// What to do when it is not.
    pub on_failure: Action,
    /// The user's programs.
    #[serde(default, skip_serializing_if = "Hooks::is_empty")]
    pub hooks: Hooks,
    /// A shell when the dump is not complete, before `on_failure`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shell: Option<Shell>,
    /// The hardware watchdog to feed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watchdog: Option<Watchdog>,
}

fn yes() -> bool {
    true
}

/// A kernel module in the image.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Module {
    /// Its name, underscores for dashes, as in /proc/modules.
    pub name: String,
    /// Its file in the image, uncompressed.
    pub path: String,
    /// Options for `finit_module`, as in modprobe.d; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub options: String,
    /// Whether the target is out of reach without it. An optional one (a softdep) may fail silently.
    pub required: bool,
}

/// One target of the ladder.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rung {
    /// The place.
    pub to: Target,
    /// Filter level of its dumps in place of their own, 0 to 31.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<u8>,
    /// Deadlines in place of those of the plan.
    #[serde(default, skip_serializing_if = "RungLimits::is_default")]
    pub limits: RungLimits,
}

/// Deadlines of one target, in seconds; `None` is what [`Limits`] says.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RungLimits {
    /// To reach it: for its device to appear, or for each step of the network; and again for its mount or connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reach: Option<u64>,
    /// Without progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stall: Option<u64>,
    /// For all its dumps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
}

impl RungLimits {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A place for dumps.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Target {
    /// A directory of a file system on a local block device.
    Local(LocalTarget),
    /// A directory of a file system that somebody else keeps.
    Share(ShareTarget),
    /// A directory on an SSH server.
    Ssh(SshTarget),
    /// A partition without a file system.
    Raw(RawTarget),
}

impl Target {
    /// Whether it lies on a disk of this machine: then it is quickly reached, and needs no network.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Local(_) | Self::Raw(_) => true,
            Self::Share(_) | Self::Ssh(_) => false,
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Local(local) => write!(f, "{} {}", local.device, local.directory),
            Self::Share(share) => share.fmt(f),
            Self::Ssh(ssh) => ssh.fmt(f),
            Self::Raw(raw) => write!(f, "{} (raw)", raw.device),
        }
    }
}

/// A directory of a file system on a local block device.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalTarget {
    /// The device, by an identity that survives a reboot.
    pub device: DeviceId,
    /// File system type for mount(2): `ext4`, `xfs`, `btrfs`, `vfat`.
    pub filesystem: String,
    /// Mount options for mount(2)'s data argument; may be empty.
    #[serde(default)]
    pub options: String,
    /// Directory below the *root of that file system*, absolute: `/var/crash`, `/`.
    pub directory: String,
    /// What the device has to be put together from, where the kernel does not find it by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack: Option<Stack>,
}

/// A partition that `vmcorectl target prepare` has prepared for dumps without a file system: see [`crate::target::raw`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawTarget {
    /// The device, by an identity that survives a reboot. `UUID=` is that of its label.
    pub device: DeviceId,
}

/// How a block device is found again. Written `UUID=…`, `PARTUUID=…`, `LABEL=…`, or a path.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceId {
    /// File system UUID, as blkid prints it.
    Uuid(String),
    /// Partition UUID (GPT), or `disk signature-number` (MBR), as blkid prints it.
    PartUuid(String),
    /// File system label.
    Label(String),
    /// A device node. Names change between boots; the last resort.
    Path(String),
}

impl std::fmt::Display for DeviceId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Uuid(v) => write!(f, "UUID={v}"),
            Self::PartUuid(v) => write!(f, "PARTUUID={v}"),
            Self::Label(v) => write!(f, "LABEL={v}"),
            Self::Path(v) => f.write_str(v),
        }
    }
}

impl From<DeviceId> for String {
    fn from(id: DeviceId) -> Self {
        id.to_string()
    }
}

/// A text that names no device.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0:?} names no device: expected UUID=…, PARTUUID=…, LABEL=… or a path below /dev/")]
pub struct BadDeviceId(pub String);

impl TryFrom<String> for DeviceId {
    type Error = BadDeviceId;
    fn try_from(text: String) -> Result<Self, BadDeviceId> {
        text.parse()
    }
}

impl std::str::FromStr for DeviceId {
    type Err = BadDeviceId;
    fn from_str(text: &str) -> Result<Self, BadDeviceId> {
        let bad = || BadDeviceId(text.to_owned());
        if text.starts_with("/dev/") && text.len() > "/dev/".len() {
            return Ok(Self::Path(text.to_owned()));
        }
        let (tag, value) = text.split_once('=').ok_or_else(bad)?;
        let value = value.trim_matches('"').to_owned();
        if value.is_empty() {
            return Err(bad());
        }
        match tag {
            "UUID" => Ok(Self::Uuid(value)),
            "PARTUUID" => Ok(Self::PartUuid(value)),
            "LABEL" => Ok(Self::Label(value)),
            _ => Err(bad()),
        }
    }
}

/// One file to write: which pages, in which format.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DumpSpec {
    /// Its name in the dump's directory: `vmcore`.
    pub file: String,
    /// Filter level, 0 to 31, as makedumpfile's `-d`.
    pub level: u8,
    /// Container.
    pub format: Format,
    /// Codec of each page; with ELF only lz4 has a meaning, with raw none.
    pub compression: Compression,
    /// Leave out the pages of mem_map that describe nothing but pages that are left out, as makedumpfile's `-e`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub exclude_vmemmap: bool,
    /// Rules of what to erase, the text of a file as [`crate::erase::Rules`] reads it; nothing is erased when empty. When one
    /// of them cannot be resolved this dump is not written.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub erase: String,
}

impl DumpSpec {
    /// A dump without anything that has to be asked for.
    pub fn new(file: impl Into<String>, level: u8, format: Format, compression: Compression) -> Self {
        Self { file: file.into(), level, format, compression, exclude_vmemmap: false, erase: String::new() }
    }
}

/// The container of a dump.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// kdump-compressed, version 6: what `crash` and `drgn` read.
    Kdump,
    /// An ELF core, as makedumpfile's `-E`.
    Elf,
    /// The vmcore byte for byte, unfiltered.
    Raw,
}

/// The codec of pages. Written `none`, `zlib`, `lzo`, `snappy`, `zstd`, `lz4`, the two with levels also as `zlib:6`,
/// `zstd:3`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Compression {
    /// Pages as they are.
    None,
    /// zlib at this level, 1 to 9.
    Zlib(u8),
    /// lzo1x.
    Lzo,
    /// Snappy.
    Snappy,
    /// zstd at this level, -7 to 19; negative levels are faster.
    Zstd(i32),
    /// One LZ4 frame around the whole dump: for ELF only, as no reader of kdump-compressed knows it.
    Lz4,
}

impl Compression {
    /// What is used where nobody says otherwise: a crash kernel has one CPU, and the machine is down for as long as it
    /// compresses. On 19,159 pages of a 6.1 kernel, level 1 gives 19.3 MB at 10.8 us a page, level -1 22.0 MB at 7.5
    /// (`examples/codecs.rs`).
    pub const DEFAULT: Self = Self::Zstd(-1);
}

impl std::fmt::Display for Compression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Zlib(level) => write!(f, "zlib:{level}"),
            Self::Lzo => f.write_str("lzo"),
            Self::Snappy => f.write_str("snappy"),
            Self::Zstd(level) => write!(f, "zstd:{level}"),
            Self::Lz4 => f.write_str("lz4"),
        }
    }
}

impl From<Compression> for String {
    fn from(c: Compression) -> Self {
        c.to_string()
    }
}

/// A text that names no codec.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "{0:?} is no compression: expected none, zlib or zlib:LEVEL (1 to 9), lzo, snappy, zstd or zstd:LEVEL (-7 to 19), or lz4"
)]
pub struct BadCompression(pub String);

impl TryFrom<String> for Compression {
    type Error = BadCompression;
    fn try_from(text: String) -> Result<Self, BadCompression> {
        text.parse()
    }
}

impl std::str::FromStr for Compression {
    type Err = BadCompression;
    fn from_str(text: &str) -> Result<Self, BadCompression> {
        let (name, level) = text.split_once(':').map_or((text, None), |(name, level)| (name, Some(level)));
        // Digits and a minus alone: "+3" and "3 " are slips, not levels.
        let level: Option<i32> = match level {
            Some(l) => Some(
                l.parse()
                    .ok()
                    .filter(|_| !l.starts_with('+'))
                    .ok_or_else(|| BadCompression(text.to_owned()))?,
            ),
            None => None,
        };
        match (name, level) {
            ("none", None) => Ok(Self::None),
            ("zlib", None) => Ok(Self::Zlib(1)),
            ("zlib", Some(level @ 1..=9)) => Ok(Self::Zlib(u8::try_from(level).unwrap_or(1))),
            ("lzo", None) => Ok(Self::Lzo),
            ("snappy", None) => Ok(Self::Snappy),
            ("zstd", None) => Ok(Self::DEFAULT),
            ("zstd", Some(level @ -7..=19)) => Ok(Self::Zstd(level)),
            ("lz4", None) => Ok(Self::Lz4),
            _ => Err(BadCompression(text.to_owned())),
        }
    }
}

/// Deadlines, in seconds. After a deadline the stage is killed and the failure path taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Loading all modules.
    pub modules: u64,
    /// Waiting for the target's device to appear.
    pub device: u64,
    /// Mounting, journal replay included.
    pub mount: u64,
    /// The engine without progress.
    pub stall: u64,
    /// The engine in all.
    pub engine: u64,
    /// Rename, manifest, sync and unmount.
    pub finish: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { modules: 60, device: 60, mount: 120, stall: 120, engine: 4 * 3600, finish: 60 }
    }
}

/// What the machine does at the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Restart.
    Reboot,
    /// Stop, power on.
    Halt,
    /// Power off.
    Poweroff,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codecs_are_read_and_written() {
        for (text, codec, back) in [
            ("none", Compression::None, "none"),
            ("zlib", Compression::Zlib(1), "zlib:1"),
            ("zlib:9", Compression::Zlib(9), "zlib:9"),
            ("lzo", Compression::Lzo, "lzo"),
            ("snappy", Compression::Snappy, "snappy"),
            ("zstd", Compression::DEFAULT, "zstd:-1"),
            ("zstd:19", Compression::Zstd(19), "zstd:19"),
            ("zstd:-7", Compression::Zstd(-7), "zstd:-7"),
            ("lz4", Compression::Lz4, "lz4"),
        ] {
            assert_eq!(text.parse(), Ok(codec), "{text}");
            assert_eq!(codec.to_string(), back);
            let json = serde_json::to_string(&codec).unwrap();
            assert_eq!(json, format!("\"{back}\""));
            assert_eq!(serde_json::from_str::<Compression>(&json).unwrap(), codec);
        }
        for text in [
            "",
            "zlib:",
            "zlib:0",
            "zlib:10",
            "zlib:+1",
            "zlib:1 ",
            "zlib:-1",
            "lzo:1",
            "snappy:1",
            "zstd:20",
            "zstd:-8",
            "zstd:x",
            "zstd:99999999999",
            "lz4:1",
            "none:1",
            "gzip",
            "ZSTD",
        ] {
            let e = text.parse::<Compression>().unwrap_err().to_string();
            assert!(e.contains("expected none, zlib or zlib:LEVEL"), "{text}: {e}");
        }
    }
}

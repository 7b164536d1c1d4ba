//! `manifest.json`: what became of a crash, written last beside the dump. The machine-readable truth of a dump directory.

use crate::filter::Account;
use crate::plan::{Compression, Format};
use crate::problem::Problem;
use serde::{Deserialize, Serialize};

/// Version of this structure.
pub const MANIFEST_VERSION: u32 = 1;

/// How much of the dead kernel was saved.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Nothing.
    Nothing,
    /// The kernel log only.
    DmesgOnly,
    /// The kernel log and a part of the dump, still called `vmcore-incomplete`.
    Partial,
    /// Everything the plan asks for.
    Complete,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Nothing => "nothing",
            Self::DmesgOnly => "dmesg-only",
            Self::Partial => "partial",
            Self::Complete => "complete",
        })
    }
}

/// A step of the capture, in the order they run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// /proc, /sys, /dev.
    Mount,
    /// Kernel modules.
    Modules,
    /// Reaching the target: its device or server, and the mount or connection.
    Devices,
    /// Links, addresses and routes to a target on the network.
    Network,
    /// The kernel log.
    Dmesg,
    /// The report on the crash.
    Triage,
    /// The user's programs before the dump.
    Hooks,
    /// The dump.
    Dump,
    /// Rename, manifest, sync, unmount.
    Finish,
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Mount => "mount",
            Self::Modules => "modules",
            Self::Devices => "devices",
            Self::Network => "network",
            Self::Dmesg => "dmesg",
            Self::Triage => "triage",
            Self::Hooks => "hooks",
            Self::Dump => "dump",
            Self::Finish => "finish",
        })
    }
}

/// When a stage ran and how it ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StageRecord {
    /// Which.
    pub stage: Stage,
    /// Its start, milliseconds since the crash kernel booted.
    pub started_ms: u64,
    /// Its length, milliseconds.
    pub took_ms: u64,
    /// `None` when it succeeded, else why it did not.
    pub failure: Option<String>,
}

/// What became of one target of the ladder.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TargetRecord {
    /// The target, as the plan has it.
    pub target: String,
    /// How much was saved there.
    pub outcome: Outcome,
    /// The directory there, if one was made.
    pub directory: Option<String>,
    /// The first thing that went wrong.
    pub failure: Option<String>,
}

/// What the report on the crash (`triage.txt`) says in short, and what it took to make.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct TriageRecord {
    /// What sort of crash: `software-bug`, `out-of-memory`, …
    pub kind: String,
    /// What happened, in one line.
    pub verdict: String,
    /// The function that went wrong, or that waited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<String>,
    /// Its module.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
    /// The same for crashes of the same cause: 16 hexadecimal digits.
    pub signature: String,
    /// Milliseconds until everything was asked.
    pub asked_ms: u64,
    /// Milliseconds until it was on the target.
    pub took_ms: u64,
    /// KiB that were read of the vmcore.
    pub read_kib: u64,
    /// KiB of memory of its own that it had at its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anonymous_kib: Option<u64>,
    /// Questions that have no answer.
    pub unknown: u64,
}

/// One dump file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DumpReport {
    /// Its name in the directory; ends in `-incomplete` when it is.
    pub file: String,
    /// Container.
    pub format: Format,
    /// Filter level that was asked for.
    pub level: u8,
    /// Filter level that was applied: lower when metadata of the vmcore was damaged.
    pub level_applied: u8,
    /// Codec.
    pub compression: Compression,
    /// Bytes in the file.
    pub bytes: u64,
    /// What became of each page.
    pub pages: Account,
    /// Bytes of a page.
    pub page_size: u64,
    /// Milliseconds spent deciding which pages to keep.
    pub scan_ms: u64,
    /// Milliseconds spent reading, compressing and writing them.
    pub write_ms: u64,
    /// Whether every page that was to be kept is in the file.
    pub complete: bool,
}

/// The crashed kernel.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct CrashedKernel {
    /// `uname -r`.
    pub release: String,
    /// `uname -v`.
    pub version: String,
    /// `uname -m`.
    pub machine: String,
    /// `uname -n`.
    pub nodename: String,
    /// Seconds since 1970 of the crash, from VMCOREINFO's CRASHTIME.
    pub crash_time: Option<u64>,
    /// The first line of the log that says why, `Kernel panic - not syncing: …` and the like.
    pub panic_message: Option<String>,
}

/// What became of a crash.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// [`MANIFEST_VERSION`].
    pub version: u32,
    /// Program and version that wrote this.
    pub writer: String,
    /// How much was saved.
    pub outcome: Outcome,
    /// The host's name from the plan.
    pub host: String,
    /// Hash of the image that ran, from the crash kernel's command line.
    pub image: Option<String>,
    /// The crashed kernel.
    pub kernel: CrashedKernel,
    /// The dumps, in the plan's order.
    pub dumps: Vec<DumpReport>,
    /// The targets that were tried, in their order, this one last.
    #[serde(default)]
    pub targets: Vec<TargetRecord>,
    /// The stages that ran.
    pub stages: Vec<StageRecord>,
    /// What the report on the crash says, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub triage: Option<TriageRecord>,
    /// Soft errors.
    pub problems: Vec<Problem>,
    /// Peak resident memory of the engine, KiB.
    pub engine_peak_kib: Option<u64>,
    /// Memory of the crash kernel, KiB: MemTotal of /proc/meminfo.
    pub mem_total_kib: Option<u64>,
    /// The least MemAvailable that was seen while dumping, KiB.
    pub mem_available_min_kib: Option<u64>,
}

//! A crash as we remember it: in `/var/lib/vmcored/crashes.json`, in the journal, in the label beside the dump.

use super::verdict::Verdict;
use crate::arm::{ArmError, IMAGE_DIRECTORY, write_json};
use initramfs::root::Root;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};

const CRASHES: &str = "crashes.json";

/// Records of crashes whose dumps are gone are kept too, up to this many in all.
const MOST: usize = 1000;

/// What was saved.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// No dump, and there should be one.
    Missing,
    /// It may be where this machine cannot look.
    Elsewhere,
    /// A directory without anything of use in it.
    Nothing,
    /// The kernel log only.
    DmesgOnly,
    /// A part of the dump.
    Partial,
    /// All of it.
    Complete,
}

/// What reading all of it has shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Integrity {
    /// Every page is there and whole.
    Sound,
    /// Something is damaged or missing.
    Damaged,
    /// Nobody has looked: there is no dump file, or the settings say not to.
    Unverified,
}

/// On which target.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The first of the plan.
    Primary,
    /// A later one.
    Secondary,
    /// None.
    None,
}

macro_rules! shown {
    ($($kind:ty: $($name:ident = $text:literal),*;)*) => {
        $(impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self { $(Self::$name => $text),* })
            }
        })*
    };
}

shown! {
    Status: Missing = "missing", Elsewhere = "elsewhere", Nothing = "nothing", DmesgOnly = "dmesg-only", Partial = "partial",
        Complete = "complete";
    Integrity: Sound = "sound", Damaged = "damaged", Unverified = "unverified";
    Kind: Primary = "primary", Secondary = "secondary", None = "none";
}

/// A crash. The keys of `vmcorectl list --json`: they stay, and others may come.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// Counts crashes of this machine, from 1.
    pub sequence: u64,
    /// What makes it this crash: `<host>-<time>` of the dump, or the boot that has no dump.
    pub key: String,
    /// When the kernel died, seconds since 1970.
    pub time: Option<u64>,
    /// What was saved.
    pub status: Status,
    /// Whether it can be relied on.
    pub integrity: Integrity,
    /// On which target it is.
    pub kind: Kind,
    /// That target, as the plan has it.
    pub device: String,
    /// The dump, or the log where there is no dump; on the running system.
    pub file: Option<PathBuf>,
    /// Every directory with something of this crash in it.
    #[serde(default)]
    pub directories: Vec<PathBuf>,
    /// Bytes of the dump.
    pub bytes: u64,
    /// `uname -r` of the dead kernel.
    pub kernel: Option<String>,
    /// Why it died.
    pub reason: Option<String>,
    /// What the report on it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// The CPU that it died on.
    pub cpu: Option<u32>,
    /// `0`, or the first problem of the manifest as VC123, or what is missing in a word.
    pub error_code: String,
    /// What is wrong, a sentence each.
    #[serde(default)]
    pub faults: Vec<String>,
    /// The image that ran.
    pub image: Option<String>,
    /// The boot that it ended, where that is known.
    pub boot: Option<String>,
    /// The test that it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<String>,
    /// Seconds that the crash kernel took.
    pub seconds: Option<u64>,
    /// What firmware kept of it (pstore).
    #[serde(default)]
    pub pstore: Vec<PathBuf>,
    /// When it was found, seconds since 1970.
    pub found: u64,
    /// The journal has it.
    pub told: bool,
}

impl Record {
    /// Why it died, in a line: what the report says, else what the kernel said.
    pub fn why(&self) -> Option<&str> {
        let told =
            self.verdict.as_ref().filter(|verdict| verdict.kind != "unknown" && !verdict.line.is_empty());
        told.map(|verdict| verdict.line.as_str()).or(self.reason.as_deref())
    }

    /// What happened, for the journal and for people.
    pub fn sentence(&self) -> String {
        let when = self.time.map(collector::utc::readable);
        let when = when.map_or_else(String::new, |when| format!(" at {when}"));
        let kernel = self.kernel.as_deref().map_or_else(String::new, |kernel| format!(" {kernel}"));
        let reason = self.why().map_or_else(String::new, |why| format!(": {why}"));
        let file = self.file.as_ref().map(|file| file.display().to_string()).unwrap_or_default();
        let mib = self.bytes.div_ceil(1 << 20);
        let dump = match self.status {
            Status::Complete => format!("dump of {mib} MiB, {}, in {file}", self.integrity),
            Status::Partial => format!("only a part of the dump was saved, {mib} MiB in {file}"),
            Status::DmesgOnly => format!("only its log was saved, {file}"),
            Status::Nothing => "nothing of use was saved".to_owned(),
            Status::Elsewhere => {
                let log = if file.is_empty() { String::new() } else { format!("; its log is in {file}") };
                format!("its dump, if there is one, is where this machine cannot look: {}{log}", self.device)
            }
            Status::Missing if self.pstore.is_empty() && self.reason.is_none() => {
                return "the last boot ended without a shutdown, and there is no dump: it lost its power, was reset, or \
                        its crash kernel failed"
                    .to_owned();
            }
            Status::Missing => "no dump was saved although the machine was armed".to_owned(),
        };
        let faults = self.faults.first().map_or_else(String::new, |fault| format!(" ({fault})"));
        format!("kernel{kernel} crashed{when}{reason}; {dump}{faults}")
    }
}

/// All of them, the oldest first.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Crashes {
    /// The number that the last one got.
    pub last: u64,
    /// Them.
    pub crashes: Vec<Record>,
    /// Dumps of others that were there before us, which no record is made of.
    #[serde(default)]
    pub foreign: Vec<PathBuf>,
}

impl Crashes {
    /// Reads them; none where there is no file.
    pub fn read(root: &Root) -> Result<Self, ArmError> {
        let path = Path::new(IMAGE_DIRECTORY).join(CRASHES);
        let Some(text) = root.read(&path)? else { return Ok(Self::default()) };
        // Starting over would count from 1 again: whoever damaged the file has to hear of it.
        serde_json::from_str(&text).map_err(|e| ArmError::File {
            doing: "understand",
            path: root.path(path),
            source: e.into(),
        })
    }

    /// Writes them down, durably.
    pub fn write(&self, root: &Root) -> Result<(), ArmError> {
        let kept =
            Self { crashes: self.crashes.iter().rev().take(MOST).rev().cloned().collect(), ..self.clone() };
        write_json(IMAGE_DIRECTORY, CRASHES, &kept, root)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn sample() -> Record {
        Record {
            sequence: 3,
            key: "h-20261122T124310Z".into(),
            time: Some(1_795_351_390),
            status: Status::Complete,
            integrity: Integrity::Sound,
            kind: Kind::Primary,
            device: "UUID=x /".into(),
            file: Some("/var/crash/h-20261122T124310Z/vmcore".into()),
            directories: vec!["/var/crash/h-20261122T124310Z".into()],
            bytes: 50 << 20,
            kernel: Some("6.1.0".into()),
            reason: Some("Kernel panic - not syncing: x".into()),
            verdict: None,
            cpu: Some(1),
            error_code: "0".into(),
            faults: Vec::new(),
            image: Some("ab".into()),
            boot: Some("b".into()),
            test: Some("t".into()),
            seconds: Some(9),
            pstore: Vec::new(),
            found: 1,
            told: false,
        }
    }

    #[test]
    fn sentences() {
        let whole = sample();
        assert_eq!(
            whole.sentence(),
            "kernel 6.1.0 crashed at 2026-11-22 12:43:10 UTC: Kernel panic - not syncing: x; dump of 50 MiB, sound, in \
             /var/crash/h-20261122T124310Z/vmcore"
        );
        let verdict = Verdict {
            kind: "software-bug".into(),
            line: "bug in f [m]".into(),
            function: Some("f".into()),
            module: Some("m".into()),
            signature: Some("0123456789abcdef".into()),
        };
        let judged = Record { verdict: Some(verdict.clone()), ..whole.clone() };
        assert!(judged.sentence().contains("UTC: bug in f [m]; dump of"), "{}", judged.sentence());
        let unknown =
            Record { verdict: Some(Verdict { kind: "unknown".into(), ..verdict }), ..whole.clone() };
        assert_eq!(unknown.sentence(), whole.sentence());
        let lost = Record { status: Status::Missing, reason: None, file: None, ..whole };
        assert!(lost.sentence().contains("lost its power"), "{}", lost.sentence());
        let panicked = Record { reason: Some("Oops".into()), ..lost };
        assert!(panicked.sentence().ends_with("Oops; no dump was saved although the machine was armed"));
    }

    #[test]
    fn they_are_kept_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        assert_eq!(Crashes::read(&root).unwrap(), Crashes::default());
        let many = (1..=MOST as u64 + 5).map(|sequence| Record { sequence, ..sample() });
        let all = Crashes { last: 7, crashes: many.collect(), foreign: Vec::new() };
        all.write(&root).unwrap();
        let read = Crashes::read(&root).unwrap();
        assert_eq!((read.last, read.crashes.len(), read.crashes[0].sequence), (7, MOST, 6));
        std::fs::write(dir.path().join("var/lib/vmcored/crashes.json"), "{").unwrap();
        assert!(Crashes::read(&root).unwrap_err().to_string().contains("cannot understand"));
    }
}

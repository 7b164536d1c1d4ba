//! The last proof: a crash that somebody asked for, and what became of it; in `/var/lib/vmcored/proof.json`.

use super::boots::{Boot, Boots, Test};
use super::record::{Integrity, Record, Status};
use crate::arm::{ArmError, IMAGE_DIRECTORY, lock, write_json};
use initramfs::root::Root;
use serde::{Deserialize, Serialize};
use std::path::Path;

const PROOF: &str = "proof.json";

/// What a test has shown. It counts until what it depended on changes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Proof {
    /// What the test was called.
    pub id: String,
    /// When it crashed the machine, seconds since 1970.
    pub time: u64,
    /// The dump arrived, is complete and sound.
    pub passed: bool,
    /// What happened.
    pub message: String,
    /// `uname -r` of the kernel that was crashed.
    pub kernel: Option<String>,
    /// The image that ran.
    pub image: String,
    /// Seconds that the crash kernel took.
    pub seconds: Option<u64>,
    /// Bytes of the dump.
    pub bytes: u64,
}

impl Proof {
    /// The last one.
    pub fn read(root: &Root) -> Result<Option<Self>, ArmError> {
        let text = root.read(Path::new(IMAGE_DIRECTORY).join(PROOF))?;
        Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
    }
}

/// Keeps the proof, where this crash was a test.
pub fn keep(record: &Record, ended: &[Boot], root: &Root) -> Result<(), ArmError> {
    let boot = ended.iter().find(|boot| record.boot.as_deref() == Some(boot.id.as_str()));
    let Some((boot, test)) = boot.and_then(|boot| Some((boot, boot.test.as_ref()?))) else { return Ok(()) };
    let proof = Proof {
        id: test.id.clone(),
        time: test.time,
        passed: record.status == Status::Complete && record.integrity != Integrity::Damaged,
        message: record.sentence(),
        kernel: record.kernel.clone(),
        image: boot.image.clone(),
        seconds: record.seconds,
        bytes: record.bytes,
    };
    write_json(IMAGE_DIRECTORY, PROOF, &proof, root)
}

/// Marks this boot: its crash is a test. Returns what it is called; `None` where nothing is armed.
pub fn mark(root: &Root) -> Result<Option<String>, ArmError> {
    let _lock = lock(root)?;
    let mut boots = Boots::read(root)?;
    let time = super::now();
    let Some(boot) = boots.current(root)? else { return Ok(None) };
    let id = format!("test-{}", collector::utc::compact(time));
    boot.test = Some(Test { id: id.clone(), time });
    boots.write(root)?;
    Ok(Some(id))
}

//! What tells a crash from a shutdown: each boot that was armed, and how it ended, in `/var/lib/vmcored/boots.json`.
//!
//! Arming writes the boot down; a shutdown that runs to its end marks it. The next boot reads what became of it: a boot that was
//! armed and never marked has crashed, lost its power or was reset.

use crate::arm::{ArmError, IMAGE_DIRECTORY, boot_id};
use collector::plan::Rung;
use initramfs::root::Root;
use serde::{Deserialize, Serialize};
use std::path::Path;

const BOOTS: &str = "boots.json";

/// More boots than this are never waiting: something keeps the harvest from running, and the oldest are forgotten.
const MOST: usize = 16;

/// A boot that was armed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Boot {
    /// /proc/sys/kernel/random/boot_id.
    pub id: String,
    /// When it was armed last, seconds since 1970.
    pub armed: u64,
    /// The image that was loaded.
    pub image: String,
    /// Release of the crash kernel.
    pub release: String,
    /// First part of the name of a dump's directory.
    pub host: String,
    /// Where the plan of that image writes.
    pub targets: Vec<Rung>,
    /// A shutdown ended it.
    #[serde(default)]
    pub clean: bool,
    /// A crash that somebody asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<Test>,
}

/// A crash that somebody asked for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Test {
    /// What it is called.
    pub id: String,
    /// When, seconds since 1970.
    pub time: u64,
}

/// All that are written down, the oldest first.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Boots {
    /// Them.
    pub boots: Vec<Boot>,
}

impl Boots {
    /// Reads them. What is not understood was not written by this version: as good as none.
    pub fn read(root: &Root) -> Result<Self, ArmError> {
        let text = root.read(Path::new(IMAGE_DIRECTORY).join(BOOTS))?;
        Ok(text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default())
    }

    /// Writes them down, durably.
    pub fn write(&self, root: &Root) -> Result<(), ArmError> {
        let kept = Self { boots: self.boots.iter().rev().take(MOST).rev().cloned().collect() };
        crate::arm::write_json(IMAGE_DIRECTORY, BOOTS, &kept, root)
    }

    /// This boot's, if it was armed.
    pub fn current(&mut self, root: &Root) -> Result<Option<&mut Boot>, ArmError> {
        let id = boot_id(root)?;
        Ok(self.boots.iter_mut().find(|boot| boot.id == id))
    }

    /// Writes this boot down as armed; a test that it is marked with stays.
    pub fn arm(boot: Boot, root: &Root) -> Result<(), ArmError> {
        let mut boots = Self::read(root)?;
        let test = boots.current(root)?.and_then(|before| before.test.clone());
        boots.boots.retain(|before| before.id != boot.id);
        boots.boots.push(Boot { test, ..boot });
        boots.write(root)
    }

    /// Forgets this boot: nothing is loaded any more.
    pub fn disarm(root: &Root) -> Result<(), ArmError> {
        let mut boots = Self::read(root)?;
        let (id, before) = (boot_id(root)?, boots.boots.len());
        boots.boots.retain(|boot| boot.id != id);
        if boots.boots.len() == before { Ok(()) } else { boots.write(root) }
    }

    /// Says of this boot whether a shutdown is ending it.
    pub fn mark_clean(clean: bool, root: &Root) -> Result<(), ArmError> {
        let mut boots = Self::read(root)?;
        match boots.current(root)? {
            Some(boot) if boot.clean != clean => boot.clean = clean,
            _ => return Ok(()),
        }
        boots.write(root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boots_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let random = dir.path().join("proc/sys/kernel/random");
        std::fs::create_dir_all(&random).unwrap();
        let start = |id: &str| std::fs::write(random.join("boot_id"), format!("{id}\n")).unwrap();
        let boot = |id: &str, image: &str| Boot {
            id: id.into(),
            armed: 1,
            image: image.into(),
            release: "6.1".into(),
            host: "h".into(),
            targets: Vec::new(),
            clean: false,
            test: None,
        };
        start("one");
        Boots::arm(boot("one", "a"), &root).unwrap();
        let mut boots = Boots::read(&root).unwrap();
        boots.current(&root).unwrap().unwrap().test = Some(Test { id: "t".into(), time: 2 });
        boots.write(&root).unwrap();
        Boots::arm(boot("one", "b"), &root).unwrap();
        Boots::mark_clean(true, &root).unwrap();
        start("two");
        Boots::mark_clean(true, &root).unwrap();
        Boots::arm(boot("two", "b"), &root).unwrap();
        let boots = Boots::read(&root).unwrap().boots;
        let seen: Vec<_> = boots.iter().map(|b| (b.id.as_str(), b.image.as_str(), b.clean)).collect();
        assert_eq!(seen, [("one", "b", true), ("two", "b", false)]);
        assert_eq!(boots[0].test.as_ref().unwrap().id, "t");
        Boots::disarm(&root).unwrap();
        assert_eq!(Boots::read(&root).unwrap().boots.len(), 1);
        for n in 0..40 {
            start(&format!("n{n}"));
            Boots::arm(boot(&format!("n{n}"), "c"), &root).unwrap();
        }
        assert_eq!(Boots::read(&root).unwrap().boots.len(), MOST);
        std::fs::write(dir.path().join("var/lib/vmcored/boots.json"), "{").unwrap();
        assert_eq!(Boots::read(&root).unwrap(), Boots::default());
    }
}

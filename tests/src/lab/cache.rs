//! What is downloaded and unpacked once and used by every run: kernels, debug symbols, busybox, drgn.
//!
//! `~/.cache/vmcored`, or `VMCORED_CACHE`. Each entry is named by its version and appears whole: it is made in a
//! temporary directory of the same file system and renamed.

use anyhow::{Context, Result};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// The cache directory.
#[derive(Debug)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// Opens the cache, and makes it when it is not there.
    pub fn open() -> Result<Self> {
        let root = match std::env::var_os("VMCORED_CACHE") {
            Some(dir) => PathBuf::from(dir),
            None => PathBuf::from(std::env::var_os("HOME").context("neither VMCORED_CACHE nor HOME is set")?)
                .join(".cache/vmcored"),
        };
        fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
        Ok(Self { root })
    }

    /// Where an entry lies or would lie.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The entry's directory; `fill` makes its contents when it is not there yet. One process fills at a time, the
    /// others wait for it.
    pub fn entry(&self, name: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let at = self.path(name);
        if at.exists() {
            return Ok(at);
        }
        let lock = File::create(self.root.join(".lock"))?;
        lock.lock()?;
        if at.exists() {
            return Ok(at);
        }
        // Left by a process that was killed while it filled.
        for stale in fs::read_dir(&self.root)?.flatten() {
            if stale.file_name().to_string_lossy().starts_with(".new-") {
                fs::remove_dir_all(stale.path())?;
            }
        }
        let new = tempfile::Builder::new().prefix(".new-").tempdir_in(&self.root)?;
        fill(new.path()).with_context(|| format!("cannot fill the cache's {name}"))?;
        fs::create_dir_all(at.parent().unwrap_or(&self.root))?;
        fs::rename(new.keep(), &at)?;
        Ok(at)
    }

    /// Names of the entries in one of the cache's directories.
    pub fn list(&self, dir: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(dir)).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

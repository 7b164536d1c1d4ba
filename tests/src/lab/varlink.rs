//! A Varlink client that is not ours: the Python implementation of the protocol's authors.

use super::cache::Cache;
use super::command::{run, talk};
use anyhow::{Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Its version, from PyPI.
const VERSION: &str = "31.0.0";

/// It, in a virtual environment of its own.
#[derive(Clone, Debug)]
pub struct Varlink {
    python: PathBuf,
}

impl Varlink {
    /// Installs it into the cache where it is not there yet.
    pub fn get(cache: &Cache) -> Result<Self> {
        let dir = cache.entry(&format!("varlink/{VERSION}"), |dir| {
            run(Command::new("/usr/bin/python3").args(["-m", "venv"]).arg(dir))?;
            let package = format!("varlink=={VERSION}");
            run(Command::new(dir.join("bin/python")).args(["-m", "pip", "install", "--quiet", &package]))
        })?;
        Ok(Self { python: dir.join("bin/python") })
    }

    /// Runs a script with the socket's address as its only argument, and returns what it prints.
    pub fn run(&self, script: &str, socket: &Path) -> Result<String> {
        let mut python = Command::new(&self.python);
        python.args(["-c", script]).arg(format!("unix:{}", socket.display()));
        let (status, said) = talk(&mut python, "", Duration::from_secs(120))?;
        ensure!(status.success(), "the varlink client ended with {status}:\n{said}");
        Ok(said)
    }
}

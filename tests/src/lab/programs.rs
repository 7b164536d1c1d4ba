//! The programs under test as they would be installed: release, static, stripped.

use super::command::{run, target_dir, tool, workspace};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the static programs are built for. With `--target`, `crt-static` does not touch build scripts and proc macros.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The static programs, stripped.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Programs {
    /// `vmcore-collect`.
    pub collector: PathBuf,
    /// `vmcore-collect` with fault points.
    pub faulty_collector: PathBuf,
    /// `vmcorectl`.
    pub control: PathBuf,
    /// `vmcored`.
    pub daemon: PathBuf,
    /// `guest-load`, which fills a guest's memory, and measures there.
    pub guest_load: PathBuf,
}

impl Programs {
    /// Builds them all; cargo does nothing where nothing has changed.
    pub fn build() -> Result<Self> {
        let out = target_dir().join("static");
        fs::create_dir_all(&out)?;
        let built = target_dir().join("static/build").join(TARGET).join("release");
        let take = |name: &str, called: &str| -> Result<PathBuf> {
            let to = out.join(called);
            let from = built.join(name);
            if stale(&from, &to) {
                run(tool("strip")?.arg("-o").arg(&to).arg(&from))?;
            }
            Ok(to)
        };
        // The one with faults first: both have the same name in cargo's directory, and the plain one is to stay there.
        cargo(&["-p", "collector", "--features", "collector/faults", "--bin", "vmcore-collect"])?;
        let faulty_collector = take("vmcore-collect", "vmcore-collect-faults")?;
        // The rest in one go, so that all CPUs have a program to optimise.
        let packages = ["-p", "collector", "-p", "config", "-p", "vmcored-tests"];
        let programs =
            ["--bin", "vmcore-collect", "--bin", "vmcorectl", "--bin", "vmcored", "--bin", "guest-load"];
        cargo(&[&packages[..], &programs[..]].concat())?;
        Ok(Self {
            collector: take("vmcore-collect", "vmcore-collect")?,
            faulty_collector,
            control: take("vmcorectl", "vmcorectl")?,
            daemon: take("vmcored", "vmcored")?,
            guest_load: take("guest-load", "guest-load")?,
        })
    }

    /// Names and sizes in bytes of what is installed.
    pub fn sizes(&self) -> Result<Vec<(&'static str, u64)>> {
        let size =
            |path: &Path| fs::metadata(path).map(|m| m.len()).with_context(|| path.display().to_string());
        let all =
            [("vmcore-collect", &self.collector), ("vmcorectl", &self.control), ("vmcored", &self.daemon)];
        all.into_iter().map(|(name, path)| Ok((name, size(path)?))).collect()
    }
}

fn cargo(arguments: &[&str]) -> Result<()> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace()).args(["build", "--quiet", "--release", "--locked", "--target", TARGET]);
    cargo.arg("--target-dir").arg(target_dir().join("static/build")).args(arguments);
    cargo.env("RUSTFLAGS", "-Ctarget-feature=+crt-static").env_remove("CARGO_ENCODED_RUSTFLAGS");
    run(&mut cargo)
}

/// Whether `copy` is missing or was made from another `original`.
fn stale(original: &Path, copy: &Path) -> bool {
    let modified = |p: &Path| fs::metadata(p).and_then(|m| m.modified()).ok();
    match (modified(original), modified(copy)) {
        (Some(original), Some(copy)) => original >= copy,
        _ => true,
    }
}

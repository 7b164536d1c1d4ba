//! `cargo xtask install` and `cargo xtask deb`.

use crate::lab::command::{target_dir, tool};
use crate::lab::package;
use anyhow::{Context, Result, bail, ensure};
use std::path::PathBuf;

/// Puts everything below a directory.
pub fn install(arguments: &[String]) -> Result<()> {
    let [option, destination] = arguments else { bail!("usage: cargo xtask install --destdir DIR") };
    ensure!(option == "--destdir", "no option {option:?}: cargo xtask install --destdir DIR");
    let destination = PathBuf::from(destination);
    package::stage(&super::programs()?, &destination)?;
    println!("installed below {}", destination.display());
    Ok(())
}

/// Makes the Debian package.
pub fn deb(_: &[String]) -> Result<()> {
    let made = package::debian(&super::programs()?, &target_dir().join("deb"))?;
    println!("{}", made.display());
    Ok(())
}

/// `systemd-analyze verify` of the units, as they are installed.
pub fn units(_: &[String]) -> Result<()> {
    let staging = tempfile::tempdir()?;
    let root = staging.path();
    package::stage(&super::programs()?, root)?;
    let units = root.join("usr/lib/systemd/system");
    let mut analyze = tool("systemd-analyze")?;
    analyze.arg(format!("--root={}", root.display())).args(["--man=no", "verify"]);
    for entry in std::fs::read_dir(&units)? {
        analyze.arg(entry?.file_name());
    }
    let done = analyze.output().context("systemd-analyze")?;
    let said = String::from_utf8_lossy(&done.stderr);
    // Units of systemd's own, which ours come after, are not below the root.
    let wrong: Vec<&str> =
        said.lines().filter(|line| line.contains("vmcored") && !line.contains("not found")).collect();
    ensure!(wrong.is_empty(), "systemd-analyze verify:\n{}", wrong.join("\n"));
    Ok(())
}

//! `cargo xtask install`, `deb` and `rpm`, and what CI checks of them.

use crate::lab::command::{target_dir, tool};
use crate::lab::package::{self, deb, rpm};
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
    let made = deb::make(&super::programs()?, &target_dir().join("deb"))?;
    println!("{}", made.display());
    Ok(())
}

/// Makes the package for Fedora, RHEL and SUSE.
pub fn rpm(_: &[String]) -> Result<()> {
    let made = rpm::make(&super::programs()?, &target_dir().join("rpm"))?;
    println!("{}", made.display());
    Ok(())
}

/// Both packages have what an installation has, and their scripts are those of the checkout.
pub fn packages(_: &[String]) -> Result<()> {
    /// What packages have besides: compressed in Debian's, its own papers.
    const PAPERS: [&str; 3] = [
        "/usr/share/doc/vmcored/changelog.gz",
        "/usr/share/doc/vmcored/copyright",
        "/usr/share/lintian/overrides/vmcored",
    ];
    let programs = super::programs()?;
    let staging = tempfile::tempdir()?;
    let root = staging.path().join("root");
    package::stage(&programs, &root)?;
    let plain = |path: &str| path.strip_suffix(".gz").unwrap_or(path).to_owned();
    let mut want = package::files(&root)?;
    let mut debian = deb::contents(&deb::make(&programs, staging.path())?)?;
    debian.retain(|path| !PAPERS.contains(&path.as_str()));
    let debian: Vec<String> = debian.iter().map(|path| plain(path)).collect();
    ensure!(debian == want, "the Debian package has {debian:#?}\ninstead of {want:#?}");
    let made = rpm::make(&programs, staging.path())?;
    let red: Vec<String> = rpm::contents(&made)?.iter().map(|path| plain(path)).collect();
    want = want.iter().filter_map(|path| rpm::place(path)).map(str::to_owned).collect();
    want.sort();
    ensure!(red == want, "the RPM has {red:#?}\ninstead of {want:#?}");
    let scripts = rpm::scripts(&made)?;
    for name in ["post", "preun", "postun"] {
        let text = std::fs::read_to_string(crate::lab::command::workspace().join("systemd/rpm").join(name))?;
        ensure!(scripts.contains(text.trim()), "rpm has another %{name}:\n{scripts}");
    }
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

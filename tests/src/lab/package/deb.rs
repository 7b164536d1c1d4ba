//! The Debian package.

use super::super::command::{output, run, target_dir, workspace};
use super::super::programs::Programs;
use super::{VERSION, copy, date, files, maintainer, packaged, source_date, write};
use anyhow::Result;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Makes the package in `directory` and returns its path.
pub fn make(programs: &Programs, directory: &Path) -> Result<PathBuf> {
    fs::create_dir_all(target_dir().join("lab"))?;
    let staging = tempfile::tempdir_in(target_dir().join("lab"))?;
    let root = staging.path().join("root");
    packaged(programs, &root)?;
    let (when, maintainer) = (source_date(), maintainer());
    let doc = root.join("usr/share/doc/vmcored");
    // Policy 12.5, 12.7: whose it is, and what changed, each by its name.
    let mit = fs::read_to_string(workspace().join("LICENSE-MIT"))?;
    let paragraph = |text: &str| {
        let lines = text.trim().lines().skip_while(|line| !line.starts_with("Permission"));
        lines
            .map(|line| format!(" {}", if line.is_empty() { "." } else { line }))
            .collect::<Vec<_>>()
            .join("\n")
    };
    let copyright = fs::read_to_string(workspace().join("systemd/debian/copyright"))?;
    write(&doc.join("copyright"), copyright.replace("@MIT@", &paragraph(&mit)).as_bytes(), 0o644)?;
    let changelog = format!(
        "vmcored ({VERSION}) unstable; urgency=medium\n\n  * See CHANGELOG.md beside this file.\n\n -- {maintainer}  {}\n",
        date(when, "+%a, %d %b %Y %H:%M:%S +0000")?
    );
    write(&doc.join("changelog"), changelog.as_bytes(), 0o644)?;
    copy(
        &workspace().join("systemd/debian/lintian-overrides"),
        &root.join("usr/share/lintian/overrides/vmcored"),
        0o644,
    )?;
    run(Command::new("gzip").args(["-9n"]).args([doc.join("changelog"), doc.join("CHANGELOG.md")]))?;
    let kib = output(Command::new("du").args(["-sk", "--apparent-size"]).arg(&root))?;
    let kib = kib.split_whitespace().next().unwrap_or("0");
    let mut sums = String::new();
    for file in files(&root)? {
        let inside = file.trim_start_matches('/');
        sums.push_str(&output(Command::new("md5sum").arg(inside).current_dir(&root))?);
    }
    let control = format!(
        "Package: vmcored\nVersion: {VERSION}\nArchitecture: amd64\nMaintainer: {maintainer}\n\
         Installed-Size: {kib}\nSection: admin\nPriority: optional\nDepends: systemd\nRecommends: openssh-client\n\
         Conflicts: kdump-tools\nDescription: record kernel crashes\n Keeps a crash kernel loaded, and when the kernel dies \
         saves its log and its\n memory, filtered, to a disk or a server; accounts for it at the next boot.\n"
    );
    write(&root.join("DEBIAN/md5sums"), sums.as_bytes(), 0o644)?;
    write(&root.join("DEBIAN/control"), control.as_bytes(), 0o644)?;
    let settings: String = files(&root)?
        .iter()
        .filter(|file| file.starts_with("/etc/"))
        .map(|file| format!("{file}\n"))
        .collect();
    write(&root.join("DEBIAN/conffiles"), settings.as_bytes(), 0o644)?;
    for name in ["postinst", "prerm", "postrm"] {
        copy(&workspace().join("systemd/debian").join(name), &root.join("DEBIAN").join(name), 0o755)?;
    }
    fs::create_dir_all(directory)?;
    let deb = directory.join(format!("vmcored_{VERSION}_amd64.deb"));
    run(Command::new("dpkg-deb")
        .env("SOURCE_DATE_EPOCH", when.to_string())
        .args(["--root-owner-group", "-Zxz", "-z1", "--build"])
        .arg(&root)
        .arg(&deb))?;
    Ok(deb)
}

/// What it installs, sorted.
pub fn contents(deb: &Path) -> Result<Vec<String>> {
    let listed = output(Command::new("dpkg-deb").arg("--contents").arg(deb))?;
    let paths = listed.lines().filter_map(|line| line.split_whitespace().nth(5)?.strip_prefix('.'));
    let mut found: Vec<String> = paths.filter(|path| !path.ends_with('/')).map(str::to_owned).collect();
    found.sort();
    Ok(found)
}

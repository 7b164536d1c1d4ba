//! The package for Fedora, RHEL and SUSE, made by rpmbuild of a spec that has nothing to build.

use super::super::command::{output, run, target_dir, tool, workspace};
use super::super::programs::Programs;
use super::{VERSION, copy, date, files, maintainer, packaged, source_date};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// What of an installation is Debian's way alone.
const DEBIANS: [&str; 2] = ["/etc/kernel/postinst.d/zz-vmcored", "/etc/kernel/postrm.d/zz-vmcored"];

/// What has another place here.
const MOVED: &[(&str, &str)] =
    &[("/usr/share/zsh/vendor-completions/_vmcorectl", "/usr/share/zsh/site-functions/_vmcorectl")];

/// Licences, with their names here.
const LICENCES: [&str; 2] = ["LICENSE-MIT", "LICENSE-APACHE"];
const LICENCE_PLACE: &str = "/usr/share/licenses/vmcored";

/// Where a file of an installation is in the package; none where it is not in it.
pub fn place(installed: &str) -> Option<&str> {
    if DEBIANS.contains(&installed) {
        return None;
    }
    let moved = MOVED.iter().find(|(from, _)| *from == installed);
    Some(moved.map_or(installed, |(_, to)| to))
}

/// Makes the package in `directory` and returns its path.
pub fn make(programs: &Programs, directory: &Path) -> Result<PathBuf> {
    fs::create_dir_all(target_dir().join("lab"))?;
    let staging = tempfile::tempdir_in(target_dir().join("lab"))?;
    let root = staging.path().join("root");
    packaged(programs, &root)?;
    let inside = |path: &str| root.join(path.trim_start_matches('/'));
    for file in files(&root)? {
        match place(&file) {
            None => fs::remove_file(inside(&file))?,
            Some(to) if to != file => {
                fs::create_dir_all(inside(to).parent().context("a file without a directory")?)?;
                fs::rename(inside(&file), inside(to))?;
            }
            Some(_) => {}
        }
    }
    for licence in LICENCES {
        copy(&workspace().join(licence), &inside(LICENCE_PLACE).join(licence), 0o644)?;
    }
    let spec = staging.path().join("vmcored.spec");
    fs::write(&spec, self::spec(&root)?)?;
    let top = staging.path().join("rpmbuild");
    run(tool("rpmbuild")?
        .env("SOURCE_DATE_EPOCH", source_date().to_string())
        .args(["-bb", "--quiet", "--target", "x86_64-linux"])
        .args(["--define", &format!("_topdir {}", top.display())])
        .arg(&spec))?;
    let name = format!("vmcored-{VERSION}-1.x86_64.rpm");
    fs::create_dir_all(directory)?;
    let rpm = directory.join(&name);
    fs::copy(top.join("RPMS/x86_64").join(&name), &rpm).context("rpmbuild has made no package")?;
    Ok(rpm)
}

fn spec(root: &Path) -> Result<String> {
    let script = |name: &str| -> Result<String> {
        let text = fs::read_to_string(workspace().join("systemd/rpm").join(name))?;
        // What rpm would take for its macros.
        Ok(format!("%{name}\n{}\n", text.replace('%', "%%")))
    };
    let mut listed = String::from(
        "%dir /usr/lib/vmcored\n%dir /usr/share/doc/vmcored\n%dir /usr/share/licenses/vmcored\n",
    );
    for file in files(root)? {
        let kind = if file.starts_with(LICENCE_PLACE) {
            "%license "
        } else if file.starts_with("/usr/share/doc/") || file.starts_with("/usr/share/man/") {
            "%doc "
        } else {
            ""
        };
        listed.push_str(&format!("{kind}{file}\n"));
    }
    Ok(format!(
        "# The programs are static and stripped already: nothing to look into, and no debug package.
%global debug_package %{{nil}}
%global __os_install_post %{{nil}}
%global _build_id_links none
# The same sources give the same package.
%global use_source_date_epoch_as_buildtime 1
%global clamp_mtime_to_source_date_epoch 1
%global _buildhost vmcored
# Fedora, RHEL from 8 and SUSE from 15 read it.
%global _binary_payload w10.zstdio
Name: vmcored
Version: {VERSION}
Release: 1
Summary: Record kernel crashes
License: MIT OR Apache-2.0
Group: System/Kernel
Packager: {packager}
AutoReqProv: no
Requires: systemd
Recommends: openssh-clients
# They load a crash kernel of their own. RHEL's kexec-tools, which up to 9 has one too, is needed for more than that:
# `vmcorectl check` says whether its kdump.service is enabled.
Conflicts: kdump-utils
Conflicts: kdump

%description
Keeps a crash kernel loaded, and when the kernel dies saves its log and its
memory, filtered, to a disk or a server; accounts for it at the next boot.

%install
cp -a {root}/. %{{buildroot}}/

{post}
{preun}
{postun}
%files
%defattr(-,root,root,-)
{listed}
%changelog
* {day} {packager} - {VERSION}-1
- See CHANGELOG.md
",
        packager = maintainer(),
        root = root.display(),
        post = script("post")?,
        preun = script("preun")?,
        postun = script("postun")?,
        day = date(source_date(), "+%a %b %d %Y")?,
    ))
}

/// What it installs, sorted, without its licences.
pub fn contents(rpm: &Path) -> Result<Vec<String>> {
    let listed = output(tool("rpm")?.args(["-qp", "--qf", "[%{FILEMODES:perms} %{FILENAMES}\n]"]).arg(rpm))?;
    let plain =
        listed.lines().filter_map(|line| line.split_once(' ')).filter(|(mode, _)| mode.starts_with('-'));
    let mut found: Vec<String> =
        plain.map(|(_, path)| path.to_owned()).filter(|path| !path.starts_with(LICENCE_PLACE)).collect();
    found.sort();
    Ok(found)
}

/// Its scripts, as rpm shows them.
pub fn scripts(rpm: &Path) -> Result<String> {
    output(tool("rpm")?.args(["-qp", "--scripts"]).arg(rpm))
}

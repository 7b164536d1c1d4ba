//! The module that crashes a guest, `tests/crasher`: Debian's kernels have no lkdtm. Built against the headers of the very
//! kernel, which are unpacked into the cache and never installed.

use super::apt::Apt;
use super::cache::Cache;
use super::command::{output, target_dir, tool, workspace};
use super::kernel::Kernel;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// What the module is made of.
const SOURCES: [&str; 2] = ["crasher.c", "Kbuild"];

/// The packages of a kernel's headers: of its flavour, of all flavours, and the programs that build with them.
fn packages(release: &str) -> Result<[String; 3]> {
    let abi = release.strip_suffix("-amd64").with_context(|| format!("{release} is no amd64 kernel"))?;
    // Debian 12's own kernels share the programs among all builds of a series.
    let kbuild = match abi.split_once(".0-") {
        Some((series, _)) if !abi.contains('+') => series,
        _ => abi,
    };
    Ok([
        format!("linux-headers-{release}"),
        format!("linux-headers-{abi}-common"),
        format!("linux-kbuild-{kbuild}"),
    ])
}

/// The directory to build modules in.
pub fn headers(cache: &Cache, kernel: &Kernel) -> Result<PathBuf> {
    let name = format!("headers/{}", kernel.id);
    let (_, version) = kernel.id.split_once('_').context("a kernel's id is package_version")?;
    let [flavour, common, kbuild] = packages(&kernel.release)?;
    let build = |root: &Path| root.join("usr/src").join(&flavour);
    let root = cache.entry(&name, |dir| {
        for package in [&flavour, &common, &kbuild] {
            Apt::native().unpack(cache, dir, package, version)?;
        }
        // As it is installed it names the other by its absolute path.
        let makefile = cache.path(&name).join("usr/src").join(&common).join("Makefile");
        Ok(fs::write(build(dir).join("Makefile"), format!("include {}\n", makefile.display()))?)
    })?;
    Ok(build(&root))
}

/// Builds the module, unless it is there and not older than its sources.
pub fn build(cache: &Cache, kernel: &Kernel) -> Result<PathBuf> {
    let headers = headers(cache, kernel)?;
    let dir = target_dir().join("lab/crasher").join(&kernel.id);
    let made = dir.join("crasher.ko");
    let modified = |p: &Path| fs::metadata(p).and_then(|m| m.modified()).ok();
    let from = workspace().join("tests/crasher");
    let newest = SOURCES.iter().filter_map(|name| modified(&from.join(name))).max();
    if modified(&made) > newest {
        return Ok(made);
    }
    fs::create_dir_all(&dir)?;
    for name in SOURCES {
        fs::copy(from.join(name), dir.join(name)).with_context(|| format!("cannot copy {name}"))?;
    }
    // Types of modules would take pahole, and the kernel's own types in a file.
    let module = format!("M={}", dir.display());
    output(tool("make")?.arg("-s").arg("-C").arg(&headers).args([
        &module,
        "CONFIG_DEBUG_INFO_BTF_MODULES=",
        "modules",
    ]))?;
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_of_both_schemes() {
        for (release, wanted) in [
            (
                "6.1.0-56-amd64",
                ["linux-headers-6.1.0-56-amd64", "linux-headers-6.1.0-56-common", "linux-kbuild-6.1"],
            ),
            (
                "6.12.117+deb12-amd64",
                [
                    "linux-headers-6.12.117+deb12-amd64",
                    "linux-headers-6.12.117+deb12-common",
                    "linux-kbuild-6.12.117+deb12",
                ],
            ),
        ] {
            assert_eq!(packages(release).unwrap(), wanted);
        }
        assert!(packages("6.1.0-56-arm64").is_err());
    }
}

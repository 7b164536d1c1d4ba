//! Debian's stock kernels: found with apt-cache, downloaded without being installed, unpacked into the cache.

use super::apt::{Apt, newer};
use super::cache::Cache;
use super::command::{output, run, tool};
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The kernel series that bookworm's own suites have.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Series {
    /// Bookworm's kernel.
    V6_1,
    /// The backport in bookworm-security.
    V6_12,
}

impl Series {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V6_1, Self::V6_12];

    /// `6.1`, `6.12`.
    pub fn name(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        }
    }

    /// What its packages are called, as apt-cache's pattern.
    fn pattern(self) -> &'static str {
        match self {
            Self::V6_1 => r"^linux-image-6\.1\.0-[0-9]+-amd64$",
            Self::V6_12 => r"^linux-image-6\.12\.[0-9]+\+deb12-amd64$",
        }
    }

    /// Whether a cache entry is of this series.
    fn owns(self, entry: &str) -> bool {
        entry.starts_with(match self {
            Self::V6_1 => "linux-image-6.1.0-",
            Self::V6_12 => "linux-image-6.12.",
        })
    }
}

/// An unpacked kernel package.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kernel {
    /// Its series.
    pub series: Series,
    /// `uname -r`.
    pub release: String,
    /// `package_version`: its name in the cache.
    pub id: String,
    /// Has `boot/` and `lib/modules/`.
    pub root: PathBuf,
}

impl Kernel {
    /// The cached kernel of a series; the newest that apt knows when there is none.
    pub fn get(cache: &Cache, series: Series) -> Result<Self> {
        let mut cached: Option<String> = None;
        for id in cache.list("kernels").into_iter().filter(|id| series.owns(id)) {
            let version = |id: &str| id.split_once('_').map(|(_, v)| v.to_owned()).unwrap_or_default();
            if cached.as_deref().map_or(Ok(true), |than| newer(&version(&id), &version(than)))? {
                cached = Some(id);
            }
        }
        match cached {
            Some(id) => Self::at(cache, series, &id),
            None => Self::newest(cache, series),
        }
    }

    /// The kernel and its debug vmlinux. The archive keeps only the latest builds: when the cached kernel's symbols or headers are
    /// gone from it, the newest kernel is taken instead.
    pub fn with_debug(cache: &Cache, series: Series) -> Result<(Self, PathBuf)> {
        let kernel = Self::get(cache, series)?;
        match super::crasher::headers(cache, &kernel).and_then(|_| kernel.debug_vmlinux(cache)) {
            Ok(vmlinux) => Ok((kernel, vmlinux)),
            Err(why) => {
                println!("{}: {why:#}; taking the newest kernel instead", kernel.id);
                let kernel = Self::newest(cache, series)?;
                let vmlinux = kernel.debug_vmlinux(cache)?;
                Ok((kernel, vmlinux))
            }
        }
    }

    fn newest(cache: &Cache, series: Series) -> Result<Self> {
        let (package, version) = Apt::native().newest(series.pattern())?;
        let id = format!("{package}_{version}");
        cache.entry(&format!("kernels/{id}"), |dir| {
            Apt::native().unpack(cache, dir, &package, &version)?;
            let release = release_in(dir)?;
            run(tool("depmod")?.arg("-b").arg(dir).arg(&release))
        })?;
        Self::at(cache, series, &id)
    }

    fn at(cache: &Cache, series: Series, id: &str) -> Result<Self> {
        let root = cache.path("kernels").join(id);
        Ok(Self { series, release: release_in(&root)?, id: id.to_owned(), root })
    }

    /// The bootable image.
    pub fn vmlinuz(&self) -> PathBuf {
        self.root.join("boot").join(format!("vmlinuz-{}", self.release))
    }

    /// vmlinux with DWARF, from the -dbg package: a download of 0.9 to 1.0 GB of which only this file is kept.
    pub fn debug_vmlinux(&self, cache: &Cache) -> Result<PathBuf> {
        let name = format!("vmlinux-{}", self.release);
        let dir = cache.entry(&format!("debug/{}", self.id), |dir| {
            let (package, version) = self.id.split_once('_').context("a kernel's id is package_version")?;
            let package = format!("{package}-dbg");
            let apt = Apt::native();
            ensure!(
                apt.candidate(&package)?.as_deref() == Some(version),
                "{package} {version} is not in the archive"
            );
            println!("downloading {package} {version} (about 1 GB, once) for crash and drgn");
            let deb = apt.download(cache, dir, &package, version)?;
            let wanted = format!("./usr/lib/debug/boot/{name}");
            let mut unpack =
                Command::new("dpkg-deb").arg("--fsys-tarfile").arg(&deb).stdout(Stdio::piped()).spawn()?;
            let tar = unpack.stdout.take().context("dpkg-deb's stdout")?;
            let untar = Command::new("tar")
                .args(["-x", "--strip-components=5", "-C"])
                .arg(dir)
                .arg(&wanted)
                .stdin(tar)
                .status()?;
            let unpacked = unpack.wait()?;
            ensure!(untar.success() && unpacked.success(), "no {wanted} in {}", deb.display());
            fs::remove_file(deb)?;
            Ok(())
        })?;
        Ok(dir.join(name))
    }

    /// The files of modules, in load order and without repetition, with everything they depend on.
    pub fn modules(&self, names: &[&str]) -> Result<Vec<PathBuf>> {
        modules(&self.root, &self.release, names)
    }
}

/// [`Kernel::modules`] of any unpacked kernel.
pub fn modules(root: &Path, release: &str, names: &[&str]) -> Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = Vec::new();
    for name in names {
        let mut modprobe = tool("modprobe")?;
        // An empty configuration: the host's blacklists and softdeps are not the guest's.
        modprobe.args(["-C", "/dev/null", "-S", release, "-d"]).arg(root);
        for line in output(modprobe.args(["--show-depends", name]))?.lines() {
            match line.split_whitespace().collect::<Vec<_>>().as_slice() {
                ["insmod", file, ..] if !files.iter().any(|f| f == Path::new(file)) => {
                    files.push(PathBuf::from(file));
                }
                ["insmod", ..] | ["builtin", ..] | [] => {}
                other => bail!("modprobe --show-depends {name} said {other:?}"),
            }
        }
    }
    Ok(files)
}

/// The release of the one kernel below `root`.
pub fn release_in(root: &Path) -> Result<String> {
    let modules = root.join("lib/modules");
    let first = fs::read_dir(&modules).with_context(|| format!("cannot read {}", modules.display()))?.next();
    Ok(first.context("no modules")??.file_name().to_string_lossy().into_owned())
}

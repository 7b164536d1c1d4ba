//! Packages of Debian's archive, downloaded without being installed: of this machine's architecture as apt is set up, of
//! others with a state of their own, so that dpkg here never hears of a foreign architecture.

use super::cache::Cache;
use super::command::{output, run};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// apt for one architecture.
#[derive(Clone, Debug)]
pub struct Apt {
    architecture: String,
    /// Settings that point apt at lists of its own; none for this machine's.
    settings: Option<PathBuf>,
}

impl Apt {
    /// The machine's own, which setup has updated.
    pub fn native() -> Self {
        Self { architecture: "amd64".to_owned(), settings: None }
    }

    /// The same sources and keys for another architecture, with lists in the directory `state`, fetched now. A source that
    /// has nothing for it, or is just being mirrored, is no error: a package that is then missing is.
    pub fn foreign(architecture: &str, state: &Path) -> Result<Self> {
        for dir in ["state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(state.join(dir))?;
        }
        let status = state.join("status");
        fs::write(&status, "")?;
        let settings = state.join("apt.conf");
        // The hooks that containers set would empty the machine's own cache; that they keep no index makes each call slow.
        let text = format!(
            "#clear APT::Update;\n#clear APT::Architectures;\n#clear DPkg;\n\
             APT::Architecture \"{architecture}\";\nAPT::Architectures {{ \"{architecture}\"; }};\n\
             Dir::State \"{0}/state\";\nDir::State::status \"{0}/status\";\nDir::Cache \"{0}/cache\";\n\
             Dir::Cache::pkgcache \"pkgcache.bin\";\nDir::Cache::srcpkgcache \"srcpkgcache.bin\";\n\
             Acquire::Languages \"none\";\n",
            state.display()
        );
        fs::write(&settings, text)?;
        let apt = Self { architecture: architecture.to_owned(), settings: Some(settings) };
        let mut update = apt.command("apt-get");
        if let Err(why) = output(update.args(["update", "-q"])) {
            println!("apt for {architecture}: not every list could be fetched:\n{why:#}");
        }
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        if let Some(settings) = &self.settings {
            command.arg("-c").arg(settings);
        }
        // Root's own directories are closed to apt's sandbox user, which apt says at length.
        command.args(["-o", "APT::Sandbox::User=root"]);
        command
    }

    /// Names of the packages that match a regular expression.
    pub fn search(&self, pattern: &str) -> Result<Vec<String>> {
        let found = output(self.command("apt-cache").args(["search", "--names-only", pattern]))?;
        Ok(found.lines().filter_map(|l| l.split_whitespace().next()).map(str::to_owned).collect())
    }

    /// The version that apt would install, if it knows the package.
    pub fn candidate(&self, package: &str) -> Result<Option<String>> {
        let policy = output(self.command("apt-cache").args(["policy", package]))?;
        let version = policy.lines().find_map(|l| l.trim().strip_prefix("Candidate: "));
        Ok(version.filter(|v| *v != "(none)").map(str::to_owned))
    }

    /// The newest of the packages that match, and its version.
    pub fn newest(&self, pattern: &str) -> Result<(String, String)> {
        let mut best: Option<(String, String)> = None;
        for package in self.search(pattern)? {
            let Some(version) = self.candidate(&package)? else { continue };
            if best.as_ref().map_or(Ok(true), |(_, than)| newer(&version, than))? {
                best = Some((package, version));
            }
        }
        best.with_context(|| {
            format!("apt knows no package like {pattern} for {}: is this Debian 12 with its security suite, and `apt-get update` done?", self.architecture)
        })
    }

    /// Downloads packages, of these versions, into `dir`, or takes them from the cache's `debs/` where somebody has put
    /// them. Returns the files in the same order.
    fn fetch(&self, cache: &Cache, dir: &Path, packages: &[(&str, String)]) -> Result<Vec<PathBuf>> {
        // apt escapes the colon of an epoch in file names.
        let names = |(package, version): &(&str, String)| {
            let stem = format!("{package}_{}", version.replace(':', "%3a"));
            [&self.architecture, "all"].map(|architecture| format!("{stem}_{architecture}.deb"))
        };
        let mut wanted = Vec::new();
        for package in packages {
            let seeded = names(package).into_iter().find(|name| cache.path("debs").join(name).exists());
            match seeded {
                Some(name) => fs::copy(cache.path("debs").join(&name), dir.join(&name)).map(drop)?,
                None => wanted.push(format!("{}={}", package.0, package.1)),
            }
        }
        if !wanted.is_empty() {
            run(self.command("apt-get").args(["download", "-q"]).args(&wanted).current_dir(dir))?;
        }
        let find = |package: &(&str, String)| {
            let deb = names(package).iter().map(|name| dir.join(name)).find(|deb| deb.exists());
            deb.with_context(|| format!("apt-get download {} {} left no such file", package.0, package.1))
        };
        packages.iter().map(find).collect()
    }

    /// `fetch` of one package.
    pub fn download(&self, cache: &Cache, dir: &Path, package: &str, version: &str) -> Result<PathBuf> {
        self.fetch(cache, dir, &[(package, version.to_owned())])?.pop().context("one file of one package")
    }

    /// Downloads a package and unpacks it into `root`.
    pub fn unpack(&self, cache: &Cache, root: &Path, package: &str, version: &str) -> Result<()> {
        unpack(&self.download(cache, root, package, version)?, root)
    }

    /// Downloads and unpacks packages in the versions that apt would install.
    pub fn unpack_newest(&self, cache: &Cache, root: &Path, packages: &[&str]) -> Result<()> {
        let mut versioned = Vec::new();
        for package in packages {
            let version = self.candidate(package)?;
            let unknown = || format!("apt knows no {package} for {}", self.architecture);
            versioned.push((*package, version.with_context(unknown)?));
        }
        self.fetch(cache, root, &versioned)?.iter().try_for_each(|deb| unpack(deb, root))
    }
}

fn unpack(deb: &Path, root: &Path) -> Result<()> {
    run(Command::new("dpkg-deb").arg("-x").arg(deb).arg(root))?;
    fs::remove_file(deb)?;
    Ok(())
}

/// Whether Debian's rules put one version after another.
pub fn newer(version: &str, than: &str) -> Result<bool> {
    let status = Command::new("dpkg").args(["--compare-versions", version, "gt", than]).status()?;
    ensure!(status.code().is_some(), "dpkg --compare-versions ended with {status}");
    Ok(status.success())
}

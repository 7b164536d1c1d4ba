//! What is done besides dumping, resolved: hooks with all that they need to run, the shell, the watchdog's driver.

use crate::settings::Settings;
use crate::settings::aside::{FailureAction, Feed};
use collector::plan::aside::{Hook, Hooks, Shell, Watchdog};
use initramfs::Packed;
use initramfs::root::Root;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Where watchdogs are.
const WATCHDOGS: &str = "/sys/class/watchdog";

/// Where programs are looked for.
const PATH: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// What softdog calls itself.
const SOFTWARE: &str = "Software Watchdog";

/// What kdump's images have always had: scripts that were written for those call them without naming them anywhere.
const STAPLES: [&str; 40] = [
    "awk", "basename", "cat", "chmod", "cp", "cut", "date", "dd", "df", "dirname", "dmesg", "echo", "env",
    "find", "grep", "gzip", "head", "hostname", "ip", "kill", "ln", "logger", "ls", "mkdir", "mknod",
    "mount", "mv", "nproc", "printf", "rm", "sed", "sleep", "sort", "stat", "sync", "tail", "touch", "tr",
    "umount", "wc",
];

/// Shells, by the names that scripts call them.
const SHELLS: [&str; 6] = ["sh", "bash", "dash", "ash", "ksh", "zsh"];

/// Why a hook or another program cannot be packed.
#[derive(Debug, thiserror::Error)]
pub enum AsideError {
    /// It is not there.
    #[error("{what} {path} does not exist: create it, or take it out of the settings")]
    Missing {
        /// `hook`, `extra_bins`.
        what: &'static str,
        /// The path.
        path: String,
    },
    /// Nobody may run it.
    #[error("hook {0} is not executable: chmod +x {0}")]
    NotExecutable(String),
    /// It cannot run.
    #[error("hook {0} is neither a program nor a script with an interpreter (#!) in its first line")]
    NotAProgram(String),
    /// Something that it needs is not there.
    #[error("{what} {path}")]
    Pack {
        /// `hook`, `extra_bins`, `shell`.
        what: &'static str,
        /// The path.
        path: String,
        /// What is missing.
        #[source]
        source: initramfs::Error,
    },
    /// The system could not be read.
    #[error(transparent)]
    System(#[from] initramfs::Error),
}

/// What [`resolve`] found.
#[derive(Clone, Default, Debug)]
pub struct Aside {
    /// For the plan.
    pub hooks: Hooks,
    /// For the plan.
    pub shell: Option<Shell>,
    /// For the plan.
    pub watchdog: Option<Watchdog>,
    /// The module of the watchdog's driver, which has to be loaded before any other; several where it could be any of them.
    pub watchdog_modules: Vec<String>,
    /// Programs to pack.
    pub packed: Packed,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Finds and packs it all.
pub fn resolve(settings: &Settings, root: &Root) -> Result<Aside, AsideError> {
    let mut aside = Aside::default();
    for path in &settings.image.extra_bins {
        aside.pack("extra_bins", path, root)?;
    }
    let given = &settings.hooks;
    let limit = given.limit;
    let hook = |program: &String, decides: bool| Hook { program: program.clone(), limit, decides };
    let named = |list: &[String], decides| list.iter().map(|p| hook(p, decides)).collect::<Vec<_>>();
    let mut dropped = |name: &str| -> Result<Vec<Hook>, AsideError> {
        let directory = format!("{}/{name}", given.directory.trim_end_matches('/'));
        let programs = drop_ins(&directory, root, &mut aside.warnings)?;
        Ok(programs.iter().map(|program| hook(program, false)).collect())
    };
    // In kdump's order.
    let pre = [named(&given.pre, given.pre_decides), dropped("pre.d")?].concat();
    let post = [dropped("post.d")?, named(&given.post, false)].concat();
    let emergency = [dropped("emergency.d")?, named(&given.emergency, false)].concat();
    for hook in pre.iter().chain(&post).chain(&emergency) {
        aside.pack_hook(&hook.program, root)?;
    }
    aside.hooks = Hooks { pre, post, emergency };
    if settings.on_failure == FailureAction::Shell {
        aside.shell = Some(aside.pack_shell(settings.shell_limit, root)?);
    }
    aside.find_watchdog(settings, root)?;
    Ok(aside)
}

/// What can be executed in a directory, in the order of names. What editors and packagers leave behind is not meant.
fn drop_ins(directory: &str, root: &Root, warnings: &mut Vec<String>) -> Result<Vec<String>, AsideError> {
    const LEFT: [&str; 6] = ["~", ".rpmsave", ".rpmnew", ".dpkg-dist", ".dpkg-old", ".bak"];
    let mut found = Vec::new();
    for name in root.list(directory)? {
        let path = format!("{directory}/{name}");
        if name.starts_with('.') || LEFT.iter().any(|end| name.ends_with(end)) {
            continue;
        }
        match mode(&path, root)? {
            Some(mode) if mode & 0o111 != 0 => found.push(path),
            Some(_) => {
                warnings.push(format!("hook {path} is not executable: it is not run (chmod +x {path})"));
            }
            None => {}
        }
    }
    Ok(found)
}

/// The permissions of a file; `None` where there is none.
fn mode(path: &str, root: &Root) -> Result<Option<u32>, AsideError> {
    let Some(real) = root.real(path)? else { return Ok(None) };
    let meta = std::fs::metadata(&real).map_err(|source| initramfs::Error::Read { path: real, source })?;
    Ok(meta.is_file().then(|| meta.mode()))
}

impl Aside {
    fn pack(&mut self, what: &'static str, path: &str, root: &Root) -> Result<(), AsideError> {
        if !root.exists(path)? {
            return Err(AsideError::Missing { what, path: path.to_owned() });
        }
        let failed = |source| AsideError::Pack { what, path: path.to_owned(), source };
        self.packed.add(root, path).map_err(failed)
    }

    /// Packs a command, if the machine has it.
    fn pack_command(&mut self, what: &'static str, name: &str, root: &Root) -> Result<(), AsideError> {
        for directory in PATH {
            let path = format!("{directory}/{name}");
            if root.exists(&path)? {
                return self.pack(what, &path, root);
            }
        }
        Ok(())
    }

    fn pack_hook(&mut self, path: &str, root: &Root) -> Result<(), AsideError> {
        match mode(path, root)? {
            None => return Err(AsideError::Missing { what: "hook", path: path.to_owned() }),
            Some(mode) if mode & 0o111 == 0 => return Err(AsideError::NotExecutable(path.to_owned())),
            Some(_) => {}
        }
        let text = root.read(path)?.unwrap_or_default();
        if !text.starts_with("#!") && !text.starts_with("\x7fELF") {
            return Err(AsideError::NotAProgram(path.to_owned()));
        }
        self.pack("hook", path, root)?;
        for name in staples(&text) {
            self.pack_command("hook", name, root)?;
        }
        Ok(())
    }

    fn pack_shell(&mut self, limit: Option<u64>, root: &Root) -> Result<Shell, AsideError> {
        // Without its commands a shell is of little use, and busybox has them all.
        for path in ["/bin/busybox", "/usr/bin/busybox", "/sbin/busybox", "/usr/sbin/busybox"] {
            if root.exists(path)? {
                self.pack("shell", path, root)?;
                let arguments = vec!["sh".to_owned(), "-i".to_owned()];
                self.link_collector("/bin", root)?;
                return Ok(Shell { program: path.to_owned(), arguments, busybox: true, limit });
            }
        }
        self.pack("shell", "/bin/sh", root)?;
        for name in STAPLES {
            self.pack_command("shell", name, root)?;
        }
        self.link_collector("/bin", root)?;
        Ok(Shell { program: "/bin/sh".to_owned(), arguments: vec!["-i".to_owned()], busybox: false, limit })
    }

    /// Whoever is at the shell can try again by hand.
    fn link_collector(&mut self, directory: &str, root: &Root) -> Result<(), AsideError> {
        let real = root.canonical(directory)?.unwrap_or_else(|| directory.into());
        let path = format!("{}/vmcore-collect", real.display());
        Ok(self.packed.add_link(&path, "/init")?)
    }

    fn find_watchdog(&mut self, settings: &Settings, root: &Root) -> Result<(), AsideError> {
        if settings.watchdog.feed == Feed::None {
            return Ok(());
        }
        for name in root.list(WATCHDOGS)? {
            let here = Path::new(WATCHDOGS).join(&name);
            let driver = here.join("device/driver");
            let name = root.read_line(here.join("identity"))?.unwrap_or_default();
            // That of software dies with its kernel.
            if name == SOFTWARE {
                continue;
            }
            // Kernels without CONFIG_WATCHDOG_SYSFS do not say whether it runs: then it is not for us to start it.
            let state = root.read_line(here.join("state"))?;
            if settings.watchdog.feed == Feed::Active && state.as_deref() != Some("active") {
                continue;
            }
            self.watchdog_modules = match root.link_name(driver.join("module"))? {
                Some(module) => vec![module],
                // Many a driver does not tell the kernel which device it is for: i6300esb.
                None if !root.exists(&driver)? => loaded_watchdogs(root)?,
                None => Vec::new(),
            };
            self.watchdog = Some(Watchdog { identity: name, timeout: settings.watchdog.timeout });
            return Ok(());
        }
        if settings.watchdog.feed == Feed::Any {
            self.warnings.push(format!("[watchdog] feed = \"any\", but there is none below {WATCHDOGS}"));
        }
        Ok(())
    }
}

/// The loaded modules that drive a watchdog of hardware.
fn loaded_watchdogs(root: &Root) -> Result<Vec<String>, AsideError> {
    let Some(release) = root.read_line("/proc/sys/kernel/osrelease")? else { return Ok(Vec::new()) };
    let list = root.read(format!("/lib/modules/{release}/modules.dep"))?.unwrap_or_default();
    let mut found = Vec::new();
    for line in list.lines() {
        let path = line.split(':').next().unwrap_or_default();
        let Some(file) = path.strip_prefix("kernel/drivers/watchdog/") else { continue };
        let name =
            file.rsplit('/').next().and_then(|f| f.split('.').next()).unwrap_or_default().replace('-', "_");
        // What registers no driver of a bus is no hardware's: the core, softdog.
        if !root.list(format!("/sys/module/{name}/drivers"))?.is_empty() {
            found.push(name);
        }
    }
    Ok(found)
}

/// The staples that a shell script mentions.
fn staples(text: &str) -> Vec<&'static str> {
    let Some(first) = text.strip_prefix("#!").and_then(|rest| rest.lines().next()) else { return Vec::new() };
    let is_shell = |word: &str| word.rsplit('/').next().is_some_and(|name| SHELLS.contains(&name));
    if !first.split_whitespace().take(2).any(is_shell) {
        return Vec::new();
    }
    let code = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let words: Vec<&str> = code
        .flat_map(|line| line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '-'))
        .collect();
    STAPLES.into_iter().filter(|staple| words.contains(staple)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::parse;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new() -> Self {
            let machine = Self(tempfile::tempdir().unwrap());
            // A library's worth of nothing: a program for the packer.
            for path in ["/bin/sh", "/bin/cat", "/bin/cp", "/bin/sleep", "/usr/bin/env"] {
                machine.file(path, 0o755, "#!/bin/sh\n");
            }
            machine
        }

        fn file(&self, path: &str, mode: u32, text: &str) {
            let path = self.0.path().join(&path[1..]);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }

        fn watchdog(&self, name: &str, driver: &str, state: &str) {
            let here = self.0.path().join("sys/class/watchdog").join(name);
            let drivers = self.0.path().join("sys/bus/pci/drivers").join(driver);
            fs::create_dir_all(&here).unwrap();
            fs::create_dir_all(&drivers).unwrap();
            fs::write(here.join("state"), format!("{state}\n")).unwrap();
            let identity = if driver.is_empty() { SOFTWARE.to_owned() } else { format!("{driver} timer") };
            fs::write(here.join("identity"), format!("{identity}\n")).unwrap();
            if driver.is_empty() {
                return;
            }
            let device = self.0.path().join("sys/devices/pci0/1");
            fs::create_dir_all(&device).unwrap();
            drop(symlink(format!("/sys/bus/pci/drivers/{driver}"), device.join("driver")));
            drop(symlink(format!("/sys/module/{driver}"), drivers.join("module")));
            symlink("/sys/devices/pci0/1", here.join("device")).unwrap();
        }

        fn resolve(&self, text: &str) -> Result<Aside, String> {
            let settings = parse(text, Path::new("t.toml")).unwrap();
            resolve(&settings, &Root::new(self.0.path())).map_err(|e| {
                let source = std::error::Error::source(&e).map(|s| format!(": {s}")).unwrap_or_default();
                format!("{e}{source}")
            })
        }
    }

    fn programs(hooks: &[Hook]) -> Vec<(&str, bool)> {
        hooks.iter().map(|h| (h.program.as_str(), h.decides)).collect()
    }

    #[test]
    fn hooks_are_found_ordered_and_packed() {
        let machine = Machine::new();
        for path in
            ["/opt/pre", "/opt/post", "/etc/kdump/pre.d/10-a", "/etc/kdump/pre.d/02-b", "/etc/kdump/post.d/c"]
        {
            machine.file(path, 0o755, "#!/bin/sh\ncp x y # cat is only mentioned here\nfoo-sleep\n");
        }
        machine.file("/etc/kdump/pre.d/README", 0o644, "text");
        machine.file("/etc/kdump/pre.d/old~", 0o755, "text");
        let aside = machine
            .resolve("[hooks]\npre = [\"/opt/pre\"]\npost = [\"/opt/post\"]\nlimit = 7\n[image]\nextra_bins = [\"/usr/bin/env\"]\n")
            .unwrap();
        assert_eq!(
            programs(&aside.hooks.pre),
            [("/opt/pre", true), ("/etc/kdump/pre.d/02-b", false), ("/etc/kdump/pre.d/10-a", false)]
        );
        assert_eq!(programs(&aside.hooks.post), [("/etc/kdump/post.d/c", false), ("/opt/post", false)]);
        assert!(aside.hooks.pre.iter().all(|h| h.limit == 7));
        assert_eq!(aside.warnings.len(), 1, "{:?}", aside.warnings);
        assert!(aside.warnings[0].contains("README is not executable"), "{:?}", aside.warnings);
        let packed: Vec<&str> = aside.packed.files().map(|(path, _)| path).collect();
        for wanted in ["/opt/pre", "/bin/sh", "/bin/cp", "/bin/cat", "/usr/bin/env", "/etc/kdump/post.d/c"] {
            assert!(packed.contains(&wanted), "no {wanted} in {packed:?}");
        }
        assert!(!packed.contains(&"/bin/sleep"), "{packed:?}");
        let aside =
            machine.resolve("[hooks]\npre = [\"/opt/pre\"]\npre_decides = false\ndirectory = \"/none\"\n");
        assert_eq!(programs(&aside.unwrap().hooks.pre), [("/opt/pre", false)]);
    }

    #[test]
    fn what_cannot_run_is_refused() {
        let machine = Machine::new();
        machine.file("/opt/perl", 0o755, "#!/usr/bin/perl\n");
        machine.file("/opt/env", 0o755, "#!/usr/bin/env python3\n");
        machine.file("/opt/plain", 0o755, "echo\n");
        machine.file("/opt/closed", 0o644, "#!/bin/sh\n");
        for (text, why) in [
            ("[hooks]\npre = [\"/opt/none\"]\n", "hook /opt/none does not exist"),
            ("[hooks]\npost = [\"/opt/closed\"]\n", "chmod +x /opt/closed"),
            ("[hooks]\npre = [\"/opt/plain\"]\n", "hook /opt/plain is neither a program nor a script"),
            (
                "[hooks]\nemergency = [\"/opt/perl\"]\n",
                "hook /opt/perl: /usr/bin/perl is not there, needed by /opt/perl",
            ),
            ("[hooks]\npre = [\"/opt/env\"]\n", "hook /opt/env: python3 is not there, needed by /opt/env"),
            ("[image]\nextra_bins = [\"/opt/none\"]\n", "extra_bins /opt/none does not exist"),
        ] {
            let said = machine.resolve(text).unwrap_err();
            assert!(said.contains(why), "{text}: {said}");
        }
    }

    #[test]
    fn a_shell_is_busybox_where_there_is_one() {
        let machine = Machine::new();
        let aside = machine.resolve("on_failure = \"shell\"\n").unwrap();
        let shell = aside.shell.unwrap();
        assert_eq!((shell.program.as_str(), shell.busybox, shell.limit), ("/bin/sh", false, None));
        let packed: Vec<&str> = aside.packed.files().map(|(path, _)| path).collect();
        assert!(packed.contains(&"/bin/cat") && packed.contains(&"/bin/vmcore-collect"), "{packed:?}");
        machine.file("/bin/busybox", 0o755, "#!/bin/sh\n");
        let shell = machine.resolve("on_failure = \"shell\"\nshell_limit = 9\n").unwrap().shell.unwrap();
        assert_eq!((shell.program.as_str(), shell.busybox, shell.limit), ("/bin/busybox", true, Some(9)));
        assert_eq!(machine.resolve("").unwrap().shell, None);
    }

    #[test]
    fn a_watchdog_that_runs_is_fed() {
        let machine = Machine::new();
        assert_eq!(machine.resolve("").unwrap().watchdog, None);
        machine.watchdog("watchdog0", "", "active");
        assert_eq!(machine.resolve("").unwrap().watchdog, None, "that of software dies with its kernel");
        machine.watchdog("watchdog1", "i6300esb", "active");
        let aside = machine.resolve("[watchdog]\ntimeout = 30\n").unwrap();
        let wanted = Some(Watchdog { identity: "i6300esb timer".into(), timeout: 30 });
        assert_eq!((&aside.watchdog, aside.watchdog_modules), (&wanted, vec!["i6300esb".to_owned()]));
        // One that does not say which device it is for.
        fs::remove_file(machine.0.path().join("sys/class/watchdog/watchdog1/device")).unwrap();
        machine.file("/proc/sys/kernel/osrelease", 0o644, "6.1\n");
        machine.file(
            "/lib/modules/6.1/modules.dep",
            0o644,
            "kernel/drivers/watchdog/softdog.ko:\nkernel/drivers/watchdog/i6300esb.ko.xz: kernel/drivers/watchdog/watchdog.ko\n\
             kernel/drivers/watchdog/iTCO_wdt.ko:\nkernel/fs/ext4/ext4.ko:\n",
        );
        for module in ["softdog/parameters", "i6300esb/drivers/pci:i6300esb", "ext4/drivers/x"] {
            fs::create_dir_all(machine.0.path().join("sys/module").join(module)).unwrap();
        }
        let aside = machine.resolve("[watchdog]\ntimeout = 30\n").unwrap();
        assert_eq!((&aside.watchdog, aside.watchdog_modules), (&wanted, vec!["i6300esb".to_owned()]));
        assert_eq!(machine.resolve("[watchdog]\nfeed = \"none\"\n").unwrap().watchdog, None);
        let idle = Machine::new();
        idle.watchdog("watchdog0", "i6300esb", "inactive");
        assert_eq!(idle.resolve("").unwrap().watchdog, None);
        assert!(idle.resolve("[watchdog]\nfeed = \"any\"\n").unwrap().watchdog.is_some());
    }
}

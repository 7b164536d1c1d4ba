//! Writing `crashkernel=` down where the next boot finds it, and giving reserved memory back.

use super::Report;
use super::boot::{ENTRIES, GRUB_DEFAULTS, GRUB_DROP_INS, KERNEL_CMDLINE};
use super::syntax::{request, show_bytes};
use crate::kexec::KexecState;
use initramfs::root::Root;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Ours among GRUB's drop-ins, after those of others.
pub const GRUB_DROP_IN: &str = "/etc/default/grub.d/vmcored-crashkernel.cfg";

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum SetError {
    /// A file could not be read.
    #[error(transparent)]
    System(#[from] initramfs::Error),
    /// Less than an administrator has set.
    #[error(
        "{path} has crashkernel={asked}, {} here, more than {}: it is never lowered; edit it if that is meant",
        show_bytes(*.bytes), show_bytes(*.wanted)
    )]
    Lower {
        /// Where.
        path: String,
        /// What it has.
        asked: String,
        /// Its bytes on this machine.
        bytes: u64,
        /// What was wanted.
        wanted: u64,
    },
    /// No boot loader's files are known here.
    #[error(
        "no {GRUB_DROP_INS}, no boot entries and no {KERNEL_CMDLINE}: add crashkernel={0} to the kernel's arguments by hand"
    )]
    Nowhere(String),
    /// A file could not be written.
    #[error("cannot write {path}", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The size cannot be made smaller.
    #[error("{0}")]
    Shrink(String),
}

/// What was written.
#[derive(Clone, PartialEq, Eq, Default, Debug, serde::Serialize)]
pub struct Changed {
    /// The files, as the system sees them.
    pub files: Vec<PathBuf>,
    /// GRUB's configuration has to be made from its defaults.
    pub update_grub: bool,
}

/// Writes `crashkernel=` of `bytes` wherever a boot loader of the system at `root` gets its arguments from.
pub fn set(root: &Root, bytes: u64, report: &Report) -> Result<Changed, SetError> {
    let text = show_bytes(bytes);
    for asked in &report.next {
        if asked.bytes > bytes {
            return Err(SetError::Lower {
                path: asked.path.clone(),
                asked: asked.options.join(" crashkernel="),
                bytes: asked.bytes,
                wanted: bytes,
            });
        }
    }
    let memory = report.memory;
    let mut changed = Changed::default();
    let mut anywhere = false;
    if root.exists(GRUB_DROP_INS)? {
        anywhere = true;
        let line = format!(
            "# Written by `vmcorectl crashkernel set`: the memory that a crash kernel runs in.\n\
             GRUB_CMDLINE_LINUX_DEFAULT=\"$GRUB_CMDLINE_LINUX_DEFAULT crashkernel={text}\"\n"
        );
        let enough = report
            .next
            .iter()
            .any(|asked| asked.kind == Some(super::Kind::GrubDefaults) && asked.bytes >= bytes);
        if !enough {
            replace(root, Path::new(GRUB_DROP_IN), &line, &mut changed)?;
            changed.update_grub = true;
        }
    }
    for directory in ENTRIES {
        for name in root
            .list(directory)?
            .into_iter()
            .filter(|name| name.ends_with(".conf") && !name.contains("rescue"))
        {
            let path = Path::new(directory).join(name);
            let Some(old) = root.read(&path)? else { continue };
            let mut done = false;
            let new: String = old
                .split_inclusive('\n')
                .map(|line| match line.trim_start().strip_prefix("options") {
                    Some(rest) if rest.starts_with([' ', '\t']) && !std::mem::replace(&mut done, true) => {
                        format!("options {}\n", with_crashkernel(rest.trim(), &text, bytes, memory))
                    }
                    _ => line.to_owned(),
                })
                .collect();
            anywhere |= done;
            if done && new != old {
                replace(root, &path, &new, &mut changed)?;
            }
        }
    }
    if let Some(old) = root.read(KERNEL_CMDLINE)? {
        anywhere = true;
        let new = format!("{}\n", with_crashkernel(old.trim(), &text, bytes, memory));
        if new.split_whitespace().ne(old.split_whitespace()) {
            replace(root, Path::new(KERNEL_CMDLINE), &new, &mut changed)?;
        }
    }
    if !anywhere {
        return Err(SetError::Nowhere(text));
    }
    Ok(changed)
}

/// The arguments with `crashkernel=`, in place of what they have; untouched where that is enough.
fn with_crashkernel(cmdline: &str, text: &str, bytes: u64, memory: u64) -> String {
    if request(cmdline).is_ok_and(|request| request.size_for(memory) >= bytes) {
        return cmdline.to_owned();
    }
    // What comes behind -- is for init.
    let (kernel, init) =
        cmdline.split_once(" -- ").map_or((cmdline, None), |(kernel, init)| (kernel, Some(init)));
    let all = crate::cmdline::split(kernel);
    let kept = all.iter().filter(|word| !word.trim_matches('"').starts_with("crashkernel="));
    let mut words: Vec<String> = kept.cloned().collect();
    words.push(format!("crashkernel={text}"));
    words.extend(init.map(|init| format!("-- {init}")));
    words.join(" ")
}

/// Writes a whole file with the mode of the one before it: whoever reads it, a boot loader after a power cut too, sees the old one or
/// the new one.
fn replace(root: &Root, path: &Path, text: &str, changed: &mut Changed) -> Result<(), SetError> {
    let failed = |source| SetError::Write { path: path.to_owned(), source };
    // A link stays one.
    let real = root.real(path)?.unwrap_or_else(|| root.path(path));
    let mut new = real.clone().into_os_string();
    new.push(".vmcored-new");
    let new = PathBuf::from(new);
    let write = || {
        match fs::remove_file(&new) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mode = fs::metadata(&real).map_or(0o644, |old| old.mode() & 0o7777);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&new, &real)?;
        fs::File::open(real.parent().unwrap_or(Path::new("/")))?.sync_all()
    };
    write().map_err(|e| {
        drop(fs::remove_file(&new));
        failed(e)
    })?;
    changed.files.push(path.to_owned());
    Ok(())
}

/// Gives memory back until the next boot: makes the reservation `bytes` large, which are `needed` at least.
pub fn shrink(root: &Root, bytes: u64, needed: u64) -> Result<(), SetError> {
    const SIZE: &str = "/sys/kernel/kexec_crash_size";
    let refuse = |why: String| Err(SetError::Shrink(why));
    let kexec = KexecState::read(root)?;
    let reserved = kexec.reserved.unwrap_or(0);
    if kexec.loaded {
        return refuse(
            "a crash kernel is loaded, and lies in that memory: `vmcorectl disarm` first".to_owned(),
        );
    }
    if reserved == 0 {
        return refuse("nothing is reserved: nothing to give back".to_owned());
    }
    if bytes >= reserved {
        return refuse(format!(
            "{} are reserved, no more than {}: nothing to give back",
            show_bytes(reserved),
            show_bytes(bytes)
        ));
    }
    if bytes < needed {
        return refuse(format!("{} are needed, more than {}", show_bytes(needed), show_bytes(bytes)));
    }
    let path = root.path(SIZE);
    fs::write(&path, format!("{bytes}\n")).map_err(|source| SetError::Write { path: SIZE.into(), source })
}

/// Whether GRUB's defaults are there but not their drop-ins: who edits them is told.
pub fn grub_without_drop_ins(root: &Root) -> Result<bool, initramfs::Error> {
    Ok(root.exists(GRUB_DEFAULTS)? && !root.exists(GRUB_DROP_INS)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const M: u64 = 1 << 20;

    fn system(files: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let all = [
            ("proc/iomem", "00000000-ffffffff : System RAM\n"),
            ("proc/cmdline", "quiet\n"),
            ("sys/kernel/kexec_crash_loaded", "0\n"),
            ("sys/kernel/kexec_crash_size", "268435456\n"),
        ];
        for (name, text) in all.iter().chain(files) {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let root = Root::new(dir.path());
        (dir, root)
    }

    fn set_to(root: &Root, bytes: u64) -> Result<Changed, SetError> {
        set(root, bytes, &Report::read(root, Err("unknown".into())).unwrap())
    }

    #[test]
    fn debian() {
        let (_dir, root) = system(&[
            ("etc/default/grub", "GRUB_CMDLINE_LINUX_DEFAULT=quiet\n"),
            (
                "etc/default/grub.d/kdump-tools.cfg",
                "GRUB_CMDLINE_LINUX_DEFAULT=\"$GRUB_CMDLINE_LINUX_DEFAULT crashkernel=128M\"\n",
            ),
        ]);
        let changed = set_to(&root, 192 * M).unwrap();
        assert_eq!(changed, Changed { files: vec![GRUB_DROP_IN.into()], update_grub: true });
        let report = Report::read(&root, Err("unknown".into())).unwrap();
        assert_eq!(report.next[0].options, ["128M", "192M"]);
        assert_eq!(report.next[0].bytes, 192 * M);
        assert_eq!(set_to(&root, 192 * M).unwrap(), Changed::default(), "a second time changes nothing");
        let said = set_to(&root, 64 * M).unwrap_err().to_string();
        assert!(said.contains("192M here, more than 64M: it is never lowered"), "{said}");
    }

    #[test]
    fn boot_entries() {
        let (dir, root) = system(&[
            (
                "boot/loader/entries/a.conf",
                "title A\noptions root=/dev/sda1 crashkernel=1G-4G:64M,4G-:128M ro -- crashkernel=1\ngrub_users x\n",
            ),
            ("boot/loader/entries/b.conf", "options $kernelopts\n"),
            ("boot/loader/entries/c-rescue.conf", "options rescue\n"),
            ("etc/kernel/cmdline", "root=/dev/sda1 ro\n"),
        ]);
        let changed = set_to(&root, 256 * M).unwrap();
        assert_eq!((changed.files.len(), changed.update_grub), (3, false));
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(
            read("boot/loader/entries/a.conf"),
            "title A\noptions root=/dev/sda1 ro crashkernel=256M -- crashkernel=1\ngrub_users x\n"
        );
        assert_eq!(read("boot/loader/entries/b.conf"), "options $kernelopts crashkernel=256M\n");
        assert_eq!(read("boot/loader/entries/c-rescue.conf"), "options rescue\n");
        assert_eq!(read("etc/kernel/cmdline"), "root=/dev/sda1 ro crashkernel=256M\n");
        assert_eq!(set_to(&root, 256 * M).unwrap(), Changed::default());
        assert!(matches!(set_to(&root, 128 * M), Err(SetError::Lower { .. })));
    }

    #[test]
    fn nowhere() {
        let (_dir, root) = system(&[("etc/default/grub", "GRUB_CMDLINE_LINUX=\n")]);
        assert!(matches!(set_to(&root, 128 * M), Err(SetError::Nowhere(_))));
        assert!(grub_without_drop_ins(&root).unwrap());
    }

    #[test]
    fn memory_is_given_back() {
        let (dir, root) = system(&[]);
        let size = || fs::read_to_string(dir.path().join("sys/kernel/kexec_crash_size")).unwrap();
        assert!(shrink(&root, 64 * M, 90 * M).unwrap_err().to_string().contains("are needed"));
        assert!(shrink(&root, 256 * M, 90 * M).unwrap_err().to_string().contains("nothing to give back"));
        shrink(&root, 128 * M, 90 * M).unwrap();
        assert_eq!(size(), format!("{}\n", 128 * M));
        fs::write(dir.path().join("sys/kernel/kexec_crash_loaded"), "1\n").unwrap();
        assert!(shrink(&root, 96 * M, 90 * M).unwrap_err().to_string().contains("disarm"));
    }
}

//! The dump's directory: made anew for each crash, below a directory that may be anyone's.

use super::TargetError;
use crate::utc;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// An open dump directory. Every file in it is reached through it, so nothing that happens to the path matters.
#[derive(Debug)]
pub struct DumpDirectory {
    fd: OwnedFd,
    path: String,
}

impl DumpDirectory {
    /// How many dumps may bear the same name before one gives up.
    const MOST: u32 = 999;

    /// Makes a new directory `name` below `directory` of the file system mounted at `root`. If it exists, `-2`,
    /// `-3`, … is appended. Components of `directory` that are missing are made, mode 0700; a symbolic link in
    /// it is an error.
    pub fn create(root: &Path, directory: &str, name: &str) -> Result<Self, TargetError> {
        let (parent, parent_path) = descend(root, directory, true)?;
        for n in 1..=Self::MOST {
            let name = if n == 1 { name.to_owned() } else { format!("{name}-{n}") };
            let path = format!("{}/{name}", parent_path.trim_end_matches('/'));
            match mkdirat(&parent, name.as_str(), Mode::S_IRWXU) {
                Ok(()) => {
                    let fd = open_directory(&parent, &name, &path)?;
                    sync(&parent, &parent_path)?;
                    return Ok(Self { fd, path });
                }
                Err(Errno::EEXIST) => {}
                Err(e) => return Err(TargetError::new("create the directory", path, e)),
            }
        }
        Err(TargetError::new("create the directory", format!("{parent_path}/{name}"), Errno::EEXIST))
    }

    /// Opens what [`DumpDirectory::create`] made, `path` being [`DumpDirectory::path`].
    pub fn open(root: &Path, path: &str) -> Result<Self, TargetError> {
        let (fd, path) = descend(root, path, false)?;
        Ok(Self { fd, path })
    }

    /// Its path below the root of the file system, absolute.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Makes a new file, mode 0600. It must not exist.
    pub fn create_file(&self, name: &str) -> Result<File, TargetError> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        self.open_with(name, flags, "create")
    }

    /// Opens a file to be written over.
    pub fn open_file(&self, name: &str) -> Result<File, TargetError> {
        self.open_with(name, OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, "open")
    }

    fn open_with(&self, name: &str, flags: OFlag, doing: &'static str) -> Result<File, TargetError> {
        let fd = openat(&self.fd, name, flags, Mode::S_IRUSR | Mode::S_IWUSR);
        fd.map(File::from).map_err(|e| TargetError::new(doing, self.path_of(name), e))
    }

    /// Renames a file; what bears the new name is replaced.
    pub fn rename(&self, from: &str, to: &str) -> Result<(), TargetError> {
        renameat(&self.fd, from, &self.fd, to).map_err(|e| TargetError::new("rename", self.path_of(from), e))
    }

    /// Removes a file.
    pub fn remove(&self, name: &str) -> Result<(), TargetError> {
        unlinkat(&self.fd, name, UnlinkatFlags::NoRemoveDir)
            .map_err(|e| TargetError::new("remove", self.path_of(name), e))
    }

    /// Bytes that can still be written, also by those who are not root. `None` where the file system does not tell.
    pub fn free(&self) -> Option<u64> {
        let stat = nix::sys::statvfs::fstatvfs(&self.fd).ok()?;
        // What has no fixed size says 0 of everything.
        let free = stat.blocks_available().saturating_mul(stat.fragment_size());
        let most = largest_file(&self.fd);
        (stat.blocks() > 0).then(|| free.min(most))
    }

    /// Makes names that were created, changed and removed durable.
    pub fn sync(&self) -> Result<(), TargetError> {
        sync(&self.fd, &self.path)
    }

    fn path_of(&self, name: &str) -> String {
        format!("{}/{name}", self.path)
    }
}

/// Bytes of the largest file that the file system of this directory can hold, as far as that is less than any disk. No file of
/// a FAT is larger than its 32 bits of length.
pub fn largest_file(directory: impl AsFd) -> u64 {
    let fat = nix::sys::statfs::fstatfs(directory.as_fd())
        .is_ok_and(|s| s.filesystem_type() == nix::sys::statfs::MSDOS_SUPER_MAGIC);
    if fat { u64::from(u32::MAX) } else { u64::MAX }
}

/// Opens `directory` below `root` component by component, following no link. Returns its normal form too.
fn descend(root: &Path, directory: &str, create: bool) -> Result<(OwnedFd, String), TargetError> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut fd = nix::fcntl::open(root, flags, Mode::empty())
        .map_err(|e| TargetError::new("open", root.display().to_string(), e))?;
    let mut path = String::new();
    for part in directory.split('/').filter(|part| !part.is_empty() && *part != ".") {
        if part == ".." {
            return Err(TargetError::new("go up in", directory, Errno::EINVAL));
        }
        let parent = if path.is_empty() { "/".to_owned() } else { path.clone() };
        path.push('/');
        path.push_str(part);
        if create {
            match mkdirat(&fd, part, Mode::S_IRWXU) {
                Ok(()) => sync(&fd, &parent)?,
                Err(Errno::EEXIST) => {}
                Err(e) => return Err(TargetError::new("create the directory", path, e)),
            }
        }
        fd = open_directory(&fd, part, &path)?;
    }
    Ok((fd, if path.is_empty() { "/".to_owned() } else { path }))
}

fn open_directory(parent: &OwnedFd, name: &str, path: &str) -> Result<OwnedFd, TargetError> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(parent, name, flags, Mode::empty()).map_err(|e| TargetError::new("open the directory", path, e))
}

fn sync(fd: &OwnedFd, path: &str) -> Result<(), TargetError> {
    nix::unistd::fsync(fd).map_err(|e| TargetError::new("sync the directory", path, e))
}

/// The name of a crash: `<host>-<crash time, UTC, 20261122T124310Z>`. What a file name cannot have, or a shell
/// would stumble over, becomes `_` in the host's name.
pub fn dump_name(host: &str, crash_time: u64) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let host: String = host.chars().take(64).map(|c| if plain(c) { c } else { '_' }).collect();
    let host = if host.is_empty() || host.starts_with(['.', '-']) { format!("_{host}") } else { host };
    format!("{host}-{}", utc::compact(crash_time))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};

    #[test]
    fn names_are_plain() {
        for (host, name) in [
            ("web-1.example.org", "web-1.example.org-19700101T000000Z"),
            ("../etc", "_.._etc-19700101T000000Z"),
            ("a/b c\n", "a_b_c_-19700101T000000Z"),
            ("", "_-19700101T000000Z"),
            ("-rf", "_-rf-19700101T000000Z"),
        ] {
            assert_eq!(dump_name(host, 0), name, "{host:?}");
        }
        assert_eq!(dump_name(&"x".repeat(300), 0).len(), 64 + "-19700101T000000Z".len());
    }

    #[test]
    fn made_private_and_never_twice() {
        let root = tempfile::tempdir().unwrap();
        let made: Vec<_> = (0..3)
            .map(|_| DumpDirectory::create(root.path(), "/var//crash/./", "h").unwrap().path().to_owned())
            .collect();
        assert_eq!(made, ["/var/crash/h", "/var/crash/h-2", "/var/crash/h-3"]);
        for path in ["var", "var/crash", "var/crash/h"] {
            assert_eq!(std::fs::metadata(root.path().join(path)).unwrap().mode() & 0o7777, 0o700, "{path}");
        }
        let at_root = DumpDirectory::create(root.path(), "/", "top").unwrap();
        assert_eq!(at_root.path(), "/top");
    }

    #[test]
    fn a_directory_that_exists_keeps_its_mode() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("var")).unwrap();
        std::fs::set_permissions(root.path().join("var"), std::fs::Permissions::from_mode(0o755)).unwrap();
        DumpDirectory::create(root.path(), "/var", "h").unwrap();
        assert_eq!(std::fs::metadata(root.path().join("var")).unwrap().mode() & 0o7777, 0o755);
    }

    #[test]
    fn links_are_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        symlink(elsewhere.path(), root.path().join("crash")).unwrap();
        symlink("/nowhere", root.path().join("dangling")).unwrap();
        std::fs::write(root.path().join("file"), "").unwrap();
        for directory in ["/crash", "/crash/deeper", "/dangling", "/file", "/../x", "/a/../b"] {
            assert!(DumpDirectory::create(root.path(), directory, "h").is_err(), "{directory}");
        }
        assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    }

    #[test]
    fn files_are_private_and_new() {
        let root = tempfile::tempdir().unwrap();
        let dir = DumpDirectory::create(root.path(), "/c", "h").unwrap();
        dir.create_file("a").unwrap();
        assert_eq!(std::fs::metadata(root.path().join("c/h/a")).unwrap().mode() & 0o7777, 0o600);
        assert!(dir.create_file("a").is_err());
        symlink("/etc/passwd", root.path().join("c/h/link")).unwrap();
        assert!(dir.create_file("link").is_err());
        assert!(dir.open_file("link").is_err());
        dir.rename("a", "b").unwrap();
        dir.sync().unwrap();
        assert!(DumpDirectory::open(root.path(), dir.path()).unwrap().open_file("b").is_ok());
        dir.remove("b").unwrap();
        assert!(dir.open_file("b").is_err());
    }
}

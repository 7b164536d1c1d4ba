//! An injected root directory: the live `/`, or a tree fabricated by a test. All of /sys, /proc, /lib/modules,
//! /etc/modprobe.d and /lib/firmware is read through it.

use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use crate::Error;

/// The most that is read of one text file of /sys, /proc or a module index; the largest in the field, modules.alias,
/// has 2 MB.
const MAX_TEXT: u64 = 64 << 20;

/// As the kernel's MAXSYMLINKS.
const MAX_LINKS: usize = 40;

/// A directory that stands for `/`. Symbolic links are followed *inside* it, absolute ones too, so that a tree made
/// by a test or an unpacked package never leaks into the machine it lies on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Root {
    directory: PathBuf,
}

impl Root {
    /// `/` for the live system; any other directory for a tree that looks like one.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// Where `absolute`, as the system sees it, lies for us. Links are not followed and nothing need exist.
    #[must_use]
    pub fn path(&self, absolute: impl AsRef<Path>) -> PathBuf {
        let mut path = self.directory.clone();
        path.extend(absolute.as_ref().components().filter(|c| matches!(c, Component::Normal(_))));
        path
    }

    /// The absolute path, as the system sees it, that remains when all links of `absolute` are followed; `None`
    /// where there is nothing.
    pub fn canonical(&self, absolute: impl AsRef<Path>) -> Result<Option<PathBuf>, Error> {
        let absolute = absolute.as_ref();
        // Components still to walk, the next one last.
        let mut rest: Vec<PathBuf> = reversed(absolute);
        let mut done = PathBuf::from("/");
        let mut links = 0;
        while let Some(component) = rest.pop() {
            if component.as_os_str() == ".." {
                done.pop();
                continue;
            }
            let here = done.join(&component);
            let real = self.path(&here);
            let meta = match fs::symlink_metadata(&real) {
                Ok(meta) => meta,
                Err(e) if is_absence(&e) => return Ok(None),
                Err(source) => return Err(Error::Read { path: real, source }),
            };
            if !meta.is_symlink() {
                done = here;
                continue;
            }
            links += 1;
            if links > MAX_LINKS {
                return Err(Error::LinkLoop { path: self.path(absolute) });
            }
            let target = fs::read_link(&real).map_err(|source| Error::Read { path: real, source })?;
            if target.is_absolute() {
                done = PathBuf::from("/");
            }
            rest.extend(reversed(&target));
        }
        Ok(Some(done))
    }

    /// Whether anything is there, links followed.
    pub fn exists(&self, absolute: impl AsRef<Path>) -> Result<bool, Error> {
        Ok(self.canonical(absolute)?.is_some())
    }

    /// Where the file behind `absolute` really lies for us, links followed.
    pub fn real(&self, absolute: impl AsRef<Path>) -> Result<Option<PathBuf>, Error> {
        Ok(self.canonical(absolute)?.map(|p| self.path(p)))
    }

    /// The text of a file, `None` where there is none. Bytes that are no UTF-8 become replacement characters: the
    /// files we read are ASCII, and a stray byte in a comment must not stop the arming of a machine.
    pub fn read(&self, absolute: impl AsRef<Path>) -> Result<Option<String>, Error> {
        let Some(path) = self.real(absolute)? else { return Ok(None) };
        let bytes = match read_limited(&path, MAX_TEXT) {
            // sysfs files of devices without the feature fail so.
            Err(Error::Read { source, .. }) if is_absence(&source) => return Ok(None),
            other => other?,
        };
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// The text of a one-line file without its line end, `None` where there is none or it is empty.
    pub fn read_line(&self, absolute: impl AsRef<Path>) -> Result<Option<String>, Error> {
        Ok(self.read(absolute)?.map(|t| t.trim_end().to_owned()).filter(|t| !t.is_empty()))
    }

    /// Names in a directory, sorted; none where it does not exist. Names that are no UTF-8 are left out: no kernel
    /// or distribution makes such.
    pub fn list(&self, absolute: impl AsRef<Path>) -> Result<Vec<String>, Error> {
        let Some(path) = self.real(absolute)? else { return Ok(Vec::new()) };
        let read = |source| Error::Read { path: path.clone(), source };
        let mut names = Vec::new();
        match fs::read_dir(&path) {
            Err(e) if is_absence(&e) => {}
            Err(e) => return Err(read(e)),
            Ok(directory) => {
                for entry in directory {
                    names.extend(entry.map_err(read)?.file_name().into_string().ok());
                }
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// The last component of what a link points to: the name of a driver, a module, a bus. `None` where there is no
    /// such link.
    pub fn link_name(&self, absolute: impl AsRef<Path>) -> Result<Option<String>, Error> {
        let path = absolute.as_ref();
        let parent = path.parent().unwrap_or(Path::new("/"));
        let (Some(parent), Some(name)) = (self.real(parent)?, path.file_name()) else { return Ok(None) };
        match fs::read_link(parent.join(name)) {
            Ok(target) => Ok(target.file_name().and_then(|n| n.to_str()).map(str::to_owned)),
            Err(_) => Ok(None),
        }
    }
}

/// The bytes of a file of the real file system, at most `limit` of them.
pub(crate) fn read_limited(path: &Path, limit: u64) -> Result<Vec<u8>, Error> {
    let read = |source| Error::Read { path: path.to_owned(), source };
    let file = fs::File::open(path).map_err(read)?;
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(read)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > limit {
        return Err(Error::TooLarge { path: path.to_owned(), limit });
    }
    Ok(bytes)
}

fn reversed(path: &Path) -> Vec<PathBuf> {
    let mut parts: Vec<PathBuf> = path
        .components()
        .filter(|c| matches!(c, Component::Normal(_) | Component::ParentDir))
        .map(|c| PathBuf::from(std::ffi::OsStr::from_bytes(c.as_os_str().as_bytes())))
        .collect();
    parts.reverse();
    parts
}

fn is_absence(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{IsADirectory, NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory | IsADirectory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn tree() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("usr/lib/modules/6.1")).unwrap();
        fs::write(dir.path().join("usr/lib/modules/6.1/x"), "text\n").unwrap();
        symlink("/usr/lib", dir.path().join("lib")).unwrap();
        symlink("../../nowhere", dir.path().join("usr/dangling")).unwrap();
        symlink("loop", dir.path().join("loop")).unwrap();
        symlink("../../../../../etc", dir.path().join("escape")).unwrap();
        let root = Root::new(dir.path());
        (dir, root)
    }

    #[test]
    fn links_are_followed_inside_the_root() {
        let (_dir, root) = tree();
        assert_eq!(root.canonical("/lib/modules/6.1").unwrap().unwrap(), Path::new("/usr/lib/modules/6.1"));
        assert_eq!(root.read_line("/lib/modules/6.1/x").unwrap().as_deref(), Some("text"));
        assert_eq!(root.canonical("/usr/dangling").unwrap(), None);
        assert_eq!(root.canonical("/escape").unwrap(), None, "an absolute or climbing link stays inside");
        assert!(matches!(root.canonical("/loop"), Err(Error::LinkLoop { .. })));
    }

    #[test]
    fn absence_is_no_error() {
        let (_dir, root) = tree();
        assert_eq!(root.read("/none").unwrap(), None);
        assert_eq!(root.read("/lib/modules/6.1/x/y").unwrap(), None);
        assert_eq!(root.read("/usr").unwrap(), None);
        assert_eq!(root.list("/none").unwrap(), Vec::<String>::new());
        assert_eq!(root.link_name("/lib").unwrap().as_deref(), Some("lib"));
        assert_eq!(root.link_name("/usr").unwrap(), None);
    }

    #[test]
    fn path_cannot_climb() {
        assert_eq!(Root::new("/r").path("/../../etc/./x"), Path::new("/r/etc/x"));
        assert_eq!(Root::new("/").path("/sys"), Path::new("/sys"));
    }

    #[test]
    fn oversize_is_an_error() {
        let (dir, _) = tree();
        let path = dir.path().join("usr/lib/modules/6.1/x");
        assert!(matches!(read_limited(&path, 4), Err(Error::TooLarge { limit: 4, .. })));
        assert_eq!(read_limited(&path, 5).unwrap(), b"text\n");
    }
}

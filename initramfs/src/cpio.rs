//! The archive the kernel unpacks: cpio in its "newc" form (Documentation/driver-api/early-userspace/buffer-format.rst).
//!
//! Written reproducibly: entries in order of path, inodes numbered in that order, owner root, time 0. Read back without
//! trust: every length is checked against what is there.

use std::collections::BTreeMap;

use crate::Error;

/// Six bytes of magic and thirteen fields of eight hexadecimal digits.
const HEADER: usize = 6 + 13 * 8;
const MAGIC: &[u8] = b"070701";
/// The same with a checksum, which the kernel reads too.
const MAGIC_CRC: &[u8] = b"070702";
const TRAILER: &str = "TRAILER!!!";
/// Header and data begin at multiples of this.
const ALIGN: usize = 4;
/// The kernel's PATH_MAX, the final zero included; it skips entries with longer names.
const PATH_MAX: usize = 4096;
/// More entries than any initramfs has; keeps a hostile one from filling memory with names.
const MAX_ENTRIES: usize = 1 << 20;

const S_IFMT: u32 = 0o17_0000;
const S_IFREG: u32 = 0o10_0000;
const S_IFDIR: u32 = 0o04_0000;
const S_IFLNK: u32 = 0o12_0000;
const S_IFCHR: u32 = 0o02_0000;
const S_IFBLK: u32 = 0o06_0000;

/// What an entry is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link; the data is its target.
    Symlink,
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A pipe, a socket or nothing known.
    Other,
}

impl Kind {
    fn file_type(self) -> u32 {
        match self {
            Self::File => S_IFREG,
            Self::Directory => S_IFDIR,
            Self::Symlink => S_IFLNK,
            Self::CharDevice { .. } => S_IFCHR,
            Self::BlockDevice { .. } => S_IFBLK,
            Self::Other => 0,
        }
    }

    fn device(self) -> (u32, u32) {
        match self {
            Self::CharDevice { major, minor } | Self::BlockDevice { major, minor } => (major, minor),
            _ => (0, 0),
        }
    }
}

/// One entry of an image.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// Absolute path. From a foreign image it may hold any character; escape it before it reaches a terminal.
    pub path: String,
    /// Permission bits, the low twelve of st_mode.
    pub mode: u32,
    /// What it is.
    pub kind: Kind,
    /// A file's bytes or a link's target.
    pub data: Vec<u8>,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { path, mode, kind, data } = self;
        write!(f, "{path} {kind:?} {mode:04o} {} bytes", data.len())
    }
}

/// An archive being put together.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    /// By absolute path. Byte order puts each directory before what is in it, as the kernel needs it.
    entries: BTreeMap<String, Entry>,
}

impl Archive {
    /// Adds an entry, and its parent directories (0755) where they are missing.
    pub(crate) fn add(&mut self, path: &str, mode: u32, kind: Kind, data: Vec<u8>) -> Result<(), Error> {
        let bad = |reason| Err(Error::Archive { path: path.to_owned(), reason });
        let well_formed =
            path.strip_prefix('/').is_some_and(|p| p.split('/').all(|part| !matches!(part, "" | "." | "..")));
        if !well_formed || path.contains('\0') {
            return bad("not an absolute path in plain form");
        }
        if path.len() > PATH_MAX {
            return bad("the path is longer than the kernel takes");
        }
        if u32::try_from(data.len()).is_err() {
            return bad("larger than the 4 GiB that the format can express");
        }
        for (at, _) in path.match_indices('/').skip(1) {
            let parent = &path[..at];
            let entry =
                Entry { path: parent.to_owned(), mode: 0o755, kind: Kind::Directory, data: Vec::new() };
            if self.entries.entry(parent.to_owned()).or_insert(entry).kind != Kind::Directory {
                return bad("a parent is no directory");
            }
        }
        let entry = Entry { path: path.to_owned(), mode, kind, data };
        match self.entries.get(path) {
            // The same directory twice, or one that came as a parent and now gets its own mode.
            Some(old) if old.kind != Kind::Directory || kind != Kind::Directory => bad("there already"),
            _ => {
                self.entries.insert(path.to_owned(), entry);
                Ok(())
            }
        }
    }

    /// Adds an entry whose directories may be symbolic links of the archive, as `/lib` is: it goes where they lead.
    pub(crate) fn add_through(
        &mut self,
        path: &str,
        mode: u32,
        kind: Kind,
        data: Vec<u8>,
    ) -> Result<(), Error> {
        let mut path = path.to_owned();
        // As many links as the kernel follows.
        for _ in 0..40 {
            let link = path.match_indices('/').skip(1).find_map(|(at, _)| {
                let entry = self.entries.get(&path[..at]).filter(|e| e.kind == Kind::Symlink)?;
                Some((at, String::from_utf8_lossy(&entry.data).into_owned()))
            });
            let Some((at, target)) = link else { return self.add(&path, mode, kind, data) };
            let parent = path[..at].rsplit_once('/').map_or("", |(parent, _)| parent);
            let joined = if target.starts_with('/') { target } else { format!("{parent}/{target}") };
            path = plain(&format!("{joined}{}", &path[at..]));
        }
        Err(Error::Archive { path, reason: "too many symbolic links" })
    }

    /// The entries in archive order.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// The archive's bytes.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let size =
            self.entries.values().map(|e| HEADER + e.path.len() + e.data.len() + 2 * ALIGN).sum::<usize>();
        let mut out = Vec::with_capacity(size + HEADER + 2 * ALIGN + TRAILER.len());
        for (inode, entry) in (1_u32..).zip(self.entries.values()) {
            write_entry(&mut out, inode, entry.mode | entry.kind.file_type(), entry);
        }
        let trailer = Entry { path: format!("/{TRAILER}"), mode: 0, kind: Kind::Other, data: Vec::new() };
        write_entry(&mut out, 0, 0, &trailer);
        out
    }
}

/// A path without empty components, `.` and `..`.
fn plain(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

fn write_entry(out: &mut Vec<u8>, inode: u32, mode: u32, entry: &Entry) {
    // Relative to the root, as every writer has it; some readers take a leading slash literally.
    let name = entry.path.trim_start_matches('/');
    let (major, minor) = entry.kind.device();
    let links = if entry.kind == Kind::Directory { 2 } else { 1 };
    // `add` has checked both lengths.
    let size = u32::try_from(entry.data.len()).unwrap_or(u32::MAX);
    let name_size = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
    out.extend_from_slice(MAGIC);
    // ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check
    for field in [inode, mode, 0, 0, links, 0, size, 0, 0, major, minor, name_size, 0] {
        out.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    out.extend_from_slice(name.as_bytes());
    out.push(0);
    pad(out);
    out.extend_from_slice(&entry.data);
    pad(out);
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(ALIGN), 0);
}

/// Whether an archive begins here.
pub(crate) fn begins(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC) || bytes.starts_with(MAGIC_CRC)
}

/// Reads one archive from the beginning of `bytes` onto `entries`, and tells how many bytes it took.
pub(crate) fn read(bytes: &[u8], entries: &mut Vec<Entry>) -> Result<usize, Error> {
    let mut at = 0;
    loop {
        let offset = at;
        let bad = |reason| Error::BadImage { reason, offset, layer: "unpacked" };
        let rest = bytes.get(at..).unwrap_or_default();
        if !begins(rest) {
            return Err(bad("no cpio header where one must be"));
        }
        let header = rest.get(MAGIC.len()..HEADER).ok_or_else(|| bad("a cpio header cut short"))?;
        let mut fields = [0_u32; 13];
        for (field, digits) in fields.iter_mut().zip(header.chunks_exact(8)) {
            *field =
                hexadecimal(digits).ok_or_else(|| bad("a cpio header with a field that is no number"))?;
        }
        let [_, mode, _, _, _, _, size, _, _, major, minor, name_size, _] = fields;
        let length = |n: u32| usize::try_from(n).ok();
        let name_end = length(name_size).filter(|n| (1..=PATH_MAX).contains(n)).map(|n| HEADER + n);
        let name = name_end.and_then(|end| rest.get(HEADER..end)).and_then(|n| n.strip_suffix(b"\0"));
        let (Some(name), Some(name_end)) = (name, name_end) else {
            return Err(bad("a cpio entry without a name"));
        };
        let start = name_end.next_multiple_of(ALIGN);
        let end = length(size).and_then(|n| start.checked_add(n));
        let data = end.and_then(|end| rest.get(start..end));
        let (Some(data), Some(end)) = (data, end) else { return Err(bad("a cpio entry cut short")) };
        // The last padding may be missing; nothing of value is lost with it.
        at = at.saturating_add(end.next_multiple_of(ALIGN)).min(bytes.len());
        if name == TRAILER.as_bytes() {
            return Ok(at);
        }
        if entries.len() >= MAX_ENTRIES {
            return Err(bad("too many entries"));
        }
        let kind = match mode & S_IFMT {
            S_IFREG => Kind::File,
            S_IFDIR => Kind::Directory,
            S_IFLNK => Kind::Symlink,
            S_IFCHR => Kind::CharDevice { major, minor },
            S_IFBLK => Kind::BlockDevice { major, minor },
            _ => Kind::Other,
        };
        let name = String::from_utf8_lossy(name);
        let name = name.strip_prefix('.').filter(|n| n.is_empty() || n.starts_with('/')).unwrap_or(&name);
        let path = format!("/{}", name.trim_start_matches('/'));
        entries.push(Entry { path, mode: mode & 0o7777, kind, data: data.to_vec() });
    }
}

fn hexadecimal(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0_u32, |value, digit| Some(value << 4 | char::from(*digit).to_digit(16)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Archive {
        let mut archive = Archive::default();
        archive.add("/init", 0o755, Kind::File, b"program".to_vec()).unwrap();
        archive.add("/lib/modules/00-x.ko", 0o644, Kind::File, vec![7; 5]).unwrap();
        archive.add("/dev/console", 0o600, Kind::CharDevice { major: 5, minor: 1 }, Vec::new()).unwrap();
        archive.add("/proc", 0o555, Kind::Directory, Vec::new()).unwrap();
        archive
    }

    #[test]
    fn what_is_written_is_read() {
        let archive = sample();
        let bytes = archive.to_bytes();
        let mut read_back = Vec::new();
        assert_eq!(read(&bytes, &mut read_back).unwrap(), bytes.len());
        assert_eq!(read_back, archive.entries().cloned().collect::<Vec<_>>());
        let paths: Vec<_> = read_back.iter().map(|e| e.path.as_str()).collect();
        assert_eq!(
            paths,
            ["/dev", "/dev/console", "/init", "/lib", "/lib/modules", "/lib/modules/00-x.ko", "/proc"]
        );
    }

    #[test]
    fn the_header_is_newc() {
        let mut archive = Archive::default();
        archive.add("/a", 0o644, Kind::File, b"xyz".to_vec()).unwrap();
        let bytes = archive.to_bytes();
        let expected = "070701\
            00000001000081a400000000000000000000000100000000000000030000000000000000000000000000000000000002\
            00000000a\0xyz\x00070701\
            00000000000000000000000000000000000000010000000000000000000000000000000000000000000000000000000b\
            00000000TRAILER!!!\0\0\0\0";
        assert_eq!(String::from_utf8_lossy(&bytes), expected);
    }

    #[test]
    fn bad_entries_are_refused() {
        for path in ["relative", "/", "/a//b", "/a/../b", "/a/.", "/nul\0", "", "/init/below"] {
            let mut archive = sample();
            assert!(archive.add(path, 0o644, Kind::File, Vec::new()).is_err(), "{path:?}");
        }
        assert!(sample().add("/init", 0o755, Kind::File, Vec::new()).is_err());
        assert!(sample().add("/lib", 0o755, Kind::File, Vec::new()).is_err());
        sample().add("/lib", 0o700, Kind::Directory, Vec::new()).unwrap();
        assert!(sample().add(&format!("/{}", "x".repeat(PATH_MAX)), 0o644, Kind::File, Vec::new()).is_err());
    }

    #[test]
    fn foreign_names_become_absolute() {
        for (name, path) in
            [("./etc/x", "/etc/x"), (".", "/"), ("x", "/x"), ("/x", "/x"), (".hidden", "/.hidden")]
        {
            let mut out = Vec::new();
            let entry = Entry { path: "/x".into(), mode: 0, kind: Kind::File, data: Vec::new() };
            write_entry(&mut out, 1, S_IFREG, &entry);
            // Replace the name.
            let size = format!("{:08x}", name.len() + 1);
            out.splice(6 + 11 * 8..6 + 12 * 8, size.bytes());
            out.truncate(HEADER);
            out.extend_from_slice(name.as_bytes());
            out.push(0);
            pad(&mut out);
            write_entry(&mut out, 0, 0, &Entry { path: format!("/{TRAILER}"), ..entry });
            let mut entries = Vec::new();
            read(&out, &mut entries).unwrap();
            assert_eq!(entries[0].path, path);
        }
    }

    #[test]
    fn damage_is_an_error_and_no_panic() {
        let bytes = sample().to_bytes();
        for end in 0..bytes.len() - 3 {
            let _ = read(&bytes[..end], &mut Vec::new());
        }
        assert!(read(&bytes[..HEADER - 1], &mut Vec::new()).is_err());
        for at in 0..bytes.len() {
            for value in [0, b'f', 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] = value;
                let _ = read(&damaged, &mut Vec::new());
            }
        }
    }

    proptest! {
        #[test]
        fn any_tree_survives_the_round_trip(
            files in proptest::collection::btree_map("(/[a-z]{1,8}){1,4}", proptest::collection::vec(any::<u8>(), 0..40), 0..12)
        ) {
            let mut archive = Archive::default();
            for (path, data) in files {
                // A path that is also another's directory is refused; that is another test's matter.
                let _ = archive.add(&path, 0o640, Kind::File, data);
            }
            let bytes = archive.to_bytes();
            prop_assert_eq!(bytes.len() % ALIGN, 0);
            let mut read_back = Vec::new();
            prop_assert_eq!(read(&bytes, &mut read_back).unwrap(), bytes.len());
            prop_assert_eq!(read_back, archive.entries().cloned().collect::<Vec<_>>());
        }

        #[test]
        fn noise_is_no_panic(noise in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut bytes = MAGIC.to_vec();
            bytes.extend(noise);
            let _ = read(&bytes, &mut Vec::new());
        }
    }
}

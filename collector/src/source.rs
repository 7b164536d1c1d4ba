//! Files as sources: mapped, and read where that cannot be.

use crate::addr::FileOffset;
use crate::sys::Mapping;
use crate::vmcore::{ReadAt, Window};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use std::fs::File;
use std::io::{self, Seek};
use std::ops::Deref;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// A file that is opened for reading.
///
/// /proc/vmcore is mapped in large windows: its bytes cannot change nor go away, and a read costs an ioremap per page.
/// Files on disks are mapped too, to save a copy, in windows that are small because their pages count as ours; one that is
/// truncated meanwhile reads as zeros from there on, and [`ReadAt::is_torn`] tells.
#[derive(Debug)]
pub struct FileSource {
    file: File,
    size: u64,
    /// It is /proc/vmcore.
    proc: bool,
    /// Windows are mappings. Turned off by the first one that fails.
    map: AtomicBool,
    /// A mapping turned out to have a hole.
    torn: AtomicBool,
}

/// Bytes of a window that is a mapping of /proc/vmcore: 128 KiB of page tables.
const MAPPED_WINDOW: usize = 64 << 20;

/// Bytes of a window that is a mapping of a file.
const FILE_WINDOW: usize = 2 << 20;

/// Bytes that are mapped to see whether it works.
const PROBE: usize = 4096;

/// Bytes of a window that is a copy.
const COPIED_WINDOW: usize = 1 << 20;

impl FileSource {
    /// Opens a file or a block device.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::new(File::open(path)?)
    }

    /// Takes an open file or block device.
    pub fn new(mut file: File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        // A block device has no st_size. /proc/vmcore has one (fs/proc/vmcore.c sets it).
        let size = if metadata.file_type().is_block_device() {
            file.seek(io::SeekFrom::End(0))?
        } else {
            metadata.len()
        };
        let proc = fstatfs(&file).is_ok_and(|fs| fs.filesystem_type() == PROC_SUPER_MAGIC);
        let source = Self { file, size, proc, map: AtomicBool::new(true), torn: AtomicBool::new(false) };
        source.probe();
        Ok(source)
    }

    /// Maps a little, to know before anybody asks for a window how large one may be. Kernels before 3.11 cannot map
    /// /proc/vmcore, some file systems no file.
    fn probe(&self) {
        let len = usize::try_from(self.size).unwrap_or(PROBE).min(PROBE);
        if len == 0 {
            self.map.store(false, Ordering::Relaxed);
        } else if let Err(e) = self.mapping(0, len) {
            log::info!("cannot map the vmcore ({e}): it is read instead");
            self.map.store(false, Ordering::Relaxed);
        }
    }

    fn mapping(&self, at: u64, len: usize) -> io::Result<Mapping> {
        if self.proc {
            Mapping::of_vmcore(&self.file, at, len)
        } else {
            Mapping::of_file(&self.file, at, len)
        }
    }

    fn check(&self, at: FileOffset, len: usize) -> io::Result<()> {
        let end = at.checked_add(len as u64).map(FileOffset::get);
        if end.is_some_and(|end| end <= self.size) {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }
}

impl ReadAt for FileSource {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, at: FileOffset, buf: &mut [u8]) -> io::Result<()> {
        self.check(at, buf.len())?;
        self.file.read_exact_at(buf, at.get())
    }

    fn window(&self, at: FileOffset, len: usize) -> io::Result<Window<'_>> {
        self.check(at, len)?;
        if self.map.load(Ordering::Relaxed) && len > 0 {
            match self.mapping(at.get(), len) {
                Ok(mapping) if self.proc => return Ok(Box::new(mapping)),
                Ok(mapping) => return Ok(Box::new(Lent { mapping, torn: &self.torn })),
                Err(e) => {
                    log::info!(
                        "cannot map {len} bytes of the vmcore at offset {at} ({e}): it is read instead"
                    );
                    self.map.store(false, Ordering::Relaxed);
                }
            }
        }
        // What was sized for a mapping would be a good part of a crash kernel's memory as a copy: ask again for less.
        if len > COPIED_WINDOW {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, at.get())?;
        Ok(Box::new(bytes))
    }

    fn window_len(&self) -> usize {
        match (self.map.load(Ordering::Relaxed), self.proc) {
            (false, _) => COPIED_WINDOW,
            (true, true) => MAPPED_WINDOW,
            (true, false) => FILE_WINDOW,
        }
    }

    fn maps(&self) -> bool {
        self.map.load(Ordering::Relaxed)
    }

    fn reads_cheaply(&self) -> bool {
        // The kernel maps each page of the dead one's memory for every read of it.
        !self.proc
    }

    fn expect(&self, at: FileOffset, len: u64) {
        // A fault on a file that is not cached brings in 128 KiB around it: thirty times what a lone page needs, and all of it
        // takes page cache.
        if !self.proc
            && let (Ok(at), Ok(len)) = (i64::try_from(at.get()), i64::try_from(len))
            && let Err(e) = posix_fadvise(&self.file, at, len, PosixFadviseAdvice::POSIX_FADV_WILLNEED)
        {
            log::debug!("posix_fadvise: {e}");
        }
    }

    fn is_torn(&self) -> bool {
        self.torn.load(Ordering::Relaxed)
    }
}

/// A window that tells when it is given back whether it was whole.
struct Lent<'a> {
    mapping: Mapping,
    torn: &'a AtomicBool,
}

impl Deref for Lent<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.mapping
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        if self.mapping.is_torn() {
            self.torn.store(true, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_file_is_read_and_never_past_its_end() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        let source = FileSource::new(file).unwrap();
        assert_eq!(source.size(), 10);
        assert!(source.maps());
        assert_eq!(&**source.window(FileOffset::new(3), 4).unwrap(), b"3456");
        for (at, len) in [(7, 4), (11, 0), (u64::MAX, 1)] {
            assert!(source.window(FileOffset::new(at), len).is_err(), "{at} + {len}");
            assert!(source.read_at(FileOffset::new(at), &mut vec![0; len]).is_err(), "{at} + {len}");
        }
    }

    #[test]
    fn a_file_that_is_cut_short_reads_as_zeros_and_tells() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 3 << 12]).unwrap();
        let other = file.try_clone().unwrap();
        let source = FileSource::new(file).unwrap();
        let window = source.window(FileOffset::new(0), 3 << 12).unwrap();
        assert_eq!(window[1 << 12], 7);
        other.set_len(1 << 12).unwrap();
        assert_eq!((window[0], window[1 << 12], window[(3 << 12) - 1]), (7, 0, 0));
        assert!(!source.is_torn(), "nobody can know while it is lent");
        drop(window);
        assert!(source.is_torn());
        // Another mapping of the same process is none the wiser.
        let whole = FileSource::open(Path::new("/proc/self/exe")).unwrap();
        assert_eq!(&whole.window(FileOffset::new(0), 4).unwrap()[..], b"\x7fELF");
        assert!(!whole.is_torn());
    }

    #[test]
    fn a_copy_is_never_as_large_as_a_mapping() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(MAPPED_WINDOW as u64).unwrap();
        let source = FileSource::new(file).unwrap();
        source.map.store(false, Ordering::Relaxed);
        assert!(source.window(FileOffset::new(0), COPIED_WINDOW + 1).is_err());
        assert_eq!(source.window(FileOffset::new(0), COPIED_WINDOW).unwrap().len(), COPIED_WINDOW);
    }

    #[test]
    fn a_file_of_proc_that_cannot_be_mapped_is_read() {
        // Of the same file system as /proc/vmcore, and mmap of it fails as an old kernel's does.
        let mut source = FileSource::open(Path::new("/proc/self/stat")).unwrap();
        assert_eq!(source.window_len(), COPIED_WINDOW);
        source.size = 8;
        source.map.store(true, Ordering::Relaxed);
        assert_eq!(source.window(FileOffset::new(0), 4).unwrap().len(), 4);
        assert_eq!(source.window_len(), COPIED_WINDOW);
    }

    #[test]
    fn a_directory_is_no_vmcore() {
        assert!(FileSource::open(Path::new("/proc")).is_err());
    }
}

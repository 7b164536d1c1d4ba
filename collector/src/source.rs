//! Files as sources: mapped where the file is the crash kernel's /proc/vmcore, read where it is a file on a disk.

use crate::addr::FileOffset;
use crate::sys::Mapping;
use crate::vmcore::{ReadAt, Window};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use std::fs::File;
use std::io::{self, Seek};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// A file that is opened for reading.
///
/// /proc/vmcore is mapped: its bytes cannot change nor go away, and a read costs an ioremap per page. Files on disks are
/// read: one that is truncated meanwhile must be an error, not a SIGBUS.
#[derive(Debug)]
pub struct FileSource {
    file: File,
    size: u64,
    /// Windows are mappings. Turned off by the first one that fails.
    map: AtomicBool,
}

/// Bytes of a window that is a mapping: 128 KiB of page tables.
const MAPPED_WINDOW: usize = 64 << 20;

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
        let source = Self { file, size, map: AtomicBool::new(proc) };
        if proc {
            source.probe();
        }
        Ok(source)
    }

    /// Maps a little, to know before anybody asks for a window how large one may be. Kernels before 3.11 cannot map
    /// /proc/vmcore.
    fn probe(&self) {
        let len = usize::try_from(self.size).unwrap_or(PROBE).min(PROBE);
        if let Err(e) = Mapping::of_vmcore(&self.file, 0, len) {
            log::info!("cannot map the vmcore ({e}): it is read instead");
            self.map.store(false, Ordering::Relaxed);
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
            match Mapping::of_vmcore(&self.file, at.get(), len) {
                Ok(mapping) => return Ok(Box::new(mapping)),
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
        if self.map.load(Ordering::Relaxed) { MAPPED_WINDOW } else { COPIED_WINDOW }
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
        assert_eq!(source.window_len(), COPIED_WINDOW);
        assert_eq!(&**source.window(FileOffset::new(3), 4).unwrap(), b"3456");
        for (at, len) in [(7, 4), (11, 0), (u64::MAX, 1)] {
            assert!(source.window(FileOffset::new(at), len).is_err(), "{at} + {len}");
            assert!(source.read_at(FileOffset::new(at), &mut vec![0; len]).is_err(), "{at} + {len}");
        }
    }

    #[test]
    fn a_copy_is_never_as_large_as_a_mapping() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(MAPPED_WINDOW as u64).unwrap();
        let source = FileSource::new(file).unwrap();
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

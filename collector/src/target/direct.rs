//! A dump in a file of a local disk, written past the page cache.
//!
//! What is written goes to the disk from buffers of our own, so that the page cache of a kernel with some tens of megabytes
//! has nothing to hold, and nothing to hold up. Room is asked for before it is written to: a full disk is told at once, and
//! large pieces lie together.

use super::blocks::{ALIGN, BLOCK, Block, Blocks, Disk, aligned};
use crate::format::DumpSink;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, OFlag, fallocate, fcntl};
use nix::sys::statfs::{self, FsType, fstatfs};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Bytes that are asked for at once.
const AHEAD: u64 = 16 << 20;

/// File systems on disks of which it is known that writing past the page cache is what it seems.
const KNOWN: [FsType; 3] = [statfs::EXT4_SUPER_MAGIC, statfs::XFS_SUPER_MAGIC, statfs::BTRFS_SUPER_MAGIC];

/// A file.
#[derive(Debug)]
struct DirectFile {
    file: File,
    room: Mutex<Room>,
    direct: AtomicBool,
}

/// Room on the disk.
#[derive(Debug)]
struct Room {
    /// What was asked for last.
    asked: Range<u64>,
    /// The file system takes such requests.
    answers: bool,
}

/// A [`DumpSink`] on a new file, if its file system is one that can be written so.
///
/// Gives the file back where it is not.
pub(super) fn sink(file: File) -> Result<Box<dyn DumpSink>, File> {
    let known = fstatfs(&file).is_ok_and(|stat| KNOWN.contains(&stat.filesystem_type()));
    if !known || set_direct(&file, true).is_err() {
        return Err(file);
    }
    let room = Mutex::new(Room { asked: 0..0, answers: true });
    Ok(Box::new(Blocks::new(DirectFile { file, room, direct: AtomicBool::new(true) })))
}

fn set_direct(file: &File, direct: bool) -> Result<(), Errno> {
    let flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?);
    let flags = if direct { flags | OFlag::O_DIRECT } else { flags & !OFlag::O_DIRECT };
    fcntl(file, FcntlArg::F_SETFL(flags)).map(drop)
}

impl DirectFile {
    /// Does what the disk may refuse to do directly: a file system says so only now where its blocks are larger than what
    /// we align to.
    fn or_through_the_cache(&self, work: impl Fn() -> io::Result<()>) -> io::Result<()> {
        match work() {
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) && self.direct.swap(false, Ordering::AcqRel) => {
                log::warn!("the target is written through the page cache: it refuses direct writes");
                set_direct(&self.file, false)?;
                work()
            }
            other => other,
        }
    }
}

impl Disk for DirectFile {
    const HEAD: usize = 0;

    fn allot(&self, index: u64) -> io::Result<()> {
        let block = u64::try_from(BLOCK).map_err(io::Error::other)?;
        let at = index.checked_mul(block).ok_or(io::ErrorKind::FileTooLarge)?;
        let mut room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        if !room.answers || room.asked.contains(&at) {
            return Ok(());
        }
        for len in [AHEAD, block] {
            let (Ok(from), Ok(size)) = (i64::try_from(at), i64::try_from(len)) else {
                return Err(io::ErrorKind::FileTooLarge.into());
            };
            // The length stays: it is what was written.
            match fallocate(&self.file, FallocateFlags::FALLOC_FL_KEEP_SIZE, from, size) {
                Ok(()) => {
                    room.asked = at..at.saturating_add(len);
                    return Ok(());
                }
                Err(Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EINVAL) => {
                    room.answers = false;
                    return Ok(());
                }
                // Less may still be there.
                Err(Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG) if len > block => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    fn read(&self, block: &mut Block) -> io::Result<()> {
        let len = u64::try_from(BLOCK).map_err(io::Error::other)?;
        let at = block.index.checked_mul(len).ok_or(io::ErrorKind::FileTooLarge)?;
        let mut done = 0;
        // The file may end in it.
        while done < BLOCK {
            let here = at.saturating_add(u64::try_from(done).unwrap_or(0));
            match self.file.read_at(block.buffer.part_mut(done..BLOCK), here)? {
                0 => break,
                n => done = done.saturating_add(n),
            }
            if !done.is_multiple_of(ALIGN) {
                break;
            }
        }
        block.used = done;
        Ok(())
    }

    fn write(&self, block: &mut Block) -> io::Result<()> {
        let len = u64::try_from(BLOCK).map_err(io::Error::other)?;
        let range = aligned(&block.dirty);
        let start = u64::try_from(range.start).map_err(io::Error::other)?;
        let at = block.index.checked_mul(len).and_then(|at| at.checked_add(start));
        let at = at.ok_or(io::ErrorKind::FileTooLarge)?;
        self.or_through_the_cache(|| self.file.write_all_at(block.buffer.part(range.clone()), at))
    }

    fn sync(&self, len: u64) -> io::Result<()> {
        // The last block was written whole, and more room was asked for than was needed.
        self.file.set_len(len)?;
        self.file.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::FileOffset;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn what_refuses_late_is_written_through_the_cache() {
        let file = tempfile::NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).unwrap().into_file();
        if set_direct(&file, true).is_err() {
            eprintln!("skipped: no file system here that is written directly");
            return;
        }
        let room = Mutex::new(Room { asked: 0..0, answers: true });
        let file = DirectFile { file, room, direct: AtomicBool::new(true) };
        // As a disk does whose blocks are larger.
        let write = |bytes: &[u8]| {
            let flags = OFlag::from_bits_retain(fcntl(&file.file, FcntlArg::F_GETFL).unwrap());
            if flags.contains(OFlag::O_DIRECT) {
                return Err(io::Error::from_raw_os_error(libc::EINVAL));
            }
            file.file.write_all_at(bytes, 0)
        };
        file.or_through_the_cache(|| write(b"odd")).unwrap();
        assert_eq!(file.file.metadata().unwrap().len(), 3);
        // Once only: an EINVAL of another kind is told.
        let refuse = || Err(io::Error::from_raw_os_error(libc::EINVAL));
        assert!(file.or_through_the_cache(refuse).is_err());
    }

    #[test]
    fn what_is_no_disk_is_left_to_the_cache() {
        // A file system in memory, or none of those that are known.
        let Ok(file) = tempfile::tempfile_in("/dev/shm") else { return };
        assert!(sink(file).is_err());
    }

    #[test]
    fn any_order_and_any_length() {
        let file = tempfile::NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let Ok(sink) = sink(file.reopen().unwrap()) else {
            eprintln!("skipped: no file system here that is written directly");
            return;
        };
        let mut expected = vec![0; 9_000_123];
        for (at, len, byte) in
            [(5_000_000, 4_000_123, 1), (0, 10, 2), (1_048_570, 12, 3), (3_000_000, 4096, 4), (4, 3, 5)]
        {
            sink.write_at(FileOffset::new(at), &vec![byte; len]).unwrap();
            let at = usize::try_from(at).unwrap();
            expected[at..at + len].fill(byte);
        }
        sink.finish().unwrap();
        assert!(std::fs::read(file.path()).unwrap() == expected);
        let taken = file.as_file().metadata().unwrap().blocks() * 512;
        assert!(taken < 24 << 20, "{taken} bytes are taken");
        // It goes on where it was.
        sink.write_at(FileOffset::new(2), b"end").unwrap();
        sink.finish().unwrap();
        assert_eq!(&std::fs::read(file.path()).unwrap()[..6], [2, 2, b'e', b'n', b'd', 5]);
    }
}

//! A dump in a file, written through a page cache that is kept small.
//!
//! The crash kernel has some tens of megabytes. Left alone, the kernel would let a good part of them fill with
//! dirty pages of the dump and then stall everything to write them. So write-back is started as the dump goes,
//! and pages that are on the disk are given back at once.

use super::TargetError;
use super::directory::DumpDirectory;
use crate::addr::FileOffset;
use crate::format::DumpSink;
use crate::sys;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

/// A [`DumpSink`] on a new file.
#[derive(Debug)]
pub struct FileSink {
    file: File,
    dirty: Mutex<Dirty>,
}

/// What is not yet on the disk.
#[derive(Debug, Default)]
struct Dirty {
    fresh: Fresh,
    /// What is being written back.
    under_way: Option<Range<u64>>,
}

/// What was written since write-back was last started.
#[derive(Debug, Default)]
struct Fresh {
    /// All of it, as one range.
    range: Option<Range<u64>>,
    bytes: u64,
}

impl Fresh {
    /// Adds what was just written; true when it is time to start write-back.
    fn add(&mut self, at: Range<u64>) -> bool {
        self.bytes = self.bytes.saturating_add(at.end.saturating_sub(at.start));
        self.range = Some(match self.range.take() {
            Some(range) => range.start.min(at.start)..range.end.max(at.end),
            None => at,
        });
        self.bytes >= FileSink::WINDOW
    }

    /// Starts write-back of it.
    fn start(&mut self, file: &File) -> io::Result<Option<Range<u64>>> {
        let range = std::mem::take(self).range;
        if let Some(range) = &range {
            sys::start_write_back(file, range.start, range.end.saturating_sub(range.start))?;
        }
        Ok(range)
    }
}

/// Has the disk work while a file is being written whose end somebody will wait for. Unlike [`FileSink`] it never waits,
/// and leaves the page cache alone.
#[derive(Debug, Default)]
pub struct WriteAhead {
    fresh: Mutex<Fresh>,
}

impl WriteAhead {
    /// Is told of each piece that was written.
    pub fn wrote(&self, file: &File, at: Range<u64>) {
        let mut fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        if fresh.add(at)
            && let Err(e) = fresh.start(file)
        {
            // A pipe or a device has nothing to write back; what matters is told when the file is synced.
            log::debug!("sync_file_range: {e}");
        }
    }
}

impl FileSink {
    /// Bytes between two starts of write-back. At most twice as much is dirty at any time.
    pub const WINDOW: u64 = 2 << 20;

    /// Makes the file `name`; it must not exist.
    pub fn create(directory: &DumpDirectory, name: &str) -> Result<Self, TargetError> {
        Ok(Self::on(directory.create_file(name)?))
    }

    /// Writes to an open file.
    pub fn on(file: File) -> Self {
        Self { file, dirty: Mutex::default() }
    }

    /// Starts to write back what is fresh, and waits for what was under way: the disk works while the next
    /// window is filled.
    fn turn_over(&self, dirty: &mut Dirty) -> io::Result<()> {
        let fresh = dirty.fresh.start(&self.file)?;
        if let Some(range) = std::mem::replace(&mut dirty.under_way, fresh) {
            sys::sync_file_range(&self.file, range.start, range.end - range.start)?;
            self.forget(&range);
        }
        Ok(())
    }

    /// Gives the pages of a written range back. Only advice: a failure costs memory, not the dump.
    fn forget(&self, range: &Range<u64>) {
        let (Ok(at), Ok(len)) = (i64::try_from(range.start), i64::try_from(range.end - range.start)) else {
            return;
        };
        if let Err(e) = posix_fadvise(&self.file, at, len, PosixFadviseAdvice::POSIX_FADV_DONTNEED) {
            log::debug!("posix_fadvise: {e}");
        }
    }
}

impl DumpSink for FileSink {
    fn write_at(&self, at: FileOffset, bytes: &[u8]) -> io::Result<()> {
        let len = u64::try_from(bytes.len()).map_err(io::Error::other)?;
        let end = at.get().checked_add(len).ok_or(io::ErrorKind::FileTooLarge)?;
        self.file.write_all_at(bytes, at.get())?;
        let mut dirty = self.dirty.lock().unwrap_or_else(PoisonError::into_inner);
        if dirty.fresh.add(at.get()..end) { self.turn_over(&mut dirty) } else { Ok(()) }
    }

    fn finish(&self) -> io::Result<()> {
        self.file.sync_all()?;
        *self.dirty.lock().unwrap_or_else(PoisonError::into_inner) = Dirty::default();
        self.forget(&(0..self.file.metadata()?.len()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::process::Command;

    /// A tmpfs of some KiB, where root may mount one.
    struct Small(tempfile::TempDir);

    impl Small {
        fn new(kib: u32) -> Option<Self> {
            let dir = tempfile::tempdir().unwrap();
            let options = format!("size={kib}k");
            let flags = nix::mount::MsFlags::empty();
            match nix::mount::mount(Some("tmpfs"), dir.path(), Some("tmpfs"), flags, Some(options.as_str())) {
                Ok(()) => Some(Self(dir)),
                Err(e) => {
                    assert!(std::env::var_os("CI").is_none_or(|v| v != "true"), "cannot mount a tmpfs: {e}");
                    eprintln!("skipped: cannot mount a tmpfs: {e}");
                    None
                }
            }
        }
    }

    impl Drop for Small {
        fn drop(&mut self) {
            // Lazily: a child that another test forks holds it open for as long as it lives.
            nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
        }
    }

    #[test]
    fn write_back_starts_when_enough_is_fresh() {
        let mut fresh = Fresh::default();
        let file = tempfile::tempfile().unwrap();
        assert!(!fresh.add(5000..5000 + FileSink::WINDOW - 1));
        assert!(fresh.add(10..11), "bytes count, not the range that they span");
        assert_eq!(fresh.start(&file).unwrap(), Some(10..5000 + FileSink::WINDOW - 1));
        assert_eq!(fresh.start(&file).unwrap(), None);
        assert!(!fresh.add(0..1));
        // What has nothing to write back does not mind.
        let ahead = WriteAhead::default();
        let null = File::options().write(true).open("/dev/null").unwrap();
        for at in [0, 1, 2] {
            ahead.wrote(&null, at * FileSink::WINDOW..(at + 1) * FileSink::WINDOW);
        }
        assert_eq!(ahead.fresh.into_inner().unwrap().bytes, 0);
    }

    #[test]
    fn any_order_and_gaps() {
        let sink = FileSink::on(tempfile::tempfile().unwrap());
        let big = vec![7; usize::try_from(FileSink::WINDOW).unwrap()];
        for (at, bytes) in [(10_000_000, b"end".as_slice()), (5, b"five"), (4096, &big), (0, b"zero")] {
            sink.write_at(FileOffset::new(at), bytes).unwrap();
        }
        sink.finish().unwrap();
        let mut all = Vec::new();
        let mut file = &sink.file;
        std::io::Seek::rewind(&mut file).unwrap();
        file.read_to_end(&mut all).unwrap();
        assert_eq!(all.len(), 10_000_003);
        assert_eq!(&all[..10], b"zero\0five\0"[..10].as_ref());
        assert!(all[4096..4096 + big.len()].iter().all(|b| *b == 7));
        assert!(all[4096 + big.len()..10_000_000].iter().all(|b| *b == 0));
    }

    #[test]
    fn a_position_past_the_end_of_the_world_is_an_error() {
        let sink = FileSink::on(tempfile::tempfile().unwrap());
        let error = sink.write_at(FileOffset::new(u64::MAX - 1), b"xyz").unwrap_err();
        assert!(super::super::is_full(&error), "{error}");
    }

    #[test]
    fn a_full_disk_is_told_and_keeps_what_it_has() {
        let Some(small) = Small::new(1024) else { return };
        let dir = DumpDirectory::create(small.0.path(), "/", "h").unwrap();
        let sink = FileSink::create(&dir, "vmcore-incomplete").unwrap();
        let block = [1; 64 << 10];
        let mut at = 0;
        let error = loop {
            match sink.write_at(FileOffset::new(at), &block) {
                Ok(()) => at += 64 << 10,
                Err(e) => break e,
            }
        };
        assert!(super::super::is_full(&error), "{error}");
        sink.finish().unwrap();
        assert!(std::fs::metadata(small.0.path().join("h/vmcore-incomplete")).unwrap().len() >= at);
        assert!(at >= 512 << 10);
    }

    /// What is dirty or cached stays small while much is written. The cache's share is told by fincore(1).
    #[test]
    fn the_page_cache_stays_small() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let made = DumpDirectory::create(dir.path(), "/", "h").unwrap();
        let sink = FileSink::create(&made, "x").unwrap();
        for n in 0..48 {
            sink.write_at(FileOffset::new(n << 20), &[1; 1 << 20]).unwrap();
        }
        let path = dir.path().join("h/x");
        let Ok(out) = Command::new("fincore").args(["-b", "-n", "-o", "RES"]).arg(&path).output() else {
            eprintln!("skipped: no fincore");
            return;
        };
        let cached: u64 = String::from_utf8(out.stdout).unwrap().trim().parse().unwrap();
        assert!(cached <= 3 * FileSink::WINDOW, "{cached} bytes are cached");
    }
}

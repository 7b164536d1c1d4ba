//! The vmcore byte for byte.

use super::{DumpSink, SinkFailure, Written};
use crate::addr::{FileOffset, PageSize};
use crate::filter::Account;
use crate::manifest::Stage;
use crate::problem::{Code, Problems};
use crate::progress::Progress;
use crate::vmcore::{Image, ReadAt, Vmcore};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Bytes that are written at a time, and between two reports of progress.
const PIECE: usize = 1 << 20;

/// Bytes that a thread takes at a time.
const UNIT: u64 = 4 << 20;

/// Copies the vmcore, on as many threads as asked for. What cannot be read becomes zeros and a problem; its pages count as
/// `unreadable`.
pub fn write(
    vmcore: &Vmcore<'_>,
    name: &str,
    threads: usize,
    sink: &dyn DumpSink,
    progress: &dyn Progress,
    problems: &mut Problems,
) -> Result<Written, SinkFailure> {
    let source = match (vmcore.image(), vmcore.source().file()) {
        (None, _) => vmcore.source(),
        (Some(_), Some(file)) => file,
        (Some(_), None) => {
            let source =
                io::Error::other("a split dump is several files, and not one to be copied byte for byte");
            return Err(SinkFailure {
                source,
                written: Written { bytes: 0, account: account(vmcore, 0, &[]) },
            });
        }
    };
    let total = source.size();
    let copy = Copy {
        source,
        page: vmcore.page_size(),
        name,
        sink,
        total,
        next: AtomicU64::new(0),
        done: AtomicU64::new(0),
        failed: Mutex::default(),
        lost: Mutex::default(),
        problems: Mutex::new(problems),
    };
    let report = |done: u64| progress.update(Stage::Dump, &format!("writing {name}"), done, total, done);
    // A pipe gets its bytes from front to back.
    let threads = if sink.is_stream() { 1 } else { threads };
    let outcome = std::thread::scope(|scope| {
        let mut others = Vec::new();
        for _ in 1..threads {
            let thread = std::thread::Builder::new().name("dump".to_owned());
            match thread.spawn_scoped(scope, || copy.run(&|_| ())) {
                Ok(handle) => others.push(handle),
                Err(_) => break,
            }
        }
        let mut outcome = copy.run(&report);
        for other in others {
            let theirs =
                other.join().unwrap_or_else(|_| Err(io::Error::other("a thread of the dump panicked")));
            outcome = outcome.and(theirs);
        }
        outcome
    });
    let mut lost = copy.lost.into_inner().unwrap_or_else(PoisonError::into_inner);
    lost.sort_unstable();
    // A gap at the end would leave the file short.
    let outcome = outcome.and_then(|()| match total.checked_sub(1) {
        Some(last) if lost.iter().any(|(_, end)| *end == total) => sink.write_at(FileOffset::new(last), &[0]),
        _ => Ok(()),
    });
    let end = copy.failed.into_inner().unwrap_or_else(PoisonError::into_inner).unwrap_or(total);
    let written = Written { bytes: end, account: account(vmcore, end, &lost) };
    match outcome {
        Ok(()) => Ok(written),
        Err(source) => Err(SinkFailure { source, written }),
    }
}

/// A copy under way, shared by its threads.
struct Copy<'c, 'p> {
    source: &'c dyn ReadAt,
    page: PageSize,
    name: &'c str,
    sink: &'c dyn DumpSink,
    total: u64,
    /// The next unit.
    next: AtomicU64,
    /// Bytes copied.
    done: AtomicU64,
    /// The first byte that was not written.
    failed: Mutex<Option<u64>>,
    /// What could not be read.
    lost: Mutex<Vec<(u64, u64)>>,
    problems: Mutex<&'p mut Problems>,
}

impl Copy<'_, '_> {
    fn run(&self, report: &dyn Fn(u64)) -> io::Result<()> {
        loop {
            let mut at = self.next.fetch_add(UNIT, Ordering::Relaxed);
            if at >= self.total || self.failed.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
                return Ok(());
            }
            let end = at.saturating_add(UNIT).min(self.total);
            if let Err(e) = self.unit(&mut at, end, report) {
                let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
                *failed = Some(failed.map_or(at, |before| before.min(at)));
                return Err(e);
            }
        }
    }

    fn unit(&self, at: &mut u64, end: u64, report: &dyn Fn(u64)) -> io::Result<()> {
        let source = self.source;
        while *at < end {
            let left = usize::try_from(end - *at).unwrap_or(usize::MAX);
            match source.window(FileOffset::new(*at), left.min(source.window_len())) {
                Ok(window) => {
                    for piece in window.chunks(PIECE) {
                        self.sink.write_at(FileOffset::new(*at), piece)?;
                        *at = at.saturating_add(piece.len() as u64);
                        let done = self.done.fetch_add(piece.len() as u64, Ordering::Relaxed);
                        report(done.saturating_add(piece.len() as u64).min(self.total));
                    }
                }
                // Again in small pieces, so that the loss is no larger than it is.
                Err(_) => self.salvage(at, end.min(at.saturating_add(PIECE as u64)))?,
            }
        }
        Ok(())
    }

    /// Copies `[at, end)` page by page, and notes what cannot be read.
    fn salvage(&self, at: &mut u64, end: u64) -> io::Result<()> {
        let mut page = vec![0; self.page.len()];
        while *at < end {
            let len = usize::try_from(end - *at).unwrap_or(usize::MAX).min(page.len());
            let Some(buf) = page.get_mut(..len) else { break };
            let stop = at.saturating_add(len as u64);
            match self.source.read_at(FileOffset::new(*at), buf) {
                Ok(()) => self.sink.write_at(FileOffset::new(*at), buf)?,
                Err(e) => {
                    let name = self.name;
                    self.problems.lock().unwrap_or_else(PoisonError::into_inner).push(
                        Code::PAGE_UNREADABLE,
                        format!("{name}: {len} bytes at offset {at:#x} of the vmcore could not be read and are zeros: {e}"),
                    );
                    let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
                    match lost.last_mut() {
                        Some((_, last)) if *last == *at => *last = stop,
                        _ => lost.push((*at, stop)),
                    }
                }
            }
            *at = stop;
        }
        Ok(())
    }
}

/// Counts pages by where their bytes lie in the file. On a failed copy pages past `end` are unwritten.
fn account(vmcore: &Vmcore<'_>, end: u64, lost: &[(u64, u64)]) -> Account {
    if let Some(image) = vmcore.image() {
        return account_of_image(vmcore, image, end, lost);
    }
    let page = vmcore.page_size();
    let mut account = Account::default();
    let mut next_pfn = 0;
    let mut segments: Vec<_> = vmcore.segments().iter().filter(|s| s.file_len > 0).collect();
    segments.sort_by_key(|s| s.start.get());
    for segment in segments {
        // Pages of overlapping segments count once.
        let first = page.pfn_of(segment.start).get().max(next_pfn);
        let Some(stop) = segment.start.checked_add(segment.file_len).map(|s| page.pfn_ceil(s).get()) else {
            continue;
        };
        if stop <= first {
            continue;
        }
        next_pfn = stop;
        let pages = stop - first;
        account.present = account.present.saturating_add(pages);
        // The page that holds a byte of the file: its distance from the segment's first page.
        let base = page.pfn_of(segment.start).get();
        let in_page = segment.start.get() & (page.bytes() - 1);
        let pfn_at = |offset: u64, up: bool| {
            let within = offset.saturating_sub(segment.offset.get()).saturating_add(in_page);
            let pages = if up { within.div_ceil(page.bytes()) } else { within >> page.shift() };
            base.saturating_add(pages).clamp(first, stop)
        };
        let written = pfn_at(end, false);
        let written =
            if end >= segment.offset.get().saturating_add(segment.file_len) { stop } else { written };
        account.unwritten = account.unwritten.saturating_add(stop - written);
        let file_end = segment.offset.get().saturating_add(segment.file_len);
        for (from, to) in lost {
            if *to <= segment.offset.get() || *from >= file_end {
                continue;
            }
            let (from, to) = (pfn_at(*from, false), pfn_at(*to, true).min(written));
            account.unreadable = account.unreadable.saturating_add(to.saturating_sub(from));
        }
    }
    // Two losses may touch one page.
    account.unreadable = account.unreadable.min(account.present.saturating_sub(account.unwritten));
    account.kept = account.present.saturating_sub(account.unwritten).saturating_sub(account.unreadable);
    account
}

/// A dump that is copied whole keeps its pages; which of them a loss has hit its reader will see.
fn account_of_image(vmcore: &Vmcore<'_>, image: &Image, end: u64, lost: &[(u64, u64)]) -> Account {
    let pages = image.dumped.count();
    let whole = vmcore.source().file().is_some_and(|file| file.size() == end);
    let mut account = Account { earlier: image.present.beyond(&image.dumped), ..Account::default() };
    let fate = match (whole, lost.is_empty()) {
        (false, _) => &mut account.unwritten,
        (true, true) => &mut account.kept,
        (true, false) => &mut account.unreadable,
    };
    *fate = pages;
    account.present = pages.saturating_add(account.earlier);
    account
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::testing::{Sink, through};
    use crate::progress::Silent;
    use crate::vmcore::{ReadAt, Window};

    /// A file of which one stretch cannot be read.
    struct Torn(Vec<u8>, std::ops::Range<u64>);

    impl ReadAt for Torn {
        fn size(&self) -> u64 {
            self.0.len() as u64
        }
        fn read_at(&self, at: FileOffset, buf: &mut [u8]) -> io::Result<()> {
            let end = at.get() + buf.len() as u64;
            if at.get() < self.1.end && end > self.1.start {
                return Err(io::ErrorKind::Other.into());
            }
            self.0.read_at(at, buf)
        }
        fn window(&self, at: FileOffset, len: usize) -> io::Result<Window<'_>> {
            let mut bytes = vec![0; len];
            self.read_at(at, &mut bytes)?;
            Ok(Box::new(bytes))
        }
        fn window_len(&self) -> usize {
            64 << 10
        }
    }

    /// 64 pages at physical 0 behind one page of headers.
    fn vmcore() -> Vec<u8> {
        let mut file =
            vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 62, 0, 1, 0, 0, 0];
        file.extend_from_slice(&[0; 8]);
        file.extend_from_slice(&64_u64.to_le_bytes());
        file.extend_from_slice(&[0; 12]);
        file.extend([64_u16, 56, 1, 0, 0, 0].iter().flat_map(|v| v.to_le_bytes()));
        file.extend([1, 0, 0, 0, 7, 0, 0, 0]);
        file.extend([4096_u64, 0, 0, 64 * 4096, 64 * 4096, 0].iter().flat_map(|v| v.to_le_bytes()));
        file.resize(4096, 0);
        file.extend((0..64_u8).flat_map(|n| vec![n + 1; 4096]));
        file
    }

    fn copy_of(
        source: &dyn ReadAt,
        threads: usize,
        sink: &mut Sink,
    ) -> (Result<(), io::ErrorKind>, Written, usize) {
        let mut problems = Problems::new();
        let vmcore = Vmcore::open(source, &mut problems).unwrap();
        let known = problems.list().len();
        let outcome = through(sink, |sink| write(&vmcore, "vmcore", threads, sink, &Silent, &mut problems));
        let (outcome, written) = match outcome {
            Ok(written) => (Ok(()), written),
            Err(e) => (Err(e.source.kind()), e.written),
        };
        assert!(written.account.balanced(), "{:?}", written.account);
        (outcome, written, problems.list().len() - known)
    }

    #[test]
    fn a_copy_is_a_copy() {
        let file = vmcore();
        let mut sink = Sink::default();
        let (outcome, written, problems) = copy_of(&file, 3, &mut sink);
        assert_eq!((outcome, problems), (Ok(()), 0));
        assert!(sink.bytes == file);
        assert_eq!(
            (written.account.present, written.account.kept, written.bytes),
            (64, 64, file.len() as u64)
        );
    }

    #[test]
    fn what_cannot_be_read_is_zeros_and_no_more_than_that() {
        // In the middle of page 10 to the middle of page 11; the last page.
        for (range, lost) in [((4096 * 11 + 5)..(4096 * 12 + 5), 2), ((4096 * 64)..(4096 * 65), 1)] {
            let file = vmcore();
            let torn = Torn(file.clone(), range.clone());
            let mut sink = Sink::default();
            let (outcome, written, problems) = copy_of(&torn, 2, &mut sink);
            assert_eq!(outcome, Ok(()));
            assert!(problems > 0);
            assert_eq!(sink.bytes.len(), file.len());
            assert_eq!((written.account.unreadable, written.account.kept), (lost, 64 - lost));
            let differ = sink.bytes.iter().zip(&file).filter(|(a, b)| a != b).count() as u64;
            assert_eq!(differ, lost * 4096);
        }
    }

    #[test]
    fn a_full_disk_is_counted() {
        let file = vmcore();
        let mut sink = Sink::with_room(4096 * 33);
        let (outcome, written, _) = copy_of(&Torn(file, 0..0), 1, &mut sink);
        assert_eq!(outcome, Err(io::ErrorKind::StorageFull));
        // Two windows of 16 pages were written whole, one page of them headers.
        assert_eq!((written.account.kept, written.account.unwritten), (31, 33));
    }
}

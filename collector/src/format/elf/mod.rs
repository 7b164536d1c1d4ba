//! Writes an ELF core, as makedumpfile's `-E`: each PT_LOAD of the vmcore becomes one or more, cut where at least
//! 256 pages in a row are left out; shorter stretches are written along, whatever the filter says of them.
//!
//! ```text
//! file header, program headers, [section header 0 when there are 0xffff or more program headers], notes, memory
//! ```
//!
//! `p_memsz` of a piece reaches to the next piece, `p_filesz` to the end of its last kept page: readers take the rest for
//! zeros. Where every byte goes is known before the first is written, so threads copy units of memory in any order, and a
//! pipe gets them from front to back. Memory is a copy of the bitmap, for level bit 1, and a window of the source for each
//! thread.

mod copy;
mod head;
mod pieces;

use super::batch::{Batch, Batches};
use super::codec::lz4::Lz4;
use super::stream::{Onward, Plain};
use super::{DumpSink, Job, PageReader, SinkFailure, Written, is_zero};
use crate::addr::{FileOffset, Pfn};
use crate::filter::{Account, Bitmap, Level};
use crate::manifest::Stage;
use crate::problem::Problems;
use crate::vmcore::Vmcore;
use copy::{Shared, Units};
use head::{Head, INCOMPLETE};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Writes a dump. See [`super::kdump::write`] about a failing sink. `erased`: the record of what was erased, as text.
pub fn write(
    job: &Job<'_>,
    vmcore: &Vmcore<'_>,
    erased: &[u8],
    sink: &dyn DumpSink,
    problems: &mut Problems,
) -> Result<Written, SinkFailure> {
    let selection = job.selection;
    let mut account = Account { kept: 0, zero: 0, unreadable: 0, unwritten: 0, ..selection.account };
    account.present = selection.present.count();
    let mut without_zeros = None;
    if selection.level.has(Level::ZERO) {
        let (keep, zeros) = drop_zeros(job);
        account.zero = zeros;
        without_zeros = Some(keep);
    }
    let keep = without_zeros.as_ref().unwrap_or(&selection.keep);
    let total = keep.count();
    let page = job.pages.page_size().bytes();
    let begun =
        Head::new(vmcore, keep, page, erased).ok_or(io::ErrorKind::FileTooLarge.into()).and_then(|head| {
            let flags = if sink.is_stream() { 0 } else { INCOMPLETE };
            let end = head.write(vmcore, keep, page, flags, sink)?;
            Ok((head, end))
        });
    let (head, end) = match begun {
        Ok(begun) => begun,
        Err(source) => {
            account.unwritten = total;
            return Err(SinkFailure { source, written: Written { bytes: 0, account } });
        }
    };
    let shared = Shared {
        segments: vmcore.segments(),
        pages: job.pages,
        keep,
        name: job.name,
        sink,
        units: Mutex::new(Units::new(vmcore.segments(), page, keep, head.data_at)),
        problems: Mutex::new(problems),
        bytes: AtomicU64::new(0),
        end: AtomicU64::new(head.data_at),
        lost: Mutex::default(),
        failed: Mutex::default(),
        stop: AtomicBool::new(false),
    };
    let cut_off = vmcore.cut_off().is_some();
    let outcome = run(job, &shared, total).and_then(|()| end_with(&shared, &head, end, cut_off, sink));
    account.unreadable = shared.count_lost();
    let reached = shared.count_reached();
    account.kept = reached.saturating_sub(account.unreadable);
    account.unwritten = total.saturating_sub(reached);
    let written = Written { bytes: shared.end.load(Ordering::Relaxed), account };
    match outcome {
        Ok(()) => Ok(written),
        Err(source) => Err(SinkFailure { source, written }),
    }
}

/// Writes a dump as one LZ4 frame, which `lz4 -d` turns into what [`fn@write`] writes. A frame without its end is incomplete.
pub fn write_lz4(
    job: &Job<'_>,
    vmcore: &Vmcore<'_>,
    erased: &[u8],
    sink: &dyn DumpSink,
    problems: &mut Problems,
) -> Result<Written, SinkFailure> {
    let stream = Plain::new(Lz4::new(Onward::new(sink)));
    let written = write(job, vmcore, erased, &stream, problems)?;
    match stream.into_inner().finish() {
        Ok(onward) => Ok(Written { bytes: onward.written(), ..written }),
        Err(source) => Err(SinkFailure { source, written }),
    }
}

fn run(job: &Job<'_>, shared: &Shared<'_, '_>, total: u64) -> io::Result<()> {
    let page = job.pages.page_size().bytes();
    let report = |bytes: u64| job.report((bytes / page).min(total), total, bytes);
    // Threads do not help a pipe.
    let threads = if shared.sink.is_stream() { 1 } else { job.threads };
    let outcome = std::thread::scope(|scope| {
        let mut others = Vec::new();
        for _ in 1..threads {
            let thread = std::thread::Builder::new().name("dump".to_owned());
            match thread.spawn_scoped(scope, || shared.run(&|_| ())) {
                Ok(handle) => others.push(handle),
                Err(_) => break,
            }
        }
        let mut outcome = shared.run(&report);
        for other in others {
            let theirs =
                other.join().unwrap_or_else(|_| Err(io::Error::other("a thread of the dump panicked")));
            outcome = outcome.and(theirs);
        }
        outcome
    });
    job.report(total, total, shared.end.load(Ordering::Relaxed));
    outcome
}

/// What a source lacks at the very end would leave the file short; and the header says that all is there.
fn end_with(
    shared: &Shared<'_, '_>,
    head: &Head,
    end: u64,
    cut_off: bool,
    sink: &dyn DumpSink,
) -> io::Result<()> {
    if shared.end.load(Ordering::Relaxed) < end {
        sink.write_at(FileOffset::new(end - 1), &[0])?;
        shared.end.store(end, Ordering::Relaxed);
    }
    let lost = cut_off || !shared.lost.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
    if sink.is_stream() && !lost {
        return Ok(());
    }
    match sink.write_at(FileOffset::new(0), &head.file_header(if lost { INCOMPLETE } else { 0 })) {
        // Into a plain pipe nothing can be added to what has left: the exit status tells.
        Err(e) if e.kind() == io::ErrorKind::NotSeekable => Ok(()),
        other => other,
    }
}

/// The kept pages that are not all zero, and how many are. A page that cannot be read is left for the writing pass to tell of.
fn drop_zeros(job: &Job<'_>) -> (Bitmap, u64) {
    let from = &job.selection.keep;
    let (pages, total) = (job.pages, from.count());
    let keep = Mutex::new((from.clone(), 0_u64));
    let done = AtomicU64::new(0);
    let batches = Batches::new(from.runs());
    let work = |report: &dyn Fn(u64)| {
        let mut reader = PageReader::new(pages);
        let mut batch = Batch::default();
        let mut zeros: Vec<(u64, u64)> = Vec::new();
        while batches.next(&mut batch) {
            let mut looked = 0_u64;
            for &(start, end) in &batch.runs {
                for pfn in start.get()..end.get() {
                    if reader.read(Pfn::new(pfn), end).is_ok_and(is_zero) {
                        match zeros.last_mut() {
                            Some((_, last)) if *last == pfn => *last = pfn.saturating_add(1),
                            _ => zeros.push((pfn, pfn.saturating_add(1))),
                        }
                    }
                }
                looked = looked.saturating_add(end.get().saturating_sub(start.get()));
            }
            if !zeros.is_empty() {
                let mut keep = keep.lock().unwrap_or_else(PoisonError::into_inner);
                for (start, end) in zeros.drain(..) {
                    let cleared = keep.0.clear_range(Pfn::new(start), Pfn::new(end));
                    keep.1 = keep.1.saturating_add(cleared);
                }
            }
            report(done.fetch_add(looked, Ordering::Relaxed).saturating_add(looked));
        }
    };
    let report =
        |done: u64| job.progress.update(Stage::Dump, "looking for zero pages", done.min(total), total, 0);
    std::thread::scope(|scope| {
        for _ in 1..job.threads {
            let thread = std::thread::Builder::new().name("zeros".to_owned());
            if thread.spawn_scoped(scope, || work(&|_| ())).is_err() {
                break;
            }
        }
        work(&report);
    });
    keep.into_inner().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;

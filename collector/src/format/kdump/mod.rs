//! Writes kdump-compressed, version 6 (see [`super::layout`]).
//!
//! ```text
//! kept pages -> batches -+-> worker: read, compress, gather -+-> place: data anywhere, descriptors where they belong
//!                        +-> worker                         -+
//! ```
//!
//! A file is valid at every moment: the header says *incomplete* until the last byte is written, and the table of
//! descriptors is there, all zeros (= missing), before the first page. Page data may lie in any order, so no thread waits
//! for another. A stream (a pipe, the flattened format) gets everything once: the header says *incomplete* only when pages
//! turned out to be, and who reads it knows by its missing end when it was cut. Memory is a buffer of data and one of
//! descriptors for each thread, whatever the machine's RAM; a stream holds 1 MiB of descriptors more.

mod head;
mod place;
mod worker;

use super::batch::Batches;
use super::layout::Flags;
use super::{DumpSink, Job, SinkFailure, Written};
use crate::addr::{FileOffset, Pfn};
use crate::filter::{Account, Level};
use crate::plan::Compression;
use crate::problem::Problems;
use crate::vmcore::Endian;
use head::Geometry;
use place::Place;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use worker::{Shared, Worker};

/// What the headers say of the crashed kernel.
#[derive(Clone, Debug)]
pub struct About<'a> {
    /// Byte order of the crashed kernel, and so of the dump.
    pub endian: Endian,
    /// sysname, nodename, release, version, machine, domainname, NUL-padded.
    pub utsname: [[u8; 65]; 6],
    /// Seconds since 1970; 0 when unknown.
    pub crash_time: u64,
    /// See [`super::layout::KdumpSubHeader::phys_base`].
    pub phys_base: u64,
    /// CPUs with an NT_PRSTATUS note.
    pub cpus: usize,
    /// All notes, as in the vmcore.
    pub notes: &'a [u8],
    /// VMCOREINFO's text within them.
    pub vmcoreinfo: Range<usize>,
    /// Record of what was erased, as text; empty when nothing was.
    pub erased: &'a [u8],
    /// A part of mem_map was left out, now or before: crash warns its users.
    pub excluded_vmemmap: bool,
    /// Pages are missing already, for the vmcore was cut off.
    pub cut_off: bool,
    /// Of a split dump: the pages that this file is to hold, half-open.
    pub part: Option<(Pfn, Pfn)>,
}

/// Writes a dump. On a failure of the sink what was written before is a valid dump that says it is incomplete, as far
/// as the sink took it. Of a split dump's part the account has but the pages that were to be written.
pub fn write(
    job: &Job<'_>,
    about: &About<'_>,
    compression: Compression,
    sink: &dyn DumpSink,
    problems: &mut Problems,
) -> Result<Written, SinkFailure> {
    let keep = &job.selection.keep;
    let (start, end) = about.part.unwrap_or((Pfn::new(0), Pfn::new(keep.len())));
    let pages =
        keep.runs_in(start, end).fold(0, |n, (a, b)| b.get().saturating_sub(a.get()).saturating_add(n));
    let mut account = match about.part {
        Some(_) => Account { present: pages, ..Account::default() },
        None => Account { present: job.selection.present.count(), ..job.selection.account },
    };
    (account.kept, account.zero, account.unreadable, account.unwritten) = (0, 0, 0, pages);

    let mut bytes = 0;
    let begun = begin(job, about, compression, pages, sink, &mut bytes);
    let (geometry, first) = match begun {
        Ok(begun) => begun,
        Err(source) => return Err(SinkFailure { source, written: Written { bytes, account } }),
    };
    let shared = Shared {
        pages: job.pages,
        name: job.name,
        place: Place::new(sink, geometry.descs, geometry.pages),
        batches: Batches::new(keep.runs_in(start, end)),
        problems: Mutex::new(problems),
        zero_page: job.selection.level.has(Level::ZERO).then_some(geometry.zeros),
        big_endian: about.endian == Endian::Big,
        account: Mutex::new(account),
        done: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    };
    let status = first.flags();
    let outcome = run(job, &shared, first, compression, pages)
        .and_then(|()| end_with(&shared, &geometry, about, status, sink));
    let account = *shared.account.lock().unwrap_or_else(PoisonError::into_inner);
    let written = Written { bytes: shared.place.end(), account };
    match outcome {
        Ok(()) => Ok(written),
        Err(source) => Err(SinkFailure { source, written }),
    }
}

/// Everything before the first page, and the first worker.
fn begin<'s>(
    job: &Job<'s>,
    about: &About<'_>,
    compression: Compression,
    pages: u64,
    sink: &dyn DumpSink,
    bytes: &mut u64,
) -> io::Result<(Geometry, Worker<'s>)> {
    let first = Worker::new(job.pages, compression)?;
    let geometry = Geometry::new(job, about, pages).ok_or(io::ErrorKind::FileTooLarge)?;
    let status = if sink.is_stream() { first.flags() } else { first.flags().with(Flags::INCOMPLETE) };
    geometry.write(job, about, status, sink, bytes)?;
    Ok((geometry, first))
}

/// All pages, on as many threads as were asked for and can be had.
fn run<'s>(
    job: &Job<'s>,
    shared: &Shared<'s, '_>,
    first: Worker<'s>,
    compression: Compression,
    total: u64,
) -> io::Result<()> {
    job.report(0, total, shared.place.end());
    let outcome = std::thread::scope(|scope| {
        let mut others = Vec::new();
        for _ in 1..job.threads {
            let thread = std::thread::Builder::new().name("dump".to_owned());
            // A thread that cannot have its memory leaves the work to the others.
            let work = || Worker::new(shared.pages, compression).map_or(Ok(()), |w| w.run(shared, &|_| ()));
            match thread.spawn_scoped(scope, work) {
                Ok(handle) => others.push(handle),
                Err(e) => {
                    log::info!("{} threads instead of {}: {e}", others.len() + 1, job.threads);
                    break;
                }
            }
        }
        let mut outcome = first.run(shared, &|done| job.report(done, total, shared.place.end()));
        for other in others {
            let theirs =
                other.join().unwrap_or_else(|_| Err(io::Error::other("a thread of the dump panicked")));
            outcome = outcome.and(theirs);
        }
        outcome
    });
    job.report(shared.done.load(Ordering::Relaxed), total, shared.place.end());
    outcome
}

/// The last words: gathered descriptors of a stream, and the header without the mark of incompleteness.
fn end_with(
    shared: &Shared<'_, '_>,
    geometry: &Geometry,
    about: &About<'_>,
    status: Flags,
    sink: &dyn DumpSink,
) -> io::Result<()> {
    shared.place.finish()?;
    let lost = about.cut_off || shared.account.lock().unwrap_or_else(PoisonError::into_inner).unreadable > 0;
    if sink.is_stream() && !lost {
        return Ok(());
    }
    let status = if lost { status.with(Flags::INCOMPLETE) } else { status };
    sink.write_at(FileOffset::new(0), &geometry.header_block(about, status)?)
}

#[cfg(test)]
mod tests;

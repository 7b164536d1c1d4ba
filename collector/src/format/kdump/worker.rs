//! One thread of a dump: takes batches, reads, compresses, writes.

use super::place::Place;
use crate::addr::Pfn;
use crate::filter::Account;
use crate::format::batch::{Batch, Batches};
use crate::format::codec::Encoder;
use crate::format::layout::{Flags, PageDesc};
use crate::format::{PageReader, PageSource, is_zero};
use crate::plan::Compression;
use crate::problem::Problems;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Bytes of page data that are gathered before they are written.
const DATA: usize = 1 << 20;

/// Bytes of pages in a row that, stored as they are, are written from where they lie: a copy would cost more than the
/// call.
const DIRECT: usize = 64 << 10;

/// Descriptors that are gathered before they are written, if the data is not enough before.
const DESCS: usize = 4096;

/// Mark of an offset that counts from the start of the data that is gathered. No file is so long.
const GATHERED: u64 = 1 << 63;

/// What the threads of a dump share.
pub(super) struct Shared<'s, 'p> {
    pub pages: &'s dyn PageSource,
    pub name: &'s str,
    pub place: Place<'s>,
    pub batches: Batches<'s>,
    pub problems: Mutex<&'p mut Problems>,
    /// Where the zero page lies, which all zero pages share; `None` when they are written like others.
    pub zero_page: Option<u64>,
    /// Descriptors are big-endian.
    pub big_endian: bool,
    /// The pages in the file.
    pub account: Mutex<Account>,
    /// Pages that were looked at.
    pub done: AtomicU64,
    /// Somebody failed: stop.
    pub stop: AtomicBool,
}

/// A thread's own buffers.
pub(super) struct Worker<'s> {
    encoder: Encoder,
    reader: PageReader<'s>,
    /// Page data that is not yet written, and how much of it.
    data: Vec<u8>,
    filled: usize,
    /// Descriptors that are not yet written.
    descs: Vec<PageDesc>,
    /// Which these are: index of a descriptor in the table, and in `descs`; ascending.
    spans: Vec<(u64, usize)>,
    /// The pages behind `descs`.
    gathered: Account,
}

impl<'s> Worker<'s> {
    /// A thread's buffers; an error when the codec cannot have its memory.
    pub fn new(pages: &'s dyn PageSource, compression: Compression) -> io::Result<Self> {
        Ok(Self {
            encoder: Encoder::new(compression)?,
            reader: PageReader::new(pages),
            data: vec![0; DATA],
            filled: 0,
            descs: Vec::with_capacity(DESCS),
            spans: Vec::new(),
            gathered: Account::default(),
        })
    }

    /// The bit of compressed pages.
    pub fn flags(&self) -> Flags {
        self.encoder.flags()
    }

    /// Works until no page is left, or somebody fails. `report` is called between batches with the pages done so far.
    pub fn run(mut self, shared: &Shared<'s, '_>, report: &dyn Fn(u64)) -> io::Result<()> {
        let outcome = self.work(shared, report);
        if outcome.is_err() {
            shared.stop.store(true, Ordering::Relaxed);
        }
        // What others' failures leave here is written too: it may still fit.
        outcome.and_then(|()| self.flush(shared))
    }

    fn work(&mut self, shared: &Shared<'s, '_>, report: &dyn Fn(u64)) -> io::Result<()> {
        let mut batch = Batch::default();
        while !shared.stop.load(Ordering::Relaxed) && shared.batches.next(&mut batch) {
            let follows =
                self.spans.last().and_then(|(first, at)| first.checked_add((self.descs.len() - at) as u64));
            if follows != Some(batch.first) {
                self.spans.push((batch.first, self.descs.len()));
            }
            let mut pages = 0;
            for &(start, end) in &batch.runs {
                if self.encoder.flags() == Flags::RAW {
                    self.take_raw(shared, start, end)?;
                } else {
                    self.take(shared, start.get(), end.get())?;
                }
                pages += end.get() - start.get();
            }
            let done = shared.done.fetch_add(pages, Ordering::Relaxed).saturating_add(pages);
            report(done);
        }
        Ok(())
    }

    /// Takes a run of pages into the buffers.
    fn take(&mut self, shared: &Shared<'s, '_>, start: u64, end: u64) -> io::Result<()> {
        let room = self.encoder.bound(shared.pages.page_size().len());
        for pfn in start..end {
            if self.descs.len() >= DESCS || self.filled.saturating_add(room) > self.data.len() {
                self.flush(shared)?;
            }
            let pfn = Pfn::new(pfn);
            let page = match self.reader.read(pfn, Pfn::new(end)) {
                Ok(page) => page,
                Err(e) => {
                    let mut problems = shared.problems.lock().unwrap_or_else(PoisonError::into_inner);
                    crate::format::unreadable(shared.name, &mut problems, pfn, &e);
                    self.gathered.unreadable += 1;
                    self.descs.push(PageDesc::default());
                    continue;
                }
            };
            let (offset, len, flags) = match shared.zero_page {
                Some(at) if is_zero(page) => {
                    self.gathered.zero += 1;
                    (at, page.len(), Flags::RAW)
                }
                _ => {
                    let out = self.data.get_mut(self.filled..).unwrap_or_default();
                    let (len, flags) = match self.encoder.encode(page, out) {
                        Some(len) => (len, self.encoder.flags()),
                        None => {
                            if let Some(raw) = out.get_mut(..page.len()) {
                                raw.copy_from_slice(page);
                            }
                            (page.len(), Flags::RAW)
                        }
                    };
                    let at = GATHERED | self.filled as u64;
                    self.gathered.kept += 1;
                    self.filled += len;
                    (at, len, flags)
                }
            };
            self.descs.push(PageDesc {
                offset: offset.into(),
                size: u32::try_from(len).unwrap_or(u32::MAX).into(),
                flags: flags.0.into(),
                page_flags: 0.into(),
            });
        }
        Ok(())
    }

    /// Takes a run of pages that are stored as they are.
    fn take_raw(&mut self, shared: &Shared<'s, '_>, start: Pfn, end: Pfn) -> io::Result<()> {
        let page = shared.pages.page_size().len();
        let mut at = start.get();
        while at < end.get() {
            let span = match self.reader.span(Pfn::new(at), end) {
                Ok(span) => span,
                Err(_) => {
                    self.take(shared, at, at.saturating_add(1))?;
                    at = at.saturating_add(1);
                    continue;
                }
            };
            // Up to the first zero page, or that page alone.
            let zero = |page: &[u8]| shared.zero_page.is_some() && is_zero(page);
            let full = span.chunks_exact(page).take_while(|page| !zero(page)).count();
            let bytes = full.saturating_mul(page);
            if bytes >= DIRECT && self.filled > 0 {
                // Pages stay in order: what is gathered comes before.
                self.flush(shared)?;
                continue;
            }
            if bytes >= DIRECT
                && let Some(data) = span.get(..bytes)
            {
                let placed = shared.place.data(data)?;
                let size = u32::try_from(page).map_err(io::Error::other)?;
                for index in 0..full as u64 {
                    let offset = placed.saturating_add(index.saturating_mul(page as u64));
                    self.descs.push(PageDesc {
                        offset: offset.into(),
                        size: size.into(),
                        flags: Flags::RAW.0.into(),
                        page_flags: 0.into(),
                    });
                }
                self.gathered.kept = self.gathered.kept.saturating_add(full as u64);
                if self.descs.len() >= DESCS {
                    self.flush(shared)?;
                }
            } else {
                self.take(shared, at, at.saturating_add(full.max(1) as u64))?;
            }
            at = at.saturating_add(full.max(1) as u64);
        }
        Ok(())
    }

    /// Writes data first, then the descriptors that point at it. When the data cannot be written, the descriptors are, as
    /// far as they say something true without it.
    fn flush(&mut self, shared: &Shared<'s, '_>) -> io::Result<()> {
        let data = self.data.get(..self.filled).unwrap_or_default();
        let placed = if data.is_empty() { Ok(0) } else { shared.place.data(data) };
        for desc in &mut self.descs {
            let offset = desc.offset.get();
            if offset & GATHERED != 0 {
                match placed {
                    Ok(base) => desc.offset = base.saturating_add(offset & !GATHERED).into(),
                    Err(_) => *desc = PageDesc::default(),
                }
            }
        }
        if placed.is_err() {
            self.gathered.kept = 0;
        }
        if shared.big_endian {
            self.descs.iter_mut().for_each(|desc| *desc = desc.swapped());
        }
        let mut described = Ok(());
        let ends = self.spans.iter().skip(1).map(|(_, at)| *at).chain([self.descs.len()]);
        for ((first, from), to) in self.spans.iter().zip(ends) {
            let part = self.descs.get(*from..to).unwrap_or_default();
            if !part.is_empty() && described.is_ok() {
                described = shared.place.descs(*first, part);
            }
        }
        if described.is_ok() {
            let Account { kept, zero, unreadable, .. } = self.gathered;
            let mut account = shared.account.lock().unwrap_or_else(PoisonError::into_inner);
            account.kept += kept;
            account.zero += zero;
            account.unreadable += unreadable;
            account.unwritten = account.unwritten.saturating_sub(kept + zero + unreadable);
        }
        // What comes next follows the last span.
        let next = self.spans.last().map(|(first, at)| first.saturating_add((self.descs.len() - at) as u64));
        self.spans.clear();
        self.spans.extend(next.map(|index| (index, 0)));
        self.filled = 0;
        self.descs.clear();
        self.gathered = Account::default();
        placed.map(drop).and(described)
    }
}

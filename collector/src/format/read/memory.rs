//! A dump as the memory of its machine: pages are decompressed where they are asked for.
//!
//! Pages in a row are read as a reader of dumps meets them: their descriptors in one piece, their data in as few as it lies
//! in. Single ones go through a small cache: page tables and struct pages are read again and again.

use super::{KdumpError, KdumpFile, Part};
use crate::addr::{FileOffset, PageSize, Pfn};
use crate::format::codec::Decoder;
use crate::format::is_zero;
use crate::format::layout::{Flags, PageDesc};
use crate::problem::Problem;
use crate::vmcore::{Image, ReadAt, Window};
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes of a window, and of pages that are decompressed in one go.
const WINDOW: usize = 256 << 10;
/// Bytes of data that are read in one piece.
const PIECE: u64 = 1 << 20;
/// Data that nobody asked for is read along when there is no more of it than this between two pages.
const SKIP: u64 = 16 << 10;
/// Bytes of cached pages, and the least number of them.
const CACHE: usize = 1 << 20;
const CACHE_MIN: usize = 16;

/// What decompressing pages takes; one for each thread that does so at the same time.
struct Worker {
    decoder: Decoder,
    stored: Vec<u8>,
    descs: Vec<PageDesc>,
}

/// A cached page.
struct Slot {
    pfn: u64,
    bytes: Vec<u8>,
}

/// The moving parts of an opened dump.
pub(super) struct Memory {
    idle: Mutex<Vec<Worker>>,
    /// By pfn modulo their number.
    cache: Vec<Mutex<Slot>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that is locked here is ever half done: a page that was not filled has no pfn.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Memory {
    pub fn new(page: PageSize) -> Self {
        let slots = (CACHE / page.len()).max(CACHE_MIN);
        let slot = || Mutex::new(Slot { pfn: u64::MAX, bytes: Vec::new() });
        Self { idle: Mutex::new(Vec::new()), cache: std::iter::repeat_with(slot).take(slots).collect() }
    }

    /// Lends a worker for one step.
    fn with_worker<T>(
        &self,
        step: impl FnOnce(&mut Worker) -> Result<T, KdumpError>,
    ) -> Result<T, KdumpError> {
        let idle = lock(&self.idle).pop();
        let mut worker = match idle {
            Some(worker) => worker,
            None => Worker {
                decoder: Decoder::new().map_err(|_| KdumpError::Memory("the decoder"))?,
                stored: Vec::new(),
                descs: Vec::new(),
            },
        };
        let result = step(&mut worker);
        lock(&self.idle).push(worker);
        result
    }
}

impl Part<'_> {
    fn is_shared_zeros(&self, desc: &PageDesc) -> bool {
        let at = desc.offset.get();
        at != 0 && at == self.zeros_at.load(Ordering::Relaxed) && desc.flags.get() == 0
    }

    /// One page out of the data that was read from `from` on.
    fn decode(
        &self,
        decoder: &mut Decoder,
        pfn: Pfn,
        desc: &PageDesc,
        from: u64,
        data: &[u8],
        out: &mut [u8],
    ) -> Result<(), KdumpError> {
        if self.is_shared_zeros(desc) {
            out.fill(0);
            return Ok(());
        }
        let at = desc.offset.get();
        let skip = at.checked_sub(from).and_then(|skip| usize::try_from(skip).ok());
        let size = usize::try_from(desc.size.get()).unwrap_or(usize::MAX);
        let stored =
            skip.and_then(|skip| data.get(skip..skip.checked_add(size)?)).ok_or(KdumpError::Missing(pfn))?;
        let flags = Flags(desc.flags.get());
        let offset = FileOffset::new(at);
        decoder.decode(flags, stored, out).map_err(|source| KdumpError::Damaged { pfn, offset, source })?;
        // Data that two pages share is zeros, and the first raw page of zeros is what they share.
        if flags == Flags::RAW && self.zeros_at.load(Ordering::Relaxed) == 0 && is_zero(out) {
            self.zeros_at.store(at, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl KdumpFile<'_> {
    /// Fills `buf`, whole pages, from `pfn` on; every one of them has data.
    pub(super) fn fill(&self, pfn: Pfn, buf: &mut [u8]) -> Result<(), KdumpError> {
        let page = self.headers.page.len();
        let mut rest = buf;
        let mut next = pfn;
        while !rest.is_empty() {
            let part = self.part_of(next).ok_or(KdumpError::Missing(next))?;
            let room = usize::try_from(part.end.saturating_sub(next.get())).unwrap_or(usize::MAX);
            let pages = (rest.len() / page).min(room).min((WINDOW / page).max(1));
            if pages == 0 {
                return Err(KdumpError::Missing(next));
            }
            let (now, later) = rest.split_at_mut(pages.saturating_mul(page));
            self.memory.with_worker(|worker| self.fill_in(part, next, worker, now))?;
            next = next.checked_add(pages as u64).ok_or(KdumpError::Missing(next))?;
            rest = later;
        }
        Ok(())
    }

    /// As [`KdumpFile::fill`], within one part and one batch.
    fn fill_in(
        &self,
        part: &Part<'_>,
        pfn: Pfn,
        worker: &mut Worker,
        buf: &mut [u8],
    ) -> Result<(), KdumpError> {
        let page = self.headers.page.len();
        let pages = buf.len() / page;
        let Worker { decoder, stored, descs } = worker;
        descs.resize(pages, PageDesc::default());
        let (found, _) = self.descriptors(pfn, descs)?;
        let after = |n: usize| Pfn::new(pfn.get().saturating_add(n as u64));
        if found < pages {
            return Err(KdumpError::Missing(after(found)));
        }
        let mut out = buf.chunks_exact_mut(page);
        let mut first = 0;
        while first < pages {
            let rest = descs.get(first..).unwrap_or_default();
            let piece = self.piece(part, after(first), rest)?;
            let len = usize::try_from(piece.len).unwrap_or(usize::MAX);
            if stored.len() < len {
                stored.resize(len, 0);
            }
            let data = stored.get_mut(..len).unwrap_or_default();
            let at = FileOffset::new(piece.at);
            let what = "a page";
            part.source.read_at(at, data).map_err(|source| KdumpError::Read { what, at, source })?;
            for (index, (desc, out)) in rest.iter().take(piece.pages).zip(&mut out).enumerate() {
                part.decode(decoder, after(first + index), desc, piece.at, data, out)?;
            }
            first += piece.pages;
        }
        Ok(())
    }

    /// How many of the pages with these descriptors have their data in one piece, and which; at least one page.
    fn piece(&self, part: &Part<'_>, pfn: Pfn, descs: &[PageDesc]) -> Result<Piece, KdumpError> {
        let page = self.headers.page.len();
        let mut piece = Piece { at: 0, len: 0, pages: 0 };
        for desc in descs {
            let (offset, size) = (desc.offset.get(), u64::from(desc.size.get()));
            let nth = Pfn::new(pfn.get().saturating_add(piece.pages as u64));
            // A damaged page ends a piece, so that the ones before it are read; the next piece starts with it and fails.
            let error = if offset == 0 {
                Some(KdumpError::Missing(nth))
            } else if size == 0 || size > page as u64 || offset.checked_add(size).is_none() {
                let offset = FileOffset::new(offset);
                Some(KdumpError::Descriptor { pfn: nth, size: desc.size.get(), offset, page })
            } else {
                None
            };
            if let Some(error) = error {
                return if piece.pages == 0 { Err(error) } else { Ok(piece) };
            }
            if part.is_shared_zeros(desc) {
                piece.pages += 1;
                continue;
            }
            let end = piece.at.saturating_add(piece.len);
            if piece.len == 0 {
                (piece.at, piece.len) = (offset, size);
            } else if offset >= end && offset - end <= SKIP && offset - piece.at + size <= PIECE {
                piece.len = offset - piece.at + size;
            } else {
                break;
            }
            piece.pages += 1;
        }
        Ok(piece)
    }

    /// A piece of one page, through the cache.
    fn read_cached(&self, pfn: Pfn, skip: usize, buf: &mut [u8]) -> Result<(), KdumpError> {
        let page = self.headers.page.len();
        let slots = self.memory.cache.len().max(1) as u64;
        let index = usize::try_from(pfn.get() % slots).unwrap_or(0);
        let slot = self.memory.cache.get(index).ok_or(KdumpError::Memory("the cache"))?;
        let mut slot = lock(slot);
        if slot.pfn != pfn.get() {
            slot.pfn = u64::MAX;
            slot.bytes.resize(page, 0);
            self.fill(pfn, &mut slot.bytes)?;
            slot.pfn = pfn.get();
        }
        let bytes = slot.bytes.get(skip..).and_then(|b| b.get(..buf.len())).unwrap_or_default();
        buf.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        Ok(())
    }
}

/// Data of pages in a row that lies in one piece.
struct Piece {
    at: u64,
    len: u64,
    pages: usize,
}

/// Physical memory: the offset is the physical address. Pages that the dump does not have read as zeros, pages that it
/// should have and has not are errors.
impl ReadAt for KdumpFile<'_> {
    fn size(&self) -> u64 {
        self.headers.end << self.headers.page.shift()
    }

    fn read_at(&self, at: FileOffset, buf: &mut [u8]) -> io::Result<()> {
        let page = self.headers.page;
        let end = at.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end.get() > self.size()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut at = at.get();
        let mut rest = buf;
        while !rest.is_empty() {
            let pfn = Pfn::new(at >> page.shift());
            let skip = usize::try_from(at & (page.bytes() - 1)).unwrap_or(0);
            let whole = if skip == 0 { rest.len() / page.len() } else { 0 };
            let run = usize::try_from(self.image.dumped.run_at(pfn)).unwrap_or(usize::MAX);
            let take = if run == 0 || whole.min(run) < 2 {
                rest.len().min(page.len() - skip)
            } else {
                whole.min(run) << page.shift()
            };
            let (now, later) = rest.split_at_mut(take);
            if run == 0 {
                now.fill(0);
            } else if take > page.len() {
                self.fill(pfn, now).map_err(io::Error::other)?;
            } else {
                self.read_cached(pfn, skip, now).map_err(io::Error::other)?;
            }
            at = at.saturating_add(take as u64);
            rest = later;
        }
        Ok(())
    }

    fn window(&self, at: FileOffset, len: usize) -> io::Result<Window<'_>> {
        if len > WINDOW.max(self.headers.page.len()) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let mut bytes = vec![0; len];
        self.read_at(at, &mut bytes)?;
        Ok(Box::new(bytes))
    }

    fn window_len(&self) -> usize {
        WINDOW.max(self.headers.page.len())
    }

    fn is_torn(&self) -> bool {
        self.parts.iter().any(|part| part.source.is_torn())
    }

    fn image(&self) -> Option<&Image> {
        Some(&self.image)
    }

    fn file(&self) -> Option<&dyn ReadAt> {
        match self.parts.as_slice() {
            [only] => Some(&only.source),
            _ => None,
        }
    }

    fn complaints(&self) -> &[Problem] {
        &self.complaints
    }
}

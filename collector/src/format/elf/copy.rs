//! The memory of an ELF dump: copied in units, by as many threads as there are.

use super::pieces::{Piece, pieces, runs};
use crate::addr::{FileOffset, Pfn};
use crate::filter::Bitmap;
use crate::format::{DumpSink, PageSource};
use crate::problem::{Code, Problems};
use crate::vmcore::Segment;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Bytes that a thread takes at a time.
const UNIT: u64 = 2 << 20;

/// Bytes that are written at a time.
const PIECE: usize = 1 << 20;

/// Losses that are told apart; beyond, a page in two segments may count twice.
const MAX_LOST: usize = 1 << 16;

/// A stretch of a segment, and where it goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unit {
    /// Index of the segment.
    segment: usize,
    /// Bytes from the segment's start.
    from: u64,
    to: u64,
    /// File offset.
    out: u64,
}

/// Everything to copy, in order.
pub(super) struct Units<'b> {
    segments: std::iter::Enumerate<std::slice::Iter<'b, Segment>>,
    page: u64,
    keep: &'b Bitmap,
    /// The segment that is being cut: its index, its physical address, its pieces.
    segment: Option<(usize, u64, Box<dyn Iterator<Item = Piece> + Send + 'b>)>,
    /// The piece that is being cut, and how far it is: bytes from the segment's start.
    piece: Option<(Piece, u64)>,
    /// File offset of the next unit.
    out: u64,
}

impl<'b> Units<'b> {
    /// Memory of `segments` from file offset `data_at` on.
    pub fn new(segments: &'b [Segment], page: u64, keep: &'b Bitmap, data_at: u64) -> Self {
        Self { segments: segments.iter().enumerate(), page, keep, segment: None, piece: None, out: data_at }
    }
}

impl Iterator for Units<'_> {
    type Item = Unit;
    fn next(&mut self) -> Option<Unit> {
        loop {
            if let (Some((index, base, _)), Some((piece, from))) = (&self.segment, &mut self.piece)
                && *from < piece.data_end
            {
                // Units end where physical addresses are multiples, so that all but the outermost are whole pages.
                let stop = (base.saturating_add(*from) / UNIT).saturating_add(1).saturating_mul(UNIT);
                let to = stop.saturating_sub(*base).min(piece.data_end);
                let unit = Unit { segment: *index, from: *from, to, out: self.out };
                self.out = self.out.saturating_add(to - *from);
                *from = to;
                return Some(unit);
            }
            self.piece = self.segment.as_mut().and_then(|(_, _, pieces)| pieces.next()).map(|p| (p, p.start));
            if self.piece.is_none() {
                let (index, segment) = self.segments.next()?;
                let pieces = Box::new(pieces(segment, self.page, self.keep));
                self.segment = Some((index, segment.start.get(), pieces));
            }
        }
    }
}

/// What the threads share.
pub(super) struct Shared<'s, 'p> {
    pub segments: &'s [Segment],
    pub pages: &'s dyn PageSource,
    pub keep: &'s Bitmap,
    pub name: &'s str,
    pub sink: &'s dyn DumpSink,
    pub units: Mutex<Units<'s>>,
    pub problems: Mutex<&'p mut Problems>,
    /// Bytes of memory written.
    pub bytes: AtomicU64,
    /// End of the file as it is.
    pub end: AtomicU64,
    /// Pages that could not be read.
    pub lost: Mutex<Vec<u64>>,
    /// The first place that was not written, by segment and physical address.
    pub failed: Mutex<Option<(usize, u64)>>,
    pub stop: AtomicBool,
}

impl Shared<'_, '_> {
    /// Copies until nothing is left, or somebody fails. `report` is told the bytes written.
    pub fn run(&self, report: &dyn Fn(u64)) -> io::Result<()> {
        let page = self.pages.page_size();
        let mut buf = vec![0; page.len()];
        while !self.stop.load(Ordering::Relaxed) {
            // Into a pipe units go one after the other.
            let mut units = self.units.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(unit) = units.next() else { break };
            let in_turn = self.sink.is_stream().then_some(units);
            let Some(segment) = self.segments.get(unit.segment) else { break };
            let mut reached = segment.start.get().saturating_add(unit.from);
            if let Err(e) = self.copy(&unit, segment, &mut buf, &mut reached) {
                self.stop.store(true, Ordering::Relaxed);
                let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
                let here = (unit.segment, reached);
                *failed = Some(failed.map_or(here, |before| before.min(here)));
                return Err(e);
            }
            drop(in_turn);
            let bytes = self.bytes.fetch_add(unit.to - unit.from, Ordering::Relaxed);
            report(bytes.saturating_add(unit.to - unit.from));
        }
        Ok(())
    }

    fn put(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.sink.write_at(FileOffset::new(at), bytes)?;
        self.end.fetch_max(at.saturating_add(bytes.len() as u64), Ordering::Relaxed);
        Ok(())
    }

    /// Copies a unit. Where the source has no bytes, a gap is left, which reads as zeros. `reached` follows.
    fn copy(&self, unit: &Unit, segment: &Segment, buf: &mut [u8], reached: &mut u64) -> io::Result<()> {
        let page = self.pages.page_size().bytes();
        let end = unit.to.min(segment.file_len);
        let mut at = unit.from;
        // A window is all or nothing; page by page the damage is no larger than it is.
        let mut singly = false;
        while at < end {
            let phys = segment.start.get().saturating_add(at);
            let out = unit.out.saturating_add(at - unit.from);
            let in_page = phys % page;
            let left = end - at;
            if in_page == 0 && left >= page && !singly {
                match self.pages.window(Pfn::new(phys / page), left / page) {
                    Ok(window) => {
                        let len = usize::try_from(left).unwrap_or(usize::MAX).min(window.len());
                        for (index, part) in window.get(..len).unwrap_or_default().chunks(PIECE).enumerate() {
                            let skip = index.saturating_mul(PIECE) as u64;
                            self.put(out.saturating_add(skip), part)?;
                            *reached = phys.saturating_add(skip).saturating_add(part.len() as u64);
                        }
                        at = at.saturating_add((len as u64).max(page));
                        continue;
                    }
                    Err(crate::vmcore::ReadError::NotBacked(_)) => {}
                    Err(_) => singly = true,
                }
            }
            let len = (page - in_page).min(left);
            match self.pages.page(Pfn::new(phys / page), buf) {
                Ok(()) => {
                    let from = usize::try_from(in_page).unwrap_or(0);
                    let to = from.saturating_add(usize::try_from(len).unwrap_or(0));
                    self.put(out, buf.get(from..to).unwrap_or_default())?;
                }
                Err(e) => self.lose(phys / page, &e),
            }
            *reached = phys.saturating_add(len);
            at = at.saturating_add(len);
        }
        *reached = segment.start.get().saturating_add(unit.to);
        Ok(())
    }

    fn lose(&self, pfn: u64, e: &crate::vmcore::ReadError) {
        if self.keep.get(Pfn::new(pfn)) {
            let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
            if lost.len() < MAX_LOST {
                lost.push(pfn);
            }
        }
        let why = crate::engine::chain(e);
        self.problems.lock().unwrap_or_else(PoisonError::into_inner).push(
            Code::PAGE_UNREADABLE,
            format!("{}: page {pfn:#x} of the vmcore could not be read and is zeros: {why}", self.name),
        );
    }

    /// Kept pages that are written, each once: segments may overlap (on x86-64 the kernel's text has one of its own, within
    /// that of its memory).
    pub fn count_reached(&self) -> u64 {
        let page = self.pages.page_size().bytes();
        let all = (self.segments.len(), 0);
        let (whole, part) = self.failed.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or(all);
        let ends = |s: &Segment, index: usize| {
            let end = s.start.get().saturating_add(s.mem_len).div_ceil(page);
            if index < whole { end } else { part / page }
        };
        let segments = self.segments.iter().enumerate().take(whole.saturating_add(1));
        let mut ranges: Vec<_> = segments.map(|(i, s)| (s.start.get() / page, ends(s, i))).collect();
        ranges.sort_unstable();
        let (mut pages, mut counted_to) = (0, 0);
        for (start, end) in ranges {
            pages += runs(self.keep, start.max(counted_to), end).map(|(from, to)| to - from).sum::<u64>();
            counted_to = end.max(counted_to);
        }
        pages
    }

    /// Pages that could not be read, each once.
    pub fn count_lost(&self) -> u64 {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.sort_unstable();
        lost.dedup();
        lost.len() as u64
    }
}

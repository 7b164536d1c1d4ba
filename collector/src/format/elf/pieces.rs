//! Where PT_LOADs are cut: at least 256 pages in a row that are left out.

use crate::addr::Pfn;
use crate::filter::Bitmap;
use crate::vmcore::Segment;

/// Pages in a row that are left out before a PT_LOAD is cut: makedumpfile's PFN_EXCLUDED.
const CUT: u64 = 256;

/// Runs of kept pages within `[from, to)`.
pub(super) fn runs(keep: &Bitmap, from: u64, to: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
    keep.runs_in(Pfn::new(from), Pfn::new(to)).map(|(start, end)| (start.get(), end.get()))
}

/// A PT_LOAD to be: a stretch of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Piece {
    /// Its start, bytes from the segment's.
    pub start: u64,
    /// End of the bytes that are written.
    pub data_end: u64,
    /// End of the memory.
    pub end: u64,
}

impl Piece {
    /// Bytes that are written.
    pub fn data(&self) -> u64 {
        self.data_end.saturating_sub(self.start)
    }
}

/// Cuts a segment at its long stretches of left-out pages. The first and the last page may be fractions.
pub(super) fn pieces<'b>(segment: &Segment, page: u64, keep: &'b Bitmap) -> impl Iterator<Item = Piece> + 'b {
    let base = segment.start.get();
    let end = segment.mem_len;
    let first = base / page;
    let last = base.saturating_add(end).div_ceil(page);
    // Positions of kept runs, in bytes from the segment's start and within it.
    let at = move |pfn: u64| pfn.saturating_mul(page).saturating_sub(base).min(end);
    let mut runs = runs(keep, first, last).peekable();
    let mut start = Some((0, first));
    std::iter::from_fn(move || {
        let (from, from_pfn) = start.take()?;
        let mut piece = Piece { start: from, data_end: from, end };
        let mut gap_from = from_pfn;
        while let Some((_, run_end)) = runs.next_if(|(run, _)| run.saturating_sub(gap_from) < CUT) {
            piece.data_end = at(run_end);
            gap_from = run_end;
        }
        if let Some((run, _)) = runs.peek() {
            piece.end = at(*run);
            start = Some((piece.end, *run));
        }
        Some(piece)
    })
    .filter(|piece| piece.end > piece.start)
}

//! Pages of mem_map itself: those that hold nothing but `struct page`s of pages that are left out, as makedumpfile's `-e`.
//!
//! A page of mem_map has a virtual address, and with it the pfns whose `struct page`s it holds, in whole or in part; it is a
//! page of the dump by what it is mapped to. One physical page can be many pages of mem_map: since Linux commit f41f2ed43ca5
//! ("mm: hugetlb: free the vmemmap pages associated with each HugeTLB page") (in v5.14) hugetlb pages share their tails'. So
//! the walk is done twice: once for what could go, once for what is needed all the same.

use super::{Bitmap, Reason, Selection};
use crate::addr::{PageSize, Pfn, PhysAddr, VirtAddr};
use crate::kernel::memmap::{self, Stretch};
use crate::kernel::{Kernel, Seen};
use std::ops::Range;

/// Leaves out the pages of mem_map that describe nothing but pages that are left out: present, and not kept. What is shared
/// with, or reaches into, the `struct page` of any other page is kept; so is what is not mapped as expected. Zero pages are
/// kept pages here. Memory: a bit a page.
pub fn exclude_vmemmap(kernel: &Kernel<'_>, selection: &mut Selection) {
    let Some(size) = kernel.vmcore().info().size("page").filter(|size| *size > 0) else { return };
    let page = kernel.vmcore().page_size();
    // What is wrong with mem_map was told when it was scanned; without any nothing was left out.
    let find = |runs| memmap::find_all(kernel, runs);
    let Some(sections) = find(kernel.vmcore().present_runs()).map(|found| found.section_pages()) else {
        return;
    };
    // Holes have `struct page`s too, as far as a section reaches.
    let runs = widened(kernel.vmcore().present_runs(), sections);
    let mut walk =
        Walk { kernel, seen: Seen::default(), page, candidates: Bitmap::new(selection.keep.len()) };
    for needed in [false, true] {
        let Some(stretches) = find(runs.clone()) else { return };
        for span in spans(stretches) {
            parts(&span, size, page, selection, &mut |range, gone| match (gone, needed) {
                (true, false) => walk.candidates(range),
                (false, true) => walk.veto(range),
                _ => {}
            });
        }
    }
    let mut dropped = 0;
    for (start, end) in walk.candidates.runs() {
        dropped += selection.keep.clear_range(start, end);
    }
    selection.account.drop_pages(Reason::Vmemmap, dropped);
    selection.account.kept = selection.account.kept.saturating_sub(dropped);
}

/// Runs with their ends moved outwards to multiples of `unit`.
fn widened(runs: Vec<(Pfn, Pfn)>, unit: u64) -> Vec<(Pfn, Pfn)> {
    let unit = unit.max(1);
    let mut wide: Vec<(Pfn, Pfn)> = Vec::new();
    for (start, end) in runs {
        let start = start.get() - start.get() % unit;
        let end = Pfn::new(end.get().checked_next_multiple_of(unit).unwrap_or(u64::MAX));
        match wide.last_mut() {
            Some((_, last)) if last.get() >= start => *last = end.max(*last),
            _ => wide.push((Pfn::new(start), end)),
        }
    }
    wide
}

/// Stretches that follow each other in pfns and in virtual memory as one.
fn spans(stretches: impl Iterator<Item = Stretch>) -> impl Iterator<Item = Stretch> {
    let mut stretches = stretches.peekable();
    std::iter::from_fn(move || {
        let mut span = stretches.next()?;
        while let Some(next) = stretches.next_if(|next| next.start == span.end && next.base == span.base) {
            span.end = next.end;
        }
        Some(span)
    })
}

/// Cuts the pages of mem_map that a span touches, by virtual address and whole, into those that hold nothing but `struct page`s
/// of pages left out, for which `true` is told, and all others.
fn parts(
    span: &Stretch,
    size: u64,
    page: PageSize,
    selection: &Selection,
    tell: &mut dyn FnMut(Range<u64>, bool),
) {
    let floor = |at: u64| at & !(page.bytes() - 1);
    let ceil = |at: u64| at.checked_next_multiple_of(page.bytes()).unwrap_or(floor(u64::MAX));
    let address = |pfn: Pfn| span.page_at(pfn.get(), size).get();
    let len = span.end.get().checked_sub(span.start.get()).and_then(|pages| pages.checked_mul(size));
    // No array reaches over the end of the address space.
    if len.and_then(|len| address(span.start).checked_add(len)).is_none() {
        return;
    }
    let mut at = floor(address(span.start));
    gone(span.start, span.end, selection, &mut |from, to| {
        let (start, end) = (ceil(address(from)), floor(address(to)));
        if start < end {
            if at < start {
                tell(at..start, false);
            }
            tell(start..end, true);
            at = end;
        }
    });
    let end = ceil(address(span.end));
    if at < end {
        tell(at..end, false);
    }
}

/// The runs of pages in `[start, end)` that the vmcore has and that are not kept.
fn gone(start: Pfn, end: Pfn, selection: &Selection, tell: &mut dyn FnMut(Pfn, Pfn)) {
    for (first, last) in selection.present.runs_in(start, end) {
        let mut at = first;
        for (kept, next) in selection.keep.runs_in(first, last) {
            if at < kept {
                tell(at, kept);
            }
            at = next;
        }
        if at < last {
            tell(at, last);
        }
    }
}

/// From virtual to physical pages.
struct Walk<'k, 'a> {
    kernel: &'k Kernel<'a>,
    seen: Seen,
    page: PageSize,
    /// Physical pages that could be left out.
    candidates: Bitmap,
}

impl Walk<'_, '_> {
    /// Marks the physical pages of a range of whole pages.
    fn candidates(&mut self, range: Range<u64>) {
        let page = self.page;
        self.pieces(range, &mut |candidates, phys, len| {
            // A page of mem_map that is no page of memory is none that could be left out.
            if phys.get().is_multiple_of(page.bytes())
                && let Some(end) = phys.checked_add(len)
            {
                candidates.set_range(page.pfn_of(phys), page.pfn_of(end));
            }
        });
    }

    /// Takes the marks from the physical pages of a range.
    fn veto(&mut self, range: Range<u64>) {
        let page = self.page;
        self.pieces(range, &mut |candidates, phys, len| {
            let end = phys.checked_add(len).map_or(Pfn::new(u64::MAX), |end| page.pfn_ceil(end));
            candidates.clear_range(page.pfn_of(phys), end);
        });
    }

    /// Calls `each` with the pieces of a range that are contiguous in physical memory. What is not mapped is passed over: nobody
    /// can read it.
    fn pieces(&mut self, range: Range<u64>, each: &mut dyn FnMut(&mut Bitmap, PhysAddr, u64)) {
        let mut at = range.start;
        while at < range.end {
            let virt = VirtAddr::new(at);
            let next = match self.kernel.place(&mut self.seen, virt) {
                Ok((phys, len)) => {
                    let len = len.min(range.end - at);
                    each(&mut self.candidates, phys, len);
                    at.saturating_add(len)
                }
                Err(_) => at.saturating_add(self.kernel.gap(&mut self.seen, virt).max(self.page.bytes())),
            };
            at = next.max(at.saturating_add(1));
        }
    }
}

//! Which physical memory the file holds, and where: a sorted list of disjoint extents made from the PT_LOADs.

use super::Segment;
use crate::addr::{FileOffset, PageSize, Pfn, PhysAddr};

/// A stretch of physical memory that lies in one piece in the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Extent {
    /// First physical address.
    start: u64,
    /// Where that is in the file.
    offset: u64,
    /// Bytes; `start + len` and `offset + len` do not overflow.
    len: u64,
}

impl Extent {
    fn end(&self) -> u64 {
        self.start.saturating_add(self.len)
    }
}

/// Disjoint extents, ascending.
#[derive(Clone, Default, Debug)]
pub(super) struct Extents {
    list: Vec<Extent>,
}

impl Extents {
    /// The file data of the segments. Where two overlap — on x86-64 the kernel's text has a PT_LOAD of its own, inside
    /// the direct map's — the one that starts first is used: both hold the same memory.
    pub fn new(segments: &[Segment]) -> Self {
        let mut sorted: Vec<Extent> = segments
            .iter()
            .filter(|s| s.file_len > 0)
            .map(|s| Extent { start: s.start.get(), offset: s.offset.get(), len: s.file_len })
            .collect();
        sorted.sort_by_key(|e| (e.start, u64::MAX - e.len));
        let mut list: Vec<Extent> = Vec::with_capacity(sorted.len());
        for mut next in sorted {
            if let Some(last) = list.last_mut() {
                let covered = last.end().saturating_sub(next.start);
                if covered >= next.len {
                    continue;
                }
                next.start = next.start.saturating_add(covered);
                next.offset = next.offset.saturating_add(covered);
                next.len -= covered;
                if last.end() == next.start && last.offset.saturating_add(last.len) == next.offset {
                    last.len = last.len.saturating_add(next.len);
                    continue;
                }
            }
            list.push(next);
        }
        list.shrink_to_fit();
        Self { list }
    }

    /// Where `at` lies in the file, and how many bytes follow it in one piece (at least 1).
    pub fn find(&self, at: PhysAddr) -> Option<(FileOffset, u64)> {
        let at = at.get();
        let index = self.list.partition_point(|e| e.end() <= at);
        let extent = self.list.get(index)?;
        let skip = at.checked_sub(extent.start)?;
        Some((FileOffset::new(extent.offset.saturating_add(skip)), extent.len.saturating_sub(skip)))
    }

    /// How many bytes from `at` on are in no extent; 0 when `at` is in one, `u64::MAX` when none follows.
    pub fn gap(&self, at: PhysAddr) -> u64 {
        let index = self.list.partition_point(|e| e.end() <= at.get());
        self.list.get(index).map_or(u64::MAX, |extent| extent.start.saturating_sub(at.get()))
    }

    /// The parts of `[start, end)` that the file holds: physical address, file offset, length; ascending.
    pub fn within(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, FileOffset, u64)> + '_ {
        let first = self.list.partition_point(|e| e.end() <= start);
        let rest = self.list.get(first..).unwrap_or_default();
        rest.iter().take_while(move |e| e.start < end).map(move |e| {
            let from = e.start.max(start);
            let skip = from.saturating_sub(e.start);
            let len = e.end().min(end).saturating_sub(from);
            (from, FileOffset::new(e.offset.saturating_add(skip)), len)
        })
    }

    /// Runs of pages of which the file holds at least a byte: half-open, ascending, apart from each other.
    pub fn page_runs(&self, page: PageSize) -> Vec<(Pfn, Pfn)> {
        let mut runs: Vec<(Pfn, Pfn)> = Vec::new();
        for extent in &self.list {
            let start = page.pfn_of(PhysAddr::new(extent.start));
            let end = page.pfn_ceil(PhysAddr::new(extent.end()));
            match runs.last_mut() {
                Some(last) if start <= last.1 => last.1 = last.1.max(end),
                _ => runs.push((start, end)),
            }
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::VirtAddr;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn segment(start: u64, offset: u64, len: u64) -> Segment {
        Segment {
            start: PhysAddr::new(start),
            mem_len: len,
            file_len: len,
            offset: FileOffset::new(offset),
            virt: VirtAddr::new(0),
        }
    }

    fn raw(extents: &Extents) -> Vec<(u64, u64, u64)> {
        extents.list.iter().map(|e| (e.start, e.offset, e.len)).collect()
    }

    #[test]
    fn overlaps_are_cut_and_neighbours_joined() {
        // (physical address, file offset, length) of what goes in and of what comes out.
        type Triples = &'static [(u64, u64, u64)];
        let cases: &[(Triples, Triples)] = &[
            (&[], &[]),
            (&[(0x1000, 0, 0)], &[]),
            // Kernel text inside the direct map.
            (&[(0x3000, 0x9000, 0x1000), (0x1000, 0x1000, 0x8000)], &[(0x1000, 0x1000, 0x8000)]),
            // The same twice.
            (&[(0x1000, 0, 0x1000), (0x1000, 0x5000, 0x1000)], &[(0x1000, 0, 0x1000)]),
            // The longer of two with one start.
            (&[(0x1000, 0, 0x1000), (0x1000, 0x5000, 0x3000)], &[(0x1000, 0x5000, 0x3000)]),
            // Half an overlap.
            (
                &[(0x1000, 0, 0x2000), (0x2000, 0x8000, 0x2000)],
                &[(0x1000, 0, 0x2000), (0x3000, 0x9000, 0x1000)],
            ),
            // Neighbours in memory and in the file.
            (&[(0x2000, 0x1000, 0x1000), (0x1000, 0, 0x1000)], &[(0x1000, 0, 0x2000)]),
            // Neighbours in memory only.
            (
                &[(0x2000, 0x4000, 0x1000), (0x1000, 0, 0x1000)],
                &[(0x1000, 0, 0x1000), (0x2000, 0x4000, 0x1000)],
            ),
        ];
        for (input, expected) in cases {
            let segments: Vec<_> = input.iter().map(|&(s, o, l)| segment(s, o, l)).collect();
            assert_eq!(raw(&Extents::new(&segments)), *expected, "{input:x?}");
        }
    }

    #[test]
    fn pages_count_when_a_byte_of_them_is_there() {
        let page = PageSize::new(4096).unwrap();
        let extents = Extents::new(&[
            segment(0x1800, 0, 0x1000),
            segment(0x2900, 0x5000, 0x100),
            segment(0x9000, 0x6000, 1),
        ]);
        let runs: Vec<_> = extents.page_runs(page).iter().map(|(a, b)| (a.get(), b.get())).collect();
        assert_eq!(runs, [(1, 3), (9, 10)]);
    }

    proptest! {
        /// Byte by byte the list answers as a naive map does: covered where any segment covers, with that segment's offset.
        #[test]
        fn finds_what_a_naive_map_finds(input in prop::collection::vec((0u64..200, 0u64..1000, 0u64..40), 0..12)) {
            let segments: Vec<_> = input.iter().map(|&(s, o, l)| segment(s, o * 1000, l)).collect();
            let extents = Extents::new(&segments);
            let mut naive: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
            for s in &segments {
                for i in 0..s.file_len {
                    naive.entry(s.start.get() + i).or_default().push(s.offset.get() + i);
                }
            }
            for at in 0..260 {
                match (extents.find(PhysAddr::new(at)), naive.get(&at)) {
                    (None, None) => {}
                    (Some((offset, rest)), Some(all)) => {
                        prop_assert!(all.contains(&offset.get()));
                        prop_assert!(rest >= 1);
                    }
                    other => prop_assert!(false, "at {at}: {other:?}"),
                }
            }
            let inside: u64 = extents.within(10, 150).map(|(_, _, len)| len).sum();
            prop_assert_eq!(inside, naive.range(10..150).count() as u64);
        }
    }
}

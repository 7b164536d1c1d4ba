//! Where a dump is cut into several files.

use crate::addr::Pfn;
use crate::filter::Bitmap;

/// Parts begin at multiples of this many pages. crash counts the pages of a part from its start on in words of 64 bits of the
/// bitmap (seen with 8.0.2): of a part that begins at 0x22b93 it takes other pages' descriptors, and "page incomplete" is
/// all that it says.
const ALIGN: u64 = 64;

/// Ranges of pages, half-open, one after the other, that together are all of `keep` and have about as many kept pages each.
/// They are cut at multiples of `block` pages, made a multiple of `ALIGN`, so the last ones may be empty; the very end is
/// where `keep` ends.
pub fn parts(keep: &Bitmap, parts: usize, block: u64) -> Vec<(Pfn, Pfn)> {
    let block = block.max(1).checked_next_multiple_of(ALIGN).unwrap_or(u64::MAX);
    let len = keep.len();
    let mut left = keep.count();
    let mut start = 0_u64;
    let mut made = Vec::with_capacity(parts);
    for remaining in (1..=parts as u64).rev() {
        let end = if remaining == 1 { len } else { cut(keep, start, left.div_ceil(remaining), block) };
        let pages = keep
            .runs_in(Pfn::new(start), Pfn::new(end))
            .fold(0, |n, (a, b)| b.get().saturating_sub(a.get()).saturating_add(n));
        left = left.saturating_sub(pages);
        made.push((Pfn::new(start), Pfn::new(end)));
        start = end;
    }
    made
}

/// The first multiple of `block` at or after which `wanted` kept pages from `start` on lie; at most the end.
fn cut(keep: &Bitmap, start: u64, wanted: u64, block: u64) -> u64 {
    let mut seen = 0_u64;
    for (from, to) in keep.runs_in(Pfn::new(start), Pfn::new(keep.len())) {
        let pages = to.get().saturating_sub(from.get());
        if seen.saturating_add(pages) >= wanted {
            let exact = from.get().saturating_add(wanted.saturating_sub(seen));
            return exact.checked_next_multiple_of(block).unwrap_or(u64::MAX).clamp(start, keep.len());
        }
        seen = seen.saturating_add(pages);
    }
    keep.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::testing::bitmap;
    use proptest::prelude::*;

    #[test]
    fn even_parts_of_even_pages() {
        let keep = bitmap((0..1000).chain(50_000..51_000), 60_000);
        let ends: Vec<u64> = parts(&keep, 4, 1).iter().map(|(_, end)| end.get()).collect();
        assert_eq!(ends, [512, 50_048, 50_560, 60_000]);
        let ends: Vec<u64> = parts(&keep, 2, 4096).iter().map(|(_, end)| end.get()).collect();
        assert_eq!(ends, [4096, 60_000]);
        assert_eq!(parts(&bitmap([], 0), 2, 1).len(), 2);
    }

    proptest! {
        #[test]
        fn nothing_is_lost(pfns in prop::collection::btree_set(0_u64..5000, 0..200), n in 1_usize..9, block in 0_u64..600) {
            let keep = bitmap(pfns.iter().copied(), 5000);
            let made = parts(&keep, n, block);
            prop_assert_eq!(made.len(), n);
            prop_assert_eq!((made[0].0.get(), made[n - 1].1.get()), (0, 5000));
            for pair in made.windows(2) {
                prop_assert_eq!(pair[0].1, pair[1].0);
            }
            prop_assert!(made.iter().all(|(a, b)| a <= b));
            prop_assert!(made.iter().all(|(a, _)| a.get() == 5000 || a.get().is_multiple_of(ALIGN)));
        }
    }
}

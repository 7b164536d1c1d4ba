//! A set of pages: one bit a pfn, kept in chunks so that what is all zeros or all ones takes no room.

use crate::addr::Pfn;
use std::collections::BTreeMap;
use zerocopy::IntoBytes;
use zerocopy::little_endian::U64;

/// Bits in a chunk.
const CHUNK_BITS: u64 = 1 << 15;
/// Words in a chunk.
const CHUNK_WORDS: usize = 512;
/// The bytes of a chunk without a set bit, and of one with all set.
static ZEROS: [u8; 4096] = [0; 4096];
static ONES: [u8; 4096] = [0xff; 4096];

/// A chunk with some bits set and some not; never none, never all.
#[derive(Clone, PartialEq, Eq)]
struct Mixed {
    words: Box<[U64; CHUNK_WORDS]>,
    set: u64,
}

/// A chunk with at least one bit set.
#[derive(Clone, PartialEq, Eq)]
enum Chunk {
    Full,
    Mixed(Mixed),
}

/// One bit a page. Memory: 4 KiB for each 32768 pfns that are neither all set nor all clear.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Bitmap {
    /// By pfn / [`CHUNK_BITS`]; chunks without a set bit are absent.
    chunks: BTreeMap<u64, Chunk>,
    len: u64,
}

impl std::fmt::Debug for Bitmap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bitmap({} of {} set, {} chunks)", self.count(), self.len, self.chunks.len())
    }
}

/// The words of a chunk that `[from, to)` touches, each with the mask of its touched bits. `to` ≤ [`CHUNK_BITS`].
fn masks(from: u64, to: u64) -> impl Iterator<Item = (usize, u64)> {
    let last = if from < to { to.div_ceil(64) } else { 0 };
    (from / 64..last).map(move |word| {
        let low = from.saturating_sub(word * 64).min(63);
        let high = to.saturating_sub(word * 64).min(64);
        let mask = (u64::MAX >> (64 - high)) & (u64::MAX << low);
        (usize::try_from(word).unwrap_or(usize::MAX), mask)
    })
}

impl Mixed {
    fn empty() -> Self {
        Self { words: Box::new([U64::ZERO; CHUNK_WORDS]), set: 0 }
    }
    fn full() -> Self {
        Self { words: Box::new([U64::from_bytes([0xff; 8]); CHUNK_WORDS]), set: CHUNK_BITS }
    }
    /// Sets or clears `[from, to)`; returns how many bits changed.
    fn assign(&mut self, from: u64, to: u64, value: bool) -> u64 {
        let mut changed = 0;
        for (index, mask) in masks(from, to) {
            if let Some(word) = self.words.get_mut(index) {
                let old = word.get();
                let new = if value { old | mask } else { old & !mask };
                changed += u64::from((old ^ new).count_ones());
                word.set(new);
            }
        }
        self.set = if value { self.set.saturating_add(changed) } else { self.set.saturating_sub(changed) };
        changed
    }
    /// The first bit at or after `from` that has `value`.
    fn find(&self, from: u64, value: bool) -> Option<u64> {
        let start = usize::try_from(from / 64).ok()?;
        let mut mask = u64::MAX << (from % 64);
        for (index, word) in self.words.iter().enumerate().skip(start) {
            let bits = if value { word.get() } else { !word.get() } & mask;
            if bits != 0 {
                return Some(index as u64 * 64 + u64::from(bits.trailing_zeros()));
            }
            mask = u64::MAX;
        }
        None
    }
}

impl Bitmap {
    /// Bytes of each piece that [`Bitmap::pieces`] yields, but the last.
    pub const PIECE: usize = 4096;

    /// `len` bits, none set.
    pub fn new(len: u64) -> Self {
        Self { chunks: BTreeMap::new(), len }
    }
    /// Number of bits.
    pub fn len(&self) -> u64 {
        self.len
    }
    /// No bits at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// Whether a pfn's bit is set; false past the end.
    pub fn get(&self, pfn: Pfn) -> bool {
        match self.chunks.get(&(pfn.get() / CHUNK_BITS)) {
            None => false,
            Some(Chunk::Full) => pfn.get() < self.len,
            Some(Chunk::Mixed(mixed)) => {
                let bit = pfn.get() % CHUNK_BITS;
                usize::try_from(bit / 64)
                    .ok()
                    .and_then(|word| mixed.words.get(word))
                    .is_some_and(|word| word.get() >> (bit % 64) & 1 == 1)
            }
        }
    }
    /// Number of bits set.
    pub fn count(&self) -> u64 {
        self.chunks
            .values()
            .map(|c| match c {
                Chunk::Full => CHUNK_BITS,
                Chunk::Mixed(mixed) => mixed.set,
            })
            .sum()
    }
    /// Sets `[start, end)`, as far as it is below [`Bitmap::len`]; returns how many bits were clear.
    pub fn set_range(&mut self, start: Pfn, end: Pfn) -> u64 {
        self.assign(start, end, true)
    }
    /// Clears `[start, end)`; returns how many bits were set.
    pub fn clear_range(&mut self, start: Pfn, end: Pfn) -> u64 {
        self.assign(start, end, false)
    }

    fn assign(&mut self, start: Pfn, end: Pfn, value: bool) -> u64 {
        let end = end.get().min(self.len);
        let mut at = start.get();
        let mut changed = 0;
        while at < end {
            let index = at / CHUNK_BITS;
            let base = index * CHUNK_BITS;
            let stop = end.min(base.saturating_add(CHUNK_BITS));
            changed += self.assign_chunk(index, at - base, stop - base, value);
            at = stop;
        }
        changed
    }

    /// Bits `[from, to)` of one chunk.
    fn assign_chunk(&mut self, index: u64, from: u64, to: u64, value: bool) -> u64 {
        let whole = to - from == CHUNK_BITS;
        match (self.chunks.get_mut(&index), value) {
            (Some(Chunk::Full), true) | (None, false) => 0,
            (None, true) if whole => {
                self.chunks.insert(index, Chunk::Full);
                CHUNK_BITS
            }
            (Some(Chunk::Full), false) if whole => {
                self.chunks.remove(&index);
                CHUNK_BITS
            }
            (None, true) => {
                let mut mixed = Mixed::empty();
                let changed = mixed.assign(from, to, true);
                self.chunks.insert(index, Chunk::Mixed(mixed));
                changed
            }
            (Some(chunk), _) => {
                let (changed, set) = match chunk {
                    Chunk::Mixed(mixed) => (mixed.assign(from, to, value), mixed.set),
                    Chunk::Full => {
                        let mut mixed = Mixed::full();
                        let changed = mixed.assign(from, to, false);
                        let set = mixed.set;
                        *chunk = Chunk::Mixed(mixed);
                        (changed, set)
                    }
                };
                if set == CHUNK_BITS {
                    *chunk = Chunk::Full;
                } else if set == 0 {
                    self.chunks.remove(&index);
                }
                changed
            }
        }
    }

    /// The first set bit at or after `from`.
    fn next_set(&self, from: u64) -> Option<u64> {
        for (index, chunk) in self.chunks.range(from / CHUNK_BITS..) {
            let base = index * CHUNK_BITS;
            let skip = from.saturating_sub(base);
            let found = match chunk {
                Chunk::Full => Some(skip),
                Chunk::Mixed(mixed) => mixed.find(skip, true),
            };
            if let Some(bit) = found {
                return Some(base + bit);
            }
        }
        None
    }

    /// The first clear bit at or after `from`; [`Bitmap::len`] when all are set.
    fn next_clear(&self, from: u64) -> u64 {
        let mut at = from;
        while at < self.len {
            let base = at / CHUNK_BITS * CHUNK_BITS;
            match self.chunks.get(&(at / CHUNK_BITS)) {
                None => return at,
                Some(Chunk::Full) => {}
                Some(Chunk::Mixed(mixed)) => {
                    if let Some(bit) = mixed.find(at - base, false) {
                        return (base + bit).min(self.len);
                    }
                }
            }
            at = base.saturating_add(CHUNK_BITS);
        }
        self.len
    }

    /// Runs of set bits, half-open `[start, end)`, ascending, apart from each other.
    pub fn runs(&self) -> impl Iterator<Item = (Pfn, Pfn)> + '_ {
        self.runs_in(Pfn::new(0), Pfn::new(self.len))
    }

    /// The same within `[start, end)` only.
    pub fn runs_in(&self, start: Pfn, end: Pfn) -> impl Iterator<Item = (Pfn, Pfn)> + '_ {
        let mut at = start.get();
        let end = end.get().min(self.len);
        std::iter::from_fn(move || {
            let start = self.next_set(at).filter(|start| *start < end)?;
            at = self.next_clear(start).min(end);
            Some((Pfn::new(start), Pfn::new(at)))
        })
    }

    /// Whether every bit of `[start, end)` is set.
    pub fn covers(&self, start: Pfn, end: Pfn) -> bool {
        end <= start || (end.get() <= self.len && self.next_clear(start.get()) >= end.get())
    }

    /// The bitmap as the kdump-compressed format has it, `len` bits rounded up to whole bytes: bit i of byte i/8, least
    /// significant first, is pfn i. In pieces of [`Bitmap::PIECE`] bytes, the last one shorter.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> + '_ {
        let total = self.len.div_ceil(8);
        let piece = Self::PIECE as u64;
        (0..total.div_ceil(piece)).map(move |index| {
            let bytes: &[u8] = match self.chunks.get(&index) {
                None => &ZEROS,
                Some(Chunk::Full) => &ONES,
                Some(Chunk::Mixed(mixed)) => mixed.words.as_bytes(),
            };
            let len = usize::try_from(total.saturating_sub(index * piece).min(piece)).unwrap_or(Self::PIECE);
            bytes.get(..len).unwrap_or(bytes)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn bytes(bitmap: &Bitmap) -> Vec<u8> {
        bitmap.pieces().flatten().copied().collect()
    }

    #[test]
    fn a_chunk_comes_and_goes() {
        let mut map = Bitmap::new(3 * CHUNK_BITS + 5);
        assert_eq!(map.set_range(Pfn::new(0), Pfn::new(u64::MAX)), 3 * CHUNK_BITS + 5);
        assert_eq!(map.runs().collect::<Vec<_>>(), [(Pfn::new(0), Pfn::new(3 * CHUNK_BITS + 5))]);
        assert_eq!(map.clear_range(Pfn::new(7), Pfn::new(8)), 1);
        assert_eq!(map.set_range(Pfn::new(7), Pfn::new(8)), 1);
        let mut whole = Bitmap::new(3 * CHUNK_BITS + 5);
        whole.set_range(Pfn::new(0), Pfn::new(3 * CHUNK_BITS + 5));
        assert!(map == whole, "equal sets are equal however they came about");
        assert_eq!(map.clear_range(Pfn::new(0), Pfn::new(u64::MAX)), 3 * CHUNK_BITS + 5);
        assert!(map == Bitmap::new(3 * CHUNK_BITS + 5));
        assert!(!map.get(Pfn::new(u64::MAX)));
    }

    #[test]
    fn a_far_page_takes_no_room() {
        let mut map = Bitmap::new(1 << 36);
        map.set_range(Pfn::new((1 << 36) - 1), Pfn::new(1 << 36));
        assert_eq!((map.count(), map.chunks.len()), (1, 1));
        assert_eq!(map.runs().count(), 1);
    }

    #[derive(Clone, Debug)]
    struct Step(u64, u64, bool);

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        // Ends near multiples of 64 and of a chunk are where mistakes are.
        let point = prop_oneof![
            0..70_000_u64,
            (0..3_u64, 0..5_u64).prop_map(|(n, d)| (n * CHUNK_BITS + d).saturating_sub(2)),
            (0..1100_u64, 0..5_u64).prop_map(|(n, d)| (n * 64 + d).saturating_sub(2)),
        ];
        prop::collection::vec(
            (point.clone(), point, any::<bool>()).prop_map(|(a, b, v)| Step(a, b, v)),
            0..12,
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn behaves_as_a_set_of_numbers(len in 0..70_000_u64, steps in steps()) {
            let mut map = Bitmap::new(len);
            let mut set = BTreeSet::new();
            for Step(start, end, value) in steps {
                let mut changed = 0;
                for pfn in start..end.min(len).max(start) {
                    changed += u64::from(if value { set.insert(pfn) } else { set.remove(&pfn) });
                }
                let (from, to) = (Pfn::new(start), Pfn::new(end));
                let seen = if value { map.set_range(from, to) } else { map.clear_range(from, to) };
                prop_assert_eq!(seen, changed);
                prop_assert_eq!(map.covers(from, to), (start..end).all(|p| set.contains(&p)));
            }
            prop_assert_eq!(map.count(), set.len() as u64);
            let from_runs: Vec<u64> = map.runs().flat_map(|(a, b)| a.get()..b.get()).collect();
            prop_assert_eq!(&from_runs, &set.iter().copied().collect::<Vec<_>>());
            let (from, to) = (Pfn::new(len / 3), Pfn::new(len / 2 + 9));
            let within: Vec<u64> = map.runs_in(from, to).flat_map(|(a, b)| a.get()..b.get()).collect();
            prop_assert_eq!(&within, &set.iter().copied().filter(|p| (len / 3..len / 2 + 9).contains(p)).collect::<Vec<_>>());
            let bytes = bytes(&map);
            prop_assert_eq!(bytes.len() as u64, len.div_ceil(8));
            for pfn in 0..len {
                let bit = bytes[usize::try_from(pfn / 8).unwrap()] >> (pfn % 8) & 1 == 1;
                prop_assert_eq!(bit, set.contains(&pfn));
                prop_assert_eq!(map.get(Pfn::new(pfn)), bit);
            }
        }
    }
}

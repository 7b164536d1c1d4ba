//! A set of pages: one bit a pfn, kept in chunks so that what is all zeros or all ones takes no room.

use crate::addr::Pfn;
use zerocopy::IntoBytes;
use zerocopy::little_endian::U64;

/// Bits in a chunk.
pub(super) const CHUNK_BITS: u64 = 1 << 15;
/// Words in a chunk.
pub(super) const CHUNK_WORDS: usize = 512;
/// Chunks in a group.
const GROUP: usize = 256;
/// Bits in a group.
const GROUP_BITS: u64 = CHUNK_BITS * GROUP as u64;
/// The bytes of a chunk with all bits set.
static ONES: [u8; 4096] = [0xff; 4096];

/// A chunk with some bits set and some not; never none, never all.
#[derive(Clone, PartialEq, Eq)]
struct Mixed {
    words: Box<[U64; CHUNK_WORDS]>,
    set: u64,
}

/// The bits of a chunk.
#[derive(Clone, PartialEq, Eq)]
enum Chunk {
    Empty,
    Full,
    Mixed(Mixed),
}

/// Chunks that are not all empty and not all full.
#[derive(Clone, PartialEq, Eq)]
struct Chunks {
    list: Box<[Chunk; GROUP]>,
    /// How many of them are full, and how many empty.
    full: usize,
    empty: usize,
}

/// The bits of a group.
#[derive(Clone, PartialEq, Eq)]
enum Group {
    Empty,
    Full,
    Chunks(Chunks),
}

/// One bit a page. Memory: 4 KiB for each 32768 pfns that are neither all set nor all clear, and 4 KiB for each 8 Mi
/// pfns that are neither.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Bitmap {
    /// By pfn / [`GROUP_BITS`]; groups without a set bit may be absent at the end.
    groups: Vec<Group>,
    len: u64,
}

impl std::fmt::Debug for Bitmap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bitmap({} of {} set)", self.count(), self.len)
    }
}

/// The words of a chunk that `[from, to)` touches, each with the mask of its touched bits. `to` ≤ [`CHUNK_BITS`].
pub(super) fn masks(from: u64, to: u64) -> impl Iterator<Item = (usize, u64)> {
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

impl Chunk {
    /// Whether all bits are `value`.
    fn is(&self, value: bool) -> bool {
        matches!((self, value), (Self::Full, true) | (Self::Empty, false))
    }
    fn count(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Full => CHUNK_BITS,
            Self::Mixed(mixed) => mixed.set,
        }
    }
    /// Sets or clears `[from, to)`; returns how many bits changed.
    fn assign(&mut self, from: u64, to: u64, value: bool) -> u64 {
        if self.is(value) {
            return 0;
        }
        if to.saturating_sub(from) == CHUNK_BITS {
            let changed = if value { CHUNK_BITS - self.count() } else { self.count() };
            *self = if value { Self::Full } else { Self::Empty };
            return changed;
        }
        let (changed, set) = match self {
            Self::Mixed(mixed) => (mixed.assign(from, to, value), mixed.set),
            Self::Full | Self::Empty => {
                let mut mixed = if value { Mixed::empty() } else { Mixed::full() };
                let changed = mixed.assign(from, to, value);
                let set = mixed.set;
                *self = Self::Mixed(mixed);
                (changed, set)
            }
        };
        if set == CHUNK_BITS {
            *self = Self::Full;
        } else if set == 0 {
            *self = Self::Empty;
        }
        changed
    }
    fn get(&self, bit: u64) -> bool {
        match self {
            Self::Empty => false,
            Self::Full => true,
            Self::Mixed(mixed) => usize::try_from(bit / 64)
                .ok()
                .and_then(|word| mixed.words.get(word))
                .is_some_and(|word| word.get() >> (bit % 64) & 1 == 1),
        }
    }
    /// The first bit at or after `from` that has `value`.
    fn find(&self, from: u64, value: bool) -> Option<u64> {
        match self {
            Self::Mixed(mixed) => mixed.find(from, value),
            other => other.is(value).then_some(from),
        }
    }
    fn from_words(words: &[u64; CHUNK_WORDS]) -> Self {
        let set: u64 = words.iter().map(|word| u64::from(word.count_ones())).sum();
        match set {
            0 => Self::Empty,
            CHUNK_BITS => Self::Full,
            _ => {
                let mut mixed = Mixed::empty();
                mixed.words.iter_mut().zip(words).for_each(|(to, from)| to.set(*from));
                mixed.set = set;
                Self::Mixed(mixed)
            }
        }
    }
}

impl Group {
    /// Whether all bits are `value`.
    fn is(&self, value: bool) -> bool {
        matches!((self, value), (Self::Full, true) | (Self::Empty, false))
    }
    fn chunk(&self, index: usize) -> &Chunk {
        match self {
            Self::Empty => &Chunk::Empty,
            Self::Full => &Chunk::Full,
            Self::Chunks(chunks) => chunks.list.get(index).unwrap_or(&Chunk::Empty),
        }
    }
    fn count(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Full => GROUP_BITS,
            Self::Chunks(chunks) => chunks.list.iter().map(Chunk::count).sum(),
        }
    }
    /// Changes one chunk.
    fn with_chunk<T: Default>(&mut self, index: usize, change: impl FnOnce(&mut Chunk) -> T) -> T {
        if !matches!(self, Self::Chunks(_)) {
            let full = matches!(self, Self::Full);
            let list = Box::new(std::array::from_fn(|_| if full { Chunk::Full } else { Chunk::Empty }));
            let (full, empty) = if full { (GROUP, 0) } else { (0, GROUP) };
            *self = Self::Chunks(Chunks { list, full, empty });
        }
        let Self::Chunks(chunks) = self else { return T::default() };
        let Some(chunk) = chunks.list.get_mut(index) else { return T::default() };
        let counted = |chunk: &Chunk| (usize::from(chunk.is(true)), usize::from(chunk.is(false)));
        let (full, empty) = counted(chunk);
        let result = change(chunk);
        let (now_full, now_empty) = counted(chunk);
        chunks.full = chunks.full.saturating_sub(full).saturating_add(now_full);
        chunks.empty = chunks.empty.saturating_sub(empty).saturating_add(now_empty);
        if chunks.full == GROUP {
            *self = Self::Full;
        } else if chunks.empty == GROUP {
            *self = Self::Empty;
        }
        result
    }
}

/// Which group a pfn is in, and which chunk of it.
fn place(pfn: u64) -> (usize, usize) {
    let group = usize::try_from(pfn / GROUP_BITS).unwrap_or(usize::MAX);
    (group, usize::try_from(pfn % GROUP_BITS / CHUNK_BITS).unwrap_or(0))
}

impl Bitmap {
    /// Bytes of each piece that [`Bitmap::pieces`] yields, but the last.
    pub const PIECE: usize = 4096;

    /// `len` bits, none set.
    pub fn new(len: u64) -> Self {
        Self { groups: Vec::new(), len }
    }
    /// Number of bits.
    pub fn len(&self) -> u64 {
        self.len
    }
    /// No bits at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    fn chunk(&self, pfn: u64) -> &Chunk {
        let (group, chunk) = place(pfn);
        self.groups.get(group).map_or(&Chunk::Empty, |group| group.chunk(chunk))
    }
    /// Whether a pfn's bit is set; false past the end.
    pub fn get(&self, pfn: Pfn) -> bool {
        self.chunk(pfn.get()).get(pfn.get() % CHUNK_BITS)
    }
    /// Number of bits set.
    pub fn count(&self) -> u64 {
        self.groups.iter().map(Group::count).sum()
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
            let (index, chunk) = place(at);
            let base = at / GROUP_BITS * GROUP_BITS;
            let whole = at == base && end - base >= GROUP_BITS;
            let stop = if whole { base + GROUP_BITS } else { end.min((at / CHUNK_BITS + 1) * CHUNK_BITS) };
            if let Some(group) = self.group_mut(index, value)
                && !group.is(value)
            {
                if whole {
                    changed += if value { GROUP_BITS - group.count() } else { group.count() };
                    *group = if value { Group::Full } else { Group::Empty };
                } else {
                    let first = at / CHUNK_BITS * CHUNK_BITS;
                    changed += group.with_chunk(chunk, |chunk| chunk.assign(at - first, stop - first, value));
                }
            }
            at = stop;
        }
        self.trim();
        changed
    }

    /// A group, which is made when there is none and bits are to be set.
    fn group_mut(&mut self, index: usize, make: bool) -> Option<&mut Group> {
        if make && index >= self.groups.len() {
            self.groups.resize(index.checked_add(1)?, Group::Empty);
        }
        self.groups.get_mut(index)
    }

    /// Takes empty groups from the end: equal sets are equal however they came about.
    fn trim(&mut self) {
        while self.groups.last().is_some_and(|group| group.is(false)) {
            self.groups.pop();
        }
    }

    /// The words of the chunk that begins at pfn `base`, a multiple of [`CHUNK_BITS`].
    pub(super) fn words(&self, base: u64, words: &mut [u64; CHUNK_WORDS]) {
        match self.chunk(base) {
            Chunk::Empty => words.fill(0),
            Chunk::Full => words.fill(u64::MAX),
            Chunk::Mixed(mixed) => {
                words.iter_mut().zip(mixed.words.iter()).for_each(|(to, from)| *to = from.get());
            }
        }
    }

    /// Replaces the words of the chunk that begins at pfn `base`; no bit at or past [`Bitmap::len`] may be set.
    pub(super) fn set_words(&mut self, base: u64, words: &[u64; CHUNK_WORDS]) {
        let chunk = Chunk::from_words(words);
        let (group, index) = place(base);
        if let Some(group) = self.group_mut(group, !chunk.is(false)) {
            group.with_chunk(index, |old| *old = chunk);
        }
        self.trim();
    }

    /// The first bit at or after `from` that has `value`, below [`Bitmap::len`].
    fn find(&self, from: u64, value: bool) -> Option<u64> {
        let mut at = from;
        while at < self.len {
            let (index, chunk) = place(at);
            let Some(group) = self.groups.get(index) else { return (!value).then_some(at) };
            if group.is(!value) {
                at = (at / GROUP_BITS + 1) * GROUP_BITS;
                continue;
            }
            let base = at / CHUNK_BITS * CHUNK_BITS;
            if let Some(bit) = group.chunk(chunk).find(at - base, value) {
                return Some(base + bit).filter(|at| *at < self.len);
            }
            at = base + CHUNK_BITS;
        }
        None
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
            let start = self.find(at, true).filter(|start| *start < end)?;
            at = self.find(start, false).unwrap_or(end).min(end);
            Some((Pfn::new(start), Pfn::new(at)))
        })
    }

    /// Whether every bit of `[start, end)` is set.
    pub fn covers(&self, start: Pfn, end: Pfn) -> bool {
        end <= start
            || (end.get() <= self.len && self.find(start.get(), false).is_none_or(|clear| clear >= end.get()))
    }

    /// The bitmap as the kdump-compressed format has it, `len` bits rounded up to whole bytes: bit i of byte i/8, least
    /// significant first, is pfn i. In pieces of [`Bitmap::PIECE`] bytes, each with the byte that it starts at; the last may
    /// be shorter, and those without a set bit are left out: address space is sparse, and costs no time where it is empty.
    pub fn pieces(&self) -> impl Iterator<Item = (u64, &[u8])> + '_ {
        let total = self.len.div_ceil(8);
        let piece = Self::PIECE as u64;
        let groups = (0_u64..).step_by(GROUP).zip(&self.groups).filter(|(_, group)| !group.is(false));
        groups.flat_map(move |(first, group)| {
            (0..GROUP).filter_map(move |index| {
                let bytes: &[u8] = match group.chunk(index) {
                    Chunk::Empty => return None,
                    Chunk::Full => &ONES,
                    Chunk::Mixed(mixed) => mixed.words.as_bytes(),
                };
                let at = first.saturating_add(index as u64).saturating_mul(piece);
                let len = usize::try_from(total.saturating_sub(at).min(piece)).unwrap_or(Self::PIECE);
                Some((at, bytes.get(..len).filter(|bytes| !bytes.is_empty())?))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn bytes(bitmap: &Bitmap) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(bitmap.len().div_ceil(8)).unwrap()];
        for (at, piece) in bitmap.pieces() {
            let at = usize::try_from(at).unwrap();
            assert!(at.is_multiple_of(Bitmap::PIECE) && piece.iter().any(|byte| *byte != 0));
            bytes[at..at + piece.len()].copy_from_slice(piece);
        }
        bytes
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
        assert_eq!((map.count(), map.groups.iter().filter(|g| !g.is(false)).count()), (1, 1));
        assert_eq!(map.runs().count(), 1);
        let pieces: Vec<_> =
            map.pieces().map(|(at, piece)| (at, piece.len(), piece.last().copied())).collect();
        assert_eq!(pieces, [((1 << 33) - 4096, 4096, Some(0x80))]);
    }

    #[test]
    fn words_go_in_and_come_out() {
        let mut map = Bitmap::new(2 * GROUP_BITS);
        map.set_range(Pfn::new(CHUNK_BITS), Pfn::new(2 * GROUP_BITS));
        let before = map.clone();
        let mut words = [7; CHUNK_WORDS];
        for base in [0, CHUNK_BITS, GROUP_BITS, 2 * GROUP_BITS - CHUNK_BITS] {
            let mut old = words;
            map.words(base, &mut old);
            words[0] = 0xf0;
            words[CHUNK_WORDS - 1] = 1;
            map.set_words(base, &words);
            let set: Vec<u64> = (base..base + CHUNK_BITS).filter(|pfn| map.get(Pfn::new(*pfn))).collect();
            let mut again = [0; CHUNK_WORDS];
            map.words(base, &mut again);
            assert_eq!(again, words);
            assert_eq!(set.len() as u64, words.iter().map(|w| u64::from(w.count_ones())).sum::<u64>());
            map.set_words(base, &old);
            assert!(map == before, "chunk {base:#x}");
        }
        for base in (CHUNK_BITS..2 * GROUP_BITS).step_by(1 << 15) {
            map.set_words(base, &[0; CHUNK_WORDS]);
        }
        assert!(map == Bitmap::new(2 * GROUP_BITS), "empty chunks leave nothing");
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

    /// Whole groups, which the test of every bit below is too slow for.
    #[test]
    fn groups_come_and_go() {
        let len = 3 * GROUP_BITS + 77;
        let mut map = Bitmap::new(len);
        assert_eq!(map.set_range(Pfn::new(5), Pfn::new(u64::MAX)), len - 5);
        assert_eq!(map.clear_range(Pfn::new(GROUP_BITS - 1), Pfn::new(2 * GROUP_BITS + 1)), GROUP_BITS + 2);
        assert_eq!(map.count(), len - 5 - GROUP_BITS - 2);
        let runs: Vec<_> = map.runs().map(|(a, b)| (a.get(), b.get())).collect();
        assert_eq!(runs, [(5, GROUP_BITS - 1), (2 * GROUP_BITS + 1, len)]);
        assert_eq!(map.set_range(Pfn::new(0), Pfn::new(len)), 5 + GROUP_BITS + 2);
        let mut whole = Bitmap::new(len);
        whole.set_range(Pfn::new(0), Pfn::new(len));
        assert!(map == whole);
        assert!(map.covers(Pfn::new(0), Pfn::new(len)) && !map.covers(Pfn::new(0), Pfn::new(len + 1)));
        assert_eq!(map.pieces().map(|(_, piece)| piece.len()).sum::<usize>() as u64, len.div_ceil(8));
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

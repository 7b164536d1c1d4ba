//! 64 pages at a time: what becomes of single pages, without a branch for each.
//!
//! Almost every page that is no block is decided by seven flags and two bits. A [`Batch`] gathers these from 64 consecutive
//! `struct page`s into an index of a table, whose entries were made by [`Rules::verdict`] itself; what the table cannot
//! decide — heads, page types — is left to it. Only where `struct page` is 64 bytes with its fields on words, as it is in
//! every 64-bit kernel of a distribution; other shapes are decided page by page.

use super::Reason;
use super::rules::{Rules, Verdict};
use crate::kernel::page::Places;
use zerocopy::{ByteOrder, FromBytes, U64};

/// Pages of a batch.
pub(super) const PAGES: usize = 64;
/// Bytes of the `struct page` that a batch is for.
pub(super) const SIZE: usize = 64;
/// Flags that matter, in the order of [`Places::masks`].
const FLAGS: usize = 7;
/// Bits of the flags' word that each of the two tables looks at.
const HALF: u32 = 12;
/// The index of a code: the flags, then these bits.
const ANON: usize = 1 << FLAGS;
const TAIL: usize = 1 << (FLAGS + 1);
const TYPED: usize = 1 << (FLAGS + 2);

/// A reason as three bits, 0 for a page that is kept.
const CODES: [Reason; 4] = [Reason::Cache, Reason::CachePrivate, Reason::User, Reason::Hwpoison];
/// The code of a page that the table cannot decide.
const SPECIAL: u8 = 7;

/// One `struct page`.
pub(super) type Words<O> = [U64<O>; SIZE / 8];

/// The tables for one level and one layout.
pub(super) struct Batch {
    flags: usize,
    mapping: usize,
    compound_head: usize,
    mapcount: usize,
    mapcount_shift: u32,
    low: Box<[u8; 1 << HALF]>,
    high: Box<[u8; 1 << HALF]>,
    codes: Box<[u8; 1 << (FLAGS + 3)]>,
}

/// What becomes of 64 pages: bit i is page i.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Masks {
    /// Pages to drop, by reason, in the order of [`Masks::REASONS`].
    pub drop: [u64; 4],
    /// Pages to ask [`Rules::verdict`] about.
    pub special: u64,
}

impl Masks {
    /// The reasons that a batch knows.
    pub const REASONS: [Reason; 4] = CODES;
}

impl Batch {
    /// `None` where pages have to be looked at one by one.
    pub fn new(rules: &Rules) -> Option<Self> {
        let places: Places = rules.layout().places()?;
        if rules.size() != SIZE || !places.mapcount.is_multiple_of(4) {
            return None;
        }
        let word = |at: usize| (at.is_multiple_of(8) && at < SIZE).then_some(at / 8);
        // Each flag has bits of its own, or a page could not be made up for a set of flags.
        let mut seen = 0_u64;
        for mask in places.masks {
            if mask >> (2 * HALF) != 0 || mask & seen != 0 {
                return None;
            }
            seen |= mask;
        }
        let gather = |shift: u32| {
            let mut table = Box::new([0_u8; 1 << HALF]);
            for (value, entry) in (0_u64..).zip(table.iter_mut()) {
                let hits = places.masks.iter().enumerate().filter(|(_, mask)| value << shift & **mask != 0);
                *entry = hits.fold(0, |bits, (flag, _)| bits | 1 << flag);
            }
            table
        };
        let second_half = places.mapcount.is_multiple_of(8) == places.big_endian;
        let mut batch = Self {
            flags: word(places.flags)?,
            mapping: word(places.mapping)?,
            compound_head: word(places.compound_head)?,
            mapcount: word(places.mapcount / 8 * 8)?,
            mapcount_shift: if second_half { 32 } else { 0 },
            low: gather(0),
            high: gather(HALF),
            codes: Box::new([0; 1 << (FLAGS + 3)]),
        };
        for index in 0..batch.codes.len() {
            let code = code(rules, &places, index);
            *batch.codes.get_mut(index)? = code;
        }
        Some(batch)
    }

    /// Looks at 64 `struct page`s.
    #[inline]
    pub fn classify<O: ByteOrder>(&self, pages: &[Words<O>; PAGES]) -> Masks {
        let mut codes = [0_u8; PAGES];
        for (code, page) in codes.iter_mut().zip(pages) {
            *code = self.code(page);
        }
        let [mut one, mut two, mut four] = [0_u64; 3];
        for (index, eight) in codes.as_chunks::<8>().0.iter().enumerate() {
            let eight = u64::from_le_bytes(*eight);
            if eight != 0 {
                one |= gather_bits(eight) << (index * 8);
                two |= gather_bits(eight >> 1) << (index * 8);
                four |= gather_bits(eight >> 2) << (index * 8);
            }
        }
        Masks { drop: [one & !two, two & !one, one & two & !four, four & !one], special: one & two & four }
    }

    /// The code of one page.
    #[inline]
    fn code<O: ByteOrder>(&self, page: &Words<O>) -> u8 {
        // The masks keep the compiler from checking what was checked when the batch was made.
        let word = |index: usize| page.get(index & (SIZE / 8 - 1)).map_or(0, |word| word.get());
        let flags = word(self.flags);
        let half = (1_u64 << HALF) - 1;
        let low = self.low.get(small(flags & half)).copied().unwrap_or(0);
        let high = self.high.get(small(flags >> HALF & half)).copied().unwrap_or(0);
        // A type is a negative number other than -1.
        let mapcount = word(self.mapcount) >> self.mapcount_shift & u64::from(u32::MAX);
        let typed = mapcount >= 1 << 31 && mapcount != u64::from(u32::MAX);
        let anon = small(word(self.mapping) & 1) * ANON;
        let tail = small(word(self.compound_head) & 1) * TAIL;
        let index = usize::from(low | high) | anon | tail | (usize::from(typed) * TYPED);
        self.codes.get(index & ((1 << (FLAGS + 3)) - 1)).copied().unwrap_or(SPECIAL)
    }

    /// Whether [`Rules::verdict`] has to decide about a page.
    #[inline]
    pub fn is_special<O: ByteOrder>(&self, page: &Words<O>) -> bool {
        self.code(page) == SPECIAL
    }
}

/// A number that was masked to few bits.
#[inline]
fn small(bits: u64) -> usize {
    usize::try_from(bits).unwrap_or(0)
}

/// Bit 0 of each byte: that of byte i as bit i.
#[inline]
fn gather_bits(bytes: u64) -> u64 {
    (bytes & 0x0101_0101_0101_0101).wrapping_mul(0x0102_0408_1020_4080) >> 56
}

/// What the rules say about a page with the bits of `index`.
fn code(rules: &Rules, places: &Places, index: usize) -> u8 {
    if index & TAIL != 0 {
        return 0;
    }
    let set = |flag: usize| index >> flag & 1 == 1;
    if index & TYPED != 0 || set(Places::HEAD) {
        return SPECIAL;
    }
    let flags = places.masks.iter().enumerate().filter(|(flag, _)| set(*flag));
    let flags = flags.fold(0, |all, (_, mask)| all | mask & mask.wrapping_neg());
    let mut page = [0_u8; SIZE];
    let mut put = |at: usize, value: u64, len: usize| {
        let bytes = if places.big_endian { value << (64 - 8 * len) } else { value };
        let bytes = if places.big_endian { bytes.to_be_bytes() } else { bytes.to_le_bytes() };
        if let (Some(to), Some(from)) = (page.get_mut(at..at + len), bytes.get(..len)) {
            to.copy_from_slice(from);
        }
    };
    put(places.flags, flags, 8);
    put(places.mapping, u64::from(index & ANON != 0), 8);
    put(places.mapcount, u32::MAX.into(), 4);
    match rules.verdict(0, &page, None) {
        Verdict::Keep(1) => 0,
        Verdict::Drop(reason, 1) => {
            let at = CODES.iter().position(|known| *known == reason);
            at.and_then(|at| u8::try_from(at + 1).ok()).unwrap_or(SPECIAL)
        }
        _ => SPECIAL,
    }
}

/// The first 64 `struct page`s of `window`.
#[inline]
pub(super) fn pages<O: ByteOrder>(window: &[u8]) -> Option<&[Words<O>; PAGES]> {
    <[Words<O>; PAGES]>::ref_from_prefix(window).ok().map(|(pages, _)| pages)
}

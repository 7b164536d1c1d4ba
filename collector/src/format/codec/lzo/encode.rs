//! The encoder: one pass, one candidate a position.
//!
//! Made for pages: positions are 16 bits; the table of positions stays in the first-level cache and is not cleared between
//! small pages; all is read from a copy of the page with slack behind it, so that loads of 8 and 16 bytes need no care for
//! its end, and the compiler sees that none leaves the array.

use super::{END, FAR, MAX_FIRST, NEAR, SHORT};

/// Longest input: positions are 16 bits.
const MAX_LEN: usize = 1 << 16;

/// Bytes behind the longest input that may be loaded; what they are does not matter.
const SLACK: usize = 16;

/// log2 of the table's entries: 8 KiB, a quarter of the smallest first-level cache.
const HASH_BITS: u32 = 12;

/// After `1 << SKIP` positions without a match every second one is tried, and so on.
const SKIP: u32 = 5;

/// A page, and room behind it.
type Text = [u8; MAX_LEN + SLACK];

/// What is kept from page to page.
pub struct Encoder {
    text: Box<Text>,
    /// Where four bytes with this hash were seen last: `base` + position.
    seen: Box<[u16; 1 << HASH_BITS]>,
    /// Where this page's entries begin; those of earlier pages, below it, wrap around to positions that lie ahead.
    base: u16,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").finish_non_exhaustive()
    }
}

impl Default for Encoder {
    fn default() -> Self {
        Self { text: Box::new([0; MAX_LEN + SLACK]), seen: Box::new([0; 1 << HASH_BITS]), base: 0 }
    }
}

/// The low 16 bits.
#[inline(always)]
fn low(x: usize) -> u16 {
    let [a, b, ..] = x.to_le_bytes();
    u16::from_le_bytes([a, b])
}

/// The `N` bytes at `at`. With `N` at most [`SLACK`] they are always there.
#[inline(always)]
fn load<const N: usize>(text: &Text, at: usize) -> [u8; N] {
    let at = usize::from(low(at));
    text.get(at..at + N).and_then(|b| b.first_chunk()).copied().unwrap_or([0; N])
}

#[inline(always)]
fn four(text: &Text, at: usize) -> u32 {
    u32::from_le_bytes(load(text, at))
}

/// How many bytes from `a` and from `b` on are the same, up to `end`; a < b <= end.
#[inline(always)]
fn common(text: &Text, mut a: usize, mut b: usize, end: usize) -> usize {
    let start = b;
    loop {
        let differ = u64::from_le_bytes(load(text, a)) ^ u64::from_le_bytes(load(text, b));
        if differ != 0 {
            return (b + (differ.trailing_zeros() / 8) as usize).min(end) - start;
        }
        (a, b) = (a + 8, b + 8);
        if b >= end {
            return end - start;
        }
    }
}

/// Where in the table four bytes belong. Knuth's multiplicative hash: the high bits depend on all of them.
#[inline(always)]
fn slot(four: u32) -> usize {
    (four.wrapping_mul(0x9e37_79b1) >> (32 - HASH_BITS)) as usize
}

impl Encoder {
    /// Compresses `page` to the start of `out`. `None`: it does not fit there, or the page is longer than 64 KiB.
    pub fn encode(&mut self, page: &[u8], out: &mut [u8]) -> Option<usize> {
        self.text.get_mut(..page.len()).filter(|_| page.len() <= MAX_LEN)?.copy_from_slice(page);
        let base = match usize::from(self.base) + page.len() {
            ..=MAX_LEN => self.base,
            _ => {
                self.seen.fill(0);
                0
            }
        };
        self.base = u16::try_from(usize::from(base) + page.len()).unwrap_or(u16::MAX);
        let mut out = Out { bytes: out, at: 0 };
        let rest = search(&self.text, &mut self.seen, base, page.len(), &mut out)?;
        out.long_literals(page.get(rest..)?)?;
        out.put(END)?;
        Some(out.at)
    }
}

/// Writes the matches of the first `len` bytes, with the literals before each, and returns where the last literals begin.
#[inline(always)]
fn search(
    text: &Text,
    seen: &mut [u16; 1 << HASH_BITS],
    base: u16,
    len: usize,
    out: &mut Out<'_>,
) -> Option<usize> {
    let Some(last) = len.checked_sub(4) else { return Some(0) };
    let mut anchor = 0;
    let mut at = 1;
    if let Some(entry) = seen.get_mut(slot(four(text, 0))) {
        *entry = base;
    }
    loop {
        let mut from;
        loop {
            if at > last {
                return Some(anchor);
            }
            let bytes = four(text, at);
            let entry = seen.get_mut(slot(bytes))?;
            from = usize::from(entry.wrapping_sub(base));
            *entry = base.wrapping_add(low(at));
            if from < at && four(text, from) == bytes && at - from <= FAR.1 {
                break;
            }
            at += 1 + ((at - anchor) >> SKIP);
        }
        let mut end = at + 4 + common(text, from + 4, at + 4, len);
        if end > len {
            end = len;
        }
        while at > anchor && from > 0 && load::<1>(text, at - 1) == load::<1>(text, from - 1) {
            (at, from) = (at - 1, from - 1);
        }
        out.sequence(text, anchor, at, at - from, end - at)?;
        anchor = end;
        at = end;
        if end <= last {
            let inside = end - 2;
            if let Some(entry) = seen.get_mut(slot(four(text, inside))) {
                *entry = base.wrapping_add(low(inside));
            }
        }
    }
}

/// The stream that is written.
struct Out<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl Out<'_> {
    #[inline(always)]
    fn put<const N: usize>(&mut self, bytes: [u8; N]) -> Option<()> {
        *self.bytes.get_mut(self.at..)?.first_chunk_mut()? = bytes;
        self.at += N;
        Some(())
    }

    /// The literals from `anchor` to `at`, then a match.
    #[inline(always)]
    fn sequence(&mut self, text: &Text, anchor: usize, at: usize, distance: usize, len: usize) -> Option<()> {
        let count = at - anchor;
        if count <= 16 && self.at > 0 {
            self.few_literals(load(text, anchor), count)?;
        } else {
            self.long_literals(text.get(anchor..at)?)?;
        }
        self.reference(distance, len)
    }

    #[inline(always)]
    fn few_literals(&mut self, bytes: [u8; 16], count: usize) -> Option<()> {
        let room: &mut [u8; 19] = self.bytes.get_mut(self.at - 2..)?.first_chunk_mut()?;
        let [count8, ..] = count.to_le_bytes();
        if count <= 3 {
            room[0] |= count8;
            *room.last_chunk_mut::<17>()?.first_chunk_mut()? = bytes;
            self.at += count;
        } else {
            room[2] = count8 - 3;
            *room.last_chunk_mut()? = bytes;
            self.at += count + 1;
        }
        Some(())
    }

    /// Literals at the start, at the end, or many.
    #[cold]
    fn long_literals(&mut self, literals: &[u8]) -> Option<()> {
        let count = literals.len();
        let [low, ..] = count.to_le_bytes();
        if count == 0 {
            return Some(());
        }
        if self.at == 0 && count <= MAX_FIRST {
            self.put([17 + low])?;
        } else if count <= 3 {
            *self.bytes.get_mut(self.at.checked_sub(2)?)? |= low;
        } else if count <= 18 {
            self.put([low - 3])?;
        } else {
            self.put([0])?;
            self.more(count - 18)?;
        }
        self.bytes.get_mut(self.at..)?.get_mut(..count)?.copy_from_slice(literals);
        self.at += count;
        Some(())
    }

    /// The bytes of a length that does not fit its instruction; `more` is what is left, at least 1.
    fn more(&mut self, mut more: usize) -> Option<()> {
        while more > 255 {
            self.put([0])?;
            more -= 255;
        }
        self.put([more.to_le_bytes()[0]])
    }

    #[inline(always)]
    fn reference(&mut self, distance: usize, len: usize) -> Option<()> {
        let [len8, ..] = len.to_le_bytes();
        if len <= SHORT.0 && distance <= SHORT.1 {
            let d = distance - 1;
            let word = ((len - 1) << 5) | ((d & 7) << 2) | ((d >> 3) << 8);
            self.put(low(word).to_le_bytes())
        } else if distance <= NEAR.1 {
            let d = distance - 1;
            if len <= NEAR.0 {
                self.put([32 | (len8 - 2)])?;
            } else {
                self.put([32])?;
                self.more(len - NEAR.0)?;
            }
            self.put(low(d << 2).to_le_bytes())
        } else {
            let d = distance - 0x4000;
            let high = u8::from(d >= 0x4000) << 3;
            if len <= FAR.0 {
                self.put([16 | high | (len8 - 2)])?;
            } else {
                self.put([16 | high])?;
                self.more(len - FAR.0)?;
            }
            self.put(low(d << 2).to_le_bytes())
        }
    }
}

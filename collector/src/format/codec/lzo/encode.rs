//! The encoder: one pass, one candidate a position.
//!
//! Made for pages. Positions are 16 bits, so that the table of positions is 8 KiB: it stays in the first-level cache, and
//! clearing it costs less than telling old entries from new ones would. All is read from a copy of the page with slack
//! behind it: loads of 8 and 16 bytes need no care for its end, and the compiler sees that none leaves the array.
//!
//! The table goes by five bytes, though a match needs four: matches of four save little, and each costs as much time as a
//! long one.

use super::{END, FAR, MAX_FIRST, NEAR, SHORT};

/// Longest input: positions are 16 bits.
const MAX_LEN: usize = 1 << 16;

/// Bytes behind the longest input that may be loaded; what they are does not matter.
const SLACK: usize = 16;

/// log2 of the table's entries.
const HASH_BITS: u32 = 12;

/// Positions without a match, as a power of two, after which every second group of four is left out; and so on.
const SKIP: u32 = 5;

/// A page, and room behind it.
type Text = [u8; MAX_LEN + SLACK];

/// Where bytes with this hash were seen last.
type Seen = [u16; 1 << HASH_BITS];

/// What is kept from page to page: only memory.
pub struct Encoder {
    text: Box<Text>,
    seen: Box<Seen>,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").finish_non_exhaustive()
    }
}

impl Default for Encoder {
    fn default() -> Self {
        Self { text: Box::new([0; MAX_LEN + SLACK]), seen: Box::new([0; 1 << HASH_BITS]) }
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

/// The same as a number.
#[inline(always)]
fn eight(text: &Text, at: usize) -> u64 {
    u64::from_le_bytes(load(text, at))
}

/// Where what starts at `b` ceases to be what starts at `a`; at most `end`. a < b.
#[inline(always)]
fn differs(text: &Text, mut a: usize, mut b: usize, end: usize) -> usize {
    while b < end {
        let differ = eight(text, a) ^ eight(text, b);
        if differ != 0 {
            return (b + (differ.trailing_zeros() / 8) as usize).min(end);
        }
        (a, b) = (a + 8, b + 8);
    }
    end
}

/// The entry for the low five bytes of a window: its high bits times an odd number depend on all of them.
#[inline(always)]
fn entry(seen: &mut Seen, window: u64) -> Option<&mut u16> {
    let hash = (window << 24).wrapping_mul(0x9e37_79b1_85eb_ca87) >> (64 - HASH_BITS);
    seen.get_mut(usize::try_from(hash).ok()?)
}

impl Encoder {
    /// Compresses `page` to the start of `out`. `None`: it does not fit there, or the page is longer than 64 KiB.
    pub fn encode(&mut self, page: &[u8], out: &mut [u8]) -> Option<usize> {
        self.text.get_mut(..page.len()).filter(|_| page.len() <= MAX_LEN)?.copy_from_slice(page);
        self.seen.fill(0);
        let mut out = Out { bytes: out, at: 0 };
        let rest = if page.len() <= NEAR.1 {
            search::<true>(&self.text, &mut self.seen, page.len(), &mut out)
        } else {
            search::<false>(&self.text, &mut self.seen, page.len(), &mut out)
        }?;
        out.literals(page.get(rest..)?)?;
        out.put(END)?;
        Some(out.at)
    }
}

/// Writes the matches of the first `len` bytes, with the literals before each, and returns where the last literals begin.
/// `NEAR_ONLY`: no match of them can be out of reach of the near form.
#[inline(always)]
fn search<const NEAR_ONLY: bool>(
    text: &Text,
    seen: &mut Seen,
    len: usize,
    out: &mut Out<'_>,
) -> Option<usize> {
    let last = len.saturating_sub(8);
    let mut anchor = 0;
    // Nothing is seen at first: all entries are 0, and what is there is compared with the first bytes.
    let mut at = 1;
    // The first literals have a form of their own.
    let mut few = 0;
    'next: while at <= last {
        let window = eight(text, at);
        for k in 0..4 {
            let here = window >> (8 * k);
            let start = at + k;
            let entry = entry(seen, here)?;
            let from = usize::from(*entry);
            *entry = low(start);
            let same = load::<4>(text, from) == *here.to_le_bytes().first_chunk()?;
            if same && (NEAR_ONLY || start - from <= FAR.1) {
                let end = differs(text, from + 4, start + 4, len);
                let (count, distance, len) = (start - anchor, start - from, end - start);
                if count > few || len > NEAR.0 || (!NEAR_ONLY && distance > NEAR.1) {
                    out.literals(text.get(anchor..start)?)?;
                    out.reference(distance, len)?;
                    few = 16;
                } else {
                    out.short(load(text, anchor), count, distance, len)?;
                }
                // One more position from within the match; more of them cost more than they find.
                let inside = end - 2;
                *self::entry(seen, eight(text, inside))? = low(inside);
                (anchor, at) = (end, end);
                continue 'next;
            }
        }
        at += 4 + ((at - anchor) >> SKIP);
    }
    Some(anchor)
}

/// The stream that is written.
struct Out<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl Out<'_> {
    fn put<const N: usize>(&mut self, bytes: [u8; N]) -> Option<()> {
        *self.bytes.get_mut(self.at..)?.first_chunk_mut()? = bytes;
        self.at += N;
        Some(())
    }

    /// At most 16 literals after another match, then one that is no longer than [`NEAR`] and no farther.
    #[inline(always)]
    fn short(&mut self, literals: [u8; 16], count: usize, distance: usize, len: usize) -> Option<()> {
        // From the last two bits of the match before, to the end of the widest stores.
        let room: &mut [u8; 24] = self.bytes.get_mut(self.at.wrapping_sub(2)..)?.first_chunk_mut()?;
        let [count8, ..] = count.to_le_bytes();
        let run = if count > 3 {
            room[2] = count8.wrapping_sub(3);
            *room.get_mut(3..19)?.first_chunk_mut()? = literals;
            1
        } else {
            room[0] |= count8;
            *room.get_mut(2..6)?.first_chunk_mut()? = *literals.first_chunk::<4>()?;
            0
        };
        let used = count + run;
        let d = distance - 1;
        let short = len <= SHORT.0 && distance <= SHORT.1;
        // Chosen without a branch: which it is has no pattern, as has not how many literals there are.
        let word = if short {
            ((len - 1) << 5) | ((d & 7) << 2) | ((d >> 3) << 8)
        } else {
            32 | (len - 2) | (d << 10)
        };
        let [a, b, c, e, ..] = word.to_le_bytes();
        *room.get_mut(2 + used..6 + used)?.first_chunk_mut()? = [a, b, c, e];
        self.at += used + 3 - usize::from(short);
        Some(())
    }

    /// Literals at the start, at the end, or many.
    #[cold]
    fn literals(&mut self, literals: &[u8]) -> Option<()> {
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

    #[cold]
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

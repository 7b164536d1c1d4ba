//! A bitmap of pages as it lies in a dump: read once, asked for single bits, runs and ranks.

use super::ReadAt;
use crate::addr::{FileOffset, Pfn};
use std::io;

/// Bytes of a chunk.
const CHUNK: usize = 4096;
/// Bits of a chunk.
const CHUNK_BITS: u64 = CHUNK as u64 * 8;
/// Bytes that are read at a time.
const BATCH: usize = 1 << 20;

#[derive(Clone)]
enum Chunk {
    Zeros,
    Ones,
    Mixed(Box<[u8; CHUNK]>),
}

impl Chunk {
    fn of(bytes: &[u8]) -> Self {
        if crate::format::is_zero(bytes) {
            return Self::Zeros;
        }
        if bytes.len() == CHUNK && bytes.iter().all(|b| *b == 0xff) {
            return Self::Ones;
        }
        let mut chunk = Box::new([0; CHUNK]);
        chunk.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        Self::Mixed(chunk)
    }
    fn count(&self) -> u64 {
        match self {
            Self::Zeros => 0,
            Self::Ones => CHUNK_BITS,
            Self::Mixed(bytes) => count(bytes.as_slice()),
        }
    }
    /// The first bit at or after `from` that has `value`.
    fn find(&self, from: u64, value: bool) -> Option<u64> {
        let bytes = match (self, value) {
            (Self::Zeros, false) | (Self::Ones, true) => return Some(from),
            (Self::Zeros, true) | (Self::Ones, false) => return None,
            (Self::Mixed(bytes), _) => bytes,
        };
        let (words, _) = bytes.as_chunks::<8>();
        let start = usize::try_from(from / 64).ok()?;
        let mut mask = u64::MAX << (from % 64);
        for (index, word) in words.iter().enumerate().skip(start) {
            let word = u64::from_le_bytes(*word);
            let bits = if value { word } else { !word } & mask;
            if bits != 0 {
                return Some(index as u64 * 64 + u64::from(bits.trailing_zeros()));
            }
            mask = u64::MAX;
        }
        None
    }
}

fn count(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let words: u64 = words.iter().map(|w| u64::from(u64::from_ne_bytes(*w).count_ones())).sum();
    words + rest.iter().map(|b| u64::from(b.count_ones())).sum::<u64>()
}

/// One bit a page, with sums, so that a bit's rank is quick. Memory: what of the bitmap is neither all zeros nor all ones,
/// and 24 bytes for each 32768 pages.
#[derive(Clone, Default)]
pub struct PageBits {
    chunks: Vec<Chunk>,
    /// Bits set before each chunk.
    sums: Vec<u64>,
    set: u64,
    len: u64,
}

impl std::fmt::Debug for PageBits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PageBits({} of {} set)", self.set, self.len)
    }
}

impl PageBits {
    /// Reads `len` bits, least significant first, from `at`. Nothing is allocated unless the source is that long.
    pub fn read(source: &dyn ReadAt, at: FileOffset, len: u64) -> io::Result<Self> {
        let bytes = len.div_ceil(8);
        if at.checked_add(bytes).is_none_or(|end| end.get() > source.size()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let memory = |_| io::Error::from(io::ErrorKind::OutOfMemory);
        let mut bits = Self { len, ..Self::default() };
        let chunks = usize::try_from(bytes.div_ceil(CHUNK as u64)).map_err(io::Error::other)?;
        bits.chunks.try_reserve_exact(chunks).map_err(memory)?;
        bits.sums.try_reserve_exact(chunks).map_err(memory)?;
        let mut buf = vec![0; BATCH.min(usize::try_from(bytes).unwrap_or(BATCH))];
        let mut done = 0;
        while done < bytes {
            let take = usize::try_from(bytes - done).unwrap_or(usize::MAX).min(buf.len());
            let Some(piece) = buf.get_mut(..take) else { break };
            let from = at.checked_add(done).ok_or(io::ErrorKind::UnexpectedEof)?;
            source.read_at(from, piece)?;
            done += take as u64;
            // Bits past the end stand for nothing.
            if let (true, Some(last), 1..) = (done == bytes, piece.last_mut(), len % 8) {
                *last &= (1 << (len % 8)) - 1;
            }
            piece.chunks(CHUNK).for_each(|chunk| bits.push(Chunk::of(chunk)));
        }
        Ok(bits)
    }

    fn push(&mut self, chunk: Chunk) {
        self.sums.push(self.set);
        self.set += chunk.count();
        self.chunks.push(chunk);
    }

    /// Number of bits.
    pub fn len(&self) -> u64 {
        self.len
    }
    /// No bits at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// Number of bits set.
    pub fn count(&self) -> u64 {
        self.set
    }
    /// Whether a page's bit is set; false past the end.
    pub fn get(&self, pfn: Pfn) -> bool {
        let (chunk, bit) = split(pfn.get());
        match self.chunks.get(chunk) {
            None | Some(Chunk::Zeros) => false,
            Some(Chunk::Ones) => pfn.get() < self.len,
            Some(Chunk::Mixed(bytes)) => {
                let byte = usize::try_from(bit / 8).ok().and_then(|b| bytes.get(b));
                byte.is_some_and(|b| b >> (bit % 8) & 1 == 1)
            }
        }
    }
    /// Bits set before `pfn`.
    pub fn rank(&self, pfn: Pfn) -> u64 {
        let (chunk, bit) = split(pfn.get());
        let (Some(sum), Some(chunk)) = (self.sums.get(chunk), self.chunks.get(chunk)) else {
            return self.set;
        };
        sum + match chunk {
            Chunk::Zeros => 0,
            Chunk::Ones => bit,
            Chunk::Mixed(bytes) => {
                let byte = usize::try_from(bit / 8).unwrap_or(CHUNK);
                let part = bytes.get(byte).copied().unwrap_or(0) & ((1 << (bit % 8)) - 1);
                count(bytes.get(..byte).unwrap_or_default()) + u64::from(part.count_ones())
            }
        }
    }
    /// The first page at or after `from` whose bit is `value`; for `false` at most [`PageBits::len`].
    fn find(&self, from: u64, value: bool) -> Option<u64> {
        let (first, mut bit) = split(from);
        for (index, chunk) in self.chunks.iter().enumerate().skip(first) {
            if let Some(found) = chunk.find(bit, value) {
                return Some((index as u64 * CHUNK_BITS + found).min(self.len));
            }
            bit = 0;
        }
        if value { None } else { Some(self.len.max(from)) }
    }
    /// How many set bits in a row start at `pfn`; 0 where it is clear.
    pub fn run_at(&self, pfn: Pfn) -> u64 {
        self.find(pfn.get(), false).unwrap_or(self.len).saturating_sub(pfn.get())
    }
    /// Runs of set bits within `[start, end)`: half-open, ascending, apart from each other.
    pub fn runs_in(&self, start: Pfn, end: Pfn) -> impl Iterator<Item = (Pfn, Pfn)> + '_ {
        let end = end.get().min(self.len);
        let mut at = start.get();
        std::iter::from_fn(move || {
            let from = self.find(at, true).filter(|from| *from < end)?;
            at = self.find(from, false).unwrap_or(end).min(end);
            Some((Pfn::new(from), Pfn::new(at)))
        })
    }
    /// All runs of set bits.
    pub fn runs(&self) -> impl Iterator<Item = (Pfn, Pfn)> + '_ {
        self.runs_in(Pfn::new(0), Pfn::new(self.len))
    }
    /// How many bits are set here and not in `other`.
    pub fn beyond(&self, other: &Self) -> u64 {
        self.runs().map(|(a, b)| (b.get() - a.get()).saturating_sub(other.rank(b) - other.rank(a))).sum()
    }
}

/// The chunk of a bit, and its place there.
fn split(bit: u64) -> (usize, u64) {
    (usize::try_from(bit / CHUNK_BITS).unwrap_or(usize::MAX), bit % CHUNK_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(bytes: &[u8], len: u64) -> io::Result<PageBits> {
        PageBits::read(&bytes.to_vec(), FileOffset::new(0), len)
    }

    #[test]
    fn what_is_not_in_the_file_is_not_read() {
        assert!(read(&[0xff; 4], 33).is_err());
        assert!(read(&[0xff; 4], u64::MAX).is_err());
        let bits = read(&[0xff; 4], 29).unwrap();
        assert_eq!(
            (bits.count(), bits.len(), bits.get(Pfn::new(28)), bits.get(Pfn::new(29))),
            (29, 29, true, false)
        );
    }

    proptest! {
        /// As a naive list of booleans, over chunks that are all zeros, all ones and mixed.
        #[test]
        fn answers_as_a_list_does(
            runs in prop::collection::vec((0_u64..110_000, 1_u64..50_000), 0..8),
            len in 1_u64..131_072,
            at in 0_u64..131_072,
        ) {
            let mut naive = vec![false; usize::try_from(len).unwrap()];
            for (start, n) in runs {
                (start..len.min(start + n)).for_each(|i| naive[usize::try_from(i).unwrap()] = true);
            }
            let mut bytes = vec![0_u8; naive.len().div_ceil(8)];
            naive.iter().enumerate().filter(|(_, b)| **b).for_each(|(i, _)| bytes[i / 8] |= 1 << (i % 8));
            // Bits past the end are somebody else's.
            if len % 8 != 0 { *bytes.last_mut().unwrap() |= 0xff << (len % 8); }
            let bits = read(&bytes, len).unwrap();
            let index = usize::try_from(at.min(len)).unwrap();
            prop_assert_eq!(bits.count(), naive.iter().filter(|b| **b).count() as u64);
            prop_assert_eq!(bits.rank(Pfn::new(at)), naive[..index].iter().filter(|b| **b).count() as u64);
            prop_assert_eq!(bits.get(Pfn::new(at)), naive.get(index).copied().unwrap_or(false) && at < len);
            let run = naive[index..].iter().take_while(|b| **b).count() as u64;
            prop_assert_eq!(bits.run_at(Pfn::new(at)), run);
            let mut from_runs = vec![false; naive.len()];
            for (a, b) in bits.runs() {
                prop_assert!(a < b);
                (a.get()..b.get()).for_each(|i| from_runs[usize::try_from(i).unwrap()] = true);
            }
            prop_assert_eq!(from_runs, naive);
        }
    }
}

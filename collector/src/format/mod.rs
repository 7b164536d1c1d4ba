//! Out: the containers a dump is written in, and the reader of the main one.
//!
//! Each writer takes the same [`Job`], writes to a [`DumpSink`], and gives back [`Written`]: bytes and the account of
//! pages. A sink that fails leaves as valid a file as can be had, labelled incomplete inside.

mod codec;
pub mod elf;
pub mod kdump;
pub mod layout;
mod pages;
pub mod raw;
pub mod read;

pub use codec::DecodeError;
pub use pages::{PageReader, PageSource};

use crate::addr::{FileOffset, Pfn};
use crate::filter::{Account, Bitmap, Selection};
use crate::manifest::Stage;
use crate::problem::{Code, Problems};
use crate::progress::Progress;
use crate::vmcore::ReadError;
use std::io;

/// Where a dump's bytes go. Positions may come in any order; gaps read as zero.
pub trait DumpSink {
    /// Writes all of `bytes` at `at`.
    fn write_at(&mut self, at: FileOffset, bytes: &[u8]) -> io::Result<()>;
    /// Makes everything written durable.
    fn finish(&mut self) -> io::Result<()>;
}

/// What a writer works on.
#[expect(missing_debug_implementations, reason = "holds a dead kernel's memory")]
pub struct Job<'a> {
    /// The dump's name, for progress and problems.
    pub name: &'a str,
    /// Which pages.
    pub selection: &'a Selection,
    /// Where they are read.
    pub pages: &'a dyn PageSource,
    /// Who is told how far it is.
    pub progress: &'a dyn Progress,
}

/// What a writer did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Written {
    /// Length of the file.
    pub bytes: u64,
    /// What became of each page; balanced.
    pub account: Account,
}

impl Written {
    /// Every page that was to be kept is in the file.
    pub fn complete(&self) -> bool {
        self.account.unreadable == 0 && self.account.unwritten == 0
    }
}

/// The sink failed.
#[derive(Debug)]
pub struct SinkFailure {
    /// What it said.
    pub source: io::Error,
    /// What had been written until then.
    pub written: Written,
}

/// Pages between two reports of progress: about 16 MiB of 4 KiB pages.
const REPORT_EVERY: u64 = 4096;

impl Job<'_> {
    fn report(&self, done: u64, total: u64, bytes: u64) {
        self.progress.update(Stage::Dump, &format!("writing {}", self.name), done, total, bytes);
    }

    fn unreadable(&self, problems: &mut Problems, pfn: Pfn, why: &ReadError) {
        let why = crate::engine::chain(why);
        problems.push(
            Code::PAGE_UNREADABLE,
            format!("{}: page {pfn} could not be read and is missing: {why}", self.name),
        );
    }
}

/// Runs of set bits of `bitmap` within `[from, to)`, half-open, ascending. Whole words at a time.
fn runs_within(bitmap: &Bitmap, from: u64, to: u64) -> Runs<'_> {
    Runs::new(bitmap.bytes(), from, to.min(bitmap.len()))
}

/// See [`runs_within`].
struct Runs<'a> {
    bytes: &'a [u8],
    at: u64,
    end: u64,
}

impl<'a> Runs<'a> {
    fn new(bytes: &'a [u8], from: u64, to: u64) -> Self {
        Self { bytes, at: from, end: to.min((bytes.len() as u64).saturating_mul(8)) }
    }

    /// The 64 bits from bit `word * 64`; zeros past the end.
    fn word(&self, word: u64) -> u64 {
        let start = usize::try_from(word.saturating_mul(8)).unwrap_or(usize::MAX).min(self.bytes.len());
        let rest = self.bytes.get(start..).unwrap_or_default();
        let mut eight = [0; 8];
        eight.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        u64::from_le_bytes(eight)
    }

    /// The first bit at or after `from` that equals `set`, at most `end`.
    fn seek(&self, from: u64, set: bool) -> u64 {
        let mut at = from;
        while at < self.end {
            let word = self.word(at / 64);
            let wanted = (if set { word } else { !word }) >> (at % 64);
            if wanted != 0 {
                return at.saturating_add(u64::from(wanted.trailing_zeros())).min(self.end);
            }
            at = (at / 64 + 1).saturating_mul(64);
        }
        self.end
    }
}

impl Iterator for Runs<'_> {
    type Item = (u64, u64);
    fn next(&mut self) -> Option<(u64, u64)> {
        let start = self.seek(self.at, true);
        if start >= self.end {
            return None;
        }
        self.at = self.seek(start, false);
        Some((start, self.at))
    }
}

/// Whether all bytes are zero. 128 bytes a step, which becomes vector code on every architecture.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    let (blocks, rest) = bytes.as_chunks::<128>();
    blocks.iter().all(|block| block.iter().fold(0, |all, byte| all | byte) == 0)
        && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
pub(crate) mod testing;

#[cfg(test)]
mod tests {

    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn runs_are_those_of_a_naive_scan(bits in proptest::collection::vec(any::<bool>(), 0..400), from in 0_u64..400, to in 0_u64..450) {
            let map = bitmap(&bits);
            let mut naive = vec![];
            for pfn in (from..to).filter(|p| bits.get(*p as usize) == Some(&true)) {
                match naive.last_mut() {
                    Some((_, end)) if *end == pfn => *end = pfn + 1,
                    _ => naive.push((pfn, pfn + 1)),
                }
            }
            prop_assert_eq!(runs_within(&map, from, to).collect::<Vec<_>>(), naive);
        }

        #[test]
        fn zero_is_zero(len in 0_usize..600, hot in proptest::option::of(0_usize..600)) {
            let mut bytes = vec![0; len];
            let hot = hot.filter(|h| *h < len);
            if let Some(h) = hot { bytes[h] = 0x80; }
            prop_assert_eq!(is_zero(&bytes), hot.is_none());
        }
    }
}

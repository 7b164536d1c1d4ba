//! Out: the containers a dump is written in, and the readers of those that are filtered again.
//!
//! Each writer takes the same [`Job`], writes to a [`DumpSink`], and gives back [`Written`]: bytes and the account of
//! pages. A sink that fails leaves as valid a file as can be had, labelled incomplete inside.

pub mod batch;
pub mod codec;
pub mod elf;
mod estimate;
pub mod kdump;
pub mod layout;
mod pages;
pub mod raw;
pub mod read;
pub mod rearrange;
pub mod reassemble;
pub mod split;
pub mod stream;

pub use codec::lz4::Lz4;
pub use codec::{DecodeError, Decoder, Encoder};
pub use estimate::estimate;
pub use pages::{PageReader, PageSource};

use crate::addr::{FileOffset, Pfn};
use crate::filter::{Account, Selection};
use crate::manifest::Stage;
use crate::problem::{Code, Problems};
use crate::progress::Progress;
use crate::vmcore::ReadError;
use std::io;

/// Where a dump's bytes go. Several threads may write at once. Positions may come in any order; gaps read as zero.
pub trait DumpSink: Sync {
    /// Writes all of `bytes` at `at`.
    fn write_at(&self, at: FileOffset, bytes: &[u8]) -> io::Result<()>;
    /// Makes everything written durable.
    fn finish(&self) -> io::Result<()>;
    /// Whether bytes leave as they come, as into a pipe: nothing is to be written twice, and pieces are to be large.
    fn is_stream(&self) -> bool {
        false
    }
}

/// Takes everything and keeps nothing: what a dry run writes to.
#[derive(Clone, Copy, Debug)]
pub struct Nowhere;

impl DumpSink for Nowhere {
    fn write_at(&self, _: FileOffset, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
    fn finish(&self) -> io::Result<()> {
        Ok(())
    }
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
    /// Threads that read, compress and write, the calling one among them; 0 means 1.
    pub threads: usize,
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

impl Job<'_> {
    fn report(&self, done: u64, total: u64, bytes: u64) {
        self.progress.update(Stage::Dump, &format!("writing {}", self.name), done, total, bytes);
    }
}

/// Records that a page of the dump `name` is missing.
fn unreadable(name: &str, problems: &mut Problems, pfn: Pfn, why: &ReadError) {
    let why = crate::engine::chain(why);
    problems
        .push(Code::PAGE_UNREADABLE, format!("{name}: page {pfn} could not be read and is missing: {why}"));
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
        fn zero_is_zero(len in 0_usize..600, hot in proptest::option::of(0_usize..600)) {
            let mut bytes = vec![0; len];
            let hot = hot.filter(|h| *h < len);
            if let Some(h) = hot { bytes[h] = 0x80; }
            prop_assert_eq!(is_zero(&bytes), hot.is_none());
        }
    }
}

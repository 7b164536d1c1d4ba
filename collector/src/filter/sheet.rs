//! One chunk of pfns while it is being decided: which of its pages the vmcore has, which are still kept.

use super::bitmap::{CHUNK_BITS, CHUNK_WORDS, masks};
use super::{Account, Bitmap, Reason};

/// The pages of a chunk.
pub(super) struct Sheet {
    /// First pfn.
    base: u64,
    /// The vmcore has them all.
    whole: bool,
    /// Some were dropped.
    changed: bool,
    present: Box<[u64; CHUNK_WORDS]>,
    keep: Box<[u64; CHUNK_WORDS]>,
    /// What was dropped, of this chunk and those before.
    pub account: Account,
}

impl Sheet {
    pub fn new() -> Self {
        Self {
            base: 0,
            whole: false,
            changed: false,
            present: Box::new([0; CHUNK_WORDS]),
            keep: Box::new([0; CHUNK_WORDS]),
            account: Account::default(),
        }
    }

    /// Takes up the chunk that begins at `base`.
    pub fn load(&mut self, base: u64, present: &Bitmap) {
        self.base = base;
        self.changed = false;
        present.words(base, &mut self.present);
        self.whole = self.present.iter().all(|word| *word == u64::MAX);
        self.keep.copy_from_slice(&self.present[..]);
    }

    /// The pages that are kept, if they are others than the vmcore has.
    pub fn kept(&self) -> Option<&[u64; CHUNK_WORDS]> {
        self.changed.then_some(&self.keep)
    }

    /// Whether the vmcore has all pages of a block, and the block ends in this chunk.
    pub fn covers(&self, pfn: u64, pages: u64) -> bool {
        let Some(from) = pfn.checked_sub(self.base) else { return false };
        let Some(to) = from.checked_add(pages).filter(|to| *to <= CHUNK_BITS) else { return false };
        self.whole
            || masks(from, to)
                .all(|(word, mask)| self.present.get(word).is_some_and(|bits| bits & mask == mask))
    }

    /// Drops pages that [`Sheet::covers`]. Only those that were still kept count, so none counts twice.
    pub fn drop_block(&mut self, reason: Reason, pfn: u64, pages: u64) {
        let from = pfn.saturating_sub(self.base);
        let mut dropped = 0;
        for (word, mask) in masks(from, from.saturating_add(pages).min(CHUNK_BITS)) {
            if let Some(bits) = self.keep.get_mut(word) {
                dropped += u64::from((*bits & mask).count_ones());
                *bits &= !mask;
            }
        }
        self.changed |= dropped > 0;
        self.account.drop_pages(reason, dropped);
    }

    /// Drops pages of the 64 from `pfn` on, a multiple of 64: bit i of `mask` is page i.
    #[inline]
    pub fn drop_mask(&mut self, reason: Reason, pfn: u64, mask: u64) {
        if mask == 0 {
            return;
        }
        let word = pfn.saturating_sub(self.base) / 64;
        if let Some(bits) = usize::try_from(word).ok().and_then(|word| self.keep.get_mut(word)) {
            let dropped = u64::from((*bits & mask).count_ones());
            *bits &= !mask;
            self.changed |= dropped > 0;
            self.account.drop_pages(reason, dropped);
        }
    }
}

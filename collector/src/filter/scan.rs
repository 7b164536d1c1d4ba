//! The scan of mem_map: once, in windows as big as lie in one piece, block by block.

use super::rules::{Rules, Verdict};
use super::{Account, Bitmap, Reason};
use crate::addr::Pfn;
use crate::kernel::Kernel;
use crate::kernel::memmap::Stretch;
use crate::manifest::Stage;
use crate::problem::{Code, Problems};
use crate::progress::Progress;

/// A scan under way.
pub(super) struct Scan<'s, 'k, 'a> {
    pub kernel: &'k Kernel<'a>,
    pub rules: &'s Rules,
    pub present: &'s Bitmap,
    pub keep: Bitmap,
    pub account: Account,
    pub problems: &'s mut Problems,
    /// Dropped but not yet cleared: neighbours of one reason are cleared together.
    pending: Option<(Reason, u64, u64)>,
    /// Pages below are decided: a block may reach past its stretch.
    decided: u64,
}

impl<'s, 'k, 'a> Scan<'s, 'k, 'a> {
    pub fn new(
        kernel: &'k Kernel<'a>,
        rules: &'s Rules,
        present: &'s Bitmap,
        problems: &'s mut Problems,
    ) -> Self {
        let keep = present.clone();
        Self {
            kernel,
            rules,
            present,
            keep,
            account: Account::default(),
            problems,
            pending: None,
            decided: 0,
        }
    }

    /// Looks at every `struct page` of `stretches`, which are ascending.
    pub fn run(&mut self, stretches: &[Stretch], progress: &dyn Progress) {
        let total =
            stretches.iter().fold(0_u64, |n, s| n.saturating_add(s.end.get().saturating_sub(s.start.get())));
        let mut done = 0_u64;
        for stretch in stretches {
            let end = stretch.end.get();
            let mut at = stretch.start.get().max(self.decided);
            while at < end {
                let next = self.window(stretch, at).max(at.saturating_add(1));
                let seen = next.min(end).saturating_sub(stretch.start.get());
                progress.update(Stage::Dump, "scanning", done.saturating_add(seen).min(total), total, 0);
                at = next;
            }
            self.decided = self.decided.max(at);
            done = done.saturating_add(end.saturating_sub(stretch.start.get()));
        }
        self.flush();
    }

    /// Decides for the pages whose `struct page`s lie in one piece from `at` on; returns the first that is not decided.
    fn window(&mut self, stretch: &Stretch, at: u64) -> u64 {
        let size = self.rules.size();
        let left = usize::try_from(stretch.end.get().saturating_sub(at)).unwrap_or(usize::MAX);
        let address = stretch.page_at(at, size as u64);
        match self.kernel.virt_window(address, left.saturating_mul(size)) {
            Ok(window) if window.len() >= size => {
                let next = self.pages(&window, at, false);
                if next > at { next } else { self.single(stretch, at) }
            }
            Ok(_) => self.single(stretch, at),
            Err(e) => self.unreadable(stretch, at, &e),
        }
    }

    /// Decides for one page whose own or next `struct page` does not lie in one piece with it.
    fn single(&mut self, stretch: &Stretch, at: u64) -> u64 {
        let size = self.rules.size();
        let address = stretch.page_at(at, size as u64);
        let mut both = vec![0; size.saturating_mul(2)];
        if self.kernel.read_virt(address, &mut both).is_err() {
            both.truncate(size);
            if let Err(e) = self.kernel.read_virt(address, &mut both) {
                return self.unreadable(stretch, at, &e);
            }
        }
        let first = both.get(..size).unwrap_or_default();
        let next = both.get(size..).filter(|n| !n.is_empty());
        at.saturating_add(self.apply(at, self.rules.verdict(at, first, next), true))
    }

    /// Decides for the pages in `window`, from pfn `start`; returns the first that is not decided, `start` when the next
    /// `struct page` is needed for the very first.
    fn pages(&mut self, window: &[u8], start: u64, complete: bool) -> u64 {
        let size = self.rules.size();
        let rules = self.rules;
        let mut pfn = start;
        let mut rest = window;
        while let Some((page, after)) = rest.split_at_checked(size) {
            let verdict = rules.verdict(pfn, page, after.get(..size));
            let step = match verdict {
                Verdict::Keep(pages) => self.kept(pfn, pages),
                Verdict::NeedNext if !complete => return pfn,
                other => self.apply(pfn, other, complete),
            };
            pfn = pfn.saturating_add(step);
            let skip = usize::try_from(step).unwrap_or(usize::MAX).saturating_mul(size);
            rest = rest.get(skip..).unwrap_or_default();
        }
        pfn
    }

    /// How far to go on from a block that is kept.
    #[inline]
    fn kept(&mut self, pfn: u64, pages: u64) -> u64 {
        if pages == 1 || self.backed(pfn, pages) {
            pages
        } else {
            self.impossible(pfn, pages.trailing_zeros().into())
        }
    }

    /// Does what a verdict says; returns how far to go on.
    fn apply(&mut self, pfn: u64, verdict: Verdict, complete: bool) -> u64 {
        match verdict {
            Verdict::Keep(pages) => self.kept(pfn, pages),
            Verdict::Drop(reason, pages) => {
                if pages > 1 && !self.backed(pfn, pages) {
                    return self.impossible(pfn, pages.trailing_zeros().into());
                }
                self.drop_pages(reason, pfn, pages);
                pages
            }
            Verdict::Impossible(order) => self.impossible(pfn, order),
            Verdict::Headless | Verdict::NeedNext => {
                debug_assert!(complete || verdict == Verdict::Headless);
                self.problems.push(
                    Code::ORDER_IMPOSSIBLE,
                    format!("page {pfn:#x} is the head of a compound page without tails: kept"),
                );
                1
            }
        }
    }

    /// Whether the vmcore has all pages of a block.
    fn backed(&self, pfn: u64, pages: u64) -> bool {
        pfn.checked_add(pages).is_some_and(|end| self.present.covers(Pfn::new(pfn), Pfn::new(end)))
    }

    fn impossible(&mut self, pfn: u64, order: u64) -> u64 {
        self.problems.push(
            Code::ORDER_IMPOSSIBLE,
            format!("page {pfn:#x} claims a block of order {order}, which is misaligned, too big or not all there: kept"),
        );
        1
    }

    fn drop_pages(&mut self, reason: Reason, pfn: u64, pages: u64) {
        let end = pfn.saturating_add(pages);
        match &mut self.pending {
            Some((same, _, last)) if *same == reason && *last == pfn => *last = end,
            _ => {
                self.flush();
                self.pending = Some((reason, pfn, end));
            }
        }
    }

    /// Clears what is pending. Only pages that were still set count, so none counts twice.
    fn flush(&mut self) {
        if let Some((reason, start, end)) = self.pending.take() {
            let pages = self.keep.clear_range(Pfn::new(start), Pfn::new(end));
            self.account.drop_pages(reason, pages);
        }
    }

    /// Passes over the pages whose `struct page` starts in the same page of memory as that of `at`.
    fn unreadable(&mut self, stretch: &Stretch, at: u64, error: &crate::vmcore::ReadError) -> u64 {
        let page = self.kernel.vmcore().page_size().bytes();
        let size = self.rules.size() as u64;
        let address = stretch.page_at(at, size).get();
        let room = page - (address & (page - 1));
        let next = at.saturating_add(room.div_ceil(size)).min(stretch.end.get());
        self.problems.push(
            Code::MEM_MAP_UNREADABLE,
            format!("pages {at:#x} to {next:#x} are kept, their struct page is not to be read: {error}"),
        );
        next
    }
}

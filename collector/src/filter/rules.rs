//! The rules: what a level drops. The first that matches decides, as in makedumpfile.

use super::{Level, Reason};
use crate::kernel::page::PageLayout;
use crate::problem::{Code, Problems};

/// A level applied to the `struct page`s of one vmcore.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    layout: PageLayout,
    level: Level,
    cache: bool,
    cache_private: bool,
    user: bool,
    free: bool,
}

/// What is to be done with a page and those that follow it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// Keep this many.
    Keep(u64),
    /// Drop this many.
    Drop(Reason, u64),
    /// Keep one: its block cannot be of this order.
    Impossible(u64),
    /// Keep one: it says that it is a compound page's head, and the next page is no tail.
    Headless,
    /// The next `struct page` is needed.
    NeedNext,
}

impl Rules {
    /// `level` as far as VMCOREINFO allows; what it does not is recorded.
    pub fn new(layout: PageLayout, level: Level, problems: &mut Problems) -> Self {
        let mut bits = level.bits();
        let mut check = |wanted: u8, lacks: Option<&'static str>, what: &str| {
            if bits & wanted != 0
                && let Some(key) = lacks
            {
                bits &= !wanted;
                problems.push(
                    Code::VMCOREINFO_KEY_MISSING,
                    format!("VMCOREINFO has no key {key}: {what} are kept"),
                );
            }
        };
        check(Level::CACHE | Level::CACHE_PRIVATE, layout.lacks_for_cache(), "cache pages");
        check(Level::USER, layout.lacks_for_user(), "user pages");
        check(Level::FREE, layout.lacks_for_free(), "free pages");
        let level = Level::new(bits).unwrap_or(level);
        let cache = level.has(Level::CACHE) || level.has(Level::CACHE_PRIVATE);
        for (key, what) in layout.lacks_in_part(cache, level.has(Level::USER)) {
            problems
                .push(Code::VMCOREINFO_KEY_MISSING, format!("VMCOREINFO has no key {key}: {what} are kept"));
        }
        Self {
            cache: level.has(Level::CACHE),
            cache_private: level.has(Level::CACHE_PRIVATE),
            user: level.has(Level::USER),
            free: level.has(Level::FREE),
            layout,
            level,
        }
    }

    /// The level that is applied.
    pub fn level(&self) -> Level {
        self.level
    }

    /// What a `struct page` looks like.
    pub fn layout(&self) -> &PageLayout {
        &self.layout
    }

    /// Bytes of a `struct page`.
    pub fn size(&self) -> usize {
        self.layout.size
    }

    /// Whether any `struct page` has to be looked at.
    pub fn needs_scan(&self) -> bool {
        self.cache || self.cache_private || self.user || self.free || self.layout.knows_unusable()
    }

    /// Decides for page `pfn` and, where it starts a block, for all of it. `next` is the following `struct page`, where
    /// there is one.
    #[inline]
    pub fn verdict(&self, pfn: u64, bytes: &[u8], next: Option<&[u8]>) -> Verdict {
        let layout = &self.layout;
        // A tail that is met on its own belongs to a block whose head could not be made sense of.
        if layout.is_tail(bytes) {
            return Verdict::Keep(1);
        }
        let page = layout.page(bytes);
        let mut pages = 1;
        let mut hugetlb = false;
        if layout.is_head(&page) {
            let Some(second) = next else { return Verdict::NeedNext };
            let Some(compound) = layout.compound(&page, second) else { return Verdict::Headless };
            match block(pfn, compound.order) {
                Some(n) => pages = n,
                None => return Verdict::Impossible(compound.order),
            }
            hugetlb = compound.hugetlb;
        }
        if self.free {
            let order = if layout.is_buddy(&page) {
                Some((Reason::Free, layout.buddy_order(&page)))
            } else if layout.is_unaccepted(&page) {
                Some((Reason::Unaccepted, layout.free_orders().saturating_sub(1)))
            } else {
                None
            };
            if let Some((reason, order)) = order {
                return match block(pfn, order) {
                    Some(n) if order < layout.free_orders() => Verdict::Drop(reason, n),
                    _ => Verdict::Impossible(order),
                };
            }
        }
        let anon = layout.is_anon(&page);
        if (self.cache || self.cache_private) && !anon && layout.is_cache(&page) {
            if !layout.has_private(&page) {
                return Verdict::Drop(Reason::Cache, pages);
            }
            if self.cache_private {
                return Verdict::Drop(Reason::CachePrivate, pages);
            }
        }
        if self.user && hugetlb {
            return Verdict::Drop(Reason::Hugetlb, pages);
        }
        if self.user && anon {
            return Verdict::Drop(Reason::User, pages);
        }
        if layout.is_hwpoison(&page) {
            return Verdict::Drop(Reason::Hwpoison, pages);
        }
        if layout.is_offline(&page) {
            return Verdict::Drop(Reason::Offline, pages);
        }
        Verdict::Keep(pages)
    }
}

/// The pages of a block of `order` at `pfn`; `None` when no block of that order can start there.
#[inline]
fn block(pfn: u64, order: u64) -> Option<u64> {
    let pages = 1_u64.checked_shl(u32::try_from(order).ok()?)?;
    (pfn & (pages - 1) == 0).then_some(pages)
}

//! The account: every page that is present is kept, dropped for a reason, or unreadable.

use serde::{Deserialize, Serialize};

/// Why a page is not in the dump.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Reason {
    /// All bytes zero (level bit 1).
    Zero,
    /// Page cache without private data (bit 2, and bit 4).
    Cache,
    /// Page cache with private data (bit 4).
    CachePrivate,
    /// Anonymous memory (bit 8).
    User,
    /// hugetlb (bit 8).
    Hugetlb,
    /// Free, in the buddy allocator (bit 16).
    Free,
    /// Not yet accepted by a confidential guest (bit 16).
    Unaccepted,
    /// Hardware memory error (always).
    Hwpoison,
    /// Logically offline: ballooned, virtio-mem (always).
    Offline,
    /// Nothing but `struct page`s of pages that are left out (on request).
    Vmemmap,
    /// Left out by the filter that wrote the dump which is read.
    Earlier,
}

/// Pages, counted. [`Account::balanced`] holds at the end of every run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Account {
    /// Pages the vmcore has.
    pub present: u64,
    /// Pages in the dump.
    pub kept: u64,
    /// Dropped: all zero (a kdump-compressed dump still answers for them, with one shared page).
    pub zero: u64,
    /// Dropped: page cache.
    pub cache: u64,
    /// Dropped: page cache with private data.
    pub cache_private: u64,
    /// Dropped: anonymous.
    pub user: u64,
    /// Dropped: hugetlb.
    pub hugetlb: u64,
    /// Dropped: free.
    pub free: u64,
    /// Dropped: unaccepted.
    pub unaccepted: u64,
    /// Dropped: hardware memory error.
    pub hwpoison: u64,
    /// Dropped: offline.
    pub offline: u64,
    /// Dropped: `struct page`s of pages that were dropped.
    #[serde(default)]
    pub vmemmap: u64,
    /// Dropped before: the dump that was read does not have them.
    #[serde(default)]
    pub earlier: u64,
    /// To be kept, but the vmcore could not be read there.
    pub unreadable: u64,
    /// To be kept, but the target ended first.
    pub unwritten: u64,
}

impl Account {
    /// Counts `pages` as dropped.
    pub fn drop_pages(&mut self, reason: Reason, pages: u64) {
        let slot = match reason {
            Reason::Zero => &mut self.zero,
            Reason::Cache => &mut self.cache,
            Reason::CachePrivate => &mut self.cache_private,
            Reason::User => &mut self.user,
            Reason::Hugetlb => &mut self.hugetlb,
            Reason::Free => &mut self.free,
            Reason::Unaccepted => &mut self.unaccepted,
            Reason::Hwpoison => &mut self.hwpoison,
            Reason::Offline => &mut self.offline,
            Reason::Vmemmap => &mut self.vmemmap,
            Reason::Earlier => &mut self.earlier,
        };
        *slot = slot.saturating_add(pages);
    }

    /// The sum of two accounts of different pages.
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            present: self.present.saturating_add(other.present),
            kept: self.kept.saturating_add(other.kept),
            zero: self.zero.saturating_add(other.zero),
            cache: self.cache.saturating_add(other.cache),
            cache_private: self.cache_private.saturating_add(other.cache_private),
            user: self.user.saturating_add(other.user),
            hugetlb: self.hugetlb.saturating_add(other.hugetlb),
            free: self.free.saturating_add(other.free),
            unaccepted: self.unaccepted.saturating_add(other.unaccepted),
            hwpoison: self.hwpoison.saturating_add(other.hwpoison),
            offline: self.offline.saturating_add(other.offline),
            vmemmap: self.vmemmap.saturating_add(other.vmemmap),
            earlier: self.earlier.saturating_add(other.earlier),
            unreadable: self.unreadable.saturating_add(other.unreadable),
            unwritten: self.unwritten.saturating_add(other.unwritten),
        }
    }

    /// Everything dropped, by whatever reason.
    pub fn dropped(&self) -> u64 {
        [
            self.zero,
            self.cache,
            self.cache_private,
            self.user,
            self.hugetlb,
            self.free,
            self.unaccepted,
            self.hwpoison,
            self.offline,
            self.vmemmap,
            self.earlier,
        ]
        .iter()
        .fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// kept + dropped + unreadable + unwritten = present.
    pub fn balanced(&self) -> bool {
        self.kept
            .saturating_add(self.dropped())
            .saturating_add(self.unreadable)
            .saturating_add(self.unwritten)
            == self.present
    }
}

//! What differs between kernels, as a table: one line an era, from 4.19 to 7.1.
//!
//! Page flag numbers, page types and the place of a compound page's order, as x86-64 kernels of that release export
//! them in VMCOREINFO.

/// Numbers of page flags. Since 4.10 PG_swapcache is PG_owner_priv_1 and valid only with PG_swapbacked.
#[derive(Clone, Copy, Debug)]
pub struct PageFlags {
    /// On an LRU list.
    pub lru: u32,
    /// The page has waiters: bit 7, which tools without NUMBER(PG_slab) take for slab.
    pub waiters: u32,
    /// File system private data.
    pub private: u32,
    /// In the swap cache.
    pub swapcache: u32,
    /// Backed by swap.
    pub swapbacked: u32,
    /// Slab, until 6.9.
    pub slab: Option<u32>,
    /// Not for the page allocator.
    pub reserved: u32,
    /// Bad memory.
    pub hwpoison: u32,
    /// First page of a compound page.
    pub head: u32,
    /// 6.6 to 6.8: in the second page's flags, a hugetlb page.
    pub hugetlb: Option<u32>,
    /// Harmless flags that real pages have: uptodate, dirty, referenced, active.
    pub noise: u64,
}

const FLAGS_4_19: PageFlags = PageFlags {
    lru: 5,
    waiters: 7,
    private: 12,
    swapcache: 9,
    swapbacked: 18,
    slab: Some(8),
    reserved: 11,
    hwpoison: 22,
    head: 15,
    hugetlb: None,
    noise: 0b101_1100,
};
const FLAGS_5_0: PageFlags = PageFlags {
    lru: 4,
    waiters: 7,
    private: 13,
    swapcache: 10,
    swapbacked: 19,
    slab: Some(9),
    reserved: 12,
    hwpoison: 23,
    head: 16,
    hugetlb: None,
    noise: 0b10_1110,
};
const FLAGS_6_6: PageFlags = PageFlags {
    lru: 5,
    waiters: 7,
    private: 15,
    swapcache: 12,
    swapbacked: 19,
    slab: Some(11),
    reserved: 14,
    hwpoison: 23,
    head: 6,
    hugetlb: Some(8),
    noise: 0b1_0001_1100,
};
const FLAGS_6_10: PageFlags = PageFlags {
    private: 14,
    swapcache: 11,
    swapbacked: 18,
    slab: None,
    hwpoison: 22,
    hugetlb: None,
    ..FLAGS_6_6
};
const FLAGS_6_12: PageFlags =
    PageFlags { swapcache: 10, swapbacked: 17, reserved: 13, hwpoison: 20, ..FLAGS_6_10 };

/// Values of `_mapcount` / `page_type` that give a page its type; `None` where the era has no such type.
#[derive(Clone, Copy, Debug)]
pub struct PageTypes {
    /// Free, first page of a block.
    pub buddy: i32,
    /// Ballooned or logically offline.
    pub offline: Option<i32>,
    /// A page table.
    pub table: Option<i32>,
    /// A guard page of debug_pagealloc.
    pub guard: Option<i32>,
    /// hugetlb, on the head.
    pub hugetlb: Option<i32>,
    /// Slab.
    pub slab: Option<i32>,
    /// zsmalloc.
    pub zsmalloc: Option<i32>,
    /// Memory that a confidential guest has not accepted.
    pub unaccepted: Option<i32>,
    /// kmalloc beyond the slab's sizes.
    pub large_kmalloc: Option<i32>,
}

const TYPES_4_19: PageTypes = PageTypes {
    buddy: !0x80,
    offline: None,
    table: None,
    guard: None,
    hugetlb: None,
    slab: None,
    zsmalloc: None,
    unaccepted: None,
    large_kmalloc: None,
};
const TYPES_5_0: PageTypes =
    PageTypes { offline: Some(!0x100), table: Some(!0x200), guard: Some(!0x400), ..TYPES_4_19 };
const TYPES_6_9: PageTypes = PageTypes { hugetlb: Some(!0x800), ..TYPES_5_0 };
const TYPES_6_10: PageTypes = PageTypes { slab: Some(!0x1000), ..TYPES_6_9 };
const TYPES_6_11: PageTypes = PageTypes {
    buddy: !0x4000_0000,
    offline: Some(!0x2000_0000),
    table: Some(!0x1000_0000),
    guard: Some(!0x0800_0000),
    hugetlb: Some(!0x0400_0000),
    slab: Some(!0x0200_0000),
    zsmalloc: Some(!0x0100_0000),
    unaccepted: None,
    large_kmalloc: None,
};
/// Since 6.12 the type is the top byte.
const TYPES_6_12: PageTypes = PageTypes {
    buddy: top(0xf0),
    offline: Some(top(0xf1)),
    table: Some(top(0xf2)),
    guard: Some(top(0xf3)),
    hugetlb: Some(top(0xf4)),
    slab: Some(top(0xf5)),
    zsmalloc: Some(top(0xf6)),
    unaccepted: None,
    large_kmalloc: None,
};
const TYPES_6_16: PageTypes =
    PageTypes { unaccepted: Some(top(0xf7)), large_kmalloc: Some(top(0xf8)), ..TYPES_6_12 };

const fn top(byte: u32) -> i32 {
    (byte << 24).cast_signed()
}

/// Where the second page of a compound page keeps the order, and what tells hugetlb.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compound {
    /// page.compound_order and compound_dtor, bytes in page\[1\]: 4.16 to 6.2.
    PageDtor,
    /// The same bytes under their names in struct folio: 6.3 to 6.5.
    FolioDtor,
    /// Order in the low byte of page\[1\].flags, and a flag there: 6.6 to 6.8.
    Flags,
    /// Order in the low byte of page\[1\].flags, hugetlb a page type: 6.9 on.
    Types,
}

/// Which log the kernel keeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogKind {
    /// Records one after the other: 3.5 to 5.9.
    Records,
    /// printk_ringbuffer: 5.10 on.
    Ring,
}

/// One era.
#[derive(Clone, Copy, Debug)]
pub struct Era {
    /// `uname -r`.
    pub release: &'static str,
    /// Major and minor, for what depends on nothing else.
    pub version: (u32, u32),
    /// Page flags.
    pub flags: PageFlags,
    /// Page types.
    pub types: PageTypes,
    /// Compound pages.
    pub compound: Compound,
}

impl Era {
    /// Whether this kernel is `major.minor` or later.
    pub fn since(&self, major: u32, minor: u32) -> bool {
        self.version >= (major, minor)
    }
    /// Its log.
    pub fn log(&self) -> LogKind {
        if self.since(5, 10) { LogKind::Ring } else { LogKind::Records }
    }
    /// Offset of the names in struct uts_namespace: a reference count was before them. The key came with the change.
    pub fn uts_name_offset(&self) -> u64 {
        if self.since(5, 11) { 0 } else { 4 }
    }
    /// The name of the word whose bit 0 marks a tail page.
    pub fn compound_word(&self) -> &'static str {
        if self.since(7, 1) { "compound_info" } else { "compound_head" }
    }
    /// The era of a release, `6.1`.
    pub fn named(version: &str) -> &'static Self {
        let is = |era: &&Self| format!("{}.{}", era.version.0, era.version.1) == version;
        ERAS.iter().find(is).unwrap_or_else(|| panic!("no era {version}"))
    }
}

const fn era(
    release: &'static str,
    version: (u32, u32),
    flags: PageFlags,
    types: PageTypes,
    compound: Compound,
) -> Era {
    Era { release, version, flags, types, compound }
}

/// The eras, oldest first.
pub const ERAS: &[Era] = &[
    era("4.19.0-27-amd64", (4, 19), FLAGS_4_19, TYPES_4_19, Compound::PageDtor),
    era("5.4.0-200-generic", (5, 4), FLAGS_5_0, TYPES_5_0, Compound::PageDtor),
    era("5.10.0-33-amd64", (5, 10), FLAGS_5_0, TYPES_5_0, Compound::PageDtor),
    era("5.15.0-130-generic", (5, 15), FLAGS_5_0, TYPES_5_0, Compound::PageDtor),
    era("6.1.0-30-amd64", (6, 1), FLAGS_5_0, TYPES_5_0, Compound::PageDtor),
    era("6.2.0-39-generic", (6, 2), FLAGS_5_0, TYPES_5_0, Compound::PageDtor),
    era("6.3.13-synthetic", (6, 3), FLAGS_5_0, TYPES_5_0, Compound::FolioDtor),
    era("6.6.70-synthetic", (6, 6), FLAGS_6_6, TYPES_5_0, Compound::Flags),
    era("6.9.12-synthetic", (6, 9), PageFlags { hugetlb: None, ..FLAGS_6_6 }, TYPES_6_9, Compound::Types),
    era("6.10.14-synthetic", (6, 10), FLAGS_6_10, TYPES_6_10, Compound::Types),
    era("6.11.11-synthetic", (6, 11), FLAGS_6_10, TYPES_6_11, Compound::Types),
    era("6.12.12-amd64", (6, 12), FLAGS_6_12, TYPES_6_12, Compound::Types),
    era("6.16.3-synthetic", (6, 16), FLAGS_6_12, TYPES_6_16, Compound::Types),
    era("7.1.0-synthetic", (7, 1), FLAGS_6_12, TYPES_6_16, Compound::Types),
];

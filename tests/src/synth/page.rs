//! Kinds of pages: what their struct pages look like in each era, and what becomes of them.

use super::era::{Compound, Era};
use super::expect::{self, Class};
use super::index;
use super::memory::Order;

/// Where the fields of struct page are.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the fields of struct page")]
pub struct PageLayout {
    pub size: u64,
    pub flags: u64,
    pub lru: u64,
    pub mapping: u64,
    pub private: u64,
    pub mapcount: u64,
    pub refcount: u64,
}

/// The layout of every x86-64 distribution kernel from 4.19 to 7.1.
pub const USUAL: PageLayout =
    PageLayout { size: 64, flags: 0, lru: 8, mapping: 24, private: 40, mapcount: 48, refcount: 52 };
/// No kernel's layout: everything elsewhere, and a size that is no power of two.
pub const SHUFFLED: PageLayout =
    PageLayout { size: 80, flags: 8, lru: 16, mapping: 48, private: 40, mapcount: 68, refcount: 60 };

/// What a page or a block of pages is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// The kernel's own.
    Kernel,
    /// The kernel's own, and full of zeros.
    KernelZero,
    /// PG_reserved.
    Reserved,
    /// A page table.
    PageTable,
    /// A guard page.
    Guard,
    /// zsmalloc, with data in the low bits of the type from 6.12 on.
    Zsmalloc,
    /// kmalloc of several pages.
    LargeKmalloc,
    /// Page cache.
    Cache,
    /// Page cache full of zeros.
    CacheZero,
    /// Page cache that someone waits for.
    CacheWaiters,
    /// Page cache with buffers.
    CachePrivate,
    /// Truncated, still on the LRU: no mapping.
    CacheTruncated,
    /// tmpfs.
    Shmem,
    /// tmpfs on its way to swap: not on the LRU, in the swap cache.
    ShmemSwap,
    /// PG_owner_priv_1 on a page that is not backed by swap: a file system's own flag.
    OwnerPriv,
    /// Anonymous.
    Anon,
    /// Anonymous with PG_private.
    AnonPrivate,
    /// Anonymous, and someone waits for it.
    AnonWaiters,
    /// Anonymous in the swap cache.
    AnonSwap,
    /// Anonymous, merged by KSM.
    Ksm,
    /// Movable, not LRU: balloon, zsmalloc.
    Movable,
    /// Slab of `1 << order` pages. From 6.2 on its mapping is a list pointer that may look anonymous.
    Slab(u32),
    /// Slab whose `_mapcount` happens to be that of a buddy page (before page types replaced the flag).
    SlabLikeBuddy,
    /// Another compound page of the kernel, whose tails look anonymous.
    Compound(u32),
    /// Transparent huge page.
    Thp(u32),
    /// Large folio of the page cache.
    LargeCache(u32),
    /// Large folio of the page cache with private data.
    LargeCachePrivate(u32),
    /// hugetlb, mapped.
    Hugetlb(u32),
    /// hugetlb, free in its pool.
    HugetlbFree(u32),
    /// hugetlb whose mem_map pages 1.. are its page 0: heads where tails should be. Order 9, 4 KiB leaves.
    HugetlbFakeHeads,
    /// Head of an anonymous compound page with an order that cannot be. The order's low byte is what counts.
    AbsurdOrder(u32),
    /// Free block of `1 << order` pages.
    Buddy(u32),
    /// The same, with data in the low bits of the type (6.12 on).
    BuddyLowBits(u32),
    /// A free page that claims an order past LENGTH(zone.free_area).
    BuddyAbsurd(u64),
    /// Ballooned.
    Offline,
    /// Bad memory.
    Hwpoison,
    /// Bad memory in the page cache.
    HwpoisonCache,
    /// Bad memory, anonymous.
    HwpoisonAnon,
    /// Unaccepted block of the largest order.
    Unaccepted,
}

/// Orders of the buddy allocator: LENGTH(zone.free_area).
pub const FREE_AREAS: u32 = 11;

/// The fields of one struct page.
#[derive(Clone, Copy, Debug)]
struct Fields {
    flags: u64,
    /// lru.next, compound_head.
    word: u64,
    /// lru.prev; compound_dtor and compound_order in its first two bytes.
    second: u64,
    mapping: u64,
    private: u64,
    mapcount: i32,
    refcount: u32,
}

const SOME_LIST: u64 = 0xffff_8880_1234_5668;
const SOME_MAPPING: u64 = 0xffff_8880_0abc_de00;
const TAIL_MAPPING: u64 = 0xdead_0000_0000_0400;
/// Node, zone and last CPU in the top of the flags, as a second node's Normal zone has them.
const NODE_BITS: u64 = 0x0057_ffff_c000_0000;

impl Kind {
    /// Whether kernels of the era know this kind.
    pub fn exists(self, era: &Era) -> bool {
        match self {
            Self::PageTable => era.types.table.is_some(),
            Self::Guard => era.types.guard.is_some(),
            Self::Zsmalloc => era.types.zsmalloc.is_some(),
            Self::LargeKmalloc => era.types.large_kmalloc.is_some(),
            Self::Offline => era.types.offline.is_some(),
            Self::Unaccepted => era.types.unaccepted.is_some(),
            Self::SlabLikeBuddy => era.flags.slab.is_some(),
            Self::BuddyLowBits(_) => era.since(6, 12),
            Self::HugetlbFakeHeads => era.since(5, 15),
            _ => true,
        }
    }

    /// log2 of its pages; its first pfn is a multiple of them.
    pub fn order(self) -> u32 {
        match self {
            Self::Slab(order)
            | Self::Compound(order)
            | Self::Thp(order)
            | Self::LargeCache(order)
            | Self::LargeCachePrivate(order)
            | Self::Hugetlb(order)
            | Self::HugetlbFree(order)
            | Self::Buddy(order)
            | Self::BuddyLowBits(order) => order,
            Self::HugetlbFakeHeads => 9,
            Self::Unaccepted => FREE_AREAS - 1,
            Self::LargeKmalloc => 3,
            Self::AbsurdOrder(_) => 2,
            _ => 0,
        }
    }

    /// Whether it makes no sense, which is worth a problem in the manifest.
    pub fn is_absurd(self) -> bool {
        matches!(self, Self::AbsurdOrder(_) | Self::BuddyAbsurd(_))
    }

    /// Whether the pages hold nothing but zeros.
    pub fn is_zero(self) -> bool {
        matches!(self, Self::KernelZero | Self::CacheZero)
    }

    /// The verdict on its pages. What claims an order that cannot be is kept: makedumpfile drops such a head alone.
    pub fn class(self) -> Class {
        match self {
            Self::Cache
            | Self::CacheZero
            | Self::CacheWaiters
            | Self::CacheTruncated
            | Self::Shmem
            | Self::ShmemSwap
            | Self::LargeCache(_) => expect::CACHE,
            Self::CachePrivate | Self::LargeCachePrivate(_) => expect::CACHE_PRIVATE,
            Self::Anon
            | Self::AnonPrivate
            | Self::AnonWaiters
            | Self::AnonSwap
            | Self::Ksm
            | Self::Thp(_) => expect::USER,
            Self::Hugetlb(_) | Self::HugetlbFree(_) | Self::HugetlbFakeHeads => expect::HUGETLB,
            Self::Buddy(_) | Self::BuddyLowBits(_) => expect::FREE,
            Self::Unaccepted => expect::UNACCEPTED,
            Self::Offline => expect::OFFLINE,
            Self::Hwpoison => expect::HWPOISON,
            Self::HwpoisonCache => expect::HWPOISON_CACHE,
            Self::HwpoisonAnon => expect::HWPOISON_USER,
            _ => expect::KEEP,
        }
    }

    /// The struct page of the block's page number `at`; `map` is the address of the block's first struct page.
    pub fn encode(self, era: &Era, layout: &PageLayout, order: Order, at: u64, map: u64) -> Vec<u8> {
        let fields = if at == 0 { self.first(era) } else { self.rest(era, at, map) };
        fields.encode(layout, order)
    }

    fn first(self, era: &Era) -> Fields {
        let f = &era.flags;
        let bit = |n: u32| 1_u64 << n;
        let lru = bit(f.lru) | f.noise;
        let anon = lru | bit(f.swapbacked);
        let typed =
            |value: Option<i32>| Fields { mapcount: value.expect("the kind exists"), ..Fields::kernel(0) };
        let page = |flags: u64, mapping: u64| Fields { mapping, mapcount: 0, ..Fields::kernel(flags) };
        let anonymous = |flags: u64| page(flags, SOME_MAPPING | 1);
        let private =
            |fields: Fields| Fields { flags: fields.flags | bit(f.private), private: SOME_LIST, ..fields };
        let head = bit(f.head);
        match self {
            Self::Kernel | Self::KernelZero => Fields::kernel(0),
            Self::Reserved => Fields::kernel(bit(f.reserved)),
            Self::PageTable => typed(era.types.table),
            Self::Guard => Fields { private: 0, ..typed(era.types.guard) },
            Self::Zsmalloc => {
                let data = if era.since(6, 12) { 0x1230 } else { 0 };
                let fields = typed(era.types.zsmalloc.map(|value| value | data));
                private(Fields { mapping: SOME_MAPPING | 2, ..fields })
            }
            Self::LargeKmalloc => Fields { flags: NODE_BITS | head, ..typed(era.types.large_kmalloc) },
            Self::Cache | Self::CacheZero => page(lru, SOME_MAPPING),
            Self::CacheWaiters => page(lru | bit(f.waiters), SOME_MAPPING),
            Self::CachePrivate => private(page(lru, SOME_MAPPING)),
            Self::CacheTruncated => page(lru, 0),
            Self::Shmem => page(anon, SOME_MAPPING),
            Self::ShmemSwap => page(bit(f.swapbacked) | bit(f.swapcache), SOME_MAPPING),
            Self::OwnerPriv => page(bit(f.swapcache), SOME_MAPPING),
            Self::Anon => anonymous(anon),
            Self::AnonPrivate => private(anonymous(anon)),
            Self::AnonWaiters => anonymous(anon | bit(f.waiters)),
            Self::AnonSwap => {
                Fields { private: 0x0400_0000_0000_1234, ..anonymous(bit(f.swapbacked) | bit(f.swapcache)) }
            }
            Self::Ksm => page(anon, SOME_MAPPING | 3),
            Self::Movable => Fields { mapping: SOME_MAPPING | 2, ..Fields::kernel(0) },
            Self::Slab(order) => {
                let flags = f.slab.map_or(0, bit) | if order > 0 { head } else { 0 };
                // Since Linux commit 130d4df57390 ("mm/sl[au]b: rearrange struct slab fields …") (in v6.2) the second
                // word of struct slab's list lies over mapping.
                let mapping = if era.since(6, 2) { SOME_LIST | 1 } else { 0 };
                let mapcount = era.types.slab.unwrap_or(-1);
                Fields { mapping, mapcount, ..Fields::kernel(flags) }
            }
            Self::SlabLikeBuddy => {
                Fields { mapcount: era.types.buddy, private: 3, ..Fields::kernel(f.slab.map_or(0, bit)) }
            }
            Self::Compound(_) => Fields::kernel(head),
            Self::Thp(_) | Self::AbsurdOrder(_) => anonymous(anon | head),
            Self::LargeCache(_) => page(lru | head, SOME_MAPPING),
            Self::LargeCachePrivate(_) => private(page(lru | head, SOME_MAPPING)),
            Self::Hugetlb(_) | Self::HugetlbFree(_) | Self::HugetlbFakeHeads => Fields {
                mapping: if matches!(self, Self::HugetlbFree(_)) { 0 } else { SOME_MAPPING },
                mapcount: era.types.hugetlb.unwrap_or(-1),
                ..Fields::kernel(head)
            },
            Self::Buddy(order) => Fields::free(era.types.buddy, order.into()),
            Self::BuddyLowBits(order) => Fields::free(era.types.buddy | 0x00ab_cdef, order.into()),
            Self::BuddyAbsurd(order) => Fields::free(era.types.buddy, order),
            Self::Offline => Fields { refcount: 1, ..typed(era.types.offline) },
            Self::Hwpoison => Fields::kernel(bit(f.hwpoison) | bit(f.reserved)),
            Self::HwpoisonCache => page(lru | bit(f.hwpoison), SOME_MAPPING),
            Self::HwpoisonAnon => anonymous(anon | bit(f.hwpoison)),
            Self::Unaccepted => typed(era.types.unaccepted),
        }
    }

    /// Whether the block's head is PG_head, so that the others are its tails.
    fn is_compound(self) -> bool {
        match self {
            Self::Slab(order) => order > 0,
            Self::Compound(_)
            | Self::LargeKmalloc
            | Self::Thp(_)
            | Self::AbsurdOrder(_)
            | Self::LargeCache(_)
            | Self::LargeCachePrivate(_)
            | Self::Hugetlb(_)
            | Self::HugetlbFree(_)
            | Self::HugetlbFakeHeads => true,
            _ => false,
        }
    }

    fn rest(self, era: &Era, at: u64, map: u64) -> Fields {
        if !self.is_compound() {
            return Fields { refcount: 0, ..Fields::kernel(0) };
        }
        // 7.1 keeps a mask in the word; only bit 0 says the same as before.
        let word = if era.since(7, 1) { 0xffff_ffff_ffff_f000 | 1 } else { map | 1 };
        let tail = Fields { word, mapping: TAIL_MAPPING, refcount: 0, ..Fields::kernel(0) };
        if at > 1 {
            // The second tails' fields lie over mapping, in any pattern; hugetlb's and THP's lists too.
            return if at == 2 { Fields { mapping: SOME_LIST | 1, ..tail } } else { tail };
        }
        let hugetlb = matches!(self, Self::Hugetlb(_) | Self::HugetlbFree(_) | Self::HugetlbFakeHeads);
        let order = if let Self::AbsurdOrder(claimed) = self { claimed } else { self.order() };
        let order = u64::from(order) & 0xff;
        match era.compound {
            Compound::PageDtor | Compound::FolioDtor => {
                let destructor = match self {
                    _ if hugetlb => 2,
                    Self::Thp(_) => 3,
                    _ => 1,
                };
                Fields { second: destructor | order << 8, ..tail }
            }
            Compound::Flags => {
                let mark = if hugetlb { era.flags.hugetlb.map_or(0, |n| 1 << n) } else { 0 };
                Fields { flags: NODE_BITS | order | mark, ..tail }
            }
            Compound::Types => Fields { flags: NODE_BITS | order, ..tail },
        }
    }
}

impl Fields {
    fn kernel(flags: u64) -> Self {
        Self {
            flags: flags | NODE_BITS,
            word: SOME_LIST,
            second: SOME_LIST + 0x100,
            mapping: 0,
            private: 0,
            mapcount: -1,
            refcount: 1,
        }
    }

    fn free(mapcount: i32, order: u64) -> Self {
        Self { mapcount, private: order, refcount: 0, ..Self::kernel(0) }
    }

    fn encode(&self, layout: &PageLayout, order: Order) -> Vec<u8> {
        let mut bytes = vec![0; index(layout.size)];
        let mut put =
            |at: u64, value: &[u8]| bytes[index(at)..index(at) + value.len()].copy_from_slice(value);
        put(layout.flags, &order.bytes(self.flags, 8));
        put(layout.lru, &order.bytes(self.word, 8));
        // Single bytes where they matter: in the same places whatever the order.
        put(layout.lru + 8, &self.second.to_le_bytes());
        put(layout.mapping, &order.bytes(self.mapping, 8));
        put(layout.private, &order.bytes(self.private, 8));
        put(layout.mapcount, &order.bytes(self.mapcount.cast_unsigned().into(), 4));
        put(layout.refcount, &order.bytes(self.refcount.into(), 4));
        bytes
    }
}

//! One machine of each era with every kind of page in it.

use super::builder::{Block, Model, Spec};
use super::era::{ERAS, Era};
use super::memory::Leaf;
use super::page::{FREE_AREAS, Kind, SHUFFLED};

/// Kinds of one page.
const SINGLE: &[Kind] = &[
    Kind::Kernel,
    Kind::KernelZero,
    Kind::Reserved,
    Kind::PageTable,
    Kind::Guard,
    Kind::Zsmalloc,
    Kind::Cache,
    Kind::CacheZero,
    Kind::CacheWaiters,
    Kind::CachePrivate,
    Kind::CacheTruncated,
    Kind::Shmem,
    Kind::ShmemSwap,
    Kind::OwnerPriv,
    Kind::Anon,
    Kind::AnonPrivate,
    Kind::AnonWaiters,
    Kind::AnonSwap,
    Kind::Ksm,
    Kind::Movable,
    Kind::Slab(0),
    Kind::SlabLikeBuddy,
    Kind::BuddyAbsurd(FREE_AREAS as u64),
    Kind::BuddyAbsurd(63),
    Kind::BuddyAbsurd(u64::MAX),
    Kind::Offline,
    Kind::Hwpoison,
    Kind::HwpoisonCache,
    Kind::HwpoisonAnon,
];

/// Kinds of several pages that are small.
const SMALL: &[Kind] = &[
    Kind::Slab(1),
    Kind::Slab(3),
    Kind::Compound(1),
    Kind::Compound(3),
    Kind::LargeKmalloc,
    Kind::Thp(2),
    Kind::LargeCache(1),
    Kind::LargeCache(4),
    Kind::LargeCachePrivate(2),
    Kind::AbsurdOrder(200),
    Kind::AbsurdOrder(64),
    Kind::AbsurdOrder(63),
    Kind::AbsurdOrder(33),
    Kind::BuddyLowBits(0),
    Kind::BuddyLowBits(3),
];

/// Kinds that fill megabytes.
const LARGE: &[Kind] =
    &[Kind::Unaccepted, Kind::Hugetlb(9), Kind::HugetlbFree(9), Kind::HugetlbFakeHeads, Kind::Thp(9)];

impl Era {
    /// All kinds of pages that the era has, each once, large ones first.
    pub fn kinds(&self) -> impl Iterator<Item = Kind> + '_ {
        let mut kinds: Vec<Kind> = (0..FREE_AREAS).map(Kind::Buddy).collect();
        kinds.extend(LARGE);
        kinds.extend(SMALL);
        kinds.extend(SINGLE);
        kinds.sort_by_key(|kind| std::cmp::Reverse(kind.order()));
        kinds.into_iter().filter(|kind| kind.exists(self))
    }
}

impl Spec {
    /// Every kind of page, twice where it is one page; blocks that end past a segment. Paging, KASLR, encryption and
    /// mapping of vmemmap differ from era to era.
    pub fn bestiary(era: &'static Era) -> Self {
        let number = ERAS.iter().position(|e| e.release == era.release).unwrap_or(0);
        let mut spec = Self::new(era);
        spec.five_level = number % 2 == 1;
        spec.encrypted = number % 3 == 1;
        spec.kaslr = if number % 4 == 0 { 0 } else { 0x2f1a_59b3_u64.wrapping_mul(number as u64 + 1) };
        spec.leaf = if number % 3 == 0 { Leaf::Large } else { Leaf::Page };
        spec.poison_holes = number % 2 == 0;
        spec.model = Model::Extreme { preinit: era.since(6, 15) };
        spec.unmapped_ram = true;
        spec.at_edges();
        spec.fill();
        spec
    }

    /// The same on FLATMEM.
    pub fn flat_bestiary(era: &'static Era) -> Self {
        let mut spec = Self::new(era).flat();
        spec.blocks.push(Block { pfn: 0x3200, kind: Kind::Buddy(9) });
        spec.fill();
        spec
    }

    /// The same on plain SPARSEMEM without VMEMMAP.
    pub fn sparse_bestiary(era: &'static Era) -> Self {
        let mut spec = Self::new(era);
        spec.model = Model::Sparse;
        spec.at_edges();
        spec.fill();
        spec
    }

    /// The same with a struct page that no kernel ever had.
    pub fn shuffled_bestiary(era: &'static Era) -> Self {
        let mut spec = Self::new(era);
        spec.page = SHUFFLED;
        spec.at_edges();
        spec.fill();
        spec
    }

    /// Blocks that reach over a hole, or past the end of memory.
    fn at_edges(&mut self) {
        for (pfn, kind) in [
            (0x8100, Kind::Buddy(8)),
            (0x8400, Kind::Buddy(10)),
            (0x8200, Kind::Thp(8)),
            (0x10_0200, Kind::Hugetlb(9)),
        ] {
            self.blocks.push(Block { pfn, kind });
        }
    }

    fn fill(&mut self) {
        for kind in self.era.kinds() {
            assert!(self.place(kind), "no room for {kind:?}");
        }
        for kind in SINGLE.iter().filter(|kind| kind.exists(self.era)) {
            assert!(self.place(*kind), "no room for a second {kind:?}");
        }
    }
}

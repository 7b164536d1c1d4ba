//! One machine of each era with every kind of page in it.

use super::arch::Arch;
use super::era::{ERAS, Era};
use super::memory::Leaf;
use super::page::{FREE_AREAS, Kind, SHUFFLED};
use super::spec::{Block, Model, Spec};

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

    /// Every kind of page, on another architecture: as many of the larger ones as there is room for.
    pub fn foreign_bestiary(arch: Arch, era: &'static Era, leaf: Leaf) -> Self {
        let facts = arch.facts();
        let pages = if facts.page_shift == 12 { 0xa00 } else { 0x280 };
        let mut spec = Self::of(arch, era, pages);
        spec.leaf = leaf;
        spec.poison_holes = era.version.1.is_multiple_of(2);
        for order in facts.hugetlb {
            assert!(spec.place(Kind::Hugetlb(*order)), "no room for hugetlb");
        }
        for kind in SMALL.iter().chain(SINGLE).chain(SINGLE).filter(|kind| kind.exists(era)) {
            assert!(spec.place(*kind), "no room for {kind:?}");
        }
        for order in (0..8).rev() {
            spec.place(Kind::Buddy(order));
        }
        // The last block ends where memory ends in the middle of its last page.
        let (start, _) = spec.ram[2];
        spec.blocks
            .push(Block { pfn: start.div_ceil(facts.page()).next_multiple_of(8), kind: Kind::Buddy(3) });
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

//! Where memory went: what /proc/meminfo would have said, each CPU's part of the counters added, and what of it is wrong.
//!
//! The kernel keeps its counters global and, until they are large enough, in differences that each CPU has for itself. Their
//! numbers in the arrays are enumerators, so they come from the kernel's own types.

mod counters;
mod slab;
mod watch;
mod zones;

pub use slab::Cache;
pub use watch::{Mark, Remark};
pub use zones::{Node, Zone};

use crate::triage::{Dead, Known};
use counters::Counters;
use serde::Serialize;

/// Huge pages of one size.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct HugePages {
    /// KiB of each.
    pub size_kib: u64,
    /// How many there are.
    pub total: u64,
    /// Of them, how many nobody uses.
    pub free: u64,
    /// Of the free ones, how many are promised.
    pub reserved: u64,
    /// Beyond what was asked to be kept.
    pub surplus: u64,
}

/// Memory in KiB, by the names of /proc/meminfo. `None`: not known.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Memory {
    /// All that the kernel manages.
    pub total: Option<u64>,
    /// Free.
    pub free: Option<u64>,
    /// What programs could have without swapping.
    pub available: Option<u64>,
    /// Page cache of block devices.
    pub buffers: Option<u64>,
    /// Page cache of files, tmpfs and shared memory.
    pub cached: Option<u64>,
    /// Of swapped pages that are in memory, too.
    pub swap_cached: Option<u64>,
    /// Anonymous memory of programs.
    pub anonymous: Option<u64>,
    /// Files that programs have mapped.
    pub mapped: Option<u64>,
    /// tmpfs and shared memory.
    pub shared: Option<u64>,
    /// Cannot be reclaimed: locked, ramfs.
    pub unevictable: Option<u64>,
    /// Locked by programs.
    pub mlocked: Option<u64>,
    /// To be written to disks.
    pub dirty: Option<u64>,
    /// Being written.
    pub writeback: Option<u64>,
    /// Slabs that can be given back.
    pub slab_reclaimable: Option<u64>,
    /// Slabs that cannot.
    pub slab_unreclaimable: Option<u64>,
    /// Stacks of tasks in the kernel.
    pub kernel_stacks: Option<u64>,
    /// Page tables of programs.
    pub page_tables: Option<u64>,
    /// vmalloc.
    pub vmalloc: Option<u64>,
    /// Promised to programs.
    pub committed: Option<u64>,
    /// Swap there is.
    pub swap_total: Option<u64>,
    /// Swap that is free.
    pub swap_free: Option<u64>,
    /// Pages that the hardware has damaged.
    pub corrupted: Option<u64>,
    /// Huge pages, by size.
    pub huge_pages: Vec<HugePages>,
    /// Zones with memory, node by node.
    pub zones: Vec<Zone>,
    /// Nodes.
    pub nodes: Vec<Node>,
    /// The largest slab caches, largest first.
    pub slabs: Vec<Cache>,
    /// What is wrong, the worst first.
    pub remarks: Vec<Remark>,
}

/// Slab caches that are named.
const SLABS: usize = 15;

impl Memory {
    /// Counts. What cannot be read is noted in `dead`.
    pub fn of(dead: &Dead<'_>) -> Self {
        let Some(counters) = dead.known("memory", Counters::read(dead)) else { return Self::default() };
        let page = dead.page_size() / 1024;
        let pages = |count: Option<u64>| count.map(|n| n.saturating_mul(page));
        let node = |name| pages(counters.node(dead, name));
        let long = |name| pages(known(dead, name, dead.symbol(name).and_then(|at| dead.u64(at))));
        let files = node("NR_FILE_PAGES");
        let swap_cached = counters.node(dead, "NR_SWAPCACHE").map_or(Some(0), |n| pages(Some(n)));
        let buffers = pages(dead.known("buffers", buffers(dead)));
        let mut memory = Self {
            total: long("_totalram_pages"),
            free: pages(counters.zone(dead, "NR_FREE_PAGES")),
            available: None,
            buffers,
            cached: files
                .map(|n| n.saturating_sub(swap_cached.unwrap_or(0)).saturating_sub(buffers.unwrap_or(0))),
            swap_cached,
            anonymous: node("NR_ANON_MAPPED"),
            mapped: node("NR_FILE_MAPPED"),
            shared: node("NR_SHMEM"),
            unevictable: node("NR_UNEVICTABLE"),
            mlocked: pages(counters.zone(dead, "NR_MLOCK")),
            dirty: node("NR_FILE_DIRTY"),
            writeback: node("NR_WRITEBACK"),
            slab_reclaimable: node("NR_SLAB_RECLAIMABLE_B"),
            slab_unreclaimable: node("NR_SLAB_UNRECLAIMABLE_B"),
            // These count KiB.
            kernel_stacks: counters.node(dead, "NR_KERNEL_STACK_KB"),
            page_tables: node("NR_PAGETABLE"),
            vmalloc: long("nr_vmalloc_pages"),
            committed: pages(dead.known("committed memory", committed(dead))),
            swap_total: long("total_swap_pages"),
            swap_free: long("nr_swap_pages"),
            // Only a kernel with CONFIG_MEMORY_FAILURE counts them.
            corrupted: dead
                .symbol("num_poisoned_pages")
                .ok()
                .and_then(|at| pages(dead.known("num_poisoned_pages", dead.u64(at)))),
            huge_pages: dead.known("huge pages", huge_pages(dead)).unwrap_or_default(),
            zones: counters.zones.clone(),
            nodes: counters.nodes.clone(),
            slabs: Vec::new(),
            remarks: Vec::new(),
        };
        memory.available = available(dead, &memory, node("NR_INACTIVE_FILE"), node("NR_ACTIVE_FILE"));
        let mut slabs = dead.known("slab caches", slab::caches(dead)).unwrap_or_default();
        slabs.sort_by(|a, b| b.kib.cmp(&a.kib).then_with(|| a.name.cmp(&b.name)));
        slabs.truncate(SLABS);
        memory.slabs = slabs;
        let limits = watch::Limits::of(dead);
        memory.remarks = watch::remarks(&memory, &limits);
        memory
    }

    /// Slabs of both kinds, KiB.
    pub fn slab(&self) -> Option<u64> {
        Some(self.slab_reclaimable?.saturating_add(self.slab_unreclaimable?))
    }
}

fn known<T>(dead: &Dead<'_>, what: &str, answer: Known<T>) -> Option<T> {
    dead.known(what, answer)
}

/// What programs could have, as the kernel estimates it (`si_mem_available()`): free memory, and half of what can be given
/// back, or all of it above the low watermarks.
fn available(dead: &Dead<'_>, memory: &Memory, inactive: Option<u64>, active: Option<u64>) -> Option<u64> {
    let page = dead.page_size() / 1024;
    let reserve = dead.symbol("totalreserve_pages").and_then(|at| dead.u64(at)).unwrap_or(0);
    let low: u64 = memory.zones.iter().map(|zone| zone.low).sum();
    let kept = |n: u64| n.saturating_sub((n / 2).min(low));
    let free = memory.free?.saturating_sub(reserve.saturating_mul(page));
    let cache = kept(inactive?.saturating_add(active?));
    Some(free.saturating_add(cache).saturating_add(kept(memory.slab_reclaimable?)))
}

/// Pages of the page cache of block devices: `nr_blockdev_pages()`.
fn buffers(dead: &Dead<'_>) -> Known<u64> {
    let superblock = dead.u64(dead.symbol("blockdev_superblock")?)?;
    let head = dead.place(superblock, "super_block", "s_inodes")?;
    let mut pages = 0_u64;
    dead.list(head, "inode", "i_sb_list", |inode| {
        let mapping = dead.get(inode, "inode", "i_mapping")?;
        pages = pages.saturating_add(dead.get(mapping, "address_space", "nrpages")?);
        Ok(())
    })?;
    Ok(pages)
}

fn committed(dead: &Dead<'_>) -> Known<u64> {
    let sum = dead.percpu_counter(dead.symbol("vm_committed_as")?)?;
    Ok(u64::try_from(sum).unwrap_or(0))
}

/// Sizes of huge pages that are believed.
const MAX_HSTATES: u64 = 16;

fn huge_pages(dead: &Dead<'_>) -> Known<Vec<HugePages>> {
    // A kernel without CONFIG_HUGETLBFS has none.
    let (Ok(table), Ok(count)) = (dead.symbol("hstates"), dead.symbol("hugetlb_max_hstate")) else {
        return Ok(Vec::new());
    };
    let count = u64::from(dead.u32(count)?).min(MAX_HSTATES);
    let size = dead.size_of("hstate")?;
    (0..count)
        .map(|index| {
            let at = table.wrapping_add(index.saturating_mul(size));
            let order = u32::try_from(dead.get(at, "hstate", "order")?).unwrap_or(u32::MAX);
            Ok(HugePages {
                size_kib: (dead.page_size() / 1024).checked_shl(order).unwrap_or(0),
                total: dead.get(at, "hstate", "nr_huge_pages")?,
                free: dead.get(at, "hstate", "free_huge_pages")?,
                reserved: dead.get(at, "hstate", "resv_huge_pages")?,
                surplus: dead.get(at, "hstate", "surplus_huge_pages")?,
            })
        })
        .collect()
}

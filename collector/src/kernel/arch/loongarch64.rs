//! loongarch64: direct-mapped windows, and tables of two to four levels. LoongArch Reference Manual, volume 1, section 5.

use super::{Arch, Entry, Level, Place, Tables, missing, walk};
use crate::problem::Problems;
use crate::vmcore::Vmcore;

/// Bytes of a window, whose addresses have the physical one in their low bits.
const WINDOW: u64 = 1 << 48;
/// Bits 63:62 of an address in a window: 0b10.
const WINDOWS: u64 = 2;
/// Bit 6 of an entry above the lowest level: it maps memory.
const HUGE: u64 = 1 << 6;
/// Bit 7 of an entry: Linux's own.
const PRESENT: u64 = 1 << 7;
/// The bits of a physical address in an entry, flags below a page left out.
const ADDRESS: u64 = WINDOW - 1;

const NAMES: [&str; 4] = ["PTE", "PMD", "PUD", "PGD"];

/// A loongarch64 kernel.
#[derive(Debug)]
pub(super) struct LoongArch64 {
    tables: Tables,
    hugetlb: [u32; 1],
}

impl LoongArch64 {
    pub fn new(vmcore: &Vmcore<'_>, problems: &mut Problems) -> Option<Self> {
        let info = vmcore.info();
        let Some(top) = info.symbol("swapper_pg_dir") else {
            missing(problems, "VMCOREINFO has no key SYMBOL(swapper_pg_dir)");
            return None;
        };
        let page = vmcore.page_size().shift();
        // How many levels there are is not told; the first is what distributions build. Where the kernel exports vmemmap,
        // only the right one finds it.
        let depths = match page {
            12 => [3, 4],
            14 => [3, 2],
            _ => [2, 3],
        };
        let start = vmcore.present_runs().first().map_or(0, |run| run.0.get());
        let skip = info.size("page").and_then(|size| size.checked_mul(start));
        let anchor = info.symbol("vmemmap").zip(skip).and_then(|(at, skip)| at.checked_add(skip));
        let mut first = None;
        for depth in depths {
            let levels = levels(page, depth);
            let tables = Tables { root: top.get() & ADDRESS, levels, endian: vmcore.endian() };
            let arch = Self { tables, hugetlb: [page - 3] };
            if anchor.is_some_and(|at| walk::probe(&arch, vmcore, at).is_some()) {
                return Some(arch);
            }
            first = first.or(Some(arch));
        }
        first
    }
}

/// `depth` levels, each a page.
fn levels(page: u32, depth: usize) -> Vec<Level> {
    let mut shift = page;
    let mut levels: Vec<Level> = Vec::new();
    for name in NAMES.into_iter().take(depth) {
        levels.push(Level { name, shift, bits: page - 3 });
        shift += page - 3;
    }
    levels.reverse();
    levels
}

impl Arch for LoongArch64 {
    fn place(&self, at: u64) -> Place {
        match at >> 62 {
            WINDOWS => Place::Direct(super::Leaf { virt: at & !(WINDOW - 1), len: WINDOW, phys: 0 }),
            // The tables' range starts where the CPU's lowest mapped kernel address is, so bits above them are no copies.
            3 => Place::Tables(at),
            _ => Place::Nowhere("it is a program's".to_owned()),
        }
    }
    fn tables(&self) -> &Tables {
        &self.tables
    }
    fn decode(&self, level: usize, entry: u64) -> Entry {
        let lowest = self.tables.levels.last().map_or(0, |l| l.shift);
        let shift = self.tables.levels.get(level).map_or(0, |l| l.shift);
        let address = entry & ADDRESS & (u64::MAX << shift.min(63));
        if shift == lowest || entry & HUGE != 0 {
            return if entry & PRESENT == 0 { Entry::Empty } else { Entry::Leaf(address) };
        }
        // A table is named by its address in a window. Empty entries name one whose entries are all empty.
        if entry >> 62 == WINDOWS && entry & !(u64::MAX << lowest) == 0 {
            Entry::Table(entry & ADDRESS)
        } else {
            Entry::Empty
        }
    }
    fn hugetlb_orders(&self) -> &[u32] {
        &self.hugetlb
    }
    fn section_size_bits(&self) -> Option<u32> {
        Some(29) // arch/loongarch/include/asm/sparsemem.h
    }
    fn max_physmem_bits(&self) -> Option<u32> {
        Some(48)
    }
}

//! x86-64: 4- and 5-level page tables, KASLR, memory encryption. Intel SDM volume 3, section 4.5.

use super::{Arch, Entry, Level, Place, Tables, missing};
use crate::problem::Problems;
use crate::vmcore::Vmcore;

/// `__START_KERNEL_map`: where the kernel image is mapped; virtual minus this plus `phys_base` is physical.
const START_KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;
/// Bits 51:12 of an entry: the physical address.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Bit 0 of an entry.
const PRESENT: u64 = 1;
/// Bit 7 of a PUD or PMD entry: it maps memory, there is no further table.
const LARGE: u64 = 1 << 7;

const LEVELS: &[Level] = &[
    Level { name: "PGD", shift: 48, bits: 9 },
    Level { name: "P4D", shift: 39, bits: 9 },
    Level { name: "PUD", shift: 30, bits: 9 },
    Level { name: "PMD", shift: 21, bits: 9 },
    Level { name: "PTE", shift: 12, bits: 9 },
];

/// An x86-64 kernel.
#[derive(Debug)]
pub(super) struct X86_64 {
    tables: Tables,
    phys_base: u64,
    /// Bits of an entry that are the address.
    address: u64,
}

impl X86_64 {
    pub fn new(vmcore: &Vmcore<'_>, problems: &mut Problems) -> Option<Self> {
        let info = vmcore.info();
        // VMCOREINFO calls it swapper_pg_dir whatever the kernel's own name; the others come from symbol files.
        let names = ["swapper_pg_dir", "init_top_pgt", "init_level4_pgt"];
        let Some(top) = names.iter().find_map(|name| info.symbol(name)) else {
            missing(problems, "VMCOREINFO has no key SYMBOL(swapper_pg_dir)");
            return None;
        };
        let Some(phys_base) =
            info.number("phys_base").map(i64::cast_unsigned).or_else(|| from_header(vmcore))
        else {
            missing(
                problems,
                "VMCOREINFO has no key NUMBER(phys_base) and no PT_LOAD is of the kernel's text",
            );
            return None;
        };
        // With memory encryption one bit of every entry says so. VMCOREINFO tells which (since v5.0); it is in no
        // physical address of the vmcore.
        let address = ADDRESS & !info.number("sme_mask").unwrap_or(0).cast_unsigned();
        let root = top.get().wrapping_sub(START_KERNEL_MAP).wrapping_add(phys_base) & address;
        // One kernel runs with either depth, as the CPU can, and says which (since v4.17).
        let five = info.number("pgtable_l5_enabled").unwrap_or(0) != 0;
        let levels = if five { LEVELS } else { LEVELS.get(1..).unwrap_or(LEVELS) };
        let tables = Tables { root, levels: levels.to_vec(), endian: vmcore.endian() };
        Some(Self { tables, phys_base, address })
    }
}

/// `phys_base` as an earlier filter found it, or from the PT_LOAD of the kernel's text.
fn from_header(vmcore: &Vmcore<'_>) -> Option<u64> {
    match vmcore.image() {
        Some(image) => Some(image.phys_base),
        None => from_segments(vmcore),
    }
}

/// `phys_base` from the PT_LOAD of the kernel's text.
fn from_segments(vmcore: &Vmcore<'_>) -> Option<u64> {
    let text = vmcore.segments().iter().find(|s| s.virt.get() >= START_KERNEL_MAP)?;
    Some(text.start.get().wrapping_sub(text.virt.get().wrapping_sub(START_KERNEL_MAP)))
}

impl Arch for X86_64 {
    fn place(&self, at: u64) -> Place {
        self.tables.sign_extended(at)
    }
    fn tables(&self) -> &Tables {
        &self.tables
    }
    fn decode(&self, level: usize, entry: u64) -> Entry {
        let shift = self.tables.levels.get(level).map_or(0, |l| l.shift);
        if entry & PRESENT == 0 {
            return Entry::Empty;
        }
        match shift {
            12 => Entry::Leaf(entry & self.address),
            // Bit 12 of a large leaf is an attribute (PAT), not the address.
            21 | 30 if entry & LARGE != 0 => Entry::Leaf(entry & self.address & (u64::MAX << shift)),
            _ if entry & LARGE != 0 => Entry::Empty,
            _ => Entry::Table(entry & self.address),
        }
    }
    fn phys_base(&self) -> u64 {
        self.phys_base
    }
    fn hugetlb_orders(&self) -> &[u32] {
        &[9, 18]
    }
    fn section_size_bits(&self) -> Option<u32> {
        Some(27) // arch/x86/include/asm/sparsemem.h, since there is x86-64
    }
    fn max_physmem_bits(&self) -> Option<u32> {
        Some(if self.tables.levels.len() == LEVELS.len() { 52 } else { 46 })
    }
}

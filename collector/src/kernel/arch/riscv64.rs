//! riscv64: Sv39, Sv48 and Sv57, Svnapot. The RISC-V Instruction Set Manual, volume II, chapter 12.

use super::{Arch, Entry, Level, Place, Tables, missing, walk};
use crate::addr::VirtAddr;
use crate::problem::Problems;
use crate::vmcore::Vmcore;

/// Bit 0 of an entry.
const VALID: u64 = 1;
/// Readable, writable, executable: with any of them an entry is a leaf.
const RWX: u64 = 0b1110;
/// Svnapot: the entry is one of several that map a larger page together.
const NAPOT: u64 = 1 << 63;
/// Bits 53:10: the number of the physical page.
const PPN: u64 = (1 << 54) - (1 << 10);

const LEVELS: [Level; 5] = [
    Level { name: "PGD", shift: 48, bits: 9 },
    Level { name: "P4D", shift: 39, bits: 9 },
    Level { name: "PUD", shift: 30, bits: 9 },
    Level { name: "PMD", shift: 21, bits: 9 },
    Level { name: "PTE", shift: 12, bits: 9 },
];

/// A riscv64 kernel.
#[derive(Debug)]
pub(super) struct Riscv64 {
    tables: Tables,
    phys_base: u64,
}

impl Riscv64 {
    pub fn new(vmcore: &Vmcore<'_>, problems: &mut Problems) -> Option<Self> {
        let info = vmcore.info();
        let Some(top) = info.symbol("swapper_pg_dir") else {
            missing(problems, "VMCOREINFO has no key SYMBOL(swapper_pg_dir)");
            return None;
        };
        // Since Linux commit 649d6b1019a2 ("RISC-V: Add arch_crash_save_vmcoreinfo support") (in v6.2).
        let offset = info.number("va_kernel_pa_offset").map(i64::cast_unsigned);
        let image = |at: VirtAddr| {
            offset.map(|by| at.get().wrapping_sub(by)).or_else(|| super::from_segments(vmcore, at))
        };
        let Some(root) = image(top) else {
            missing(
                problems,
                "VMCOREINFO has no key NUMBER(va_kernel_pa_offset) and no PT_LOAD is of the kernel",
            );
            return None;
        };
        let anchor = info.symbol("_stext").unwrap_or(top);
        let expected = image(anchor);
        let phys_base = info.number("phys_ram_base").map_or(0, i64::cast_unsigned);
        let mut first = None;
        // One kernel runs in any of the three modes, as the CPU can, and says in which.
        for bits in info.number("VA_BITS").into_iter().chain([48, 39, 57]) {
            let skip = match bits {
                39 => 2,
                48 => 1,
                57 => 0,
                _ => continue,
            };
            let levels = LEVELS.get(skip..).unwrap_or_default().to_vec();
            let arch = Self { tables: Tables { root, levels, endian: vmcore.endian() }, phys_base };
            if walk::probe(&arch, vmcore, anchor).map(|p| p.get()) == expected {
                return Some(arch);
            }
            first = first.or(Some(arch));
        }
        first
    }
}

impl Arch for Riscv64 {
    fn place(&self, at: u64) -> Place {
        self.tables.sign_extended(at)
    }
    fn tables(&self) -> &Tables {
        &self.tables
    }
    fn decode(&self, level: usize, entry: u64) -> Entry {
        let shift = self.tables.levels.get(level).map_or(0, |l| l.shift);
        let address = (entry & PPN) << 2;
        if entry & VALID == 0 {
            return Entry::Empty;
        }
        if entry & RWX == 0 {
            return Entry::Table(address);
        }
        if shift == 12 && entry & NAPOT != 0 {
            // The lowest bits of the page number, one set after zeros, say how many entries there are. Only 16 are defined.
            return match address >> 12 & 0xf {
                8 => Entry::Shared { phys: address & !0xffff, shift: 16 },
                _ => Entry::Empty,
            };
        }
        // A misaligned superpage is a fault.
        if address & !(u64::MAX << shift) == 0 { Entry::Leaf(address) } else { Entry::Empty }
    }
    fn phys_base(&self) -> u64 {
        self.phys_base
    }
    fn hugetlb_orders(&self) -> &[u32] {
        &[4, 9, 18]
    }
    fn section_size_bits(&self) -> Option<u32> {
        Some(27) // arch/riscv/include/asm/sparsemem.h
    }
    fn max_physmem_bits(&self) -> Option<u32> {
        Some(56)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmcore::Endian;

    #[test]
    fn entries() {
        let tables = Tables { root: 0, levels: LEVELS.to_vec(), endian: Endian::Little };
        let kernel = Riscv64 { tables, phys_base: 0 };
        // The page number starts at bit 10.
        let ppn = |phys: u64| phys >> 2;
        let cases = [
            (4, 0, Entry::Empty),
            (4, ppn(0x8000_1000) | 0xe6, Entry::Empty),
            (4, ppn(0x8000_1000) | 0xe7, Entry::Leaf(0x8000_1000)),
            (4, ppn(0xff_ffff_ffff_f000) | 0xe7 | 3 << 61, Entry::Leaf(0xff_ffff_ffff_f000)),
            (4, ppn(0x8001_8000) | 0xe7 | NAPOT, Entry::Shared { phys: 0x8001_0000, shift: 16 }),
            (4, ppn(0x8001_4000) | 0xe7 | NAPOT, Entry::Empty),
            (3, ppn(0x8020_0000) | 0xe7, Entry::Leaf(0x8020_0000)),
            (3, ppn(0x8020_1000) | 0xe7, Entry::Empty),
            (0, ppn(0x8020_1000) | 1, Entry::Table(0x8020_1000)),
            // Executable alone is a leaf too.
            (2, ppn(0x8000_0000) | 0b1001, Entry::Leaf(0x8000_0000)),
        ];
        for (level, entry, want) in cases {
            assert_eq!(kernel.decode(level, entry), want, "{level} {entry:#x}");
        }
    }
}

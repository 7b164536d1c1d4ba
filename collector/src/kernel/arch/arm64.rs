//! arm64: pages of 4, 16 and 64 KiB, 36 to 52 bits of virtual and up to 52 of physical addresses. Arm Architecture
//! Reference Manual (DDI 0487), chapter D8.

use super::{Arch, Entry, Level, Place, Tables, missing, walk};
use crate::addr::VirtAddr;
use crate::problem::Problems;
use crate::vmcore::Vmcore;

/// Bits 1:0 of an entry that names a table, or on the lowest level a page.
const TABLE: u64 = 3;
/// Bits 1:0 of an entry above the lowest level that maps memory.
const BLOCK: u64 = 1;
/// No block is larger than 2^42 bytes (level 1 of 64 KiB pages with LPA).
const BLOCK_SHIFT: u32 = 42;
/// Bit 55 of an address says which half it is in; with tags (KASAN, MTE) the bits above say nothing.
const TAG: u32 = 56;

const NAMES: [&str; 5] = ["PTE", "PMD", "PUD", "P4D", "PGD"];

/// Where an entry has the bits of a physical address from 48 on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum High {
    /// It has none; 9:8 are shareability.
    None,
    /// 64 KiB pages: address bits 51:48 are bits 15:12, which are 0 without FEAT_LPA.
    Lpa,
    /// 4 and 16 KiB pages with FEAT_LPA2: address bits 51:50 are bits 9:8, 49:48 are in place.
    Lpa2,
}

impl High {
    /// The physical address in an entry, for pages of `1 << page` bytes.
    fn address(self, entry: u64, page: u32) -> u64 {
        let low = |top: u32| entry & ((1_u64 << top) - 1) & (u64::MAX << page);
        match self {
            Self::None => low(48),
            Self::Lpa => low(48) | (entry >> 12 & 0xf) << 48,
            Self::Lpa2 => low(50) | (entry >> 8 & 3) << 50,
        }
    }
}

/// An arm64 kernel.
#[derive(Debug)]
pub(super) struct Arm64 {
    tables: Tables,
    high: High,
    /// log2 of the page size.
    page: u32,
    phys_offset: u64,
    hugetlb: &'static [u32],
}

impl Arm64 {
    pub fn new(vmcore: &Vmcore<'_>, problems: &mut Problems) -> Option<Self> {
        let info = vmcore.info();
        let page = vmcore.page_size().shift();
        let Some(top) = info.symbol("swapper_pg_dir") else {
            missing(problems, "VMCOREINFO has no key SYMBOL(swapper_pg_dir)");
            return None;
        };
        let offset = info.number("kimage_voffset").map(i64::cast_unsigned);
        // Where the kernel says that a part of its image is.
        let image = |at: VirtAddr| {
            offset.map(|by| at.get().wrapping_sub(by)).or_else(|| super::from_segments(vmcore, at))
        };
        let Some(root) = image(top) else {
            missing(problems, "VMCOREINFO has no key NUMBER(kimage_voffset) and no PT_LOAD is of the kernel");
            return None;
        };
        let anchor = info.symbol("_stext").unwrap_or(top);
        let expected = image(anchor);
        let mut first = None;
        for (root, va, high) in candidates(vmcore, page, root) {
            let tables = Tables { root, levels: levels(page, va), endian: vmcore.endian() };
            let phys_offset = info.number("PHYS_OFFSET").map_or(0, i64::cast_unsigned);
            let arch = Self { tables, high, page, phys_offset, hugetlb: hugetlb(page) };
            if walk::probe(&arch, vmcore, anchor).map(|p| p.get()) == expected {
                return Some(arch);
            }
            first = first.or(Some(arch));
        }
        if first.is_none() {
            missing(problems, "VMCOREINFO has no usable key NUMBER(VA_BITS)");
        }
        // None finds the image: what follows says so.
        first
    }
}

/// What the tables may be: their root, the bits of a virtual address, and the form of an entry; the likeliest first.
fn candidates(vmcore: &Vmcore<'_>, page: u32, root: u64) -> Vec<(u64, u32, High)> {
    let info = vmcore.info();
    let bits = |number: Option<i64>| {
        number.and_then(|n| u32::try_from(n).ok()).filter(|bits| (page + 9..=52).contains(bits))
    };
    let configured = bits(info.number("VA_BITS"));
    // Since Linux commit bbdbc11804ff ("arm64/crash_core: Export TCR_EL1.T1SZ in vmcoreinfo") (in v5.9).
    let actual = bits(info.number("TCR_EL1_T1SZ").and_then(|n| 64_i64.checked_sub(n)));
    let mut sizes: Vec<(u64, u32)> = Vec::new();
    if page == 16 {
        // The tables have the configured shape whatever the CPU can: where it can do less, TTBR1 points into the top one.
        // Until v5.3 kernels with 52 bits for programs alone had such tables for 48 bits of their own.
        sizes.extend(configured.into_iter().chain([52, 48, 42]).map(|va| (root, va)));
    } else {
        // Where the CPU can do less, the top levels are not there: since Linux commit 9684ec186f8f ("arm64: Enable LPA2 at
        // boot if supported by the system") (in v6.9) the table below is in the same page.
        let aligned = root & (u64::MAX << page);
        match (configured, actual) {
            (Some(configured), Some(actual)) if actual != configured => sizes.push((aligned, actual)),
            (Some(va), _) | (None, Some(va)) => sizes.push((root, va)),
            (None, None) => {}
        }
        let others = if page == 12 { [48, 39, 52] } else { [47, 48, 36] };
        sizes.extend(others.map(|va| (root, va)));
    }
    let wide = info.number("MAX_PHYSMEM_BITS").is_some_and(|bits| bits > 48);
    let forms: &[High] = match page {
        16 => &[High::Lpa],
        // A kernel that was built for 52 bits runs with them where the CPU can, and does not tell. Where it cannot, bits 9:8
        // are shareability: 3 in every entry of the image, an address that is not where the kernel says it is.
        _ if wide => &[High::Lpa2, High::None],
        _ => &[High::None],
    };
    sizes.into_iter().flat_map(|(root, va)| forms.iter().map(move |high| (root, va, *high))).collect()
}

/// The levels of tables for `va` bits, from the top down; each but the top one is a page.
fn levels(page: u32, va: u32) -> Vec<Level> {
    let each = page - 3;
    let mut levels: Vec<Level> = Vec::new();
    let mut shift = page;
    for name in NAMES {
        if shift >= va {
            break;
        }
        levels.push(Level { name, shift, bits: each.min(va - shift) });
        shift += each;
    }
    levels.reverse();
    levels
}

/// Orders of hugetlb pages: of PTEs, PMDs and their contiguous groups, and PUDs (arch/arm64/mm/hugetlbpage.c).
fn hugetlb(page: u32) -> &'static [u32] {
    match page {
        12 => &[4, 9, 13, 18],
        14 => &[7, 11, 16],
        _ => &[5, 13, 18],
    }
}

impl Arch for Arm64 {
    fn place(&self, at: u64) -> Place {
        let untagged = (at.cast_signed() << (64 - TAG) >> (64 - TAG)).cast_unsigned();
        let top = self.tables.top();
        if untagged.leading_ones() >= 64 - top {
            Place::Tables(untagged)
        } else {
            Place::Nowhere(format!("bits 55:{top} are not all set"))
        }
    }
    fn tables(&self) -> &Tables {
        &self.tables
    }
    fn decode(&self, level: usize, entry: u64) -> Entry {
        let shift = self.tables.levels.get(level).map_or(0, |l| l.shift);
        let address = self.high.address(entry, self.page);
        match entry & 3 {
            TABLE if shift == self.page => Entry::Leaf(address),
            TABLE => Entry::Table(address),
            BLOCK if shift > self.page && shift <= BLOCK_SHIFT => Entry::Leaf(address & (u64::MAX << shift)),
            _ => Entry::Empty,
        }
    }
    fn phys_base(&self) -> u64 {
        self.phys_offset
    }
    fn hugetlb_orders(&self) -> &[u32] {
        self.hugetlb
    }
    fn section_size_bits(&self) -> Option<u32> {
        Some(30) // arch/arm64/include/asm/sparsemem.h, until v5.12; later ones export it
    }
    fn max_physmem_bits(&self) -> Option<u32> {
        Some(48)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmcore::Endian;

    fn kernel(page: u32, va: u32, high: High) -> Arm64 {
        let tables = Tables { root: 0, levels: levels(page, va), endian: Endian::Little };
        Arm64 { tables, high, page, phys_offset: 0, hugetlb: hugetlb(page) }
    }

    #[test]
    fn levels_are_as_the_manual_has_them() {
        type Shape = &'static [(u32, u32)];
        let cases: &[(u32, u32, Shape)] = &[
            (12, 39, &[(30, 9), (21, 9), (12, 9)]),
            (12, 48, &[(39, 9), (30, 9), (21, 9), (12, 9)]),
            (12, 52, &[(48, 4), (39, 9), (30, 9), (21, 9), (12, 9)]),
            (14, 36, &[(25, 11), (14, 11)]),
            (14, 47, &[(36, 11), (25, 11), (14, 11)]),
            (14, 48, &[(47, 1), (36, 11), (25, 11), (14, 11)]),
            (14, 52, &[(47, 5), (36, 11), (25, 11), (14, 11)]),
            (16, 42, &[(29, 13), (16, 13)]),
            (16, 48, &[(42, 6), (29, 13), (16, 13)]),
            (16, 52, &[(42, 10), (29, 13), (16, 13)]),
        ];
        for (page, va, want) in cases {
            let got: Vec<(u32, u32)> = levels(*page, *va).iter().map(|l| (l.shift, l.bits)).collect();
            assert_eq!(got, *want, "{page} {va}");
        }
    }

    /// DDI 0487, D8.3: where the bits of a 52-bit address are.
    #[test]
    fn addresses_of_52_bits() {
        let share = 3 << 8;
        let cases: &[(u32, u32, High, usize, u64, Entry)] = &[
            // Without LPA2 bits 9:8 are shareability, and 49:48 are no address.
            (12, 48, High::None, 3, 0x0043_1234_5678_9403 | share, Entry::Leaf(0x1234_5678_9000)),
            (12, 52, High::Lpa2, 4, 0x0043_1234_5678_9403, Entry::Leaf(0x0003_1234_5678_9000)),
            (12, 52, High::Lpa2, 4, 0x0041_1234_5678_9703, Entry::Leaf(0x000d_1234_5678_9000)),
            (14, 52, High::Lpa2, 3, 0x0041_1234_5678_8603, Entry::Leaf(0x0009_1234_5678_8000)),
            (12, 52, High::Lpa2, 1, 0x0002_1234_5678_9203, Entry::Table(0x000a_1234_5678_9000)),
            (12, 52, High::Lpa2, 3, 0x0001_1234_5660_0701, Entry::Leaf(0x000d_1234_5660_0000)),
            // With 64 KiB pages bits 15:12 are address bits 51:48.
            (16, 52, High::Lpa, 2, 0x0040_1234_5678_a703, Entry::Leaf(0x000a_1234_5678_0000)),
            (16, 52, High::Lpa, 1, 0x0000_1234_4000_f701, Entry::Leaf(0x000f_1234_4000_0000)),
            (16, 52, High::Lpa, 0, 0x0000_1234_5678_3003, Entry::Table(0x0003_1234_5678_0000)),
            // Reserved, invalid, a block where there is none.
            (12, 48, High::None, 3, 0x1234_5678_9401, Entry::Empty),
            (12, 48, High::None, 2, 0x1234_5678_9402, Entry::Empty),
            (12, 52, High::Lpa2, 0, 0x1234_5678_9401, Entry::Empty),
        ];
        for (page, va, high, level, entry, want) in cases {
            assert_eq!(kernel(*page, *va, *high).decode(*level, *entry), *want, "{page} {va} {entry:#x}");
        }
    }

    #[test]
    fn tags_are_no_part_of_an_address() {
        let kernel = kernel(12, 48, High::None);
        for at in [0xffff_0000_1234_5000, 0xf7ff_0000_1234_5000, 0x03ff_0000_1234_5000] {
            assert!(matches!(kernel.place(at), Place::Tables(0xffff_0000_1234_5000)), "{at:#x}");
        }
        for at in [0x1234_5000, 0xff7f_0000_1234_5000, 0xfffe_0000_1234_5000] {
            assert!(matches!(kernel.place(at), Place::Nowhere(_)), "{at:#x}");
        }
    }
}

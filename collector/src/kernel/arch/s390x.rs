//! s390x: region, segment and page tables of up to five levels, and the identity mapping. z/Architecture Principles of
//! Operation (SA22-7832), chapter 3, "Dynamic Address Translation".

use super::{Arch, Entry, Leaf, Level, Place, Tables, missing};
use crate::addr::PhysAddr;
use crate::problem::{Code, Problems};
use crate::vmcore::Vmcore;

/// Segment- and region-table entries: invalid.
const INVALID: u64 = 0x20;
/// Page-table entries: invalid.
const PAGE_INVALID: u64 = 0x400;
/// Segment- and region-third-table entries: it maps memory (format control).
const LARGE: u64 = 0x400;
/// Bits 3:2 of a region- or segment-table entry: which table it is in, 3 for a region-first one.
const TYPE_SHIFT: u32 = 2;
/// Bytes of a prefix area, which is at address 0 whatever else is.
const LOWCORE: u64 = 0x2000;

/// Where the absolute lowcore has the address of `struct os_info`.
const OS_INFO: PhysAddr = PhysAddr::new(0xe18);
/// `struct os_info`'s first word.
const OS_INFO_MAGIC: u64 = 0x4f53_494e_464f_535a;
/// Its entries: from here on, 20 bytes each; a value is the first word of its entry.
const OS_INFO_ENTRIES: usize = 32;
const OS_INFO_ENTRY: usize = 20;
const OS_INFO_IDENTITY_BASE: usize = 4;
const OS_INFO_KASLR_OFFSET: usize = 5;
const OS_INFO_KASLR_OFF_PHYS: usize = 6;
const OS_INFO_AMODE31_START: usize = 8;
const OS_INFO_AMODE31_END: usize = 9;
const OS_INFO_LAST: usize = 12;

const LEVELS: [Level; 5] = [
    Level { name: "region-first", shift: 53, bits: 11 },
    Level { name: "region-second", shift: 42, bits: 11 },
    Level { name: "region-third", shift: 31, bits: 11 },
    Level { name: "segment", shift: 20, bits: 11 },
    Level { name: "page", shift: 12, bits: 8 },
];

/// An s390x kernel.
#[derive(Debug)]
pub(super) struct S390x {
    tables: Tables,
    /// Stretches that no table is asked for, the first that holds an address counts.
    direct: Vec<Leaf>,
}

/// Where a kernel runs in virtual memory that is not its physical one. Since Linux commit c98d2ecae08f ("s390/mm: Uncouple
/// physical vs virtual address spaces") (in v6.10).
#[derive(Clone, Copy, Debug)]
struct Relocated {
    identity_base: u64,
    image: u64,
    image_phys: u64,
    /// Code for 31-bit addressing, mapped one to one.
    amode31: (u64, u64),
}

impl S390x {
    pub fn new(vmcore: &Vmcore<'_>, problems: &mut Problems) -> Option<Self> {
        let Some(top) = vmcore.info().symbol("swapper_pg_dir") else {
            missing(problems, "VMCOREINFO has no key SYMBOL(swapper_pg_dir)");
            return None;
        };
        let memory = vmcore.page_size().addr_of(vmcore.end_pfn()).map_or(u64::MAX, PhysAddr::get);
        let mut direct = vec![Leaf { virt: 0, len: LOWCORE, phys: 0 }];
        match Relocated::from_info(vmcore).or_else(|| Relocated::from_os_info(vmcore)) {
            Some(moved) => {
                let (start, end) = moved.amode31;
                direct.push(Leaf { virt: start, len: end.saturating_sub(start), phys: start });
                direct.push(Leaf { virt: moved.image, len: u64::MAX - moved.image, phys: moved.image_phys });
                direct.push(Leaf { virt: moved.identity_base, len: memory, phys: 0 });
            }
            // All of memory is where it is; vmalloc's range is above it.
            None => direct.push(Leaf { virt: 0, len: memory, phys: 0 }),
        }
        let Some((root, _)) = direct.iter().find_map(|leaf| leaf.resolve(top.get())) else {
            missing(problems, &format!("swapper_pg_dir at {top} is in no direct mapping"));
            return None;
        };
        // Every entry, an invalid one too, says in which table it is.
        let mut first = [0; 8];
        let kind = match vmcore.read_phys(root, &mut first) {
            Ok(()) => vmcore.endian().u64(&first, 0).unwrap_or(0) >> TYPE_SHIFT & 3,
            Err(e) => {
                problems.push(
                    Code::TRANSLATION_FAILED,
                    format!("cannot read the kernel's top table: {e}: only the direct mapping is known"),
                );
                1
            }
        };
        let skip = usize::try_from(3 - kind).unwrap_or(0);
        let levels = LEVELS.get(skip..).unwrap_or_default().to_vec();
        Some(Self { tables: Tables { root: root.get(), levels, endian: vmcore.endian() }, direct })
    }
}

impl Relocated {
    /// From VMCOREINFO, which says so itself since the same release.
    fn from_info(vmcore: &Vmcore<'_>) -> Option<Self> {
        let hex = |key: &str| u64::from_str_radix(vmcore.info().get(key)?, 16).ok();
        Some(Self {
            identity_base: hex("IDENTITYBASE")?,
            image: hex("KERNELOFFSET")?,
            image_phys: hex("KERNELOFFPHYS")?,
            amode31: (hex("SAMODE31").unwrap_or(0), hex("EAMODE31").unwrap_or(0)),
        })
    }

    /// From `struct os_info`, which the lowcore points to.
    fn from_os_info(vmcore: &Vmcore<'_>) -> Option<Self> {
        let endian = vmcore.endian();
        let mut pointer = [0; 8];
        vmcore.read_phys(OS_INFO, &mut pointer).ok()?;
        let at = endian.u64(&pointer, 0).filter(|at| *at != 0)?;
        let mut bytes = [0; OS_INFO_ENTRIES + OS_INFO_ENTRY * (OS_INFO_LAST + 1)];
        vmcore.read_phys(PhysAddr::new(at), &mut bytes).ok()?;
        if endian.u64(&bytes, 0) != Some(OS_INFO_MAGIC) {
            return None;
        }
        let value = |entry: usize| endian.u64(&bytes, OS_INFO_ENTRIES + OS_INFO_ENTRY * entry).unwrap_or(0);
        let image = Some(value(OS_INFO_KASLR_OFFSET)).filter(|offset| *offset != 0)?;
        Some(Self {
            identity_base: value(OS_INFO_IDENTITY_BASE),
            image,
            image_phys: value(OS_INFO_KASLR_OFF_PHYS),
            amode31: (value(OS_INFO_AMODE31_START), value(OS_INFO_AMODE31_END)),
        })
    }
}

impl Arch for S390x {
    fn place(&self, at: u64) -> Place {
        if let Some(leaf) = self.direct.iter().find(|leaf| leaf.resolve(at).is_some()) {
            return Place::Direct(*leaf);
        }
        let top = self.tables.top();
        match at.checked_shr(top) {
            None | Some(0) => Place::Tables(at),
            Some(_) => Place::Nowhere(format!("the tables reach to 2^{top}")),
        }
    }
    fn tables(&self) -> &Tables {
        &self.tables
    }
    fn decode(&self, level: usize, entry: u64) -> Entry {
        let shift = self.tables.levels.get(level).map_or(0, |l| l.shift);
        let kind = match shift {
            12 if entry & PAGE_INVALID != 0 => return Entry::Empty,
            12 => return Entry::Leaf(entry & !0xfff),
            20 => 0,
            31 => 1,
            42 => 2,
            _ => 3,
        };
        match shift {
            _ if entry & INVALID != 0 || entry >> TYPE_SHIFT & 3 != kind => Entry::Empty,
            20 | 31 if entry & LARGE != 0 => Entry::Leaf(entry & (u64::MAX << shift)),
            20 => Entry::Table(entry & !0x7ff),
            _ => Entry::Table(entry & !0xfff),
        }
    }
    fn hugetlb_orders(&self) -> &[u32] {
        &[8, 19]
    }
    fn section_size_bits(&self) -> Option<u32> {
        Some(28) // arch/s390/include/asm/sparsemem.h
    }
    fn max_physmem_bits(&self) -> Option<u32> {
        Some(46)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmcore::Endian;

    #[test]
    fn entries() {
        let tables = Tables { root: 0, levels: LEVELS.to_vec(), endian: Endian::Big };
        let kernel = S390x { tables, direct: Vec::new() };
        let cases = [
            (0, 0x1234_500f, Entry::Table(0x1234_5000)),
            (0, 0x1234_502f, Entry::Empty),
            // A table of another type.
            (0, 0x1234_500b, Entry::Empty),
            (1, 0x1234_500b, Entry::Table(0x1234_5000)),
            (2, 0x1234_5007, Entry::Table(0x1234_5000)),
            (2, 0x1_8000_0404, Entry::Leaf(0x1_8000_0000)),
            (3, 0x1234_5800, Entry::Table(0x1234_5800)),
            (3, 0x1230_b400, Entry::Leaf(0x1230_0000)),
            (3, 0x20, Entry::Empty),
            (4, 0x1234_5200, Entry::Leaf(0x1234_5000)),
            (4, 0x400, Entry::Empty),
        ];
        for (level, entry, want) in cases {
            assert_eq!(kernel.decode(level, entry), want, "{level} {entry:#x}");
        }
    }
}

//! ppc64: the radix MMU, and the hash MMU, whose linear mapping and vmemmap are in no table. Power ISA 3.1, book III, chapter
//! 6. The entries of the tables are big-endian in a little-endian kernel too: since v4.7.

use super::{Arch, Entry, Leaf, Level, Place, Tables, missing, walk};
use crate::addr::{PhysAddr, VirtAddr};
use crate::problem::{Code, Problems};
use crate::vmcore::{Endian, Vmcore};
use std::collections::BTreeMap;

/// The linear mapping: the top four bits of an address are 0xc, the others the physical address.
const LINEAR: u64 = 0xc;
const REGION_SHIFT: u32 = 60;
/// Bit 63 of a radix entry: valid.
const VALID: u64 = 1 << 63;
/// Bit 62 of an entry: it maps memory.
const LEAF: u64 = 1 << 62;
/// What is no address in an entry that names a table: flags above, the size of the table below.
const TABLE: u64 = 0x3fff_ffff_ffff_ff00;
/// Bits 52:12 of a leaf: the physical address; fewer with larger pages.
const RPN: u64 = (1 << 53) - 1;
/// MMU_FTR_TYPE_RADIX in `cpu_spec.mmu_features`.
const MMU_RADIX: u64 = 0x40;
/// Blocks of vmemmap that are believed; 16 MiB each on machines that have large pages.
const MAX_BLOCKS: usize = 1 << 20;

type Geometry = [Level; 4];

const fn geometry(page: u32, pte: u32, pmd: u32, pud: u32, pgd: u32) -> Geometry {
    [
        Level { name: "PGD", shift: page + pte + pmd + pud, bits: pgd },
        Level { name: "PUD", shift: page + pte + pmd, bits: pud },
        Level { name: "PMD", shift: page + pte, bits: pmd },
        Level { name: "PTE", shift: page, bits: pte },
    ]
}

const RADIX_64K: Geometry = geometry(16, 5, 9, 9, 13);
const RADIX_4K: Geometry = geometry(12, 9, 9, 9, 13);
const HASH_4K: Geometry = geometry(12, 9, 7, 9, 9);
/// Since Linux commit ba95b5d03596 ("powerpc/mm/book3s/64: Rework page table geometry for lower memory usage") (in v4.17).
const HASH_64K: Geometry = geometry(16, 8, 10, 10, 8);

/// A ppc64 kernel.
#[derive(Debug)]
pub(super) struct Ppc64 {
    tables: Tables,
    radix: bool,
    /// Bytes of memory.
    memory: u64,
    /// Hash MMU: where vmemmap is, by virtual address, neighbours joined.
    vmemmap: Vec<Leaf>,
    hugetlb: &'static [u32],
}

impl Ppc64 {
    pub fn new(vmcore: &Vmcore<'_>, problems: &mut Problems) -> Option<Self> {
        let info = vmcore.info();
        let Some(top) = info.symbol("swapper_pg_dir") else {
            missing(problems, "VMCOREINFO has no key SYMBOL(swapper_pg_dir)");
            return None;
        };
        let Some(root) = linear(top.get()) else {
            missing(problems, &format!("swapper_pg_dir at {top} is not in the linear mapping"));
            return None;
        };
        let memory = vmcore.page_size().addr_of(vmcore.end_pfn()).map_or(u64::MAX, PhysAddr::get);
        let page = vmcore.page_size().shift();
        let with = |radix: bool| {
            let (levels, hugetlb): (_, &[u32]) = match (radix, page) {
                (true, 12) => (RADIX_4K, &[9, 18]),
                (true, _) => (RADIX_64K, &[5, 14]),
                (false, 12) => (HASH_4K, &[12, 22]),
                (false, _) => (HASH_64K, &[8, 18]),
            };
            let tables = Tables { root: root.get(), levels: levels.to_vec(), endian: Endian::Big };
            Self { tables, radix, memory, vmemmap: Vec::new(), hugetlb }
        };
        let radix = with(true);
        // Older kernels (v6.1 is one) tell nothing. But with radix, and only then, the tables have the linear mapping too.
        let anchor = info.symbol("_stext").unwrap_or(top);
        let linear = || walk::probe(&radix, vmcore, anchor) == linear(anchor.get());
        if is_radix(vmcore).unwrap_or_else(linear) {
            return Some(radix);
        }
        Some(Self { vmemmap: vmemmap(vmcore, problems), ..with(false) })
    }
}

/// The physical address of one in the linear mapping.
fn linear(at: u64) -> Option<PhysAddr> {
    (at >> REGION_SHIFT == LINEAR).then_some(PhysAddr::new(at & !(0xf << REGION_SHIFT)))
}

/// An integer of `len` bytes in the linear mapping.
fn read(vmcore: &Vmcore<'_>, at: Option<VirtAddr>, len: usize) -> Result<u64, String> {
    let at = at.ok_or("an address past 2^64")?;
    let mut raw = [0; 8];
    let bytes = raw.get_mut(..len).unwrap_or_default();
    let phys = linear(at.get()).ok_or_else(|| format!("{at} is not in the linear mapping"))?;
    vmcore.read_phys(phys, bytes).map_err(|e| e.to_string())?;
    let endian = vmcore.endian();
    let value = if len == 4 { endian.u32(bytes, 0).map(u64::from) } else { endian.u64(bytes, 0) };
    Ok(value.unwrap_or(0))
}

/// Whether the MMU is radix, where the kernel tells.
fn is_radix(vmcore: &Vmcore<'_>) -> Option<bool> {
    let info = vmcore.info();
    if let Some(number) = info.number("RADIX_MMU") {
        return Some(number != 0);
    }
    let spec = read(vmcore, info.symbol("cur_cpu_spec"), 8).ok()?;
    let offset = info.offset("cpu_spec.mmu_features")?;
    let features = read(vmcore, VirtAddr::new(spec).checked_add(offset), 4).ok()?;
    Some(features & MMU_RADIX != 0)
}

/// The blocks of vmemmap, from the kernel's list of them. What cannot be read of it is told and left out.
fn vmemmap(vmcore: &Vmcore<'_>, problems: &mut Problems) -> Vec<Leaf> {
    let mut blocks = BTreeMap::new();
    if let Err(why) = collect(vmcore, &mut blocks) {
        problems.push(
            Code::TRANSLATION_FAILED,
            format!("vmemmap_list: {why}: {} blocks of mem_map are known", blocks.len()),
        );
    }
    let mut leaves: Vec<Leaf> = Vec::new();
    for (virt, (phys, len)) in blocks {
        match leaves.last_mut() {
            Some(last)
                if last.virt.checked_add(last.len) == Some(virt)
                    && last.phys.checked_add(last.len) == Some(phys) =>
            {
                last.len = last.len.saturating_add(len);
            }
            _ => leaves.push(Leaf { virt, len, phys }),
        }
    }
    leaves
}

/// Follows `vmemmap_list`: virtual address to physical address and length.
fn collect(vmcore: &Vmcore<'_>, blocks: &mut BTreeMap<u64, (u64, u64)>) -> Result<(), String> {
    let info = vmcore.info();
    let symbol =
        |name: &str| info.symbol(name).ok_or_else(|| format!("VMCOREINFO has no key SYMBOL({name})"));
    let offset =
        |name: &str| info.offset(name).ok_or_else(|| format!("VMCOREINFO has no key OFFSET({name})"));
    let size = info.size("mmu_psize_def").ok_or("VMCOREINFO has no key SIZE(mmu_psize_def)")?;
    let (next, phys, virt) = (
        offset("vmemmap_backing.list")?,
        offset("vmemmap_backing.phys")?,
        offset("vmemmap_backing.virt_addr")?,
    );
    let index = read(vmcore, Some(symbol("mmu_vmemmap_psize")?), 4)?;
    let skip = index.checked_mul(size).and_then(|n| n.checked_add(offset("mmu_psize_def.shift").ok()?));
    let shift = read(vmcore, skip.and_then(|n| symbol("mmu_psize_defs").ok()?.checked_add(n)), 4)?;
    let shift = u32::try_from(shift).ok().filter(|s| (12..=34).contains(s));
    let len = 1_u64 << shift.ok_or("its blocks have an impossible size")?;
    // No more than there are struct pages for.
    let all = vmcore.end_pfn().get().saturating_mul(info.size("page").unwrap_or(0));
    let most = usize::try_from(all.div_ceil(len)).unwrap_or(usize::MAX).saturating_add(16).min(MAX_BLOCKS);
    let mut at = read(vmcore, Some(symbol("vmemmap_list")?), 8)?;
    while at != 0 {
        let node = VirtAddr::new(at);
        let field = |by: u64| read(vmcore, node.checked_add(by), 8).map_err(|e| format!("{node}: {e}"));
        let start = field(virt)?;
        if start & (len - 1) != 0 || start.checked_add(len).is_none() {
            return Err(format!("the block at {node} is of {start:#x}"));
        }
        if blocks.insert(start, (field(phys)?, len)).is_some() {
            return Err(format!("it comes to {start:#x} a second time at {node}"));
        }
        if blocks.len() > most {
            return Err(format!("it has more than {most} blocks"));
        }
        at = field(next)?;
    }
    Ok(())
}

impl Arch for Ppc64 {
    fn place(&self, at: u64) -> Place {
        if !self.radix {
            let after = self.vmemmap.partition_point(|leaf| leaf.virt <= at);
            let block = after.checked_sub(1).and_then(|i| self.vmemmap.get(i));
            if let Some(leaf) = block.filter(|leaf| leaf.resolve(at).is_some()) {
                return Place::Direct(*leaf);
            }
            // Whatever else is at 0xc… is above all of memory.
            if linear(at).is_some_and(|phys| phys.get() < self.memory) {
                return Place::Direct(Leaf { virt: LINEAR << REGION_SHIFT, len: self.memory, phys: 0 });
            }
        }
        let top = self.tables.top();
        match at >> REGION_SHIFT {
            // The kernel's range, and before v5.2 that of vmalloc; the tables do not say which.
            0xc | 0xd if at << 4 >> 4 >> top == 0 => Place::Tables(at),
            _ => Place::Nowhere("no table is for it".to_owned()),
        }
    }
    fn tables(&self) -> &Tables {
        &self.tables
    }
    fn decode(&self, level: usize, entry: u64) -> Entry {
        let shift = self.tables.levels.get(level).map_or(0, |l| l.shift);
        let lowest = self.tables.levels.last().map_or(0, |l| l.shift);
        let leaf = Entry::Leaf(entry & RPN & (u64::MAX << shift));
        match () {
            () if entry & VALID == 0 && (self.radix || shift == lowest) => Entry::Empty,
            () if entry == 0 => Entry::Empty,
            () if shift == lowest || entry & LEAF != 0 => leaf,
            () => Entry::Table(entry & TABLE),
        }
    }
    fn hugetlb_orders(&self) -> &[u32] {
        self.hugetlb
    }
    fn section_size_bits(&self) -> Option<u32> {
        Some(24) // arch/powerpc/include/asm/sparsemem.h
    }
    fn max_physmem_bits(&self) -> Option<u32> {
        None // 44, 46, 47 or 51, and told since v5.8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries() {
        let kernel = |radix: bool, levels: Geometry| {
            let tables = Tables { root: 0, levels: levels.to_vec(), endian: Endian::Big };
            Ppc64 { tables, radix, memory: 1 << 30, vmemmap: Vec::new(), hugetlb: &[] }
        };
        let cases = [
            (true, RADIX_64K, 0, 0x8000_0000_1234_0009, Entry::Table(0x1234_0000)),
            (true, RADIX_64K, 2, 0x8000_0000_1234_5705, Entry::Table(0x1234_5700)),
            (true, RADIX_64K, 2, 0xc000_0001_0020_018e, Entry::Leaf(0x1_0020_0000)),
            (true, RADIX_64K, 3, 0xc000_0001_0021_018e, Entry::Leaf(0x1_0021_0000)),
            (true, RADIX_4K, 3, 0xc060_0001_0021_318e, Entry::Leaf(0x1_0021_3000)),
            (true, RADIX_64K, 0, 0x0000_0000_1234_0009, Entry::Empty),
            (true, RADIX_64K, 3, 0x4000_0001_0021_018e, Entry::Empty),
            (false, HASH_64K, 0, 0x1234_0000, Entry::Table(0x1234_0000)),
            (false, HASH_64K, 0, 0, Entry::Empty),
            (false, HASH_64K, 3, 0xc000_0001_0021_018e, Entry::Leaf(0x1_0021_0000)),
            (false, HASH_64K, 3, 0x1234_0000, Entry::Empty),
        ];
        for (radix, levels, level, entry, want) in cases {
            assert_eq!(kernel(radix, levels).decode(level, entry), want, "{radix} {level} {entry:#x}");
        }
    }

    #[test]
    fn trees_reach_as_far_as_the_kernel_says() {
        let top = |levels: Geometry| levels[0].shift + levels[0].bits;
        assert_eq!([RADIX_64K, RADIX_4K, HASH_64K, HASH_4K].map(top), [52, 52, 52, 46]);
    }
}

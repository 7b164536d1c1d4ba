//! ppc64: radix trees of Power ISA 3.1, book III, and the hash MMU, for which Linux keeps vmemmap in a list.

use super::radix::{self, Format, Step};
use super::{Facts, Isa, key};
use crate::synth::memory::{Frames, Leaf, Memory, Order};

/// Which MMU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mmu {
    /// Radix trees.
    Radix,
    /// The hash table; vmemmap is in blocks of `1 << shift` bytes.
    Hash {
        /// log2 of a block.
        shift: u32,
    },
}

/// How the kernel says which MMU it has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tells {
    /// NUMBER(RADIX_MMU), in newer kernels.
    Number,
    /// cur_cpu_spec's features.
    CpuSpec,
    /// Not at all.
    Nothing,
}

/// A ppc64 kernel.
#[derive(Clone, Debug)]
pub struct Ppc64 {
    /// log2 of the page size.
    pub page_shift: u32,
    /// MMU.
    pub mmu: Mmu,
    /// What says so.
    pub tells: Tells,
    /// Byte order of the kernel; the tables are big-endian always.
    pub order: Order,
    root: u64,
    /// Hash: blocks of vmemmap.
    blocks: Vec<(u64, u64)>,
    /// Where the list, the sizes and the CPU's description are.
    list: u64,
}

const LINEAR: u64 = 0xc000_0000_0000_0000;
const VALID: u64 = 1 << 63;
const LEAF: u64 = 1 << 62;
/// Referenced, changed, privileged, readable, writable.
const RIGHTS: u64 = 0x18e;
const MMU_INDEX: u64 = 5;
const SIZE_DEF: u64 = 96;

impl Ppc64 {
    /// A little-endian kernel.
    pub fn new(page_shift: u32, mmu: Mmu, tells: Tells) -> Self {
        Self { page_shift, mmu, tells, order: Order::Little, root: 0, blocks: Vec::new(), list: 0 }
    }
    /// The same of the other byte order.
    pub fn big_endian(self) -> Self {
        Self { order: Order::Big, ..self }
    }
    fn steps(&self) -> [Step; 4] {
        let bits = match (self.mmu, self.page_shift) {
            (Mmu::Radix, 12) => [13, 9, 9, 9],
            (Mmu::Radix, _) => [13, 9, 9, 5],
            (Mmu::Hash { .. }, 12) => [9, 9, 7, 9],
            (Mmu::Hash { .. }, _) => [8, 10, 10, 8],
        };
        let mut shift = self.page_shift + bits.iter().sum::<u32>();
        bits.map(|bits| {
            shift -= bits;
            Step { shift, bits }
        })
    }
    fn is_radix(&self) -> bool {
        self.mmu == Mmu::Radix
    }
    /// Physical addresses of the list's nodes.
    fn node(&self, n: usize) -> u64 {
        self.list + 0x1000 + n as u64 * 32
    }
}

impl Format for Ppc64 {
    fn order(&self) -> Order {
        Order::Big
    }
    fn table(&self, depth: usize, phys: u64) -> u64 {
        if self.is_radix() { VALID | phys | u64::from(self.steps()[depth + 1].bits) } else { phys }
    }
    fn next(&self, _depth: usize, entry: u64) -> Option<u64> {
        (entry != 0).then_some(entry & 0x0fff_ffff_ffff_ff00)
    }
}

impl Isa for Ppc64 {
    fn facts(&self) -> Facts {
        Facts {
            machine: 21,
            uname: if self.order == Order::Little { "ppc64le" } else { "ppc64" },
            order: self.order,
            page_shift: self.page_shift,
            section_bits: 24,
            max_physmem_bits: if self.page_shift == 12 { 46 } else { 51 },
            base: 0,
            hugetlb: match (self.mmu, self.page_shift) {
                (Mmu::Radix, 16) => &[5],
                (Mmu::Radix, _) => &[9],
                _ => &[],
            },
        }
    }
    fn vmemmap(&self) -> u64 {
        match (self.mmu, self.page_shift) {
            (Mmu::Hash { .. }, 16) => 0xf000_0000_0000_0000,
            (_, 16) => 0xc00c_0000_0000_0000,
            _ => 0xc000_3000_0000_0000,
        }
    }
    fn image_virt(&self, phys: u64) -> u64 {
        LINEAR | phys
    }
    fn direct_virt(&self, phys: u64) -> u64 {
        LINEAR | phys
    }
    fn vmalloc(&self) -> u64 {
        match (self.mmu, self.page_shift) {
            (_, 16) => 0xc008_0000_0010_0000,
            _ => 0xc000_1000_0010_0000,
        }
    }
    fn leaf(&self, leaf: Leaf) -> u64 {
        match (leaf, self.mmu) {
            // For vmemmap alone: nothing else of hash asks.
            (Leaf::Large, Mmu::Hash { shift }) => 1 << shift,
            (Leaf::Page, _) => 1 << self.page_shift,
            (Leaf::Large, Mmu::Radix) => 1 << 21,
            (Leaf::Huge, _) => 1 << 30,
        }
    }
    fn start(&mut self, memory: &mut Memory, frames: &mut Frames, _image: (u64, u64)) -> u64 {
        let step = self.steps()[0];
        self.root = radix::new_table(memory, frames, step, 0, Order::Big);
        self.root
    }
    fn map(&mut self, memory: &mut Memory, frames: &mut Frames, virt: u64, phys: u64, leaf: Leaf) {
        if !self.is_radix() && virt >= self.vmemmap() {
            self.blocks.push((virt, phys));
            return;
        }
        let shift = self.leaf(leaf).trailing_zeros();
        let at = radix::slot(self, self.root, &self.steps(), memory, frames, virt, shift);
        memory.set(at, phys | VALID | LEAF | RIGHTS, Order::Big);
    }
    fn map_memory(&mut self, memory: &mut Memory, frames: &mut Frames, ram: &[(u64, u64)], _: (u64, u64)) {
        if !self.is_radix() {
            return;
        }
        for (start, end) in ram {
            for phys in (start >> 21 << 21..*end).step_by(1 << 21) {
                self.map(memory, frames, LINEAR | phys, phys, Leaf::Large);
            }
        }
    }
    fn seal(&mut self, memory: &mut Memory, frames: &mut Frames) {
        let order = self.order;
        let pages = (0x1000 + self.blocks.len() as u64 * 32).div_ceil(memory.page_size());
        self.list = frames.take(pages, 1) * memory.page_size();
        // vmemmap_list, mmu_vmemmap_psize, cur_cpu_spec and what it points to, mmu_psize_defs.
        let first = if self.blocks.is_empty() { 0 } else { LINEAR | self.node(0) };
        memory.set(self.list, first, order);
        memory.write(self.list + 8, &order.bytes(MMU_INDEX, 4));
        memory.set(self.list + 16, LINEAR | (self.list + 0x800), order);
        let features = if self.is_radix() { 0x40 } else { 0x1 };
        memory.write(self.list + 0x800 + 24, &order.bytes(features, 4));
        if let Mmu::Hash { shift } = self.mmu {
            memory.write(self.list + 0x100 + MMU_INDEX * SIZE_DEF, &order.bytes(shift.into(), 4));
        }
        let count = self.blocks.len();
        for (n, (virt, phys)) in self.blocks.clone().into_iter().enumerate() {
            let next = if n + 1 < count { LINEAR | self.node(n + 1) } else { 0 };
            memory.set(self.node(n), next, order);
            memory.set(self.node(n) + 8, phys, order);
            memory.set(self.node(n) + 16, virt, order);
        }
    }
    fn keys(&self, _version: (u32, u32)) -> Vec<(String, String)> {
        let at = |by: u64| format!("{:x}", LINEAR | (self.list + by));
        let mut keys = vec![
            key("SYMBOL(vmemmap_list)", at(0)),
            key("SYMBOL(mmu_vmemmap_psize)", at(8)),
            key("SYMBOL(mmu_psize_defs)", at(0x100)),
            key("SIZE(vmemmap_backing)", 24),
            key("OFFSET(vmemmap_backing.list)", 0),
            key("OFFSET(vmemmap_backing.phys)", 8),
            key("OFFSET(vmemmap_backing.virt_addr)", 16),
            key("SIZE(mmu_psize_def)", SIZE_DEF),
            key("OFFSET(mmu_psize_def.shift)", 0),
            key("KERNELOFFSET", 0),
        ];
        match self.tells {
            Tells::Number => keys.push(key("NUMBER(RADIX_MMU)", u32::from(self.is_radix()))),
            Tells::CpuSpec => {
                keys.push(key("SYMBOL(cur_cpu_spec)", at(16)));
                keys.push(key("OFFSET(cpu_spec.cpu_features)", 16));
                keys.push(key("OFFSET(cpu_spec.mmu_features)", 24));
            }
            Tells::Nothing => {}
        }
        keys
    }
}

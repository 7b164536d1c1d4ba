//! x86-64: 4- and 5-level page tables. Intel SDM volume 3, section 4.5.

use super::Facts;
use crate::synth::memory::{Frames, Leaf, Memory, Order, PAGE};

/// Where the kernel's image is mapped.
pub const START_KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;
/// AMD SME.
pub const ENCRYPTION_BIT: u64 = 1 << 47;

/// What is fixed; MAX_PHYSMEM_BITS depends on the number of levels.
pub const FACTS: Facts = Facts {
    machine: 62,
    uname: "x86_64",
    order: Order::Little,
    page_shift: 12,
    section_bits: 27,
    max_physmem_bits: 46,
    base: 0,
    hugetlb: &[9],
};

/// log2 of a leaf's pages, in levels of 9 bits.
fn level(leaf: Leaf) -> u32 {
    match leaf {
        Leaf::Page => 0,
        Leaf::Large => 1,
        Leaf::Huge => 2,
    }
}

/// Bytes of a leaf.
pub fn leaf_bytes(leaf: Leaf) -> u64 {
    PAGE << (9 * level(leaf))
}

/// 4- or 5-level page tables.
#[derive(Clone, Debug)]
pub struct PageTables {
    /// Physical address of the top table.
    pub root: u64,
    levels: u32,
    encryption: u64,
}

const TABLE_BITS: u64 = 0x67;
/// Present, writable, accessed, dirty, global, no-execute, and a software bit above the address.
const LEAF_BITS: u64 = 0x8010_0000_0000_0163;
const LARGE_BIT: u64 = 0x80;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

impl PageTables {
    /// Empty tables in `frame`; `encryption` is or-ed into each entry (sme_mask).
    pub fn new(frame: u64, levels: u32, encryption: u64) -> Self {
        Self { root: frame * PAGE, levels, encryption }
    }

    /// Maps one leaf.
    pub fn map(&self, memory: &mut Memory, frames: &mut Frames, virt: u64, phys: u64, leaf: Leaf) {
        assert!(
            virt.is_multiple_of(leaf_bytes(leaf)) && phys.is_multiple_of(leaf_bytes(leaf)),
            "{virt:#x} {phys:#x}"
        );
        let mut table = self.root;
        for level in (level(leaf) + 1..self.levels).rev() {
            let entry = table + (virt >> (12 + 9 * level) & 511) * 8;
            let mut value = memory.word(entry);
            if value == 0 {
                value = (frames.take(1, 1) * PAGE) | TABLE_BITS | self.encryption;
                memory.set_word(entry, value);
            }
            table = value & ADDRESS & !self.encryption;
        }
        let entry = table + (virt >> (12 + 9 * level(leaf)) & 511) * 8;
        let large = if leaf == Leaf::Page { 0 } else { LARGE_BIT };
        memory.set_word(entry, phys | LEAF_BITS | large | self.encryption);
    }

    /// The physical address of the entry that maps `virt`, for tests that break it.
    pub fn entry_of(&self, memory: &Memory, virt: u64) -> Option<u64> {
        let mut table = self.root;
        for level in (0..self.levels).rev() {
            let entry = table + (virt >> (12 + 9 * level) & 511) * 8;
            let value = memory.word(entry);
            if value == 0 {
                return None;
            }
            if level == 0 || (level < 3 && value & LARGE_BIT != 0) {
                return Some(entry);
            }
            table = value & ADDRESS & !self.encryption;
        }
        None
    }
}

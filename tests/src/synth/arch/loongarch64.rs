//! loongarch64: windows and tables of the reference manual, volume 1, chapter 5, as arch/loongarch/include/asm/pgtable.h
//! fills them.

use super::radix::{self, Format, Step};
use super::{Facts, Isa, key};
use crate::synth::memory::{Frames, Leaf, Memory, Order};

/// A loongarch64 kernel.
#[derive(Clone, Debug)]
pub struct LoongArch64 {
    /// log2 of the page size.
    pub page_shift: u32,
    /// CONFIG_PGTABLE_LEVELS.
    pub levels: usize,
    root: u64,
    /// Tables in which nothing is: what empty entries of each level name.
    invalid: Vec<u64>,
}

const WINDOW: u64 = 0x9000_0000_0000_0000;
/// Valid, dirty, cached, present, writable, modified; no execution.
const LEAF: u64 = 1 | 1 << 1 | 1 << 4 | 1 << 7 | 1 << 8 | 1 << 9 | 1 << 62;
/// Global in a page's entry; in others: it is a leaf.
const GLOBAL_OR_HUGE: u64 = 1 << 6;

impl LoongArch64 {
    /// A kernel with that page size and depth.
    pub fn new(page_shift: u32, levels: usize) -> Self {
        Self { page_shift, levels, root: 0, invalid: Vec::new() }
    }
    fn steps(&self) -> Vec<Step> {
        let bits = self.page_shift - 3;
        let shift = |n: u32| self.page_shift + n * bits;
        let levels = u32::try_from(self.levels).expect("few");
        (0..levels).rev().map(|n| Step { shift: shift(n), bits }).collect()
    }
}

impl Format for LoongArch64 {
    fn order(&self) -> Order {
        Order::Little
    }
    fn table(&self, _depth: usize, phys: u64) -> u64 {
        WINDOW | phys
    }
    fn next(&self, _depth: usize, entry: u64) -> Option<u64> {
        let phys = entry & !WINDOW;
        (!self.invalid.contains(&phys)).then_some(phys)
    }
    fn empty(&self, depth: usize) -> u64 {
        // Of the lowest level: global, nothing else.
        self.invalid.get(depth + 1).map_or(GLOBAL_OR_HUGE, |phys| WINDOW | phys)
    }
}

impl Isa for LoongArch64 {
    fn facts(&self) -> Facts {
        Facts {
            machine: 258,
            uname: "loongarch64",
            order: Order::Little,
            page_shift: self.page_shift,
            section_bits: 29,
            max_physmem_bits: 48,
            base: 0,
            hugetlb: if self.page_shift == 12 { &[9] } else { &[] },
        }
    }
    fn vmemmap(&self) -> u64 {
        // Its highest bit that a table looks at is no copy of those above.
        let bits = self.steps()[0].shift + self.page_shift - 3;
        0xffff_8000_0000_0000 + (1 << (bits - 2))
    }
    fn image_virt(&self, phys: u64) -> u64 {
        WINDOW | phys
    }
    fn direct_virt(&self, phys: u64) -> u64 {
        WINDOW | phys
    }
    fn vmalloc(&self) -> u64 {
        0xffff_8000_0000_0000 + 0x2000_0000
    }
    fn leaf(&self, leaf: Leaf) -> u64 {
        match leaf {
            Leaf::Page => 1 << self.page_shift,
            _ => 1 << (2 * self.page_shift - 3),
        }
    }
    fn start(&mut self, memory: &mut Memory, frames: &mut Frames, _image: (u64, u64)) -> u64 {
        let steps = self.steps();
        // From below: each names the one below it. The first of them is never named.
        self.invalid = vec![u64::MAX; steps.len()];
        for depth in (1..steps.len()).rev() {
            let empty =
                if depth + 1 == steps.len() { GLOBAL_OR_HUGE } else { WINDOW | self.invalid[depth + 1] };
            self.invalid[depth] = radix::new_table(memory, frames, steps[depth], empty, Order::Little);
        }
        self.root = radix::new_table(memory, frames, steps[0], self.empty(0), Order::Little);
        self.root
    }
    fn map(&mut self, memory: &mut Memory, frames: &mut Frames, virt: u64, phys: u64, leaf: Leaf) {
        let shift = self.leaf(leaf).trailing_zeros();
        let at = radix::slot(self, self.root, &self.steps(), memory, frames, virt, shift);
        memory.set(at, phys | LEAF | GLOBAL_OR_HUGE, Order::Little);
    }
    fn map_memory(&mut self, _: &mut Memory, _: &mut Frames, _: &[(u64, u64)], _: (u64, u64)) {
        // It is in a window.
    }
    fn keys(&self, _version: (u32, u32)) -> Vec<(String, String)> {
        vec![key("KERNELOFFSET", "0")]
    }
}

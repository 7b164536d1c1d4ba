//! riscv64: Sv39, Sv48, Sv57 of the privileged specification, and Svnapot.

use super::radix::{self, Format, Step};
use super::{Facts, Isa, key};
use crate::synth::memory::{Frames, Leaf, Memory, Order};

/// A riscv64 kernel.
#[derive(Clone, Debug)]
pub struct Riscv64 {
    /// 39, 48 or 57.
    pub va_bits: u32,
    /// Pages of vmemmap and modules are mapped sixteen at a time.
    pub napot: bool,
    root: u64,
    image: u64,
}

const BASE: u64 = 0x8000_0000;
/// Valid, readable, writable, global, accessed, dirty; page-based memory type 1.
const LEAF: u64 = 0b1110_0111 | 1 << 61;
const VALID: u64 = 1;
const NAPOT: u64 = 1 << 63;

impl Riscv64 {
    /// A kernel in one of the modes.
    pub fn new(va_bits: u32, napot: bool) -> Self {
        Self { va_bits, napot, root: 0, image: 0 }
    }
    fn steps(&self) -> Vec<Step> {
        let tops: u32 = (self.va_bits - 12) / 9;
        (0..tops).rev().map(|n| Step { shift: 12 + 9 * n, bits: 9 }).collect()
    }
    fn page_offset(&self) -> u64 {
        match self.va_bits {
            39 => 0xffff_ffd8_0000_0000,
            48 => 0xffff_af80_0000_0000,
            _ => 0xff60_0000_0000_0000,
        }
    }
    fn kernel_offset(&self) -> u64 {
        0xffff_ffff_8000_0000 - self.image
    }
}

impl Format for Riscv64 {
    fn order(&self) -> Order {
        Order::Little
    }
    fn table(&self, _depth: usize, phys: u64) -> u64 {
        phys >> 12 << 10 | VALID
    }
    fn next(&self, _depth: usize, entry: u64) -> Option<u64> {
        (entry & 0xf == VALID).then_some(entry >> 10 << 12)
    }
}

impl Isa for Riscv64 {
    fn facts(&self) -> Facts {
        Facts {
            machine: 243,
            uname: "riscv64",
            order: Order::Little,
            page_shift: 12,
            section_bits: 27,
            max_physmem_bits: 56,
            base: BASE,
            hugetlb: &[9],
        }
    }
    fn vmemmap(&self) -> u64 {
        let start: u64 = match self.va_bits {
            39 => 0xffff_ffc8_0000_0000,
            48 => 0xffff_8d80_0000_0000,
            _ => 0xff1c_0000_0000_0000,
        };
        start - (BASE >> 12) * 64
    }
    fn image_virt(&self, phys: u64) -> u64 {
        phys + self.kernel_offset()
    }
    fn direct_virt(&self, phys: u64) -> u64 {
        self.page_offset() + (phys - BASE)
    }
    fn vmalloc(&self) -> u64 {
        self.page_offset() - 0x10_0000
    }
    fn leaf(&self, leaf: Leaf) -> u64 {
        match leaf {
            Leaf::Page if self.napot => 1 << 16,
            Leaf::Page => 1 << 12,
            Leaf::Large => 1 << 21,
            Leaf::Huge => 1 << 30,
        }
    }
    fn start(&mut self, memory: &mut Memory, frames: &mut Frames, image: (u64, u64)) -> u64 {
        self.image = image.0;
        self.root = radix::new_table(memory, frames, self.steps()[0], 0, Order::Little);
        self.root
    }
    fn map(&mut self, memory: &mut Memory, frames: &mut Frames, virt: u64, phys: u64, leaf: Leaf) {
        let shift = if leaf == Leaf::Page { 12 } else { self.leaf(leaf).trailing_zeros() };
        let steps = self.steps();
        if leaf == Leaf::Page && self.napot && virt.is_multiple_of(1 << 16) && phys.is_multiple_of(1 << 16) {
            for i in 0..16 {
                let at = radix::slot(self, self.root, &steps, memory, frames, virt + i * 4096, 12);
                // All sixteen are the same: the lowest set bit of the page number says how many there are.
                memory.set(at, (phys >> 12 | 8) << 10 | LEAF | NAPOT, Order::Little);
            }
            return;
        }
        let at = radix::slot(self, self.root, &steps, memory, frames, virt, shift);
        memory.set(at, phys >> 12 << 10 | LEAF, Order::Little);
    }
    fn phys_base(&self) -> u64 {
        BASE
    }
    fn keys(&self, _version: (u32, u32)) -> Vec<(String, String)> {
        let hex = |n: u64| format!("{n:#x}");
        vec![
            key("NUMBER(VA_BITS)", self.va_bits),
            key("NUMBER(PAGE_OFFSET)", hex(self.page_offset())),
            key("NUMBER(phys_ram_base)", BASE),
            key("NUMBER(KERNEL_LINK_ADDR)", hex(0xffff_ffff_8000_0000)),
            key("NUMBER(va_kernel_pa_offset)", hex(self.kernel_offset())),
            key("KERNELOFFSET", "0"),
        ]
    }
}

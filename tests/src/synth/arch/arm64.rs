//! arm64: translation tables of DDI 0487 chapter D8, addresses as arch/arm64/include/asm/memory.h lays them out.

use super::radix::{self, Format, Step};
use super::{Facts, Isa, key};
use crate::synth::memory::{Frames, Leaf, Memory, Order};

/// An arm64 kernel and its CPU.
#[derive(Clone, Debug)]
pub struct Arm64 {
    /// log2 of the page size.
    pub page_shift: u32,
    /// CONFIG_ARM64_VA_BITS.
    pub va_bits: u32,
    /// What the CPU can do of it.
    pub actual: u32,
    /// CONFIG_ARM64_PA_BITS.
    pub pa_bits: u32,
    /// Whether the CPU has LPA2 and the kernel uses it.
    pub lpa2: bool,
    /// Where RAM starts.
    pub base: u64,
    root: u64,
    image: u64,
}

const TABLE: u64 = 3;
const PAGE: u64 = 3;
const BLOCK: u64 = 1;
/// PXN, UXN, contiguous off, dirty; access flag, not global; memory type 1.
const ATTRIBUTES: u64 = 1 << 54 | 1 << 53 | 1 << 51 | 1 << 10 | 1 << 11 | 1 << 2;
/// Inner shareable.
const SHAREABLE: u64 = 3 << 8;

impl Arm64 {
    /// A kernel whose CPU can do all that it was built for.
    pub fn new(page_shift: u32, va_bits: u32) -> Self {
        Self {
            page_shift,
            va_bits,
            actual: va_bits,
            pa_bits: 48,
            lpa2: false,
            base: 0x4000_0000,
            root: 0,
            image: 0,
        }
    }
    /// On a CPU with fewer virtual address bits.
    pub fn on(self, actual: u32) -> Self {
        Self { actual, ..self }
    }
    /// Built for 52 bits of physical addresses; whether LPA2 is in use.
    pub fn wide(self, lpa2: bool) -> Self {
        Self { pa_bits: 52, lpa2, ..self }
    }

    fn steps(&self) -> Vec<Step> {
        // With 64 KiB pages the tables are as the kernel was built; with others the CPU decides.
        let bits = if self.page_shift == 16 { self.va_bits } else { self.actual };
        let each = self.page_shift - 3;
        let mut steps = vec![];
        let mut shift = self.page_shift;
        while shift < bits {
            steps.insert(0, Step { shift, bits: each.min(bits - shift) });
            shift += each;
        }
        steps
    }
    fn voffset(&self) -> u64 {
        let start = 0_u64.wrapping_sub(1 << (self.actual.min(48) - 1)) + 0x1000_0000;
        start.wrapping_sub(self.image)
    }
    fn phys_offset(&self) -> u64 {
        // Where the CPU can do less than PAGE_OFFSET was meant for, this makes up for it.
        self.base.wrapping_sub((1_u64 << self.va_bits) - (1_u64 << self.actual))
    }
    /// The address field of an entry.
    fn field(&self, phys: u64) -> u64 {
        if self.page_shift == 16 {
            return phys & 0x0000_ffff_ffff_0000 | (phys >> 48 & 0xf) << 12;
        }
        if self.lpa2 { phys & ((1 << 50) - 1) | (phys >> 50 & 3) << 8 } else { phys }
    }
}

impl Format for Arm64 {
    fn order(&self) -> Order {
        Order::Little
    }
    fn table(&self, _depth: usize, phys: u64) -> u64 {
        self.field(phys) | TABLE
    }
    fn next(&self, _depth: usize, entry: u64) -> Option<u64> {
        // No table of these machines is above 2^48.
        (entry & 3 == TABLE).then_some(entry & 0x0000_ffff_ffff_f000)
    }
}

impl Isa for Arm64 {
    fn facts(&self) -> Facts {
        Facts {
            machine: 183,
            uname: "aarch64",
            order: Order::Little,
            page_shift: self.page_shift,
            section_bits: if self.page_shift == 16 { 29 } else { 27 },
            max_physmem_bits: self.pa_bits,
            base: self.base,
            hugetlb: match self.page_shift {
                12 => &[4, 9],
                14 => &[7],
                _ => &[5],
            },
        }
    }
    fn vmemmap(&self) -> u64 {
        let start = 0_u64.wrapping_sub(if self.actual < 39 { 1 << 31 } else { 1 << 32 });
        start.wrapping_sub((self.base >> self.page_shift) * 64)
    }
    fn image_virt(&self, phys: u64) -> u64 {
        phys.wrapping_add(self.voffset())
    }
    fn direct_virt(&self, phys: u64) -> u64 {
        phys.wrapping_sub(self.phys_offset()).wrapping_sub(1 << self.va_bits)
    }
    fn vmalloc(&self) -> u64 {
        0_u64.wrapping_sub(1 << (self.actual.min(48) - 1)) + 0x8000_0000 - 0x10_0000
    }
    fn leaf(&self, leaf: Leaf) -> u64 {
        match leaf {
            Leaf::Page => 1 << self.page_shift,
            Leaf::Large => 1 << (2 * self.page_shift - 3),
            Leaf::Huge => 1 << (3 * self.page_shift - 6),
        }
    }
    fn start(&mut self, memory: &mut Memory, frames: &mut Frames, image: (u64, u64)) -> u64 {
        self.image = image.0;
        let steps = self.steps();
        self.root = radix::new_table(memory, frames, steps[0], 0, Order::Little);
        self.root
    }
    fn map(&mut self, memory: &mut Memory, frames: &mut Frames, virt: u64, phys: u64, leaf: Leaf) {
        let shift = self.leaf(leaf).trailing_zeros();
        let at = radix::slot(self, self.root, &self.steps(), memory, frames, virt, shift);
        let kind = if leaf == Leaf::Page { PAGE } else { BLOCK };
        let share = if self.lpa2 { 0 } else { SHAREABLE };
        memory.set(at, self.field(phys) | ATTRIBUTES | share | kind, Order::Little);
    }
    fn phys_base(&self) -> u64 {
        self.phys_offset()
    }
    fn keys(&self, version: (u32, u32)) -> Vec<(String, String)> {
        let mut keys = vec![
            key("NUMBER(VA_BITS)", self.va_bits),
            key("NUMBER(kimage_voffset)", format!("{:#x}", self.voffset())),
            key("NUMBER(PHYS_OFFSET)", format!("{:#x}", self.phys_offset())),
            key("KERNELOFFSET", "7a0000"),
        ];
        if version >= (5, 9) {
            keys.push(key("NUMBER(TCR_EL1_T1SZ)", format!("{:#x}", 64 - self.actual)));
            keys.push(key("NUMBER(KERNELPACMASK)", "0x0"));
        }
        keys
    }
}

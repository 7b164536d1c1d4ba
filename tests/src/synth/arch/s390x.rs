//! s390x: region, segment and page tables of the Principles of Operation, chapter 3; big-endian.

use super::radix::{self, Format, Step};
use super::{Facts, Isa, key};
use crate::synth::memory::{Frames, Leaf, Memory, Order};

/// Whether the kernel's virtual addresses are its physical ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Relocation {
    /// They are: up to 6.9.
    None,
    /// They are not, and VMCOREINFO says so.
    Told,
    /// They are not, and only struct os_info in memory says so.
    OsInfo,
}

/// An s390x kernel.
#[derive(Clone, Debug)]
pub struct S390x {
    /// 3 (region-third), 4 (region-second) or 5 (region-first).
    pub levels: usize,
    /// Where it runs.
    pub relocation: Relocation,
    root: u64,
    image: u64,
}

const STEPS: [Step; 5] = [
    Step { shift: 53, bits: 11 },
    Step { shift: 42, bits: 11 },
    Step { shift: 31, bits: 11 },
    Step { shift: 20, bits: 11 },
    Step { shift: 12, bits: 8 },
];
const INVALID: u64 = 0x20;
const PAGE_INVALID: u64 = 0x400;
const LARGE: u64 = 0x400;

impl S390x {
    /// A kernel with tables of that depth.
    pub fn new(levels: usize, relocation: Relocation) -> Self {
        Self { levels, relocation, root: 0, image: 0 }
    }
    fn steps(&self) -> &'static [Step] {
        &STEPS[5 - self.levels..]
    }
    /// The type bits of the tables at a depth.
    fn kind(&self, depth: usize) -> u64 {
        (self.levels as u64 - 2 - depth as u64) << 2
    }
    fn is_page_table(&self, depth: usize) -> bool {
        depth + 1 == self.levels
    }
    /// Where vmemmap is: above all of memory.
    fn high(&self) -> u64 {
        match self.levels {
            3 => 0x3d0_0000_0000,
            4 => 0x1c_0000_0000_0000,
            _ => 0x00e0_0000_0000_0000,
        }
    }
    fn identity_base(&self) -> u64 {
        if self.relocation == Relocation::None { 0 } else { 0x280_0000_0000 }
    }
    fn image_base(&self) -> u64 {
        match (self.relocation, self.levels) {
            (Relocation::None, _) => self.image,
            (_, 3) => 0x3ff_e000_0000,
            (_, 4) => 0x1f_ffff_e000_0000,
            _ => 0x00ff_ffff_e000_0000,
        }
    }
}

impl Format for S390x {
    fn order(&self) -> Order {
        Order::Big
    }
    fn table(&self, depth: usize, phys: u64) -> u64 {
        // A segment's entry has no table length.
        let length = if self.is_page_table(depth + 1) { 0 } else { 3 };
        phys | self.kind(depth) | length
    }
    fn next(&self, depth: usize, entry: u64) -> Option<u64> {
        let mask = if self.is_page_table(depth + 1) { !0x7ff } else { !0xfff };
        (entry & INVALID == 0).then_some(entry & mask)
    }
    fn empty(&self, depth: usize) -> u64 {
        if self.is_page_table(depth) { PAGE_INVALID } else { self.kind(depth) | INVALID }
    }
}

impl Isa for S390x {
    fn facts(&self) -> Facts {
        Facts {
            machine: 22,
            uname: "s390x",
            order: Order::Big,
            page_shift: 12,
            section_bits: 28,
            max_physmem_bits: 46,
            base: 0,
            hugetlb: &[8],
        }
    }
    fn vmemmap(&self) -> u64 {
        self.high()
    }
    fn image_virt(&self, phys: u64) -> u64 {
        self.image_base() + (phys - self.image)
    }
    fn direct_virt(&self, phys: u64) -> u64 {
        self.identity_base() + phys
    }
    fn vmalloc(&self) -> u64 {
        self.high() + 0x10_0000_0000
    }
    fn leaf(&self, leaf: Leaf) -> u64 {
        match leaf {
            Leaf::Page => 1 << 12,
            Leaf::Large => 1 << 20,
            Leaf::Huge => 1 << 31,
        }
    }
    fn start(&mut self, memory: &mut Memory, frames: &mut Frames, image: (u64, u64)) -> u64 {
        self.image = image.0;
        self.root = radix::new_table(memory, frames, self.steps()[0], self.empty(0), Order::Big);
        if self.relocation == Relocation::OsInfo {
            let at = frames.take(1, 1) * 4096;
            memory.set(0xe18, at, Order::Big);
            memory.set(at, u64::from_be_bytes(*b"OSINFOSZ"), Order::Big);
            memory.write(at + 12, &[0, 1, 0, 1]);
            for (entry, value) in [(4, self.identity_base()), (5, self.image_base()), (6, self.image)] {
                memory.write(at + 32 + 20 * entry, &value.to_be_bytes());
            }
        }
        self.root
    }
    fn map(&mut self, memory: &mut Memory, frames: &mut Frames, virt: u64, phys: u64, leaf: Leaf) {
        let shift = self.leaf(leaf).trailing_zeros();
        let at = radix::slot(self, self.root, self.steps(), memory, frames, virt, shift);
        let bits = match leaf {
            Leaf::Page => 0x200,
            Leaf::Large => LARGE | 0x3000,
            Leaf::Huge => LARGE | 0x3000 | 1 << 2,
        };
        memory.set(at, phys | bits, Order::Big);
    }
    fn map_memory(&mut self, _: &mut Memory, _: &mut Frames, _: &[(u64, u64)], _: (u64, u64)) {
        // The identity mapping and the image are known without.
    }
    fn keys(&self, _version: (u32, u32)) -> Vec<(String, String)> {
        let mut keys = vec![
            key("SYMBOL(lowcore_ptr)", format!("{:x}", self.image_virt(self.image + 0x40))),
            key("SAMODE31", "1000"),
            key("EAMODE31", "4000"),
        ];
        if self.relocation == Relocation::Told {
            keys.push(key("IDENTITYBASE", format!("{:x}", self.identity_base())));
            keys.push(key("KERNELOFFSET", format!("{:x}", self.image_base())));
            keys.push(key("KERNELOFFPHYS", format!("{:x}", self.image)));
        } else {
            keys.push(key("KERNELOFFSET", "0"));
        }
        keys
    }
}

//! What a dead machine is to be.

use super::arch::{Arch, Facts};
use super::era::Era;
use super::log::Line;
use super::memory::Leaf;
use super::page::{Kind, PageLayout, USUAL};

/// How the kernel finds the struct page of a pfn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Model {
    /// SPARSEMEM_EXTREME with VMEMMAP; `preinit` sets flag bit 5 of the sections (6.15 on).
    Extreme {
        /// SECTION_IS_VMEMMAP_PREINIT.
        preinit: bool,
    },
    /// Plain SPARSEMEM without VMEMMAP: each section's map anywhere.
    Sparse,
    /// FLATMEM: one array.
    Flat,
}

/// A block of pages of one kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Block {
    /// Its first page; a multiple of its size.
    pub pfn: u64,
    /// Its kind.
    pub kind: Kind,
}

/// A dead machine.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Its kernel.
    pub era: &'static Era,
    /// Its architecture.
    pub arch: Arch,
    /// x86-64: LA57.
    pub five_level: bool,
    /// x86-64: AMD SME, bit 47 in each page-table entry.
    pub encrypted: bool,
    /// x86-64: random addresses, as this seed gives; 0 for none.
    pub kaslr: u64,
    /// Memory model.
    pub model: Model,
    /// How vmemmap is mapped.
    pub leaf: Leaf,
    /// struct page.
    pub page: PageLayout,
    /// Struct pages of holes are all ones instead of zeros.
    pub poison_holes: bool,
    /// RAM besides [`KERNEL_RAM`], `[start, end)` in bytes, ascending.
    pub ram: Vec<(u64, u64)>,
    /// Some RAM has no struct pages ([`UNMAPPED_RAM`]; SPARSEMEM only).
    pub unmapped_ram: bool,
    /// What is where. Pages of no block are the kernel's.
    pub blocks: Vec<Block>,
    /// The log.
    pub lines: Vec<Line>,
    /// CPUs.
    pub cpus: u32,
    /// VMCOREINFO keys to leave out.
    pub without: Vec<String>,
}

/// RAM that each machine has: the kernel, its tables and its mem_map, in bytes.
pub const KERNEL_RAM: (u64, u64) = (0x100_0000, 0x1a0_0000);
/// RAM in a section without mem_map, in bytes.
pub const UNMAPPED_RAM: (u64, u64) = (0x1000_0000, 0x1000_4000);

/// Other architectures' memory, in pages from its start.
pub(super) const FOREIGN_IMAGE: (u64, u64) = (0x40, 0x80);
const FOREIGN_SMALL: (u64, u64) = (0, 0x20);

impl Spec {
    /// A 4-level machine of an era without blocks.
    pub fn new(era: &'static Era) -> Self {
        let line = |i: u64| Line { at: 1_000_000 * i * i + 7000 * i, text: format!("line {i} of the log") };
        Self {
            era,
            arch: Arch::X86_64,
            five_level: false,
            encrypted: false,
            kaslr: 0,
            model: Model::Extreme { preinit: false },
            leaf: Leaf::Page,
            page: USUAL,
            poison_holes: false,
            ram: vec![
                (0x1000, 0x9_fc00),
                (0x1a0_0000, 0x300_0000),
                (0x800_2400, 0x818_0000),
                (0x81c_0000, 0x840_0800),
                (0x1_0000_0000, 0x1_0038_0800),
            ],
            unmapped_ram: false,
            blocks: Vec::new(),
            lines: (0..40).map(line).collect(),
            cpus: 2,
            without: Vec::new(),
        }
    }

    /// A machine of another architecture without blocks; `pages` of its RAM are for them.
    pub fn of(arch: Arch, era: &'static Era, pages: u64) -> Self {
        let facts = arch.facts();
        let page = facts.page();
        let at = |pfn: u64, bytes: u64| facts.base + pfn * page + bytes;
        let far = facts.base + (8 << 30);
        let first = Self::foreign_kernel(Leaf::Large, &facts).1 + 0x40;
        let first = first.next_multiple_of(0x200);
        let edge = first + pages + 0x10;
        let ram = vec![
            (at(FOREIGN_SMALL.0, 0), at(FOREIGN_SMALL.1, 0)),
            (at(first, 0), at(first + pages, 0)),
            (at(edge, page / 4), at(edge + 0x10, page / 2)),
            (far, far + 0x20 * page + page / 2),
        ];
        Self { arch, ram, leaf: Leaf::Page, ..Self::new(era) }
    }

    /// Pages of the kernel's RAM, relative to where RAM starts.
    fn foreign_kernel(leaf: Leaf, facts: &Facts) -> (u64, u64) {
        // Room for large leaves of vmemmap where these are small.
        let room = if leaf == Leaf::Large && facts.page_shift == 12 { 0xc00 } else { 0x1c0 };
        (FOREIGN_IMAGE.0, FOREIGN_IMAGE.0 + room)
    }

    /// RAM of the kernel, its tables and its mem_map.
    pub fn kernel_ram(&self) -> (u64, u64) {
        if matches!(self.arch, Arch::X86_64) {
            return KERNEL_RAM;
        }
        let facts = self.arch.facts();
        let (start, end) = Self::foreign_kernel(self.leaf, &facts);
        (facts.base + start * facts.page(), facts.base + end * facts.page())
    }

    /// RAM that FLATMEM's array reaches.
    pub fn flat(mut self) -> Self {
        self.model = Model::Flat;
        self.ram = vec![(0x1000, 0x9_fc00), (0x1a0_0000, 0x300_0000), (0x310_2400, 0x320_0800)];
        self
    }

    /// Places a kind at the first free pfns of the RAM; whether there was room.
    pub fn place(&mut self, kind: Kind) -> bool {
        let pages = 1_u64 << kind.order();
        let page = self.arch.facts().page();
        for (start, end) in self.ram.clone() {
            let mut pfn = start.div_ceil(page).next_multiple_of(pages);
            while pfn + pages <= end / page {
                let taken =
                    self.blocks.iter().find(|b| b.pfn < pfn + pages && pfn < b.pfn + (1 << b.kind.order()));
                match taken {
                    None => {
                        self.blocks.push(Block { pfn, kind });
                        return true;
                    }
                    Some(block) => pfn = (block.pfn + (1 << block.kind.order())).next_multiple_of(pages),
                }
            }
        }
        false
    }

    /// Whether the machine has a page, wholly or in part.
    pub(super) fn segments(&self) -> Vec<(u64, u64)> {
        let mut all = self.ram.clone();
        all.push(self.kernel_ram());
        if self.unmapped_ram {
            all.push(UNMAPPED_RAM);
        }
        all.sort_unstable();
        all
    }
}

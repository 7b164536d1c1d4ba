//! From a [`Spec`] to a [`Core`]: lays out memory, builds page tables, mem_map and logs in it, writes the file.

use super::arch::{Arch, ENCRYPTION_BIT, Facts, Isa, PageTables, START_KERNEL_MAP, leaf_bytes};
use super::elf::{self, Load};
use super::era::{Era, LogKind};
use super::expect::{self, Class, Why, verdict};
use super::index;
use super::info::vmcoreinfo;
use super::log::{self, Line};
use super::memory::{Frames, Leaf, Memory, PAGE};
use super::page::{Kind, PageLayout, USUAL};
use std::collections::BTreeMap;

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

const IMAGE_FRAMES: (u64, u64) = (0x1000, 0x1100);
/// Memory comes and goes in pieces of that many bytes.
const SUBSECTION: u64 = 2 << 20;
/// Other architectures' memory, in pages from its start.
const FOREIGN_IMAGE: (u64, u64) = (0x40, 0x80);
const FOREIGN_SMALL: (u64, u64) = (0, 0x20);

/// Where things are in the dead kernel's address space.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    symbols: BTreeMap<&'static str, u64>,
    /// Start of the direct map.
    pub page_offset: u64,
    /// Start of vmemmap, where there is one.
    pub vmemmap: Option<u64>,
    /// LENGTH(mem_section).
    pub mem_section_len: u64,
    /// SIZE(mem_section).
    pub mem_section_size: u64,
    /// NUMBER(MAX_PHYSMEM_BITS).
    pub max_physmem_bits: u32,
    /// phys_base, possibly negative.
    pub phys_base: u64,
    /// KERNELOFFSET.
    pub kernel_offset: u64,
    /// sme_mask.
    pub sme_mask: u64,
    /// Physical address of mem_section's root array (or of the flat array).
    pub mem_section_phys: u64,
    /// Physical address of the first root of mem_section (SPARSEMEM_EXTREME).
    pub root_phys: u64,
    /// Physical address of the top page table.
    pub tables: u64,
    /// Keys of VMCOREINFO that only this architecture has.
    pub keys: Vec<(String, String)>,
}

impl Addresses {
    /// A symbol's virtual address.
    pub fn symbol(&self, name: &str) -> u64 {
        *self.symbols.get(name).unwrap_or_else(|| panic!("no symbol {name}"))
    }
    /// The log's symbols that VMCOREINFO exports.
    pub fn log_symbols(&self) -> impl Iterator<Item = &'static str> + '_ {
        const EXPORTED: [&str; 8] = [
            "prb",
            "printk_rb_static",
            "clear_seq",
            "log_buf",
            "log_buf_len",
            "log_first_idx",
            "log_next_idx",
            "clear_idx",
        ];
        EXPORTED.into_iter().filter(|name| self.symbols.contains_key(name))
    }
}

/// What must become of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Page {
    /// Its rules.
    pub class: Class,
    /// Nothing but zeros.
    pub zero: bool,
    /// For messages.
    pub kind: Kind,
}

/// A vmcore and the truth about it.
#[derive(Clone, Debug)]
pub struct Core {
    /// The ELF file.
    pub file: Vec<u8>,
    /// Each page that it has.
    pub pages: BTreeMap<u64, Page>,
    /// The log lines that are readable.
    pub lines: Vec<Line>,
    /// Where things are.
    pub at: Addresses,
    /// The kernel's page tables on x86-64.
    pub tables: PageTables,
    /// What is fixed for its architecture.
    pub facts: Facts,
    /// VMCOREINFO.
    pub info: String,
    /// Physical memory.
    pub memory: Memory,
    loads: Vec<Load>,
    offsets: Vec<u64>,
}

/// What a page's bytes are when nothing else is said: different in each page, most of them zero.
fn fill(pfn: u64, len: u64) -> Vec<u8> {
    let mut page = vec![0; index(len)];
    let mut state = (pfn + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    // Each 16th page cannot be compressed.
    let words = if pfn % 16 == 3 { index(len) / 8 } else { 4 };
    for word in page.chunks_exact_mut(8).take(words) {
        word.copy_from_slice(&state.to_le_bytes());
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
    }
    let last = index(len) - 8;
    page[last..].copy_from_slice(&pfn.to_le_bytes());
    page
}

pub(super) struct Builder<'a> {
    spec: &'a Spec,
    pub(super) memory: Memory,
    image: Frames,
    frames: Frames,
    tables: PageTables,
    /// Another architecture's tables and addresses.
    isa: Option<Box<dyn Isa>>,
    facts: Facts,
    /// Bytes of a page.
    page: u64,
    /// Pages of the image.
    image_frames: (u64, u64),
    pub(super) at: Addresses,
    /// Physical addresses of mem_section's roots.
    roots: BTreeMap<u64, u64>,
    /// mem_map: page of virtual addresses to page frame.
    map: BTreeMap<u64, u64>,
    /// Byte cursor of the kernel image's data.
    data_at: u64,
}

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

    /// Builds it.
    pub fn build(&self) -> Core {
        let mut builder = Builder::new(self);
        builder.direct_map();
        // The array of roots first: 5-level kernels have a megabyte of it.
        builder.mem_section_array();
        let pages = builder.mem_map();
        let log = builder.kernel_data();
        builder.finish(log, pages)
    }
}

impl<'a> Builder<'a> {
    pub(super) fn new(spec: &'a Spec) -> Self {
        let facts = spec.arch.facts();
        let isa = spec.arch.isa();
        let page = facts.page();
        let kernel = spec.kernel_ram();
        let image_frames = if isa.is_some() {
            (kernel.0 / page, kernel.0 / page + FOREIGN_IMAGE.1 - FOREIGN_IMAGE.0)
        } else {
            IMAGE_FRAMES
        };
        let mut builder = Self {
            spec,
            memory: Memory::new(page, facts.order),
            image: Frames::new(image_frames.0 + 16, image_frames.1),
            frames: Frames::new(image_frames.1, kernel.1 / page),
            tables: PageTables::new(0, 4, 0),
            isa,
            facts,
            page,
            image_frames,
            at: Addresses::default(),
            roots: BTreeMap::new(),
            map: BTreeMap::new(),
            data_at: (image_frames.0 + 1) * page,
        };
        let root = match builder.isa.as_mut() {
            None => builder.native_addresses(),
            Some(isa) => {
                let image = (image_frames.0 * page, image_frames.1 * page);
                let root = isa.start(&mut builder.memory, &mut builder.image, image);
                builder.at.page_offset = isa.direct_virt(facts.base);
                let extreme = matches!(spec.model, Model::Extreme { .. });
                builder.at.vmemmap = extreme.then(|| isa.vmemmap());
                builder.at.phys_base = isa.phys_base();
                root
            }
        };
        builder.at.tables = root;
        builder.memory.write(image_frames.0 * page, &fill(image_frames.0, page));
        builder.at.symbols.insert("_stext", builder.image_virt(image_frames.0 * page));
        builder.at.symbols.insert("swapper_pg_dir", builder.image_virt(root));
        builder
    }

    /// x86-64's layout; the physical address of its top table.
    fn native_addresses(&mut self) -> u64 {
        let spec = self.spec;
        let sme_mask = if spec.encrypted { ENCRYPTION_BIT } else { 0 };
        let root = self.image.take(1, 1);
        self.tables = PageTables::new(root, if spec.five_level { 5 } else { 4 }, sme_mask);
        let random = |shift: u32| (spec.kaslr >> shift & 0x1ff) << 30;
        let (page_offset, vmemmap) = match (spec.five_level, spec.kaslr) {
            (false, 0) => (0xffff_8880_0000_0000, 0xffff_ea00_0000_0000),
            (true, 0) => (0xff11_0000_0000_0000, 0xffd4_0000_0000_0000),
            (false, _) => (0xffff_8880_0000_0000 + random(0), 0xffff_ea00_0000_0000 + random(7)),
            (true, _) => (0xff11_0000_0000_0000 + (random(0) << 9), 0xffd4_0000_0000_0000 + (random(7) << 8)),
        };
        let kernel_offset = (spec.kaslr >> 3 & 0x7f) << 22;
        self.at = Addresses {
            page_offset,
            kernel_offset,
            // The text is at 16 MiB, wherever it is linked to: with KASLR this is below zero.
            phys_base: 0_u64.wrapping_sub(kernel_offset),
            sme_mask,
            vmemmap: matches!(spec.model, Model::Extreme { .. }).then_some(vmemmap),
            ..Addresses::default()
        };
        root * PAGE
    }

    fn image_virt(&self, phys: u64) -> u64 {
        match &self.isa {
            Some(isa) => isa.image_virt(phys),
            None => phys.wrapping_sub(self.at.phys_base).wrapping_add(START_KERNEL_MAP),
        }
    }
    fn direct_virt(&self, phys: u64) -> u64 {
        self.isa.as_ref().map_or(self.at.page_offset.wrapping_add(phys), |isa| isa.direct_virt(phys))
    }
    fn section_pages(&self) -> u64 {
        1 << (self.facts.section_bits - self.facts.page_shift)
    }
    fn leaf_bytes(&self, leaf: Leaf) -> u64 {
        self.isa.as_ref().map_or(leaf_bytes(leaf), |isa| isa.leaf(leaf))
    }
    fn map_leaf(&mut self, virt: u64, phys: u64, leaf: Leaf) {
        match self.isa.as_mut() {
            Some(isa) => isa.map(&mut self.memory, &mut self.image, virt, phys, leaf),
            None => self.tables.map(&mut self.memory, &mut self.image, virt, phys, leaf),
        }
    }

    /// The direct map in 2 MiB and 1 GiB leaves, and the kernel image's mapping.
    pub(super) fn direct_map(&mut self) {
        if let Some(isa) = self.isa.as_mut() {
            let image = (self.image_frames.0 * self.page, self.image_frames.1 * self.page);
            isa.map_memory(&mut self.memory, &mut self.image, &self.spec.segments(), image);
            return;
        }
        for (start, end) in self.spec.segments() {
            let leaf = if start >> 30 == 0 { Leaf::Large } else { Leaf::Huge };
            let mut phys = start / leaf_bytes(leaf) * leaf_bytes(leaf);
            while phys < end {
                let virt = self.direct_virt(phys);
                self.tables.map(&mut self.memory, &mut self.image, virt, phys, leaf);
                phys += leaf_bytes(leaf);
            }
        }
        let phys = IMAGE_FRAMES.0 * PAGE;
        let virt = self.image_virt(phys);
        self.tables.map(&mut self.memory, &mut self.image, virt, phys, Leaf::Large);
    }

    /// Puts an object into the kernel image; its physical address.
    fn image_object(&mut self, bytes: &[u8]) -> u64 {
        let phys = self.data_at.next_multiple_of(16);
        self.data_at = phys + bytes.len() as u64;
        assert!(self.data_at <= (self.image_frames.0 + 16) * self.page, "the image's data is full");
        self.memory.write(phys, bytes);
        phys
    }

    /// init_uts_ns, the log and other things that VMCOREINFO names; the readable log lines.
    pub(super) fn kernel_data(&mut self) -> Vec<Line> {
        let era = self.spec.era;
        let mut uts = vec![0_u8; 512];
        uts[0] = 3; // a reference count, when it is first
        let name_at = index(era.uts_name_offset());
        let names = [
            "Linux",
            "synthetic",
            era.release,
            "#1 SMP PREEMPT_DYNAMIC (2026-11-22)",
            self.facts.uname,
            "(none)",
        ];
        for (i, name) in names.iter().enumerate() {
            let at = name_at + i * 65;
            uts[at..at + 65].fill(0);
            uts[at..at + name.len()].copy_from_slice(name.as_bytes());
        }
        let uts = self.image_object(&uts);
        self.at.symbols.insert("init_uts_ns", self.image_virt(uts));
        let nodes = self.image_object(&[1; 512]);
        self.at.symbols.insert("node_online_map", self.image_virt(nodes));

        let log = match era.log() {
            LogKind::Records => log::records(&self.spec.lines, 2048, self.facts.order),
            LogKind::Ring => log::ring(&self.spec.lines, 5, 10, self.facts.order),
        };
        let mut placed = BTreeMap::new();
        for (name, bytes) in &log.objects {
            // Text and records are allocated at boot when log_buf_len= says so: they come through the direct map.
            let (phys, virt) = if matches!(*name, "log_text" | "prb_text") {
                // Other architectures' through vmalloc's range: their direct maps are not always tables.
                let vmalloc = self.isa.as_ref().map(|isa| isa.vmalloc());
                let len = self.leaf_bytes(Leaf::Page);
                let phys = self.frames.take(len / self.page, len / self.page) * self.page;
                self.memory.write(phys, bytes);
                if let Some(virt) = vmalloc {
                    self.map_leaf(virt, phys, Leaf::Page);
                }
                (phys, vmalloc.unwrap_or_else(|| self.direct_virt(phys)))
            } else {
                let phys = self.image_object(bytes);
                (phys, self.image_virt(phys))
            };
            placed.insert(*name, (phys, virt));
            self.at.symbols.insert(name, virt);
        }
        for (object, offset, target) in &log.links {
            let pointer = placed[target].1;
            self.memory.set_word(placed[object].0 + *offset as u64, pointer);
        }
        log.readable
    }

    /// Where vmemmap starts.
    pub(super) fn vmemmap(&self) -> u64 {
        self.at.vmemmap.expect("a model with vmemmap")
    }

    /// Maps a leaf of 2 MiB.
    pub(super) fn map_large(&mut self, virt: u64, phys: u64) {
        self.map_leaf(virt, phys, Leaf::Large);
    }

    /// Backs `[start, end)` of vmemmap's addresses with memory.
    fn back_vmemmap(&mut self, start: u64, end: u64) {
        let leaf = self.spec.leaf;
        let len = self.leaf_bytes(leaf);
        let mut virt = start / len * len;
        while virt < end {
            if !self.map.contains_key(&(virt / self.page)) {
                let pages = len / self.page;
                let frame = self.frames.take(pages, pages);
                self.map_leaf(virt, frame * self.page, leaf);
                self.add_map_pages(virt, frame, pages);
            }
            virt += len;
        }
    }

    fn add_map_pages(&mut self, virt: u64, frame: u64, pages: u64) {
        for i in 0..pages {
            self.map.insert(virt / self.page + i, frame + i);
            if self.spec.poison_holes {
                self.memory.write((frame + i) * self.page, &vec![0xff; index(self.page)]);
            }
        }
    }

    /// A struct-page array of its own in the direct map; its address.
    fn separate_map(&mut self, pages: u64) -> u64 {
        let count = (pages * self.spec.page.size).div_ceil(self.page);
        let frame = self.frames.take(count, 1);
        let virt = self.direct_virt(frame * self.page);
        self.add_map_pages(virt, frame, count);
        virt
    }

    fn write_map(&mut self, virt: u64, bytes: &[u8]) {
        let mut at = virt;
        let mut rest = bytes;
        while !rest.is_empty() {
            let here = rest.len().min(index(self.page - at % self.page));
            if let Some(frame) = self.map.get(&(at / self.page)) {
                self.memory.write(frame * self.page + at % self.page, &rest[..here]);
            }
            rest = &rest[here..];
            at += here as u64;
        }
    }

    /// mem_section or mem_map, the struct pages, and the truth about each page.
    fn mem_map(&mut self) -> BTreeMap<u64, Page> {
        let size = self.spec.page.size;
        let segments = self.spec.segments();
        let section_pages = self.section_pages();
        let subsection = SUBSECTION / self.page;
        let kernel = self.spec.kernel_ram();
        let mut sections: BTreeMap<u64, u64> = BTreeMap::new();
        let last_pfn = segments.last().map_or(0, |s| s.1.div_ceil(self.page));
        let flat =
            (self.spec.model == Model::Flat).then(|| self.separate_map(last_pfn.next_multiple_of(1024)));
        for (start, end) in &segments {
            if (*start, *end) == UNMAPPED_RAM {
                continue;
            }
            for pfn in start / self.page / subsection..end.div_ceil(self.page).div_ceil(subsection) {
                let pfn = pfn * subsection;
                let section = pfn / section_pages;
                let base = *sections.entry(section).or_insert_with(|| {
                    self.at.vmemmap.or(flat).unwrap_or_else(|| {
                        let map = self.separate_map(section_pages);
                        map.wrapping_sub(section * section_pages * size)
                    })
                });
                if self.at.vmemmap.is_some() {
                    self.back_vmemmap(base + pfn * size, base + (pfn + subsection) * size);
                }
            }
        }
        self.fill_mem_section(&sections, flat);

        let mut pages = BTreeMap::new();
        for (start, end) in segments {
            for pfn in start / self.page..end.div_ceil(self.page) {
                pages.insert(pfn, Page { class: expect::KEEP, zero: false, kind: Kind::Kernel });
                if let Some(base) = sections.get(&(pfn / section_pages)) {
                    let bytes = Kind::Kernel.encode(self.spec.era, &self.spec.page, self.facts.order, 0, 0);
                    self.write_map(base.wrapping_add(pfn * size), &bytes);
                }
                if !(kernel.0..kernel.1).contains(&(pfn * self.page)) && !self.memory.is_written(pfn) {
                    self.memory.write(pfn * self.page, &fill(pfn, self.page));
                }
            }
        }
        for block in &self.spec.blocks {
            self.write_block(*block, &sections, &mut pages);
        }
        for block in self.spec.blocks.iter().filter(|b| b.kind == Kind::HugetlbFakeHeads) {
            self.share_head_frame(block.pfn, sections[&(block.pfn / section_pages)]);
        }
        pages
    }

    fn write_block(&mut self, block: Block, sections: &BTreeMap<u64, u64>, pages: &mut BTreeMap<u64, Page>) {
        let size = self.spec.page.size;
        let section_pages = self.section_pages();
        assert!(pages.contains_key(&block.pfn), "{block:x?} starts in a hole");
        assert!(block.kind.exists(self.spec.era), "{block:x?} is unknown to {}", self.spec.era.release);
        let base = sections[&(block.pfn / section_pages)];
        let head = base.wrapping_add(block.pfn * size);
        let pfns = block.pfn..block.pfn + (1 << block.kind.order());
        // No kernel has a block over a hole; where a struct page says so it is not to be believed. makedumpfile does.
        let whole = pfns.clone().all(|pfn| pages.contains_key(&pfn));
        let class = if whole { block.kind.class() } else { expect::KEEP };
        for pfn in pfns {
            let at = pfn - block.pfn;
            let bytes = block.kind.encode(self.spec.era, &self.spec.page, self.facts.order, at, head);
            self.write_map(base.wrapping_add(pfn * size), &bytes);
            if let Some(page) = pages.get_mut(&pfn) {
                *page = Page { class, zero: false, kind: block.kind };
                if block.kind.is_zero() {
                    self.memory.write(pfn * self.page, &vec![0; index(self.page)]);
                }
            }
        }
    }

    /// hugetlb vmemmap optimisation as it was first: all of a huge page's mem_map is its first page, seven times more.
    fn share_head_frame(&mut self, pfn: u64, base: u64) {
        if self.spec.leaf != Leaf::Page || self.spec.page.size != 64 || self.at.vmemmap.is_none() {
            return;
        }
        let virt = base + pfn * 64;
        let frame = self.map[&(virt / PAGE)];
        for i in 1..8 {
            self.tables.map(&mut self.memory, &mut self.image, virt + i * PAGE, frame * PAGE, Leaf::Page);
        }
    }

    /// Room for mem_section, or for mem_map's pointer.
    pub(super) fn mem_section_array(&mut self) {
        let five = self.spec.five_level;
        let facts = self.facts;
        // CONFIG_PAGE_EXTENSION doubles the structure.
        self.at.mem_section_size = if self.spec.era.since(6, 0) && !five { 32 } else { 16 };
        if self.spec.model == Model::Flat {
            self.at.mem_section_phys = self.image_object(&[0; 8]);
            self.at.symbols.insert("mem_map", self.image_virt(self.at.mem_section_phys));
            return;
        }
        let bytes = if self.spec.model == Model::Sparse {
            self.at.max_physmem_bits = 36;
            self.at.mem_section_len = 1 << (36 - 27);
            self.at.mem_section_len * self.at.mem_section_size
        } else if self.isa.is_some() {
            self.at.max_physmem_bits = facts.max_physmem_bits;
            let per_root = self.page / self.at.mem_section_size;
            self.at.mem_section_len = (1 << (facts.max_physmem_bits - facts.section_bits)) / per_root;
            // Only as much of the array as there is memory for: some architectures' has megabytes.
            let end = self.spec.segments().last().map_or(0, |s| s.1);
            ((end >> facts.section_bits) / per_root + 1) * 8
        } else {
            self.at.max_physmem_bits = if five { 52 } else { 46 };
            self.at.mem_section_len =
                (1 << (self.at.max_physmem_bits - 27)) / (PAGE / self.at.mem_section_size);
            self.at.mem_section_len * 8
        };
        self.at.mem_section_phys = self.frames.take(bytes.div_ceil(self.page), 1) * self.page;
        self.at.symbols.insert("mem_section", self.direct_virt(self.at.mem_section_phys));
    }

    pub(super) fn fill_mem_section(&mut self, sections: &BTreeMap<u64, u64>, flat: Option<u64>) {
        let array = self.at.mem_section_phys;
        if let Some(base) = flat {
            self.memory.set_word(array, base);
            return;
        }
        // Present, with a map, online, early.
        let flags = 0xf | if self.spec.model == (Model::Extreme { preinit: true }) { 0x20 } else { 0 };
        let size = self.at.mem_section_size;
        for (section, map) in sections {
            let entry = if self.spec.model == Model::Sparse {
                array + section * size
            } else {
                let per_root = self.page / size;
                let number = section / per_root;
                if !self.roots.contains_key(&number) {
                    let phys = self.frames.take(1, 1) * self.page;
                    self.memory.set_word(array + number * 8, self.direct_virt(phys));
                    self.roots.insert(number, phys);
                    if self.at.root_phys == 0 {
                        self.at.root_phys = phys;
                    }
                }
                self.roots[&number] + section % per_root * size
            };
            self.memory.set_word(entry, map | flags);
            self.memory.set_word(entry + 8, self.at.page_offset.wrapping_add(0x1234_5678)); // mem_section.usage
        }
    }

    /// The kernel image's segment and those of all RAM.
    pub(super) fn loads(&self) -> Vec<Load> {
        let image = (self.image_frames.0 * self.page, self.image_frames.1 * self.page);
        let mut loads = vec![Load { start: image.0, end: image.1, virt: self.image_virt(image.0) }];
        loads.extend(self.spec.segments().into_iter().map(|(start, end)| Load {
            start,
            end,
            virt: self.direct_virt(start),
        }));
        loads
    }

    fn finish(mut self, lines: Vec<Line>, mut pages: BTreeMap<u64, Page>) -> Core {
        if let Some(isa) = self.isa.as_mut() {
            isa.seal(&mut self.memory, &mut self.frames);
            self.at.keys = isa.keys(self.spec.era.version);
        }
        let loads = self.loads();
        let info = vmcoreinfo(self.spec, &self.at);
        let notes = elf::notes(self.facts.order, self.spec.cpus, &info);
        let (file, offsets) = elf::write(&self.facts, &self.memory, &loads, &notes);
        let Self { memory, at, tables, facts, .. } = self;
        let mut core =
            Core { file, pages: BTreeMap::new(), lines, at, tables, facts, info, memory, loads, offsets };
        for (pfn, page) in &mut pages {
            page.zero = core.content(*pfn).iter().all(|b| *b == 0);
        }
        core.pages = pages;
        core
    }
}

impl Core {
    /// A page's bytes; zeros where a segment ends within it.
    pub fn content(&self, pfn: u64) -> Vec<u8> {
        let len = self.facts.page();
        let mut bytes = vec![0; index(len)];
        let Some(page) = self.memory.page(pfn) else { return bytes };
        let (start, end) = (pfn * len, (pfn + 1) * len);
        for load in self.loads.iter().filter(|load| load.start < end && start < load.end) {
            let from = index(load.start.max(start) - start);
            let to = index(load.end.min(end) - start);
            bytes[from..to].copy_from_slice(&page[from..to]);
        }
        bytes
    }

    /// Pages that a segment ends within.
    pub fn partial_tails(&self) -> impl Iterator<Item = u64> + '_ {
        let page = self.facts.page();
        self.loads.iter().filter(move |load| load.end % page != 0).map(move |load| load.end / page)
    }

    /// One past the last pfn.
    pub fn end_pfn(&self) -> u64 {
        self.pages.last_key_value().map_or(0, |(pfn, _)| pfn + 1)
    }

    /// What becomes of each page at a level.
    pub fn verdicts(&self, level: u8) -> impl Iterator<Item = (u64, Option<Why>)> + '_ {
        self.pages.iter().map(move |(pfn, page)| (*pfn, verdict(page.class, page.zero, level)))
    }

    /// Where in the file each segment's copy of a physical address is, to damage it.
    pub fn file_offsets(&self, phys: u64) -> Vec<usize> {
        let segments = self.loads.iter().zip(&self.offsets);
        let hits = segments.filter(|(load, _)| (load.start..load.end).contains(&phys));
        hits.map(|(load, offset)| index(offset + (phys - load.start))).collect()
    }

    /// Overwrites physical memory in all of the file's copies.
    pub fn poke(&mut self, phys: u64, bytes: &[u8]) {
        for at in self.file_offsets(phys) {
            self.file[at..at + bytes.len()].copy_from_slice(bytes);
        }
        self.memory.write(phys, bytes);
    }
}

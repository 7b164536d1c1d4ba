//! From a [`Spec`] to a [`Core`]: lays out memory, builds page tables, mem_map and logs in it, writes the file.

use super::arch::{ENCRYPTION_BIT, Facts, Isa, PageTables, START_KERNEL_MAP, leaf_bytes};
use super::core::{Addresses, Core, Page};
use super::elf::{self, Load};
use super::era::LogKind;
use super::expect;
use super::index;
use super::info::vmcoreinfo;
use super::log::{self, Line};
use super::memory::{Frames, Leaf, Memory, PAGE};
use super::page::Kind;
use super::spec::{Block, FOREIGN_IMAGE, Model, Spec, UNMAPPED_RAM};
use std::collections::BTreeMap;

const IMAGE_FRAMES: (u64, u64) = (0x1000, 0x1100);
/// Memory comes and goes in pieces of that many bytes.
const SUBSECTION: u64 = 2 << 20;

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
    /// Where the struct page of pfn 0 would be, by section.
    sections: BTreeMap<u64, u64>,
    /// Byte cursor of the kernel image's data.
    data_at: u64,
}

impl Spec {
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
            sections: BTreeMap::new(),
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
        self.sections = sections;
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
            self.map.insert(virt / PAGE + i, frame);
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
        let sections = (std::mem::take(&mut self.sections), self.section_pages());
        let struct_page = self.spec.page.size;
        let Self { memory, at, tables, facts, map: mem_map, .. } = self;
        let mut core = Core {
            file,
            pages: BTreeMap::new(),
            lines,
            at,
            mem_map,
            sections,
            struct_page,
            tables,
            facts,
            info,
            memory,
            loads,
            offsets,
        };
        for (pfn, page) in &mut pages {
            page.zero = core.content(*pfn).iter().all(|b| *b == 0);
        }
        core.pages = pages;
        core
    }
}

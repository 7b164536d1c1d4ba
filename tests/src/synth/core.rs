//! What comes out: the file, and the truth about it.

use super::arch::{Facts, PageTables};
use super::elf::Load;
use super::expect::{Class, Why, verdict};
use super::index;
use super::log::Line;
use super::memory::Memory;
use super::page::Kind;
use std::collections::{BTreeMap, BTreeSet};

/// Where things are in the dead kernel's address space.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    pub(super) symbols: BTreeMap<&'static str, u64>,
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
    /// mem_map: page numbers of virtual addresses, and the page frames that they are mapped to.
    pub mem_map: BTreeMap<u64, u64>,
    /// Where the struct page of pfn 0 would be, by section; and the pages of a section.
    pub sections: (BTreeMap<u64, u64>, u64),
    /// Bytes of a struct page.
    pub struct_page: u64,
    /// The kernel's page tables on x86-64.
    pub tables: PageTables,
    /// What is fixed for its architecture.
    pub facts: Facts,
    /// VMCOREINFO.
    pub info: String,
    /// Physical memory.
    pub memory: Memory,
    pub(super) loads: Vec<Load>,
    pub(super) offsets: Vec<u64>,
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

    /// The frames of mem_map that hold nothing but struct pages of pages that `gone` says are left out.
    pub fn needless_mem_map(&self, gone: impl Fn(u64) -> bool) -> BTreeSet<u64> {
        let page = self.facts.page();
        let (bases, section) = (&self.sections.0, self.sections.1);
        // By page of mem_map: the bytes of it that are struct pages of pages left out.
        let mut needless: BTreeMap<u64, u64> = BTreeMap::new();
        for pfn in self.pages.keys().filter(|pfn| gone(**pfn)) {
            let Some(base) = bases.get(&(pfn / section)) else { continue };
            let at = base.wrapping_add(pfn * self.struct_page);
            for byte in at..at + self.struct_page {
                *needless.entry(byte / page).or_default() += 1;
            }
        }
        let needed = self.mem_map.iter().filter(|(virt, _)| needless.get(virt) != Some(&page));
        let needed: BTreeSet<u64> = needed.map(|(_, frame)| *frame).collect();
        self.mem_map.values().filter(|frame| !needed.contains(frame)).copied().collect()
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

//! Physical memory that is mostly holes, and x86-64 page tables built in it.

use super::index;
use std::collections::BTreeMap;

/// Bytes in a page of the synthetic machine.
pub const PAGE: u64 = 4096;

/// Physical memory: pages that nobody wrote are zero.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    pages: BTreeMap<u64, Box<[u8]>>,
}

impl Memory {
    /// A page's bytes, or `None` where it is all zero.
    pub fn page(&self, pfn: u64) -> Option<&[u8]> {
        self.pages.get(&pfn).map(|page| &page[..]).filter(|page| page.iter().any(|b| *b != 0))
    }

    /// Every page that is not all zero, ascending.
    pub fn pages(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.pages.keys().filter_map(|pfn| Some((*pfn, self.page(*pfn)?)))
    }

    /// Writes bytes, across pages.
    pub fn write(&mut self, at: u64, bytes: &[u8]) {
        let mut at = at;
        let mut rest = bytes;
        while !rest.is_empty() {
            let within = index(at % PAGE);
            let here = rest.len().min(index(PAGE) - within);
            let page = self.pages.entry(at / PAGE).or_insert_with(|| vec![0; index(PAGE)].into());
            page[within..within + here].copy_from_slice(&rest[..here]);
            rest = &rest[here..];
            at += here as u64;
        }
    }

    /// Reads a word.
    pub fn word(&self, at: u64) -> u64 {
        assert_eq!(at % 8, 0, "words are aligned");
        let within = index(at % PAGE);
        let page = self.pages.get(&(at / PAGE));
        page.map_or(0, |p| u64::from_le_bytes(p[within..within + 8].try_into().expect("8 bytes")))
    }

    /// Writes a word.
    pub fn set_word(&mut self, at: u64, value: u64) {
        self.write(at, &value.to_le_bytes());
    }
}

/// Hands out page frames, ascending, from one range.
#[derive(Clone, Debug)]
pub struct Frames {
    next: u64,
    end: u64,
}

impl Frames {
    /// Frames of `[start, end)`.
    pub fn new(start: u64, end: u64) -> Self {
        Self { next: start, end }
    }
    /// `count` frames on a multiple of `align`; the first one's pfn.
    pub fn take(&mut self, count: u64, align: u64) -> u64 {
        let first = self.next.next_multiple_of(align);
        self.next = first + count;
        assert!(
            self.next <= self.end,
            "out of frames: {count} wanted at {first:#x}, the end is {:#x}",
            self.end
        );
        first
    }
}

/// Size of a page-table leaf.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leaf {
    /// 4 KiB, in a PTE.
    Page,
    /// 2 MiB, in a PMD.
    Large,
    /// 1 GiB, in a PUD.
    Huge,
}

impl Leaf {
    fn level(self) -> u32 {
        match self {
            Self::Page => 0,
            Self::Large => 1,
            Self::Huge => 2,
        }
    }
    /// Bytes.
    pub fn bytes(self) -> u64 {
        PAGE << (9 * self.level())
    }
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
            virt.is_multiple_of(leaf.bytes()) && phys.is_multiple_of(leaf.bytes()),
            "{virt:#x} {phys:#x}"
        );
        let mut table = self.root;
        for level in (leaf.level() + 1..self.levels).rev() {
            let entry = table + (virt >> (12 + 9 * level) & 511) * 8;
            let mut value = memory.word(entry);
            if value == 0 {
                value = (frames.take(1, 1) * PAGE) | TABLE_BITS | self.encryption;
                memory.set_word(entry, value);
            }
            table = value & ADDRESS & !self.encryption;
        }
        let entry = table + (virt >> (12 + 9 * leaf.level()) & 511) * 8;
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

//! Physical memory that is mostly holes.

use super::index;
pub use crate::order::Order;
use std::collections::BTreeMap;

/// Bytes in a page of the synthetic x86-64 machine.
pub const PAGE: u64 = 4096;

/// Physical memory: pages that nobody wrote are zero.
#[derive(Clone, Debug)]
pub struct Memory {
    pages: BTreeMap<u64, Box<[u8]>>,
    page: u64,
    order: Order,
}

impl Memory {
    /// Memory in pages of `page` bytes of a machine with that byte order.
    pub fn new(page: u64, order: Order) -> Self {
        Self { pages: BTreeMap::new(), page, order }
    }

    /// Bytes of a page.
    pub fn page_size(&self) -> u64 {
        self.page
    }

    /// A page's bytes, or `None` where it is all zero.
    pub fn page(&self, pfn: u64) -> Option<&[u8]> {
        self.pages.get(&pfn).map(|page| &page[..]).filter(|page| page.iter().any(|b| *b != 0))
    }

    /// Every page that is not all zero, ascending.
    pub fn pages(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.pages.keys().filter_map(|pfn| Some((*pfn, self.page(*pfn)?)))
    }

    /// Whether anything was written to a page.
    pub fn is_written(&self, pfn: u64) -> bool {
        self.pages.contains_key(&pfn)
    }

    /// Writes bytes, across pages.
    pub fn write(&mut self, at: u64, bytes: &[u8]) {
        let len = self.page;
        let mut at = at;
        let mut rest = bytes;
        while !rest.is_empty() {
            let within = index(at % len);
            let here = rest.len().min(index(len) - within);
            let page = self.pages.entry(at / len).or_insert_with(|| vec![0; index(len)].into());
            page[within..within + here].copy_from_slice(&rest[..here]);
            rest = &rest[here..];
            at += here as u64;
        }
    }

    /// Reads a word in an order that may not be the machine's.
    pub fn get(&self, at: u64, order: Order) -> u64 {
        assert_eq!(at % 8, 0, "words are aligned");
        let within = index(at % self.page);
        let page = self.pages.get(&(at / self.page));
        let raw: [u8; 8] = page.map_or([0; 8], |p| p[within..within + 8].try_into().expect("8 bytes"));
        order.number(&raw)
    }

    /// Writes a word in an order that may not be the machine's.
    pub fn set(&mut self, at: u64, value: u64, order: Order) {
        self.write(at, &order.bytes(value, 8));
    }

    /// Reads a word.
    pub fn word(&self, at: u64) -> u64 {
        self.get(at, self.order)
    }

    /// Writes a word.
    pub fn set_word(&mut self, at: u64, value: u64) {
        self.set(at, value, self.order);
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
    /// A page, in a table of the lowest level.
    Page,
    /// The next larger one: 2 MiB with 4 KiB pages on most architectures.
    Large,
    /// The one above: mostly 1 GiB.
    Huge,
}

//! A raw vmcore and its struct pages, read without the product's code: the authority that dumps are compared with.

use crate::order::Order;
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A set of pfns.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct PageSet {
    words: Vec<u64>,
}

impl PageSet {
    /// Adds one.
    pub fn insert(&mut self, pfn: u64) {
        let (word, bit) = place(pfn);
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= bit;
    }

    /// Whether it is in.
    pub fn contains(&self, pfn: u64) -> bool {
        let (word, bit) = place(pfn);
        self.words.get(word).is_some_and(|w| w & bit != 0)
    }

    /// Ascending.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        (0_u64..).zip(&self.words).flat_map(|(index, word)| {
            (0..64).filter(move |bit| word >> bit & 1 != 0).map(move |bit| index * 64 + bit)
        })
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.words.iter().map(|w| usize::try_from(w.count_ones()).unwrap_or(0)).sum()
    }

    /// None at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Those that are in `self` and not in `other`.
    pub fn minus(&self, other: &Self) -> Vec<u64> {
        self.iter().filter(|pfn| !other.contains(*pfn)).collect()
    }
}

impl FromIterator<u64> for PageSet {
    fn from_iter<I: IntoIterator<Item = u64>>(pfns: I) -> Self {
        let mut set = Self::default();
        pfns.into_iter().for_each(|pfn| set.insert(pfn));
        set
    }
}

fn place(pfn: u64) -> (usize, u64) {
    (usize::try_from(pfn / 64).expect("a pfn of a small guest"), 1 << (pfn % 64))
}

#[derive(Clone, Copy, Debug)]
struct Load {
    offset: u64,
    start: u64,
    end: u64,
}

/// An ELF copy of /proc/vmcore, or what QEMU writes in its place.
#[derive(Debug)]
pub struct RawCore {
    file: File,
    loads: Vec<Load>,
    notes: Vec<u8>,
    page_size: u64,
}

impl RawCore {
    /// Reads its program headers.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let mut head = [0; 64];
        file.read_exact_at(&mut head, 0)?;
        ensure!(head.starts_with(b"\x7fELF\x02"), "{} is no 64-bit ELF", path.display());
        let order = if head[5] == 2 { Order::Big } else { Order::Little };
        let (table, entry, count) =
            (order.number(&head[32..40]), order.number(&head[54..56]), order.number(&head[56..58]));
        let mut core = Self { file, loads: Vec::new(), notes: Vec::new(), page_size: 4096 };
        for index in 0..count {
            let mut header = [0; 56];
            core.file.read_exact_at(&mut header, table + index * entry)?;
            let (offset, start, len) =
                (order.number(&header[8..16]), order.number(&header[24..32]), order.number(&header[32..40]));
            match order.number(&header[..4]) {
                1 => core.loads.push(Load { offset, start, end: start + len }),
                4 => {
                    let mut note = vec![0; usize::try_from(len)?];
                    core.file.read_exact_at(&mut note, offset)?;
                    core.notes.extend(note);
                }
                _ => {}
            }
        }
        if let Some(size) = core.info("PAGESIZE") {
            core.page_size = size.parse().with_context(|| format!("PAGESIZE={size}"))?;
        }
        Ok(core)
    }

    /// Every pfn that has data.
    pub fn pages(&self) -> PageSet {
        let size = self.page_size;
        self.loads.iter().flat_map(|l| l.start / size..l.end.div_ceil(size)).collect()
    }

    /// One page; a part that no segment has is zero.
    pub fn page(&self, pfn: u64) -> Result<Vec<u8>> {
        let size = self.page_size;
        let mut page = vec![0; usize::try_from(size)?];
        for load in &self.loads {
            let (from, to) = ((pfn * size).max(load.start), ((pfn + 1) * size).min(load.end));
            if from < to {
                let at = usize::try_from(from - pfn * size)?;
                let len = usize::try_from(to - from)?;
                self.file.read_exact_at(&mut page[at..at + len], load.offset + from - load.start)?;
            }
        }
        Ok(page)
    }

    /// Value of a VMCOREINFO key.
    pub fn info(&self, key: &str) -> Option<String> {
        let text = String::from_utf8_lossy(&self.notes);
        let line = text.split(['\n', '\0']).find_map(|l| l.strip_prefix(key)?.strip_prefix('='))?;
        Some(line.to_owned())
    }
}

/// What the kernel's debug information says about struct page: offsets in bytes, flags as bit numbers.
#[derive(Clone, Debug, Deserialize)]
pub struct PageLayout {
    /// sizeof(struct page).
    size: usize,
    /// Member to offset; -1 where the kernel has no such member.
    offset: HashMap<String, i64>,
    /// Enumerator to value; -1 where the kernel has none.
    value: HashMap<String, i64>,
}

/// What a page is used for, by the rules of makedumpfile's newest version for this kernel.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Class {
    /// In the buddy allocator.
    Free,
    /// Page cache and tmpfs without private data.
    Cache,
    /// Page cache with private data (buffer heads).
    CachePrivate,
    /// Anonymous.
    Anonymous,
    /// A huge page of hugetlb.
    Hugetlb,
    /// Poisoned by hardware.
    Hwpoison,
    /// Given back to the hypervisor.
    Offline,
    /// In a slab.
    Slab,
    /// Everything else.
    Kernel,
}

/// A page's class, and whether it is a part of a larger, compound page without being its head.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Page {
    /// What it is used for.
    pub class: Class,
    /// Covered by the decision about a head.
    pub tail: bool,
}

impl Class {
    /// Whether a page is left out at a level.
    pub fn dropped_at(self, level: u8) -> bool {
        match self {
            Self::Free => level & 16 != 0,
            Self::Cache => level & (2 | 4) != 0,
            Self::CachePrivate => level & 4 != 0,
            Self::Anonymous | Self::Hugetlb => level & 8 != 0,
            Self::Hwpoison | Self::Offline => true,
            Self::Slab | Self::Kernel => false,
        }
    }
}

/// Classifies every page from the kernel's own struct pages and debug information: `mem_map` are records of a pfn
/// (8 bytes, little-endian) and its struct page.
pub fn classify(layout: &PageLayout, mem_map: &[u8]) -> Result<HashMap<u64, Page>> {
    let record = 8 + layout.size;
    ensure!(
        layout.size >= 32 && mem_map.len().is_multiple_of(record),
        "mem_map of {} bytes, {record} a page",
        mem_map.len()
    );
    let mut pages = HashMap::new();
    for one in mem_map.chunks_exact(record) {
        let (pfn, page) = one.split_at(8);
        pages.insert(u64::from_le_bytes(pfn.try_into()?), page);
    }
    let reader = Reader { layout, pages: &pages };
    let mut classes = HashMap::new();
    let mut pfns: Vec<u64> = pages.keys().copied().collect();
    pfns.sort_unstable();
    let mut covered = 0;
    for pfn in pfns.into_iter() {
        if pfn < covered {
            continue;
        }
        let (class, count) = reader.class(pfn).with_context(|| format!("struct page of pfn {pfn:#x}"))?;
        covered = pfn + count;
        let covers = (pfn..covered).filter(|p| pages.contains_key(p));
        classes.extend(covers.map(|p| (p, Page { class, tail: p != pfn })));
    }
    Ok(classes)
}

struct Reader<'a> {
    layout: &'a PageLayout,
    pages: &'a HashMap<u64, &'a [u8]>,
}

impl Reader<'_> {
    /// A member of a page; `None` where the kernel has no such member or the page has no struct page.
    fn member(&self, pfn: u64, name: &str, len: usize) -> Option<u64> {
        let at = usize::try_from(*self.layout.offset.get(name)?).ok()?;
        let bytes = self.pages.get(&pfn)?.get(at..at + len)?;
        Some(bytes.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)))
    }

    fn value(&self, name: &str) -> Option<u64> {
        u64::try_from(*self.layout.value.get(name)?).ok()
    }

    fn class(&self, pfn: u64) -> Result<(Class, u64)> {
        let flags = self.member(pfn, "flags", 8).context("flags")?;
        let mapping = self.member(pfn, "mapping", 8).context("mapping")?;
        let mapcount = self.member(pfn, "_mapcount", 4).context("_mapcount")?;
        let flag = |name: &str| self.value(name).is_some_and(|bit| flags >> bit & 1 != 0);
        // Since Linux commit 4ffca5a96678 ("mm: support only one page_type per page") (in v6.12) a type is the top byte;
        // before it is one cleared bit of 32.
        let typed = |pgty: &str, inverted: u64| match self.value(pgty) {
            Some(kind) => mapcount >> 24 == kind,
            None => mapcount == u64::from(u32::MAX) ^ inverted,
        };
        let slab = typed("PGTY_slab", 0) && self.value("PGTY_slab").is_some() || flag("PG_slab");
        if self.member(pfn, "compound_head", 8).context("compound_head")? & 1 != 0 {
            return Ok((if slab { Class::Slab } else { Class::Kernel }, 1)); // a tail whose head is elsewhere
        }
        if typed("PGTY_buddy", 0x80) && !slab {
            let order = self.member(pfn, "private", 8).context("private")?;
            ensure!(order <= 10, "a free block of order {order}");
            return Ok((Class::Free, 1 << order));
        }
        let mut order = 0;
        let mut hugetlb = false;
        if flag("PG_head") {
            // Since Linux commit ebc1baf5c9b4 ("mm: free up a word in the first tail page") (in v6.6) the order is in the flags.
            order = match self.member(pfn + 1, "compound_order", 1) {
                Some(order) => order,
                None => self.member(pfn + 1, "flags", 8).context("flags of the second page")? & 0xff,
            };
            ensure!(order <= 18, "a compound page of order {order}");
            hugetlb = match self.value("HUGETLB_PAGE_DTOR") {
                Some(id) => self.member(pfn + 1, "compound_dtor", 1) == Some(id),
                None => typed("PGTY_hugetlb", 0),
            };
        }
        let anonymous = mapping & 1 != 0 && !slab;
        let cache = flag("PG_lru") || flag("PG_swapbacked") && flag("PG_swapcache");
        let class = if cache && !anonymous && flag("PG_private") {
            Class::CachePrivate
        } else if cache && !anonymous {
            Class::Cache
        } else if hugetlb {
            Class::Hugetlb
        } else if anonymous {
            Class::Anonymous
        } else if flag("PG_hwpoison") {
            Class::Hwpoison
        } else if typed("PGTY_offline", 0x100) && !slab {
            Class::Offline
        } else if slab {
            Class::Slab
        } else {
            Class::Kernel
        };
        Ok((class, 1 << order))
    }
}

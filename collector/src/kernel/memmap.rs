//! Where the `struct page` of each pfn is: SPARSEMEM_EXTREME, plain SPARSEMEM, FLATMEM.

use super::{Kernel, Seen};
use crate::addr::{Pfn, VirtAddr};
use crate::problem::{Code, Problems};
use crate::vmcore::{Endian, Image};

/// Low bits of `section_mem_map` that are flags. Linux keeps at least six free on every architecture; since v6.15 the
/// sixth is in use on x86 (`SECTION_IS_VMEMMAP_PREINIT`).
const FLAGS: u64 = 0x3f;
/// `SECTION_MARKED_PRESENT` and `SECTION_HAS_MEM_MAP`.
const HAS_MEM_MAP: u64 = 3;
/// The smallest NUMBER(SECTION_SIZE_BITS) that is believed: 4 MiB. Linux has 24 to 34.
const MIN_SECTION_BITS: u32 = 22;
/// Bytes of a pointer, and of `section_mem_map`.
const WORD: u64 = 8;

/// A stretch of pfns whose `struct page`s are consecutive in virtual memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stretch {
    /// First pfn.
    pub start: Pfn,
    /// One past the last pfn.
    pub end: Pfn,
    /// The `struct page` of pfn 0, were there one: that of pfn n is n × SIZE(page) further, modulo 2^64.
    pub base: u64,
}

impl Stretch {
    /// Where the `struct page` of `pfn` is.
    pub fn page_at(&self, pfn: u64, size: u64) -> VirtAddr {
        VirtAddr::new(self.base.wrapping_add(pfn.wrapping_mul(size)))
    }
}

/// The stretches of mem_map for the runs of pages that a vmcore has: ascending, apart from each other, inside the runs. They
/// are found as they are asked for, so that a table of sections that makes no sense takes no memory. What has no mem_map,
/// or whose section makes no sense, is left out and recorded.
pub(crate) struct Stretches<'k, 'a> {
    runs: std::vec::IntoIter<(Pfn, Pfn)>,
    /// What is left of the run under way.
    run: (u64, u64),
    map: Map<'k, 'a>,
    /// Found, and not yet asked for.
    next: Option<Stretch>,
    kept: Kept,
    thinned: Option<Thinned<'k, 'a>>,
    problems: Problems,
}

/// How the `struct page` of a pfn is found.
enum Map<'k, 'a> {
    /// One array; where the first is.
    Flat(u64),
    /// By section, each of so many pages.
    Sparse(Sections<'k, 'a>, u64),
}

impl Stretches<'_, '_> {
    /// Pages of a section; 1 where there are none.
    pub fn section_pages(&self) -> u64 {
        match &self.map {
            Map::Flat(_) => 1,
            Map::Sparse(_, pages) => *pages,
        }
    }

    /// What was wrong with those that were asked for.
    pub fn problems(mut self) -> Problems {
        self.kept.tell(&mut self.problems);
        if let Some(lost) = self.thinned.as_ref().map(|thinned| thinned.lost).filter(|lost| *lost > 0) {
            let what = format!("the dump does not have the struct pages of {lost} of its pages: kept");
            self.problems.push(Code::MEM_MAP_UNREADABLE, what);
        }
        self.problems
    }

    /// The next one that there is.
    fn find(&mut self) -> Option<Stretch> {
        loop {
            while self.run.0 >= self.run.1 {
                let (start, end) = self.runs.next()?;
                self.run = (start.get(), end.get());
            }
            let (at, end) = self.run;
            let (base, end) = match &mut self.map {
                Map::Flat(base) => (Ok(*base), end),
                Map::Sparse(sections, pages) => {
                    let number = at / *pages;
                    let end = end.min(number.saturating_add(1).saturating_mul(*pages));
                    match sections.get(number) {
                        Section::Base(base) => (Ok(base), end),
                        other => (Err((number, other)), end),
                    }
                }
            };
            self.run.0 = end;
            match base {
                Ok(base) => {
                    let stretch = Stretch { start: Pfn::new(at), end: Pfn::new(end), base };
                    let Some(thinned) = &mut self.thinned else { return Some(stretch) };
                    let (there, next) = thinned.first(stretch);
                    self.run.0 = next.max(at.saturating_add(1));
                    if there.is_some() {
                        return there;
                    }
                }
                Err((number, section)) => self.kept.add(number, at..end, section, &mut self.problems),
            }
        }
    }
}

impl Iterator for Stretches<'_, '_> {
    type Item = Stretch;
    fn next(&mut self) -> Option<Stretch> {
        self.next.take().or_else(|| self.find())
    }
}

/// Why mem_map was not found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Missing(pub String);

/// The stretches of mem_map for `present`, the runs of pages that the vmcore has; there is at least one.
/// `struct page`s that an earlier filter has left out are left out, for there is nothing to read.
pub(crate) fn find<'k, 'a>(
    kernel: &'k Kernel<'a>,
    present: Vec<(Pfn, Pfn)>,
    problems: &mut Problems,
) -> Result<Stretches<'k, 'a>, Missing> {
    found(kernel, present, Thinned::new(kernel), problems)
}

/// As [`find`], readable or not.
pub(crate) fn find_all<'k, 'a>(
    kernel: &'k Kernel<'a>,
    present: Vec<(Pfn, Pfn)>,
) -> Option<Stretches<'k, 'a>> {
    found(kernel, present, None, &mut Problems::new()).ok()
}

fn found<'k, 'a>(
    kernel: &'k Kernel<'a>,
    present: Vec<(Pfn, Pfn)>,
    thinned: Option<Thinned<'k, 'a>>,
    problems: &mut Problems,
) -> Result<Stretches<'k, 'a>, Missing> {
    if !kernel.has_tables() {
        return Err(Missing("no address can be translated".to_owned()));
    }
    let info = kernel.vmcore().info();
    let (map, none) = if info.symbol("mem_section").is_some() {
        sparse(kernel)?
    } else {
        let Some(pointer) = info.symbol("mem_map") else {
            let what = "VMCOREINFO has neither SYMBOL(mem_section) nor SYMBOL(mem_map)";
            return Err(Missing(what.to_owned()));
        };
        let base = kernel.read_u64(pointer).map_err(|e| Missing(format!("cannot read mem_map: {e}")))?;
        if base == 0 {
            return Err(Missing(format!("mem_map at {pointer} is null")));
        }
        (Map::Flat(base), "there are no pages".to_owned())
    };
    let mut stretches = Stretches {
        runs: present.into_iter(),
        run: (0, 0),
        map,
        next: None,
        kept: Kept::default(),
        thinned,
        problems: Problems::new(),
    };
    stretches.next = stretches.find();
    if stretches.next.is_none() {
        problems.extend(stretches.problems().list().iter().cloned());
        return Err(Missing(none));
    }
    Ok(stretches)
}

/// A dump of which mem_map may have been left out in part.
struct Thinned<'k, 'a> {
    kernel: &'k Kernel<'a>,
    image: &'a Image,
    /// Bytes of a `struct page`.
    size: u64,
    seen: Seen,
    /// Pages that the dump has, and whose `struct page` it does not have.
    lost: u64,
}

impl<'k, 'a> Thinned<'k, 'a> {
    fn new(kernel: &'k Kernel<'a>) -> Option<Self> {
        let vmcore = kernel.vmcore();
        let size = vmcore.info().size("page").filter(|size| *size > 0)?;
        Some(Self { kernel, image: vmcore.image()?, size, seen: Seen::default(), lost: 0 })
    }

    /// The first part of a stretch whose `struct page`s were not left out of the dump, and where to go on.
    fn first(&mut self, stretch: Stretch) -> (Option<Stretch>, u64) {
        let (start, end) = (stretch.start.get(), stretch.end.get());
        let mut first = start;
        // Whose `struct page` begins in a page that was left out, or reaches into one.
        while first < end
            && let Some(next) = self.gone(&stretch, first)
        {
            let next = next.clamp(first.saturating_add(1), end);
            self.lost += (first..next).filter(|pfn| self.image.dumped.get(Pfn::new(*pfn))).count() as u64;
            first = next;
        }
        let mut last = first;
        while last < end && self.gone(&stretch, last).is_none() {
            // As far as the page goes that holds its `struct page`'s last byte.
            let page = self.kernel.vmcore().page_size().bytes();
            let next = stretch.page_at(last.saturating_add(1), self.size).get();
            let room = page - next.wrapping_sub(1) % page - 1;
            last = last.saturating_add(1).saturating_add(room / self.size).min(end);
        }
        let next = last;
        // The head of a block that was left out: the next `struct page`, which says what it is, was left out with it.
        if last > first && last < end && !self.image.dumped.get(Pfn::new(last - 1)) {
            last -= 1;
        }
        let there = Stretch { start: Pfn::new(first), end: Pfn::new(last), ..stretch };
        ((first < last).then_some(there), next)
    }

    /// `None` when the dump has the `struct page` of a page; else the first page whose `struct page` begins behind what is missing.
    fn gone(&mut self, stretch: &Stretch, pfn: u64) -> Option<u64> {
        let page = self.kernel.vmcore().page_size();
        let start = stretch.page_at(pfn, self.size).get();
        let last = start.checked_add(self.size - 1)?;
        for at in [start, last] {
            let Ok((phys, _)) = self.kernel.place(&mut self.seen, VirtAddr::new(at)) else { continue };
            let holds = page.pfn_of(phys);
            if self.image.present.get(holds) && !self.image.dumped.get(holds) {
                let behind = (at | (page.bytes() - 1)).checked_add(1)?;
                return Some(pfn.saturating_add((behind - start).div_ceil(self.size)));
            }
        }
        None
    }
}

/// `mem_section`: the table of sections.
struct Sections<'k, 'a> {
    kernel: &'k Kernel<'a>,
    endian: Endian,
    /// The array: of pointers to roots, or of sections.
    array: VirtAddr,
    /// Sections of a root; `None` when the array is of sections.
    per_root: Option<u64>,
    /// Bytes of a section.
    size: u64,
    /// Where in it `section_mem_map` is.
    offset: u64,
    /// The root that was read last, and its sections.
    root: Option<(u64, Vec<u8>)>,
}

/// What a section says.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Section {
    /// There is no such memory.
    Absent,
    /// The `struct page` of pfn 0, were there one.
    Base(u64),
    /// It could not be read.
    Unreadable(String),
}

impl Sections<'_, '_> {
    fn get(&mut self, number: u64) -> Section {
        match self.coded(number) {
            Ok(coded) if coded & HAS_MEM_MAP != HAS_MEM_MAP => Section::Absent,
            Ok(coded) => match coded & !FLAGS {
                0 => Section::Unreadable(format!("section_mem_map is {coded:#x}")),
                base => Section::Base(base),
            },
            Err(why) => Section::Unreadable(why),
        }
    }

    /// `section_mem_map`, 0 where there is no root.
    fn coded(&mut self, number: u64) -> Result<u64, String> {
        let Some(per_root) = self.per_root else {
            let skip = number.checked_mul(self.size).and_then(|n| n.checked_add(self.offset));
            let at = skip.and_then(|n| self.array.checked_add(n)).ok_or("its address is past 2^64")?;
            return self.kernel.read_u64(at).map_err(|e| e.to_string());
        };
        let (index, slot) = (number / per_root, number % per_root);
        if self.root.as_ref().is_none_or(|(seen, _)| *seen != index) {
            self.root = None;
            let skip = index.checked_mul(WORD).and_then(|n| self.array.checked_add(n));
            let at = skip.ok_or("its root's address is past 2^64")?;
            let root = self.kernel.read_u64(at).map_err(|e| format!("its root: {e}"))?;
            if root == 0 {
                self.root = Some((index, Vec::new()));
            } else {
                // At most a page: `per_root` is a page's length over `size`.
                let mut bytes = vec![0; usize::try_from(per_root.saturating_mul(self.size)).unwrap_or(0)];
                self.kernel
                    .read_virt(VirtAddr::new(root), &mut bytes)
                    .map_err(|e| format!("its root {index} at {root:#x}: {e}"))?;
                self.root = Some((index, bytes));
            }
        }
        let bytes = self.root.as_ref().map_or(&[][..], |(_, bytes)| bytes);
        let at = slot.saturating_mul(self.size).saturating_add(self.offset);
        Ok(usize::try_from(at).ok().and_then(|at| self.endian.u64(bytes, at)).unwrap_or(0))
    }
}

/// The table of sections, and what to say when none of them has a mem_map.
fn sparse<'k, 'a>(kernel: &'k Kernel<'a>) -> Result<(Map<'k, 'a>, String), Missing> {
    let vmcore = kernel.vmcore();
    let info = vmcore.info();
    let key = |kind: &str| Missing(format!("VMCOREINFO has no key {kind}"));
    let array = info.symbol("mem_section").ok_or_else(|| key("SYMBOL(mem_section)"))?;
    let size = info.size("mem_section").ok_or_else(|| key("SIZE(mem_section)"))?;
    let offset = info
        .offset("mem_section.section_mem_map")
        .ok_or_else(|| key("OFFSET(mem_section.section_mem_map)"))?;
    // Since Linux commit 4f5aecdff25f ("crash_core, vmcoreinfo: append 'SECTION_SIZE_BITS' to vmcoreinfo") (in v5.13).
    let bits = info.number("SECTION_SIZE_BITS").or_else(|| kernel.section_size_bits().map(i64::from));
    let bits = bits.ok_or_else(|| key("NUMBER(SECTION_SIZE_BITS)"))?;
    let page = vmcore.page_size();
    let shift = u32::try_from(bits).ok().filter(|b| (MIN_SECTION_BITS.max(page.shift())..48).contains(b));
    let shift = shift.ok_or_else(|| Missing(format!("NUMBER(SECTION_SIZE_BITS) is {bits}")))?;
    if size < WORD || size > page.bytes() || offset > size - WORD {
        return Err(Missing(format!("section_mem_map at {offset} of a mem_section of {size} bytes")));
    }
    let per_root = page.bytes() / size;
    let sections = Sections {
        kernel,
        endian: vmcore.endian(),
        array,
        per_root: is_extreme(kernel, shift, per_root).then_some(per_root),
        size,
        offset,
        root: None,
    };
    let none = format!("no section of mem_section at {array} has a mem_map");
    Ok((Map::Sparse(sections, 1_u64 << (shift - page.shift())), none))
}

/// Pages of sections without mem_map: there may be very many, so they are told together.
#[derive(Default)]
struct Kept {
    sections: u64,
    pages: u64,
    first: u64,
}

impl Kept {
    fn add(&mut self, number: u64, pfns: std::ops::Range<u64>, section: Section, problems: &mut Problems) {
        if let Section::Unreadable(why) = section {
            let (start, end) = (pfns.start, pfns.end);
            problems.push_with(Code::MEM_MAP_UNREADABLE, || {
                format!("section {number}, pfns {start:#x} to {end:#x}, is kept whole: {why}")
            });
            return;
        }
        if self.sections == 0 {
            self.first = pfns.start;
        }
        self.sections += 1;
        self.pages = self.pages.saturating_add(pfns.end.saturating_sub(pfns.start));
    }

    fn tell(&self, problems: &mut Problems) {
        if self.sections > 0 {
            problems.push(
                Code::MEM_MAP_UNREADABLE,
                format!(
                    "{} pages in {} sections, from pfn {:#x} on, have no struct page: kept",
                    self.pages, self.sections, self.first
                ),
            );
        }
    }
}

/// Whether `mem_section` is an array of pointers to roots of `per_root` sections (SPARSEMEM_EXTREME) or one of sections.
/// LENGTH(mem_section) counts roots in the one case, sections in the other.
fn is_extreme(kernel: &Kernel<'_>, shift: u32, per_root: u64) -> bool {
    let info = kernel.vmcore().info();
    let bits = info.number("MAX_PHYSMEM_BITS").and_then(|b| u32::try_from(b).ok());
    let bits = bits.or_else(|| kernel.max_physmem_bits());
    match (
        info.length("mem_section"),
        bits.and_then(|b| b.checked_sub(shift)).and_then(|b| 1_u64.checked_shl(b)),
    ) {
        (Some(length), Some(sections)) => length != sections || per_root == 1,
        _ => true,
    }
}

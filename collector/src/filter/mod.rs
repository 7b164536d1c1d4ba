//! Decision: which pages are kept.

mod account;
mod batch;
mod bitmap;
mod log;
mod rules;
mod scan;
mod sheet;
mod vmemmap;

pub use account::{Account, Reason};
pub use bitmap::Bitmap;
pub use vmemmap::exclude_vmemmap;

use crate::addr::Pfn;
use crate::kernel::page::PageLayout;
use crate::kernel::{Kernel, memmap};
use crate::problem::{Code, Problems};
use crate::progress::Progress;
use crate::vmcore::Image;
use rules::Rules;
use scan::Scan;

/// Filter level: bits 0..4 of makedumpfile's `-d`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Level(u8);

impl Level {
    /// Zero pages.
    pub const ZERO: u8 = 1;
    /// Cache pages without private data.
    pub const CACHE: u8 = 2;
    /// Cache pages, private data or not.
    pub const CACHE_PRIVATE: u8 = 4;
    /// User pages: anonymous and hugetlb.
    pub const USER: u8 = 8;
    /// Free pages.
    pub const FREE: u8 = 16;

    /// `None` above 31.
    pub const fn new(bits: u8) -> Option<Self> {
        if bits <= 31 { Some(Self(bits)) } else { None }
    }
    /// The bits.
    pub const fn bits(self) -> u8 {
        self.0
    }
    /// Whether all of `bits` are set.
    pub const fn has(self, bits: u8) -> bool {
        self.0 & bits == bits
    }
}

/// What the filter decided. Zero pages are found only when pages are read, so `keep` still has them and `account`
/// does not yet know them.
#[derive(Clone, Debug)]
pub struct Selection {
    /// Pages that the vmcore has.
    pub present: Bitmap,
    /// Pages to keep.
    pub keep: Bitmap,
    /// What was dropped, by reason.
    pub account: Account,
    /// The level that was applied; lower than asked where metadata is missing.
    pub level: Level,
}

/// Scans mem_map once, on `threads` threads (0 means 1), and decides for each page. Fails open: what cannot be read or makes
/// no sense is kept. The answer, problems included, does not depend on the number of threads.
pub fn select(
    kernel: &Kernel<'_>,
    level: Level,
    threads: usize,
    progress: &dyn Progress,
    problems: &mut Problems,
) -> Selection {
    let vmcore = kernel.vmcore();
    let runs = vmcore.present_runs();
    let mut present = Bitmap::new(vmcore.end_pfn().get());
    for &(start, end) in &runs {
        present.set_range(start, end);
    }
    let nothing = Level(level.0 & Level::ZERO);
    let (keep, dropped, level) = match scan(kernel, level, runs, &present, threads, progress, problems) {
        Ok(scanned) => scanned,
        Err(why) => {
            problems.push(Code::MEM_MAP_MISSING, format!("{why}: every page is kept"));
            (present.clone(), Account::default(), nothing)
        }
    };
    // What an earlier filter has left out is not there to be kept, and what it was told to leave out stays told.
    let (keep, dropped, level) = match vmcore.image() {
        Some(image) => without(keep, dropped, level, image),
        None => (keep, dropped, level),
    };
    let account = Account { present: present.count(), kept: keep.count(), ..dropped };
    if !account.balanced() {
        problems.push(Code::ACCOUNT_MISMATCH, format!("the selection does not add up: {account:?}"));
    }
    Selection { present, keep, account, level }
}

/// Takes the pages that the dump has no data of out of what is kept.
fn without(mut keep: Bitmap, mut dropped: Account, level: Level, image: &Image) -> (Bitmap, Account, Level) {
    let end = Pfn::new(keep.len());
    let mut next = Pfn::new(0);
    for (start, stop) in image.dumped.runs().chain(std::iter::once((end, end))) {
        dropped.drop_pages(Reason::Earlier, keep.clear_range(next, start));
        next = stop;
    }
    (keep, dropped, Level(level.0 | image.level))
}

/// What is kept, what was dropped, and the level that was applied; an error when mem_map was not found.
fn scan(
    kernel: &Kernel<'_>,
    level: Level,
    runs: Vec<(Pfn, Pfn)>,
    present: &Bitmap,
    threads: usize,
    progress: &dyn Progress,
    problems: &mut Problems,
) -> Result<(Bitmap, Account, Level), String> {
    let vmcore = kernel.vmcore();
    let layout = PageLayout::probe(vmcore.info(), vmcore.endian(), kernel.hugetlb_orders())?;
    let rules = Rules::new(layout, level, problems);
    if !rules.needs_scan() {
        return Ok((present.clone(), Account::default(), rules.level()));
    }
    let stretches = memmap::find(kernel, runs, problems).map_err(|missing| missing.0)?;
    let (keep, dropped) = Scan::new(kernel, &rules, present).run(stretches, threads, progress, problems);
    Ok((keep, dropped, rules.level()))
}

#[cfg(test)]
mod tests;

//! `vmcorectl verify`: whether a dump is what it says, every page of it.

use super::open;
use collector::engine::chain;
use collector::format::read::verify::{Verified, verify};
use collector::input::{Container, Input};
use collector::problem::Problems;
use collector::vmcore::{ReadError, Vmcore};
use serde::Serialize;
use std::fmt;
use std::path::PathBuf;

/// Damaged pages that are listed.
const LISTED: usize = 100;

/// What was found. The keys of `--json`: they stay, and others may come.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// As they were named.
    pub files: Vec<PathBuf>,
    /// Nothing is wrong.
    pub sound: bool,
    /// Pages with data that were looked at.
    pub pages: u64,
    /// Pages that should have data and have not.
    pub missing: u64,
    /// Pages that are not what they should be.
    pub damaged: u64,
    /// The first of them.
    pub damaged_pages: Vec<DamagedPage>,
    /// What is wrong with headers, bitmaps, segments, notes, or the file as a whole.
    pub faults: Vec<String>,
}

/// A damaged page.
#[derive(Clone, Debug, Serialize)]
pub struct DamagedPage {
    /// The page.
    pub pfn: u64,
    /// File offset of its data, as far as that is known.
    pub offset: Option<u64>,
    /// What is wrong.
    pub why: String,
}

impl Report {
    /// Reads everything, on `threads` threads. `progress` is told how many pages of how many are done. An error when the
    /// files are no dump, or cannot be opened.
    pub fn read(
        files: &[PathBuf],
        threads: usize,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<Self, String> {
        let input = open(files)?;
        let mut report = match input.kdump() {
            Some(dump) => Self::of(files, verify(dump, threads, LISTED, progress)),
            None => Self { files: files.to_vec(), ..Self::of(files, Verified::default()) },
        };
        let mut problems = Problems::new();
        // Whoever reads the dump meets the same: notes, segments, VMCOREINFO.
        match Vmcore::open(input.source(), &mut problems) {
            Ok(vmcore) if input.container() == Container::Elf => report.read_elf(&input, &vmcore, progress),
            Ok(_) => {}
            Err(e) if input.container() == Container::Elf => return Err(chain(&e)),
            Err(e) => report.faults.push(chain(&e)),
        }
        for problem in problems.list().iter().filter(|p| (100..200).contains(&p.code.0)) {
            if !report.faults.contains(&problem.message) {
                report.faults.push(problem.message.clone());
            }
        }
        if input.source().is_torn() {
            report.faults.push("the file became shorter while it was read".to_owned());
        }
        report.sound = report.damaged == 0 && report.missing == 0 && report.faults.is_empty();
        Ok(report)
    }

    fn of(files: &[PathBuf], verified: Verified) -> Self {
        let Verified { census, damaged, list, faults } = verified;
        let damaged_pages = list
            .into_iter()
            .map(|d| DamagedPage { pfn: d.pfn.get(), offset: d.offset.map(|o| o.get()), why: d.why })
            .collect();
        Self {
            files: files.to_vec(),
            sound: false,
            pages: census.pages,
            missing: census.missing,
            damaged,
            damaged_pages,
            faults,
        }
    }

    /// An ELF file has nothing to check its pages by: that they can be read is all there is.
    fn read_elf(&mut self, input: &Input, vmcore: &Vmcore<'_>, progress: &(dyn Fn(u64, u64) + Sync)) {
        let runs = vmcore.present_runs();
        let total = runs.iter().map(|(a, b)| b.get().saturating_sub(a.get())).sum();
        let mut page = vec![0; vmcore.page_size().len()];
        for (start, end) in runs {
            let mut at = start;
            while at < end {
                let left = end.get().saturating_sub(at.get());
                // What is mapped is not read before it is looked at: one byte a page.
                let window = vmcore.page_window(at, left).map(|(window, pages)| {
                    std::hint::black_box(window.iter().step_by(4096).fold(0_u8, |sum, b| sum ^ b));
                    pages
                });
                let pages = match window {
                    Ok(pages) => pages,
                    Err(_) => {
                        if let Err(e) = vmcore.read_page(at, &mut page) {
                            self.damage(at.get(), &e);
                        }
                        1
                    }
                };
                self.pages = self.pages.saturating_add(pages);
                progress(self.pages, total);
                at = collector::addr::Pfn::new(at.get().saturating_add(pages.max(1)));
            }
        }
        if super::info::incomplete_elf(input) {
            self.faults.push("the dump says of itself that pages are missing".to_owned());
        }
    }

    fn damage(&mut self, pfn: u64, e: &ReadError) {
        self.damaged = self.damaged.saturating_add(1);
        if self.damaged_pages.len() < LISTED {
            self.damaged_pages.push(DamagedPage { pfn, offset: None, why: chain(e) });
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for fault in &self.faults {
            writeln!(f, "fault: {fault}")?;
        }
        for DamagedPage { pfn, offset, why } in &self.damaged_pages {
            let place = offset.map_or(String::new(), |at| format!(" at offset {at:#x}"));
            writeln!(f, "page {pfn:#x}{place}: {why}")?;
        }
        let more = self.damaged.saturating_sub(self.damaged_pages.len() as u64);
        if more > 0 {
            writeln!(f, "and {more} more pages")?;
        }
        let verdict = if self.sound { "sound" } else { "DAMAGED" };
        write!(f, "{verdict}: {} pages", self.pages)?;
        if self.damaged > 0 {
            write!(f, ", {} damaged", self.damaged)?;
        }
        if self.missing > 0 {
            write!(f, ", {} missing", self.missing)?;
        }
        writeln!(f)
    }
}

//! `--mem-usage`: what a dump of the running kernel would hold.
//!
//! /proc/kcore is an ELF file of the kernel's memory with VMCOREINFO in a note (since Linux commit 23c85094fe18 ("proc/kcore:
//! add vmcoreinfo note to /proc/kcore") (in v4.19)): the engine reads it as it reads a vmcore. What is counted changes
//! meanwhile; the account adds up all the same.

use super::messages::{Messages, Meter};
use super::options::Options;
use super::report::Shown;
use super::{Failure, dump};
use crate::addr::PhysAddr;
use crate::engine::chain;
use crate::format::Nowhere;
use crate::manifest::DumpReport;
use crate::plan::{Compression, DumpSpec, Format};
use std::path::Path;

/// Counts and shows.
pub(super) fn show(options: &Options, kcore: &Path) -> Result<(), Failure> {
    let input = dump::open_source(kcore)?;
    let mut engine = dump::open_engine(options, kcore, &input, b"")?;
    engine.threads = options.threads;
    // The reservation is no memory of this kernel's. Without one there is nothing to leave out.
    let iomem = std::fs::read_to_string("/proc/iomem").unwrap_or_default();
    for (start, end) in reservations(&iomem) {
        engine.leave_out(start, end);
    }
    let spec = DumpSpec::new("nothing", 31, Format::Kdump, Compression::None);
    let meter = Meter::new(options.messages);
    let report = engine.dump(&spec, &Nowhere, &meter);
    meter.end();
    dump::say_problems(options, &engine);
    let report = report.map_err(|e| Failure::new(chain(&e)))?;
    options.messages.say(Messages::COMMON, &table(&report));
    Ok(())
}

/// The reservations for crash kernels in /proc/iomem: half-open.
fn reservations(iomem: &str) -> Vec<(PhysAddr, PhysAddr)> {
    let mut found = Vec::new();
    for line in iomem.lines() {
        let Some((range, "Crash kernel")) = line.trim_start().split_once(" : ") else { continue };
        let Some((start, last)) = range.split_once('-') else { continue };
        let number = |text| u64::from_str_radix(text, 16).ok();
        // Who may not know sees zeros.
        if let (Some(start), Some(last)) = (number(start), number(last))
            && last > start
        {
            found.push((PhysAddr::new(start), PhysAddr::new(last.saturating_add(1))));
        }
    }
    found
}

fn table(report: &DumpReport) -> String {
    let pages = &report.pages;
    let Shown { zero, cache, cache_private, user, free, .. } = Shown::new(pages);
    let mut text = String::from("\nTYPE\t\tPAGES\t\t\tEXCLUDABLE\tDESCRIPTION\n");
    text.push_str("----------------------------------------------------------------------\n");
    for (name, pages, excludable, what) in [
        ("ZERO\t", zero, "yes", "Pages filled with zero"),
        ("NON_PRI_CACHE", cache, "yes", "Cache pages without private flag"),
        ("PRI_CACHE", cache_private, "yes", "Cache pages with private flag"),
        ("USER\t", user, "yes", "User process pages"),
        ("FREE\t", free, "yes", "Free pages"),
        ("KERN_DATA", pages.kept, "no", "Dumpable kernel data "),
    ] {
        text.push_str(&format!("{name}\t{pages:<16}\t{excludable}\t\t{what}\n"));
    }
    let bytes = pages.present.saturating_mul(report.page_size);
    text.push_str(&format!("\npage size:\t\t{:<16}\n", report.page_size));
    text.push_str(&format!("Total pages on system:\t{:<16}\n", pages.present));
    text.push_str(&format!("Total size on system:\t{bytes:<16} Byte\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reservations_are_found() {
        let iomem = "00000000-00000fff : Reserved\n00100000-1fffffff : System RAM\n  13000000-1effffff : Crash kernel\n\
                     100000000-1ffffffff : System RAM\n  180000000-18fffffff : Crash kernel\n";
        let found: Vec<_> = reservations(iomem).iter().map(|(a, b)| (a.get(), b.get())).collect();
        assert_eq!(found, [(0x1300_0000, 0x1f00_0000), (0x1_8000_0000, 0x1_9000_0000)]);
        assert_eq!(reservations("  00000000-00000000 : Crash kernel\n"), []);
        assert_eq!(reservations("x : Crash kernel\n1-zz : Crash kernel\n"), []);
    }
}

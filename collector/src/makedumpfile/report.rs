//! The account of pages as makedumpfile prints it.

use crate::filter::Account;
use crate::manifest::DumpReport;

/// `--show-stats`: hexadecimal, with what is outside of any memory up to `end_pfn`.
pub(super) fn statistics(report: &DumpReport, end_pfn: u64) -> String {
    let pages = &report.pages;
    let Shown { zero, cache, cache_private, user, free, hwpoison, offline } = Shown::new(pages);
    let excluded = [zero, cache, cache_private, user, free, hwpoison, offline].iter().sum::<u64>();
    let remaining = pages.present.saturating_sub(excluded).saturating_sub(pages.earlier);
    let percent = remaining.saturating_mul(100).checked_div(pages.present).unwrap_or(0);
    let seconds = |ms: u64| format!("{}.{:03}000", ms / 1000, ms % 1000);
    format!(
        "\
STEP [Excluding unnecessary pages] : {} seconds
STEP [Copying data               ] : {} seconds

Original pages  : {:#018x}
  Excluded pages   : {excluded:#018x}
    Pages filled with zero  : {zero:#018x}
    Non-private cache pages : {cache:#018x}
    Private cache pages     : {cache_private:#018x}
    User process data pages : {user:#018x}
    Free pages              : {free:#018x}
    Hwpoison pages          : {hwpoison:#018x}
    Offline pages           : {offline:#018x}
  Remaining pages  : {remaining:#018x}
  (The number of pages is reduced to {percent}%.)
Memory Hole     : {:#018x}
--------------------------------------------------
Total pages     : {end_pfn:#018x}
Write bytes     : {}

",
        seconds(report.scan_ms),
        seconds(report.write_ms),
        pages.present,
        end_pfn.saturating_sub(pages.present),
        report.bytes,
    )
}

/// The classes that makedumpfile tells apart.
struct Shown {
    zero: u64,
    cache: u64,
    cache_private: u64,
    user: u64,
    free: u64,
    hwpoison: u64,
    offline: u64,
}

impl Shown {
    fn new(account: &Account) -> Self {
        // No `..`: a reason that is added to the account has to be added here.
        let Account {
            present: _,
            kept: _,
            zero,
            cache,
            cache_private,
            user,
            hugetlb,
            free,
            unaccepted,
            hwpoison,
            offline,
            unreadable: _,
            unwritten: _,
            earlier: _,
        } = *account;
        let (user, free) = (user.saturating_add(hugetlb), free.saturating_add(unaccepted));
        Self { zero, cache, cache_private, user, free, hwpoison, offline }
    }
}

/// `--mem-usage`.
pub(super) fn mem_usage(report: &DumpReport) -> String {
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

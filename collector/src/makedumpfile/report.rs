//! The account of pages as makedumpfile prints it.

use crate::filter::Account;
use crate::manifest::DumpReport;

/// `--show-stats`: hexadecimal, with what is outside of any memory up to `end_pfn`.
pub(super) fn statistics(report: &DumpReport, end_pfn: u64) -> String {
    let pages = &report.pages;
    let Shown { zero, cache, cache_private, user, free, hwpoison, offline, vmemmap } = Shown::new(pages);
    let excluded = [zero, cache, cache_private, user, free, hwpoison, offline, vmemmap].iter().sum::<u64>();
    let remaining = pages.present.saturating_sub(excluded).saturating_sub(pages.earlier);
    let percent = remaining.saturating_mul(100).checked_div(pages.present).unwrap_or(0);
    let vmemmap = match vmemmap {
        0 => String::new(),
        pages => format!("    Vmemmap pages           : {pages:#018x}\n"),
    };
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
{vmemmap}  Remaining pages  : {remaining:#018x}
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
pub(super) struct Shown {
    pub zero: u64,
    pub cache: u64,
    pub cache_private: u64,
    pub user: u64,
    pub free: u64,
    hwpoison: u64,
    offline: u64,
    vmemmap: u64,
}

impl Shown {
    pub fn new(account: &Account) -> Self {
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
            vmemmap,
            unreadable: _,
            unwritten: _,
            earlier: _,
        } = *account;
        let (user, free) = (user.saturating_add(hugetlb), free.saturating_add(unaccepted));
        Self { zero, cache, cache_private, user, free, hwpoison, offline, vmemmap }
    }
}

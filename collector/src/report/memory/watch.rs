//! What is wrong with the figures, each with its reason.

use super::Memory;
use crate::triage::Dead;
use serde::Serialize;

/// How bad.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mark {
    /// Something gives way: `!!!`.
    Breach,
    /// It soon would have: `***`.
    Near,
}

impl std::fmt::Display for Mark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Breach => "!!!",
            Self::Near => "***",
        })
    }
}

/// A sentence about a figure.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Remark {
    /// How bad.
    pub mark: Mark,
    /// What.
    pub text: String,
}

/// What the administrator has allowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Limits {
    /// Percent of available memory that may be dirty; 0 where it is set in bytes.
    pub dirty_ratio: Option<u64>,
    /// Whether memory is only promised up to a limit (vm.overcommit_memory = 2).
    pub strict: bool,
    /// That limit, percent of memory.
    pub overcommit_ratio: u64,
}

impl Limits {
    pub(super) fn of(dead: &Dead<'_>) -> Self {
        let int = |name: &str| dead.symbol(name).and_then(|at| dead.u32(at)).ok().map(u64::from);
        Self {
            dirty_ratio: int("vm_dirty_ratio"),
            strict: int("sysctl_overcommit_memory") == Some(2),
            overcommit_ratio: int("sysctl_overcommit_ratio").unwrap_or(50),
        }
    }
}

/// KiB for reading.
fn mib(kib: u64) -> String {
    if kib < 10 << 10 { format!("{kib} KiB") } else { format!("{} MiB", kib >> 10) }
}

/// `part` of `all` in percent.
fn percent(part: u64, all: u64) -> u64 {
    part.saturating_mul(100).checked_div(all).unwrap_or(0)
}

/// All remarks, the worst first.
pub(super) fn remarks(memory: &Memory, limits: &Limits) -> Vec<Remark> {
    let mut found = Vec::new();
    let mut say = |mark, text: String| found.push(Remark { mark, text });
    let total = memory.total.unwrap_or(0);
    for zone in &memory.zones {
        // The first 16 MiB are so little that nothing depends on them.
        if zone.name == "DMA" {
            continue;
        }
        let is = format!("zone {} of node {} has {} free", zone.name, zone.node, mib(zone.free));
        if zone.free <= zone.min {
            say(Mark::Breach, format!("{is}, below its min watermark of {}", mib(zone.min)));
        } else if zone.free <= zone.low {
            say(Mark::Near, format!("{is}, below its low watermark of {}", mib(zone.low)));
        }
    }
    // (what, its KiB, near and breach in percent of all memory)
    let shares = [
        ("slabs that cannot be given back have", memory.slab_unreclaimable, 25, 50),
        ("slabs have", memory.slab(), 50, 75),
        ("unevictable memory has", memory.unevictable, 50, 80),
        ("page tables have", memory.page_tables, 15, 30),
        ("stacks in the kernel have", memory.kernel_stacks, 10, 20),
        ("vmalloc has", memory.vmalloc, 40, 70),
    ];
    for (what, kib, near, breach) in shares {
        let Some(kib) = kib else { continue };
        let share = percent(kib, total);
        if share >= near {
            let mark = if share >= breach { Mark::Breach } else { Mark::Near };
            say(mark, format!("{what} {}, {share} % of memory", mib(kib)));
        }
    }
    if let Some(available) = memory.available {
        let share = percent(available, total);
        if share < 5 {
            let mark = if share < 2 { Mark::Breach } else { Mark::Near };
            say(mark, format!("{} were available to programs, {share} % of memory", mib(available)));
        }
    }
    if let (Some(ratio @ 1..), Some(dirty), Some(available)) =
        (limits.dirty_ratio, memory.dirty, memory.available)
    {
        let limit = available.saturating_mul(ratio) / 100;
        let waiting = dirty.saturating_add(memory.writeback.unwrap_or(0));
        if waiting >= limit / 2 && waiting > 1 << 10 {
            let mark = if waiting >= limit { Mark::Breach } else { Mark::Near };
            say(
                mark,
                format!(
                    "{} were to be written to disks; from {} on, writers wait (vm.dirty_ratio {ratio})",
                    mib(waiting),
                    mib(limit)
                ),
            );
        }
    }
    if let (Some(all @ 1..), Some(free)) = (memory.swap_total, memory.swap_free) {
        let used = percent(all.saturating_sub(free), all);
        if used >= 80 {
            let mark = if used >= 98 { Mark::Breach } else { Mark::Near };
            say(mark, format!("swap is {used} % full: {} of {} are free", mib(free), mib(all)));
        }
    }
    for huge in memory.huge_pages.iter().filter(|h| h.total > 0) {
        let size = mib(huge.size_kib);
        let idle = huge.free.saturating_sub(huge.reserved).saturating_mul(huge.size_kib);
        if huge.reserved > huge.free {
            say(
                Mark::Breach,
                format!("of huge pages of {size}, {} are promised and {} free", huge.reserved, huge.free),
            );
        } else if percent(idle, total) >= 25 {
            say(Mark::Near, format!("huge pages of {size} that nobody uses have {}", mib(idle)));
        }
    }
    if let Some(bad @ 1..) = memory.corrupted {
        say(
            Mark::Breach,
            format!("{} of memory were taken out of use: the hardware had damaged them", mib(bad)),
        );
    }
    if let (true, Some(committed)) = (limits.strict, memory.committed) {
        let limit = total
            .saturating_mul(limits.overcommit_ratio)
            .saturating_div(100)
            .saturating_add(memory.swap_total.unwrap_or(0));
        if committed >= limit.saturating_mul(9) / 10 {
            let mark = if committed >= limit { Mark::Breach } else { Mark::Near };
            let text = format!("{} are promised to programs of {} at most", mib(committed), mib(limit));
            say(mark, format!("{text} (vm.overcommit_memory 2)"));
        }
    }
    found.sort_by_key(|remark| remark.mark);
    found
}

#[cfg(test)]
mod tests {
    use super::super::{HugePages, Zone};
    use super::*;

    fn healthy() -> Memory {
        Memory {
            total: Some(1 << 20),
            free: Some(1 << 19),
            available: Some(1 << 19),
            dirty: Some(100),
            writeback: Some(0),
            slab_reclaimable: Some(10 << 10),
            slab_unreclaimable: Some(10 << 10),
            unevictable: Some(0),
            page_tables: Some(1 << 10),
            kernel_stacks: Some(1 << 10),
            vmalloc: Some(1 << 10),
            swap_total: Some(1 << 20),
            swap_free: Some(1 << 20),
            corrupted: Some(0),
            committed: Some(1 << 10),
            zones: vec![Zone {
                node: 0,
                name: "Normal".to_owned(),
                managed: 1 << 20,
                present: 1 << 20,
                free: 1 << 19,
                min: 4 << 10,
                low: 5 << 10,
                high: 6 << 10,
            }],
            ..Memory::default()
        }
    }

    /// Each figure in turn, near its limit and past it.
    #[test]
    fn each_figure_has_its_limits() {
        let limits = Limits { dirty_ratio: Some(20), strict: true, overcommit_ratio: 50 };
        assert_eq!(remarks(&healthy(), &limits), []);
        type Change = fn(&mut Memory, u64);
        let cases: [(&str, Change, u64, u64); 9] = [
            ("watermark", |m, v| m.zones[0].free = v, 5 << 10, 3 << 10),
            ("cannot be given back", |m, v| m.slab_unreclaimable = Some(v), 300 << 10, 600 << 10),
            ("unevictable", |m, v| m.unevictable = Some(v), 600 << 10, 900 << 10),
            ("page tables", |m, v| m.page_tables = Some(v), 200 << 10, 400 << 10),
            ("available to programs", |m, v| m.available = Some(v), 40 << 10, 10 << 10),
            ("to be written", |m, v| m.dirty = Some(v), 60 << 10, 120 << 10),
            ("swap", |m, v| m.swap_free = Some((1 << 20) - v), 900 << 10, 1 << 20),
            ("promised to programs", |m, v| m.committed = Some(v), 1400 << 10, 1600 << 10),
            ("vmalloc", |m, v| m.vmalloc = Some(v), 500 << 10, 800 << 10),
        ];
        for (what, change, near, breach) in cases {
            for (value, mark) in [(near, Mark::Near), (breach, Mark::Breach)] {
                let mut memory = healthy();
                change(&mut memory, value);
                let said = remarks(&memory, &limits);
                let hit = said.iter().find(|r| r.text.contains(what));
                assert_eq!(hit.map(|r| r.mark), Some(mark), "{what} at {value}: {said:?}");
            }
        }
        let mut memory = healthy();
        memory.corrupted = Some(4);
        memory.huge_pages =
            vec![HugePages { size_kib: 2048, total: 200, free: 200, reserved: 0, surplus: 0 }];
        let said = remarks(&memory, &limits);
        let marks: Vec<Mark> = said.iter().map(|r| r.mark).collect();
        assert_eq!(marks, [Mark::Breach, Mark::Near], "{said:?}");
    }
}

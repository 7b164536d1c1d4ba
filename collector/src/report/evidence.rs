//! What the log says besides its last words: the lines that a person would look for.

/// Lines that tell of the cause, by what they are about. Those of the hardware first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Evidence {
    /// Machine checks, ECC errors, pages that were poisoned, PCIe and thermal errors.
    pub hardware: Vec<String>,
    /// Block devices and file systems that failed.
    pub storage: Vec<String>,
    /// The allocator gave up.
    pub memory: Vec<String>,
    /// Tasks and CPUs that were stuck.
    pub stuck: Vec<String>,
    /// Bugs and warnings.
    pub bugs: Vec<String>,
}

/// Lines kept of one sort: the first ones tell how it began, the last ones how it ended.
const FIRST: usize = 4;
const LAST: usize = 4;

const HARDWARE: &[&str] = &[
    "[Hardware Error]",
    "mce: ",
    "Machine check",
    "EDAC ",
    "Memory failure: ",
    "hwpoison",
    "AER: ",
    "NMI: PCI system error",
    "NMI: IOCK error",
    "Corrected error",
    "Uncorrected",
    "CPU temperature above threshold",
];
const STORAGE: &[&str] = &[
    "I/O error",
    "EXT4-fs error",
    "XFS (",
    "BTRFS error",
    "BTRFS critical",
    "nvme nvme",
    "task abort",
    "timing out command",
    "rejecting I/O to",
    "Remounting filesystem read-only",
    "not responding, still trying",
    "SError",
    "exception Emask",
];
const MEMORY: &[&str] = &[
    "invoked oom-killer",
    "Out of memory",
    "page allocation failure",
    "Killed process",
    "SLUB: Unable to allocate",
    "oom-kill:",
];
const STUCK: &[&str] = &[
    "soft lockup",
    "hard LOCKUP",
    "blocked for more than",
    "self-detected stall",
    "detected stalls on CPUs",
    "rcu_sched kthread starved",
    "rcu_preempt kthread starved",
];
const BUGS: &[&str] = &[
    "BUG: ",
    "kernel BUG at",
    "WARNING: CPU",
    "general protection fault",
    "Oops: ",
    "RIP: 0010:",
    "refcount_t: ",
    "list_add corruption",
    "list_del corruption",
    "stack guard page",
    "double fault",
    "unable to handle",
    "Unable to handle",
    "Kernel panic",
];
/// Lines that have the words, and are there on healthy machines.
const HARMLESS: &[&str] = &[
    "mce: CPU supports",
    "mce: [Firmware",
    "mce: Using",
    "EDAC MC: Ver",
    "AER: enabled",
    "hwpoison_",
    "nvme nvme0: pci function",
    "default/read/poll queues",
    "XFS (vd",
];

impl Evidence {
    /// Looks at every line.
    pub fn of<'l>(log: impl Iterator<Item = &'l str>) -> Self {
        let mut found = Self::default();
        for line in log {
            if HARMLESS.iter().any(|words| line.contains(words)) {
                continue;
            }
            let sorts: [(&[&str], &mut Vec<String>); 5] = [
                (HARDWARE, &mut found.hardware),
                (STORAGE, &mut found.storage),
                (MEMORY, &mut found.memory),
                (STUCK, &mut found.stuck),
                (BUGS, &mut found.bugs),
            ];
            for (words, lines) in sorts {
                if words.iter().any(|word| line.contains(word)) {
                    keep(lines, line);
                    break;
                }
            }
        }
        found
    }
}

fn keep(lines: &mut Vec<String>, line: &str) {
    if lines.len() >= FIRST + LAST {
        lines.remove(FIRST);
    }
    lines.push(line.chars().take(200).collect());
}

/// A line without its time: `[    1.234567] text`.
pub fn text(line: &str) -> &str {
    let Some(rest) = line.strip_prefix('[') else { return line };
    rest.split_once("] ").map_or(line, |(_, text)| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_sorted() {
        let log = "\
[    0.1] mce: CPU supports 10 MCE banks
[    1.0] vda: I/O error, dev vda, sector 0
[    2.0] mce: [Hardware Error]: CPU 0: Machine Check Exception: 5 Bank 4: be00000000000135
[    3.0] INFO: task crasher-one:75 blocked for more than 3 seconds.
[    4.0] sh invoked oom-killer: gfp_mask=0xcc0
[    5.0] BUG: kernel NULL pointer dereference, address: 0000000000000000
[    6.0] all is well";
        let found = Evidence::of(log.lines());
        let counts =
            [&found.hardware, &found.storage, &found.memory, &found.stuck, &found.bugs].map(Vec::len);
        assert_eq!(counts, [1; 5], "{found:?}");
        assert_eq!(text(&found.bugs[0]), "BUG: kernel NULL pointer dereference, address: 0000000000000000");
        let many: Vec<String> = (0..100).map(|n| format!("BUG: {n}")).collect();
        let found = Evidence::of(many.iter().map(String::as_str)).bugs;
        assert_eq!(found.len(), FIRST + LAST);
        assert_eq!((found[0].as_str(), found[7].as_str()), ("BUG: 0", "BUG: 99"));
    }
}

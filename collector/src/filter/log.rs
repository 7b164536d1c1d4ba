//! Problems of one thread of the scan, by pfn, so that those of all threads come out in the order of one.

use crate::problem::{Code, Problems};

/// The first problems of each code, and how many more there were.
#[derive(Default)]
pub(super) struct Log {
    entries: Vec<(u64, Code, String)>,
    more: Vec<(Code, u64)>,
}

impl Log {
    /// Records one about a pfn, none below the last.
    pub fn push(&mut self, pfn: u64, code: Code, message: impl FnOnce() -> String) {
        if let Some((_, times)) = self.more.iter_mut().find(|(known, _)| *known == code) {
            *times = times.saturating_add(1);
            return;
        }
        self.entries.push((pfn, code, message()));
        if self.entries.iter().filter(|(_, known, _)| *known == code).count() == Problems::PER_CODE {
            self.more.push((code, 0));
        }
    }

    /// Puts the problems of all threads in order.
    pub fn tell(logs: Vec<Self>, problems: &mut Problems) {
        let (entries, more): (Vec<_>, Vec<_>) = logs.into_iter().map(|log| (log.entries, log.more)).unzip();
        let mut entries: Vec<_> = entries.into_iter().flatten().collect();
        entries.sort_by_key(|(pfn, ..)| *pfn);
        for (_, code, message) in entries {
            problems.push(code, message);
        }
        for (code, times) in more.into_iter().flatten() {
            problems.repeat(code, times);
        }
    }
}

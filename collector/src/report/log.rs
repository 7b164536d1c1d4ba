//! The kernel log: its last lines, what was overwritten, and what nobody had read.

use crate::kernel::printk::{self, Style};
use crate::problem::Problems;
use crate::triage::{Dead, Known, Task};
use serde::Serialize;
use std::collections::VecDeque;
use std::io;

/// The log.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Log {
    /// Records in the kernel's buffer.
    pub records: u64,
    /// Records that had been overwritten by newer ones; none: it did not wrap.
    pub overwritten: u64,
    /// Records at its end that no program had read: they are nowhere else. `None`: nobody read the log, or it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unread: Option<u64>,
    /// Which of `lines` is the first of those records; none where all of them had been read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unread_from: Option<u64>,
    /// The number that the next record would have had.
    #[serde(skip)]
    next: Option<u64>,
    /// Its lines, each record's first with its time; the last ones where there are too many.
    pub lines: Vec<String>,
    /// Lines before those.
    pub left_out: u64,
    /// The time of its last line, microseconds since boot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_us: Option<u64>,
}

/// Bytes of lines that are kept.
const KEPT: usize = 384 << 10;

/// Keeps the last lines.
#[derive(Default)]
struct Tail {
    lines: VecDeque<String>,
    bytes: usize,
    left_out: u64,
    rest: Vec<u8>,
}

impl io::Write for Tail {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        for piece in buf.split_inclusive(|b| *b == b'\n') {
            self.rest.extend_from_slice(piece);
            if let [line @ .., b'\n'] = self.rest.as_slice() {
                let line = String::from_utf8_lossy(line).into_owned();
                self.bytes = self.bytes.saturating_add(line.len());
                self.lines.push_back(line);
                self.rest.clear();
            }
            while self.bytes > KEPT
                && let Some(line) = self.lines.pop_front()
            {
                self.bytes = self.bytes.saturating_sub(line.len());
                self.left_out = self.left_out.saturating_add(1);
            }
        }
        Ok(buf.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Reads it. The line that says why the kernel died comes with it.
    pub fn of(dead: &Dead<'_>) -> (Self, Option<String>) {
        let mut tail = Tail::default();
        // What is damaged is a problem of the log that is saved for itself.
        let mut problems = Problems::new();
        let read = printk::write(dead.memory(), dead.info(), Style::default(), &mut tail, &mut problems);
        let read = match read {
            Ok(read) => read,
            Err(e) => {
                dead.note(format!("the log: {}", crate::engine::chain(&e)));
                printk::Log::default()
            }
        };
        let log = Self {
            records: read.records,
            overwritten: read.first.unwrap_or(0),
            unread: None,
            unread_from: None,
            next: read.next,
            last_us: tail.lines.iter().rev().find_map(|line| time(line)),
            lines: tail.lines.into(),
            left_out: tail.left_out,
        };
        (log, read.panic_message)
    }

    /// Finds out how far programs had read, of those that are `tasks`.
    pub fn find_unread(&mut self, dead: &Dead<'_>, tasks: &[Task]) {
        let reached = dead.known("who read the log", reached(dead, tasks)).flatten();
        self.unread = reached.zip(self.next).map(|(seq, next)| next.saturating_sub(seq));
        self.unread_from = self.unread.filter(|n| *n > 0).and_then(|n| first_of_last(&self.lines, n));
    }
}

/// The index of the line that the last `records` records begin with, or of the first line where there are more of them: a
/// record's first line has its time, its further ones are indented.
fn first_of_last(lines: &[String], records: u64) -> Option<u64> {
    let mut begin = lines.iter().enumerate().rev().filter(|(_, line)| line.starts_with('['));
    let nth = usize::try_from(records.checked_sub(1)?).unwrap_or(usize::MAX);
    let index = begin.nth(nth).map_or(0, |(index, _)| index);
    (!lines.is_empty()).then_some(index as u64)
}

/// Microseconds of `[    1.234567] text`.
fn time(line: &str) -> Option<u64> {
    let (time, _) = line.strip_prefix('[')?.split_once(']')?;
    let (seconds, micros) = time.trim().split_once('.')?;
    seconds.parse::<u64>().ok()?.checked_mul(1_000_000)?.checked_add(micros.parse().ok()?)
}

/// Open files that are looked at, of one program and of all.
const MAX_FILES: u64 = 4096;
const MAX_ALL: u64 = 20_000;

/// The number of the first record that no program has read: through /dev/kmsg, where each open file has its place, or by
/// syslog(2), which has one for all.
fn reached(dead: &Dead<'_>, tasks: &[Task]) -> Known<Option<u64>> {
    let mut best = dead.symbol("syslog_seq").and_then(|at| dead.u64(at)).ok().filter(|seq| *seq > 0);
    let operations = dead.symbol("kmsg_fops")?;
    let mut all = 0_u64;
    for task in tasks.iter().filter(|task| !task.kernel && task.is_leader()) {
        let files = dead.get(task.at, "task_struct", "files")?;
        if files == 0 || all > MAX_ALL {
            continue;
        }
        let table = dead.get(files, "files_struct", "fdt")?;
        let count = dead.get(table, "fdtable", "max_fds")?.min(MAX_FILES);
        let fds = dead.get(table, "fdtable", "fd")?;
        for fd in 0..count {
            let file = dead.u64(fds.wrapping_add(fd * 8))?;
            if file == 0 {
                continue;
            }
            all = all.saturating_add(1);
            if dead.get(file, "file", "f_op")? == operations {
                let reader = dead.get(file, "file", "private_data")?;
                let seq = dead
                    .get(reader, "devkmsg_user", "seq.counter")
                    .or_else(|_| dead.get(reader, "devkmsg_user", "seq"))?;
                best = Some(best.map_or(seq, |before: u64| before.max(seq)));
            }
        }
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn the_last_lines_are_kept() {
        let mut tail = Tail::default();
        let line = "x".repeat(1023);
        for n in 0..1000 {
            writeln!(tail, "{n:4}{line}").unwrap();
        }
        assert!(tail.bytes <= KEPT && tail.lines.len() > 300, "{}", tail.lines.len());
        assert_eq!(usize::try_from(tail.left_out).unwrap() + tail.lines.len(), 1000);
        assert!(tail.lines.back().is_some_and(|l| l.starts_with(" 999")));
    }

    #[test]
    fn the_place_up_to_which_it_was_read() {
        let lines = ["[ 1.0] a", "[ 2.0] b", "       more", "[ 3.0] [x]"].map(str::to_owned);
        for (records, wanted) in [(0, None), (1, Some(3)), (2, Some(1)), (3, Some(0)), (9, Some(0))] {
            assert_eq!(first_of_last(&lines, records), wanted, "{records}");
        }
        assert_eq!(first_of_last(&[], 1), None);
    }

    #[test]
    fn lines_have_times() {
        for (line, wanted) in [
            ("[    1.234567] x", Some(1_234_567)),
            ("[12345.000001] [x] y", Some(12_345_000_001)),
            ("               more", None),
            ("[x] y", None),
            ("", None),
        ] {
            assert_eq!(time(line), wanted, "{line}");
        }
    }
}

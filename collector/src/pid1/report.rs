//! What a child tells PID 1, one JSON object a line, through a pipe. Whatever becomes of the child, what it had
//! told is known.

use crate::manifest::{CrashedKernel, DumpReport, Stage, TriageRecord};
use crate::problem::Problem;
use crate::target::ssh::Way;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read, Write};

/// The longest line; a longer one is dropped by both ends.
const LONGEST: usize = 32 << 10;

/// The longest text that one report carries.
const LONGEST_TEXT: usize = 1 << 10;

/// One thing that a child has to say.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Report {
    /// A stage begins.
    Begin(Stage),
    /// The stage that had begun is over; with the reason when it failed.
    End(Option<String>),
    /// What the child is about to do, for the case that it never comes back from it.
    Doing(String),
    /// The target's device is there; its node.
    Device(String),
    /// The target's file system is mounted; from this device.
    Mounted(String),
    /// The SSH server has answered; how files are written there.
    Connected(Way),
    /// The dump's directory, below the root of the target's file system.
    Directory(String),
    /// Who crashed. Sent again when the panic message is known.
    Kernel(Box<CrashedKernel>),
    /// The kernel log is durable.
    LogSaved,
    /// The n-th dump of the plan is being written.
    Dumping {
        /// Its place among the dumps, from 0.
        index: usize,
        /// Its name, without what says that it is unfinished.
        file: String,
        /// Its level on this target.
        level: u8,
    },
    /// A long step has come further.
    Progress(Step),
    /// What became of a dump.
    Dump(Box<DumpReport>),
    /// What the report on the crash says.
    Triage(Box<TriageRecord>),
    /// A hook has ended by itself, with this status.
    HookEnded(i32),
    /// A soft error.
    Problem(Problem),
    /// Every file has its final name, durably.
    Named,
    /// Why the child gives up. Its last word.
    Failed(String),
}

/// How far a long step has come.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Step {
    /// `scanning`, `writing vmcore`.
    pub what: String,
    /// Of `total`.
    pub done: u64,
    /// In units of the step.
    pub total: u64,
    /// Bytes that have gone to the sink.
    pub bytes: u64,
    /// MemAvailable of the crash kernel, KiB.
    pub available_kib: Option<u64>,
}

impl Step {
    /// Whole percent, 100 when there is nothing to do.
    pub fn percent(&self) -> u64 {
        u64::try_from(u128::from(self.done.min(self.total)) * 100 / u128::from(self.total.max(1)))
            .unwrap_or(100)
    }
}

/// The child's end.
#[derive(Debug)]
pub struct Reporter {
    pipe: File,
}

impl Reporter {
    /// Writes to a pipe.
    pub fn new(pipe: File) -> Self {
        Self { pipe }
    }

    /// Tells. That nobody listens is no reason to stop.
    pub fn tell(&self, report: &Report) {
        let Ok(mut line) = serde_json::to_vec(report) else { return };
        line.push(b'\n');
        if line.len() > LONGEST {
            log::warn!("a report of {} bytes is too long for PID 1", line.len());
        } else if let Err(e) = (&self.pipe).write_all(&line) {
            log::debug!("reporting to PID 1: {e}");
        }
    }

    /// Runs one stage: its begin and end are told.
    pub fn stage<T>(&self, stage: Stage, work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
        self.tell(&Report::Begin(stage));
        let result = work();
        self.tell(&Report::End(result.as_ref().err().map(|why| shortened(why))));
        result
    }

    /// Tells a soft error.
    pub fn problem(&self, problem: &Problem) {
        self.tell(&Report::Problem(Problem { message: shortened(&problem.message), ..problem.clone() }));
    }
}

/// At most so much of a text as a report carries.
pub fn shortened(text: &str) -> String {
    text.char_indices().take_while(|(at, c)| at + c.len_utf8() <= LONGEST_TEXT).map(|(_, c)| c).collect()
}

/// PID 1's end: bytes in, reports out. Bounded, whatever the child writes.
#[derive(Debug)]
pub struct Listener {
    pipe: File,
    rest: Vec<u8>,
    /// Within a line that is too long.
    skipping: bool,
}

impl Listener {
    /// Reads from a pipe, which must not block.
    pub fn new(pipe: File) -> Self {
        Self { pipe, rest: Vec::new(), skipping: false }
    }

    /// The pipe, for poll(2).
    pub fn pipe(&self) -> &File {
        &self.pipe
    }

    /// Takes in what there is and hands on each whole report. Returns false at the end of the pipe.
    pub fn listen(&mut self, hear: &mut dyn FnMut(Report)) -> bool {
        let mut bytes = [0; 4096];
        loop {
            match self.pipe.read(&mut bytes) {
                Ok(0) => return false,
                Ok(n) => self.take(bytes.get(..n).unwrap_or_default(), hear),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return e.kind() == io::ErrorKind::WouldBlock,
            }
        }
    }

    fn take(&mut self, bytes: &[u8], hear: &mut dyn FnMut(Report)) {
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            self.rest.extend_from_slice(piece);
            if self.rest.last() == Some(&b'\n') {
                match serde_json::from_slice(&self.rest) {
                    Ok(report) if !self.skipping => hear(report),
                    Ok(_) => {}
                    Err(e) => log::debug!("a report that is none: {e}"),
                }
                self.rest.clear();
                self.skipping = false;
            } else if self.rest.len() > LONGEST {
                self.rest.clear();
                self.skipping = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(pieces: &[&[u8]]) -> Vec<Report> {
        let mut listener = Listener::new(File::open("/dev/null").unwrap());
        let mut reports = Vec::new();
        for piece in pieces {
            listener.take(piece, &mut |r| reports.push(r));
        }
        reports
    }

    #[test]
    fn lines_come_whole_whatever_the_pieces() {
        let named = b"\"named\"\n".as_slice();
        let long = [b'x'; LONGEST + 5];
        for (name, pieces, expected) in [
            ("whole", vec![named], 1),
            ("two in one", vec![b"\"named\"\n\"log-saved\"\n".as_slice()], 2),
            ("in pieces", vec![b"\"na".as_slice(), b"med\"", b"\n"], 1),
            ("without end", vec![b"\"named\"".as_slice()], 0),
            ("nonsense between", vec![named, b"{\"}\n", b"\xff\xfe\n", named], 2),
            ("too long, and its tail looks right", vec![long.as_slice(), named, named], 1),
        ] {
            assert_eq!(heard(&pieces).len(), expected, "{name}");
        }
    }

    #[test]
    fn percent_is_of_anything() {
        for (done, total, percent) in
            [(0, 0, 0), (1, 3, 33), (3, 3, 100), (9, 3, 100), (u64::MAX, u64::MAX, 100)]
        {
            let step = Step { what: String::new(), done, total, bytes: 0, available_kib: None };
            assert_eq!(step.percent(), percent, "{done} of {total}");
        }
    }
}

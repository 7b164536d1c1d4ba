//! A guest's console as it was seen from outside: every line with the host's time.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// One line of the console.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    /// When it came, since QEMU was started.
    pub at: Duration,
    /// Its text, without control characters.
    pub text: String,
}

/// All lines of one run.
#[derive(Clone, Default, Debug)]
pub struct Console {
    /// In the order they came.
    pub lines: Vec<Line>,
}

/// A console that is still being written.
#[derive(Debug)]
pub struct Live {
    start: Instant,
    lines: Mutex<Vec<Line>>,
    over: AtomicBool,
}

impl Live {
    /// Nothing yet; times count from `start`.
    pub fn new(start: Instant) -> Self {
        Self { start, lines: Mutex::default(), over: AtomicBool::new(false) }
    }

    fn lines(&self) -> MutexGuard<'_, Vec<Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads until the other side closes.
    pub fn record(&self, from: impl Read) {
        let mut reader = BufReader::new(from);
        let mut raw = Vec::new();
        // An error here is the end of the guest like any other; what has come is kept.
        while matches!(reader.read_until(b'\n', &mut raw), Ok(n) if n > 0) {
            let text: String = String::from_utf8_lossy(&raw).chars().filter(|c| !c.is_control()).collect();
            self.lines().push(Line { at: self.start.elapsed(), text });
            raw.clear();
        }
        self.over.store(true, Ordering::Release);
    }

    /// Whether the other side has closed.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Whether a line contains `what`.
    pub fn contains(&self, what: &str) -> bool {
        self.lines().iter().any(|l| l.text.contains(what))
    }

    /// The lines so far.
    pub fn so_far(&self) -> Console {
        Console { lines: self.lines().clone() }
    }
}

impl Console {
    /// The first line that contains `what`.
    pub fn find(&self, what: &str) -> Option<&Line> {
        self.lines.iter().find(|l| l.text.contains(what))
    }

    /// The lines from the first that contains `what` on.
    pub fn after(&self, what: &str) -> &[Line] {
        let at = self.lines.iter().position(|l| l.text.contains(what)).unwrap_or(self.lines.len());
        &self.lines[at..]
    }

    /// What the script printed between `LAB-BEGIN name` and `LAB-END name STATUS`, and that status.
    pub fn section(&self, name: &str) -> Option<(String, i32)> {
        let begin = format!("LAB-BEGIN {name}");
        let end = format!("LAB-END {name} ");
        let first = self.lines.iter().position(|l| l.text.trim_end() == begin)?;
        let mut text = String::new();
        for line in &self.lines[first + 1..] {
            if let Some(at) = line.text.find(&end) {
                text.push_str(&line.text[..at]);
                return Some((text, line.text[at + end.len()..].trim().parse().ok()?));
            }
            text.push_str(&line.text);
            text.push('\n');
        }
        None
    }

    /// Everything, each line with its time, for a log file.
    pub fn text(&self) -> String {
        self.lines.iter().fold(String::new(), |mut all, line| {
            // Writing to a String cannot fail.
            let _ = writeln!(all, "[{:9.3}] {}", line.at.as_secs_f64(), line.text);
            all
        })
    }

    /// The last lines, for a failure's message.
    pub fn tail(&self, count: usize) -> String {
        let from = self.lines.len().saturating_sub(count);
        Self { lines: self.lines[from..].to_vec() }.text()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_have_text_and_status() {
        let said = b"boot\r\nLAB-BEGIN arm\r\none\r\ntwo\r\nLAB-END arm 2\r\nLAB-BEGIN cut\r\nthree\r\n";
        let live = Live::new(Instant::now());
        live.record(&said[..]);
        assert!(live.is_over() && live.contains("three"));
        let console = live.so_far();
        assert_eq!(console.section("arm"), Some(("one\ntwo\n".to_owned(), 2)));
        assert_eq!(console.section("cut"), None);
        assert_eq!(console.find("thr").map(|l| l.text.as_str()), Some("three"));
        assert_eq!(console.after("two").len(), 4);
    }
}

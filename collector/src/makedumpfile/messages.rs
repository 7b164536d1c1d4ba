//! What is said and where: makedumpfile's classes of messages, of which `--message-level` chooses.

use crate::manifest::Stage;
use crate::progress::Progress;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Who hears what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Messages {
    /// Sum of the classes that are said.
    pub level: u8,
    /// Standard output is the dump's: everything goes to standard error.
    pub stdout_is_taken: bool,
}

impl Messages {
    /// The progress indicator.
    pub const PROGRESS: u8 = 1;
    /// What happens.
    pub const COMMON: u8 = 2;
    /// What goes wrong.
    pub const ERROR: u8 = 4;
    /// What is seen in the vmcore.
    pub const DEBUG: u8 = 8;
    /// The account of pages.
    pub const REPORT: u8 = 16;
    /// What is said unless somebody says otherwise.
    pub const DEFAULT: u8 = Self::PROGRESS | Self::COMMON | Self::ERROR;

    /// Whether a class is said.
    pub fn says(self, class: u8) -> bool {
        self.level & class != 0
    }

    /// Says `text` as it is, if its class is said: errors and progress to standard error, the rest to standard output.
    pub fn say(self, class: u8, text: &str) {
        if !self.says(class) {
            return;
        }
        // Nobody is left to tell when this fails: a closed standard output must not cost the dump.
        if self.stdout_is_taken || class == Self::ERROR || class == Self::PROGRESS {
            let _ = io::stderr().write_all(text.as_bytes());
        } else {
            let mut out = io::stdout().lock();
            let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        }
    }

    /// Says a line about what happens.
    pub fn common(self, line: &str) {
        self.say(Self::COMMON, &format!("{line}\n"));
    }

    /// Says a line about what went wrong.
    pub fn error(self, line: &str) {
        self.say(Self::ERROR, &format!("{line}\n"));
    }
}

/// Progress as one line that is written again and again.
pub(super) struct Meter {
    messages: Messages,
    shown: Mutex<Shown>,
}

#[derive(Default)]
struct Shown {
    /// The step, when it began, and when it was last shown.
    step: Option<(&'static str, Instant, Instant)>,
    turns: usize,
}

impl Meter {
    pub fn new(messages: Messages) -> Self {
        Self { messages, shown: Mutex::default() }
    }

    /// Ends the line, if one was begun.
    pub fn end(&self) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.turns > 0 {
            self.messages.say(Messages::PROGRESS, "\n");
        }
        *shown = Shown::default();
    }
}

impl Progress for Meter {
    fn update(&self, _: Stage, what: &str, done: u64, total: u64, _: u64) {
        if !self.messages.says(Messages::PROGRESS) {
            return;
        }
        let name = if what.starts_with("scanning") { "Excluding unnecessary pages" } else { "Copying data" };
        let now = Instant::now();
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let began = match shown.step {
            Some((step, began, last)) if step == name => {
                if done < total && now.duration_since(last) < Duration::from_secs(1) {
                    return;
                }
                began
            }
            _ => now,
        };
        shown.step = Some((name, began, now));
        let line = line(name, done, total, now.duration_since(began), shown.turns);
        shown.turns = shown.turns.wrapping_add(1);
        self.messages.say(Messages::PROGRESS, &line);
    }
}

/// The line of progress, from its carriage return on.
fn line(name: &str, done: u64, total: u64, since: Duration, turns: usize) -> String {
    let per_mille = done.saturating_mul(1000).checked_div(total).unwrap_or(1000).min(1000);
    let spinner = ['/', '|', '\\', '-'].get(turns % 4).copied().unwrap_or('/');
    // Before anything is done there is nothing to tell the rest from.
    let eta = u128::from(total.saturating_sub(done))
        .saturating_mul(since.as_millis())
        .checked_div(u128::from(done))
        .map_or_else(String::new, |ms| format!("eta: {}", seconds(u64::try_from(ms / 1000).unwrap_or(0))));
    format!("\r{name:<50}: [{:>3}.{} %] {spinner}  {eta:>16}", per_mille / 10, per_mille % 10)
}

/// `59s`, `2m5s`, `1h0m`, as wide as there is room for.
fn seconds(all: u64) -> String {
    let (minutes, s) = (all / 60, all % 60);
    let (hours, m) = (minutes / 60, minutes % 60);
    match (hours, minutes) {
        (0, 0) => format!("{s}s"),
        (0, _) => format!("{m}m{s}s"),
        _ => format!("{}h{m}m", hours.min(99_999)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_one_line_of_one_width() {
        let at = |done, total, ms| line("Copying data", done, total, Duration::from_millis(ms), 2);
        assert_eq!(
            at(377, 1000, 100),
            "\rCopying data                                      : [ 37.7 %] \\           eta: 0s"
        );
        assert!(at(0, 1000, 100).ends_with("[  0.0 %] \\                  "));
        assert!(at(1, 3, 100_000).ends_with("[ 33.3 %] \\        eta: 3m20s"));
        assert!(at(0, 0, 0).contains("[100.0 %]"));
        assert!(at(u64::MAX, 1, u64::MAX).contains("[100.0 %]"));
        let widths = [at(0, 9, 9), at(1, 9, 90_000_000), at(9, 9, 9)].map(|l| l.len());
        assert_eq!(widths, [widths[0]; 3]);
    }
}

//! Progress for people: `dump: 45% 120.0 MiB, 48.1 MiB/s, 3 s left`.

use super::report::Step;
use std::time::{Duration, Instant};

/// A line at least so often while there is progress.
const EVERY: Duration = Duration::from_secs(2);
/// A line whenever so many percent more are done.
const STEP: u64 = 5;

/// Decides what of the progress is shown.
#[derive(Debug)]
pub struct Meter {
    what: String,
    started: Instant,
    shown: Option<(Instant, u64)>,
}

impl Default for Meter {
    fn default() -> Self {
        Self { what: String::new(), started: Instant::now(), shown: None }
    }
}

impl Meter {
    /// The line to show, if this is the time for one.
    pub fn line(&mut self, step: &Step, now: Instant) -> Option<String> {
        if step.what != self.what {
            *self = Self { what: step.what.clone(), started: now, shown: None };
        }
        let percent = step.percent();
        let due = match self.shown {
            // The scan is too short for most of its steps to matter; it is shown when it is not.
            None => step.bytes > 0 && percent >= STEP || now.duration_since(self.started) >= EVERY,
            Some((_, 100..)) => false,
            Some((at, shown)) => {
                now.duration_since(at) >= EVERY || step.bytes > 0 && percent / STEP > shown / STEP
            }
        };
        due.then(|| {
            self.shown = Some((now, percent));
            self.text(step, percent, now.duration_since(self.started))
        })
    }

    fn text(&self, step: &Step, percent: u64, took: Duration) -> String {
        let left = remaining(step, took).map_or_else(String::new, |left| format!(", {left} s left"));
        if step.bytes == 0 {
            return format!("dump: {} {percent}%{left}", step.what);
        }
        let file = match step.what.strip_prefix("writing ") {
            None | Some("vmcore") => String::new(),
            Some(other) => format!("{other} "),
        };
        let rate = u128::from(step.bytes) * 1000 / took.as_millis().max(1);
        let rate = mib(u64::try_from(rate).unwrap_or(u64::MAX));
        format!("dump: {file}{percent}% {} MiB, {rate} MiB/s{left}", mib(step.bytes))
    }
}

/// Seconds until the step is over if it goes on as before.
fn remaining(step: &Step, took: Duration) -> Option<u128> {
    let (done, left) = (u128::from(step.done), u128::from(step.total.saturating_sub(step.done)));
    Some(took.as_millis().checked_mul(left)?.checked_div(done)?.div_ceil(1000))
}

/// Bytes as MiB with one decimal.
pub fn mib(bytes: u64) -> String {
    let tenths = u128::from(bytes) * 10 / (1 << 20);
    format!("{}.{}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(what: &str, done: u64, bytes: u64) -> Step {
        Step { what: what.to_owned(), done, total: 1000, bytes, available_kib: None }
    }

    #[test]
    fn a_line_at_five_percent_steps_or_two_seconds() {
        let mut meter = Meter::default();
        let start = Instant::now();
        let mut at = |ms: u64, done, bytes| {
            meter.line(&step("writing vmcore", done, bytes), start + Duration::from_millis(ms))
        };
        assert_eq!(at(0, 0, 4096), None);
        assert_eq!(at(500, 50, 24 << 20).as_deref(), Some("dump: 5% 24.0 MiB, 48.0 MiB/s, 10 s left"));
        assert_eq!(at(600, 60, 25 << 20), None);
        assert_eq!(at(1000, 450, 50 << 20).as_deref(), Some("dump: 45% 50.0 MiB, 50.0 MiB/s, 2 s left"));
        assert_eq!(at(2900, 451, 51 << 20), None);
        assert_eq!(at(3000, 452, 51 << 20).as_deref(), Some("dump: 45% 51.0 MiB, 17.0 MiB/s, 4 s left"));
        assert_eq!(at(3100, 1000, 62 << 20).as_deref(), Some("dump: 100% 62.0 MiB, 20.0 MiB/s, 0 s left"));
        assert_eq!(at(9000, 1000, 62 << 20), None, "nothing comes after 100 %");
    }

    #[test]
    fn a_scan_is_shown_only_when_it_takes_long() {
        let mut meter = Meter::default();
        let start = Instant::now();
        assert_eq!(meter.line(&step("scanning", 0, 0), start), None);
        assert_eq!(meter.line(&step("scanning", 900, 0), start + Duration::from_millis(100)), None);
        let line = meter.line(&step("scanning", 950, 0), start + Duration::from_millis(2500));
        assert_eq!(line.as_deref(), Some("dump: scanning 95%, 1 s left"));
        let other = meter.line(&step("writing vmcore.raw", 500, 1 << 20), start + Duration::from_secs(3));
        assert_eq!(other.as_deref(), Some("dump: vmcore.raw 50% 1.0 MiB, 1000.0 MiB/s, 0 s left"));
    }

    #[test]
    fn numbers_from_nowhere_do_not_overflow() {
        let mut meter = Meter::default();
        let start = Instant::now();
        let wild =
            Step { what: "x".to_owned(), done: u64::MAX, total: 1, bytes: u64::MAX, available_kib: None };
        assert!(meter.line(&wild, start).is_some());
    }
}

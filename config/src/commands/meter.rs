//! How far a long command is.

use std::io::{self, IsTerminal};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How far it is, on a terminal, from the second second on.
pub(super) struct Meter {
    terminal: bool,
    last: Mutex<(Instant, bool)>,
}

impl Default for Meter {
    fn default() -> Self {
        Self { terminal: io::stderr().is_terminal(), last: Mutex::new((Instant::now(), false)) }
    }
}

impl Meter {
    pub(super) fn update(&self, done: u64, total: u64) {
        let Ok(mut last) = self.last.lock() else { return };
        if self.terminal && last.0.elapsed() >= Duration::from_secs(1) {
            *last = (Instant::now(), true);
            let percent = done.saturating_mul(100).checked_div(total).unwrap_or(100);
            eprint!("\r{percent:3} % of {total} pages");
        }
    }
    pub(super) fn clear(&self) {
        if self.last.lock().is_ok_and(|last| last.1) {
            eprint!("\r{:40}\r", "");
        }
    }
}

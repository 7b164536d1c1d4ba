//! What triage may spend: hostile memory can make any walk as long as it likes.

use super::Unknown;
use std::cell::Cell;
use std::time::{Duration, Instant};

/// A deadline, and a number of steps that no sane kernel needs.
#[derive(Debug)]
pub struct Budget {
    until: Cell<Option<Instant>>,
    steps: Cell<u64>,
    over: Cell<bool>,
}

/// Steps between two looks at the clock.
const LOOK: u64 = 256;

/// Steps altogether: reads of memory, mostly. A kernel with a million tasks takes a tenth.
const MAX_STEPS: u64 = 1 << 30;

impl Budget {
    /// From now on; `None` for a time that never ends.
    pub fn new(limit: Option<Duration>) -> Self {
        let until = limit.and_then(|limit| Instant::now().checked_add(limit));
        Self { until: Cell::new(until), steps: Cell::new(0), over: Cell::new(false) }
    }

    /// Another deadline, from now on.
    pub fn set(&self, limit: Option<Duration>) {
        self.until.set(limit.and_then(|limit| Instant::now().checked_add(limit)));
        self.over.set(false);
    }

    /// Takes one step. Every loop over what hostile memory says asks this, or reads memory, which does.
    pub fn step(&self) -> Result<(), Unknown> {
        let steps = self.steps.get().saturating_add(1);
        self.steps.set(steps);
        if steps > MAX_STEPS || (steps.is_multiple_of(LOOK) && self.past()) {
            self.over.set(true);
        }
        if self.over.get() { Err(Unknown::Deadline) } else { Ok(()) }
    }

    /// Whether it is spent.
    pub fn is_over(&self) -> bool {
        self.over.get() || self.past()
    }

    /// What is left of the time; `None` where there is no end.
    pub fn left(&self) -> Option<Duration> {
        self.until.get().map(|until| until.saturating_duration_since(Instant::now()))
    }

    fn past(&self) -> bool {
        self.until.get().is_some_and(|until| Instant::now() >= until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_and_can_be_given_again() {
        let budget = Budget::new(Some(Duration::ZERO));
        assert!(budget.is_over());
        assert_eq!((0..=LOOK).find_map(|_| budget.step().err()), Some(Unknown::Deadline));
        budget.set(Some(Duration::from_secs(60)));
        assert!((0..=LOOK * 4).all(|_| budget.step().is_ok()) && !budget.is_over());
        assert!(Budget::new(None).left().is_none());
    }
}

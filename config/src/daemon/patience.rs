//! How long a plan may take.

use std::time::{Duration, Instant};

/// After which times something is done about a plan that has not ended. It takes seconds, with a slow resolver a minute; a disk that
/// is going, or a server that is gone, may hold it for as long as they like.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// It is told.
    pub slow: Duration,
    /// The daemon ends, to be started anew: whatever changes meanwhile is not followed.
    pub hung: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { slow: Duration::from_secs(120), hung: Duration::from_secs(1800) }
    }
}

/// How a plan is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// As they do.
    Fine,
    /// It takes long.
    Slow,
    /// It will not end.
    Hung,
}

impl Patience {
    /// Of a plan that was begun at `since`.
    pub fn with(self, since: Instant, now: Instant) -> Wait {
        match now.saturating_duration_since(since) {
            took if took >= self.hung => Wait::Hung,
            took if took >= self.slow => Wait::Slow,
            _ => Wait::Fine,
        }
    }

    /// When to look again.
    pub fn next(self, since: Instant, now: Instant) -> Instant {
        let slow = since + self.slow;
        if slow > now { slow } else { since + self.hung }
    }

    /// That it takes long, for operators.
    pub fn slow_said(self, because: &str) -> String {
        format!(
            "the plan ({because}) has not ended after {} s: a disk, a server or a resolver does not answer it",
            self.slow.as_secs()
        )
    }

    /// That nobody waits any more.
    pub fn given_up(self) -> String {
        format!("a plan has not ended after {} s: ending, to be started anew", self.hung.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends() {
        let patience = Patience { slow: Duration::from_secs(5), hung: Duration::from_secs(20) };
        let since = Instant::now();
        let at = |seconds| since + Duration::from_secs(seconds);
        for (now, wait, next) in
            [(0, Wait::Fine, 5), (4, Wait::Fine, 5), (5, Wait::Slow, 20), (20, Wait::Hung, 20)]
        {
            assert_eq!(patience.with(since, at(now)), wait, "{now}");
            assert_eq!(patience.next(since, at(now)), at(next), "{now}");
        }
    }
}

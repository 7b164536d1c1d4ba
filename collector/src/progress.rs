//! How far a long step has come.

use crate::manifest::Stage;

/// Receives progress. Called often (every few thousand pages): implementations decide what to show.
pub trait Progress {
    /// `done` of `total` units; `bytes` is what has gone to the sink so far. `what` names the step: `scanning`, `writing vmcore`.
    fn update(&self, stage: Stage, what: &str, done: u64, total: u64, bytes: u64);
}

/// Says nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn update(&self, _: Stage, _: &str, _: u64, _: u64, _: u64) {}
}

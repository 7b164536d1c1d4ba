//! The kept pages, handed out in batches to whoever has time.

use crate::addr::Pfn;
use std::sync::{Mutex, PoisonError};

/// Pages of a batch: 2 MiB of 4 KiB pages, enough that handing out costs nothing, few enough that threads end together.
const PAGES: u64 = 512;

/// Kept pages that follow each other in the table of descriptors.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Index of the first page's descriptor.
    pub first: u64,
    /// Runs of pages, half-open, ascending.
    pub runs: Vec<(Pfn, Pfn)>,
}

/// Hands out the batches of a dump in order.
pub(super) struct Batches<'a> {
    state: Mutex<State<'a>>,
}

struct State<'a> {
    runs: Box<dyn Iterator<Item = (Pfn, Pfn)> + Send + 'a>,
    /// What is left of a run that did not fit.
    rest: Option<(Pfn, Pfn)>,
    /// Descriptors handed out.
    next: u64,
}

impl<'a> Batches<'a> {
    /// Batches of these runs, which ascend.
    pub fn new(runs: impl Iterator<Item = (Pfn, Pfn)> + Send + 'a) -> Self {
        Self { state: Mutex::new(State { runs: Box::new(runs), rest: None, next: 0 }) }
    }

    /// Fills `batch` with the next pages; false when there are none left.
    pub fn next(&self, batch: &mut Batch) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        batch.runs.clear();
        batch.first = state.next;
        let mut room = PAGES;
        while room > 0 {
            let Some((start, end)) = state.rest.take().or_else(|| state.runs.next()) else { break };
            let stop = Pfn::new(end.get().min(start.get().saturating_add(room)));
            let pages = stop.get().saturating_sub(start.get());
            batch.runs.push((start, stop));
            if stop < end {
                state.rest = Some((stop, end));
            }
            room = room.saturating_sub(pages);
            state.next = state.next.saturating_add(pages);
        }
        !batch.runs.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_page_once_and_in_order(lens in prop::collection::vec((1_u64..1500, 1_u64..9), 0..20)) {
            let mut at = 0;
            let runs: Vec<(Pfn, Pfn)> = lens.iter().map(|(len, gap)| {
                let start = at + gap;
                at = start + len;
                (Pfn::new(start), Pfn::new(at))
            }).collect();
            let batches = Batches::new(runs.iter().copied());
            let mut batch = Batch::default();
            let mut seen = Vec::new();
            while batches.next(&mut batch) {
                prop_assert_eq!(batch.first, seen.len() as u64);
                let pages: Vec<u64> = batch.runs.iter().flat_map(|(a, b)| a.get()..b.get()).collect();
                prop_assert!(!pages.is_empty() && pages.len() as u64 <= PAGES);
                seen.extend(pages);
            }
            prop_assert_eq!(seen, runs.iter().flat_map(|(a, b)| a.get()..b.get()).collect::<Vec<_>>());
        }
    }
}

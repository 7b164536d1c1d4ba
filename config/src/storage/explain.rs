//! The stack, drawn: what is mounted first, and below each part what it is made of.

use collector::plan::storage::{Part, Stack, To};
use std::fmt;

/// Draws a stack, a line a part, each behind `head`.
#[derive(Clone, Copy, Debug)]
pub struct Drawn<'s> {
    /// What to draw.
    pub stack: &'s Stack,
    /// What each line begins with.
    pub head: &'s str,
}

impl fmt::Display for Drawn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.stack.0.len().checked_sub(1) {
            Some(top) => self.part(f, top, 0),
            None => Ok(()),
        }
    }
}

impl Drawn<'_> {
    fn part(&self, f: &mut fmt::Formatter<'_>, at: usize, depth: usize) -> fmt::Result {
        let Some(part) = self.stack.0.get(at) else { return Ok(()) };
        writeln!(f, "{}{:width$}{part}{}", self.head, "", sizes(part), width = depth * 2)?;
        for below in part.below().into_iter().filter(|below| *below < at) {
            self.part(f, below, depth + 1)?;
        }
        Ok(())
    }
}

/// What a table leads to, in MiB.
fn sizes(part: &Part) -> String {
    let Part::Mapped(mapped) = part else { return String::new() };
    let mib = |sectors: u64| sectors >> 11;
    let each = mapped.table.iter().map(|segment| match &segment.to {
        To::Striped { stripes, .. } => format!("{} MiB in {} stripes", mib(segment.sectors), stripes.len()),
        _ => format!("{} MiB", mib(segment.sectors)),
    });
    format!(", {}", each.collect::<Vec<_>>().join(" + "))
}

//! Lists. Every walk ends: at its head, with an error, or with the budget.

use super::{Dead, Known, Unknown};

/// Elements of one list at most; no kernel has more tasks.
const MAX_ELEMENTS: u64 = 4 << 20;

/// Watches for a list that runs in a circle without coming back to its head (Brent's algorithm): the position is compared
/// with one that is remembered for longer and longer.
#[derive(Default, Debug)]
pub(super) struct Circle {
    remembered: u64,
    steps: u64,
    limit: u64,
    all: u64,
}

impl Circle {
    /// An error when `at` was visited before.
    pub fn visit(&mut self, at: u64) -> Known<()> {
        if self.steps > 0 && at == self.remembered {
            return Err(Unknown::Senseless(format!("the list runs in a circle at {at:#x}")));
        }
        if self.steps >= self.limit {
            self.limit = self.limit.saturating_mul(2).max(1);
            self.remembered = at;
            self.steps = 0;
        }
        self.steps = self.steps.saturating_add(1);
        self.all = self.all.saturating_add(1);
        if self.all > MAX_ELEMENTS {
            return Err(Unknown::senseless("the list does not end"));
        }
        Ok(())
    }
}

impl Dead<'_> {
    /// Calls `visit` with each structure of the `list_head` at `head`, which are linked through their member `path`. The
    /// first error of `visit` ends it. What was visited before the list turned out to be broken stays visited.
    pub fn list(
        &self,
        head: u64,
        ty: &'static str,
        path: &'static str,
        mut visit: impl FnMut(u64) -> Known<()>,
    ) -> Known<()> {
        let offset = self.member(ty, path)?.offset;
        self.nodes(head, |node| visit(node.wrapping_sub(offset)))
    }

    /// As [`Dead::list`], with the `list_head`s themselves.
    pub fn nodes(&self, head: u64, mut visit: impl FnMut(u64) -> Known<()>) -> Known<()> {
        let mut circle = Circle::default();
        let mut node = self.u64(head)?;
        while node != head {
            if node == 0 {
                return Err(Unknown::senseless(format!("the list at {head:#x} ends in a null pointer")));
            }
            circle.visit(node)?;
            let next = self.u64(node)?;
            visit(node)?;
            node = next;
        }
        Ok(())
    }

    /// Calls `visit` with each structure of a list that ends in a null pointer: its first one, and the offset of the
    /// pointer to the next.
    pub fn chain(&self, first: u64, next: u64, mut visit: impl FnMut(u64) -> Known<()>) -> Known<()> {
        let mut circle = Circle::default();
        let mut at = first;
        while at != 0 {
            circle.visit(at)?;
            let follows = self.u64(at.wrapping_add(next))?;
            visit(at)?;
            at = follows;
        }
        Ok(())
    }
}

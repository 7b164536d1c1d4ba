//! The stacks that a CPU switches between.

use super::super::{Dead, Known};
use super::StackKind;
use std::ops::Range;

/// Bytes of an interrupt stack (IRQ_STACK_SIZE); twice that with KASAN, which only makes some frames unnamed.
const IRQ_STACK: u64 = 16 << 10;

/// Where stacks are: of one task, and of all CPUs.
#[derive(Debug)]
pub(super) struct Stacks {
    all: Vec<(Range<u64>, StackKind)>,
}

/// Members of `struct cea_exception_stacks`, which are mapped between guard pages.
const EXCEPTIONS: [(&str, StackKind); 6] = [
    ("DF_stack", StackKind::Df),
    ("NMI_stack", StackKind::Nmi),
    ("DB_stack", StackKind::Db),
    ("MCE_stack", StackKind::Mce),
    ("VC_stack", StackKind::Vc),
    ("VC2_stack", StackKind::Vc),
];

impl Stacks {
    pub fn new(dead: &Dead<'_>, task: u64) -> Self {
        let mut all = Vec::new();
        if let Ok((base, len)) = dead.stack_of(task) {
            all.push((base..base.saturating_add(len), StackKind::Task));
        }
        for cpu in dead.possible_cpus().unwrap_or_default() {
            if let Ok(top) = irq_stack(dead, *cpu) {
                // The pointer is to the highest word.
                let end = top.saturating_add(8).next_multiple_of(4096);
                all.push((end.saturating_sub(IRQ_STACK)..end, StackKind::Irq));
            }
            let stacks = dead.percpu_symbol(*cpu, "cea_exception_stacks").and_then(|at| dead.u64(at));
            if let Ok(stacks) = stacks
                && stacks != 0
            {
                for (name, kind) in EXCEPTIONS {
                    if let Ok(member) = dead.member("cea_exception_stacks", name) {
                        let start = stacks.wrapping_add(member.offset);
                        all.push((start..start.saturating_add(member.size), kind));
                    }
                }
            }
        }
        Self { all }
    }

    /// Which stack an address is on.
    pub fn kind(&self, at: u64) -> StackKind {
        // A stack that is empty is left at its end.
        let holds = |range: &Range<u64>| range.start <= at && at <= range.end;
        self.all.iter().find(|(range, _)| holds(range)).map_or(StackKind::Other, |(_, kind)| *kind)
    }

    /// Where the stack that an address is on ends.
    pub fn end(&self, at: u64) -> Option<u64> {
        self.all.iter().find(|(range, _)| range.contains(&at)).map(|(range, _)| range.end)
    }
}

/// The top of a CPU's interrupt stack: a per-CPU variable, in `pcpu_hot` from v6.2 to v6.14.
fn irq_stack(dead: &Dead<'_>, cpu: u32) -> Known<u64> {
    if let Ok(at) = dead.symbol("hardirq_stack_ptr") {
        return dead.u64(dead.percpu(cpu, at)?);
    }
    dead.get(dead.percpu_symbol(cpu, "pcpu_hot")?, "pcpu_hot", "hardirq_stack_ptr")
}

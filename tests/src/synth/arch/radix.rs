//! A radix tree of tables, whatever its entries look like.

use crate::synth::memory::{Frames, Memory, Order};

/// One level: lowest bit of the address that it looks at, and how many.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub shift: u32,
    pub bits: u32,
}

/// How entries are written.
pub trait Format {
    fn order(&self) -> Order;
    /// An entry in the table at `depth` that names the next.
    fn table(&self, depth: usize, phys: u64) -> u64;
    /// The next table's address, from an entry that `table` made; `None` when nothing is there.
    fn next(&self, depth: usize, entry: u64) -> Option<u64>;
    /// What stands in a table at `depth` where nothing is.
    fn empty(&self, _depth: usize) -> u64 {
        0
    }
}

/// Makes a table.
pub fn new_table(memory: &mut Memory, frames: &mut Frames, step: Step, empty: u64, order: Order) -> u64 {
    let bytes = 8_u64 << step.bits;
    let pages = bytes.div_ceil(memory.page_size());
    let phys = frames.take(pages, pages) * memory.page_size();
    for slot in 0..1 << step.bits {
        memory.set(phys + slot * 8, empty, order);
    }
    phys
}

/// The address of the entry that maps `virt` by a leaf of `1 << shift` bytes; makes tables on the way there.
pub fn slot(
    format: &dyn Format,
    root: u64,
    steps: &[Step],
    memory: &mut Memory,
    frames: &mut Frames,
    virt: u64,
    shift: u32,
) -> u64 {
    let mut table = root;
    for (depth, step) in steps.iter().enumerate() {
        let entry = table + (virt >> step.shift & ((1 << step.bits) - 1)) * 8;
        if step.shift == shift {
            return entry;
        }
        table = match format.next(depth, memory.get(entry, format.order())) {
            Some(table) => table,
            None => {
                let below = depth + 1;
                let table = new_table(memory, frames, steps[below], format.empty(below), format.order());
                memory.set(entry, format.table(depth, table), format.order());
                table
            }
        };
    }
    panic!("no level has leaves of 2^{shift} bytes");
}

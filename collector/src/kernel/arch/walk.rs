//! The walk through page tables, with what it saw last kept: consecutive addresses cost no further read.

use super::{Arch, Entry};
use crate::addr::{PhysAddr, VirtAddr};
use crate::vmcore::{Endian, ReadError, Vmcore};
use std::sync::{Mutex, PoisonError};

/// A stretch of virtual memory that one page-table entry maps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Leaf {
    /// First virtual address.
    virt: u64,
    /// Bytes, a power of two.
    len: u64,
    /// Physical address of the first byte.
    phys: u64,
}

impl Leaf {
    /// Where `at` is, and how many bytes of the leaf follow (at least 1).
    pub fn resolve(&self, at: VirtAddr) -> Option<(PhysAddr, u64)> {
        let skip = at.get().checked_sub(self.virt).filter(|skip| *skip < self.len)?;
        Some((PhysAddr::new(self.phys.wrapping_add(skip)), self.len.saturating_sub(skip)))
    }
}

/// A table that was read.
struct Table {
    at: u64,
    bytes: Vec<u8>,
}

/// What the last walk saw.
#[derive(Default)]
struct Seen {
    leaf: Option<Leaf>,
    /// By level, from the top.
    tables: Vec<Table>,
}

/// Walks page tables.
pub(crate) struct Walker {
    arch: Box<dyn Arch>,
    seen: Mutex<Seen>,
}

impl Walker {
    pub fn new(arch: Box<dyn Arch>) -> Self {
        Self { arch, seen: Mutex::default() }
    }

    pub fn arch(&self) -> &dyn Arch {
        self.arch.as_ref()
    }

    /// The leaf that maps `at`.
    pub fn leaf(&self, vmcore: &Vmcore<'_>, at: VirtAddr) -> Result<Leaf, ReadError> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(leaf) = seen.leaf
            && leaf.resolve(at).is_some()
        {
            return Ok(leaf);
        }
        let leaf = self.walk(vmcore, at, &mut seen.tables)?;
        seen.leaf = Some(leaf);
        Ok(leaf)
    }

    fn walk(&self, vmcore: &Vmcore<'_>, at: VirtAddr, tables: &mut Vec<Table>) -> Result<Leaf, ReadError> {
        let geometry = self.arch.tables();
        let fault = |why: String| ReadError::NotMapped { at, why };
        let top = geometry.levels.first().map_or(0, |l| l.shift.saturating_add(l.bits));
        let unused = at.get().cast_signed() >> top.saturating_sub(1).min(63);
        if unused != 0 && unused != -1 {
            return Err(fault(format!("bits 63:{top} are no copy of bit {}", top.saturating_sub(1))));
        }
        let mut table_at = geometry.root;
        for (depth, level) in geometry.levels.iter().enumerate() {
            let table = table(vmcore, tables, depth, table_at, 8_usize << level.bits).map_err(|e| {
                fault(format!("the {} table at {table_at:#x} is not to be read: {e}", level.name))
            })?;
            let index = at.get() >> level.shift & ((1_u64 << level.bits) - 1);
            let entry = usize::try_from(index)
                .ok()
                .and_then(|i| entry(vmcore.endian(), &table.bytes, i))
                .unwrap_or(0);
            match self.arch.decode(depth, entry) {
                Entry::Empty => {
                    return Err(fault(format!(
                        "{} entry {index} of the table at {table_at:#x} is {entry:#x}",
                        level.name
                    )));
                }
                Entry::Table(next) => table_at = next,
                Entry::Leaf(phys) => {
                    let len = 1_u64 << level.shift;
                    return Ok(Leaf { virt: at.get() & !(len - 1), len, phys });
                }
            }
        }
        Err(fault("the lowest table names another".to_owned()))
    }
}

/// The table of `len` bytes at `at`, from memory when it was the last one at this depth.
fn table<'t>(
    vmcore: &Vmcore<'_>,
    tables: &'t mut Vec<Table>,
    depth: usize,
    at: u64,
    len: usize,
) -> Result<&'t Table, ReadError> {
    while tables.len() <= depth {
        tables.push(Table { at: u64::MAX, bytes: Vec::new() });
    }
    let missing = || ReadError::NotBacked(PhysAddr::new(at));
    let slot = tables.get_mut(depth).ok_or_else(missing)?;
    if slot.at != at || slot.bytes.len() != len {
        slot.at = u64::MAX;
        slot.bytes.resize(len, 0);
        vmcore.read_phys(PhysAddr::new(at), &mut slot.bytes)?;
        slot.at = at;
    }
    Ok(slot)
}

fn entry(endian: Endian, table: &[u8], index: usize) -> Option<u64> {
    endian.u64(table, index.checked_mul(8)?)
}

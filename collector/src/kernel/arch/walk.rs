//! The walk through page tables, with what it saw last kept: consecutive addresses cost no further read.

use super::{Arch, Entry, Level, Place};
use crate::addr::{PhysAddr, VirtAddr};
use crate::vmcore::{ReadError, Vmcore};
use std::sync::{Mutex, PoisonError};

/// A stretch of virtual memory that is contiguous in physical memory: what one page-table entry maps, or a direct map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Leaf {
    /// First virtual address.
    pub virt: u64,
    /// Bytes.
    pub len: u64,
    /// Physical address of the first byte.
    pub phys: u64,
}

impl Leaf {
    /// Where `at` is, and how many bytes of the leaf follow (at least 1).
    pub fn resolve(&self, at: u64) -> Option<(PhysAddr, u64)> {
        let skip = at.checked_sub(self.virt).filter(|skip| *skip < self.len)?;
        Some((PhysAddr::new(self.phys.wrapping_add(skip)), self.len.saturating_sub(skip)))
    }
}

/// A table that was read.
struct Table {
    at: u64,
    bytes: Vec<u8>,
}

/// What the last walk saw. Whoever walks much has one of their own.
#[derive(Default)]
pub(crate) struct Seen {
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

    /// Where `at` is, and how many bytes follow it there (at least 1).
    pub fn resolve(&self, vmcore: &Vmcore<'_>, at: VirtAddr) -> Result<(PhysAddr, u64), ReadError> {
        self.resolve_in(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner), vmcore, at)
    }

    /// As [`Walker::resolve`], remembering in `seen`.
    pub fn resolve_in(
        &self,
        seen: &mut Seen,
        vmcore: &Vmcore<'_>,
        at: VirtAddr,
    ) -> Result<(PhysAddr, u64), ReadError> {
        let fault = |why: String| ReadError::NotMapped { at, why };
        let untagged = match self.arch.place(at.get()) {
            Place::Tables(untagged) => untagged,
            Place::Direct(leaf) => {
                return leaf.resolve(at.get()).ok_or_else(|| fault("the direct map ends before".to_owned()));
            }
            Place::Nowhere(why) => return Err(fault(why)),
        };
        if let Some(found) = seen.leaf.and_then(|leaf| leaf.resolve(untagged)) {
            return Ok(found);
        }
        let leaf = walk(self.arch(), vmcore, VirtAddr::new(untagged), &mut seen.tables)
            .map_err(|missing| missing.error)?;
        seen.leaf = Some(leaf);
        leaf.resolve(untagged).ok_or_else(|| fault("the leaf does not hold it".to_owned()))
    }

    /// Where `at` is, and the entries that say so, from the top.
    pub fn trace(&self, vmcore: &Vmcore<'_>, at: VirtAddr) -> (Vec<Step>, Result<PhysAddr, ReadError>) {
        let mut tables = Vec::new();
        if let Place::Tables(untagged) = self.arch.place(at.get()) {
            // What the walk says of a failure, `resolve` says too.
            drop(walk(self.arch(), vmcore, VirtAddr::new(untagged), &mut tables));
        }
        let geometry = self.arch.tables();
        let step = |(level, table): (&Level, &Table)| {
            let offset = (at.get() >> level.shift & ((1_u64 << level.bits) - 1)).checked_mul(8)?;
            let entry = geometry.endian.u64(&table.bytes, usize::try_from(offset).ok()?)?;
            Some(Step { level: level.name, at: table.at.checked_add(offset)?, entry })
        };
        let steps = geometry.levels.iter().zip(&tables).map_while(step).collect();
        (steps, self.resolve(vmcore, at).map(|(phys, _)| phys))
    }

    /// How many bytes from `at` on have no translation for the reason that `at` has none; 0 when it has one.
    pub fn gap(&self, seen: &mut Seen, vmcore: &Vmcore<'_>, at: VirtAddr) -> u64 {
        let untagged = match self.arch.place(at.get()) {
            Place::Tables(untagged) => untagged,
            Place::Direct(_) => return 0,
            Place::Nowhere(_) => return u64::MAX,
        };
        match walk(self.arch(), vmcore, VirtAddr::new(untagged), &mut seen.tables) {
            Ok(_) => 0,
            Err(missing) => {
                let len = 1_u64.checked_shl(missing.shift).unwrap_or(u64::MAX);
                len.saturating_sub(untagged.checked_rem(len).unwrap_or(0))
            }
        }
    }
}

/// What the page tables say of one address, for probing an architecture before there is a [`Walker`].
pub(super) fn probe(arch: &dyn Arch, vmcore: &Vmcore<'_>, at: VirtAddr) -> Option<PhysAddr> {
    let leaf = walk(arch, vmcore, at, &mut Vec::new()).ok()?;
    leaf.resolve(at.get()).map(|(phys, _)| phys)
}

/// An entry of a page table that a walk came by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// The level's name: `PGD`, `PTE`.
    pub level: &'static str,
    /// The entry's physical address.
    pub at: u64,
    /// The entry.
    pub entry: u64,
}

/// Why a walk ended early.
struct Missing {
    error: ReadError,
    /// log2 of the bytes that the entry is for which is missing.
    shift: u32,
}

/// Walks from the top down; `tables` has the last table of each level.
fn walk(
    arch: &dyn Arch,
    vmcore: &Vmcore<'_>,
    at: VirtAddr,
    tables: &mut Vec<Table>,
) -> Result<Leaf, Missing> {
    let geometry = arch.tables();
    let fault = |shift: u32, why: String| Missing { error: ReadError::NotMapped { at, why }, shift };
    let mut table_at = geometry.root;
    let mut covers = geometry.top();
    for (depth, level) in geometry.levels.iter().enumerate() {
        let table = table(vmcore, tables, depth, table_at, 8_usize << level.bits).map_err(|e| {
            fault(covers, format!("the {} table at {table_at:#x} is not to be read: {e}", level.name))
        })?;
        let index = at.get() >> level.shift & ((1_u64 << level.bits) - 1);
        let entry = usize::try_from(index)
            .ok()
            .and_then(|i| geometry.endian.u64(&table.bytes, i.checked_mul(8)?))
            .unwrap_or(0);
        let (phys, shift) = match arch.decode(depth, entry) {
            Entry::Empty => {
                let why = format!("{} entry {index} of the table at {table_at:#x} is {entry:#x}", level.name);
                return Err(fault(level.shift, why));
            }
            Entry::Table(next) => {
                table_at = next;
                covers = level.shift;
                continue;
            }
            Entry::Leaf(phys) => (phys, level.shift),
            Entry::Shared { phys, shift } => (phys, shift),
        };
        let len = 1_u64 << shift.min(63);
        return Ok(Leaf { virt: at.get() & !(len - 1), len, phys });
    }
    Err(fault(covers, "the lowest table names another".to_owned()))
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

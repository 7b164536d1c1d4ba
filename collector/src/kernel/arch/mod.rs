//! What differs from architecture to architecture. Nothing outside this directory knows any of it.

mod walk;
mod x86_64;

pub(crate) use walk::Walker;

use crate::problem::{Code, Problems};
use crate::vmcore::{EM_X86_64, Vmcore};

/// An architecture, with what this vmcore says about it.
pub(crate) trait Arch: Send + Sync {
    /// The kernel's page tables.
    fn tables(&self) -> &Tables;
    /// What an entry of the table at `level` (index into [`Tables::levels`]) means.
    fn decode(&self, level: usize, entry: u64) -> Entry;
    /// `phys_base` as the kdump header wants it; 0 where there is none.
    fn phys_base(&self) -> u64;
    /// The orders that a hugetlb page can have.
    fn hugetlb_orders(&self) -> &[u32];
    /// SECTION_SIZE_BITS of kernels that do not export it.
    fn section_size_bits(&self) -> Option<u32>;
    /// MAX_PHYSMEM_BITS of kernels that do not export it.
    fn max_physmem_bits(&self) -> Option<u32>;
}

/// Page tables: a radix tree of virtual addresses.
#[derive(Clone, Debug)]
pub(crate) struct Tables {
    /// Physical address of the top table.
    pub root: u64,
    /// From the top down.
    pub levels: &'static [Level],
}

/// One level of page tables.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Level {
    /// Its name, for messages.
    pub name: &'static str,
    /// The lowest bit of the virtual address that indexes it; an entry covers 2^shift bytes.
    pub shift: u32,
    /// How many bits do.
    pub bits: u32,
}

/// An entry of a page table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Entry {
    /// Nothing is mapped there.
    Empty,
    /// The physical address of the next table.
    Table(u64),
    /// The physical address of the memory.
    Leaf(u64),
}

/// The vmcore's architecture. `None`, and a problem, when it is not supported or its tables cannot be found.
pub(crate) fn detect(vmcore: &Vmcore<'_>, problems: &mut Problems) -> Option<Box<dyn Arch>> {
    match vmcore.machine() {
        EM_X86_64 => Some(Box::new(x86_64::X86_64::new(vmcore, problems)?)),
        other => {
            problems.push(
                Code::TRANSLATION_FAILED,
                format!(
                    "ELF machine {other} is not supported: no address can be translated, every page is kept"
                ),
            );
            None
        }
    }
}

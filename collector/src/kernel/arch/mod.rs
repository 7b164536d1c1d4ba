//! What differs from architecture to architecture. Nothing outside this directory knows any of it.
//!
//! An [`Arch`] says for a virtual address whether page tables are asked at all ([`Place`]), and what an entry of them means
//! ([`Entry`]); [`Walker`] does the reading. Everything an architecture needs is probed once, in its `new`: VMCOREINFO keys,
//! and where these leave a choice, which of the candidates finds the kernel's own image where the kernel says it is.

mod arm64;
mod loongarch64;
mod ppc64;
mod riscv64;
mod s390x;
mod walk;
mod x86_64;

pub use walk::Step;
pub(crate) use walk::{Leaf, Seen, Walker};

use crate::addr::VirtAddr;
use crate::problem::{Code, Problems};
use crate::vmcore::{EM_AARCH64, EM_LOONGARCH, EM_PPC64, EM_RISCV, EM_S390, EM_X86_64, Endian, Vmcore};

/// An architecture, with what this vmcore says about it.
pub(crate) trait Arch: Send + Sync {
    /// Where to look for `at`.
    fn place(&self, at: u64) -> Place;
    /// The kernel's page tables.
    fn tables(&self) -> &Tables;
    /// What an entry of the table at `level` (index into [`Tables::levels`]) means.
    fn decode(&self, level: usize, entry: u64) -> Entry;
    /// `phys_base` as the kdump header wants it; 0 where there is none.
    fn phys_base(&self) -> u64 {
        0
    }
    /// The orders that a hugetlb page can have.
    fn hugetlb_orders(&self) -> &[u32];
    /// SECTION_SIZE_BITS of kernels that do not export it.
    fn section_size_bits(&self) -> Option<u32>;
    /// MAX_PHYSMEM_BITS of kernels that do not export it.
    fn max_physmem_bits(&self) -> Option<u32>;
}

/// Where to look for a virtual address.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// The page tables tell. The address may differ from the one asked for: a tag in it is no part of it.
    Tables(u64),
    /// No table is asked: this stretch holds it, by the kernel's layout.
    Direct(Leaf),
    /// The kernel has nothing there, and why.
    Nowhere(String),
}

/// Page tables: a radix tree of virtual addresses.
#[derive(Clone, Debug)]
pub(crate) struct Tables {
    /// Physical address of the top table.
    pub root: u64,
    /// From the top down.
    pub levels: Vec<Level>,
    /// Byte order of the entries; not always the kernel's.
    pub endian: Endian,
}

impl Tables {
    /// One past the highest bit of a virtual address that any level looks at.
    fn top(&self) -> u32 {
        self.levels.first().map_or(0, |l| l.shift.saturating_add(l.bits))
    }

    /// Whether bits 63 down to the top level's highest are all the same, and the place for it.
    fn sign_extended(&self, at: u64) -> Place {
        let top = self.top().saturating_sub(1);
        match at.cast_signed() >> top.min(63) {
            0 | -1 => Place::Tables(at),
            _ => Place::Nowhere(format!("bits 63:{} are no copy of bit {top}", self.top())),
        }
    }
}

/// One level of page tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
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
    /// One of several equal entries that together map `1 << shift` bytes, naturally aligned: the physical address of the
    /// first.
    Shared {
        /// Physical address of the first byte.
        phys: u64,
        /// log2 of the bytes.
        shift: u32,
    },
}

/// The vmcore's architecture. `None`, and a problem, when it is not supported or its tables cannot be found.
pub(crate) fn detect(vmcore: &Vmcore<'_>, problems: &mut Problems) -> Option<Box<dyn Arch>> {
    match vmcore.machine() {
        EM_X86_64 => Some(Box::new(x86_64::X86_64::new(vmcore, problems)?)),
        EM_AARCH64 => Some(Box::new(arm64::Arm64::new(vmcore, problems)?)),
        EM_PPC64 => Some(Box::new(ppc64::Ppc64::new(vmcore, problems)?)),
        EM_S390 => Some(Box::new(s390x::S390x::new(vmcore, problems)?)),
        EM_RISCV => Some(Box::new(riscv64::Riscv64::new(vmcore, problems)?)),
        EM_LOONGARCH => Some(Box::new(loongarch64::LoongArch64::new(vmcore, problems)?)),
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

/// Says that a key is missing without which no address can be translated.
fn missing(problems: &mut Problems, what: &str) {
    problems.push(
        Code::VMCOREINFO_KEY_MISSING,
        format!("{what}: no address can be translated, every page is kept"),
    );
}

/// Where a part of the kernel's image is in physical memory, by the PT_LOAD that holds it.
fn from_segments(vmcore: &Vmcore<'_>, at: VirtAddr) -> Option<u64> {
    let mut held = vmcore.segments().iter().filter(|s| s.virt.get() != 0);
    held.find_map(|s| {
        let skip = at.offset_from(s.virt).filter(|skip| *skip < s.mem_len)?;
        s.start.get().checked_add(skip)
    })
}

//! Architectures: what each makes of memory. Written from the architectures' manuals and the kernel's headers; nothing here
//! is the product's.

mod arm64;
mod loongarch64;
mod ppc64;
mod radix;
mod riscv64;
mod s390x;
mod x86_64;

pub use arm64::Arm64;
pub use loongarch64::LoongArch64;
pub use ppc64::{Mmu, Ppc64, Tells};
pub use riscv64::Riscv64;
pub use s390x::{Relocation, S390x};
pub use x86_64::PageTables;
pub(super) use x86_64::{ENCRYPTION_BIT, START_KERNEL_MAP, leaf_bytes};

use super::memory::{Frames, Leaf, Memory, Order};

/// A machine's architecture, with its choices.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the architectures' names")]
pub enum Arch {
    /// Its choices are fields of the specification.
    X86_64,
    Arm64(Arm64),
    Ppc64(Ppc64),
    S390x(S390x),
    Riscv64(Riscv64),
    LoongArch64(LoongArch64),
}

/// What is fixed for an architecture and its choices.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// `e_machine`.
    pub machine: u16,
    /// `uname -m`.
    pub uname: &'static str,
    /// The kernel's byte order.
    pub order: Order,
    /// log2 of the page size.
    pub page_shift: u32,
    /// SECTION_SIZE_BITS.
    pub section_bits: u32,
    /// MAX_PHYSMEM_BITS.
    pub max_physmem_bits: u32,
    /// Where RAM starts.
    pub base: u64,
    /// Orders that hugetlb pages have there and that are small enough for a test.
    pub hugetlb: &'static [u32],
}

impl Facts {
    /// Bytes of a page.
    pub fn page(&self) -> u64 {
        1 << self.page_shift
    }
}

/// An architecture at work: addresses, and page tables as they grow.
pub(super) trait Isa {
    fn facts(&self) -> Facts;
    /// Address of the struct page of pfn 0, were there one.
    fn vmemmap(&self) -> u64;
    /// Where the kernel sees a part of its image.
    fn image_virt(&self, phys: u64) -> u64;
    /// Where the kernel sees a part of its memory.
    fn direct_virt(&self, phys: u64) -> u64;
    /// A free page of the kernel's that is mapped by tables alone.
    fn vmalloc(&self) -> u64;
    /// Bytes of a leaf.
    fn leaf(&self, leaf: Leaf) -> u64;
    /// Takes memory for the top table; its physical address.
    fn start(&mut self, memory: &mut Memory, frames: &mut Frames, image: (u64, u64)) -> u64;
    /// Maps one leaf.
    fn map(&mut self, memory: &mut Memory, frames: &mut Frames, virt: u64, phys: u64, leaf: Leaf);
    /// Maps all of memory, and the kernel's image.
    fn map_memory(
        &mut self,
        memory: &mut Memory,
        frames: &mut Frames,
        ram: &[(u64, u64)],
        image: (u64, u64),
    ) {
        for (start, end) in ram {
            let leaf = self.leaf(Leaf::Large);
            let mut phys = start / leaf * leaf;
            while phys < *end {
                let virt = self.direct_virt(phys);
                self.map(memory, frames, virt, phys, Leaf::Large);
                phys += leaf;
            }
        }
        let page = self.facts().page();
        for phys in (image.0..image.1).step_by(super::index(page)) {
            let virt = self.image_virt(phys);
            self.map(memory, frames, virt, phys, Leaf::Page);
        }
    }
    /// Writes what else the kernel keeps of its mappings.
    fn seal(&mut self, _memory: &mut Memory, _frames: &mut Frames) {}
    /// phys_base in a dump's header.
    fn phys_base(&self) -> u64 {
        0
    }
    /// VMCOREINFO's keys of the architecture, in a kernel since `version`.
    fn keys(&self, version: (u32, u32)) -> Vec<(String, String)>;
}

impl Arch {
    pub(super) fn isa(&self) -> Option<Box<dyn Isa>> {
        Some(match self {
            Self::X86_64 => return None,
            Self::Arm64(arch) => Box::new(arch.clone()),
            Self::Ppc64(arch) => Box::new(arch.clone()),
            Self::S390x(arch) => Box::new(arch.clone()),
            Self::Riscv64(arch) => Box::new(arch.clone()),
            Self::LoongArch64(arch) => Box::new(arch.clone()),
        })
    }

    /// What is fixed.
    pub fn facts(&self) -> Facts {
        self.isa().map_or(x86_64::FACTS, |isa| isa.facts())
    }
}

fn key(name: &str, value: impl std::fmt::Display) -> (String, String) {
    (name.to_owned(), value.to_string())
}

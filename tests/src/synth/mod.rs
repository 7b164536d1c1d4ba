//! Synthetic vmcores: dead kernels of each era and architecture, page by page of a known kind, as ELF files.
//!
//! A [`Spec`] says which kernel, which memory model and what lies where; [`Spec::build`] turns it into a [`Core`]: the
//! file, and for each page what must become of it. Nothing here shares a struct, a constant or a predicate with the
//! product, so that a mistake in one is not repeated in the other.
//!
//! `era` what differs between kernels · `page` kinds of pages as struct pages · `expect` the verdicts · `memory` RAM ·
//! `arch` page tables · `log` printk's buffers · `info` VMCOREINFO · `spec` what is wanted · `builder` all of it together · `core` what comes out · `bestiary` one of each · `elf` the file ·
//! `giant` machines of hundreds of GiB.

pub mod arch;
mod bestiary;
mod builder;
mod core;
mod elf;
pub mod era;
pub mod expect;
pub mod giant;
mod info;
mod log;
mod memory;
mod page;
mod spec;

pub use arch::PageTables;
pub use core::{Addresses, Core, Page};
pub use info::CRASH_TIME;
pub use log::Line;
pub use memory::{Leaf, Memory, Order, PAGE};
pub use page::{FREE_AREAS, Kind, PageLayout, SHUFFLED, USUAL};
pub use spec::{Block, KERNEL_RAM, Model, Spec, UNMAPPED_RAM};

fn index(n: u64) -> usize {
    usize::try_from(n).expect("a 64-bit host")
}

//! In: the vmcore as a file, its segments, its notes.

mod vmcoreinfo;

pub use vmcoreinfo::VmcoreInfo;

use crate::addr::{FileOffset, PageSize, Pfn, PhysAddr, VirtAddr};
use crate::problem::Problems;
use std::io;
use std::ops::Deref;

/// Bytes lent by a [`ReadAt`]: a mapping, a slice, or a copy.
pub type Window<'a> = Box<dyn Deref<Target = [u8]> + 'a>;

/// Random access to the bytes of a file. The only way the engine sees the world.
pub trait ReadAt: Sync {
    /// Length in bytes.
    fn size(&self) -> u64;
    /// Fills `buf` from `at`; an error if any byte of it is not there.
    fn read_at(&self, at: FileOffset, buf: &mut [u8]) -> io::Result<()>;
    /// Lends exactly `len` bytes from `at`, without a copy where the source can. Ask for at most
    /// [`ReadAt::window_len`] bytes.
    fn window(&self, at: FileOffset, len: usize) -> io::Result<Window<'_>>;
    /// The largest sensible window: big where windows are mappings, small where they are copies.
    fn window_len(&self) -> usize;
}

/// A PT_LOAD: a stretch of physical memory and where it lies in the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// First physical address.
    pub start: PhysAddr,
    /// Bytes of memory (p_memsz).
    pub mem_len: u64,
    /// Bytes that the file holds (p_filesz), at most `mem_len`.
    pub file_len: u64,
    /// Where they lie in the file.
    pub offset: FileOffset,
    /// Kernel virtual address (p_vaddr), 0 where there is none.
    pub virt: VirtAddr,
}

/// An opened vmcore.
#[expect(missing_debug_implementations, reason = "holds a dead kernel's memory")]
pub struct Vmcore<'a> {
    source: &'a dyn ReadAt,
}

/// Why a vmcore could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum VmcoreError {
    /// Placeholder of the skeleton.
    #[error("not an ELF core")]
    NotElf,
}

/// Why bytes of the crashed kernel's memory could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// No segment holds the address.
    #[error("physical address {0} is in no segment of the vmcore")]
    NotBacked(PhysAddr),
    /// The file could not be read.
    #[error("cannot read the vmcore at offset {0}")]
    Io(FileOffset, #[source] io::Error),
    /// A page-table walk for a virtual address ended early.
    #[error("virtual address {at} has no translation: {why}")]
    NotMapped {
        /// The address.
        at: VirtAddr,
        /// At which level it ended, and the entry seen.
        why: String,
    },
}

impl<'a> Vmcore<'a> {
    /// Reads headers, notes and VMCOREINFO.
    pub fn open(source: &'a dyn ReadAt, _problems: &mut Problems) -> Result<Self, VmcoreError> {
        let _ = source;
        Err(VmcoreError::NotElf)
    }
    /// The file.
    pub fn source(&self) -> &'a dyn ReadAt {
        self.source
    }
    /// Page size of the crashed kernel (VMCOREINFO's PAGESIZE).
    pub fn page_size(&self) -> PageSize {
        unimplemented!()
    }
    /// ELF machine (EM_X86_64 = 62, …).
    pub fn machine(&self) -> u16 {
        unimplemented!()
    }
    /// The PT_LOADs as the file orders them.
    pub fn segments(&self) -> &[Segment] {
        unimplemented!()
    }
    /// All PT_NOTEs, one after the other, each padded to 4 bytes.
    pub fn notes(&self) -> &[u8] {
        unimplemented!()
    }
    /// Where VMCOREINFO's text lies within [`Vmcore::notes`].
    pub fn vmcoreinfo_range(&self) -> std::ops::Range<usize> {
        unimplemented!()
    }
    /// VMCOREINFO.
    pub fn info(&self) -> &VmcoreInfo {
        unimplemented!()
    }
    /// Number of NT_PRSTATUS notes: CPUs whose registers were saved.
    pub fn cpus(&self) -> usize {
        unimplemented!()
    }
    /// One past the last pfn of any segment.
    pub fn end_pfn(&self) -> Pfn {
        unimplemented!()
    }
    /// Physical memory; spans segments; an error if any byte is not backed by file data.
    pub fn read_phys(&self, _at: PhysAddr, _buf: &mut [u8]) -> Result<(), ReadError> {
        unimplemented!()
    }
    /// One whole page; parts of it that no segment holds read as zero; an error if no part is backed.
    pub fn read_page(&self, _pfn: Pfn, _buf: &mut [u8]) -> Result<(), ReadError> {
        unimplemented!()
    }
}

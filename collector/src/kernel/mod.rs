//! Meaning: what the bytes of the vmcore are to the crashed kernel.

use crate::addr::{PhysAddr, VirtAddr};
use crate::problem::Problems;
use crate::vmcore::{ReadError, Vmcore};

/// The crashed kernel: a vmcore, and how its virtual addresses translate.
#[expect(missing_debug_implementations, reason = "holds a dead kernel's memory")]
pub struct Kernel<'a> {
    vmcore: &'a Vmcore<'a>,
}

impl<'a> Kernel<'a> {
    /// Finds the page tables. Fails open: without them only untranslated access works, and a problem is recorded.
    pub fn open(vmcore: &'a Vmcore<'a>, _problems: &mut Problems) -> Self {
        Self { vmcore }
    }
    /// The vmcore underneath.
    pub fn vmcore(&self) -> &'a Vmcore<'a> {
        self.vmcore
    }
    /// Translates one address by walking the kernel's page tables.
    pub fn translate(&self, at: VirtAddr) -> Result<PhysAddr, ReadError> {
        Err(ReadError::NotMapped { at, why: "skeleton".to_owned() })
    }
    /// Reads virtual memory, page by page.
    pub fn read_virt(&self, at: VirtAddr, _buf: &mut [u8]) -> Result<(), ReadError> {
        Err(ReadError::NotMapped { at, why: "skeleton".to_owned() })
    }
    /// The kernel's `phys_base` for the kdump header; 0 where the architecture has none.
    pub fn phys_base(&self) -> u64 {
        0
    }
    /// The six strings of `init_uts_ns`, each NUL-padded to 65 bytes; zeros where unreadable.
    pub fn utsname(&self, _problems: &mut Problems) -> [[u8; 65]; 6] {
        [[0; 65]; 6]
    }
}

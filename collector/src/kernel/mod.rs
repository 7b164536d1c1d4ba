//! Meaning: what the bytes of the vmcore are to the crashed kernel.
//!
//! Everything is found by VMCOREINFO keys, never by a kernel version. Data flow: `arch` finds the page tables and walks them;
//! `memmap` finds the array of `struct page`; `page` says what one of them is; `uts` and the log read virtual memory.

pub(crate) mod arch;
mod blob;
pub(crate) mod memmap;
pub(crate) mod page;
mod uts;

pub mod btf;
pub mod kallsyms;
pub mod printk;

use crate::addr::{PhysAddr, VirtAddr};
use crate::problem::{Code, Problems};
use crate::vmcore::{ReadError, Vmcore, Window};
use arch::Walker;

/// The crashed kernel: a vmcore, and how its virtual addresses translate.
#[expect(missing_debug_implementations, reason = "holds a dead kernel's memory")]
pub struct Kernel<'a> {
    vmcore: &'a Vmcore<'a>,
    /// `None` when the page tables were not found.
    walker: Option<Walker>,
}

impl<'a> Kernel<'a> {
    /// Finds the page tables. Fails open: without them only untranslated access works, and a problem is recorded.
    pub fn open(vmcore: &'a Vmcore<'a>, problems: &mut Problems) -> Self {
        let kernel = Self { vmcore, walker: arch::detect(vmcore, problems).map(Walker::new) };
        if kernel.walker.is_some()
            && let Some(at) = ["_stext", "swapper_pg_dir"].iter().find_map(|name| vmcore.info().symbol(name))
            && let Err(e) = kernel.translate(at)
        {
            problems.push(Code::TRANSLATION_FAILED, format!("the kernel's own image is not mapped: {e}"));
        }
        kernel
    }
    /// The vmcore underneath.
    pub fn vmcore(&self) -> &'a Vmcore<'a> {
        self.vmcore
    }
    /// Translates one address by walking the kernel's page tables.
    pub fn translate(&self, at: VirtAddr) -> Result<PhysAddr, ReadError> {
        Ok(self.resolve(at)?.0)
    }
    /// Reads virtual memory.
    pub fn read_virt(&self, at: VirtAddr, buf: &mut [u8]) -> Result<(), ReadError> {
        let mut at = at;
        let mut rest = buf;
        while !rest.is_empty() {
            let (phys, len) = self.resolve(at)?;
            let take = usize::try_from(len).unwrap_or(usize::MAX).min(rest.len());
            let (now, later) = rest.split_at_mut(take);
            self.vmcore.read_phys(phys, now)?;
            rest = later;
            if !rest.is_empty() {
                let past = || ReadError::NotMapped { at, why: "the end of the address space".to_owned() };
                at = at.checked_add(take as u64).ok_or_else(past)?;
            }
        }
        Ok(())
    }
    /// A `u64` of the crashed kernel.
    pub fn read_u64(&self, at: VirtAddr) -> Result<u64, ReadError> {
        let mut raw = [0; 8];
        self.read_virt(at, &mut raw)?;
        Ok(self.vmcore.endian().u64(&raw, 0).unwrap_or(0))
    }
    /// A stretch of virtual memory that lies in one piece in the file, without a copy where the source can: from `at`, at
    /// least 1 and at most `max` bytes. Leaves that follow each other in physical memory too are one stretch.
    pub fn virt_window(&self, at: VirtAddr, max: usize) -> Result<Window<'a>, ReadError> {
        let (phys, mut len) = self.resolve(at)?;
        let max = (max as u64).min(self.vmcore.source().window_len() as u64).max(1);
        while len < max
            && let Some(next) = at.checked_add(len)
            && let Ok((follows, more)) = self.resolve(next)
            && phys.checked_add(len) == Some(follows)
        {
            len = len.saturating_add(more);
        }
        self.vmcore.phys_window(phys, usize::try_from(len.min(max)).unwrap_or(usize::MAX))
    }
    /// The kernel's `phys_base` for the kdump header; 0 where the architecture has none.
    pub fn phys_base(&self) -> u64 {
        self.walker.as_ref().map_or(0, |w| w.arch().phys_base())
    }
    /// The six strings of `init_uts_ns`, each NUL-padded to 65 bytes; zeros where unreadable.
    pub fn utsname(&self, problems: &mut Problems) -> [[u8; 65]; 6] {
        uts::read(self, problems)
    }
    /// Where the strings of [`Kernel::utsname`] are; `None` where that cannot be told.
    pub(crate) fn utsname_at(&self) -> Option<VirtAddr> {
        uts::place(self).ok()
    }
    /// The orders that a hugetlb page can have on this architecture.
    pub(crate) fn hugetlb_orders(&self) -> &[u32] {
        self.walker.as_ref().map_or(&[], |w| w.arch().hugetlb_orders())
    }
    /// SECTION_SIZE_BITS where VMCOREINFO does not tell.
    pub(crate) fn section_size_bits(&self) -> Option<u32> {
        self.walker.as_ref()?.arch().section_size_bits()
    }
    /// MAX_PHYSMEM_BITS where VMCOREINFO does not tell.
    pub(crate) fn max_physmem_bits(&self) -> Option<u32> {
        self.walker.as_ref()?.arch().max_physmem_bits()
    }
    /// Whether virtual addresses can be translated at all.
    pub(crate) fn has_tables(&self) -> bool {
        self.walker.is_some()
    }
    /// Where `at` is in physical memory, and how many bytes follow it there.
    fn resolve(&self, at: VirtAddr) -> Result<(PhysAddr, u64), ReadError> {
        let unmapped = |why: &str| ReadError::NotMapped { at, why: why.to_owned() };
        let walker = self.walker.as_ref().ok_or_else(|| unmapped("the page tables were not found"))?;
        walker.resolve(self.vmcore, at)
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

//! Meaning: what the bytes of the vmcore are to the crashed kernel.
//!
//! Everything is found by VMCOREINFO keys, never by a kernel version. Data flow: `arch` finds the page tables and walks them;
//! `memmap` finds the array of `struct page`; `page` says what one of them is; `uts` and the log read virtual memory.

pub(crate) mod arch;
mod blob;
mod hashed;
pub(crate) mod memmap;
pub(crate) mod page;
mod uts;

pub mod btf;
pub mod kallsyms;
pub mod printk;

use crate::addr::{PhysAddr, VirtAddr};
use crate::problem::{Code, Problems};
use crate::vmcore::{ReadError, Vmcore, Window};
pub(crate) use arch::Seen;
pub use arch::Step;
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
    /// As [`Kernel::translate`], with the page-table entries that say so, from the top.
    pub fn trace(&self, at: VirtAddr) -> (Vec<Step>, Result<PhysAddr, ReadError>) {
        match &self.walker {
            Some(walker) => walker.trace(self.vmcore, at),
            None => (Vec::new(), self.translate(at)),
        }
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
    pub(crate) fn window(&self, seen: &mut Seen, at: VirtAddr, max: usize) -> Result<Window<'a>, ReadError> {
        let max = max.min(self.vmcore.source().window_len()).max(1);
        let (phys, len) = self.stretch(seen, at, max)?;
        self.vmcore.phys_window(phys, len)
    }
    /// Reads as much from `at` on as lies in one piece in the file, at most `buf`; how much that was, at least 1.
    pub(crate) fn read_some(
        &self,
        seen: &mut Seen,
        at: VirtAddr,
        buf: &mut [u8],
    ) -> Result<usize, ReadError> {
        let (phys, len) = self.stretch(seen, at, buf.len())?;
        self.vmcore.read_some(phys, buf.get_mut(..len).unwrap_or_default())
    }
    /// Where `at` is in physical memory, and how many bytes follow it there, at least 1.
    pub(crate) fn place(&self, seen: &mut Seen, at: VirtAddr) -> Result<(PhysAddr, u64), ReadError> {
        self.walker(at)?.resolve_in(seen, self.vmcore, at)
    }
    /// The same, leaves that follow each other being one, and at most `max` bytes.
    fn stretch(&self, seen: &mut Seen, at: VirtAddr, max: usize) -> Result<(PhysAddr, usize), ReadError> {
        let walker = self.walker(at)?;
        let (phys, mut len) = walker.resolve_in(seen, self.vmcore, at)?;
        while len < max as u64
            && let Some(next) = at.checked_add(len)
            && let Ok((follows, more)) = walker.resolve_in(seen, self.vmcore, next)
            && phys.checked_add(len) == Some(follows)
        {
            len = len.saturating_add(more);
        }
        Ok((phys, usize::try_from(len).unwrap_or(usize::MAX).min(max)))
    }
    /// How many bytes from `at` on cannot be read for the reason that `at` cannot, at least 1; 0 when it can.
    pub(crate) fn gap(&self, seen: &mut Seen, at: VirtAddr) -> u64 {
        let Some(walker) = &self.walker else { return u64::MAX };
        match walker.resolve_in(seen, self.vmcore, at) {
            Ok((phys, len)) => self.vmcore.unbacked(phys).min(len),
            Err(_) => walker.gap(seen, self.vmcore, at),
        }
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
        self.walker(at)?.resolve(self.vmcore, at)
    }
    fn walker(&self, at: VirtAddr) -> Result<&Walker, ReadError> {
        let why = "the page tables were not found";
        self.walker.as_ref().ok_or_else(|| ReadError::NotMapped { at, why: why.to_owned() })
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

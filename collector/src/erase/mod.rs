//! Redaction: bytes of the dead kernel's memory that must not leave the machine are overwritten on their way into a dump.
//!
//! What it is: the `erase` commands of makedumpfile.conf(5), resolved with what the vmcore itself tells of symbols
//! ([`crate::kernel::kallsyms`]) and types ([`crate::kernel::btf`]); no debuginfo. What it is not: it leaves out no pages, and
//! it finds no copies: a password that was also in a pipe, in a page of a process or in the log is erased where a rule says,
//! and nowhere else.
//!
//! ```text
//! text --parse--> Rules --resolve (symbols, types, lists)--> physical ranges --source--> file offsets
//!                                                                                          |
//!                                     vmcore --ReadAt--> Source: fills what it lends ------+--> writers
//! ```
//!
//! The rules fail closed: one that cannot be resolved in full is an error, and whoever asked decides that there is no dump
//! then. The fill lies below everything that reads pages, so no container and no codec can go around it; the scan of
//! mem_map and the kernel log read the memory as it is. The log as a file of its own is therefore not redacted.
//!
//! Beyond makedumpfile's grammar: `SYMBOL:TYPE`, for BTF has no types of global variables (a table in `known` has those of
//! the most wanted); `TYPE.member` for every instance that can be found; loops in loops; `via` a member that is a
//! `list_head`; per-CPU variables, on each CPU.

mod known;
mod parse;
mod place;
mod resolve;
mod source;
mod symbols;
mod walk;

pub use parse::{ParseError, Rules};
pub use resolve::{Resolved, resolve};
pub use source::Source;

use crate::addr::VirtAddr;
use crate::kernel::Kernel;
use crate::kernel::printk::Memory;
use crate::vmcore::{Endian, ReadError};

/// What erased bytes become: makedumpfile's `X`.
pub const ERASED: u8 = b'X';

/// What a pointer becomes that is to be nullified.
pub const NULLIFIED: u8 = 0;

/// Bytes that are overwritten: half-open, of physical memory or of a file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Patch {
    /// First address or offset.
    pub start: u64,
    /// One past the last.
    pub end: u64,
    /// What each byte becomes.
    pub fill: u8,
}

/// What a string of the kernel becomes when it lies at `at` and patches are applied to what `translate` makes of that.
pub(crate) fn cover(patches: &[Patch], bytes: &mut [u8], translate: impl Fn(u64) -> Option<u64>) {
    for (index, byte) in bytes.iter_mut().enumerate() {
        if let Some(phys) = translate(index as u64) {
            fill(patches, phys, std::slice::from_mut(byte));
        }
    }
}

/// The dead kernel's memory, without what is erased.
pub(crate) struct Covered<'c, 'k> {
    pub kernel: &'c Kernel<'k>,
    pub patches: &'c [Patch],
}

impl Memory for Covered<'_, '_> {
    fn read(&self, at: VirtAddr, buf: &mut [u8]) -> Result<(), ReadError> {
        self.kernel.read_virt(at, buf)?;
        if self.patches.is_empty() {
            return Ok(());
        }
        // Within 4 KiB, which no page is smaller than, memory lies in one piece.
        let (mut at, mut rest) = (at, buf);
        while !rest.is_empty() {
            let room = usize::try_from(4096 - at.get() % 4096).unwrap_or(1);
            let len = room.min(rest.len());
            let (now, later) = rest.split_at_mut(len);
            fill(self.patches, self.kernel.translate(at)?.get(), now);
            rest = later;
            at = VirtAddr::new(at.get().wrapping_add(len as u64));
        }
        Ok(())
    }
    fn endian(&self) -> Endian {
        self.kernel.vmcore().endian()
    }
}

/// Sorts, and cuts overlaps away, so that each byte is in one patch.
fn tidy(mut patches: Vec<Patch>) -> Vec<Patch> {
    patches.retain(|p| p.start < p.end);
    patches.sort_unstable();
    let mut tidy: Vec<Patch> = Vec::with_capacity(patches.len());
    for mut patch in patches {
        if let Some(last) = tidy.last_mut() {
            patch.start = patch.start.max(last.end);
            if patch.start >= patch.end {
                continue;
            }
            if patch.start == last.end && patch.fill == last.fill {
                last.end = patch.end;
                continue;
            }
        }
        tidy.push(patch);
    }
    tidy
}

/// Fills what of `bytes`, which start at `at`, the patches (tidied) cover.
fn fill(patches: &[Patch], at: u64, bytes: &mut [u8]) {
    let end = at.saturating_add(bytes.len() as u64);
    let first = patches.partition_point(|p| p.end <= at);
    for patch in patches.get(first..).unwrap_or_default().iter().take_while(|p| p.start < end) {
        let from = usize::try_from(patch.start.saturating_sub(at)).unwrap_or(usize::MAX);
        let to = usize::try_from(patch.end.min(end).saturating_sub(at)).unwrap_or(usize::MAX);
        if let Some(part) = bytes.get_mut(from..to) {
            part.fill(patch.fill);
        }
    }
}

#[cfg(test)]
mod tests;

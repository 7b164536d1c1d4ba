//! Memory that is asked for again and again in small pieces: page tables are walked once for each page of it.

use super::Budget;
use crate::addr::VirtAddr;
use crate::kernel::printk::Memory;
use crate::vmcore::{Endian, ReadError};
use std::cell::{Cell, RefCell};

/// Bytes of a piece. No page of any kernel is smaller.
const PAGE: u64 = 4096;
const PAGE_LEN: usize = 4096;

/// Pieces that are kept: 1 MiB.
const KEPT: usize = 256;

/// The dead kernel's virtual memory, the last pages of it kept. A read after the end of the budget fails.
#[expect(missing_debug_implementations, reason = "holds a dead kernel's memory")]
pub struct Pages<'a> {
    under: &'a dyn Memory,
    budget: Budget,
    kept: RefCell<Vec<Slot>>,
    read: Cell<u64>,
}

#[derive(Default)]
struct Slot {
    /// Its address.
    page: Option<u64>,
    bytes: Vec<u8>,
}

impl<'a> Pages<'a> {
    /// Nothing is read yet.
    pub fn new(under: &'a dyn Memory, budget: Budget) -> Self {
        let mut kept = Vec::new();
        kept.resize_with(KEPT, Slot::default);
        Self { under, budget, kept: RefCell::new(kept), read: Cell::new(0) }
    }

    /// What may still be spent.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Bytes that were read of the vmcore so far.
    pub fn bytes_read(&self) -> u64 {
        self.read.get()
    }

    fn count(&self, bytes: usize) {
        self.read.set(self.read.get().saturating_add(bytes as u64));
    }

    /// Fills `buf`, which lies in one page, from `at`.
    fn small(&self, at: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        let page = at & !(PAGE - 1);
        let skip = usize::try_from(at & (PAGE - 1)).unwrap_or(0);
        let slot = usize::try_from((page / PAGE) ^ (page >> 21)).unwrap_or(0) % KEPT;
        let mut kept = self.kept.borrow_mut();
        let Some(slot) = kept.get_mut(slot) else { return self.under.read(VirtAddr::new(at), buf) };
        if slot.page != Some(page) {
            slot.page = None;
            slot.bytes.resize(PAGE_LEN, 0);
            self.under.read(VirtAddr::new(page), &mut slot.bytes)?;
            self.count(slot.bytes.len());
            slot.page = Some(page);
        }
        let from = slot.bytes.get(skip..).and_then(|rest| rest.get(..buf.len()));
        if let Some(from) = from {
            buf.copy_from_slice(from);
        }
        Ok(())
    }
}

impl Memory for Pages<'_> {
    fn read(&self, at: VirtAddr, buf: &mut [u8]) -> Result<(), ReadError> {
        if self.budget.step().is_err() {
            return Err(ReadError::NotMapped { at, why: "the time for it is over".to_owned() });
        }
        if buf.len() > PAGE_LEN {
            self.count(buf.len());
            return self.under.read(at, buf);
        }
        let (mut at, mut rest) = (at.get(), buf);
        while !rest.is_empty() {
            let left = usize::try_from(PAGE - at % PAGE).unwrap_or(1).min(rest.len());
            let (now, later) = rest.split_at_mut(left);
            self.small(at, now)?;
            rest = later;
            at = at.wrapping_add(left as u64);
        }
        Ok(())
    }
    fn endian(&self) -> Endian {
        self.under.endian()
    }
}

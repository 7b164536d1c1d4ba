//! A table of the crashed kernel that is too large to copy: read through a small buffer.

use super::printk::Memory;
use crate::addr::VirtAddr;
use crate::vmcore::ReadError;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes that a walk reads at a time. A look-up elsewhere reads a page, which whoever has the memory may have kept.
const CHUNK: usize = 16 << 10;

/// No page of any kernel is smaller.
const PAGE: usize = 4096;

/// Bytes of virtual memory from one address on, of a known length.
pub(super) struct Blob<'k> {
    memory: &'k dyn Memory,
    start: VirtAddr,
    len: u64,
    chunk: Mutex<Chunk>,
}

#[derive(Default)]
struct Chunk {
    /// Where the bytes lie in the blob.
    at: u64,
    bytes: Vec<u8>,
}

impl<'k> Blob<'k> {
    /// Nothing is read yet. `len` is cut where the address space ends.
    pub fn new(memory: &'k dyn Memory, start: VirtAddr, len: u64) -> Self {
        let len = len.min(u64::MAX - start.get());
        Self { memory, start, len, chunk: Mutex::default() }
    }

    /// Bytes of the blob.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Where its first byte is.
    pub fn start(&self) -> VirtAddr {
        self.start
    }

    /// Fills `out` from `at`; an error past the end of the blob.
    pub fn read(&self, at: u64, out: &mut [u8]) -> Result<(), ReadError> {
        let (mut at, mut rest) = (at, out);
        while !rest.is_empty() {
            let chunk = self.chunk(at)?;
            let skip = usize::try_from(at.saturating_sub(chunk.at)).unwrap_or(usize::MAX);
            let have = chunk.bytes.get(skip..).unwrap_or_default();
            let take = have.len().min(rest.len());
            let (now, later) = rest.split_at_mut(take);
            now.copy_from_slice(have.get(..take).unwrap_or_default());
            at = at.saturating_add(take as u64);
            rest = later;
        }
        Ok(())
    }

    /// Lends what is at hand from `at` on, at least one byte.
    pub fn piece<T>(&self, at: u64, look: impl FnOnce(&[u8]) -> T) -> Result<T, ReadError> {
        let chunk = self.chunk(at)?;
        let skip = usize::try_from(at.saturating_sub(chunk.at)).unwrap_or(usize::MAX);
        Ok(look(chunk.bytes.get(skip..).unwrap_or_default()))
    }

    /// The byte at `at`.
    pub fn u8(&self, at: u64) -> Result<u8, ReadError> {
        let mut raw = [0];
        self.read(at, &mut raw)?;
        Ok(u8::from_ne_bytes(raw))
    }

    /// The `u16` at `at`.
    pub fn u16(&self, at: u64) -> Result<u16, ReadError> {
        let mut raw = [0; 2];
        self.read(at, &mut raw)?;
        Ok(self.memory.endian().u16(&raw, 0).unwrap_or(0))
    }

    /// The `u32` at `at`.
    pub fn u32(&self, at: u64) -> Result<u32, ReadError> {
        let mut raw = [0; 4];
        self.read(at, &mut raw)?;
        Ok(self.memory.endian().u32(&raw, 0).unwrap_or(0))
    }

    /// Three `u32`, the first at `at`.
    pub fn u32s(&self, at: u64) -> Result<[u32; 3], ReadError> {
        let mut raw = [0; 12];
        self.read(at, &mut raw)?;
        let endian = self.memory.endian();
        Ok([0, 4, 8].map(|skip| endian.u32(&raw, skip).unwrap_or(0)))
    }

    /// The `u64` at `at`.
    pub fn u64(&self, at: u64) -> Result<u64, ReadError> {
        let mut raw = [0; 8];
        self.read(at, &mut raw)?;
        Ok(self.memory.endian().u64(&raw, 0).unwrap_or(0))
    }

    /// The bytes from `at` up to a NUL, at most `most` of them.
    pub fn string(&self, at: u64, most: usize) -> Result<Vec<u8>, ReadError> {
        let mut text = Vec::new();
        let mut at = at;
        while text.len() < most {
            let chunk = self.chunk(at)?;
            let skip = usize::try_from(at.saturating_sub(chunk.at)).unwrap_or(usize::MAX);
            let have = chunk.bytes.get(skip..).unwrap_or_default();
            let end = have.iter().position(|b| *b == 0);
            let take = end.unwrap_or(have.len()).min(most.saturating_sub(text.len()));
            text.extend_from_slice(have.get(..take).unwrap_or_default());
            if end.is_some() {
                break;
            }
            at = at.saturating_add(take as u64);
        }
        Ok(text)
    }

    /// The first place at or after `from` where `pattern` (not empty) lies.
    pub fn find(&self, from: u64, pattern: &[u8]) -> Result<Option<u64>, ReadError> {
        let overlap = pattern.len().saturating_sub(1) as u64;
        let Some(first) = pattern.first() else { return Ok(Some(from)) };
        let mut window = Vec::new();
        let mut at = from;
        while at.saturating_add(overlap) < self.len {
            let take = self.len.saturating_sub(at).min(CHUNK as u64);
            window.resize(usize::try_from(take).unwrap_or(0), 0);
            self.read(at, &mut window)?;
            let mut skip = 0;
            while let Some(hit) = window.get(skip..).and_then(|rest| rest.iter().position(|b| b == first)) {
                skip = skip.saturating_add(hit);
                if window.get(skip..).is_some_and(|rest| rest.starts_with(pattern)) {
                    return Ok(Some(at.saturating_add(skip as u64)));
                }
                skip = skip.saturating_add(1);
            }
            if take < CHUNK as u64 {
                break;
            }
            at = at.saturating_add(take.saturating_sub(overlap));
        }
        Ok(None)
    }

    /// The piece that holds `at`: at least one byte of it. Pieces lie on multiples of their size, so that one never reaches
    /// into pages behind the blob further than needed; where even that fails, because nothing is mapped there, a page does.
    fn chunk(&self, at: u64) -> Result<MutexGuard<'_, Chunk>, ReadError> {
        let mut chunk = self.chunk.lock().unwrap_or_else(PoisonError::into_inner);
        let held = at.checked_sub(chunk.at).is_some_and(|skip| skip < chunk.bytes.len() as u64);
        if held {
            return Ok(chunk);
        }
        let past = || ReadError::NotMapped { at: self.start, why: format!("{at:#x} is past its end") };
        let virt = self.start.checked_add(at).filter(|_| at < self.len).ok_or_else(past)?.get();
        let walks = at == chunk.at.saturating_add(chunk.bytes.len() as u64);
        let mut bytes = std::mem::take(&mut chunk.bytes);
        chunk.at = 0;
        let mut failure = past();
        for size in if walks { &[CHUNK, PAGE][..] } else { &[PAGE] } {
            let size = *size;
            let size = size as u64;
            let from = (virt & !(size - 1)).max(self.start.get());
            let to = (virt | (size - 1)).saturating_add(1).min(self.start.get().saturating_add(self.len));
            bytes.resize(usize::try_from(to.saturating_sub(from)).unwrap_or(0), 0);
            match self.memory.read(VirtAddr::new(from), &mut bytes) {
                Ok(()) => {
                    *chunk = Chunk { at: from.saturating_sub(self.start.get()), bytes };
                    return Ok(chunk);
                }
                Err(e) => failure = e,
            }
        }
        Err(failure)
    }
}

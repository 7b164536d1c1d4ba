//! Typed reads.

use super::{Dead, Known, Unknown};
use crate::addr::VirtAddr;
use crate::kernel::printk::Memory;

/// Bytes of one read by [`Dead::bytes`] at most.
const MAX_BYTES: usize = 16 << 20;

impl Dead<'_> {
    /// Fills `buf` from virtual address `at`.
    pub fn read(&self, at: u64, buf: &mut [u8]) -> Known<()> {
        let read = self.memory.read(VirtAddr::new(at), buf);
        read.map_err(|e| if self.budget().is_over() { Unknown::Deadline } else { e.into() })
    }
    /// `len` bytes from `at`.
    pub fn bytes(&self, at: u64, len: usize) -> Known<Vec<u8>> {
        if len > MAX_BYTES {
            return Err(Unknown::senseless(format!("{len} bytes at {at:#x} cannot be")));
        }
        let mut bytes = vec![0; len];
        self.read(at, &mut bytes)?;
        Ok(bytes)
    }
    /// The byte at `at`.
    pub fn u8(&self, at: u64) -> Known<u8> {
        let mut raw = [0];
        self.read(at, &mut raw)?;
        Ok(u8::from_ne_bytes(raw))
    }
    /// The `u16` at `at`.
    pub fn u16(&self, at: u64) -> Known<u16> {
        let mut raw = [0; 2];
        self.read(at, &mut raw)?;
        Ok(self.endian().u16(&raw, 0).unwrap_or(0))
    }
    /// The `u32` at `at`.
    pub fn u32(&self, at: u64) -> Known<u32> {
        let mut raw = [0; 4];
        self.read(at, &mut raw)?;
        Ok(self.endian().u32(&raw, 0).unwrap_or(0))
    }
    /// The `int` at `at`.
    pub fn i32(&self, at: u64) -> Known<i32> {
        Ok(self.u32(at)?.cast_signed())
    }
    /// The `u64`, `unsigned long` or pointer at `at`.
    pub fn u64(&self, at: u64) -> Known<u64> {
        let mut raw = [0; 8];
        self.read(at, &mut raw)?;
        Ok(self.endian().u64(&raw, 0).unwrap_or(0))
    }
    /// The `long` at `at`.
    pub fn i64(&self, at: u64) -> Known<i64> {
        Ok(self.u64(at)?.cast_signed())
    }
    /// An unsigned number of 1, 2, 4 or 8 bytes.
    pub fn number(&self, at: u64, size: u64) -> Known<u64> {
        Ok(match size {
            1 => u64::from(self.u8(at)?),
            2 => u64::from(self.u16(at)?),
            4 => u64::from(self.u32(at)?),
            8 => self.u64(at)?,
            _ => return Err(Unknown::senseless(format!("a number of {size} bytes"))),
        })
    }
    /// The string at `at` up to its NUL, at most `most` bytes; what is no UTF-8 or no printable character is `?`.
    pub fn cstring(&self, at: u64, most: usize) -> Known<String> {
        let mut text = Vec::new();
        let mut at = at;
        let mut piece = [0; 64];
        while text.len() < most {
            // Up to the end of a page at most: the next may not be there.
            let take = usize::try_from(4096 - at % 4096).unwrap_or(1).min(piece.len());
            let take = take.min(most.saturating_sub(text.len()));
            let piece = piece.get_mut(..take).unwrap_or_default();
            self.read(at, piece)?;
            let end = piece.iter().position(|b| *b == 0);
            text.extend_from_slice(piece.get(..end.unwrap_or(take)).unwrap_or_default());
            if end.is_some() {
                break;
            }
            at = at.wrapping_add(take as u64);
        }
        Ok(printable(&text))
    }
}

/// Text of a dead kernel, fit for a terminal.
pub(super) fn printable(text: &[u8]) -> String {
    let clean = |c: char| if c.is_control() || c == char::REPLACEMENT_CHARACTER { '?' } else { c };
    String::from_utf8_lossy(text).chars().map(clean).collect()
}

//! Memory as a source: tests, and parts of files that were read in whole.

use super::{ReadAt, Window};
use crate::addr::FileOffset;
use std::io;

/// The bytes `[at, at + len)` of `bytes`.
fn slice(bytes: &[u8], at: FileOffset, len: usize) -> io::Result<&[u8]> {
    let start = usize::try_from(at.get()).map_err(io::Error::other)?;
    let end = start.checked_add(len).ok_or(io::ErrorKind::UnexpectedEof)?;
    bytes.get(start..end).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

impl ReadAt for Vec<u8> {
    fn size(&self) -> u64 {
        self.len() as u64
    }
    fn read_at(&self, at: FileOffset, buf: &mut [u8]) -> io::Result<()> {
        buf.copy_from_slice(slice(self, at, buf.len())?);
        Ok(())
    }
    fn window(&self, at: FileOffset, len: usize) -> io::Result<Window<'_>> {
        Ok(Box::new(slice(self, at, len)?))
    }
    fn window_len(&self) -> usize {
        4 << 20
    }
}

//! Sources that are others: memory (tests, and parts of files that were read in whole), references, boxes.

use super::{Image, ReadAt, Window};
use crate::addr::FileOffset;
use crate::problem::Problem;
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

macro_rules! forward {
    ($($pointer:ty),*) => {$(
        impl<T: ReadAt + ?Sized> ReadAt for $pointer {
            fn size(&self) -> u64 {
                (**self).size()
            }
            fn read_at(&self, at: FileOffset, buf: &mut [u8]) -> io::Result<()> {
                (**self).read_at(at, buf)
            }
            fn window(&self, at: FileOffset, len: usize) -> io::Result<Window<'_>> {
                (**self).window(at, len)
            }
            fn window_len(&self) -> usize {
                (**self).window_len()
            }
            fn maps(&self) -> bool {
                (**self).maps()
            }
            fn reads_cheaply(&self) -> bool {
                (**self).reads_cheaply()
            }
            fn expect(&self, at: FileOffset, len: u64) {
                (**self).expect(at, len);
            }
            fn is_torn(&self) -> bool {
                (**self).is_torn()
            }
            fn image(&self) -> Option<&Image> {
                (**self).image()
            }
            fn file(&self) -> Option<&dyn ReadAt> {
                (**self).file()
            }
            fn complaints(&self) -> &[Problem] {
                (**self).complaints()
            }
        }
    )*};
}

forward!(&T, Box<T>);

//! Dumps into pipes: the flattened format, and plain bytes.
//!
//! Flattened (makedumpfile's `-F`): a file as a sequence of records, so that a writer that goes back and forth can write
//! into a pipe. `makedumpfile -R`, crash and libkdumpfile read it, and [`super::read`].
//!
//! ```text
//! 0     4096   "makedumpfile", NUL-padded to 16; type = 1, version = 1; zeros
//! 4096  …      records: offset, length, then that many bytes
//! end   16     offset = length = -1
//! ```
//!
//! Numbers are 64-bit and big-endian, whatever the machine.

use super::DumpSink;
use crate::addr::FileOffset;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

/// First bytes of a flattened file.
pub const SIGNATURE: &[u8; 12] = b"makedumpfile";

/// Bytes of the header.
pub const HEADER: usize = 4096;

/// A file as records in a stream. What is missing at the end when the writer is killed shows that it is cut.
#[derive(Debug)]
pub struct Flattened<W> {
    out: Mutex<Begun<W>>,
}

#[derive(Debug)]
struct Begun<W> {
    out: W,
    begun: bool,
}

impl<W: Write + Send> Flattened<W> {
    /// Writes to `out`, large pieces at a time.
    pub fn new(out: W) -> Self {
        Self { out: Mutex::new(Begun { out, begun: false }) }
    }
    /// What was written to.
    pub fn into_inner(self) -> W {
        self.out.into_inner().unwrap_or_else(PoisonError::into_inner).out
    }
}

impl<W: Write> Begun<W> {
    fn begin(&mut self) -> io::Result<()> {
        if !self.begun {
            let mut header = Vec::with_capacity(HEADER);
            header.extend_from_slice(SIGNATURE);
            header.resize(16, 0);
            header.extend_from_slice(&1_i64.to_be_bytes());
            header.extend_from_slice(&1_i64.to_be_bytes());
            header.resize(HEADER, 0);
            self.out.write_all(&header)?;
            self.begun = true;
        }
        Ok(())
    }

    fn record(&mut self, at: i64, len: i64, bytes: &[u8]) -> io::Result<()> {
        self.begin()?;
        let mut head = [0; 16];
        let (offset, size) = head.split_at_mut(8);
        offset.copy_from_slice(&at.to_be_bytes());
        size.copy_from_slice(&len.to_be_bytes());
        self.out.write_all(&head)?;
        self.out.write_all(bytes)
    }
}

impl<W: Write + Send> DumpSink for Flattened<W> {
    fn write_at(&self, at: FileOffset, bytes: &[u8]) -> io::Result<()> {
        let at = i64::try_from(at.get()).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let len = i64::try_from(bytes.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
        at.checked_add(len).ok_or(io::ErrorKind::FileTooLarge)?;
        if bytes.is_empty() {
            return Ok(());
        }
        self.out.lock().unwrap_or_else(PoisonError::into_inner).record(at, len, bytes)
    }
    fn finish(&self) -> io::Result<()> {
        let mut begun = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        begun.record(-1, -1, &[])?;
        begun.out.flush()
    }
    fn is_stream(&self) -> bool {
        true
    }
}

/// The bytes of a file in their order: for ELF and raw dumps, which are written from front to back. Gaps become zeros.
#[derive(Debug)]
pub struct Plain<W> {
    out: Mutex<(W, u64)>,
}

impl<W: Write + Send> Plain<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> Self {
        Self { out: Mutex::new((out, 0)) }
    }
    /// The writer, for what it wants at its end.
    pub fn into_inner(self) -> W {
        self.out.into_inner().unwrap_or_else(PoisonError::into_inner).0
    }
}

impl<W: Write + Send> DumpSink for Plain<W> {
    /// [`io::ErrorKind::NotSeekable`] when the position has passed.
    fn write_at(&self, at: FileOffset, bytes: &[u8]) -> io::Result<()> {
        static ZEROS: [u8; 65536] = [0; 65536];
        let mut guard = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        let (out, position) = &mut *guard;
        let mut gap = at.get().checked_sub(*position).ok_or(io::ErrorKind::NotSeekable)?;
        while gap > 0 {
            let len = usize::try_from(gap).unwrap_or(usize::MAX).min(ZEROS.len());
            out.write_all(ZEROS.get(..len).unwrap_or_default())?;
            gap = gap.saturating_sub(len as u64);
        }
        out.write_all(bytes)?;
        *position = at.checked_add(bytes.len() as u64).ok_or(io::ErrorKind::FileTooLarge)?.get();
        Ok(())
    }
    fn finish(&self) -> io::Result<()> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner).0.flush()
    }
    fn is_stream(&self) -> bool {
        true
    }
}

/// Lends a sink to what writes a stream: bytes one after the other, from the start.
pub(super) struct Onward<'s> {
    sink: &'s dyn DumpSink,
    at: u64,
}

impl<'s> Onward<'s> {
    /// From position 0 on.
    pub fn new(sink: &'s dyn DumpSink) -> Self {
        Self { sink, at: 0 }
    }
    /// Bytes written.
    pub fn written(&self) -> u64 {
        self.at
    }
}

impl Write for Onward<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sink.write_at(FileOffset::new(self.at), bytes)?;
        self.at = self.at.checked_add(bytes.len() as u64).ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod testing {
    /// The file that a flattened stream stands for; panics when it is not whole, or says something twice.
    pub(crate) fn unflatten(stream: &[u8]) -> (Vec<u8>, Vec<(u64, u64)>) {
        assert_eq!(&stream[..12], super::SIGNATURE);
        assert_eq!(stream[16..32], [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1]);
        let mut at = super::HEADER;
        let (mut file, mut records) = (Vec::new(), Vec::new());
        loop {
            let number = |at: usize| i64::from_be_bytes(stream[at..at + 8].try_into().unwrap());
            let (offset, len) = (number(at), number(at + 8));
            at += 16;
            if (offset, len) == (-1, -1) {
                assert_eq!(at, stream.len());
                return (file, records);
            }
            let (from, len) = (usize::try_from(offset).unwrap(), usize::try_from(len).unwrap());
            assert!(len > 0);
            if file.len() < from + len {
                file.resize(from + len, 0);
            }
            file[from..from + len].copy_from_slice(&stream[at..at + len]);
            records.push((from as u64, len as u64));
            at += len;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_bytes_have_gaps_filled_and_never_go_back() {
        let sink = Plain::new(Vec::new());
        sink.write_at(FileOffset::new(2), b"ab").unwrap();
        sink.write_at(FileOffset::new(70_000), b"c").unwrap();
        let error = sink.write_at(FileOffset::new(3), b"x").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotSeekable);
        sink.finish().unwrap();
        let bytes = sink.into_inner();
        assert_eq!((&bytes[..5], bytes.len(), bytes[70_000]), (&b"\0\0ab\0"[..], 70_001, b'c'));
    }

    #[test]
    fn records_come_back() {
        let sink = Flattened::new(Vec::new());
        sink.write_at(FileOffset::new(9), b"nine").unwrap();
        sink.write_at(FileOffset::new(1), b"one").unwrap();
        sink.write_at(FileOffset::new(5), b"").unwrap();
        assert!(sink.write_at(FileOffset::new(u64::MAX), b"x").is_err());
        sink.finish().unwrap();
        let stream = sink.into_inner();
        let (file, records) = testing::unflatten(&stream);
        assert_eq!((file.as_slice(), records), (&b"\0one\0\0\0\0\0nine"[..], vec![(9, 4), (1, 3)]));
    }
}

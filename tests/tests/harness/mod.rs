//! A vmcore and a sink in memory, and the engine between them.

use collector::addr::FileOffset;
use collector::format::DumpSink;
use collector::plan::{Compression, DumpSpec, Format};
use collector::vmcore::{ReadAt, Window};
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// A vmcore in memory.
pub struct Bytes<'a> {
    /// The file.
    pub bytes: &'a [u8],
    /// Largest window that it lends.
    pub window: usize,
}

impl<'a> Bytes<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, window: 1 << 20 }
    }

    fn slice(&self, at: FileOffset, len: usize) -> io::Result<&'a [u8]> {
        let from = usize::try_from(at.get()).map_err(io::Error::other)?;
        let slice = from.checked_add(len).and_then(|end| self.bytes.get(from..end));
        slice.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

impl ReadAt for Bytes<'_> {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }
    fn read_at(&self, at: FileOffset, buf: &mut [u8]) -> io::Result<()> {
        buf.copy_from_slice(self.slice(at, buf.len())?);
        Ok(())
    }
    fn window(&self, at: FileOffset, len: usize) -> io::Result<Window<'_>> {
        Ok(Box::new(self.slice(at, len)?))
    }
    fn window_len(&self) -> usize {
        self.window
    }
}

/// A dump in memory.
#[derive(Default)]
pub struct Sink {
    written: Mutex<Vec<u8>>,
    finished: AtomicBool,
}

impl Sink {
    /// The file, and whether the writer finished it.
    pub fn into_parts(self) -> (Vec<u8>, bool) {
        (self.written.into_inner().unwrap(), self.finished.into_inner())
    }
}

/// More than any dump of a synthetic machine: an engine that writes past it is broken.
const SINK_LIMIT: usize = 256 << 20;

impl DumpSink for Sink {
    fn write_at(&self, at: FileOffset, bytes: &[u8]) -> io::Result<()> {
        let from = usize::try_from(at.get()).map_err(io::Error::other)?;
        let end = from.checked_add(bytes.len()).filter(|end| *end <= SINK_LIMIT);
        let end = end.ok_or_else(|| io::Error::new(io::ErrorKind::StorageFull, "past the sink's limit"))?;
        let mut written = self.written.lock().unwrap();
        if written.len() < end {
            written.resize(end, 0);
        }
        written[from..end].copy_from_slice(bytes);
        Ok(())
    }
    fn finish(&self) -> io::Result<()> {
        self.finished.store(true, Ordering::Relaxed);
        Ok(())
    }
}

pub fn dump_spec(level: u8, format: Format, compression: Compression) -> DumpSpec {
    DumpSpec::new("vmcore", level, format, compression)
}

//! Where page data and descriptors go: into a file at once and in any order, into a stream in large pieces.

use crate::addr::FileOffset;
use crate::format::DumpSink;
use crate::format::layout::PageDesc;
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use zerocopy::IntoBytes;

/// Descriptors of a piece of a stream: 1 MiB. Each piece lies far from its neighbours in the stream, and crash, which
/// sorts them, takes time for each.
const STREAMED: usize = (1 << 20) / size_of::<PageDesc>();

/// Space in the file, shared by all threads.
pub(super) struct Place<'s> {
    sink: &'s dyn DumpSink,
    stream: bool,
    /// File offset of the table of descriptors.
    descs_at: u64,
    space: Mutex<Space>,
    /// End of what was written.
    end: AtomicU64,
}

/// What has been given out.
#[derive(Default)]
struct Space {
    /// Where the next page data goes.
    next: u64,
    /// Streams only: descriptors that wait for those before them, by index.
    early: BTreeMap<u64, Vec<PageDesc>>,
    /// Streams only: descriptors that wait to be a large piece, the first with index `ready_from`.
    ready: Vec<PageDesc>,
    ready_from: u64,
}

impl<'s> Place<'s> {
    /// A table of descriptors at `descs_at` and page data from `data_at` on.
    pub fn new(sink: &'s dyn DumpSink, descs_at: u64, data_at: u64) -> Self {
        Self {
            sink,
            stream: sink.is_stream(),
            descs_at,
            space: Mutex::new(Space { next: data_at, ..Space::default() }),
            end: AtomicU64::new(data_at),
        }
    }

    /// End of the file as it is.
    pub fn end(&self) -> u64 {
        self.end.load(Ordering::Relaxed)
    }

    /// Writes page data somewhere; returns where. Where writing fails the space stays empty.
    pub fn data(&self, bytes: &[u8]) -> io::Result<u64> {
        let mut space = self.space.lock().unwrap_or_else(PoisonError::into_inner);
        let at = space.next;
        space.next = at.checked_add(bytes.len() as u64).ok_or(io::ErrorKind::FileTooLarge)?;
        // Into a file all threads write at once; a stream has one end.
        let in_turn = if self.stream { Some(space) } else { None };
        self.sink.write_at(FileOffset::new(at), bytes)?;
        drop(in_turn);
        self.end.fetch_max(at.saturating_add(bytes.len() as u64), Ordering::Relaxed);
        Ok(at)
    }

    /// Writes the descriptors with the indices from `first` on.
    pub fn descs(&self, first: u64, descs: &[PageDesc]) -> io::Result<()> {
        if !self.stream {
            return self.put(first, descs);
        }
        let mut space = self.space.lock().unwrap_or_else(PoisonError::into_inner);
        let space = &mut *space;
        if first != space.ready_from.saturating_add(space.ready.len() as u64) {
            space.early.insert(first, descs.to_vec());
            return Ok(());
        }
        space.ready.extend_from_slice(descs);
        while let Some(next) = space.early.remove(&space.ready_from.saturating_add(space.ready.len() as u64))
        {
            space.ready.extend_from_slice(&next);
        }
        if space.ready.len() >= STREAMED { self.drain(space) } else { Ok(()) }
    }

    /// Writes what was gathered.
    pub fn finish(&self) -> io::Result<()> {
        let mut space = self.space.lock().unwrap_or_else(PoisonError::into_inner);
        debug_assert!(space.early.is_empty());
        self.drain(&mut space)
    }

    fn drain(&self, space: &mut Space) -> io::Result<()> {
        if !space.ready.is_empty() {
            self.put(space.ready_from, &space.ready)?;
            space.ready_from = space.ready_from.saturating_add(space.ready.len() as u64);
            space.ready.clear();
        }
        Ok(())
    }

    fn put(&self, first: u64, descs: &[PageDesc]) -> io::Result<()> {
        let skip = first.checked_mul(size_of::<PageDesc>() as u64);
        let at = skip.and_then(|s| s.checked_add(self.descs_at)).ok_or(io::ErrorKind::FileTooLarge)?;
        self.sink.write_at(FileOffset::new(at), descs.as_bytes())
    }
}

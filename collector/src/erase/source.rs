//! A vmcore's bytes, with patches on what is lent.

use super::{Patch, fill, tidy};
use crate::addr::FileOffset;
use crate::vmcore::{ReadAt, Vmcore, Window};
use std::io;

/// Bytes of a window: those with erased bytes in them are copies, so they are not as large as mappings.
const WINDOW: usize = 1 << 20;

/// A source whose erased bytes nobody sees.
#[expect(missing_debug_implementations, reason = "holds a dead kernel's memory")]
pub struct Source<'a> {
    inner: &'a dyn ReadAt,
    /// File offsets.
    patches: Vec<Patch>,
}

impl<'a> Source<'a> {
    /// Covers the source of `vmcore`. `patches` are of physical memory; where segments overlap, each copy is covered.
    pub fn new(vmcore: &Vmcore<'a>, patches: &[Patch]) -> Self {
        let patches = tidy(patches.to_vec());
        let mut in_file = Vec::new();
        for segment in vmcore.segments() {
            let start = segment.start.get();
            let end = start.saturating_add(segment.file_len);
            let to_file = |at: u64| at.saturating_sub(start).saturating_add(segment.offset.get());
            let first = patches.partition_point(|p| p.end <= start);
            let here = patches.get(first..).unwrap_or_default().iter().take_while(|p| p.start < end);
            in_file.extend(here.map(|p| Patch {
                start: to_file(p.start.max(start)),
                end: to_file(p.end.min(end)),
                fill: p.fill,
            }));
        }
        Self { inner: vmcore.source(), patches: tidy(in_file) }
    }

    fn touches(&self, at: FileOffset, len: usize) -> bool {
        let end = at.get().saturating_add(len as u64);
        let next = self.patches.partition_point(|p| p.end <= at.get());
        self.patches.get(next).is_some_and(|p| p.start < end)
    }
}

impl ReadAt for Source<'_> {
    fn size(&self) -> u64 {
        self.inner.size()
    }
    fn read_at(&self, at: FileOffset, buf: &mut [u8]) -> io::Result<()> {
        let read = self.inner.read_at(at, buf);
        // Also after an error: part of it may have been read.
        fill(&self.patches, at.get(), buf);
        read
    }
    fn window(&self, at: FileOffset, len: usize) -> io::Result<Window<'_>> {
        if !self.touches(at, len) {
            return self.inner.window(at, len);
        }
        if len > WINDOW {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let mut bytes = vec![0; len];
        self.read_at(at, &mut bytes)?;
        Ok(Box::new(bytes))
    }
    fn window_len(&self) -> usize {
        self.inner.window_len().min(WINDOW)
    }
    fn expect(&self, at: FileOffset, len: u64) {
        self.inner.expect(at, len);
    }
    fn is_torn(&self) -> bool {
        self.inner.is_torn()
    }
}

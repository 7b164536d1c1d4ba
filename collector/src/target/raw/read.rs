//! Reading a dump off the partition.

use super::directory::{Dump, FileRecord};
use super::layout::{CHUNK, PAYLOAD};
use super::partition::Partition;
use crate::target::blocks::Buffer;
use std::io;

/// What there was of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Content {
    /// Its record.
    pub file: FileRecord,
    /// Bytes that it has: those of the record where they can be, else up to the last that was found.
    pub length: u64,
    /// Chunks that were found.
    pub found: u64,
    /// Chunks of which the bytes are not those that were written.
    pub damaged: u64,
}

impl Content {
    /// What is wrong with it.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        let missing = self.file.chunks.saturating_sub(self.found);
        match (self.damaged, missing) {
            (0, 0) => None,
            // A writer that was killed had some in its hands.
            (0, _) if !self.file.finished => None,
            (0, missing) => Some(format!("{missing} of {} MiB are not there", self.file.chunks)),
            (damaged, _) => Some(format!("{damaged} of {} MiB are damaged", self.found)),
        }
    }
}

/// Whoever is handed a file, a position in it, and bytes that belong there.
type Take<'t> = dyn FnMut(&FileRecord, u64, &[u8]) -> io::Result<()> + 't;

impl Partition {
    /// Hands out all that there is of a dump, as it lies on the disk: the file, the position in it, the bytes. Memory is one
    /// chunk. An error is `take`'s: what cannot be read is counted.
    pub fn read_dump(&self, dump: &Dump, take: &mut Take<'_>) -> io::Result<Vec<Content>> {
        let directory = self.directory();
        let later = directory.dumps.iter().map(|other| other.first).filter(|first| *first > dump.first);
        let end = later.min().unwrap_or(u64::MAX).min(directory.next).min(self.label().chunks());
        let empty = |file: &FileRecord| Content { file: file.clone(), length: 0, found: 0, damaged: 0 };
        let mut contents: Vec<Content> = directory.files_of(dump.id).map(empty).collect();
        let mut buffer = Buffer::new(usize::try_from(CHUNK).map_err(io::Error::other)?);
        for n in dump.first..end {
            let chunk = match self.read_chunk(n, &mut buffer) {
                Ok(Some(chunk)) if chunk.dump == dump.id => chunk,
                // Of a file that was removed, or one that its writer had not written yet.
                Ok(_) => continue,
                Err(e) => {
                    log::warn!("{}: chunk {n}: {e}", self.node());
                    continue;
                }
            };
            let Some(content) = contents.iter_mut().find(|c| c.file.id == chunk.file) else { continue };
            let at = chunk.index.saturating_mul(PAYLOAD);
            let len = u64::try_from(chunk.data.len()).map_err(io::Error::other)?;
            content.found = content.found.saturating_add(1);
            content.damaged = content.damaged.saturating_add(u64::from(!chunk.intact));
            content.length = content.length.max(at.saturating_add(len));
            take(&content.file, at, chunk.data)?;
        }
        for content in &mut contents {
            if content.file.finished {
                content.length = content.file.length;
            }
        }
        Ok(contents)
    }
}

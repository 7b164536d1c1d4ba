//! Sources and sinks that do what tests ask.

use super::{DumpSink, PageSource};
use crate::addr::{FileOffset, PageSize, Pfn, PhysAddr};
use crate::filter::{Account, Bitmap, Level, Selection};
use crate::vmcore::{ReadError, Window};
use std::collections::BTreeMap;
use std::io;
use std::sync::Mutex;

/// Pages by number; `None` cannot be read.
pub(crate) struct Pages {
    pub size: PageSize,
    pub pages: BTreeMap<u64, Option<Vec<u8>>>,
    /// Pages of a window at most.
    pub window: u64,
    pub cheap: bool,
}

impl PageSource for Pages {
    fn page_size(&self) -> PageSize {
        self.size
    }
    fn windows_are_cheap(&self) -> bool {
        self.cheap
    }
    fn window(&self, pfn: Pfn, most: u64) -> Result<Window<'_>, ReadError> {
        let mut bytes = Vec::new();
        for at in pfn.get()..pfn.get() + most.min(self.window) {
            let Some(page) = self.pages.get(&at) else { break };
            bytes.extend_from_slice(
                page.as_ref().ok_or(ReadError::Io(FileOffset::new(at), io::ErrorKind::Other.into()))?,
            );
        }
        if bytes.is_empty() { Err(ReadError::NotBacked(PhysAddr::new(0))) } else { Ok(Box::new(bytes)) }
    }
    fn page(&self, pfn: Pfn, buf: &mut [u8]) -> Result<(), ReadError> {
        let page = self.pages.get(&pfn.get()).ok_or(ReadError::NotBacked(PhysAddr::new(0)))?;
        let page =
            page.as_ref().ok_or(ReadError::Io(FileOffset::new(pfn.get()), io::ErrorKind::Other.into()))?;
        buf.copy_from_slice(page);
        Ok(())
    }
}

pub(crate) fn bitmap(pfns: impl IntoIterator<Item = u64>, len: u64) -> Bitmap {
    let mut map = Bitmap::new(len);
    for pfn in pfns {
        map.set_range(Pfn::new(pfn), Pfn::new(pfn + 1));
    }
    map
}

/// What a filter would have said: what is present and not kept was free.
pub(crate) fn selection(present: Bitmap, keep: Bitmap, level: u8) -> Selection {
    let account = Account {
        present: present.count(),
        kept: keep.count(),
        free: present.count() - keep.count(),
        ..Account::default()
    };
    Selection { present, keep, account, level: Level::new(level).unwrap() }
}

/// A file in memory on a disk with `room` bytes: what was written once can be written again.
#[derive(Default)]
pub(crate) struct Sink {
    pub bytes: Vec<u8>,
    allocated: Vec<bool>,
    used: usize,
    pub room: Option<usize>,
}

impl Sink {
    pub(crate) fn with_room(room: usize) -> Self {
        Self { room: Some(room), ..Self::default() }
    }
    pub(crate) fn used(&self) -> usize {
        self.used
    }
}

impl DumpSink for Mutex<Sink> {
    fn write_at(&self, at: FileOffset, bytes: &[u8]) -> io::Result<()> {
        self.lock().unwrap().put(at, bytes)
    }
    fn finish(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Lends `sink` to a writer, which wants one that it can share.
pub(crate) fn through<T>(sink: &mut Sink, write: impl FnOnce(&dyn DumpSink) -> T) -> T {
    let shared = Mutex::new(std::mem::take(sink));
    let outcome = write(&shared);
    *sink = shared.into_inner().unwrap();
    outcome
}

impl Sink {
    fn put(&mut self, at: FileOffset, bytes: &[u8]) -> io::Result<()> {
        let start = usize::try_from(at.get()).unwrap();
        let end = start + bytes.len();
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
            self.allocated.resize(end, false);
        }
        let new = self.allocated[start..end].iter().filter(|a| !**a).count();
        if self.room.is_some_and(|room| self.used + new > room) {
            // A disk takes what fits.
            let fits = self.room.unwrap() - self.used;
            let mut taken = 0;
            for (index, byte) in (start..end).zip(bytes) {
                if !self.allocated[index] {
                    taken += 1;
                    if taken > fits {
                        break;
                    }
                    self.allocated[index] = true;
                    self.used += 1;
                }
                self.bytes[index] = *byte;
            }
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.bytes[start..end].copy_from_slice(bytes);
        self.allocated[start..end].fill(true);
        self.used += new;
        Ok(())
    }
}

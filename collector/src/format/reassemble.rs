//! From the parts of a split dump to one file: makedumpfile's `--reassemble`.
//!
//! Page data is copied as it is stored; nothing is decompressed. The headers, notes and bitmaps are the first part's, which
//! all parts share.

use super::DumpSink;
use super::is_zero;
use super::layout::{DiskDumpHeader, Flags, KdumpSubHeader, PageDesc};
use super::read::{KdumpError, KdumpFile};
use crate::addr::{FileOffset, Pfn};
use crate::manifest::Stage;
use crate::progress::Progress;
use crate::vmcore::{Endian, ReadAt};
use std::io;
use zerocopy::IntoBytes;

/// Headers and notes past this many bytes are not copied.
const MAX_HEAD: u64 = 65 << 20;
/// Bytes that are copied at a time.
const PIECE: usize = 1 << 20;
/// Descriptors that are handled at a time.
const BATCH: usize = 4096;
/// Bytes of a descriptor.
const DESC: u64 = size_of::<PageDesc>() as u64;

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
pub enum ReassembleError {
    /// The parts cannot be read.
    #[error(transparent)]
    Dump(#[from] KdumpError),
    /// The headers are larger than they can be.
    #[error("headers and notes of {0} bytes")]
    Head(u64),
    /// A part cannot be read.
    #[error("cannot read a part at offset {at}")]
    Read {
        /// Where.
        at: FileOffset,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("cannot write the dump")]
    Write(#[from] io::Error),
}

/// What was put together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reassembled {
    /// Length of the file.
    pub bytes: u64,
    /// Pages with data.
    pub pages: u64,
    /// Pages that are missing: a part is not there, or does not have them. The dump is then marked incomplete.
    pub missing: u64,
}

/// Writes one file with the pages of all parts. What a part does not have is missing in it; see [`Reassembled::missing`], and
/// the complaints of `dump` for what was wrong with the set.
pub fn reassemble(
    dump: &KdumpFile<'_>,
    sink: &dyn DumpSink,
    progress: &dyn Progress,
) -> Result<Reassembled, ReassembleError> {
    let block = dump.page_size().bytes();
    let layout = dump.layout();
    let descs = dump.describes().dumped.count();
    let table_end = descs.checked_mul(DESC).and_then(|len| len.checked_add(layout.descs));
    let zeros = table_end.ok_or(ReassembleError::Head(u64::MAX))?;
    let erased_at = zeros.saturating_add(block);
    let erased = &dump.describes().erased;
    let data = erased_at.saturating_add(erased.len() as u64);

    let first = dump.first_part();
    let mut head = head(dump, first, layout.first_bitmap, erased_at, erased.len() as u64)?;
    set_status(dump, &mut head, true);
    sink.write_at(FileOffset::new(0), &head)?;
    copy(first, layout.first_bitmap, layout.descs, sink)?;
    // The block that all pages of zeros share; it also closes the gap behind the bitmaps.
    let block_len = usize::try_from(block).unwrap_or(0);
    sink.write_at(FileOffset::new(zeros), &vec![0; block_len])?;
    if !erased.is_empty() {
        sink.write_at(FileOffset::new(erased_at), erased)?;
    }

    let mut out = Out {
        dump,
        sink,
        zeros,
        desc_at: layout.descs,
        data_at: data,
        buffer: Vec::new(),
        descs: Vec::with_capacity(BATCH),
        stored: Vec::new(),
        done: Reassembled { pages: descs, ..Reassembled::default() },
    };
    let mut batch = vec![PageDesc::default(); BATCH];
    let mut seen = 0_u64;
    for (start, end) in dump.describes().dumped.runs() {
        let mut at = start;
        while at < end {
            let left = usize::try_from(end.get().saturating_sub(at.get())).unwrap_or(usize::MAX).min(BATCH);
            let wanted = batch.get_mut(..left).unwrap_or_default();
            // A table that is cut off has no descriptors, and neither has a part that is not there.
            let (found, part) = dump.descriptors(at, wanted).unwrap_or((0, 0));
            match dump.part_source(part).filter(|_| found > 0) {
                Some(source) => {
                    for desc in wanted.iter().take(found) {
                        out.add(source, *desc)?;
                    }
                }
                None => out.push_missing()?,
            }
            let step = found.max(1) as u64;
            at = Pfn::new(at.get().saturating_add(step));
            seen = seen.saturating_add(step);
            progress.update(Stage::Dump, "reassembling", seen, descs, out.data_at);
        }
    }
    out.flush()?;
    let mut done = out.done;
    done.bytes = out.data_at;
    set_status(dump, &mut head, done.missing > 0);
    sink.write_at(FileOffset::new(0), head.get(..block_len).unwrap_or(&head))?;
    sink.finish()?;
    Ok(done)
}

/// Everything before the bitmaps, as a dump of one file has it.
fn head(
    dump: &KdumpFile<'_>,
    first: &dyn ReadAt,
    len: u64,
    erased_at: u64,
    erased: u64,
) -> Result<Vec<u8>, ReassembleError> {
    if len > MAX_HEAD {
        return Err(ReassembleError::Head(len));
    }
    let mut bytes = vec![0; usize::try_from(len).map_err(|_| ReassembleError::Head(len))?];
    let at = FileOffset::new(0);
    first.read_at(at, &mut bytes).map_err(|source| ReassembleError::Read { at, source })?;
    let version = dump.header().header_version.get();
    let sub = dump.page_size().len();
    let mut set = |at: usize, since: i32, size: usize, value: u64| {
        if version >= since {
            put(&mut bytes, sub.saturating_add(at), size, value, dump.endian());
        }
    };
    use std::mem::offset_of;
    set(offset_of!(KdumpSubHeader, split), 2, 4, 0);
    set(offset_of!(KdumpSubHeader, start_pfn), 2, 8, 0);
    set(offset_of!(KdumpSubHeader, end_pfn), 2, 8, 0);
    set(offset_of!(KdumpSubHeader, offset_eraseinfo), 5, 8, if erased > 0 { erased_at } else { 0 });
    set(offset_of!(KdumpSubHeader, size_eraseinfo), 5, 8, erased);
    set(offset_of!(KdumpSubHeader, start_pfn_64), 6, 8, 0);
    set(offset_of!(KdumpSubHeader, end_pfn_64), 6, 8, 0);
    Ok(bytes)
}

/// The header's status: the first part's codec, and whether pages are missing.
fn set_status(dump: &KdumpFile<'_>, head: &mut [u8], incomplete: bool) {
    let codec = dump.header().status.get() & !Flags::INCOMPLETE.0;
    let status = if incomplete { codec | Flags::INCOMPLETE.0 } else { codec };
    put(head, std::mem::offset_of!(DiskDumpHeader, status), 4, u64::from(status), dump.endian());
}

/// Writes an integer of 4 or 8 bytes.
fn put(bytes: &mut [u8], at: usize, size: usize, value: u64, endian: Endian) {
    let mut raw = value.to_le_bytes();
    let field = raw.get_mut(..size).unwrap_or_default();
    if endian == Endian::Big {
        field.reverse();
    }
    if let Some(to) = bytes.get_mut(at..at.saturating_add(size)) {
        to.copy_from_slice(field);
    }
}

/// Copies `[from, to)`; zeros stay gaps.
fn copy(source: &dyn ReadAt, from: u64, to: u64, sink: &dyn DumpSink) -> Result<(), ReassembleError> {
    let mut buf = vec![0; PIECE];
    let mut at = from;
    while at < to {
        let take = usize::try_from(to - at).unwrap_or(usize::MAX).min(PIECE);
        let piece = buf.get_mut(..take).unwrap_or_default();
        let here = FileOffset::new(at);
        source.read_at(here, piece).map_err(|source| ReassembleError::Read { at: here, source })?;
        if !is_zero(piece) {
            sink.write_at(here, piece)?;
        }
        at = at.saturating_add(take as u64);
    }
    Ok(())
}

/// The pages on their way out.
struct Out<'d, 'a> {
    dump: &'d KdumpFile<'a>,
    sink: &'d dyn DumpSink,
    zeros: u64,
    /// Where the next descriptors and the next data go.
    desc_at: u64,
    data_at: u64,
    /// Data that is not yet written; it ends at `data_at`.
    buffer: Vec<u8>,
    descs: Vec<PageDesc>,
    /// A page as it is stored.
    stored: Vec<u8>,
    done: Reassembled,
}

impl Out<'_, '_> {
    /// Takes a page over.
    fn add(&mut self, source: &dyn ReadAt, desc: PageDesc) -> Result<(), ReassembleError> {
        let page = self.dump.page_size().len();
        let size = usize::try_from(desc.size.get()).unwrap_or(usize::MAX);
        let at = FileOffset::new(desc.offset.get());
        if at.get() == 0 || size == 0 || size > page {
            return self.push_missing();
        }
        self.stored.resize(size, 0);
        if source.read_at(at, &mut self.stored).is_err() {
            return self.push_missing();
        }
        let raw = Flags(desc.flags.get()) == Flags::RAW;
        if raw && size == page && is_zero(&self.stored) {
            return self.push(PageDesc { offset: self.zeros.into(), ..desc });
        }
        let offset = self.data_at;
        self.buffer.extend_from_slice(&self.stored);
        self.data_at = self.data_at.saturating_add(size as u64);
        self.push(PageDesc { offset: offset.into(), ..desc })
    }

    fn push_missing(&mut self) -> Result<(), ReassembleError> {
        self.done.missing = self.done.missing.saturating_add(1);
        self.push(PageDesc::default())
    }

    fn push(&mut self, mut desc: PageDesc) -> Result<(), ReassembleError> {
        if self.dump.endian() == Endian::Big {
            desc = desc.swapped();
        }
        self.descs.push(desc);
        if self.descs.len() >= BATCH || self.buffer.len() >= PIECE { self.flush() } else { Ok(()) }
    }

    /// Data first, then the descriptors that point at it.
    fn flush(&mut self) -> Result<(), ReassembleError> {
        if !self.buffer.is_empty() {
            let start = self.data_at.saturating_sub(self.buffer.len() as u64);
            self.sink.write_at(FileOffset::new(start), &self.buffer)?;
            self.buffer.clear();
        }
        if !self.descs.is_empty() {
            let bytes = self.descs.as_bytes();
            self.sink.write_at(FileOffset::new(self.desc_at), bytes)?;
            self.desc_at = self.desc_at.saturating_add(bytes.len() as u64);
            self.descs.clear();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::read::Found;
    use crate::format::read::tests::sample;
    use crate::format::testing::Sink;
    use crate::format::testing::through;
    use crate::progress::Silent;

    fn run(files: &[Vec<u8>]) -> (Vec<u8>, Reassembled) {
        let sources = files.iter().map(|f| Box::new(f) as Box<dyn ReadAt>).collect();
        let dump = KdumpFile::open_parts(sources).unwrap();
        let mut sink = Sink::default();
        let done = through(&mut sink, |sink| reassemble(&dump, sink, &Silent)).unwrap();
        assert_eq!(done.bytes, sink.bytes.len() as u64);
        (sink.bytes, done)
    }

    #[test]
    fn parts_become_what_they_were_cut_from() {
        for big in [false, true] {
            let whole = Dump { big, ..sample() };
            let part = |start, end| Dump { split: Some((start, end)), ..whole.clone() }.build();
            let parts = [part(200, 40_010), part(0, 20), part(20, 200)];
            let (bytes, done) = run(&parts);
            assert_eq!((done.pages, done.missing), (whole.pages.len() as u64, 0));
            let mut dump = KdumpFile::open(&bytes).unwrap();
            assert!(dump.complaints().is_empty() && !dump.incomplete());
            assert_eq!(dump.sub_header().split.get(), 0);
            let mut page = vec![0; 4096];
            for (pfn, want) in &whole.pages {
                assert_eq!(dump.page(Pfn::new(*pfn), &mut page).unwrap(), Found::Page);
                assert!(page == *want.as_ref().unwrap(), "page {pfn}");
            }
            // Without a part.
            let (bytes, done) = run(&parts[..2]);
            assert_eq!(
                done.missing,
                whole.pages.iter().filter(|(pfn, _)| (20..200).contains(pfn)).count() as u64
            );
            let mut dump = KdumpFile::open(&bytes).unwrap();
            assert!(dump.incomplete());
            assert_eq!(dump.page(Pfn::new(30), &mut page).unwrap(), Found::Missing);
            assert_eq!(dump.page(Pfn::new(300), &mut page).unwrap(), Found::Page);
        }
    }

    use crate::format::read::tests::Dump;
}

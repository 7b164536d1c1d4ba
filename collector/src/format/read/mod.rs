//! Reads kdump-compressed dumps, version 1 to 6, of either byte order, whole or split into several files. A file is not
//! trusted: it may be cut off, or made to mislead.
//!
//! [`KdumpFile`] answers for headers, descriptors and single pages; it is also a [`ReadAt`] of the machine's physical
//! memory (`memory`), so that a dump is filtered again as a vmcore is. Memory: the bitmaps, without their stretches of
//! zeros and ones, and about 2 MiB of pages.

pub mod flattened;
mod header;
mod memory;
pub mod verify;

use super::codec::DecodeError;
use super::layout::{DiskDumpHeader, Flags, KdumpSubHeader, PageDesc};
use crate::addr::{FileOffset, PageSize, Pfn};
use crate::problem::{Code, Problem, Problems};
use crate::vmcore::{Endian, Image, PageBits, ReadAt, machine_of};
use header::{Headers, struct_at};
use memory::Memory;
use std::io;
use std::sync::atomic::AtomicU64;
use zerocopy::IntoBytes;

/// Why a file is no dump, or a dump that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KdumpError {
    /// It starts otherwise.
    #[error("not a kdump-compressed dump: it starts with {0:02x?}, not with \"KDUMP   \"")]
    Signature([u8; 8]),
    /// A field has a value that cannot be.
    #[error("{field} of the header is {value:#x}, which cannot be")]
    Field {
        /// Which.
        field: &'static str,
        /// The value seen.
        value: u64,
    },
    /// The file could not be read.
    #[error("cannot read {what} at offset {at} of the dump")]
    Read {
        /// What lies there.
        what: &'static str,
        /// Where.
        at: FileOffset,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// No memory for the bitmap, or for the codec.
    #[error("out of memory for {0}")]
    Memory(&'static str),
    /// It should be there and is not.
    #[error("page {0} is missing in the dump")]
    Missing(Pfn),
    /// Files that are no parts of one dump.
    #[error("{0}")]
    Parts(String),
    /// A page's descriptor is nonsense.
    #[error("the descriptor of page {pfn} says {size} bytes at offset {offset}, but a page has {page}")]
    Descriptor {
        /// The page.
        pfn: Pfn,
        /// Its size on disk.
        size: u32,
        /// Its offset.
        offset: FileOffset,
        /// Bytes of a page.
        page: usize,
    },
    /// A page's data is damaged.
    #[error("page {pfn} at offset {offset} of the dump is damaged")]
    Damaged {
        /// The page.
        pfn: Pfn,
        /// Where its data lies.
        offset: FileOffset,
        /// How.
        #[source]
        source: DecodeError,
    },
}

/// What a dump has of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// The machine had no such page.
    Hole,
    /// The filter left it out.
    Excluded,
    /// It should be there and is not: the dump is incomplete.
    Missing,
    /// Here it is.
    Page,
}

/// The record of what was erased is not read past this many bytes.
const MAX_ERASED: u64 = 1 << 20;

/// One file of a dump.
struct Part<'a> {
    source: Box<dyn ReadAt + 'a>,
    /// Which of the given files it is.
    index: usize,
    /// Where its descriptors lie.
    descs: u64,
    /// The pages that it answers for: half-open.
    start: u64,
    end: u64,
    /// Pages with data before `start`.
    rank: u64,
    /// The record of what was erased: offset and length.
    erased: (u64, u64),
    /// Where the page lies that all zero pages share, once it has been met; 0 before.
    zeros_at: AtomicU64,
}

/// An opened dump.
#[expect(missing_debug_implementations, reason = "holds a dead kernel's memory")]
pub struct KdumpFile<'a> {
    headers: Headers,
    image: Image,
    /// In ascending order, apart from each other; one, unless the dump is split.
    parts: Vec<Part<'a>>,
    complaints: Vec<Problem>,
    memory: Memory,
}

/// Offsets in a dump.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// Where bitmap 1 begins: the end of headers and notes.
    pub first_bitmap: u64,
    /// Where the descriptors begin: the end of the bitmaps.
    pub descs: u64,
}

/// A file without bytes.
static EMPTY: Vec<u8> = Vec::new();

/// A descriptor and what it points at, in no more than one piece of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stored {
    /// Which of the files that were opened, in the order they were given.
    pub part: usize,
    /// The descriptor, as it lies there.
    pub desc: PageDesc,
}

impl<'a> KdumpFile<'a> {
    /// Reads headers, notes and bitmaps.
    pub fn open(source: &'a dyn ReadAt) -> Result<Self, KdumpError> {
        Self::open_parts(vec![Box::new(source)])
    }

    /// Reads a dump that is split into several files, given in any order. One file alone is a set of one. Files of
    /// different dumps are an error; a part that is not there is a complaint, and its pages are missing.
    pub fn open_parts(sources: Vec<Box<dyn ReadAt + 'a>>) -> Result<Self, KdumpError> {
        let mut problems = Problems::new();
        let mut opened = Vec::with_capacity(sources.len());
        for (index, source) in sources.into_iter().enumerate() {
            opened.push((index, Headers::read(&source)?, source));
        }
        let alone = opened.len() == 1;
        opened.sort_by_key(|(_, headers, _)| range(headers));
        let Some((_, headers, source)) = opened.first() else {
            return Err(KdumpError::Parts("no file is given".to_owned()));
        };
        let headers = headers.clone();
        let bits = |at: u64, what: &'static str| {
            let at = FileOffset::new(at);
            PageBits::read(source, at, headers.end).map_err(|source| KdumpError::Read { what, at, source })
        };
        let present = bits(headers.first_bitmap, "the first bitmap")?;
        let dumped = bits(headers.second_bitmap, "the second bitmap")?;
        let blob = |at: u64, len: u64, what| headers.blob(source, at, len, what);
        let (notes, vmcoreinfo) = (
            blob(headers.sub.offset_note.get(), headers.sub.size_note.get(), "the notes")?,
            blob(headers.sub.offset_vmcoreinfo.get(), headers.sub.size_vmcoreinfo.get(), "VMCOREINFO")?,
        );
        let mut parts: Vec<Part<'a>> = Vec::with_capacity(opened.len());
        for (index, own, source) in opened {
            if !same_dump(&headers, &own) {
                return Err(KdumpError::Parts(format!(
                    "file {} is no part of the same dump: its header differs",
                    index + 1
                )));
            }
            if !alone && own.sub.split.get() == 0 {
                return Err(KdumpError::Parts(format!(
                    "file {} is whole, no part of a split dump",
                    index + 1
                )));
            }
            let (start, end) = range(&own);
            if let Some(before) = parts.last()
                && before.end > start
            {
                return Err(KdumpError::Parts(format!(
                    "files {} and {} both have page {start:#x}",
                    before.index + 1,
                    index + 1
                )));
            }
            let rank = dumped.rank(Pfn::new(start));
            let erased = (own.sub.offset_eraseinfo.get(), own.sub.size_eraseinfo.get());
            let part = Part {
                source,
                index,
                descs: own.descs,
                start,
                end,
                rank,
                erased,
                zeros_at: AtomicU64::new(0),
            };
            for complaint in part.source.complaints() {
                problems.push(complaint.code, complaint.message.clone());
            }
            part.check_length(dumped.rank(Pfn::new(end)), &mut problems);
            parts.push(part);
        }
        tell_gaps(&parts, &dumped, headers.end, &mut problems);
        if Flags(headers.header.status.get()).has(Flags::INCOMPLETE) {
            problems.push(Code::INPUT_INCOMPLETE, "the dump says of itself that pages are missing");
        }
        let mut erased: Vec<u8> = Vec::new();
        for part in &parts {
            let (at, len) = part.erased;
            match headers.blob(&part.source, at, len.min(MAX_ERASED), "the record of what was erased") {
                // Parts that were cut out of one dump may all have the same.
                Ok(own) if own != erased => erased.extend(own),
                Ok(_) => {}
                Err(e) => problems.push(Code::INPUT_INCOMPLETE, e.to_string()),
            }
        }
        let utsname = headers.header.utsname;
        let image = Image {
            endian: headers.endian,
            machine: machine(&utsname),
            page: headers.page,
            present,
            dumped,
            notes,
            vmcoreinfo,
            erased,
            utsname,
            crash_time: u64::try_from(headers.header.tv_sec.get()).unwrap_or(0),
            phys_base: headers.sub.phys_base.get(),
            level: u8::try_from(headers.sub.dump_level.get() & 31).unwrap_or(0),
            excluded_vmemmap: Flags(headers.header.status.get()).has(Flags::EXCLUDED_VMEMMAP),
        };
        let memory = Memory::new(headers.page);
        Ok(Self { headers, image, parts, complaints: problems.list().to_vec(), memory })
    }

    /// Block 0, in little-endian whatever the file's order.
    pub fn header(&self) -> &DiskDumpHeader {
        &self.headers.header
    }
    /// Block 1, in little-endian; fields that the file's version does not have are 0.
    pub fn sub_header(&self) -> &KdumpSubHeader {
        &self.headers.sub
    }
    /// Byte order of the file.
    pub fn endian(&self) -> Endian {
        self.headers.endian
    }
    /// What the dump says of itself: bitmaps, notes, level, who the kernel was.
    pub fn describes(&self) -> &Image {
        &self.image
    }
    /// Bytes of a page.
    pub fn page_size(&self) -> PageSize {
        self.headers.page
    }
    /// One past the last pfn.
    pub fn end_pfn(&self) -> Pfn {
        Pfn::new(self.headers.end)
    }
    /// All notes.
    pub fn notes(&self) -> &[u8] {
        &self.image.notes
    }
    /// VMCOREINFO's text.
    pub fn vmcoreinfo(&self) -> &[u8] {
        &self.image.vmcoreinfo
    }
    /// The header says that pages are missing.
    pub fn incomplete(&self) -> bool {
        Flags(self.headers.header.status.get()).has(Flags::INCOMPLETE)
    }
    /// Whether the machine had this page.
    pub fn present(&self, pfn: Pfn) -> bool {
        self.image.present.get(pfn)
    }
    /// Whether the page has a descriptor, or would have, if its part were there.
    pub fn kept(&self, pfn: Pfn) -> bool {
        self.image.dumped.get(pfn)
    }
    /// The pages that each file answers for, in ascending order: index of the file as it was given, first pfn, end.
    pub fn part_ranges(&self) -> impl Iterator<Item = (usize, Pfn, Pfn)> + '_ {
        self.parts.iter().map(|p| (p.index, Pfn::new(p.start), Pfn::new(p.end)))
    }

    /// A page's descriptor; `None` when it has none, or its part is not there.
    pub fn descriptor(&self, pfn: Pfn) -> Result<Option<PageDesc>, KdumpError> {
        Ok(self.stored(pfn)?.map(|stored| stored.desc))
    }

    /// A page's descriptor and the file that it points into; `None` when it has none, or its part is not there.
    pub fn stored(&self, pfn: Pfn) -> Result<Option<Stored>, KdumpError> {
        let Some(part) = self.part_of(pfn).filter(|_| self.kept(pfn)) else { return Ok(None) };
        let at = part.desc_at(&self.image.dumped, pfn);
        let desc = struct_at(&part.source, at, self.headers.endian, "a page descriptor")?;
        Ok(Some(Stored { part: part.index, desc }))
    }

    /// The descriptors of pages in a row: `pfn` has a descriptor, and so have the next ones, as many as `into` takes. Ends
    /// where a page has none, or where another file begins; returns how many there are (0 when `pfn` has none), and the
    /// file they point into.
    pub fn descriptors(&self, pfn: Pfn, into: &mut [PageDesc]) -> Result<(usize, usize), KdumpError> {
        let Some(part) = self.part_of(pfn) else { return Ok((0, 0)) };
        let run = self.image.dumped.run_at(pfn).min(part.end.saturating_sub(pfn.get()));
        let take = usize::try_from(run).unwrap_or(usize::MAX).min(into.len());
        let into = into.get_mut(..take).unwrap_or_default();
        let at = FileOffset::new(part.desc_at(&self.image.dumped, pfn));
        let what = "page descriptors";
        part.source.read_at(at, into.as_mut_bytes()).map_err(|source| KdumpError::Read {
            what,
            at,
            source,
        })?;
        if self.headers.endian == Endian::Big {
            into.iter_mut().for_each(|desc| *desc = desc.swapped());
        }
        Ok((take, part.index))
    }

    /// The file of that index, as it was given.
    pub fn part_source(&self, index: usize) -> Option<&dyn ReadAt> {
        self.parts.iter().find(|p| p.index == index).map(|p| &p.source as &dyn ReadAt)
    }

    /// Where page data may begin in the file of that index: behind the headers, the bitmaps and the descriptors.
    pub fn data_start(&self, index: usize) -> u64 {
        let Some(part) = self.parts.iter().find(|p| p.index == index) else { return 0 };
        let pages = self.image.dumped.rank(Pfn::new(part.end)).saturating_sub(part.rank);
        part.descs.saturating_add(pages.saturating_mul(size_of::<PageDesc>() as u64))
    }

    /// Where the bitmaps and the descriptors lie, in the file of the first part.
    pub(super) fn layout(&self) -> Layout {
        Layout { first_bitmap: self.headers.first_bitmap, descs: self.headers.descs }
    }

    /// The part with the lowest pages: its headers are the dump's.
    pub(super) fn first_part(&self) -> &dyn ReadAt {
        // There is always one: a dump is opened with its first file.
        self.parts.first().map_or(&EMPTY, |part| &part.source)
    }

    fn part_of(&self, pfn: Pfn) -> Option<&Part<'a>> {
        let index = self.parts.partition_point(|part| part.end <= pfn.get());
        self.parts.get(index).filter(|part| part.start <= pfn.get())
    }

    /// Fills `buf`, which is one page long, when there is such a page; else leaves it alone.
    pub fn page(&mut self, pfn: Pfn, buf: &mut [u8]) -> Result<Found, KdumpError> {
        if !self.kept(pfn) {
            return Ok(if self.present(pfn) { Found::Excluded } else { Found::Hole });
        }
        match self.fill(pfn, buf) {
            Err(KdumpError::Missing(_)) => Ok(Found::Missing),
            Err(e) => Err(e),
            Ok(()) => Ok(Found::Page),
        }
    }
}

impl Part<'_> {
    /// Where the descriptor of a page lies that has one here.
    fn desc_at(&self, dumped: &PageBits, pfn: Pfn) -> u64 {
        let index = dumped.rank(pfn).saturating_sub(self.rank);
        self.descs.saturating_add(index.saturating_mul(size_of::<PageDesc>() as u64))
    }

    /// Tells of a table of descriptors that is cut off. What is behind it nobody knows before it is read.
    fn check_length(&self, rank_at_end: u64, problems: &mut Problems) {
        let pages = rank_at_end.saturating_sub(self.rank);
        let room = self.source.size().saturating_sub(self.descs) / size_of::<PageDesc>() as u64;
        if room < pages {
            problems.push(
                Code::INPUT_INCOMPLETE,
                format!(
                    "the file is cut off: it has {} bytes, and {} of {pages} page descriptors",
                    self.source.size(),
                    room
                ),
            );
        }
    }
}

/// The pages that a file answers for.
fn range(headers: &Headers) -> (u64, u64) {
    let sub = &headers.sub;
    if sub.split.get() == 0 {
        return (0, headers.end);
    }
    let wide = headers.header.header_version.get() >= 6 && sub.end_pfn_64.get() > 0;
    let (start, end) = if wide { (sub.start_pfn_64, sub.end_pfn_64) } else { (sub.start_pfn, sub.end_pfn) };
    let end = end.get().min(headers.end);
    (start.get().min(end), end)
}

/// Whether two files are of one dump: everything in the headers is the same but what says which part it is.
fn same_dump(one: &Headers, other: &Headers) -> bool {
    let plain = |headers: &Headers| {
        let (mut header, mut sub) = (headers.header, headers.sub);
        header.status = 0.into();
        (sub.split, sub.start_pfn, sub.end_pfn) = (0.into(), 0.into(), 0.into());
        (sub.start_pfn_64, sub.end_pfn_64) = (0.into(), 0.into());
        (sub.offset_eraseinfo, sub.size_eraseinfo) = (0.into(), 0.into());
        (header, sub)
    };
    let ((header, sub), (other_header, other_sub)) = (plain(one), plain(other));
    one.endian == other.endian
        && header.as_bytes() == other_header.as_bytes()
        && sub.as_bytes() == other_sub.as_bytes()
}

/// Tells of pages with data that no part answers for.
fn tell_gaps(parts: &[Part<'_>], dumped: &PageBits, end: u64, problems: &mut Problems) {
    let mut next = 0;
    let ends = std::iter::once((end, end));
    for (start, stop) in parts.iter().map(|p| (p.start, p.end)).chain(ends) {
        let lost = dumped.rank(Pfn::new(start)).saturating_sub(dumped.rank(Pfn::new(next)));
        if lost > 0 {
            problems.push(
                Code::INPUT_INCOMPLETE,
                format!("no file has the pages {next:#x} to {start:#x} of the split dump: {lost} pages are missing"),
            );
        }
        next = stop;
    }
}

/// The ELF machine of utsname's fifth string; 0 when unknown.
fn machine(utsname: &[[u8; 65]; 6]) -> u16 {
    let [_, _, _, _, machine, _] = utsname;
    let end = machine.iter().position(|b| *b == 0).unwrap_or(machine.len());
    std::str::from_utf8(machine.get(..end).unwrap_or_default()).map_or(0, machine_of)
}

#[cfg(test)]
pub(crate) mod tests;

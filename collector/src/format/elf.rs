//! Writes an ELF core, as makedumpfile's `-E`: each PT_LOAD of the vmcore becomes one or more, cut where at least
//! 256 pages in a row are left out; shorter stretches are written along, whatever the filter says of them.
//!
//! ```text
//! file header, program headers, [section header 0 when there are 0xffff or more program headers], notes, memory
//! ```
//!
//! `p_memsz` of a piece reaches to the next piece, `p_filesz` to the end of its last kept page: readers take the rest for
//! zeros. Memory is a copy of the bitmap, for level bit 1, and one window of the source.

use super::{DumpSink, Job, PageReader, REPORT_EVERY, SinkFailure, Written, is_zero};
use crate::addr::{FileOffset, Pfn};
use crate::filter::{Account, Bitmap, Level};
use crate::manifest::Stage;
use crate::problem::{Code, Problems};
use crate::vmcore::{Segment, Vmcore};
use std::io;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{Immutable, IntoBytes, Unaligned};

/// Pages in a row that are left out before a PT_LOAD is cut: makedumpfile's PFN_EXCLUDED.
const CUT: u64 = 256;

/// Bytes that are written at a time.
const PIECE: usize = 1 << 20;

/// Program headers that are gathered before they are written.
const HEADER_BATCH: usize = 1024;

/// `e_phnum` that sends the reader to section header 0.
const PN_XNUM: u64 = 0xffff;

/// Bit of `e_flags`: pages are missing. makedumpfile's DUMP_ELF_INCOMPLETE.
const INCOMPLETE: u32 = 1;

const ET_CORE: u16 = 4;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// Readable, writable, executable, as the kernel marks each PT_LOAD of /proc/vmcore.
const PF_RWX: u32 = 7;

/// Elf64_Ehdr (System V gABI, chapter 4).
#[derive(IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct FileHeader {
    ident: [u8; 16],
    kind: U16,
    machine: U16,
    version: U32,
    entry: U64,
    phoff: U64,
    shoff: U64,
    flags: U32,
    ehsize: U16,
    phentsize: U16,
    phnum: U16,
    shentsize: U16,
    shnum: U16,
    shstrndx: U16,
}

/// Elf64_Phdr (chapter 5).
#[derive(IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct ProgramHeader {
    kind: U32,
    flags: U32,
    offset: U64,
    vaddr: U64,
    paddr: U64,
    filesz: U64,
    memsz: U64,
    align: U64,
}

/// Elf64_Shdr: only `info` of the first one, the number of program headers.
#[derive(IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct SectionHeader {
    before: [u8; 44],
    info: U32,
    after: [u8; 16],
}

const _: () = assert!(size_of::<FileHeader>() == 64);
const _: () = assert!(size_of::<ProgramHeader>() == 56);
const _: () = assert!(size_of::<SectionHeader>() == 64);

/// Runs of kept pages within `[from, to)`.
fn runs(keep: &Bitmap, from: u64, to: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
    keep.runs_in(Pfn::new(from), Pfn::new(to)).map(|(start, end)| (start.get(), end.get()))
}

/// A PT_LOAD to be: a stretch of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Piece {
    /// Its start, bytes from the segment's.
    start: u64,
    /// End of the bytes that are written.
    data_end: u64,
    /// End of the memory.
    end: u64,
}

impl Piece {
    fn data(&self) -> u64 {
        self.data_end.saturating_sub(self.start)
    }
}

/// Cuts a segment at its long stretches of left-out pages. The first and the last page may be fractions.
fn pieces<'b>(segment: &Segment, page: u64, keep: &'b Bitmap) -> impl Iterator<Item = Piece> + 'b {
    let base = segment.start.get();
    let end = segment.mem_len;
    let first = base / page;
    let last = base.saturating_add(end).div_ceil(page);
    // Positions of kept runs, in bytes from the segment's start and within it.
    let at = move |pfn: u64| pfn.saturating_mul(page).saturating_sub(base).min(end);
    let mut runs = runs(keep, first, last).peekable();
    let mut start = Some((0, first));
    std::iter::from_fn(move || {
        let (from, from_pfn) = start.take()?;
        let mut piece = Piece { start: from, data_end: from, end };
        let mut gap_from = from_pfn;
        while let Some((_, run_end)) = runs.next_if(|(run, _)| run.saturating_sub(gap_from) < CUT) {
            piece.data_end = at(run_end);
            gap_from = run_end;
        }
        if let Some((run, _)) = runs.peek() {
            piece.end = at(*run);
            start = Some((piece.end, *run));
        }
        Some(piece)
    })
    .filter(|piece| piece.end > piece.start)
}

/// Writes a dump. See [`super::kdump::write`] about a failing sink.
pub fn write(
    job: &Job<'_>,
    vmcore: &Vmcore<'_>,
    sink: &dyn DumpSink,
    problems: &mut Problems,
) -> Result<Written, SinkFailure> {
    let selection = job.selection;
    let mut keep = selection.keep.clone();
    let mut account = Account { kept: 0, zero: 0, unreadable: 0, unwritten: 0, ..selection.account };
    account.present = selection.present.count();
    if selection.level.has(Level::ZERO) {
        account.zero = drop_zeros(job, &mut keep);
    }
    let mut writer = Writer {
        vmcore,
        keep: &keep,
        page: job.pages.page_size().bytes(),
        sink,
        total: keep.count(),
        bytes: 0,
        reached: (0, 0),
        lost: Vec::new(),
    };
    let outcome = writer.run(job, problems);
    account.unreadable = writer.count_lost();
    let reached = writer.count_reached();
    account.kept = reached.saturating_sub(account.unreadable);
    account.unwritten = writer.total.saturating_sub(reached);
    let written = Written { bytes: writer.bytes, account };
    match outcome {
        Ok(()) => Ok(written),
        Err(source) => Err(SinkFailure { source, written }),
    }
}

/// Clears the bits of pages that are all zero. A page that cannot be read is left for the writing pass to tell of.
fn drop_zeros(job: &Job<'_>, keep: &mut Bitmap) -> u64 {
    let mut reader = PageReader::new(job.pages);
    let total = job.selection.keep.count();
    let (mut zeros, mut done) = (0, 0_u64);
    for (start, end) in job.selection.keep.runs() {
        for pfn in start.get()..end.get() {
            if reader.read(Pfn::new(pfn), end).is_ok_and(is_zero) {
                zeros += keep.clear_range(Pfn::new(pfn), Pfn::new(pfn.saturating_add(1)));
            }
            if done.is_multiple_of(REPORT_EVERY) {
                job.progress.update(Stage::Dump, "looking for zero pages", done, total, 0);
            }
            done += 1;
        }
    }
    zeros
}

struct Writer<'a, 's> {
    vmcore: &'a Vmcore<'a>,
    keep: &'a Bitmap,
    page: u64,
    sink: &'s dyn DumpSink,
    /// Pages to write.
    total: u64,
    bytes: u64,
    /// How far it is: whole segments, and the physical address in the next one.
    reached: (usize, u64),
    /// Pages that could not be read.
    lost: Vec<u64>,
}

/// Losses that are told apart; beyond, a page in two segments may count twice.
const MAX_LOST: usize = 1 << 16;

impl Writer<'_, '_> {
    fn put(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.sink.write_at(FileOffset::new(at), bytes)?;
        self.bytes = self.bytes.max(at.saturating_add(bytes.len() as u64));
        Ok(())
    }

    fn run(&mut self, job: &Job<'_>, problems: &mut Problems) -> io::Result<()> {
        let too_large = || io::Error::other("the dump would be larger than 2^64 bytes");
        let loads: u64 =
            self.vmcore.segments().iter().map(|s| pieces(s, self.page, self.keep).count() as u64).sum();
        let headers = loads.checked_add(1).ok_or_else(too_large)?;
        let extended = headers >= PN_XNUM;
        let shoff = headers.checked_mul(56).and_then(|h| h.checked_add(64)).ok_or_else(too_large)?;
        let notes_at = if extended { shoff + 64 } else { shoff };
        let notes = self.vmcore.notes();
        let data_at = notes_at.checked_add(notes.len() as u64).ok_or_else(too_large)?;

        let ident = self.vmcore.ident().map_err(io::Error::other)?;
        let mut header = FileHeader {
            ident,
            kind: ET_CORE.into(),
            machine: self.vmcore.machine().into(),
            version: 1.into(),
            entry: 0.into(),
            phoff: 64.into(),
            shoff: if extended { shoff } else { 0 }.into(),
            flags: INCOMPLETE.into(),
            ehsize: 64.into(),
            phentsize: 56.into(),
            phnum: u16::try_from(headers.min(PN_XNUM)).unwrap_or(u16::MAX).into(),
            shentsize: if extended { 64 } else { 0 }.into(),
            shnum: u16::from(extended).into(),
            shstrndx: 0.into(),
        };
        self.put(0, header.as_bytes())?;
        let end = self.program_headers(notes_at, data_at)?;
        if extended {
            let info = u32::try_from(headers).map_err(io::Error::other)?.into();
            self.put(shoff, SectionHeader { before: [0; 44], info, after: [0; 16] }.as_bytes())?;
        }
        self.put(notes_at, notes)?;

        let mut at = data_at;
        for (index, segment) in self.vmcore.segments().iter().enumerate() {
            self.reached = (index, segment.start.get());
            for piece in pieces(segment, self.page, self.keep) {
                self.copy(job, segment, piece, at, problems)?;
                at = at.saturating_add(piece.data());
            }
            self.reached = (index + 1, 0);
        }
        // What a source lacks at the very end would leave the file short.
        if self.bytes < end {
            self.put(end - 1, &[0])?;
        }
        job.report(self.total, self.total, self.bytes);
        header.flags = if self.lost.is_empty() { 0 } else { INCOMPLETE }.into();
        self.put(0, header.as_bytes())
    }

    /// Writes all program headers; returns the end of the file.
    fn program_headers(&mut self, notes_at: u64, data_at: u64) -> io::Result<u64> {
        let notes = self.vmcore.notes().len() as u64;
        let mut batch = vec![ProgramHeader {
            kind: PT_NOTE.into(),
            flags: 0.into(),
            offset: notes_at.into(),
            vaddr: 0.into(),
            paddr: 0.into(),
            filesz: notes.into(),
            memsz: notes.into(),
            align: 0.into(),
        }];
        let (mut at, mut data) = (64, data_at);
        for segment in self.vmcore.segments() {
            for piece in pieces(segment, self.page, self.keep) {
                if batch.len() >= HEADER_BATCH {
                    self.put(at, batch.as_bytes())?;
                    at += batch.as_bytes().len() as u64;
                    batch.clear();
                }
                let virt = segment.virt.get();
                batch.push(ProgramHeader {
                    kind: PT_LOAD.into(),
                    flags: PF_RWX.into(),
                    offset: if piece.data() == 0 { 0 } else { data }.into(),
                    vaddr: if virt == 0 { 0 } else { virt.wrapping_add(piece.start) }.into(),
                    paddr: segment.start.get().saturating_add(piece.start).into(),
                    filesz: piece.data().into(),
                    memsz: (piece.end - piece.start).into(),
                    align: 0.into(),
                });
                data = data.checked_add(piece.data()).ok_or(io::ErrorKind::FileTooLarge)?;
            }
        }
        self.put(at, batch.as_bytes())?;
        Ok(data)
    }

    /// Copies a piece to `to`. Where the source has no bytes, a gap is left, which reads as zeros.
    fn copy(
        &mut self,
        job: &Job<'_>,
        segment: &Segment,
        piece: Piece,
        to: u64,
        problems: &mut Problems,
    ) -> io::Result<()> {
        let source = self.vmcore.source();
        let backed = piece.data_end.min(segment.file_len);
        let mut at = piece.start;
        while at < backed {
            let left = usize::try_from(backed - at).unwrap_or(usize::MAX);
            let from = FileOffset::new(segment.offset.get().saturating_add(at));
            let out = to.saturating_add(at - piece.start);
            let len = match source.window(from, left.min(source.window_len())) {
                Ok(window) => {
                    for (index, part) in window.chunks(PIECE).enumerate() {
                        let skip = index.saturating_mul(PIECE) as u64;
                        self.put(out.saturating_add(skip), part)?;
                        let start = segment.start.get().saturating_add(at).saturating_add(skip);
                        self.reached.1 = start.saturating_add(part.len() as u64);
                        let done = self.bytes / self.page;
                        job.report(done.min(self.total), self.total, self.bytes);
                    }
                    window.len() as u64
                }
                Err(_) => self.salvage(
                    job,
                    segment,
                    at,
                    backed.min(at.saturating_add(PIECE as u64)),
                    out,
                    problems,
                )?,
            };
            at = at.saturating_add(len);
        }
        self.reached.1 = segment.start.get().saturating_add(piece.data_end);
        Ok(())
    }

    /// Copies `[at, end)` of a segment page by page; returns its length.
    fn salvage(
        &mut self,
        job: &Job<'_>,
        segment: &Segment,
        at: u64,
        end: u64,
        out: u64,
        problems: &mut Problems,
    ) -> io::Result<u64> {
        let mut buf = vec![0; usize::try_from(self.page).unwrap_or(0)];
        let mut now = at;
        while now < end {
            let phys = segment.start.get().saturating_add(now);
            // To the end of this page, or of the stretch.
            let len = (self.page - phys % self.page).min(end - now);
            let Some(part) = usize::try_from(len).ok().and_then(|l| buf.get_mut(..l)) else { break };
            let from = FileOffset::new(segment.offset.get().saturating_add(now));
            match self.vmcore.source().read_at(from, part) {
                Ok(()) => self.put(out.saturating_add(now - at), part)?,
                Err(e) => self.lose(job, phys / self.page, from, &e, problems),
            }
            self.reached.1 = phys.saturating_add(len);
            now = now.saturating_add(len);
        }
        Ok(end - at)
    }

    fn lose(&mut self, job: &Job<'_>, pfn: u64, from: FileOffset, e: &io::Error, problems: &mut Problems) {
        if self.keep.get(Pfn::new(pfn)) && self.lost.len() < MAX_LOST {
            self.lost.push(pfn);
        }
        problems.push(
            Code::PAGE_UNREADABLE,
            format!(
                "{}: page {:#x} at offset {from} of the vmcore could not be read and is zeros: {e}",
                job.name, pfn
            ),
        );
    }

    fn count_lost(&mut self) -> u64 {
        self.lost.sort_unstable();
        self.lost.dedup();
        self.lost.len() as u64
    }

    /// Kept pages that are written, each once: segments may overlap (on x86-64 the kernel's text has one of its own, within
    /// that of its memory).
    fn count_reached(&self) -> u64 {
        let (whole, part) = self.reached;
        let ends = |s: &Segment, index: usize| {
            let end = s.start.get().saturating_add(s.mem_len).div_ceil(self.page);
            if index < whole { end } else { part / self.page }
        };
        let segments = self.vmcore.segments().iter().enumerate().take(whole.saturating_add(1));
        let mut ranges: Vec<_> = segments.map(|(i, s)| (s.start.get() / self.page, ends(s, i))).collect();
        ranges.sort_unstable();
        let (mut pages, mut counted_to) = (0, 0);
        for (start, end) in ranges {
            pages += runs(self.keep, start.max(counted_to), end).map(|(from, to)| to - from).sum::<u64>();
            counted_to = end.max(counted_to);
        }
        pages
    }
}

#[cfg(test)]
mod tests;

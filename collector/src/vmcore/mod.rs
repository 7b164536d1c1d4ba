//! In: the vmcore as a file, its segments, its notes.
//!
//! What it is: ELF64 of either byte order, as /proc/vmcore, `cp`, QEMU and makedumpfile -E write it, read through
//! [`ReadAt`]; or memory out of another container, which its reader describes as an [`Image`]. What it is not: it knows no
//! virtual address and nothing of the kernel but VMCOREINFO's page size.
//! Data flow: headers (`elf`) → segments, notes (`notes`) → extents, the sorted list by which memory is found.

mod elf;
mod endian;
mod extents;
#[cfg(test)]
pub(crate) mod fixture;
mod image;
mod layout;
mod notes;
mod pagebits;
mod source;
mod vmcoreinfo;

pub use endian::Endian;
pub use image::{Image, machine_of};
pub use layout::{EM_AARCH64, EM_LOONGARCH, EM_PPC64, EM_RISCV, EM_S390, EM_X86_64};
pub use pagebits::PageBits;
pub use vmcoreinfo::VmcoreInfo;

use crate::addr::{FileOffset, PageSize, Pfn, PhysAddr, VirtAddr};
use crate::problem::{Code, Problem, Problems};
use std::io;
use std::ops::{Deref, Range};

/// Bytes lent by a [`ReadAt`]: a mapping, a slice, or a copy.
pub type Window<'a> = Box<dyn Deref<Target = [u8]> + 'a>;

/// Random access to the bytes of a file. The only way the engine sees the world.
pub trait ReadAt: Sync {
    /// Length in bytes.
    fn size(&self) -> u64;
    /// Fills `buf` from `at`; an error if any byte of it is not there.
    fn read_at(&self, at: FileOffset, buf: &mut [u8]) -> io::Result<()>;
    /// Lends exactly `len` bytes from `at`, without a copy where the source can. Ask for at most
    /// [`ReadAt::window_len`] bytes.
    fn window(&self, at: FileOffset, len: usize) -> io::Result<Window<'_>>;
    /// The largest sensible window: big where windows are mappings, small where they are copies.
    fn window_len(&self) -> usize;
    /// Whether windows are mappings: they cost the same whatever their length, and their bytes only when touched.
    fn maps(&self) -> bool {
        false
    }
    /// Whether [`ReadAt::read_at`] costs little more than the bytes that it copies, so that many small reads may be better
    /// than a large window.
    fn reads_cheaply(&self) -> bool {
        true
    }
    /// Says that `len` bytes from `at` are wanted soon, and nothing near them. A source on a slow device fetches them
    /// together; one where that gains nothing does nothing.
    fn expect(&self, _at: FileOffset, _len: u64) {}
    /// Whether bytes that were lent turned out to be unreadable, and were lent as zeros.
    fn is_torn(&self) -> bool {
        false
    }
    /// Set when the bytes are no file but physical memory, out of a dump that describes itself otherwise than ELF does.
    fn image(&self) -> Option<&Image> {
        None
    }
    /// The file that such memory comes out of, byte for byte; `None` when there is no such one file.
    fn file(&self) -> Option<&dyn ReadAt> {
        None
    }
    /// What was wrong with the file when it was opened: it is cut off, a part is not there.
    fn complaints(&self) -> &[Problem] {
        &[]
    }
}

/// A PT_LOAD: a stretch of physical memory and where it lies in the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// First physical address.
    pub start: PhysAddr,
    /// Bytes of memory (p_memsz).
    pub mem_len: u64,
    /// Bytes that the file holds (p_filesz), at most `mem_len`.
    pub file_len: u64,
    /// Where they lie in the file.
    pub offset: FileOffset,
    /// Kernel virtual address (p_vaddr), 0 where there is none.
    pub virt: VirtAddr,
}

/// An opened vmcore.
#[expect(missing_debug_implementations, reason = "holds a dead kernel's memory")]
pub struct Vmcore<'a> {
    source: &'a dyn ReadAt,
    endian: Endian,
    machine: u16,
    page: PageSize,
    segments: Vec<Segment>,
    backing: Backing<'a>,
    end: Pfn,
    cut_off: Option<u64>,
    notes: Vec<u8>,
    vmcoreinfo: Range<usize>,
    cpus: usize,
    info: VmcoreInfo,
}

/// Where memory is found in the source.
#[derive(Clone)]
enum Backing<'a> {
    /// In pieces, as PT_LOADs say.
    Extents(extents::Extents),
    /// At its physical address, page by page, and the runs of pages that the machine had.
    Image(&'a Image, Vec<(Pfn, Pfn)>),
}

/// Why a vmcore could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum VmcoreError {
    /// Not even a header fits.
    #[error("the file has {size} bytes, an ELF header takes 64")]
    TooShort {
        /// Its length.
        size: u64,
    },
    /// Something else than ELF.
    #[error("not an ELF file: it starts with {seen:02x?}")]
    NotElf {
        /// Its first bytes.
        seen: [u8; 4],
    },
    /// A 32-bit file.
    #[error("ELF class {0} at offset 0x4, only 2 (64-bit) is supported")]
    Class(u8),
    /// No byte order that exists.
    #[error("ELF byte order {0} at offset 0x5, neither 1 (little-endian) nor 2 (big-endian)")]
    ByteOrder(u8),
    /// A program or a library.
    #[error("ELF type {0} at offset 0x10, a vmcore is 4 (ET_CORE)")]
    NotCore(u16),
    /// Program headers smaller than they can be.
    #[error("program headers of {0} bytes (e_phentsize at offset 0x36), they take 56")]
    ProgramHeaderSize(u16),
    /// The file could not be read.
    #[error("cannot read the {what} at offset {at}")]
    Io {
        /// What was to be read.
        what: &'static str,
        /// Where.
        at: FileOffset,
        /// What the source said.
        #[source]
        source: io::Error,
    },
    /// The page size is nowhere to be found.
    #[error("{0}, and the page size of machine {1} is not known without")]
    NoPageSize(String, u16),
    /// The file holds no memory.
    #[error("no memory: {0} PT_LOAD segments, none with data in the file")]
    NoMemory(usize),
}

/// Why bytes of the crashed kernel's memory could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// No segment holds the address.
    #[error("physical address {0} is in no segment of the vmcore")]
    NotBacked(PhysAddr),
    /// The file could not be read.
    #[error("cannot read the vmcore at offset {0}")]
    Io(FileOffset, #[source] io::Error),
    /// A page-table walk for a virtual address ended early.
    #[error("virtual address {at} has no translation: {why}")]
    NotMapped {
        /// The address.
        at: VirtAddr,
        /// At which level it ended, and the entry seen.
        why: String,
    },
}

/// Notes past this many bytes are not read. Linux keeps one page a CPU: 64 MiB is 16384 CPUs.
const MAX_NOTES: u64 = 64 << 20;
/// VMCOREINFO past this many bytes is not parsed. Linux allocates a page, newer ones a few.
const MAX_VMCOREINFO: usize = 1 << 20;
/// No pfn at or above this is believed: with 4 KiB pages 256 TiB, with 64 KiB pages all of 52 bits.
const MAX_END_PFN: u64 = 1 << 36;

impl<'a> Vmcore<'a> {
    /// Reads headers, notes and VMCOREINFO.
    pub fn open(source: &'a dyn ReadAt, problems: &mut Problems) -> Result<Self, VmcoreError> {
        Self::open_with_info(source, b"", problems)
    }
    /// As [`Vmcore::open`]; `more` is VMCOREINFO from elsewhere, as text. The vmcore's own, which the dead kernel wrote
    /// itself, comes first: `more` tells what it lacks. A vmcore without any gets a note with all of `more`.
    pub fn open_with_info(
        source: &'a dyn ReadAt,
        more: &[u8],
        problems: &mut Problems,
    ) -> Result<Self, VmcoreError> {
        for complaint in source.complaints() {
            problems.push(complaint.code, complaint.message.clone());
        }
        if let Some(image) = source.image() {
            return Self::of_image(source, image, more, problems);
        }
        let headers = elf::read(source, problems)?;
        let mut notes = read_notes(source, &headers, problems);
        let info = parse_info(&mut notes, headers.endian, more, problems);
        let vmcoreinfo = notes.vmcoreinfo.clone();
        let page = page_size(&info, vmcoreinfo.is_some(), headers.machine, problems)?;
        let limit = end_limit(&info, page);
        let mut segments = Vec::with_capacity(headers.loads.len());
        let mut promised = Vec::with_capacity(headers.loads.len());
        for load in &headers.loads {
            let Some(segment) = segment(load, source.size(), limit, page, problems) else { continue };
            promised.push(Segment { file_len: load.filesz, ..segment });
            segments.push(segment);
        }
        let extents = extents::Extents::new(&segments);
        let whole = segments.iter().zip(&promised).all(|(is, was)| is.file_len == was.file_len);
        let cut_off = (!whole).then(|| {
            let pages = |extents: &extents::Extents| {
                let lengths =
                    extents.page_runs(page).into_iter().map(|(from, to)| to.get().saturating_sub(from.get()));
                lengths.fold(0, u64::saturating_add)
            };
            pages(&extents::Extents::new(&promised)).saturating_sub(pages(&extents))
        });
        let end = segments
            .iter()
            .filter_map(|s| s.start.checked_add(s.mem_len))
            .map(|end| page.pfn_ceil(end))
            .max()
            .unwrap_or(Pfn::new(0));
        if segments.iter().all(|s| s.file_len == 0) {
            return Err(VmcoreError::NoMemory(headers.loads.len()));
        }
        Ok(Self {
            source,
            endian: headers.endian,
            machine: headers.machine,
            page,
            segments,
            backing: Backing::Extents(extents),
            end,
            cut_off,
            notes: notes.bytes,
            vmcoreinfo: vmcoreinfo.unwrap_or(0..0),
            cpus: notes.cpus,
            info,
        })
    }
    /// Out of a dump that describes itself.
    fn of_image(
        source: &'a dyn ReadAt,
        image: &'a Image,
        more: &[u8],
        problems: &mut Problems,
    ) -> Result<Self, VmcoreError> {
        let mut notes = notes::Found::default();
        if let Err(bad) = notes.add(&image.notes, image.endian) {
            problems.push(
                Code::NOTE_MALFORMED,
                format!("note at byte {:#x} of the notes: {}; the rest is left out", bad.at, bad.why),
            );
        }
        if notes.vmcoreinfo.is_none() && !image.vmcoreinfo.is_empty() {
            notes.add_vmcoreinfo(&image.vmcoreinfo, image.endian);
        }
        let info = parse_info(&mut notes, image.endian, more, problems);
        let runs = image.present_runs(problems);
        let address = |pfn: Pfn| image.page.addr_of(pfn).map_or(u64::MAX, PhysAddr::get);
        let segments: Vec<_> = runs
            .iter()
            .map(|(start, end)| {
                let len = address(*end).saturating_sub(address(*start));
                Segment {
                    start: PhysAddr::new(address(*start)),
                    mem_len: len,
                    file_len: len,
                    offset: FileOffset::new(address(*start)),
                    virt: VirtAddr::new(0),
                }
            })
            .collect();
        let Some((_, end)) = runs.last() else { return Err(VmcoreError::NoMemory(0)) };
        Ok(Self {
            source,
            endian: image.endian,
            machine: image.machine,
            page: image.page,
            segments,
            end: *end,
            cut_off: None,
            backing: Backing::Image(image, runs),
            notes: notes.bytes,
            vmcoreinfo: notes.vmcoreinfo.unwrap_or(0..0),
            cpus: notes.cpus,
            info,
        })
    }
    /// What the dump says of itself, when the vmcore is a dump that an earlier filter has written.
    pub fn image(&self) -> Option<&'a Image> {
        match self.backing {
            Backing::Image(image, _) => Some(image),
            Backing::Extents(_) => None,
        }
    }
    /// The same vmcore, but its bytes come through `source`, which has them at the same offsets.
    pub fn through<'b>(&'b self, source: &'b dyn ReadAt) -> Vmcore<'b> {
        Vmcore {
            source,
            endian: self.endian,
            machine: self.machine,
            page: self.page,
            segments: self.segments.clone(),
            backing: self.backing.clone(),
            end: self.end,
            cut_off: self.cut_off,
            notes: self.notes.clone(),
            vmcoreinfo: self.vmcoreinfo.clone(),
            cpus: self.cpus,
            info: self.info.clone(),
        }
    }
    /// The file; physical memory, when there is an [`Image`].
    pub fn source(&self) -> &'a dyn ReadAt {
        self.source
    }
    /// The first 16 bytes of an ELF file of this memory: of the file itself, where it is one.
    pub fn ident(&self) -> Result<[u8; 16], ReadError> {
        let mut ident = [0; 16];
        if self.image().is_none() {
            let at = FileOffset::new(0);
            self.source.read_at(at, &mut ident).map_err(|e| ReadError::Io(at, e))?;
        } else {
            let order = match self.endian {
                Endian::Little => layout::DATA_LITTLE,
                Endian::Big => layout::DATA_BIG,
            };
            let [m0, m1, m2, m3] = layout::MAGIC;
            let said = [m0, m1, m2, m3, layout::CLASS64, order, layout::EV_CURRENT];
            ident.iter_mut().zip(said).for_each(|(to, from)| *to = from);
        }
        Ok(ident)
    }
    /// Byte order of the crashed kernel.
    pub fn endian(&self) -> Endian {
        self.endian
    }
    /// Page size of the crashed kernel (VMCOREINFO's PAGESIZE).
    pub fn page_size(&self) -> PageSize {
        self.page
    }
    /// ELF machine ([`EM_X86_64`] = 62, …).
    pub fn machine(&self) -> u16 {
        self.machine
    }
    /// The PT_LOADs as the file orders them.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }
    /// Takes a stretch of physical memory out of an ELF file's, as if the file did not hold it.
    pub fn leave_out(&mut self, start: PhysAddr, end: PhysAddr) {
        if !matches!(self.backing, Backing::Extents(_)) {
            return;
        }
        let cut = |s: &Segment, from: u64, to: u64| {
            let skip = from.checked_sub(s.start.get()).filter(|_| from < to)?;
            let file_len = s.file_len.min(to.saturating_sub(s.start.get())).saturating_sub(skip);
            Some(Segment {
                start: PhysAddr::new(from),
                mem_len: to.saturating_sub(from),
                file_len,
                offset: s.offset.checked_add(skip)?,
                virt: VirtAddr::new(s.virt.get().wrapping_add(skip)),
            })
        };
        self.segments = std::mem::take(&mut self.segments)
            .iter()
            .flat_map(|s| {
                let (first, last) = (s.start.get(), s.start.get().saturating_add(s.mem_len));
                [cut(s, first, last.min(start.get())), cut(s, first.max(end.get()), last)]
            })
            .flatten()
            .collect();
        self.backing = Backing::Extents(extents::Extents::new(&self.segments));
    }
    /// All PT_NOTEs, one after the other, each padded to 4 bytes; malformed and unused ends left out.
    pub fn notes(&self) -> &[u8] {
        &self.notes
    }
    /// Descriptors of the NT_PRSTATUS notes, in their order. Those of /proc/kcore are nobody's registers, and left out.
    pub fn prstatus(&self) -> Vec<&[u8]> {
        if self.is_live() {
            return Vec::new();
        }
        self.notes_of_core(layout::NT_PRSTATUS).filter_map(|desc| self.notes.get(desc)).collect()
    }
    /// Whether it is /proc/kcore: the kernel runs, and what is read of it changes.
    pub fn is_live(&self) -> bool {
        self.notes_of_core(layout::NT_TASKSTRUCT).next().is_some()
    }
    fn notes_of_core(&self, kind: u32) -> impl Iterator<Item = Range<usize>> + '_ {
        let notes = notes::Notes::new(&self.notes, self.endian).filter_map(Result::ok);
        let own = notes.filter(move |note| {
            note.kind == kind && self.notes.get(note.name.clone()) == Some(b"CORE".as_slice())
        });
        own.map(|note| note.desc)
    }
    /// Where VMCOREINFO's text lies within [`Vmcore::notes`]; empty without one.
    pub fn vmcoreinfo_range(&self) -> Range<usize> {
        self.vmcoreinfo.clone()
    }
    /// VMCOREINFO.
    pub fn info(&self) -> &VmcoreInfo {
        &self.info
    }
    /// Number of NT_PRSTATUS notes: CPUs whose registers were saved.
    pub fn cpus(&self) -> usize {
        self.cpus
    }
    /// One past the last pfn of any segment.
    pub fn end_pfn(&self) -> Pfn {
        self.end
    }
    /// Of a file that was cut off, the pages that its headers promise behind its end; none of them is in
    /// [`Vmcore::present_runs`].
    pub fn cut_off(&self) -> Option<u64> {
        self.cut_off
    }
    /// Runs of pages of which the file holds at least a byte, or which the machine had before an earlier filter left some
    /// out ([`Vmcore::image`]): half-open, ascending, apart from each other.
    pub fn present_runs(&self) -> Vec<(Pfn, Pfn)> {
        match &self.backing {
            Backing::Extents(extents) => extents.page_runs(self.page),
            Backing::Image(_, runs) => runs.clone(),
        }
    }
    /// Bytes of memory that the file has, and that the machine had: less of the first where a filter left pages out.
    pub fn held(&self) -> (u64, u64) {
        let pages = |runs: &mut dyn Iterator<Item = (Pfn, Pfn)>| {
            let pages =
                runs.map(|(start, end)| end.get().saturating_sub(start.get())).fold(0, u64::saturating_add);
            pages.saturating_mul(self.page.bytes())
        };
        let Backing::Image(image, runs) = &self.backing else {
            // What an ELF file does not hold of a segment was left out.
            let mut all: Vec<Segment> = self.segments.clone();
            all.iter_mut().for_each(|segment| segment.file_len = segment.mem_len);
            let all = extents::Extents::new(&all).page_runs(self.page);
            return (pages(&mut self.present_runs().into_iter()), pages(&mut all.into_iter()));
        };
        (pages(&mut image.dumped.runs()), pages(&mut runs.iter().copied()))
    }
    /// Where `at` lies in the file, and how many bytes follow it in one piece (at least 1).
    fn find(&self, at: PhysAddr) -> Option<(FileOffset, u64)> {
        match &self.backing {
            Backing::Extents(extents) => extents.find(at),
            Backing::Image(image, _) => {
                let pfn = self.page.pfn_of(at);
                let end = self.page.addr_of(pfn.checked_add(image.dumped.run_at(pfn))?)?;
                let len = end.offset_from(at).filter(|len| *len > 0)?;
                Some((FileOffset::new(at.get()), len))
            }
        }
    }
    /// Physical memory; spans segments; an error if any byte is not backed by file data.
    pub fn read_phys(&self, at: PhysAddr, buf: &mut [u8]) -> Result<(), ReadError> {
        let mut at = at;
        let mut rest = buf;
        while !rest.is_empty() {
            let (offset, len) = self.find(at).ok_or(ReadError::NotBacked(at))?;
            let take = usize::try_from(len).unwrap_or(usize::MAX).min(rest.len());
            let (now, later) = rest.split_at_mut(take);
            self.source.read_at(offset, now).map_err(|e| ReadError::Io(offset, e))?;
            at = at.checked_add(take as u64).ok_or(ReadError::NotBacked(at))?;
            rest = later;
        }
        Ok(())
    }
    /// Reads as much from `at` on as lies in one piece in the file, at most `buf`; how much that was, at least 1.
    pub(crate) fn read_some(&self, at: PhysAddr, buf: &mut [u8]) -> Result<usize, ReadError> {
        let (offset, len) = self.find(at).ok_or(ReadError::NotBacked(at))?;
        let len = usize::try_from(len).unwrap_or(usize::MAX).min(buf.len());
        let buf = buf.get_mut(..len).unwrap_or_default();
        self.source.read_at(offset, buf).map_err(|e| ReadError::Io(offset, e))?;
        Ok(len)
    }
    /// How many bytes from `at` on the file does not hold; 0 when it holds `at`, `u64::MAX` when nothing follows.
    pub(crate) fn unbacked(&self, at: PhysAddr) -> u64 {
        match &self.backing {
            Backing::Extents(extents) => extents.gap(at),
            Backing::Image(..) if self.find(at).is_some() => 0,
            Backing::Image(..) => self.page.bytes() - (at.get() & (self.page.bytes() - 1)),
        }
    }
    /// One whole page into `buf`, which is one page long; parts of it that no segment holds read as zero; an error if no
    /// part is backed.
    pub fn read_page(&self, pfn: Pfn, buf: &mut [u8]) -> Result<(), ReadError> {
        let unbacked = || ReadError::NotBacked(PhysAddr::new(u64::MAX));
        let start = self.page.addr_of(pfn).ok_or_else(unbacked)?;
        let Backing::Extents(extents) = &self.backing else { return self.read_phys(start, buf) };
        let end = start.checked_add(buf.len().min(self.page.len()) as u64).ok_or_else(unbacked)?;
        buf.fill(0);
        let mut backed = false;
        for (from, offset, len) in extents.within(start.get(), end.get()) {
            backed = true;
            let skip = usize::try_from(from.saturating_sub(start.get())).unwrap_or(usize::MAX);
            let to = skip.saturating_add(usize::try_from(len).unwrap_or(usize::MAX));
            let part = buf.get_mut(skip..to).ok_or_else(unbacked)?;
            self.source.read_at(offset, part).map_err(|e| ReadError::Io(offset, e))?;
        }
        if backed { Ok(()) } else { Err(ReadError::NotBacked(start)) }
    }
    /// A stretch of physical memory that lies in one piece in the file, without a copy where the source can: from `at`, at
    /// least 1 and at most `max` bytes, at most [`ReadAt::window_len`].
    pub fn phys_window(&self, at: PhysAddr, max: usize) -> Result<Window<'a>, ReadError> {
        let (offset, len) = self.find(at).ok_or(ReadError::NotBacked(at))?;
        let room = self.source.window_len();
        let len = usize::try_from(len).unwrap_or(usize::MAX).min(max).min(room).max(1);
        match self.source.window(offset, len) {
            // It cannot map any more and copies from now on, less at a time.
            Err(_) if self.source.window_len() < room => self.phys_window(at, max),
            window => window.map_err(|e| ReadError::Io(offset, e)),
        }
    }
    /// Says that `pages` pages from `start` are wanted soon, see [`ReadAt::expect`]: as many of them as lie in one piece.
    pub fn expect_pages(&self, start: Pfn, pages: u64) {
        if let Some(at) = self.page.addr_of(start)
            && let Some((offset, len)) = self.find(at)
        {
            self.source.expect(offset, pages.saturating_mul(self.page.len() as u64).min(len));
        }
    }
    /// Whole pages that lie in one piece in the file, without a copy where the source can: from `start`, at least 1 and at
    /// most `max_pages`, together at most [`ReadAt::window_len`] (but at least a page). Returns them and their number.
    ///
    /// [`ReadError::NotBacked`] when page `start` is not whole or not in one piece: [`Vmcore::read_page`] reads it.
    pub fn page_window(&self, start: Pfn, max_pages: u64) -> Result<(Window<'a>, u64), ReadError> {
        let at = self.page.addr_of(start).ok_or(ReadError::NotBacked(PhysAddr::new(u64::MAX)))?;
        let (offset, len) = self.find(at).ok_or(ReadError::NotBacked(at))?;
        let room = self.source.window_len();
        let pages = ((room.max(self.page.len()) as u64).min(len) >> self.page.shift()).min(max_pages.max(1));
        if pages == 0 {
            return Err(ReadError::NotBacked(at));
        }
        let bytes = usize::try_from(pages << self.page.shift()).unwrap_or(usize::MAX);
        match self.source.window(offset, bytes) {
            Err(_) if self.source.window_len() < room => self.page_window(start, max_pages),
            window => Ok((window.map_err(|e| ReadError::Io(offset, e))?, pages)),
        }
    }
}

/// VMCOREINFO out of the notes.
fn parse_info(notes: &mut notes::Found, endian: Endian, more: &[u8], problems: &mut Problems) -> VmcoreInfo {
    let more = more.get(..more.len().min(MAX_VMCOREINFO)).unwrap_or_default();
    if notes.vmcoreinfo.is_none() && !more.is_empty() {
        notes.add_vmcoreinfo(more, endian);
    }
    let mut text = notes.vmcoreinfo.clone().and_then(|r| notes.bytes.get(r)).unwrap_or_default();
    if text.len() > MAX_VMCOREINFO {
        problems.push(
            Code::NOTE_MALFORMED,
            format!("VMCOREINFO has {} bytes: {MAX_VMCOREINFO} used", text.len()),
        );
        text = text.get(..MAX_VMCOREINFO).unwrap_or_default();
    }
    let mut info = VmcoreInfo::parse(text);
    info.complete(&VmcoreInfo::parse(more));
    info
}

/// Reads the PT_NOTEs. What cannot be read or makes no sense is left out.
fn read_notes(source: &dyn ReadAt, headers: &elf::Headers, problems: &mut Problems) -> notes::Found {
    let mut found = notes::Found::default();
    for program in &headers.notes {
        let room = source.size().saturating_sub(program.offset);
        let budget = MAX_NOTES.saturating_sub(found.bytes.len() as u64);
        let len = program.filesz.min(room).min(budget);
        if len < program.filesz {
            problems.push(
                Code::NOTE_MALFORMED,
                format!(
                    "PT_NOTE at offset {:#x} claims {} bytes: {len} used",
                    program.offset, program.filesz
                ),
            );
        }
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        if let Err(e) = source.read_at(FileOffset::new(program.offset), &mut bytes) {
            problems.push(
                Code::VMCORE_UNREADABLE,
                format!("cannot read the PT_NOTE of {len} bytes at offset {:#x}: {e}", program.offset),
            );
            continue;
        }
        if let Err(bad) = found.add(&bytes, headers.endian) {
            let at = program.offset.saturating_add(bad.at as u64);
            problems.push(
                Code::NOTE_MALFORMED,
                format!("note at offset {at:#x}: {}; the rest is left out", bad.why),
            );
        }
    }
    found
}

/// PAGESIZE, or the architecture's where it has but one.
fn page_size(
    info: &VmcoreInfo,
    has_note: bool,
    machine: u16,
    problems: &mut Problems,
) -> Result<PageSize, VmcoreError> {
    let why = match info.get("PAGESIZE") {
        Some(text) => match text.parse().ok().and_then(PageSize::new) {
            Some(page) => return Ok(page),
            None => format!("VMCOREINFO has PAGESIZE={text:?}, no power of two from 4096 to 65536"),
        },
        None if has_note => "VMCOREINFO has no key PAGESIZE".to_owned(),
        None => "no VMCOREINFO note".to_owned(),
    };
    let known = match machine {
        EM_X86_64 | EM_S390 | EM_RISCV => PageSize::new(4096),
        _ => None,
    };
    match known {
        Some(page) => {
            problems.push(
                Code::VMCOREINFO_KEY_MISSING,
                format!("{why}: pages of {} bytes assumed", page.bytes()),
            );
            Ok(page)
        }
        None => Err(VmcoreError::NoPageSize(why, machine)),
    }
}

/// No physical address at or above this is believed.
fn end_limit(info: &VmcoreInfo, page: PageSize) -> u64 {
    let own = MAX_END_PFN << page.shift();
    let bits =
        info.number("MAX_PHYSMEM_BITS").and_then(|b| u32::try_from(b).ok()).filter(|b| (32..64).contains(b));
    // Since Linux commit 1d50e5d0c505 ("crash_core, vmcoreinfo: Append 'MAX_PHYSMEM_BITS' to vmcoreinfo") (in v5.8)
    bits.and_then(|b| 1_u64.checked_shl(b)).unwrap_or(own).min(own)
}

/// A PT_LOAD as a segment: cut where the file ends, dropped where it cannot be.
fn segment(
    load: &elf::Program,
    file_size: u64,
    limit: u64,
    page: PageSize,
    problems: &mut Problems,
) -> Option<Segment> {
    let elf::Program { offset, vaddr, paddr, filesz, memsz } = *load;
    let mem_len = memsz.max(filesz);
    // /proc/kcore has virtual memory that is nowhere in particular. Since Linux commit 464920104bf7 ("/proc/kcore: update
    // physical address for kcore ram and text") (in v4.11) it says so.
    if mem_len == 0 || paddr == u64::MAX {
        return None;
    }
    let what = || format!("PT_LOAD of {mem_len:#x} bytes at physical address {paddr:#x}");
    if paddr.checked_add(mem_len).is_none_or(|end| end > limit) {
        problems.push(
            Code::SEGMENT_MALFORMED,
            format!("{} ends above {limit:#x}, the end of physical memory: left out", what()),
        );
        return None;
    }
    let room = file_size.saturating_sub(offset);
    if filesz > room {
        problems.push(
            Code::SEGMENT_MALFORMED,
            format!("{}: its {filesz:#x} bytes at offset {offset:#x} reach past the end of the file: {room:#x} used", what()),
        );
    }
    let file_len = filesz.min(room);
    debug_assert!(page.pfn_ceil(PhysAddr::new(paddr.saturating_add(mem_len))).get() <= MAX_END_PFN);
    Some(Segment {
        start: PhysAddr::new(paddr),
        mem_len,
        file_len,
        offset: FileOffset::new(offset),
        virt: VirtAddr::new(vaddr),
    })
}

#[cfg(test)]
mod tests;

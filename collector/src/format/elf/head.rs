//! Everything before the first byte of memory: headers and notes.

use super::pieces::pieces;
use crate::addr::FileOffset;
use crate::filter::Bitmap;
use crate::format::DumpSink;
use crate::vmcore::{Endian, Vmcore};
use std::io;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{Immutable, IntoBytes, Unaligned};

/// Program headers that are gathered before they are written.
const BATCH: usize = 1 << 14;

/// `e_phnum` that sends the reader to section header 0.
const PN_XNUM: u64 = 0xffff;

/// Bit of `e_flags`: pages are missing. makedumpfile's DUMP_ELF_INCOMPLETE.
pub(super) const INCOMPLETE: u32 = 1;

const ET_CORE: u16 = 4;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// Readable, writable, executable, as the kernel marks each PT_LOAD of /proc/vmcore.
const PF_RWX: u32 = 7;

/// Elf64_Ehdr (System V gABI, chapter 4).
#[derive(Clone, Copy, IntoBytes, Immutable, Unaligned)]
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
#[derive(Clone, Copy, IntoBytes, Immutable, Unaligned)]
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
#[derive(Clone, Copy, IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct SectionHeader {
    before: [u8; 44],
    info: U32,
    after: [u8; 16],
}

crate::format::layout::swapped!(FileHeader: kind, machine, version, entry, phoff, shoff, flags, ehsize, phentsize,
    phnum, shentsize, shnum, shstrndx);
crate::format::layout::swapped!(ProgramHeader: kind, flags, offset, vaddr, paddr, filesz, memsz, align);
crate::format::layout::swapped!(SectionHeader: info);

const _: () = assert!(size_of::<FileHeader>() == 64);
const _: () = assert!(size_of::<ProgramHeader>() == 56);
const _: () = assert!(size_of::<SectionHeader>() == 64);

/// Where everything lies.
pub(super) struct Head {
    header: FileHeader,
    big: bool,
    /// Program headers.
    count: u64,
    /// Of section header 0, where there is one.
    section_at: Option<u64>,
    notes_at: u64,
    notes: Vec<u8>,
    /// File offset of the first byte of memory.
    pub data_at: u64,
}

impl Head {
    /// Lays out a dump of the pages in `keep`; `erased`: the record of what was erased, as text.
    pub fn new(vmcore: &Vmcore<'_>, keep: &Bitmap, page: u64, erased: &[u8]) -> Option<Self> {
        let big = vmcore.endian() == Endian::Big;
        let count = vmcore.segments().iter().map(|s| pieces(s, page, keep).count() as u64).sum::<u64>();
        let count = count.checked_add(1)?;
        let extended = count >= PN_XNUM;
        let shoff = count.checked_mul(56)?.checked_add(64)?;
        let notes_at = if extended { shoff.checked_add(64)? } else { shoff };
        let mut notes = vmcore.notes().to_vec();
        if !erased.is_empty() {
            notes.extend_from_slice(&note(b"ERASEINFO\0", erased, big)?);
        }
        let data_at = notes_at.checked_add(notes.len() as u64)?;
        let ident = vmcore.ident().ok()?;
        let header = FileHeader {
            ident,
            kind: ET_CORE.into(),
            machine: vmcore.machine().into(),
            version: 1.into(),
            entry: 0.into(),
            phoff: 64.into(),
            shoff: if extended { shoff } else { 0 }.into(),
            flags: 0.into(),
            ehsize: 64.into(),
            phentsize: 56.into(),
            phnum: u16::try_from(count.min(PN_XNUM)).unwrap_or(u16::MAX).into(),
            shentsize: if extended { 64 } else { 0 }.into(),
            shnum: u16::from(extended).into(),
            shstrndx: 0.into(),
        };
        let section_at = extended.then_some(shoff);
        Some(Self { header, big, count, section_at, notes_at, notes, data_at })
    }

    /// The file header.
    pub fn file_header(&self, flags: u32) -> Vec<u8> {
        let header = FileHeader { flags: flags.into(), ..self.header };
        (if self.big { header.swapped() } else { header }).as_bytes().to_vec()
    }

    /// Writes all of it, from front to back; returns the end of the file.
    pub fn write(
        &self,
        vmcore: &Vmcore<'_>,
        keep: &Bitmap,
        page: u64,
        flags: u32,
        sink: &dyn DumpSink,
    ) -> io::Result<u64> {
        let len = self.notes.len() as u64;
        let note = ProgramHeader {
            kind: PT_NOTE.into(),
            flags: 0.into(),
            offset: self.notes_at.into(),
            vaddr: 0.into(),
            paddr: 0.into(),
            filesz: len.into(),
            memsz: len.into(),
            align: 0.into(),
        };
        let order = |header: ProgramHeader| if self.big { header.swapped() } else { header };
        let mut out = self.file_header(flags);
        out.extend_from_slice(order(note).as_bytes());
        let (mut at, mut data) = (0, self.data_at);
        for segment in vmcore.segments() {
            for piece in pieces(segment, page, keep) {
                if out.len() >= BATCH * 56 {
                    sink.write_at(FileOffset::new(at), &out)?;
                    at = at.saturating_add(out.len() as u64);
                    out.clear();
                }
                let virt = segment.virt.get();
                let header = ProgramHeader {
                    kind: PT_LOAD.into(),
                    flags: PF_RWX.into(),
                    offset: if piece.data() == 0 { 0 } else { data }.into(),
                    vaddr: if virt == 0 { 0 } else { virt.wrapping_add(piece.start) }.into(),
                    paddr: segment.start.get().saturating_add(piece.start).into(),
                    filesz: piece.data().into(),
                    memsz: (piece.end - piece.start).into(),
                    align: 0.into(),
                };
                out.extend_from_slice(order(header).as_bytes());
                data = data.checked_add(piece.data()).ok_or(io::ErrorKind::FileTooLarge)?;
            }
        }
        if self.section_at.is_some() {
            let info = u32::try_from(self.count).map_err(io::Error::other)?.into();
            let section = SectionHeader { before: [0; 44], info, after: [0; 16] };
            out.extend_from_slice((if self.big { section.swapped() } else { section }).as_bytes());
        }
        out.extend_from_slice(&self.notes);
        sink.write_at(FileOffset::new(at), &out)?;
        debug_assert_eq!(at + out.len() as u64, self.data_at);
        Ok(data)
    }
}

/// A note: three words, the name and the text, both padded to 4 bytes.
fn note(name: &[u8], text: &[u8], big: bool) -> Option<Vec<u8>> {
    let word = |n: usize| {
        let n = u32::try_from(n).ok()?;
        Some(if big { n.to_be_bytes() } else { n.to_le_bytes() })
    };
    let mut note = Vec::with_capacity(12 + name.len() + text.len() + 8);
    note.extend(word(name.len())?);
    note.extend(word(text.len())?);
    note.extend([0; 4]);
    for part in [name, text] {
        note.extend_from_slice(part);
        note.resize(note.len().next_multiple_of(4), 0);
    }
    Some(note)
}

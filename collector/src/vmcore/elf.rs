//! The ELF headers of a vmcore: file header and program headers, as they are, in one plain form for both byte orders.

use super::endian::Endian;
use super::layout::{
    CLASS64, DATA_BIG, DATA_LITTLE, ET_CORE, FileHeader, MAGIC, PN_XNUM, PT_LOAD, PT_NOTE, ProgramHeader,
    SectionHeader,
};
use super::{ReadAt, VmcoreError};
use crate::addr::FileOffset;
use crate::problem::{Code, Problems};
use zerocopy::byteorder::ByteOrder;
use zerocopy::{BigEndian, FromBytes, LittleEndian};

/// More program headers than this are not read. Linux makes at most some tens of thousands (one a memory range).
const MAX_PROGRAM_HEADERS: u64 = 1 << 18;
/// Program headers read at a time.
const BATCH: u64 = 1024;
/// Bytes of a file header.
const FILE_HEADER: usize = size_of::<FileHeader<LittleEndian>>();
/// Bytes of a program header.
const PROGRAM_HEADER: usize = size_of::<ProgramHeader<LittleEndian>>();
/// Bytes of a section header.
const SECTION_HEADER: usize = size_of::<SectionHeader<LittleEndian>>();

/// A PT_LOAD or PT_NOTE.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Program {
    pub offset: u64,
    pub vaddr: u64,
    pub paddr: u64,
    pub filesz: u64,
    pub memsz: u64,
}

/// What the headers say.
#[derive(Clone, Debug)]
pub(super) struct Headers {
    pub endian: Endian,
    pub machine: u16,
    /// PT_LOADs, in the file's order.
    pub loads: Vec<Program>,
    /// PT_NOTEs, in the file's order.
    pub notes: Vec<Program>,
}

/// Reads them. Tolerates what real writers do: an odd `e_ehsize`, headers in any place, a count that does not fit.
pub(super) fn read(source: &dyn ReadAt, problems: &mut Problems) -> Result<Headers, VmcoreError> {
    let mut raw = [0_u8; FILE_HEADER];
    if source.size() < raw.len() as u64 {
        return Err(VmcoreError::TooShort { size: source.size() });
    }
    read_at(source, 0, &mut raw, "file header")?;
    let [m0, m1, m2, m3, class, data, ..] = raw;
    if [m0, m1, m2, m3] != MAGIC {
        return Err(VmcoreError::NotElf { seen: [m0, m1, m2, m3] });
    }
    if class != CLASS64 {
        return Err(VmcoreError::Class(class));
    }
    match data {
        DATA_LITTLE => read_in::<LittleEndian>(source, Endian::Little, &raw, problems),
        DATA_BIG => read_in::<BigEndian>(source, Endian::Big, &raw, problems),
        other => Err(VmcoreError::ByteOrder(other)),
    }
}

fn read_at(source: &dyn ReadAt, at: u64, buf: &mut [u8], what: &'static str) -> Result<(), VmcoreError> {
    source.read_at(FileOffset::new(at), buf).map_err(|source| VmcoreError::Io {
        what,
        at: FileOffset::new(at),
        source,
    })
}

fn read_in<O: ByteOrder>(
    source: &dyn ReadAt,
    endian: Endian,
    raw: &[u8],
    problems: &mut Problems,
) -> Result<Headers, VmcoreError> {
    let Ok((header, _)) = FileHeader::<O>::ref_from_prefix(raw) else {
        return Err(VmcoreError::TooShort { size: source.size() });
    };
    if header.kind.get() != ET_CORE {
        return Err(VmcoreError::NotCore(header.kind.get()));
    }
    let phoff = header.phoff.get();
    let stride = u64::from(header.phentsize.get());
    if stride < PROGRAM_HEADER as u64 {
        return Err(VmcoreError::ProgramHeaderSize(header.phentsize.get()));
    }
    let claimed = match header.phnum.get() {
        PN_XNUM => extended_count::<O>(source, header.shoff.get())?,
        n => u64::from(n),
    };
    let room = source.size().saturating_sub(phoff) / stride;
    let count = claimed.min(room).min(MAX_PROGRAM_HEADERS);
    if count < claimed {
        problems.push(
            Code::SEGMENT_MALFORMED,
            format!(
                "{claimed} program headers at offset {phoff:#x}, the file has room for {room}: {count} used"
            ),
        );
    }
    let mut headers = Headers { endian, machine: header.machine.get(), loads: Vec::new(), notes: Vec::new() };
    let stride_len = usize::from(header.phentsize.get());
    let mut buf = Vec::new();
    let mut done = 0;
    while done < count {
        let batch = BATCH.min(count - done);
        buf.resize(usize::try_from(batch).unwrap_or(0).saturating_mul(stride_len), 0);
        read_at(source, phoff.saturating_add(done.saturating_mul(stride)), &mut buf, "program headers")?;
        for entry in buf.chunks_exact(stride_len) {
            let Ok((p, _)) = ProgramHeader::<O>::ref_from_prefix(entry) else { continue };
            let program = Program {
                offset: p.offset.get(),
                vaddr: p.vaddr.get(),
                paddr: p.paddr.get(),
                filesz: p.filesz.get(),
                memsz: p.memsz.get(),
            };
            match p.kind.get() {
                PT_LOAD => headers.loads.push(program),
                PT_NOTE => headers.notes.push(program),
                _ => {}
            }
        }
        done += batch;
    }
    Ok(headers)
}

/// The number of program headers when it does not fit in 16 bits.
fn extended_count<O: ByteOrder>(source: &dyn ReadAt, shoff: u64) -> Result<u64, VmcoreError> {
    let mut raw = [0_u8; SECTION_HEADER];
    read_at(source, shoff, &mut raw, "section header 0, which has the number of program headers")?;
    match SectionHeader::<O>::ref_from_prefix(&raw) {
        Ok((section, _)) => Ok(u64::from(section.info.get())),
        Err(_) => Err(VmcoreError::TooShort { size: source.size() }),
    }
}

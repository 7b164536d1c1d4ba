//! Reads kdump-compressed dumps back, version 1 to 6, little-endian. The file is not trusted: it may be cut off, or made to
//! mislead.

use super::codec::{DecodeError, Decoder};
use super::layout::{DiskDumpHeader, Flags, KdumpSubHeader, PageDesc, SIGNATURE};
use crate::addr::{FileOffset, PageSize, Pfn};
use crate::vmcore::ReadAt;
use std::io;
use zerocopy::{FromBytes, IntoBytes};

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

/// Larger bitmaps are not read: 2^34 pages are 64 TiB of 4 KiB pages.
const MAX_PFNS: u64 = 1 << 34;
/// Notes past this many bytes are not read.
const MAX_NOTES: u64 = 64 << 20;
/// Bytes of a bitmap for which one sum is kept: [`Bits::rank`] counts at most so many.
const RANK_BYTES: usize = 4096;

/// A bitmap with sums, so that the rank of a bit is quick.
struct Bits {
    bytes: Vec<u8>,
    /// Bits set before each [`RANK_BYTES`].
    sums: Vec<u64>,
}

impl Bits {
    fn read(source: &dyn ReadAt, at: u64, pfns: u64, what: &'static str) -> Result<Self, KdumpError> {
        let at = FileOffset::new(at);
        let len = pfns.div_ceil(8);
        // Before anything is allocated: is it there at all?
        if at.checked_add(len).is_none_or(|end| end.get() > source.size()) {
            return Err(KdumpError::Read { what, at, source: io::ErrorKind::UnexpectedEof.into() });
        }
        let len = usize::try_from(len).map_err(|_| KdumpError::Memory(what))?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).map_err(|_| KdumpError::Memory(what))?;
        bytes.resize(len, 0);
        source.read_at(at, &mut bytes).map_err(|source| KdumpError::Read { what, at, source })?;
        // Bits past the end of the last byte would shift every rank after them; there is none after them, but count them not.
        if let (Some(last), 1..) = (bytes.last_mut(), pfns % 8) {
            *last &= (1 << (pfns % 8)) - 1;
        }
        let mut sum = 0;
        let sums = bytes
            .chunks(RANK_BYTES)
            .map(|chunk| {
                let before = sum;
                sum += count(chunk);
                before
            })
            .collect();
        Ok(Self { bytes, sums })
    }

    fn get(&self, pfn: u64) -> bool {
        let byte = usize::try_from(pfn / 8).ok().and_then(|b| self.bytes.get(b));
        byte.is_some_and(|b| b >> (pfn % 8) & 1 == 1)
    }

    /// Bits set before `pfn`.
    fn rank(&self, pfn: u64) -> u64 {
        let byte = usize::try_from(pfn / 8).unwrap_or(usize::MAX).min(self.bytes.len());
        let chunk = byte / RANK_BYTES;
        let before = self.sums.get(chunk).copied().unwrap_or(0);
        let whole = self.bytes.get(chunk.saturating_mul(RANK_BYTES)..byte).unwrap_or_default();
        let part = self.bytes.get(byte).copied().unwrap_or(0) & ((1 << (pfn % 8)) - 1);
        before + count(whole) + u64::from(part.count_ones())
    }
}

fn count(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let words: u64 = words.iter().map(|w| u64::from(u64::from_ne_bytes(*w).count_ones())).sum();
    words + rest.iter().map(|b| u64::from(b.count_ones())).sum::<u64>()
}

/// An opened dump.
#[expect(missing_debug_implementations, reason = "holds a dead kernel's memory")]
pub struct KdumpFile<'a> {
    source: &'a dyn ReadAt,
    header: DiskDumpHeader,
    sub_header: KdumpSubHeader,
    page: PageSize,
    end: u64,
    present: Bits,
    kept: Bits,
    descs: u64,
    notes: Vec<u8>,
    vmcoreinfo: Vec<u8>,
    decoder: Decoder,
    /// A page as it is stored.
    stored: Vec<u8>,
}

fn struct_at<T: FromBytes + IntoBytes>(
    source: &dyn ReadAt,
    at: u64,
    what: &'static str,
) -> Result<T, KdumpError> {
    let mut value = T::new_zeroed();
    let at = FileOffset::new(at);
    source.read_at(at, value.as_mut_bytes()).map_err(|source| KdumpError::Read { what, at, source })?;
    Ok(value)
}

impl<'a> KdumpFile<'a> {
    /// Reads headers, notes and bitmaps.
    pub fn open(source: &'a dyn ReadAt) -> Result<Self, KdumpError> {
        let header: DiskDumpHeader = struct_at(source, 0, "the header")?;
        if header.signature != SIGNATURE {
            return Err(KdumpError::Signature(header.signature));
        }
        let field = |field: &'static str, value: i64| {
            let bad = KdumpError::Field { field, value: value.cast_unsigned() };
            u64::try_from(value).map_err(|_| bad)
        };
        let version = header.header_version.get();
        if !(1..=6).contains(&version) {
            return Err(KdumpError::Field {
                field: "header_version",
                value: i64::from(version).cast_unsigned(),
            });
        }
        let block = field("block_size", i64::from(header.block_size.get()))?;
        let page = PageSize::new(block).ok_or(KdumpError::Field { field: "block_size", value: block })?;
        let sub_hdr_blocks = field("sub_hdr_size", i64::from(header.sub_hdr_size.get()))?;
        let sub_header = sub_header(source, page, version)?;
        let end =
            if version >= 6 { sub_header.max_mapnr_64.get() } else { u64::from(header.max_mapnr.get()) };
        if end > MAX_PFNS {
            return Err(KdumpError::Field { field: "max_mapnr", value: end });
        }

        // Neither product overflows: 2^32 blocks of 2^16 bytes.
        let bitmaps = (sub_hdr_blocks + 1) * block;
        let bitmap_blocks = u64::from(header.bitmap_blocks.get());
        let each = end.div_ceil(8).div_ceil(block);
        // Old diskdumps have one bitmap.
        let second = if bitmap_blocks >= each * 2 { bitmaps + each * block } else { bitmaps };
        if bitmap_blocks < each {
            return Err(KdumpError::Field { field: "bitmap_blocks", value: bitmap_blocks });
        }
        let present = Bits::read(source, bitmaps, end, "the first bitmap")?;
        let kept = Bits::read(source, second, end, "the second bitmap")?;
        let blob = |at: u64, len: u64, what| blob(source, at, len, what);
        let (notes, vmcoreinfo) = (
            blob(sub_header.offset_note.get(), sub_header.size_note.get(), "the notes")?,
            blob(sub_header.offset_vmcoreinfo.get(), sub_header.size_vmcoreinfo.get(), "VMCOREINFO")?,
        );
        Ok(Self {
            source,
            header,
            sub_header,
            page,
            end,
            present,
            kept,
            descs: bitmaps + bitmap_blocks * block,
            notes,
            vmcoreinfo,
            decoder: Decoder::new().map_err(|_| KdumpError::Memory("the decoder"))?,
            stored: vec![0; page.len()],
        })
    }

    /// Block 0.
    pub fn header(&self) -> &DiskDumpHeader {
        &self.header
    }
    /// Block 1; fields that the file's version does not have are 0.
    pub fn sub_header(&self) -> &KdumpSubHeader {
        &self.sub_header
    }
    /// Bytes of a page.
    pub fn page_size(&self) -> PageSize {
        self.page
    }
    /// One past the last pfn.
    pub fn end_pfn(&self) -> Pfn {
        Pfn::new(self.end)
    }
    /// All notes.
    pub fn notes(&self) -> &[u8] {
        &self.notes
    }
    /// VMCOREINFO's text.
    pub fn vmcoreinfo(&self) -> &[u8] {
        &self.vmcoreinfo
    }
    /// The header says that pages are missing.
    pub fn incomplete(&self) -> bool {
        Flags(self.header.status.get()).has(Flags::INCOMPLETE)
    }
    /// Whether the machine had this page.
    pub fn present(&self, pfn: Pfn) -> bool {
        self.present.get(pfn.get())
    }
    /// Whether the page has a descriptor.
    pub fn kept(&self, pfn: Pfn) -> bool {
        self.kept.get(pfn.get())
    }

    /// A page's descriptor; `None` when it has none.
    pub fn descriptor(&self, pfn: Pfn) -> Result<Option<PageDesc>, KdumpError> {
        if !self.kept(pfn) {
            return Ok(None);
        }
        let index = self.kept.rank(pfn.get());
        let at = self.descs.saturating_add(index.saturating_mul(size_of::<PageDesc>() as u64));
        struct_at(self.source, at, "a page descriptor").map(Some)
    }

    /// Fills `buf`, which is one page long, when there is such a page; else leaves it alone.
    pub fn page(&mut self, pfn: Pfn, buf: &mut [u8]) -> Result<Found, KdumpError> {
        let Some(desc) = self.descriptor(pfn)? else {
            return Ok(if self.present(pfn) { Found::Excluded } else { Found::Hole });
        };
        let offset = FileOffset::new(desc.offset.get());
        if offset.get() == 0 {
            return Ok(Found::Missing);
        }
        let size = desc.size.get();
        let page = self.page.len();
        let bad = KdumpError::Descriptor { pfn, size, offset, page };
        let Some(stored) = usize::try_from(size).ok().and_then(|s| self.stored.get_mut(..s)) else {
            return Err(bad);
        };
        if stored.is_empty() || buf.len() != page {
            return Err(bad);
        }
        self.source.read_at(offset, stored).map_err(|source| KdumpError::Read {
            what: "a page",
            at: offset,
            source,
        })?;
        let flags = Flags(desc.flags.get());
        self.decoder.decode(flags, stored, buf).map_err(|source| KdumpError::Damaged {
            pfn,
            offset,
            source,
        })?;
        Ok(Found::Page)
    }
}

/// Block 1, without what its version does not have: earlier versions may hold anything there.
fn sub_header(source: &dyn ReadAt, page: PageSize, version: i32) -> Result<KdumpSubHeader, KdumpError> {
    let mut sub: KdumpSubHeader = struct_at(source, page.bytes(), "the sub header")?;
    let has = match version {
        1 => 8,
        2 => 32,
        3 => 48,
        4 => 64,
        5 => 80,
        _ => size_of::<KdumpSubHeader>(),
    };
    if let Some(rest) = sub.as_mut_bytes().get_mut(has..) {
        rest.fill(0);
    }
    Ok(sub)
}

fn blob(source: &dyn ReadAt, at: u64, len: u64, what: &'static str) -> Result<Vec<u8>, KdumpError> {
    if at == 0 || len == 0 {
        return Ok(Vec::new());
    }
    if len > MAX_NOTES || at.checked_add(len).is_none_or(|end| end > source.size()) {
        return Err(KdumpError::Field { field: what, value: len });
    }
    let mut bytes = vec![0; usize::try_from(len).map_err(|_| KdumpError::Memory(what))?];
    let at = FileOffset::new(at);
    source.read_at(at, &mut bytes).map_err(|source| KdumpError::Read { what, at, source })?;
    Ok(bytes)
}

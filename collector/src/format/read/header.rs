//! The headers of a kdump-compressed dump, of either byte order, and where its parts lie.

use super::KdumpError;
use crate::addr::{FileOffset, PageSize};
use crate::format::layout::{DiskDumpHeader, KdumpSubHeader, PageDesc, SIGNATURE};
use crate::vmcore::{Endian, ReadAt};
use zerocopy::{FromBytes, IntoBytes};

/// Larger bitmaps are not read: 2^36 pages are 256 TiB of 4 KiB pages.
const MAX_PFNS: u64 = 1 << 36;
/// Notes past this many bytes are not read.
const MAX_NOTES: u64 = 64 << 20;

/// A struct on disk: in memory it is little-endian, whatever it is in the file.
pub(super) trait OnDisk: FromBytes + IntoBytes + Copy {
    /// With the bytes of each integer turned around.
    fn turned(self) -> Self;
}

macro_rules! on_disk {
    ($($name:ident),*) => {$(
        impl OnDisk for $name {
            fn turned(self) -> Self {
                self.swapped()
            }
        }
    )*};
}

on_disk!(DiskDumpHeader, KdumpSubHeader, PageDesc);

/// Reads a struct.
pub(super) fn struct_at<T: OnDisk>(
    source: &dyn ReadAt,
    at: u64,
    endian: Endian,
    what: &'static str,
) -> Result<T, KdumpError> {
    let mut value = T::new_zeroed();
    let at = FileOffset::new(at);
    source.read_at(at, value.as_mut_bytes()).map_err(|source| KdumpError::Read { what, at, source })?;
    Ok(if endian == Endian::Big { value.turned() } else { value })
}

/// Both headers, in little-endian whatever the file's order, and what follows from them.
#[derive(Clone, Debug)]
pub(super) struct Headers {
    pub endian: Endian,
    pub header: DiskDumpHeader,
    /// Fields that the file's version does not have are 0.
    pub sub: KdumpSubHeader,
    pub page: PageSize,
    /// One past the last pfn.
    pub end: u64,
    /// Where bitmap 1 lies.
    pub first_bitmap: u64,
    /// Where bitmap 2 lies; where bitmap 1 does when there is but one.
    pub second_bitmap: u64,
    /// Where the descriptors lie.
    pub descs: u64,
}

impl Headers {
    pub fn read(source: &dyn ReadAt) -> Result<Self, KdumpError> {
        let mut signature = [0; 8];
        let known = usize::try_from(source.size()).unwrap_or(8).min(8);
        let at = FileOffset::new(0);
        let read = source.read_at(at, signature.get_mut(..known).unwrap_or_default());
        read.map_err(|source| KdumpError::Read { what: "the signature", at, source })?;
        if signature != SIGNATURE {
            return Err(KdumpError::Signature(signature));
        }
        let mut endian = Endian::Little;
        let mut header: DiskDumpHeader = struct_at(source, 0, endian, "the header")?;
        let known = |header: &DiskDumpHeader| (1..=6).contains(&header.header_version.get());
        if !known(&header) {
            let version = header.header_version.get();
            header = header.swapped();
            endian = Endian::Big;
            if !known(&header) {
                return Err(KdumpError::Field {
                    field: "header_version",
                    value: i64::from(version).cast_unsigned(),
                });
            }
        }
        let field = |field: &'static str, value: i64| {
            let bad = KdumpError::Field { field, value: value.cast_unsigned() };
            u64::try_from(value).map_err(|_| bad)
        };
        let version = header.header_version.get();
        let block = field("block_size", i64::from(header.block_size.get()))?;
        let page = PageSize::new(block).ok_or(KdumpError::Field { field: "block_size", value: block })?;
        let sub_hdr_blocks = field("sub_hdr_size", i64::from(header.sub_hdr_size.get()))?;
        let sub = sub_header(source, page, version, endian)?;
        let end = match (version, sub.max_mapnr_64.get()) {
            (6.., wide) if wide > 0 => wide,
            _ => u64::from(header.max_mapnr.get()),
        };
        if end > MAX_PFNS {
            return Err(KdumpError::Field { field: "max_mapnr", value: end });
        }
        // No product overflows: 2^32 blocks of 2^16 bytes.
        let first_bitmap = (sub_hdr_blocks + 1) * block;
        let bitmap_blocks = u64::from(header.bitmap_blocks.get());
        let each = end.div_ceil(8).div_ceil(block);
        if bitmap_blocks < each {
            return Err(KdumpError::Field { field: "bitmap_blocks", value: bitmap_blocks });
        }
        // Each has half of the blocks, which may be more than its pages take. diskdump's full dumps have one.
        let second = if bitmap_blocks >= each * 2 { bitmap_blocks / 2 * block } else { 0 };
        Ok(Self {
            endian,
            header,
            sub,
            page,
            end,
            first_bitmap,
            second_bitmap: first_bitmap + second,
            descs: first_bitmap + bitmap_blocks * block,
        })
    }

    /// VMCOREINFO's text and all notes; for a version that has none, nothing.
    pub fn blob(
        &self,
        source: &dyn ReadAt,
        at: u64,
        len: u64,
        what: &'static str,
    ) -> Result<Vec<u8>, KdumpError> {
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
}

/// Block 1, without what its version does not have: earlier versions may hold anything there.
fn sub_header(
    source: &dyn ReadAt,
    page: PageSize,
    version: i32,
    endian: Endian,
) -> Result<KdumpSubHeader, KdumpError> {
    let mut sub: KdumpSubHeader = struct_at(source, page.bytes(), endian, "the sub header")?;
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

//! Everything before the first page: where what lies, headers, notes, bitmaps.

use super::About;
use crate::addr::FileOffset;
use crate::filter::{Bitmap, Level};
use crate::format::layout::{DiskDumpHeader, Flags, KdumpSubHeader, PageDesc, SIGNATURE, VERSION};
use crate::format::{DumpSink, Job};
use crate::vmcore::Endian;
use std::io;
use zerocopy::IntoBytes;

/// Bytes that are gathered before they are written.
const BUFFER: usize = 1 << 20;

/// Bytes of a descriptor on disk.
const DESC: u64 = size_of::<PageDesc>() as u64;

/// Where everything lies, and how much.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    block: u64,
    end_pfn: u64,
    bitmap_len: u64,
    sub_hdr_blocks: u64,
    bitmaps: u64,
    /// File offset of the table of descriptors.
    pub descs: u64,
    /// File offset of the zero block, the first of the data.
    pub zeros: u64,
    /// File offset of the record of what was erased.
    erased: u64,
    /// File offset of the first page.
    pub pages: u64,
}

impl Geometry {
    /// `pages`: those that get a descriptor.
    pub fn new(job: &Job<'_>, about: &About<'_>, pages: u64) -> Option<Self> {
        let block = job.pages.page_size().bytes();
        let end_pfn = job.selection.present.len();
        let bitmap_len = end_pfn.div_ceil(8).checked_next_multiple_of(block)?;
        let notes = u64::try_from(about.notes.len()).ok()?;
        let sub_hdr_blocks = (size_of::<KdumpSubHeader>() as u64).checked_add(notes)?.div_ceil(block);
        let bitmaps = sub_hdr_blocks.checked_add(1)?.checked_mul(block)?;
        let descs = bitmap_len.checked_mul(2)?.checked_add(bitmaps)?;
        let zeros = pages.checked_mul(DESC)?.checked_add(descs)?;
        let erased = zeros.checked_add(block)?;
        let pages = erased.checked_add(u64::try_from(about.erased.len()).ok()?)?;
        Some(Self { block, end_pfn, bitmap_len, sub_hdr_blocks, bitmaps, descs, zeros, erased, pages })
    }

    /// Writes all of it, with `status` in the header. `end` follows what was written.
    pub fn write(
        &self,
        job: &Job<'_>,
        about: &About<'_>,
        status: Flags,
        sink: &dyn DumpSink,
        end: &mut u64,
    ) -> io::Result<()> {
        let mut put = |at: u64, piece: &[u8]| {
            sink.write_at(FileOffset::new(at), piece)?;
            *end = (*end).max(at.saturating_add(piece.len() as u64));
            Ok::<(), io::Error>(())
        };
        let too_large = || io::Error::from(io::ErrorKind::FileTooLarge);
        let mut head = self.header_block(about, status)?;
        head.extend_from_slice(self.sub_header(about, job.selection.level)?.as_bytes());
        head.extend_from_slice(about.notes);
        put(0, &head)?;
        drop(head);
        put_bitmap(&job.selection.present, self.bitmaps, &mut put)?;
        let second = self.bitmaps.checked_add(self.bitmap_len).ok_or_else(too_large)?;
        put_bitmap(&job.selection.keep, second, &mut put)?;

        let zeros = vec![0; BUFFER];
        if !sink.is_stream() {
            // Zeros, really written: a full disk later cannot take away the descriptors of the pages that fit. They cost
            // 24 bytes a kept page.
            let mut at = self.descs;
            while at < self.zeros {
                let len = usize::try_from(self.zeros - at).unwrap_or(usize::MAX).min(zeros.len());
                put(at, zeros.get(..len).unwrap_or_default())?;
                at = at.saturating_add(len as u64);
            }
        }
        // The shared zero page; it closes the gap behind the bitmaps in any case.
        let block = usize::try_from(self.block).map_err(io::Error::other)?;
        put(self.zeros, zeros.get(..block).unwrap_or_default())?;
        if about.erased.is_empty() { Ok(()) } else { put(self.erased, about.erased) }
    }

    /// Block 0, whole.
    pub fn header_block(&self, about: &About<'_>, status: Flags) -> io::Result<Vec<u8>> {
        let bitmap_blocks = self.bitmap_len / self.block * 2;
        let status = if about.excluded_vmemmap { status.with(Flags::EXCLUDED_VMEMMAP) } else { status };
        let header = DiskDumpHeader {
            signature: SIGNATURE,
            header_version: VERSION.into(),
            utsname: about.utsname,
            pad: [0; 6],
            tv_sec: i64::try_from(about.crash_time).unwrap_or(0).into(),
            tv_usec: 0.into(),
            status: status.0.into(),
            block_size: i32::try_from(self.block).map_err(io::Error::other)?.into(),
            sub_hdr_size: i32::try_from(self.sub_hdr_blocks).map_err(io::Error::other)?.into(),
            bitmap_blocks: u32::try_from(bitmap_blocks).map_err(io::Error::other)?.into(),
            max_mapnr: u32::try_from(self.end_pfn).unwrap_or(u32::MAX).into(),
            total_ram_blocks: 0.into(),
            device_blocks: 0.into(),
            written_blocks: 0.into(),
            current_cpu: 0.into(),
            nr_cpus: i32::try_from(about.cpus).unwrap_or(i32::MAX).into(),
        };
        let header = if about.endian == Endian::Big { header.swapped() } else { header };
        let mut block = header.as_bytes().to_vec();
        block.resize(usize::try_from(self.block).map_err(io::Error::other)?, 0);
        Ok(block)
    }

    fn sub_header(&self, about: &About<'_>, level: Level) -> io::Result<KdumpSubHeader> {
        let notes_at = self.block.saturating_add(size_of::<KdumpSubHeader>() as u64);
        let info_at =
            u64::try_from(about.vmcoreinfo.start).map_err(io::Error::other)?.saturating_add(notes_at);
        let has_info = !about.vmcoreinfo.is_empty();
        let (start, end) = about.part.map_or((0, 0), |(start, end)| (start.get(), end.get()));
        let clamped = |pfn: u64| pfn.min(u64::from(u32::MAX));
        let sub = KdumpSubHeader {
            phys_base: about.phys_base.into(),
            dump_level: i32::from(level.bits()).into(),
            split: i32::from(about.part.is_some()).into(),
            start_pfn: clamped(start).into(),
            end_pfn: clamped(end).into(),
            offset_vmcoreinfo: if has_info { info_at } else { 0 }.into(),
            size_vmcoreinfo: u64::try_from(about.vmcoreinfo.len()).map_err(io::Error::other)?.into(),
            offset_note: notes_at.into(),
            size_note: u64::try_from(about.notes.len()).map_err(io::Error::other)?.into(),
            offset_eraseinfo: if about.erased.is_empty() { 0 } else { self.erased }.into(),
            size_eraseinfo: u64::try_from(about.erased.len()).map_err(io::Error::other)?.into(),
            start_pfn_64: start.into(),
            end_pfn_64: end.into(),
            max_mapnr_64: self.end_pfn.into(),
        };
        Ok(if about.endian == Endian::Big { sub.swapped() } else { sub })
    }
}

/// Writes a bitmap. Stretches of zeros stay gaps: address space is sparse, and a bitmap of it can be larger than the dump.
fn put_bitmap(bitmap: &Bitmap, at: u64, put: &mut dyn FnMut(u64, &[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut gathered = Vec::new();
    let mut start = at;
    for (skip, piece) in bitmap.pieces() {
        let next = at.saturating_add(skip);
        let gap = start.saturating_add(gathered.len() as u64) != next;
        if !gathered.is_empty() && (gap || gathered.len() >= BUFFER) {
            put(start, &gathered)?;
            gathered.clear();
        }
        if gathered.is_empty() {
            start = next;
        }
        gathered.extend_from_slice(piece);
    }
    if gathered.is_empty() { Ok(()) } else { put(start, &gathered) }
}

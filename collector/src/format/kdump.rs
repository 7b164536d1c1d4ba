//! Writes kdump-compressed, version 6 (see [`super::layout`]).
//!
//! The file is valid at every moment: the header says *incomplete* until the last byte is written, and the table of
//! descriptors is there, all zeros (= missing), before the first page. Memory is one buffer of data and one of
//! descriptors, whatever the machine's RAM.

use super::codec::Encoder;
use super::layout::{DiskDumpHeader, Flags, KdumpSubHeader, PageDesc, SIGNATURE, VERSION};
use super::{DumpSink, Job, PageReader, REPORT_EVERY, SinkFailure, Written, is_zero};
use crate::addr::{FileOffset, Pfn};
use crate::filter::{Account, Bitmap, Level};
use crate::plan::Compression;
use crate::problem::Problems;
use std::io;
use std::ops::Range;
use zerocopy::IntoBytes;

/// What the headers say of the crashed kernel.
#[derive(Clone, Debug)]
pub struct About<'a> {
    /// sysname, nodename, release, version, machine, domainname, NUL-padded.
    pub utsname: [[u8; 65]; 6],
    /// Seconds since 1970; 0 when unknown.
    pub crash_time: u64,
    /// See [`KdumpSubHeader::phys_base`].
    pub phys_base: u64,
    /// CPUs with an NT_PRSTATUS note.
    pub cpus: usize,
    /// All notes, as in the vmcore.
    pub notes: &'a [u8],
    /// VMCOREINFO's text within them.
    pub vmcoreinfo: Range<usize>,
}

/// Bytes of page data that are gathered before they are written.
const DATA_BUFFER: usize = 1 << 20;

/// Bytes of a bitmap that are gathered before they are written.
const BITMAP_BUFFER: usize = 64 << 10;

/// Descriptors that are gathered before they are written.
const DESC_BUFFER: usize = 2730;

/// Bytes of a descriptor on disk.
const DESC: u64 = size_of::<PageDesc>() as u64;

/// Where everything lies, and how much.
#[derive(Clone, Copy, Debug)]
struct Geometry {
    block: u64,
    end_pfn: u64,
    bitmap_len: u64,
    sub_hdr_blocks: u64,
    bitmaps: u64,
    descs: u64,
    data: u64,
}

impl Geometry {
    fn new(job: &Job<'_>, notes: u64) -> Option<Self> {
        let block = job.pages.page_size().bytes();
        let end_pfn = job.selection.present.len();
        let bitmap_len = end_pfn.div_ceil(8).checked_next_multiple_of(block)?;
        let sub_hdr_blocks = (size_of::<KdumpSubHeader>() as u64).checked_add(notes)?.div_ceil(block);
        let bitmaps = sub_hdr_blocks.checked_add(1)?.checked_mul(block)?;
        let descs = bitmap_len.checked_mul(2)?.checked_add(bitmaps)?;
        let data = job.selection.keep.count().checked_mul(DESC)?.checked_add(descs)?;
        Some(Self { block, end_pfn, bitmap_len, sub_hdr_blocks, bitmaps, descs, data })
    }
}

/// Writes a dump. On a failure of the sink what was written before is a valid dump that says it is incomplete, as far
/// as the sink took it.
pub fn write(
    job: &Job<'_>,
    about: &About<'_>,
    compression: Compression,
    sink: &dyn DumpSink,
    problems: &mut Problems,
) -> Result<Written, SinkFailure> {
    let mut account = job.selection.account;
    account.present = job.selection.present.count();
    (account.kept, account.zero, account.unreadable) = (0, 0, 0);
    account.unwritten = job.selection.keep.count();
    let mut bytes = 0;
    match start(job, about, compression, sink, &mut bytes) {
        Err(source) => Err(SinkFailure { source, written: Written { bytes, account } }),
        Ok(mut writer) => {
            writer.account = account;
            match writer.run(job, about, problems) {
                Ok(()) => Ok(writer.written()),
                Err(source) => Err(SinkFailure { source, written: writer.written() }),
            }
        }
    }
}

/// Everything before the first page.
fn start<'s>(
    job: &Job<'_>,
    about: &About<'_>,
    compression: Compression,
    sink: &'s dyn DumpSink,
    bytes: &mut u64,
) -> io::Result<Writer<'s>> {
    let too_large = || io::Error::other("the dump would be larger than 2^64 bytes");
    let encoder = Encoder::new(compression)?;
    let notes = u64::try_from(about.notes.len()).map_err(io::Error::other)?;
    let geometry = Geometry::new(job, notes).ok_or_else(too_large)?;
    let mut put = |at: u64, piece: &[u8]| {
        sink.write_at(FileOffset::new(at), piece)?;
        *bytes = (*bytes).max(at.saturating_add(piece.len() as u64));
        Ok::<(), io::Error>(())
    };

    put(0, &header_block(&geometry, about, encoder.flags().with(Flags::INCOMPLETE))?)?;
    let sub_header = sub_header(&geometry, about, job.selection.level)?;
    put(geometry.block, sub_header.as_bytes())?;
    put(sub_header.offset_note.get(), about.notes)?;
    let second = geometry.bitmaps.checked_add(geometry.bitmap_len).ok_or_else(too_large)?;
    put_bitmap(&job.selection.present, geometry.bitmaps, &mut put)?;
    put_bitmap(&job.selection.keep, second, &mut put)?;

    // Zeros, really written: a full disk later cannot take away the descriptors of the pages that fit. They cost 24 bytes
    // a kept page. The first block of data is the shared zero page, and closes the gap behind the bitmaps in any case.
    let zeros = vec![0; DATA_BUFFER];
    let mut at = geometry.descs;
    while at < geometry.data {
        let len = usize::try_from(geometry.data - at).unwrap_or(usize::MAX).min(zeros.len());
        put(at, zeros.get(..len).unwrap_or_default())?;
        at = at.saturating_add(len as u64);
    }
    let block = usize::try_from(geometry.block).map_err(io::Error::other)?;
    put(geometry.data, zeros.get(..block).unwrap_or_default())?;

    let shares_zero = job.selection.level.has(Level::ZERO);
    Ok(Writer {
        sink,
        encoder,
        geometry,
        shares_zero,
        data: vec![0; DATA_BUFFER],
        filled: 0,
        descs: Vec::with_capacity(DESC_BUFFER),
        desc_at: geometry.descs,
        data_at: geometry.data.checked_add(geometry.block).ok_or_else(too_large)?,
        batch: Account::default(),
        account: Account::default(),
    })
}

/// Writes a bitmap. Stretches of zeros stay gaps: address space is sparse, and a bitmap of it can be larger than the dump.
fn put_bitmap(bitmap: &Bitmap, at: u64, put: &mut dyn FnMut(u64, &[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut gathered = Vec::with_capacity(BITMAP_BUFFER);
    let mut start = at;
    let mut next = at;
    for piece in bitmap.pieces() {
        let zero = is_zero(piece);
        if !gathered.is_empty() && (zero || gathered.len() >= BITMAP_BUFFER) {
            put(start, &gathered)?;
            gathered.clear();
        }
        if !zero {
            if gathered.is_empty() {
                start = next;
            }
            gathered.extend_from_slice(piece);
        }
        next = next.saturating_add(piece.len() as u64);
    }
    if gathered.is_empty() { Ok(()) } else { put(start, &gathered) }
}

/// Block 0, whole.
fn header_block(geometry: &Geometry, about: &About<'_>, status: Flags) -> io::Result<Vec<u8>> {
    let bitmap_blocks = geometry.bitmap_len / geometry.block * 2;
    let header = DiskDumpHeader {
        signature: SIGNATURE,
        header_version: VERSION.into(),
        utsname: about.utsname,
        pad: [0; 6],
        tv_sec: i64::try_from(about.crash_time).unwrap_or(0).into(),
        tv_usec: 0.into(),
        status: status.0.into(),
        block_size: i32::try_from(geometry.block).map_err(io::Error::other)?.into(),
        sub_hdr_size: i32::try_from(geometry.sub_hdr_blocks).map_err(io::Error::other)?.into(),
        bitmap_blocks: u32::try_from(bitmap_blocks).map_err(io::Error::other)?.into(),
        max_mapnr: u32::try_from(geometry.end_pfn).unwrap_or(u32::MAX).into(),
        total_ram_blocks: 0.into(),
        device_blocks: 0.into(),
        written_blocks: 0.into(),
        current_cpu: 0.into(),
        nr_cpus: i32::try_from(about.cpus).unwrap_or(i32::MAX).into(),
    };
    let mut block = header.as_bytes().to_vec();
    block.resize(usize::try_from(geometry.block).map_err(io::Error::other)?, 0);
    Ok(block)
}

fn sub_header(geometry: &Geometry, about: &About<'_>, level: Level) -> io::Result<KdumpSubHeader> {
    let notes_at = geometry.block.saturating_add(size_of::<KdumpSubHeader>() as u64);
    let info_at = u64::try_from(about.vmcoreinfo.start).map_err(io::Error::other)?.saturating_add(notes_at);
    let has_info = !about.vmcoreinfo.is_empty();
    Ok(KdumpSubHeader {
        phys_base: about.phys_base.into(),
        dump_level: i32::from(level.bits()).into(),
        split: 0.into(),
        start_pfn: 0.into(),
        end_pfn: 0.into(),
        offset_vmcoreinfo: if has_info { info_at } else { 0 }.into(),
        size_vmcoreinfo: u64::try_from(about.vmcoreinfo.len()).map_err(io::Error::other)?.into(),
        offset_note: notes_at.into(),
        size_note: u64::try_from(about.notes.len()).map_err(io::Error::other)?.into(),
        offset_eraseinfo: 0.into(),
        size_eraseinfo: 0.into(),
        start_pfn_64: 0.into(),
        end_pfn_64: 0.into(),
        max_mapnr_64: geometry.end_pfn.into(),
    })
}

/// The pages on their way out.
struct Writer<'s> {
    sink: &'s dyn DumpSink,
    encoder: Encoder,
    geometry: Geometry,
    /// Zero pages share the block at the start of the data.
    shares_zero: bool,
    /// Page data that is not yet written, and how much of it.
    data: Vec<u8>,
    filled: usize,
    /// Descriptors that are not yet written, those of `data` among them.
    descs: Vec<PageDesc>,
    /// Where both go.
    desc_at: u64,
    data_at: u64,
    /// The pages behind `descs`.
    batch: Account,
    /// The pages in the file.
    account: Account,
}

impl Writer<'_> {
    fn run(&mut self, job: &Job<'_>, about: &About<'_>, problems: &mut Problems) -> io::Result<()> {
        let keep = &job.selection.keep;
        let total = keep.count();
        let mut done: u64 = 0;
        let mut reader = PageReader::new(job.pages);
        let room = self.encoder.bound(job.pages.page_size().len());
        for (start, end) in keep.runs() {
            for pfn in (start.get()..end.get()).map(Pfn::new) {
                if self.descs.len() >= DESC_BUFFER || self.filled.saturating_add(room) > self.data.len() {
                    self.flush()?;
                }
                match reader.read(pfn, end) {
                    Ok(page) => self.add(page),
                    Err(e) => {
                        job.unreadable(problems, pfn, &e);
                        self.batch.unreadable += 1;
                        self.descs.push(PageDesc::default());
                    }
                }
                if done.is_multiple_of(REPORT_EVERY) {
                    job.report(done, total, self.length());
                }
                done += 1;
            }
        }
        self.flush()?;
        job.report(done, total, self.length());
        let mut status = self.encoder.flags();
        if self.account.unreadable > 0 {
            status = status.with(Flags::INCOMPLETE);
        }
        let header = header_block(&self.geometry, about, status)?;
        self.sink.write_at(FileOffset::new(0), &header)
    }

    /// Takes one page into the buffers, which have room for it.
    fn add(&mut self, page: &[u8]) {
        if self.shares_zero && is_zero(page) {
            self.batch.zero += 1;
            self.push(self.geometry.data, page.len(), Flags::RAW);
            return;
        }
        let out = self.data.get_mut(self.filled..).unwrap_or_default();
        let (len, flags) = match self.encoder.encode(page, out) {
            Some(len) => (len, self.encoder.flags()),
            None => {
                if let Some(raw) = out.get_mut(..page.len()) {
                    raw.copy_from_slice(page);
                }
                (page.len(), Flags::RAW)
            }
        };
        self.batch.kept += 1;
        self.push(self.data_at.saturating_add(self.filled as u64), len, flags);
        self.filled += len;
    }

    fn push(&mut self, offset: u64, len: usize, flags: Flags) {
        self.descs.push(PageDesc {
            offset: offset.into(),
            size: u32::try_from(len).unwrap_or(u32::MAX).into(),
            flags: flags.0.into(),
            page_flags: 0.into(),
        });
    }

    /// Writes data first, then the descriptors that point at it. When the data cannot be written, the descriptors are, as
    /// far as they say something true without it.
    fn flush(&mut self) -> io::Result<()> {
        let data = self.data.get(..self.filled).unwrap_or_default();
        let outcome =
            if data.is_empty() { Ok(()) } else { self.sink.write_at(FileOffset::new(self.data_at), data) };
        if outcome.is_err() {
            for desc in self.descs.iter_mut().filter(|d| d.offset.get() >= self.data_at) {
                *desc = PageDesc::default();
            }
            self.batch.kept = 0;
        }
        let descs = self.descs.as_bytes();
        let described =
            if descs.is_empty() { Ok(()) } else { self.sink.write_at(FileOffset::new(self.desc_at), descs) };
        if described.is_ok() {
            let Account { kept, zero, unreadable, .. } = self.batch;
            self.account.kept += kept;
            self.account.zero += zero;
            self.account.unreadable += unreadable;
            self.account.unwritten = self.account.unwritten.saturating_sub(kept + zero + unreadable);
        }
        if outcome.is_ok() {
            self.data_at = self.data_at.saturating_add(self.filled as u64);
        }
        self.desc_at = self.desc_at.saturating_add(descs.len() as u64);
        self.filled = 0;
        self.descs.clear();
        self.batch = Account::default();
        outcome.and(described)
    }

    /// Bytes in the file.
    fn length(&self) -> u64 {
        self.data_at
    }

    fn written(&self) -> Written {
        Written { bytes: self.length(), account: self.account }
    }
}

#[cfg(test)]
mod tests;

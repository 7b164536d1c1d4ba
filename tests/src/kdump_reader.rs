//! An oracle for the kdump-compressed format, version 6, x86-64 byte order: reads a dump with nothing of the
//! product's code, and checks everything that crash and libkdumpfile rely on.
//!
//! Codecs: those of [`crate::page_codec`], chosen page by page. Layout: diskdump.h of makedumpfile, header at 0, sub header at one
//! block, then bitmap 1 (memory that exists), bitmap 2 (pages in the dump), page descriptors, data.

use crate::order::Order;
use crate::page_codec;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Header status: the writer stopped early.
pub const STATUS_INCOMPLETE: u32 = 0x08;

const DESC_LEN: u64 = 24;
const SUB_HEADER_LEN: u64 = 104;
/// The most bytes of bitmaps, notes or descriptors that this reader takes into memory.
const TABLE_LIMIT: u64 = 1 << 30;

/// Where the bytes are.
#[derive(Debug)]
enum Source {
    Memory(Vec<u8>),
    File(File, u64),
}

impl Source {
    fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File(_, len) => *len,
        }
    }

    fn read(&self, at: u64, len: u64) -> Result<Vec<u8>, String> {
        let end = at.checked_add(len).filter(|end| *end <= self.len());
        let end =
            end.ok_or_else(|| format!("{len} bytes at {at:#x} reach past the file's {:#x}", self.len()))?;
        match self {
            Self::Memory(bytes) => Ok(bytes[index(at)..index(end)].to_vec()),
            Self::File(file, _) => {
                let mut buf = vec![0; index(len)];
                file.read_exact_at(&mut buf, at).map_err(|e| format!("cannot read at {at:#x}: {e}"))?;
                Ok(buf)
            }
        }
    }
}

fn index(n: u64) -> usize {
    usize::try_from(n).expect("a 64-bit host")
}

fn u32_at(order: Order, bytes: &[u8], at: usize) -> u32 {
    u32::try_from(order.number(&bytes[at..at + 4])).expect("4 bytes")
}

fn u64_at(order: Order, bytes: &[u8], at: usize) -> u64 {
    order.number(&bytes[at..at + 8])
}

/// The order in which a number is that must be small.
fn order_of(bytes: &[u8]) -> Order {
    if Order::Little.number(bytes) < 0x1_0000 { Order::Little } else { Order::Big }
}

/// disk_dump_header and kdump_sub_header, as numbers.
#[derive(Clone, Debug, Default)]
pub struct Header {
    /// 6 for every dump of the last ten years.
    pub version: u32,
    /// sysname, nodename, release, version, machine, domainname, up to their NUL.
    pub utsname: [String; 6],
    /// Seconds since 1970.
    pub tv_sec: u64,
    /// Microseconds.
    pub tv_usec: u64,
    /// Codec flags and [`STATUS_INCOMPLETE`].
    pub status: u32,
    /// Bytes of a block, which is a page.
    pub block_size: u32,
    /// Blocks of the sub header with its notes.
    pub sub_hdr_size: u32,
    /// Blocks of both bitmaps.
    pub bitmap_blocks: u32,
    /// The 32-bit number of pfns.
    pub max_mapnr_32: u32,
    /// NT_PRSTATUS notes.
    pub nr_cpus: u32,
    /// x86-64's phys_base.
    pub phys_base: u64,
    /// makedumpfile's `-d`.
    pub dump_level: u32,
    /// 1 for a part of a split set.
    pub split: u32,
    /// File offset and length of VMCOREINFO's text.
    pub vmcoreinfo: (u64, u64),
    /// File offset and length of the notes.
    pub note: (u64, u64),
    /// File offset and length of the erase info.
    pub eraseinfo: (u64, u64),
    /// First pfn of a part of a split set.
    pub start_pfn: u64,
    /// One past its last.
    pub end_pfn: u64,
    /// Number of pfns.
    pub max_mapnr: u64,
}

/// page_desc: where one page's bytes are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageDesc {
    /// File offset; 0 in an incomplete dump for a page that is missing.
    pub offset: u64,
    /// Bytes in the file.
    pub size: u32,
    /// Codec.
    pub flags: u32,
    /// Reserved, 0.
    pub page_flags: u64,
}

/// One ELF note.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Note {
    /// Its name without the NUL.
    pub name: String,
    /// n_type.
    pub kind: u32,
    /// The descriptor's place within the notes.
    pub desc: Range<usize>,
}

/// Splits a PT_NOTE's bytes into notes, all padded to 4 bytes, in whichever byte order they are.
pub fn parse_notes(bytes: &[u8]) -> Result<Vec<Note>, String> {
    let order = order_of(bytes.get(..4).unwrap_or_default());
    let mut notes = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let head = bytes.get(at..at + 12).ok_or_else(|| format!("note header cut at {at:#x}"))?;
        let (name_len, desc_len, kind) =
            (u32_at(order, head, 0), u32_at(order, head, 4), u32_at(order, head, 8));
        if name_len == 0 && desc_len == 0 && kind == 0 {
            break; // the kernel pads with zeros
        }
        let name_at = at + 12;
        let desc_at = name_at + index(u64::from(name_len).next_multiple_of(4));
        let end = desc_at + index(u64::from(desc_len));
        let name = bytes.get(name_at..name_at + index(name_len.into()));
        let name = name.filter(|_| end <= bytes.len()).ok_or_else(|| format!("note at {at:#x} is cut"))?;
        let name = String::from_utf8_lossy(name).trim_end_matches('\0').to_owned();
        notes.push(Note { name, kind, desc: desc_at..end });
        at = end.next_multiple_of(4);
    }
    Ok(notes)
}

/// A kdump-compressed file.
#[derive(Debug)]
pub struct KdumpFile {
    source: Source,
    /// Byte order of the headers.
    pub order: Order,
    /// The numbers of both headers.
    pub header: Header,
    first_block: Vec<u8>,
    notes: Vec<u8>,
    vmcoreinfo: Vec<u8>,
    bitmap1: Vec<u8>,
    bitmap2: Vec<u8>,
    descs: Vec<u8>,
    /// Set bits of bitmap 2 before each block of 64 bytes.
    ranks: Vec<u64>,
    /// Pfns whose descriptors are here: all, or the range of a part of a split set.
    here: Range<u64>,
}

const RANK_BYTES: usize = 64;

impl KdumpFile {
    /// Opens a file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, String> {
        let path = path.as_ref();
        let wrap = |e: std::io::Error| format!("{}: {e}", path.display());
        let file = File::open(path).map_err(wrap)?;
        let len = file.metadata().map_err(wrap)?.len();
        Self::parse(Source::File(file, len)).map_err(|e| format!("{}: {e}", path.display()))
    }

    /// Reads a dump that is in memory.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, String> {
        Self::parse(Source::Memory(bytes))
    }

    fn parse(source: Source) -> Result<Self, String> {
        let start = source.read(0, 464)?;
        if &start[..8] != b"KDUMP   " {
            return Err(format!(
                "signature {:?} instead of \"KDUMP   \"",
                String::from_utf8_lossy(&start[..8])
            ));
        }
        let order = order_of(&start[8..12]);
        let block = u32_at(order, &start, 428);
        if !block.is_power_of_two() || !(4096..=65536).contains(&block) {
            return Err(format!("block_size {block}"));
        }
        let block = u64::from(block);
        let first_block = source.read(0, block)?;
        let sub = source.read(block, SUB_HEADER_LEN)?;
        let uts = |i: usize| {
            let field = &start[12 + i * 65..12 + (i + 1) * 65];
            String::from_utf8_lossy(field.split(|b| *b == 0).next().unwrap_or_default()).into_owned()
        };
        let header = Header {
            version: u32_at(order, &start, 8),
            utsname: std::array::from_fn(uts),
            tv_sec: u64_at(order, &start, 408),
            tv_usec: u64_at(order, &start, 416),
            status: u32_at(order, &start, 424),
            block_size: u32_at(order, &start, 428),
            sub_hdr_size: u32_at(order, &start, 432),
            bitmap_blocks: u32_at(order, &start, 436),
            max_mapnr_32: u32_at(order, &start, 440),
            nr_cpus: u32_at(order, &start, 460),
            phys_base: u64_at(order, &sub, 0),
            dump_level: u32_at(order, &sub, 8),
            split: u32_at(order, &sub, 12),
            vmcoreinfo: (u64_at(order, &sub, 32), u64_at(order, &sub, 40)),
            note: (u64_at(order, &sub, 48), u64_at(order, &sub, 56)),
            eraseinfo: (u64_at(order, &sub, 64), u64_at(order, &sub, 72)),
            start_pfn: u64_at(order, &sub, 80),
            end_pfn: u64_at(order, &sub, 88),
            max_mapnr: u64_at(order, &sub, 96),
        };
        let half = u64::from(header.bitmap_blocks) / 2 * block;
        if half > TABLE_LIMIT || header.note.1 > TABLE_LIMIT || header.vmcoreinfo.1 > TABLE_LIMIT {
            return Err(format!("tables too large: {header:?}"));
        }
        let bitmaps_at = (1 + u64::from(header.sub_hdr_size)) * block;
        let bitmap1 = source.read(bitmaps_at, half).map_err(|e| format!("bitmap 1: {e}"))?;
        let bitmap2 = source.read(bitmaps_at + half, half).map_err(|e| format!("bitmap 2: {e}"))?;
        let mut ranks = vec![0];
        let mut pages = 0;
        for chunk in bitmap2.chunks(RANK_BYTES) {
            pages += chunk.iter().map(|b| u64::from(b.count_ones())).sum::<u64>();
            ranks.push(pages);
        }
        let descs_at = bitmaps_at + u64::from(header.bitmap_blocks) * block;
        let here = if header.split == 0 { 0..u64::MAX } else { header.start_pfn..header.end_pfn };
        let pages = rank(&bitmap2, &ranks, here.end).saturating_sub(rank(&bitmap2, &ranks, here.start));
        if pages.saturating_mul(DESC_LEN) > TABLE_LIMIT {
            return Err(format!("{pages} page descriptors"));
        }
        let descs = source.read(descs_at, pages * DESC_LEN).map_err(|e| format!("descriptors: {e}"))?;
        let notes = source.read(header.note.0, header.note.1).map_err(|e| format!("notes: {e}"))?;
        let vmcoreinfo =
            source.read(header.vmcoreinfo.0, header.vmcoreinfo.1).map_err(|e| format!("vmcoreinfo: {e}"))?;
        Ok(Self {
            source,
            order,
            header,
            first_block,
            notes,
            vmcoreinfo,
            bitmap1,
            bitmap2,
            descs,
            ranks,
            here,
        })
    }

    /// The notes of the vmcore.
    pub fn notes(&self) -> &[u8] {
        &self.notes
    }
    /// VMCOREINFO's text.
    pub fn vmcoreinfo(&self) -> String {
        String::from_utf8_lossy(&self.vmcoreinfo).into_owned()
    }
    /// Bytes in a page.
    pub fn page_size(&self) -> u64 {
        u64::from(self.header.block_size)
    }
    /// Length of the file.
    pub fn file_len(&self) -> u64 {
        self.source.len()
    }
    /// Bitmap 1: pages that the vmcore has.
    pub fn bitmap1(&self) -> &[u8] {
        &self.bitmap1
    }
    /// Bitmap 2: pages that the dump has.
    pub fn bitmap2(&self) -> &[u8] {
        &self.bitmap2
    }
    /// Pfns of the pages in the dump, ascending; in a part of a split set, of those in the part.
    pub fn pfns(&self) -> impl Iterator<Item = u64> + '_ {
        set_bits(&self.bitmap2).filter(|pfn| self.here.contains(pfn))
    }
    /// Pfns of the pages that the vmcore has, ascending.
    pub fn present_pfns(&self) -> impl Iterator<Item = u64> + '_ {
        set_bits(&self.bitmap1)
    }

    /// The descriptor of a page in the dump.
    pub fn desc(&self, pfn: u64) -> Option<PageDesc> {
        let byte = usize::try_from(pfn / 8).ok()?;
        if *self.bitmap2.get(byte)? >> (pfn % 8) & 1 == 0 || !self.here.contains(&pfn) {
            return None;
        }
        let before = |pfn| rank(&self.bitmap2, &self.ranks, pfn);
        self.desc_at(before(pfn) - before(self.here.start))
    }

    fn desc_at(&self, rank: u64) -> Option<PageDesc> {
        let at = usize::try_from(rank * DESC_LEN).ok()?;
        let raw = self.descs.get(at..at + index(DESC_LEN))?;
        Some(PageDesc {
            offset: u64_at(self.order, raw, 0),
            size: u32_at(self.order, raw, 8),
            flags: u32_at(self.order, raw, 12),
            page_flags: u64_at(self.order, raw, 16),
        })
    }

    /// A page's contents; `None` when the dump has not got it, or has it in a form that cannot be read.
    pub fn page(&self, pfn: u64) -> Option<Vec<u8>> {
        self.read_page(pfn).ok().flatten()
    }

    /// A page's contents; `None` when the dump has not got it, an error when it has and it cannot be read.
    pub fn read_page(&self, pfn: u64) -> Result<Option<Vec<u8>>, String> {
        self.desc(pfn).map(|desc| self.decode(desc).map_err(|e| format!("page {pfn:#x}: {e}"))).transpose()
    }

    fn decode(&self, desc: PageDesc) -> Result<Vec<u8>, String> {
        let block = self.page_size();
        if u64::from(desc.size) > block {
            return Err(format!("{} bytes in the file for a page of {block}", desc.size));
        }
        if desc.offset == 0 {
            return Err("missing from an incomplete dump".to_owned());
        }
        let raw = self.source.read(desc.offset, desc.size.into())?;
        page_codec::decode(desc.flags, raw, index(block))
    }

    /// Everything that a reader relies on and that does not hold here; empty for a sound dump. Decodes each page.
    pub fn check(&self) -> Vec<String> {
        let mut faults = Vec::new();
        self.check_headers(&mut faults);
        self.check_notes(&mut faults);
        self.check_bitmaps(&mut faults);
        self.check_pages(&mut faults);
        faults
    }

    fn check_headers(&self, faults: &mut Vec<String>) {
        let h = &self.header;
        let block = self.page_size();
        let mut expect = |holds: bool, what: String| {
            if !holds {
                faults.push(what);
            }
        };
        expect(h.version == 6, format!("header_version {}", h.version));
        expect(
            self.first_block[402..408].iter().all(|b| *b == 0),
            "padding before the timestamp is not zero".into(),
        );
        expect(self.first_block[464..].iter().all(|b| *b == 0), "rest of block 0 is not zero".into());
        expect(self.first_block[444..460].iter().all(|b| *b == 0), "obsolete counters are not zero".into());
        for (i, field) in self.first_block[12..402].chunks(65).enumerate() {
            expect(field[64] == 0, format!("utsname field {i} has no NUL"));
        }
        expect(h.tv_usec < 1_000_000, format!("tv_usec {}", h.tv_usec));
        expect(h.status & !0x3f == 0, format!("status {:#x}", h.status));
        expect((1..=65536).contains(&h.nr_cpus), format!("nr_cpus {}", h.nr_cpus));
        let map_blocks = 2 * h.max_mapnr.div_ceil(8).div_ceil(block);
        expect(
            u64::from(h.bitmap_blocks) == map_blocks,
            format!("bitmap_blocks {} instead of {map_blocks}", h.bitmap_blocks),
        );
        let low = u32::try_from(h.max_mapnr).unwrap_or(u32::MAX);
        expect(
            h.max_mapnr_32 == low,
            format!("max_mapnr {:#x} and max_mapnr_64 {:#x}", h.max_mapnr_32, h.max_mapnr),
        );
        expect(h.max_mapnr > 0, "max_mapnr_64 is 0".into());
        expect(h.dump_level <= 31, format!("dump_level {}", h.dump_level));
        let range = match h.split {
            0 => h.start_pfn == 0 && h.end_pfn == 0,
            // crash counts a part's pages in words of the bitmap from its start on.
            1 => {
                h.start_pfn <= h.end_pfn
                    && h.end_pfn <= h.max_mapnr
                    && (h.start_pfn == h.end_pfn || h.start_pfn.is_multiple_of(64))
            }
            _ => false,
        };
        expect(range, format!("split {}, pages {:#x}..{:#x}", h.split, h.start_pfn, h.end_pfn));
        let sub_end = (1 + u64::from(h.sub_hdr_size)) * block;
        let within = |(at, len): (u64, u64), from: u64, to: u64| at >= from && at.saturating_add(len) <= to;
        expect(
            within(h.note, block + SUB_HEADER_LEN, sub_end),
            format!("notes {:#x?} outside of the sub header's {sub_end:#x}", h.note),
        );
        expect(
            within(h.vmcoreinfo, block + SUB_HEADER_LEN, sub_end),
            format!("vmcoreinfo {:#x?} outside of the sub header's {sub_end:#x}", h.vmcoreinfo),
        );
        expect(
            u64::from(h.sub_hdr_size) == (SUB_HEADER_LEN + h.note.1).div_ceil(block),
            format!("sub_hdr_size {} for {} bytes of notes", h.sub_hdr_size, h.note.1),
        );
        expect(
            h.eraseinfo.1 == 0 || within(h.eraseinfo, self.data_at(), self.file_len()),
            format!("eraseinfo {:#x?}", h.eraseinfo),
        );
    }

    fn check_notes(&self, faults: &mut Vec<String>) {
        let h = &self.header;
        let notes = match parse_notes(&self.notes) {
            Ok(notes) => notes,
            Err(e) => return faults.push(e),
        };
        let cpus = notes.iter().filter(|n| n.name == "CORE" && n.kind == 1).count();
        if cpus != index(h.nr_cpus.into()) {
            faults.push(format!("nr_cpus {} with {cpus} NT_PRSTATUS notes", h.nr_cpus));
        }
        let infos: Vec<&Note> = notes.iter().filter(|n| n.name == "VMCOREINFO").collect();
        match infos[..] {
            [info] => {
                let at = h.note.0 + info.desc.start as u64;
                // The kernel counts the text, padding is not in it: crash stops at a NUL or at this length.
                if (at, info.desc.len() as u64) != h.vmcoreinfo {
                    faults.push(format!("vmcoreinfo {:#x?} is not the note at {at:#x}", h.vmcoreinfo));
                }
            }
            _ => faults.push(format!("{} VMCOREINFO notes", infos.len())),
        }
        if !self.vmcoreinfo.starts_with(b"OSRELEASE=") {
            faults.push("vmcoreinfo does not start with OSRELEASE".to_owned());
        }
    }

    fn check_bitmaps(&self, faults: &mut Vec<String>) {
        for (name, map) in [("bitmap 1", &self.bitmap1), ("bitmap 2", &self.bitmap2)] {
            if let Some(last) = last_bit(map).filter(|last| *last >= self.header.max_mapnr) {
                faults.push(format!("{name} has pfn {last:#x} past max_mapnr {:#x}", self.header.max_mapnr));
            }
        }
        let stray = self.bitmap1.iter().zip(&self.bitmap2).position(|(has, dumped)| dumped & !has != 0);
        if let Some(byte) = stray {
            faults.push(format!("bitmap 2 has pages that bitmap 1 has not, near pfn {:#x}", byte * 8));
        }
    }

    fn data_at(&self) -> u64 {
        let blocks = 1 + u64::from(self.header.sub_hdr_size) + u64::from(self.header.bitmap_blocks);
        blocks * self.page_size() + self.descs.len() as u64
    }

    fn check_pages(&self, faults: &mut Vec<String>) {
        let block = self.header.block_size;
        let incomplete = self.header.status & STATUS_INCOMPLETE != 0;
        let data_at = self.data_at();
        let mut ranges = Vec::new();
        let mut zero_block = None;
        let mut codecs = 0;
        for (rank, pfn) in self.pfns().enumerate() {
            if faults.len() > 50 {
                return faults.push("and more".to_owned());
            }
            let Some(desc) = self.desc_at(rank as u64) else {
                return faults.push(format!("page {pfn:#x} has no descriptor"));
            };
            if self.desc(pfn) != Some(desc) {
                faults.push(format!("page {pfn:#x}: rank and iteration disagree"));
            }
            if desc.offset == 0 {
                if !incomplete {
                    faults.push(format!("page {pfn:#x} is missing from a complete dump"));
                }
                continue;
            }
            codecs |= desc.flags;
            ranges.push((desc.offset, desc.offset.saturating_add(desc.size.into())));
            if desc.page_flags != 0 {
                faults.push(format!("page {pfn:#x}: page_flags {:#x}", desc.page_flags));
            }
            if desc.size == 0 || desc.size > block || (desc.flags == 0) != (desc.size == block) {
                faults.push(format!("page {pfn:#x}: size {} with flags {:#x}", desc.size, desc.flags));
            }
            if desc.offset < data_at {
                faults.push(format!("page {pfn:#x}: data at {:#x}, before {data_at:#x}", desc.offset));
            }
            match self.decode(desc) {
                Err(e) => faults.push(format!("page {pfn:#x}: {e}")),
                Ok(page) if self.header.dump_level & 1 != 0 && page.iter().all(|b| *b == 0) => {
                    let first = *zero_block.get_or_insert(desc);
                    if desc != first || desc.flags != 0 {
                        faults.push(format!("zero page {pfn:#x} does not share the zero block: {desc:x?}"));
                    }
                }
                Ok(_) => {}
            }
        }
        if codecs & !self.header.status != 0 {
            faults.push(format!("pages use codecs {codecs:#x}, status says {:#x}", self.header.status));
        }
        ranges.sort_unstable();
        ranges.dedup(); // equal pages may share their bytes
        for pair in ranges.windows(2) {
            if pair[1].0 < pair[0].1 {
                faults.push(format!("page data {:x?} and {:x?} overlap", pair[0], pair[1]));
                break;
            }
        }
    }
}

/// Positions of set bits, least significant bit of byte 0 first.
pub fn set_bits(map: &[u8]) -> impl Iterator<Item = u64> + '_ {
    map.iter().enumerate().filter(|(_, byte)| **byte != 0).flat_map(|(i, byte)| {
        (0..8_u64).filter(move |bit| *byte >> *bit & 1 != 0).map(move |bit| i as u64 * 8 + bit)
    })
}

/// Set bits before bit `pfn`, of which there may be fewer.
fn rank(map: &[u8], ranks: &[u64], pfn: u64) -> u64 {
    let (byte, bit) = match usize::try_from(pfn / 8) {
        Ok(byte) if byte < map.len() => (byte, pfn % 8),
        _ => (map.len(), 0),
    };
    let block = byte / RANK_BYTES;
    let whole = map[block * RANK_BYTES..byte].iter().map(|b| u64::from(b.count_ones())).sum::<u64>();
    let part = map.get(byte).map_or(0, |b| (b & ((1 << bit) - 1)).count_ones());
    ranks[block] + whole + u64::from(part)
}

fn last_bit(map: &[u8]) -> Option<u64> {
    let byte = map.iter().rposition(|b| *b != 0)?;
    Some(byte as u64 * 8 + u64::from(map[byte].ilog2()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A dump by hand: 20 pfns, 3..6 present, 3 and 5 dumped, 3 raw and 5 the zero block.
    fn small() -> Vec<u8> {
        let mut file = vec![0; 4096 * 5];
        let put =
            |file: &mut Vec<u8>, at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        put(&mut file, 0, b"KDUMP   \x06\0\0\0Linux");
        for (at, value) in [(428, 4096_u32), (432, 1), (436, 2), (440, 20), (460, 1)] {
            put(&mut file, at, &value.to_le_bytes());
        }
        let mut notes = Vec::new();
        for (name, kind, desc) in
            [(&b"CORE\0\0\0\0"[..], 1_u32, &[7_u8; 16][..]), (b"VMCOREINFO\0\0", 0, b"OSRELEASE=6.1.0\n")]
        {
            let name_len = u32::try_from(name.len() - usize::from(kind == 0)).unwrap() - 3 * kind;
            notes.extend(name_len.to_le_bytes());
            notes.extend(u32::try_from(desc.len()).unwrap().to_le_bytes());
            notes.extend(kind.to_le_bytes());
            notes.extend(name);
            notes.extend(desc);
        }
        let info_at = 4096 + 104 + notes.len() as u64 - 16;
        for (at, value) in [(32, info_at), (40, 16), (48, 4096 + 104), (56, notes.len() as u64), (96, 20)] {
            put(&mut file, 4096 + at, &value.to_le_bytes());
        }
        put(&mut file, 4096 + 8, &1_u32.to_le_bytes());
        put(&mut file, 4096 + 104, &notes);
        file[4096 * 2] = 0b0011_1000;
        file[4096 * 3] = 0b0010_1000;
        let data = 4096 * 4 + 48_u64;
        file.truncate(4096 * 4);
        for (offset, size) in [(data + 4096, 4096_u32), (data, 4096)] {
            file.extend(offset.to_le_bytes());
            file.extend(size.to_le_bytes());
            file.extend([0; 12]);
        }
        file.extend([0; 4096]);
        file.extend([0xab; 4096]);
        file
    }

    #[test]
    fn reads_what_was_written() {
        let dump = KdumpFile::from_bytes(small()).unwrap();
        assert_eq!(dump.check(), Vec::<String>::new());
        assert_eq!(dump.pfns().collect::<Vec<_>>(), [3, 5]);
        assert_eq!(dump.present_pfns().collect::<Vec<_>>(), [3, 4, 5]);
        assert_eq!(dump.page(3), Some(vec![0xab; 4096]));
        assert_eq!(dump.page(5), Some(vec![0; 4096]));
        assert_eq!(dump.page(4), None);
        assert_eq!(dump.vmcoreinfo(), "OSRELEASE=6.1.0\n");
        assert_eq!(dump.header.utsname[0], "Linux");
    }

    #[test]
    fn sees_each_fault() {
        let cases: &[(&str, usize, &[u8])] = &[
            ("header_version 5", 8, &[5]),
            ("obsolete counters", 444, &[1]),
            ("rest of block 0", 500, &[1]),
            ("nr_cpus 2 with 1", 460, &[2]),
            ("max_mapnr 0x15", 440, &[21]),
            ("dump_level 255", 4096 + 8, &[255]),
            ("bitmap 2 has pages", 4096 * 3, &[0b0100_1000]),
            ("past max_mapnr", 4096 * 2 + 9, &[1]),
            ("size 0", 4096 * 4 + 8, &[0, 0]),
            ("page_flags", 4096 * 4 + 16, &[1]),
            ("before", 4096 * 4 + 1, &[1]),
            ("missing from a complete dump", 4096 * 4, &[0; 8]),
            ("reach past the file", 4096 * 4 + 3, &[1]),
            ("overlap", 4096 * 4, &[0x40, 0x40]),
            ("is not the note", 4096 + 32, &[0xa0]),
        ];
        for (want, at, bytes) in cases {
            let mut file = small();
            file[*at..*at + bytes.len()].copy_from_slice(bytes);
            let faults = KdumpFile::from_bytes(file).unwrap().check();
            assert!(faults.iter().any(|f| f.contains(want)), "{want}: {faults:?}");
        }
    }

    #[test]
    fn refuses_what_is_no_dump() {
        for cut in [0, 100, 463, 4095, 4200, 4096 * 3, 4096 * 4 + 10] {
            let mut file = small();
            file.truncate(cut);
            assert!(KdumpFile::from_bytes(file).is_err(), "{cut}");
        }
    }
}

//! The kdump-compressed format, version 6, as it lies on disk: 64-bit, little-endian.
//!
//! ```text
//! block 0                      DiskDumpHeader, rest of the block zero
//! block 1                      KdumpSubHeader, then the notes; sub_hdr_size blocks in all
//! block 1 + sub_hdr_size       bitmap 1 (pages the machine had), then bitmap 2 (pages with a PageDesc)
//! … + bitmap_blocks            PageDesc for each bit of bitmap 2, in increasing pfn
//! after the last PageDesc      page data, in any order
//! ```
//!
//! A block is a page of the crashed kernel. Sources: crash's `diskdump.c` and libkdumpfile, the readers; makedumpfile,
//! the other writer.

use zerocopy::byteorder::little_endian::{I32, I64, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First eight bytes of the file.
pub const SIGNATURE: [u8; 8] = *b"KDUMP   ";

/// The version that is written: the sub header has 64-bit pfns (version 6, makedumpfile 1.5.6).
pub const VERSION: i32 = 6;

/// Bytes of a string of utsname, with its NUL (`__NEW_UTS_LEN` + 1).
pub const UTS_LEN: usize = 65;

/// Header status and [`PageDesc::flags`]: how page data is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flags(pub u32);

impl Flags {
    /// As it is.
    pub const RAW: Self = Self(0);
    /// zlib.
    pub const ZLIB: Self = Self(0x01);
    /// lzo1x.
    pub const LZO: Self = Self(0x02);
    /// Snappy.
    pub const SNAPPY: Self = Self(0x04);
    /// Header only: pages are missing, their descriptors have offset 0.
    pub const INCOMPLETE: Self = Self(0x08);
    /// Header only: makedumpfile's `-e` left out a part of mem_map.
    pub const EXCLUDED_VMEMMAP: Self = Self(0x10);
    /// zstd (crash 7.3.1 and later).
    pub const ZSTD: Self = Self(0x20);

    /// Both.
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
    /// Whether all bits of `other` are set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// `struct disk_dump_header`: the start of block 0.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DiskDumpHeader {
    /// [`SIGNATURE`].
    pub signature: [u8; 8],
    /// [`VERSION`].
    pub header_version: I32,
    /// sysname, nodename, release, version, machine, domainname of the crashed kernel, NUL-padded.
    pub utsname: [[u8; UTS_LEN]; 6],
    /// Alignment of `struct timeval` to 8.
    pub pad: [u8; 6],
    /// Crash time, seconds since 1970; 0 when unknown.
    pub tv_sec: I64,
    /// Crash time, microseconds; 0.
    pub tv_usec: I64,
    /// [`Flags`] of the codec, and [`Flags::INCOMPLETE`]. Readers go by each descriptor's own flags.
    pub status: U32,
    /// Bytes of a block: the page size.
    pub block_size: I32,
    /// Blocks of sub header and notes.
    pub sub_hdr_size: I32,
    /// Blocks of both bitmaps.
    pub bitmap_blocks: U32,
    /// One past the last pfn, at most 2^32 - 1; see [`KdumpSubHeader::max_mapnr_64`].
    pub max_mapnr: U32,
    /// diskdump's; 0.
    pub total_ram_blocks: U32,
    /// diskdump's; 0.
    pub device_blocks: U32,
    /// diskdump's; 0.
    pub written_blocks: U32,
    /// diskdump's; 0.
    pub current_cpu: U32,
    /// CPUs with an NT_PRSTATUS note. crash warns when it is not positive.
    pub nr_cpus: I32,
}

/// `struct kdump_sub_header`: the start of block 1.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct KdumpSubHeader {
    /// Physical address the kernel image is shifted by (x86-64 `phys_base`, arm64 `PHYS_OFFSET`), else 0.
    pub phys_base: U64,
    /// Filter level that was applied (version 2).
    pub dump_level: I32,
    /// 1 in a part of a split dump (version 2); 0.
    pub split: I32,
    /// Split dumps: first pfn, clamped to 32 bits (version 2); 0.
    pub start_pfn: U64,
    /// Split dumps: one past the last pfn (version 2); 0.
    pub end_pfn: U64,
    /// File offset of VMCOREINFO's text, within the notes (version 3).
    pub offset_vmcoreinfo: U64,
    /// Its bytes (version 3).
    pub size_vmcoreinfo: U64,
    /// File offset of the notes (version 4).
    pub offset_note: U64,
    /// Bytes of the notes, VMCOREINFO and NT_PRSTATUS included (version 4).
    pub size_note: U64,
    /// File offset of the list of erased data (version 5); 0.
    pub offset_eraseinfo: U64,
    /// Its bytes (version 5); 0.
    pub size_eraseinfo: U64,
    /// Split dumps: first pfn (version 6); 0.
    pub start_pfn_64: U64,
    /// Split dumps: one past the last pfn (version 6); 0.
    pub end_pfn_64: U64,
    /// One past the last pfn: bits of each bitmap (version 6).
    pub max_mapnr_64: U64,
}

/// `struct page_desc`: where a page's data lies.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct PageDesc {
    /// File offset of the data; 0: the page is missing. Pages may share data.
    pub offset: U64,
    /// Bytes on disk, at most a block; exactly a block when raw.
    pub size: U32,
    /// [`Flags`] of the codec.
    pub flags: U32,
    /// Reserved; 0.
    pub page_flags: U64,
}

/// The other byte order: on disk are the crashed kernel's integers, and that of s390x is big-endian.
macro_rules! swapped {
    ($name:ident: $($field:ident),* $(,)?) => {
        impl $name {
            /// The same with the bytes of every integer in the opposite order.
            #[must_use]
            pub fn swapped(mut self) -> Self {
                $(self.$field = self.$field.get().swap_bytes().into();)*
                self
            }
        }
    };
}
pub(super) use swapped;
swapped!(DiskDumpHeader: header_version, tv_sec, tv_usec, status, block_size, sub_hdr_size, bitmap_blocks, max_mapnr,
    total_ram_blocks, device_blocks, written_blocks, current_cpu, nr_cpus);
swapped!(KdumpSubHeader: phys_base, dump_level, split, start_pfn, end_pfn, offset_vmcoreinfo, size_vmcoreinfo,
    offset_note, size_note, offset_eraseinfo, size_eraseinfo, start_pfn_64, end_pfn_64, max_mapnr_64);
swapped!(PageDesc: offset, size, flags, page_flags);

const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<DiskDumpHeader>() == 464);
    assert!(offset_of!(DiskDumpHeader, utsname) == 12);
    assert!(offset_of!(DiskDumpHeader, tv_sec) == 408);
    assert!(offset_of!(DiskDumpHeader, status) == 424);
    assert!(offset_of!(DiskDumpHeader, block_size) == 428);
    assert!(offset_of!(DiskDumpHeader, sub_hdr_size) == 432);
    assert!(offset_of!(DiskDumpHeader, bitmap_blocks) == 436);
    assert!(offset_of!(DiskDumpHeader, max_mapnr) == 440);
    assert!(offset_of!(DiskDumpHeader, nr_cpus) == 460);
    assert!(size_of::<KdumpSubHeader>() == 104);
    assert!(offset_of!(KdumpSubHeader, dump_level) == 8);
    assert!(offset_of!(KdumpSubHeader, offset_vmcoreinfo) == 32);
    assert!(offset_of!(KdumpSubHeader, offset_note) == 48);
    assert!(offset_of!(KdumpSubHeader, offset_eraseinfo) == 64);
    assert!(offset_of!(KdumpSubHeader, start_pfn_64) == 80);
    assert!(offset_of!(KdumpSubHeader, max_mapnr_64) == 96);
    assert!(size_of::<PageDesc>() == 24);
    assert!(offset_of!(PageDesc, size) == 8);
    assert!(offset_of!(PageDesc, flags) == 12);
    assert!(offset_of!(PageDesc, page_flags) == 16);
};

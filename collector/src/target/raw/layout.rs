//! A raw partition as it lies on the disk. Little-endian.
//!
//! ```text
//! 0                     Label, 4 KiB: written once, by `vmcorectl target prepare`
//! 16 KiB, 32 KiB        the directory, 16 KiB, twice: of the two that are whole the one with the higher sequence counts
//! 1 MiB * (n + 1)       chunk n: ChunkHeader, then up to 1 MiB - 512 bytes of one file
//! the last whole MiB    zeros, and whatever follows: some signatures are looked for there
//! ```
//!
//! The directory has names and lengths; what lies where, chunks say themselves. So a dump grows without anything being
//! written twice, whatever order it is written in, and when its writer is killed all chunks that it has written are found.
//! Chunks of other dumps, of removed files and of former lives of the disk bear other numbers.

use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First bytes of a label.
pub const LABEL_MAGIC: [u8; 16] = *b"vmcored raw dump";
/// First bytes of a directory.
pub const DIRECTORY_MAGIC: [u8; 16] = *b"vmcored raw dir\0";
/// First bytes of a chunk.
pub const CHUNK_MAGIC: [u8; 16] = *b"vmcored raw data";

/// Version of all of it.
pub const VERSION: u32 = 1;

/// Bytes of a chunk, and of what is in front of the first and behind the last.
pub const CHUNK: u64 = 1 << 20;

/// Bytes of a label.
pub const LABEL_LEN: usize = 4096;
/// Where the two directories are.
pub const DIRECTORIES: [u64; 2] = [16 << 10, 32 << 10];
/// Bytes of a directory.
pub const DIRECTORY_LEN: usize = 16 << 10;
/// Dumps that a directory holds.
pub const DUMPS: usize = 16;
/// Files of all dumps that a directory holds.
pub const FILES: usize = 64;
/// Bytes of a dump's name, padded with NULs.
pub const DUMP_NAME: usize = 96;
/// Bytes of a file's name, padded with NULs.
pub const FILE_NAME: usize = 120;

/// What marks the partition as ours.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct LabelBlock {
    /// [`LABEL_MAGIC`].
    pub magic: [u8; 16],
    /// [`VERSION`].
    pub version: U32,
    /// Bytes of a chunk: [`CHUNK`].
    pub chunk: U32,
    /// Bytes of the partition when it was prepared. It may be larger now; never smaller.
    pub length: U64,
    /// Random; what `UUID=` finds it by.
    pub uuid: [u8; 16],
    /// Seconds since 1970 when it was prepared.
    pub prepared: U64,
    /// Zeros.
    pub reserved: [u8; 4036],
    /// CRC-32 (IEEE) of all before it.
    pub crc: U32,
}

/// The directory.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DirectoryBlock {
    /// [`DIRECTORY_MAGIC`].
    pub magic: [u8; 16],
    /// That of the label.
    pub uuid: [u8; 16],
    /// Counts up with every change.
    pub sequence: U64,
    /// The first chunk that was free when this was written. While a file grows, chunks behind it may be in use.
    pub next: U64,
    /// The highest number that a dump has had.
    pub last_dump: U32,
    /// The highest number that a file has had.
    pub last_file: U32,
    /// Zeros.
    pub reserved: [u8; 456],
    /// Dumps; number 0 is a free place.
    pub dumps: [DumpEntry; DUMPS],
    /// Files; number 0 is a free place.
    pub files: [FileEntry; FILES],
    /// Zeros.
    pub reserved2: [u8; 3580],
    /// CRC-32 (IEEE) of all before it.
    pub crc: U32,
}

/// A dump: the directory of one crash.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DumpEntry {
    /// Its number, from 1; none is given twice.
    pub id: U32,
    /// [`super::State`] as a number.
    pub state: U32,
    /// The first of its chunks; all others lie behind it.
    pub first: U64,
    /// Seconds since 1970 when it was begun.
    pub begun: U64,
    /// Zeros.
    pub reserved: [u8; 8],
    /// `<host>-<crash time>`.
    pub name: [u8; DUMP_NAME],
}

/// A file of a dump.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct FileEntry {
    /// The dump's number.
    pub dump: U32,
    /// Its own number, from 1; none is given twice.
    pub id: U32,
    /// Bit 0: it was finished, so that length and chunks are true.
    pub flags: U32,
    /// The first free chunk when it was begun: all of its own are there or behind.
    pub from: U32,
    /// The chunk with its first bytes; all ones when there is none.
    pub first: U64,
    /// Bytes. Of a file that was not finished as many as were known of.
    pub length: U64,
    /// How many chunks it has.
    pub chunks: U64,
    /// Its name.
    pub name: [u8; FILE_NAME],
}

/// What stands in front of a chunk's bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ChunkHeader {
    /// [`CHUNK_MAGIC`].
    pub magic: [u8; 16],
    /// That of the label.
    pub uuid: [u8; 16],
    /// The dump's number.
    pub dump: U32,
    /// The file's number.
    pub file: U32,
    /// Its place in the file, in pieces of [`PAYLOAD`] bytes.
    pub index: U64,
    /// Bytes of the file in it.
    pub used: U32,
    /// CRC-32 (IEEE) of those bytes.
    pub data_crc: U32,
    /// Zeros.
    pub reserved: [u8; 452],
    /// CRC-32 (IEEE) of all before it.
    pub crc: U32,
}

/// Bytes of a chunk's header.
pub const CHUNK_HEAD: usize = size_of::<ChunkHeader>();

/// Bytes of a file in a chunk.
pub const PAYLOAD: u64 = CHUNK - 512;

const _: () = {
    assert!(size_of::<LabelBlock>() == LABEL_LEN);
    assert!(size_of::<DirectoryBlock>() == DIRECTORY_LEN);
    assert!(size_of::<DumpEntry>() == 128);
    assert!(size_of::<FileEntry>() == 160);
    assert!(CHUNK_HEAD == 512);
    assert!(std::mem::offset_of!(DirectoryBlock, dumps) == 512);
    assert!(std::mem::offset_of!(DirectoryBlock, files) == 2560);
};

/// Whether the last four bytes are the CRC of those before them.
pub(super) fn is_intact(bytes: &[u8]) -> bool {
    bytes
        .split_last_chunk::<4>()
        .is_some_and(|(body, crc)| libdeflater::crc32(body) == u32::from_le_bytes(*crc))
}

/// The CRC of all but the last four bytes.
pub fn crc_of(bytes: &[u8]) -> u32 {
    bytes.split_last_chunk::<4>().map_or(0, |(body, _)| libdeflater::crc32(body))
}

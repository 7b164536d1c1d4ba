//! The image itself.

use std::path::Path;

use collector::plan::Plan;

use crate::root::Root;
use crate::{Error, ModulePlan};

/// How the image is compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip.
    Gzip,
    /// xz with CRC32.
    Xz,
    /// One zstd frame.
    Zstd,
}

impl Compression {
    /// The best that kernel `release` can unpack, by its configuration in /boot or /proc/config.gz.
    pub fn for_kernel(root: &Root, release: &str) -> Result<Self, Error> {
        let _ = (root, release);
        Ok(Self::Zstd)
    }
}

/// How to build.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// See [`Compression::for_kernel`].
    pub compression: Compression,
}

/// A finished image.
#[derive(Clone, PartialEq, Eq)]
pub struct Image {
    /// The file, as kexec_file_load takes it.
    pub bytes: Vec<u8>,
    /// Lower-case hexadecimal SHA-256 of `bytes`.
    pub id: String,
    /// Size once the kernel has unpacked it, in bytes.
    pub unpacked: u64,
    /// What is in it, in archive order, without contents.
    pub entries: Vec<Listed>,
}

/// What an entry is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link; the data is its target.
    Symlink,
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A pipe, socket or anything else.
    Other,
}

/// One entry of an image.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// Absolute path.
    pub path: String,
    /// Permission bits, the low twelve of st_mode.
    pub mode: u32,
    /// What it is.
    pub kind: Kind,
    /// A file's bytes or a link's target.
    pub data: Vec<u8>,
}

/// An entry without its contents.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// Absolute path.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// What it is.
    pub kind: Kind,
    /// Bytes of data.
    pub size: u64,
}

/// Builds the image.
pub fn build(plan: &Plan, modules: &ModulePlan, collector: &Path, options: &Options) -> Result<Image, Error> {
    let _ = (plan, modules, options);
    Err(Error::BadCollector { path: collector.to_owned(), reason: "not built yet".into() })
}

/// What is in an image, in archive order; for `vmcorectl image ls|cat`. Any initramfs is accepted.
pub fn entries(packed: &[u8]) -> Result<Vec<Entry>, Error> {
    let _ = packed;
    Err(Error::BadImage { reason: "no archive", offset: 0, layer: "packed" })
}

//! The image: what is put into it, and what lies in one.

use std::path::Path;

use collector::plan::{PLAN_PATH, Plan};
use sha2::{Digest, Sha256};

pub use crate::compress::Compression;
pub use crate::cpio::{Entry, Kind};

use crate::programs::Packed;
use crate::root::Root;
use crate::{Error, ModulePlan, compress, cpio, elf};

/// Archives one behind the other in an image: distributions have two, the first with microcode.
const MAX_ARCHIVES: usize = 16;

/// How to build.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// How the archive is compressed.
    pub compression: Compression,
}

impl Options {
    /// What suits kernel `release`, by its configuration.
    pub fn for_kernel(root: &Root, release: &str) -> Result<Self, Error> {
        Ok(Self { compression: Compression::for_kernel(root, release)? })
    }
}

/// A finished image.
#[derive(Clone, PartialEq, Eq)]
pub struct Image {
    /// The file, as kexec_file_load takes it.
    pub bytes: Vec<u8>,
    /// Lower-case hexadecimal SHA-256 of `bytes`: the same inputs give the same.
    pub id: String,
    /// Bytes of the archive before compression; the kernel needs about as much memory for the unpacked files.
    pub unpacked: u64,
    /// What is in it, in archive order, without contents.
    pub entries: Vec<Listed>,
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { bytes, id, unpacked, entries } = self;
        write!(f, "image {id}: {} bytes, {unpacked} unpacked, {} entries", bytes.len(), entries.len())
    }
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

/// Directories that are there to be mounted on.
const MOUNT_POINTS: [&str; 6] = ["/dev", "/proc", "/run", "/sys", "/target", "/tmp"];

/// Builds the image: the collector as `/init`, the plan, the modules and the firmware, and nothing else. `plan` must
/// load exactly the modules of `modules` ([`ModulePlan::for_plan`]).
pub fn build(plan: &Plan, modules: &ModulePlan, collector: &Path, options: &Options) -> Result<Image, Error> {
    build_with(plan, modules, collector, &Packed::default(), options)
}

/// As [`build`], with programs and files besides.
pub fn build_with(
    plan: &Plan,
    modules: &ModulePlan,
    collector: &Path,
    packed: &Packed,
    options: &Options,
) -> Result<Image, Error> {
    if plan.modules != modules.for_plan() {
        let packed = |m: &&collector::plan::Module| modules.modules.iter().any(|p| p.plan == **m);
        let odd = plan.modules.iter().find(|m| !packed(m)).map_or("other modules", |m| m.path.as_str());
        return Err(Error::PlanMismatch { path: odd.to_owned() });
    }
    let mut archive = cpio::Archive::default();
    let program = compress::read_file(collector)?;
    let program = elf::strip(program)
        .map_err(|reason| Error::BadCollector { path: collector.to_owned(), reason: reason.to_owned() })?;
    archive.add("/init", 0o755, Kind::File, program)?;

    let mut text = serde_json::to_vec_pretty(plan).map_err(Error::Encode)?;
    text.push(b'\n');
    archive.add(PLAN_PATH, 0o600, Kind::File, text)?;

    for directory in MOUNT_POINTS {
        archive.add(directory, 0o755, Kind::Directory, Vec::new())?;
    }
    // The kernel opens it as the standard streams of /init, before anything is mounted.
    archive.add("/dev/console", 0o600, Kind::CharDevice { major: 5, minor: 1 }, Vec::new())?;
    // Where the kernel has no console, the run-time of a Rust program opens this in its place, or aborts.
    archive.add("/dev/null", 0o666, Kind::CharDevice { major: 1, minor: 3 }, Vec::new())?;
    // First what may be a link in the way of others: `/lib`.
    for (path, file) in packed.files() {
        archive.add(path, file.mode, file.kind, file.data.clone())?;
    }
    for module in &modules.modules {
        archive.add_through(&module.plan.path, 0o644, Kind::File, compress::read_file(&module.source)?)?;
    }
    for file in &modules.firmware {
        archive.add_through(&file.path, 0o644, Kind::File, compress::read_file(&file.source)?)?;
    }

    let entries = archive.entries().map(Listed::from).collect();
    let unpacked = archive.to_bytes();
    let size = length(&unpacked);
    let bytes = compress::pack(unpacked, options.compression)?;
    let id = hexadecimal(&Sha256::digest(&bytes));
    Ok(Image { bytes, id, unpacked: size, entries })
}

impl From<&Entry> for Listed {
    fn from(entry: &Entry) -> Self {
        Self { path: entry.path.clone(), mode: entry.mode, kind: entry.kind, size: length(&entry.data) }
    }
}

/// What is in an image, in archive order; for `vmcorectl image ls|cat`. Reads any initramfs that is made of newc
/// archives, the last of which may be compressed, and trusts none of it.
pub fn entries(packed: &[u8]) -> Result<Vec<Entry>, Error> {
    let mut entries = Vec::new();
    let rest = read_archives(packed, &mut entries)?;
    if rest.is_empty() {
        return if entries.is_empty() { Err(bad("it is empty", 0)) } else { Ok(entries) };
    }
    let offset = packed.len() - rest.len();
    let Some(unpacked) = compress::unpack(rest) else {
        return Err(bad("neither cpio nor zstd, xz or gzip", offset));
    };
    let unpacked = unpacked?;
    let left = read_archives(&unpacked, &mut entries)?;
    if !left.is_empty() {
        let offset = unpacked.len() - left.len();
        return Err(Error::BadImage {
            reason: "no cpio header where one must be",
            offset,
            layer: "unpacked",
        });
    }
    Ok(entries)
}

/// Reads archives, with zeros between them, as long as there are any; the rest.
fn read_archives<'a>(mut bytes: &'a [u8], entries: &mut Vec<Entry>) -> Result<&'a [u8], Error> {
    for _ in 0..MAX_ARCHIVES {
        let zeros = bytes.iter().take_while(|b| **b == 0).count();
        bytes = bytes.get(zeros..).unwrap_or_default();
        if !cpio::begins(bytes) {
            return Ok(bytes);
        }
        let taken = cpio::read(bytes, entries)?;
        bytes = bytes.get(taken..).unwrap_or_default();
    }
    Err(bad("too many archives", 0))
}

fn bad(reason: &'static str, offset: usize) -> Error {
    Error::BadImage { reason, offset, layer: "packed" }
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

//! What a user names as a vmcore, whatever it is: the container is found out by its first bytes.
//!
//! | starts with | is |
//! | --- | --- |
//! | `\x7fELF` | /proc/vmcore, its copies, QEMU's and makedumpfile's ELF files |
//! | `KDUMP   ` | kdump-compressed; several files are the parts of a split dump |
//! | `makedumpfile` | flattened: one of the two above as a stream of records |

use crate::addr::FileOffset;
use crate::format::read::flattened::{FlatFile, FlattenedError};
use crate::format::read::{KdumpError, KdumpFile};
use crate::source::FileSource;
use crate::vmcore::ReadAt;
use std::io;
use std::path::{Path, PathBuf};

/// Why a file cannot be used as a vmcore.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// It cannot be opened or read.
    #[error("cannot open {}", .path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Nothing that is known.
    #[error("{} is no dump: it starts with {seen:02x?}{hint}", .path.display())]
    Unknown {
        /// Which.
        path: PathBuf,
        /// Its first bytes.
        seen: [u8; 8],
        /// What it may be, and what to do.
        hint: &'static str,
    },
    /// A flattened dump that cannot be used.
    #[error("{}", .path.display())]
    Flattened {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: FlattenedError,
    },
    /// A kdump-compressed dump that cannot be used, or files that are no parts of one.
    #[error("{}", list(.paths))]
    Kdump {
        /// Which.
        paths: Vec<PathBuf>,
        /// Why not.
        #[source]
        source: KdumpError,
    },
    /// Several files that are no split dump.
    #[error("{} is ELF: only the parts of a split kdump-compressed dump can be given together", .0.display())]
    Several(PathBuf),
    /// No file was named.
    #[error("no file is named")]
    Nothing,
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// The container that was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Container {
    /// ELF.
    Elf,
    /// kdump-compressed.
    Kdump,
}

/// An opened vmcore or dump. As a source for [`crate::engine::Engine::open`] take [`Input::source`].
#[expect(missing_debug_implementations, reason = "holds a dead kernel's memory")]
pub struct Input {
    opened: Opened,
    /// Records of flattened files, in the order they were named; `None` for a file that is not flattened.
    flattened: Vec<Option<usize>>,
    /// Bytes of all files as they lie on the disk.
    bytes: u64,
}

enum Opened {
    Elf(Box<dyn ReadAt>),
    Kdump(Box<KdumpFile<'static>>),
}

impl Input {
    /// Opens a file, or the parts of a split dump in any order.
    pub fn open<P: AsRef<Path>>(paths: &[P]) -> Result<Self, InputError> {
        let mut files = Vec::with_capacity(paths.len());
        for path in paths {
            let path = path.as_ref();
            let source = FileSource::open(path)
                .map_err(|source| InputError::Open { path: path.to_owned(), source })?;
            files.push((path.to_owned(), Box::new(source) as Box<dyn ReadAt>));
        }
        Self::of(files)
    }

    /// As [`Input::open`], of files that are open, with the names that errors call them by.
    pub fn of(files: Vec<(PathBuf, Box<dyn ReadAt>)>) -> Result<Self, InputError> {
        let bytes = files.iter().fold(0_u64, |sum, (_, source)| sum.saturating_add(source.size()));
        let several = files.len() > 1;
        let names: Vec<PathBuf> = files.iter().map(|(path, _)| path.clone()).collect();
        let mut flattened = Vec::with_capacity(files.len());
        let mut parts: Vec<Box<dyn ReadAt>> = Vec::with_capacity(files.len());
        for (path, mut source) in files {
            let mut start = first_bytes(&path, &source)?;
            let mut records = None;
            if start == *b"makedump" {
                let flat = FlatFile::open(source)
                    .map_err(|source| InputError::Flattened { path: path.clone(), source })?;
                records = Some(flat.records());
                source = Box::new(flat);
                start = first_bytes(&path, &source)?;
            }
            flattened.push(records);
            match start {
                [0x7f, b'E', b'L', b'F', ..] if several => return Err(InputError::Several(path)),
                [0x7f, b'E', b'L', b'F', ..] => {
                    return Ok(Self { opened: Opened::Elf(source), flattened, bytes });
                }
                [b'K', b'D', b'U', b'M', b'P', ..] => parts.push(source),
                seen => return Err(InputError::Unknown { path, seen, hint: hint(seen) }),
            }
        }
        if parts.is_empty() {
            return Err(InputError::Nothing);
        }
        let dump =
            KdumpFile::open_parts(parts).map_err(|source| InputError::Kdump { paths: names, source })?;
        Ok(Self { opened: Opened::Kdump(Box::new(dump)), flattened, bytes })
    }

    /// What the engine reads.
    pub fn source(&self) -> &dyn ReadAt {
        match &self.opened {
            Opened::Elf(source) => source,
            Opened::Kdump(dump) => dump.as_ref(),
        }
    }
    /// The container, within the flattened one.
    pub fn container(&self) -> Container {
        match &self.opened {
            Opened::Elf(_) => Container::Elf,
            Opened::Kdump(_) => Container::Kdump,
        }
    }
    /// The dump, when it is kdump-compressed.
    pub fn kdump(&self) -> Option<&KdumpFile<'static>> {
        match &self.opened {
            Opened::Elf(_) => None,
            Opened::Kdump(dump) => Some(dump),
        }
    }
    /// For each file the number of its records, when it is flattened.
    pub fn flattened(&self) -> &[Option<usize>] {
        &self.flattened
    }
    /// Bytes of all files as they lie on the disk.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// The first 8 bytes; zeros for what is not there.
fn first_bytes(path: &Path, source: &dyn ReadAt) -> Result<[u8; 8], InputError> {
    let mut start = [0; 8];
    let len = usize::try_from(source.size()).unwrap_or(8).min(8);
    source
        .read_at(FileOffset::new(0), start.get_mut(..len).unwrap_or_default())
        .map_err(|source| InputError::Open { path: path.to_owned(), source })?;
    Ok(start)
}

/// What else it may be.
fn hint(seen: [u8; 8]) -> &'static str {
    match seen {
        [b'D', b'I', b'S', b'K', ..] => ": a diskdump of the years before kdump, which is not supported",
        [b'L', b'K', b'C', b'D', ..] => ": an LKCD dump, which is not supported",
        [0x04, 0x22, 0x4d, 0x18, ..] => ": an LZ4 stream: restore it with `lz4 -d` first",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => ": a zstd stream: restore it with `zstd -d` first",
        [0x1f, 0x8b, ..] => ": a gzip stream: restore it with `gzip -d` first",
        [0xfd, b'7', b'z', b'X', ..] => ": an xz stream: restore it with `xz -d` first",
        [0, 0, 0, 0, 0, 0, 0, 0] => ": it is empty, or was never written to",
        _ => ", neither ELF, kdump-compressed nor flattened",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::chain;
    use crate::format::DumpSink;
    use crate::format::stream::Flattened;
    use crate::vmcore::fixture::Core;

    fn input(files: Vec<Vec<u8>>) -> Result<Input, String> {
        let files = files.into_iter().enumerate();
        Input::of(
            files.map(|(i, f)| (PathBuf::from(format!("f{i}")), Box::new(f) as Box<dyn ReadAt>)).collect(),
        )
        .map_err(|e| chain(&e))
    }

    fn flat(bytes: &[u8]) -> Vec<u8> {
        let out = Flattened::new(Vec::new());
        for (i, piece) in bytes.chunks(1000).enumerate() {
            out.write_at(FileOffset::new(i as u64 * 1000), piece).unwrap();
        }
        out.finish().unwrap();
        out.into_inner()
    }

    #[test]
    fn the_container_is_found_by_its_bytes() {
        let elf = Core::new("PAGESIZE=4096\n").load(0x1000, vec![7; 0x3000]).build();
        let whole = input(vec![elf.clone()]).unwrap();
        assert_eq!(
            (whole.container(), whole.flattened(), whole.bytes()),
            (Container::Elf, &[None][..], elf.len() as u64)
        );
        let flattened = input(vec![flat(&elf)]).unwrap();
        assert_eq!((flattened.container(), flattened.source().size()), (Container::Elf, elf.len() as u64));
        assert_eq!(flattened.flattened(), [Some(elf.len().div_ceil(1000))]);
        for (files, want) in [
            (vec![], "no file is named"),
            (vec![vec![]], "f0 is no dump: it starts with [00, 00, 00, 00, 00, 00, 00, 00]: it is empty"),
            (vec![b"DISKDUMP".to_vec()], "years before kdump"),
            (vec![vec![0x04, 0x22, 0x4d, 0x18]], "lz4 -d"),
            (vec![elf.clone(), elf.clone()], "f0 is ELF: only the parts"),
            (vec![b"KDUMP   ".to_vec()], "f0: cannot read the header at offset 0x0"),
            (vec![b"makedumpfile".to_vec()], "f0: not a flattened dump"),
            (vec![flat(&flat(&elf))], "f0 is no dump"),
        ] {
            let error = input(files).err().unwrap();
            assert!(error.contains(want), "{error}");
        }
    }

    #[test]
    fn a_missing_file_is_told() {
        let error = Input::open(&["/nonexistent/vmcore"]).err().map(|e| chain(&e)).unwrap();
        assert!(error.starts_with("cannot open /nonexistent/vmcore: No such file"), "{error}");
    }
}

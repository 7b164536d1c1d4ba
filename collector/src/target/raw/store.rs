//! A dump on a raw partition as the directory that the collector writes to.

use super::layout::{CHUNK_HEAD, PAYLOAD};
use super::partition::Partition;
use super::{Chunk, MANIFEST, State};
use crate::format::DumpSink;
use crate::problem::Code;
use crate::target::TargetError;
use crate::target::blocks::{BLOCK, Block, Blocks, Buffer, Disk};
use crate::target::store::Store;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// What a file is called until it is whole.
const INCOMPLETE: &str = "-incomplete";

/// A dump on the partition.
#[derive(Debug)]
pub struct RawDump {
    partition: Arc<Partition>,
    id: u32,
    path: String,
}

impl RawDump {
    /// Begins a dump on the device `node`.
    pub fn create(node: &Path, name: &str) -> Result<Self, TargetError> {
        let partition = open(node)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs());
        let (id, name) = partition.create_dump(name, now)?;
        Ok(Self { partition: Arc::new(partition), id, path: format!("/{name}") })
    }

    /// Opens what [`RawDump::create`] made, `path` being [`Store::path`].
    pub fn open(node: &Path, path: &str) -> Result<Self, TargetError> {
        let partition = open(node)?;
        let id = partition.directory().dump(path.trim_start_matches('/')).map(|dump| dump.id);
        let missing = || TargetError::new("open the dump", path, io::Error::from(io::ErrorKind::NotFound));
        Ok(Self { id: id.ok_or_else(missing)?, partition: Arc::new(partition), path: path.to_owned() })
    }

    fn failed(&self, doing: &'static str, name: &str, e: io::Error) -> TargetError {
        TargetError::new(doing, format!("{}/{name} on {}", self.path, self.partition.node()), e)
    }
}

fn open(node: &Path) -> Result<Partition, TargetError> {
    Partition::open(node, false)
        .map_err(|e| TargetError::new("use", node.display().to_string(), io::Error::other(e)))
}

impl Store for RawDump {
    fn path(&self) -> &str {
        &self.path
    }

    fn create<'s>(&'s self, name: &str) -> Result<Box<dyn DumpSink + 's>, TargetError> {
        let failed = |e| self.failed("create", name, e);
        let file = self.partition.create_file(self.id, name).map_err(failed)?;
        self.partition.grow(file).map_err(failed)?;
        Ok(Box::new(Blocks::new(RawFile {
            partition: Arc::clone(&self.partition),
            dump: self.id,
            file,
            chunks: Mutex::default(),
        })))
    }

    fn overwrite(&self, name: &str, bytes: &[u8]) -> Result<(), TargetError> {
        let write = || {
            if u64::try_from(bytes.len()).is_ok_and(|len| len > PAYLOAD) {
                return Err(io::Error::from(io::ErrorKind::FileTooLarge));
            }
            let known = self.partition.lock().file(self.id, name).map(|file| (file.id, file.first));
            let (id, first) = match known {
                Some(known) => known,
                None => (self.partition.create_file(self.id, name)?, None),
            };
            let n = match first {
                Some(n) => n,
                None => self.partition.allot(id, 0)?,
            };
            let mut buffer = Buffer::new(BLOCK);
            let end = CHUNK_HEAD.saturating_add(bytes.len());
            buffer.part_mut(CHUNK_HEAD..end).copy_from_slice(bytes);
            Chunk::seal(buffer.get_mut(), self.partition.label(), self.id, id, 0, bytes.len());
            self.partition.write_chunk(n, &buffer, end)?;
            self.partition.flush()?;
            let mut directory = self.partition.lock();
            if let Some(file) = directory.files.iter_mut().find(|file| file.id == id) {
                file.length = u64::try_from(bytes.len()).unwrap_or(0);
                file.finished = true;
            }
            self.partition.commit(&mut directory)
        };
        write().map_err(|e| self.failed("write", name, e))
    }

    fn settle(&self, name: &str) -> Result<u64, TargetError> {
        let settle = || {
            self.partition.flush()?;
            let mut directory = self.partition.lock();
            let length = directory.file(self.id, name).map(|file| file.length);
            self.partition.commit(&mut directory)?;
            length.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
        };
        settle().map_err(|e| self.failed("sync", name, e))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), TargetError> {
        let rename = || {
            if !super::directory::is_file_name(to) {
                return Err(io::Error::from(io::ErrorKind::InvalidFilename));
            }
            let mut directory = self.partition.lock();
            if directory.file(self.id, from).is_none() {
                return Err(io::ErrorKind::NotFound.into());
            }
            directory.files.retain(|file| file.dump != self.id || file.name != to || from == to);
            if let Some(file) = directory.files.iter_mut().find(|f| f.dump == self.id && f.name == from) {
                file.name = to.to_owned();
            }
            let finished = directory.file(self.id, MANIFEST).is_some();
            let whole = directory.files_of(self.id).all(|file| !file.name.ends_with(INCOMPLETE));
            if let Some(dump) = directory.dumps.iter_mut().find(|dump| dump.id == self.id) {
                dump.state = match (finished, whole) {
                    (true, true) => State::Complete,
                    (true, false) => State::Partial,
                    (false, _) => State::Writing,
                };
            }
            self.partition.commit(&mut directory)
        };
        rename().map_err(|e| self.failed("rename", from, e))
    }

    fn remove(&self, name: &str) -> Result<(), TargetError> {
        let remove = || {
            let mut directory = self.partition.lock();
            let Some(gone) = directory.file(self.id, name).cloned() else {
                return Err(io::Error::from(io::ErrorKind::NotFound));
            };
            directory.files.retain(|file| file.id != gone.id);
            // Files grow one after the other: when none was begun after it, all behind its start is its own. What a
            // younger file has is behind it.
            if directory.files.iter().all(|file| file.id < gone.id && file.finished) {
                directory.next = gone.from;
            }
            self.partition.commit(&mut directory)
        };
        remove().map_err(|e| self.failed("remove", name, e))
    }

    fn sync(&self) -> Result<(), TargetError> {
        self.partition.flush().map_err(|e| self.failed("sync", "", e))
    }

    fn free(&self) -> Option<u64> {
        Some(self.partition.free())
    }

    fn notes(&self) -> Vec<(Code, String)> {
        let directory = self.partition.directory();
        let waiting = directory.dumps.iter().filter(|d| d.id != self.id && d.state != State::Recovered);
        let names: Vec<&str> = waiting.map(|dump| dump.name.as_str()).collect();
        if names.is_empty() {
            return Vec::new();
        }
        let node = self.partition.node();
        let message =
            format!("{node} still holds {}, which was never recovered: it is kept", names.join(", "));
        vec![(Code::RAW_NOT_RECOVERED, message)]
    }
}

/// A file of a dump: pieces of [`PAYLOAD`] bytes, each in whatever chunk was free when it was begun.
#[derive(Debug)]
struct RawFile {
    partition: Arc<Partition>,
    dump: u32,
    file: u32,
    /// Numbers of chunks, each and 1, by index; 0 is none.
    chunks: Mutex<BTreeMap<u64, [u32; 64]>>,
}

impl RawFile {
    fn chunk(&self, index: u64) -> io::Result<u64> {
        let chunks = self.chunks.lock().unwrap_or_else(PoisonError::into_inner);
        let place = usize::try_from(index % 64).map_err(io::Error::other)?;
        let n = chunks.get(&(index / 64)).and_then(|some| some.get(place)).copied().unwrap_or(0);
        n.checked_sub(1).map(u64::from).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Drop for RawFile {
    fn drop(&mut self) {
        self.partition.grown();
    }
}

impl Disk for RawFile {
    const HEAD: usize = CHUNK_HEAD;

    fn allot(&self, index: u64) -> io::Result<()> {
        let n = self.partition.allot(self.file, index)?;
        let n = u32::try_from(n).ok().and_then(|n| n.checked_add(1)).ok_or(io::ErrorKind::FileTooLarge)?;
        let place = usize::try_from(index % 64).map_err(io::Error::other)?;
        let mut chunks = self.chunks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = chunks.entry(index / 64).or_insert([0; 64]).get_mut(place) {
            *slot = n;
        }
        Ok(())
    }

    fn read(&self, block: &mut Block) -> io::Result<()> {
        let n = self.chunk(block.index)?;
        let used = match self.partition.read_chunk(n, &mut block.buffer)? {
            Some(chunk) if (chunk.file, chunk.index) == (self.file, block.index) && chunk.intact => {
                chunk.data.len()
            }
            _ => {
                let why = format!("chunk {n} of {} is not what was written", self.partition.node());
                return Err(io::Error::other(why));
            }
        };
        block.used = used;
        Ok(())
    }

    fn write(&self, block: &mut Block) -> io::Result<()> {
        let n = self.chunk(block.index)?;
        let (index, used) = (block.index, block.used);
        Chunk::seal(block.buffer.get_mut(), self.partition.label(), self.dump, self.file, index, used);
        self.partition.write_chunk(n, &block.buffer, CHUNK_HEAD.saturating_add(used))?;
        let mut directory = self.partition.lock();
        if let Some(file) = directory.files.iter_mut().find(|file| file.id == self.file) {
            file.grew(n, index, used);
        }
        Ok(())
    }

    fn sync(&self, len: u64) -> io::Result<()> {
        self.partition.flush()?;
        let mut directory = self.partition.lock();
        if let Some(file) = directory.files.iter_mut().find(|file| file.id == self.file) {
            file.length = len;
            file.finished = true;
        }
        self.partition.commit(&mut directory)
    }
}

//! The partition itself: opened, its directory kept, its chunks read and written, past the page cache.

use super::RawError;
use super::directory::{Chunk, Directory, Dump, FileRecord, Found, Label, State, is_dump_name};
use super::layout::{CHUNK, DIRECTORIES, DIRECTORY_LEN, LABEL_LEN};
use crate::target::blocks::{BLOCK, Buffer, aligned};
use crate::target::{TargetError, signature};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Chunks after which the directory is written while a file grows: so many are looked at when the partition is opened after
/// its writer was killed.
const COMMIT_EVERY: u64 = 256;

/// How many chunks in a row may be missing behind the last that is there: more than were ever under way at once.
const GAP: u64 = 16;

/// How many dumps may bear the same name.
const SAME_NAME: u32 = 999;

/// A partition that was prepared.
#[derive(Debug)]
pub struct Partition {
    file: File,
    node: String,
    label: Label,
    directory: Mutex<Directory>,
    /// The file that grows, 0 when none does. Never two at once: what a removed file had is free again.
    growing: AtomicU32,
}

impl Partition {
    /// Opens it. Nothing is written. `exclusive`: an error when anybody else uses it.
    pub fn open(node: &Path, exclusive: bool) -> Result<Self, RawError> {
        let shown = node.display().to_string();
        let failed = |doing| {
            let node = shown.clone();
            move |source: io::Error| RawError::Io { doing, node, source }
        };
        let file = open(node, exclusive).map_err(|e| match e.raw_os_error() {
            Some(libc::EBUSY) => RawError::Busy(shown.clone()),
            _ => RawError::Io { doing: "open", node: shown.clone(), source: e },
        })?;
        if let Some(other) = signature::foreign(node).map_err(failed("read"))? {
            return Err(RawError::Holds(shown, other));
        }
        let mut buffer = Buffer::new(LABEL_LEN);
        read_whole(&file, 0, buffer.get_mut()).map_err(failed("read"))?;
        let label = match Label::parse(buffer.get()) {
            Found::Label(label) => label,
            Found::Nothing => return Err(RawError::NotPrepared(shown)),
            Found::Damaged => return Err(RawError::Damaged(shown, "label")),
            Found::Version(version) => return Err(RawError::Version(shown, version)),
        };
        let size = (&mut &file).seek(SeekFrom::End(0)).map_err(failed("measure"))?;
        if size < label.length {
            return Err(RawError::Smaller(shown, size >> 20, label.length >> 20));
        }
        let mut both = [Buffer::new(DIRECTORY_LEN), Buffer::new(DIRECTORY_LEN)];
        for (buffer, at) in both.iter_mut().zip(DIRECTORIES) {
            read_whole(&file, at, buffer.get_mut()).map_err(failed("read"))?;
        }
        let [a, b] = &both;
        let directory = Directory::newest([a.get(), b.get()], &label)
            .ok_or_else(|| RawError::Damaged(shown.clone(), "directory"))?;
        let this =
            Self { file, node: shown, label, directory: Mutex::new(directory), growing: AtomicU32::new(0) };
        this.find_end();
        Ok(this)
    }

    /// The device.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The label.
    #[must_use]
    pub fn label(&self) -> &Label {
        &self.label
    }

    /// The directory as it is now.
    #[must_use]
    pub fn directory(&self) -> Directory {
        self.lock().clone()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Directory> {
        self.directory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that can still be written.
    #[must_use]
    pub fn free(&self) -> u64 {
        let left = self.label.chunks().saturating_sub(self.lock().next);
        left.saturating_mul(super::layout::PAYLOAD)
    }

    /// Finds what a writer that was killed has written since the directory was.
    fn find_end(&self) {
        let mut directory = self.lock();
        let mut buffer = Buffer::new(BLOCK);
        let mut at = directory.next;
        let mut missing = 0;
        while at < self.label.chunks() && missing < GAP {
            let here = at;
            at = at.saturating_add(1);
            missing = missing.saturating_add(1);
            // Most often there is nothing: a chunk's header tells.
            if self.read_chunk_head(here, &mut buffer).is_err() {
                continue;
            }
            let Ok(Some(chunk)) = self.read_chunk(here, &mut buffer) else { continue };
            let (dump, id, index, len) = (chunk.dump, chunk.file, chunk.index, chunk.data.len());
            let file = directory.files.iter_mut().find(|f| f.dump == dump && f.id == id && !f.finished);
            if let Some(file) = file {
                file.grew(here, index, len);
                file.chunks = file.chunks.saturating_add(1);
                directory.next = at;
                missing = 0;
            }
        }
    }

    fn read_chunk_head(&self, n: u64, buffer: &mut Buffer) -> io::Result<()> {
        let at = place(n)?;
        let head = buffer.part_mut(0..4096);
        read_whole(&self.file, at, head)?;
        let magic = head.get(..16) == Some(super::layout::CHUNK_MAGIC.as_slice());
        if magic { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    /// Reads chunk `n`; `None` when it is none of ours. The buffer has a chunk's length.
    pub(super) fn read_chunk<'b>(&self, n: u64, buffer: &'b mut Buffer) -> io::Result<Option<Chunk<'b>>> {
        read_whole(&self.file, place(n)?, buffer.get_mut())?;
        Ok(Chunk::parse(buffer.get(), &self.label))
    }

    /// Writes the first bytes of a buffer, which has its header, as chunk `n`.
    pub(super) fn write_chunk(&self, n: u64, buffer: &Buffer, len: usize) -> io::Result<()> {
        write_whole(&self.file, place(n)?, buffer.part(aligned(&(0..len))))
    }

    /// Makes chunks durable.
    pub(super) fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Writes the directory over the older one, durably.
    pub(super) fn commit(&self, directory: &mut Directory) -> io::Result<()> {
        directory.sequence = directory.sequence.checked_add(1).ok_or(io::ErrorKind::InvalidData)?;
        let mut buffer = Buffer::new(DIRECTORY_LEN);
        buffer.get_mut().copy_from_slice(&directory.to_bytes(&self.label));
        let [even, odd] = DIRECTORIES;
        let at = if directory.sequence.is_multiple_of(2) { even } else { odd };
        write_whole(&self.file, at, buffer.get())?;
        self.file.sync_data()
    }

    /// A chunk for the file that grows.
    pub(super) fn allot(&self, id: u32, index: u64) -> io::Result<u64> {
        let mut directory = self.lock();
        let n = directory.next;
        if n >= self.label.chunks() {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        directory.next = n.saturating_add(1);
        if let Some(file) = directory.files.iter_mut().find(|file| file.id == id) {
            file.chunks = file.chunks.saturating_add(1);
            file.grew(n, index, 0);
        }
        if directory.next.is_multiple_of(COMMIT_EVERY) {
            self.commit(&mut directory)?;
        }
        Ok(n)
    }

    /// Makes a dump. If `name` is taken, another is found. Room of dumps that were recovered is used again as soon as all
    /// were.
    pub(super) fn create_dump(&self, name: &str, now: u64) -> Result<(u32, String), TargetError> {
        let failed =
            |e: io::Error| TargetError::new("create the dump", format!("{name} on {}", self.node), e);
        let mut directory = self.lock();
        if directory.dumps.iter().all(|dump| dump.state == State::Recovered) {
            directory.dumps.clear();
            directory.files.clear();
            directory.next = 0;
        }
        if !directory.has_room().0 {
            directory.dumps.retain(|dump| dump.state != State::Recovered);
            let kept: Vec<u32> = directory.dumps.iter().map(|dump| dump.id).collect();
            directory.files.retain(|file| kept.contains(&file.dump));
        }
        if !directory.has_room().0 || directory.next >= self.label.chunks() {
            return Err(failed(io::Error::from_raw_os_error(libc::ENOSPC)));
        }
        let names = (1..=SAME_NAME).map(|n| if n == 1 { name.to_owned() } else { format!("{name}-{n}") });
        let free = names.into_iter().find(|name| directory.dumps.iter().all(|dump| dump.name != *name));
        let name = free.filter(|name| is_dump_name(name));
        let name = name.ok_or_else(|| failed(io::Error::from(io::ErrorKind::InvalidInput)))?;
        let id = directory.last_dump.checked_add(1);
        let id = id.ok_or_else(|| failed(io::Error::from(io::ErrorKind::InvalidData)))?;
        directory.last_dump = id;
        let first = directory.next;
        directory.dumps.push(Dump { id, state: State::Writing, first, begun: now, name: name.clone() });
        self.commit(&mut directory).map_err(failed)?;
        Ok((id, name))
    }

    /// Makes a file's record. It must not exist.
    pub(super) fn create_file(&self, dump: u32, name: &str) -> io::Result<u32> {
        let mut directory = self.lock();
        if directory.file(dump, name).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if !super::directory::is_file_name(name) {
            return Err(io::ErrorKind::InvalidFilename.into());
        }
        if !directory.has_room().1 {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        let id = directory.last_file.checked_add(1).ok_or(io::ErrorKind::InvalidData)?;
        directory.last_file = id;
        let from = directory.next;
        let name = name.to_owned();
        directory.files.push(FileRecord {
            dump,
            id,
            finished: false,
            from,
            first: None,
            length: 0,
            chunks: 0,
            name,
        });
        if let Some(dump) = directory.dumps.iter_mut().find(|one| one.id == dump) {
            dump.state = State::Writing;
        }
        self.commit(&mut directory)?;
        Ok(id)
    }

    /// Takes the right to grow for a file.
    pub(super) fn grow(&self, id: u32) -> io::Result<()> {
        match self.growing.compare_exchange(0, id, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Ok(()),
            Err(_) => Err(Errno::EBUSY.into()),
        }
    }

    /// Gives it back.
    pub(super) fn grown(&self) {
        self.growing.store(0, Ordering::Release);
    }

    /// Marks a dump as recovered, durably.
    pub fn mark_recovered(&self, dump: u32) -> io::Result<()> {
        let mut directory = self.lock();
        if let Some(dump) = directory.dumps.iter_mut().find(|one| one.id == dump) {
            dump.state = State::Recovered;
        }
        self.commit(&mut directory)
    }
}

fn open(node: &Path, exclusive: bool) -> io::Result<File> {
    let open = |flags: OFlag| {
        OpenOptions::new().read(true).write(true).custom_flags((flags | OFlag::O_CLOEXEC).bits()).open(node)
    };
    // O_EXCL of a block device: the kernel itself says whether anything holds it.
    let base = if exclusive { OFlag::O_EXCL } else { OFlag::empty() };
    match open(base | OFlag::O_DIRECT) {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => open(base),
        other => other,
    }
}

/// Where chunk `n` is.
fn place(n: u64) -> io::Result<u64> {
    n.checked_add(1).and_then(|n| n.checked_mul(CHUNK)).ok_or_else(|| io::ErrorKind::FileTooLarge.into())
}

/// Direct I/O takes and gives whole blocks, but may stop between two.
fn read_whole(file: &File, at: u64, bytes: &mut [u8]) -> io::Result<()> {
    file.read_exact_at(bytes, at)
}

fn write_whole(file: &File, at: u64, bytes: &[u8]) -> io::Result<()> {
    file.write_all_at(bytes, at)
}

/// Writes a label and an empty directory, durably: what was there is gone. The first and the last MiB are made zeros, so that
/// nothing is recognised there any more. A label that was there before keeps its UUID, so that plans which name it stay true.
/// The caller has made sure that all this is wanted.
pub fn prepare(node: &Path, uuid: [u8; 16], now: u64) -> Result<Label, RawError> {
    let shown = node.display().to_string();
    let failed = |doing| {
        let node = shown.clone();
        move |source: io::Error| RawError::Io { doing, node, source }
    };
    let file = open(node, true).map_err(|e| match e.raw_os_error() {
        Some(libc::EBUSY) => RawError::Busy(shown.clone()),
        _ => RawError::Io { doing: "open", node: shown.clone(), source: e },
    })?;
    let length = (&mut &file).seek(SeekFrom::End(0)).map_err(failed("measure"))?;
    if length < Label::LEAST {
        let why = format!("it has {} MiB, and less than {} are of no use", length >> 20, Label::LEAST >> 20);
        return Err(RawError::Io { doing: "prepare", node: shown, source: io::Error::other(why) });
    }
    let mut buffer = Buffer::new(BLOCK);
    read_whole(&file, 0, buffer.part_mut(0..LABEL_LEN)).map_err(failed("read"))?;
    let before = match Label::parse(buffer.get()) {
        Found::Label(label) => Some(label),
        _ => None,
    };
    let label = Label { length, uuid: before.map_or(uuid, |label| label.uuid), prepared: now };
    // Numbers that chunks on the disk may bear are not given again.
    let mut directory = Directory::default();
    if let Some(before) = before {
        let mut both = [Buffer::new(DIRECTORY_LEN), Buffer::new(DIRECTORY_LEN)];
        for (buffer, at) in both.iter_mut().zip(DIRECTORIES) {
            read_whole(&file, at, buffer.get_mut()).map_err(failed("read"))?;
        }
        let [a, b] = &both;
        let Directory { sequence, last_dump, last_file, .. } =
            Directory::newest([a.get(), b.get()], &before).unwrap_or_default();
        directory = Directory { sequence, last_dump, last_file, ..directory };
    }
    let tail = (length / 4096 * 4096).saturating_sub(CHUNK);
    buffer.get_mut().fill(0);
    write_whole(&file, tail, buffer.get()).map_err(failed("write"))?;
    write_whole(&file, 0, buffer.get()).map_err(failed("write"))?;
    file.sync_data().map_err(failed("write"))?;
    let this = Partition {
        file,
        node: shown.clone(),
        label,
        directory: Mutex::default(),
        growing: AtomicU32::new(0),
    };
    for _ in DIRECTORIES {
        this.commit(&mut directory).map_err(failed("write"))?;
    }
    buffer.part_mut(0..LABEL_LEN).copy_from_slice(&label.to_bytes());
    write_whole(&this.file, 0, buffer.part(0..LABEL_LEN)).map_err(failed("write"))?;
    this.file.sync_data().map_err(failed("write"))?;
    Ok(label)
}

//! A file in large aligned blocks, for disks that are written past the page cache.
//!
//! The writer of a dump writes where it likes; a disk wants whole aligned blocks. Between them are a few buffers. Those that
//! are being filled stay until others need the room; one that is full is written by a thread of its own, while the next
//! is filled: what waits for the disk is that thread, not the compressor.

use crate::addr::FileOffset;
use crate::format::DumpSink;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Bytes of a buffer.
pub(super) const BLOCK: usize = 1 << 20;

/// What addresses, positions and lengths of direct I/O are multiples of: the largest block that disks have.
pub(super) const ALIGN: usize = 4096;

/// Buffers of one file: what is filled, the table of descriptors, one that is being written, and one to go on with.
pub(super) const BUFFERS: usize = 4;

/// Blocks written between two times at which everything that was filled is written too: so much is lost at most of what
/// came before, when the program is killed.
const CHECKPOINT: usize = 32;

/// Stack of the thread that writes.
const STACK: usize = 128 << 10;

/// A buffer as direct I/O wants it.
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    skip: usize,
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buffer").finish_non_exhaustive()
    }
}

impl Buffer {
    /// So many bytes of zeros.
    pub(super) fn new(len: usize) -> Self {
        let bytes = vec![0_u8; len.saturating_add(ALIGN)];
        let skip = bytes.as_ptr().align_offset(ALIGN).min(ALIGN);
        Self { bytes, skip }
    }

    /// All of it.
    pub(super) fn get(&self) -> &[u8] {
        let end = self.bytes.len().saturating_sub(ALIGN).saturating_add(self.skip);
        self.bytes.get(self.skip..end).unwrap_or_default()
    }

    /// All of it.
    pub(super) fn get_mut(&mut self) -> &mut [u8] {
        let end = self.bytes.len().saturating_sub(ALIGN).saturating_add(self.skip);
        self.bytes.get_mut(self.skip..end).unwrap_or_default()
    }

    /// A part of it, cut at its end.
    pub(super) fn part(&self, range: Range<usize>) -> &[u8] {
        let all = self.get();
        all.get(range.start.min(all.len())..range.end.min(all.len())).unwrap_or_default()
    }

    /// A part of it, cut at its end.
    pub(super) fn part_mut(&mut self, range: Range<usize>) -> &mut [u8] {
        let all = self.get_mut();
        let (start, end) = (range.start.min(all.len()), range.end.min(all.len()));
        all.get_mut(start..end).unwrap_or_default()
    }
}

/// A block of the file in a buffer.
#[derive(Debug)]
pub(super) struct Block {
    /// Its place in the file, in blocks.
    pub index: u64,
    /// [`BLOCK`] bytes, of which the first [`Disk::HEAD`] are the disk's own.
    pub buffer: Buffer,
    /// How many bytes behind the head have been written, at least up to the last one.
    pub used: usize,
    /// Which of them are not on the disk.
    pub dirty: Range<usize>,
}

/// Where blocks are kept.
pub(super) trait Disk: Send + Sync + 'static {
    /// Bytes of a buffer in front of the file's.
    const HEAD: usize;
    /// Finds room for a block that is new. An error is told before any of it is taken.
    fn allot(&self, index: u64) -> io::Result<()>;
    /// Reads a block that was written before.
    fn read(&self, block: &mut Block) -> io::Result<()>;
    /// Writes what is dirty, at least.
    fn write(&self, block: &mut Block) -> io::Result<()>;
    /// Makes everything durable; the file has so many bytes.
    fn sync(&self, len: u64) -> io::Result<()>;
}

/// A [`DumpSink`] that writes whole blocks.
pub(super) struct Blocks<D: Disk> {
    shared: Arc<Shared<D>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared<D> {
    disk: D,
    state: Mutex<State>,
    /// Something was queued, written, or is over.
    turn: Condvar,
}

#[derive(Default)]
struct State {
    /// Being filled, the one that was touched last at the end.
    open: Vec<Block>,
    queue: VecDeque<Block>,
    /// What the thread has in its hands.
    writing: Option<u64>,
    free: Vec<Buffer>,
    made: usize,
    /// Blocks that have room on the disk, a bit each.
    known: BTreeMap<u64, u64>,
    len: u64,
    since_checkpoint: usize,
    failure: Option<Failure>,
    closing: bool,
}

/// An error that can be told more than once.
#[derive(Clone, Debug)]
struct Failure {
    errno: Option<i32>,
    kind: io::ErrorKind,
    text: String,
}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Self {
        Self { errno: e.raw_os_error(), kind: e.kind(), text: e.to_string() }
    }
}

impl Failure {
    fn error(&self) -> io::Error {
        match self.errno {
            Some(errno) => io::Error::from_raw_os_error(errno),
            None => io::Error::new(self.kind, self.text.clone()),
        }
    }
}

impl State {
    fn is_known(&self, index: u64) -> bool {
        self.known.get(&(index / 64)).is_some_and(|bits| bits & (1 << (index % 64)) != 0)
    }

    fn learn(&mut self, index: u64) {
        *self.known.entry(index / 64).or_default() |= 1 << (index % 64);
    }

    fn is_under_way(&self, index: u64) -> bool {
        self.writing == Some(index) || self.queue.iter().any(|block| block.index == index)
    }

    fn check(&self) -> io::Result<()> {
        self.failure.as_ref().map_or(Ok(()), |failure| Err(failure.error()))
    }
}

impl<D: Disk> Shared<D> {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'s>(&self, state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        self.turn.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// What the thread does.
    fn serve(&self) {
        let mut state = self.lock();
        loop {
            let Some(block) = state.queue.pop_front() else {
                if state.closing {
                    return;
                }
                state = self.wait(state);
                continue;
            };
            state.writing = Some(block.index);
            drop(state);
            state = self.write_out(block);
        }
    }

    /// Writes a block and takes its buffer back.
    fn write_out(&self, mut block: Block) -> MutexGuard<'_, State> {
        let outcome = self.disk.write(&mut block);
        let mut state = self.lock();
        state.writing = None;
        state.free.push(block.buffer);
        if let Err(e) = outcome {
            state.failure.get_or_insert_with(|| e.into());
        }
        self.turn.notify_all();
        state
    }
}

impl<D: Disk> Blocks<D> {
    /// Bytes of the file in a block.
    const ROOM: usize = BLOCK - D::HEAD;

    /// A file on `disk`, empty.
    pub(super) fn new(disk: D) -> Self {
        let shared = Shared { disk, state: Mutex::default(), turn: Condvar::new() };
        Self { shared: Arc::new(shared), thread: Mutex::new(None) }
    }

    /// The disk.
    #[cfg(test)]
    pub(super) fn disk(&self) -> &D {
        &self.shared.disk
    }

    /// Starts the thread when there is first something to write.
    fn is_served(&self) -> bool {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            let shared = Arc::clone(&self.shared);
            let started = std::thread::Builder::new().stack_size(STACK).spawn(move || shared.serve());
            match started {
                Ok(handle) => *thread = Some(handle),
                // Then whoever fills a block writes it.
                Err(e) => log::debug!("no thread to write with: {e}"),
            }
        }
        thread.is_some()
    }

    /// Hands a block over to be written.
    fn submit<'s>(&'s self, mut state: MutexGuard<'s, State>, block: Block) -> MutexGuard<'s, State> {
        if block.dirty.is_empty() {
            state.free.push(block.buffer);
            return state;
        }
        if self.is_served() {
            state.queue.push_back(block);
            self.shared.turn.notify_all();
            return state;
        }
        drop(state);
        self.shared.write_out(block)
    }

    /// Sees to it that there is a buffer that nobody uses, unless somebody else takes it first. With all in use, the block
    /// that was touched longest ago gives up its own.
    fn make_room<'s>(&'s self, mut state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        if state.made < BUFFERS {
            state.made += 1;
            state.free.push(Buffer::new(BLOCK));
            return state;
        }
        let busy = !state.queue.is_empty() || state.writing.is_some();
        if state.open.is_empty() || (busy && state.open.len() < BUFFERS - 1) {
            return self.shared.wait(state);
        }
        let oldest = state.open.remove(0);
        self.submit(state, oldest)
    }

    /// The block with this index, to be filled: what of it is on the disk is in the buffer.
    fn take<'s>(
        &'s self,
        mut state: MutexGuard<'s, State>,
        index: u64,
    ) -> io::Result<(MutexGuard<'s, State>, Block)> {
        loop {
            state.check()?;
            if state.is_under_way(index) {
                state = self.shared.wait(state);
            } else if let Some(at) = state.open.iter().position(|block| block.index == index) {
                let block = state.open.remove(at);
                return Ok((state, block));
            } else if state.free.is_empty() {
                // Whoever waits has let others in: look again.
                state = self.make_room(state);
            } else {
                let known = state.is_known(index);
                if !known {
                    self.shared.disk.allot(index)?;
                    state.learn(index);
                }
                let Some(mut buffer) = state.free.pop() else { continue };
                buffer.get_mut().fill(0);
                let mut block = Block { index, buffer, used: 0, dirty: 0..0 };
                if known && let Err(e) = self.shared.disk.read(&mut block) {
                    state.free.push(block.buffer);
                    return Err(e);
                }
                return Ok((state, block));
            }
        }
    }

    /// Writes a piece that lies in one block.
    fn write_piece<'s>(
        &'s self,
        state: MutexGuard<'s, State>,
        index: u64,
        from: usize,
        piece: &[u8],
    ) -> io::Result<MutexGuard<'s, State>> {
        let (mut state, mut block) = self.take(state, index)?;
        let end = from.saturating_add(piece.len());
        let room = D::HEAD.saturating_add(from)..D::HEAD.saturating_add(end);
        let to = block.buffer.part_mut(room);
        if to.len() == piece.len() {
            to.copy_from_slice(piece);
        }
        block.used = block.used.max(end);
        block.dirty = if block.dirty.is_empty() {
            from..end
        } else {
            block.dirty.start.min(from)..block.dirty.end.max(end)
        };
        if end < Self::ROOM {
            state.open.push(block);
            return Ok(state);
        }
        // Full, as far as one can tell.
        state.since_checkpoint += 1;
        state = self.submit(state, block);
        if state.since_checkpoint >= CHECKPOINT {
            state.since_checkpoint = 0;
            state = self.submit_all(state);
        }
        Ok(state)
    }

    fn submit_all<'s>(&'s self, mut state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        while let Some(block) = state.open.pop() {
            state = self.submit(state, block);
        }
        state
    }
}

impl<D: Disk> DumpSink for Blocks<D> {
    fn write_at(&self, at: FileOffset, mut bytes: &[u8]) -> io::Result<()> {
        let room = u64::try_from(Self::ROOM).map_err(io::Error::other)?;
        let len = u64::try_from(bytes.len()).map_err(io::Error::other)?;
        let end = at.get().checked_add(len).ok_or(io::ErrorKind::FileTooLarge)?;
        if i64::try_from(end).is_err() {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let mut at = at.get();
        let mut state = self.shared.lock();
        while !bytes.is_empty() {
            let from = usize::try_from(at % room).map_err(io::Error::other)?;
            let (piece, rest) = bytes.split_at(bytes.len().min(Self::ROOM.saturating_sub(from)));
            state = self.write_piece(state, at / room, from, piece)?;
            at = at.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
            state.len = state.len.max(at);
            bytes = rest;
        }
        Ok(())
    }

    fn finish(&self) -> io::Result<()> {
        let mut state = self.submit_all(self.shared.lock());
        while !state.queue.is_empty() || state.writing.is_some() {
            state = self.shared.wait(state);
        }
        let synced = self.shared.disk.sync(state.len);
        state.check().and(synced)
    }
}

impl<D: Disk> Drop for Blocks<D> {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.turn.notify_all();
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            log::debug!("the thread that writes panicked");
        }
    }
}

/// The smallest range of whole aligned pieces around it.
pub(super) fn aligned(range: &Range<usize>) -> Range<usize> {
    range.start / ALIGN * ALIGN..range.end.div_ceil(ALIGN).saturating_mul(ALIGN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Blocks in memory, as many as `room`.
    #[derive(Default)]
    struct Memory {
        blocks: Mutex<BTreeMap<u64, Vec<u8>>>,
        room: u64,
        allotted: AtomicU64,
        /// The write that fails, from 1.
        fails_at: u64,
        writes: AtomicU64,
    }

    impl Disk for Memory {
        const HEAD: usize = 512;
        fn allot(&self, _: u64) -> io::Result<()> {
            if self.allotted.fetch_add(1, Ordering::Relaxed) >= self.room {
                return Err(io::Error::from_raw_os_error(libc::ENOSPC));
            }
            Ok(())
        }
        fn read(&self, block: &mut Block) -> io::Result<()> {
            let blocks = self.blocks.lock().unwrap();
            let bytes = &blocks[&block.index];
            block.buffer.get_mut().copy_from_slice(bytes);
            block.used = BLOCK - 512;
            Ok(())
        }
        fn write(&self, block: &mut Block) -> io::Result<()> {
            assert_eq!(block.buffer.get().as_ptr().align_offset(ALIGN), 0);
            if self.writes.fetch_add(1, Ordering::Relaxed) + 1 == self.fails_at {
                return Err(io::Error::from_raw_os_error(libc::EIO));
            }
            self.blocks.lock().unwrap().insert(block.index, block.buffer.get().to_vec());
            Ok(())
        }
        fn sync(&self, _: u64) -> io::Result<()> {
            Ok(())
        }
    }

    fn memory(room: u64, fails_at: u64) -> Blocks<Memory> {
        Blocks::new(Memory { room, fails_at, ..Memory::default() })
    }

    const ROOM: usize = BLOCK - 512;

    fn contents(sink: &Blocks<Memory>, len: usize) -> Vec<u8> {
        let mut all = vec![0; len];
        for (index, bytes) in &*sink.disk().blocks.lock().unwrap() {
            let at = usize::try_from(*index).unwrap() * ROOM;
            for (to, from) in all.iter_mut().skip(at).zip(&bytes[512..]) {
                *to = *from;
            }
        }
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn what_is_written_is_there(writes in proptest::collection::vec(
            (0..12 * ROOM, prop_oneof![1..5000_usize, 1..2 * ROOM], any::<u8>()), 1..60)
        ) {
            let sink = memory(u64::MAX, 0);
            let mut expected = vec![0; 14 * ROOM];
            for (at, len, byte) in writes {
                let bytes = vec![byte; len];
                sink.write_at(FileOffset::new(at as u64), &bytes).unwrap();
                expected[at..at + len].copy_from_slice(&bytes);
            }
            sink.finish().unwrap();
            prop_assert!(contents(&sink, expected.len()) == expected);
        }
    }

    #[test]
    fn a_full_disk_is_told_at_once_and_what_has_room_can_be_written() {
        let sink = memory(2, 0);
        sink.write_at(FileOffset::new(0), &vec![1; ROOM + 10]).unwrap();
        let error = sink.write_at(FileOffset::new(2 * ROOM as u64), b"x").unwrap_err();
        assert!(super::super::is_full(&error), "{error}");
        sink.write_at(FileOffset::new(3), b"yes").unwrap();
        sink.finish().unwrap();
        assert_eq!(&contents(&sink, 8), b"\x01\x01\x01yes\x01\x01");
    }

    #[test]
    fn a_write_that_fails_is_told_later_and_for_good() {
        let sink = memory(u64::MAX, 2);
        let block = vec![1; ROOM];
        let told = (0..64).find_map(|n| sink.write_at(FileOffset::new(n * ROOM as u64), &block).err());
        assert_eq!(told.unwrap().raw_os_error(), Some(libc::EIO));
        assert_eq!(sink.finish().unwrap_err().raw_os_error(), Some(libc::EIO));
    }

    #[test]
    fn several_threads_at_once() {
        let sink = memory(u64::MAX, 0);
        std::thread::scope(|scope| {
            for thread in 0..4_u8 {
                let sink = &sink;
                scope.spawn(move || {
                    for n in 0..40_u64 {
                        let at = (n * 4 + u64::from(thread)) * 100_000;
                        sink.write_at(FileOffset::new(at), &[thread + 1; 100_000]).unwrap();
                    }
                });
            }
        });
        sink.finish().unwrap();
        let all = contents(&sink, 16_000_000);
        assert!(all.chunks(100_000).enumerate().all(|(n, c)| c.iter().all(|b| usize::from(*b) == n % 4 + 1)));
    }

    #[test]
    fn what_was_filled_is_written_from_time_to_time() {
        let sink = memory(u64::MAX, 0);
        sink.write_at(FileOffset::new(0), b"head").unwrap();
        for n in 1..=u64::try_from(CHECKPOINT).unwrap() + 1 {
            sink.write_at(FileOffset::new(n * ROOM as u64), &vec![1; ROOM]).unwrap();
        }
        while sink.shared.lock().is_under_way(0) {
            std::thread::yield_now();
        }
        assert_eq!(&contents(&sink, 4), b"head");
    }

    #[test]
    fn a_place_past_the_end_of_the_world() {
        let sink = memory(u64::MAX, 0);
        for at in [u64::MAX - 1, u64::try_from(i64::MAX).unwrap()] {
            assert!(super::super::is_full(&sink.write_at(FileOffset::new(at), b"xyz").unwrap_err()));
        }
        sink.finish().unwrap();
    }
}

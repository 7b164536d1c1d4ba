//! Files of synthetic machines, and patches of them at places that the engine reads.

use crate::Draw;
use crate::exercise::{How, exercise, log};
use collector::addr::FileOffset;
use collector::input::Input;
use collector::vmcore::{ReadAt, Window};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// What reads a file: each reads its own places.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// Headers, notes, bitmaps.
    Open,
    /// The kernel's log, with the page tables on the way.
    Log,
    /// A dump, with mem_map.
    Dump,
}

/// Half-open stretches of a file.
type Stretches = Vec<(usize, usize)>;

/// A file, and which of its bytes matter to whom.
#[derive(Clone, Debug)]
pub struct Base {
    /// Its name.
    pub name: String,
    bytes: Arc<Vec<u8>>,
    /// Ascending stretches of the file that are read in each [`Phase`].
    touched: [Stretches; 3],
}

/// All bases.
#[derive(Clone, Debug, Default)]
pub struct Bases(Vec<Base>);

impl Base {
    /// Takes a file, and runs the engine on it to see what it reads.
    pub fn new(name: String, bytes: Vec<u8>) -> Self {
        let bytes = Arc::new(bytes);
        let mut touched = [Vec::new(), Vec::new(), Vec::new()];
        let mut seen = vec![false; bytes.len()];
        for (stretches, phase) in touched.iter_mut().zip([Phase::Open, Phase::Log, Phase::Dump]) {
            let record = Arc::new(Mutex::new(Vec::new()));
            let patched = Patched { record: Some(record.clone()), ..Patched::whole(bytes.clone()) };
            run(phase, patched);
            let mut now = vec![false; bytes.len()];
            for (from, to) in record.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                now[*from..*to].fill(true);
            }
            // Each byte belongs to who reads it first.
            now.iter_mut().zip(&mut seen).for_each(|(now, seen)| {
                *now &= !*seen;
                *seen |= *now;
            });
            let mut at = 0;
            for stretch in now.chunk_by(|a, b| a == b) {
                if stretch[0] {
                    stretches.push((at, at + stretch.len()));
                }
                at += stretch.len();
            }
        }
        Self { name, bytes, touched }
    }

    /// The file.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The file unchanged.
    pub(crate) fn plain(&self) -> Patched {
        Patched::whole(self.bytes.clone())
    }

    /// The place of the nth byte that matters to `phase`.
    fn place(&self, phase: Phase, n: usize) -> usize {
        let stretches = match phase {
            Phase::Open => &self.touched[0],
            Phase::Log => &self.touched[1],
            Phase::Dump => &self.touched[2],
        };
        let len: usize = stretches.iter().map(|(from, to)| to - from).sum();
        let mut n = n.checked_rem(len).unwrap_or(0);
        for (from, to) in stretches {
            if n < to - from {
                return from + n;
            }
            n -= to - from;
        }
        0
    }

    /// The file, changed as the rest of an input says. A patch: which phase (ignored when `only` is given) and how many
    /// bytes, where among what that phase reads, the bytes.
    pub(crate) fn patched(&self, draw: &mut Draw<'_>, only: Option<Phase>) -> Patched {
        let mut patched = self.plain();
        while !draw.0.is_empty() {
            let what = draw.byte();
            let phase = only.unwrap_or([Phase::Open, Phase::Log, Phase::Dump][usize::from(what % 3)]);
            let len = 1 + usize::from(what / 3 % 16);
            let n = usize::try_from(draw.number(3)).unwrap_or(0);
            patched.patch(self.place(phase, n), draw.bytes(len));
        }
        patched
    }
}

/// Runs what reads in a phase.
fn run(phase: Phase, source: Patched) {
    let how = How::of(&mut Draw(&[31]));
    let Ok(input) = Input::of(vec![(PathBuf::from("base"), Box::new(source))]) else { return };
    match phase {
        Phase::Open => drop(collector::engine::Engine::open(input.source())),
        Phase::Log => log(input.source()),
        Phase::Dump => exercise(input.source(), &how),
    }
}

impl Bases {
    /// The files of a directory, in the order of their names.
    pub fn read(dir: &Path) -> io::Result<Self> {
        let mut paths: Vec<PathBuf> = std::fs::read_dir(dir)?.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        let base = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Ok(Base::new(name, std::fs::read(path)?))
        };
        Ok(Self(paths.iter().map(base).collect::<io::Result<_>>()?))
    }

    /// These.
    pub fn of(bases: Vec<Base>) -> Self {
        Self(bases)
    }

    /// The one that an input's byte chooses among those whose name starts so.
    pub(crate) fn choose(&self, start: &str, byte: u8) -> Option<&Base> {
        let fitting = || self.0.iter().filter(|base| base.name.starts_with(start));
        let number = fitting().count();
        fitting().nth(usize::from(byte).checked_rem(number)?)
    }
}

/// A file with some of its bytes changed, and perhaps more at its end.
pub(crate) struct Patched {
    bytes: Arc<Vec<u8>>,
    patches: Vec<(usize, Vec<u8>)>,
    tail: Vec<u8>,
    record: Option<Arc<Mutex<Stretches>>>,
}

impl Patched {
    fn whole(bytes: Arc<Vec<u8>>) -> Self {
        Self { bytes, patches: Vec::new(), tail: Vec::new(), record: None }
    }

    /// Changes bytes; what lies outside of the file is passed over.
    pub fn patch(&mut self, at: usize, bytes: &[u8]) {
        self.patches.push((at, bytes.to_vec()));
    }

    /// Adds bytes at the end; where they start.
    pub fn append(&mut self, bytes: Vec<u8>) -> usize {
        self.tail = bytes;
        self.bytes.len()
    }

    fn range(&self, at: FileOffset, len: usize) -> io::Result<(usize, usize)> {
        let from = usize::try_from(at.get()).map_err(io::Error::other)?;
        let end = from.checked_add(len).filter(|end| *end as u64 <= self.size());
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        if let Some(record) = &self.record {
            let mut record = record.lock().unwrap_or_else(PoisonError::into_inner);
            record.push((from.min(self.bytes.len()), end.min(self.bytes.len())));
        }
        Ok((from, end))
    }

    fn copy(&self, from: usize, buf: &mut [u8]) {
        let mut put = |at: usize, bytes: &[u8]| {
            let (start, end) = (at.max(from), (at + bytes.len()).min(from + buf.len()));
            if start < end {
                buf[start - from..end - from].copy_from_slice(&bytes[start - at..end - at]);
            }
        };
        put(0, &self.bytes);
        put(self.bytes.len(), &self.tail);
        for (at, bytes) in &self.patches {
            put(*at, bytes);
        }
    }
}

impl ReadAt for Patched {
    fn size(&self) -> u64 {
        (self.bytes.len() + self.tail.len()) as u64
    }
    fn read_at(&self, at: FileOffset, buf: &mut [u8]) -> io::Result<()> {
        let (from, _) = self.range(at, buf.len())?;
        self.copy(from, buf);
        Ok(())
    }
    fn window(&self, at: FileOffset, len: usize) -> io::Result<Window<'_>> {
        let (from, end) = self.range(at, len)?;
        let clean = |(at, bytes): &(usize, Vec<u8>)| *at >= end || at + bytes.len() <= from;
        match self.bytes.get(from..end) {
            Some(bytes) if self.patches.iter().all(clean) => Ok(Box::new(bytes)),
            _ => {
                let mut bytes = vec![0; len];
                self.copy(from, &mut bytes);
                Ok(Box::new(bytes))
            }
        }
    }
    fn window_len(&self) -> usize {
        256 << 10
    }
}

//! The files that are written, under the names that were asked for: scripts look at them meanwhile.

use super::Failure;
use super::options::{Options, To};
use crate::addr::FileOffset;
use crate::format::DumpSink;
use crate::target::file::WriteAhead;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How the end of the work calls where it went.
pub(super) fn name(to: &To) -> String {
    match to.files() {
        [] => "STDOUT".to_owned(),
        [one] => one.display().to_string(),
        [first @ .., last] => {
            let first: Vec<_> = first.iter().map(|path| path.display().to_string()).collect();
            format!("{}, and {}", first.join(", "), last.display())
        }
    }
}

/// Refuses before any work what could not be written after it.
pub(super) fn check(options: &Options, to: &To) -> Result<(), Failure> {
    for path in to.files() {
        if !options.force && path.symlink_metadata().is_ok() {
            return Err(exists(path));
        }
    }
    Ok(())
}

fn exists(path: &Path) -> Failure {
    Failure::new(format!("Can't open the dump file ({}). File exists: -f overwrites it.", path.display()))
}

/// A file that is written.
#[derive(Debug)]
pub(super) struct File {
    file: std::fs::File,
    ahead: WriteAhead,
    path: PathBuf,
    limit: Option<u64>,
    /// It was not there before.
    created: bool,
    /// Bytes up to the last that was written.
    end: AtomicU64,
    /// It has no room for more.
    full: AtomicBool,
}

impl File {
    /// Creates it, or with `-f` empties what is there: a file, a device, or what a link leads to.
    pub fn create(path: &Path, options: &Options) -> Result<Self, Failure> {
        let created = path.symlink_metadata().is_err();
        let mut how = OpenOptions::new();
        how.write(true).mode(0o600);
        if options.force {
            how.create(true).truncate(true);
        } else {
            how.create_new(true);
        }
        let file = how.open(path).map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => exists(path),
            _ => Failure::new(format!("Can't open the dump file({}). {e}", path.display())),
        })?;
        let limit = options.limit;
        let (end, full) = (AtomicU64::new(0), AtomicBool::new(false));
        let ahead = WriteAhead::default();
        Ok(Self { file, ahead, path: path.to_owned(), limit, created, end, full })
    }

    /// Bytes up to the last that was written.
    pub fn written(&self) -> u64 {
        self.end.load(Ordering::Relaxed)
    }

    /// Why there is no room for more, in the words of the end of the work.
    pub fn full(&self) -> Option<String> {
        let why = || match self.limit {
            Some(limit) if self.written() >= limit => format!("Size limit({limit}) reached."),
            _ => "No space left on device".to_owned(),
        };
        let path = self.path.display();
        self.full.load(Ordering::Relaxed).then(|| format!("Can't write the dump file({path}). {}", why()))
    }

    /// Empties it for another try.
    pub fn restart(&self) -> Result<(), Failure> {
        self.end.store(0, Ordering::Relaxed);
        self.full.store(false, Ordering::Relaxed);
        // A device cannot be cut, and need not be.
        match self.file.set_len(0) {
            Err(e) if self.file.metadata().is_ok_and(|m| m.is_file()) => {
                Err(Failure::new(format!("Can't truncate the dump file({}). {e}", self.path.display())))
            }
            _ => Ok(()),
        }
    }

    /// Takes back a file in which nothing is, after `failure`.
    pub fn failed(self, failure: Failure) -> Failure {
        if self.created && self.written() == 0 {
            // Left behind it would only stand in the way of the next attempt.
            drop(std::fs::remove_file(&self.path));
        }
        failure
    }

    /// Makes it durable.
    pub fn sync(&self) -> io::Result<()> {
        match self.file.sync_all() {
            // Not everything that is written can be: /dev/null.
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => Ok(()),
            other => other,
        }
    }

    fn no_room(&self, kind: io::ErrorKind) -> io::Error {
        self.full.store(true, Ordering::Relaxed);
        kind.into()
    }
}

impl DumpSink for File {
    fn write_at(&self, at: FileOffset, bytes: &[u8]) -> io::Result<()> {
        let end = at.checked_add(bytes.len() as u64).ok_or(io::ErrorKind::FileTooLarge)?.get();
        let room = self.limit.map_or(u64::MAX, |limit| limit.saturating_sub(at.get()));
        let fits = usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len());
        match self.file.write_all_at(bytes.get(..fits).unwrap_or_default(), at.get()) {
            Ok(()) => {}
            Err(e) => {
                return Err(match e.kind() {
                    kind @ (io::ErrorKind::StorageFull
                    | io::ErrorKind::QuotaExceeded
                    | io::ErrorKind::FileTooLarge) => self.no_room(kind),
                    _ => e,
                });
            }
        }
        self.ahead.wrote(&self.file, at.get()..end.min(at.get().saturating_add(fits as u64)));
        self.end.fetch_max(self.limit.map_or(end, |limit| limit.min(end)), Ordering::Relaxed);
        if fits < bytes.len() { Err(self.no_room(io::ErrorKind::StorageFull)) } else { Ok(()) }
    }

    fn finish(&self) -> io::Result<()> {
        self.sync()
    }
}

/// For logs, which come from front to back.
impl io::Write for &File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_at(FileOffset::new(self.written()), bytes)?;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

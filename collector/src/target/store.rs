//! A dump's directory, whatever it lies on.
//!
//! [`Access`] is a target that was reached: plain data, so that PID 1 can hand it from one child to the next. A [`Store`] is
//! the directory of one crash there.

use super::TargetError;
use super::direct;
use super::directory::DumpDirectory;
use super::file::FileSink;
use super::raw::RawDump;
use super::remote::Remote;
use crate::addr::FileOffset;
use crate::format::DumpSink;
use crate::plan::storage::Stack;
use crate::problem::Code;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::rc::Rc;

/// The directory of one crash. Its files are mode 0600, and no name in it is followed anywhere else.
pub trait Store {
    /// Where it is on the target, for people and for [`Access::open`].
    fn path(&self) -> &str;
    /// Makes a file; it must not exist.
    fn create<'s>(&'s self, name: &str) -> Result<Box<dyn DumpSink + 's>, TargetError>;
    /// Makes the file if it is not there, and gives it these bytes in place of what it had, durably. Room that it has
    /// already is used first, so that this works on a target that is full.
    fn overwrite(&self, name: &str, bytes: &[u8]) -> Result<(), TargetError>;
    /// Makes durable what somebody else has written; how many bytes that is.
    fn settle(&self, name: &str) -> Result<u64, TargetError>;
    /// Renames a file; what bears the new name is replaced. Durable after [`Store::sync`].
    fn rename(&self, from: &str, to: &str) -> Result<(), TargetError>;
    /// Removes a file.
    fn remove(&self, name: &str) -> Result<(), TargetError>;
    /// Makes names that were created, changed and removed durable.
    fn sync(&self) -> Result<(), TargetError>;
    /// Bytes that can still be written, where the target tells.
    fn free(&self) -> Option<u64> {
        None
    }
    /// Whether a dump is written in place. Where it is not it is flattened, and its file should be called so:
    /// [`super::ssh::FLAT`].
    fn seekable(&self) -> bool {
        true
    }
    /// What the target lacked, for the manifest.
    fn notes(&self) -> Vec<(Code, String)> {
        Vec::new()
    }
}

impl Store for DumpDirectory {
    fn path(&self) -> &str {
        DumpDirectory::path(self)
    }

    fn create<'s>(&'s self, name: &str) -> Result<Box<dyn DumpSink + 's>, TargetError> {
        Ok(direct::sink(self.create_file(name)?).unwrap_or_else(|file| Box::new(FileSink::on(file))))
    }

    fn overwrite(&self, name: &str, bytes: &[u8]) -> Result<(), TargetError> {
        let file = match self.open_file(name) {
            Err(e) if e.source.kind() == io::ErrorKind::NotFound => self.create_file(name),
            there => there,
        }?;
        let len = u64::try_from(bytes.len()).unwrap_or(0);
        // Only then cut: no new room is asked for.
        let written =
            file.write_all_at(bytes, 0).and_then(|()| file.set_len(len)).and_then(|()| file.sync_all());
        written.map_err(|e| TargetError::new("write", name, e))
    }

    fn settle(&self, name: &str) -> Result<u64, TargetError> {
        let file: File = self.open_file(name)?;
        let len = file.sync_all().and_then(|()| file.metadata()).map(|meta| meta.len());
        len.map_err(|e| TargetError::new("sync", name, e))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), TargetError> {
        DumpDirectory::rename(self, from, to)
    }

    fn remove(&self, name: &str) -> Result<(), TargetError> {
        DumpDirectory::remove(self, name)
    }

    fn sync(&self) -> Result<(), TargetError> {
        DumpDirectory::sync(self)
    }

    fn free(&self) -> Option<u64> {
        DumpDirectory::free(self)
    }
}

/// A target that was reached.
#[derive(Clone, Debug)]
pub enum Access {
    /// A file system that is mounted.
    Mounted {
        /// Where.
        root: PathBuf,
        /// The directory of all dumps, below the root of that file system.
        directory: String,
        /// What its device was put together from.
        stack: Option<Stack>,
    },
    /// A server.
    Remote(Rc<Remote>),
    /// A partition that was prepared for raw dumps: its device node.
    Raw(PathBuf),
}

impl Access {
    /// Makes the directory of a crash. If `name` is taken, another is found.
    pub fn create(&self, name: &str) -> Result<Box<dyn Store>, TargetError> {
        match self {
            Self::Mounted { root, directory, .. } => {
                Ok(Box::new(DumpDirectory::create(root, directory, name)?))
            }
            Self::Remote(remote) => Ok(Box::new(remote.create(name)?)),
            Self::Raw(node) => Ok(Box::new(RawDump::create(node, name)?)),
        }
    }

    /// Opens what [`Access::create`] made, by its [`Store::path`].
    pub fn open(&self, path: &str) -> Result<Box<dyn Store>, TargetError> {
        match self {
            Self::Mounted { root, .. } => Ok(Box::new(DumpDirectory::open(root, path)?)),
            Self::Remote(remote) => Ok(Box::new(remote.open_directory(path)?)),
            Self::Raw(node) => Ok(Box::new(RawDump::open(node, path)?)),
        }
    }

    /// Lets go of it: everything that was written is durable after.
    pub fn release(&self) -> Result<(), TargetError> {
        match self {
            Self::Mounted { root, stack, .. } => {
                let unmounted = super::local::unmount(root);
                if let Some(stack) = stack {
                    crate::storage::dismantle(stack);
                }
                unmounted
            }
            // What was written is durable already, and PID 1 itself ends the client.
            // So is what is on a raw partition: each change of its directory is.
            Self::Remote(_) | Self::Raw(_) => Ok(()),
        }
    }
}

impl Access {
    /// Lets go of it although it does not answer: what is not durable is lost.
    pub fn abandon(&self) -> Result<(), TargetError> {
        match self {
            Self::Mounted { root, .. } => super::share::abandon(root),
            Self::Remote(_) | Self::Raw(_) => Ok(()),
        }
    }
}

/// Writes a sink from front to back.
pub struct InOrder<'s> {
    sink: &'s dyn DumpSink,
    at: u64,
}

impl std::fmt::Debug for InOrder<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InOrder").field("at", &self.at).finish_non_exhaustive()
    }
}

impl<'s> InOrder<'s> {
    /// From the start.
    pub fn new(sink: &'s dyn DumpSink) -> Self {
        Self { sink, at: 0 }
    }
}

impl Write for InOrder<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sink.write_at(FileOffset::new(self.at), bytes)?;
        let len = u64::try_from(bytes.len()).map_err(io::Error::other)?;
        self.at = self.at.checked_add(len).ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

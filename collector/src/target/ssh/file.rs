//! A dump in a file of the server, written by sftp in any order.

use super::failure::SshError;
use super::packet::status;
use super::session::{Session, Written};
use crate::addr::FileOffset;
use crate::format::DumpSink;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes after which the server is asked to write back what it has: at the end there is then not so much left to be
/// written that it looks like a server that stands still.
const SYNC_EVERY: u64 = 256 << 20;

/// Less room than this, and a write that failed without a reason failed for want of it.
const NO_ROOM: u64 = 1 << 20;

/// A [`DumpSink`] on a new file of the server. Writes are sent and not waited for: a failure is told by a later call, by
/// [`DumpSink::finish`] at the latest.
#[derive(Debug)]
pub struct RemoteFile {
    session: Arc<Session>,
    handle: Vec<u8>,
    directory: String,
    written: Arc<Written>,
    /// Bytes since the server was last asked to write back.
    unsynced: AtomicU64,
    open: bool,
}

impl RemoteFile {
    /// Makes the file `name` in `directory`, mode 0600. With `new` it must not exist; else it is written over.
    pub(super) fn create(
        session: &Arc<Session>,
        directory: &str,
        name: &str,
        new: bool,
    ) -> Result<Self, SshError> {
        let handle = session.create(&format!("{directory}/{name}"), new)?;
        Ok(Self {
            session: Arc::clone(session),
            handle,
            directory: directory.to_owned(),
            written: Arc::default(),
            unsynced: AtomicU64::new(0),
            open: true,
        })
    }

    /// Cuts it to so many bytes.
    pub(super) fn truncate(&self, size: u64) -> Result<(), SshError> {
        self.session.truncate(&self.handle, size)
    }

    /// Waits for all writes and makes them durable, as far as the server can.
    pub(super) fn sync(&self) -> Result<(), SshError> {
        let settled = self.session.settle(&self.written);
        settled.and_then(|()| self.session.sync(&self.handle).map(drop)).map_err(|e| self.reason(e))
    }

    /// Closes it; dropping it does so too, but does not tell.
    pub(super) fn close(mut self) -> Result<(), SshError> {
        self.open = false;
        self.session.close(&self.handle)
    }

    /// SFTP has no status for a full disk.
    fn reason(&self, error: SshError) -> SshError {
        match &error {
            SshError::Refused { code: status::FAILURE, .. } => match self.session.space(&self.directory) {
                Ok(Some(space)) if space.free < NO_ROOM => SshError::Full,
                _ => error,
            },
            _ => error,
        }
    }
}

impl DumpSink for RemoteFile {
    fn write_at(&self, at: FileOffset, bytes: &[u8]) -> io::Result<()> {
        if let Some(failure) = self.written.failure() {
            return Err(self.reason(failure).into());
        }
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let end = at.get().checked_add(len);
        // A file's size is signed on the server.
        if end.is_none_or(|end| i64::try_from(end).is_err()) {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let sent = self.session.write(&self.handle, at.get(), bytes, &self.written);
        sent.and_then(|()| {
            if self.unsynced.fetch_add(len, Ordering::Relaxed).saturating_add(len) < SYNC_EVERY {
                return Ok(());
            }
            self.unsynced.store(0, Ordering::Relaxed);
            self.session.sync_on_the_way(&self.handle, &self.written)
        })
        .map_err(|e| self.reason(e).into())
    }

    fn finish(&self) -> io::Result<()> {
        self.sync().map_err(Into::into)
    }
}

impl Drop for RemoteFile {
    fn drop(&mut self) {
        if self.open
            && let Err(e) = self.session.settle(&self.written).and_then(|()| self.session.close(&self.handle))
        {
            log::debug!("closing a file of {}: {e}", self.directory);
        }
    }
}

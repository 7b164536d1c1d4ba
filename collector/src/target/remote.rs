//! An SSH server that was reached, as PID 1 holds it for its children.

use super::TargetError;
use super::ssh::{Connection, Patience, SshDirectory, SshError, Way};
use super::store::Store;
use crate::format::DumpSink;
use crate::plan::ssh::SshTarget;
use std::cell::{Cell, RefCell};
use std::io;

/// A connection that children talk over, one after the other.
#[derive(Debug)]
pub struct Remote {
    target: SshTarget,
    patience: Patience,
    connection: RefCell<Option<Connection>>,
    /// How files are written, once the server has answered.
    way: Cell<Option<Way>>,
}

impl Remote {
    /// Starts the client, and waits for nothing.
    pub fn open(target: &SshTarget, patience: Patience) -> Result<Self, SshError> {
        let connection = Connection::open(target, patience)?;
        Ok(Self {
            target: target.clone(),
            patience,
            connection: RefCell::new(Some(connection)),
            way: Cell::new(None),
        })
    }

    /// For a child: waits until the server answers.
    pub fn greet(&self) -> Result<Way, SshError> {
        match &*self.connection.borrow() {
            Some(connection) => connection.greet(),
            None => Err(SshError::Lost("the client could not be started again".to_owned())),
        }
    }

    /// For PID 1: a child has heard the server.
    pub fn answered(&self, way: Way) {
        self.way.set(Some(way));
    }

    /// For PID 1: a child ended in the middle of a message, or of nobody knows what. The next one gets a new connection.
    pub fn renew(&self) {
        self.end();
        match Connection::open(&self.target, self.patience) {
            Ok(connection) => {
                self.connection.replace(Some(connection));
            }
            Err(e) => log::warn!("{}: {e}", self.target),
        }
    }

    /// For PID 1: ends the client.
    pub fn end(&self) {
        self.way.set(None);
        if let Some(connection) = self.connection.take() {
            connection.end();
        }
    }

    /// For a child: makes the dump's directory.
    pub fn create(&self, name: &str) -> Result<SshDirectory, TargetError> {
        self.with(|connection, way| connection.create_directory(way, name))
    }

    /// For a child: opens it.
    pub fn open_directory(&self, path: &str) -> Result<SshDirectory, TargetError> {
        self.with(|connection, way| connection.open_directory(way, path))
    }

    fn with<T>(
        &self,
        work: impl FnOnce(&Connection, Way) -> Result<T, TargetError>,
    ) -> Result<T, TargetError> {
        let failed =
            |e: SshError| TargetError::new("go on with", self.target.to_string(), io::Error::from(e));
        let way = match self.way.get() {
            Some(way) => way,
            None => self.greet().map_err(failed)?,
        };
        match &*self.connection.borrow() {
            Some(connection) => work(connection, way),
            None => Err(TargetError::new(
                "go on with",
                self.target.to_string(),
                io::Error::from(io::ErrorKind::NotConnected),
            )),
        }
    }
}

impl Store for SshDirectory {
    fn path(&self) -> &str {
        SshDirectory::path(self)
    }
    fn create<'s>(&'s self, name: &str) -> Result<Box<dyn DumpSink + 's>, TargetError> {
        self.create_file(name)
    }
    fn overwrite(&self, name: &str, bytes: &[u8]) -> Result<(), TargetError> {
        self.put(name, bytes)
    }
    fn settle(&self, name: &str) -> Result<u64, TargetError> {
        // What is there is with the server; how much that is, only the one who wrote it knows.
        Err(TargetError::new("measure", name, io::Error::from(io::ErrorKind::Unsupported)))
    }
    fn rename(&self, from: &str, to: &str) -> Result<(), TargetError> {
        SshDirectory::rename(self, from, to)
    }
    fn remove(&self, name: &str) -> Result<(), TargetError> {
        SshDirectory::remove(self, name)
    }
    fn sync(&self) -> Result<(), TargetError> {
        SshDirectory::sync(self)
    }
    fn free(&self) -> Option<u64> {
        match self.free_space() {
            Ok(free) => free,
            Err(e) => {
                log::warn!("{}", crate::engine::chain(&e));
                None
            }
        }
    }
    fn seekable(&self) -> bool {
        SshDirectory::seekable(self)
    }
    fn notes(&self) -> Vec<(crate::problem::Code, String)> {
        SshDirectory::notes(self)
    }
}

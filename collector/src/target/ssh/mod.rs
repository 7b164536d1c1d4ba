//! A directory on an SSH server, reached by the OpenSSH client that is packed into the image.
//!
//! ```text
//!             plan::ssh::SshTarget
//!                      |
//!   RemoteFile, SshDirectory ---- FlatFile          what is written: in place, or flattened
//!                |                    |
//!             Session               Shell           SFTP 3 with many requests under way; or commands
//!                |                    |
//!              packet                 |
//!                +------ client ------+             ssh(1) and three pipes to it
//! ```
//!
//! Cryptography, keys and the server's identity are OpenSSH's business; ours is SFTP, which OpenSSH's own `sftp` speaks
//! only for people. [`Connection`] is what PID 1 holds: it starts and ends the client, and its children, which inherit
//! the pipes, talk. One of them may go on where another ended, if that one ended in peace.
//!
//! Words: *client*, the program ssh; *session*, a conversation in SFTP with the server's subsystem; *way*, how files are
//! written: by sftp, or by the shell of a server that has none.
//!
//! Every byte from the server is hostile: a length is checked before it is used, an answer that nobody asked for ends the
//! conversation, and nothing waits for longer than [`Patience`] says.

mod client;
mod directory;
mod failure;
mod file;
mod packet;
mod session;
mod shell;

pub use client::{Client, Patience};
pub use directory::SshDirectory;
pub use failure::SshError;
pub use file::RemoteFile;
pub use session::{Session, Space};
pub use shell::FlatFile;

use super::TargetError;
use crate::plan::ssh::SshTarget;
use client::Task;
use serde::{Deserialize, Serialize};
use shell::Shell;
use std::sync::Arc;

/// What the name of a flattened dump ends with, as kdump's tools have it; `makedumpfile -R` and `vmcore-collect -R`
/// make the dump of it.
pub const FLAT: &str = ".flat";

/// How files are written on a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// By sftp: in place, over one connection.
    Sftp,
    /// By commands of a shell: flattened, over one connection a file.
    Shell,
}

/// A connection, held by the process that outlives those that talk over it.
#[derive(Debug)]
pub struct Connection {
    target: SshTarget,
    patience: Patience,
    client: Client,
}

impl Connection {
    /// Starts the client and returns at once: whether the server answers, [`Connection::greet`] tells.
    pub fn open(target: &SshTarget, patience: Patience) -> Result<Self, SshError> {
        let client = Client::start(target, patience, Task::Sftp)?;
        Ok(Self { target: target.clone(), patience, client })
    }

    /// Waits for the server and its sftp. Returns the way, to be passed on to whoever makes or opens a directory. To be
    /// called once, in any process that has inherited the connection.
    pub fn greet(&self) -> Result<Way, SshError> {
        match Session::connect(&self.client, self.patience) {
            Ok(_) => Ok(Way::Sftp),
            // A login shell that greets people greets sftp too, and nobody understands that.
            Err(SshError::NoSftp(_) | SshError::Protocol(_)) => Ok(Way::Shell),
            Err(e) => Err(e),
        }
    }

    /// Makes the dump's directory `name`.
    pub fn create_directory(&self, way: Way, name: &str) -> Result<SshDirectory, TargetError> {
        let base = &self.target.directory;
        match way {
            Way::Sftp => SshDirectory::create(self.session()?, base, name),
            Way::Shell => SshDirectory::create_by_shell(self.shell(), base, name),
        }
    }

    /// Opens a directory that was made, by its path on the server.
    pub fn open_directory(&self, way: Way, path: &str) -> Result<SshDirectory, TargetError> {
        match way {
            Way::Sftp => SshDirectory::open(self.session()?, path),
            Way::Shell => Ok(SshDirectory::open_by_shell(self.shell(), path)),
        }
    }

    /// Ends the client. A new connection is needed after a process that talked was killed: nobody knows in the middle of
    /// which message.
    pub fn end(self) {
        self.client.end();
    }

    fn session(&self) -> Result<Arc<Session>, TargetError> {
        let session = Session::resume(&self.client, self.patience);
        let failed = |e| TargetError::new("go on with", self.target.to_string(), std::io::Error::from(e));
        session.map(Arc::new).map_err(failed)
    }

    fn shell(&self) -> Shell {
        Shell { target: self.target.clone(), patience: self.patience }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a played server lives as long as its end of the connection")]
mod tests;

//! The dump's directory on a server.

use super::failure::SshError;
use super::file::RemoteFile;
use super::session::Session;
use super::shell::{FlatFile, Shell};
use crate::format::DumpSink;
use crate::problem::Code;
use crate::target::TargetError;
use std::sync::Arc;

/// How many dumps may bear the same name before one gives up, as on local targets.
const MOST: u32 = 999;

/// Permission bits of a directory in st_mode.
const S_IFMT: u32 = 0o17_0000;
const S_IFDIR: u32 = 0o4_0000;

/// The dump's directory on a server, made anew for each crash.
#[derive(Debug)]
pub struct SshDirectory {
    way: Way,
    path: String,
}

#[derive(Debug)]
enum Way {
    Sftp(Arc<Session>),
    Shell(Box<Shell>),
}

impl SshDirectory {
    /// Makes a new directory `name` below `base` by sftp. If it exists, `-2`, `-3`, … is appended. Components of `base`
    /// that are missing are made, mode 0700.
    pub fn create(session: Arc<Session>, base: &str, name: &str) -> Result<Self, TargetError> {
        let base = make_all(&session, base)?;
        for n in 1..=MOST {
            let name = if n == 1 { name.to_owned() } else { format!("{name}-{n}") };
            let path = format!("{}/{name}", base.trim_end_matches('/'));
            match session.mkdir(&path) {
                Ok(()) => {
                    session.sync_directory(&base).map_err(|e| failed("sync the directory", &base, e))?;
                    return Ok(Self { way: Way::Sftp(session), path });
                }
                // SFTP 3 has no status for what exists.
                Err(e) => match session.mode(&path, false) {
                    Ok(Some(_)) => {}
                    _ => return Err(failed("create the directory", &path, e)),
                },
            }
        }
        let full = SshError::Refused { code: 4, message: format!("{MOST} of that name exist") };
        Err(failed("create the directory", &format!("{base}/{name}"), full))
    }

    /// What [`SshDirectory::create`] made, `path` being [`SshDirectory::path`].
    pub fn open(session: Arc<Session>, path: &str) -> Result<Self, TargetError> {
        is_directory(&session, path)?;
        Ok(Self { way: Way::Sftp(session), path: path.to_owned() })
    }

    pub(super) fn create_by_shell(shell: Shell, base: &str, name: &str) -> Result<Self, TargetError> {
        let path = shell
            .create_directory(base, name, MOST)
            .map_err(|e| failed("create the directory", &format!("{base}/{name}"), e))?;
        Ok(Self { way: Way::Shell(Box::new(shell)), path })
    }

    pub(super) fn open_by_shell(shell: Shell, path: &str) -> Self {
        Self { way: Way::Shell(Box::new(shell)), path: path.to_owned() }
    }

    /// Its path on the server.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether a dump in it is written in place. Where it is not, [`SshDirectory::create_file`] flattens, and the file
    /// should be called so: [`super::FLAT`].
    pub fn seekable(&self) -> bool {
        matches!(self.way, Way::Sftp(_))
    }

    /// A new file, mode 0600, for a dump.
    pub fn create_file(&self, name: &str) -> Result<Box<dyn DumpSink>, TargetError> {
        let failed = |e| failed("create", &self.path_of(name), e);
        Ok(match &self.way {
            Way::Sftp(session) => {
                Box::new(RemoteFile::create(session, &self.path, name, true).map_err(failed)?)
            }
            Way::Shell(shell) => Box::new(FlatFile::new(shell.create(&self.path_of(name)).map_err(failed)?)),
        })
    }

    /// Writes a whole small file, durably; one that is there is written over, so that room which it has is kept.
    pub fn put(&self, name: &str, bytes: &[u8]) -> Result<(), TargetError> {
        let failed = |e| failed("write", &self.path_of(name), e);
        let session = match &self.way {
            Way::Sftp(session) => session,
            Way::Shell(shell) => return shell.put(&self.path_of(name), bytes).map_err(failed),
        };
        let file = RemoteFile::create(session, &self.path, name, false).map_err(failed)?;
        file.write_at(crate::addr::FileOffset::new(0), bytes)
            .map_err(|e| TargetError::new("write", self.path_of(name), e))?;
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        file.sync().and_then(|()| file.truncate(size)).and_then(|()| file.sync()).map_err(failed)?;
        file.close().map_err(failed)
    }

    /// Renames a file; what bears the new name is replaced.
    pub fn rename(&self, from: &str, to: &str) -> Result<(), TargetError> {
        let (from, to) = (self.path_of(from), self.path_of(to));
        match &self.way {
            Way::Sftp(session) => session.rename(&from, &to),
            Way::Shell(shell) => shell.rename(&from, &to),
        }
        .map_err(|e| failed("rename", &from, e))
    }

    /// Removes a file.
    pub fn remove(&self, name: &str) -> Result<(), TargetError> {
        let path = self.path_of(name);
        match &self.way {
            Way::Sftp(session) => session.remove(&path),
            Way::Shell(shell) => shell.remove(&path),
        }
        .map_err(|e| failed("remove", &path, e))
    }

    /// Removes the directory itself, which must be empty.
    pub fn remove_self(self) -> Result<(), TargetError> {
        match &self.way {
            Way::Sftp(session) => session.rmdir(&self.path),
            Way::Shell(shell) => shell.remove_directory(&self.path),
        }
        .map_err(|e| failed("remove", &self.path, e))
    }

    /// Makes names that were created, changed and removed durable, as far as the server can.
    pub fn sync(&self) -> Result<(), TargetError> {
        match &self.way {
            Way::Sftp(session) => session.sync_directory(&self.path),
            Way::Shell(shell) => shell.sync(&self.path),
        }
        .map_err(|e| failed("sync the directory", &self.path, e))
    }

    /// Bytes that are free for a dump; `None` where the server does not tell. A file system that cannot be written to is
    /// an error.
    pub fn free_space(&self) -> Result<Option<u64>, TargetError> {
        let failed = |e| failed("look at the space of", &self.path, e);
        match &self.way {
            Way::Shell(shell) => shell.space(&self.path).map_err(failed),
            Way::Sftp(session) => match session.space(&self.path).map_err(failed)? {
                Some(space) if space.read_only => Err(TargetError::new(
                    "write to",
                    self.path.as_str(),
                    std::io::Error::from(std::io::ErrorKind::ReadOnlyFilesystem),
                )),
                space => Ok(space.map(|s| s.free)),
            },
        }
    }

    /// What the server lacked, for the manifest. Once each.
    pub fn notes(&self) -> Vec<(Code, String)> {
        match &self.way {
            Way::Sftp(session) => session.notes(),
            Way::Shell(_) => vec![(
                Code::SSH_NO_SFTP,
                "the server has no sftp: dumps are flattened, see makedumpfile -R".to_owned(),
            )],
        }
    }

    fn path_of(&self, name: &str) -> String {
        format!("{}/{name}", self.path)
    }
}

fn failed(doing: &'static str, what: &str, error: SshError) -> TargetError {
    TargetError::new(doing, what, std::io::Error::from(error))
}

fn is_directory(session: &Session, path: &str) -> Result<(), TargetError> {
    match session.mode(path, true).map_err(|e| failed("look at", path, e))? {
        Some(mode) if mode & S_IFMT == S_IFDIR => Ok(()),
        Some(_) => Err(TargetError::new("open the directory", path, nix::errno::Errno::ENOTDIR)),
        None => Err(TargetError::new("open the directory", path, nix::errno::Errno::ENOENT)),
    }
}

/// Makes `directory` and what is missing above it, from the top down. Returns its normal form.
fn make_all(session: &Session, directory: &str) -> Result<String, TargetError> {
    let mut path = String::new();
    let mut missing = false;
    for part in directory.split('/').filter(|part| !part.is_empty() && *part != ".") {
        if part == ".." {
            return Err(TargetError::new("go up in", directory, nix::errno::Errno::EINVAL));
        }
        let parent = if path.is_empty() { "/".to_owned() } else { path.clone() };
        path.push('/');
        path.push_str(part);
        if !missing {
            match session.mode(&path, true) {
                Ok(Some(mode)) if mode & S_IFMT == S_IFDIR => continue,
                Ok(Some(_)) => {
                    return Err(TargetError::new("open the directory", path, nix::errno::Errno::ENOTDIR));
                }
                Ok(None) => missing = true,
                Err(e) => return Err(failed("look at", &path, e)),
            }
        }
        match session.mkdir(&path) {
            Ok(()) => {
                session.sync_directory(&parent).map_err(|e| failed("sync the directory", &parent, e))?;
            }
            Err(e) => return Err(failed("create the directory", &path, e)),
        }
    }
    Ok(if path.is_empty() { "/".to_owned() } else { path })
}

//! A conversation in SFTP: many requests under way, their answers in any order, nothing that waits for ever.
//!
//! Whoever has something to send also reads what has come. There is no thread of its own: the crash kernel has one CPU,
//! and what is sent goes from where it lies straight into the pipe.

use super::client::{Client, Link, Out, Patience};
use super::failure::SshError;
use super::packet::{self, Answer, Fields, Request, kind, open, status};
use crate::problem::Code;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Writes that wait for their answer at most. Their data is not kept: the client has it, and its own window is 2 MiB.
const WINDOW: usize = 64;

/// Data of a write where the server does not say: what every server takes (draft, "General Packet Format").
const PLAIN_WRITE: usize = 32 << 10;

/// The most that is asked of a server that takes more: the limit of OpenSSH's.
const LARGEST_WRITE: usize = 255 << 10;

/// How much longer the client is waited for than it waits for the server.
const MARGIN: Duration = Duration::from_secs(2);

/// Answers to somebody who is gone, that a resumed conversation passes over.
const STALE: usize = 4 * WINDOW;

/// What is known of the writes to one file.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// Writes without an answer yet. Changed under the lock of the wire only.
    pending: AtomicU64,
    /// The first that failed.
    failure: Mutex<Option<SshError>>,
}

impl Written {
    /// The first failure there was.
    pub fn failure(&self) -> Option<SshError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn fail(&self, error: SshError) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }
}

/// Who waits for an answer.
#[derive(Debug)]
enum Waiting {
    Write(Arc<Written>),
    /// An fsync under way, which some servers do not know.
    Sync(Arc<Written>),
    Somebody,
}

#[derive(Debug)]
struct Wire {
    link: Link,
    inbox: Vec<u8>,
    waiting: BTreeMap<u32, Waiting>,
    answers: BTreeMap<u32, Answer>,
    next: u32,
    /// Answers that may come to nobody.
    stale: usize,
    /// Once something is out of step nothing more is said.
    broken: Option<SshError>,
}

/// A conversation with the server's sftp.
#[derive(Debug)]
pub struct Session {
    wire: Mutex<Wire>,
    largest: usize,
    notes: Mutex<Vec<(Code, String)>>,
}

/// Room on a file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Space {
    /// Bytes that are free for us.
    pub free: u64,
    /// It cannot be written to.
    pub read_only: bool,
}

impl Session {
    /// Begins the conversation, which tells whether the connection came about.
    pub fn connect(client: &Client, patience: Patience) -> Result<Self, SshError> {
        // The client counts the time too, and knows better what it has waited for.
        let link = client.link(patience.reach.saturating_add(MARGIN))?;
        Self::greet(link, patience.stall).map_err(|e| match e {
            SshError::Silent { after, said } => {
                let what = format!("nobody has answered for {} s", after.as_secs());
                SshError::Unreachable(if said.is_empty() { what } else { format!("{what}: {said}") })
            }
            other => other,
        })
    }

    /// Takes up a conversation that another process has begun, and has left between two messages.
    pub fn resume(client: &Client, patience: Patience) -> Result<Self, SshError> {
        Self::rejoin(client.link(patience.stall)?)
    }

    pub(super) fn greet(link: Link, stall: Duration) -> Result<Self, SshError> {
        let mut session = Self::over(link, 0);
        let hello = session.wire().greeting()?;
        session.wire().link.stall = stall;
        let extensions = match hello {
            Answer::Version { version: packet::VERSION, extensions } => extensions,
            Answer::Version { version, .. } => {
                return Err(SshError::Protocol(format!("version {version} of SFTP where 3 was asked for")));
            }
            other => return Err(SshError::Protocol(format!("{other:?} for a greeting"))),
        };
        if extensions.iter().any(|e| e == "limits@openssh.com") {
            session.ask_limits()?;
        }
        Ok(session)
    }

    pub(super) fn rejoin(link: Link) -> Result<Self, SshError> {
        // Numbers that whoever spoke before has not used lately.
        let mut session = Self::over(link, std::process::id().rotate_left(16));
        session.wire().stale = STALE;
        session.ask_limits()?;
        session.wire().stale = 0;
        Ok(session)
    }

    fn over(link: Link, next: u32) -> Self {
        let wire = Wire {
            link,
            inbox: Vec::new(),
            waiting: BTreeMap::new(),
            answers: BTreeMap::new(),
            next,
            stale: 0,
            broken: None,
        };
        Self { wire: Mutex::new(wire), largest: PLAIN_WRITE, notes: Mutex::default() }
    }

    fn wire(&self) -> MutexGuard<'_, Wire> {
        self.wire.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Uses the longest writes that the server takes.
    fn ask_limits(&mut self) -> Result<(), SshError> {
        let answer = self.ask(|id| Request::new(kind::EXTENDED, id).string(b"limits@openssh.com"));
        let fields = match answer {
            Ok(Answer::Extended(fields)) => fields,
            Ok(other) => return Err(unexpected(&other)),
            Err(SshError::Refused { .. }) => return Ok(()),
            Err(e) => return Err(e),
        };
        let mut fields = Fields(&fields);
        let (packet, _, write) = (fields.u64(), fields.u64(), fields.u64());
        let (Some(packet), Some(write)) = (packet, write) else {
            return Err(SshError::Protocol("limits that are cut short".to_owned()));
        };
        // 0 says that there is no limit. What a packet has besides its data is less than 1 KiB.
        let data = |limit: u64| usize::try_from(limit).ok().filter(|l| *l > 0).unwrap_or(LARGEST_WRITE);
        let most = data(write).min(data(packet.saturating_sub(1024 * u64::from(packet > 0))));
        self.largest = most.clamp(1024, LARGEST_WRITE);
        Ok(())
    }

    /// What was lacking on the way, for the manifest. Once each.
    pub fn notes(&self) -> Vec<(Code, String)> {
        std::mem::take(&mut self.notes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn note(&self, code: Code, text: &str) {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        if !notes.iter().any(|(_, known)| known == text) {
            notes.push((code, text.to_owned()));
        }
    }

    /// One request and its answer. A status other than OK is an error.
    fn ask(&self, request: impl FnOnce(u32) -> Request) -> Result<Answer, SshError> {
        let mut wire = self.wire();
        let id = wire.id();
        let request = request(id).finish(0);
        wire.waiting.insert(id, Waiting::Somebody);
        wire.pump(Out(&request, &[]), |wire| wire.answers.contains_key(&id))?;
        match wire.answers.remove(&id) {
            Some(Answer::Status { code: status::OK, .. }) => {
                Ok(Answer::Status { code: status::OK, message: String::new() })
            }
            Some(Answer::Status { code, message }) => Err(SshError::Refused { code, message }),
            Some(answer) => Ok(answer),
            None => Err(SshError::Protocol("no answer".to_owned())),
        }
    }

    fn command(&self, request: impl FnOnce(u32) -> Request) -> Result<(), SshError> {
        match self.ask(request)? {
            Answer::Status { .. } => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Makes a directory, mode 0700.
    pub(super) fn mkdir(&self, path: &str) -> Result<(), SshError> {
        self.command(|id| Request::new(kind::MKDIR, id).string(path.as_bytes()).mode(0o700))
    }

    /// Removes an empty directory.
    pub(super) fn rmdir(&self, path: &str) -> Result<(), SshError> {
        self.command(|id| Request::new(kind::RMDIR, id).string(path.as_bytes()))
    }

    /// Removes a file.
    pub(super) fn remove(&self, path: &str) -> Result<(), SshError> {
        self.command(|id| Request::new(kind::REMOVE, id).string(path.as_bytes()))
    }

    /// Renames; what bears the new name is replaced.
    pub(super) fn rename(&self, from: &str, to: &str) -> Result<(), SshError> {
        let replacing = self.command(|id| {
            Request::new(kind::EXTENDED, id)
                .string(b"posix-rename@openssh.com")
                .string(from.as_bytes())
                .string(to.as_bytes())
        });
        match replacing {
            Err(e) if e.is_unsupported() => {}
            other => return other,
        }
        // Version 3's own does not replace.
        match self.remove(to) {
            Ok(()) | Err(SshError::Refused { code: status::NO_SUCH_FILE, .. }) => {}
            Err(e) => return Err(e),
        }
        self.command(|id| Request::new(kind::RENAME, id).string(from.as_bytes()).string(to.as_bytes()))
    }

    /// The mode of what is there, links followed or not; `None` where there is nothing.
    pub(super) fn mode(&self, path: &str, follow: bool) -> Result<Option<u32>, SshError> {
        let kind = if follow { kind::STAT } else { kind::LSTAT };
        match self.ask(|id| Request::new(kind, id).string(path.as_bytes())) {
            // A server that does not say counts it as a directory: making one in it will tell.
            Ok(Answer::Attributes { mode }) => Ok(Some(mode.unwrap_or(0o40000))),
            Ok(other) => Err(unexpected(&other)),
            Err(SshError::Refused { code: status::NO_SUCH_FILE, .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Makes a new file, mode 0600; with `new` it must not exist.
    pub(super) fn create(&self, path: &str, new: bool) -> Result<Vec<u8>, SshError> {
        let flags = open::WRITE | open::CREAT | if new { open::EXCL } else { 0 };
        let handle = self.open(path, flags)?;
        // A server may pass over the mode of OPEN.
        if let Err(e) = self.command(|id| Request::new(kind::FSETSTAT, id).string(&handle).mode(0o600)) {
            match e {
                SshError::Refused { .. } => {
                    self.note(Code::SSH_PROTOCOL, &format!("the mode of files cannot be set: {e}"));
                }
                e => return Err(e),
            }
        }
        Ok(handle)
    }

    fn open(&self, path: &str, flags: u32) -> Result<Vec<u8>, SshError> {
        let request = |id| Request::new(kind::OPEN, id).string(path.as_bytes()).u32(flags).mode(0o600);
        match self.ask(request)? {
            Answer::Handle(handle) => Ok(handle),
            other => Err(unexpected(&other)),
        }
    }

    /// Cuts an open file to so many bytes.
    pub(super) fn truncate(&self, handle: &[u8], size: u64) -> Result<(), SshError> {
        // SSH_FILEXFER_ATTR_SIZE
        self.command(|id| Request::new(kind::FSETSTAT, id).string(handle).u32(1).u64(size))
    }

    /// Closes a file.
    pub(super) fn close(&self, handle: &[u8]) -> Result<(), SshError> {
        self.command(|id| Request::new(kind::CLOSE, id).string(handle))
    }

    /// Sends data on its way, in as many writes as it takes. How they end is told in `written`.
    pub(super) fn write(
        &self,
        handle: &[u8],
        mut at: u64,
        bytes: &[u8],
        written: &Arc<Written>,
    ) -> Result<(), SshError> {
        let too_far = || SshError::Protocol("no room for such an offset".to_owned());
        for piece in bytes.chunks(self.largest) {
            let mut wire = self.wire();
            if wire.waiting.len() >= WINDOW {
                // Down to half, so that not every write wakes two processes.
                wire.pump(Out::NOTHING, |wire| wire.waiting.len() <= WINDOW / 2)?;
            }
            let id = wire.id();
            let len = u32::try_from(piece.len()).map_err(|_| too_far())?;
            let head = Request::new(kind::WRITE, id).string(handle).u64(at).u32(len).finish(piece.len());
            wire.waiting.insert(id, Waiting::Write(Arc::clone(written)));
            written.pending.fetch_add(1, Ordering::Relaxed);
            wire.pump(Out(&head, piece), |_| true)?;
            drop(wire);
            at = at.checked_add(u64::from(len)).ok_or_else(too_far)?;
        }
        Ok(())
    }

    /// Sends a request on its way that has the server write back what it has. How it ends is told in `written`.
    pub(super) fn sync_on_the_way(&self, handle: &[u8], written: &Arc<Written>) -> Result<(), SshError> {
        let mut wire = self.wire();
        let id = wire.id();
        let request = Request::new(kind::EXTENDED, id).string(b"fsync@openssh.com").string(handle).finish(0);
        wire.waiting.insert(id, Waiting::Sync(Arc::clone(written)));
        written.pending.fetch_add(1, Ordering::Relaxed);
        wire.pump(Out(&request, &[]), |_| true)
    }

    /// Waits until all writes have their answers.
    pub(super) fn settle(&self, written: &Written) -> Result<(), SshError> {
        self.wire().pump(Out::NOTHING, |_| written.pending.load(Ordering::Relaxed) == 0)?;
        written.failure().map_or(Ok(()), Err)
    }

    /// Makes an open file durable; whether the server can.
    pub(super) fn sync(&self, handle: &[u8]) -> Result<bool, SshError> {
        let answer =
            self.command(|id| Request::new(kind::EXTENDED, id).string(b"fsync@openssh.com").string(handle));
        match answer {
            Ok(()) => Ok(true),
            Err(e) if e.is_unsupported() => {
                self.note(
                    Code::SSH_NOT_DURABLE,
                    "the server has no fsync: what it has may still be in its memory",
                );
                Ok(false)
            }
            Err(e) => Err(e),
        }
    }

    /// Makes the names in a directory durable. OpenSSH's server opens a directory as it opens a file; of one that does
    /// not nothing can be had.
    pub(super) fn sync_directory(&self, path: &str) -> Result<(), SshError> {
        let synced = self.open(path, open::READ).and_then(|handle| {
            let synced = self.sync(&handle);
            self.close(&handle)?;
            synced
        });
        match synced {
            Ok(_) => Ok(()),
            Err(e @ SshError::Refused { .. }) => {
                self.note(Code::SSH_NOT_DURABLE, &format!("the server cannot sync a directory: {e}"));
                Ok(())
            }
            Err(e) => Err(e),
        }
    }

    /// Room of the file system that `path` is on; `None` where the server does not tell.
    pub(super) fn space(&self, path: &str) -> Result<Option<Space>, SshError> {
        let request =
            |id| Request::new(kind::EXTENDED, id).string(b"statvfs@openssh.com").string(path.as_bytes());
        let fields = match self.ask(request) {
            Ok(Answer::Extended(fields)) => fields,
            Ok(other) => return Err(unexpected(&other)),
            Err(SshError::Refused { .. }) => return Ok(None),
            Err(e) => return Err(e),
        };
        // bsize, frsize, blocks, bfree, bavail, files, ffree, favail, fsid, flag, namemax
        let mut fields = Fields(&fields);
        let numbers: Option<Vec<u64>> = (0..11).map(|_| fields.u64()).collect();
        let Some([_, unit, _, _, available, _, _, _, _, flag, _]) = numbers.as_deref() else {
            return Err(SshError::Protocol("a statvfs that is cut short".to_owned()));
        };
        Ok(Some(Space { free: unit.saturating_mul(*available), read_only: flag & 1 != 0 }))
    }
}

impl Wire {
    /// The next number that nobody waits for.
    fn id(&mut self) -> u32 {
        loop {
            self.next = self.next.wrapping_add(1);
            if !self.waiting.contains_key(&self.next) {
                return self.next;
            }
        }
    }

    /// INIT, and what comes for it. There is no id yet.
    fn greeting(&mut self) -> Result<Answer, SshError> {
        let hello = Request::new(kind::INIT, packet::VERSION).finish(0);
        let mut out = Out(&hello, &[]);
        let since = Instant::now();
        let answer = loop {
            if let Some((_, answer)) = self.arrived()? {
                break answer;
            }
            self.link.step(&mut out, &mut self.inbox, since)?;
        };
        if self.inbox.is_empty() {
            Ok(answer)
        } else {
            Err(SshError::Protocol("more than a greeting".to_owned()))
        }
    }

    /// Sends all of `out` and takes in answers until `done`. Whatever goes wrong ends the conversation: nobody knows any
    /// more where the next message begins.
    fn pump(&mut self, mut out: Out<'_>, done: impl Fn(&Self) -> bool) -> Result<(), SshError> {
        if let Some(broken) = &self.broken {
            return Err(broken.clone());
        }
        let mut since = Instant::now();
        loop {
            let result = match self.digest() {
                Ok(()) if out.is_empty() && done(self) => return Ok(()),
                Ok(()) => self.link.step(&mut out, &mut self.inbox, since),
                Err(e) => Err(e),
            };
            if let Err(e) = result {
                self.broken = Some(e.clone());
                for waiting in std::mem::take(&mut self.waiting).into_values() {
                    if let Waiting::Write(written) | Waiting::Sync(written) = waiting {
                        written.pending.fetch_sub(1, Ordering::Relaxed);
                        written.fail(e.clone());
                    }
                }
                return Err(e);
            }
            since = Instant::now();
        }
    }

    /// Takes one whole packet off the inbox.
    fn arrived(&mut self) -> Result<Option<(u32, Answer)>, SshError> {
        let len = match packet::length(&self.inbox) {
            None => return Ok(None),
            Some(len) => len.map_err(SshError::Protocol)?,
        };
        let Some(bytes) = self.inbox.get(..len) else { return Ok(None) };
        let arrived = packet::parse(bytes).map_err(SshError::Protocol)?;
        self.inbox.drain(..len);
        Ok(Some(arrived))
    }

    /// Gives every answer that has arrived to whom it is for.
    fn digest(&mut self) -> Result<(), SshError> {
        while let Some((id, answer)) = self.arrived()? {
            match (self.waiting.remove(&id), answer) {
                (None, _) if self.stale > 0 => self.stale -= 1,
                (None, _) => {
                    return Err(SshError::Protocol(format!("an answer to {id}, which nobody asked")));
                }
                (Some(Waiting::Somebody), answer) => drop(self.answers.insert(id, answer)),
                (Some(waiting @ (Waiting::Write(_) | Waiting::Sync(_))), answer) => {
                    let (Waiting::Write(written) | Waiting::Sync(written)) = &waiting else { continue };
                    written.pending.fetch_sub(1, Ordering::Relaxed);
                    match answer {
                        Answer::Status { code: status::OK, .. } => {}
                        Answer::Status { code: status::OP_UNSUPPORTED, .. }
                            if matches!(waiting, Waiting::Sync(_)) => {}
                        Answer::Status { code, message } => written.fail(SshError::Refused { code, message }),
                        other => return Err(unexpected(&other)),
                    }
                }
            }
        }
        Ok(())
    }
}

fn unexpected(answer: &Answer) -> SshError {
    let what = match answer {
        Answer::Version { .. } => "a VERSION",
        Answer::Status { .. } => "a STATUS",
        Answer::Handle(_) => "a HANDLE",
        Answer::Attributes { .. } => "ATTRS",
        Answer::Extended(_) => "an EXTENDED_REPLY",
    };
    SshError::Protocol(format!("{what} that does not fit the request"))
}

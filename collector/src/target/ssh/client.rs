//! The OpenSSH client as a child process, and the three pipes to it.

use super::failure::{SshError, Words};
use crate::plan::ssh::SshTarget;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long a server may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Patience {
    /// Until the connection stands and has been logged in to.
    pub reach: Duration,
    /// Without anything moving, once it stands.
    pub stall: Duration,
}

/// What the pipe to the client holds at most: while it encrypts, the next pages are compressed.
const PIPE: i32 = 1 << 20;

/// How long the client's last words are waited for.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Read at a time.
const PIECE: usize = 16 << 10;

/// What the client is to do on the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Task<'a> {
    /// Start its sftp subsystem.
    Sftp,
    /// Run a command by the user's login shell.
    Run(&'a str),
}

/// The client's arguments: all that it does is decided here, not by files of the machine.
pub(super) fn arguments(target: &SshTarget, patience: Patience, task: Task<'_>) -> Vec<String> {
    // Three messages without an answer end the connection.
    let alive = (patience.stall.as_secs() / 3).max(1);
    let settings = [
        "BatchMode=yes".to_owned(),
        "StrictHostKeyChecking=yes".to_owned(),
        format!("UserKnownHostsFile={}", target.known_hosts),
        "GlobalKnownHostsFile=/dev/null".to_owned(),
        format!("HostKeyAlias={}", target.host_key_alias),
        "CheckHostIP=no".to_owned(),
        "UpdateHostKeys=no".to_owned(),
        "VerifyHostKeyDNS=no".to_owned(),
        "IdentitiesOnly=yes".to_owned(),
        "IdentityAgent=none".to_owned(),
        format!("IdentityFile={}", target.identity),
        "PreferredAuthentications=publickey".to_owned(),
        "ControlMaster=no".to_owned(),
        "ControlPath=none".to_owned(),
        "ClearAllForwardings=yes".to_owned(),
        "ForwardAgent=no".to_owned(),
        "ForwardX11=no".to_owned(),
        "RequestTTY=no".to_owned(),
        "EscapeChar=none".to_owned(),
        // What is sent is compressed already.
        "Compression=no".to_owned(),
        // Why a connection was closed is told at this level, not at ERROR.
        "LogLevel=INFO".to_owned(),
        "ConnectionAttempts=1".to_owned(),
        format!("ConnectTimeout={}", patience.reach.as_secs().max(1)),
        format!("ServerAliveInterval={alive}"),
        "ServerAliveCountMax=3".to_owned(),
    ];
    let mut words = vec!["-F".to_owned(), "none".to_owned()];
    for setting in settings.iter().chain(&target.options) {
        words.extend(["-o".to_owned(), setting.clone()]);
    }
    words.extend(["-p".to_owned(), target.port.to_string(), "-l".to_owned(), target.user.clone()]);
    if task == Task::Sftp {
        words.push("-s".to_owned());
    }
    words.extend(["--".to_owned(), target.host()]);
    words.push(match task {
        Task::Sftp => "sftp".to_owned(),
        Task::Run(command) => command.to_owned(),
    });
    words
}

/// A running client. It is started and ended by one process, and may be talked to by another one that was forked in
/// between and has inherited the pipes.
#[derive(Debug)]
pub struct Client {
    child: Child,
    pipes: Pipes,
}

#[derive(Debug)]
struct Pipes {
    to: OwnedFd,
    from: OwnedFd,
    says: OwnedFd,
}

impl Client {
    /// Starts the client, and waits for nothing. `root` is where the paths of the plan begin: `/` in the image.
    pub(super) fn start(target: &SshTarget, patience: Patience, task: Task<'_>) -> Result<Self, SshError> {
        let failed =
            |why: io::Error| SshError::Start { program: target.program.clone(), why: why.to_string() };
        let mut child = Command::new(&target.program)
            .args(arguments(target, patience, task))
            // Messages that are looked into, and nothing of ours that would change what the client does.
            .env_clear()
            .envs([("LC_ALL", "C"), ("HOME", "/"), ("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")])
            .current_dir(Path::new("/"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let missing = || failed(io::Error::other("it has no pipes"));
        let to = OwnedFd::from(child.stdin.take().ok_or_else(missing)?);
        let from = OwnedFd::from(child.stdout.take().ok_or_else(missing)?);
        let says = OwnedFd::from(child.stderr.take().ok_or_else(missing)?);
        if let Err(e) = fcntl(&to, FcntlArg::F_SETPIPE_SZ(PIPE)) {
            log::debug!("the pipe to the client stays small: {e}");
        }
        for fd in [&to, &from, &says] {
            fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|e| failed(e.into()))?;
        }
        Ok(Self { child, pipes: Pipes { to, from, says } })
    }

    /// The pipes, to be talked through by this process.
    pub(super) fn link(&self, stall: Duration) -> Result<Link, SshError> {
        let clone = |fd: &OwnedFd| {
            fd.try_clone()
                .map(File::from)
                .map_err(|e| SshError::Lost(format!("the pipes to the client: {e}")))
        };
        Ok(Link {
            to: Some(clone(&self.pipes.to)?),
            from: clone(&self.pipes.from)?,
            says: Some(clone(&self.pipes.says)?),
            words: Words::default(),
            stall,
        })
    }

    /// The pipes, of which this process then has the only ends: closing them is heard by the client.
    pub(super) fn into_link(self, stall: Duration) -> (Child, Link) {
        let Self { child, pipes: Pipes { to, from, says } } = self;
        let link = Link {
            to: Some(to.into()),
            from: from.into(),
            says: Some(says.into()),
            words: Words::default(),
            stall,
        };
        (child, link)
    }

    /// Ends the client, whatever it does. For the process that started it; never waits long.
    pub fn end(self) {
        let Self { mut child, pipes } = self;
        drop(pipes);
        end(&mut child);
    }
}

/// Kills and reaps; the client does not wait in the kernel for long.
pub(super) fn end(child: &mut Child) {
    if let Err(e) = child.kill() {
        log::debug!("ending the ssh client: {e}");
    }
    if wait(child, Duration::from_secs(2)).is_none() {
        log::warn!("the ssh client does not end; it is left behind");
    }
}

/// Waits for the client to end by itself, for so long.
pub(super) fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let start = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if start.elapsed() < limit => std::thread::sleep(Duration::from_millis(5)),
            Ok(None) => return None,
            Err(e) => {
                log::debug!("waiting for the ssh client: {e}");
                return None;
            }
        }
    }
}

/// One process's ends of the pipes. Nothing in it waits for longer than `stall`.
#[derive(Debug)]
pub(super) struct Link {
    to: Option<File>,
    from: File,
    says: Option<File>,
    words: Words,
    /// How long nothing may move.
    pub stall: Duration,
}

/// What is still to be sent: two pieces, the second perhaps empty.
#[derive(Clone, Copy, Debug)]
pub(super) struct Out<'a>(pub &'a [u8], pub &'a [u8]);

impl Out<'_> {
    pub const NOTHING: Self = Self(&[], &[]);

    pub fn is_empty(&self) -> bool {
        self.0.is_empty() && self.1.is_empty()
    }

    fn advance(&mut self, by: usize) {
        let first = by.min(self.0.len());
        self.0 = self.0.get(first..).unwrap_or_default();
        self.1 = self.1.get(by - first..).unwrap_or_default();
    }
}

impl Link {
    /// Sends what can be sent of `out`, or else waits until something moves: what arrives is put behind `inbox`. An
    /// error when nothing has moved since `since` for too long, or when the client is gone.
    pub fn step(&mut self, out: &mut Out<'_>, inbox: &mut Vec<u8>, since: Instant) -> Result<(), SshError> {
        if !out.is_empty() && self.send(out)? {
            return Ok(());
        }
        loop {
            let left = self.stall.saturating_sub(since.elapsed());
            if left.is_zero() {
                return Err(SshError::Silent { after: self.stall, said: self.words.text() });
            }
            let Some(ready) = self.poll(!out.is_empty(), left)? else { continue };
            if ready.says {
                self.listen();
            }
            if ready.from {
                let mut piece = [0; PIECE];
                match self.from.read(&mut piece) {
                    Ok(0) => return Err(self.obituary()),
                    Ok(n) => {
                        inbox.extend_from_slice(piece.get(..n).unwrap_or_default());
                        return Ok(());
                    }
                    Err(e) if is_nothing(&e) => {}
                    Err(e) => {
                        return Err(match self.obituary() {
                            SshError::Lost(said) => SshError::Lost(format!("{e}; {said}")),
                            cause => cause,
                        });
                    }
                }
            }
            if ready.to && self.send(out)? {
                return Ok(());
            }
        }
    }

    /// Whether anything could be sent.
    fn send(&mut self, out: &mut Out<'_>) -> Result<bool, SshError> {
        let Some(to) = &mut self.to else { return Err(SshError::Lost("the pipe is closed".to_owned())) };
        match to.write_vectored(&[IoSlice::new(out.0), IoSlice::new(out.1)]) {
            Ok(n) => {
                out.advance(n);
                Ok(n > 0)
            }
            Err(e) if is_nothing(&e) => Ok(false),
            // It has read its last: what it has to say of it comes on the other pipes.
            Err(_) => Err(self.obituary()),
        }
    }

    fn poll(&self, sending: bool, limit: Duration) -> Result<Option<Ready>, SshError> {
        let timeout = PollTimeout::try_from(limit.min(Duration::from_secs(60))).unwrap_or(PollTimeout::ZERO);
        let mut pipes = vec![PollFd::new(self.from.as_fd(), PollFlags::POLLIN)];
        let says = self.says.as_ref().map(|says| {
            pipes.push(PollFd::new(says.as_fd(), PollFlags::POLLIN));
            pipes.len() - 1
        });
        let to = self.to.as_ref().filter(|_| sending).map(|to| {
            pipes.push(PollFd::new(to.as_fd(), PollFlags::POLLOUT));
            pipes.len() - 1
        });
        match poll(&mut pipes, timeout) {
            Ok(0) | Err(nix::errno::Errno::EINTR) => Ok(None),
            Ok(_) => {
                let is = |at: Option<usize>| at.and_then(|at| pipes.get(at)?.any()).unwrap_or(false);
                Ok(Some(Ready { from: is(Some(0)), says: is(says), to: is(to) }))
            }
            Err(e) => Err(SshError::Lost(format!("poll: {e}"))),
        }
    }

    /// Takes in what the client says on stderr.
    fn listen(&mut self) {
        let Some(says) = &mut self.says else { return };
        let mut piece = [0; 1024];
        match says.read(&mut piece) {
            Ok(n) if n > 0 => self.words.add(piece.get(..n).unwrap_or_default()),
            Err(e) if is_nothing(&e) => {}
            Ok(_) | Err(_) => self.says = None,
        }
    }

    /// Listens until the client has nothing more to say.
    pub fn last_words(&mut self) -> String {
        let start = Instant::now();
        while let Some(says) = &self.says {
            let left = LAST_WORDS.saturating_sub(start.elapsed());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            let mut pipes = [PollFd::new(says.as_fd(), PollFlags::POLLIN)];
            match poll(&mut pipes, timeout) {
                Ok(n) if n > 0 => self.listen(),
                _ if left.is_zero() => break,
                _ => {}
            }
        }
        self.words.text()
    }

    fn obituary(&mut self) -> SshError {
        SshError::from_client(&self.last_words())
    }

    /// Tells the client that nothing more comes.
    pub fn close(&mut self) {
        self.to = None;
    }

    /// Reads until the client has said all, at most `most` bytes.
    pub fn rest(&mut self, most: usize) -> Result<Vec<u8>, SshError> {
        let mut inbox = Vec::new();
        let mut since = Instant::now();
        loop {
            let left = self.stall.saturating_sub(since.elapsed());
            if left.is_zero() {
                return Err(SshError::Silent { after: self.stall, said: self.words.text() });
            }
            let Some(ready) = self.poll(false, left)? else { continue };
            if ready.says {
                self.listen();
            }
            if ready.from {
                let mut piece = [0; 1024];
                match self.from.read(&mut piece) {
                    Ok(0) => return Ok(inbox),
                    Ok(n) if inbox.len().saturating_add(n) <= most => {
                        inbox.extend_from_slice(piece.get(..n).unwrap_or_default());
                        since = Instant::now();
                    }
                    Ok(_) => return Err(SshError::Protocol(format!("more than {most} bytes of text"))),
                    Err(e) if is_nothing(&e) => {}
                    Err(e) => return Err(SshError::Lost(format!("reading from the client: {e}"))),
                }
            }
        }
    }
}

struct Ready {
    from: bool,
    says: bool,
    to: bool,
}

fn is_nothing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;
    use std::os::unix::net::UnixStream;

    /// The same link, for somebody else.
    pub fn again(link: &Link, stall: Duration) -> Link {
        Link {
            to: link.to.as_ref().map(|to| to.try_clone().unwrap()),
            from: link.from.try_clone().unwrap(),
            says: link.says.as_ref().map(|says| says.try_clone().unwrap()),
            words: Words::default(),
            stall,
        }
    }

    /// A link to what a test plays at the other end: what it reads, what it writes, and the client's stderr.
    pub fn link(stall: Duration) -> (Link, UnixStream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (says, speaker) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        says.set_nonblocking(true).unwrap();
        let to = File::from(OwnedFd::from(ours.try_clone().unwrap()));
        let link = Link {
            to: Some(to),
            from: File::from(OwnedFd::from(ours)),
            says: Some(File::from(OwnedFd::from(says))),
            words: Words::default(),
            stall,
        };
        (link, theirs, speaker)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub fn target() -> SshTarget {
        SshTarget {
            user: "kdump".into(),
            address: "192.0.2.1".parse().unwrap(),
            scope: None,
            port: 22,
            host_key_alias: "dumps".into(),
            directory: "/var/crash".into(),
            program: "/nowhere/ssh".into(),
            identity: "/etc/key".into(),
            known_hosts: "/etc/known_hosts".into(),
            options: vec!["Ciphers=aes128-ctr".into()],
        }
    }

    #[test]
    fn nothing_of_the_machine_decides_how_the_client_behaves() {
        let patience = Patience { reach: Duration::from_secs(30), stall: Duration::from_secs(60) };
        let words = arguments(&target(), patience, Task::Sftp).join(" ");
        for wanted in [
            "-F none",
            "-o BatchMode=yes",
            "-o StrictHostKeyChecking=yes",
            "-o UserKnownHostsFile=/etc/known_hosts",
            "-o HostKeyAlias=dumps",
            "-o ConnectTimeout=30",
            "-o ServerAliveInterval=20",
            "-o Ciphers=aes128-ctr",
        ] {
            assert!(words.contains(wanted), "{wanted} is not in {words}");
        }
        assert!(words.ends_with("-p 22 -l kdump -s -- 192.0.2.1 sftp"), "{words}");
        let words = arguments(&target(), patience, Task::Run("cat > 'x'"));
        assert_eq!(words[words.len() - 3..], ["--", "192.0.2.1", "cat > 'x'"]);
    }

    #[test]
    fn no_client_is_an_error_with_its_name() {
        let patience = Patience { reach: Duration::from_secs(1), stall: Duration::from_secs(1) };
        let error = Client::start(&target(), patience, Task::Sftp).unwrap_err();
        assert!(matches!(&error, SshError::Start { program, .. } if program == "/nowhere/ssh"), "{error}");
    }
}

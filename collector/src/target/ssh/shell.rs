//! A server without sftp: each step is a command of the user's login shell, over a connection of its own.
//!
//! Dumps are flattened into `cat`, for a shell cannot seek. What a command does is trusted only when the whole of it
//! ended with status 0, and a file when the server counts as many bytes as were sent: a connection that breaks looks to
//! `cat` like an end.

use super::client::{self, Client, Link, Out, Patience, Task};
use super::failure::SshError;
use crate::addr::FileOffset;
use crate::format::DumpSink;
use crate::format::stream::Flattened;
use crate::plan::ssh::SshTarget;
use std::io::{self, Write};
use std::process::Child;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The most text that a command may answer.
const MOST: usize = 4 << 10;

/// How long the client is given to end after it has said all.
const PARTING: Duration = Duration::from_secs(5);

/// The shell of a server.
#[derive(Clone, Debug)]
pub(super) struct Shell {
    pub target: SshTarget,
    pub patience: Patience,
}

/// A command's answer: the last line, for a login shell may say more before.
fn line(text: &[u8]) -> String {
    let mut lines = text.split(|b| *b == b'\n').filter(|l| !l.is_empty());
    // Whole: it may be a long path. What comes of a command is bounded already.
    String::from_utf8_lossy(lines.next_back().unwrap_or_default()).trim().to_owned()
}

impl Shell {
    fn start(&self, script: &str) -> Result<Stream, SshError> {
        // The login shell may be any; one that is POSIX's reads the script.
        let command = format!("exec sh -c {}", quoted(script));
        let client = Client::start(&self.target, self.patience, Task::Run(&command))?;
        // Connecting, logging in and starting are one silence.
        let patience = self.patience.reach.saturating_add(self.patience.stall);
        let (child, link) = client.into_link(patience);
        Ok(Stream { child: Some(child), link, sent: 0 })
    }

    /// Runs a script, without input; its output.
    fn run(&self, script: &str) -> Result<Vec<u8>, SshError> {
        self.start(script)?.end()
    }

    /// Makes a new directory `name` below `base`, which is made if need be; with `-2`, `-3`, … where it exists. Its path.
    pub fn create_directory(&self, base: &str, name: &str, most: u32) -> Result<String, SshError> {
        let (base, name) = (quoted(base), quoted(name));
        let said = self.run(&format!(
            "umask 077; mkdir -p {base} && cd {base} && n=1 && d={name} && \
             until mkdir \"$d\"; do test -e \"$d\" || exit 1; n=$((n+1)); test $n -le {most} || exit 1; \
             d={name}-$n; done && cd \"$d\" && pwd"
        ))?;
        match line(&said) {
            path if path.starts_with('/') => Ok(path),
            other => Err(SshError::Protocol(format!("{other:?} where the path of a directory was expected"))),
        }
    }

    /// Begins to write a new file.
    pub fn create(&self, path: &str) -> Result<Stream, SshError> {
        let path = quoted(path);
        self.start(&format!("umask 077; set -C; cat > {path} && {} && wc -c < {path}", synced(&path)))
    }

    /// Puts a whole file in its place.
    pub fn put(&self, path: &str, bytes: &[u8]) -> Result<(), SshError> {
        let (new, path) = (quoted(&format!("{path}.new")), quoted(path));
        let len = bytes.len();
        let mut stream = self.start(&format!(
            "umask 077; cat > {new} && test $(wc -c < {new}) -eq {len} && {} && mv -f {new} {path} && wc -c < {path}",
            synced(&new)
        ))?;
        stream.send(bytes)?;
        stream.finish()
    }

    /// Renames; what bears the new name is replaced.
    pub fn rename(&self, from: &str, to: &str) -> Result<(), SshError> {
        self.run(&format!("mv -f {} {}", quoted(from), quoted(to))).map(drop)
    }

    /// Removes a file.
    pub fn remove(&self, path: &str) -> Result<(), SshError> {
        self.run(&format!("rm {}", quoted(path))).map(drop)
    }

    /// Removes an empty directory.
    pub fn remove_directory(&self, path: &str) -> Result<(), SshError> {
        self.run(&format!("rmdir {}", quoted(path))).map(drop)
    }

    /// Makes names durable.
    pub fn sync(&self, path: &str) -> Result<(), SshError> {
        self.run(&synced(&quoted(path))).map(drop)
    }

    /// Bytes that are free below `path`; `None` where the server's df says something else than POSIX has it say.
    pub fn space(&self, path: &str) -> Result<Option<u64>, SshError> {
        let said = self.run(&format!("df -Pk {}", quoted(path)))?;
        let text = String::from_utf8_lossy(&said);
        let free = text.lines().last().and_then(|l| l.split_whitespace().nth(3)?.parse::<u64>().ok());
        Ok(free.map(|kib| kib.saturating_mul(1024)))
    }
}

/// A word for sh, whatever is in it.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// Not every sync knows how to sync one file.
fn synced(quoted: &str) -> String {
    format!("{{ sync {quoted} 2>/dev/null || sync; }}")
}

/// A command that is running, and what is sent to it.
#[derive(Debug)]
pub(super) struct Stream {
    child: Option<Child>,
    link: Link,
    sent: u64,
}

impl Stream {
    fn send(&mut self, bytes: &[u8]) -> Result<(), SshError> {
        let mut out = Out(bytes, &[]);
        let mut early = Vec::new();
        let mut since = Instant::now();
        while !out.is_empty() {
            self.link.step(&mut out, &mut early, since)?;
            if early.len() > MOST {
                return Err(SshError::Protocol("text before its input has ended".to_owned()));
            }
            since = Instant::now();
        }
        self.sent = self.sent.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        Ok(())
    }

    /// Ends the input; the output. Status 0 or an error.
    fn end(mut self) -> Result<Vec<u8>, SshError> {
        self.link.close();
        let output = self.link.rest(MOST)?;
        let said = self.link.last_words();
        let status = self.child.as_mut().and_then(|child| client::wait(child, PARTING));
        match status.map(|status| status.code()) {
            Some(Some(0)) => {
                self.child = None;
                Ok(output)
            }
            // What ssh itself ends with when the connection is the matter.
            Some(Some(255) | None) => Err(SshError::from_client(&said)),
            Some(Some(status)) => {
                Err(match said.contains("No space left") || said.contains("uota exceeded") {
                    true => SshError::Full,
                    false => SshError::Command { status, said },
                })
            }
            None => Err(SshError::Silent { after: PARTING, said }),
        }
    }

    /// Ends a file: the server must have as many bytes as were sent.
    fn finish(self) -> Result<(), SshError> {
        let sent = self.sent;
        let said = self.end()?;
        let count = line(&said);
        match count.parse::<u64>() {
            Ok(has) if has == sent => Ok(()),
            Ok(has) => Err(SshError::Short { has, sent }),
            Err(_) => Err(SshError::Protocol(format!("{count:?} where the size of a file was expected"))),
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            client::end(&mut child);
        }
    }
}

/// A dump as a flattened stream into a file of the server.
#[derive(Debug)]
pub struct FlatFile {
    out: Flattened<Pieces>,
    /// The command's end, once it has come.
    outcome: std::sync::Arc<Mutex<Option<Result<(), SshError>>>>,
}

/// What the flattened writer writes to: the stream until it is flushed at the end.
#[derive(Debug)]
struct Pieces {
    stream: Option<Stream>,
    outcome: std::sync::Arc<Mutex<Option<Result<(), SshError>>>>,
}

impl FlatFile {
    pub(super) fn new(stream: Stream) -> Self {
        let outcome = std::sync::Arc::default();
        let pieces = Pieces { stream: Some(stream), outcome: std::sync::Arc::clone(&outcome) };
        Self { out: Flattened::new(pieces), outcome }
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(stream) = &mut self.stream else { return Err(io::ErrorKind::BrokenPipe.into()) };
        match stream.send(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(lost) => {
                // The command may have told why it ended.
                let error = match self.stream.take().map(Stream::end) {
                    Some(Err(e @ (SshError::Full | SshError::Command { .. }))) => e,
                    _ => lost,
                };
                *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(Err(error.clone()));
                Err(error.into())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        let Some(stream) = self.stream.take() else { return Ok(()) };
        let outcome = stream.finish();
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome.clone());
        outcome.map_err(Into::into)
    }
}

impl DumpSink for FlatFile {
    fn write_at(&self, at: FileOffset, bytes: &[u8]) -> io::Result<()> {
        match &*self.outcome.lock().unwrap_or_else(PoisonError::into_inner) {
            None => {}
            Some(Ok(())) => return Err(io::ErrorKind::BrokenPipe.into()),
            Some(Err(e)) => return Err(e.clone().into()),
        }
        self.out.write_at(at, bytes)
    }
    /// The end of the stream: nothing can be written afterwards.
    fn finish(&self) -> io::Result<()> {
        if let Some(outcome) = &*self.outcome.lock().unwrap_or_else(PoisonError::into_inner) {
            return outcome.clone().map_err(Into::into);
        }
        self.out.finish()
    }
    fn is_stream(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_words() {
        for (word, wanted) in [("a b", "'a b'"), ("it's", "'it'\\''s'"), ("$(x)", "'$(x)'"), ("", "''")] {
            assert_eq!(quoted(word), wanted);
        }
        let done = std::process::Command::new("sh")
            .args(["-c", &format!("printf %s {}", quoted("a'b$(c)\"d\\"))])
            .output()
            .unwrap();
        assert_eq!(done.stdout, b"a'b$(c)\"d\\");
    }
}

//! What can go wrong with a server, and what the client's last words mean.

use super::packet::status;
use crate::problem::Code;
use std::io;
use std::time::Duration;

/// Why something could not be done on a server. What of the client's words belongs to it is part of the message.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SshError {
    /// There is no client.
    #[error("cannot start {program}: {why}")]
    Start {
        /// The client's file.
        program: String,
        /// What the system said.
        why: String,
    },
    /// No connection came about.
    #[error("the server cannot be reached: {0}")]
    Unreachable(String),
    /// The server shows another host key than the pinned one.
    #[error("the server's host key is not the one that was pinned before the crash: {0}")]
    HostKey(String),
    /// The server accepts neither user nor key.
    #[error("the server does not accept the user or its key: {0}")]
    KeyRefused(String),
    /// There is no sftp on the server.
    #[error("the server has no sftp: {0}")]
    NoSftp(String),
    /// The connection ended.
    #[error("the connection was lost: {0}")]
    Lost(String),
    /// Nothing moved for so long.
    #[error("the server stood still for {} s{}", .after.as_secs(), words(.said))]
    Silent {
        /// How long.
        after: Duration,
        /// The client's last words, if any.
        said: String,
    },
    /// The server breaks the rules of SFTP.
    #[error("the server does not speak SFTP as it should: it sent {0}")]
    Protocol(String),
    /// The server said no.
    #[error("the server says: {}{}", status::name(*.code), words(.message))]
    Refused {
        /// SFTP's status.
        code: u32,
        /// Its message.
        message: String,
    },
    /// A command on the server failed.
    #[error("the command on the server ended with status {status}{}", words(.said))]
    Command {
        /// Its exit status.
        status: i32,
        /// What it, or the client, said on stderr.
        said: String,
    },
    /// The server's disk has no room.
    #[error("no space left on the server")]
    Full,
    /// The server's file is not as long as it has to be.
    #[error("the server has {has} bytes of {sent}")]
    Short {
        /// Length of the server's file.
        has: u64,
        /// Bytes that were sent.
        sent: u64,
    },
}

/// Of what OpenSSH says of a host key that has changed: which key, and that it has. Its advice is for people who are
/// there.
fn about_key(words: &str) -> String {
    let matter =
        ["SHA256:", "The fingerprint for", "host key is known", "has changed and", "REVOKED", "revoked"];
    let parts: Vec<&str> = words.split("; ").filter(|part| matter.iter().any(|m| part.contains(m))).collect();
    if parts.is_empty() { words.to_owned() } else { parts.join(" ") }
}

/// `: words`, or nothing.
fn words(words: &str) -> String {
    if words.is_empty() { String::new() } else { format!(": {words}") }
}

impl SshError {
    /// The code that it is recorded under.
    pub fn code(&self) -> Code {
        match self {
            Self::Start { .. } => Code::SSH_CLIENT,
            Self::Unreachable(_) => Code::SSH_UNREACHABLE,
            Self::HostKey(_) => Code::SSH_HOST_KEY,
            Self::KeyRefused(_) => Code::SSH_KEY_REFUSED,
            Self::NoSftp(_) => Code::SSH_NO_SFTP,
            Self::Lost(_) | Self::Silent { .. } => Code::SSH_LOST,
            Self::Protocol(_) => Code::SSH_PROTOCOL,
            Self::Refused { .. } | Self::Command { .. } | Self::Short { .. } => Code::TARGET_WRITE_FAILED,
            Self::Full => Code::TARGET_FULL,
        }
    }

    /// The one inside an [`io::Error`], if it is one.
    pub fn within(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }

    /// Whether the server lacks what was asked for.
    pub(super) fn is_unsupported(&self) -> bool {
        matches!(self, Self::Refused { code: status::OP_UNSUPPORTED, .. })
    }

    /// What the client's words on stderr mean, when it ended without having done what it should.
    pub(super) fn from_client(words: &str) -> Self {
        let any = |signs: &[&str]| signs.iter().any(|sign| words.contains(sign));
        let said = words.to_owned();
        // A changed key comes with a refusal, and a refusal with a lost connection: the cause first.
        if any(&["Host key verification failed", "HOST IDENTIFICATION HAS CHANGED", "REVOKED HOST KEY"])
            || (words.contains("host key") && words.contains("verif"))
        {
            Self::HostKey(about_key(words))
        } else if any(&[
            "Permission denied (",
            "Too many authentication failures",
            "No supported authentication",
        ]) {
            Self::KeyRefused(said)
        } else if any(&["subsystem request failed", "sftp-server: "]) {
            // The second where the subsystem is configured and its program is not installed.
            Self::NoSftp(said)
        } else if any(&[
            "connect to host",
            "Could not resolve",
            "Connection timed out",
            "banner exchange",
            "kex_exchange_identification",
            "Unable to negotiate",
        ]) {
            Self::Unreachable(said)
        } else if words.is_empty() {
            Self::Lost("the client ended without a word".to_owned())
        } else {
            Self::Lost(said)
        }
    }
}

impl From<SshError> for io::Error {
    fn from(error: SshError) -> Self {
        let kind = match &error {
            SshError::Start { .. } => io::ErrorKind::NotFound,
            SshError::Unreachable(_) => io::ErrorKind::HostUnreachable,
            SshError::HostKey(_) | SshError::KeyRefused(_) => io::ErrorKind::PermissionDenied,
            SshError::NoSftp(_) => io::ErrorKind::Unsupported,
            SshError::Lost(_) => io::ErrorKind::ConnectionAborted,
            SshError::Silent { .. } => io::ErrorKind::TimedOut,
            SshError::Protocol(_) => io::ErrorKind::InvalidData,
            SshError::Full => io::ErrorKind::StorageFull,
            SshError::Short { .. } => io::ErrorKind::WriteZero,
            SshError::Refused { code, .. } => match *code {
                status::NO_SUCH_FILE => io::ErrorKind::NotFound,
                status::PERMISSION_DENIED => io::ErrorKind::PermissionDenied,
                status::OP_UNSUPPORTED => io::ErrorKind::Unsupported,
                _ => io::ErrorKind::Other,
            },
            SshError::Command { .. } => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// The last of what the client says on stderr: no more than this is kept.
#[derive(Debug, Default)]
pub(super) struct Words(Vec<u8>);

impl Words {
    const MOST: usize = 2 << 10;

    pub fn add(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        if let Some(excess) = self.0.len().checked_sub(Self::MOST) {
            self.0.drain(..excess);
        }
    }

    /// One line of printable text: the frame of `@` that OpenSSH draws is left out.
    pub fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.0);
        let lines = text.lines().map(|l| l.trim_matches(['@', ' ', '\r', '\t'])).filter(|l| !l.is_empty());
        let joined = lines.collect::<Vec<_>>().join("; ");
        joined.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words of OpenSSH 9.2.
    #[test]
    fn the_clients_words_are_understood() {
        for (words, code) in [
            ("ssh: connect to host 10.0.0.1 port 22: Connection refused\r\n", Code::SSH_UNREACHABLE),
            ("ssh: connect to host 10.0.0.1 port 22: No route to host\r\n", Code::SSH_UNREACHABLE),
            (
                "Connection timed out during banner exchange\r\nConnection to 127.0.0.1 port 22 timed out\r\n",
                Code::SSH_UNREACHABLE,
            ),
            ("Unable to negotiate with 127.0.0.1 port 22: no matching cipher found.", Code::SSH_UNREACHABLE),
            ("kex_exchange_identification: Connection closed by remote host", Code::SSH_UNREACHABLE),
            (
                "@@@@@@@@@@@@\r\n@  WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!  @\r\n@@@@@@@\r\nHost key verification failed.\r\n",
                Code::SSH_HOST_KEY,
            ),
            (
                "No ED25519 host key is known for dumps and you have requested strict checking.\r\nHost key verification failed.\r\n",
                Code::SSH_HOST_KEY,
            ),
            ("kdump@10.0.0.1: Permission denied (publickey,password).\r\n", Code::SSH_KEY_REFUSED),
            (
                "Received disconnect from 127.0.0.1 port 22:2: Too many authentication failures\r\nDisconnected",
                Code::SSH_KEY_REFUSED,
            ),
            ("subsystem request failed on channel 0\r\n", Code::SSH_NO_SFTP),
            ("bash: line 1: /usr/lib/sftp-server: No such file or directory\n", Code::SSH_NO_SFTP),
            ("Timeout, server 10.0.0.1 not responding.\r\n", Code::SSH_LOST),
            ("Connection to 10.0.0.1 closed by remote host.\r\n", Code::SSH_LOST),
            ("", Code::SSH_LOST),
        ] {
            let mut kept = Words::default();
            kept.add(words.as_bytes());
            let error = SshError::from_client(&kept.text());
            assert_eq!(error.code(), code, "{words}: {error}");
            assert!(!error.to_string().contains(['@', '\r', '\n']) || words.contains("kdump@"), "{error}");
        }
    }

    #[test]
    fn words_are_bounded() {
        let mut words = Words::default();
        for n in 0..10_000 {
            words.add(format!("line {n}\n").as_bytes());
        }
        assert!(words.text().len() <= 2 * Words::MOST);
        assert!(words.text().ends_with("line 9999"));
    }

    #[test]
    fn full_is_full() {
        let error = io::Error::from(SshError::Full);
        assert!(crate::target::is_full(&error));
        assert_eq!(SshError::within(&error), Some(&SshError::Full));
    }
}

//! SFTP version 3 as bytes: draft-ietf-secsh-filexfer-02, and the extensions of OpenSSH's file PROTOCOL.
//!
//! ```text
//! u32 length of what follows, u8 type, u32 request id (in INIT and VERSION: the version), fields
//! ```
//!
//! Numbers are big-endian; a string is a u32 length and that many bytes.

/// The version that is spoken.
pub(super) const VERSION: u32 = 3;

/// The longest packet that is accepted of a server. Answers are short: a status with its message, a handle, attributes.
pub(super) const LONGEST: usize = 64 << 10;

/// Bytes of length, type and id.
pub(super) const HEAD: usize = 9;

/// The longest handle (draft, "Handles": at most 256 bytes).
const LONGEST_HANDLE: usize = 256;

/// Types of packets.
pub(super) mod kind {
    pub const INIT: u8 = 1;
    pub const VERSION: u8 = 2;
    pub const OPEN: u8 = 3;
    pub const CLOSE: u8 = 4;
    pub const WRITE: u8 = 6;
    pub const LSTAT: u8 = 7;
    pub const FSETSTAT: u8 = 10;
    pub const REMOVE: u8 = 13;
    pub const MKDIR: u8 = 14;
    pub const RMDIR: u8 = 15;
    pub const STAT: u8 = 17;
    pub const RENAME: u8 = 18;
    pub const STATUS: u8 = 101;
    pub const HANDLE: u8 = 102;
    pub const ATTRS: u8 = 105;
    pub const EXTENDED: u8 = 200;
    pub const EXTENDED_REPLY: u8 = 201;
}

/// Flags of OPEN.
pub(super) mod open {
    pub const READ: u32 = 1;
    pub const WRITE: u32 = 2;
    pub const CREAT: u32 = 8;
    pub const EXCL: u32 = 0x20;
}

/// Codes of STATUS.
pub(super) mod status {
    pub const OK: u32 = 0;
    pub const NO_SUCH_FILE: u32 = 2;
    pub const PERMISSION_DENIED: u32 = 3;
    pub const FAILURE: u32 = 4;
    pub const BAD_MESSAGE: u32 = 5;
    pub const NO_CONNECTION: u32 = 6;
    pub const CONNECTION_LOST: u32 = 7;
    pub const OP_UNSUPPORTED: u32 = 8;

    /// What the draft calls it.
    pub fn name(code: u32) -> &'static str {
        match code {
            OK => "OK",
            1 => "end of file",
            NO_SUCH_FILE => "no such file",
            PERMISSION_DENIED => "permission denied",
            FAILURE => "failure",
            BAD_MESSAGE => "bad message",
            NO_CONNECTION => "no connection",
            CONNECTION_LOST => "connection lost",
            OP_UNSUPPORTED => "operation unsupported",
            _ => "unknown status",
        }
    }
}

/// Flags of attributes.
mod attr {
    pub const SIZE: u32 = 1;
    pub const UIDGID: u32 = 2;
    pub const PERMISSIONS: u32 = 4;
}

/// A request being put together, its length to be filled in last.
#[derive(Debug)]
pub(super) struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// A request of this type; `id` is the version for INIT.
    pub fn new(kind: u8, id: u32) -> Self {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(&[0; 4]);
        bytes.push(kind);
        bytes.extend_from_slice(&id.to_be_bytes());
        Self { bytes }
    }

    pub fn u32(mut self, value: u32) -> Self {
        self.bytes.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub fn u64(mut self, value: u64) -> Self {
        self.bytes.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub fn string(mut self, value: &[u8]) -> Self {
        // Paths and handles, which are short.
        self.bytes.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_be_bytes());
        self.bytes.extend_from_slice(value);
        self
    }

    /// Attributes that say nothing but permissions.
    pub fn mode(self, mode: u32) -> Self {
        self.u32(attr::PERMISSIONS).u32(mode)
    }

    /// The packet, to be followed by `more` bytes that belong to it.
    pub fn finish(mut self, more: usize) -> Vec<u8> {
        let len = self.bytes.len().saturating_sub(4).saturating_add(more);
        let len = u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes();
        for (to, from) in self.bytes.iter_mut().zip(len) {
            *to = from;
        }
        self.bytes
    }
}

/// An answer, checked for as much as its type promises.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    /// The server's version and the names of its extensions.
    Version {
        version: u32,
        extensions: Vec<String>,
    },
    Status {
        code: u32,
        message: String,
    },
    Handle(Vec<u8>),
    Attributes {
        mode: Option<u32>,
    },
    /// What follows depends on the request.
    Extended(Vec<u8>),
}

/// Reads fields off the front of bytes.
pub(super) struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }
    pub fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }
    pub fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }
    pub fn u64(&mut self) -> Option<u64> {
        Some(u64::from_be_bytes(self.take(8)?.try_into().ok()?))
    }
    pub fn string(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.u32()?).ok()?;
        self.take(len)
    }
}

/// The length of the packet at the front, its length field counted; `None` while that is not there.
pub(super) fn length(bytes: &[u8]) -> Option<Result<usize, String>> {
    let len = Fields(bytes).u32()?;
    let whole = usize::try_from(len).ok().and_then(|len| len.checked_add(4));
    Some(match whole {
        Some(whole) if (HEAD..=LONGEST).contains(&whole) => Ok(whole),
        _ => Err(format!("a packet of {len} bytes where {} to {} are expected", HEAD - 4, LONGEST - 4)),
    })
}

/// A whole packet: its id (the version, of VERSION) and what it says.
pub(super) fn parse(packet: &[u8]) -> Result<(u32, Answer), String> {
    let mut fields = Fields(packet);
    let head = || "a packet without type and id".to_owned();
    fields.u32().ok_or_else(head)?;
    let kind = fields.u8().ok_or_else(head)?;
    let id = fields.u32().ok_or_else(head)?;
    let short = |what| format!("a {what} that is cut short");
    let answer = match kind {
        kind::VERSION => {
            let mut extensions = Vec::new();
            while !fields.0.is_empty() {
                let name = fields.string().ok_or_else(|| short("VERSION"))?;
                fields.string().ok_or_else(|| short("VERSION"))?;
                extensions.push(String::from_utf8_lossy(name).into_owned());
            }
            Answer::Version { version: id, extensions }
        }
        kind::STATUS => {
            let code = fields.u32().ok_or_else(|| short("STATUS"))?;
            // Servers of older drafts send no message.
            Answer::Status { code, message: fields.string().map(plain).unwrap_or_default() }
        }
        kind::HANDLE => {
            let handle = fields.string().ok_or_else(|| short("HANDLE"))?;
            if handle.len() > LONGEST_HANDLE {
                return Err(format!("a handle of {} bytes", handle.len()));
            }
            Answer::Handle(handle.to_vec())
        }
        kind::ATTRS => {
            let short = || short("ATTRS");
            let flags = fields.u32().ok_or_else(short)?;
            if flags & attr::SIZE != 0 {
                fields.u64().ok_or_else(short)?;
            }
            if flags & attr::UIDGID != 0 {
                fields.u64().ok_or_else(short)?;
            }
            let mode =
                if flags & attr::PERMISSIONS != 0 { Some(fields.u32().ok_or_else(short)?) } else { None };
            Answer::Attributes { mode }
        }
        kind::EXTENDED_REPLY => Answer::Extended(fields.0.to_vec()),
        other => return Err(format!("a packet of type {other}")),
    };
    Ok((id, answer))
}

/// Text of a server, for people: printable, and not much of it.
pub(super) fn plain(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet(kind: u8, id: u32, rest: &[u8]) -> Vec<u8> {
        let mut bytes = Request::new(kind, id).finish(rest.len());
        bytes.extend_from_slice(rest);
        bytes
    }

    #[test]
    fn requests_are_as_the_draft_has_them() {
        let open = Request::new(kind::OPEN, 7).string(b"/a").u32(open::WRITE | open::CREAT).mode(0o600);
        assert_eq!(
            open.finish(0),
            [0, 0, 0, 23, 3, 0, 0, 0, 7, 0, 0, 0, 2, b'/', b'a', 0, 0, 0, 10, 0, 0, 0, 4, 0, 0, 1, 0o200]
        );
        assert_eq!(Request::new(kind::INIT, VERSION).finish(0), [0, 0, 0, 5, 1, 0, 0, 0, 3]);
        assert_eq!(Request::new(kind::WRITE, 1).finish(300)[..4], [0, 0, 1, 49]);
    }

    #[test]
    fn answers_are_read() {
        let version = packet(kind::VERSION, 3, b"\0\0\0\x06fsync@\0\0\0\x011");
        let known = Answer::Version { version: 3, extensions: vec!["fsync@".into()] };
        assert_eq!(parse(&version), Ok((3, known)));
        for (rest, code, message) in [
            (&b"\0\0\0\x04"[..], 4, ""),
            (b"\0\0\0\x03\0\0\0\x03no\x1b\0\0\0\0", 3, "no"),
            (b"\0\0\0\x04\xff\xff\xff\xffx", 4, ""),
        ] {
            let status = Answer::Status { code, message: message.into() };
            assert_eq!(parse(&packet(kind::STATUS, 9, rest)), Ok((9, status)), "{rest:?}");
        }
        let attributes =
            packet(kind::ATTRS, 9, b"\0\0\0\x07\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0\0\0\0\x41\xc0\0\0\0\0");
        assert_eq!(parse(&attributes), Ok((9, Answer::Attributes { mode: Some(0o40700) })));
    }

    #[test]
    fn nonsense_is_refused() {
        for (bytes, why) in [
            (packet(kind::HANDLE, 1, &[0, 0, 2, 0]), "cut short"),
            (packet(kind::HANDLE, 1, &[&[0, 0, 1, 1][..], &[7; 257]].concat()), "a handle of 257 bytes"),
            (packet(kind::VERSION, 3, &[0, 0, 0, 1, b'x']), "cut short"),
            (packet(kind::ATTRS, 3, &[0, 0, 0, 1, 0]), "cut short"),
            (packet(kind::STATUS, 3, &[0, 0, 0]), "cut short"),
            (packet(99, 3, &[]), "type 99"),
        ] {
            let error = parse(&bytes).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        for len in [0_u32, 4, 65533, u32::MAX] {
            assert!(length(&len.to_be_bytes()).unwrap().is_err(), "{len}");
        }
        assert_eq!(length(&[0, 0, 0]), None);
        assert_eq!(length(&[0, 0, 0, 5]), Some(Ok(9)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = length(&bytes);
            let _ = parse(&bytes);
        }
    }
}

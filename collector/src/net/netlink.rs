//! Route netlink: a socket, requests, and attributes.
//!
//! Ours and not a library's: a dozen messages are all that is sent, and of what comes back everything unknown has to be
//! passed over, as the crash kernel may be newer than this program. (netlink-packet-route types every attribute, and
//! refuses the whole message where one of them has another length than it knows.)

use crate::sys;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, sendto,
    setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// The longest answer that is taken: the kernel's own dumps come in pieces of at most 32 KiB.
const LONGEST: usize = 64 << 10;

/// How long the kernel may take for one answer. It answers at once, unless somebody holds its lock.
const PATIENCE: TimeVal = TimeVal::new(10, 0);

/// How often a dump is begun again because what it lists has changed meanwhile.
const RESTARTS: u32 = 5;

/// Bytes of `struct nlmsghdr`: length, type, flags, sequence number, sender.
const HEADER: usize = 16;

/// Flags of requests.
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
/// Flag of a request for a new object: replace one of its name.
pub const REPLACE: u16 = 0x100;
/// Flag of a request for a new object: fail if there is one of its name.
pub const EXCLUSIVE: u16 = 0x200;
/// Flag of a request for a new object: make it.
pub const CREATE: u16 = 0x400;
/// The dump is not of one moment.
const INTERRUPTED: u16 = 0x10;
/// Of an error: no copy of the request follows.
const CAPPED: u16 = 0x100;
/// Of an error: attributes follow.
const EXPLAINED: u16 = 0x200;

/// Types of messages that are not about anything.
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// Attribute types carry two flags.
const TYPE_MASK: u16 = 0x3fff;
const NESTED: u16 = 0x8000;

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The kernel refuses.
    #[error("{}", said.as_deref().unwrap_or("the kernel refuses"))]
    Refused {
        /// The error number.
        source: io::Error,
        /// The kernel's reason in words.
        said: Option<String>,
    },
    /// The socket failed.
    #[error("route netlink failed")]
    Socket(#[source] io::Error),
    /// What came back is no answer.
    #[error("route netlink: {0}")]
    Nonsense(&'static str),
}

impl NetlinkError {
    /// The kernel's error number, where it refused.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { source, .. } => source.raw_os_error().map(Errno::from_raw),
            Self::Socket(_) | Self::Nonsense(_) => None,
        }
    }
}

/// A request that is being written.
#[derive(Clone, Debug)]
pub struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// A request of this type (`RTM_*`) with these flags, and the fixed part that follows the header.
    pub fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        put(&mut bytes, 4, &kind.to_ne_bytes());
        put(&mut bytes, 6, &flags.to_ne_bytes());
        bytes.extend_from_slice(fixed);
        pad(&mut bytes);
        Self { bytes }
    }

    /// Adds an attribute.
    #[must_use]
    pub fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len().saturating_add(4)).unwrap_or(4);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value.get(..usize::from(length).saturating_sub(4)).unwrap_or_default());
        pad(&mut self.bytes);
        self
    }

    /// Adds an attribute of one byte.
    #[must_use]
    pub fn u8(self, kind: u16, value: u8) -> Self {
        self.bytes(kind, &[value])
    }

    /// Adds an attribute of two bytes, in the machine's order.
    #[must_use]
    pub fn u16(self, kind: u16, value: u16) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// Adds an attribute of four bytes, in the machine's order.
    #[must_use]
    pub fn u32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// Adds a text, with the zero that ends it.
    #[must_use]
    pub fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    /// Adds an attribute that holds those that `fill` adds.
    #[must_use]
    pub fn nest(mut self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        let mut filled = fill(self);
        let length = u16::try_from(filled.bytes.len().saturating_sub(start)).unwrap_or(u16::MAX);
        put(&mut filled.bytes, start, &length.to_ne_bytes());
        put(&mut filled.bytes, start.saturating_add(2), &(kind | NESTED).to_ne_bytes());
        filled
    }

    /// What follows the header.
    pub fn body(&self) -> &[u8] {
        self.bytes.get(HEADER..).unwrap_or_default()
    }

    /// The message, complete.
    fn finish(mut self, flags: u16, sequence: u32) -> Vec<u8> {
        let given = self.bytes.get(6..8).and_then(|b| b.try_into().ok()).map_or(0, u16::from_ne_bytes);
        let length = u32::try_from(self.bytes.len()).unwrap_or(0);
        put(&mut self.bytes, 0, &length.to_ne_bytes());
        put(&mut self.bytes, 6, &(given | flags).to_ne_bytes());
        put(&mut self.bytes, 8, &sequence.to_ne_bytes());
        self.bytes
    }
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    for (to, from) in bytes.iter_mut().skip(at).zip(value) {
        *to = *from;
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// A message that has been received.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// `RTM_*`.
    pub kind: u16,
    flags: u16,
    sequence: u32,
    /// What follows the header.
    pub body: &'a [u8],
}

/// The messages in what was received, up to the first that makes no sense.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
        let body = bytes.get(HEADER..length)?;
        let message =
            Message { kind: u16_at(bytes, 4)?, flags: u16_at(bytes, 6)?, sequence: u32_at(bytes, 8)?, body };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// The attributes in `bytes`, type and value, up to the first that makes no sense.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let value = bytes.get(4..length)?;
        let kind = u16_at(bytes, 2)? & TYPE_MASK;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of the first attribute of this type.
pub fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

/// Two bytes, in the machine's order.
pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.get(..2)?.try_into().ok().map(u16::from_ne_bytes)
}

/// Four bytes, in the machine's order.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.get(..4)?.try_into().ok().map(u32::from_ne_bytes)
}

/// A text up to the zero that ends it.
pub fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

/// A connection to the kernel's networking.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl Socket {
    /// Opens one.
    pub fn open() -> Result<Self, NetlinkError> {
        let open = || -> Result<OwnedFd, Errno> {
            let fd = socket(
                AddressFamily::Netlink,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::NetlinkRoute,
            )?;
            bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
            setsockopt(&fd, sockopt::ReceiveTimeout, &PATIENCE)?;
            Ok(fd)
        };
        let fd = open().map_err(|e| NetlinkError::Socket(e.into()))?;
        sys::explain_errors(&fd);
        Ok(Self { fd, sequence: 0, buffer: vec![0; LONGEST] })
    }

    /// Has something done.
    pub fn request(&mut self, request: Request) -> Result<(), NetlinkError> {
        self.talk(request, REQUEST | ACK, &mut |_, _| {}).map(drop)
    }

    /// Asks for one object and hands its message on.
    pub fn ask(&mut self, request: Request, each: &mut dyn FnMut(u16, &[u8])) -> Result<(), NetlinkError> {
        self.talk(request, REQUEST | ACK, each).map(drop)
    }

    /// Asks for all objects and hands on the message of each. An object that changes meanwhile may come twice.
    pub fn dump(&mut self, request: &Request, each: &mut dyn FnMut(u16, &[u8])) -> Result<(), NetlinkError> {
        for _ in 0..RESTARTS {
            if self.talk(request.clone(), REQUEST | DUMP, each)? {
                break;
            }
        }
        Ok(())
    }

    /// One request and all of its answer. False when a dump is not of one moment.
    fn talk(
        &mut self,
        request: Request,
        flags: u16,
        each: &mut dyn FnMut(u16, &[u8]),
    ) -> Result<bool, NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = request.finish(flags, self.sequence);
        let failed = |e: Errno| NetlinkError::Socket(e.into());
        sendto(self.fd.as_raw_fd(), &bytes, &NetlinkAddr::new(0, 0), MsgFlags::empty()).map_err(failed)?;
        let mut consistent = true;
        loop {
            let (size, from) = match recvfrom::<NetlinkAddr>(self.fd.as_raw_fd(), &mut self.buffer) {
                Ok(received) => received,
                Err(Errno::EINTR) => continue,
                Err(e) => return Err(failed(e)),
            };
            // Any process may send to a netlink socket; the kernel is number 0.
            if from.is_none_or(|from| from.pid() != 0) {
                continue;
            }
            for message in messages(self.buffer.get(..size).unwrap_or_default()) {
                if message.sequence != self.sequence {
                    continue;
                }
                consistent &= message.flags & INTERRUPTED == 0;
                match message.kind {
                    DONE => return result(message).map(|()| consistent),
                    ERROR => return result(message).map(|()| consistent),
                    kind => each(kind, message.body),
                }
            }
        }
    }
}

/// What an acknowledgement or the end of a dump says.
fn result(message: Message<'_>) -> Result<(), NetlinkError> {
    let body = message.body;
    let Some(number) = u32_at(body, 0) else {
        // The end of a dump says nothing more on some kernels.
        return if message.kind == DONE {
            Ok(())
        } else {
            Err(NetlinkError::Nonsense("an error without a number"))
        };
    };
    let number = i32::from_ne_bytes(number.to_ne_bytes());
    if number >= 0 {
        return Ok(());
    }
    let mut said = None;
    if message.flags & EXPLAINED != 0 {
        // The header of the request follows the number, and all of it where it is not capped.
        let copied = if message.flags & CAPPED != 0 {
            HEADER
        } else {
            usize::try_from(u32_at(body, 4).unwrap_or(0)).unwrap_or(0).next_multiple_of(4)
        };
        let rest = body.get(copied.saturating_add(4)..).unwrap_or_default();
        said = attribute(rest, 1).map(text);
    }
    Err(NetlinkError::Refused { source: io::Error::from_raw_os_error(number.saturating_neg()), said })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_what_the_kernel_reads() {
        // What `ip link add link eth0 name v type vlan id 7` sends (iproute2 6.1, strace -e raw=sendmsg), with index 2.
        let request = Request::new(16, CREATE | EXCLUSIVE, &[0; 16])
            .u32(5, 2)
            .text(3, "v")
            .nest(18, |r| r.text(1, "vlan").nest(2, |r| r.u16(1, 7)));
        let bytes = request.finish(REQUEST | ACK, 9);
        let expected: Vec<u8> = [
            &[84_u8, 0, 0, 0, 16, 0, 5, 6, 9, 0, 0, 0, 0, 0, 0, 0][..],
            &[0; 16],
            &[8, 0, 5, 0, 2, 0, 0, 0],
            &[6, 0, 3, 0, b'v', 0, 0, 0],
            &[28, 0, 18, 0x80],
            &[9, 0, 1, 0, b'v', b'l', b'a', b'n', 0, 0, 0, 0],
            &[12, 0, 2, 0x80, 6, 0, 1, 0, 7, 0, 0, 0],
        ]
        .concat();
        if cfg!(target_endian = "little") {
            assert_eq!(bytes.len(), usize::try_from(u32_at(&bytes, 0).unwrap()).unwrap());
            assert_eq!(bytes[16..], expected[16..]);
        }
    }

    #[test]
    fn hostile_attributes_end_the_list() {
        for (name, bytes, count) in [
            ("none", &[][..], 0),
            ("half a header", &[4, 0], 0),
            ("no value", &[4, 0, 1, 0], 1),
            ("shorter than its header", &[3, 0, 1, 0, 9, 9, 9, 9], 0),
            ("length 0", &[0, 0, 1, 0, 9, 9, 9, 9], 0),
            ("longer than the rest", &[9, 0, 1, 0, 9, 9, 9, 9], 0),
            ("the last without padding", &[8, 0, 1, 0, 9, 9, 9, 9, 5, 0, 2, 0, 7], 2),
            ("the longest there is", &[0xff, 0xff, 0xff, 0xff], 0),
        ] {
            assert_eq!(attributes(bytes).count(), count, "{name}");
        }
        for (name, bytes, count) in [
            ("none", &[][..], 0),
            ("a length of nothing", &[0; 16], 0),
            ("too long", &[17, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 0),
            ("huge", &[0xff; 16], 0),
            ("exactly a header", &[16, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 1),
        ] {
            assert_eq!(messages(bytes).count(), count, "{name}");
        }
    }

    #[test]
    fn errors_come_with_the_kernels_words() {
        let number = (-libc::EINVAL).to_ne_bytes();
        let words = Request::new(0, 0, &[]).text(1, "Bad mode").finish(0, 0).split_off(HEADER);
        let message =
            |flags, body: &[u8]| format!("{:?}", result(Message { kind: ERROR, flags, sequence: 0, body }));
        let capped = [&number[..], &[0; HEADER], &words].concat();
        assert!(message(CAPPED | EXPLAINED, &capped).contains("Bad mode"));
        let whole = [&number[..], &20_u32.to_ne_bytes(), &[0; 16], &words].concat();
        assert!(message(EXPLAINED, &whole).contains("Bad mode"));
        let lying = [&number[..], &u32::MAX.to_ne_bytes(), &[0; 16], &words].concat();
        assert!(message(EXPLAINED, &lying).contains("said: None"));
        assert!(message(0, &number).contains("said: None"));
        assert!(message(0, &[0; 4]).contains("Ok"));
        assert!(message(0, &[1]).contains("without a number"));
        assert!(message(0, &i32::MIN.to_ne_bytes()).contains("Refused"));
    }
}

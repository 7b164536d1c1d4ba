//! A DHCP client (RFC 2131) for one case: the address that was recorded does not work, and it came from a lease.
//!
//! It speaks UDP on a link without an address, asks for the answer by broadcast, and so needs no packet socket. Answers come
//! from anybody on the network: each is checked, and nothing of it is used but address, mask, router and who sent it.

use crate::plan::network::{Lease, Mac};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrIn, bind, recv, sendto, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use std::fs;
use std::io::Read;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// The longest answer that is read.
const LONGEST: usize = 1500;
/// What all packets begin with, after the fixed part.
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// Bytes before the cookie.
const FIXED: usize = 236;
/// The shortest packet that old servers and relays take.
const SHORTEST: usize = 300;

/// Message types, option 53.
const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACK: u8 = 5;
const NAK: u8 = 6;

/// Why there is no lease.
#[derive(Debug, thiserror::Error)]
pub enum DhcpError {
    /// No socket on the link.
    #[error("cannot {doing}")]
    Socket {
        /// What was wanted.
        doing: &'static str,
        /// What the kernel said.
        #[source]
        source: nix::Error,
    },
    /// Nobody answers.
    #[error("no DHCP server answers after {:.1} s and {asked} requests", .after.as_secs_f64())]
    Silence {
        /// How often was asked.
        asked: u32,
        /// The time waited.
        after: Duration,
    },
}

/// What a server gives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Given {
    /// Our address.
    pub address: Ipv4Addr,
    /// Bits of its network.
    pub prefix: u8,
    /// The first router.
    pub router: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
    kind: u8,
}

/// Asks for a lease on a link until one is given or it is `until`.
pub fn obtain(lease: &Lease, mac: Mac, until: Instant) -> Result<Given, DhcpError> {
    let start = Instant::now();
    let socket = open(&lease.link)?;
    let transaction = transaction();
    let client_id = lease.client_id.as_deref().and_then(from_hex);
    let ask =
        |kind, wanted: Ipv4Addr, server| packet(kind, transaction, mac, client_id.as_deref(), wanted, server);
    let mut asked = 0_u32;
    let mut pause = Duration::from_secs(1);
    while Instant::now() < until {
        asked = asked.saturating_add(1);
        send(&socket, &ask(DISCOVER, lease.address, None))?;
        let wait = Instant::now().checked_add(pause).map_or(until, |at| at.min(until));
        pause = (pause * 2).min(Duration::from_secs(8));
        let Some(offer) = hear(&socket, transaction, mac, wait, &[OFFER]) else { continue };
        send(&socket, &ask(REQUEST, offer.address, offer.server))?;
        let wait = Instant::now().checked_add(Duration::from_secs(3)).map_or(until, |at| at.min(until));
        match hear(&socket, transaction, mac, wait, &[ACK, NAK]) {
            Some(given) if given.kind == ACK => return Ok(given),
            Some(_) | None => {}
        }
    }
    Err(DhcpError::Silence { asked, after: start.elapsed() })
}

fn open(link: &str) -> Result<OwnedFd, DhcpError> {
    let failed = |doing| move |source| DhcpError::Socket { doing, source };
    let fd = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .map_err(failed("open a UDP socket"))?;
    setsockopt(&fd, sockopt::ReuseAddr, &true).map_err(failed("share port 68"))?;
    setsockopt(&fd, sockopt::Broadcast, &true).map_err(failed("broadcast"))?;
    setsockopt(&fd, sockopt::BindToDevice, &link.into()).map_err(failed("use one link alone"))?;
    bind(fd.as_raw_fd(), &SockaddrIn::new(0, 0, 0, 0, 68)).map_err(failed("listen at port 68"))?;
    Ok(fd)
}

fn send(socket: &OwnedFd, packet: &[u8]) -> Result<(), DhcpError> {
    let all = SockaddrIn::new(255, 255, 255, 255, 67);
    sendto(socket.as_raw_fd(), packet, &all, MsgFlags::empty())
        .map(drop)
        .map_err(|source| DhcpError::Socket { doing: "send to all", source })
}

/// The first sound answer of one of these kinds.
fn hear(socket: &OwnedFd, transaction: u32, mac: Mac, until: Instant, kinds: &[u8]) -> Option<Given> {
    let mut buffer = [0; LONGEST];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        let left = TimeVal::milliseconds(i64::try_from(left.as_millis()).unwrap_or(1000).max(1));
        if setsockopt(socket, sockopt::ReceiveTimeout, &left).is_err() {
            return None;
        }
        let Ok(size) = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) else { continue };
        let answer = buffer.get(..size).and_then(|bytes| parse(bytes, transaction, mac));
        if let Some(given) = answer.filter(|given| kinds.contains(&given.kind)) {
            return Some(given);
        }
    }
}

/// A number that tells our answers from others'. The address tells too; this need not be unguessable.
fn transaction() -> u32 {
    let mut bytes = [0; 4];
    match fs::File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut bytes)) {
        Ok(()) => u32::from_ne_bytes(bytes),
        Err(_) => std::process::id() ^ 0x5643_0000,
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect();
    let digits = digits.filter(|d| d.len() % 2 == 0 && (4..=510).contains(&d.len()))?;
    Some(digits.chunks_exact(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect())
}

fn packet(
    kind: u8,
    transaction: u32,
    mac: Mac,
    client_id: Option<&[u8]>,
    wanted: Ipv4Addr,
    server: Option<Ipv4Addr>,
) -> Vec<u8> {
    // Request, Ethernet, addresses of six bytes.
    let mut packet = vec![1, 1, 6, 0];
    packet.extend_from_slice(&transaction.to_be_bytes());
    // Answer by broadcast: we have no address yet.
    packet.extend_from_slice(&[0, 0, 0x80, 0]);
    packet.extend_from_slice(&[0; 16]);
    packet.extend_from_slice(&mac.0);
    packet.resize(FIXED, 0);
    packet.extend_from_slice(&COOKIE);
    packet.extend_from_slice(&[53, 1, kind]);
    if let Some((id, length)) = client_id.and_then(|id| Some((id, u8::try_from(id.len()).ok()?))) {
        packet.extend_from_slice(&[61, length]);
        packet.extend_from_slice(id);
    }
    packet.extend_from_slice(&[50, 4]);
    packet.extend_from_slice(&wanted.octets());
    if let Some(server) = server {
        packet.extend_from_slice(&[54, 4]);
        packet.extend_from_slice(&server.octets());
    }
    // Mask and routers, please.
    packet.extend_from_slice(&[55, 2, 1, 3, 255]);
    packet.resize(packet.len().max(SHORTEST), 0);
    packet
}

/// Reads an answer that is for us.
fn parse(bytes: &[u8], transaction: u32, mac: Mac) -> Option<Given> {
    let ours = bytes.first() == Some(&2)
        && bytes.get(4..8) == Some(&transaction.to_be_bytes()[..])
        && bytes.get(28..34) == Some(&mac.0[..])
        && bytes.get(FIXED..)?.starts_with(&COOKIE);
    if !ours {
        return None;
    }
    let address = address_at(bytes.get(16..20)?)?;
    let mut options = bytes.get(FIXED.checked_add(COOKIE.len())?..)?;
    let (mut kind, mut mask, mut router, mut server) = (0, None, None, None);
    while let [code, rest @ ..] = options {
        match code {
            0 => options = rest,
            255 => break,
            _ => {
                let (length, rest) = rest.split_first()?;
                let value = rest.get(..usize::from(*length))?;
                match code {
                    1 => mask = address_at(value),
                    3 => router = value.get(..4).and_then(address_at),
                    53 => kind = *value.first()?,
                    54 => server = address_at(value),
                    _ => {}
                }
                options = rest.get(usize::from(*length)..)?;
            }
        }
    }
    let usable =
        |a: Ipv4Addr| !(a.is_unspecified() || a.is_broadcast() || a.is_loopback() || a.is_multicast());
    if kind != NAK && !usable(address) {
        return None;
    }
    // Without a mask the address stands alone, and everything goes by the router.
    let mask = u32::from(mask.unwrap_or(Ipv4Addr::BROADCAST));
    let prefix = u8::try_from(mask.leading_ones())
        .ok()
        .filter(|_| mask.leading_ones() + mask.trailing_zeros() == 32)?;
    Some(Given { address, prefix, router: router.filter(|r| usable(*r)), server, kind })
}

fn address_at(bytes: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(bytes).ok().map(Ipv4Addr::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

    fn answer(options: &[u8]) -> Vec<u8> {
        let mut bytes = packet(DISCOVER, 7, MAC, None, Ipv4Addr::UNSPECIFIED, None);
        bytes.truncate(FIXED + 4);
        bytes[0] = 2;
        bytes[16..20].copy_from_slice(&[10, 0, 0, 5]);
        bytes.extend_from_slice(options);
        bytes
    }

    #[test]
    fn answers_are_read() {
        let whole = answer(&[
            0, 53, 1, 2, 1, 4, 255, 255, 255, 0, 3, 8, 10, 0, 0, 1, 10, 0, 0, 2, 54, 4, 10, 0, 0, 3, 255, 9,
        ]);
        let given = parse(&whole, 7, MAC).unwrap();
        assert_eq!((given.address, given.prefix, given.kind), (Ipv4Addr::new(10, 0, 0, 5), 24, OFFER));
        assert_eq!(
            (given.router, given.server),
            (Some(Ipv4Addr::new(10, 0, 0, 1)), Some(Ipv4Addr::new(10, 0, 0, 3)))
        );
        assert_eq!(parse(&answer(&[53, 1, 5]), 7, MAC).unwrap().prefix, 32);
        assert_eq!(parse(&whole, 8, MAC), None);
        assert_eq!(parse(&whole, 7, Mac([9; 6])), None);
    }

    #[test]
    fn hostile_answers_are_not_used() {
        for (name, options) in [
            ("an option beyond the end", &[53, 1, 2, 1, 9, 255][..]),
            ("an option without a length", &[53, 1, 2, 1]),
            ("an empty type", &[53, 0]),
            ("a mask with holes", &[53, 1, 2, 1, 4, 255, 0, 255, 0]),
        ] {
            assert_eq!(parse(&answer(options), 7, MAC), None, "{name}");
        }
        let whole = answer(&[53, 1, 5, 1, 4, 255, 255, 255, 0, 255]);
        for end in 0..FIXED + 4 {
            assert_eq!(parse(&whole[..end], 7, MAC), None, "cut at {end}");
        }
        for address in [[0; 4], [255; 4], [127, 0, 0, 1], [224, 0, 0, 1]] {
            let mut bytes = whole.clone();
            bytes[16..20].copy_from_slice(&address);
            assert_eq!(parse(&bytes, 7, MAC), None, "{address:?}");
        }
        // Routers that are none.
        let given = parse(&answer(&[53, 1, 5, 3, 3, 1, 2, 3]), 7, MAC).unwrap();
        assert_eq!(given.router, None);
    }

    #[test]
    fn any_bytes_are_survived() {
        use proptest::prelude::*;
        proptest!(|(bytes in proptest::collection::vec(any::<u8>(), 0..400), options in proptest::collection::vec(any::<u8>(), 0..80))| {
            let _ = parse(&bytes, 7, MAC);
            let _ = parse(&answer(&options), 7, MAC);
        });
    }

    #[test]
    fn identifiers() {
        for (text, bytes) in
            [("", None), ("ff", None), ("ff0", None), ("ffxx", None), ("ff01", Some(vec![255, 1]))]
        {
            assert_eq!(from_hex(text), bytes, "{text}");
        }
        let with = packet(
            REQUEST,
            7,
            MAC,
            Some(&[1, 2]),
            Ipv4Addr::new(10, 0, 0, 5),
            Some(Ipv4Addr::new(10, 0, 0, 3)),
        );
        assert_eq!(with.len(), SHORTEST);
        assert_eq!(
            &with[FIXED + 4..FIXED + 28],
            [53, 1, 3, 61, 2, 1, 2, 50, 4, 10, 0, 0, 5, 54, 4, 10, 0, 0, 3, 55, 2, 1, 3, 255]
        );
    }
}

//! Addresses, routes and neighbours: what the layers above links need.

use super::netlink::{CREATE, NetlinkError, REPLACE, Request, Socket, attributes, u16_at, u32_at};
use crate::plan::network::{Address, Mac, Route};
use std::net::IpAddr;

/// `RTM_NEWADDR`, and so on.
const NEWADDR: u16 = 20;
const DELADDR: u16 = 21;
const NEWROUTE: u16 = 24;
const NEWNEIGH: u16 = 28;
const GETNEIGH: u16 = 30;

/// Scopes: everywhere, this link.
const UNIVERSE: u8 = 0;
const LINK: u8 = 253;

/// An entry of the neighbour table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Neighbour {
    /// `NUD_*`.
    pub state: u16,
    /// Whether it has answered.
    pub resolved: bool,
    /// Its address, once it has.
    pub mac: Option<Mac>,
}

impl Neighbour {
    /// Reads the body of an `RTM_NEWNEIGH`: the link, the address, the entry.
    fn parse(body: &[u8]) -> Option<(u32, IpAddr, Self)> {
        let (index, state) = (u32_at(body, 4)?, u16_at(body, 8)?);
        let (mut address, mut mac) = (None, None);
        for (kind, value) in attributes(body.get(12..)?) {
            match kind {
                1 => address = ip(value),
                2 => mac = Mac::from_bytes(value),
                _ => {}
            }
        }
        // REACHABLE, STALE, DELAY, PROBE, NOARP, PERMANENT.
        let resolved = state & (2 | 4 | 8 | 16 | 64 | 128) != 0;
        Some((index, address?, Self { state, resolved, mac }))
    }

    /// Nobody is being asked any more, or yet.
    pub fn is_idle(&self) -> bool {
        matches!(self.state, 0 | 32)
    }

    /// Its state in words.
    pub fn name(&self) -> &'static str {
        match self.state {
            0 => "not asked",
            1 => "no answer yet",
            32 => "nobody answers",
            _ if self.resolved => "answered",
            _ => "unknown",
        }
    }
}

/// An address from its bytes.
pub fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

/// The bytes of an address.
pub fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

/// `AF_INET` or `AF_INET6`.
pub fn family(address: IpAddr) -> u8 {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    u8::try_from(family).unwrap_or(0)
}

/// Bits of an address of this family.
pub fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// What the kernel knows of a neighbour.
pub fn look_up(socket: &mut Socket, index: u32, address: IpAddr) -> Result<Option<Neighbour>, NetlinkError> {
    let mut found = None;
    let fixed = [family(address), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    socket.dump(&Request::new(GETNEIGH, 0, &fixed), &mut |kind, body| {
        if kind == NEWNEIGH
            && let Some((link, who, neighbour)) = Neighbour::parse(body)
            && (link, who) == (index, address)
        {
            found = Some(neighbour);
        }
    })?;
    Ok(found)
}

/// Has the kernel ask for a neighbour, as if there were a packet for it.
pub fn ask_for(index: u32, address: IpAddr) -> Request {
    /// `NTF_USE`.
    const USE: u8 = 1;
    let index = index.to_ne_bytes();
    let fixed = [&[family(address), 0, 0, 0][..], &index, &[0, 0, USE, 0]].concat();
    Request::new(NEWNEIGH, CREATE, &fixed).bytes(1, &octets(address))
}

fn address_header(index: u32, address: &Address) -> Vec<u8> {
    let local = match address.address {
        IpAddr::V4(a) => a.is_link_local(),
        IpAddr::V6(a) => a.is_unicast_link_local(),
    };
    let scope = if local { LINK } else { UNIVERSE };
    [&[family(address.address), address.prefix, 0, scope][..], &index.to_ne_bytes()].concat()
}

/// Gives a link an address. Nobody is asked whether it is in use: it was ours until a minute ago.
pub fn new_address(index: u32, address: &Address) -> Request {
    /// `IFA_F_NODAD`.
    const NO_DAD: u32 = 2;
    let bytes = octets(address.address);
    let request = Request::new(NEWADDR, CREATE | REPLACE, &address_header(index, address)).bytes(1, &bytes);
    match address.address {
        IpAddr::V6(_) => request.u32(8, NO_DAD),
        IpAddr::V4(a) => {
            let request = request.bytes(2, &bytes);
            let host = u32::MAX.checked_shr(u32::from(address.prefix)).unwrap_or(0);
            // Networks of one or two addresses have no broadcast.
            if host > 1 { request.bytes(4, &(u32::from(a) | host).to_be_bytes()) } else { request }
        }
    }
}

/// Takes an address away.
pub fn drop_address(index: u32, address: &Address) -> Request {
    let bytes = octets(address.address);
    Request::new(DELADDR, 0, &address_header(index, address)).bytes(2, &bytes).bytes(1, &bytes)
}

/// Adds a route to the main table.
pub fn new_route(index: u32, route: &Route, flags: u16) -> Request {
    const MAIN: u8 = 254;
    /// `RTPROT_BOOT`, `RTN_UNICAST`.
    const BOOT: u8 = 3;
    const UNICAST: u8 = 1;
    /// The router is on the link although no address of ours says so. `RTNH_F_ONLINK`.
    const ON_LINK: u32 = 4;
    let scope = if route.gateway.is_none() && route.to.is_ipv4() { LINK } else { UNIVERSE };
    let nexthop = if route.gateway.is_some() { ON_LINK } else { 0 };
    let fixed = [
        &[family(route.to), route.prefix.min(width(route.to)), 0, 0, MAIN, BOOT, scope, UNICAST][..],
        &nexthop.to_ne_bytes(),
    ]
    .concat();
    let mut request = Request::new(NEWROUTE, flags, &fixed).bytes(1, &octets(route.to)).u32(4, index);
    if let Some(gateway) = route.gateway {
        request = if gateway.is_ipv4() == route.to.is_ipv4() {
            request.bytes(5, &octets(gateway))
        } else {
            // An IPv6 router for an IPv4 address. Since Linux commit d15662682db2 ("ipv4: Allow ipv6 gateway with ipv4
            // routes") (in v5.2).
            let via = [&u16::from(family(gateway)).to_ne_bytes()[..], &octets(gateway)].concat();
            request.bytes(18, &via)
        };
    }
    if let Some(source) = route.source {
        request = request.bytes(7, &octets(source));
    }
    if let Some(mtu) = route.mtu {
        request = request.nest(8, |r| r.u32(2, mtu));
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_read_whatever_they_say() {
        let entry = |state: u8, rest: &[u8]| {
            let mut body = vec![2, 0, 0, 0, 5, 0, 0, 0, state, 0, 0, 1];
            body.extend_from_slice(rest);
            body
        };
        let address = [8, 0, 1, 0, 10, 0, 0, 9];
        let mac = [10, 0, 2, 0, 2, 0, 0, 0, 0, 9, 0, 0];
        if cfg!(target_endian = "big") {
            return;
        }
        let known = Neighbour::parse(&entry(2, &[&address[..], &mac].concat())).unwrap();
        assert_eq!(known.0, 5);
        assert_eq!(known.1, "10.0.0.9".parse::<IpAddr>().unwrap());
        assert!(known.2.resolved && known.2.mac == Some(Mac([2, 0, 0, 0, 0, 9])));
        let failed = Neighbour::parse(&entry(32, &address)).unwrap().2;
        assert!(!failed.resolved && failed.is_idle() && failed.mac.is_none());
        let asked = Neighbour::parse(&entry(1, &address)).unwrap().2;
        assert!(!asked.resolved && !asked.is_idle());
        for bad in
            [&[][..], &[0; 11], &entry(2, &[]), &entry(2, &[7, 0, 1, 0, 10, 0, 0]), &entry(2, &[0xff; 16])]
        {
            assert_eq!(Neighbour::parse(bad), None, "{bad:?}");
        }
    }
}

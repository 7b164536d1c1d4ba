//! The running kernel's decision how to reach an address: policy rules, tables, metrics and nexthop groups included.

use super::names::Destination;
use super::{NetworkError, View};
use collector::engine::chain;
use collector::net::neighbour::{family, ip, octets, width};
use collector::net::netlink::{Request, attribute, attributes, u32_at};
use std::net::IpAddr;

/// What the kernel would do with a packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Decision {
    /// The link's number.
    pub(super) index: u32,
    /// The router.
    pub(super) gateway: Option<IpAddr>,
    /// Our address.
    pub(super) source: Option<IpAddr>,
    /// Bytes of the largest packet, where the route has its own idea.
    pub(super) mtu: Option<u32>,
    /// The table that decided.
    pub(super) table: u32,
    /// It wraps packets (MPLS, SRv6, …).
    pub(super) wraps: bool,
    /// `RTN_*`.
    kind: u8,
}

/// Asks as root's program would, for TCP.
pub(super) fn ask(view: &mut View, to: &Destination) -> Result<Decision, NetworkError> {
    const GETROUTE: u16 = 26;
    const NEWROUTE: u16 = 24;
    /// `RTM_F_LOOKUP_TABLE`.
    const TELL_TABLE: u32 = 0x1000;
    let shown = match &to.link {
        Some(link) => format!("{}%{link}", to.address),
        None => to.address.to_string(),
    };
    let none = |why: String| NetworkError::NoRoute { to: shown.clone(), why };
    let fixed =
        [&[family(to.address), width(to.address), 0, 0, 0, 0, 0, 0][..], &TELL_TABLE.to_ne_bytes()].concat();
    let mut request = Request::new(GETROUTE, 0, &fixed).bytes(1, &octets(to.address));
    if let Some(link) = &to.link {
        let found = view.links.iter().find(|l| l.name == *link);
        let index = found.ok_or_else(|| none(format!("there is no link {link}")))?.index;
        request = request.u32(4, index);
    }
    // Rules may look at user, protocol and port. Since Linux commit bfff4862653b ("net: fib_rules: support for match on
    // ip_proto, sport and dport") (in v4.17); older kernels pass over what they do not know.
    request = request.u32(25, 0).u8(27, 6);
    if to.port > 0 {
        request = request.bytes(29, &to.port.to_be_bytes());
    }
    let mut decision = None;
    let asked = view.socket.ask(request, &mut |kind, body| {
        if kind == NEWROUTE {
            decision = parse(body);
        }
    });
    asked.map_err(|e| none(chain(&e)))?;
    let decision = decision.ok_or_else(|| none("the kernel says nothing".to_owned()))?;
    match decision.kind {
        1 => Ok(decision),
        2 => Err(NetworkError::Ourselves(to.address)),
        6 => Err(none("blackhole".to_owned())),
        7 => Err(none("unreachable".to_owned())),
        8 => Err(none("prohibited".to_owned())),
        other => Err(none(format!("a route of type {other}"))),
    }
}

/// Reads the body of an `RTM_NEWROUTE`.
fn parse(body: &[u8]) -> Option<Decision> {
    let mut decision = Decision {
        index: 0,
        gateway: None,
        source: None,
        mtu: None,
        table: u32::from(*body.get(4)?),
        wraps: false,
        kind: *body.get(7)?,
    };
    for (kind, value) in attributes(body.get(12..)?) {
        match kind {
            4 => decision.index = u32_at(value, 0)?,
            5 => decision.gateway = ip(value),
            7 => decision.source = ip(value),
            8 => decision.mtu = attribute(value, 2).and_then(|m| u32_at(m, 0)).filter(|m| *m > 0),
            15 => decision.table = u32_at(value, 0)?,
            // An IPv6 router of an IPv4 address: its family first.
            18 => decision.gateway = value.get(2..).and_then(ip),
            22 => decision.wraps = true,
            _ => {}
        }
    }
    Some(decision)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_read_whatever_they_say() {
        if cfg!(target_endian = "big") {
            return;
        }
        let body = |rest: &[u8]| [&[2, 32, 0, 0, 254, 0, 0, 1, 0, 0, 0, 0][..], rest].concat();
        let whole = body(
            &[
                &[8, 0, 15, 0, 100, 0, 0, 0][..],
                &[8, 0, 4, 0, 3, 0, 0, 0],
                &[8, 0, 5, 0, 10, 0, 0, 1],
                &[8, 0, 7, 0, 10, 0, 0, 5],
                &[12, 0, 8, 0, 8, 0, 2, 0, 0x78, 5, 0, 0],
            ]
            .concat(),
        );
        let seen = parse(&whole).unwrap();
        assert_eq!((seen.index, seen.table, seen.mtu, seen.kind, seen.wraps), (3, 100, Some(1400), 1, false));
        assert_eq!(seen.gateway.unwrap().to_string(), "10.0.0.1");
        assert_eq!(seen.source.unwrap().to_string(), "10.0.0.5");
        let via = body(&[&[22, 0, 18, 0, 10, 0, 0xfe, 0x80][..], &[0; 13], &[1, 0, 0]].concat());
        assert_eq!(parse(&via).unwrap().gateway.unwrap().to_string(), "fe80::1");
        for bad in [&[][..], &[0; 11]] {
            assert_eq!(parse(bad), None);
        }
        for end in 12..whole.len() {
            let _ = parse(&whole[..end]);
        }
    }
}

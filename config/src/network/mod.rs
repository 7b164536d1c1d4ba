//! The way from this machine to a target, as the running kernel takes it.
//!
//! ```text
//! host name --names--> address --route (the kernel is asked)--> link, router, source --stack--> links down to NICs
//!                                                                                        |
//!                       collector::plan::network::Network  <--way (addresses, leases)----+--> modules of the image
//! ```
//!
//! What the crash kernel could not make again is refused here, with the reason. Nothing is changed: every message is a
//! question.

pub mod explain;
pub mod names;
mod route;
mod stack;
mod teamd;
mod way;

pub use way::{LinkShown, Way, find};

use crate::settings::{Family, Settings};
use collector::engine::chain;
use collector::net::link::{self, LinkState};
use collector::net::netlink::{NetlinkError, Request, Socket, attributes, u32_at};
use collector::plan::network::{BridgeVlan, Fence, Network};
use initramfs::root::Root;
use std::net::IpAddr;

/// Why there is no way. Each says what happened, the value seen, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The kernel could not be asked.
    #[error("cannot ask the kernel for {what}")]
    Netlink {
        /// What was asked for.
        what: &'static str,
        /// What it said.
        #[source]
        source: NetlinkError,
    },
    /// The name leads nowhere.
    #[error("cannot resolve {host}: {why}; use an address, or add the name to /etc/hosts")]
    Name {
        /// The name.
        host: String,
        /// Why not.
        why: String,
    },
    /// The kernel has no route.
    #[error("no route to {to}: {why}; is the network up? (ip route get {to})")]
    NoRoute {
        /// The target's address.
        to: String,
        /// What the kernel said.
        why: String,
    },
    /// The target is this machine.
    #[error(
        "{0} is an address of this machine: a dump sent there dies with it; name another machine, or a local path"
    )]
    Ourselves(IpAddr),
    /// A link-local address without a link.
    #[error("{0} is link-local and says nothing of the link: write {0}%LINK")]
    NoScope(IpAddr),
    /// A link of the way cannot be made again.
    #[error("the way to {to} goes over {link}, {what}: {advice}")]
    Unsupported {
        /// The target's address.
        to: IpAddr,
        /// The link.
        link: String,
        /// What it is.
        what: String,
        /// What to do.
        advice: String,
    },
    /// sysfs could not be read.
    #[error(transparent)]
    System(#[from] initramfs::Error),
}

/// An address of this machine, as the kernel shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AddressState {
    /// The link's number.
    pub index: u32,
    /// The address.
    pub address: IpAddr,
    /// Bits of its network.
    pub prefix: u8,
    /// It has no end: nobody leased it.
    pub permanent: bool,
    /// A privacy address of IPv6, which soon is another.
    pub temporary: bool,
}

/// What there is, read once.
#[derive(Debug)]
pub struct View {
    socket: Socket,
    /// The links.
    pub links: Vec<LinkState>,
    /// VLANs of bridges and their ports, by number of the link.
    pub vlans: Vec<(u32, Vec<BridgeVlan>)>,
    /// Addresses of this machine.
    pub addresses: Vec<AddressState>,
}

impl View {
    /// Asks the kernel.
    pub fn read() -> Result<Self, NetworkError> {
        let failed = |what| move |source| NetworkError::Netlink { what, source };
        let mut socket = Socket::open().map_err(failed("its network"))?;
        let links = link::links(&mut socket).map_err(failed("links"))?;
        // A kernel without bridges knows no such question.
        let vlans = link::bridge_vlans(&mut socket).unwrap_or_default();
        let addresses = addresses(&mut socket).map_err(failed("addresses"))?;
        Ok(Self { socket, links, vlans, addresses })
    }

    fn link(&self, index: u32) -> Option<&LinkState> {
        self.links.iter().find(|l| l.index == index)
    }
}

/// All addresses of this machine.
fn addresses(socket: &mut Socket) -> Result<Vec<AddressState>, NetlinkError> {
    const GETADDR: u16 = 22;
    const NEWADDR: u16 = 20;
    let mut found = Vec::new();
    socket.dump(&Request::new(GETADDR, 0, &[0; 8]), &mut |kind, body| {
        if kind == NEWADDR {
            found.extend(address(body));
        }
    })?;
    Ok(found)
}

/// Reads the body of an `RTM_NEWADDR`.
fn address(body: &[u8]) -> Option<AddressState> {
    const PERMANENT: u32 = 0x80;
    const TEMPORARY: u32 = 1;
    let (prefix, index) = (*body.get(1)?, u32_at(body, 4)?);
    let mut flags = u32::from(*body.get(2)?);
    let (mut peer, mut local) = (None, None);
    for (kind, value) in attributes(body.get(8..)?) {
        match kind {
            1 => peer = collector::net::neighbour::ip(value),
            2 => local = collector::net::neighbour::ip(value),
            8 => flags = u32_at(value, 0).unwrap_or(flags),
            _ => {}
        }
    }
    let address = local.or(peer)?;
    // Only IPv6 has temporary addresses; of IPv4 the same bit says secondary.
    let temporary = flags & TEMPORARY != 0 && address.is_ipv6();
    Some(AddressState { index, address, prefix, permanent: flags & PERMANENT != 0, temporary })
}

/// The ways to several targets as one network, and what they need in the image.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Recorded {
    /// For the plan.
    pub network: Network,
    /// Names of the NICs, for their drivers.
    pub nics: Vec<String>,
    /// Kinds of the made links, for their modules.
    pub kinds: Vec<String>,
    /// Whether any address is IPv6.
    pub ipv6: bool,
    /// What the user should know, a sentence each.
    pub warnings: Vec<String>,
}

impl Recorded {
    /// Takes a way in.
    pub fn add(&mut self, way: &Way) {
        self.network.merge(way.network.clone());
        for (to, from) in
            [(&mut self.nics, &way.nics), (&mut self.kinds, &way.kinds), (&mut self.warnings, &way.warnings)]
        {
            for one in from {
                if !to.contains(one) {
                    to.push(one.clone());
                }
            }
        }
        self.ipv6 |= way.network.addresses.iter().any(|a| a.address.is_ipv6());
    }

    /// The network of the plan; none where nothing is on it.
    pub fn for_plan(&self) -> Option<Network> {
        Some(self.network.clone()).filter(|n| !n.reach.is_empty())
    }

    /// What the image's modules are chosen by.
    pub fn request(&self) -> initramfs::NetworkRequest<'_> {
        initramfs::NetworkRequest { nics: &self.nics, kinds: &self.kinds, ipv6: self.ipv6 }
    }
}

/// Finds the ways to all addresses of `host`, which is a name, an address, or `fe80::…%LINK`. With several addresses those without
/// a way are left out, as long as there is one that has. Returns the ways, the first is to be tried first.
pub fn record(view: &mut View, host: &str, port: u16, root: &Root) -> Result<Vec<Way>, NetworkError> {
    let mut ways = Vec::new();
    let mut failed = None;
    for destination in names::resolve(host, port, root)? {
        match find(view, &destination, root) {
            Ok(way) => ways.push(way),
            Err(e) => failed = failed.or(Some(e)),
        }
    }
    match failed {
        Some(e) if ways.is_empty() => Err(e),
        _ => Ok(ways),
    }
}

/// The ways to all that the settings name on the network, and whom to tell.
///
/// A node of the cluster that cannot be told is a warning: the dump is worth having all the same.
pub fn for_settings(settings: &Settings, root: &Root) -> Result<(Recorded, Option<Fence>), NetworkError> {
    let mut recorded = Recorded::default();
    let Some(wanted) = &settings.fence else { return Ok((recorded, None)) };
    let mut view = View::read()?;
    let mut fence =
        Fence { nodes: Vec::new(), port: wanted.port, interval: wanted.interval, count: wanted.count };
    for node in &wanted.nodes {
        let fits = |way: &&Way| match wanted.family {
            Family::Auto => true,
            Family::Ipv4 => way.address.is_ipv4(),
            Family::Ipv6 => way.address.is_ipv6(),
        };
        match record(&mut view, node, wanted.port, root) {
            Ok(ways) => match ways.iter().find(fits) {
                Some(way) => {
                    recorded.add(way);
                    fence.nodes.push(way.address);
                }
                None => {
                    let why = format!("{node} is not told of a dump: no address of that family");
                    recorded.warnings.push(why);
                }
            },
            // Every node's list has the node itself.
            Err(NetworkError::Ourselves(_)) => {}
            Err(e) => recorded.warnings.push(format!("{node} is not told of a dump: {}", chain(&e))),
        }
    }
    Ok((recorded, Some(fence).filter(|f| !f.nodes.is_empty())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_whatever_they_say() {
        if cfg!(target_endian = "big") {
            return;
        }
        let body = |flags: u8, rest: &[u8]| [&[2, 24, flags, 0, 3, 0, 0, 0][..], rest].concat();
        let v4 = [8, 0, 1, 0, 10, 0, 0, 1, 8, 0, 2, 0, 10, 0, 0, 2];
        let seen = address(&body(0x80, &v4)).unwrap();
        assert_eq!((seen.address.to_string().as_str(), seen.prefix, seen.index), ("10.0.0.2", 24, 3));
        assert!(seen.permanent && !seen.temporary);
        let flags = [8, 0, 8, 0, 1, 2, 0, 0];
        assert!(!address(&body(0x80, &[&v4[..], &flags].concat())).unwrap().permanent);
        for bad in [&[][..], &[2; 7], &body(0, &[]), &body(0, &[6, 0, 1, 0, 1, 2, 0, 0]), &[0xff; 20]] {
            assert_eq!(address(bad), None, "{bad:?}");
        }
    }
}

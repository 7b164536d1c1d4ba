//! The steps from NICs to a next hop that answers.

use super::dhcp;
use super::link::{self, LinkState};
use super::neighbour::{self, Neighbour};
use super::netlink::{CREATE, NetlinkError, REPLACE, Request, Socket};
use crate::engine::chain;
use crate::plan::network::{
    Address, BondMode, Lease, Link, LinkKind, Mac, Network, NetworkLimits, Nic, Reach, Route, covers,
};
use nix::errno::Errno;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

/// How often links and neighbours are looked at while they are waited for.
const GLANCE: Duration = Duration::from_millis(20);

/// Who holds it may change links; followed by the number of the network namespace.
const LOCK: &str = "/run/vmcored-network";

/// How long an LACP partner is waited for beyond carrier. One that is there answers within three seconds; without, a bond of
/// 802.3ad uses one port by itself, which some switches let through.
const LACP_PATIENCE: Duration = Duration::from_secs(15);

/// Why a target cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The plan has no way there.
    #[error("the plan has no way to {0}")]
    NoPath(IpAddr),
    /// The plan contradicts itself.
    #[error("the plan names link {0}, which it does not have")]
    NoSuchLink(String),
    /// No way to talk to the kernel.
    #[error("cannot {doing}")]
    Netlink {
        /// What was wanted.
        doing: &'static str,
        /// What the kernel said.
        #[source]
        source: NetlinkError,
    },
    /// The kernel refuses a step.
    #[error("link {link}: cannot {doing}")]
    Step {
        /// The link.
        link: String,
        /// The step: `make a bond`.
        doing: String,
        /// What the kernel said.
        #[source]
        source: NetlinkError,
    },
    /// A NIC has not appeared.
    #[error("no NIC with permanent address {missing} after {:.1} s; there are: {seen}", after.as_secs_f64())]
    Missing {
        /// `52:54:00:12:34:56 (eth0, virtio_net)`.
        missing: String,
        /// What there is.
        seen: String,
        /// The time waited.
        after: Duration,
    },
    /// A link has no carrier.
    #[error("no carrier on {link} after {:.1} s: {seen}", after.as_secs_f64())]
    NoCarrier {
        /// The outermost link.
        link: String,
        /// The state of each link below.
        seen: String,
        /// The time waited.
        after: Duration,
    },
    /// The next hop does not answer.
    #[error("{next_hop} does not answer on {link} after {:.1} s ({seen}); it leads to {target}", after.as_secs_f64())]
    NoNeighbour {
        /// The router, or the target itself.
        next_hop: IpAddr,
        /// Where it was asked for.
        link: String,
        /// The target's address.
        target: IpAddr,
        /// The state of its entry.
        seen: String,
        /// The time waited.
        after: Duration,
    },
    /// The next hop does not answer, and there is no new lease either.
    #[error("{before}; and no new lease on {link}")]
    NoLease {
        /// The link.
        link: String,
        /// What came before.
        before: String,
        /// Why not.
        #[source]
        source: dhcp::DhcpError,
    },
}

/// A target that is reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reached {
    /// Its address.
    pub address: IpAddr,
    /// The link to it.
    pub link: String,
    /// The link's number: the scope of a link-local address.
    pub scope: u32,
    /// Who took the packets.
    pub next_hop: IpAddr,
    /// Its Ethernet address.
    pub next_hop_mac: Option<Mac>,
    /// Until there was carrier.
    pub carrier: Duration,
    /// In all.
    pub took: Duration,
}

impl Reached {
    /// Where to connect to, with the scope that a link-local address needs.
    pub fn socket_address(&self, port: u16) -> SocketAddr {
        match self.address {
            IpAddr::V6(address) if address.is_unicast_link_local() => {
                SocketAddrV6::new(address, port, 0, self.scope).into()
            }
            address => SocketAddr::new(address, port),
        }
    }
}

/// Makes everything that leads to `target`, and returns when its next hop has answered. What is there already from a target
/// before stays. `tell` hears each step.
pub fn reach(network: &Network, target: IpAddr, tell: &mut dyn FnMut(String)) -> Result<Reached, NetError> {
    let path = network.path_to(target).ok_or(NetError::NoPath(target))?;
    let start = Instant::now();
    let limits = path.limits;
    let _turn = take_turn(secs(limits.total));
    let mut work = Work { socket: open()?, path, tell, deadline: start + secs(limits.total) };
    let found = work.find_nics(secs(limits.appear))?;
    work.name_nics(&found)?;
    work.make_links()?;
    work.raise_links()?;
    let reaches = work.path.reach.clone();
    let mut failed = NetError::NoPath(target);
    for reach in &reaches {
        match work.reach(reach, limits) {
            Ok(mut reached) => {
                reached.took = start.elapsed();
                return Ok(reached);
            }
            Err(e) => failed = e,
        }
    }
    Err(failed)
}

fn open() -> Result<Socket, NetError> {
    Socket::open().map_err(|source| NetError::Netlink { doing: "open route netlink", source })
}

/// One at a time: who tells the cluster and who climbs the ladder are two processes, and their links may be the same. Where no
/// file can be had or locked, nobody waits.
fn take_turn(limit: Duration) -> Option<File> {
    let namespace = fs::metadata("/proc/thread-self/ns/net").map_or(0, |m| m.ino());
    let path = format!("{LOCK}.{namespace}");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path).ok()?;
    let start = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Some(file),
            Err(TryLockError::WouldBlock) if start.elapsed() < limit => std::thread::sleep(GLANCE),
            Err(_) => return None,
        }
    }
}

fn secs(limit: u64) -> Duration {
    Duration::from_secs(limit)
}

struct Work<'a> {
    socket: Socket,
    path: Network,
    tell: &'a mut dyn FnMut(String),
    deadline: Instant,
}

impl Work<'_> {
    fn links(&mut self) -> Result<Vec<LinkState>, NetError> {
        link::links(&mut self.socket).map_err(|source| NetError::Netlink { doing: "list links", source })
    }

    fn link(&mut self, name: &str) -> Result<LinkState, NetError> {
        let links = self.links()?;
        links.into_iter().find(|l| l.name == name).ok_or_else(|| NetError::NoSuchLink(name.to_owned()))
    }

    fn step(&mut self, link: &str, doing: impl Into<String>, request: Request) -> Result<(), NetError> {
        self.socket.request(request).map_err(|source| NetError::Step {
            link: link.to_owned(),
            doing: doing.into(),
            source,
        })
    }

    /// As [`Work::step`], for what the link works without.
    fn try_step(&mut self, link: &str, doing: &str, request: Request) {
        if let Err(e) = self.socket.request(request) {
            (self.tell)(format!("link {link}: cannot {doing}: {}", chain(&e)));
        }
    }

    /// The sooner of `limit` from now and the end of all.
    fn until(&self, limit: Duration) -> Instant {
        Instant::now().checked_add(limit).map_or(self.deadline, |at| at.min(self.deadline))
    }

    /// The index of each NIC of the path, by its name in the plan.
    fn find_nics(&mut self, limit: Duration) -> Result<Vec<(String, u32)>, NetError> {
        let start = Instant::now();
        let until = self.until(limit);
        let wanted: Vec<(String, Nic)> = self
            .path
            .links
            .iter()
            .filter_map(|l| {
                if let LinkKind::Nic(nic) = &l.kind { Some((l.name.clone(), nic.clone())) } else { None }
            })
            .collect();
        let mut told = false;
        loop {
            let links = self.links()?;
            let mut found = Vec::new();
            let mut missing = Vec::new();
            for (name, nic) in &wanted {
                match find_nic(name, nic, &links, &found) {
                    Some(index) => found.push((name.clone(), index)),
                    None => {
                        let driver = nic.driver.as_deref().unwrap_or("unknown driver");
                        missing.push(format!("{} ({name}, {driver})", nic.mac));
                    }
                }
            }
            if missing.is_empty() {
                return Ok(found);
            }
            let missing = missing.join(", ");
            if Instant::now() >= until {
                return Err(NetError::Missing { missing, seen: inventory(&links), after: start.elapsed() });
            }
            if !told {
                (self.tell)(format!("waiting for NIC {missing}"));
                told = true;
                self.make_functions(&wanted, &found);
            }
            std::thread::sleep(GLANCE);
        }
    }

    /// Has physical functions make the virtual ones that are missing, as many as there were.
    fn make_functions(&mut self, wanted: &[(String, Nic)], found: &[(String, u32)]) {
        let missing = wanted.iter().filter(|(name, _)| !found.iter().any(|(n, _)| n == name));
        for sriov in missing.filter_map(|(_, nic)| nic.sriov.as_ref()) {
            let knob = format!("/sys/bus/pci/devices/{}/sriov_numvfs", sriov.device);
            // A number can be changed only from and to none.
            if fs::read_to_string(&knob).is_ok_and(|n| n.trim() == "0") {
                (self.tell)(format!("having {} make {} functions", sriov.device, sriov.functions));
                if let Err(e) = fs::write(&knob, sriov.functions.to_string()) {
                    (self.tell)(format!("{knob}: {e}"));
                }
            }
        }
    }

    /// Names are those of the running system, so that scopes, and whoever reads the log, mean the same link. The one that has
    /// such a name already makes room.
    fn name_nics(&mut self, found: &[(String, u32)]) -> Result<(), NetError> {
        for (name, index) in found {
            let links = self.links()?;
            let Some(state) = links.iter().find(|l| l.index == *index) else { continue };
            if state.name == *name {
                continue;
            }
            if let Some(other) = links.iter().find(|l| l.name == *name) {
                let aside = format!("other{}", other.index);
                self.down_and_rename(other, &aside)?;
            }
            (self.tell)(format!(
                "{} ({}) is {name}",
                state.name,
                state.permanent.or(state.mac).map_or_else(String::new, |m| m.to_string())
            ));
            self.down_and_rename(state, name)?;
        }
        Ok(())
    }

    /// A link that is up keeps its name. (Until Linux commit bd039b5ea2a9 ("net/core: Allow live renaming when an interface is
    /// up") (in v6.2).)
    fn down_and_rename(&mut self, state: &LinkState, name: &str) -> Result<(), NetError> {
        if state.is_up() {
            self.step(&state.name, "set it down to rename it", link::set_up(state.index, false))?;
        }
        self.step(&state.name, format!("name it {name}"), link::rename(state.index, name))
    }

    /// Makes what is no hardware, and gives bonds and bridges their ports.
    fn make_links(&mut self) -> Result<(), NetError> {
        for link in self.path.links.clone() {
            if !matches!(link.kind, LinkKind::Nic(_)) {
                self.make_link(&link)?;
            }
            let state = self.link(&link.name)?;
            self.set_up_ports(&link, state.index)?;
            if state.mtu != link.mtu {
                self.try_step(&link.name, "set its MTU", link::set_mtu(state.index, link.mtu));
            }
        }
        Ok(())
    }

    fn make_link(&mut self, link: &Link) -> Result<(), NetError> {
        let links = self.links()?;
        let kind = link.kind.name();
        if let Some(old) = links.iter().find(|l| l.name == link.name) {
            // Made for a target before. (One that is down is not ours: the bonding driver makes a bond0 when it is loaded.)
            if old.is_up() && old.kind.as_deref() == Some(kind) {
                return Ok(());
            }
            self.step(&link.name, "remove another link of this name", link::remove(old.index))?;
        }
        let parent = match link.kind.parent() {
            None => None,
            Some(parent) => {
                let found = links.iter().find(|l| l.name == parent);
                Some(found.ok_or_else(|| NetError::NoSuchLink(parent.to_owned()))?.index)
            }
        };
        let Some(request) = link::make(link, parent) else { return Ok(()) };
        (self.tell)(format!("making {kind} {}", link.name));
        match self.socket.request(request) {
            Ok(()) => Ok(()),
            Err(source) => {
                Err(NetError::Step { link: link.name.clone(), doing: format!("make a {kind}"), source })
            }
        }
    }

    /// Gives a bond or a bridge its ports.
    fn set_up_ports(&mut self, master: &Link, index: u32) -> Result<(), NetError> {
        let ports: Vec<Link> =
            self.path.links.iter().filter(|l| l.master.as_ref() == Some(&master.name)).cloned().collect();
        let links = self.links()?;
        let fresh = links.iter().find(|l| l.index == index).is_some_and(|l| !l.is_up());
        for port in &ports {
            let state = links.iter().find(|l| l.name == port.name);
            let state = state.ok_or_else(|| NetError::NoSuchLink(port.name.clone()))?;
            if state.master == Some(index) {
                continue;
            }
            // A bond takes no port that is up.
            if state.is_up() {
                self.step(&port.name, "set it down", link::set_up(state.index, false))?;
            }
            let doing = format!("make it a port of {}", master.name);
            self.step(&port.name, doing, link::set_master(state.index, index))?;
            if state.mtu != port.mtu {
                self.try_step(&port.name, "set its MTU", link::set_mtu(state.index, port.mtu));
            }
        }
        match &master.kind {
            LinkKind::Bond(bond) => {
                let primary = bond.primary.as_ref().and_then(|p| links.iter().find(|l| l.name == *p));
                if let Some(primary) = primary {
                    self.try_step(
                        &master.name,
                        "set its primary port",
                        link::set_primary(index, primary.index),
                    );
                }
            }
            LinkKind::Bridge(bridge) if bridge.vlan_filtering && fresh => {
                for vlan in &master.bridge_vlans {
                    self.step(
                        &master.name,
                        format!("admit VLAN {}", vlan.id),
                        link::admit_vlan(index, true, *vlan),
                    )?;
                }
                for port in &ports {
                    let Some(state) = links.iter().find(|l| l.name == port.name) else { continue };
                    for vlan in &port.bridge_vlans {
                        let doing = format!("admit VLAN {}", vlan.id);
                        self.step(&port.name, doing, link::admit_vlan(state.index, false, *vlan))?;
                    }
                }
                self.step(&master.name, "filter VLANs", link::set_vlan_filtering(index, bridge))?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Up, bottom up.
    fn raise_links(&mut self) -> Result<(), NetError> {
        for link in self.path.links.clone() {
            let state = self.link(&link.name)?;
            if state.is_up() {
                continue;
            }
            if let (LinkKind::Nic(_), Some(mac)) = (&link.kind, link.mac)
                && state.mac != Some(mac)
                && state.master.is_none()
            {
                self.try_step(&link.name, "set its address", link::set_mac(state.index, mac));
            }
            self.quieten_ipv6(&link, state.index);
            self.step(&link.name, "set it up", link::set_up(state.index, true))?;
        }
        if let Ok(lo) = self.link("lo")
            && !lo.is_up()
        {
            self.try_step("lo", "set it up", link::set_up(lo.index, true));
        }
        Ok(())
    }

    /// No address, no router and no duplicate is looked for: all that is known.
    fn quieten_ipv6(&mut self, link: &Link, index: u32) {
        let directory = format!("/proc/sys/net/ipv6/conf/{}", link.name);
        if !std::path::Path::new(&directory).exists() {
            return;
        }
        if let Err(e) = self.socket.request(link::no_generated_address(index)) {
            log::debug!("{}: no way to keep it from making addresses: {e}", link.name);
        }
        let has_ipv6 = self.path.addresses.iter().any(|a| a.link == link.name && a.address.is_ipv6());
        let mut settings = vec![("accept_ra", "0"), ("accept_dad", "0")];
        if has_ipv6 {
            settings.push(("disable_ipv6", "0"));
        }
        for (knob, value) in settings {
            if let Err(e) = fs::write(format!("{directory}/{knob}"), value) {
                log::debug!("{directory}/{knob}: {e}");
            }
        }
    }

    /// Waits until packets get through. Returns the outermost link.
    fn wait_for_carrier(&mut self, name: &str, limit: Duration) -> Result<LinkState, NetError> {
        let start = Instant::now();
        let until = self.until(limit);
        let mut told = false;
        loop {
            let links = self.links()?;
            let Some(state) = links.iter().find(|l| l.name == name) else {
                return Err(NetError::NoSuchLink(name.to_owned()));
            };
            let waiting_for_partner = self.waits_for_partner(&links) && start.elapsed() < LACP_PATIENCE;
            if state.is_ready() && !waiting_for_partner {
                if self.waits_for_partner(&links) {
                    (self.tell)(format!("{name} has carrier, but nobody at the other end speaks LACP"));
                }
                return Ok(state.clone());
            }
            if Instant::now() >= until {
                let seen = self.seen(&links);
                return Err(NetError::NoCarrier { link: name.to_owned(), seen, after: start.elapsed() });
            }
            if !told && start.elapsed() > Duration::from_secs(1) {
                let seen = self.seen(&links);
                (self.tell)(format!("waiting for carrier on {name}: {seen}"));
                told = true;
            }
            std::thread::sleep(GLANCE);
        }
    }

    fn waits_for_partner(&self, links: &[LinkState]) -> bool {
        self.path.links.iter().any(|planned| {
            matches!(&planned.kind, LinkKind::Bond(bond) if bond.mode == BondMode::Ad)
                && links.iter().any(|l| l.name == planned.name && !aggregates(l, links))
        })
    }

    /// The state of every link of the path: `eth0 no carrier, eth1 down, bond0 no carrier`.
    fn seen(&self, links: &[LinkState]) -> String {
        let state = |planned: &Link| {
            let seen = links.iter().find(|l| l.name == planned.name).map_or("gone", LinkState::seen);
            format!("{} {seen}", planned.name)
        };
        self.path.links.iter().map(state).collect::<Vec<_>>().join(", ")
    }

    fn reach(&mut self, reach: &Reach, limits: NetworkLimits) -> Result<Reached, NetError> {
        let start = Instant::now();
        let state = self.wait_for_carrier(&reach.link, secs(limits.carrier))?;
        let carrier = start.elapsed();
        let addresses: Vec<Address> =
            self.path.addresses.iter().filter(|a| a.link == reach.link).cloned().collect();
        for address in addresses.iter().chain(&link_local(&addresses, &state)) {
            self.add_address(address, state.index)?;
        }
        for route in self.path.routes.clone().iter().filter(|r| r.link == reach.link) {
            self.add_route(route, state.index)?;
        }
        let lease =
            self.path.leases.iter().find(|l| l.link == reach.link && reach.address.is_ipv4()).cloned();
        // With another way to try, half of the time has to be enough for this one.
        let limit = secs(limits.reach);
        let patience = if lease.is_some() { limit / 2 } else { limit };
        let mut next_hop = reach.next_hop;
        let mut answer = self.resolve(next_hop, reach, state.index, patience);
        if let (Err(e), Some(lease)) = (&answer, lease) {
            let before = chain(e);
            (self.tell)(format!("{before}; asking for a new lease"));
            next_hop = self.renew(&lease, &state, reach, limits, before)?;
            answer = self.resolve(next_hop, reach, state.index, patience);
        }
        let mac = answer?;
        if let (Some(expected), Some(seen)) = (reach.next_hop_mac, mac)
            && expected != seen
            && next_hop == reach.next_hop
        {
            (self.tell)(format!("{next_hop} was {expected} and is {seen} now"));
        }
        Ok(Reached {
            address: reach.address,
            link: reach.link.clone(),
            scope: state.index,
            next_hop,
            next_hop_mac: mac,
            carrier,
            took: Duration::ZERO,
        })
    }

    /// Asks who has the address of the next hop until somebody answers.
    fn resolve(
        &mut self,
        next_hop: IpAddr,
        reach: &Reach,
        index: u32,
        limit: Duration,
    ) -> Result<Option<Mac>, NetError> {
        let start = Instant::now();
        let until = self.until(limit);
        // The kernel asks three times, a second apart, and a switch that has just woken up loses the first.
        let family = if next_hop.is_ipv4() { "ipv4" } else { "ipv6" };
        let knob = format!("/proc/sys/net/{family}/neigh/{}/retrans_time_ms", reach.link);
        if let Err(e) = fs::write(&knob, "250") {
            log::debug!("{knob}: {e}");
        }
        let mut seen = "no entry".to_owned();
        loop {
            match neighbour::look_up(&mut self.socket, index, next_hop) {
                Ok(Some(Neighbour { resolved: true, mac, .. })) => return Ok(mac),
                Ok(Some(neighbour)) => {
                    neighbour.name().clone_into(&mut seen);
                    if neighbour.is_idle() {
                        self.ask_for(next_hop, index, &mut seen);
                    }
                }
                Ok(None) => self.ask_for(next_hop, index, &mut seen),
                Err(e) => seen = chain(&e),
            }
            if Instant::now() >= until {
                return Err(NetError::NoNeighbour {
                    next_hop,
                    link: reach.link.clone(),
                    target: reach.address,
                    seen,
                    after: start.elapsed(),
                });
            }
            std::thread::sleep(GLANCE);
        }
    }

    fn ask_for(&mut self, next_hop: IpAddr, index: u32, seen: &mut String) {
        match self.socket.request(neighbour::ask_for(index, next_hop)) {
            // It has an entry by now.
            Ok(()) => {}
            Err(e) if e.errno() == Some(Errno::EEXIST) => {}
            Err(e) => *seen = chain(&e),
        }
    }

    fn add_address(&mut self, address: &Address, index: u32) -> Result<(), NetError> {
        let doing = format!("give it the address {}/{}", address.address, address.prefix);
        self.step(&address.link, doing, neighbour::new_address(index, address))
    }

    fn add_route(&mut self, route: &Route, index: u32) -> Result<(), NetError> {
        let via = route.gateway.map(|g| format!(" via {g}")).unwrap_or_default();
        let doing = format!("add the route to {}/{}{via}", route.to, route.prefix);
        self.step(&route.link, doing, neighbour::new_route(index, route, CREATE | REPLACE))
    }

    /// A new address in place of the recorded one. Returns the next hop to `reach` from there.
    fn renew(
        &mut self,
        lease: &Lease,
        state: &LinkState,
        reach: &Reach,
        limits: NetworkLimits,
        before: String,
    ) -> Result<IpAddr, NetError> {
        // With an address the kernel would put it into what is asked.
        for address in
            self.path.addresses.clone().iter().filter(|a| a.link == lease.link && a.address.is_ipv4())
        {
            self.try_step(&lease.link, "drop its address", neighbour::drop_address(state.index, address));
        }
        let until = self.until(secs(limits.lease));
        let mac = state.mac.unwrap_or(Mac([0; 6]));
        let got = dhcp::obtain(lease, mac, until).map_err(|source| NetError::NoLease {
            link: lease.link.clone(),
            before,
            source,
        })?;
        (self.tell)(format!("{} has the address {}/{} by DHCP", lease.link, got.address, got.prefix));
        let address = Address { link: lease.link.clone(), address: got.address.into(), prefix: got.prefix };
        self.add_address(&address, state.index)?;
        if covers(address.address, got.prefix, reach.address) {
            return Ok(reach.address);
        }
        let gateway = got.router.map_or(reach.next_hop, IpAddr::V4);
        let route = Route {
            to: reach.address,
            prefix: 32,
            link: lease.link.clone(),
            gateway: Some(gateway),
            source: Some(address.address),
            mtu: None,
        };
        self.add_route(&route, state.index)?;
        Ok(gateway)
    }
}

/// Whether a bond of 802.3ad has a partner, and a port that is used. (It has carrier earlier: before ports are used LACP waits two
/// seconds for others to join.)
fn aggregates(bond: &LinkState, links: &[LinkState]) -> bool {
    let mut ports = links.iter().filter(|l| l.master == Some(bond.index));
    bond.has_lacp_partner() && ports.any(|port| port.is_distributing().unwrap_or(true))
}

/// The link-local address that IPv6 asks for neighbours from, where none was recorded.
fn link_local(addresses: &[Address], state: &LinkState) -> Option<Address> {
    let is_local = |a: &Address| matches!(a.address, IpAddr::V6(a) if a.is_unicast_link_local());
    if !addresses.iter().any(|a| a.address.is_ipv6()) || addresses.iter().any(is_local) {
        return None;
    }
    let [a, b, c, d, e, f] = state.mac?.0;
    let address = Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
    Some(Address { link: state.name.clone(), address: address.into(), prefix: 64 })
}

/// The NIC with this permanent address. Of several the one at the same place, of the same driver, of the same name.
fn find_nic(name: &str, nic: &Nic, links: &[LinkState], taken: &[(String, u32)]) -> Option<u32> {
    let free = |l: &&LinkState| !taken.iter().any(|(_, index)| *index == l.index);
    let permanent = |l: &&LinkState| l.permanent == Some(nic.mac);
    // NICs without a permanent address have one that somebody gave them; made links inherit theirs, and are no NICs.
    let current = |l: &&LinkState| {
        l.permanent.is_none() && l.mac == Some(nic.mac) && matches!(l.kind.as_deref(), None | Some("veth"))
    };
    let mut candidates: Vec<&LinkState> = links.iter().filter(free).filter(permanent).collect();
    if candidates.is_empty() {
        candidates = links.iter().filter(free).filter(current).collect();
    }
    let worth = |l: &&LinkState| {
        let device = format!("/sys/class/net/{}/device", l.name);
        let last = |path: std::io::Result<std::path::PathBuf>| {
            path.ok().and_then(|p| Some(p.file_name()?.to_string_lossy().into_owned()))
        };
        let same_device = nic.device.is_some() && last(fs::canonicalize(&device)) == nic.device;
        let same_driver =
            nic.driver.is_some() && last(fs::read_link(format!("{device}/driver"))) == nic.driver;
        (same_driver, same_device, l.name == name)
    };
    candidates.into_iter().max_by_key(worth).map(|l| l.index)
}

/// The links that there are, in a line.
fn inventory(links: &[LinkState]) -> String {
    let shown = |l: &LinkState| {
        let mac = l.permanent.or(l.mac).map_or_else(|| "no address".to_owned(), |m| m.to_string());
        format!("{} ({mac})", l.name)
    };
    let list: Vec<String> =
        links.iter().filter(|l| l.hardware != link::LOOPBACK).take(32).map(shown).collect();
    if list.is_empty() { "none".to_owned() } else { list.join(", ") }
}

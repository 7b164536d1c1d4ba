//! One way, whole: for the plan, and for a person to look at.

use super::names::Destination;
use super::{AddressState, NetworkError, View, route, stack};
use collector::net::neighbour;
use collector::plan::network::{Address, Lease, Link, LinkKind, Network, Reach, Route, covers};
use initramfs::root::Root;
use serde::Serialize;
use std::fmt;
use std::net::IpAddr;

/// The way to one address.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Way {
    /// What the settings call the target.
    pub host: String,
    /// Its address.
    pub address: IpAddr,
    /// The routing table that decided; 254 is the main one.
    pub table: u32,
    /// For the plan.
    pub network: Network,
    /// The links, outermost first, with what sysfs says.
    pub links: Vec<LinkShown>,
    /// Names of the NICs.
    pub nics: Vec<String>,
    /// Kinds of the made links.
    pub kinds: Vec<String>,
    /// What the user should know, a sentence each.
    pub warnings: Vec<String>,
}

impl Way {
    /// The link of an address that is good on one link only, by the name that it gets again.
    #[must_use]
    pub fn scope(&self) -> Option<&str> {
        let link_local = matches!(self.address, IpAddr::V6(v6) if v6.is_unicast_link_local());
        let reach = self.network.reach.iter().find(|reach| reach.address == self.address);
        reach.map(|reach| reach.link.as_str()).filter(|_| link_local)
    }
}

/// A link, for people.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct LinkShown {
    /// Its name.
    pub name: String,
    /// What it is: `bond, 802.3ad`.
    pub what: String,
    /// How deep it lies below the outermost.
    pub depth: usize,
    /// Drivers on the way to the hardware, the outermost bus first.
    pub drivers: Vec<String>,
}

/// Finds the way to an address.
pub fn find(view: &mut View, to: &Destination, root: &Root) -> Result<Way, NetworkError> {
    let decision = route::ask(view, to)?;
    let outer = view.link(decision.index).cloned();
    let outer = outer.ok_or_else(|| NetworkError::NoRoute {
        to: to.address.to_string(),
        why: format!("link {} is gone", decision.index),
    })?;
    if decision.wraps {
        return Err(NetworkError::Unsupported {
            to: to.address,
            link: outer.name,
            what: "by a route that wraps packets".to_owned(),
            advice: "the crash kernel makes no tunnels; choose a target that is reached without".to_owned(),
        });
    }
    let (links, mut warnings) = stack::walk(view, decision.index, to.address, root)?;
    let own: Vec<AddressState> =
        view.addresses.iter().filter(|a| a.index == decision.index).cloned().collect();
    let (addresses, source) =
        addresses(view, &own, &outer.name, decision.source, decision.gateway, to.address);
    let next_hop = decision.gateway.unwrap_or(to.address);
    let covered = addresses.iter().any(|a| covers(a.address, a.prefix, to.address));
    let mut routes = Vec::new();
    if decision.gateway.is_some() || !covered || decision.mtu.is_some_and(|m| m < outer.mtu) {
        routes.push(Route {
            to: to.address,
            prefix: neighbour::width(to.address),
            link: outer.name.clone(),
            gateway: decision.gateway,
            source,
            mtu: decision.mtu.filter(|m| *m < outer.mtu),
        });
    }
    let leases = leases(&own, &addresses, &outer.name, decision.index, root)?;
    // Who it is now is only to be told later; nobody may have asked yet.
    let known = neighbour::look_up(&mut view.socket, decision.index, next_hop).ok().flatten();
    let reach = Reach {
        address: to.address,
        link: outer.name.clone(),
        next_hop,
        next_hop_mac: known.filter(|n| n.resolved).and_then(|n| n.mac),
    };
    if addresses.is_empty() {
        warnings.push(format!("{} has no address: nobody can answer", outer.name));
    }
    let nics = names(&links, |kind| matches!(kind, LinkKind::Nic(_)).then_some(()));
    let mut kinds: Vec<String> = Vec::new();
    for link in links.iter().filter(|l| !matches!(l.kind, LinkKind::Nic(_))) {
        if !kinds.iter().any(|k| k == link.kind.name()) {
            kinds.push(link.kind.name().to_owned());
        }
    }
    let shown = show(&links, &outer.name, root)?;
    let network = Network { links, addresses, routes, reach: vec![reach], leases, ..Network::default() };
    Ok(Way {
        host: to.host.clone(),
        address: to.address,
        table: decision.table,
        network,
        links: shown,
        nics,
        kinds,
        warnings,
    })
}

fn names(links: &[Link], wanted: impl Fn(&LinkKind) -> Option<()>) -> Vec<String> {
    links.iter().filter(|l| wanted(&l.kind).is_some()).map(|l| l.name.clone()).collect()
}

/// The addresses that the way needs: the one that packets come from, the one in whose network the router is, and of IPv6 the
/// link-local one, which neighbours are asked from. Returns them, and the first.
fn addresses(
    view: &View,
    own: &[AddressState],
    link: &str,
    source: Option<IpAddr>,
    gateway: Option<IpAddr>,
    to: IpAddr,
) -> (Vec<Address>, Option<IpAddr>) {
    let mut taken: Vec<Address> = Vec::new();
    let mut take = |address: IpAddr, prefix: u8| {
        if !taken.iter().any(|a| a.address == address) {
            taken.push(Address { link: link.to_owned(), address, prefix });
        }
    };
    let same_family = |a: &&AddressState| a.address.is_ipv4() == to.is_ipv4();
    let mut source = source;
    if let Some(wanted) = source {
        match own.iter().find(|a| a.address == wanted) {
            Some(found) => {
                // A privacy address changes daily; its stable sibling is as good.
                let sibling = own.iter().find(|a| {
                    !a.temporary
                        && a.prefix == found.prefix
                        && a.address != wanted
                        && covers(a.address, a.prefix, wanted)
                });
                let chosen = sibling.filter(|_| found.temporary).unwrap_or(found);
                source = Some(chosen.address);
                take(chosen.address, chosen.prefix);
            }
            // An address of another link, of the loopback interface in routed data centres: it is ours alone.
            None if view.addresses.iter().any(|a| a.address == wanted) => {
                take(wanted, neighbour::width(wanted));
            }
            None => {}
        }
    }
    let near = gateway.unwrap_or(to);
    if let Some(found) = own.iter().filter(same_family).find(|a| covers(a.address, a.prefix, near)) {
        take(found.address, found.prefix);
    }
    for one in own.iter().filter(|_| !to.is_ipv4() || gateway.is_some_and(|g| g.is_ipv6())) {
        if matches!(one.address, IpAddr::V6(a) if a.is_unicast_link_local()) {
            take(one.address, one.prefix);
        }
    }
    (taken, source)
}

/// Those of the addresses that somebody leased.
fn leases(
    own: &[AddressState],
    addresses: &[Address],
    link: &str,
    index: u32,
    root: &Root,
) -> Result<Vec<Lease>, NetworkError> {
    let mut leases = Vec::new();
    for state in own.iter().filter(|s| !s.permanent && addresses.iter().any(|a| a.address == s.address)) {
        if let IpAddr::V4(address) = state.address {
            // systemd-networkd writes its leases down; others do not say how they called themselves.
            let text = root.read(format!("/run/systemd/netif/leases/{index}"))?.unwrap_or_default();
            let id = text.lines().find_map(|line| line.strip_prefix("CLIENTID="));
            let id = id.map(|id| id.trim().to_ascii_lowercase());
            let client_id = id.filter(|id| !id.is_empty() && id.bytes().all(|b| b.is_ascii_hexdigit()));
            leases.push(Lease { link: link.to_owned(), address, client_id });
        }
    }
    Ok(leases)
}

/// Outermost first, what each stands on below it.
fn show(links: &[Link], outer: &str, root: &Root) -> Result<Vec<LinkShown>, NetworkError> {
    let mut shown = Vec::new();
    let mut rest = vec![(outer.to_owned(), 0_usize)];
    while let Some((name, depth)) = rest.pop() {
        let Some(link) = links.iter().find(|l| l.name == name) else { continue };
        let mut drivers = Vec::new();
        if matches!(link.kind, LinkKind::Nic(_))
            && let Some(device) = root.canonical(format!("/sys/class/net/{name}/device"))?
        {
            for directory in device.ancestors().take_while(|d| *d != std::path::Path::new("/sys/devices")) {
                drivers.extend(root.link_name(directory.join("driver"))?);
            }
            drivers.reverse();
        }
        shown.push(LinkShown { name: name.clone(), what: what(link), depth, drivers });
        let mut below: Vec<String> =
            links.iter().filter(|l| l.master.as_ref() == Some(&name)).map(|l| l.name.clone()).collect();
        below.extend(link.kind.parent().map(str::to_owned));
        below.reverse();
        rest.extend(below.into_iter().map(|n| (n, depth.saturating_add(1))));
    }
    Ok(shown)
}

/// A link in a few words.
fn what(link: &Link) -> String {
    let mtu = link.mtu;
    match &link.kind {
        LinkKind::Nic(nic) => {
            let place = nic.device.as_ref().map(|d| format!(" at {d}")).unwrap_or_default();
            let physical =
                nic.sriov.as_ref().map(|s| format!(", virtual function of {}", s.device)).unwrap_or_default();
            format!("NIC {}{place}{physical}, MTU {mtu}", nic.mac)
        }
        LinkKind::Bond(bond) => {
            let primary = bond.primary.as_ref().map(|p| format!(", primary {p}")).unwrap_or_default();
            format!("bond, {}{primary}, MTU {mtu}", bond.mode)
        }
        LinkKind::Vlan(vlan) if vlan.protocol == 0x8100 => {
            format!("VLAN {} of {}, MTU {mtu}", vlan.id, vlan.parent)
        }
        LinkKind::Vlan(vlan) => {
            format!("VLAN {} (protocol {:#x}) of {}, MTU {mtu}", vlan.id, vlan.protocol, vlan.parent)
        }
        LinkKind::Bridge(bridge) => {
            let stp = if bridge.stp { ", spanning tree" } else { "" };
            let filters = if bridge.vlan_filtering { ", filters VLANs" } else { "" };
            format!("bridge{stp}{filters}, MTU {mtu}")
        }
        LinkKind::Macvlan(macvlan) => format!("macvlan of {}, MTU {mtu}", macvlan.parent),
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let network = &self.network;
        write!(f, "target       {}", self.host)?;
        if self.host != self.address.to_string() {
            write!(f, " = {}", self.address)?;
        }
        writeln!(f)?;
        for reach in &network.reach {
            let route = network.routes.first();
            let via =
                route.and_then(|r| r.gateway).map_or_else(|| "neighbour".to_owned(), |g| format!("via {g}"));
            let source = route.and_then(|r| r.source).map(|s| format!(", from {s}")).unwrap_or_default();
            let table = if self.table == 254 { String::new() } else { format!(", by table {}", self.table) };
            writeln!(f, "route        {via} on {}{source}{table}", reach.link)?;
            let mac = reach.next_hop_mac.map_or_else(|| "not asked yet".to_owned(), |m| m.to_string());
            writeln!(f, "next hop     {} ({mac})", reach.next_hop)?;
        }
        for address in &network.addresses {
            let leased = network.leases.iter().any(|l| IpAddr::V4(l.address) == address.address);
            let leased = if leased { ", leased: kept, and DHCP if it does not work" } else { "" };
            writeln!(f, "address      {}/{} on {}{leased}", address.address, address.prefix, address.link)?;
        }
        for link in &self.links {
            let indent = "   ".repeat(link.depth.saturating_sub(1));
            let branch = if link.depth == 0 { "" } else { "└─ " };
            let drivers = if link.drivers.is_empty() {
                String::new()
            } else {
                format!(" ({})", link.drivers.join(" > "))
            };
            writeln!(f, "link         {indent}{branch}{}: {}{drivers}", link.name, link.what)?;
        }
        for warning in &self.warnings {
            writeln!(f, "warning      {warning}")?;
        }
        Ok(())
    }
}

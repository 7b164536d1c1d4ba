//! Links as the kernel shows them, and the messages that make and change them.

use super::netlink::{
    CREATE, EXCLUSIVE, NetlinkError, Request, Socket, attribute, attributes, text, u16_at, u32_at,
};
use crate::plan::network::{Bond, Bridge, BridgeVlan, Link, LinkKind, Mac, Macvlan, Vlan};
use crate::sys;

/// `RTM_NEWLINK`, and so on.
const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const GETLINK: u16 = 18;
const SETLINK: u16 = 19;

/// Attributes of links, `IFLA_*`.
mod ifla {
    pub const ADDRESS: u16 = 1;
    pub const IFNAME: u16 = 3;
    pub const MTU: u16 = 4;
    pub const LINK: u16 = 5;
    pub const MASTER: u16 = 10;
    pub const OPERSTATE: u16 = 16;
    pub const LINKINFO: u16 = 18;
    pub const AF_SPEC: u16 = 26;
    pub const EXT_MASK: u16 = 29;
    pub const CARRIER: u16 = 33;
    pub const LINK_NETNSID: u16 = 37;
    /// Since Linux commit f74877a5457d ("rtnetlink: provide permanent hardware address in RTM_NEWLINK") (in v5.6).
    pub const PERM_ADDRESS: u16 = 54;
    pub const INFO_KIND: u16 = 1;
    pub const INFO_DATA: u16 = 2;
    pub const INFO_SLAVE_DATA: u16 = 5;
}

/// Attributes of bonds, `IFLA_BOND_*`.
pub(crate) mod bond {
    pub const MODE: u16 = 1;
    pub const MIIMON: u16 = 3;
    pub const UPDELAY: u16 = 4;
    pub const DOWNDELAY: u16 = 5;
    pub const ARP_INTERVAL: u16 = 7;
    pub const ARP_IP_TARGET: u16 = 8;
    pub const ARP_VALIDATE: u16 = 9;
    pub const PRIMARY: u16 = 11;
    pub const FAIL_OVER_MAC: u16 = 13;
    pub const XMIT_HASH_POLICY: u16 = 14;
    pub const MIN_LINKS: u16 = 18;
    pub const AD_LACP_RATE: u16 = 21;
    pub const AD_SELECT: u16 = 22;
    pub const AD_INFO: u16 = 23;
    pub const AD_INFO_PARTNER_MAC: u16 = 5;
    /// Of a port, `IFLA_BOND_SLAVE_AD_ACTOR_OPER_PORT_STATE`.
    pub const SLAVE_AD_ACTOR_STATE: u16 = 7;
}

/// Attributes of VLANs, `IFLA_VLAN_*`.
pub(crate) mod vlan {
    pub const ID: u16 = 1;
    pub const FLAGS: u16 = 2;
    pub const PROTOCOL: u16 = 5;
}

/// Attributes of bridges, `IFLA_BR_*`.
pub(crate) mod bridge {
    pub const FORWARD_DELAY: u16 = 1;
    pub const STP_STATE: u16 = 5;
    pub const VLAN_FILTERING: u16 = 7;
    pub const VLAN_PROTOCOL: u16 = 8;
}

/// `IFLA_MACVLAN_MODE`.
pub(crate) const MACVLAN_MODE: u16 = 1;

/// `IFF_UP`.
const UP: u32 = 1;
/// `ARPHRD_ETHER`.
pub const ETHERNET: u16 = 1;
/// `ARPHRD_LOOPBACK`.
pub const LOOPBACK: u16 = 772;
/// `AF_BRIDGE`.
const AF_BRIDGE: u8 = 7;

/// A link as the kernel shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkState {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// `ARPHRD_*`.
    pub hardware: u16,
    /// `IFF_*`.
    pub flags: u32,
    /// Its address now.
    pub mac: Option<Mac>,
    /// The address that it keeps.
    pub permanent: Option<Mac>,
    /// Bytes of its largest packet.
    pub mtu: u32,
    /// The bond or bridge that it is a port of.
    pub master: Option<u32>,
    /// The link that it lies upon.
    pub parent: Option<u32>,
    /// That link is in another network namespace.
    pub parent_elsewhere: bool,
    /// `IF_OPER_*`: 0 unknown, 2 down, 3 the link below is down, 5 dormant, 6 up.
    pub operstate: u8,
    /// Whether it has carrier.
    pub carrier: bool,
    /// `bond`, `vlan`; none for hardware.
    pub kind: Option<String>,
    /// What its kind says of it: the attributes in `IFLA_INFO_DATA`.
    pub data: Vec<u8>,
    /// What the bond or bridge that it is a port of says of it: the attributes in `IFLA_INFO_SLAVE_DATA`.
    pub port_data: Vec<u8>,
}

impl LinkState {
    /// Reads the body of an `RTM_NEWLINK`. `None` if it makes no sense.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let mut link = Self {
            hardware: u16_at(body, 2)?,
            index: u32_at(body, 4)?,
            flags: u32_at(body, 8)?,
            name: String::new(),
            mac: None,
            permanent: None,
            mtu: 0,
            master: None,
            parent: None,
            parent_elsewhere: false,
            operstate: 0,
            carrier: false,
            kind: None,
            data: Vec::new(),
            port_data: Vec::new(),
        };
        for (kind, value) in attributes(body.get(16..)?) {
            match kind {
                ifla::IFNAME => link.name = text(value),
                ifla::ADDRESS => link.mac = Mac::from_bytes(value),
                ifla::PERM_ADDRESS => link.permanent = Mac::from_bytes(value),
                ifla::MTU => link.mtu = u32_at(value, 0).unwrap_or(0),
                ifla::MASTER => link.master = u32_at(value, 0),
                ifla::LINK => link.parent = u32_at(value, 0).filter(|parent| *parent != link.index),
                ifla::LINK_NETNSID => link.parent_elsewhere = true,
                ifla::OPERSTATE => link.operstate = value.first().copied().unwrap_or(0),
                ifla::CARRIER => link.carrier = value.first().is_some_and(|c| *c != 0),
                ifla::LINKINFO => {
                    link.kind = attribute(value, ifla::INFO_KIND).map(text);
                    link.data = attribute(value, ifla::INFO_DATA).unwrap_or_default().to_vec();
                    link.port_data = attribute(value, ifla::INFO_SLAVE_DATA).unwrap_or_default().to_vec();
                }
                _ => {}
            }
        }
        (!link.name.is_empty()).then_some(link)
    }

    /// Whether it is administratively up.
    pub fn is_up(&self) -> bool {
        self.flags & UP != 0
    }

    /// Whether packets get through: up, carrier, and no protocol that has still to agree.
    pub fn is_ready(&self) -> bool {
        self.is_up() && self.carrier && matches!(self.operstate, 0 | 6)
    }

    /// Its state in a few words, for messages.
    pub fn seen(&self) -> &'static str {
        match (self.is_up(), self.carrier, self.operstate) {
            (false, ..) => "down",
            (true, false, 3) => "the link below is down",
            (true, false, _) => "no carrier",
            (true, true, 0 | 6) => "up",
            (true, true, 5) => "dormant",
            (true, true, _) => "not operational",
        }
    }

    /// 802.3ad: whether the port of a bond takes and sends packets. `None` where the kernel does not tell.
    pub fn is_distributing(&self) -> Option<bool> {
        /// Collecting and distributing, IEEE 802.1AX 6.4.2.3.
        const BOTH: u32 = 0x30;
        let state = attribute(&self.port_data, bond::SLAVE_AD_ACTOR_STATE)?;
        // A byte, in an attribute of one or two.
        Some(u32::from(u16_at(state, 0).or(state.first().map(|b| u16::from(*b)))?) & BOTH == BOTH)
    }

    /// 802.3ad: whether the other end speaks LACP.
    pub fn has_lacp_partner(&self) -> bool {
        attribute(&self.data, bond::AD_INFO)
            .and_then(|info| attribute(info, bond::AD_INFO_PARTNER_MAC))
            .and_then(Mac::from_bytes)
            .is_some()
    }
}

/// All links there are. Permanent addresses that netlink does not tell are asked for one by one.
pub fn links(socket: &mut Socket) -> Result<Vec<LinkState>, NetlinkError> {
    let mut links: Vec<LinkState> = Vec::new();
    socket.dump(&Request::new(GETLINK, 0, &info(0, 0, 0, 0)), &mut |kind, body| {
        if kind == NEWLINK
            && let Some(link) = LinkState::parse(body)
        {
            links.retain(|l| l.index != link.index);
            links.push(link);
        }
    })?;
    for link in links.iter_mut().filter(|l| l.hardware == ETHERNET && l.permanent.is_none()) {
        link.permanent = sys::permanent_address(socket, &link.name).and_then(|a| Mac::from_bytes(&a));
    }
    Ok(links)
}

/// The VLANs that each port of a bridge and each bridge admits, by index.
pub fn bridge_vlans(socket: &mut Socket) -> Result<Vec<(u32, Vec<BridgeVlan>)>, NetlinkError> {
    /// `RTEXT_FILTER_BRVLAN`.
    const FILTER: u32 = 2;
    let mut found = Vec::new();
    let request = Request::new(GETLINK, 0, &info(AF_BRIDGE, 0, 0, 0)).u32(ifla::EXT_MASK, FILTER);
    socket.dump(&request, &mut |kind, body| {
        if kind == NEWLINK
            && let Some(index) = u32_at(body, 4)
            && let Some(spec) = attribute(body.get(16..).unwrap_or_default(), ifla::AF_SPEC)
        {
            let vlan = |value: &[u8]| Some(BridgeVlan { flags: u16_at(value, 0)?, id: u16_at(value, 2)? });
            let vlans = attributes(spec).filter(|(kind, _)| *kind == BRIDGE_VLAN_INFO);
            found.push((index, vlans.filter_map(|(_, value)| vlan(value)).collect()));
        }
    })?;
    Ok(found)
}

/// `IFLA_BRIDGE_FLAGS`, `IFLA_BRIDGE_VLAN_INFO`.
const BRIDGE_FLAGS: u16 = 0;
const BRIDGE_VLAN_INFO: u16 = 2;

/// `struct ifinfomsg`.
fn info(family: u8, index: u32, flags: u32, change: u32) -> Vec<u8> {
    [&[family, 0, 0, 0], &index.to_ne_bytes()[..], &flags.to_ne_bytes(), &change.to_ne_bytes()].concat()
}

fn change(index: u32) -> Request {
    Request::new(NEWLINK, 0, &info(0, index, 0, 0))
}

/// Gives a link a name.
pub fn rename(index: u32, name: &str) -> Request {
    change(index).text(ifla::IFNAME, name)
}

/// Makes a link up or down.
pub fn set_up(index: u32, up: bool) -> Request {
    Request::new(NEWLINK, 0, &info(0, index, u32::from(up), UP))
}

/// Sets the size of the largest packet.
pub fn set_mtu(index: u32, mtu: u32) -> Request {
    change(index).u32(ifla::MTU, mtu)
}

/// Sets the address.
pub fn set_mac(index: u32, mac: Mac) -> Request {
    change(index).bytes(ifla::ADDRESS, &mac.0)
}

/// Makes a link a port of another.
pub fn set_master(index: u32, master: u32) -> Request {
    change(index).u32(ifla::MASTER, master)
}

/// Keeps the kernel from making an IPv6 address of its own, which would have to be defended for a second before it is used.
pub fn no_generated_address(index: u32) -> Request {
    const INET6_ADDR_GEN_MODE: u16 = 8;
    const NONE: u8 = 1;
    let family = u16::try_from(libc::AF_INET6).unwrap_or(0);
    change(index).nest(ifla::AF_SPEC, |r| r.nest(family, |r| r.u8(INET6_ADDR_GEN_MODE, NONE)))
}

/// Removes a made link.
pub fn remove(index: u32) -> Request {
    Request::new(DELLINK, 0, &info(0, index, 0, 0))
}

/// Has a bridge prefer no port: which of a bond's is to be used, once they are there.
pub fn set_primary(index: u32, port: u32) -> Request {
    change(index).nest(ifla::LINKINFO, |r| {
        r.text(ifla::INFO_KIND, "bond").nest(ifla::INFO_DATA, |r| r.u32(bond::PRIMARY, port))
    })
}

/// Has a bridge look at VLANs, or not.
pub fn set_vlan_filtering(index: u32, bridge: &Bridge) -> Request {
    change(index).nest(ifla::LINKINFO, |r| {
        r.text(ifla::INFO_KIND, "bridge").nest(ifla::INFO_DATA, |r| {
            r.bytes(bridge::VLAN_PROTOCOL, &bridge.vlan_protocol.to_be_bytes())
                .u8(bridge::VLAN_FILTERING, u8::from(bridge.vlan_filtering))
        })
    })
}

/// Admits a VLAN to a port of a bridge, or to the bridge itself.
pub fn admit_vlan(index: u32, on_bridge: bool, vlan: BridgeVlan) -> Request {
    /// `BRIDGE_FLAGS_SELF`.
    const SELF: u16 = 2;
    /// `PVID` and `UNTAGGED`: the others say how lists are told.
    const KEPT: u16 = 6;
    let value = [(vlan.flags & KEPT).to_ne_bytes(), vlan.id.to_ne_bytes()].concat();
    Request::new(SETLINK, 0, &info(AF_BRIDGE, index, 0, 0)).nest(ifla::AF_SPEC, |r| {
        let r = if on_bridge { r.u16(BRIDGE_FLAGS, SELF) } else { r };
        r.bytes(BRIDGE_VLAN_INFO, &value)
    })
}

/// Makes a link. `parent` is the index of the link below, where there is one. `None` for hardware, which nobody makes.
pub fn make(link: &Link, parent: Option<u32>) -> Option<Request> {
    let kind = match &link.kind {
        LinkKind::Nic(_) => return None,
        other => other.name(),
    };
    let mut request =
        Request::new(NEWLINK, CREATE | EXCLUSIVE, &info(0, 0, 0, 0)).text(ifla::IFNAME, &link.name);
    if let Some(parent) = parent {
        request = request.u32(ifla::LINK, parent);
    }
    if let Some(mac) = link.mac {
        request = request.bytes(ifla::ADDRESS, &mac.0);
    }
    Some(request.nest(ifla::LINKINFO, |r| {
        r.text(ifla::INFO_KIND, kind).nest(ifla::INFO_DATA, |r| match &link.kind {
            LinkKind::Nic(_) => r,
            LinkKind::Bond(bond) => bond_data(r, bond),
            LinkKind::Vlan(vlan) => vlan_data(r, vlan),
            LinkKind::Bridge(bridge) => r
                .u32(bridge::FORWARD_DELAY, bridge.forward_delay)
                .u32(bridge::STP_STATE, u32::from(bridge.stp)),
            LinkKind::Macvlan(Macvlan { mode, .. }) => r.u32(MACVLAN_MODE, *mode),
        })
    }))
}

fn vlan_data(r: Request, vlan: &Vlan) -> Request {
    // The second number says which of the first count. The kernel refuses those it does not know, even where they are off.
    const REORDER_HEADER: u32 = 1;
    let flags = [vlan.flags.to_ne_bytes(), (vlan.flags | REORDER_HEADER).to_ne_bytes()].concat();
    r.u16(vlan::ID, vlan.id).bytes(vlan::PROTOCOL, &vlan.protocol.to_be_bytes()).bytes(vlan::FLAGS, &flags)
}

/// The order is that of the kernel's checks: the mode first, then what looks at ports. Options that a mode does not know are
/// refused with the whole request, so that none is sent at its default.
fn bond_data(mut r: Request, bond: &Bond) -> Request {
    use crate::plan::network::BondMode;
    r = r.u8(bond::MODE, bond.mode.number());
    if bond.arp_interval > 0 {
        r = r.u32(bond::ARP_INTERVAL, bond.arp_interval);
        r = r.nest(bond::ARP_IP_TARGET, |mut r| {
            for (index, target) in (0..16).zip(&bond.arp_targets) {
                r = r.bytes(index, &target.octets());
            }
            r
        });
        if bond.arp_validate > 0 {
            r = r.u32(bond::ARP_VALIDATE, bond.arp_validate);
        }
    } else {
        r = r.u32(bond::MIIMON, bond.miimon);
        if bond.miimon > 0 {
            r = r.u32(bond::UPDELAY, bond.updelay).u32(bond::DOWNDELAY, bond.downdelay);
        }
    }
    if bond.fail_over_mac > 0 {
        r = r.u8(bond::FAIL_OVER_MAC, bond.fail_over_mac);
    }
    if bond.xmit_hash_policy > 0 {
        r = r.u8(bond::XMIT_HASH_POLICY, bond.xmit_hash_policy);
    }
    if bond.min_links > 0 {
        r = r.u32(bond::MIN_LINKS, bond.min_links);
    }
    if bond.mode == BondMode::Ad {
        r = r.u8(bond::AD_LACP_RATE, bond.lacp_rate).u8(bond::AD_SELECT, bond.ad_select);
    }
    r
}

//! The network of the crash kernel: the links between this machine and its targets, as they were when the image was made.
//!
//! Only what leads to a target is here, and only what the running kernel has *decided*: policy rules, several routing
//! tables, nexthop groups and metrics have been asked for each target, and the answer is a [`Route`] to that one address.
//! [`crate::net`] makes it true again.

use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr};

/// What is to be made, bottom up.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Links, each after those that it is made of: ports before their bond or bridge, a parent before its VLAN.
    pub links: Vec<Link>,
    /// Addresses of this machine.
    pub addresses: Vec<Address>,
    /// One for each target address that is not on the link itself.
    pub routes: Vec<Route>,
    /// The addresses that all this is for.
    pub reach: Vec<Reach>,
    /// Leases that some of `addresses` come from: where an address does not work any more, a new lease is asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leases: Vec<Lease>,
    /// Deadlines.
    #[serde(default)]
    pub limits: NetworkLimits,
}

/// One network interface.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// The name that it has in the running system, and gets again: `eth0`, `bond0.100`.
    pub name: String,
    /// What it is.
    pub kind: LinkKind,
    /// Bytes of the largest packet.
    pub mtu: u32,
    /// The bond or bridge that it is a port of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub master: Option<String>,
    /// The address that a made link gets, so that switches and servers see who they know. `None` for a NIC that keeps its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// VLANs of a port of a bridge that filters them, or of the bridge itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bridge_vlans: Vec<BridgeVlan>,
}

/// Kinds of links.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum LinkKind {
    /// Hardware, to be found.
    Nic(Nic),
    /// Several ports as one. Teams are made as bonds of the mode that does the same.
    Bond(Bond),
    /// A VLAN of another link.
    Vlan(Vlan),
    /// A bridge; of its ports only those that lead to hardware.
    Bridge(Bridge),
    /// A second address on another link.
    Macvlan(Macvlan),
}

impl LinkKind {
    /// The kernel's word for it; none for hardware.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Nic(_) => "nic",
            Self::Bond(_) => "bond",
            Self::Vlan(_) => "vlan",
            Self::Bridge(_) => "bridge",
            Self::Macvlan(_) => "macvlan",
        }
    }

    /// The link that it lies upon.
    pub fn parent(&self) -> Option<&str> {
        match self {
            Self::Vlan(vlan) => Some(&vlan.parent),
            Self::Macvlan(macvlan) => Some(&macvlan.parent),
            Self::Nic(_) | Self::Bond(_) | Self::Bridge(_) => None,
        }
    }
}

/// Hardware. Its name and its place among the others may be another in the crash kernel; its permanent address is not.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nic {
    /// The address in its EEPROM, or the one its hypervisor gave it.
    pub mac: Mac,
    /// Where it is plugged in: the name of its device on its bus, `0000:00:03.0`, `virtio1`. Decides between two of one address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Its driver. Decides likewise: on Hyper-V a synthetic NIC and the virtual function behind it share an address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// It is a virtual function, which the driver of another device of this machine makes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sriov: Option<Sriov>,
}

/// The physical function behind a virtual one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sriov {
    /// Its place on the PCI bus: `0000:03:00.0`.
    pub device: String,
    /// How many virtual functions it has.
    pub functions: u32,
}

/// A bond, in the kernel's numbers (`IFLA_BOND_*`, Documentation/networking/bonding.rst).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bond {
    /// How ports are used.
    pub mode: BondMode,
    /// Milliseconds between looks at the carrier.
    pub miimon: u32,
    /// Milliseconds until a port with carrier is used.
    #[serde(default)]
    pub updelay: u32,
    /// Milliseconds until a port without carrier is not.
    #[serde(default)]
    pub downdelay: u32,
    /// Milliseconds between ARP probes, in place of `miimon`; 0 without.
    #[serde(default)]
    pub arp_interval: u32,
    /// Whom they ask for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arp_targets: Vec<Ipv4Addr>,
    /// Which replies count.
    #[serde(default)]
    pub arp_validate: u32,
    /// Whose address ports have: 0 the bond's, 1 their own, 2 follow.
    #[serde(default)]
    pub fail_over_mac: u8,
    /// Which flow goes through which port.
    #[serde(default)]
    pub xmit_hash_policy: u8,
    /// 802.3ad: 0 one PDU in 30 seconds, 1 one a second.
    #[serde(default)]
    pub lacp_rate: u8,
    /// 802.3ad: which aggregator is used.
    #[serde(default)]
    pub ad_select: u8,
    /// 802.3ad: so many ports, or no carrier.
    #[serde(default)]
    pub min_links: u32,
    /// Active-backup: the port to prefer, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary: Option<String>,
}

impl Bond {
    /// Looks at the carrier every 100 ms, as all tools set bonds up; the rest as the kernel has it.
    pub fn new(mode: BondMode) -> Self {
        Self {
            mode,
            miimon: 100,
            updelay: 0,
            downdelay: 0,
            arp_interval: 0,
            arp_targets: Vec::new(),
            arp_validate: 0,
            fail_over_mac: 0,
            xmit_hash_policy: 0,
            lacp_rate: 0,
            ad_select: 0,
            min_links: 0,
            primary: None,
        }
    }
}

/// How the ports of a bond are used; the kernel's numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum BondMode {
    /// 0.
    #[serde(rename = "balance-rr")]
    BalanceRr,
    /// 1.
    #[serde(rename = "active-backup")]
    ActiveBackup,
    /// 2.
    #[serde(rename = "balance-xor")]
    BalanceXor,
    /// 3.
    #[serde(rename = "broadcast")]
    Broadcast,
    /// 4, LACP.
    #[serde(rename = "802.3ad")]
    Ad,
    /// 5.
    #[serde(rename = "balance-tlb")]
    BalanceTlb,
    /// 6.
    #[serde(rename = "balance-alb")]
    BalanceAlb,
}

impl BondMode {
    /// In the order of the kernel's numbers.
    const ALL: [(Self, &'static str); 7] = [
        (Self::BalanceRr, "balance-rr"),
        (Self::ActiveBackup, "active-backup"),
        (Self::BalanceXor, "balance-xor"),
        (Self::Broadcast, "broadcast"),
        (Self::Ad, "802.3ad"),
        (Self::BalanceTlb, "balance-tlb"),
        (Self::BalanceAlb, "balance-alb"),
    ];

    /// From the kernel's number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).map(|(mode, _)| *mode)
    }

    /// The kernel's number.
    pub fn number(self) -> u8 {
        (0..).zip(Self::ALL).find(|(_, (mode, _))| *mode == self).map_or(0, |(number, _)| number)
    }
}

impl std::fmt::Display for BondMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(Self::ALL.iter().find(|(mode, _)| mode == self).map_or("unknown", |(_, name)| name))
    }
}

/// A VLAN.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vlan {
    /// The link below.
    pub parent: String,
    /// 0 to 4094.
    pub id: u16,
    /// EtherType of the tag: 0x8100, or 0x88a8 for 802.1ad.
    pub protocol: u16,
    /// `VLAN_FLAG_*`; 1, reorder header, is the usual.
    pub flags: u32,
}

/// A bridge.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bridge {
    /// Whether it speaks the spanning tree protocol. Without need for a bridge of one port, which makes no loop.
    pub stp: bool,
    /// Hundredths of a second until a port forwards.
    pub forward_delay: u32,
    /// Whether ports admit certain VLANs only.
    #[serde(default)]
    pub vlan_filtering: bool,
    /// EtherType of their tags.
    #[serde(default = "dot1q")]
    pub vlan_protocol: u16,
}

fn dot1q() -> u16 {
    0x8100
}

/// A VLAN that a port of a bridge admits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BridgeVlan {
    /// 1 to 4094.
    pub id: u16,
    /// `BRIDGE_VLAN_INFO_*`: 2, packets without a tag belong here; 4, they leave without.
    pub flags: u16,
}

/// A second address on a link.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Macvlan {
    /// The link below.
    pub parent: String,
    /// `MACVLAN_MODE_*`: 4 is bridge.
    pub mode: u32,
}

/// An address of this machine.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Address {
    /// The link that has it.
    pub link: String,
    /// IPv4 or IPv6, link-local ones too.
    pub address: IpAddr,
    /// Bits of its network.
    pub prefix: u8,
}

/// How an address is reached.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Where to.
    pub to: IpAddr,
    /// Bits of it that count: 32 or 128 for one address.
    pub prefix: u8,
    /// The link through which.
    pub link: String,
    /// The router; none when it is a neighbour although no address of ours is in its network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Our address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// Bytes of the largest packet, where smaller than the link's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
}

/// An address of a target.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reach {
    /// The target's.
    pub address: IpAddr,
    /// The link through which; the scope of a link-local address.
    pub link: String,
    /// The neighbour that packets are handed to: the target itself or the router. It has to answer.
    pub next_hop: IpAddr,
    /// Who it was when the image was made, to be told when another answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_hop_mac: Option<Mac>,
}

/// Where an address comes from.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    /// The link.
    pub link: String,
    /// The address that is asked for again.
    pub address: Ipv4Addr,
    /// What the client called itself (option 61, its type byte first), in hexadecimal, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
}

/// Deadlines, in seconds. Each ends one step, `total` all of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkLimits {
    /// Until the NICs have appeared.
    pub appear: u64,
    /// Until the outermost link has carrier: autonegotiation, LACP, spanning tree.
    pub carrier: u64,
    /// Until the next hop answers. A switch may forward nothing for 30 seconds after the link is up.
    pub reach: u64,
    /// Until there is a new lease, where one is needed.
    pub lease: u64,
    /// In all.
    pub total: u64,
}

impl Default for NetworkLimits {
    fn default() -> Self {
        Self { appear: 30, carrier: 45, reach: 45, lease: 30, total: 120 }
    }
}

/// What tells a cluster not to fence this machine while it dumps: as `fence_kdump_send` does.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fence {
    /// Addresses of the other nodes. Each needs its [`Reach`].
    pub nodes: Vec<IpAddr>,
    /// UDP port.
    pub port: u16,
    /// Seconds between messages.
    pub interval: u32,
    /// How many; 0 until the end.
    pub count: u32,
}

impl Fence {
    /// `fence_kdump_send`'s port.
    pub const PORT: u16 = 7410;
    /// `fence_kdump_send`'s interval, seconds.
    pub const INTERVAL: u32 = 10;
}

/// An Ethernet address. Written `52:54:00:12:34:56`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// From a kernel's bytes; `None` for other lengths (InfiniBand has 20) and for the address of nobody.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        <[u8; 6]>::try_from(bytes).ok().filter(|mac| *mac != [0; 6]).map(Self)
    }
}

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl std::fmt::Debug for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

/// A text that is no Ethernet address.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0:?} is no Ethernet address: expected six bytes in hexadecimal, 52:54:00:12:34:56")]
pub struct BadMac(pub String);

impl TryFrom<String> for Mac {
    type Error = BadMac;
    fn try_from(text: String) -> Result<Self, BadMac> {
        text.parse()
    }
}

impl std::str::FromStr for Mac {
    type Err = BadMac;
    fn from_str(text: &str) -> Result<Self, BadMac> {
        let bad = || BadMac(text.to_owned());
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2 && !p.starts_with('+')).ok_or_else(bad)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        if parts.next().is_some() { Err(bad()) } else { Ok(Self(bytes)) }
    }
}

impl Network {
    /// The part that leads to `target`: its links, their addresses, its route. `None` when the plan has no way there.
    pub fn path_to(&self, target: IpAddr) -> Option<Self> {
        let reach: Vec<Reach> = self.reach.iter().filter(|r| r.address == target).cloned().collect();
        let outer: Vec<&str> = reach.iter().map(|r| r.link.as_str()).collect();
        if outer.is_empty() {
            return None;
        }
        // Links are bottom up: going down from the outermost, each names what it stands on.
        let mut wanted: Vec<&str> = outer.clone();
        for link in self.links.iter().rev() {
            let carries = link.master.as_deref().is_some_and(|m| wanted.contains(&m));
            if !carries && !wanted.contains(&link.name.as_str()) {
                continue;
            }
            wanted.push(&link.name);
            wanted.extend(link.kind.parent());
        }
        let with = |name: &str| wanted.contains(&name);
        Some(Self {
            links: self.links.iter().filter(|l| with(&l.name)).cloned().collect(),
            addresses: self.addresses.iter().filter(|a| outer.contains(&a.link.as_str())).cloned().collect(),
            routes: self
                .routes
                .iter()
                .filter(|r| outer.contains(&r.link.as_str()) && covers(r.to, r.prefix, target))
                .cloned()
                .collect(),
            leases: self.leases.iter().filter(|l| outer.contains(&l.link.as_str())).cloned().collect(),
            reach,
            limits: self.limits,
        })
    }

    /// Adds what leads to other targets. Of what both have, one remains; links stay bottom up.
    pub fn merge(&mut self, other: Self) {
        fn add<T: PartialEq>(to: &mut Vec<T>, from: Vec<T>) {
            for one in from {
                if !to.contains(&one) {
                    to.push(one);
                }
            }
        }
        for link in other.links {
            if !self.links.iter().any(|l| l.name == link.name) {
                self.links.push(link);
            }
        }
        add(&mut self.addresses, other.addresses);
        add(&mut self.routes, other.routes);
        add(&mut self.reach, other.reach);
        add(&mut self.leases, other.leases);
    }
}

/// Whether `address` is in the network of `to` with so many bits.
pub fn covers(to: IpAddr, prefix: u8, address: IpAddr) -> bool {
    let (to, address, width) = match (to, address) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(u32::from(a)), u128::from(u32::from(b)), 32_u32),
        (IpAddr::V6(a), IpAddr::V6(b)) => (u128::from(a), u128::from(b), 128),
        _ => return false,
    };
    let rest = width.saturating_sub(u32::from(prefix));
    to.checked_shr(rest).unwrap_or(0) == address.checked_shr(rest).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nic(name: &str, last: u8, master: Option<&str>) -> Link {
        Link {
            name: name.to_owned(),
            kind: LinkKind::Nic(Nic {
                mac: Mac([2, 0, 0, 0, 0, last]),
                device: None,
                driver: None,
                sriov: None,
            }),
            mtu: 1500,
            master: master.map(str::to_owned),
            mac: None,
            bridge_vlans: Vec::new(),
        }
    }

    fn over(name: &str, kind: LinkKind, master: Option<&str>) -> Link {
        Link { kind, ..nic(name, 0, master) }
    }

    fn vlan(parent: &str) -> LinkKind {
        LinkKind::Vlan(Vlan { parent: parent.to_owned(), id: 7, protocol: 0x8100, flags: 1 })
    }

    fn reach(address: &str, link: &str) -> Reach {
        let address: IpAddr = address.parse().unwrap();
        Reach { address, link: link.to_owned(), next_hop: address, next_hop_mac: None }
    }

    #[test]
    fn a_path_has_what_it_stands_on_and_nothing_else() {
        let network = Network {
            links: vec![
                nic("eth0", 1, Some("br0")),
                nic("eth1", 2, Some("br1")),
                nic("eth2", 3, None),
                over("br0", LinkKind::Bridge(Bridge::default()), None),
                over("br1", LinkKind::Bridge(Bridge::default()), None),
                over("br0.7", vlan("br0"), None),
            ],
            addresses: ["br0.7", "br1", "eth2"]
                .map(|link| Address { link: link.into(), address: "10.0.0.1".parse().unwrap(), prefix: 8 })
                .into(),
            routes: vec![Route {
                to: "10.0.0.9".parse().unwrap(),
                prefix: 32,
                link: "br0.7".into(),
                gateway: None,
                source: None,
                mtu: None,
            }],
            reach: vec![reach("10.0.0.9", "br0.7"), reach("10.0.0.8", "eth2")],
            ..Network::default()
        };
        let names = |n: &Network| n.links.iter().map(|l| l.name.clone()).collect::<Vec<_>>();
        let path = network.path_to("10.0.0.9".parse().unwrap()).unwrap();
        assert_eq!(names(&path), ["eth0", "br0", "br0.7"]);
        assert_eq!((path.addresses.len(), path.routes.len(), path.reach.len()), (1, 1, 1));
        let mut path2 = network.path_to("10.0.0.8".parse().unwrap()).unwrap();
        assert_eq!(names(&path2), ["eth2"]);
        assert_eq!((path2.addresses.len(), path2.routes.len()), (1, 0));
        assert_eq!(network.path_to("10.0.0.7".parse().unwrap()), None);
        path2.merge(path.clone());
        path2.merge(path);
        assert_eq!(names(&path2), ["eth2", "eth0", "br0", "br0.7"]);
        assert_eq!((path2.addresses.len(), path2.routes.len(), path2.reach.len()), (2, 1, 2));
    }

    #[test]
    fn plans_round_trip() {
        let network = Network {
            links: vec![nic("eth0", 1, None), over("v", vlan("eth0"), None)],
            ..Network::default()
        };
        let json = serde_json::to_string(&network).unwrap();
        assert!(json.contains("02:00:00:00:00:01"), "{json}");
        assert_eq!(serde_json::from_str::<Network>(&json).unwrap(), network);
        assert!(serde_json::from_str::<Network>(&json.replace("mtu", "mtv")).is_err());
    }

    #[test]
    fn addresses_and_networks() {
        for (to, prefix, address, inside) in [
            ("10.0.0.0", 8, "10.255.0.1", true),
            ("10.0.0.0", 8, "11.0.0.1", false),
            ("10.0.0.1", 32, "10.0.0.1", true),
            ("10.0.0.1", 32, "10.0.0.2", false),
            ("0.0.0.0", 0, "255.255.255.255", true),
            ("fe80::", 64, "fe80::1", true),
            ("fe80::", 128, "fe80::1", false),
            ("::", 0, "2001::1", true),
            ("::", 0, "1.2.3.4", false),
            ("10.0.0.0", 200, "10.0.0.1", false),
        ] {
            assert_eq!(
                covers(to.parse().unwrap(), prefix, address.parse().unwrap()),
                inside,
                "{to}/{prefix} {address}"
            );
        }
        for bad in [
            "",
            "52:54:00:12:34",
            "52:54:00:12:34:56:78",
            "5:54:00:12:34:566",
            "+2:54:00:12:34:56",
            "5g:00:00:00:00:00",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
        assert_eq!("52:54:00:12:34:Ab".parse::<Mac>().unwrap().to_string(), "52:54:00:12:34:ab");
    }

    #[test]
    fn modes_have_the_kernels_numbers() {
        for (number, name) in [(0, "balance-rr"), (1, "active-backup"), (4, "802.3ad"), (6, "balance-alb")] {
            let mode = BondMode::from_number(number).unwrap();
            assert_eq!((mode.number(), mode.to_string().as_str()), (number, name));
            assert_eq!(serde_json::to_string(&mode).unwrap(), format!("\"{name}\""));
        }
        assert_eq!(BondMode::from_number(7), None);
    }
}

//! What the kernel tells of bonds, VLANs, bridges and macvlans, read back into the plan's words.

use super::link::{MACVLAN_MODE, bond, bridge, vlan};
use super::netlink::{attribute, attributes, u16_at, u32_at};
use crate::plan::network::{Bond, BondMode, Bridge, Vlan};
use std::net::Ipv4Addr;

fn byte(data: &[u8], kind: u16) -> Option<u8> {
    attribute(data, kind)?.first().copied()
}

fn word(data: &[u8], kind: u16) -> Option<u32> {
    u32_at(attribute(data, kind)?, 0)
}

fn network_order(data: &[u8], kind: u16) -> Option<u16> {
    u16_at(attribute(data, kind)?, 0).map(u16::from_be)
}

/// A bond; its primary port apart. `data` as in [`super::link::LinkState::data`]. `None` without a mode that is known.
pub fn bond(data: &[u8]) -> Option<Bond> {
    let targets = attribute(data, bond::ARP_IP_TARGET).unwrap_or_default();
    let address = |(_, value): (u16, &[u8])| <[u8; 4]>::try_from(value).ok().map(Ipv4Addr::from);
    Some(Bond {
        mode: BondMode::from_number(byte(data, bond::MODE)?)?,
        miimon: word(data, bond::MIIMON).unwrap_or(0),
        updelay: word(data, bond::UPDELAY).unwrap_or(0),
        downdelay: word(data, bond::DOWNDELAY).unwrap_or(0),
        arp_interval: word(data, bond::ARP_INTERVAL).unwrap_or(0),
        arp_targets: attributes(targets).filter_map(address).collect(),
        arp_validate: word(data, bond::ARP_VALIDATE).unwrap_or(0),
        fail_over_mac: byte(data, bond::FAIL_OVER_MAC).unwrap_or(0),
        xmit_hash_policy: byte(data, bond::XMIT_HASH_POLICY).unwrap_or(0),
        lacp_rate: byte(data, bond::AD_LACP_RATE).unwrap_or(0),
        ad_select: byte(data, bond::AD_SELECT).unwrap_or(0),
        min_links: word(data, bond::MIN_LINKS).unwrap_or(0),
        primary: None,
    })
}

/// The number of the primary port of a bond.
pub fn bond_primary(data: &[u8]) -> Option<u32> {
    word(data, bond::PRIMARY).filter(|index| *index > 0)
}

/// A VLAN, without its parent.
pub fn vlan(data: &[u8]) -> Option<Vlan> {
    Some(Vlan {
        parent: String::new(),
        id: u16_at(attribute(data, vlan::ID)?, 0)?,
        protocol: network_order(data, vlan::PROTOCOL).unwrap_or(0x8100),
        flags: word(data, vlan::FLAGS).unwrap_or(1),
    })
}

/// A bridge.
pub fn bridge(data: &[u8]) -> Option<Bridge> {
    Some(Bridge {
        stp: word(data, bridge::STP_STATE)? != 0,
        forward_delay: word(data, bridge::FORWARD_DELAY).unwrap_or(1500),
        vlan_filtering: byte(data, bridge::VLAN_FILTERING).unwrap_or(0) != 0,
        vlan_protocol: network_order(data, bridge::VLAN_PROTOCOL).unwrap_or(0x8100),
    })
}

/// The mode of a macvlan.
pub fn macvlan_mode(data: &[u8]) -> Option<u32> {
    word(data, MACVLAN_MODE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::link::{LinkState, make};
    use crate::net::netlink::{attribute, attributes};
    use crate::plan::network::{Link, LinkKind, Macvlan};

    /// What is sent is read back as what it was.
    #[test]
    fn what_is_made_is_what_is_read() {
        let full = Bond {
            mode: BondMode::Ad,
            miimon: 100,
            updelay: 200,
            downdelay: 300,
            arp_interval: 0,
            arp_targets: Vec::new(),
            arp_validate: 0,
            fail_over_mac: 0,
            xmit_hash_policy: 1,
            lacp_rate: 1,
            ad_select: 2,
            min_links: 2,
            primary: None,
        };
        let by_arp = Bond {
            mode: BondMode::ActiveBackup,
            miimon: 0,
            updelay: 0,
            downdelay: 0,
            arp_interval: 500,
            arp_targets: vec![Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)],
            arp_validate: 3,
            fail_over_mac: 2,
            xmit_hash_policy: 0,
            lacp_rate: 0,
            ad_select: 0,
            min_links: 0,
            primary: None,
        };
        let data = |kind: LinkKind| {
            let link =
                Link { name: "x".into(), kind, mtu: 1500, master: None, mac: None, bridge_vlans: Vec::new() };
            // 16 bytes of the netlink header, 16 of the link's.
            let bytes = make(&link, Some(3)).unwrap().body().to_vec();
            LinkState::parse(&bytes).unwrap().data
        };
        for one in [full, by_arp] {
            assert_eq!(bond(&data(LinkKind::Bond(one.clone()))), Some(one));
        }
        let one = Vlan { parent: String::new(), id: 4094, protocol: 0x88a8, flags: 1 };
        assert_eq!(vlan(&data(LinkKind::Vlan(one.clone()))), Some(one));
        let one = Bridge { stp: true, forward_delay: 200, vlan_filtering: false, vlan_protocol: 0x8100 };
        assert_eq!(bridge(&data(LinkKind::Bridge(one.clone()))), Some(one));
        let mode = data(LinkKind::Macvlan(Macvlan { parent: "y".into(), mode: 4 }));
        assert_eq!(macvlan_mode(&mode), Some(4));
    }

    #[test]
    fn nonsense_is_nothing() {
        for bytes in [&[][..], &[5, 0, 1, 0, 99, 0, 0, 0], &[0xff; 64], &[4, 0, 1, 0]] {
            assert_eq!((bond(bytes), vlan(bytes), bridge(bytes)), (None, None, None), "{bytes:?}");
        }
        assert_eq!(attributes(&[0; 7]).count(), 0);
        assert_eq!(attribute(&[4, 0, 1, 0], 1), Some(&[][..]));
    }
}

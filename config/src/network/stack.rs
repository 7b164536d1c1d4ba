//! From the link that packets leave by down to hardware.

use super::teamd::{self, Team};
use super::{NetworkError, View};
use collector::net::kinds;
use collector::net::link::{ETHERNET, LOOPBACK, LinkState};
use collector::plan::network::{Bond, BondMode, Bridge, Link, LinkKind, Macvlan, Nic, Sriov};
use initramfs::root::Root;
use std::net::IpAddr;

/// The links that `index` stands on and itself, bottom up.
pub(super) fn walk(
    view: &View,
    index: u32,
    to: IpAddr,
    root: &Root,
) -> Result<(Vec<Link>, Vec<String>), NetworkError> {
    let mut walker = Walker { view, root, to, links: Vec::new(), warnings: Vec::new() };
    walker.visit(index, None, 0)?;
    Ok((walker.links, walker.warnings))
}

/// Deeper than any stack of links; the kernel allows eight.
const DEEPEST: usize = 16;

struct Walker<'a> {
    view: &'a View,
    root: &'a Root,
    to: IpAddr,
    links: Vec<Link>,
    warnings: Vec<String>,
}

impl Walker<'_> {
    fn unsupported(&self, link: &LinkState, what: impl Into<String>, advice: &str) -> NetworkError {
        NetworkError::Unsupported {
            to: self.to,
            link: link.name.clone(),
            what: what.into(),
            advice: advice.to_owned(),
        }
    }

    fn device(&self, link: &LinkState) -> Result<bool, NetworkError> {
        Ok(self.root.exists(format!("/sys/class/net/{}/device", link.name))?)
    }

    fn visit(&mut self, index: u32, master: Option<&str>, depth: usize) -> Result<(), NetworkError> {
        let Some(state) = self.view.link(index).cloned() else {
            let why = format!("link {index} is gone");
            return Err(NetworkError::NoRoute { to: self.to.to_string(), why });
        };
        if self.links.iter().any(|l| l.name == state.name) {
            return Ok(());
        }
        if depth > DEEPEST {
            return Err(self.unsupported(
                &state,
                "a stack of links too deep to follow",
                "choose a simpler way",
            ));
        }
        let (kind, mac) =
            if self.device(&state)? { self.nic(&state)? } else { (self.made(&state, depth)?, state.mac) };
        if let Some(above) = state.master.and_then(|m| self.view.link(m))
            && master.is_none()
            && above.kind.as_deref() == Some("vrf")
        {
            self.warnings.push(format!(
                "{} belongs to VRF {}; the crash kernel has one routing table, in which only the ways to targets are",
                state.name, above.name
            ));
        }
        let vlans = self.view.vlans.iter().find(|(i, _)| *i == index).map(|(_, vlans)| vlans.clone());
        let filters = |l: &LinkState| kinds::bridge(&l.data).is_some_and(|b| b.vlan_filtering);
        let filtered = match &kind {
            LinkKind::Bridge(bridge) => bridge.vlan_filtering,
            _ => state
                .master
                .and_then(|m| self.view.link(m))
                .is_some_and(|m| m.kind.as_deref() == Some("bridge") && filters(m)),
        };
        self.links.push(Link {
            name: state.name.clone(),
            kind,
            mtu: state.mtu,
            master: master.map(str::to_owned),
            mac,
            bridge_vlans: vlans.filter(|_| filtered).unwrap_or_default(),
        });
        Ok(())
    }

    fn nic(
        &self,
        state: &LinkState,
    ) -> Result<(LinkKind, Option<collector::plan::network::Mac>), NetworkError> {
        let class = format!("/sys/class/net/{}", state.name);
        if self.root.exists(format!("{class}/wireless"))? || self.root.exists(format!("{class}/phy80211"))? {
            let advice = "the crash kernel cannot join a wireless network; choose a way by cable";
            return Err(self.unsupported(state, "a wireless interface", advice));
        }
        if state.hardware == 32 {
            let advice = "IP over InfiniBand is not supported; choose a way by Ethernet";
            return Err(self.unsupported(state, "an InfiniBand interface", advice));
        }
        let Some(mac) = state.permanent.or(state.mac).filter(|_| state.hardware == ETHERNET) else {
            let advice = "choose a way by Ethernet";
            return Err(self.unsupported(
                state,
                format!("hardware of type {} without an Ethernet address", state.hardware),
                advice,
            ));
        };
        let device = self.root.canonical(format!("{class}/device"))?;
        let name = device.as_ref().and_then(|d| d.file_name()).map(|n| n.to_string_lossy().into_owned());
        let sriov = match &device {
            Some(device) => self.physical_function(device)?,
            None => None,
        };
        // A bond changes the addresses of its ports; another that was set by hand has to be set again.
        let own = state.permanent.is_none() || state.mac == state.permanent;
        let set = state.mac.filter(|_| !own && state.master.is_none() || sriov.is_some());
        let driver = self.root.link_name(format!("{class}/device/driver"))?;
        Ok((LinkKind::Nic(Nic { mac, device: name, driver, sriov }), set))
    }

    /// A virtual function's physical one, where this machine has it too. (In a guest it has not, and the function is a NIC.)
    fn physical_function(&self, device: &std::path::Path) -> Result<Option<Sriov>, NetworkError> {
        let Some(physical) = self.root.canonical(device.join("physfn"))? else { return Ok(None) };
        let functions =
            self.root.read_line(physical.join("sriov_numvfs"))?.and_then(|n| n.parse().ok()).unwrap_or(1);
        let name = physical.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Some(Sriov { device: name, functions }))
    }

    /// A link without hardware of its own.
    fn made(&mut self, state: &LinkState, depth: usize) -> Result<LinkKind, NetworkError> {
        let unreadable = "its kind tells less than expected";
        let kind = state.kind.clone().unwrap_or_default();
        match kind.as_str() {
            "bond" => {
                let mut bond =
                    kinds::bond(&state.data).ok_or_else(|| self.unsupported(state, "a bond", unreadable))?;
                bond.primary =
                    kinds::bond_primary(&state.data).and_then(|i| self.view.link(i)).map(|l| l.name.clone());
                self.ports(state, depth, "a bond")?;
                Ok(LinkKind::Bond(bond))
            }
            "bridge" => {
                let bridge = kinds::bridge(&state.data)
                    .ok_or_else(|| self.unsupported(state, "a bridge", unreadable))?;
                let ports = self.ports(state, depth, "a bridge")?;
                // One port makes no loop, and without the protocol it forwards at once and not in 30 seconds.
                let stp = bridge.stp && ports > 1;
                let forward_delay = if stp { bridge.forward_delay } else { 0 };
                Ok(LinkKind::Bridge(Bridge { stp, forward_delay, ..bridge }))
            }
            "vlan" => {
                let mut vlan =
                    kinds::vlan(&state.data).ok_or_else(|| self.unsupported(state, "a VLAN", unreadable))?;
                vlan.parent = self.parent(state, depth)?;
                Ok(LinkKind::Vlan(vlan))
            }
            "macvlan" => {
                let mode = kinds::macvlan_mode(&state.data).unwrap_or(4);
                Ok(LinkKind::Macvlan(Macvlan { parent: self.parent(state, depth)?, mode }))
            }
            "team" => self.team(state, depth),
            _ => Err(self.refusal(state, &kind)),
        }
    }

    /// The link below a VLAN or macvlan.
    fn parent(&mut self, state: &LinkState, depth: usize) -> Result<String, NetworkError> {
        if state.parent_elsewhere {
            let advice = "its parent is in another network namespace: run where the parent is";
            return Err(self.unsupported(state, "a link into a container", advice));
        }
        let parent = state.parent.and_then(|p| self.view.link(p)).cloned();
        let parent =
            parent.ok_or_else(|| self.unsupported(state, "a link without a parent", "choose another way"))?;
        self.visit(parent.index, None, depth.saturating_add(1))?;
        Ok(parent.name)
    }

    /// The ports that lead to hardware. Those of guests and containers are left out.
    fn ports(&mut self, state: &LinkState, depth: usize, what: &str) -> Result<usize, NetworkError> {
        let ports: Vec<LinkState> =
            self.view.links.iter().filter(|l| l.master == Some(state.index)).cloned().collect();
        let mut taken = 0_usize;
        let mut refused = None;
        for port in ports {
            let leads = self.device(&port)?
                || matches!(port.kind.as_deref(), Some("bond" | "team" | "vlan" | "bridge" | "macvlan"));
            if !leads {
                continue;
            }
            match self.visit(port.index, Some(&state.name), depth.saturating_add(1)) {
                Ok(()) => taken = taken.saturating_add(1),
                Err(e) => refused = refused.or(Some(e)),
            }
        }
        match (taken, refused) {
            (0, Some(e)) => Err(e),
            (0, None) => {
                let advice =
                    "the target is in a guest or container of this machine, and dies with it; choose another";
                Err(self.unsupported(state, format!("{what} without a port to hardware"), advice))
            }
            (_, Some(e)) => {
                self.warnings.push(format!("a port of {} is left out: {e}", state.name));
                Ok(taken)
            }
            (_, None) => Ok(taken),
        }
    }

    /// A team becomes a bond that does the same.
    fn team(&mut self, state: &LinkState, depth: usize) -> Result<LinkKind, NetworkError> {
        let advice = "only the runners activebackup, loadbalance, roundrobin, broadcast and lacp can be made as a bond; use a bond";
        let Some(Team { runner, min_ports }) = teamd::team(&state.name, self.root)? else {
            let files = teamd::files(&state.name).join(" or ");
            return Err(self.unsupported(
                state,
                format!("a team whose daemon does not answer, and whose configuration is not in {files}"),
                advice,
            ));
        };
        let mode = match runner.as_str() {
            "activebackup" => BondMode::ActiveBackup,
            "loadbalance" => BondMode::BalanceXor,
            "roundrobin" => BondMode::BalanceRr,
            "broadcast" => BondMode::Broadcast,
            "lacp" => BondMode::Ad,
            other => return Err(self.unsupported(state, format!("a team of runner {other}"), advice)),
        };
        self.ports(state, depth, "a team")?;
        self.warnings.push(format!("team {} (runner {runner}) is made as a bond of mode {mode}", state.name));
        let min_links = if mode == BondMode::Ad { min_ports } else { 0 };
        // Layers 3 and 4, as a team hashes; fast, so that it soon stands.
        Ok(LinkKind::Bond(Bond { xmit_hash_policy: 1, lacp_rate: 1, min_links, ..Bond::new(mode) }))
    }

    fn refusal(&self, state: &LinkState, kind: &str) -> NetworkError {
        if state.hardware == LOOPBACK {
            return NetworkError::Ourselves(self.to);
        }
        let (what, advice) = match kind {
            "wireguard" => (
                "a WireGuard tunnel",
                "the crash kernel has no keys; choose a target that is reached without it",
            ),
            "tun" => (
                "a tunnel of a program",
                "the program (a VPN, a guest) is not there after a crash; choose a target that is reached without it",
            ),
            "veth" => {
                ("a cable to a container", "the container is not there after a crash; run on the host itself")
            }
            "openvswitch" => (
                "a port of Open vSwitch",
                "its daemon is not there after a crash; choose a way by a link outside the switch",
            ),
            "ipvlan" | "ipvtap" | "macvtap" => {
                ("a link of a guest or container", "choose a way by the link below")
            }
            "vxlan" | "geneve" | "gre" | "gretap" | "ip6gre" | "ip6gretap" | "ipip" | "sit" | "ip6tnl"
            | "vti" | "xfrm" | "erspan" => {
                ("a tunnel", "the crash kernel makes no tunnels; choose a target that is reached without it")
            }
            "ppp" => ("a dial-up link", "its daemon is not there after a crash; choose another way"),
            "vrf" => ("a VRF device", "name the link in it: add a scope, or choose another way"),
            "dummy" | "ifb" | "nlmon" => ("a link to nowhere", "choose another way"),
            "" => ("a link without hardware", "choose a way by a NIC"),
            other => {
                return self.unsupported(
                    state,
                    format!("a link of kind {other}"),
                    "the crash kernel cannot make it; choose a way by NIC, bond, VLAN, bridge or macvlan",
                );
            }
        };
        self.unsupported(state, what, advice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use collector::net::link::make;
    use collector::net::netlink::Socket;
    use collector::plan::network::{BridgeVlan, Mac};
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    fn link(index: u32, name: &str, kind: Option<&str>) -> LinkState {
        let mac = Mac([2, 0, 0, 0, 0, u8::try_from(index).unwrap()]);
        LinkState {
            index,
            name: name.to_owned(),
            hardware: ETHERNET,
            flags: 1,
            mac: Some(mac),
            permanent: kind.is_none().then_some(mac),
            mtu: 1500,
            master: None,
            parent: None,
            parent_elsewhere: false,
            operstate: 6,
            carrier: true,
            kind: kind.map(str::to_owned),
            data: Vec::new(),
            port_data: Vec::new(),
        }
    }

    /// A made link, with what the kernel would say of it.
    fn made(index: u32, name: &str, kind: LinkKind) -> LinkState {
        let planned =
            Link { name: name.into(), kind, mtu: 1500, master: None, mac: None, bridge_vlans: Vec::new() };
        let data = LinkState::parse(make(&planned, None).unwrap().body()).unwrap().data;
        LinkState { data, ..link(index, name, Some(planned.kind.name())) }
    }

    fn bond(mode: BondMode) -> LinkKind {
        LinkKind::Bond(Bond { xmit_hash_policy: 1, lacp_rate: 1, min_links: 1, ..Bond::new(mode) })
    }

    fn vlan(index: u32, name: &str, parent: u32) -> LinkState {
        let kind = LinkKind::Vlan(collector::plan::network::Vlan {
            parent: String::new(),
            id: 7,
            protocol: 0x8100,
            flags: 1,
        });
        LinkState { parent: Some(parent), ..made(index, name, kind) }
    }

    fn bridge(index: u32, name: &str, stp: bool) -> LinkState {
        made(
            index,
            name,
            LinkKind::Bridge(Bridge {
                stp,
                forward_delay: 1500,
                vlan_filtering: false,
                vlan_protocol: 0x8100,
            }),
        )
    }

    fn port(of: u32, link: LinkState) -> LinkState {
        LinkState { master: Some(of), ..link }
    }

    fn machine(nics: &[&str]) -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: &str| fs::create_dir_all(dir.path().join(path)).unwrap();
        put("run/teamd");
        for nic in nics {
            put(&format!("sys/class/net/{nic}"));
            put(&format!("sys/devices/pci0000:00/0000:00:01.0/{nic}-device"));
            let target = format!("/sys/devices/pci0000:00/0000:00:01.0/{nic}-device");
            symlink(target, dir.path().join(format!("sys/class/net/{nic}/device"))).unwrap();
        }
        let root = Root::new(dir.path());
        (dir, root)
    }

    fn view(links: Vec<LinkState>, vlans: Vec<(u32, Vec<BridgeVlan>)>) -> View {
        View { socket: Socket::open().unwrap(), links, vlans, addresses: Vec::new() }
    }

    const TO: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 9));

    fn names(links: &[Link]) -> Vec<(&str, Option<&str>)> {
        links.iter().map(|l| (l.name.as_str(), l.master.as_deref())).collect()
    }

    #[test]
    fn a_stack_comes_bottom_up_with_the_ports_that_lead_to_hardware() {
        let (_dir, root) = machine(&["eth0", "eth1", "eth2"]);
        let links = vec![
            port(5, link(2, "eth0", None)),
            port(5, link(3, "eth1", None)),
            link(4, "eth2", None),
            made(5, "bond0", bond(BondMode::Ad)),
            port(7, vlan(6, "bond0.7", 5)),
            bridge(7, "br7", true),
            port(7, link(8, "vnet3", Some("tun"))),
            port(7, link(9, "veth1", Some("veth"))),
        ];
        let (links, warnings) = walk(&view(links, Vec::new()), 7, TO, &root).unwrap();
        assert_eq!(
            names(&links),
            [
                ("eth0", Some("bond0")),
                ("eth1", Some("bond0")),
                ("bond0", None),
                ("bond0.7", Some("br7")),
                ("br7", None)
            ]
        );
        assert!(warnings.is_empty(), "{warnings:?}");
        let LinkKind::Bond(seen) = &links[2].kind else { panic!("{:?}", links[2]) };
        assert_eq!(
            (seen.mode, seen.lacp_rate, seen.xmit_hash_policy, seen.min_links),
            (BondMode::Ad, 1, 1, 1)
        );
        // One port is left, which makes no loop and need not wait.
        let LinkKind::Bridge(seen) = &links[4].kind else { panic!("{:?}", links[4]) };
        assert_eq!((seen.stp, seen.forward_delay), (false, 0));
        let LinkKind::Nic(nic) = &links[0].kind else { panic!("{:?}", links[0]) };
        assert_eq!(nic.device.as_deref(), Some("eth0-device"));
    }

    #[test]
    fn two_ports_keep_the_spanning_tree_and_their_vlans() {
        let (_dir, root) = machine(&["eth0", "eth1"]);
        let filters = LinkKind::Bridge(Bridge {
            stp: true,
            forward_delay: 400,
            vlan_filtering: true,
            vlan_protocol: 0x8100,
        });
        let mut br0 = made(4, "br0", filters);
        // The kernel tells of filtering; it is set only later.
        br0.data.extend_from_slice(&[5, 0, 7, 0, 1, 0, 0, 0]);
        let links = vec![port(4, link(2, "eth0", None)), port(4, link(3, "eth1", None)), br0];
        let admitted = vec![BridgeVlan { id: 7, flags: 0 }];
        let (links, _) =
            walk(&view(links, vec![(2, admitted.clone()), (4, admitted.clone())]), 4, TO, &root).unwrap();
        let LinkKind::Bridge(seen) = &links[2].kind else { panic!("{:?}", links[2]) };
        assert_eq!((seen.stp, seen.forward_delay, seen.vlan_filtering), (true, 400, true));
        assert_eq!(
            (&links[0].bridge_vlans, &links[1].bridge_vlans, &links[2].bridge_vlans),
            (&admitted, &Vec::new(), &admitted)
        );
    }

    #[test]
    fn what_cannot_be_made_again_is_refused_with_the_reason() {
        let (dir, root) = machine(&["eth0", "wlan0", "ib0"]);
        fs::create_dir(dir.path().join("sys/class/net/wlan0/wireless")).unwrap();
        let ib = LinkState { hardware: 32, permanent: None, mac: None, ..link(2, "ib0", None) };
        let inside = LinkState { parent_elsewhere: true, ..vlan(2, "v", 9) };
        for (state, why) in [
            (link(2, "wlan0", None), "wireless"),
            (ib, "InfiniBand"),
            (link(2, "wg0", Some("wireguard")), "WireGuard"),
            (link(2, "tun0", Some("tun")), "VPN"),
            (link(2, "vx", Some("vxlan")), "makes no tunnels"),
            (link(2, "ovs-br", Some("openvswitch")), "Open vSwitch"),
            (link(2, "d", Some("dummy")), "link to nowhere"),
            (link(2, "x", Some("newkind")), "kind newkind"),
            (link(2, "odd", None), "without hardware"),
            (inside, "another network namespace"),
            (bridge(2, "virbr0", false), "in a guest or container"),
            (link(2, "team0", Some("team")), "a team whose daemon does not answer, and whose configuration"),
        ] {
            let error = walk(&view(vec![state], Vec::new()), 2, TO, &root).unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("10.0.0.9"), "{why}: {error}");
        }
        // A VLAN on a tunnel is as bad; a link that is its own parent is no endless walk.
        let error =
            walk(&view(vec![link(2, "wg0", Some("wireguard")), vlan(3, "v", 2)], Vec::new()), 3, TO, &root);
        assert!(error.unwrap_err().to_string().contains("WireGuard"));
        let circle = walk(&view(vec![vlan(2, "a", 3), vlan(3, "b", 2)], Vec::new()), 2, TO, &root);
        assert!(circle.unwrap_err().to_string().contains("too deep"));
    }

    #[test]
    fn teams_become_bonds_of_the_mode_that_does_the_same() {
        let (dir, root) = machine(&["eth0"]);
        let links = vec![port(3, link(2, "eth0", None)), link(3, "team0", Some("team"))];
        let config = dir.path().join("run/teamd/team0.conf");
        for (runner, mode) in [
            ("activebackup", BondMode::ActiveBackup),
            ("lacp", BondMode::Ad),
            ("loadbalance", BondMode::BalanceXor),
        ] {
            fs::write(&config, format!("{{\"runner\": {{\"name\": \"{runner}\"}}}}")).unwrap();
            let (links, warnings) = walk(&view(links.clone(), Vec::new()), 3, TO, &root).unwrap();
            let LinkKind::Bond(bond) = &links[1].kind else { panic!("{:?}", links[1]) };
            assert_eq!(bond.mode, mode);
            assert_eq!(links[0].master.as_deref(), Some("team0"));
            assert!(warnings[0].contains(runner), "{warnings:?}");
        }
        for text in ["{\"runner\": {\"name\": \"random\"}}", "{\"runner\": 1}", "no json"] {
            fs::write(&config, text).unwrap();
            let error = walk(&view(links.clone(), Vec::new()), 3, TO, &root).unwrap_err().to_string();
            assert!(error.contains("use a bond"), "{error}");
        }
    }

    #[test]
    fn a_virtual_function_needs_its_physical_one() {
        let (dir, root) = machine(&["eth0"]);
        let device = dir.path().join("sys/devices/pci0000:00/0000:00:01.0/eth0-device");
        fs::create_dir_all(dir.path().join("sys/devices/pci0000:00/0000:03:00.0")).unwrap();
        fs::write(dir.path().join("sys/devices/pci0000:00/0000:03:00.0/sriov_numvfs"), "4\n").unwrap();
        symlink(Path::new("/sys/devices/pci0000:00/0000:03:00.0"), device.join("physfn")).unwrap();
        let (links, _) = walk(&view(vec![link(2, "eth0", None)], Vec::new()), 2, TO, &root).unwrap();
        let LinkKind::Nic(nic) = &links[0].kind else { panic!("{:?}", links[0]) };
        assert_eq!(nic.sriov, Some(Sriov { device: "0000:03:00.0".into(), functions: 4 }));
        assert_eq!(
            links[0].mac,
            Some(Mac([2, 0, 0, 0, 0, 2])),
            "its address is set: it may come up with another"
        );
    }
}

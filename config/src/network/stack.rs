//! From the link that packets leave by down to hardware.

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

    /// A team becomes a bond that does the same. How it runs only the daemon that runs it knows, which writes it down.
    fn team(&mut self, state: &LinkState, depth: usize) -> Result<LinkKind, NetworkError> {
        let config = [format!("/run/teamd/{}.conf", state.name), format!("/etc/teamd/{}.conf", state.name)];
        let mut text = None;
        for path in &config {
            text = text.or(self.root.read(path)?);
        }
        let runner = text.as_deref().and_then(runner_of);
        let advice = "only the runners activebackup, loadbalance, roundrobin, broadcast and lacp can be made as a bond; use a bond";
        let Some(runner) = runner else {
            return Err(self.unsupported(
                state,
                format!("a team whose configuration is not in {}", config.join(" or ")),
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
        Ok(LinkKind::Bond(Bond {
            mode,
            miimon: 100,
            updelay: 0,
            downdelay: 0,
            arp_interval: 0,
            arp_targets: Vec::new(),
            arp_validate: 0,
            fail_over_mac: 0,
            // Layers 3 and 4, as a team hashes.
            xmit_hash_policy: 1,
            lacp_rate: 1,
            ad_select: 0,
            min_links: 0,
            primary: None,
        }))
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

/// `runner.name` of teamd's configuration, which is JSON.
fn runner_of(text: &str) -> Option<String> {
    let config: serde_json::Value = serde_json::from_str(text).ok()?;
    let name = config.get("runner")?.get("name")?.as_str()?;
    name.bytes().all(|b| b.is_ascii_alphanumeric()).then(|| name.to_owned())
}

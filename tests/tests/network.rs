//! A way is recorded in one network namespace and made again in another, whose NICs have other names in another order.
//!
//! What needs the bonding and VLAN drivers is proved in a guest: `cargo xtask vm network-bond-vlan-bridge`.

use anyhow::{Context, Result, ensure};
use collector::net::{self, Reached};
use collector::plan::network::{LinkKind, Mac, Network, NetworkLimits};
use config::network::{Recorded, View, Way, record};
use initramfs::root::Root;
use std::fs;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use vmcored_tests::lab::space::Space;

const BRISK: NetworkLimits = NetworkLimits { appear: 2, carrier: 2, reach: 2, lease: 4, total: 8 };

fn mac(last: u8) -> Mac {
    Mac([2, 0, 0, 0, 0x10, last])
}

/// A /sys in which these links are hardware.
fn hardware(names: &[&str]) -> Result<(tempfile::TempDir, Root)> {
    let dir = tempfile::tempdir()?;
    for name in names {
        let device = dir.path().join(format!("sys/devices/pci0000:00/0000:00:03.0/{name}-device"));
        let class = dir.path().join(format!("sys/class/net/{name}"));
        fs::create_dir_all(&device)?;
        fs::create_dir_all(&class)?;
        symlink(format!("/sys/devices/pci0000:00/0000:00:03.0/{name}-device"), class.join("device"))?;
    }
    let root = Root::new(dir.path());
    Ok((dir, root))
}

fn recorded(space: &Space, host: &str, port: u16, root: &Root) -> Result<(Network, Vec<Way>)> {
    let ways = space.run(|| record(&mut View::read()?, host, port, root))?;
    let mut all = Recorded::default();
    for way in &ways {
        all.add(way);
    }
    let mut network = all.network;
    network.limits = BRISK;
    // Through the plan's text, as in an image.
    Ok((serde_json::from_str(&serde_json::to_string(&network)?)?, ways))
}

fn reach(space: &Space, network: &Network, target: &str) -> Result<(Reached, Vec<String>), String> {
    let mut told = Vec::new();
    let target: IpAddr = target.parse().map_err(|_| "no address".to_owned())?;
    let reached = space.run(|| net::reach(network, target, &mut |said| told.push(said)));
    reached.map(|r| (r, told)).map_err(|e| collector::engine::chain(&e))
}

/// Connects and hears what the other side says to everybody.
fn connect(space: &Space, to: SocketAddr) -> Result<String> {
    space.run(|| {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2))?;
        let mut said = String::new();
        stream.read_to_string(&mut said)?;
        Ok(said)
    })
}

fn listener(space: &Space, at: &str) -> Result<TcpListener> {
    Ok(space.run(|| TcpListener::bind(at))?)
}

fn greet(listener: &TcpListener) -> Result<()> {
    use std::io::Write;
    let (mut stream, _) = listener.accept()?;
    Ok(stream.write_all(b"hello")?)
}

/// One cable, a router, a target behind it; in the crash kernel another NIC has the name.
#[test]
fn a_routed_target_over_a_nic_whose_name_another_has() -> Result<()> {
    let (Some(host), Some(router)) = (Space::new()?, Space::new()?) else { return Ok(()) };
    host.cable(("eth0", mac(1)), &router, ("r0", mac(2)))?;
    router.up("r0")?;
    router.address("r0", "10.0.0.1/24")?;
    router.address("lo", "10.9.9.9/32")?;
    host.up("eth0")?;
    host.address("eth0", "10.0.0.5/24")?;
    let route = collector::plan::network::Route {
        to: "0.0.0.0".parse()?,
        prefix: 0,
        link: "eth0".into(),
        gateway: Some("10.0.0.1".parse()?),
        source: None,
        mtu: Some(1300),
    };
    host.request("a route", net::neighbour::new_route(host.link("eth0")?.index, &route, 0x400))?;
    let (_dir, root) = hardware(&["eth0"])?;
    let (network, ways) = recorded(&host, "10.9.9.9", 22, &root)?;
    let shown = ways[0].to_string();
    for wanted in [
        "target       10.9.9.9",
        "via 10.0.0.1 on eth0, from 10.0.0.5",
        "address      10.0.0.5/24 on eth0",
        "NIC 02:00:00:00:10:01 at eth0-device",
    ] {
        ensure!(shown.contains(wanted), "no {wanted:?} in:\n{shown}");
    }
    ensure!(network.routes[0].mtu == Some(1300) && network.routes[0].prefix == 32, "{:?}", network.routes);
    ensure!(serde_json::to_value(&ways)?[0]["links"][0]["name"] == "eth0");

    // Ourselves, and nobody.
    for (target, why) in [
        ("10.0.0.5", "an address of this machine"),
        ("2001:db8::1", "no route"),
        ("fe80::1", "says nothing of the link"),
    ] {
        let error = recorded(&host, target, 22, &root).expect_err(target);
        ensure!(format!("{error:#}").contains(why), "{target}: {error:#}");
    }
    drop(host);

    let Some(crash) = Space::new()? else { return Ok(()) };
    crash.cable(("eth1", mac(1)), &router, ("r0b", mac(2)))?;
    crash.cable(("eth0", mac(9)), &router, ("r1b", mac(8)))?;
    // The NIC that takes the name away is up already.
    crash.up("eth0")?;
    router.up("r0b")?;
    router.address("r0b", "10.0.0.1/24")?;
    let listener = listener(&router, "10.9.9.9:0")?;
    let start = Instant::now();
    let (reached, told) = reach(&crash, &network, "10.9.9.9").map_err(anyhow::Error::msg)?;
    let took = start.elapsed();
    ensure!(took < Duration::from_secs(1), "it took {took:?}: {told:?}");
    ensure!(reached.next_hop_mac == Some(mac(2)), "{reached:?}");
    ensure!(
        crash.link("eth0")?.mac == Some(mac(1)) && told.iter().any(|t| t.contains("is eth0")),
        "{told:?}"
    );
    let to = reached.socket_address(listener.local_addr()?.port());
    std::thread::scope(|scope| {
        let greeting = scope.spawn(|| greet(&listener));
        let said = connect(&crash, to);
        greeting.join().expect("greeting").and(said)
    })?;
    // Once more for a second target: what is there stays.
    let index = crash.link("eth0")?.index;
    reach(&crash, &network, "10.9.9.9").map_err(anyhow::Error::msg)?;
    ensure!(crash.link("eth0")?.index == index);
    Ok(())
}

/// A bridge of two cables with a macvlan on it, and a neighbour by link-local IPv6.
#[test]
fn a_macvlan_on_a_bridge_of_two_nics_to_a_link_local_target() -> Result<()> {
    let (Some(host), Some(other)) = (Space::new()?, Space::new()?) else { return Ok(()) };
    let build = |space: &Space, names: [&str; 2], peers: [&str; 2]| -> Result<()> {
        space.cable((names[0], mac(1)), &other, (peers[0], mac(2)))?;
        space.cable((names[1], mac(3)), &other, (peers[1], mac(4)))?;
        other.up(peers[0])
    };
    build(&host, ["lan0", "lan1"], ["p0", "p1"])?;
    other.address("p0", "fe80::77/64")?;
    host.make("br0", "bridge")?;
    host.enslave("lan0", "br0")?;
    host.enslave("lan1", "br0")?;
    let parent = host.link("br0")?.index;
    let planned = collector::plan::network::Link {
        name: "mv0".into(),
        kind: LinkKind::Macvlan(collector::plan::network::Macvlan { parent: "br0".into(), mode: 4 }),
        mtu: 1400,
        master: None,
        mac: Some(mac(5)),
        bridge_vlans: Vec::new(),
    };
    host.request("a macvlan", net::link::make(&planned, Some(parent)).context("a macvlan is made")?)?;
    for link in ["lan0", "lan1", "br0", "mv0"] {
        host.up(link)?;
    }
    host.address("mv0", "fe80::5/64")?;
    let (_dir, root) = hardware(&["lan0", "lan1"])?;
    let (network, ways) = recorded(&host, "fe80::77%mv0", 22, &root)?;
    let kinds: Vec<&str> = network.links.iter().map(|l| l.kind.name()).collect();
    ensure!(kinds == ["nic", "nic", "bridge", "macvlan"], "{kinds:?}");
    ensure!(ways[0].kinds == ["bridge", "macvlan"] && ways[0].nics == ["lan0", "lan1"], "{:?}", ways[0]);
    drop(host);

    let Some(crash) = Space::new()? else { return Ok(()) };
    // The other way round.
    build(&crash, ["lan1", "lan0"], ["q0", "q1"])?;
    other.address("q0", "fe80::77/64")?;
    let (reached, _) = reach(&crash, &network, "fe80::77").map_err(anyhow::Error::msg)?;
    ensure!(reached.next_hop_mac == Some(mac(2)), "{reached:?}");
    ensure!(crash.link("lan0")?.mac == Some(mac(1)) && crash.link("lan1")?.mac == Some(mac(3)));
    ensure!(crash.link("mv0")?.mac == Some(mac(5)));
    let listener = listener(&other, "[::]:0")?;
    std::thread::scope(|scope| {
        let greeting = scope.spawn(|| greet(&listener));
        let said = connect(&crash, reached.socket_address(listener.local_addr()?.port()));
        greeting.join().expect("greeting")?;
        ensure!(said? == "hello");
        Ok(())
    })
}

/// Each way not to get there says what was seen, within its time.
#[test]
fn what_is_missing_is_said_in_time() -> Result<()> {
    let (Some(host), Some(other)) = (Space::new()?, Space::new()?) else { return Ok(()) };
    host.cable(("eth0", mac(1)), &other, ("p0", mac(2)))?;
    other.up("p0")?;
    other.address("p0", "10.0.0.9/24")?;
    host.up("eth0")?;
    host.address("eth0", "10.0.0.5/24")?;
    let (_dir, root) = hardware(&["eth0"])?;
    let (network, _) = recorded(&host, "10.0.0.9", 0, &root)?;
    ensure!(network.routes.is_empty(), "a neighbour needs no route: {:?}", network.routes);
    drop(host);

    let fails = |space: &Space, network: &Network, wanted: &[&str]| -> Result<()> {
        let start = Instant::now();
        let error = reach(space, network, "10.0.0.9").expect_err("it is reached");
        for word in wanted {
            ensure!(error.contains(word), "no {word:?} in {error}");
        }
        ensure!(start.elapsed() < Duration::from_secs(4), "{:?}: {error}", start.elapsed());
        Ok(())
    };
    let Some(crash) = Space::new()? else { return Ok(()) };
    crash.cable(("eth0", mac(7)), &other, ("q0", mac(8)))?;
    fails(
        &crash,
        &network,
        &["no NIC with permanent address 02:00:00:00:10:01 (eth0", "eth0 (02:00:00:00:10:07)"],
    )?;
    crash.cable(("eth1", mac(1)), &other, ("q1", mac(2)))?;
    fails(&crash, &network, &["no carrier on eth0", "eth0 no carrier"])?;
    other.up("q1")?;
    fails(&crash, &network, &["10.0.0.9 does not answer on eth0", "it leads to 10.0.0.9"])?;
    other.address("q1", "10.0.0.9/24")?;
    reach(&crash, &network, "10.0.0.9").map_err(anyhow::Error::msg)?;
    let error = reach(&crash, &network, "10.0.0.10").expect_err("not in the plan");
    ensure!(error.contains("no way to 10.0.0.10"), "{error}");
    Ok(())
}

/// The recorded lease is somebody else's by now, in another network; a new one leads to the target.
#[test]
fn a_lease_that_does_not_work_is_renewed() -> Result<()> {
    let (Some(crash), Some(server)) = (Space::new()?, Space::new()?) else { return Ok(()) };
    crash.cable(("eth0", mac(1)), &server, ("p0", mac(2)))?;
    server.up("p0")?;
    server.address("p0", "10.7.0.1/24")?;
    server.address("lo", "10.9.9.9/32")?;
    let network: Network = serde_json::from_value(serde_json::json!({
        "links": [{"name": "eth0", "kind": {"nic": {"mac": mac(1)}}, "mtu": 1500}],
        "addresses": [{"link": "eth0", "address": "10.0.0.5", "prefix": 24}],
        "routes": [{"to": "10.9.9.9", "prefix": 32, "link": "eth0", "gateway": "10.0.0.1", "source": "10.0.0.5"}],
        "reach": [{"address": "10.9.9.9", "link": "eth0", "next_hop": "10.0.0.1"}],
        "leases": [{"link": "eth0", "address": "10.0.0.5"}],
        "limits": BRISK,
    }))?;
    let silent = reach(&crash, &network, "10.9.9.9").expect_err("nobody leases");
    ensure!(silent.contains("no new lease on eth0") && silent.contains("no DHCP server answers"), "{silent}");

    let over = AtomicBool::new(false);
    let socket = server.run(|| -> Result<UdpSocket> {
        let socket = UdpSocket::bind("0.0.0.0:67")?;
        socket.set_broadcast(true)?;
        nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::BindToDevice, &"p0".into())?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        Ok(socket)
    })?;
    std::thread::scope(|scope| {
        let lease = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let mut asked = [0; 600];
                let Ok((size, _)) = socket.recv_from(&mut asked) else { continue };
                let kind = asked[..size].windows(3).find(|w| w[..2] == [53, 1]).map_or(0, |w| w[2]);
                let mut answer = asked[..240].to_vec();
                answer[0] = 2;
                answer[16..20].copy_from_slice(&Ipv4Addr::new(10, 7, 0, 5).octets());
                let kind = if kind == 1 { 2 } else { 5 };
                answer.extend_from_slice(&[
                    53, 1, kind, 54, 4, 10, 7, 0, 1, 1, 4, 255, 255, 255, 0, 3, 4, 10, 7, 0, 1, 255,
                ]);
                // Something else first, which nobody may take for an answer.
                let _ = socket.send_to(&[2; 300], "10.7.0.255:68");
                let _ = socket.send_to(&answer, "255.255.255.255:68");
            }
        });
        let reached = reach(&crash, &network, "10.9.9.9");
        over.store(true, Ordering::Relaxed);
        lease.join().expect("the server");
        let (reached, told) = reached.map_err(anyhow::Error::msg)?;
        ensure!(reached.next_hop == Ipv4Addr::new(10, 7, 0, 1), "{reached:?} {told:?}");
        ensure!(told.iter().any(|t| t.contains("10.7.0.5/24 by DHCP")), "{told:?}");
        Ok(())
    })?;
    let listener = listener(&server, "10.9.9.9:0")?;
    let to = listener.local_addr()?;
    std::thread::scope(|scope| {
        let greeting = scope.spawn(|| greet(&listener));
        let said = connect(&crash, to);
        greeting.join().expect("greeting")?;
        ensure!(said? == "hello");
        Ok(())
    })
}

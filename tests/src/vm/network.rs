//! Two guests on two cables: one crashes, the other is who it has to reach.

use super::crash::Crash;
use super::runner::Bench;
use crate::lab::apt::Apt;
use crate::lab::cache::Cache;
use crate::lab::command::output;
use crate::lab::guest::{Guest, Paging};
use crate::lab::kernel::Series;
use crate::lab::machine::Run;
use anyhow::{Context, Result, ensure};
use collector::manifest::Outcome;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Two virtio NICs whose cables lead to the other guest: sockets in `dir`. `ours` is a or b.
fn cables(dir: &Path, ours: char) -> Vec<String> {
    let theirs = if ours == 'a' { 'b' } else { 'a' };
    (0..2)
        .flat_map(|n| {
            // LACP takes no port whose speed is not known.
            let path = |side: char| dir.join(format!("{n}{side}")).display().to_string();
            let (local, remote) = (path(ours), path(theirs));
            [
                "-netdev".to_owned(),
                format!(
                    "dgram,id=n{n},local.type=unix,local.path={local},remote.type=unix,remote.path={remote}"
                ),
                "-device".to_owned(),
                format!("virtio-net-pci,netdev=n{n},speed=1000,duplex=full,mac=52:54:00:00:0{ours}:0{n}"),
            ]
        })
        .collect()
}

/// The receiver of fence-agents, with the libraries it needs: what Pacemaker runs.
fn fence_kdump() -> Result<Vec<(PathBuf, String)>> {
    const PACKAGE: &str = "fence-agents";
    let cache = Cache::open()?;
    let version = match cache.list(PACKAGE).pop() {
        Some(version) => version,
        None => Apt::native().candidate(PACKAGE)?.context("apt knows no package fence-agents")?,
    };
    let dir = cache
        .entry(&format!("{PACKAGE}/{version}"), |dir| Apt::native().unpack(&cache, dir, PACKAGE, &version))?;
    let program = dir.join("usr/sbin/fence_kdump");
    let mut files = Vec::new();
    for word in output(Command::new("ldd").arg(&program))?.split_whitespace().filter(|w| w.starts_with('/')) {
        files.push((PathBuf::from(word), word.to_owned()));
    }
    files.push((program, "/usr/bin/fence_kdump".to_owned()));
    Ok(files)
}

/// A bond of 802.3ad, a VLAN on it, and a bridge on that, by sysfs and busybox.
const STACK: &str = "
for m in virtio_net bonding 8021q bridge; do modprobe $m || echo LAB-NO-$m; done
stack() { # the first port, the second, the address
  n=0; while [ ! -d /sys/class/net/eth1 ] && [ $n -lt 50 ]; do usleep 100000; n=$((n+1)); done
  [ -d /sys/class/net/bond0 ] || echo +bond0 > /sys/class/net/bonding_masters
  echo 802.3ad > /sys/class/net/bond0/bonding/mode
  echo 100 > /sys/class/net/bond0/bonding/miimon
  echo fast > /sys/class/net/bond0/bonding/lacp_rate
  echo layer3+4 > /sys/class/net/bond0/bonding/xmit_hash_policy
  echo +$1 > /sys/class/net/bond0/bonding/slaves
  echo +$2 > /sys/class/net/bond0/bonding/slaves
  ip link set bond0 up
  vconfig add bond0 7
  brctl addbr br7; brctl addif br7 bond0.7
  ip link set bond0.7 mtu 1400; ip link set bond0.7 up; ip link set br7 up
  ip addr add $3/24 dev br7; ip link set lo up
}
answers() { n=0; until ping -c 1 -W 2 $1; do n=$((n+1)); [ $n -lt 20 ] || return 1; done; }
";

/// Runs the guest that is to be reached until `script` is over.
fn peer(bench: &Bench<'_>, dir: &Path, script: &str, devices: Vec<String>) -> Result<Run> {
    let guest = Guest {
        kernel: bench.kernel(Series::V6_1)?,
        paging: Paging::Four,
        memory: 256,
        cmdline: String::new(),
        disks: Vec::new(),
        script: format!("{STACK}\n{script}"),
        files: fence_kdump()?,
        devices,
        limit: Duration::from_secs(300),
    };
    bench.lab.run(&guest, &dir.join("peer.log"))
}

/// The crash kernel makes a bond, a VLAN and a bridge again, although its NICs have each other's names, and tells a neighbour and
/// somebody behind a router that it dumps: `fence_kdump` of fence-agents accepts it.
pub fn bond_vlan_bridge(bench: &Bench<'_>) -> Result<()> {
    let name = "network-bond-vlan-bridge";
    let mut crash = Crash::new(bench, name, Series::V6_1)?;
    let sockets = tempfile::tempdir()?;
    crash.devices = cables(sockets.path(), 'a');
    crash.memory = 640;
    crash.limit = Duration::from_secs(300);
    crash.disk = (1024, crate::lab::disk::Contents::Ext4);
    // All of memory, so that there is something to wait for.
    "[[target]]
path = \"/var/crash\"
[[dump]]
file = \"vmcore\"
level = 0
compression = \"zlib:1\"
[fence_kdump]
nodes = [\"10.7.0.1\", \"10.9.9.9\", \"10.7.0.2\", \"192.0.2.1\"]
interval = 1
"
    .clone_into(&mut crash.settings);
    // Names as a system with its own rules has them: the other way round.
    crash.before = format!(
        "{STACK}
n=0; while [ ! -d /sys/class/net/eth1 ] && [ $n -lt 50 ]; do usleep 100000; n=$((n+1)); done
ip link set eth0 name swap; ip link set eth1 name eth0; ip link set swap name eth1
stack eth0 eth1 10.7.0.2
ip route add 10.9.9.9 via 10.7.0.1
section ping answers 10.9.9.9
section links ip addr
section bond cat /proc/net/bonding/bond0
section explain vmcorectl target explain 10.9.9.9
section explain-json vmcorectl target explain --json 10.9.9.9
section plan vmcorectl config show --plan
"
    );
    let dir = bench.scratch("network-bond-vlan-bridge-peer")?;
    let heard = "stack eth0 eth1 10.7.0.1
ip addr add 10.9.9.9/32 dev lo
section fence fence_kdump -n 10.7.0.2 -t 90 -v
sleep 3";
    let (crashed, peer) = std::thread::scope(|scope| {
        let peer = scope.spawn(|| peer(bench, &dir, heard, cables(sockets.path(), 'b')));
        let crashed = crash.run(bench);
        (crashed, peer.join().unwrap_or_else(|_| anyhow::bail!("the peer's thread died")))
    });
    let crashed = crashed?;
    let said = |section: &str| {
        let (text, status) = crashed.run.console.section(section).with_context(|| format!("no {section}"))?;
        ensure!(status == 0, "{section} exited with {status}:\n{text}");
        Ok(text)
    };
    said("ping")?;
    let explained = said("explain")?;
    for wanted in [
        "via 10.7.0.1 on br7, from 10.7.0.2",
        "br7: bridge",
        "bond0.7: VLAN 7 of bond0, MTU 1400",
        "bond0: bond, 802.3ad",
        // The second on the bus has the first's name.
        "eth0: NIC 52:54:00:00:0a:01",
        "eth1: NIC 52:54:00:00:0a:00",
        "virtio-pci > virtio_net",
    ] {
        ensure!(explained.contains(wanted), "no {wanted:?} in\n{explained}");
    }
    let armed = said("arm")?;
    ensure!(armed.contains("192.0.2.1 is not told of a dump: no route"), "no warning of 192.0.2.1:\n{armed}");
    let console = crashed.crash_console();
    for wanted in [
        "making bond bond0",
        "making vlan bond0.7",
        "making bridge br7",
        "10.7.0.1 is reached by 10.7.0.1 on br7",
        "10.9.9.9 is reached by 10.7.0.1 on br7",
        "(52:54:00:00:0a:01) is eth0",
        "fence_kdump: telling 10.9.9.9",
    ] {
        ensure!(console.contains(wanted), "no {wanted:?} on the crash kernel's console:\n{console}");
    }
    crashed.dump()?.expect(Outcome::Complete, &["manifest.json", "vmcore", "vmcore-dmesg.txt"])?;
    let peer = peer?;
    let (text, status) = peer
        .console
        .section("fence")
        .with_context(|| format!("the peer heard nothing:\n{}", peer.console.tail(30)))?;
    ensure!(
        status == 0 && text.contains("received valid message"),
        "fence_kdump exited with {status}:\n{text}"
    );
    for line in console.lines().filter(|l| l.contains("is reached by")) {
        println!("{}", line.trim());
    }
    Ok(())
}

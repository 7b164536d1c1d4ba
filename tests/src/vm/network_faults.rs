//! Networks and servers that fail: each ends in bounded time on the next target, and the story says why.

use super::crash::{Crash, Dump};
use super::nfs::{UP, verify, with_server};
use super::runner::Bench;
use super::ssh::{HOST, client};
use crate::lab::kernel::Series;
use crate::lab::nfs::{ADDRESS, DUMPS, Order, READ_ONLY, SMALL};
use crate::lab::sshd::{Nature, Sshd, missing};
use anyhow::{Context, Result, bail, ensure};
use collector::manifest::{Outcome, TargetRecord};
use nix::sys::signal::Signal;
use serde_json::json;
use std::fs;
use std::time::Duration;

/// Seconds that a target may take to be reached, and may stand still.
const LIMITS: &str = "limits = { reach = 8, stall = 8 }";

/// A rung: what its record must say: the outcome, and a part of the reason.
type Wanted<'a> = (&'a str, Outcome, &'a str);

fn tells(told: &[TargetRecord], wanted: &[Wanted<'_>]) -> Result<()> {
    ensure!(told.len() == wanted.len(), "{told:#?}");
    for (record, (target, outcome, why)) in told.iter().zip(wanted) {
        let said = record.failure.as_deref().unwrap_or_default();
        ensure!(
            record.target.contains(target) && record.outcome == *outcome && said.contains(why),
            "wanted {outcome} of {target:?} because of {why:?}, but the manifest has {record:#?}"
        );
    }
    Ok(())
}

/// Everything that can be wrong with a network, one below the other, and a disk at the end.
pub fn ladder(bench: &Bench<'_>) -> Result<()> {
    if let Some(what) = missing() {
        bail!("{what} is missing");
    }
    let server = Sshd::start(&Nature::default())?;
    let dumps = bench.scratch("network-faults-sshd")?;
    let mut crash = Crash::new(bench, "network-faults", Series::V6_1)?;
    crash.memory = 640;
    crash.reservation = 192;
    crash.limit = Duration::from_secs(800);
    // eth0 leads to the host, eth1 to nobody as soon as its cable is pulled, eth2 to the NFS server.
    let nics = ["n1", "n2"].map(|id| {
        [
            "-netdev".to_owned(),
            format!("user,id={id},restrict=off"),
            "-device".to_owned(),
            format!("virtio-net-pci,netdev={id},id=nic-{id}"),
        ]
    });
    crash.devices = nics.concat();
    crash.files = client()?;
    for name in ["key", "other"] {
        crash.files.push((server.file(name), format!("/root/.ssh/{name}")));
    }
    let (port, path) = (server.port(), dumps.display());
    let [host_key, another] = ["host.pub", "other.pub"].map(|name| fs::read_to_string(server.file(name)));
    crash.before = format!(
        "{UP}echo 'root:x:0:0:root:/root:/bin/sh' > /etc/passwd
chmod 600 /root/.ssh/key /root/.ssh/other
echo '[{HOST}]:{port} {}' > /root/.ssh/known_hosts
echo '[{HOST}]:{port} {}' > /root/.ssh/known_hosts_of_old
modprobe 8021q
up eth0 10.0.2.15; up eth1 10.10.0.2; up eth2 10.8.0.2
vconfig add eth2 9; up eth2.9 10.9.0.2
section explain vmcorectl target explain",
        host_key?.trim(),
        another?.trim()
    );
    let ssh = |more: &str| {
        format!("[[target]]\nssh = \"root@{HOST}:{port}\"\npath = \"{path}\"\n{more}\n{LIMITS}\n")
    };
    let nfs = |what: &str, more: &str| {
        format!("[[target]]\nnfs = \"{what}\"\npath = \"/crash\"\n{more}\n{LIMITS}\n")
    };
    crash.settings = [
        ssh("key = \"/root/.ssh/key\"\nknown_hosts = \"/root/.ssh/known_hosts_of_old\""),
        ssh("key = \"/root/.ssh/other\""),
        nfs("10.10.0.1:/srv/x", ""),
        nfs("10.9.0.1:/srv/x", ""),
        nfs(&format!("{ADDRESS}:{READ_ONLY}"), ""),
        nfs(&format!("{ADDRESS}:{SMALL}"), "options = \"vers=3\""),
        ssh("key = \"/root/.ssh/key\"\nlevel = 0"),
        nfs(&format!("{ADDRESS}:{DUMPS}"), "level = 0"),
        "[[target]]\npath = \"/var/crash\"\n[limits]\nfinish = 40\n".to_owned(),
    ]
    .concat();
    // So much that it takes a while.
    "mount -t tmpfs -o size=300m tmp /tmp; dd if=/dev/urandom of=/tmp/noise bs=1M count=60 2>/dev/null"
        .clone_into(&mut crash.after);
    let (crashed, served) = with_server(bench, &mut crash, |machine, orders| {
        machine.wait_for("LAB-CRASH")?;
        machine.monitor()?.execute("set_link", json!({"name": "nic-n2", "up": false}))?;
        let full = format!("nfs {ADDRESS}:{SMALL}");
        machine.wait_for_after(&full, "the target is full")?;
        machine.wait_for_after("the target is full", "has let us in")?;
        machine.wait_for_after("has let us in", "MiB/s")?;
        server.signal(Signal::SIGKILL)?;
        let stopped = format!("nfs {ADDRESS}:{DUMPS} /crash is mounted");
        machine.wait_for_after(&stopped, "MiB/s")?;
        orders.send(Order::Freeze).context("the NFS server is gone")
    })?;
    let console = crashed.crash_console();
    let on_disk = crashed.dump()?;
    on_disk.expect(Outcome::Complete, &["manifest.json", "vmcore", "vmcore-dmesg.txt"])?;
    tells(
        &on_disk.manifest.targets,
        &[
            ("ssh", Outcome::Nothing, "host key is not the one that was pinned before the crash"),
            ("ssh", Outcome::Nothing, "does not accept the user or its key"),
            ("10.10.0.1", Outcome::Nothing, "no carrier on eth1 after 8."),
            ("10.9.0.1", Outcome::Nothing, "10.9.0.1 does not answer on eth2.9 after 8."),
            (READ_ONLY, Outcome::Nothing, "Read-only file system"),
            (SMALL, Outcome::Partial, "the target is full"),
            ("ssh", Outcome::Partial, "the connection was lost"),
            (DUMPS, Outcome::Partial, "made no progress and was killed"),
            ("UUID=", Outcome::Complete, ""),
        ],
    )
    .with_context(|| format!("console:\n{console}"))?;
    verify(bench, &on_disk.dir)?;
    let full = served.files(SMALL, &crashed.dir.join("small"))?.join("crash");
    let full = Dump::in_directory(&full)?;
    ensure!(full.names()?.iter().all(|name| name != "vmcore"), "{:?}", full.names()?);
    println!("from the panic to the restart: {:.1} s", crashed.seconds_to_restart()?);
    Ok(())
}

/// Two targets, one of which dies and one of which was never there, and no disk: the log is safe, and the machine restarts.
pub fn all_dead(bench: &Bench<'_>) -> Result<()> {
    let mut crash = Crash::new(bench, "network-dead", Series::V6_1)?;
    crash.memory = 640;
    crash.reservation = 160;
    crash.limit = Duration::from_secs(800);
    crash.before = format!("{UP}up eth0 10.8.0.2\nsection explain vmcorectl target explain");
    crash.settings = format!(
        "[[target]]\nnfs = \"{ADDRESS}:{DUMPS}\"\npath = \"/crash\"\nlevel = 0\n{LIMITS}
[[target]]\nnfs = \"10.8.0.77:/srv/x\"\npath = \"/crash\"\n{LIMITS}\n[limits]\nfinish = 20\n"
    );
    "mount -t tmpfs -o size=300m tmp /tmp; dd if=/dev/urandom of=/tmp/noise bs=1M count=60 2>/dev/null"
        .clone_into(&mut crash.after);
    let (crashed, served) = with_server(bench, &mut crash, |machine, orders| {
        machine.wait_for_after("sysrq: Trigger a crash", "MiB/s")?;
        orders.send(Order::Freeze).context("the NFS server is gone")
    })?;
    let console = crashed.crash_console();
    for wanted in ["made no progress", "next is nfs 10.8.0.77", "outcome: partial"] {
        ensure!(console.contains(wanted), "no {wanted:?} on the crash kernel's console:\n{console}");
    }
    let took = crashed.seconds_to_restart()?;
    ensure!(took < 150.0, "{took:.1} s to the restart");
    let files = served.files(DUMPS, &crashed.dir.join("server"))?.join("crash");
    let mut found = fs::read_dir(&files)?.collect::<Result<Vec<_>, _>>()?;
    ensure!(found.len() == 1, "{found:?}");
    let dir = found.remove(0).path();
    let log = fs::read_to_string(dir.join("vmcore-dmesg.txt"))?;
    ensure!(log.contains("sysrq triggered crash"), "the log is not whole:\n{log}");
    ensure!(!dir.join("vmcore").exists() && dir.join("vmcore-incomplete").exists(), "{dir:?} has no partial");
    println!("from the panic to the restart: {took:.1} s");
    Ok(())
}

//! Dumps to the Linux NFS server in another guest.

use super::crash::{Crash, Crashed, Dump};
use super::kdump_conf;
use super::runner::Bench;
use super::storage::tools;
use crate::lab::guest::{Guest, Paging};
use crate::lab::kernel::Series;
use crate::lab::machine::{Machine, Run};
use crate::lab::nfs::{self, ADDRESS, DUMPS, LEASED, LINK_LOCAL, Order, Served, TAKEN};
use anyhow::{Context, Result, bail, ensure};
use collector::manifest::Outcome;
use std::path::Path;
use std::sync::mpsc::{Sender, channel};

/// Brings a NIC up: its name, and its address, if any.
pub const UP: &str = "
modprobe virtio_net
up() {
  n=0; while [ ! -d /sys/class/net/$1 ] && [ $n -lt 50 ]; do usleep 100000; n=$((n+1)); done
  ip link set $1 up; [ -z \"$2\" ] || ip addr add $2/24 dev $1
}
ip link set lo up
";

/// Crashes a guest while a server runs on the other end of its cable, and takes what it needs of `during` for that.
pub fn with_server(
    bench: &Bench<'_>,
    crash: &mut Crash<'_>,
    during: impl FnOnce(&Machine<'_>, &Sender<Order>) -> Result<()>,
) -> Result<(Crashed, Served)> {
    with_server_then(bench, crash, during, |_, _| Ok(()))
}

/// [`with_server`], with something to do when the guest has crashed and the server still runs; the guest's devices are given.
fn with_server_then(
    bench: &Bench<'_>,
    crash: &mut Crash<'_>,
    during: impl FnOnce(&Machine<'_>, &Sender<Order>) -> Result<()>,
    then: impl FnOnce(&Crashed, &[String]) -> Result<()>,
) -> Result<(Crashed, Served)> {
    let sockets = tempfile::tempdir()?;
    let dir = bench.scratch(&format!("{}-server", crash.name))?;
    crash.devices.extend(nfs::cable(sockets.path(), 'a'));
    let kernel = bench.kernel(Series::V6_1)?;
    let (orders, listen) = channel();
    let (crashed, served) = std::thread::scope(|scope| {
        let cable = nfs::cable(sockets.path(), 'b');
        let server = scope.spawn(|| {
            let listen = listen;
            nfs::serve(&bench.lab, kernel, &dir, cable, &listen)
        });
        let crashed = crash.run_during(bench, |machine| during(machine, &orders));
        let crashed = crashed.and_then(|crashed| then(&crashed, &crash.devices).map(|()| crashed));
        drop(orders);
        (crashed, server.join().unwrap_or_else(|_| bail!("the server's thread died")))
    });
    let served =
        served.with_context(|| format!("the NFS server; its clients say {:?}", crashed.as_ref().err()))?;
    Ok((crashed?, served))
}

/// A crash whose only target is on the server, as its settings say, and the dump as the server has it.
fn dump(
    bench: &Bench<'_>,
    mut crash: Crash<'_>,
    server: &str,
    way: &[&str],
    then: impl FnOnce(&Crashed, &[String]) -> Result<()>,
) -> Result<String> {
    crash.reservation = 160;
    crash.limit = std::time::Duration::from_secs(400);
    crash.before = format!("{UP}{}\nsleep 2\nsection explain vmcorectl target explain", crash.before);
    let (crashed, served) = with_server_then(bench, &mut crash, |_, _| Ok(()), then)?;
    let console = crashed.crash_console();
    let (explained, status) = crashed.run.console.section("explain").context("no explanation")?;
    ensure!(status == 0, "{explained}");
    for wanted in way.iter().chain(&["eth0: NIC 52:54:00:00:0a:00"]) {
        ensure!(explained.contains(wanted), "no {wanted:?} in\n{explained}");
    }
    let files = served.files(DUMPS, &crashed.dir.join("server"))?.join("crash");
    let dump = Dump::in_directory(&files).with_context(|| format!("console:\n{console}"))?;
    // What the harvest has put beside it.
    let label = dump.dir.join("harvest.json");
    if label.exists() {
        std::fs::remove_file(label)?;
    }
    dump.expect(Outcome::Complete, &["manifest.json", "vmcore", "vmcore-dmesg.txt"])?;
    let told = &dump.manifest.targets;
    ensure!(told.len() == 1 && told[0].failure.is_none() && told[0].target.contains(server), "{told:#?}");
    kdump_conf::check_same_plan(&crashed)?;
    verify(bench, &dump.dir)?;
    Ok(console)
}

/// The dump is whole and opens.
pub fn verify(bench: &Bench<'_>, dir: &Path) -> Result<()> {
    let vmcore = dir.join("vmcore");
    collector::input::Input::open(std::slice::from_ref(&vmcore))?;
    let stack = bench.drgn()?.crashed_stack(&vmcore, bench.vmlinux(Series::V6_1)?)?;
    ensure!(stack.contains("sysrq_handle_crash"), "drgn's stack:\n{stack}");
    Ok(())
}

/// By version 4.2, at a link-local address, whose link mount(2) has to be told. Driven by a kdump.conf; one with the word of the
/// past comes to the same. What looks for dumps, before and after, mounts the share itself, and leaves nothing mounted.
pub fn v4(bench: &Bench<'_>) -> Result<()> {
    let server = format!("[{LINK_LOCAL}%eth0]");
    let mut crash = Crash::new(bench, "nfs-v4", Series::V6_1)?;
    let conf = format!("nfs {server}:{DUMPS}\npath /crash\n");
    crash.kdump_conf = Some(conf.clone());
    let same = kdump_conf::same_plan(&format!("net {server}:{DUMPS}\npath /crash\n"));
    // What is known of crashes outlives the restart.
    const KEPT: &str =
        "mkdir -p /var/crash/lib /var/lib/vmcored; mount --bind /var/crash/lib /var/lib/vmcored";
    crash.before = format!("{KEPT}\nup eth0 10.8.0.2\nsleep 2\nmodprobe nfsv4\n{same}");
    crash.after = "section check vmcorectl check\nsection mounted grep -c nfs /proc/mounts".to_owned();
    let next_boot = |crashed: &Crashed, devices: &[String]| -> Result<()> {
        says(&crashed.run, "check", &["ok        target-write", "MB/s"])?;
        says(&crashed.run, "mounted", &["0"])?;
        let after = Guest {
            kernel: bench.kernel(Series::V6_1)?,
            paging: Paging::Four,
            memory: 512,
            cmdline: "crashkernel=160M".to_owned(),
            disks: vec![crashed.disk.clone()],
            script: format!(
                "mount /dev/vda /var/crash; {KEPT}
mkdir -p /etc; cat > /etc/kdump.conf <<'END'
{conf}END
{UP}
up eth0 10.8.0.2; modprobe nfsv4
sleep 2
section arm vmcorectl arm
section harvest vmcorectl harvest
section list vmcorectl list
section verify vmcorectl verify 1
section path vmcorectl path
section mounted grep -c nfs /proc/mounts
umount /var/lib/vmcored /var/crash"
            ),
            files: Vec::new(),
            devices: devices.to_vec(),
            limit: std::time::Duration::from_secs(300),
        };
        let run = bench.lab.run(&after, &crashed.dir.join("next-boot.log"))?;
        says(&run, "arm", &["armed"])?;
        says(&run, "harvest", &["dump of", "sound"])?;
        says(&run, "list", &["complete", "sound", "lab-guest-"])?;
        says(&run, "verify", &["sound"])?;
        says(&run, "path", &["which is not mounted"])?;
        says(&run, "mounted", &["0"])
    };
    dump(bench, crash, &server, &[], next_boot).map(drop)
}

/// Checks that a section says all of `wanted`.
fn says(run: &Run, section: &str, wanted: &[&str]) -> Result<()> {
    let said = run.console.section(section);
    let (said, _) = said.with_context(|| format!("no section {section}:\n{}", run.console.tail(30)))?;
    for word in wanted {
        ensure!(said.contains(word), "{section} does not say {word:?}:\n{said}");
    }
    Ok(())
}

/// By version 3, which asks the server's port mapper and its mount daemon first. The way there is a macvlan on a team, which
/// only its daemon can tell of. Its address was leased, and does not work any more, so that there is a new one.
pub fn v3(bench: &Bench<'_>) -> Result<()> {
    let mut crash = Crash::new(bench, "nfs-v3", Series::V6_1)?;
    crash.settings = format!(
        "[[target]]\nnfs = \"{ADDRESS}:{DUMPS}\"\npath = \"/crash\"\noptions = \"vers=3,hard\"\nlimits = {{ reach = 24 }}\n"
    );
    crash.files = tools(&["teamd"])?;
    // As NetworkManager starts it: what it is to do is an argument, and no file has it.
    r#"for m in team team_mode_activebackup macvlan; do modprobe $m || echo LAB-NO-$m; done
mkdir -p /run/teamd /var; [ -e /var/run ] || ln -s /run /var/run
n=0; while [ ! -d /sys/class/net/eth0 ] && [ $n -lt 50 ]; do usleep 100000; n=$((n+1)); done
section team teamd -d -t team0 -c '{"runner": {"name": "activebackup"}, "link_watch": {"name": "ethtool"}, "ports": {"eth0": {}}}'
ip link set team0 up
ip link add link team0 name mac0 type macvlan; up mac0"#
        .clone_into(&mut crash.before);
    // What expires was leased.
    crash.before.push_str(&format!("\nip addr add {TAKEN}/24 dev mac0 valid_lft 3600 preferred_lft 3600\n"));
    let way = ["mac0: macvlan", "team0: bond, active-backup", "leased: kept, and DHCP if it does not work"];
    let console = dump(bench, crash, ADDRESS, &way, |_, _| Ok(()))?;
    for wanted in ["asking for a new lease", &format!("mac0 has the address {LEASED}")] {
        ensure!(console.contains(wanted), "no {wanted:?} on the crash kernel's console:\n{console}");
    }
    Ok(())
}

//! A dump to a real sshd: the machine that crashes reaches it over its virtual NIC.

use super::crash::{Crash, Crashed, Dump};
use super::kdump_conf;
use super::runner::Bench;
use crate::lab::command::{find, output};
use crate::lab::kernel::Series;
use crate::lab::sshd::{Nature, Sshd, missing};
use anyhow::{Context, Result, bail, ensure};
use collector::manifest::Outcome;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// Where QEMU's own router shows the loopback device of the host.
pub const HOST: &str = "10.0.2.2";

/// By the main table.
const PLAIN: &str = "ip addr add 10.0.2.15/24 dev eth0; ip route add default via 10.0.2.2";

/// By a table of its own, which a rule leads to: the main one leads to a gateway that is not there.
const BY_RULE: &str = "ip addr add 10.0.2.15/32 dev eth0
ip route add 10.0.2.99 dev eth0; ip route add default via 10.0.2.99
ip route add 10.0.2.2 dev eth0 src 10.0.2.15 table 77; section rule ip rule add to 10.0.2.2 lookup 77";

/// The client and its libraries, for the guest's root.
pub fn client() -> Result<Vec<(PathBuf, String)>> {
    let program = find("ssh").context("no ssh (apt install openssh-client)")?;
    let said = output(Command::new("ldd").arg(&program))?;
    let libraries = said.split_whitespace().filter(|word| word.starts_with('/'));
    let mut files: Vec<_> = libraries.map(|path| (PathBuf::from(path), path.to_owned())).collect();
    files.push((program, "/usr/bin/ssh".to_owned()));
    Ok(files)
}

/// Crashes a guest whose first target is the server. Its settings are told by where the server and its directory are.
fn crash(
    bench: &Bench<'_>,
    name: &str,
    nature: &Nature,
    way: &str,
    settings: impl FnOnce(&mut Crash<'_>, &str, &str),
) -> Result<(Dump, Crashed, Sshd)> {
    if let Some(what) = missing() {
        bail!("{what} is missing");
    }
    let server = Sshd::start(nature)?;
    let dumps = bench.scratch(&format!("{name}-server"))?;
    let mut crash = Crash::new(bench, name, Series::V6_1)?;
    crash.reservation = 160;
    crash.limit = Duration::from_secs(400);
    crash.devices = ["-netdev", "user,id=n0,restrict=off", "-device", "virtio-net-pci,netdev=n0"]
        .map(str::to_owned)
        .to_vec();
    crash.files = client()?;
    crash.files.push((server.file("key"), "/root/.ssh/key".to_owned()));
    let host_key = fs::read_to_string(server.file("host.pub"))?;
    let port = server.port();
    crash.before = format!(
        "echo 'root:x:0:0:root:/root:/bin/sh' > /etc/passwd
chmod 600 /root/.ssh/key
echo '[{HOST}]:{port} {}' > /root/.ssh/known_hosts
modprobe virtio_net
n=0; while [ ! -d /sys/class/net/eth0 ] && [ $n -lt 50 ]; do usleep 100000; n=$((n+1)); done
ip link set lo up; ip link set eth0 up
{way}
section explain vmcorectl target explain {HOST}",
        host_key.trim()
    );
    settings(&mut crash, &format!("root@{HOST}:{port}"), &dumps.display().to_string());
    let crashed = crash.run(bench)?;
    kdump_conf::check_same_plan(&crashed)?;
    let console = crashed.crash_console();
    let remote = Dump::in_directory(&dumps)
        .with_context(|| format!("console:\n{console}\nsshd:\n{}", server.log()))?;
    log(&remote)?;
    ensure!(
        remote.manifest.targets.len() == 1 && remote.manifest.targets[0].failure.is_none(),
        "{:#?}",
        remote.manifest.targets
    );
    Ok((remote, crashed, server))
}

fn log(dump: &Dump) -> Result<()> {
    let log = fs::read_to_string(dump.dir.join("vmcore-dmesg.txt"))?;
    ensure!(log.contains("sysrq triggered crash"), "the log is not whole:\n{log}");
    Ok(())
}

/// By sftp: the file on the server is the dump itself, and one login does for all. What leads there is a policy rule. Driven by
/// a kdump.conf; one with the word of the past comes to the same.
pub fn sftp(bench: &Bench<'_>) -> Result<()> {
    let (remote, crashed, server) =
        crash(bench, "ssh", &Nature::default(), BY_RULE, |crash, server, path| {
            let conf = |word: &str| format!("{word} {server}\npath {path}\nsshkey /root/.ssh/key\n");
            crash.before.push('\n');
            crash.before.push_str(&kdump_conf::same_plan(&conf("net")));
            crash.kdump_conf = Some(conf("ssh"));
        })?;
    for name in ["rule", "explain"] {
        let said = crashed.run.console.section(name).with_context(|| format!("no section {name}"))?;
        ensure!(said.1 == 0 && !said.0.contains("10.0.2.99"), "{name}: {said:?}");
    }
    remote.expect(Outcome::Complete, &["manifest.json", "vmcore", "vmcore-dmesg.txt"])?;
    super::nfs::verify(bench, &remote.dir)?;
    let logins = server.log().matches("Accepted publickey").count();
    ensure!(logins == 1, "{logins} logins instead of one:\n{}", server.log());
    Ok(())
}

/// Without sftp: the dump is flattened, and everything says so. A disk, which is the second target, gets the log.
pub fn no_sftp(bench: &Bench<'_>) -> Result<()> {
    let nature = Nature { sftp: false, ..Nature::default() };
    let (remote, crashed, _server) = crash(bench, "ssh-no-sftp", &nature, PLAIN, |crash, server, path| {
        crash.settings = format!(
            "[[target]]\nssh = {server:?}\npath = {path:?}\nkey = \"/root/.ssh/key\"\n\
             [[target]]\npath = \"/var/crash\"\n"
        );
    })?;
    let at_home = crashed.dump()?;
    log(&at_home)?;
    remote.expect(Outcome::Complete, &["manifest.json", "vmcore.flat", "vmcore-dmesg.txt"])?;
    at_home.expect(Outcome::DmesgOnly, &["manifest.json", "vmcore-dmesg.txt"])?;
    collector::input::Input::open(&[remote.dir.join("vmcore.flat")])?;
    Ok(())
}

//! A dump to a real sshd: the machine that crashes reaches it over its virtual NIC.

use super::crash::{Crash, Dump};
use super::runner::Bench;
use crate::lab::command::{find, output};
use crate::lab::kernel::Series;
use crate::lab::sshd::{Nature, Sshd, missing};
use anyhow::{Context, Result, bail, ensure};
use collector::manifest::Outcome;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// Where QEMU's own router shows the loopback device of the host.
pub const HOST: &str = "10.0.2.2";

/// The client and its libraries, for the guest's root.
pub fn client() -> Result<Vec<(PathBuf, String)>> {
    let program = find("ssh").context("no ssh (apt install openssh-client)")?;
    let said = output(Command::new("ldd").arg(&program))?;
    let libraries = said.split_whitespace().filter(|word| word.starts_with('/'));
    let mut files: Vec<_> = libraries.map(|path| (PathBuf::from(path), path.to_owned())).collect();
    files.push((program, "/usr/bin/ssh".to_owned()));
    Ok(files)
}

/// Crashes a guest whose first target is the server, and whose disk is the second.
fn crash(bench: &Bench<'_>, name: &str, nature: &Nature) -> Result<(Dump, Dump, Sshd)> {
    if let Some(what) = missing() {
        bail!("{what} is missing");
    }
    let server = Sshd::start(nature)?;
    let dumps = bench.scratch(&format!("{name}-server"))?;
    let mut crash = Crash::new(bench, name, Series::V6_1)?;
    crash.reservation = 160;
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
ip link set lo up; ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0; ip route add default via {HOST}
section explain vmcorectl target explain {HOST}",
        host_key.trim()
    );
    crash.settings = format!(
        "[[target]]\nssh = \"root@{HOST}:{port}\"\npath = {:?}\nkey = \"/root/.ssh/key\"\n\
         [[target]]\npath = \"/var/crash\"\n",
        dumps.display().to_string(),
    );
    let crashed = crash.run(bench)?;
    let console = crashed.crash_console();
    let at_home = crashed.dump()?;
    let remote = Dump::in_directory(&dumps)
        .with_context(|| format!("console:\n{console}\nsshd:\n{}", server.log()))?;
    let logs = [&at_home, &remote].map(|dump| fs::read_to_string(dump.dir.join("vmcore-dmesg.txt")));
    for log in logs {
        let log = log?;
        ensure!(log.contains("sysrq triggered crash"), "the log is not whole:\n{log}");
    }
    ensure!(
        remote.manifest.targets.len() == 1 && remote.manifest.targets[0].failure.is_none(),
        "{:#?}",
        remote.manifest.targets
    );
    Ok((remote, at_home, server))
}

/// By sftp: the file on the server is the dump itself, and one login does for all.
pub fn sftp(bench: &Bench<'_>) -> Result<()> {
    let (remote, at_home, server) = crash(bench, "ssh", &Nature::default())?;
    remote.expect(Outcome::Complete, &["manifest.json", "vmcore", "vmcore-dmesg.txt"])?;
    at_home.expect(Outcome::DmesgOnly, &["manifest.json", "vmcore-dmesg.txt"])?;
    collector::input::Input::open(&[remote.dir.join("vmcore")])?;
    let logins = server.log().matches("Accepted publickey").count();
    ensure!(logins == 1, "{logins} logins instead of one:\n{}", server.log());
    Ok(())
}

/// Without sftp: the dump is flattened, and everything says so.
pub fn no_sftp(bench: &Bench<'_>) -> Result<()> {
    let nature = Nature { sftp: false, ..Nature::default() };
    let (remote, at_home, _server) = crash(bench, "ssh-no-sftp", &nature)?;
    remote.expect(Outcome::Complete, &["manifest.json", "vmcore.flat", "vmcore-dmesg.txt"])?;
    at_home.expect(Outcome::DmesgOnly, &["manifest.json", "vmcore-dmesg.txt"])?;
    collector::input::Input::open(&[remote.dir.join("vmcore.flat")])?;
    Ok(())
}

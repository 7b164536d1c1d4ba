//! Shares of the host of a virtual machine.

use super::capture::complete;
use super::crash::{Crash, Dump};
use super::runner::Bench;
use crate::lab::kernel::Series;
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Where QEMU's package has it.
pub const VIRTIOFSD: &str = "/usr/lib/qemu/virtiofsd";

/// The tag of the share.
const TAG: &str = "dumps";

/// Serves a directory until it is dropped.
struct Virtiofsd(Child);

impl Virtiofsd {
    fn start(socket: &Path, directory: &Path, log: &Path) -> Result<Self> {
        let log = std::fs::File::create(log)?;
        let mut command = Command::new(VIRTIOFSD);
        command.arg(format!("--socket-path={}", socket.display()));
        // A sandbox of namespaces cannot be had in every container.
        command.arg("-o").arg(format!("source={},sandbox=chroot,cache=auto", directory.display()));
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
        let server = Self(child.context(VIRTIOFSD)?);
        let start = Instant::now();
        while !socket.exists() {
            ensure!(start.elapsed() < Duration::from_secs(20), "virtiofsd does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }
}

impl Drop for Virtiofsd {
    fn drop(&mut self) {
        if let Err(e) = self.0.kill().and_then(|()| self.0.wait()) {
            eprintln!("ending virtiofsd: {e}");
        }
    }
}

fn crash<'b>(bench: &'b Bench<'_>, name: &str, kind: &str) -> Result<Crash<'b>> {
    let mut crash = Crash::new(bench, name, Series::V6_1)?;
    crash.reservation = 160;
    // In use when the kernel dies, as it would be.
    crash.before =
        format!("modprobe {kind}\nmkdir /share; mount -t {kind} {TAG} /share && touch /share/in-use");
    Ok(crash)
}

/// virtio-fs, by a kdump.conf.
pub fn virtiofs(bench: &Bench<'_>) -> Result<()> {
    let name = "share-virtiofs";
    let served = bench.scratch(&format!("{name}-served"))?;
    let sockets = tempfile::tempdir()?;
    let socket = sockets.path().join("fs");
    let _server = Virtiofsd::start(&socket, &served, &served.with_extension("log"))?;
    let mut crash = crash(bench, name, "virtiofs")?;
    crash.kdump_conf = Some(format!("virtiofs {TAG}\npath /crash\n"));
    // The server works on the guest's memory itself.
    crash.devices = [
        "-object",
        &format!("memory-backend-memfd,id=memory,size={}M,share=on", crash.memory),
        "-machine",
        "memory-backend=memory",
        "-chardev",
        &format!("socket,id=fs,path={}", socket.display()),
        "-device",
        &format!("vhost-user-fs-pci,chardev=fs,tag={TAG}"),
    ]
    .map(str::to_owned)
    .to_vec();
    received(&crash, bench, &served)
}

/// 9p.
pub fn plan9(bench: &Bench<'_>) -> Result<()> {
    let name = "share-9p";
    let served = bench.scratch(&format!("{name}-served"))?;
    let mut crash = crash(bench, name, "9p")?;
    crash.before.insert_str(0, "modprobe 9pnet_virtio\n");
    crash.settings = format!("[[target]]\n9p = \"{TAG}\"\npath = \"/crash\"\n");
    crash.devices = [
        "-fsdev",
        &format!("local,id=fs,security_model=passthrough,path={}", served.display()),
        "-device",
        &format!("virtio-9p-pci,fsdev=fs,mount_tag={TAG}"),
    ]
    .map(str::to_owned)
    .to_vec();
    received(&crash, bench, &served)
}

fn received(crash: &Crash<'_>, bench: &Bench<'_>, served: &Path) -> Result<()> {
    let crashed = crash.run(bench)?;
    ensure!(served.join("in-use").exists(), "the share was not mounted: {}", crashed.log.display());
    let dump = Dump::in_directory(&served.join("crash"))
        .with_context(|| format!("console:\n{}", crashed.crash_console()))?;
    complete(&dump)?;
    super::nfs::verify(bench, &dump.dir)
}

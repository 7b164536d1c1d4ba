//! A real NFS server: the kernel's own, in a guest of its own, with Debian's programs around it.

use super::apt::Apt;
use super::cache::Cache;
use super::command::output;
use super::disk::{Contents, Disk};
use super::guest::{Guest, Lab, Paging};
use super::kernel::Kernel;
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

/// The server's address; its clients are in the same /24.
pub const ADDRESS: &str = "10.8.0.1";
/// Its link-local address, which it has from its MAC.
pub const LINK_LOCAL: &str = "fe80::5054:ff:fe00:b00";
/// Another address of the server's, so that nobody who calls himself so has an answer of it. What it leases is elsewhere.
pub const TAKEN: &str = "10.8.0.66";
/// How the addresses that it leases begin: 50 to 59.
pub const LEASED: &str = "10.8.0.5";
/// Exported for writing, with room.
pub const DUMPS: &str = "/srv/dumps";
/// Exported for reading only.
pub const READ_ONLY: &str = "/srv/read-only";
/// Exported for writing, without room.
pub const SMALL: &str = "/srv/small";

/// Programs around the kernel's server, and what they need that Debian's base system may lack.
const PACKAGES: [&str; 10] = [
    "nfs-kernel-server",
    "nfs-common",
    "rpcbind",
    "libtirpc3",
    "libtirpc-common",
    "libevent-core-2.1-7",
    "libwrap0",
    "libnsl2",
    "libkeyutils1",
    "netbase",
];

/// Where Debian's dynamic linker looks.
const LIBRARIES: [&str; 2] = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];

/// One end of a cable between two guests: a virtio NIC called `n0`, whose other end is the other `side`, a or b, in the same
/// directory. As of a real cable, nothing is known of whether anybody is there.
pub fn cable(dir: &Path, side: char) -> Vec<String> {
    let other = if side == 'a' { 'b' } else { 'a' };
    let path = |side: char| dir.join(side.to_string()).display().to_string();
    vec![
        "-netdev".to_owned(),
        format!(
            "dgram,id=n0,local.type=unix,local.path={},remote.type=unix,remote.path={}",
            path(side),
            path(other)
        ),
        "-device".to_owned(),
        format!("virtio-net-pci,netdev=n0,id=nic0,mac=52:54:00:00:0{side}:00"),
    ]
}

/// What a server is told while it runs. That nobody can tell it anything any more is its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// To stand still, as if it had been stopped in the middle of everything.
    Freeze,
}

/// The server's disks, for afterwards.
#[derive(Clone, Debug)]
pub struct Served {
    dumps: Disk,
    small: Disk,
}

impl Served {
    /// What is in an export: the directory [`DUMPS`] or [`SMALL`] of the server.
    pub fn files(&self, export: &str, to: &Path) -> Result<PathBuf> {
        match export {
            DUMPS => self.dumps.extract(to).map(|()| to.join("dumps")),
            SMALL => self.small.extract(to).map(|()| to.to_owned()),
            other => bail!("{other} is not looked into"),
        }
    }
}

/// Programs and files of the server's root.
fn files() -> Result<Vec<(PathBuf, String)>> {
    let cache = Cache::open()?;
    let version = match cache.list("nfs-kernel-server").pop() {
        Some(version) => version,
        None => {
            Apt::native().candidate("nfs-kernel-server")?.context("apt knows no package nfs-kernel-server")?
        }
    };
    // An epoch's colon would end a directory in LD_LIBRARY_PATH.
    let name = version.replace(':', "-");
    let root = cache.entry(&format!("nfs-kernel-server/{name}"), |dir| {
        Apt::native().unpack_newest(&cache, dir, &PACKAGES)
    })?;
    let search: Vec<String> = LIBRARIES.iter().map(|dir| root.join(dir).display().to_string()).collect();
    let mut files: Vec<(PathBuf, String)> = Vec::new();
    let mut add = |from: PathBuf, to: String| {
        if !files.iter().any(|(_, there)| *there == to) {
            files.push((from, to));
        }
    };
    for program in ["rpcbind", "rpc.mountd", "rpc.nfsd", "exportfs"] {
        let found = ["sbin", "usr/sbin"].iter().map(|dir| root.join(dir).join(program)).find(|p| p.exists());
        let found = found.with_context(|| format!("no {program} in Debian's packages"))?;
        let said = output(Command::new("ldd").arg(&found).env("LD_LIBRARY_PATH", search.join(":")))?;
        for library in said.split_whitespace().filter(|word| word.starts_with('/')).map(Path::new) {
            // Where its linker looks, wherever we had it from.
            let to = match library.strip_prefix(&root) {
                Ok(inside) => format!("/{}", inside.display()),
                Err(_) => library.display().to_string(),
            };
            add(library.to_owned(), to);
        }
        add(found, format!("/usr/bin/{program}"));
    }
    for file in ["etc/netconfig", "etc/protocols", "etc/services"] {
        let from = root.join(file);
        if from.exists() {
            add(from, format!("/{file}"));
        }
    }
    Ok(files)
}

/// What the server does.
fn script() -> String {
    let options = "no_root_squash,sync,no_subtree_check,insecure";
    format!(
        "for m in virtio_net nfsd; do modprobe $m || echo LAB-NO-$m; done
n=0; while [ ! -d /sys/class/net/eth0 ] && [ $n -lt 50 ]; do usleep 100000; n=$((n+1)); done
ip link set lo up; ip link set eth0 up; ip addr add {ADDRESS}/24 dev eth0
ip addr add {TAKEN}/32 dev lo
printf '%s\\n' 'start {LEASED}0' 'end {LEASED}9' 'interface eth0' 'lease_file /tmp/leases' 'pidfile /tmp/udhcpd' 'option subnet 255.255.255.0' > /etc/udhcpd.conf
touch /tmp/leases; udhcpd /etc/udhcpd.conf
mkdir -p /srv; mount -t ext4 /dev/vda /srv; mkdir -p {DUMPS} {READ_ONLY} {SMALL}; mount -t ext4 /dev/vdb {SMALL}
printf 'root:x:0:0:root:/:/bin/sh\\n_rpc:x:101:65534::/run/rpcbind:/bin/sh\\n' > /etc/passwd
printf 'root:x:0:\\nnogroup:x:65534:\\n' > /etc/group
echo 'hosts: files' > /etc/nsswitch.conf; echo '127.0.0.1 localhost' > /etc/hosts
mkdir -p /var/lib/nfs/sm /var/lib/nfs/v4recovery /run/rpcbind; touch /var/lib/nfs/etab /var/lib/nfs/rmtab
printf '%s\\n' '{DUMPS} *(rw,fsid=1,{options})' '{READ_ONLY} *(ro,fsid=2,{options})' '{SMALL} *(rw,fsid=3,{options})' > /etc/exports
mount -t nfsd nfsd /proc/fs/nfsd
section serve sh -c 'rpcbind && exportfs -ra && rpc.mountd && rpc.nfsd 4'
# Nobody has anything to claim back from before.
echo Y > /proc/fs/nfsd/v4_end_grace
echo LAB-SERVING
while [ \"$(cat /sys/class/net/eth0/carrier)\" = 1 ]; do sleep 1; done
rpc.nfsd 0; sync; umount {SMALL}; umount /srv"
    )
}

/// Runs the server on the end b of a cable until `orders` has no sender any more.
pub fn serve(
    lab: &Lab<'_>,
    kernel: &Kernel,
    dir: &Path,
    cable: Vec<String>,
    orders: &Receiver<Order>,
) -> Result<Served> {
    fs::create_dir_all(dir)?;
    let served = Served {
        dumps: Disk::create(&dir.join("dumps.img"), 1024, Contents::Ext4)?,
        small: Disk::create(&dir.join("small.img"), 12, Contents::Ext4)?,
    };
    let guest = Guest {
        kernel,
        paging: Paging::Four,
        memory: 320,
        cmdline: String::new(),
        disks: vec![served.dumps.clone(), served.small.clone()],
        script: script(),
        files: files()?,
        devices: cable,
        limit: Duration::from_secs(900),
    };
    lab.run_during(&guest, &dir.join("server.log"), |machine| {
        machine.wait_for("LAB-SERVING")?;
        loop {
            match orders.recv_timeout(Duration::from_secs(900)) {
                Ok(Order::Freeze) => machine.monitor()?.execute("stop", json!({})).map(drop)?,
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => bail!("nobody ended the NFS server"),
            }
        }
        let mut monitor = machine.monitor()?;
        monitor.execute("cont", json!({}))?;
        // Its cable is pulled, which tells it to end.
        monitor.execute("set_link", json!({"name": "nic0", "up": false}))?;
        machine.wait_for("LAB-SCRIPT-OVER")
    })?;
    Ok(served)
}

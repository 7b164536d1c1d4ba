//! A guest: a kernel, memory, CPUs, disks and a shell script to run as its init.

use super::apt::Apt;
use super::cache::Cache;
use super::command::{output, run, target_dir, tool};
use super::disk::Disk;
use super::kernel::Kernel;
use super::machine::{self, Machine, Run};
use super::programs::Programs;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Page-table levels of the guest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Paging {
    /// 4 levels.
    Four,
    /// 5 levels.
    Five,
}

/// Modules that a guest can load, and that are there for an image to be made of.
pub(crate) const GUEST_MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_blk",
    "virtio_scsi",
    "nvme",
    "ahci",
    "sd_mod",
    "ext4",
    "xfs",
    "crc32c_generic",
    "crc32c-intel",
    "crc32_pclmul",
    "ata_piix",
    "dm_mod",
    "dm_multipath",
    "dm_service_time",
    "raid1",
    "btrfs",
    "vfat",
    "nls_cp437",
    "nls_ascii",
    "qemu_fw_cfg",
    "virtio_net",
    "bonding",
    "8021q",
    "bridge",
    "macvlan",
    "team",
    "team_mode_activebackup",
    "9p",
    "9pnet_virtio",
    "virtiofs",
    "nfs",
    "nfsv3",
    "nfsv4",
    "nfsd",
    "i6300esb",
];

/// Those that a guest's init loads, in this order.
const BOOT_MODULES: &[&str] = &["virtio_pci", "virtio_blk", "crc32c_generic", "ext4", "xfs"];

/// What is started.
#[derive(Clone, Debug)]
pub struct Guest<'a> {
    /// The kernel to boot and to crash.
    pub kernel: &'a Kernel,
    /// Paging of its CPU.
    pub paging: Paging,
    /// MiB of memory.
    pub memory: u64,
    /// Additions to its command line: `crashkernel=…`.
    pub cmdline: String,
    /// virtio-blk disks, vda first.
    pub disks: Vec<Disk>,
    /// Shell script that runs as PID 1 once modules are loaded and disks are there.
    pub script: String,
    /// Files to add to its root: source and absolute path.
    pub files: Vec<(PathBuf, String)>,
    /// Further arguments of QEMU's: NICs.
    pub devices: Vec<String>,
    /// After this QEMU is killed.
    pub limit: Duration,
}

/// Makes guests' root file systems and runs guests.
#[derive(Debug)]
pub struct Lab<'a> {
    programs: &'a Programs,
    /// busybox, static.
    pub busybox: PathBuf,
}

impl<'a> Lab<'a> {
    /// Fetches busybox where it is not cached. It is not installed: on many machines that would remove the other busybox.
    pub fn open(cache: &Cache, programs: &'a Programs) -> Result<Self> {
        let cached = cache.list("busybox").pop();
        let version = match cached {
            Some(version) => version,
            None => {
                Apt::native().candidate("busybox-static")?.context("apt knows no package busybox-static")?
            }
        };
        let dir = cache.entry(&format!("busybox/{version}"), |dir| {
            Apt::native().unpack(cache, dir, "busybox-static", &version)
        })?;
        let busybox = ["bin/busybox", "usr/bin/busybox"].iter().map(|p| dir.join(p)).find(|p| p.exists());
        Ok(Self { programs, busybox: busybox.context("no busybox in busybox-static")? })
    }

    /// The part of a root file system that depends on the kernel alone, as an uncompressed cpio archive. Made once per
    /// run of xtask at most: it is remade when the static programs are newer.
    pub fn base(&self, kernel: &Kernel) -> Result<PathBuf> {
        let made = target_dir().join("lab").join(format!("{}.cpio", kernel.id));
        let modified = |p: &Path| fs::metadata(p).and_then(|m| m.modified()).ok();
        let sources = [
            &self.programs.collector,
            &self.programs.faulty_collector,
            &self.programs.control,
            &self.programs.guest_load,
        ];
        // Xtask itself holds the list of modules.
        let own = std::env::current_exe()?;
        let newest = sources.into_iter().chain([&own]).filter_map(|p| modified(p)).max();
        if modified(&made) > newest && newest.is_some() {
            return Ok(made);
        }
        fs::create_dir_all(target_dir().join("lab"))?;
        let staging = tempfile::tempdir_in(target_dir().join("lab"))?;
        let root = staging.path().join("root");
        for dir in [
            "bin",
            "dev",
            "proc",
            "sys",
            "tmp",
            "etc",
            "mnt",
            "huge",
            "run",
            "usr/bin",
            "usr/lib/vmcored",
            "boot",
            "var/crash",
            "var/lib",
            "lab/modules",
        ] {
            fs::create_dir_all(root.join(dir))?;
        }
        let copy = |from: &Path, to: &str| {
            fs::copy(from, root.join(to)).with_context(|| format!("cannot copy {}", from.display())).map(drop)
        };
        copy(&self.busybox, "bin/busybox")?;
        symlink("busybox", root.join("bin/sh"))?;
        copy(&self.programs.collector, "usr/lib/vmcored/vmcore-collect")?;
        copy(&self.programs.faulty_collector, "usr/lib/vmcored/vmcore-collect-faults")?;
        copy(&self.programs.control, "usr/bin/vmcorectl")?;
        copy(&self.programs.guest_load, "usr/bin/guest-load")?;
        copy(&kernel.vmlinuz(), &format!("boot/vmlinuz-{}", kernel.release))?;
        let config = format!("boot/config-{}", kernel.release);
        copy(&kernel.root.join(&config), &config)?;

        let tree = format!("lib/modules/{}", kernel.release);
        for module in kernel.modules(GUEST_MODULES)? {
            let inside = module.strip_prefix(&kernel.root).context("a module outside its kernel")?;
            let to = root.join(inside);
            fs::create_dir_all(to.parent().context("a module without a directory")?)?;
            fs::copy(&module, to)?;
        }
        for list in ["modules.order", "modules.builtin", "modules.builtin.modinfo"] {
            copy(&kernel.root.join(&tree).join(list), &format!("{tree}/{list}"))?;
        }
        run(tool("depmod")?.arg("-b").arg(&root).arg(&kernel.release).stderr(Stdio::null()))?;
        for (index, module) in kernel.modules(BOOT_MODULES)?.iter().enumerate() {
            let stem = module.file_name().unwrap_or_default().to_string_lossy();
            let stem = stem.split('.').next().unwrap_or_default().to_owned();
            let to = root.join(format!("lab/modules/{index:02}-{stem}.ko"));
            // busybox's insmod may lack xz.
            if module.extension().is_some_and(|e| e == "xz") {
                let plain = Command::new("xz").arg("-dc").arg(module).stderr(Stdio::inherit()).output()?;
                ensure!(plain.status.success(), "xz -dc {} failed", module.display());
                fs::write(to, plain.stdout)?;
            } else {
                fs::copy(module, to)?;
            }
        }
        let new = staging.path().join("base.cpio");
        archive(&root, &new)?;
        fs::rename(&new, &made)?;
        Ok(made)
    }

    /// Boots a guest and waits until it restarts, powers off, or its time is over. `log` is where its console goes.
    pub fn run(&self, guest: &Guest<'_>, log: &Path) -> Result<Run> {
        self.run_during(guest, log, |_| Ok(()))
    }

    /// [`Self::run`], with something to do meanwhile.
    pub fn run_during(
        &self,
        guest: &Guest<'_>,
        log: &Path,
        during: impl FnOnce(&Machine<'_>) -> Result<()>,
    ) -> Result<Run> {
        fs::create_dir_all(target_dir().join("lab"))?;
        let staging = tempfile::tempdir_in(target_dir().join("lab"))?;
        let root = staging.path().join("root");
        fs::create_dir_all(&root)?;
        for (from, to) in &guest.files {
            let to = root.join(to.trim_start_matches('/'));
            fs::create_dir_all(to.parent().context("a file without a directory")?)?;
            fs::copy(from, to)?;
        }
        let init = root.join("init");
        fs::write(&init, init_script(guest))?;
        output(Command::new("chmod").arg("755").arg(&init))?;
        let addition = staging.path().join("addition.cpio");
        archive(&root, &addition)?;
        // The kernel unpacks archives that follow each other; cpio pads each to its block size.
        let initrd = staging.path().join("initrd");
        let mut joined = fs::read(self.base(guest.kernel)?)?;
        joined.extend(fs::read(&addition)?);
        fs::write(&initrd, joined)?;

        let mut qemu = tool("qemu-system-x86_64")?;
        qemu.args(["-accel", "tcg,thread=multi", "-smp", "2", "-m", &guest.memory.to_string()]);
        qemu.args([
            "-cpu",
            match guest.paging {
                Paging::Five => "max",
                Paging::Four => "max,-la57",
            },
        ]);
        qemu.arg("-kernel").arg(guest.kernel.vmlinuz()).arg("-initrd").arg(&initrd);
        // The situation: a guest whose host has much else to do sees no tick within the ten it waits for, takes its timer for
        // broken and panics ("IO-APIC + timer doesn't work!"), as with two guests beside three builds on two CPUs. Under KVM
        // Linux does not look; here it is told not to.
        qemu.arg("-append").arg(format!("console=ttyS0 panic=5 no_timer_check {}", guest.cmdline));
        // Through it QEMU knows where the kernel keeps VMCOREINFO; only a guest that loads qemu_fw_cfg tells.
        qemu.args(["-device", "vmcoreinfo"]);
        for disk in &guest.disks {
            // What the guest flushes only has to reach the host's page cache: we test the guest, not the host's disk.
            qemu.arg("-drive").arg(format!("file={},if=virtio,format=raw,cache=unsafe", disk.path.display()));
        }
        qemu.args(&guest.devices);
        machine::run(&mut qemu, guest.limit, log, during)
    }
}

/// Packs a directory. Owner root whoever we are.
pub(crate) fn archive(root: &Path, to: &Path) -> Result<()> {
    let script = "find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0";
    let packed =
        Command::new("sh").args(["-ec", script]).current_dir(root).stdout(fs::File::create(to)?).status()?;
    ensure!(packed.success(), "cpio of {} failed with {packed}", root.display());
    Ok(())
}

fn init_script(guest: &Guest<'_>) -> String {
    let last_disk = guest
        .disks
        .len()
        .checked_sub(1)
        .map(|n| format!("/dev/vd{}", char::from(b'a' + u8::try_from(n).unwrap_or(0))));
    let wait = last_disk.map_or_else(String::new, |disk| {
        format!("n=0; while [ ! -b {disk} ] && [ $n -lt 100 ]; do usleep 100000; n=$((n+1)); done\n")
    });
    format!(
        "#!/bin/sh
export PATH=/bin:/usr/bin:/sbin
/bin/busybox mkdir -p /sbin /proc /sys /dev
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mount -t tmpfs run /run
mount -t securityfs security /sys/kernel/security
# One line a message of the script, and none of the kernel's chatter in between, but all of it in the log.
echo 4 > /proc/sys/kernel/printk
ln -sf /bin/sh /sbin/sh
hostname lab-guest
for m in /lab/modules/*.ko; do insmod $m; done
{wait}# Runs a command as a named section of the console, which the host reads back with its exit status.
section() {{
  name=$1; shift
  echo \"LAB-BEGIN $name\"; \"$@\" 2>&1; echo \"LAB-END $name $?\"
}}
echo LAB-UP
{}
echo LAB-SCRIPT-OVER
sync
poweroff -f
",
        guest.script
    )
}

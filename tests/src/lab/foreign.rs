//! Guests of other architectures, and their makedumpfile: Debian's kernel, busybox and makedumpfile of that architecture,
//! the first under qemu-system, the last under qemu-user on this machine.

use super::apt::Apt;
use super::cache::Cache;
use super::command::{output, run, target_dir, tool};
use super::disk::Disk;
use super::guest::archive;
use super::kernel::{modules, release_in};
use super::machine::{self, Machine, Run};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Part of the cache entries' name: to be raised when what is in them changes.
const LAYOUT: &str = "1";

/// How a dead guest's memory comes to the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taken {
    /// QEMU's dump-guest-memory, with the VMCOREINFO note that the guest has announced through the vmcoreinfo device.
    Dump,
    /// QEMU's dump-guest-memory, which has no VMCOREINFO: there is no vmcoreinfo device for this machine.
    DumpWithoutInfo,
    /// /proc/vmcore of a crash kernel.
    Kdump,
}

/// Who says which pages a dump should have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Judge {
    /// The architecture's makedumpfile.
    Makedumpfile,
    /// The dead kernel's own /proc/kpageflags of a moment before its death: Debian's makedumpfile does not know this kernel.
    PageFlags,
}

/// A kernel of an architecture that is not ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Architecture {
    /// What to call it.
    pub name: &'static str,
    /// Debian's name of the architecture.
    pub debian: &'static str,
    /// QEMU's name, for its emulator of machines.
    pub machine: &'static str,
    /// QEMU's name, for its emulator of programs.
    pub user: &'static str,
    /// The kernel's package, as apt-cache's pattern.
    kernel: &'static str,
    /// Machine, CPU and what else makes the machine.
    arguments: &'static [&'static str],
    /// MiB of memory.
    pub memory: u64,
    /// The serial console's device.
    pub console: &'static str,
    /// Modules of the guest, besides what they depend on.
    modules: &'static [&'static str],
    /// The program interpreter and libc, for the programs in the guest that are not static.
    libraries: &'static [&'static str],
    /// How its memory is taken.
    pub taken: Taken,
    /// Who judges.
    pub judge: Judge,
}

/// The newest, but with a cheap algorithm for pointer authentication: the architected one takes half of the time of a boot.
const ARM64_CPU: &str = "max,pauth-impdef=on";

/// Debian 12's arm64 kernel: 4 KiB pages, 48-bit addresses. Its crash kernel boots, but kexec-tools 2.0.25 cannot find
/// `_text` in the kallsyms of Linux 6.1 and gives it a PT_LOAD of nonsense, on which /proc/vmcore cannot be read.
pub const ARM64: Architecture = Architecture {
    name: "arm64",
    debian: "arm64",
    machine: "aarch64",
    user: "aarch64",
    kernel: r"^linux-image-6\.1\.0-[0-9]+-arm64$",
    arguments: &["-M", "virt,gic-version=3", "-cpu", ARM64_CPU, "-device", "vmcoreinfo"],
    memory: 512,
    console: "ttyAMA0",
    modules: &["qemu_fw_cfg", "virtio_pci", "virtio_blk", "crc32c_generic", "ext4"],
    libraries: &[],
    taken: Taken::Dump,
    judge: Judge::Makedumpfile,
};

/// Debian 12's backported arm64 kernel with 16 KiB pages and, on QEMU's newest CPU, 52-bit addresses (LPA2).
pub const ARM64_16K: Architecture = Architecture {
    name: "arm64-16k",
    kernel: r"^linux-image-6\.12\.[0-9]+\+deb12-arm64-16k$",
    judge: Judge::PageFlags,
    ..ARM64
};

/// The same with 4 KiB pages: 5 levels of page tables.
pub const ARM64_LPA2: Architecture = Architecture {
    name: "arm64-lpa2",
    kernel: r"^linux-image-6\.12\.[0-9]+\+deb12-arm64$",
    judge: Judge::PageFlags,
    ..ARM64
};

/// All of them, in the order of their scenarios.
pub const ALL: [&Architecture; 5] = [&ARM64, &ARM64_16K, &ARM64_LPA2, &PPC64EL, &S390X];

/// With the small firmware: the other takes longer than all that comes after it. Without the mitigations that TCG has not got and
/// warns of.
const PSERIES: &str = "pseries,x-vof=on,cap-cfpc=broken,cap-sbbc=broken,cap-ibs=broken,cap-ccf-assist=off";

/// Debian 12's ppc64el kernel: 64 KiB pages, radix page tables.
pub const PPC64EL: Architecture = Architecture {
    name: "ppc64el",
    debian: "ppc64el",
    machine: "ppc64",
    user: "ppc64le",
    kernel: r"^linux-image-6\.1\.0-[0-9]+-powerpc64le$",
    arguments: &["-M", PSERIES, "-cpu", "POWER9", "-vga", "none"],
    memory: 768, // in steps of 256, of which the crash kernel takes one
    console: "hvc0",
    modules: &["virtio_pci", "virtio_blk", "crc32c_generic", "ext4"],
    libraries: &["lib/powerpc64le-linux-gnu/libc.so.6", "lib64/ld64.so.2"],
    taken: Taken::Kdump,
    judge: Judge::Makedumpfile,
};

/// Debian 12's s390x kernel: big-endian; built without CONFIG_CRASH_DUMP.
pub const S390X: Architecture = Architecture {
    name: "s390x",
    debian: "s390x",
    machine: "s390x",
    user: "s390x",
    kernel: r"^linux-image-6\.1\.0-[0-9]+-s390x$",
    arguments: &["-M", "s390-ccw-virtio", "-cpu", "max"],
    memory: 512,
    console: "ttysclp0",
    modules: &["virtio_blk", "crc32c_generic", "ext4"],
    libraries: &[],
    taken: Taken::DumpWithoutInfo,
    judge: Judge::Makedumpfile,
};

/// makedumpfile and every library that it loads.
const ORACLE: &[&str] =
    &["makedumpfile", "libc6", "libdw1", "libelf1", "liblzo2-2", "zlib1g", "libbz2-1.0", "liblzma5"];

/// An unpacked kernel with the programs for its guest and its makedumpfile.
#[derive(Clone, Debug)]
pub struct Foreign {
    /// Its architecture.
    pub architecture: &'static Architecture,
    /// `uname -r`.
    pub release: String,
    kernel: PathBuf,
    /// Modules in load order, decompressed.
    modules: PathBuf,
    /// busybox, makedumpfile, kexec and their libraries.
    sysroot: PathBuf,
}

impl Foreign {
    /// Fetches what is not in the cache.
    pub fn get(cache: &Cache, architecture: &'static Architecture) -> Result<Self> {
        let dir = cache.entry(&format!("foreign/{LAYOUT}/{}", architecture.name), |dir| {
            println!("downloading Debian's {} kernel and what goes with it (once)", architecture.name);
            fill(cache, dir, architecture)
        })?;
        let release = fs::read_to_string(dir.join("release"))?;
        let (kernel, modules, sysroot) = (dir.join("kernel"), dir.join("modules"), dir.join("sysroot"));
        Ok(Self { architecture, release, kernel, modules, sysroot })
    }

    fn program(&self, path: &str) -> Result<Command> {
        let mut command = tool(&format!("qemu-{}-static", self.architecture.user))?;
        command.arg("-L").arg(&self.sysroot).arg(self.sysroot.join(path));
        Ok(command)
    }

    /// The architecture's makedumpfile, to be run here. It is built without zstd.
    pub fn makedumpfile(&self) -> Result<Command> {
        let mut command = self.program("usr/bin/makedumpfile")?;
        command.args(["--message-level", "0"]);
        Ok(command)
    }

    /// The guest's root file system with `init` as its first program, and below /boot what a crash kernel is started with.
    fn initrd(&self, init: &str, staging: &Path) -> Result<PathBuf> {
        let root = staging.join("root");
        for dir in ["bin", "sbin", "dev", "proc", "sys", "tmp", "mnt", "huge", "lab/modules", "boot"] {
            fs::create_dir_all(root.join(dir))?;
        }
        let copy = |from: &Path, to: &str| -> Result<()> {
            let to = root.join(to);
            fs::create_dir_all(to.parent().context("a file without a directory")?)?;
            fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display())).map(drop)
        };
        copy(&self.sysroot.join("bin/busybox"), "bin/busybox")?;
        symlink("busybox", root.join("bin/sh"))?;
        for module in fs::read_dir(&self.modules)? {
            let module = module?;
            copy(&module.path(), &format!("lab/modules/{}", module.file_name().to_string_lossy()))?;
        }
        fs::write(root.join("init"), init)?;
        output(Command::new("chmod").arg("755").arg(root.join("init")))?;
        let initrd = staging.join("initrd");
        archive(&root, &initrd)?;
        if self.architecture.taken == Taken::Kdump {
            let crash = staging.join("crash-initrd");
            fs::rename(&initrd, &crash)?;
            copy(&crash, "boot/initrd")?;
            copy(&self.kernel, "boot/kernel")?;
            copy(&self.sysroot.join("sbin/kexec"), "sbin/kexec")?;
            for library in self.architecture.libraries {
                copy(&self.sysroot.join(library), library)?;
            }
            archive(&root, &initrd)?;
        }
        Ok(initrd)
    }

    /// Boots a guest of 2 CPUs with these disks, which runs `init`. `during` is for what is to be done with it
    /// meanwhile.
    pub fn run(
        &self,
        init: &str,
        cmdline: &str,
        disks: &[&Disk],
        limit: Duration,
        log: &Path,
        during: impl FnOnce(&Machine<'_>) -> Result<()>,
    ) -> Result<Run> {
        fs::create_dir_all(target_dir().join("lab"))?;
        let staging = tempfile::tempdir_in(target_dir().join("lab"))?;
        let initrd = self.initrd(init, staging.path())?;
        let mut qemu = tool(&format!("qemu-system-{}", self.architecture.machine))?;
        qemu.args(self.architecture.arguments);
        qemu.args(["-accel", "tcg,thread=multi", "-smp", "2", "-m", &self.architecture.memory.to_string()]);
        // s390x tells QEMU of its panic, which would end it.
        qemu.args(["-action", "panic=pause"]);
        qemu.arg("-kernel").arg(&self.kernel).arg("-initrd").arg(&initrd);
        qemu.arg("-append").arg(format!("console={} {cmdline}", self.architecture.console));
        for disk in disks {
            qemu.arg("-drive").arg(format!("file={},if=virtio,format=raw,cache=unsafe", disk.path.display()));
        }
        machine::run(&mut qemu, limit, log, during)
    }
}

fn fill(cache: &Cache, dir: &Path, architecture: &Architecture) -> Result<()> {
    let state = dir.join("apt");
    let apt = Apt::foreign(architecture.debian, &state)?;
    let (package, version) = apt.newest(architecture.kernel)?;
    let package_root = dir.join("package");
    fs::create_dir_all(&package_root)?;
    apt.unpack(cache, &package_root, &package, &version)?;
    let release = release_in(&package_root)?;
    run(tool("depmod")?.arg("-b").arg(&package_root).arg(&release))?;
    let boot = package_root.join("boot");
    // Where the kernel is not compressed it is called so.
    let image = ["vmlinuz", "vmlinux"].map(|kind| boot.join(format!("{kind}-{release}")));
    let image = image.iter().find(|p| p.exists()).with_context(|| format!("no kernel in {package}"))?;
    fs::copy(image, dir.join("kernel"))?;
    fs::create_dir_all(dir.join("modules"))?;
    for (index, module) in modules(&package_root, &release, architecture.modules)?.iter().enumerate() {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        let to = dir.join("modules").join(format!("{index:02}-{}", name.trim_end_matches(".xz")));
        if name.ends_with(".xz") {
            let plain = tool("xz")?.arg("-dc").arg(module).stderr(Stdio::inherit()).output()?;
            ensure!(plain.status.success(), "xz -dc {} failed", module.display());
            fs::write(to, plain.stdout)?;
        } else {
            fs::copy(module, to)?;
        }
    }
    fs::remove_dir_all(&package_root)?;

    let sysroot = dir.join("sysroot");
    fs::create_dir_all(&sysroot)?;
    let kexec: &[&str] = if architecture.taken == Taken::Kdump { &["kexec-tools"] } else { &[] };
    let judge: &[&str] = if architecture.judge == Judge::Makedumpfile { ORACLE } else { &[] };
    apt.unpack_newest(cache, &sysroot, &[&["busybox-static"], judge, kexec].concat())?;
    // Links to the absolute paths of libraries would leave the sysroot.
    relink(&sysroot, &sysroot)?;
    for documentation in ["usr/share", "usr/lib/locale"] {
        let path = sysroot.join(documentation);
        if path.exists() {
            fs::remove_dir_all(path)?;
        }
    }
    fs::remove_dir_all(state)?;
    fs::write(dir.join("release"), release)?;
    Ok(())
}

/// Lets every absolute symbolic link below `dir` lead into `root`.
fn relink(root: &Path, dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_symlink() {
            let to = fs::read_link(&path)?;
            if let Ok(inside) = to.strip_prefix("/") {
                let depth = path.strip_prefix(root)?.components().count() - 1;
                let up: PathBuf = std::iter::repeat_n("..", depth).collect();
                fs::remove_file(&path)?;
                symlink(up.join(inside), &path)?;
            }
        } else if path.is_dir() {
            relink(root, &path)?;
        }
    }
    Ok(())
}

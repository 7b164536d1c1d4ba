//! What the verbs need on the machine, installed with apt where it is missing.

use crate::lab::cache::Cache;
use crate::lab::command::{find, run};
use crate::vm::runner::Bench;
use anyhow::{Context, Result};
use std::process::Command;

/// How much is needed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum For {
    /// To compile.
    Build,
    /// To run guests and read their disks.
    Demo,
    /// To compare with other people's tools.
    Test,
}

/// A program of a Debian package.
struct Need {
    program: &'static str,
    package: &'static str,
    why: &'static str,
    from: For,
}

const NEEDS: &[Need] = &[
    Need {
        program: "cc",
        package: "gcc",
        why: "links Rust programs, compiles zstd and liblzma",
        from: For::Build,
    },
    Need { program: "g++", package: "g++", why: "compiles libFuzzer", from: For::Test },
    Need { program: "strip", package: "binutils", why: "strips the static programs", from: For::Build },
    Need {
        program: "nm",
        package: "binutils",
        why: "lists vmlinux's symbols, to compare with",
        from: For::Test,
    },
    Need { program: "make", package: "make", why: "builds the module that crashes guests", from: For::Test },
    Need {
        program: "chromium",
        package: "chromium",
        why: "opens the report on a crash as a page",
        from: For::Test,
    },
    Need {
        program: "qemu-system-x86_64",
        package: "qemu-system-x86",
        why: "runs the guests",
        from: For::Demo,
    },
    Need {
        program: "qemu-system-aarch64",
        package: "qemu-system-arm",
        why: "runs arm64 guests",
        from: For::Test,
    },
    Need {
        program: "qemu-system-ppc64",
        package: "qemu-system-ppc",
        why: "runs ppc64el guests",
        from: For::Test,
    },
    Need {
        program: "qemu-system-s390x",
        package: "qemu-system-misc",
        why: "runs s390x guests",
        from: For::Test,
    },
    Need {
        program: "qemu-aarch64-static",
        package: "qemu-user-static",
        why: "runs the guests' own makedumpfile",
        from: For::Test,
    },
    Need { program: "mke2fs", package: "e2fsprogs", why: "makes the guests' ext4 disks", from: For::Demo },
    Need { program: "debugfs", package: "e2fsprogs", why: "reads them without mounting", from: For::Demo },
    Need { program: "mkfs.xfs", package: "xfsprogs", why: "makes their xfs disks", from: For::Test },
    Need { program: "mkfs.vfat", package: "dosfstools", why: "makes vfat to recognise", from: For::Test },
    Need { program: "mkfs.btrfs", package: "btrfs-progs", why: "makes btrfs to recognise", from: For::Test },
    Need { program: "lvm", package: "lvm2", why: "makes the guests' logical volumes", from: For::Test },
    Need { program: "dmsetup", package: "dmsetup", why: "makes their disks fail", from: For::Test },
    Need { program: "mdadm", package: "mdadm", why: "makes their mirrors", from: For::Test },
    Need { program: "teamd", package: "libteam-utils", why: "makes their teams of NICs", from: For::Test },
    Need { program: "btrfs", package: "btrfs-progs", why: "makes their subvolumes", from: For::Test },
    Need { program: "lz4", package: "lz4", why: "restores ELF dumps that we compressed", from: For::Test },
    Need { program: "zstd", package: "zstd", why: "unpacks images, to compare with", from: For::Test },
    Need { program: "sfdisk", package: "fdisk", why: "partitions their disks", from: For::Test },
    Need { program: "depmod", package: "kmod", why: "resolves the guests' kernel modules", from: For::Demo },
    Need { program: "cpio", package: "cpio", why: "packs the guests' root file systems", from: For::Demo },
    Need { program: "xz", package: "xz-utils", why: "unpacks kernel modules", from: For::Demo },
    Need {
        program: "makedumpfile",
        package: "makedumpfile",
        why: "filters the same memory, to compare with",
        from: For::Test,
    },
    Need { program: "crash", package: "crash", why: "opens our dumps", from: For::Test },
    Need {
        program: "ssh",
        package: "openssh-client",
        why: "carries dumps to another machine",
        from: For::Test,
    },
    Need { program: "sshd", package: "openssh-server", why: "receives them", from: For::Test },
    Need {
        program: "mmdebstrap",
        package: "mmdebstrap",
        why: "makes a whole Debian to install our package in",
        from: For::Test,
    },
    Need { program: "fakeroot", package: "fakeroot", why: "keeps its owners on the disk", from: For::Test },
    Need { program: "systemd-analyze", package: "systemd", why: "verifies our units", from: For::Test },
    Need { program: "rpmbuild", package: "rpm", why: "makes the RPM", from: For::Test },
    Need { program: "python3", package: "python3", why: "runs drgn", from: For::Test },
];

/// Files of packages without a program of their own.
const FILES: &[(&str, Need)] = &[
    (
        "/usr/lib/x86_64-linux-gnu/libc.a",
        Need { program: "", package: "libc6-dev", why: "links static programs", from: For::Build },
    ),
    (
        "/usr/lib/python3.11/ensurepip/__init__.py",
        Need {
            program: "",
            package: "python3-venv",
            why: "installs drgn into a place of its own",
            from: For::Test,
        },
    ),
    (
        crate::vm::share::VIRTIOFSD,
        Need {
            program: "",
            package: "qemu-system-common",
            why: "serves guests a directory",
            from: For::Test,
        },
    ),
    (
        "/usr/lib/x86_64-linux-gnu/libelf.so.1",
        Need { program: "", package: "libelf1", why: "objtool, which checks modules", from: For::Test },
    ),
    (
        "/usr/lib/x86_64-linux-gnu/liblzo2.so.2",
        Need { program: "", package: "liblzo2-2", why: "decompresses our pages", from: For::Test },
    ),
    (
        "/usr/lib/x86_64-linux-gnu/libsnappy.so.1",
        Need { program: "", package: "libsnappy1v5", why: "decompresses our pages", from: For::Test },
    ),
    (
        "/usr/lib/x86_64-linux-gnu/libzstd.so.1",
        Need { program: "", package: "libzstd1", why: "decompresses our pages", from: For::Test },
    ),
    (
        "/usr/lib/python3/dist-packages/kdumpfile/__init__.py",
        Need {
            program: "",
            package: "python3-libkdumpfile",
            why: "reads our dumps, as other debuggers do",
            from: For::Test,
        },
    ),
];

/// Installs what is missing, and calls apt only then.
pub fn install(level: For) -> Result<()> {
    let missing: Vec<&Need> = NEEDS
        .iter()
        .filter(|need| need.from <= level && find(need.program).is_none())
        .chain(
            FILES
                .iter()
                .filter(|(file, need)| need.from <= level && !std::path::Path::new(file).exists())
                .map(|(_, n)| n),
        )
        .collect();
    // The kernels come from apt as well, and a fresh machine has no lists of packages.
    let lists = std::fs::read_dir("/var/lib/apt/lists").is_ok_and(|dir| {
        dir.flatten().any(|entry| entry.file_name().to_string_lossy().contains("_Packages"))
    });
    let no_lists = level >= For::Demo && !lists;
    if missing.is_empty() && !no_lists {
        return Ok(());
    }
    apt(&["update", "-q"]).context("apt-get update")?;
    if missing.is_empty() {
        return Ok(());
    }
    println!("installing with apt:");
    let mut packages: Vec<&str> = Vec::new();
    for need in missing {
        println!("  {:<16} {}", need.package, need.why);
        if !packages.contains(&need.package) {
            packages.push(need.package);
        }
    }
    apt(&[&["install", "-q", "-y", "--no-install-recommends"], packages.as_slice()].concat())
}

/// apt-get as root: ourselves, or through sudo.
fn apt(arguments: &[&str]) -> Result<()> {
    let root = crate::lab::command::output(Command::new("id").arg("-u"))?.trim() == "0";
    let mut command = if root {
        Command::new("env")
    } else {
        let mut sudo = Command::new("sudo");
        sudo.arg("env");
        sudo
    };
    run(command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]).args(arguments))
}

/// `cargo xtask setup`: also everything that is downloaded, so that the other verbs need no network.
pub fn fetch(_: &[String]) -> Result<()> {
    let cache = Cache::open()?;
    let programs = super::programs()?;
    Bench::with_oracles(&cache, &programs)?.prepare()?;
    crate::lab::debian::system(&cache)?;
    crate::lab::varlink::Varlink::get(&cache)?;
    println!("everything is in place; downloads are in {}", cache.path("").display());
    Ok(())
}

//! A machine made of files: enough of /sys, /proc, /dev, /boot and /lib/modules for planning, below a directory.
//!
//! One virtio disk vda: vda1 ext4, the root; vda2 xfs with a label; vda3 swap; vda4 nothing. One virtio disk vdb:
//! vdb1 LUKS, vdb2 ext4 with the UUID of vda1. All drivers are built in.

use config::arm::{self, Loaded};
use config::settings::Settings;
use initramfs::root::Root;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

/// Release of the machine's kernel.
pub const RELEASE: &str = "6.1.0-test";

/// Makes the machine below `root`.
pub fn build(root: &Path) {
    disk(root, "vda", 254, 0, 4, &["vda1", "vda2", "vda3", "vda4"]);
    disk(root, "vdb", 254, 16, 5, &["vdb1", "vdb2"]);
    content(root, "vda1", |d| ext4(d, 0xa1));
    content(root, "vda2", |d| xfs(d, 0xa2, "crash"));
    content(root, "vda3", swap);
    content(root, "vda4", |_| ());
    content(root, "vdb1", luks);
    content(root, "vdb2", |d| ext4(d, 0xb2));
    put(root, "proc/self/mountinfo", MOUNTINFO);
    put(root, "proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n");
    put(
        root,
        "proc/cmdline",
        "BOOT_IMAGE=/boot/vmlinuz root=UUID=1 ro console=ttyS0 quiet crashkernel=128M\n",
    );
    put(root, "proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu hypervisor\n");
    put(root, "proc/iomem", IOMEM);
    put(root, "proc/sys/kernel/osrelease", "6.1.0-test\n");
    put(root, "proc/sys/kernel/hostname", "web 1\n");
    put(root, "proc/sys/kernel/random/boot_id", "5f1c\n");
    put(root, "sys/kernel/kexec_crash_loaded", "0\n");
    put(root, "sys/kernel/kexec_crash_size", "134217728\n");
    for module in ["modules.dep", "modules.softdep", "modules.alias", "modules.builtin.modinfo"] {
        put(root, &format!("lib/modules/{RELEASE}/{module}"), "");
    }
    put(
        root,
        &format!("lib/modules/{RELEASE}/modules.builtin"),
        "kernel/fs/ext4/ext4.ko\nkernel/fs/xfs/xfs.ko\n",
    );
    fs::write(root.join("boot").join(format!("vmlinuz-{RELEASE}")), kernel(RELEASE)).unwrap_or_else(|_| {
        fs::create_dir_all(root.join("boot")).unwrap();
        fs::write(root.join("boot").join(format!("vmlinuz-{RELEASE}")), kernel(RELEASE)).unwrap();
    });
    fs::create_dir_all(root.join("var/crash")).unwrap();
    fs::create_dir_all(root.join("usr/lib/vmcored")).unwrap();
    fs::write(root.join("usr/lib/vmcored/vmcore-collect"), program()).unwrap();
}

/// Memory, and the reservation.
pub const IOMEM: &str = "00100000-7fffffff : System RAM\n  2f000000-36ffffff : Crash kernel\n";

const MOUNTINFO: &str = "\
21 28 0:19 / /sys rw - sysfs sysfs rw
22 28 0:20 / /proc rw - proc proc rw
28 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
";

/// What arming with these settings leaves, but for the kernel's part.
pub fn arm(root: &Path, settings: &Settings) {
    let prepared = arm::prepare(settings, &Root::new(root)).unwrap();
    let loaded = Loaded {
        image: prepared.image.id.clone(),
        kernel: prepared.resolved.kernel.path.clone(),
        kernel_sha256: prepared.resolved.kernel.sha256.clone(),
        release: RELEASE.into(),
        cmdline: prepared.cmdline.text.clone(),
        time: 1,
        boot_id: "5f1c".into(),
        layout: prepared.layout.clone(),
    };
    put(root, "run/vmcored/loaded.json", &serde_json::to_string(&loaded).unwrap());
    put(root, "sys/kernel/kexec_crash_loaded", "1\n");
    let image = root.join(arm::image_path(&prepared.image.id).strip_prefix("/").unwrap());
    fs::create_dir_all(image.parent().unwrap()).unwrap();
    fs::write(image, &prepared.image.bytes).unwrap();
}

/// Writes a file and the directories above it.
pub fn put(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn disk(root: &Path, name: &str, major: u32, minor: u32, slot: u32, parts: &[&str]) {
    let pci = format!("sys/devices/pci0000:00/0000:00:{slot:02x}.0");
    let device = format!("{pci}/virtio{slot}/block/{name}");
    put(root, &format!("{device}/queue/logical_block_size"), "512\n");
    block(root, &device, name, major, minor);
    for (number, part) in (1..).zip(parts) {
        let device = format!("{device}/{part}");
        put(root, &format!("{device}/partition"), &format!("{number}\n"));
        put(root, &format!("{device}/start"), &format!("{}\n", number * 2048));
        block(root, &device, part, major, minor + number);
    }
    driver(root, &pci, "pci", "virtio-pci");
    driver(root, &format!("{pci}/virtio{slot}"), "virtio", "virtio_blk");
    content(root, name, |_| ());
}

/// A block device of sysfs, with its links.
pub fn block(root: &Path, device: &str, name: &str, major: u32, minor: u32) {
    put(root, &format!("{device}/size"), "256\n");
    put(root, &format!("{device}/dev"), &format!("{major}:{minor}\n"));
    for directory in ["sys/class/block", "sys/dev/block"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    let target = format!("/{device}");
    symlink(relative(&target), root.join("sys/class/block").join(name)).unwrap();
    symlink(relative(&target), root.join(format!("sys/dev/block/{major}:{minor}"))).unwrap();
}

/// From a directory two below /sys.
fn relative(target: &str) -> String {
    target.replacen("/sys/", "../../", 1)
}

fn driver(root: &Path, device: &str, bus: &str, name: &str) {
    let driver = root.join(format!("sys/bus/{bus}/drivers/{name}"));
    fs::create_dir_all(&driver).unwrap();
    symlink(format!("/sys/bus/{bus}/drivers/{name}"), root.join(device).join("driver")).unwrap();
}

/// The device node of `name`, a file here, with what `write` puts on it.
pub fn content(root: &Path, name: &str, write: impl FnOnce(&mut [u8])) {
    let mut disk = vec![0; 128 << 10];
    write(&mut disk);
    fs::create_dir_all(root.join("dev")).unwrap();
    fs::write(root.join("dev").join(name), disk).unwrap();
}

/// An ext4 superblock: magic, the `extents` feature, a UUID of one repeated byte.
pub fn ext4(disk: &mut [u8], uuid: u8) {
    disk[1024 + 0x38..1024 + 0x3a].copy_from_slice(&[0x53, 0xef]);
    disk[1024 + 0x60] = 0x40;
    disk[1024 + 0x68..1024 + 0x78].fill(uuid);
}

fn xfs(disk: &mut [u8], uuid: u8, label: &str) {
    disk[..4].copy_from_slice(b"XFSB");
    disk[32..48].fill(uuid);
    disk[108..108 + label.len()].copy_from_slice(label.as_bytes());
}

/// A swap signature.
pub fn swap(disk: &mut [u8]) {
    disk[4086..4096].copy_from_slice(b"SWAPSPACE2");
    disk[1024 + 12..1024 + 28].fill(0xa3);
}

fn luks(disk: &mut [u8]) {
    disk[..8].copy_from_slice(b"LUKS\xba\xbe\0\x02");
    disk[168..176].copy_from_slice(b"deadbeef");
}

/// The start of a bzImage that calls itself `release`.
pub fn kernel(release: &str) -> Vec<u8> {
    let mut k = vec![0; 0x400];
    k[0x202..0x206].copy_from_slice(b"HdrS");
    k[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
    k[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
    k[0x260..0x264].copy_from_slice(&(60_u32 << 20).to_le_bytes());
    k[0x300..0x300 + release.len()].copy_from_slice(release.as_bytes());
    k
}

/// A static ELF program, as far as its headers tell.
fn program() -> Vec<u8> {
    let mut elf = vec![0; 64 + 56];
    elf[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    elf[16] = 2;
    elf[18] = 62;
    elf[32] = 64;
    elf[54] = 56;
    elf[56] = 1;
    elf[64] = 1;
    elf[96] = 120;
    elf
}

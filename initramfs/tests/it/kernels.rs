//! Real kernel packages: everything that Debian's kernels need for ext4 on virtio, found in what depmod writes.
//!
//! Packages are looked for in `$VMCORED_CACHE/debs`, or `~/.cache/vmcored/debs`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use initramfs::image::{Compression, Options, build, entries};
use initramfs::root::Root;
use initramfs::{ModuleRequest, plan_modules};

use crate::image::{plan, skip, static_program};
use crate::support;

/// What is taken out of a package: enough that there is something to choose from.
const PARTS: [&str; 8] = [
    "./boot/config-*",
    "./lib/modules/*/modules.*",
    "./lib/modules/*/kernel/arch/*",
    "./lib/modules/*/kernel/crypto/*",
    "./lib/modules/*/kernel/drivers/block/*",
    "./lib/modules/*/kernel/drivers/virtio/*",
    "./lib/modules/*/kernel/fs/*",
    "./lib/modules/*/kernel/lib/*",
];

#[test]
fn ext4_on_virtio() {
    let directory = tempfile::tempdir().unwrap();
    let Some(program) = static_program(directory.path()) else { return };
    for package in packages() {
        let name = package.file_name().unwrap().to_string_lossy().into_owned();
        let tree = directory.path().join(&name);
        let Some(release) = unpack(&package, &tree) else { return };
        let root = Root::new(&tree);
        // Whether virtio-pci is a module is the kernel's choice: in Debian's 6.1 it is, in 6.12 it is not.
        let built_in = root.read(format!("/lib/modules/{release}/modules.builtin")).unwrap().unwrap();
        let modular = !built_in.contains("/virtio_pci.ko");
        support::make_tree(&tree, &machine(&release, modular));

        let request = ModuleRequest {
            root: &root,
            release: &release,
            block_device: "vda1",
            filesystem: "ext4",
            extra: &[],
            omit: &[],
        };
        let modules = plan_modules(&request).unwrap();
        let required: Vec<&str> =
            modules.modules.iter().filter(|m| m.plan.required).map(|m| m.plan.name.as_str()).collect();
        let position = |name: &str| required.iter().position(|n| *n == name);
        for (before, after) in [
            ("virtio_blk", "ext4"),
            ("crc32c_generic", "jbd2"),
            ("jbd2", "ext4"),
            ("mbcache", "ext4"),
            ("crc16", "ext4"),
        ] {
            assert!(position(before).unwrap() < position(after).unwrap(), "{name}: {required:?}");
        }
        assert_eq!(position("virtio_pci").is_some(), modular, "{name}: {required:?}");
        assert!(modules.notes.is_empty(), "{name}: {:?}", modules.notes);

        let options = Options::for_kernel(&root, &release).unwrap();
        assert_eq!(options.compression, Compression::Zstd, "{name}");
        for compression in [Compression::Zstd, Compression::Xz] {
            let image =
                build(&plan(&release, &modules), &modules, &program, &Options { compression }).unwrap();
            assert_eq!(entries(&image.bytes).unwrap().len(), image.entries.len());
            let packed = image.bytes.len();
            println!("{name} {compression:?}: {packed} bytes packed, {} unpacked", image.unpacked);
            assert!(
                packed < 1_500_000,
                "{name}: the modules alone leave no room for the collector: {packed}"
            );
        }
    }
}

/// The packages in the cache, but those that are the same kernel without signatures, and debugging information.
fn packages() -> Vec<PathBuf> {
    let cache = std::env::var_os("VMCORED_CACHE").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|h| Path::new(&h).join(".cache/vmcored"));
    let debs = cache.or_else(home).unwrap_or_default().join("debs");
    let mut found: Vec<PathBuf> = fs::read_dir(&debs)
        .into_iter()
        .flatten()
        .map(|e| e.unwrap().path())
        .filter(|p| {
            let name = p.file_name().unwrap().to_string_lossy();
            name.starts_with("linux-image-") && !name.contains("-unsigned") && !name.contains("-dbg")
        })
        .filter(|p| p.extension().is_some_and(|e| e == "deb"))
        .collect();
    found.sort();
    if found.is_empty() {
        skip(&format!("no kernel packages in {}", debs.display()));
    }
    found
}

/// Unpacks [`PARTS`] and indexes the modules; the release.
fn unpack(package: &Path, tree: &Path) -> Option<String> {
    fs::create_dir_all(tree).unwrap();
    let deb = Command::new("dpkg-deb").arg("--fsys-tarfile").arg(package).stdout(Stdio::piped()).spawn();
    let Ok(mut deb) = deb else {
        skip("dpkg-deb is not installed");
        return None;
    };
    let tar = Command::new("tar")
        .args(["-x", "--wildcards", "-C"])
        .arg(tree)
        .args(PARTS)
        .stdin(deb.stdout.take().unwrap())
        .status();
    assert!(tar.unwrap().success() && deb.wait().unwrap().success(), "{}", package.display());
    let modules = fs::read_dir(tree.join("lib/modules")).unwrap().next().unwrap().unwrap();
    let release = modules.file_name().into_string().unwrap();
    // It is in sbin, which users may not have in PATH.
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let mut depmod = Command::new("depmod");
    match depmod.env("PATH", path).arg("-b").arg(tree).arg(&release).stderr(Stdio::null()).status() {
        Ok(status) => assert!(status.success(), "depmod: {status}"),
        Err(_) => {
            skip("depmod is not installed (package kmod)");
            return None;
        }
    }
    Some(release)
}

/// A virtio disk in sysfs, whose drivers are modules or built in.
fn machine(release: &str, modular_bus: bool) -> String {
    let pci = "/sys/devices/pci0000:00/0000:00:04.0";
    let mut text = format!(
        "/proc/sys/kernel/osrelease = {release}\n\
         /sys/class/block/vda1 -> ../../devices/pci0000:00/0000:00:04.0/virtio0/block/vda/vda1\n\
         {pci}/virtio0/block/vda/vda1/partition = 1\n\
         {pci}/virtio0/modalias = virtio:d00000002v00001AF4\n\
         {pci}/virtio0/driver -> ../../../../bus/virtio/drivers/virtio_blk\n\
         {pci}/modalias = pci:v00001AF4d00001001sv00001AF4sd00000002bc01sc00i00\n\
         {pci}/driver -> ../../../bus/pci/drivers/virtio-pci\n\
         /sys/bus/virtio/drivers/virtio_blk/module -> ../../../../module/virtio_blk\n\
         /sys/module/virtio_blk/initstate = live\n\
         /sys/module/crc32c_intel/initstate = live\n\
         /sys/bus/pci/drivers/virtio-pci/\n"
    );
    if modular_bus {
        text += "/sys/bus/pci/drivers/virtio-pci/module -> ../../../../module/virtio_pci\n\
                 /sys/module/virtio_pci/initstate = live\n";
    }
    text
}

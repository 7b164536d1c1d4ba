//! Real kernels: everything that Debian's kernels need for ext4 on virtio, found in what depmod writes.
//!
//! They are looked for where `cargo xtask setup` unpacks them: `$VMCORED_CACHE/kernels`, or `~/.cache/vmcored/kernels`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use initramfs::image::{Compression, Options, build, entries};
use initramfs::root::Root;
use initramfs::{ModuleRequest, plan_modules};

use crate::image::{plan, skip, static_program};
use crate::support;

/// What is copied of a kernel's modules: enough that there is something to choose from.
const PARTS: [&str; 6] = ["arch", "crypto", "drivers/block", "drivers/virtio", "fs", "lib"];

#[test]
fn ext4_on_virtio() {
    let directory = tempfile::tempdir().unwrap();
    let Some(program) = static_program(directory.path()) else { return };
    for kernel in kernels() {
        let name = kernel.file_name().unwrap().to_string_lossy().into_owned();
        let tree = directory.path().join(&name);
        let release = copy(&kernel, &tree);
        let root = Root::new(&tree);
        // Whether virtio-pci is a module is the kernel's choice: in Debian's 6.1 it is, in 6.12 it is not.
        let built_in = root.read(format!("/lib/modules/{release}/modules.builtin")).unwrap().unwrap();
        let modular = !built_in.contains("/virtio_pci.ko");
        support::make_tree(&tree, &machine(&release, modular));

        let request = ModuleRequest {
            root: &root,
            first: &[],
            release: &release,
            block_devices: &["vda1".to_string()],
            layers: &[],
            filesystems: &["ext4".to_string()],
            network: initramfs::NetworkRequest::default(),
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

/// The kernels in the cache: each has `boot/` and `lib/modules/`, indexed by depmod.
fn kernels() -> Vec<PathBuf> {
    let cache = std::env::var_os("VMCORED_CACHE").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|h| Path::new(&h).join(".cache/vmcored"));
    let kernels = cache.or_else(home).unwrap_or_default().join("kernels");
    let mut found: Vec<PathBuf> =
        fs::read_dir(&kernels).into_iter().flatten().map(|e| e.unwrap().path()).collect();
    found.sort();
    if found.is_empty() {
        skip(&format!("no kernels in {} (cargo xtask setup)", kernels.display()));
    }
    found
}

/// Copies the configuration, the indices and [`PARTS`] of the modules; the release.
fn copy(kernel: &Path, tree: &Path) -> String {
    fs::create_dir_all(tree).unwrap();
    let modules = fs::read_dir(kernel.join("lib/modules")).unwrap().next().unwrap().unwrap();
    let release = modules.file_name().into_string().unwrap();
    let indices =
        fs::read_dir(modules.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let wanted = indices
        .filter(|name| name.starts_with("modules."))
        .chain(PARTS.iter().map(|part| format!("kernel/{part}")))
        .map(|path| format!("lib/modules/{release}/{path}"))
        .chain([format!("boot/config-{release}")]);
    let status =
        Command::new("cp").args(["-r", "--parents"]).args(wanted).arg(tree).current_dir(kernel).status();
    assert!(status.unwrap().success(), "cannot copy {}", kernel.display());
    release
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

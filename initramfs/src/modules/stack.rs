//! The devices between the machine's root and a block device, as sysfs shows them.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::Device;
use crate::Error;
use crate::root::Root;

/// How far devices that supply others (clocks, regulators, buses of an Arm board) are followed.
const MAX_SUPPLIERS: usize = 16;

/// A device of the stack and what its modules can be found by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Step {
    pub(super) device: Device,
    /// What a bus calls it, to be matched by modules.alias.
    pub(super) modalias: Option<String>,
    /// It is no ancestor of the target but supplies one.
    pub(super) supplier: bool,
}

/// Walks from `/sys/class/block/NAME` up. Steps are outermost first, suppliers before what they supply; devices
/// with neither a driver nor a modalias are left out.
pub(super) fn walk(root: &Root, name: &str) -> Result<Vec<Step>, Error> {
    // sysfs writes the slash of names such as cciss/c0d0 as an exclamation mark.
    let node = name.strip_prefix("/dev/").unwrap_or(name).replace('/', "!");
    if matches!(node.as_str(), "" | "." | "..") || node.contains('\0') {
        return Err(Error::BadName { what: "block device", value: name.to_owned() });
    }
    let class = format!("/sys/class/block/{node}");
    let Some(mut disk) = root.canonical(&class)? else {
        return Err(Error::NoDevice { name: node, path: root.path(class) });
    };
    if root.exists(disk.join("partition"))? {
        disk.pop();
    }
    refuse_layers(root, &node, &disk)?;

    let mut walker = Walker { root, seen: HashSet::new(), steps: Vec::new() };
    for bottom in bottoms(root, &node, &disk)? {
        refuse_transports(root, &node, &bottom)?;
        walker.climb(&bottom, 0)?;
    }
    Ok(walker.steps)
}

/// As [`walk`] for any devices of sysfs, `others` being what the machine may work without.
pub(super) fn climb_all<'a>(
    root: &Root,
    devices: impl Iterator<Item = &'a PathBuf>,
    others: impl Iterator<Item = &'a PathBuf>,
) -> Result<Vec<Step>, Error> {
    let mut walker = Walker { root, seen: HashSet::new(), steps: Vec::new() };
    for device in devices {
        walker.climb(device, 0)?;
    }
    for device in others {
        walker.climb(device, 1)?;
    }
    Ok(walker.steps)
}

/// Layers that the image has no programs to assemble.
fn refuse_layers(root: &Root, device: &str, disk: &Path) -> Result<(), Error> {
    let layer = file_name(disk);
    let unsupported =
        |on: String| Err(Error::Unsupported { device: device.to_owned(), on, layer: layer.clone() });
    if root.exists(disk.join("dm"))? {
        let uuid = root.read_line(disk.join("dm/uuid"))?.unwrap_or_default();
        let kind = match uuid.split('-').next().unwrap_or_default() {
            "LVM" => "LVM",
            "CRYPT" => "dm-crypt",
            "mpath" => "multipath",
            part if part.starts_with("part") => "a device-mapper partition",
            _ => "device mapper",
        };
        return unsupported(kind.to_owned());
    }
    if root.exists(disk.join("md"))? {
        let level = root.read_line(disk.join("md/level"))?.unwrap_or_default();
        return unsupported(if level.is_empty() { "md RAID".into() } else { format!("md RAID ({level})") });
    }
    let digits =
        |prefix| layer.strip_prefix(prefix).is_some_and(|n| n.starts_with(|c: char| c.is_ascii_digit()));
    for (prefix, kind) in [
        ("loop", "a loop device"),
        ("zram", "zram, memory that does not outlive the kernel"),
        ("ram", "a RAM disk, memory that does not outlive the kernel"),
        ("nbd", "a network block device"),
        ("rbd", "a Ceph block device"),
        ("drbd", "DRBD"),
        ("bcache", "bcache"),
        ("pmem", "persistent memory"),
    ] {
        if digits(prefix) {
            return unsupported(kind.to_owned());
        }
    }
    let slaves = root.list(disk.join("slaves"))?;
    if !slaves.is_empty() {
        return unsupported(format!("a stack of {}", slaves.join(" and ")));
    }
    Ok(())
}

/// Transports that need a connection to be set up first.
fn refuse_transports(root: &Root, device: &str, bottom: &Path) -> Result<(), Error> {
    for directory in bottom.ancestors().take_while(|d| *d != Path::new("/sys/devices")) {
        let layer = file_name(directory);
        let unsupported =
            |on: String, layer| Err(Error::Unsupported { device: device.to_owned(), on, layer });
        if root.exists(directory.join("iscsi_session"))? {
            return unsupported("iSCSI".into(), layer);
        }
        let transport = root.read_line(directory.join("transport"))?;
        match transport.as_deref() {
            Some(network @ ("tcp" | "rdma" | "fc" | "loop")) if layer.starts_with("nvme") => {
                return unsupported(format!("NVMe over {network}"), layer);
            }
            _ => {}
        }
    }
    Ok(())
}

/// Where the climb begins: the disk, or the controllers of an NVMe disk, which is a child of none of them.
///
/// With nvme_core.multipath, the default, a disk of a subsystem that may have several controllers lies below
/// /sys/devices/virtual/nvme-subsystem/nvme-subsys0, beside links to its controllers nvme0, nvme1.
fn bottoms(root: &Root, device: &str, disk: &Path) -> Result<Vec<PathBuf>, Error> {
    if !disk.starts_with("/sys/devices/virtual") || disk.starts_with("/sys/devices/virtual/nvme-fabrics") {
        return Ok(vec![disk.to_owned()]);
    }
    let mut controllers = Vec::new();
    if let Some(subsystem) = disk.parent().filter(|_| disk.starts_with("/sys/devices/virtual/nvme-subsystem"))
    {
        for name in root.list(subsystem)? {
            let number = name.strip_prefix("nvme").unwrap_or_default();
            if !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) {
                controllers.extend(root.canonical(subsystem.join(name))?);
            }
        }
    }
    if controllers.is_empty() {
        return Err(Error::Unsupported {
            device: device.to_owned(),
            on: "a virtual device".into(),
            layer: file_name(disk),
        });
    }
    Ok(controllers)
}

struct Walker<'a> {
    root: &'a Root,
    seen: HashSet<PathBuf>,
    steps: Vec<Step>,
}

impl Walker<'_> {
    /// Records all devices from /sys/devices down to `bottom`; `suppliers` is how many supplier links led here.
    fn climb(&mut self, bottom: &Path, suppliers: usize) -> Result<(), Error> {
        let Ok(below) = bottom.strip_prefix("/sys/devices") else { return Ok(()) };
        let mut directory = PathBuf::from("/sys/devices");
        for component in below.components() {
            directory.push(component);
            if self.seen.insert(directory.clone()) {
                self.visit(&directory, suppliers)?;
            }
        }
        Ok(())
    }

    fn visit(&mut self, directory: &Path, suppliers: usize) -> Result<(), Error> {
        // Links `supplier:BUS:NAME`. Since Linux commit 287905e68dd2 ("driver core: Expose device link details in
        // sysfs") (in v5.8).
        if suppliers < MAX_SUPPLIERS {
            for name in self.root.list(directory)?.iter().filter(|n| n.starts_with("supplier:")) {
                if let Some(supplier) = self.root.canonical(directory.join(name).join("supplier"))? {
                    self.climb(&supplier, suppliers + 1)?;
                }
            }
        }
        let driver = self.root.link_name(directory.join("driver"))?;
        let module = self.root.link_name(directory.join("driver/module"))?;
        let modalias = self.root.read_line(directory.join("modalias"))?;
        if driver.is_some() || modalias.is_some() {
            let device = Device { path: directory.to_owned(), driver, module };
            self.steps.push(Step { device, modalias, supplier: suppliers > 0 });
        }
        Ok(())
    }
}

/// The last component, for messages.
pub(super) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

//! Which modules and firmware the crash kernel needs to reach a target.

use std::path::PathBuf;

use collector::plan::Module;

use crate::Error;
use crate::root::Root;

/// What to plan for.
#[derive(Clone, Debug)]
pub struct ModuleRequest<'a> {
    /// Where /sys, /proc, /lib and /etc are.
    pub root: &'a Root,
    /// `uname -r` of the crash kernel.
    pub release: &'a str,
    /// Kernel name of the target's block device: `vda1`, `nvme0n1p2`.
    pub block_device: &'a str,
    /// File system type, as in mount(2): `ext4`.
    pub filesystem: &'a str,
    /// More modules to load, by name or alias, after the others.
    pub extra: &'a [String],
    /// Modules never to pack, by name.
    pub omit: &'a [String],
}

/// A module to pack.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PackedModule {
    /// What the collector is told: name, path in the image, options, whether the target needs it.
    pub plan: Module,
    /// The file to pack, as it is on disk, perhaps compressed.
    pub source: PathBuf,
    /// Why it is packed: `driver of virtio0`, `needed by ext4`.
    pub why: String,
}

/// A firmware file to pack.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FirmwareFile {
    /// Path in the image, uncompressed: `/lib/firmware/…`.
    pub path: String,
    /// The file to pack, as it is on disk, perhaps compressed.
    pub source: PathBuf,
    /// The module that asks for it.
    pub module: String,
}

/// One device between the machine's root and the target, outermost first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Device {
    /// Its directory below /sys/devices, as the system sees it.
    pub path: PathBuf,
    /// The driver bound to it.
    pub driver: Option<String>,
    /// The module of that driver; `None` if built in.
    pub module: Option<String>,
}

/// All that the crash kernel needs to reach the target.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ModulePlan {
    /// In load order.
    pub modules: Vec<PackedModule>,
    /// Sorted by path.
    pub firmware: Vec<FirmwareFile>,
    /// The devices walked, for explanation and for noticing that they have changed.
    pub stack: Vec<Device>,
    /// What the operator may want to know, a sentence each: ignored install lines, blacklisted drivers packed anyway.
    pub notes: Vec<String>,
}

impl ModulePlan {
    /// The list for [`collector::plan::Plan::modules`].
    #[must_use]
    pub fn for_plan(&self) -> Vec<Module> {
        self.modules.iter().map(|m| m.plan.clone()).collect()
    }
}

/// Finds the modules and firmware for a target.
pub fn plan_modules(request: &ModuleRequest<'_>) -> Result<ModulePlan, Error> {
    Err(Error::BadName { what: "block device", value: request.block_device.to_owned() })
}

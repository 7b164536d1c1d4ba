//! Which modules and firmware the crash kernel needs to reach a target.
//!
//! `stack` walks sysfs from the block device up and finds the drivers that are bound; `resolve` turns them, the file
//! system and what the settings add into a list of module files in load order, by what depmod wrote (`index`) and the
//! administrator said (`settings`); `file` and `firmware` look into each module.

mod file;
mod firmware;
mod index;
mod network;
mod pattern;
mod resolve;
mod settings;
mod stack;

use std::path::PathBuf;

use collector::plan::Module;

pub use self::network::NetworkRequest;
use self::resolve::{Chosen, Resolver};
use self::stack::Step;
use crate::Error;
use crate::root::Root;

/// What to plan for.
#[derive(Clone, Debug)]
pub struct ModuleRequest<'a> {
    /// Where /sys, /proc, /lib and /etc are.
    pub root: &'a Root,
    /// `uname -r` of the crash kernel.
    pub release: &'a str,
    /// Modules to load before all others, by name, where there are such: a watchdog's driver.
    pub first: &'a [String],
    /// Kernel names of the targets' block devices: `vda1`, `nvme0n1p2`.
    pub block_devices: &'a [String],
    /// Modules of the layers between disks and file systems: `dm_mod`, `raid1`.
    pub layers: &'a [String],
    /// The links to the targets on the network.
    pub network: NetworkRequest<'a>,
    /// File system types, as in mount(2): `ext4`.
    pub filesystems: &'a [String],
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

/// What file systems ask the kernel to load when they are mounted, and what no softdep says.
const MOUNT_REQUESTS: [(&str, &[&str]); 2] =
    // CONFIG_FAT_DEFAULT_CODEPAGE and CONFIG_FAT_DEFAULT_IOCHARSET of all distributions looked at.
    [("vfat", &["nls_cp437", "nls_ascii", "nls_iso8859-1", "nls_utf8"]), ("msdos", &["nls_cp437"])];

/// Finds the modules and firmware for a target.
pub fn plan_modules(request: &ModuleRequest<'_>) -> Result<ModulePlan, Error> {
    let ModuleRequest { root, release, first, block_devices, layers, network, filesystems, extra, omit } =
        *request;
    check_name("kernel release", release)?;

    let mut walks = Vec::new();
    for block_device in block_devices {
        walks.push(stack::walk(root, block_device)?);
    }
    for nic in network.nics {
        walks.push(network::walk(root, nic)?);
    }
    let mut steps: Vec<Step> = Vec::new();
    for step in walks.into_iter().flatten() {
        if !steps.iter().any(|known| known.device.path == step.device.path) {
            steps.push(step);
        }
    }
    let mut resolver = Resolver::new(root, release, omit)?;
    for name in first {
        if resolver.has(name)? {
            resolver.module(name, false, "of the hardware watchdog")?;
        }
    }
    for step in &steps {
        add_driver(&mut resolver, step)?;
    }
    for layer in layers {
        check_name("layer", layer)?;
        resolver.module(layer, true, "what the target lies on")?;
    }
    network::add_kinds(&mut resolver, &network)?;
    for filesystem in filesystems {
        check_name("file system", filesystem)?;
        add_filesystem(&mut resolver, root, filesystem)?;
    }
    for name in extra {
        let why = format!("extra module {name} of the settings");
        if resolver.has(name)? {
            resolver.module(name, false, &why)?;
        } else if !resolver.alias(name, false, &why)? {
            return Err(resolver.missing(name, &why));
        }
    }

    let (chosen, notes) = resolver.finish();
    let mut plan =
        ModulePlan { stack: steps.into_iter().map(|s| s.device).collect(), notes, ..ModulePlan::default() };
    let width = if chosen.len() > 100 { 3 } else { 2 };
    for (number, (Chosen { name, file, required, why }, options)) in chosen.into_iter().enumerate() {
        let missing = || Error::BadModule {
            path: root.path(&file),
            release: release.to_owned(),
            reason: format!("modules.dep names it, but it does not exist ({why}); run depmod {release}"),
        };
        let source = root.real(&file)?.ok_or_else(missing)?;
        for firmware in file::inspect(&source, &name, release)?.firmware {
            plan.firmware.extend(firmware::find(root, release, &name, &firmware)?);
        }
        let path = format!("/lib/modules/{number:0width$}-{name}.ko");
        plan.modules.push(PackedModule { plan: Module { name, path, options, required }, source, why });
    }
    plan.firmware.sort_by(|a, b| a.path.cmp(&b.path));
    plan.firmware.dedup_by(|a, b| a.path == b.path);
    Ok(plan)
}

/// A name that becomes part of paths.
fn check_name(what: &'static str, value: &str) -> Result<(), Error> {
    if matches!(value, "" | "." | "..") || value.contains(['/', '\0']) || value.contains(char::is_whitespace)
    {
        return Err(Error::BadName { what, value: value.to_owned() });
    }
    Ok(())
}

fn add_driver(resolver: &mut Resolver<'_>, step: &Step) -> Result<(), Error> {
    let Step { device: Device { path, driver, module }, modalias, supplier } = step;
    let device = stack::file_name(path);
    let by_alias = modalias.as_deref();
    // What an ancestor without a driver would get matters little: the target works without it.
    let Some(driver) = driver else {
        let why = format!("for {device}, which has no driver");
        return by_alias.map_or(Ok(()), |alias| resolver.alias(alias, false, &why).map(drop));
    };
    let why =
        if *supplier { format!("driver of {device}, a supplier") } else { format!("driver of {device}") };
    let required = !supplier;
    match module {
        Some(module) if resolver.has(module)? => resolver.module(module, required, &why),
        // Built in here, and the crash kernel is the same.
        None if resolver.running => Ok(()),
        // The crash kernel is another one and may be divided otherwise.
        _ if resolver.has(driver)? => resolver.module(driver, required, &why),
        _ => match by_alias {
            Some(alias) if resolver.alias(alias, required, &why)? => Ok(()),
            _ if required && module.is_some() => {
                Err(resolver.missing(module.as_deref().unwrap_or(driver), &why))
            }
            _ => {
                resolver.note(format!("taken to be built in: {driver}, {why}"));
                Ok(())
            }
        },
    }
}

fn add_filesystem(resolver: &mut Resolver<'_>, root: &Root, filesystem: &str) -> Result<(), Error> {
    let why = format!("file system {filesystem}");
    if resolver.has(filesystem)? {
        resolver.module(filesystem, true, &why)?;
    } else if !resolver.alias(&format!("fs-{filesystem}"), true, &why)? {
        // A kernel without module lists. What its loaded modules registered is among the lists' names.
        let known = root.read("/proc/filesystems")?.unwrap_or_default();
        let known = known.lines().any(|l| l.split_whitespace().next_back() == Some(filesystem));
        if !(resolver.running && known) {
            return Err(resolver.missing(filesystem, &why));
        }
    }
    for (_, modules) in MOUNT_REQUESTS.iter().filter(|(name, _)| *name == filesystem) {
        for module in *modules {
            resolver.module(module, false, &format!("asked for by {filesystem} when it is mounted"))?;
        }
    }
    Ok(())
}

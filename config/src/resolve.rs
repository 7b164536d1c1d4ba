//! From settings and the live system to a [`Plan`]: names become identities, a path becomes a device and a directory
//! of its file system, a device becomes a list of modules. After this nothing is left to find out.

use crate::aside::{self, AsideError};
use crate::kernel_image::{KernelImage, KernelImageError};
use crate::mounts::{self, Mount};
use crate::network::{self, NetworkError, View, Way};
use crate::settings::{LocalSettings, Place, Settings, sanitise_host};
use crate::storage::{self, Live, Storage, StorageError};
use crate::target::raw::{self, RawTargetError};
use crate::target::share::{self, ShareError};
use crate::target::ssh::SshTargetError;
use collector::erase::Rules;
use collector::plan::{DeviceId, DumpSpec, LocalTarget, PLAN_VERSION, Plan, RawTarget, Rung, Target};
use collector::target::identity::{self, Identity};
use initramfs::root::Root;
use initramfs::{ModulePlan, ModuleRequest, Packed, plan_modules};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Where the collector is installed.
pub const COLLECTOR_PATH: &str = "/usr/lib/vmcored/vmcore-collect";

/// File systems that PID 1 mounts and writes to safely.
pub const FILESYSTEMS: [&str; 6] = ["ext4", "ext3", "ext2", "xfs", "btrfs", "vfat"];

/// What [`resolve`] found out.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The contract with the collector.
    pub plan: Plan,
    /// The modules and firmware of the image, with their reasons.
    pub modules: ModulePlan,
    /// The crash kernel.
    pub kernel: KernelImage,
    /// The collector to pack, as we open it.
    pub collector: PathBuf,
    /// The device node of each target now, if it has one: `/dev/vda1`.
    pub nodes: Vec<Option<PathBuf>>,
    /// Programs and files besides: the ssh client, keys.
    pub packed: Packed,
    /// Descriptions of volume keys that the kernel has to hand on.
    pub keys: Vec<String>,
    /// What the user should know, a sentence each.
    pub warnings: Vec<String>,
}

/// Why there is no plan. Each says what happened, the value seen, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// A file of /proc is not there.
    #[error("cannot read {0}: is /proc mounted?")]
    NoProc(&'static str),
    /// The directory for dumps is not there.
    #[error("target {0} does not exist: create it (mkdir -m 0700 {0}), or set `path` in [[target]]")]
    NoDirectory(String),
    /// It is something else.
    #[error("target {0} is not a directory: set `path` in [[target]] to one")]
    NotDirectory(String),
    /// The path is on no mount that we see.
    #[error("no mount holds {0} in /proc/self/mountinfo: set `device` in [[target]]")]
    NoMount(String),
    /// A mount whose directory was removed.
    #[error("target {path} is on {source_}, whose directory {root:?} is gone: mount it again")]
    GoneMount {
        /// The path of the settings.
        path: String,
        /// What is mounted.
        source_: String,
        /// The root field.
        root: String,
    },
    /// A file system without a block device.
    #[error("target {path} is on {filesystem} ({source_}), which has no block device: {advice}")]
    NoBlockDevice {
        /// The path of the settings.
        path: String,
        /// overlay, tmpfs, nfs4, …
        filesystem: String,
        /// What is mounted.
        source_: String,
        /// What to do.
        advice: &'static str,
    },
    /// The device of the settings is not there.
    #[error("target device {0} not found: {1}")]
    NoDevice(String, String),
    /// sysfs does not know the device.
    #[error("cannot find block device {0} below /sys: is /sys mounted?")]
    NotInSysfs(String),
    /// The device is used for swap.
    #[error(
        "target device {0} ({1}) is swap: a dump would overwrite it, and it cannot hold files; \
         choose a file system"
    )]
    Swap(String, String),
    /// What is on the device is not a file system.
    #[error("target device {node} holds {what}, not a file system: name the file system's own device")]
    NotFilesystem {
        /// The device node.
        node: String,
        /// `crypto_LUKS`, `LVM2_member`, …
        what: String,
    },
    /// No file system was recognised.
    #[error("no file system recognised on {0}: make one (mkfs.ext4 {0}), or set `filesystem` in [[target]]")]
    NoFilesystem(String),
    /// A file system that we cannot use.
    #[error("target file system {filesystem} of {node} is not supported: use one of {known}", known = FILESYSTEMS.join(", "))]
    Filesystem {
        /// The device node.
        node: String,
        /// Its type.
        filesystem: String,
    },
    /// A device could not be read.
    #[error("cannot read {what}")]
    Read {
        /// What was being read.
        what: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The rules of what to erase are not there.
    #[error(
        "no file {0}, which `erase` of the dump {1:?} names: nothing is dumped that is not known to be clean"
    )]
    NoRules(String, String),
    /// There are no rules in the file.
    #[error("{0} has no rule of what to erase: leave `erase` of the dump {1:?} out, or add one")]
    EmptyRules(String, String),
    /// A rule of what to erase is none.
    #[error("{file}:{line}: {what}")]
    Rules {
        /// The file of rules.
        file: String,
        /// Its line, from 1.
        line: u32,
        /// What is wrong with it.
        what: String,
    },
    /// The collector is not installed.
    #[error("no collector at {0}: install it, or name it with `collector` in [image]")]
    NoCollector(String),
    /// What the target lies on cannot be put together after a crash.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A share cannot be a target.
    #[error(transparent)]
    Share(#[from] ShareError),
    /// A server cannot be a target.
    #[error(transparent)]
    Ssh(#[from] SshTargetError),
    /// A raw partition cannot be a target.
    #[error(transparent)]
    Raw(#[from] RawTargetError),
    /// No crash kernel.
    #[error(transparent)]
    Kernel(#[from] KernelImageError),
    /// No way to a target on the network.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// A hook, or another program to pack.
    #[error(transparent)]
    Aside(#[from] AsideError),
    /// Modules, links.
    #[error(transparent)]
    Image(#[from] initramfs::Error),
}

/// Resolves `settings` against the system at `root`.
pub fn resolve(settings: &Settings, root: &Root) -> Result<Resolved, ResolveError> {
    const RELEASE: &str = "/proc/sys/kernel/osrelease";
    let running = root.read_line(RELEASE)?.ok_or(ResolveError::NoProc(RELEASE))?;
    let kernel = KernelImage::find(root, settings.kernel.image.as_ref(), &running)?;
    let mut warnings = Vec::new();
    let mut extra = settings.image.extra_modules.clone();
    let (mut devices, mut layers, mut filesystems) = (Vec::new(), Vec::new(), Vec::new());
    let (mut targets, mut nodes) = (Vec::new(), Vec::new());
    let mut keys: Vec<String> = Vec::new();
    let (mut recorded, fence) = network::for_settings(settings, root)?;
    let mut view: Option<View> = None;
    let mut packed = Packed::default();
    let ladder = settings.ladder();
    for (index, target) in ladder.iter().enumerate() {
        let (to, node) = match &target.place {
            Place::Local(local) => {
                let found = find_target(local, root, &mut warnings)?;
                filesystems.push(found.filesystem.clone());
                let mut stack = None;
                if let Some(storage) = found.storage {
                    devices.extend(storage.disks);
                    layers.extend(storage.modules);
                    keys.extend(storage.keys);
                    warnings.extend(storage.warnings);
                    stack = Some(storage.stack);
                } else {
                    devices.push(found.name);
                }
                let to = LocalTarget {
                    device: found.id,
                    filesystem: found.filesystem,
                    options: found.options,
                    directory: found.directory,
                    stack,
                };
                (Target::Local(to), Some(found.node))
            }
            Place::Share(settings) => {
                let (mut server, mut scope) = (None, None);
                if let Some(host) = share::server(settings) {
                    let way = way_to(&mut view, host, share::NFS_PORT, root)?;
                    recorded.add(&way);
                    (server, scope) = (Some(way.address), way.scope().map(str::to_owned));
                }
                let share = share::resolve(settings, server, scope.as_deref())?;
                filesystems.push(settings.kind.filesystem().to_owned());
                extra.extend(share.modules.iter().map(|name| (*name).to_owned()));
                warnings.extend(share.warnings);
                (Target::Share(share.target), None)
            }
            Place::Ssh(settings) => {
                let client = settings.client(root)?;
                let way = way_to(&mut view, &client.hostname, client.port, root)?;
                let ssh = settings.resolve(index, &client, way.address, way.scope(), root)?;
                recorded.add(&way);
                packed.merge(ssh.packed)?;
                warnings.extend(ssh.warnings);
                (Target::Ssh(ssh.target), None)
            }
            Place::Raw(settings) => {
                let found = raw::find(settings, root, &mut warnings)?;
                devices.push(found.name);
                (Target::Raw(RawTarget { device: found.id }), Some(found.node))
            }
        };
        targets.push(Rung { to, level: target.level, limits: target.limits });
        nodes.push(node);
    }
    devices.dedup();
    layers.sort();
    layers.dedup();
    warnings.extend(recorded.warnings.iter().cloned());
    let aside = aside::resolve(settings, root)?;
    packed.merge(aside.packed)?;
    warnings.extend(aside.warnings);
    let mut modules = plan_modules(&ModuleRequest {
        root,
        release: &kernel.release,
        first: &aside.watchdog_modules,
        block_devices: &devices,
        layers: &layers,
        network: recorded.request(),
        filesystems: &filesystems,
        extra: &extra,
        omit: &settings.image.omit_modules,
    })?;
    add_arguments(&mut modules, &settings.kernel.append);
    warnings.extend(modules.notes.iter().cloned());
    let hostname = || Ok::<_, ResolveError>(root.read_line("/proc/sys/kernel/hostname")?.unwrap_or_default());
    let host = match &settings.host {
        Some(host) => host.clone(),
        None => sanitise_host(&hostname()?),
    };
    let dumps = settings.dumps.iter().map(|dump| with_rules(dump, settings, root));
    let dumps = dumps.collect::<Result<Vec<_>, _>>()?;
    let plan = Plan {
        version: PLAN_VERSION,
        host,
        kernel_release: kernel.release.clone(),
        modules: modules.for_plan(),
        targets,
        network: recorded.for_plan(),
        fence,
        dumps,
        triage: settings.triage.enabled,
        limits: settings.limits,
        final_action: settings.final_action,
        on_failure: settings.on_failure.at_last(settings.final_action),
        hooks: aside.hooks,
        shell: aside.shell,
        watchdog: aside.watchdog,
    };
    let collector = find_collector(settings.image.collector.as_deref(), root)?;
    Ok(Resolved { plan, modules, kernel, collector, nodes, packed, keys, warnings })
}

/// Gives modules those of the added arguments that are for them, `MODULE.PARAMETER=VALUE`: for what is built in the kernel reads
/// them itself, for modules nobody would.
fn add_arguments(modules: &mut ModulePlan, arguments: &[String]) {
    let normal = |name: &str| name.replace('-', "_");
    for module in &mut modules.modules {
        for argument in arguments {
            let name = argument.split('=').next().unwrap_or_default();
            let Some((of, _)) = name.split_once('.') else { continue };
            if normal(of) == normal(&module.plan.name) {
                let options = &mut module.plan.options;
                *options = format!("{options} {}", &argument[of.len() + 1..]).trim_start().to_owned();
            }
        }
    }
}

/// The way to a host: every address has one, and the first is the one that the resolver prefers.
fn way_to(view: &mut Option<View>, host: &str, port: u16, root: &Root) -> Result<Way, ResolveError> {
    let view = match view {
        Some(view) => view,
        none => none.insert(View::read()?),
    };
    let first = network::record(view, host, port, root)?.into_iter().next();
    let nowhere = || NetworkError::Name { host: host.to_owned(), why: "it has no address".to_owned() };
    Ok(first.ok_or_else(nowhere)?)
}

/// A dump with the text of its rules in it.
fn with_rules(dump: &DumpSpec, settings: &Settings, root: &Root) -> Result<DumpSpec, ResolveError> {
    let Some(path) = settings.rules.get(&dump.file) else { return Ok(dump.clone()) };
    let shown = path.display().to_string();
    let text = root.read(path)?.ok_or_else(|| ResolveError::NoRules(shown.clone(), dump.file.clone()))?;
    match Rules::parse(&text) {
        Ok(rules) if !rules.is_empty() => Ok(DumpSpec { erase: text, ..dump.clone() }),
        Ok(_) => Err(ResolveError::EmptyRules(shown, dump.file.clone())),
        Err(why) => Err(ResolveError::Rules { file: shown, line: why.line, what: why.what }),
    }
}

/// A local target as it is now.
pub(crate) struct Found {
    /// Kernel name: `vda1`.
    pub name: String,
    /// Its node.
    pub node: PathBuf,
    /// How the crash kernel finds it.
    pub id: DeviceId,
    /// Its type.
    pub filesystem: String,
    /// For mount(2).
    pub options: String,
    /// The dumps' directory in it.
    pub directory: String,
    /// What it lies on, where that is not a disk or partition.
    pub storage: Option<Storage>,
}

/// Resolves a local target.
pub(crate) fn find_target(
    target: &LocalSettings,
    root: &Root,
    warnings: &mut Vec<String>,
) -> Result<Found, ResolveError> {
    const MOUNTINFO: &str = "/proc/self/mountinfo";
    let mounts = mounts::parse(&root.read(MOUNTINFO)?.ok_or(ResolveError::NoProc(MOUNTINFO))?);
    let mut options = target.options.clone().unwrap_or_default();
    let (name, directory, mounted_as) = match &target.device {
        None => {
            let (on, mut directory) = mount_of(&target.path, root, &mounts)?;
            let (major, minor) = on.device;
            let name = if on.filesystem == "btrfs" {
                // Its mounts have numbers of their own, one for each subvolume.
                directory = subvolume_of(on, &directory, &mut options);
                name_of(&DeviceId::Path(on.source.clone()), root)?
            } else {
                let link = format!("/sys/dev/block/{major}:{minor}");
                root.link_name(&link)?.ok_or_else(|| ResolveError::NotInSysfs(on.source.clone()))?
            };
            (name, directory, Some(on.filesystem.clone()))
        }
        Some(id) => {
            let name = name_of(id, root)?;
            check_mounted(&name, &target.path, root, &mounts, warnings)?;
            (name, target.path.clone(), None)
        }
    };
    // In sysfs a slash of a device's name is an exclamation mark: `cciss!c0d0`.
    let node = Path::new("/dev").join(name.replace('!', "/"));
    let shown = node.display().to_string();
    let real = root.path(&node);
    let identity =
        identity::probe(&real).map_err(|source| ResolveError::Read { what: shown.clone(), source })?;
    refuse_swap(&node, &identity, root)?;
    let filesystem = filesystem_of(target, mounted_as, &identity, &shown, warnings)?;
    let mut tables = Live::new(root);
    let storage = match &identity.uuid {
        Some(uuid) if filesystem == "btrfs" => storage::of_pool(&name, uuid, root, &mut tables)?,
        _ => storage::of_device(&name, root, &mut tables)?,
    };
    let id = match (&storage, &identity.uuid) {
        // What it lies on is found by identities of its own; the disks may show the same superblock.
        (Some(_), Some(uuid)) => DeviceId::Uuid(uuid.clone()),
        (Some(_), None) => DeviceId::Path(shown.clone()),
        (None, _) => stable_identity(target.device.as_ref(), &name, &node, &identity, root, warnings)?,
    };
    if filesystem == "vfat" && !options.contains("umask=") && !options.contains("fmask=") {
        // Files there have no modes: this is what everything has.
        add_option(&mut options, "umask=0077");
    }
    if root.read_line(Path::new("/sys/class/block").join(&name).join("ro"))?.as_deref() == Some("1") {
        warnings.push(format!("target device {shown} is read-only: nothing can be dumped there"));
    }
    Ok(Found { name, node, id, filesystem, options, directory, storage })
}

fn add_option(options: &mut String, option: &str) {
    if !options.is_empty() {
        options.push(',');
    }
    options.push_str(option);
}

/// Mounts the subvolume that is mounted now, by its number: a snapshot tool may give its name to another. Returns the directory in
/// it.
fn subvolume_of(on: &Mount, directory: &str, options: &mut String) -> String {
    let Some((number, top)) = mounts::subvolume(on) else { return directory.to_owned() };
    if !options.contains("subvol") {
        add_option(options, &format!("subvolid={number}"));
    }
    let rest = directory.strip_prefix(top.trim_end_matches('/')).unwrap_or(directory);
    if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") }
}

/// The mount of a path of the running system, and the path below the root of its file system.
fn mount_of<'a>(path: &str, root: &Root, mounts: &'a [Mount]) -> Result<(&'a Mount, String), ResolveError> {
    let canonical = root.canonical(path)?.ok_or_else(|| ResolveError::NoDirectory(path.to_owned()))?;
    if !root.path(&canonical).is_dir() {
        return Err(ResolveError::NotDirectory(path.to_owned()));
    }
    let canonical = canonical.to_string_lossy();
    let on = mounts::holding(mounts, &canonical).ok_or_else(|| ResolveError::NoMount(path.to_owned()))?;
    if on.device.0 == 0 && on.filesystem != "btrfs" {
        let advice = match on.filesystem.as_str() {
            "overlay" | "overlayfs" | "aufs" => {
                "a container's or live system's root; set `device` in [[target]]"
            }
            "tmpfs" | "ramfs" | "rootfs" => "it dies with the kernel; set `path` to a directory on a disk",
            "nfs" | "nfs4" | "cifs" | "smb3" | "9p" | "virtiofs" | "ceph" => {
                "name the share itself: `nfs`, `virtiofs` or `9p` in [[target]]"
            }
            _ => "set `path` to a directory on a local disk",
        };
        return Err(ResolveError::NoBlockDevice {
            path: path.to_owned(),
            filesystem: on.filesystem.clone(),
            source_: on.source.clone(),
            advice,
        });
    }
    // The kernel appends this to the root of a bind mount whose directory was unlinked.
    if on.root.ends_with("//deleted") {
        return Err(ResolveError::GoneMount {
            path: path.to_owned(),
            source_: on.source.clone(),
            root: on.root.clone(),
        });
    }
    let below = mounts::below_root(on, &canonical).ok_or_else(|| ResolveError::NoMount(path.to_owned()))?;
    Ok((on, below))
}

/// The kernel's name of the device of the settings.
pub(crate) fn name_of(id: &DeviceId, root: &Root) -> Result<String, ResolveError> {
    let missing = |why: &str| ResolveError::NoDevice(id.to_string(), why.to_owned());
    let read = |source| ResolveError::Read { what: id.to_string(), source };
    let DeviceId::Path(path) = id else {
        let node = identity::find(&root.path("/dev"), &root.path("/sys"), id).map_err(read)?;
        let node = node.ok_or_else(|| {
            missing("no block device carries it; compare the output of blkid, and set `device` in [[target]]")
        })?;
        let below = node.strip_prefix(root.path("/dev")).unwrap_or(&node);
        return Ok(below.to_string_lossy().replace('/', "!"));
    };
    let canonical = root.canonical(path)?.ok_or_else(|| missing("there is no such file"))?;
    let meta = std::fs::metadata(root.path(&canonical)).map_err(read)?;
    if meta.file_type().is_block_device() {
        let (major, minor) = (nix::sys::stat::major(meta.rdev()), nix::sys::stat::minor(meta.rdev()));
        return root
            .link_name(format!("/sys/dev/block/{major}:{minor}"))?
            .ok_or_else(|| ResolveError::NotInSysfs(path.clone()));
    }
    // Below an injected root device nodes are ordinary files.
    let name = canonical.strip_prefix("/dev").unwrap_or(&canonical).to_string_lossy().replace('/', "!");
    if root.path("/") != Path::new("/") && root.exists(Path::new("/sys/class/block").join(&name))? {
        return Ok(name);
    }
    Err(missing("it is not a block device"))
}

/// Where the device is mounted now, the directory can be looked at.
fn check_mounted(
    name: &str,
    directory: &str,
    root: &Root,
    mounts: &[Mount],
    warnings: &mut Vec<String>,
) -> Result<(), ResolveError> {
    let Some(number) = root.read_line(Path::new("/sys/class/block").join(name).join("dev"))? else {
        return Ok(());
    };
    let here = mounts.iter().find(|m| format!("{}:{}", m.device.0, m.device.1) == number && m.root == "/");
    let Some(here) = here else { return Ok(()) };
    let live = format!("{}{directory}", here.point.trim_end_matches('/'));
    match root.canonical(&live)? {
        None => {
            warnings.push(format!("{live} does not exist yet: the collector makes it when it has to"));
            Ok(())
        }
        Some(path) if root.path(&path).is_dir() => Ok(()),
        Some(_) => Err(ResolveError::NotDirectory(live)),
    }
}

pub(crate) fn refuse_swap(node: &Path, identity: &Identity, root: &Root) -> Result<(), ResolveError> {
    let shown = node.display().to_string();
    if identity.filesystem.as_deref() == Some("swap") {
        return Err(ResolveError::Swap(shown, "by its signature".to_owned()));
    }
    let swaps = root.read("/proc/swaps")?.unwrap_or_default();
    for line in swaps.lines().skip(1) {
        let Some(used) = line.split_whitespace().next() else { continue };
        if root.canonical(used)?.as_deref() == Some(node) || Path::new(used) == node {
            return Err(ResolveError::Swap(shown, "in use, see /proc/swaps".to_owned()));
        }
    }
    Ok(())
}

fn filesystem_of(
    target: &LocalSettings,
    mounted_as: Option<String>,
    identity: &Identity,
    node: &str,
    warnings: &mut Vec<String>,
) -> Result<String, ResolveError> {
    let seen = identity.filesystem.clone();
    if let Some(what) = &seen
        && matches!(what.as_str(), "crypto_LUKS" | "LVM2_member" | "linux_raid_member")
    {
        return Err(ResolveError::NotFilesystem { node: node.to_owned(), what: what.clone() });
    }
    if let (Some(set), Some(seen)) = (&target.filesystem, &seen)
        && set != seen
    {
        warnings.push(format!("the settings say that {node} is {set}, its superblock says {seen}"));
    }
    let filesystem = target.filesystem.clone().or(mounted_as).or(seen);
    let filesystem = filesystem.ok_or_else(|| ResolveError::NoFilesystem(node.to_owned()))?;
    if FILESYSTEMS.contains(&filesystem.as_str()) {
        Ok(filesystem)
    } else {
        Err(ResolveError::Filesystem { node: node.to_owned(), filesystem })
    }
}

/// An identity by which the device, and no other, is found again. The user's own choice of UUID, LABEL or PARTUUID is
/// kept; a path becomes a UUID or PARTUUID where there is one.
pub(crate) fn stable_identity(
    chosen: Option<&DeviceId>,
    name: &str,
    node: &Path,
    identity: &Identity,
    root: &Root,
    warnings: &mut Vec<String>,
) -> Result<DeviceId, ResolveError> {
    let (dev, sys) = (root.path("/dev"), root.path("/sys"));
    let shown = node.display().to_string();
    let read = |source| ResolveError::Read { what: shown.clone(), source };
    // A cloned disk carries the same UUID, and which of the two is found first after a crash nobody knows.
    let twin = |same: &dyn Fn(&Identity) -> bool| -> Result<Option<String>, ResolveError> {
        let names = identity::block_devices(&sys).map_err(read)?;
        let node_of = |name: &String| dev.join(name.replace('!', "/"));
        let mut others = names.iter().filter(|other| *other != name);
        Ok(others.find(|other| identity::probe(&node_of(other)).is_ok_and(|i| same(&i))).cloned())
    };
    if let Some(id @ (DeviceId::Uuid(_) | DeviceId::PartUuid(_) | DeviceId::Label(_))) = chosen {
        let other = match id {
            DeviceId::Uuid(_) => twin(&|i| i.uuid == identity.uuid)?,
            DeviceId::Label(_) => twin(&|i| i.label == identity.label)?,
            _ => None,
        };
        if let Some(other) = other {
            warnings.push(format!(
                "{id} is carried by {shown} and by /dev/{other}: after a crash either may be found; \
                 give one of them another"
            ));
        }
        return Ok(id.clone());
    }
    if let Some(uuid) = &identity.uuid {
        let id = DeviceId::Uuid(uuid.clone());
        match twin(&|i| i.uuid == identity.uuid)? {
            None => return Ok(id),
            Some(other) => {
                warnings.push(format!("{id} of {shown} is also that of /dev/{other}: not used"));
            }
        }
    }
    match identity::partuuid(&sys, &dev, name) {
        Ok(Some(uuid)) => {
            let id = DeviceId::PartUuid(uuid);
            // The clone of a disk has the same partition table, too.
            if identity::find(&dev, &sys, &id).map_err(read)?.as_deref() == Some(&root.path(node)) {
                return Ok(id);
            }
            warnings.push(format!("{id} of {shown} is also that of another device: not used"));
        }
        Ok(None) => {}
        Err(e) => warnings.push(format!("cannot read the partition table that {shown} is in: {e}")),
    }
    warnings.push(format!(
        "{shown} has no identity that survives a reboot, so it is looked for by this name: \
         give its file system a UUID"
    ));
    Ok(DeviceId::Path(shown))
}

fn find_collector(chosen: Option<&Path>, root: &Root) -> Result<PathBuf, ResolveError> {
    if let Some(path) = chosen {
        return root.real(path)?.ok_or_else(|| ResolveError::NoCollector(path.display().to_string()));
    }
    if let Some(real) = root.real(COLLECTOR_PATH)? {
        return Ok(real);
    }
    // Run from a build directory or unpacked by hand: the two programs lie side by side.
    let beside = std::env::current_exe().ok().map(|exe| exe.with_file_name("vmcore-collect"));
    match beside {
        Some(path) if path.is_file() => Ok(path),
        Some(path) => Err(ResolveError::NoCollector(format!("{COLLECTOR_PATH} or {}", path.display()))),
        None => Err(ResolveError::NoCollector(COLLECTOR_PATH.to_owned())),
    }
}

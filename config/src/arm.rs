//! Arming: plan, image, command line, and the system call; and what we remember of it.
//!
//! A failed step leaves the crash kernel that is loaded as it is: it is better than none.

use crate::cmdline::{self, Cmdline, CmdlineError, Facts};
use crate::crashkernel;
use crate::harvest::boots::{Boot, Boots};
use crate::kexec::{self, KexecError, KexecState};
use crate::layout::Layout;
use crate::resolve::{ResolveError, Resolved, resolve};
use crate::settings::Settings;
use crate::storage::crypt;
use collector::storage::crypt::KEYS;
use initramfs::image::{self, Image};
use initramfs::root::Root;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Where images are kept.
pub const IMAGE_DIRECTORY: &str = "/var/lib/vmcored";

/// What we remember until the next boot.
pub const RUN_DIRECTORY: &str = "/run/vmcored";

const LOADED: &str = "loaded.json";

/// What was loaded last, also before this boot: beside the images.
const LAST: &str = "last.json";

/// Somebody does not want this boot to be armed.
const DISARMED: &str = "disarmed";

/// Why the machine could not be armed, or disarmed.
#[derive(Debug, thiserror::Error)]
pub enum ArmError {
    /// The kernel does not let us.
    #[error(transparent)]
    Kexec(#[from] KexecError),
    /// There is no plan.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// There is no image.
    #[error("cannot build the crash image")]
    Image(#[source] initramfs::Error),
    /// /sys or /proc could not be read.
    #[error(transparent)]
    System(#[from] initramfs::Error),
    /// The command line cannot be passed.
    #[error(transparent)]
    Cmdline(#[from] CmdlineError),
    /// A file could not be written or read.
    #[error("cannot {doing} {path}", path = path.display())]
    File {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The kernel file changed under us.
    #[error("{0} changed while it was being loaded: run `vmcorectl arm` again")]
    KernelChanged(PathBuf),
}

fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ArmError {
    let path = path.to_owned();
    move |source| ArmError::File { doing, path, source }
}

/// What was loaded, and when: `/run/vmcored/loaded.json`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Loaded {
    /// The image's id.
    pub image: String,
    /// The crash kernel's file.
    pub kernel: PathBuf,
    /// Its SHA-256.
    pub kernel_sha256: String,
    /// Its release.
    pub release: String,
    /// The command line.
    pub cmdline: String,
    /// Seconds since 1970.
    pub time: u64,
    /// The boot that this is true for (/proc/sys/kernel/random/boot_id).
    pub boot_id: String,
    /// What the kernel has described in it.
    #[serde(default)]
    pub layout: Layout,
}

/// Everything that would be loaded, without having touched anything.
#[expect(missing_debug_implementations, reason = "megabytes of image")]
pub struct Prepared {
    /// The plan and where it comes from.
    pub resolved: Resolved,
    /// The image.
    pub image: Image,
    /// The command line.
    pub cmdline: Cmdline,
    /// The running kernel's side.
    pub kexec: KexecState,
    /// What the command line depends on.
    pub facts: Facts,
    /// Bytes that a capture needs, roughly: [`crashkernel::need`].
    pub need: u64,
    /// What the kernel would describe in it.
    pub layout: Layout,
    /// What the user should know, a sentence each.
    pub warnings: Vec<String>,
}

/// How arming ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Loaded now.
    Loaded,
    /// The same was loaded before; nothing was done.
    AlreadyLoaded,
}

/// Plans and builds in memory.
pub fn prepare(settings: &Settings, root: &Root) -> Result<Prepared, ArmError> {
    let kexec = KexecState::read(root)?;
    let resolved = resolve(settings, root)?;
    let compression = image::Compression::for_kernel(root, &resolved.kernel.release)?;
    let image = image::build_with(
        &resolved.plan,
        &resolved.modules,
        &resolved.collector,
        &resolved.packed,
        &image::Options { compression },
    )
    .map_err(ArmError::Image)?;
    let ipv6 = resolved.plan.network.as_ref().is_some_and(|n| n.reach.iter().any(|r| r.address.is_ipv6()));
    let facts = Facts { ipv6, ..Facts::read(root, kexec.ranges.clone(), &resolved.kernel.release)? };
    let cmdline = cmdline::build(&facts, &settings.kernel, &image.id);
    let warnings = resolved.warnings.clone();
    let layout = Layout::read(root)?;
    let mut prepared = Prepared { resolved, image, cmdline, kexec, facts, need: 0, layout, warnings };
    let need = crashkernel::need::need(&prepared, root)?.total;
    prepared.need = need;
    // An estimate to warn by, not to refuse by.
    if let Some(reserved) = prepared.kexec.reserved.filter(|r| *r > 0 && *r < need) {
        prepared.warnings.push(format!(
            "{} MiB are reserved, about {} MiB are needed: the crash kernel may run out of memory; raise crashkernel=",
            reserved >> 20,
            need.div_ceil(1 << 20)
        ));
    }
    Ok(prepared)
}

impl Prepared {
    /// Whether this is what `loaded` says was loaded.
    pub fn is(&self, loaded: &Loaded) -> bool {
        self.differences(loaded).is_empty()
    }

    /// What has changed since `loaded` was loaded.
    pub fn differences(&self, loaded: &Loaded) -> Vec<&'static str> {
        let mut changed = Vec::new();
        if loaded.image != self.image.id {
            changed.push("image");
        }
        if loaded.kernel_sha256 != self.resolved.kernel.sha256 {
            changed.push("kernel");
        }
        // An image of another id is another command line; say so only where there is more to it.
        let old = loaded.cmdline.replace(&loaded.image, &self.image.id);
        if old != self.cmdline.text {
            changed.push("command line");
        }
        changed.extend(self.layout.differences(&loaded.layout));
        changed
    }
}

/// Loads what was prepared, unless it is loaded. The caller has checked that `root` is the live system.
pub fn arm(prepared: &Prepared, root: &Root, force: bool) -> Result<Outcome, ArmError> {
    let _lock = lock(root)?;
    prepared.kexec.check_load(nix::unistd::geteuid().as_raw())?;
    let text = prepared.cmdline.for_kernel(&prepared.facts.machine)?;
    // Another may have armed while we planned.
    let kexec = KexecState::read(root)?;
    if !force && kexec.loaded && loaded(root)?.is_some_and(|l| prepared.is(&l)) {
        // Its record may have been removed since, or we were killed before it was written.
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        remember_boot(prepared, time, root)?;
        return Ok(Outcome::AlreadyLoaded);
    }
    let path = store(&prepared.image, root)?;
    let kernel = &prepared.resolved.kernel;
    let kernel_file = File::open(&kernel.real).map_err(file("open", &kernel.path))?;
    if !kernel.is(&kernel_file).map_err(file("look at", &kernel.path))? {
        return Err(ArmError::KernelChanged(kernel.path.clone()));
    }
    let image_file = File::open(&path).map_err(file("open", &path))?;
    let keys = root.path(KEYS);
    crypt::hand_over(&prepared.resolved.keys, root).map_err(file("name volume keys in", &keys))?;
    // Before: what comes while it is loaded is seen as a change afterwards.
    let layout = Layout::read(root)?;
    kexec::load(&kernel_file, &image_file, &text, &kexec)?;
    let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    remember(
        &Loaded {
            image: prepared.image.id.clone(),
            kernel: kernel.path.clone(),
            kernel_sha256: kernel.sha256.clone(),
            release: kernel.release.clone(),
            cmdline: prepared.cmdline.text.clone(),
            time,
            boot_id: boot_id(root)?,
            layout,
        },
        root,
    )?;
    remember_boot(prepared, time, root)?;
    forget_images(Some(&prepared.image.id), root)?;
    // For the next boot, which loads it before it has planned: see `arm_last`.
    write_json(IMAGE_DIRECTORY, LAST, &Last { loaded: loaded(root)?, boot: current_boot(root)? }, root)?;
    Ok(Outcome::Loaded)
}

/// What the last boot loaded.
#[derive(Serialize, Deserialize)]
struct Last {
    loaded: Option<Loaded>,
    boot: Option<Boot>,
}

fn current_boot(root: &Root) -> Result<Option<Boot>, ArmError> {
    Ok(Boots::read(root)?.current(root)?.cloned())
}

/// Loads what was loaded last, where nothing is loaded yet and both its files are the same still: better than nothing until
/// targets can be reached and it is known what the plan is now. Returns the image's id, if it was loaded.
pub fn arm_last(root: &Root) -> Result<Option<String>, ArmError> {
    let _lock = lock(root)?;
    let kexec = KexecState::read(root)?;
    if kexec.loaded || is_disarmed(root) || kexec.check_load(nix::unistd::geteuid().as_raw()).is_err() {
        return Ok(None);
    }
    let text = root.read(Path::new(IMAGE_DIRECTORY).join(LAST))?;
    let last: Option<Last> = text.and_then(|text| serde_json::from_str(&text).ok());
    let Some(Last { loaded: Some(last), boot: Some(boot) }) = last else { return Ok(None) };
    let image = root.path(image_path(&last.image));
    let kernel = root.real(&last.kernel)?;
    let same = |path: &Path, want: &str| sha256(path).is_ok_and(|hash| hash == want);
    let Some(kernel) = kernel.filter(|kernel| same(kernel, &last.kernel_sha256) && same(&image, &last.image))
    else {
        return Ok(None);
    };
    // Another kernel runs now: its memory is another plan's.
    if root.read_line("/proc/sys/kernel/osrelease")?.as_deref() != Some(last.release.as_str()) {
        return Ok(None);
    }
    let (kernel, image) = (
        File::open(&kernel).map_err(file("open", &kernel))?,
        File::open(&image).map_err(file("open", &image))?,
    );
    let text = std::ffi::CString::new(last.cmdline.as_str()).map_err(|_| CmdlineError::Nul)?;
    let layout = Layout::read(root)?;
    kexec::load(&kernel, &image, &text, &kexec)?;
    let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let id = last.image.clone();
    let boot_id = boot_id(root)?;
    remember(&Loaded { time, boot_id: boot_id.clone(), layout, ..last }, root)?;
    Boots::arm(Boot { id: boot_id, armed: time, clean: false, test: None, ..boot }, root)?;
    Ok(Some(id))
}

/// Lower-case hexadecimal SHA-256 of a file.
pub(crate) fn sha256(path: &Path) -> io::Result<String> {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    io::copy(&mut File::open(path)?, &mut hash)?;
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Somebody has disarmed this boot, and the daemon is not to arm it again.
pub fn is_disarmed(root: &Root) -> bool {
    root.path(RUN_DIRECTORY).join(DISARMED).exists()
}

/// Lets the daemon arm this boot, or not.
pub fn set_disarmed(disarmed: bool, root: &Root) -> Result<(), ArmError> {
    let path = private_directory(RUN_DIRECTORY, root)?.join(DISARMED);
    if disarmed {
        return replace(&path, b"");
    }
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(file("remove", &path)(e)),
        _ => Ok(()),
    }
}

/// Unloads the crash kernel, whoever loaded it. Returns whether one was loaded.
pub fn disarm(root: &Root) -> Result<bool, ArmError> {
    let _lock = lock(root)?;
    let kexec = KexecState::read(root)?;
    let uid = nix::unistd::geteuid().as_raw();
    if uid != 0 {
        return Err(KexecError::NotRoot(uid).into());
    }
    if kexec.loaded {
        kexec::unload(&kexec)?;
    }
    let path = root.path(RUN_DIRECTORY).join(LOADED);
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(file("remove", &path)(e)),
        _ => {}
    }
    Boots::disarm(root)?;
    Ok(kexec.loaded)
}

/// So that the next boot knows that this one was armed, and where its dump is.
fn remember_boot(prepared: &Prepared, time: u64, root: &Root) -> Result<(), ArmError> {
    let boot = Boot {
        id: boot_id(root)?,
        armed: time,
        image: prepared.image.id.clone(),
        release: prepared.resolved.kernel.release.clone(),
        host: prepared.resolved.plan.host.clone(),
        targets: prepared.resolved.plan.targets.clone(),
        clean: false,
        test: None,
    };
    Boots::arm(boot, root)
}

/// What we loaded since the machine booted, if anything.
pub fn loaded(root: &Root) -> Result<Option<Loaded>, ArmError> {
    let text = root.read(Path::new(RUN_DIRECTORY).join(LOADED))?;
    // A file that is not understood was not written by this version: as good as none.
    let loaded: Option<Loaded> = text.and_then(|t| serde_json::from_str(&t).ok());
    // /run may not be a tmpfs, and then outlives a reboot, which unloads.
    let boot_id = boot_id(root)?;
    Ok(loaded.filter(|l| l.boot_id == boot_id))
}

/// Where the image `id` is kept.
pub fn image_path(id: &str) -> PathBuf {
    Path::new(IMAGE_DIRECTORY).join(format!("image-{id}.img"))
}

/// The running boot (/proc/sys/kernel/random/boot_id).
pub(crate) fn boot_id(root: &Root) -> Result<String, ArmError> {
    Ok(root.read_line("/proc/sys/kernel/random/boot_id")?.unwrap_or_default())
}

/// One arms or disarms at a time; the lock ends with the process.
pub(crate) fn lock(root: &Root) -> Result<File, ArmError> {
    lock_named("lock", root)
}

/// A lock of this name, which is waited for and ends with the process.
pub(crate) fn lock_named(name: &str, root: &Root) -> Result<File, ArmError> {
    let directory = private_directory(RUN_DIRECTORY, root)?;
    let path = directory.join(name);
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(file("open", &path))?;
    lock.lock().map_err(file("lock", &path))?;
    Ok(lock)
}

fn private_directory(path: &str, root: &Root) -> Result<PathBuf, ArmError> {
    let path = root.path(path);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(file("create", &path))?;
    Ok(path)
}

fn store(image: &Image, root: &Root) -> Result<PathBuf, ArmError> {
    private_directory(IMAGE_DIRECTORY, root)?;
    let path = root.path(image_path(&image.id));
    replace(&path, &image.bytes)?;
    Ok(path)
}

fn remember(loaded: &Loaded, root: &Root) -> Result<(), ArmError> {
    write_json(RUN_DIRECTORY, LOADED, loaded, root)
}

/// Writes a value below one of our directories, as JSON.
pub(crate) fn write_json(
    directory: &str,
    name: &str,
    value: &impl Serialize,
    root: &Root,
) -> Result<(), ArmError> {
    let path = private_directory(directory, root)?.join(name);
    let mut text = serde_json::to_vec_pretty(value).map_err(|e| file("write", &path)(e.into()))?;
    text.push(b'\n');
    replace(&path, &text)
}

/// Writes a whole file, mode 0600, so that whoever reads it sees the old one or the new one and nothing between.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), ArmError> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = directory.join(name);
    // Left by a run that was killed; the lock keeps others away.
    match fs::remove_file(&new) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(file("remove", &new)(e)),
        _ => {}
    }
    let write = || {
        let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        out.write_all(bytes)?;
        out.sync_all()?;
        fs::rename(&new, path)?;
        File::open(directory)?.sync_all()
    };
    write().map_err(|e| {
        // Half a file is of no use to anybody; the error that matters is the first.
        drop(fs::remove_file(&new));
        file("write", path)(e)
    })
}

/// Removes the images that are not `keep`.
fn forget_images(keep: Option<&str>, root: &Root) -> Result<(), ArmError> {
    for name in root.list(IMAGE_DIRECTORY)? {
        let id =
            name.strip_prefix("image-").and_then(|n| n.strip_suffix(".img").or(n.strip_suffix(".img.new")));
        if id.is_some() && name.strip_prefix("image-").and_then(|n| n.strip_suffix(".img")) != keep {
            let path = root.path(IMAGE_DIRECTORY).join(name);
            fs::remove_file(&path).map_err(file("remove", &path))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn sample(boot_id: &str) -> Loaded {
        Loaded {
            image: "ab".into(),
            kernel: "/boot/k".into(),
            kernel_sha256: "cd".into(),
            release: "6.1".into(),
            cmdline: "nr_cpus=1 vmcored.image=ab".into(),
            time: 7,
            boot_id: boot_id.into(),
            layout: Layout::default(),
        }
    }

    #[test]
    fn what_was_loaded_is_remembered_for_one_boot() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let boot = |id: &str| {
            fs::create_dir_all(dir.path().join("proc/sys/kernel/random")).unwrap();
            fs::write(dir.path().join("proc/sys/kernel/random/boot_id"), format!("{id}\n")).unwrap();
        };
        boot("one");
        assert_eq!(loaded(&root).unwrap(), None);
        remember(&sample("one"), &root).unwrap();
        assert_eq!(loaded(&root).unwrap(), Some(sample("one")));
        let path = dir.path().join("run/vmcored/loaded.json");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        boot("two");
        assert_eq!(loaded(&root).unwrap(), None, "a reboot unloads");
        fs::write(&path, "{").unwrap();
        assert_eq!(loaded(&root).unwrap(), None);
    }

    #[test]
    fn images_are_private_and_old_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let image = |id: &str| Image { bytes: vec![1, 2], id: id.into(), unpacked: 9, entries: Vec::new() };
        let path = store(&image("a"), &root).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
        store(&image("b"), &root).unwrap();
        store(&image("b"), &root).unwrap();
        fs::write(dir.path().join("var/lib/vmcored/image-c.img.new"), "").unwrap();
        fs::write(dir.path().join("var/lib/vmcored/notes"), "").unwrap();
        forget_images(Some("b"), &root).unwrap();
        assert_eq!(root.list(IMAGE_DIRECTORY).unwrap(), ["image-b.img", "notes"]);
    }
}

//! Where dumps are on the running system: the directories of the plan's targets, as they are mounted now.

use crate::mounts::{self, Mount};
use crate::resolve::name_of;
use crate::settings::{DEFAULT_PATH, Place as Written, Settings};
use collector::plan::share::ShareTarget;
use collector::plan::{LocalTarget, Rung, Target};
use collector::target::share;
use initramfs::root::Root;
use nix::mount::{MntFlags, MsFlags};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

/// Where a file system is mounted that is not, to look at it.
const LOOK: &str = "/run/vmcored/look";

/// Whether a path is there only while somebody looks.
pub fn is_passing(path: &Path) -> bool {
    path.starts_with(LOOK)
}

/// A share's server answers within this, or is not there.
const SERVER_LIMIT: Duration = Duration::from_secs(30);

/// A directory that dumps are in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// On the running system.
    pub directory: PathBuf,
    /// The target, as the plan has it.
    pub target: String,
    /// Its number in the plan, from 0.
    pub rung: Option<usize>,
}

/// All that can be looked at, and what cannot.
#[derive(Debug, Default)]
pub struct Places {
    /// Those that are there, the plan's first target first.
    pub places: Vec<Place>,
    /// Targets that are elsewhere: `ssh …`, a share that is not mounted and cannot be.
    pub away: Vec<String>,
    /// Why a local target could not be looked at, a sentence each.
    pub faults: Vec<String>,
    held: Vec<PathBuf>,
}

impl Drop for Places {
    fn drop(&mut self) {
        for point in &self.held {
            if let Err(e) = nix::mount::umount2(point, MntFlags::MNT_DETACH) {
                log::error!("cannot unmount {}: {e}", point.display());
            }
        }
    }
}

impl Places {
    /// Of a plan. With `mount`, file systems and shares that are not mounted are, until this is dropped.
    pub fn of_plan(rungs: &[Rung], settings: Option<&Settings>, root: &Root, mount: bool) -> Self {
        let mut all = Self::default();
        let mounted = mounts::parse(&root.read("/proc/self/mountinfo").ok().flatten().unwrap_or_default());
        for (index, rung) in rungs.iter().enumerate() {
            let target = rung.to.to_string();
            let found = match &rung.to {
                Target::Local(local) => match all.local(local, &mounted, root, mount) {
                    Ok(found) => Some(found),
                    Err(why) => {
                        all.faults.push(format!("{target} cannot be looked at: {why}"));
                        None
                    }
                },
                Target::Share(share) => {
                    let mut found = shared(share, &mounted, root);
                    if found.is_none() && mount && nix::unistd::geteuid().is_root() {
                        found = all.share(share).map(Some).unwrap_or_else(|why| {
                            let why = why.strip_prefix(&format!("cannot mount {target}: ")).unwrap_or(&why);
                            all.faults.push(format!("{target} cannot be mounted: {why}"));
                            all.away.push(target.clone());
                            None
                        });
                    } else if found.is_none() {
                        all.away.push(target.clone());
                    }
                    found
                }
                Target::Ssh(_) => {
                    all.away.push(target.clone());
                    None
                }
                // Recovered to a directory: vmcored-recover.service.
                Target::Raw(_) => None,
            };
            if let Some(directory) = found {
                all.add(Place { directory, target, rung: Some(index) }, root);
            }
        }
        all.add_written(rungs, settings, root);
        all
    }

    /// What the settings name by its path, and where raw partitions are recovered to.
    fn add_written(&mut self, rungs: &[Rung], settings: Option<&Settings>, root: &Root) {
        let raw = rungs.iter().position(|rung| matches!(rung.to, Target::Raw(_)));
        let mut written = Vec::new();
        for target in settings.map_or(&[][..], |settings| &settings.targets) {
            match &target.place {
                Written::Raw(raw_target) => {
                    written.push((raw_target.path.clone(), raw_target.device.to_string(), raw));
                }
                Written::Local(local) if local.device.is_none() => {
                    written.push((local.path.clone(), local.path.clone(), None));
                }
                _ => {}
            }
        }
        if raw.is_some() && settings.is_none() {
            written.push((DEFAULT_PATH.to_owned(), DEFAULT_PATH.to_owned(), raw));
        }
        for (path, target, rung) in written {
            if root.exists(&path).unwrap_or(false) {
                self.add(Place { directory: path.into(), target, rung }, root);
            }
        }
    }

    /// Once each, by whatever path.
    fn add(&mut self, place: Place, root: &Root) {
        let real = |path: &Path| root.canonical(path).ok().flatten();
        // The first dump makes its directory: until then it is not there on what we have mounted.
        let passing = is_passing(&place.directory).then(|| place.directory.clone());
        let Some(here) = real(&place.directory).or(passing) else { return };
        if !self.places.iter().any(|other| real(&other.directory).as_ref() == Some(&here)) {
            self.places.push(Place { directory: here, ..place });
        }
    }

    /// Mounts a share for as long as this is held.
    fn share(&mut self, target: &ShareTarget) -> Result<PathBuf, String> {
        let point = PathBuf::from(format!("{LOOK}/{}", self.held.len()));
        mount_share(target, &point)?;
        let directory = point.join(target.directory.trim_start_matches('/'));
        self.held.push(point);
        Ok(directory)
    }

    fn local(
        &mut self,
        target: &LocalTarget,
        mounted: &[Mount],
        root: &Root,
        mount: bool,
    ) -> Result<PathBuf, String> {
        let name = name_of(&target.device, root).map_err(|e| e.to_string())?;
        let number = root.read_line(Path::new("/sys/class/block").join(&name).join("dev"));
        let number = number.ok().flatten().unwrap_or_default();
        let is_it = |mount: &Mount| {
            let (major, minor) = mount.device;
            format!("{major}:{minor}") == number
                // btrfs has numbers of its own; what it says is mounted may be a link.
                || (mount.filesystem == "btrfs"
                    && root.canonical(&mount.source).ok().flatten().and_then(|path| {
                        Some(path.file_name()?.to_string_lossy() == name.as_str())
                    }) == Some(true))
        };
        for candidate in mounted.iter().filter(|mount| is_it(mount)) {
            let Some(path) = seen_through(candidate, &target.directory, &target.options) else { continue };
            // Another mount may lie over it.
            if mounts::holding(mounted, &path).is_some_and(|on| on.id == candidate.id)
                && root.exists(&path).unwrap_or(false)
            {
                return Ok(path.into());
            }
        }
        if !mount || !nix::unistd::geteuid().is_root() {
            return Err("it is not mounted".to_owned());
        }
        let point = PathBuf::from(format!("{LOOK}/{}", self.held.len()));
        fs::create_dir_all(&point).map_err(|e| format!("cannot create {}: {e}", point.display()))?;
        let node = Path::new("/dev").join(name.replace('!', "/"));
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        let options = (!target.options.is_empty()).then_some(target.options.as_str());
        nix::mount::mount(Some(&node), &point, Some(target.filesystem.as_str()), flags, options)
            .map_err(|e| format!("{} cannot be mounted: {e}", node.display()))?;
        let directory = point.join(target.directory.trim_start_matches('/'));
        self.held.push(point);
        Ok(directory)
    }
}

/// Mounts a share, but waits for its server only so long: mount(2) returns after retries of its own.
fn mount_share(target: &ShareTarget, point: &Path) -> Result<(), String> {
    let (tell, told) = mpsc::channel();
    let (target, at) = (target.clone(), point.to_owned());
    #[expect(
        clippy::disallowed_methods,
        reason = "a server that is gone must not hold up whoever waits for the scope's end"
    )]
    std::thread::spawn(move || {
        let done = share::mount_at(&target, &at).map_err(|e| collector::engine::chain(&e));
        let mounted = done.is_ok();
        if tell.send(done).is_err() && mounted {
            // Nobody waits any more. What cannot be taken back now is when this process ends.
            drop(share::abandon(&at));
        }
    });
    let answered = told.recv_timeout(SERVER_LIMIT);
    // From here on the thread finds that nobody listens.
    drop(told);
    answered.unwrap_or_else(|_| Err(format!("its server has not answered for {} s", SERVER_LIMIT.as_secs())))
}

/// A share that is mounted here, by the name that the plan has for it or by the one it had before it was resolved.
fn shared(target: &ShareTarget, mounted: &[Mount], root: &Root) -> Option<PathBuf> {
    let export = |source: &str| source.split_once(":/").map(|(_, export)| export.to_owned());
    let candidate = mounted.iter().find(|mount| {
        mount.source == target.source
            || (mount.filesystem.starts_with("nfs")
                && target.kind.filesystem() == "nfs"
                && export(&mount.source) == export(&target.source)
                && target.server.is_some_and(|server| {
                    mount.options.split(',').any(|option| option == format!("addr={server}"))
                }))
    })?;
    let path = seen_through(candidate, &target.directory, "")?;
    root.exists(&path).ok()?.then(|| path.into())
}

/// Where `directory` of a file system shows on one of its mounts.
fn seen_through(mount: &Mount, directory: &str, options: &str) -> Option<String> {
    let top = match mounts::subvolume(mount) {
        // Of the subvolume that the plan mounts, directories are counted from its top.
        Some((id, top)) if options.split(',').any(|option| option == format!("subvolid={id}")) => {
            mount.root.strip_prefix(top.trim_end_matches('/')).unwrap_or(&mount.root)
        }
        _ => &mount.root,
    };
    let top = top.trim_end_matches('/');
    let rest = directory.strip_prefix(top)?;
    if !(rest.is_empty() || rest.starts_with('/')) {
        return None;
    }
    let path = format!("{}/{}", mount.point.trim_end_matches('/'), rest.trim_matches('/'));
    let path = path.trim_end_matches('/');
    Some(if path.is_empty() { "/".to_owned() } else { path.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_as_they_are_mounted() {
        let line = |text: &str| mounts::parse(text).remove(0);
        let root = line("28 1 254:1 / / rw - ext4 /dev/vda1 rw");
        let bind = line("41 40 254:17 /dumps /var/crash rw - ext4 /dev/vdb1 rw");
        let btrfs = line("41 40 0:17 /@/var /var rw - btrfs /dev/vdb1 rw,subvolid=256,subvol=/@");
        for (mount, directory, options, want) in [
            (&root, "/var/crash", "", Some("/var/crash")),
            (&root, "/", "", Some("/")),
            (&bind, "/dumps", "", Some("/var/crash")),
            (&bind, "/dumps/a", "", Some("/var/crash/a")),
            (&bind, "/dumpster", "", None),
            (&bind, "/other", "", None),
            (&btrfs, "/var/crash", "subvolid=256", Some("/var/crash")),
            (&btrfs, "/@/var/crash", "", Some("/var/crash")),
        ] {
            assert_eq!(seen_through(mount, directory, options).as_deref(), want, "{directory} {options}");
        }
    }
}

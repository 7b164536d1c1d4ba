//! What may make the plan another: files (inotify), devices (uevents), mounts (/proc/self/mountinfo), routes and addresses (rtnetlink).

use crate::mounts;
use crate::settings::{Place, Settings};
use initramfs::root::Root;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, socket,
};
use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Something that may matter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A file of the settings, a key, a kernel, a module.
    File(String),
    /// A block device or a NIC.
    Device(String),
    /// `cpu` or `memory`.
    Hotplug(String),
    /// A file system was mounted, unmounted or mounted in another way.
    Mounts,
    /// A link, an address or a route.
    Network,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{path} changed"),
            Self::Device(name) => write!(f, "device {name}"),
            Self::Hotplug(what) => write!(f, "{what} hotplug"),
            Self::Mounts => f.write_str("mounts changed"),
            Self::Network => f.write_str("the network changed"),
        }
    }
}

/// Directories, and what matters in them: names that start so; all where there are none.
const WATCHED: &[(&str, &[&str])] = &[
    ("/etc", &["vmcored.toml", "kdump.conf", "vmcored-erase.conf", "fstab", "modprobe.d"]),
    ("/etc/vmcored.toml.d", &[]),
    ("/etc/modprobe.d", &[]),
    ("/etc/kdump", &[]),
    ("/etc/kdump/pre.d", &[]),
    ("/etc/kdump/post.d", &[]),
    ("/etc/kdump/emergency.d", &[]),
    ("/root/.ssh", &[]),
    ("/boot", &["vmlinuz", "Image", "config-"]),
    ("/lib/modules", &[]),
    ("/usr/lib/vmcored", &[]),
];

/// Where they come from.
pub struct Events {
    files: Inotify,
    names: HashMap<WatchDescriptor, Watched>,
    /// Files that the settings name.
    also: Vec<PathBuf>,
    sockets: Vec<(Source, OwnedFd)>,
    mounts: Option<File>,
    mounted: Vec<String>,
}

/// A directory.
struct Watched {
    path: String,
    /// How names that matter begin; all where there are none.
    names: Vec<String>,
}

/// Files that settings name, wherever they are: keys, rules, hooks, programs.
pub fn named(settings: &Settings) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = settings.rules.values().cloned().collect();
    for target in &settings.targets {
        if let Place::Ssh(ssh) = &target.place {
            files.extend(ssh.key.iter().chain(&ssh.known_hosts).cloned());
        }
    }
    let hooks = &settings.hooks;
    let programs = [&hooks.pre, &hooks.post, &hooks.emergency, &settings.image.extra_bins];
    files.extend(programs.into_iter().flatten().filter(|path| path.starts_with('/')).map(PathBuf::from));
    files.extend(settings.image.collector.iter().chain(&settings.kernel.image).cloned());
    files
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Source {
    Uevent,
    Route,
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("watched", &self.names.len()).finish_non_exhaustive()
    }
}

impl Events {
    /// Of the system at `root`.
    pub fn open(root: &Root) -> io::Result<Self> {
        /// Links, IPv4 and IPv6 addresses and routes: RTMGRP_* of linux/rtnetlink.h.
        const ROUTES: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;
        let netlink = |protocol, groups| -> nix::Result<OwnedFd> {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
            bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
            Ok(socket)
        };
        let mut sockets = Vec::new();
        for (source, protocol, groups) in [
            // Group 1 is the kernel's own; udev's follows it.
            (Source::Uevent, SockProtocol::NetlinkKObjectUEvent, 1),
            (Source::Route, SockProtocol::NetlinkRoute, ROUTES),
        ] {
            match netlink(protocol, groups) {
                Ok(socket) => sockets.push((source, socket)),
                // A container's user namespace: better without these events than not at all.
                Err(e) => log::warn!("no events of {source:?}: {e}"),
            }
        }
        let files = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let mounts = File::open(root.path(MOUNTS)).map_err(|e| log::warn!("no events of mounts: {e}")).ok();
        let (names, also, mounted) = (HashMap::new(), Vec::new(), mounted(root));
        let mut events = Self { files, names, also, sockets, mounts, mounted };
        events.rewatch(root);
        Ok(events)
    }

    /// Watches what was not there before.
    pub fn rewatch(&mut self, root: &Root) {
        let flags = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_ONLYDIR;
        let release = root.read_line("/proc/sys/kernel/osrelease").ok().flatten().unwrap_or_default();
        let own = format!("/lib/modules/{release}");
        let always = WATCHED.iter().map(|(path, names)| ((*path).to_owned(), *names));
        for (path, names) in always.chain([(own, &["modules."][..])]) {
            self.watch(&path, names, flags, root);
        }
        for file in std::mem::take(&mut self.also) {
            if let (Some(directory), Some(name)) = (file.parent(), file.file_name()) {
                self.watch(&directory.to_string_lossy(), &[&*name.to_string_lossy()], flags, root);
            }
            self.also.push(file);
        }
    }

    fn watch(&mut self, path: &str, names: &[&str], flags: AddWatchFlags, root: &Root) {
        let Ok(Some(real)) = root.real(path) else { return };
        let Ok(watch) = self.files.add_watch(&real, flags) else { return };
        let wanted = || names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        // The same directory again is the same watch.
        let there = self.names.entry(watch);
        let watched = there.or_insert_with(|| Watched { path: path.to_owned(), names: wanted() });
        if names.is_empty() || watched.names.is_empty() {
            watched.names.clear();
        } else {
            watched.names.extend(wanted());
            watched.names.sort();
            watched.names.dedup();
        }
    }

    /// Watches these files, too, from the next [`Self::rewatch`] on.
    pub fn watch_also(&mut self, files: &[PathBuf]) {
        files.clone_into(&mut self.also);
    }

    /// To be waited for.
    pub fn descriptors(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        let sockets = self.sockets.iter().map(|(_, socket)| (socket.as_fd(), PollFlags::POLLIN));
        // proc(5): a change shows as an exceptional condition.
        let mounts = self.mounts.iter().map(|file| (file.as_fd(), PollFlags::POLLPRI));
        std::iter::once((self.files.as_fd(), PollFlags::POLLIN)).chain(sockets).chain(mounts)
    }

    /// Whether this poll(2) has said that something was mounted. It says so once.
    pub fn mounts_changed(&self, polled: &[PollFd<'_>]) -> bool {
        let Some(mounts) = self.mounts.as_ref().map(AsRawFd::as_raw_fd) else { return false };
        let ours = polled.iter().filter(|fd| fd.as_fd().as_raw_fd() == mounts);
        ours.filter_map(|fd| fd.revents()).any(|flags| flags.contains(PollFlags::POLLPRI))
    }

    /// What has happened since; `mounts`: as [`Self::mounts_changed`] says. Never waits.
    pub fn read(&mut self, root: &Root, mounts: bool) -> Vec<Event> {
        let mut found = Vec::new();
        if mounts {
            let now = mounted(root);
            if now != self.mounted {
                self.mounted = now;
                found.push(Event::Mounts);
            }
        }
        let mut made = false;
        while let Ok(events) = self.files.read_events() {
            for event in events {
                let Some(Watched { path, names }) = self.names.get(&event.wd) else { continue };
                let name = event.name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
                // Attributes of the directory itself: somebody has touched it.
                let ours = !name.is_empty()
                    && (names.is_empty() || names.iter().any(|start| name.starts_with(start)));
                // Editors' and package managers' own.
                let passing = name.ends_with('~') || name.starts_with(".#") || name.ends_with(".swp");
                if ours && !passing {
                    found.push(Event::File(format!("{path}/{name}")));
                    made = true;
                }
            }
        }
        if made {
            self.rewatch(root);
        }
        let mut bytes = vec![0; 16 << 10];
        for (source, socket) in &self.sockets {
            loop {
                match recvfrom::<NetlinkAddr>(socket.as_raw_fd(), &mut bytes) {
                    Ok((length, from)) => {
                        // Processes may write to these sockets too; the kernel is number 0.
                        if from.is_some_and(|from| from.pid() != 0) {
                            continue;
                        }
                        match source {
                            Source::Uevent => found.extend(uevent(bytes.get(..length).unwrap_or_default())),
                            Source::Route => found.push(Event::Network),
                        }
                    }
                    // More than the socket holds: everything may have changed.
                    Err(Errno::ENOBUFS) => found.push(Event::Device("events were lost".to_owned())),
                    Err(_) => break,
                }
            }
        }
        found.dedup();
        found
    }
}

const MOUNTS: &str = "/proc/self/mountinfo";

/// What is mounted that a dump may go to. Containers come and go with dozens of mounts, none of which is of a disk or a server.
fn mounted(root: &Root) -> Vec<String> {
    let text = root.read(Path::new(MOUNTS)).ok().flatten().unwrap_or_default();
    let lasting = |mount: &mounts::Mount| {
        let disk = mount.source.starts_with("/dev/") && !mount.source.starts_with("/dev/loop");
        disk || ["nfs", "nfs4", "virtiofs", "9p"].contains(&mount.filesystem.as_str())
    };
    let line = |mount: mounts::Mount| format!("{mount:?}");
    mounts::parse(&text).into_iter().filter(lasting).map(line).collect()
}

/// `add@/devices/…\0ACTION=add\0SUBSYSTEM=block\0…`
fn uevent(bytes: &[u8]) -> Option<Event> {
    let field = |name: &str| {
        let mut fields = bytes.split(|byte| *byte == 0).filter_map(|field| std::str::from_utf8(field).ok());
        fields.find_map(|field| field.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
    };
    let action = field("ACTION")?;
    let path = field("DEVPATH")?;
    let name = path.rsplit('/').next().unwrap_or_default().to_owned();
    match (field("SUBSYSTEM")?.as_str(), action.as_str()) {
        ("block", "add" | "remove" | "change" | "move") => {
            // Nothing of a dump is on them.
            let passing = ["loop", "ram", "zram", "sr", "fd"].iter().any(|start| name.starts_with(start));
            (!passing).then_some(Event::Device(name))
        }
        ("net", "add" | "remove" | "move") => Some(Event::Device(name)),
        (what @ ("cpu" | "memory"), "add" | "remove" | "online" | "offline") => {
            Some(Event::Hotplug(what.to_owned()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uevents_are_read() {
        let text = |action: &str, subsystem: &str, path: &str| {
            format!("{action}@{path}\0ACTION={action}\0DEVPATH={path}\0SUBSYSTEM={subsystem}\0SEQNUM=1\0")
        };
        for (action, subsystem, path, want) in [
            ("add", "block", "/devices/x/vdb", Some(Event::Device("vdb".into()))),
            ("change", "block", "/devices/virtual/block/loop0", None),
            ("bind", "block", "/devices/x/vdb", None),
            ("online", "cpu", "/devices/system/cpu/cpu1", Some(Event::Hotplug("cpu".into()))),
            ("offline", "memory", "/devices/system/memory/memory9", Some(Event::Hotplug("memory".into()))),
            ("add", "usb", "/devices/x", None),
        ] {
            assert_eq!(uevent(text(action, subsystem, path).as_bytes()), want);
        }
        assert_eq!(uevent(b"libudev\0\xfe\xed"), None);
    }

    #[test]
    fn files_that_matter() {
        let dir = tempfile::tempdir().unwrap();
        let etc = dir.path().join("etc");
        std::fs::create_dir_all(&etc).unwrap();
        let root = Root::new(dir.path());
        let mut events = Events::open(&root).unwrap();
        std::fs::write(etc.join("passwd"), "x").unwrap();
        std::fs::write(etc.join("vmcored.toml~"), "x").unwrap();
        let files = |events: &mut Events| {
            let mut found = events.read(&root, false);
            found.retain(|event| matches!(event, Event::File(_)));
            found
        };
        assert_eq!(files(&mut events), []);
        std::fs::write(etc.join("vmcored.toml"), "x").unwrap();
        assert_eq!(files(&mut events), [Event::File("/etc/vmcored.toml".into())]);
        // A directory that comes later is watched from then on.
        std::fs::create_dir(etc.join("vmcored.toml.d")).unwrap();
        assert_eq!(files(&mut events).len(), 1);
        std::fs::write(etc.join("vmcored.toml.d/a.toml"), "x").unwrap();
        assert_eq!(files(&mut events), [Event::File("/etc/vmcored.toml.d/a.toml".into())]);
    }

    #[test]
    fn files_that_settings_name() {
        let settings = crate::settings::parse(
            "[[target]]\nssh = \"a@b\"\nkey = \"/keys/id\"\n[[target]]\npath = \"/d\"\n[[dump]]\nfile = \"vmcore\"\nerase = \"/rules\"\n\
             [hooks]\npre = [\"/opt/pre\"]\n[image]\nextra_bins = [\"/bin/x\"]\n[kernel]\nimage = \"/k/vmlinuz\"\n",
            Path::new("t.toml"),
        );
        let files = named(&settings.unwrap_or_else(|e| panic!("{e}")));
        for file in ["/keys/id", "/rules", "/opt/pre", "/bin/x", "/k/vmlinuz"] {
            assert!(files.contains(&PathBuf::from(file)), "{file}: {files:?}");
        }
        let dir = tempfile::tempdir().unwrap();
        for there in ["keys", "etc"] {
            std::fs::create_dir_all(dir.path().join(there)).unwrap();
        }
        let root = Root::new(dir.path());
        let mut events = Events::open(&root).unwrap();
        // Beside what is always watched there.
        events.watch_also(&[PathBuf::from("/keys/id"), PathBuf::from("/etc/rules"), PathBuf::from("/rules")]);
        events.rewatch(&root);
        for (file, matters) in [
            ("keys/id", true),
            ("keys/other", false),
            ("etc/rules", true),
            ("etc/kdump.conf", true),
            ("rules", true),
        ] {
            std::fs::write(dir.path().join(file), "x").unwrap();
            let found = events.read(&root, false);
            let seen = found.iter().any(|event| matches!(event, Event::File(path) if path.ends_with(file)));
            assert_eq!(seen, matters, "{file}: {found:?}");
        }
    }

    #[test]
    fn mounts_that_matter() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        std::fs::create_dir_all(dir.path().join("proc/self")).unwrap();
        let disk = "28 1 254:1 / / rw - ext4 /dev/vda1 rw\n";
        let write =
            |more: &str| std::fs::write(dir.path().join("proc/self/mountinfo"), format!("{disk}{more}"));
        write("").unwrap();
        let mut events = Events::open(&root).unwrap();
        for (more, matters) in [
            (
                "40 28 0:40 / /run/c rw - overlay overlay rw\n41 28 7:0 / /snap/x rw - squashfs /dev/loop0 ro\n",
                false,
            ),
            ("40 28 254:2 / /var/crash rw - xfs /dev/vdb rw\n", true),
            ("40 28 254:2 / /var/crash rw - xfs /dev/vdb ro\n", true),
            ("40 28 0:50 / /mnt rw - nfs4 h:/x rw\n", true),
            ("40 28 0:50 / /mnt rw - nfs4 h:/x rw\n", false),
        ] {
            write(more).unwrap();
            assert_eq!(events.read(&root, true).contains(&Event::Mounts), matters, "{more}");
        }
    }
}

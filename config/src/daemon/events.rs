//! What may make the plan another: files (inotify), devices (uevents), routes and addresses (rtnetlink).

use initramfs::root::Root;
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, socket,
};
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Something that may matter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A file of the settings, a key, a kernel, a module.
    File(String),
    /// A block device or a NIC.
    Device(String),
    /// `cpu` or `memory`.
    Hotplug(String),
    /// A link, an address or a route.
    Network,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{path} changed"),
            Self::Device(name) => write!(f, "device {name}"),
            Self::Hotplug(what) => write!(f, "{what} hotplug"),
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
    ("/root/.ssh", &[]),
    ("/boot", &["vmlinuz", "Image", "config-"]),
    ("/lib/modules", &[]),
    ("/usr/lib/vmcored", &[]),
];

/// Where they come from.
pub struct Events {
    files: Inotify,
    names: HashMap<WatchDescriptor, (String, &'static [&'static str])>,
    sockets: Vec<(Source, OwnedFd)>,
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
        let mut events = Self { files, names: HashMap::new(), sockets };
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
        let all = WATCHED.iter().map(|(path, names)| ((*path).to_owned(), *names));
        for (path, names) in all.chain([(own, &["modules."][..])]) {
            let Ok(Some(real)) = root.real(&path) else { continue };
            // The same directory again is the same watch.
            if let Ok(watch) = self.files.add_watch(&real, flags) {
                self.names.insert(watch, (path, names));
            }
        }
    }

    /// To be waited for.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        std::iter::once(self.files.as_fd()).chain(self.sockets.iter().map(|(_, socket)| socket.as_fd()))
    }

    /// What has happened since. Never waits.
    pub fn read(&mut self, root: &Root) -> Vec<Event> {
        let mut found = Vec::new();
        let mut made = false;
        while let Ok(events) = self.files.read_events() {
            for event in events {
                let Some((path, names)) = self.names.get(&event.wd) else { continue };
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
            let mut found = events.read(&root);
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
}

//! `vmcorectl target explain`: the ways to servers, and what lies under disks, drawn.

use super::{NetworkError, View, Way, record};
use crate::resolve::{Found, find_target};
use crate::settings::{LocalSettings, Place, Settings};
use crate::storage::explain::Drawn;
use crate::target::share::{self, NFS_PORT};
use collector::engine::chain;
use collector::plan::storage::Stack;
use initramfs::root::Root;
use serde::Serialize;
use std::fmt;
use std::path::PathBuf;

/// What became of each host, and of each target of this machine's own.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Explained {
    /// In the order they were named.
    pub hosts: Vec<Host>,
    /// Local targets, in the order of the settings, unless hosts were named.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<Lying>,
}

/// A local target, and what it lies on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Lying {
    /// Its device, as the crash kernel looks for it, or what the settings say where that is not known.
    pub target: String,
    /// Its node now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<PathBuf>,
    /// Its directory in that file system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// What it is put together from, where the kernel does not find it by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stack: Option<Stack>,
    /// Why it cannot be one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Lying {
    fn read(settings: &LocalSettings, root: &Root) -> Self {
        match find_target(settings, root, &mut Vec::new()) {
            Ok(Found { id, node, directory, filesystem, storage, .. }) => Self {
                target: format!("{id}, {filesystem}"),
                node: Some(node),
                directory: Some(directory),
                stack: storage.map(|storage| storage.stack),
                error: None,
            },
            Err(e) => {
                let device = settings.device.as_ref().map(|id| format!("{id} ")).unwrap_or_default();
                let target = format!("{device}{}", settings.path);
                Self { target, node: None, directory: None, stack: None, error: Some(chain(&e)) }
            }
        }
    }
}

impl fmt::Display for Lying {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "target       {}", self.target)?;
        if let Some(node) = &self.node {
            write!(f, " (now {})", node.display())?;
        }
        if let Some(directory) = &self.directory {
            write!(f, ", directory {directory}")?;
        }
        writeln!(f)?;
        if let Some(stack) = &self.stack {
            write!(f, "{}", Drawn { stack, head: "on           " })?;
        }
        match &self.error {
            Some(error) => writeln!(f, "no way       {error}"),
            None => Ok(()),
        }
    }
}

/// A host, and the ways to it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Host {
    /// What it is called.
    pub host: String,
    /// One for each of its addresses that has one; the first is tried first.
    pub ways: Vec<Way>,
    /// Why there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Explained {
    /// Finds the ways to `hosts`, or to those that the settings name.
    pub fn read(settings: &Settings, hosts: &[String], root: &Root) -> Result<Self, NetworkError> {
        let mut found = Vec::new();
        let mut disks = Vec::new();
        let wanted: Vec<(String, u16)> = if hosts.is_empty() {
            disks.extend(settings.targets.iter().filter_map(|target| match &target.place {
                Place::Local(local) => Some(Lying::read(local, root)),
                Place::Share(_) | Place::Ssh(_) | Place::Raw(_) => None,
            }));
            named(settings, root, &mut found)
        } else {
            hosts.iter().map(|host| (host.clone(), 0)).collect()
        };
        if !wanted.is_empty() {
            let mut view = View::read()?;
            for (host, port) in wanted {
                let (ways, error) = match record(&mut view, &host, port, root) {
                    Ok(ways) => (ways, None),
                    Err(e) => (Vec::new(), Some(chain(&e))),
                };
                found.push(Host { host, ways, error });
            }
        }
        Ok(Self { hosts: found, disks })
    }

    /// Whether there is one without a way.
    pub fn is_out_of_reach(&self) -> bool {
        self.hosts.iter().any(|h| h.ways.is_empty()) || self.disks.iter().any(|d| d.error.is_some())
    }
}

/// Hosts and ports that the settings name: the targets in their order, then the nodes of the cluster. A target of which not
/// even the host can be told is put into `found`.
fn named(settings: &Settings, root: &Root, found: &mut Vec<Host>) -> Vec<(String, u16)> {
    let mut wanted: Vec<(String, u16)> = Vec::new();
    for target in &settings.targets {
        match &target.place {
            Place::Share(settings) => {
                wanted.extend(share::server(settings).map(|server| (server.to_owned(), NFS_PORT)));
            }
            Place::Ssh(settings) => match settings.client(root) {
                Ok(client) => wanted.push((client.hostname, client.port)),
                Err(e) => {
                    let host = settings.address.to_string();
                    found.push(Host { host, ways: Vec::new(), error: Some(chain(&e)) });
                }
            },
            Place::Local(_) | Place::Raw(_) => {}
        }
    }
    let nodes = settings.fence.iter().flat_map(|fence| fence.nodes.iter().map(|n| (n.clone(), fence.port)));
    for node in nodes {
        if !wanted.contains(&node) {
            wanted.push(node);
        }
    }
    wanted
}

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.hosts.is_empty() && self.disks.is_empty() {
            return writeln!(f, "the settings name neither a disk nor anything on the network");
        }
        for (index, host) in self.hosts.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            for (number, way) in host.ways.iter().enumerate() {
                if number > 0 {
                    writeln!(f)?;
                }
                way.fmt(f)?;
            }
            if let Some(error) = &host.error {
                writeln!(f, "target       {}\nno way       {error}", host.host)?;
            }
        }
        for (index, disk) in self.disks.iter().enumerate() {
            if index > 0 || !self.hosts.is_empty() {
                writeln!(f)?;
            }
            disk.fmt(f)?;
        }
        Ok(())
    }
}

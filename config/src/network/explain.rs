//! `vmcorectl target explain`: the ways, drawn.

use super::{NetworkError, View, Way, record};
use crate::settings::{Place, Settings};
use crate::target::share::{self, NFS_PORT};
use collector::engine::chain;
use initramfs::root::Root;
use serde::Serialize;
use std::fmt;

/// What became of each host.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(transparent)]
pub struct Explained {
    /// In the order they were named.
    pub hosts: Vec<Host>,
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
        let wanted: Vec<(String, u16)> = if hosts.is_empty() {
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
        Ok(Self { hosts: found })
    }

    /// Whether there is one without a way.
    pub fn is_out_of_reach(&self) -> bool {
        self.hosts.iter().any(|h| h.ways.is_empty())
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
        if self.hosts.is_empty() {
            return writeln!(f, "the settings name nothing on the network");
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
        Ok(())
    }
}

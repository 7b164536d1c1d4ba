//! `vmcorectl target explain`: the ways, drawn.

use super::{NetworkError, View, Way, record};
use crate::settings::Settings;
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
        let named = settings.fence.iter().flat_map(|fence| fence.nodes.iter().map(|n| (n, fence.port)));
        let wanted: Vec<(String, u16)> = if hosts.is_empty() {
            named.map(|(node, port)| (node.clone(), port)).collect()
        } else {
            hosts.iter().map(|host| (host.clone(), 0)).collect()
        };
        let mut found = Vec::new();
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

//! File systems that somebody else keeps: an NFS server, or the host of a virtual machine.

use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// A directory of such a file system.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShareTarget {
    /// Which protocol.
    pub kind: ShareKind,
    /// What is mounted, for mount(2): `192.0.2.1:/export`, `[2001:db8::1]:/export`, or the tag of a virtual machine's share.
    pub source: String,
    /// The server, which the network has to lead to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<IpAddr>,
    /// Mount options for mount(2)'s data argument, complete: the server's address is among them.
    #[serde(default)]
    pub options: String,
    /// Directory below the root of that file system, absolute.
    pub directory: String,
}

/// The protocol of a share.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ShareKind {
    /// NFS; the version is among the options.
    #[serde(rename = "nfs")]
    Nfs,
    /// virtio-fs.
    #[serde(rename = "virtiofs")]
    Virtiofs,
    /// Plan 9's protocol over virtio.
    #[serde(rename = "9p")]
    Plan9,
}

impl ShareKind {
    /// The type for mount(2).
    #[must_use]
    pub fn filesystem(self) -> &'static str {
        match self {
            Self::Nfs => "nfs",
            Self::Virtiofs => "virtiofs",
            Self::Plan9 => "9p",
        }
    }
}

impl std::fmt::Display for ShareTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.kind.filesystem(), self.source, self.directory)
    }
}

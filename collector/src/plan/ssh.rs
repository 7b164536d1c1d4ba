//! A directory on another machine, reached by the OpenSSH client of the image.

use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// A directory on an SSH server. Nothing in it is secret: the key itself is a file of the image.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SshTarget {
    /// Who to log in as.
    pub user: String,
    /// The server, resolved before the crash.
    pub address: IpAddr,
    /// Of a link-local IPv6 address: the interface, by the name that it gets in the crash kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// TCP port.
    pub port: u16,
    /// The name under which `known_hosts` has the server's key: what the user calls the server.
    pub host_key_alias: String,
    /// Directory on the server below which the dump's directory is made, absolute.
    pub directory: String,
    /// The client in the image: `/usr/bin/ssh`.
    pub program: String,
    /// The private key in the image.
    pub identity: String,
    /// The pinned host keys in the image: one line a key, under `host_key_alias`.
    pub known_hosts: String,
    /// More settings for the client, `Name=value` as after `-o`: the algorithms that the machine's policy allows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl SshTarget {
    /// Where the key lies in the image, `n` being the target's number in the ladder.
    pub fn identity_path(n: usize) -> String {
        format!("/etc/vmcored/ssh/{n}/key")
    }

    /// Where the pinned host keys lie in the image.
    pub fn known_hosts_path(n: usize) -> String {
        format!("/etc/vmcored/ssh/{n}/known_hosts")
    }

    /// The server's address as the client takes it, with its scope.
    pub fn host(&self) -> String {
        match &self.scope {
            Some(scope) => format!("{}%{scope}", self.address),
            None => self.address.to_string(),
        }
    }
}

impl std::fmt::Display for SshTarget {
    /// `ssh root@dumps.example.org:/var/crash`, with the address where it says more.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ssh {}@{}", self.user, self.host_key_alias)?;
        if self.host() != self.host_key_alias {
            write!(f, " ({})", self.host())?;
        }
        if self.port != 22 {
            write!(f, " port {}", self.port)?;
        }
        write!(f, " {}", self.directory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_plain_json_and_reads_well() {
        let target = SshTarget {
            user: "kdump".into(),
            address: "fe80::1".parse().unwrap(),
            scope: Some("eth0".into()),
            port: 2222,
            host_key_alias: "dumps".into(),
            directory: "/var/crash".into(),
            program: "/usr/bin/ssh".into(),
            identity: SshTarget::identity_path(0),
            known_hosts: SshTarget::known_hosts_path(0),
            options: vec!["Ciphers=aes128-ctr".into()],
        };
        let text = serde_json::to_string(&target).unwrap();
        assert_eq!(serde_json::from_str::<SshTarget>(&text).unwrap(), target);
        assert_eq!(target.to_string(), "ssh kdump@dumps (fe80::1%eth0) port 2222 /var/crash");
        let more = text.replace("\"user\"", "\"password\":\"x\",\"user\"");
        assert!(serde_json::from_str::<SshTarget>(&more).unwrap_err().to_string().contains("password"));
    }
}

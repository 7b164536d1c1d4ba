//! A directory on an SSH server: who, where, with which key, and which host key is the server's.
//!
//! ```text
//! user@host[:port] --ssh -G (aliases, algorithms)--> Client --names, route--> address
//! known_hosts --known_hosts--> pinned keys --+
//! /root/.ssh/kdump_id_* ---------------------+--> SshTarget + Packed (ssh with its libraries, key, known_hosts)
//! ```
//!
//! What is refused here would be refused after the crash, when nobody is there to answer.

mod address;
mod client;
mod key;
pub mod known_hosts;
pub mod propagate;

pub use address::{BadAddress, SshAddress};
pub use client::Client;
pub use key::DEFAULT_KEYS;

use collector::plan::ssh::SshTarget;
use initramfs::Packed;
use initramfs::root::Root;
use known_hosts::Pinned;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// The client on the running system, and in the image.
pub const PROGRAM: &str = "/usr/bin/ssh";

/// Where root keeps host keys, and the machine those for all.
pub const KNOWN_HOSTS: [&str; 3] =
    ["/root/.ssh/known_hosts", "/root/.ssh/known_hosts2", "/etc/ssh/ssh_known_hosts"];

/// What a `[[target]]` with `ssh` says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SshSettings {
    /// `ssh = "user@host:port"`.
    pub address: SshAddress,
    /// `path`: a directory of the server, absolute.
    pub path: String,
    /// `key`: the private key; one of [`DEFAULT_KEYS`] unless set.
    pub key: Option<PathBuf>,
    /// `known_hosts`: where the server's key is looked up; [`KNOWN_HOSTS`] unless set.
    pub known_hosts: Option<PathBuf>,
}

/// What the image needs for a target.
#[derive(Clone, Debug)]
pub struct SshPlan {
    /// For the plan.
    pub target: SshTarget,
    /// The client with its libraries, the key, the pinned host keys.
    pub packed: Packed,
    /// The key of the running system.
    pub key: PathBuf,
    /// Fingerprints of the pinned host keys: `ED25519 SHA256:…`.
    pub fingerprints: Vec<String>,
    /// What the user should know, a sentence each.
    pub warnings: Vec<String>,
}

/// Why a server is no target. Each says what happened, the value seen, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum SshTargetError {
    /// No client is installed.
    #[error("no ssh client at {PROGRAM}: install openssh-client (openssh-clients)")]
    NoClient,
    /// The machine's client reaches it in a way that the crash kernel cannot.
    #[error(
        "{host} is reached through {what} (see `ssh -G {host}`): the crash kernel connects directly; \
         name a server that it can reach"
    )]
    Proxied {
        /// The server.
        host: String,
        /// `ProxyJump bastion`.
        what: String,
    },
    /// There is no key.
    #[error("no key for {to}: {} not there; run `vmcorectl target propagate {to}`", missing(.looked))]
    NoKey {
        /// The server.
        to: String,
        /// Where it was looked for.
        looked: Vec<String>,
    },
    /// The key cannot be used.
    #[error("key {path} cannot be used: {why}")]
    BadKey {
        /// The file.
        path: String,
        /// Why not.
        why: &'static str,
    },
    /// The server's host key is not known.
    #[error(
        "the host key of {to} is not known: {} {} no entry for it; run `vmcorectl target propagate {to}`",
        .looked.join(", "),
        if .looked.len() == 1 { "has" } else { "have" }
    )]
    NoHostKey {
        /// The server.
        to: String,
        /// Files that were looked into.
        looked: Vec<String>,
    },
    /// Every key of the server is revoked.
    #[error(
        "the host keys of {0} are all marked @revoked: fetch its new ones with `vmcorectl target propagate {0}`"
    )]
    Revoked(String),
    /// A file of the running system.
    #[error(transparent)]
    System(#[from] initramfs::Error),
    /// A program could not be run.
    #[error("cannot run {program}: {why}")]
    Program {
        /// The program.
        program: &'static str,
        /// Why not.
        why: String,
    },
}

fn missing(looked: &[String]) -> String {
    match looked {
        [one] => format!("{one} is"),
        several => format!("{} are", several.join(" and ")),
    }
}

impl SshSettings {
    /// What the machine's client makes of the address: `Host` blocks of ssh_config may rename it. Its `hostname` and `port`
    /// are what the network is asked for.
    pub fn client(&self, root: &Root) -> Result<Client, SshTargetError> {
        Client::read(&self.address, root)
    }

    /// Everything for the image, the server being at `address`; `scope` is the link of a link-local one. `n` is the
    /// target's number in the ladder.
    pub fn resolve(
        &self,
        n: usize,
        client: &Client,
        address: IpAddr,
        scope: Option<&str>,
        root: &Root,
    ) -> Result<SshPlan, SshTargetError> {
        let mut warnings = Vec::new();
        let (key, secret) = self.find_key(root, &mut warnings)?;
        let pinned = self.pinned(client, address, root)?;
        let target = SshTarget {
            user: client.user.clone(),
            address,
            scope: scope.map(str::to_owned),
            port: client.port,
            host_key_alias: client.alias.clone(),
            directory: self.path.clone(),
            program: PROGRAM.to_owned(),
            identity: SshTarget::identity_path(n),
            known_hosts: SshTarget::known_hosts_path(n),
            options: client.options.clone(),
        };
        let mut packed = Packed::default();
        if !root.exists(PROGRAM)? {
            return Err(SshTargetError::NoClient);
        }
        packed.add(root, PROGRAM)?;
        packed.add_file(&target.identity, 0o600, secret)?;
        packed.add_file(&target.known_hosts, 0o600, pinned.file(&client.alias).into_bytes())?;
        // ssh asks who it is, and runs for nobody who has no name.
        packed.add_file("/etc/passwd", 0o644, b"root:x:0:0:root:/:/bin/sh\n".to_vec())?;
        Ok(SshPlan { target, packed, key, fingerprints: pinned.fingerprints(), warnings })
    }

    /// The files where host keys are looked up.
    pub fn known_hosts_files(&self) -> Vec<&Path> {
        match &self.known_hosts {
            Some(path) => vec![path.as_path()],
            None => KNOWN_HOSTS.iter().map(Path::new).collect(),
        }
    }

    /// The server's host keys by its name, or else by its address.
    fn pinned(&self, client: &Client, address: IpAddr, root: &Root) -> Result<Pinned, SshTargetError> {
        let mut text = String::new();
        let mut looked = Vec::new();
        for file in self.known_hosts_files() {
            if let Some(more) = root.read(file)? {
                text.push_str(&more);
                text.push('\n');
                looked.push(file.display().to_string());
            }
        }
        if looked.is_empty() {
            looked = self.known_hosts_files().iter().map(|f| f.display().to_string()).collect();
        }
        let to = self.address.to_string();
        for name in [client.alias.clone(), address.to_string()] {
            let pinned = Pinned::find(&text, &name, client.port);
            if pinned.is_usable() {
                return Ok(pinned);
            }
            if pinned.all_revoked {
                return Err(SshTargetError::Revoked(to));
            }
        }
        Err(SshTargetError::NoHostKey { to, looked })
    }
}

#[cfg(test)]
mod tests;

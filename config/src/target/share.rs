//! Shares: what mount(2) of the crash kernel is told, such that nothing can wait for ever.

use crate::settings::ShareSettings;
use collector::plan::share::{ShareKind, ShareTarget};
use std::net::IpAddr;

/// What a share became.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Share {
    /// For the plan.
    pub target: ShareTarget,
    /// Modules that mount(2) asks for, besides that of the file system.
    pub modules: Vec<&'static str>,
    /// What the user should know, a sentence each.
    pub warnings: Vec<String>,
}

/// Why a share cannot be a target.
#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    /// Nobody has found the server's address.
    #[error("target nfs {0:?}: the server has no address")]
    Nowhere(String),
    /// Kerberos.
    #[error(
        "target nfs {0:?}: {1} needs a ticket, which a crash kernel cannot get: export a directory with sec=sys to this machine"
    )]
    Kerberos(String, String),
    /// Old.
    #[error("target nfs {0:?}: {1} is no version that the kernel speaks: expected vers=3, 4.0, 4.1 or 4.2")]
    Version(String, String),
}

/// Options that the crash kernel's own replace, or that are for mount(8) and fstab(5) alone.
const REPLACED: [&str; 24] = [
    "hard",
    "soft",
    "softerr",
    "timeo",
    "retrans",
    "retry",
    "bg",
    "fg",
    "addr",
    "clientaddr",
    "mountaddr",
    "rw",
    "ro",
    "defaults",
    "auto",
    "noauto",
    "nofail",
    "_netdev",
    "user",
    "users",
    "intr",
    "nointr",
    "lock",
    "nolock",
];

/// A server that does not answer is given up after 5, 10 and 15 seconds; data is never given up silently, as every write is
/// followed by an fsync.
const PATIENCE: &str = "soft,timeo=50,retrans=2";

/// The port of NFS.
pub const NFS_PORT: u16 = 2049;

/// The server that a share is on, and its export. An IPv6 address is in brackets, and has colons of its own.
fn parts(source: &str) -> (&str, &str) {
    match source.strip_prefix('[').and_then(|rest| rest.split_once("]:/")) {
        Some(parts) => parts,
        None => source.split_once(":/").unwrap_or((source, "")),
    }
}

/// The name or address of the server that a share is on, if it is on one.
#[must_use]
pub fn server(settings: &ShareSettings) -> Option<&str> {
    (settings.kind == ShareKind::Nfs).then(|| parts(&settings.source).0)
}

/// Resolves the settings of a share, whose server has this address; `scope` is the link of a link-local one.
pub fn resolve(
    settings: &ShareSettings,
    server: Option<IpAddr>,
    scope: Option<&str>,
) -> Result<Share, ShareError> {
    match settings.kind {
        ShareKind::Nfs => {
            nfs(settings, server.ok_or_else(|| ShareError::Nowhere(settings.source.clone()))?, scope)
        }
        ShareKind::Virtiofs => Ok(host_share(settings, "", &["virtio_pci"])),
        ShareKind::Plan9 => Ok(host_share(
            settings,
            "trans=virtio,version=9p2000.L,msize=512000",
            &["9pnet_virtio", "virtio_pci"],
        )),
    }
}

/// A share of the host of this virtual machine.
fn host_share(settings: &ShareSettings, default: &str, modules: &[&'static str]) -> Share {
    let target = ShareTarget {
        kind: settings.kind,
        source: settings.source.clone(),
        server: None,
        options: settings.options.clone().unwrap_or_else(|| default.to_owned()),
        directory: settings.path.clone(),
    };
    Share { target, modules: modules.to_vec(), warnings: Vec::new() }
}

fn nfs(settings: &ShareSettings, address: IpAddr, scope: Option<&str>) -> Result<Share, ShareError> {
    let source = &settings.source;
    let (_, export) = parts(source);
    let options = Options::parse(source, settings.options.as_deref().unwrap_or_default(), address, scope)?;
    let host = match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(_) => format!("[{}]", scoped(address, scope)),
    };
    let target = ShareTarget {
        kind: ShareKind::Nfs,
        source: format!("{host}:/{export}"),
        server: Some(address),
        options: options.text,
        directory: settings.path.clone(),
    };
    Ok(Share {
        target,
        modules: vec![if options.version == "3" { "nfsv3" } else { "nfsv4" }],
        warnings: options.warnings,
    })
}

/// The address as the kernel's NFS client takes it: `fe80::1%eth0`.
fn scoped(address: IpAddr, scope: Option<&str>) -> String {
    match scope {
        Some(scope) => format!("{address}%{scope}"),
        None => address.to_string(),
    }
}

struct Options {
    text: String,
    version: String,
    warnings: Vec<String>,
}

impl Options {
    fn parse(source: &str, given: &str, address: IpAddr, scope: Option<&str>) -> Result<Self, ShareError> {
        let mut version = "4.2".to_owned();
        let mut kept = Vec::new();
        let mut warnings = Vec::new();
        let mut protocol = false;
        for option in given.split(',').map(str::trim).filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            match name {
                "vers" | "nfsvers" => {
                    version = match value {
                        "3" => "3",
                        "4" | "4.0" => "4.0",
                        "4.1" => "4.1",
                        "4.2" => "4.2",
                        _ => return Err(ShareError::Version(source.to_owned(), option.to_owned())),
                    }
                    .to_owned();
                }
                "sec" if value.split(':').all(|flavour| flavour.starts_with("krb5")) => {
                    return Err(ShareError::Kerberos(source.to_owned(), option.to_owned()));
                }
                "sec" => kept.push("sec=sys".to_owned()),
                "hard" => warnings.push(format!(
                    "nfs {source}: `hard` would wait for ever for a dead server; the crash kernel mounts with {PATIENCE}"
                )),
                _ if REPLACED.contains(&name) || name.starts_with("x-") => {}
                "proto" => {
                    protocol = true;
                    kept.push(option.to_owned());
                }
                _ => kept.push(option.to_owned()),
            }
        }
        let server = scoped(address, scope);
        let mut text = format!("vers={version},{PATIENCE},addr={server}");
        let transport = if address.is_ipv6() { "tcp6" } else { "tcp" };
        if !protocol {
            text.push_str(&format!(",proto={transport}"));
        }
        if version == "3" {
            // Nobody else writes there, and no lock daemon runs in a crash kernel.
            text.push_str(&format!(",nolock,mountproto={transport},mountaddr={server}"));
        }
        for option in kept {
            text.push(',');
            text.push_str(&option);
        }
        Ok(Self { text, version, warnings })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(source: &str, options: Option<&str>) -> ShareSettings {
        ShareSettings {
            kind: ShareKind::Nfs,
            source: source.to_owned(),
            path: "/crash".to_owned(),
            options: options.map(str::to_owned),
        }
    }

    fn resolved(source: &str, options: Option<&str>) -> Result<Share, ShareError> {
        let settings = settings(source, options);
        let server = server(&settings).unwrap();
        let (address, scope) = server.split_once('%').map_or((server, None), |(a, s)| (a, Some(s)));
        resolve(&settings, address.parse().ok(), scope)
    }

    #[test]
    fn nothing_waits_for_ever() {
        for (source, options, mounted, text) in [
            (
                "192.0.2.7:/srv/x",
                None,
                "192.0.2.7:/srv/x",
                "vers=4.2,soft,timeo=50,retrans=2,addr=192.0.2.7,proto=tcp",
            ),
            (
                "192.0.2.7:/",
                Some("vers=3,hard,rsize=1048576,_netdev,x-systemd.automount"),
                "192.0.2.7:/",
                "vers=3,soft,timeo=50,retrans=2,addr=192.0.2.7,proto=tcp,nolock,mountproto=tcp,mountaddr=192.0.2.7,rsize=1048576",
            ),
            (
                "[2001:db8::7]:/srv",
                Some("nfsvers=4,sec=krb5:sys"),
                "[2001:db8::7]:/srv",
                "vers=4.0,soft,timeo=50,retrans=2,addr=2001:db8::7,proto=tcp6,sec=sys",
            ),
            (
                "[fe80::7%br7]:/srv",
                Some("vers=3"),
                "[fe80::7%br7]:/srv",
                "vers=3,soft,timeo=50,retrans=2,addr=fe80::7%br7,proto=tcp6,nolock,mountproto=tcp6,mountaddr=fe80::7%br7",
            ),
        ] {
            let share = resolved(source, options).unwrap();
            assert_eq!((share.target.source.as_str(), share.target.options.as_str()), (mounted, text));
            assert_eq!(
                share.warnings.len(),
                usize::from(options.is_some_and(|o| o.contains("hard"))),
                "{source}"
            );
        }
    }

    #[test]
    fn what_cannot_work_is_refused_now() {
        for (source, options, why) in
            [("192.0.2.7:/x", "sec=krb5p", "needs a ticket"), ("192.0.2.7:/x", "vers=2", "no version")]
        {
            let error = resolved(source, Some(options)).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}

//! The key that logs in: found, and checked for being usable by nobody who is there.

use super::{SshSettings, SshTargetError};
use initramfs::root::Root;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Where a key is looked for, in this order; the first is kdumpctl's.
pub const DEFAULT_KEYS: [&str; 2] = ["/root/.ssh/kdump_id_rsa", "/root/.ssh/kdump_id_ed25519"];

/// No key is longer.
const LONGEST: u64 = 64 << 10;

impl SshSettings {
    /// The key's file and its bytes.
    pub(super) fn find_key(
        &self,
        root: &Root,
        warnings: &mut Vec<String>,
    ) -> Result<(PathBuf, Vec<u8>), SshTargetError> {
        let candidates: Vec<&Path> = match &self.key {
            Some(key) => vec![key],
            None => DEFAULT_KEYS.iter().map(Path::new).collect(),
        };
        for path in &candidates {
            let Some(real) = root.real(path)? else { continue };
            let shown = path.display().to_string();
            let read = |source| initramfs::Error::Read { path: real.clone(), source };
            let meta = std::fs::metadata(&real).map_err(read)?;
            let bad = |why| SshTargetError::BadKey { path: shown.clone(), why };
            if !meta.is_file() || meta.len() > LONGEST {
                return Err(bad("it is no key file"));
            }
            let bytes = std::fs::read(&real).map_err(read)?;
            check(&bytes).map_err(bad)?;
            if meta.permissions().mode() & 0o077 != 0 {
                warnings.push(format!(
                    "key {shown} can be read by others (mode {:04o}): chmod 600 {shown}",
                    meta.permissions().mode() & 0o7777
                ));
            }
            return Ok(((*path).to_owned(), bytes));
        }
        let looked = candidates.iter().map(|p| p.display().to_string()).collect();
        Err(SshTargetError::NoKey { to: self.address.to_string(), looked })
    }
}

/// Whether a key works without anybody who types a passphrase or touches a token.
fn check(bytes: &[u8]) -> Result<(), &'static str> {
    const PASSPHRASE: &str = "it has a passphrase, and nobody is there to type it; make one without";
    let text = std::str::from_utf8(bytes).map_err(|_| "it is no private key")?;
    let Some(begin) = text.lines().find(|l| l.starts_with("-----BEGIN ")) else {
        let public = ["ssh-", "ecdsa-", "sk-"].iter().any(|p| text.starts_with(p));
        return Err(if public { "it is a public key; name the private one" } else { "it is no private key" });
    };
    if begin.contains("ENCRYPTED") || text.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(PASSPHRASE);
    }
    if !begin.contains("PRIVATE KEY") {
        return Err("it is no private key");
    }
    if !begin.contains("OPENSSH") {
        return Ok(());
    }
    // PROTOCOL.key: "openssh-key-v1\0", then the name of the cipher.
    let body: String = text.lines().filter(|l| !l.starts_with("-----")).collect();
    let blob = super::known_hosts::base64(&body).ok_or("it is damaged")?;
    let rest = blob.strip_prefix(b"openssh-key-v1\0").ok_or("it is damaged")?;
    match rest.get(..8) {
        Some(b"\0\0\0\x04none") => {}
        Some(_) => return Err(PASSPHRASE),
        None => return Err("it is damaged"),
    }
    if blob.windows(11).any(|w| w == b"sk-ssh-ed25" || w == b"sk-ecdsa-sh") {
        return Err("it is on a security key, and nobody is there to touch it");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn keys_that_work_alone() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str, arguments: &[&str]| {
            let path = dir.path().join(name);
            let made = Command::new("ssh-keygen").args(["-q", "-f"]).arg(&path).args(arguments).output();
            made.is_ok_and(|m| m.status.success()).then(|| std::fs::read(&path).unwrap())
        };
        let Some(plain) = make("plain", &["-t", "ed25519", "-N", ""]) else {
            assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "ssh-keygen is missing");
            eprintln!("SKIPPED: ssh-keygen is missing");
            return;
        };
        let pem = make("pem", &["-t", "rsa", "-b", "2048", "-m", "PEM", "-N", ""]).unwrap();
        let locked = make("locked", &["-t", "ed25519", "-N", "secret"]).unwrap();
        let locked_pem =
            make("lockedpem", &["-t", "rsa", "-b", "2048", "-m", "PEM", "-N", "secret"]).unwrap();
        assert_eq!(check(&plain), Ok(()));
        assert_eq!(check(&pem), Ok(()));
        for key in [locked, locked_pem] {
            assert!(check(&key).unwrap_err().contains("passphrase"));
        }
        let public = std::fs::read(dir.path().join("plain.pub")).unwrap();
        assert!(check(&public).unwrap_err().contains("public key"));
        for (bytes, why) in [
            (&b"hello"[..], "no private key"),
            (b"\xff\xfe", "no private key"),
            (b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n", "damaged"),
            (b"-----BEGIN OPENSSH PRIVATE KEY-----\n!!\n", "damaged"),
            (b"-----BEGIN CERTIFICATE-----\n", "no private key"),
        ] {
            assert!(check(bytes).unwrap_err().contains(why));
        }
    }
}

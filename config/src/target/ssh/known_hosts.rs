//! Host keys that somebody has accepted, as sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT", has them.
//!
//! ```text
//! [@cert-authority | @revoked] patterns|hashed-name keytype base64 [comment]
//! ```

use sha1::{Digest, Sha1};
use sha2::Sha256;

/// What a file says of one server.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Pinned {
    /// Keys: type and base64.
    pub keys: Vec<(String, String)>,
    /// Keys that sign the server's.
    pub authorities: Vec<(String, String)>,
    /// Keys that are never to be believed again, of whomever.
    pub revoked: Vec<(String, String)>,
    /// There were keys, and they are among `revoked`.
    pub all_revoked: bool,
}

impl Pinned {
    /// What `text` says of the server `name` at `port`.
    pub fn find(text: &str, name: &str, port: u16) -> Self {
        let name = name.to_ascii_lowercase();
        // As ssh writes them down and looks them up.
        let name = if port == 22 { name } else { format!("[{name}]:{port}") };
        let mut pinned = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace().peekable();
            let marker = words.next_if(|w| w.starts_with('@'));
            let (Some(names), Some(kind), Some(key)) = (words.next(), words.next(), words.next()) else {
                continue;
            };
            if names.starts_with('#') || base64(key).is_none_or(|blob| !is_of(&blob, kind)) {
                continue;
            }
            let list = match marker {
                None => &mut pinned.keys,
                Some("@cert-authority") => &mut pinned.authorities,
                Some("@revoked") => &mut pinned.revoked,
                Some(_) => continue,
            };
            let entry = (kind.to_owned(), key.to_owned());
            if names_match(names, &name) && !list.contains(&entry) {
                list.push(entry);
            }
        }
        let had = !pinned.keys.is_empty();
        let revoked = pinned.revoked.clone();
        pinned.keys.retain(|key| !revoked.contains(key));
        pinned.authorities.retain(|key| !revoked.contains(key));
        pinned.all_revoked = had && pinned.keys.is_empty() && pinned.authorities.is_empty();
        pinned
    }

    /// Whether a server could be recognised by it.
    pub fn is_usable(&self) -> bool {
        !self.keys.is_empty() || !self.authorities.is_empty()
    }

    /// A known_hosts file that says the same of the server under the name `alias`, and nothing of others.
    pub fn file(&self, alias: &str) -> String {
        let lines = |marker: &str, list: &[(String, String)]| {
            list.iter().map(|(kind, key)| format!("{marker}{alias} {kind} {key}\n")).collect::<String>()
        };
        lines("", &self.keys)
            + &lines("@cert-authority ", &self.authorities)
            + &lines("@revoked ", &self.revoked)
    }

    /// The keys for people to compare: `ED25519 SHA256:…`.
    pub fn fingerprints(&self) -> Vec<String> {
        self.keys
            .iter()
            .map(|(kind, key)| fingerprint(kind, key))
            .chain(self.authorities.iter().map(|(kind, key)| format!("authority {}", fingerprint(kind, key))))
            .collect()
    }
}

/// `ED25519 SHA256:…`, as ssh-keygen -l shows a key.
pub fn fingerprint(kind: &str, key: &str) -> String {
    let name = match kind {
        "ssh-rsa" => "RSA",
        "ssh-ed25519" => "ED25519",
        kind if kind.starts_with("ecdsa-") => "ECDSA",
        other => other,
    };
    let hash = Sha256::digest(base64(key).unwrap_or_default());
    format!("{name} SHA256:{}", unpadded(&hash))
}

/// Whether a key's blob says that it is of this type.
fn is_of(blob: &[u8], kind: &str) -> bool {
    let Some((len, rest)) = blob.split_first_chunk::<4>() else { return false };
    let len = usize::try_from(u32::from_be_bytes(*len)).unwrap_or(usize::MAX);
    rest.get(..len) == Some(kind.as_bytes())
}

fn names_match(names: &str, name: &str) -> bool {
    if let Some(hashed) = names.strip_prefix("|1|") {
        let Some((salt, hash)) = hashed.split_once('|') else { return false };
        let (Some(salt), Some(hash)) = (base64(salt), base64(hash)) else { return false };
        return hmac_sha1(&salt, name.as_bytes()).as_slice() == hash;
    }
    let mut found = false;
    for pattern in names.split(',') {
        let pattern = pattern.to_ascii_lowercase();
        match pattern.strip_prefix('!') {
            // A name that is excluded is so whatever else matches.
            Some(not) if glob(not.as_bytes(), name.as_bytes()) => return false,
            Some(_) => {}
            None => found |= glob(pattern.as_bytes(), name.as_bytes()),
        }
    }
    found
}

/// `*` and `?`; linear in both lengths but for the stars.
fn glob(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    // Where the last star is, and what it has taken so far.
    let mut star = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == b'?' || Some(c) == name.get(n) => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    p = at + 1;
                    n = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern.get(p..).unwrap_or_default().iter().all(|c| *c == b'*')
}

/// RFC 2104.
fn hmac_sha1(key: &[u8], text: &[u8]) -> Vec<u8> {
    const BLOCK: usize = 64;
    let mut padded = [0; BLOCK];
    let short = Sha1::digest(key);
    let key = if key.len() > BLOCK { short.as_slice() } else { key };
    for (to, from) in padded.iter_mut().zip(key) {
        *to = *from;
    }
    let inner = Sha1::new().chain_update(padded.map(|b| b ^ 0x36)).chain_update(text).finalize();
    Sha1::new().chain_update(padded.map(|b| b ^ 0x5c)).chain_update(inner).finalize().to_vec()
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Decodes RFC 4648's base64; `None` where it is none.
pub(super) fn base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    if digits.len() % 4 == 1 || text.len() - digits.len() > 2 {
        return None;
    }
    let mut out = Vec::with_capacity(digits.len() / 4 * 3 + 2);
    let (mut bits, mut count) = (0_u32, 0);
    for digit in digits.bytes() {
        let value = ALPHABET.iter().position(|c| *c == digit)?;
        bits = (bits << 6 | u32::try_from(value).ok()?) & 0xff_ffff;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push(u8::try_from(bits >> count & 0xff).ok()?);
        }
    }
    Some(out)
}

/// Base64 without `=`, as fingerprints have it.
fn unpadded(bytes: &[u8]) -> String {
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let mut three = [0; 4];
        for (to, from) in three.iter_mut().skip(1).zip(chunk) {
            *to = *from;
        }
        let bits = u32::from_be_bytes(three);
        for digit in 0..=chunk.len() {
            let at = usize::try_from(bits >> (18 - 6 * digit) & 63).unwrap_or(0);
            out.extend(ALPHABET.get(at).map(|c| char::from(*c)));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIGBUIqJLYC3vFqyn4pTqwBWMcWPeQIuyBpPRQ0JBxNyc";
    const B: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8g";

    #[test]
    fn entries_are_found_as_ssh_finds_them() {
        let ed = |key: &str| format!("ssh-ed25519 {key}");
        for (line, name, port, found) in [
            (format!("dumps {}", ed(A)), "dumps", 22, true),
            (format!("dumps {} a comment", ed(A)), "DUMPS", 22, true),
            (format!("dumps {}", ed(A)), "dump", 22, false),
            (format!("dumps {}", ed(A)), "dumps", 2222, false),
            (format!("[dumps]:2222,10.0.0.1 {}", ed(A)), "dumps", 2222, true),
            (format!("*.example.org,!bad.example.org {}", ed(A)), "a.example.org", 22, true),
            (format!("*.example.org,!bad.example.org {}", ed(A)), "bad.example.org", 22, false),
            (format!("d?mps* {}", ed(A)), "dumps1", 22, true),
            (format!("# dumps {}", ed(A)), "dumps", 22, false),
            (format!("#dumps {}", ed(A)), "#dumps", 22, false),
            ("dumps ssh-ed25519".to_owned(), "dumps", 22, false),
            (format!("dumps ssh-rsa {A}"), "dumps", 22, false),
            ("dumps ssh-ed25519 !!!!".to_owned(), "dumps", 22, false),
            (format!("@strange dumps {}", ed(A)), "dumps", 22, false),
        ] {
            let pinned = Pinned::find(&line, name, port);
            assert_eq!(!pinned.keys.is_empty(), found, "{line} {name} {port}");
        }
    }

    /// HMAC-SHA1, RFC 2202 test cases 1, 2 and 6.
    #[test]
    fn names_are_hashed_as_they_should_be() {
        let hex = |b: Vec<u8>| b.iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(hex(hmac_sha1(&[0x0b; 20], b"Hi There")), "b617318655057264e28bc0b6fb378c8ef146be00");
        assert_eq!(
            hex(hmac_sha1(b"Jefe", b"what do ya want for nothing?")),
            "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"
        );
        assert_eq!(
            hex(hmac_sha1(&[0xaa; 80], b"Test Using Larger Than Block-Size Key - Hash Key First")),
            "aa4ae5e15272d00e95705637ce8a3b55ed402112"
        );
    }

    /// ssh-keygen hashes a file, and knows what is in it.
    #[test]
    fn hashed_names_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("known_hosts");
        std::fs::write(&path, format!("dumps ssh-ed25519 {A}\n[dumps]:2222 ssh-ed25519 {B}\n")).unwrap();
        let hashed = std::process::Command::new("ssh-keygen").args(["-q", "-H", "-f"]).arg(&path).output();
        if !hashed.is_ok_and(|h| h.status.success()) {
            assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "ssh-keygen is missing");
            eprintln!("SKIPPED: ssh-keygen is missing");
            return;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("|1|") && !text.contains("dumps"), "{text}");
        assert_eq!(Pinned::find(&text, "dumps", 22).keys, [("ssh-ed25519".to_owned(), A.to_owned())]);
        assert_eq!(Pinned::find(&text, "dumps", 2222).keys, [("ssh-ed25519".to_owned(), B.to_owned())]);
        assert!(!Pinned::find(&text, "other", 22).is_usable());
        let shown = std::process::Command::new("ssh-keygen").args(["-l", "-f"]).arg(&path).output().unwrap();
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        let ours = fingerprint("ssh-ed25519", A);
        assert!(shown.contains(ours.strip_prefix("ED25519 ").unwrap()), "{shown} {ours}");
    }

    #[test]
    fn revoked_keys_are_out_and_authorities_in() {
        let text = format!(
            "dumps ssh-ed25519 {A}\n@revoked * ssh-ed25519 {A}\n@cert-authority *.example.org ssh-ed25519 {B}\n"
        );
        let pinned = Pinned::find(&text, "dumps", 22);
        assert!(!pinned.is_usable() && pinned.all_revoked);
        let pinned = Pinned::find(&text, "a.example.org", 22);
        assert!(pinned.is_usable() && !pinned.all_revoked);
        assert_eq!(
            pinned.file("a.example.org"),
            format!(
                "@cert-authority a.example.org ssh-ed25519 {B}\n@revoked a.example.org ssh-ed25519 {A}\n"
            )
        );
        assert!(pinned.fingerprints()[0].starts_with("authority ED25519 SHA256:"));
    }

    #[test]
    fn base64_goes_round() {
        for bytes in [&b""[..], b"a", b"ab", b"abc", b"\xff\xfe\xfd\xfc"] {
            let text = unpadded(bytes);
            assert_eq!(base64(&text).unwrap(), bytes);
            assert_eq!(base64(&format!("{text}{}", "=".repeat((4 - text.len() % 4) % 4))).unwrap(), bytes);
        }
        assert_eq!(unpadded(b"hello"), "aGVsbG8");
        for text in ["a", "a===", "a b=", "\u{e9}abc"] {
            assert_eq!(base64(text), None, "{text}");
        }
    }

    #[test]
    fn globs_with_many_stars_end() {
        assert!(!glob(&b"*a".repeat(50), &b"a".repeat(49)));
        assert!(glob(b"***", b""));
    }
}

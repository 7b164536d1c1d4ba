//! What the machine's own ssh client makes of an address, and which algorithms its policy allows.

use super::{PROGRAM, SshAddress, SshTargetError};
use initramfs::root::Root;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

/// A server as the client reaches it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Client {
    /// Who to log in as.
    pub user: String,
    /// The name or address that is connected to.
    pub hostname: String,
    /// Its port.
    pub port: u16,
    /// The name that its host keys are kept under.
    pub alias: String,
    /// Algorithms, as `Name=value`.
    pub options: Vec<String>,
}

/// Settings whose values a machine's policy may narrow (crypto-policies, ssh_config), as `ssh -G` and ssh_config call
/// them.
const ALGORITHMS: [(&str, &str); 5] = [
    ("kexalgorithms", "KexAlgorithms"),
    ("hostkeyalgorithms", "HostKeyAlgorithms"),
    ("macs", "MACs"),
    ("pubkeyacceptedalgorithms", "PubkeyAcceptedAlgorithms"),
    ("casignaturealgorithms", "CASignatureAlgorithms"),
];

impl Client {
    /// Asks `ssh -G`. Below an injected root, where nothing is run, an address is what it says.
    pub(super) fn read(address: &SshAddress, root: &Root) -> Result<Self, SshTargetError> {
        let fast = has_aes(&root.read("/proc/cpuinfo")?.unwrap_or_default());
        if root.path("/") != Path::new("/") {
            return Self::of(address, &BTreeMap::new(), &BTreeMap::new(), fast);
        }
        if !root.exists(PROGRAM)? {
            return Err(SshTargetError::NoClient);
        }
        let own = ask(address, &["-F", "none"])?;
        Self::of(address, &ask(address, &[])?, &own, fast)
    }

    fn of(
        address: &SshAddress,
        says: &BTreeMap<String, String>,
        by_itself: &BTreeMap<String, String>,
        fast: bool,
    ) -> Result<Self, SshTargetError> {
        for (key, name) in [("proxyjump", "ProxyJump"), ("proxycommand", "ProxyCommand")] {
            if let Some(value) = says.get(key).filter(|v| *v != "none") {
                let what = format!("{name} {value}");
                return Err(SshTargetError::Proxied { host: address.host.clone(), what });
            }
        }
        let hostname = says.get("hostname").cloned().unwrap_or_else(|| address.host.clone());
        let mut options = Vec::new();
        if let Some(ciphers) = says.get("ciphers") {
            options.push(format!("Ciphers={}", fastest_first(ciphers, fast)));
        }
        for (key, name) in ALGORITHMS {
            if let Some(value) = says.get(key).filter(|v| by_itself.get(key) != Some(v)) {
                options.push(format!("{name}={value}"));
            }
        }
        Ok(Self {
            user: address.user.clone(),
            alias: says.get("hostkeyalias").cloned().unwrap_or_else(|| hostname.clone()).to_ascii_lowercase(),
            hostname,
            port: address.port.or_else(|| says.get("port")?.parse().ok()).unwrap_or(22),
            options,
        })
    }
}

/// The settings that the client would use.
fn ask(address: &SshAddress, more: &[&str]) -> Result<BTreeMap<String, String>, SshTargetError> {
    let failed = |why: String| SshTargetError::Program { program: "ssh -G", why };
    let mut command = Command::new(PROGRAM);
    command.arg("-G").args(more);
    if let Some(port) = address.port {
        command.args(["-p", &port.to_string()]);
    }
    let done = command
        .args(["-l", &address.user, "--", &address.host])
        // root's, whoever's home it was called with.
        .env("HOME", "/root")
        .stdin(Stdio::null())
        .output()
        .map_err(|e| failed(e.to_string()))?;
    if !done.status.success() {
        return Err(failed(String::from_utf8_lossy(&done.stderr).trim().to_owned()));
    }
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let pair = |line: &str| line.split_once(' ').map(|(k, v)| (k.to_ascii_lowercase(), v.trim().to_owned()));
    Ok(text.lines().filter_map(pair).collect())
}

fn has_aes(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().filter_map(|l| l.split_once(':')).find(|(name, _)| {
        let name = name.trim();
        name == "flags" || name == "Features"
    });
    flags.is_some_and(|(_, flags)| flags.split_whitespace().any(|f| f == "aes"))
}

/// The same ciphers, those first that this CPU is fastest at.
fn fastest_first(ciphers: &str, aes: bool) -> String {
    let rank = |cipher: &str| match (aes, cipher) {
        (true, "aes128-gcm@openssh.com") => 0,
        (true, "aes256-gcm@openssh.com") => 1,
        (false, "chacha20-poly1305@openssh.com") => 0,
        _ => 2,
    };
    let mut list: Vec<&str> = ciphers.split(',').collect();
    list.sort_by_key(|cipher| rank(cipher));
    list.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn the_machines_policy_goes_along() {
        let address: SshAddress = "root@dumps".parse().unwrap();
        let policy = says(&[
            ("hostname", "dumps.example.org"),
            ("port", "2222"),
            ("proxyjump", "none"),
            (
                "ciphers",
                "chacha20-poly1305@openssh.com,aes128-ctr,aes256-gcm@openssh.com,aes128-gcm@openssh.com",
            ),
            ("macs", "hmac-sha2-256"),
            ("kexalgorithms", "ecdh-sha2-nistp256"),
        ]);
        let own = says(&[("macs", "hmac-sha2-256"), ("kexalgorithms", "curve25519-sha256")]);
        let client = Client::of(&address, &policy, &own, true).unwrap();
        assert_eq!((client.hostname.as_str(), client.port), ("dumps.example.org", 2222));
        assert_eq!(client.alias, "dumps.example.org");
        assert_eq!(
            client.options,
            [
                "Ciphers=aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com,aes128-ctr",
                "KexAlgorithms=ecdh-sha2-nistp256"
            ]
        );
        let proxied = says(&[("proxyjump", "bastion")]);
        let error = Client::of(&address, &proxied, &own, true).unwrap_err().to_string();
        assert!(error.contains("through ProxyJump bastion"), "{error}");
        let bare = Client::of(&address, &BTreeMap::new(), &BTreeMap::new(), false).unwrap();
        assert_eq!((bare.port, bare.alias.as_str(), bare.options.len()), (22, "dumps", 0));
    }

    #[test]
    fn ciphers_suit_the_cpu() {
        assert!(has_aes("processor\t: 0\nflags\t\t: fpu aes sse\n"));
        assert!(!has_aes("flags : fpu vaes\n"));
        assert_eq!(
            fastest_first("aes128-ctr,aes128-gcm@openssh.com,chacha20-poly1305@openssh.com", false),
            "chacha20-poly1305@openssh.com,aes128-ctr,aes128-gcm@openssh.com"
        );
    }
}

//! From what the settings call a host to addresses.
//!
//! This program may be static, and a static glibc resolves no names without the very libraries it was linked against; so
//! /etc/hosts is read here, and for the rest `getent`, which every distribution has, asks what the system's own programs
//! would be told.

use super::NetworkError;
use initramfs::root::Root;
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// One address of a target.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Destination {
    /// What the settings call it.
    pub host: String,
    /// Its address.
    pub address: IpAddr,
    /// The link of a link-local address.
    pub link: Option<String>,
    /// The port, for routes that depend on it; 0 for none.
    pub port: u16,
}

/// How long names are waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// The addresses of a host, in the order in which the system would try them: a name, an address, an IPv6 address in brackets,
/// a link-local one with its link: `fe80::1%eth0`.
pub fn resolve(host: &str, port: u16, root: &Root) -> Result<Vec<Destination>, NetworkError> {
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    let wrong = |why: &str| NetworkError::Name { host: host.to_owned(), why: why.to_owned() };
    let to = |(address, link)| Destination { host: host.to_owned(), address, link, port };
    let found: Vec<_> = match literal(bare) {
        Some(one) => vec![one],
        None if !is_name(bare) => return Err(wrong("it is neither a name nor an address")),
        None => {
            let hosts = root.read("/etc/hosts")?.unwrap_or_default();
            match of_hosts(&hosts, bare) {
                found if found.is_empty() => getent(bare).map_err(|why| wrong(&why))?,
                found => found,
            }
        }
    };
    found
        .into_iter()
        .map(to)
        .map(|one| {
            let local = matches!(one.address, IpAddr::V6(a) if a.is_unicast_link_local());
            if local && one.link.is_none() { Err(NetworkError::NoScope(one.address)) } else { Ok(one) }
        })
        .collect()
}

/// An address, and the link behind a `%`.
fn literal(text: &str) -> Option<(IpAddr, Option<String>)> {
    let (address, link) = text.split_once('%').map_or((text, None), |(a, l)| (a, Some(l)));
    let address: IpAddr = address.parse().ok()?;
    match link {
        None => Some((address, None)),
        Some(link) if address.is_ipv6() && !link.is_empty() && !link.contains('/') => {
            Some((address, Some(link.to_owned())))
        }
        Some(_) => None,
    }
}

/// Whether it can be the name of a host, and nothing that a program takes for an option.
fn is_name(text: &str) -> bool {
    let allowed = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
    !text.is_empty() && text.len() <= 253 && text.chars().all(allowed) && !text.starts_with('-')
}

fn of_hosts(text: &str, name: &str) -> Vec<(IpAddr, Option<String>)> {
    let mut found = Vec::new();
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        if let Some(address) = words.next().and_then(literal)
            && words.any(|word| word.eq_ignore_ascii_case(name))
            && !found.contains(&address)
        {
            found.push(address);
        }
    }
    found
}

fn getent(name: &str) -> Result<Vec<(IpAddr, Option<String>)>, String> {
    let cannot = |e: std::io::Error| format!("getent cannot be run ({e})");
    let mut child = Command::new("getent")
        .args(["ahosts", name])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(cannot)?;
    let until = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait().map_err(cannot)? {
            Some(status) => break status,
            None if Instant::now() < until => std::thread::sleep(Duration::from_millis(20)),
            None => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("no answer within {} s", PATIENCE.as_secs()));
            }
        }
    };
    let output = child.wait_with_output().map_err(cannot)?;
    let found = of_getent(&String::from_utf8_lossy(&output.stdout));
    if found.is_empty() { Err(format!("no such host (getent ahosts: {status})")) } else { Ok(found) }
}

fn of_getent(text: &str) -> Vec<(IpAddr, Option<String>)> {
    let mut found = Vec::new();
    for line in text.lines() {
        if let Some(address) = line.split_whitespace().next().and_then(literal)
            && !found.contains(&address)
        {
            found.push(address);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_addresses_names_or_nothing() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        let hosts = "# 10.0.0.1 dump\n10.0.0.2 dump.example Dump # dump2\n2001:db8::2 dump\nfe80::3%eth1 near\nfe80::4 far\n";
        std::fs::write(root.path().join("etc/hosts"), hosts).unwrap();
        let root = Root::new(root.path());
        let shown = |host: &str| match resolve(host, 22, &root) {
            Ok(found) => found
                .iter()
                .map(|d| {
                    format!("{}{}", d.address, d.link.as_ref().map(|l| format!("%{l}")).unwrap_or_default())
                })
                .collect::<Vec<_>>()
                .join(" "),
            Err(e) => e.to_string(),
        };
        for (host, expected) in [
            ("10.0.0.9", "10.0.0.9"),
            ("[2001:db8::9]", "2001:db8::9"),
            ("fe80::1%eth0", "fe80::1%eth0"),
            ("[fe80::1%br0.7]", "fe80::1%br0.7"),
            ("dump", "10.0.0.2 2001:db8::2"),
            ("DUMP.example", "10.0.0.2"),
            ("near", "fe80::3%eth1"),
        ] {
            assert_eq!(shown(host), expected, "{host}");
        }
        for (host, part) in [
            ("fe80::1", "write fe80::1%LINK"),
            ("far", "link-local"),
            ("-f", "neither a name nor an address"),
            ("a b", "neither a name nor an address"),
            ("", "neither a name nor an address"),
            ("10.0.0.1%eth0", "neither a name nor an address"),
            ("a/b", "neither a name nor an address"),
        ] {
            assert!(shown(host).contains(part), "{host}: {}", shown(host));
        }
    }

    #[test]
    fn getents_answers() {
        let text = "10.0.0.2 STREAM dump\n10.0.0.2 DGRAM\n2001:db8::2 STREAM\n\nnonsense\n";
        let found: Vec<_> = of_getent(text).into_iter().map(|(a, _)| a.to_string()).collect();
        assert_eq!(found, ["10.0.0.2", "2001:db8::2"]);
    }
}

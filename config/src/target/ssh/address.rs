//! `user@host`, as the settings and the command line have it.

use std::fmt;
use std::str::FromStr;

/// A user on a server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SshAddress {
    /// Who to log in as.
    pub user: String,
    /// A name, an address, or a link-local address with its link; without brackets.
    pub host: String,
    /// Its port, where one was given.
    pub port: Option<u16>,
}

/// A text that is none.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0:?} is no SSH address: {1}; expected user@host, user@host:port or user@[IPv6]:port")]
pub struct BadAddress(pub String, pub &'static str);

impl FromStr for SshAddress {
    type Err = BadAddress;
    fn from_str(text: &str) -> Result<Self, BadAddress> {
        let bad = |why| BadAddress(text.to_owned(), why);
        let plain = text.strip_prefix("ssh://").unwrap_or(text);
        let (user, place) = plain.rsplit_once('@').ok_or_else(|| bad("it names no user"))?;
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '@' | '\\' | '+');
        if user.is_empty() || user.starts_with('-') || !user.chars().all(allowed) {
            return Err(bad("that is no user"));
        }
        let (host, port) = match place.strip_prefix('[') {
            Some(rest) => {
                let (host, after) = rest.split_once(']').ok_or_else(|| bad("a bracket is not closed"))?;
                let port = match after {
                    "" => None,
                    after => Some(
                        after.strip_prefix(':').ok_or_else(|| bad("nothing but a port goes behind it"))?,
                    ),
                };
                (host, port)
            }
            // Several colons are an IPv6 address.
            None => match place.split_once(':') {
                Some((host, port)) if !port.contains(':') => (host, Some(port)),
                _ => (place, None),
            },
        };
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
        if host.is_empty() || host.starts_with('-') || !host.chars().all(fits) {
            return Err(bad("that is no host"));
        }
        let port = match port {
            None => None,
            Some(port) => match port.parse() {
                Ok(port) if port > 0 => Some(port),
                _ => return Err(bad("that is no port")),
            },
        };
        // ssh looks host keys up in lower case.
        Ok(Self { user: user.to_owned(), host: host.to_ascii_lowercase(), port })
    }
}

impl fmt::Display for SshAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { user, host, port } = self;
        match (host.contains(':'), port) {
            (false, None) => write!(f, "{user}@{host}"),
            (false, Some(port)) => write!(f, "{user}@{host}:{port}"),
            (true, None) => write!(f, "{user}@[{host}]"),
            (true, Some(port)) => write!(f, "{user}@[{host}]:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, user, host, port, shown) in [
            ("root@dumps", "root", "dumps", None, "root@dumps"),
            (
                "kdump@Dumps.Example.org:2222",
                "kdump",
                "dumps.example.org",
                Some(2222),
                "kdump@dumps.example.org:2222",
            ),
            ("root@10.0.0.1", "root", "10.0.0.1", None, "root@10.0.0.1"),
            ("root@[2001:db8::1]:22", "root", "2001:db8::1", Some(22), "root@[2001:db8::1]:22"),
            ("root@2001:db8::1", "root", "2001:db8::1", None, "root@[2001:db8::1]"),
            ("root@[fe80::1%eth0]", "root", "fe80::1%eth0", None, "root@[fe80::1%eth0]"),
            ("ssh://me@realm@host", "me@realm", "host", None, "me@realm@host"),
        ] {
            let address: SshAddress = text.parse().unwrap();
            assert_eq!(address, SshAddress { user: user.into(), host: host.into(), port }, "{text}");
            assert_eq!(address.to_string(), shown);
        }
        for (text, why) in [
            ("dumps", "names no user"),
            ("@dumps", "no user"),
            ("-oProxyCommand=x@dumps", "no user"),
            ("root@", "no host"),
            ("root@-oProxyCommand=x", "no host"),
            ("root@a b", "no host"),
            ("root@host:0", "no port"),
            ("root@host:x", "no port"),
            ("root@[::1", "not closed"),
            ("root@[::1]x", "nothing but a port"),
            ("root@host:/var/crash", "no port"),
        ] {
            let error = text.parse::<SshAddress>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}

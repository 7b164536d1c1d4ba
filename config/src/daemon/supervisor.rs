//! What systemd is told: sd_notify(3), a datagram of lines.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// systemd, or nobody.
#[derive(Debug)]
pub struct Supervisor {
    to: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
    fed: Mutex<Instant>,
}

impl Supervisor {
    /// As NOTIFY_SOCKET and WATCHDOG_USEC say.
    pub fn from_environment() -> Self {
        let name = std::env::var("NOTIFY_SOCKET").ok();
        let limit = std::env::var("WATCHDOG_USEC").ok().and_then(|text| text.parse().ok());
        Self::new(name.as_deref(), limit.map(Duration::from_micros))
    }

    /// That hears at this address (`@` begins an abstract one), and expects to hear within the limit.
    pub(super) fn new(name: Option<&str>, watchdog: Option<Duration>) -> Self {
        let address = name.and_then(|name| match name.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name).ok(),
            None => SocketAddr::from_pathname(name).ok(),
        });
        let to = address.and_then(|address| Some((UnixDatagram::unbound().ok()?, address)));
        Self { to, watchdog, fed: Mutex::new(Instant::now()) }
    }

    fn send(&self, lines: &str) {
        if let Some((socket, address)) = &self.to
            && let Err(e) = socket.send_to_addr(lines.as_bytes(), address)
        {
            log::warn!("systemd cannot be told {lines:?}: {e}");
        }
    }

    /// It has started.
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={}", one_line(status)));
    }

    /// What it is doing.
    pub fn status(&self, status: &str) {
        self.send(&format!("STATUS={}", one_line(status)));
    }

    /// When [`Self::alive`] is to be called at the latest.
    pub fn next(&self) -> Option<Instant> {
        let fed = self.fed.lock().ok()?;
        self.watchdog.map(|limit| *fed + limit / 3)
    }

    /// It is alive.
    pub fn alive(&self) {
        if self.watchdog.is_some()
            && let Ok(mut fed) = self.fed.lock()
        {
            *fed = Instant::now();
            self.send("WATCHDOG=1");
        }
    }
}

fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemd_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let supervisor = Supervisor::new(path.to_str(), Some(Duration::from_secs(30)));
        let heard = || {
            let mut bytes = [0; 200];
            let length = socket.recv(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes[..length]).into_owned()
        };
        supervisor.ready("a\nb");
        assert_eq!(heard(), "READY=1\nSTATUS=a b");
        supervisor.alive();
        assert_eq!(heard(), "WATCHDOG=1");
        assert!(supervisor.next().unwrap() <= Instant::now() + Duration::from_secs(10));
        assert_eq!(Supervisor::new(None, None).next(), None);
    }
}

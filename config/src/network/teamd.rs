//! How a team runs, which only its daemon knows: the kernel's driver knows LACP as one more way to spread packets.

use initramfs::root::Root;
use nix::sys::socket::sockopt::{ReceiveTimeout, SendTimeout};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, send, setsockopt, socket,
};
use nix::sys::time::TimeVal;
use std::os::fd::AsRawFd;

/// Seconds that the daemon has for its answer.
const PATIENCE: i64 = 2;

/// The longest configuration that is read.
const LONGEST: usize = 64 << 10;

/// How a team spreads packets, and what matters of it for a bond in its place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Team {
    /// teamd's word: `activebackup`, `lacp`.
    pub(super) runner: String,
    /// Ports without which an LACP team has no carrier.
    pub(super) min_ports: u32,
}

/// Files that some set-ups keep what they told the daemon in.
pub(super) fn files(team: &str) -> [String; 2] {
    [format!("/run/teamd/{team}.conf"), format!("/etc/teamd/{team}.conf")]
}

/// Asks the daemon, as `teamdctl TEAM config dump actual` does; where none answers, the files. `None` where nobody tells.
pub(super) fn team(name: &str, root: &Root) -> Result<Option<Team>, initramfs::Error> {
    if let Some(team) = asked(name, root).as_deref().and_then(parse) {
        return Ok(Some(team));
    }
    for path in files(name) {
        if let Some(text) = root.read(path)? {
            return Ok(parse(&text));
        }
    }
    Ok(None)
}

/// The daemon's answer. NetworkManager gives it its configuration as an argument, so that no file has it.
fn asked(name: &str, root: &Root) -> Option<String> {
    let ask = || -> nix::Result<Vec<u8>> {
        let to = UnixAddr::new(&root.path(format!("/run/teamd/{name}.sock")))?;
        let daemon = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
        let patience = TimeVal::new(PATIENCE, 0);
        setsockopt(&daemon, ReceiveTimeout, &patience)?;
        setsockopt(&daemon, SendTimeout, &patience)?;
        connect(daemon.as_raw_fd(), &to)?;
        send(daemon.as_raw_fd(), b"REQUEST\nConfigDumpActual\n", MsgFlags::MSG_NOSIGNAL)?;
        let mut answer = vec![0; LONGEST];
        let len = recv(daemon.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        answer.truncate(len);
        Ok(answer)
    };
    let answer = ask().inspect_err(|e| log::debug!("asking the daemon of team {name}: {e}")).ok()?;
    String::from_utf8(answer).ok()?.strip_prefix("REPLY_SUCCESS\n").map(str::to_owned)
}

/// teamd.conf(5), which is JSON. Without a runner it is the first of the kernel's.
fn parse(text: &str) -> Option<Team> {
    let config: serde_json::Value = serde_json::from_str(text.trim_end_matches('\0')).ok()?;
    let runner = config.as_object()?.get("runner");
    let name = match runner {
        None => "roundrobin",
        Some(runner) => runner.get("name")?.as_str()?,
    };
    let min_ports = runner.and_then(|r| r.get("min_ports")).and_then(serde_json::Value::as_u64);
    name.bytes().all(|b| b.is_ascii_alphanumeric()).then(|| Team {
        runner: name.to_owned(),
        min_ports: min_ports.and_then(|n| n.try_into().ok()).unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{Backlog, accept, bind, listen};

    #[test]
    fn configurations_are_read() {
        let team = |runner: &str, min_ports| Some(Team { runner: runner.to_owned(), min_ports });
        for (text, wanted) in [
            ("{\"device\": \"team0\"}", team("roundrobin", 0)),
            ("{\"runner\": {\"name\": \"lacp\", \"min_ports\": 2}}\n\0", team("lacp", 2)),
            ("{\"runner\": {\"name\": \"lacp\", \"min_ports\": -1}}", team("lacp", 0)),
            ("{\"runner\": {}}", None),
            ("{\"runner\": 1}", None),
            ("{\"runner\": {\"name\": \"a b\"}}", None),
            ("[]", None),
            ("no json", None),
        ] {
            assert_eq!(parse(text), wanted, "{text}");
        }
    }

    /// What is told while a daemon says something once, to who asks what teamd is asked.
    fn told_by(root: &Root, name: &str, says: &[u8]) -> Option<Team> {
        let path = root.path(format!("/run/teamd/{name}.sock"));
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).unwrap();
        bind(socket.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        listen(&socket, Backlog::new(1).unwrap()).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let from = accept(socket.as_raw_fd()).unwrap();
                let mut asked = [0; 100];
                let len = recv(from, &mut asked, MsgFlags::empty()).unwrap();
                assert_eq!(asked.get(..len).unwrap(), b"REQUEST\nConfigDumpActual\n");
                send(from, says, MsgFlags::MSG_NOSIGNAL).unwrap();
                nix::unistd::close(from).unwrap();
            });
            team(name, root).unwrap()
        })
    }

    #[test]
    fn the_daemon_knows_best() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("run/teamd")).unwrap();
        let root = Root::new(dir.path());
        assert_eq!(team("team0", &root).unwrap(), None);
        std::fs::write(dir.path().join("run/teamd/team0.conf"), "{\"runner\": {\"name\": \"random\"}}")
            .unwrap();
        assert_eq!(team("team0", &root).unwrap().unwrap().runner, "random");
        let told = told_by(&root, "team0", b"REPLY_SUCCESS\n{\"runner\": {\"name\": \"activebackup\"}}");
        assert_eq!(told.unwrap().runner, "activebackup");
        // Nobody listens any more, or the answer is an error: the file counts.
        assert_eq!(team("team0", &root).unwrap().unwrap().runner, "random");
        assert_eq!(told_by(&root, "team1", b"REPLY_ERROR\nConfigDumpActualFail\nno\n"), None);
    }
}

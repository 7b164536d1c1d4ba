//! A real sshd of our own, on a port of the loopback device that is free, with keys and settings in a directory that goes
//! with it. The machine's own sshd, if any, is not touched.

use super::command::{find, output, tool};
use anyhow::{Context, Result, bail, ensure};
use collector::plan::ssh::SshTarget;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, SysconfVar, sysconf};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Where Debian has it.
const SSHD: &str = "/usr/sbin/sshd";
const SFTP_SERVER: &str = "/usr/lib/openssh/sftp-server";

/// What the server is like.
#[derive(Clone, Debug)]
pub struct Nature {
    /// It has the sftp subsystem.
    pub sftp: bool,
    /// More lines of its settings.
    pub settings: String,
}

impl Default for Nature {
    fn default() -> Self {
        Self { sftp: true, settings: String::new() }
    }
}

/// A running server. Dropping it ends it and all its sessions.
#[derive(Debug)]
pub struct Sshd {
    dir: tempfile::TempDir,
    port: u16,
    child: Child,
}

/// Whether one can be run here; says what is missing.
pub fn missing() -> Option<&'static str> {
    let missing = |path: &str| !Path::new(path).exists();
    if missing(SSHD) || missing(SFTP_SERVER) {
        Some("sshd (apt install openssh-server)")
    } else if find("ssh").is_none() {
        Some("ssh (apt install openssh-client)")
    } else {
        (!nix::unistd::geteuid().is_root()).then_some("root, whom sshd wants to be")
    }
}

impl Sshd {
    /// Starts one that lets root in with the key of [`Sshd::target`].
    pub fn start(nature: &Nature) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("sshd-").tempdir()?;
        let path = |name: &str| dir.path().join(name);
        for name in ["host", "key", "other"] {
            output(
                tool("ssh-keygen")?.args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"]).arg(path(name)),
            )?;
        }
        fs::copy(path("key.pub"), path("authorized_keys"))?;
        // Where it puts processes that have no rights yet.
        fs::DirBuilder::new().recursive(true).mode(0o755).create("/run/sshd")?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let subsystem = if nature.sftp { format!("Subsystem sftp {SFTP_SERVER}\n") } else { String::new() };
        let shown = |name: &str| path(name).display().to_string();
        fs::write(
            path("config"),
            format!(
                "ListenAddress 127.0.0.1:{port}\nHostKey {}\nPidFile none\nAuthorizedKeysFile {}\nStrictModes no\n\
                 UsePAM no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n{subsystem}{}\n",
                shown("host"),
                shown("authorized_keys"),
                nature.settings
            ),
        )?;
        let host_key = fs::read_to_string(path("host.pub"))?;
        fs::write(path("known_hosts"), format!("dumps {host_key}"))?;
        let log = fs::File::create(path("log"))?;
        let child = Command::new(SSHD)
            .args(["-D", "-e", "-f"])
            .arg(path("config"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context(SSHD)?;
        let server = Self { dir, port, child };
        let start = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            ensure!(start.elapsed() < Duration::from_secs(30), "sshd does not listen: {}", server.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    /// Its files: `key` may log in, `other` may not; `host.pub` is its own.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What it said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.file("log")).unwrap_or_default()
    }

    /// A target that goes to `directory` through it, as root.
    pub fn target(&self, directory: &Path) -> SshTarget {
        let shown = |name: &str| self.file(name).display().to_string();
        SshTarget {
            user: "root".to_owned(),
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            scope: None,
            port: self.port,
            host_key_alias: "dumps".to_owned(),
            directory: directory.display().to_string(),
            program: find("ssh").map_or_else(|| "ssh".to_owned(), |p| p.display().to_string()),
            identity: shown("key"),
            known_hosts: shown("known_hosts"),
            options: Vec::new(),
        }
    }

    /// Seconds of CPU of the server and of all sessions that have ended.
    pub fn cpu(&self) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // pid (name) state …; utime, stime, cutime and cstime are the 14th to the 17th.
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let ticks: Vec<u32> =
            fields.split_whitespace().skip(11).take(4).map(str::parse).collect::<Result<_, _>>()?;
        let second = sysconf(SysconfVar::CLK_TCK)?.context("no CLK_TCK")?;
        Ok(f64::from(ticks.iter().sum::<u32>()) / f64::from(i32::try_from(second)?))
    }

    /// Waits until no session is left.
    pub fn rest(&self) -> Result<()> {
        let start = Instant::now();
        while !self.sessions()?.is_empty() {
            ensure!(
                start.elapsed() < Duration::from_secs(60),
                "a session of sshd does not end: {}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// The processes of its sessions, the eldest first.
    pub fn sessions(&self) -> Result<Vec<Pid>> {
        let mut parents = Vec::new();
        for entry in fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
            // pid (name) state ppid …; a name may hold anything.
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
            let parent = fields.split_whitespace().nth(1).and_then(|p| p.parse::<i32>().ok());
            parents.extend(parent.map(|parent| (parent, pid)));
        }
        let mut found = vec![i32::try_from(self.child.id())?];
        let mut next = 0;
        while let Some(parent) = found.get(next).copied() {
            found.extend(parents.iter().filter(|(p, _)| *p == parent).map(|(_, pid)| *pid));
            next += 1;
        }
        Ok(found.into_iter().skip(1).map(Pid::from_raw).collect())
    }

    /// Sends a signal to every process of every session; there must be some.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let sessions = self.sessions()?;
        if sessions.is_empty() {
            bail!("sshd has no session: {}", self.log());
        }
        for pid in sessions {
            // One may have ended with another.
            if let Err(e) = kill(pid, signal) {
                eprintln!("{signal} to process {pid} of sshd: {e}");
            }
        }
        Ok(())
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        for pid in self.sessions().unwrap_or_default() {
            if let Err(e) = kill(pid, Signal::SIGKILL) {
                eprintln!("ending process {pid} of sshd: {e}");
            }
        }
        if let Err(e) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("ending sshd: {e}");
        }
    }
}

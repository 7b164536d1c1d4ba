//! `vmcorectl target propagate`: makes a key, learns the server's, installs ours, and proves that a dump would arrive.

use super::known_hosts::{Pinned, fingerprint};
use super::{Client, DEFAULT_KEYS, KNOWN_HOSTS, PROGRAM, SshAddress, SshSettings};
use crate::network::names;
use crate::settings::{DEFAULT_PATH, Place, Settings};
use anyhow::{Context, bail, ensure};
use collector::addr::FileOffset;
use collector::engine::chain;
use collector::plan::ssh::SshTarget;
use collector::target::ssh::{Connection, Patience, SshDirectory, Way};
use initramfs::root::Root;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// As the crash kernel has it, but with somebody waiting.
const PATIENCE: Patience = Patience { reach: Duration::from_secs(20), stall: Duration::from_secs(30) };

/// What is written to measure.
const PROBE: u64 = 32 << 20;

/// The servers that are meant: the one that is named, with what the settings say of it, or all of the settings. Settings that
/// cannot be read do not matter where one is named.
pub fn servers(
    named: Option<&SshAddress>,
    settings: impl FnOnce() -> anyhow::Result<Settings>,
) -> anyhow::Result<Vec<SshSettings>> {
    let known = settings().map(|settings| {
        let places = settings.targets.into_iter().map(|target| target.place);
        places
            .filter_map(|p| if let Place::Ssh(server) = p { Some(server) } else { None })
            .collect::<Vec<_>>()
    });
    let Some(named) = named else {
        let known = known?;
        ensure!(!known.is_empty(), "the settings name no server with `ssh`: say which, as USER@HOST");
        return Ok(known);
    };
    let mut meant = known.unwrap_or_default();
    meant.retain(|server| server.address == *named);
    if meant.is_empty() {
        let path = DEFAULT_PATH.to_owned();
        meant.push(SshSettings { address: named.clone(), path, key: None, known_hosts: None });
    }
    Ok(meant)
}

/// Does it all; says on stdout what it does. `yes`: a host key that is new is accepted without asking.
pub fn propagate(settings: &SshSettings, yes: bool) -> anyhow::Result<()> {
    let root = Root::new("/");
    ensure!(nix::unistd::geteuid().is_root(), "propagate works on root's keys: run it as root");
    let client = settings.client(&root)?;
    let key = own_key(settings, &root)?;
    let known = settings.known_hosts.clone().unwrap_or_else(|| PathBuf::from(KNOWN_HOSTS[0]));
    learn_host_key(settings, &client, &known, yes, &root)?;

    let destinations = names::resolve(&client.hostname, client.port, &root)?;
    let to = destinations.first().with_context(|| format!("{} has no address", client.hostname))?;
    let plan = settings.resolve(0, &client, to.address, to.link.as_deref(), &root)?;
    for warning in &plan.warnings {
        eprintln!("vmcorectl: warning: {warning}");
    }
    // The same options, with the files of the running system in the place of the image's.
    let pinned = tempfile_of(&plan_known_hosts(&plan.packed, &plan.target)?)?;
    let target = SshTarget {
        identity: key.display().to_string(),
        known_hosts: pinned.path.display().to_string(),
        ..plan.target
    };
    if refused(&target)? {
        install(&client, &target, &key)?;
        ensure!(!refused(&target)?, "the server still does not accept {}", key.display());
        println!("key         {} is installed for {} on {}", key.display(), client.user, client.hostname);
    } else {
        println!("key         {} is accepted already", key.display());
    }
    prove(&target)
}

/// Logs in and writes as the crash kernel would, with the keys that are there. Returns MB/s.
pub fn probe(settings: &SshSettings) -> anyhow::Result<f64> {
    let root = Root::new("/");
    let client = settings.client(&root)?;
    let own = settings.key.clone().into_iter().chain(DEFAULT_KEYS.iter().map(PathBuf::from));
    let key = own.into_iter().find(|key| key.exists()).context("there is no key to log in with")?;
    let destinations = names::resolve(&client.hostname, client.port, &root)?;
    let to = destinations.first().with_context(|| format!("{} has no address", client.hostname))?;
    let plan = settings.resolve(0, &client, to.address, to.link.as_deref(), &root)?;
    let pinned = tempfile_of(&plan_known_hosts(&plan.packed, &plan.target)?)?;
    let target = SshTarget {
        identity: key.display().to_string(),
        known_hosts: pinned.path.display().to_string(),
        ..plan.target
    };
    Ok(attempt(&target)?.1)
}

/// The private key, made where there is none.
fn own_key(settings: &SshSettings, root: &Root) -> anyhow::Result<PathBuf> {
    let wanted: Vec<PathBuf> = match &settings.key {
        Some(key) => vec![key.clone()],
        None => DEFAULT_KEYS.iter().map(PathBuf::from).collect(),
    };
    for path in &wanted {
        if root.exists(path)? {
            return Ok(path.clone());
        }
    }
    let path = wanted.last().context("no place for a key")?;
    if let Some(directory) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
    }
    let host = root.read_line("/proc/sys/kernel/hostname")?.unwrap_or_default();
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", &format!("vmcored@{host}"), "-f"])
        .arg(path)
        .status()
        .context("cannot run ssh-keygen")?;
    ensure!(made.success(), "ssh-keygen failed ({made})");
    println!("key         {} made", path.display());
    Ok(path.clone())
}

/// Makes sure that the server's key is in `known`, and that somebody has seen it.
fn learn_host_key(
    settings: &SshSettings,
    client: &Client,
    known: &Path,
    yes: bool,
    root: &Root,
) -> anyhow::Result<()> {
    let mut text = String::new();
    for file in settings.known_hosts_files() {
        text.push_str(&root.read(file)?.unwrap_or_default());
        text.push('\n');
    }
    let pinned = Pinned::find(&text, &client.alias, client.port);
    ensure!(!pinned.all_revoked, "the host keys of {} that are known are marked @revoked", client.alias);
    if pinned.is_usable() {
        for one in pinned.fingerprints() {
            println!("host key    {one}, known");
        }
        return Ok(());
    }
    let scanned = Command::new("ssh-keyscan")
        .args(["-T", "10", "-p", &client.port.to_string(), "--", &client.hostname])
        .stdin(Stdio::null())
        .output()
        .context("cannot run ssh-keyscan")?;
    let keys: Vec<(String, String)> = String::from_utf8_lossy(&scanned.stdout)
        .lines()
        .filter(|l| !l.starts_with('#'))
        .filter_map(|l| {
            let mut words = l.split_whitespace().skip(1);
            Some((words.next()?.to_owned(), words.next()?.to_owned()))
        })
        .collect();
    if keys.is_empty() {
        let said = String::from_utf8_lossy(&scanned.stderr).trim().to_owned();
        bail!("{} port {} shows no host key: {said}", client.hostname, client.port);
    }
    for (kind, key) in &keys {
        println!("host key    {}", fingerprint(kind, key));
    }
    if !yes {
        confirm(&format!("Are these the keys of {}? Compare them on its console. [y/N] ", client.hostname))?;
    }
    let name = match client.port {
        22 => client.alias.clone(),
        port => format!("[{}]:{port}", client.alias),
    };
    let lines: String = keys.iter().map(|(kind, key)| format!("{name} {kind} {key}\n")).collect();
    append(known, &lines).with_context(|| format!("cannot write {}", known.display()))?;
    println!("host key    recorded in {}", known.display());
    Ok(())
}

fn confirm(question: &str) -> anyhow::Result<()> {
    ensure!(
        io::stdin().is_terminal(),
        "nobody is there to compare the host key: use --yes to accept it unseen"
    );
    print!("{question}");
    io::stdout().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    ensure!(matches!(answer.trim(), "y" | "Y" | "yes"), "not accepted");
    Ok(())
}

/// Appends whole lines, also to a file whose last one is not.
fn append(path: &Path, lines: &str) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    let mut file = OpenOptions::new().create(true).append(true).read(true).mode(0o600).open(path)?;
    let mut old = Vec::new();
    file.read_to_end(&mut old)?;
    if old.last().is_some_and(|b| *b != b'\n') {
        file.write_all(b"\n")?;
    }
    file.write_all(lines.as_bytes())?;
    file.sync_all()
}

/// Whether the server refuses the key. Everything else that goes wrong is an error.
fn refused(target: &SshTarget) -> anyhow::Result<bool> {
    use collector::target::ssh::SshError;
    let connection = Connection::open(target, PATIENCE)?;
    let way = connection.greet();
    connection.end();
    match way {
        Ok(_) => Ok(false),
        Err(SshError::KeyRefused(_)) => Ok(true),
        Err(e) => Err(e.into()),
    }
}

/// Appends the public key on the server, by whatever else the server accepts: ssh itself asks for a password.
fn install(client: &Client, target: &SshTarget, key: &Path) -> anyhow::Result<()> {
    let public = PathBuf::from(format!("{}.pub", key.display()));
    let line = fs::read_to_string(&public).with_context(|| format!("cannot read {}", public.display()))?;
    let line = line.trim();
    ensure!(!line.contains(['\'', '\n', '\\']) && !line.is_empty(), "{} holds no key", public.display());
    println!("key         {} goes to {}@{}", public.display(), client.user, client.hostname);
    // Double quotes alone: the whole is within single ones. A file whose last line has no end gets one first.
    let script = format!(
        "cd; umask 077; mkdir -p .ssh && touch .ssh/authorized_keys && \
         if test -n \"$(tail -c 1 .ssh/authorized_keys)\"; then echo >> .ssh/authorized_keys; fi && \
         {{ grep -qxF \"{line}\" .ssh/authorized_keys || echo \"{line}\" >> .ssh/authorized_keys; }} && \
         {{ command -v restorecon > /dev/null && restorecon -F .ssh .ssh/authorized_keys; true; }}"
    );
    let status = Command::new(PROGRAM)
        .env("HOME", "/root")
        .args(["-p", &client.port.to_string(), "-l", &client.user])
        .args(["-o", "StrictHostKeyChecking=yes", "-o", "GlobalKnownHostsFile=/dev/null"])
        .args(["-o", &format!("UserKnownHostsFile={}", target.known_hosts)])
        .args(["-o", &format!("HostKeyAlias={}", target.host_key_alias)])
        .args(["-o", "ClearAllForwardings=yes", "-o", "ControlPath=none"])
        .args(["--", &target.host(), &format!("exec sh -c '{script}'")])
        .status()
        .context("cannot run ssh")?;
    ensure!(status.success(), "the key was not installed ({status})");
    Ok(())
}

/// Writes as the crash kernel would, and takes it all away again. Returns how, and MB/s.
fn attempt(target: &SshTarget) -> anyhow::Result<(Way, f64)> {
    let connection = Connection::open(target, PATIENCE)?;
    let proved = connection.greet().map_err(anyhow::Error::from).and_then(|way| {
        let name = format!(".vmcored-probe-{}", std::process::id());
        let directory = connection.create_directory(way, &name).map_err(|e| anyhow::Error::msg(chain(&e)))?;
        let rate = write_probe(&directory);
        let gone = directory.remove_self().map_err(|e| anyhow::Error::msg(chain(&e)));
        let rate = rate?;
        gone?;
        Ok((way, rate))
    });
    connection.end();
    proved
}

/// [`attempt`], and says what came of it.
fn prove(target: &SshTarget) -> anyhow::Result<()> {
    let (way, rate) = attempt(target)?;
    let how = match way {
        Way::Sftp => "sftp: dumps are written in place",
        Way::Shell => {
            "no sftp: dumps are flattened streams, vmcore.flat; `makedumpfile -R` makes them readable"
        }
    };
    println!("server      {how}");
    println!(
        "probe       {} MiB written to {}, synced, renamed, removed: {rate:.0} MB/s",
        PROBE >> 20,
        target.directory
    );
    Ok(())
}

/// MB/s.
fn write_probe(directory: &SshDirectory) -> anyhow::Result<f64> {
    let told = |e: collector::target::TargetError| anyhow::Error::msg(chain(&e));
    let file = directory.create_file("probe-incomplete").map_err(told)?;
    let start = Instant::now();
    let written = write_all(&*file);
    let took = start.elapsed();
    drop(file);
    let renamed = written.and_then(|()| directory.rename("probe-incomplete", "probe").map_err(told));
    let name = if renamed.is_ok() { "probe" } else { "probe-incomplete" };
    let removed = directory.remove(name).map_err(told);
    renamed?;
    removed?;
    for (code, note) in directory.notes() {
        eprintln!("vmcorectl: warning: {code}: {note}");
    }
    let megabytes = f64::from(u32::try_from(PROBE / 1_000_000)?);
    Ok(megabytes / took.as_secs_f64().max(1e-6))
}

fn write_all(file: &dyn collector::format::DumpSink) -> anyhow::Result<()> {
    // No compression on the way could make it less.
    let mut piece = vec![0; 1 << 20];
    File::open("/dev/urandom")
        .and_then(|mut f| f.read_exact(&mut piece))
        .context("cannot read /dev/urandom")?;
    for at in (0..PROBE).step_by(piece.len()) {
        file.write_at(FileOffset::new(at), &piece)?;
    }
    Ok(file.finish()?)
}

fn plan_known_hosts(packed: &initramfs::Packed, target: &SshTarget) -> anyhow::Result<Vec<u8>> {
    let found = packed.files().find(|(path, _)| *path == target.known_hosts);
    Ok(found.context("no known_hosts in the image")?.1.data.clone())
}

/// A file of ours for as long as it is held.
struct Temporary {
    path: PathBuf,
}

fn tempfile_of(bytes: &[u8]) -> anyhow::Result<Temporary> {
    DirBuilder::new().recursive(true).mode(0o700).create(crate::arm::RUN_DIRECTORY)?;
    let path = Path::new(crate::arm::RUN_DIRECTORY).join(format!("known_hosts-{}", std::process::id()));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
    file.write_all(bytes)?;
    Ok(Temporary { path })
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_file(&self.path) {
            log::debug!("removing {}: {e}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_appended_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".ssh/known_hosts");
        append(&path, "a\n").unwrap();
        fs::write(&path, "a\nb").unwrap();
        append(&path, "c\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "a\nb\nc\n");
    }

    #[test]
    fn servers_of_the_settings_or_the_one_that_is_named() {
        let text = "[[target]]\nssh = \"root@a\"\npath = \"/d\"\nkey = \"/k\"\n[[target]]\npath = \"/x\"\n[[target]]\nssh = \"u@b:23\"\n";
        let meant = |named: Option<&str>, text: &str| {
            let named: Option<SshAddress> = named.map(|n| n.parse().unwrap());
            let found = servers(named.as_ref(), || Ok(crate::settings::parse(text, Path::new("t"))?));
            found.map(|all| all.iter().map(|s| format!("{} {}", s.address, s.path)).collect::<Vec<_>>())
        };
        assert_eq!(meant(None, text).unwrap(), ["root@a /d", "u@b:23 /var/crash"]);
        assert_eq!(meant(Some("root@a"), text).unwrap(), ["root@a /d"]);
        assert_eq!(meant(Some("root@c"), text).unwrap(), ["root@c /var/crash"]);
        assert_eq!(meant(Some("root@c"), "nonsense").unwrap(), ["root@c /var/crash"]);
        assert!(meant(None, "nonsense").is_err());
        assert!(meant(None, "").unwrap_err().to_string().contains("no server"));
    }
}

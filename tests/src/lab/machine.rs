//! A QEMU process: its console while it runs, its monitor, its end.

use super::command::{shown, wait};
use super::console::{Console, Live};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Run {
    /// What it said.
    pub console: Console,
    /// Wall time.
    pub took: Duration,
    /// QEMU ended by itself: the guest restarted or powered off.
    pub ended: bool,
}

/// A running QEMU.
#[derive(Debug)]
pub struct Machine<'a> {
    console: &'a Live,
    keyboard: ChildStdin,
    socket: &'a Path,
    deadline: Instant,
}

impl Machine<'_> {
    /// Waits until a line of the console contains `what`.
    pub fn wait_for(&self, what: &str) -> Result<()> {
        loop {
            // Asked before the lines are looked at: the last one comes before the end.
            let over = self.console.is_over();
            if self.console.contains(what) {
                return Ok(());
            }
            ensure!(!over, "the guest ended without {what:?}");
            ensure!(Instant::now() < self.deadline, "no {what:?} on the console in time");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until a line after the first that contains `after` contains `what`.
    pub fn wait_for_after(&self, after: &str, what: &str) -> Result<()> {
        self.wait_for(after)?;
        loop {
            let over = self.console.is_over();
            if self.console.so_far().after(after).iter().skip(1).any(|l| l.text.contains(what)) {
                return Ok(());
            }
            ensure!(!over, "the guest ended without {what:?} after {after:?}");
            ensure!(Instant::now() < self.deadline, "no {what:?} after {after:?} in time");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Types a line at the console.
    pub fn say(&self, line: &str) -> Result<()> {
        (&self.keyboard).write_all(format!("{line}\n").as_bytes()).context("the console takes no input")
    }

    /// What the console has said so far.
    pub fn console(&self) -> Console {
        self.console.so_far()
    }

    /// QEMU's monitor. One connection at a time.
    pub fn monitor(&self) -> Result<Monitor> {
        let stream = loop {
            match UnixStream::connect(self.socket) {
                Ok(stream) => break stream,
                // QEMU is still starting.
                Err(_) if Instant::now() < self.deadline && !self.console.is_over() => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(e) => return Err(e).context("cannot reach QEMU's monitor"),
            }
        };
        stream
            .set_read_timeout(Some(self.deadline.saturating_duration_since(Instant::now()).max(MINIMUM)))?;
        let mut monitor = Monitor { lines: BufReader::new(stream.try_clone()?), stream };
        monitor.line()?; // its greeting
        monitor.execute("qmp_capabilities", json!({}))?;
        Ok(monitor)
    }
}

/// A read timeout of nothing is an error.
const MINIMUM: Duration = Duration::from_millis(100);

/// A connection that speaks QMP.
#[derive(Debug)]
pub struct Monitor {
    lines: BufReader<UnixStream>,
    stream: UnixStream,
}

impl Monitor {
    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        ensure!(self.lines.read_line(&mut line)? > 0, "QEMU has closed its monitor");
        serde_json::from_str(&line).with_context(|| format!("QEMU's monitor said {line:?}"))
    }

    fn send(&mut self, command: &str, arguments: &Value) -> Result<()> {
        // In one write: QEMU acts on the last brace, and may be gone before a newline that comes alone.
        let line = format!("{}\n", json!({"execute": command, "arguments": arguments}));
        Ok(self.stream.write_all(line.as_bytes())?)
    }

    /// Executes a command and waits for what it returns; events in between are passed over.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        self.send(command, &arguments).with_context(|| format!("sending {command}"))?;
        loop {
            let mut said = self.line().with_context(|| format!("waiting for {command}"))?;
            if let Some(value) = said.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = said.get("error") {
                bail!("{command} {arguments}: {error}");
            }
        }
    }

    /// `dump-guest-memory` into a file. `format` is QEMU's word: `elf`, `kdump-zlib`...
    pub fn dump(&mut self, to: &Path, format: &str, paging: bool) -> Result<()> {
        let mut arguments = json!({"paging": paging, "protocol": format!("file:{}", to.display())});
        // With paging, QEMU takes no format at all: it is always ELF.
        if !paging {
            arguments["format"] = json!(format);
        }
        self.execute("dump-guest-memory", arguments)?;
        // Made readable by nobody else, which is as it should be, but writable by nobody at all.
        fs::set_permissions(to, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        Ok(())
    }

    /// Ends QEMU, which may or may not find the time to answer.
    pub fn quit(mut self) -> Result<()> {
        self.send("quit", &json!({}))?;
        // Of a connection that is closed at once QEMU would forget what came through it.
        while self.line().is_ok() {}
        Ok(())
    }
}

/// Runs QEMU until it ends, or `limit` is over, or `during` fails. Adds a serial console, a monitor, and no display. The
/// console goes to `log` however it ends.
pub fn run(
    qemu: &mut Command,
    limit: Duration,
    log: &Path,
    during: impl FnOnce(&Machine<'_>) -> Result<()>,
) -> Result<Run> {
    // Below /tmp: a socket's path is short.
    let sockets = tempfile::tempdir()?;
    let socket = sockets.path().join("qmp");
    qemu.args(["-display", "none", "-monitor", "none", "-serial", "stdio", "-nic", "none", "-no-reboot"]);
    qemu.arg("-qmp").arg(format!("unix:{},server=on,wait=off", socket.display()));
    let start = Instant::now();
    let mut child = qemu
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", shown(qemu)))?;
    let serial = child.stdout.take().context("QEMU's stdout")?;
    let keyboard = child.stdin.take().context("QEMU's stdin")?;
    let live = Live::new(start);
    let (done, status) = std::thread::scope(|scope| {
        scope.spawn(|| live.record(serial));
        let machine = Machine { console: &live, keyboard, socket: &socket, deadline: start + limit };
        let done = during(&machine);
        // What has failed is not waited for.
        let rest = if done.is_ok() { limit.saturating_sub(start.elapsed()) } else { Duration::ZERO };
        (done, wait(&mut child, rest))
    });
    let console = live.so_far();
    fs::create_dir_all(log.parent().unwrap_or(Path::new(".")))?;
    fs::write(log, console.text())?;
    done.with_context(|| format!("console, {}:\n{}", log.display(), console.tail(30)))?;
    let status = status?;
    if let Some(status) = status {
        ensure!(status.success(), "QEMU failed with {status}; console: {}", log.display());
    }
    Ok(Run { console, took: start.elapsed(), ended: status.is_some() })
}

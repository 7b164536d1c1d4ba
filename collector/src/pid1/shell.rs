//! A shell for whoever is at a console when the dump failed.

use super::child::{self, Bounds};
use super::hooks::ENVIRONMENT;
use super::secs;
use crate::plan::aside::Shell;
use crate::sys;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, setsid};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

/// How often the shells are looked at.
const GLANCE: Duration = Duration::from_millis(50);

/// Gives a shell on each console of the kernel's, until one of them is left or the time is over.
pub fn run(shell: &Shell, why: &str, next: &str) {
    let consoles = consoles(|path| fs::read_to_string(path).unwrap_or_default());
    let limit = shell.limit.map_or_else(String::new, |limit| format!(" or {limit} s are over"));
    log::warn!(
        "shell: {why}; a shell on {}: the dead kernel's memory is /proc/vmcore, targets are below /target; {next} once \
         it is left{limit}",
        consoles.join(", ")
    );
    let total = shell.limit.map_or(Duration::MAX, secs);
    let bounds = Bounds { total: Duration::MAX, stall: Duration::MAX, badness: 500 };
    let ended = child::run(bounds, &mut |_| {}, |_| attend(shell, &consoles, total));
    log::info!("shell: {}", ended.ending);
}

/// The terminals of the kernel's consoles: `ttyS0`, `tty1`.
fn consoles(read: impl Fn(&str) -> String) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for name in read("/sys/class/tty/console/active").split_whitespace() {
        // That of whichever virtual terminal is shown.
        let name = match name {
            "tty0" => Some(read("/sys/class/tty/tty0/active").trim().to_owned()).filter(|n| !n.is_empty()),
            other => Some(other.to_owned()),
        };
        let name = name.unwrap_or_else(|| "tty1".to_owned());
        if !found.contains(&name) && !name.contains('/') {
            found.push(name);
        }
    }
    if found.is_empty() {
        found.push("console".to_owned());
    }
    found
}

/// In a child: starts the shells and waits for the first that ends.
fn attend(shell: &Shell, consoles: &[String], total: Duration) -> Result<(), String> {
    if shell.busybox {
        if let Err(e) = fs::create_dir_all("/bin") {
            log::debug!("/bin: {e}");
        }
        let installed = Command::new(&shell.program).args(["--install", "-s", "/bin"]).output();
        if !installed.as_ref().is_ok_and(|done| done.status.success()) {
            log::warn!("shell: its commands are not installed: {installed:?}");
        }
    }
    let mut shells: Vec<Pid> = Vec::new();
    for console in consoles {
        match sys::spawn(|| {
            let e = become_shell(shell, console);
            log::error!("shell: {} on {console}: {e}", shell.program);
            1
        }) {
            Ok(pid) => shells.push(pid),
            Err(e) => log::error!("shell: no process: {e}"),
        }
    }
    let start = std::time::Instant::now();
    let mut left = shells.is_empty();
    while !left && start.elapsed() < total {
        std::thread::sleep(GLANCE);
        // One without a terminal ends at once, and the others matter still.
        shells.retain(|pid| match sys::wait_nohang(*pid) {
            Ok(None) => true,
            Ok(Some(exit)) if exit.status == Ok(1) && start.elapsed() < Duration::from_secs(1) => false,
            Ok(Some(_)) | Err(_) => {
                left = true;
                false
            }
        });
        left |= shells.is_empty();
    }
    for pid in shells {
        if let Err(e) = killpg(pid, Signal::SIGKILL) {
            log::debug!("ending the shell {pid}: {e}");
        }
    }
    if left { Ok(()) } else { Err(format!("nobody left it for {} s", total.as_secs())) }
}

/// Leads a session on a terminal, and becomes the shell. Returns only when it cannot.
fn become_shell(shell: &Shell, console: &str) -> io::Error {
    let streams = || -> io::Result<[File; 3]> {
        setsid()?;
        let mut terminal = OpenOptions::new().read(true).write(true).open(format!("/dev/{console}"))?;
        // Without it there is no job control, and Ctrl-C reaches nobody.
        if let Err(e) = sys::take_terminal(&terminal) {
            log::warn!("shell: {console} cannot be its terminal: {e}");
        }
        writeln!(terminal, "\r\nvmcored: `exit` to go on\r")?;
        Ok([terminal.try_clone()?, terminal.try_clone()?, terminal])
    };
    match streams() {
        Ok([input, output, errors]) => Command::new(&shell.program)
            .args(&shell.arguments)
            .env_clear()
            .envs(ENVIRONMENT)
            .env("PS1", "vmcored# ")
            .current_dir("/")
            .stdin(input)
            .stdout(output)
            .stderr(errors)
            .exec(),
        Err(e) => e,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consoles_have_terminals() {
        for (active, shown, expected) in [
            ("ttyS0\n", "tty1\n", vec!["ttyS0"]),
            ("tty0 ttyS0\n", "tty3\n", vec!["tty3", "ttyS0"]),
            ("tty0\n", "", vec!["tty1"]),
            ("tty0 tty1 ttyS0", "tty1", vec!["tty1", "ttyS0"]),
            ("", "tty1", vec!["console"]),
            ("../../etc", "", vec!["console"]),
        ] {
            let read = |path: &str| if path.contains("console") { active } else { shown }.to_owned();
            assert_eq!(consoles(read), expected, "{active:?}");
        }
    }

    #[test]
    fn a_shell_that_cannot_be_had_keeps_nobody_waiting() {
        let shell =
            Shell { program: "/nonexistent".to_owned(), arguments: Vec::new(), busybox: false, limit: None };
        let start = std::time::Instant::now();
        // Not a terminal, and not a program.
        attend(&shell, &["null".to_owned(), "no-such-tty".to_owned()], Duration::MAX).unwrap();
        assert!(start.elapsed() < Duration::from_secs(5));
    }
}

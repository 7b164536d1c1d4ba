//! Running other programs: always with the command line in the error, never without a deadline where one can hang.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

/// How a command line reads in a message.
pub fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|w| w.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Runs a command with our own stdout and stderr; an error unless it exits with 0.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {}", shown(command)))?;
    check(command, status, b"")
}

/// Runs a command and returns its stdout; an error with its stderr unless it exits with 0.
pub fn output(command: &mut Command) -> Result<String> {
    let Output { status, stdout, stderr } =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {}", shown(command)))?;
    check(command, status, &stderr)?;
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

/// Runs a command with `input` on its stdin (kept small: it is written whole before anything is read) and both its
/// output streams in one text; killed after `limit`. The exit status is for the caller to judge.
pub fn talk(command: &mut Command, input: &str, limit: Duration) -> Result<(ExitStatus, String)> {
    use std::io::{Read, Seek, Write};
    let mut said = tempfile::tempfile()?;
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(said.try_clone()?)
        .stderr(said.try_clone()?)
        .spawn()
        .with_context(|| format!("cannot start {}", shown(command)))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends before it has read everything says so by its status.
        if let Err(e) = stdin.write_all(input.as_bytes()) {
            eprintln!("{}: writing to its stdin: {e}", shown(command));
        }
    }
    let status = wait(&mut child, limit)?;
    said.rewind()?;
    let mut bytes = Vec::new();
    said.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    match status {
        Some(status) => Ok((status, text)),
        None => bail!("{} ran for more than {limit:?} and was killed; it had said:\n{text}", shown(command)),
    }
}

/// Waits for a child at most `limit`, then kills it; `None` when it had to be killed.
pub fn wait(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn check(command: &Command, status: ExitStatus, stderr: &[u8]) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(stderr);
    bail!(
        "{} failed with {status}{}{}",
        shown(command),
        if stderr.is_empty() { "" } else { ":\n" },
        stderr.trim_end()
    )
}

/// The program's path, looked for in PATH and in the directories of system programs that a user's PATH may lack.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin", "/usr/bin"].map(PathBuf::from));
    dirs.map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// A command for a program that setup has installed.
pub fn tool(program: &str) -> Result<Command> {
    let path =
        find(program).with_context(|| format!("{program} is not installed: run `cargo xtask setup`"))?;
    Ok(Command::new(path))
}

/// The checkout.
pub fn workspace() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_owned()
}

/// Cargo's target directory; what the lab makes goes below it.
pub fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

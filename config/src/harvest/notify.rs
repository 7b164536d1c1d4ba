//! Tells a program of the operator's of a crash.

use super::record::Record;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// After this it is killed, with all that it has started.
const LIMIT: Duration = Duration::from_secs(60);

/// Runs it and waits for its end.
pub fn notify(program: &str, record: &Record) -> Result<(), String> {
    run(program, record, LIMIT)
}

fn run(program: &str, record: &Record, limit: Duration) -> Result<(), String> {
    let mut child = Command::new(program)
        .env("VMCORED_SEQUENCE", record.sequence.to_string())
        .env("VMCORED_STATUS", record.status.to_string())
        .env("VMCORED_INTEGRITY", record.integrity.to_string())
        .env("VMCORED_FILE", record.file.as_deref().unwrap_or(std::path::Path::new("")))
        .env("VMCORED_VERDICT", record.verdict.as_ref().map_or("", |verdict| &verdict.line))
        .env(
            "VMCORED_SIGNATURE",
            record.verdict.as_ref().and_then(|verdict| verdict.signature.as_deref()).unwrap_or_default(),
        )
        .env("VMCORED_MESSAGE", record.sentence().replace('\0', ""))
        .stdin(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|e| format!("cannot be run: {e}"))?;
    let text = serde_json::to_vec(record).map_err(|e| e.to_string())?;
    // A record fits into a pipe, so that one who does not read it keeps nobody waiting; who has closed it does not want it.
    if let Some(mut stdin) = child.stdin.take() {
        drop(stdin.write_all(text.get(..text.len().min(60 << 10)).unwrap_or_default()));
    }
    let start = Instant::now();
    loop {
        match child.try_wait().map_err(|e| e.to_string())? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(format!("ended with {status}")),
            None if start.elapsed() < limit => std::thread::sleep(Duration::from_millis(50)),
            None => break,
        }
    }
    let group = i32::try_from(child.id()).map(nix::unistd::Pid::from_raw);
    if let Ok(group) = group {
        // It may be gone already.
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
    }
    drop(child.wait());
    Err(format!("was killed after {} s", limit.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harvest::record::tests::sample;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn it_is_told_and_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("hook");
        let said = dir.path().join("said");
        let script = |body: &str| {
            std::fs::write(&program, format!("#!/bin/sh\n{body}\n")).unwrap();
            std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        };
        let path = program.to_str().unwrap().to_owned();
        script(&format!("echo $VMCORED_STATUS $VMCORED_SEQUENCE > {0}; cat >> {0}", said.display()));
        run(&path, &sample(), LIMIT).unwrap();
        let text = std::fs::read_to_string(&said).unwrap();
        assert!(text.starts_with("complete 3\n{\"sequence\":3,"), "{text}");
        script("exit 3");
        assert!(run(&path, &sample(), LIMIT).unwrap_err().contains("exit status: 3"));
        script("sleep 100 & sleep 100");
        assert!(run(&path, &sample(), Duration::from_millis(200)).unwrap_err().contains("killed"));
        assert!(run("/nonexistent", &sample(), LIMIT).unwrap_err().contains("cannot be run"));
    }
}

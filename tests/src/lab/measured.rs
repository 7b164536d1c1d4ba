//! One run of a program as the kernel accounts for it: here, or in a guest, from where it comes as a line of JSON.

use anyhow::{Context, Result};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// What a run took.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Took {
    /// Seconds on the clock.
    pub wall: f64,
    /// Seconds of CPU, user and system together.
    pub cpu: f64,
    /// Peak resident memory, KiB.
    pub peak_kib: u64,
}

/// A run and how it ended.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Measured {
    /// What it took, with what is written made durable.
    pub took: Took,
    /// Its exit status; `None` when a signal ended it.
    pub status: Option<i32>,
    /// That signal.
    pub signal: Option<i32>,
    /// Bytes of the file it wrote; 0 when there is none.
    pub bytes: u64,
}

/// Runs a command, then waits until the file `out`, if it has written it, is on the disk. For a process that has had no
/// other child: the kernel keeps one account for all of them, and counts as a child's peak memory what its parent had
/// when it was started.
pub fn measure(command: &mut Command, out: Option<&Path>) -> Result<Measured> {
    let start = Instant::now();
    let status = command.status().with_context(|| format!("cannot start {:?}", command.get_program()))?;
    let bytes = match out.map(File::open) {
        None => 0,
        Some(Ok(file)) => {
            file.sync_all().context("the output cannot be written to the disk")?;
            file.metadata()?.len()
        }
        Some(Err(e)) if e.kind() == io::ErrorKind::NotFound => 0,
        Some(Err(e)) => return Err(e).context("the output"),
    };
    let wall = start.elapsed().as_secs_f64();
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let cpu = (seconds(usage.user_time()) + seconds(usage.system_time())).as_secs_f64();
    let took = Took { wall, cpu, peak_kib: usage.max_rss().unsigned_abs() };
    Ok(Measured { took, status: status.code(), signal: status.signal(), bytes })
}

fn seconds(time: TimeVal) -> Duration {
    Duration::from_secs(time.tv_sec().unsigned_abs()) + Duration::from_micros(time.tv_usec().unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, out: Option<&Path>) -> Measured {
        measure(Command::new("sh").args(["-c", script]), out).unwrap()
    }

    #[test]
    fn how_it_ended_and_what_it_wrote() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let failed = shell("exit 3", Some(&out));
        assert_eq!((failed.status, failed.signal, failed.bytes), (Some(3), None, 0));
        let killed = shell(&format!("printf 12345 > {}; kill -9 $$", out.display()), Some(&out));
        assert_eq!((killed.status, killed.signal, killed.bytes), (None, Some(9), 5));
        assert!(killed.took.wall > 0.0 && killed.took.peak_kib > 100, "{killed:?}");
        let line = serde_json::to_string(&killed).unwrap();
        assert_eq!(serde_json::from_str::<Measured>(&line).unwrap(), killed);
    }
}

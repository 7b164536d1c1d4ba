//! The vmcore that is measured when none is given: a guest with memory in use, crashed, saved whole by our own crash
//! kernel. Made once.

use crate::lab::cache::Cache;
use crate::lab::kernel::Series;
use crate::vm::crash::{Crash, POPULATE};
use crate::vm::runner::Bench;
use anyhow::Result;
use collector::manifest::Outcome;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// A vmcore of a guest with so many MiB.
pub fn default_core(cache: &Cache, mib: u64) -> Result<PathBuf> {
    let dir = cache.entry(&format!("cores/6.1-{mib}"), |dir| {
        let programs = super::super::programs()?;
        let bench = Bench::open(cache, &programs, &[Series::V6_1])?;
        println!("crashing a guest of {mib} MiB (once; minutes)");
        let mut crash = Crash::new(&bench, &format!("bench-{mib}"), Series::V6_1)?;
        crash.memory = mib;
        crash.reservation = 192;
        crash.limit = Duration::from_secs(1800);
        crash.disk.0 = mib + mib / 4 + 512;
        "[[target]]\npath = \"/var/crash\"\n[[dump]]\nfile = \"vmcore\"\nformat = \"raw\"\n".clone_into(&mut crash.settings);
        // About 45 of 100 anonymous, 30 page cache, the rest free: at level 31 little is left, at level 1 much.
        crash.before = format!(
            "{POPULATE}
guest-load anon {anon} &
dd if=/dev/urandom of=/var/crash/cached bs=1M count={cache}
cat /var/crash/cached > /dev/null
n=0; while [ $(awk '/^AnonPages/{{print int($2 / 1024)}}' /proc/meminfo) -lt {anon} ] && [ $n -lt 600 ]; do sleep 1; n=$((n+1)); done
section load free",
            anon = mib * 45 / 100,
            cache = mib / 8,
        );
        let crashed = crash.run(&bench)?;
        let dump = crashed.dump()?;
        dump.expect(Outcome::Complete, &["manifest.json", "vmcore", "vmcore-dmesg.txt"])?;
        fs::copy(dump.dir.join("vmcore"), dir.join("vmcore"))?;
        fs::remove_dir_all(&crashed.dir)?;
        Ok(())
    })?;
    Ok(dir.join("vmcore"))
}

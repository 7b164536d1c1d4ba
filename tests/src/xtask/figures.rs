//! `cargo xtask figures`: how fast, how small, in how little memory.

use super::demo::times;
use crate::lab::cache::Cache;
use crate::lab::kernel::Series;
use crate::vm::crash::{Crash, Crashed, Dump, POPULATE};
use crate::vm::runner::Bench;
use anyhow::{Context, Result};
use collector::manifest::Outcome;
use std::time::Duration;

/// MiB of memory of the guests that are measured.
const GUESTS: [u64; 2] = [2048, 8192];

/// The reservation of the measured run, MiB.
const RESERVATION: u64 = 128;

/// MiB with which no capture can succeed: Debian's kernel alone is as large.
const TOO_SMALL: u64 = 64;

/// The search for the smallest reservation ends when it is known to so many MiB.
const STEP: u64 = 2;

/// A crash kernel that has not restarted after this has failed. It is several times what a capture takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// Measures and prints. Arguments: sizes of guests in MiB; `--no-search` leaves out the search.
pub fn figures(arguments: &[String]) -> Result<()> {
    let sizes = arguments
        .iter()
        .filter(|a| *a != "--no-search")
        .map(|a| a.parse().with_context(|| format!("{a:?} is neither a guest's size in MiB nor --no-search")))
        .collect::<Result<Vec<u64>>>()?;
    let cache = Cache::open()?;
    let programs = super::programs()?;
    let bench = Bench::open(&cache, &programs, &[Series::V6_1])?;
    let search = !arguments.iter().any(|a| a == "--no-search");
    let sizes = if sizes.is_empty() { GUESTS.to_vec() } else { sizes };

    println!(
        "kernel {}, QEMU TCG, 2 CPUs, ext4 on virtio-blk, level 31\n",
        bench.kernel(Series::V6_1)?.release
    );
    for (name, bytes) in programs.sizes()? {
        println!("{name:<32} {bytes:>10} bytes, static, stripped");
    }
    for memory in sizes {
        println!("\nguest with {memory} MiB, crashkernel={RESERVATION}M");
        let (crashed, dump) = capture(&bench, memory, RESERVATION)?.context("the capture failed")?;
        for (what, seconds) in times(&crashed, &dump)? {
            println!("  {what:<30} {seconds:>10.2} s");
        }
        let manifest = &dump.manifest;
        let kib = |what: &str, value: Option<u64>| match value {
            Some(kib) => println!("  {what:<30} {kib:>10} KiB"),
            None => println!("  {what:<30} {:>10}", "unknown"),
        };
        kib("collector, peak resident", manifest.engine_peak_kib);
        kib("crash kernel, MemTotal", manifest.mem_total_kib);
        kib("crash kernel, least available", manifest.mem_available_min_kib);
        for one in &manifest.dumps {
            println!(
                "  {:<30} {:>10} bytes, {} of {} pages",
                one.file, one.bytes, one.pages.kept, one.pages.present
            );
        }
        if let Some((said, _)) = crashed.run.console.section("image") {
            for line in said.lines() {
                println!("  image: {line}");
            }
        }
        if search {
            let smallest = smallest(&bench, memory)?;
            println!("  {:<30} {smallest:>10} MiB", "smallest crashkernel=");
        }
    }
    Ok(())
}

/// One capture; `None` when the crash kernel did not deliver.
fn capture(bench: &Bench<'_>, memory: u64, reservation: u64) -> Result<Option<(Crashed, Dump)>> {
    let mut crash = Crash::new(bench, &format!("figures-{memory}-{reservation}"), Series::V6_1)?;
    crash.memory = memory;
    crash.reservation = reservation;
    // The guest's own boot, and filling its memory, come before.
    crash.limit = PATIENCE + Duration::from_secs(90);
    POPULATE.clone_into(&mut crash.before);
    "section image sh -c 'vmcorectl arm --explain | grep ^image'".clone_into(&mut crash.after);
    let Ok(crashed) = crash.run(bench) else { return Ok(None) };
    let complete = crashed.dump().ok().filter(|dump| dump.manifest.outcome == Outcome::Complete);
    Ok(complete.map(|dump| (crashed, dump)))
}

/// Bisects between a reservation that cannot work and the one that has just worked.
fn smallest(bench: &Bench<'_>, memory: u64) -> Result<u64> {
    let (mut fails, mut works) = (TOO_SMALL, RESERVATION);
    while works - fails > STEP {
        let middle = fails + (works - fails) / 2 / STEP * STEP;
        let works_there = capture(bench, memory, middle)?.is_some();
        println!("    crashkernel={middle}M {}", if works_there { "works" } else { "fails" });
        if works_there {
            works = middle;
        } else {
            fails = middle;
        }
    }
    Ok(works)
}

//! `cargo xtask demo`: a kernel dies, and this is what one then has.

use crate::lab::cache::Cache;
use crate::lab::command::target_dir;
use crate::lab::guest::Paging;
use crate::lab::kernel::Series;
use crate::vm::crash::{Crash, Crashed, Dump, POPULATE};
use crate::vm::runner::Bench;
use anyhow::{Context, Result};
use collector::filter::Account;
use std::fs;
use std::time::{Duration, Instant};

/// Lines of the log that are shown.
const TAIL: usize = 24;

/// Runs it.
pub fn demo(_: &[String]) -> Result<()> {
    let cache = Cache::open()?;
    let programs = super::programs()?;
    let start = Instant::now();
    let bench = Bench::open(&cache, &programs, &[Series::V6_1])?;
    let kernel = bench.kernel(Series::V6_1)?;
    let mut crash = Crash::new(&bench, "demo", Series::V6_1)?;
    crash.paging = Paging::Five;
    crash.memory = 1024;
    crash.limit = Duration::from_secs(180);
    POPULATE.clone_into(&mut crash.before);
    println!(
        "booting {} in QEMU ({} MiB, 2 CPUs, crashkernel={}M), filling its memory, arming vmcored, `echo c > /proc/sysrq-trigger`",
        kernel.release, crash.memory, crash.reservation
    );
    let crashed = crash.run(&bench)?;
    let dump = crashed.dump()?;

    let shown = target_dir().join("demo");
    if shown.exists() {
        fs::remove_dir_all(&shown)?;
    }
    fs::create_dir_all(&shown)?;
    let name = dump.dir.file_name().context("a dump's directory has a name")?;
    let at = shown.join(name);
    fs::rename(&dump.dir, &at)?;
    show(&crashed, &Dump { dir: at, manifest: dump.manifest })?;
    println!("\nThe demonstration took {:.0} s.", start.elapsed().as_secs_f64());
    Ok(())
}

fn show(crashed: &Crashed, dump: &Dump) -> Result<()> {
    let manifest = &dump.manifest;
    println!("\nThe dump, taken out of the guest's disk: {}", dump.dir.display());
    for name in dump.names()? {
        let bytes = fs::metadata(dump.dir.join(&name))?.len();
        println!("  {name:<18} {bytes:>12} bytes");
    }
    println!("\nOutcome         {}", manifest.outcome);
    println!("Kernel          {} {}", manifest.kernel.release, manifest.kernel.version);
    println!("Panic message   {}", manifest.kernel.panic_message.as_deref().unwrap_or("none found"));
    for problem in &manifest.problems {
        println!("Problem         {}: {}", problem.code, problem.message);
    }

    println!("\nThe end of its log");
    let log = fs::read_to_string(dump.dir.join("vmcore-dmesg.txt"))?;
    let lines: Vec<&str> = log.lines().collect();
    // From the panic on, which is where a person would look; of a log without one, the end.
    let panic = lines.iter().rposition(|l| l.contains("Kernel panic")).unwrap_or(lines.len());
    let from = panic.min(lines.len().saturating_sub(TAIL));
    for line in lines[from..].iter().take(TAIL) {
        println!("  {line}");
    }

    for one in &manifest.dumps {
        println!("\nPages of {} (level {}, {})", one.file, one.level_applied, one.compression);
        let mib = |pages: u64| (pages * one.page_size) >> 20;
        for (what, pages) in rows(&one.pages) {
            if pages > 0 {
                println!("  {what:<28} {pages:>9}  {:>6} MiB", mib(pages));
            }
        }
        println!("  {:<28} {:>9}  {:>6} MiB", "in the file", "", one.bytes >> 20);
    }

    println!("\nTimes");
    for (what, seconds) in times(crashed, dump)? {
        println!("  {what:<28} {seconds:>7.2} s");
    }

    let release = &manifest.kernel.release;
    println!("\nTo open it (the debug symbols are Debian's linux-image-{release}-dbg):");
    println!("  crash /usr/lib/debug/boot/vmlinux-{release} {}/vmcore", dump.dir.display());
    println!("  drgn -c {}/vmcore -s /usr/lib/debug/boot/vmlinux-{release}", dump.dir.display());
    Ok(())
}

/// What became of the pages, for a person.
fn rows(pages: &Account) -> [(&'static str, u64); 14] {
    [
        ("present", pages.present),
        ("kept", pages.kept),
        ("dropped: zero", pages.zero),
        ("dropped: cache", pages.cache),
        ("dropped: cache, private data", pages.cache_private),
        ("dropped: anonymous", pages.user),
        ("dropped: hugetlb", pages.hugetlb),
        ("dropped: free", pages.free),
        ("dropped: unaccepted", pages.unaccepted),
        ("dropped: hardware error", pages.hwpoison),
        ("dropped: vmemmap", pages.vmemmap),
        ("dropped: offline", pages.offline),
        ("lost: unreadable", pages.unreadable),
        ("lost: unwritten", pages.unwritten),
    ]
}

/// Seconds of each stretch between the panic and the restart. The stages are from the manifest; the whole was measured
/// outside the guest, and what it has more is the crash kernel's own boot and the restart.
pub fn times(crashed: &Crashed, dump: &Dump) -> Result<Vec<(String, f64)>> {
    let total = crashed.seconds_to_restart()?;
    let seconds = |ms: u64| Duration::from_millis(ms).as_secs_f64();
    let stages = &dump.manifest.stages;
    let (first, last) = (stages.first().context("no stages")?, stages.last().context("no stages")?);
    let restart = crashed
        .run
        .console
        .find("reboot: Restarting system")
        .map(|line| crashed.run.took.saturating_sub(line.at).as_secs_f64());
    let inside = seconds((last.started_ms + last.took_ms).saturating_sub(first.started_ms));
    let restart = restart.unwrap_or(0.0);
    let mut rows = vec![("panic, kexec, crash kernel".to_owned(), total - inside - restart)];
    rows.extend(stages.iter().map(|s| (s.stage.to_string(), seconds(s.took_ms))));
    rows.push(("restart".to_owned(), restart));
    rows.push(("panic to restart, in all".to_owned(), total));
    Ok(rows)
}

//! Captures that cannot succeed: each must end in a restart in bounded time, with what was saved labelled for what it is.

use super::crash::{Crash, Crashed};
use super::runner::Bench;
use crate::lab::disk::Contents;
use crate::lab::kernel::Series;
use anyhow::{Result, ensure};
use collector::manifest::Outcome;
use collector::problem::Code;

/// Deadlines short enough to be waited for, in settings.
const LIMITS: &str = "[limits]\ndevice = 8\nmodules = 20\nmount = 20\nstall = 10\nengine = 40\nfinish = 20\n";

/// Seconds from the panic to the restart that nothing here may take, under TCG on a loaded machine.
const BOUND: f64 = 90.0;

fn faulty(bench: &Bench<'_>, name: &str, fault: &str) -> Result<Crashed> {
    let mut crash = Crash::new(bench, name, Series::V6_1)?;
    // Everything is dumped, so that there is a middle for the fault to happen in.
    crash.settings = format!(
        "[[target]]\npath = \"/var/crash\"\n[[dump]]\nfile = \"vmcore\"\nlevel = 0\n{LIMITS}\
         [kernel]\nappend = [\"vmcored.fault={fault}\"]\n\
         [image]\ncollector = \"/usr/lib/vmcored/vmcore-collect-faults\"\n"
    );
    crash.disk = (1024, Contents::Ext4);
    let crashed = crash.run(bench)?;
    restarted(&crashed)?;
    Ok(crashed)
}

/// The machine restarted by itself, in time.
fn restarted(crashed: &Crashed) -> Result<()> {
    let took = crashed.seconds_to_restart()?;
    ensure!(took < BOUND, "{took:.0} s from the panic to the restart");
    let console = crashed.crash_console();
    ensure!(console.contains("reboot: Restarting system"), "no restart on the console:\n{console}");
    Ok(())
}

/// The dump was cut, and says so everywhere.
fn partial(crashed: &Crashed, code: Code) -> Result<()> {
    let dump = crashed.dump()?;
    dump.expect(Outcome::Partial, &["manifest.json", "vmcore-dmesg.txt", "vmcore-incomplete"])?;
    let problems = &dump.manifest.problems;
    ensure!(problems.iter().any(|p| p.code == code), "no {code} among {problems:#?}");
    ensure!(dump.manifest.dumps.iter().all(|d| !d.complete), "a complete dump: {:#?}", dump.manifest.dumps);
    let console = crashed.crash_console();
    ensure!(console.contains("partial"), "the console does not call the dump partial:\n{console}");
    ensure!(console.contains(&code.to_string()), "no {code} on the console:\n{console}");
    let log = std::fs::read_to_string(dump.dir.join("vmcore-dmesg.txt"))?;
    ensure!(log.contains("sysrq triggered crash"), "the log is not whole:\n{log}");
    Ok(())
}

/// The engine panics in the middle of the dump.
pub fn engine_panics(bench: &Bench<'_>) -> Result<()> {
    partial(&faulty(bench, "engine-panics", "engine-panic@50")?, Code::ENGINE_FAILED)
}

/// The engine is killed in the middle of the dump.
pub fn engine_killed(bench: &Bench<'_>) -> Result<()> {
    partial(&faulty(bench, "engine-killed", "engine-kill@50")?, Code::ENGINE_KILLED)
}

/// The engine stops making progress.
pub fn engine_hangs(bench: &Bench<'_>) -> Result<()> {
    partial(&faulty(bench, "engine-hangs", "engine-hang@50")?, Code::DEADLINE)
}

/// The engine eats all memory of the crash kernel: either the kernel kills it, and PID 1 finishes, or there is nothing
/// left to kill and the kernel panics; both end in a restart.
pub fn engine_out_of_memory(bench: &Bench<'_>) -> Result<()> {
    let crashed = faulty(bench, "engine-out-of-memory", "engine-oom@50")?;
    let console = crashed.crash_console();
    ensure!(
        console.contains("the crash kernel ran out of memory"),
        "no sign of memory running out:\n{console}"
    );
    partial(&crashed, Code::ENGINE_KILLED)
}

/// The disk that was there when the image was made is not there any more.
pub fn target_absent(bench: &Bench<'_>) -> Result<()> {
    let mut crash = Crash::new(bench, "target-absent", Series::V6_1)?;
    crash.settings = format!("[[target]]\npath = \"/var/crash\"\n{LIMITS}");
    // No superblock, no UUID: to the crash kernel, no such device.
    "umount /var/crash; dd if=/dev/zero of=/dev/vda bs=1M count=4 conv=fsync 2>/dev/null"
        .clone_into(&mut crash.after);
    let crashed = crash.run(bench)?;
    restarted(&crashed)?;
    let console = crashed.crash_console();
    for wanted in [Code::DEVICE_MISSING.to_string().as_str(), crate::lab::disk::UUID, "nothing"] {
        ensure!(console.contains(wanted), "no {wanted:?} on the console:\n{console}");
    }
    Ok(())
}

/// The dump is larger than its disk.
pub fn target_full(bench: &Bench<'_>) -> Result<()> {
    let mut crash = Crash::new(bench, "target-full", Series::V6_1)?;
    crash.settings = format!(
        "[[target]]\npath = \"/var/crash\"\n[[dump]]\nfile = \"vmcore\"\nlevel = 0\ncompression = \"none\"\n{LIMITS}"
    );
    crash.disk = (64, Contents::Ext4);
    // Memory that no zero page and no sparse file makes small.
    "guest-load anon 150 & usleep 1000000; n=0; while [ $(awk '/AnonPages/{print $2}' /proc/meminfo) -lt 150000 ] && [ $n -lt 300 ]; do usleep 100000; n=$((n+1)); done"
        .clone_into(&mut crash.before);
    let crashed = crash.run(bench)?;
    restarted(&crashed)?;
    partial(&crashed, Code::TARGET_FULL)
}

//! Captures that cannot succeed: each must end in a restart in bounded time, with what was saved labelled for what it is.

use super::crash::{Crash, Crashed, Dump};
use super::runner::Bench;
use crate::lab::disk::Contents;
use crate::lab::kernel::Series;
use anyhow::{Result, ensure};
use collector::manifest::Outcome;
use collector::problem::Code;

/// Deadlines short enough to be waited for, in settings.
pub(super) const LIMITS: &str =
    "[limits]\ndevice = 8\nmodules = 20\nmount = 20\nstall = 10\nengine = 40\nfinish = 20\n";

/// Seconds from the panic to the restart that nothing here may take, under TCG on a loaded machine.
pub(super) const BOUND: f64 = 90.0;

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
pub(super) fn restarted(crashed: &Crashed) -> Result<()> {
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

/// The report on the crash stops moving: after its deadline there is a dump, and none of the report.
pub fn report_hangs(bench: &Bench<'_>) -> Result<()> {
    let dump = faulty(bench, "report-hangs", "triage-hang")?.dump()?;
    dump.expect(Outcome::Complete, &["manifest.json", "vmcore", "vmcore-dmesg.txt"])?;
    no_report(&dump)
}

/// The failure is told, and the report is not there.
fn no_report(dump: &Dump) -> Result<()> {
    let problems = &dump.manifest.problems;
    ensure!(problems.iter().any(|p| p.code == Code::TRIAGE_FAILED), "no word of the report: {problems:#?}");
    ensure!(dump.manifest.triage.is_none(), "{:#?}", dump.manifest.triage);
    ensure!(!dump.dir.join("triage.txt").exists(), "there is a report");
    Ok(())
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

/// The dump is larger than its disk, whatever is left out.
pub fn target_full(bench: &Bench<'_>) -> Result<()> {
    let mut crash = Crash::new(bench, "target-full", Series::V6_1)?;
    crash.settings = format!(
        "[[target]]\npath = \"/var/crash\"\n[[dump]]\nfile = \"vmcore\"\ncompression = \"none\"\n{LIMITS}"
    );
    crash.disk = (32, Contents::Ext4);
    let crashed = crash.run(bench)?;
    restarted(&crashed)?;
    partial(&crashed, Code::TARGET_FULL)
}

/// Everything does not fit, but what matters most does. The report on the crash panics, which costs nothing else.
pub fn target_small(bench: &Bench<'_>) -> Result<()> {
    let mut crash = Crash::new(bench, "target-small", Series::V6_1)?;
    crash.settings = format!(
        "[[target]]\npath = \"/var/crash\"\n[[dump]]\nfile = \"vmcore\"\nlevel = 0\n{LIMITS}\
             [kernel]\nappend = [\"vmcored.fault=triage-panic\"]\n\
             [image]\ncollector = \"/usr/lib/vmcored/vmcore-collect-faults\"\n"
    );
    crash.disk = (96, Contents::Ext4);
    // Memory that no codec makes small.
    "mount -t tmpfs -o size=200m tmp /tmp; dd if=/dev/urandom of=/tmp/noise bs=1M count=150 2>/dev/null"
        .clone_into(&mut crash.before);
    let crashed = crash.run(bench)?;
    restarted(&crashed)?;
    let dump = crashed.dump()?;
    dump.expect(Outcome::Complete, &["manifest.json", "vmcore", "vmcore-dmesg.txt"])?;
    let raised = dump.manifest.problems.iter().find(|p| p.code == Code::LEVEL_RAISED);
    ensure!(
        raised.is_some_and(|p| p.message.contains("do not fit into")),
        "no word of the level: {:#?}",
        dump.manifest.problems
    );
    ensure!(dump.manifest.dumps.iter().all(|d| d.level_applied == 31), "{:#?}", dump.manifest.dumps);
    no_report(&dump)
}

/// The first target is not there, the second takes the dump, and the disk, whose turn never comes, has the log.
pub fn ladder(bench: &Bench<'_>) -> Result<()> {
    let mut crash = Crash::new(bench, "ladder", Series::V6_1)?;
    let share = bench.scratch("ladder-share")?;
    // Owners and modes of the guest's files go into extended attributes: who runs this may not be root.
    let export = format!("local,path={},mount_tag=crash,security_model=mapped-xattr", share.display());
    crash.devices = vec!["-virtfs".to_owned(), export];
    crash.settings = format!(
        "[[target]]\nvirtiofs = \"nowhere\"\n\
         [[target]]\n9p = \"crash\"\npath = \"/dumps\"\nlevel = 17\nlimits = {{ reach = 10, total = 60 }}\n\
         [[target]]\npath = \"/var/crash\"\n{LIMITS}"
    );
    let crashed = crash.run(bench)?;
    restarted(&crashed)?;
    let on_disk = crashed.dump()?;
    on_disk.expect(Outcome::DmesgOnly, &["manifest.json", "vmcore-dmesg.txt"])?;
    let dump = Dump::in_directory(&share.join("dumps"))?;
    let told = &dump.manifest.targets;
    ensure!(dump.manifest.outcome == Outcome::Complete, "{:#?}", dump.manifest);
    ensure!(dump.names()? == ["manifest.json", "vmcore", "vmcore-dmesg.txt"], "{:?}", dump.names()?);
    ensure!(dump.manifest.dumps.iter().all(|d| d.level == 17), "{:#?}", dump.manifest.dumps);
    ensure!(told.len() == 2 && told[0].target.contains("nowhere"), "{told:#?}");
    ensure!(
        told[0].failure.as_deref().is_some_and(|why| why.contains("no share with this tag")),
        "{told:#?}"
    );
    ensure!(told[1].failure.is_none() && told[1].outcome == Outcome::Complete, "{told:#?}");
    for dir in [&on_disk.dir, &dump.dir] {
        let log = std::fs::read_to_string(dir.join("vmcore-dmesg.txt"))?;
        ensure!(log.contains("sysrq triggered crash"), "{}: the log is not whole:\n{log}", dir.display());
    }
    collector::input::Input::open(&[dump.dir.join("vmcore")])?;
    Ok(())
}

//! What is done besides dumping: the user's programs, a shell, a last resort, the hardware watchdog.

use super::crash::{Crash, Crashed};
use super::fault::{BOUND, LIMITS, restarted};
use super::runner::Bench;
use crate::lab::command::{find, output};
use crate::lab::disk::Contents;
use crate::lab::kernel::Series;
use crate::lab::machine::Machine;
use anyhow::{Context, Result, ensure};
use collector::manifest::{Outcome, Stage};
use collector::problem::Code;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// Seconds that the watchdog waits in the crash kernel: less than what it is fed through.
const WATCHDOG: u64 = 10;

/// A program with libraries, and those, for the guest's root.
fn elf() -> Result<Vec<(PathBuf, String)>> {
    let program = find("printenv").context("no printenv (apt install coreutils)")?;
    let said = output(Command::new("ldd").arg(&program))?;
    let libraries = said.split_whitespace().filter(|word| word.starts_with('/'));
    let mut files: Vec<_> = libraries.map(|path| (PathBuf::from(path), path.to_owned())).collect();
    ensure!(!files.is_empty(), "{} has no libraries: {said}", program.display());
    files.push((program, "/usr/bin/printenv".to_owned()));
    Ok(files)
}

/// Shell commands that make an executable script.
fn script(path: &str, text: &str) -> String {
    format!(
        "mkdir -p $(dirname {path}); cat > {path} <<'SCRIPT'\n#!/bin/sh\n{text}\nSCRIPT\nchmod 755 {path}\n"
    )
}

/// Gives the machine a watchdog, and has somebody keep it running.
fn with_watchdog(crash: &mut Crash<'_>) {
    crash.devices.extend(["-device", "i6300esb", "-action", "watchdog=reset"].map(str::to_owned));
    crash.before.push_str(
        "modprobe i6300esb
n=0; while [ ! -c /dev/watchdog ] && [ $n -lt 50 ]; do usleep 100000; n=$((n+1)); done
watchdog -T 90 -t 2 /dev/watchdog
n=0; while [ \"$(cat /sys/class/watchdog/watchdog0/state)\" != active ] && [ $n -lt 50 ]; do usleep 100000; n=$((n+1)); done
section watchdog cat /sys/class/watchdog/watchdog0/state\n",
    );
}

fn says(console: &str, wanted: &[&str]) -> Result<()> {
    for text in wanted {
        ensure!(console.contains(text), "no {text:?} on the console:\n{console}");
    }
    Ok(())
}

/// Hooks that do what they are for, one that hangs and one that fails; a watchdog whose time is shorter than the capture takes; and
/// a machine that halts and is then left alone by it.
pub fn hooks(bench: &Bench<'_>) -> Result<()> {
    let mut crash = Crash::new(bench, "hooks", Series::V6_1)?;
    crash.files = elf()?;
    with_watchdog(&mut crash);
    crash.before.push_str(&script(
        "/opt/before",
        "echo before has $# arguments and $(ls $VMCORED_DIRECTORY)\n/usr/bin/printenv VMCORED_HOOK VMCORED_TARGET",
    ));
    crash.before.push_str(&script("/etc/kdump/pre.d/10-hangs", "echo hanging now\nsleep 1000"));
    crash.before.push_str(&script("/etc/kdump/pre.d/20-fails", "exit 3"));
    crash.before.push_str(&script(
        "/opt/after",
        "echo \"$1 $VMCORED_OUTCOME\" > $VMCORED_DIRECTORY/after.txt; cp /proc/uptime $VMCORED_TARGET/uptime; sync",
    ));
    crash.settings = format!(
        "final_action = \"halt\"\n[[target]]\npath = \"/var/crash\"\n\
         [hooks]\npre = [\"/opt/before\"]\npost = [\"/opt/after\"]\nlimit = {}\n\
         [watchdog]\ntimeout = {WATCHDOG}\n[image]\nextra_bins = [\"/usr/bin/printenv\"]\n",
        WATCHDOG + 5
    );
    let crashed = crash.run_during(bench, |machine| {
        machine.wait_for("reboot: System halted")?;
        std::thread::sleep(Duration::from_secs(WATCHDOG + 2));
        machine.monitor()?.quit()
    })?;
    let console = crashed.crash_console();
    says(
        &console,
        &[
            "watchdog: watchdog0 (i6300ESB timer) is fed, and waits 10 s",
            "hook before: before has 0 arguments and manifest.json-incomplete vmcore-dmesg.txt",
            "hook before: pre",
            "hook before: /target/0",
            "hook 10-hangs: hanging now",
            "hook /etc/kdump/pre.d/10-hangs was over its deadline of 15 s and was killed",
            "hook /etc/kdump/pre.d/20-fails ended with status 3",
            "hook /opt/after: done",
            "watchdog: stopped",
        ],
    )?;
    let dump = crashed.dump()?;
    dump.expect(Outcome::Complete, &["after.txt", "manifest.json", "vmcore", "vmcore-dmesg.txt"])?;
    let told = std::fs::read_to_string(dump.dir.join("after.txt"))?;
    ensure!(told == "0 complete\n", "the hook after the dump was told {told:?}");
    ensure!(crashed.dir.join("files/uptime").exists(), "the target is not what VMCORED_TARGET says");
    let failed = dump.manifest.problems.iter().filter(|p| p.code == Code::HOOK_FAILED).count();
    ensure!(failed == 2, "{:#?}", dump.manifest.problems);
    let hooks = dump.manifest.stages.iter().find(|s| s.stage == Stage::Hooks).context("no stage of hooks")?;
    ensure!(hooks.took_ms >= 15_000, "{hooks:?}");
    collector::input::Input::open(&[dump.dir.join("vmcore")])?;
    Ok(())
}

/// A pre hook wants no dump: there is the log, and nothing is run that is for failures.
pub fn refused(bench: &Bench<'_>) -> Result<()> {
    let mut crash = Crash::new(bench, "hook-refuses", Series::V6_1)?;
    crash.before = script("/opt/no", "echo not today; exit 7") + &script("/opt/loud", "echo I was run");
    crash.settings = "on_failure = \"halt\"\n[[target]]\npath = \"/var/crash\"\n\
                      [hooks]\npre = [\"/opt/no\", \"/opt/loud\"]\npost = [\"/opt/loud\"]\nemergency = [\"/opt/loud\"]\n"
        .to_owned();
    let crashed = crash.run(bench)?;
    restarted(&crashed)?;
    let dump = crashed.dump()?;
    dump.expect(Outcome::DmesgOnly, &["manifest.json", "vmcore-dmesg.txt"])?;
    ensure!(dump.manifest.problems.iter().any(|p| p.code == Code::HOOK_REFUSED), "{:#?}", dump.manifest);
    let log = std::fs::read_to_string(dump.dir.join("vmcore-dmesg.txt"))?;
    ensure!(log.contains("sysrq triggered crash"), "the log is not whole:\n{log}");
    let console = crashed.crash_console();
    says(&console, &["hook no: not today", "hook /opt/no ended with status 7: no dump is wanted"])?;
    ensure!(!console.contains("I was run"), "a hook was run after the refusal:\n{console}");
    Ok(())
}

/// No target: the emergency hook, then a shell on the serial console, which somebody uses, interrupts and leaves.
pub fn shell(bench: &Bench<'_>) -> Result<()> {
    let mut crash = Crash::new(bench, "failure-shell", Series::V6_1)?;
    crash.files = elf()?;
    crash.settings = format!(
        "on_failure = \"shell\"\n[[target]]\npath = \"/var/crash\"\n{LIMITS}[hooks]\nemergency = [\"/usr/bin/printenv\"]\n"
    );
    "umount /var/crash; dd if=/dev/zero of=/dev/vda bs=1M count=4 conv=fsync 2>/dev/null"
        .clone_into(&mut crash.after);
    let talk = |machine: &Machine<'_>| -> Result<()> {
        machine.wait_for("`exit` to go on")?;
        for (said, answer) in [
            ("echo answer-$((6*7)) from $(tty)", "answer-42 from /dev/ttyS0"),
            ("head -c 4 /proc/vmcore | tail -c 3; ls /bin | grep vmcore; echo", "ELFvmcore-collect"),
            // What is interrupted is the program, and not the shell.
            ("echo sleeping-$((1+1)); sleep 1000", "sleeping-2"),
            ("\x03", ""),
            ("echo interrupted-$((1+2))", "interrupted-3"),
        ] {
            std::thread::sleep(Duration::from_millis(500));
            machine.say(said)?;
            machine.wait_for(answer)?;
        }
        machine.say("exit")
    };
    let crashed = crash.run_during(bench, talk)?;
    let console = crashed.crash_console();
    says(
        &console,
        &[
            "hook printenv: VMCORED_HOOK=emergency",
            "hook printenv: VMCORED_OUTCOME=nothing",
            "shell: done",
            "reboot: Restarting system",
        ],
    )
}

/// The only target is dead, and the root file system is the last one. Then the machine is powered off.
pub fn rootfs(bench: &Bench<'_>) -> Result<()> {
    let mut crash = Crash::new(bench, "failure-rootfs", Series::V6_1)?;
    crash.settings = format!(
        "on_failure = \"dump_to_rootfs\"\nfinal_action = \"poweroff\"\n[[target]]\nvirtiofs = \"nowhere\"\n{LIMITS}"
    );
    let crashed = crash.run(bench)?;
    let dump = crashed.dump()?;
    dump.expect(Outcome::Complete, &["manifest.json", "vmcore", "vmcore-dmesg.txt"])?;
    let told = &dump.manifest.targets;
    ensure!(told.len() == 2 && told[0].failure.is_some() && told[1].failure.is_none(), "{told:#?}");
    says(&crashed.crash_console(), &["reboot: Power down"])
}

/// An engine that hangs is the deadline's to end, although that is longer than the watchdog waits; a PID 1 that hangs is the
/// watchdog's.
pub fn watchdog(bench: &Bench<'_>) -> Result<()> {
    let mut crash = Crash::new(bench, "watchdog", Series::V6_1)?;
    with_watchdog(&mut crash);
    crash.disk = (1024, Contents::Ext4);
    crash.settings = format!(
        "[[target]]\npath = \"/var/crash\"\n[[dump]]\nfile = \"vmcore\"\nlevel = 0\n[limits]\nstall = {}\n\
         [watchdog]\ntimeout = {WATCHDOG}\n[kernel]\nappend = [\"vmcored.fault=engine-hang@50,supervisor-hang\"]\n\
         [image]\ncollector = \"/usr/lib/vmcored/vmcore-collect-faults\"\n",
        WATCHDOG + 5
    );
    let crashed: Crashed = crash.run(bench)?;
    let console = crashed.crash_console();
    says(&console, &["watchdog0 (i6300ESB timer) is fed", "made no progress and was killed"])?;
    ensure!(!console.contains("reboot: "), "PID 1 did not hang:\n{console}");
    let took = crashed.seconds_to_restart()?;
    ensure!(took < BOUND, "{took:.0} s from the panic to the reset");
    let dump = crashed.dump()?;
    dump.expect(Outcome::Partial, &["manifest.json", "vmcore-dmesg.txt", "vmcore-incomplete"])?;
    ensure!(dump.manifest.problems.iter().any(|p| p.code == Code::DEADLINE), "{:#?}", dump.manifest.problems);
    Ok(())
}

//! Tasks and their stacks: ours, which needs nothing but the dump, beside drgn's and crash's with DWARF.

use crate::lab::oracle::{Drgn, Thread};
use anyhow::{Context, Result, ensure};
use collector::engine::Engine;
use collector::input::Input;
use collector::report::Report;
use collector::triage::Task;
use collector::triage::stack::{End, How, Stack};
use std::path::Path;
use std::time::Duration;

/// Asserts that for every task of a dump name, state, parent, memory and each frame of its stack are as drgn has them.
///
/// Of frames the addresses are compared, and the names of functions: but not of assembly, where a label is as good as the
/// symbol, and not inlined ones, which only DWARF knows. drgn may end earlier. `debug`: vmlinux, and the modules that matter.
pub fn stacks_agree(drgn: &Drgn, dump: &Path, debug: &[&Path]) -> Result<()> {
    let theirs = drgn.threads(dump, debug)?;
    let input = Input::open(&[dump])?;
    let mut engine = Engine::open(input.source())?;
    let (ours, unknown) = engine.triage(Duration::from_secs(60), |dead| {
        let tasks = dead.tasks().into_iter();
        let ours: Vec<_> = tasks.map(|task| (dead.stack(task.at), task)).collect();
        (ours, dead.unknown())
    });
    ensure!(unknown.is_empty(), "not known of {}: {unknown:?}", dump.display());
    ensure!(theirs.len() > 20, "drgn finds {} tasks in {}", theirs.len(), dump.display());
    let mut frames = 0;
    for thread in &theirs {
        let what =
            || format!("task {} {:?} at {:#x} of {}", thread.pid, thread.comm, thread.at, dump.display());
        let (stack, task) = ours.iter().find(|(_, task)| task.at == thread.at).with_context(what)?;
        same_task(task, thread).with_context(what)?;
        let stack = stack.as_ref().map_err(|why| anyhow::anyhow!("{why}")).with_context(what)?;
        same_stack(stack, thread)
            .with_context(|| format!("ours:\n{}\ndrgn: {:#x?}", shown(stack), thread.frames))
            .with_context(what)?;
        frames += stack.frames.len();
    }
    // drgn does not show a CPU's idle task that a boot parameter left out, nor zombies' threads twice.
    ensure!(ours.len() == theirs.len(), "{} tasks, drgn finds {}", ours.len(), theirs.len());
    println!("   {}: {} stacks, {frames} frames agree", dump.display(), theirs.len());
    Ok(())
}

fn same_task(ours: &Task, theirs: &Thread) -> Result<()> {
    let state = match ours.state.letters() {
        "RU" => "R",
        "IN" => "S",
        "UN" => "D",
        "ID" => "I",
        "ZO" => "Z",
        "DE" => "X",
        other => other,
    };
    let seen = (ours.pid, ours.tgid, ours.ppid, ours.comm.as_str(), state, ours.rss);
    let want = (
        theirs.pid,
        theirs.tgid,
        theirs.ppid,
        theirs.comm.as_str(),
        theirs.state.as_str(),
        theirs.rss_pages * 4096,
    );
    ensure!(seen == want, "{seen:?}, drgn: {want:?}");
    Ok(())
}

fn same_stack(ours: &Stack, theirs: &Thread) -> Result<()> {
    let ends = !matches!(ours.end, End::Broken(_));
    ensure!(ends, "it ends early: {:?}", ours.end);
    ensure!(ours.frames.iter().all(|f| f.how != How::Guess), "it has guesses");
    for (index, (ours, theirs)) in ours.frames.iter().zip(&theirs.frames).enumerate() {
        ensure!(ours.ip == theirs.at, "frame {index} is {:#x}, drgn's {:#x}", ours.ip, theirs.at);
        let name = ours.function();
        let same = theirs.names.is_empty() || theirs.names.iter().any(|n| n.split('.').next() == name);
        ensure!(same, "frame {index} is in {name:?}, drgn says {:?}", theirs.names);
    }
    let more = theirs.frames.len() > ours.frames.len() && ours.end != End::User;
    ensure!(!more, "drgn has {} frames, ours {}", theirs.frames.len(), ours.frames.len());
    Ok(())
}

/// Asserts that crash's `bt -a` names the functions that called what ran on each CPU, in the same order and between the same
/// ends. crash shows how an NMI stopped a CPU, which its registers have no part of, and on kernels with ORC some functions twice
/// and others that had returned long ago, whose addresses are still on the stack: drgn knows those, see [`stacks_agree`].
pub fn crash_agrees(said: &str, dump: &Path) -> Result<()> {
    let theirs = of_crash(said);
    ensure!(theirs.len() > 1, "crash shows {} stacks:\n{said}", theirs.len());
    let input = Input::open(&[dump])?;
    let mut engine = Engine::open(input.source())?;
    let ours = engine.triage(Duration::from_secs(60), |dead| {
        let cpus = dead.online_cpus().unwrap_or_default().iter();
        cpus.map(|cpu| dead.stack_of_cpu(*cpu).map(|stack| (*cpu, stack))).collect::<Result<Vec<_>, _>>()
    });
    for (cpu, stack) in ours.map_err(|why| anyhow::anyhow!("{why}"))? {
        let (_, names) = theirs.iter().find(|(of, _)| *of == cpu).context("crash misses a CPU")?;
        let functions = stack.functions();
        let mut rest = names.iter();
        let all = functions.iter().all(|function| rest.any(|name| name == function));
        let ends = functions.first() == names.first() && functions.last() == names.last();
        ensure!(all && ends, "CPU {cpu}:\n{}crash: {names:?}", shown(&stack));
    }
    println!("   {}: the stacks of {} CPUs are as crash has them", dump.display(), theirs.len());
    Ok(())
}

/// Asserts that the report of a dump has the stack of the task that died as the kernel itself wrote it into its log, from who
/// called `panic` on: there is no other word on what a foreign machine did. What it did after that is not in its log.
pub fn log_agrees(dump: &Path) -> Result<()> {
    let input = Input::open(&[dump])?;
    let mut engine = Engine::open(input.source())?;
    let kernel = engine.kernel();
    let report = engine.triage(Duration::from_secs(60), |dead| Report::of(dead, kernel));
    ensure!(report.unknown.is_empty(), "not known of {}: {:?}", dump.display(), report.unknown);
    let texts = report.log.lines.iter().filter_map(|line| Some(line.split_once("] ")?.1));
    let trace =
        texts.skip_while(|text| *text != "Call trace:").skip(1).take_while(|text| text.starts_with(' '));
    let theirs: Vec<&str> = trace.filter_map(|line| line.trim().split(['+', '.']).next()).collect();
    let panic = report.panic.as_ref().context("nobody died")?;
    let ours = panic.stack.functions();
    let behind = |names: &[&str]| -> Option<Vec<String>> {
        let at = names.iter().position(|name| *name == "panic")?;
        Some(names[at + 1..].iter().map(|name| (*name).to_owned()).collect())
    };
    let (ours, theirs) =
        (behind(&ours).context("no panic on the stack")?, behind(&theirs).context("no panic in the log")?);
    ensure!(ours == theirs && ours.len() > 8, "{}log: {theirs:?}", shown(&panic.stack));
    let verdict = &report.verdict;
    ensure!(
        verdict.line.contains("sysrq, by ") && verdict.function.as_deref() == Some("sysrq_handle_crash"),
        "{verdict:?}"
    );
    println!("   {}: {} ({} frames as in its log)", dump.display(), verdict.line, ours.len());
    Ok(())
}

/// Functions by CPU, the innermost first.
fn of_crash(said: &str) -> Vec<(u32, Vec<&str>)> {
    let mut stacks: Vec<(u32, Vec<&str>)> = Vec::new();
    for line in said.lines() {
        if let Some((_, rest)) = line.split_once("  CPU: ").filter(|_| line.starts_with("PID: ")) {
            let cpu = rest.split_whitespace().next().and_then(|cpu| cpu.parse().ok());
            stacks.extend(cpu.map(|cpu| (cpu, Vec::new())));
        }
        let Some((_, names)) = stacks.last_mut() else { continue };
        if line.starts_with("--- <") {
            names.clear();
        } else if let Some((_, rest)) = line.trim_start().strip_prefix('#').and_then(|l| l.split_once("] ")) {
            let name = rest.split([' ', '.']).next().unwrap_or_default();
            // What jumps into the crash kernel comes after its registers were saved.
            if name != "machine_kexec" && names.last() != Some(&name) {
                names.push(name);
            }
        }
    }
    stacks
}

fn shown(stack: &Stack) -> String {
    stack.frames.iter().map(|f| format!("  {:#x} {f} {:?}\n", f.ip, f.how)).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn stacks_of_crash_are_read() {
        let said = "\
PID: 1        TASK: ffff8d9341202100  CPU: 0    COMMAND: \"init\"
 #0 [ffffd1df80013c38] machine_kexec at ffffffff8ca7754f
 #1 [ffffd1df80013c90] __crash_kexec at ffffffff8cb74117
 #9 [ffffd1df80013f00] do_syscall_64 at ffffffff8d443e1d
#10 [ffffd1df80013f20] do_syscall_64 at ffffffff8d443e29
    RIP: 000000000047b7a0  RSP: 00007fff94780cb8  RFLAGS: 00000202

PID: 0        TASK: ffff8d934126a100  CPU: 1    COMMAND: \"swapper/1\"
 #0 [fffffe0000048ea8] crash_nmi_callback at ffffffff8ca6b39c
--- <NMI exception stack> ---
 #4 [ffffd1df8009bed8] idle.cold at ffffffff8d4592eb
";
        let wanted = [(0, vec!["__crash_kexec", "do_syscall_64"]), (1, vec!["idle"])];
        assert_eq!(super::of_crash(said), wanted);
    }
}

//! Tasks and their stacks: ours, which needs nothing but the dump, beside drgn's with DWARF.

use crate::lab::oracle::{Drgn, Thread};
use anyhow::{Context, Result, ensure};
use collector::engine::Engine;
use collector::input::Input;
use collector::triage::Task;
use collector::triage::stack::{End, How, Stack};
use std::path::Path;
use std::time::Duration;

/// Asserts that for every task of a dump name, state, parent, memory and each frame of its stack are as drgn has them.
///
/// Of frames the addresses are compared, and the names of functions: but not of assembly, where a label is as good as the
/// symbol, and not inlined ones, which only DWARF knows. drgn may end earlier.
pub fn stacks_agree(drgn: &Drgn, dump: &Path, vmlinux: &Path) -> Result<()> {
    let theirs = drgn.threads(dump, vmlinux)?;
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

fn shown(stack: &Stack) -> String {
    stack.frames.iter().map(|f| format!("  {:#x} {f} {:?}\n", f.ip, f.how)).collect()
}

//! `vmcorectl bt`, `ps`, `mod`, `sym`, `rd`, `struct`: what was in a dead kernel's memory, with no debuginfo.

use super::open;
use anyhow::{Context, anyhow, bail};
use clap::{Args, Subcommand};
use collector::engine::Engine;
use collector::kernel::btf::{Kind, TypeId};
use collector::report::{Trace, hung_task};
use collector::triage::stack::{Code, End, Stack};
use collector::triage::{Dead, Registers, Task, taint_letters, taint_meanings};
use collector::vmcore::EM_X86_64;
use serde::Serialize;
use serde_json::json;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A dump that asks for more is not what it seems.
const LIMIT: Duration = Duration::from_secs(120);

/// Words that `rd` shows at most.
const MAX_WORDS: u64 = 1 << 16;

/// Lines that a structure takes at most.
const MAX_LINES: usize = 4096;

/// Which dump, and how to answer.
#[derive(Args, Clone, Debug)]
pub struct Source {
    /// A dump of any kind, what `list` matches, or /proc/kcore, the running kernel [default: the last crash, or else the
    /// running kernel]
    #[arg(long, short, value_name = "FILE|MATCH")]
    pub dump: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// What to ask.
#[derive(Subcommand, Clone, Debug)]
pub enum AskCommand {
    /// Who called whom: of the task that the kernel died in, of others, of all CPUs
    Bt {
        /// Of what each CPU ran
        #[arg(long, short, conflicts_with_all = ["blocked", "pids"])]
        all: bool,
        /// Of every task that waits and cannot be interrupted (state D)
        #[arg(long, short = 'D')]
        blocked: bool,
        /// Of these tasks
        #[arg(value_name = "PID")]
        pids: Vec<i64>,
        /// Which dump.
        #[command(flatten)]
        source: Source,
    },
    /// All tasks: those that ran are marked
    Ps {
        /// Which dump.
        #[command(flatten)]
        source: Source,
    },
    /// Modules, and what has tainted the kernel
    Mod {
        /// Which dump.
        #[command(flatten)]
        source: Source,
    },
    /// What an address is in, or where a symbol is
    Sym {
        /// 0xffffffff81000000, panic
        #[arg(required = true, value_name = "ADDR|NAME")]
        what: Vec<String>,
        /// Which dump.
        #[command(flatten)]
        source: Source,
    },
    /// Words of memory, 8 bytes each
    Rd {
        /// 0xffffffff81000000, jiffies, init_task+16, runqueues:0 (a variable that each CPU has)
        #[arg(value_name = "ADDR|NAME")]
        at: String,
        /// How many words
        #[arg(value_name = "N", default_value = "1")]
        count: u64,
        /// Which dump.
        #[command(flatten)]
        source: Source,
    },
    /// A type, or what lies at an address as one
    Struct {
        /// task_struct
        #[arg(value_name = "TYPE")]
        name: String,
        /// 0xffffffff81000000, init_task, runqueues:0
        #[arg(value_name = "ADDR|NAME")]
        at: Option<String>,
        /// Which dump.
        #[command(flatten)]
        source: Source,
    },
}

impl AskCommand {
    /// Which dump it is about.
    pub fn source(&self) -> &Source {
        match self {
            Self::Bt { source, .. }
            | Self::Ps { source }
            | Self::Mod { source }
            | Self::Sym { source, .. }
            | Self::Rd { source, .. }
            | Self::Struct { source, .. } => source,
        }
    }
}

/// Asks `dump` and writes the answer.
pub fn run(command: &AskCommand, dump: &Path, out: &mut dyn Write) -> anyhow::Result<()> {
    let input = open(&[dump.to_owned()]).map_err(anyhow::Error::msg)?;
    let mut engine = Engine::open(input.source())?;
    let json = command.source().json;
    engine.triage(LIMIT, |dead| {
        let answer = match command {
            AskCommand::Bt { all, blocked, pids, .. } => bt(dead, *all, *blocked, pids, json, out),
            AskCommand::Ps { .. } => ps(dead, json, out),
            AskCommand::Mod { .. } => modules(dead, json, out),
            AskCommand::Sym { what, .. } => what.iter().try_for_each(|what| sym(dead, what, json, out)),
            AskCommand::Rd { at, count, .. } => rd(dead, at, *count, json, out),
            AskCommand::Struct { name, at, .. } => structure(dead, name, at.as_deref(), json, out),
        };
        for unknown in dead.unknown() {
            eprintln!("vmcorectl: warning: {unknown}");
        }
        answer
    })
}

fn write_json(out: &mut dyn Write, value: &impl Serialize) -> anyhow::Result<()> {
    writeln!(out, "{}", serde_json::to_string_pretty(value)?)?;
    Ok(())
}

/// A task with its stack, and what its CPU's registers were.
struct Traced {
    task: Task,
    stack: Result<Stack, String>,
    registers: Option<Registers>,
    code: Option<Code>,
    /// It is the task that a panic for hung tasks is about.
    hung: bool,
}

fn bt(
    dead: &Dead<'_>,
    all: bool,
    blocked: bool,
    pids: &[i64],
    json: bool,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let panic = dead.panic_cpu();
    let mut traced = Vec::new();
    if pids.is_empty() && !blocked {
        let cpus = dead.online_cpus().map_err(|e| anyhow!("{e}"))?;
        let wanted: Vec<u32> = match panic {
            Some(cpu) if !all => vec![cpu],
            // Nobody says which CPU it was: all of them.
            _ => cpus.to_vec(),
        };
        for cpu in wanted {
            let current = dead.current(cpu).and_then(|at| dead.task(at));
            let mut task = current.map_err(|e| anyhow!("what CPU {cpu} ran: {e}"))?;
            (task.running, task.cpu) = (true, cpu);
            let registers = dead.registers(cpu);
            // Where somebody called the code that stops a CPU there is nothing to be seen in it.
            let code = registers.as_ref().filter(|r| !r.is_user()).and_then(|r| dead.code(r.ip()).ok());
            let stack = dead.stack_of_cpu(cpu).map_err(|e| e.to_string());
            traced.push(Traced { task, stack, registers, code, hung: false });
        }
        // Who found it is not who hung.
        if let Some(Trace { task, stack, .. }) = hung_task(dead) {
            traced.push(Traced { task, stack: Ok(stack), registers: None, code: None, hung: true });
        }
    } else {
        let tasks = dead.tasks();
        if let Some(pid) = pids.iter().find(|pid| tasks.iter().all(|task| task.pid != **pid)) {
            bail!("there was no task {pid}: `vmcorectl ps` lists them");
        }
        for task in tasks {
            if pids.contains(&task.pid) || (blocked && task.state.is_blocked()) {
                let registers = if task.running { dead.registers(task.cpu) } else { None };
                let stack = dead.stack(task.at).map_err(|e| e.to_string());
                traced.push(Traced { task, stack, registers, code: None, hung: false });
            }
        }
    }
    if traced.is_empty() {
        eprintln!("vmcorectl: no task was blocked (in state D)");
    }
    if json {
        let list: Vec<_> = traced
            .iter()
            .map(|t| {
                let registers = t
                    .registers
                    .as_ref()
                    .map(|r| r.each().map(|(name, value)| (name, format!("{value:#x}"))).collect::<Vec<_>>());
                json!({
                    "task": t.task,
                    "hung": t.hung,
                    "panicked": t.task.running && panic == Some(t.task.cpu),
                    "stack": t.stack.as_ref().ok(),
                    "error": t.stack.as_ref().err(),
                    "registers": registers,
                    "code": t.code,
                })
            })
            .collect();
        return write_json(out, &list);
    }
    for (index, one) in traced.iter().enumerate() {
        if index > 0 {
            writeln!(out)?;
        }
        show(one, panic, out)?;
    }
    Ok(())
}

fn show(traced: &Traced, panic: Option<u32>, out: &mut dyn Write) -> io::Result<()> {
    let Traced { task, stack, registers, code, hung } = traced;
    let died = match panic {
        Some(cpu) if task.running && cpu == task.cpu => ", where the kernel died",
        _ if *hung => ", which was hung",
        _ => "",
    };
    let state = task.state.letters();
    writeln!(out, "PID {}  {:?}  {state}  CPU {}{died}  task {:#x}", task.pid, task.comm, task.cpu, task.at)?;
    match stack {
        Err(why) => writeln!(out, "  no stack: {why}")?,
        Ok(stack) => {
            let mut on = None;
            for (index, frame) in stack.frames.iter().enumerate() {
                let label = frame.stack.label();
                if on != label {
                    if let Some(left) = on {
                        writeln!(out, "      </{left}>")?;
                    }
                    if let Some(entered) = label {
                        writeln!(out, "      <{entered}>")?;
                    }
                    on = label;
                }
                writeln!(out, " #{index:<3} {:#018x}  {frame}", frame.ip)?;
            }
            if let End::Broken(why) = &stack.end {
                writeln!(out, "      it goes on, but {why}")?;
            }
        }
    }
    if let Some(registers) = registers {
        for (index, (name, value)) in registers.each().enumerate() {
            let space = if index % 3 == 0 { "    " } else { "  " };
            let end = if index % 3 == 2 { "\n" } else { "" };
            write!(out, "{space}{name:>8} {value:016x}{end}")?;
        }
        if registers.each().count() % 3 != 0 {
            writeln!(out)?;
        }
    }
    if let Some(code) = code {
        writeln!(out, "    code  {}", code.bytes)?;
        for line in &code.instructions {
            let arrow = if line.current { "=>" } else { "  " };
            let offset = line.offset.map(|o| format!("+{o:#x}")).unwrap_or_default();
            writeln!(out, " {arrow} {:#018x} {offset:<8} {}", line.at, line.text)?;
        }
    }
    Ok(())
}

fn ps(dead: &Dead<'_>, json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    let tasks = dead.tasks();
    if json {
        return write_json(out, &tasks);
    }
    writeln!(out, "     PID    PPID  CPU        TASK        ST        SIZE         RSS  COMM")?;
    for task in &tasks {
        let mark = if task.running { '>' } else { ' ' };
        let comm = if task.kernel { format!("[{}]", task.comm) } else { task.comm.clone() };
        let (size, rss) = (format!("{} K", task.size >> 10), format!("{} K", task.rss >> 10));
        writeln!(
            out,
            "{mark}{:>7} {:>7} {:>4}  {:016x}  {}  {size:>11} {rss:>11}  {comm}",
            task.pid,
            task.ppid,
            task.cpu,
            task.at,
            task.state.letters(),
        )?;
    }
    Ok(())
}

fn modules(dead: &Dead<'_>, json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    let modules = dead.modules();
    let taint = dead.known("taint", dead.taint()).unwrap_or(0);
    let meanings = taint_meanings(taint);
    if json {
        return write_json(out, &json!({ "taint": taint_letters(taint), "modules": modules }));
    }
    writeln!(out, "taint {}", if taint == 0 { "none".to_owned() } else { taint_letters(taint) })?;
    for (letter, meaning) in meanings {
        writeln!(out, "  {letter}  {meaning}")?;
    }
    if !modules.is_empty() {
        writeln!(out, "            BASE       SIZE  TAINT  NAME")?;
    }
    for module in &modules {
        let version = module.version.as_ref().map(|v| format!("  {v}")).unwrap_or_default();
        let state = if module.state == "live" { String::new() } else { format!("  ({})", module.state) };
        let ours = if module.out_of_tree { "  (out of tree)" } else { "" };
        writeln!(
            out,
            "{:016x} {:>10}  {:<5}  {}{version}{state}{ours}",
            module.base, module.size, module.taint, module.name
        )?;
    }
    Ok(())
}

/// An address as a number: with `0x`, or 16 hexadecimal digits.
fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None if text.len() == 16 => u64::from_str_radix(text, 16).ok(),
        None => None,
    }
}

/// An address, a symbol, `NAME:CPU` of what each CPU has its own of, or any of them with a distance behind it.
fn address(dead: &Dead<'_>, text: &str) -> anyhow::Result<u64> {
    let (base, more) = text.split_once('+').unwrap_or((text, "0"));
    let more =
        number(more).or_else(|| more.parse().ok()).with_context(|| format!("{more:?} is no number"))?;
    if let Some(at) = number(base) {
        return Ok(at.wrapping_add(more));
    }
    let (base, cpu) = match base.split_once(':') {
        Some((base, cpu)) => (base, Some(cpu.parse().with_context(|| format!("{cpu:?} is no CPU"))?)),
        None => (base, None),
    };
    let found = dead.symbols_named(base).map_err(|e| anyhow!("{e}"))?;
    match (found.as_slice(), cpu) {
        ([], _) => bail!("there is no symbol {base}, and it is no address: these start with 0x"),
        ([(at, _)], Some(cpu)) => Ok(dead.percpu(cpu, *at).map_err(|e| anyhow!("{e}"))?.wrapping_add(more)),
        // Before relocation they are counted from 0, where nothing else of a kernel is.
        ([(at, None)], None) if dead.machine() == EM_X86_64 && *at < 1 << 32 => {
            bail!("each CPU has its own {base}: say which, as in {base}:0")
        }
        ([(at, _)], None) => Ok(at.wrapping_add(more)),
        (several, _) => {
            let all: Vec<_> = several.iter().map(|(at, _)| format!("{at:#x}")).collect();
            bail!("{} symbols are called {base}: {}", all.len(), all.join(", "))
        }
    }
}

fn sym(dead: &Dead<'_>, what: &str, json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    let found: Vec<u64> = match number(what) {
        Some(at) => vec![at],
        None => {
            let found = dead.symbols_named(what).map_err(|e| anyhow!("{e}"))?;
            if found.is_empty() {
                bail!("there is no symbol {what}, and it is no address: these start with 0x");
            }
            found.into_iter().map(|(at, _)| at).collect()
        }
    };
    for at in found {
        let spot = dead.spot(at);
        if json {
            write_json(out, &json!({ "at": format!("{at:#x}"), "symbol": spot }))?;
            continue;
        }
        let shown = spot.map_or_else(|| "no symbol".to_owned(), |spot| spot.to_string());
        // A per-CPU variable has no place of its own.
        let shown = if number(what).is_none() && shown == "no symbol" { what.to_owned() } else { shown };
        writeln!(out, "{at:016x}  {shown}")?;
    }
    Ok(())
}

fn rd(dead: &Dead<'_>, at: &str, count: u64, json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    if count > MAX_WORDS {
        bail!("{count} words are more than {MAX_WORDS}");
    }
    let at = address(dead, at)?;
    let mut words = Vec::new();
    for index in 0..count {
        let here = at.wrapping_add(index * 8);
        match dead.u64(here) {
            Ok(word) => words.push(word),
            Err(why) if words.is_empty() => bail!("{here:#x}: {why}"),
            Err(why) => {
                dead.note(format!("{here:#x}: {why}"));
                break;
            }
        }
    }
    if json {
        let words: Vec<_> = words.iter().map(|word| format!("{word:#018x}")).collect();
        return write_json(out, &json!({ "at": format!("{at:#x}"), "words": words }));
    }
    for (line, pair) in (0_u64..).zip(words.chunks(2)) {
        let hex: Vec<_> = pair.iter().map(|word| format!("{word:016x}")).collect();
        let text: String = pair
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .map(|byte| if byte.is_ascii_graphic() || byte == b' ' { char::from(byte) } else { '.' })
            .collect();
        writeln!(out, "{:016x}:  {:<33}  {text}", at.wrapping_add(line * 16), hex.join(" "))?;
    }
    Ok(())
}

/// A line of a structure.
#[derive(Serialize)]
struct Line {
    offset: u64,
    name: String,
    #[serde(rename = "type")]
    ty: String,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip)]
    depth: usize,
}

fn structure(
    dead: &Dead<'_>,
    name: &str,
    at: Option<&str>,
    json: bool,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let name = name.strip_prefix("struct ").unwrap_or(name);
    let id = dead.ty_named(name).map_err(|e| anyhow!("{e}"))?;
    let id = id.with_context(|| format!("this kernel has no struct {name}"))?;
    let at = at.map(|at| address(dead, at)).transpose()?;
    let btf = dead.btf().map_err(|e| anyhow!("{e}"))?;
    let size = btf.size(id)?;
    if let Some(at) = at {
        dead.u8(at).map_err(|e| anyhow!("{at:#x}: {e}"))?;
    }
    let mut lines = Vec::new();
    members(dead, id, at, 0, 0, &mut lines)?;
    if json {
        let at = at.map(|at| format!("{at:#x}"));
        return write_json(out, &json!({ "type": btf.shown(id)?, "size": size, "at": at, "members": lines }));
    }
    match at {
        Some(at) => writeln!(out, "{} at {at:#x} {{", btf.shown(id)?)?,
        None => writeln!(out, "{} {{", btf.shown(id)?)?,
    }
    for line in &lines {
        let name = if line.name.is_empty() { "{…}" } else { &line.name };
        let indent = "  ".repeat(line.depth);
        let value = line.value.as_ref().map(|value| format!(" = {value}")).unwrap_or_default();
        writeln!(out, "  [{:>5}] {indent}{} {name}{value};", line.offset, line.ty)?;
    }
    writeln!(out, "}}  size {size}")?;
    Ok(())
}

/// The members of a type, those of the structures in it below them.
fn members(
    dead: &Dead<'_>,
    id: TypeId,
    at: Option<u64>,
    base: u64,
    depth: usize,
    lines: &mut Vec<Line>,
) -> anyhow::Result<()> {
    let btf = dead.btf().map_err(|e| anyhow!("{e}"))?;
    let mut found = Vec::new();
    btf.members(id, |name, field| found.push((name.to_owned(), field)))?;
    for (name, field) in found {
        if lines.len() >= MAX_LINES {
            bail!("it has more than {MAX_LINES} members");
        }
        dead.budget().step().map_err(|e| anyhow!("{e}"))?;
        let offset = base.saturating_add(field.bit_offset / 8);
        let (inner, plain) = btf.plain(field.ty)?;
        let ty = match field.bits {
            Some(bits) => format!("{}:{bits}", btf.shown(field.ty)?),
            None => btf.shown(field.ty)?,
        };
        let size = btf.size(field.ty)?;
        let inside = matches!(plain.kind, Kind::Struct | Kind::Union) && depth < 8;
        let value = match at {
            Some(at) if !inside => Some(value(dead, at, base, field, plain.kind)),
            _ => None,
        };
        lines.push(Line { offset, name: name.clone(), ty, size, value, depth });
        // Of a type alone only what has no name of its own is opened up.
        if inside && (at.is_some() || name.is_empty()) {
            members(dead, inner, at, offset, depth + 1, lines)?;
        }
    }
    Ok(())
}

/// What a member is, as text.
fn value(dead: &Dead<'_>, at: u64, base: u64, field: collector::kernel::btf::Field, kind: Kind) -> String {
    let bit = field.bit_offset;
    let here = at.wrapping_add(base).wrapping_add(bit / 8);
    let read = || -> Result<String, String> {
        let btf = dead.btf().map_err(|e| e.to_string())?;
        let size = btf.size(field.ty).map_err(|e| e.to_string())?;
        let shown = btf.shown(field.ty).map_err(|e| e.to_string())?;
        let member = collector::triage::Member {
            offset: 0,
            size,
            bits: field.bits.map(|bits| (u32::try_from(bit % 8).unwrap_or(0), u32::from(bits))),
            ty: field.ty,
        };
        let text = |e: collector::triage::Unknown| e.to_string();
        Ok(match kind {
            Kind::Pointer => {
                let to = dead.u64(here).map_err(text)?;
                match dead.spot(to) {
                    Some(spot) => format!("{to:#x} <{spot}>"),
                    None => format!("{to:#x}"),
                }
            }
            Kind::Int | Kind::Enum | Kind::Enum64 if size <= 8 => {
                let raw = dead.get_member(here, member).map_err(text)?;
                if raw < 10 { raw.to_string() } else { format!("{raw} ({raw:#x})") }
            }
            Kind::Array if shown.starts_with("char [") => {
                format!(
                    "{:?}",
                    dead.cstring(here, usize::try_from(size.min(256)).unwrap_or(256)).map_err(text)?
                )
            }
            Kind::Array => {
                let bytes = dead.bytes(here, usize::try_from(size.min(32)).unwrap_or(32)).map_err(text)?;
                let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("{hex}{}", if size > 32 { "…" } else { "" })
            }
            _ => "?".to_owned(),
        })
    };
    read().unwrap_or_else(|why| format!("? ({why})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_from_names() {
        for (text, want) in [
            ("0xffffffff81000000", Some(0xffff_ffff_8100_0000)),
            ("ffffffff81000000", Some(0xffff_ffff_8100_0000)),
            ("0x10", Some(16)),
            ("deadbeef", None),
            ("panic", None),
            ("0xz", None),
        ] {
            assert_eq!(number(text), want, "{text}");
        }
    }

    #[test]
    fn every_command_says_which_dump() {
        use clap::Parser;
        for words in [
            &["bt", "-a"][..],
            &["bt", "1", "2", "--dump", "vmcore"],
            &["ps", "--json"],
            &["mod"],
            &["sym", "panic"],
            &["rd", "jiffies", "4"],
            &["struct", "task_struct", "init_task", "-d", "vmcore"],
        ] {
            let cli = crate::cli::Cli::try_parse_from(["vmcorectl"].iter().chain(words)).unwrap();
            let crate::cli::Command::Ask(command) = cli.command else { panic!("{words:?}") };
            assert_eq!(command.source().dump.is_some(), words.contains(&"vmcore"), "{words:?}");
        }
        for wrong in [&["sym"][..], &["bt", "-a", "1"], &["bt", "-a", "-D"], &["bt", "x"], &["struct"]] {
            assert!(crate::cli::Cli::try_parse_from(["vmcorectl"].iter().chain(wrong)).is_err(), "{wrong:?}");
        }
    }
}

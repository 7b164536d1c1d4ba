//! The report on a crash: what an engineer asks first, answered from the dead kernel's memory alone.
//!
//! What it is not: it writes no files and knows no targets. Data flow: [`crate::triage::Dead`] answers questions; [`Report::of`]
//! asks them in an order in which a deadline cuts off what matters least; [`Verdict`] weighs the answers; [`text`], JSON
//! ([`Report::json`]) and [`html`] show them. The same memory gives the same report, byte for byte, in the crash kernel and on a laptop.
//!
//! Whatever cannot be known is a sentence in [`Report::unknown`], and costs nothing else.

pub mod blocked;
pub mod disks;
pub mod evidence;
pub mod html;
pub mod log;
pub mod machine_check;
pub mod memory;
pub mod mounts;
pub mod pages;
pub mod signature;
pub mod stack;
pub mod system;
pub mod text;
pub mod verdict;

use crate::manifest::CrashedKernel;
use crate::triage::stack::{Code, Stack};
use crate::triage::{Dead, Registers, Task};
use blocked::Waiting;
use disks::Disk;
use evidence::Evidence;
use log::Log;
use machine_check::MachineChecks;
use memory::Memory;
use mounts::Mount;
use serde::Serialize;
use stack::{Call, calls};
use system::System;
use verdict::{Facts, Subject, Verdict};

/// Version of the JSON. It grows when something is taken away or means something else, not when something is added.
pub const SCHEMA: u32 = 1;

/// A task, and what it did.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Trace {
    /// The task.
    pub task: Task,
    /// The CPU that ran it, where it ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<u32>,
    /// Its stack.
    pub stack: Stack,
}

/// A process by the memory it has.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Process {
    /// Its number.
    pub pid: i64,
    /// Its parent's.
    pub ppid: i64,
    /// Its name.
    pub name: String,
    /// As `ps` of crash shows it: `RU`, `IN`, `UN`, …
    pub state: &'static str,
    /// The CPU it ran on last.
    pub cpu: u32,
    /// KiB in memory.
    pub rss_kib: u64,
    /// It belongs to the kernel.
    pub kernel: bool,
    /// Threads.
    pub threads: u64,
}

/// The report.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// What happened.
    pub verdict: Verdict,
    /// Whose report it is.
    pub kernel: CrashedKernel,
    /// Microseconds since boot, sleep included; where the kernel's clock is not known, to the last line of the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uptime_us: Option<u64>,
    /// The machine.
    pub system: System,
    /// The task that died, with its stack.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub panic: Option<Trace>,
    /// The registers of its CPU: name, value.
    pub registers: Vec<(&'static str, u64)>,
    /// The code that was executed when it went wrong: at the instruction that was interrupted last, or at that CPU's `ip`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    /// The task that a panic for hung tasks is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hung: Option<Trace>,
    /// What the other CPUs did.
    pub cpus: Vec<Trace>,
    /// Tasks that waited.
    pub waiting: Waiting,
    /// What processors reported of broken hardware.
    pub machine_checks: MachineChecks,
    /// Disks with requests under way.
    pub disks: Vec<Disk>,
    /// Memory.
    pub memory: Memory,
    /// Processes, the largest first.
    pub processes: Vec<Process>,
    /// Mounts.
    pub mounts: Vec<Mount>,
    /// What is not known, and why: a sentence each.
    pub unknown: Vec<String>,
    /// The log.
    pub log: Log,
}

/// CPUs whose stacks are shown.
const MAX_CPUS: usize = 64;

impl Report {
    /// Asks `dead` everything. `kernel` is who it was, as far as the vmcore's headers tell.
    pub fn of(dead: &Dead<'_>, kernel: CrashedKernel) -> Self {
        let (mut log, message) = Log::of(dead);
        let evidence = Evidence::of(log.lines.iter().map(String::as_str));
        let kernel = CrashedKernel { panic_message: message.clone().or(kernel.panic_message), ..kernel };
        let message = kernel.panic_message.clone().unwrap_or_default();
        let died = dead.panic_cpu();
        let panic = died.and_then(|cpu| trace(dead, cpu));
        let system = System::of(dead);
        let tasks = dead.tasks();
        let hung = hung(dead, &message, &evidence, &tasks);
        let machine_checks = MachineChecks::of(dead);
        let cpus = dead.known("CPUs", dead.online_cpus()).unwrap_or_default();
        let others = cpus.iter().filter(|cpu| Some(**cpu) != died && !dead.is_live()).take(MAX_CPUS);
        let cpus: Vec<Trace> = others.filter_map(|cpu| trace(dead, *cpu)).collect();
        let waiting = Waiting::of(dead, &tasks);
        // A clock that nobody advances any more may be behind the last words.
        let uptime_us = dead.known("uptime", system::uptime_us(dead)).max(log.last_us);
        let disks = disks::in_flight(dead, log.last_us.and_then(|us| us.checked_mul(1000)));
        let memory = Memory::of(dead);
        log.find_unread(dead, &tasks);
        let mounts = mounts::all(dead);
        let foreign: Vec<String> = system.foreign().map(|module| module.name.clone()).collect();
        let called =
            |trace: Option<&Trace>| trace.map(|t| calls(&t.stack).iter().map(owned).collect::<Vec<_>>());
        let (panic_calls, hung_calls) = (called(panic.as_ref()), called(hung.as_ref()));
        let verdict = {
            let panic_calls: Vec<Call<'_>> = panic_calls.iter().flatten().map(lent).collect();
            let hung_calls: Vec<Call<'_>> = hung_calls.iter().flatten().map(lent).collect();
            Verdict::of(&Facts {
                message: &message,
                evidence: &evidence,
                panic: panic.as_ref().map(|trace| subject(trace, &panic_calls)),
                hung: hung.as_ref().map(|trace| subject(trace, &hung_calls)),
                machine_checks: &machine_checks.records,
                disks: &disks,
                circles: &waiting.circles,
                foreign: &foreign,
                taint: system.taint.unwrap_or(0),
                live: dead.is_live(),
            })
        };
        Self {
            schema: SCHEMA,
            verdict,
            kernel,
            uptime_us,
            system,
            registers: died.and_then(|cpu| dead.registers(cpu)).iter().flat_map(Registers::each).collect(),
            code: panic.as_ref().and_then(|trace| code(dead, trace)),
            panic,
            hung,
            cpus,
            waiting,
            machine_checks,
            disks,
            memory,
            processes: processes(&tasks),
            mounts,
            unknown: dead.unknown(),
            log,
        }
    }

    /// As JSON: the schema is in FORMAT.md.
    pub fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|e| format!("{{\"error\":\"{e}\"}}"))
    }
}

fn owned(call: &Call<'_>) -> (String, Option<String>) {
    (call.function.to_owned(), call.module.map(str::to_owned))
}

fn lent((function, module): &(String, Option<String>)) -> Call<'_> {
    Call { function, module: module.as_deref() }
}

fn subject<'f>(trace: &'f Trace, calls: &'f [Call<'f>]) -> Subject<'f> {
    Subject { name: &trace.task.comm, pid: trace.task.pid, calls }
}

/// What a CPU did.
fn trace(dead: &Dead<'_>, cpu: u32) -> Option<Trace> {
    let what = format!("CPU {cpu}");
    let mut task = dead.known(&what, dead.current(cpu).and_then(|at| dead.task(at)))?;
    task.running = true;
    let stack = dead.known(&what, dead.stack_of_cpu(cpu))?;
    Some(Trace { task, cpu: Some(cpu), stack })
}

/// The code where it went wrong, if something was interrupted there, else where the CPU was.
fn code(dead: &Dead<'_>, trace: &Trace) -> Option<Code> {
    let kernel = || trace.stack.frames.iter().filter(|frame| !frame.user);
    let wrong = kernel().find(|f| f.exact && !f.function().is_some_and(stack::is_machinery));
    let at = wrong.or(kernel().next())?.ip;
    dead.known("the code", dead.code(at))
}

/// The task that a panic for hung tasks is about.
pub fn hung_task(dead: &Dead<'_>) -> Option<Trace> {
    let (log, message) = Log::of(dead);
    let evidence = Evidence::of(log.lines.iter().map(String::as_str));
    hung(dead, &message?, &evidence, &dead.tasks())
}

/// The task of the last `INFO: task NAME:PID blocked for more than 120 seconds.`
fn hung(dead: &Dead<'_>, message: &str, evidence: &Evidence, tasks: &[Task]) -> Option<Trace> {
    if !message.contains("hung_task") {
        return None;
    }
    evidence.stuck.iter().rev().find_map(|line| {
        let (_, rest) = line.split_once("INFO: task ")?;
        let (task, _) = rest.split_once(" blocked for more than")?;
        let (_, pid) = task.rsplit_once(':')?;
        let pid: i64 = pid.parse().ok()?;
        let task = tasks.iter().find(|task| task.pid == pid)?.clone();
        let stack = dead.known("the stack of the hung task", dead.stack(task.at))?;
        Some(Trace { task, cpu: None, stack })
    })
}

fn processes(tasks: &[Task]) -> Vec<Process> {
    let mut threads = std::collections::HashMap::<i64, u64>::new();
    for task in tasks {
        let count = threads.entry(task.tgid).or_default();
        *count = count.saturating_add(1);
    }
    let leaders = tasks.iter().filter(|task| task.is_leader() && task.pid != 0);
    let mut all: Vec<Process> = leaders
        .map(|task| Process {
            pid: task.pid,
            ppid: task.ppid,
            name: task.comm.clone(),
            state: task.state.letters(),
            cpu: task.cpu,
            rss_kib: task.rss / 1024,
            kernel: task.kernel,
            threads: threads.get(&task.tgid).copied().unwrap_or(1),
        })
        .collect();
    all.sort_by(|a, b| b.rss_kib.cmp(&a.rss_kib).then(a.pid.cmp(&b.pid)));
    all
}

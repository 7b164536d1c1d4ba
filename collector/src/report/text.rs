//! The report as text: made for reading, in lines of 100 columns, and never longer than a person reads.

use super::machine_check::MachineChecks;
use super::memory::Memory;
use super::{Report, Trace};
use crate::triage::stack::{Code, End, How, Stack};
use crate::utc;
use std::fmt::Write;

/// Bytes at most.
pub const MAX: usize = 60_000;
/// Columns.
const WIDTH: usize = 100;
/// Bytes that the log has at least, however much there is of the rest.
const LOG: usize = 24_000;
/// Processes with their figures, others, blocked groups, mounts and CPUs that are shown.
const PROCESSES: usize = 15;
const OTHERS: usize = 150;
const GROUPS: usize = 12;
const MOUNTS: usize = 30;
const CPUS: usize = 16;
const MACHINE_CHECKS: usize = 8;
/// Frames of a stack that are shown.
const FRAMES: usize = 40;

/// Stands in the log before the first record that no program had read.
pub(super) const UNREAD: &str = "---- no program had read what follows ----";

/// What is written so far.
struct Page {
    text: String,
}

impl Page {
    /// A line, cut where it would be too wide.
    fn line(&mut self, line: &str) {
        let mut chars = line.trim_end().chars();
        self.text.extend(chars.by_ref().take(WIDTH));
        self.text.push('\n');
    }

    /// A sentence in as many lines as it takes, the further ones indented.
    fn sentence(&mut self, first: &str, indent: usize, text: &str) {
        let mut line = first.to_owned();
        let mut empty = true;
        for word in text.split_whitespace() {
            if !empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
                self.line(&line);
                line = " ".repeat(indent);
                empty = true;
            }
            if !empty {
                line.push(' ');
            }
            line.push_str(word);
            empty = false;
        }
        self.line(&line);
    }

    fn head(&mut self, title: &str) {
        let _ = write!(self.text, "\n== {title} ");
        let used = title.chars().count() + 4;
        self.text.push_str(&"=".repeat(WIDTH.saturating_sub(used)));
        self.text.push('\n');
    }

    fn field(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            self.sentence(&format!("{name:<13}"), 13, value);
        }
    }
}

/// The whole report.
pub fn text(report: &Report) -> String {
    let mut page = Page { text: String::new() };
    verdict(&mut page, report);
    machine(&mut page, report);
    if let Some(trace) = &report.panic {
        page.head("the task that died");
        whole(&mut page, trace);
        registers(&mut page, report);
        code(&mut page, report);
    }
    if let Some(trace) = &report.hung {
        page.head("the task that was hung");
        whole(&mut page, trace);
    }
    if !report.cpus.is_empty() {
        page.head("other CPUs");
        for trace in report.cpus.iter().take(CPUS) {
            whole(&mut page, trace);
        }
        more(&mut page, report.cpus.len(), CPUS, "CPUs");
    }
    waiting(&mut page, report);
    machine_checks(&mut page, &report.machine_checks);
    memory(&mut page, &report.memory);
    processes(&mut page, report);
    mounts(&mut page, report);
    if !report.unknown.is_empty() {
        page.head("not known");
        for what in report.unknown.iter().take(20) {
            page.sentence("- ", 2, what);
        }
        more(&mut page, report.unknown.len(), 20, "sentences");
    }
    // The log is what most is lost of; but not all of the rest for it.
    let room = MAX.saturating_sub(LOG);
    if page.text.len() > room {
        let cut = page.text.char_indices().map(|(at, _)| at).take_while(|at| *at <= room).last().unwrap_or(0);
        page.text.truncate(cut);
        page.text.push_str("\n[cut: the whole of it is in triage.json]\n");
    }
    log(&mut page, report);
    page.text
}

/// What is said of memory alone.
pub fn memory_text(of: &Memory) -> String {
    let mut page = Page { text: String::new() };
    memory(&mut page, of);
    page.text.trim_start().to_owned()
}

fn verdict(page: &mut Page, report: &Report) {
    let verdict = &report.verdict;
    page.sentence("VERDICT      ", 13, &verdict.line);
    for line in &verdict.evidence {
        page.sentence("             - ", 15, line);
    }
    let function = verdict.function.as_deref().unwrap_or("not known");
    let module = verdict.module.as_ref().map(|m| format!(" [{m}]")).unwrap_or_default();
    page.field("function", &format!("{function}{module}"));
    page.field("signature", &verdict.signature);
}

fn machine(page: &mut Page, report: &Report) {
    let (kernel, system) = (&report.kernel, &report.system);
    page.head("machine");
    page.field("panic", kernel.panic_message.as_deref().unwrap_or("the log does not say"));
    page.field("kernel", &format!("{} {} {}", kernel.release, kernel.version, kernel.machine));
    page.field("host", &kernel.nodename);
    if let Some(time) = kernel.crash_time {
        page.field("crashed", &utc::readable(time));
    }
    if let Some(us) = report.uptime_us {
        page.field("uptime", &duration(us / 1_000_000));
    }
    let join = |parts: &[Option<&str>]| parts.iter().flatten().copied().collect::<Vec<_>>().join(", ");
    page.field("hardware", &join(&[system.hardware.as_deref(), system.firmware.as_deref()]));
    let ram = report.memory.total.map(|kib| format!("{} MiB of memory", kib >> 10));
    let cpus = (system.cpus > 0).then(|| format!("{} online", system.cpus));
    page.field("CPUs", &join(&[cpus.as_deref(), system.cpu.as_deref(), ram.as_deref()]));
    if let Some(load) = system.load {
        let shown: Vec<String> = load.iter().map(|n| format!("{}.{:02}", n / 100, n % 100)).collect();
        page.field("load", &shown.join(", "));
    }
    match system.taint {
        Some(0) => page.field("taint", "none"),
        Some(_) => page.field("taint", &format!("{} ({})", system.taint_letters, system.taints.join("; "))),
        None => {}
    }
    if let Some(line) = &system.command_line {
        page.field("command line", line);
    }
    let names: Vec<String> = system
        .modules
        .iter()
        .map(|m| if m.taint.is_empty() { m.name.clone() } else { format!("{}({})", m.name, m.taint) })
        .collect();
    let shown = names.join(" ");
    // Where nothing is known, modules are not either.
    let none = if system.cpus > 0 { "none" } else { "" };
    page.field("modules", if names.is_empty() { none } else { &shown });
}

fn whole(page: &mut Page, trace: &Trace) {
    let task = &trace.task;
    let cpu = trace.cpu.map(|cpu| format!("CPU {cpu}, ")).unwrap_or_default();
    page.line(&format!("{cpu}pid {}, {}, state {}", task.pid, task.comm, task.state.letters()));
    stack(page, &trace.stack, FRAMES);
}

fn stack(page: &mut Page, stack: &Stack, most: usize) {
    let mut on = None;
    for (number, frame) in stack.frames.iter().take(most).enumerate() {
        let label = frame.stack.label();
        if label != on {
            match label {
                Some(label) => page.line(&format!("      <{label}>")),
                None => page.line("      </>"),
            }
            on = label;
        }
        page.line(&format!("  #{number:<3} {frame}"));
    }
    more(page, stack.frames.len(), most, "frames");
    let how = |how| stack.frames.iter().take(most).any(|frame| frame.how == how);
    if how(How::CallVerified) {
        page.line("  ~ no table tells of the function above it, but this is what called it");
    }
    if how(How::Guess) {
        page.line("  ? looks like a return address, and may be an old one");
    }
    if let End::Broken(why) = &stack.end {
        page.sentence("  the rest is not known: ", 4, why);
    }
}

/// What was executed, as an oops shows it and as instructions.
fn code(page: &mut Page, report: &Report) {
    let Some(Code { at, bytes, instructions }) = &report.code else { return };
    page.sentence("  code  ", 8, bytes);
    for line in instructions {
        let arrow = if line.current { "=>" } else { "  " };
        let offset = line.offset.map(|offset| format!("+{offset:#x}")).unwrap_or_default();
        page.line(&format!("  {arrow} {:016x} {offset:<8} {}", line.at, line.text));
    }
    if instructions.is_empty() {
        page.line(&format!("  at {at:#x}"));
    }
}

fn registers(page: &mut Page, report: &Report) {
    for four in report.registers.chunks(4) {
        let one = |(name, value): &(&str, u64)| {
            // Eight letters would leave no space before them.
            let name = if *name == "orig_rax" { "orig_ax" } else { name };
            format!("{name:>8} {value:016x}")
        };
        page.line(&four.iter().map(one).collect::<Vec<_>>().join(""));
    }
}

fn more(page: &mut Page, all: usize, shown: usize, what: &str) {
    if let Some(rest @ 1..) = all.checked_sub(shown) {
        page.line(&format!("  … and {rest} more {what}"));
    }
}

fn waiting(page: &mut Page, report: &Report) {
    let waiting = &report.waiting;
    if waiting.groups.is_empty() && report.disks.is_empty() {
        return;
    }
    page.head("what was waited for");
    for disk in &report.disks {
        let age = disk.oldest_ms.map(|ms| format!(", the oldest for {}.{:03} s", ms / 1000, ms % 1000));
        let age = age.unwrap_or_default();
        page.line(&format!(
            "disk {}: {} reads and {} writes under way{age}",
            disk.name, disk.reads, disk.writes
        ));
    }
    for circle in &waiting.circles {
        page.sentence("each waits for the next, the last for the first: ", 4, &circle.join(" -> "));
    }
    for group in waiting.groups.iter().take(GROUPS) {
        let place =
            if group.waits_in.is_empty() { "not known".to_owned() } else { group.waits_in.join(" < ") };
        page.line(&format!("{} blocked in {place}", group.count));
        for task in &group.tasks {
            let lock = task.lock.as_ref();
            let lock =
                lock.map(|l| format!(": {} {} held by {} ({})", l.kind, l.place, l.owner_name, l.owner));
            page.line(&format!("    {} ({}){}", task.name, task.pid, lock.unwrap_or_default()));
        }
        if let Some(one) = &group.stack {
            stack(page, one, 12);
        }
    }
    more(page, waiting.groups.len(), GROUPS, "groups");
}

/// Shown of a kernel that has any.
fn machine_checks(page: &mut Page, checks: &MachineChecks) {
    if checks.records.is_empty() && checks.exceptions == 0 {
        return;
    }
    page.head("hardware errors");
    for one in checks.records.iter().take(MACHINE_CHECKS) {
        page.sentence("", 4, &one.to_string());
        let misc = one.misc.map(|misc| format!(", misc {misc:#x}")).unwrap_or_default();
        let how = if one.exception { "it ended in an exception" } else { "it was still to be reported" };
        page.sentence(
            "    ",
            4,
            &format!("status {:#018x}{misc}, {}; {how}", one.status, utc::readable(one.time)),
        );
    }
    more(page, checks.records.len(), MACHINE_CHECKS, "records");
    page.line(&format!("machine check exceptions since boot: {}", checks.exceptions));
}

fn memory(page: &mut Page, memory: &Memory) {
    if *memory == Memory::default() {
        return;
    }
    page.head("memory");
    for remark in &memory.remarks {
        page.sentence(&format!("{} ", remark.mark), 4, &remark.text);
    }
    if memory.remarks.is_empty() && !memory.zones.is_empty() {
        page.line("no figure is near a limit");
    }
    let total = memory.total.unwrap_or(0);
    let rows = [
        ("total", memory.total),
        ("free", memory.free),
        ("available", memory.available),
        ("buffers", memory.buffers),
        ("cached", memory.cached),
        ("anonymous", memory.anonymous),
        ("mapped", memory.mapped),
        ("shared", memory.shared),
        ("slab", memory.slab()),
        ("  reclaimable", memory.slab_reclaimable),
        ("  unreclaimable", memory.slab_unreclaimable),
        ("kernel stacks", memory.kernel_stacks),
        ("page tables", memory.page_tables),
        ("vmalloc", memory.vmalloc),
        ("unevictable", memory.unevictable),
        ("dirty", memory.dirty),
        ("writeback", memory.writeback),
        ("committed", memory.committed),
        ("swap", memory.swap_total),
        ("  free", memory.swap_free),
        ("corrupted", memory.corrupted),
    ];
    let shown: Vec<String> = rows
        .iter()
        .filter_map(|(name, kib)| {
            let kib = (*kib)?;
            let share = kib.saturating_mul(100).checked_div(total).unwrap_or(0);
            Some(format!("{name:<16}{kib:>12} KiB {share:>4} %"))
        })
        .collect();
    // Two columns, read downwards.
    let half = shown.len().div_ceil(2);
    for index in 0..half {
        let left = shown.get(index).map(String::as_str).unwrap_or_default();
        let right = shown.get(index + half).map(String::as_str).unwrap_or_default();
        page.line(&format!("{left:<48}{right}"));
    }
    for huge in memory.huge_pages.iter().filter(|huge| huge.total > 0) {
        page.line(&format!(
            "huge pages of {} KiB: {} of which {} free, {} reserved, {} surplus",
            huge.size_kib, huge.total, huge.free, huge.reserved, huge.surplus
        ));
    }
    if !memory.zones.is_empty() {
        page.line("");
        page.line("node zone          managed KiB        free KiB       min       low      high");
        for zone in &memory.zones {
            page.line(&format!(
                "{:>4} {:<10} {:>14} {:>15} {:>9} {:>9} {:>9}",
                zone.node, zone.name, zone.managed, zone.free, zone.min, zone.low, zone.high
            ));
        }
    }
    if !memory.nodes.is_empty() {
        page.line("");
        page.line("node    managed KiB        free KiB   anonymous KiB       files KiB        slab KiB");
        for node in &memory.nodes {
            page.line(&format!(
                "{:>4} {:>14} {:>15} {:>15} {:>15} {:>15}",
                node.node, node.managed, node.free, node.anonymous, node.files, node.slab
            ));
        }
    }
    if !memory.slabs.is_empty() {
        page.line("");
        page.line("slab cache                            KiB       objects    bytes each");
        for slab in memory.slabs.iter().take(10) {
            page.line(&format!(
                "{:<30} {:>10} {:>13} {:>13}",
                slab.name, slab.kib, slab.objects, slab.object
            ));
        }
    }
}

fn processes(page: &mut Page, report: &Report) {
    if report.processes.is_empty() {
        return;
    }
    page.head("processes by memory");
    page.line("    pid    ppid state cpu     RSS KiB threads name");
    // The kernel's own threads have no memory.
    let shown = report.processes.iter().take(PROCESSES).filter(|process| process.rss_kib > 0).count();
    for process in report.processes.iter().take(shown) {
        page.line(&format!(
            "{:>7} {:>7} {:<5} {:>3} {:>11} {:>7} {}",
            process.pid,
            process.ppid,
            process.state,
            process.cpu,
            process.rss_kib,
            process.threads,
            process.name
        ));
    }
    // The others by name, with what each did.
    let rest = report.processes.iter().skip(shown).take(OTHERS);
    let rest: Vec<String> = rest.map(|p| format!("{} {} {}", p.pid, p.name, p.state)).collect();
    if !rest.is_empty() {
        page.sentence("others: ", 4, &rest.join(", "));
    }
    more(page, report.processes.len(), shown + OTHERS, "processes");
}

/// File systems that store nothing, and are everywhere.
const VIRTUAL: &[&str] = &[
    "proc",
    "sysfs",
    "devtmpfs",
    "devpts",
    "securityfs",
    "cgroup",
    "cgroup2",
    "pstore",
    "bpf",
    "tracefs",
    "debugfs",
    "mqueue",
    "hugetlbfs",
    "configfs",
    "fusectl",
    "efivarfs",
    "autofs",
    "binfmt_misc",
    "ramfs",
    "rootfs",
    "nsfs",
];

fn mounts(page: &mut Page, report: &Report) {
    let real: Vec<_> = report.mounts.iter().filter(|m| !VIRTUAL.contains(&m.kind.as_str())).collect();
    if real.is_empty() {
        return;
    }
    page.head("mounts");
    for mount in real.iter().take(MOUNTS) {
        let only = if mount.read_only { ", read-only" } else { "" };
        page.line(&format!("{} on {} ({}{only})", mount.device, mount.point, mount.kind));
    }
    more(page, real.len(), MOUNTS, "mounts");
}

fn log(page: &mut Page, report: &Report) {
    let log = &report.log;
    page.head("log");
    let wrapped = match log.overwritten {
        0 => "it is whole".to_owned(),
        n => format!("it had wrapped: {n} older records are overwritten"),
    };
    let unread = match log.unread {
        Some(0) => "; all of it had been read by a program".to_owned(),
        Some(n) => format!("; the last {n} records had not been read by any program"),
        None => String::new(),
    };
    page.sentence("", 0, &format!("{} records, {wrapped}{unread}", log.records));
    let room = MAX.saturating_sub(page.text.len()).saturating_sub(200);
    let mut bytes = 0;
    let fits = log.lines.iter().rev().take_while(|line| {
        // Lines are cut, and so may be shorter than this.
        bytes += line.len().min(WIDTH * 3) + 2;
        bytes <= room
    });
    let fits = fits.count();
    let left_out = (log.lines.len() - fits) as u64 + log.left_out;
    if left_out > 0 {
        page.line(&format!("[{left_out} lines before these: vmcorectl log]"));
    }
    let unread = log.unread_from.and_then(|index| usize::try_from(index).ok());
    let first = log.lines.len() - fits;
    for (index, line) in log.lines.iter().enumerate().skip(first) {
        if unread.is_some_and(|unread| unread.max(first) == index) {
            page.line(UNREAD);
        }
        // What is wider goes on in the next line: nothing of the log is lost.
        let mut rest = line.as_str();
        for part in 0..3 {
            let indent = if part == 0 { "" } else { "    " };
            let cut = rest.char_indices().nth(WIDTH - indent.len()).map_or(rest.len(), |(at, _)| at);
            let (now, later) = rest.split_at(cut);
            page.line(&format!("{indent}{now}"));
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
    }
}

fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    let days = if days > 0 { format!("{days} d ") } else { String::new() };
    format!("{days}{hours:02}:{minutes:02}:{:02}", seconds % 60)
}

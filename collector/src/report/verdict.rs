//! What happened, in one line, and why that is believed.

use super::disks::Disk;
use super::evidence::{Evidence, text};
use super::machine_check::MachineCheck;
use super::signature::signature;
use super::stack::{Call, Of, telling};
use serde::Serialize;

/// What sort of crash.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A person, or a program in their name: sysrq, the NMI button.
    Requested,
    /// Code of the kernel or of a module went wrong.
    SoftwareBug,
    /// The processor, memory or a bus reported an error.
    Hardware,
    /// No memory was left.
    OutOfMemory,
    /// A CPU did not come back to the scheduler.
    SoftLockup,
    /// A CPU did not even take interrupts.
    HardLockup,
    /// Tasks waited for each other, or for something that never came.
    Hung,
    /// Tasks waited for a disk or a server.
    HungStorage,
    /// The first process ended.
    InitEnded,
    /// The root file system was not there.
    NoRoot,
    /// Nothing: the kernel runs.
    Running,
    /// None of these.
    Unknown,
}

impl Kind {
    /// As JSON has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::SoftwareBug => "software-bug",
            Self::Hardware => "hardware",
            Self::OutOfMemory => "out-of-memory",
            Self::SoftLockup => "soft-lockup",
            Self::HardLockup => "hard-lockup",
            Self::Hung => "hung",
            Self::HungStorage => "hung-storage",
            Self::InitEnded => "init-ended",
            Self::NoRoot => "no-root",
            Self::Running => "running",
            Self::Unknown => "unknown",
        }
    }
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Verdict {
    /// The sort.
    pub kind: Kind,
    /// In one line.
    pub line: String,
    /// What it rests on, a sentence or a line of the log each.
    pub evidence: Vec<String>,
    /// The function that went wrong, or that waited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function: Option<String>,
    /// Its module.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
    /// The same for crashes of the same cause.
    pub signature: String,
}

/// A task and what it did.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'f> {
    /// Its name.
    pub name: &'f str,
    /// Its number; 0 of what a CPU runs when idle.
    pub pid: i64,
    /// Its stack.
    pub calls: &'f [Call<'f>],
}

/// What is known when the verdict is reached.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'f> {
    /// The line of the log that says why the kernel died.
    pub message: &'f str,
    /// Other lines of it.
    pub evidence: &'f Evidence,
    /// The task that died.
    pub panic: Option<Subject<'f>>,
    /// The task that a hung-task panic is about.
    pub hung: Option<Subject<'f>>,
    /// What processors reported.
    pub machine_checks: &'f [MachineCheck],
    /// Disks with requests under way.
    pub disks: &'f [Disk],
    /// Tasks that wait for each other.
    pub circles: &'f [Vec<String>],
    /// Modules from outside of the kernel's tree.
    pub foreign: &'f [String],
    /// Bits of the taint flags.
    pub taint: u64,
    /// The kernel runs.
    pub live: bool,
}

/// A machine check was reported (TAINT_MACHINE_CHECK).
const TAINT_MACHINE_CHECK: u64 = 1 << 4;
/// A request that is under way for so long is a sign, milliseconds.
const SLOW: u64 = 10_000;

/// Words in the panic's message, and what they mean.
const MESSAGES: &[(&str, Kind, &str)] = &[
    ("sysrq triggered crash", Kind::Requested, "by sysrq"),
    ("Trigger a crash", Kind::Requested, "by sysrq"),
    ("Fatal machine check", Kind::Hardware, "machine check"),
    ("Fatal local machine check", Kind::Hardware, "machine check"),
    ("Machine check from unknown source", Kind::Hardware, "machine check"),
    ("Not all CPUs entered broadcast exception handler", Kind::Hardware, "machine check"),
    ("Memory error not recovered", Kind::Hardware, "memory error"),
    ("NMI IOCK error", Kind::Hardware, "I/O check error"),
    ("PCI system error", Kind::Hardware, "PCI system error"),
    ("Fatal hardware error", Kind::Hardware, "error reported by the firmware"),
    ("Asynchronous SError Interrupt", Kind::Hardware, "SError"),
    ("Out of memory", Kind::OutOfMemory, ""),
    ("out of memory", Kind::OutOfMemory, ""),
    ("System is deadlocked on memory", Kind::OutOfMemory, ""),
    ("soft lockup", Kind::SoftLockup, ""),
    ("softlockup: hung tasks", Kind::SoftLockup, ""),
    ("RCU Stall", Kind::SoftLockup, ""),
    ("hard LOCKUP", Kind::HardLockup, ""),
    ("Hard LOCKUP", Kind::HardLockup, ""),
    ("hard lockup", Kind::HardLockup, ""),
    ("hung_task: blocked tasks", Kind::Hung, ""),
    ("Attempted to kill init", Kind::InitEnded, ""),
    ("Unable to mount root fs", Kind::NoRoot, ""),
    ("No working init found", Kind::NoRoot, ""),
    ("stack guard page", Kind::SoftwareBug, "stack overflow"),
    ("kernel stack overflow", Kind::SoftwareBug, "stack overflow"),
    ("stack-protector", Kind::SoftwareBug, "overwritten stack"),
    ("double fault", Kind::SoftwareBug, "double fault"),
    ("NULL pointer dereference", Kind::SoftwareBug, "null pointer dereference"),
    ("unable to handle page fault", Kind::SoftwareBug, "access to a bad address"),
    ("unable to handle kernel paging request", Kind::SoftwareBug, "access to a bad address"),
    ("Unable to handle kernel", Kind::SoftwareBug, "access to a bad address"),
    ("general protection fault", Kind::SoftwareBug, "access to a bad address"),
    ("kernel BUG at", Kind::SoftwareBug, "BUG()"),
    ("Kernel BUG at", Kind::SoftwareBug, "BUG()"),
    ("invalid opcode", Kind::SoftwareBug, "invalid instruction"),
    ("divide error", Kind::SoftwareBug, "division by zero"),
    ("scheduling while atomic", Kind::SoftwareBug, "scheduling while atomic"),
    ("list_add corruption", Kind::SoftwareBug, "damaged list"),
    ("list_del corruption", Kind::SoftwareBug, "damaged list"),
    ("panic_on_warn", Kind::SoftwareBug, "warning"),
    ("WARNING: ", Kind::SoftwareBug, "warning"),
    ("BUG: ", Kind::SoftwareBug, "bug"),
    ("Fatal exception", Kind::SoftwareBug, "exception"),
    ("Oops", Kind::SoftwareBug, "oops"),
    // Last: "NMI" is in many a line.
    ("NMI: Not continuing", Kind::Requested, "by an NMI"),
];

/// Functions of a wait for a disk or a server.
const STORAGE: &[&str] = &[
    "io_schedule",
    "io_schedule_timeout",
    "bit_wait_io",
    "folio_wait_bit_common",
    "submit_bio_wait",
    "blk_mq_get_tag",
    "blk_execute_rq",
    "__wait_on_buffer",
    "jbd2_log_wait_commit",
    "jbd2_journal_commit_transaction",
    "wait_transaction_locked",
    "xlog_wait_on_iclog",
    "xfs_buf_iowait",
    "btrfs_wait_ordered_range",
    "rpc_wait_bit_killable",
    "nfs_wait_on_request",
    "blkdev_issue_flush",
    "sync_inodes_sb",
];

impl Verdict {
    /// Reaches it.
    pub fn of(facts: &Facts<'_>) -> Self {
        let message = facts.message;
        let hit = MESSAGES.iter().find(|(words, ..)| message.contains(words));
        let (mut kind, what) = hit.map_or((Kind::Unknown, ""), |(_, kind, what)| (*kind, *what));
        let mut what = what.to_owned();
        let mut evidence: Vec<String> = Vec::new();
        if !message.is_empty() {
            evidence.push(message.to_owned());
        }
        // A person may press the button because the hardware has failed; the log says so.
        if kind == Kind::Requested && what == "by an NMI" {
            let bus = ["PCI system error", "IOCK error"];
            if let Some(line) = facts.evidence.hardware.iter().find(|l| bus.iter().any(|b| l.contains(b))) {
                (kind, what) = (Kind::Hardware, "an error on a bus".to_owned());
                evidence.push(line.clone());
            }
        }
        let waits = matches!(kind, Kind::Hung);
        let subject = if waits { facts.hung.or(facts.panic) } else { facts.panic };
        let calls = subject.map(|s| s.calls).unwrap_or_default();
        let of = match kind {
            Kind::Hung if facts.hung.is_some() => Of::Waiting,
            Kind::SoftLockup | Kind::HardLockup => Of::Stuck,
            _ => Of::Dead,
        };
        let mut told = telling(calls, of);
        if kind == Kind::Hung && on_storage(facts, calls, &mut evidence) {
            kind = Kind::HungStorage;
        }
        if facts.live {
            kind = Kind::Running;
        } else if kind == Kind::Unknown && message.is_empty() {
            evidence.push("the log has no panic and no oops".to_owned());
        }
        let first = told.first().copied();
        let function = first.map(|call| call.function.to_owned());
        let module = first.and_then(|call| call.module).map(str::to_owned);
        // What was interrupted has nothing to do with it.
        if matches!(kind, Kind::Hardware | Kind::OutOfMemory | Kind::NoRoot)
            || (kind == Kind::Requested && what == "by an NMI")
        {
            told.clear();
        }
        let culprit = culprit(function.as_deref(), module.as_deref(), facts);
        let task = subject
            .map(|s| if s.pid == 0 { "an idle CPU".to_owned() } else { format!("{} ({})", s.name, s.pid) });
        let by = task.as_ref().map(|task| format!(", running {task}")).unwrap_or_default();
        let line = match kind {
            Kind::Requested => match &task {
                Some(task) if what == "by sysrq" => format!("requested by a person: sysrq, by {task}"),
                _ => "requested: an NMI of unknown origin (a button, a management controller, a watchdog)"
                    .to_owned(),
            },
            Kind::SoftwareBug => format!("software bug in {culprit}: {what}{by}"),
            Kind::Hardware => format!("hardware suspected: {what}"),
            Kind::OutOfMemory => {
                format!("out of memory{}", task.map(|t| format!(": {t} asked for more")).unwrap_or_default())
            }
            Kind::SoftLockup => format!("soft lockup in {culprit}{by}"),
            Kind::HardLockup => format!("hard lockup in {culprit}{by}"),
            Kind::Hung if !facts.circles.is_empty() => format!(
                "hung: a deadlock of {}",
                facts.circles.first().map(|c| c.join(" and ")).unwrap_or_default()
            ),
            Kind::Hung => format!("hung: {} waits in {culprit}", task.unwrap_or_else(|| "a task".to_owned())),
            Kind::HungStorage => {
                format!("hung on storage: {} waits in {culprit}", task.unwrap_or_else(|| "a task".to_owned()))
            }
            Kind::InitEnded => format!("the first process ended{by}"),
            Kind::NoRoot => "the root file system was not there".to_owned(),
            Kind::Running => "none: this kernel runs".to_owned(),
            Kind::Unknown => {
                format!("unknown: {}", if message.is_empty() { "the log does not say" } else { message })
            }
        };
        let lines = match kind {
            Kind::Hardware => &facts.evidence.hardware,
            Kind::OutOfMemory => &facts.evidence.memory,
            Kind::SoftLockup | Kind::HardLockup | Kind::Hung => &facts.evidence.stuck,
            Kind::HungStorage => &facts.evidence.storage,
            _ => &facts.evidence.bugs,
        };
        if kind == Kind::Hardware {
            evidence.extend(facts.machine_checks.iter().take(4).map(ToString::to_string));
        }
        if kind != Kind::Requested {
            evidence.extend(lines.iter().map(|line| text(line).to_owned()));
        }
        let reported = !facts.evidence.hardware.is_empty()
            || !facts.machine_checks.is_empty()
            || facts.taint & TAINT_MACHINE_CHECK != 0;
        if kind != Kind::Hardware && reported {
            evidence.push("the hardware had reported errors before: the cause may be there".to_owned());
            evidence.extend(facts.machine_checks.iter().take(2).map(ToString::to_string));
            evidence.extend(facts.evidence.hardware.iter().take(2).map(|line| text(line).to_owned()));
        }
        let mut unique: Vec<String> = Vec::new();
        evidence.into_iter().for_each(|line| {
            if !unique.contains(&line) && unique.len() < 10 {
                unique.push(line);
            }
        });
        let signature = signature(&format!("{} {what}", kind.word()), &told);
        Self { kind, line, evidence: unique, function, module, signature }
    }
}

/// Who it is laid at the door of.
fn culprit(function: Option<&str>, module: Option<&str>, facts: &Facts<'_>) -> String {
    let function = function.unwrap_or("an unknown function");
    match module {
        Some(module) if facts.foreign.iter().any(|f| f == module) => {
            format!("{function} of module {module}, which is not of the kernel's tree")
        }
        Some(module) => format!("{function} of module {module}"),
        None => function.to_owned(),
    }
}

fn on_storage(facts: &Facts<'_>, calls: &[Call<'_>], evidence: &mut Vec<String>) -> bool {
    let slow = facts.disks.iter().find(|disk| disk.oldest_ms.is_some_and(|ms| ms >= SLOW));
    if let Some(disk) = slow {
        evidence.push(format!(
            "{} had {} reads and {} writes under way, the oldest for {} s",
            disk.name,
            disk.reads,
            disk.writes,
            disk.oldest_ms.unwrap_or(0) / 1000
        ));
    }
    let waits = calls.iter().find(|call| STORAGE.contains(&call.function));
    if let Some(call) = waits {
        evidence.push(format!("its stack has {}", call.function));
    }
    slow.is_some() || waits.is_some()
}

#[cfg(test)]
mod tests {
    use super::super::stack::tests::named;
    use super::*;

    #[test]
    fn every_kind_has_its_line() {
        let disk = Disk { name: "vda".to_owned(), reads: 1, writes: 2, oldest_ms: Some(130_000) };
        // message, panic's stack, hung task's stack, disks, kind, part of the line, function
        type Case<'c> = (&'c str, &'c str, &'c str, &'c [Disk], Kind, &'c str, Option<&'c str>);
        let cases: [Case<'_>; 11] = [
            (
                "Kernel panic - not syncing: sysrq triggered crash",
                "panic sysrq_handle_crash __handle_sysrq",
                "",
                &[],
                Kind::Requested,
                "requested by a person: sysrq, by sh (7)",
                Some("sysrq_handle_crash"),
            ),
            (
                "Kernel panic - not syncing: NMI: Not continuing",
                "panic nmi_panic unknown_nmi_error exc_nmi",
                "",
                &[],
                Kind::Requested,
                "an NMI",
                Some("unknown_nmi_error"),
            ),
            (
                "Kernel panic - not syncing: Fatal local machine check",
                "panic mce_panic do_machine_check",
                "",
                &[],
                Kind::Hardware,
                "hardware suspected: machine check",
                Some("do_machine_check"),
            ),
            (
                "BUG: kernel NULL pointer dereference, address: 0",
                "oops_end asm_exc_page_fault crasher:crasher_null crasher:init_module",
                "",
                &[],
                Kind::SoftwareBug,
                "software bug in crasher_null of module crasher, which is not of the kernel's tree: null pointer",
                Some("crasher_null"),
            ),
            (
                "watchdog: BUG: soft lockup - CPU#0 stuck for 5s! [insmod:70]",
                "panic watchdog_timer_fn asm_sysvec_apic_timer_interrupt crasher:crasher_spin",
                "",
                &[],
                Kind::SoftLockup,
                "soft lockup in crasher_spin",
                Some("crasher_spin"),
            ),
            (
                "Kernel panic - not syncing: hung_task: blocked tasks",
                "panic watchdog kthread",
                "__schedule schedule __mutex_lock crasher:crasher_one kthread",
                &[],
                Kind::Hung,
                "hung: sh (8) waits in crasher_one",
                Some("crasher_one"),
            ),
            (
                "Kernel panic - not syncing: hung_task: blocked tasks",
                "panic watchdog kthread",
                "__schedule schedule io_schedule ext4_x vfs_read",
                &[],
                Kind::HungStorage,
                "hung on storage: sh (8) waits in ext4_x",
                Some("ext4_x"),
            ),
            (
                "Kernel panic - not syncing: hung_task: blocked tasks",
                "panic watchdog kthread",
                "__schedule schedule some_lock",
                std::slice::from_ref(&disk),
                Kind::HungStorage,
                "hung on storage",
                Some("some_lock"),
            ),
            (
                "Kernel panic - not syncing: Out of memory: system-wide panic_on_oom is enabled",
                "panic out_of_memory __alloc_pages",
                "",
                &[],
                Kind::OutOfMemory,
                "out of memory: sh (7) asked for more",
                Some("out_of_memory"),
            ),
            (
                "BUG: stack guard page was hit at 00000000 (stack is 0..0)",
                "oops_end die handle_stack_overflow exc_double_fault asm_exc_double_fault crasher:crasher_recurse",
                "",
                &[],
                Kind::SoftwareBug,
                "stack overflow",
                Some("crasher_recurse"),
            ),
            ("", "", "", &[], Kind::Unknown, "unknown", None),
        ];
        let foreign = ["crasher".to_owned()];
        let mut signatures = Vec::new();
        for (message, panic, hung, disks, kind, line, function) in cases {
            let (panic, hung_calls) = (named(panic), named(hung));
            let verdict = Verdict::of(&Facts {
                message,
                evidence: &Evidence::default(),
                panic: Some(Subject { name: "sh", pid: 7, calls: &panic }),
                hung: Some(Subject { name: "sh", pid: 8, calls: &hung_calls }).filter(|_| !hung.is_empty()),
                machine_checks: &[],
                disks,
                circles: &[],
                foreign: &foreign,
                taint: 0,
                live: false,
            });
            assert_eq!(verdict.kind, kind, "{message}: {verdict:?}");
            assert!(verdict.line.contains(line), "{message}: {}", verdict.line);
            assert_eq!(verdict.function.as_deref(), function, "{message}");
            signatures.push(verdict.signature);
        }
        let count = signatures.len();
        signatures.sort();
        signatures.dedup();
        assert_eq!(signatures.len(), count);
    }

    #[test]
    fn broken_hardware_is_said_of_any_crash() {
        let evidence =
            Evidence { hardware: vec!["[ 1.0] mce: [Hardware Error]: x".to_owned()], ..Evidence::default() };
        let facts = Facts {
            message: "kernel BUG at mm/slub.c:1",
            evidence: &evidence,
            panic: None,
            hung: None,
            machine_checks: &[],
            disks: &[],
            circles: &[],
            foreign: &[],
            taint: TAINT_MACHINE_CHECK,
            live: false,
        };
        let runs = Verdict::of(&Facts { message: "", live: true, ..facts });
        assert_eq!((runs.kind, runs.line.as_str()), (Kind::Running, "none: this kernel runs"));
        let verdict = Verdict::of(&facts);
        assert_eq!(verdict.kind, Kind::SoftwareBug);
        assert!(verdict.evidence.iter().any(|e| e.contains("hardware had reported")), "{verdict:?}");
    }
}

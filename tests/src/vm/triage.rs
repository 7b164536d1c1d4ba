//! Ten ways to die, and what is known a second later: the report that is on the disk before the dump, against what crashed, the
//! machine's own /proc/meminfo, and the same report made of the dump.

use super::crash::{Crash, Crashed, Dump};
use super::runner::Bench;
use super::stacks::stacks_agree;
use crate::lab::command::{output, talk, tool};
use crate::lab::kernel::Series;
use crate::lab::machine::Machine;
use anyhow::{Context, Result, ensure};
use collector::manifest::Outcome;
use collector::problem::Code;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A way to die.
#[derive(Clone, Copy, Debug)]
pub struct Death {
    /// Its scenarios are `triage-NAME-SERIES`.
    pub name: &'static str,
    /// Shell commands before the crash: what makes it fatal.
    prepare: &'static str,
    /// The shell command that ends in it.
    trigger: &'static str,
    /// A command of QEMU's monitor for people, given once `trigger` waits.
    monitor: Option<&'static str>,
    /// What the console says.
    sign: &'static str,
    /// What the verdict calls it.
    kind: &'static str,
    /// The function that went wrong, or a part of its name, and its module.
    function: &'static str,
    module: Option<&'static str>,
    /// Part of the verdict.
    says: &'static str,
    /// Two deaths of one cause have one signature.
    cause: &'static str,
}

/// Memory of every kind that a report counts.
const FILL: &str = "
mount -t tmpfs -o size=64m tmp /tmp
echo 4 > /proc/sys/vm/nr_hugepages
guest-load slab /tmp/files 2000
dd if=/dev/urandom of=/tmp/random bs=1M count=12 2>/dev/null
cat /lib/modules/*/kernel/fs/*/* /bin/busybox > /dev/null
guest-load anon 40 &
cat /dev/kmsg > /dev/null &
n=0; while [ $(awk '/AnonPages/{print $2}' /proc/meminfo) -lt 40000 ] && [ $n -lt 100 ]; do usleep 100000; n=$((n+1)); done
";

/// The crash that a person asked for.
pub const SYSRQ: Death = Death {
    name: "sysrq",
    prepare: "",
    trigger: "echo c > /proc/sysrq-trigger",
    monitor: None,
    sign: "sysrq: Trigger a crash",
    kind: "requested",
    function: "sysrq",
    module: None,
    says: "requested by a person: sysrq",
    cause: "sysrq",
};
/// The same, on the other CPU.
pub const CPU1: Death =
    Death { name: "cpu1", trigger: "taskset 2 sh -c 'echo c > /proc/sysrq-trigger'", ..SYSRQ };
/// The button on the back, or the management controller.
pub const NMI: Death = Death {
    name: "nmi",
    prepare: "echo 1 > /proc/sys/kernel/unknown_nmi_panic",
    trigger: "echo LAB-WAITS; sleep 60",
    monitor: Some("nmi"),
    sign: "Kernel panic - not syncing: NMI",
    kind: "requested",
    function: "unknown_nmi_error",
    module: None,
    says: "an NMI of unknown origin",
    cause: "nmi",
};
/// Memory that the processor says is broken.
pub const MCE: Death = Death {
    name: "mce",
    prepare: "",
    trigger: "echo LAB-WAITS; sleep 60",
    monitor: Some("mce 0 4 0xbe00000000000135 0x5 0x1234000 0x8c"),
    sign: "Kernel panic - not syncing: Fatal",
    kind: "hardware",
    function: "do_machine_check",
    module: None,
    says: "hardware suspected: machine check",
    cause: "mce",
};
/// A null pointer in a module.
pub const NULL: Death = Death {
    name: "null",
    prepare: "echo 1 > /proc/sys/kernel/panic_on_oops",
    trigger: "insmod /crasher.ko trigger=null",
    monitor: None,
    sign: "BUG: kernel NULL pointer dereference",
    kind: "software-bug",
    function: "crasher_null",
    module: Some("crasher"),
    says: "crasher_null of module crasher, which is not of the kernel's tree",
    cause: "null",
};
/// A CPU that never comes back to the scheduler.
pub const SOFT_LOCKUP: Death = Death {
    name: "softlockup",
    prepare: "echo 1 > /proc/sys/kernel/softlockup_panic; echo 2 > /proc/sys/kernel/watchdog_thresh",
    trigger: "insmod /crasher.ko trigger=spin",
    monitor: None,
    sign: "watchdog: BUG: soft lockup",
    kind: "soft-lockup",
    function: "crasher_spin",
    module: Some("crasher"),
    says: "soft lockup in crasher_spin of module crasher",
    cause: "softlockup",
};
/// Two threads that wait for each other.
pub const HUNG: Death = Death {
    name: "hung",
    prepare: "echo 1 > /proc/sys/kernel/hung_task_panic; echo 3 > /proc/sys/kernel/hung_task_timeout_secs",
    trigger: "insmod /crasher.ko trigger=deadlock; sleep 60",
    monitor: None,
    sign: "Kernel panic - not syncing: hung_task: blocked tasks",
    kind: "hung",
    function: "crasher_",
    module: Some("crasher"),
    says: "hung: a deadlock of crasher-",
    cause: "hung",
};
/// No memory is left.
pub const OOM: Death = Death {
    name: "oom",
    prepare: "echo 1 > /proc/sys/vm/panic_on_oom; echo 1 > /proc/sys/vm/overcommit_memory",
    trigger: "guest-load anon 2000",
    monitor: None,
    sign: "Kernel panic - not syncing: Out of memory",
    kind: "out-of-memory",
    function: "out_of_memory",
    module: None,
    says: "out of memory: guest-load",
    cause: "oom",
};
/// Recursion without end.
pub const STACK: Death = Death {
    name: "stack",
    prepare: "echo 1 > /proc/sys/kernel/panic_on_oops",
    trigger: "insmod /crasher.ko trigger=stack",
    monitor: None,
    sign: "stack guard page was hit",
    kind: "software-bug",
    function: "crasher_recurse",
    module: Some("crasher"),
    says: "stack overflow",
    cause: "stack",
};
/// `BUG()` in an interrupt.
pub const INTERRUPT: Death = Death {
    name: "interrupt",
    prepare: "",
    trigger: "insmod /crasher.ko trigger=interrupt; sleep 60",
    monitor: None,
    sign: "kernel BUG at",
    kind: "software-bug",
    function: "crasher_timer",
    module: Some("crasher"),
    says: "BUG()",
    cause: "interrupt",
};

/// The same questions while it still runs. Nothing has crashed yet: without a name of a dump it is /proc/kcore that is asked.
const LIVE: &str = "
section live-pids sh -c 'for d in /proc/[0-9]*; do echo ${d#/proc/}; done'
section live-ps vmcorectl ps
section live-pids-after sh -c 'for d in /proc/[0-9]*; do echo ${d#/proc/}; done'
section live-meminfo cat /proc/meminfo
section live-mem vmcorectl mem /proc/kcore
section live-bt vmcorectl bt 2
section live-kallsyms grep -w panic /proc/kallsyms
section live-sym vmcorectl sym panic
section live-dmesg sh -c 'dmesg | tail -n 3'
section live-log sh -c 'vmcorectl log /proc/kcore | tail -n 3'
section live-triage sh -c 'vmcorectl triage | head -n 3'
";

/// Signatures that were seen: which kernel, of which cause.
static SIGNATURES: Mutex<Vec<(Series, &str, String)>> = Mutex::new(Vec::new());

/// Dies, and judges what was left.
pub fn dies(bench: &Bench<'_>, series: Series, death: &Death) -> Result<()> {
    // One of them also saves its memory as it was.
    let raw = death.name == NULL.name;
    let crashed = crash(bench, series, death, raw)?;
    let dump = crashed.dump()?;
    fs::remove_file(&crashed.disk.path)?;
    let mut names = vec!["manifest.json", "vmcore", "vmcore-dmesg.txt"];
    if raw {
        names.push("vmcore.raw");
    }
    dump.expect(Outcome::Complete, &names)?;
    let read = |name: &str| fs::read_to_string(dump.dir.join(name)).with_context(|| name.to_owned());
    let (text, written) = (read("triage.txt")?, read("triage.json")?);
    same(bench, &dump.dir.join("vmcore"), &text, &written)?;
    if raw {
        browsed(bench, &dump.dir.join("vmcore"), &crashed.dir)?;
        same(bench, &dump.dir.join("vmcore.raw"), &text, &written)?;
        // Kernels before 6.0 do not tell where their symbols are: these are found by what they look like.
        let hidden = hide(&dump.dir.join("vmcore.raw"))?;
        ensure!(hidden > 4, "VMCOREINFO had {hidden} keys of kallsyms");
        same(bench, &dump.dir.join("vmcore.raw"), &text, &written)?;
        fs::remove_file(dump.dir.join("vmcore.raw"))?;
    }
    if death.name == SYSRQ.name {
        live(&crashed)?;
    }
    // As an engineer with all debuginfo sees every stack: the module's is in the file that was loaded.
    let mut debug = vec![bench.vmlinux(series)?];
    if death.module.is_some() {
        debug.push(bench.crasher(series)?);
    }
    stacks_agree(bench.drgn()?, &dump.dir.join("vmcore"), &debug)?;
    if death.name == HUNG.name {
        hung(bench, &dump.dir.join("vmcore"))?;
    }
    let report: Value = serde_json::from_str(&written)?;
    if death.name == MCE.name {
        machine_check(&report, &text)?;
    }
    uptime(&crashed, &report)?;
    verdict(death, &report).with_context(|| format!("{}:\n{text}", dump.dir.display()))?;
    record(series, death, &dump, &report)?;
    shape(&text)?;
    log(&crashed, &dump, &report, &text)?;
    memory(&crashed, death, &report).with_context(|| format!("{}", dump.dir.display()))
}

/// Spoils the names of VMCOREINFO's keys for the symbol table, in the notes at the start of a vmcore; says how many there were.
fn hide(vmcore: &Path) -> Result<usize> {
    let file = fs::File::options().read(true).write(true).open(vmcore)?;
    let mut start = vec![0; 64 << 10];
    file.read_exact_at(&mut start, 0)?;
    let key = b"SYMBOL(kallsyms_";
    let found: Vec<usize> =
        start.windows(key.len()).enumerate().filter(|(_, w)| w == key).map(|(at, _)| at).collect();
    for at in &found {
        start[*at..*at + 6].copy_from_slice(b"NOBODY");
    }
    file.write_all_at(&start, 0)?;
    Ok(found.len())
}

/// The crash kernel and this machine make the same of the same memory.
fn same(bench: &Bench<'_>, dump: &Path, text: &str, json: &str) -> Result<()> {
    for (arguments, written) in [(&["triage"][..], text), (&["triage", "--json"][..], json)] {
        let said = output(Command::new(&bench.programs.control).args(arguments).arg(dump))?;
        if said.trim_end() != written.trim_end() {
            let at = said.bytes().zip(written.bytes()).take_while(|(a, b)| a == b).count();
            let part =
                |of: &str| of.get(at.saturating_sub(60)..).map(|s| s.chars().take(200).collect::<String>());
            anyhow::bail!(
                "`vmcorectl {} {}` differs from what the crash kernel wrote, at {at}: {:?}; it wrote {:?}",
                arguments.join(" "),
                dump.display(),
                part(&said),
                part(written)
            );
        }
    }
    Ok(())
}

/// Who found it is not who hung: the stack of the latter is shown, too, and those of both by their state.
fn hung(bench: &Bench<'_>, dump: &Path) -> Result<()> {
    let bt =
        |option: &str| output(Command::new(&bench.programs.control).args(["bt", option, "-d"]).arg(dump));
    let plain = output(Command::new(&bench.programs.control).args(["bt", "-d"]).arg(dump))?;
    for said in [plain, bt("-a")?] {
        let (found, shown) = said.split_once(", which was hung").context(said.clone())?;
        ensure!(found.contains("khungtaskd") && shown.contains("crasher_"), "{said}");
        ensure!(found.lines().last().is_some_and(|line| line.contains("crasher-")), "{said}");
    }
    let blocked = bt("-D")?;
    let tasks: Vec<&str> = blocked.lines().filter(|line| line.contains("  UN  ")).collect();
    ensure!(tasks.len() >= 2 && tasks.iter().all(|line| line.starts_with("PID ")), "{blocked}");
    ensure!(["crasher-one", "crasher-two"].iter().all(|name| blocked.contains(name)), "{blocked}");
    Ok(())
}

/// The kernel's own record is what QEMU was told to have happened, decoded.
fn machine_check(report: &Value, text: &str) -> Result<()> {
    let checks = &report["machine_checks"];
    let one = &checks["records"][0];
    let same = one["cpu"] == 0
        && one["bank"] == 4
        && one["status"] == "0xbe00000000000135"
        && one["address"] == "0x1234000"
        && one["misc"] == "0x8c"
        && one["severity"] == "uncorrected"
        && one["flags"] == json!(["processor context corrupt"])
        && one["exception"] == true;
    ensure!(same && checks["exceptions"] == 1, "machine checks {checks}");
    let said = "CPU 0, bank 4: uncorrected, processor context corrupt: data cache of level 1, a data read, at physical address \
                0x1234000";
    let evidence = &report["verdict"]["evidence"];
    ensure!(evidence.as_array().is_some_and(|lines| lines.iter().any(|line| line == said)), "{evidence}");
    ensure!(text.contains("== hardware errors =") && text.contains("status 0xbe00000000000135"), "{text}");
    Ok(())
}

/// As /proc/uptime has it, and the time that passed until it died.
fn uptime(crashed: &Crashed, report: &Value) -> Result<()> {
    let (said, _) = crashed.run.console.section("uptime").context("no /proc/uptime on the console")?;
    let seconds: f64 = said.split_whitespace().next().context("an empty /proc/uptime")?.parse()?;
    let is = Duration::from_micros(report["uptime_us"].as_u64().context("no uptime")?).as_secs_f64();
    ensure!((seconds - 0.1..seconds + 120.0).contains(&is), "up for {is} s, {seconds} s before it died");
    Ok(())
}

/// The page works in a browser: the verdict, the picture of memory, the search in the log.
fn browsed(bench: &Bench<'_>, dump: &Path, scratch: &Path) -> Result<()> {
    let page = scratch.join("triage.html");
    fs::write(&page, output(Command::new(&bench.programs.control).args(["triage", "--html"]).arg(dump))?)?;
    let shown = |search: &str| -> Result<String> {
        let mut browser = tool("chromium")?;
        browser.args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--dump-dom",
            "--virtual-time-budget=5000",
        ]);
        browser.arg(format!("file://{}{search}", page.display()));
        let (status, said) = talk(&mut browser, "", Duration::from_secs(120))?;
        ensure!(status.success(), "chromium ended with {status}:\n{said}");
        Ok(said)
    };
    let lines = |said: &str| -> Result<u64> {
        let count = said.split_once("id=\"count\">").and_then(|(_, rest)| rest.split_once(" lines"));
        count.and_then(|(n, _)| n.parse().ok()).context("the page's script has not counted the log's lines")
    };
    let (all, some) = (shown("")?, shown("#find=crasher")?);
    ensure!(
        all.contains("software bug in crasher_null") && all.matches("<div style=\"flex:").count() > 5,
        "{all}"
    );
    let (_, kept) = all.split_once("id=\"kept\"").context("what was kept is not shown")?;
    let wanted = [">The dump has ", "the kernel's ", " all kept", "none kept", "class=\"out\"", "free "];
    ensure!(wanted.iter().all(|w| all.contains(w)) && kept.contains("</i>programs"), "{all}");
    let (_, died) = all.split_once("<summary>the task that died</summary>").context("no stack is shown")?;
    ensure!(
        died.split_once("</pre>").is_some_and(|(stack, _)| stack.contains("  #0   crasher_null")),
        "{died}"
    );
    ensure!(all.contains("---- no program had read what follows ----"), "no mark in the log");
    let (every, found) = (lines(&all)?, lines(&some)?);
    ensure!(0 < found && found < every, "{found} of {every} lines of the log have \"crasher\"");
    ensure!(some.contains("<mark>crasher</mark>"), "what was searched for is not marked:\n{some}");
    Ok(())
}

fn verdict(death: &Death, report: &Value) -> Result<()> {
    let verdict = &report["verdict"];
    ensure!(verdict["kind"] == death.kind, "kind {} instead of {}", verdict["kind"], death.kind);
    let (line, function) =
        (verdict["line"].as_str().unwrap_or(""), verdict["function"].as_str().unwrap_or(""));
    ensure!(line.contains(death.says), "the verdict {line:?} has no {:?}", death.says);
    ensure!(function.contains(death.function), "{function} instead of {}", death.function);
    ensure!(verdict["module"].as_str() == death.module, "module {}", verdict["module"]);
    if death.name == CPU1.name {
        ensure!(report["panic"]["cpu"] == 1, "CPU {}", report["panic"]["cpu"]);
    }
    // An oops has the code that it died in, and so has what was interrupted.
    if death.module.is_some() && ![HUNG.name, STACK.name].contains(&death.name) {
        let lines = report["code"]["instructions"].as_array().map_or(0, Vec::len);
        ensure!(lines >= 4, "code {}", report["code"]);
    }
    if death.name == HUNG.name {
        let circle = &report["waiting"]["circles"][0];
        ensure!(circle.as_array().is_some_and(|c| c.len() == 2), "circles {}", report["waiting"]["circles"]);
    }
    // Nothing of a healthy vmcore is beyond knowing.
    ensure!(report["unknown"] == json!([]), "not known: {}", report["unknown"]);
    Ok(())
}

/// The manifest has it in short, and what it took; crashes have one signature if they have one cause.
fn record(series: Series, death: &Death, dump: &Dump, report: &Value) -> Result<()> {
    let problems = &dump.manifest.problems;
    ensure!(problems.iter().all(|p| p.code != Code::TRIAGE_FAILED), "{problems:#?}");
    let record = dump.manifest.triage.as_ref().context("no triage in manifest.json")?;
    let signature = record.signature.as_str();
    ensure!(report["verdict"]["signature"] == signature && signature.len() == 16, "signature {signature}");
    ensure!(report["verdict"]["line"] == record.verdict.as_str() && record.kind == death.kind, "{record:?}");
    let own = record.anonymous_kib.context("the kernel does not tell the memory of a process")?;
    println!(
        "   {} {}: {}; {} ms to ask, {} ms in all, {} KiB read, {own} KiB of memory",
        death.name,
        series.name(),
        record.verdict,
        record.asked_ms,
        record.took_ms,
        record.read_kib
    );
    ensure!(own <= 8 << 10, "{own} KiB of memory of its own");
    let mut seen = SIGNATURES.lock().unwrap_or_else(PoisonError::into_inner);
    for (of, cause, other) in seen.iter().filter(|(of, ..)| *of == series) {
        let equal = other == signature;
        ensure!(
            equal == (*cause == death.cause),
            "{}: {} and {cause} have {signature} and {other}",
            of.name(),
            death.cause
        );
    }
    seen.push((series, death.cause, signature.to_owned()));
    Ok(())
}

/// Made for reading.
fn shape(text: &str) -> Result<()> {
    ensure!(text.len() <= 60_000, "triage.txt has {} bytes", text.len());
    let wide = text.lines().find(|line| line.chars().count() > 100);
    ensure!(wide.is_none(), "a line of triage.txt is wider than 100 columns: {wide:?}");
    Ok(())
}

/// The report has the log that is saved beside it, which has what the console had, line by line; what came last was read by nobody.
fn log(crashed: &Crashed, dump: &Dump, report: &Value, text: &str) -> Result<()> {
    let saved = fs::read_to_string(dump.dir.join("vmcore-dmesg.txt"))?;
    let lines: Vec<&str> =
        report["log"]["lines"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    ensure!(saved.lines().eq(lines.iter().copied()), "the log in triage.json is not vmcore-dmesg.txt");
    // All that the kernel has ever said there, until the crash kernel speaks, whose own times begin at 0 again.
    let console = &crashed.run.console;
    let told: Vec<&str> = console
        .lines
        .iter()
        .map(|line| line.text.trim_end())
        .take_while(|text| !text.contains("] vmcored: "))
        .filter(|text| time(text).is_some())
        .collect();
    let anew = |pair: &[&str]| time(pair[0]).zip(time(pair[1])).is_some_and(|(a, b)| a > 2.0 && b < 1.0);
    let last = told.windows(2).position(anew);
    let told = &told[..last.map_or(told.len(), |at| at + 1)];
    // On the console each line of a record has its time, and none has control characters.
    let mut prefix = "";
    let known = lines.iter().map(|line| {
        let start = line.find("] ").filter(|_| line.starts_with('[')).map(|at| at + 2);
        prefix = start.and_then(|at| line.get(..at)).unwrap_or(prefix);
        let text = line.get(prefix.len()..).unwrap_or_default();
        format!("{prefix}{text}").replace('\t', "").trim_end().to_owned()
    });
    let known: Vec<String> = known.collect();
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    let missing: Vec<&&str> = told.iter().filter(|line| !known.contains(line)).collect();
    ensure!(told.len() > 200 && missing.is_empty(), "the console has, and the log has not: {missing:?}");
    // What it said of its death came to both. What is printed in an NMI, or as good as in one, comes to the
    // console later: here, never.
    let death = |line: &&&str| line.contains(crashed.sign);
    let (shown, kept) = (told.iter().position(|l| death(&l)), known.iter().position(|l| death(&l)));
    let kept = kept.context("the log has no word of the death")?;
    match shown {
        Some(shown) => {
            let silent: Vec<&&str> =
                known[kept..].iter().filter(|l| time(l).is_some() && !told[shown..].contains(*l)).collect();
            ensure!(silent.is_empty(), "the log has, and the console has not: {silent:?}");
        }
        None => ensure!(
            [NMI.sign, MCE.sign, STACK.sign].contains(&crashed.sign),
            "the console has no word of the death"
        ),
    }
    let unread = report["log"]["unread"].as_u64().context("nobody had read the log, it says")?;
    ensure!(unread > 0 && unread < lines.len() as u64, "{unread} records unread of {}", lines.len());
    // The mark is in the text, before the first of them.
    let from = report["log"]["unread_from"].as_u64().and_then(|at| usize::try_from(at).ok());
    let first = from.and_then(|at| lines.get(at)).context("no line is the first unread one")?;
    let starts = lines[from.unwrap_or(0)..].iter().filter(|line| line.starts_with('[')).count();
    ensure!(starts as u64 == unread, "{starts} records from {first:?} on, {unread} are unread");
    let (_, after) =
        text.split_once("---- no program had read what follows ----\n").context("no mark in the log")?;
    let shown: String = first.chars().take(100).collect();
    ensure!(after.starts_with(shown.trim_end()), "{first:?} does not follow the mark");
    Ok(())
}

/// The time of a line of the kernel's log.
fn time(line: &str) -> Option<f64> {
    line.strip_prefix('[')?.split_once(']')?.0.trim().parse().ok()
}

/// Its own /proc/meminfo, taken just before, within 1 %; or of memory, where a figure is small.
fn memory(crashed: &Crashed, death: &Death, report: &Value) -> Result<()> {
    let (meminfo, _) = crashed.run.console.section("meminfo").context("no /proc/meminfo on the console")?;
    let of = |name: &str| -> Result<u64> {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let value = line.and_then(|l| l.split_whitespace().next()?.parse().ok());
        value.with_context(|| format!("no {name} in /proc/meminfo"))
    };
    let total = of("MemTotal")?;
    let figures = [
        ("MemTotal", "total"),
        ("MemFree", "free"),
        ("MemAvailable", "available"),
        ("Buffers", "buffers"),
        ("Cached", "cached"),
        ("AnonPages", "anonymous"),
        ("Mapped", "mapped"),
        ("Shmem", "shared"),
        ("SReclaimable", "slab_reclaimable"),
        ("SUnreclaim", "slab_unreclaimable"),
        ("KernelStack", "kernel_stacks"),
        ("PageTables", "page_tables"),
        ("SwapTotal", "swap_total"),
    ];
    // A machine that dies for want of memory has none of it any more.
    let kept = if death.name == OOM.name { 1 } else { figures.len() };
    // In a machine that lives on for some seconds, pages that each CPU keeps for itself become free ones: 2 % of it were seen.
    let lives_on = [HUNG.name, SOFT_LOCKUP.name].contains(&death.name);
    let slack = if lives_on { total / 25 } else { total / 100 };
    for (theirs, ours) in figures.into_iter().take(kept) {
        let was = of(theirs)?;
        let is = report["memory"][ours].as_u64().with_context(|| format!("memory.{ours} is not known"))?;
        ensure!(is.abs_diff(was) <= (was / 100).max(slack), "{ours} is {is} KiB, {theirs} was {was} KiB");
    }
    let huge = &report["memory"]["huge_pages"];
    let pages = huge.as_array().into_iter().flatten().find(|h| h["size_kib"] == 2048);
    ensure!(pages.is_some_and(|h| h["total"] == of("HugePages_Total").unwrap_or(0)), "huge pages {huge}");
    if death.name == OOM.name {
        let remarks = report["memory"]["remarks"].as_array().map(Vec::len);
        ensure!(remarks > Some(0), "nothing is wrong with the memory of a machine that had none left");
    }
    Ok(())
}

/// The kernel that ran said the same of itself.
fn live(crashed: &Crashed) -> Result<()> {
    let said = |name: &str| -> Result<String> {
        let (text, status) =
            crashed.run.console.section(name).with_context(|| format!("no section {name}"))?;
        ensure!(status == 0, "{name} ended with {status}:\n{text}");
        Ok(text)
    };
    // Of each a first number in its lines; what ended or began meanwhile is in one of the two lists of directories only.
    let (before, ps, after) = (said("live-pids")?, said("live-ps")?, said("live-pids-after")?);
    let known: Vec<&str> =
        ps.lines().filter_map(|l| l.trim_start_matches('>').split_whitespace().next()).collect();
    // Other programs speak on the console, too.
    let after: Vec<&str> = after.lines().map(str::trim).collect();
    let pids = before.lines().map(str::trim).filter(|pid| pid.parse::<u32>().is_ok() && after.contains(pid));
    let pids: Vec<&str> = pids.collect();
    let missing: Vec<&&str> = pids.iter().filter(|pid| !known.contains(pid)).collect();
    ensure!(pids.len() > 40 && missing.is_empty(), "ps has not {missing:?}:\n{ps}");
    let (meminfo, mem) = (said("live-meminfo")?, said("live-mem")?);
    let number = |text: &str, name: &str| -> Result<u64> {
        let after = text.split_once(name).map(|(_, rest)| rest);
        let value = after.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        value.with_context(|| format!("no {name} in:\n{text}"))
    };
    let total = number(&meminfo, "MemTotal:")?;
    for (theirs, ours) in [
        ("MemTotal:", "total "),
        ("MemFree:", "free "),
        ("AnonPages:", "anonymous "),
        ("Shmem:", "shared "),
        ("Slab:", "slab "),
    ] {
        let (was, is) = (number(&meminfo, theirs)?, number(&mem, ours)?);
        // What asks takes some memory itself.
        ensure!(is.abs_diff(was) <= total / 50, "{ours} is {is} KiB, {theirs} was {was} KiB:\n{mem}");
    }
    let bt = said("live-bt")?;
    ensure!(bt.contains("kthreadd+") && bt.contains("ret_from_fork"), "the stack of kthreadd:\n{bt}");
    let (theirs, ours) = (said("live-kallsyms")?, said("live-sym")?);
    let address = theirs.split_whitespace().next().context("no panic in /proc/kallsyms")?.to_owned();
    ensure!(ours.contains(&address), "panic is at {address}, not:\n{ours}");
    let (theirs, ours) = (said("live-dmesg")?, said("live-log")?);
    for line in theirs.lines().filter(|line| line.starts_with('[')) {
        ensure!(ours.lines().any(|l| l.trim_end() == line.trim_end()), "the log has no {line:?}:\n{ours}");
    }
    let triage = said("live-triage")?;
    ensure!(triage.contains("none: this kernel runs"), "{triage}");
    println!(
        "   the running kernel says the same of itself: {} processes, {total} KiB of memory",
        known.len()
    );
    Ok(())
}

/// Crashes a guest.
fn crash(bench: &Bench<'_>, series: Series, death: &Death, raw: bool) -> Result<Crashed> {
    let mut crash = Crash::new(bench, &format!("triage-{}-{}", death.name, series.name()), series)?;
    if raw {
        crash
            .settings
            .push_str("[[dump]]\nfile = \"vmcore\"\n[[dump]]\nfile = \"vmcore.raw\"\nformat = \"raw\"\n");
        crash.disk.0 = 1024;
    }
    crash.before = FILL.to_owned();
    crash.after = death.prepare.to_owned();
    if death.name == SYSRQ.name {
        crash.before.push_str(LIVE);
    }
    // The console gets what was written to it a little later; a kernel that is dead by then keeps it.
    crash.trigger = format!(
        "section uptime cat /proc/uptime\nsection meminfo cat /proc/meminfo\nusleep 500000\n{}",
        death.trigger
    );
    crash.sign = death.sign;
    crash.files = vec![(bench.crasher(series)?.to_owned(), "/crasher.ko".to_owned())];
    crash.run_during(bench, |machine: &Machine<'_>| {
        let Some(command) = death.monitor else { return Ok(()) };
        machine.wait_for("LAB-WAITS")?;
        let said = machine.monitor()?.execute("human-monitor-command", json!({"command-line": command}))?;
        ensure!(said.as_str().is_none_or(str::is_empty), "QEMU's monitor said to {command:?}: {said}");
        Ok(())
    })
}

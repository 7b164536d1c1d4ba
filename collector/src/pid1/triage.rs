//! The report child: asks the dead kernel what happened, and has the answer on the target before the dump's first page.
//!
//! Whatever becomes of it costs only the report: it is a child of its own with a deadline of its own, and none of its failures is
//! one of the capture.

use super::capture::VMCORE;
use super::report::{Report as Word, Reporter};
use super::story::INCOMPLETE;
use crate::engine::{Engine, chain};
use crate::erase::Rules;
use crate::fault;
use crate::manifest::TriageRecord;
use crate::plan::Plan;
use crate::report::{Report, text};
use crate::source::FileSource;
use crate::target::store::{Access, Store};
use std::path::Path;
use std::time::{Duration, Instant};

/// The report for people.
pub const TEXT: &str = "triage.txt";
/// The same for machines.
pub const JSON: &str = "triage.json";

/// How long the dead kernel is asked; what has no answer then is not known. A machine takes less than a second, an emulated one
/// with little to compute with several.
const ASKING: Duration = Duration::from_secs(15);

/// How long all of it may take: the target may be slow.
pub const LIMIT: Duration = Duration::from_secs(40);

/// Writes the report into a directory that is there.
pub fn write(plan: &Plan, access: &Access, directory: &str, out: &Reporter) -> Result<(), String> {
    let start = Instant::now();
    out.tell(&Word::Doing("reporting on the crash".to_owned()));
    fault::triage();
    let source = FileSource::open(Path::new(VMCORE)).map_err(|e| format!("cannot open {VMCORE}: {e}"))?;
    let mut engine = Engine::open(&source).map_err(|e| chain(&e))?;
    // What is not to be in a dump is not to be beside it either.
    let rules: Vec<&str> =
        plan.dumps.iter().map(|dump| dump.erase.as_str()).filter(|rules| !rules.is_empty()).collect();
    if !rules.is_empty() {
        let rules = Rules::parse(&rules.join("\n[vmlinux]\n")).map_err(|e| e.to_string())?;
        engine
            .erase(&rules)
            .map_err(|e| format!("not everything was found that is to be erased: {}", chain(&e)))?;
    }
    let kernel = engine.kernel();
    let (report, read) = engine.triage(ASKING, |dead| (Report::of(dead, kernel), dead.memory().bytes_read()));
    let asked = start.elapsed();
    let store = access.open(directory).map_err(|e| chain(&e))?;
    let (text, json) = (text::text(&report), report.json());
    put(&*store, TEXT, text.as_bytes())?;
    put(&*store, JSON, json.as_bytes())?;
    store.sync().map_err(|e| chain(&e))?;
    let verdict = &report.verdict;
    log::info!("verdict: {}", verdict.line);
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    out.tell(&Word::Triage(Box::new(TriageRecord {
        kind: verdict.kind.word().to_owned(),
        verdict: super::report::shortened(&verdict.line),
        function: verdict.function.clone(),
        module: verdict.module.clone(),
        signature: verdict.signature.clone(),
        asked_ms: millis(asked),
        took_ms: millis(start.elapsed()),
        read_kib: read >> 10,
        anonymous_kib: anonymous_kib(),
        unknown: report.unknown.len() as u64,
    })));
    Ok(())
}

/// A file that has its name only when it is whole.
fn put(store: &dyn Store, name: &str, bytes: &[u8]) -> Result<(), String> {
    let unfinished = format!("{name}{INCOMPLETE}");
    let put = store.overwrite(&unfinished, bytes).and_then(|()| store.rename(&unfinished, name));
    put.map_err(|e| chain(&e))
}

/// The most memory of its own that this process had, as far as the kernel tells: what it has now, for what is mapped of the
/// vmcore counts among a process's peak.
fn anonymous_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.split_whitespace().next()?.parse().ok()
}

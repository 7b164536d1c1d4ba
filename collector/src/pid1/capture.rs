//! The engine child: reads the vmcore and writes the dump's directory. It may die at any point; PID 1 knows
//! what it has told.

use super::finish;
use super::report::{Report, Reporter, Step, shortened};
use super::story::INCOMPLETE;
use super::{clock, mounts};
use crate::engine::{Engine, EngineError, chain};
use crate::erase::Rules;
use crate::fault;
use crate::manifest::{DumpReport, Manifest, Stage};
use crate::plan::{DumpSpec, Format, Plan, Rung};
use crate::problem::{Code, Problem};
use crate::progress::Progress;
use crate::source::FileSource;
use crate::target::directory::dump_name;
use crate::target::file::FileSink;
use crate::target::is_full;
use crate::target::ssh::FLAT;
use crate::target::store::{Access, InOrder, Store};
use crate::vmcore::ReadAt;
use std::cell::RefCell;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// The dead kernel's memory.
pub const VMCORE: &str = "/proc/vmcore";

/// The level that leaves out most.
const HIGHEST: u8 = 31;

/// The dead kernel's log in the dump's directory.
const LOG: &str = "vmcore-dmesg.txt";

/// What the engine child is to do.
#[derive(Clone, Copy, Debug)]
pub struct Job<'j> {
    /// The dumps.
    pub plan: &'j Plan,
    /// The target in the ladder.
    pub rung: &'j Rung,
    /// The same, reached.
    pub access: &'j Access,
    /// The dump's directory, if it is there already.
    pub directory: Option<&'j str>,
    /// The log is in it.
    pub logged: bool,
    /// The manifest that is left on the target if nobody comes to write a better one.
    pub so_far: &'j Manifest,
    /// PID 1.
    pub out: &'j Reporter,
}

/// Does everything that the plan wants, on one target.
pub fn capture(job: &Job<'_>) -> Result<(), String> {
    let Job { plan, access, out, .. } = *job;
    let source = FileSource::open(Path::new(VMCORE)).map_err(|e| format!("cannot open {VMCORE}: {e}"));
    let (store, engine) = out.stage(Stage::Dmesg, || {
        let engine =
            source.as_ref().map_err(Clone::clone).and_then(|s| Engine::open(s).map_err(|e| chain(&e)));
        // Without a vmcore there is still a directory, with a manifest that says why it is empty.
        let crash_time = engine.as_ref().ok().and_then(Engine::crash_time).unwrap_or_else(clock::now);
        let store = match job.directory {
            Some(path) => access.open(path),
            None => access.create(&dump_name(&plan.host, crash_time)),
        };
        let store = store.map_err(|e| chain(&e))?;
        out.tell(&Report::Directory(store.path().to_owned()));
        let mut engine = engine?;
        engine.threads = threads();
        if let Ok(source) = &source {
            budget(source);
        }
        out.tell(&Report::Kernel(Box::new(engine.kernel())));
        save_log(&mut engine, &*store, !job.logged, out);
        Ok((store, engine))
    })?;
    if let Err(e) = finish::reserve(&*store, job.so_far) {
        log::warn!("no room is reserved for the manifest: {}", chain(&e));
    }
    if plan.dumps.is_empty() {
        return Ok(());
    }
    let dumped = out.stage(Stage::Dump, || dump_all(job, engine, &*store));
    for (code, message) in store.notes() {
        out.problem(&Problem { code, message, times: 1 });
    }
    dumped
}

/// Threads that work on a dump: as many as the crash kernel has CPUs, which is one unless `nr_cpus=` says otherwise. Each takes
/// memory for what it compresses, of which there is little: hence no more than a few.
fn threads() -> usize {
    const MOST: usize = 8;
    std::thread::available_parallelism().map_or(1, usize::from).min(MOST)
}

/// Says what the dump will take of the crash kernel's memory.
fn budget(source: &FileSource) {
    let size = source.size();
    // Two bits a page: those that are there, and those that are kept.
    let bitmaps = size / 4096 / 8 * 2;
    log::info!(
        "memory: vmcore of {} MiB, bitmaps of about {} KiB, at most {} KiB on the way to the disk",
        size >> 20,
        bitmaps >> 10,
        (2 * FileSink::WINDOW) >> 10,
    );
}

/// The log comes first: it is small, and often all that anybody wants. A failure does not stop the dump, which
/// has the log too. `missing`: the store has no log yet.
fn save_log(engine: &mut Engine<'_>, store: &dyn Store, missing: bool, out: &Reporter) {
    let saved = if missing {
        write_log(engine, store)
    } else {
        // For the panic message alone.
        engine.dmesg(&mut io::sink()).map(drop).map_err(|e| chain(&e))
    };
    match saved {
        Ok(()) => out.tell(&Report::LogSaved),
        Err(why) => engine.problems.push(Code::LOG_DAMAGED, format!("{LOG}: {why}")),
    }
    // It has the panic message now.
    let kernel = engine.kernel();
    if let Some(message) = &kernel.panic_message {
        log::info!("the dead kernel ({}) said: {message}", kernel.release);
    }
    let panic_message = kernel.panic_message.as_deref().map(shortened);
    out.tell(&Report::Kernel(Box::new(crate::manifest::CrashedKernel { panic_message, ..kernel })));
    tell_problems(engine, out);
}

fn write_log(engine: &mut Engine<'_>, store: &dyn Store) -> Result<(), String> {
    let unfinished = format!("{LOG}{INCOMPLETE}");
    if !store.seekable() {
        // Flattened it would be no text.
        let mut text = Vec::new();
        engine.dmesg(&mut text).map_err(|e| chain(&e))?;
        let put = store.overwrite(&unfinished, &text).and_then(|()| store.rename(&unfinished, LOG));
        return put.and_then(|()| store.sync()).map_err(|e| chain(&e));
    }
    let sink = store.create(&unfinished).map_err(|e| chain(&e))?;
    let mut writer = BufWriter::with_capacity(64 << 10, InOrder::new(&*sink));
    engine.dmesg(&mut writer).map_err(|e| chain(&e))?;
    writer.flush().and_then(|()| sink.finish()).map_err(|e| e.to_string())?;
    drop(writer);
    drop(sink);
    store.rename(&unfinished, LOG).and_then(|()| store.sync()).map_err(|e| chain(&e))
}

/// All dumps of the plan. One that fails for want of room ends it: the next would find even less.
fn dump_all(job: &Job<'_>, mut engine: Engine<'_>, store: &dyn Store) -> Result<(), String> {
    let out = job.out;
    let mut failure = None;
    for (index, spec) in job.plan.dumps.iter().enumerate() {
        if let Err(why) = erase(&mut engine, spec, out) {
            log::error!("dump: {why}");
            tell_problems(&engine, out);
            failure.get_or_insert(why);
            continue;
        }
        let mut spec = spec.clone();
        if let Some(level) = job.rung.level.filter(|_| spec.format != Format::Raw) {
            spec.level = level;
        }
        if !store.seekable() {
            spec.file.push_str(FLAT);
        }
        out.tell(&Report::Dumping { index, file: spec.file.clone(), level: spec.level });
        lower_to_fit(&mut engine, &mut spec, store, out);
        let (mut report, mut error) = dump_one(&mut engine, &spec, store, out);
        if error.as_ref().is_some_and(|(.., last)| *last) && can_be_less(&spec) && is_out_of_room(&engine) {
            // The estimate was too good. What is there makes room for what matters most.
            raise(&mut engine, &mut spec, "the target is full");
            let unfinished = format!("{}{INCOMPLETE}", spec.file);
            match store.remove(&unfinished).and_then(|()| store.sync()) {
                Ok(()) => (report, error) = dump_one(&mut engine, &spec, store, out),
                Err(e) => log::warn!("{}", chain(&e)),
            }
        }
        if let Some(report) = report {
            log::info!(
                "dump: {} has {} MiB; of {} pages {} are kept",
                report.file,
                report.bytes >> 20,
                report.pages.present,
                report.pages.kept,
            );
            out.tell(&Report::Dump(Box::new(report)));
        }
        tell_problems(&engine, out);
        if let Some((error, last)) = error {
            failure.get_or_insert(error);
            if last {
                break;
            }
        }
    }
    failure.map_or(Ok(()), Err)
}

/// Whether a higher level could leave out more.
fn can_be_less(spec: &DumpSpec) -> bool {
    spec.format != Format::Raw && spec.level != HIGHEST
}

fn is_out_of_room(engine: &Engine<'_>) -> bool {
    engine.problems.list().iter().any(|problem| problem.code == Code::TARGET_FULL)
}

fn raise(engine: &mut Engine<'_>, spec: &mut DumpSpec, why: &str) {
    let message = format!("{}: {why}: level {HIGHEST} is taken instead of {}", spec.file, spec.level);
    log::warn!("{message}");
    engine.problems.push(Code::LEVEL_RAISED, message);
    spec.level = HIGHEST;
}

/// Takes the highest level where the dump would not fit as it was asked for: a whole dump of what matters most is worth more
/// than the first half of everything.
fn lower_to_fit(engine: &mut Engine<'_>, spec: &mut DumpSpec, store: &dyn Store, out: &Reporter) {
    let Some(free) = store.free().filter(|_| can_be_less(spec)) else { return };
    let need = engine.estimate(spec, &Narrator::new(out));
    if need > free {
        raise(engine, spec, &format!("about {} MiB do not fit into {} MiB", need >> 20, free >> 20));
    }
}

/// One dump. What went wrong comes with whether the target can take no more.
fn dump_one(
    engine: &mut Engine<'_>,
    spec: &DumpSpec,
    store: &dyn Store,
    out: &Reporter,
) -> (Option<DumpReport>, Option<(String, bool)>) {
    let unfinished = format!("{}{INCOMPLETE}", spec.file);
    let sink = match store.create(&unfinished) {
        Ok(sink) => sink,
        Err(e) => {
            let full = is_full(&e.source);
            engine.problems.push(if full { Code::TARGET_FULL } else { Code::TARGET_WRITE_FAILED }, chain(&e));
            return (None, Some((chain(&e), full)));
        }
    };
    match engine.dump(spec, &*sink, &Narrator::new(out)) {
        Ok(report) => (Some(report), None),
        Err(EngineError::Sink { source, report }) => {
            let full = is_full(&source);
            let why = if full {
                "the target is full".to_owned()
            } else {
                format!("cannot write {unfinished}: {source}")
            };
            let code = if full { Code::TARGET_FULL } else { Code::TARGET_WRITE_FAILED };
            engine.problems.push(code, format!("{unfinished}: {source}, after {} bytes", report.bytes));
            // What is in the cache is part of what was saved.
            if let Err(e) = sink.finish() {
                log::warn!("{unfinished}: {e}");
            }
            (Some(DumpReport { file: unfinished, complete: false, ..*report }), Some((why, true)))
        }
        Err(e) => (None, Some((chain(&e), false))),
    }
}

/// Has the engine erase what the rules of a dump mean, and nothing else. An error when the dump is not to be written: what cannot be
/// found cannot be erased, and a dump that has what it was to be without goes where it must not.
fn erase(engine: &mut Engine<'_>, spec: &DumpSpec, out: &Reporter) -> Result<(), String> {
    let refused =
        || format!("not everything that is to be erased from {} was found: it is not written", spec.file);
    let rules = match Rules::parse(&spec.erase) {
        Ok(rules) => rules,
        Err(e) => {
            engine.problems.push(Code::ERASE_UNRESOLVED, format!("rules for {}: {e}", spec.file));
            return Err(refused());
        }
    };
    if !spec.erase.is_empty() {
        log::info!("dump: looking for what is to be erased from {}", spec.file);
    }
    let outcome = engine.erase(&rules).map(|resolved| resolved.patches.len());
    if !spec.erase.is_empty() {
        // The manifest lies beside the dump: what is erased of the kernel's names is not in it either.
        let kernel = engine.kernel();
        let panic_message = kernel.panic_message.as_deref().map(shortened);
        out.tell(&Report::Kernel(Box::new(crate::manifest::CrashedKernel { panic_message, ..kernel })));
    }
    match outcome {
        Ok(0) => Ok(()),
        Ok(places) => {
            log::info!("dump: {places} places are erased from {}", spec.file);
            Ok(())
        }
        Err(EngineError::Erase(_)) => Err(refused()),
        Err(e) => Err(chain(&e)),
    }
}

fn tell_problems(engine: &Engine<'_>, out: &Reporter) {
    for problem in engine.problems.list() {
        out.problem(problem);
    }
}

/// Tells PID 1 how far the engine is: each percent, and at least so often that it is not taken for stalled.
struct Narrator<'a> {
    out: &'a Reporter,
    last: RefCell<Option<(Instant, Step)>>,
}

impl<'a> Narrator<'a> {
    /// Time between two reports at least, and at most while there is progress.
    const PAUSE: Duration = Duration::from_millis(200);

    fn new(out: &'a Reporter) -> Self {
        Self { out, last: RefCell::new(None) }
    }
}

impl Progress for Narrator<'_> {
    fn update(&self, stage: Stage, what: &str, done: u64, total: u64, bytes: u64) {
        let mut step = Step { what: what.to_owned(), done, total, bytes, available_kib: None };
        if stage == Stage::Dump && bytes > 0 {
            fault::engine(step.percent());
        }
        let mut last = self.last.borrow_mut();
        if let Some((at, before)) = last.as_ref() {
            let moved = before.what != step.what || before.done != done || before.bytes != bytes;
            let over = done == total || before.what != step.what;
            // Only a step that comes further is heard of: one that turns in circles is stalled.
            if !moved || (!over && at.elapsed() < Self::PAUSE) {
                return;
            }
        }
        *last = Some((Instant::now(), step.clone()));
        step.available_kib = mounts::meminfo_kib("MemAvailable");
        self.out.tell(&Report::Progress(step));
    }
}

/// Whether there is a dead kernel to save.
pub fn is_there() -> io::Result<()> {
    std::fs::metadata(VMCORE).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Compression, Format};
    use crate::vmcore::fixture::Core;
    use std::fs::File;

    /// Rules that mean something are resolved, or there is no dump; without any nothing is looked for.
    #[test]
    fn what_cannot_be_erased_is_not_dumped() {
        let file = Core::new("OSRELEASE=6.1\nPAGESIZE=4096\n").load(0, vec![0; 4096]).build();
        for (rules, refused) in [
            ("", false),
            ("# none\n", false),
            ("erase init_task.comm\n", true),
            ("erase\n", true),
            ("erase init_task.comm\nerase init_task.pid\n", true),
        ] {
            let mut engine = Engine::open(&file).unwrap();
            let out = Reporter::new(File::options().write(true).open("/dev/null").unwrap());
            let spec = DumpSpec {
                erase: rules.to_owned(),
                ..DumpSpec::new("vmcore", 31, Format::Kdump, Compression::DEFAULT)
            };
            let outcome = erase(&mut engine, &spec, &out);
            assert_eq!(outcome.is_err(), refused, "{rules:?}: {outcome:?}");
            assert!(outcome.err().is_none_or(|why| why.contains("vmcore was found: it is not written")));
            let told = engine.problems.list().iter().any(|p| p.code == Code::ERASE_UNRESOLVED);
            assert_eq!(told, refused, "{rules:?}: {:?}", engine.problems);
        }
    }
}

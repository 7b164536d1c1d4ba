//! The engine child: reads the vmcore and writes the dump's directory. It may die at any point; PID 1 knows
//! what it has told.

use super::finish;
use super::report::{Report, Reporter, Step, shortened};
use super::story::INCOMPLETE;
use super::{clock, mounts};
use crate::engine::{Engine, EngineError, chain};
use crate::fault;
use crate::manifest::{DumpReport, Manifest, Stage};
use crate::plan::{DumpSpec, Plan};
use crate::problem::Code;
use crate::progress::Progress;
use crate::source::FileSource;
use crate::target::directory::{DumpDirectory, dump_name};
use crate::target::file::FileSink;
use crate::target::is_full;
use crate::vmcore::ReadAt;
use std::cell::RefCell;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// The dead kernel's memory.
pub const VMCORE: &str = "/proc/vmcore";

/// The dead kernel's log in the dump's directory.
const LOG: &str = "vmcore-dmesg.txt";

/// Does everything that the plan wants, on the target that is mounted at `root`. `so_far` is the manifest that
/// is left on the disk if nobody comes to write a better one.
pub fn capture(
    plan: &Plan,
    root: &Path,
    directory: &str,
    so_far: &Manifest,
    out: &Reporter,
) -> Result<(), String> {
    let source = FileSource::open(Path::new(VMCORE)).map_err(|e| format!("cannot open {VMCORE}: {e}"));
    let (directory, engine) = out.stage(Stage::Dmesg, || {
        let engine =
            source.as_ref().map_err(Clone::clone).and_then(|s| Engine::open(s).map_err(|e| chain(&e)));
        // Without a vmcore there is still a directory, with a manifest that says why it is empty.
        let crash_time = engine.as_ref().ok().and_then(Engine::crash_time).unwrap_or_else(clock::now);
        let directory = DumpDirectory::create(root, directory, &dump_name(&plan.host, crash_time));
        let directory = directory.map_err(|e| chain(&e))?;
        out.tell(&Report::Directory(directory.path().to_owned()));
        let mut engine = engine?;
        if let Ok(source) = &source {
            budget(source);
        }
        out.tell(&Report::Kernel(Box::new(engine.kernel())));
        save_log(&mut engine, &directory, out);
        Ok((directory, engine))
    })?;
    if let Err(e) = finish::reserve(&directory, so_far) {
        log::warn!("no room is reserved for the manifest: {}", chain(&e));
    }
    out.stage(Stage::Dump, || dump_all(plan, engine, &directory, out))
}

/// Says what the dump will take of the crash kernel's memory.
fn budget(source: &FileSource) {
    let size = source.size();
    // Two bits a page: those that are there, and those that are kept.
    let bitmaps = size / 4096 / 8 * 2;
    log::info!(
        "memory: vmcore of {} MiB, bitmaps of about {} KiB, write-back of at most {} KiB",
        size >> 20,
        bitmaps >> 10,
        (2 * FileSink::WINDOW) >> 10,
    );
}

/// The log comes first: it is small, and often all that anybody wants. A failure does not stop the dump, which
/// has the log too.
fn save_log(engine: &mut Engine<'_>, directory: &DumpDirectory, out: &Reporter) {
    match write_log(engine, directory) {
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

fn write_log(engine: &mut Engine<'_>, directory: &DumpDirectory) -> Result<(), String> {
    let unfinished = format!("{LOG}{INCOMPLETE}");
    let file = directory.create_file(&unfinished).map_err(|e| chain(&e))?;
    let mut writer = BufWriter::with_capacity(64 << 10, file);
    engine.dmesg(&mut writer).map_err(|e| chain(&e))?;
    writer.flush().and_then(|()| writer.get_ref().sync_all()).map_err(|e| e.to_string())?;
    directory.rename(&unfinished, LOG).and_then(|()| directory.sync()).map_err(|e| chain(&e))
}

/// All dumps of the plan. One that fails for want of room ends it: the next would find even less.
fn dump_all(
    plan: &Plan,
    mut engine: Engine<'_>,
    directory: &DumpDirectory,
    out: &Reporter,
) -> Result<(), String> {
    let mut failure = None;
    for (index, spec) in plan.dumps.iter().enumerate() {
        out.tell(&Report::Dumping(index));
        let (report, error) = dump_one(&mut engine, spec, directory, out);
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

/// One dump. What went wrong comes with whether the target can take no more.
fn dump_one(
    engine: &mut Engine<'_>,
    spec: &DumpSpec,
    directory: &DumpDirectory,
    out: &Reporter,
) -> (Option<DumpReport>, Option<(String, bool)>) {
    let unfinished = format!("{}{INCOMPLETE}", spec.file);
    let sink = match FileSink::create(directory, &unfinished) {
        Ok(sink) => sink,
        Err(e) => {
            let full = is_full(&e.source);
            engine.problems.push(if full { Code::TARGET_FULL } else { Code::TARGET_WRITE_FAILED }, chain(&e));
            return (None, Some((chain(&e), full)));
        }
    };
    match engine.dump(spec, &sink, &Narrator::new(out)) {
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
            if let Err(e) = crate::format::DumpSink::finish(&sink) {
                log::warn!("{unfinished}: {e}");
            }
            (Some(DumpReport { file: unfinished, complete: false, ..*report }), Some((why, true)))
        }
        Err(e) => (None, Some((chain(&e), false))),
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

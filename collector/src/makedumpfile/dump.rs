//! Dumps: one level after the other until one has room.

use super::messages::{Messages, Meter};
use super::options::{Options, To};
use super::output::{self, File};
use super::{Failure, known, report, seen};
use crate::addr::VirtAddr;
use crate::byhand;
use crate::engine::{Engine, EngineError, chain};
use crate::format::stream::Flattened;
use crate::format::{DumpSink, Nowhere};
use crate::input::{Input, InputError};
use crate::plan::DumpSpec;
use std::io;
use std::path::Path;

/// Opens what is to be dumped.
pub(super) fn open_source(path: &Path) -> Result<Input, Failure> {
    Input::open(&[path]).map_err(|e| {
        let InputError::Open { source, .. } = &e else {
            return Failure::new(chain(&e));
        };
        let hint = match source.kind() {
            io::ErrorKind::NotFound if path == Path::new("/proc/vmcore") => {
                ". It exists only in a crash kernel, after a crash"
            }
            io::ErrorKind::PermissionDenied => ". A vmcore holds all of a machine's memory: try as root",
            _ => "",
        };
        Failure::new(format!("Can't open the dump memory({}). {source}{hint}", path.display()))
    })
}

/// Opens the engine on it, and says what is seen.
pub(super) fn open_engine<'a>(
    options: &Options,
    path: &Path,
    input: &'a Input,
    info: &[u8],
) -> Result<Engine<'a>, Failure> {
    let engine = Engine::open_with_info(input.source(), info)
        .map_err(|e| Failure::new(format!("{}: {}", path.display(), chain(&e))))?;
    if options.messages.says(Messages::DEBUG) {
        options.messages.say(Messages::DEBUG, &seen::vmcore(&engine));
    }
    Ok(engine)
}

/// Says what went wrong without stopping anything.
pub(super) fn say_problems(options: &Options, engine: &Engine<'_>) {
    for problem in engine.problems.list() {
        let times = if problem.times > 1 { format!(" ({} times)", problem.times) } else { String::new() };
        options.messages.error(&format!("{}: {}{times}", problem.code, problem.message));
    }
}

/// Writes a dump.
pub(super) fn dump(options: &Options, vmcore: &Path, to: &To) -> Result<(), Failure> {
    if !options.dry_run {
        output::check(options, to)?;
    }
    let input = open_source(vmcore)?;
    let info = known::text(options)?;
    let mut engine = open_engine(options, vmcore, &input, &info)?;
    known::check(options, &mut engine, &info)?;
    engine.threads = options.threads;
    if let Some(config) = &options.config {
        byhand::erase(&mut engine, config).map_err(Failure::new)?;
    }
    if let Some(at) = options.vtop {
        options.messages.common(seen::translation(&mut engine, VirtAddr::new(at)).trim_end_matches('\n'));
        options.messages.common("");
    }
    let written = write(options, &mut engine, to);
    say_problems(options, &engine);
    written?;
    let saved = if to.files().len() > 1 { "dumpfiles are" } else { "dumpfile is" };
    options.messages.common(&format!("\nThe {saved} saved to {}.", output::name(to)));
    Ok(())
}

/// The sinks.
enum Sinks {
    Files(Vec<File>),
    Stdout(Flattened<io::Stdout>),
    Nowhere(Vec<Nowhere>),
}

impl Sinks {
    fn create(options: &Options, to: &To) -> Result<Self, Failure> {
        if options.dry_run {
            let files = to.files().len().max(1);
            return Ok(Self::Nowhere(vec![Nowhere; files]));
        }
        if *to == To::Stdout {
            return Ok(Self::Stdout(Flattened::new(io::stdout())));
        }
        let mut files = Vec::new();
        for path in to.files() {
            match File::create(path, options) {
                Ok(file) => files.push(file),
                Err(failure) => return Err(Self::Files(files).failed(failure)),
            }
        }
        Ok(Self::Files(files))
    }

    fn sinks(&self) -> Vec<&dyn DumpSink> {
        match self {
            Self::Files(files) => files.iter().map(|file| file as &dyn DumpSink).collect(),
            Self::Stdout(out) => vec![out],
            Self::Nowhere(all) => all.iter().map(|nowhere| nowhere as &dyn DumpSink).collect(),
        }
    }

    /// Why one has no room for more.
    fn full(&self) -> Option<String> {
        match self {
            Self::Files(files) => files.iter().find_map(File::full),
            Self::Stdout(_) | Self::Nowhere(_) => None,
        }
    }

    fn restart(&self) -> Result<(), Failure> {
        match self {
            Self::Files(files) => files.iter().try_for_each(File::restart),
            Self::Stdout(_) | Self::Nowhere(_) => Ok(()),
        }
    }

    fn failed(self, failure: Failure) -> Failure {
        match self {
            Self::Files(files) => files.into_iter().fold(failure, |failure, file| file.failed(failure)),
            Self::Stdout(_) | Self::Nowhere(_) => failure,
        }
    }
}

fn write(options: &Options, engine: &mut Engine<'_>, to: &To) -> Result<(), Failure> {
    let messages = options.messages;
    let sinks = Sinks::create(options, to)?;
    let mut levels = options.levels.iter().copied().peekable();
    while let Some(level) = levels.next() {
        let outcome = once(options, engine, level, &sinks, to);
        let Err((mut failure, bytes)) = outcome else { return Ok(()) };
        let Some(full) = sinks.full() else { return Err(sinks.failed(failure)) };
        messages.common(&format!("\n{full}"));
        match levels.peek() {
            Some(next) => {
                messages.common(&format!("Retry to create a dumpfile by dump_level({next})."));
                sinks.restart()?;
            }
            None => {
                if bytes > 0 {
                    messages.common("This is an incomplete dumpfile, but might analyzable.");
                }
                failure.text.clear();
                return Err(failure);
            }
        }
    }
    Ok(())
}

/// Writes at one level. A failure comes with the bytes that are in the file.
fn once(
    options: &Options,
    engine: &mut Engine<'_>,
    level: u8,
    sinks: &Sinks,
    to: &To,
) -> Result<(), (Failure, u64)> {
    let messages = options.messages;
    let spec = DumpSpec {
        exclude_vmemmap: options.exclude_vmemmap,
        ..DumpSpec::new(output::name(to), level, options.format, options.compression)
    };
    let meter = Meter::new(messages);
    let reports = match sinks.sinks().as_slice() {
        [one] => vec![engine.dump(&spec, *one, &meter)],
        several => {
            let pages = options.split_block.saturating_mul(1024) / engine.vmcore().page_size().bytes();
            engine.dump_split(&spec, several, pages, &meter)
        }
    };
    meter.end();
    let mut failed = None;
    for outcome in reports {
        let report = match outcome {
            Ok(report) => report,
            Err(EngineError::Sink { source, report }) => {
                let text = format!("Can't write the dump file({}). {source}", spec.file);
                failed.get_or_insert((Failure::new(text), report.bytes));
                continue;
            }
            Err(e) => return Err((Failure::new(chain(&e)), 0)),
        };
        if options.exclude_vmemmap {
            messages.common(&format!("\nExcluded {} unused vmemmap pages", report.pages.vmemmap));
        }
        if messages.says(Messages::REPORT) {
            let end = engine.vmcore().end_pfn().get();
            messages.say(Messages::REPORT, &report::statistics(&report, end));
        }
        if !report.complete && failed.is_none() {
            let text =
                format!("{} is incomplete: {} pages could not be read.", spec.file, report.pages.unreadable);
            failed = Some((Failure::new(text), report.bytes));
        }
    }
    failed.map_or(Ok(()), Err)
}

//! `vmcorectl triage`, `log` and `mem`: what a dead kernel says of its death, of any dump, without debuginfo.

use super::open;
use collector::engine::{Engine, chain};
use collector::report::html::{self, Held};
use collector::report::{Report, pages, text};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What can be asked of a dump.
#[derive(clap::Subcommand, Clone, Debug)]
pub enum ReportCommand {
    /// Say what happened: verdict, stacks, memory, log; no debuginfo is needed
    Triage {
        /// A dump of any kind, what `list` matches, or /proc/kcore, the running kernel [default: the last crash, or else
        /// the running kernel]
        #[arg(value_name = "FILE|MATCH")]
        dump: Option<PathBuf>,
        /// As JSON
        #[arg(long, conflicts_with = "html")]
        json: bool,
        /// As a page for a browser, which needs nothing else
        #[arg(long)]
        html: bool,
    },
    /// Show the kernel log of a dump
    Log {
        /// As for `triage`
        #[arg(value_name = "FILE|MATCH")]
        dump: Option<PathBuf>,
    },
    /// Say where the memory of a dead machine went
    Mem {
        /// As for `triage`
        #[arg(value_name = "FILE|MATCH")]
        dump: Option<PathBuf>,
    },
}

/// Answers on stdout. `file` finds the dump that is meant.
pub fn run(
    command: &ReportCommand,
    file: impl FnOnce(Option<&Path>) -> Result<PathBuf, String>,
) -> Result<(), String> {
    let mut out = std::io::stdout().lock();
    let (dump, shape) = match command {
        ReportCommand::Log { dump } => return log(&file(dump.as_deref())?, &mut out),
        ReportCommand::Mem { dump } => (dump, Shape::Memory),
        ReportCommand::Triage { dump, json: true, .. } => (dump, Shape::Json),
        ReportCommand::Triage { dump, html: true, .. } => (dump, Shape::Html),
        ReportCommand::Triage { dump, .. } => (dump, Shape::Text),
    };
    let said = triage(&file(dump.as_deref())?, shape)?;
    out.write_all(said.as_bytes()).map_err(|e| format!("cannot write: {e}"))
}

/// How the report is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// For people.
    Text,
    /// For machines.
    Json,
    /// One page for a browser.
    Html,
    /// What is said of memory alone.
    Memory,
}

/// How long a dump is asked; on an idle machine it takes some tenths of a second.
const LIMIT: Duration = Duration::from_secs(120);

/// Makes the report of a dump.
pub fn triage(file: &Path, shape: Shape) -> Result<String, String> {
    let input = open(&[file.to_owned()])?;
    let mut engine = Engine::open(input.source()).map_err(|e| chain(&e))?;
    let kernel = engine.kernel();
    let report = engine.triage(LIMIT, |dead| Report::of(dead, kernel));
    Ok(match shape {
        Shape::Text => text::text(&report),
        Shape::Json => report.json() + "\n",
        Shape::Html => html::html(&report, Some(&held(&mut engine))),
        Shape::Memory => match text::memory_text(&report.memory) {
            said if said.is_empty() => {
                let why = report.unknown.first().map_or("", String::as_str);
                return Err(format!("where memory went is not known: {why}"));
            }
            said => said,
        },
    })
}

fn held(engine: &mut Engine<'_>) -> Held {
    let bytes = engine.vmcore().held();
    let (page, classes) = pages::classes(engine).unwrap_or((4096, Vec::new()));
    Held { bytes, page, classes }
}

/// Writes the kernel log of a dump.
pub fn log(file: &Path, out: &mut dyn Write) -> Result<(), String> {
    let input = open(&[file.to_owned()])?;
    let mut engine = Engine::open(input.source()).map_err(|e| chain(&e))?;
    engine.dmesg(out).map(drop).map_err(|e| chain(&e))
}

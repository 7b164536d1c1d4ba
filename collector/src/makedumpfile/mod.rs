//! The face of makedumpfile: called by that name this program takes makedumpfile's options, means the same by them, says
//! what scripts look for, and exits as it does.
//!
//! Which of its options there are is known from its manual, what it prints from running it. Differences, each meant:
//! a dump that is cut short says so in its header; pages that cannot be read are left out and the dump goes on (and the
//! exit status is 1); a number that is none is taken as makedumpfile takes it, but `--check-params` refuses it;
//! `--num-threads` goes with every format.
//!
//! Data flow: words (`getopt`) → options and the work they ask for (`options`) → the engine, with messages
//! (`messages`) as they are asked for.

pub mod asked;
mod dump;
mod getopt;
mod help;
mod known;
mod merge;
mod messages;
mod options;
mod output;
mod report;
mod seen;
mod usage;

use crate::engine::chain;
use crate::kernel::printk::Style;
use messages::Messages;
use options::{Options, Parsed, Refusal, To, Work};
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

/// Why nothing, or not all, was done.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Failure {
    /// Exit status.
    code: u8,
    /// What to say; empty when it has been said.
    text: String,
}

impl Failure {
    /// Exit status when what is known of a kernel is of another than the vmcore's.
    const OTHER_KERNEL: u8 = 2;

    fn new(text: impl Into<String>) -> Self {
        Self { code: 1, text: text.into() }
    }
}

/// Whether [`main`] understands these words.
pub(crate) fn understands(words: impl IntoIterator<Item = OsString>) -> bool {
    options::parse(words).work.is_ok()
}

/// Runs the command line `words`, the program's name left out.
pub fn main(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let words: Vec<OsString> = words.into_iter().collect();
    let Parsed { options, check, remark, work } = options::parse(words.iter().cloned());
    let messages = options.messages;
    let work = match work {
        Ok(Work::Help) => return print(help::HELP),
        Ok(Work::Version) => return print(help::VERSION),
        Ok(Work::Check) => return ExitCode::SUCCESS,
        Ok(work) => work,
        Err(refusal) => {
            refuse(messages, &refusal);
            if !check {
                messages.common("\nmakedumpfile Failed.");
            }
            return ExitCode::FAILURE;
        }
    };
    start_log(messages);
    if let Some(remark) = remark {
        messages.error(&remark);
    }
    let line: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    let version = help::VERSION.lines().next().unwrap_or_default();
    messages.say(Messages::DEBUG, &format!("{version}\ncommand line: makedumpfile {}\n\n", line.join(" ")));
    match run(&options, &work) {
        Ok(()) => {
            messages.common("\nmakedumpfile Completed.");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            if !failure.text.is_empty() {
                messages.error(&failure.text);
            }
            messages.common("\nmakedumpfile Failed.");
            ExitCode::from(failure.code)
        }
    }
}

fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// What the engine logs is for debugging.
fn start_log(messages: Messages) {
    let filter = if messages.says(Messages::DEBUG) { log::LevelFilter::Debug } else { log::LevelFilter::Off };
    // Somebody else's logger is as good.
    drop(
        env_logger::Builder::new().filter_level(filter).format(|f, r| writeln!(f, "{}", r.args())).try_init(),
    );
}

fn refuse(messages: Messages, refusal: &Refusal) {
    match refusal {
        Refusal::Value(why) => return messages.common(why),
        Refusal::Missing(why) => return messages.error(&format!("makedumpfile: {why}.")),
        Refusal::Getopt(why) => messages.error(&format!("makedumpfile: {why}")),
        Refusal::Usage(why) => messages.common(why),
    }
    messages.common("Commandline parameter is invalid.\nTry `makedumpfile --help' for more information.");
}

fn run(options: &Options, work: &Work) -> Result<(), Failure> {
    match work {
        // They were dealt with.
        Work::Help | Work::Version | Work::Check => Ok(()),
        Work::Dump { vmcore, to } => dump::dump(options, vmcore, to),
        Work::Dmesg { vmcore, to, partial } => dmesg(options, vmcore, to, *partial),
        Work::MemUsage { kcore } => usage::show(options, kcore),
        Work::Rearrange { out } => merge::rearrange(options, out),
        Work::Reassemble { parts, out } => merge::reassemble(options, parts, out),
        Work::Generate { out } => known::generate(options, out),
    }
}

/// `--dump-dmesg`.
fn dmesg(options: &Options, vmcore: &Path, to: &To, partial: bool) -> Result<(), Failure> {
    output::check(options, to)?;
    let input = dump::open_source(vmcore)?;
    let info = known::text(options)?;
    let mut engine = dump::open_engine(options, vmcore, &input, &info)?;
    known::check(options, &mut engine, &info)?;
    let style = Style { since_clear: partial, ..Style::default() };
    let failed = |e| Failure::new(format!("{}: {}", vmcore.display(), chain(&e)));
    match to {
        To::Stdout => {
            engine.dmesg_in(style, &mut io::stdout().lock()).map_err(failed)?;
        }
        To::File(path) => {
            let out = output::File::create(path, options)?;
            let written = engine.dmesg_in(style, &mut &out);
            dump::say_problems(options, &engine);
            if let Err(e) = written {
                return Err(out.failed(failed(e)));
            }
            out.sync()
                .map_err(|e| Failure::new(format!("Can't write the dump file({}). {e}", path.display())))?;
        }
        To::Split(_) => return Err(Failure::new("makedumpfile: a log is one file.")),
    }
    options.messages.common(&format!("\nThe dmesg log is saved to {}.", output::name(to)));
    Ok(())
}

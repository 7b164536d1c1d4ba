//! Looking at crashes and their dumps: harvest, list, info, verify, path, rm.

use super::meter::Meter;
use super::{load_settings, print};
use crate::cli::{Cli, Command};
use crate::dump::ask;
use crate::dump::info::Info;
use crate::dump::report;
use crate::dump::verify::Report;
use crate::harvest::boots::Boots;
use crate::harvest::list::{Entry, List};
use crate::harvest::places::is_passing;
use crate::harvest::{self, retention};
use crate::settings::Settings;
use anyhow::{Context, bail};
use initramfs::root::Root;
use std::io::{self, BufRead, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// Runs one of them.
pub fn run(cli: &Cli, root: &Root, live: bool) -> anyhow::Result<ExitCode> {
    match &cli.command {
        Command::Info { files, json } => info(cli, files, *json, root, live),
        Command::Verify { files, json, threads } => verify(cli, files, *json, *threads, root, live),
        Command::Report(command) => {
            let mut held = None;
            report::run(command, |dump| {
                let files: Vec<PathBuf> = dump.iter().map(|file| (*file).to_owned()).collect();
                dump_of(cli, &files, root, live, &mut held).map_err(|e| format!("{e:#}"))
            })
            .map_err(anyhow::Error::msg)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Harvest { shutdown: true, .. } => {
            Boots::mark_clean(true, root)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Harvest { shutdown: false, json } => {
            // Started anew in the same boot: it is not over after all.
            Boots::mark_clean(false, root)?;
            let done = harvest::harvest(settings(cli, root).as_ref(), root, live)?;
            for fault in &done.faults {
                eprintln!("vmcorectl: warning: {fault}");
            }
            if *json {
                writeln!(io::stdout().lock(), "{}", serde_json::to_string_pretty(&done.new)?)?;
            } else {
                write!(io::stdout().lock(), "{done}")?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::List { matches, since, until, json } => {
            let mut list = List::read(settings(cli, root).as_ref(), root, live)?;
            list.retain(matches, *since, *until);
            print(&list, *json)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Path { matches } => {
            let mut list = List::read(settings(cli, root).as_ref(), root, live)?;
            let entry = one(&mut list, matches)?;
            let file = entry.record.file.as_ref().context("of this crash there is no dump")?;
            if !entry.present {
                bail!("{} is gone", file.display());
            }
            if is_passing(file) {
                let name = entry.record.key.as_str();
                bail!(
                    "{name} is on {}, which is not mounted: mount it, or use `vmcorectl info {name}`",
                    entry.record.device
                );
            }
            writeln!(io::stdout().lock(), "{}", file.display())?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Rm { matches, yes } => remove(cli, matches, *yes, root, live),
        Command::Ask(command) => {
            let files: Vec<PathBuf> = command.source().dump.iter().cloned().collect();
            let mut held = None;
            ask::run(command, &dump_of(cli, &files, root, live, &mut held)?, &mut io::stdout().lock())?;
            Ok(ExitCode::SUCCESS)
        }
        _ => bail!("no command about dumps"),
    }
}

/// Dumps are looked at also where the settings cannot be read.
fn settings(cli: &Cli, root: &Root) -> Option<Settings> {
    match load_settings(cli, root) {
        Ok(loaded) => Some(loaded.settings),
        Err(why) => {
            eprintln!("vmcorectl: warning: {why:#}");
            None
        }
    }
}

/// The last of those that match.
fn one<'l>(list: &'l mut List, words: &[String]) -> anyhow::Result<&'l Entry> {
    list.retain(words, None, None);
    list.entries.last().with_context(|| match words {
        [] => "no crash is known".to_owned(),
        words => format!("no crash matches {:?}: `vmcorectl list` lists them", words.join(" ")),
    })
}

/// Files that are there are files; anything else is what `list` matches.
fn words(files: &[PathBuf]) -> Option<Vec<String>> {
    let known = !files.is_empty() && files.iter().all(|file| file.exists());
    // What looks like a file and is none is a slip to be told of.
    let meant = files.iter().any(|file| file.components().count() > 1);
    (!known && !meant).then(|| files.iter().map(|file| file.display().to_string()).collect())
}

/// The dump that is meant: a file, or the one of the last crash that matches, which is there for as long as `held` is.
fn dump_of(
    cli: &Cli,
    files: &[PathBuf],
    root: &Root,
    live: bool,
    held: &mut Option<List>,
) -> anyhow::Result<PathBuf> {
    let Some(words) = words(files) else {
        return files.first().cloned().context("no file is named");
    };
    let list = held.insert(List::read(settings(cli, root).as_ref(), root, live)?);
    if words.is_empty() && list.entries.is_empty() && live {
        eprintln!("vmcorectl: no crash is known: this is the running kernel ({RUNNING})");
        return Ok(PathBuf::from(RUNNING));
    }
    let entry = one(list, &words)?;
    let file = entry.record.file.as_ref().context("of this crash there is no dump")?;
    if !entry.present {
        bail!("{} is gone", file.display());
    }
    Ok(root.path(file))
}

/// The memory of the kernel that runs, as a vmcore.
const RUNNING: &str = "/proc/kcore";

fn info(cli: &Cli, files: &[PathBuf], json: bool, root: &Root, live: bool) -> anyhow::Result<ExitCode> {
    let Some(words) = words(files) else {
        print(&Info::read(files).map_err(anyhow::Error::msg)?, json)?;
        return Ok(ExitCode::SUCCESS);
    };
    let mut list = List::read(settings(cli, root).as_ref(), root, live)?;
    let entry = one(&mut list, &words)?;
    print(entry, json)?;
    // What the crash kernel has said of it is told; what is in the dump is read anew.
    if let Some(file) =
        entry.record.file.as_ref().filter(|_| entry.present && entry.record.bytes > 0 && !json)
    {
        match Info::read(&[root.path(file)]) {
            Ok(info) => write!(io::stdout().lock(), "\n{info}")?,
            Err(why) => eprintln!("vmcorectl: {}: {why}", file.display()),
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn verify(
    cli: &Cli,
    files: &[PathBuf],
    json: bool,
    threads: Option<usize>,
    root: &Root,
    live: bool,
) -> anyhow::Result<ExitCode> {
    let mut held = None;
    let files = match words(files) {
        None => files.to_vec(),
        Some(words) => {
            let list = held.insert(List::read(settings(cli, root).as_ref(), root, live)?);
            let entry = one(list, &words)?;
            if entry.record.bytes == 0 && entry.record.file.is_some() {
                bail!("of the crash {} only the log was saved: there is no dump to read", entry.record.key);
            }
            vec![root.path(entry.record.file.as_ref().context("of this crash there is no dump")?)]
        }
    };
    let threads = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let meter = Meter::default();
    let report = Report::read(&files, threads, &|done, total| meter.update(done, total))
        .map_err(anyhow::Error::msg)?;
    meter.clear();
    print(&report, json)?;
    drop(held);
    Ok(ExitCode::from(u8::from(!report.sound)))
}

fn remove(cli: &Cli, words: &[String], yes: bool, root: &Root, live: bool) -> anyhow::Result<ExitCode> {
    let mut list = List::read(settings(cli, root).as_ref(), root, live)?;
    list.retain(words, None, None);
    let dumps: Vec<_> = list.entries.iter().flat_map(|entry| &entry.dumps).collect();
    if dumps.is_empty() {
        bail!("no dump that is there matches {:?}: `vmcorectl list` lists them", words.join(" "));
    }
    for dump in &dumps {
        println!("{} ({})", dump.directory.display(), crate::dump::human(dump.bytes));
    }
    if !yes {
        print!("remove {}? [y/N] ", if dumps.len() == 1 { "it" } else { "them" });
        io::stdout().flush()?;
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer)?;
        if !matches!(answer.trim(), "y" | "yes") {
            bail!("nothing was removed");
        }
    }
    for dump in dumps {
        retention::remove(dump, root)
            .with_context(|| format!("cannot remove {}", dump.directory.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

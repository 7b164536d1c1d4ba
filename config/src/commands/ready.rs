//! Before the crash: check, estimate, test, triggers.

use super::{load_settings, print, read_settings};
use crate::arm;
use crate::cli::{Cli, Command, TriggersCommand};
use crate::estimate;
use crate::harvest::places::Places;
use crate::harvest::proof;
use crate::kexec::KexecState;
use crate::readiness::{self, Checked, Look, State, probe, prometheus};
use crate::triggers::{self, Profile};
use anyhow::{Context, bail};
use initramfs::root::Root;
use std::fs::OpenOptions;
use std::io::{self, BufRead, Write};
use std::path::Path;
use std::process::ExitCode;

/// Runs one of them.
pub fn run(cli: &Cli, root: &Root, live: bool) -> anyhow::Result<ExitCode> {
    match &cli.command {
        Command::Check { json, prometheus, no_write, quiet } => {
            let settings =
                load_settings(cli, root).map(|loaded| loaded.settings).map_err(|e| format!("{e:#}"));
            let look = Look { write: !no_write, live };
            let mut checked = readiness::check(settings.as_ref().map_err(Clone::clone), root, look)?;
            if *quiet {
                checked.checks.retain(|check| matches!(check.state, State::Degraded | State::Failed));
                checked.estimate = None;
            }
            match prometheus {
                Some(file) => monitor(&checked, file)?,
                None => print(&checked, *json)?,
            }
            Ok(ExitCode::from(checked.readiness as u8))
        }
        Command::Estimate { json } => {
            let prepared = arm::prepare(&read_settings(cli, root)?, root)?;
            let spec = prepared.resolved.plan.dumps.first().context("the settings have no dump")?;
            let found = estimate::estimate(root, spec).map_err(anyhow::Error::msg)?;
            let places = Places::of_plan(&prepared.resolved.plan.targets, None, root, live);
            let first = places.places.iter().find(|place| place.rung == Some(0));
            let speed = first.filter(|_| live).and_then(|place| {
                let directory = root.path(&place.directory);
                let room = probe::free(&directory).ok()?;
                probe::write(&directory, (room / 2).min(4 * probe::BYTES)).ok()
            });
            print(&speed.map_or(found.clone(), |speed| found.at(speed)), *json)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Test { yes, .. } => crash(root, live, *yes),
        Command::Triggers(TriggersCommand::Show { profile, json }) => {
            let of_settings = || load_settings(cli, root).ok()?.settings.triggers;
            let profile = profile.or_else(of_settings).unwrap_or(Profile::Server);
            let all = triggers::triggers(profile, root);
            let mut out = io::stdout().lock();
            if *json {
                writeln!(out, "{}", serde_json::to_string_pretty(&all)?)?;
                return Ok(ExitCode::SUCCESS);
            }
            for trigger in &all {
                let triggers::Trigger { name, now, wanted, why } = trigger;
                let change = if now == wanted { format!("{now}     ") } else { format!("{now} -> {wanted}") };
                writeln!(out, "{name:<34} {change:<8} {why}")?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Triggers(TriggersCommand::Apply { profile }) => {
            for trigger in triggers::apply(*profile, root).context("cannot set them all")? {
                println!("{} = {} (was {})", trigger.name, trigger.wanted, trigger.now);
            }
            println!("wrote {}", triggers::SYSCTL_FILE);
            Ok(ExitCode::SUCCESS)
        }
        _ => bail!("no command about readiness"),
    }
}

/// A monitor that reads the file meanwhile sees the old one or the new one.
fn monitor(checked: &Checked, file: &Path) -> anyhow::Result<()> {
    let text = prometheus::text(checked);
    if file == Path::new("-") {
        return Ok(io::stdout().lock().write_all(text.as_bytes())?);
    }
    use std::os::unix::fs::OpenOptionsExt;
    let mut new = file.as_os_str().to_owned();
    new.push(format!(".{}", std::process::id()));
    let write = || {
        // node_exporter is not root.
        let options = || OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).clone();
        options().open(&new)?.write_all(text.as_bytes())?;
        std::fs::rename(&new, file)
    };
    write().with_context(|| format!("cannot write {}", file.display()))
}

/// Marks the test and crashes the machine.
fn crash(root: &Root, live: bool, yes: bool) -> anyhow::Result<ExitCode> {
    const TRIGGER: &str = "/proc/sysrq-trigger";
    if !live {
        bail!("test --root makes no sense: it is the running system that is crashed");
    }
    let kexec = KexecState::read(root)?;
    if !kexec.loaded || arm::loaded(root)?.is_none() {
        bail!("no crash kernel of ours is loaded: the crash would leave nothing; run `vmcorectl arm`");
    }
    if !yes {
        print!("This machine crashes now and restarts; what is not saved is lost. Crash it? [y/N] ");
        io::stdout().flush()?;
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer)?;
        if !matches!(answer.trim(), "y" | "yes") {
            bail!("nothing was done");
        }
    }
    let id = proof::mark(root)?.context("this boot is not known to be armed: run `vmcorectl arm`")?;
    println!("{id}: `vmcorectl check` shows what came of it after the restart");
    io::stdout().flush()?;
    // As much as can be of what others are writing.
    nix::unistd::sync();
    std::fs::write(TRIGGER, "c").context("the kernel has no sysrq: nothing happened")?;
    bail!("the machine was to crash, and did not")
}

//! The operator's command line: arm, disarm, look.
//!
//! Exit codes, of all commands: 0 done, or ready; 1 degraded; 2 not ready, a failure, or wrong usage.

use anyhow::{Context, bail};
use clap::Parser;
use collector::plan::{DeviceId, Target};
use config::arm::{self, Outcome, Prepared};
use config::cli::{Cli, Command, ConfigCommand, CrashkernelCommand, ImageCommand, TargetCommand};
use config::commands::{self, load_settings, print, read_settings};
use config::kexec::{KexecError, KexecState};
use config::load;
use config::network::explain::Explained;
use config::settings::{self, Place};
use config::show::Shown;
use config::storage::explain::Drawn;
use config::target::raw;
use config::target::ssh::propagate;
use config::{crashkernel, import, resolve, status};
use initramfs::image::{self, Kind};
use initramfs::root::Root;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    // Only what goes wrong inside; RUST_LOG asks for more.
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("error")).init();
    let cli = Cli::parse();
    match run(&cli) {
        Ok(code) => code,
        // Somebody who pipes into `head` has seen enough.
        Err(e) if e.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe) => {
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("vmcorectl: {e:#}");
            ExitCode::from(2)
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    let root = Root::new(&cli.root);
    let live = cli.root == Path::new("/");
    match &cli.command {
        Command::Arm { explain: true, .. } => {
            let prepared = arm::prepare(&read_settings(cli, &root)?, &root)?;
            explain(&prepared, &mut io::stdout().lock())?;
            // Shown first: a line that is too long has to be seen to be shortened.
            prepared.cmdline.for_kernel(&prepared.facts.machine)?;
        }
        Command::Arm { force, .. } => {
            if !live {
                bail!(
                    "arm --root works only with --explain: a crash kernel is loaded into the running system"
                );
            }
            let prepared = prepare_to_load(cli, &root)?;
            warn(&prepared.warnings);
            arm::set_disarmed(false, &root)?;
            let outcome = arm::arm(&prepared, &root, *force)?;
            let (release, id) = (&prepared.resolved.kernel.release, &prepared.image.id);
            match outcome {
                Outcome::Loaded => println!("armed: kernel {release}, image {id}"),
                Outcome::AlreadyLoaded => println!("already armed: kernel {release}, image {id}"),
            }
        }
        Command::Disarm => {
            if !live {
                bail!("disarm --root makes no sense: a crash kernel is unloaded from the running system");
            }
            arm::set_disarmed(true, &root)?;
            println!("{}", if arm::disarm(&root)? { "disarmed" } else { "nothing was loaded" });
        }
        Command::Status { json } => {
            let settings = read_settings(cli, &root).map_err(|e| format!("{e:#}"));
            let report = status::report(settings.as_ref().map_err(Clone::clone), &root)?;
            let mut out = io::stdout().lock();
            if *json {
                writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
            } else {
                write!(out, "{report}")?;
            }
            return Ok(ExitCode::from(report.readiness as u8));
        }
        Command::Info { .. }
        | Command::Verify { .. }
        | Command::Report(_)
        | Command::Ask(_)
        | Command::Harvest { .. }
        | Command::List { .. }
        | Command::Path { .. }
        | Command::Rm { .. } => return commands::dumps::run(cli, &root, live),
        Command::Check { .. } | Command::Estimate { .. } | Command::Test { .. } | Command::Triggers(_) => {
            return commands::ready::run(cli, &root, live);
        }
        Command::Image(ImageCommand::Build { output }) => {
            let prepared = arm::prepare(&read_settings(cli, &root)?, &root)?;
            warn(&prepared.warnings);
            // What an image holds is for its owner alone. Not renamed into place: the name may be a device's.
            OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(output)
                .and_then(|mut file| file.write_all(&prepared.image.bytes))
                .with_context(|| format!("cannot write {}", output.display()))?;
            println!("{}  {}", prepared.image.id, output.display());
        }
        Command::Image(ImageCommand::Ls { summary, file }) => {
            list(&read_image(file.as_deref(), &root)?, *summary)?;
        }
        Command::Image(ImageCommand::Cat { path, file }) => {
            let wanted = path.trim_start_matches('/');
            let entries = image::entries(&read_image(file.as_deref(), &root)?)?;
            let Some(entry) = entries.iter().find(|e| e.path.trim_start_matches('/') == wanted) else {
                bail!("no {path} in the image: `vmcorectl image ls` shows what there is");
            };
            if entry.kind != Kind::File {
                bail!("{path} is not a file");
            }
            io::stdout().lock().write_all(&entry.data)?;
        }
        Command::Target(TargetCommand::Explain { hosts, json }) => {
            let explained = Explained::read(&read_settings(cli, &root)?, hosts, &root)?;
            print(&explained, *json)?;
            return Ok(ExitCode::from(u8::from(explained.is_out_of_reach()) * 2));
        }
        Command::Target(TargetCommand::Prepare { device, force }) => {
            if !live {
                bail!("prepare --root makes no sense: it works on the running system's devices");
            }
            let ready = raw::prepare::prepare(device, *force, &root)?;
            println!("{} is ready for {} MiB of dumps", ready.node.display(), ready.room >> 20);
            println!("as a target:  [[target]] raw = \"UUID={}\"", ready.uuid);
        }
        Command::Target(TargetCommand::Recover { device, to }) => {
            if !live {
                bail!("recover --root makes no sense: it works on the running system's devices");
            }
            return recover(cli, device.as_ref(), to.as_deref(), &root);
        }
        Command::Target(TargetCommand::Propagate { to, path, key, known_hosts, yes }) => {
            if !live {
                bail!("propagate --root makes no sense: it works on the running system's keys");
            }
            if let Some(path) = path
                && !path.starts_with('/')
            {
                bail!("--path {path:?} is not absolute");
            }
            for mut server in propagate::servers(to.as_ref(), || read_settings(cli, &root))? {
                server.path = path.clone().unwrap_or(server.path);
                server.key = key.clone().or(server.key);
                server.known_hosts = known_hosts.clone().or(server.known_hosts);
                propagate::propagate(&server, *yes)?;
            }
        }
        Command::Crashkernel(command) => return run_crashkernel(command, cli, &root, live),
        Command::Config(ConfigCommand::Check { file }) => {
            let loaded = match file {
                Some(file) => load::load_file(file)?,
                None => load_settings(cli, &root)?,
            };
            let mut out = io::stdout().lock();
            for finding in &loaded.findings {
                writeln!(out, "{finding}")?;
            }
            return Ok(ExitCode::from(u8::from(loaded.warnings().next().is_some())));
        }
        Command::Config(ConfigCommand::Import { files, output }) => {
            let imported =
                if files.is_empty() { import::import(&root)? } else { import::import_files(files)? };
            for finding in &imported.findings {
                eprintln!("{finding}");
            }
            match output {
                Some(path) => OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o644)
                    .open(path)
                    .and_then(|mut file| file.write_all(imported.text.as_bytes()))
                    .with_context(|| format!("cannot write {}", path.display()))?,
                None => io::stdout().lock().write_all(imported.text.as_bytes())?,
            }
            return Ok(ExitCode::from(u8::from(imported.changes_meaning())));
        }
        Command::Config(ConfigCommand::Show { plan: false, json }) => {
            print(&Shown::of(&load_settings(cli, &root)?), *json)?;
        }
        Command::Config(ConfigCommand::Show { plan: true, .. }) => {
            let resolved = resolve::resolve(&read_settings(cli, &root)?, &root)?;
            warn(&resolved.warnings);
            writeln!(io::stdout().lock(), "{}", serde_json::to_string_pretty(&resolved.plan)?)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Recovers one partition, or all that the settings have.
fn recover(cli: &Cli, device: Option<&DeviceId>, to: Option<&Path>, root: &Root) -> anyhow::Result<ExitCode> {
    let default = Path::new(settings::DEFAULT_PATH);
    let wanted: Vec<(DeviceId, PathBuf)> = match device {
        Some(device) => vec![(device.clone(), to.unwrap_or(default).to_owned())],
        None => {
            let raws =
                read_settings(cli, root)?.targets.into_iter().filter_map(|target| match target.place {
                    Place::Raw(raw) => Some((raw.device, to.map_or_else(|| raw.path.into(), Path::to_owned))),
                    _ => None,
                });
            raws.collect()
        }
    };
    if wanted.is_empty() {
        println!("nothing to recover: no target of the settings is raw");
    }
    let mut faults = false;
    let mut failure = None;
    for (device, to) in wanted {
        let done = raw::node(&device, root)
            .map_err(anyhow::Error::from)
            .and_then(|node| Ok((raw::recover::recover(&node, &to)?, node)));
        let (dumps, node) = match done {
            Ok(done) => done,
            Err(e) => {
                // The others are worth having.
                if let Some(before) = failure.replace(e) {
                    eprintln!("vmcorectl: {before:#}");
                }
                continue;
            }
        };
        if dumps.is_empty() {
            println!("nothing to recover on {}", node.display());
        }
        for dump in dumps {
            let (shown, mib) = (dump.directory.display(), dump.bytes >> 20);
            let how = if dump.before { "has all of it already" } else { "was recovered" };
            println!("{shown}: {how}, {mib} MiB, {} ({})", dump.state, node.display());
            for fault in &dump.faults {
                faults = true;
                eprintln!("vmcorectl: warning: {}: {fault}", dump.directory.display());
            }
        }
    }
    match failure {
        Some(e) => Err(e),
        None => Ok(ExitCode::from(u8::from(faults))),
    }
}

fn run_crashkernel(
    command: &CrashkernelCommand,
    cli: &Cli,
    root: &Root,
    live: bool,
) -> anyhow::Result<ExitCode> {
    let need = read_settings(cli, root)
        .and_then(|settings| Ok(arm::prepare(&settings, root)?))
        .and_then(|prepared| Ok(crashkernel::need::need(&prepared, root)?));
    let report = crashkernel::Report::read(root, need.map_err(|e| format!("{e:#}")))?;
    let recommended = || match &report.need {
        Ok(need) => Ok(need.recommended),
        Err(why) => bail!("what is needed is not known: {why}"),
    };
    match command {
        CrashkernelCommand::Show { json } => {
            print(&report, *json)?;
            return Ok(ExitCode::from(match report.state {
                crashkernel::State::Reserved => 0,
                crashkernel::State::RebootRequired => 1,
                crashkernel::State::ReservedTooSmall | crashkernel::State::NotConfigured => 2,
            }));
        }
        CrashkernelCommand::Recommend { json: true } => {
            recommended()?;
            writeln!(io::stdout().lock(), "{}", serde_json::to_string_pretty(&report.need.as_ref().ok())?)?;
        }
        CrashkernelCommand::Recommend { json: false } => {
            println!("crashkernel={}", crashkernel::syntax::show_bytes(recommended()?));
        }
        CrashkernelCommand::Set { size, json } => {
            let bytes = size.map_or_else(recommended, Ok)?;
            let changed = crashkernel::set::set(root, bytes, &report)?;
            if *json {
                writeln!(io::stdout().lock(), "{}", serde_json::to_string_pretty(&changed)?)?;
                return Ok(ExitCode::SUCCESS);
            }
            for file in &changed.files {
                println!("wrote {}", file.display());
            }
            if changed.files.is_empty() {
                println!(
                    "nothing to do: crashkernel={} or more is there",
                    crashkernel::syntax::show_bytes(bytes)
                );
            } else {
                if changed.update_grub {
                    println!("run `update-grub`: GRUB reads what it makes of that");
                }
                println!("reboot: the kernel reserves memory when it starts");
            }
        }
        CrashkernelCommand::Shrink { size } => {
            let bytes = size.map_or_else(recommended, Ok)?;
            if live && !nix::unistd::geteuid().is_root() {
                bail!("not root: the reservation is the kernel's");
            }
            crashkernel::set::shrink(root, bytes, report.need.as_ref().map_or(0, |need| need.total))?;
            println!("{} reserved until the next boot", crashkernel::syntax::show_bytes(bytes));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Everything up to loading. Where both the kernel and the settings stand in the way, both are told: the first may take
/// a reboot to remove, and nobody wants to meet the second after it.
fn prepare_to_load(cli: &Cli, root: &Root) -> anyhow::Result<Prepared> {
    let obstacle = KexecState::read(root)?.check_load(nix::unistd::geteuid().as_raw());
    if let Err(e @ KexecError::NotRoot(_)) = obstacle {
        return Err(e.into());
    }
    let prepared = read_settings(cli, root).and_then(|settings| Ok(arm::prepare(&settings, root)?));
    match (obstacle, prepared) {
        (Ok(_), prepared) => prepared,
        (Err(obstacle), Ok(_)) => Err(obstacle.into()),
        (Err(obstacle), Err(e)) => {
            eprintln!("vmcorectl: {obstacle}");
            Err(e)
        }
    }
}

fn warn(warnings: &[String]) {
    for warning in warnings {
        eprintln!("vmcorectl: warning: {warning}");
    }
}

fn read_image(file: Option<&Path>, root: &Root) -> anyhow::Result<Vec<u8>> {
    let path = match file {
        Some(file) => file.to_owned(),
        None => match arm::loaded(root)? {
            Some(loaded) => root.path(arm::image_path(&loaded.image)),
            None => bail!("no image is loaded: name a file, or run `vmcorectl arm`"),
        },
    };
    std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
}

fn list(packed: &[u8], summary: bool) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    let entries = image::entries(packed)?;
    if summary {
        let unpacked: usize = entries.iter().map(|e| e.data.len()).sum();
        writeln!(out, "packed       {} bytes", packed.len())?;
        writeln!(out, "unpacked     {unpacked} bytes in {} entries", entries.len())?;
        return Ok(());
    }
    for entry in entries {
        let kind = match entry.kind {
            Kind::File => '-',
            Kind::Directory => 'd',
            Kind::Symlink => 'l',
            Kind::CharDevice { .. } => 'c',
            Kind::BlockDevice { .. } => 'b',
            Kind::Other => '?',
        };
        write!(out, "{kind}{:04o} {:>9} {}", entry.mode, entry.data.len(), entry.path)?;
        if entry.kind == Kind::Symlink {
            write!(out, " -> {}", String::from_utf8_lossy(&entry.data))?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn explain(prepared: &Prepared, out: &mut dyn Write) -> io::Result<()> {
    let Prepared { resolved, image, cmdline, kexec, need, warnings, facts, .. } = prepared;
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    writeln!(out, "kernel       {} ({})", resolved.kernel.path.display(), resolved.kernel.release)?;
    for (rung, node) in resolved.plan.targets.iter().zip(&resolved.nodes) {
        let now = node.as_ref().map(|node| format!(" (now {})", node.display())).unwrap_or_default();
        match &rung.to {
            Target::Local(local) => {
                let (device, directory) = (&local.device, &local.directory);
                writeln!(out, "target       {device}{now}, {}, directory {directory}", local.filesystem)?;
                if let Some(stack) = &local.stack {
                    write!(out, "{}", Drawn { stack, head: "  on         " })?;
                }
            }
            Target::Share(share) => writeln!(
                out,
                "target       {} {}, directory {}, options {}",
                share.kind.filesystem(),
                share.source,
                share.directory,
                share.options
            )?,
            Target::Ssh(ssh) => writeln!(out, "target       {ssh}")?,
            Target::Raw(raw) => writeln!(out, "target       {}{now}, raw", raw.device)?,
        }
    }
    for device in &resolved.modules.stack {
        let driver = device.driver.as_deref().unwrap_or("no driver");
        writeln!(out, "device       {} ({driver})", device.path.display())?;
    }
    for dump in &resolved.plan.dumps {
        writeln!(
            out,
            "dump         {}: {:?}, level {}, {}{}{}",
            dump.file,
            dump.format,
            dump.level,
            dump.compression,
            if dump.exclude_vmemmap { ", without needless struct pages" } else { "" },
            if dump.erase.is_empty() { "" } else { ", redacted" },
        )?;
    }
    let hooks = &resolved.plan.hooks;
    for (when, list) in [("pre", &hooks.pre), ("post", &hooks.post), ("emergency", &hooks.emergency)] {
        for hook in list {
            let decides = if hook.decides { ", may refuse the dump" } else { "" };
            writeln!(out, "hook         {}: {when}, {} s{decides}", hook.program, hook.limit)?;
        }
    }
    if let Some(shell) = &resolved.plan.shell {
        let limit = shell.limit.map_or("no limit".to_owned(), |limit| format!("{limit} s"));
        writeln!(out, "shell        {} when the dump fails, {limit}", shell.program)?;
    }
    if let Some(watchdog) = &resolved.plan.watchdog {
        writeln!(out, "watchdog     {}, fed, {} s", watchdog.identity, watchdog.timeout)?;
    }
    for module in &resolved.modules.modules {
        writeln!(out, "module       {:<20} {}", module.plan.name, module.why)?;
    }
    for firmware in &resolved.modules.firmware {
        writeln!(out, "firmware     {} for {}", firmware.path, firmware.module)?;
    }
    writeln!(out, "collector    {}", resolved.collector.display())?;
    writeln!(out, "image        {} bytes, {} unpacked, id {}", image.bytes.len(), image.unpacked, image.id)?;
    match kexec.reserved {
        Some(reserved) => write!(out, "memory       {} MiB reserved", mib(reserved))?,
        None => write!(out, "memory       no kexec in this kernel")?,
    }
    for range in &kexec.ranges {
        write!(out, ", {:#x}..{:#x}", range.start, range.end)?;
    }
    writeln!(out, "; about {} MiB needed", mib(*need))?;
    let limit = config::cmdline::limit(&facts.machine);
    writeln!(
        out,
        "\ncommand line, {} of {limit} bytes: = kept, - removed, + added, . not added",
        cmdline.text.len()
    )?;
    for row in &cmdline.rows {
        writeln!(out, "  {row}")?;
    }
    writeln!(out, "\n{}", cmdline.text)?;
    for warning in warnings {
        writeln!(out, "\nwarning: {warning}")?;
    }
    Ok(())
}

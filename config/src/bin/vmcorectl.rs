//! The operator's command line: arm, disarm, look.
//!
//! Exit codes, of all commands: 0 done, or ready; 1 degraded; 2 not ready, a failure, or wrong usage.

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use collector::plan::{DeviceId, Target};
use config::arm::{self, Outcome, Prepared};
use config::dump::info::Info;
use config::dump::verify::Report;
use config::kexec::{KexecError, KexecState};
use config::load::{self, Loaded};
use config::network::explain::Explained;
use config::settings::{self, Place, Settings};
use config::show::Shown;
use config::storage::explain::Drawn;
use config::target::raw;
use config::target::ssh::{SshAddress, SshSettings, propagate};
use config::{crashkernel, import, resolve, status};
use initramfs::image::{self, Kind};
use initramfs::root::Root;
use std::fs::OpenOptions;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Keeps this machine ready to record its own death.
#[derive(Parser)]
#[command(
    name = "vmcorectl",
    version,
    after_help = "Exit codes: 0 done, or ready; 1 degraded; 2 not ready, a failure, or wrong usage."
)]
struct Cli {
    /// Settings file, `.conf` as kdump.conf is [default: /etc/vmcored.toml and vmcored.toml.d, else /etc/kdump.conf]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Look at this tree instead of the running system; nothing is loaded or unloaded
    #[arg(long, global = true, value_name = "DIR", default_value = "/", hide_default_value = true)]
    root: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Plan, build the image and load the crash kernel
    Arm {
        /// Show the plan and the command line with their reasons; load nothing
        #[arg(long)]
        explain: bool,
        /// Load even if the same is loaded
        #[arg(long)]
        force: bool,
    },
    /// Unload the crash kernel
    Disarm,
    /// Say whether a crash now would be recorded
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Say what a dump is: kernel, crash, level, codecs, pages
    Info {
        /// A dump of any kind, or the parts of a split one
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Read all of a dump and say what is damaged
    #[command(after_help = "Exit codes: 0 sound; 1 damaged or incomplete; 2 no dump, or unreadable.")]
    Verify {
        /// A dump of any kind, or the parts of a split one
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// As JSON
        #[arg(long)]
        json: bool,
        /// Threads [default: one a CPU]
        #[arg(long, value_name = "N")]
        threads: Option<usize>,
    },
    /// Build images and look into them
    #[command(subcommand)]
    Image(ImageCommand),
    /// Look at the places for dumps
    #[command(subcommand)]
    Target(TargetCommand),
    /// Look at the settings
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Reserve memory for the crash kernel, as much as is needed
    #[command(subcommand)]
    Crashkernel(CrashkernelCommand),
}

#[derive(Subcommand)]
enum ImageCommand {
    /// Build the image into a file, without loading it
    Build {
        /// The file to write
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
    /// List what is in an image
    Ls {
        /// Only sizes in all
        #[arg(long)]
        summary: bool,
        /// The image [default: the one loaded]
        file: Option<PathBuf>,
    },
    /// Print a file of an image
    Cat {
        /// Its path in the image: /plan.json
        path: String,
        /// The image [default: the one loaded]
        file: Option<PathBuf>,
    },
}

#[derive(Subcommand)]
enum TargetCommand {
    /// Draw the way to a host, down to NICs and drivers, as the crash kernel would take it
    Explain {
        /// Names or addresses, fe80::1%eth0 where link-local [default: those of the settings]
        #[arg(value_name = "HOST")]
        hosts: Vec<String>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Make a partition without a file system one that dumps may be written to; what was on it is gone
    Prepare {
        /// The partition: a path below /dev, PARTUUID=…
        #[arg(value_name = "DEVICE")]
        device: DeviceId,
        /// Even if it holds something; never while it is in use
        #[arg(long)]
        force: bool,
    },
    /// Copy dumps off a raw partition to where dumps are, once
    Recover {
        /// The partition [default: those of the settings]
        #[arg(value_name = "DEVICE")]
        device: Option<DeviceId>,
        /// The directory of dumps [default: `path` of the target, or /var/crash]
        #[arg(long, value_name = "DIR")]
        to: Option<PathBuf>,
    },
    /// Make a key for an SSH server, install it there, and prove that a dump would arrive
    Propagate {
        /// Whom to log in as, and where: root@dumps.example.org, root@10.0.0.1:2222
        #[arg(value_name = "USER@HOST[:PORT]")]
        to: SshAddress,
        /// Directory of the server that dumps go to
        #[arg(long, value_name = "DIR", default_value = settings::DEFAULT_PATH)]
        path: String,
        /// The private key [default: the first of /root/.ssh/kdump_id_rsa and kdump_id_ed25519 that is there]
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
        /// Where host keys are looked up and recorded [default: root's]
        #[arg(long, value_name = "FILE")]
        known_hosts: Option<PathBuf>,
        /// Accept a host key that is new without asking
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Subcommand)]
enum CrashkernelCommand {
    /// Say what is reserved, what was asked for, what the next boot asks for, and what is needed
    #[command(
        after_help = "Exit codes: 0 reserved; 1 reboot-required; 2 reserved-too-small, not-configured, or a failure."
    )]
    Show {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the crashkernel= that this plan needs
    Recommend {
        /// As JSON, with the terms
        #[arg(long)]
        json: bool,
    },
    /// Write it down for the next boot, in GRUB's defaults, boot entries and /etc/kernel/cmdline; never lowers what is there
    Set {
        /// 192M, 1G [default: what is recommended]
        #[arg(value_name = "SIZE", value_parser = size)]
        size: Option<u64>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Give reserved memory back, until the next boot
    Shrink {
        /// 128M [default: what is recommended]
        #[arg(value_name = "SIZE", value_parser = size)]
        size: Option<u64>,
    },
}

/// A size as crashkernel= has it.
fn size(text: &str) -> Result<u64, String> {
    let request = crashkernel::syntax::request(&format!("crashkernel={text}")).map_err(|e| e.to_string())?;
    let plain = request.plain.filter(|plain| plain.offset.is_none() && !text.contains(':'));
    let size = plain.and_then(|plain| plain.size_for(0));
    size.ok_or_else(|| "expected a size: 192M, 1G".to_owned())
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Say what is wrong with the settings, or will not be as it was written
    #[command(after_help = "Exit codes: 0 nothing to say; 1 warnings; 2 wrong.")]
    Check {
        /// A settings file, `.conf` as kdump.conf is [default: those in force]
        file: Option<PathBuf>,
    },
    /// Print the settings in force, each with where it was written
    Show {
        /// As JSON
        #[arg(long, conflicts_with = "plan")]
        json: bool,
        /// The plan that comes out of them, as the crash image has it
        #[arg(long)]
        plan: bool,
    },
    /// Make a settings file of those of kdump-utils, kdump-tools or SUSE's kdump
    #[command(after_help = "Exit codes: 0 all as it was; 1 something is not, which is told; 2 a failure.")]
    Import {
        /// kdump.conf, sysconfig/kdump, default/kdump-tools [default: those of the system]
        #[arg(value_name = "FILE")]
        files: Vec<PathBuf>,
        /// The file to write, which must not exist [default: standard output]
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

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
        Command::Info { files, json } => {
            let info = Info::read(files).map_err(anyhow::Error::msg)?;
            print(&info, *json)?;
        }
        Command::Verify { files, json, threads } => {
            let threads =
                threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
            let meter = Meter::default();
            let report = Report::read(files, threads, &|done, total| meter.update(done, total))
                .map_err(anyhow::Error::msg)?;
            meter.clear();
            print(&report, *json)?;
            return Ok(ExitCode::from(u8::from(!report.sound)));
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
            if !path.starts_with('/') {
                bail!("--path {path:?} is not absolute");
            }
            let server = SshSettings {
                address: to.clone(),
                path: path.clone(),
                key: key.clone(),
                known_hosts: known_hosts.clone(),
            };
            propagate::propagate(&server, *yes)?;
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
            writeln!(io::stdout().lock(), "{}", serde_json::to_string_pretty(&report.need)?)?;
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

/// Prints a report.
fn print(report: &(impl serde::Serialize + std::fmt::Display), json: bool) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(report)?)?;
    } else {
        write!(out, "{report}")?;
    }
    Ok(())
}

/// How far it is, on a terminal, from the second second on.
struct Meter {
    terminal: bool,
    last: Mutex<(Instant, bool)>,
}

impl Default for Meter {
    fn default() -> Self {
        Self { terminal: io::stderr().is_terminal(), last: Mutex::new((Instant::now(), false)) }
    }
}

impl Meter {
    fn update(&self, done: u64, total: u64) {
        let Ok(mut last) = self.last.lock() else { return };
        if self.terminal && last.0.elapsed() >= Duration::from_secs(1) {
            *last = (Instant::now(), true);
            let percent = done.saturating_mul(100).checked_div(total).unwrap_or(100);
            eprint!("\r{percent:3} % of {total} pages");
        }
    }
    fn clear(&self) {
        if self.last.lock().is_ok_and(|last| last.1) {
            eprint!("\r{:40}\r", "");
        }
    }
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

/// A file that is named is a file of this system; the usual ones are looked for below the root.
fn load_settings(cli: &Cli, root: &Root) -> anyhow::Result<Loaded> {
    Ok(match &cli.config {
        Some(file) => load::load_file(file)?,
        None => load::load(root)?,
    })
}

/// The settings, with what will not be as it was written told.
fn read_settings(cli: &Cli, root: &Root) -> anyhow::Result<Settings> {
    let loaded = load_settings(cli, root)?;
    for finding in loaded.warnings() {
        eprintln!("vmcorectl: {finding}");
    }
    Ok(loaded.settings)
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

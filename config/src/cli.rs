//! The operator's command line, `vmcorectl`: what there is to say. What is done: [`crate::commands`] and the program itself.

use crate::crashkernel;
use crate::dump::ask::AskCommand;
use crate::dump::report::ReportCommand;
use crate::harvest::list::instant;
use crate::target::ssh::SshAddress;
use crate::triggers::Profile;
use clap::{Parser, Subcommand};
use collector::plan::DeviceId;
use std::path::PathBuf;

/// Keeps this machine ready to record its own death.
#[derive(Parser, Debug)]
#[command(
    name = "vmcorectl",
    version,
    after_help = "Exit codes: 0 done, or ready; 1 degraded; 2 not ready, a failure, or wrong usage."
)]
pub struct Cli {
    /// Settings file, `.conf` as kdump.conf is [default: /etc/vmcored.toml and vmcored.toml.d, else /etc/kdump.conf]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Look at this tree instead of the running system; nothing is loaded or unloaded
    #[arg(long, global = true, value_name = "DIR", default_value = "/", hide_default_value = true)]
    pub root: PathBuf,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Command {
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
        /// A dump of any kind, the parts of a split one, or what `list` matches [default: the last crash]
        #[arg(value_name = "FILE|MATCH")]
        files: Vec<PathBuf>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// What a dead kernel says of its death
    #[command(flatten)]
    Report(ReportCommand),
    /// Read all of a dump and say what is damaged
    #[command(after_help = "Exit codes: 0 sound; 1 damaged or incomplete; 2 no dump, or unreadable.")]
    Verify {
        /// A dump of any kind, the parts of a split one, or what `list` matches [default: the last crash]
        #[arg(value_name = "FILE|MATCH")]
        files: Vec<PathBuf>,
        /// As JSON
        #[arg(long)]
        json: bool,
        /// Threads [default: one a CPU]
        #[arg(long, value_name = "N")]
        threads: Option<usize>,
    },
    /// Questions to a dump's memory.
    #[command(flatten)]
    Ask(AskCommand),
    /// Find what the last crash left, check it, tell the journal; done at each boot
    Harvest {
        /// A shutdown ends this boot: it did not crash
        #[arg(long)]
        shutdown: bool,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// List the crashes of this machine
    List {
        /// A number, a part of a directory's name, a time, a release, a path, a status; all have to match
        #[arg(value_name = "MATCH")]
        matches: Vec<String>,
        /// Those from then on: 2026-11-22, 2026-11-22 12:43, @SECONDS; in UTC
        #[arg(long, short = 'S', value_name = "TIME", value_parser = instant)]
        since: Option<u64>,
        /// Those before then
        #[arg(long, short = 'U', value_name = "TIME", value_parser = instant)]
        until: Option<u64>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Print where the dump of a crash is
    Path {
        /// As in `list` [default: the last crash]
        #[arg(value_name = "MATCH")]
        matches: Vec<String>,
    },
    /// Remove dumps
    Rm {
        /// As in `list`
        #[arg(required = true, value_name = "MATCH")]
        matches: Vec<String>,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
    /// Look at everything that a dump needs, and write to the targets
    #[command(after_help = "Exit codes: 0 ready; 1 degraded; 2 not ready.")]
    Check {
        /// As JSON
        #[arg(long, conflicts_with = "prometheus")]
        json: bool,
        /// Write it for node_exporter's textfile collector, whole or not at all; `-` for standard output
        #[arg(long, value_name = "FILE")]
        prometheus: Option<PathBuf>,
        /// Do not write to the targets
        #[arg(long)]
        no_write: bool,
        /// Say only what is not as it should be
        #[arg(long, short)]
        quiet: bool,
    },
    /// Say how large a dump of now would be, and how long it would take
    Estimate {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Crash this machine, to prove that the dump arrives; the next boot says what came of it
    Test {
        /// Yes, crash it: by sysrq-c, now
        #[arg(long, required = true)]
        crash: bool,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
    /// What makes the kernel panic, and so dump
    #[command(subcommand)]
    Triggers(TriggersCommand),
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

/// About sysctls.
#[derive(Subcommand, Debug)]
pub enum TriggersCommand {
    /// Show what a profile would change
    Show {
        /// server, lab or off [default: that of the settings, else server]
        #[arg(value_enum)]
        profile: Option<Profile>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Set the sysctls of a profile, now and in /etc/sysctl.d
    Apply {
        /// server, lab or off
        #[arg(value_enum)]
        profile: Profile,
    },
}

/// About images.
#[derive(Subcommand, Debug)]
pub enum ImageCommand {
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

/// About targets.
#[derive(Subcommand, Debug)]
pub enum TargetCommand {
    /// Draw the way to a host, down to NICs and drivers, and what disks are put together from, as the crash kernel would
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
        /// Whom to log in as, and where: root@dumps.example.org, root@10.0.0.1:2222 [default: the servers of the settings]
        #[arg(value_name = "USER@HOST[:PORT]")]
        to: Option<SshAddress>,
        /// Directory of the server that dumps go to [default: that of the settings, or /var/crash]
        #[arg(long, value_name = "DIR")]
        path: Option<String>,
        /// The private key [default: that of the settings, or the first of /root/.ssh/kdump_id_rsa and kdump_id_ed25519 that is there]
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
        /// Where host keys are looked up and recorded [default: that of the settings, or root's]
        #[arg(long, value_name = "FILE")]
        known_hosts: Option<PathBuf>,
        /// Accept a host key that is new without asking
        #[arg(long)]
        yes: bool,
    },
}

/// About the reservation.
#[derive(Subcommand, Debug)]
pub enum CrashkernelCommand {
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

/// About settings.
#[derive(Subcommand, Debug)]
pub enum ConfigCommand {
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

//! `bench --ssh`: a dump over ssh, ours by sftp, and makedumpfile's as kdump's scripts send it: `makedumpfile -F | ssh dd`.
//! Both to the same sshd on the loopback device, with its default settings, into the same directory.

use super::Peer;
use super::measure::{Ran, median, run};
use crate::lab::command::{self, target_dir, workspace};
use crate::lab::sshd::{Nature, Sshd, missing};
use anyhow::{Context, Result, bail, ensure};
use collector::plan::Compression;
use collector::plan::ssh::SshTarget;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Level, codec of ours, option of theirs. What is not compressed shows what ssh itself takes.
const ROWS: [(&str, &str, &str); 9] = [
    ("31", SHIPPED, "-l"),
    ("31", "zstd", "-z"),
    ("31", "lzo", "-l"),
    ("31", "zlib", "-c"),
    ("1", SHIPPED, "-l"),
    ("1", "zstd", "-z"),
    ("1", "lzo", "-l"),
    ("1", "zlib", "-c"),
    ("1", "none", ""),
];

/// What each does unless told otherwise: we as PID 1, they as distributions call them.
const SHIPPED: &str = "as shipped";

/// The program that does what the crash kernel does, optimised as it is.
fn example() -> Result<PathBuf> {
    println!("building the program that dumps over ssh");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace()).args(["build", "--quiet", "--release", "--locked"]);
    cargo.args(["-p", "collector", "--example", "dump_ssh"]);
    command::run(&mut cargo)?;
    Ok(target_dir().join("release/examples/dump_ssh"))
}

/// The ciphers that the machine's client offers, those of AES-NI first, as they are put into the plan.
fn ciphers() -> Result<Vec<String>> {
    let settings: config::target::ssh::SshAddress = "root@127.0.0.1".parse()?;
    let settings = config::target::ssh::SshSettings {
        address: settings,
        path: "/".to_owned(),
        key: None,
        known_hosts: None,
    };
    Ok(settings.client(&initramfs::root::Root::new("/"))?.options)
}

/// `makedumpfile -F | ssh dd`, as kdump's scripts do it, with the file's own status of each part.
fn theirs(peer: &Peer, arguments: &[&str], core: &Path, target: &SshTarget, out: &Path) -> Command {
    let mut bash = Command::new("bash");
    bash.arg("-c").arg(format!(
        "set -o pipefail; {} -F {} --message-level 0 {} | ssh -F none -p {} -i {} -o BatchMode=yes \
         -o StrictHostKeyChecking=yes -o UserKnownHostsFile={} -o HostKeyAlias={} {}@{} \
         'umask 0077 && dd bs=512 of={} status=none'",
        peer.path.display(),
        arguments.join(" "),
        core.display(),
        target.port,
        target.identity,
        target.known_hosts,
        target.host_key_alias,
        target.user,
        target.address,
        out.display(),
    ));
    bash
}

/// A run, with the CPU time of the server's side counted too.
fn both_ends(server: &Sshd, command: &Command) -> Result<Ran> {
    server.rest()?;
    let before = server.cpu()?;
    let mut ran = run(command)?;
    server.rest()?;
    ran.took.cpu += server.cpu()? - before;
    Ok(ran)
}

/// The table.
pub fn table(peer: &Peer, core: &Path, out: &Path, runs: usize, threads: usize) -> Result<()> {
    if let Some(what) = missing() {
        bail!("{what} is missing");
    }
    let ours = example()?;
    // What the user's shell has to set up is not what is measured: bash passes it over below another shell.
    let nature = Nature { settings: "SetEnv SHLVL=1".to_owned(), ..Nature::default() };
    let server = Sshd::start(&nature)?;
    let scratch = tempfile::Builder::new().prefix("vmcored-bench-ssh-").tempdir_in(out)?;
    let mut target = server.target(scratch.path());
    target.options = ciphers()?;
    let file = scratch.path().join("target.json");
    fs::write(&file, serde_json::to_vec(&target)?)?;
    command::output(command::tool("md5sum")?.arg(core))?;
    println!(
        "## Dumps of {} ({} MiB) over ssh on the loopback device into {}, {runs} runs each, threads of ours: {threads}\n",
        core.display(),
        fs::metadata(core)?.len() >> 20,
        out.display()
    );
    println!("ours: by sftp, {}  ", target.options.first().map_or("no cipher chosen", String::as_str));
    println!(
        "theirs: `{}`\n",
        command::shown(&theirs(peer, &["-z", "-d", "31"], core, &target, Path::new("FILE")))
    );
    println!("Ratios are the medians of those of each pair of runs. CPU: of all processes on both ends.\n");
    println!(
        "| -d | codec | ours s | theirs s | ratio | ours CPU s | theirs CPU s | ratio | ours MiB | theirs MiB | ours MB/s |"
    );
    println!("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    let threads = threads.to_string();
    for (level, codec, option) in ROWS {
        let needs = if codec == SHIPPED { "lzo" } else { codec };
        if !peer.codecs.iter().any(|c| c == needs) {
            println!("| {level} | {codec} | - | - | - | - | - | - | - | - | - |");
            continue;
        }
        let (mut our, mut their): (Vec<Ran>, Vec<Ran>) = (Vec::new(), Vec::new());
        let compression = if codec == SHIPPED { Compression::DEFAULT.to_string() } else { codec.to_owned() };
        let (mut our_bytes, mut their_bytes) = (0, 0);
        for _ in 0..runs {
            let mut command = Command::new(&ours);
            command.arg(&file).arg(core).args([level, &compression, &threads]);
            our.push(both_ends(&server, &command)?);
            let written = scratch.path().join("bench");
            our_bytes = fs::metadata(written.join("vmcore")).context("what ours wrote")?.len();
            fs::remove_dir_all(&written)?;
            let written = scratch.path().join("theirs");
            let command = theirs(peer, &[option, "-d", level], core, &target, &written);
            their.push(both_ends(&server, &command)?);
            their_bytes = fs::metadata(&written).context("what theirs wrote")?.len();
            fs::remove_file(&written)?;
        }
        ensure!(our_bytes > 0 && their_bytes > 0, "an empty dump");
        let of = |ran: &[Ran], what: fn(&Ran) -> f64| median(ran.iter().map(what).collect());
        let compared = |what: fn(&Ran) -> f64| {
            let ratios = our.iter().zip(&their).map(|(our, their)| what(their) / what(our));
            (of(&our, what), of(&their, what), median(ratios.collect()))
        };
        let (wall, cpu) = (compared(|r| r.took.wall), compared(|r| r.took.cpu));
        let megabytes = f64::from(u32::try_from(our_bytes / 1000)?) / 1000.0;
        println!(
            "| {level} | {codec} | {:.2} | {:.2} | {:.1}x | {:.2} | {:.2} | {:.1}x | {} | {} | {:.0} |",
            wall.0,
            wall.1,
            wall.2,
            cpu.0,
            cpu.1,
            cpu.2,
            our_bytes >> 20,
            their_bytes >> 20,
            megabytes / wall.0
        );
    }
    println!();
    Ok(())
}

//! `cargo xtask bench`: our collector against makedumpfile on the same vmcore, in turn, as tables for README.

mod core;
mod crash_kernel;
mod measure;
mod ssh;

use crate::lab::cache::Cache;
use crate::lab::command::{find, output, shown, target_dir, tool};
use crate::synth::expect::Why;
use crate::synth::giant::{Giant, Mix, Truth};
use anyhow::{Context, Result, bail, ensure};
use crash_kernel::Onto;
use measure::{Ran, median};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const USAGE: &str = "cargo xtask bench [OPTION]...
  --peer PATH     makedumpfile to compare with [default: the installed one]
  --core FILE     vmcore to dump [default: one of a guest, made once]
  --memory MIB    memory of that guest [default: 8192; with --crash-kernel 2048]
  --runs N        runs of each, in turn; medians are shown [default: 5]
  --threads N     threads of ours; theirs has one always, being slower with more [default: 1]
  --gib N,...     sizes of the machines whose mem_map is scanned [default: 256,1024]
  --keep          leave the files of those machines in target/bench
  --out DIR       where dumps are written [default: /dev/shm, where nobody waits for a disk, if it has room for
                  the whole vmcore; else target/bench]. Ours waits until its file is on the disk, theirs does not.
  --scan-only, --dump-only
  --ssh           instead: over ssh to a private sshd on the loopback device, against `makedumpfile -F | ssh dd`
  --crash-kernel  instead: crash a guest, and run both on its /proc/vmcore in the crash kernel, writing to the same disk
  --nfs           the same, writing to the Linux NFS server in a second guest
  --crashkernel MIB  memory reserved for that [default: 128]
  --ours PATH     collector to measure [default: the static one, built now]";

struct Options {
    peer: PathBuf,
    core: Option<PathBuf>,
    memory: Option<u64>,
    runs: usize,
    threads: usize,
    gib: Vec<u64>,
    scan: bool,
    dump: bool,
    keep: bool,
    out: Option<PathBuf>,
    ours: Option<PathBuf>,
    crash_kernel: bool,
    ssh: bool,
    nfs: bool,
    reservation: u64,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self> {
        let mut options = Self {
            peer: find("makedumpfile").unwrap_or_else(|| "makedumpfile".into()),
            core: None,
            memory: None,
            runs: 5,
            threads: 1,
            gib: vec![256, 1024],
            scan: true,
            dump: true,
            keep: false,
            out: None,
            ours: None,
            crash_kernel: false,
            ssh: false,
            nfs: false,
            reservation: crash_kernel::RESERVATION,
        };
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().with_context(|| format!("{word} wants a value\n{USAGE}"));
            match word.as_str() {
                "--peer" => options.peer = value()?.into(),
                "--core" => options.core = Some(value()?.into()),
                "--memory" => options.memory = Some(value()?.parse()?),
                "--runs" => options.runs = value()?.parse()?,
                "--threads" => options.threads = value()?.parse()?,
                "--gib" => options.gib = value()?.split(',').map(str::parse).collect::<Result<_, _>>()?,
                "--keep" => options.keep = true,
                "--out" => options.out = Some(value()?.into()),
                "--scan-only" => options.dump = false,
                "--dump-only" => options.scan = false,
                "--crash-kernel" => options.crash_kernel = true,
                "--ssh" => options.ssh = true,
                "--nfs" => options.nfs = true,
                "--crashkernel" => options.reservation = value()?.parse()?,
                "--ours" => options.ours = Some(value()?.into()),
                _ => bail!("{word} is no option\n{USAGE}"),
            }
        }
        ensure!(options.runs > 0 && options.gib.iter().all(|gib| *gib > 4), "{USAGE}");
        Ok(options)
    }

    /// The vmcore to dump; of a guest with so many MiB where nobody says otherwise.
    fn core(&self, mib: u64) -> Result<PathBuf> {
        match &self.core {
            Some(core) => Ok(core.clone()),
            None => core::default_core(&Cache::open()?, self.memory.unwrap_or(mib)),
        }
    }
}

/// The verb.
pub fn bench(arguments: &[String]) -> Result<()> {
    if let [first, rest @ ..] = arguments
        && first == "--measure"
    {
        return measure::measure(rest);
    }
    let options = Options::parse(arguments)?;
    if options.crash_kernel || options.nfs {
        ensure!(
            options.ours.is_none() && options.core.is_none(),
            "--crash-kernel and --nfs measure the image's own collector"
        );
        let peer = Peer::open(&options.peer)?;
        println!("{}\npeer: {}\n", machine(), peer.version);
        let memory = options.memory.unwrap_or(crash_kernel::MEMORY);
        let onto = if options.nfs { Onto::Nfs } else { Onto::Disk };
        return crash_kernel::tables(&peer, onto, memory, options.reservation, options.runs);
    }
    if options.ssh {
        ensure!(options.ours.is_none(), "--ssh measures this checkout");
        let peer = Peer::open(&options.peer)?;
        println!("{}\npeer: {}\n", machine(), peer.version);
        let core = options.core(8192)?;
        let scratch = target_dir().join("bench");
        fs::create_dir_all(&scratch)?;
        let out = options.out.clone().or_else(|| roomy(fs::metadata(&core).ok()?.len())).unwrap_or(scratch);
        return ssh::table(&peer, &core, &out, options.runs, options.threads);
    }
    let ours = match &options.ours {
        Some(path) => path.clone(),
        None => super::programs()?.collector,
    };
    let scratch = target_dir().join("bench");
    fs::create_dir_all(&scratch)?;
    let peer = Peer::open(&options.peer)?;
    println!("{}\npeer: {}\n", machine(), peer.version);
    let pair = Pair { ours, peer, scratch, runs: options.runs, threads: options.threads, keep: options.keep };
    if options.dump {
        let core = options.core(8192)?;
        let out = match &options.out {
            Some(out) => out.clone(),
            None => roomy(fs::metadata(&core)?.len()).unwrap_or_else(|| pair.scratch.clone()),
        };
        pair.dumps(&core, &out)?;
    }
    if options.scan {
        pair.scans(&options.gib)?;
    }
    Ok(())
}

/// The directory in memory, if it has room for so many bytes and as many again.
fn roomy(bytes: u64) -> Option<PathBuf> {
    let dir = PathBuf::from("/dev/shm");
    let free = nix::sys::statvfs::statvfs(&dir).ok()?;
    (free.blocks_available().saturating_mul(free.fragment_size()) > bytes.saturating_mul(2)).then_some(dir)
}

/// CPU, its number, kernel.
fn machine() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or_default();
    let cpus = cpuinfo.lines().filter(|l| l.starts_with("processor")).count();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("machine: {}, {cpus} CPUs, Linux {}", model.trim_start_matches([':', '\t', ' ']), release.trim())
}

struct Peer {
    path: PathBuf,
    version: String,
    codecs: Vec<String>,
}

impl Peer {
    fn open(path: &Path) -> Result<Self> {
        // It exits with 1 after it has said its version.
        let done = Command::new(path).arg("-v").output().with_context(|| format!("{} -v", path.display()))?;
        let said = String::from_utf8_lossy(&done.stdout) + String::from_utf8_lossy(&done.stderr);
        let version =
            said.lines().find(|l| l.contains("version")).context("makedumpfile -v said no version")?;
        let enabled = |line: &str| {
            let mut words = line.split_whitespace();
            let codec = words.next()?;
            (words.next()? == "enabled").then(|| codec.to_owned())
        };
        let mut codecs: Vec<String> = said.lines().filter_map(enabled).collect();
        codecs.extend(["none", "zlib", "ELF", "raw"].map(str::to_owned));
        Ok(Self { path: path.to_owned(), version: version.to_owned(), codecs })
    }
}

struct Pair {
    ours: PathBuf,
    peer: Peer,
    scratch: PathBuf,
    runs: usize,
    threads: usize,
    keep: bool,
}

/// What is asked of both: a name, our arguments, theirs.
struct Row {
    name: &'static str,
    ours: Vec<&'static str>,
    theirs: Vec<&'static str>,
}

fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for level in ["31", "1"] {
        for (name, option) in
            [("none", ""), ("lzo", "-l"), ("snappy", "-p"), ("zstd", "-z"), ("zlib", "-c"), ("ELF", "-E")]
        {
            let theirs: Vec<&str> =
                [option].into_iter().filter(|o| !o.is_empty()).chain(["-d", level]).collect();
            let mut ours = theirs.clone();
            if name == "none" {
                ours.extend(["--compress", "none"]);
            }
            rows.push(Row { name, ours, theirs });
        }
    }
    // It cannot copy; everything as ELF is the nearest that it can do.
    rows.push(Row { name: "raw", ours: vec!["--raw"], theirs: vec!["-E", "-d", "0"] });
    rows
}

/// Several runs of one program with the same arguments.
#[derive(Default)]
struct Side {
    runs: Vec<Ran>,
    bytes: u64,
}

impl Side {
    fn wall(&self) -> f64 {
        median(self.runs.iter().map(|r| r.took.wall).collect())
    }
    fn cpu(&self) -> f64 {
        median(self.runs.iter().map(|r| r.took.cpu).collect())
    }
    /// The worst run counts.
    fn peak_mib(&self) -> f64 {
        let kib = self.runs.iter().map(|r| r.took.peak_kib).max().unwrap_or(0);
        f64::from(u32::try_from(kib).unwrap_or(u32::MAX)) / 1024.0
    }
}

impl Pair {
    fn ours(&self, arguments: &[&str], core: &Path, out: &Path) -> Command {
        let mut command = Command::new(&self.ours);
        command.args(arguments).args(["--num-threads", &self.threads.to_string()]).arg(core).arg(out);
        command
    }

    fn theirs(&self, arguments: &[&str], core: &Path, out: &Path) -> Command {
        let mut command = Command::new(&self.peer.path);
        command.args(["--message-level", "0"]).args(arguments).arg(core).arg(out);
        command
    }

    /// One run that writes; the file is gone afterwards.
    fn write(&self, side: &mut Side, command: &Command, out: &Path) -> Result<()> {
        let ran = measure::run(command)?;
        side.bytes = fs::metadata(out)?.len();
        fs::remove_file(out)?;
        side.runs.push(ran);
        Ok(())
    }

    fn dumps(&self, core: &Path, out: &Path) -> Result<()> {
        // Into the page cache.
        output(tool("md5sum")?.arg(core))?;
        let bytes = fs::metadata(core)?.len();
        println!(
            "## Dumps of {} ({} MiB) to {}, {} runs each, {} threads of ours, 1 of theirs\n",
            core.display(),
            bytes >> 20,
            out.display(),
            self.runs,
            self.threads
        );
        println!(
            "| -d | codec | ours s | theirs s | ratio | ours CPU s | theirs CPU s | ours MiB | theirs MiB | ours RSS MiB | theirs RSS MiB |"
        );
        println!("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
        let out = out.join("vmcored-bench-out");
        drop(fs::remove_file(&out));
        for row in rows() {
            let (mut ours, mut theirs) = (Side::default(), Side::default());
            let can = self.peer.codecs.iter().any(|codec| codec == row.name);
            for _ in 0..self.runs {
                self.write(&mut ours, &self.ours(&row.ours, core, &out), &out)?;
                if can {
                    self.write(&mut theirs, &self.theirs(&row.theirs, core, &out), &out)?;
                }
            }
            let level = row.theirs.last().copied().unwrap_or_default();
            let their = |n: String| if can { n } else { "-".to_owned() };
            println!(
                "| {level} | {} | {:.2} | {} | {} | {:.2} | {} | {} | {} | {:.1} | {} |",
                row.name,
                ours.wall(),
                their(format!("{:.2}", theirs.wall())),
                their(format!("{:.1}x", theirs.wall() / ours.wall())),
                ours.cpu(),
                their(format!("{:.2}", theirs.cpu())),
                ours.bytes >> 20,
                their((theirs.bytes >> 20).to_string()),
                ours.peak_mib(),
                their(format!("{:.1}", theirs.peak_mib())),
            );
        }
        let example = Row { name: "", ours: vec!["-d", "31", "-z"], theirs: vec!["-d", "31", "-z"] };
        println!("\nours: `{}`  ", shown(&self.ours(&example.ours, core, &out)));
        println!("theirs: `{}`\n", shown(&self.theirs(&example.theirs, core, &out)));
        Ok(())
    }

    fn scans(&self, sizes: &[u64]) -> Result<()> {
        println!(
            "## Scans of mem_map, level 31, {} runs each, {} threads of ours, 1 of theirs\n",
            self.runs, self.threads
        );
        println!(
            "The scan is what each says of itself; the run is a dry run as a whole, which reads what is kept.\n"
        );
        println!(
            "| machine | ours scan s | theirs scan s | ratio | ours M pages/s | theirs | ours run s | theirs run s | ours RSS MiB | theirs RSS MiB |"
        );
        println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
        let nowhere = self.scratch.join("nowhere");
        for (gib, mix) in sizes.iter().flat_map(|gib| Mix::ALL.map(|mix| (*gib, mix))) {
            let core = self.scratch.join(format!("giant-{gib}-{}", mix.name()));
            let truth = Giant { gib, mix }.write(&core)?;
            let (mut ours, mut theirs) = (Side::default(), Side::default());
            let arguments = ["--dry-run", "-d", "31"];
            let our = [&arguments[..], &["--compress", "none"]].concat();
            for _ in 0..self.runs {
                ours.runs.push(measure::run(&self.ours(&our, &core, &nowhere))?);
                let mut command = self.theirs(&arguments, &core, &nowhere);
                command.args(["--message-level", "31"]);
                theirs.runs.push(measure::run(&command)?);
            }
            if !self.keep {
                fs::remove_file(&core)?;
            }
            check_ours(&truth, &ours.runs[0].said)
                .with_context(|| format!("ours, {gib} GiB, {}", mix.name()))?;
            if let Some(wrong) = truth.disagrees(&theirs.runs[0].said) {
                println!("(theirs, {gib} GiB, {}: {wrong})", mix.name());
            }
            let scan = |side: &Side, read: fn(&str) -> Option<f64>| -> Result<f64> {
                let all: Option<Vec<f64>> = side.runs.iter().map(|r| read(&r.said)).collect();
                Ok(median(all.context("no time of the scan in what was said")?))
            };
            let (our, their) = (scan(&ours, our_scan)?, scan(&theirs, their_scan)?);
            let pages = f64::from(u32::try_from(truth.present).unwrap_or(u32::MAX)) / 1e6;
            println!(
                "| {gib} GiB, {} | {our:.3} | {their:.2} | {:.1}x | {:.0} | {:.0} | {:.2} | {:.2} | {:.1} | {:.1} |",
                mix.name(),
                their / our,
                pages / our,
                pages / their,
                ours.wall(),
                theirs.wall(),
                ours.peak_mib(),
                theirs.peak_mib(),
            );
        }
        println!();
        Ok(())
    }
}

/// `… 123 ms to choose …`
fn our_scan(said: &str) -> Option<f64> {
    let (before, _) = said.split_once(" ms to choose")?;
    let ms: f64 = before.rsplit(' ').next()?.parse().ok()?;
    Some(ms / 1000.0)
}

/// `STEP [Excluding unnecessary pages] : 0.123456 seconds`, once a cycle and pass.
fn their_scan(said: &str) -> Option<f64> {
    let steps = said.split(['\n', '\r']).filter(|l| l.contains("STEP [Excluding unnecessary pages]"));
    let times: Option<Vec<f64>> =
        steps.map(|l| l.rsplit_once(" : ")?.1.split(' ').next()?.parse().ok()).collect();
    times.filter(|t| !t.is_empty()).map(|t| t.iter().sum())
}

/// The classes that the machines have, and our line for each.
const CLASSES: [(Why, &str); 4] = [
    (Why::Cache, "dropped: cache "),
    (Why::CachePrivate, "dropped: cache, private data"),
    (Why::User, "dropped: user"),
    (Why::Free, "dropped: free"),
];

fn check_ours(truth: &Truth, said: &str) -> Result<()> {
    let number = |name: &str| -> Result<u64> {
        let line = said.lines().find_map(|l| l.strip_prefix(name));
        let line = line.with_context(|| format!("no line {name:?} in:\n{said}"))?;
        Ok(line.split_whitespace().next().context("no number")?.parse()?)
    };
    ensure!(
        number("present")? == truth.present,
        "present: {} instead of {}",
        number("present")?,
        truth.present
    );
    for (why, name) in CLASSES {
        ensure!(number(name)? == truth.of(why), "{name}: {} instead of {}", number(name)?, truth.of(why));
    }
    Ok(())
}

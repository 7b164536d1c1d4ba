//! One crash: a guest that arms vmcored, dies, and is captured; and the dump that is then on its disk.

use super::runner::Bench;
use crate::lab::disk::{Contents, Disk};
use crate::lab::guest::{Guest, Paging};
use crate::lab::kernel::{Kernel, Series};
use crate::lab::machine::{Machine, Run};
use anyhow::{Context, Result, ensure};
use collector::manifest::{Manifest, Outcome};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What is crashed, and how it is configured.
#[derive(Clone, Debug)]
pub struct Crash<'a> {
    /// A name for its directory and log.
    pub name: String,
    /// The kernel.
    pub kernel: &'a Kernel,
    /// Paging of the CPU.
    pub paging: Paging,
    /// MiB of memory.
    pub memory: u64,
    /// MiB of `crashkernel=`.
    pub reservation: u64,
    /// `/etc/vmcored.toml`.
    pub settings: String,
    /// `/etc/kdump.conf`, and there is no vmcored.toml.
    pub kdump_conf: Option<String>,
    /// Size in MiB and contents of the disk for dumps.
    pub disk: (u64, Contents),
    /// How the guest mounts the disk, `/dev/vda…`.
    pub mount: &'static str,
    /// Shell commands between booting and arming: populate memory.
    pub before: String,
    /// Shell commands between arming and crashing.
    pub after: String,
    /// The shell command that crashes it.
    pub trigger: String,
    /// What the console says then, and not before.
    pub sign: &'static str,
    /// Further command line.
    pub cmdline: String,
    /// Files to add to its root: source and absolute path.
    pub files: Vec<(PathBuf, String)>,
    /// Further arguments of QEMU's: NICs.
    pub devices: Vec<String>,
    /// After this QEMU is killed and the scenario fails.
    pub limit: Duration,
}

/// What the console says of the crash that is asked for by sysrq.
const SYSRQ: &str = "sysrq: Trigger a crash";

/// Page cache, tmpfs, anonymous memory, transparent huge pages, hugetlb in use and idle, many inodes; and some of each
/// given back, so that free memory is in pieces.
pub const POPULATE: &str = "
mount -t tmpfs -o size=96m tmp /tmp
echo always > /sys/kernel/mm/transparent_hugepage/enabled
echo 20 > /proc/sys/vm/nr_hugepages
mount -t hugetlbfs huge /huge; fallocate -l 8M /huge/file
guest-load slab /tmp/files 4000
guest-load slab /var/crash/files 3000
dd if=/dev/urandom of=/tmp/random bs=1M count=24 2>/dev/null
yes 'a line of a log file that compresses' | head -c 20000000 > /var/crash/text
cat /lib/modules/*/kernel/fs/*/* /bin/busybox /var/crash/text > /dev/null
guest-load anon 48 &
GLIBC_TUNABLES=glibc.malloc.hugetlb=2 guest-load anon 12 &
sync; rm -rf /tmp/files/1* /var/crash/files/2*
dd if=/dev/zero of=/var/crash/dirty bs=1M count=4 2>/dev/null
n=0; while [ $(awk '/HugePages_Free/{print $2}' /proc/meminfo) -gt 10 ] && [ $n -lt 100 ]; do usleep 100000; n=$((n+1)); done
sleep 2
section meminfo cat /proc/meminfo
";

impl<'a> Crash<'a> {
    /// A small idle guest with one ext4 disk, everything else as it comes.
    pub fn new(bench: &'a Bench<'_>, name: &str, series: Series) -> Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            kernel: bench.kernel(series)?,
            paging: Paging::Five,
            memory: 512,
            reservation: 128,
            settings: "[[target]]\npath = \"/var/crash\"\n".to_owned(),
            kdump_conf: None,
            disk: (512, Contents::Ext4),
            mount: "/dev/vda",
            before: String::new(),
            after: String::new(),
            trigger: "echo c > /proc/sysrq-trigger".to_owned(),
            sign: SYSRQ,
            cmdline: String::new(),
            files: Vec::new(),
            devices: Vec::new(),
            limit: Duration::from_secs(240),
        })
    }

    /// Runs it. Fails when the guest could not be armed, did not crash, or did not end by itself.
    pub fn run(&self, bench: &Bench<'_>) -> Result<Crashed> {
        self.run_during(bench, |_| Ok(()))
    }

    /// [`Self::run`], with something to do meanwhile.
    pub fn run_during(
        &self,
        bench: &Bench<'_>,
        during: impl FnOnce(&Machine<'_>) -> Result<()>,
    ) -> Result<Crashed> {
        let dir = bench.scratch(&self.name)?;
        let disk = Disk::create(&dir.join("disk.img"), self.disk.0, self.disk.1)?;
        // What a program has just written is still in the terminal's buffer, which a panic throws away: hence the pause.
        let (file, settings) = match &self.kdump_conf {
            Some(conf) => ("kdump.conf", conf),
            None => ("vmcored.toml", &self.settings),
        };
        let script = format!(
            "mount {mount} /var/crash || echo LAB-NO-DISK
mkdir -p /etc; cat > /etc/{file} <<'END'
{settings}
END
{before}
section arm vmcorectl arm
section status vmcorectl status
{after}
sync
echo LAB-CRASH
usleep 500000
{trigger}",
            mount = self.mount,
            before = self.before,
            after = self.after,
            trigger = self.trigger,
        );
        let guest = Guest {
            kernel: self.kernel,
            paging: self.paging,
            memory: self.memory,
            cmdline: format!("crashkernel={}M {}", self.reservation, self.cmdline),
            disks: vec![disk.clone()],
            script,
            files: self.files.clone(),
            devices: self.devices.clone(),
            limit: self.limit,
        };
        let log = dir.join("console.log");
        let run = bench.lab.run_during(&guest, &log, during)?;
        let crashed = Crashed { run, disk, dir, log, sign: self.sign };
        for section in ["arm", "status"] {
            let (said, status) = crashed.run.console.section(section).with_context(|| {
                format!("the guest never got as far as `{section}`:\n{}", crashed.run.console.tail(30))
            })?;
            ensure!(status == 0, "`vmcorectl {section}` exited with {status}:\n{said}");
        }
        ensure!(
            crashed.run.console.find(self.sign).is_some(),
            "the guest did not crash:\n{}",
            crashed.run.console.tail(30)
        );
        ensure!(
            crashed.run.ended,
            "the crash kernel did not restart within {:?}; {}:\n{}",
            self.limit,
            crashed.log.display(),
            crashed.run.console.tail(30)
        );
        Ok(crashed)
    }
}

/// What a crash has left.
#[derive(Clone, Debug)]
pub struct Crashed {
    /// The console, the time.
    pub run: Run,
    /// The disk.
    pub disk: Disk,
    /// The scenario's directory.
    pub dir: PathBuf,
    /// The console's log.
    pub log: PathBuf,
    /// What its console says when it crashes.
    pub sign: &'static str,
}

impl Crashed {
    /// Seconds from the panic to the end of QEMU, as seen from outside.
    pub fn seconds_to_restart(&self) -> Result<f64> {
        let panic = self.run.console.find(self.sign).context("no panic on the console")?;
        Ok(self.run.took.saturating_sub(panic.at).as_secs_f64())
    }

    /// Takes the file system out of the disk and finds its one dump.
    pub fn dump(&self) -> Result<Dump> {
        let files = self.dir.join("files");
        self.disk.extract(&files)?;
        Dump::in_directory(&files)
            .with_context(|| format!("console, {}:\n{}", self.log.display(), self.run.console.tail(30)))
    }

    /// The lines that the crash kernel wrote, as one text.
    pub fn crash_console(&self) -> String {
        self.run.console.after(self.sign).iter().map(|l| format!("{}\n", l.text)).collect()
    }
}

/// The report on the crash.
pub const REPORT: [&str; 2] = ["triage.json", "triage.txt"];

/// A dump directory.
#[derive(Clone, Debug)]
pub struct Dump {
    /// `<host>-<time>`.
    pub dir: PathBuf,
    /// Its manifest.
    pub manifest: Manifest,
}

impl Dump {
    /// Finds the one directory with a manifest.
    pub fn in_directory(files: &Path) -> Result<Self> {
        let mut found = Vec::new();
        for entry in fs::read_dir(files)? {
            let dir = entry?.path();
            if dir.join("manifest.json").exists() {
                found.push(dir);
            }
        }
        ensure!(found.len() == 1, "{} dumps on the disk instead of one: {found:?}", found.len());
        let dir = found.remove(0);
        let text = fs::read_to_string(dir.join("manifest.json"))?;
        let manifest = serde_json::from_str(&text).with_context(|| format!("manifest.json: {text}"))?;
        Ok(Self { dir, manifest })
    }

    /// Names of its files, sorted; without the report on the crash, which is vm/triage.rs's.
    pub fn names(&self) -> Result<Vec<String>> {
        let mut names = fs::read_dir(&self.dir)?
            .map(|e| Ok(e?.file_name().to_string_lossy().into_owned()))
            .collect::<Result<Vec<_>>>()?;
        names.retain(|name| !REPORT.contains(&name.as_str()));
        names.sort();
        Ok(names)
    }

    /// Checks the outcome, the names of the files, and that nobody but root can read any of them.
    pub fn expect(&self, outcome: Outcome, names: &[&str]) -> Result<()> {
        let manifest = &self.manifest;
        ensure!(
            manifest.outcome == outcome,
            "outcome {} instead of {outcome}; problems: {:#?}; stages: {:#?}",
            manifest.outcome,
            manifest.problems,
            manifest.stages
        );
        let mut wanted: Vec<&str> = names.to_vec();
        wanted.sort_unstable();
        let there = self.names()?;
        ensure!(there == wanted, "files {there:?} instead of {wanted:?}");
        let name = self.dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let stamp = name.strip_prefix("lab-guest-").unwrap_or_default();
        let digits = stamp.len() == 16
            && stamp.char_indices().all(|(i, c)| match i {
                8 => c == 'T',
                15 => c == 'Z',
                _ => c.is_ascii_digit(),
            });
        ensure!(digits, "directory {name:?} is not lab-guest-YYYYMMDDThhmmssZ");
        let mode = |path: &Path| -> Result<u32> { Ok(fs::metadata(path)?.mode() & 0o7777) };
        ensure!(mode(&self.dir)? == 0o700, "{name} has mode {:o} instead of 700", mode(&self.dir)?);
        for file in &there {
            let seen = mode(&self.dir.join(file))?;
            ensure!(seen == 0o600, "{name}/{file} has mode {seen:o} instead of 600");
        }
        Ok(())
    }
}

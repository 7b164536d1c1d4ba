//! Both programs in the crash kernel itself, on the same `/proc/vmcore` in the same boot.
//!
//! A guest arms itself as ever. Then the loaded image is replaced by the same with an archive in front, which holds
//! busybox, makedumpfile with its libraries and a script; `rdinit=` makes the script PID 1. It loads the image's modules,
//! mounts the target, runs ours (the image's own `/init`, called as makedumpfile) and theirs in turn, and writes what was
//! measured to the console.

use super::measure::Ran;
use super::{Peer, Side, their_scan};
use crate::lab::cache::Cache;
use crate::lab::command::{output, run, tool};
use crate::lab::console::Line;
use crate::lab::guest::archive;
use crate::lab::kernel::Series;
use crate::lab::measured::Measured;
use crate::lab::nfs::{ADDRESS, DUMPS};
use crate::lab::programs::Programs;
use crate::vm::crash::{Crash, POPULATE};
use crate::vm::nfs::{UP, with_server};
use crate::vm::runner::Bench;
use anyhow::{Context, Result, bail, ensure};
use collector::plan::PLAN_PATH;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// MiB of the guest's memory unless told otherwise.
pub const MEMORY: u64 = 2048;

/// MiB of `crashkernel=` unless told otherwise: the demo's.
pub const RESERVATION: u64 = 128;

/// A reservation in which theirs fails is raised by so much, up to [`LARGEST`].
const STEP: u64 = 32;
/// Theirs is given up on above so many MiB.
const LARGEST: u64 = 512;

/// Longer than any single run takes.
const EACH: Duration = Duration::from_secs(60);

const DRY_RUN: &str = "dry run";
const SHIPPED: &str = "as shipped";

/// Where both write to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Onto {
    /// A disk.
    Disk,
    /// The Linux NFS server of a second guest.
    Nfs,
}

impl Onto {
    /// How the crash kernel mounts it at /target, by a shell.
    fn mount(self) -> String {
        match self {
            Self::Disk => "n=0; while [ ! -b /dev/vda ] && [ $n -lt 100 ]; do usleep 100000; n=$((n+1)); done
mount -t ext4 /dev/vda /target"
                .to_owned(),
            Self::Nfs => format!(
                "n=0; while [ ! -d /sys/class/net/eth0 ] && [ $n -lt 100 ]; do usleep 100000; n=$((n+1)); done
ip link set lo up; ip link set eth0 up; ip addr add {CLIENT}/24 dev eth0
mount -i -t nfs -o vers=4.2,addr={ADDRESS},clientaddr={CLIENT},soft,timeo=50,retrans=2 {ADDRESS}:{DUMPS} /target"
            ),
        }
    }
}

/// The crashed guest's address.
const CLIENT: &str = "10.8.0.2";

/// What is run: a name, our command line and theirs, without the files.
#[derive(Clone, Copy)]
struct Row {
    name: &'static str,
    ours: &'static str,
    theirs: &'static str,
}

/// The same options for both.
const fn alike(name: &'static str, options: &'static str) -> Row {
    Row { name, ours: options, theirs: options }
}

const ROWS: [Row; 7] = [
    alike(DRY_RUN, "makedumpfile --dry-run --message-level 31 -d 31"),
    // What each does unless told otherwise: we as PID 1, they as distributions call them.
    Row { name: SHIPPED, ours: "vmcore-collect -d 31", theirs: "makedumpfile -l --message-level 7 -d 31" },
    alike("none", "makedumpfile --message-level 0 -d 31"),
    alike("lzo", "makedumpfile --message-level 0 -l -d 31"),
    alike("snappy", "makedumpfile --message-level 0 -p -d 31"),
    alike("zstd", "makedumpfile --message-level 0 -z -d 31"),
    alike("zlib", "makedumpfile --message-level 0 -c -d 31"),
];

/// A dump of less is not one.
const PLAUSIBLE: u64 = 4 << 20;

/// Runs it and prints the tables.
pub fn tables(peer: &Peer, onto: Onto, memory: u64, reservation: u64, runs: usize) -> Result<()> {
    let programs = super::super::programs()?;
    let cache = Cache::open()?;
    let bench = Bench::open(&cache, &programs, &[Series::V6_1])?;
    let can = |row: &Row| {
        let needs = if row.name == SHIPPED { "lzo" } else { row.name };
        needs == DRY_RUN || peer.codecs.iter().any(|codec| codec == needs)
    };
    let rows: Vec<Row> = ROWS.into_iter().filter(can).collect();
    let where_to = match onto {
        Onto::Disk => "to a disk",
        Onto::Nfs => "by NFS 4.2 to a second guest",
    };
    println!(
        "## In the crash kernel: {}, QEMU TCG, 1 CPU, of a guest of {memory} MiB, {where_to}, {runs} runs each\n",
        bench.kernel(Series::V6_1)?.release
    );
    for reservation in (reservation..=LARGEST.max(reservation)).step_by(usize::try_from(STEP)?) {
        let lines = boot(&bench, &programs, peer, &rows, onto, (memory, reservation, runs))?;
        let report = Report::parse(&lines)?;
        report.check()?;
        report.print(&rows, reservation);
        match report.failure_of_theirs() {
            None => return Ok(()),
            Some(why) => println!("\ncrashkernel={reservation}M is too small for theirs: {why}\n"),
        }
    }
    bail!("theirs works in no reservation up to {LARGEST} MiB")
}

/// One crash; what the crash kernel said.
fn boot(
    bench: &Bench<'_>,
    programs: &Programs,
    peer: &Peer,
    rows: &[Row],
    onto: Onto,
    (memory, reservation, runs): (u64, u64, usize),
) -> Result<Vec<Line>> {
    let scratch = bench.scratch("bench-crash-kernel-archive")?;
    let packed = scratch.join("bench.cpio");
    pack(
        &scratch.join("root"),
        &bench.lab.busybox,
        &programs.guest_load,
        &peer.path,
        &script(rows, runs, onto),
    )?;
    archive(&scratch.join("root"), &packed)?;
    let mut crash = Crash::new(bench, "bench-crash-kernel", Series::V6_1)?;
    crash.memory = memory;
    crash.reservation = reservation;
    // Room for a dump of everything.
    crash.disk.0 = memory + 512;
    crash.files = vec![(packed, "/bench.cpio".to_owned())];
    POPULATE.clone_into(&mut crash.before);
    "section rearm guest-load rearm /bench.cpio rdinit=/bench/init".clone_into(&mut crash.after);
    let turns = u32::try_from(rows.len() * runs * 2)?;
    crash.limit = Duration::from_secs(300) + EACH * turns;
    let crashed = match onto {
        Onto::Disk => crash.run(bench)?,
        Onto::Nfs => {
            crash.before = format!("{UP}up eth0 {CLIENT}\nsleep 2\n{}", crash.before);
            crash.settings = format!("[[target]]\nnfs = \"{ADDRESS}:{DUMPS}\"\npath = \"/crash\"\n");
            with_server(bench, &mut crash, |_, _| Ok(()))?.0
        }
    };
    let (said, status) = crashed.run.console.section("rearm").context("the guest was not armed again")?;
    ensure!(status == 0, "the image cannot be loaded with what is measured in it:\n{said}");
    Ok(crashed.run.console.after("sysrq: Trigger a crash").to_vec())
}

/// Lays out the archive.
fn pack(root: &Path, busybox: &Path, measurer: &Path, peer: &Path, script: &str) -> Result<()> {
    for dir in ["bench/ours", "bench/theirs"] {
        fs::create_dir_all(root.join(dir))?;
    }
    fs::copy(busybox, root.join("bench/busybox"))?;
    fs::copy(measurer, root.join("bench/guest-load"))?;
    for name in ["makedumpfile", "vmcore-collect"] {
        symlink("/init", root.join("bench/ours").join(name))?;
    }
    // As ours is: in a crash kernel its file is memory.
    run(tool("strip")?.arg("-o").arg(root.join("bench/theirs/makedumpfile")).arg(peer))?;
    for library in libraries(&output(Command::new("ldd").arg(peer))?)? {
        let to = root.join(library.strip_prefix("/")?);
        fs::create_dir_all(to.parent().context("a library without a directory")?)?;
        fs::copy(&library, to)?;
    }
    let init = root.join("bench/init");
    fs::write(&init, script)?;
    output(Command::new("chmod").arg("755").arg(&init)).map(drop)
}

/// Files that ldd names: `NAME => FILE (ADDRESS)`, `FILE (ADDRESS)`. The kernel's own has no file.
fn libraries(said: &str) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for line in said.lines().map(str::trim) {
        ensure!(!line.ends_with("not found"), "a library of the peer is missing: {line}");
        let file = line.split_once(" => ").map_or(line, |(_, file)| file);
        if let Some((file, _)) = file.split_once(" (").filter(|(file, _)| file.starts_with('/')) {
            files.push(PathBuf::from(file));
        }
    }
    Ok(files)
}

/// PID 1 of the crash kernel.
fn script(rows: &[Row], runs: usize, onto: Onto) -> String {
    let mut turns = String::new();
    for round in 0..runs {
        for Row { name, ours, theirs } in rows {
            // Each is first as often as it is second.
            let mut sides = [("ours", ours), ("theirs", theirs)];
            if round % 2 != 0 {
                sides.reverse();
            }
            for (side, command) in sides {
                let _ = writeln!(turns, "turn '{name}' {side} {command}");
            }
        }
    }
    format!(
        "#!/bench/busybox sh
export PATH=/bench
cd /bench
/bench/busybox mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
# Nothing of the kernel's between our lines.
echo 1 > /proc/sys/kernel/printk
# Out of memory it is the program that goes, not who measures it.
echo -1000 > /proc/self/oom_score_adj
for module in $(sed -n 's|.*\"path\": \"\\(/[^\"]*\\.ko\\)\".*|\\1|p' {PLAN_PATH}); do insmod $module; rm $module; done
mkdir -p /target
{mount} || echo BENCH-SAID no target
turn() {{
  name=$1; side=$2; program=$3; shift 3
  rm -f /target/out; sync; echo 3 > /proc/sys/vm/drop_caches
  echo \"BENCH-START $side $name\"
  echo \"BENCH-RUN $(echo 0 > /proc/self/oom_score_adj; guest-load measure /target/out /said /bench/$side/$program \"$@\" /proc/vmcore /target/out)\"
  tr '\\r' '\\n' < /said | grep -F 'STEP [Excluding' | sed 's/^/BENCH-SAID /'
  tr '\\r' '\\n' < /said | tail -n 4 | sed 's/^/BENCH-SAID /'
}}
sync; echo 3 > /proc/sys/vm/drop_caches
echo BENCH-MEMORY $(sed -n 's/^\\(MemTotal\\|MemAvailable\\): *\\([0-9]*\\) kB/\\2/p' /proc/meminfo)
{turns}rm -f /target/out
umount /target
echo BENCH-OVER
sync
usleep 500000
reboot -f
",
        mount = onto.mount()
    )
}

/// Who was measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Who {
    Ours,
    Theirs,
}

/// One run in the crash kernel.
#[derive(Clone, PartialEq, Debug)]
struct Turn {
    who: Who,
    name: String,
    /// `None` when the crash kernel ended with it.
    measured: Option<Measured>,
    said: String,
}

/// What the script has told.
#[derive(Clone, PartialEq, Debug, Default)]
struct Report {
    /// KiB: all, available before the first run.
    memory: (u64, u64),
    turns: Vec<Turn>,
    over: bool,
}

impl Report {
    fn parse(lines: &[Line]) -> Result<Self> {
        let mut report = Self::default();
        for line in lines {
            // Something may stand in front: the kernel's last words, without an end of line.
            let Some(text) = line.text.find("BENCH-").and_then(|at| line.text.get(at..)) else { continue };
            let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
            let rest = rest.trim_end();
            let wrong = || format!("the crash kernel's console says {text:?}");
            match word {
                "BENCH-MEMORY" => {
                    let (all, available) = rest.split_once(' ').with_context(wrong)?;
                    let kib = |n: &str| n.parse().with_context(wrong);
                    report.memory = (kib(all)?, kib(available)?);
                }
                "BENCH-START" => {
                    let (side, name) = rest.split_once(' ').with_context(wrong)?;
                    let who = match side {
                        "ours" => Who::Ours,
                        "theirs" => Who::Theirs,
                        _ => bail!(wrong()),
                    };
                    let name = name.to_owned();
                    report.turns.push(Turn { who, name, measured: None, said: String::new() });
                }
                "BENCH-RUN" => {
                    let turn =
                        report.turns.last_mut().filter(|t| t.measured.is_none()).with_context(wrong)?;
                    turn.measured = Some(serde_json::from_str(rest).with_context(wrong)?);
                }
                "BENCH-SAID" => match report.turns.last_mut() {
                    Some(turn) => {
                        turn.said.push_str(rest);
                        turn.said.push('\n');
                    }
                    None => bail!(wrong()),
                },
                "BENCH-OVER" => report.over = true,
                _ => bail!(wrong()),
            }
        }
        Ok(report)
    }

    /// Ours must have worked each time, and the sizes must be like each other's.
    fn check(&self) -> Result<()> {
        let last = self.turns.last().context("the crash kernel never got as far as a first run")?;
        ensure!(
            self.over || (last.who == Who::Theirs && last.measured.is_none()),
            "the crash kernel ended early, after {last:?}"
        );
        for turn in self.turns.iter().filter(|t| t.who == Who::Ours) {
            ensure!(turn.worked(), "ours failed: {turn:?}");
        }
        for turn in self.turns.iter().filter(|t| t.worked() && t.name != DRY_RUN) {
            let bytes = turn.bytes();
            let others = self.turns.iter().filter(|t| t.name == turn.name && t.worked()).map(Turn::bytes);
            // With codecs of their own they differ more.
            let most = if turn.name == SHIPPED { 0 } else { others.max().unwrap_or(0) };
            ensure!(bytes >= PLAUSIBLE && bytes > most / 4 * 3, "{bytes} bytes, another {most}: {turn:?}");
        }
        Ok(())
    }

    /// The first of theirs that did not work, in words.
    fn failure_of_theirs(&self) -> Option<String> {
        let turn = self.turns.iter().find(|t| t.who == Who::Theirs && !t.worked())?;
        let how = match turn.measured {
            None => "the crash kernel ended with it".to_owned(),
            Some(Measured { signal: Some(signal), .. }) => format!("killed by signal {signal}"),
            Some(Measured { status, .. }) => format!("exit status {}", status.unwrap_or(-1)),
        };
        Some(format!("{}, {how}; it said: {}", turn.name, turn.said.trim().replace('\n', " | ")))
    }

    /// The runs of one row by one of them; `None` unless all worked.
    fn side(&self, who: Who, name: &str) -> Option<Side> {
        let mut side = Side::default();
        for turn in self.turns.iter().filter(|t| t.who == who && t.name == name) {
            let measured = turn.measured.filter(|_| turn.worked())?;
            side.runs.push(Ran { took: measured.took, said: turn.said.clone() });
            side.bytes = measured.bytes;
        }
        (!side.runs.is_empty()).then_some(side)
    }

    fn print(&self, rows: &[Row], reservation: u64) {
        println!(
            "crashkernel={reservation}M, of which the crash kernel has {} MiB, and {} available when the first run starts:\n",
            self.memory.0 >> 10,
            self.memory.1 >> 10
        );
        println!(
            "| -d 31 | ours s | theirs s | ratio | ours CPU s | theirs CPU s | ratio | ours MiB | theirs MiB | ours RSS MiB | theirs RSS MiB |"
        );
        println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
        for Row { name, .. } in rows {
            let (ours, theirs) = (self.side(Who::Ours, name), self.side(Who::Theirs, name));
            if *name == DRY_RUN {
                let scan = |side: &Option<Side>| -> Option<f64> {
                    let all: Option<Vec<f64>> =
                        side.as_ref()?.runs.iter().map(|r| their_scan(&r.said)).collect();
                    Some(super::median(all?))
                };
                let (our, their) = (scan(&ours), scan(&theirs));
                println!("| scan, as each says | {} | - | - | - | - | - | - |", versus(our, their));
            }
            let figure = |side: &Option<Side>, what: fn(&Side) -> f64| side.as_ref().map(what);
            let both = |what: fn(&Side) -> f64| (figure(&ours, what), figure(&theirs, what));
            let (wall, cpu, peak) = (both(Side::wall), both(Side::cpu), both(Side::peak_mib));
            let mib = |side: &Option<Side>| match side {
                Some(side) if side.bytes > 0 => (side.bytes >> 20).to_string(),
                _ => "-".to_owned(),
            };
            println!(
                "| {name} | {} | {} | {} | {} | {} | {} |",
                versus(wall.0, wall.1),
                versus(cpu.0, cpu.1),
                mib(&ours),
                mib(&theirs),
                shown(peak.0, 1),
                shown(peak.1, 1),
            );
        }
    }
}

/// A figure, or a dash where there is none.
fn shown(figure: Option<f64>, digits: usize) -> String {
    figure.map_or_else(|| "-".to_owned(), |f| format!("{f:.digits$}"))
}

/// Three cells: ours, theirs, how much faster ours is.
fn versus(ours: Option<f64>, theirs: Option<f64>) -> String {
    let ratio = ours.zip(theirs).map_or_else(|| "-".to_owned(), |(o, t)| format!("{:.1}x", t / o));
    format!("{} | {} | {ratio}", shown(ours, 2), shown(theirs, 2))
}

impl Turn {
    fn worked(&self) -> bool {
        self.measured.is_some_and(|m| m.status == Some(0))
    }
    fn bytes(&self) -> u64 {
        self.measured.map_or(0, |m| m.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<Line> {
        text.lines().map(|l| Line { at: Duration::ZERO, text: l.to_owned() }).collect()
    }

    fn ran(side: &str, name: &str, wall: f64, status: &str, bytes: u64) -> String {
        format!(
            "BENCH-START {side} {name}\nBENCH-RUN {{\"took\":{{\"wall\":{wall},\"cpu\":{wall},\"peak_kib\":2048}},{status},\"bytes\":{bytes}}}\n"
        )
    }

    const FINE: &str = "\"status\":0,\"signal\":null";
    const KILLED: &str = "\"status\":null,\"signal\":9";
    const MIB: u64 = 1 << 20;

    #[test]
    fn runs_are_read_and_told_apart() {
        let text = [
            "[    1.0] noise\r\nBENCH-MEMORY 70000 50000\n".to_owned(),
            ran("ours", "dry run", 1.0, FINE, 0),
            "BENCH-SAID STEP [Excluding unnecessary pages] : 0.250000 seconds\n".to_owned(),
            ran("theirs", "dry run", 4.0, FINE, 0),
            "BENCH-SAID STEP [Excluding unnecessary pages] : 0.500000 seconds\n".to_owned(),
            "BENCH-SAID STEP [Excluding unnecessary pages] : 0.250000 seconds\n".to_owned(),
            ran("theirs", "lzo", 9.0, FINE, 50 * MIB),
            ran("ours", "lzo", 2.0, FINE, 49 * MIB),
            ran("ours", "lzo", 4.0, FINE, 49 * MIB),
            ran("ours", "lzo", 3.0, FINE, 49 * MIB),
            "BENCH-OVER".to_owned(),
        ]
        .concat();
        let report = Report::parse(&lines(&text)).unwrap();
        report.check().unwrap();
        assert_eq!((report.memory, report.over, report.turns.len()), ((70000, 50000), true, 6));
        let ours = report.side(Who::Ours, "lzo").unwrap();
        assert_eq!((ours.wall(), ours.bytes, ours.runs.len(), ours.peak_mib()), (3.0, 49 * MIB, 3, 2.0));
        let scan = |who| their_scan(&report.side(who, "dry run").unwrap().runs[0].said);
        assert_eq!((scan(Who::Ours), scan(Who::Theirs)), (Some(0.25), Some(0.75)));
        assert_eq!(report.failure_of_theirs(), None);
        assert!(report.side(Who::Theirs, "zlib").is_none());
    }

    #[test]
    fn what_goes_wrong_is_told() {
        let report = |turns: &[String]| Report::parse(&lines(&turns.concat())).unwrap();
        let over = "BENCH-OVER\n".to_owned();
        // Theirs may fail: the table has a gap, and a sentence says why.
        let killed = report(&[
            ran("ours", "zstd", 1.0, FINE, 9 * MIB),
            ran("theirs", "zstd", 1.0, KILLED, MIB),
            "BENCH-SAID last\nBENCH-SAID words\n".to_owned(),
            over.clone(),
        ]);
        killed.check().unwrap();
        assert!(killed.side(Who::Theirs, "zstd").is_none());
        assert_eq!(killed.failure_of_theirs().unwrap(), "zstd, killed by signal 9; it said: last | words");
        let died = report(&[ran("ours", "zstd", 1.0, FINE, 9 * MIB), "BENCH-START theirs zstd\n".to_owned()]);
        died.check().unwrap();
        assert!(died.failure_of_theirs().unwrap().contains("ended with it"));
        // Ours may not, nor may a dump be of a size that it cannot have.
        for turns in [
            vec![],
            vec![ran("ours", "lzo", 1.0, KILLED, 9 * MIB), over.clone()],
            vec![ran("ours", "lzo", 1.0, "\"status\":1,\"signal\":null", 9 * MIB), over.clone()],
            vec![ran("ours", "lzo", 1.0, FINE, 9 * MIB)],
            vec![ran("ours", "lzo", 1.0, FINE, MIB), over.clone()],
            vec![ran("ours", "lzo", 1.0, FINE, 9 * MIB), ran("theirs", "lzo", 1.0, FINE, 20 * MIB), over],
        ] {
            assert!(report(&turns).check().is_err(), "{turns:?}");
        }
    }

    #[test]
    fn a_damaged_console_is_an_error() {
        for text in [
            "BENCH-MEMORY 7",
            "BENCH-MEMORY a b",
            "BENCH-START both lzo",
            "BENCH-START ours",
            "BENCH-RUN {}",
            "BENCH-START ours lzo\nBENCH-RUN {",
            "BENCH-SAID nobody",
            "BENCH-WHAT",
        ] {
            assert!(Report::parse(&lines(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn libraries_of_ldd() {
        let said = "\tlinux-vdso.so.1 (0x7ff)\n\tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x7f)\n\t/lib64/ld-linux-x86-64.so.2 (0x7f)\n";
        let want = ["/lib/x86_64-linux-gnu/libz.so.1", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(libraries(said).unwrap(), want);
        assert!(libraries("\tlibx.so => not found").is_err());
        assert!(libraries("\tstatically linked").unwrap().is_empty());
    }

    #[test]
    fn both_take_the_same_turns() {
        let script = script(&ROWS, 3, Onto::Disk);
        for Row { name, ours, theirs } in ROWS {
            for (side, command) in [("ours", ours), ("theirs", theirs)] {
                assert_eq!(script.matches(&format!("turn '{name}' {side} {command}\n")).count(), 3);
            }
        }
        let first = |side| {
            script
                .lines()
                .filter(move |l| l.starts_with("turn 'lzo'"))
                .step_by(2)
                .filter(move |l| l.contains(side))
                .count()
        };
        assert_eq!((first(" ours"), first(" theirs")), (2, 1));
    }
}

//! Captures that succeed, compared with what other tools make of the same memory.

use super::crash::{Crash, Crashed, Dump, POPULATE};
use super::differential::{Differential, Opened};
use super::reader::Reader;
use super::redact;
use super::runner::Bench;
use crate::kdump_reader::KdumpFile;
use crate::lab::command::{find, output, shown};
use crate::lab::disk::{Contents, LABEL, PART_UUID};
use crate::lab::guest::Paging;
use crate::lab::kernel::Series;
use crate::lab::oracle;
use crate::lab::vmcore::{Class, Page, PageSet, RawCore};
use anyhow::{Context, Result, anyhow, ensure};
use collector::manifest::{Manifest, Outcome, Stage};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Levels whose sets of pages are compared.
const LEVELS: [u8; 7] = [0, 1, 2, 4, 8, 16, 31];

/// A populated guest; its memory saved both filtered and raw by the same crash kernel; everything read back.
pub fn capture(bench: &Bench<'_>, series: Series, paging: Paging) -> Result<()> {
    let levels = if paging == Paging::Five { 5 } else { 4 };
    let mut crash = Crash::new(bench, &format!("capture-{}-{levels}-level", series.name()), series)?;
    crash.paging = paging;
    crash.memory = 768;
    crash.reservation = 160;
    crash.disk = (1536, Contents::Ext4);
    crash.limit = Duration::from_secs(420);
    crash.before = format!("cat > /etc/erase.conf <<'END'\n{}END\n{POPULATE}", redact::RULES);
    crash.settings = "\
[[target]]
path = \"/var/crash\"
[[dump]]
file = \"vmcore\"
level = 31
[[dump]]
file = \"redacted\"
level = 31
erase = \"/etc/erase.conf\"
[[dump]]
file = \"vmcore.raw\"
format = \"raw\"
"
    .to_owned();
    let crashed = crash.run(bench)?;
    let dump = crashed.dump()?;
    dump.expect(
        Outcome::Complete,
        &["manifest.json", "redacted", "vmcore", "vmcore-dmesg.txt", "vmcore.raw"],
    )?;
    fs::remove_file(&crashed.disk.path)?;

    let judge = Judge {
        bench,
        series,
        paging,
        raw_path: dump.dir.join("vmcore.raw"),
        raw: RawCore::open(&dump.dir.join("vmcore.raw"))?,
        dump: &dump,
        crashed: &crashed,
    };
    judge.manifest()?;
    judge.header()?;
    judge.log()?;
    judge.same_pages()?;
    judge.readable()?;
    let vmlinux = bench.vmlinux(series)?;
    redact::symbols(&judge.raw_path, vmlinux)?;
    judge.differential()?;
    redact::check(
        &bench.programs.collector,
        bench.drgn()?,
        &judge.raw_path,
        &dump.dir.join("redacted"),
        vmlinux,
        &crashed.dir,
    )?;
    // Two thirds of a gigabyte; what is left is what a person would look at.
    fs::remove_file(&judge.raw_path)?;
    Ok(())
}

struct Judge<'a> {
    bench: &'a Bench<'a>,
    series: Series,
    paging: Paging,
    raw_path: PathBuf,
    raw: RawCore,
    dump: &'a Dump,
    crashed: &'a Crashed,
}

impl Judge<'_> {
    fn vmcore(&self) -> PathBuf {
        self.dump.dir.join("vmcore")
    }

    fn manifest(&self) -> Result<()> {
        let Manifest { kernel, dumps, stages, problems, engine_peak_kib, image, .. } = &self.dump.manifest;
        ensure!(problems.is_empty(), "problems: {problems:#?}");
        ensure!(kernel.release == self.bench.kernel(self.series)?.release, "release {:?}", kernel.release);
        // What is erased from a dump is not in the manifest either.
        ensure!(kernel.nodename == "X".repeat(64) && kernel.machine == "x86_64", "{kernel:?}");
        let message = kernel.panic_message.as_deref().unwrap_or_default();
        ensure!(
            message.contains("Kernel panic - not syncing: sysrq triggered crash"),
            "panic message {message:?}"
        );
        ensure!(
            engine_peak_kib.is_some_and(|k| k > 0) && image.is_some(),
            "peak {engine_peak_kib:?}, image {image:?}"
        );
        let ran: Vec<Stage> = stages.iter().map(|s| s.stage).collect();
        let wanted = [Stage::Mount, Stage::Modules, Stage::Devices, Stage::Dmesg, Stage::Dump, Stage::Finish];
        ensure!(wanted.iter().all(|s| ran.contains(s)), "stages {ran:?}");
        ensure!(dumps.len() == 3 && dumps.iter().all(|d| d.complete), "{dumps:#?}");
        for one in dumps {
            let bytes = fs::metadata(self.dump.dir.join(&one.file))?.len();
            ensure!(one.bytes == bytes, "{} has {bytes} bytes, the manifest says {}", one.file, one.bytes);
        }
        let crashtime = self.raw.info("CRASHTIME").context("no CRASHTIME in the raw vmcore")?;
        ensure!(
            kernel.crash_time == crashtime.parse().ok(),
            "crash time {:?} instead of {crashtime}",
            kernel.crash_time
        );
        let five = self.raw.info("NUMBER(pgtable_l5_enabled)").as_deref() == Some("1");
        ensure!(five == (self.paging == Paging::Five), "the guest has 5-level paging: {five}");
        ensure!(self.raw.info("KERNELOFFSET").is_some_and(|o| o != "0"), "the guest has no KASLR");
        Ok(())
    }

    fn header(&self) -> Result<()> {
        let dump = KdumpFile::open(self.vmcore()).map_err(|e| anyhow!(e))?;
        let wrong = dump.check();
        ensure!(wrong.is_empty(), "{}: {wrong:#?}", self.vmcore().display());
        let header = &dump.header;
        ensure!(header.nr_cpus == 2, "nr_cpus {}", header.nr_cpus);
        let kernel = &self.dump.manifest.kernel;
        let [system, node, release, version, machine, _] = &header.utsname;
        ensure!(
            system == "Linux"
                && node == "lab-guest"
                && *release == kernel.release
                && *version == kernel.version,
            "utsname {:?}",
            header.utsname
        );
        ensure!(machine == "x86_64" && version.contains("Debian"), "utsname {:?}", header.utsname);
        ensure!(
            Some(header.tv_sec) == kernel.crash_time,
            "time {} instead of {:?}",
            header.tv_sec,
            kernel.crash_time
        );
        ensure!(header.dump_level == 31, "dump level {}", header.dump_level);
        Ok(())
    }

    fn log(&self) -> Result<()> {
        let theirs = oracle::makedumpfile_dmesg(&self.raw_path, &self.crashed.dir.join("their-dmesg.txt"))?;
        let ours = fs::read(self.dump.dir.join("vmcore-dmesg.txt"))?;
        ensure!(
            ours == theirs,
            "vmcore-dmesg.txt differs from makedumpfile's, {}/their-dmesg.txt",
            self.crashed.dir.display()
        );
        ensure!(!ours.is_empty(), "an empty log");
        Ok(())
    }

    /// The sets of pages at all levels are makedumpfile's and the classifier's; the contents are the raw vmcore's; and
    /// the crash kernel wrote what the same program writes on this machine.
    fn same_pages(&self) -> Result<()> {
        let all = self.raw.pages();
        let end = all.iter().last().context("a vmcore without pages")? + 1;
        let vmlinux = self.bench.vmlinux(self.series)?;
        let classes = self.bench.drgn()?.classes(&self.raw_path, end, vmlinux, &self.crashed.dir)?;
        let mut seen: BTreeMap<Class, usize> = BTreeMap::new();
        for page in all.iter().filter_map(|pfn| classes.get(&pfn)) {
            *seen.entry(page.class).or_default() += 1;
        }
        // A guest without them would prove nothing.
        for class in [
            Class::Free,
            Class::Cache,
            Class::CachePrivate,
            Class::Anonymous,
            Class::Hugetlb,
            Class::Slab,
            Class::Kernel,
        ] {
            ensure!(
                seen.get(&class).is_some_and(|n| *n > 100),
                "too few {class:?} pages in the guest: {seen:?}"
            );
        }
        println!("   {} {:?}-level: pages by class: {seen:?}", self.series.name(), self.paging);

        for level in LEVELS {
            let ours_path = self.crashed.dir.join(format!("ours-{level}"));
            collect(self.bench, &self.raw_path, level, &ours_path)?;
            let ours = KdumpFile::open(&ours_path).map_err(|e| anyhow!(e))?;
            let ours_set: PageSet = ours.pfns().collect();
            let wanted: PageSet = all
                .iter()
                .filter(|pfn| !classes.get(pfn).is_some_and(|p| p.class.dropped_at(level)))
                .collect();
            compare(
                &format!("level {level}, against the kernel's struct pages"),
                &ours_set,
                &wanted,
                &classes,
            )?;

            let their_path = self.crashed.dir.join(format!("theirs-{level}"));
            oracle::makedumpfile(&self.raw_path, level, &their_path)?;
            let theirs = KdumpFile::open(&their_path).map_err(|e| anyhow!(e))?;
            let their_set: PageSet = theirs.pfns().collect();
            fs::remove_file(&their_path)?;
            if self.series == Series::V6_1 {
                compare(&format!("level {level}, against makedumpfile"), &ours_set, &their_set, &classes)?;
            } else {
                self.explain(level, &ours_set, &their_set, &classes)?;
            }
            self.contents(level, &ours)?;
            if level == 31 {
                let ours = fs::read(&ours_path)?;
                ensure!(
                    ours == fs::read(self.vmcore())?,
                    "the crash kernel's vmcore differs from {}",
                    ours_path.display()
                );
            }
            fs::remove_file(&ours_path)?;
        }
        Ok(())
    }

    /// makedumpfile 1.7.2 knows three things of newer kernels not yet, and for each of them, at the levels with bit 8, its
    /// dump differs from ours. Nothing else may differ, and nothing at the other levels:
    ///
    /// - Since Linux 6.6 a compound page's order is in the flags of its second page (makedumpfile 1.7.4): of an anonymous huge
    ///   page it drops the head and keeps the rest.
    /// - Since 6.9 hugetlb is a page type (1.7.6): it keeps such pages, but for a head that also looks anonymous.
    /// - Since 6.10 slab is a page type (1.7.6): it drops slab pages whose words look like an anonymous page's mapping.
    fn explain(
        &self,
        level: u8,
        ours: &PageSet,
        theirs: &PageSet,
        classes: &HashMap<u64, Page>,
    ) -> Result<()> {
        let count = |pfns: Vec<u64>| {
            let mut count: BTreeMap<Option<Page>, usize> = BTreeMap::new();
            pfns.iter().for_each(|pfn| *count.entry(classes.get(pfn).copied()).or_default() += 1);
            count
        };
        let (kept, lost) = (count(theirs.minus(ours)), count(ours.minus(theirs)));
        let shown = |count: &BTreeMap<Option<Page>, usize>| {
            let one = |(page, n): (&Option<Page>, &usize)| match page {
                Some(Page { class, tail }) => {
                    format!("{n} {class:?}{}", if *tail { " (not the head)" } else { "" })
                }
                None => format!("{n} without struct page"),
            };
            if count.is_empty() {
                "none".to_owned()
            } else {
                count.iter().map(one).collect::<Vec<_>>().join(", ")
            }
        };
        println!(
            "   {} {:?}-level, -d {level}: pages only in makedumpfile's dump: {}; only in ours: {}",
            self.series.name(),
            self.paging,
            shown(&kept),
            shown(&lost)
        );
        let users = level & 8 != 0;
        let excused = |page: &Option<Page>| match page {
            Some(Page { class: Class::Anonymous, tail }) => users && *tail,
            Some(Page { class: Class::Hugetlb, .. }) => users,
            _ => false,
        };
        ensure!(kept.keys().all(excused), "level {level}: unexplained pages in their dump: {}", shown(&kept));
        let slab = |page: &Option<Page>| users && page.is_some_and(|p| p.class == Class::Slab);
        ensure!(lost.keys().all(slab), "level {level}: unexplained pages in our dump: {}", shown(&lost));
        Ok(())
    }

    /// Every page in a dump is byte for byte the raw vmcore's.
    fn contents(&self, level: u8, dump: &KdumpFile) -> Result<()> {
        for pfn in dump.pfns() {
            let page = dump
                .read_page(pfn)
                .map_err(|e| anyhow!(e))?
                .with_context(|| format!("pfn {pfn:#x} has no page"))?;
            ensure!(page == self.raw.page(pfn)?, "level {level}: page {pfn:#x} differs from the raw vmcore");
        }
        Ok(())
    }

    /// All levels and what crash takes seconds for are spread over the scenarios.
    fn differential(&self) -> Result<()> {
        let all: Vec<u8> = (0..32).collect();
        let (levels, opened) = match (self.series, self.paging) {
            (Series::V6_1, Paging::Five) => (&all[..], Opened::Containers),
            (Series::V6_1, Paging::Four) => (&[31][..], Opened::Codecs),
            // Debian 12's crash, 8.0.2, cannot open any 6.12 dump.
            (Series::V6_12, _) => (&[17][..], Opened::Nothing),
        };
        let makedumpfile = find("makedumpfile").context("makedumpfile is not installed")?;
        Differential {
            collector: &self.bench.programs.collector,
            makedumpfile: &makedumpfile,
            drgn: self.bench.drgn()?,
            raw: &self.raw_path,
            vmlinux: self.bench.vmlinux(self.series)?,
            scratch: &self.crashed.dir,
            agrees: self.series == Series::V6_1,
            levels,
            opened,
        }
        .check()
    }

    fn readable(&self) -> Result<()> {
        let (vmcore, vmlinux) = (self.vmcore(), self.bench.vmlinux(self.series)?);
        let stack = self.bench.drgn()?.crashed_stack(&vmcore, vmlinux)?;
        ensure!(
            stack.contains("sysrq_handle_crash") && stack.contains("write_sysrq_trigger"),
            "drgn's stack:\n{stack}"
        );
        ensure!(stack.starts_with("1 init\n"), "drgn's crashed thread:\n{stack}");
        super::stacks::stacks_agree(self.bench.drgn()?, &vmcore, &[vmlinux])?;
        // Debian 12's crash, 8.0.2, cannot open any 6.12 dump.
        if self.series == Series::V6_1 {
            let said = oracle::crash(&[&vmcore], vmlinux, "bt -a\nlog\nkmem -i\nsys")?;
            super::stacks::crash_agrees(&said, &vmcore)?;
            for wanted in [
                "Kernel panic - not syncing: sysrq triggered crash",
                "TOTAL MEM",
                "SLAB",
                "NODENAME: lab-guest",
                "CPUS: 2",
            ] {
                ensure!(said.contains(wanted), "crash says nothing of {wanted:?}:\n{said}");
            }
            let total = said
                .lines()
                .find(|l| l.contains("TOTAL MEM"))
                .and_then(|l| l.split_whitespace().nth(2)?.parse::<u64>().ok());
            // 768 MiB less the reservation and the kernel itself.
            ensure!(
                total.is_some_and(|pages| (120_000..170_000).contains(&pages)),
                "TOTAL MEM of {total:?} pages"
            );
        }
        Ok(())
    }
}

/// `vmcore-collect -d LEVEL RAW DUMP`, by hand.
fn collect(bench: &Bench<'_>, raw: &Path, level: u8, to: &Path) -> Result<()> {
    let mut command = Command::new(&bench.programs.collector);
    output(command.args(["-d", &level.to_string()]).arg(raw).arg(to))
        .with_context(|| shown(&command))
        .map(drop)
}

fn compare(what: &str, ours: &PageSet, theirs: &PageSet, classes: &HashMap<u64, Page>) -> Result<()> {
    let show = |pfns: &[u64]| {
        pfns.iter().take(8).map(|p| format!("{p:#x} {:?}", classes.get(p))).collect::<Vec<_>>().join(", ")
    };
    let (more, less) = (ours.minus(theirs), theirs.minus(ours));
    ensure!(
        more.is_empty() && less.is_empty(),
        "{what}: {} pages too many ({}), {} missing ({})",
        more.len(),
        show(&more),
        less.len(),
        show(&less)
    );
    Ok(())
}

/// xfs as the target. The host cannot read it.
pub fn xfs(bench: &Bench<'_>) -> Result<()> {
    let mut crash = Crash::new(bench, "target-xfs", Series::V6_12)?;
    crash.disk = (512, Contents::Xfs);
    let crashed = crash.run(bench)?;
    let reader = Reader {
        series: Series::V6_12,
        disks: std::slice::from_ref(&crashed.disk),
        script: "mount /dev/vdb /mnt",
        files: &[],
        devices: &[],
    };
    let (files, _) = reader.read(bench, &crashed.dir)?;
    complete(&Dump::in_directory(&files)?)
}

/// A partition, found by PARTUUID.
pub fn partuuid(bench: &Bench<'_>) -> Result<()> {
    let mut crash = Crash::new(bench, "target-partuuid", Series::V6_1)?;
    crash.paging = Paging::Four;
    crash.disk = (512, Contents::PartitionedExt4);
    crash.mount = "/dev/vda1";
    crash.settings = format!("[[target]]\ndevice = \"PARTUUID={PART_UUID}\"\npath = \"/\"\n");
    complete(&crash.run(bench)?.dump()?)
}

/// A file system found by its label, and dumps in a directory of it that does not exist yet.
pub fn label(bench: &Bench<'_>) -> Result<()> {
    let mut crash = Crash::new(bench, "target-label", Series::V6_12)?;
    crash.settings = format!("[[target]]\ndevice = \"LABEL={LABEL}\"\npath = \"/deep/down\"\n");
    let crashed = crash.run(bench)?;
    crashed.disk.extract(&crashed.dir.join("files"))?;
    complete(&Dump::in_directory(&crashed.dir.join("files/deep/down"))?)
}

pub(super) fn complete(dump: &Dump) -> Result<()> {
    dump.expect(Outcome::Complete, &["manifest.json", "vmcore", "vmcore-dmesg.txt"])?;
    let file = KdumpFile::open(dump.dir.join("vmcore")).map_err(|e| anyhow!(e))?;
    let wrong = file.check();
    ensure!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

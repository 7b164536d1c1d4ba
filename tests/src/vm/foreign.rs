//! Kernels of other architectures, filtered on this one and compared with their own makedumpfile, or with what they
//! themselves said of their pages.

use super::runner::Bench;
use crate::kdump_reader::KdumpFile;
use crate::lab::command::{output, shown, talk};
use crate::lab::console::Console;
use crate::lab::disk::{Contents, Disk};
use crate::lab::foreign::{Architecture, Foreign, Judge, Taken};
use crate::lab::machine::Machine;
use crate::lab::qemu_dump;
use crate::lab::vmcore::{PageSet, RawCore};
use crate::order::Order;
use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::json;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Levels whose dumps are compared.
const LEVELS: [u8; 7] = [0, 1, 2, 4, 8, 16, 31];

/// Those of them whose every page is read: all of memory, and what is usually kept.
const WITH_CONTENTS: [u8; 2] = [0, 31];

/// No guest and no tool here may take longer.
const LIMIT: Duration = Duration::from_secs(240);

/// MiB of the guest's ext4.
const FILES_MIB: u64 = 64;

/// Page cache with and without private data, tmpfs, anonymous memory, transparent huge pages, hugetlb in use and idle (where
/// the CPU has them), inodes; and some of each given back. With nothing but busybox: there is no compiler for the guest.
const POPULATE: &str = r#"
mount -t tmpfs -o size=64m tmp /tmp
mount -t ext4 $files /mnt
thp=/sys/kernel/mm/transparent_hugepage/enabled
if [ -e $thp ]; then echo always > $thp; fi
huge=$(awk '/Hugepagesize/{print $2}' /proc/meminfo)
if [ -n "$huge" ]; then
  echo $((24576 / huge)) > /proc/sys/vm/nr_hugepages
  mount -t hugetlbfs huge /huge; fallocate -l 8M /huge/file
fi
awk 'BEGIN { s = "0123456789abcdef"; while (length(s) < 8000000) s = s s
  print length(s) > "/tmp/long"; close("/tmp/long"); while (1) system("sleep 1000") }' &
awk 'BEGIN { for (i = 0; i < 20000; i++) a[i] = i " one small thing of many"
  print i > "/tmp/many"; close("/tmp/many"); while (1) system("sleep 1000") }' &
mkdir /tmp/files /mnt/files
i=0; while [ $i -lt 400 ]; do : > /tmp/files/$i; : > /mnt/files/$i; i=$((i+1)); done
dd if=/dev/urandom of=/tmp/random bs=1M count=6 2>/dev/null
dd if=/dev/zero of=/tmp/zero bs=1M count=4 2>/dev/null
cat /bin/busybox /lab/modules/* > /mnt/text
sync; rm -rf /tmp/files/1* /mnt/files/2*
dd if=/dev/zero of=/mnt/dirty bs=1M count=1 2>/dev/null
n=0; while [ ! -s /tmp/long -o ! -s /tmp/many ] && [ $n -lt 300 ]; do usleep 100000; n=$((n+1)); done
section meminfo cat /proc/meminfo
section vmcoreinfo cat /sys/kernel/vmcoreinfo
"#;

fn init(architecture: &Architecture) -> String {
    let arm = match architecture.taken {
        Taken::Dump | Taken::DumpWithoutInfo => String::new(),
        Taken::Kdump => format!(
            "section kexec kexec -p /boot/kernel --initrd=/boot/initrd --command-line='console={} panic=5 nr_cpus=1 reset_devices'\n",
            architecture.console
        ),
    };
    // The first time the pages of the disk's own cache are taken, the second time nothing changes any more; while it is open
    // nothing gives them back.
    let flags = match architecture.judge {
        Judge::Makedumpfile => "",
        Judge::PageFlags => {
            "exec 9< $spare; for i in 1 2; do dd if=/proc/kpageflags of=$spare bs=64k conv=notrunc,fsync 2>/dev/null; done\n"
        }
    };
    format!(
        "#!/bin/sh
export PATH=/bin:/sbin
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
# One line a message of the script, and none of the kernel's chatter in between, but all of it in the log.
echo 4 > /proc/sys/kernel/printk
for m in /lab/modules/*.ko; do insmod $m; done
n=0; while [ ! -b /dev/vda -o ! -b /dev/vdb ] && [ $n -lt 100 ]; do usleep 100000; n=$((n+1)); done
# Disks are found in any order.
for disk in vda vdb; do
  if [ $(cat /sys/block/$disk/size) = {} ]; then files=/dev/$disk; else spare=/dev/$disk; fi
done
section() {{
  name=$1; shift
  echo \"LAB-BEGIN $name\"; \"$@\" 2>&1; echo \"LAB-END $name $?\"
}}
if [ -e /proc/vmcore ]; then
  section size stat -c %s /proc/vmcore
  section copy dd if=/proc/vmcore of=$spare bs=1M
  sync; poweroff -f
fi
echo LAB-UP
{POPULATE}
{arm}echo LAB-CRASH
usleep 500000
# On the second CPU, where there is one: what the first one stopped at is no answer then.
taskset -p 2 $$ > /dev/null 2>&1
{flags}echo c > /proc/sysrq-trigger
",
        FILES_MIB * 2048
    )
}

/// A vmcore and what else is known of it.
struct Taking<'a> {
    bench: &'a Bench<'a>,
    foreign: &'a Foreign,
    dir: PathBuf,
    core: PathBuf,
    console: Console,
}

/// Boots, populates and crashes a guest, takes its memory, and compares what we make of it with what its own makedumpfile
/// does.
pub fn filter(bench: &Bench<'_>, architecture: &'static Architecture) -> Result<()> {
    let name = architecture.name;
    let start = Instant::now();
    let foreign = bench.foreign(architecture)?;
    let taking = take(bench, foreign, &bench.scratch(&format!("foreign-{name}"))?)?;
    println!("   {name}: {} died and was taken in {:.1} s", foreign.release, start.elapsed().as_secs_f64());
    let kept = match architecture.judge {
        Judge::Makedumpfile => taking.compare()?,
        Judge::PageFlags => taking.page_flags()?,
    };
    println!("   {name}: pages kept by level: {kept:?}");
    enough(&kept)?;
    taking.log()?;
    // Debian's 6.1 for arm64 has no symbols of variables (CONFIG_KALLSYMS_ALL).
    if architecture.name.starts_with("arm64") && !foreign.release.starts_with("6.1.") {
        super::stacks::log_agrees(&taking.core)?;
    }
    fs::remove_file(&taking.core)?;
    Ok(())
}

/// Levels and how many pages each keeps.
type Kept = Vec<(u8, usize)>;

/// A guest without such pages would prove nothing.
fn enough(kept: &Kept) -> Result<()> {
    let of = |wanted: u8| kept.iter().find(|(level, _)| *level == wanted).map_or(0, |(_, pages)| *pages);
    for level in [2, 4, 8, 16] {
        let dropped = of(0).saturating_sub(of(level));
        ensure!(dropped * 100 > of(0), "level {level} drops {dropped} pages of {}: {kept:?}", of(0));
    }
    ensure!(of(4) < of(2), "no page cache with private data: {kept:?}");
    Ok(())
}

/// Waits until the guest has died, where it did not restart into a crash kernel.
fn death(machine: &Machine<'_>) -> Result<()> {
    machine.wait_for("Kernel panic - not syncing")?;
    // s390x stops its CPUs at once and tells QEMU; others say a last line and spin.
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let console = machine.console();
        let state = machine.monitor()?.execute("query-status", json!({}))?;
        if console.find("---[ end Kernel panic").is_some() || state["status"] == "guest-panicked" {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "the guest goes on after its panic: {state}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn take<'a>(bench: &'a Bench<'_>, foreign: &'a Foreign, dir: &Path) -> Result<Taking<'a>> {
    let architecture = foreign.architecture;
    let (log, core) = (dir.join("console.log"), dir.join("vmcore"));
    let ext4 = Disk::create(&dir.join("ext4.img"), FILES_MIB, Contents::Ext4)?;
    // The crash kernel's copy of memory, whole; or the flags of its pages.
    let (second, size, cmdline) = match architecture.taken {
        Taken::Kdump => (core.clone(), architecture.memory, "crashkernel=256M panic=5"),
        Taken::Dump | Taken::DumpWithoutInfo => (dir.join("kpageflags"), 8, "panic=0"),
    };
    let second = Disk::create(&second, size, Contents::Blank)?;
    let run = foreign.run(&init(architecture), cmdline, &[&ext4, &second], LIMIT, &log, |machine| {
        if architecture.taken == Taken::Kdump {
            return Ok(());
        }
        death(machine)?;
        let mut monitor = machine.monitor()?;
        monitor.dump(&core, "elf", false)?;
        monitor.quit()
    })?;
    let console = run.console;
    ensure!(run.ended, "the guest did not end in {LIMIT:?}:\n{}", console.tail(30));
    let section = |name: &str| match console.section(name) {
        Some((said, 0)) => Ok(said),
        other => Err(anyhow!("{name}: {other:?}; {}:\n{}", log.display(), console.tail(30))),
    };
    match architecture.taken {
        Taken::Kdump => {
            section("kexec")?;
            section("copy")?;
            let size: u64 = section("size")?.trim().parse()?;
            ensure!(size < architecture.memory << 20, "/proc/vmcore of {size} bytes");
            File::options().write(true).open(&core)?.set_len(size)?;
        }
        Taken::Dump => {}
        Taken::DumpWithoutInfo => {
            // Without the note nothing is known of the kernel: all of it is kept, and a person is told.
            let said = collect(bench, &core, 31, &dir.join("uninformed"))?;
            ensure!(said.contains("VMCOREINFO"), "no word of VMCOREINFO:\n{said}");
            fs::remove_file(dir.join("uninformed"))?;
            qemu_dump::add_vmcoreinfo(&core, &section("vmcoreinfo")?)?;
        }
    }
    fs::remove_file(&ext4.path)?;
    Ok(Taking { bench, foreign, dir: dir.to_owned(), core, console })
}

/// `vmcore-collect -d LEVEL CORE DUMP`, by hand.
fn collect(bench: &Bench<'_>, core: &Path, level: u8, to: &Path) -> Result<String> {
    let mut command = Command::new(&bench.programs.collector);
    command.args(["-d", &level.to_string()]).arg(core).arg(to);
    let (status, said) = talk(&mut command, "", LIMIT)?;
    ensure!(status.success(), "{} ended with {status}:\n{said}", shown(&command));
    Ok(said)
}

impl Taking<'_> {
    /// Same pages, same contents, at every level. Returns how many pages each level keeps.
    fn compare(&self) -> Result<Kept> {
        if self.foreign.architecture.taken != Taken::Kdump {
            let size = qemu_dump::header_size(&self.core)?;
            println!("   {}: QEMU wrote e_ehsize {size}", self.foreign.architecture.name);
        }
        let ours = |level: u8| self.dir.join(format!("ours-{level}"));
        for level in LEVELS {
            let said = collect(self.bench, &self.core, level, &ours(level))?;
            ensure!(!said.contains("problem"), "level {level}: {said}");
        }
        if self.foreign.architecture.taken != Taken::Kdump {
            qemu_dump::tidy(&self.core)?;
        }
        let raw = RawCore::open(&self.core)?;
        let all = raw.pages();
        let mut kept = Vec::new();
        for level in LEVELS {
            let their_path = self.dir.join(format!("theirs-{level}"));
            let mut makedumpfile = self.foreign.makedumpfile()?;
            output(makedumpfile.args(["-d", &level.to_string()]).arg(&self.core).arg(&their_path))?;
            let theirs = KdumpFile::open(&their_path).map_err(|e| anyhow!(e))?;
            let our_dump = KdumpFile::open(ours(level)).map_err(|e| anyhow!(e))?;
            self.headers(&our_dump, &theirs)?;
            let present: PageSet = our_dump.present_pfns().collect();
            ensure!(present == all, "level {level}: {} pages are present, not {}", present.len(), all.len());
            let set: PageSet = our_dump.pfns().collect();
            same(level, &set, &theirs.pfns().collect())?;
            if WITH_CONTENTS.contains(&level) {
                contents(level, &our_dump, &raw)?;
            }
            if level == 31 {
                let differs = set.iter().find(|pfn| our_dump.page(*pfn) != theirs.page(*pfn));
                ensure!(differs.is_none(), "page {differs:x?} differs from theirs");
            }
            kept.push((level, set.len()));
            fs::remove_file(&their_path)?;
            if level != 31 {
                fs::remove_file(ours(level))?;
            }
        }
        Ok(kept)
    }

    /// The pages of each level are those that the kernel itself described, but for the few that changed between that and
    /// its death (what `dd` and the panic itself had); the contents are the vmcore's.
    fn page_flags(&self) -> Result<Kept> {
        let flags = fs::read(self.dir.join("kpageflags"))?;
        let raw = RawCore::open(&self.core)?;
        let all = raw.pages();
        let mut kept = Vec::new();
        for level in LEVELS {
            let path = self.dir.join(format!("ours-{level}"));
            let said = collect(self.bench, &self.core, level, &path)?;
            ensure!(!said.contains("problem"), "level {level}: {said}");
            let ours = KdumpFile::open(&path).map_err(|e| anyhow!(e))?;
            ensure!(ours.header.utsname[2] == self.foreign.release, "{:?}", ours.header.utsname);
            let set: PageSet = ours.pfns().collect();
            if WITH_CONTENTS.contains(&level) {
                contents(level, &ours, &raw)?;
            }
            let wanted: PageSet = all.iter().filter(|pfn| !dropped(flag_word(&flags, *pfn), level)).collect();
            let (more, less) = (set.minus(&wanted), wanted.minus(&set));
            println!(
                "   {} level {level}: {} pages kept, {} of them and {} others changed at the end",
                self.foreign.architecture.name,
                set.len(),
                more.len(),
                less.len()
            );
            ensure!(
                (more.len() + less.len()) * 500 < all.len(),
                "level {level}: {} pages too many ({:x?}...), {} missing ({:x?}...)",
                more.len(),
                &more[..more.len().min(8)],
                less.len(),
                &less[..less.len().min(8)]
            );
            kept.push((level, set.len()));
            fs::remove_file(&path)?;
        }
        Ok(kept)
    }

    /// What a reader learns of the machine.
    fn headers(&self, ours: &KdumpFile, theirs: &KdumpFile) -> Result<()> {
        let (a, b) = (&ours.header, &theirs.header);
        ensure!(ours.order == theirs.order, "byte order {:?} instead of {:?}", ours.order, theirs.order);
        ensure!(a.utsname == b.utsname, "{:?} instead of {:?}", a.utsname, b.utsname);
        ensure!(a.utsname[2] == self.foreign.release, "{:?}", a.utsname);
        let numbers = |h: &crate::kdump_reader::Header| {
            (h.block_size, h.max_mapnr, h.max_mapnr_32, h.nr_cpus, h.bitmap_blocks, h.phys_base, h.tv_sec)
        };
        ensure!(numbers(a) == numbers(b), "{a:#?} instead of {b:#?}");
        ensure!(ours.notes() == theirs.notes(), "other notes than theirs");
        ensure!(ours.vmcoreinfo() == theirs.vmcoreinfo(), "another VMCOREINFO than theirs");
        Ok(())
    }

    /// The log is makedumpfile's, and ends as the console did.
    fn log(&self) -> Result<()> {
        let (ours, theirs) = (self.dir.join("dmesg"), self.dir.join("their-dmesg"));
        output(Command::new(&self.bench.programs.collector).arg("--dump-dmesg").arg(&self.core).arg(&ours))?;
        let our_log = fs::read(&ours)?;
        if self.foreign.architecture.judge == Judge::Makedumpfile {
            output(self.foreign.makedumpfile()?.arg("--dump-dmesg").arg(&self.core).arg(&theirs))?;
            let their_log = fs::read(&theirs)?;
            ensure!(our_log == their_log, "{} differs from {}", ours.display(), theirs.display());
        }
        let text = String::from_utf8_lossy(&our_log);
        let Some(panic) = self.console.find("Kernel panic - not syncing") else { bail!("no panic") };
        ensure!(text.contains(panic.text.trim()), "{:?} is not in {}", panic.text, ours.display());
        Ok(())
    }
}

/// A page's word of /proc/kpageflags; one that is past its end has no struct page.
fn flag_word(flags: &[u8], pfn: u64) -> u64 {
    let at = usize::try_from(pfn * 8).unwrap_or(usize::MAX);
    flags.get(at..at.saturating_add(8)).map_or(NOPAGE, |b| Order::Little.number(&b[..8]))
}

/// Bits of /proc/kpageflags: include/uapi/linux/kernel-page-flags.h and, from 32 on, include/linux/kernel-page-flags.h.
const LRU: u64 = 1 << 5;
const SLAB: u64 = 1 << 7;
const BUDDY: u64 = 1 << 10;
const ANON: u64 = 1 << 12;
const SWAPCACHE: u64 = 1 << 13;
const SWAPBACKED: u64 = 1 << 14;
const HUGE: u64 = 1 << 17;
const NOPAGE: u64 = 1 << 20;
const PRIVATE: u64 = 1 << 35;

/// Whether a level leaves a page with these flags out.
fn dropped(flags: u64, level: u8) -> bool {
    let has = |bit: u64| flags & bit != 0;
    let cache = has(LRU) || has(SWAPBACKED) && has(SWAPCACHE);
    if has(NOPAGE) || has(SLAB) {
        false
    } else if has(BUDDY) {
        level & 16 != 0
    } else if has(ANON) || has(HUGE) {
        level & 8 != 0
    } else if cache {
        level & if has(PRIVATE) { 4 } else { 2 | 4 } != 0
    } else {
        false
    }
}

/// A sound file, and in it the vmcore's pages byte for byte.
fn contents(level: u8, dump: &KdumpFile, raw: &RawCore) -> Result<()> {
    let faults = dump.check();
    ensure!(faults.is_empty(), "level {level}: {faults:#?}");
    for pfn in dump.pfns() {
        let page = dump.read_page(pfn).map_err(|e| anyhow!(e))?;
        let page = page.with_context(|| format!("pfn {pfn:#x} has no page"))?;
        ensure!(page == raw.page(pfn)?, "level {level}: page {pfn:#x} differs from the vmcore's");
    }
    Ok(())
}

/// The same pages.
fn same(level: u8, ours: &PageSet, theirs: &PageSet) -> Result<()> {
    let (more, less) = (ours.minus(theirs), theirs.minus(ours));
    ensure!(
        more.is_empty() && less.is_empty(),
        "level {level}: {} pages only in ours ({:x?}...), {} only in theirs ({:x?}...)",
        more.len(),
        &more[..more.len().min(8)],
        less.len(),
        &less[..less.len().min(8)]
    );
    Ok(())
}

//! A raw partition: prepared, written by the crash kernel, recovered by the next boot.

use super::crash::{Crash, Dump};
use super::runner::Bench;
use crate::lab::disk::{Contents, Disk};
use crate::lab::guest::{Guest, Paging};
use crate::lab::kernel::Series;
use crate::lab::machine::Run;
use anyhow::{Context, Result, ensure};
use collector::manifest::{Manifest, Outcome};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// The smallest partition there is is full at once, the next takes everything; both are recovered by the next boot. What
/// may not be written is refused before.
pub fn two_partitions(bench: &Bench<'_>) -> Result<()> {
    let mut crash = Crash::new(bench, "raw", Series::V6_1)?;
    crash.paging = Paging::Four;
    let disks = target_disks(&bench.scratch("raw-disks")?)?;
    for disk in &disks {
        crash.devices.push("-drive".to_owned());
        crash.devices.push(format!("file={},if=virtio,format=raw,cache=unsafe", disk.path.display()));
    }
    // vda is the ext4 with /var/crash, vdb the small one, vdc the large one, vdd holds an ext4.
    crash.settings = "[[target]]\nraw = \"/dev/vdb\"\n[[target]]\nraw = \"/dev/vdc\"\n".to_owned();
    crash.before = "
section unprepared vmcorectl arm
section mounted vmcorectl target prepare --force /dev/vda
section holds vmcorectl target prepare /dev/vdd
printf '[[target]]\\nraw = \"/dev/vdd\"\\n' > /etc/other.toml
section foreign vmcorectl --config /etc/other.toml arm
section small vmcorectl target prepare /dev/vdb
section large vmcorectl target prepare /dev/vdc
printf '[[target]]\\nraw = \"/dev/vdc\"\\n' > /etc/large.toml; vmcorectl --config /etc/large.toml config show --plan > /tmp/plan
echo raw /dev/vdc > /etc/large.conf; vmcorectl --config /etc/large.conf config show --plan > /tmp/other
section kdump-conf sh -c 'cmp /tmp/plan /tmp/other && grep -i raw /tmp/plan'
section nothing vmcorectl target recover"
        .to_owned();
    let crashed = crash.run(bench)?;
    for (section, status, says) in [
        (
            "unprepared",
            2,
            "/dev/vdb was not prepared: if nothing on it is needed, run `vmcorectl target prepare",
        ),
        ("mounted", 2, "/dev/vda is mounted at /var/crash: it is not touched"),
        ("holds", 2, "/dev/vdd holds ext4: if that can go, say --force"),
        ("foreign", 2, "raw target /dev/vdd holds ext4"),
        ("small", 0, "/dev/vdb is ready for 13 MiB of dumps"),
        ("large", 0, "[[target]] raw = \"UUID="),
        ("kdump-conf", 0, "raw"),
        ("nothing", 0, "nothing to recover on /dev/vdb"),
    ] {
        expect(&crashed.run, section, status, says)?;
    }
    let console = crashed.crash_console();
    ensure!(console.contains("outcome: complete"), "the crash kernel's console:\n{console}");

    let mut all = vec![crashed.disk.clone()];
    all.extend(disks);
    let after = Guest {
        kernel: bench.kernel(Series::V6_1)?,
        paging: Paging::Four,
        memory: 512,
        cmdline: String::new(),
        disks: all,
        script: format!(
            "mount /dev/vda /var/crash
mkdir -p /etc; cat > /etc/vmcored.toml <<'END'
{}
END
section recover vmcorectl target recover
section again vmcorectl target recover
section verify vmcorectl verify /var/crash/*/vmcore
umount /var/crash",
            crash.settings
        ),
        files: Vec::new(),
        devices: Vec::new(),
        limit: Duration::from_secs(120),
    };
    let run = bench.lab.run(&after, &crashed.dir.join("next-boot.log"))?;
    for (section, status, says) in [
        ("recover", 0, "was recovered"),
        ("recover", 0, "partial (/dev/vdb)"),
        ("recover", 0, "complete (/dev/vdc)"),
        ("again", 0, "nothing to recover on /dev/vdb\nnothing to recover on /dev/vdc"),
        ("verify", 0, "sound"),
    ] {
        expect(&run, section, status, says)?;
    }
    let files = crashed.dir.join("files");
    crashed.disk.extract(&files)?;
    let whole = one(&files, &crashed.dir.join("whole"), Outcome::Complete)?;
    whole.expect(Outcome::Complete, &["manifest.json", "vmcore", "vmcore-dmesg.txt"])?;
    let told: Vec<_> = whole.manifest.targets.iter().map(|t| t.outcome).collect();
    ensure!(told == [Outcome::Partial, Outcome::Complete], "{:#?}", whole.manifest.targets);
    let first = whole.manifest.targets.first().and_then(|t| t.failure.clone()).unwrap_or_default();
    ensure!(first.contains("the target is full"), "{first}");
    let part = one(&files, &crashed.dir.join("part"), Outcome::Partial)?;
    ensure!(
        part.names()? == ["manifest.json", "vmcore-dmesg.txt", "vmcore-incomplete"],
        "{:?}",
        part.names()
    );
    let stack = bench.drgn()?.crashed_stack(&whole.dir.join("vmcore"), bench.vmlinux(Series::V6_1)?)?;
    ensure!(stack.contains("sysrq_handle_crash"), "drgn's stack:\n{stack}");
    Ok(())
}

/// The small one, the large one, and one that somebody needs.
fn target_disks(dir: &Path) -> Result<Vec<Disk>> {
    let disks =
        [("small", 16, Contents::Blank), ("large", 256, Contents::Blank), ("ext4", 32, Contents::Ext4)];
    disks
        .iter()
        .map(|(name, mib, what)| Disk::create(&dir.join(format!("{name}.img")), *mib, *what))
        .collect()
}

fn expect(run: &Run, section: &str, status: i32, says: &str) -> Result<()> {
    let (said, ended) =
        run.console.section(section).with_context(|| format!("no `{section}`:\n{}", run.console.tail(30)))?;
    let text = said.replace('\r', "");
    ensure!(
        ended == status && text.contains(says),
        "`{section}` ended with {ended}, not {status} and {says:?}:\n{said}"
    );
    Ok(())
}

/// The one dump with this outcome, moved to a directory of its own.
fn one(files: &Path, to: &Path, outcome: Outcome) -> Result<Dump> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(files)? {
        let dir = entry?.path();
        let Ok(text) = fs::read_to_string(dir.join("manifest.json")) else { continue };
        let manifest: Manifest = serde_json::from_str(&text)?;
        if manifest.outcome == outcome {
            // Both bear the name of the crash; the second has a number.
            let name = dir.file_name().context("no name")?.to_string_lossy().into_owned();
            let plain = name.strip_suffix("-2").unwrap_or(&name).to_owned();
            fs::rename(&dir, to.join(plain))?;
        }
    }
    Dump::in_directory(to)
}

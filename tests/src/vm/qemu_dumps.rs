//! QEMU's own dumps of a machine that runs: every format that its dump-guest-memory writes is opened by the collector, and
//! is the same memory.

use super::runner::Bench;
use crate::kdump_reader::KdumpFile;
use crate::lab::command::{shown, talk};
use crate::lab::guest::{Guest, Paging};
use crate::lab::kernel::Series;
use crate::lab::qemu_dump;
use crate::lab::vmcore::{PageSet, RawCore};
use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// QEMU's names of what it may be built to write, and whether with paging: then every segment has its virtual address.
const FORMATS: &[(&str, bool)] =
    &[("elf", false), ("elf", true), ("kdump-zlib", false), ("kdump-lzo", false), ("kdump-snappy", false)];

const LIMIT: Duration = Duration::from_secs(150);

fn name((format, paging): (&str, bool)) -> String {
    format!("{format}{}", if paging { "-paging" } else { "" })
}

/// Boots, stops the machine, has it dumped in every format, and compares.
pub fn formats(bench: &Bench<'_>) -> Result<()> {
    let dir = bench.scratch("qemu-dumps")?;
    let guest = Guest {
        kernel: bench.kernel(Series::V6_1)?,
        paging: Paging::Four,
        memory: 384,
        cmdline: String::new(),
        disks: Vec::new(),
        // The module tells QEMU where VMCOREINFO is.
        script: "mount -t tmpfs tmp /tmp
dd if=/dev/urandom of=/tmp/random bs=1M count=4 2>/dev/null
modprobe qemu_fw_cfg || section modprobe false
guest-load anon 24 &
sleep 1
section info cat /sys/kernel/vmcoreinfo
echo LAB-WAITING
sleep 600"
            .to_owned(),
        devices: Vec::new(),
        files: Vec::new(),
        limit: LIMIT,
    };
    let mut written = Vec::new();
    bench.lab.run_during(&guest, &dir.join("console.log"), |machine| {
        machine.wait_for("LAB-WAITING")?;
        let mut monitor = machine.monitor()?;
        // So that they are all of one moment.
        monitor.execute("stop", json!({}))?;
        let can = monitor.execute("query-dump-guest-memory-capability", json!({}))?;
        let can: Vec<&str> =
            can["formats"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for format in FORMATS.iter().filter(|(format, _)| can.contains(format)) {
            monitor.dump(&dir.join(name(*format)), format.0, format.1)?;
            written.push(*format);
        }
        println!("   QEMU writes {can:?}");
        monitor.quit()
    })?;
    ensure!(written.len() >= 3, "QEMU can only write {written:?}");

    let elf = dir.join(name(FORMATS[0]));
    let raw = RawCore::open(&elf)?;
    let all = raw.pages();
    println!("   ELF header of {} bytes", qemu_dump::header_size(&elf)?);
    for format in written {
        same(bench, &dir.join(name(format)), &raw, &all, format.1)?;
        fs::remove_file(dir.join(name(format)))?;
    }
    Ok(())
}

/// What the collector makes of a dump at level 0 is every page of memory; and at level 31 it knows them all.
fn same(bench: &Bench<'_>, dump: &Path, raw: &RawCore, all: &PageSet, paging: bool) -> Result<()> {
    let out = dump.with_extension("out");
    for level in [0_u8, 31] {
        let mut command = Command::new(&bench.programs.collector);
        command.args(["-f", "-d", &level.to_string()]).arg(dump).arg(&out);
        let (status, said) = talk(&mut command, "", LIMIT)?;
        ensure!(status.success(), "{} ended with {status}:\n{said}", shown(&command));
        // The memory of devices, which QEMU dumps as well, is in no mem_map.
        let foreign = said.lines().find(|l| l.contains("VC") && !l.contains("no struct page: kept"));
        ensure!(foreign.is_none(), "{}: {said}", shown(&command));
        let ours = KdumpFile::open(&out).map_err(|e| anyhow!(e))?;
        let faults = ours.check();
        ensure!(faults.is_empty(), "{}: {faults:#?}", shown(&command));
        let set: PageSet = ours.pfns().collect();
        // With paging a page that nothing maps is not in the file.
        let wanted = if level == 0 && !paging { all.len() } else { 0 };
        ensure!(
            set.minus(all).is_empty() && set.len() >= wanted,
            "{}: {} of {} pages",
            shown(&command),
            set.len(),
            all.len()
        );
        ensure!(level == 0 || set.len() < all.len() / 2, "{}: {} pages kept", shown(&command), set.len());
        for pfn in set.iter() {
            let page = ours.read_page(pfn).map_err(|e| anyhow!(e))?;
            let page = page.with_context(|| format!("pfn {pfn:#x} has no page"))?;
            ensure!(page == raw.page(pfn)?, "{}: page {pfn:#x} differs", shown(&command));
        }
    }
    fs::remove_file(out)?;
    Ok(())
}

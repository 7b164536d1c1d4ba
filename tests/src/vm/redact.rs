//! Redacted dumps of a real kernel: drgn says by DWARF where the data lies, and exactly that is erased.

use crate::kdump_reader::KdumpFile;
use crate::lab::command::output;
use crate::lab::oracle::Drgn;
use crate::lab::vmcore::RawCore;
use anyhow::{Context, Result, anyhow, ensure};
use collector::kernel::Kernel;
use collector::kernel::kallsyms::Kallsyms;
use collector::problem::Problems;
use collector::source::FileSource;
use collector::vmcore::Vmcore;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::Command;

/// What is erased.
pub const RULES: &str = "\
# Every thread's name, and that of the idle tasks.
erase task_struct.comm
[vmlinux]
erase init_uts_ns.name.nodename
erase saved_command_line
erase linux_banner:char[64]
for s in super_blocks within super_block:s_list
    erase s.s_id size 8
endfor
for t in init_task via tasks
    erase t.real_parent nullify
endfor
# A type that only the module has.
[ext4]
erase ext4_attr_first_error_time:ext4_attr.attr_id
";

/// The record's lines, each at least once.
const RECORD: [&str; 7] = [
    "erase task_struct.comm size 16\n",
    "erase init_uts_ns.name.nodename size 65\n",
    "erase saved_command_line size ",
    "erase linux_banner:char[64] size 64\n",
    "erase s.s_id size 8\n",
    "erase t.real_parent nullify\n",
    "erase ext4_attr_first_error_time:ext4_attr.attr_id size 2\n",
];

/// A kernel's page, as [`crate::kdump_reader`] counts them.
const PAGE: u64 = 4096;

/// Erases data from dumps of `raw` in two formats, as it was from `captured` when the machine died; every byte is the raw vmcore's or, where drgn finds the data, filled.
pub fn check(
    collector: &Path,
    drgn: &Drgn,
    raw: &Path,
    captured: &Path,
    vmlinux: &Path,
    scratch: &Path,
) -> Result<()> {
    let rules = scratch.join("rules.conf");
    fs::write(&rules, RULES)?;
    // By page: offset in it, length, fill.
    let mut erased: BTreeMap<u64, Vec<(usize, usize, u8)>> = BTreeMap::new();
    for (at, len, fill) in drgn.redactable(raw, vmlinux)? {
        for byte in at..at + len {
            erased.entry(byte / PAGE).or_default().push((usize::try_from(byte % PAGE)?, 1, fill));
        }
    }
    ensure!(erased.len() > 20, "drgn finds {} pages to erase from", erased.len());
    let memory = RawCore::open(raw)?;
    let expected = |pfn: u64| -> Result<Vec<u8>> {
        let mut page = memory.page(pfn)?;
        for (at, len, fill) in erased.get(&pfn).into_iter().flatten() {
            page[*at..at + len].fill(*fill);
        }
        Ok(page)
    };

    for (name, options) in
        [("captured", &[][..]), ("redacted", &["-d", "31"]), ("redacted.elf", &["-E", "-d", "31"])]
    {
        let path = if name == "captured" { captured.to_owned() } else { scratch.join(name) };
        if name != "captured" {
            let mut command = Command::new(collector);
            output(command.args(options).args(["-f", "--config"]).arg(&rules).arg(raw).arg(&path))?;
        }
        let mut seen = HashSet::new();
        let mut compare = |pfn: u64, page: Vec<u8>| -> Result<()> {
            ensure!(page == expected(pfn)?, "{name}: page {pfn:#x} is not what it was, less what is erased");
            seen.insert(pfn);
            Ok(())
        };
        if name != "redacted.elf" {
            let dump = KdumpFile::open(&path).map_err(|e| anyhow!(e))?;
            let wrong = dump.check();
            ensure!(wrong.is_empty(), "{wrong:#?}");
            for pfn in dump.pfns() {
                compare(pfn, dump.read_page(pfn).map_err(|e| anyhow!(e))?.context("a page without data")?)?;
            }
            let missing = erased.keys().filter(|pfn| !seen.contains(*pfn)).count();
            ensure!(missing == 0, "{missing} pages with erased bytes are not in the dump");
        } else {
            let dump = RawCore::open(&path)?;
            for pfn in dump.pages().iter() {
                compare(pfn, dump.page(pfn)?)?;
            }
        }
        let bytes = fs::read(&path)?;
        for line in RECORD {
            let found = bytes.windows(line.len()).any(|w| w == line.as_bytes());
            ensure!(found, "{name} has no record of {line:?}");
        }
        let stack = drgn.crashed_stack(&path, vmlinux)?;
        ensure!(stack.starts_with("1 XXXXXXXXXXXXXXXX\n"), "{name}: drgn's crashed thread:\n{stack}");
        ensure!(stack.contains("sysrq_handle_crash"), "{name}: drgn's stack:\n{stack}");
        if name != "captured" {
            fs::remove_file(&path)?;
        }
    }
    refused(collector, raw, scratch)
}

/// What cannot be resolved leaves no file behind.
fn refused(collector: &Path, raw: &Path, scratch: &Path) -> Result<()> {
    let (rules, path) = (scratch.join("wrong.conf"), scratch.join("refused"));
    fs::write(&rules, "erase init_task.comm\nerase init_task.no_such_member\n")?;
    let mut command = Command::new(collector);
    let said = command.args(["--config"]).arg(&rules).arg(raw).arg(&path).output()?;
    let text = String::from_utf8_lossy(&said.stderr);
    ensure!(said.status.code() == Some(1), "exit status {} with a rule that cannot be resolved", said.status);
    ensure!(text.contains("line 2: ") && text.contains("no_such_member"), "it said:\n{text}");
    ensure!(
        !path.exists() && !scratch.join("refused-incomplete").exists(),
        "a dump was written all the same"
    );
    Ok(())
}

/// Every symbol that the vmcore has is the one in vmlinux, moved by KASLR; per-CPU ones stay where they are.
pub fn symbols(raw: &Path, vmlinux: &Path) -> Result<()> {
    let said = output(Command::new("nm").arg(vmlinux))?;
    let mut theirs: HashMap<&str, Vec<u64>> = HashMap::new();
    for line in said.lines() {
        if let [at, _, name] = line.split_whitespace().collect::<Vec<_>>()[..] {
            theirs.entry(name).or_default().push(u64::from_str_radix(at, 16)?);
        }
    }
    let source = FileSource::open(raw)?;
    let mut problems = Problems::new();
    let vmcore = Vmcore::open(&source, &mut problems)?;
    let kernel = Kernel::open(&vmcore, &mut problems);
    let ours = Kallsyms::open(&kernel, vmcore.info())?;
    let offset = vmcore.info().get("KERNELOFFSET").context("no KERNELOFFSET")?;
    let offset = u64::from_str_radix(offset, 16)?;
    let mut names = Vec::new();
    ours.each(|index, _, name| {
        names.push((index, String::from_utf8_lossy(name).into_owned()));
        ControlFlow::Continue(())
    })?;
    ensure!(names.len() > 90_000, "{} symbols", names.len());
    for (index, name) in names {
        let at = ours.address(index)?.get();
        let known = theirs.get(name.as_str()).map_or(&[][..], Vec::as_slice);
        let same = known.iter().any(|k| if *k < 1 << 32 { *k == at } else { k.wrapping_add(offset) == at });
        ensure!(same, "{name} is at {at:#x}, in vmlinux at {known:x?}, moved by {offset:#x}");
    }
    Ok(())
}

//! Driven by kdump.conf, with no vmcored.toml.

use super::capture::complete;
use super::crash::{Crash, Crashed, Dump};
use super::runner::Bench;
use crate::lab::disk::LABEL;
use crate::lab::kernel::Series;
use anyhow::{Context, Result, bail, ensure};

/// Shell that says whether this kdump.conf leads to the plan that the guest's own leads to.
pub fn same_plan(conf: &str) -> String {
    format!(
        "cat > /tmp/other.conf <<'END'
{conf}END
vmcorectl config show --plan > /tmp/plan; vmcorectl --config /tmp/other.conf config show --plan > /tmp/other
section same-plan cmp /tmp/plan /tmp/other"
    )
}

/// That it does, where it was asked.
pub fn check_same_plan(crashed: &Crashed) -> Result<()> {
    match crashed.run.console.section("same-plan") {
        Some((said, status)) if status != 0 => bail!("another plan comes of it:\n{said}"),
        _ => Ok(()),
    }
}

/// A file system by its label, makedumpfile's options, an option of the past.
pub fn label(bench: &Bench<'_>) -> Result<()> {
    let mut crash = Crash::new(bench, "kdump-conf", Series::V6_1)?;
    crash.kdump_conf = Some(format!(
        "# as it was
ext4 LABEL={LABEL}
path /deep/down
core_collector makedumpfile -c --message-level 7 -d 31
disk_timeout 30
"
    ));
    "section check vmcorectl config check
section show vmcorectl config show
section crashkernel vmcorectl crashkernel show"
        .clone_into(&mut crash.before);
    let crashed = crash.run(bench)?;
    for (name, wanted) in [("check", ""), ("show", "compression = \"zlib:1\""), ("crashkernel", "reserved\n")]
    {
        let (said, status) =
            crashed.run.console.section(name).with_context(|| format!("no section {name}"))?;
        ensure!(status == 0 && said.contains(wanted), "{name} exited with {status}:\n{said}");
    }
    crashed.disk.extract(&crashed.dir.join("files"))?;
    complete(&Dump::in_directory(&crashed.dir.join("files/deep/down"))?)
}

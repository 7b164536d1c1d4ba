//! Driven by kdump.conf, with no vmcored.toml.

use super::capture::complete;
use super::crash::{Crash, Dump};
use super::runner::Bench;
use crate::lab::disk::LABEL;
use crate::lab::kernel::Series;
use anyhow::{Context, Result, ensure};

/// A file system by its label, makedumpfile's options, an option of the past.
pub fn label(bench: &Bench<'_>) -> Result<()> {
    let mut crash = Crash::new(bench, "kdump-conf", Series::V6_1)?;
    crash.before = format!(
        "rm /etc/vmcored.toml
cat > /etc/kdump.conf <<'END'
# as it was
ext4 LABEL={LABEL}
path /deep/down
core_collector makedumpfile -c --message-level 7 -d 31
disk_timeout 30
END
section check vmcorectl config check
section show vmcorectl config show
section crashkernel vmcorectl crashkernel show"
    );
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

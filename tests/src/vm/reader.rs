//! A second guest, with the distribution's own tools, that reads what a crash has left where the host cannot look.

use super::runner::Bench;
use crate::lab::command::output;
use crate::lab::disk::{Contents, Disk};
use crate::lab::guest::{Guest, Paging};
use crate::lab::kernel::Series;
use anyhow::{Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// What it is given.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'r> {
    /// Its kernel.
    pub series: Series,
    /// Disks, `/dev/vdb` and on: they have the names that they had if there was another before them.
    pub disks: &'r [Disk],
    /// Shell that mounts the file system with the dump at /mnt.
    pub script: &'r str,
    /// Files to add to its root.
    pub files: &'r [(PathBuf, String)],
    /// Further arguments of QEMU's.
    pub devices: &'r [String],
}

impl Reader<'_> {
    /// Copies what is below /mnt into `dir`/read, with the modes that it has; that directory, and what the guest said.
    pub fn read(&self, bench: &Bench<'_>, dir: &Path) -> Result<(PathBuf, String)> {
        let tar = Disk::create(&dir.join("copy.tar"), 256, Contents::Blank)?;
        let guest = Guest {
            kernel: bench.kernel(self.series)?,
            paging: Paging::Four,
            memory: 512,
            cmdline: String::new(),
            disks: [std::slice::from_ref(&tar), self.disks].concat(),
            script: format!("{}\ncd /mnt; section copy tar -cf /dev/vda .", self.script),
            devices: self.devices.to_vec(),
            files: self.files.to_vec(),
            limit: Duration::from_secs(120),
        };
        let run = bench.lab.run(&guest, &dir.join("reader.log"))?;
        ensure!(
            matches!(run.console.section("copy"), Some((_, 0))),
            "the reader failed:\n{}",
            run.console.tail(20)
        );
        let to = dir.join("read");
        std::fs::create_dir_all(&to)?;
        output(
            Command::new("tar").args(["-x", "--no-same-owner", "-p", "-f"]).arg(&tar.path).arg("-C").arg(&to),
        )?;
        Ok((to, run.console.tail(200)))
    }
}

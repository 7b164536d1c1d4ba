//! The guest's disks: sparse raw files that the host formats and reads back, never mounts.

use super::command::{output, run, tool};
use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::path::{Path, PathBuf};

/// What is on a disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Contents {
    /// Nothing at all.
    Blank,
    /// An empty ext4 over the whole disk.
    Ext4,
    /// An empty xfs over the whole disk.
    Xfs,
    /// A GPT with one partition, [`PART_UUID`], and an ext4 in it.
    PartitionedExt4,
}

/// File system UUID of every formatted disk.
pub const UUID: &str = "5eed0000-7e57-4d15-8000-0000000000d1";
/// Label of every formatted disk.
pub const LABEL: &str = "crashdumps";
/// PARTUUID of [`Contents::PartitionedExt4`].
pub const PART_UUID: &str = "5eed0000-7e57-4d15-8000-0000000000f2";
/// Where that partition begins, bytes.
const PART_START: u64 = 1 << 20;

/// A raw disk image.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Disk {
    /// The image.
    pub path: PathBuf,
    contents: Contents,
}

impl Disk {
    /// Makes a sparse image of `mib` MiB.
    pub fn create(path: &Path, mib: u64, contents: Contents) -> Result<Self> {
        let bytes = mib << 20;
        File::create(path)
            .and_then(|f| f.set_len(bytes))
            .with_context(|| format!("cannot make {}", path.display()))?;
        let disk = Self { path: path.to_owned(), contents };
        match contents {
            Contents::Blank => {}
            Contents::Ext4 => run(ext4()?.arg(path))?,
            Contents::Xfs => {
                let uuid = format!("uuid={UUID}");
                output(tool("mkfs.xfs")?.args(["-q", "-f", "-m", &uuid, "-L", LABEL]).arg(path))?;
            }
            Contents::PartitionedExt4 => {
                let table = format!("label: gpt\nstart=1MiB, type=linux, uuid={PART_UUID}\n");
                let limit = std::time::Duration::from_secs(20);
                let (status, said) = super::command::talk(
                    tool("sfdisk")?.args(["-q", "--no-reread"]).arg(path),
                    &table,
                    limit,
                )?;
                ensure!(status.success(), "sfdisk failed with {status}: {said}");
                // One MiB at the end is left to the backup of the table.
                let blocks = format!("{}k", (bytes - 2 * PART_START) >> 10);
                run(ext4()?.args(["-E", &format!("offset={PART_START}")]).arg(path).arg(blocks))?;
            }
        }
        Ok(disk)
    }

    /// The file system as debugfs wants to hear of it.
    fn ext4_name(&self) -> String {
        let path = self.path.display();
        match self.contents {
            Contents::PartitionedExt4 => format!("{path}?offset={PART_START}"),
            Contents::Blank | Contents::Ext4 | Contents::Xfs => path.to_string(),
        }
    }

    /// Copies everything of an ext4 into the new directory `to`, with the modes that the files have on the disk.
    pub fn extract(&self, to: &Path) -> Result<()> {
        std::fs::create_dir_all(to)?;
        let name = self.ext4_name();
        // e2fsck replays the journal, as the machine would at its next mount: what we see then is what was durable.
        let mut fsck = tool("e2fsck")?;
        let status = fsck.args(["-p", "-f"]).arg(&name).stdout(std::process::Stdio::null()).status()?;
        ensure!(
            status.code().is_some_and(|c| c < 2),
            "e2fsck -p {name} ended with {status}: the file system is damaged"
        );
        // debugfs exits with 0 whatever happens and says what went wrong on stderr.
        let mut debugfs = tool("debugfs")?;
        let done = debugfs.arg("-R").arg(format!("rdump / {}", to.display())).arg(&name).output()?;
        let said = String::from_utf8_lossy(&done.stderr);
        // Whoever is not root cannot give files to root; the contents and modes are there all the same.
        let wrong = said
            .lines()
            .filter(|l| !l.starts_with("debugfs ") && !l.contains("changing ownership"))
            .collect::<Vec<_>>();
        ensure!(wrong.is_empty(), "debugfs rdump of {name}: {}", wrong.join("; "));
        Ok(())
    }
}

fn ext4() -> Result<std::process::Command> {
    let mut mke2fs = tool("mke2fs")?;
    mke2fs.args(["-q", "-F", "-t", "ext4", "-U", UUID, "-L", LABEL]);
    Ok(mke2fs)
}

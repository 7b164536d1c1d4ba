//! Writes a file where dumps will be, for real: create, write, sync, rename, sync the directory, remove.

use collector::target::directory::largest_file;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Instant;

/// Bytes that are written; less where there is hardly room.
pub const BYTES: u64 = 8 << 20;

/// With less room than this nothing is written: the file system is full, which is another matter.
pub const LEAST: u64 = 1 << 20;

/// What failed, and how.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} a file there: {source}")]
pub struct ProbeError {
    /// create, write, sync, rename, remove
    pub doing: &'static str,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

/// Bytes that root may still write there into one file.
pub fn free(directory: &Path) -> io::Result<u64> {
    let directory = File::open(directory)?;
    let stat = nix::sys::statvfs::fstatvfs(&directory)?;
    Ok(stat.blocks_free().saturating_mul(stat.fragment_size()).min(largest_file(&directory)))
}

/// Writes to the directory. Returns MB/s.
pub fn write(directory: &Path, bytes: u64) -> Result<f64, ProbeError> {
    let name = |end: &str| directory.join(format!(".vmcored-probe-{}{end}", std::process::id()));
    let (first, second) = (name("-incomplete"), name(""));
    let result = attempt(directory, &first, &second, bytes);
    if result.is_err() {
        for path in [&first, &second] {
            // Most likely it was never made.
            drop(fs::remove_file(path));
        }
    }
    result
}

fn attempt(directory: &Path, first: &Path, second: &Path, bytes: u64) -> Result<f64, ProbeError> {
    let failed = |doing| move |source| ProbeError { doing, source };
    let mut piece = vec![0; 1 << 20];
    // What a file system or a disk compresses would be too fast.
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut piece))
        .map_err(failed("fill"))?;
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(first).map_err(failed("create"))?;
    let start = Instant::now();
    let mut left = usize::try_from(bytes).unwrap_or(usize::MAX);
    while left > 0 {
        let chunk = piece.get(..left.min(piece.len())).unwrap_or_default();
        file.write_all(chunk).map_err(failed("write"))?;
        left -= chunk.len();
    }
    file.sync_all().map_err(failed("sync"))?;
    let took = start.elapsed();
    drop(file);
    fs::rename(first, second).map_err(failed("rename"))?;
    let sync = || File::open(directory)?.sync_all();
    sync().map_err(failed("sync the directory of"))?;
    fs::remove_file(second).map_err(failed("remove"))?;
    let megabytes = bytes as f64 / 1e6;
    Ok(megabytes / took.as_secs_f64().max(1e-6))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        assert!(write(dir.path(), 3 << 20).unwrap() > 0.0);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(free(dir.path()).unwrap() > 0);
        let e = write(&dir.path().join("none"), 1).unwrap_err();
        assert!(e.to_string().starts_with("cannot create a file there"), "{e}");
    }
}

//! The end of a capture on the target: final names, the manifest, and the file system clean.

use super::report::{Report, Reporter};
use super::story::{INCOMPLETE, is_whole};

use crate::engine::chain;
use crate::fault;
use crate::manifest::Manifest;
use crate::target::directory::DumpDirectory;
use crate::target::{TargetError, local};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The manifest in the dump's directory.
pub const MANIFEST: &str = "manifest.json";

/// Room that a manifest has at most.
const RESERVED: usize = 64 << 10;

/// Writes a manifest padded to its largest size, under a name that says it is none yet. On a disk that fills up, there is then
/// room for the real one; and if nobody lives to write that, this says how far the capture had come.
pub fn reserve(directory: &DumpDirectory, so_far: &Manifest) -> Result<(), TargetError> {
    let name = format!("{MANIFEST}{INCOMPLETE}");
    let file = directory.create_file(&name)?;
    let mut text = json(so_far);
    text.resize(RESERVED, b' ');
    let written = file.write_all_at(&text, 0).and_then(|()| file.sync_all());
    written.map_err(|e| TargetError::new("write", name, e))?;
    directory.sync()
}

/// Names what is whole, writes the manifest, unmounts.
pub fn finish(
    manifest: Manifest,
    root: &Path,
    directory: Option<&str>,
    out: &Reporter,
) -> Result<(), String> {
    fault::finish();
    let kept = match directory {
        Some(path) => DumpDirectory::open(root, path).and_then(|dir| label(manifest, &dir, out)),
        None => Ok(()),
    };
    let unmounted = local::unmount(root);
    kept.and(unmounted).map_err(|e| chain(&e))
}

fn label(mut manifest: Manifest, directory: &DumpDirectory, out: &Reporter) -> Result<(), TargetError> {
    for report in &mut manifest.dumps {
        if is_whole(report) {
            directory.rename(&format!("{}{INCOMPLETE}", report.file), &report.file)?;
        } else if let Ok(meta) = directory.open_file(&report.file).and_then(|file| {
            file.sync_all()
                .and_then(|()| file.metadata())
                .map_err(|e| TargetError::new("sync", report.file.as_str(), e))
        }) {
            // Nobody has counted what an engine that was killed had written.
            report.bytes = meta.len();
        }
    }
    directory.sync()?;
    out.tell(&Report::Named);
    write(directory, &manifest)
}

/// Puts the manifest in its place, durably.
fn write(directory: &DumpDirectory, manifest: &Manifest) -> Result<(), TargetError> {
    let name = format!("{MANIFEST}{INCOMPLETE}");
    let file = match directory.open_file(&name) {
        Err(e) if e.source.kind() == io::ErrorKind::NotFound => directory.create_file(&name),
        reserved => reserved,
    }?;
    let text = json(manifest);
    let len = u64::try_from(text.len()).unwrap_or(0);
    // Over what is reserved, and only then cut: no new room is asked for.
    let written = file.write_all_at(&text, 0).and_then(|()| file.set_len(len)).and_then(|()| file.sync_all());
    written.map_err(|e| TargetError::new("write", name.as_str(), e))?;
    directory.rename(&name, MANIFEST)?;
    directory.sync()
}

/// The manifest as text, never longer than what is reserved: the last problems go first.
fn json(manifest: &Manifest) -> Vec<u8> {
    let mut manifest = manifest.clone();
    loop {
        // Plain structs of text and numbers always serialise.
        let mut text = serde_json::to_vec_pretty(&manifest).unwrap_or_default();
        text.push(b'\n');
        if text.len() <= RESERVED || manifest.problems.pop().is_none() {
            return text;
        }
    }
}

//! The end of a capture on the target: final names, and the manifest.

use super::report::{Report, Reporter};
use super::story::{INCOMPLETE, is_whole};

use crate::engine::chain;
use crate::fault;
use crate::manifest::Manifest;
use crate::target::TargetError;
use crate::target::store::{Access, Store};

/// The manifest in the dump's directory.
pub const MANIFEST: &str = "manifest.json";

/// Room that a manifest has at most.
const RESERVED: usize = 64 << 10;

/// Writes a manifest padded to its largest size, under a name that says it is none yet. On a disk that fills
/// up, there is then room for the real one; and if nobody lives to write that, this says how far the capture
/// had come.
pub fn reserve(store: &dyn Store, so_far: &Manifest) -> Result<(), TargetError> {
    let mut text = json(so_far);
    text.resize(RESERVED, b' ');
    store.overwrite(&format!("{MANIFEST}{INCOMPLETE}"), &text)?;
    store.sync()
}

/// Names what is whole and writes the manifest.
pub fn finish(manifest: Manifest, access: &Access, directory: &str, out: &Reporter) -> Result<(), String> {
    fault::finish();
    let store = access.open(directory).map_err(|e| chain(&e))?;
    label(manifest, &*store, out).map_err(|e| chain(&e))
}

fn label(mut manifest: Manifest, store: &dyn Store, out: &Reporter) -> Result<(), TargetError> {
    for report in &mut manifest.dumps {
        if is_whole(report) {
            store.rename(&format!("{}{INCOMPLETE}", report.file), &report.file)?;
        } else if let Ok(len) = store.settle(&report.file) {
            // Nobody has counted what an engine that was killed had written.
            report.bytes = len;
        }
    }
    store.sync()?;
    out.tell(&Report::Named);
    // In its place only when it is whole.
    let unfinished = format!("{MANIFEST}{INCOMPLETE}");
    store.overwrite(&unfinished, &json(&manifest))?;
    store.rename(&unfinished, MANIFEST)?;
    store.sync()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Outcome;
    use crate::pid1::story::Story;
    use crate::pid1::testing::{plan, report};
    use crate::problem::{Code, Problem};
    use crate::target::directory::DumpDirectory;
    use std::fs::{self, File};
    use std::io::Write;
    use std::path::Path;

    fn manifest(files: &[&str]) -> Manifest {
        let mut manifest = Story::default().manifest(&plan(&["vmcore"]), None, None);
        manifest.dumps = files.iter().map(|f| report(f, 5)).collect();
        manifest
    }

    fn listing(path: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn quiet() -> Reporter {
        Reporter::new(File::options().write(true).open("/dev/null").unwrap())
    }

    #[test]
    fn only_what_is_whole_gets_its_name() {
        let root = tempfile::tempdir().unwrap();
        let dir = DumpDirectory::create(root.path(), "/", "h").unwrap();
        for name in ["vmcore-incomplete", "other-incomplete"] {
            dir.create_file(name).unwrap().write_all(b"1234567").unwrap();
        }
        reserve(&dir, &manifest(&[])).unwrap();
        let here = root.path().join("h");
        assert_eq!(fs::metadata(here.join("manifest.json-incomplete")).unwrap().len(), 65536);
        let early: Manifest =
            serde_json::from_slice(&fs::read(here.join("manifest.json-incomplete")).unwrap()).unwrap();
        assert_eq!(early.outcome, Outcome::Nothing);

        label(manifest(&["vmcore", "other-incomplete"]), &dir, &quiet()).unwrap();
        assert_eq!(listing(&here), ["manifest.json", "other-incomplete", "vmcore"]);
        let last: Manifest = serde_json::from_slice(&fs::read(here.join("manifest.json")).unwrap()).unwrap();
        assert_eq!((last.dumps[0].bytes, last.dumps[1].bytes), (5, 7), "nobody had counted the second");
    }

    #[test]
    fn a_whole_dump_that_is_not_there_has_no_manifest() {
        let root = tempfile::tempdir().unwrap();
        let dir = DumpDirectory::create(root.path(), "/", "h").unwrap();
        assert!(label(manifest(&["vmcore"]), &dir, &quiet()).is_err());
        assert_eq!(listing(&root.path().join("h")), [""; 0]);
    }

    #[test]
    fn the_manifest_fits_its_room_whatever_went_wrong() {
        let mut manifest = manifest(&["vmcore"]);
        let problem = |n: u64| Problem { code: Code(101), message: format!("{n:\u{1}<1000}"), times: 1 };
        manifest.problems = (0..64).map(problem).collect();
        let text = json(&manifest);
        assert!(text.len() <= RESERVED, "{}", text.len());
        let back: Manifest = serde_json::from_slice(&text).unwrap();
        assert!(back.problems.len() > 5, "{}", back.problems.len());
        assert_eq!(back.problems[0], manifest.problems[0]);
    }

    /// ext4 in a file, which behaves at its end as a disk does: delayed allocation, a journal.
    #[test]
    fn a_full_disk_still_gets_its_manifest() {
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(8 << 20).unwrap();
        let root = tempfile::tempdir().unwrap();
        let shell = |command: &str, arguments: &[&std::ffi::OsStr]| {
            let path = "/usr/sbin:/sbin:/usr/bin:/bin";
            std::process::Command::new(command)
                .env("PATH", path)
                .args(arguments)
                .output()
                .is_ok_and(|o| o.status.success())
        };
        let (file, point) = (image.path().as_os_str(), root.path().as_os_str());
        let mounted = shell("mkfs.ext4", &["-q".as_ref(), file])
            && shell("mount", &["-o".as_ref(), "loop".as_ref(), file, point]);
        if !mounted {
            eprintln!("skipped: cannot mount a loop device");
            return;
        }
        let dir = DumpDirectory::create(root.path(), "/", "h").unwrap();
        reserve(&dir, &manifest(&[])).unwrap();
        let mut dump = dir.create_file("vmcore-incomplete").unwrap();
        while dump.write_all(&[1; 1024]).is_ok() {}
        let result = label(manifest(&["vmcore-incomplete"]), &dir, &quiet());
        let files = listing(&root.path().join("h"));
        let last = fs::read(root.path().join("h/manifest.json"));
        drop((dir, dump));
        // Lazily: a child that another test forks has these files open too, for as long as it lives.
        assert!(shell("umount", &["-l".as_ref(), point]));
        result.unwrap();
        assert_eq!(files, ["manifest.json", "vmcore-incomplete"]);
        serde_json::from_slice::<Manifest>(&last.unwrap()).unwrap();
    }
}

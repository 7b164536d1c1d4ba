//! `vmcorectl target recover`: copies dumps off a raw partition to where a local target would have put them, once.
//!
//! The partition may have been written by anybody: names are checked where they are read, every chunk proves whose it is, and
//! the copy becomes visible under its name only when it is whole and durable. After that the partition is told. Whoever
//! is interrupted in between finds, the next time, that all of it is there already.

use collector::manifest::{Manifest, Outcome};
use collector::problem::{Code, Problem};
use collector::target::TargetError;
use collector::target::directory::DumpDirectory;
use collector::target::raw::layout::PAYLOAD;
use collector::target::raw::{Content, Dump, MANIFEST, Partition, RawError, State};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// What a file is called that is not whole.
const INCOMPLETE: &str = "-incomplete";

/// How many dumps may bear the same name.
const SAME_NAME: u32 = 999;

/// A manifest is never longer.
const LONGEST_MANIFEST: u64 = 1 << 20;

/// Why dumps were not recovered. They are still on the partition.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The partition cannot be used.
    #[error(transparent)]
    Raw(#[from] RawError),
    /// The copy cannot be made.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// There is no room for it.
    #[error(
        "the dump {name} on {node} has {need} MiB, and {to} has room for {free}: make room, and try again"
    )]
    NoRoom {
        /// The dump.
        name: String,
        /// The partition.
        node: String,
        /// MiB that it has.
        need: u64,
        /// Where it was to go.
        to: String,
        /// MiB that are free there.
        free: u64,
    },
    /// A file system or a disk fails.
    #[error("cannot {doing} {what}")]
    Io {
        /// The operation.
        doing: &'static str,
        /// On what.
        what: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A dump that is where it belongs now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recovered {
    /// Its directory.
    pub directory: PathBuf,
    /// It was there already.
    pub before: bool,
    /// What it was on the partition.
    pub state: State,
    /// Bytes of all files.
    pub bytes: u64,
    /// What is wrong with it, a sentence each.
    pub faults: Vec<String>,
}

/// Copies all dumps on the partition that were not yet recovered to directories below `to`, and marks them.
pub fn recover(node: &Path, to: &Path) -> Result<Vec<Recovered>, RecoverError> {
    let partition = Partition::open(node, true)?;
    let waiting: Vec<Dump> =
        partition.directory().dumps.into_iter().filter(|dump| dump.state != State::Recovered).collect();
    let mut recovered = Vec::new();
    for dump in waiting {
        let failed = |e| failed("mark as recovered", &dump.name, e);
        recovered.push(copy(&partition, &dump, to)?);
        partition.mark_recovered(dump.id).map_err(failed)?;
    }
    Ok(recovered)
}

/// Copies one dump.
fn copy(partition: &Partition, dump: &Dump, to: &Path) -> Result<Recovered, RecoverError> {
    // Following links down to it is the administrator's wish; in it none is followed.
    let to = match to.canonicalize() {
        Ok(real) => real,
        Err(e) if e.kind() == io::ErrorKind::NotFound => to.to_owned(),
        Err(e) => return Err(failed("find", to.display(), e)),
    };
    let hidden = format!(".{}.recovering", dump.name);
    match fs::remove_dir_all(to.join(&hidden)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            return Err(failed("remove", to.join(&hidden).display(), e));
        }
        _ => {}
    }
    let directory = DumpDirectory::create(Path::new("/"), &to.to_string_lossy(), &hidden)?;
    let made = PathBuf::from(directory.path());
    let outcome = fill(partition, dump, &directory, &to).and_then(|(bytes, faults)| {
        if let Some(there) = names(&dump.name).map(|n| to.join(n)).find(|there| has_all(there, &made)) {
            remove(&made)?;
            return Ok(Recovered { directory: there, before: true, state: dump.state, bytes, faults });
        }
        let directory = publish(&made, &to, &dump.name)?;
        Ok(Recovered { directory, before: false, state: dump.state, bytes, faults })
    });
    if outcome.is_err() {
        // What was copied is still on the partition.
        if let Err(e) = remove(&made) {
            log::warn!("{e}");
        }
    }
    outcome
}

fn remove(made: &Path) -> Result<(), RecoverError> {
    fs::remove_dir_all(made).map_err(|e| failed("remove", made.display(), e))
}

fn names(name: &str) -> impl Iterator<Item = String> {
    (1..=SAME_NAME).map(move |n| if n == 1 { name.to_owned() } else { format!("{name}-{n}") })
}

/// Writes all files into their new directory. Returns their bytes, and what is wrong with them.
fn fill(
    partition: &Partition,
    dump: &Dump,
    directory: &DumpDirectory,
    to: &Path,
) -> Result<(u64, Vec<String>), RecoverError> {
    let records = partition.directory();
    let need: u64 = records.files_of(dump.id).map(|file| file.chunks.saturating_mul(PAYLOAD)).sum();
    let free = directory.free().unwrap_or(u64::MAX);
    // The last chunk of each file may be nearly empty.
    let slack = PAYLOAD.saturating_mul(u64::try_from(records.files.len()).unwrap_or(0));
    if need.saturating_sub(slack) > free {
        let (name, node, to) = (dump.name.clone(), partition.node().to_owned(), to.display().to_string());
        return Err(RecoverError::NoRoom { name, node, need: need >> 20, to, free: free >> 20 });
    }
    let mut files: BTreeMap<u32, File> = BTreeMap::new();
    for record in records.files_of(dump.id) {
        files.insert(record.id, directory.create_file(&record.name)?);
    }
    let contents = partition.read_dump(dump, &mut |record, at, bytes| {
        files.get(&record.id).map_or(Ok(()), |file| file.write_all_at(bytes, at))
    });
    let contents = contents.map_err(|e| failed("copy", &dump.name, e))?;
    let mut bytes: u64 = 0;
    let mut faults = Vec::new();
    let mut damaged = Vec::new();
    for content in &contents {
        let Some(file) = files.get(&content.file.id) else { continue };
        file.set_len(content.length)
            .and_then(|()| file.sync_all())
            .map_err(|e| failed("write", &content.file.name, e))?;
        bytes = bytes.saturating_add(content.length);
        if let Some(fault) = content.fault() {
            faults.push(format!("{}: {fault}", content.file.name));
            damaged.push(content);
        }
    }
    drop(files);
    label(directory, &damaged, &faults)?;
    directory.sync()?;
    Ok((bytes, faults))
}

/// Says of what is damaged that it is: in its name, and in the manifest.
fn label(directory: &DumpDirectory, damaged: &[&Content], faults: &[String]) -> Result<(), RecoverError> {
    let mut renamed = Vec::new();
    for content in damaged {
        let name = &content.file.name;
        if name != MANIFEST && !name.ends_with(INCOMPLETE) {
            let label = format!("{name}{INCOMPLETE}");
            directory.rename(name, &label)?;
            renamed.push((name.clone(), label));
        }
    }
    if faults.is_empty() {
        return Ok(());
    }
    let Ok(mut file) = directory.open_file(MANIFEST) else { return Ok(()) };
    let mut text = Vec::new();
    let read = (&mut file).take(LONGEST_MANIFEST).read_to_end(&mut text);
    read.map_err(|e| failed("read", MANIFEST, e))?;
    // A manifest that is damaged itself says so by being none.
    let Ok(mut manifest) = serde_json::from_slice::<Manifest>(&text) else { return Ok(()) };
    for (name, label) in renamed {
        for dump in manifest.dumps.iter_mut().filter(|dump| dump.file == name) {
            dump.file.clone_from(&label);
            dump.complete = false;
        }
    }
    manifest.outcome = manifest.outcome.min(Outcome::Partial);
    for fault in faults {
        let message = format!("on the raw partition: {fault}");
        manifest.problems.push(Problem { code: Code::RAW_DAMAGED, message, times: 1 });
    }
    let mut text = serde_json::to_vec_pretty(&manifest).unwrap_or_default();
    text.push(b'\n');
    let len = u64::try_from(text.len()).unwrap_or(0);
    file.write_all_at(&text, 0)
        .and_then(|()| file.set_len(len))
        .and_then(|()| file.sync_all())
        .map_err(|e| failed("write", MANIFEST, e))
}

/// Gives the directory its name, durably.
fn publish(made: &Path, to: &Path, name: &str) -> Result<PathBuf, RecoverError> {
    for name in names(name) {
        let named = to.join(&name);
        match renameat2(AT_FDCWD, made, AT_FDCWD, &named, RenameFlags::RENAME_NOREPLACE) {
            Err(Errno::EEXIST | Errno::ENOTEMPTY) => {}
            // Not every file system can promise not to replace anything.
            Err(Errno::EINVAL) if fs::symlink_metadata(&named).is_ok() => {}
            Err(Errno::EINVAL) => {
                fs::rename(made, &named).map_err(|e| failed("rename", made.display(), e))?;
                return durable(to).map(|()| named);
            }
            Err(e) => return Err(failed("rename", made.display(), e.into())),
            Ok(()) => return durable(to).map(|()| named),
        }
    }
    Err(failed("rename", made.display(), Errno::EEXIST.into()))
}

fn durable(directory: &Path) -> Result<(), RecoverError> {
    File::open(directory).and_then(|d| d.sync_all()).map_err(|e| failed("sync", directory.display(), e))
}

/// Whether every file of `ours`, the manifest aside, is in `there` byte for byte: an earlier recovery was interrupted just
/// before its end, or another target of the ladder got the same log.
fn has_all(there: &Path, ours: &Path) -> bool {
    let Ok(entries) = fs::read_dir(ours) else { return false };
    fs::symlink_metadata(there).is_ok_and(|meta| meta.is_dir())
        && entries.filter_map(Result::ok).all(|entry| {
            let name = entry.file_name();
            name.to_string_lossy().starts_with(MANIFEST)
                || same(&entry.path(), &there.join(&name)).unwrap_or(false)
        })
}

fn same(a: &Path, b: &Path) -> io::Result<bool> {
    let meta = fs::symlink_metadata(b)?;
    let (mut a, len) = (File::open(a)?, fs::metadata(a)?.len());
    if !meta.is_file() || meta.len() != len {
        return Ok(false);
    }
    let mut b = File::open(b)?;
    let (mut one, mut other) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut left = len;
    while left > 0 {
        let n = usize::try_from(left.min(1 << 20)).map_err(io::Error::other)?;
        let (Some(one), Some(other)) = (one.get_mut(..n), other.get_mut(..n)) else { return Ok(false) };
        a.read_exact(one)?;
        b.read_exact(other)?;
        if one != other {
            return Ok(false);
        }
        left -= u64::try_from(n).map_err(io::Error::other)?;
    }
    Ok(true)
}

fn failed(doing: &'static str, what: impl std::fmt::Display, source: io::Error) -> RecoverError {
    RecoverError::Io { doing, what: what.to_string(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use collector::target::raw::{RawDump, prepare};
    use collector::target::store::Store;
    use std::os::unix::fs::MetadataExt;
    use tempfile::{NamedTempFile, TempDir, tempdir};

    const NAME: &str = "web1-20260101T000000Z";

    /// A partition with a dump, and where it is to go.
    fn crashed() -> (NamedTempFile, TempDir) {
        let disk = NamedTempFile::new().unwrap();
        disk.as_file().set_len(64 << 20).unwrap();
        prepare(disk.path(), [1; 16], 0).unwrap();
        write(disk.path(), true);
        (disk, tempdir().unwrap())
    }

    fn write(node: &Path, whole: bool) {
        let dump = RawDump::create(node, NAME).unwrap();
        dump.overwrite("vmcore-dmesg.txt", b"the log\n").unwrap();
        if whole {
            let sink = dump.create("vmcore-incomplete").unwrap();
            sink.write_at(collector::addr::FileOffset::new(3 << 20), &[9; 2 << 20]).unwrap();
            sink.finish().unwrap();
            drop(sink);
            dump.rename("vmcore-incomplete", "vmcore").unwrap();
        }
        dump.overwrite("manifest.json-incomplete", b"{}").unwrap();
        dump.rename("manifest.json-incomplete", "manifest.json").unwrap();
    }

    fn listing(path: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn once_and_private() {
        let (disk, to) = crashed();
        let crash = to.path().join("var/crash");
        let done = recover(disk.path(), &crash).unwrap();
        assert_eq!(done.len(), 1);
        assert_eq!((done[0].state, done[0].before, done[0].faults.len()), (State::Complete, false, 0));
        let dir = crash.join(NAME);
        assert_eq!(done[0].directory, dir);
        assert_eq!(listing(&crash), [NAME]);
        assert_eq!(listing(&dir), ["manifest.json", "vmcore", "vmcore-dmesg.txt"]);
        let vmcore = fs::read(dir.join("vmcore")).unwrap();
        assert_eq!(vmcore.len(), 5 << 20);
        assert!(vmcore[..3 << 20].iter().all(|b| *b == 0) && vmcore[3 << 20..].iter().all(|b| *b == 9));
        for (path, mode) in [(dir.clone(), 0o700), (dir.join("vmcore"), 0o600)] {
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, mode, "{}", path.display());
        }
        assert_eq!(recover(disk.path(), &crash).unwrap(), []);
        assert_eq!(listing(&crash), [NAME]);
        // The next crash.
        write(disk.path(), true);
        let again = recover(disk.path(), &crash).unwrap();
        assert!(again[0].before, "the same bytes are there: {again:?}");
    }

    #[test]
    fn interrupted_and_done_again() {
        let (disk, to) = crashed();
        // Killed while it copied.
        let half = to.path().join(format!(".{NAME}.recovering"));
        fs::create_dir(&half).unwrap();
        fs::write(half.join("vmcore"), "half").unwrap();
        // Somebody else's of the same name.
        fs::create_dir(to.path().join(NAME)).unwrap();
        fs::write(to.path().join(NAME).join("vmcore-dmesg.txt"), "another").unwrap();
        let before = fs::read(disk.path()).unwrap();
        let done = recover(disk.path(), to.path()).unwrap();
        assert_eq!(done[0].directory, to.path().join(format!("{NAME}-2")));
        // Killed just before the partition was told.
        fs::write(disk.path(), before).unwrap();
        let done = recover(disk.path(), to.path()).unwrap();
        assert!(done[0].before && done[0].directory.ends_with(format!("{NAME}-2")), "{done:?}");
        assert_eq!(listing(to.path()), [NAME.to_owned(), format!("{NAME}-2")]);
    }

    #[test]
    fn damage_is_labelled() {
        let (disk, to) = crashed();
        let first = Partition::open(disk.path(), true).unwrap().directory().files[1].from;
        disk.as_file().write_all_at(&[1], ((first + 2) << 20) + 700).unwrap();
        let done = recover(disk.path(), to.path()).unwrap();
        assert!(done[0].faults[0].contains("vmcore: 1 of"), "{done:?}");
        let names = listing(&to.path().join(NAME));
        assert_eq!(names, ["manifest.json", "vmcore-dmesg.txt", "vmcore-incomplete"]);
    }

    #[test]
    fn what_is_already_there_is_not_copied_twice() {
        let (disk, to) = crashed();
        recover(disk.path(), to.path()).unwrap();
        // The ladder's first rung has the dump, this one the log alone.
        write(disk.path(), false);
        let done = recover(disk.path(), to.path()).unwrap();
        assert!(done[0].before);
        assert_eq!(listing(to.path()), [NAME]);
    }

    #[test]
    fn what_is_no_target_is_refused() {
        let blank = NamedTempFile::new().unwrap();
        blank.as_file().set_len(32 << 20).unwrap();
        let to = tempdir().unwrap();
        let why = recover(blank.path(), to.path()).unwrap_err().to_string();
        assert!(why.contains("was not prepared"), "{why}");
    }
}

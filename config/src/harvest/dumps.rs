//! The dumps of a directory: what is in each, whose it is, and of when.

use super::places::Place;
use super::verdict::{TRIAGE, Verdict};
use collector::manifest::Manifest;
use initramfs::root::Root;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// A manifest that is longer was written by nobody we know.
const LONGEST_MANIFEST: u64 = 4 << 20;

/// What is looked at of a kernel log for the CPU that died: a panic is at its end.
const LOG_END: u64 = 256 << 10;

/// The manifest's name.
pub const MANIFEST: &str = "manifest.json";
/// The log's name.
pub const LOG: &str = "vmcore-dmesg.txt";

/// A dump's directory.
#[derive(Clone, Debug)]
pub struct Dump {
    /// On the running system.
    pub directory: PathBuf,
    /// Its place.
    pub place: Place,
    /// Its name, without the number of a second one of the same crash: `<host>-<time>`.
    pub key: String,
    /// Seconds since 1970 of the crash; of the directory where nothing says more.
    pub time: u64,
    /// What the collector said.
    pub manifest: Option<Manifest>,
    /// Why there is a manifest that cannot be used.
    pub fault: Option<String>,
    /// The dump: `vmcore`, or `vmcore-incomplete`.
    pub file: Option<PathBuf>,
    /// It has its final name.
    pub whole: bool,
    /// What the report on the crash says.
    pub verdict: Option<Verdict>,
    /// The kernel log, if it is not empty.
    pub log: Option<PathBuf>,
    /// Bytes of all files.
    pub bytes: u64,
    /// Bytes of the dump.
    pub dump_bytes: u64,
}

impl Dump {
    /// The CPU that the kernel died on, from its log.
    pub fn cpu(&self, root: &Root) -> Option<u32> {
        use std::io::{Seek, SeekFrom};
        let path = root.path(self.log.as_ref()?);
        let mut file = fs::File::open(path).ok()?;
        let length = file.metadata().ok()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_END))).ok()?;
        let mut end = Vec::new();
        file.take(LOG_END).read_to_end(&mut end).ok()?;
        cpu_of_log(&String::from_utf8_lossy(&end))
    }
}

/// The last `CPU: 3 PID: 123 Comm: …`, which the kernel prints with each stack.
fn cpu_of_log(log: &str) -> Option<u32> {
    let stacks = log.lines().rev().filter(|line| line.contains(" PID: "));
    let mut cpus =
        stacks.filter_map(|line| line.split_once("CPU: ")?.1.split_whitespace().next()?.parse().ok());
    cpus.next()
}

/// The dumps below a place, the oldest first.
pub fn read(place: &Place, root: &Root) -> Vec<Dump> {
    let names = root.list(&place.directory).unwrap_or_default();
    let visible = names.iter().filter(|name| !name.starts_with('.'));
    let mut dumps: Vec<Dump> = visible.filter_map(|name| one(place, name, root)).collect();
    dumps.sort_by(|a, b| (a.time, &a.directory).cmp(&(b.time, &b.directory)));
    dumps
}

fn one(place: &Place, name: &str, root: &Root) -> Option<Dump> {
    let directory = place.directory.join(name);
    let here = root.path(&directory);
    // A link might lead anywhere, and what is found may be removed one day.
    if !fs::symlink_metadata(&here).ok()?.is_dir() {
        return None;
    }
    let mut manifest = None;
    let mut fault = None;
    let mut candidates: Vec<(PathBuf, u64)> = Vec::new();
    let (mut log, mut bytes) = (None, 0_u64);
    let (mut ours, mut triage) = (false, None);
    for entry in fs::read_dir(&here).ok()?.flatten() {
        let Ok(meta) = entry.path().symlink_metadata() else { continue };
        if !meta.is_file() {
            continue;
        }
        let Ok(file) = entry.file_name().into_string() else { continue };
        bytes = bytes.saturating_add(meta.len());
        match file.as_str() {
            MANIFEST => match read_manifest(&entry.path()) {
                Ok(read) => manifest = Some(read),
                Err(why) => fault = Some(format!("{MANIFEST} cannot be used: {why}")),
            },
            TRIAGE => triage = Some(entry.path()),
            LOG => log = (meta.len() > 0).then(|| directory.join(LOG)),
            _ if file.starts_with("vmcore") => candidates.push((directory.join(&file), meta.len())),
            // kdump-tools writes `dump.<time>` and `dmesg.<time>`.
            _ if file.starts_with("dump.") => candidates.push((directory.join(&file), meta.len())),
            _ if file.starts_with("dmesg.") => log = log.or(Some(directory.join(&file))),
            _ => continue,
        }
        ours = true;
    }
    if !ours {
        return None;
    }
    let (key, named_time) = key_and_time(name);
    let modified = fs::metadata(&here).and_then(|meta| meta.modified()).ok();
    let modified = modified.and_then(|time| Some(time.duration_since(std::time::UNIX_EPOCH).ok()?.as_secs()));
    let told = manifest.as_ref().and_then(|manifest| manifest.kernel.crash_time);
    let time = told.or(named_time).or(modified).unwrap_or(0);
    let file = choose(&candidates, manifest.as_ref(), &directory);
    let dump_bytes = file
        .as_ref()
        .and_then(|file| candidates.iter().find(|(path, _)| path == file).map(|(_, length)| *length));
    let verdict = match manifest.as_ref().and_then(|manifest| manifest.triage.as_ref()) {
        Some(record) => Some(Verdict::of_record(record)),
        None => triage.and_then(|path| Verdict::read(&path)),
    };
    let whole = file.as_ref().is_some_and(|file| !file.to_string_lossy().ends_with("-incomplete"));
    Some(Dump {
        directory,
        place: place.clone(),
        key: key.to_owned(),
        time,
        manifest,
        fault,
        file,
        whole,
        verdict,
        log,
        bytes,
        dump_bytes: dump_bytes.unwrap_or(0),
    })
}

/// The dump proper among the files: the first of the manifest, else `vmcore`, else what there is.
fn choose(files: &[(PathBuf, u64)], manifest: Option<&Manifest>, directory: &Path) -> Option<PathBuf> {
    let first = manifest.and_then(|manifest| manifest.dumps.first()).map(|dump| directory.join(&dump.file));
    let named = |name: &str| Some(directory.join(name));
    for wanted in [first, named("vmcore"), named("vmcore-incomplete")].into_iter().flatten() {
        if files.iter().any(|(path, _)| *path == wanted) {
            return Some(wanted);
        }
    }
    files.iter().max_by_key(|(_, bytes)| *bytes).map(|(path, _)| path.clone())
}

fn read_manifest(path: &Path) -> Result<Manifest, String> {
    let mut text = Vec::new();
    let file = fs::File::open(path).map_err(|e| e.to_string())?;
    file.take(LONGEST_MANIFEST).read_to_end(&mut text).map_err(|e| e.to_string())?;
    serde_json::from_slice(&text).map_err(|e| e.to_string())
}

/// `h-20261122T124310Z-2` is another directory of the crash `h-20261122T124310Z`.
fn key_and_time(name: &str) -> (&str, Option<u64>) {
    let key = match name.rsplit_once('-') {
        Some((key, number)) if key.ends_with('Z') && number.parse::<u32>().is_ok() => key,
        _ => name,
    };
    (key, key.rsplit('-').next().and_then(collector::utc::parse_compact))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_the_crash() {
        for (name, key, time) in [
            ("db-1-20261122T124310Z", "db-1-20261122T124310Z", Some(1_795_351_390)),
            ("db-1-20261122T124310Z-2", "db-1-20261122T124310Z", Some(1_795_351_390)),
            ("127.0.0.1-2026-11-22-12:43:10", "127.0.0.1-2026-11-22-12:43:10", None),
            ("h-20261322T124310Z", "h-20261322T124310Z", None),
        ] {
            assert_eq!(key_and_time(name), (key, time));
        }
    }

    #[test]
    fn the_cpu_is_the_last_that_printed_a_stack() {
        let log = "[    1.0] CPU: 0 PID: 1 Comm: swapper\n[    9.0] CPU: 3 PID: 77 Comm: sh Not tainted\n[ 9.1] RIP\n";
        assert_eq!(cpu_of_log(log), Some(3));
        assert_eq!(cpu_of_log("CPU: x PID: 1"), None);
        assert_eq!(cpu_of_log("smp: CPU: 2 up"), None);
    }

    #[test]
    fn what_is_no_dump_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let crash = dir.path().join("var/crash");
        for (name, files) in [
            ("h-20261122T124310Z", &["vmcore", "vmcore-dmesg.txt"][..]),
            ("h-20261122T124311Z", &["vmcore-incomplete", "manifest.json"]),
            ("h-20261122T124312Z", &["vmcore-dmesg.txt"]),
            ("notes", &["readme"]),
            (".h.recovering", &["vmcore"]),
        ] {
            fs::create_dir_all(crash.join(name)).unwrap();
            for file in files {
                fs::write(crash.join(name).join(file), "x").unwrap();
            }
        }
        std::os::unix::fs::symlink(crash.join("h-20261122T124310Z"), crash.join("link")).unwrap();
        let place = Place { directory: "/var/crash".into(), target: "t".into(), rung: Some(0) };
        let found = read(&place, &Root::new(dir.path()));
        let seen: Vec<_> =
            found.iter().map(|d| (d.time, d.whole, d.file.is_some(), d.fault.is_some())).collect();
        assert_eq!(
            seen,
            [
                (1_795_351_390, true, true, false),
                (1_795_351_391, false, true, true),
                (1_795_351_392, false, false, false)
            ]
        );
    }
}

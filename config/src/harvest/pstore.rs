//! What the firmware kept of a crash: records of pstore, where the kernel shows them or systemd-pstore has moved them.

use initramfs::root::Root;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const KERNEL: &str = "/sys/fs/pstore";
/// Where systemd-pstore.service moves them to, early in each boot.
const SYSTEMD: &str = "/var/lib/systemd/pstore";

/// The most that is read of one record.
const LONGEST: u64 = 1 << 20;

/// Records that came to light in this boot, and the line that says why the kernel died.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Pstore {
    /// The files.
    pub files: Vec<PathBuf>,
    /// `Kernel panic - not syncing: …`
    pub reason: Option<String>,
}

/// Reads them. What was moved before this boot began is of earlier crashes.
pub fn read(root: &Root) -> Pstore {
    let mut files = list(KERNEL, root);
    let uptime = root.read_line("/proc/uptime").ok().flatten();
    let uptime = uptime.and_then(|text| text.split('.').next()?.parse().ok()).map(Duration::from_secs);
    if let Some(began) = uptime.and_then(|uptime| SystemTime::now().checked_sub(uptime)) {
        for directory in std::iter::once(SYSTEMD.to_owned()).chain(below(SYSTEMD, root)) {
            let new = list(&directory, root).into_iter().filter(|file| {
                // A file that is moved keeps its times, but not that of its inode.
                use std::os::unix::fs::MetadataExt;
                let changed = root.path(file).metadata().map_or(0, |meta| meta.ctime());
                u64::try_from(changed).is_ok_and(|c| SystemTime::UNIX_EPOCH + Duration::from_secs(c) >= began)
            });
            files.extend(new);
        }
    }
    let reason = files.iter().find_map(|file| reason(&root.path(file)));
    Pstore { files, reason }
}

fn list(directory: &str, root: &Root) -> Vec<PathBuf> {
    let names = root.list(directory).unwrap_or_default();
    let logs = names.into_iter().filter(|name| name.starts_with("dmesg"));
    logs.map(|name| Path::new(directory).join(name)).filter(|path| root.path(path).is_file()).collect()
}

/// Directories two deep: `<time>/<part>`.
fn below(directory: &str, root: &Root) -> Vec<String> {
    let children = |directory: &str| -> Vec<String> {
        let names = root.list(directory).unwrap_or_default();
        let paths = names.into_iter().map(|name| format!("{directory}/{name}"));
        paths.filter(|path| root.path(path).is_dir()).collect()
    };
    let first = children(directory);
    let second: Vec<String> = first.iter().flat_map(|path| children(path)).collect();
    [first, second].concat()
}

fn reason(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    std::fs::File::open(path).ok()?.take(LONGEST).read_to_end(&mut bytes).ok()?;
    reason_of(&String::from_utf8_lossy(&bytes))
}

/// The first line of a log that says why, without its time.
pub fn reason_of(log: &str) -> Option<String> {
    const SIGNS: [&str; 6] = [
        "Kernel panic - not syncing",
        "BUG: ",
        "Oops",
        "general protection fault",
        "sysrq: Trigger a crash",
        "Unable to handle kernel",
    ];
    let line = log.lines().find(|line| SIGNS.iter().any(|sign| line.contains(sign)))?;
    let text = line.rsplit_once("] ").map_or(line, |(_, text)| text);
    Some(super::verdict::printable(text, 300))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_tell_why() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        assert_eq!(read(&root), Pstore::default());
        let store = dir.path().join("sys/fs/pstore");
        std::fs::create_dir_all(&store).unwrap();
        let log = "Panic#1 Part1\n<4>[   12.3] x\n<0>[   12.4] Kernel panic - not syncing: Fatal\u{7}\n";
        std::fs::write(store.join("dmesg-efi-1"), log).unwrap();
        std::fs::write(store.join("console-ramoops-0"), log).unwrap();
        let moved = dir.path().join("var/lib/systemd/pstore/17/001");
        std::fs::create_dir_all(&moved).unwrap();
        std::fs::create_dir_all(dir.path().join("proc")).unwrap();
        std::fs::write(moved.join("dmesg.txt"), "x").unwrap();
        std::fs::write(dir.path().join("proc/uptime"), "100.5 1.0\n").unwrap();
        let found = read(&root);
        assert_eq!(found.reason.as_deref(), Some("Kernel panic - not syncing: Fatal"));
        assert_eq!(found.files.len(), 2, "{found:?}");
    }
}

//! Which dumps go when there are too many. Never the newest, and none before the newest is whole and durable.

use super::dumps::Dump;
use crate::settings::HarvestSettings;
use initramfs::root::Root;
use std::fs::File;
use std::io;
use std::path::PathBuf;

const DAY: u64 = 86_400;

/// What is to go, the oldest first; `dumps` are all that there are, `now` in seconds since 1970.
pub fn surplus<'a>(dumps: &'a [Dump], settings: &HarvestSettings, now: u64) -> Vec<&'a Dump> {
    let mut newest_first: Vec<&Dump> = dumps.iter().collect();
    newest_first.sort_by_key(|dump| std::cmp::Reverse((dump.time, dump.directory.clone())));
    // While the last crash has left nothing whole, the older ones are all that there is.
    let Some(newest) = newest_first.first().filter(|dump| dump.whole) else { return Vec::new() };
    let mut crashes: Vec<&str> = Vec::new();
    let (mut bytes, mut gone) = (0_u64, Vec::new());
    for dump in &newest_first {
        if !crashes.contains(&dump.key.as_str()) {
            crashes.push(&dump.key);
        }
        bytes = bytes.saturating_add(dump.bytes);
        let older = settings.keep_days.is_some_and(|days| dump.time.saturating_add(days * DAY) < now);
        let more = settings.keep.is_some_and(|keep| crashes.len() as u64 > keep.max(1));
        let larger = settings.keep_mib.is_some_and(|mib| bytes > mib.saturating_mul(1 << 20));
        // Of the newest crash all directories stay. What has no manifest is not ours, or of a crash that nobody understood.
        if dump.key != newest.key && dump.manifest.is_some() && (older || more || larger) {
            gone.push(*dump);
        }
    }
    gone.reverse();
    gone
}

/// Removes a dump's directory. Durable when it returns.
pub fn remove(dump: &Dump, root: &Root) -> io::Result<()> {
    let directory = root.path(&dump.directory);
    std::fs::remove_dir_all(&directory)?;
    let parent: PathBuf = directory.parent().map_or_else(|| "/".into(), Into::into);
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harvest::places::Place;
    use collector::manifest::{CrashedKernel, MANIFEST_VERSION, Manifest, Outcome};

    fn dump(name: &str, day: u64, mib: u64, whole: bool, ours: bool) -> Dump {
        let manifest = Manifest {
            triage: None,
            version: MANIFEST_VERSION,
            writer: String::new(),
            outcome: Outcome::Complete,
            host: String::new(),
            image: None,
            kernel: CrashedKernel::default(),
            dumps: Vec::new(),
            targets: Vec::new(),
            stages: Vec::new(),
            problems: Vec::new(),
            engine_peak_kib: None,
            mem_total_kib: None,
            mem_available_min_kib: None,
        };
        Dump {
            directory: name.into(),
            place: Place { directory: "/".into(), target: String::new(), rung: None },
            key: name.trim_end_matches("-2").to_owned(),
            time: day * DAY,
            manifest: ours.then_some(manifest),
            fault: None,
            file: None,
            verdict: None,
            whole,
            log: None,
            bytes: mib << 20,
            dump_bytes: 0,
        }
    }

    #[test]
    fn the_newest_stays() {
        let five = || {
            vec![
                dump("a", 1, 10, true, true),
                dump("b", 2, 10, true, true),
                dump("c", 3, 10, true, false),
                dump("d", 4, 10, true, true),
                dump("e", 5, 10, true, true),
                dump("e-2", 5, 10, false, true),
            ]
        };
        let none = HarvestSettings::default();
        let cases = [
            (none.clone(), &[][..]),
            (HarvestSettings { keep: Some(1), ..none.clone() }, &["a", "b", "d"]),
            (HarvestSettings { keep: Some(0), ..none.clone() }, &["a", "b", "d"]),
            (HarvestSettings { keep: Some(4), ..none.clone() }, &["a"]),
            (HarvestSettings { keep_days: Some(7), ..none.clone() }, &["a", "b"]),
            (HarvestSettings { keep_mib: Some(45), ..none.clone() }, &["a", "b"]),
            (HarvestSettings { keep_mib: Some(1), ..none.clone() }, &["a", "b", "d"]),
        ];
        for (settings, want) in cases {
            let mut dumps = five();
            // The other directory of the last crash is not whole; by its name it comes last.
            dumps.last_mut().unwrap().whole = true;
            let gone: Vec<_> = surplus(&dumps, &settings, 10 * DAY)
                .iter()
                .map(|d| d.directory.display().to_string())
                .collect();
            assert_eq!(gone, want, "{settings:?}");
        }
        let dumps = five();
        let all = HarvestSettings { keep: Some(1), ..none };
        assert!(surplus(&dumps, &all, 10 * DAY).is_empty(), "the last crash left nothing whole");
    }
}

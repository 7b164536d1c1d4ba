//! After the crash: finds what the last one left, says once what became of it, keeps count, and makes room.
//!
//! ```text
//! boots.json (armed, not shut down) --+
//! the plan's targets --places--> dumps +--> Record --> crashes.json, journal, label beside the dump, notify
//! /sys/fs/pstore --pstore-------------+               retention removes what is over
//! ```
//!
//! Killed at any moment, the next run goes on where this one was: a crash gets its number before it is told, and is asked for in
//! the journal before it is told again.

pub mod boots;
pub mod dumps;
pub mod journal;
pub mod list;
pub mod notify;
pub mod places;
pub mod proof;
pub mod pstore;
pub mod record;
pub mod retention;
pub mod verdict;

use crate::arm::{ArmError, boot_id, lock, write_json};
use crate::dump::verify::Report;
use crate::settings::Settings;
use boots::{Boot, Boots};
use collector::manifest::Outcome;
use dumps::Dump;
use initramfs::root::Root;
use places::Places;
use record::{Crashes, Integrity, Kind, Record, Status};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};
use verdict::printable;

/// Our finding, beside the dump.
const LABEL: &str = "harvest.json";

/// Clocks of a machine that crashes may be off by this many seconds: the dead kernel's and the hardware's.
const SLACK: u64 = 24 * 3600;

/// What a run has done.
#[derive(Debug, Default)]
pub struct Harvest {
    /// The crashes that were new, told now.
    pub new: Vec<Record>,
    /// Directories that were removed because there were too many.
    pub removed: Vec<PathBuf>,
    /// What went wrong without stopping it, a sentence each.
    pub faults: Vec<String>,
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs())
}

/// Does it all on the system at `root`; file systems are mounted and hooks run only where that is the `live` one.
pub fn harvest(settings: Option<&Settings>, root: &Root, live: bool) -> Result<Harvest, ArmError> {
    // Another run is waited for: it tells what we would tell.
    let _one = crate::arm::lock_named("harvest.lock", root)?;
    let ended = ended_boots(root)?;
    let mut done = Harvest::default();
    let mut crashes = Crashes::read(root)?;
    tell(&mut crashes, settings, root, live, &mut done)?;

    let last = ended.last().cloned().or_else(|| Boots::read(root).ok()?.boots.pop());
    let rungs = last.as_ref().map_or(&[][..], |boot| &boot.targets);
    let places = Places::of_plan(rungs, settings, root, live);
    done.faults.extend(places.faults.iter().cloned());
    let found: Vec<Dump> = places.places.iter().flat_map(|place| dumps::read(place, root)).collect();

    let first_run = crashes.last == 0 && crashes.foreign.is_empty();
    let mut fresh: Vec<Record> = Vec::new();
    let mut keys: Vec<&str> = Vec::new();
    for dump in &found {
        if keys.contains(&dump.key.as_str()) || crashes.crashes.iter().any(|record| record.key == dump.key) {
            continue;
        }
        keys.push(&dump.key);
        if dump.manifest.is_none() {
            // Of another tool, or from before: on the first run they are somebody else's history.
            let known = crashes.foreign.contains(&dump.directory);
            if known || (first_run && ended.is_empty()) {
                if !known {
                    crashes.foreign.push(dump.directory.clone());
                }
                continue;
            }
        }
        let same: Vec<&Dump> = found.iter().filter(|other| other.key == dump.key).collect();
        fresh.push(of_dumps(dump, &same, &ended, &places.away, settings, root));
    }
    let mut pstore = pstore::read(root);
    if let Some(record) = fresh.last_mut() {
        record.pstore = std::mem::take(&mut pstore.files);
        record.reason = record.reason.take().or(pstore.reason.take());
    }
    fresh.extend(without_dump(&ended, &fresh, &places, pstore));
    fresh.sort_by_key(|record| record.time.unwrap_or(u64::MAX));
    for mut record in fresh {
        crashes.last += 1;
        record.sequence = crashes.last;
        crashes.crashes.push(record);
    }
    crashes.write(root)?;
    // Only now are the boots forgotten: what they stand for has its number.
    forget(&ended, root)?;
    tell(&mut crashes, settings, root, live, &mut done)?;
    for record in &done.new {
        label(record, root, &mut done.faults);
        proof::keep(record, &ended, root)?;
    }
    if let Some(settings) = settings {
        for dump in retention::surplus(&found, &settings.harvest, now()) {
            match retention::remove(dump, root) {
                Ok(()) => done.removed.push(dump.directory.clone()),
                Err(e) => done.faults.push(format!("cannot remove {}: {e}", dump.directory.display())),
            }
        }
    }
    Ok(done)
}

/// Boots that were armed before this one.
fn ended_boots(root: &Root) -> Result<Vec<Boot>, ArmError> {
    let current = boot_id(root)?;
    Ok(Boots::read(root)?.boots.into_iter().filter(|boot| boot.id != current).collect())
}

fn forget(ended: &[Boot], root: &Root) -> Result<(), ArmError> {
    let _lock = lock(root)?;
    let mut boots = Boots::read(root)?;
    boots.boots.retain(|boot| !ended.iter().any(|gone| gone.id == boot.id));
    if ended.is_empty() { Ok(()) } else { boots.write(root) }
}

/// Tells what has a number and was not told.
fn tell(
    crashes: &mut Crashes,
    settings: Option<&Settings>,
    root: &Root,
    live: bool,
    done: &mut Harvest,
) -> Result<(), ArmError> {
    for index in 0..crashes.crashes.len() {
        let Some(record) = crashes.crashes.get(index).filter(|record| !record.told).cloned() else {
            continue;
        };
        if !(live && journal::has(record.sequence))
            && let Err(e) = journal::write(&record, root)
        {
            done.faults.push(format!("the journal takes no record: {e}"));
            // Without a journal it is told once all the same: on our standard output.
        }
        if live
            && let Some(program) = settings.and_then(|settings| settings.harvest.notify.as_ref())
            && let Err(why) = notify::notify(program, &record)
        {
            done.faults.push(format!("{program}: {why}"));
        }
        if let Some(record) = crashes.crashes.get_mut(index) {
            record.told = true;
            done.new.push(record.clone());
        }
        crashes.write(root)?;
    }
    Ok(())
}

/// A record of the directories of one crash; the best of them speaks for it.
/// `away`: targets that this machine cannot look at.
fn of_dumps(
    dump: &Dump,
    same: &[&Dump],
    ended: &[Boot],
    away: &[String],
    settings: Option<&Settings>,
    root: &Root,
) -> Record {
    let best = same.iter().max_by_key(|dump| (status(dump), std::cmp::Reverse(dump.place.rung)));
    let dump = best.copied().unwrap_or(dump);
    let mut status = status(dump);
    let mut faults: Vec<String> = dump.fault.iter().cloned().collect();
    // Every local disk gets the log, whichever target the dump goes to: with nothing but a log here, the dump may be where we
    // cannot look. What the manifest tells of a target is known.
    let tried = dump.manifest.as_ref().map_or(&[][..], |manifest| &manifest.targets);
    let open: Vec<&str> = away
        .iter()
        .filter(|target| !tried.iter().any(|record| record.target == **target))
        .map(String::as_str)
        .collect();
    if !open.is_empty() && status < Status::Complete {
        if status == Status::Partial {
            faults.push(format!("all of it may be on {}, where this machine cannot look", open.join(", ")));
        } else {
            status = Status::Elsewhere;
        }
    }
    let mut integrity = Integrity::Unverified;
    let wanted = settings.is_none_or(|settings| settings.harvest.verify);
    if let Some(file) = dump.file.as_ref().filter(|_| wanted) {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        match Report::read(&[root.path(file)], threads, &|_, _| ()) {
            Ok(report) if report.sound => integrity = Integrity::Sound,
            Ok(report) => {
                integrity = Integrity::Damaged;
                let pages = (report.damaged > 0 || report.missing > 0)
                    .then(|| format!("{} pages are damaged and {} missing", report.damaged, report.missing));
                faults.extend(pages);
                faults.extend(report.faults);
            }
            Err(why) => {
                integrity = Integrity::Damaged;
                faults.push(why);
            }
        }
    }
    let manifest = dump.manifest.as_ref();
    if manifest.is_none() && dump.fault.is_none() && status != Status::Elsewhere {
        faults.push("there is no manifest.json: the crash kernel did not come to its end".to_owned());
    }
    let problems = manifest.map_or(&[][..], |manifest| &manifest.problems);
    let error_code = match (problems.first(), status) {
        (Some(problem), _) => problem.code.to_string(),
        (None, Status::Complete) => "0".to_owned(),
        (None, Status::Elsewhere) => "elsewhere".to_owned(),
        (None, _) => "unfinished".to_owned(),
    };
    let image = manifest.and_then(|manifest| manifest.image.clone());
    let boot = boot_of(image.as_deref(), dump.time, ended);
    let kernel =
        manifest.map(|manifest| manifest.kernel.release.clone()).filter(|release| !release.is_empty());
    let log_reason = || {
        let log = root.read(dump.log.as_ref()?).ok()??;
        pstore::reason_of(&log)
    };
    Record {
        sequence: 0,
        key: dump.key.clone(),
        time: Some(dump.time),
        status,
        integrity,
        kind: match dump.place.rung {
            Some(0) => Kind::Primary,
            Some(_) => Kind::Secondary,
            // Found by its path alone: the directory of the settings is where dumps belong.
            None => Kind::Primary,
        },
        device: if status == Status::Elsewhere { open.join(", ") } else { dump.place.target.clone() },
        file: dump.file.clone().or_else(|| dump.log.clone()),
        directories: same.iter().map(|dump| dump.directory.clone()).collect(),
        bytes: dump.dump_bytes,
        kernel,
        reason: manifest
            .and_then(|manifest| Some(printable(manifest.kernel.panic_message.as_ref()?, 300)))
            .or_else(log_reason),
        verdict: dump.verdict.clone(),
        cpu: dump.cpu(root),
        error_code,
        faults,
        image,
        boot: boot.map(|boot| boot.id.clone()),
        test: boot.and_then(|boot| Some(boot.test.as_ref()?.id.clone())),
        seconds: manifest.and_then(|manifest| {
            let last = manifest.stages.last()?;
            Some(last.started_ms.saturating_add(last.took_ms).div_ceil(1000))
        }),
        pstore: Vec::new(),
        found: now(),
        told: false,
    }
}

fn status(dump: &Dump) -> Status {
    match (&dump.manifest, &dump.file, &dump.log) {
        (Some(manifest), ..) => match manifest.outcome {
            Outcome::Complete => Status::Complete,
            Outcome::Partial => Status::Partial,
            Outcome::DmesgOnly => Status::DmesgOnly,
            Outcome::Nothing => Status::Nothing,
        },
        (None, Some(_), _) if dump.whole => Status::Complete,
        (None, Some(_), _) if dump.dump_bytes > 0 => Status::Partial,
        (None, _, Some(_)) => Status::DmesgOnly,
        (None, _, None) => Status::Nothing,
    }
}

/// The boot that a dump is of: the one whose image ran, and that was armed before. One that crashed comes before one that was shut
/// down, in which nothing should have.
fn boot_of<'a>(image: Option<&str>, time: u64, ended: &'a [Boot]) -> Option<&'a Boot> {
    let fits = |boot: &&Boot| {
        image.is_none_or(|image| boot.image == image) && boot.armed <= time.saturating_add(SLACK)
    };
    let crashed = ended.iter().rev().filter(|boot| !boot.clean).find(fits);
    crashed.or_else(|| ended.iter().rev().find(fits))
}

/// Records of boots that ended without a shutdown and without a dump.
fn without_dump(
    ended: &[Boot],
    fresh: &[Record],
    places: &Places,
    mut pstore: pstore::Pstore,
) -> Vec<Record> {
    let mut records = Vec::new();
    for boot in ended.iter().rev() {
        if boot.clean || fresh.iter().any(|record| record.boot.as_deref() == Some(boot.id.as_str())) {
            continue;
        }
        // Of the last boot alone is it known what firmware has kept.
        let evidence = std::mem::take(&mut pstore);
        let away = !places.away.is_empty();
        records.push(Record {
            sequence: 0,
            key: format!("boot {}", boot.id),
            time: None,
            status: if away { Status::Elsewhere } else { Status::Missing },
            integrity: Integrity::Unverified,
            kind: Kind::None,
            device: if away {
                places.away.join(", ")
            } else {
                boot.targets.iter().map(|rung| rung.to.to_string()).collect::<Vec<_>>().join(", ")
            },
            file: None,
            directories: Vec::new(),
            bytes: 0,
            kernel: Some(boot.release.clone()),
            reason: evidence.reason,
            verdict: None,
            cpu: None,
            error_code: if away { "elsewhere" } else { "missing" }.to_owned(),
            faults: places.faults.clone(),
            image: Some(boot.image.clone()),
            boot: Some(boot.id.clone()),
            test: boot.test.as_ref().map(|test| test.id.clone()),
            seconds: None,
            pstore: evidence.files,
            found: now(),
            told: false,
        });
    }
    records
}

/// Our finding beside the dump, so that whoever looks at the directory alone knows it.
fn label(record: &Record, root: &Root, faults: &mut Vec<String>) {
    for directory in &record.directories {
        let Some(directory) = directory.to_str() else { continue };
        if let Err(e) = write_json(directory, LABEL, record, root) {
            faults.push(format!("{directory} gets no label: {}", crate::status::with_causes(&e)));
        }
    }
}

#[cfg(test)]
mod tests;

//! Checks of the targets: each is written to for real where that can be done.

use super::{List, Look, State, probe};
use crate::arm::Prepared;
use crate::estimate::Estimate;
use crate::harvest::places::Places;
use crate::settings::{Place as Written, Settings};
use crate::target::ssh::propagate;
use collector::plan::Target;
use initramfs::root::Root;
use std::path::{Path, PathBuf};

/// What one target has shown.
#[derive(Default)]
struct Seen {
    /// It cannot be used, and what to do.
    fault: Option<(String, &'static str)>,
    /// Writing failed.
    write: Option<String>,
    /// MB/s.
    speed: Option<f64>,
    /// Bytes free.
    free: Option<u64>,
    /// Why it was not written to.
    unwritten: Option<String>,
}

/// Looks at each; returns its speed in MB/s.
pub(super) fn targets(
    prepared: &Prepared,
    settings: &Settings,
    places: &Places,
    estimate: Option<&Estimate>,
    root: &Root,
    look: Look,
    list: &mut List,
) -> Vec<Option<f64>> {
    let rungs = &prepared.resolved.plan.targets;
    let ladder = settings.ladder();
    let mut speeds = Vec::new();
    let mut lines: [Vec<(State, String, String)>; 3] = Default::default();
    // A later rung that cannot be used leaves the others.
    let worst = |index: usize| if index == 0 { State::Failed } else { State::Degraded };
    for (index, rung) in rungs.iter().enumerate() {
        let name = rung.to.to_string();
        let seen = match (&rung.to, ladder.get(index).map(|target| &target.place)) {
            (Target::Local(_) | Target::Share(_), _) => directory(prepared, index, places, root, look),
            (Target::Ssh(_), Some(Written::Ssh(ssh))) if look.live && look.write => {
                match propagate::probe(ssh) {
                    Ok(speed) => Seen { speed: Some(speed), ..Seen::default() },
                    Err(why) => Seen { write: Some(format!("{why:#}")), ..Seen::default() },
                }
            }
            (Target::Ssh(_), _) => Seen { unwritten: Some("not logged in to".to_owned()), ..Seen::default() },
            (Target::Raw(_), _) => Seen { unwritten: Some("a raw partition".to_owned()), ..Seen::default() },
        };
        match &seen.fault {
            Some((why, remedy)) => {
                lines[0].push((worst(index), format!("{name}: {why}"), (*remedy).to_owned()));
            }
            None => lines[0].push((State::Ok, name.clone(), String::new())),
        }
        match (&seen.fault, &seen.write, seen.speed, &seen.unwritten) {
            (Some(_), ..) => {
                lines[1].push((State::Skipped, format!("{name}: it cannot be used"), String::new()));
            }
            (_, Some(why), ..) => lines[1].push((
                worst(index),
                format!("{name}: {why}"),
                "see to it that root can write there".to_owned(),
            )),
            (_, _, Some(speed), _) => {
                lines[1].push((State::Ok, format!("{name}: {speed:.0} MB/s"), String::new()));
            }
            (.., why) => lines[1].push((
                State::Skipped,
                format!("{name}: {}", why.as_deref().unwrap_or("not written to")),
                String::new(),
            )),
        }
        lines[2].push(space(&name, &seen, estimate, worst(index)));
        speeds.push(seen.speed);
    }
    for (check, lines) in ["target", "target-write", "target-space"].into_iter().zip(lines) {
        for (state, value, remedy) in lines {
            list.add(check, state, value, remedy);
        }
    }
    speeds
}

fn space(name: &str, seen: &Seen, estimate: Option<&Estimate>, worst: State) -> (State, String, String) {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    match (seen.free, estimate) {
        (Some(free), Some(estimate)) if free < estimate.bytes => (
            worst,
            format!("{name}: {} MiB free, about {} MiB needed", mib(free), mib(estimate.bytes)),
            "make room: `vmcorectl list`, `vmcorectl rm`, or `keep` in [harvest]".to_owned(),
        ),
        (Some(free), Some(estimate)) => {
            let value = format!("{name}: {} MiB free, about {} MiB needed", mib(free), mib(estimate.bytes));
            (State::Ok, value, String::new())
        }
        (Some(free), None) if free < probe::LEAST => {
            (worst, format!("{name}: full"), "make room: `vmcorectl list`, `vmcorectl rm`".to_owned())
        }
        (Some(free), None) => (
            State::Ok,
            format!("{name}: {} MiB free; the dump's size is not known", mib(free)),
            String::new(),
        ),
        (None, _) => (State::Skipped, format!("{name}: not looked at"), String::new()),
    }
}

/// A directory of a file system, mounted here or for the moment.
fn directory(prepared: &Prepared, index: usize, places: &Places, root: &Root, look: Look) -> Seen {
    let mut seen = Seen::default();
    if let Some(node) = prepared.resolved.nodes.get(index).and_then(Option::as_ref) {
        let name = node.strip_prefix("/dev").unwrap_or(node).to_string_lossy().replace('/', "!");
        let read_only = root.read_line(Path::new("/sys/class/block").join(name).join("ro"));
        if read_only.ok().flatten().as_deref() == Some("1") {
            let why = format!("{} is read-only", node.display());
            seen.fault = Some((why, "`blockdev --setrw`, or another target"));
            return seen;
        }
    }
    let Some(place) = places.places.iter().find(|place| place.rung == Some(index)) else {
        // Of this target, not of another rung.
        let name =
            prepared.resolved.plan.targets.get(index).map(|rung| rung.to.to_string()).unwrap_or_default();
        let why = places.faults.iter().find(|fault| {
            fault.strip_prefix(name.as_str()).is_some_and(|rest| rest.contains("cannot be mounted"))
        });
        match why {
            Some(why) => {
                // It is named beside this already.
                let why = why.strip_prefix(name.as_str()).unwrap_or(why).trim_start();
                seen.fault = Some((why.to_owned(), "mount it by hand to see why"));
            }
            None => seen.unwritten = Some("not mounted".to_owned()),
        }
        return seen;
    };
    let path = there(&root.path(&place.directory));
    if look.live
        && nix::sys::statvfs::statvfs(&path)
            .is_ok_and(|stat| stat.flags().contains(nix::sys::statvfs::FsFlags::ST_RDONLY))
    {
        let why = format!("{} is mounted read-only", place.directory.display());
        seen.fault = Some((why, "mount it read-write, and see in dmesg why it was not"));
        return seen;
    }
    seen.free = probe::free(&path).ok();
    let room = seen.free.map_or(probe::BYTES, |free| (free / 2).min(probe::BYTES));
    if room < probe::LEAST / 2 {
        seen.unwritten = Some("there is no room to write".to_owned());
    } else if look.write {
        match probe::write(&path, room) {
            Ok(speed) => seen.speed = Some(speed),
            // What a file system keeps for itself counts as free: it is full all the same.
            Err(e) if e.source.kind() == std::io::ErrorKind::StorageFull => {
                seen.free = Some(0);
                seen.unwritten = Some("there is no room to write".to_owned());
            }
            Err(e) => seen.write = Some(e.to_string()),
        }
    } else {
        seen.unwritten = Some("not asked to write".to_owned());
    }
    seen
}

/// The directory, or the one above it that the crash kernel makes it in.
fn there(path: &Path) -> PathBuf {
    path.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/")).to_owned()
}

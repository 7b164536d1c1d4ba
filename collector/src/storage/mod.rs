//! Putting together what a local target lies on: the layers between the disks and its file system.
//!
//! There is no udev, and none of lvm, mdadm, multipathd and cryptsetup. What they had found out is in the plan as a
//! [`Stack`]; here the disks are waited for, and the kernel is told of everything above them. Nothing is changed on a disk
//! but what md itself writes into the metadata of an array that runs.

mod array;
pub mod crypt;
mod disks;
pub mod mapper;
mod pool;

pub use disks::{find_all, partition_of};

use crate::engine::chain;
use crate::plan::DeviceId;
use crate::plan::storage::{Disk, Mapped, Multipath, Part, Place, Slice, Stack, To};
use crate::problem::Code;
use crate::target::{TargetError, identity};
use disks::Device;
use mapper::{Line, Mapper};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long members of an array, or ways to a disk, are waited for that it can do without.
const GRACE: Duration = Duration::from_secs(10);
/// How often partitions of an array are looked for, and how long.
const GLANCE: Duration = Duration::from_millis(25);
const PARTITIONS: Duration = Duration::from_secs(5);

/// Hears what went wrong without stopping anything.
type Say<'s> = &'s mut dyn FnMut(Code, String);

/// Waits for the disks and puts the stack together; the node of its last part, which holds `id`. Takes `limit` at most, as far as the
/// kernel lets it.
pub fn assemble(stack: &Stack, id: &DeviceId, limit: Duration, say: Say<'_>) -> Result<PathBuf, TargetError> {
    if !stack.is_sound() {
        return Err(TargetError::new("read the stack of", id.to_string(), io::ErrorKind::InvalidData));
    }
    let start = Instant::now();
    let mut patience = GRACE.min(limit / 2);
    loop {
        let gathered = disks::gather(stack, start, patience, limit)?;
        let over = start.elapsed() >= limit;
        match build(stack, &gathered.parts, say).and_then(|node| check(&node, id)) {
            Ok(node) => return Ok(node),
            Err(e) => {
                dismantle(stack);
                if gathered.complete || over {
                    say(Code::LAYER_FAILED, chain(&e));
                    return Err(e);
                }
                log::info!("{}; waiting for the rest", chain(&e));
                patience = limit;
            }
        }
    }
}

/// Takes apart what [`assemble`] has put together, as far as nobody uses it: another target may lie on the same.
pub fn dismantle(stack: &Stack) {
    let mapper = Mapper::open();
    for part in stack.0.iter().rev() {
        let done = match part {
            Part::Mapped(Mapped { name, .. }) | Part::Multipath(Multipath { name, .. }) => match &mapper {
                Ok(mapper) => mapper.remove(name),
                Err(e) => Err(io::Error::from(e.kind())),
            },
            Part::Array(array) => array::stop(array),
            Part::Disk(_) | Part::Slice(_) | Part::Pool(_) => Ok(()),
        };
        if let Err(e) = done {
            log::debug!("{part} stays: {e}");
        }
    }
}

/// Makes sure that it is what was meant before anybody writes to it.
fn check(device: &Device, id: &DeviceId) -> Result<PathBuf, TargetError> {
    let shown = device.node.display().to_string();
    let seen = identity::probe(&device.node).map_err(|e| TargetError::new("read", shown.clone(), e))?;
    let wrong = match id {
        DeviceId::Uuid(uuid) => !seen.uuid.as_ref().is_some_and(|seen| seen.eq_ignore_ascii_case(uuid)),
        DeviceId::Label(label) => seen.label.as_ref() != Some(label),
        DeviceId::PartUuid(_) | DeviceId::Path(_) => false,
    };
    if wrong {
        let what = seen.filesystem.unwrap_or_else(|| "nothing known".to_owned());
        let who = seen.uuid.map(|uuid| format!(" {uuid}")).unwrap_or_default();
        let why = io::Error::other(format!("what was put together ({shown}) holds {what}{who}"));
        return Err(TargetError::new("find", id.to_string(), why));
    }
    Ok(device.node.clone())
}

/// Builds everything above the disks.
fn build(stack: &Stack, found: &[Vec<Device>], say: Say<'_>) -> Result<Device, TargetError> {
    let mut mapper = None;
    let mut made: Vec<Option<Device>> = Vec::new();
    for (index, part) in stack.0.iter().enumerate() {
        let found = found.get(index).map(Vec::as_slice).unwrap_or_default();
        let device = match part {
            Part::Disk(disk) => found.first().cloned().ok_or_else(|| not_there(disk)),
            Part::Mapped(mapped) => map(mapped, &made, &mut mapper),
            Part::Multipath(paths) => multipath(paths, found, &mut mapper, say),
            Part::Array(array) => array::run(array, &members(&array.members, &made), say),
            Part::Slice(slice) => wait_for_slice(slice, &made),
            Part::Pool(pool) => pool::announce(&members(&pool.members, &made), pool.members.len(), say),
        };
        match device {
            Ok(device) => {
                log::info!("target: {part} is {}", device.node.display());
                made.push(Some(device));
            }
            Err(e) if stack.can_do_without(index) => {
                log::warn!("{}: going on without it", chain(&e));
                made.push(None);
            }
            Err(e) => return Err(e),
        }
    }
    let nothing = || TargetError::new("put together", "the stack", io::ErrorKind::NotFound);
    made.pop().flatten().ok_or_else(nothing)
}

fn not_there(disk: &Disk) -> TargetError {
    TargetError::new("find", disk.id.to_string(), io::ErrorKind::NotFound)
}

fn members<'m>(parts: &[usize], made: &'m [Option<Device>]) -> Vec<&'m Device> {
    parts.iter().filter_map(|part| made.get(*part)?.as_ref()).collect()
}

fn part_of(part: usize, made: &[Option<Device>]) -> Result<&Device, TargetError> {
    let missing = || TargetError::new("put together", format!("part {part}"), io::ErrorKind::NotFound);
    made.get(part).and_then(Option::as_ref).ok_or_else(missing)
}

fn opened(mapper: &mut Option<Mapper>) -> Result<&Mapper, TargetError> {
    match mapper {
        Some(mapper) => Ok(mapper),
        none => {
            let opened = Mapper::open().map_err(|e| TargetError::new("open", mapper::CONTROL, e))?;
            Ok(none.insert(opened))
        }
    }
}

fn map(mapped: &Mapped, made: &[Option<Device>], mapper: &mut Option<Mapper>) -> Result<Device, TargetError> {
    let at = |place: &Place| -> Result<String, TargetError> {
        Ok(format!("{} {}", part_of(place.part, made)?.number(), place.start))
    };
    let mut table = Vec::new();
    let mut start: u64 = 0;
    for segment in &mapped.table {
        let parameters = match &segment.to {
            To::Linear(place) => at(place)?,
            To::Striped { chunk, stripes } => {
                let places = stripes.iter().map(at).collect::<Result<Vec<_>, _>>()?;
                format!("{} {chunk} {}", stripes.len(), places.join(" "))
            }
            To::Error => String::new(),
            To::Crypt { cipher, key, iv_offset, place, options } => {
                crypt::restore()?;
                let mut text = format!("{cipher} {key} {iv_offset} {}", at(place)?);
                if !options.is_empty() {
                    text.push_str(&format!(" {} {}", options.len(), options.join(" ")));
                }
                text
            }
        };
        table.push(Line { start, sectors: segment.sectors, kind: segment.to.kind().to_owned(), parameters });
        start = start.saturating_add(segment.sectors);
    }
    make(opened(mapper)?, &mapped.name, &mapped.uuid, &table)
}

/// Each way is a group of its own, so that the kernel takes the next one when one fails, and asks nobody.
///
/// The order and weight that multipathd had found out are not known any more, and a disk that has to be told which way is to be
/// used is told so by the handler. Nothing is queued while there is no way: nobody would come to add one, and the dump would
/// stand still instead of going to the next target.
fn multipath(
    paths: &Multipath,
    found: &[Device],
    mapper: &mut Option<Mapper>,
    say: Say<'_>,
) -> Result<Device, TargetError> {
    if found.is_empty() {
        return Err(TargetError::new("find", paths.id.to_string(), io::ErrorKind::NotFound));
    }
    if found.len() < paths.paths {
        say(
            Code::PATHS_MISSING,
            format!("{} ({}): {} of {} ways are there", paths.name, paths.id, found.len(), paths.paths),
        );
    }
    let line = Line {
        start: 0,
        sectors: paths.sectors,
        kind: "multipath".to_owned(),
        parameters: ways(paths.handler.as_deref(), found),
    };
    make(opened(mapper)?, &paths.name, &paths.uuid, &[line])
}

/// The parameters of a multipath table: no features, the handler, the groups and which is first, each group with its selector.
fn ways(handler: Option<&str>, found: &[Device]) -> String {
    let handler = handler.map_or_else(|| "0".to_owned(), |handler| format!("1 {handler}"));
    let mut text = format!("0 {handler} {} 1", found.len());
    for way in found {
        text.push_str(&format!(" service-time 0 1 1 {} 1", way.number()));
    }
    text
}

fn make(mapper: &Mapper, name: &str, uuid: &str, table: &[Line]) -> Result<Device, TargetError> {
    let failed = |e: io::Error| TargetError::new("map", name, e);
    let number = match mapper.find(name).map_err(failed)? {
        Some(number) => number,
        None => mapper.make(name, uuid, table).map_err(failed)?,
    };
    Device::numbered(Path::new("/sys"), Path::new("/dev"), number).map_err(failed)
}

fn wait_for_slice(slice: &Slice, made: &[Option<Device>]) -> Result<Device, TargetError> {
    let whole = part_of(slice.part, made)?;
    let what = || format!("partition {} of {}", slice.number, whole.node.display());
    let start = Instant::now();
    loop {
        // The kernel reads the table when somebody opens the device for the first time.
        let opened = std::fs::File::open(&whole.node);
        let found = partition_of(Path::new("/sys"), &whole.name, slice.number);
        match found {
            Some(name) => {
                return Device::named(Path::new("/sys"), Path::new("/dev"), &name)
                    .map_err(|e| TargetError::new("open", what(), e));
            }
            None if start.elapsed() < PARTITIONS => std::thread::sleep(GLANCE),
            None => {
                let e = opened.err().unwrap_or_else(|| io::ErrorKind::NotFound.into());
                return Err(TargetError::new("find", what(), e));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_is_a_group() {
        let way = |minor| Device {
            name: "sdx".to_owned(),
            node: PathBuf::from("/dev/sdx"),
            number: (8, minor),
            sectors: 8,
        };
        for (handler, found, text) in [
            (None, vec![way(0)], "0 0 1 1 service-time 0 1 1 8:0 1"),
            (
                Some("alua"),
                vec![way(0), way(16)],
                "0 1 alua 2 1 service-time 0 1 1 8:0 1 service-time 0 1 1 8:16 1",
            ),
        ] {
            assert_eq!(ways(handler, &found), text);
        }
    }
}

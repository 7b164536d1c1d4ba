//! md arrays, by the ioctls of mdadm (include/uapi/linux/raid/md_u.h).

use super::Say;
use super::disks::Device;
use crate::plan::storage::Array;
use crate::problem::Code;
use crate::sys;
use crate::target::TargetError;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Makes an array of the name that is written to it.
const NEW_ARRAY: &str = "/sys/module/md_mod/parameters/new_array";

/// The kernel's name of an array in the crash kernel: letters and digits of its UUID behind what the kernel asks for.
fn name(array: &Array) -> String {
    let short = array.uuid.chars().filter(char::is_ascii_alphanumeric).take(20);
    format!("md_{}", short.collect::<String>())
}

/// Puts the array together from these members and starts it, for writing. Which of them are up to date md sees by itself; one
/// that is missing leaves it degraded.
///
/// An array that was being written to when the kernel died is dirty: md would begin to compare its members at once, and take the disks'
/// time from the dump. That is left to the next boot, which finds it as dirty as it is.
pub(super) fn run(array: &Array, members: &[&Device], say: Say<'_>) -> Result<Device, TargetError> {
    let name = name(array);
    let failed =
        |doing, e: io::Error| TargetError::new(doing, format!("array {} ({})", array.uuid, array.level), e);
    let (sys, dev) = (Path::new("/sys"), Path::new("/dev"));
    let state = sys.join("class/block").join(&name).join("md/array_state");
    if fs::read_to_string(&state).is_ok_and(|s| !matches!(s.trim(), "clear" | "inactive" | "")) {
        return Device::named(sys, dev, &name).map_err(|e| failed("open", e));
    }
    if !sys.join("class/block").join(&name).exists() {
        // Only names that begin with md_ are taken by every kernel since 2.6.29; they get a number of their own.
        fs::write(NEW_ARRAY, &name).map_err(|e| failed("make", e))?;
    }
    let node: PathBuf = dev.join(&name);
    let file = File::options().read(true).write(true).open(&node).map_err(|e| failed("open", e))?;
    let started = start(&file, array, members);
    drop(file);
    if let Err((doing, e)) = started {
        if let Err(e) = stop(array) {
            log::debug!("stopping {name}: {e}");
        }
        return Err(failed(doing, e));
    }
    if let Err(e) = fs::write(sys.join("class/block").join(&name).join("md/sync_action"), "frozen") {
        // A striped array has none.
        log::debug!("{name}: sync_action: {e}");
    }
    let number = |attribute: &str| -> Option<u64> {
        let text = fs::read_to_string(sys.join("class/block").join(&name).join("md").join(attribute));
        text.ok()?.split_whitespace().next()?.parse().ok()
    };
    match (number("degraded"), number("raid_disks")) {
        (Some(missing), Some(all)) if missing > 0 => say(
            Code::ARRAY_DEGRADED,
            format!("array {} ({}): {missing} of {all} members are missing", array.uuid, array.level),
        ),
        _ => {}
    }
    Device::named(sys, dev, &name).map_err(|e| failed("open", e))
}

fn start(file: &File, array: &Array, members: &[&Device]) -> Result<(), (&'static str, io::Error)> {
    // mdu_array_info_t: without a number of disks, md reads everything from the superblocks of the version that is named.
    let mut info = [0; 18];
    let (major, minor) = array.metadata;
    for (field, value) in info.iter_mut().zip([i32::from(major), i32::from(minor)]) {
        *field = value;
    }
    sys::md_set_array_info(file, &info).map_err(|e| ("set up", e))?;
    let mut added = 0;
    let mut last = None;
    for member in members {
        let number = |n: u32| i32::try_from(n).unwrap_or(-1);
        // mdu_disk_info_t: only the device's number counts.
        let disk = [0, number(member.number.0), number(member.number.1), 0, 0];
        match sys::md_add_new_disk(file, &disk) {
            Ok(()) => added += 1,
            // One whose superblock is old or torn; the others may do.
            Err(e) => {
                log::warn!("{} is not taken into array {}: {e}", member.node.display(), array.uuid);
                last = Some(e);
            }
        }
    }
    if added == 0 {
        return Err(("find a member of", last.unwrap_or_else(|| io::ErrorKind::NotFound.into())));
    }
    sys::md_run(file).map_err(|e| ("start", e))
}

/// Stops an array that nobody uses; its members are then marked clean.
pub(super) fn stop(array: &Array) -> io::Result<()> {
    let node = Path::new("/dev").join(name(array));
    match File::open(&node) {
        Ok(file) => sys::md_stop(&file),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_the_kernel_takes() {
        for (uuid, expected) in [
            ("5eed0000-7e57-4d15-8000-0000000000d1", "md_5eed00007e574d158000"),
            ("md127", "md_md127"),
            ("../..", "md_"),
        ] {
            let array =
                Array { uuid: uuid.to_owned(), level: String::new(), metadata: (1, 2), members: Vec::new() };
            assert_eq!(name(&array), expected);
        }
    }
}

//! A module's file: what it says about itself.

use std::path::Path;

use super::pattern::module_name;
use crate::{Error, compress, elf};

/// The parts of a module's `.modinfo` section that packing needs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct ModuleInfo {
    /// Firmware it may ask for, relative to /lib/firmware, perhaps with wildcards.
    pub(super) firmware: Vec<String>,
}

/// Reads the module `name` of kernel `release` and makes sure that this kernel would take it.
pub(super) fn inspect(path: &Path, name: &str, release: &str) -> Result<ModuleInfo, Error> {
    let bad =
        |reason: String| Error::BadModule { path: path.to_owned(), release: release.to_owned(), reason };
    let bytes = compress::read_file(path)?;
    let section = elf::section(&bytes, ".modinfo").map_err(|reason| bad(format!(".modinfo: {reason}")))?;
    let mut info = ModuleInfo::default();
    let mut vermagic = None;
    // Strings `key=value`, each ended by a zero.
    for record in section.split(|b| *b == 0) {
        let record = String::from_utf8_lossy(record);
        let Some((key, value)) = record.split_once('=') else { continue };
        match key {
            "firmware" => info.firmware.push(value.to_owned()),
            "vermagic" => vermagic = Some(value.to_owned()),
            // Kernels before 4.13 write none.
            "name" if module_name(value) != name => return Err(bad(format!("it calls itself {value:?}"))),
            _ => {}
        }
    }
    match vermagic {
        None => Err(bad("it has no vermagic".into())),
        // `6.1.0-56-amd64 SMP preempt mod_unload modversions`
        Some(magic) if magic.split(' ').next() == Some(release) => Ok(info),
        Some(magic) => Err(bad(format!("its vermagic is {magic:?}"))),
    }
}

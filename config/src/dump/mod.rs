//! Looking at dumps: `vmcorectl info` says what one is, `vmcorectl verify` whether it is whole, `triage`, `log` and `mem` what happened, [`ask`] what
//! was in its memory.

pub mod ask;
pub mod info;
pub mod report;
pub mod verify;

use collector::engine::chain;
use collector::input::{Input, InputError};
use std::path::PathBuf;

/// Opens a dump, or the parts of a split one; the error in one line.
fn open(files: &[PathBuf]) -> Result<Input, String> {
    Input::open(files).map_err(|e| {
        let hint = match &e {
            InputError::Open { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                ". A dump holds all of a machine's memory: try as root"
            }
            _ => "",
        };
        format!("{}{hint}", chain(&e))
    })
}

/// A file's size as people read it.
pub(crate) fn human(bytes: u64) -> String {
    match bytes {
        0..1_048_576 => format!("{} KiB", bytes.div_ceil(1024)),
        1_048_576..10_737_418_240 => format!("{} MiB", bytes >> 20),
        _ => format!("{} GiB", bytes >> 30),
    }
}

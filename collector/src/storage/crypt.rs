//! Volume keys of dm-crypt, which the dead kernel has put into the reservation.
//!
//! Since Linux commit 62f17d9df692 ("crash_dump: retrieve dm crypt keys in kdump kernel") (in v6.16) the crash kernel adds them to
//! root's keyring, as keys of type `user`, once it is told to.

use crate::target::TargetError;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use std::fs;
use std::io;
use std::path::Path;

/// What the kernel offers for it, in either kernel: entries to name keys in, or a switch to have them back.
pub const KEYS: &str = "/sys/kernel/config/crash_dm_crypt_keys";

/// Where configfs is mounted.
const CONFIGFS: &str = "/sys/kernel/config";

/// Has the kernel put the keys into the keyring. Doing so again does nothing.
pub(super) fn restore() -> Result<(), TargetError> {
    let failed = |e: io::Error| TargetError::new("restore volume keys by", KEYS, e);
    match mount(
        Some("configfs"),
        CONFIGFS,
        Some("configfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC,
        None::<&str>,
    ) {
        Ok(()) | Err(Errno::EBUSY) => {}
        Err(e) => return Err(failed(e.into())),
    }
    fs::write(Path::new(KEYS).join("restore"), "1").map_err(failed)
}

//! Command lines.

use crate::Bases;
use collector::byhand;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

/// The input is words, with NULs between them; the first is the program's name, and once more an operand of makedumpfile.
pub fn options(_: &Bases, data: &[u8]) {
    let words: Vec<OsString> =
        data.split(|byte| *byte == 0).map(|w| OsString::from_vec(w.to_vec())).collect();
    byhand::understands(words.iter().cloned());
    byhand::understands([OsString::from("makedumpfile")].into_iter().chain(words));
}

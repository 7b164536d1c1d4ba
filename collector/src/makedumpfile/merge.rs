//! One file out of a stream, or of several files.

use super::Failure;
use super::messages::Meter;
use super::options::{Options, To};
use super::output::{self, File};
use crate::engine::chain;
use crate::format::rearrange::{RearrangeError, rearrange as restore};
use crate::format::reassemble::reassemble as join;
use crate::format::{DumpSink, Nowhere};
use crate::input::Input;
use std::io;
use std::path::{Path, PathBuf};

/// `-R`: the dump that comes flattened from standard input.
pub(super) fn rearrange(options: &Options, out: &Path) -> Result<(), Failure> {
    let mut input = io::stdin().lock();
    written(options, out, |sink| {
        restore(&mut input, sink).map(drop).map_err(|e| {
            let hint = match &e {
                RearrangeError::Header(_) => ". It is not what makedumpfile -F wrote",
                _ => "",
            };
            format!("{}{hint}", chain(&e))
        })
    })
}

/// `--reassemble`: one dump of the parts of a split one. What a part does not have is missing, and the dump says so.
pub(super) fn reassemble(options: &Options, parts: &[PathBuf], out: &Path) -> Result<(), Failure> {
    output::check(options, &To::File(out.to_owned()))?;
    let input = Input::open(parts).map_err(|e| Failure::new(chain(&e)))?;
    let dump =
        input.kdump().ok_or_else(|| Failure::new("Only dumps in kdump-compressed format are split."))?;
    for complaint in input.source().complaints() {
        options.messages.error(&format!("{}: {}", complaint.code, complaint.message));
    }
    written(options, out, |sink| {
        let meter = Meter::new(options.messages);
        let done = join(dump, sink, &meter);
        meter.end();
        match done.map_err(|e| chain(&e))?.missing {
            0 => Ok(()),
            missing => Err(format!("{} is incomplete: {missing} pages are in no part.", out.display())),
        }
    })
}

/// Has `work` write the file `out`.
fn written(
    options: &Options,
    out: &Path,
    work: impl FnOnce(&dyn DumpSink) -> Result<(), String>,
) -> Result<(), Failure> {
    let to = To::File(out.to_owned());
    if options.dry_run {
        work(&Nowhere).map_err(Failure::new)?;
    } else {
        output::check(options, &to)?;
        let file = File::create(out, options)?;
        if let Err(why) = work(&file) {
            // Who has less than the whole wants to know that first.
            let full = file.full();
            return Err(file.failed(Failure::new(full.unwrap_or(why))));
        }
    }
    options.messages.common(&format!("\nThe dumpfile is saved to {}.", output::name(&to)));
    Ok(())
}

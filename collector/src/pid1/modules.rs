//! Kernel modules, in the plan's order.

use super::report::{Report, Reporter};
use crate::fault;
use crate::plan::Module;
use crate::problem::{Code, Problem};
use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use std::ffi::CString;
use std::fs::{self, File};
use std::io;

/// Loads each module and removes its file, so that its memory is free again. A failure does not stop the rest:
/// what looks required may be built in, and only the target's device decides. Returns what required ones
/// failed.
pub fn load_all(modules: &[Module], out: &Reporter) -> Result<(), String> {
    let mut failed = Vec::new();
    for module in modules {
        out.tell(&Report::Doing(format!("loading module {}", module.name)));
        fault::modules();
        match load(module) {
            Ok(()) => {}
            Err(e) if module.required => {
                let message = format!("required module {} ({}): {}", module.name, module.path, explained(&e));
                out.problem(&Problem { code: Code::MODULE_FAILED, message, times: 1 });
                failed.push(module.name.as_str());
            }
            Err(e) => log::debug!("optional module {}: {e}", module.name),
        }
        if let Err(e) = fs::remove_file(&module.path) {
            log::debug!("{}: {e}", module.path);
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("cannot load {}", failed.join(", "))) }
}

fn load(module: &Module) -> io::Result<()> {
    let file = File::open(&module.path)?;
    let options = CString::new(module.options.as_str())?;
    match finit_module(&file, &options, ModuleInitFlags::empty()) {
        // Loaded already, or built in.
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// What the error means here, where it means something else than it says.
fn explained(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOEXEC) => format!("{error}: it is not for this kernel, or damaged"),
        Some(libc::ENOENT) => format!("{error}: its file is missing, or a symbol it needs is"),
        Some(libc::ENODEV) => format!("{error}: there is no device for it"),
        _ => error.to_string(),
    }
}

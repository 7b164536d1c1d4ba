//! The fuzzer: one program, the target's name in `VMCORED_FUZZ`, the bases' directory in `VMCORED_FUZZ_BASES`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::path::Path;
use std::sync::OnceLock;
use vmcored_fuzz::{Bases, Target};

static CHOSEN: OnceLock<(Target, Bases)> = OnceLock::new();

fn chosen() -> &'static (Target, Bases) {
    CHOSEN.get_or_init(|| {
        let name = std::env::var("VMCORED_FUZZ").unwrap_or_default();
        let target = Target::named(&name).unwrap_or_else(|| panic!("VMCORED_FUZZ names no target: {name:?}"));
        let dir = std::env::var_os("VMCORED_FUZZ_BASES").unwrap_or_default();
        let bases = Bases::read(Path::new(&dir)).unwrap_or_else(|e| panic!("VMCORED_FUZZ_BASES: {e}"));
        (*target, bases)
    })
}

fuzz_target!(init: { chosen(); }, |data: &[u8]| {
    let (target, bases) = chosen();
    (target.run)(bases, data);
});

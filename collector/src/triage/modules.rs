//! Modules, and what they and their like have done to the kernel: taint.

use super::{Dead, Known};
use serde::Serialize;

/// A loaded module.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Module {
    /// Its name.
    pub name: String,
    /// Its `struct module`.
    #[serde(serialize_with = "crate::triage::hex")]
    pub at: u64,
    /// Where its code is.
    #[serde(serialize_with = "crate::triage::hex")]
    pub base: u64,
    /// Bytes of its code and data.
    pub size: u64,
    /// Taint that it brought, as letters: `OE` for one built out of tree and not signed.
    pub taint: String,
    /// It was not built with the kernel.
    pub out_of_tree: bool,
    /// Being loaded or unloaded.
    pub state: &'static str,
    /// MODULE_VERSION, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// Each bit's letter, and what it means, by bit (`TAINT_*`). Bits are added at the end; 19 since v6.16.
const TAINTS: [(char, &str); 20] = [
    ('P', "a proprietary module was loaded"),
    ('F', "a module was force-loaded"),
    ('S', "the CPUs are out of their specification"),
    ('R', "a module was force-unloaded"),
    ('M', "a machine check was reported"),
    ('B', "a bad page was found"),
    ('U', "user space asked for it"),
    ('D', "the kernel had died before: an oops or a BUG"),
    ('A', "an ACPI table was overridden"),
    ('W', "a warning was issued"),
    ('C', "a staging driver was loaded"),
    ('I', "a bug in the firmware was worked around"),
    ('O', "a module from out of tree was loaded"),
    ('E', "an unsigned module was loaded"),
    ('L', "a soft lockup had occurred"),
    ('K', "the kernel was live-patched"),
    ('X', "auxiliary, the distribution's own"),
    ('T', "structures are laid out at random"),
    ('N', "an in-kernel test was run"),
    ('J', "user space used a mutating debug operation of fwctl"),
];

/// The bit of TAINT_OOT_MODULE.
const OUT_OF_TREE: u64 = 1 << 12;

/// The letters of a taint; `#20` for a bit that has none.
pub fn taint_letters(taint: u64) -> String {
    let bits = (0..64_usize).filter(|bit| taint >> bit & 1 != 0);
    bits.map(|bit| TAINTS.get(bit).map_or_else(|| format!("#{bit}"), |(letter, _)| letter.to_string()))
        .collect()
}

/// What each bit of a taint means, with its letter.
pub fn taint_meanings(taint: u64) -> Vec<(char, &'static str)> {
    TAINTS.iter().enumerate().filter(|(bit, _)| taint >> bit & 1 != 0).map(|(_, meaning)| *meaning).collect()
}

impl Dead<'_> {
    /// The kernel's taint, a bit for each reason.
    pub fn taint(&self) -> Known<u64> {
        self.u64(self.symbol("tainted_mask")?)
    }

    /// All modules, the one that was loaded last first.
    pub fn modules(&self) -> Vec<Module> {
        let mut modules = Vec::new();
        for extent in self.module_extents() {
            let of = |path| self.get(extent.at, "module", path);
            let taint = of("taints").unwrap_or(0);
            let version = of("version").ok().filter(|at| *at != 0);
            modules.push(Module {
                name: extent.name.clone(),
                at: extent.at,
                base: extent.text.first().or(extent.all.first()).map_or(0, |range| range.start),
                size: extent.all.iter().map(|r| r.end.saturating_sub(r.start)).fold(0, u64::saturating_add),
                taint: taint_letters(taint),
                out_of_tree: taint & OUT_OF_TREE != 0,
                state: match of("state") {
                    Ok(1) => "loading",
                    Ok(2) => "unloading",
                    Ok(3) => "unformed",
                    _ => "live",
                },
                version: version.and_then(|at| self.cstring(at, 64).ok()),
            });
        }
        modules
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taint_has_letters() {
        assert_eq!(taint_letters(0), "");
        assert_eq!(taint_letters(1 | 1 << 7 | 1 << 12 | 1 << 13 | 1 << 40), "PDOE#40");
        assert_eq!(taint_meanings(1 << 9 | 1 << 50), [('W', "a warning was issued")]);
    }
}

//! Who the kernel was: `struct new_utsname` of the first UTS namespace.

use super::Kernel;
use crate::addr::VirtAddr;
use crate::problem::{Code, Problems};

/// Bytes of each string, its NUL included (`__NEW_UTS_LEN` + 1).
pub const FIELD: usize = 65;
/// sysname, nodename, release, version, machine, domainname.
pub const FIELDS: usize = 6;

/// The six strings, NUL-padded; zeros, and a problem, where they cannot be read.
pub(super) fn read(kernel: &Kernel<'_>, problems: &mut Problems) -> [[u8; FIELD]; FIELDS] {
    let mut fields = [[0; FIELD]; FIELDS];
    if let Err(why) = fill(kernel, fields.as_flattened_mut()) {
        fields = [[0; FIELD]; FIELDS];
        problems
            .push(Code::UTSNAME_UNREADABLE, format!("{why}: the dump does not say which kernel it is of"));
    }
    for field in &mut fields {
        // What follows a string's NUL is what an earlier, longer one left.
        let end = field.iter().position(|b| *b == 0).unwrap_or(FIELD - 1);
        field.iter_mut().skip(end).for_each(|b| *b = 0);
    }
    fields
}

fn fill(kernel: &Kernel<'_>, bytes: &mut [u8]) -> Result<(), String> {
    let at = place(kernel)?;
    kernel.read_virt(at, bytes).map_err(|e| format!("cannot read init_uts_ns: {e}"))
}

/// Where the first string is; the others follow.
pub(super) fn place(kernel: &Kernel<'_>) -> Result<VirtAddr, String> {
    let info = kernel.vmcore().info();
    let base = info.symbol("init_uts_ns").ok_or("VMCOREINFO has no key SYMBOL(init_uts_ns)")?;
    // Exported since Linux commit ca4a9241cc5e ("kdump: append uts_namespace.name offset to VMCOREINFO") (in v5.11),
    // which moved it; until then a 4-byte reference count was before it.
    let skip = info.offset("uts_namespace.name").unwrap_or(4);
    base.checked_add(skip).ok_or_else(|| format!("init_uts_ns at {base} cannot be"))
}

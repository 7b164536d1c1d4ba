//! What an entry of the table of addresses means.

use crate::addr::VirtAddr;
use crate::kernel::blob::Blob;
use crate::vmcore::ReadError;

/// The shapes there have been. Which one it is no kernel tells; symbols of known addresses do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Encoding {
    /// Addresses of 8 bytes. Until Linux commit 2213e9a66bb8 ("kallsyms: add support for relative offsets in kallsyms
    /// address table") (in v4.6), and without CONFIG_KALLSYMS_BASE_RELATIVE after it.
    Addresses,
    /// Offsets of 4 bytes: `base + offset`. The commit above, where there is no CONFIG_KALLSYMS_ABSOLUTE_PERCPU, and
    /// everywhere since Linux commit 01157ddc58dc2 ("kallsyms: Remove KALLSYMS_ABSOLUTE_PERCPU") (in v6.15).
    Relative(u64),
    /// Signed offsets: from 0 up they are addresses (of per-CPU variables), below 0 they are `base - 1 - offset`. The commit
    /// above with CONFIG_KALLSYMS_ABSOLUTE_PERCPU, which is x86-64 with CONFIG_SMP.
    AbsolutePercpu(u64),
    /// Signed offsets from the entry itself. Since Linux commit a081b5789255d ("kallsyms: Get rid of kallsyms relative base")
    /// (in v7.0).
    PlaceRelative,
}

impl Encoding {
    /// The encodings that are possible with a base, or without one.
    pub fn candidates(base: Option<u64>) -> Vec<Self> {
        match base {
            Some(base) => vec![Self::AbsolutePercpu(base), Self::Relative(base)],
            None => vec![Self::PlaceRelative, Self::Addresses],
        }
    }

    /// The address of a symbol.
    pub fn address(self, table: &Blob<'_>, index: u32) -> Result<VirtAddr, ReadError> {
        let offset = |size: u64| u64::from(index).saturating_mul(size);
        let signed = || Ok::<i64, ReadError>(i64::from(table.u32(offset(4))?.cast_signed()));
        Ok(VirtAddr::new(match self {
            Self::Addresses => table.u64(offset(8))?,
            Self::Relative(base) => base.wrapping_add(u64::from(table.u32(offset(4))?)),
            Self::AbsolutePercpu(base) => match signed()? {
                absolute @ 0.. => absolute.cast_unsigned(),
                below => base.wrapping_sub(1).wrapping_sub(below.cast_unsigned()),
            },
            Self::PlaceRelative => {
                let place = table.start().get().wrapping_add(offset(4));
                place.wrapping_add_signed(signed()?)
            }
        }))
    }
}

//! Decision: which pages are kept.

mod account;
mod bitmap;

pub use account::{Account, Reason};
pub use bitmap::Bitmap;

use crate::kernel::Kernel;
use crate::problem::Problems;
use crate::progress::Progress;

/// Filter level: bits 0..4 of makedumpfile's `-d`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Level(u8);

impl Level {
    /// Zero pages.
    pub const ZERO: u8 = 1;
    /// Cache pages without private data.
    pub const CACHE: u8 = 2;
    /// Cache pages, private data or not.
    pub const CACHE_PRIVATE: u8 = 4;
    /// User pages: anonymous and hugetlb.
    pub const USER: u8 = 8;
    /// Free pages.
    pub const FREE: u8 = 16;

    /// `None` above 31.
    pub const fn new(bits: u8) -> Option<Self> {
        if bits <= 31 { Some(Self(bits)) } else { None }
    }
    /// The bits.
    pub const fn bits(self) -> u8 {
        self.0
    }
    /// Whether all of `bits` are set.
    pub const fn has(self, bits: u8) -> bool {
        self.0 & bits == bits
    }
}

/// What the filter decided. Zero pages are found only when pages are read, so `keep` still has them and `account`
/// does not yet know them.
#[derive(Clone, Debug)]
pub struct Selection {
    /// Pages that the vmcore has.
    pub present: Bitmap,
    /// Pages to keep.
    pub keep: Bitmap,
    /// What was dropped, by reason.
    pub account: Account,
    /// The level that was applied; lower than asked where metadata is missing.
    pub level: Level,
}

/// Scans mem_map once and decides for each page. Fails open: what cannot be read or makes no sense is kept.
pub fn select(
    _kernel: &Kernel<'_>,
    _level: Level,
    _progress: &dyn Progress,
    _problems: &mut Problems,
) -> Selection {
    unimplemented!()
}

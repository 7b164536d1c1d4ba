//! Addresses as types: a number that is a pfn cannot be read as a physical address by accident.
//!
//! None of them has arithmetic operators; every step is a named, checked method. Debug and Display are `{:#x}`.

use std::fmt;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(u64);

        impl $name {
            /// Wraps a raw number.
            pub const fn new(raw: u64) -> Self {
                Self(raw)
            }
            /// The raw number.
            pub const fn get(self) -> u64 {
                self.0
            }
            /// `self + by`, or `None` past 2^64.
            pub const fn checked_add(self, by: u64) -> Option<Self> {
                match self.0.checked_add(by) {
                    Some(raw) => Some(Self(raw)),
                    None => None,
                }
            }
            /// `self - base` as a distance, or `None` when `base` is above.
            pub const fn offset_from(self, base: Self) -> Option<u64> {
                self.0.checked_sub(base.0)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

address!(
    /// A page frame number of the *crashed* kernel: a physical address divided by its page size.
    Pfn
);
address!(
    /// A physical address of the crashed kernel, in bytes.
    PhysAddr
);
address!(
    /// A virtual address of the crashed kernel.
    VirtAddr
);
address!(
    /// A position in a file, in bytes from its start.
    FileOffset
);

/// The crashed kernel's page size: a power of two from 4 KiB to 64 KiB, read from the vmcore, never assumed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageSize {
    shift: u32,
}

impl PageSize {
    /// `None` unless `bytes` is a power of two between 4 KiB and 64 KiB.
    pub const fn new(bytes: u64) -> Option<Self> {
        if bytes.is_power_of_two() && bytes >= 4096 && bytes <= 65536 {
            Some(Self { shift: bytes.trailing_zeros() })
        } else {
            None
        }
    }
    /// Bytes in a page.
    pub const fn bytes(self) -> u64 {
        1 << self.shift
    }
    /// Bytes in a page, for buffers.
    #[expect(clippy::len_without_is_empty, reason = "a page is never empty")]
    pub const fn len(self) -> usize {
        1 << self.shift
    }
    /// log2 of the size.
    pub const fn shift(self) -> u32 {
        self.shift
    }
    /// The page that holds `at`.
    pub const fn pfn_of(self, at: PhysAddr) -> Pfn {
        Pfn::new(at.get() >> self.shift)
    }
    /// The first pfn at or after `at`.
    pub const fn pfn_ceil(self, at: PhysAddr) -> Pfn {
        let whole = at.get() >> self.shift;
        let rest = at.get() & (self.bytes() - 1);
        Pfn::new(if rest == 0 { whole } else { whole + 1 })
    }
    /// The first byte of a page, or `None` when that is past 2^64.
    pub const fn addr_of(self, pfn: Pfn) -> Option<PhysAddr> {
        if pfn.get() >> (64 - self.shift) != 0 { None } else { Some(PhysAddr::new(pfn.get() << self.shift)) }
    }
}

//! Byte order as a run-time fact of the vmcore, never of the machine that reads it.

/// Byte order of the crashed kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Endian {
    /// Least significant byte first.
    Little,
    /// Most significant byte first.
    Big,
}

impl Endian {
    /// The `u16` at `at`; `None` past the end.
    #[inline]
    pub fn u16(self, bytes: &[u8], at: usize) -> Option<u16> {
        let raw = *bytes.get(at..)?.first_chunk()?;
        Some(match self {
            Self::Little => u16::from_le_bytes(raw),
            Self::Big => u16::from_be_bytes(raw),
        })
    }
    /// The `u32` at `at`; `None` past the end.
    #[inline]
    pub fn u32(self, bytes: &[u8], at: usize) -> Option<u32> {
        let raw = *bytes.get(at..)?.first_chunk()?;
        Some(match self {
            Self::Little => u32::from_le_bytes(raw),
            Self::Big => u32::from_be_bytes(raw),
        })
    }
    /// The `u64` at `at`; `None` past the end.
    #[inline]
    pub fn u64(self, bytes: &[u8], at: usize) -> Option<u64> {
        let raw = *bytes.get(at..)?.first_chunk()?;
        Some(match self {
            Self::Little => u64::from_le_bytes(raw),
            Self::Big => u64::from_be_bytes(raw),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_orders_and_stops_at_the_end() {
        let bytes = [1, 2, 3, 4, 5, 6, 7, 8, 9];
        assert_eq!(Endian::Little.u16(&bytes, 1), Some(0x0302));
        assert_eq!(Endian::Big.u16(&bytes, 1), Some(0x0203));
        assert_eq!(Endian::Little.u32(&bytes, 5), Some(0x0908_0706));
        assert_eq!(Endian::Big.u32(&bytes, 0), Some(0x0102_0304));
        assert_eq!(Endian::Little.u64(&bytes, 1), Some(0x0908_0706_0504_0302));
        assert_eq!(Endian::Little.u64(&bytes, 2), None);
        assert_eq!(Endian::Big.u32(&bytes, usize::MAX), None);
    }
}

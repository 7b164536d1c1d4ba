//! Byte order, for the builder and the readers.

/// Order of the bytes in a number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// Lowest first.
    Little,
    /// Highest first.
    Big,
}

impl Order {
    /// The lowest `len` bytes of a number.
    pub fn bytes(self, value: u64, len: usize) -> Vec<u8> {
        match self {
            Self::Little => value.to_le_bytes()[..len].to_vec(),
            Self::Big => value.to_be_bytes()[8 - len..].to_vec(),
        }
    }

    /// The number that at most eight bytes are.
    pub fn number(self, bytes: &[u8]) -> u64 {
        let fold = |all: u64, byte: &u8| all << 8 | u64::from(*byte);
        match self {
            Self::Little => bytes.iter().rev().fold(0, fold),
            Self::Big => bytes.iter().fold(0, fold),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_orders() {
        assert_eq!(Order::Little.bytes(0x1234, 2), [0x34, 0x12]);
        assert_eq!(Order::Big.bytes(0x1234, 4), [0, 0, 0x12, 0x34]);
        assert_eq!(Order::Little.number(&[0x34, 0x12, 0]), 0x1234);
        assert_eq!(Order::Big.number(&[1, 2]), 0x102);
    }
}

//! lzo1x, version 0 of the stream, as the Linux kernel's `Documentation/staging/lzo.rst` describes it; liblzo2 reads it.
//!
//! ```text
//! first byte     18..255          17 + n: n literals, n <= 238
//! 0000 LLLL      not after literals of a match: 3 + L literals, L = 0: 18 + 255 * (zero bytes) + (next byte)
//! 0000 DDSS  H   after 1 to 3 literals: 2 bytes from (H << 2) + D + 1
//! 0000 DDSS  H   after 4 or more literals: 3 bytes from (H << 2) + D + 2049
//! 0001 HLLL  DD  2 + L bytes from 16384 + (H << 14) + D; a distance of 16384 is the end
//! 001L LLLL  DD  2 + L bytes from D + 1
//! 01LD DDSS  H   3 + L bytes from (H << 3) + D + 1
//! 1LLD DDSS  H   5 + L bytes from (H << 3) + D + 1
//! ```
//!
//! `DD` is two bytes, little-endian: 14 bits of D, then SS. After each match SS literals follow. L = 0 of the two long
//! forms means more, as with literals, on top of 7 and 31.

mod decode;
mod encode;

pub use decode::decode;
pub use encode::Encoder;

/// The end of a stream: a far match at distance 16384, three bytes long.
const END: [u8; 3] = [0x11, 0, 0];

/// Most literals of the first byte.
const MAX_FIRST: usize = 238;

/// Longest match and farthest distance of the forms of two bytes.
const SHORT: (usize, usize) = (8, 1 << 11);

/// Longest match of the near form without more bytes of length, and its farthest distance.
const NEAR: (usize, usize) = (33, 1 << 14);

/// The same of the far form; the distance is one less than the format's, which a later version gave a meaning.
const FAR: (usize, usize) = (9, 0xbffe);

#[cfg(test)]
mod tests;

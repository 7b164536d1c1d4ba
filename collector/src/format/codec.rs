//! How a page's bytes are stored: each page its own frame, so that a reader opens any one alone.

use super::layout::Flags;
use crate::plan::Compression;
use std::io;
use zstd::bulk::{Compressor, Decompressor};

/// Compresses pages one by one; its context is made once.
///
/// zlib, lzo and snappy get their variants here, with their bits of [`Flags`].
pub enum Encoder {
    /// Pages as they are.
    Raw,
    /// zstd.
    Zstd(Compressor<'static>),
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Raw => "Raw",
            Self::Zstd(_) => "Zstd",
        })
    }
}

impl Encoder {
    /// An encoder; an error when the codec cannot have its memory.
    pub fn new(compression: Compression) -> io::Result<Self> {
        Ok(match compression {
            Compression::None => Self::Raw,
            Compression::Zstd(level) => Self::Zstd(Compressor::new(level)?),
        })
    }

    /// The bit of a compressed page's descriptor and of the header's status.
    pub fn flags(&self) -> Flags {
        match self {
            Self::Raw => Flags::RAW,
            Self::Zstd(_) => Flags::ZSTD,
        }
    }

    /// Room that [`Encoder::encode`] wants for a page of `len` bytes: never less than the page itself, and enough that a
    /// codec needs no check of its output's end.
    pub fn bound(&self, len: usize) -> usize {
        match self {
            Self::Raw => len,
            // ZSTD_COMPRESSBOUND: the input, 1/256 of it, and up to 64 bytes for small inputs.
            Self::Zstd(_) => len + len / 256 + 128,
        }
    }

    /// Compresses `page` to the start of `out` and returns the length, or `None` when that would not be shorter than the
    /// page (`out` is then scribbled on). Allocates nothing.
    pub fn encode(&mut self, page: &[u8], out: &mut [u8]) -> Option<usize> {
        match self {
            Self::Raw => None,
            // Through the context, as `compress_to_buffer` would allocate its errors.
            Self::Zstd(zstd) => zstd.context_mut().compress2(out, page).ok().filter(|len| *len < page.len()),
        }
    }
}

/// Decompresses pages.
pub struct Decoder {
    zstd: Decompressor<'static>,
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").finish_non_exhaustive()
    }
}

/// Why stored bytes are no page.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A codec that this reader has not.
    #[error("codec flags {0:#x} are not supported (only raw and zstd are)")]
    Codec(u32),
    /// The codec refused the bytes.
    #[error("{codec} refused {len} bytes: {why}")]
    Corrupt {
        /// Which codec.
        codec: &'static str,
        /// How many bytes it was given.
        len: usize,
        /// What it said.
        why: String,
    },
    /// Not a whole page.
    #[error("{got} bytes where a page of {want} was expected")]
    Length {
        /// Bytes that came out.
        got: usize,
        /// Bytes of a page.
        want: usize,
    },
}

impl Decoder {
    /// A decoder; an error when the codec cannot have its memory.
    pub fn new() -> io::Result<Self> {
        Ok(Self { zstd: Decompressor::new()? })
    }

    /// Fills `page` from what a descriptor with these flags points at.
    pub fn decode(&mut self, flags: Flags, stored: &[u8], page: &mut [u8]) -> Result<(), DecodeError> {
        let got = match flags {
            Flags::RAW => {
                if stored.len() == page.len() {
                    page.copy_from_slice(stored);
                }
                stored.len()
            }
            Flags::ZSTD => self
                .zstd
                .decompress_to_buffer(stored, page)
                .map_err(|e| DecodeError::Corrupt { codec: "zstd", len: stored.len(), why: e.to_string() })?,
            Flags(other) => return Err(DecodeError::Codec(other)),
        };
        if got == page.len() { Ok(()) } else { Err(DecodeError::Length { got, want: page.len() }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_comes_back_and_noise_stays_raw() {
        let mut text = vec![0_u8; 4096];
        text.iter_mut().enumerate().for_each(|(i, b)| *b = (i / 64).to_le_bytes()[0]);
        let mut noise = vec![0_u8; 4096];
        let mut x = 1_u64;
        for b in &mut noise {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *b = x.to_be_bytes()[0];
        }
        for level in [-7, 1, 3, 19] {
            let mut encoder = Encoder::new(Compression::Zstd(level)).unwrap();
            let mut out = vec![0; encoder.bound(4096)];
            for _ in 0..3 {
                assert_eq!(encoder.encode(&noise, &mut out), None);
                let len = encoder.encode(&text, &mut out).unwrap();
                assert!(len < 600, "level {level}: {len} bytes");
                let mut back = vec![0; 4096];
                Decoder::new().unwrap().decode(Flags::ZSTD, &out[..len], &mut back).unwrap();
                assert_eq!(back, text);
            }
        }
        assert!(zstd::zstd_safe::compress_bound(65536) <= Encoder::Zstd(Compressor::default()).bound(65536));
        assert!(zstd::zstd_safe::compress_bound(4096) <= Encoder::Zstd(Compressor::default()).bound(4096));
    }

    #[test]
    fn bad_bytes_are_refused() {
        let mut decoder = Decoder::new().unwrap();
        let mut page = vec![0; 4096];
        let short = zstd::bulk::compress(b"short", 1).unwrap();
        let long = zstd::bulk::compress(&vec![7; 8192], 1).unwrap();
        assert_eq!(
            decoder.decode(Flags::RAW, &[0; 5], &mut page),
            Err(DecodeError::Length { got: 5, want: 4096 })
        );
        assert_eq!(
            decoder.decode(Flags::ZSTD, &short, &mut page),
            Err(DecodeError::Length { got: 5, want: 4096 })
        );
        assert!(matches!(decoder.decode(Flags::ZSTD, &long, &mut page), Err(DecodeError::Corrupt { .. })));
        assert!(matches!(decoder.decode(Flags::ZSTD, b"junk", &mut page), Err(DecodeError::Corrupt { .. })));
        assert_eq!(decoder.decode(Flags(0x40), b"", &mut page), Err(DecodeError::Codec(0x40)));
    }
}

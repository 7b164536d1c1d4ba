//! How a page's bytes are stored: each page its own frame, so that a reader opens any one alone. And [`lz4`], which is
//! for whole streams.
//!
//! Flags: 0 as it is, 0x01 zlib, 0x02 lzo1x, 0x04 Snappy, 0x20 zstd. Readers go by each page's own flags: a page that does
//! not get shorter is stored as it is.

pub mod lz4;
mod lzo;
mod probe;
mod snappy;
mod zlib;
mod zstd;

use super::layout::Flags;
use crate::plan::Compression;
use probe::Probe;
use std::io;

/// Compresses pages one by one; its context is made once.
pub enum Encoder {
    /// Pages as they are.
    Raw,
    /// zlib.
    Zlib(libdeflater::Compressor, Probe),
    /// lzo1x.
    Lzo(lzo::Encoder),
    /// Snappy.
    Snappy(Box<snappy::Encoder>),
    /// zstd.
    Zstd(zstd::Encoder, Probe),
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Raw => "Raw",
            Self::Zlib(..) => "Zlib",
            Self::Lzo(_) => "Lzo",
            Self::Snappy(_) => "Snappy",
            Self::Zstd(..) => "Zstd",
        })
    }
}

impl Encoder {
    /// An encoder; an error when there is none for pages, or the codec cannot have its memory.
    pub fn new(compression: Compression) -> io::Result<Self> {
        Ok(match compression {
            Compression::None => Self::Raw,
            Compression::Zlib(level) => Self::Zlib(zlib::compressor(level)?, Probe::default()),
            Compression::Lzo => Self::Lzo(lzo::Encoder::default()),
            Compression::Snappy => Self::Snappy(Box::new(snappy::Encoder::new())),
            Compression::Zstd(level) => Self::Zstd(zstd::Encoder::new(level)?, Probe::default()),
            Compression::Lz4 => {
                return Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    "kdump-compressed has no LZ4: choose lzo or zstd, or the ELF format with lz4",
                ));
            }
        })
    }

    /// The bit of a compressed page's descriptor and of the header's status.
    pub fn flags(&self) -> Flags {
        match self {
            Self::Raw => Flags::RAW,
            Self::Zlib(..) => Flags::ZLIB,
            Self::Lzo(_) => Flags::LZO,
            Self::Snappy(_) => Flags::SNAPPY,
            Self::Zstd(..) => Flags::ZSTD,
        }
    }

    /// Room that [`Encoder::encode`] wants for a page of `len` bytes: never less than the page itself, and enough that a
    /// codec that checks its output's end only at the start has no reason to give up.
    pub fn bound(&self, len: usize) -> usize {
        match self {
            Self::Raw | Self::Zlib(..) | Self::Lzo(_) => len,
            Self::Snappy(_) => snap::raw::max_compress_len(len),
            // ZSTD_COMPRESSBOUND: the input, 1/256 of it, and up to 64 bytes for small inputs.
            Self::Zstd(..) => len + len / 256 + 128,
        }
    }

    /// Compresses `page` to the start of `out` and returns the length, or `None` when that would not be shorter than the
    /// page (`out` is then scribbled on). Allocates nothing.
    pub fn encode(&mut self, page: &[u8], out: &mut [u8]) -> Option<usize> {
        let shorter = page.len().checked_sub(1)?;
        match self {
            Self::Raw => None,
            // lzo and Snappy give up on noise as soon as a probe would.
            Self::Zlib(zlib, probe) => {
                let shorter = out.get_mut(..shorter)?;
                if probe.hopeless(page, shorter) { None } else { zlib::encode(zlib, page, shorter) }
            }
            Self::Lzo(lzo) => lzo.encode(page, out.get_mut(..shorter)?),
            Self::Snappy(snappy) => snappy.compress(page, out).ok(),
            Self::Zstd(zstd, probe) => {
                if probe.hopeless(page, out) {
                    None
                } else {
                    zstd.encode(page, out)
                }
            }
        }
        .filter(|len| *len <= shorter)
    }
}

/// Decompresses pages. A codec's context is made when the first page wants it.
#[derive(Default)]
pub struct Decoder {
    zlib: Option<libdeflater::Decompressor>,
    zstd: Option<::zstd::bulk::Decompressor<'static>>,
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").finish_non_exhaustive()
    }
}

/// Why stored bytes are no page.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Flags that name no codec, or several.
    #[error("{0:#x} names no codec: expected 0 (raw), 0x1 (zlib), 0x2 (lzo), 0x4 (snappy) or 0x20 (zstd)")]
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
    /// A decoder; an error when it cannot have its memory.
    pub fn new() -> io::Result<Self> {
        Ok(Self::default())
    }

    /// Fills `page` from what a descriptor with these flags points at. After an error the page is anything.
    pub fn decode(&mut self, flags: Flags, stored: &[u8], page: &mut [u8]) -> Result<(), DecodeError> {
        let want = page.len();
        let (codec, outcome) = match flags {
            Flags::RAW => {
                if stored.len() == page.len() {
                    page.copy_from_slice(stored);
                }
                ("raw", Ok(stored.len()))
            }
            Flags::ZLIB => ("zlib", zlib::decode(self.zlib.get_or_insert_default(), stored, page)),
            Flags::LZO => ("lzo", lzo::decode(stored, page).map_err(|e| e.to_string())),
            Flags::SNAPPY => ("snappy", snappy::decode(stored, page)),
            Flags::ZSTD => ("zstd", zstd::decode(&mut self.zstd, stored, page)),
            Flags(other) => return Err(DecodeError::Codec(other)),
        };
        match outcome {
            Ok(got) if got == want => Ok(()),
            Ok(got) => Err(DecodeError::Length { got, want }),
            Err(why) => Err(DecodeError::Corrupt { codec, len: stored.len(), why }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CODECS: [(Compression, Flags); 9] = [
        (Compression::Zlib(1), Flags::ZLIB),
        (Compression::Zlib(9), Flags::ZLIB),
        (Compression::Lzo, Flags::LZO),
        (Compression::Snappy, Flags::SNAPPY),
        (Compression::Zstd(-7), Flags::ZSTD),
        (Compression::Zstd(-1), Flags::ZSTD),
        (Compression::Zstd(1), Flags::ZSTD),
        (Compression::Zstd(3), Flags::ZSTD),
        (Compression::Zstd(19), Flags::ZSTD),
    ];

    fn noise(len: usize) -> Vec<u8> {
        let mut x = 1_u64;
        std::iter::repeat_with(|| {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            x.to_be_bytes()[0]
        })
        .take(len)
        .collect()
    }

    #[test]
    fn a_page_comes_back_and_noise_stays_raw() {
        for len in [4096_usize, 16384, 65536] {
            let text: Vec<u8> = (0..len).map(|i| (i / 64).to_le_bytes()[0]).collect();
            let noise = noise(len);
            for (how, flags) in CODECS {
                let mut encoder = Encoder::new(how).unwrap();
                assert_eq!(encoder.flags(), flags);
                let mut out = vec![0; encoder.bound(len)];
                let mut decoder = Decoder::new().unwrap();
                for _ in 0..3 {
                    assert_eq!(encoder.encode(&noise, &mut out), None, "{how}");
                    let stored = encoder.encode(&text, &mut out).unwrap();
                    assert!(stored < len / 6, "{how}: {stored} bytes of {len}");
                    let mut back = vec![0; len];
                    decoder.decode(flags, &out[..stored], &mut back).unwrap();
                    assert!(back == text, "{how}");
                }
            }
        }
        assert_eq!(Encoder::new(Compression::None).unwrap().encode(&[0; 4096], &mut [0; 4096]), None);
    }

    #[test]
    fn pages_have_no_lz4() {
        let e = Encoder::new(Compression::Lz4).unwrap_err();
        assert_eq!(
            e.to_string(),
            "kdump-compressed has no LZ4: choose lzo or zstd, or the ELF format with lz4"
        );
        assert!(Encoder::new(Compression::Zlib(12)).is_err());
    }

    #[test]
    fn bounds_are_enough() {
        for len in [4096, 16384, 65536] {
            let bound = |how| Encoder::new(how).unwrap().bound(len);
            assert!(::zstd::zstd_safe::compress_bound(len) <= bound(Compression::Zstd(1)));
            assert!(snap::raw::max_compress_len(len) <= bound(Compression::Snappy));
            assert!(CODECS.iter().all(|(how, _)| bound(*how) >= len));
        }
    }

    #[test]
    fn bad_bytes_are_refused() {
        let mut decoder = Decoder::new().unwrap();
        let mut page = vec![0; 4096];
        for (how, flags) in CODECS {
            let mut encoder = Encoder::new(how).unwrap();
            let mut out = vec![0; 20000];
            let len = encoder.encode(&[7; 4000], &mut out).unwrap();
            assert_eq!(
                decoder.decode(flags, &out[..len], &mut page),
                Err(DecodeError::Length { got: 4000, want: 4096 }),
                "{how}"
            );
            let len = encoder.encode(&[7; 8192], &mut out).unwrap();
            let stored = out[..len].to_vec();
            for bad in [&stored, &stored[..len - 1], &stored[1..], b"junk", &[][..]] {
                let outcome = decoder.decode(flags, bad, &mut page);
                assert!(
                    matches!(outcome, Err(DecodeError::Corrupt { .. } | DecodeError::Length { got: 0, .. })),
                    "{how}: {outcome:?}"
                );
            }
        }
        assert_eq!(
            decoder.decode(Flags::RAW, &[0; 5], &mut page),
            Err(DecodeError::Length { got: 5, want: 4096 })
        );
        assert_eq!(decoder.decode(Flags(0x40), b"", &mut page), Err(DecodeError::Codec(0x40)));
        assert_eq!(decoder.decode(Flags(0x03), b"", &mut page), Err(DecodeError::Codec(0x03)));
    }

    proptest! {
        /// Whatever is damaged, the outcome is a page or an error.
        #[test]
        fn damage_is_survived(
            which in 0..CODECS.len(),
            text in prop::collection::vec(0_u8..4, 4096),
            cut in 0_usize..4096,
            hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        ) {
            let (how, flags) = CODECS[which];
            let mut encoder = Encoder::new(how).unwrap();
            let mut out = vec![0; encoder.bound(4096)];
            let len = encoder.encode(&text, &mut out).unwrap();
            let mut stored = out[..len].to_vec();
            stored.truncate(cut.max(1));
            let whole = stored.clone();
            for (at, byte) in hits {
                let at = at.index(stored.len());
                stored[at] = byte;
            }
            let mut page = vec![0; 4096];
            let outcome = Decoder::new().unwrap().decode(flags, &stored, &mut page);
            if stored == whole && stored.len() == len {
                prop_assert_eq!(outcome, Ok(()));
                prop_assert!(page == text);
            }
        }
    }
}

//! Decoders of compressed pages that share nothing with the product's: zlib by miniz, lzo by [`crate::lzo_reader`], zstd by
//! the reference library, snappy from its format description.

/// Decodes a page of `len` bytes from what a page descriptor with `flags` points at.
pub fn decode(flags: u32, raw: Vec<u8>, len: usize) -> Result<Vec<u8>, String> {
    let page = match flags {
        0 => raw,
        0x01 => zlib(&raw, len)?,
        0x02 => crate::lzo_reader::decompress(&raw, len)?,
        0x04 => snappy(&raw, len).ok_or("snappy: damaged")?,
        0x20 => zstd::bulk::decompress(&raw, len).map_err(|e| format!("zstd: {e}"))?,
        other => return Err(format!("codec {other:#x} is beyond this reader")),
    };
    if page.len() == len { Ok(page) } else { Err(format!("decoded to {} bytes", page.len())) }
}

fn zlib(raw: &[u8], len: usize) -> Result<Vec<u8>, String> {
    use flate2::{Decompress, FlushDecompress, Status};
    let mut page = Vec::with_capacity(len);
    let mut stream = Decompress::new(true);
    let status = stream.decompress_vec(raw, &mut page, FlushDecompress::Finish);
    match status.map_err(|e| format!("zlib: {e}"))? {
        Status::StreamEnd if stream.total_in() == raw.len() as u64 => Ok(page),
        other => Err(format!("zlib: {other:?} after {} of {} bytes", stream.total_in(), raw.len())),
    }
}

/// Snappy's raw format: the length as a varint, then literals and copies. `None` for what is not that, or is longer than
/// `limit`.
fn snappy(raw: &[u8], limit: usize) -> Option<Vec<u8>> {
    let mut input = raw.iter().copied();
    let number = |bytes: usize, input: &mut dyn Iterator<Item = u8>| -> Option<usize> {
        (0..bytes).try_fold(0, |n, at| Some(n | usize::from(input.next()?) << (8 * at)))
    };
    let mut len = 0;
    for shift in (0..).step_by(7).take(5) {
        let byte = input.next()?;
        len |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    if len > limit {
        return None;
    }
    let mut out: Vec<u8> = Vec::with_capacity(len);
    while let Some(tag) = input.next() {
        let high = usize::from(tag >> 2);
        let (count, back) = match tag & 3 {
            0 => {
                let count = if high < 60 { high } else { number(high - 59, &mut input)? } + 1;
                out.extend(input.by_ref().take(count.min(limit + 1)));
                (0, 0)
            }
            1 => ((high & 7) + 4, (high >> 3) << 8 | number(1, &mut input)?),
            2 => (high + 1, number(2, &mut input)?),
            _ => (high + 1, number(4, &mut input)?),
        };
        for _ in 0..count {
            // A copy may reach into what it writes itself.
            out.push(*out.get(out.len().checked_sub(back).filter(|_| back > 0)?)?);
        }
        if out.len() > len {
            return None;
        }
    }
    (out.len() == len).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_streams() {
        let cases: &[(u32, &[u8], &[u8])] = &[
            // A literal of 4, then a copy of 12 from 4 back: the second by each form of copy.
            (0x04, b"\x10\x0cabcd\x2e\x04\x00", b"abcdabcdabcdabcd"),
            (0x04, b"\x0c\x0cabcd\x11\x04", b"abcdabcdabcd"),
            (0x04, b"\x08\x0cabcd\x0f\x04\0\0\0", b"abcdabcd"),
            (0x04, b"\x06\xf0\x05abcdef", b"abcdef"),
            // A literal of 4, the end mark.
            (0x02, b"\x15abcd\x11\0\0", b"abcd"),
            (0x01, b"\x78\x01\x01\x04\0\xfb\xffabcd\x03\xd8\x01\x8b", b"abcd"),
        ];
        for (flags, raw, want) in cases {
            assert_eq!(decode(*flags, raw.to_vec(), want.len()).as_deref(), Ok(*want), "{flags:#x} {raw:x?}");
            assert!(decode(*flags, raw[..raw.len() - 1].to_vec(), want.len()).is_err(), "{flags:#x}: cut");
            assert!(decode(*flags, raw.to_vec(), want.len() - 1).is_err(), "{flags:#x}: another length");
        }
        assert_eq!(snappy(b"\x04\x0f\x01\0\0\0", 4), None, "a copy from before the start");
        assert_eq!(snappy(b"\x04\x0cabcd\x01\0", 8), None, "a copy from nowhere");
    }
}

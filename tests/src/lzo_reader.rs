//! An oracle for lzo1x: decompresses a stream as the kernel's Documentation/staging/lzo.rst describes it, with nothing of the
//! product's code.

/// Where a stream is read.
struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Input<'_> {
    fn byte(&mut self) -> Result<usize, String> {
        let byte = self.bytes.get(self.at).ok_or_else(|| format!("lzo: it ends at {}", self.at))?;
        self.at += 1;
        Ok(usize::from(*byte))
    }

    /// Low byte first.
    fn pair(&mut self) -> Result<usize, String> {
        Ok(self.byte()? | self.byte()? << 8)
    }

    /// A length: `short`, or when that is 0, `base`, 255 for each byte 0, and the byte that ends them.
    fn length(&mut self, short: usize, base: usize) -> Result<usize, String> {
        if short > 0 {
            return Ok(short);
        }
        let mut len = base;
        loop {
            match self.byte()? {
                0 => len += 255,
                last => return Ok(len + last),
            }
        }
    }
}

/// Decompresses a stream that must come to no more than `limit` bytes, and must end with its end mark and nothing after it.
pub fn decompress(stream: &[u8], limit: usize) -> Result<Vec<u8>, String> {
    let mut input = Input { bytes: stream, at: 0 };
    let mut out: Vec<u8> = Vec::new();
    // How many literals the last instruction copied; 4 means 4 or more.
    let mut state = 0;
    let first = stream.first().copied().map_or(0, usize::from);
    if first > 17 {
        input.at = 1;
        let literals = first - 17;
        literal(&mut input, &mut out, literals, limit)?;
        state = literals.min(4);
    }
    loop {
        let code = input.byte()?;
        let (len, distance, trailing) = match code {
            64.. => {
                let distance = (input.byte()? << 3) + (code >> 2 & 7) + 1;
                ((code >> 5) + 1, distance, code & 3)
            }
            32..=63 => {
                let len = input.length(code & 31, 31)? + 2;
                let pair = input.pair()?;
                (len, (pair >> 2) + 1, pair & 3)
            }
            16..=31 => {
                let len = input.length(code & 7, 7)? + 2;
                let pair = input.pair()?;
                let distance = 16384 + ((code & 8) << 11) + (pair >> 2);
                if distance == 16384 {
                    if len != 3 || input.at != stream.len() {
                        return Err(format!("lzo: an end mark at {} of {}", input.at, stream.len()));
                    }
                    return Ok(out);
                }
                (len, distance, pair & 3)
            }
            _ if state == 0 => {
                let literals = input.length(code, 15)? + 3;
                literal(&mut input, &mut out, literals, limit)?;
                state = 4;
                continue;
            }
            _ => {
                let (len, base) = if state == 4 { (3, 2049) } else { (2, 1) };
                let distance = (input.byte()? << 2) + (code >> 2) + base;
                (len, distance, code & 3)
            }
        };
        let from = out.len().checked_sub(distance).ok_or("lzo: a match before the start")?;
        if out.len() + len > limit {
            return Err("lzo: more than a page".to_owned());
        }
        for at in from..from + len {
            out.push(out[at]);
        }
        literal(&mut input, &mut out, trailing, limit)?;
        state = trailing;
    }
}

fn literal(input: &mut Input<'_>, out: &mut Vec<u8>, len: usize, limit: usize) -> Result<(), String> {
    let bytes = input.bytes.get(input.at..input.at + len).ok_or("lzo: literals past the end")?;
    if out.len() + len > limit {
        return Err("lzo: more than a page".to_owned());
    }
    out.extend(bytes);
    input.at += len;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions() {
        // 4 literals, a match of 6 bytes 4 back, the end mark.
        let stream = [21, b'a', b'b', b'c', b'd', 36, 12, 0, 17, 0, 0];
        assert_eq!(decompress(&stream, 4096).unwrap(), b"abcdabcdab");
        assert!(decompress(&stream, 9).is_err());
        for end in 0..stream.len() {
            assert!(decompress(&stream[..end], 4096).is_err(), "{end}");
        }
    }
}

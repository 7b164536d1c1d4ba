//! The decoder: for any bytes at all it ends, and writes nothing but the page.

/// Why bytes are no lzo1x stream of the expected length.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// The stream has no end.
    #[error("it ends at byte {0}, in the middle")]
    Truncated(usize),
    /// More comes out than fits.
    #[error("more than a page comes out, at byte {0}")]
    Overrun(usize),
    /// A match from before the start.
    #[error("at byte {0} it refers to what is before the page")]
    Distance(usize),
    /// Bytes after the end.
    #[error("{0} bytes follow its end")]
    Trailing(usize),
}

/// Decompresses `stream` into `page` and returns how many bytes came out.
pub fn decode(stream: &[u8], page: &mut [u8]) -> Result<usize, Error> {
    let mut input = Input { bytes: stream, at: 0 };
    let mut out = Output { page, len: 0 };
    // How many literals came last: 0 to 3 after a match, 4 for a run of them.
    let mut state = 0;
    if let Some(count) = stream.first().and_then(|b| b.checked_sub(17)).filter(|c| *c > 0) {
        input.at = 1;
        out.literals(&mut input, count.into())?;
        state = if count < 4 { usize::from(count) } else { 4 };
    }
    loop {
        let op = usize::from(input.byte()?);
        let (distance, len, literals);
        match op {
            0..16 if state == 0 => {
                let count = 3 + input.len(op, 15)?;
                out.literals(&mut input, count)?;
                state = 4;
                continue;
            }
            0..16 => {
                let high = usize::from(input.byte()?) << 2;
                literals = op & 3;
                (distance, len) = match state {
                    4 => (high + (op >> 2) + 2049, 3),
                    _ => (high + (op >> 2) + 1, 2),
                };
            }
            16..32 => {
                len = 2 + input.len(op & 7, 7)?;
                let word = input.word()?;
                distance = 0x4000 + ((op & 8) << 11) + (word >> 2);
                literals = word & 3;
                if distance == 0x4000 {
                    if len != 3 {
                        return Err(Error::Distance(input.at));
                    }
                    return match stream.len() - input.at {
                        0 => Ok(out.len),
                        more => Err(Error::Trailing(more)),
                    };
                }
            }
            32..64 => {
                len = 2 + input.len(op & 31, 31)?;
                let word = input.word()?;
                distance = (word >> 2) + 1;
                literals = word & 3;
            }
            _ => {
                distance = (usize::from(input.byte()?) << 3) + ((op >> 2) & 7) + 1;
                len = (op >> 5) + 1;
                literals = op & 3;
            }
        }
        out.copy(distance, len, input.at)?;
        out.literals(&mut input, literals)?;
        state = literals;
    }
}

struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Input<'_> {
    fn byte(&mut self) -> Result<u8, Error> {
        let byte = self.bytes.get(self.at).ok_or(Error::Truncated(self.at))?;
        self.at += 1;
        Ok(*byte)
    }

    fn word(&mut self) -> Result<usize, Error> {
        Ok(u16::from_le_bytes([self.byte()?, self.byte()?]).into())
    }

    /// A length: the instruction's bits, or with all of them 0, `most` and what the next bytes add. It is no larger than 255
    /// times the stream.
    fn len(&mut self, bits: usize, most: usize) -> Result<usize, Error> {
        if bits != 0 {
            return Ok(bits);
        }
        let mut len = most;
        loop {
            match self.byte()? {
                0 => len += 255,
                last => return Ok(len + usize::from(last)),
            }
        }
    }
}

struct Output<'a> {
    page: &'a mut [u8],
    len: usize,
}

impl Output<'_> {
    fn literals(&mut self, input: &mut Input<'_>, count: usize) -> Result<(), Error> {
        let from = input
            .bytes
            .get(input.at..)
            .and_then(|b| b.get(..count))
            .ok_or(Error::Truncated(input.bytes.len()))?;
        let to =
            self.page.get_mut(self.len..).and_then(|p| p.get_mut(..count)).ok_or(Error::Overrun(input.at))?;
        to.copy_from_slice(from);
        input.at += count;
        self.len += count;
        Ok(())
    }

    fn copy(&mut self, distance: usize, len: usize, at: usize) -> Result<(), Error> {
        let start = self.len.checked_sub(distance).ok_or(Error::Distance(at))?;
        let (before, to) = self.page.split_at_mut_checked(self.len).ok_or(Error::Overrun(at))?;
        let to = to.get_mut(..len).ok_or(Error::Overrun(at))?;
        if distance >= len {
            to.copy_from_slice(before.get(start..start + len).ok_or(Error::Distance(at))?);
        } else {
            // The match overlaps what it makes: the last `distance` bytes, again and again.
            let pattern = before.get(start..).ok_or(Error::Distance(at))?;
            for chunk in to.chunks_mut(distance) {
                chunk.copy_from_slice(pattern.get(..chunk.len()).unwrap_or_default());
            }
        }
        self.len += len;
        Ok(())
    }
}

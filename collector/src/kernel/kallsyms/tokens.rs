//! Names: each is a length and so many bytes, each of which stands for a token, a string of the token table.

use super::KallsymsError;
use crate::addr::VirtAddr;
use crate::kernel::blob::Blob;
use crate::kernel::hashed::{Hash, Part};
use crate::kernel::printk::Memory;
use crate::vmcore::ReadError;

/// How many tokens there are: one for each value of a byte.
pub(super) const TOKENS: usize = 256;

/// The token table takes no more: a token of a real kernel has 2 to 10 bytes.
pub(super) const MAX_TABLE: usize = 16 << 10;

/// Bytes of a compressed name, its length included: 15 bits of length.
pub(super) const MAX_COMPRESSED: u64 = 2 + 0x7fff;

/// An expanded name is cut here; the kernel's KSYM_NAME_LEN is 512.
const MAX_NAME: usize = 4096;

/// The token table.
pub(super) struct Tokens {
    bytes: Vec<u8>,
    /// Start and end of each in `bytes`.
    ranges: Vec<(u16, u16)>,
    /// The hash of each, and that of what follows its first byte.
    parts: Vec<(Part, Part)>,
}

/// Where within a name a walk is.
enum Next {
    /// At its length.
    Length,
    /// Behind the lower 7 bits of it.
    Upper(u64),
    /// At the first token.
    First,
    /// At another.
    Token,
}

impl Tokens {
    /// Reads the table and its index of 256 `u16`.
    pub fn read(memory: &dyn Memory, table: VirtAddr, index: VirtAddr) -> Result<Self, KallsymsError> {
        let mut raw = [0; TOKENS * 2];
        memory.read(index, &mut raw)?;
        let starts: Vec<u16> =
            (0..TOKENS).map(|i| memory.endian().u16(&raw, i.saturating_mul(2)).unwrap_or(0)).collect();
        let last = usize::from(starts.last().copied().unwrap_or(0));
        if last > MAX_TABLE {
            return Err(KallsymsError::Senseless(format!("its last token is at {last:#x}")));
        }
        // The last token has no successor that says where it ends.
        let tail = Blob::new(memory, table, MAX_TABLE as u64 * 2).string(last as u64, 512)?;
        let mut bytes = vec![0; last];
        memory.read(table, &mut bytes)?;
        bytes.extend_from_slice(&tail);
        bytes.push(0);
        let mut ranges = Vec::with_capacity(TOKENS);
        for start in starts {
            let rest = bytes.get(usize::from(start)..).unwrap_or_default();
            let end = rest.iter().position(|b| *b == 0).and_then(|n| u16::try_from(n).ok());
            let end = end.and_then(|n| start.checked_add(n));
            let end =
                end.ok_or_else(|| KallsymsError::Senseless(format!("its token at {start:#x} has no end")))?;
            ranges.push((start, end));
        }
        let part = |(start, end): &(u16, u16)| {
            let token = bytes.get(usize::from(*start)..usize::from(*end)).unwrap_or_default();
            (Part::of(token), Part::of(token.get(1..).unwrap_or_default()))
        };
        let parts = ranges.iter().map(part).collect();
        Ok(Self { bytes, ranges, parts })
    }

    /// Calls `visit` with the index of each name, where it lies, and the hash of it without its first byte, which is the
    /// symbol's kind.
    pub fn hash_all(
        &self,
        names: &Blob<'_>,
        count: u32,
        mut visit: impl FnMut(u32, u32, u32),
    ) -> Result<(), KallsymsError> {
        let (mut at, mut index, mut start, mut left) = (0_u64, 0_u32, 0_u64, 0_u64);
        let (mut next, mut state) = (Next::Length, Hash::EMPTY);
        while index < count {
            if u32::try_from(at).is_err() {
                return Err(KallsymsError::Senseless("it has no end".to_owned()));
            }
            at = names.piece(at, |piece| {
                let mut rest = piece.iter();
                while index < count {
                    let Some(byte) = rest.next().copied() else { break };
                    match next {
                        Next::Length => {
                            let read = piece.len().saturating_sub(rest.as_slice().len()).saturating_sub(1);
                            (start, state) = (at.saturating_add(read as u64), Hash::EMPTY);
                            left = u64::from(byte & 0x7f);
                            next = if byte & 0x80 == 0 { Next::First } else { Next::Upper(left) };
                        }
                        Next::Upper(lower) => {
                            left = lower | u64::from(byte) << 7;
                            next = Next::First;
                        }
                        Next::First | Next::Token => {
                            let part = self.parts.get(usize::from(byte));
                            let part = part
                                .map(|(whole, rest)| if matches!(next, Next::First) { rest } else { whole });
                            state = part.map_or(state, |part| state.join(*part));
                            left = left.saturating_sub(1);
                            next = Next::Token;
                        }
                    }
                    if left == 0 && !matches!(next, Next::Upper(_)) {
                        visit(index, u32::try_from(start).unwrap_or(u32::MAX), state.finish());
                        index = index.saturating_add(1);
                        next = Next::Length;
                    }
                }
                at.saturating_add(piece.len().saturating_sub(rest.as_slice().len()) as u64)
            })?;
        }
        Ok(())
    }

    /// Where the name is that follows `count` names behind the one at `at`.
    pub fn skip(&self, names: &Blob<'_>, at: u64, count: u32) -> Result<u64, ReadError> {
        let mut at = at;
        for _ in 0..count {
            let (len, header) = length(names, at)?;
            at = at.saturating_add(header).saturating_add(len);
        }
        Ok(at)
    }

    /// Expands the name at `at` into `name`; returns where the next one is.
    pub fn expand(&self, names: &Blob<'_>, at: u64, name: &mut Vec<u8>) -> Result<u64, ReadError> {
        name.clear();
        let (len, header) = length(names, at)?;
        let mut at = at.saturating_add(header);
        let end = at.saturating_add(len);
        let mut piece = [0; 64];
        while at < end {
            let take = usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX).min(piece.len());
            let piece = piece.get_mut(..take).unwrap_or_default();
            names.read(at, piece)?;
            for token in piece {
                let (start, end) = self.ranges.get(usize::from(*token)).copied().unwrap_or_default();
                let token = self.bytes.get(usize::from(start)..usize::from(end)).unwrap_or_default();
                if name.len().saturating_add(token.len()) <= MAX_NAME {
                    name.extend_from_slice(token);
                }
            }
            at = at.saturating_add(take as u64);
        }
        Ok(at)
    }
}

/// How many tokens the name at `at` has, and bytes that say so.
///
/// Since Linux commit 73bbb94466fd3 ("kallsyms: support \"big\" kernel symbols") (in v6.1) a length may take two bytes; before
/// it none had the top bit.
fn length(names: &Blob<'_>, at: u64) -> Result<(u64, u64), ReadError> {
    let first = names.u8(at)?;
    Ok(if first & 0x80 == 0 {
        (u64::from(first), 1)
    } else {
        (u64::from(first & 0x7f) | u64::from(names.u8(at.saturating_add(1))?) << 7, 2)
    })
}

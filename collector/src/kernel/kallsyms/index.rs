//! Symbols by name without a walk over all of them: eight bytes each.

use super::{Kallsyms, KallsymsError};
use crate::addr::VirtAddr;
use std::ops::ControlFlow;

/// Names, as hashes, and the symbols that have them; sorted.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Index {
    entries: Vec<(u32, u32)>,
}

/// Symbols of one name that are looked at.
const MOST: usize = 64;

impl Kallsyms<'_> {
    /// Makes the index, in one walk over the table.
    pub fn index(&self) -> Result<Index, KallsymsError> {
        let mut entries = Vec::with_capacity(usize::try_from(self.count()).unwrap_or(0));
        self.each(|index, _, name| {
            entries.push((hash(name), index));
            ControlFlow::Continue(())
        })?;
        entries.sort_unstable();
        Ok(Index { entries })
    }
}

impl Index {
    /// The address of the first symbol of this name, by address.
    pub fn find(&self, table: &Kallsyms<'_>, name: &str) -> Result<Option<VirtAddr>, KallsymsError> {
        Ok(self.matching(table, name, 1)?.first().copied())
    }

    /// The addresses of all symbols of this name, ascending.
    pub fn find_all(&self, table: &Kallsyms<'_>, name: &str) -> Result<Vec<VirtAddr>, KallsymsError> {
        self.matching(table, name, MOST)
    }

    fn matching(
        &self,
        table: &Kallsyms<'_>,
        name: &str,
        most: usize,
    ) -> Result<Vec<VirtAddr>, KallsymsError> {
        let wanted = hash(name.as_bytes());
        let first = self.entries.partition_point(|(hash, _)| *hash < wanted);
        let same =
            self.entries.get(first..).unwrap_or_default().iter().take_while(|(hash, _)| *hash == wanted);
        let mut found = Vec::new();
        for (_, index) in same.take(MOST) {
            let symbol = table.symbol(*index)?;
            if symbol.name == name {
                found.push(symbol.at);
                if found.len() >= most {
                    break;
                }
            }
        }
        Ok(found)
    }
}

/// FNV-1a.
pub(in crate::kernel) fn hash(name: &[u8]) -> u32 {
    name.iter().fold(0x811c_9dc5, |state, byte| hash_on(state, *byte))
}

/// The hash of one byte more.
pub(in crate::kernel) fn hash_on(state: u32, byte: u8) -> u32 {
    (state ^ u32::from(byte)).wrapping_mul(0x0100_0193)
}

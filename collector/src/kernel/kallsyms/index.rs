//! Symbols by name without a walk over all of them: eight bytes each.

use super::{Kallsyms, KallsymsError};
use crate::addr::VirtAddr;
use crate::kernel::hashed::{Buckets, hash};

/// Names, as hashes, and the symbols that have them.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Index {
    pub(super) entries: Buckets,
}

/// Symbols of one name that are looked at.
const MOST: usize = 64;

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
        let mut found = Vec::new();
        for index in self.entries.get(hash(name.as_bytes())).take(MOST) {
            if table.named(index)?.1 == name.as_bytes() {
                found.push(table.address(index)?);
                if found.len() >= most {
                    break;
                }
            }
        }
        Ok(found)
    }
}

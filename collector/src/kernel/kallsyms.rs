//! The kernel's own symbol table, as it lies in its memory: addresses of functions and, with CONFIG_KALLSYMS_ALL (every
//! distribution's kernel), of variables. No debuginfo is needed.
//!
//! What it is not: it knows no types ([`super::btf`] does) and no modules' symbols. Data flow: `locate` finds the tables, by
//! VMCOREINFO or by what they look like; `tokens` expands a compressed name; `encoding` says what an entry of the address
//! table means, and is chosen by symbols of which VMCOREINFO tells the address. Memory: the tokens and four bytes for each
//! 256 symbols; the tables themselves are read where they are.

mod encoding;
mod index;
mod locate;
mod tokens;

pub use index::Index;

use super::blob::Blob;
use super::hashed::{Buckets, hash};
use super::printk::Memory;
use crate::addr::VirtAddr;
use crate::vmcore::{ReadError, VmcoreInfo};
use encoding::Encoding;
use std::ops::ControlFlow;
use tokens::Tokens;

/// No kernel has more symbols. Twenty times what distributions' kernels have.
const MAX_SYMBOLS: u32 = 4 << 20;

/// A symbol of the kernel itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Symbol {
    /// Its name; not unique: static ones repeat.
    pub name: String,
    /// Its kind as `nm` shows it: `T`, `t`, `D`, `b`, …
    pub kind: char,
    /// Its address. That of a per-CPU variable is relative to each CPU's area.
    pub at: VirtAddr,
    /// Its place in the table, which is sorted by address.
    pub index: u32,
}

/// Why there is no symbol table.
#[derive(Debug, thiserror::Error)]
pub enum KallsymsError {
    /// Nothing looks like it.
    #[error("the kernel's symbol table (kallsyms) was not found: {0}")]
    NotFound(String),
    /// Memory of it cannot be read.
    #[error("cannot read the kernel's symbol table (kallsyms)")]
    Unreadable(#[from] ReadError),
    /// It makes no sense.
    #[error("the kernel's symbol table (kallsyms) makes no sense: {0}")]
    Senseless(String),
}

/// Where the tables are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Tables {
    /// How many symbols.
    count: u32,
    /// Compressed names.
    names: VirtAddr,
    token_table: VirtAddr,
    token_index: VirtAddr,
    /// One entry a symbol: an offset of 4 bytes, or an address of 8.
    addresses: VirtAddr,
    /// What the offsets are relative to, where that is stored.
    base: Option<VirtAddr>,
}

/// The symbol table, opened.
#[expect(missing_debug_implementations, reason = "holds a dead kernel's memory")]
pub struct Kallsyms<'k> {
    count: u32,
    names: Blob<'k>,
    addresses: Blob<'k>,
    encoding: Encoding,
    tokens: Tokens,
    /// Where its own tables are: they have no symbols in it.
    tables: Tables,
    /// Where the name of each 256th symbol starts. The kernel has such a table too, but does not export it.
    markers: Vec<u32>,
}

/// Symbols between two markers.
const STEP: u32 = 256;

/// Symbols by which the encoding is chosen: VMCOREINFO gives their addresses, and these are their values, not what they point at.
const KNOWN: [&str; 5] = ["_stext", "swapper_pg_dir", "init_uts_ns", "prb", "node_online_map"];

impl<'k> Kallsyms<'k> {
    /// Finds the table and checks it by symbols whose addresses VMCOREINFO gives.
    pub fn open(memory: &'k dyn Memory, info: &VmcoreInfo) -> Result<Self, KallsymsError> {
        Self::open_indexed(memory, info).map(|(table, _)| table)
    }

    /// As [`Kallsyms::open`], with the index of its names, which one walk over the table makes.
    pub fn open_indexed(memory: &'k dyn Memory, info: &VmcoreInfo) -> Result<(Self, Index), KallsymsError> {
        match locate::by_vmcoreinfo(memory, info)? {
            Some(tables) => Self::with(memory, info, tables),
            None => {
                let mut why = None;
                for tables in locate::by_scan(memory, info)? {
                    match Self::with(memory, info, tables) {
                        Ok(found) => return Ok(found),
                        Err(e) => why = Some(e),
                    }
                }
                Err(why.unwrap_or_else(|| {
                    KallsymsError::NotFound(
                        "VMCOREINFO has no key SYMBOL(kallsyms_names) (Linux 6.0 and later), and nothing in the \
                         kernel's image looks like it"
                            .to_owned(),
                    )
                }))
            }
        }
    }

    fn with(
        memory: &'k dyn Memory,
        info: &VmcoreInfo,
        tables: Tables,
    ) -> Result<(Self, Index), KallsymsError> {
        let Tables { count, .. } = tables;
        if count == 0 || count > MAX_SYMBOLS {
            return Err(KallsymsError::Senseless(format!("it claims {count} symbols")));
        }
        let tokens = Tokens::read(memory, tables.token_table, tables.token_index)?;
        // A name has at least one token and its length.
        let most = u64::from(count).saturating_mul(tokens::MAX_COMPRESSED);
        let mut this = Self {
            count,
            names: Blob::new(memory, tables.names, most),
            addresses: Blob::new(memory, tables.addresses, u64::from(count).saturating_mul(8)),
            encoding: Encoding::Addresses,
            tokens,
            tables,
            markers: Vec::new(),
        };
        let known: Vec<(&str, VirtAddr)> =
            KNOWN.iter().filter_map(|name| Some((*name, info.symbol(name)?))).collect();
        let size = usize::try_from(count).unwrap_or(0);
        let mut markers = Vec::with_capacity(size.div_ceil(STEP as usize));
        let mut hashes = Vec::with_capacity(size);
        this.tokens.hash_all(&this.names, count, |index, at, hash| {
            if index.is_multiple_of(STEP) {
                markers.push(at);
            }
            hashes.push((hash, index));
        })?;
        this.markers = markers;
        let index = Index { entries: Buckets::new(&hashes) };
        drop(hashes);
        let mut seen: Vec<(u32, VirtAddr, &str)> = Vec::new();
        for (name, value) in &known {
            for at in index.entries.get(hash(name.as_bytes())).take(16) {
                if this.named(at)?.1 == name.as_bytes() {
                    seen.push((at, *value, name));
                }
            }
        }
        if seen.is_empty() {
            return Err(KallsymsError::Senseless(format!(
                "none of {} is in it, so its addresses cannot be checked",
                KNOWN.join(", ")
            )));
        }
        let base = match tables.base {
            Some(at) => Some(Blob::new(memory, at, 8).u64(0)?),
            None => None,
        };
        for encoding in Encoding::candidates(base) {
            this.encoding = encoding;
            // A name may repeat: one of each must fit.
            let fits = |(name, value): &(&str, VirtAddr)| {
                let mut all = seen.iter().filter(|(_, _, n)| n == name).peekable();
                all.peek().is_none()
                    || all.any(|(index, ..)| this.address(*index).is_ok_and(|at| at == *value))
            };
            if known.iter().all(fits) {
                return Ok((this, index));
            }
        }
        Err(KallsymsError::Senseless(format!(
            "no known encoding of its addresses gives those that VMCOREINFO has for {}",
            seen.iter().map(|(.., name)| *name).collect::<Vec<_>>().join(", ")
        )))
    }

    /// How many symbols there are.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Calls `visit` with index, kind and name of each symbol, in order of addresses. Addresses cost a look-up each:
    /// [`Kallsyms::address`].
    pub fn each(
        &self,
        mut visit: impl FnMut(u32, char, &[u8]) -> ControlFlow<()>,
    ) -> Result<(), KallsymsError> {
        self.walk(0, 0, |index, _, name| match name.split_first() {
            Some((kind, name)) => visit(index, char::from(*kind), name),
            None => ControlFlow::Continue(()),
        })
    }

    /// All symbols of each of these names, in the order of `names`, in one pass over the table; at most `most` of one name.
    pub fn find_all(&self, names: &[&str], most: usize) -> Result<Vec<Vec<Symbol>>, KallsymsError> {
        let mut found: Vec<Vec<(u32, char)>> = vec![Vec::new(); names.len()];
        self.each(|index, kind, name| {
            for (wanted, list) in names.iter().zip(&mut found) {
                if wanted.as_bytes() == name && list.len() < most {
                    list.push((index, kind));
                }
            }
            ControlFlow::Continue(())
        })?;
        let symbol = |name: &str, (index, kind): (u32, char)| {
            Ok(Symbol { name: name.to_owned(), kind, at: self.address(index)?, index })
        };
        names
            .iter()
            .zip(found)
            .map(|(name, list)| list.into_iter().map(|hit| symbol(name, hit)).collect())
            .collect()
    }

    /// The first symbol of this name.
    pub fn find(&self, name: &str) -> Result<Option<Symbol>, KallsymsError> {
        Ok(self.find_all(&[name], 1)?.pop().and_then(|mut list| list.pop()))
    }

    /// The address of a symbol by its index.
    pub fn address(&self, index: u32) -> Result<VirtAddr, KallsymsError> {
        if index >= self.count {
            return Err(KallsymsError::Senseless(format!("it has {} symbols, none is {index}", self.count)));
        }
        Ok(self.encoding.address(&self.addresses, index)?)
    }

    /// A symbol by its index.
    pub fn symbol(&self, index: u32) -> Result<Symbol, KallsymsError> {
        let at = self.address(index)?;
        let (kind, name) = self.named(index)?;
        Ok(Symbol { name: String::from_utf8_lossy(&name).into_owned(), kind, at, index })
    }

    /// Kind and name of a symbol.
    fn named(&self, index: u32) -> Result<(char, Vec<u8>), KallsymsError> {
        let marker = usize::try_from(index / STEP).ok().and_then(|marker| self.markers.get(marker));
        let at = self.tokens.skip(&self.names, u64::from(marker.copied().unwrap_or(0)), index % STEP)?;
        let mut name = Vec::new();
        self.tokens.expand(&self.names, at, &mut name)?;
        if name.is_empty() {
            return Ok(('?', name));
        }
        let kind = char::from(name.remove(0));
        Ok((kind, name))
    }

    /// The symbol that `at` is in or behind, the first of those at one address.
    pub fn at(&self, at: VirtAddr) -> Result<Option<Symbol>, KallsymsError> {
        let after = self.first_where(|address| address > at)?;
        let Some(last) = after.checked_sub(1) else { return Ok(None) };
        let start = self.address(last)?;
        self.symbol(self.first_where(|address| address >= start)?).map(Some)
    }

    /// Bytes from `at` to the next symbol, or to a table of this symbol table: no less than the size of what lies there.
    /// `None` behind the last one.
    pub fn extent(&self, at: VirtAddr) -> Result<Option<u64>, KallsymsError> {
        let next = self.first_where(|address| address > at)?;
        let next = if next < self.count { Some(self.address(next)?) } else { None };
        let Tables { names, token_table, token_index, addresses, base, .. } = self.tables;
        // The count is in front of the names.
        let count = VirtAddr::new(names.get().saturating_sub(8));
        let tables = [Some(count), Some(token_table), Some(token_index), Some(addresses), base];
        let tables = tables.into_iter().flatten().filter(|table| *table > at);
        Ok(tables.chain(next).filter_map(|end| end.offset_from(at)).min())
    }

    /// The first index whose address makes `past` true, which is so for all behind it; the count if none does.
    fn first_where(&self, past: impl Fn(VirtAddr) -> bool) -> Result<u32, KallsymsError> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low.midpoint(high);
            if past(self.address(middle)?) { high = middle } else { low = middle.saturating_add(1) }
        }
        Ok(low)
    }

    /// Expands names from symbol `index` on, whose compressed name is at `at` in the blob. `visit` gets the index, where the
    /// compressed name lies, and kind and name as one string.
    fn walk(
        &self,
        index: u32,
        at: u32,
        mut visit: impl FnMut(u32, u32, &[u8]) -> ControlFlow<()>,
    ) -> Result<(), KallsymsError> {
        let mut at = u64::from(at);
        let mut name = Vec::new();
        for index in index..self.count {
            let here = u32::try_from(at).map_err(|_| KallsymsError::Senseless("it has no end".to_owned()))?;
            at = self.tokens.expand(&self.names, at, &mut name)?;
            if visit(index, here, &name).is_break() {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

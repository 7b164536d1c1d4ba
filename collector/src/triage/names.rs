//! Symbols by name and by address, of the kernel and of its modules.

use super::{Dead, Known, REMEMBERED, Unknown};
use crate::addr::VirtAddr;
use std::fmt;
use std::ops::Range;

/// What an address is in.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Spot {
    /// The symbol.
    pub name: String,
    /// Bytes from it to the address.
    pub offset: u64,
    /// Bytes of what is there, or to the next symbol; `None` where neither is known.
    pub size: Option<u64>,
    /// The module that it is of; `None` for the kernel itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{:#x}", self.name, self.offset)?;
        if let Some(size) = self.size {
            write!(f, "/{size:#x}")?;
        }
        match &self.module {
            Some(module) => write!(f, " [{module}]"),
            None => Ok(()),
        }
    }
}

/// A module and the memory that is its.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Extent {
    /// Its `struct module`.
    pub at: u64,
    pub name: String,
    /// Its memory.
    pub all: Vec<Range<u64>>,
    /// The part of it that holds code.
    pub text: Vec<Range<u64>>,
}

type Ranges = Vec<Range<u64>>;

/// Bytes of an ELF symbol (Elf64_Sym).
const SYMBOL: usize = 24;

/// No module has more symbols.
const MAX_SYMBOLS: u64 = 1 << 20;

/// Modules that are looked at.
const MAX_MODULES: usize = 4096;

/// One ELF symbol of a module.
struct ModuleSymbol {
    name: u64,
    value: u64,
    size: u64,
}

impl Dead<'_> {
    /// The address of a symbol of the kernel itself, the first of this name. That of a per-CPU variable is for
    /// [`Dead::percpu`].
    pub fn symbol(&self, name: &str) -> Known<u64> {
        let none = || Unknown::Missing(format!("this kernel has no symbol {name}"));
        if let Some(known) = self.seen.borrow().symbols.get(name) {
            return known.ok_or_else(none);
        }
        let (table, index) = self.names()?;
        let found = index.find(table, name)?.map(VirtAddr::get);
        let mut seen = self.seen.borrow_mut();
        if seen.symbols.len() >= REMEMBERED {
            seen.symbols.clear();
        }
        seen.symbols.insert(name.to_owned(), found);
        found.ok_or_else(none)
    }

    /// All symbols of a name: the kernel's, then those of modules with the module's name.
    pub fn symbols_named(&self, name: &str) -> Known<Vec<(u64, Option<String>)>> {
        let (table, index) = self.names()?;
        let mut found: Vec<_> = index.find_all(table, name)?.into_iter().map(|at| (at.get(), None)).collect();
        for module in self.module_extents() {
            self.budget().step()?;
            let hit = self.module_symbols(module.at, |symbol| {
                let same = self.cstring(symbol.name, name.len().saturating_add(1)).is_ok_and(|n| n == name);
                if same { Some(symbol.value) } else { None }
            });
            if let Ok(Some(at)) = hit {
                found.push((at, Some(module.name.clone())));
            }
        }
        Ok(found)
    }

    /// What an address is in; `None` where nothing has a name: the heap, stacks, user space.
    pub fn spot(&self, at: u64) -> Option<Spot> {
        if let Some(known) = self.seen.borrow().spots.get(&at) {
            return known.clone();
        }
        let found = self.look_up(at);
        let mut seen = self.seen.borrow_mut();
        if seen.spots.len() >= REMEMBERED {
            seen.spots.clear();
        }
        seen.spots.insert(at, found.clone());
        found
    }

    fn look_up(&self, at: u64) -> Option<Spot> {
        if self.image().is_some_and(|image| image.contains(&at)) {
            let table = self.kallsyms().ok()?;
            let symbol = table.at(VirtAddr::new(at)).ok()??;
            let offset = at.checked_sub(symbol.at.get())?;
            let size = table.extent(symbol.at).ok().flatten();
            return Some(Spot { name: symbol.name, offset, size, module: None });
        }
        let module = self.module_extents().iter().find(|m| m.all.iter().any(|range| range.contains(&at)))?;
        let mut best: Option<ModuleSymbol> = None;
        let _ = self.module_symbols::<()>(module.at, |symbol| {
            let nearer = best.as_ref().is_none_or(|best| best.value < symbol.value);
            // A name that starts with a dot or a dollar sign marks a place for the assembler.
            if symbol.value <= at && nearer && !matches!(self.u8(symbol.name), Ok(0 | b'.' | b'$') | Err(_)) {
                best = Some(symbol);
            }
            None
        });
        let best = best?;
        Some(Spot {
            name: self.cstring(best.name, 512).ok()?,
            offset: at.saturating_sub(best.value),
            size: (best.size > 0).then_some(best.size),
            module: Some(module.name.clone()),
        })
    }

    /// Whether an address is in code: of the kernel, of a module.
    pub fn is_text(&self, at: u64) -> bool {
        let within = |start: &str, end: &str| {
            let range = self.symbol(start).ok().zip(self.symbol(end).ok());
            range.is_some_and(|(start, end)| (start..end).contains(&at))
        };
        if self.image().is_some_and(|image| image.contains(&at)) {
            return within("_stext", "_etext") || within("_sinittext", "_einittext");
        }
        self.module_extents().iter().any(|m| m.text.iter().any(|range| range.contains(&at)))
    }

    /// The kernel's image: code and data, without per-CPU variables.
    pub fn image(&self) -> Option<Range<u64>> {
        let start = self.symbol("_text").or_else(|_| self.symbol("_stext")).ok()?;
        let end = self.symbol("_end").ok()?;
        (start < end).then_some(start..end)
    }

    /// The modules, newest first, with the memory that is theirs.
    pub(super) fn module_extents(&self) -> &[Extent] {
        if let Some(known) = self.modules.get() {
            return known;
        }
        // While they are being read nobody has any: what is asked on the way must not come here again.
        let mut found = Vec::new();
        let walk = self.symbol("modules").and_then(|head| {
            self.list(head, "module", "list", |at| {
                if found.len() >= MAX_MODULES {
                    return Err(Unknown::senseless(format!("there are more than {MAX_MODULES}")));
                }
                let name = self.text(at, "module", "name")?;
                let (all, text) = self.module_memory(at)?;
                found.push(Extent { at, name, all, text });
                Ok(())
            })
        });
        self.known("modules", walk);
        self.modules.get_or_init(|| found)
    }

    /// All memory of the module at `at`, and what of it is code.
    ///
    /// `mem` since Linux commit ac3b43283923 ("module: replace module_layout with module_memory") (in v6.4), and two layouts
    /// before it.
    fn module_memory(&self, at: u64) -> Known<(Ranges, Ranges)> {
        let (mut all, mut text) = (Ranges::new(), Ranges::new());
        if let Ok(mem) = self.member("module", "mem") {
            let elements = self.elements(mem.ty)?;
            let is_text =
                [self.enumerator("MOD_TEXT").unwrap_or(0), self.enumerator("MOD_INIT_TEXT").unwrap_or(4)];
            for index in 0..elements.count.min(16) {
                let one = at.wrapping_add(mem.offset).wrapping_add(index.saturating_mul(elements.size));
                let base = self.get(one, "module_memory", "base")?;
                let size = self.get(one, "module_memory", "size")?;
                if base == 0 || size == 0 {
                    continue;
                }
                let range = base..base.saturating_add(size);
                if i64::try_from(index).is_ok_and(|index| is_text.contains(&index)) {
                    text.push(range.clone());
                }
                all.push(range);
            }
            return Ok((all, text));
        }
        for layout in [
            ["core_layout.base", "core_layout.size", "core_layout.text_size"],
            ["init_layout.base", "init_layout.size", "init_layout.text_size"],
        ] {
            let [base, size, code] = layout.map(|path| self.get(at, "module", path));
            let (base, size, code) = (base?, size?, code?);
            if base != 0 && size != 0 {
                all.push(base..base.saturating_add(size));
                text.push(base..base.saturating_add(code.min(size)));
            }
        }
        Ok((all, text))
    }

    /// Calls `visit` with each symbol of a module, until it has found something.
    fn module_symbols<T>(
        &self,
        module: u64,
        mut visit: impl FnMut(ModuleSymbol) -> Option<T>,
    ) -> Known<Option<T>> {
        let table = self.get(module, "module", "kallsyms")?;
        let count = self.get(table, "mod_kallsyms", "num_symtab")?;
        let symbols = self.get(table, "mod_kallsyms", "symtab")?;
        let strings = self.get(table, "mod_kallsyms", "strtab")?;
        if count > MAX_SYMBOLS {
            return Err(Unknown::Senseless(format!("a module with {count} symbols")));
        }
        // The first is empty.
        for index in 1..count {
            let mut raw = [0; SYMBOL];
            self.read(symbols.wrapping_add(index.saturating_mul(SYMBOL as u64)), &mut raw)?;
            let endian = self.endian();
            let (name, section) = (endian.u32(&raw, 0).unwrap_or(0), endian.u16(&raw, 6).unwrap_or(0));
            let (value, size) = (endian.u64(&raw, 8).unwrap_or(0), endian.u64(&raw, 16).unwrap_or(0));
            // Not defined there, or without a name.
            if section == 0 || name == 0 {
                continue;
            }
            let symbol = ModuleSymbol { name: strings.wrapping_add(u64::from(name)), value, size };
            if let Some(found) = visit(symbol) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spot_is_shown_as_the_kernel_does() {
        let spot = |size, module: Option<&str>| Spot {
            name: "panic".to_owned(),
            offset: 0x118,
            size,
            module: module.map(str::to_owned),
        };
        assert_eq!(spot(Some(0x2cc), None).to_string(), "panic+0x118/0x2cc");
        assert_eq!(spot(None, Some("ext4")).to_string(), "panic+0x118 [ext4]");
    }
}

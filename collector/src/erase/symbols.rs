//! Symbols of the kernel and of its modules, by name, with the room each has.

use super::place::Access;
use crate::addr::VirtAddr;
use crate::kernel::btf::{Among, Btf, BtfError, TypeId};
use crate::kernel::kallsyms::{Kallsyms, KallsymsError};
use std::collections::HashMap;

/// What was found of one name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Found {
    /// Its address; of a per-CPU variable the one that each CPU's offset is added to.
    pub at: u64,
    /// Bytes to the next symbol, or its size where that is known.
    pub room: u64,
    /// How many symbols have the name.
    pub times: usize,
    pub percpu: bool,
}

/// Symbols of one name that are told apart.
const MOST: usize = 4;

/// The kernel's symbols with these names.
pub(super) fn of_kernel(
    symbols: &Kallsyms<'_>,
    names: &[&str],
) -> Result<HashMap<String, Found>, KallsymsError> {
    let ends = symbols.find_all(&["__per_cpu_start", "__per_cpu_end"], 1)?;
    let mut ends = ends.iter().map(|list| list.first().map(|s| s.at));
    let percpu = ends.next().flatten().zip(ends.next().flatten());
    let mut found = HashMap::new();
    for (name, list) in names.iter().zip(symbols.find_all(names, MOST)?) {
        let Some(first) = list.first() else { continue };
        let room = symbols.extent(first.at)?.unwrap_or(0);
        let percpu = percpu.is_some_and(|(start, end)| start <= first.at && first.at < end);
        // One thing may have two names, and one name be there twice.
        let times = list.iter().filter(|s| s.at != first.at).count() + 1;
        found.insert((*name).to_owned(), Found { at: first.at.get(), room, times, percpu });
    }
    Ok(found)
}

/// What each CPU's copy of a per-CPU variable is away from its symbol.
pub(super) fn percpu_offsets(kernel: &Access<'_>, symbols: &Kallsyms<'_>) -> Result<Vec<u64>, String> {
    let found =
        symbols.find_all(&["__per_cpu_offset", "nr_cpu_ids"], 1).map_err(|e| crate::engine::chain(&e))?;
    let at = |index: usize| found.get(index).and_then(|list| list.first()).map(|s| s.at);
    let (Some(table), Some(count)) = (at(0), at(1)) else {
        return Err(
            "per-CPU variables are not to be found: there is no __per_cpu_offset or no nr_cpu_ids".to_owned()
        );
    };
    let mut raw = [0; 4];
    kernel.read_virt(count, &mut raw).map_err(|e| e.to_string())?;
    let count = kernel.endian().u32(&raw, 0).unwrap_or(0);
    if !(1..=8192).contains(&count) {
        return Err(format!("nr_cpu_ids is {count}, which cannot be"));
    }
    (0..u64::from(count))
        .map(|cpu| {
            let at = table.checked_add(cpu * 8).unwrap_or(table);
            kernel.read_u64(at).map_err(|e| e.to_string())
        })
        .collect()
}

/// Bytes of an ELF symbol (Elf64_Sym).
const SYMBOL: u64 = 24;

/// No module has more symbols, nor more bytes of their names.
const MAX_SYMBOLS: u64 = 1 << 20;

/// Modules that are looked through.
const MAX_MODULES: usize = 1 << 16;

/// The symbols of a module with these names; `None` when it is not loaded. `modules` is the list of modules.
pub(super) fn of_module(
    kernel: &Access<'_>,
    btf: &Btf<'_>,
    modules: VirtAddr,
    module: &str,
    names: &[&str],
) -> Result<Option<HashMap<String, Found>>, String> {
    let text = |e: BtfError| crate::engine::chain(&e);
    let unread = |e: crate::vmcore::ReadError| format!("cannot read the list of modules: {e}");
    let ty = composite(btf, "module")?;
    let offset = |of: TypeId, member: &str| {
        let field = btf.member(of, member).map_err(text)?;
        field.offset().ok_or_else(|| format!("{member} is a bit-field"))
    };
    let (list, name_at, kallsyms) = (offset(ty, "list")?, offset(ty, "name")?, offset(ty, "kallsyms")?);
    let mut node = kernel.read_u64(modules).map_err(unread)?;
    for _ in 0..MAX_MODULES {
        if node == modules.get() {
            return Ok(None);
        }
        let at = node.wrapping_sub(list);
        let mut name = [0; 64];
        let name_at = VirtAddr::new(at.wrapping_add(name_at));
        kernel.read_virt(name_at, &mut name).map_err(unread)?;
        let name = name.split(|b| *b == 0).next().unwrap_or_default();
        if name == module.as_bytes() {
            let table = composite(btf, "mod_kallsyms")?;
            let base = kernel.read_u64(VirtAddr::new(at.wrapping_add(kallsyms))).map_err(unread)?;
            let field = |member: &str| {
                kernel.read_u64(VirtAddr::new(base.wrapping_add(offset(table, member)?))).map_err(unread)
            };
            // An `unsigned int`.
            let mut count = [0; 4];
            let count_at = VirtAddr::new(base.wrapping_add(offset(table, "num_symtab")?));
            kernel.read_virt(count_at, &mut count).map_err(unread)?;
            let count = u64::from(kernel.endian().u32(&count, 0).unwrap_or(0)).min(MAX_SYMBOLS);
            let mut found = symbols_of(kernel, field("symtab")?, count, field("strtab")?, names)?;
            let area = percpu_area(kernel, btf, ty, at)?;
            for symbol in found.values_mut() {
                symbol.percpu = area.contains(&symbol.at);
            }
            return Ok(Some(found));
        }
        node = kernel.read_u64(VirtAddr::new(node)).map_err(unread)?;
    }
    Err("the list of modules does not end".to_owned())
}

/// Where per-CPU variables of the module at `at` have their symbols; empty where there are none.
fn percpu_area(
    kernel: &Access<'_>,
    btf: &Btf<'_>,
    ty: TypeId,
    at: u64,
) -> Result<std::ops::Range<u64>, String> {
    let member = |name: &str| btf.member(ty, name).ok().and_then(|field| field.offset());
    // Neither is there on a kernel for one CPU.
    let (Some(start), Some(size)) = (member("percpu"), member("percpu_size")) else { return Ok(0..0) };
    let start = kernel.read_u64(VirtAddr::new(at.wrapping_add(start))).map_err(|e| e.to_string())?;
    let mut raw = [0; 4];
    kernel.read_virt(VirtAddr::new(at.wrapping_add(size)), &mut raw).map_err(|e| e.to_string())?;
    Ok(start..start.saturating_add(u64::from(kernel.endian().u32(&raw, 0).unwrap_or(0))))
}

fn symbols_of(
    kernel: &Access<'_>,
    table: u64,
    count: u64,
    strings: u64,
    names: &[&str],
) -> Result<HashMap<String, Found>, String> {
    let mut found: HashMap<String, Found> = HashMap::new();
    let mut raw = [0; 24];
    let mut name = vec![0; names.iter().map(|n| n.len()).max().unwrap_or(0).saturating_add(1)];
    for index in 0..count {
        let at = VirtAddr::new(table.wrapping_add(index * SYMBOL));
        kernel.read_virt(at, &mut raw).map_err(|e| format!("cannot read the module's symbols: {e}"))?;
        let endian = kernel.endian();
        let string = strings.wrapping_add(u64::from(endian.u32(&raw, 0).unwrap_or(0)));
        let (section, value, size) = (
            endian.u16(&raw, 6).unwrap_or(0),
            endian.u64(&raw, 8).unwrap_or(0),
            endian.u64(&raw, 16).unwrap_or(0),
        );
        // The names lie close together; one at the very end of memory may be shorter than what is asked.
        if section == 0 || kernel.read_virt(VirtAddr::new(string), &mut name).is_err() {
            continue;
        }
        let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
        let Some(hit) = names.iter().find(|n| Some(n.as_bytes()) == name.get(..end)) else { continue };
        let found = found.entry((*hit).to_owned()).or_insert(Found {
            at: value,
            room: size,
            times: 0,
            percpu: false,
        });
        found.times += 1;
    }
    Ok(found)
}

/// A structure or union by name.
pub(super) fn composite(btf: &Btf<'_>, name: &str) -> Result<TypeId, String> {
    btf.find(Among::Composites, name)
        .map_err(|e| crate::engine::chain(&e))?
        .ok_or_else(|| format!("there is no struct {name}"))
}

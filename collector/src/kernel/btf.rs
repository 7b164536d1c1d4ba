//! The kernel's own description of its types (BTF, CONFIG_DEBUG_INFO_BTF), as it lies in its memory: structures, their
//! members and sizes, enumerators. No debuginfo is needed.
//!
//! What it is not: it has no functions' arguments or locals, and of variables only those that are per-CPU (so far: a kernel
//! that describes more is understood). Data flow: `header` checks where types and strings lie; `types` reads one type;
//! here they are looked up. Memory: four bytes for each 16 types; types and strings are read where they are.
//!
//! A name is looked for among the strings first, each of which is there once; types are then compared by number.

mod header;
mod index;
mod members;
mod split;
mod types;

pub use index::Index;
pub use members::Field;
pub use types::{Kind, Type};

use super::blob::Blob;
use super::kallsyms::{Kallsyms, KallsymsError};
use super::printk::Memory;
use crate::addr::VirtAddr;
use crate::vmcore::{ReadError, VmcoreInfo};
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};

/// A type, by its number. 0 is `void`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TypeId(pub u32);

impl TypeId {
    /// `void`.
    pub const VOID: Self = Self(0);
}

/// Why a type is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// The kernel has none.
    #[error("the kernel's types (BTF) were not found: {0}")]
    NotFound(String),
    /// Memory of it cannot be read.
    #[error("cannot read the kernel's types (BTF)")]
    Unreadable(#[from] ReadError),
    /// It makes no sense.
    #[error("the kernel's types (BTF) make no sense: {0}")]
    Senseless(String),
    /// A question that has no answer.
    #[error("{0}")]
    NoSuch(String),
    /// The symbol table, which says where it is, cannot be read.
    #[error(transparent)]
    Symbols(#[from] KallsymsError),
}

/// Types between two remembered places.
const STEP: u32 = 16;

/// No kernel has more types. Twenty times what distributions' kernels have.
const MAX_TYPES: u32 = 4 << 20;

/// Types that may lead to one another: typedefs, `const`, arrays of arrays. Also how deep anonymous members may nest.
const MAX_DEPTH: u32 = 32;

/// Names longer than this are cut.
const MAX_NAME: usize = 512;

/// The types, opened.
#[expect(missing_debug_implementations, reason = "holds a dead kernel's memory")]
pub struct Btf<'k> {
    types: Blob<'k>,
    strings: Blob<'k>,
    /// Where in `types` each 16th type starts, from the first on.
    places: Vec<u32>,
    /// The number of the first type.
    first: u32,
    /// How many types, `void` and those of `base` included.
    count: u32,
    /// A module's types go on where the kernel's end: those, with numbers below `first` and strings before `names_from`.
    base: Option<&'k Self>,
    names_from: u32,
    seen: Mutex<Seen>,
}

/// What was looked up before.
#[derive(Default)]
struct Seen {
    names: HashMap<String, Option<u32>>,
    fields: HashMap<(TypeId, u32), Option<Field>>,
}

/// What kinds of type a name is looked for among.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Among {
    /// `struct` and `union`.
    Composites,
    /// `enum`.
    Enums,
    /// `typedef`, and base types such as `int`.
    Names,
    /// Variables.
    Variables,
}

/// Answers that are remembered. Past this many, old ones are forgotten.
const REMEMBERED: usize = 4096;

impl<'k> Btf<'k> {
    /// Finds it by the symbols at its ends, or, in a kernel whose symbol table has no variables, by its magic number.
    pub fn open(memory: &'k dyn Memory, info: &VmcoreInfo, symbols: &Kallsyms<'_>) -> Result<Self, BtfError> {
        let mut ends = symbols.find_all(&["__start_BTF", "__stop_BTF"], 1)?.into_iter().map(|mut s| s.pop());
        let ends = ends.next().flatten().zip(ends.next().flatten());
        let (start, len) = Self::place(memory, info, ends.map(|(start, stop)| (start.at, stop.at)))?;
        Self::at(memory, start, len)
    }

    /// Where it lies and its bytes, by the symbols at its ends or by its magic number.
    fn place(
        memory: &dyn Memory,
        info: &VmcoreInfo,
        ends: Option<(VirtAddr, VirtAddr)>,
    ) -> Result<(VirtAddr, u64), BtfError> {
        let place = match ends {
            Some((start, stop)) => Some((start, stop.offset_from(start).unwrap_or(0))),
            None => header::scan(memory, info)?,
        };
        place.ok_or_else(|| {
            BtfError::NotFound(
                "its symbol table has no __start_BTF, and nothing in its image looks like them: it was built without \
                 CONFIG_DEBUG_INFO_BTF".to_owned(),
            )
        })
    }

    /// Reads the `len` bytes of BTF at `start`.
    pub fn at(memory: &'k dyn Memory, start: VirtAddr, len: u64) -> Result<Self, BtfError> {
        Self::on(memory, start, len, None, &mut |_, _, _| {})
    }

    /// Reads the `len` bytes of BTF at `start`, which go on where `base` ends. `visit` gets each type that is in them.
    fn on(
        memory: &'k dyn Memory,
        start: VirtAddr,
        len: u64,
        base: Option<&'k Self>,
        visit: &mut dyn FnMut(&Blob<'k>, TypeId, &Type),
    ) -> Result<Self, BtfError> {
        let first = base.map_or(1, |b| b.count);
        let names_from = base.map_or(0, |b| u32::try_from(b.strings.len()).unwrap_or(u32::MAX));
        let parts = header::read(memory, start, len)?;
        let types = Blob::new(memory, parts.types, parts.types_len);
        let strings = Blob::new(memory, parts.strings, parts.strings_len);
        let mut places = Vec::new();
        let (mut at, mut count) = (0, first);
        while at < parts.types_len {
            if count > MAX_TYPES {
                return Err(BtfError::Senseless(format!("more than {MAX_TYPES} types")));
            }
            if count.saturating_sub(first).is_multiple_of(STEP) {
                places.push(u32::try_from(at).unwrap_or(u32::MAX));
            }
            let ty = Type { split: base.is_some(), ..types::read(&types, at)? };
            visit(&types, TypeId(count), &ty);
            at = ty.next;
            count = count.saturating_add(1);
        }
        if at != parts.types_len {
            return Err(BtfError::Senseless(format!(
                "the last type ends at {at:#x}, the types at {:#x}",
                parts.types_len
            )));
        }
        places.shrink_to_fit();
        Ok(Self { types, strings, places, first, count, base, names_from, seen: Mutex::default() })
    }

    /// How many types there are, `void` included.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// A type by its number.
    pub fn get(&self, id: TypeId) -> Result<Type, BtfError> {
        if id == TypeId::VOID {
            return Ok(Type::VOID);
        }
        if id.0 >= self.count {
            return Err(BtfError::Senseless(format!("there are {} types, none is {}", self.count, id.0)));
        }
        let Some(index) = id.0.checked_sub(self.first) else {
            return self.base.map_or(Ok(Type::VOID), |base| base.get(id));
        };
        let place = usize::try_from(index / STEP).ok().and_then(|i| self.places.get(i)).copied().unwrap_or(0);
        let mut at = u64::from(place);
        for _ in 0..index % STEP {
            at = types::read(&self.types, at)?.next;
        }
        self.read(at)
    }

    /// The type at `at`.
    fn read(&self, at: u64) -> Result<Type, BtfError> {
        Ok(Type { split: self.base.is_some(), ..types::read(&self.types, at)? })
    }

    /// The bytes that `ty` was read from.
    fn types_of(&self, ty: &Type) -> &Blob<'k> {
        match self.base {
            Some(base) if !ty.split => &base.types,
            _ => &self.types,
        }
    }

    /// Calls `visit` with each type, a module's own before the kernel's.
    pub fn each(&self, mut visit: impl FnMut(TypeId, &Type) -> ControlFlow<()>) -> Result<(), BtfError> {
        let mut at = 0;
        for id in self.first..self.count {
            let found = self.read(at)?;
            at = found.next;
            if visit(TypeId(id), &found).is_break() {
                return Ok(());
            }
        }
        self.base.map_or(Ok(()), |base| base.each(visit))
    }

    /// The type of a name, `among` the kinds it may be of: the first that is complete.
    pub fn find(&self, among: Among, name: &str) -> Result<Option<TypeId>, BtfError> {
        let Some(wanted) = self.string_at(name)? else { return Ok(None) };
        let mut found = None;
        self.each(|id, ty| {
            if ty.name == wanted && among.holds(ty.kind) {
                found = Some(id);
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        Ok(found)
    }

    /// The type of a global variable, where the kernel describes it.
    pub fn variable(&self, name: &str) -> Result<Option<TypeId>, BtfError> {
        let Some(id) = self.find(Among::Variables, name)? else { return Ok(None) };
        Ok(Some(self.get(id)?.target))
    }

    /// The value of an enumerator.
    pub fn enumerator(&self, name: &str) -> Result<Option<i64>, BtfError> {
        let Some(wanted) = self.string_at(name)? else { return Ok(None) };
        let mut found = None;
        let mut failure = None;
        self.each(|_, ty| match types::enumerator(self.types_of(ty), ty, wanted) {
            Ok(None) => ControlFlow::Continue(()),
            Ok(value) => {
                found = value;
                ControlFlow::Break(())
            }
            Err(e) => {
                failure = Some(e);
                ControlFlow::Break(())
            }
        })?;
        match failure {
            Some(e) => Err(e.into()),
            None => Ok(found),
        }
    }

    /// The name of a type; empty for one that has none.
    pub fn name(&self, ty: &Type) -> Result<String, BtfError> {
        self.string(ty.name)
    }

    /// What a type is when typedefs, `const`, `volatile` and the like are taken away.
    pub fn plain(&self, id: TypeId) -> Result<(TypeId, Type), BtfError> {
        let mut id = id;
        for _ in 0..MAX_DEPTH {
            let ty = self.get(id)?;
            if !ty.kind.is_alias() {
                return Ok((id, ty));
            }
            id = ty.target;
        }
        Err(BtfError::Senseless(format!("type {} is an alias of an alias, {MAX_DEPTH} times over", id.0)))
    }

    /// Bytes of a value of the type; 0 for `void`, a function, and what is only declared.
    pub fn size(&self, id: TypeId) -> Result<u64, BtfError> {
        let mut id = id;
        let mut times = 1_u64;
        for _ in 0..MAX_DEPTH {
            let (_, ty) = self.plain(id)?;
            let one = match ty.kind {
                Kind::Array => {
                    times = times.saturating_mul(u64::from(ty.length));
                    id = ty.target;
                    continue;
                }
                Kind::Pointer => 8,
                _ => u64::from(ty.size),
            };
            return times
                .checked_mul(one)
                .ok_or_else(|| BtfError::Senseless(format!("type {} has more than 2^64 bytes", id.0)));
        }
        Err(BtfError::Senseless(format!("type {} is an array of arrays, {MAX_DEPTH} times over", id.0)))
    }

    /// How C would write the type, for messages: `struct list_head *`, `char [16]`.
    pub fn shown(&self, id: TypeId) -> Result<String, BtfError> {
        let mut id = id;
        let (mut before, mut after) = (String::new(), String::new());
        for _ in 0..MAX_DEPTH {
            let ty = self.get(id)?;
            match ty.kind {
                Kind::Pointer => before.insert(0, '*'),
                Kind::Array => after.push_str(&format!("[{}]", ty.length)),
                _ if ty.kind.is_alias() && ty.kind != Kind::Typedef => {}
                kind => {
                    let name = if id == TypeId::VOID { "void".to_owned() } else { self.name(&ty)? };
                    let name = if name.is_empty() { "(anonymous)" } else { &name };
                    let space = if before.is_empty() && after.is_empty() { "" } else { " " };
                    return Ok(format!("{}{name}{space}{before}{after}", kind.keyword()));
                }
            }
            id = ty.target;
        }
        Ok("a type without end".to_owned())
    }

    fn string(&self, at: u32) -> Result<String, BtfError> {
        if at == 0 {
            return Ok(String::new());
        }
        match (self.base, at.checked_sub(self.names_from)) {
            (Some(base), None) => base.string(at),
            (_, at) => {
                let text = self.strings.string(u64::from(at.unwrap_or(0)), MAX_NAME)?;
                Ok(String::from_utf8_lossy(&text).into_owned())
            }
        }
    }

    /// Where a string lies among the strings.
    fn string_at(&self, name: &str) -> Result<Option<u32>, BtfError> {
        if name.is_empty() || name.len() > MAX_NAME || name.contains('\0') {
            return Ok(None);
        }
        if let Some(known) = self.seen(|seen| seen.names.get(name).copied()) {
            return Ok(known);
        }
        // No string of a module's is one of the kernel's.
        let found = match self.base.map(|base| base.string_at(name)).transpose()?.flatten() {
            Some(at) => Some(at),
            None => self.own_string_at(name)?,
        };
        self.seen(|seen| {
            if seen.names.len() >= REMEMBERED {
                seen.names.clear();
            }
            seen.names.insert(name.to_owned(), found)
        });
        Ok(found)
    }

    /// Spares [`Btf::string_at`] a search for a name of the kernel's.
    fn remember(&self, name: &str, at: Option<u32>) {
        if self.base.is_none() {
            self.seen(|seen| {
                if seen.names.len() >= REMEMBERED {
                    seen.names.clear();
                }
                seen.names.insert(name.to_owned(), at);
            });
        }
    }

    fn own_string_at(&self, name: &str) -> Result<Option<u32>, BtfError> {
        // The kernel's strings start with an empty one, so that each has a NUL before it; a module's do not.
        let pattern = [b"\0", name.as_bytes(), b"\0"].concat();
        let bare = pattern.get(1..).unwrap_or_default();
        let mut start = vec![0; bare.len()];
        let at_start = self.base.is_some()
            && self.strings.len() >= start.len() as u64
            && self.strings.read(0, &mut start).is_ok()
            && start == bare;
        let found =
            if at_start { Some(0) } else { self.strings.find(0, &pattern)?.map(|at| at.saturating_add(1)) };
        Ok(found.and_then(|at| u32::try_from(at).ok()?.checked_add(self.names_from)))
    }

    fn seen<T>(&self, step: impl FnOnce(&mut Seen) -> T) -> T {
        step(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Among {
    fn holds(self, kind: Kind) -> bool {
        match self {
            Self::Composites => matches!(kind, Kind::Struct | Kind::Union),
            Self::Enums => matches!(kind, Kind::Enum | Kind::Enum64),
            Self::Names => matches!(kind, Kind::Typedef | Kind::Int | Kind::Float),
            Self::Variables => kind == Kind::Variable,
        }
    }
}

#[cfg(test)]
mod tests;

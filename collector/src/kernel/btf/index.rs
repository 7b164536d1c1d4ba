//! Types by name without a walk over all of them: eight bytes a name and a type.

use super::{Btf, BtfError, Field, Kallsyms, Kind, Memory, Type, TypeId, VmcoreInfo, types};
use crate::kernel::blob::Blob;
use crate::kernel::hashed::{Buckets, Hash, hash};
use crate::kernel::kallsyms;
use std::ops::ControlFlow;

/// Names, as hashes, and where they lie; composites and enumerations, by where their names lie. Of a kernel's own types.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Index {
    names: Buckets,
    composites: Vec<(u32, u32)>,
    enumerators: Vec<(u32, u32)>,
}

/// Enumerators that are remembered. Kernels have some 30,000.
const MAX_ENUMERATORS: usize = 1 << 18;

/// Names that are remembered. Kernels have some 150,000.
const MAX_NAMES: usize = 2 << 20;

impl<'k> Btf<'k> {
    /// As [`Btf::open`], with the index: one walk over the types and one over the names make it.
    pub fn open_indexed(
        memory: &'k dyn Memory,
        info: &VmcoreInfo,
        symbols: &Kallsyms<'_>,
        names: &kallsyms::Index,
    ) -> Result<(Self, Index), BtfError> {
        let end = |name| names.find(symbols, name);
        let ends = end("__start_BTF")?.zip(end("__stop_BTF")?);
        let (start, len) = Self::place(memory, info, ends)?;
        let mut index = Index::default();
        let btf = Self::on(memory, start, len, None, &mut |types, id, ty| index.see(types, id, ty))?;
        index.finish(&btf.strings)?;
        Ok((btf, index))
    }

    /// Makes the index, in one walk over the names and one over the types.
    pub fn index(&self) -> Result<Index, BtfError> {
        let mut index = Index::default();
        self.each(|id, ty| {
            index.see(self.types_of(ty), id, ty);
            ControlFlow::Continue(())
        })?;
        index.finish(&self.strings)?;
        Ok(index)
    }
}

impl Index {
    /// Takes in a type.
    fn see(&mut self, types: &Blob<'_>, id: TypeId, ty: &Type) {
        match ty.kind {
            Kind::Struct | Kind::Union | Kind::Typedef if ty.name != 0 => {
                self.composites.push((ty.name, id.0));
            }
            Kind::Enum | Kind::Enum64 => {
                for name in types::enumerator_names(types, ty) {
                    if self.enumerators.len() < MAX_ENUMERATORS {
                        self.enumerators.push((name, id.0));
                    }
                }
            }
            _ => {}
        }
    }

    /// Takes in the names.
    fn finish(&mut self, strings: &Blob<'_>) -> Result<(), BtfError> {
        let mut names = Vec::new();
        let (mut at, mut start, mut state) = (0_u64, 0_u64, Hash::EMPTY);
        while at < strings.len() && names.len() < MAX_NAMES {
            at = strings.piece(at, |piece| {
                let mut here = at;
                for byte in piece {
                    if *byte == 0 {
                        if here > start {
                            names.push((state.finish(), u32::try_from(start).unwrap_or(u32::MAX)));
                        }
                        start = here.saturating_add(1);
                        state = Hash::EMPTY;
                    } else {
                        state = state.push(*byte);
                    }
                    here = here.saturating_add(1);
                }
                here
            })?;
        }
        self.names = Buckets::new(&names);
        self.composites.sort_unstable();
        self.enumerators.sort_unstable();
        self.composites.shrink_to_fit();
        self.enumerators.shrink_to_fit();
        Ok(())
    }
}

impl Index {
    /// The structure or union of a name, or the first typedef of it where there is none.
    pub fn composite(&self, btf: &Btf<'_>, name: &str) -> Result<Option<TypeId>, BtfError> {
        let Some(wanted) = self.name(btf, name)? else { return Ok(None) };
        let mut typedef = None;
        for (_, id) in same(&self.composites, wanted) {
            let ty = btf.get(TypeId(*id))?;
            if ty.kind != Kind::Typedef {
                return Ok(Some(TypeId(*id)));
            }
            typedef = typedef.or(Some(TypeId(*id)));
        }
        Ok(typedef)
    }

    /// The value of an enumerator.
    pub fn enumerator(&self, btf: &Btf<'_>, name: &str) -> Result<Option<i64>, BtfError> {
        let Some(wanted) = self.name(btf, name)? else { return Ok(None) };
        let Some((_, id)) = same(&self.enumerators, wanted).first() else { return Ok(None) };
        let ty = btf.get(TypeId(*id))?;
        Ok(types::enumerator(btf.types_of(&ty), &ty, wanted)?)
    }

    /// A member of a structure or of anonymous members of it, by its name, which has no dots.
    pub fn member(&self, btf: &Btf<'_>, of: TypeId, name: &str) -> Result<Field, BtfError> {
        // So that Btf does not look for it among all strings.
        let known = self.name(btf, name)?;
        btf.remember(name, known);
        btf.member(of, name)
    }

    /// Where a name lies among the strings.
    fn name(&self, btf: &Btf<'_>, name: &str) -> Result<Option<u32>, BtfError> {
        let wanted = hash(name.as_bytes());
        for at in self.names.get(wanted) {
            if btf.string(at)? == name {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }
}

/// The entries of a sorted list with this key.
fn same(list: &[(u32, u32)], key: u32) -> &[(u32, u32)] {
    let first = list.partition_point(|(k, _)| *k < key);
    let rest = list.get(first..).unwrap_or_default();
    rest.get(..rest.partition_point(|(k, _)| *k == key)).unwrap_or_default()
}

//! Types by name without a walk over all of them: eight bytes a name and a type.

use super::{Btf, BtfError, Field, Kind, TypeId, types};
use crate::kernel::kallsyms::hash;
use std::ops::ControlFlow;

/// Names, as hashes, and where they lie; composites and enumerations, by where their names lie. Of a kernel's own types.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Index {
    names: Vec<(u32, u32)>,
    composites: Vec<(u32, u32)>,
    enumerators: Vec<(u32, u32)>,
}

/// Enumerators that are remembered. Kernels have some 30,000.
const MAX_ENUMERATORS: usize = 1 << 18;

/// Names that are remembered. Kernels have some 150,000.
const MAX_NAMES: usize = 2 << 20;

impl Btf<'_> {
    /// Makes the index, in one walk over the names and one over the types.
    pub fn index(&self) -> Result<Index, BtfError> {
        let mut index = Index::default();
        let mut piece = vec![0; 4096];
        let (mut at, mut start, mut state) = (0_u64, 0_u64, hash(b""));
        let end = self.strings.len();
        while at < end && index.names.len() < MAX_NAMES {
            let take = usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX).min(piece.len());
            let piece = piece.get_mut(..take).unwrap_or_default();
            self.strings.read(at, piece)?;
            for byte in piece.iter() {
                if *byte == 0 {
                    if at > start {
                        index.names.push((state, u32::try_from(start).unwrap_or(u32::MAX)));
                    }
                    start = at.saturating_add(1);
                    state = hash(b"");
                } else {
                    state = crate::kernel::kallsyms::hash_on(state, *byte);
                }
                at = at.saturating_add(1);
            }
        }
        index.names.sort_unstable();
        self.each(|id, ty| {
            match ty.kind {
                Kind::Struct | Kind::Union | Kind::Typedef if ty.name != 0 => {
                    index.composites.push((ty.name, id.0));
                }
                Kind::Enum | Kind::Enum64 => {
                    for name in types::enumerator_names(self.types_of(ty), ty) {
                        if index.enumerators.len() < MAX_ENUMERATORS {
                            index.enumerators.push((name, id.0));
                        }
                    }
                }
                _ => {}
            }
            ControlFlow::Continue(())
        })?;
        index.composites.sort_unstable();
        index.enumerators.sort_unstable();
        index.names.shrink_to_fit();
        index.composites.shrink_to_fit();
        index.enumerators.shrink_to_fit();
        Ok(index)
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
        for (_, at) in same(&self.names, wanted) {
            if btf.string(*at)? == name {
                return Ok(Some(*at));
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

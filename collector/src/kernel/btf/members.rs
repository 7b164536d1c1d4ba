//! Members of structures and unions, by dotted names, through anonymous ones.

use super::{Btf, BtfError, Kind, MAX_DEPTH, Type, TypeId};
use crate::vmcore::ReadError;

/// A member, from the start of the structure that was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Field {
    /// Bits from the start of the structure.
    pub bit_offset: u64,
    /// Bits of a bit-field; `None` for an ordinary member.
    pub bits: Option<u8>,
    /// Its type.
    pub ty: TypeId,
}

impl Field {
    /// Bytes from the start of the structure; `None` for a bit-field.
    pub fn offset(&self) -> Option<u64> {
        (self.bits.is_none() && self.bit_offset.is_multiple_of(8)).then_some(self.bit_offset / 8)
    }
}

/// Structures that are looked through for one name.
const MAX_VISITS: u32 = 4096;

impl Btf<'_> {
    /// A member by its dotted name, `a.b.c`, of a structure, a union, or a typedef of one. Arrays and pointers on the way
    /// end it.
    pub fn member(&self, of: TypeId, path: &str) -> Result<Field, BtfError> {
        let mut field = Field { bit_offset: 0, bits: None, ty: of };
        for name in path.split('.') {
            let (id, ty) = self.plain(field.ty)?;
            if !matches!(ty.kind, Kind::Struct | Kind::Union) {
                return Err(BtfError::NoSuch(format!(
                    "{} has no members, so no {name:?}",
                    self.shown(field.ty)?
                )));
            }
            let found = self.direct(id, name)?.ok_or_else(|| {
                let shown = self.shown(id).unwrap_or_default();
                BtfError::NoSuch(format!("{shown} has no member {name:?}"))
            })?;
            field = Field { bit_offset: field.bit_offset.saturating_add(found.bit_offset), ..found };
        }
        Ok(field)
    }

    /// Calls `visit` with the name and place of each member, as they are declared; those of anonymous members not, but the
    /// anonymous ones themselves, with an empty name.
    pub fn members(&self, of: TypeId, mut visit: impl FnMut(&str, Field)) -> Result<(), BtfError> {
        let (_, ty) = self.plain(of)?;
        for index in 0..member_count(&ty) {
            let (name, field) = self.stored(&ty, index)?;
            visit(&self.string(name)?, field);
        }
        Ok(())
    }

    /// A member of `of` or of anonymous members of it. `of` is a structure or union.
    fn direct(&self, of: TypeId, name: &str) -> Result<Option<Field>, BtfError> {
        let Some(wanted) = self.string_at(name)? else { return Ok(None) };
        if let Some(known) = self.seen(|seen| seen.fields.get(&(of, wanted)).copied()) {
            return Ok(known);
        }
        let found = self.search(of, wanted)?;
        self.seen(|seen| {
            if seen.fields.len() >= super::REMEMBERED {
                seen.fields.clear();
            }
            seen.fields.insert((of, wanted), found)
        });
        Ok(found)
    }

    fn search(&self, of: TypeId, wanted: u32) -> Result<Option<Field>, BtfError> {
        // Structures to look through: type, its place, how deep it is.
        let mut rest = vec![(of, 0_u64, 0_u32)];
        let mut visits = 0;
        while let Some((id, base, depth)) = rest.pop() {
            visits += 1;
            if visits > MAX_VISITS || depth > MAX_DEPTH {
                return Err(BtfError::Senseless(format!("type {} has anonymous members without end", of.0)));
            }
            let ty = self.get(id)?;
            for index in 0..member_count(&ty) {
                let (name, mut field) = self.stored(&ty, index)?;
                field.bit_offset = field.bit_offset.saturating_add(base);
                if name == wanted {
                    return Ok(Some(field));
                }
                if name == 0 && field.bits.is_none() {
                    let (inner, ty) = self.plain(field.ty)?;
                    if matches!(ty.kind, Kind::Struct | Kind::Union) {
                        rest.push((inner, field.bit_offset, depth.saturating_add(1)));
                    }
                }
            }
        }
        Ok(None)
    }

    /// A member as it is stored: where its name is, and what it is.
    fn stored(&self, ty: &Type, index: u64) -> Result<(u32, Field), ReadError> {
        let at = ty.body.saturating_add(index.saturating_mul(12));
        let types = self.types_of(ty);
        let (name, target, offset) =
            (types.u32(at)?, types.u32(at.saturating_add(4))?, types.u32(at.saturating_add(8))?);
        let (offset, bits) = if ty.flag {
            (offset & 0x00ff_ffff, u8::try_from(offset >> 24).ok().filter(|b| *b != 0))
        } else {
            (offset, None)
        };
        Ok((name, Field { bit_offset: u64::from(offset), bits, ty: TypeId(target) }))
    }
}

fn member_count(ty: &Type) -> u64 {
    if matches!(ty.kind, Kind::Struct | Kind::Union) { u64::from(ty.count) } else { 0 }
}

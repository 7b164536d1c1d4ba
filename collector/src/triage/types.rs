//! Members by the names of their types.

use super::{Dead, Known, REMEMBERED, Unknown};
use crate::kernel::btf::{Btf, Kind, TypeId};

/// A member of a structure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Member {
    /// Bytes from the start of the structure; of a bit-field, to the byte that it starts in.
    pub offset: u64,
    /// Bytes that it takes; of a bit-field, those of its type.
    pub size: u64,
    /// Of a bit-field: the lowest bit within the byte at `offset`, and how many.
    pub bits: Option<(u32, u32)>,
    /// Its type.
    pub ty: TypeId,
}

/// Elements of an array, and what one is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Elements {
    /// How many there are by its type.
    pub count: u64,
    /// Bytes of each.
    pub size: u64,
    /// The type of each.
    pub ty: TypeId,
}

impl<'a> Dead<'a> {
    /// The type of a `struct`, `union`, or `typedef` of one.
    pub fn ty(&self, name: &'static str) -> Known<TypeId> {
        let none = || Unknown::Missing(format!("this kernel has no struct {name}"));
        if let Some(known) = self.seen.borrow().types.get(name) {
            return known.ok_or_else(none);
        }
        let found = self.ty_named(name)?;
        self.seen.borrow_mut().types.insert(name, found);
        found.ok_or_else(none)
    }

    /// As [`Dead::ty`], of any name; `None` where there is none.
    pub fn ty_named(&self, name: &str) -> Known<Option<TypeId>> {
        let (btf, index) = self.types()?;
        Ok(index.composite(btf, name)?)
    }

    /// Whether there is such a type.
    pub fn has_type(&self, name: &'static str) -> bool {
        self.ty(name).is_ok()
    }

    /// Bytes of a structure.
    pub fn size_of(&self, name: &'static str) -> Known<u64> {
        Ok(self.btf()?.size(self.ty(name)?)?)
    }

    /// A member, by its dotted path: `signal.live`, `rss_stat[2].count`. Anonymous structures are passed through;
    /// pointers are not followed.
    pub fn member(&self, ty: &'static str, path: &'static str) -> Known<Member> {
        if let Some(known) = self.seen.borrow().members.get(&(ty, path)) {
            return Ok(*known);
        }
        let found = self.member_of(self.ty(ty)?, path)?;
        let mut seen = self.seen.borrow_mut();
        if seen.members.len() >= REMEMBERED {
            seen.members.clear();
        }
        seen.members.insert((ty, path), found);
        Ok(found)
    }

    /// As [`Dead::member`], of any type.
    pub fn member_of(&self, ty: TypeId, path: &str) -> Known<Member> {
        let (btf, index) = self.types()?;
        let mut found = Member { offset: 0, size: 0, bits: None, ty };
        for step in path.split('.') {
            let mut parts = step.split('[');
            let name = parts.next().unwrap_or_default();
            let field = index.member(btf, found.ty, name)?;
            let bits = field.bits.map(|n| (u32::try_from(field.bit_offset % 8).unwrap_or(0), u32::from(n)));
            found = Member {
                offset: found.offset.saturating_add(field.bit_offset / 8),
                size: btf.size(field.ty)?,
                bits,
                ty: field.ty,
            };
            for subscript in parts {
                let number = subscript.strip_suffix(']').and_then(|n| n.parse::<u64>().ok());
                let number = number.ok_or_else(|| Unknown::missing(format!("{path} is no path")))?;
                let elements = self.elements(found.ty)?;
                if number >= elements.count {
                    return Err(Unknown::Missing(format!("{path}: there are {} elements", elements.count)));
                }
                found.offset = found.offset.saturating_add(number.saturating_mul(elements.size));
                found.size = elements.size;
                found.ty = elements.ty;
            }
        }
        Ok(found)
    }

    /// Whether a structure has a member: how kernels are told apart.
    pub fn has(&self, ty: &'static str, path: &'static str) -> bool {
        self.member(ty, path).is_ok()
    }

    /// What an array is made of.
    pub fn elements(&self, ty: TypeId) -> Known<Elements> {
        let btf = self.btf()?;
        let (_, plain) = btf.plain(ty)?;
        if plain.kind != Kind::Array {
            return Err(Unknown::Missing(format!("{} is no array", btf.shown(ty)?)));
        }
        Ok(Elements { count: u64::from(plain.length), size: btf.size(plain.target)?, ty: plain.target })
    }

    /// Elements of an array member.
    pub fn elements_of(&self, ty: &'static str, path: &'static str) -> Known<Elements> {
        self.elements(self.member(ty, path)?.ty)
    }

    /// The value of an enumerator.
    pub fn enumerator(&self, name: &str) -> Known<i64> {
        let (btf, index) = self.types()?;
        index.enumerator(btf, name)?.ok_or_else(|| Unknown::Missing(format!("this kernel has no {name}")))
    }

    /// Where a member of the structure at `at` is.
    pub fn place(&self, at: u64, ty: &'static str, path: &'static str) -> Known<u64> {
        Ok(at.wrapping_add(self.member(ty, path)?.offset))
    }

    /// An unsigned integer, enumeration, pointer or bit-field of the structure at `at`.
    pub fn get(&self, at: u64, ty: &'static str, path: &'static str) -> Known<u64> {
        self.get_member(at, self.member(ty, path)?)
    }

    /// As [`Dead::get`], of a member that is known already.
    pub fn get_member(&self, at: u64, member: Member) -> Known<u64> {
        let at = at.wrapping_add(member.offset);
        let Some((shift, bits)) = member.bits else { return self.number(at, member.size) };
        let bytes = usize::try_from(shift.saturating_add(bits).div_ceil(8)).unwrap_or(8).min(8);
        let mut raw = [0; 8];
        self.read(at, raw.get_mut(..bytes).unwrap_or_default())?;
        let value = u64::from_le_bytes(raw) >> shift;
        Ok(if bits >= 64 { value } else { value & ((1 << bits) - 1) })
    }

    /// As [`Dead::get`], a signed one.
    pub fn signed(&self, at: u64, ty: &'static str, path: &'static str) -> Known<i64> {
        let member = self.member(ty, path)?;
        let value = self.get_member(at, member)?;
        let bits = member.bits.map_or(member.size.saturating_mul(8), |(_, bits)| u64::from(bits));
        let unused = u32::try_from(64_u64.saturating_sub(bits)).unwrap_or(0).min(63);
        Ok((value << unused).cast_signed() >> unused)
    }

    /// The text in a member that is an array of `char`.
    pub fn text(&self, at: u64, ty: &'static str, path: &'static str) -> Known<String> {
        let member = self.member(ty, path)?;
        let most = usize::try_from(member.size).unwrap_or(0).min(4096);
        self.cstring(at.wrapping_add(member.offset), most)
    }

    fn types(&self) -> Known<(&Btf<'a>, &crate::kernel::btf::Index)> {
        self.btf.as_ref().map(|(btf, index)| (btf, index)).map_err(|why| Unknown::Missing(why.clone()))
    }
}

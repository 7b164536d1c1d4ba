//! Typed memory: where something is and what it is, and the steps from there to members and to what pointers point at.

use super::parse::TypeName;
use super::symbols::composite;
use crate::addr::{PhysAddr, VirtAddr};
use crate::kernel::btf::{Among, Btf, BtfError, Kind, TypeId};
use crate::kernel::printk::Memory;
use crate::vmcore::{Endian, ReadError, VmcoreInfo};

/// A type: the kernel's own, or made by a rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Ty {
    Known(TypeId),
    Pointer(Box<Ty>),
    Array(Box<Ty>, u64),
}

/// Something of the dead kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Place {
    pub at: u64,
    pub ty: Ty,
}

/// What a type is, as far as erasing goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Shape {
    /// A structure or union.
    Composite(TypeId),
    Pointer(Ty),
    Array(Ty, u64),
    /// `char`.
    Char,
    /// An integer or an enumeration: bytes, signed.
    Number(u64, bool),
    /// Something else with a size.
    Other(u64),
    /// `void`, a function, a structure that is only declared.
    Nothing,
}

/// How the dead kernel's memory is reached.
pub(super) struct Access<'w> {
    pub memory: &'w dyn Memory,
    pub info: &'w VmcoreInfo,
    pub translate: &'w dyn Fn(VirtAddr) -> Result<PhysAddr, ReadError>,
}

impl Access<'_> {
    pub fn read_virt(&self, at: VirtAddr, buf: &mut [u8]) -> Result<(), ReadError> {
        self.memory.read(at, buf)
    }
    pub fn read_u64(&self, at: VirtAddr) -> Result<u64, ReadError> {
        let mut raw = [0; 8];
        self.memory.read(at, &mut raw)?;
        Ok(self.endian().u64(&raw, 0).unwrap_or(0))
    }
    pub fn endian(&self) -> Endian {
        self.memory.endian()
    }
}

/// Symbols and types together with the memory they are about.
pub(super) struct World<'w> {
    pub kernel: &'w Access<'w>,
    pub btf: &'w Btf<'w>,
}

fn text(e: BtfError) -> String {
    crate::engine::chain(&e)
}

impl World<'_> {
    pub fn shape(&self, ty: &Ty) -> Result<Shape, String> {
        let id = match ty {
            Ty::Pointer(to) => return Ok(Shape::Pointer((**to).clone())),
            Ty::Array(of, length) => return Ok(Shape::Array((**of).clone(), *length)),
            Ty::Known(id) => *id,
        };
        let (id, plain) = self.btf.plain(id).map_err(text)?;
        Ok(match plain.kind {
            Kind::Pointer => Shape::Pointer(Ty::Known(plain.target)),
            Kind::Array => Shape::Array(Ty::Known(plain.target), u64::from(plain.length)),
            Kind::Struct | Kind::Union => Shape::Composite(id),
            Kind::Int if plain.size == 1 && self.btf.name(&plain).map_err(text)? == "char" => Shape::Char,
            Kind::Int => Shape::Number(u64::from(plain.size), plain.encoding & 1 != 0),
            Kind::Enum | Kind::Enum64 => Shape::Number(u64::from(plain.size), false),
            Kind::Float => Shape::Other(u64::from(plain.size)),
            _ => Shape::Nothing,
        })
    }

    /// Bytes; 0 for what has no size.
    pub fn size(&self, ty: &Ty) -> Result<u64, String> {
        match ty {
            Ty::Known(id) => self.btf.size(*id).map_err(text),
            Ty::Pointer(_) => Ok(8),
            Ty::Array(of, length) => self
                .size(of)?
                .checked_mul(*length)
                .ok_or_else(|| "an array of more than 2^64 bytes".to_owned()),
        }
    }

    /// As C would write it.
    pub fn shown(&self, ty: &Ty) -> String {
        match ty {
            Ty::Known(id) => self.btf.shown(*id).unwrap_or_else(|_| "a type that cannot be read".to_owned()),
            Ty::Pointer(to) => format!("{} *", self.shown(to)),
            Ty::Array(of, length) => format!("{} [{length}]", self.shown(of)),
        }
    }

    /// The type that a rule names; `[]` has as many elements as `room` bytes.
    pub fn named(&self, name: &TypeName, room: u64) -> Result<Ty, String> {
        let mut found = None;
        for among in [Among::Composites, Among::Names, Among::Enums] {
            found = found.or(self.btf.find(among, &name.name).map_err(text)?);
        }
        let missing = || format!("the kernel's types (BTF) have no {}", name.name);
        let mut ty = match (found, name.name.as_str()) {
            (None, "void") => Ty::Known(TypeId::VOID),
            (found, _) => Ty::Known(found.ok_or_else(missing)?),
        };
        for _ in 0..name.pointers {
            ty = Ty::Pointer(Box::new(ty));
        }
        if let Some(length) = name.array {
            let size = self.size(&ty)?;
            let fits = room.checked_div(size).filter(|n| *n > 0);
            let length = length.or(fits).ok_or_else(|| {
                format!("{}[]: it is not known how many fit; write their number", name.name)
            })?;
            ty = Ty::Array(Box::new(ty), length);
        }
        Ok(ty)
    }

    /// Members of members. `None` when a pointer on the way is null; the names behind it are checked all the same.
    pub fn members(&self, place: Place, names: &[String]) -> Result<Option<Place>, String> {
        let mut place = place;
        let mut null = false;
        for name in names {
            // A pointer is followed as `.` would be `->`; one to a pointer is not.
            if let Shape::Pointer(to) = self.shape(&place.ty)? {
                let at = if null { 0 } else { self.pointer(place.at)? };
                null = at == 0;
                place = Place { at, ty: to };
            }
            let Shape::Composite(id) = self.shape(&place.ty)? else {
                return Err(format!("{} has no members, so no {name}", self.shown(&place.ty)));
            };
            let field = self.btf.member(id, name).map_err(text)?;
            let offset = field.offset().ok_or_else(|| {
                format!("{name} is a bit-field: erase the structure that it is in, or a size that covers it")
            })?;
            let at = place.at.checked_add(offset).ok_or_else(|| format!("{:#x} cannot be", place.at))?;
            place = Place { at, ty: Ty::Known(field.ty) };
        }
        Ok((!null).then_some(place))
    }

    /// The offset of a member that lies in the structure itself.
    pub fn offset(&self, of: TypeId, path: &[String]) -> Result<(u64, Ty), String> {
        let field = self.btf.member(of, &path.join(".")).map_err(text)?;
        let offset = field.offset().ok_or_else(|| format!("{} is a bit-field", path.join(".")))?;
        Ok((offset, Ty::Known(field.ty)))
    }

    pub fn pointer(&self, at: u64) -> Result<u64, String> {
        self.kernel.read_u64(VirtAddr::new(at)).map_err(|e| crate::engine::chain(&e))
    }

    /// An integer of 1, 2, 4 or 8 bytes.
    pub fn number(&self, place: &Place) -> Result<i64, String> {
        let Shape::Number(size @ (1 | 2 | 4 | 8), signed) = self.shape(&place.ty)? else {
            return Err(format!("{} is no number", self.shown(&place.ty)));
        };
        let mut raw = [0; 8];
        let bytes = raw.get_mut(..usize::try_from(size).unwrap_or(8)).unwrap_or_default();
        self.kernel.read_virt(VirtAddr::new(place.at), bytes).map_err(|e| crate::engine::chain(&e))?;
        let endian = self.kernel.endian();
        let wide = match size {
            1 => u64::from(raw.first().copied().unwrap_or(0)),
            2 => u64::from(endian.u16(&raw, 0).unwrap_or(0)),
            4 => u64::from(endian.u32(&raw, 0).unwrap_or(0)),
            _ => endian.u64(&raw, 0).unwrap_or(0),
        };
        let unused = u32::try_from(64 - size * 8).unwrap_or(0);
        Ok(if signed {
            wide.wrapping_shl(unused).cast_signed().wrapping_shr(unused)
        } else {
            wide.cast_signed()
        })
    }

    /// Whether a type is `struct list_head`.
    pub fn is_list_head(&self, ty: &Ty) -> Result<bool, String> {
        Ok(match self.shape(ty)? {
            Shape::Composite(id) => id == composite(self.btf, "list_head")?,
            _ => false,
        })
    }
}

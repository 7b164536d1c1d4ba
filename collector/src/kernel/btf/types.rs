//! One type as it is stored: 12 bytes, and what its kind adds to them.

use super::TypeId;
use crate::kernel::blob::Blob;
use crate::vmcore::ReadError;

/// What a type is (`BTF_KIND_*`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `void`.
    Void,
    /// An integer, `char` and `bool` included.
    Int,
    /// A pointer to [`Type::target`].
    Pointer,
    /// [`Type::length`] of [`Type::target`].
    Array,
    /// A structure.
    Struct,
    /// A union.
    Union,
    /// An enumeration; since v6.0 also of 64 bits ([`Kind::Enum64`]).
    Enum,
    /// A structure or union of which only the name is known.
    Forward,
    /// A name for [`Type::target`].
    Typedef,
    /// `volatile` [`Type::target`].
    Volatile,
    /// `const` [`Type::target`].
    Const,
    /// `restrict` [`Type::target`].
    Restrict,
    /// A function.
    Function,
    /// The type of a function.
    Prototype,
    /// A variable of [`Type::target`].
    Variable,
    /// The variables of a section.
    Section,
    /// A floating-point number.
    Float,
    /// An attribute of a declaration.
    DeclarationTag,
    /// An attribute of [`Type::target`].
    TypeTag,
    /// An enumeration of 64 bits.
    Enum64,
    /// One that this program does not know, from a later kernel: only that it has no trailing data can be hoped.
    Other(u8),
}

impl Kind {
    fn new(number: u8) -> Self {
        match number {
            1 => Self::Int,
            2 => Self::Pointer,
            3 => Self::Array,
            4 => Self::Struct,
            5 => Self::Union,
            6 => Self::Enum,
            7 => Self::Forward,
            8 => Self::Typedef,
            9 => Self::Volatile,
            10 => Self::Const,
            11 => Self::Restrict,
            12 => Self::Function,
            13 => Self::Prototype,
            14 => Self::Variable,
            15 => Self::Section,
            16 => Self::Float,
            17 => Self::DeclarationTag,
            18 => Self::TypeTag,
            19 => Self::Enum64,
            other => Self::Other(other),
        }
    }

    /// Another name for its target, or the same with a qualifier.
    pub fn is_alias(self) -> bool {
        matches!(self, Self::Typedef | Self::Volatile | Self::Const | Self::Restrict | Self::TypeTag)
    }

    /// What C writes before the name.
    pub(super) fn keyword(self) -> &'static str {
        match self {
            Self::Struct | Self::Forward => "struct ",
            Self::Union => "union ",
            Self::Enum | Self::Enum64 => "enum ",
            _ => "",
        }
    }

    /// Bytes that follow for each of `vlen`, and once.
    fn extra(self) -> (u64, u64) {
        match self {
            Self::Int | Self::Variable | Self::DeclarationTag => (0, 4),
            Self::Array => (0, 12),
            Self::Struct | Self::Union | Self::Section | Self::Enum64 => (12, 0),
            Self::Enum | Self::Prototype => (8, 0),
            _ => (0, 0),
        }
    }
}

/// A type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Type {
    /// What it is.
    pub kind: Kind,
    /// Bytes, of the kinds that have a size of their own; 0 for others.
    pub size: u32,
    /// What a pointer points at, an array is of, a typedef stands for; `void` for others.
    pub target: TypeId,
    /// Elements of an array; 0 for others.
    pub length: u32,
    /// Members of a structure or union, enumerators of an enumeration.
    pub count: u16,
    /// Of an integer: it is signed, a `char`, a `bool` (bits 0 to 2).
    pub encoding: u8,
    /// Bit 31 of `info`: members have bit-field sizes, enumerators are signed, a forward is a union.
    pub(super) flag: bool,
    /// It is a module's own, not the kernel's.
    pub(super) split: bool,
    /// Where its name is.
    pub(super) name: u32,
    /// Where its members or enumerators are.
    pub(super) body: u64,
    /// Where the next type is.
    pub(super) next: u64,
}

impl Type {
    pub(super) const VOID: Self = Self {
        kind: Kind::Void,
        size: 0,
        target: TypeId::VOID,
        length: 0,
        count: 0,
        encoding: 0,
        flag: false,
        split: false,
        name: 0,
        body: 0,
        next: 0,
    };
}

/// Reads the type at `at`.
pub(super) fn read(types: &Blob<'_>, at: u64) -> Result<Type, ReadError> {
    let [name, info, size] = types.u32s(at)?;
    let kind = Kind::new(u8::try_from(info >> 24 & 0x1f).unwrap_or(0));
    let count = u16::try_from(info & 0xffff).unwrap_or(0);
    let body = at.saturating_add(12);
    let (each, once) = kind.extra();
    let mut ty = Type {
        kind,
        flag: info >> 31 != 0,
        name,
        count,
        body,
        next: body.saturating_add(each.saturating_mul(u64::from(count))).saturating_add(once),
        ..Type::VOID
    };
    match kind {
        Kind::Int => {
            ty.size = size;
            ty.encoding = u8::try_from(types.u32(body)? >> 24 & 0xf).unwrap_or(0);
        }
        Kind::Struct | Kind::Union | Kind::Enum | Kind::Enum64 | Kind::Float | Kind::Section => {
            ty.size = size;
        }
        Kind::Array => {
            ty.target = TypeId(types.u32(body)?);
            ty.length = types.u32(body.saturating_add(8))?;
        }
        Kind::Void | Kind::Forward | Kind::Other(_) => {}
        _ => ty.target = TypeId(size),
    }
    Ok(ty)
}

/// The value of the enumerator whose name is at `wanted`, if `ty` has it.
pub(super) fn enumerator(types: &Blob<'_>, ty: &Type, wanted: u32) -> Result<Option<i64>, ReadError> {
    let step = match ty.kind {
        Kind::Enum => 8,
        Kind::Enum64 => 12,
        _ => return Ok(None),
    };
    for index in 0..u64::from(ty.count) {
        let at = ty.body.saturating_add(index * step);
        if types.u32(at)? == wanted {
            let low = types.u32(at.saturating_add(4))?;
            return Ok(Some(match ty.kind {
                Kind::Enum64 => {
                    (u64::from(low) | u64::from(types.u32(at.saturating_add(8))?) << 32).cast_signed()
                }
                // Since v6.0 a flag says which are signed; before, those that look negative are.
                _ => i64::from(low.cast_signed()),
            }));
        }
    }
    Ok(None)
}

/// Where the names of an enumeration's enumerators are; as many as can be read.
pub(super) fn enumerator_names<'t>(types: &'t Blob<'_>, ty: &Type) -> impl Iterator<Item = u32> + 't {
    let step = match ty.kind {
        Kind::Enum64 => 12,
        _ => 8,
    };
    let body = ty.body;
    (0..u64::from(ty.count)).map_while(move |index| types.u32(body.saturating_add(index * step)).ok())
}

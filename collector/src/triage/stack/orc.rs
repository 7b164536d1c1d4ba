//! The ORC tables of the kernel and of its modules, looked up where they lie.
//!
//! A table of addresses, each relative to its own place, and one of entries, 6 bytes each, for the code from each address on.
//! Sorted when the kernel is built since Linux commit f14bf6a350df ("x86/unwind/orc: Remove boot-time ORC unwind tables
//! sorting") (in v5.6), a module's when it is loaded.

use super::super::{Dead, Known, Member, Unknown};
use std::cell::RefCell;
use std::collections::HashMap;

/// Entries of a table; no kernel has a tenth.
const MAX_ENTRIES: u64 = 16 << 20;

/// Bytes of an entry.
const ENTRY: u64 = 6;

/// A register that a place on the stack is found by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Base {
    Undefined,
    PreviousSp,
    Ax,
    Dx,
    Di,
    Bp,
    Sp,
    R10,
    R13,
    BpIndirect,
    SpIndirect,
    Unknown(u64),
}

impl Base {
    fn old(number: u64) -> Self {
        match number {
            0 => Self::Undefined,
            1 => Self::PreviousSp,
            2 => Self::Dx,
            3 => Self::Di,
            4 => Self::Bp,
            5 => Self::Sp,
            6 => Self::R10,
            7 => Self::R13,
            8 => Self::BpIndirect,
            9 => Self::SpIndirect,
            other => Self::Unknown(other),
        }
    }

    /// As they are numbered since v7.1.
    fn new(number: u64) -> Self {
        match number {
            0 => Self::Undefined,
            1 => Self::Ax,
            2 => Self::Dx,
            3 => Self::Sp,
            4 => Self::Bp,
            5 => Self::Di,
            6 => Self::R10,
            7 => Self::R13,
            8 => Self::PreviousSp,
            9 => Self::SpIndirect,
            10 => Self::BpIndirect,
            other => Self::Unknown(other),
        }
    }
}

/// What lies at the place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// Nothing is known of the code.
    Undefined,
    /// Nobody called it.
    End,
    /// A return address lies before it.
    Call,
    /// A `struct pt_regs`.
    Registers,
    /// The last five words of one: what the CPU itself puts there.
    Partial,
}

/// What the table says of an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    pub sp: (Base, i16),
    pub bp: (Base, i16),
    pub kind: Kind,
}

/// One pair of tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Table {
    addresses: u64,
    entries: u64,
    count: u64,
}

/// Where the parts of `struct orc_entry` are.
#[derive(Clone, Copy, Debug)]
struct Layout {
    sp_offset: Member,
    bp_offset: Member,
    sp_reg: Member,
    bp_reg: Member,
    kind: Member,
    /// Until v6.3. Since Linux commit fb799447ae29 ("x86,objtool: Split UNWIND_HINT_EMPTY in two") (in v6.4) it is one of the
    /// kinds, which got other numbers.
    end: Option<Member>,
    /// Registers are numbered as since v7.1.
    renumbered: bool,
}

/// All tables, opened.
pub(super) struct Tables {
    layout: Layout,
    kernel: Table,
    seen: RefCell<HashMap<u64, Entry>>,
}

impl Tables {
    /// `None` of a kernel that has none: it was built without CONFIG_UNWINDER_ORC.
    pub fn open(dead: &Dead<'_>) -> Option<Self> {
        let symbol = |name| dead.symbol(name).ok();
        let (addresses, end) = (symbol("__start_orc_unwind_ip")?, symbol("__stop_orc_unwind_ip")?);
        let entries = symbol("__start_orc_unwind")?;
        let count = end.checked_sub(addresses)? / 4;
        if count == 0 || count > MAX_ENTRIES {
            dead.note(format!("the ORC table has {count} entries, which cannot be"));
            return None;
        }
        let member = |path| dead.member("orc_entry", path);
        let layout = || {
            Ok::<_, Unknown>(Layout {
                sp_offset: member("sp_offset")?,
                bp_offset: member("bp_offset")?,
                sp_reg: member("sp_reg")?,
                bp_reg: member("bp_reg")?,
                kind: member("type")?,
                end: member("end").ok(),
                renumbered: false,
            })
        };
        let layout = dead.known("stacks by ORC", layout())?;
        let mut tables =
            Self { layout, kernel: Table { addresses, entries, count }, seen: RefCell::default() };
        tables.layout.renumbered = tables.is_renumbered(dead);
        Some(tables)
    }

    /// Numbers of registers are told by no type. At the first byte of a function only the return address is on the stack: the
    /// register that it is found by is the stack pointer.
    fn is_renumbered(&self, dead: &Dead<'_>) -> bool {
        /// ORC_REG_SP since v7.1; ORC_REG_DI before.
        const SP: u64 = 3;
        let functions = ["panic", "schedule", "vprintk", "vfs_read", "__schedule"];
        functions.iter().any(|name| {
            let Ok(at) = dead.symbol(name) else { return false };
            let Ok(Some(raw)) = self.find(dead, self.kernel, at) else { return false };
            dead.get_member(raw, self.layout.sp_reg) == Ok(SP)
                && dead.get_member(raw, self.layout.sp_offset) == Ok(8)
        })
    }

    /// What is known of the code at `ip`.
    pub fn entry(&self, dead: &Dead<'_>, ip: u64) -> Known<Option<Entry>> {
        if let Some(known) = self.seen.borrow().get(&ip) {
            return Ok(Some(*known));
        }
        let table = if dead.image().is_some_and(|image| image.contains(&ip)) {
            Some(self.kernel)
        } else {
            self.of_module(dead, ip)?
        };
        let Some(table) = table else { return Ok(None) };
        let Some(at) = self.find(dead, table, ip)? else { return Ok(None) };
        let entry = self.read(dead, at)?;
        let mut seen = self.seen.borrow_mut();
        if seen.len() < 4096 {
            seen.insert(ip, entry);
        }
        Ok(Some(entry))
    }

    /// The table of the module whose code holds `ip`.
    fn of_module(&self, dead: &Dead<'_>, ip: u64) -> Known<Option<Table>> {
        let holds = |m: &&super::super::names::Extent| m.text.iter().any(|range| range.contains(&ip));
        let Some(module) = dead.module_extents().iter().find(holds) else { return Ok(None) };
        let of = |path| dead.get(module.at, "module", path);
        let (count, addresses, entries) =
            (of("arch.num_orcs")?, of("arch.orc_unwind_ip")?, of("arch.orc_unwind")?);
        if count > MAX_ENTRIES {
            return Err(Unknown::Senseless(format!("module {} has {count} ORC entries", module.name)));
        }
        Ok((count > 0).then_some(Table { addresses, entries, count }))
    }

    /// Where the entry of `ip` lies: that of the last address that is not behind it.
    fn find(&self, dead: &Dead<'_>, table: Table, ip: u64) -> Known<Option<u64>> {
        let address = |index: u64| -> Known<u64> {
            let at = table.addresses.wrapping_add(index.wrapping_mul(4));
            Ok(at.wrapping_add_signed(i64::from(dead.i32(at)?)))
        };
        let (mut low, mut high) = (0, table.count);
        while low < high {
            let middle = low.midpoint(high);
            if address(middle)? > ip { high = middle } else { low = middle.saturating_add(1) }
        }
        let index = low.checked_sub(1);
        Ok(index.map(|index| table.entries.wrapping_add(index.wrapping_mul(ENTRY))))
    }

    fn read(&self, dead: &Dead<'_>, at: u64) -> Known<Entry> {
        let Layout { sp_offset, bp_offset, sp_reg, bp_reg, kind, end, renumbered } = self.layout;
        let get = |member| dead.get_member(at, member);
        let offset =
            |member| Ok::<_, Unknown>(u16::try_from(get(member)? & 0xffff).unwrap_or(0).cast_signed());
        let base = |member| {
            Ok::<_, Unknown>(if renumbered { Base::new(get(member)?) } else { Base::old(get(member)?) })
        };
        let sp = (base(sp_reg)?, offset(sp_offset)?);
        let kind = match (end, get(kind)?) {
            (Some(end), _) if get(end)? != 0 => Kind::End,
            (Some(_), _) if sp.0 == Base::Undefined => Kind::Undefined,
            (Some(_), 0) | (None, 2) => Kind::Call,
            (Some(_), 1) | (None, 3) => Kind::Registers,
            (Some(_), 2) | (None, 4) => Kind::Partial,
            (None, 1) => Kind::End,
            _ => Kind::Undefined,
        };
        Ok(Entry { sp, bp: (base(bp_reg)?, offset(bp_offset)?), kind })
    }
}

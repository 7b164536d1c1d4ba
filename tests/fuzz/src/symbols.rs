//! What a kernel says of itself: its symbol table, its types, and rules that name them.

use crate::{Bases, Draw};
use collector::addr::VirtAddr;
use collector::erase::Rules;
use collector::kernel::btf::{Among, Btf, TypeId};
use collector::kernel::kallsyms::Kallsyms;
use collector::kernel::printk::Memory;
use collector::vmcore::{Endian, ReadError, VmcoreInfo};
use std::ops::ControlFlow;

/// Where the memory starts that an input is.
const START: u64 = 0xffff_ffff_8100_0000;

/// An input as a stretch of the kernel's memory, with zeros after it.
struct Ram<'a> {
    bytes: &'a [u8],
    len: usize,
    endian: Endian,
}

impl<'a> Ram<'a> {
    fn new(big: bool, bytes: &'a [u8], len: usize) -> Self {
        Self { bytes, len, endian: if big { Endian::Big } else { Endian::Little } }
    }
}

impl Memory for Ram<'_> {
    fn read(&self, at: VirtAddr, buf: &mut [u8]) -> Result<(), ReadError> {
        let from = at.get().checked_sub(START).and_then(|from| usize::try_from(from).ok());
        let from = from.filter(|from| from.checked_add(buf.len()).is_some_and(|end| end <= self.len));
        let from = from.ok_or_else(|| ReadError::NotMapped { at, why: "past the input".to_owned() })?;
        let there = self.bytes.get(from..).unwrap_or_default();
        buf.fill(0);
        buf.iter_mut().zip(there).for_each(|(to, from)| *to = *from);
        Ok(())
    }
    fn endian(&self) -> Endian {
        self.endian
    }
}

/// The input is the blob: every type of it is asked everything.
pub fn btf(_: &Bases, data: &[u8]) {
    let mut draw = Draw(data);
    let big = draw.byte() & 1 == 1;
    let ram = Ram::new(big, draw.0, draw.0.len());
    let Ok(btf) = Btf::at(&ram, VirtAddr::new(START), draw.0.len() as u64) else { return };
    drop(btf.each(|_, ty| {
        drop(btf.name(ty));
        ControlFlow::Continue(())
    }));
    for id in (0..btf.count().min(64)).chain([btf.count(), u32::MAX]).map(TypeId) {
        drop((btf.get(id), btf.plain(id), btf.size(id), btf.shown(id)));
        drop(btf.member(id, "next.prev"));
        let mut members = Vec::new();
        drop(btf.members(id, |name, _| members.push(name.to_owned())));
        for name in members.iter().take(4) {
            drop(btf.member(id, name));
        }
    }
    for among in [Among::Composites, Among::Enums, Among::Names, Among::Variables] {
        drop(btf.find(among, "list_head"));
    }
    drop((btf.variable("init_task"), btf.enumerator("PG_lru")));
}

/// The input is VMCOREINFO, after two bytes with its length, and memory.
pub fn kallsyms(_: &Bases, data: &[u8]) {
    let mut draw = Draw(data);
    let what = draw.number(2);
    let text = draw.bytes(usize::try_from(what & 0x7fff).unwrap_or(0));
    let ram = Ram::new(what >> 15 == 1, draw.0, 64 << 10);
    let Ok(symbols) = Kallsyms::open(&ram, &VmcoreInfo::parse(text)) else { return };
    let mut each = 0_u32;
    drop(symbols.each(|_, _, _| {
        each += 1;
        ControlFlow::Continue(())
    }));
    assert!(each <= symbols.count(), "{each} of {} symbols", symbols.count());
    for index in [0, 1, symbols.count().saturating_sub(1), symbols.count(), u32::MAX] {
        drop((symbols.address(index), symbols.symbol(index)));
    }
    drop((symbols.find("init_uts_ns"), symbols.find_all(&["prb", "", "_stext"], 3)));
    for at in [0, START, START + 0x1800, u64::MAX] {
        drop((symbols.at(VirtAddr::new(at)), symbols.extent(VirtAddr::new(at))));
    }
}

/// The input is the text of erase rules.
pub fn rules(_: &Bases, data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match Rules::parse(&text) {
        Ok(rules) => drop(format!("{rules:?} {}", rules.is_empty())),
        Err(e) => drop(e.to_string()),
    }
}

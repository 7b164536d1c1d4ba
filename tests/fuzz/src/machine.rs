//! ELF files, their notes, VMCOREINFO, and the kernel's structures behind them.

use crate::base::{Base, Patched, Phase};
use crate::exercise::{How, exercise, log as read_log};
use crate::{Bases, Draw};
use collector::addr::VirtAddr;
use collector::engine::Engine;
use collector::input::Input;
use collector::vmcore::{ReadAt, VmcoreInfo};
use std::path::PathBuf;

/// The input is the file.
pub fn elf(_: &Bases, data: &[u8]) {
    let mut draw = Draw(data);
    let how = How::of(&mut draw);
    let file = draw.0.to_vec();
    read_log(&file);
    exercise(&file, &how);
}

/// The input is the PT_NOTE of a small file of either byte order.
pub fn notes(_: &Bases, data: &[u8]) {
    let mut draw = Draw(data);
    let big = draw.byte() & 1 == 1;
    let how = How::of(&mut draw);
    let file = with_notes(big, draw.0);
    if let Ok(engine) = Engine::open(&file) {
        let vmcore = engine.vmcore();
        assert!(vmcore.notes().len() <= draw.0.len().next_multiple_of(4));
        let range = vmcore.vmcoreinfo_range();
        assert!(vmcore.notes().get(range).is_some(), "VMCOREINFO is among the notes");
    }
    exercise(&file, &how);
}

/// An x86-64 or s390x file with these notes and two pages of memory.
fn with_notes(big: bool, notes: &[u8]) -> Vec<u8> {
    let order = |value: u64, len: usize| -> Vec<u8> {
        if big { value.to_be_bytes()[8 - len..].to_vec() } else { value.to_le_bytes()[..len].to_vec() }
    };
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    file[5] = if big { 2 } else { 1 };
    let data = 176 + notes.len() as u64;
    let head: [(u64, usize); 13] = [
        (4, 2),
        (if big { 22 } else { 62 }, 2),
        (1, 4),
        (0, 8),
        (64, 8),
        (0, 8),
        (0, 4),
        (64, 2),
        (56, 2),
        (2, 2),
        (0, 2),
        (0, 2),
        (0, 2),
    ];
    let program =
        |kind, at, phys, len| [(kind, 4), (0, 4), (at, 8), (0, 8), (phys, 8), (len, 8), (len, 8), (0, 8)];
    let (note, load) = (program(4, 176, 0, notes.len() as u64), program(1, data, 0x1000, 0x2000));
    for (value, len) in head.into_iter().chain(note).chain(load) {
        file.extend(order(value, len));
    }
    file.extend(notes);
    file.extend([7; 0x2000]);
    file
}

/// The input is text: parsed by itself, and added to a machine's VMCOREINFO, where the last line of a key counts.
pub fn vmcoreinfo(bases: &Bases, data: &[u8]) {
    let mut draw = Draw(data);
    let which = draw.byte();
    let how = How::of(&mut draw);
    ask(&VmcoreInfo::parse(draw.0));
    let Some(base) = bases.choose("elf-", which) else { return };
    let Some(source) = with_more_info(base, draw.0) else { return };
    let Ok(mut engine) = Engine::open(&source) else { return };
    for at in [0, 0x1000, 0xffff_8880_0000_0000, 0xffff_ffff_8100_0000, u64::MAX] {
        drop(engine.trace(VirtAddr::new(at)));
    }
    drop(engine);
    read_log(&source);
    exercise(&source, &how);
}

fn ask(info: &VmcoreInfo) {
    for name in ["prb", "page", "page.flags", "mem_section", "phys_base", "zone.free_area"] {
        let _ = (info.get(name), info.symbol(name), info.size(name), info.offset(name));
        let _ = (info.length(name), info.number(name));
    }
}

/// The machine with a PT_NOTE at the end of its file that holds its VMCOREINFO and these lines.
fn with_more_info(base: &Base, lines: &[u8]) -> Option<Patched> {
    let plain = base.plain();
    let (mut text, big) = {
        let engine = Engine::open(&plain).ok()?;
        let vmcore = engine.vmcore();
        let text = vmcore.notes().get(vmcore.vmcoreinfo_range())?.to_vec();
        (text, vmcore.endian() == collector::vmcore::Endian::Big)
    };
    text.push(b'\n');
    text.extend(lines);
    let word = |value: usize, len: usize| -> Vec<u8> {
        let value = value as u64;
        if big { value.to_be_bytes()[8 - len..].to_vec() } else { value.to_le_bytes()[..len].to_vec() }
    };
    let mut note = [word(11, 4), word(text.len(), 4), word(0, 4), b"VMCOREINFO\0\0".to_vec(), text].concat();
    note.resize(note.len().next_multiple_of(4), 0);
    let mut source = plain;
    let len = note.len();
    let at = source.append(note);
    // The builder's first program header is the PT_NOTE: p_offset and p_filesz.
    source.patch(64 + 8, &word(at, 8));
    source.patch(64 + 32, &word(len, 8));
    Some(source)
}

/// The input is patches of a machine or of a dump of one.
pub fn machine(bases: &Bases, data: &[u8]) {
    patched(bases, data, None, |source, how| {
        read_log(source);
        exercise(source, how);
    });
}

/// As [`machine`], of what the log's reader reads, and only that runs: many more a second.
pub fn log(bases: &Bases, data: &[u8]) {
    patched(bases, data, Some(Phase::Log), |source, _| read_log(source));
}

fn patched(bases: &Bases, data: &[u8], only: Option<Phase>, run: impl Fn(&dyn ReadAt, &How)) {
    let mut draw = Draw(data);
    let Some(base) = bases.choose("", draw.byte()) else { return };
    let how = How::of(&mut draw);
    let source = base.patched(&mut draw, only);
    if let Ok(input) = Input::of(vec![(PathBuf::from("patched"), Box::new(source))]) {
        run(input.source(), &how);
    }
}

//! As much of ELF as packing needs: the module information in a kernel module, and a program without what only a
//! debugger reads. 64 bits, either byte order. Every offset is checked; a file that lies about itself is an error.

use std::ops::Range;

const MAGIC: &[u8] = b"\x7fELF";
const CLASS: usize = 4;
const CLASS_64: u8 = 2;
const DATA: usize = 5;
const DATA_BIG: u8 = 2;
const DATA_LITTLE: u8 = 1;

// Fields of Elf64_Ehdr (System V ABI, "ELF Header"), by offset.
const E_TYPE: usize = 16;
const E_MACHINE: usize = 18;
const E_PHOFF: usize = 32;
const E_SHOFF: usize = 40;
const E_PHENTSIZE: usize = 54;
const E_PHNUM: usize = 56;
const E_SHENTSIZE: usize = 58;
const E_SHNUM: usize = 60;
const E_SHSTRNDX: usize = 62;
const E_SIZE: usize = 64;

const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;

/// Sizes of Elf64_Phdr and Elf64_Shdr.
const PHDR: usize = 56;
const SHDR: usize = 64;

// Tags of Elf64_Dyn, of which each is 16 bytes: tag and value.
const DT_NULL: usize = 0;
const DT_NEEDED: usize = 1;
const DT_STRTAB: usize = 5;
const DT_RPATH: usize = 15;
const DT_RUNPATH: usize = 29;
const DYN: usize = 16;
/// More entries than any dynamic section has.
const MAX_DYN: usize = 4096;
/// The longest string that is taken from one.
const MAX_STRING: usize = 4096;

struct Elf<'a> {
    bytes: &'a [u8],
    big: bool,
}

impl<'a> Elf<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self, &'static str> {
        if !bytes.starts_with(MAGIC) || bytes.len() < E_SIZE {
            return Err("not an ELF file");
        }
        if bytes.get(CLASS) != Some(&CLASS_64) {
            return Err("not a 64-bit ELF file");
        }
        match bytes.get(DATA) {
            Some(&DATA_LITTLE) => Ok(Self { bytes, big: false }),
            Some(&DATA_BIG) => Ok(Self { bytes, big: true }),
            _ => Err("an ELF file of no known byte order"),
        }
    }

    fn array<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        let mut array: [u8; N] = self.bytes.get(at..at.checked_add(N)?)?.try_into().ok()?;
        if self.big {
            array.reverse();
        }
        Some(array)
    }

    fn u16(&self, at: usize) -> Option<u16> {
        self.array(at).map(u16::from_le_bytes)
    }

    fn u32(&self, at: usize) -> Option<u32> {
        self.array(at).map(u32::from_le_bytes)
    }

    /// A 64-bit field that is an offset or size in the file.
    fn size(&self, at: usize) -> Option<usize> {
        self.array(at).map(u64::from_le_bytes).and_then(|n| usize::try_from(n).ok())
    }

    /// Where the entries of a header table begin. Tables with more entries than 16 bits express are no concern here.
    fn table(&self, offset: usize, entry_size: usize, count: usize, minimum: usize) -> Option<Vec<usize>> {
        let (start, size, count) = (self.size(offset)?, self.u16(entry_size)?, self.u16(count)?);
        if count == 0 {
            return Some(Vec::new());
        }
        if usize::from(size) < minimum {
            return None;
        }
        let end = start.checked_add(usize::from(size).checked_mul(usize::from(count))?)?;
        (end <= self.bytes.len()).then(|| (start..end).step_by(usize::from(size)).collect())
    }

    fn range(&self, offset: usize, size: usize) -> Option<Range<usize>> {
        let start = self.size(offset)?;
        let end = start.checked_add(self.size(size)?)?;
        (end <= self.bytes.len()).then_some(start..end)
    }
}

/// The contents of the section called `name`.
pub(crate) fn section<'a>(bytes: &'a [u8], name: &str) -> Result<&'a [u8], &'static str> {
    let elf = Elf::new(bytes)?;
    let damaged = "its section headers lead outside of the file";
    let headers = elf.table(E_SHOFF, E_SHENTSIZE, E_SHNUM, SHDR).ok_or(damaged)?;
    let names = elf.u16(E_SHSTRNDX).and_then(|i| headers.get(usize::from(i)).copied()).ok_or(damaged)?;
    let names = elf.range(names + 24, names + 32).and_then(|r| bytes.get(r)).ok_or(damaged)?;
    for header in headers {
        let at = elf.u32(header).and_then(|n| usize::try_from(n).ok()).ok_or(damaged)?;
        let found = names
            .get(at..)
            .and_then(|n| n.strip_prefix(name.as_bytes()))
            .is_some_and(|n| n.first() == Some(&0));
        if found {
            return elf.range(header + 24, header + 32).and_then(|r| bytes.get(r)).ok_or(damaged);
        }
    }
    Err("it has no such section")
}

/// What the collector's file must hold to run as PID 1: it without section headers, symbols and debugging
/// information, which all lie behind the last byte that is ever loaded. Refuses what could not run in an image
/// without libraries.
pub(crate) fn strip(mut bytes: Vec<u8>) -> Result<Vec<u8>, &'static str> {
    let elf = Elf::new(&bytes)?;
    let damaged = "its program headers lead outside of the file";
    if !matches!(elf.u16(E_TYPE), Some(ET_EXEC | ET_DYN)) {
        return Err("not a program");
    }
    let headers = elf.table(E_PHOFF, E_PHENTSIZE, E_PHNUM, PHDR).ok_or(damaged)?;
    let mut end = headers.last().map_or(E_SIZE, |last| last + PHDR);
    let mut loads = false;
    for header in headers {
        match elf.u32(header) {
            Some(PT_INTERP) => {
                return Err("it is dynamically linked, and the image has no libraries; build it with \
                            RUSTFLAGS='-C target-feature=+crt-static'");
            }
            kind => loads |= kind == Some(PT_LOAD),
        }
        end = end.max(elf.range(header + 8, header + 32).ok_or(damaged)?.end);
    }
    if !loads {
        return Err("nothing in it is loaded");
    }
    bytes.truncate(end);
    for field in [E_SHOFF..E_SHOFF + 8, E_SHNUM..E_SHNUM + 2, E_SHSTRNDX..E_SHSTRNDX + 2] {
        bytes.get_mut(field).ok_or(damaged)?.fill(0);
    }
    Ok(bytes)
}

/// What a program or library says that it needs to be loaded.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Dynamic {
    /// ELF machine number: libraries must have the same.
    pub machine: u16,
    /// The program that loads it: `/lib64/ld-linux-x86-64.so.2`. Libraries have none.
    pub interpreter: Option<String>,
    /// Names of libraries.
    pub needed: Vec<String>,
    /// Directories where they and their libraries are looked for first, unexpanded; colons between them.
    pub rpath: Option<String>,
    /// Directories where they, and they alone, are looked for; replaces `rpath`.
    pub runpath: Option<String>,
}

/// Whether bytes begin as ELF does.
pub(crate) fn is_elf(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// What a 64-bit program or library needs. One that is linked statically needs nothing.
pub(crate) fn dynamic(bytes: &[u8]) -> Result<Dynamic, &'static str> {
    let elf = Elf::new(bytes)?;
    let damaged = "its program headers lead outside of the file";
    if !matches!(elf.u16(E_TYPE), Some(ET_EXEC | ET_DYN)) {
        return Err("neither a program nor a library");
    }
    let headers = elf.table(E_PHOFF, E_PHENTSIZE, E_PHNUM, PHDR).ok_or(damaged)?;
    let mut found = Dynamic { machine: elf.u16(E_MACHINE).ok_or(damaged)?, ..Dynamic::default() };
    let mut table = None;
    for header in &headers {
        match elf.u32(*header) {
            Some(PT_INTERP) => {
                let range = elf.range(header + 8, header + 32).ok_or(damaged)?;
                found.interpreter = Some(string(bytes, range.start).ok_or("its interpreter has no name")?);
            }
            Some(PT_DYNAMIC) => table = Some(elf.range(header + 8, header + 32).ok_or(damaged)?),
            _ => {}
        }
    }
    let Some(table) = table else { return Ok(found) };
    let entries: Vec<(usize, usize)> = table
        .step_by(DYN)
        .take(MAX_DYN)
        .map_while(|at| Some((elf.size(at)?, elf.size(at + 8)?)))
        .take_while(|(tag, _)| *tag != DT_NULL)
        .collect();
    // The table of strings is given by its address in memory.
    let Some((_, address)) = entries.iter().find(|(tag, _)| *tag == DT_STRTAB) else { return Ok(found) };
    let strings = headers.iter().find_map(|header| {
        let file = elf.range(header + 8, header + 32).filter(|_| elf.u32(*header) == Some(PT_LOAD))?;
        let skip = address.checked_sub(elf.size(header + 16)?)?;
        (skip < file.len()).then_some(file.start + skip)
    });
    let strings = strings.ok_or("its table of strings is nowhere in the file")?;
    for (tag, value) in entries {
        if !matches!(tag, DT_NEEDED | DT_RPATH | DT_RUNPATH) {
            continue;
        }
        let text = strings.checked_add(value).and_then(|at| string(bytes, at));
        let text = text.ok_or("a name in it leads outside of the file")?;
        match tag {
            DT_NEEDED => found.needed.push(text),
            DT_RPATH => found.rpath = Some(text),
            _ => found.runpath = Some(text),
        }
    }
    Ok(found)
}

/// The text up to a zero.
fn string(bytes: &[u8], at: usize) -> Option<String> {
    let bytes = bytes.get(at..)?;
    let end = bytes.iter().take(MAX_STRING).position(|b| *b == 0)?;
    String::from_utf8(bytes.get(..end)?.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A program with one segment that ends at 0x100, a note before it, and 0x40 bytes behind.
    fn program(kind: u32, file_size: u64) -> Vec<u8> {
        let mut bytes = vec![0; 0x140];
        bytes[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\0");
        bytes[E_TYPE] = 3;
        bytes[E_PHOFF] = 64;
        bytes[E_SHOFF..E_SHOFF + 2].copy_from_slice(&[0x00, 0x01]);
        bytes[E_PHENTSIZE] = 56;
        bytes[E_PHNUM] = 2;
        bytes[E_SHENTSIZE] = 64;
        bytes[E_SHNUM] = 1;
        bytes[64..68].copy_from_slice(&4_u32.to_le_bytes());
        bytes[120..124].copy_from_slice(&kind.to_le_bytes());
        bytes[120 + 8..120 + 16].copy_from_slice(&0xb0_u64.to_le_bytes());
        bytes[120 + 32..120 + 40].copy_from_slice(&file_size.to_le_bytes());
        bytes
    }

    #[test]
    fn strips_what_is_not_loaded() {
        let stripped = strip(program(PT_LOAD, 0x50)).unwrap();
        assert_eq!(stripped.len(), 0x100);
        assert_eq!(stripped[E_SHOFF..E_SHOFF + 8], [0; 8]);
        assert_eq!(stripped[E_SHNUM..E_SIZE], [0; 4]);
        assert_eq!(strip(stripped.clone()).unwrap(), stripped, "once more changes nothing");
    }

    #[test]
    fn refuses_what_cannot_run() {
        for (bytes, reason) in [
            (program(PT_INTERP, 0x50), "dynamically linked"),
            (program(PT_LOAD, 0x91), "outside"),
            (program(PT_LOAD, u64::MAX), "outside"),
            (program(7, 0), "nothing in it is loaded"),
            (program(PT_LOAD, 0x50)[..0x80].to_vec(), "outside"),
            (b"\x7fELF\x01".to_vec(), "not an ELF file"),
            (b"#!/bin/sh".to_vec(), "not an ELF file"),
        ] {
            let found = strip(bytes).unwrap_err();
            assert!(found.contains(reason), "{found}");
        }
        let mut class_32 = program(PT_LOAD, 0x50);
        class_32[CLASS] = 1;
        assert_eq!(strip(class_32), Err("not a 64-bit ELF file"));
        let mut object = program(PT_LOAD, 0x50);
        object[E_TYPE] = 1;
        assert_eq!(strip(object), Err("not a program"));
    }

    /// The test itself is a program of this machine, and what it needs is known.
    #[test]
    fn a_real_program_is_understood() {
        let bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let found = dynamic(&bytes).unwrap();
        assert!(found.interpreter.as_deref().is_none_or(|i| i.starts_with('/')), "{found:?}");
        assert_eq!(
            found.interpreter.is_some(),
            found.needed.iter().any(|n| n.starts_with("libc.")),
            "{found:?}"
        );
        assert_ne!(found.machine, 0);
    }

    proptest! {
        #[test]
        fn damage_is_no_panic(
            damage in proptest::collection::vec((0..0x140_usize, any::<u8>()), 0..20), end in 0..0x140_usize
        ) {
            let mut bytes = program(PT_LOAD, 0x50);
            for (at, value) in damage {
                bytes[at] = value;
            }
            let _ = section(&bytes, ".modinfo");
            let _ = strip(bytes.clone());
            let _ = dynamic(&bytes);
            bytes.truncate(end);
            let _ = dynamic(&bytes);
            let _ = section(&bytes, ".modinfo");
            let _ = strip(bytes);
        }
    }
}

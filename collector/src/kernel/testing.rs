//! A kernel's memory for tests: pages here and there, a symbol table in any encoding, types.

use super::printk::Memory;
use crate::addr::VirtAddr;
use crate::vmcore::{Endian, ReadError};
use std::collections::BTreeMap;

/// Virtual memory, by pages of 4096 bytes.
#[derive(Clone)]
pub(crate) struct Ram {
    pages: BTreeMap<u64, [u8; 4096]>,
    pub endian: Endian,
}

impl Memory for Ram {
    fn read(&self, at: VirtAddr, buf: &mut [u8]) -> Result<(), ReadError> {
        for (index, byte) in buf.iter_mut().enumerate() {
            let at = at.get() + index as u64;
            let page = self.pages.get(&(at & !4095));
            let page = page.ok_or(ReadError::NotMapped { at: VirtAddr::new(at), why: "test".to_owned() })?;
            *byte = page[usize::try_from(at & 4095).unwrap()];
        }
        Ok(())
    }
    fn endian(&self) -> Endian {
        self.endian
    }
}

impl Ram {
    pub fn new(endian: Endian) -> Self {
        Self { pages: BTreeMap::new(), endian }
    }
    pub fn put(&mut self, at: u64, bytes: &[u8]) {
        for (index, byte) in bytes.iter().enumerate() {
            let at = at + index as u64;
            let page = self.pages.entry(at & !4095).or_insert([0; 4096]);
            page[usize::try_from(at & 4095).unwrap()] = *byte;
        }
    }
    pub fn put16(&mut self, at: u64, value: u16) {
        self.put(at, &if self.endian == Endian::Big { value.to_be_bytes() } else { value.to_le_bytes() });
    }
    pub fn put32(&mut self, at: u64, value: u32) {
        self.put(at, &if self.endian == Endian::Big { value.to_be_bytes() } else { value.to_le_bytes() });
    }
    pub fn put64(&mut self, at: u64, value: u64) {
        self.put(at, &if self.endian == Endian::Big { value.to_be_bytes() } else { value.to_le_bytes() });
    }
}

/// How addresses are stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stored {
    Addresses,
    Relative,
    AbsolutePercpu,
    PlaceRelative,
}

/// A symbol table at `at`, in the order of tables since v6.4 or the one before. Symbols are (kind and name, address),
/// ascending. Returns the VMCOREINFO keys of it.
pub(crate) fn put_symbols(
    ram: &mut Ram,
    at: u64,
    symbols: &[(&str, u64)],
    stored: Stored,
    new_order: bool,
) -> String {
    // Tokens: single characters but for two pairs.
    let pairs = [(1_u8, "__"), (2, "in")];
    let token = |byte: u8| {
        pairs.iter().find(|(b, _)| *b == byte).map_or_else(|| vec![byte], |(_, t)| t.as_bytes().to_vec())
    };
    let mut names = Vec::new();
    let mut markers = Vec::new();
    for (index, (name, _)) in symbols.iter().enumerate() {
        if index % 256 == 0 {
            markers.push(names.len());
        }
        let mut packed = name.as_bytes().to_vec();
        for (byte, pair) in pairs {
            while let Some(hit) = packed.windows(2).position(|w| w == pair.as_bytes()) {
                packed.splice(hit..hit + 2, [byte]);
            }
        }
        if packed.len() < 0x80 {
            names.push(u8::try_from(packed.len()).unwrap());
        } else {
            names.push(u8::try_from(packed.len() & 0x7f).unwrap() | 0x80);
            names.push(u8::try_from(packed.len() >> 7).unwrap());
        }
        names.extend(packed);
    }
    let mut keys = String::new();
    let mut key = |name: &str, at: u64| keys.push_str(&format!("SYMBOL(kallsyms_{name})={at:x}\n"));
    let base = symbols.iter().map(|s| s.1).filter(|a| *a >= 1 << 63).min().unwrap_or(0);
    let mut at = at.next_multiple_of(8);
    let put_addresses = |ram: &mut Ram, at: u64| {
        for (index, (_, address)) in symbols.iter().enumerate() {
            let here = at + index as u64 * 4;
            match stored {
                Stored::Addresses => ram.put64(at + index as u64 * 8, *address),
                Stored::Relative => ram.put32(here, u32::try_from(address - base).unwrap()),
                Stored::AbsolutePercpu if *address < 1 << 31 => {
                    ram.put32(here, u32::try_from(*address).unwrap());
                }
                Stored::AbsolutePercpu => {
                    ram.put32(here, 0_u32.wrapping_sub(u32::try_from(address - base + 1).unwrap()));
                }
                Stored::PlaceRelative => {
                    ram.put32(here, u32::try_from(address.wrapping_sub(here) & 0xffff_ffff).unwrap());
                }
            }
        }
        at + symbols.len() as u64 * if stored == Stored::Addresses { 8 } else { 4 }
    };
    let mut addresses = |ram: &mut Ram, at: u64| {
        key("offsets", at);
        let mut at = put_addresses(ram, at).next_multiple_of(8);
        if matches!(stored, Stored::Relative | Stored::AbsolutePercpu) {
            key("relative_base", at);
            ram.put64(at, base);
            at += 8;
        }
        at
    };
    if !new_order {
        at = addresses(ram, at);
    }
    let count_at = at;
    ram.put64(at, 0);
    ram.put32(at, u32::try_from(symbols.len()).unwrap());
    let names_at = at + 8;
    ram.put(names_at, &names);
    at = (names_at + names.len() as u64).next_multiple_of(8);
    for marker in markers {
        ram.put32(at, u32::try_from(marker).unwrap());
        at += 4;
    }
    let table_at = at.next_multiple_of(8);
    let mut table = Vec::new();
    let mut starts = Vec::new();
    for byte in 0..=255_u8 {
        starts.push(u16::try_from(table.len()).unwrap());
        // Characters that no name has stand for long tokens in a real one.
        let text = token(byte);
        table.extend(if byte == 0 { b"un".to_vec() } else { text });
        table.push(0);
    }
    ram.put(table_at, &table);
    let index_at = (table_at + table.len() as u64).next_multiple_of(8);
    for (index, start) in starts.into_iter().enumerate() {
        ram.put16(index_at + index as u64 * 2, start);
    }
    if new_order {
        addresses(ram, index_at + 512);
    }
    key("num_syms", count_at);
    key("names", names_at);
    key("token_table", table_at);
    key("token_index", index_at);
    keys
}

/// Types to be stored. Each adder returns the number of its type.
#[derive(Default)]
pub(crate) struct Types {
    types: Vec<Vec<u32>>,
    strings: Vec<u8>,
    /// Strings and number of types of the kernel, when these are a module's.
    base: (Vec<u8>, usize),
}

impl Types {
    pub fn new() -> Self {
        Self { types: Vec::new(), strings: vec![0], base: (Vec::new(), 0) }
    }
    /// A module's types, which go on where those of the kernel end. Its strings do not start with an empty one.
    pub fn split(base: &Self) -> Self {
        Self { types: Vec::new(), strings: Vec::new(), base: (base.strings.clone(), base.types.len()) }
    }
    fn name(&mut self, name: &str) -> u32 {
        if name.is_empty() {
            return 0;
        }
        let pattern = [b"\0", name.as_bytes(), b"\0"].concat();
        let all = [&self.base.0[..], &self.strings].concat();
        if let Some(hit) = all.windows(pattern.len()).position(|w| w == pattern) {
            return u32::try_from(hit + 1).unwrap();
        }
        let at = u32::try_from(all.len()).unwrap();
        self.strings.extend_from_slice(name.as_bytes());
        self.strings.push(0);
        at
    }
    pub fn add(&mut self, name: &str, kind: u32, vlen: usize, size: u32, rest: &[u32]) -> u32 {
        let name = self.name(name);
        let info = kind << 24 | u32::try_from(vlen).unwrap();
        self.types.push([&[name, info, size][..], rest].concat());
        self.next() - 1
    }
    pub fn int(&mut self, name: &str, bytes: u32) -> u32 {
        self.add(name, 1, 0, bytes, &[bytes * 8])
    }
    pub fn pointer(&mut self, to: u32) -> u32 {
        self.add("", 2, 0, to, &[])
    }
    pub fn array(&mut self, of: u32, length: u32) -> u32 {
        self.add("", 3, 0, 0, &[of, of, length])
    }
    pub fn typedef(&mut self, name: &str, of: u32) -> u32 {
        self.add(name, 8, 0, of, &[])
    }
    /// A structure (kind 4) or union (5) of (name, type, byte offset).
    pub fn composite(&mut self, kind: u32, name: &str, size: u32, members: &[(&str, u32, u32)]) -> u32 {
        let mut rest = Vec::new();
        for (member, ty, offset) in members {
            rest.extend([self.name(member), *ty, offset * 8]);
        }
        self.add(name, kind, members.len(), size, &rest)
    }
    /// A structure of (name, type, bit offset, bits), with bit-fields.
    pub fn bits(&mut self, name: &str, size: u32, members: &[(&str, u32, u32, u32)]) -> u32 {
        let mut rest = Vec::new();
        for (member, ty, offset, bits) in members {
            rest.extend([self.name(member), *ty, bits << 24 | offset]);
        }
        self.add(name, 0x84, members.len(), size, &rest)
    }
    pub fn enumeration(&mut self, name: &str, values: &[(&str, u32)]) -> u32 {
        let mut rest = Vec::new();
        for (value, number) in values {
            rest.extend([self.name(value), *number]);
        }
        self.add(name, 6, values.len(), 4, &rest)
    }
    /// Number of the type that the next adder makes: for types that refer to themselves.
    pub fn next(&self) -> u32 {
        u32::try_from(self.base.1 + self.types.len() + 1).unwrap()
    }
    /// Bytes of its strings.
    pub fn strings_len(&self) -> u32 {
        u32::try_from(self.strings.len()).unwrap()
    }
    /// Writes the blob; returns its length.
    pub fn put(&self, ram: &mut Ram, at: u64) -> u64 {
        let types: Vec<u32> = self.types.concat();
        let (types_len, strings_len) =
            (u32::try_from(types.len() * 4).unwrap(), u32::try_from(self.strings.len()).unwrap());
        ram.put16(at, 0xeb9f);
        ram.put(at + 2, &[1, 0]);
        for (index, word) in [24, 0, types_len, types_len, strings_len].into_iter().chain(types).enumerate() {
            ram.put32(at + 4 + index as u64 * 4, word);
        }
        ram.put(at + 24 + u64::from(types_len), &self.strings);
        24 + u64::from(types_len) + u64::from(strings_len)
    }
}

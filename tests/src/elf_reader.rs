//! An oracle for ELF dumps: reads physical pages out of the PT_LOADs, with nothing of the product's code.

use crate::kdump_reader::parse_notes;
use crate::order::Order;

/// A PT_LOAD.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Load {
    /// p_offset.
    pub offset: u64,
    /// p_vaddr.
    pub virt: u64,
    /// p_paddr.
    pub phys: u64,
    /// p_filesz.
    pub file_len: u64,
    /// p_memsz.
    pub mem_len: u64,
}

/// An ELF64 core.
#[derive(Debug)]
pub struct ElfFile {
    bytes: Vec<u8>,
    /// Its PT_LOADs in file order.
    pub loads: Vec<Load>,
    notes: Vec<u8>,
    /// e_machine.
    pub machine: u32,
}

fn number(order: Order, bytes: &[u8], at: u64, len: usize) -> Result<u64, String> {
    let from = usize::try_from(at).map_err(|e| e.to_string())?;
    let slice = from.checked_add(len).and_then(|end| bytes.get(from..end));
    Ok(order.number(slice.ok_or_else(|| format!("{len} bytes at {at:#x} are past the end"))?))
}

fn slice(bytes: &[u8], at: u64, len: u64) -> Option<&[u8]> {
    let from = usize::try_from(at).ok()?;
    bytes.get(from..usize::try_from(at.checked_add(len)?).ok()?)
}

impl ElfFile {
    /// Reads the headers and the notes.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, String> {
        let order = match bytes.get(..6) {
            Some(b"\x7fELF\x02\x01") => Order::Little,
            Some(b"\x7fELF\x02\x02") => Order::Big,
            _ => return Err("not an ELF64 file".to_owned()),
        };
        let u64_at = |bytes: &[u8], at: u64| number(order, bytes, at, 8);
        let narrow = |bytes: &[u8], at: u64, len: usize| {
            number(order, bytes, at, len).map(|n| u32::try_from(n).expect("at most 4 bytes"))
        };
        let u32_at = |bytes: &[u8], at: u64| narrow(bytes, at, 4);
        let u16_at = |bytes: &[u8], at: u64| narrow(bytes, at, 2);
        if u16_at(&bytes, 16)? != 4 {
            return Err("not ET_CORE".to_owned());
        }
        let (machine, phoff, phentsize) = (u16_at(&bytes, 18)?, u64_at(&bytes, 32)?, u16_at(&bytes, 54)?);
        let mut phnum = u16_at(&bytes, 56)?;
        if phnum == 0xffff {
            let shoff = u64_at(&bytes, 40)?;
            phnum = u32_at(&bytes, shoff + 44)?; // PN_XNUM: sh_info of section 0
        }
        if phentsize != 56 {
            return Err(format!("e_phentsize {phentsize}"));
        }
        let mut loads = Vec::new();
        let mut notes = Vec::new();
        for at in (0..u64::from(phnum)).map(|i| phoff + i * 56) {
            let load = Load {
                offset: u64_at(&bytes, at + 8)?,
                virt: u64_at(&bytes, at + 16)?,
                phys: u64_at(&bytes, at + 24)?,
                file_len: u64_at(&bytes, at + 32)?,
                mem_len: u64_at(&bytes, at + 40)?,
            };
            let data = slice(&bytes, load.offset, load.file_len)
                .ok_or_else(|| format!("{load:x?} reaches past the file's {:#x}", bytes.len()))?;
            match u32_at(&bytes, at)? {
                1 => loads.push(load),
                4 => notes.extend(data),
                _ => {}
            }
        }
        Ok(Self { bytes, loads, notes, machine })
    }

    /// All notes.
    pub fn notes(&self) -> &[u8] {
        &self.notes
    }

    /// VMCOREINFO's text.
    pub fn vmcoreinfo(&self) -> Result<String, String> {
        let notes = parse_notes(&self.notes)?;
        let note = notes.iter().find(|n| n.name == "VMCOREINFO").ok_or("no VMCOREINFO")?;
        Ok(String::from_utf8_lossy(&self.notes[note.desc.clone()]).into_owned())
    }

    /// A page's bytes; what no segment has data for is zero. `None` when no byte of it is in the file.
    pub fn page(&self, pfn: u64, page_size: u64) -> Option<Vec<u8>> {
        let (start, end) = (pfn * page_size, (pfn + 1) * page_size);
        let mut page = vec![0; usize::try_from(page_size).ok()?];
        let mut found = false;
        for load in &self.loads {
            let from = load.phys.max(start);
            let to = load.phys.saturating_add(load.file_len).min(end);
            if from < to {
                let data = slice(&self.bytes, load.offset + (from - load.phys), to - from)?;
                let at = usize::try_from(from - start).ok()?;
                page[at..at + data.len()].copy_from_slice(data);
                found = true;
            }
        }
        found.then_some(page)
    }

    /// Whether a segment says that memory of this page exists, with data or without.
    pub fn covers(&self, pfn: u64, page_size: u64) -> bool {
        let (start, end) = (pfn * page_size, (pfn + 1) * page_size);
        self.loads.iter().any(|l| l.phys < end && start < l.phys.saturating_add(l.mem_len))
    }

    /// What a reader relies on and that does not hold: sizes in order, data that does not overlap.
    pub fn check(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if let Err(e) = parse_notes(&self.notes) {
            faults.push(e);
        }
        let mut data: Vec<(u64, u64)> = Vec::new();
        for load in &self.loads {
            if load.file_len > load.mem_len {
                faults.push(format!("{load:x?}: p_filesz past p_memsz"));
            }
            if load.file_len > 0 {
                data.push((load.offset, load.offset + load.file_len));
            }
        }
        data.sort_unstable();
        for pair in data.windows(2).filter(|pair| pair[1].0 < pair[0].1) {
            faults.push(format!("data {:x?} and {:x?} overlap", pair[0], pair[1]));
        }
        faults
    }
}

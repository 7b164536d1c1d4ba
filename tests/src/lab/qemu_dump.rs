//! What QEMU 7.2's dump-guest-memory writes, made into what makedumpfile can read.
//!
//! Two things are in the way. e_ehsize is 8 instead of 64, and the section headers lie between the ELF header and the
//! program headers, which makedumpfile looks for behind the ELF header: it finds no PT_LOAD. And a machine without
//! a vmcoreinfo device (s390x, pseries) leaves the note out that tells about the kernel. Our collector needs only the latter.

use crate::order::Order;
use anyhow::{Context, Result, ensure};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

const EHDR: usize = 64;
const PHDR: usize = 56;
const PT_LOAD: u64 = 1;
const PT_NOTE: u64 = 4;

struct Headers {
    file: File,
    order: Order,
    ehdr: [u8; EHDR],
    /// Where the program headers are, and their bytes.
    at: u64,
    table: Vec<u8>,
}

impl Headers {
    fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        let mut ehdr = [0; EHDR];
        file.read_exact_at(&mut ehdr, 0)?;
        ensure!(ehdr.starts_with(b"\x7fELF\x02"), "{} is no 64-bit ELF", path.display());
        let order = if ehdr[5] == 2 { Order::Big } else { Order::Little };
        let (at, count) = (order.number(&ehdr[32..40]), usize::try_from(order.number(&ehdr[56..58]))?);
        let mut table = vec![0; count * PHDR];
        file.read_exact_at(&mut table, at)?;
        Ok(Self { file, order, ehdr, at, table })
    }

    fn put(order: Order, bytes: &mut [u8], at: usize, value: u64, len: usize) {
        bytes[at..at + len].copy_from_slice(&order.bytes(value, len));
    }

    /// Bytes of a physical address.
    fn memory(&self, address: u64, len: usize) -> Result<Vec<u8>> {
        for header in self.table.chunks_exact(PHDR) {
            let (offset, start, size) = (
                self.order.number(&header[8..16]),
                self.order.number(&header[24..32]),
                self.order.number(&header[32..40]),
            );
            if self.order.number(&header[..4]) == PT_LOAD && start <= address && address - start < size {
                let mut bytes = vec![0; len];
                self.file.read_exact_at(&mut bytes, offset + (address - start))?;
                return Ok(bytes);
            }
        }
        anyhow::bail!("no memory at {address:#x}")
    }
}

/// Adds the VMCOREINFO note to those of a dump. `line` is what the guest's /sys/kernel/vmcoreinfo says: the physical
/// address and the size, in hexadecimal, of memory that holds the note as the kernel itself would hand it to kdump.
pub fn add_vmcoreinfo(path: &Path, line: &str) -> Result<()> {
    let mut headers = Headers::open(path)?;
    let order = headers.order;
    let (address, size) = line.trim().split_once(' ').with_context(|| format!("vmcoreinfo {line:?}"))?;
    let address = u64::from_str_radix(address.trim_start_matches("0x"), 16)?;
    let size = usize::from_str_radix(size, 16)?;
    let mut note = headers.memory(address, size)?;
    ensure!(note.get(12..22) == Some(b"VMCOREINFO"), "no note at {address:#x}");
    let name = usize::try_from(order.number(&note[..4]))?.next_multiple_of(4);
    let desc = usize::try_from(order.number(&note[4..8]))?.next_multiple_of(4);
    ensure!(12 + name + desc <= note.len(), "a note of {} bytes in {size}", 12 + name + desc);
    note.truncate(12 + name + desc);

    let at = headers.table.chunks_exact(PHDR).position(|h| order.number(&h[..4]) == PT_NOTE);
    let at = at.context("no PT_NOTE")? * PHDR;
    let (offset, len) =
        (order.number(&headers.table[at + 8..at + 16]), order.number(&headers.table[at + 32..at + 40]));
    let mut notes = vec![0; usize::try_from(len)?];
    headers.file.read_exact_at(&mut notes, offset)?;
    notes.extend(note);
    let end = headers.file.metadata()?.len();
    headers.file.write_all_at(&notes, end)?;
    for (field, value) in [(8, end), (32, notes.len() as u64), (40, notes.len() as u64)] {
        Headers::put(order, &mut headers.table, at + field, value, 8);
    }
    headers.file.write_all_at(&headers.table, headers.at)?;
    Ok(())
}

/// Puts the program headers behind an ELF header of 64 bytes and drops the section headers.
pub fn tidy(path: &Path) -> Result<()> {
    let mut headers = Headers::open(path)?;
    let order = headers.order;
    let room = usize::try_from(headers.at)? + headers.table.len();
    ensure!(EHDR + headers.table.len() <= room, "the program headers do not fit before {room:#x}");
    // e_phoff, e_shoff, e_ehsize, e_shnum, e_shstrndx.
    for (at, value, len) in [(32, EHDR as u64, 8), (40, 0, 8), (52, EHDR as u64, 2), (60, 0, 2), (62, 0, 2)] {
        Headers::put(order, &mut headers.ehdr, at, value, len);
    }
    headers.file.write_all_at(&headers.ehdr, 0)?;
    headers.file.write_all_at(&headers.table, EHDR as u64)?;
    Ok(())
}

/// Size of the ELF header as the file itself gives it: 8 is QEMU 7.2's.
pub fn header_size(path: &Path) -> Result<u64> {
    let headers = Headers::open(path)?;
    Ok(headers.order.number(&headers.ehdr[52..54]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kdump_reader::parse_notes;
    use crate::lab::vmcore::RawCore;

    /// One page of memory at 0x10000 with a note in it, in QEMU's layout.
    fn dump(order: Order) -> Vec<u8> {
        let mut file = vec![0; 0x1000];
        file[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, if order == Order::Big { 2 } else { 1 }]);
        let mut put = |at: usize, value: u64, len: usize| Headers::put(order, &mut file, at, value, len);
        for (at, value, len) in [(32, 192, 8), (40, 64, 8), (52, 8, 2), (54, 56, 2), (56, 2, 2)] {
            put(at, value, len);
        }
        for (at, kind, offset, start, size) in [(192, 4, 0x130, 0, 16), (248, 1, 0x200, 0x10000, 0xe00)] {
            for (field, value, len) in [(0, kind, 4), (8, offset, 8), (24, start, 8), (32, size, 8)] {
                put(at + field, value, len);
            }
        }
        for (at, value) in [(0x130, 4), (0x138, 9), (0x280, 11), (0x284, 14)] {
            put(at, value, 4);
        }
        file[0x13c..0x140].copy_from_slice(b"ONE\0");
        file[0x28c..0x2a6].copy_from_slice(b"VMCOREINFO\0\0PAGESIZE=4096\n");
        file
    }

    #[test]
    fn a_note_is_added_and_headers_are_moved() {
        for order in [Order::Little, Order::Big] {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), dump(order)).unwrap();
            let page = RawCore::open(file.path()).unwrap().page(0x10).unwrap();
            assert_eq!(header_size(file.path()).unwrap(), 8);
            add_vmcoreinfo(file.path(), "0x0000000000010080 100\n").unwrap();
            tidy(file.path()).unwrap();
            assert_eq!(header_size(file.path()).unwrap(), 64);
            let headers = Headers::open(file.path()).unwrap();
            assert_eq!((headers.at, order.number(&headers.ehdr[40..48])), (64, 0));
            let core = RawCore::open(file.path()).unwrap();
            assert_eq!(core.info("PAGESIZE").as_deref(), Some("4096"));
            assert_eq!(core.page(0x10).unwrap(), page);
            let note = &headers.table[..PHDR];
            let notes = std::fs::read(file.path()).unwrap();
            let at = usize::try_from(order.number(&note[8..16])).unwrap();
            let notes = parse_notes(&notes[at..]).unwrap();
            assert_eq!(notes.iter().map(|n| n.name.as_str()).collect::<Vec<_>>(), ["ONE", "VMCOREINFO"]);
        }
    }

    #[test]
    fn what_is_not_there_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), dump(Order::Little)).unwrap();
        for line in ["", "0x10080", "0x10080 xyz", "0x90000 100", "0x10000 100"] {
            assert!(add_vmcoreinfo(file.path(), line).is_err(), "{line}");
        }
    }
}

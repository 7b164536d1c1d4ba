//! The file: ELF header, program headers, notes, and memory as /proc/vmcore lays it out.

use super::arch::Facts;
use super::index;
use super::memory::{Memory, Order};

/// A PT_LOAD to write.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Physical start, any byte.
    pub start: u64,
    /// Physical end.
    pub end: u64,
    /// Kernel virtual address.
    pub virt: u64,
}

/// Bytes of a page outside of the segment: a reader that takes them for memory shows it.
const OUTSIDE: u8 = 0xee;

fn note(order: Order, name: &str, kind: u64, desc: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [name.len() as u64 + 1, desc.len() as u64, kind] {
        bytes.extend(order.bytes(word, 4));
    }
    bytes.extend(name.as_bytes());
    bytes.resize((bytes.len() + 1).next_multiple_of(4), 0);
    bytes.extend(desc);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// NT_PRSTATUS of each CPU, then VMCOREINFO.
pub fn notes(order: Order, cpus: u32, info: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for cpu in 0..cpus {
        let mut prstatus = vec![0; 336];
        prstatus[32..36].copy_from_slice(&order.bytes(u64::from(1000 + cpu), 4)); // pr_pid
        for register in 0..27_u64 {
            let at = 112 + index(register) * 8;
            prstatus[at..at + 8].copy_from_slice(&order.bytes(0xffff_ffff_8100_0000 + register, 8));
        }
        bytes.extend(note(order, "CORE", 1, &prstatus));
    }
    bytes.extend(note(order, "VMCOREINFO", 0, info.as_bytes()));
    bytes
}

/// All before the data, where in the file the data of each segment starts (congruent to its physical address), and the
/// length of the file.
pub fn layout(facts: &Facts, loads: &[Load], notes: &[u8]) -> (Vec<u8>, Vec<u64>, u64) {
    let (order, page_size) = (facts.order, facts.page());
    let headers = 64 + 56 * (loads.len() as u64 + 1);
    let notes_at = headers.next_multiple_of(page_size);
    let mut data_at = (notes_at + notes.len() as u64).next_multiple_of(page_size);
    let mut file = Vec::new();
    file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    file[5] = if order == Order::Little { 1 } else { 2 };
    file.extend(order.bytes(4, 2)); // ET_CORE
    file.extend(order.bytes(facts.machine.into(), 2));
    file.extend(order.bytes(1, 4));
    for word in [0, 64, 0] {
        file.extend(order.bytes(word, 8)); // e_entry, e_phoff, e_shoff
    }
    file.extend(order.bytes(0, 4));
    for half in [64, 56, loads.len() as u64 + 1, 0, 0, 0] {
        file.extend(order.bytes(half, 2));
    }
    let mut phdr = |kind: u32, flags: u32, words: [u64; 6]| {
        file.extend(order.bytes(kind.into(), 4));
        file.extend(order.bytes(flags.into(), 4));
        words.iter().for_each(|word| file.extend(order.bytes(*word, 8)));
    };
    phdr(4, 0, [notes_at, 0, 0, notes.len() as u64, notes.len() as u64, 0]);
    let mut offsets = Vec::new();
    for load in loads {
        let len = load.end - load.start;
        let offset = data_at + load.start % page_size;
        phdr(1, 7, [offset, load.virt, load.start, len, len, 0]);
        offsets.push(offset);
        data_at += load.end.next_multiple_of(page_size) - load.start / page_size * page_size;
    }
    file.resize(index(notes_at), 0);
    file.extend(notes);
    (file, offsets, data_at)
}

/// Writes it all. Data of segment i starts in the file at `offsets[i]`.
pub fn write(facts: &Facts, memory: &Memory, loads: &[Load], notes: &[u8]) -> (Vec<u8>, Vec<u64>) {
    let page_size = facts.page();
    let (mut file, offsets, len) = layout(facts, loads, notes);
    for load in loads {
        file.resize(file.len().next_multiple_of(index(page_size)), 0);
        for pfn in load.start / page_size..load.end.div_ceil(page_size) {
            let page_at = file.len();
            match memory.page(pfn) {
                Some(page) => file.extend(page),
                None => file.resize(page_at + index(page_size), 0),
            }
            let first = load.start.saturating_sub(pfn * page_size).min(page_size);
            let last = (load.end - pfn * page_size).min(page_size);
            file[page_at..page_at + index(first)].fill(OUTSIDE);
            file[page_at + index(last)..].fill(OUTSIDE);
        }
    }
    assert_eq!(file.len() as u64, len);
    (file, offsets)
}

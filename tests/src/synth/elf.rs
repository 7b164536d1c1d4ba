//! The file: ELF header, program headers, notes, and memory as /proc/vmcore lays it out.

use super::index;
use super::memory::{Memory, PAGE};

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

fn note(name: &str, kind: u32, desc: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [name.len() + 1, desc.len()] {
        bytes.extend(u32::try_from(word).expect("short").to_le_bytes());
    }
    bytes.extend(kind.to_le_bytes());
    bytes.extend(name.as_bytes());
    bytes.resize((bytes.len() + 1).next_multiple_of(4), 0);
    bytes.extend(desc);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// NT_PRSTATUS of each CPU, then VMCOREINFO.
pub fn notes(cpus: u32, info: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for cpu in 0..cpus {
        let mut prstatus = vec![0; 336];
        prstatus[32..36].copy_from_slice(&(1000 + cpu).to_le_bytes()); // pr_pid
        for register in 0..27_u64 {
            let at = 112 + index(register) * 8;
            prstatus[at..at + 8].copy_from_slice(&(0xffff_ffff_8100_0000 + register).to_le_bytes());
        }
        bytes.extend(note("CORE", 1, &prstatus));
    }
    bytes.extend(note("VMCOREINFO", 0, info.as_bytes()));
    bytes
}

/// All before the data, where in the file the data of each segment starts (congruent to its physical address), and the
/// length of the file.
pub fn layout(loads: &[Load], notes: &[u8]) -> (Vec<u8>, Vec<u64>, u64) {
    let headers = 64 + 56 * (loads.len() as u64 + 1);
    let notes_at = headers.next_multiple_of(PAGE);
    let mut data_at = (notes_at + notes.len() as u64).next_multiple_of(PAGE);
    let mut file = Vec::new();
    file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    file.extend(4_u16.to_le_bytes()); // ET_CORE
    file.extend(62_u16.to_le_bytes()); // EM_X86_64
    file.extend(1_u32.to_le_bytes());
    for word in [0, 64, 0] {
        file.extend(u64::to_le_bytes(word)); // e_entry, e_phoff, e_shoff
    }
    file.extend(0_u32.to_le_bytes());
    let phnum = u16::try_from(loads.len() + 1).expect("few segments");
    for half in [64, 56, phnum, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    let mut phdr = |kind: u32, flags: u32, words: [u64; 6]| {
        file.extend(kind.to_le_bytes());
        file.extend(flags.to_le_bytes());
        words.iter().for_each(|word| file.extend(word.to_le_bytes()));
    };
    phdr(4, 0, [notes_at, 0, 0, notes.len() as u64, notes.len() as u64, 0]);
    let mut offsets = Vec::new();
    for load in loads {
        let len = load.end - load.start;
        let offset = data_at + load.start % PAGE;
        phdr(1, 7, [offset, load.virt, load.start, len, len, 0]);
        offsets.push(offset);
        data_at += load.end.next_multiple_of(PAGE) - load.start / PAGE * PAGE;
    }
    file.resize(index(notes_at), 0);
    file.extend(notes);
    (file, offsets, data_at)
}

/// Writes it all. Data of segment i starts in the file at `offsets[i]`.
pub fn write(memory: &Memory, loads: &[Load], notes: &[u8]) -> (Vec<u8>, Vec<u64>) {
    let (mut file, offsets, len) = layout(loads, notes);
    for load in loads {
        file.resize(file.len().next_multiple_of(index(PAGE)), 0);
        for pfn in load.start / PAGE..load.end.div_ceil(PAGE) {
            let page_at = file.len();
            match memory.page(pfn) {
                Some(page) => file.extend(page),
                None => file.resize(page_at + index(PAGE), 0),
            }
            let first = load.start.saturating_sub(pfn * PAGE).min(PAGE);
            let last = (load.end - pfn * PAGE).min(PAGE);
            file[page_at..page_at + index(first)].fill(OUTSIDE);
            file[page_at + index(last)..].fill(OUTSIDE);
        }
    }
    assert_eq!(file.len() as u64, len);
    (file, offsets)
}

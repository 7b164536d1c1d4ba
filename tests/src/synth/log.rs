//! The kernel's log, in both forms: records one after the other (3.5 to 5.9), and the ring buffer (5.10 on).

use super::index;
use super::memory::Order;

/// One message.
#[derive(Clone, Debug)]
pub struct Line {
    /// Nanoseconds since boot.
    pub at: u64,
    /// Text without its newline.
    pub text: String,
}

impl Line {
    /// As dmesg prints it.
    pub fn printed(&self) -> String {
        format!("[{:5}.{:06}] {}", self.at / 1_000_000_000, self.at % 1_000_000_000 / 1000, self.text)
    }
}

/// What ends up in memory, and under which names.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// Objects: name, bytes. Pointers between them are in `links`.
    pub objects: Vec<(&'static str, Vec<u8>)>,
    /// Pointers to fill in: (object, offset in it, object pointed to).
    pub links: Vec<(&'static str, usize, &'static str)>,
    /// The messages that a reader finds, oldest first.
    pub readable: Vec<Line>,
}

type Put = fn(&mut [u8], usize, u64, usize);

/// Writes integers in one order.
fn putter(order: Order) -> Put {
    match order {
        Order::Little => |bytes, at, value, len| {
            bytes[at..at + len].copy_from_slice(&Order::Little.bytes(value, len));
        },
        Order::Big => |bytes, at, value, len| {
            bytes[at..at + len].copy_from_slice(&Order::Big.bytes(value, len));
        },
    }
}

const RECORD_HEADER: usize = 16;

/// The record buffer of `size` bytes after all `lines`, the oldest overwritten.
pub fn records(lines: &[Line], size: usize, order: Order) -> Log {
    let put = putter(order);
    let mut buffer = vec![0_u8; size];
    let mut live: std::collections::VecDeque<(usize, usize, &Line)> = std::collections::VecDeque::new();
    let mut next = 0;
    for line in lines {
        let dict = if line.at % 3 == 0 { &b"SUBSYSTEM=acpi\0DEVICE=+acpi:x"[..] } else { b"" };
        let len = (RECORD_HEADER + line.text.len() + dict.len()).next_multiple_of(8);
        // A record and, behind it, room for the mark that the buffer starts over.
        if next + len + RECORD_HEADER > size {
            // Records from here to the end are gone before the mark is written over them.
            while live.front().is_some_and(|old| old.0 >= next) {
                live.pop_front();
            }
            buffer[next..next + RECORD_HEADER.min(size - next)].fill(0);
            next = 0;
        }
        // What the record overwrites; one more header so that the oldest is always whole.
        while live.front().is_some_and(|old| old.0 >= next && old.0 < next + len + RECORD_HEADER) {
            live.pop_front();
        }
        put(&mut buffer, next, line.at, 8);
        put(&mut buffer, next + 8, len as u64, 2);
        put(&mut buffer, next + 10, line.text.len() as u64, 2);
        put(&mut buffer, next + 12, dict.len() as u64, 2);
        put(&mut buffer, next + 14, 0xc006, 2);
        let text_at = next + RECORD_HEADER;
        buffer[text_at..text_at + line.text.len()].copy_from_slice(line.text.as_bytes());
        let dict_at = text_at + line.text.len();
        buffer[dict_at..dict_at + dict.len()].copy_from_slice(dict);
        buffer[dict_at + dict.len()..next + len].fill(0);
        live.push_back((next, len, line));
        next += len;
    }
    let first = live.front().map_or(next, |old| old.0);
    let word = |value: usize| order.bytes(value as u64, 4);
    Log {
        objects: vec![
            ("log_text", buffer),
            ("log_buf", vec![0; 8]),
            ("log_buf_len", word(size)),
            ("log_first_idx", word(first)),
            ("log_next_idx", word(next)),
            ("clear_idx", word(first)),
        ],
        links: vec![("log_buf", 0, "log_text")],
        readable: live.into_iter().map(|(_, _, line)| line.clone()).collect(),
    }
}

const DESC_LEN: usize = 24;
const INFO_LEN: usize = 88;
const ID_MASK: u64 = (1 << 62) - 1;
const COMMITTED: u64 = 1 << 62;
const FINALIZED: u64 = 2 << 62;
const REUSABLE: u64 = 3 << 62;

/// The ring buffer of `1 << desc_bits` descriptors and `1 << data_bits` bytes after all `lines`.
///
/// Counters start just below zero as in the kernel, so that they wrap early. The last record is committed and not
/// finalized, which is how the last line before a crash may look. One record has no text.
pub fn ring(lines: &[Line], desc_bits: u32, data_bits: u32, order: Order) -> Log {
    let put = putter(order);
    let count = 1_usize << desc_bits;
    let size = 1_u64 << data_bits;
    let mut data = vec![0_u8; index(size)];
    let mut descs = vec![0_u8; count * DESC_LEN];
    let mut infos = vec![0_u8; count * INFO_LEN];
    // DESC0_ID: the last id before the first record; all descriptors start reusable.
    let first_id = 0_u64.wrapping_sub(count as u64) & ID_MASK;
    for slot in 0..count as u64 {
        let id = first_id.wrapping_sub(count as u64).wrapping_add(slot) & ID_MASK;
        put(&mut descs, index(id % count as u64) * DESC_LEN, id | REUSABLE, 8);
        put(&mut descs, index(id % count as u64) * DESC_LEN + 8, 1, 8);
        put(&mut descs, index(id % count as u64) * DESC_LEN + 16, 1, 8);
    }
    let mut head_lpos = 0_u64.wrapping_sub(size);
    let mut tail_lpos = head_lpos;
    let mut live: std::collections::VecDeque<(u64, u64, u64, &Line)> = std::collections::VecDeque::new();
    let mut head_id = first_id.wrapping_sub(1) & ID_MASK;
    for (seq, line) in lines.iter().enumerate() {
        let id = first_id.wrapping_add(seq as u64) & ID_MASK;
        head_id = id;
        if live.len() == count {
            live.pop_front();
        }
        let (begin, next) = if line.text.is_empty() {
            (3, 3)
        } else {
            let block = (8 + line.text.len() as u64).next_multiple_of(8);
            let begin = head_lpos;
            let mut next = begin.wrapping_add(block);
            let wraps = next.wrapping_sub(1) >> data_bits != begin >> data_bits;
            let data_at = if wraps {
                next = (next >> data_bits << data_bits).wrapping_add(block);
                0
            } else {
                begin & (size - 1)
            };
            // Blocks that are overwritten go, with their records.
            while next.wrapping_sub(tail_lpos) > size {
                let (old, _, end, _) = live.pop_front().expect("a block to free");
                put(&mut descs, index(old % count as u64) * DESC_LEN, old | REUSABLE, 8);
                if end != 3 {
                    tail_lpos = end;
                }
            }
            put(&mut data, index(data_at), id, 8);
            let text_at = index(data_at) + 8;
            data[text_at..text_at + line.text.len()].copy_from_slice(line.text.as_bytes());
            head_lpos = next;
            (begin, next)
        };
        let slot = index(id % count as u64);
        let state = if seq + 1 == lines.len() { COMMITTED } else { FINALIZED };
        put(&mut descs, slot * DESC_LEN, id | state, 8);
        put(&mut descs, slot * DESC_LEN + 8, begin, 8);
        put(&mut descs, slot * DESC_LEN + 16, next, 8);
        let info = &mut infos[slot * INFO_LEN..(slot + 1) * INFO_LEN];
        put(info, 0, seq as u64, 8);
        put(info, 8, line.at, 8);
        put(info, 16, line.text.len() as u64, 2);
        put(info, 18, 0xc6, 2);
        put(info, 20, 0x8000_0001, 4);
        info[24..28].copy_from_slice(b"acpi");
        live.push_back((id, begin, next, line));
    }
    let mut prb = vec![0; 88];
    put(&mut prb, 0, desc_bits.into(), 4);
    put(&mut prb, 24, head_id, 8);
    put(&mut prb, 32, live.front().map_or(head_id, |old| old.0), 8);
    put(&mut prb, 48, data_bits.into(), 4);
    put(&mut prb, 64, head_lpos, 8);
    put(&mut prb, 72, tail_lpos, 8);
    Log {
        objects: vec![
            ("printk_rb_static", prb),
            ("prb", vec![0; 8]),
            ("prb_descs", descs),
            ("prb_infos", infos),
            ("prb_text", data),
            ("clear_seq", vec![0; 24]),
        ],
        links: vec![
            ("prb", 0, "printk_rb_static"),
            ("printk_rb_static", 8, "prb_descs"),
            ("printk_rb_static", 16, "prb_infos"),
            ("printk_rb_static", 56, "prb_text"),
        ],
        readable: live.into_iter().map(|(_, _, _, line)| line.clone()).collect(),
    }
}

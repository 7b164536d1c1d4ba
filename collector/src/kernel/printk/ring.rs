//! The ring buffer of Linux 5.10 and later (kernel/printk/printk_ringbuffer.h).
//!
//! ```text
//! prb -> printk_ringbuffer { desc_ring { count_bits, descs, infos, head_id, tail_id }, text_data_ring { size_bits, data } }
//! id            a number that only grows; a record's slot is id mod 2^count_bits
//! state_var     the id, and in its two top bits: 0 reserved, 1 committed, 2 finalized, 3 reusable
//! text_blk_lpos begin and next: positions that only grow, in a ring of 2^size_bits bytes; an odd one: no text
//! a text block  an id, then the text; a block that does not fit before the end of the ring starts at its beginning
//! ```

use super::text::Writer;
use super::{Area, Keys, LogError, Memory, Record, plus};
use crate::addr::VirtAddr;
use crate::vmcore::VmcoreInfo;

/// More descriptors than this are not believed: the largest log buffer that Linux allows, 2 GiB, has 2^26.
const MAX_COUNT_BITS: u64 = 26;
/// A larger text ring is not believed.
const MAX_SIZE_BITS: u64 = 31;
/// So many failures in a row end the walk.
const GIVE_UP: u64 = 256;

const COMMITTED: u64 = 1;
const FINALIZED: u64 = 2;

/// What the walk needs, read once.
struct Ring {
    /// Bytes of a `long` of that kernel.
    long: u64,
    count: u64,
    descs: VirtAddr,
    infos: VirtAddr,
    head: u64,
    tail: u64,
    size: u64,
    data: VirtAddr,
}

/// Offsets in a descriptor and its info.
struct Layout {
    desc_size: u64,
    state_var: u64,
    begin: u64,
    next: u64,
    info_size: u64,
    ts_nsec: u64,
    text_len: u64,
    seq: Option<u64>,
    caller_id: Option<u64>,
}

impl Layout {
    fn new(info: &VmcoreInfo) -> Result<Self, LogError> {
        let keys = Keys(info);
        let counter = info.offset("atomic_long_t.counter").unwrap_or(0);
        let blk = keys.offset("prb_desc.text_blk_lpos")?;
        Ok(Self {
            desc_size: keys.size("prb_desc")?,
            state_var: keys.offset("prb_desc.state_var")?.saturating_add(counter),
            begin: keys.offset("prb_data_blk_lpos.begin")?.saturating_add(blk),
            next: keys.offset("prb_data_blk_lpos.next")?.saturating_add(blk),
            info_size: keys.size("printk_info")?,
            ts_nsec: keys.offset("printk_info.ts_nsec")?,
            text_len: keys.offset("printk_info.text_len")?,
            seq: info.offset("printk_info.seq"),
            caller_id: info.offset("printk_info.caller_id"),
        })
    }
}

impl Ring {
    fn new(memory: &dyn Memory, info: &VmcoreInfo) -> Result<Self, LogError> {
        let keys = Keys(info);
        let long = info.size("atomic_long_t").unwrap_or(8);
        if long != 8 && long != 4 {
            return Err(LogError::Impossible { what: "SIZE(atomic_long_t)", value: long });
        }
        let counter = info.offset("atomic_long_t.counter").unwrap_or(0);
        let mut area = Area::new(memory, "printk_ringbuffer");
        let prb = VirtAddr::new(area.int(keys.symbol("prb")?, long)?);
        let desc_ring = plus("prb", prb, keys.offset("printk_ringbuffer.desc_ring")?)?;
        let text_ring = plus("prb", prb, keys.offset("printk_ringbuffer.text_data_ring")?)?;
        let mut field = |base: VirtAddr, offset: u64, size: u64| area.int(plus("prb", base, offset)?, size);

        let count_bits = field(desc_ring, keys.offset("prb_desc_ring.count_bits")?, 4)?;
        let descs = field(desc_ring, keys.offset("prb_desc_ring.descs")?, long)?;
        let infos = field(desc_ring, keys.offset("prb_desc_ring.infos")?, long)?;
        let head = field(desc_ring, keys.offset("prb_desc_ring.head_id")?.saturating_add(counter), long)?;
        let tail = field(desc_ring, keys.offset("prb_desc_ring.tail_id")?.saturating_add(counter), long)?;
        let size_bits = field(text_ring, keys.offset("prb_data_ring.size_bits")?, 4)?;
        let data = field(text_ring, keys.offset("prb_data_ring.data")?, long)?;
        if count_bits > MAX_COUNT_BITS {
            return Err(LogError::Impossible { what: "count_bits", value: count_bits });
        }
        if size_bits > MAX_SIZE_BITS {
            return Err(LogError::Impossible { what: "size_bits", value: size_bits });
        }
        Ok(Self {
            long,
            count: 1 << count_bits,
            descs: VirtAddr::new(descs),
            infos: VirtAddr::new(infos),
            head,
            tail,
            size: 1 << size_bits,
            data: VirtAddr::new(data),
        })
    }

    /// Bits of an id: all of a `long` but the two of the state.
    fn id_mask(&self) -> u64 {
        if self.long == 4 { u64::from(u32::MAX >> 2) } else { u64::MAX >> 2 }
    }

    /// Where a record's text lies in the ring, its id left out: offset and length. `None`: it has none, or what the
    /// descriptor says cannot be.
    fn text(&self, begin: u64, next: u64) -> Option<(u64, u64)> {
        if begin & 1 == 1 && next & 1 == 1 {
            return None; // A record without text, or whose text is already overwritten.
        }
        // Positions start one ring below zero and wrap where a long does, which is also where a turn begins.
        let mask = if self.long == 4 { u64::from(u32::MAX) } else { u64::MAX };
        let turn = |lpos: u64| (lpos & mask) / self.size;
        // The last byte's turn, not the end's: a block may end exactly where the ring does.
        let last = next.wrapping_sub(1) & mask;
        let (start, end) = if turn(begin) == turn(last) {
            (begin % self.size, last % self.size + 1)
        } else if turn(begin.wrapping_add(self.size)) == turn(last) {
            (0, last % self.size + 1)
        } else {
            return None;
        };
        let len = end.checked_sub(start)?.checked_sub(self.long)?;
        Some((start + self.long, len))
    }
}

/// The number of the first record after the log was last cleared.
///
/// A plain number until Linux commit 7d7a23a91c91 ("printk: use seqcount_latch for clear_seq") (in v5.13); since then two of
/// them, and a sequence counter before them whose lowest bit says which one is valid.
fn cleared(memory: &dyn Memory, info: &VmcoreInfo) -> Result<u64, LogError> {
    let what = "clear_seq";
    let at = Keys(info).symbol(what)?;
    let mut area = Area::new(memory, what);
    let Some(val) = info.offset("latched_seq.val") else { return area.int(at, 8) };
    let which = area.int(at, 4)? & 1;
    area.int(plus(what, at, val.saturating_add(which * 8))?, 8)
}

/// Writes all records, or those since the log was last cleared. Returns what was damaged.
pub(super) fn write(
    memory: &dyn Memory,
    info: &VmcoreInfo,
    since_clear: bool,
    out: &mut Writer<'_>,
) -> Result<Option<String>, LogError> {
    let layout = Layout::new(info)?;
    let ring = Ring::new(memory, info)?;
    let since = if since_clear { cleared(memory, info)? } else { 0 };
    let mut walk = Walk {
        since,
        descs: Area::new(memory, "descriptors"),
        infos: Area::new(memory, "infos"),
        data: Area::new(memory, "text"),
        ring,
        layout,
    };
    let mask = walk.ring.id_mask();
    let mut id = walk.ring.tail & mask;
    let head = walk.ring.head & mask;
    let (mut damaged, mut in_a_row, mut first) = (0_u64, 0, None);
    for _ in 0..walk.ring.count {
        match walk.record(id, out) {
            Ok(()) => in_a_row = 0,
            Err(LogError::Output(e)) => return Err(LogError::Output(e)),
            Err(e) => {
                damaged += 1;
                in_a_row += 1;
                first.get_or_insert_with(|| format!("record {id:#x}: {}", with_cause(&e)));
            }
        }
        if id == head || in_a_row >= GIVE_UP {
            break;
        }
        id = id.wrapping_add(1) & mask;
    }
    let ended = if in_a_row >= GIVE_UP { ", where reading stopped" } else { "" };
    Ok(first.map(|first| format!("{damaged} records left out, the first: {first}{ended}")))
}

fn with_cause(error: &LogError) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

struct Walk<'a> {
    /// Records with a smaller number are left out.
    since: u64,
    descs: Area<'a>,
    infos: Area<'a>,
    data: Area<'a>,
    ring: Ring,
    layout: Layout,
}

impl Walk<'_> {
    /// Writes one record; a slot that holds no record of that id is passed over.
    fn record(&mut self, id: u64, out: &mut Writer<'_>) -> Result<(), LogError> {
        let Self { ring, layout, .. } = self;
        let slot = id % ring.count;
        let what = "a descriptor";
        let desc = plus(what, ring.descs, slot.saturating_mul(layout.desc_size))?;
        let state_var = self.descs.int(plus(what, desc, layout.state_var)?, ring.long)?;
        let state = state_var >> (ring.long * 8 - 2);
        if state_var & ring.id_mask() != id || (state != COMMITTED && state != FINALIZED) {
            return Ok(());
        }
        let begin = self.descs.int(plus(what, desc, layout.begin)?, ring.long)?;
        let next = self.descs.int(plus(what, desc, layout.next)?, ring.long)?;

        let info = plus(what, ring.infos, slot.saturating_mul(layout.info_size))?;
        if let Some(offset) = layout.seq {
            let seq = self.infos.int(plus(what, info, offset)?, 8)?;
            if seq < self.since {
                return Ok(());
            }
            out.number(seq);
        }
        let time = self.infos.int(plus(what, info, layout.ts_nsec)?, 8)?;
        let text_len = self.infos.int(plus(what, info, layout.text_len)?, 2)?;
        let caller = match layout.caller_id {
            Some(offset) => u32::try_from(self.infos.int(plus(what, info, offset)?, 4)?).ok(),
            None => None,
        };

        let text: &[u8] = match ring.text(begin, next) {
            None if begin & next & 1 == 1 => &[],
            None => return Err(LogError::Impossible { what: "a text position", value: begin }),
            Some((start, len)) => {
                // text_len is 16 bits: never more than the buffer of an Area holds, twice over; cut what is.
                let len = usize::try_from(len.min(text_len)).unwrap_or(0).min(Area::BUFFER);
                self.data.get(plus("text", ring.data, start)?, len)?
            }
        };
        Ok(out.record(&Record { time, caller, text })?)
    }
}

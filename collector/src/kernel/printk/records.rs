//! The buffer of records of Linux 3.5 to 5.9 (kernel/printk/printk.c).
//!
//! ```text
//! log_buf -> records from log_first_idx to log_next_idx: header (ts_nsec, len, text_len, …), text, dictionary, padding
//! len        the whole record's bytes; 0: the rest of the buffer is unused, the next record is at its start
//! ```

use super::text::Writer;
use super::{Area, Keys, LogError, Memory, Record, plus};
use crate::addr::VirtAddr;
use crate::vmcore::VmcoreInfo;

/// A larger buffer is not believed: `log_buf_len=` stops at 2 GiB.
const MAX_LEN: u64 = 1 << 31;

/// Offsets in a record's header, which is called `printk_log`, and before Linux commit 62e32ac3505a ("printk: rename struct
/// log to struct printk_log") (in v3.11) `log`.
struct Layout {
    header: u64,
    ts_nsec: u64,
    len: u64,
    text_len: u64,
    /// Only with CONFIG_PRINTK_CALLER, since Linux commit 15ff2069cb7f ("printk: Add caller information to printk()
    /// output.") (in v5.1).
    caller_id: Option<u64>,
}

impl Layout {
    fn new(info: &VmcoreInfo) -> Result<Self, LogError> {
        let keys = Keys(info);
        let name = if info.size("log").is_some() && info.size("printk_log").is_none() {
            "log"
        } else {
            "printk_log"
        };
        let offset = |field: &str| keys.offset(&format!("{name}.{field}"));
        Ok(Self {
            header: keys.size(name)?,
            ts_nsec: offset("ts_nsec")?,
            len: offset("len")?,
            text_len: offset("text_len")?,
            caller_id: offset("caller_id").ok(),
        })
    }
}

/// Writes all records, or those since the log was last cleared. Returns what was damaged.
pub(super) fn write(
    memory: &dyn Memory,
    info: &VmcoreInfo,
    since_clear: bool,
    out: &mut Writer<'_>,
) -> Result<Option<String>, LogError> {
    let keys = Keys(info);
    let layout = Layout::new(info)?;
    let mut area = Area::new(memory, "log_buf");
    let long = info.size("long").unwrap_or(8);
    let buffer = VirtAddr::new(area.int(keys.symbol("log_buf")?, long)?);
    let size = area.int(keys.symbol("log_buf_len")?, 4)?;
    let first = area.int(keys.symbol("log_first_idx")?, 4)?;
    let next = area.int(keys.symbol("log_next_idx")?, 4)?;
    if size > MAX_LEN || layout.header == 0 {
        return Err(LogError::Impossible { what: "log_buf_len", value: size });
    }
    for index in [first, next] {
        if index > size {
            return Err(LogError::Impossible { what: "log_first_idx or log_next_idx", value: index });
        }
    }

    let mut index = first;
    if since_clear {
        let cleared = area.int(keys.symbol("clear_idx")?, 4)?;
        // What was there then may have been overwritten since: then everything is younger.
        let there = if first <= next {
            (first..=next).contains(&cleared)
        } else {
            cleared <= next || (first..=size).contains(&cleared)
        };
        if there {
            index = cleared;
        }
    }
    // Every step but one wrap consumes bytes of the buffer, so the walk ends.
    let mut wrapped = false;
    let mut consumed: u64 = 0;
    while index != next {
        let fits = |len: u64| index.checked_add(len).is_some_and(|end| end <= size);
        let len = if fits(layout.header) {
            match area.int(plus("a record", buffer, index.saturating_add(layout.len))?, 2) {
                Ok(len) => len,
                Err(e) => {
                    return Ok(Some(format!("the record at {index:#x} of {size:#x} cannot be read: {e}")));
                }
            }
        } else {
            0
        };
        if len == 0 {
            if wrapped {
                return Ok(Some(format!(
                    "the record at {index:#x} of {size:#x} has no length; the rest is left out"
                )));
            }
            (index, wrapped) = (0, true);
            continue;
        }
        consumed = consumed.saturating_add(len);
        if len < layout.header || !fits(len) || consumed > size {
            return Ok(Some(format!(
                "the record at {index:#x} of {size:#x} claims {len} bytes; the rest is left out"
            )));
        }
        match record(&mut area, buffer, index, len, &layout, out) {
            Err(LogError::Output(e)) => return Err(LogError::Output(e)),
            Err(e) => return Ok(Some(format!("the record at {index:#x} of {size:#x} cannot be read: {e}"))),
            Ok(()) => index += len,
        }
    }
    Ok(None)
}

fn record(
    area: &mut Area<'_>,
    buffer: VirtAddr,
    index: u64,
    len: u64,
    layout: &Layout,
    out: &mut Writer<'_>,
) -> Result<(), LogError> {
    let header = plus("a record", buffer, index)?;
    let time = area.int(plus("a record", header, layout.ts_nsec)?, 8)?;
    let text_len = area.int(plus("a record", header, layout.text_len)?, 2)?;
    let caller = match layout.caller_id {
        Some(offset) => u32::try_from(area.int(plus("a record", header, offset)?, 4)?).ok(),
        None => None,
    };
    let text_len = usize::try_from(text_len.min(len.saturating_sub(layout.header))).unwrap_or(0);
    let text = area.get(plus("a record", header, layout.header)?, text_len.min(Area::BUFFER))?;
    Ok(out.record(&Record { time, caller, text })?)
}

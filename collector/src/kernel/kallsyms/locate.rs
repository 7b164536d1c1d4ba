//! Where the tables are: VMCOREINFO tells, or they are found by what they look like.
//!
//! Token table: 256 strings, most of them single characters that stand for themselves, so the digits lie there one after the
//! other. The token index, 256 `u16`, follows and agrees with it. Names start with their number before them, and end where
//! a table of markers starts, which agrees with them too. All of that is checked; the addresses are checked by whoever asks.
//!
//! ```text
//! until v6.3     offsets  [base]  count  names  markers  token_table  token_index
//! since v6.4                      count  names  markers  token_table  token_index  offsets  [base]
//! ```
//!
//! Since Linux commit 404bad70fcf7 ("scripts/kallsyms: change the output order") (in v6.4) the second order.

use super::{KallsymsError, MAX_SYMBOLS, Tables, tokens};
use crate::addr::VirtAddr;
use crate::kernel::blob::Blob;
use crate::kernel::printk::Memory;
use crate::vmcore::{Endian, ReadError, VmcoreInfo};

/// By the keys of Linux commits 5fd8fea935a10 ("vmcoreinfo: include kallsyms symbols") and f09bddbd86619 ("vmcoreinfo: add
/// kallsyms_num_syms symbol") (in v6.0). `None` when they are missing.
pub(super) fn by_vmcoreinfo(memory: &dyn Memory, info: &VmcoreInfo) -> Result<Option<Tables>, KallsymsError> {
    let key = |name: &str| info.symbol(&format!("kallsyms_{name}"));
    let (Some(names), Some(count), Some(token_table), Some(token_index)) =
        (key("names"), key("num_syms"), key("token_table"), key("token_index"))
    else {
        return Ok(None);
    };
    let Some(addresses) = key("offsets").or_else(|| key("addresses")) else { return Ok(None) };
    let count = number(memory, count)?;
    Ok(Some(Tables { count, names, token_table, token_index, addresses, base: key("relative_base") }))
}

/// The count: a `long` until v4.19, whose upper half is 0 (and comes first on big-endian machines), an `int` since.
fn number(memory: &dyn Memory, at: VirtAddr) -> Result<u32, ReadError> {
    let blob = Blob::new(memory, at, 8);
    match blob.u32(0)? {
        0 => blob.u32(4),
        count => Ok(count),
    }
}

/// Bytes of kernel image that are searched from `_stext` on.
const IMAGE: u64 = 256 << 20;

/// Bytes in a row that may be unmapped within it: what the kernel frees between its sections.
const GAP: u64 = 32 << 20;

/// Bytes before the token table that are searched for the names.
const BEFORE: u64 = 32 << 20;

/// Bytes that are searched at a time.
const WINDOW: u64 = 64 << 10;

/// The tokens `0` to `9`.
const DIGITS: &[u8; 20] = b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\0";

/// Places where the tables may be: each looks right but for the addresses.
pub(super) fn by_scan(memory: &dyn Memory, info: &VmcoreInfo) -> Result<Vec<Tables>, KallsymsError> {
    let Some(text) = info.symbol("_stext") else {
        return Err(KallsymsError::NotFound("VMCOREINFO has no key SYMBOL(_stext)".to_owned()));
    };
    let mut found = Vec::new();
    let mut hits = 0_u32;
    let start = text.get() & !(WINDOW - 1);
    let mut at = start;
    let mut mapped_until = at;
    // A window and what a hit at its end needs of the next.
    let mut window = vec![0; usize::try_from(WINDOW).unwrap_or(0).saturating_add(DIGITS.len())];
    while at < start.saturating_add(IMAGE) && at < mapped_until.saturating_add(GAP) {
        if let Some(last) = read_pages(memory, at, &mut window) {
            mapped_until = last;
        }
        let mut next = 0;
        while let Some(skip) = digits_from(&window, next) {
            next = skip.saturating_add(1);
            hits = hits.saturating_add(1);
            if hits > 64 {
                return Ok(found);
            }
            let digits = VirtAddr::new(at.saturating_add(skip as u64));
            if let Some((table, index)) = token_table(memory, digits) {
                found.extend(around(memory, table, index));
            }
        }
        at = at.saturating_add(WINDOW);
    }
    Ok(found)
}

/// The first place from `from` on where the digits are. Most of an image is passed over byte by byte: fast.
fn digits_from(window: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        let rest = window.get(at..)?;
        at = at.saturating_add(rest.iter().position(|byte| *byte == b'0')?);
        if window.get(at..)?.starts_with(DIGITS) {
            return Some(at);
        }
        at = at.saturating_add(1);
    }
}

/// Reads what is mapped of the memory at `at`, the rest being zeros; returns where the last mapped page is.
fn read_pages(memory: &dyn Memory, at: u64, window: &mut [u8]) -> Option<u64> {
    window.fill(0);
    let mut last = None;
    // The first piece ends with its page.
    let first = usize::try_from(4096 - at % 4096).unwrap_or(4096).min(window.len());
    let (head, rest) = window.split_at_mut(first);
    let mut at = at;
    for page in std::iter::once(head).chain(rest.chunks_mut(4096)) {
        if memory.read(VirtAddr::new(at), page).is_ok() {
            last = Some(at);
        }
        at = at.saturating_add(page.len() as u64);
    }
    last
}

/// The token table and its index, by the place of token `0`.
fn token_table(memory: &dyn Memory, digits: VirtAddr) -> Option<(VirtAddr, VirtAddr)> {
    let after = Blob::new(memory, digits, tokens::MAX_TABLE as u64 * 2);
    // From token '0' to the end of token 255.
    let mut at = 0;
    for _ in usize::from(b'0')..tokens::TOKENS {
        at = at + after.string(at, 512).ok()?.len() as u64 + 1;
    }
    // The index follows on the next multiple of 4 or 8.
    [8, 4].iter().find_map(|align| {
        let end = digits.checked_add(at)?.get().checked_next_multiple_of(*align)?;
        let index = VirtAddr::new(end);
        let blob = Blob::new(memory, index, tokens::TOKENS as u64 * 2);
        let mut last = None;
        for token in 0..tokens::TOKENS as u64 {
            let here = blob.u16(token * 2).ok()?;
            if last.is_some_and(|last| here <= last) || (last.is_none() && here != 0) {
                return None;
            }
            last = Some(here);
        }
        let zero = blob.u16(u64::from(b'0') * 2).ok()?;
        let table = VirtAddr::new(digits.get().checked_sub(u64::from(zero))?);
        Some((table, index))
    })
}

/// The rest of the tables, by the place of the token table.
fn around(memory: &dyn Memory, table: VirtAddr, index: VirtAddr) -> Vec<Tables> {
    let Ok(tokens) = tokens::Tokens::read(memory, table, index) else { return Vec::new() };
    let end = table.get() & !7;
    // Backwards, for the names are before their markers, which are before the tokens.
    let mut window = vec![0; usize::try_from(WINDOW).unwrap_or(0)];
    let mut above = end;
    while above > end.saturating_sub(BEFORE) {
        let start = above.saturating_sub(WINDOW);
        read_pages(memory, start, &mut window);
        for skip in (0..window.len()).step_by(8).rev() {
            let Some(value) = memory.endian().u64(&window, skip) else { continue };
            // An `int` and the padding behind it, or a `long`.
            let value = if memory.endian() == Endian::Big && value >> 32 != 0 {
                value.rotate_left(32)
            } else {
                value
            };
            let Some(count) = u32::try_from(value).ok().filter(|c| (1000..MAX_SYMBOLS).contains(c)) else {
                continue;
            };
            let count_at = start.saturating_add(skip as u64);
            let blob = Blob::new(memory, VirtAddr::new(count_at), end.saturating_sub(count_at));
            if names_end_in_markers(&blob, &tokens, count).unwrap_or(false) {
                return with_addresses(count, count_at, table, index);
            }
        }
        above = start;
    }
    Vec::new()
}

/// Whether `count` names follow 8 bytes behind the blob's start, and markers that agree follow them.
fn names_end_in_markers(blob: &Blob<'_>, tokens: &tokens::Tokens, count: u32) -> Result<bool, ReadError> {
    let mut name = Vec::new();
    let mut at = 8;
    let mut second = 0;
    for index in 0..count {
        if index == super::STEP {
            second = at - 8;
        }
        at = tokens.expand(blob, at, &mut name)?;
        let sane = name.len() >= 2 && name.first().is_some_and(u8::is_ascii_alphabetic);
        if !sane || at >= blob.len() {
            return Ok(false);
        }
    }
    // Markers of 4 bytes since v4.20, of 8 before; there are at least four.
    let at = blob.start().get().saturating_add(at);
    let skip = |align: u64| Some(at.checked_next_multiple_of(align)?.saturating_sub(blob.start().get()));
    let (Some(four), Some(eight)) = (skip(4), skip(8)) else { return Ok(false) };
    let narrow = |at: u64| Ok::<_, ReadError>((u64::from(blob.u32(at)?), u64::from(blob.u32(at + 4)?)));
    let wide = |at: u64| Ok::<_, ReadError>((blob.u64(at)?, blob.u64(at + 8)?));
    Ok([narrow(four)?, narrow(eight)?, wide(eight)?].contains(&(0, second)))
}

/// Where the addresses may be, in either order of the tables.
fn with_addresses(count: u32, count_at: u64, table: VirtAddr, index: VirtAddr) -> Vec<Tables> {
    let tables = |addresses: Option<u64>, base: Option<u64>| {
        Some(Tables {
            count,
            names: VirtAddr::new(count_at.checked_add(8)?),
            token_table: table,
            token_index: index,
            addresses: VirtAddr::new(addresses?),
            base: base.map(VirtAddr::new),
        })
    };
    let narrow = u64::from(count).saturating_mul(4).checked_next_multiple_of(8).unwrap_or(u64::MAX);
    let base_before = count_at.saturating_sub(8);
    let behind = index.get().saturating_add(tokens::TOKENS as u64 * 2).checked_next_multiple_of(8);
    let base_behind = behind.map(|b| b.saturating_add(narrow));
    [
        tables(base_before.checked_sub(narrow), Some(base_before)),
        tables(behind, base_behind),
        tables(behind, None),
        tables(count_at.checked_sub(u64::from(count).saturating_mul(8)), None),
    ]
    .into_iter()
    .flatten()
    .collect()
}

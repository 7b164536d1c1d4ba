//! Where no table tells: what on the stack was put there by a call.

use super::super::{Dead, Known};
use super::switches::Stacks;
use super::{Cursor, How};
use crate::vmcore::EM_X86_64;

/// Words that are looked at.
const MAX_WORDS: u64 = 2048;

/// What a word on the stack is behind.
enum Call {
    /// A call of this address.
    Direct(u64),
    /// A call of what a register or memory said.
    Indirect,
}

/// The caller of `now`, if a word on the stack is the address after a call of the function that `now` is in.
///
/// A function that never returns has no ORC entry behind its last call, and some of the entry code none at all.
pub(super) fn verified(dead: &Dead<'_>, now: &Cursor, stacks: &Stacks) -> Known<Option<Cursor>> {
    if dead.machine() != EM_X86_64 {
        return Ok(None);
    }
    let asked = if now.exact { now.ip } else { now.ip.wrapping_sub(1) };
    let Some(spot) = dead.spot(asked) else { return Ok(None) };
    let function = asked.wrapping_sub(spot.offset);
    for at in words(now.sp, stacks) {
        let Ok(word) = dead.u64(at) else { break };
        if dead.is_text(word)
            && let Some(Call::Direct(to)) = call_before(dead, word)
            && to == function
        {
            return Ok(Some(next(at, word, How::CallVerified)));
        }
        dead.budget().step()?;
    }
    Ok(None)
}

/// The next word on the stack that is the address after any call; a guess, since it may have been left there by an earlier one.
pub(super) fn guess(dead: &Dead<'_>, now: &Cursor, stacks: &Stacks) -> Option<Cursor> {
    if dead.machine() != EM_X86_64 {
        return None;
    }
    for at in words(now.sp, stacks) {
        dead.budget().step().ok()?;
        let word = dead.u64(at).ok()?;
        if dead.is_text(word) && call_before(dead, word).is_some() {
            return Some(next(at, word, How::Guess));
        }
    }
    None
}

fn next(at: u64, ip: u64, how: How) -> Cursor {
    let sp = at.wrapping_add(8);
    Cursor { ip, sp, frame: None, registers: None, exact: false, user: false, how }
}

/// The words of the stack that `sp` is on, from there up.
fn words(sp: u64, stacks: &Stacks) -> impl Iterator<Item = u64> {
    let start = sp.next_multiple_of(8);
    let end = stacks.end(sp).unwrap_or(start).min(start.saturating_add(MAX_WORDS * 8));
    (start..end).step_by(8)
}

/// The call that ends right before `at`.
fn call_before(dead: &Dead<'_>, at: u64) -> Option<Call> {
    let code = dead.bytes(at.wrapping_sub(7), 7).ok()?;
    if let [_, _, 0xe8, a, b, c, d] = *code.as_slice() {
        let to = at.wrapping_add_signed(i64::from(i32::from_le_bytes([a, b, c, d])));
        return dead.is_text(to).then_some(Call::Direct(to));
    }
    // call *%reg, call *disp8(%reg), call *disp32(%reg), call *disp32(,%reg,8), call *(%reg).
    let indirect = |skip: usize, modrm: std::ops::RangeInclusive<u8>| {
        code.get(skip) == Some(&0xff) && code.get(skip + 1).is_some_and(|byte| modrm.contains(byte))
    };
    let found = indirect(5, 0xd0..=0xd7)
        || indirect(5, 0x10..=0x13)
        || indirect(4, 0x50..=0x57)
        || indirect(1, 0x90..=0x97)
        || indirect(1, 0x15..=0x15)
        || indirect(0, 0x14..=0x14);
    found.then_some(Call::Indirect)
}

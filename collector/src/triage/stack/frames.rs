//! One step outwards by the frame pointer: arm64, and x86-64 with CONFIG_UNWINDER_FRAME_POINTER.

use super::super::{Dead, Known, Registers, Unknown};
use super::{Cursor, End, How, Step};
use crate::vmcore::{EM_AARCH64, EM_X86_64};

/// Words of `struct pt_regs` of x86-64.
const PT_REGS: usize = 21;

/// x86-64: the frame pointer points at the caller's, and above that is the return address. The entry code puts a frame
/// pointer with the lowest bit set, which is then the address of a `struct pt_regs`.
pub(super) fn x86(dead: &Dead<'_>, now: &Cursor) -> Known<Step> {
    let frame =
        now.frame.filter(|frame| *frame != 0).ok_or_else(|| Unknown::missing("there is no frame pointer"))?;
    if frame & 1 != 0 {
        let bytes = dead.bytes(frame & !1, PT_REGS * 8)?;
        let registers = Registers::of_words(EM_X86_64, &bytes, dead.endian());
        let registers = registers.ok_or_else(|| Unknown::senseless("registers"))?;
        return Ok(Step::Frame(Cursor::at(registers, How::FramePointer)));
    }
    call(dead, frame, now)
}

fn call(dead: &Dead<'_>, frame: u64, now: &Cursor) -> Known<Step> {
    // Stacks grow down: a caller's frame is above, unless the stack was switched.
    let (next, ip) = (dead.u64(frame)?, dead.u64(frame.wrapping_add(8))?);
    let ip = if dead.machine() == EM_AARCH64 { dead.unsigned_pointer(ip) } else { ip };
    if next == 0 && ip == 0 {
        return Ok(Step::End(End::Bottom));
    }
    if !frame.is_multiple_of(8) || next == frame {
        return Err(Unknown::Senseless(format!("the frame of {:#x} at {frame:#x} makes no sense", now.ip)));
    }
    let sp = frame.wrapping_add(16);
    Ok(Step::Frame(Cursor {
        ip,
        sp,
        frame: Some(next),
        registers: None,
        exact: false,
        user: false,
        how: How::FramePointer,
    }))
}

/// arm64: as above, with x29. Where an exception came in there is a frame of its own, which says so since Linux commit
/// c2c6b27b5aa1 ("arm64: stacktrace: unwind exception boundaries") (in v6.14); before it the frame points at what was
/// interrupted, like a caller's.
pub(super) fn arm64(dead: &Dead<'_>, now: &Cursor) -> Known<Step> {
    /// FRAME_META_TYPE_PT_REGS.
    const PT_REGS_FRAME: u64 = 2;
    if let Some(next) = leaf(dead, now) {
        return Ok(Step::Frame(next));
    }
    let frame =
        now.frame.filter(|frame| *frame != 0).ok_or_else(|| Unknown::missing("there is no frame pointer"))?;
    if dead.u64(frame)? == 0 && dead.u64(frame.wrapping_add(8))? == 0 {
        let inside = dead.member("pt_regs", "stackframe")?;
        let start = frame.wrapping_sub(inside.offset);
        let meta = dead.has_type("frame_record_meta");
        if meta && dead.get(frame, "frame_record_meta", "type")? != PT_REGS_FRAME {
            return Ok(Step::End(End::Bottom));
        }
        let bytes = dead.bytes(start, 34 * 8)?;
        let registers = Registers::of_words(EM_AARCH64, &bytes, dead.endian());
        let registers = registers.ok_or_else(|| Unknown::senseless("registers"))?;
        // Before that, a frame of zeros is only where user space, or nobody, was before.
        return Ok(match registers.is_user() && registers.ip() != 0 {
            false if !meta => Step::End(End::Bottom),
            _ => Step::Frame(Cursor::at(registers, How::FramePointer)),
        });
    }
    call(dead, frame, now)
}

/// The caller of a function that had not yet, or does not, put its frame on the stack: its return address is in the link
/// register alone.
fn leaf(dead: &Dead<'_>, now: &Cursor) -> Option<Cursor> {
    let registers = now.registers.as_ref().filter(|_| now.exact && !now.user)?;
    let link = dead.unsigned_pointer(registers.get("lr")?);
    let function = now.ip.wrapping_sub(dead.spot(now.ip)?.offset);
    let saved = dead.u64(registers.frame().wrapping_add(8)).ok().map(|at| dead.unsigned_pointer(at));
    if saved == Some(link) || !dead.is_text(link) {
        return None;
    }
    // bl: the instruction before the link, with 26 bits of distance in words.
    let call = dead.u32(link.wrapping_sub(4)).ok()?;
    let distance = i64::from(((call << 6).cast_signed() >> 6).wrapping_mul(4));
    let to = link.wrapping_sub(4).wrapping_add_signed(distance);
    if call >> 26 != 0b10_0101 || to != function {
        return None;
    }
    Some(Cursor {
        ip: link,
        sp: now.sp,
        frame: now.frame,
        registers: None,
        exact: false,
        user: false,
        how: How::CallVerified,
    })
}

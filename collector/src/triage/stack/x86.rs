//! One step outwards on x86-64, by the ORC tables.

use super::super::{Dead, Known, Registers, Unknown};
use super::orc::{Base, Entry, Kind, Tables};
use super::switches::Stacks;
use super::{Cursor, End, How, Step, scan};
use crate::vmcore::EM_X86_64;

/// Words of `struct pt_regs`, and where in it the part lies that the CPU itself pushes: ip, cs, flags, sp, ss.
const PT_REGS: usize = 21;
const IRET: u64 = 16 * 8;

/// From `now` to its caller.
pub(super) fn step(dead: &Dead<'_>, orc: &Tables, now: &Cursor, stacks: &Stacks) -> Known<Step> {
    // What follows the last call of a function is the next function.
    let asked = if now.exact { now.ip } else { now.ip.wrapping_sub(1) };
    let entry = orc.entry(dead, asked)?;
    match entry {
        Some(Entry { kind: Kind::End, .. }) => Ok(Step::End(End::Bottom)),
        Some(entry) if entry.kind != Kind::Undefined && entry.sp.0 != Base::Undefined => {
            let found = by_entry(dead, entry, now);
            // Behind a frame that was found by its call alone the frame pointer is not known. A caller that called exactly
            // this function is as good, and what the function saved of the frame pointer lies where its entry says.
            if let (Err(Unknown::Missing(_)), Kind::Call, None) = (&found, entry.kind, now.frame)
                && let Some(mut next) = scan::verified(dead, now, stacks)?
            {
                next.frame = match entry.bp.0 {
                    Base::PreviousSp => frame_pointer(dead, entry, now, next.sp)?,
                    _ => None,
                };
                return Ok(Step::Frame(next));
            }
            found
        }
        // Code without an entry: of a function that never returns, of a trampoline, or no code at all.
        _ => match scan::verified(dead, now, stacks)? {
            Some(next) => Ok(Step::Frame(next)),
            None => Err(Unknown::Missing(format!("there is no ORC entry for {asked:#x}"))),
        },
    }
}

fn by_entry(dead: &Dead<'_>, entry: Entry, now: &Cursor) -> Known<Step> {
    let lost = |name: &str| {
        Unknown::Missing(format!("the frame of {:#x} is found by {name}, which is not known", now.ip))
    };
    let register = |name: &str| now.registers.as_ref().and_then(|r| r.get(name)).ok_or_else(|| lost(name));
    let bp = || now.frame.ok_or_else(|| lost("rbp"));
    let (base, offset) = (entry.sp.0, i64::from(entry.sp.1));
    let place = match base {
        Base::Sp => now.sp.wrapping_add_signed(offset),
        Base::Bp => bp()?.wrapping_add_signed(offset),
        // Since Linux commit 87ccc826bf1c ("x86/unwind/orc: Change REG_SP_INDIRECT") (in v5.12); not used before.
        Base::SpIndirect => dead.u64(now.sp)?.wrapping_add_signed(offset),
        Base::BpIndirect => dead.u64(bp()?.wrapping_add_signed(offset))?,
        Base::R10 => register("r10")?.wrapping_add_signed(offset),
        Base::R13 => register("r13")?.wrapping_add_signed(offset),
        Base::Di => register("rdi")?.wrapping_add_signed(offset),
        Base::Dx => register("rdx")?.wrapping_add_signed(offset),
        Base::Ax => register("rax")?.wrapping_add_signed(offset),
        Base::Undefined | Base::PreviousSp | Base::Unknown(_) => {
            return Err(Unknown::Senseless(format!("the ORC entry of {:#x} makes no sense", now.ip)));
        }
    };
    if !place.is_multiple_of(8) {
        return Err(Unknown::Senseless(format!("the stack of {:#x} would be at {place:#x}", now.ip)));
    }
    match entry.kind {
        Kind::Registers => {
            let bytes = dead.bytes(place, PT_REGS * 8)?;
            let registers = Registers::of_words(EM_X86_64, &bytes, dead.endian());
            let registers = registers.ok_or_else(|| Unknown::senseless("registers"))?;
            Ok(Step::Frame(Cursor::at(registers, How::Orc)))
        }
        Kind::Partial => {
            let mut words = [0; 5];
            for (word, index) in words.iter_mut().zip(0_u64..) {
                *word = dead.u64(place.wrapping_add(index * 8))?;
            }
            let [ip, cs, _, sp, _] = words;
            // The registers that were pushed before are those of whoever was interrupted.
            let frame = frame_pointer(dead, entry, now, place.wrapping_sub(IRET))?;
            let user = cs & 3 == 3;
            Ok(Step::Frame(Cursor { ip, sp, frame, registers: None, exact: true, user, how: How::Orc }))
        }
        Kind::Call => {
            let ip = dead.u64(place.wrapping_sub(8))?;
            let frame = frame_pointer(dead, entry, now, place)?;
            let next =
                Cursor { ip, sp: place, frame, registers: None, exact: false, user: false, how: How::Orc };
            if ip != 0 && dead.spot(ip.wrapping_sub(1)).is_none() {
                return Err(Unknown::Senseless(format!("{ip:#x} is no code")));
            }
            Ok(Step::Frame(next))
        }
        Kind::End | Kind::Undefined => Ok(Step::End(End::Bottom)),
    }
}

/// The caller's frame pointer. Where it cannot be read it is only not known: few frames are found by it.
fn frame_pointer(dead: &Dead<'_>, entry: Entry, now: &Cursor, previous: u64) -> Known<Option<u64>> {
    let offset = i64::from(entry.bp.1);
    let at = match entry.bp.0 {
        Base::PreviousSp => previous.wrapping_add_signed(offset),
        Base::Bp => match now.frame {
            Some(frame) => frame.wrapping_add_signed(offset),
            None => return Ok(None),
        },
        _ => return Ok(now.frame),
    };
    match dead.u64(at) {
        Ok(frame) => Ok(Some(frame)),
        Err(Unknown::Deadline) => Err(Unknown::Deadline),
        Err(_) => Ok(None),
    }
}

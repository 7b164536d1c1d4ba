//! The code around an instruction: bytes as the kernel's own oops has them, and what they say.

use super::super::{Dead, Known, Unknown};
use crate::vmcore::EM_X86_64;
use iced_x86::{Decoder, DecoderOptions, Formatter, GasFormatter};
use serde::Serialize;

/// Bytes before and from the instruction on that are shown, as the kernel does (`code_bytes`).
const BEFORE: u64 = 42;
const AFTER: u64 = 22;

/// Instructions before it, and from it on.
const LINES_BEFORE: usize = 8;
const LINES_AFTER: usize = 6;

/// A function is decoded from its start, if that is not further away.
const MAX_FUNCTION: u64 = 16 << 10;

/// The code around an instruction.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Code {
    /// The instruction.
    #[serde(serialize_with = "crate::triage::hex")]
    pub at: u64,
    /// Bytes as an oops has them: hexadecimal, the first of the instruction as `<0f>`. Empty where none can be read.
    pub bytes: String,
    /// The instructions around it. Empty on machines whose code is not decoded, and where decoding from the start of the
    /// function does not meet the instruction.
    pub instructions: Vec<Instruction>,
}

/// One instruction.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Instruction {
    /// Where it is.
    #[serde(serialize_with = "crate::triage::hex")]
    pub at: u64,
    /// Where that is in its function.
    pub offset: Option<u64>,
    /// As the GNU assembler has it; a branch with the symbol that it goes to.
    pub text: String,
    /// It is the one that was asked for.
    pub current: bool,
}

impl Dead<'_> {
    /// The code around the instruction at `at`.
    pub fn code(&self, at: u64) -> Known<Code> {
        Ok(Code { at, bytes: self.code_bytes(at)?, instructions: self.instructions(at)? })
    }

    fn code_bytes(&self, at: u64) -> Known<String> {
        let mut text = String::new();
        let start = at.wrapping_sub(BEFORE);
        for index in 0..BEFORE.saturating_add(AFTER) {
            let here = start.wrapping_add(index);
            let byte = match self.u8(here) {
                Ok(byte) => format!("{byte:02x}"),
                Err(Unknown::Deadline) => return Err(Unknown::Deadline),
                Err(why) if here == at => return Err(why),
                Err(_) => "??".to_owned(),
            };
            let space = if text.is_empty() { "" } else { " " };
            let byte = if here == at { format!("<{byte}>") } else { byte };
            text.push_str(space);
            text.push_str(&byte);
        }
        Ok(text)
    }

    fn instructions(&self, at: u64) -> Known<Vec<Instruction>> {
        if self.machine() != EM_X86_64 {
            return Ok(Vec::new());
        }
        let offset = self.spot(at).map(|spot| spot.offset).filter(|offset| *offset <= MAX_FUNCTION);
        let start = at.wrapping_sub(offset.unwrap_or(0));
        let len = usize::try_from(offset.unwrap_or(0)).unwrap_or(0).saturating_add(16 * LINES_AFTER);
        // What follows may not be there.
        let bytes =
            (0..2).find_map(|cut| self.bytes(start, len.saturating_sub(cut * 16 * (LINES_AFTER - 1))).ok());
        let bytes =
            bytes.ok_or_else(|| Unknown::Unreadable(format!("the code at {at:#x} is not in the dump")))?;
        let mut lines = decode(self, &bytes, start, at);
        if !lines.iter().any(|line| line.current) {
            let skip = usize::try_from(at.wrapping_sub(start)).unwrap_or(0);
            lines = decode(self, bytes.get(skip..).unwrap_or_default(), at, at);
        }
        let here = lines.iter().position(|line| line.current).unwrap_or(0);
        let first = here.saturating_sub(LINES_BEFORE);
        lines.truncate(here.saturating_add(LINES_AFTER));
        lines.drain(..first);
        for line in &mut lines {
            line.offset = offset.map(|_| line.at.wrapping_sub(start));
        }
        Ok(lines)
    }
}

/// The instructions in `bytes`, which lie at `start`, as far as a few behind `at`.
fn decode(dead: &Dead<'_>, bytes: &[u8], start: u64, at: u64) -> Vec<Instruction> {
    let mut formatter = GasFormatter::new();
    let options = formatter.options_mut();
    options.set_branch_leading_zeros(false);
    options.set_uppercase_hex(false);
    let mut lines = Vec::new();
    let mut after = 0;
    let mut text = String::new();
    for instruction in Decoder::with_ip(64, bytes, start, DecoderOptions::NONE) {
        let here = instruction.ip();
        if here > at {
            after += 1;
        }
        if after >= LINES_AFTER {
            break;
        }
        if here.saturating_add(256) < at {
            // Only on the way to where it matters.
            continue;
        }
        text.clear();
        if instruction.is_invalid() {
            text.push_str("(bad)");
        } else {
            formatter.format(&instruction, &mut text);
        }
        if let Some(to) =
            dead.spot(instruction.near_branch_target()).filter(|_| instruction.near_branch_target() != 0)
        {
            text.push_str(&format!(" <{}+{:#x}>", to.name, to.offset));
        }
        lines.push(Instruction { at: here, offset: None, text: text.clone(), current: here == at });
    }
    lines
}

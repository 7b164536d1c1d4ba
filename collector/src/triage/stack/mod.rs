//! Stacks: who called whom, of any task, by what the kernel unwinds its own stacks with.
//!
//! What it is not: it knows no arguments, no locals, no inlined functions. Data flow: `start` finds the registers that a task
//! stopped with; a walk steps from frame to frame, by the ORC tables (`orc`) or by frame pointers (`frames`), and where
//! neither can, by what on the stack was put there by a call (`scan`). Each frame says how it was found: [`How`].

mod code;
mod frames;
mod orc;
mod scan;
mod switches;
mod x86;

pub use code::{Code, Instruction};

use super::{Dead, Known, Registers, Spot, Unknown};
use crate::vmcore::{EM_AARCH64, EM_X86_64};
use serde::Serialize;
use std::fmt;

/// Frames of one stack at most: the kernel's own stacks have room for a few hundred.
const MAX_FRAMES: usize = 512;

/// How a frame was found.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// The registers say so.
    Registers,
    /// By the ORC tables.
    Orc,
    /// By the frame pointer.
    FramePointer,
    /// No table tells, but what lies on the stack was put there by a call of exactly the function above: shown with `~`.
    CallVerified,
    /// It lies on the stack and looks as if a call had put it there. It may be from an earlier time: shown with `?`.
    Guess,
}

/// One frame.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Frame {
    /// The instruction that was interrupted, or the one to return to.
    #[serde(serialize_with = "crate::triage::hex")]
    pub ip: u64,
    /// Where in the kernel that is. Of a return address: of the call before it.
    pub spot: Option<Spot>,
    /// How it was found.
    pub how: How,
    /// `ip` was interrupted: it is not the address after a call.
    pub exact: bool,
    /// Which stack it is on.
    pub stack: StackKind,
    /// The stack pointer in this frame.
    #[serde(serialize_with = "crate::triage::hex")]
    pub sp: u64,
    /// It runs in user space: the kernel was entered from here.
    pub user: bool,
}

impl Frame {
    /// The function, without what a compiler adds to its name (`.isra.0`).
    pub fn function(&self) -> Option<&str> {
        let name = self.spot.as_ref()?.name.as_str();
        Some(name.split('.').next().unwrap_or(name))
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.how {
            How::Guess => "? ",
            How::CallVerified => "~ ",
            How::Registers | How::Orc | How::FramePointer => "",
        };
        match &self.spot {
            Some(spot) => write!(f, "{mark}{spot}"),
            None if self.user => write!(f, "user space {:#x}", self.ip),
            None => write!(f, "{mark}{:#x}", self.ip),
        }
    }
}

/// Which stack a frame is on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StackKind {
    /// The task's own.
    Task,
    /// Of interrupts.
    Irq,
    /// Where the kernel is entered.
    Entry,
    /// Of non-maskable interrupts.
    Nmi,
    /// Of machine checks.
    Mce,
    /// Of double faults: a stack overflow comes here.
    Df,
    /// Of debug exceptions.
    Db,
    /// Of #VC, in an encrypted guest.
    Vc,
    /// Another, or none.
    Other,
    /// The process's, in user space.
    User,
}

impl StackKind {
    /// What the kernel's own traces write around its frames.
    pub fn label(self) -> Option<&'static str> {
        Some(match self {
            Self::Irq => "IRQ",
            Self::Entry => "ENTRY_TRAMPOLINE",
            Self::Nmi => "NMI",
            Self::Mce => "#MC",
            Self::Df => "#DF",
            Self::Db => "#DB",
            Self::Vc => "#VC",
            Self::Task | Self::Other | Self::User => return None,
        })
    }
}

/// Why there are no more frames.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// The kernel was entered from user space here.
    User,
    /// Here the task, or the CPU, began.
    Bottom,
    /// It cannot be told what is behind.
    Broken(String),
}

/// The stack of a task.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Stack {
    /// From the innermost function out.
    pub frames: Vec<Frame>,
    /// Why the last frame is the last one.
    pub end: End,
}

impl Stack {
    /// The functions, from the innermost out, without what compilers add to their names; guesses are left out.
    pub fn functions(&self) -> Vec<&str> {
        self.frames.iter().filter(|f| f.how != How::Guess).filter_map(Frame::function).collect()
    }
}

/// Where a walk is.
#[derive(Clone, Debug)]
struct Cursor {
    ip: u64,
    sp: u64,
    /// The frame pointer; `None` when it is not known.
    frame: Option<u64>,
    /// Registers that a frame may be found by, as far as they are known: of the place itself, or of an exception.
    registers: Option<Registers>,
    /// `ip` is not the address after a call.
    exact: bool,
    user: bool,
    how: How,
}

/// What a step came to.
enum Step {
    Frame(Cursor),
    End(End),
}

impl Dead<'_> {
    /// The stack of the task at `task`. Of one that was running: from the registers that its CPU stopped with.
    pub fn stack(&self, task: u64) -> Known<Stack> {
        let running = self.possible_cpus()?.iter().find(|cpu| self.current(**cpu) == Ok(task));
        match running {
            Some(cpu) => self.stack_of_cpu(*cpu),
            None => self.walk(task, self.sleeping(task)?),
        }
    }

    /// The stack of what a CPU did.
    pub fn stack_of_cpu(&self, cpu: u32) -> Known<Stack> {
        let task = self.current(cpu)?;
        let registers = self.registers(cpu).ok_or_else(|| {
            Unknown::Missing(if self.is_live() {
                format!("CPU {cpu} runs it")
            } else {
                format!("the dump has no registers of CPU {cpu}: it did not stop, or was not asked to")
            })
        })?;
        self.walk(task, Cursor::at(registers, How::Registers))
    }

    /// The stack from given registers on.
    pub fn stack_from(&self, task: u64, registers: Registers) -> Known<Stack> {
        self.walk(task, Cursor::at(registers, How::Registers))
    }

    /// Where a task that does not run was switched away from.
    fn sleeping(&self, task: u64) -> Known<Cursor> {
        let cursor = |ip, sp, frame| Cursor {
            ip,
            sp,
            frame: Some(frame),
            registers: None,
            // A task that never ran starts at the first byte of a function.
            exact: self.spot(ip).is_some_and(|spot| spot.offset == 0),
            user: false,
            how: How::Registers,
        };
        match self.machine() {
            EM_X86_64 => {
                let sp = self.get(task, "task_struct", "thread.sp")?;
                let of = |path| self.get(sp, "inactive_task_frame", path);
                let top = self.place(sp, "inactive_task_frame", "ret_addr")?.wrapping_add(8);
                Ok(cursor(of("ret_addr")?, top, of("bp")?))
            }
            EM_AARCH64 => {
                let of = |path| self.get(task, "task_struct", path);
                let ip = self.unsigned_pointer(of("thread.cpu_context.pc")?);
                Ok(cursor(ip, of("thread.cpu_context.sp")?, of("thread.cpu_context.fp")?))
            }
            other => Err(Unknown::Missing(format!("stacks of ELF machine {other} cannot be unwound"))),
        }
    }

    fn walk(&self, task: u64, start: Cursor) -> Known<Stack> {
        let stacks = switches::Stacks::new(self, task);
        let orc = if self.machine() == EM_X86_64 { orc::Tables::open(self) } else { None };
        let mut frames: Vec<Frame> = Vec::new();
        let mut now = start;
        let end = loop {
            frames.push(self.frame(&now, &stacks));
            if now.user {
                break End::User;
            }
            if frames.len() >= MAX_FRAMES {
                break End::Broken(format!("there are more than {MAX_FRAMES} frames"));
            }
            let step = match self.machine() {
                EM_X86_64 => match &orc {
                    Some(orc) => x86::step(self, orc, &now, &stacks),
                    None => frames::x86(self, &now),
                },
                EM_AARCH64 => frames::arm64(self, &now),
                _ => Ok(Step::End(End::Broken("stacks of this machine cannot be unwound".to_owned()))),
            };
            let next = match step {
                Ok(Step::Frame(next)) => next,
                Ok(Step::End(end)) => break end,
                Err(why @ Unknown::Deadline) => break End::Broken(why.to_string()),
                Err(why) => match scan::guess(self, &now, &stacks) {
                    Some(next) => next,
                    None => break End::Broken(why.to_string()),
                },
            };
            if self.budget().step().is_err() {
                break End::Broken(Unknown::Deadline.to_string());
            }
            let again = |frame: &Frame| (frame.ip, frame.sp) == (next.ip, next.sp);
            if frames.iter().any(again) {
                break End::Broken(format!("it comes back to {:#x}", next.ip));
            }
            // The bottom of a kernel thread's stack is a frame of registers that are all zero.
            if next.ip == 0 && !next.user {
                break End::Bottom;
            }
            now = next;
        };
        Ok(Stack { frames, end })
    }

    fn frame(&self, now: &Cursor, stacks: &switches::Stacks) -> Frame {
        let spot = if now.user {
            None
        } else if now.exact {
            self.spot(now.ip)
        } else {
            // A call may be the last instruction of a function: what follows it is the next one's.
            self.spot(now.ip.wrapping_sub(1)).map(|s| Spot { offset: s.offset.saturating_add(1), ..s })
        };
        let stack = if now.user { StackKind::User } else { stacks.kind(now.sp) };
        Frame { ip: now.ip, spot, how: now.how, exact: now.exact, stack, sp: now.sp, user: now.user }
    }

    /// A kernel address without the signature that arm64 may have put into its upper bits.
    fn unsigned_pointer(&self, at: u64) -> u64 {
        // All set in a kernel address: since Linux commit 689eae42afd7 ("arm64: mask PAC bits of __builtin_return_address")
        // and its neighbours the mask is in VMCOREINFO (KERNELPACMASK, v5.10).
        let mask = self.info().number("KERNELPACMASK").map_or(0, i64::cast_unsigned);
        if at >> 55 & 1 == 1 { at | mask } else { at }
    }
}

impl Cursor {
    fn at(registers: Registers, how: How) -> Self {
        Self {
            ip: registers.ip(),
            sp: registers.sp(),
            frame: Some(registers.frame()),
            user: registers.is_user(),
            registers: Some(registers),
            exact: true,
            how,
        }
    }
}

//! A CPU's registers, as NT_PRSTATUS has them.

use crate::vmcore::{EM_AARCH64, EM_X86_64, Endian};

/// Bytes of `struct elf_prstatus` of 64-bit machines before `pr_reg`.
const PR_REG: usize = 112;

/// `struct user_regs_struct` of x86-64. The first 21 are `struct pt_regs`.
const X86_64: [&str; 27] = [
    "r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi",
    "orig_rax", "rip", "cs", "rflags", "rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs",
];

/// `struct user_pt_regs` of arm64.
const AARCH64: [&str; 34] = [
    "x0", "x1", "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14", "x15",
    "x16", "x17", "x18", "x19", "x20", "x21", "x22", "x23", "x24", "x25", "x26", "x27", "x28", "x29", "lr",
    "sp", "pc", "pstate",
];

/// Registers by name, in the order of the architecture's structure.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Registers {
    machine: u16,
    names: &'static [&'static str],
    values: Vec<u64>,
}

impl Registers {
    /// Out of the descriptor of an NT_PRSTATUS note; `None` of a machine whose registers are not known.
    pub fn of_prstatus(machine: u16, desc: &[u8], endian: Endian) -> Option<Self> {
        Self::of_words(machine, desc.get(PR_REG..)?, endian)
    }

    /// Out of the registers themselves, as many as there are; the rest is left out.
    pub fn of_words(machine: u16, bytes: &[u8], endian: Endian) -> Option<Self> {
        let names: &'static [&'static str] = match machine {
            EM_X86_64 => &X86_64,
            EM_AARCH64 => &AARCH64,
            _ => return None,
        };
        let values: Vec<u64> =
            (0..names.len()).map_while(|i| endian.u64(bytes, i.saturating_mul(8))).collect();
        (!values.is_empty()).then_some(Self { machine, names, values })
    }

    /// Each with its name.
    pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.names.iter().copied().zip(self.values.iter().copied())
    }

    /// One by its name.
    pub fn get(&self, name: &str) -> Option<u64> {
        self.each().find(|(n, _)| *n == name).map(|(_, value)| value)
    }

    /// The instruction that would have been next.
    pub fn ip(&self) -> u64 {
        self.get(if self.machine == EM_X86_64 { "rip" } else { "pc" }).unwrap_or(0)
    }

    /// The stack pointer.
    pub fn sp(&self) -> u64 {
        self.get(if self.machine == EM_X86_64 { "rsp" } else { "sp" }).unwrap_or(0)
    }

    /// The frame pointer, where code keeps one.
    pub fn frame(&self) -> u64 {
        self.get(if self.machine == EM_X86_64 { "rbp" } else { "x29" }).unwrap_or(0)
    }

    /// Whether the CPU was in user space.
    pub fn is_user(&self) -> bool {
        match self.machine {
            EM_X86_64 => self.get("cs").is_some_and(|cs| cs & 3 == 3),
            _ => self.get("pstate").is_some_and(|state| state & 0xf == 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_have_names() {
        let words: Vec<u8> = (0_u64..60).flat_map(u64::to_le_bytes).collect();
        let of = |machine| Registers::of_prstatus(machine, &words, Endian::Little);
        let x86 = of(EM_X86_64).unwrap();
        assert_eq!((x86.ip(), x86.sp(), x86.frame()), (14 + 16, 14 + 19, 14 + 4));
        assert_eq!(x86.get("gs"), Some(14 + 26));
        let arm = of(EM_AARCH64).unwrap();
        assert_eq!((arm.ip(), arm.sp(), arm.frame()), (14 + 32, 14 + 31, 14 + 29));
        assert!(of(1).is_none());
        assert!(Registers::of_prstatus(EM_X86_64, &words[..112], Endian::Little).is_none());
    }
}

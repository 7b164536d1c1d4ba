//! A name for a kind of crash: the same for two crashes of one cause, whatever the boot, the addresses and the task's number.
//!
//! It is a hash of the kind and of the first functions that tell of the crash, modules' names with them, without what a compiler
//! adds to names. Where the stack says nothing of the cause (an NMI, a machine check, no memory), the kind alone counts.

use super::stack::Call;

/// Functions that count. More would tell apart two ways to the same bug.
const FRAMES: usize = 5;

/// The signature: 16 hexadecimal digits.
pub fn signature(kind: &str, telling: &[Call<'_>]) -> String {
    let mut hash = Fnv::new();
    hash.add(kind);
    for call in telling.iter().take(FRAMES) {
        hash.add(call.module.unwrap_or_default());
        hash.add(call.function);
    }
    format!("{:016x}", hash.0)
}

/// FNV-1a of 64 bits (<http://www.isthe.com/chongo/tech/comp/fnv/>): it is to tell crashes apart, not to withstand anybody.
struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// A word and an end, so that two words are not one.
    fn add(&mut self, word: &str) {
        for byte in word.bytes().chain([0]) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::stack::tests::named;
    use super::super::stack::{Of, telling};
    use super::*;

    fn of(kind: &str, names: &str) -> String {
        signature(kind, &telling(&named(names), Of::Dead))
    }

    #[test]
    fn it_is_the_same_for_the_same_cause() {
        let one = of("null", "crash_kexec oops_end m:f m:g do_one_initcall");
        assert_eq!(one.len(), 16);
        assert_eq!(one, of("null", "panic m:f m:g do_one_initcall do_syscall_64"));
        for other in
            ["m:g m:f do_one_initcall", "f m:g do_one_initcall", "m:f m:g", "mf: mg: do_one_initcall"]
        {
            assert_ne!(one, of("null", other), "{other}");
        }
        assert_ne!(one, of("bug", "m:f m:g do_one_initcall"));
        // What lies further down is the way there.
        assert_eq!(of("bug", "a b c d e f g"), of("bug", "a b c d e x y"));
    }

    /// The numbers are kept by people: they must not change.
    #[test]
    fn it_is_fnv() {
        let mut hash = Fnv::new();
        for byte in b"foobar" {
            hash.0 = (hash.0 ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
        assert_eq!(hash.0, 0x8594_4171_f739_67e8);
        assert_eq!(signature("oom", &[]), of("oom", ""));
    }
}

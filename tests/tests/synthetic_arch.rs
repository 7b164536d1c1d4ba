//! The engine on synthetic vmcores of every architecture: page sizes, depths of tables, MMUs and byte orders. The same checks
//! as for the eras, at a few levels each.

#[path = "harness/check.rs"]
mod check;
mod harness;
#[path = "harness/whole.rs"]
mod whole;

use check::{check_elf, check_kdump, check_log};
use collector::engine::Engine;
use collector::plan::Compression;
use harness::Bytes;
use std::collections::BTreeSet;
use vmcored_tests::synth::arch::{Arch, Arm64, LoongArch64, Mmu, Ppc64, Relocation, Riscv64, S390x, Tells};
use vmcored_tests::synth::era::Era;
use vmcored_tests::synth::{CRASH_TIME, Leaf, Order, Spec};

/// Builds a machine with every kind of page and compares its dumps.
fn check(arch: Arch, era: &str, leaf: Leaf) {
    let label = format!("{arch:?} {era} {leaf:?}");
    let spec = Spec::foreign_bestiary(arch, Era::named(era), leaf);
    let core = spec.build();
    let levels: &[u8] = if core.facts.page_shift == 16 { &[0, 31] } else { &[0, 1, 8, 22, 31] };
    let mut kept: Vec<(u8, BTreeSet<u64>)> = Vec::new();
    for level in levels {
        kept.push((*level, check_kdump(&core, &label, *level, Compression::None)));
    }
    for (low, more) in &kept {
        for (high, fewer) in kept.iter().filter(|(high, _)| low & high == *low) {
            assert!(fewer.is_subset(more), "{label}: level {high} keeps what level {low} drops");
        }
    }
    if core.facts.order == Order::Little {
        check_elf(&core, &label, 31);
    }
    check_log(&core, &label);
    let source = Bytes::new(&core.file);
    let mut engine = Engine::open(&source).unwrap();
    assert_eq!(engine.crash_time(), Some(CRASH_TIME), "{label}");
    let kernel = engine.kernel();
    assert_eq!(
        (kernel.release.as_str(), kernel.nodename.as_str()),
        (spec.era.release, "synthetic"),
        "{label}"
    );
    assert_eq!(kernel.machine, core.facts.uname, "{label}");
}

macro_rules! machines {
    ($($name:ident: $arch:expr, $era:literal, $leaf:ident;)*) => {
        $(#[test]
        fn $name() {
            check($arch, $era, Leaf::$leaf);
        })*
    };
}

fn arm64(page_shift: u32, va_bits: u32) -> Arm64 {
    Arm64::new(page_shift, va_bits)
}

fn ppc64(page_shift: u32, mmu: Mmu, tells: Tells) -> Arch {
    Arch::Ppc64(Ppc64::new(page_shift, mmu, tells))
}

machines! {
    arm64_4k_39: Arch::Arm64(arm64(12, 39)), "6.1", Page;
    arm64_4k_48: Arch::Arm64(arm64(12, 48)), "6.12", Large;
    arm64_4k_48_flags: Arch::Arm64(arm64(12, 48)), "6.6", Page;
    arm64_4k_52: Arch::Arm64(arm64(12, 52).wide(true)), "6.12", Page;
    arm64_4k_52_on_48: Arch::Arm64(arm64(12, 52).on(48).wide(false)), "6.12", Large;
    arm64_4k_48_lpa2: Arch::Arm64(arm64(12, 48).wide(true)), "6.10", Page;
    arm64_4k_48_without_lpa2: Arch::Arm64(arm64(12, 48).wide(false)), "6.10", Page;
    arm64_16k_36: Arch::Arm64(arm64(14, 36)), "6.12", Page;
    arm64_16k_47: Arch::Arm64(arm64(14, 47)), "6.1", Page;
    arm64_16k_48: Arch::Arm64(arm64(14, 48)), "6.6", Page;
    arm64_16k_52: Arch::Arm64(arm64(14, 52).wide(true)), "6.12", Page;
    arm64_16k_52_on_47: Arch::Arm64(arm64(14, 52).on(47).wide(false)), "6.12", Page;
    arm64_64k_42: Arch::Arm64(arm64(16, 42)), "6.1", Page;
    arm64_64k_48: Arch::Arm64(arm64(16, 48)), "5.15", Page;
    arm64_64k_52: Arch::Arm64(arm64(16, 52).wide(false)), "6.12", Page;
    arm64_64k_52_on_48: Arch::Arm64(arm64(16, 52).on(48).wide(false)), "6.6", Page;
    ppc64_radix_64k: ppc64(16, Mmu::Radix, Tells::Number), "6.12", Large;
    ppc64_radix_64k_untold: ppc64(16, Mmu::Radix, Tells::Nothing), "6.1", Large;
    ppc64_radix_4k: ppc64(12, Mmu::Radix, Tells::CpuSpec), "6.1", Page;
    ppc64_radix_4k_large: ppc64(12, Mmu::Radix, Tells::Number), "6.6", Large;
    ppc64_hash_64k: ppc64(16, Mmu::Hash { shift: 20 }, Tells::Number), "6.12", Large;
    ppc64_hash_64k_untold: ppc64(16, Mmu::Hash { shift: 16 }, Tells::Nothing), "6.1", Large;
    ppc64_hash_4k: ppc64(12, Mmu::Hash { shift: 16 }, Tells::CpuSpec), "5.15", Large;
    ppc64_big_endian: Arch::Ppc64(Ppc64::new(12, Mmu::Hash { shift: 16 }, Tells::CpuSpec).big_endian()), "5.15", Large;
    s390x_region_third: Arch::S390x(S390x::new(3, Relocation::None)), "6.1", Large;
    s390x_region_second: Arch::S390x(S390x::new(4, Relocation::None)), "6.6", Page;
    s390x_record_log: Arch::S390x(S390x::new(3, Relocation::None)), "5.4", Page;
    s390x_relocated: Arch::S390x(S390x::new(3, Relocation::Told)), "6.12", Page;
    s390x_relocated_by_os_info: Arch::S390x(S390x::new(4, Relocation::OsInfo)), "6.10", Large;
    s390x_region_first: Arch::S390x(S390x::new(5, Relocation::Told)), "7.1", Page;
    riscv64_sv39: Arch::Riscv64(Riscv64::new(39, false)), "6.6", Large;
    riscv64_sv48: Arch::Riscv64(Riscv64::new(48, false)), "6.12", Page;
    riscv64_sv57: Arch::Riscv64(Riscv64::new(57, false)), "6.10", Page;
    riscv64_svnapot: Arch::Riscv64(Riscv64::new(48, true)), "6.12", Page;
    loongarch64_16k: Arch::LoongArch64(LoongArch64::new(14, 3)), "6.12", Page;
    loongarch64_16k_old: Arch::LoongArch64(LoongArch64::new(14, 3)), "6.1", Page;
    loongarch64_4k: Arch::LoongArch64(LoongArch64::new(12, 3)), "6.9", Large;
    loongarch64_4k_deep: Arch::LoongArch64(LoongArch64::new(12, 4)), "6.12", Page;
    loongarch64_64k: Arch::LoongArch64(LoongArch64::new(16, 2)), "6.12", Page;
}

//! The engine on synthetic vmcores of every architecture: page sizes, depths of tables, MMUs and byte orders. The same checks
//! as for the eras, at a few levels each.

#[path = "harness/check.rs"]
mod check;
mod harness;
#[path = "harness/whole.rs"]
mod whole;

use check::{check_elf, check_kdump, check_log, check_thinned};
use collector::engine::Engine;
use collector::plan::{Compression, Format};
use collector::problem::{Code, Problem};
use harness::{Bytes, dump_spec};
use std::collections::BTreeSet;
use vmcored_tests::kdump_reader::KdumpFile;
use vmcored_tests::synth::arch::{Arch, Arm64, LoongArch64, Mmu, Ppc64, Relocation, Riscv64, S390x, Tells};
use vmcored_tests::synth::era::Era;
use vmcored_tests::synth::{CRASH_TIME, Core, Leaf, Spec};

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
    let left_out = check_thinned(&core, &label, 31);
    assert!(left_out > 0 || core.facts.page_shift > 12, "{label}");
    check_elf(&core, &label, 31);
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

/// One machine of each way to translate, small.
fn one_of_each() -> Vec<(&'static str, Spec)> {
    let era = Era::named("6.12");
    let spec = |arch, leaf| Spec::foreign_bestiary(arch, era, leaf);
    vec![
        ("arm64", spec(Arch::Arm64(arm64(12, 48)), Leaf::Page)),
        ("radix", spec(ppc64(12, Mmu::Radix, Tells::Number), Leaf::Page)),
        ("hash", spec(ppc64(12, Mmu::Hash { shift: 16 }, Tells::Number), Leaf::Large)),
        ("s390x", spec(Arch::S390x(S390x::new(4, Relocation::None)), Leaf::Page)),
        ("s390x relocated", spec(Arch::S390x(S390x::new(3, Relocation::Told)), Leaf::Page)),
        ("riscv64", spec(Arch::Riscv64(Riscv64::new(48, false)), Leaf::Page)),
        ("loongarch64", spec(Arch::LoongArch64(LoongArch64::new(14, 3)), Leaf::Page)),
    ]
}

/// What is dropped at level 30, and the problems.
fn dropped(core: &Core) -> (BTreeSet<u64>, Vec<Problem>) {
    let (bytes, report, problems) = whole::dump(core, &dump_spec(30, Format::Kdump, Compression::None));
    assert!(report.complete && report.pages.balanced(), "{report:?}");
    let file = KdumpFile::from_bytes(bytes).unwrap();
    (file.present_pfns().filter(|pfn| file.desc(*pfn).is_none()).collect(), problems)
}

fn expected(core: &Core) -> BTreeSet<u64> {
    core.verdicts(30).filter(|(_, why)| why.is_some()).map(|(pfn, _)| pfn).collect()
}

/// What VMCOREINFO does not say is found by looking, where that can be.
#[test]
fn keys_that_can_be_done_without() {
    let without: &[(&str, &[&str])] = &[
        ("arm64", &["NUMBER(VA_BITS)", "NUMBER(TCR_EL1_T1SZ)", "NUMBER(kimage_voffset)", "SYMBOL(_stext)"]),
        ("radix", &["NUMBER(RADIX_MMU)", "SYMBOL(vmemmap_list)"]),
        ("hash", &["NUMBER(RADIX_MMU)"]),
        ("riscv64", &["NUMBER(VA_BITS)", "NUMBER(va_kernel_pa_offset)", "NUMBER(phys_ram_base)"]),
        ("loongarch64", &["SYMBOL(vmemmap)"]),
    ];
    for (name, mut spec) in one_of_each() {
        let Some((_, keys)) = without.iter().find(|(which, _)| *which == name) else { continue };
        spec.without = keys.iter().map(|key| (*key).to_owned()).collect();
        let core = spec.build();
        assert_eq!(dropped(&core).0, expected(&core), "{name} without {keys:?}");
    }
}

/// Without what cannot be done without, every page is kept and the problem told.
#[test]
fn keys_that_cannot() {
    let keys: &[(&str, &str)] = &[
        ("arm64", "SYMBOL(swapper_pg_dir)"),
        ("radix", "SYMBOL(swapper_pg_dir)"),
        ("hash", "SYMBOL(vmemmap_list)"),
        ("hash", "OFFSET(vmemmap_backing.phys)"),
        ("hash", "SIZE(mmu_psize_def)"),
        ("s390x", "SYMBOL(swapper_pg_dir)"),
        ("s390x relocated", "IDENTITYBASE"),
        ("riscv64", "SYMBOL(swapper_pg_dir)"),
        ("loongarch64", "SYMBOL(swapper_pg_dir)"),
    ];
    for (which, key) in keys {
        let (_, mut spec) = one_of_each().into_iter().find(|(name, _)| name == which).unwrap();
        spec.without = vec![(*key).to_owned()];
        let (dropped, problems) = dropped(&spec.build());
        assert!(dropped.is_empty(), "{which} without {key}: {} pages are dropped", dropped.len());
        let codes: Vec<u16> = problems.iter().map(|p| p.code.0).collect();
        let told = [Code::VMCOREINFO_KEY_MISSING, Code::TRANSLATION_FAILED, Code::MEM_MAP_UNREADABLE];
        assert!(told.iter().any(|code| codes.contains(&code.0)), "{which} without {key}: {problems:?}");
    }
}

/// Tables of zeros, of ones, and tables that name themselves: a dump results, and nothing is dropped that should not be.
#[test]
fn damaged_tables() {
    for (name, spec) in one_of_each() {
        let whole = spec.build();
        let want = expected(&whole);
        let order = whole.facts.order;
        let itself: Vec<u64> = [
            whole.at.tables | 3,
            whole.at.tables >> 2 | 1,
            whole.at.tables | 1 << 63,
            whole.at.tables | 0x9000_0000_0000_0000,
            whole.at.tables | 7,
            whole.at.tables | 11,
        ]
        .to_vec();
        for pattern in [0, u64::MAX].into_iter().chain(itself) {
            let mut core = whole.clone();
            let table = order.bytes(pattern, 8).repeat(2048);
            core.poke(core.at.tables, &table);
            let (dropped, problems) = dropped(&core);
            assert!(dropped.is_subset(&want), "{name} {pattern:#x}");
            // The list of blocks takes the place of tables.
            assert!(name == "hash" || dropped.is_empty(), "{name} {pattern:#x}: {} dropped", dropped.len());
            assert!(name == "hash" || !problems.is_empty(), "{name} {pattern:#x}");
        }
    }
}

/// vmemmap_list going around, into nowhere, and to blocks that cannot be.
#[test]
fn damaged_vmemmap_list() {
    let (_, spec) = one_of_each().into_iter().find(|(name, _)| *name == "hash").unwrap();
    let whole = spec.build();
    let want = expected(&whole);
    let list = whole.at.keys.iter().find(|(key, _)| key == "SYMBOL(vmemmap_list)").unwrap();
    let list = u64::from_str_radix(&list.1, 16).unwrap() & !(0xf << 60);
    let first = whole.memory.word(list);
    let mut nodes = vec![first & !(0xf << 60)];
    while let next @ 1.. = whole.memory.word(*nodes.last().unwrap()) {
        nodes.push(next & !(0xf << 60));
    }
    assert!(nodes.len() > 3, "{nodes:x?}");
    let last = nodes[nodes.len() - 1];
    // What is written where, and whether all blocks are known all the same.
    for (at, value, all) in [
        (last, first, true),
        (last, last | 0xc << 60, true),
        (last, 0xdead_beef, true),
        (nodes[1], 0xc0ff_ffff_ffff_fff8, false),
        (list, 0x1234, false),
        (list, u64::MAX, false),
        (nodes[0] + 16, 0xf00d, false),
        (nodes[0] + 8, 0xffff_ffff_0000_0000, false),
        (list + 8, u64::MAX, false),
        (list + 0x100 + 5 * 96, 77, false),
    ] {
        let mut core = whole.clone();
        core.poke(at, &value.to_le_bytes());
        let (dropped, problems) = dropped(&core);
        assert!(dropped.is_subset(&want), "{at:#x} {value:#x}");
        assert_eq!(dropped == want, all, "{at:#x} {value:#x}: {} of {}", dropped.len(), want.len());
        assert!(!problems.is_empty(), "{at:#x} {value:#x}");
    }
}

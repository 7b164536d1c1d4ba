//! The engine on synthetic vmcores: for each era and each level, the same pages, contents, account and log as the
//! builder knows to be right.

#[path = "harness/check.rs"]
mod check;
mod harness;
#[path = "harness/whole.rs"]
mod whole;

use check::{check_elf, check_kdump, check_log, check_thinned};
use collector::engine::Engine;
use collector::plan::{Compression, Format};
use harness::{Bytes, Sink, dump_spec};
use proptest::prelude::*;
use std::collections::BTreeSet;
use vmcored_tests::synth::era::{ERAS, Era};
use vmcored_tests::synth::{CRASH_TIME, Kind, PAGE, Spec};
use whole::dump;

/// Every level; contents at each; a lower set of bits never drops what a higher set keeps.
fn check_all_levels(spec: &Spec) {
    let core = spec.build();
    let label = format!("{} {:?}", spec.era.release, spec.model);
    let mut kept: Vec<BTreeSet<u64>> = Vec::new();
    for level in 0..32 {
        let compression = if level % 8 == 7 { Compression::Zstd(1) } else { Compression::None };
        kept.push(check_kdump(&core, &label, level, compression));
    }
    for (a, b) in (0..32_usize).flat_map(|a| (0..32).map(move |b| (a, b))).filter(|(a, b)| a & b == *a) {
        assert!(kept[b].is_subset(&kept[a]), "{label}: level {b} keeps what level {a} drops");
    }
    for level in [0, 17, 31] {
        let left_out = check_thinned(&core, &label, level);
        assert!(left_out > 0 || level != 31, "{label}");
    }
    for level in [0, 1, 16, 31] {
        check_elf(&core, &label, level);
    }
    check_log(&core, &label);
    let source = Bytes::new(&core.file);
    let mut engine = Engine::open(&source).unwrap();
    assert_eq!(engine.crash_time(), Some(CRASH_TIME));
    let kernel = engine.kernel();
    assert_eq!((kernel.release.as_str(), kernel.machine.as_str()), (spec.era.release, "x86_64"), "{label}");
    assert_eq!(kernel.nodename, "synthetic", "{label}");
}

macro_rules! eras {
    ($($name:ident = $version:literal),* $(,)?) => {
        $(#[test]
        fn $name() {
            check_all_levels(&Spec::bestiary(Era::named($version)));
        })*
        #[test]
        fn no_era_is_left_out() {
            let tested = [$($version),*];
            assert_eq!(tested.len(), ERAS.len());
        }
    };
}

eras! {
    linux_4_19 = "4.19",
    linux_5_4 = "5.4",
    linux_5_10 = "5.10",
    linux_5_15 = "5.15",
    linux_6_1 = "6.1",
    linux_6_2 = "6.2",
    linux_6_3 = "6.3",
    linux_6_6 = "6.6",
    linux_6_9 = "6.9",
    linux_6_10 = "6.10",
    linux_6_11 = "6.11",
    linux_6_12 = "6.12",
    linux_6_16 = "6.16",
    linux_7_1 = "7.1",
}

#[test]
fn flatmem() {
    check_all_levels(&Spec::flat_bestiary(Era::named("6.1")));
}

#[test]
fn sparsemem_without_vmemmap() {
    check_all_levels(&Spec::sparse_bestiary(Era::named("6.6")));
}

#[test]
fn struct_page_of_another_shape() {
    check_all_levels(&Spec::shuffled_bestiary(Era::named("6.12")));
    check_all_levels(&Spec::shuffled_bestiary(Era::named("5.15")));
}

/// Output must not depend on how the source lends its bytes.
#[test]
fn windows_of_any_size() {
    let core = Spec::bestiary(Era::named("6.12")).build();
    let spec = dump_spec(31, Format::Kdump, Compression::None);
    let whole = dump(&core, &spec).0;
    for window in [1, 4096, 5000, 65536] {
        let source = Bytes { bytes: &core.file, window };
        let sink = Sink::default();
        let mut engine = Engine::open(&source).unwrap();
        engine.dump(&spec, &sink, &collector::progress::Silent).unwrap();
        assert!(sink.into_parts().0 == whole, "window {window}");
    }
}

/// Machines at random: RAM in pieces with fractional edges, blocks of any kind anywhere in it.
fn machines() -> impl Strategy<Value = Spec> {
    let edges = prop::collection::vec((0x1a00_u64..0x3000, 0_u64..4096), 2..12);
    let kinds = prop::collection::vec(any::<prop::sample::Index>(), 0..60);
    (0..ERAS.len(), any::<(bool, bool, bool, bool)>(), any::<u32>(), edges, kinds).prop_map(
        |(era, (five_level, encrypted, large, poison_holes), kaslr, edges, kinds)| {
            let era = &ERAS[era];
            let mut spec = Spec::new(era);
            (spec.five_level, spec.encrypted, spec.poison_holes) = (five_level, encrypted, poison_holes);
            spec.kaslr = kaslr.into();
            if large {
                spec.leaf = vmcored_tests::synth::Leaf::Large;
            }
            let cuts: BTreeSet<u64> = edges.iter().map(|(pfn, byte)| pfn * PAGE + byte).collect();
            let cuts: Vec<u64> = cuts.into_iter().collect();
            spec.ram = cuts.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
            let all: Vec<Kind> = era.kinds().filter(|kind| !kind.is_absurd()).collect();
            for index in kinds {
                spec.place(*index.get(&all)); // where there is no room, there is none
            }
            spec
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 60, ..ProptestConfig::default() })]
    #[test]
    fn random_machines(spec in machines(), level in 0_u8..32, zstd in any::<bool>()) {
        let core = spec.build();
        let compression = if zstd { Compression::Zstd(1) } else { Compression::None };
        check_kdump(&core, spec.era.release, level, compression);
        check_thinned(&core, spec.era.release, level);
        check_elf(&core, spec.era.release, level);
        check_log(&core, spec.era.release);
    }
}

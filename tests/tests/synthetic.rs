//! The engine on synthetic vmcores: for each era and each level, the same pages, contents, account and log as the
//! builder knows to be right.

mod harness;
#[path = "harness/whole.rs"]
mod whole;

use collector::engine::Engine;
use collector::filter::Account;
use collector::plan::{Compression, Format};
use collector::problem::{Code, Problem};
use harness::{Bytes, Sink, dump_spec};
use proptest::prelude::*;
use std::collections::BTreeSet;
use vmcored_tests::elf_reader::ElfFile;
use vmcored_tests::kdump_reader::KdumpFile;
use vmcored_tests::synth::era::{ERAS, Era};
use vmcored_tests::synth::expect::Why;
use vmcored_tests::synth::{CRASH_TIME, Core, Kind, Line, PAGE, Spec, UNMAPPED_RAM};
use whole::dump;

/// The account that the builder expects.
fn account(core: &Core, level: u8) -> Account {
    let mut account = Account::default();
    for (_, why) in core.verdicts(level) {
        account.present += 1;
        *match why {
            None => &mut account.kept,
            Some(Why::Zero) => &mut account.zero,
            Some(Why::Cache) => &mut account.cache,
            Some(Why::CachePrivate) => &mut account.cache_private,
            Some(Why::User) => &mut account.user,
            Some(Why::Hugetlb) => &mut account.hugetlb,
            Some(Why::Free) => &mut account.free,
            Some(Why::Unaccepted) => &mut account.unaccepted,
            Some(Why::Hwpoison) => &mut account.hwpoison,
            Some(Why::Offline) => &mut account.offline,
        } += 1;
    }
    account
}

/// Where two sets of pages differ, in words.
fn differences(core: &Core, want: &BTreeSet<u64>, got: &BTreeSet<u64>) -> Vec<String> {
    let name = |pfn: &u64| match core.pages.get(pfn) {
        Some(page) => format!("{pfn:#x} {:?}{}", page.kind, if page.zero { " zero" } else { "" }),
        None => format!("{pfn:#x} in a hole"),
    };
    let lost = want.difference(got).map(|pfn| format!("lost {}", name(pfn)));
    let extra = got.difference(want).map(|pfn| format!("extra {}", name(pfn)));
    lost.chain(extra).take(20).collect()
}

/// Nonsense is told, and nothing else is.
fn check_problems(core: &Core, label: &str, level: u8, problems: &[Problem]) {
    let absurd = core.pages.values().any(|page| page.kind.is_absurd());
    let unmapped = core.pages.contains_key(&(UNMAPPED_RAM.0 / PAGE));
    let mut want = BTreeSet::new();
    if unmapped {
        want.insert(Code::MEM_MAP_UNREADABLE.0);
    }
    if absurd {
        want.insert(Code::ORDER_IMPOSSIBLE.0);
    }
    let got: BTreeSet<u16> = problems.iter().map(|p| p.code.0).collect();
    let only_free = level & 16 == 0 && got.is_subset(&want); // absurd free pages matter to bit 16 alone
    assert!(got == want || only_free, "{label}: {problems:#?}");
}

/// Dumps at one level as kdump-compressed and compares everything; the pfns in the dump.
fn check_kdump(core: &Core, label: &str, level: u8, compression: Compression) -> BTreeSet<u64> {
    let label = format!("{label} level {level} {compression}");
    let (bytes, report, problems) = dump(core, &dump_spec(level, Format::Kdump, compression));
    check_problems(core, &label, level, &problems);
    assert!(report.complete, "{label}");
    assert_eq!((report.level, report.level_applied), (level, level), "{label}");
    assert_eq!(report.bytes, bytes.len() as u64, "{label}: the report's size");
    assert!(report.pages.balanced(), "{label}: {:?}", report.pages);
    let file = KdumpFile::from_bytes(bytes).unwrap_or_else(|e| panic!("{label}: {e}"));
    let got: BTreeSet<u64> = file.pfns().collect();
    let gone = |why: Option<Why>| why.is_some_and(|why| why != Why::Zero);
    let want: BTreeSet<u64> =
        core.verdicts(level).filter(|(_, why)| !gone(*why)).map(|(pfn, _)| pfn).collect();
    assert_eq!(differences(core, &want, &got), Vec::<String>::new(), "{label}");
    assert!(file.present_pfns().eq(core.pages.keys().copied()), "{label}: bitmap 1");
    for pfn in &got {
        let page = file.read_page(*pfn).unwrap_or_else(|e| panic!("{label}: {e}"));
        assert!(page.is_some_and(|page| page == core.content(*pfn)), "{label}: page {pfn:#x} differs");
    }
    assert_eq!(file.check(), Vec::<String>::new(), "{label}");
    assert_eq!(report.pages, account(core, level), "{label}");
    let header = &file.header;
    assert_eq!(u64::from(header.dump_level), u64::from(level), "{label}");
    assert_eq!(header.max_mapnr, core.end_pfn(), "{label}");
    assert_eq!(header.tv_sec, CRASH_TIME, "{label}");
    assert_eq!(header.phys_base, core.at.phys_base, "{label}");
    assert_eq!(file.vmcoreinfo(), core.info, "{label}");
    got
}

/// Dumps at one level as ELF and compares.
fn check_elf(core: &Core, label: &str, level: u8) {
    let label = format!("{label} level {level} ELF");
    let (bytes, report, problems) = dump(core, &dump_spec(level, Format::Elf, Compression::None));
    check_problems(core, &label, level, &problems);
    assert!(report.complete && report.pages.balanced(), "{label}: {report:?}");
    assert_eq!(report.bytes, bytes.len() as u64, "{label}: the report's size");
    let size = bytes.len() as u64;
    let file = ElfFile::from_bytes(bytes).unwrap_or_else(|e| panic!("{label}: {e}"));
    assert_eq!(file.check(), Vec::<String>::new(), "{label}");
    assert_eq!(file.vmcoreinfo().unwrap(), core.info, "{label}");
    assert_eq!(report.pages, account(core, level), "{label}");
    let mut dropped_run = 0;
    for (pfn, why) in core.verdicts(level) {
        assert!(file.covers(pfn, PAGE), "{label}: no segment covers {pfn:#x}");
        match file.page(pfn, PAGE) {
            Some(page) if page == core.content(pfn) => {}
            Some(page) if why.is_some() && page.iter().all(|b| *b == 0) => {}
            Some(_) => panic!("{label}: page {pfn:#x} differs"),
            None => assert!(why.is_some(), "{label}: page {pfn:#x} is lost"),
        }
        dropped_run += u64::from(why.is_some());
    }
    // Runs of 256 dropped pages and more are left out, so that a filtered file is smaller.
    if dropped_run > 3000 {
        assert!(size < core.file.len() as u64 - 1500 * PAGE, "{label}: {size} bytes");
    }
}

fn check_log(core: &Core, label: &str) {
    let source = Bytes::new(&core.file);
    let mut engine = Engine::open(&source).unwrap_or_else(|e| panic!("{label}: {e}"));
    let mut out = Vec::new();
    engine.dmesg(&mut out).unwrap_or_else(|e| panic!("{label}: {e}"));
    let want: Vec<String> = core.lines.iter().map(Line::printed).collect();
    let got: Vec<String> = String::from_utf8(out).unwrap().lines().map(str::to_owned).collect();
    assert_eq!(got, want, "{label}");
    assert!(engine.problems.is_empty(), "{label}: {:#?}", engine.problems);
}

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
        check_elf(&core, spec.era.release, level);
        check_log(&core, spec.era.release);
    }
}

//! Dumps as input: what was written at a lower level and is filtered again is what the vmcore itself gives at both levels.

mod harness;

use collector::engine::Engine;
use collector::filter::Account;
use collector::format::read::KdumpFile as Input;
use collector::manifest::DumpReport;
use collector::plan::{Compression, DumpSpec, Format};
use collector::problem::{Code, Problem};
use collector::progress::Silent;
use collector::vmcore::ReadAt;
use harness::{Bytes, Sink, dump_spec};
use std::collections::BTreeSet;
use vmcored_tests::elf_reader::ElfFile;
use vmcored_tests::kdump_reader::KdumpFile;
use vmcored_tests::synth::era::{ERAS, Era};
use vmcored_tests::synth::{Core, PAGE, Spec};

/// Dumps; must succeed.
fn dump(source: &dyn ReadAt, level: u8, format: Format) -> (Vec<u8>, DumpReport, Vec<Problem>) {
    let mut engine = Engine::open(source).unwrap_or_else(|e| panic!("{e}"));
    let sink = Sink::default();
    let how = if level.is_multiple_of(2) { Compression::None } else { Compression::DEFAULT };
    let report =
        engine.dump(&dump_spec(level, format, how), &sink, &Silent).unwrap_or_else(|e| panic!("{e}"));
    assert!(report.pages.balanced(), "{:?}", report.pages);
    let problems = engine.problems.list().to_vec();
    (sink.into_parts().0, report, problems)
}

fn kdump(source: &dyn ReadAt, level: u8) -> KdumpFile {
    let dump = KdumpFile::from_bytes(dump(source, level, Format::Kdump).0).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(dump.check(), Vec::<String>::new());
    dump
}

/// Everything but where page data lies.
fn same(label: &str, ours: &KdumpFile, want: &KdumpFile) {
    assert!(ours.present_pfns().eq(want.present_pfns()), "{label}: bitmap 1");
    assert!(ours.pfns().eq(want.pfns()), "{label}: bitmap 2");
    for pfn in want.pfns() {
        assert!(ours.page(pfn) == want.page(pfn), "{label}: page {pfn:#x}");
    }
    assert_eq!(ours.notes(), want.notes(), "{label}");
    let (a, b) = (&ours.header, &want.header);
    assert_eq!((a.dump_level, a.tv_sec, a.nr_cpus), (b.dump_level, b.tv_sec, b.nr_cpus), "{label}");
    assert_eq!((&a.utsname, a.phys_base, a.max_mapnr), (&b.utsname, b.phys_base, b.max_mapnr), "{label}");
}

fn check(core: &Core, label: &str, pairs: &[(u8, u8)]) {
    let vmcore = Bytes::new(&core.file);
    for (from, to) in pairs {
        let label = format!("{label} {from} to {to}");
        let first = dump(&vmcore, *from, Format::Kdump).0;
        let input = Input::open(&first).unwrap_or_else(|e| panic!("{label}: {e}"));
        let (bytes, report, problems) = dump(&input, *to, Format::Kdump);
        assert!(report.complete, "{label}");
        assert_eq!((report.level, report.level_applied), (*to, from | to), "{label}");
        let ours = KdumpFile::from_bytes(bytes).unwrap();
        assert_eq!(ours.check(), Vec::<String>::new(), "{label}");
        let (want, direct, told) = dump(&vmcore, from | to, Format::Kdump);
        same(&label, &ours, &KdumpFile::from_bytes(want).unwrap());
        let Account { present, kept, zero, .. } = report.pages;
        assert_eq!(
            (present, kept, zero),
            (direct.pages.present, direct.pages.kept, direct.pages.zero),
            "{label}"
        );
        let codes = |list: &[Problem]| list.iter().map(|p| p.code.0).collect::<Vec<_>>();
        // Each level met only a part of what makes no sense.
        assert!(codes(&problems).iter().all(|code| codes(&told).contains(code)), "{label}: {problems:?}");
    }
}

const PAIRS: [(u8, u8); 4] = [(0, 31), (1, 31), (16, 8), (31, 0)];

#[test]
fn a_dump_filtered_again_is_the_dump_of_both_levels() {
    for era in ERAS.iter().step_by(5).chain([Era::named("6.1")]) {
        check(&Spec::bestiary(era).build(), &format!("{era:?}").chars().take(24).collect::<String>(), &PAIRS);
    }
}

#[test]
fn every_level_after_every_bit() {
    let core = Spec::bestiary(Era::named("6.1")).build();
    let pairs: Vec<(u8, u8)> = (0..32).map(|to| (1 << (to % 5), to)).collect();
    check(&core, "6.1", &pairs);
}

/// What was left out of mem_map is nothing that a later filter needs.
#[test]
fn a_dump_without_needless_mem_map_is_filtered_again() {
    let mut machines = vec![Spec::shuffled_bestiary(Era::named("5.15"))];
    machines.extend(["5.15", "6.1", "6.12"].map(|era| Spec::bestiary(Era::named(era))));
    for spec in machines {
        let core = spec.build();
        let vmcore = Bytes::new(&core.file);
        for (from, to) in PAIRS.into_iter().chain([(24, 31), (8, 22)]) {
            let label = format!("{} {from} to {to}", spec.era.release);
            let first = thinned(&vmcore, from).0;
            let input = Input::open(&first).unwrap();
            // All that is left out of mem_map at both levels together.
            let (want, direct, told) = thinned(&vmcore, from | to);
            let (bytes, report, problems) = thinned(&input, to);
            same(&label, &KdumpFile::from_bytes(bytes).unwrap(), &KdumpFile::from_bytes(want).unwrap());
            assert_eq!(report.pages.kept, direct.pages.kept, "{label}");
            let codes = |list: &[Problem]| list.iter().map(|p| p.code.0).collect::<Vec<_>>();
            assert!(codes(&problems).iter().all(|code| codes(&told).contains(code)), "{label}: {problems:?}");
            // And what an earlier filter has left out stays out.
            let (bytes, ..) = dump(&input, to, Format::Kdump);
            let again = KdumpFile::from_bytes(bytes).unwrap();
            let (first, whole) = (KdumpFile::from_bytes(first.clone()).unwrap(), kdump(&vmcore, from | to));
            let (has, wants): (BTreeSet<u64>, BTreeSet<u64>) =
                (first.pfns().collect(), whole.pfns().collect());
            assert!(again.pfns().eq(has.intersection(&wants).copied()), "{label}");
        }
    }
}

fn thinned(source: &dyn ReadAt, level: u8) -> (Vec<u8>, DumpReport, Vec<Problem>) {
    let mut engine = Engine::open(source).unwrap();
    let sink = Sink::default();
    let spec = DumpSpec { exclude_vmemmap: true, ..dump_spec(level, Format::Kdump, Compression::None) };
    let report = engine.dump(&spec, &sink, &Silent).unwrap();
    assert!(report.pages.balanced() && (report.pages.vmemmap + report.pages.earlier > 0 || level & 8 == 0));
    (sink.into_parts().0, report, engine.problems.list().to_vec())
}

#[test]
fn the_log_and_the_kernel_come_out_of_a_dump() {
    let core = Spec::bestiary(Era::named("6.1")).build();
    let vmcore = Bytes::new(&core.file);
    let first = dump(&vmcore, 31, Format::Kdump).0;
    let input = Input::open(&first).unwrap();
    let (mut log, mut want) = (Vec::new(), Vec::new());
    let mut engine = Engine::open(&input).unwrap();
    let mut direct = Engine::open(&vmcore).unwrap();
    assert_eq!(engine.dmesg(&mut log).unwrap(), direct.dmesg(&mut want).unwrap());
    assert!(!log.is_empty() && log == want);
    assert_eq!(engine.kernel(), direct.kernel());
}

#[test]
fn an_elf_out_of_a_dump_has_the_same_memory() {
    let core = Spec::bestiary(Era::named("6.1")).build();
    let vmcore = Bytes::new(&core.file);
    for (from, to) in [(0, 0), (0, 31), (1, 30), (31, 31)] {
        let label = format!("{from} to {to}");
        let first = dump(&vmcore, from, Format::Kdump).0;
        let input = Input::open(&first).unwrap();
        let (bytes, report, _) = dump(&input, to, Format::Elf);
        assert!(report.complete, "{label}");
        let ours = ElfFile::from_bytes(bytes).unwrap();
        assert_eq!(ours.check(), Vec::<String>::new(), "{label}");
        let want = kdump(&vmcore, from | to);
        for pfn in want.pfns() {
            let page = want.page(pfn).unwrap();
            match ours.page(pfn, PAGE) {
                Some(got) => assert!(got == page, "{label}: page {pfn:#x}"),
                None => assert!(page.iter().all(|b| *b == 0), "{label}: page {pfn:#x} is lost"),
            }
        }
        assert_eq!(ours.vmcoreinfo().unwrap(), core.info, "{label}");
        // And that ELF file is input again.
        let again = ours_again(&dump(&input, to, Format::Elf).0, to);
        assert!(
            again.pfns().all(|pfn| want.page(pfn).is_none_or(|page| Some(page) == again.page(pfn))),
            "{label}"
        );
    }
}

fn ours_again(elf: &[u8], level: u8) -> KdumpFile {
    kdump(&Bytes::new(elf), level)
}

#[test]
fn what_was_erased_before_is_still_told() {
    let core = Spec::bestiary(Era::named("6.1")).build();
    let mut first = dump(&Bytes::new(&core.file), 1, Format::Kdump).0;
    let record = b"erase secret_key 32\n";
    let at = first.len() as u64;
    first.extend(record);
    // offset_eraseinfo and size_eraseinfo of the sub header.
    first[4096 + 64..4096 + 72].copy_from_slice(&at.to_le_bytes());
    first[4096 + 72..4096 + 80].copy_from_slice(&(record.len() as u64).to_le_bytes());
    let input = Input::open(&first).unwrap();
    let (bytes, ..) = dump(&input, 31, Format::Kdump);
    assert_eq!(Input::open(&bytes).unwrap().describes().erased, record);
    let (elf, ..) = dump(&input, 31, Format::Elf);
    assert!(elf.windows(record.len()).any(|bytes| bytes == record), "the ELF dump's ERASEINFO note");
}

#[test]
fn a_raw_copy_of_a_dump_is_the_dump() {
    let core = Spec::bestiary(Era::named("6.1")).build();
    let first = dump(&Bytes::new(&core.file), 31, Format::Kdump).0;
    let input = Input::open(&first).unwrap();
    let (copy, report, _) = dump(&input, 0, Format::Raw);
    assert!(copy == first && report.complete);
}

#[test]
fn what_is_missing_stays_missing() {
    let core = Spec::bestiary(Era::named("6.1")).build();
    let mut first = dump(&Bytes::new(&core.file), 0, Format::Kdump).0;
    let file = KdumpFile::from_bytes(first.clone()).unwrap();
    let (pfn, at) = file.pfns().map(|pfn| (pfn, file.desc(pfn).unwrap().offset)).last().unwrap();
    // Its descriptor is the last one; the shared block of zeros comes after them.
    let first_data = file.pfns().filter_map(|pfn| Some(file.desc(pfn)?.offset)).min().unwrap();
    let table =
        first.windows(8).take(usize::try_from(first_data).unwrap()).rposition(|w| w == at.to_le_bytes());
    first[table.unwrap()..][..8].fill(0);
    let input = Input::open(&first).unwrap();
    let (bytes, report, problems) = dump(&input, 31, Format::Kdump);
    assert!(!report.complete && report.pages.unreadable == 1, "{report:?}");
    assert!(
        problems.iter().any(|p| p.code == Code::PAGE_UNREADABLE && p.message.contains("missing in the dump"))
    );
    let again = KdumpFile::from_bytes(bytes).unwrap();
    assert_eq!(again.desc(pfn).map(|desc| desc.offset), Some(0));
}

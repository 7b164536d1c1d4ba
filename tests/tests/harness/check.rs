//! A synthetic vmcore's dump against what the builder knows to be right.

use crate::harness::{Bytes, dump_spec};
use crate::whole::dump;
use collector::engine::Engine;
use collector::filter::Account;
use collector::plan::{Compression, DumpSpec, Format};
use collector::problem::{Code, Problem};
use std::collections::BTreeSet;
use vmcored_tests::elf_reader::ElfFile;
use vmcored_tests::kdump_reader::KdumpFile;
use vmcored_tests::synth::expect::Why;
use vmcored_tests::synth::{CRASH_TIME, Core, Line, UNMAPPED_RAM};

/// The account that the builder expects.
pub fn account(core: &Core, level: u8) -> Account {
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
pub fn differences(core: &Core, want: &BTreeSet<u64>, got: &BTreeSet<u64>) -> Vec<String> {
    let name = |pfn: &u64| match core.pages.get(pfn) {
        Some(page) => format!("{pfn:#x} {:?}{}", page.kind, if page.zero { " zero" } else { "" }),
        None => format!("{pfn:#x} in a hole"),
    };
    let lost = want.difference(got).map(|pfn| format!("lost {}", name(pfn)));
    let extra = got.difference(want).map(|pfn| format!("extra {}", name(pfn)));
    lost.chain(extra).take(20).collect()
}

/// Nonsense is told, and nothing else is.
pub fn check_problems(core: &Core, label: &str, level: u8, problems: &[Problem]) {
    let absurd = core.pages.values().any(|page| page.kind.is_absurd());
    let unmapped = core.pages.contains_key(&(UNMAPPED_RAM.0 / core.facts.page()));
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
pub fn check_kdump(core: &Core, label: &str, level: u8, compression: Compression) -> BTreeSet<u64> {
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

/// Dumps at one level without what is needless of mem_map; how many pages of it were left out.
pub fn check_thinned(core: &Core, label: &str, level: u8) -> u64 {
    let label = format!("{label} level {level} without needless mem_map");
    let spec = DumpSpec { exclude_vmemmap: true, ..dump_spec(level, Format::Kdump, Compression::None) };
    let (bytes, report, problems) = dump(core, &spec);
    check_problems(core, &label, level, &problems);
    let gone = |why: Option<Why>| why.is_some_and(|why| why != Why::Zero);
    let mut want: BTreeSet<u64> =
        core.verdicts(level).filter(|(_, why)| !gone(*why)).map(|(pfn, _)| pfn).collect();
    let without = core.needless_mem_map(|pfn| !want.contains(&pfn));
    let before = want.len();
    want.retain(|pfn| !without.contains(pfn));
    let left_out = (before - want.len()) as u64;
    let file = KdumpFile::from_bytes(bytes).unwrap_or_else(|e| panic!("{label}: {e}"));
    assert_eq!(file.header.status & 0x10 != 0, left_out > 0, "{label}: the mark that crash warns of");
    assert_eq!(differences(core, &want, &file.pfns().collect()), Vec::<String>::new(), "{label}");
    let zero = core.verdicts(level).filter(|(pfn, why)| *why == Some(Why::Zero) && want.contains(pfn)).count()
        as u64;
    let account = Account { vmemmap: left_out, zero, kept: want.len() as u64 - zero, ..account(core, level) };
    assert_eq!(report.pages, account, "{label}");
    left_out
}

/// Dumps at one level as ELF and compares.
pub fn check_elf(core: &Core, label: &str, level: u8) {
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
        assert!(file.covers(pfn, core.facts.page()), "{label}: no segment covers {pfn:#x}");
        match file.page(pfn, core.facts.page()) {
            Some(page) if page == core.content(pfn) => {}
            Some(page) if why.is_some() && page.iter().all(|b| *b == 0) => {}
            Some(_) => panic!("{label}: page {pfn:#x} differs"),
            None => assert!(why.is_some(), "{label}: page {pfn:#x} is lost"),
        }
        dropped_run += u64::from(why.is_some());
    }
    // Runs of 256 dropped pages and more are left out, so that a filtered file is smaller.
    if dropped_run > 3000 {
        assert!(size < core.file.len() as u64 - 1500 * core.facts.page(), "{label}: {size} bytes");
    }
}

pub fn check_log(core: &Core, label: &str) {
    let source = Bytes::new(&core.file);
    let mut engine = Engine::open(&source).unwrap_or_else(|e| panic!("{label}: {e}"));
    let mut out = Vec::new();
    engine.dmesg(&mut out).unwrap_or_else(|e| panic!("{label}: {e}"));
    let want: Vec<String> = core.lines.iter().map(Line::printed).collect();
    let got: Vec<String> = String::from_utf8(out).unwrap().lines().map(str::to_owned).collect();
    assert_eq!(got, want, "{label}");
    assert!(engine.problems.is_empty(), "{label}: {:#?}", engine.problems);
}

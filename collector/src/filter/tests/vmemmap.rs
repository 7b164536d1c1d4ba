//! Pages of mem_map that describe nothing but pages that are left out.

use super::*;
use proptest::prelude::*;

const ANON: Page = Page { flags: LRU, head: 0, mapping: 1, private: 0, mapcount: None, bytes_16: [0; 2] };
/// The frame of the first `struct page`s.
const FIRST: u64 = MEM_MAP / 4096;

/// A file of the machine's memory without the pages of a hole.
fn file(keys: &str, memory: &Memory, hole: std::ops::Range<u64>) -> Vec<u8> {
    let at = |pfn: u64| usize::try_from(pfn * 4096).unwrap();
    let (low, high) = (&memory.bytes[..at(hole.start)], &memory.bytes[at(hole.end)..]);
    Core::new(keys).load(0, low.to_vec()).load(hole.end * 4096, high.to_vec()).build()
}

/// Pages of mem_map that are left out at a level.
fn thinned(file: &Vec<u8>, level: u8) -> Vec<u64> {
    let mut problems = Problems::new();
    let vmcore = Vmcore::open(file, &mut problems).unwrap();
    let kernel = Kernel::open(&vmcore, &mut problems);
    let mut selection = select(&kernel, Level::new(level).unwrap(), 1, &Silent, &mut problems);
    let before = selection.clone();
    exclude_vmemmap(&kernel, &mut selection);
    assert!(selection.account.balanced());
    assert_eq!(selection.account.kept, selection.keep.count());
    let gone: Vec<u64> =
        (0..1024).filter(|p| before.keep.get(Pfn::new(*p)) && !selection.keep.get(Pfn::new(*p))).collect();
    assert_eq!(
        selection.account,
        Account { vmemmap: gone.len() as u64, kept: selection.account.kept, ..before.account }
    );
    gone
}

#[test]
fn only_what_describes_nothing_else() {
    type Change = fn(&mut String, &mut Memory);
    let none: Change = |_, _| ();
    // The pages of the machine's mem_map: 0 to 7 in order, 8 to 15 in reverse.
    type Case = (&'static str, &'static [(u64, u64)], std::ops::Range<u64>, u8, Change, Vec<u64>);
    let cases: &[Case] = &[
        ("one page", &[(0, 64)], 900..900, 8, none, vec![0]),
        ("not at level 0", &[(0, 64)], 900..900, 0, none, vec![]),
        ("one too few", &[(0, 63), (65, 128)], 900..900, 8, none, vec![]),
        ("more than a page", &[(10, 200)], 900..900, 8, none, vec![1, 2]),
        ("in reverse", &[(640, 768)], 900..900, 8, none, vec![12, 13]),
        ("what lies behind as well", &[(0, 512), (640, 1024)], 1024..1024, 8, none, (0..14).collect()),
        ("a hole is nothing that was left out", &[(0, 256)], 100..101, 8, none, vec![0, 2, 3]),
        (
            "two of mem_map in one, both needless",
            &[(256, 384)],
            900..900,
            8,
            |_, m| m.map(VMEMMAP + 5 * 4096, MEM_MAP + 4 * 4096, 12, 0),
            vec![4],
        ),
        (
            "two of mem_map in one, the later needed",
            &[(256, 384)],
            330..331,
            8,
            |_, m| m.map(VMEMMAP + 5 * 4096, MEM_MAP + 4 * 4096, 12, 0),
            vec![],
        ),
        (
            "two of mem_map in one, the earlier needed",
            &[(256, 384)],
            256..257,
            8,
            |_, m| m.map(VMEMMAP + 5 * 4096, MEM_MAP + 4 * 4096, 12, 0),
            vec![],
        ),
        (
            "a page of mem_map that is mapped to nothing the vmcore has",
            &[(0, 64)],
            900..900,
            8,
            |_, m| m.map(VMEMMAP + 4096, 0x7fff_f000, 12, 0),
            vec![0],
        ),
    ];
    for (label, anon, hole, level, change, want) in cases {
        let pages = anon.iter().flat_map(|(start, end)| (*start..*end).map(|pfn| (pfn, ANON))).collect();
        let (mut keys, mut memory) = machine(&pages);
        change(&mut keys, &mut memory);
        let file = file(&keys, &memory, hole.clone());
        let want: Vec<u64> = want.iter().map(|n| FIRST + n).collect();
        assert_eq!(thinned(&file, *level), want, "{label}");
    }
}

/// Of a leaf of 2 MiB each page stands for itself.
#[test]
fn large_leaves_are_no_units() {
    let pages = (64..200).map(|pfn| (pfn, ANON)).collect();
    let (keys, mut memory) = machine(&pages);
    // The table of the small leaves goes: its entry is a leaf now.
    memory.map(VMEMMAP, MEM_MAP, 21, 0);
    assert_eq!(thinned(&file(&keys, &memory, 900..900), 8), [FIRST + 1, FIRST + 2]);
}

/// Nothing of an array that no address space has room for.
#[test]
fn a_wild_base_excludes_nothing() {
    let pages = (0..1024).map(|pfn| (pfn, ANON)).collect();
    for base in [0_u64, u64::MAX - 4095, u64::MAX, 1 << 63, VMEMMAP + 8] {
        let (keys, mut memory) = machine(&pages);
        memory.put_u64(0x2000, base);
        let gone = thinned(&file(&keys, &memory, 900..900), 31);
        assert!(gone.iter().all(|pfn| (FIRST..FIRST + 16).contains(pfn)), "{base:#x}: {gone:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Against the definition, page by page: `struct page`s of odd sizes, mem_map mapped at random, a hole.
    #[test]
    fn as_defined(
        anon in prop::collection::vec((0..1024_u64, 0..300_u64), 0..8),
        size in prop_oneof![Just(64_u64), Just(56), Just(72), Just(80)],
        frames in prop::collection::vec(0..24_u64, 20),
        hole in (0..1024_u64, 0..40_u64),
    ) {
        let (keys, mut memory) = machine(&BTreeMap::new());
        let keys = keys.replace("SIZE(page)=64", &format!("SIZE(page)={size}"));
        for (n, frame) in (0..).zip(&frames) {
            memory.map(VMEMMAP + n * 4096, MEM_MAP + frame * 4096, 12, 0);
        }
        for pfn in anon.iter().flat_map(|(start, len)| *start..(start + len).min(1024)) {
            for (i, byte) in (0_u64..).zip(&ANON.bytes()[..56]) {
                let at = pfn * size + i;
                let n = usize::try_from(at / 4096).unwrap();
                memory.put(MEM_MAP + frames[n] * 4096 + at % 4096, &[*byte]);
            }
        }
        let hole = hole.0..(hole.0 + hole.1).min(1024);
        let file = file(&keys, &memory, hole.clone());
        let before = selected(&file, 8, &mut Problems::new());
        let left_out = |pfn: u64| before.present.get(Pfn::new(pfn)) && !before.keep.get(Pfn::new(pfn));
        let needless = |n: u64| (n * 4096 / size..((n + 1) * 4096).div_ceil(size)).all(left_out);
        let mut want: Vec<u64> = frames.iter().map(|frame| FIRST + frame).filter(|pfn| {
            let mut there = (0..).zip(&frames).filter(|(n, frame)| FIRST + **frame == *pfn && *n * 4096 < 1024 * size);
            there.clone().count() > 0 && there.all(|(n, _)| needless(n)) && before.keep.get(Pfn::new(*pfn))
        }).collect();
        want.sort_unstable();
        want.dedup();
        prop_assert_eq!(thinned(&file, 8), want);
    }
}

use super::*;
use crate::addr::FileOffset;
use crate::kernel::page::PageLayout;
use crate::progress::Silent;
use crate::vmcore::fixture::{Core, Memory};
use crate::vmcore::{Endian, ReadAt, Vmcore, VmcoreInfo, Window};
use rules::Verdict;
use std::collections::BTreeMap;

mod threads;
mod vmemmap;

/// `struct page` as most 64-bit kernels have it: flags 0, compound_head 8 (in lru), mapping 24, private 40, _mapcount 48,
/// _refcount 52. The second page's order byte is 81 - 64, its destructor 80 - 64.
const COMMON: &str = "PAGESIZE=4096\nSIZE(page)=64\nOFFSET(page.flags)=0\nOFFSET(page.mapping)=24\n\
    OFFSET(page.private)=40\nOFFSET(page._mapcount)=48\nLENGTH(zone.free_area)=11\nNUMBER(PG_lru)=4\n\
    NUMBER(PG_private)=13\nNUMBER(PG_swapcache)=10\nNUMBER(PG_swapbacked)=19\nNUMBER(PG_hwpoison)=22\n";

/// An era: its name, the VMCOREINFO lines that are its own, and the values that its kernels write.
struct Era {
    name: &'static str,
    keys: String,
    buddy: u32,
    offline: u32,
    /// `None` where a flag says so.
    slab: Option<u32>,
    unaccepted: Option<u32>,
    head: u64,
    /// Makes the second page of a compound of an order, hugetlb or not; the head's `_mapcount` where that says it.
    second: fn(u8, bool) -> (Page, Option<u32>),
}

/// A `struct page` to be.
#[derive(Clone, Copy, Default)]
struct Page {
    flags: u64,
    head: u64,
    mapping: u64,
    private: u64,
    mapcount: Option<u32>,
    bytes_16: [u8; 2],
}

impl Page {
    fn bytes(self) -> Vec<u8> {
        let mut out = vec![0; 64];
        out[0..8].copy_from_slice(&self.flags.to_le_bytes());
        out[8..16].copy_from_slice(&self.head.to_le_bytes());
        out[16..18].copy_from_slice(&self.bytes_16);
        out[24..32].copy_from_slice(&self.mapping.to_le_bytes());
        out[40..48].copy_from_slice(&self.private.to_le_bytes());
        out[48..52].copy_from_slice(&self.mapcount.unwrap_or(u32::MAX).to_le_bytes());
        out
    }
}

const TAIL: Page = Page { flags: 0, head: 0x1001, mapping: 0, private: 0, mapcount: None, bytes_16: [0; 2] };
const LRU: u64 = 1 << 4;
const SWAPCACHE: u64 = 1 << 10;
const PRIVATE: u64 = 1 << 13;
const SWAPBACKED: u64 = 1 << 19;
const HWPOISON: u64 = 1 << 22;
/// PG_slab up to v6.9; PG_waiters where slab is a type.
const BIT_7: u64 = 1 << 7;

fn types(pairs: &[(&str, u32)]) -> String {
    // The kernel prints them as a signed long: of an int up to v6.11, of an enum shifted since.
    pairs
        .iter()
        .map(|(k, v)| format!("NUMBER(PAGE_{k}_MAPCOUNT_VALUE)={}\n", i64::from(v.cast_signed())))
        .collect()
}

fn by_destructor(order: u8, hugetlb: bool) -> (Page, Option<u32>) {
    (Page { bytes_16: [if hugetlb { 2 } else { 1 }, order], ..TAIL }, None)
}

fn by_flag(order: u8, hugetlb: bool) -> (Page, Option<u32>) {
    (Page { flags: u64::from(order) | if hugetlb { 1 << 8 } else { 0 }, ..TAIL }, None)
}

fn eras() -> Vec<Era> {
    let tail = "OFFSET(page.compound_head)=8\n";
    let head16 = "NUMBER(PG_head_mask)=65536\n";
    let head6 = "NUMBER(PG_head_mask)=64\n";
    let era = |name, keys: String, [buddy, offline]: [u32; 2], slab, unaccepted, head, second| Era {
        name,
        keys: format!("{COMMON}{keys}"),
        buddy,
        offline,
        slab,
        unaccepted,
        head,
        second,
    };
    let old = "NUMBER(PG_slab)=7\nNUMBER(HUGETLB_PAGE_DTOR)=2\n";
    let in_page = "OFFSET(page.compound_dtor)=16\nOFFSET(page.compound_order)=17\n";
    let in_folio = "OFFSET(folio._folio_dtor)=80\nOFFSET(folio._folio_order)=81\n";
    let inverted = [!0x80, !0x100];
    vec![
        era(
            "4.19, no offline",
            format!("{tail}{head16}{old}{in_page}{}", types(&[("BUDDY", !0x80)])),
            [!0x80, 0],
            None,
            None,
            1 << 16,
            by_destructor,
        ),
        era(
            "5.0 to 6.2",
            format!("{tail}{head16}{old}{in_page}{}", types(&[("BUDDY", !0x80), ("OFFLINE", !0x100)])),
            inverted,
            None,
            None,
            1 << 16,
            by_destructor,
        ),
        era(
            "6.3 to 6.5",
            format!("{tail}{head16}{old}{in_folio}{}", types(&[("BUDDY", !0x80), ("OFFLINE", !0x100)])),
            inverted,
            None,
            None,
            1 << 16,
            by_destructor,
        ),
        era(
            "6.6 to 6.8",
            format!(
                "{tail}{head6}NUMBER(PG_slab)=7\nNUMBER(PG_hugetlb)=8\n{}",
                types(&[("BUDDY", !0x80), ("OFFLINE", !0x100)])
            ),
            inverted,
            None,
            None,
            1 << 6,
            by_flag,
        ),
        era(
            "6.9",
            format!(
                "{tail}{head6}NUMBER(PG_slab)=7\n{}",
                types(&[("BUDDY", !0x80), ("OFFLINE", !0x100), ("HUGETLB", !0x800)])
            ),
            inverted,
            None,
            None,
            1 << 6,
            |order, hugetlb| (by_flag(order, false).0, hugetlb.then_some(!0x800)),
        ),
        era(
            "6.10",
            format!(
                "{tail}{head6}{}",
                types(&[("BUDDY", !0x80), ("OFFLINE", !0x100), ("HUGETLB", !0x800), ("SLAB", !0x1000)])
            ),
            inverted,
            Some(!0x1000),
            None,
            1 << 6,
            |order, hugetlb| (by_flag(order, false).0, hugetlb.then_some(!0x800)),
        ),
        era(
            "6.11",
            format!(
                "{tail}{head6}{}",
                types(&[
                    ("BUDDY", !0x4000_0000),
                    ("OFFLINE", !0x2000_0000),
                    ("HUGETLB", !0x0400_0000),
                    ("SLAB", !0x0200_0000)
                ])
            ),
            [!0x4000_0000, !0x2000_0000],
            Some(!0x0200_0000),
            None,
            1 << 6,
            |order, hugetlb| (by_flag(order, false).0, hugetlb.then_some(!0x0400_0000)),
        ),
        era(
            "6.12 to 6.15, low bytes in use",
            format!(
                "{tail}{head6}{}",
                types(&[
                    ("BUDDY", 0xf000_0000),
                    ("OFFLINE", 0xf100_0000),
                    ("HUGETLB", 0xf400_0000),
                    ("SLAB", 0xf500_0000)
                ])
            ),
            [0xf000_1234, 0xf112_3456],
            Some(0xf500_0007),
            None,
            1 << 6,
            |order, hugetlb| (by_flag(order, false).0, hugetlb.then_some(0xf400_0001)),
        ),
        era(
            "7.1, compound_info and unaccepted, numbers printed unsigned",
            format!(
                "OFFSET(page.compound_info)=8\n{head6}NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)=4026531840\n{}",
                types(&[
                    ("OFFLINE", 0xf100_0000),
                    ("HUGETLB", 0xf400_0000),
                    ("SLAB", 0xf500_0000),
                    ("UNACCEPTED", 0xf700_0000)
                ])
            ),
            [0xf000_0000, 0xf100_0000],
            Some(0xf500_0000),
            Some(0xf700_0000),
            1 << 6,
            |order, hugetlb| {
                let (second, _) = by_flag(order, false);
                (Page { head: 0x3ff_ffff_ffff_8001, ..second }, hugetlb.then_some(0xf400_0000))
            },
        ),
    ]
}

fn rules(keys: &str, level: u8, problems: &mut Problems) -> Rules {
    let layout = PageLayout::probe(&VmcoreInfo::parse(keys.as_bytes()), Endian::Little, &[9, 18]).unwrap();
    Rules::new(layout, Level::new(level).unwrap(), problems)
}

/// Every class of page, at every level, in every era. A class is written as the bits that drop it, the reason that the
/// lowest of them gives, and whether it goes at any level.
#[test]
fn truth_table() {
    use Reason::*;
    for era in eras() {
        let slab = |mapping| Page {
            flags: if era.slab.is_none() { BIT_7 } else { 0 },
            mapcount: era.slab,
            mapping,
            ..Page::default()
        };
        let anon = Page { flags: LRU | SWAPBACKED, mapping: 0x1001, mapcount: Some(0), ..Page::default() };
        let cache = Page { flags: LRU, mapping: 0x1000, mapcount: Some(3), ..Page::default() };
        let buddy = Page { mapcount: Some(era.buddy), private: 3, ..Page::default() };
        let compound = |page: Page, order, hugetlb| {
            let (second, kind) = (era.second)(order, hugetlb);
            (Page { flags: page.flags | era.head, mapcount: kind.or(page.mapcount), ..page }, second)
        };
        let alone = |page: Page| (page, Page::default());
        let offline = (era.offline != 0).then_some(Offline);
        // What it is, head and second page, pages of the block, (bits, reason) in the order of the rules, reason at any level.
        type Case = (&'static str, (Page, Page), u64, Vec<(u8, Reason)>, Option<Reason>);
        let mut cases: Vec<Case> = vec![
            ("kernel", alone(Page::default()), 1, vec![], None),
            ("tail", alone(Page { mapping: 1, flags: LRU, ..TAIL }), 1, vec![], None),
            ("anonymous", alone(anon), 1, vec![(8, User)], None),
            ("KSM", alone(Page { mapping: 0x1003, ..anon }), 1, vec![(8, User)], None),
            (
                "anonymous in swap cache",
                alone(Page { flags: LRU | SWAPBACKED | SWAPCACHE, ..anon }),
                1,
                vec![(8, User)],
                None,
            ),
            ("movable, no LRU", alone(Page { mapping: 0x1002, ..Page::default() }), 1, vec![], None),
            ("cache", alone(cache), 1, vec![(2, Cache), (4, Cache)], None),
            (
                "cache with buffers",
                alone(Page { flags: LRU | PRIVATE, ..cache }),
                1,
                vec![(4, CachePrivate)],
                None,
            ),
            (
                "tmpfs",
                alone(Page { flags: LRU | SWAPBACKED, ..cache }),
                1,
                vec![(2, Cache), (4, Cache)],
                None,
            ),
            (
                "tmpfs in swap cache",
                alone(Page { flags: SWAPCACHE | SWAPBACKED, ..cache }),
                1,
                vec![(2, Cache), (4, Cache)],
                None,
            ),
            ("owner_priv_1", alone(Page { flags: SWAPCACHE, ..cache }), 1, vec![], None),
            ("slab", alone(slab(0)), 1, vec![], None),
            ("slab whose list looks anonymous", alone(slab(0x1001)), 1, vec![], None),
            ("slab of order 3", compound(slab(0x1001), 3, false), 8, vec![], None),
            ("free", alone(buddy), 8, vec![(16, Free)], None),
            ("huge anonymous", compound(anon, 9, false), 512, vec![(8, User)], None),
            ("large folio in cache", compound(cache, 4, false), 16, vec![(2, Cache), (4, Cache)], None),
            (
                "hugetlb in use",
                compound(Page { mapping: 0x1001, ..Page::default() }, 9, true),
                512,
                vec![(8, Hugetlb)],
                None,
            ),
            ("hugetlb free", compound(Page::default(), 18, true), 1 << 18, vec![(8, Hugetlb)], None),
            ("compound of the kernel", compound(Page::default(), 9, false), 512, vec![], None),
            ("poisoned", alone(Page { flags: HWPOISON, ..Page::default() }), 1, vec![], Some(Hwpoison)),
            (
                "poisoned anonymous",
                alone(Page { flags: HWPOISON | anon.flags, ..anon }),
                1,
                vec![(8, User)],
                Some(Hwpoison),
            ),
        ];
        if era.slab.is_some() {
            cases.push((
                "anonymous with waiters",
                alone(Page { flags: anon.flags | BIT_7, ..anon }),
                1,
                vec![(8, User)],
                None,
            ));
        }
        if offline.is_some() {
            cases.push((
                "offline",
                alone(Page { mapcount: Some(era.offline), ..Page::default() }),
                1,
                vec![],
                offline,
            ));
        }
        if let Some(kind) = era.unaccepted {
            let page = Page { mapcount: Some(kind), ..Page::default() };
            cases.push(("unaccepted", alone(page), 1024, vec![(16, Unaccepted)], None));
        }
        for (what, (head, second), pages, by_level, always) in cases {
            for level in 0..32 {
                let mut problems = Problems::new();
                let rules = rules(&era.keys, level, &mut problems);
                assert!(problems.is_empty() && rules.level().bits() == level, "{}", era.name);
                let (head, second) = (head.bytes(), second.bytes());
                let seen = rules.verdict(1 << 20, &head, Some(&second));
                let reason =
                    by_level.iter().find(|(bits, _)| level & bits != 0).map(|(_, reason)| *reason).or(always);
                let expected = match reason {
                    Some(reason) => Verdict::Drop(reason, pages),
                    None if what == "free" || what == "unaccepted" => Verdict::Keep(1),
                    None => Verdict::Keep(pages),
                };
                assert_eq!(seen, expected, "{}: {what} at level {level}", era.name);
            }
        }
    }
}

/// 6.6 to 6.8: the flag alone makes no hugetlb page; one of those seen held the IDT.
#[test]
fn hugetlb_needs_evidence() {
    let eras = eras();
    let era = eras.iter().find(|e| e.name == "6.6 to 6.8").unwrap();
    let rules = rules(&era.keys, 31, &mut Problems::new());
    for (order, extra, expected) in [
        (9, 0, Verdict::Drop(Reason::Hugetlb, 512)),
        (2, 0, Verdict::Keep(4)),
        (9, BIT_7, Verdict::Keep(512)), // slab
    ] {
        let head = Page { flags: era.head | extra, ..Page::default() }.bytes();
        let (second, _) = by_flag(order, true);
        assert_eq!(rules.verdict(0x4_0000, &head, Some(&second.bytes())), expected, "order {order}");
    }
}

#[test]
fn orders_that_cannot_be() {
    for era in eras() {
        let rules = rules(&era.keys, 31, &mut Problems::new());
        let buddy = |order| Page { mapcount: Some(era.buddy), private: order, ..Page::default() }.bytes();
        for (pfn, order) in [(0, 11), (0, 64), (0, u64::MAX), (1 << 20, 1 << 32), (4, 3), (0x401, 10)] {
            assert_eq!(
                rules.verdict(pfn, &buddy(order), None),
                Verdict::Impossible(order),
                "{} {pfn}",
                era.name
            );
        }
        assert_eq!(rules.verdict(0x400, &buddy(10), None), Verdict::Drop(Reason::Free, 1024));
        let head = Page { flags: era.head, ..Page::default() }.bytes();
        let (second, _) = (era.second)(9, false);
        assert_eq!(rules.verdict(256, &head, Some(&second.bytes())), Verdict::Impossible(9));
        assert_eq!(rules.verdict(256, &head, Some(&Page::default().bytes())), Verdict::Headless);
        assert_eq!(rules.verdict(256, &head, None), Verdict::NeedNext);
    }
}

#[test]
fn a_missing_key_lowers_the_level() {
    let eras = eras();
    let cases: &[(&str, &str, u8)] = &[
        ("5.0 to 6.2", "NUMBER(PG_lru)", 31 - 6),
        ("5.0 to 6.2", "NUMBER(PG_private)", 31 - 6),
        ("5.0 to 6.2", "NUMBER(PG_slab)", 31 - 8),
        ("6.10", "NUMBER(PAGE_SLAB_MAPCOUNT_VALUE)", 31 - 8),
        ("6.10", "OFFSET(page.mapping)", 31 - 14),
        ("6.10", "OFFSET(page.compound_head)", 31 - 14),
        ("6.10", "OFFSET(page.private)", 15),
        ("6.10", "NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)", 15),
        ("6.10", "OFFSET(page._mapcount)", 31 - 24),
    ];
    for (name, key, expected) in cases {
        let era = eras.iter().find(|e| e.name == *name).unwrap();
        let keys: String =
            era.keys.lines().filter(|l| !l.starts_with(key)).map(|l| format!("{l}\n")).collect();
        assert_ne!(keys, era.keys, "{key}");
        let mut problems = Problems::new();
        assert_eq!(rules(&keys, 31, &mut problems).level().bits(), *expected, "{name} without {key}");
        assert!(problems.list().iter().all(|p| p.message.contains(key)));
        assert!(rules(&keys, 1, &mut Problems::new()).level().bits() == 1);
    }
}

#[test]
fn offsets_outside_a_struct_page_are_not_used() {
    let bad = COMMON.replace("page.flags)=0", "page.flags)=60");
    for text in
        [bad.as_str(), "SIZE(page)=64\n", "SIZE(page)=0\nOFFSET(page.flags)=0\n", "OFFSET(page.flags)=0\n"]
    {
        assert!(
            PageLayout::probe(&VmcoreInfo::parse(text.as_bytes()), Endian::Little, &[]).is_err(),
            "{text}"
        );
    }
    let mut problems = Problems::new();
    let odd = eras()[1].keys.replace("page.mapping)=24", "page.mapping)=18446744073709551615");
    assert_eq!(rules(&odd, 31, &mut problems).level().bits(), 31 - 14);
}

const TEXT: u64 = 0xffff_ffff_8000_0000;
const VMEMMAP: u64 = 0xffff_ea00_0000_0000;
/// Where mem_map, the page tables and the symbols lie in the machine of [`machine`].
const MEM_MAP: u64 = 0x20_0000;
const TABLES: u64 = 0x1_0000;

/// A machine of 1024 pages (4 MiB) with FLATMEM: its VMCOREINFO and its memory, in which every page is of the kernel but for
/// those given.
fn machine(pages: &BTreeMap<u64, Page>) -> (String, Memory) {
    let mut memory = Memory::new(0x40_0000, TABLES, 4);
    memory.map(TEXT, 0x2000, 12, 0);
    memory.map(TEXT + TABLES, TABLES, 12, 0);
    memory.put_u64(0x2000, VMEMMAP);
    // 64 KiB of struct page: the first half through one PTE after the other, in order, the rest in reverse.
    for n in 0..16 {
        let at = if n < 8 { n } else { 23 - n };
        memory.map(VMEMMAP + n * 4096, MEM_MAP + at * 4096, 12, 0);
    }
    for pfn in 0..1024 {
        let n = pfn / 64;
        let at = if n < 8 { n } else { 23 - n };
        let page = pages.get(&pfn).copied().unwrap_or_default();
        memory.put(MEM_MAP + at * 4096 + pfn % 64 * 64, &page.bytes());
    }
    let era = &eras()[1];
    let keys = format!(
        "{}SYMBOL(swapper_pg_dir)={:x}\nNUMBER(phys_base)=0\nSYMBOL(mem_map)={TEXT:x}\n",
        era.keys,
        TEXT + TABLES
    );
    (keys, memory)
}

fn selected(file: &Vec<u8>, level: u8, problems: &mut Problems) -> Selection {
    let vmcore = Vmcore::open(file, problems).unwrap();
    let kernel = Kernel::open(&vmcore, problems);
    let selection = select(&kernel, Level::new(level).unwrap(), 1, &Silent, problems);
    assert!(selection.account.balanced());
    assert_eq!(selection.account.present, selection.present.count());
    assert_eq!(selection.account.kept, selection.keep.count());
    selection
}

fn dropped(selection: &Selection) -> Vec<u64> {
    selection
        .present
        .runs()
        .flat_map(|(a, b)| a.get()..b.get())
        .filter(|p| !selection.keep.get(Pfn::new(*p)))
        .collect()
}

#[test]
fn blocks_cross_windows_and_holes_keep_them() {
    let anon = Page { flags: LRU, mapping: 1, ..Page::default() };
    let buddy = |order| Page { mapcount: Some(!0x80), private: order, ..Page::default() };
    let mut pages = BTreeMap::new();
    pages.insert(5, anon);
    pages.insert(128, buddy(8)); // 128..384 is misaligned
    pages.insert(512, buddy(7)); // over two reversed pages of mem_map
    pages.insert(576, anon); // inside the block: stale, must not count twice
    pages.insert(704, buddy(6)); // reaches into the hole at 760
    pages.insert(1023, Page { flags: HWPOISON, ..Page::default() });
    // A huge page whose head is the last struct page of its window.
    pages.insert(766, Page { flags: 1 << 16 | LRU, mapping: 1, ..Page::default() });
    pages.insert(767, by_destructor(1, false).0);
    pages.insert(770, Page { flags: 1 << 16, ..Page::default() }); // no tails
    let (keys, memory) = machine(&pages);
    let (low, high) = memory.bytes.split_at(760 << 12);
    let file = Core::new(&keys).load(0, low.to_vec()).load(764 << 12, high[4 << 12..].to_vec()).build();
    let mut problems = Problems::new();
    let selection = selected(&file, 31, &mut problems);
    let mut expected: Vec<u64> = vec![5];
    expected.extend(512..640);
    expected.extend([766, 767, 1023]);
    assert_eq!(dropped(&selection), expected);
    let account = selection.account;
    assert_eq!((account.user, account.free, account.hwpoison, account.present), (3, 128, 1, 1020));
    let codes: Vec<_> = problems.list().iter().map(|p| p.code).collect();
    assert_eq!(codes, [Code::ORDER_IMPOSSIBLE; 3], "{:?}", problems.list());
    // Poison goes at every level; nothing else does at level 0.
    let zero = selected(&file, 0, &mut Problems::new());
    assert_eq!((dropped(&zero), zero.level.bits()), (vec![1023], 0));
}

#[test]
fn unmapped_mem_map_keeps_its_pages() {
    let anon = Page { flags: LRU, mapping: 1, ..Page::default() };
    let pages: BTreeMap<u64, Page> = (0..1024).map(|pfn| (pfn, anon)).collect();
    let (keys, mut memory) = machine(&pages);
    // Take the PTE of the struct pages of pfns 64 to 127 away.
    let pte = (0..0x40_0000 / 8).map(|n| n * 8).find(|at| {
        let at = usize::try_from(*at).unwrap();
        memory.bytes[at..at + 8] == ((MEM_MAP + 4096) | 0x63).to_le_bytes()
    });
    memory.put_u64(pte.unwrap(), 0);
    let file = Core::new(&keys).load(0, memory.bytes.clone()).build();
    let mut problems = Problems::new();
    let selection = selected(&file, 8, &mut problems);
    let kept: Vec<_> = selection.keep.runs().collect();
    assert_eq!(kept, [(Pfn::new(64), Pfn::new(128))]);
    assert_eq!(problems.list()[0].code, Code::MEM_MAP_UNREADABLE);

    // Without mem_map at all: everything is kept, and the level says so.
    let file = Core::new(&keys.replace("SYMBOL(mem_map)", "SYMBOL(other)")).load(0, memory.bytes).build();
    let mut problems = Problems::new();
    let selection = selected(&file, 31, &mut problems);
    assert_eq!((selection.account.kept, selection.level.bits()), (1024, 1));
    assert_eq!(problems.list()[0].code, Code::MEM_MAP_MISSING);
}

/// Struct pages of 56 bytes lie across page borders; the answer is the same.
#[test]
fn odd_sizes_straddle_pages() {
    let anon = Page { flags: LRU, mapping: 1, ..Page::default() };
    let (keys, mut memory) = machine(&BTreeMap::new());
    let keys = keys.replace("SIZE(page)=64", "SIZE(page)=56");
    let mut expected = Vec::new();
    for pfn in 0..1024_u64 {
        let head = pfn % 73 == 0 && pfn % 2 == 0;
        let page = match pfn {
            _ if head => Page { flags: 1 << 16 | LRU, ..anon },
            _ if pfn % 73 == 1 && pfn % 2 == 1 => by_destructor(1, false).0,
            _ if pfn % 3 == 0 => anon,
            _ => Page::default(),
        };
        if head || pfn % 73 == 1 && pfn % 2 == 1 || pfn % 3 == 0 {
            expected.push(pfn);
        }
        for (i, byte) in page.bytes()[..56].iter().enumerate() {
            let at = pfn * 56 + i as u64;
            let n = at / 4096;
            let place = if n < 8 { n } else { 23 - n };
            memory.put(MEM_MAP + place * 4096 + at % 4096, &[*byte]);
        }
    }
    let file = Core::new(&keys).load(0, memory.bytes).build();
    let mut problems = Problems::new();
    let selection = selected(&file, 8, &mut problems);
    assert_eq!(dropped(&selection), expected);
    assert!(problems.is_empty(), "{:?}", problems.list());
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(48))]
    /// Random struct pages: nothing panics, every page is accounted for, and a higher level keeps no page that a lower drops,
    /// but for those that only a free block's order covers.
    #[test]
    fn random_mem_map_is_accounted_for(seed in proptest::collection::vec((0..1024_u64, 0..9_u8, 0..12_u64), 0..200)) {
        let mut pages = BTreeMap::new();
        for (pfn, kind, order) in seed {
            let page = match kind {
                0 => Page { flags: LRU, mapping: 1, ..Page::default() },
                1 => Page { flags: LRU, ..Page::default() },
                2 => Page { flags: LRU | PRIVATE, ..Page::default() },
                3 => Page { mapcount: Some(!0x80), private: order, ..Page::default() },
                4 => Page { flags: 1 << 16 | LRU, mapping: 1, ..Page::default() },
                5 => by_destructor(u8::try_from(order).unwrap(), order > 8).0,
                6 => Page { mapcount: Some(!0x100), ..Page::default() },
                7 => Page { flags: HWPOISON, ..Page::default() },
                _ => TAIL,
            };
            pages.insert(pfn, page);
        }
        let (keys, memory) = machine(&pages);
        let file = Core::new(&keys).load(0, memory.bytes).build();
        let none = selected(&file, 0, &mut Problems::new());
        let some = selected(&file, 15, &mut Problems::new());
        for pfn in dropped(&none) {
            proptest::prop_assert!(!some.keep.get(Pfn::new(pfn)), "{pfn} is dropped at 0 and kept at 15");
        }
        selected(&file, 31, &mut Problems::new());
    }
}

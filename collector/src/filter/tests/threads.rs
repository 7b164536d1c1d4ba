//! Machines of many windows: threads decide as the rules do, page by page.

use super::*;

/// A vmcore whose RAM has no bytes but those of its first part: the rest reads as zeros.
struct Sparse {
    bytes: Vec<u8>,
    size: u64,
    window: usize,
    maps: bool,
}

impl Sparse {
    /// `ram` is runs of pfns, the first of which begins at 0 and holds all of `memory`.
    fn new(keys: &str, memory: Vec<u8>, ram: &[(u64, u64)]) -> Self {
        let data_len = memory.len();
        let mut core = Core::new(keys).load(0, memory);
        for (start, _) in &ram[1..] {
            core = core.load(start << 12, Vec::new());
        }
        let mut bytes = core.build();
        let data = (bytes.len() - data_len) as u64;
        for (index, (start, end)) in ram.iter().enumerate() {
            let header = 64 + 56 * (index + 1);
            let len = (end - start) << 12;
            for (at, value) in [(8, data), (32, len), (40, len)] {
                bytes[header + at..header + at + 8].copy_from_slice(&u64::to_le_bytes(value));
            }
        }
        let size = data + ram.iter().map(|(start, end)| (end - start) << 12).max().unwrap();
        Self { bytes, size, window: 2 << 20, maps: true }
    }
}

impl ReadAt for Sparse {
    fn size(&self) -> u64 {
        self.size
    }
    fn read_at(&self, at: FileOffset, buf: &mut [u8]) -> std::io::Result<()> {
        buf.fill(0);
        let rest = self.bytes.get(usize::try_from(at.get()).unwrap()..).unwrap_or_default();
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        Ok(())
    }
    fn window(&self, at: FileOffset, len: usize) -> std::io::Result<Window<'_>> {
        assert!(len <= self.window);
        let mut bytes = vec![0; len];
        self.read_at(at, &mut bytes)?;
        Ok(Box::new(bytes))
    }
    fn window_len(&self) -> usize {
        self.window
    }
    fn reads_cheaply(&self) -> bool {
        !self.maps
    }
}

/// Pages of the machine below: 17 chunks, so that one block of 1 GiB fits beside others.
const PFNS: u64 = 17 << 15;
/// Its RAM, in pfns: a hole within a chunk, and one from chunk to chunk.
const RAM: [(u64, u64); 3] = [(0, 0x1_8f00), (0x1_9000, 0x2_0000), (0x2_8000, PFNS)];

/// A FLATMEM machine whose mem_map is one of `templates`, 64 struct pages each, for every 64 pfns: which, `choice` says.
fn big_machine(era: &Era, templates: &[Vec<Page>], choice: &[usize]) -> Sparse {
    let mut memory = Memory::new(0x40_0000, TABLES, 4);
    memory.map(TEXT, 0x2000, 12, 0);
    memory.map(TEXT + TABLES, TABLES, 12, 0);
    memory.put_u64(0x2000, VMEMMAP);
    for (n, template) in (0_u64..).zip(templates) {
        let bytes: Vec<u8> = template.iter().flat_map(|page| page.bytes()).collect();
        memory.put(MEM_MAP + n * 4096, &bytes);
    }
    for (leaf, which) in (0_u64..).zip(choice) {
        memory.map(VMEMMAP + leaf * 4096, MEM_MAP + *which as u64 * 4096, 12, 0);
    }
    let keys = format!(
        "{}SYMBOL(swapper_pg_dir)={:x}\nNUMBER(phys_base)=0\nSYMBOL(mem_map)={TEXT:x}\n",
        era.keys,
        TEXT + TABLES
    );
    Sparse::new(&keys, memory.bytes, &RAM)
}

/// What a scan is to find, page by page, by the rules alone.
fn naive(era: &Era, level: u8, page: impl Fn(u64) -> Page) -> (Vec<bool>, Account) {
    let rules = rules(&era.keys, level, &mut Problems::new());
    let mut kept = vec![false; usize::try_from(PFNS).unwrap()];
    let index = |pfn: u64| usize::try_from(pfn).unwrap();
    RAM.iter().for_each(|(start, end)| kept[index(*start)..index(*end)].fill(true));
    let present = kept.clone();
    let mut account = Account::default();
    let mut decided = 0;
    for (start, end) in RAM {
        let mut pfn = start.max(decided);
        while pfn < end {
            let next = (pfn + 1 < PFNS).then(|| page(pfn + 1).bytes());
            let all = |n: u64| present.get(index(pfn)..index(pfn + n)).is_some_and(|p| p.iter().all(|p| *p));
            let step = match rules.verdict(pfn, &page(pfn).bytes(), next.as_deref()) {
                Verdict::Keep(n) if all(n) => n,
                Verdict::Drop(reason, n) if all(n) => {
                    kept[index(pfn)..index(pfn + n)].fill(false);
                    account.drop_pages(reason, n);
                    n
                }
                _ => 1,
            };
            pfn += step;
        }
        decided = decided.max(pfn);
    }
    (kept, account)
}

/// 64 struct pages: of an era's kinds, as `seed` gives them.
fn template(era: &Era, seed: &mut u64, plain: bool) -> Vec<Page> {
    let mut dice = |n: u64| {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        (*seed >> 11) % n
    };
    let slab = Page {
        flags: if era.slab.is_none() { BIT_7 } else { 0 },
        mapcount: era.slab,
        mapping: 1,
        ..Page::default()
    };
    let anon = Page { flags: LRU | SWAPBACKED, mapping: 0x1001, mapcount: Some(0), ..Page::default() };
    let mut pages = Vec::new();
    while pages.len() < 64 {
        let at = pages.len();
        let kind = if plain && at == 0 { 7 } else { dice(if plain { 7 } else { 14 }) };
        let room = if at == 0 { 10 } else { at.trailing_zeros() };
        let order = u8::try_from(dice(u64::from(room) + 1)).unwrap();
        match kind {
            0 => pages.push(Page::default()),
            1 => pages.push(anon),
            2 => pages.push(Page { flags: LRU, mapping: 0x1000, mapcount: Some(3), ..Page::default() }),
            3 => pages.push(Page {
                flags: LRU | PRIVATE,
                mapping: 0x1000,
                mapcount: Some(1),
                ..Page::default()
            }),
            4 => pages.push(Page { flags: SWAPCACHE | SWAPBACKED, mapping: 0x1000, ..anon }),
            5 => pages.push(Page { flags: HWPOISON | (dice(2) * LRU), ..Page::default() }),
            6 => pages.push(slab),
            7 => pages.push(Page { mapcount: Some(era.buddy), private: order.into(), ..Page::default() }),
            8 => pages.push(Page { mapcount: Some(era.buddy), private: dice(13), ..Page::default() }),
            9 => pages.push(TAIL),
            10 if era.offline != 0 => pages.push(Page { mapcount: Some(era.offline), ..Page::default() }),
            11 => pages.push(Page { flags: era.head | LRU, ..anon }), // most have no tails
            _ => {
                let hugetlb = dice(4) == 0;
                let order = if dice(8) == 0 { u8::try_from(dice(12)).unwrap() } else { order.max(1) };
                let (second, kind) = (era.second)(order, hugetlb);
                let head = [anon, slab, Page::default()][usize::try_from(dice(3)).unwrap()];
                pages.push(Page { flags: head.flags | era.head, mapcount: kind.or(head.mapcount), ..head });
                pages.push(second);
                let rest = if order < 7 { (1_usize << order).saturating_sub(2) } else { 62 };
                pages.extend(std::iter::repeat_n(TAIL, rest));
            }
        }
    }
    pages.truncate(64);
    pages
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(16))]
    /// Any number of threads decides, and says, what the rules say of one page after the other.
    #[test]
    fn threads_agree(seed in 1..u64::MAX, era in 0..9_usize, level in 0..32_u8, giant in 0..4_u8) {
        let eras = eras();
        let era = &eras[era];
        let mut seed = seed;
        let mut templates: Vec<Vec<Page>> = (0..40).map(|n| template(era, &mut seed, n < 20)).collect();
        // A hugetlb page of 1 GiB at 1 GiB, in use or free; and what looks like one where none can be.
        let (second, kind) = (era.second)(18, true);
        let mut first = vec![Page { flags: era.head, mapcount: kind, ..Page::default() }, second];
        first.resize(64, TAIL);
        templates.push(first);
        let mut choice: Vec<usize> = (0..PFNS / 64).map(|_| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            usize::try_from(seed % 40).unwrap()
        }).collect();
        let leaf = |pfn: usize| pfn / 64;
        if giant & 1 == 1 {
            choice[leaf(1 << 18)] = 40;
        }
        if giant & 2 == 2 {
            choice[leaf(0)] = 40; // over the holes
            choice[leaf(3 << 16)] = 40; // misaligned
        }
        let page = |pfn: u64| {
            let leaf = usize::try_from(pfn / 64).unwrap();
            templates[choice[leaf]][usize::try_from(pfn % 64).unwrap()]
        };
        let (kept, account) = naive(era, level, page);
        let mut file = big_machine(era, &templates, &choice);
        let mut told = None;
        for (threads, window, maps) in
            [(1, 2 << 20, true), (2, 2 << 20, true), (3, 1 << 20, false), (8, 2 << 20, true), (1, 5000, false)]
        {
            (file.window, file.maps) = (window, maps);
            let mut problems = Problems::new();
            let vmcore = Vmcore::open(&file, &mut problems).unwrap();
            let kernel = Kernel::open(&vmcore, &mut problems);
            let selection = select(&kernel, Level::new(level).unwrap(), threads, &Silent, &mut problems);
            for (pfn, kept) in (0..).zip(&kept) {
                proptest::prop_assert_eq!(
                    selection.keep.get(Pfn::new(pfn)), *kept, "{} threads, page {:#x}", threads, pfn
                );
            }
            let counted = Account { present: 0, kept: 0, ..selection.account };
            proptest::prop_assert_eq!(counted, account);
            proptest::prop_assert!(selection.account.balanced());
            let told = told.get_or_insert_with(|| problems.list().to_vec());
            proptest::prop_assert_eq!(problems.list(), &told[..]);
        }
    }
}

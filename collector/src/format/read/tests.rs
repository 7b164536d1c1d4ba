use super::*;
use crate::addr::FileOffset;
use crate::vmcore::{ReadError, Vmcore};
use proptest::prelude::*;

const INFO: &str = "OSRELEASE=6.1.0\nPAGESIZE=4096\n";
const PAGE: usize = 4096;

/// A dump to be, written by hand.
#[derive(Clone)]
pub(crate) struct Dump {
    pub version: i32,
    pub big: bool,
    /// Pages: pfn, contents; `None` is missing.
    pub pages: Vec<(u64, Option<Vec<u8>>)>,
    /// Pages that the machine had besides.
    pub excluded: Vec<u64>,
    pub end: u64,
    /// First pfn and end, of a part.
    pub split: Option<(u64, u64)>,
    pub compressed: bool,
}

fn content(pfn: u64) -> Vec<u8> {
    if pfn.is_multiple_of(7) {
        return vec![0; PAGE];
    }
    (0..PAGE as u64).map(|i| (pfn * 31 + i / 64).to_le_bytes()[0]).collect()
}

impl Dump {
    fn new(pfns: &[u64], excluded: &[u64], end: u64) -> Self {
        let pages = pfns.iter().map(|pfn| (*pfn, Some(content(*pfn)))).collect();
        Self {
            version: 6,
            big: false,
            pages,
            excluded: excluded.to_vec(),
            end,
            split: None,
            compressed: true,
        }
    }

    fn int(&self, value: u64, size: usize) -> Vec<u8> {
        let mut bytes = value.to_le_bytes()[..size].to_vec();
        if self.big {
            bytes.reverse();
        }
        bytes
    }

    fn note(&self) -> Vec<u8> {
        let len = INFO.len() as u64;
        let mut note =
            [self.int(11, 4), self.int(len, 4), self.int(0, 4), b"VMCOREINFO\0\0".to_vec()].concat();
        note.extend(INFO.bytes());
        note.resize(note.len().next_multiple_of(4), 0);
        note
    }

    pub fn build(&self) -> Vec<u8> {
        let put = |out: &mut Vec<u8>, at: usize, bytes: &[u8]| {
            if out.len() < at + bytes.len() {
                out.resize(at + bytes.len(), 0);
            }
            out[at..at + bytes.len()].copy_from_slice(bytes);
        };
        let each = usize::try_from(self.end.div_ceil(8)).unwrap().div_ceil(PAGE);
        let mut out = b"KDUMP   ".to_vec();
        put(&mut out, 8, &self.int(u64::from(self.version.unsigned_abs()), 4));
        put(&mut out, 12, b"Linux");
        put(&mut out, 12 + 65 * 4, if self.big { b"s390x" } else { b"x86_64" });
        put(&mut out, 408, &self.int(1_763_800_000, 8));
        for (i, value) in [0x20_u64, PAGE as u64, 1, each as u64 * 2, self.end].into_iter().enumerate() {
            put(&mut out, 424 + i * 4, &self.int(value, 4));
        }
        put(&mut out, 460, &self.int(1, 4));
        // Sub header.
        let sub = PAGE;
        put(&mut out, sub, &self.int(0x1000, 8));
        let (start, end) = self.split.unwrap_or((0, 0));
        let note = self.note();
        let note_at = (sub + 104) as u64;
        let split = u64::from(self.split.is_some());
        let fields = [
            (8, 4, 1, 2),
            (12, 4, split, 2),
            (16, 8, start, 2),
            (24, 8, end, 2),
            (32, 8, note_at + 24, 3),
            (40, 8, INFO.len() as u64, 3),
            (48, 8, note_at, 4),
            (56, 8, note.len() as u64, 4),
            (80, 8, start, 6),
            (88, 8, end, 6),
            (96, 8, self.end, 6),
        ];
        for (at, size, value, since) in fields {
            // What a version does not know may hold anything.
            let value = if self.version >= since { value } else { 0x6666 };
            put(&mut out, sub + at, &self.int(value, size));
        }
        put(&mut out, sub + 104, &note);
        // Bitmaps.
        let bitmaps = PAGE * 2;
        put(&mut out, bitmaps + each * 2 * PAGE - 1, &[0]);
        let kept: Vec<u64> = self.pages.iter().map(|(pfn, _)| *pfn).collect();
        for (map, pfns) in [(0, [kept.clone(), self.excluded.clone()].concat()), (1, kept)] {
            for pfn in pfns {
                out[bitmaps + map * each * PAGE + usize::try_from(pfn / 8).unwrap()] |= 1 << (pfn % 8);
            }
        }
        // Descriptors and data.
        let mine: Vec<_> = self
            .pages
            .iter()
            .filter(|(pfn, _)| self.split.is_none_or(|(start, end)| (start..end).contains(pfn)))
            .collect();
        let descs = bitmaps + each * 2 * PAGE;
        let zeros = descs + mine.len() * 24;
        put(&mut out, zeros, &[0; PAGE]);
        let mut at = zeros + PAGE;
        for (index, (_, page)) in mine.into_iter().enumerate() {
            let (offset, size, flags) = match page {
                None => (0, 0, 0),
                Some(page) if page.iter().all(|b| *b == 0) => (zeros, PAGE, 0),
                Some(page) => {
                    let packed = zstd::bulk::compress(page, 1).unwrap();
                    let (stored, flags) = if self.compressed { (&packed, 0x20) } else { (page, 0) };
                    put(&mut out, at, stored);
                    at += stored.len();
                    (at - stored.len(), stored.len(), flags)
                }
            };
            let desc = [self.int(offset as u64, 8), self.int(size as u64, 4), self.int(flags, 4), vec![0; 8]];
            put(&mut out, descs + index * 24, &desc.concat());
        }
        out
    }
}

pub(crate) fn sample() -> Dump {
    let kept: Vec<u64> = (3..40).chain(100..400).chain([40_000, 40_001]).collect();
    Dump::new(&kept, &[1, 2, 40, 41, 39_999], 40_010)
}

#[test]
fn every_version_and_byte_order_is_memory_again() {
    for (version, big) in [(1, false), (2, false), (3, false), (4, true), (5, false), (6, false), (6, true)] {
        for compressed in [false, true] {
            let case = Dump { version, big, compressed, ..sample() };
            let file = case.build();
            let label = format!("version {version}, big-endian {big}, compressed {compressed}");
            let dump = KdumpFile::open(&file).unwrap();
            assert!(dump.complaints().is_empty(), "{label}: {:?}", dump.complaints());
            let mut problems = Problems::new();
            let vmcore = Vmcore::open(&dump, &mut problems).unwrap();
            assert_eq!(vmcore.info().get("OSRELEASE"), (version > 2).then_some("6.1.0"), "{label}");
            assert_eq!(vmcore.machine(), if big { 22 } else { 62 }, "{label}");
            assert_eq!(vmcore.image().unwrap().level, if version >= 2 { 1 } else { 0 }, "{label}");
            assert_eq!(vmcore.image().unwrap().phys_base, 0x1000, "{label}");
            let runs: Vec<_> = vmcore.present_runs().iter().map(|(a, b)| (a.get(), b.get())).collect();
            assert_eq!(runs, [(1, 42), (100, 400), (39_999, 40_002)], "{label}");
            let mut page = vec![0; PAGE];
            for (pfn, want) in &case.pages {
                vmcore.read_page(Pfn::new(*pfn), &mut page).unwrap();
                assert!(page == *want.as_ref().unwrap(), "{label}: page {pfn}");
            }
            let (window, pages) = vmcore.page_window(Pfn::new(110), 1000).unwrap();
            assert_eq!(pages, 64, "{label}");
            for (index, got) in window.chunks(PAGE).enumerate() {
                assert!(got == content(110 + index as u64), "{label}: window's page {index}");
            }
            assert!(
                matches!(vmcore.read_page(Pfn::new(40), &mut page), Err(ReadError::NotBacked(_))),
                "{label}"
            );
            let mut over = vec![0; PAGE * 3];
            dump.read_at(FileOffset::new(39 * PAGE as u64 - 5), &mut over).unwrap();
            let want = [&content(38)[PAGE - 5..], &content(39), &vec![0; PAGE], &vec![0; PAGE - 5]].concat();
            assert!(over == want, "{label}: over an edge");
        }
    }
}

#[test]
fn missing_pages_stay_missing() {
    let mut case = sample();
    case.pages[50].1 = None;
    let pfn = Pfn::new(case.pages[50].0);
    let file = case.build();
    let mut dump = KdumpFile::open(&file).unwrap();
    let mut page = vec![0; PAGE];
    assert_eq!(dump.page(pfn, &mut page).unwrap(), Found::Missing);
    let vmcore = Vmcore::open(&dump, &mut Problems::new()).unwrap();
    let error = vmcore.read_page(pfn, &mut page).unwrap_err();
    assert_eq!(
        crate::engine::chain(&error),
        format!("cannot read the vmcore at offset {:#x}: page {pfn} is missing in the dump", pfn.get() << 12)
    );
    // The window that has it fails, those beside it do not.
    assert!(vmcore.page_window(Pfn::new(pfn.get() - 3), 10).is_err());
    assert!(vmcore.page_window(Pfn::new(pfn.get() + 1), 10).is_ok());
}

#[test]
fn parts_are_one_dump_and_gaps_are_told() {
    let whole = sample();
    let part = |start, end| Dump { split: Some((start, end)), ..whole.clone() }.build();
    let parts = [part(0, 20), part(20, 200), part(200, 40_010)];
    let open = |order: &[usize]| {
        KdumpFile::open_parts(order.iter().map(|i| Box::new(&parts[*i]) as Box<dyn ReadAt>).collect())
    };
    let mut page = vec![0; PAGE];
    for order in [[0, 1, 2], [2, 0, 1]] {
        let mut dump = open(&order).unwrap();
        assert!(dump.complaints().is_empty());
        for (pfn, want) in &whole.pages {
            assert_eq!(dump.page(Pfn::new(*pfn), &mut page).unwrap(), Found::Page);
            assert!(page == *want.as_ref().unwrap());
        }
        // A window over the edge of two parts.
        let mut over = vec![0; PAGE * 4];
        dump.read_at(FileOffset::new(198 * PAGE as u64), &mut over).unwrap();
        assert!(over == [content(198), content(199), content(200), content(201)].concat());
        let first: Vec<_> = dump.part_ranges().map(|(index, start, _)| (index, start.get())).collect();
        assert_eq!(first[0], (order.iter().position(|i| *i == 0).unwrap(), 0));
    }
    let mut gap = open(&[0, 2]).unwrap();
    assert_eq!(gap.complaints().len(), 1, "{:?}", gap.complaints());
    assert!(gap.complaints()[0].message.contains("0x14 to 0xc8"), "{:?}", gap.complaints());
    assert_eq!(gap.page(Pfn::new(25), &mut page).unwrap(), Found::Missing);
    assert_eq!(gap.page(Pfn::new(250), &mut page).unwrap(), Found::Page);

    let refused = |files: [Vec<u8>; 2]| {
        let sources = files.iter().map(|f| Box::new(f) as Box<dyn ReadAt>).collect();
        KdumpFile::open_parts(sources).err().map(|e| e.to_string()).unwrap_or_default()
    };
    assert!(refused([part(0, 30), part(20, 200)]).contains("both have page 0x14"));
    assert!(refused([part(0, 20), whole.build()]).contains("is whole"));
    let other = Dump { end: 40_011, split: Some((20, 200)), ..whole.clone() }.build();
    assert!(refused([part(0, 20), other]).contains("no part of the same dump"));
}

#[test]
fn damage_is_named() {
    let case = Dump { compressed: false, ..sample() };
    let good = case.build();
    let descs = PAGE * 6;
    let dump = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        let mut dump = KdumpFile::open(&file).unwrap();
        let mut page = vec![0; PAGE];
        let error = dump.page(Pfn::new(3), &mut page).unwrap_err();
        (error.to_string(), dump.page(Pfn::new(4), &mut page).is_ok())
    };
    let said = |at, bytes: &[u8], want: &str| {
        let (error, next) = dump(at, bytes);
        assert!(error.contains(want), "{error}");
        assert!(next, "the next page is read");
    };
    said(descs + 8, &4097_u32.to_le_bytes(), "says 4097 bytes");
    said(descs + 8, &0_u32.to_le_bytes(), "says 0 bytes");
    said(descs + 8, &4095_u32.to_le_bytes(), "is damaged");
    said(descs + 12, &0x40_u32.to_le_bytes(), "is damaged");
    said(descs, &u64::MAX.to_le_bytes(), "the descriptor of page 0x3");
    said(descs, &(1_u64 << 50).to_le_bytes(), "cannot read a page");
}

proptest! {
    /// Whatever is damaged or cut off: an error or a dump, and every page of it an answer.
    #[test]
    fn hostile_files_end(
        damage in prop::collection::vec((0..20_000_usize, any::<u8>()), 0..8),
        cut in prop::option::of(0..60_000_usize),
        big: bool,
    ) {
        let case = Dump { big, ..Dump::new(&[3, 4, 5, 90], &[6, 7], 100) };
        let mut file = case.build();
        for (at, value) in damage {
            let at = at % file.len();
            file[at] = value;
        }
        file.truncate(cut.unwrap_or(usize::MAX));
        if let Ok(mut dump) = KdumpFile::open(&file) {
            let mut page = vec![0; dump.page_size().len()];
            for pfn in (0..128).map(Pfn::new) {
                let _ = dump.page(pfn, &mut page);
                let _ = dump.stored(pfn);
            }
            let mut problems = Problems::new();
            if let Ok(vmcore) = Vmcore::open(&dump, &mut problems) {
                for (start, end) in vmcore.present_runs().into_iter().take(4) {
                    let _ = vmcore.page_window(start, end.get());
                    let _ = vmcore.read_page(start, &mut page);
                }
            }
        }
    }
}

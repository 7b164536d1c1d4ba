use super::*;
use crate::addr::PageSize;
use crate::filter::Selection;
use crate::format::read::{Found, KdumpFile};
use crate::format::stream::{Flattened, testing::unflatten};
use crate::format::testing::{Pages, Sink, bitmap, selection, through};
use crate::problem::Code;
use crate::progress::Silent;
use proptest::prelude::*;
use std::collections::BTreeMap;

const NOTES: &[u8] = b"note headerOSRELEASE=6.1\ntail";

fn about() -> About<'static> {
    let mut utsname = [[0; 65]; 6];
    utsname[2][..3].copy_from_slice(b"6.1");
    About {
        endian: Endian::Little,
        utsname,
        crash_time: 1_763_800_000,
        phys_base: 0x1_0000_0000,
        cpus: 2,
        notes: NOTES,
        vmcoreinfo: 11..25,
        erased: &[],
        excluded_vmemmap: false,
        cut_off: false,
        part: None,
    }
}

fn dump(
    pages: &Pages,
    selection: &Selection,
    how: Compression,
    sink: &mut Sink,
) -> Result<Written, SinkFailure> {
    dump_on(1, pages, selection, how, sink)
}

fn dump_on(
    threads: usize,
    pages: &Pages,
    selection: &Selection,
    how: Compression,
    sink: &mut Sink,
) -> Result<Written, SinkFailure> {
    let job = Job { name: "vmcore", selection, pages, progress: &Silent, threads };
    let outcome = through(sink, |sink| write(&job, &about(), how, sink, &mut Problems::new()));
    let written = match &outcome {
        Ok(w) => *w,
        Err(f) => f.written,
    };
    assert!(written.account.balanced(), "{:?}", written.account);
    outcome
}

/// A page's contents.
#[derive(Clone, Debug)]
enum Kind {
    Zero,
    /// One byte that is not zero, and where.
    Almost(u16),
    Text(u8),
    Noise(u64),
    Unreadable,
}

impl Kind {
    fn page(&self, len: usize) -> Option<Vec<u8>> {
        let mut page = vec![0; len];
        match self {
            Self::Zero => {}
            Self::Almost(at) => page[usize::from(*at) % len] = 1,
            Self::Text(seed) => {
                page.iter_mut().enumerate().for_each(|(i, b)| *b = (i / 50).to_le_bytes()[0] ^ seed);
            }
            Self::Noise(seed) => {
                let mut x = seed | 1;
                for b in &mut page {
                    x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    *b = x.to_be_bytes()[0];
                }
            }
            Self::Unreadable => return None,
        }
        Some(page)
    }
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        3 => Just(Kind::Zero),
        2 => any::<u16>().prop_map(Kind::Almost),
        3 => any::<u8>().prop_map(Kind::Text),
        2 => any::<u64>().prop_map(Kind::Noise),
        1 => Just(Kind::Unreadable),
    ]
}

#[derive(Clone, Debug)]
struct Case {
    shift: u32,
    end: u64,
    pages: BTreeMap<u64, (Kind, bool)>,
    level: u8,
    how: Compression,
    window: u64,
    cheap: bool,
}

fn case() -> impl Strategy<Value = Case> {
    let how = prop_oneof![Just(Compression::None), Just(Compression::Zstd(1)), Just(Compression::Zstd(-3))];
    let pages = prop::collection::btree_map(0_u64..700, (kind(), prop::bool::weighted(0.8)), 0..60);
    (12_u32..14, pages, 0_u64..40_000, 0_u8..32, how, 1_u64..9, any::<bool>()).prop_map(
        |(shift, pages, more, level, how, window, cheap)| {
            let end = pages.last_key_value().map_or(0, |(p, _)| p + 1) + more;
            Case { shift, end, pages, level, how, window, cheap }
        },
    )
}

impl Case {
    fn source(&self) -> (Pages, Selection) {
        let size = PageSize::new(1 << self.shift).unwrap();
        let pages = self.pages.iter().map(|(pfn, (kind, _))| (*pfn, kind.page(size.len()))).collect();
        let present = bitmap(self.pages.keys().copied(), self.end);
        let keep = bitmap(self.pages.iter().filter(|(_, (_, kept))| *kept).map(|(p, _)| *p), self.end);
        (Pages { size, pages, window: self.window, cheap: self.cheap }, selection(present, keep, self.level))
    }

    /// Reads the dump back; `partial`: kept pages may be missing, others not.
    fn check(&self, bytes: &[u8], partial: bool) -> (u64, u64) {
        let file = bytes.to_vec();
        let mut dump = KdumpFile::open(&file).unwrap();
        assert_eq!(dump.page_size().bytes(), 1 << self.shift);
        assert_eq!(dump.end_pfn().get(), self.end);
        assert_eq!(dump.notes(), NOTES);
        assert_eq!(dump.vmcoreinfo(), b"OSRELEASE=6.1\n");
        assert_eq!(dump.header().nr_cpus.get(), 2);
        assert_eq!(dump.header().tv_sec.get(), 1_763_800_000);
        assert_eq!(&dump.header().utsname[2][..4], b"6.1\0");
        assert_eq!(dump.sub_header().phys_base.get(), 0x1_0000_0000);
        assert_eq!(dump.sub_header().dump_level.get(), i32::from(self.level));
        let unreadable = self.pages.values().any(|(k, kept)| *kept && matches!(k, Kind::Unreadable));
        assert_eq!(dump.incomplete(), partial || unreadable);
        let (mut found, mut missing) = (0, 0);
        for pfn in 0..self.end.min(750) {
            let mut page = vec![0xee; 1 << self.shift];
            let state = dump.page(Pfn::new(pfn), &mut page).unwrap();
            match self.pages.get(&pfn) {
                None => assert_eq!(state, Found::Hole),
                Some((_, false)) => assert_eq!(state, Found::Excluded),
                Some((Kind::Unreadable, true)) => assert_eq!(state, Found::Missing),
                Some((_, true)) if partial && state == Found::Missing => missing += 1,
                Some((kind, true)) => {
                    assert_eq!(state, Found::Page, "page {pfn}");
                    assert_eq!(Some(page), kind.page(1 << self.shift), "page {pfn}");
                    found += 1;
                }
            }
        }
        (found, missing)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read_back(case in case(), threads in 1_usize..4) {
        let (pages, selection) = case.source();
        let mut sink = Sink::default();
        let written = dump_on(threads, &pages, &selection, case.how, &mut sink).unwrap();
        prop_assert_eq!(written.bytes, sink.bytes.len() as u64);
        let (found, _) = case.check(&sink.bytes, false);
        prop_assert_eq!(found, written.account.kept + written.account.zero);
        prop_assert!(case.level & 1 == 1 || written.account.zero == 0);
        prop_assert_eq!(written.complete(), written.account.unreadable == 0);
    }

    #[test]
    fn a_stream_is_the_same_file_and_says_nothing_twice(case in case(), threads in 1_usize..4, big in any::<bool>()) {
        let (pages, selection) = case.source();
        let job = Job { name: "vmcore", selection: &selection, pages: &pages, progress: &Silent, threads };
        let about = About { endian: if big { Endian::Big } else { Endian::Little }, ..about() };
        let stream = Flattened::new(Vec::new());
        let written = write(&job, &about, case.how, &stream, &mut Problems::new()).unwrap();
        stream.finish().unwrap();
        let (file, mut records) = unflatten(&stream.into_inner());
        prop_assert_eq!(written.bytes, file.len() as u64);
        if !big {
            case.check(&file, false);
        }
        // Only a header that has to say that pages are missing comes twice.
        let twice = usize::from(written.account.unreadable > 0);
        records.truncate(records.len() - twice);
        records.sort_unstable();
        prop_assert!(records.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0), "{:?}", records);
    }

    #[test]
    fn a_full_disk_leaves_what_fits(case in case(), at in any::<prop::sample::Index>(), threads in 1_usize..3) {
        let (pages, selection) = case.source();
        let mut whole = Sink::default();
        dump(&pages, &selection, case.how, &mut whole).unwrap();
        let room = at.index(whole.used());
        let mut sink = Sink::with_room(room);
        let failure = dump_on(threads, &pages, &selection, case.how, &mut sink).unwrap_err();
        let account = failure.written.account;
        // Before the descriptors are there, nothing can be read, and nothing is claimed.
        if account.kept + account.zero + account.unreadable > 0 {
            let (found, missing) = case.check(&sink.bytes, true);
            prop_assert_eq!((found, missing), (account.kept + account.zero, account.unwritten));
        }
    }

    #[test]
    fn damaged_dumps_are_errors_and_never_worse(
        case in case(),
        hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40),
        cut in any::<prop::sample::Index>(),
        headers in any::<bool>(),
    ) {
        let (pages, selection) = case.source();
        let mut sink = Sink::default();
        dump(&pages, &selection, case.how, &mut sink).unwrap();
        let mut file = sink.bytes;
        for (at, byte) in hits {
            let len = if headers { file.len().min(5000) } else { file.len() };
            file[at.index(len)] = byte;
        }
        if !headers {
            file.truncate(cut.index(file.len()) + 1);
        }
        if let Ok(mut dump) = KdumpFile::open(&file) {
            let mut page = vec![0; dump.page_size().len()];
            for pfn in (0..dump.end_pfn().get().min(750)).chain([u64::MAX]) {
                let _ = dump.page(Pfn::new(pfn), &mut page);
            }
        }
    }
}

#[test]
fn many_batches_and_a_full_disk_at_each_of_them() {
    let pages: BTreeMap<u64, (Kind, bool)> = (0..6000)
        .map(|pfn| {
            let kind = match pfn % 3 {
                0 => Kind::Noise(pfn),
                1 => Kind::Text(pfn.to_le_bytes()[0]),
                _ => Kind::Zero,
            };
            (pfn, (kind, true))
        })
        .collect();
    let case =
        Case { shift: 12, end: 6000, pages, level: 1, how: Compression::Zstd(1), window: 512, cheap: true };
    let (source, selection) = case.source();
    let mut whole = Sink::default();
    let written = dump(&source, &selection, case.how, &mut whole).unwrap();
    assert_eq!((written.account.kept, written.account.zero), (4000, 2000));
    assert!(whole.bytes.len() > 8 << 20);
    let mut threaded = Sink::default();
    assert_eq!(dump_on(4, &source, &selection, case.how, &mut threaded).unwrap(), written);
    assert_eq!(case.check(&threaded.bytes, false), (750, 0));
    check_parts(&case, &source, &selection);
    let mut last = 0;
    for room in (1..10).map(|tenth| whole.used() / 10 * tenth) {
        let mut sink = Sink::with_room(room);
        let account = dump(&source, &selection, case.how, &mut sink).unwrap_err().written.account;
        assert!(account.kept >= last, "more room, fewer pages");
        last = account.kept;
        if account.kept > 0 {
            let file = sink.bytes;
            let mut dump = KdumpFile::open(&file).unwrap();
            assert!(dump.incomplete());
            let mut page = vec![0; 4096];
            let found =
                (0..6000).filter(|p| dump.page(Pfn::new(*p), &mut page).unwrap() == Found::Page).count();
            assert_eq!(found as u64, account.kept + account.zero);
        }
    }
    assert!(last > 2000, "{last}");
}

/// The parts of a split dump have each its pages, and the whole bitmaps.
fn check_parts(case: &Case, source: &Pages, selection: &Selection) {
    let ends = [0, 1000, 1001, 4500, 6000].map(Pfn::new);
    let mut page = vec![0; 4096];
    for part in ends.windows(2).map(|pair| (pair[0], pair[1])) {
        let job = Job { name: "part", selection, pages: source, progress: &Silent, threads: 2 };
        let about = About { part: Some(part), ..about() };
        let mut sink = Sink::default();
        let written =
            through(&mut sink, |sink| write(&job, &about, case.how, sink, &mut Problems::new())).unwrap();
        let pages = part.1.get() - part.0.get();
        assert_eq!((written.account.present, written.account.kept + written.account.zero), (pages, pages));
        let file = sink.bytes;
        let sub_at = |at: usize| u64::from_le_bytes(file[4096 + at..4096 + at + 8].try_into().unwrap());
        assert_eq!((file[4096 + 12], sub_at(16), sub_at(24)), (1, part.0.get(), part.1.get()));
        assert_eq!((sub_at(80), sub_at(88), sub_at(96)), (part.0.get(), part.1.get(), 6000));
        // As if it had but the first part's pages: the table starts with the part.
        let mut dump = KdumpFile::open(&file).unwrap();
        assert!(dump.kept(Pfn::new(0)) && dump.kept(Pfn::new(5999)));
        let descs = usize::try_from(sub_blocks(&file) * 4096).unwrap();
        for pfn in part.0.get()..part.1.get() {
            let at = descs + usize::try_from(pfn - part.0.get()).unwrap() * 24;
            let offset = u64::from_le_bytes(file[at..at + 8].try_into().unwrap());
            assert_ne!(offset, 0, "page {pfn}");
        }
        if part.0.get() == 0 {
            assert_eq!(dump.page(Pfn::new(999), &mut page).unwrap(), Found::Page);
        }
    }
}

/// Blocks before the table of descriptors.
fn sub_blocks(file: &[u8]) -> u64 {
    let at = |at: usize| u64::from(u32::from_le_bytes(file[at..at + 4].try_into().unwrap()));
    1 + at(432) + at(436)
}

#[test]
fn an_unreadable_page_is_missing_and_told_of() {
    let pages = BTreeMap::from([
        (3, (Kind::Text(1), true)),
        (4, (Kind::Unreadable, true)),
        (5, (Kind::Text(2), true)),
    ]);
    let case =
        Case { shift: 12, end: 6, pages, level: 31, how: Compression::Zstd(1), window: 8, cheap: true };
    let (source, selection) = case.source();
    let job = Job { name: "vmcore", selection: &selection, pages: &source, progress: &Silent, threads: 1 };
    let mut problems = Problems::new();
    let mut sink = Sink::default();
    let written = through(&mut sink, |sink| write(&job, &about(), case.how, sink, &mut problems)).unwrap();
    assert_eq!((written.account.kept, written.account.unreadable), (2, 1));
    assert!(!written.complete());
    assert_eq!(problems.list().first().map(|p| p.code), Some(Code::PAGE_UNREADABLE));
    case.check(&sink.bytes, false);
}

#[test]
fn the_bytes_are_those_the_format_asks_for() {
    let pages =
        BTreeMap::from([(1, (Kind::Zero, true)), (2, (Kind::Noise(1), true)), (9, (Kind::Text(1), false))]);
    let case =
        Case { shift: 12, end: 10, pages, level: 31, how: Compression::Zstd(1), window: 8, cheap: false };
    let (source, selection) = case.source();
    let mut sink = Sink::default();
    dump(&source, &selection, case.how, &mut sink).unwrap();
    let b = &sink.bytes;
    let u32_at = |at: usize| u32::from_le_bytes(b[at..at + 4].try_into().unwrap());
    let u64_at = |at: usize| u64::from_le_bytes(b[at..at + 8].try_into().unwrap());
    assert_eq!(&b[..8], b"KDUMP   ");
    assert_eq!(u32_at(8), 6);
    assert_eq!(&b[12 + 130..12 + 133], b"6.1");
    assert_eq!(
        (u64_at(408), u32_at(424), u32_at(428), u32_at(432), u32_at(436)),
        (1_763_800_000, 0x20, 4096, 1, 2)
    );
    assert_eq!((u32_at(440), u32_at(460)), (10, 2));
    // Sub header and notes.
    assert_eq!((u64_at(4096), u32_at(4104)), (0x1_0000_0000, 31));
    assert_eq!((u64_at(4128), u64_at(4136)), (4096 + 104 + 11, 14));
    assert_eq!((u64_at(4144), u64_at(4152)), (4096 + 104, NOTES.len() as u64));
    assert_eq!(u64_at(4096 + 96), 10);
    assert_eq!(&b[4200..4200 + NOTES.len()], NOTES);
    // Bitmaps: block 2 and 3. Descriptors: block 4.
    assert_eq!((b[8192], b[8193], b[12288], b[12289]), (0b110, 0b10, 0b110, 0));
    let data = 16384 + 48;
    assert_eq!((u64_at(16384), u32_at(16392), u32_at(16396), u64_at(16400)), (data, 4096, 0, 0));
    assert_eq!((u64_at(16408), u32_at(16416), u32_at(16420)), (data + 4096, 4096, 0));
    assert_eq!(b.len() as u64, data + 8192);
}

//! What holds for every machine: what is written is read back, by others and by us, whatever the container, the codec, the
//! byte order and the number of threads; a higher level never keeps more, and comes out the same in two steps.

mod harness;

use collector::addr::Pfn;
use collector::engine::Engine;
use collector::format::DumpSink;
use collector::format::read::flattened::FlatFile;
use collector::format::read::{Found, KdumpFile as Input};
use collector::format::rearrange::rearrange;
use collector::format::reassemble::reassemble;
use collector::format::stream::Flattened;
use collector::manifest::DumpReport;
use collector::plan::{Compression, Format};
use collector::progress::Silent;
use collector::vmcore::ReadAt;
use harness::{Bytes, Sink, dump_spec};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use vmcored_tests::elf_reader::ElfFile;
use vmcored_tests::fuzz_seeds::{elf_file, machines};
use vmcored_tests::kdump_reader::KdumpFile;
use vmcored_tests::synth::Core;

const CODECS: [Compression; 8] = [
    Compression::None,
    Compression::Zlib(1),
    Compression::Zlib(9),
    Compression::Lzo,
    Compression::Snappy,
    Compression::Zstd(-1),
    Compression::Zstd(1),
    Compression::Zstd(9),
];

/// What a page holds.
#[derive(Clone, Copy, Debug)]
enum Fill {
    Zero,
    /// The same byte everywhere.
    Flat(u8),
    /// Compresses well.
    Text(u8),
    /// Does not compress.
    Noise(u64),
    /// Zeros but for one byte.
    Speck(u16),
}

impl Fill {
    fn page(self, len: usize) -> Vec<u8> {
        match self {
            Self::Zero => vec![0; len],
            Self::Flat(byte) => vec![byte; len],
            Self::Text(seed) => (0..len).map(|i| (i / 24 % 61).to_le_bytes()[0] ^ seed).collect(),
            Self::Noise(seed) => {
                let mut state = seed | 1;
                let next = || {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    state.to_le_bytes()[3]
                };
                std::iter::repeat_with(next).take(len).collect()
            }
            Self::Speck(at) => {
                let mut page = vec![0; len];
                page[usize::from(at) % len] = 1;
                page
            }
        }
    }
}

/// A machine of which nothing is known but its memory.
#[derive(Clone, Debug)]
struct Machine {
    big: bool,
    shift: u32,
    pages: BTreeMap<u64, Fill>,
}

impl Machine {
    fn page_len(&self) -> usize {
        1 << self.shift
    }

    fn contents(&self) -> BTreeMap<u64, Vec<u8>> {
        self.pages.iter().map(|(pfn, fill)| (*pfn, fill.page(self.page_len()))).collect()
    }

    fn file(&self) -> Vec<u8> {
        let mut loads: Vec<(u64, Vec<u8>, u64)> = Vec::new();
        for (pfn, page) in self.contents() {
            let at = pfn << self.shift;
            match loads.last_mut() {
                Some((start, bytes, memory)) if *start + *memory == at => {
                    bytes.extend(&page);
                    *memory += page.len() as u64;
                }
                _ => loads.push((at, page.clone(), page.len() as u64)),
            }
        }
        elf_file(self.big, format!("OSRELEASE=6.1.0\nPAGESIZE={}\n", self.page_len()).as_bytes(), &loads)
    }
}

fn any_machine() -> impl Strategy<Value = Machine> {
    let fill = prop_oneof![
        3 => Just(Fill::Zero),
        1 => any::<u8>().prop_map(Fill::Flat),
        3 => any::<u8>().prop_map(Fill::Text),
        2 => any::<u64>().prop_map(Fill::Noise),
        1 => any::<u16>().prop_map(Fill::Speck),
    ];
    // Runs of pages: a hole before each, and what they hold.
    let runs = prop::collection::vec((0_u64..40, prop::collection::vec(fill, 1..60)), 1..8);
    (any::<bool>(), prop::sample::select(vec![12_u32, 12, 14, 16]), 0_u64..5000, runs).prop_map(
        |(big, shift, start, runs)| {
            let mut next = start;
            let mut pages = BTreeMap::new();
            for (hole, fills) in runs {
                next += hole;
                for fill in fills {
                    pages.insert(next, fill);
                    next += 1;
                }
            }
            Machine { big, shift, pages }
        },
    )
}

fn codec() -> impl Strategy<Value = Compression> {
    prop::sample::select(CODECS.to_vec())
}

/// How a dump is made.
#[derive(Clone, Copy, Debug)]
struct How {
    level: u8,
    format: Format,
    codec: Compression,
    threads: usize,
}

fn into_sink(source: &dyn ReadAt, how: How, sink: &dyn DumpSink) -> DumpReport {
    let mut engine = Engine::open(source).unwrap_or_else(|e| panic!("{how:?}: {e}"));
    engine.threads = how.threads;
    let spec = dump_spec(how.level, how.format, how.codec);
    let report = engine.dump(&spec, sink, &Silent).unwrap_or_else(|e| panic!("{how:?}: {e}"));
    assert!(report.complete && report.pages.balanced(), "{how:?}: {report:?}");
    report
}

fn dump(source: &dyn ReadAt, how: How) -> Vec<u8> {
    let sink = Sink::default();
    into_sink(source, how, &sink);
    sink.into_parts().0
}

fn theirs(bytes: Vec<u8>) -> KdumpFile {
    let file = KdumpFile::from_bytes(bytes).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(file.check(), Vec::<String>::new());
    file
}

/// Pages, contents, notes and header are the same; where a page's data lies need not be.
fn same(one: &KdumpFile, other: &KdumpFile) {
    assert!(one.present_pfns().eq(other.present_pfns()), "bitmap 1");
    assert!(one.pfns().eq(other.pfns()), "bitmap 2");
    for pfn in one.pfns() {
        assert!(one.page(pfn) == other.page(pfn), "page {pfn:#x}");
    }
    assert_eq!(one.notes(), other.notes());
    let about = |file: &KdumpFile| {
        let h = &file.header;
        (h.dump_level, h.status, h.max_mapnr, h.nr_cpus, h.phys_base, h.tv_sec, h.block_size)
    };
    assert_eq!(about(one), about(other));
    assert_eq!(one.header.utsname, other.header.utsname);
}

static MACHINES: LazyLock<[(&str, Core); 13]> = LazyLock::new(machines);

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_kdump_is_read_back(machine in any_machine(), level in 0_u8..2, codec in codec(), threads in 1_usize..5) {
        let (file, pages) = (machine.file(), machine.contents());
        let sink = Sink::default();
        let report = into_sink(&Bytes::new(&file), How { level, format: Format::Kdump, codec, threads }, &sink);
        let zeros = pages.values().filter(|page| page.iter().all(|b| *b == 0)).count() as u64;
        prop_assert_eq!(report.pages.zero, if level == 1 { zeros } else { 0 });
        let bytes = sink.into_parts().0;
        // By us, with a page of the machine in each place.
        let mut input = Input::open(&bytes).unwrap();
        let mut page = vec![0; machine.page_len()];
        for (pfn, want) in &pages {
            prop_assert_eq!(input.page(Pfn::new(*pfn), &mut page).unwrap(), Found::Page);
            prop_assert!(page == *want, "page {:#x}", pfn);
        }
        prop_assert_eq!(input.describes().dumped.count(), pages.len() as u64);
        // By others.
        let read = theirs(bytes.clone());
        prop_assert!(read.present_pfns().eq(pages.keys().copied()));
        prop_assert!(read.pfns().eq(pages.keys().copied()));
        for (pfn, want) in &pages {
            let got = read.page(*pfn);
            prop_assert!(got.as_ref() == Some(want), "page {:#x}", pfn);
        }
    }

    #[test]
    fn an_elf_is_read_back(machine in any_machine(), level in 0_u8..2, threads in 1_usize..5) {
        let (file, pages) = (machine.file(), machine.contents());
        let how = How { level, format: Format::Elf, codec: Compression::None, threads };
        let bytes = dump(&Bytes::new(&file), how);
        let elf = ElfFile::from_bytes(bytes.clone()).unwrap();
        prop_assert_eq!(elf.check(), Vec::<String>::new());
        for (pfn, want) in &pages {
            match elf.page(*pfn, machine.page_len() as u64) {
                Some(got) => prop_assert!(got == *want, "page {:#x}", pfn),
                None => prop_assert!(level == 1 && want.iter().all(|b| *b == 0), "page {:#x} is lost", pfn),
            }
        }
        // As many threads as there are: the same bytes. Then kdump-compressed out of it.
        let alone = dump(&Bytes::new(&file), How { threads: 1, ..how });
        prop_assert!(bytes == alone);
        // Of nothing but zeros no byte is left: no memory, which no dump can be made of.
        let zero = pages.values().all(|page| page.iter().all(|b| *b == 0));
        if level == 1 && zero {
            prop_assert!(Engine::open(&Bytes::new(&bytes)).is_err());
            return Ok(());
        }
        let again = theirs(dump(&Bytes::new(&bytes), How { level: 0, format: Format::Kdump, ..how }));
        for (pfn, want) in &pages {
            prop_assert!(again.page(*pfn).is_none_or(|got| got == *want), "page {:#x}", pfn);
        }
    }

    #[test]
    fn a_stream_is_the_file(
        machine in any_machine(),
        level in 0_u8..2,
        elf in any::<bool>(),
        codec in codec(),
        threads in 1_usize..5,
    ) {
        let file = machine.file();
        let (format, codec) = if elf { (Format::Elf, Compression::None) } else { (Format::Kdump, codec) };
        let how = How { level, format, codec, threads };
        let seekable = dump(&Bytes::new(&file), how);
        let sink = Flattened::new(Vec::new());
        into_sink(&Bytes::new(&file), how, &sink);
        let stream = sink.into_inner();
        // Restored, and read as it is: the same bytes.
        let restored = Sink::default();
        let done = rearrange(&mut stream.as_slice(), &restored).unwrap();
        let restored = restored.into_parts().0;
        prop_assert_eq!(done.bytes, restored.len() as u64);
        let flat = FlatFile::open(Box::new(stream)).unwrap();
        prop_assert!(flat.is_whole() && flat.size() == done.bytes);
        let mut read = vec![1; restored.len()];
        flat.read_at(collector::addr::FileOffset::new(0), &mut read).unwrap();
        prop_assert!(read == restored);
        if elf {
            prop_assert!(restored == seekable);
        } else {
            same(&theirs(restored), &theirs(seekable));
            // A dump of the stream is a dump of the file.
            let flat = Input::open(&flat).unwrap();
            let again = dump(&flat, How { level: 1, threads: 1, ..how });
            let want = dump(&Bytes::new(&file), How { level: 1, threads: 1, ..how });
            same(&theirs(again), &theirs(want));
        }
    }

    #[test]
    fn parts_are_the_whole(
        machine in any_machine(),
        level in 0_u8..2,
        codec in codec(),
        parts in 1_usize..6,
        block in 0_u64..70,
        turn in 0_usize..6,
    ) {
        let file = machine.file();
        let how = How { level, format: Format::Kdump, codec, threads: 2 };
        let whole = theirs(dump(&Bytes::new(&file), how));
        let source = Bytes::new(&file);
        let mut engine = Engine::open(&source).unwrap();
        let sinks: Vec<Sink> = (0..parts).map(|_| Sink::default()).collect();
        let lent: Vec<&dyn DumpSink> = sinks.iter().map(|sink| sink as &dyn DumpSink).collect();
        let reports = engine.dump_split(&dump_spec(level, Format::Kdump, codec), &lent, block, &Silent);
        prop_assert_eq!(reports.len(), parts);
        for report in reports {
            let report = report.unwrap();
            prop_assert!(report.complete && report.pages.balanced(), "{:?}", report);
        }
        let mut files: Vec<Vec<u8>> = sinks.into_iter().map(|sink| sink.into_parts().0).collect();
        files.rotate_left(turn % parts);
        let set = |files: &[Vec<u8>]| {
            let sources = files.iter().map(|file| Box::new(file.clone()) as Box<dyn ReadAt>).collect();
            Input::open_parts(sources).unwrap()
        };
        let together = set(&files);
        prop_assert!(together.complaints().is_empty(), "{:?}", together.complaints());
        same(&theirs(dump(&together, how)), &whole);
        let sink = Sink::default();
        let done = reassemble(&together, &sink, &Silent).unwrap();
        prop_assert_eq!((done.missing, done.pages), (0, whole.pfns().count() as u64));
        same(&theirs(sink.into_parts().0), &whole);
        // Without one of them: its pages are missing, and that is said.
        if parts > 1 {
            files.pop();
            let some = set(&files);
            let done = reassemble(&some, &Sink::default(), &Silent).unwrap();
            let there: u64 = files.iter().map(own_pages).sum();
            prop_assert_eq!(done.missing, done.pages - there);
            prop_assert_eq!(done.missing == 0, some.complaints().is_empty());
        }
    }
}

/// Pages that a part has data of.
fn own_pages(part: &Vec<u8>) -> u64 {
    let part = Input::open(part).unwrap();
    let (_, start, end) = part.part_ranges().next().unwrap();
    part.describes().dumped.rank(end) - part.describes().dumped.rank(start)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 40, ..ProptestConfig::default() })]

    /// Of machines with every kind of page: fewer bits keep all that more bits keep, and a dump of a dump is the dump of both.
    #[test]
    fn a_higher_level_never_keeps_more(
        which in 0_usize..13,
        low in 0_u8..32,
        more in 0_u8..32,
        codec in codec(),
        threads in 1_usize..5,
    ) {
        let (name, core) = &MACHINES[which];
        let how = |level| How { level, format: Format::Kdump, codec, threads };
        let vmcore = Bytes::new(&core.file);
        let first = dump(&vmcore, how(low));
        let both = theirs(dump(&vmcore, how(low | more)));
        let kept = |file: &KdumpFile| file.pfns().collect::<BTreeSet<u64>>();
        let low_file = theirs(first.clone());
        prop_assert!(kept(&both).is_subset(&kept(&low_file)), "{}", name);
        for pfn in both.pfns() {
            prop_assert!(both.page(pfn) == low_file.page(pfn), "{}: page {:#x}", name, pfn);
        }
        let input = Input::open(&first).unwrap();
        same(&theirs(dump(&input, how(more))), &both);
    }
}

//! A dead kernel's bytes are hostile: the engine must neither panic, hang nor take memory without bound, must keep pages
//! where metadata is broken, and must say so.

#![expect(unsafe_code, reason = "a counting global allocator is an unsafe trait; see SAFETY")]

mod harness;

use collector::addr::FileOffset;
use collector::engine::{Engine, EngineError};
use collector::format::DumpSink;
use collector::format::read::verify::{census, verify};
use collector::format::reassemble::reassemble;
use collector::format::stream::Flattened;
use collector::input::Input;
use collector::manifest::DumpReport;
use collector::plan::{Compression, Format};
use collector::problem::{Code, Problem};
use collector::progress::Silent;
use collector::vmcore::{ReadAt, Window};
use harness::{Bytes, Sink, dump_spec};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::io;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::Duration;
use vmcored_tests::kdump_reader::KdumpFile;
use vmcored_tests::synth::era::Era;
use vmcored_tests::synth::{Core, PAGE, Spec};

/// Counts each thread's live bytes; past the cap there is no memory, which ends the process and names the case.
struct Counting;

/// What the engine may have at once: a few MiB for windows and a compressor, and bitmaps of the pfns up to the highest
/// that a header claims.
const CAP: usize = 192 << 20;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
    static LIMITED: Cell<bool> = const { Cell::new(false) };
    /// The case that runs, for the message of an allocation that fails.
    static CASE: RefCell<String> = const { RefCell::new(String::new()) };
}

fn count(change: isize) {
    let _ = LIVE.try_with(|live| {
        let now = live.get().saturating_add(change);
        live.set(now);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(now)));
    });
}

fn refuse(size: usize) -> bool {
    let limited = LIMITED.try_with(Cell::get).unwrap_or(false);
    let live = LIVE.try_with(Cell::get).unwrap_or(0);
    let past = limited && usize::try_from(live).unwrap_or(0).saturating_add(size) > CAP;
    if past {
        uncounted(|| {
            let case = CASE.with_borrow(Clone::clone);
            eprintln!("{size} bytes more than {live} are past the cap: {case}");
        });
    }
    past
}

/// Runs what is not the engine's: the sink, messages.
fn uncounted<T>(run: impl FnOnce() -> T) -> T {
    let limited = LIMITED.replace(false);
    let (live, peak) = (LIVE.get(), PEAK.get());
    let result = run();
    LIVE.set(live);
    PEAK.set(peak);
    LIMITED.set(limited);
    result
}

/// A sink whose memory is not the engine's.
#[derive(Default)]
struct Outside(Sink);

impl DumpSink for Outside {
    fn write_at(&self, at: FileOffset, bytes: &[u8]) -> io::Result<()> {
        uncounted(|| self.0.write_at(at, bytes))
    }
    fn finish(&self) -> io::Result<()> {
        self.0.finish()
    }
}

// SAFETY: every call goes to System unchanged, or returns null, which is how an allocator says that there is no memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if refuse(layout.size()) {
            return std::ptr::null_mut();
        }
        count(layout.size().cast_signed());
        // SAFETY: the caller's promises are System's.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-layout.size().cast_signed());
        // SAFETY: as above; `at` came from System.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One case may take this long; a sound one takes a tenth of a second.
const DEADLINE: Duration = Duration::from_secs(30);

/// What became of a case.
struct Ran {
    /// The dump's bytes and report, or why there is none.
    dump: Result<(Vec<u8>, DumpReport), String>,
    problems: Vec<Problem>,
    log: Result<Vec<u8>, String>,
    peak: usize,
}

impl Ran {
    fn has(&self, code: Code) -> bool {
        self.problems.iter().any(|p| p.code == code)
    }
}

/// A file that an input owns; its memory is not the engine's.
struct Owned(Arc<Vec<u8>>);

impl ReadAt for Owned {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }
    fn read_at(&self, at: FileOffset, buf: &mut [u8]) -> io::Result<()> {
        Bytes::new(&self.0).read_at(at, buf)
    }
    fn window(&self, at: FileOffset, len: usize) -> io::Result<Window<'_>> {
        self.0.window(at, len)
    }
    fn window_len(&self) -> usize {
        1 << 20
    }
}

/// A vmcore, or the files of a dump that is filtered again.
fn capture(files: &[Arc<Vec<u8>>], level: u8) -> Ran {
    LIVE.set(0);
    PEAK.set(0);
    LIMITED.set(true);
    let ran = match files {
        [file] if !file.starts_with(b"KDUMP") && !file.starts_with(b"makedump") => {
            capture_from(&Bytes::new(file), level)
        }
        files => {
            let named = files
                .iter()
                .map(|f| (PathBuf::from("dump"), Box::new(Owned(Arc::clone(f))) as Box<dyn ReadAt>));
            match Input::of(named.collect()) {
                Ok(input) => {
                    let ran = capture_from(input.source(), level);
                    if let Some(dump) = input.kdump() {
                        let verified = verify(dump, 1, 8, &|_, _| {});
                        assert!(verified.list.len() <= 8 && verified.census.pages <= 1 << 20);
                        let _ = census(dump, 1 << 20);
                        let sink = Outside::default();
                        let _ = reassemble(dump, &sink, &Silent);
                    }
                    ran
                }
                Err(e) => {
                    let why = collector::engine::chain(&e);
                    Ran { dump: Err(why.clone()), log: Err(why), problems: Vec::new(), peak: 0 }
                }
            }
        }
    };
    LIMITED.set(false);
    Ran { peak: usize::try_from(PEAK.get()).unwrap_or(0), ..ran }
}

fn capture_from(source: &dyn ReadAt, level: u8) -> Ran {
    let sink = Outside::default();
    let mut out = Vec::new();
    let why = |e: &EngineError| {
        let cause = std::error::Error::source(e).map_or_else(String::new, |c| format!(": {c}"));
        format!("{e}{cause}")
    };
    let (dump, log, problems) = match Engine::open(source) {
        Err(e) => (Err(why(&e)), Err(why(&e)), Vec::new()),
        Ok(mut engine) => {
            let log = engine.dmesg(&mut out).map_err(|e| why(&e));
            let _ = engine.kernel();
            let spec = dump_spec(level, Format::Kdump, Compression::None);
            let dump = engine.dump(&spec, &sink, &Silent).map_err(|e| why(&e));
            (dump, log, engine.problems.list().to_vec())
        }
    };
    let dump = dump.map(|report| (uncounted(|| sink.0.into_parts().0), report));
    Ran { dump, problems, log: log.map(|_| out), peak: 0 }
}

/// Runs cases on a thread of their own. A panic or a case over its deadline fails the test, by name.
fn run(cases: impl Iterator<Item = (String, Vec<u8>, u8)>, check: impl FnMut(&str, &Ran)) {
    run_sets(cases.map(|(name, file, level)| (name, vec![file], level)), check);
}

/// The same with inputs of several files.
fn run_sets(cases: impl Iterator<Item = (String, Vec<Vec<u8>>, u8)>, mut check: impl FnMut(&str, &Ran)) {
    let (work, inbox) = mpsc::channel::<(String, Vec<Vec<u8>>, u8)>();
    let (outbox, results) = mpsc::channel();
    // Not scoped: a thread that hangs must not keep the test from failing.
    std::thread::Builder::new()
        .spawn(move || {
            for (name, files, level) in inbox {
                CASE.set(name);
                let files: Vec<_> = files.into_iter().map(Arc::new).collect();
                let ran = std::panic::catch_unwind(AssertUnwindSafe(|| capture(&files, level)));
                if outbox.send((ran, files)).is_err() {
                    return;
                }
            }
        })
        .expect("a thread");
    for (name, files, level) in cases {
        work.send((name.clone(), files, level)).expect("the worker lives");
        match results.recv_timeout(DEADLINE) {
            Ok((Ok(ran), _)) => {
                assert!(ran.peak <= CAP, "{name}: {} MiB at once", ran.peak >> 20);
                sound(&name, &ran);
                check(&name, &ran);
            }
            Ok((Err(_), _)) => panic!("{name}: the engine panicked"),
            Err(_) => panic!("{name}: no end after {DEADLINE:?}"),
        }
    }
}

/// What holds for whatever input: either a clear error, or an account that adds up and a dump that reads back.
fn sound(name: &str, ran: &Ran) {
    match &ran.dump {
        Err(why) => assert!(why.len() > 10, "{name}: says only {why:?}"),
        Ok((bytes, report)) => {
            assert!(report.pages.balanced(), "{name}: {:?}", report.pages);
            let file = KdumpFile::from_bytes(bytes.clone()).unwrap_or_else(|e| panic!("{name}: {e}"));
            let pages = file.pfns().count() as u64;
            let zero = if report.level_applied & 1 != 0 { report.pages.zero } else { 0 };
            assert!(pages >= report.pages.kept + zero, "{name}: {pages} pages, {:?}", report.pages);
        }
    }
}

/// A small machine: quick to build and to dump, with some of everything.
fn machine() -> Core {
    let mut spec = Spec::new(Era::named("6.12"));
    spec.ram = vec![(0x1000, 0x9_fc00), (0x1a0_0000, 0x1e0_0800)];
    let kinds: Vec<_> = spec.era.kinds().filter(|kind| kind.order() < 8 && !kind.is_absurd()).collect();
    for kind in kinds {
        spec.place(kind);
    }
    spec.build()
}

fn without(key: &str) -> Core {
    let mut spec = Spec::new(Era::named("6.12"));
    spec.ram = vec![(0x1a0_0000, 0x1e0_0800)];
    spec.without = vec![key.to_owned()];
    let kinds: Vec<_> = spec.era.kinds().filter(|kind| kind.order() < 8 && !kind.is_absurd()).collect();
    for kind in kinds {
        spec.place(kind);
    }
    spec.build()
}

/// No page that the builder keeps may be missing, whatever is broken.
fn nothing_needed_is_lost(core: &Core, name: &str, ran: &Ran, level: u8) {
    let (bytes, _) = ran.dump.as_ref().unwrap_or_else(|e| panic!("{name}: {e}"));
    let got: BTreeSet<u64> = KdumpFile::from_bytes(bytes.clone()).unwrap().pfns().collect();
    let lost = core.verdicts(level).filter(|(pfn, why)| why.is_none() && !got.contains(pfn));
    let lost: Vec<String> = lost.take(10).map(|(pfn, _)| format!("{pfn:#x}")).collect();
    assert_eq!(lost, Vec::<String>::new(), "{name}: lost");
}

fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

fn half(core: &Core, at: usize) -> u16 {
    u16::from_le_bytes([core.file[at], core.file[at + 1]])
}

/// The machine itself, so that the other tests fail for what they break.
#[test]
fn the_machine_is_sound() {
    let core = machine();
    run([("whole".to_owned(), core.file.clone(), 31)].into_iter(), |name, ran| {
        assert!(ran.problems.is_empty(), "{name}: {:?}", ran.problems);
        assert!(ran.dump.as_ref().is_ok_and(|(_, report)| report.complete && report.pages.free > 0));
        nothing_needed_is_lost(&core, name, ran, 31);
    });
}

#[test]
fn truncated_anywhere() {
    let core = machine();
    let len = core.file.len();
    let mut cuts: Vec<usize> =
        vec![0, 1, 15, 16, 63, 64, 65, 100, 120, 175, 200, 4095, 4096, 4097, 4500, 5000, 8191];
    cuts.extend((1..24).map(|i| len / 24 * i + i * 37));
    cuts.extend([len - 0x801, len - 4096]); // the last page has 0x800 bytes of memory
    let cases = cuts.into_iter().map(|cut| (format!("cut at {cut:#x}"), core.file[..cut].to_vec(), 31));
    run(cases, |name, ran| {
        if let Ok((_, report)) = &ran.dump {
            // A piece is missing: that is a problem, and the pages of it are accounted for.
            assert!(!ran.problems.is_empty() && !report.complete, "{name}: nobody was told");
            assert!(report.pages.balanced(), "{name}: {:?}", report.pages);
            assert!(report.pages.present <= core.pages.len() as u64, "{name}");
        }
    });
}

#[test]
fn elf_headers_that_lie() {
    let core = machine();
    let phnum = half(&core, 56);
    let load = |i: usize| 64 + 56 * i; // program header i; 0 is the notes
    let wild: [u64; 6] = [u64::MAX, 1 << 63, (1 << 63) - 1, u64::MAX - 4095, 1 << 52, 1 << 40];
    let mut cases: Vec<(String, Vec<u8>)> = Vec::new();
    let mut case = |name: String, at: usize, bytes: &[u8]| {
        let mut file = core.file.clone();
        put(&mut file, at, bytes);
        cases.push((name, file));
    };
    for value in [0, 1, phnum - 1, phnum + 1, 1000, 0xfffe, 0xffff_u16] {
        case(format!("e_phnum {value:#x}"), 56, &value.to_le_bytes());
    }
    for value in [0, 1, 55, 57, 0xffff_u16] {
        case(format!("e_phentsize {value}"), 54, &value.to_le_bytes());
    }
    for value in wild {
        case(format!("e_phoff {value:#x}"), 32, &value.to_le_bytes());
        for segment in 0..usize::from(phnum) {
            for (field, at) in
                [("p_offset", 8), ("p_vaddr", 16), ("p_paddr", 24), ("p_filesz", 32), ("p_memsz", 40)]
            {
                case(
                    format!("{field} {value:#x} of segment {segment}"),
                    load(segment) + at,
                    &value.to_le_bytes(),
                );
            }
        }
    }
    let cases = cases.into_iter().map(|(name, file)| (name, file, 31));
    run(cases, |_, _| {});
}

/// PN_XNUM as it should be works; pointing nowhere it is an error or a problem.
#[test]
fn extended_numbering() {
    let core = machine();
    let phnum = u32::from(half(&core, 56));
    let mut good = core.file.clone();
    let section = good.len().next_multiple_of(8);
    good.resize(section + 64, 0);
    put(&mut good, section + 44, &phnum.to_le_bytes()); // sh_info
    put(&mut good, 40, &(section as u64).to_le_bytes()); // e_shoff
    put(&mut good, 56, &0xffff_u16.to_le_bytes());
    put(&mut good, 58, &64_u16.to_le_bytes()); // e_shentsize
    put(&mut good, 60, &1_u16.to_le_bytes()); // e_shnum
    run([("PN_XNUM".to_owned(), good.clone(), 31)].into_iter(), |name, ran| {
        assert!(ran.problems.is_empty(), "{name}: {:?}", ran.problems);
        nothing_needed_is_lost(&core, name, ran, 31);
    });
    let mut cases = Vec::new();
    for count in [0, phnum + 1, 0x10_0000, u32::MAX] {
        let mut file = good.clone();
        put(&mut file, section + 44, &count.to_le_bytes());
        cases.push((format!("sh_info {count:#x}"), file, 31));
    }
    for at in [0, 1, u64::MAX, u64::MAX - 43, good.len() as u64] {
        let mut file = good.clone();
        put(&mut file, 40, &at.to_le_bytes());
        cases.push((format!("e_shoff {at:#x}"), file, 31));
    }
    run(cases.into_iter(), |_, _| {});
}

#[test]
fn notes_of_absurd_sizes() {
    let core = machine();
    let notes_at = 4096;
    let mut cases = Vec::new();
    for field in [0, 4, 8] {
        for value in [0, 1, 3, 0x7fff_ffff, 0xffff_fff0, u32::MAX] {
            // The first note, and the third, which is VMCOREINFO.
            for (which, at) in [("first", notes_at), ("third", notes_at + 2 * (12 + 8 + 336))] {
                let mut file = core.file.clone();
                put(&mut file, at + field, &value.to_le_bytes());
                cases.push((format!("{which} note: {value:#x} at {field}"), file, 31));
            }
        }
    }
    run(cases.into_iter(), |_, _| {});
}

/// Keys that kernels without the feature do not have: nothing tells that they ought to be there.
const OPTIONAL: [&str; 3] =
    ["NUMBER(PG_hwpoison)", "NUMBER(PAGE_OFFLINE_MAPCOUNT_VALUE)", "NUMBER(PAGE_HUGETLB_MAPCOUNT_VALUE)"];

/// Leaves out each key in turn. Nothing that is needed may be lost; the keys for want of which more is kept, untold.
fn keys_missed_in_silence(keys: impl Iterator<Item = String>) -> Vec<String> {
    let mut silent = Vec::new();
    for key in keys {
        let core = without(&key);
        run([(format!("without {key}"), core.file.clone(), 31)].into_iter(), |name, ran| match &ran.dump {
            Ok((_, report)) => {
                nothing_needed_is_lost(&core, name, ran, 31);
                let want = core.verdicts(31).filter(|(_, why)| why.is_some()).count() as u64;
                if report.pages.dropped() < want && ran.problems.is_empty() {
                    silent.push(key.clone());
                }
            }
            Err(why) => assert!(why.contains(&key), "{name}: {why}"),
        });
    }
    silent
}

#[test]
fn a_key_is_missing() {
    let info = machine().info;
    let keys: Vec<String> =
        info.lines().filter_map(|l| l.split_once('=')).map(|(k, _)| k.to_owned()).collect();
    assert!(keys.len() > 80, "{} keys", keys.len());
    let mut silent = keys_missed_in_silence(keys.into_iter());
    silent.retain(|key| !OPTIONAL.contains(&key.as_str()));
    assert_eq!(silent, Vec::<String>::new(), "without these more is kept, and nobody is told");
}

/// struct pages full of garbage, of ones, of nothing: an impossible page is kept and told, and the rest is as it was.
#[test]
fn garbage_in_mem_map() {
    let core = machine();
    let vmemmap = core.at.vmemmap.expect("this machine has vmemmap");
    let map_of = |core: &Core, pfn: u64| {
        let virt = vmemmap + pfn * 64;
        let entry = core.tables.entry_of(&core.memory, virt).expect("mapped");
        (core.memory.word(entry) & 0x000f_ffff_ffff_f000) + virt % PAGE
    };
    let mut random = 0x1234_5678_9abc_def1_u64;
    let mut noise = vec![0_u8; 4096];
    for (case, fill) in ["noise", "ones", "zeros", "heads"].into_iter().enumerate() {
        let mut broken = core.clone();
        for word in noise.chunks_exact_mut(8) {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let value = [random, u64::MAX, 0, 1 << 6][case];
            word.copy_from_slice(&value.to_le_bytes());
        }
        broken.poke(map_of(&core, 0x1a80), &noise); // the struct pages of pfns 0x1a80 to 0x1ac0
        run([(format!("{fill} in mem_map"), broken.file.clone(), 31)].into_iter(), |name, ran| {
            let (bytes, _) = ran.dump.as_ref().unwrap_or_else(|e| panic!("{name}: {e}"));
            let got: BTreeSet<u64> = KdumpFile::from_bytes(bytes.clone()).unwrap().pfns().collect();
            // Blocks that garbage claims may reach further, up to the largest there is; before them nothing changes.
            let before = core.verdicts(31).filter(|(pfn, why)| *pfn < 0x1a80 && why.is_none());
            for (pfn, _) in before {
                assert!(got.contains(&pfn), "{name}: {pfn:#x} is lost");
            }
            if fill == "zeros" {
                assert!(
                    (0x1a80..0x1ac0).all(|pfn| got.contains(&pfn)),
                    "{name}: an empty struct page is no reason to drop"
                );
            }
        });
    }
}

/// Roots of mem_section that point nowhere, to themselves, into user space: pages stay, and the manifest says why.
#[test]
fn a_wild_mem_section() {
    let core = machine();
    let wild = [
        1,
        8,
        0xffff,
        u64::MAX,
        1 << 63,
        0x7fff_ffff_f000,
        core.at.symbol("mem_section"),
        core.at.page_offset + (1 << 45),
    ];
    for value in wild {
        for (what, at) in [("root", core.at.mem_section_phys), ("section", core.at.root_phys)] {
            let mut broken = core.clone();
            broken.poke(at, &value.to_le_bytes());
            run([(format!("{what} {value:#x}"), broken.file.clone(), 31)].into_iter(), |name, ran| {
                let (_, report) = ran.dump.as_ref().unwrap_or_else(|e| panic!("{name}: {e}"));
                let unsure = ran.has(Code::MEM_MAP_UNREADABLE) || ran.has(Code::MEM_MAP_MISSING);
                assert!(unsure, "{name}: nobody was told: {:?}", ran.problems);
                assert!(report.complete, "{name}");
                if what == "root" && value != core.at.symbol("mem_section") {
                    nothing_needed_is_lost(&core, name, ran, 31);
                }
            });
        }
    }
}

#[test]
fn a_piece_of_vmemmap_is_unmapped() {
    let core = machine();
    let vmemmap = core.at.vmemmap.expect("this machine has vmemmap");
    let entry = core.tables.entry_of(&core.memory, vmemmap + 0x1a80 * 64).expect("mapped");
    let mut broken = core.clone();
    broken.poke(entry, &[0; 8]);
    run([("unmapped".to_owned(), broken.file.clone(), 31)].into_iter(), |name, ran| {
        assert!(ran.has(Code::MEM_MAP_UNREADABLE), "{name}: {:?}", ran.problems);
        let (bytes, _) = ran.dump.as_ref().unwrap_or_else(|e| panic!("{name}: {e}"));
        let got: BTreeSet<u64> = KdumpFile::from_bytes(bytes.clone()).unwrap().pfns().collect();
        for (pfn, why) in core.verdicts(31) {
            // 64 struct pages are in a page of vmemmap.
            let blind = (0x1a80..0x1ac0).contains(&pfn);
            assert!(got.contains(&pfn) || (why.is_some() && !blind), "{name}: {pfn:#x} is lost");
        }
    });
}

/// Tables that point to themselves, to each other, out of memory.
#[test]
fn page_tables_that_turn_in_circles() {
    let core = machine();
    let root = core.tables.root;
    let vmemmap = core.at.vmemmap.expect("this machine has vmemmap");
    let leaf = core.tables.entry_of(&core.memory, vmemmap + 0x1a80 * 64).expect("mapped");
    let targets = [
        root | 0x67,
        root | 0xe7,
        0x67,
        0x000f_ffff_ffff_f067,
        u64::MAX,
        1 << 62,
        (leaf / PAGE * PAGE) | 0x67,
    ];
    for target in targets {
        let mut all = core.clone();
        for slot in 0..512 {
            all.poke(root + slot * 8, &target.to_le_bytes());
        }
        let mut one = core.clone();
        one.poke(leaf, &target.to_le_bytes());
        let mut table = core.clone();
        for slot in 0..512 {
            table.poke(leaf / PAGE * PAGE + slot * 8, &target.to_le_bytes());
        }
        for (what, broken) in [("top table", all), ("one entry", one), ("lowest table", table)] {
            run([(format!("{what} {target:#x}"), broken.file.clone(), 31)].into_iter(), |name, ran| {
                assert!(ran.dump.is_ok(), "{name}: {:?}", ran.dump.as_ref().err());
                if what == "top table" {
                    assert!(!ran.problems.is_empty(), "{name}: nobody was told");
                    nothing_needed_is_lost(&core, name, ran, 31);
                }
            });
        }
    }
}

/// The log's own pointers and counters, broken word by word.
#[test]
fn a_log_that_lies() {
    for era in ["5.4", "6.12"] {
        let mut spec = Spec::new(Era::named(era));
        spec.ram = vec![(0x1a0_0000, 0x1a1_0000)];
        let core = spec.build();
        let mut cases = Vec::new();
        for symbol in core.at.log_symbols() {
            let virt = core.at.symbol(symbol);
            let phys = virt.wrapping_sub(0xffff_ffff_8000_0000).wrapping_add(core.at.phys_base);
            for word in 0..if symbol == "printk_rb_static" { 11 } else { 1 } {
                for value in [0, 1, 63, 64, 0xffff_ffff, u64::MAX, 1 << 62, core.at.page_offset] {
                    let mut broken = core.clone();
                    broken.poke(phys + word * 8, &value.to_le_bytes());
                    cases.push((format!("{era} {symbol}[{word}] {value:#x}"), broken.file, 0));
                }
            }
        }
        run(cases.into_iter(), |name, ran| {
            assert!(
                ran.dump.is_ok(),
                "{name}: the log must not cost the dump: {:?}",
                ran.dump.as_ref().err()
            );
            assert!(ran.log.as_ref().map_or(true, |log| log.len() < 8 << 20), "{name}: a log without end");
        });
    }
}

/// Bytes flipped at random, most of them where metadata is. Seeded: a failure names the seed.
#[test]
fn random_byte_flips() {
    let mut spec = Spec::new(Era::named("6.12"));
    spec.ram = vec![(0x1a0_0000, 0x1a8_0000)];
    let kinds: Vec<_> = spec.era.kinds().filter(|kind| kind.order() < 4).collect();
    for kind in kinds {
        spec.place(kind);
    }
    let core = spec.build();
    let mut places: Vec<(usize, usize)> = vec![(0, 64 * 8), (4096, 4096)]; // headers; notes and VMCOREINFO
    places.extend(core.file_offsets(core.tables.root).into_iter().map(|at| (at, 16 * 4096)));
    places.extend(core.file_offsets(core.at.mem_section_phys).into_iter().map(|at| (at, 4096)));
    places.extend(core.file_offsets(core.at.root_phys).into_iter().map(|at| (at, 4096)));
    places.push((0, core.file.len()));
    let cases = (0..3000_u64).map(|seed| {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state >> 11).expect("53 bits")
        };
        let mut file = core.file.clone();
        for _ in 0..1 + next() % 8 {
            let (from, len) = places[next() % places.len()];
            let at = (from + next() % len).min(file.len() - 1);
            file[at] = next().to_le_bytes()[0];
        }
        let level = next().to_le_bytes()[0] & 31;
        (format!("seed {seed}"), file, level)
    });
    run(cases, |_, _| {});
}

/// The allocator does count: without that the cap would prove nothing.
#[test]
fn the_cap_works() {
    LIVE.set(0);
    PEAK.set(0);
    LIMITED.set(true);
    let mut small = Vec::<u8>::new();
    let fits = small.try_reserve_exact(1 << 20);
    let mut large = Vec::<u8>::new();
    let refused = large.try_reserve_exact(CAP);
    LIMITED.set(false);
    assert!(fits.is_ok() && refused.is_err());
    assert!(PEAK.get() >= 1 << 20);
}

/// Dumps as input, good ones: the names and files of whole, flattened and split ones.
fn dumps() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let core = machine();
    let source = Bytes::new(&core.file);
    let mut engine = Engine::open(&source).unwrap();
    let spec = |how| dump_spec(1, Format::Kdump, how);
    let sink = harness::Sink::default();
    engine.dump(&spec(Compression::DEFAULT), &sink, &Silent).unwrap();
    let whole = sink.into_parts().0;
    let flat = |format| {
        let flat = Flattened::new(Vec::new());
        let mut engine = Engine::open(&source).unwrap();
        engine.dump(&dump_spec(1, format, Compression::None), &flat, &Silent).unwrap();
        flat.into_inner()
    };
    let parts = [(0_u64, 0x1b00_u64), (0x1b00, 0x1e01)].map(|(start, end)| part(&whole, start, end));
    vec![
        ("kdump", vec![whole]),
        ("flattened kdump", vec![flat(Format::Kdump)]),
        ("flattened ELF", vec![flat(Format::Elf)]),
        ("split", parts.to_vec()),
    ]
}

/// A part of a dump, cut by the letter of the format: the headers and bitmaps of the whole, and its own descriptors, which
/// point where they did.
fn part(whole: &[u8], start: u64, end: u64) -> Vec<u8> {
    let file = KdumpFile::from_bytes(whole.to_vec()).unwrap();
    let word = |at: usize| u32::from_le_bytes(whole[at..at + 4].try_into().unwrap()) as usize;
    let table = (1 + word(432) + word(436)) * 4096;
    let before = file.pfns().filter(|pfn| *pfn < start).count();
    let mine = file.pfns().filter(|pfn| (start..end).contains(pfn)).count();
    let mut out = whole.to_vec();
    out.copy_within(table + before * 24..table + (before + mine) * 24, table);
    for (at, value) in [(16, start), (24, end), (80, start), (88, end)] {
        put(&mut out, 4096 + at, &value.to_le_bytes());
    }
    put(&mut out, 4096 + 12, &1_u32.to_le_bytes());
    out
}

#[test]
fn good_dumps_are_sound_input() {
    run_sets(dumps().into_iter().map(|(name, files)| (name.to_owned(), files, 31)), |name, ran| {
        assert!(ran.problems.is_empty(), "{name}: {:?}", ran.problems);
        assert!(
            ran.dump.as_ref().is_ok_and(|(_, report)| report.complete && report.pages.free > 0),
            "{name}"
        );
        assert!(ran.log.is_ok(), "{name}");
    });
}

/// Cut at every boundary of what there is, and between.
#[test]
fn dumps_that_are_cut_off() {
    for (kind, files) in dumps() {
        let len = files[0].len();
        let mut cuts: Vec<usize> = [0, 4096, 8192, 12288, 16384, len]
            .into_iter()
            .flat_map(|at| [at.saturating_sub(1), at, at + 1, at + 16, at + 104, at + 464])
            .filter(|cut| *cut < len)
            .collect();
        cuts.extend((1..12).map(|i| len / 12 * i + i * 37));
        let cases = cuts.into_iter().map(|cut| {
            let mut files = files.clone();
            files[0].truncate(cut);
            (format!("{kind} cut at {cut:#x} of {len:#x}"), files, 31)
        });
        run_sets(cases, |name, ran| {
            if let Ok((_, report)) = &ran.dump {
                assert!(!ran.problems.is_empty() || report.complete, "{name}: nobody was told");
            }
        });
    }
}

/// Absurd numbers in each field of the headers, of the first records and descriptors.
#[test]
fn dumps_that_lie() {
    let wild: [u64; 8] = [0, 1, u64::MAX, 1 << 63, (1 << 63) - 1, u64::MAX - 4095, 1 << 52, 1 << 36];
    for (kind, files) in dumps() {
        let base = if kind.starts_with("flattened") { 4096 + 16 } else { 0 };
        let headers = (8..12).chain(408..464).chain(4096..4096 + 104).step_by(4).map(|at| base + at);
        let records = if base > 0 { 16..32 } else { 0..0 }.chain(4096..4096 + 16).step_by(8);
        let table = 4096 * 4..4096 * 4 + 72;
        let places: BTreeSet<usize> =
            headers.chain(records).chain(table.step_by(4).map(|at| base + at)).collect();
        let cases = places.into_iter().flat_map(|at| wild.map(|value| (at, value))).map(|(at, value)| {
            let mut files = files.clone();
            put(&mut files[0], at, &value.to_le_bytes());
            (format!("{kind}: {value:#x} at {at:#x}"), files, 31)
        });
        run_sets(cases, |_, _| {});
    }
}

/// Seeded damage anywhere.
#[test]
fn dumps_with_flipped_bytes() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    };
    for (kind, files) in dumps() {
        let cases = (0..150).map(|seed| {
            let mut files = files.clone();
            let which = random(files.len());
            let len = files[which].len();
            for _ in 0..=random(8) {
                // Half of it where the structure is.
                let at = if random(2) == 0 { random(20_000.min(len)) } else { random(len) };
                files[which][at] ^= 1 << random(8);
            }
            (format!("{kind}, seed {seed}"), files, 31)
        });
        run_sets(cases.collect::<Vec<_>>().into_iter(), |_, _| {});
    }
}

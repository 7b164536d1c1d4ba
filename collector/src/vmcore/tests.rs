use super::fixture::Core;
use super::*;
use proptest::prelude::*;

const INFO: &str = "OSRELEASE=6.1.0\nPAGESIZE=4096\nNUMBER(MAX_PHYSMEM_BITS)=46\n";

fn open<'a>(file: &'a Vec<u8>, problems: &mut Problems) -> Result<Vmcore<'a>, VmcoreError> {
    Vmcore::open(file, problems)
}

fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

fn codes(problems: &Problems) -> Vec<Code> {
    problems.list().iter().map(|p| p.code).collect()
}

#[test]
fn headers_may_be_anywhere_and_counted_in_section_0() {
    for (gap, xnum) in [(0, false), (512, false), (0, true), (100, true)] {
        let mut core = Core { gap, xnum, ..Core::new(INFO) }.load(0x10_0000, vec![7; 0x3000]);
        core.notes.push(core.notes[0].clone());
        let file = core.build();
        let mut problems = Problems::new();
        let vmcore = open(&file, &mut problems).unwrap();
        assert!(problems.is_empty());
        assert_eq!((vmcore.cpus(), vmcore.machine(), vmcore.end_pfn().get()), (2, 62, 0x103));
        assert_eq!(&vmcore.notes()[vmcore.vmcoreinfo_range()], INFO.as_bytes());
        assert_eq!(vmcore.present_runs(), [(Pfn::new(0x100), Pfn::new(0x103))]);
    }
}

#[test]
fn errors_say_what_was_seen() {
    let good = Core::new(INFO).load(0, vec![0; 4096]).build();
    let cases: &[(usize, &[u8], &str)] = &[
        (0, b"KDUM", "not an ELF file: it starts with [4b, 44, 55, 4d]"),
        (4, &[1], "ELF class 1 at offset 0x4, only 2 (64-bit) is supported"),
        (5, &[3], "ELF byte order 3 at offset 0x5, neither 1 (little-endian) nor 2 (big-endian)"),
        (16, &[2, 0], "ELF type 2 at offset 0x10, a vmcore is 4 (ET_CORE)"),
        (54, &[32, 0], "program headers of 32 bytes (e_phentsize at offset 0x36), they take 56"),
        (56, &[0, 0], "no memory: 0 PT_LOAD segments, none with data in the file"),
        (56, &[0xff, 0xff, 0, 0, 0, 0], "no memory: 0 PT_LOAD segments, none with data in the file"),
    ];
    for (at, bytes, expected) in cases {
        let mut file = good.clone();
        put(&mut file, *at, bytes);
        let error = open(&file, &mut Problems::new()).err().map(|e| e.to_string());
        assert_eq!(error.as_deref(), Some(*expected));
    }
    let short = good[..40].to_vec();
    let error = open(&short, &mut Problems::new()).err().map(|e| e.to_string());
    assert_eq!(error.as_deref(), Some("the file has 40 bytes, an ELF header takes 64"));
}

#[test]
fn page_size_is_assumed_only_where_there_is_one() {
    let cases = [
        (vec![], "no VMCOREINFO note"),
        (Core::new("OSRELEASE=1\n").notes, "VMCOREINFO has no key PAGESIZE"),
        (
            Core::new("PAGESIZE=12\n").notes,
            "VMCOREINFO has PAGESIZE=\"12\", no power of two from 4096 to 65536",
        ),
    ];
    for (notes, why) in cases {
        let mut file = Core { notes, ..Core::default() }.load(0, vec![0; 4096]).build();
        let mut problems = Problems::new();
        let page = open(&file, &mut problems).unwrap().page_size();
        assert_eq!((page.bytes(), codes(&problems)), (4096, vec![Code::VMCOREINFO_KEY_MISSING]));
        assert!(problems.list()[0].message.starts_with(why));
        put(&mut file, 18, &183_u16.to_le_bytes());
        let error = open(&file, &mut Problems::new()).err().map(|e| e.to_string());
        assert_eq!(error, Some(format!("{why}, and the page size of machine 183 is not known without")));
    }
}

#[test]
fn what_cannot_be_is_cut_or_left_out() {
    // Physical address, file bytes, claimed memory → present runs.
    let far = 1_u64 << 46;
    type Case = (u64, u64, u64, &'static [(u64, u64)]);
    let cases: &[Case] = &[
        (0x5000, 0x1000, 0x9000, &[(0, 1), (5, 6)]), // a tail without data
        (1 << 63, 0x1000, 0x1000, &[(0, 1)]),        // no such memory
        (far - 0x1000, 0x1000, 0x2000, &[(0, 1)]),   // ends above MAX_PHYSMEM_BITS
        (u64::MAX - 0xfff, 0x1000, 0x1000, &[(0, 1)]), // wraps
        (0x5000, 0x1000, u64::MAX, &[(0, 1)]),       // wraps
        (far - 0x1000, 0x1000, 0x1000, &[(0, 1), ((1 << 34) - 1, 1 << 34)]),
    ];
    for (paddr, filesz, memsz, expected) in cases {
        let mut core = Core::new(INFO).load(0, vec![1; 4096]);
        core.loads.push((*paddr, 0, vec![2; usize::try_from(*filesz).unwrap()], *memsz));
        let file = core.build();
        let mut problems = Problems::new();
        let vmcore = open(&file, &mut problems).unwrap();
        let runs: Vec<_> = vmcore.present_runs().iter().map(|(a, b)| (a.get(), b.get())).collect();
        assert_eq!(runs, *expected, "{paddr:#x} {memsz:#x}");
        assert_eq!(problems.is_empty(), vmcore.segments().len() == 2);
    }
}

#[test]
fn a_file_that_was_cut_short_gives_what_it_has() {
    let file = Core::new(INFO).load(0x1000, vec![9; 0x8000]).build();
    let cut = file[..file.len() - 0x2800].to_vec();
    let mut problems = Problems::new();
    let vmcore = open(&cut, &mut problems).unwrap();
    assert_eq!(codes(&problems), [Code::SEGMENT_MALFORMED]);
    assert_eq!((vmcore.end_pfn().get(), vmcore.cut_off()), (9, Some(2)));
    assert_eq!(vmcore.present_runs(), [(Pfn::new(1), Pfn::new(7))]);
    let mut page = [1; 4096];
    vmcore.read_page(Pfn::new(6), &mut page).unwrap();
    assert_eq!((page[0x7ff], page[0x800]), (9, 0));
    assert!(
        matches!(vmcore.read_page(Pfn::new(7), &mut page), Err(ReadError::NotBacked(at)) if at.get() == 0x7000)
    );
}

#[test]
fn an_absurd_number_of_headers_is_cut() {
    let mut file = Core::new(INFO).load(0, vec![0; 4096]).build();
    put(&mut file, 56, &0xfff0_u16.to_le_bytes());
    let mut problems = Problems::new();
    assert!(open(&file, &mut problems).is_ok());
    assert!(codes(&problems).contains(&Code::SEGMENT_MALFORMED));
}

#[test]
fn reads_span_segments_and_windows_do_not() {
    let file = Core::new(INFO)
        .load(0x1800, vec![1; 0x1800])
        .load(0x4000, vec![3; 0x1000])
        .load(0x3000, vec![2; 0x1000])
        .build();
    let mut problems = Problems::new();
    let vmcore = open(&file, &mut problems).unwrap();
    let mut buf = [0; 4];
    vmcore.read_phys(PhysAddr::new(0x2ffe), &mut buf).unwrap();
    assert_eq!(buf, [1, 1, 2, 2]);
    assert!(
        matches!(vmcore.read_phys(PhysAddr::new(0x4ffe), &mut buf), Err(ReadError::NotBacked(at)) if at.get() == 0x5000)
    );
    let mut page = [9; 4096];
    vmcore.read_page(Pfn::new(1), &mut page).unwrap();
    assert_eq!((page[0x7ff], page[0x800]), (0, 1));
    assert!(vmcore.page_window(Pfn::new(1), 9).is_err(), "page 1 is not whole");
    let (window, pages) = vmcore.page_window(Pfn::new(2), 9).unwrap();
    assert_eq!((window.len(), pages, window[0]), (0x1000, 1, 1));
    assert_eq!(vmcore.page_window(Pfn::new(3), 9).unwrap().0[0], 2);
    assert_eq!(vmcore.phys_window(PhysAddr::new(0x1900), 0x100).unwrap().len(), 0x100);
    assert_eq!(vmcore.phys_window(PhysAddr::new(0x1900), 0x9000).unwrap().len(), 0x1700);
}

/// A source that can map nothing any more from its first window on.
struct Tired {
    file: Vec<u8>,
    maps: std::sync::atomic::AtomicBool,
}

impl ReadAt for Tired {
    fn size(&self) -> u64 {
        self.file.size()
    }
    fn read_at(&self, at: FileOffset, buf: &mut [u8]) -> std::io::Result<()> {
        self.file.read_at(at, buf)
    }
    fn window(&self, at: FileOffset, len: usize) -> std::io::Result<Window<'_>> {
        self.maps.store(false, std::sync::atomic::Ordering::Relaxed);
        if len > self.window_len() {
            Err(std::io::ErrorKind::OutOfMemory.into())
        } else {
            self.file.window(at, len)
        }
    }
    fn window_len(&self) -> usize {
        if self.maps.load(std::sync::atomic::Ordering::Relaxed) { 1 << 20 } else { 0x2000 }
    }
}

#[test]
fn a_source_that_stops_mapping_is_asked_again_for_less() {
    let tired = || Tired {
        file: Core::new(INFO).load(0x1000, vec![1; 0x8000]).build(),
        maps: std::sync::atomic::AtomicBool::new(true),
    };
    let source = tired();
    let vmcore = Vmcore::open(&source, &mut Problems::new()).unwrap();
    assert_eq!(vmcore.page_window(Pfn::new(1), 9).unwrap().1, 2);
    let source = tired();
    let vmcore = Vmcore::open(&source, &mut Problems::new()).unwrap();
    assert_eq!(vmcore.phys_window(PhysAddr::new(0x1000), 0x8000).unwrap().len(), 0x2000);
}

proptest! {
    /// Whatever is damaged in the headers and notes: an error or a vmcore, no panic, no big allocation.
    #[test]
    fn damage_never_panics(damage in prop::collection::vec((0..1200_usize, any::<u8>()), 1..12), cut in 0..9000_usize) {
        let mut file = Core { xnum: true, ..Core::new(INFO) }.load(0x1000, vec![1; 4096]).load(0x1800, vec![2; 4096]).build();
        for (at, value) in damage {
            let at = at % file.len();
            file[at] = value;
        }
        file.truncate(cut);
        let mut problems = Problems::new();
        if let Ok(vmcore) = open(&file, &mut problems) {
            let mut page = vec![0; vmcore.page_size().len()];
            for (start, end) in vmcore.present_runs().into_iter().take(4) {
                let _ = vmcore.read_page(start, &mut page);
                let _ = vmcore.page_window(start, end.get());
            }
        }
    }
}

#[test]
fn a_stretch_can_be_left_out() {
    let file = Core::new(INFO)
        .load(0x10_0000, (0..0x40_00_u32).map(|i| u8::try_from(i >> 12).unwrap()).collect())
        .build();
    let runs = |start: u64, end: u64| {
        let mut vmcore = open(&file, &mut Problems::new()).unwrap();
        vmcore.leave_out(PhysAddr::new(start), PhysAddr::new(end));
        let mut page = vec![0; 4096];
        for (from, to) in vmcore.present_runs() {
            for pfn in from.get()..to.get() {
                vmcore.read_page(Pfn::new(pfn), &mut page).unwrap();
                assert_eq!(u64::from(page[0]), pfn - 0x100, "the right page");
            }
        }
        vmcore.present_runs().iter().map(|(a, b)| (a.get(), b.get())).collect::<Vec<_>>()
    };
    assert_eq!(runs(0x10_1000, 0x10_2000), [(0x100, 0x101), (0x102, 0x104)]);
    assert_eq!(runs(0, 0x10_1000), [(0x101, 0x104)]);
    assert_eq!(runs(0x10_3000, u64::MAX), [(0x100, 0x103)]);
    assert_eq!(runs(0x20_0000, 0x30_0000), [(0x100, 0x104)]);
    assert_eq!(runs(0, u64::MAX), []);
}

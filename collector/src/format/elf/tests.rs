use super::pieces::{Piece, pieces};
use super::*;
use crate::addr::PhysAddr;
use crate::format::testing::{Sink, selection, through};
use crate::progress::Silent;
use crate::vmcore::Segment;
use proptest::prelude::*;

const PAGE: usize = 4096;

fn phdr(kind: u32, offset: usize, vaddr: u64, paddr: u64, filesz: usize, memsz: usize) -> Vec<u8> {
    let mut bytes = [kind.to_le_bytes(), 7_u32.to_le_bytes()].concat();
    for value in [offset as u64, vaddr, paddr, filesz as u64, memsz as u64, 0] {
        bytes.extend_from_slice(&value.to_le_bytes());
    }
    bytes
}

/// A vmcore by hand: memory that starts and ends within a page, and the kernel's text once more in a segment of its own.
fn vmcore(memory: &[u8], start: u64) -> Vec<u8> {
    let info = b"OSRELEASE=6.1\nPAGESIZE=4096\n";
    let mut note =
        [11_u32.to_le_bytes(), u32::try_from(info.len()).unwrap().to_le_bytes(), 0_u32.to_le_bytes()]
            .concat();
    note.extend_from_slice(b"VMCOREINFO\0\0");
    note.extend_from_slice(info);
    let notes_at = 64 + 3 * 56;
    let data_at = notes_at + note.len();
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 62, 0, 1, 0, 0, 0];
    file.extend_from_slice(&[0; 8]);
    file.extend_from_slice(&64_u64.to_le_bytes());
    file.extend_from_slice(&[0; 12]);
    for value in [64_u16, 56, 3, 0, 0, 0] {
        file.extend_from_slice(&value.to_le_bytes());
    }
    let text = PAGE.min(memory.len());
    file.extend(phdr(4, notes_at, 0, 0, note.len(), note.len()));
    file.extend(phdr(1, data_at, 0xffff_ffff_8100_0000, start, text, text));
    file.extend(phdr(1, data_at, 0xffff_8880_0000_0000 + start, start, memory.len(), memory.len()));
    file.extend(note);
    file.extend_from_slice(memory);
    file
}

/// Pages of `kinds` (0 zero, else filled so), from `start`, which need not begin a page.
fn memory(kinds: &[u8], start: u64, tail: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = kinds.iter().flat_map(|k| vec![*k; PAGE]).collect();
    let head = usize::try_from(start).unwrap() % PAGE;
    bytes.drain(..head);
    bytes.truncate(bytes.len() - tail);
    bytes
}

#[test]
fn segments_are_cut_at_long_stretches_only() {
    let segment = |start: u64, len: u64| Segment {
        start: PhysAddr::new(start),
        mem_len: len,
        file_len: len,
        offset: FileOffset::new(0),
        virt: crate::addr::VirtAddr::new(0),
    };
    let p = PAGE as u64;
    let piece = |start: u64, data_end: u64, end: u64| Piece {
        start: start * p,
        data_end: data_end * p,
        end: end * p,
    };
    type Case<'a> = (&'a str, &'a [(u64, u64)], Vec<Piece>);
    let table: &[Case<'_>] = &[
        ("nothing kept", &[], vec![piece(0, 0, 1000)]),
        ("all kept", &[(0, 1000)], vec![piece(0, 1000, 1000)]),
        ("a short gap", &[(0, 10), (265, 300)], vec![piece(0, 300, 1000)]),
        ("a long gap", &[(0, 10), (266, 1000)], vec![piece(0, 10, 266), piece(266, 1000, 1000)]),
        ("a short gap first", &[(255, 1000)], vec![piece(0, 1000, 1000)]),
        ("a long gap first", &[(256, 999)], vec![piece(0, 0, 256), piece(256, 999, 1000)]),
    ];
    for (name, kept, want) in table {
        let mut keep = Bitmap::new(2000);
        for (start, end) in *kept {
            keep.set_range(Pfn::new(100 + start), Pfn::new(100 + end));
        }
        // Pages beside the segment are no part of it.
        keep.set_range(Pfn::new(0), Pfn::new(100));
        keep.set_range(Pfn::new(1100), Pfn::new(1200));
        let seen: Vec<_> = pieces(&segment(100 * p, 1000 * p), p, &keep).collect();
        assert_eq!(&seen, want, "{name}");
    }
    // Fractions of pages: from the middle of page 100 to the middle of page 102.
    let mut keep = Bitmap::new(2000);
    keep.set_range(Pfn::new(100), Pfn::new(103));
    let seen: Vec<_> = pieces(&segment(100 * p + 100, 2 * p), p, &keep).collect();
    assert_eq!(seen, [Piece { start: 0, data_end: 2 * p, end: 2 * p }]);
}

fn write_it(
    file: &Vec<u8>,
    keep: impl Fn(u64) -> bool,
    level: u8,
    sink: &mut Sink,
) -> Result<Written, SinkFailure> {
    through(sink, |sink| write_to(file, keep, level, sink))
}

fn write_to(
    file: &Vec<u8>,
    keep: impl Fn(u64) -> bool,
    level: u8,
    sink: &dyn DumpSink,
) -> Result<Written, SinkFailure> {
    write_with(file, keep, level, |job, vmcore, problems| write(job, vmcore, &[], sink, problems))
}

fn write_with(
    file: &Vec<u8>,
    keep: impl Fn(u64) -> bool,
    level: u8,
    write: impl FnOnce(&Job<'_>, &Vmcore<'_>, &mut Problems) -> Result<Written, SinkFailure>,
) -> Result<Written, SinkFailure> {
    let mut problems = Problems::new();
    let vmcore = Vmcore::open(file, &mut problems).unwrap();
    let mut present = Bitmap::new(vmcore.end_pfn().get());
    for (start, end) in vmcore.present_runs() {
        present.set_range(start, end);
    }
    let mut kept = present.clone();
    for pfn in (0..present.len()).filter(|p| !keep(*p)) {
        kept.clear_range(Pfn::new(pfn), Pfn::new(pfn + 1));
    }
    let selection = selection(present, kept, level);
    let job = Job {
        name: "vmcore",
        selection: &selection,
        pages: &vmcore,
        progress: &Silent,
        threads: 1 + file.len() % 3,
    };
    let outcome = write(&job, &vmcore, &mut problems);
    let account = match &outcome {
        Ok(w) => w.account,
        Err(f) => f.written.account,
    };
    assert!(account.balanced(), "{account:?}");
    outcome
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn an_elf_is_read_back(
        kinds in prop::collection::vec(prop_oneof![2 => Just((0_u8, true, 1_usize)), 3 => (1_u8..9, any::<bool>(), 1_usize..4), 2 => (1_u8..9, Just(false), 250_usize..262)], 1..12),
        first in 0_u64..300,
        head in 0_u64..4096, tail in 0_usize..4000,
        zeros in any::<bool>(),
        room in any::<prop::sample::Index>(),
    ) {
        let pages: Vec<(u8, bool)> = kinds.iter().flat_map(|(k, keep, n)| vec![(*k, *keep); *n]).chain([(9, true)]).collect();
        let fill: Vec<u8> = pages.iter().map(|(k, _)| *k).collect();
        let start = first * PAGE as u64 + head;
        let file = vmcore(&memory(&fill, start, tail), start);
        let keep = |pfn: u64| pages[usize::try_from(pfn - first).unwrap()].1;
        let keep = |pfn: u64| pfn >= first && keep(pfn);
        let mut sink = Sink::default();
        let written = write_it(&file, keep, u8::from(zeros), &mut sink).unwrap();
        prop_assert!(written.complete());
        prop_assert_eq!(written.bytes, sink.bytes.len() as u64);
        prop_assert_eq!(sink.bytes[48], 0, "e_flags");
        let mut problems = Problems::new();
        let (before, after) = (Vmcore::open(&file, &mut problems).unwrap(), Vmcore::open(&sink.bytes, &mut problems).unwrap());
        prop_assert!(problems.is_empty());
        prop_assert_eq!(after.notes(), before.notes());
        prop_assert_eq!(after.end_pfn(), before.end_pfn());
        let (mut want, mut got) = (vec![0; PAGE], vec![0; PAGE]);
        let mut kept = 0;
        for (index, (kind, keep)) in pages.iter().enumerate() {
            let pfn = Pfn::new(first + index as u64);
            if *keep && !(zeros && *kind == 0) {
                kept += 1;
                before.read_page(pfn, &mut want).unwrap();
                after.read_page(pfn, &mut got).unwrap();
                prop_assert_eq!(&got, &want, "page {}", pfn);
            }
        }
        prop_assert_eq!(written.account.kept, kept);

        // A pipe gets the same from front to back, and is told at once that it is whole.
        let pipe = crate::format::stream::Plain::new(Vec::new());
        let into_pipe = write_to(&file, keep, u8::from(zeros), &pipe).unwrap();
        prop_assert_eq!(into_pipe, written);
        prop_assert!(pipe.into_inner() == sink.bytes);

        // As an LZ4 frame.
        let packed = crate::format::stream::Plain::new(Vec::new());
        let report = write_with(&file, keep, u8::from(zeros), |job, vmcore, problems| write_lz4(job, vmcore, &[], &packed, problems)).unwrap();
        let packed = packed.into_inner();
        prop_assert_eq!((report.account, report.bytes), (written.account, packed.len() as u64));
        let mut unpacked = Vec::new();
        io::Read::read_to_end(&mut lz4_flex::frame::FrameDecoder::new(&packed[..]), &mut unpacked).unwrap();
        prop_assert!(unpacked == sink.bytes);

        // A full disk: what is counted as kept is there, and the file says that it is not all.
        let mut small = Sink::with_room(room.index(sink.used()));
        let failure = write_it(&file, keep, u8::from(zeros), &mut small).unwrap_err();
        prop_assert!(failure.written.account.kept <= kept);
        if small.bytes.len() >= 64 && small.used() >= 64 {
            prop_assert_eq!(small.bytes[48] & 1, 1);
        }
    }
}

#[test]
fn more_headers_than_e_phnum_can_say() {
    // A page of each 257: 66000 PT_LOADs. The vmcore's memory is a hole in the source.
    struct Hole(Vec<u8>, u64);
    impl crate::vmcore::ReadAt for Hole {
        fn size(&self) -> u64 {
            self.1
        }
        fn read_at(&self, at: FileOffset, buf: &mut [u8]) -> io::Result<()> {
            buf.fill(0);
            let at = usize::try_from(at.get()).unwrap().min(self.0.len());
            let rest = &self.0[at..];
            let len = rest.len().min(buf.len());
            buf[..len].copy_from_slice(&rest[..len]);
            Ok(())
        }
        fn window(&self, at: FileOffset, len: usize) -> io::Result<crate::vmcore::Window<'_>> {
            let mut bytes = vec![0; len];
            self.read_at(at, &mut bytes)?;
            Ok(Box::new(bytes))
        }
        fn window_len(&self) -> usize {
            1 << 20
        }
    }
    struct Headers(std::sync::Mutex<(Vec<u8>, u64)>);
    impl DumpSink for Headers {
        fn write_at(&self, at: FileOffset, bytes: &[u8]) -> io::Result<()> {
            let mut seen = self.0.lock().unwrap();
            seen.1 = seen.1.max(at.get() + bytes.len() as u64);
            let at = usize::try_from(at.get()).unwrap();
            if at + bytes.len() <= 8 << 20 {
                let len = seen.0.len().max(at + bytes.len());
                seen.0.resize(len, 0);
                seen.0[at..at + bytes.len()].copy_from_slice(bytes);
            }
            Ok(())
        }
        fn finish(&self) -> io::Result<()> {
            Ok(())
        }
    }
    let pages = 66_000_u64 * 257;
    let bytes = pages * PAGE as u64;
    let mut file = vmcore(&[0; PAGE], 0);
    // The second PT_LOAD becomes long.
    for at in [64 + 56 * 2 + 32, 64 + 56 * 2 + 40] {
        file[at..at + 8].copy_from_slice(&bytes.to_le_bytes());
    }
    let size = bytes + file.len() as u64;
    let source = Hole(file, size);
    let mut problems = Problems::new();
    let vmcore = Vmcore::open(&source, &mut problems).unwrap();
    let (mut present, mut keep) = (Bitmap::new(pages), Bitmap::new(pages));
    present.set_range(Pfn::new(0), Pfn::new(pages));
    for n in 0..66_000 {
        keep.set_range(Pfn::new(n * 257), Pfn::new(n * 257 + 1));
    }
    let selection = selection(present, keep, 0);
    let job = Job { name: "vmcore", selection: &selection, pages: &vmcore, progress: &Silent, threads: 1 };
    let sink = Headers(std::sync::Mutex::default());
    let written = write(&job, &vmcore, &[], &sink, &mut problems).unwrap();
    let (head, len) = sink.0.into_inner().unwrap();
    assert_eq!(written.account.kept, 66_000);
    assert_eq!(u16::from_le_bytes([head[56], head[57]]), 0xffff);
    let back = Hole(head, len);
    let after = Vmcore::open(&back, &mut problems).unwrap();
    // The text's own segment, and the pieces.
    assert_eq!(after.segments().len(), 66_001);
    assert!(problems.is_empty(), "{problems:?}");
}

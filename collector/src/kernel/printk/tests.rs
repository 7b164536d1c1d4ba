use super::*;
use crate::vmcore::VmcoreInfo;
use std::fmt::Write as _;

/// Virtual memory from [`BASE`] on.
struct Ram(Vec<u8>);

const BASE: u64 = 0xffff_8880_0000_0000;

impl Memory for Ram {
    fn read(&self, at: VirtAddr, buf: &mut [u8]) -> Result<(), ReadError> {
        let missing = || ReadError::NotMapped { at, why: "test".to_owned() };
        let start = usize::try_from(at.get().checked_sub(BASE).ok_or_else(missing)?).unwrap();
        let end = start.checked_add(buf.len()).ok_or_else(missing)?;
        buf.copy_from_slice(self.0.get(start..end).ok_or_else(missing)?);
        Ok(())
    }
    fn endian(&self) -> Endian {
        Endian::Little
    }
}

impl Ram {
    fn put(&mut self, at: usize, bytes: &[u8]) {
        if self.0.len() < at + bytes.len() {
            self.0.resize(at + bytes.len(), 0);
        }
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }
    fn put64(&mut self, at: usize, value: u64) {
        self.put(at, &value.to_le_bytes());
    }
}

fn log_of(ram: &Ram, keys: &str, style: Style) -> (Result<Log, LogError>, String, Problems) {
    let mut out = Vec::new();
    let mut problems = Problems::new();
    let log = write(ram, &VmcoreInfo::parse(keys.as_bytes()), style, &mut out, &mut problems);
    (log, String::from_utf8(out).unwrap(), problems)
}

/// A ring buffer with its structs at odd places, so that only VMCOREINFO leads to them.
struct Ring {
    ram: Ram,
    count_bits: u32,
    size_bits: u32,
    next_id: u64,
    lpos: u64,
}

const PRB: usize = 0x40;
const RING: usize = 0x100;
const DESCS: usize = 0x1000;
const INFOS: usize = 0x4000;
const DATA: usize = 0x1_0000;
const IDS: u64 = u64::MAX >> 2;

impl Ring {
    /// `first_id` and `first_lpos`: how far the ring has turned already.
    fn new(count_bits: u32, size_bits: u32, first_id: u64, first_lpos: u64) -> Self {
        let mut ram = Ram(vec![0; DATA + (1 << size_bits)]);
        ram.put64(PRB, BASE + RING as u64);
        ram.put(RING + 24 + 8, &count_bits.to_le_bytes());
        ram.put64(RING + 24 + 16, BASE + DESCS as u64);
        ram.put64(RING + 24 + 24, BASE + INFOS as u64);
        ram.put(RING + 96 + 4, &size_bits.to_le_bytes());
        ram.put64(RING + 96 + 8, BASE + DATA as u64);
        // Slots that were never used.
        for slot in 0..1_usize << count_bits {
            ram.put64(DESCS + slot * 40 + 16, 3 << 62);
        }
        Self { ram, count_bits, size_bits, next_id: first_id, lpos: first_lpos }
    }

    fn keys() -> String {
        let mut keys = format!(
            "SYMBOL(prb)={:x}\nSIZE(atomic_long_t)=8\nOFFSET(atomic_long_t.counter)=0\n",
            BASE + PRB as u64
        );
        for (name, value) in [
            ("printk_ringbuffer.desc_ring", 24),
            ("printk_ringbuffer.text_data_ring", 96),
            ("prb_desc_ring.count_bits", 8),
            ("prb_desc_ring.descs", 16),
            ("prb_desc_ring.infos", 24),
            ("prb_desc_ring.head_id", 40),
            ("prb_desc_ring.tail_id", 48),
            ("prb_data_ring.size_bits", 4),
            ("prb_data_ring.data", 8),
            ("prb_desc.state_var", 16),
            ("prb_desc.text_blk_lpos", 24),
            ("prb_data_blk_lpos.begin", 0),
            ("prb_data_blk_lpos.next", 8),
            ("printk_info.seq", 0),
            ("printk_info.ts_nsec", 8),
            ("printk_info.text_len", 16),
            ("printk_info.caller_id", 20),
        ] {
            writeln!(keys, "OFFSET({name})={value}").unwrap();
        }
        keys + "SIZE(prb_desc)=40\nSIZE(printk_info)=88\n"
    }

    fn set_ends(&mut self, tail: u64, head: u64) {
        self.ram.put64(RING + 24 + 40, head & IDS);
        self.ram.put64(RING + 24 + 48, tail & IDS);
    }

    fn slot(&self, id: u64) -> usize {
        usize::try_from(id % (1 << self.count_bits)).unwrap()
    }

    fn describe(&mut self, state: u64, ends: (u64, u64), time: u64, text_len: u16, caller: u32) -> u64 {
        let id = self.next_id & IDS;
        let slot = self.slot(id);
        self.next_id = id.wrapping_add(1);
        let (desc, info) = (DESCS + slot * 40, INFOS + slot * 88);
        self.ram.put64(desc + 16, state << 62 | id);
        self.ram.put64(desc + 24, ends.0);
        self.ram.put64(desc + 32, ends.1);
        self.ram.put64(info + 8, time);
        self.ram.put(info + 16, &text_len.to_le_bytes());
        self.ram.put(info + 20, &caller.to_le_bytes());
        id
    }

    /// As `data_alloc()` of kernels up to 6.18 does: a block that ends with the ring goes to its start.
    fn add(&mut self, state: u64, text: &[u8], time: u64, caller: u32) -> u64 {
        let size = 1_u64 << self.size_bits;
        let block = 8 + (text.len() as u64).next_multiple_of(8);
        let begin = self.lpos;
        let mut next = begin.wrapping_add(block);
        let mut at = begin % size;
        if begin / size != next / size {
            next = (next / size) * size + block;
            at = 0;
        }
        self.lpos = next;
        let id = self.describe(state, (begin, next), time, u16::try_from(text.len()).unwrap(), caller);
        self.ram.put64(DATA + usize::try_from(at).unwrap(), id);
        self.ram.put(DATA + usize::try_from(at).unwrap() + 8, text);
        id
    }
}

const SECOND: u64 = 1_000_000_000;

#[test]
fn the_ring_is_read_in_order_and_only_what_is_committed() {
    let mut ring = Ring::new(4, 10, IDS - 2, 0);
    let tail = ring.add(2, b"first", 0, 1);
    ring.add(1, b"second\nits second line\n", 12 * SECOND + 345_678_901, 0x8000_0003);
    ring.add(0, b"reserved, never committed", SECOND, 1);
    ring.add(3, b"already reused", SECOND, 1);
    ring.describe(2, (1, 1), 13 * SECOND, 0, 1);
    let head = ring.add(2, b"tab\tbell\x07 \xc3\xa9\x1b[31m", 123_456 * SECOND, 4_000_000);
    ring.set_ends(tail, head);
    let (log, text, problems) = log_of(&ring.ram, &Ring::keys(), Style::default());
    assert_eq!(
        text,
        "[    0.000000] first\n\
         [   12.345678] second\n               its second line\n\
         [   13.000000] \n\
         [123456.000000] tab\tbell\\x07 \\xc3\\xa9\\x1b[31m\n"
    );
    assert_eq!(log.unwrap().records, 4);
    assert!(problems.is_empty(), "{problems:?}");

    let (_, text, _) = log_of(&ring.ram, &Ring::keys(), Style { callers: true, ..Style::default() });
    let firsts: Vec<_> = text.lines().map(|l| l.get(..24).unwrap_or(l)).collect();
    assert_eq!(firsts[0], "[    0.000000][    T1] f");
    assert_eq!(firsts[1], "[   12.345678][    C3] s");
}

#[test]
fn a_ring_that_turns_many_times() {
    // A kernel's first position is one ring below zero: BLK0_LPOS of printk_ringbuffer.h.
    for first_lpos in [512 * 77, 512_u64.wrapping_neg()] {
        turn_a_ring(first_lpos);
    }
}

fn turn_a_ring(first_lpos: u64) {
    let mut ring = Ring::new(4, 9, 1000, first_lpos);
    let mut all = Vec::new();
    for n in 0..200_u64 {
        let text = format!("line {n} {}", "x".repeat(usize::try_from(n % 40).unwrap()));
        ring.add(2, text.as_bytes(), n * SECOND, 1);
        all.push(text);
        // What the writer holds on to: as many as there are slots and bytes for.
        let fits = 6;
        let tail = ring.next_id.saturating_sub(fits).max(1000);
        ring.set_ends(tail, ring.next_id - 1);
        let (log, text, problems) = log_of(&ring.ram, &Ring::keys(), Style::default());
        let want = &all[all.len().saturating_sub(6)..];
        let seen: Vec<_> = text.lines().map(|l| l.split_once("] ").unwrap().1).collect();
        assert_eq!(seen, want, "after line {n}");
        assert_eq!(log.unwrap().records, want.len() as u64);
        assert!(problems.is_empty(), "{problems:?}");
    }
}

#[test]
fn a_block_that_ends_where_the_ring_does() {
    // As newer kernels write it: begin and next in neighbouring turns, but nothing is wrapped.
    let mut ring = Ring::new(4, 9, 5, 0);
    let id = ring.describe(2, (512 * 3 - 16, 512 * 3), 0, 4, 1);
    ring.ram.put(DATA + 512 - 8, b"last");
    ring.set_ends(id, id);
    let (_, text, problems) = log_of(&ring.ram, &Ring::keys(), Style::default());
    assert_eq!(text, "[    0.000000] last\n");
    assert!(problems.is_empty(), "{problems:?}");
}

#[test]
fn a_damaged_ring_loses_what_is_damaged() {
    let mut ring = Ring::new(4, 10, 1, 0);
    let tail = ring.add(2, b"good", 0, 1);
    ring.describe(2, (0x7000, 0x40), 0, 4, 1);
    ring.describe(2, (u64::MAX - 1, 0), 0, 4, 1);
    let head = ring.add(2, b"good too", 0, 1);
    ring.set_ends(tail, head);
    let (log, text, problems) = log_of(&ring.ram, &Ring::keys(), Style::default());
    assert_eq!(text, "[    0.000000] good\n[    0.000000] good too\n");
    assert_eq!(log.unwrap().records, 2);
    assert_eq!(problems.list()[0].code, Code::LOG_DAMAGED);
    assert!(problems.list()[0].message.contains("2 records"), "{problems:?}");
}

#[test]
fn sizes_that_cannot_be_end_at_once() {
    for (at, value) in [(RING + 24 + 8, 27_u32), (RING + 24 + 8, u32::MAX), (RING + 96 + 4, 32)] {
        let mut ring = Ring::new(4, 10, 1, 0);
        ring.ram.put(at, &value.to_le_bytes());
        let (log, text, _) = log_of(&ring.ram, &Ring::keys(), Style::default());
        assert!(matches!(log, Err(LogError::Impossible { .. })), "{log:?}");
        assert_eq!(text, "");
    }
    // The largest believed size, and nothing behind it: given up soon.
    let mut ring = Ring::new(4, 10, 1, 0);
    ring.ram.put(RING + 24 + 8, &26_u32.to_le_bytes());
    ring.ram.put64(RING + 24 + 16, 0xffff_c000_0000_0000);
    ring.set_ends(0, IDS);
    let (log, _, problems) = log_of(&ring.ram, &Ring::keys(), Style::default());
    assert_eq!(log.unwrap().records, 0);
    assert!(problems.list()[0].message.contains("reading stopped"), "{problems:?}");
}

#[test]
fn a_missing_key_is_named() {
    let all = Ring::keys();
    let ring = Ring::new(4, 10, 1, 0);
    for missing in ["OFFSET(printk_info.text_len)", "SIZE(prb_desc)", "OFFSET(prb_desc_ring.tail_id)"] {
        let keys: String = all.lines().filter(|l| !l.starts_with(missing)).flat_map(|l| [l, "\n"]).collect();
        let (log, _, _) = log_of(&ring.ram, &keys, Style::default());
        assert!(log.unwrap_err().to_string().contains(missing), "{missing}");
    }
    let (log, _, _) = log_of(&ring.ram, "OSRELEASE=2.6.32\n", Style::default());
    assert!(matches!(log, Err(LogError::NoKeys)));
}

/// The buffer of records: header of 16 bytes (ts_nsec, len, text_len, dict_len), 20 with a caller.
fn records(name: &str, size: u32, first: u32, next: u32, with_caller: bool) -> (Ram, String) {
    let mut ram = Ram(vec![0; 0x1000 + 0x400]);
    ram.put64(0, BASE + 0x1000);
    ram.put(8, &size.to_le_bytes());
    ram.put(16, &first.to_le_bytes());
    ram.put(24, &next.to_le_bytes());
    let mut keys = String::new();
    for (symbol, at) in [("log_buf", 0), ("log_buf_len", 8), ("log_first_idx", 16), ("log_next_idx", 24)] {
        writeln!(keys, "SYMBOL({symbol})={:x}", BASE + at).unwrap();
    }
    let header = if with_caller { 20 } else { 16 };
    writeln!(keys, "SIZE({name})={header}\nOFFSET({name}.ts_nsec)=0\nOFFSET({name}.len)=8").unwrap();
    writeln!(keys, "OFFSET({name}.text_len)=10\nOFFSET({name}.dict_len)=12").unwrap();
    if with_caller {
        writeln!(keys, "OFFSET({name}.caller_id)=16").unwrap();
    }
    (ram, keys)
}

fn put_record(ram: &mut Ram, at: usize, time: u64, text: &[u8], header: usize) -> usize {
    let len = (header + text.len() + 3).next_multiple_of(4);
    ram.put64(0x1000 + at, time);
    ram.put(0x1000 + at + 8, &u16::try_from(len).unwrap().to_le_bytes());
    ram.put(0x1000 + at + 10, &u16::try_from(text.len()).unwrap().to_le_bytes());
    if header == 20 {
        ram.put(0x1000 + at + 16, &7_u32.to_le_bytes());
    }
    ram.put(0x1000 + at + header, text);
    at + len
}

#[test]
fn records_are_read_across_the_end_of_the_buffer() {
    for (name, with_caller) in [("log", false), ("printk_log", false), ("printk_log", true)] {
        let header = if with_caller { 20 } else { 16 };
        let (mut ram, keys) = records(name, 0x200, 0x1a0, 0, with_caller);
        put_record(&mut ram, 0x1a0, 0, b"old\nsecond", header);
        let end = put_record(&mut ram, 0, SECOND, b"new", header);
        ram.put(24, &u32::try_from(end).unwrap().to_le_bytes());
        let (log, text, problems) = log_of(&ram, &keys, Style::default());
        assert_eq!(text, "[    0.000000] old\n               second\n[    1.000000] new\n", "{name}");
        assert_eq!(log.unwrap().records, 2);
        assert!(problems.is_empty(), "{problems:?}");
        let (_, text, _) = log_of(&ram, &keys, Style { callers: true, ..Style::default() });
        assert_eq!(text.contains("[    T7] new"), with_caller, "{name}");
    }
}

#[test]
fn records_that_make_no_sense_end_the_log() {
    // A length below the header's, one past the end, a next_idx that no record ends at, no record at all.
    for bad in [4_u16, 0x400, 0xffff, 0] {
        let (mut ram, keys) = records("printk_log", 0x200, 0, 0x1f0, false);
        let end = put_record(&mut ram, 0, 0, b"good", 16);
        ram.put(0x1000 + end + 8, &bad.to_le_bytes());
        let (log, text, problems) = log_of(&ram, &keys, Style::default());
        assert!(text.starts_with("[    0.000000] good\n"), "{bad:#x}");
        assert!(log.unwrap().records < 40, "{bad:#x}");
        assert_eq!(problems.list()[0].code, Code::LOG_DAMAGED, "{bad:#x}");
    }
    for (first, next, size) in [(0x201, 0, 0x200), (0, 0x201, 0x200), (0, 4, u32::MAX)] {
        let (ram, keys) = records("printk_log", size, first, next, false);
        assert!(matches!(log_of(&ram, &keys, Style::default()).0, Err(LogError::Impossible { .. })));
    }
}

#[test]
fn an_output_that_fails_is_an_error() {
    struct Full;
    impl io::Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut ring = Ring::new(4, 10, 1, 0);
    let id = ring.add(2, b"x", 0, 1);
    ring.set_ends(id, id);
    let info = VmcoreInfo::parse(Ring::keys().as_bytes());
    let failed = write(&ring.ram, &info, Style::default(), &mut Full, &mut Problems::new());
    assert!(matches!(failed, Err(LogError::Output(_))));
}

#[test]
fn a_log_that_was_cleared_begins_there_when_asked() {
    let mut ring = Ring::new(4, 10, 5, 0);
    let texts = ["one", "two", "three"];
    let ids = texts.map(|text| ring.add(2, text.as_bytes(), 0, 1));
    for (seq, id) in ids.iter().enumerate() {
        let info = INFOS + ring.slot(*id) * 88;
        ring.ram.put64(info, 100 + seq as u64);
    }
    ring.set_ends(ids[0], ids[2]);
    let partial = Style { since_clear: true, ..Style::default() };
    // As plain number, and as two numbers of which the first or the second is valid.
    ring.ram.put64(0x60, 101);
    let symbol = format!("{}SYMBOL(clear_seq)={:x}\n", Ring::keys(), BASE + 0x60);
    let lines = |ring: &Ring, keys: &str| log_of(&ring.ram, keys, partial).1.lines().count();
    assert_eq!(lines(&ring, &symbol), 2);
    let latched = format!("{symbol}OFFSET(latched_seq.val)=8\n");
    for (which, seq, want) in [(6, [102, 0], 1), (7, [0, 101], 2), (0, [0, 102], 3), (0, [103, 0], 0)] {
        ring.ram.put64(0x60, which);
        ring.ram.put64(0x68, seq[0]);
        ring.ram.put64(0x70, seq[1]);
        assert_eq!(lines(&ring, &latched), want, "{which} {seq:?}");
    }
    let missing = log_of(&ring.ram, &Ring::keys(), partial).0;
    assert!(matches!(missing, Err(LogError::MissingKey(key)) if key.contains("clear_seq")));

    // Records: from clear_idx, unless that has been overwritten since.
    let (mut ram, keys) = records("printk_log", 0x200, 0, 0, false);
    let second = put_record(&mut ram, 0, 0, b"one", 16);
    let end = put_record(&mut ram, second, 0, b"two", 16);
    ram.put(24, &u32::try_from(end).unwrap().to_le_bytes());
    let keys = format!("{keys}SYMBOL(clear_idx)={:x}\n", BASE + 32);
    for (cleared, want) in [(0, 2), (second, 1), (end, 0), (0x1f0, 2)] {
        ram.put(32, &u32::try_from(cleared).unwrap().to_le_bytes());
        assert_eq!(log_of(&ram, &keys, partial).1.lines().count(), want, "{cleared:#x}");
    }
}

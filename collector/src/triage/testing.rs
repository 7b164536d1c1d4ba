//! A kernel of some pages for tests, which fuzzing spoils too: symbols, types, ORC tables, a CPU and three tasks.

use crate::addr::VirtAddr;
use crate::kernel::printk::Memory;
use crate::kernel::testing::{Ram, Stored, Types, put_symbols};
use crate::vmcore::{Endian, ReadError, VmcoreInfo};

pub(crate) const TEXT: u64 = 0xffff_ffff_8100_0000;
pub(crate) const DATA: u64 = TEXT + 0x1000;
const ORC: u64 = TEXT + 0x3000;
const BTF: u64 = TEXT + 0x4000;
const CLOCK: u64 = DATA + 0x1000;
const POOL: u64 = DATA + 0x1100;
const TABLES: u64 = TEXT + 0x8000;
pub(crate) const HEAP: u64 = 0xffff_8880_0000_0000;
pub(crate) const STACKS: u64 = HEAP + 0x10_0000;
const CPU: u64 = HEAP + 0x20_0000;

/// Three tasks: what the CPU does when idle, one that sleeps, one that sleeps in a function that never returns.
pub(crate) const TASKS: [u64; 3] = [DATA + 0x100, HEAP + 0x100, HEAP + 0x300];

/// Memory that is quick to read, and to spoil.
#[derive(Clone)]
pub(crate) struct Flat {
    /// Address and bytes of each, ascending.
    pub pages: Vec<(u64, Vec<u8>)>,
}

impl Memory for Flat {
    fn read(&self, at: VirtAddr, buf: &mut [u8]) -> Result<(), ReadError> {
        let (mut at, mut rest) = (at.get(), buf);
        while !rest.is_empty() {
            let none = || ReadError::NotMapped { at: VirtAddr::new(at), why: "test".to_owned() };
            let index = self.pages.binary_search_by_key(&(at & !4095), |p| p.0).map_err(|_| none())?;
            let page = &self.pages[index].1[usize::try_from(at & 4095).unwrap()..];
            let take = page.len().min(rest.len());
            let (now, later) = rest.split_at_mut(take);
            now.copy_from_slice(&page[..take]);
            rest = later;
            at = at.wrapping_add(take as u64);
        }
        Ok(())
    }
    fn endian(&self) -> Endian {
        Endian::Little
    }
}

fn types() -> Types {
    let mut t = Types::new();
    let int = t.int("unsigned int", 4);
    let long = t.int("long unsigned int", 8);
    let letter = t.int("char", 1);
    let name = t.array(letter, 16);
    let head = t.next();
    t.composite(4, "list_head", 16, &[("next", head + 1, 0), ("prev", head + 1, 8)]);
    t.pointer(head);
    let thread = t.composite(4, "thread_struct", 16, &[("sp", long, 8)]);
    let info = t.composite(4, "thread_info", 16, &[("flags", long, 0), ("cpu", int, 8)]);
    t.composite(
        4,
        "task_struct",
        256,
        &[
            ("thread_info", info, 0),
            ("__state", int, 16),
            ("exit_state", int, 20),
            ("pid", int, 24),
            ("tgid", int, 28),
            ("comm", name, 32),
            ("tasks", head, 48),
            ("thread_node", head, 64),
            ("signal", long, 80),
            ("real_parent", long, 88),
            ("mm", long, 96),
            ("stack", long, 104),
            ("thread", thread, 112),
        ],
    );
    t.composite(4, "signal_struct", 32, &[("thread_head", head, 8)]);
    t.composite(4, "rq", 32, &[("curr", long, 0), ("idle", long, 8)]);
    t.composite(4, "inactive_task_frame", 16, &[("bp", long, 0), ("ret_addr", long, 8)]);
    let short = t.int("short int", 2);
    t.bits(
        "orc_entry",
        6,
        &[
            ("sp_offset", short, 0, 0),
            ("bp_offset", short, 16, 0),
            ("sp_reg", int, 32, 4),
            ("bp_reg", int, 36, 4),
            ("type", int, 40, 3),
            ("signal", int, 43, 1),
        ],
    );
    let layout =
        t.composite(4, "module_layout", 16, &[("base", long, 0), ("size", int, 8), ("text_size", int, 12)]);
    t.composite(
        4,
        "module",
        128,
        &[
            ("list", head, 0),
            ("name", name, 16),
            ("core_layout", layout, 32),
            ("init_layout", layout, 48),
            ("taints", long, 64),
        ],
    );
    let fields = ["status", "misc", "addr", "mcgstatus", "ip", "tsc", "time"];
    let mut record: Vec<_> = (0..).step_by(8).zip(fields).map(|(at, name)| (name, long, at)).collect();
    record.extend([("cpuvendor", letter, 56), ("bank", letter, 57), ("extcpu", int, 60)]);
    let record = t.composite(4, "mce", 64, &record);
    t.composite(4, "mce_evt_llist", 72, &[("llnode", long, 0), ("mce", record, 8)]);
    t.composite(4, "gen_pool", 24, &[("chunks", head, 0), ("min_alloc_order", int, 16)]);
    let bits = t.array(long, 0);
    let chunk =
        [("next_chunk", head, 0), ("start_addr", long, 16), ("end_addr", long, 24), ("bits", bits, 32)];
    t.composite(4, "gen_pool_chunk", 32, &chunk);
    t.composite(4, "seqcount_t", 4, &[("sequence", int, 0)]);
    let read =
        t.composite(4, "tk_read_base", 24, &[("base", long, 0), ("xtime_nsec", long, 8), ("shift", int, 16)]);
    let time = t.composite(4, "timespec64", 16, &[("tv_sec", long, 0), ("tv_nsec", long, 8)]);
    let keeper = [
        ("tkr_mono", read, 0),
        ("xtime_sec", long, 24),
        ("wall_to_monotonic", time, 32),
        ("offs_boot", long, 48),
    ];
    t.composite(4, "timekeeper", 56, &keeper);
    t.enumeration("zone_stat_item", &[("NR_FREE_PAGES", 0), ("NR_LAST", 7)]);
    t
}

/// `renumbered`: ORC's registers are as since v7.1.
pub(crate) fn kernel(renumbered: bool) -> (Flat, VmcoreInfo) {
    let mut ram = Ram::new(Endian::Little);
    ram.put(TEXT, &[0x90; 4096]);
    // work_b calls never_returns.
    ram.put(TEXT + 0x216, &[0xe8, 0xe5, 0x02, 0, 0]);
    ram.put(DATA, &[0; 0x2000]);
    ram.put(HEAP, &[0; 4096]);
    ram.put(STACKS, &[0; 0x4000]);
    ram.put(CPU, &[0; 4096]);
    let (sp, previous) = if renumbered { (3, 8) } else { (5, 1) };
    let call = |sp_offset: u16, bp: u16, bp_offset: i16| {
        (sp_offset, bp_offset.cast_unsigned(), sp | bp << 4 | 2 << 8)
    };
    let entries = [
        (0, (0, 0, 0)),
        (0x100, call(16, 0, 0)),
        (0x200, call(8, 0, 0)),
        (0x300, call(24, previous, -16)),
        (0x400, (0, 0, 1 << 8)),
        (0x500, (0, 0, 0)),
        (0x600, call(8, 0, 0)),
        (0x700, (0, 0, 0)),
    ];
    for (index, (code, (sp_offset, bp_offset, flags))) in entries.into_iter().enumerate() {
        let at = ORC + index as u64 * 4;
        ram.put32(at, u32::try_from((TEXT + code).wrapping_sub(at) & 0xffff_ffff).unwrap());
        let at = ORC + 0x100 + index as u64 * 6;
        for (word, skip) in [sp_offset, bp_offset, flags].into_iter().zip([0, 2, 4]) {
            ram.put16(at + skip, word);
        }
    }
    for (index, task) in TASKS.into_iter().enumerate() {
        let index = index as u64;
        let signal = DATA + 0x800 + index * 64;
        ram.put32(task + 16, u32::try_from(index).unwrap());
        for at in [24, 28] {
            ram.put32(task + at, u32::try_from(index).unwrap());
        }
        ram.put(task + 32, [&b"swapper/0"[..], b"sleeper", b"never"][usize::try_from(index).unwrap()]);
        let (next, before) = (
            TASKS[usize::try_from((index + 1) % 3).unwrap()],
            TASKS[usize::try_from((index + 2) % 3).unwrap()],
        );
        ram.put64(task + 48, next + 48);
        ram.put64(task + 56, before + 48);
        for at in [task + 64, task + 72] {
            ram.put64(at, signal + 8);
        }
        for at in [signal + 8, signal + 16] {
            ram.put64(at, task + 64);
        }
        ram.put64(task + 80, signal);
        ram.put64(task + 88, TASKS[0]);
        ram.put64(task + 104, STACKS + index * 0x1000);
        ram.put64(task + 120, STACKS + index * 0x1000 + 0x800);
    }
    let words = |ram: &mut Ram, at: u64, words: &[u64]| {
        for (index, word) in words.iter().enumerate() {
            ram.put64(at + index as u64 * 8, *word);
        }
    };
    let (a, b, c, start) = (TEXT + 0x110, TEXT + 0x210, TEXT + 0x310, TEXT + 0x410);
    words(&mut ram, STACKS + 0x1800, &[0, a, 7, b, c, 7, 0xb9, start]);
    words(&mut ram, STACKS + 0x2800, &[0, TEXT + 0x510, a, TEXT + 0x21b, c, 7, 0xb9, start]);
    words(&mut ram, CPU, &[TASKS[0], 0, TASKS[0], TASKS[0]]);
    words(&mut ram, DATA + 0x40, &[CPU]);
    ram.put32(DATA + 0x48, 1);
    words(&mut ram, DATA + 0x50, &[DATA + 0x50, DATA + 0x50]);
    // A clock at 12.5 s that slept for 1 s; a machine check that a CPU was in, and a corrected one that waits in the pool.
    let second = 1_000_000_000;
    words(&mut ram, CLOCK + 8, &[12 * second, (second / 2) << 8, 8, 1012, u64::MAX - 999, 0, second]);
    words(&mut ram, CPU + 0x40, &[0xbe00_0000_0000_0135, 0x8c, 0x123_4000, 5, 0, 7, 6, 4 << 8]);
    ram.put32(CPU + 0x90, 1);
    words(&mut ram, DATA + 0x60, &[POOL]);
    words(&mut ram, POOL, &[POOL + 0x40, POOL + 0x40, 7]);
    words(&mut ram, POOL + 0x40, &[POOL, POOL, POOL + 0x100, POOL + 0x2ff, 0b1010]);
    words(&mut ram, POOL + 0x188, &[0x9400_0000_0000_009f, 0, 0x5000, 0, 0, 0, 5, 7 << 8 | 3 << 32]);
    let len = types().put(&mut ram, BTF);
    let symbols = [
        ("A__per_cpu_start", 0),
        ("Acurrent_task", 0),
        ("Arunqueues", 0x10),
        ("Amces_seen", 0x40),
        ("Amce_exception_count", 0x90),
        ("A__per_cpu_end", 0x100),
        ("T_stext", TEXT),
        ("Twork_a", TEXT + 0x100),
        ("Twork_b", TEXT + 0x200),
        ("Twork_c", TEXT + 0x300),
        ("Tstart_thread", TEXT + 0x400),
        ("Tnever_returns", TEXT + 0x500),
        ("Tpanic", TEXT + 0x600),
        ("T_etext", TEXT + 0x700),
        ("D__per_cpu_offset", DATA + 0x40),
        ("Dnr_cpu_ids", DATA + 0x48),
        ("Dmodules", DATA + 0x50),
        ("Bmce_evt_pool", DATA + 0x60),
        ("Dinit_task", TASKS[0]),
        ("Dtk_core", CLOCK),
        ("R__start_orc_unwind_ip", ORC),
        ("R__stop_orc_unwind_ip", ORC + entries.len() as u64 * 4),
        ("R__start_orc_unwind", ORC + 0x100),
        ("R__start_BTF", BTF),
        ("R__stop_BTF", BTF + len),
        ("B_end", TABLES),
    ];
    let tables = put_symbols(&mut ram, TABLES, &symbols, Stored::AbsolutePercpu, true);
    let info = VmcoreInfo::parse(format!("SYMBOL(_stext)={TEXT:x}\n{tables}").as_bytes());
    let ranges = [(TEXT, 0x20_0000), (HEAP, 4096), (STACKS, 0x4000), (CPU, 4096)];
    let mut pages = Vec::new();
    for (start, len) in ranges {
        for at in (start..start + len).step_by(4096) {
            let mut page = vec![0; 4096];
            if ram.read(VirtAddr::new(at), &mut page).is_ok() {
                pages.push((at, page));
            }
        }
    }
    pages.sort();
    (Flat { pages }, info)
}

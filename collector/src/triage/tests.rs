use super::stack::{End, How};
use super::*;
use crate::addr::VirtAddr;
use crate::kernel::testing::{Ram, Stored, Types, put_symbols};
use crate::vmcore::{EM_X86_64, ReadError};
use std::time::{Duration, Instant};

const TEXT: u64 = 0xffff_ffff_8100_0000;
const DATA: u64 = TEXT + 0x1000;
const ORC: u64 = TEXT + 0x3000;
const BTF: u64 = TEXT + 0x4000;
const TABLES: u64 = TEXT + 0x8000;
const HEAP: u64 = 0xffff_8880_0000_0000;
const STACKS: u64 = HEAP + 0x10_0000;
const CPU: u64 = HEAP + 0x20_0000;

/// Three tasks: what the CPU does when idle, one that sleeps, one that sleeps in a function that never returns.
const TASKS: [u64; 3] = [DATA + 0x100, HEAP + 0x100, HEAP + 0x300];

/// Memory that is quick to read, and to spoil.
struct Flat {
    pages: Vec<(u64, Vec<u8>)>,
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
    t.enumeration("zone_stat_item", &[("NR_FREE_PAGES", 0), ("NR_LAST", 7)]);
    t
}

/// `renumbered`: ORC's registers are as since v7.1.
fn kernel(renumbered: bool) -> (Flat, VmcoreInfo) {
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
    let len = types().put(&mut ram, BTF);
    let symbols = [
        ("A__per_cpu_start", 0),
        ("Acurrent_task", 0),
        ("Arunqueues", 0x10),
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
        ("Dinit_task", TASKS[0]),
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

fn ask<T>(memory: &Flat, info: &VmcoreInfo, step: impl FnOnce(&Dead<'_>) -> T) -> T {
    let pages = Pages::new(memory, Budget::new(Some(Duration::from_secs(2))));
    step(&Dead::open(
        &pages,
        About { info, machine: EM_X86_64, page: 4096, prstatus: Vec::new(), live: false },
    ))
}

#[test]
fn names_types_lists_and_cpus() {
    let (memory, info) = kernel(false);
    ask(&memory, &info, |dead| {
        assert_eq!(dead.symbol("work_b"), Ok(TEXT + 0x200));
        assert!(dead.symbol("work_d").is_err());
        assert_eq!(dead.spot(TEXT + 0x234).unwrap().to_string(), "work_b+0x34/0x100");
        assert_eq!(dead.spot(HEAP), None);
        assert!(dead.is_text(TEXT + 0x6ff) && !dead.is_text(TEXT + 0x700));
        assert_eq!(dead.member("task_struct", "thread.sp").unwrap().offset, 120);
        assert_eq!(dead.member("orc_entry", "bp_reg").unwrap().bits, Some((4, 4)));
        assert!(!dead.has("task_struct", "state") && dead.has("task_struct", "comm[3]"));
        assert!(!dead.has("task_struct", "comm[16]"));
        assert_eq!((dead.enumerator("NR_LAST"), dead.size_of("rq")), (Ok(7), Ok(32)));
        assert_eq!(dead.text(TASKS[1], "task_struct", "comm").unwrap(), "sleeper");
        assert_eq!((dead.possible_cpus(), dead.current(0)), (Ok(&[0][..]), Ok(TASKS[0])));
        assert!(dead.percpu(1, 0).is_err());
        let tasks = dead.tasks();
        let seen: Vec<_> =
            tasks.iter().map(|t| (t.pid, t.comm.as_str(), t.state.letters(), t.running)).collect();
        assert_eq!(
            seen,
            [(0, "swapper/0", "RU", true), (1, "sleeper", "IN", false), (2, "never", "UN", false)]
        );
        assert_eq!((dead.modules(), dead.unknown()), (Vec::new(), Vec::<String>::new()));
    });
}

#[test]
fn stacks_by_orc_of_either_numbering_and_by_calls() {
    for renumbered in [false, true] {
        let (memory, info) = kernel(renumbered);
        ask(&memory, &info, |dead| {
            let stack = dead.stack(TASKS[1]).unwrap();
            assert_eq!(stack.functions(), ["work_a", "work_b", "work_c", "start_thread"], "{stack:#x?}");
            assert_eq!(stack.end, End::Bottom);
            assert_eq!(stack.frames[1].to_string(), "work_b+0x10/0x100");
            let never = dead.stack(TASKS[2]).unwrap();
            assert_eq!(never.functions(), ["never_returns", "work_b", "work_c", "start_thread"]);
            assert_eq!(never.frames[1].how, How::CallVerified);
            assert!(dead.stack(TASKS[0]).is_err(), "there are no registers");
        });
    }
}

#[test]
fn a_list_that_runs_in_a_circle_ends_and_is_told() {
    let (mut memory, info) = kernel(false);
    let (_, page) = memory.pages.iter_mut().find(|(at, _)| *at == HEAP).unwrap();
    // The last task's next is itself.
    page[0x330..0x338].copy_from_slice(&(TASKS[2] + 48).to_le_bytes());
    ask(&memory, &info, |dead| {
        assert_eq!(dead.tasks().len(), 3);
        let unknown = dead.unknown();
        assert!(unknown.iter().any(|u| u.contains("circle")), "{unknown:?}");
    });
}

/// xorshift64*: the same numbers each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(high).unwrap() % below
    }
}

/// Bits flipped, words moved to where others were, words that are extreme: lists in circles, torn tables, wild stack
/// pointers. Whatever is asked then ends in time, with an answer or without one.
#[test]
fn ten_thousand_spoilt_kernels_end_in_time() {
    let mut dice = Dice(0x5eed_5eed_5eed_5eed);
    let start = Instant::now();
    let (mut tasks, mut frames, mut unknown) = (0_u64, 0_u64, 0_u64);
    let (mut memory, info) = kernel(false);
    for run in 0..10_000 {
        let mut undo = Vec::new();
        for _ in 0..=dice.roll(6) {
            let page = dice.roll(memory.pages.len());
            let word = dice.roll(512) * 8;
            let from = (dice.roll(memory.pages.len()), dice.roll(512) * 8);
            let moved: [u8; 8] = memory.pages[from.0].1[from.1..from.1 + 8].try_into().unwrap();
            let extreme = [0, 1, u64::MAX, 1 << 63, HEAP, STACKS + 0xfff][dice.roll(6)];
            let (kind, bit) = (dice.roll(3), dice.roll(64));
            let place = &mut memory.pages[page].1[word..word + 8];
            let old = u64::from_le_bytes((&*place).try_into().unwrap());
            let new = match kind {
                0 => old ^ 1 << bit,
                1 => u64::from_le_bytes(moved),
                _ => extreme,
            };
            place.copy_from_slice(&new.to_le_bytes());
            undo.push((page, word, old));
        }
        let one = Instant::now();
        ask(&memory, &info, |dead| {
            for task in dead.tasks().iter().take(16) {
                tasks += 1;
                if let Ok(stack) = dead.stack(task.at) {
                    frames += stack.frames.len() as u64;
                }
                let _ = dead.code(task.at);
            }
            let _ = (dead.modules(), dead.panic_cpu(), dead.taint(), dead.symbols_named("panic"));
            unknown += dead.unknown().len() as u64;
        });
        assert!(one.elapsed() < Duration::from_secs(5), "run {run} took {:?}", one.elapsed());
        for (page, word, old) in undo.into_iter().rev() {
            memory.pages[page].1[word..word + 8].copy_from_slice(&old.to_le_bytes());
        }
    }
    // Most of it was still there, and some was not.
    assert!(tasks > 10_000 && frames > 10_000 && unknown > 100, "{tasks} {frames} {unknown}");
    println!("{tasks} tasks, {frames} frames, {unknown} unknown in {:?}", start.elapsed());
}

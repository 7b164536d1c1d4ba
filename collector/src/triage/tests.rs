use super::stack::{End, How};
use super::testing::{Flat, HEAP, STACKS, TASKS, TEXT, kernel};
use super::*;
use crate::manifest::CrashedKernel;
use crate::report::{Report, html, text};
use crate::vmcore::EM_X86_64;
use std::time::{Duration, Instant};

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
fn the_clock_and_what_the_hardware_reported() {
    let (memory, info) = kernel(false);
    ask(&memory, &info, |dead| {
        let report = Report::of(dead, CrashedKernel::default());
        assert_eq!(report.uptime_us, Some(13_500_000));
        assert_eq!(report.machine_checks.exceptions, 1);
        let shown: Vec<_> =
            report.machine_checks.records.iter().map(|r| (r.exception, r.to_string())).collect();
        let wanted = [
            (
                true,
                "CPU 0, bank 4: uncorrected, processor context corrupt: data cache of level 1, a data read, at \
                 physical address 0x1234000",
            ),
            (false, "CPU 3, bank 7: corrected: memory controller, a read, at physical address 0x5000"),
        ];
        assert_eq!(shown, wanted.map(|(exception, line)| (exception, line.to_owned())));
        assert_eq!(report.verdict.evidence[2..4], [wanted[0].1, wanted[1].1].map(str::to_owned));
        let said = text::text(&report);
        assert!(
            said.contains("== hardware errors ==") && said.contains("status 0xbe00000000000135, misc 0x8c"),
            "{said}"
        );
        let unknown = dead.unknown();
        assert!(!unknown.iter().any(|u| u.contains("machine checks") || u.contains("uptime")), "{unknown:?}");
    });
    // A clock whose two ways to say the same differ is none.
    let mut memory = memory;
    let (_, page) = memory.pages.iter_mut().find(|(at, _)| *at == TEXT + 0x2000).unwrap();
    page[8] ^= 1;
    ask(&memory, &info, |dead| {
        assert_eq!(Report::of(dead, CrashedKernel::default()).uptime_us, None);
        assert!(
            dead.unknown().iter().any(|u| u.contains("clock contradicts itself")),
            "{:?}",
            dead.unknown()
        );
    });
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
            let report = Report::of(dead, CrashedKernel::default());
            let said = text::text(&report);
            assert!(
                said.len() <= text::MAX && said.lines().all(|line| line.chars().count() <= 100),
                "{said}"
            );
            assert_eq!(said.contains("== not known"), !report.unknown.is_empty(), "{said}");
            let _ = (report.json(), html::html(&report, None));
            unknown += report.unknown.len() as u64;
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

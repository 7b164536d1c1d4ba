//! Machines of hundreds of GiB as sparse files, to measure how fast mem_map is scanned.
//!
//! All of mem_map would be 16 GiB for 1 TiB of RAM. Here vmemmap's 2 MiB leaves, each the struct pages of a section of
//! 128 MiB, map one after the other to [`FRAMES`] frames that hold different sections each: more than a CPU's cache,
//! little enough for a page cache. RAM itself is a hole in the file. What a section holds is known when it is made, so
//! that the numbers of pages of each class are known for the whole machine.

use super::builder::Builder;
use super::elf::{self, Load};
use super::era::Era;
use super::expect::{Why, verdict};
use super::index;
use super::info::vmcoreinfo;
use super::memory::{Leaf, Order, PAGE};
use super::page::{Kind, USUAL};
use super::spec::{KERNEL_RAM, Spec};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Different sections that there are; one more holds nothing but the kernel's pages.
pub const FRAMES: u64 = 63;
/// Pages of a section, whose struct pages are one leaf of vmemmap.
const SECTION: u64 = 1 << 15;
/// Where the frames lie in physical memory: the machine's third section.
const FRAMES_AT: u64 = 2 * SECTION * PAGE;
const LEAF: u64 = 2 << 20;
const GIB: u64 = 1 << 30;

/// What the memory is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mix {
    /// Mostly free, in blocks of the largest order.
    Idle,
    /// Free blocks, huge pages and single pages by turns.
    Mixed,
    /// In use to the last page, single pages of changing kinds: the worst for a scan.
    Busy,
}

impl Mix {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Idle, Self::Mixed, Self::Busy];

    /// `idle`, `mixed`, `busy`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Mixed => "mixed",
            Self::Busy => "busy",
        }
    }

    /// Of 100 stretches of 1024 pages, how many are: free in one block, free in smaller ones, huge pages, large
    /// folios of the page cache. The others are single pages.
    fn weights(self) -> [u64; 4] {
        match self {
            Self::Idle => [90, 3, 3, 1],
            Self::Mixed => [30, 10, 25, 5],
            Self::Busy => [0, 1, 1, 2],
        }
    }
}

/// A machine.
#[derive(Clone, Copy, Debug)]
pub struct Giant {
    /// GiB of RAM, more than 4.
    pub gib: u64,
    /// What it is used for.
    pub mix: Mix,
}

/// What is true of the file.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Truth {
    /// Pages that the machine has.
    pub present: u64,
    /// Pages dropped at level 31, but for zeros, by reason.
    pub dropped: BTreeMap<Why, u64>,
}

impl Truth {
    /// Pages of a class.
    pub fn of(&self, why: Why) -> u64 {
        self.dropped.get(&why).copied().unwrap_or(0)
    }
    /// The first of makedumpfile's numbers (`--message-level 16`) that is another: what it counts, and its number.
    pub fn disagrees(&self, said: &str) -> Option<String> {
        const LINES: [(Why, &str); 4] = [
            (Why::Cache, "Non-private cache pages"),
            (Why::CachePrivate, "Private cache pages"),
            (Why::User, "User process data pages"),
            (Why::Free, "Free pages"),
        ];
        let number = |name: &str| {
            let line = said.lines().find_map(|l| l.trim().strip_prefix(name))?;
            u64::from_str_radix(line.rsplit_once("0x")?.1.trim(), 16).ok()
        };
        let wrong = LINES.into_iter().find(|(why, name)| number(name) != Some(self.of(*why)));
        wrong.map(|(why, name)| format!("{name}: {:x?} instead of {:#x}", number(name), self.of(why)))
    }
}

/// xorshift64: the same file each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }
}

/// What 128 MiB hold: blocks that follow each other.
fn section(mix: Mix, dice: &mut Dice) -> Vec<Kind> {
    let mut kinds = Vec::new();
    for _ in 0..SECTION >> 10 {
        let mut draw = dice.below(100);
        let chosen = mix.weights().iter().position(|weight| {
            let hit = draw < *weight;
            draw = draw.saturating_sub(*weight);
            hit
        });
        match chosen {
            Some(0) => kinds.push(Kind::Buddy(10)),
            Some(1) => fill(&mut kinds, dice, |dice, room| {
                Kind::Buddy(u32::try_from(dice.below(room + 1)).unwrap_or(0))
            }),
            Some(2) => kinds.extend([Kind::Thp(9), Kind::Thp(9)]),
            Some(3) => kinds.extend([Kind::LargeCache(4); 64]),
            _ => {
                let mut last = Kind::Anon;
                fill(&mut kinds, dice, |dice, room| {
                    // Neighbours tend to be alike.
                    if last.order() > 0 || dice.below(8) == 0 {
                        last = single(dice);
                    }
                    if u64::from(last.order()) > room { Kind::Anon } else { last }
                });
            }
        }
    }
    kinds
}

/// A page or a small block, about as often as a machine in use has them.
fn single(dice: &mut Dice) -> Kind {
    // A machine in use has more slab and tables: here they would be pages to read, and what is measured is the scan.
    if dice.below(4000) == 0 {
        let kinds = [Kind::PageTable, Kind::Slab(0), Kind::Slab(1), Kind::Slab(3), Kind::Kernel];
        return kinds[index(dice.below(5))];
    }
    match dice.below(1000) {
        0..420 => Kind::Anon,
        420..720 => Kind::Cache,
        720..840 => Kind::CachePrivate,
        840..900 => Kind::Shmem,
        900..940 => Kind::Buddy(0),
        940..955 => Kind::Buddy(1),
        955..965 => Kind::Buddy(3),
        965..980 => Kind::LargeCache(2),
        _ => Kind::AnonSwap,
    }
}

/// 1024 pages of blocks that `next` chooses; it is told the largest order that has room.
fn fill(kinds: &mut Vec<Kind>, dice: &mut Dice, mut next: impl FnMut(&mut Dice, u64) -> Kind) {
    let mut at = 0_u64;
    while at < 1024 {
        let room = (at | 1024).trailing_zeros().min(9);
        let kind = next(dice, room.into());
        kinds.push(kind);
        at += 1 << kind.order();
    }
}

/// The struct pages of a section, and how many of its pages are dropped at level 30.
fn frame(kinds: &[Kind], era: &Era) -> (Vec<u8>, BTreeMap<Why, u64>) {
    let mut bytes = Vec::with_capacity(index(LEAF));
    let mut dropped = BTreeMap::new();
    for kind in kinds {
        let head = 0xffff_ea00_0000_0000 + bytes.len() as u64;
        for at in 0..1_u64 << kind.order() {
            bytes.extend(kind.encode(era, &USUAL, Order::Little, at, head));
        }
        if let Some(why) = verdict(kind.class(), false, 31) {
            *dropped.entry(why).or_default() += 1 << kind.order();
        }
    }
    assert_eq!(bytes.len() as u64, LEAF, "a section");
    (bytes, dropped)
}

impl Giant {
    /// Writes the vmcore of a Linux 6.1 and says what is in it.
    pub fn write(&self, path: &Path) -> io::Result<Truth> {
        assert!(self.gib > 4, "a giant");
        let era = Era::named("6.1");
        let mut spec = Spec::new(era);
        spec.leaf = Leaf::Large;
        let (low, high) = ((0x1000, 0x9_f000), (4 * GIB, (self.gib + 1) * GIB));
        spec.ram = vec![low, (0x10_0000, KERNEL_RAM.0), (KERNEL_RAM.1, 3 * GIB), high];
        let mut builder = Builder::new(&spec);
        builder.direct_map();
        builder.mem_section_array();

        let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
        let mut frames = vec![frame(&vec![Kind::Kernel; index(SECTION)], era)];
        frames.extend((0..FRAMES).map(|_| frame(&section(self.mix, &mut dice), era)));
        let vmemmap = builder.vmemmap();
        let sections: BTreeMap<u64, u64> =
            (0..24).chain(32..(self.gib + 1) * 8).map(|n| (n, vmemmap)).collect();
        let mut truth = Truth::default();
        for number in sections.keys() {
            // The kernel, and the frames themselves, are in use.
            let which = if *number < 4 { 0 } else { 1 + number % FRAMES };
            builder.map_large(vmemmap + number * LEAF, FRAMES_AT + which * LEAF);
            for (why, pages) in &frames[index(which)].1 {
                *truth.dropped.entry(*why).or_default() += pages;
            }
        }
        builder.fill_mem_section(&sections, None);
        builder.kernel_data();
        let loads = builder.loads();
        truth.present = spec.segments().iter().map(|(start, end)| (end - start) / PAGE).sum();
        let facts = spec.arch.facts();
        let notes = elf::notes(facts.order, spec.cpus, &vmcoreinfo(&spec, &builder.at));
        let (headers, offsets, len) = elf::layout(&facts, &loads, &notes);
        let file = File::create(path)?;
        file.set_len(len)?;
        file.write_all_at(&headers, 0)?;
        let place = |phys: u64| {
            let hits =
                loads.iter().zip(&offsets).filter(move |(load, _)| (load.start..load.end).contains(&phys));
            hits.map(move |(load, offset): (&Load, &u64)| offset + (phys - load.start))
        };
        for (pfn, page) in builder.memory.pages() {
            place(pfn * PAGE).try_for_each(|at| file.write_all_at(page, at))?;
        }
        for (phys, (bytes, _)) in (FRAMES_AT..).step_by(index(LEAF)).zip(&frames) {
            place(phys).try_for_each(|at| file.write_all_at(bytes, at))?;
        }
        Ok(truth)
    }
}

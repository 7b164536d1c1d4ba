//! The collector: what runs when the kernel has died.
//!
//! One static program, `vmcore-collect`. Started as PID 1 of the crash kernel it finds the target, saves the
//! dead kernel's log and memory there, and reboots, whatever happens. Started by hand it filters a vmcore as
//! makedumpfile does. The engine between is the same, byte for byte. It is not a daemon, reads no configuration
//! and resolves no name: all of that is decided before the crash and lies in the [`plan`].
//!
//! ```text
//!               plan.json              /proc/vmcore
//!                   |                       | bytes (ReadAt)
//!  pid1: supervisor |                    vmcore   segments, notes, VMCOREINFO
//!   |- modules      |                       | physical memory
//!   |- devices      |                    kernel   page tables, mem_map, log
//!   |- engine child +--> engine -----+      | page classes
//!   |- finish               ^        |   filter   which pages are kept
//!   '- reboot      progress |        |      | runs of pfns, the account
//!      the story <----------+        |   format   kdump-compressed, ELF, raw
//!          |                         |      | bytes (DumpSink)
//!          '-- manifest.json --------+-> target   file in the dump's directory
//! ```
//!
//! # Words
//!
//! - *vmcore*: the dead kernel's memory as the crash kernel shows it. *dump*: what is written of it.
//! - *pfn*: number of a page of the dead kernel. *run*: contiguous pfns, half-open.
//! - *level*: five bits, each a class of pages to leave out, as makedumpfile's `-d`. *verdict*: kept, or
//!   dropped for a [`filter::Reason`].
//! - *plan*: what to do, decided before the crash. *image*: the initramfs it is baked into, with this program.
//! - *target*: where dumps go. *ladder*: targets in the order to try; each is a rung.
//! - *stage*: mount, modules, devices, network, dmesg, hooks, dump, finish.
//! - *problem*: a soft error under a stable code, `VC123`, recorded in the *manifest* beside the dump.
//! - *outcome*: complete, partial, dmesg-only or nothing.
//!
//! # Map
//!
//! | module | what it is |
//! | --- | --- |
//! | [`plan`], [`manifest`], [`problem`], [`progress`] | what comes in, what goes out, what went wrong, how far it is |
//! | [`addr`] | addresses and page sizes as types |
//! | [`vmcore`] | in: the ELF file, its notes, VMCOREINFO |
//! | [`kernel`] | meaning: virtual addresses, classes of pages, the printk log |
//! | [`filter`] | decision: levels, verdicts, the account of every page |
//! | [`erase`] | redaction: rules, and the bytes that they mean |
//! | [`format`](mod@format) | out: the containers, and their readers |
//! | [`triage`] | the answer before the dump: symbols, types, stacks, with no debuginfo |
//! | [`engine`] | all of these as one object |
//! | [`input`] | what a user names as a vmcore, whatever container it is |
//! | [`source`], [`target`] | where bytes come from and go to: the only parts that know files and devices |
//! | [`storage`] | what a local target lies on: device-mapper, md |
//! | [`net`] | the way to a server, by netlink; telling a cluster |
//! | [`report`] | what happened, weighed and shown: the report on a crash |
//! | [`pid1`] | the supervisor: the ladder of targets, hooks, the watchdog |
//! | [`byhand`], [`makedumpfile`] | the command line: our own, and makedumpfile's |
//! | [`sys`] | all unsafe code |
//! | [`fault`] | what tests break on purpose |
//!
//! # Rules
//!
//! vmcore, kernel, filter and format know no files, no devices and no unsafe code: traits in, traits out. Every
//! byte of a vmcore is hostile: it is checked before it is a length, an index or an address, and nothing in it
//! makes this program panic, hang, or take memory without bound. Whoever cannot read something keeps its pages
//! and records a problem. Nothing in [`pid1`] waits without a deadline.
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

pub mod addr;
pub mod byhand;
pub mod engine;
pub mod erase;
pub mod fault;
pub mod filter;
pub mod format;
pub mod input;
pub mod kernel;
pub mod makedumpfile;
pub mod manifest;
pub mod net;
pub mod pid1;
pub mod plan;
pub mod problem;
pub mod progress;
pub mod report;
pub mod source;
pub mod storage;
pub mod sys;
pub mod target;
pub mod triage;
pub mod utc;
pub mod vmcore;

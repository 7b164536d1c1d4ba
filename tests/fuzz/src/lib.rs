//! Fuzz targets: bytes that anybody may have made go through one reader each. Whatever they are, the outcome is a value or an
//! error; a panic, a hang, or memory that grows with a number among them is a bug.
//!
//! `cargo xtask fuzz` builds `main.rs` with coverage, writes seeds, and runs [`TARGETS`]; `tests/tests/fuzz_seeds.rs` runs
//! each target once on its seeds, without a fuzzer.
//!
//! Raw bytes rarely get past the first check of a machine of megabytes. Targets that go deep take a *base*, a whole file of a
//! synthetic machine, and read the input as *patches* of it: `base` the files and the patches · `exercise` what is done with a
//! vmcore · `parts` and `sample` the small kernel of the collector's own tests · the other modules one group of targets each.

pub mod base;
mod codecs;
mod configuration;
mod containers;
mod exercise;
mod machine;
mod options;
mod raw;
mod report;
mod symbols;

/// What the collector's unit tests make kernels of, by the names that it has there.
mod kernel {
    pub(crate) use crate::parts as testing;
    pub(crate) use collector::kernel::printk;
}
#[path = "../../../collector/src/kernel/testing.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod parts;
#[path = "../../../collector/src/triage/testing.rs"]
mod sample;

pub use base::{Base, Bases};
use collector::kernel::printk;
use collector::{addr, vmcore};

/// A fuzz target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// Input past this many bytes finds nothing new.
    pub max_len: usize,
    /// Runs it on one input; panics when something is wrong.
    pub run: fn(&Bases, &[u8]),
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "elf", max_len: 16 << 10, run: machine::elf },
    Target { name: "notes", max_len: 4 << 10, run: machine::notes },
    Target { name: "vmcoreinfo", max_len: 2 << 10, run: machine::vmcoreinfo },
    Target { name: "machine", max_len: 256, run: machine::machine },
    Target { name: "log", max_len: 256, run: machine::log },
    Target { name: "kdump", max_len: 64 << 10, run: containers::kdump },
    Target { name: "split", max_len: 256, run: containers::split },
    Target { name: "flattened", max_len: 64 << 10, run: containers::flattened },
    Target { name: "decode", max_len: 16 << 10, run: codecs::decode },
    Target { name: "encode", max_len: 16 << 10, run: codecs::encode },
    Target { name: "btf", max_len: 4 << 10, run: symbols::btf },
    Target { name: "kallsyms", max_len: 8 << 10, run: symbols::kallsyms },
    Target { name: "report", max_len: 256, run: report::report },
    Target { name: "rules", max_len: 1 << 10, run: symbols::rules },
    Target { name: "raw", max_len: 16 << 10, run: raw::raw },
    Target { name: "options", max_len: 512, run: options::options },
    Target { name: "kdump_conf", max_len: 1 << 10, run: configuration::kdump_conf },
    Target { name: "crashkernel", max_len: 256, run: configuration::crashkernel },
];

impl Target {
    /// The target of that name.
    pub fn named(name: &str) -> Option<&'static Self> {
        TARGETS.iter().find(|target| target.name == name)
    }
}

/// Takes bytes off the front of an input; zeros once it is used up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Draw<'a>(pub &'a [u8]);

impl<'a> Draw<'a> {
    pub fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }
    pub fn number(&mut self, bytes: u32) -> u64 {
        (0..bytes).fold(0, |number, _| number << 8 | u64::from(self.byte()))
    }
    pub fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

//! The answer before the dump: what a dead kernel can be asked with nothing but what it carries itself.
//!
//! VMCOREINFO leads to its symbols ([`kallsyms`]), these to its types ([`btf`])
//! and to the tables that it unwinds its own stacks by. No debuginfo is needed, so there are no arguments, no locals, no
//! inlined functions, and no types of global variables: whoever reads one says what it is.
//!
//! What it is not: it never writes, and what it does not know costs nobody the dump. Data flow: [`Pages`] keeps what was read
//! of memory and asks the [`Budget`] before each read; [`Dead`] puts names and types to it; everything else here is walks over
//! it. A question that has no answer is an [`Unknown`]; [`Dead::known`] notes it and goes on.
//!
//! ```no_run
//! # use collector::{engine::Engine, source::FileSource, triage::Known};
//! # use std::{path::Path, time::Duration};
//! # let source = FileSource::open(Path::new("vmcore")).unwrap();
//! # let mut engine = Engine::open(&source).unwrap();
//! let (count, unknown) = engine.triage(Duration::from_secs(1), |dead| {
//!     let mut count = 0;
//!     // Each task's `struct task_struct`, by the list through their member `tasks` that starts in init_task.
//!     let mut walk = || -> Known<()> {
//!         let head = dead.place(dead.symbol("init_task")?, "task_struct", "tasks")?;
//!         dead.list(head, "task_struct", "tasks", |task| {
//!             println!("{} {}", dead.signed(task, "task_struct", "pid")?, dead.text(task, "task_struct", "comm")?);
//!             count += 1;
//!             Ok(())
//!         })
//!     };
//!     dead.known("tasks", walk());
//!     (count, dead.unknown())
//! });
//! ```

mod budget;
mod cpus;
mod list;
mod modules;
mod names;
mod pages;
mod read;
mod registers;
pub mod stack;
mod tasks;
mod types;
mod unknown;

pub use budget::Budget;
pub use modules::{Module, taint_letters, taint_meanings};
pub use names::Spot;
pub use pages::Pages;
pub use registers::Registers;
pub use tasks::{State, Task};
pub use types::{Elements, Member};
pub use unknown::{Known, Unknown};

use crate::kernel::btf::{self, Btf};
use crate::kernel::kallsyms::{self, Kallsyms};
use crate::kernel::printk::Memory;
use crate::vmcore::{Endian, Vmcore, VmcoreInfo};
use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;

/// What is known of a vmcore besides its memory.
#[derive(Clone, Debug)]
pub struct About<'a> {
    /// VMCOREINFO.
    pub info: &'a VmcoreInfo,
    /// ELF machine ([`crate::vmcore::EM_X86_64`] = 62, …).
    pub machine: u16,
    /// Bytes of a page.
    pub page: u64,
    /// Descriptors of the NT_PRSTATUS notes, in their order.
    pub prstatus: Vec<&'a [u8]>,
    /// The kernel runs.
    pub live: bool,
}

impl<'a> About<'a> {
    /// Of a vmcore.
    pub fn of(vmcore: &'a Vmcore<'_>) -> Self {
        Self {
            info: vmcore.info(),
            machine: vmcore.machine(),
            page: vmcore.page_size().bytes(),
            prstatus: vmcore.prstatus(),
            live: vmcore.is_live(),
        }
    }
}

/// A kernel that can be asked by the names of its things.
///
/// Opening it never fails: what is missing makes those questions fail that need it.
#[expect(missing_debug_implementations, reason = "holds a dead kernel's memory")]
pub struct Dead<'a> {
    memory: &'a Pages<'a>,
    about: About<'a>,
    symbols: Result<(Kallsyms<'a>, kallsyms::Index), String>,
    btf: Result<(Btf<'a>, btf::Index), String>,
    seen: RefCell<Seen>,
    cpus: OnceCell<Known<cpus::Cpus>>,
    modules: OnceCell<Vec<names::Extent>>,
    unknown: RefCell<Vec<String>>,
}

/// What was asked before.
#[derive(Default)]
struct Seen {
    types: HashMap<&'static str, Option<btf::TypeId>>,
    members: HashMap<(&'static str, &'static str), Member>,
    spots: HashMap<u64, Option<Spot>>,
    symbols: HashMap<String, Option<u64>>,
}

/// Answers that are remembered. Past this many they are forgotten.
const REMEMBERED: usize = 8192;

/// Questions without an answer that are noted.
const MAX_UNKNOWN: usize = 64;

impl<'a> Dead<'a> {
    /// Finds symbols and types. Takes about 4 MB and, for an ordinary kernel, some 50 ms.
    pub fn open(memory: &'a Pages<'a>, about: About<'a>) -> Self {
        let symbols = Kallsyms::open_indexed(memory, about.info).map_err(|e| crate::engine::chain(&e));
        let btf = match &symbols {
            Ok((table, names)) => {
                Btf::open_indexed(memory, about.info, table, names).map_err(|e| crate::engine::chain(&e))
            }
            Err(_) => Err("without the kernel's symbols its types (BTF) are not to be found".to_owned()),
        };
        let dead = Self {
            memory,
            about,
            symbols,
            btf,
            seen: RefCell::default(),
            cpus: OnceCell::new(),
            modules: OnceCell::new(),
            unknown: RefCell::default(),
        };
        if let Err(why) = &dead.symbols {
            dead.note(why.clone());
        }
        if let Err(why) = &dead.btf {
            dead.note(why.clone());
        }
        dead
    }

    /// VMCOREINFO.
    pub fn info(&self) -> &'a VmcoreInfo {
        self.about.info
    }

    /// ELF machine of the kernel.
    pub fn machine(&self) -> u16 {
        self.about.machine
    }

    /// Whether it runs: then what is read may change meanwhile, and nobody knows the registers of its CPUs.
    pub fn is_live(&self) -> bool {
        self.about.live
    }

    /// Bytes of a page.
    pub fn page_size(&self) -> u64 {
        self.about.page
    }

    /// Byte order of the kernel.
    pub fn endian(&self) -> Endian {
        self.memory.endian()
    }

    /// The memory underneath.
    pub fn memory(&self) -> &'a Pages<'a> {
        self.memory
    }

    /// What may still be spent. Walks that read nothing for long ask it themselves.
    pub fn budget(&self) -> &Budget {
        self.memory.budget()
    }

    /// The kernel's types.
    pub fn btf(&self) -> Known<&Btf<'a>> {
        self.btf.as_ref().map(|(btf, _)| btf).map_err(|why| Unknown::Missing(why.clone()))
    }

    /// The kernel's own symbols.
    pub fn kallsyms(&self) -> Known<&Kallsyms<'a>> {
        Ok(self.names()?.0)
    }

    /// The symbols and their index. Why they are missing was noted once, when they were opened.
    fn names(&self) -> Known<(&Kallsyms<'a>, &kallsyms::Index)> {
        let none = |_: &String| Unknown::missing("the kernel's symbols are not known");
        self.symbols.as_ref().map(|(table, index)| (table, index)).map_err(none)
    }

    /// An answer, or `None`, and a note that `what` is not known and why.
    pub fn known<T>(&self, what: &str, answer: Known<T>) -> Option<T> {
        match answer {
            Ok(value) => Some(value),
            Err(why) => {
                self.note(format!("{what}: {why}"));
                None
            }
        }
    }

    /// Notes that something is not known: a sentence. The same is noted once, and no more than 64 are.
    pub fn note(&self, what: String) {
        let mut noted = self.unknown.borrow_mut();
        if noted.len() < MAX_UNKNOWN && !noted.contains(&what) {
            noted.push(what);
        }
    }

    /// What was noted so far.
    pub fn unknown(&self) -> Vec<String> {
        self.unknown.borrow().clone()
    }
}

/// Serializes an address as `0x…`: a number of 64 bits is no number to many readers of JSON.
pub(crate) fn hex<S: serde::Serializer>(at: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format!("{at:#x}"))
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

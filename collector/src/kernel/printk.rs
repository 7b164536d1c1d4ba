//! The kernel log, out of the dead kernel's memory.
//!
//! Two shapes, told apart by VMCOREINFO: the ring buffer of descriptors (since Linux commit 896fbe20b4e2 ("printk: use the
//! lockless ringbuffer"), in v5.10), and before it the buffer of records (since Linux commit 7ff9554bb578 ("printk: convert
//! byte-buffer to variable-length record buffer"), in v3.5). Neither is trusted: sizes have caps, walks have ends, and what
//! makes no sense is left out and reported.

mod panic_line;
mod records;
mod ring;
mod text;

use crate::addr::VirtAddr;
use crate::kernel::Kernel;
use crate::problem::{Code, Problems};
use crate::vmcore::{Endian, ReadError, VmcoreInfo};
use std::io;

/// Virtual memory of the crashed kernel, as far as the log needs it.
pub trait Memory {
    /// Fills `buf` from `at`.
    fn read(&self, at: VirtAddr, buf: &mut [u8]) -> Result<(), ReadError>;
    /// Byte order of what is read.
    fn endian(&self) -> Endian;
}

impl Memory for Kernel<'_> {
    fn read(&self, at: VirtAddr, buf: &mut [u8]) -> Result<(), ReadError> {
        self.read_virt(at, buf)
    }
    fn endian(&self) -> Endian {
        self.vmcore().endian()
    }
}

/// How the log is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Style {
    /// Shows who printed a line: `[    0.000000][T1]` for task 1, `C0` for CPU 0 outside of tasks.
    ///
    /// The ring buffer always knows. The kernel itself shows it only with CONFIG_PRINTK_CALLER, of which the vmcore does
    /// not tell; without it a log that has callers matches neither the console nor anybody's patterns.
    pub callers: bool,
    /// Leaves out what was there when somebody last cleared the log (`dmesg --clear`).
    pub since_clear: bool,
}

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Log {
    /// Records that were written.
    pub records: u64,
    /// How many records the kernel had written before the first of these: they are overwritten. Only the ring buffer numbers them.
    pub first: Option<u64>,
    /// The number that its next record would have had.
    pub next: Option<u64>,
    /// Why the kernel died, in its own words; see `panic_line.rs` for which line that is.
    pub panic_message: Option<String>,
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// VMCOREINFO has neither shape's keys.
    #[error(
        "VMCOREINFO has neither SYMBOL(prb) (Linux 5.10 and later) nor SYMBOL(log_buf) (3.5 to 5.9): \
         is this the vmcore of a Linux kernel with CONFIG_PRINTK?"
    )]
    NoKeys,
    /// A key of the shape is missing.
    #[error("VMCOREINFO has no {0}, which the kernel log needs")]
    MissingKey(String),
    /// Memory of the log cannot be read.
    #[error("cannot read {what} of the kernel log at virtual address {at}")]
    Unreadable {
        /// What lies there.
        what: &'static str,
        /// Where.
        at: VirtAddr,
        /// Why not.
        #[source]
        source: ReadError,
    },
    /// A size that cannot be.
    #[error("{what} of the kernel log is {value:#x}, which cannot be")]
    Impossible {
        /// Which.
        what: &'static str,
        /// The value seen.
        value: u64,
    },
    /// The output failed.
    #[error("cannot write the kernel log")]
    Output(#[from] io::Error),
}

/// Writes the log as text, oldest line first, each with its time: `[    0.000000] text`.
pub fn write(
    memory: &dyn Memory,
    info: &VmcoreInfo,
    style: Style,
    out: &mut dyn io::Write,
    problems: &mut Problems,
) -> Result<Log, LogError> {
    let mut out = text::Writer::new(out, style);
    let damage = if info.symbol("prb").is_some() {
        ring::write(memory, info, style.since_clear, &mut out)?
    } else if info.symbol("log_buf").is_some() {
        records::write(memory, info, style.since_clear, &mut out)?
    } else {
        return Err(LogError::NoKeys);
    };
    if let Some(damage) = damage {
        problems.push(Code::LOG_DAMAGED, format!("the kernel log is damaged: {damage}"));
    }
    Ok(out.finish()?)
}

/// One record, whichever shape it comes from.
struct Record<'a> {
    /// Nanoseconds since boot.
    time: u64,
    /// Task id, or CPU with the top bit set.
    caller: Option<u32>,
    /// Its lines.
    text: &'a [u8],
}

/// Reads integers and bytes of one area of virtual memory through a small buffer, so that a walk through a table does not
/// translate an address for each entry.
struct Area<'a> {
    memory: &'a dyn Memory,
    what: &'static str,
    start: u64,
    bytes: Vec<u8>,
    /// How many of `bytes` are memory from `start`.
    filled: usize,
}

impl<'a> Area<'a> {
    /// Bytes that are read at a time.
    const BUFFER: usize = 32 << 10;

    fn new(memory: &'a dyn Memory, what: &'static str) -> Self {
        Self { memory, what, start: 0, bytes: Vec::new(), filled: 0 }
    }

    /// `len` bytes at `at`, at most [`Area::BUFFER`].
    fn get(&mut self, at: VirtAddr, len: usize) -> Result<&[u8], LogError> {
        let skip = |start: u64| at.get().checked_sub(start).and_then(|s| usize::try_from(s).ok());
        let held = skip(self.start).is_some_and(|s| s.checked_add(len).is_some_and(|end| end <= self.filled));
        if !held {
            self.fill(at, len)?;
        }
        let start = skip(self.start).unwrap_or(usize::MAX);
        let impossible = LogError::Impossible { what: "a length", value: len as u64 };
        self.bytes
            .get(start..start.saturating_add(len).min(self.filled))
            .filter(|b| b.len() == len)
            .ok_or(impossible)
    }

    fn fill(&mut self, at: VirtAddr, len: usize) -> Result<(), LogError> {
        self.bytes.resize(Self::BUFFER, 0);
        self.filled = 0;
        self.start = at.get();
        // What follows may be the end of the area and unmapped: then only what was asked for.
        for want in [Self::BUFFER, len.min(Self::BUFFER)] {
            let Some(buf) = self.bytes.get_mut(..want) else { continue };
            match self.memory.read(at, buf) {
                Ok(()) => {
                    self.filled = want;
                    return Ok(());
                }
                Err(_) if want > len => {}
                Err(source) => return Err(LogError::Unreadable { what: self.what, at, source }),
            }
        }
        Ok(())
    }

    /// An integer of the crashed kernel, of `size` bytes, at most 8.
    fn int(&mut self, at: VirtAddr, size: u64) -> Result<u64, LogError> {
        let what = self.what;
        let size = usize::try_from(size).ok().filter(|s| *s <= 8);
        let size = size.ok_or(LogError::Impossible { what, value: u64::MAX })?;
        let endian = self.memory.endian();
        let from = self.get(at, size)?;
        let mut eight = [0; 8];
        match endian {
            Endian::Little => eight.iter_mut().zip(from).for_each(|(to, from)| *to = *from),
            Endian::Big => eight.iter_mut().zip(from.iter().rev()).for_each(|(to, from)| *to = *from),
        }
        Ok(u64::from_le_bytes(eight))
    }
}

/// `base + offset`, for addresses a hostile kernel may have put near the top.
fn plus(what: &'static str, base: VirtAddr, offset: u64) -> Result<VirtAddr, LogError> {
    base.checked_add(offset).ok_or(LogError::Impossible { what, value: base.get() })
}

/// VMCOREINFO's keys, a missing one being an error that names it.
struct Keys<'a>(&'a VmcoreInfo);

impl Keys<'_> {
    fn symbol(&self, name: &str) -> Result<VirtAddr, LogError> {
        self.0.symbol(name).ok_or_else(|| LogError::MissingKey(format!("SYMBOL({name})")))
    }
    fn size(&self, name: &str) -> Result<u64, LogError> {
        self.0.size(name).ok_or_else(|| LogError::MissingKey(format!("SIZE({name})")))
    }
    fn offset(&self, name: &str) -> Result<u64, LogError> {
        self.0.offset(name).ok_or_else(|| LogError::MissingKey(format!("OFFSET({name})")))
    }
}

#[cfg(test)]
mod tests;

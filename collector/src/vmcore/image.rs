//! Memory that no ELF header describes: what a dump of another container says of itself.

use super::layout::{EM_AARCH64, EM_LOONGARCH, EM_PPC64, EM_RISCV, EM_S390, EM_X86_64};
use super::{Endian, PageBits};
use crate::addr::{PageSize, Pfn};
use crate::problem::{Code, Problems};

/// What a kdump-compressed dump says of itself. The bytes of its source are physical memory: the offset of a byte is its
/// physical address, and pages without data read as zeros.
#[derive(Clone, Debug)]
pub struct Image {
    /// Byte order of the crashed kernel.
    pub endian: Endian,
    /// ELF machine, 0 when unknown.
    pub machine: u16,
    /// Page size.
    pub page: PageSize,
    /// Pages that the machine had.
    pub present: PageBits,
    /// Pages that have data, or should have: a page that is missing is among them, and reading it is an error.
    pub dumped: PageBits,
    /// All notes.
    pub notes: Vec<u8>,
    /// VMCOREINFO's text.
    pub vmcoreinfo: Vec<u8>,
    /// Record of what an earlier filter has erased, as text.
    pub erased: Vec<u8>,
    /// sysname, nodename, release, version, machine, domainname, NUL-padded; zeros when unknown.
    pub utsname: [[u8; 65]; 6],
    /// Seconds since 1970 of the crash; 0 when unknown.
    pub crash_time: u64,
    /// `phys_base` of the header; 0 when unknown.
    pub phys_base: u64,
    /// The filter level that made the dump.
    pub level: u8,
    /// A part of mem_map was left out.
    pub excluded_vmemmap: bool,
}

/// Runs of present pages past this many are joined. A machine has some tens.
const MAX_RUNS: usize = 1 << 18;

impl Image {
    /// Runs of pages that the machine had: half-open, ascending, apart from each other. Where there are more than any machine
    /// has, the narrowest holes are taken for memory: that costs time, and no page its place.
    pub(super) fn present_runs(&self, problems: &mut Problems) -> Vec<(Pfn, Pfn)> {
        let mut gap = 0;
        loop {
            if let Some(runs) = joined(&self.present, gap) {
                if gap > 0 {
                    problems.push(
                        Code::SEGMENT_MALFORMED,
                        format!(
                            "the bitmap of the machine's pages has more than {MAX_RUNS} runs: holes of up to {gap} pages \
                             taken for memory"
                        ),
                    );
                }
                return runs;
            }
            gap = if gap == 0 { 8 } else { gap * 8 };
        }
    }
}

/// Runs, with holes of up to `gap` pages closed; `None` when there are too many.
fn joined(bits: &PageBits, gap: u64) -> Option<Vec<(Pfn, Pfn)>> {
    let mut runs: Vec<(Pfn, Pfn)> = Vec::new();
    for (start, end) in bits.runs() {
        let full = runs.len() == MAX_RUNS;
        match runs.last_mut() {
            Some((_, last)) if start.get().saturating_sub(last.get()) <= gap => *last = end,
            _ if full => return None,
            _ => runs.push((start, end)),
        }
    }
    Some(runs)
}

/// The ELF machine of `uname -m`; 0 when unknown.
pub fn machine_of(uname: &str) -> u16 {
    match uname {
        "x86_64" => EM_X86_64,
        "aarch64" | "arm64" => EM_AARCH64,
        "ppc64" | "ppc64le" => EM_PPC64,
        "s390x" => EM_S390,
        "riscv64" => EM_RISCV,
        "loongarch64" => EM_LOONGARCH,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::FileOffset;

    #[test]
    fn absurdly_many_runs_are_joined() {
        let bits =
            |bytes: Vec<u8>| PageBits::read(&bytes, FileOffset::new(0), bytes.len() as u64 * 8).unwrap();
        assert_eq!(joined(&bits(vec![0x55; 16]), 0).map(|r| r.len()), Some(64));
        let mut bytes = vec![0x55; MAX_RUNS];
        bytes.extend([0; 64]);
        bytes.push(1);
        let image = Image {
            endian: Endian::Little,
            machine: 62,
            page: PageSize::new(4096).unwrap(),
            present: bits(bytes),
            dumped: PageBits::default(),
            notes: Vec::new(),
            vmcoreinfo: Vec::new(),
            erased: Vec::new(),
            utsname: [[0; 65]; 6],
            crash_time: 0,
            phys_base: 0,
            level: 0,
            excluded_vmemmap: false,
        };
        let mut problems = Problems::new();
        let runs = image.present_runs(&mut problems);
        let all = MAX_RUNS as u64 * 8;
        assert_eq!(runs, [(Pfn::new(0), Pfn::new(all - 1)), (Pfn::new(all + 512), Pfn::new(all + 513))]);
        assert_eq!(problems.list().len(), 1);
    }
}

//! The engine as one object: open a vmcore, save its log, write its dumps. Runs after a crash and on a laptop alike.

use crate::addr::{PhysAddr, VirtAddr};
use crate::erase;
use crate::filter::{Level, Selection, exclude_vmemmap, select};
use crate::format::{DumpSink, Job, SinkFailure, Written, elf, estimate, kdump, raw, split};
use crate::kernel::printk;
use crate::kernel::{Kernel, Step};
use crate::manifest::{CrashedKernel, DumpReport};
use crate::plan::{Compression, DumpSpec, Format};
use crate::problem::{Code, Problems};
use crate::progress::{Progress, Silent};
use crate::triage::{About, Budget, Dead, Pages};
use crate::vmcore::{ReadAt, ReadError, Vmcore, VmcoreError};
use std::io;
use std::time::{Duration, Instant};

/// Why the engine stopped.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The vmcore could not be opened.
    #[error("cannot open the vmcore")]
    Open(#[from] VmcoreError),
    /// The kernel log could not be found, or not be written.
    #[error("cannot read the kernel log: {0}")]
    Log(String),
    /// The sink failed. `report` tells what is in it.
    #[error("cannot write the dump")]
    Sink {
        /// What the sink said.
        #[source]
        source: io::Error,
        /// What had been written, `complete` false.
        report: Box<DumpReport>,
    },
    /// Rules of what to erase could not be resolved: a sentence each.
    #[error("not everything that is to be erased was found: {}", .0.join("; "))]
    Erase(Vec<String>),
    /// A dump of this kind cannot leave anything out.
    #[error("a raw copy is the vmcore byte for byte: nothing can be erased from it. Write another format")]
    EraseRaw,
}

/// What a selection is for: the level, and whether [`exclude_vmemmap`] was asked for.
type Asked = (Level, bool);

/// An opened vmcore and what was wrong with it so far.
#[expect(missing_debug_implementations, reason = "holds a dead kernel's memory")]
pub struct Engine<'a> {
    vmcore: Vmcore<'a>,
    /// Soft errors so far.
    pub problems: Problems,
    /// Threads that work on a dump, the calling one among them. 1 until it is set: most crash kernels have one CPU.
    pub threads: usize,
    /// The line that [`Engine::dmesg`] found.
    panic_message: Option<String>,
    /// The last selection, with the level that was asked for and whether mem_map was thinned out: dumps of which both are
    /// equal share one scan.
    selection: Option<(Asked, Selection)>,
    utsname: Option<[[u8; 65]; 6]>,
    kernel_opened: bool,
    /// What dumps are not to hold.
    erased: erase::Resolved,
}

impl<'a> Engine<'a> {
    /// Reads the vmcore's headers, notes and VMCOREINFO.
    pub fn open(source: &'a dyn ReadAt) -> Result<Self, EngineError> {
        Self::open_with_info(source, b"")
    }

    /// As [`Engine::open`], for a vmcore whose VMCOREINFO lacks what this one has; see [`Vmcore::open_with_info`].
    pub fn open_with_info(source: &'a dyn ReadAt, info: &[u8]) -> Result<Self, EngineError> {
        let mut problems = Problems::new();
        let vmcore = Vmcore::open_with_info(source, info, &mut problems)?;
        let erased = erase::Resolved { record: erased_before(&vmcore), ..erase::Resolved::default() };
        Ok(Self {
            vmcore,
            problems,
            threads: 1,
            panic_message: None,
            selection: None,
            utsname: None,
            kernel_opened: false,
            erased,
        })
    }

    /// The vmcore underneath.
    pub fn vmcore(&self) -> &Vmcore<'a> {
        &self.vmcore
    }

    /// Takes a stretch of physical memory out, as if the vmcore did not hold it.
    pub fn leave_out(&mut self, start: PhysAddr, end: PhysAddr) {
        self.selection = None;
        self.vmcore.leave_out(start, end);
    }

    /// Where a virtual address of the crashed kernel is in physical memory, and the page-table entries that say so.
    pub fn trace(&mut self, at: VirtAddr) -> (Vec<Step>, Result<PhysAddr, ReadError>) {
        self.with_kernel(|kernel, _| kernel.trace(at))
    }

    /// Seconds since 1970 of the crash (VMCOREINFO's CRASHTIME).
    pub fn crash_time(&self) -> Option<u64> {
        let header = || Some(self.vmcore.image()?.crash_time).filter(|time| *time > 0);
        self.vmcore.info().get("CRASHTIME").and_then(|time| time.parse().ok()).or_else(header)
    }

    /// Who the crashed kernel was. `panic_message` is filled by [`Engine::dmesg`].
    pub fn kernel(&mut self) -> CrashedKernel {
        let [_, nodename, release, version, machine, _] = self.utsname().map(|field| text(&field));
        let osrelease = || self.vmcore.info().get("OSRELEASE").unwrap_or_default().to_owned();
        CrashedKernel {
            // VMCOREINFO has it even where memory is unreadable.
            release: if release.is_empty() { osrelease() } else { release },
            version,
            machine,
            nodename,
            crash_time: self.crash_time(),
            panic_message: self.panic_message.clone(),
        }
    }

    /// Writes the kernel log as text and returns the line that says why the kernel died, if one does.
    pub fn dmesg(&mut self, out: &mut dyn io::Write) -> Result<Option<String>, EngineError> {
        self.dmesg_in(printk::Style::default(), out)
    }

    /// As [`Engine::dmesg`], in another style.
    pub fn dmesg_in(
        &mut self,
        style: printk::Style,
        out: &mut dyn io::Write,
    ) -> Result<Option<String>, EngineError> {
        let log = self
            .with_kernel(|kernel, problems| {
                printk::write(kernel, kernel.vmcore().info(), style, out, problems)
            })
            .map_err(|e| EngineError::Log(chain(&e)))?;
        self.panic_message.clone_from(&log.panic_message);
        Ok(log.panic_message)
    }

    /// From here on dumps do not hold what `rules` mean, and hold again what earlier ones meant: what can be resolved is erased, even on an error. Each rule that cannot
    /// is a problem; whether there is to be a dump then is for the caller to decide. Returns what was resolved.
    pub fn erase(&mut self, rules: &erase::Rules) -> Result<&erase::Resolved, EngineError> {
        let mut resolved = if rules.is_empty() {
            erase::Resolved::default()
        } else {
            self.with_kernel(|kernel, _| erase::resolve(rules, kernel))
        };
        resolved.record.insert_str(0, &erased_before(&self.vmcore));
        for why in &resolved.unresolved {
            self.problems.push(Code::ERASE_UNRESOLVED, why.clone());
        }
        self.utsname = None;
        // The header of a dump, and the manifest, have these strings too. What tells a reader which kernel this is stays:
        // sysname, release (which is in VMCOREINFO as well) and machine.
        let mut utsname = self.utsname();
        self.with_kernel(|kernel, _| {
            let at = kernel.utsname_at();
            for (field, index) in utsname.iter_mut().zip(0_u64..).filter(|(_, i)| matches!(i, 1 | 3 | 5)) {
                let skip = field.len() as u64 * index;
                erase::cover(&resolved.patches, field, |byte| {
                    Some(kernel.translate(at?.checked_add(skip + byte)?).ok()?.get())
                });
                // A string without an end is no string: readers give up on the whole dump.
                if let Some(last) = field.last_mut() {
                    *last = 0;
                }
            }
        });
        self.utsname = Some(utsname);
        self.erased = resolved;
        match self.erased.unresolved.as_slice() {
            [] => Ok(&self.erased),
            unresolved => Err(EngineError::Erase(unresolved.to_vec())),
        }
    }

    /// Asks the crashed kernel by its own symbols and types. What takes longer than `limit` has no answer. What is to be
    /// erased from dumps is not in its memory.
    pub fn triage<T>(&mut self, limit: Duration, step: impl FnOnce(&Dead<'_>) -> T) -> T {
        let patches = std::mem::take(&mut self.erased.patches);
        let answer = self.with_kernel(|kernel, _| {
            let covered = erase::Covered { kernel, patches: &patches };
            let pages = Pages::new(&covered, Budget::new(Some(limit)));
            step(&Dead::open(&pages, About::of(kernel.vmcore())))
        });
        self.erased.patches = patches;
        answer
    }

    /// Writes one dump. The report's `file` is `spec.file`.
    pub fn dump(
        &mut self,
        spec: &DumpSpec,
        sink: &dyn DumpSink,
        progress: &dyn Progress,
    ) -> Result<DumpReport, EngineError> {
        let scan = if spec.format == Format::Raw {
            if !self.erased.patches.is_empty() {
                return Err(EngineError::EraseRaw);
            }
            self.selection = None;
            Duration::ZERO
        } else {
            self.scan(spec.level, spec.exclude_vmemmap, progress)
        };
        let start = Instant::now();
        let outcome = self.write(spec, sink, progress);
        self.report(spec, outcome, scan, start.elapsed())
    }

    /// Writes one kdump-compressed dump as several files, as makedumpfile's `--split`: each has all headers and bitmaps,
    /// and about the same number of pages. Parts start at multiples of `block` pages. As many threads work as there are
    /// sinks. A report for each, in their order; its pages are those that were to be written.
    pub fn dump_split(
        &mut self,
        spec: &DumpSpec,
        sinks: &[&dyn DumpSink],
        block: u64,
        progress: &dyn Progress,
    ) -> Vec<Result<DumpReport, EngineError>> {
        let scan = self.scan(spec.level, spec.exclude_vmemmap, progress);
        let utsname = self.utsname();
        let phys_base = self.with_kernel(|kernel, _| kernel.phys_base());
        let start = Instant::now();
        let Some((_, selection)) = &self.selection else { return Vec::new() };
        let source = erase::Source::new(&self.vmcore, &self.erased.patches);
        let view;
        let vmcore = if self.erased.patches.is_empty() {
            &self.vmcore
        } else {
            view = self.vmcore.through(&source);
            &view
        };
        let erased = self.erased.record.as_bytes();
        let crash_time = self.crash_time().unwrap_or(0);
        let part = |sink: &dyn DumpSink, range, progress: &dyn Progress| {
            let job = Job { name: &spec.file, selection, pages: vmcore, progress, threads: 1 };
            let about = kdump::About {
                part: Some(range),
                erased,
                ..about(vmcore, selection, utsname, crash_time, phys_base)
            };
            let mut problems = Problems::new();
            let outcome = kdump::write(&job, &about, spec.compression, sink, &mut problems);
            (finished(outcome, sink), problems)
        };
        let parts = split::parts(&selection.keep, sinks.len(), block);
        let outcomes = std::thread::scope(|scope| {
            let mut work: Vec<_> = sinks.iter().copied().zip(parts).collect();
            let first = (!work.is_empty()).then(|| work.remove(0));
            let part = &part;
            let others: Vec<_> = work
                .into_iter()
                .map(|(sink, range)| scope.spawn(move || part(sink, range, &Silent)))
                .collect();
            let first = first.map(|(sink, range)| part(sink, range, progress));
            let failed = || {
                let source = io::Error::other("a thread of the dump panicked");
                (Err(SinkFailure { source, written: Written::default() }), Problems::new())
            };
            let others = others.into_iter().map(|other| other.join().unwrap_or_else(|_| failed()));
            first.into_iter().chain(others).collect::<Vec<_>>()
        });
        let write = start.elapsed();
        outcomes
            .into_iter()
            .map(|(outcome, problems)| {
                self.problems.extend(problems.list().iter().cloned());
                self.report(spec, outcome, scan, write)
            })
            .collect()
    }

    /// What a filter level would keep and drop, without writing anything: zero pages are not yet known.
    pub fn select(&mut self, level: Level, progress: &dyn Progress) -> Option<&Selection> {
        self.scan(level.bits(), false, progress);
        self.selection.as_ref().map(|(_, selection)| selection)
    }

    /// About how many bytes [`Engine::dump`] will write: of a dump that compresses pages from a sample of them.
    pub fn estimate(&mut self, spec: &DumpSpec, progress: &dyn Progress) -> u64 {
        if spec.format == Format::Raw {
            return self.vmcore.source().size();
        }
        self.scan(spec.level, spec.exclude_vmemmap, progress);
        let Some((_, selection)) = &self.selection else { return 0 };
        let (codec, zeros) = match spec.format {
            Format::Kdump => (spec.compression, selection.level.has(Level::ZERO)),
            // What lz4 does to a whole stream, lzo does to pages, or less.
            _ if spec.compression == Compression::Lz4 => (Compression::Lzo, false),
            _ => (Compression::None, false),
        };
        estimate(&selection.keep, &self.vmcore, codec, zeros)
    }

    /// Makes the selection for a level, unless it is there; returns how long that took.
    fn scan(&mut self, level: u8, thin: bool, progress: &dyn Progress) -> Duration {
        // Bits that mean nothing are left out: a plan of the future still gets its dump.
        let Some(level) = Level::new(level & 31) else { return Duration::ZERO };
        if self.selection.as_ref().is_some_and(|(asked, _)| *asked == (level, thin)) {
            return Duration::ZERO;
        }
        // The old bitmaps go before the new ones come.
        self.selection = None;
        let start = Instant::now();
        let threads = self.threads;
        let selection = self.with_kernel(|kernel, problems| {
            let mut selection = select(kernel, level, threads, progress, problems);
            if thin {
                exclude_vmemmap(kernel, &mut selection);
            }
            selection
        });
        self.selection = Some(((level, thin), selection));
        start.elapsed()
    }

    /// What became of a dump, and its failure if it failed.
    fn report(
        &mut self,
        spec: &DumpSpec,
        outcome: Result<Written, SinkFailure>,
        scan: Duration,
        write: Duration,
    ) -> Result<DumpReport, EngineError> {
        let (mut written, failure) = match outcome {
            Ok(written) => (written, None),
            Err(SinkFailure { source, written }) => (written, Some(source)),
        };
        // The machine had them, and nobody will read them any more.
        let cut_off = self.vmcore.cut_off();
        let pages = cut_off.unwrap_or(0);
        written.account.present = written.account.present.saturating_add(pages);
        written.account.unreadable = written.account.unreadable.saturating_add(pages);
        if self.vmcore.source().is_torn() {
            self.problems.push(
                Code::VMCORE_UNREADABLE,
                format!("{}: the vmcore went away or could not be read while it was: zeros were taken for what is missing", spec.file),
            );
        }
        if !written.account.balanced() {
            self.problems.push(Code::ACCOUNT_MISMATCH, format!("{}: {:?}", spec.file, written.account));
        }
        let applied = self.selection.as_ref().map_or(0, |(_, selection)| selection.level.bits());
        let report = DumpReport {
            file: spec.file.clone(),
            format: spec.format,
            level: spec.level,
            level_applied: applied,
            compression: spec.compression,
            bytes: written.bytes,
            pages: written.account,
            page_size: self.vmcore.page_size().bytes(),
            scan_ms: u64::try_from(scan.as_millis()).unwrap_or(u64::MAX),
            write_ms: u64::try_from(write.as_millis()).unwrap_or(u64::MAX),
            complete: failure.is_none()
                && written.complete()
                && cut_off.is_none()
                && !self.vmcore.source().is_torn(),
        };
        match failure {
            None => Ok(report),
            Some(source) => Err(EngineError::Sink { source, report: Box::new(report) }),
        }
    }

    fn write(
        &mut self,
        spec: &DumpSpec,
        sink: &dyn DumpSink,
        progress: &dyn Progress,
    ) -> Result<Written, SinkFailure> {
        let utsname = self.utsname();
        let phys_base = self.with_kernel(|kernel, _| kernel.phys_base());
        let crash_time = self.crash_time().unwrap_or(0);
        let Self { vmcore, problems, selection, threads, erased, .. } = self;
        // What is erased lies below whatever reads pages.
        let source = erase::Source::new(vmcore, &erased.patches);
        let view;
        let vmcore = if erased.patches.is_empty() {
            &*vmcore
        } else {
            view = vmcore.through(&source);
            &view
        };
        let record = erased.record.as_bytes();
        let written = match (spec.format, selection) {
            (Format::Raw, _) | (_, None) => {
                raw::write(vmcore, &spec.file, *threads, sink, progress, problems)
            }
            (format, Some((_, selection))) => {
                let job = Job { name: &spec.file, selection, pages: vmcore, progress, threads: *threads };
                if format == Format::Elf && spec.compression == Compression::Lz4 {
                    elf::write_lz4(&job, vmcore, record, sink, problems)
                } else if format == Format::Elf {
                    elf::write(&job, vmcore, record, sink, problems)
                } else {
                    let about = kdump::About {
                        erased: record,
                        ..about(vmcore, selection, utsname, crash_time, phys_base)
                    };
                    kdump::write(&job, &about, spec.compression, sink, problems)
                }
            }
        };
        finished(written, sink)
    }

    fn utsname(&mut self) -> [[u8; 65]; 6] {
        if let Some(known) = self.utsname {
            return known;
        }
        // A dump's header has it even where the page of it was left out.
        let header = self.vmcore.image().map(|image| image.utsname).filter(|names| *names != [[0; 65]; 6]);
        let read = match header {
            Some(names) => names,
            None => self.with_kernel(|kernel, problems| kernel.utsname(problems)),
        };
        self.utsname = Some(read);
        read
    }

    /// Opens the kernel for one step: it borrows the vmcore, so it cannot be kept. Its problems are recorded once.
    fn with_kernel<T>(&mut self, step: impl FnOnce(&Kernel<'_>, &mut Problems) -> T) -> T {
        let mut again = Problems::new();
        let problems = if self.kernel_opened { &mut again } else { &mut self.problems };
        let kernel = Kernel::open(&self.vmcore, problems);
        self.kernel_opened = true;
        step(&kernel, &mut self.problems)
    }
}

/// The record of what an earlier filter has erased: it is still erased.
fn erased_before(vmcore: &Vmcore<'_>) -> String {
    vmcore.image().map_or_else(String::new, |image| String::from_utf8_lossy(&image.erased).into_owned())
}

/// What the headers of a dump say of the crashed kernel.
fn about<'v>(
    vmcore: &'v Vmcore<'_>,
    selection: &Selection,
    utsname: [[u8; 65]; 6],
    crash_time: u64,
    phys_base: u64,
) -> kdump::About<'v> {
    kdump::About {
        endian: vmcore.endian(),
        utsname,
        crash_time,
        phys_base,
        cpus: vmcore.cpus(),
        notes: vmcore.notes(),
        vmcoreinfo: vmcore.vmcoreinfo_range(),
        erased: &[],
        excluded_vmemmap: selection.account.vmemmap > 0
            || vmcore.image().is_some_and(|image| image.excluded_vmemmap),
        cut_off: vmcore.cut_off().is_some(),
        part: None,
    }
}

/// A dump is written when it is durable.
fn finished(written: Result<Written, SinkFailure>, sink: &dyn DumpSink) -> Result<Written, SinkFailure> {
    let written = written?;
    match sink.finish() {
        Ok(()) => Ok(written),
        Err(source) => Err(SinkFailure { source, written }),
    }
}

/// A NUL-padded string.
fn text(field: &[u8]) -> String {
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    String::from_utf8_lossy(field.get(..end).unwrap_or_default()).into_owned()
}

/// An error and its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        text.push_str(": ");
        text.push_str(&e.to_string());
        cause = e.source();
    }
    text
}

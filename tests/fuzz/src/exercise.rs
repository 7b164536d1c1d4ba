//! Everything the engine does with a vmcore, on one that nobody trusts.

use crate::Draw;
use collector::addr::{FileOffset, Pfn};
use collector::engine::{Engine, EngineError};
use collector::format::DumpSink;
use collector::format::read::{Found, KdumpFile};
use collector::kernel::printk::Style;
use collector::manifest::DumpReport;
use collector::plan::{Compression, DumpSpec, Format};
use collector::problem::Code;
use collector::progress::Silent;
use collector::vmcore::ReadAt;
use std::io;
use std::sync::Mutex;

/// Which dump.
#[derive(Clone, Copy, Debug)]
pub(crate) struct How {
    pub level: u8,
    format: Format,
    compression: Compression,
    threads: usize,
    /// Without what mem_map has of pages that are left out.
    thin: bool,
    /// Files, when it is split.
    parts: usize,
}

impl How {
    /// As two bytes of an input say.
    pub fn of(draw: &mut Draw<'_>) -> Self {
        let (level, how) = (draw.byte(), draw.byte());
        let codecs = [
            Compression::None,
            Compression::Zstd(-1),
            Compression::Lzo,
            Compression::Snappy,
            Compression::Zlib(1),
        ];
        let format = match how & 7 {
            6 => Format::Elf,
            7 => Format::Raw,
            _ => Format::Kdump,
        };
        Self {
            level: level & 31,
            thin: level & 0x80 != 0,
            format,
            compression: codecs[usize::from(how >> 3) % codecs.len()],
            threads: if how & 0xc0 == 0xc0 { 3 } else { 1 },
            parts: if how & 7 == 5 { 3 } else { 1 },
        }
    }

    fn spec(&self) -> DumpSpec {
        let Self { level, format, compression, .. } = *self;
        DumpSpec { exclude_vmemmap: self.thin, ..DumpSpec::new("vmcore", level, format, compression) }
    }
}

/// Bytes that are written before the disk is full.
const ROOM: usize = 64 << 20;
/// Dumps that end before this are kept, to be read back.
const KEPT: usize = 4 << 20;

/// A disk that counts, and keeps a dump that is small.
#[derive(Debug, Default)]
pub(crate) struct Sink(Mutex<Inside>);

#[derive(Debug, Default)]
struct Inside {
    used: usize,
    bytes: Vec<u8>,
    large: bool,
}

impl Sink {
    /// The file, unless it is large.
    pub fn into_bytes(self) -> Option<Vec<u8>> {
        let inside = self.0.into_inner().ok()?;
        (!inside.large).then_some(inside.bytes)
    }
}

impl DumpSink for Sink {
    fn write_at(&self, at: FileOffset, bytes: &[u8]) -> io::Result<()> {
        let mut inside = self.0.lock().map_err(|_| io::ErrorKind::Other)?;
        inside.used += bytes.len();
        if inside.used > ROOM {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let end = at.checked_add(bytes.len() as u64).and_then(|end| usize::try_from(end.get()).ok());
        let Some(end) = end.filter(|end| *end <= KEPT) else {
            inside.large = true;
            return Ok(());
        };
        if inside.bytes.len() < end {
            inside.bytes.resize(end, 0);
        }
        inside.bytes[end - bytes.len()..end].copy_from_slice(bytes);
        Ok(())
    }
    fn finish(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads the kernel's log.
pub(crate) fn log(source: &dyn ReadAt) {
    let Ok(mut engine) = Engine::open(source) else { return };
    // Both styles and the plain calls: none may do more than fail.
    drop(engine.dmesg(&mut io::sink()));
    drop(engine.dmesg_in(Style { callers: true, ..Style::default() }, &mut io::sink()));
    let _ = (engine.kernel(), engine.crash_time());
}

/// Opens it, reads single pages, writes a dump, and reads that back.
pub(crate) fn exercise(source: &dyn ReadAt, how: &How) {
    let Ok(mut engine) = Engine::open(source) else { return };
    engine.threads = how.threads;
    let mut page = vec![0; engine.vmcore().page_size().len()];
    for (start, end) in engine.vmcore().present_runs().into_iter().take(8) {
        let last = Pfn::new(end.get().saturating_sub(1));
        for pfn in [start, last, end] {
            drop(engine.vmcore().read_page(pfn, &mut page));
            if let Ok((window, pages)) = engine.vmcore().page_window(pfn, 3) {
                assert_eq!(window.len() as u64, pages * page.len() as u64);
            }
        }
    }
    let spec = how.spec();
    if how.parts > 1 {
        let sinks: Vec<Sink> = (0..how.parts).map(|_| Sink::default()).collect();
        let lent: Vec<&dyn DumpSink> = sinks.iter().map(|sink| sink as &dyn DumpSink).collect();
        let reports = engine.dump_split(&spec, &lent, 64, &Silent);
        let whole: Option<Vec<&DumpReport>> = reports.iter().map(|report| whole(report, how)).collect();
        if let Some(reports) = whole {
            let parts: Option<Vec<Vec<u8>>> = sinks.into_iter().map(Sink::into_bytes).collect();
            if let Some(parts) = parts {
                let parts = parts.into_iter().map(|part| Box::new(part) as Box<dyn ReadAt>).collect();
                read_back(KdumpFile::open_parts(parts), &reports);
            }
        }
    } else {
        let sink = Sink::default();
        let report = engine.dump(&spec, &sink, &Silent);
        if let (Some(report), Some(bytes)) = (whole(&report, how), sink.into_bytes())
            && how.format == Format::Kdump
        {
            read_back(KdumpFile::open(&bytes), &[report]);
        }
    }
    let told = engine.problems.list();
    assert!(told.iter().all(|p| p.code != Code::ACCOUNT_MISMATCH), "{told:?}");
}

/// The report of a dump that is complete.
fn whole<'r>(report: &'r Result<DumpReport, EngineError>, how: &How) -> Option<&'r DumpReport> {
    match report {
        Ok(report) => {
            assert!(report.pages.balanced(), "{:?}", report.pages);
            Some(report).filter(|report| report.complete)
        }
        Err(EngineError::Sink { source, report }) => {
            // Split dumps cannot be copied byte for byte.
            let full = source.kind() == io::ErrorKind::StorageFull;
            assert!(full || how.format == Format::Raw, "{source}");
            assert!(!report.complete);
            None
        }
        Err(e) => panic!("a vmcore that was opened: {e}"),
    }
}

/// What we wrote of whatever it was, we read: all pages of a complete dump.
fn read_back(dump: Result<KdumpFile<'_>, collector::format::read::KdumpError>, reports: &[&DumpReport]) {
    let mut dump = dump.unwrap_or_else(|e| panic!("our own dump: {e}"));
    let mut page = vec![0; dump.page_size().len()];
    let runs: Vec<_> = dump.describes().dumped.runs().collect();
    let mut pages = 0;
    for pfn in runs.iter().flat_map(|(start, end)| start.get()..end.get()) {
        let found = dump.page(Pfn::new(pfn), &mut page);
        let found = found.unwrap_or_else(|e| panic!("our own dump, page {pfn:#x}: {e}"));
        assert_eq!(found, Found::Page, "our own dump, page {pfn:#x}");
        pages += 1;
    }
    // Zero pages that are left out keep their descriptors.
    if reports.iter().all(|report| report.level_applied & 1 == 0) {
        let kept: u64 = reports.iter().map(|report| report.pages.kept).sum();
        assert_eq!(pages, kept, "pages of our own dump");
    }
}

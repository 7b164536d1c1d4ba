//! Whether a dump is what it says: every descriptor in bounds, every page a page when it is decompressed.

use super::{KdumpError, KdumpFile};
use crate::addr::{FileOffset, Pfn};
use crate::filter::Level;
use crate::format::layout::{Flags, PageDesc};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Pages that a thread takes at a time.
const BATCH: u64 = 1024;
/// Pages that are decompressed in one go, before they are looked at one by one.
const STEP: u64 = 64;

/// Pages of a dump by how they are stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Census {
    /// Descriptors that were looked at.
    pub pages: u64,
    /// Nothing but zeros: they share the block behind the descriptors.
    pub zero: u64,
    /// As they are.
    pub raw: u64,
    /// zlib.
    pub zlib: u64,
    /// lzo1x.
    pub lzo: u64,
    /// Snappy.
    pub snappy: u64,
    /// zstd.
    pub zstd: u64,
    /// By something else.
    pub unknown: u64,
    /// Not there: offset 0, or of a part that is not there.
    pub missing: u64,
    /// Behind the end of the file.
    pub beyond: u64,
    /// Bytes of page data.
    pub stored: u64,
}

/// Where a file's data begins and ends.
#[derive(Clone, Copy)]
struct Ends {
    data: u64,
    size: u64,
    /// What lies at its beginning is the page that all zero pages share.
    shares_zeros: bool,
}

impl Ends {
    fn of(dump: &KdumpFile<'_>, part: usize) -> Self {
        Self {
            data: dump.data_start(part),
            size: dump.part_source(part).map_or(0, |source| source.size()),
            shares_zeros: dump.describes().level & Level::ZERO != 0,
        }
    }
}

impl Census {
    fn count(&mut self, desc: &PageDesc, ends: Ends) {
        self.pages += 1;
        let (at, len) = (desc.offset.get(), u64::from(desc.size.get()));
        if at == 0 {
            self.missing += 1;
            return;
        }
        if at.checked_add(len).is_none_or(|end| end > ends.size) {
            self.beyond += 1;
        }
        if at == ends.data && ends.shares_zeros && Flags(desc.flags.get()) == Flags::RAW {
            self.zero += 1;
            return;
        }
        self.stored = self.stored.saturating_add(len);
        *match Flags(desc.flags.get()) {
            Flags::RAW => &mut self.raw,
            Flags::ZLIB => &mut self.zlib,
            Flags::LZO => &mut self.lzo,
            Flags::SNAPPY => &mut self.snappy,
            Flags::ZSTD => &mut self.zstd,
            _ => &mut self.unknown,
        } += 1;
    }

    fn add(&mut self, other: &Self) {
        let Self { pages, zero, raw, zlib, lzo, snappy, zstd, unknown, missing, beyond, stored } = *other;
        for (sum, more) in [
            (&mut self.pages, pages),
            (&mut self.zero, zero),
            (&mut self.raw, raw),
            (&mut self.zlib, zlib),
            (&mut self.lzo, lzo),
            (&mut self.snappy, snappy),
            (&mut self.zstd, zstd),
            (&mut self.unknown, unknown),
            (&mut self.missing, missing),
            (&mut self.beyond, beyond),
            (&mut self.stored, stored),
        ] {
            *sum = sum.saturating_add(more);
        }
    }
}

/// A page that is not what its descriptor says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// The page.
    pub pfn: Pfn,
    /// Where its data lies, as far as that is known.
    pub offset: Option<FileOffset>,
    /// What is wrong.
    pub why: String,
}

/// What [`verify`] found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Verified {
    /// Pages by how they are stored.
    pub census: Census,
    /// Number of damaged pages; those that are missing are not among them.
    pub damaged: u64,
    /// The first of them by pfn, as many as were asked for.
    pub list: Vec<Damage>,
    /// What is wrong with the headers, the bitmaps, or the file as a whole.
    pub faults: Vec<String>,
}

impl Verified {
    /// Nothing is wrong. A dump that says it is incomplete is damaged too: pages are missing.
    pub fn is_sound(&self) -> bool {
        self.damaged == 0 && self.census.missing == 0 && self.faults.is_empty()
    }
}

/// Counts pages by how they are stored: reads descriptors only, and none when there are more than `most` pages (`None`).
pub fn census(dump: &KdumpFile<'_>, most: u64) -> Result<Option<Census>, KdumpError> {
    if dump.describes().dumped.count() > most {
        return Ok(None);
    }
    let mut total = Census::default();
    let mut descs = vec![PageDesc::default(); 4096];
    for (start, end) in dump.describes().dumped.runs() {
        let mut at = start;
        while at < end {
            let left = usize::try_from(end.get() - at.get()).unwrap_or(usize::MAX).min(descs.len());
            let (found, part) = dump.descriptors(at, descs.get_mut(..left).unwrap_or_default())?;
            let ends = Ends::of(dump, part);
            descs.iter().take(found).for_each(|desc| total.count(desc, ends));
            if found == 0 {
                // A part that is not there.
                total.pages += 1;
                total.missing += 1;
            }
            at = Pfn::new(at.get().saturating_add(found.max(1) as u64));
        }
    }
    Ok(Some(total))
}

/// Reads and decompresses every page on `threads` threads. `progress` is told now and then how many pages are done. At most
/// `most` damaged pages are listed.
pub fn verify(
    dump: &KdumpFile<'_>,
    threads: usize,
    most: usize,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Verified {
    let total = dump.describes().dumped.count();
    let done = AtomicU64::new(0);
    let work = Mutex::new(batches(dump));
    let found = Mutex::new(Verified::default());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                let mut own = Verified::default();
                let mut checker = Checker { dump, buf: Vec::new(), descs: Vec::new(), most };
                loop {
                    // A lock that a panicking thread left holds nothing half done.
                    let next = work.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some((start, end)) = next else { break };
                    checker.check(start, end, &mut own);
                    let pages = end.get().saturating_sub(start.get());
                    progress(done.fetch_add(pages, Ordering::Relaxed).saturating_add(pages), total);
                }
                let mut all = found.lock().unwrap_or_else(PoisonError::into_inner);
                all.census.add(&own.census);
                all.damaged = all.damaged.saturating_add(own.damaged);
                all.list.append(&mut own.list);
            });
        }
    });
    let mut verified = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    verified.list.sort_by_key(|damage| damage.pfn);
    verified.list.truncate(most);
    verified.faults = faults(dump, &verified.census);
    verified
}

/// Runs of pages with data, in pieces.
fn batches<'d>(dump: &'d KdumpFile<'_>) -> impl Iterator<Item = (Pfn, Pfn)> + Send + 'd {
    let pieces = |(start, end): (Pfn, Pfn)| {
        (start.get()..end.get())
            .step_by(1024)
            .map(move |from| (Pfn::new(from), Pfn::new(end.get().min(from.saturating_add(BATCH)))))
    };
    dump.describes().dumped.runs().flat_map(pieces)
}

struct Checker<'d, 'a> {
    dump: &'d KdumpFile<'a>,
    buf: Vec<u8>,
    descs: Vec<PageDesc>,
    most: usize,
}

impl Checker<'_, '_> {
    fn check(&mut self, start: Pfn, end: Pfn, found: &mut Verified) {
        let page = self.dump.page_size().len();
        let mut at = start.get();
        while at < end.get() {
            let pages = STEP.min(end.get() - at);
            let count = usize::try_from(pages).unwrap_or(1);
            self.buf.resize(count.saturating_mul(page), 0);
            let sound = self.dump.fill(Pfn::new(at), &mut self.buf).is_ok();
            self.descs.resize(count, PageDesc::default());
            let described = self.dump.descriptors(Pfn::new(at), &mut self.descs);
            let inside = |descs: &[PageDesc], part: usize| {
                let first = self.dump.data_start(part);
                descs.iter().all(|desc| desc.offset.get() >= first)
            };
            match described {
                Ok((got, part)) if sound && got == count && inside(&self.descs, part) => {
                    let ends = Ends::of(self.dump, part);
                    self.descs.iter().for_each(|desc| found.census.count(desc, ends));
                }
                _ => (at..at.saturating_add(pages)).for_each(|pfn| self.one(Pfn::new(pfn), found)),
            }
            at = at.saturating_add(pages);
        }
    }

    /// One page by itself: its neighbour's damage is not its own.
    fn one(&mut self, pfn: Pfn, found: &mut Verified) {
        let mut damaged = |offset: Option<FileOffset>, why: String| {
            found.damaged = found.damaged.saturating_add(1);
            if found.list.len() < self.most {
                found.list.push(Damage { pfn, offset, why });
            }
        };
        let stored = match self.dump.stored(pfn) {
            Ok(Some(stored)) => stored,
            Ok(None) => {
                found.census.pages += 1;
                found.census.missing += 1;
                return;
            }
            Err(e) => return damaged(None, crate::engine::chain(&e)),
        };
        let offset = FileOffset::new(stored.desc.offset.get());
        let first = self.dump.data_start(stored.part);
        if offset.get() != 0 && offset.get() < first {
            damaged(
                Some(offset),
                format!("its data would lie in the headers, which end at offset {first:#x}"),
            );
        } else {
            let page = self.dump.page_size().len();
            self.buf.resize(page, 0);
            match self.dump.fill(pfn, self.buf.get_mut(..page).unwrap_or_default()) {
                Ok(()) | Err(KdumpError::Missing(_)) => {}
                Err(e) => damaged(Some(offset), crate::engine::chain(&e)),
            }
        }
        found.census.count(&stored.desc, Ends::of(self.dump, stored.part));
    }
}

/// What is wrong beside the pages.
fn faults(dump: &KdumpFile<'_>, census: &Census) -> Vec<String> {
    let mut faults = Vec::new();
    let image = dump.describes();
    for complaint in crate::vmcore::ReadAt::complaints(dump) {
        faults.push(complaint.message.clone());
    }
    let strange = image.dumped.beyond(&image.present);
    if strange > 0 {
        faults.push(format!(
            "{strange} pages have data (bitmap 2), and the machine had no such pages (bitmap 1)"
        ));
    }
    if census.missing > 0 && !dump.incomplete() {
        faults.push(format!("{} pages are missing, and the header does not say so", census.missing));
    }
    if image.notes.is_empty() && dump.header().header_version.get() >= 4 {
        faults.push("there are no notes: no VMCOREINFO and no registers".to_owned());
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::super::tests::sample;
    use super::*;

    fn run(file: &Vec<u8>, threads: usize) -> Verified {
        verify(&KdumpFile::open(file).unwrap(), threads, 10, &|_, _| {})
    }

    #[test]
    fn a_sound_dump_is_sound_on_any_number_of_threads() {
        let file = sample().build();
        for threads in [1, 3] {
            let verified = run(&file, threads);
            assert!(verified.is_sound(), "{verified:?}");
            let pages = sample().pages.len() as u64;
            assert_eq!((verified.census.pages, verified.census.zero + verified.census.zstd), (pages, pages));
            let dump = KdumpFile::open(&file).unwrap();
            assert_eq!(census(&dump, pages).unwrap(), Some(verified.census));
            assert_eq!(census(&dump, pages - 1).unwrap(), None);
        }
    }

    /// One page is damaged at a time, in its descriptor and in its data; it is named and no other is.
    #[test]
    fn the_damaged_page_is_named() {
        let good = sample().build();
        let dump = KdumpFile::open(&good).unwrap();
        let descs = usize::try_from(dump.headers.descs).unwrap();
        let pages: Vec<u64> = sample().pages.iter().map(|(pfn, _)| *pfn).collect();
        for index in [0, 1, 60, 200, pages.len() - 1] {
            let pfn = Pfn::new(pages[index]);
            let desc = dump.descriptor(pfn).unwrap().unwrap();
            let slot = descs + index * 24;
            let at = usize::try_from(desc.offset.get()).unwrap();
            let mut cases = vec![
                (slot, u64::MAX.to_le_bytes().to_vec(), "the descriptor of page"),
                (slot, (1_u64 << 40).to_le_bytes().to_vec(), "cannot read a page"),
                (slot, 0x2000_u64.to_le_bytes().to_vec(), "in the headers"),
                (slot + 8, 0_u32.to_le_bytes().to_vec(), "says 0 bytes"),
                (slot + 8, 5000_u32.to_le_bytes().to_vec(), "says 5000 bytes"),
                (slot + 12, 0x80_u32.to_le_bytes().to_vec(), "is damaged"),
            ];
            if desc.flags.get() == 0x20 {
                cases.push((at, vec![0xff; 4], "is damaged"));
            }
            for (place, bytes, want) in cases {
                let mut file = good.clone();
                file[place..place + bytes.len()].copy_from_slice(&bytes);
                let verified = run(&file, 2);
                assert_eq!((verified.damaged, verified.list.len()), (1, 1), "{want} at {pfn}: {verified:?}");
                assert_eq!(verified.list[0].pfn, pfn);
                assert!(verified.list[0].why.contains(want), "{want}: {verified:?}");
            }
        }
    }

    #[test]
    fn missing_pages_and_wrong_bitmaps_are_faults() {
        let mut case = sample();
        case.pages[7].1 = None;
        let verified = run(&case.build(), 1);
        assert_eq!((verified.census.missing, verified.damaged), (1, 0));
        assert!(verified.faults[0].contains("does not say so"), "{verified:?}");
        let mut file = sample().build();
        // Pages in bitmap 2 that bitmap 1 does not have.
        file[8192 + 5000] = 0;
        let verified = run(&file, 1);
        assert!(verified.faults.iter().any(|f| f.contains("bitmap 1")), "{verified:?}");
        let cut = &sample().build()[..4096 * 8];
        assert!(!run(&cut.to_vec(), 1).is_sound());
    }

    #[test]
    fn the_list_is_bounded() {
        let mut case = sample();
        case.compressed = false;
        let mut file = case.build();
        file.truncate(file.len() - 4096 * 100);
        let verified = run(&file, 2);
        assert!(verified.damaged >= 80 && verified.list.len() == 10, "{verified:?}");
        assert!(verified.list.is_sorted_by_key(|d| d.pfn));
    }
}

//! The scan of mem_map: once, by one thread or several, each a chunk of pfns at a time.
//!
//! A block is aligned to its size, so one that ends past its chunk begins a chunk and holds whole chunks: only hugetlb pages
//! of the largest sizes do. [`Cursor`] looks at the first page of each chunk where such a block can begin before it hands the
//! chunk out, and decides the block as one; so every chunk that is handed out stands for itself, and several threads decide
//! what one would.

use super::batch::{self, Batch};
use super::bitmap::CHUNK_BITS;
use super::log::Log;
use super::rules::{Rules, Verdict};
use super::sheet::Sheet;
use super::{Account, Bitmap, Reason};
use crate::addr::Pfn;
use crate::kernel::memmap::{Stretch, Stretches};
use crate::kernel::{Kernel, Seen};
use crate::manifest::Stage;
use crate::problem::{Code, Problems};
use crate::progress::Progress;
use crate::vmcore::{Endian, ReadError};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use zerocopy::{BigEndian, ByteOrder, LittleEndian};

/// More threads than this are never of use: memory is busy before.
const MAX_THREADS: usize = 64;
/// The first stretch of mem_map that is copied, and the largest, in bytes: more would not stay in a CPU's cache. They grow
/// while there are single pages, and start anew behind a large block, of which only the first `struct page`s are read.
const COPIES: (usize, usize) = (4096, 64 << 10);
/// How much they grow.
const GROWTH: usize = 8;
/// Copies without a large block after which none is expected. Until then none goes past a multiple of [`HUGE`] pages, where
/// free blocks and huge pages begin.
const PATIENCE: u32 = 16;
/// Pages of a huge page on most machines, and half of a free block of the largest order.
const HUGE: u64 = 512;
/// The largest window where the source's reads cost more than its mappings.
const WINDOW: usize = 2 << 20;
/// Pages of a block that is large: such a block begins at a multiple.
const LARGE: u64 = batch::PAGES as u64;

/// What is the same for all threads of a scan.
pub(super) struct Scan<'s, 'a> {
    pub kernel: &'s Kernel<'a>,
    pub rules: &'s Rules,
    pub present: &'s Bitmap,
    batch: Option<Batch>,
    /// mem_map is copied in pieces rather than seen through windows.
    copies: bool,
    /// Windows are mappings.
    maps: bool,
}

/// What the threads share.
struct Shared<'k, 'a> {
    cursor: Mutex<Cursor<'k, 'a>>,
    keep: Mutex<Bitmap>,
    done: AtomicU64,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'s, 'a> Scan<'s, 'a> {
    pub fn new(kernel: &'s Kernel<'a>, rules: &'s Rules, present: &'s Bitmap) -> Self {
        Self {
            kernel,
            rules,
            present,
            batch: Batch::new(rules),
            copies: kernel.vmcore().source().reads_cheaply(),
            maps: kernel.vmcore().source().maps(),
        }
    }

    /// Looks at every `struct page` of `stretches`; returns what is kept and what was dropped.
    pub fn run(
        &self,
        stretches: Stretches<'_, 'a>,
        threads: usize,
        progress: &dyn Progress,
        problems: &mut Problems,
    ) -> (Bitmap, Account) {
        let total = self.present.count();
        let shared = Shared {
            cursor: Mutex::new(Cursor { stretches, current: None, decided: 0 }),
            keep: Mutex::new(self.present.clone()),
            done: AtomicU64::new(0),
        };
        let shared_ref = &shared;
        let mut workers = vec![];
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads.clamp(1, MAX_THREADS))
                .map_while(|number| {
                    let work = move || Worker::new(self).run(shared_ref, &mut |_| ());
                    // Without room for another thread there are fewer.
                    let name = format!("scan-{number}");
                    std::thread::Builder::new().name(name).spawn_scoped(scope, work).ok()
                })
                .collect();
            workers.push(Worker::new(self).run(shared_ref, &mut |done| {
                progress.update(Stage::Dump, "scanning", done.min(total), total, 0);
            }));
            for other in others {
                match other.join() {
                    Ok(worker) => workers.push(worker),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
        });
        let cursor = shared.cursor.into_inner().unwrap_or_else(PoisonError::into_inner);
        problems.extend(cursor.stretches.problems().list().iter().cloned());
        let (accounts, logs): (Vec<_>, Vec<_>) = workers.into_iter().unzip();
        Log::tell(logs, problems);
        let account = accounts.iter().fold(Account::default(), |sum, one| sum.plus(one));
        (shared.keep.into_inner().unwrap_or_else(PoisonError::into_inner), account)
    }

    /// The block that page `at` begins, if it is larger than a chunk and all there.
    fn giant(&self, stretch: &Stretch, at: u64) -> Option<Giant> {
        let size = self.rules.size();
        let mut both = vec![0; size.saturating_mul(2)];
        self.kernel.read_virt(stretch.page_at(at, size as u64), &mut both).ok()?;
        let (reason, pages) = match self.rules.verdict(at, both.get(..size)?, both.get(size..)) {
            Verdict::Keep(pages) => (None, pages),
            Verdict::Drop(reason, pages) => (Some(reason), pages),
            Verdict::Impossible(_) | Verdict::Headless | Verdict::NeedNext => return None,
        };
        let end = at.checked_add(pages)?;
        (pages > CHUNK_BITS && self.present.covers(Pfn::new(at), Pfn::new(end))).then_some(Giant {
            reason,
            start: at,
            end,
        })
    }
}

/// A block of several chunks.
#[derive(Clone, Copy)]
struct Giant {
    reason: Option<Reason>,
    start: u64,
    end: u64,
}

/// Work for a thread.
enum Unit {
    /// The chunk that begins at this pfn; its stretches are in the list that was given.
    Chunk(u64),
    Giant(Giant),
}

/// What has not been handed out.
struct Cursor<'k, 'a> {
    stretches: Stretches<'k, 'a>,
    current: Option<Stretch>,
    /// Pages below are handed out.
    decided: u64,
}

impl Cursor<'_, '_> {
    /// The next unit of work, `None` when there is no more.
    fn claim(&mut self, scan: &Scan<'_, '_>, pieces: &mut Vec<Stretch>) -> Option<Unit> {
        pieces.clear();
        let mut base = 0;
        loop {
            if self.current.is_none() {
                self.current = self.stretches.next();
            }
            let Some(stretch) = self.current else {
                return (!pieces.is_empty()).then_some(Unit::Chunk(base));
            };
            let at = stretch.start.get().max(self.decided);
            if at >= stretch.end.get() {
                self.current = None;
                continue;
            }
            if pieces.is_empty() {
                base = at / CHUNK_BITS * CHUNK_BITS;
                if at.is_multiple_of(2 * CHUNK_BITS)
                    && let Some(giant) = scan.giant(&stretch, at)
                {
                    self.decided = giant.end;
                    return Some(Unit::Giant(giant));
                }
            }
            let limit = base.saturating_add(CHUNK_BITS);
            if at >= limit {
                return Some(Unit::Chunk(base));
            }
            let end = stretch.end.get().min(limit);
            self.decided = end;
            match pieces.last_mut() {
                Some(last) if last.end.get() == at && last.base == stretch.base => last.end = Pfn::new(end),
                _ => pieces.push(Stretch { start: Pfn::new(at), end: Pfn::new(end), base: stretch.base }),
            }
        }
    }
}

/// One thread's part.
struct Worker<'w, 's, 'a> {
    scan: &'w Scan<'s, 'a>,
    sheet: Sheet,
    log: Log,
    seen: Seen,
    /// Room for what is copied.
    buffer: Vec<u8>,
    /// Bytes of the next copy; 0 behind a large block.
    reach: usize,
    /// Copies since a large block.
    dry: u32,
}

impl<'w, 's, 'a> Worker<'w, 's, 'a> {
    fn new(scan: &'w Scan<'s, 'a>) -> Self {
        let buffer = vec![0; if scan.copies { COPIES.1 } else { 0 }];
        Self {
            scan,
            sheet: Sheet::new(),
            log: Log::default(),
            seen: Seen::default(),
            buffer,
            reach: 0,
            dry: 0,
        }
    }

    /// Works until nothing is left; tells how many pages all threads together are done with.
    fn run(mut self, shared: &Shared<'_, 'a>, tell: &mut dyn FnMut(u64)) -> (Account, Log) {
        let mut pieces = Vec::new();
        loop {
            let unit = locked(&shared.cursor).claim(self.scan, &mut pieces);
            let pages = match unit {
                None => return (self.sheet.account, self.log),
                Some(Unit::Giant(giant)) => {
                    if let Some(reason) = giant.reason {
                        let (start, end) = (Pfn::new(giant.start), Pfn::new(giant.end));
                        let dropped = locked(&shared.keep).clear_range(start, end);
                        self.sheet.account.drop_pages(reason, dropped);
                    }
                    giant.end.saturating_sub(giant.start)
                }
                Some(Unit::Chunk(base)) => {
                    self.sheet.load(base, self.scan.present);
                    self.chunk(&pieces);
                    if let Some(words) = self.sheet.kept() {
                        locked(&shared.keep).set_words(base, words);
                    }
                    pieces.iter().fold(0, |n, p| p.end.get().saturating_sub(p.start.get()).saturating_add(n))
                }
            };
            tell(shared.done.fetch_add(pages, Ordering::Relaxed).saturating_add(pages));
        }
    }

    /// Decides for the pages of a chunk that have a `struct page`.
    fn chunk(&mut self, pieces: &[Stretch]) {
        let mut decided = 0;
        for piece in pieces {
            // A block may reach past its stretch.
            let mut at = piece.start.get().max(decided);
            while at < piece.end.get() {
                at = self.window(piece, at).max(at.saturating_add(1));
            }
            decided = decided.max(at);
        }
    }

    /// Decides for the pages whose `struct page`s lie in one piece from `at` on; returns the first that is not decided.
    fn window(&mut self, piece: &Stretch, at: u64) -> u64 {
        let left = piece.end.get().saturating_sub(at);
        if !self.scan.copies {
            return self.mapped(piece, at, left);
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let next = self.copied(piece, at, &mut buffer, left);
        self.buffer = buffer;
        next
    }

    /// The same from a window.
    fn mapped(&mut self, piece: &Stretch, at: u64, left: u64) -> u64 {
        let size = self.scan.rules.size();
        let address = piece.page_at(at, size as u64);
        let len = usize::try_from(left).unwrap_or(usize::MAX).saturating_mul(size).min(WINDOW);
        self.dry = self.dry.saturating_add(1);
        let next = match self.scan.kernel.window(&mut self.seen, address, len) {
            Ok(window) => self.seen_pages(piece, at, &window),
            Err(e) => self.unreadable(piece, at, &e),
        };
        if self.dry == 0 {
            self.reach = 0;
        }
        next
    }

    /// The same from a copy in `buffer`; `left` pages of the stretch are left.
    fn copied(&mut self, piece: &Stretch, at: u64, buffer: &mut [u8], left: u64) -> u64 {
        let size = self.scan.rules.size();
        let address = piece.page_at(at, size as u64);
        if self.reach >= COPIES.1 && self.scan.maps {
            return self.mapped(piece, at, left);
        }
        let expected = self.dry < PATIENCE;
        let may_begin = self.reach == 0 && at.is_multiple_of(LARGE) || expected && at.is_multiple_of(HUGE);
        if may_begin && left >= LARGE {
            let both = buffer.get_mut(..size.saturating_mul(2)).unwrap_or_default();
            let there = self.scan.kernel.read_some(&mut self.seen, address, both);
            if there.is_ok_and(|len| len == both.len())
                && let Some((first, second)) = both.split_at_checked(size)
            {
                let verdict = self.scan.rules.verdict(at, first, Some(second));
                if matches!(verdict, Verdict::Keep(pages) | Verdict::Drop(_, pages) if pages >= LARGE) {
                    self.reach = 0;
                    return at.saturating_add(self.apply(at, verdict));
                }
            }
        }
        self.reach = self.reach.max(COPIES.0);
        self.dry = self.dry.saturating_add(1);
        let pages = (self.reach / size).max(2) as u64;
        // To a multiple of a batch, so that the next copy begins with one.
        let end = at.saturating_add(pages);
        let aligned = if expected && end / HUGE > at / HUGE { end - end % HUGE } else { end - end % LARGE };
        let pages = if aligned > at { aligned - at } else { pages }.min(left);
        let len = usize::try_from(pages).unwrap_or(usize::MAX).saturating_mul(size).min(buffer.len());
        let want = buffer.get_mut(..len).unwrap_or_default();
        match self.scan.kernel.read_some(&mut self.seen, address, want) {
            Ok(len) => {
                let next = self.seen_pages(piece, at, want.get(..len).unwrap_or_default());
                // A large block was among them: another may follow.
                self.reach = if self.dry == 0 { 0 } else { self.reach.saturating_mul(GROWTH).min(COPIES.1) };
                next
            }
            Err(e) => self.unreadable(piece, at, &e),
        }
    }

    /// Decides for the pages whose `struct page`s are in `window`, or for the first of them alone.
    fn seen_pages(&mut self, piece: &Stretch, at: u64, window: &[u8]) -> u64 {
        match self.pages(window, at) {
            next if next > at => next,
            _ => self.single(piece, at),
        }
    }

    /// Decides for one page whose own or next `struct page` does not lie in one piece with it.
    fn single(&mut self, piece: &Stretch, at: u64) -> u64 {
        let size = self.scan.rules.size();
        let address = piece.page_at(at, size as u64);
        let mut both = vec![0; size.saturating_mul(2)];
        if self.scan.kernel.read_virt(address, &mut both).is_err() {
            both.truncate(size);
            if let Err(e) = self.scan.kernel.read_virt(address, &mut both) {
                return self.unreadable(piece, at, &e);
            }
        }
        let first = both.get(..size).unwrap_or_default();
        let next = both.get(size..).filter(|n| !n.is_empty());
        let verdict = self.scan.rules.verdict(at, first, next);
        at.saturating_add(self.apply(at, verdict))
    }

    /// Decides for the pages in `window`, from pfn `start`; returns the first that is not decided, `start` when the next
    /// `struct page` is needed for the very first.
    fn pages(&mut self, window: &[u8], start: u64) -> u64 {
        match (&self.scan.batch, self.scan.kernel.vmcore().endian()) {
            (Some(batch), Endian::Little) => self.batches::<LittleEndian>(batch, window, start),
            (Some(batch), Endian::Big) => self.batches::<BigEndian>(batch, window, start),
            (None, _) => self.one_by_one(window, start, u64::MAX).0,
        }
    }

    /// Decides for pages one after the other, up to pfn `end`; returns the first that is not decided, and whether that is
    /// for want of the next `struct page`.
    fn one_by_one(&mut self, window: &[u8], start: u64, end: u64) -> (u64, bool) {
        let (size, rules) = (self.scan.rules.size(), self.scan.rules);
        let mut pfn = start;
        let mut rest = window;
        while pfn < end
            && let Some((page, after)) = rest.split_at_checked(size)
        {
            let step = match rules.verdict(pfn, page, after.get(..size)) {
                Verdict::NeedNext => return (pfn, true),
                verdict => self.apply(pfn, verdict),
            };
            pfn = pfn.saturating_add(step);
            let skip = usize::try_from(step).unwrap_or(usize::MAX).saturating_mul(size);
            rest = rest.get(skip..).unwrap_or_default();
        }
        (pfn, false)
    }

    /// As [`Worker::one_by_one`], 64 at a time where that many are there.
    fn batches<O: ByteOrder>(&mut self, batch: &Batch, window: &[u8], start: u64) -> u64 {
        let rules = self.scan.rules;
        let end = start.saturating_add((window.len() / batch::SIZE) as u64);
        let mut pfn = start;
        while pfn < end {
            let skip = usize::try_from(pfn.saturating_sub(start)).unwrap_or(usize::MAX);
            let rest = window.get(skip.saturating_mul(batch::SIZE)..).unwrap_or_default();
            let pages = if pfn.is_multiple_of(batch::PAGES as u64) { batch::pages::<O>(rest) } else { None };
            let Some(pages) = pages else {
                let aligned = pfn.saturating_add(1).next_multiple_of(batch::PAGES as u64);
                let (next, stuck) = self.one_by_one(rest, pfn, aligned);
                pfn = next;
                if stuck {
                    break;
                }
                continue;
            };
            let page = |index: usize| {
                let at = index.saturating_mul(batch::SIZE);
                let next = at.saturating_add(batch::SIZE);
                (rest.get(at..next).unwrap_or_default(), rest.get(next..next.saturating_add(batch::SIZE)))
            };
            // A block of 64 pages or more begins here: nothing more of it is looked at.
            let mut covered = 0;
            if pages.first().is_some_and(|first| batch.is_special(first)) {
                let (first, second) = page(0);
                covered = self.apply(pfn, rules.verdict(pfn, first, second));
                if covered >= batch::PAGES as u64 {
                    pfn = pfn.saturating_add(covered);
                    continue;
                }
            }
            let mut masks = batch.classify(pages);
            let mut decided = u64::MAX << covered;
            let mut special = masks.special & decided;
            while special != 0 {
                let index = special.trailing_zeros();
                let at = pfn.saturating_add(index.into());
                let (first, second) = page(usize::try_from(index).unwrap_or(0));
                let verdict = rules.verdict(at, first, second);
                if verdict == Verdict::NeedNext {
                    // The last of the window.
                    decided &= !(u64::MAX << index);
                    break;
                }
                let block = bits(index.into(), self.apply(at, verdict));
                special &= !block;
                masks.drop.iter_mut().for_each(|mask| *mask &= !block);
            }
            for (reason, mask) in batch::Masks::REASONS.into_iter().zip(masks.drop) {
                self.sheet.drop_mask(reason, pfn, mask & decided);
            }
            if special != 0 {
                return pfn.saturating_add(special.trailing_zeros().into());
            }
            pfn = pfn.saturating_add(batch::PAGES as u64);
        }
        pfn
    }

    /// Does what a verdict says; returns how far to go on.
    fn apply(&mut self, pfn: u64, verdict: Verdict) -> u64 {
        match verdict {
            Verdict::Keep(1) => 1,
            Verdict::Keep(pages) | Verdict::Drop(_, pages) if !self.sheet.covers(pfn, pages) => {
                self.impossible(pfn, pages.trailing_zeros().into())
            }
            Verdict::Keep(pages) => self.block(pages),
            Verdict::Drop(reason, pages) => {
                self.sheet.drop_block(reason, pfn, pages);
                self.block(pages)
            }
            Verdict::Impossible(order) => self.impossible(pfn, order),
            Verdict::Headless | Verdict::NeedNext => {
                self.log.push(pfn, Code::ORDER_IMPOSSIBLE, || {
                    format!("page {pfn:#x} is the head of a compound page without tails: kept")
                });
                1
            }
        }
    }

    /// Takes note of a block that was believed.
    fn block(&mut self, pages: u64) -> u64 {
        if pages >= LARGE {
            self.dry = 0;
        }
        pages
    }

    fn impossible(&mut self, pfn: u64, order: u64) -> u64 {
        self.log.push(pfn, Code::ORDER_IMPOSSIBLE, || {
            format!("page {pfn:#x} claims a block of order {order}, which is misaligned, too big or not all there: kept")
        });
        1
    }

    /// Passes over the pages whose `struct page` cannot be read for the reason that that of `at` cannot.
    fn unreadable(&mut self, piece: &Stretch, at: u64, error: &ReadError) -> u64 {
        let page = self.scan.kernel.vmcore().page_size().bytes();
        let size = self.scan.rules.size() as u64;
        let address = piece.page_at(at, size);
        let room = match self.scan.kernel.gap(&mut self.seen, address) {
            // It begins in memory that is there: what fails is its end, or the file.
            0 => page - (address.get() & (page - 1)),
            gap => gap,
        };
        let next = at.saturating_add(room.div_ceil(size)).min(piece.end.get());
        self.log.push(at, Code::MEM_MAP_UNREADABLE, || {
            format!("pages {at:#x} to {next:#x} are kept, their struct page is not to be read: {error}")
        });
        next
    }
}

/// `pages` bits from bit `from` on, as far as there are 64.
fn bits(from: u64, pages: u64) -> u64 {
    let ones = if pages >= 64 { u64::MAX } else { !(u64::MAX << pages) };
    ones << from
}

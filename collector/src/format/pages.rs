//! Whole pages out of the vmcore, through windows as large as the source lends them.

use crate::addr::{PageSize, Pfn};
use crate::vmcore::{ReadError, Vmcore, Window};

/// Where a writer reads pages.
pub trait PageSource: Sync {
    /// Bytes of a page.
    fn page_size(&self) -> PageSize;
    /// Whether a window costs the same whatever its length (a mapping), so that pages in it that nobody wants are free.
    fn windows_are_cheap(&self) -> bool;
    /// Lends whole pages from `pfn` in one piece: at least one, at most `most`, fewer where the source's piece ends.
    /// [`ReadError::NotBacked`] when only [`PageSource::page`] can read that page.
    fn window(&self, pfn: Pfn, most: u64) -> Result<Window<'_>, ReadError>;
    /// Says that so many pages are wanted soon, see [`crate::vmcore::ReadAt::expect`].
    fn expect(&self, _pfn: Pfn, _pages: u64) {}
    /// One page; what no segment holds of it reads as zero; an error if no part can be read.
    fn page(&self, pfn: Pfn, buf: &mut [u8]) -> Result<(), ReadError>;
}

impl PageSource for Vmcore<'_> {
    fn page_size(&self) -> PageSize {
        Vmcore::page_size(self)
    }
    fn windows_are_cheap(&self) -> bool {
        self.source().maps()
    }
    fn window(&self, pfn: Pfn, most: u64) -> Result<Window<'_>, ReadError> {
        self.page_window(pfn, most).map(|(window, _)| window)
    }
    fn expect(&self, pfn: Pfn, pages: u64) {
        self.expect_pages(pfn, pages);
    }
    fn page(&self, pfn: Pfn, buf: &mut [u8]) -> Result<(), ReadError> {
        self.read_page(pfn, buf)
    }
}

/// Reads pages in ascending order, most of them without a copy.
#[expect(missing_debug_implementations, reason = "holds a dead kernel's memory")]
pub struct PageReader<'a> {
    source: &'a dyn PageSource,
    page: PageSize,
    /// The current window and its first pfn.
    window: Option<(u64, Window<'a>)>,
    /// A page that no window holds.
    single: Vec<u8>,
    /// No windows below this pfn: one has failed.
    singly_below: u64,
    /// The source was told that pages below this pfn are wanted.
    told_below: u64,
}

/// After a window has failed so many pages are read one by one before the next is tried.
const SINGLY: u64 = 256;

/// Pages of a run that the source is asked for at once.
const FETCH: u64 = 256;

impl<'a> PageReader<'a> {
    /// A reader without a window.
    pub fn new(source: &'a dyn PageSource) -> Self {
        let page = source.page_size();
        Self { source, page, window: None, single: vec![0; page.len()], singly_below: 0, told_below: 0 }
    }

    /// One page. `end` is one past the last page of the run that is wanted: copied windows stop there.
    pub fn read(&mut self, pfn: Pfn, end: Pfn) -> Result<&[u8], ReadError> {
        if pfn.get() >= self.told_below {
            let pages = end.offset_from(pfn).unwrap_or(1).clamp(1, FETCH);
            self.source.expect(pfn, pages);
            self.told_below = pfn.get().saturating_add(pages);
        }
        if self.range(pfn).is_none() {
            // The old window goes first: two mappings at once would be twice the page tables.
            self.window = None;
            if pfn.get() >= self.singly_below {
                self.open(pfn, end);
            }
        }
        if let (Some(range), Some((_, window))) = (self.range(pfn), &self.window) {
            return Ok(window.get(range).unwrap_or_default());
        }
        self.source.page(pfn, &mut self.single)?;
        Ok(&self.single)
    }

    /// Whole pages from `pfn` on, at least one and none at or after `end`, in one piece.
    pub fn span(&mut self, pfn: Pfn, end: Pfn) -> Result<&[u8], ReadError> {
        self.read(pfn, end)?;
        let wanted = end.offset_from(pfn).and_then(|n| usize::try_from(n).ok()).unwrap_or(1).max(1);
        match (self.range(pfn), &self.window) {
            (Some(range), Some((_, window))) => {
                let whole = window.len() / self.page.len() * self.page.len();
                let stop = range.start.saturating_add(wanted.saturating_mul(self.page.len())).min(whole);
                Ok(window.get(range.start..stop).unwrap_or_default())
            }
            _ => Ok(&self.single),
        }
    }

    fn open(&mut self, pfn: Pfn, end: Pfn) {
        let run = end.offset_from(pfn).unwrap_or(1).max(1);
        let most = if self.source.windows_are_cheap() { u64::MAX } else { run };
        match self.source.window(pfn, most) {
            Ok(window) => self.window = Some((pfn.get(), window)),
            // A window is all or nothing; page by page the damage is no larger than it is.
            Err(ReadError::NotBacked(_)) => self.singly_below = pfn.get().saturating_add(1),
            Err(_) => self.singly_below = pfn.get().saturating_add(SINGLY),
        }
    }

    /// Where a page lies in the window, if it does.
    fn range(&self, pfn: Pfn) -> Option<std::ops::Range<usize>> {
        let (first, window) = self.window.as_ref()?;
        let index = usize::try_from(pfn.get().checked_sub(*first)?).ok()?;
        let start = index.checked_mul(self.page.len())?;
        let end = start.checked_add(self.page.len())?;
        (end <= window.len()).then_some(start..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::testing::Pages;
    use std::sync::Mutex;

    /// Pages, and what was said of them beforehand.
    struct Told {
        pages: Pages,
        told: Mutex<Vec<(u64, u64)>>,
    }

    impl PageSource for Told {
        fn page_size(&self) -> PageSize {
            self.pages.page_size()
        }
        fn windows_are_cheap(&self) -> bool {
            self.pages.windows_are_cheap()
        }
        fn window(&self, pfn: Pfn, most: u64) -> Result<Window<'_>, ReadError> {
            self.pages.window(pfn, most)
        }
        fn expect(&self, pfn: Pfn, pages: u64) {
            self.told.lock().unwrap().push((pfn.get(), pages));
        }
        fn page(&self, pfn: Pfn, buf: &mut [u8]) -> Result<(), ReadError> {
            self.pages.page(pfn, buf)
        }
    }

    #[test]
    fn each_run_is_asked_for_once_and_nothing_else() {
        let size = PageSize::new(4096).unwrap();
        let pages = (0..1000).map(|pfn| (pfn, Some(vec![0; size.len()]))).collect();
        // Windows reach far past the runs.
        let pages = Pages { size, pages, window: 512, cheap: true };
        let source = Told { pages, told: Mutex::new(Vec::new()) };
        let mut reader = PageReader::new(&source);
        for (start, end) in [(3, 4), (10, 14), (100, 500)] {
            for pfn in start..end {
                reader.read(Pfn::new(pfn), Pfn::new(end)).unwrap();
            }
        }
        drop(reader);
        let told = source.told.into_inner().unwrap();
        assert_eq!(told, [(3, 1), (10, 4), (100, FETCH), (100 + FETCH, 400 - FETCH)]);
    }
}

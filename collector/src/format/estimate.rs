//! How large a dump will be, from a few of its pages.

use super::layout::PageDesc;
use super::{Encoder, PageReader, PageSource, is_zero};
use crate::addr::Pfn;
use crate::filter::Bitmap;
use crate::plan::Compression;

/// Pages that are looked at.
const SAMPLE: u64 = 512;

/// About how many bytes a kdump-compressed dump of these pages will have, headers and tables included. Reads and compresses
/// some pages at even distances; of a codec that cannot be had, and of pages that cannot be read, the full size counts.
/// `zeros`: pages of zeros share one.
pub fn estimate(keep: &Bitmap, pages: &dyn PageSource, compression: Compression, zeros: bool) -> u64 {
    let size = pages.page_size().len();
    let kept = keep.count();
    let stride = (kept / SAMPLE).max(1);
    let mut encoder = Encoder::new(compression).ok();
    let mut out = vec![0; encoder.as_ref().map_or(size, |encoder| encoder.bound(size))];
    let mut reader = PageReader::new(pages);
    let (mut seen, mut bytes, mut passed) = (0_u64, 0_u64, 0_u64);
    for (start, end) in keep.runs() {
        let len = end.get().saturating_sub(start.get());
        // The pages of this run whose number among all kept ones is a multiple of the stride.
        let mut next = passed.next_multiple_of(stride);
        while next < passed.saturating_add(len) {
            let pfn = Pfn::new(start.get().saturating_add(next - passed));
            let stored = match reader.read(pfn, Pfn::new(pfn.get().saturating_add(1))) {
                Ok(page) if zeros && is_zero(page) => 0,
                Ok(page) => encoder.as_mut().and_then(|e| e.encode(page, &mut out)).unwrap_or(size),
                Err(_) => size,
            };
            bytes = bytes.saturating_add(stored as u64);
            seen += 1;
            next = next.saturating_add(stride);
        }
        passed = passed.saturating_add(len);
    }
    let data = u128::from(bytes) * u128::from(kept) / u128::from(seen.max(1));
    // A descriptor a page, two bitmaps, and headers.
    let tables = u128::from(kept) * size_of::<PageDesc>() as u128 + u128::from(keep.len() / 8) * 2;
    u64::try_from(data + tables).unwrap_or(u64::MAX).saturating_add(4 * size as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::PageSize;
    use crate::vmcore::{ReadError, Window};

    /// Every fourth page is noise, every fourth zeros, the rest letters.
    struct Mixed;

    impl PageSource for Mixed {
        fn page_size(&self) -> PageSize {
            PageSize::new(4096).unwrap()
        }
        fn windows_are_cheap(&self) -> bool {
            false
        }
        fn window(&self, pfn: Pfn, _: u64) -> Result<Window<'_>, ReadError> {
            let mut x = pfn.get().wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut byte = |which: u64| {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                match which {
                    0 => x.to_be_bytes()[0],
                    1 => 0,
                    _ => b'a' + x.to_be_bytes()[0] % 4,
                }
            };
            Ok(Box::new((0..4096).map(|_| byte(pfn.get() % 4)).collect::<Vec<u8>>()))
        }
        fn page(&self, _: Pfn, _: &mut [u8]) -> Result<(), ReadError> {
            unreachable!("windows have all")
        }
    }

    #[test]
    fn an_estimate_is_near_the_sum() {
        let mut keep = Bitmap::new(100_000);
        keep.set_range(Pfn::new(0), Pfn::new(100_000));
        keep.clear_range(Pfn::new(5_000), Pfn::new(45_000));
        for how in [Compression::None, Compression::Lzo, Compression::Zstd(1)] {
            let mut encoder = Encoder::new(how).unwrap();
            let mut out = vec![0; encoder.bound(4096)];
            let all: u64 = keep
                .runs()
                .flat_map(|(a, b)| (a.get()..b.get()).step_by(7))
                .map(|pfn| {
                    let page = Mixed.window(Pfn::new(pfn), 1).unwrap();
                    let stored = encoder.encode(&page, &mut out).unwrap_or(4096);
                    if is_zero(&page) { 0 } else { stored as u64 + 24 }
                })
                .sum::<u64>()
                * 7;
            let guess = estimate(&keep, &Mixed, how, true);
            assert!(guess > all / 10 * 9 && guess < all / 10 * 11, "{how}: {guess} for {all}");
        }
        assert!(estimate(&Bitmap::new(0), &Mixed, Compression::Lzo, true) < 20_000);
    }
}

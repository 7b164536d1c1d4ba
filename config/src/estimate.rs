//! How large the next dump will be, and how long it will take: from what the pages of memory are used for now.
//!
//! /proc/kpageflags says of each page what it is (Linux, Documentation/admin-guide/mm/pagemap.rst); pages that would be kept are
//! sampled through /proc/kcore and compressed as the crash kernel would. The figure is of now: a machine that dies under memory
//! pressure keeps more.

use collector::addr::Pfn;
use collector::filter::Bitmap;
use collector::format;
use collector::input::Input;
use collector::plan::{Compression, DumpSpec, Format};
use collector::problem::Problems;
use collector::vmcore::Vmcore;
use initramfs::root::Root;
use serde::Serialize;
use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

const PAGE: u64 = 4096;

/// Flags of a piece of this many pages are read at once.
const PIECE: u64 = 4096;

/// Of a machine with more pages only every so manieth piece is read: 4 million pages are 16 GiB.
const MOST: u64 = 4 << 20;

/// What compression leaves where no page can be looked at: text and structures of kernels come to a third and less.
const GUESS: f64 = 0.4;

/// Bits of /proc/kpageflags (include/uapi/linux/kernel-page-flags.h).
mod flag {
    pub const LRU: u64 = 1 << 5;
    pub const BUDDY: u64 = 1 << 10;
    pub const ANON: u64 = 1 << 12;
    pub const SWAPCACHE: u64 = 1 << 13;
    pub const HUGE: u64 = 1 << 17;
    pub const HWPOISON: u64 = 1 << 19;
    pub const NOPAGE: u64 = 1 << 20;
    pub const ZERO_PAGE: u64 = 1 << 24;
    pub const OFFLINE: u64 = 1 << 23;
    /// One of those "for kernel hacking" (include/linux/kernel-page-flags.h).
    pub const PRIVATE: u64 = 1 << 35;
}

/// What a dump of now would be. The keys of `--json`: they stay, and others may come.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Estimate {
    /// Pages of memory.
    pub pages: u64,
    /// Pages that are kept at this level.
    pub kept: u64,
    /// Bytes of a page.
    pub page_size: u64,
    /// The level.
    pub level: u8,
    /// The codec.
    pub compression: String,
    /// Bytes of the dump.
    pub bytes: u64,
    /// What is left of a page, 0 to 1.
    pub ratio: f64,
    /// It was found by compressing pages; else it is a guess.
    pub sampled: bool,
    /// MB/s that the target takes, where that was measured.
    pub target_speed: Option<f64>,
    /// Seconds to write it there. Compression on one CPU of a crash kernel is counted with 150 MB/s of input.
    pub seconds: Option<u64>,
}

/// Estimates the dump `spec` of the system at `root`. An error where /proc does not tell what pages are: who is not root.
pub fn estimate(root: &Root, spec: &DumpSpec) -> Result<Estimate, String> {
    let iomem = root.read("/proc/iomem").map_err(|e| e.to_string())?.unwrap_or_default();
    let ranges = memory(&iomem);
    if ranges.is_empty() {
        return Err("/proc/iomem does not show where memory is: be root".to_owned());
    }
    let path = root.real("/proc/kpageflags").map_err(|e| e.to_string())?;
    let path = path.ok_or("no /proc/kpageflags: the kernel has no CONFIG_PROC_PAGE_MONITOR")?;
    let flags = File::open(&path).map_err(|e| format!("cannot read /proc/kpageflags: {e}"))?;
    let (keep, pages, kept) =
        classify(&flags, &ranges, if spec.format == Format::Raw { 0 } else { spec.level })?;
    let sampled = match spec.format {
        Format::Kdump => sample(root, &keep, spec.compression),
        Format::Elf | Format::Raw => None,
    };
    let ratio = match (spec.format, spec.compression, sampled) {
        (Format::Elf | Format::Raw, ..) | (_, Compression::None, _) => 1.0,
        (.., Some(ratio)) => ratio,
        (.., None) => GUESS,
    };
    // Tables: a descriptor a page, two bitmaps.
    let bytes = kept as f64 * (PAGE as f64 * ratio + 24.0) + pages as f64 / 4.0;
    Ok(Estimate {
        pages,
        kept,
        page_size: PAGE,
        level: spec.level,
        compression: spec.compression.to_string(),
        bytes: whole(bytes),
        ratio,
        sampled: sampled.is_some(),
        target_speed: None,
        seconds: None,
    })
}

impl Estimate {
    /// With the speed of the target, in MB/s.
    #[must_use]
    pub fn at(mut self, speed: f64) -> Self {
        /// What one CPU reads and compresses, MB/s; in a virtual machine or with zlib it is less.
        const COMPRESS: f64 = 150.0;
        let writing = self.bytes as f64 / 1e6 / speed.max(0.001);
        let reading = (self.kept * self.page_size) as f64 / 1e6 / COMPRESS;
        self.target_speed = Some(speed);
        self.seconds = Some(whole(writing.max(reading).ceil()));
        self
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped before")]
fn whole(number: f64) -> u64 {
    number.clamp(0.0, 1e18) as u64
}

/// Page frames of `System RAM`, less the reservations.
fn memory(iomem: &str) -> Vec<Range<u64>> {
    let range = |line: &str, what: &str| {
        let (range, name) = line.split_once(" : ")?;
        let (start, last) = range.trim().split_once('-')?;
        let number = |text| u64::from_str_radix(text, 16).ok();
        let (start, last) = (number(start)?, number(last)?);
        (name.trim() == what && last > start).then(|| start.div_ceil(PAGE)..last.saturating_add(1) / PAGE)
    };
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for line in iomem.lines() {
        if let Some(ram) = range(line, "System RAM").filter(|_| !line.starts_with(' ')) {
            ranges.push(ram);
        } else if let Some(gone) = range(line, "Crash kernel")
            && let Some(last) = ranges.pop_if(|last| gone.start >= last.start && gone.end <= last.end)
        {
            let rest = [last.start..gone.start, gone.end..last.end];
            ranges.extend(rest.into_iter().filter(|range| !range.is_empty()));
        }
    }
    // A machine of more than 2^52 bytes is none.
    ranges.retain(|range| range.end <= 1 << 40);
    ranges
}

/// Pages that a level keeps, and how many there are and are kept, those included that were not looked at.
fn classify(flags: &File, ranges: &[Range<u64>], level: u8) -> Result<(Bitmap, u64, u64), String> {
    let all: u64 = ranges.iter().map(|range| range.end - range.start).sum();
    let step = all.div_ceil(MOST).max(1);
    let end = ranges.iter().map(|range| range.end).max().unwrap_or(0);
    let mut keep = Bitmap::new(end);
    let (mut seen, mut kept, mut present) = (0_u64, 0_u64, 0_u64);
    let mut bytes = vec![0; usize::try_from(PIECE * 8).unwrap_or(0)];
    for range in ranges {
        for number in 0..(range.end - range.start).div_ceil(PIECE) {
            let start = range.start + number * PIECE;
            if !number.is_multiple_of(step) {
                continue;
            }
            let wanted = (range.end - start).min(PIECE);
            let buffer = bytes.get_mut(..usize::try_from(wanted * 8).unwrap_or(0)).unwrap_or_default();
            let read =
                flags.read_at(buffer, start * 8).map_err(|e| format!("cannot read /proc/kpageflags: {e}"))?;
            seen += wanted;
            for (word, pfn) in buffer.chunks_exact(8).take(read / 8).zip(start..) {
                let word = word.try_into().map_or(0, u64::from_le_bytes);
                if word & (flag::NOPAGE | flag::HWPOISON | flag::OFFLINE) != 0 {
                    continue;
                }
                present += 1;
                if is_kept(word, level) {
                    kept += 1;
                    keep.set_range(Pfn::new(pfn), Pfn::new(pfn + 1));
                }
            }
        }
    }
    // What was left out is as what was seen.
    let scale = |count: u64| {
        let scaled = u128::from(count) * u128::from(all) / u128::from(seen.max(1));
        u64::try_from(scaled).unwrap_or(u64::MAX)
    };
    Ok((keep, scale(present), scale(kept)))
}

/// What the filter decides, as far as the flags tell.
fn is_kept(word: u64, level: u8) -> bool {
    let has = |bits: u64| word & bits != 0;
    let anon = has(flag::ANON);
    let cache = has(flag::LRU | flag::SWAPCACHE) && !anon;
    let drops = |bit: u8| level & bit != 0;
    !(drops(1) && has(flag::ZERO_PAGE)
        || drops(16) && has(flag::BUDDY)
        || drops(8) && (anon || has(flag::HUGE))
        || cache && drops(4)
        || cache && drops(2) && !has(flag::PRIVATE))
}

/// What compression leaves of those pages, by looking at some.
fn sample(root: &Root, keep: &Bitmap, compression: Compression) -> Option<f64> {
    let kept = keep.count();
    let path = root.real("/proc/kcore").ok()??;
    let input = Input::open(&[path]).ok()?;
    let mut problems = Problems::new();
    let vmcore = Vmcore::open(input.source(), &mut problems).ok()?;
    let bytes = format::estimate(keep, &vmcore, compression, true);
    // Without its tables.
    let data = bytes.saturating_sub(kept * 24).saturating_sub(keep.len() / 4) as f64;
    (kept > 0).then(|| (data / (kept * PAGE) as f64).clamp(0.001, 1.0))
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |pages: u64| (pages * self.page_size) >> 20;
        writeln!(f, "memory       {} MiB", mib(self.pages))?;
        writeln!(f, "kept         {} MiB at level {}", mib(self.kept), self.level)?;
        let how = if self.sampled { "of pages that were compressed" } else { "guessed" };
        writeln!(f, "compression  {}, to {:.0} % ({how})", self.compression, self.ratio * 100.0)?;
        writeln!(f, "dump         about {} MiB", self.bytes.div_ceil(1 << 20))?;
        if let (Some(speed), Some(seconds)) = (self.target_speed, self.seconds) {
            writeln!(f, "time         about {seconds} s (the target takes {speed:.0} MB/s)")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use collector::plan::DumpSpec;

    #[test]
    fn memory_less_the_reservation() {
        let iomem = "00000000-00000fff : Reserved\n00001000-0009ffff : System RAM\n00100000-3fffffff : System RAM\n  \
                     01000000-01ffffff : Kernel code\n  2f000000-36ffffff : Crash kernel\n";
        assert_eq!(memory(iomem), [1..0xa0, 0x100..0x2f000, 0x37000..0x40000]);
        assert!(memory("00000000-00000000 : System RAM\n").is_empty());
    }

    #[test]
    fn classes_are_those_of_the_filter() {
        for (word, kept_at) in [
            (0, [true, true, true]),
            (flag::BUDDY, [true, true, false]),
            (flag::ANON | flag::LRU, [true, true, false]),
            (flag::LRU, [true, false, false]),
            (flag::LRU | flag::PRIVATE, [true, true, false]),
            (flag::HUGE, [true, true, false]),
            (flag::ZERO_PAGE, [true, false, false]),
        ] {
            for (level, want) in [0, 3, 31].into_iter().zip(kept_at) {
                assert_eq!(is_kept(word, level), want, "{word:#x} at {level}");
            }
        }
    }

    #[test]
    fn a_machine_of_files() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("proc")).unwrap();
        let root = Root::new(dir.path());
        let spec = DumpSpec::new("vmcore", 31, Format::Kdump, Compression::DEFAULT);
        assert!(estimate(&root, &spec).unwrap_err().contains("be root"));
        std::fs::write(dir.path().join("proc/iomem"), "00000000-03ffffff : System RAM\n").unwrap();
        assert!(estimate(&root, &spec).unwrap_err().contains("CONFIG_PROC_PAGE_MONITOR"));
        // A quarter free, a quarter of processes, a quarter cache, a quarter the kernel's.
        let words = (0..16384_u64).flat_map(|pfn| {
            [flag::BUDDY, flag::ANON | flag::LRU, flag::LRU, 1 << 7][usize::try_from(pfn % 4).unwrap()]
                .to_le_bytes()
        });
        std::fs::write(dir.path().join("proc/kpageflags"), words.collect::<Vec<u8>>()).unwrap();
        let got = estimate(&root, &spec).unwrap();
        assert_eq!((got.pages, got.kept, got.sampled), (16384, 4096, false));
        let want = 4096.0 * (4096.0 * GUESS + 24.0) + 4096.0;
        assert!((got.bytes as f64 - want).abs() < 2.0, "{got:?}");
        let timed = got.at(1.0);
        assert_eq!(timed.seconds, Some(7));
        let all = estimate(&root, &DumpSpec::new("x", 31, Format::Raw, Compression::None)).unwrap();
        assert_eq!(all.kept, 16384);
        assert!(all.bytes >= 16384 * 4096);
    }
}

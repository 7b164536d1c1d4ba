//! Reads the flattened format (see [`crate::format::stream`]) out of a file: an index of its records makes it the file that
//! was meant. Where records overlap the later one wins; what none has is zeros.

use crate::addr::FileOffset;
use crate::format::stream::{HEADER, SIGNATURE};
use crate::problem::{Code, Problem, Problems};
use crate::vmcore::{ReadAt, Window};
use std::collections::BTreeMap;
use std::io;

/// Records past this many are refused: at makedumpfile's 64 KiB a record they are a dump of 1 TiB.
const MAX_RECORDS: usize = 1 << 24;
/// Bytes of a record's header: offset and length.
const RECORD: u64 = 16;
/// Bytes of a window.
const COPIED_WINDOW: usize = 1 << 20;

/// Why a file is not in the flattened format, or cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FlattenedError {
    /// It starts otherwise.
    #[error("not a flattened dump: it does not start with \"makedumpfile\"")]
    Signature,
    /// A type or version that nobody writes.
    #[error("a flattened dump of type {kind} and version {version}: only 1 and 1 are known")]
    Version {
        /// The type.
        kind: i64,
        /// The version.
        version: i64,
    },
    /// The header could not be read.
    #[error("cannot read the flattened dump at offset {at}")]
    Read {
        /// Where.
        at: FileOffset,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// More records than there is memory for.
    #[error("a flattened dump of more than {MAX_RECORDS} records: restore it with -R first")]
    Records,
}

/// A stretch of the file that was meant, and where its bytes lie in the stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Record {
    at: u64,
    len: u64,
    from: u64,
}

impl Record {
    fn end(&self) -> u64 {
        self.at.saturating_add(self.len)
    }
}

/// A flattened dump as the file that was meant. Memory: 24 bytes a record.
#[expect(missing_debug_implementations, reason = "holds a dead kernel's memory")]
pub struct FlatFile<'a> {
    source: Box<dyn ReadAt + 'a>,
    /// Ascending, apart from each other.
    records: Vec<Record>,
    size: u64,
    count: usize,
    complaints: Vec<Problem>,
}

/// The two numbers of a record, or the header's type and version.
pub(crate) fn pair(bytes: &[u8; 16]) -> (i64, i64) {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *bytes;
    (i64::from_be_bytes([a, b, c, d, e, f, g, h]), i64::from_be_bytes([i, j, k, l, m, n, o, p]))
}

/// Checks the first 32 bytes of a flattened dump.
pub(crate) fn check_header(start: &[u8; 32]) -> Result<(), FlattenedError> {
    if !start.starts_with(SIGNATURE) {
        return Err(FlattenedError::Signature);
    }
    match start.last_chunk().map(pair) {
        Some((1, 1)) => Ok(()),
        Some((kind, version)) => Err(FlattenedError::Version { kind, version }),
        None => Err(FlattenedError::Signature),
    }
}

/// What a record's header says.
pub(crate) enum Said {
    /// So many bytes at this offset follow.
    Bytes { at: u64, len: u64 },
    /// Nothing follows.
    End,
    /// Nothing that can be.
    Nonsense,
}

impl Said {
    pub fn of(bytes: &[u8; 16]) -> Self {
        match pair(bytes) {
            (-1, -1) => Self::End,
            (at, len) => match (u64::try_from(at), u64::try_from(len), at.checked_add(len)) {
                (Ok(at), Ok(len), Some(_)) => Self::Bytes { at, len },
                _ => Self::Nonsense,
            },
        }
    }
}

impl<'a> FlatFile<'a> {
    /// Reads all record headers. A stream that is cut off, or makes no sense from somewhere on, is used until there, and a
    /// complaint says so.
    pub fn open(source: Box<dyn ReadAt + 'a>) -> Result<Self, FlattenedError> {
        let mut start = [0; 32];
        let at = FileOffset::new(0);
        if source.size() < start.len() as u64 {
            return Err(FlattenedError::Signature);
        }
        source.read_at(at, &mut start).map_err(|source| FlattenedError::Read { at, source })?;
        check_header(&start)?;

        let mut problems = Problems::new();
        let mut cut = |what: &str, from: u64| {
            let message = format!(
                "the flattened dump is cut off: {what} at offset {from:#x}; what is before it is used"
            );
            problems.push(Code::INPUT_INCOMPLETE, message);
        };
        let mut records: Vec<Record> = Vec::new();
        let mut from = HEADER as u64;
        loop {
            let mut head = [0; 16];
            if from.saturating_add(RECORD) > source.size() {
                cut("its end is missing", source.size());
                break;
            }
            if let Err(e) = source.read_at(FileOffset::new(from), &mut head) {
                cut(&format!("a record that cannot be read ({e})"), from);
                break;
            }
            let data = from.saturating_add(RECORD);
            match Said::of(&head) {
                Said::End => break,
                Said::Nonsense => {
                    cut("a record that makes no sense", from);
                    break;
                }
                Said::Bytes { at, len } => {
                    let there = len.min(source.size().saturating_sub(data));
                    if there > 0 {
                        if records.len() >= MAX_RECORDS {
                            return Err(FlattenedError::Records);
                        }
                        records.push(Record { at, len: there, from: data });
                    }
                    if there < len {
                        cut(&format!("a record of {len} bytes has {there}"), from);
                        break;
                    }
                    from = data.saturating_add(len);
                }
            }
        }
        let count = records.len();
        let mut records = settle(records);
        let most = plausible(source.size());
        let believed = records.partition_point(|record| record.end() <= most);
        if let Some(first) = records.get(believed) {
            let message = format!(
                "the flattened dump of {} bytes claims a file of {} and more; what is past {most} is left out",
                source.size(),
                first.at
            );
            problems.push(Code::INPUT_INCOMPLETE, message);
            records.truncate(believed);
        }
        let size = records.last().map_or(0, Record::end);
        let mut complaints = source.complaints().to_vec();
        complaints.extend_from_slice(problems.list());
        Ok(Self { source, records, size, count, complaints })
    }

    /// How many records there are.
    pub fn records(&self) -> usize {
        self.count
    }
    /// Whether the stream has its end.
    pub fn is_whole(&self) -> bool {
        self.complaints.is_empty()
    }
    /// Bytes of the stream itself.
    pub fn stream_len(&self) -> u64 {
        self.source.size()
    }

    fn check(&self, at: FileOffset, len: usize) -> io::Result<()> {
        match at.checked_add(len as u64) {
            Some(end) if end.get() <= self.size => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// The first record that ends after `at`.
    fn first_after(&self, at: u64) -> usize {
        self.records.partition_point(|record| record.end() <= at)
    }
}

/// How long a file may be that a stream of so many bytes restores. All of a file but the gaps in its bitmaps is in the
/// stream; a few bytes that claim 16 TiB of zeros would keep a reader busy for hours.
pub(in crate::format) fn plausible(stream: u64) -> u64 {
    stream.saturating_mul(1024).saturating_add(1 << 30)
}

/// Ascending and apart from each other: where two overlap, the later one in the stream wins.
fn settle(records: Vec<Record>) -> Vec<Record> {
    let apart = |list: &[Record]| list.is_sorted_by(|a, b| a.end() <= b.at);
    if apart(&records) {
        return records;
    }
    let mut sorted = records;
    // The position in the stream is the order in which they came.
    sorted.sort_unstable_by_key(|record| (record.at, record.from));
    if apart(&sorted) {
        return sorted;
    }
    sorted.sort_unstable_by_key(|record| record.from);
    let mut map: BTreeMap<u64, Record> = BTreeMap::new();
    for new in sorted {
        let mut tails = Vec::new();
        // What starts before it and reaches into it, and what starts within.
        if let Some((_, before)) = map.range_mut(..new.at).next_back()
            && before.end() > new.at
        {
            tails.push(*before);
            before.len = new.at.saturating_sub(before.at);
        }
        while let Some((&at, _)) = map.range(new.at..new.end()).next() {
            tails.extend(map.remove(&at));
        }
        for old in tails.into_iter().filter(|old| old.end() > new.end()) {
            let skip = new.end().saturating_sub(old.at);
            let tail = Record { at: new.end(), len: old.len - skip, from: old.from.saturating_add(skip) };
            map.insert(tail.at, tail);
        }
        map.insert(new.at, new);
    }
    map.into_values().collect()
}

impl ReadAt for FlatFile<'_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, at: FileOffset, buf: &mut [u8]) -> io::Result<()> {
        self.check(at, buf.len())?;
        let end = at.get().saturating_add(buf.len() as u64);
        let mut index = self.first_after(at.get());
        let mut at = at.get();
        let mut rest = buf;
        while !rest.is_empty() {
            let record = self.records.get(index).filter(|record| record.at < end);
            let gap_end = record.map_or(end, |record| record.at.max(at));
            let gap = usize::try_from(gap_end.saturating_sub(at)).unwrap_or(usize::MAX).min(rest.len());
            let (zeros, after) = rest.split_at_mut(gap);
            zeros.fill(0);
            at = at.saturating_add(gap as u64);
            rest = after;
            let Some(record) = record else { continue };
            let len = usize::try_from(record.end().saturating_sub(at)).unwrap_or(usize::MAX).min(rest.len());
            let (now, after) = rest.split_at_mut(len);
            let from = record.from.saturating_add(at.saturating_sub(record.at));
            self.source.read_at(FileOffset::new(from), now)?;
            at = at.saturating_add(len as u64);
            rest = after;
            index = index.saturating_add(1);
        }
        Ok(())
    }

    fn window(&self, at: FileOffset, len: usize) -> io::Result<Window<'_>> {
        self.check(at, len)?;
        if let Some(record) = self.records.get(self.first_after(at.get()))
            && record.at <= at.get()
            && at.get().saturating_add(len as u64) <= record.end()
        {
            let from = record.from.saturating_add(at.get().saturating_sub(record.at));
            return self.source.window(FileOffset::new(from), len);
        }
        if len > COPIED_WINDOW {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let mut bytes = vec![0; len];
        self.read_at(at, &mut bytes)?;
        Ok(Box::new(bytes))
    }

    fn window_len(&self) -> usize {
        COPIED_WINDOW
    }

    fn is_torn(&self) -> bool {
        self.source.is_torn()
    }

    fn complaints(&self) -> &[Problem] {
        &self.complaints
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A stream with these records, by the letter of the format.
    fn stream(records: &[(u64, Vec<u8>)], ended: bool) -> Vec<u8> {
        let mut out = b"makedumpfile\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x01".to_vec();
        out.resize(4096, 0);
        for (at, bytes) in records {
            out.extend(at.to_be_bytes());
            out.extend((bytes.len() as u64).to_be_bytes());
            out.extend(bytes);
        }
        if ended {
            out.extend([0xff; 16]);
        }
        out
    }

    fn open(bytes: &Vec<u8>) -> Result<FlatFile<'_>, FlattenedError> {
        FlatFile::open(Box::new(bytes))
    }

    fn all(file: &FlatFile<'_>) -> Vec<u8> {
        let mut bytes = vec![9; usize::try_from(file.size()).unwrap()];
        file.read_at(FileOffset::new(0), &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn what_cannot_be_is_told() {
        let good = stream(&[(0, vec![1; 8])], true);
        let mut other = good.clone();
        other[23] = 2;
        assert_eq!(
            open(&other).err().unwrap().to_string(),
            "a flattened dump of type 2 and version 1: only 1 and 1 are known"
        );
        assert!(matches!(open(&b"makedumpfile".to_vec()), Err(FlattenedError::Signature)));
        assert!(matches!(open(&vec![0; 5000]), Err(FlattenedError::Signature)));
        for (at, len) in [(-2_i64, 5_i64), (5, -2), (-1, 0), (i64::MAX, 1), (0, i64::MIN)] {
            let mut bad = good.clone();
            let end = bad.len() - 16;
            bad[end..end + 8].copy_from_slice(&at.to_be_bytes());
            bad[end + 8..].copy_from_slice(&len.to_be_bytes());
            let file = open(&bad).unwrap();
            assert_eq!(all(&file), [1; 8]);
            assert!(
                file.complaints()[0].message.contains("makes no sense at offset 0x1018"),
                "{:?}",
                file.complaints()
            );
        }
    }

    proptest! {
        /// As a naive writer that seeks; overlapping records, gaps, and every place to cut the stream.
        #[test]
        fn the_file_that_was_meant(
            records in prop::collection::vec((0_u64..300, prop::collection::vec(any::<u8>(), 0..80)), 0..12),
            cut in prop::option::of(0_usize..1500),
        ) {
            let mut bytes = stream(&records, true);
            let whole = cut.is_none_or(|cut| 4096 + cut >= bytes.len());
            bytes.truncate(cut.map_or(usize::MAX, |cut| 4096 + cut));
            let file = open(&bytes).unwrap();
            prop_assert_eq!(file.is_whole(), whole);
            let mut naive: Vec<u8> = Vec::new();
            let mut left = bytes.len().saturating_sub(4096);
            for (at, data) in &records {
                if left < 16 { break; }
                left -= 16;
                let data = &data[..data.len().min(left)];
                left -= data.len();
                let at = usize::try_from(*at).unwrap();
                if data.is_empty() { continue; }
                naive.resize(naive.len().max(at + data.len()), 0);
                naive[at..at + data.len()].copy_from_slice(data);
            }
            prop_assert_eq!(&all(&file), &naive);
            for at in (0..naive.len()).step_by(7) {
                let len = 30.min(naive.len() - at);
                prop_assert_eq!(&**file.window(FileOffset::new(at as u64), len).unwrap(), &naive[at..at + len]);
            }
            prop_assert!(file.window(FileOffset::new(0), naive.len() + 1).is_err());
        }
    }
}

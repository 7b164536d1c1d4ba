//! From a stream in the flattened format to the file that was meant: makedumpfile's `-R`.

use super::DumpSink;
use super::is_zero;
use super::read::flattened::{FlattenedError, Said, check_header, plausible};
use super::stream::HEADER;
use crate::addr::FileOffset;
use std::io::{self, Read};

/// Bytes that are read and written at a time.
const PIECE: usize = 1 << 20;
/// Zeros are looked for in stretches of so many bytes.
const STRETCH: usize = 64 << 10;

/// Why a stream could not be restored.
#[derive(Debug, thiserror::Error)]
pub enum RearrangeError {
    /// It is no flattened dump.
    #[error(transparent)]
    Header(#[from] FlattenedError),
    /// It ended before its end: whoever wrote it was stopped. What came is in the file.
    #[error(
        "the stream ends in the middle, after {bytes} bytes and {records} records: the dump is incomplete"
    )]
    Cut {
        /// Bytes of the stream.
        bytes: u64,
        /// Records that were whole.
        records: u64,
    },
    /// A record makes no sense.
    #[error("record {record} of the stream makes no sense, {bytes} bytes into it")]
    Record {
        /// Which, from 0.
        record: u64,
        /// Where.
        bytes: u64,
    },
    /// It would be a file of nearly nothing but gaps, which no dump is.
    #[error("a stream of {stream} bytes claims a file of {bytes}: this is no dump")]
    Sparse {
        /// Bytes of the stream.
        stream: u64,
        /// Bytes of the file.
        bytes: u64,
    },
    /// The stream could not be read.
    #[error("cannot read the stream")]
    Read(#[source] io::Error),
    /// The file could not be written.
    #[error("cannot write the dump")]
    Write(#[source] io::Error),
}

/// What was restored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rearranged {
    /// Length of the file.
    pub bytes: u64,
    /// Records of the stream.
    pub records: u64,
}

/// Reads the stream to its end record and writes each record where it belongs. The sink must be empty: zeros behind all that
/// was written become gaps. It is finished only when the stream was whole.
pub fn rearrange(input: &mut dyn Read, sink: &dyn DumpSink) -> Result<Rearranged, RearrangeError> {
    let mut stream = Stream { input, bytes: 0, records: 0 };
    let mut buf = vec![0; PIECE];
    let mut start = [0; 32];
    // Too short is as bad as something else.
    stream.fill(&mut start).map_err(|e| match e {
        RearrangeError::Cut { .. } => FlattenedError::Signature.into(),
        other => other,
    })?;
    check_header(&start)?;
    stream.fill(buf.get_mut(..HEADER - start.len()).unwrap_or_default())?;

    let mut done = Rearranged::default();
    // How far anything but gaps was written.
    let mut written = 0;
    loop {
        let mut head = [0; 16];
        let record = stream.bytes;
        stream.fill(&mut head)?;
        let (mut at, len) = match Said::of(&head) {
            Said::End => break,
            Said::Nonsense => return Err(RearrangeError::Record { record: stream.records, bytes: record }),
            Said::Bytes { at, len } => (at, len),
        };
        let mut left = len;
        while left > 0 {
            let take = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE);
            let piece = buf.get_mut(..take).unwrap_or_default();
            stream.fill(piece)?;
            put(sink, at, piece, &mut written)?;
            at = at.saturating_add(take as u64);
            left = left.saturating_sub(take as u64);
            done.bytes = done.bytes.max(at);
        }
        stream.records = stream.records.saturating_add(1);
    }
    done.records = stream.records;
    if done.bytes > plausible(stream.bytes) {
        return Err(RearrangeError::Sparse { stream: stream.bytes, bytes: done.bytes });
    }
    if written < done.bytes {
        // A gap at the end would leave the file short.
        let last = FileOffset::new(done.bytes.saturating_sub(1));
        sink.write_at(last, &[0]).map_err(RearrangeError::Write)?;
    }
    sink.finish().map_err(RearrangeError::Write)?;
    Ok(done)
}

/// Writes a piece, without the stretches of zeros that lie where nothing is yet.
fn put(sink: &dyn DumpSink, at: u64, piece: &[u8], written: &mut u64) -> Result<(), RearrangeError> {
    let mut next = at;
    let mut run: Option<(u64, usize)> = None;
    let mut offset = 0_usize;
    let flush = |run: &mut Option<(u64, usize)>, end: usize, written: &mut u64| {
        let Some((start, from)) = run.take() else { return Ok(()) };
        let bytes = piece.get(from..end).unwrap_or_default();
        *written = (*written).max(start.saturating_add(bytes.len() as u64));
        sink.write_at(FileOffset::new(start), bytes).map_err(RearrangeError::Write)
    };
    for stretch in piece.chunks(STRETCH) {
        if next >= *written && is_zero(stretch) {
            flush(&mut run, offset, written)?;
        } else if run.is_none() {
            run = Some((next, offset));
        }
        next = next.saturating_add(stretch.len() as u64);
        offset = offset.saturating_add(stretch.len());
    }
    flush(&mut run, offset, written)
}

struct Stream<'a> {
    input: &'a mut dyn Read,
    bytes: u64,
    records: u64,
}

impl Stream<'_> {
    fn fill(&mut self, buf: &mut [u8]) -> Result<(), RearrangeError> {
        let mut rest = buf;
        while !rest.is_empty() {
            match self.input.read(rest) {
                Ok(0) => return Err(RearrangeError::Cut { bytes: self.bytes, records: self.records }),
                Ok(n) => {
                    self.bytes = self.bytes.saturating_add(n as u64);
                    rest = rest.get_mut(n..).unwrap_or_default();
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(RearrangeError::Read(e)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Nowhere;
    use crate::format::stream::Flattened;
    use crate::vmcore::ReadAt;
    use proptest::prelude::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Sink {
        bytes: Mutex<Vec<u8>>,
        finished: Mutex<bool>,
    }

    impl DumpSink for Sink {
        fn write_at(&self, at: FileOffset, bytes: &[u8]) -> io::Result<()> {
            let at = usize::try_from(at.get()).unwrap();
            let mut all = self.bytes.lock().unwrap();
            let len = all.len().max(at + bytes.len());
            all.resize(len, 0);
            all[at..at + bytes.len()].copy_from_slice(bytes);
            Ok(())
        }
        fn finish(&self) -> io::Result<()> {
            *self.finished.lock().unwrap() = true;
            Ok(())
        }
    }

    /// Gives a few bytes at a time, as a pipe may.
    struct Dribble<'a>(&'a [u8]);
    impl Read for Dribble<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let n = buf.len().min(5000).min(self.0.len());
            buf[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    proptest! {
        #[test]
        fn what_was_written_comes_back(
            records in prop::collection::vec((0_u64..400_000, 1_usize..200_000, prop::option::of(any::<u8>())), 0..8),
            cut in prop::option::of(0.0..1.0),
        ) {
            let (flat, naive) = (Flattened::new(Vec::new()), Sink::default());
            for (at, len, byte) in records {
                let bytes = vec![byte.unwrap_or(0); len];
                flat.write_at(FileOffset::new(at), &bytes).unwrap();
                naive.write_at(FileOffset::new(at), &bytes).unwrap();
            }
            flat.finish().unwrap();
            let stream = flat.into_inner();
            let sink = Sink::default();
            let got = rearrange(&mut Dribble(&stream), &sink).unwrap();
            prop_assert!(*sink.finished.lock().unwrap());
            prop_assert_eq!(got.bytes, naive.bytes.lock().unwrap().len() as u64);
            prop_assert!(*sink.bytes.lock().unwrap() == *naive.bytes.lock().unwrap());
            if let Some(cut) = cut {
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a place in a test's file")]
                let end = (stream.len() as f64 * cut) as usize;
                let sink = Sink::default();
                let outcome = rearrange(&mut Dribble(&stream[..end]), &sink);
                let told = matches!(outcome, Err(RearrangeError::Cut { .. } | RearrangeError::Header(FlattenedError::Signature)));
                prop_assert!(told, "{outcome:?}");
                prop_assert!(!*sink.finished.lock().unwrap());
            }
        }
    }

    #[test]
    fn a_few_bytes_claim_no_file_of_gaps() {
        let flat = Flattened::new(Vec::new());
        flat.write_at(FileOffset::new(0), &[1; 4096]).unwrap();
        flat.write_at(FileOffset::new(16 << 40), &[1]).unwrap();
        flat.finish().unwrap();
        let stream = flat.into_inner();
        let said = rearrange(&mut stream.as_slice(), &Nowhere).unwrap_err();
        assert!(matches!(said, RearrangeError::Sparse { .. }), "{said}");
        let opened = super::super::read::flattened::FlatFile::open(Box::new(stream)).unwrap();
        assert_eq!(opened.size(), 4096);
        assert!(!opened.is_whole());
    }

    #[test]
    fn what_is_no_stream_is_refused() {
        let run = |bytes: &[u8]| rearrange(&mut Dribble(bytes), &Sink::default()).unwrap_err().to_string();
        assert!(run(b"KDUMP   and more of it, quite a lot of it").contains("not a flattened dump"));
        assert!(run(b"").contains("not a flattened dump"));
        let flat = Flattened::new(Vec::new());
        flat.write_at(FileOffset::new(0), b"x").unwrap();
        let mut stream = flat.into_inner();
        stream.extend([0xff; 15]);
        stream.push(0);
        assert_eq!(run(&stream), "record 1 of the stream makes no sense, 4113 bytes into it");
    }
}

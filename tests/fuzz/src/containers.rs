//! Dumps as input: kdump-compressed, whole and split, and flattened.

use crate::exercise::{How, Sink, exercise};
use crate::{Bases, Draw};
use collector::addr::{FileOffset, Pfn};
use collector::format::read::KdumpFile;
use collector::format::read::flattened::FlatFile;
use collector::format::rearrange::rearrange;
use collector::input::Input;
use collector::vmcore::ReadAt;
use std::path::PathBuf;

/// Pages of a file that are read: a bitmap of a few bytes may claim very many.
const PAGES: usize = 512;

/// The input is the file: every page of it, its memory as a source, and a dump of the dump.
pub fn kdump(_: &Bases, data: &[u8]) {
    let mut draw = Draw(data);
    let how = How::of(&mut draw);
    let file = draw.0.to_vec();
    let Ok(mut dump) = KdumpFile::open(&file) else { return };
    pages(&mut dump);
    exercise(&dump, &how);
}

fn pages(dump: &mut KdumpFile<'_>) {
    let mut page = vec![0; dump.page_size().len()];
    let runs: Vec<_> = dump.describes().dumped.runs().take(PAGES).collect();
    for pfn in runs.iter().flat_map(|(start, end)| start.get()..end.get()).take(PAGES) {
        let pfn = Pfn::new(pfn);
        drop(dump.page(pfn, &mut page));
        drop((dump.descriptor(pfn), dump.stored(pfn)));
        drop(dump.read_at(FileOffset::new(pfn.get().saturating_mul(page.len() as u64)), &mut page[..64]));
    }
    let beyond = dump.end_pfn();
    drop(dump.page(beyond, &mut page));
    drop(dump.page(Pfn::new(u64::MAX), &mut page));
}

/// The input is patches of the parts of a split dump, which are opened together.
pub fn split(bases: &Bases, data: &[u8]) {
    let mut draw = Draw(data);
    let order = draw.byte();
    let how = How::of(&mut draw);
    let mut files: Vec<(PathBuf, Box<dyn ReadAt>)> = Vec::new();
    for number in 0..3_u8 {
        let Some(base) = bases.choose("kdump-split-", order.wrapping_add(number)) else { return };
        let len = usize::from(draw.byte());
        let mut patches = Draw(draw.bytes(len));
        files.push((PathBuf::from(&base.name), Box::new(base.patched(&mut patches, None))));
    }
    if order & 0x80 != 0 {
        files.pop();
    }
    let Ok(input) = Input::of(files) else { return };
    exercise(input.source(), &how);
}

/// The input is the stream. An index of it and a restored file are the same bytes, and what they hold is input again.
pub fn flattened(_: &Bases, data: &[u8]) {
    let mut draw = Draw(data);
    let how = How::of(&mut draw);
    let stream = draw.0.to_vec();
    let sink = Sink::default();
    let restored = rearrange(&mut stream.as_slice(), &sink);
    match (FlatFile::open(Box::new(stream.as_slice().to_vec())), &restored) {
        (Ok(flat), Ok(_)) => {
            assert!(flat.complaints().is_empty(), "{:?}", flat.complaints());
            if let Some(bytes) = sink.into_bytes() {
                same(&flat, &bytes);
            }
        }
        (Ok(_), Err(_)) => {}
        (Err(e), Ok(_)) => panic!("restored, but not opened: {e}"),
        (Err(_), Err(_)) => return,
    }
    if let Ok(input) = Input::of(vec![(PathBuf::from("flat"), Box::new(stream))]) {
        exercise(input.source(), &how);
    }
}

fn same(flat: &FlatFile<'_>, bytes: &[u8]) {
    assert_eq!(flat.size(), bytes.len() as u64);
    let mut read = vec![1; bytes.len()];
    flat.read_at(FileOffset::new(0), &mut read).unwrap_or_else(|e| panic!("{e}"));
    assert!(read == bytes, "what is restored differs");
}

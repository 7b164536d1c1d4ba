//! The notes: CPU registers and VMCOREINFO.

use super::endian::Endian;
use super::layout::{NT_PRSTATUS, NoteHeader};
use std::ops::Range;

/// Bytes of a note's header: name length, descriptor length, type.
const HEADER: usize = size_of::<NoteHeader<zerocopy::LittleEndian>>();

/// A note, as ranges of the bytes it was found in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Note {
    /// n_type.
    pub kind: u32,
    /// The name, without NULs at its end.
    pub name: Range<usize>,
    /// The descriptor.
    pub desc: Range<usize>,
    /// Where the next note starts.
    pub next: usize,
}

/// Why a note could not be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct BadNote {
    /// Where it starts, bytes from the start of the PT_NOTE.
    pub at: usize,
    /// What was seen.
    pub why: String,
}

/// The notes of one PT_NOTE, in order. Ends after the first malformed one, and at a header of zeros: the kernel reserves
/// more room than a CPU's notes take.
#[derive(Clone, Debug)]
pub(super) struct Notes<'a> {
    bytes: &'a [u8],
    endian: Endian,
    at: usize,
    ended: bool,
}

impl<'a> Notes<'a> {
    pub fn new(bytes: &'a [u8], endian: Endian) -> Self {
        Self { bytes, endian, at: 0, ended: false }
    }

    fn parse(&self) -> Result<Option<Note>, BadNote> {
        let at = self.at;
        let left = self.bytes.len().saturating_sub(at);
        if left == 0 {
            return Ok(None);
        }
        let bad = |why: String| BadNote { at, why };
        let field = |skip: usize| self.endian.u32(self.bytes, at.saturating_add(skip));
        let (Some(namesz), Some(descsz), Some(kind)) = (field(0), field(4), field(8)) else {
            let zeros = self.bytes.get(at..).unwrap_or_default().iter().all(|b| *b == 0);
            return if zeros {
                Ok(None)
            } else {
                Err(bad(format!("{left} bytes left, a header takes {HEADER}")))
            };
        };
        if namesz == 0 && descsz == 0 && kind == 0 {
            return Ok(None);
        }
        let claims =
            || bad(format!("a name of {namesz} and a descriptor of {descsz} bytes, {left} bytes are left"));
        let ranges = || {
            let name_at = at.checked_add(HEADER)?;
            let name_end = name_at.checked_add(usize::try_from(namesz).ok()?)?;
            let desc_at = name_end.checked_next_multiple_of(4)?;
            let desc_end = desc_at.checked_add(usize::try_from(descsz).ok()?)?;
            let next = desc_end.checked_next_multiple_of(4)?;
            Some((name_at..name_end, desc_at..desc_end, next))
        };
        let (mut name, desc, next) = ranges().ok_or_else(claims)?;
        if desc.end > self.bytes.len() {
            return Err(claims());
        }
        while name.end > name.start && self.bytes.get(name.end.saturating_sub(1)) == Some(&0) {
            name.end = name.end.saturating_sub(1);
        }
        Ok(Some(Note { kind, name, desc, next: next.min(self.bytes.len()) }))
    }
}

impl Iterator for Notes<'_> {
    type Item = Result<Note, BadNote>;
    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let item = self.parse().transpose();
        match &item {
            Some(Ok(note)) => self.at = note.next,
            _ => self.ended = true,
        }
        item
    }
}

impl std::iter::FusedIterator for Notes<'_> {}

/// What the notes say.
#[derive(Clone, Default, Debug)]
pub(super) struct Found {
    /// Well-formed notes, one after the other, each padded to 4 bytes.
    pub bytes: Vec<u8>,
    /// Where VMCOREINFO's text lies in `bytes`; the first one, when there are several.
    pub vmcoreinfo: Option<Range<usize>>,
    /// Number of NT_PRSTATUS notes.
    pub cpus: usize,
}

impl Found {
    /// Adds the notes of one PT_NOTE. The well-formed ones before a malformed one are taken.
    pub fn add(&mut self, bytes: &[u8], endian: Endian) -> Result<(), BadNote> {
        let base = self.bytes.len();
        let mut good = 0;
        let mut result = Ok(());
        for note in Notes::new(bytes, endian) {
            match note {
                Ok(note) => {
                    good = note.next;
                    match (bytes.get(note.name.clone()).unwrap_or_default(), note.kind) {
                        (b"CORE", NT_PRSTATUS) => self.cpus = self.cpus.saturating_add(1),
                        (b"VMCOREINFO", 0) if self.vmcoreinfo.is_none() => {
                            let shift = |at: usize| base.saturating_add(at);
                            self.vmcoreinfo = Some(shift(note.desc.start)..shift(note.desc.end));
                        }
                        _ => {}
                    }
                }
                Err(bad) => result = Err(bad),
            }
        }
        self.bytes.extend_from_slice(bytes.get(..good).unwrap_or_default());
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        result
    }

    /// Adds a note with this VMCOREINFO: dumps of version 3 keep its text and no notes.
    pub fn add_vmcoreinfo(&mut self, text: &[u8], endian: Endian) {
        const NAME: &[u8; 12] = b"VMCOREINFO\0\0";
        let Ok(len) = u32::try_from(text.len()) else { return };
        for field in [11, len, 0] {
            self.bytes.extend(match endian {
                Endian::Little => field.to_le_bytes(),
                Endian::Big => field.to_be_bytes(),
            });
        }
        self.bytes.extend(NAME);
        let start = self.bytes.len();
        self.bytes.extend(text);
        self.vmcoreinfo = Some(start..self.bytes.len());
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::note;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn counts_cpus_and_finds_vmcoreinfo_over_several_segments() {
        let mut first = [note("CORE", 1, &[7; 336]), note("CORE", 1, &[8; 335])].concat();
        first.extend([0; 40]); // room that the kernel reserved and did not use
        let second = [note("VMCOREINFO", 0, b"A=1\n"), note("VMCOREINFO", 0, b"A=2\n")].concat();
        let mut found = Found::default();
        found.add(&first, Endian::Little).unwrap();
        found.add(&second, Endian::Little).unwrap();
        assert_eq!(found.cpus, 2);
        assert_eq!(&found.bytes[found.vmcoreinfo.clone().unwrap()], b"A=1\n");
        assert_eq!(found.bytes.len(), first.len() - 40 + second.len());
    }

    #[test]
    fn an_absurd_length_ends_the_iteration_once() {
        for (at, value) in [(0, u32::MAX), (4, u32::MAX), (0, 0x7fff_fff0), (4, 5000)] {
            let mut bytes = [note("CORE", 1, &[7; 16]), note("X", 3, &[1; 8])].concat();
            let second = note("CORE", 1, &[7; 16]).len();
            bytes[second + at..second + at + 4].copy_from_slice(&value.to_le_bytes());
            let items: Vec<_> = Notes::new(&bytes, Endian::Little).collect();
            assert_eq!(items.len(), 2, "{at} {value:#x}");
            assert_eq!(items[1].as_ref().unwrap_err().at, second);
            let mut found = Found::default();
            assert!(found.add(&bytes, Endian::Little).is_err());
            assert_eq!((found.cpus, found.bytes.len()), (1, second));
        }
    }

    #[test]
    fn the_last_descriptor_may_lack_its_padding() {
        let mut bytes = note("VMCOREINFO", 0, b"A=1");
        bytes.pop();
        let mut found = Found::default();
        found.add(&bytes, Endian::Little).unwrap();
        assert_eq!(&found.bytes[found.vmcoreinfo.unwrap()], b"A=1");
        assert_eq!(found.bytes.len() % 4, 0);
    }

    proptest! {
        #[test]
        fn any_bytes_end(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut found = Found::default();
            let _ = found.add(&bytes, Endian::Little);
            prop_assert!(found.bytes.len() <= bytes.len() + 3);
            prop_assert!(Notes::new(&bytes, Endian::Big).count() <= bytes.len() / HEADER + 1);
        }
    }
}

//! Label and directory of a raw partition as they are worked with, and their way from and to the disk.

use super::layout::{
    CHUNK, CHUNK_HEAD, CHUNK_MAGIC, ChunkHeader, DIRECTORY_MAGIC, DUMP_NAME, DUMPS, DirectoryBlock,
    DumpEntry, FILE_NAME, FILES, FileEntry, LABEL_MAGIC, LabelBlock, PAYLOAD, VERSION, crc_of, is_intact,
};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// What is true of the partition for good.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Label {
    /// Bytes of the partition when it was prepared.
    pub length: u64,
    /// Its UUID.
    pub uuid: [u8; 16],
    /// Seconds since 1970 when it was prepared.
    pub prepared: u64,
}

/// Whether there is a label.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// None at all.
    Nothing,
    /// What looks like one, but is damaged.
    Damaged,
    /// Of a version that we do not know.
    Version(u32),
    /// A label.
    Label(Label),
}

impl Label {
    /// The smallest partition: room for some logs.
    pub const LEAST: u64 = 16 << 20;

    /// Looks at the first bytes of a partition.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Found {
        let Ok((block, _)) = LabelBlock::ref_from_prefix(bytes) else { return Found::Nothing };
        if block.magic != LABEL_MAGIC {
            return Found::Nothing;
        }
        if !is_intact(block.as_bytes()) {
            return Found::Damaged;
        }
        if block.version.get() != VERSION {
            return Found::Version(block.version.get());
        }
        let label = Self { length: block.length.get(), uuid: block.uuid, prepared: block.prepared.get() };
        if u64::from(block.chunk.get()) != CHUNK || label.length < Self::LEAST {
            return Found::Damaged;
        }
        Found::Label(label)
    }

    /// The label as it is written.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut block = LabelBlock::new_zeroed();
        block.magic = LABEL_MAGIC;
        block.version = VERSION.into();
        block.chunk = u32::try_from(CHUNK).unwrap_or(0).into();
        block.length = self.length.into();
        block.uuid = self.uuid;
        block.prepared = self.prepared.into();
        block.crc = crc_of(block.as_bytes()).into();
        block.as_bytes().to_vec()
    }

    /// How many chunks there are. The last MiB is not used: some signatures are looked for there.
    #[must_use]
    pub fn chunks(&self) -> u64 {
        (self.length / CHUNK).saturating_sub(2)
    }

    /// The UUID as text.
    #[must_use]
    pub fn uuid_text(&self) -> String {
        let hex = format!("{:032x}", u128::from_be_bytes(self.uuid));
        let part = |range: std::ops::Range<usize>| hex.get(range).unwrap_or_default();
        format!("{}-{}-{}-{}-{}", part(0..8), part(8..12), part(12..16), part(16..20), part(20..32))
    }
}

/// What became of a dump.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// It is being written, or its writer never came to its end.
    Writing,
    /// It has its manifest, but not all of its files are whole.
    Partial,
    /// It has its manifest, and every file is whole.
    Complete,
    /// It was copied to a file system.
    Recovered,
}

impl State {
    fn number(self) -> u32 {
        match self {
            Self::Writing => 1,
            Self::Partial => 2,
            Self::Complete => 3,
            Self::Recovered => 4,
        }
    }
    fn of(number: u32) -> Option<Self> {
        [Self::Writing, Self::Partial, Self::Complete, Self::Recovered]
            .into_iter()
            .find(|state| state.number() == number)
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Writing => "cut off",
            Self::Partial => "partial",
            Self::Complete => "complete",
            Self::Recovered => "recovered",
        })
    }
}

/// A dump on the partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dump {
    /// Its number.
    pub id: u32,
    /// What became of it.
    pub state: State,
    /// The first of its chunks.
    pub first: u64,
    /// Seconds since 1970 when it was begun.
    pub begun: u64,
    /// `<host>-<crash time>`.
    pub name: String,
}

/// A file of a dump.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileRecord {
    /// The dump's number.
    pub dump: u32,
    /// Its own.
    pub id: u32,
    /// Length and chunks are true.
    pub finished: bool,
    /// The first free chunk when it was begun: all of its own are there or behind.
    pub from: u64,
    /// The chunk with its first bytes.
    pub first: Option<u64>,
    /// Bytes.
    pub length: u64,
    /// Chunks.
    pub chunks: u64,
    /// Its name.
    pub name: String,
}

impl FileRecord {
    /// Takes note of a chunk: its number, its place in the file, and how many bytes it has.
    pub(super) fn grew(&mut self, chunk: u64, index: u64, used: usize) {
        if index == 0 {
            self.first = Some(chunk);
        }
        let end = u64::try_from(used).ok().and_then(|used| index.checked_mul(PAYLOAD)?.checked_add(used));
        if used > 0
            && let Some(end) = end
        {
            self.length = self.length.max(end);
        }
    }
}

/// Names and lengths.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Directory {
    /// Counts up with every change.
    pub sequence: u64,
    /// The first free chunk.
    pub next: u64,
    /// The highest number that a dump has had.
    pub last_dump: u32,
    /// The highest number that a file has had.
    pub last_file: u32,
    /// Dumps, the oldest first.
    pub dumps: Vec<Dump>,
    /// Their files.
    pub files: Vec<FileRecord>,
}

impl Directory {
    /// Reads one of the two; `None` when it is not whole, belongs to another label, or makes no sense.
    #[must_use]
    pub fn parse(bytes: &[u8], label: &Label) -> Option<Self> {
        let (block, _) = DirectoryBlock::ref_from_prefix(bytes).ok()?;
        if block.magic != DIRECTORY_MAGIC || block.uuid != label.uuid || !is_intact(block.as_bytes()) {
            return None;
        }
        let chunks = label.chunks();
        let mut this = Self {
            sequence: block.sequence.get(),
            next: Some(block.next.get()).filter(|next| *next <= chunks)?,
            last_dump: block.last_dump.get(),
            last_file: block.last_file.get(),
            ..Self::default()
        };
        for entry in block.dumps.iter().filter(|entry| entry.id.get() != 0) {
            let dump = Dump {
                id: entry.id.get(),
                state: State::of(entry.state.get())?,
                first: entry.first.get(),
                begun: entry.begun.get(),
                name: name_of(&entry.name)?,
            };
            let known = this.dumps.iter().any(|other| other.id == dump.id);
            if known || dump.id > this.last_dump || dump.first > this.next {
                return None;
            }
            this.dumps.push(dump);
        }
        for entry in block.files.iter().filter(|entry| entry.id.get() != 0) {
            let first = entry.first.get();
            let file = FileRecord {
                dump: entry.dump.get(),
                id: entry.id.get(),
                finished: entry.flags.get() & 1 != 0,
                from: u64::from(entry.from.get()),
                first: (first != u64::MAX).then_some(first),
                length: entry.length.get(),
                chunks: entry.chunks.get(),
                name: name_of(&entry.name)?,
            };
            let known = this
                .files
                .iter()
                .any(|other| other.id == file.id || (other.dump == file.dump && other.name == file.name));
            let dump = this.dumps.iter().find(|dump| dump.id == file.dump)?;
            if known
                || file.id > this.last_file
                || file.first.is_some_and(|first| first < dump.first || first >= chunks)
                || file.from > this.next
                || file.chunks > chunks
                || i64::try_from(file.length).is_err()
            {
                return None;
            }
            this.files.push(file);
        }
        Some(this)
    }

    /// The newer of the two.
    #[must_use]
    pub fn newest(both: [&[u8]; 2], label: &Label) -> Option<Self> {
        both.into_iter().filter_map(|bytes| Self::parse(bytes, label)).max_by_key(|one| one.sequence)
    }

    /// As it is written. What does not fit is not there: [`Directory::has_room`] says so before.
    #[must_use]
    pub fn to_bytes(&self, label: &Label) -> Vec<u8> {
        let mut block = DirectoryBlock::new_zeroed();
        block.magic = DIRECTORY_MAGIC;
        block.uuid = label.uuid;
        block.sequence = self.sequence.into();
        block.next = self.next.into();
        block.last_dump = self.last_dump.into();
        block.last_file = self.last_file.into();
        for (entry, dump) in block.dumps.iter_mut().zip(&self.dumps) {
            *entry = DumpEntry {
                id: dump.id.into(),
                state: dump.state.number().into(),
                first: dump.first.into(),
                begun: dump.begun.into(),
                reserved: [0; 8],
                name: padded(&dump.name),
            };
        }
        for (entry, file) in block.files.iter_mut().zip(&self.files) {
            *entry = FileEntry {
                dump: file.dump.into(),
                id: file.id.into(),
                flags: u32::from(file.finished).into(),
                from: u32::try_from(file.from).unwrap_or(u32::MAX).into(),
                first: file.first.unwrap_or(u64::MAX).into(),
                length: file.length.into(),
                chunks: file.chunks.into(),
                name: padded(&file.name),
            };
        }
        block.crc = crc_of(block.as_bytes()).into();
        block.as_bytes().to_vec()
    }

    /// Whether there is a place for one more dump, and one more file.
    #[must_use]
    pub fn has_room(&self) -> (bool, bool) {
        (self.dumps.len() < DUMPS, self.files.len() < FILES)
    }

    /// A dump by its name.
    #[must_use]
    pub fn dump(&self, name: &str) -> Option<&Dump> {
        self.dumps.iter().find(|dump| dump.name == name && dump.state != State::Recovered)
    }

    /// The files of a dump.
    pub fn files_of(&self, dump: u32) -> impl Iterator<Item = &FileRecord> {
        self.files.iter().filter(move |file| file.dump == dump)
    }

    /// A file by its name.
    #[must_use]
    pub fn file(&self, dump: u32, name: &str) -> Option<&FileRecord> {
        self.files.iter().find(|file| file.dump == dump && file.name == name)
    }
}

/// Whether a name can be a file's, wherever it ends up.
#[must_use]
pub fn is_name(name: &str, room: usize) -> bool {
    let safe = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    !name.is_empty() && name.len() <= room && !name.starts_with('.') && name.bytes().all(safe)
}

/// Whether a name can be a dump's.
#[must_use]
pub fn is_dump_name(name: &str) -> bool {
    is_name(name, DUMP_NAME)
}

/// Whether a name can be a file's.
#[must_use]
pub fn is_file_name(name: &str) -> bool {
    is_name(name, FILE_NAME)
}

fn name_of(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    let (name, rest) = bytes.split_at_checked(end)?;
    let name = std::str::from_utf8(name).ok()?;
    (is_name(name, bytes.len()) && rest.iter().all(|b| *b == 0)).then(|| name.to_owned())
}

fn padded<const N: usize>(name: &str) -> [u8; N] {
    let mut bytes = [0; N];
    for (to, from) in bytes.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    bytes
}

/// A chunk that is one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chunk<'b> {
    /// The dump's number.
    pub dump: u32,
    /// The file's.
    pub file: u32,
    /// Its place in the file, in pieces of [`PAYLOAD`] bytes.
    pub index: u64,
    /// The file's bytes.
    pub data: &'b [u8],
    /// They are those that were written.
    pub intact: bool,
}

impl<'b> Chunk<'b> {
    /// Reads a chunk; `None` when it is none of this partition's.
    #[must_use]
    pub fn parse(bytes: &'b [u8], label: &Label) -> Option<Self> {
        let (header, rest) = ChunkHeader::ref_from_prefix(bytes).ok()?;
        if header.magic != CHUNK_MAGIC || header.uuid != label.uuid || !is_intact(header.as_bytes()) {
            return None;
        }
        let data = rest.get(..usize::try_from(header.used.get()).ok()?)?;
        let index = header.index.get();
        // Its bytes must have a place in a file.
        let end = index.checked_mul(PAYLOAD)?.checked_add(PAYLOAD)?;
        i64::try_from(end).ok()?;
        let intact = libdeflater::crc32(data) == header.data_crc.get();
        Some(Self { dump: header.dump.get(), file: header.file.get(), index, data, intact })
    }

    /// Puts the header in front of `used` bytes of data in a buffer.
    pub(super) fn seal(bytes: &mut [u8], label: &Label, dump: u32, file: u32, index: u64, used: usize) {
        let Some((head, data)) = bytes.split_at_mut_checked(CHUNK_HEAD) else { return };
        let data = data.get(..used).unwrap_or_default();
        let mut header = ChunkHeader::new_zeroed();
        header.magic = CHUNK_MAGIC;
        header.uuid = label.uuid;
        header.dump = dump.into();
        header.file = file.into();
        header.index = index.into();
        header.used = u32::try_from(data.len()).unwrap_or(0).into();
        header.data_crc = libdeflater::crc32(data).into();
        header.crc = crc_of(header.as_bytes()).into();
        head.copy_from_slice(header.as_bytes());
    }
}

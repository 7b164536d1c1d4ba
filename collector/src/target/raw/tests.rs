use super::directory::{Directory, Dump, FileRecord, Found, Label, State};
use super::layout::{DIRECTORIES, DIRECTORY_LEN, LABEL_LEN, PAYLOAD};
use super::*;
use crate::addr::FileOffset;
use crate::target::store::Store;
use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::Path;
use tempfile::NamedTempFile;

const MIB: u64 = 1 << 20;
const UUID: [u8; 16] = *b"0123456789abcdef";

fn size(n: u64) -> usize {
    usize::try_from(n).unwrap()
}

/// A file that stands for a partition, prepared.
fn partition(mib: u64) -> NamedTempFile {
    let file = NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    file.as_file().set_len(mib * MIB).unwrap();
    prepare(file.path(), UUID, 1_700_000_000).unwrap();
    file
}

/// All files of a dump as they are read back, and what is wrong with each.
fn read(node: &Path, name: &str) -> BTreeMap<String, (Vec<u8>, Option<String>)> {
    let partition = Partition::open(node, true).unwrap();
    let directory = partition.directory();
    let dump = directory.dumps.iter().find(|dump| dump.name == name).unwrap();
    let mut files: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    let contents = partition
        .read_dump(dump, &mut |file, at, bytes| {
            let to = files.entry(file.id).or_default();
            let (at, end) = (size(at), size(at) + bytes.len());
            to.resize(to.len().max(end), 0);
            to[at..end].copy_from_slice(bytes);
            Ok(())
        })
        .unwrap();
    let whole = |content: &Content| {
        let mut bytes = files.get(&content.file.id).cloned().unwrap_or_default();
        bytes.resize(size(content.length), 0);
        (content.file.name.clone(), (bytes, content.fault()))
    };
    contents.iter().map(whole).collect()
}

fn state(node: &Path, name: &str) -> State {
    let directory = Partition::open(node, true).unwrap().directory();
    directory.dumps.iter().find(|dump| dump.name == name).unwrap().state
}

/// Writes what a capture writes.
fn capture(node: &Path, name: &str, mib: usize) -> String {
    let dump = RawDump::create(node, name).unwrap();
    let sink = dump.create("vmcore-dmesg.txt-incomplete").unwrap();
    sink.write_at(FileOffset::new(0), b"[    0.0] hello\n").unwrap();
    sink.finish().unwrap();
    drop(sink);
    dump.rename("vmcore-dmesg.txt-incomplete", "vmcore-dmesg.txt").unwrap();
    dump.overwrite("manifest.json-incomplete", &[b' '; 65536]).unwrap();
    let sink = dump.create("vmcore-incomplete").unwrap();
    sink.write_at(FileOffset::new(0), b"head").unwrap();
    // A gap, and then data.
    sink.write_at(FileOffset::new(3 * MIB + 5), &vec![7; mib << 20]).unwrap();
    sink.write_at(FileOffset::new(2), b"AD").unwrap();
    sink.finish().unwrap();
    drop(sink);
    let path = dump.path().to_owned();
    let dump = RawDump::open(node, &path).unwrap();
    dump.rename("vmcore-incomplete", "vmcore").unwrap();
    dump.overwrite("manifest.json-incomplete", b"{}\n").unwrap();
    dump.rename("manifest.json-incomplete", "manifest.json").unwrap();
    dump.sync().unwrap();
    path
}

#[test]
fn what_a_capture_writes_is_read_back() {
    let disk = partition(64);
    let path = capture(disk.path(), "web1-19700101T000000Z", 9);
    assert_eq!(path, "/web1-19700101T000000Z");
    let files = read(disk.path(), &path[1..]);
    let names: Vec<_> = files.keys().map(String::as_str).collect();
    assert_eq!(names, ["manifest.json", "vmcore", "vmcore-dmesg.txt"]);
    assert_eq!(files["manifest.json"], (b"{}\n".to_vec(), None));
    assert_eq!(files["vmcore-dmesg.txt"], (b"[    0.0] hello\n".to_vec(), None));
    let (vmcore, fault) = &files["vmcore"];
    assert_eq!((vmcore.len() as u64, fault), (12 * MIB + 5, &None));
    assert_eq!(&vmcore[..6], b"heAD\0\0");
    assert!(vmcore[6..3 * size(MIB) + 5].iter().all(|b| *b == 0), "a gap that is not empty");
    assert!(vmcore[3 * size(MIB) + 5..].iter().all(|b| *b == 7));
    assert_eq!(state(disk.path(), &path[1..]), State::Complete);
}

/// What is on the disk from a former life is never taken for what a dump has.
#[test]
fn gaps_are_empty_on_a_disk_that_is_not() {
    let disk = partition(64);
    let path = capture(disk.path(), "old", 40);
    let one = Partition::open(disk.path(), true).unwrap();
    let id = one.directory().dumps[0].id;
    one.mark_recovered(id).unwrap();
    drop(one);
    assert_eq!(state(disk.path(), &path[1..]), State::Recovered);
    capture(disk.path(), "new", 9);
    let directory = Partition::open(disk.path(), true).unwrap().directory();
    assert_eq!(directory.dumps.len(), 1, "the room of a recovered dump is used again");
    assert!(read(disk.path(), "new")["vmcore"].0[6..3 * size(MIB)].iter().all(|b| *b == 0));
    // Prepared again with all of it still there: numbers go on.
    prepare(disk.path(), [9; 16], 0).unwrap();
    let again = Partition::open(disk.path(), true).unwrap();
    assert_eq!((again.label().uuid, again.directory().last_dump), (UUID, directory.last_dump));
    assert!(again.directory().dumps.is_empty() && again.directory().files.is_empty());
}

#[test]
fn a_dump_that_nobody_recovered_is_kept() {
    let disk = partition(64);
    assert_eq!(capture(disk.path(), "one", 9), "/one");
    assert_eq!(capture(disk.path(), "one", 5), "/one-2");
    assert_eq!(read(disk.path(), "one")["vmcore"].0.len() as u64, 12 * MIB + 5);
    assert_eq!(read(disk.path(), "one-2")["vmcore"].0.len() as u64, 8 * MIB + 5);
    let dump = RawDump::create(disk.path(), "three").unwrap();
    let notes = dump.notes();
    assert!(notes[0].0 == Code::RAW_NOT_RECOVERED && notes[0].1.contains("one, one-2"), "{notes:?}");
}

#[test]
fn a_writer_that_dies_leaves_what_it_wrote() {
    let disk = partition(128);
    let dump = RawDump::create(disk.path(), "h").unwrap();
    let sink = dump.create("vmcore-incomplete").unwrap();
    for n in 0..40 {
        sink.write_at(FileOffset::new(n * PAYLOAD), &vec![u8::try_from(n).unwrap(); size(PAYLOAD)]).unwrap();
    }
    // As much as a killed process does: buffers are gone, chunks are there.
    std::mem::forget(sink);
    std::thread::sleep(std::time::Duration::from_millis(300));
    let other = RawDump::open(disk.path(), "/h").unwrap();
    let settled = other.settle("vmcore-incomplete").unwrap();
    assert!(settled >= 36 * PAYLOAD && settled.is_multiple_of(PAYLOAD), "{settled}");
    other.overwrite("manifest.json-incomplete", b"{}").unwrap();
    other.rename("manifest.json-incomplete", "manifest.json").unwrap();
    assert_eq!(state(disk.path(), "h"), State::Partial);
    let files = read(disk.path(), "h");
    let (bytes, fault) = &files["vmcore-incomplete"];
    assert_eq!((bytes.len() as u64, fault), (settled, &None));
    assert!(bytes.chunks(size(PAYLOAD)).enumerate().all(|(n, c)| c.iter().all(|b| usize::from(*b) == n)));
}

#[test]
fn a_full_partition_is_told_and_removing_makes_room() {
    let disk = partition(32);
    let dump = RawDump::create(disk.path(), "h").unwrap();
    dump.overwrite("manifest.json-incomplete", b"{}").unwrap();
    let free = dump.free().unwrap();
    let block = vec![1; size(MIB)];
    let fill = || {
        let sink = dump.create("vmcore-incomplete").unwrap();
        let mut at = 0;
        let error = loop {
            match sink.write_at(FileOffset::new(at), &block) {
                Ok(()) => at += MIB,
                Err(e) => break e,
            }
        };
        assert!(crate::target::is_full(&error), "{error}");
        sink.write_at(FileOffset::new(0), b"still").unwrap();
        sink.finish().unwrap();
        at
    };
    let first = fill();
    assert_eq!(dump.free(), Some(0));
    dump.remove("vmcore-incomplete").unwrap();
    assert_eq!(dump.free(), Some(free));
    assert_eq!(fill(), first);
    // The log and the manifest have their room already.
    dump.overwrite("manifest.json-incomplete", b"{ }").unwrap();
    dump.rename("manifest.json-incomplete", "manifest.json").unwrap();
    assert_eq!(read(disk.path(), "h")["manifest.json"].0, b"{ }");
    assert_eq!(state(disk.path(), "h"), State::Partial);
}

/// What must never be written, and what each is called.
#[test]
fn what_was_not_prepared_is_not_touched() {
    let blank = NamedTempFile::new().unwrap();
    blank.as_file().set_len(32 * MIB).unwrap();
    let why = |node: &Path| Partition::open(node, true).unwrap_err().to_string();
    assert!(why(blank.path()).contains("was not prepared for raw dumps: run `vmcorectl target prepare"));
    // mkfs after prepare: each of these leaves much of what we wrote.
    for (at, bytes, holds) in [
        (1024 + 0x38, &[0x53, 0xef][..], "ext2"),
        (0, b"XFSB", "xfs"),
        (65536 + 0x40, b"_BHRfS_M", "btrfs"),
        (4086, b"SWAPSPACE2", "swap"),
        (0, b"LUKS\xba\xbe\0\x02", "crypto_LUKS"),
        (512, b"EFI PART", "GPT"),
    ] {
        let disk = partition(32);
        disk.as_file().write_all_at(bytes, at).unwrap();
        let before = std::fs::read(disk.path()).unwrap();
        let said = why(disk.path());
        assert!(said.contains(holds) && said.contains("is not written"), "{holds}: {said}");
        assert!(RawDump::create(disk.path(), "h").is_err());
        assert!(std::fs::read(disk.path()).unwrap() == before, "{holds}: it was written");
    }
    for (at, name, code) in [
        (100, "the label of", Code::RAW_DAMAGED),
        (16, "the label of", Code::RAW_DAMAGED),
        (0, "was not prepared", Code::RAW_NOT_PREPARED),
    ] {
        let disk = partition(32);
        disk.as_file().write_all_at(&[0xa5], at).unwrap();
        let error = Partition::open(disk.path(), true).unwrap_err();
        assert!(error.to_string().contains(name) && error.code() == code, "{at}: {error}");
    }
    let disk = partition(32);
    disk.as_file().set_len(31 * MIB).unwrap();
    assert!(why(disk.path()).contains("has 31 MiB, but had 32"));
    let tiny = NamedTempFile::new().unwrap();
    tiny.as_file().set_len(MIB).unwrap();
    assert!(prepare(tiny.path(), UUID, 0).unwrap_err().to_string().contains("cannot prepare"));
}

/// One of the two directories may be half written.
#[test]
fn the_older_directory_counts_when_the_newer_is_torn() {
    let disk = partition(64);
    capture(disk.path(), "h", 9);
    let sequence = Partition::open(disk.path(), true).unwrap().directory().sequence;
    let newer = DIRECTORIES[usize::try_from(sequence % 2).unwrap()];
    disk.as_file().write_all_at(&[0; 512], newer + 8192).unwrap();
    disk.as_file().write_all_at(&[1; 1], newer + 40).unwrap();
    let older = Partition::open(disk.path(), true).unwrap().directory();
    assert_eq!(older.sequence, sequence - 1);
    assert!(older.file(1, "manifest.json-incomplete").is_some(), "before the last rename");
    for at in DIRECTORIES {
        disk.as_file().write_all_at(&[0xff], at + 100).unwrap();
    }
    let error = Partition::open(disk.path(), true).unwrap_err();
    assert!(error.to_string().contains("the directory of"), "{error}");
}

#[test]
fn damage_to_data_is_found() {
    for (name, at, len, fault) in
        [("a byte of a chunk", 514, 1, "are damaged"), ("the header of a chunk", 20, 1, "are not there")]
    {
        let disk = partition(64);
        capture(disk.path(), "h", 9);
        let record = Partition::open(disk.path(), true).unwrap().directory();
        let first = record.file(1, "vmcore").unwrap().first.unwrap();
        disk.as_file().write_all_at(&vec![0xee; len], (first + 1) * MIB + at).unwrap();
        let said = read(disk.path(), "h")["vmcore"].1.clone();
        assert!(said.as_ref().is_some_and(|s| s.contains(fault)), "{name}: {said:?}");
    }
}

fn sample() -> (Label, Directory) {
    let label = Label { length: 64 * MIB, uuid: UUID, prepared: 5 };
    let dump = |id: u32, state, name: &str| Dump { id, state, first: 0, begun: 7, name: name.to_owned() };
    let file = |id: u32, dump, name: &str| FileRecord {
        dump,
        id,
        finished: id.is_multiple_of(2),
        from: 1,
        first: (id > 1).then_some(u64::from(id)),
        length: 12345,
        chunks: 3,
        name: name.to_owned(),
    };
    let directory = Directory {
        sequence: 77,
        next: 20,
        last_dump: 3,
        last_file: 9,
        dumps: vec![dump(1, State::Recovered, "a"), dump(3, State::Writing, "web-1.example_org")],
        files: vec![file(1, 1, "vmcore"), file(2, 3, "vmcore"), file(9, 3, "vmcore-dmesg.txt")],
    };
    (label, directory)
}

#[test]
fn label_and_directory_are_read_as_written() {
    let (label, directory) = sample();
    assert_eq!(Label::parse(&label.to_bytes()), Found::Label(label));
    let bytes = directory.to_bytes(&label);
    assert_eq!(bytes.len(), DIRECTORY_LEN);
    assert_eq!(Directory::parse(&bytes, &label), Some(directory));
    let other = Label { uuid: [0; 16], ..label };
    assert_eq!(Directory::parse(&bytes, &other), None, "another partition's");
    assert_eq!(label.uuid_text(), "30313233-3435-3637-3839-616263646566");
}

/// Directories that are intact and make no sense: somebody wrote them so.
#[test]
fn nonsense_is_refused() {
    type Change = fn(&mut Directory);
    let changes: [(&str, Change); 14] = [
        ("a path", |d| d.dumps[0].name = "../etc".to_owned()),
        ("an absolute path", |d| d.files[0].name = "/etc/passwd".to_owned()),
        ("a hidden name", |d| d.files[0].name = ".profile".to_owned()),
        ("no name", |d| d.files[0].name = String::new()),
        ("control characters", |d| d.dumps[0].name = "a\n\u{1b}[2J".to_owned()),
        ("the same dump twice", |d| d.dumps[0].id = 3),
        ("the same file twice", |d| d.files[0].id = 9),
        ("the same name twice", |d| d.files[1].name = "vmcore-dmesg.txt".to_owned()),
        ("a file of no dump", |d| d.files[0].dump = 2),
        ("a chunk behind the end", |d| d.files[1].first = Some(62)),
        ("more chunks than there are", |d| d.files[1].chunks = 63),
        ("an end behind the end", |d| d.next = 63),
        ("longer than a file can be", |d| d.files[1].length = 1 << 63),
        ("a number that was not given", |d| d.last_file = 8),
    ];
    let (label, good) = sample();
    for (name, change) in changes {
        let mut bad = good.clone();
        change(&mut bad);
        assert_eq!(Directory::parse(&bad.to_bytes(&label), &label), None, "{name}");
    }
}

/// Any byte that is not what was written is noticed, and no bytes make anything panic.
#[test]
fn every_damaged_byte_is_noticed() {
    let (label, directory) = sample();
    let whole = label.to_bytes();
    for at in 0..LABEL_LEN {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x40;
        assert!(!matches!(Label::parse(&bytes), Found::Label(_)), "byte {at}");
        assert!(!matches!(Label::parse(&bytes[..at]), Found::Label(_)));
    }
    let whole = directory.to_bytes(&label);
    for at in (0..DIRECTORY_LEN).step_by(7) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x40;
        assert_eq!(Directory::parse(&bytes, &label), None, "byte {at}");
        assert_eq!(Directory::parse(&bytes[..at], &label), None);
    }
    let mut bytes = vec![0; 4096];
    Chunk::seal(&mut bytes, &label, 1, 2, 3, 1000);
    let chunk = Chunk::parse(&bytes, &label).unwrap();
    assert_eq!((chunk.dump, chunk.file, chunk.index, chunk.data.len(), chunk.intact), (1, 2, 3, 1000, true));
    for at in 0..1512 {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1;
        assert!(Chunk::parse(&bytes, &label).is_none_or(|chunk| at >= 512 && !chunk.intact), "byte {at}");
        assert_eq!(Chunk::parse(&bytes[..at], &label), None);
    }
    // A place in the file that no file has.
    Chunk::seal(&mut bytes, &label, 1, 2, u64::MAX / PAYLOAD, 10);
    assert_eq!(Chunk::parse(&bytes, &label), None);
}

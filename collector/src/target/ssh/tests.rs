//! Conversations with servers that are played: one that does what the draft says, and others that do not.

use super::client::testing::link;
use super::directory::SshDirectory;
use super::failure::SshError;
use super::file::RemoteFile;
use super::packet::{Fields, Request, kind, status};
use super::session::Session;
use crate::addr::FileOffset;
use crate::format::DumpSink;
use crate::problem::Code;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const STALL: Duration = Duration::from_secs(20);

/// A packet: type, id, fields.
fn packet(kind: u8, id: u32, rest: &[u8]) -> Vec<u8> {
    let mut bytes = Request::new(kind, id).finish(rest.len());
    bytes.extend_from_slice(rest);
    bytes
}

fn text(value: &str) -> Vec<u8> {
    [&u32::try_from(value.len()).unwrap().to_be_bytes()[..], value.as_bytes()].concat()
}

fn said(id: u32, code: u32) -> Vec<u8> {
    packet(kind::STATUS, id, &[&code.to_be_bytes()[..], &text("as it is"), &text("en")].concat())
}

fn version(extensions: &[&str]) -> Vec<u8> {
    let pairs: Vec<u8> = extensions.iter().flat_map(|e| [text(e), text("1")].concat()).collect();
    packet(kind::VERSION, 3, &pairs)
}

/// The next request; `None` at the end.
fn request(stream: &mut UnixStream) -> Option<(u8, u32, Vec<u8>)> {
    request_or(stream, &mut || {})
}

/// The next request; while there is none yet, `idle` is called.
fn request_or(stream: &mut UnixStream, idle: &mut dyn FnMut()) -> Option<(u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    loop {
        match stream.read(&mut head[..1]) {
            Ok(1) => break,
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => idle(),
            _ => return None,
        }
    }
    stream.set_read_timeout(None).unwrap();
    stream.read_exact(&mut head[1..]).ok()?;
    let len = u32::from_be_bytes(head[..4].try_into().unwrap());
    let mut rest = vec![0; usize::try_from(len).unwrap() - 5];
    stream.read_exact(&mut rest).ok()?;
    Some((head[4], u32::from_be_bytes(head[5..].try_into().unwrap()), rest))
}

/// What the played server is like.
#[derive(Clone, Default)]
struct Nature {
    extensions: Vec<&'static str>,
    /// Largest write, of limits@.
    largest: u64,
    /// So many answers are held back and given in reverse.
    reversed: usize,
    /// Bytes that there is room for.
    room: Option<u64>,
}

#[derive(Default)]
struct Disk {
    files: BTreeMap<String, Vec<u8>>,
    directories: BTreeSet<String>,
    modes: BTreeMap<String, u32>,
    longest_write: usize,
    synced: usize,
}

/// A server in memory that keeps the rules.
fn serve(mut stream: UnixStream, nature: &Nature, disk: &Mutex<Disk>) {
    let late = RefCell::new(Vec::new());
    let mut out = stream.try_clone().unwrap();
    let mut answer_late = || {
        let answers: Vec<Vec<u8>> = late.take();
        // Whoever asked may be gone.
        drop(out.write_all(&answers.into_iter().rev().collect::<Vec<_>>().concat()));
    };
    while let Some((kind, id, rest)) = request_or(&mut stream, &mut answer_late) {
        let mut disk = disk.lock().unwrap();
        let mut fields = Fields(&rest);
        let mut string = || String::from_utf8_lossy(fields.string().unwrap_or_default()).into_owned();
        let answer = match kind {
            kind::INIT => version(&nature.extensions),
            kind::MKDIR => {
                let path = string();
                let parent = path.rsplit_once('/').unwrap().0;
                let code = if !parent.is_empty() && !disk.directories.contains(parent) {
                    status::NO_SUCH_FILE
                } else if disk.directories.insert(path.clone()) {
                    fields.u32();
                    disk.modes.insert(path, fields.u32().unwrap());
                    status::OK
                } else {
                    status::FAILURE
                };
                said(id, code)
            }
            kind::STAT | kind::LSTAT => {
                let path = string();
                let mode = if disk.directories.contains(&path) {
                    Some(0o40700_u32)
                } else {
                    disk.files.contains_key(&path).then_some(0o10_0600)
                };
                match mode {
                    Some(mode) => {
                        packet(kind::ATTRS, id, &[4_u32.to_be_bytes(), mode.to_be_bytes()].concat())
                    }
                    None => said(id, status::NO_SUCH_FILE),
                }
            }
            kind::OPEN => {
                let path = string();
                let flags = fields.u32().unwrap();
                if flags & 0x20 != 0 && disk.files.contains_key(&path) {
                    said(id, status::FAILURE)
                } else if flags & 8 == 0 && path != "/" && !disk.directories.contains(&path) {
                    said(id, status::NO_SUCH_FILE)
                } else {
                    if flags & 8 != 0 {
                        disk.files.entry(path.clone()).or_default();
                    }
                    packet(kind::HANDLE, id, &text(&path))
                }
            }
            kind::FSETSTAT => {
                let path = string();
                match (fields.u32().unwrap(), disk.files.get_mut(&path)) {
                    (1, Some(file)) => file.resize(usize::try_from(fields.u64().unwrap()).unwrap(), 0),
                    _ => drop(disk.modes.insert(path, fields.u32().unwrap())),
                }
                said(id, status::OK)
            }
            kind::WRITE => {
                let path = string();
                let at = usize::try_from(fields.u64().unwrap()).unwrap();
                let data = fields.string().unwrap();
                let end = at + data.len();
                disk.longest_write = disk.longest_write.max(data.len());
                if nature.room.is_some_and(|room| u64::try_from(end).unwrap() > room) {
                    said(id, status::FAILURE)
                } else {
                    let file = disk.files.get_mut(&path).unwrap();
                    if file.len() < end {
                        file.resize(end, 0);
                    }
                    file[at..end].copy_from_slice(data);
                    said(id, status::OK)
                }
            }
            kind::RENAME => {
                let (from, to) = (string(), string());
                let code = match disk.files.remove(&from) {
                    Some(_) if disk.files.contains_key(&to) => status::FAILURE,
                    Some(file) => {
                        disk.files.insert(to, file);
                        status::OK
                    }
                    None => status::NO_SUCH_FILE,
                };
                said(id, code)
            }
            kind::REMOVE => {
                let gone = disk.files.remove(&string()).is_some();
                said(id, if gone { status::OK } else { status::NO_SUCH_FILE })
            }
            kind::CLOSE => said(id, status::OK),
            kind::EXTENDED => {
                let name = string();
                if !nature.extensions.contains(&name.as_str()) {
                    said(id, status::OP_UNSUPPORTED)
                } else if name.starts_with("limits") {
                    let numbers = [1_u64 << 18, 1 << 18, nature.largest, 0].map(u64::to_be_bytes).concat();
                    packet(kind::EXTENDED_REPLY, id, &numbers)
                } else if name.starts_with("statvfs") {
                    let free = nature.room.map_or(1 << 30, |_| 0);
                    let numbers = [1, 1, 9, 9, free, 0, 0, 0, 0, 0, 255].map(u64::to_be_bytes).concat();
                    packet(kind::EXTENDED_REPLY, id, &numbers)
                } else if name.starts_with("posix-rename") {
                    let (from, to) = (string(), string());
                    let file = disk.files.remove(&from).unwrap();
                    disk.files.insert(to, file);
                    said(id, status::OK)
                } else {
                    disk.synced += 1;
                    said(id, status::OK)
                }
            }
            other => panic!("request of type {other}"),
        };
        late.borrow_mut().push(answer);
        if late.borrow().len() > nature.reversed || kind != kind::WRITE {
            answer_late();
        }
    }
}

const OPENSSH: [&str; 4] =
    ["posix-rename@openssh.com", "statvfs@openssh.com", "fsync@openssh.com", "limits@openssh.com"];

fn openssh() -> Nature {
    Nature { extensions: OPENSSH.to_vec(), largest: 261_120, ..Nature::default() }
}

fn with(nature: Nature) -> (Arc<Session>, Arc<Mutex<Disk>>) {
    let (link, stream, _) = link(STALL);
    let disk = Arc::new(Mutex::new(Disk::default()));
    let its = Arc::clone(&disk);
    std::thread::spawn(move || serve(stream, &nature, &its));
    (Arc::new(Session::greet(link, STALL).unwrap()), disk)
}

#[test]
fn a_dump_arrives_whatever_order_answers_have() {
    for (reversed, largest) in [(0, 261_120), (20, 7000), (31, 0)] {
        let (session, disk) = with(Nature { reversed, largest, ..openssh() });
        let directory = SshDirectory::create(Arc::clone(&session), "/var//crash/", "h").unwrap();
        assert_eq!(directory.path(), "/var/crash/h");
        let file = directory.create_file("vmcore-incomplete").unwrap();
        let piece: Vec<u8> = (0..1_000_003_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
        std::thread::scope(|scope| {
            for n in [3_u64, 0, 2, 1] {
                let (file, piece) = (&file, &piece);
                scope.spawn(move || file.write_at(FileOffset::new(n * 1_000_003 + 5), piece).unwrap());
            }
        });
        file.finish().unwrap();
        drop(file);
        directory.rename("vmcore-incomplete", "vmcore").unwrap();
        directory.sync().unwrap();
        let disk = disk.lock().unwrap();
        let file = &disk.files["/var/crash/h/vmcore"];
        assert_eq!(file.len(), 4 * 1_000_003 + 5);
        assert!(file[..5] == [0; 5] && (0..4).all(|n| file[n * 1_000_003 + 5..][..1_000_003] == piece[..]));
        let limit = if largest == 0 { 261_120 } else { usize::try_from(largest).unwrap() };
        assert_eq!(disk.longest_write, limit);
        assert_eq!(disk.modes["/var/crash/h"], 0o700);
        assert_eq!(disk.modes["/var/crash/h/vmcore-incomplete"], 0o600);
        assert!(disk.synced >= 2);
        assert_eq!(session.notes(), []);
    }
}

#[test]
fn a_name_that_exists_gets_a_number() {
    let (session, _) = with(openssh());
    let made: Vec<_> = (0..3)
        .map(|_| SshDirectory::create(Arc::clone(&session), "/c", "h").unwrap().path().to_owned())
        .collect();
    assert_eq!(made, ["/c/h", "/c/h-2", "/c/h-3"]);
    let error = SshDirectory::create(Arc::clone(&session), "/c/../d", "h").unwrap_err();
    assert_eq!(error.to_string(), "cannot go up in /c/../d");
    assert!(SshDirectory::open(Arc::clone(&session), "/nowhere").is_err());
}

#[test]
fn small_files_keep_their_room_and_are_cut() {
    let (session, disk) = with(openssh());
    let directory = SshDirectory::create(session, "/c", "h").unwrap();
    directory.put("manifest.json", &[b' '; 65536]).unwrap();
    directory.put("manifest.json", b"{}\n").unwrap();
    assert_eq!(disk.lock().unwrap().files["/c/h/manifest.json"], b"{}\n");
    directory.remove("manifest.json").unwrap();
    assert!(directory.remove("manifest.json").is_err());
    assert_eq!(directory.free_space().unwrap(), Some(1 << 30));
}

/// A long dump is written back as it comes; a server that cannot is not asked in vain for an error.
#[test]
fn long_dumps_are_synced_on_the_way() {
    for nature in [openssh(), Nature::default()] {
        let can = !nature.extensions.is_empty();
        let (session, disk) = with(nature);
        let file = RemoteFile::create(&session, "", "f", true).unwrap();
        let piece = vec![1; 1 << 20];
        for n in 0..520 {
            file.write_at(FileOffset::new((n % 4) << 20), &piece).unwrap();
        }
        file.finish().unwrap();
        assert_eq!(disk.lock().unwrap().synced, if can { 3 } else { 0 });
    }
}

#[test]
fn a_server_without_extensions_will_do() {
    let (session, disk) = with(Nature::default());
    let directory = SshDirectory::create(Arc::clone(&session), "/c", "h").unwrap();
    for name in ["a", "b"] {
        let file = directory.create_file(name).unwrap();
        file.write_at(FileOffset::new(0), &vec![7; 100_000]).unwrap();
        file.finish().unwrap();
    }
    directory.rename("a", "b").unwrap();
    assert_eq!(directory.free_space().unwrap(), None);
    assert_eq!(disk.lock().unwrap().longest_write, 32 << 10);
    let notes = directory.notes();
    assert!(notes.len() == 1 && notes[0].0 == Code::SSH_NOT_DURABLE, "{notes:?}");
}

#[test]
fn a_failed_write_is_told_later_and_a_full_disk_is_full() {
    let (session, _) = with(Nature { room: Some(300_000), ..openssh() });
    let directory = SshDirectory::create(Arc::clone(&session), "/c", "h").unwrap();
    let file = directory.create_file("vmcore").unwrap();
    let mut failed = None;
    for n in 0..1000 {
        if let Err(e) = file.write_at(FileOffset::new(n * 100_000), &[1; 100_000]) {
            failed = Some((n, e));
            break;
        }
    }
    let (n, error) = failed.expect("it fails before all is sent");
    assert!(n > 3 && crate::target::is_full(&error), "{n} {error}");
    assert!(crate::target::is_full(&file.finish().unwrap_err()));
    // The conversation goes on.
    drop(file);
    directory.put("small", b"x").unwrap();
}

#[test]
fn positions_without_end_are_refused() {
    let (session, _) = with(openssh());
    let file = RemoteFile::create(&session, "", "f", true).unwrap();
    for at in [u64::MAX, u64::MAX - 1, u64::MAX / 2] {
        assert!(crate::target::is_full(&file.write_at(FileOffset::new(at), b"xy").unwrap_err()), "{at}");
    }
}

#[test]
fn a_session_is_handed_on() {
    let nature = openssh();
    let (link, stream, _) = link(STALL);
    let (mut odd, disk) = (stream.try_clone().unwrap(), Arc::new(Mutex::new(Disk::default())));
    let its = Arc::clone(&disk);
    std::thread::spawn(move || serve(stream, &nature, &its));
    let next = super::client::testing::again(&link, STALL);
    drop(Session::greet(link, STALL).unwrap());
    // An answer that the first has not waited for.
    odd.write_all(&said(4711, status::OK)).unwrap();
    let session = Arc::new(Session::rejoin(next).unwrap());
    SshDirectory::create(Arc::clone(&session), "/c", "h").unwrap();
    // Later there is no excuse.
    odd.write_all(&said(4711, status::OK)).unwrap();
    let error = SshDirectory::create(session, "/c", "h").unwrap_err();
    assert!(crate::engine::chain(&error).contains("an answer to 4711, which nobody asked"), "{error:?}");
}

/// Plays a server that answers the greeting with `hello` and every later request with `answer`.
fn played(
    hello: Vec<u8>,
    words: &'static [u8],
    answer: impl Fn(u8, u32) -> Option<Vec<u8>> + Send + 'static,
) -> (Result<Session, SshError>, JoinHandle<()>) {
    let (link, mut stream, mut speaker) = link(Duration::from_millis(700));
    let player = std::thread::spawn(move || {
        speaker.write_all(words).unwrap();
        request(&mut stream).unwrap();
        stream.write_all(&hello).unwrap();
        while let Some((kind, id, _)) = request(&mut stream) {
            let Some(answer) = answer(kind, id) else { return };
            if stream.write_all(&answer).is_err() {
                return;
            }
        }
    });
    (Session::greet(link, Duration::from_millis(700)), player)
}

#[test]
fn greetings_that_are_none() {
    for (hello, words, expected) in [
        (packet(kind::VERSION, 6, &[]), &b""[..], "version 6 of SFTP where 3 was asked for"),
        (said(3, 0), b"", "for a greeting"),
        (b"This account is not available.\n".to_vec(), b"", "a packet of 1416128883 bytes"),
        ([version(&[]), said(1, 0)].concat(), b"", "more than a greeting"),
        (vec![0xff; 100_000], b"", "bytes where 5 to"),
        (vec![], b"", "stood still"),
    ] {
        let start = Instant::now();
        let (session, player) = played(hello, words, |_, _| None);
        let error = session.unwrap_err().to_string();
        assert!(error.contains(expected), "{error} is not {expected}");
        assert!(start.elapsed() < Duration::from_secs(10));
        player.join().unwrap();
    }
}

#[test]
fn the_end_is_explained_by_the_clients_words() {
    let (link, stream, mut speaker) = link(STALL);
    let player = std::thread::spawn(move || {
        speaker.write_all(b"subsystem request failed on channel 0\r\n").unwrap();
        drop(stream);
    });
    let error = Session::greet(link, STALL).unwrap_err();
    assert_eq!(error, SshError::NoSftp("subsystem request failed on channel 0".to_owned()));
    player.join().unwrap();
}

#[test]
fn answers_that_break_the_rules_end_it() {
    type Answer = fn(u8, u32) -> Option<Vec<u8>>;
    let cases: [(&str, Answer, Code); 7] = [
        ("which nobody asked", |_, id| Some(said(id ^ 1, 0)), Code::SSH_PROTOCOL),
        ("does not fit", |_, id| Some(packet(kind::HANDLE, id, &text("h"))), Code::SSH_PROTOCOL),
        ("a packet of type 77", |_, id| Some(packet(77, id, &[])), Code::SSH_PROTOCOL),
        ("cut short", |_, id| Some(packet(kind::STATUS, id, &[0])), Code::SSH_PROTOCOL),
        ("bytes where", |_, _| Some(vec![0x7f; 20]), Code::SSH_PROTOCOL),
        ("a VERSION", |_, id| Some(packet(kind::VERSION, id, &[])), Code::SSH_PROTOCOL),
        ("stood still", |_, id| Some(said(id, 0)[..10].to_vec()), Code::SSH_LOST),
    ];
    for (expected, answer, code) in cases {
        let (session, player) = played(version(&[]), b"", answer);
        let session = session.unwrap();
        let error = session.mkdir("/x").unwrap_err();
        assert!(error.to_string().contains(expected), "{error} is not {expected}");
        assert_eq!(error.code(), code);
        if code == Code::SSH_LOST {
            assert_eq!(session.mkdir("/y").unwrap_err(), error, "once broken it stays so");
        }
        drop(session);
        player.join().unwrap();
    }
}

#[test]
fn a_server_that_does_not_read_is_given_up() {
    let (link, mut stream, speaker) = link(Duration::from_millis(700));
    let player = std::thread::spawn(move || {
        request(&mut stream).unwrap();
        stream.write_all(&version(&[])).unwrap();
        let (_, id, _) = request(&mut stream).unwrap();
        stream.write_all(&packet(kind::HANDLE, id, &text("h"))).unwrap();
        let (_, id, _) = request(&mut stream).unwrap();
        stream.write_all(&said(id, 0)).unwrap();
        (stream, speaker)
    });
    let session = Arc::new(Session::greet(link, Duration::from_millis(700)).unwrap());
    let file = RemoteFile::create(&session, "", "f", true).unwrap();
    let held = player.join().unwrap();
    let start = Instant::now();
    let error = (0..100).find_map(|n| file.write_at(FileOffset::new(n << 20), &vec![1; 1 << 20]).err());
    assert_eq!(error.unwrap().kind(), std::io::ErrorKind::TimedOut);
    assert!(file.finish().is_err());
    drop(file);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    drop(held);
}

/// Words without end on stderr neither fill memory nor stop the dump.
#[test]
fn a_chatterer_is_listened_to_and_forgotten() {
    let (link, stream, mut speaker) = link(STALL);
    let disk = Arc::new(Mutex::new(Disk::default()));
    std::thread::spawn(move || serve(stream, &openssh(), &disk));
    std::thread::spawn(move || while speaker.write_all(&[b'x'; 4096]).is_ok() {});
    let session = Arc::new(Session::greet(link, STALL).unwrap());
    let file = RemoteFile::create(&session, "", "f", true).unwrap();
    for n in 0..20 {
        file.write_at(FileOffset::new(n << 20), &vec![1; 1 << 20]).unwrap();
    }
    file.finish().unwrap();
}

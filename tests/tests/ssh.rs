//! Dumps over ssh, to a real sshd: what arrives, and how everything that goes wrong ends, in bounded time.

mod harness;

use collector::addr::FileOffset;
use collector::engine::{Engine, chain};
use collector::format::rearrange::rearrange;
use collector::plan::ssh::SshTarget;
use collector::plan::{Compression, Format};
use collector::problem::Code;
use collector::progress::Silent;
use collector::target::is_full;
use collector::target::ssh::{Connection, FLAT, Patience, SshDirectory, SshError, Way};
use config::target::ssh::SshSettings;
use config::target::ssh::propagate::probe;
use harness::{Bytes, Sink, dump_spec};
use initramfs::image::Kind;
use initramfs::root::Root;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};
use vmcored_tests::lab::sshd::{Nature, Sshd, missing};
use vmcored_tests::synth::Spec;
use vmcored_tests::synth::era::Era;

const PATIENCE: Patience = Patience { reach: Duration::from_secs(30), stall: Duration::from_secs(30) };
const LITTLE: Patience = Patience { reach: Duration::from_secs(4), stall: Duration::from_secs(3) };

/// A server; `None`, said aloud, where there can be none.
fn sshd(nature: &Nature) -> Option<Sshd> {
    if let Some(what) = missing() {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{what} is missing");
        eprintln!("SKIPPED: {what} is missing");
        return None;
    }
    Some(Sshd::start(nature).unwrap())
}

fn no_sftp() -> Nature {
    Nature { sftp: false, ..Nature::default() }
}

fn reach(server: &Sshd, directory: &Path, patience: Patience) -> (Connection, Way) {
    let connection = Connection::open(&server.target(directory), patience).unwrap();
    let way = connection.greet().unwrap_or_else(|e| panic!("{e}: {}", server.log()));
    (connection, way)
}

fn listing(path: &Path) -> Vec<String> {
    let entry = |e: io::Result<fs::DirEntry>| {
        let e = e.unwrap();
        let name = e.file_name().into_string().unwrap();
        format!("{name} {:o}", e.metadata().unwrap().mode() & 0o7777)
    };
    let mut names: Vec<_> = fs::read_dir(path).unwrap().map(entry).collect();
    names.sort();
    names
}

/// Dumps a synthetic vmcore, with the log and a manifest around it; what is local and what arrived.
fn dump_to(directory: &SshDirectory, format: Format, compression: Compression) -> Vec<u8> {
    let core = Spec::bestiary(Era::named("6.1")).build();
    let source = Bytes::new(&core.file);
    let mut engine = Engine::open(&source).unwrap();
    let spec = dump_spec(1, format, compression);
    let local = Sink::default();
    engine.dump(&spec, &local, &Silent).unwrap();
    directory.put("vmcore-dmesg.txt", b"the log\n").unwrap();
    let sink = directory.create_file("vmcore-incomplete").unwrap();
    assert_eq!(sink.is_stream(), !directory.seekable());
    let report = engine.dump(&spec, &*sink, &Silent).unwrap_or_else(|e| panic!("{}", chain(&e)));
    assert!(report.complete);
    local.into_parts().0
}

#[test]
fn a_dump_arrives_as_it_is_locally() {
    let Some(server) = sshd(&Nature::default()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("deep/er");
    let (connection, way) = reach(&server, &base, PATIENCE);
    assert_eq!(way, Way::Sftp);
    for (n, (format, compression)) in [
        (Format::Kdump, Compression::DEFAULT),
        (Format::Kdump, Compression::None),
        (Format::Elf, Compression::None),
    ]
    .into_iter()
    .enumerate()
    {
        let directory = connection.create_directory(way, "host-time").unwrap();
        let name = if n == 0 { "host-time".to_owned() } else { format!("host-time-{}", n + 1) };
        assert_eq!(Path::new(directory.path()), base.join(&name));
        let local = dump_to(&directory, format, compression);
        // Somebody else goes on over the same connection.
        let path = directory.path().to_owned();
        drop(directory);
        let directory = connection.open_directory(way, &path).unwrap();
        directory.rename("vmcore-incomplete", "vmcore").unwrap();
        directory.put("manifest.json", &[b' '; 65536]).unwrap();
        directory.put("manifest.json", b"{}\n").unwrap();
        directory.sync().unwrap();
        assert!(directory.free_space().unwrap().unwrap() > 1 << 20);
        assert_eq!(directory.notes(), []);
        let here = base.join(&name);
        assert_eq!(listing(&here), ["manifest.json 600", "vmcore 600", "vmcore-dmesg.txt 600"]);
        assert!(fs::read(here.join("vmcore")).unwrap() == local, "{format:?} {compression:?}: other bytes");
        assert_eq!(fs::read(here.join("manifest.json")).unwrap(), b"{}\n");
    }
    assert_eq!(fs::metadata(&base).unwrap().mode() & 0o7777, 0o700);
    assert_eq!(
        server.log().matches("Accepted publickey").count(),
        1,
        "one connection for all: {}",
        server.log()
    );
    connection.end();
}

#[test]
fn without_sftp_the_dump_is_flattened() {
    let Some(server) = sshd(&no_sftp()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("it's \"here\"");
    let (connection, way) = reach(&server, &base, PATIENCE);
    assert_eq!(way, Way::Shell);
    connection.create_directory(way, "h").unwrap();
    let directory = connection.create_directory(way, "h").unwrap();
    let here = base.join("h-2");
    assert_eq!(Path::new(directory.path()), here);
    let local = dump_to(&directory, Format::Kdump, Compression::DEFAULT);
    assert!(
        directory.create_file("vmcore-incomplete").unwrap().finish().is_err(),
        "never over what is there"
    );
    let directory = connection.open_directory(way, directory.path()).unwrap();
    directory.rename("vmcore-incomplete", &format!("vmcore{FLAT}")).unwrap();
    directory.put("manifest.json", b"{}\n").unwrap();
    directory.put("manifest.json", b"[]\n").unwrap();
    directory.sync().unwrap();
    assert!(directory.free_space().unwrap().unwrap() > 1 << 20);
    assert_eq!(directory.notes()[0].0, Code::SSH_NO_SFTP);
    assert_eq!(listing(&here), ["manifest.json 600", "vmcore-dmesg.txt 600", "vmcore.flat 600"]);
    assert_eq!(fs::read(here.join("manifest.json")).unwrap(), b"[]\n");
    let sink = Sink::default();
    let mut flat = fs::File::open(here.join("vmcore.flat")).unwrap();
    rearrange(&mut flat, &sink).unwrap();
    assert!(sink.into_parts().0 == local, "other bytes");
    connection.end();
}

/// What a login shell says to people must not be taken for an answer.
#[test]
fn a_talkative_shell_is_got_along_with() {
    let nature = Nature {
        sftp: false,
        settings: "Subsystem sftp echo Welcome; echo to; echo this; echo machine\nForceCommand echo Welcome; $SHELL -c \"$SSH_ORIGINAL_COMMAND\"".to_owned(),
    };
    let Some(server) = sshd(&nature) else { return };
    let dir = tempfile::tempdir().unwrap();
    let (connection, way) = reach(&server, dir.path(), PATIENCE);
    assert_eq!(way, Way::Shell);
    let directory = connection.create_directory(way, "h").unwrap();
    directory.put("vmcore-dmesg.txt", b"the log\n").unwrap();
    assert!(directory.free_space().unwrap().is_some());
    assert_eq!(fs::read(dir.path().join("h/vmcore-dmesg.txt")).unwrap(), b"the log\n");
    connection.end();
}

#[test]
fn what_the_server_refuses_has_a_name() {
    let Some(server) = sshd(&Nature::default()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let good = server.target(dir.path());
    let other_key = {
        let host = fs::read_to_string(server.file("other.pub")).unwrap();
        let path = server.file("other_hosts");
        fs::write(&path, format!("dumps {host}")).unwrap();
        path.display().to_string()
    };
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut cases = vec![];
    let mut case = |what: &'static str, code, change: &dyn Fn(&mut SshTarget)| {
        let mut target = good.clone();
        change(&mut target);
        cases.push((what, code, target));
    };
    case("another host key", Code::SSH_HOST_KEY, &|t| t.known_hosts = other_key.clone());
    case("no host key", Code::SSH_HOST_KEY, &|t| t.host_key_alias = "unknown".to_owned());
    case("a key that is not let in", Code::SSH_KEY_REFUSED, &|t| {
        t.identity = server.file("other").display().to_string();
    });
    case("no such user", Code::SSH_KEY_REFUSED, &|t| t.user = "nobody-of-that-name".to_owned());
    case("a closed port", Code::SSH_UNREACHABLE, &|t| t.port = closed);
    case("a port where nobody speaks", Code::SSH_UNREACHABLE, &|t| {
        t.port = nobody.local_addr().unwrap().port();
    });
    case("no common cipher", Code::SSH_UNREACHABLE, &|t| t.options = vec!["Ciphers=3des-cbc".to_owned()]);
    for (what, code, target) in cases {
        let start = Instant::now();
        let connection = Connection::open(&target, LITTLE).unwrap();
        let error = connection.greet().unwrap_err();
        connection.end();
        assert_eq!(error.code(), code, "{what}: {error}");
        assert!(start.elapsed() < Duration::from_secs(12), "{what}: {:?}", start.elapsed());
        println!("{what}: {} {error}", error.code());
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// Writes until it fails, and strikes after some MiB. Returns what went wrong, and how long that took after the strike.
fn strike(nature: &Nature, signal: Signal) -> Option<(io::Error, Duration)> {
    let server = sshd(nature)?;
    let dir = tempfile::tempdir().unwrap();
    let (connection, way) = reach(&server, dir.path(), LITTLE);
    let directory = connection.create_directory(way, "h").unwrap();
    let sink = directory.create_file("vmcore-incomplete").unwrap();
    let piece: Vec<u8> = (0..1 << 20).map(|n: u32| n.wrapping_mul(0x9e37_79b9).to_le_bytes()[3]).collect();
    let mut struck = None;
    let error = (0..2000_u64).find_map(|n| {
        if n == 20 {
            server.signal(signal).unwrap();
            struck = Some(Instant::now());
        }
        sink.write_at(FileOffset::new(n << 20), &piece).err()
    });
    let error = error.expect("a server that is gone takes no 2 GB");
    let took = struck.unwrap().elapsed();
    assert!(sink.finish().is_err());
    drop(sink);
    let again = Instant::now();
    assert!(directory.put("manifest.json", b"{}").is_err() || way == Way::Shell);
    assert!(again.elapsed() < Duration::from_secs(15), "{:?}", again.elapsed());
    connection.end();
    Some((error, took))
}

#[test]
fn a_server_that_dies_is_noticed_at_once() {
    for nature in [Nature::default(), no_sftp()] {
        let Some((error, took)) = strike(&nature, Signal::SIGKILL) else { return };
        assert!(matches!(SshError::within(&error), Some(SshError::Lost(_))), "{error:?}");
        assert!(took < Duration::from_secs(5), "{took:?}");
    }
}

#[test]
fn a_server_that_stands_still_is_given_up() {
    for nature in [Nature::default(), no_sftp()] {
        let Some((error, took)) = strike(&nature, Signal::SIGSTOP) else { return };
        assert_eq!(SshError::within(&error).unwrap().code(), Code::SSH_LOST, "{error:?}");
        assert!(took < Duration::from_secs(20), "{took:?}");
    }
}

/// The client as it is packed, in a root that has nothing else, with the key and host key that are packed with it.
#[test]
fn the_packed_client_is_enough() {
    let Some(server) = sshd(&Nature::default()) else { return };
    let known = server.file("known");
    let host_key = fs::read_to_string(server.file("host.pub")).unwrap();
    fs::write(&known, format!("[127.0.0.1]:{} {host_key}", server.port())).unwrap();
    let dumps = tempfile::tempdir().unwrap();
    let settings = SshSettings {
        address: format!("root@127.0.0.1:{}", server.port()).parse().unwrap(),
        path: dumps.path().display().to_string(),
        key: Some(server.file("key")),
        known_hosts: Some(known),
    };
    let root = Root::new("/");
    let client = settings.client(&root).unwrap();
    let plan = settings.resolve(0, &client, "127.0.0.1".parse().unwrap(), None, &root).unwrap();
    let image = tempfile::tempdir().unwrap();
    for (path, file) in plan.packed.files() {
        let to = image.path().join(&path[1..]);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        if file.kind == Kind::Symlink {
            std::os::unix::fs::symlink(String::from_utf8(file.data.clone()).unwrap(), &to).unwrap();
        } else {
            fs::write(&to, &file.data).unwrap();
            fs::set_permissions(&to, fs::Permissions::from_mode(file.mode)).unwrap();
        }
    }
    fs::create_dir(image.path().join("dev")).unwrap();
    let null = image.path().join("dev/null");
    let mode = nix::sys::stat::Mode::from_bits_truncate(0o666);
    nix::sys::stat::mknod(&null, nix::sys::stat::SFlag::S_IFCHR, mode, nix::sys::stat::makedev(1, 3))
        .unwrap();
    let wrapper = server.file("ssh");
    fs::write(&wrapper, format!("#!/bin/sh\nexec chroot {} /usr/bin/ssh \"$@\"\n", image.path().display()))
        .unwrap();
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
    let target = SshTarget { program: wrapper.display().to_string(), ..plan.target };
    let connection = Connection::open(&target, PATIENCE).unwrap();
    let way = connection.greet().unwrap_or_else(|e| panic!("{e}: {}", server.log()));
    assert_eq!(way, Way::Sftp);
    let directory = connection.create_directory(way, "h").unwrap();
    directory.put("vmcore-dmesg.txt", b"the log\n").unwrap();
    connection.end();
    assert_eq!(fs::read(dumps.path().join("h/vmcore-dmesg.txt")).unwrap(), b"the log\n");
    println!("{} files, {} KiB", plan.packed.files().count(), plan.packed.size() >> 10);
}

/// A tmpfs; gone with the value.
struct Small(tempfile::TempDir);

impl Small {
    fn new(options: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        mount(Some("tmpfs"), dir.path(), Some("tmpfs"), MsFlags::empty(), Some(options)).unwrap();
        Self(dir)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        umount2(self.0.path(), MntFlags::MNT_DETACH).unwrap();
    }
}

#[test]
fn a_full_disk_is_full() {
    for nature in [Nature::default(), no_sftp()] {
        let Some(server) = sshd(&nature) else { return };
        let small = Small::new("size=4m");
        let (connection, way) = reach(&server, small.0.path(), PATIENCE);
        let directory = connection.create_directory(way, "h").unwrap();
        directory.put("vmcore-dmesg.txt", b"the log\n").unwrap();
        let free = directory.free_space().unwrap().unwrap();
        assert!((3 << 20..4 << 20).contains(&free), "{free}");
        let sink = directory.create_file("vmcore-incomplete").unwrap();
        let error = (0..200_u64)
            .find_map(|n| sink.write_at(FileOffset::new(n << 20), &[7; 1 << 20]).err())
            .or_else(|| sink.finish().err());
        let error = error.unwrap();
        assert!(is_full(&error), "{way:?}: {error:?}");
        drop(sink);
        // What is there is kept, and the conversation goes on.
        directory.rename("vmcore-incomplete", "vmcore-partial").unwrap();
        assert!(fs::metadata(small.0.path().join("h/vmcore-partial")).unwrap().len() >= 2 << 20);
        connection.end();
    }
}

#[test]
fn a_directory_that_cannot_be_written_to_is_refused() {
    let Some(server) = sshd(&Nature::default()) else { return };
    let small = Small::new("size=4m,ro");
    let (connection, way) = reach(&server, small.0.path(), PATIENCE);
    let error = chain(&connection.create_directory(way, "h").unwrap_err());
    assert!(error.contains("cannot create the directory") && error.contains("the server says"), "{error}");
    connection.end();
    let file = tempfile::NamedTempFile::new().unwrap();
    let (connection, way) = reach(&server, file.path(), PATIENCE);
    assert!(chain(&connection.create_directory(way, "h").unwrap_err()).contains("Not a directory"));
    connection.end();
}

#[test]
fn check_writes_to_the_server_for_real() {
    for nature in [Nature::default(), no_sftp()] {
        let Some(server) = sshd(&nature) else { return };
        let known = server.file("known");
        let host_key = fs::read_to_string(server.file("host.pub")).unwrap();
        fs::write(&known, format!("[127.0.0.1]:{} {host_key}", server.port())).unwrap();
        let dumps = tempfile::tempdir().unwrap();
        let base = dumps.path().join("dumps");
        let settings = |path: &Path, key: &str| SshSettings {
            address: format!("root@127.0.0.1:{}", server.port()).parse().unwrap(),
            path: path.display().to_string(),
            key: Some(server.file(key)),
            known_hosts: Some(known.clone()),
        };
        let speed = probe(&settings(&base, "key")).unwrap_or_else(|e| panic!("{e:#}: {}", server.log()));
        assert!(speed > 0.1, "{speed} MB/s");
        assert_eq!(listing(&base), [""; 0], "the probe is gone");
        // A directory that cannot be made, and a key that the server does not know, are told as what they are.
        let wrong = probe(&settings(Path::new("/proc/nowhere"), "key")).unwrap_err();
        assert!(format!("{wrong:#}").contains("/proc/nowhere"), "{wrong:#}");
        let refused = probe(&settings(&base, "other")).unwrap_err();
        assert!(format!("{refused:#}").contains("key"), "{refused:#}");
    }
}

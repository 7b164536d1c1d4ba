//! Dumps between makedumpfile and us: we read, filter again and put together what it writes, and it what we write. And what
//! `vmcorectl info` and `verify` say of them.

mod harness;

use collector::engine::{Engine, chain};
use collector::format::read::KdumpFile as Dump;
use collector::format::rearrange::rearrange;
use collector::format::reassemble::reassemble;
use collector::format::stream::Flattened;
use collector::input::Input;
use collector::plan::{Compression, Format};
use collector::progress::Silent;
use config::dump::info::Info;
use config::dump::verify::Report;
use harness::{Bytes, Sink, dump_spec};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use vmcored_tests::kdump_reader::KdumpFile;
use vmcored_tests::synth::era::Era;
use vmcored_tests::synth::{Core, Spec};

/// Whether the tool is here; without it the test says so, and fails in CI.
fn makedumpfile() -> bool {
    let found = Command::new("makedumpfile").arg("-v").output().is_ok();
    if !found {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "makedumpfile is not installed");
        eprintln!("SKIPPED: makedumpfile is not installed (apt install makedumpfile)");
    }
    found
}

fn run(args: &[&str], files: &[&Path]) {
    let out = Command::new("makedumpfile").args(args).args(files).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned() + &String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "makedumpfile {args:?} {files:?}: {said}");
}

/// The bestiary without what makedumpfile 1.7.2 gets wrong: heads of impossible orders, and blocks over a hole.
fn core() -> Core {
    let mut spec = Spec::bestiary(Era::named("6.1"));
    let ram = spec.ram.clone();
    spec.blocks.retain(|block| {
        let (start, end) = (block.pfn * 4096, (block.pfn + (1 << block.kind.order())) * 4096);
        !block.kind.is_absurd() && ram.iter().any(|(from, to)| *from <= start && end <= *to)
    });
    spec.build()
}

fn ours(files: &[PathBuf], level: u8, format: Format) -> Vec<u8> {
    let input = Input::open(files).unwrap_or_else(|e| panic!("{files:?}: {}", chain(&e)));
    let mut engine = Engine::open(input.source()).unwrap();
    let sink = Sink::default();
    let report = engine.dump(&dump_spec(level, format, Compression::None), &sink, &Silent).unwrap();
    assert!(report.complete && report.pages.balanced(), "{files:?}: {report:?}");
    sink.into_parts().0
}

/// The same pages with the same contents, but for `except`.
fn same(label: &str, one: &KdumpFile, other: &KdumpFile, except: &[u64]) {
    let pfns = |dump: &KdumpFile| dump.pfns().filter(|pfn| !except.contains(pfn)).collect::<Vec<_>>();
    assert!(pfns(one) == pfns(other), "{label}: other pages");
    for pfn in pfns(one) {
        assert!(one.page(pfn) == other.page(pfn), "{label}: page {pfn:#x}");
    }
    assert_eq!(one.notes(), other.notes(), "{label}");
}

#[test]
fn what_makedumpfile_writes_is_read() {
    if !makedumpfile() {
        return;
    }
    let core = core();
    let dir = tempfile::tempdir().unwrap();
    let vmcore = dir.path().join("vmcore");
    std::fs::write(&vmcore, &core.file).unwrap();
    let vmcore_of = |level: u8| {
        let path = dir.path().join(format!("want-{level}"));
        if !path.exists() {
            run(&["-d", &level.to_string()], &[&vmcore, &path]);
        }
        KdumpFile::open(&path).unwrap()
    };
    for (name, args) in [
        ("plain", &["-d", "0"][..]),
        ("zlib", &["-c", "-d", "1"]),
        ("lzo", &["-l", "-d", "1"]),
        ("snappy", &["-p", "-d", "16"]),
        ("flat", &["-F", "-c", "-d", "2"]),
        ("elf", &["-E", "-d", "0"]),
        ("elf-31", &["-E", "-d", "31"]),
        ("flat-elf", &["-F", "-E", "-d", "0"]),
    ] {
        let path = dir.path().join(name);
        if args.contains(&"-F") {
            let out = Command::new("makedumpfile")
                .args(args)
                .arg(&vmcore)
                .stdout(File::create(&path).unwrap())
                .output();
            assert!(out.unwrap().status.success(), "{name}");
        } else {
            run(args, &[&vmcore, &path]);
        }
        let files = [path.clone()];
        let info = Info::read(&files).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(info.complete && info.problems.is_empty(), "{name}: {info:?}");
        assert_eq!(info.flattened, args.contains(&"-F"), "{name}");
        let verified = Report::read(&files, 2, &|_, _| {}).unwrap();
        assert!(verified.sound, "{name}: {verified:?}");
        if name == "elf-31" {
            continue; // What an ELF dump has left out it does not tell from holes.
        }
        let again = KdumpFile::from_bytes(ours(&files, 31, Format::Kdump)).unwrap();
        // The parts of pages at a segment's end, which makedumpfile does not keep but in ELF.
        let tails: Vec<u64> = core.partial_tails().collect();
        same(name, &again, &vmcore_of(31), &tails);
    }
}

#[test]
fn split_sets_are_put_together() {
    if !makedumpfile() {
        return;
    }
    let core = core();
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("vmcore"), &core.file).unwrap();
    run(&["-d", "1"], &[&at("vmcore"), &at("whole")]);
    run(&["-c", "-d", "1", "--split"], &[&at("vmcore"), &at("p1"), &at("p2"), &at("p3")]);
    let whole = KdumpFile::open(at("whole")).unwrap();
    let files = [at("p3"), at("p1"), at("p2")];
    // The set is input as it is.
    let again = KdumpFile::from_bytes(ours(&files, 1, Format::Kdump)).unwrap();
    same("split", &again, &whole, &[]);
    // And put together, without a codec being run.
    let input = Input::open(&files).unwrap();
    let sink = Sink::default();
    let done = reassemble(input.kdump().unwrap(), &sink, &Silent).unwrap();
    assert_eq!(done.missing, 0);
    std::fs::write(at("ours"), sink.into_parts().0).unwrap();
    let again = KdumpFile::from_bytes(ours(&[at("ours")], 1, Format::Kdump)).unwrap();
    same("reassembled", &again, &whole, &[]);
    assert!(Report::read(&[at("ours")], 1, &|_, _| {}).unwrap().sound);
    // Which makedumpfile reads.
    run(&["-d", "31"], &[&at("ours"), &at("theirs")]);
    run(&["-d", "31"], &[&at("whole"), &at("want")]);
    same("theirs", &KdumpFile::open(at("theirs")).unwrap(), &KdumpFile::open(at("want")).unwrap(), &[]);

    let info = Info::read(&files).unwrap();
    assert_eq!((info.parts.len(), info.complete), (3, true), "{info:?}");
    assert_eq!(info.parts[0].file, at("p1"));
    let one = Info::read(&files[..2]).unwrap();
    assert!(!one.complete && one.pages.missing > Some(0), "{one:?}");
    assert!(one.to_string().contains("complete    NO"), "{one}");
}

#[test]
fn what_we_write_makedumpfile_reads() {
    if !makedumpfile() {
        return;
    }
    let core = core();
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("vmcore"), &core.file).unwrap();
    let vmcore = [at("vmcore")];
    std::fs::write(at("ours"), ours(&vmcore, 1, Format::Kdump)).unwrap();
    let tails: Vec<u64> = core.partial_tails().collect();
    // It filters ours again.
    run(&["-d", "31"], &[&at("ours"), &at("theirs")]);
    run(&["-d", "31"], &[&at("vmcore"), &at("want")]);
    let want = KdumpFile::open(at("want")).unwrap();
    same("again", &KdumpFile::open(at("theirs")).unwrap(), &want, &tails);
    // Both restore each other's streams.
    let out = Command::new("makedumpfile").args(["-F", "-d", "31"]).arg(at("vmcore")).output().unwrap();
    assert!(out.status.success());
    let sink = Sink::default();
    rearrange(&mut out.stdout.as_slice(), &sink).unwrap();
    same("-R of theirs", &KdumpFile::from_bytes(sink.into_parts().0).unwrap(), &want, &[]);
    let input = Input::open(&vmcore).unwrap();
    let flat = Flattened::new(Vec::new());
    Engine::open(input.source())
        .unwrap()
        .dump(&dump_spec(31, Format::Kdump, Compression::None), &flat, &Silent)
        .unwrap();
    std::fs::write(at("stream"), flat.into_inner()).unwrap();
    let restored = Command::new("makedumpfile")
        .arg("-R")
        .arg(at("restored"))
        .stdin(File::open(at("stream")).unwrap())
        .output();
    assert!(restored.unwrap().status.success());
    same("-R of ours", &KdumpFile::open(at("restored")).unwrap(), &want, &tails);
}

/// In every region of a dump: what is damaged is found, and the pages are named.
#[test]
fn flipped_bytes_are_found() {
    let core = core();
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("vmcore"), &core.file).unwrap();
    let good = ours(&[at("vmcore")], 31, Format::Kdump);
    std::fs::write(at("good"), &good).unwrap();
    let sound = Report::read(&[at("good")], 2, &|_, _| {}).unwrap();
    assert!(sound.sound, "{sound:?}");
    let bytes = Bytes::new(&good);
    let dump = Dump::open(&bytes).unwrap();
    let file = KdumpFile::from_bytes(good.clone()).unwrap();
    let report = |bytes: &[u8]| {
        std::fs::write(at("bad"), bytes).unwrap();
        Report::read(&[at("bad")], 2, &|_, _| {})
    };
    // Descriptors and bitmaps: every place.
    let table = usize::try_from(dump.data_start(0)).unwrap() - file.pfns().count() * 24;
    for (index, pfn) in file.pfns().enumerate().step_by(97) {
        for field in [7, 10, 12] {
            let mut bad = good.clone();
            bad[table + index * 24 + field] ^= 0x40;
            let report = report(&bad).unwrap();
            let named: Vec<u64> = report.damaged_pages.iter().map(|page| page.pfn).collect();
            assert_eq!(named, [pfn], "byte {field} of the descriptor of {pfn:#x}: {report:?}");
        }
    }
    // Headers: an error, a fault, or something that is nobody's (the crash time).
    let mut told = 0;
    for place in (0..0x1068).step_by(13) {
        let mut bad = good.clone();
        bad[place] ^= 0x40;
        told += usize::from(report(&bad).is_err());
    }
    assert!(told > 0);
    // Cut at each eighth.
    for eighth in 0..8 {
        let cut = report(&good[..good.len() / 8 * eighth]);
        assert!(cut.is_err() || !cut.as_ref().unwrap().sound, "{eighth}: {cut:?}");
    }
}

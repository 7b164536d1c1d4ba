//! The same words to makedumpfile and to us under its name: the same exit status, the same lines where scripts look for
//! them, the same pages.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use vmcored_tests::kdump_reader::KdumpFile;
use vmcored_tests::synth::Spec;
use vmcored_tests::synth::era::Era;

/// Lines that scripts look for, by what they begin with. `>` before one: to standard output, `!`: to standard error.
const LINES: &[&str] = &[
    "The dumpfile is saved to",
    "The dumpfiles are saved to",
    "The dmesg log is saved to",
    "makedumpfile Completed.",
    "makedumpfile Failed.",
    "Commandline parameter is invalid.",
    "Try `makedumpfile --help'",
    "Dump_level(",
    "Message_level(",
    "Limit size(",
    "Can't write the dump file(",
    "Retry to create a dumpfile",
    "This is an incomplete dumpfile",
    "--dry-run cannot be used",
    "OSRELEASE=",
    "CRASHTIME=",
    "LOAD[",
    "Original pages",
    "Excluded pages",
    "Pages filled with zero",
    "Non-private cache pages",
    "Private cache pages",
    "User process data pages",
    "Free pages",
    "Hwpoison pages",
    "Offline pages",
    "Remaining pages",
    "(The number of pages is reduced",
    "Memory Hole",
    "Total pages",
    "Translating virtual address",
    "PGD :",
    "PUD :",
    "PMD :",
    "PTE :",
    "VIRTUAL",
    "ffff",
    "lzo\t",
];

/// Both tools in a directory each, with the same vmcore.
struct Pair {
    dir: tempfile::TempDir,
}

/// What a run did.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    out: Vec<u8>,
    err: Vec<u8>,
    at: PathBuf,
}

impl Ran {
    /// The lines of [`LINES`], each with where it went.
    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (sign, text) in [('>', &self.out), ('!', &self.err)] {
            let text = String::from_utf8_lossy(text);
            for line in text.split(['\n', '\r']).map(str::trim) {
                if LINES.iter().any(|known| line.starts_with(known)) {
                    lines.push(format!("{sign}{line}"));
                }
            }
        }
        lines
    }

    fn said(&self) -> String {
        format!("{}\n{}", String::from_utf8_lossy(&self.out), String::from_utf8_lossy(&self.err))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.at.join(name)
    }
}

impl Pair {
    /// `None` where makedumpfile is not installed.
    fn new() -> Option<Self> {
        if Command::new("makedumpfile").arg("-v").output().is_err() {
            assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "makedumpfile is not installed");
            eprintln!("SKIPPED: makedumpfile is not installed (apt install makedumpfile)");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("bin")).unwrap();
        let program = env!("CARGO_BIN_EXE_byhand");
        for name in ["makedumpfile", "vmcore-dmesg", "vmcore-collect"] {
            std::os::unix::fs::symlink(program, dir.path().join("bin").join(name)).unwrap();
        }
        let mut spec = Spec::bestiary(Era::named("6.1"));
        // Without what makedumpfile 1.7.2 gets wrong; see synthetic_oracle.rs.
        let ram = spec.ram.clone();
        spec.blocks.retain(|block| {
            let (start, end) = (block.pfn * 4096, (block.pfn + (1 << block.kind.order())) * 4096);
            !block.kind.is_absurd() && ram.iter().any(|(from, to)| *from <= start && end <= *to)
        });
        for side in ["ours", "theirs"] {
            let side = dir.path().join(side);
            std::fs::create_dir(&side).unwrap();
            std::fs::write(side.join("vmcore"), &spec.build().file).unwrap();
        }
        Some(Self { dir })
    }

    fn run(&self, side: &str, words: &[OsString], input: &[u8]) -> Ran {
        let at = self.dir.path().join(side);
        let program =
            if side == "ours" { self.dir.path().join("bin/makedumpfile") } else { "makedumpfile".into() };
        ran(Command::new(program).args(words), &at, input)
    }

    /// Runs both, and compares what scripts see.
    fn both(&self, line: &str) -> (Ran, Ran) {
        let words: Vec<OsString> = line.split(' ').filter(|w| !w.is_empty()).map(OsString::from).collect();
        let [ours, theirs] = ["ours", "theirs"].map(|side| self.run(side, &words, b""));
        assert_eq!(ours.code, theirs.code, "{line}: we say {}\nthey say {}", ours.said(), theirs.said());
        (ours, theirs)
    }

    /// As [`Pair::both`], and the lines are the same.
    fn same(&self, line: &str) -> (Ran, Ran) {
        let (ours, theirs) = self.both(line);
        assert_eq!(ours.lines(), theirs.lines(), "{line}");
        (ours, theirs)
    }
}

fn ran(command: &mut Command, at: &Path, input: &[u8]) -> Ran {
    let mut child = command
        .current_dir(at)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let done = std::thread::scope(|scope| {
        // It may end without reading everything.
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output().unwrap()
    });
    Ran { code: done.status.code(), out: done.stdout, err: done.stderr, at: at.to_owned() }
}

/// What becomes of each pfn: the page, where it has one.
fn pages(path: &Path) -> BTreeMap<u64, Vec<u8>> {
    let dump = KdumpFile::open(path).unwrap();
    dump.pfns().map(|pfn| (pfn, dump.page(pfn).unwrap())).collect()
}

/// Both files are dumps of the same pages, but for the ends of segments, of which 1.7.2 leaves out parts of pages.
fn same_pages(ours: &Path, theirs: &Path, label: &str) {
    let (mut ours, theirs) = (pages(ours), pages(theirs));
    let extra: Vec<u64> = ours.keys().filter(|pfn| !theirs.contains_key(pfn)).copied().collect();
    assert!(extra.len() <= 3, "{label}: only we have {extra:x?}");
    for pfn in extra {
        ours.remove(&pfn);
    }
    assert!(ours == theirs, "{label}: the pages differ");
}

#[test]
fn command_lines_are_judged_the_same() {
    let Some(pair) = Pair::new() else { return };
    for line in [
        "",
        "vmcore",
        "vmcore a b",
        "-q vmcore a",
        "--frob vmcore a",
        "--d vmcore a",
        "--split-b 4 vmcore a",
        "--split=1 vmcore a",
        "-d",
        "-d 32 vmcore a",
        "-d -1 vmcore a",
        "-E -c vmcore a",
        "--message-level 32 vmcore a",
        "-L 0 vmcore a",
        "-L 10Q vmcore a",
        "-F vmcore a",
        "-F -R a",
        "-R",
        "-R a b",
        "-R -d 31 a",
        "-R -c a",
        "--split vmcore a",
        "--split -E vmcore a b",
        "-F --split vmcore a b",
        "--reassemble --split vmcore a b",
        "--partial-dmesg vmcore a",
        "--dump-dmesg vmcore a b",
        "--dump-dmesg -E -l vmcore a",
        "--dump-dmesg --dry-run vmcore a",
        "--reassemble --dry-run vmcore a b",
        "-g a -x b --dry-run",
        "-i a -x b vmcore c",
        "--mem-usage",
        "--check-params",
        "--check-params vmcore",
        "--check-params -q a b",
        "--check-params -d 77 a b",
        "--check-params -l --message-level 7 -d 31 /proc/vmcore vmcore",
        "--check-params -F -l --message-level 7 -d 31 /proc/vmcore",
        "--check-params -c -d 1,31 --num-threads 4 -b 4 --cyclic-buffer 1024 --non-mmap a b",
        "--check-params --split -d 31 a b c",
        "--check-params -R a",
        "--check-params --dump-dmesg --partial a b",
        "--check-params --mem-usage /proc/kcore",
        "--check-params --vtop 0xffffffff81000000 --dry-run a b",
        "--check-params -cd31 --work-dir /tmp a b",
        "--check-params -- a b",
    ] {
        pair.same(line);
    }
    // What is not there is refused; what is nobody's is too.
    for line in [
        "-X vmcore a",
        "--eppic m -x v vmcore a",
        "--diskset=vmcore --diskset=vmcore a",
        "--xen-syms s vmcore a",
    ] {
        let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let ours = pair.run("ours", &words, b"");
        assert_eq!(ours.code, Some(1), "{line}");
        assert!(ours.said().contains("makedumpfile Failed."), "{line}: {}", ours.said());
        assert!(String::from_utf8_lossy(&ours.err).starts_with("makedumpfile: -"), "{line}: {}", ours.said());
    }
}

#[test]
fn dumps_have_the_same_pages() {
    let Some(pair) = Pair::new() else { return };
    for (i, line) in [
        "-d 31",
        "",
        "-d1",
        "-d 16 -D",
        "-d 31 --message-level 31",
        "-d 31 --num-threads 2",
        "--dry-run -d 31 --show-stats",
        "-d 31 -f",
    ]
    .iter()
    .enumerate()
    {
        let line = format!("{line} vmcore dump{i}");
        let (ours, theirs) = pair.both(&line);
        assert_eq!(ours.code, Some(0), "{line}: {}", ours.said());
        // The account is another where a page is half in memory.
        let plain = |ran: &Ran| -> Vec<String> {
            let counted = ["Original", "Excluded", "Remaining", "Memory Hole", "(The number"];
            ran.lines().into_iter().filter(|l| !counted.iter().any(|c| l[1..].starts_with(c))).collect()
        };
        assert_eq!(plain(&ours), plain(&theirs), "{line}");
        let name = format!("dump{i}");
        assert_eq!(ours.file(&name).exists(), theirs.file(&name).exists(), "{line}");
        if ours.file(&name).exists() {
            same_pages(&ours.file(&name), &theirs.file(&name), &line);
        }
    }
    // It is never overwritten unasked.
    let before = std::fs::read(pair.dir.path().join("ours/dump0")).unwrap();
    let (ours, _) = pair.same("-d 31 vmcore dump0");
    assert_eq!(ours.code, Some(1));
    assert_eq!(std::fs::read(ours.file("dump0")).unwrap(), before);
    let (ours, _) = pair.same("-f -d 1 vmcore dump0");
    assert_ne!(std::fs::read(ours.file("dump0")).unwrap(), before);
}

#[test]
fn each_reads_what_the_other_writes() {
    let Some(pair) = Pair::new() else { return };
    let [ours, theirs] = ["ours", "theirs"].map(|side| pair.dir.path().join(side));
    let run = |side: &str, line: &str| {
        let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let ran = pair.run(side, &words, b"");
        assert_eq!(ran.code, Some(0), "{side} {line}: {}", ran.said());
        ran
    };
    run("theirs", "-d 31 vmcore plain");
    let plain = theirs.join("plain");
    for codec in ["-c", "-l"] {
        // Ours, taken apart by them, and the other way round.
        for (from, by) in [("ours", "theirs"), ("theirs", "ours")] {
            let (packed, unpacked) = (format!("packed{codec}"), format!("unpacked{codec}"));
            run(from, &format!("{codec} -d 31 vmcore {packed}"));
            let packed = pair.dir.path().join(from).join(packed);
            run(by, &format!("-d 31 {} {unpacked}", packed.display()));
            let unpacked = pair.dir.path().join(by).join(unpacked);
            if by == "theirs" {
                same_pages(&unpacked, &plain, codec);
            } else {
                same_pages(&plain, &unpacked, codec);
            }
        }
    }
    // Flattened.
    for (from, by) in [("ours", "theirs"), ("theirs", "ours")] {
        let stream = run(from, "-F -d 31 vmcore").out;
        let restored = pair.run(by, &["-R".into(), "restored".into()], &stream);
        assert_eq!(restored.code, Some(0), "{by} -R: {}", restored.said());
        let seekable = run(from, "-d 31 vmcore seekable");
        let [a, b] =
            [restored.file("restored"), seekable.file("seekable")].map(|path| std::fs::read(path).unwrap());
        assert!(a == b, "{from} -F | {by} -R differs from the file that is written directly");
    }
    // Split.
    run("ours", "--split -d 31 vmcore part1 part2 part3");
    let parts =
        |side: &Path| [1, 2, 3].map(|i| side.join(format!("part{i}")).display().to_string()).join(" ");
    run("theirs", &format!("--reassemble {} whole", parts(&ours)));
    same_pages(&theirs.join("whole"), &plain, "--split, then their --reassemble");
    run("theirs", "--split --splitblock-size 1024 -d 31 vmcore part1 part2 part3");
    run("ours", &format!("--reassemble {} whole", parts(&theirs)));
    same_pages(&ours.join("whole"), &plain, "their --split, then --reassemble");
}

#[test]
fn a_dump_without_room_is_tried_again_at_the_next_level() {
    let Some(pair) = Pair::new() else { return };
    let (ours, theirs) = pair.both("-d 0 vmcore all");
    let [all, least] = [ours.file("all"), {
        pair.both("-d 31 vmcore least");
        theirs.file("least")
    }]
    .map(|path| std::fs::metadata(path).unwrap().len());
    let limit = least + 8 * 4096;
    assert!(limit < all);
    let line = format!("-L {limit} -d 0,31 vmcore retried");
    let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
    let [ours, theirs] = ["ours", "theirs"].map(|side| pair.run(side, &words, b""));
    // On its second try 1.7.2 has forgotten what it knew of free pages, and walks lists that this vmcore has not.
    let said = ours.lines();
    assert_eq!(said.iter().take(2).collect::<Vec<_>>(), theirs.lines().iter().take(2).collect::<Vec<_>>());
    assert_eq!((ours.code, said.last().map(String::as_str)), (Some(0), Some(">makedumpfile Completed.")));
    same_pages(&ours.file("retried"), &ours.file("least"), "the second level");
    let (ours, _) = pair.same(&format!("-L {} -d 31 vmcore cut", least / 2));
    assert_eq!(ours.code, Some(1));
    assert!(std::fs::metadata(ours.file("cut")).unwrap().len() <= least / 2);
    let cut = KdumpFile::open(ours.file("cut")).unwrap();
    assert_ne!(cut.header.status & vmcored_tests::kdump_reader::STATUS_INCOMPLETE, 0);
}

#[test]
fn an_address_translates_the_same() {
    let Some(pair) = Pair::new() else { return };
    for at in ["0xffff888001000123", "0xffffffff81000000", "0x10"] {
        let (ours, _) = pair.same(&format!("--dry-run --message-level 2 --vtop {at} vmcore a"));
        assert!(ours.said().contains("VIRTUAL           PHYSICAL"), "{}", ours.said());
    }
}

#[test]
fn what_is_known_of_another_kernel_is_refused() {
    let Some(pair) = Pair::new() else { return };
    let (ours, _) = pair.both("-D --dry-run vmcore a");
    let info: String = ours
        .said()
        .lines()
        .filter_map(|line| line.strip_prefix("  "))
        .filter(|line| line.contains('=') && !line.starts_with(' '))
        .map(|line| format!("{line}\n"))
        .collect();
    assert!(info.contains("OSRELEASE=") && info.contains("SIZE(page)="), "{info}");
    for side in ["ours", "theirs"] {
        let side = pair.dir.path().join(side);
        std::fs::write(side.join("info"), &info).unwrap();
        std::fs::write(side.join("other"), info.replace("OSRELEASE=", "OSRELEASE=9")).unwrap();
        std::fs::write(side.join("nothing"), "x").unwrap();
        std::fs::write(side.join("vmlinux"), "Linux version 4.4.4 (gcc)").unwrap();
    }
    pair.same("--dry-run -d 31 -i info vmcore a");
    assert_eq!(pair.same("--dry-run -d 31 -i other vmcore a").0.code, Some(2));
    pair.same("--dry-run -d 31 -i nothing vmcore a");
    pair.same("--dry-run -d 31 -i absent vmcore a");
    pair.same("--dry-run -d 31 -x absent vmcore a");
    let words = ["-x", "vmlinux", "--dry-run", "vmcore", "a"].map(OsString::from);
    assert_eq!(pair.run("ours", &words, b"").code, Some(2));
}

#[test]
fn the_log_is_the_same() {
    let Some(pair) = Pair::new() else { return };
    let (ours, theirs) = pair.same("--dump-dmesg vmcore log");
    let [a, b] = [ours.file("log"), theirs.file("log")].map(|path| std::fs::read_to_string(path).unwrap());
    // 1.7.2 misreads a record that ends where the buffer does.
    assert_eq!(a.lines().count(), b.lines().count());
    assert!(a.lines().zip(b.lines()).filter(|(a, b)| a != b).count() <= 1, "{a}\n{b}");
    let (ours, _) = pair.same("--dump-dmesg --partial-dmesg vmcore partial");
    assert_eq!(std::fs::read_to_string(ours.file("partial")).unwrap(), a, "nobody cleared it");
    // As SUSE's kdump asks: the log to standard output, what it looks for to standard error.
    let (ours, _) = pair.both("-F --message-level 8 --dump-dmesg vmcore");
    assert_eq!(String::from_utf8_lossy(&ours.out), a);
    for key in ["OSRELEASE=", "CRASHTIME="] {
        assert!(ours.lines().iter().any(|line| line.starts_with(&format!("!{key}"))), "{}", ours.said());
    }
    // kexec-tools' tool of that name.
    let dmesg = ran(Command::new(pair.dir.path().join("bin/vmcore-dmesg")).arg("vmcore"), &ours.at, b"");
    assert_eq!((dmesg.code, String::from_utf8_lossy(&dmesg.out)), (Some(0), a.into()));
}

/// Our own command line into a pipe: what comes out is the file that would have been written.
#[test]
fn dumps_go_into_pipes() {
    let core = Spec::bestiary(Era::named("6.1")).build();
    let dir = tempfile::tempdir().unwrap();
    let vmcore = dir.path().join("vmcore");
    std::fs::write(&vmcore, &core.file).unwrap();
    let ours = |arguments: &[&str], out: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_byhand"));
        let ran = command.args(arguments).arg(&vmcore).arg(out).output().unwrap();
        assert!(ran.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
        ran.stdout
    };
    let stdout = Path::new("-");
    for format in ["-E", "--raw"] {
        let file = dir.path().join(format);
        ours(&["-d", "31", format], &file);
        assert!(ours(&["-d", "31", format], stdout) == std::fs::read(&file).unwrap(), "{format}");
    }
    let packed = dir.path().join("elf.lz4");
    let piped = ours(&["-d", "31", "-E", "--compress", "lz4"], stdout);
    ours(&["-d", "31", "-E", "--compress", "lz4"], &packed);
    assert!(piped == std::fs::read(&packed).unwrap());
    let restored = Command::new("lz4").args(["-d", "-c", "-q"]).arg(&packed).output().unwrap();
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    assert!(restored.stdout == std::fs::read(dir.path().join("-E")).unwrap());
    // Flattened, restored by makedumpfile.
    let whole = dir.path().join("whole");
    ours(&["-d", "31", "-c"], &whole);
    let restored = dir.path().join("restored");
    let mut child = Command::new("makedumpfile")
        .arg("-R")
        .arg(&restored)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&ours(&["-d", "31", "-c"], stdout)).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(std::fs::read(&restored).unwrap() == std::fs::read(&whole).unwrap());
}

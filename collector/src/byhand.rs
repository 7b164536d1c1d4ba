//! The command line: `vmcore-collect VMCORE DUMPFILE` on any machine.
//!
//! Parsed by hand: a parser of arguments would be a fifth of the program, which lives in an initramfs.

use crate::addr::FileOffset;
use crate::engine::{Engine, EngineError, chain};
use crate::erase::Rules;
use crate::filter::Account;
use crate::format::stream::{Flattened, Plain};
use crate::format::{DumpSink, Nowhere};
use crate::input::{Input, InputError};
use crate::kernel::printk::Style;
use crate::manifest::{DumpReport, Stage};
use crate::plan::{Compression, DumpSpec, Format};
use crate::problem::Problem;
use crate::progress::Progress;
use crate::target::file::WriteAhead;
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

const HELP: &str = "\
Usage: vmcore-collect [OPTION]... VMCORE DUMPFILE
       vmcore-collect --dump-dmesg VMCORE LOGFILE

Writes the memory of a crashed kernel, without the pages nobody needs, so that crash and drgn can read it.
VMCORE is /proc/vmcore, a copy of it, or a dump to be filtered again. DUMPFILE and LOGFILE may be - for standard output,
for pipes: a dump is then flattened (makedumpfile -R restores it), but ELF and raw ones go as they are.

  -d LEVEL             leave out pages (sum of): 1 zero, 2 cache without private data, 4 all cache,
                       8 user, 16 free; 31 is all of these [default: 0]
  -e, --exclude-vmemmap
                       leave out the struct pages of pages that are left out: a dump without them can be
                       filtered again, but crash's kmem -p and the like do not see these pages
  -c, -l, -p           compress with zlib, lzo, snappy
  -z[LEVEL]            compress with zstd [default: level 1]
      --compress HOW   none, zlib or zlib:LEVEL from 1 to 9, lzo, snappy,
                       zstd or zstd:LEVEL from -7 to 19 [default: zstd:-1]; with -E lz4 (lz4 -d restores it)
  -E                   write an ELF core
      --raw            copy VMCORE byte for byte
  -f                   overwrite DUMPFILE
      --config FILE    erase what the rules of FILE mean, as makedumpfile.conf(5) and SYMBOL:TYPE; no debuginfo is
                       needed. No dump is written when a rule cannot be resolved
      --dry-run        do all but write; DUMPFILE is not touched
      --num-threads N  threads that work [default: 1]
      --dump-dmesg     write the kernel log
  -v                   say more; with --dump-dmesg also who printed each line
  -h, --help           this text
  -V, --version        version

Exit status: 0 the dump is complete, 1 it is not. An incomplete dump is called DUMPFILE-incomplete.
";

/// What was asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Order {
    vmcore: PathBuf,
    out: PathBuf,
    what: What,
    level: u8,
    exclude_vmemmap: bool,
    format: Format,
    compression: Compression,
    force: bool,
    verbose: bool,
    dry_run: bool,
    threads: usize,
    config: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum What {
    Dump,
    Dmesg,
}

/// The outcome of reading the command line.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Asked {
    Help,
    Version,
    Work(Order),
}

/// Runs the command line. The name by which the program is called says whose options it takes: `makedumpfile`,
/// `vmcore-dmesg` (kexec-tools', which prints the log), or its own.
pub fn main(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut words = words.into_iter();
    let name = words.next().unwrap_or_default();
    match Path::new(&name).file_name().and_then(OsStr::to_str) {
        Some("makedumpfile") => crate::makedumpfile::main(words),
        Some("vmcore-dmesg") => own(["--dump-dmesg".into()].into_iter().chain(words).chain(["-".into()])),
        _ => own(words),
    }
}

/// Whether [`main`] understands a command line; does nothing of what it says.
pub fn understands(words: impl IntoIterator<Item = OsString>) -> bool {
    let mut words = words.into_iter();
    let name = words.next().unwrap_or_default();
    match Path::new(&name).file_name().and_then(OsStr::to_str) {
        Some("makedumpfile") => crate::makedumpfile::understands(words),
        _ => parse(words).is_ok(),
    }
}

/// Runs this program's own command line. Messages go to standard error.
fn own(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let order = match parse(args) {
        Ok(Asked::Help) => return print(HELP),
        Ok(Asked::Version) => return print(concat!("vmcore-collect ", env!("CARGO_PKG_VERSION"), "\n")),
        Ok(Asked::Work(order)) => order,
        Err(what) => {
            complain(&format!("{what}\nTry vmcore-collect --help."));
            return ExitCode::FAILURE;
        }
    };
    let filter = if order.verbose { log::LevelFilter::Debug } else { log::LevelFilter::Warn };
    // Somebody else's logger is as good.
    drop(
        env_logger::Builder::new().filter_level(filter).format(|f, r| writeln!(f, "{}", r.args())).try_init(),
    );
    match work(&order) {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            complain(&what);
            ExitCode::FAILURE
        }
    }
}

fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn complain(text: &str) {
    // Nobody is left to tell when this fails.
    let _ = writeln!(io::stderr(), "vmcore-collect: {text}");
}

/// Reads the command line.
fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Asked, String> {
    let mut args = args.into_iter();
    let mut paths: Vec<PathBuf> = Vec::new();
    let (mut level, mut format, mut compression, mut what) =
        (0, Format::Kdump, Compression::DEFAULT, What::Dump);
    let (mut force, mut verbose, mut only_paths) = (false, false, false);
    let (mut dry_run, mut threads, mut config, mut exclude_vmemmap) = (false, 1, None, false);
    while let Some(arg) = args.next() {
        let Some(text) = arg.to_str().filter(|t| t.len() > 1 && t.starts_with('-') && !only_paths) else {
            paths.push(arg.into());
            continue;
        };
        if text == "--" {
            only_paths = true;
        } else if let Some(long) = text.strip_prefix("--") {
            let (name, value) = long.split_once('=').map_or((long, None), |(n, v)| (n, Some(v.to_owned())));
            match name {
                "help" => return Ok(Asked::Help),
                "version" => return Ok(Asked::Version),
                "dump-dmesg" => what = What::Dmesg,
                "raw" => format = Format::Raw,
                "exclude-vmemmap" => exclude_vmemmap = true,
                "dry-run" => dry_run = true,
                "num-threads" => {
                    let value = value.map(OsString::from).or_else(|| args.next());
                    threads = value
                        .and_then(|n| n.to_str()?.parse().ok())
                        .ok_or("--num-threads wants a number of threads")?;
                    continue;
                }
                "config" => {
                    let value = value.map(OsString::from).or_else(|| args.next());
                    config = Some(PathBuf::from(value.ok_or("--config wants a file of rules")?));
                    continue;
                }
                "compress" => {
                    let value = value.map(OsString::from).or_else(|| args.next());
                    compression = compress_argument(value.as_deref())?;
                    continue;
                }
                _ => return Err(format!("there is no option --{name}")),
            }
            if value.is_some() {
                return Err(format!("--{name} takes no value"));
            }
        } else {
            let mut letters = text.get(1..).unwrap_or_default();
            while let Some(letter) = letters.chars().next() {
                letters = letters.get(letter.len_utf8()..).unwrap_or_default();
                match letter {
                    'h' => return Ok(Asked::Help),
                    'V' => return Ok(Asked::Version),
                    'E' => format = Format::Elf,
                    'e' => exclude_vmemmap = true,
                    'f' => force = true,
                    'v' => verbose = true,
                    'z' => {
                        let digits =
                            letters.find(|c: char| !c.is_ascii_digit() && c != '-').unwrap_or(letters.len());
                        let (number, rest) = letters.split_at(digits);
                        // Without a number it means what it means to makedumpfile.
                        let level = if number.is_empty() { "1" } else { number };
                        compression = format!("zstd:{level}").parse().map_err(|e| format!("-z: {e}"))?;
                        letters = rest;
                    }
                    'd' => {
                        let value = if letters.is_empty() { args.next() } else { Some(letters.into()) };
                        level = level_argument(value.as_deref())?;
                        letters = "";
                    }
                    'c' => compression = Compression::Zlib(1),
                    'l' => compression = Compression::Lzo,
                    'p' => compression = Compression::Snappy,
                    other => return Err(format!("there is no option -{other}")),
                }
            }
        }
    }
    let [vmcore, out] = <[PathBuf; 2]>::try_from(paths)
        .map_err(|p| format!("expected VMCORE and {}, but {} names were given", what.output(), p.len()))?;
    match (format, compression) {
        (Format::Kdump, Compression::Lz4) => {
            return Err("--compress lz4 is for -E: choose lzo or zstd for dumps that crash reads".to_owned());
        }
        (Format::Raw, Compression::Lz4) => return Err("--compress lz4 is for -E".to_owned()),
        _ => {}
    }
    if config.is_some() && format == Format::Raw {
        return Err("--raw copies VMCORE byte for byte: it cannot go with --config".to_owned());
    }
    let order = Order {
        vmcore,
        out,
        what,
        level,
        exclude_vmemmap,
        format,
        compression,
        force,
        verbose,
        dry_run,
        threads,
        config,
    };
    Ok(Asked::Work(order))
}

impl What {
    fn output(self) -> &'static str {
        match self {
            Self::Dump => "DUMPFILE",
            Self::Dmesg => "LOGFILE",
        }
    }
}

fn level_argument(value: Option<&OsStr>) -> Result<u8, String> {
    let value = value.ok_or("-d wants a level from 0 to 31")?.to_string_lossy();
    if value.contains(',') {
        return Err(format!("-d {value}: one level at a time, for now"));
    }
    value
        .parse()
        .ok()
        .filter(|l| *l <= 31)
        .ok_or_else(|| format!("-d {value}: a level is a number from 0 to 31"))
}

fn compress_argument(value: Option<&OsStr>) -> Result<Compression, String> {
    let value =
        value.ok_or("--compress wants none, zlib, lzo, snappy, zstd or CODEC:LEVEL")?.to_string_lossy();
    value.parse().map_err(|e| format!("--compress: {e}"))
}

fn work(order: &Order) -> Result<(), String> {
    let input = Input::open(&[&order.vmcore]).map_err(|e| {
        let kind = match &e {
            InputError::Open { source, .. } => Some(source.kind()),
            _ => None,
        };
        let hint = match kind {
            Some(io::ErrorKind::NotFound) if order.vmcore == Path::new("/proc/vmcore") => {
                ". It exists only in a crash kernel, after a crash"
            }
            Some(io::ErrorKind::PermissionDenied) => {
                ". A vmcore holds all of a machine's memory: try as root"
            }
            _ => "",
        };
        format!("{}{hint}", chain(&e))
    })?;
    let mut engine =
        Engine::open(input.source()).map_err(|e| format!("{}: {}", order.vmcore.display(), chain(&e)))?;
    match order.what {
        What::Dmesg => dmesg(order, &mut engine),
        What::Dump => dump(order, &mut engine),
    }
}

fn dmesg(order: &Order, engine: &mut Engine<'_>) -> Result<(), String> {
    let style = Style { callers: order.verbose, since_clear: false };
    let failed = |e: EngineError| format!("{}: {}", order.vmcore.display(), chain(&e));
    if order.out == Path::new("-") {
        engine.dmesg_in(style, &mut io::stdout().lock()).map_err(failed)?;
        return Ok(());
    }
    let out = Output::create(&order.out, order.force)?;
    engine.dmesg_in(style, &mut &out.file).map_err(failed)?;
    out.file.sync_all().map_err(|e| format!("cannot write {}: {e}", out.working.display()))?;
    out.publish()
}

/// Has the engine erase what the rules in a file mean; an error when there is to be no dump.
pub(crate) fn erase(engine: &mut Engine<'_>, config: &Path) -> Result<(), String> {
    let path = config.display();
    let text = std::fs::read_to_string(config).map_err(|e| format!("cannot read {path}: {e}"))?;
    let rules = Rules::parse(&text).map_err(|e| format!("{path}: {e}"))?;
    match engine.erase(&rules) {
        Ok(_) => Ok(()),
        Err(EngineError::Erase(why)) => {
            let why: String = why.iter().map(|line| format!("{path}: {line}\n")).collect();
            Err(format!("{why}Not everything that is to be erased was found, so no dump is written"))
        }
        Err(e) => Err(chain(&e)),
    }
}

fn dump(order: &Order, engine: &mut Engine<'_>) -> Result<(), String> {
    if let Some(config) = &order.config {
        erase(engine, config)?;
    }
    let name = order.out.file_name().map_or_else(|| "dump".to_owned(), |n| n.to_string_lossy().into_owned());
    let spec = DumpSpec {
        exclude_vmemmap: order.exclude_vmemmap,
        ..DumpSpec::new(name, order.level, order.format, order.compression)
    };
    // The log first: it names the panic, and is read in a moment.
    if let Err(e) = engine.dmesg(&mut io::sink()) {
        log::info!("{}", chain(&e));
    }
    let out = match order.out.to_str() {
        _ if order.dry_run => Out::Nowhere,
        Some("-") => Out::pipe(order.format)?,
        _ => Out::File(Output::create(&order.out, order.force)?),
    };
    let progress = Terminal::default();
    let kernel = engine.kernel();
    engine.threads = order.threads;
    let (report, failure) = match engine.dump(&spec, out.sink(), &progress) {
        Ok(report) => (report, None),
        Err(EngineError::Sink { source, report }) => (*report, Some(source)),
        Err(e) => return Err(chain(&e)),
    };
    let mut text = String::new();
    text.push_str(&format!("kernel   {} {}\n", kernel.release, kernel.version));
    if let Some(panic) = &kernel.panic_message {
        text.push_str(&format!("reason   {panic}\n"));
    }
    text.push_str(&table(&report));
    text.push_str(&problem_lines(engine.problems.list()));
    let _ = io::stderr().write_all(text.as_bytes());
    let name = match &out {
        Out::Nowhere => return Ok(()),
        Out::Pipe(_) => "standard output".to_owned(),
        Out::File(out) => out.working.display().to_string(),
    };
    if let Some(source) = failure {
        let hint = match source.kind() {
            io::ErrorKind::StorageFull => ". Free some space, or leave out more pages with a higher -d",
            _ => "",
        };
        return Err(format!("cannot write {name}: {source}{hint}. What was written is incomplete"));
    }
    if !report.complete {
        return Err(format!("{name} is incomplete: {} pages could not be read", report.pages.unreadable));
    }
    match out {
        Out::File(out) => out.publish(),
        Out::Pipe(_) | Out::Nowhere => Ok(()),
    }
}

/// Where a dump goes.
enum Out {
    Nowhere,
    Pipe(Box<dyn DumpSink>),
    File(Output),
}

impl Out {
    /// Standard output, unless somebody would see it.
    fn pipe(format: Format) -> Result<Self, String> {
        let out = io::stdout();
        if out.is_terminal() {
            return Err(
                "a dump is nothing for a terminal: send standard output to a pipe or a file".to_owned()
            );
        }
        Ok(Self::Pipe(match format {
            Format::Kdump => Box::new(Flattened::new(out)),
            Format::Elf | Format::Raw => Box::new(Plain::new(out)),
        }))
    }

    fn sink(&self) -> &dyn DumpSink {
        match self {
            Self::Nowhere => &Nowhere,
            Self::Pipe(sink) => sink.as_ref(),
            Self::File(out) => out,
        }
    }
}

/// The file that is written: under another name until it is whole.
struct Output {
    file: File,
    ahead: WriteAhead,
    working: PathBuf,
    wanted: PathBuf,
    force: bool,
}

impl Output {
    /// Creates `PATH-incomplete`. Refuses when `path` exists, unless forced.
    fn create(path: &Path, force: bool) -> Result<Self, String> {
        let Some(name) = path.file_name() else {
            return Err(format!("{} is no name for a file", path.display()));
        };
        let exists = |p: &Path| {
            format!("{} exists: remove it, choose another name, or overwrite it with -f", p.display())
        };
        if !force && path.symlink_metadata().is_ok() {
            return Err(exists(path));
        }
        if path.symlink_metadata().is_ok_and(|m| !m.is_file()) {
            return Err(format!("{} exists and is not a file: choose another name", path.display()));
        }
        let mut incomplete = name.to_owned();
        incomplete.push("-incomplete");
        let working = path.with_file_name(incomplete);
        if force {
            // A new file rather than the old one's bytes, mode and readers; its absence is no error.
            match std::fs::remove_file(&working) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(format!("cannot remove {}: {e}", working.display()));
                }
                _ => {}
            }
        }
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(&working)
            .map_err(|e| match e.kind() {
                io::ErrorKind::AlreadyExists => exists(&working),
                _ => format!("cannot create {}: {e}", working.display()),
            })?;
        Ok(Self { file, ahead: WriteAhead::default(), working, wanted: path.to_owned(), force })
    }

    /// Gives the file its name, and makes that durable.
    fn publish(self) -> Result<(), String> {
        let failed = |e: io::Error| {
            format!(
                "{} is complete, but cannot be named {}: {e}",
                self.working.display(),
                self.wanted.display()
            )
        };
        if self.force {
            std::fs::rename(&self.working, &self.wanted).map_err(failed)?;
        } else {
            // A link fails where a rename would overwrite what has come meanwhile.
            match std::fs::hard_link(&self.working, &self.wanted) {
                Ok(()) => std::fs::remove_file(&self.working).map_err(failed)?,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Err(failed(e)),
                // A file system without links.
                Err(_) => std::fs::rename(&self.working, &self.wanted).map_err(failed)?,
            }
        }
        let parent = self.wanted.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent).and_then(|dir| dir.sync_all()).map_err(failed)
    }
}

impl DumpSink for Output {
    fn write_at(&self, at: FileOffset, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, at.get())?;
        self.ahead.wrote(&self.file, at.get()..at.get().saturating_add(bytes.len() as u64));
        Ok(())
    }
    fn finish(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

/// Progress as lines on standard error, one a second.
#[derive(Default)]
struct Terminal {
    last: Mutex<Option<Instant>>,
}

impl Progress for Terminal {
    fn update(&self, _: Stage, what: &str, done: u64, total: u64, bytes: u64) {
        let now = Instant::now();
        let Ok(mut last) = self.last.lock() else { return };
        // The first line after a second: what is quicker needs none.
        let since = *last.get_or_insert(now);
        if now.duration_since(since) < Duration::from_secs(1) {
            return;
        }
        *last = Some(now);
        let percent = done.saturating_mul(100).checked_div(total).unwrap_or(100);
        let _ = writeln!(io::stderr(), "{what}: {percent} %, {} MiB written", bytes >> 20);
    }
}

/// What became of the pages, as text.
fn table(report: &DumpReport) -> String {
    // No `..`: a reason that is added to the account has to be added here.
    let Account {
        present,
        kept,
        zero,
        cache,
        cache_private,
        user,
        hugetlb,
        free,
        unaccepted,
        hwpoison,
        offline,
        vmemmap,
        earlier,
        unreadable,
        unwritten,
    } = report.pages;
    let mut text = format!("{:<28}{:>12}{:>10}\n", "pages", "number", "MiB");
    let mut row = |name: &str, pages: u64, always: bool| {
        if always || pages > 0 {
            let mib = pages.saturating_mul(report.page_size) >> 20;
            text.push_str(&format!("{name:<28}{pages:>12}{mib:>10}\n"));
        }
    };
    row("present", present, true);
    row("kept", kept, true);
    row("dropped: zero", zero, false);
    row("dropped: cache", cache, false);
    row("dropped: cache, private data", cache_private, false);
    row("dropped: user", user, false);
    row("dropped: hugetlb", hugetlb, false);
    row("dropped: free", free, false);
    row("dropped: unaccepted", unaccepted, false);
    row("dropped: memory error", hwpoison, false);
    row("dropped: offline", offline, false);
    row("dropped: vmemmap", vmemmap, false);
    row("dropped before", earlier, false);
    row("unreadable", unreadable, false);
    row("not written", unwritten, false);
    let applied = if report.level == report.level_applied {
        String::new()
    } else {
        format!(" (of {} asked for)", report.level)
    };
    text.push_str(&format!(
        "{} KiB at level {}{applied}; {} ms to choose, {} ms to write\n",
        report.bytes.div_ceil(1024),
        report.level_applied,
        report.scan_ms,
        report.write_ms
    ));
    text
}

fn problem_lines(problems: &[Problem]) -> String {
    if problems.is_empty() {
        return String::new();
    }
    let times: u64 = problems.iter().map(|p| p.times).sum();
    format!("{times} problems; the first: {}\n", problems.first().map_or("", |p| p.message.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Code;

    fn words(line: &str) -> impl Iterator<Item = OsString> {
        line.split_whitespace().map(OsString::from).collect::<Vec<_>>().into_iter()
    }

    fn order(line: &str) -> Order {
        match parse(words(line)) {
            Ok(Asked::Work(order)) => order,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_read() {
        let plain = order("in out");
        assert_eq!((plain.vmcore.as_path(), plain.out.as_path()), (Path::new("in"), Path::new("out")));
        assert_eq!((plain.what, plain.level, plain.format), (What::Dump, 0, Format::Kdump));
        assert_eq!((plain.compression, plain.force, plain.verbose), (Compression::DEFAULT, false, false));
        let zstd = |line: &str| order(line).compression;
        assert_eq!(zstd("-z a b"), Compression::Zstd(1));
        assert_eq!(zstd("-z-3 a b"), Compression::Zstd(-3));
        assert_eq!(zstd("--compress zstd:9 a b"), Compression::Zstd(9));
        assert_eq!(zstd("--compress=none a b"), Compression::None);
        assert_eq!(zstd("-c a b"), Compression::Zlib(1));
        assert_eq!(zstd("-ld31 a b"), Compression::Lzo);
        assert_eq!(zstd("-p a b"), Compression::Snappy);
        for line in ["-d 31 a b", "-d31 a b", "a b -d 31", "-fd31 a b", "-z3d31 a b"] {
            assert_eq!(order(line).level, 31, "{line}");
        }
        let all = order("-Efv a b");
        assert_eq!((all.format, all.force, all.verbose), (Format::Elf, true, true));
        assert_eq!(order("--dump-dmesg a -").what, What::Dmesg);
        assert_eq!(order("-- -d -f").vmcore, Path::new("-d"));
        assert_eq!(parse(words("--help")), Ok(Asked::Help));
        assert_eq!(parse(words("a -V")), Ok(Asked::Version));
    }

    #[test]
    fn a_wrong_command_line_says_what_is_wrong() {
        for (line, want) in [
            ("", "0 names"),
            ("a", "VMCORE and DUMPFILE"),
            ("a b c", "3 names"),
            ("-d 32 a b", "0 to 31"),
            ("-d", "-d wants"),
            ("-d 31,16 a b", "one level"),
            ("-d x a b", "-d x"),
            ("-z99 a b", "zstd:99"),
            ("--compress gzip a b", "gzip"),
            ("--compress", "--compress wants"),
            ("-q a b", "-q"),
            ("--frob a b", "--frob"),
            ("--raw=1 a b", "takes no value"),
            ("--compress lz4 a b", "is for -E"),
            ("--raw --compress lz4 a b", "is for -E"),
            ("--config", "--config wants"),
            ("--config rules --raw a b", "cannot go with --config"),
        ] {
            let message = parse(words(line)).unwrap_err();
            assert!(message.contains(want), "{line}: {message}");
        }
    }

    #[test]
    fn a_file_is_never_overwritten_unasked_nor_half_done() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dump");
        let incomplete = dir.path().join("dump-incomplete");
        let refused = |force| Output::create(&path, force).err();

        let out = Output::create(&path, false).unwrap();
        out.write_at(FileOffset::new(2), b"xy").unwrap();
        assert!(!path.exists() && incomplete.exists());
        assert!(refused(false).unwrap().contains("dump-incomplete exists"));
        out.publish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"\0\0xy");
        assert!(!incomplete.exists());
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);

        assert!(refused(false).unwrap().contains("-f"));
        let out = Output::create(&path, true).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"\0\0xy", "the old one stays until the new one is whole");
        out.publish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"");
        // Somebody else's file that came meanwhile.
        std::fs::remove_file(&path).unwrap();
        let out = Output::create(&path, false).unwrap();
        std::fs::write(&path, b"theirs").unwrap();
        assert!(out.publish().unwrap_err().contains("is complete, but"));
        assert_eq!(std::fs::read(&path).unwrap(), b"theirs");
        // A link is not followed.
        std::fs::remove_file(&path).unwrap();
        std::fs::remove_file(&incomplete).unwrap();
        std::os::unix::fs::symlink("elsewhere", &incomplete).unwrap();
        assert!(refused(false).is_some());
        std::os::unix::fs::symlink("elsewhere", &path).unwrap();
        assert!(refused(true).unwrap().contains("not a file"));
        assert!(!dir.path().join("elsewhere").exists());
    }

    #[test]
    fn the_table_names_what_is_there() {
        let report = DumpReport {
            file: "dump".into(),
            format: Format::Kdump,
            level: 31,
            level_applied: 1,
            compression: Compression::DEFAULT,
            bytes: 4096,
            pages: Account { present: 1024, kept: 512, zero: 512, ..Account::default() },
            page_size: 4096,
            scan_ms: 1,
            write_ms: 2,
            complete: true,
        };
        let text = table(&report);
        assert!(text.contains("dropped: zero") && !text.contains("dropped: free"), "{text}");
        assert!(text.contains("level 1 (of 31 asked for)"), "{text}");
        let problem = |times| Problem { code: Code::PAGE_UNREADABLE, message: "m".into(), times };
        assert_eq!(problem_lines(&[problem(2), problem(1)]), "3 problems; the first: m\n");
        assert_eq!(problem_lines(&[]), "");
    }
}

//! The collector as makedumpfile's stand-in on one raw vmcore: the same words given to both, and what they write compared
//! page by page, handed to the other one, and read by crash, drgn and libkdumpfile.
//!
//! Of makedumpfile's builds not all have all codecs, nor do all know newer kernels: [`Differential::agrees`].

use super::stacks::stacks_agree;
use crate::elf_reader::ElfFile;
use crate::kdump_reader::KdumpFile;
use crate::lab::command::{shown, wait};
use crate::lab::oracle::{self, Drgn};
use crate::lab::vmcore::{PageSet, RawCore};
use anyhow::{Context, Result, anyhow, bail, ensure};
use std::fs::{self, File};
use std::io::{BufWriter, Read, Seek, Write};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Nothing here may take longer.
const LIMIT: Duration = Duration::from_secs(300);

/// Of the levels that have no other test every so-manieth page is looked at.
const SAMPLE: usize = 16;

/// A level at which much is kept and every makedumpfile agrees: without zero and free pages.
const WIDE: u8 = 17;

/// Where p_align of the first program header is, which is the notes'.
const NOTE_ALIGN: u64 = 64 + 48;

/// Codecs: makedumpfile's option, the name in its list of what it was built with.
const CODECS: [(&str, &str); 5] =
    [("", "none"), ("-c", "zlib"), ("-l", "lzo"), ("-p", "snappy"), ("-z", "zstd")];

/// Which dumps crash is made to open, which takes seconds each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opened {
    /// None: it cannot open any of this kernel.
    Nothing,
    /// One of each codec.
    Codecs,
    /// ELF, flattened, split.
    Containers,
    /// All of these.
    All,
}

impl Opened {
    fn codecs(self) -> bool {
        matches!(self, Self::Codecs | Self::All)
    }
    fn containers(self) -> bool {
        matches!(self, Self::Containers | Self::All)
    }
}

/// What is compared, and with what.
#[derive(Debug)]
pub struct Differential<'a> {
    /// `vmcore-collect`.
    pub collector: &'a Path,
    /// The real makedumpfile.
    pub makedumpfile: &'a Path,
    /// drgn.
    pub drgn: &'a Drgn,
    /// The raw vmcore.
    pub raw: &'a Path,
    /// Its kernel with debug symbols.
    pub vmlinux: &'a Path,
    /// A directory for dumps, a few times the vmcore's size.
    pub scratch: &'a Path,
    /// This makedumpfile knows this kernel: it drops the same pages at every level, not only at those without bit 8.
    pub agrees: bool,
    /// Levels of which the sets of pages are compared.
    pub levels: &'a [u8],
    /// What crash opens.
    pub opened: Opened,
}

impl Differential<'_> {
    /// Compares everything.
    pub fn check(&self) -> Result<()> {
        let version = Command::new(self.makedumpfile).arg("-v").output()?;
        let version = String::from_utf8_lossy(&[version.stdout, version.stderr].concat()).into_owned();
        let dir = tempfile::tempdir_in(self.scratch)?;
        let ours = dir.path().join("makedumpfile");
        symlink(fs::canonicalize(self.collector)?, &ours)?;
        let work = Work { with: self, memory: RawCore::open(self.raw)?, ours, version, dir: dir.path() };
        let steps: [(&str, Step); 7] = [
            ("levels", |work| work.levels()),
            ("codecs", |work| work.codecs()),
            ("ELF", |work| work.elf()),
            ("flattened", |work| work.flattened()),
            ("split", |work| work.split()),
            ("readers", |work| work.readers()),
            ("stacks", |work| stacks_agree(work.with.drgn, work.with.raw, &[work.with.vmlinux])),
        ];
        for (name, step) in steps {
            let start = Instant::now();
            step(&work).with_context(|| format!("{name}, of {}", self.raw.display()))?;
            println!("   {}: {name} agree ({:.1} s)", self.raw.display(), start.elapsed().as_secs_f64());
        }
        Ok(())
    }
}

type Step = fn(&Work<'_>) -> Result<()>;

struct Work<'a> {
    with: &'a Differential<'a>,
    memory: RawCore,
    /// The collector by the name of makedumpfile.
    ours: PathBuf,
    /// What the real one's `-v` says.
    version: String,
    dir: &'a Path,
}

impl Work<'_> {
    fn at(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn ours(&self, words: &str, files: &[&Path]) -> Result<()> {
        run(&self.ours, words, files, None, None)
    }

    fn theirs(&self, words: &str, files: &[&Path]) -> Result<()> {
        run(self.with.makedumpfile, words, files, None, None)
    }

    /// Whether the real makedumpfile was built with a codec.
    fn built_with(&self, codec: &str) -> bool {
        ["none", "zlib"].contains(&codec)
            || self.version.lines().any(|l| l.split_whitespace().eq([codec, "enabled"]))
    }

    fn agree_at(&self, level: u8) -> bool {
        self.with.agrees || level & 8 == 0
    }

    /// A dump of ours: sound, and byte for byte the raw vmcore's.
    fn sound(&self, path: &Path) -> Result<KdumpFile> {
        let dump = open(path)?;
        let faults = dump.check();
        ensure!(faults.is_empty(), "{}: {faults:#?}", path.display());
        self.contents(path, &dump, 1)?;
        Ok(dump)
    }

    fn contents(&self, path: &Path, dump: &KdumpFile, every: usize) -> Result<()> {
        for pfn in dump.pfns().step_by(every) {
            let page = page(path, dump, pfn)?;
            ensure!(page == self.memory.page(pfn)?, "{}: page {pfn:#x} is not the vmcore's", path.display());
        }
        Ok(())
    }

    /// Every level: the same pages, both bitmaps, the same headers.
    fn levels(&self) -> Result<()> {
        let (ours, theirs) = (self.at("ours"), self.at("theirs"));
        for level in self.with.levels.iter().copied().filter(|level| self.agree_at(*level)) {
            self.ours(&format!("-l -d {level}"), &[self.with.raw, &ours])?;
            self.theirs(&format!("-l -d {level}"), &[self.with.raw, &theirs])?;
            let (one, other) = (open(&ours)?, open(&theirs)?);
            same_pages(&one, &other).with_context(|| format!("level {level}"))?;
            let (a, b) = (&one.header, &other.header);
            ensure!(one.notes() == other.notes(), "level {level}: other notes");
            ensure!(
                (&a.utsname, a.max_mapnr, a.phys_base, a.nr_cpus, a.dump_level)
                    == (&b.utsname, b.max_mapnr, b.phys_base, b.nr_cpus, b.dump_level),
                "level {level}: ours {a:?}, theirs {b:?}"
            );
            self.contents(&ours, &one, SAMPLE)?;
            self.contents(&theirs, &other, SAMPLE)?;
            remove(&[&ours, &theirs])?;
        }
        Ok(())
    }

    /// Every codec at two levels, and each filtered again by the other program. The dumps at level 31 stay, for
    /// [`Self::readers`].
    fn codecs(&self) -> Result<()> {
        let want = self.at("want");
        self.theirs("-d 31", &[self.with.raw, &want])?;
        let want = open(&want)?;
        for (option, codec) in CODECS {
            let (narrow, ours) = (self.at(codec), self.at("wide"));
            self.ours(&format!("{option} -d 31"), &[self.with.raw, &narrow])?;
            let narrow = self.sound(&narrow)?;
            if self.with.agrees {
                same_pages(&narrow, &want).with_context(|| codec.to_owned())?;
            }
            self.ours(&format!("{option} -d {WIDE}"), &[self.with.raw, &ours])?;
            let wide = self.sound(&ours)?;
            if self.built_with(codec) {
                let (theirs, again) = (self.at("theirs"), self.at("again"));
                self.theirs(&format!("{option} -d {WIDE}"), &[self.with.raw, &theirs])?;
                same_dumps(&ours, &wide, &theirs, &open(&theirs)?)?;
                // We read theirs.
                self.ours(&format!("{option} -d 31"), &[&theirs, &again])?;
                same_pages(&self.sound(&again)?, &narrow)
                    .with_context(|| format!("{codec}: their -d {WIDE}, filtered again by us"))?;
                remove(&[&theirs, &again])?;
                // They read ours.
                self.theirs("-d 31", &[&ours, &again])?;
                let dump = open(&again)?;
                same_pages(&dump, &want)
                    .with_context(|| format!("{codec}: our -d {WIDE}, filtered again by makedumpfile"))?;
                self.contents(&again, &dump, 1)?;
                remove(&[&again])?;
            }
            remove(&[&ours])?;
        }
        Ok(())
    }

    /// ELF dumps are the same files.
    fn elf(&self) -> Result<()> {
        for level in [WIDE, 31] {
            let (ours, theirs) = (self.at("elf"), self.at("theirs"));
            drop(fs::remove_file(&ours));
            self.ours(&format!("-E -d {level}"), &[self.with.raw, &ours])?;
            if self.agree_at(level) {
                self.theirs(&format!("-E -d {level}"), &[self.with.raw, &theirs])?;
                // Theirs has the vmcore's alignment of notes, which is 0 or 4 and means 4; ours has 0.
                File::options().write(true).open(&theirs)?.write_all_at(&[0; 8], NOTE_ALIGN)?;
                same_files(&ours, &theirs)?;
                remove(&[&theirs])?;
            }
        }
        let elf = ElfFile::from_bytes(fs::read(self.at("elf"))?).map_err(|e| anyhow!(e))?;
        ensure!(elf.check().is_empty(), "{:#?}", elf.check());
        let kept = open(&self.at("none"))?;
        for pfn in kept.pfns() {
            let want = self.memory.page(pfn)?;
            // Zero pages are kept by kdump-compressed dumps alone, where all of them are one.
            let same = elf.page(pfn, 4096).map_or_else(|| want.iter().all(|b| *b == 0), |page| page == want);
            ensure!(same, "page {pfn:#x} differs");
        }
        Ok(())
    }

    /// Streams: each program restores those of both to the same file.
    fn flattened(&self) -> Result<()> {
        let (by_us, by_them) = (self.at("by-us"), self.at("by-them"));
        for (words, whole) in [("-l -d 31", "lzo"), ("-E -d 31", "elf")] {
            for (who, program) in [("ours", self.ours.as_path()), ("theirs", self.with.makedumpfile)] {
                let stream = self.at(&format!("{who}-flat"));
                run(program, &format!("-F {words}"), &[self.with.raw], None, Some(&stream))?;
                run(&self.ours, "-R", &[&by_us], Some(&stream), None)?;
                run(self.with.makedumpfile, "-R", &[&by_them], Some(&stream), None)?;
                same_files(&by_us, &by_them).with_context(|| format!("-F {words}, {who}"))?;
                let whole = self.at(whole);
                if whole.ends_with("elf") && (who == "ours" || self.with.agrees) {
                    same_files(&by_us, &whole)?;
                } else if who == "ours" {
                    same_dumps(&by_us, &self.sound(&by_us)?, &whole, &open(&whole)?)?;
                } else if self.with.agrees {
                    same_dumps(&by_us, &open(&by_us)?, &whole, &open(&whole)?)?;
                }
                remove(&[&by_us, &by_them])?;
                if who == "ours" && whole.ends_with("lzo") {
                    fs::rename(stream, self.at("flattened"))?;
                } else {
                    remove(&[&stream])?;
                }
            }
        }
        Ok(())
    }

    /// Sets of three: each program puts those of both together. Ours stays, for [`Self::readers`].
    fn split(&self) -> Result<()> {
        let whole = self.at("lzo");
        let dump = open(&whole)?;
        for (who, program) in [("ours", self.ours.as_path()), ("theirs", self.with.makedumpfile)] {
            let parts = [1, 2, 3].map(|n| self.at(&format!("{who}-part-{n}")));
            let files = parts.each_ref().map(PathBuf::as_path);
            // Theirs are cut at multiples of a gigabyte unless told otherwise.
            let small = if who == "ours" { "" } else { "--splitblock-size 1024" };
            let words = format!("-l -d 31 --split {small}");
            run(program, &words, &[&[self.with.raw], &files[..]].concat(), None, None)?;
            let mut next = 0;
            let mut pages = PageSet::default();
            for part in files {
                let part = if who == "ours" { self.sound(part)? } else { open(part)? };
                let header = &part.header;
                ensure!(header.split == 1 && header.start_pfn == next, "{who}: {header:?} at {next:#x}");
                next = header.end_pfn;
                ensure!(part.pfns().count() > 1000, "{who}: a part of {} pages", part.pfns().count());
                part.pfns().for_each(|pfn| pages.insert(pfn));
            }
            ensure!(next == dump.header.max_mapnr, "{who}: the last part ends at {next:#x}");
            let same = who == "ours" || self.with.agrees;
            ensure!(!same || pages == dump.pfns().collect(), "{who}: the parts are not the whole");
            let (by_us, by_them) = (self.at("by-us"), self.at("by-them"));
            self.ours("--reassemble", &[&files[..], &[&by_us]].concat())?;
            self.theirs("--reassemble", &[&files[..], &[&by_them]].concat())?;
            let (us, them) = (open(&by_us)?, open(&by_them)?);
            ensure!(us.check().is_empty(), "{who}, reassembled: {:#?}", us.check());
            same_dumps(&by_us, &us, &by_them, &them)?;
            if same {
                same_dumps(&by_us, &us, &whole, &dump)?;
            }
            remove(&[&by_us, &by_them])?;
            if who == "theirs" {
                remove(&files)?;
            }
        }
        Ok(())
    }

    /// What the steps before have left at level 31 is opened by everybody.
    fn readers(&self) -> Result<()> {
        let kept = open(&self.at("none"))?;
        // Zero pages are in kdump-compressed dumps alone.
        let (pages, zeros) = (self.at("pages"), self.at("zeros"));
        let (mut to_pages, mut to_zeros) = (records(&pages)?, records(&zeros)?);
        for pfn in kept.pfns() {
            let page = self.memory.page(pfn)?;
            let file = if page.iter().all(|b| *b == 0) { &mut to_zeros } else { &mut to_pages };
            file.write_all(&pfn.to_le_bytes())?;
            file.write_all(&page)?;
        }
        to_pages.flush()?;
        to_zeros.flush()?;
        let codecs = CODECS.map(|(_, codec)| self.at(codec));
        let (elf, flattened) = (self.at("elf"), self.at("flattened"));
        // Debian 12's libkdumpfile, 0.5.1, was built with every codec, and reads no streams.
        let mut dumps: Vec<&Path> = codecs.iter().map(PathBuf::as_path).collect();
        oracle::kdumpfile_memory(&zeros, &dumps)?;
        dumps.push(&elf);
        oracle::kdumpfile_memory(&pages, &dumps)?;
        dumps.push(&flattened);
        self.with.drgn.memory(&pages, &dumps)?;
        remove(&[&pages, &zeros])?;

        let parts = [1, 2, 3].map(|n| self.at(&format!("ours-part-{n}")));
        // Debian 12's crash, 8.0.2, was built with every codec. zstd is what the crash kernel writes, and opened elsewhere.
        let mut sets: Vec<Vec<&Path>> = Vec::new();
        if self.with.opened.codecs() {
            sets.extend(codecs.iter().take(4).map(|path| vec![path.as_path()]));
        }
        if self.with.opened.containers() {
            sets.extend([
                vec![elf.as_path()],
                vec![&flattened],
                parts.iter().map(PathBuf::as_path).collect(),
            ]);
        }
        for set in sets {
            let said = oracle::crash(&set, self.with.vmlinux, "bt\nsys\nkmem -i")?;
            for word in ["sysrq_handle_crash", "PANIC:", "TOTAL MEM", "CPUS: 2"] {
                ensure!(said.contains(word), "crash says nothing of {word:?} in {set:?}:\n{said}");
            }
        }
        Ok(())
    }
}

/// Runs one of the two with `words`, then `files`; stdin and stdout from and to files.
fn run(
    program: &Path,
    words: &str,
    files: &[&Path],
    input: Option<&Path>,
    output: Option<&Path>,
) -> Result<()> {
    let mut command = Command::new(program);
    command.args(["--message-level", "4"]).args(words.split_whitespace()).args(files);
    // Both restore and reassemble without being told how much to say.
    let mut said = tempfile::tempfile()?;
    command.stdin(input.map(File::open).transpose()?.map_or_else(Stdio::null, Stdio::from));
    match output {
        Some(path) => command.stdout(File::create(path)?),
        None => command.stdout(said.try_clone()?),
    };
    let mut child = command
        .stderr(said.try_clone()?)
        .spawn()
        .with_context(|| format!("cannot start {}", shown(&command)))?;
    let status = wait(&mut child, LIMIT)?;
    let mut text = Vec::new();
    said.rewind()?;
    said.read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    match status {
        Some(status) if status.success() => Ok(()),
        Some(status) => bail!("{} ended with {status}:\n{text}", shown(&command)),
        None => bail!("{} ran for more than {LIMIT:?}:\n{text}", shown(&command)),
    }
}

/// A new file for records of a pfn and a page.
fn records(path: &Path) -> Result<BufWriter<File>> {
    Ok(BufWriter::new(File::create(path)?))
}

fn open(path: &Path) -> Result<KdumpFile> {
    KdumpFile::open(path).map_err(|e| anyhow!(e))
}

fn page(path: &Path, dump: &KdumpFile, pfn: u64) -> Result<Vec<u8>> {
    let page = dump.read_page(pfn).map_err(|e| anyhow!("{}: {e}", path.display()))?;
    page.with_context(|| format!("{}: no page {pfn:#x}", path.display()))
}

/// The same sets of pages: in the dump, and in the vmcore.
fn same_pages(one: &KdumpFile, other: &KdumpFile) -> Result<()> {
    let (a, b): (PageSet, PageSet) = (one.pfns().collect(), other.pfns().collect());
    let (more, less) = (a.minus(&b), b.minus(&a));
    ensure!(
        more.is_empty() && less.is_empty(),
        "{} pages more ({:x?}), {} less ({:x?})",
        more.len(),
        more.iter().take(8).collect::<Vec<_>>(),
        less.len(),
        less.iter().take(8).collect::<Vec<_>>()
    );
    ensure!(one.present_pfns().eq(other.present_pfns()), "the vmcore's pages differ");
    Ok(())
}

/// The same pages with the same contents, wherever in the files they lie.
fn same_dumps(path: &Path, one: &KdumpFile, other_path: &Path, other: &KdumpFile) -> Result<()> {
    let both = || format!("{} and {}", path.display(), other_path.display());
    same_pages(one, other).with_context(both)?;
    ensure!(one.notes() == other.notes(), "{}: other notes", both());
    for pfn in one.pfns() {
        ensure!(page(path, one, pfn)? == page(other_path, other, pfn)?, "{}: page {pfn:#x}", both());
    }
    Ok(())
}

fn same_files(one: &Path, other: &Path) -> Result<()> {
    let (a, b) = (fs::read(one)?, fs::read(other)?);
    ensure!(a == b, "{} and {} differ: {} and {} bytes", one.display(), other.display(), a.len(), b.len());
    Ok(())
}

fn remove(files: &[&Path]) -> Result<()> {
    files.iter().try_for_each(|file| fs::remove_file(file).with_context(|| file.display().to_string()))
}

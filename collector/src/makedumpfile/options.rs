//! makedumpfile's options, and the work they ask for.

use super::getopt::{self, Spec, Word};
use super::messages::Messages;
use crate::plan::{Compression, Format};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// An option.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Flag {
    CheckParams,
    Codec(Codec),
    Config,
    Debug,
    DryRun,
    DumpDmesg,
    Elf,
    ExcludeVmemmap,
    Flatten,
    Force,
    Generate,
    Help,
    Info,
    Level,
    Limit,
    MemUsage,
    MessageLevel,
    PartialDmesg,
    Reassemble,
    Rearrange,
    ShowStats,
    Split,
    SplitBlock,
    Threads,
    Version,
    Vmlinux,
    Vtop,
    /// Accepted: it tunes what this program does in another way. Its value is a number or none.
    Needless,
    /// As `Needless`, its value being a directory.
    NeedlessPath,
    /// Refused: its name, and why.
    Refused(&'static str, &'static str),
}

/// A codec that has a letter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Codec {
    Zlib,
    Lzo,
    Snappy,
    Zstd,
}

const SADUMP: &str = "dumps written by firmware (sadump) are not read; makedumpfile reads them";
const XEN: &str =
    "memory of a Xen hypervisor and its domains is not told apart; makedumpfile can, on the same vmcore";
const EPPIC: &str = "eppic macros are not run; erase rules without macros go into a file for --config";
const EXTENSION: &str =
    "extensions are programs for makedumpfile and cannot be loaded; rules for --config erase by name";

const fn letter(letter: u8, flag: Flag) -> Spec<Flag> {
    Spec { flag, letter: Some(letter), name: None, takes_value: false }
}
const fn long(name: &'static str, flag: Flag) -> Spec<Flag> {
    Spec { flag, letter: None, name: Some(name), takes_value: false }
}
const fn with_value(spec: Spec<Flag>) -> Spec<Flag> {
    Spec { takes_value: true, ..spec }
}

/// makedumpfile 1.7.9's.
const SPECS: &[Spec<Flag>] = &[
    with_value(letter(b'b', Flag::Needless)),
    letter(b'c', Flag::Codec(Codec::Zlib)),
    letter(b'D', Flag::Debug),
    with_value(letter(b'd', Flag::Level)),
    letter(b'E', Flag::Elf),
    letter(b'e', Flag::ExcludeVmemmap),
    letter(b'F', Flag::Flatten),
    letter(b'f', Flag::Force),
    with_value(letter(b'g', Flag::Generate)),
    Spec { flag: Flag::Help, letter: Some(b'h'), name: Some("help"), takes_value: false },
    with_value(letter(b'i', Flag::Info)),
    with_value(letter(b'L', Flag::Limit)),
    letter(b'l', Flag::Codec(Codec::Lzo)),
    letter(b'p', Flag::Codec(Codec::Snappy)),
    letter(b'R', Flag::Rearrange),
    letter(b'v', Flag::Version),
    letter(b'X', Flag::Refused("-X", XEN)),
    with_value(letter(b'x', Flag::Vmlinux)),
    letter(b'z', Flag::Codec(Codec::Zstd)),
    long("check-params", Flag::CheckParams),
    with_value(long("config", Flag::Config)),
    with_value(long("cyclic-buffer", Flag::Needless)),
    with_value(long("diskset", Flag::Refused("--diskset", SADUMP))),
    long("dry-run", Flag::DryRun),
    long("dump-dmesg", Flag::DumpDmesg),
    with_value(long("eppic", Flag::Refused("--eppic", EPPIC))),
    with_value(long("extension", Flag::Refused("--extension", EXTENSION))),
    long("mem-usage", Flag::MemUsage),
    with_value(long("message-level", Flag::MessageLevel)),
    long("non-mmap", Flag::Needless),
    with_value(long("num-threads", Flag::Threads)),
    long("partial-dmesg", Flag::PartialDmesg),
    long("reassemble", Flag::Reassemble),
    long("show-stats", Flag::ShowStats),
    long("split", Flag::Split),
    with_value(long("splitblock-size", Flag::SplitBlock)),
    with_value(long("vtop", Flag::Vtop)),
    with_value(long("work-dir", Flag::NeedlessPath)),
    with_value(long("xen-syms", Flag::Refused("--xen-syms", XEN))),
    with_value(long("xen-vmcoreinfo", Flag::Refused("--xen-vmcoreinfo", XEN))),
    with_value(long("xen_phys_start", Flag::Refused("--xen_phys_start", XEN))),
];

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Work {
    /// `--help`.
    Help,
    /// `-v`.
    Version,
    /// Nothing but the check of the options, which they passed.
    Check,
    /// Write a dump of `vmcore`.
    Dump { vmcore: PathBuf, to: To },
    /// Write the log of `vmcore`.
    Dmesg { vmcore: PathBuf, to: To, partial: bool },
    /// Write the flattened dump from standard input as a file.
    Rearrange { out: PathBuf },
    /// Make one dump of a split one.
    Reassemble { parts: Vec<PathBuf>, out: PathBuf },
    /// Write the running kernel's VMCOREINFO.
    Generate { out: PathBuf },
    /// Count the running kernel's pages.
    MemUsage { kcore: PathBuf },
}

/// Where a dump or a log goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum To {
    /// A file.
    File(PathBuf),
    /// Several files, each a part.
    Split(Vec<PathBuf>),
    /// Standard output; a dump is flattened.
    Stdout,
}

impl To {
    /// The files.
    pub fn files(&self) -> &[PathBuf] {
        match self {
            Self::File(path) => std::slice::from_ref(path),
            Self::Split(paths) => paths,
            Self::Stdout => &[],
        }
    }
}

/// How it is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Options {
    /// Container.
    pub format: Format,
    /// Codec of the pages.
    pub compression: Compression,
    /// Levels, each for when the dump of the one before has no room; never empty.
    pub levels: Vec<u8>,
    /// Bytes that a file may have.
    pub limit: Option<u64>,
    /// KiB of memory: parts of a split dump start at multiples of it. 0: anywhere.
    pub split_block: u64,
    /// Threads.
    pub threads: usize,
    /// Overwrite.
    pub force: bool,
    /// Write nothing.
    pub dry_run: bool,
    /// Leave out the struct pages of what is left out.
    pub exclude_vmemmap: bool,
    /// VMCOREINFO as a text file.
    pub info: Option<PathBuf>,
    /// The kernel with debugging information.
    pub vmlinux: Option<PathBuf>,
    /// A virtual address to translate.
    pub vtop: Option<u64>,
    /// Rules for what to erase.
    pub config: Option<PathBuf>,
    /// Who hears what.
    pub messages: Messages,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            format: Format::Kdump,
            compression: Compression::None,
            levels: vec![0],
            limit: None,
            split_block: 0,
            threads: 1,
            force: false,
            dry_run: false,
            exclude_vmemmap: false,
            info: None,
            vmlinux: None,
            vtop: None,
            config: None,
            messages: Messages { level: Messages::DEFAULT, stdout_is_taken: false },
        }
    }
}

/// Why a command line was refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Refusal {
    /// getopt's words.
    Getopt(String),
    /// A value that cannot be, in makedumpfile's words.
    Value(String),
    /// Options that contradict each other or operands that are not what they need: why.
    Usage(String),
    /// An option of makedumpfile's that this program does not have: which, and why.
    Missing(String),
}

/// A command line, understood.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Parsed {
    /// How; `messages` also says how to tell of a refusal.
    pub options: Options,
    /// Nothing is to be done but to check.
    pub check: bool,
    /// What was taken otherwise than it may have been meant.
    pub remark: Option<String>,
    /// What, or why not.
    pub work: Result<Work, Refusal>,
}

/// What was given, before it is known whether it makes sense.
#[derive(Default)]
struct Given {
    options: Options,
    check: bool,
    help: bool,
    version: bool,
    codec: Option<Codec>,
    elf: bool,
    flatten: bool,
    rearrange: bool,
    split: bool,
    reassemble: bool,
    dmesg: bool,
    partial: bool,
    mem_usage: bool,
    generate: Option<PathBuf>,
    levels: bool,
    message_level: Option<i64>,
    debug: bool,
    show_stats: bool,
    missing: Option<String>,
    bad_value: Option<String>,
    /// Values that are no numbers and were taken for one all the same.
    sloppy: Option<String>,
    remark: Option<String>,
    operands: Vec<PathBuf>,
}

/// Reads the command line, the program's name left out.
pub(super) fn parse(words: impl IntoIterator<Item = OsString>) -> Parsed {
    let (words, mistake) = getopt::read(SPECS, words);
    let mut given = Given::default();
    for word in words {
        match word {
            Word::Operand(operand) => given.operands.push(operand.into()),
            Word::Option(flag, value) => given.take(flag, value.unwrap_or_default()),
        }
    }
    let message_level = given.message_level.unwrap_or(i64::from(Messages::DEFAULT));
    let mut level = u8::try_from(message_level).ok().filter(|l| *l <= 31).unwrap_or(Messages::DEFAULT);
    if given.debug {
        level |= Messages::DEBUG;
    }
    if given.show_stats {
        level |= Messages::REPORT;
    }
    given.options.messages = Messages { level, stdout_is_taken: given.flatten };
    let work = match mistake {
        Some(mistake) => Err(Refusal::Getopt(mistake)),
        None if !(0..=31).contains(&message_level) => {
            Err(Refusal::Value(format!("Message_level({message_level}) is invalid.")))
        }
        None => given.work(),
    };
    Parsed { options: given.options, check: given.check, remark: given.remark, work }
}

impl Given {
    fn take(&mut self, flag: Flag, value: OsString) {
        match flag {
            Flag::CheckParams => self.check = true,
            Flag::Codec(codec) => self.codec = Some(codec),
            Flag::Config => self.options.config = Some(value.into()),
            Flag::Debug => self.debug = true,
            Flag::DryRun => self.options.dry_run = true,
            Flag::DumpDmesg => self.dmesg = true,
            Flag::Elf => self.elf = true,
            Flag::ExcludeVmemmap => self.options.exclude_vmemmap = true,
            Flag::Flatten => self.flatten = true,
            Flag::Force => self.options.force = true,
            Flag::Generate => self.generate = Some(value.into()),
            Flag::Help => self.help = true,
            Flag::Info => self.options.info = Some(value.into()),
            Flag::Level => self.level(&value),
            Flag::Limit => match limit(&value) {
                Some(bytes) => self.options.limit = Some(bytes),
                None => self.bad(format!("Limit size({}) is invalid.", value.display())),
            },
            Flag::MemUsage => self.mem_usage = true,
            Flag::MessageLevel => self.message_level = Some(self.number("--message-level", &value)),
            Flag::PartialDmesg => self.partial = true,
            Flag::Reassemble => self.reassemble = true,
            Flag::Rearrange => self.rearrange = true,
            Flag::ShowStats => self.show_stats = true,
            Flag::Split => self.split = true,
            Flag::SplitBlock => {
                self.options.split_block =
                    u64::try_from(self.number("--splitblock-size", &value)).unwrap_or(0);
            }
            Flag::Threads => {
                let threads = usize::try_from(self.number("--num-threads", &value)).unwrap_or(0);
                self.options.threads = threads.clamp(1, MAX_THREADS);
            }
            Flag::Version => self.version = true,
            Flag::Vmlinux => self.options.vmlinux = Some(value.into()),
            Flag::Vtop => match address(&value) {
                Some(at) => self.options.vtop = Some(at),
                None => self.bad(format!("{} is no virtual address.", value.display())),
            },
            Flag::Needless => {
                if !value.is_empty() {
                    self.number("a size", &value);
                }
            }
            Flag::NeedlessPath => {}
            Flag::Refused(name, why) => {
                self.missing.get_or_insert_with(|| format!("{name}: {why}"));
            }
        }
    }

    fn bad(&mut self, why: String) {
        self.bad_value.get_or_insert(why);
    }

    /// A number as C's atoi reads it: what follows the digits is passed over, and none are 0. A crash is no time to refuse
    /// what makedumpfile takes; `--check-params` is.
    fn number(&mut self, what: &str, value: &OsStr) -> i64 {
        let (number, whole) = atoi(value.as_bytes());
        if !whole {
            let text = format!("{what}: {:?} is no number and is taken as {number}.", value.display());
            self.sloppy.get_or_insert(text);
        }
        number
    }

    fn level(&mut self, value: &OsStr) {
        let mut levels = Vec::new();
        for part in value.as_bytes().split(|b| *b == b',').filter(|part| !part.is_empty()) {
            let number = self.number("-d", OsStr::from_bytes(part));
            match u8::try_from(number) {
                Ok(level) if level <= 31 => levels.push(level),
                _ => self.bad(format!("Dump_level({number}) is invalid.")),
            }
        }
        if levels.is_empty() {
            self.number("-d", value);
            levels.push(0);
        }
        self.options.levels = levels;
        self.levels = true;
    }

    /// Makes sense of it.
    fn work(&mut self) -> Result<Work, Refusal> {
        if self.help {
            return Ok(Work::Help);
        }
        if self.version {
            return Ok(Work::Version);
        }
        if let Some(why) = self.bad_value.take() {
            return Err(Refusal::Value(why));
        }
        if let Some(why) = self.missing.take() {
            return Err(Refusal::Missing(why));
        }
        self.contradiction().map_or(Ok(()), |why| Err(Refusal::Usage(why.to_owned())))?;
        let work = self.chosen().map_err(|why| Refusal::Usage(why.to_owned()))?;
        self.options.format = if self.elf { Format::Elf } else { Format::Kdump };
        self.options.compression = self.codec.map_or(Compression::None, Codec::compression);
        match self.sloppy.take() {
            Some(why) if self.check => Err(Refusal::Value(why)),
            None if self.check => Ok(Work::Check),
            sloppy => {
                self.remark = sloppy;
                Ok(work)
            }
        }
    }

    fn contradiction(&self) -> Option<&'static str> {
        let modes = [self.rearrange, self.reassemble, self.dmesg, self.mem_usage, self.generate.is_some()];
        if modes.iter().filter(|given| **given).count() > 1 {
            return Some("only one of -R, --reassemble, --dump-dmesg, --mem-usage and -g makes sense.");
        }
        if self.elf && self.codec.is_some() {
            return Some("-E cannot be used with -c, -l, -p and -z: ELF has no compressed pages.");
        }
        if self.split && (self.elf || self.flatten) {
            return Some(
                "--split cannot be used with -E and -F: only files in kdump-compressed format are split.",
            );
        }
        if self.flatten && (self.rearrange || self.reassemble || self.mem_usage || self.generate.is_some()) {
            return Some("-F is for dumps and logs.");
        }
        if self.reassemble && self.split {
            return Some("--split and --reassemble exclude each other.");
        }
        if self.rearrange && (self.codec.is_some() || self.elf || self.levels) {
            return Some("-R changes nothing of a dump: it takes no -c, -l, -p, -z, -E and -d.");
        }
        if self.options.dry_run {
            if self.dmesg {
                return Some("--dry-run cannot be used with --dump-dmesg.");
            }
            if self.reassemble {
                return Some("--dry-run cannot be used with --reassemble.");
            }
            if self.generate.is_some() {
                return Some("--dry-run cannot be used with -g.");
            }
        }
        if self.partial && !self.dmesg {
            return Some("--partial-dmesg goes with --dump-dmesg.");
        }
        if self.options.info.is_some() && self.options.vmlinux.is_some() {
            return Some("-i and -x exclude each other.");
        }
        None
    }

    fn chosen(&mut self) -> Result<Work, &'static str> {
        let operands = std::mem::take(&mut self.operands);
        if let Some(out) = self.generate.take() {
            return if operands.is_empty() {
                Ok(Work::Generate { out })
            } else {
                Err("-g takes no VMCORE: it writes the running kernel's VMCOREINFO.")
            };
        }
        let mut operands = operands.into_iter();
        let (first, second) = (operands.next(), operands.next());
        let rest: Vec<PathBuf> = operands.collect();
        if self.mem_usage {
            return first.map(|kcore| Work::MemUsage { kcore }).ok_or("--mem-usage wants /proc/kcore.");
        }
        if self.rearrange {
            return match (first, second) {
                (Some(out), None) => Ok(Work::Rearrange { out }),
                _ => Err("-R wants one DUMPFILE."),
            };
        }
        if self.reassemble {
            let (Some(first), Some(second)) = (first, second) else {
                return Err("--reassemble wants the parts and one DUMPFILE.");
            };
            let mut parts: Vec<PathBuf> = [first, second].into_iter().chain(rest).collect();
            let out = parts.pop().unwrap_or_default();
            return Ok(Work::Reassemble { parts, out });
        }
        let (vmcore, to) = match (first, second) {
            (Some(vmcore), None) if self.flatten => (vmcore, To::Stdout),
            (_, Some(_)) if self.flatten => {
                return Err("-F writes to standard output: it takes no DUMPFILE.");
            }
            (Some(vmcore), Some(one)) if self.split && !self.dmesg && !rest.is_empty() => {
                (vmcore, To::Split([one].into_iter().chain(rest).collect()))
            }
            (Some(_), Some(_)) if self.split && !self.dmesg => {
                return Err("--split wants two DUMPFILEs or more.");
            }
            (Some(vmcore), Some(one)) if rest.is_empty() => (vmcore, To::File(one)),
            _ if self.dmesg => return Err("--dump-dmesg wants VMCORE and LOGFILE."),
            _ => return Err("VMCORE and DUMPFILE are wanted."),
        };
        Ok(if self.dmesg {
            Work::Dmesg { vmcore, to, partial: self.partial }
        } else {
            Work::Dump { vmcore, to }
        })
    }
}

/// More threads than this only cost memory.
const MAX_THREADS: usize = 256;

impl Codec {
    fn compression(self) -> Compression {
        match self {
            // The levels that makedumpfile uses.
            Self::Zlib => Compression::Zlib(1),
            Self::Lzo => Compression::Lzo,
            Self::Snappy => Compression::Snappy,
            Self::Zstd => Compression::Zstd(1),
        }
    }
}

/// A decimal number at the start, as C's atoi takes it, and whether it is all there is.
fn atoi(text: &[u8]) -> (i64, bool) {
    let trimmed = text.trim_ascii_start();
    let (negative, digits) = match trimmed {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        all => (false, all),
    };
    let end = digits.iter().position(|b| !b.is_ascii_digit()).unwrap_or(digits.len());
    let (number, rest) = digits.split_at_checked(end).unwrap_or_default();
    let value = number.iter().fold(0_i64, |value, digit| {
        value.saturating_mul(10).saturating_add(i64::from(digit.wrapping_sub(b'0')))
    });
    (if negative { value.saturating_neg() } else { value }, rest.is_empty() && !number.is_empty())
}

/// A number of bytes, or of KiB, MiB, GiB or TiB with a letter behind it.
fn limit(text: &OsStr) -> Option<u64> {
    let text = text.to_str()?;
    let (digits, shift) = match text.char_indices().next_back()? {
        (at, 'k' | 'K') => (text.get(..at)?, 10),
        (at, 'm' | 'M') => (text.get(..at)?, 20),
        (at, 'g' | 'G') => (text.get(..at)?, 30),
        (at, 't' | 'T') => (text.get(..at)?, 40),
        _ => (text, 0),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift).filter(|bytes| *bytes > 0)
}

/// A virtual address: hexadecimal, `0x` or not, as everything prints them.
fn address(text: &OsStr) -> Option<u64> {
    let text = text.to_str()?;
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
    u64::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
#[path = "options_tests.rs"]
mod tests;

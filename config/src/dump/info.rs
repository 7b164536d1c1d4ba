//! `vmcorectl info`: what a dump is, whose, of when, why, and how much of it is there. Pages are not decompressed, but for
//! those that the kernel's log lies in.

use super::{human, open};
use collector::engine::{Engine, chain};
use collector::filter::Account;
use collector::format::read::verify::{Census, census};
use collector::input::{Container, Input};
use collector::manifest::Manifest;
use collector::problem::Problem;
use collector::vmcore::Endian;
use serde::Serialize;
use std::fmt;
use std::path::{Path, PathBuf};

/// Descriptors are counted up to so many pages: 384 MiB of them are read then, in about a second.
const CENSUS: u64 = 1 << 24;

/// Larger manifests are not read.
const MAX_MANIFEST: u64 = 16 << 20;

/// What a dump is. The keys of `--json`: they stay, and others may come.
#[derive(Clone, Debug, Serialize)]
pub struct Info {
    /// As they were named.
    pub files: Vec<PathBuf>,
    /// Bytes of all files.
    pub size: u64,
    /// `kdump-compressed` or `elf`.
    pub container: &'static str,
    /// Of kdump-compressed: 1 to 6.
    pub container_version: Option<i32>,
    /// It is a stream of records (makedumpfile's `-F`) that was saved to a file.
    pub flattened: bool,
    /// The kernel that crashed.
    pub kernel: KernelInfo,
    /// Seconds since 1970 of the crash.
    pub crash_time: Option<u64>,
    /// The same, as text.
    pub crash_time_utc: Option<String>,
    /// The line of the log that says why.
    pub panic: Option<String>,
    /// ELF machine number.
    pub elf_machine: u16,
    /// `little` or `big`.
    pub byte_order: &'static str,
    /// Bytes of a page.
    pub page_size: u64,
    /// CPUs whose registers are there.
    pub cpus: usize,
    /// The filter level that was applied; `None` where the container does not say.
    pub level: Option<u8>,
    /// Pages by codec, as far as there are few enough to count.
    pub codecs: Option<Codecs>,
    /// Pages by what became of them.
    pub pages: Pages,
    /// By reason, out of `manifest.json` beside the dump.
    pub reasons: Option<Account>,
    /// Of a split dump: what each file has.
    pub parts: Vec<PartInfo>,
    /// Bytes of the record of what was erased.
    pub erased: usize,
    /// Nothing is missing, as far as can be told without reading it all: `vmcorectl verify` reads it all.
    pub complete: bool,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

/// utsname.
#[derive(Clone, Debug, Serialize)]
pub struct KernelInfo {
    /// `uname -r`.
    pub release: String,
    /// `uname -v`.
    pub version: String,
    /// `uname -m`.
    pub machine: String,
    /// `uname -n`.
    pub nodename: String,
}

/// Pages by codec.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Codecs {
    /// Nothing but zeros: they share one page.
    pub zero: u64,
    /// As they are.
    pub raw: u64,
    /// zlib.
    pub zlib: u64,
    /// lzo.
    pub lzo: u64,
    /// Snappy.
    pub snappy: u64,
    /// zstd.
    pub zstd: u64,
    /// Others.
    pub unknown: u64,
    /// Bytes of page data.
    pub stored: u64,
}

/// Pages by what became of them.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Pages {
    /// One past the highest pfn.
    pub end: u64,
    /// That the machine had, as far as the container tells.
    pub present: u64,
    /// With data, or that should have.
    pub dumped: u64,
    /// Left out by the filter; `None` where the container does not tell them from holes.
    pub excluded: Option<u64>,
    /// Pfns below `end` without memory.
    pub holes: u64,
    /// That should have data and have not; `None` when they were not counted.
    pub missing: Option<u64>,
}

/// A file of a split dump.
#[derive(Clone, Debug, Serialize)]
pub struct PartInfo {
    /// Which.
    pub file: PathBuf,
    /// First pfn.
    pub start_pfn: u64,
    /// One past the last.
    pub end_pfn: u64,
}

impl Info {
    /// Looks at a dump, or at the parts of a split one.
    pub fn read(files: &[PathBuf]) -> Result<Self, String> {
        let input = open(files)?;
        let mut engine = Engine::open(input.source()).map_err(|e| chain(&e))?;
        if let Err(e) = engine.dmesg(&mut std::io::sink()) {
            log::info!("{}", chain(&e));
        }
        let kernel = engine.kernel();
        let (census, mut complete) = match input.kdump() {
            Some(dump) => match census(dump, CENSUS) {
                Ok(census) => (census, !dump.incomplete()),
                // Descriptors that cannot be read.
                Err(_) => (None, false),
            },
            None => (None, true),
        };
        let vmcore = engine.vmcore();
        let manifest = beside(files);
        let lost = census.is_some_and(|c| c.missing > 0 || c.beyond > 0);
        let cut = engine.problems.list().iter().any(|p| (100..200).contains(&p.code.0));
        let wanting = manifest.as_ref().is_some_and(|(_, complete)| !complete);
        complete = complete && !lost && !cut && !wanting && !incomplete_elf(&input);
        let crash_time = engine.crash_time();
        Ok(Self {
            files: files.to_vec(),
            size: input.bytes(),
            container: match input.container() {
                Container::Elf => "elf",
                Container::Kdump => "kdump-compressed",
            },
            container_version: input.kdump().map(|dump| dump.header().header_version.get()),
            flattened: input.flattened().iter().any(Option::is_some),
            kernel: KernelInfo {
                release: kernel.release,
                version: kernel.version,
                machine: kernel.machine,
                nodename: kernel.nodename,
            },
            crash_time,
            crash_time_utc: crash_time.map(collector::utc::readable),
            panic: kernel.panic_message,
            elf_machine: vmcore.machine(),
            byte_order: match vmcore.endian() {
                Endian::Little => "little",
                Endian::Big => "big",
            },
            page_size: vmcore.page_size().bytes(),
            cpus: vmcore.cpus(),
            level: input
                .kdump()
                .filter(|d| d.header().header_version.get() >= 2)
                .map(|d| d.describes().level),
            codecs: census.map(Codecs::of),
            pages: Pages::of(&input, vmcore, census),
            reasons: manifest.map(|(account, _)| account),
            parts: parts(&input, files),
            erased: input.kdump().map_or(0, |dump| dump.describes().erased.len()),
            complete,
            problems: engine.problems.list().to_vec(),
        })
    }
}

impl Codecs {
    fn of(census: Census) -> Self {
        let Census { zero, raw, zlib, lzo, snappy, zstd, unknown, stored, .. } = census;
        Self { zero, raw, zlib, lzo, snappy, zstd, unknown, stored }
    }
}

impl Pages {
    fn of(input: &Input, vmcore: &collector::vmcore::Vmcore<'_>, census: Option<Census>) -> Self {
        let end = vmcore.end_pfn().get();
        let Some(dump) = input.kdump() else {
            let present = vmcore.present_runs().iter().map(|(a, b)| b.get().saturating_sub(a.get())).sum();
            return Self {
                end,
                present,
                dumped: present,
                holes: end.saturating_sub(present),
                ..Self::default()
            };
        };
        let image = dump.describes();
        Self {
            end,
            present: image.present.count(),
            dumped: image.dumped.count(),
            excluded: Some(image.present.beyond(&image.dumped)),
            holes: end.saturating_sub(image.present.count()),
            missing: census.map(|c| c.missing.saturating_add(c.beyond)),
        }
    }
}

/// The mark that makedumpfile and we leave in an ELF dump that is not whole: bit 0 of `e_flags`.
pub(super) fn incomplete_elf(input: &Input) -> bool {
    let mut flags = [0; 4];
    input.container() == Container::Elf
        && input.source().read_at(collector::addr::FileOffset::new(48), &mut flags).is_ok()
        && flags != [0; 4]
        // Of a machine that has flags of its own there is no telling. Those that crash have none.
        && (flags == [1, 0, 0, 0] || flags == [0, 0, 0, 1])
}

fn parts(input: &Input, files: &[PathBuf]) -> Vec<PartInfo> {
    let Some(dump) = input.kdump().filter(|dump| dump.sub_header().split.get() != 0) else {
        return Vec::new();
    };
    dump.part_ranges()
        .filter_map(|(index, start, end)| {
            let file = files.get(index)?.clone();
            Some(PartInfo { file, start_pfn: start.get(), end_pfn: end.get() })
        })
        .collect()
}

/// The account of this dump, out of the manifest beside it, and whether that calls it complete.
fn beside(files: &[PathBuf]) -> Option<(Account, bool)> {
    let [file] = files else { return None };
    let path = file.parent().unwrap_or(Path::new("")).join("manifest.json");
    if std::fs::metadata(&path).ok()?.len() > MAX_MANIFEST {
        return None;
    }
    let manifest: Manifest = serde_json::from_slice(&std::fs::read(&path).ok()?).ok()?;
    let name = file.file_name()?.to_str()?;
    let dump = manifest.dumps.iter().find(|dump| dump.file == name)?;
    Some((dump.pages, dump.complete))
}

impl fmt::Display for Info {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, value: &dyn fmt::Display| writeln!(f, "{name:<12}{value}");
        for file in &self.files {
            line("file", &file.display())?;
        }
        let version = self.container_version.map_or(String::new(), |v| format!(", version {v}"));
        let stream = if self.flattened { ", flattened" } else { "" };
        line("container", &format!("{}{version}{stream}, {}", self.container, human(self.size)))?;
        line("kernel", &format!("{} {}", self.kernel.release, self.kernel.version))?;
        line("machine", &format!("{} ({})", self.kernel.nodename, self.kernel.machine))?;
        let cpus = if self.cpus == 1 { "CPU" } else { "CPUs" };
        line(
            "",
            &format!(
                "{} {cpus}, pages of {} KiB, {}-endian",
                self.cpus,
                self.page_size >> 10,
                self.byte_order
            ),
        )?;
        line("crashed", &self.crash_time_utc.as_deref().unwrap_or("at a time unknown"))?;
        line("reason", &self.panic.as_deref().unwrap_or("not found in the log"))?;
        if let Some(level) = self.level {
            line("level", &level)?;
        }
        if let Some(codecs) = &self.codecs {
            let Codecs { zero, raw, zlib, lzo, snappy, zstd, unknown, stored } = *codecs;
            let all = [
                ("zero", zero),
                ("raw", raw),
                ("zlib", zlib),
                ("lzo", lzo),
                ("snappy", snappy),
                ("zstd", zstd),
                ("unknown", unknown),
            ];
            let counts: Vec<_> =
                all.iter().filter(|(_, n)| *n > 0).map(|(name, n)| format!("{n} {name}")).collect();
            line("codecs", &format!("{}; {} of data", counts.join(", "), human(stored)))?;
        }
        let mib = |pages: u64| pages.saturating_mul(self.page_size) >> 20;
        let mut pages = |name: &str, n: u64| line("pages", &format!("{name:<14}{n:>12}{:>10} MiB", mib(n)));
        pages("present", self.pages.present)?;
        pages("in the dump", self.pages.dumped)?;
        if let Some(excluded) = self.pages.excluded {
            pages("left out", excluded)?;
        }
        if let Some(account) = &self.reasons {
            for (name, n) in reasons(account).into_iter().filter(|(_, n)| *n > 0) {
                pages(name, n)?;
            }
        }
        if let Some(missing) = self.pages.missing.filter(|n| *n > 0) {
            pages("missing", missing)?;
        }
        for part in &self.parts {
            line(
                "part",
                &format!("{:#x} to {:#x} in {}", part.start_pfn, part.end_pfn, part.file.display()),
            )?;
        }
        if self.erased > 0 {
            line("erased", &format!("a record of {} bytes", self.erased))?;
        }
        line(
            "complete",
            &if self.complete { "yes, as far as can be told without reading it all" } else { "NO" },
        )?;
        for problem in &self.problems {
            line("problem", &format!("{}: {}", problem.code, problem.message))?;
        }
        Ok(())
    }
}

/// The account by name.
fn reasons(account: &Account) -> [(&'static str, u64); 13] {
    [
        ("- zero", account.zero),
        ("- cache", account.cache),
        ("- cache, priv.", account.cache_private),
        ("- user", account.user),
        ("- hugetlb", account.hugetlb),
        ("- free", account.free),
        ("- unaccepted", account.unaccepted),
        ("- hwpoison", account.hwpoison),
        ("- offline", account.offline),
        ("- vmemmap", account.vmemmap),
        ("- before", account.earlier),
        ("- unreadable", account.unreadable),
        ("- unwritten", account.unwritten),
    ]
}

//! Settings: what the user wrote in `/etc/vmcored.toml`, typed and checked, nothing resolved yet.
//!
//! [`parse`] takes the text, [`read`] a tree of values that may come from several files. Every complaint is a [`Diagnostic`]
//! that points into the file. Which files there are, and the I/O: [`crate::load`].

pub mod aside;
pub mod harvest;

use crate::diagnostic::{Diagnostic, Diagnostics, nearest};
use crate::target::raw::PartitionSettings;
use crate::target::ssh::{BadAddress, SshAddress, SshSettings};
use crate::triggers::Profile;
use aside::{FailureAction, HookSettings, RawHooks, RawWatchdog, TriageSettings, WatchdogSettings};
use collector::plan::network::Fence;
use collector::plan::share::ShareKind;
use collector::plan::{Action, Compression, DeviceId, DumpSpec, Format, Limits, RungLimits};
pub use harvest::HarvestSettings;
use harvest::RawHarvest;
use serde::Deserialize;
use sources::Sources;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use toml::Spanned;
use tree::Tree;

pub mod sources;
pub mod translation;
pub mod tree;
pub mod written;

/// Where the settings are.
pub const SETTINGS_PATH: &str = "/etc/vmcored.toml";

/// Where dumps go when nobody says otherwise; existing tools look for `/var/crash/*/vmcore`.
pub const DEFAULT_PATH: &str = "/var/crash";

/// Everything the user can decide.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// The ladder: where dumps go, in the order to try.
    pub targets: Vec<TargetSettings>,
    /// What is written there, in this order.
    pub dumps: Vec<DumpSpec>,
    /// Files of rules of what to erase, by the `file` of the dump that they are for.
    pub rules: BTreeMap<String, PathBuf>,
    /// Deadlines.
    pub limits: Limits,
    /// First part of the dump's directory; the hostname unless set.
    pub host: Option<String>,
    /// The other nodes of a cluster, which are told that this one dumps.
    pub fence: Option<FenceSettings>,
    /// What to do when the dump is not complete.
    pub on_failure: FailureAction,
    /// Seconds until the shell is ended that is given when the dump is not complete.
    pub shell_limit: Option<u64>,
    /// The directory for dumps on the root file system, where that is the last resort.
    pub rootfs_path: Option<String>,
    /// What to do when it is.
    pub final_action: Action,
    /// The crash kernel and its command line.
    pub kernel: KernelSettings,
    /// What is in the image.
    pub image: ImageSettings,
    /// The user's programs.
    pub hooks: HookSettings,
    /// The hardware watchdog.
    pub watchdog: WatchdogSettings,
    /// What is done with dumps when the machine is up again.
    pub harvest: HarvestSettings,
    /// What should make the kernel panic; looked at, set only by `vmcorectl triggers apply`.
    pub triggers: Option<Profile>,
    /// The report on the crash.
    pub triage: TriageSettings,
}

/// `[[target]]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TargetSettings {
    /// The place.
    pub place: Place,
    /// Filter level in place of that of the dumps.
    pub level: Option<u8>,
    /// Deadlines in place of those of `[limits]`.
    pub limits: RungLimits,
}

/// What a `[[target]]` is: `nfs`, `virtiofs` and `9p` name shares, `ssh` a server, `raw` a partition, any other is local.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// A directory on a disk of this machine.
    Local(LocalSettings),
    /// A directory on a share.
    Share(ShareSettings),
    /// A directory on an SSH server.
    Ssh(SshSettings),
    /// A partition without a file system.
    Raw(PartitionSettings),
}

/// A target on a disk of this machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LocalSettings {
    /// The device; without it, the one that holds `path`.
    pub device: Option<DeviceId>,
    /// Absolute directory: as seen on the running system without `device`, else below the root of its file system.
    pub path: String,
    /// File system type; found out unless set.
    pub filesystem: Option<String>,
    /// Mount options for the crash kernel.
    pub options: Option<String>,
}

/// A target on a share.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ShareSettings {
    /// Which protocol.
    pub kind: ShareKind,
    /// `server:/export`, or the tag of a virtual machine's share.
    pub source: String,
    /// Absolute directory below the root of the share.
    pub path: String,
    /// Mount options.
    pub options: Option<String>,
}

/// `[kernel]`.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct KernelSettings {
    /// The crash kernel; the running one's file unless set.
    pub image: Option<PathBuf>,
    /// Arguments to add to its command line, the last word on each.
    pub append: Vec<String>,
    /// Arguments to leave out: names, a `*` at the end stands for any rest.
    pub remove: Vec<String>,
}

/// `[image]`.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct ImageSettings {
    /// Modules to add to those that are needed.
    pub extra_modules: Vec<String>,
    /// Modules to leave out although they seem needed.
    pub omit_modules: Vec<String>,
    /// Programs and files to add, with all that they need.
    pub extra_bins: Vec<String>,
    /// The static collector.
    pub collector: Option<PathBuf>,
}

/// `[fence_kdump]`: as `fence_kdump_send` of fence-agents has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FenceSettings {
    /// Names or addresses of the other nodes.
    pub nodes: Vec<String>,
    /// UDP port.
    pub port: u16,
    /// Seconds between messages.
    pub interval: u32,
    /// How many messages; 0 until the end.
    pub count: u32,
    /// Which of a node's addresses are told.
    pub family: Family,
}

/// Which addresses of a host are used.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// The first that has a way.
    #[default]
    Auto,
    /// IPv4 only.
    Ipv4,
    /// IPv6 only.
    Ipv6,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            targets: vec![TargetSettings {
                place: Place::Local(LocalSettings {
                    device: None,
                    path: DEFAULT_PATH.to_owned(),
                    filesystem: None,
                    options: None,
                }),
                level: None,
                limits: RungLimits::default(),
            }],
            dumps: vec![default_dump()],
            rules: BTreeMap::new(),
            limits: Limits::default(),
            host: None,
            fence: None,
            on_failure: FailureAction::Reboot,
            shell_limit: None,
            rootfs_path: None,
            final_action: Action::Reboot,
            kernel: KernelSettings::default(),
            image: ImageSettings::default(),
            hooks: HookSettings::default(),
            watchdog: WatchdogSettings::default(),
            harvest: HarvestSettings::default(),
            triggers: None,
            triage: TriageSettings::default(),
        }
    }
}

fn default_dump() -> DumpSpec {
    DumpSpec::new("vmcore", 31, Format::Kdump, Compression::DEFAULT)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSettings {
    #[serde(default)]
    target: Vec<Spanned<RawTarget>>,
    dump: Option<Vec<RawDump>>,
    limits: Option<RawLimits>,
    host: Option<Spanned<String>>,
    fence_kdump: Option<Spanned<RawFence>>,
    on_failure: Option<FailureAction>,
    shell_limit: Option<Spanned<i64>>,
    rootfs_path: Option<Spanned<String>>,
    final_action: Option<Action>,
    kernel: Option<RawKernel>,
    image: Option<RawImage>,
    hooks: Option<RawHooks>,
    watchdog: Option<RawWatchdog>,
    harvest: Option<RawHarvest>,
    triggers: Option<Profile>,
    triage: Option<TriageSettings>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTarget {
    device: Option<Spanned<DeviceId>>,
    nfs: Option<Spanned<String>>,
    virtiofs: Option<Spanned<String>>,
    #[serde(rename = "9p")]
    plan9: Option<Spanned<String>>,
    ssh: Option<Spanned<String>>,
    raw: Option<Spanned<DeviceId>>,
    key: Option<Spanned<String>>,
    known_hosts: Option<Spanned<String>>,
    path: Option<Spanned<String>>,
    filesystem: Option<Spanned<String>>,
    options: Option<Spanned<String>>,
    level: Option<Spanned<i64>>,
    limits: Option<RawRungLimits>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRungLimits {
    reach: Option<Spanned<i64>>,
    stall: Option<Spanned<i64>>,
    total: Option<Spanned<i64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDump {
    file: Spanned<String>,
    level: Option<Spanned<i64>>,
    format: Option<Format>,
    compression: Option<Spanned<Compression>>,
    exclude_vmemmap: Option<Spanned<bool>>,
    erase: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLimits {
    modules: Option<Spanned<i64>>,
    device: Option<Spanned<i64>>,
    mount: Option<Spanned<i64>>,
    stall: Option<Spanned<i64>>,
    engine: Option<Spanned<i64>>,
    finish: Option<Spanned<i64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFence {
    nodes: Vec<Spanned<String>>,
    port: Option<Spanned<i64>>,
    interval: Option<Spanned<i64>>,
    count: Option<Spanned<i64>>,
    family: Option<Family>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawKernel {
    image: Option<Spanned<String>>,
    #[serde(default)]
    append: Vec<Spanned<String>>,
    #[serde(default)]
    remove: Vec<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawImage {
    #[serde(default)]
    extra_modules: Vec<Spanned<String>>,
    #[serde(default)]
    omit_modules: Vec<Spanned<String>>,
    #[serde(default)]
    extra_bins: Vec<Spanned<String>>,
    collector: Option<Spanned<String>>,
}

/// Types and checks the text of a settings file, called `file` in complaints.
pub fn parse(text: &str, file: &Path) -> Result<Settings, Diagnostics> {
    let sources = Sources::of(file, text);
    let tree = tree::parse(text, 0).map_err(|e| Diagnostics(vec![refusal(&sources, 0, &e)]))?;
    read(tree, &sources)
}

/// Types and checks a tree, whose spans are those of `sources`.
pub fn read(tree: Tree<'_>, sources: &Sources) -> Result<Settings, Diagnostics> {
    let whole = toml::de::Deserializer::from(Spanned::new(0..0, tree));
    let raw = RawSettings::deserialize(whole).map_err(|e| Diagnostics(vec![refusal(sources, 0, &e)]))?;
    let mut check = Check { sources, found: Vec::new() };
    let settings = check.settings(raw);
    check.found.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
    if check.found.is_empty() { Ok(settings) } else { Err(Diagnostics(check.found)) }
}

/// What the TOML reader or serde said of a file, whose spans begin at `start`.
pub fn refusal(sources: &Sources, start: usize, error: &toml::de::Error) -> Diagnostic {
    let span = error.span().unwrap_or(0..0);
    explain(sources, start + span.start..start + span.end, error.message())
}

/// Turns what serde says into what a person wants to read.
fn explain(sources: &Sources, span: Range<usize>, message: &str) -> Diagnostic {
    for (start, what) in [("unknown field ", "unknown key"), ("unknown variant ", "unknown value")] {
        let Some(rest) = message.strip_prefix(start) else { continue };
        let mut quoted = rest.split('`').skip(1).step_by(2);
        let Some(word) = quoted.next() else { continue };
        let known: Vec<&str> = quoted.collect();
        let advice = match nearest(word, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("expected {}", one_of(&known)),
        };
        return sources.diagnostic(&span, format!("{what} `{word}`")).advise(advice);
    }
    if let Some(rest) = message.strip_prefix("invalid type: ") {
        let (seen, expected) = rest.split_once(", expected ").unwrap_or((rest, "something else"));
        // serde names Rust's types.
        let expected = match expected {
            "i64" | "u64" => "a whole number",
            other => other,
        };
        let (seen, expected, advice) = match (seen, expected) {
            ("map", "a sequence") => ("a table", "several of them", "with two pairs of brackets: `[[…]]`"),
            ("sequence", expected) if expected.starts_with("struct ") => {
                ("several tables", "one", "with one pair of brackets: `[…]`")
            }
            others => (others.0, others.1, ""),
        };
        let message = format!("wrong type: {seen}, expected {expected}");
        return sources.diagnostic(&span, message).advise(advice.to_owned());
    }
    // A syntax error comes on several lines: what, then what was expected.
    let mut lines = message.lines();
    let first = lines.next().unwrap_or_default().to_owned();
    sources.diagnostic(&span, first).advise(lines.collect::<Vec<_>>().join(", "))
}

fn one_of(words: &[&str]) -> String {
    match words {
        [] => "nothing".to_owned(),
        [one] => format!("`{one}`"),
        [most @ .., last] => format!("`{}` or `{last}`", most.join("`, `")),
    }
}

struct Check<'a> {
    sources: &'a Sources,
    found: Vec<Diagnostic>,
}

impl Check<'_> {
    fn complain(&mut self, span: Range<usize>, message: impl Into<String>, advice: &str) {
        self.found.push(self.sources.diagnostic(&span, message).advise(advice));
    }

    fn settings(&mut self, raw: RawSettings) -> Settings {
        let default = Settings::default();
        let limits = self.limits(raw.limits);
        let mut rules = BTreeMap::new();
        Settings {
            targets: if raw.target.is_empty() { default.targets } else { self.targets(raw.target) },
            dumps: raw.dump.map_or(default.dumps, |dumps| self.dumps(dumps, &mut rules)),
            rules,
            limits,
            host: raw.host.map(|h| self.host(h)),
            fence: raw.fence_kdump.map(|f| self.fence(f)),
            on_failure: raw.on_failure.unwrap_or(default.on_failure),
            shell_limit: raw.shell_limit.map(|limit| self.limit(limit)),
            rootfs_path: raw.rootfs_path.map(|path| self.absolute(path)),
            final_action: raw.final_action.unwrap_or(default.final_action),
            kernel: raw.kernel.map(|k| self.kernel(k)).unwrap_or_default(),
            image: raw.image.map(|i| self.image(i)).unwrap_or_default(),
            hooks: raw.hooks.map(|h| self.hooks(h)).unwrap_or_default(),
            watchdog: raw.watchdog.map(|w| self.watchdog(w)).unwrap_or_default(),
            harvest: raw.harvest.map(|h| self.harvest(h)).unwrap_or_default(),
            triggers: raw.triggers,
            triage: raw.triage.unwrap_or_default(),
        }
    }

    fn targets(&mut self, raw: Vec<Spanned<RawTarget>>) -> Vec<TargetSettings> {
        raw.into_iter()
            .map(|target| {
                let start = target.span().start;
                let mut target = target.into_inner();
                let level = target.level.take().map(|level| self.level(&level));
                let limits = target.limits.take().map(|limits| RungLimits {
                    reach: limits.reach.map(|v| self.limit(v)),
                    stall: limits.stall.map(|v| self.limit(v)),
                    total: limits.total.map(|v| self.limit(v)),
                });
                TargetSettings { place: self.place(target, start), level, limits: limits.unwrap_or_default() }
            })
            .collect()
    }

    fn place(&mut self, raw: RawTarget, start: usize) -> Place {
        let path = raw.path.map_or(DEFAULT_PATH.to_owned(), |p| self.absolute(p));
        let options = raw.options.map(|o| self.word(o, "mount options"));
        if let Some(device) = raw.raw {
            let others = [&raw.nfs, &raw.virtiofs, &raw.plan9, &raw.ssh, &raw.key, &raw.known_hosts];
            if others.iter().any(|other| other.is_some())
                || raw.device.is_some()
                || raw.filesystem.is_some()
                || options.is_some()
            {
                self.several(start);
            }
            return Place::Raw(PartitionSettings { device: device.into_inner(), path });
        }
        if let Some(address) = raw.ssh {
            let others =
                [raw.nfs.is_some(), raw.virtiofs.is_some(), raw.plan9.is_some(), raw.device.is_some()];
            if others.contains(&true) || raw.filesystem.is_some() || options.is_some() {
                self.several(start);
            }
            let span = address.span();
            let address = address.into_inner().parse().unwrap_or_else(|e: BadAddress| {
                let message = format!("{:?} is no SSH address: {}", e.0, e.1);
                self.complain(span, message, "expected user@host, user@host:port or user@[IPv6]:port");
                SshAddress { user: String::new(), host: String::new(), port: None }
            });
            return Place::Ssh(SshSettings {
                address,
                path,
                key: raw.key.map(|k| self.absolute(k).into()),
                known_hosts: raw.known_hosts.map(|k| self.absolute(k).into()),
            });
        }
        for stray in [&raw.key, &raw.known_hosts].into_iter().flatten() {
            self.complain(
                stray.span(),
                "a setting of ssh targets",
                "add `ssh = \"user@host\"`, or leave it out",
            );
        }
        let shares =
            [(ShareKind::Nfs, raw.nfs), (ShareKind::Virtiofs, raw.virtiofs), (ShareKind::Plan9, raw.plan9)];
        let mut shares = shares.into_iter().filter_map(|(kind, source)| Some((kind, source?)));
        let Some((kind, source)) = shares.next() else {
            return Place::Local(LocalSettings {
                path,
                device: raw.device.map(Spanned::into_inner),
                filesystem: raw.filesystem.map(|f| self.word(f, "a file system type")),
                options,
            });
        };
        if shares.next().is_some() || raw.device.is_some() || raw.filesystem.is_some() {
            self.several(start);
        }
        let span = source.span();
        let source = source.into_inner();
        if source.is_empty() || source.chars().any(|c| c.is_whitespace() || c.is_control()) {
            self.complain(span.clone(), format!("{source:?} names no share"), "expected no spaces in it");
        }
        if kind == ShareKind::Nfs && source.split_once(":/").is_none_or(|(server, _)| server.is_empty()) {
            self.complain(span, format!("{source:?} is no NFS export"), "expected server:/export");
        }
        Place::Share(ShareSettings { kind, source, path, options })
    }

    fn several(&mut self, start: usize) {
        self.complain(
            start..start,
            "a [[target]] that is several places at once",
            "give one of `device`, `nfs`, `virtiofs`, `9p`, `ssh` and `raw` (`filesystem` goes with `device`), and another [[target]] for the next",
        );
    }

    fn level(&mut self, level: &Spanned<i64>) -> u8 {
        match u8::try_from(*level.get_ref()) {
            Ok(l) if l <= 31 => l,
            _ => {
                self.complain(
                    level.span(),
                    format!("level {} is out of range", level.get_ref()),
                    "expected 0 (every page) to 31 (drop zero, cache, user and free pages)",
                );
                default_dump().level
            }
        }
    }

    /// The dumps; their files of rules go into `rules`.
    fn dumps(&mut self, raw: Vec<RawDump>, rules: &mut BTreeMap<String, PathBuf>) -> Vec<DumpSpec> {
        if raw.is_empty() {
            self.complain(
                0..0,
                "`dump` is empty",
                "leave it out for the default, or give at least one [[dump]]",
            );
        }
        let mut dumps: Vec<DumpSpec> = Vec::new();
        for one in raw {
            let default = default_dump();
            let level = one.level.map_or(default.level, |level| self.level(&level));
            let span = one.file.span();
            let file = self.file_name(one.file);
            if dumps.iter().any(|d| d.file == file) {
                self.complain(span, format!("two dumps are called {file:?}"), "give each its own `file`");
            }
            let format = one.format.unwrap_or(default.format);
            if let Some(asked) = &one.compression {
                let advice = match (format, asked.get_ref()) {
                    (Format::Kdump, Compression::Lz4) => Some("choose lzo or zstd, or format = \"elf\""),
                    (Format::Elf, Compression::None | Compression::Lz4)
                    | (Format::Raw, Compression::None) => None,
                    (Format::Kdump, _) => None,
                    (Format::Elf, _) => Some("choose lz4 or none, or format = \"kdump\""),
                    (Format::Raw, _) => Some("choose none, or format = \"kdump\""),
                };
                if let Some(advice) = advice {
                    let what = format!("{format:?} dumps cannot be compressed with {}", asked.get_ref());
                    self.complain(asked.span(), what.to_lowercase(), advice);
                }
            }
            let thin = one.exclude_vmemmap.filter(|thin| *thin.get_ref());
            if let Some(thin) = &thin
                && format == Format::Raw
            {
                let advice = "choose format = \"kdump\" or \"elf\"";
                self.complain(thin.span(), "raw dumps are copies: nothing is excluded from them", advice);
            }
            if let Some(path) = one.erase {
                if format == Format::Raw {
                    let advice = "choose format = \"kdump\" or \"elf\"";
                    self.complain(path.span(), "raw dumps are copies: nothing is erased from them", advice);
                }
                rules.insert(file.clone(), PathBuf::from(self.absolute(path)));
            }
            dumps.push(DumpSpec {
                file,
                level,
                format,
                compression: one.compression.map_or(default.compression, Spanned::into_inner),
                exclude_vmemmap: thin.is_some(),
                // The file is read when all is resolved.
                erase: String::new(),
            });
        }
        dumps
    }

    fn limits(&mut self, raw: Option<RawLimits>) -> Limits {
        let default = Limits::default();
        let Some(raw) = raw else { return default };
        let mut seconds =
            |raw: Option<Spanned<i64>>, default: u64| raw.map_or(default, |raw| self.limit(raw));
        Limits {
            modules: seconds(raw.modules, default.modules),
            device: seconds(raw.device, default.device),
            mount: seconds(raw.mount, default.mount),
            stall: seconds(raw.stall, default.stall),
            engine: seconds(raw.engine, default.engine),
            finish: seconds(raw.finish, default.finish),
        }
    }

    fn fence(&mut self, raw: Spanned<RawFence>) -> FenceSettings {
        let span = raw.span();
        let raw = raw.into_inner();
        let mut nodes = Vec::new();
        for node in raw.nodes {
            let name = node.get_ref();
            if name.is_empty()
                || name.starts_with('-')
                || name.contains(|c: char| c.is_whitespace() || c == '/')
            {
                let advice = "expected a host name or an address";
                self.complain(node.span(), format!("{name:?} is no node"), advice);
            }
            nodes.push(node.into_inner());
        }
        if nodes.is_empty() {
            let advice = "name the other nodes of the cluster, or leave [fence_kdump] out";
            self.complain(span.start..span.start, "[fence_kdump] has no nodes", advice);
        }
        let mut number =
            |raw: Option<Spanned<i64>>, range: std::ops::RangeInclusive<u32>, default: u32, what: &str| {
                let Some(raw) = raw else { return default };
                match u32::try_from(*raw.get_ref()) {
                    Ok(n) if range.contains(&n) => n,
                    _ => {
                        let message = format!("{what} of {}", raw.get_ref());
                        self.complain(
                            raw.span(),
                            message,
                            &format!("expected {} to {}", range.start(), range.end()),
                        );
                        default
                    }
                }
            };
        let port = number(raw.port, 1..=65535, u32::from(Fence::PORT), "a port");
        FenceSettings {
            nodes,
            port: u16::try_from(port).unwrap_or(Fence::PORT),
            interval: number(raw.interval, 1..=3600, Fence::INTERVAL, "an interval"),
            count: number(raw.count, 0..=u32::MAX, 0, "a count"),
            family: raw.family.unwrap_or_default(),
        }
    }

    /// A deadline in seconds.
    fn limit(&mut self, raw: Spanned<i64>) -> u64 {
        match u64::try_from(*raw.get_ref()) {
            // A week: beyond it a slip of the keyboard is likelier than an intention.
            Ok(s) if (1..=7 * 86400).contains(&s) => s,
            _ => {
                let seen = *raw.get_ref();
                let advice = "expected 1 to 604800 seconds: nothing may wait for ever";
                self.complain(raw.span(), format!("a limit of {seen} seconds"), advice);
                1
            }
        }
    }

    fn kernel(&mut self, raw: RawKernel) -> KernelSettings {
        KernelSettings {
            image: raw.image.map(|i| self.absolute(i).into()),
            append: raw.append.into_iter().map(|a| self.argument(a)).collect(),
            remove: raw.remove.into_iter().map(|a| self.argument(a)).collect(),
        }
    }

    fn image(&mut self, raw: RawImage) -> ImageSettings {
        let mut modules = |list: Vec<Spanned<String>>| -> Vec<String> {
            list.into_iter().map(|m| self.word(m, "a module's name")).collect()
        };
        ImageSettings {
            extra_modules: modules(raw.extra_modules),
            omit_modules: modules(raw.omit_modules),
            extra_bins: self.absolutes(raw.extra_bins),
            collector: raw.collector.map(|c| self.absolute(c).into()),
        }
    }

    fn host(&mut self, raw: Spanned<String>) -> String {
        if sanitise_host(raw.get_ref()) != *raw.get_ref() {
            self.complain(
                raw.span(),
                format!("{:?} cannot be part of a directory's name", raw.get_ref()),
                "use letters, digits, dots and dashes, 64 at most",
            );
        }
        raw.into_inner()
    }

    fn absolute(&mut self, raw: Spanned<String>) -> String {
        let path = raw.get_ref();
        if !path.starts_with('/') || path.split('/').any(|part| part == ".." || part == ".") {
            self.complain(
                raw.span(),
                format!("{path:?} is not a plain absolute path"),
                "start with / and leave out . and ..",
            );
        } else if path.contains('\0') {
            self.complain(raw.span(), "a NUL in a path", "");
        }
        raw.into_inner()
    }

    fn word(&mut self, raw: Spanned<String>, what: &str) -> String {
        let word = raw.get_ref();
        if word.is_empty() || word.chars().any(|c| c.is_whitespace() || c.is_control() || c == '/') {
            self.complain(raw.span(), format!("{word:?} is not {what}"), "");
        }
        raw.into_inner()
    }

    fn argument(&mut self, raw: Spanned<String>) -> String {
        let text = raw.get_ref();
        let mut quoted = false;
        let spaced = text.chars().any(|c| {
            quoted ^= c == '"';
            c.is_control() || (c.is_whitespace() && !quoted)
        });
        if text.is_empty() || spaced || quoted {
            self.complain(
                raw.span(),
                format!("{text:?} is not one kernel argument"),
                "one argument an entry; put spaces into double quotes",
            );
        }
        raw.into_inner()
    }

    fn file_name(&mut self, raw: Spanned<String>) -> String {
        /// Names that the collector writes itself.
        const TAKEN: [&str; 2] = ["vmcore-dmesg.txt", "manifest.json"];
        let name = raw.get_ref();
        let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if name.is_empty() || name.len() > 100 || name.starts_with('.') || !name.chars().all(safe) {
            self.complain(
                raw.span(),
                format!("{name:?} is no file name for a dump"),
                "use letters, digits, dots, dashes and underscores; it lies in the dump's own directory",
            );
        } else if TAKEN.contains(&name.as_str()) || name.ends_with("-incomplete") {
            self.complain(
                raw.span(),
                format!("the name {name:?} is taken"),
                "choose another, such as `vmcore`",
            );
        }
        raw.into_inner()
    }
}

/// `name` reduced to what is safe as a part of a directory's name: letters, digits, dots, dashes, underscores, 64 at
/// most. What is not becomes `_`; nothing at all becomes `localhost`.
pub fn sanitise_host(name: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_') { c } else { '_' };
    let clean: String = name.trim().chars().take(64).map(safe).collect();
    // A leading dot would hide the dump from `ls` and from the globs of other tools.
    let clean = clean.trim_start_matches('.');
    if clean.is_empty() { "localhost".to_owned() } else { clean.to_owned() }
}

#[cfg(test)]
mod tests;

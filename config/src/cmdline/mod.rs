//! The crash kernel's command line: the running kernel's, less what would hurt, plus what is needed; each argument
//! with its reason. What is removed and added is in [`table`].

pub mod table;

use crate::settings::KernelSettings;
use initramfs::root::Root;
use std::fmt;
use std::ops::Range;
use table::{ADDITIONS, KEPT, REMOVALS};

/// What the command line depends on.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Facts {
    /// As in `std::env::consts::ARCH`.
    pub machine: String,
    /// /proc/cmdline.
    pub running: String,
    /// Physical addresses of the reservation.
    pub reservation: Vec<Range<u64>>,
    /// This is a virtual machine.
    pub virtual_machine: bool,
    /// Memory is encrypted by the CPU.
    pub encrypted: bool,
    /// Something is reached by IPv6: not of the system, but of the plan.
    pub ipv6: bool,
}

impl Facts {
    /// Reads them from the system at `root`.
    pub fn read(root: &Root, reservation: Vec<Range<u64>>, release: &str) -> Result<Self, initramfs::Error> {
        let running = root.read("/proc/cmdline")?.unwrap_or_default().trim().to_owned();
        let cpuinfo = root.read("/proc/cpuinfo")?.unwrap_or_default();
        let flags: Vec<&str> = cpuinfo
            .lines()
            .find_map(|l| l.strip_prefix("flags")?.split_once(':'))
            .map(|(_, flags)| flags.split_whitespace().collect())
            .unwrap_or_default();
        let has = |flag: &str| flags.contains(&flag);
        let virtual_machine = has("hypervisor");
        let config = root.read(format!("/boot/config-{release}"))?.unwrap_or_default();
        let by_default = config.lines().any(|l| l == "CONFIG_AMD_MEM_ENCRYPT_ACTIVE_BY_DEFAULT=y");
        let encrypted = if virtual_machine {
            ["sev", "sev_es", "sev_snp", "tdx_guest"].into_iter().any(has)
        } else {
            // The flag only says that the firmware allows SME; whether it is on is the kernel's choice at boot.
            let asked = running.split_whitespace().rfind(|a| a.starts_with("mem_encrypt="));
            has("sme") && asked.map_or(by_default, |a| a == "mem_encrypt=on")
        };
        Ok(Self {
            machine: std::env::consts::ARCH.to_owned(),
            running,
            reservation,
            virtual_machine,
            encrypted,
            ipv6: false,
        })
    }
}

/// What becomes of an argument.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// The running kernel has it, the crash kernel gets it.
    Kept,
    /// The running kernel has it, the crash kernel does not get it.
    Removed,
    /// The crash kernel gets it.
    Added,
    /// The table has it, but its condition does not hold or the settings say otherwise.
    NotAdded,
}

/// An argument, its fate and the reason.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// `name` or `name=value`.
    pub argument: String,
    /// What becomes of it.
    pub fate: Fate,
    /// Why.
    pub why: String,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.fate {
            Fate::Kept => '=',
            Fate::Removed => '-',
            Fate::Added => '+',
            Fate::NotAdded => '.',
        };
        write!(f, "{sign} {:<28} {}", self.argument, self.why)
    }
}

/// A command line and how it came about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cmdline {
    /// The text for kexec_file_load(2).
    pub text: String,
    /// Every argument considered.
    pub rows: Vec<Row>,
}

/// Why there is no command line.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CmdlineError {
    /// Too long for this architecture.
    #[error(
        "the crash kernel's command line has {length} bytes, {limit} is the most: take arguments out with `remove` in [kernel]; `vmcorectl arm --explain` shows them"
    )]
    TooLong {
        /// Its length.
        length: usize,
        /// The most that the kernel takes.
        limit: usize,
    },
    /// The text cannot be passed to the kernel.
    #[error("a NUL byte in the crash kernel's command line")]
    Nul,
}

/// The most bytes that the loader takes. On x86 COMMAND_LINE_SIZE is 2048 with the final NUL, and kexec_file_load puts
/// `elfcorehdr=0x…` in front of ours, for which it counts 30 (MAX_ELFCOREHDR_STR_LEN in
/// arch/x86/kernel/kexec-bzimage64.c).
pub fn limit(machine: &str) -> usize {
    match machine {
        "x86_64" => 2047 - 30 - 1,
        _ => 2048 - 1,
    }
}

/// Builds the command line of the crash kernel whose image is `image_id`.
pub fn build(facts: &Facts, settings: &KernelSettings, image_id: &str) -> Cmdline {
    let mut rows = Vec::new();
    let appended = |argument: &str| settings.append.iter().any(|a| same_name(a, argument));
    let added_by_table = |argument: &str| {
        let mut rows = ADDITIONS.iter().filter(|r| r.arch.is(&facts.machine) && r.when.holds(facts));
        rows.find(|r| same_name(r.argument, argument))
    };
    let removed_by_user = |argument: &str| settings.remove.iter().any(|p| matches(p, argument));
    for argument in split(&facts.running) {
        let table = REMOVALS.iter().find(|r| r.names.iter().any(|n| matches(n, &argument)));
        let (fate, why) = if removed_by_user(&argument) {
            (Fate::Removed, "by `remove` in the settings".to_owned())
        } else if let Some(row) = table {
            (Fate::Removed, row.why.to_owned())
        } else if let Some(row) = added_by_table(&argument) {
            (Fate::Removed, format!("replaced by {}", row.argument))
        } else if appended(&argument) && !may_repeat(&argument) {
            (Fate::Removed, "replaced by `append` in the settings".to_owned())
        } else {
            (Fate::Kept, KEPT.to_owned())
        };
        rows.push(Row { argument, fate, why });
    }
    for row in ADDITIONS.iter().filter(|r| r.arch.is(&facts.machine)) {
        let (fate, why) = if !row.when.holds(facts) {
            (Fate::NotAdded, format!("only if: {}", row.when.words()))
        } else if removed_by_user(row.argument) {
            (Fate::NotAdded, "by `remove` in the settings".to_owned())
        } else if appended(row.argument) {
            (Fate::NotAdded, "replaced by `append` in the settings".to_owned())
        } else {
            (Fate::Added, row.why.to_owned())
        };
        rows.push(Row { argument: row.argument.to_owned(), fate, why });
    }
    for argument in &settings.append {
        rows.push(Row {
            argument: argument.clone(),
            fate: Fate::Added,
            why: "by `append` in the settings".to_owned(),
        });
    }
    rows.push(Row {
        argument: format!("vmcored.image={image_id}"),
        fate: Fate::Added,
        why: "tells in the crash kernel's log which image ran".to_owned(),
    });
    let passed: Vec<&str> = rows
        .iter()
        .filter(|r| matches!(r.fate, Fate::Kept | Fate::Added))
        .map(|r| r.argument.as_str())
        .collect();
    let text = passed.join(" ");
    Cmdline { text, rows }
}

impl Cmdline {
    /// The text for the system call, if it is short enough for `machine`.
    pub fn for_kernel(&self, machine: &str) -> Result<std::ffi::CString, CmdlineError> {
        let (length, limit) = (self.text.len(), limit(machine));
        if length > limit {
            return Err(CmdlineError::TooLong { length, limit });
        }
        std::ffi::CString::new(self.text.as_str()).map_err(|_| CmdlineError::Nul)
    }
}

/// The arguments of a command line up to `--`, behind which they are for init. Double quotes protect spaces, as in
/// the kernel's next_arg().
pub fn split(text: &str) -> Vec<String> {
    let mut quoted = false;
    let words = text.split(|c: char| {
        quoted ^= c == '"';
        !quoted && c.is_whitespace()
    });
    words.filter(|w| !w.is_empty()).take_while(|w| *w != "--").map(str::to_owned).collect()
}

/// Name of an argument. Dashes and underscores are the same to the kernel (parameq()).
fn name(argument: &str) -> String {
    let name = argument.split('=').next().unwrap_or_default();
    name.trim_matches('"').replace('-', "_")
}

fn same_name(a: &str, b: &str) -> bool {
    name(a) == name(b)
}

/// Whether the pattern, a name with perhaps a `*` at its end, means the argument.
fn matches(pattern: &str, argument: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name(argument).starts_with(&start.replace('-', "_")),
        None => same_name(pattern, argument),
    }
}

/// Arguments that may be given several times, where a new one does not replace the old.
fn may_repeat(argument: &str) -> bool {
    ["console", "earlycon"].iter().any(|n| same_name(n, argument))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(running: &str) -> Facts {
        Facts {
            machine: "x86_64".into(),
            running: running.into(),
            reservation: std::iter::once(0x2f00_0000..0x3700_0000).collect(),
            ..Facts::default()
        }
    }

    fn text(facts: &Facts, append: &[&str], remove: &[&str]) -> String {
        let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        let settings = KernelSettings { image: None, append: owned(append), remove: owned(remove) };
        build(facts, &settings, "id").text
    }

    #[test]
    fn what_is_kept_of_the_running_kernel() {
        let cases = [
            ("console=ttyS0,115200 console=tty0", true),
            ("nomodeset", true),
            ("intel_iommu=on", true),
            ("nvme_core.io_timeout=30", true),
            ("x=\"a b\"", true),
            ("BOOT_IMAGE=/boot/vmlinuz", false),
            ("root=UUID=1 ro", false),
            ("quiet splash", false),
            ("crashkernel=384M-:128M", false),
            ("rd.lvm.lv=a/b systemd.unit=x", false),
            ("init=/bin/sh", false),
            ("hugepages=100 default-hugepagesz=1G", false),
            ("slub-debug=FZP", false),
            ("rcu_nocbs=1-7 isolcpus=1-7 nohz_full=1-7", false),
            ("sysctl.kernel.panic_on_warn=1 panic_on_warn", false),
            ("memmap=1G!4G mem=2G", false),
            ("-- single", false),
        ];
        let bare = text(&facts(""), &[], &[]);
        for (running, kept) in cases {
            let got = text(&facts(running), &[], &[]);
            let want = if kept { format!("{running} {bare}") } else { bare.clone() };
            assert_eq!(got, want, "{running}");
        }
    }

    #[test]
    fn conditions() {
        let has = |f: &Facts, word: &str| text(f, &[], &[]).split(' ').any(|w| w == word);
        let base = facts("");
        assert!(has(&base, "irqpoll") && has(&base, "swiotlb=noforce") && has(&base, "numa=off"));
        let guest = Facts { virtual_machine: true, ..base.clone() };
        assert!(!has(&guest, "irqpoll"));
        let high = Facts { reservation: vec![0..1, 1 << 32..1 << 33], ..base.clone() };
        assert!(has(&high, "swiotlb=4096") && !has(&high, "swiotlb=noforce"));
        let unknown = Facts { reservation: vec![], ..base.clone() };
        assert!(has(&unknown, "swiotlb=4096"), "where the reservation is not known nothing may rely on it");
        let encrypted = Facts { encrypted: true, ..base.clone() };
        assert!(has(&encrypted, "swiotlb=8192"));
        assert!(has(&base, "ipv6.disable=1"));
        assert!(!has(&Facts { ipv6: true, ..base.clone() }, "ipv6.disable=1"));
        let arm = Facts { machine: "aarch64".into(), ..base };
        assert!(!has(&arm, "mce=off") && has(&arm, "nr_cpus=1"));
    }

    #[test]
    fn the_user_has_the_last_word() {
        let got = text(
            &facts("loglevel=3 foo=1 console=ttyS0"),
            &["loglevel=7", "foo=2", "console=tty0"],
            &["panic", "cgroup*"],
        );
        let words: Vec<&str> = got.split(' ').collect();
        assert!(
            words.contains(&"loglevel=7") && !words.contains(&"loglevel=5") && !words.contains(&"loglevel=3")
        );
        assert!(words.contains(&"foo=2") && !words.contains(&"foo=1"));
        assert!(words.contains(&"console=ttyS0") && words.contains(&"console=tty0"), "consoles add up");
        assert!(!words.iter().any(|w| w.starts_with("panic") || w.starts_with("cgroup")));
        assert_eq!(words.last(), Some(&"vmcored.image=id"));
    }

    #[test]
    fn every_argument_is_accounted_for() {
        let line = build(&facts("root=/dev/x ro console=ttyS0"), &KernelSettings::default(), "id");
        let fates = |fate| line.rows.iter().filter(|r| r.fate == fate).count();
        assert_eq!((fates(Fate::Removed), fates(Fate::Kept)), (2, 1));
        assert_eq!(line.text.split(' ').count(), fates(Fate::Kept) + fates(Fate::Added));
        assert!(line.rows.iter().all(|r| !r.why.is_empty()));
        assert_eq!(fates(Fate::NotAdded), 2, "two of three sizes of swiotlb");
    }

    #[test]
    fn length_is_checked() {
        let bare = text(&facts(""), &[], &[]).len();
        let limit = limit("x86_64");
        assert_eq!(limit, 2016);
        for (extra, ok) in [(limit - bare - 1, true), (limit - bare, false)] {
            let line = build(&facts(&"x".repeat(extra)), &KernelSettings::default(), "id");
            assert_eq!(line.for_kernel("x86_64").is_ok(), ok, "{}", line.text.len());
        }
        // With a real id there is still room for what the user needs.
        assert!(bare + 64 < 1000, "{bare}");
    }

    #[test]
    fn facts_of_encryption() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        std::fs::create_dir_all(dir.path().join("proc")).unwrap();
        std::fs::create_dir_all(dir.path().join("boot")).unwrap();
        let cases = [
            ("fpu sme sev", "", "", false),
            ("fpu sme sev", "mem_encrypt=on", "", true),
            ("fpu sme", "", "CONFIG_AMD_MEM_ENCRYPT_ACTIVE_BY_DEFAULT=y", true),
            ("fpu sme", "mem_encrypt=off", "CONFIG_AMD_MEM_ENCRYPT_ACTIVE_BY_DEFAULT=y", false),
            ("fpu hypervisor", "mem_encrypt=on", "", false),
            ("fpu hypervisor sev", "", "", true),
            ("fpu hypervisor tdx_guest", "", "", true),
        ];
        for (flags, cmdline, config, want) in cases {
            std::fs::write(dir.path().join("proc/cpuinfo"), format!("processor\t: 0\nflags\t\t: {flags}\n"))
                .unwrap();
            std::fs::write(dir.path().join("proc/cmdline"), format!("{cmdline}\n")).unwrap();
            std::fs::write(dir.path().join("boot/config-6.1"), config).unwrap();
            let facts = Facts::read(&root, vec![], "6.1").unwrap();
            assert_eq!(facts.encrypted, want, "{flags} {cmdline}");
            assert_eq!(facts.virtual_machine, flags.contains("hypervisor"));
        }
    }
}

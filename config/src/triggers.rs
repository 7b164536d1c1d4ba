//! What makes the kernel panic, and so dump: sysctls, as profiles that are shown as a diff and applied only on request.

use initramfs::root::Root;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::PathBuf;

/// Where an applied profile is written for later boots.
pub const SYSCTL_FILE: &str = "/etc/sysctl.d/60-vmcored.conf";

/// How much makes the kernel panic.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// What leaves a machine broken or hung: oopses, lockups, NMIs of operators and hardware.
    Server,
    /// Also what a developer wants to see at once: hung tasks, out of memory, warnings of RCU.
    Lab,
    /// Nothing but what panics by itself.
    Off,
}

impl std::fmt::Display for Profile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Server => "server",
            Self::Lab => "lab",
            Self::Off => "off",
        })
    }
}

/// A sysctl: its name, its values in the profiles server, lab and off (`None` leaves it), and why.
struct Row {
    name: &'static str,
    server: Option<&'static str>,
    lab: Option<&'static str>,
    off: Option<&'static str>,
    why: &'static str,
}

const ROWS: &[Row] = &[
    Row {
        name: "kernel.panic_on_oops",
        server: Some("1"),
        lab: Some("1"),
        off: Some("0"),
        why: "after an oops locks stay held and memory may be wrong",
    },
    Row {
        name: "kernel.softlockup_panic",
        server: Some("1"),
        lab: Some("1"),
        off: Some("0"),
        why: "a CPU that does not schedule for 20 s (2 * kernel.watchdog_thresh)",
    },
    Row {
        name: "kernel.hardlockup_panic",
        server: Some("1"),
        lab: Some("1"),
        off: Some("0"),
        why: "a CPU that takes no interrupts",
    },
    Row {
        name: "kernel.unknown_nmi_panic",
        server: Some("1"),
        lab: Some("1"),
        off: Some("0"),
        why: "the NMI that an operator sends through the management controller, or a hypervisor",
    },
    Row {
        name: "kernel.panic_on_io_nmi",
        server: Some("1"),
        lab: Some("1"),
        off: Some("0"),
        why: "an NMI for an I/O error",
    },
    Row {
        name: "kernel.panic_on_unrecovered_nmi",
        server: Some("1"),
        lab: Some("1"),
        off: Some("0"),
        why: "an NMI for a parity error of memory",
    },
    Row {
        name: "kernel.hung_task_panic",
        server: None,
        lab: Some("1"),
        off: Some("0"),
        why: "a task that waits uninterruptibly for two minutes (kernel.hung_task_timeout_secs)",
    },
    Row {
        name: "kernel.panic_on_rcu_stall",
        server: None,
        lab: Some("1"),
        off: Some("0"),
        why: "an RCU grace period that does not end",
    },
    Row {
        name: "vm.panic_on_oom",
        server: None,
        lab: Some("1"),
        off: Some("0"),
        why: "out of memory; a server loses a process instead",
    },
    Row {
        name: "kernel.panic",
        server: Some("10"),
        lab: Some("10"),
        off: None,
        why: "where the crash kernel does not start, restart after 10 s instead of standing still",
    },
];

/// One that is not as a profile has it, or is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Trigger {
    /// `kernel.panic_on_oops`
    pub name: &'static str,
    /// Its value now.
    pub now: String,
    /// What the profile has.
    pub wanted: &'static str,
    /// What it is for.
    pub why: &'static str,
}

/// All of a profile that this kernel has.
pub fn triggers(profile: Profile, root: &Root) -> Vec<Trigger> {
    let wanted = |row: &Row| match profile {
        Profile::Server => row.server,
        Profile::Lab => row.lab,
        Profile::Off => row.off,
    };
    let row = |row: &Row| {
        let now = root.read_line(path(row.name)).ok()??;
        Some(Trigger { name: row.name, now, wanted: wanted(row)?, why: row.why })
    };
    ROWS.iter().filter_map(row).collect()
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/sys/{}", name.replace('.', "/")))
}

/// Sets them, now and for later boots. Returns what was changed.
pub fn apply(profile: Profile, root: &Root) -> io::Result<Vec<Trigger>> {
    let all = triggers(profile, root);
    let mut text = format!("# Written by `vmcorectl triggers apply {profile}`.\n");
    for trigger in &all {
        text.push_str(&format!("# {}\n{} = {}\n", trigger.why, trigger.name, trigger.wanted));
    }
    let file = root.path(SYSCTL_FILE);
    if let Some(directory) = file.parent() {
        std::fs::create_dir_all(directory)?;
    }
    std::fs::write(&file, text)?;
    let different: Vec<Trigger> = all.into_iter().filter(|trigger| trigger.now != trigger.wanted).collect();
    for trigger in &different {
        std::fs::write(root.path(path(trigger.name)), trigger.wanted)?;
    }
    Ok(different)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_a_diff() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let put = |name: &str, value: &str| {
            let path = root.path(path(name));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, value).unwrap();
        };
        put("kernel.panic_on_oops", "0\n");
        put("kernel.softlockup_panic", "1\n");
        put("vm.panic_on_oom", "0\n");
        let server = triggers(Profile::Server, &root);
        let seen: Vec<_> = server.iter().map(|t| (t.name, t.now.as_str(), t.wanted)).collect();
        assert_eq!(seen, [("kernel.panic_on_oops", "0", "1"), ("kernel.softlockup_panic", "1", "1")]);
        assert_eq!(triggers(Profile::Lab, &root).len(), 3);
        let changed = apply(Profile::Server, &root).unwrap();
        assert_eq!(changed.len(), 1);
        assert!(triggers(Profile::Server, &root).iter().all(|t| t.now == t.wanted));
        let text = std::fs::read_to_string(root.path(SYSCTL_FILE)).unwrap();
        assert!(text.contains("kernel.panic_on_oops = 1\n") && !text.contains("oom"), "{text}");
    }
}

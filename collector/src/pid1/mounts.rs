//! The kernel's own file systems, and its knobs. Nothing here can hang, so PID 1 does it itself.

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use std::fs;

/// Mounts: type, where, options. /dev is needed by nearly everything, so it is first.
const MOUNTS: [(&str, &str, Option<&str>); 4] = [
    ("devtmpfs", "/dev", Some("mode=0755")),
    ("proc", "/proc", None),
    ("sysfs", "/sys", None),
    ("tmpfs", "/run", Some("mode=0700,size=1m")),
];

/// Mounts /dev, /proc, /sys and /run. Returns what failed.
pub fn mount_all() -> Vec<String> {
    let mut failures = Vec::new();
    for (kind, at, options) in MOUNTS {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
        let done =
            fs::create_dir_all(at).and_then(|()| match mount(Some(kind), at, Some(kind), flags, options) {
                // Somebody was faster (CONFIG_DEVTMPFS_MOUNT, a container).
                Ok(()) | Err(Errno::EBUSY) => Ok(()),
                Err(e) => Err(e.into()),
            });
        if let Err(e) = done {
            failures.push(format!("cannot mount {kind} at {at}: {e}"));
        }
    }
    failures
}

/// Sets the kernel's knobs: file, value, and why.
pub fn set_knobs() {
    let panic_already = fs::read_to_string("/proc/sys/kernel/panic").is_ok_and(|v| v.trim() != "0");
    for (knob, value, wanted) in [
        // If PID 1 itself is ended the kernel panics. It must then reboot, not stand still; the command line
        // may know better.
        ("/proc/sys/kernel/panic", "10", !panic_already),
        // Running out of memory is to end the engine, of whose dump PID 1 then saves what is there; not the
        // whole machine.
        ("/proc/sys/vm/panic_on_oom", "0", true),
        // A process chosen for its size, not the one that happened to ask for the last page.
        ("/proc/sys/vm/oom_kill_allocating_task", "0", true),
        // All processes of the crash kernel are listed at each OOM otherwise, on a console that may be slow.
        ("/proc/sys/vm/oom_dump_tasks", "0", true),
        // PID 1 never dies for memory. Its children raise their own.
        ("/proc/self/oom_score_adj", "-1000", true),
    ] {
        if wanted && let Err(e) = fs::write(knob, value) {
            log::debug!("{knob}: {e}");
        }
    }
}

/// One value of /proc/meminfo, KiB.
pub fn meminfo_kib(key: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

/// How many processes the OOM killer has ended since boot.
///
/// Since Linux commit 8e675f7af507 ("mm/oom_kill: count global and memory cgroup oom kills") (in v4.13).
pub fn oom_kills() -> u64 {
    let text = fs::read_to_string("/proc/vmstat").unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok()).unwrap_or(0)
}

/// The value of `name=` on the kernel's command line.
pub fn argument(name: &str) -> Option<String> {
    let line = fs::read_to_string("/proc/cmdline").ok()?;
    line.split_whitespace().find_map(|word| Some(word.strip_prefix(name)?.strip_prefix('=')?.to_owned()))
}

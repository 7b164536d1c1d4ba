//! What the kernel describes in the ELF headers of the crash image when that is loaded: CPUs and memory of the machine.
//!
//! A kernel before 6.6 writes them once, at loading: what comes later is not in the dump, what goes is read all the same. They are
//! made of the CPUs that are *present* and of the memory in /proc/iomem, not of what is online: taking a CPU offline and back
//! changes nothing, and nothing needs to be loaded again.

use initramfs::Error;
use initramfs::root::Root;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::path::Path;

/// It, as far as the kernel does not follow changes by itself.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Layout {
    /// `0-3`, as /sys/devices/system/cpu/present has it.
    cpus: Option<String>,
    /// A hash of the lines of /proc/iomem with memory.
    memory: Option<String>,
}

impl Layout {
    /// Of the system at `root`, now.
    pub fn read(root: &Root) -> Result<Self, Error> {
        let mut layout = Self::default();
        if !kernel_follows("cpu", root) {
            layout.cpus = root.read_line("/sys/devices/system/cpu/present")?;
        }
        if !kernel_follows("memory", root) {
            let text = root.read("/proc/iomem")?.unwrap_or_default();
            // Top lines only: below them is what the kernel itself takes of it.
            let lines = text.lines().filter(|line| !line.starts_with(' ') && line.contains(" : System RAM"));
            // Who is not root sees no addresses.
            let shown = lines.filter(|line| !line.starts_with("00000000-00000000"));
            let mut hash = Sha256::new();
            let count = shown.inspect(|line| hash.update(format!("{line}\n"))).count();
            layout.memory = (count > 0)
                .then(|| hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect());
        }
        Ok(layout)
    }

    /// What is another now than in `before`. What one of them does not know is not.
    pub fn differences(&self, before: &Self) -> Vec<&'static str> {
        let differ = |now: &Option<String>, then: &Option<String>| matches!((now, then), (Some(now), Some(then)) if now != then);
        let all = [("CPUs", &self.cpus, &before.cpus), ("memory", &self.memory, &before.memory)];
        all.into_iter().filter(|(_, now, then)| differ(now, then)).map(|(name, ..)| name).collect()
    }
}

/// Whether the kernel itself keeps the loaded crash image true to its CPUs (`cpu`) or its memory (`memory`): crash_hotplug in
/// Documentation/ABI/testing/sysfs-devices-system-cpu, since 6.6.
pub fn kernel_follows(what: &str, root: &Root) -> bool {
    let path = Path::new("/sys/devices/system").join(what).join("crash_hotplug");
    root.read_line(path).ok().flatten().as_deref() == Some("1")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn what_counts_is_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let put = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        assert_eq!(Layout::read(&root).unwrap(), Layout::default());
        let ram = "00001000-0009ffff : System RAM\n00100000-3fffffff : System RAM\n";
        put("sys/devices/system/cpu/present", "0-3\n");
        put("sys/devices/system/cpu/online", "0-3\n");
        put("proc/iomem", ram);
        let first = Layout::read(&root).unwrap();
        // CPU 1 is taken offline, the kernel takes a piece of memory: nothing of it is in the headers.
        put("sys/devices/system/cpu/online", "0,2-3\n");
        put("proc/iomem", &format!("{ram}  01000000-01ffffff : Kernel code\n"));
        assert_eq!(Layout::read(&root).unwrap().differences(&first), [""; 0]);
        put("proc/iomem", &format!("{ram}100000000-107ffffff : System RAM\n"));
        put("sys/devices/system/cpu/present", "0-4\n");
        assert_eq!(Layout::read(&root).unwrap().differences(&first), ["CPUs", "memory"]);
        // Without addresses nothing is known.
        put("proc/iomem", "00000000-00000000 : System RAM\n");
        assert_eq!(Layout::read(&root).unwrap().differences(&first), ["CPUs"]);
        put("sys/devices/system/cpu/crash_hotplug", "1\n");
        assert!(kernel_follows("cpu", &root) && !kernel_follows("memory", &root));
        assert_eq!(Layout::read(&root).unwrap().differences(&first), [""; 0]);
    }
}

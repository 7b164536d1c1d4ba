//! CPUs and memory that come and go.

use initramfs::root::Root;

/// Whether the kernel itself keeps the crash image true to its CPUs or memory (Documentation/ABI/testing/sysfs-devices-system-cpu,
/// crash_hotplug; in v6.6).
pub(super) fn kernel_does_it(what: &str, root: &Root) -> bool {
    let path = format!("/sys/devices/system/{what}/crash_hotplug");
    root.read_line(path).ok().flatten().as_deref() == Some("1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asked_for_each() {
        let dir = tempfile::tempdir().unwrap();
        let cpu = dir.path().join("sys/devices/system/cpu");
        std::fs::create_dir_all(&cpu).unwrap();
        std::fs::write(cpu.join("crash_hotplug"), "1\n").unwrap();
        let root = Root::new(dir.path());
        assert!(kernel_does_it("cpu", &root));
        assert!(!kernel_does_it("memory", &root));
    }
}

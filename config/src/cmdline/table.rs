//! The tables: which arguments of the running kernel the crash kernel must not have, which it gets, and why. To change
//! what is passed, change a row here; `vmcorectl arm --explain` shows the outcome.
//!
//! Sources: Documentation/admin-guide/kernel-parameters.txt, the kernel code cited, and what distributions learned
//! from crash kernels that did not come up.

use super::Facts;

/// Which machines a row is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arch {
    /// All.
    Any,
    /// x86-64.
    X86,
}

impl Arch {
    /// Whether the row applies to `machine`, as in `std::env::consts::ARCH`.
    pub fn is(self, machine: &str) -> bool {
        match self {
            Self::Any => true,
            Self::X86 => machine == "x86_64",
        }
    }
}

/// When a row applies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum When {
    /// Always.
    Always,
    /// The machine is no virtual machine.
    BareMetal,
    /// All crash memory lies below 4 GiB, and memory is not encrypted: every device can reach all of it.
    LowMemory,
    /// Some crash memory lies above 4 GiB, or its place is not known; memory is not encrypted.
    HighMemory,
    /// No target is reached by IPv6.
    NoIpv6,
    /// Memory is encrypted (SME, SEV, TDX): devices reach only what is copied to shared memory.
    Encrypted,
}

impl When {
    /// Whether the condition holds.
    pub fn holds(self, facts: &Facts) -> bool {
        /// Where 32-bit DMA ends.
        const DMA32: u64 = 1 << 32;
        let low = !facts.reservation.is_empty() && facts.reservation.iter().all(|r| r.end <= DMA32);
        match self {
            Self::Always => true,
            Self::NoIpv6 => !facts.ipv6,
            Self::BareMetal => !facts.virtual_machine,
            Self::LowMemory => low && !facts.encrypted,
            Self::HighMemory => !low && !facts.encrypted,
            Self::Encrypted => facts.encrypted,
        }
    }

    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::NoIpv6 => "nothing is reached by IPv6",
            Self::BareMetal => "not a virtual machine",
            Self::LowMemory => "all crash memory below 4 GiB, not encrypted",
            Self::HighMemory => "crash memory above 4 GiB or unknown, not encrypted",
            Self::Encrypted => "memory encryption active",
        }
    }
}

/// An argument that the crash kernel gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Addition {
    /// `name` or `name=value`.
    pub argument: &'static str,
    /// For which machines.
    pub arch: Arch,
    /// On what condition.
    pub when: When,
    /// Why.
    pub why: &'static str,
}

/// Arguments of the running kernel that are left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Removal {
    /// Names; a `*` at the end stands for any rest.
    pub names: &'static [&'static str],
    /// Why.
    pub why: &'static str,
}

const fn add(argument: &'static str, arch: Arch, when: When, why: &'static str) -> Addition {
    Addition { argument, arch, when, why }
}

/// What is added, in this order.
pub const ADDITIONS: &[Addition] = &[
    add(
        "nr_cpus=1",
        Arch::Any,
        When::Always,
        "per-CPU memory; one CPU is enough. maxcpus= would leave the others to be brought up later",
    ),
    add(
        "reset_devices",
        Arch::Any,
        When::Always,
        "drivers must reset hardware that the dead kernel left running",
    ),
    add(
        "irqpoll",
        Arch::Any,
        When::BareMetal,
        "interrupts of the dead kernel arrive on lines that nobody handles yet; virtual machines do not share lines, and it slows each interrupt",
    ),
    add("cgroup_disable=memory", Arch::Any, When::Always, "memory for accounting that nobody reads"),
    add(
        "numa=off",
        Arch::X86,
        When::Always,
        "each node costs memory; SRAT would also make the kernel believe in RAM above 4 GiB",
    ),
    add(
        "mce=off",
        Arch::X86,
        When::Always,
        "a machine check left over from the crash would panic this kernel",
    ),
    add(
        "panic=5",
        Arch::Any,
        When::Always,
        "a panic of the crash kernel must end in a reboot, not in a hang",
    ),
    add(
        "acpi_no_memhotplug",
        Arch::X86,
        When::Always,
        "ACPI would hot-add all of the machine's memory and need a mem_map for it",
    ),
    add(
        "transparent_hugepage=never",
        Arch::Any,
        When::Always,
        "huge pages would be taken from very little memory",
    ),
    add("nokaslr", Arch::X86, When::Always, "a random place may not fit into a small reservation"),
    add(
        "novmcoredd",
        Arch::Any,
        When::Always,
        "drivers would append their device's memory to the vmcore, in our memory",
    ),
    add("hest_disable", Arch::X86, When::Always, "firmware error sources take tens of MB on some servers"),
    add(
        "pcie_ports=compat",
        Arch::X86,
        When::Always,
        "port services use up the interrupt vectors of the only CPU",
    ),
    add("kfence.sample_interval=0", Arch::Any, When::Always, "KFENCE's pool: 2 MB (32 MB with 64 KiB pages)"),
    add("cma=0", Arch::Any, When::Always, "no contiguous area out of a small reservation"),
    add("hugetlb_cma=0", Arch::Any, When::Always, "the same, for huge pages"),
    add(
        "swiotlb=noforce",
        Arch::X86,
        When::LowMemory,
        "64 MB of bounce buffers that no device needs: all our memory is within its reach",
    ),
    add(
        "swiotlb=4096",
        Arch::X86,
        When::HighMemory,
        "8 MB of bounce buffers instead of 64: 32-bit devices cannot reach all of our memory",
    ),
    add(
        "swiotlb=8192",
        Arch::X86,
        When::Encrypted,
        "16 MB of bounce buffers instead of 64 and more: all DMA passes through them",
    ),
    add(
        "rootfstype=ramfs",
        Arch::Any,
        When::Always,
        "a tmpfs root refuses an image larger than half of memory; ramfs, used where no root= is given, has no limit (before v6.18 there is no initramfs_options=size=)",
    ),
    add(
        "initcall_blacklist=tracer_init_tracefs",
        Arch::Any,
        When::Always,
        "before v6.6 tracefs makes dentries and inodes for every trace event at boot: 8.6 MB of 76 on Debian's 6.1",
    ),
    add("init_on_alloc=0", Arch::Any, When::Always, "zeroing each page twice costs time"),
    add("ipv6.disable=1", Arch::Any, When::NoIpv6, "a protocol that no target is reached by"),
    add("audit=0", Arch::Any, When::Always, "nobody reads the records"),
    add(
        "cryptomgr.notests",
        Arch::Any,
        When::Always,
        "self-tests of ciphers take time and are not what decides about a dump",
    ),
    add(
        "loglevel=5",
        Arch::Any,
        When::Always,
        "at 115200 baud the boot messages of a kernel take seconds; the collector writes to the console itself",
    ),
];

const fn del(names: &'static [&'static str], why: &'static str) -> Removal {
    Removal { names, why }
}

/// What is left out of the running kernel's command line.
pub const REMOVALS: &[Removal] = &[
    del(
        &["crashkernel", "elfcorehdr", "disable_cpu_apicid"],
        "the crash kernel reserves nothing; the loader passes the rest anew",
    ),
    del(&["BOOT_IMAGE", "initrd"], "notes of the boot loader about another kernel"),
    del(
        &[
            "root",
            "rootfstype",
            "rootflags",
            "rootdelay",
            "rootwait",
            "ro",
            "rw",
            "resume",
            "resume_offset",
            "nfsroot",
            "netroot",
            "ip",
            "boot",
            "ostree",
        ],
        "there is no root file system to switch to; root= would also make rootfs a ramfs by accident",
    ),
    del(&["init", "rdinit", "single", "emergency", "rescue", "recovery"], "the collector is /init"),
    del(
        &[
            "systemd.*",
            "rd.*",
            "udev.*",
            "luks.*",
            "plymouth.*",
            "fsck.*",
            "net.ifnames",
            "biosdevname",
            "fcoe",
            "ignition.*",
            "ds",
            "cloud-init",
            "vconsole.*",
            "locale.*",
            "quickreboot",
        ],
        "for programs that are not in the image",
    ),
    del(
        &["splash", "rhgb", "quiet", "debug", "loglevel", "ignore_loglevel", "initcall_debug", "printk.*"],
        "what the console shows is decided here",
    ),
    del(
        &["hugepages", "hugepagesz", "default_hugepagesz", "hugetlb_free_vmemmap", "transparent_hugepage"],
        "memory set aside for programs of the dead system",
    ),
    del(
        &["cma", "hugetlb_cma", "numa_cma", "reserve_mem", "movablecore", "kernelcore", "movable_node"],
        "areas reserved out of very little memory",
    ),
    del(
        &["mem", "memmap", "memmap_*", "memhp_*", "memory_hotplug.*"],
        "the memory of the crash kernel is given by the loader",
    ),
    del(&["swiotlb"], "sized below for the crash kernel"),
    del(
        &["log_buf_len"],
        "the buffer can only be made larger than the built-in one, and 33 MB have been seen",
    ),
    del(
        &[
            "nr_cpus",
            "maxcpus",
            "possible_cpus",
            "additional_cpus",
            "isolcpus",
            "nohz",
            "nohz_full",
            "rcu_nocbs",
            "rcu_nocb_poll",
            "irqaffinity",
            "kthread_cpus",
        ],
        "there is one CPU: isolating it, or the CPUs it lacks, stops work",
    ),
    del(&["numa", "numa_balancing", "numa_zonelist_order"], "numa=off"),
    del(
        &[
            "slub_debug",
            "slab_debug",
            "slub_*",
            "slab_nomerge",
            "page_owner",
            "page_poison",
            "debug_pagealloc",
            "kmemleak",
            "kasan*",
            "init_on_alloc",
            "init_on_free",
            "page_alloc.shuffle",
            "memtest",
        ],
        "debugging aids that cost memory or time",
    ),
    del(
        &[
            "ftrace*",
            "trace_*",
            "traceoff_*",
            "tp_printk",
            "kprobe_event",
            "dyndbg",
            "kgdboc",
            "kgdbwait",
            "kdb",
        ],
        "debugging aids that cost memory, or wait for a person",
    ),
    del(
        &[
            "panic",
            "panic_print",
            "panic_on_warn",
            "oops",
            "softlockup_panic",
            "hardlockup_panic",
            "hung_task_panic",
            "unknown_nmi_panic",
            "nmi_watchdog",
            "watchdog_thresh",
        ],
        "a warning, a slow disk or a stray NMI must not end the dump",
    ),
    del(
        &["sysctl.*"],
        "settings of the dead system; kernel.panic_on_warn=1 would end the dump at the first warning",
    ),
    del(
        &["audit", "audit_backlog_limit", "ima_*", "evm", "psi"],
        "nobody reads what they record; hashing each file takes time",
    ),
];

/// Why an argument in neither table is kept.
pub const KEPT: &str = "of the running kernel: it may be what makes this machine work";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_reasons_and_no_contradictions() {
        for row in ADDITIONS {
            assert!(!row.why.is_empty() && !row.argument.contains(' '), "{row:?}");
        }
        for row in REMOVALS {
            assert!(!row.why.is_empty(), "{row:?}");
            for name in row.names {
                assert!(!name.contains('=') && !name.trim_end_matches('*').contains('*'), "{name}");
                let rows = REMOVALS.iter().filter(|r| r.names.contains(name)).count();
                assert_eq!(rows, 1, "{name} is in two rows");
            }
        }
        // Of rows with the same name at most one holds, whatever the machine.
        for virtual_machine in [false, true] {
            for encrypted in [false, true] {
                let low = || vec![0..1 << 30, 2 << 30..3 << 30];
                for reservation in [vec![], low(), vec![0..1 << 30, 1 << 32..1 << 33]] {
                    let facts = Facts { virtual_machine, encrypted, reservation, ..Facts::default() };
                    let mut names: Vec<&str> = ADDITIONS
                        .iter()
                        .filter(|r| r.when.holds(&facts))
                        .map(|r| r.argument.split('=').next().unwrap())
                        .collect();
                    let all = names.len();
                    names.sort_unstable();
                    names.dedup();
                    assert_eq!(names.len(), all);
                }
            }
        }
    }
}

//! The scenarios of `cargo xtask vm`: each crashes a guest, or arms one, and looks at what came of it.

pub mod arming;
pub mod capture;
pub mod crash;
pub mod differential;
pub mod fault;
pub mod foreign;
pub mod hooks;
pub mod kdump_conf;
pub mod mutation;
pub mod network;
pub mod network_faults;
pub mod nfs;
pub mod qemu_dumps;
pub mod raw;
pub mod reader;
pub mod redact;
pub mod runner;
pub mod service;
pub mod share;
pub mod ssh;
pub mod stacks;
pub mod storage;
pub mod triage;

use crate::lab::foreign::{ARM64, ARM64_16K, ARM64_LPA2, PPC64EL, S390X};
use crate::lab::guest::Paging;
use crate::lab::kernel::Series;
use anyhow::Result;
use runner::Bench;

/// A named test that runs guests.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// What to call it: `cargo xtask vm NAME`.
    pub name: &'static str,
    /// Runs it.
    pub run: fn(&Bench<'_>) -> Result<()>,
}

/// All of them, the longest first so that two at a time end together.
pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "service", run: service::life },
    Scenario { name: "network-faults", run: network_faults::ladder },
    Scenario { name: "capture-6.12-5-level", run: |b| capture::capture(b, Series::V6_12, Paging::Five) },
    Scenario { name: "capture-6.1-5-level", run: |b| capture::capture(b, Series::V6_1, Paging::Five) },
    Scenario { name: "capture-6.12-4-level", run: |b| capture::capture(b, Series::V6_12, Paging::Four) },
    Scenario { name: "capture-6.1-4-level", run: |b| capture::capture(b, Series::V6_1, Paging::Four) },
    Scenario { name: "foreign-arm64", run: |b| foreign::filter(b, &ARM64) },
    Scenario { name: "foreign-arm64-16k", run: |b| foreign::filter(b, &ARM64_16K) },
    Scenario { name: "foreign-arm64-lpa2", run: |b| foreign::filter(b, &ARM64_LPA2) },
    Scenario { name: "foreign-ppc64el", run: |b| foreign::filter(b, &PPC64EL) },
    Scenario { name: "foreign-s390x", run: |b| foreign::filter(b, &S390X) },
    Scenario { name: "qemu-dumps", run: qemu_dumps::formats },
    Scenario { name: "target-xfs", run: capture::xfs },
    Scenario { name: "target-partuuid", run: capture::partuuid },
    Scenario { name: "target-label", run: capture::label },
    Scenario { name: "kdump-conf", run: kdump_conf::label },
    Scenario { name: "engine-panics", run: fault::engine_panics },
    Scenario { name: "engine-killed", run: fault::engine_killed },
    Scenario { name: "engine-hangs", run: fault::engine_hangs },
    Scenario { name: "engine-out-of-memory", run: fault::engine_out_of_memory },
    Scenario { name: "target-absent", run: fault::target_absent },
    Scenario { name: "target-full", run: fault::target_full },
    Scenario { name: "network-bond-vlan-bridge", run: network::bond_vlan_bridge },
    Scenario { name: "nfs-v4", run: nfs::v4 },
    Scenario { name: "nfs-v3", run: nfs::v3 },
    Scenario { name: "network-dead", run: network_faults::all_dead },
    Scenario { name: "target-small", run: fault::target_small },
    Scenario { name: "ladder", run: fault::ladder },
    Scenario { name: "raw", run: raw::two_partitions },
    Scenario { name: "ssh", run: ssh::sftp },
    Scenario { name: "ssh-no-sftp", run: ssh::no_sftp },
    Scenario { name: "share-virtiofs", run: share::virtiofs },
    Scenario { name: "share-9p", run: share::plan9 },
    Scenario { name: "hooks", run: hooks::hooks },
    Scenario { name: "watchdog", run: hooks::watchdog },
    Scenario { name: "hook-refuses", run: hooks::refused },
    Scenario { name: "failure-shell", run: hooks::shell },
    Scenario { name: "failure-rootfs", run: hooks::rootfs },
    Scenario { name: "storage-lvm", run: storage::lvm },
    Scenario { name: "storage-md", run: storage::md },
    Scenario { name: "storage-btrfs", run: storage::btrfs },
    Scenario { name: "storage-faults", run: storage::faults },
    Scenario { name: "triage-nmi-6.12", run: |b| triage::dies(b, Series::V6_12, &triage::NMI) },
    Scenario { name: "triage-null-6.12", run: |b| triage::dies(b, Series::V6_12, &triage::NULL) },
    Scenario {
        name: "triage-softlockup-6.12",
        run: |b| triage::dies(b, Series::V6_12, &triage::SOFT_LOCKUP),
    },
    Scenario { name: "triage-hung-6.12", run: |b| triage::dies(b, Series::V6_12, &triage::HUNG) },
    Scenario { name: "triage-oom-6.12", run: |b| triage::dies(b, Series::V6_12, &triage::OOM) },
    Scenario { name: "triage-sysrq-6.1", run: |b| triage::dies(b, Series::V6_1, &triage::SYSRQ) },
    Scenario { name: "triage-cpu1-6.1", run: |b| triage::dies(b, Series::V6_1, &triage::CPU1) },
    Scenario { name: "triage-mce-6.1", run: |b| triage::dies(b, Series::V6_1, &triage::MCE) },
    Scenario { name: "triage-stack-6.1", run: |b| triage::dies(b, Series::V6_1, &triage::STACK) },
    Scenario { name: "triage-interrupt-6.1", run: |b| triage::dies(b, Series::V6_1, &triage::INTERRUPT) },
    Scenario { name: "arm-disarm-status", run: arming::round_trip },
    Scenario { name: "arm-refusals", run: arming::refusals },
];

/// Those that run only when they are named: each death on the other kernel, and what waits for most of a minute.
pub const ON_REQUEST: &[Scenario] = &[
    Scenario { name: "storage-fat", run: storage::fat },
    Scenario { name: "report-hangs", run: fault::report_hangs },
    Scenario { name: "triage-sysrq-6.12", run: |b| triage::dies(b, Series::V6_12, &triage::SYSRQ) },
    Scenario { name: "triage-cpu1-6.12", run: |b| triage::dies(b, Series::V6_12, &triage::CPU1) },
    Scenario { name: "triage-mce-6.12", run: |b| triage::dies(b, Series::V6_12, &triage::MCE) },
    Scenario { name: "triage-stack-6.12", run: |b| triage::dies(b, Series::V6_12, &triage::STACK) },
    Scenario { name: "triage-interrupt-6.12", run: |b| triage::dies(b, Series::V6_12, &triage::INTERRUPT) },
    Scenario { name: "triage-nmi-6.1", run: |b| triage::dies(b, Series::V6_1, &triage::NMI) },
    Scenario { name: "triage-null-6.1", run: |b| triage::dies(b, Series::V6_1, &triage::NULL) },
    Scenario { name: "triage-softlockup-6.1", run: |b| triage::dies(b, Series::V6_1, &triage::SOFT_LOCKUP) },
    Scenario { name: "triage-hung-6.1", run: |b| triage::dies(b, Series::V6_1, &triage::HUNG) },
    Scenario { name: "triage-oom-6.1", run: |b| triage::dies(b, Series::V6_1, &triage::OOM) },
];

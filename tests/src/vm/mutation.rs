//! Ways to make an armed machine unready, each with what `vmcorectl check` has to say of it, and nothing else.

use crate::lab::console::Console;
use anyhow::{Context, Result, ensure};

/// One of them.
#[derive(Clone, Copy, Debug)]
pub struct Mutation {
    name: &'static str,
    /// Shell commands.
    change: &'static str,
    /// Take it back.
    back: &'static str,
    /// State and name of each complaint.
    finds: &'static [&'static str],
}

const fn mutation(
    name: &'static str,
    change: &'static str,
    back: &'static str,
    finds: &'static [&'static str],
) -> Mutation {
    Mutation { name, change, back, finds }
}

const TOML: &str = "rm -f /etc/vmcored.toml";

/// One at a time, the daemon stopped; /dev/vdb is free to be anything, /dev/vdc an ext4. Where the plan is to be another, the
/// change arms.
pub const PASSING: &[Mutation] = &[
    mutation("nothing", "true", "true", &[]),
    mutation("bad-key", "echo 'hots = 1' > /etc/vmcored.toml", TOML, &["FAILED settings"]),
    mutation(
        "wrong-uuid",
        "target 'device = \"UUID=00000000-dead-4bad-8000-000000000000\"' 'path = \"/\"'",
        TOML,
        &["FAILED target"],
    ),
    mutation("no-directory", "target 'path = \"/nowhere\"'", TOML, &["FAILED target"]),
    mutation("no-disk", "target 'path = \"/run\"'", TOML, &["FAILED target"]),
    mutation("a-file", "target 'path = \"/etc/hostname\"'", TOML, &["FAILED target"]),
    mutation(
        "swap",
        "mkswap -q /dev/vdb > /dev/null; swapon /dev/vdb; target 'device = \"/dev/vdb\"' 'path = \"/\"'",
        "swapoff /dev/vdb; rm -f /etc/vmcored.toml",
        &["FAILED target"],
    ),
    mutation(
        "read-only-mount",
        "mount -o ro /dev/vdc /mnt; target 'path = \"/mnt\"'; arm",
        "umount /mnt; rm -f /etc/vmcored.toml; arm",
        &["FAILED target"],
    ),
    mutation(
        "read-only-disk",
        "blockdev --setro /dev/vdc; target 'device = \"/dev/vdc\"' 'path = \"/\"'; arm",
        "blockdev --setrw /dev/vdc; rm -f /etc/vmcored.toml; arm",
        &["FAILED target"],
    ),
    mutation(
        "immutable",
        "mount /dev/vdc /mnt; mkdir -p /mnt/d; chattr +i /mnt/d; target 'path = \"/mnt/d\"'; arm",
        "chattr -i /mnt/d; umount /mnt; rm -f /etc/vmcored.toml; arm",
        &["FAILED target-write"],
    ),
    mutation(
        "full",
        "mount /dev/vdc /mnt; target 'path = \"/mnt\"'; arm; \
         fallocate -l $(df --output=avail -B1 /mnt | tail -1) /mnt/fill",
        "rm /mnt/fill*; umount /mnt; rm -f /etc/vmcored.toml; arm",
        &["FAILED target-space"],
    ),
    mutation(
        "no-module",
        "mv /lib/modules/*/kernel/drivers/block/virtio_blk.ko* /hidden/",
        "mv /hidden/virtio_blk.ko* /lib/modules/*/kernel/drivers/block/",
        &["FAILED modules"],
    ),
    mutation(
        "no-collector",
        "mv /usr/lib/vmcored/vmcore-collect /hidden/",
        "mv /hidden/vmcore-collect /usr/lib/vmcored/",
        &["FAILED collector"],
    ),
    mutation(
        "no-kernel",
        "mv /boot/vmlinuz-* /hidden/",
        "mv /hidden/vmlinuz-* /boot/",
        &["FAILED crash-kernel"],
    ),
    mutation(
        "no-hook",
        "printf '[hooks]\\npre = [\"/nowhere\"]\\n' > /etc/vmcored.toml",
        TOML,
        &["FAILED hooks"],
    ),
    mutation("no-server", "target 'nfs = \"server.invalid:/x\"'", TOML, &["FAILED network"]),
    mutation("changed", "echo 'host = \"another\"' > /etc/vmcored.toml", TOML, &["DEGRADED image-current"]),
    mutation(
        "damaged-image",
        "cp -p /var/lib/vmcored/image-*.img /hidden/; printf x >> $(ls /var/lib/vmcored/image-*.img)",
        "mv /hidden/image-*.img /var/lib/vmcored/",
        &["DEGRADED image-intact"],
    ),
    mutation(
        "no-image",
        "mv /var/lib/vmcored/image-*.img /hidden/",
        "mv /hidden/image-*.img /var/lib/vmcored/",
        &["DEGRADED image-intact"],
    ),
    mutation("disarmed", "vmcorectl disarm > /dev/null", "arm", &["FAILED image-loaded"]),
    mutation(
        "no-panic",
        "echo 'triggers = \"server\"' > /etc/vmcored.toml; vmcorectl triggers apply server > /dev/null; \
         sysctl -q kernel.panic_on_oops=0",
        "rm /etc/vmcored.toml /etc/sysctl.d/60-vmcored.conf; vmcorectl triggers apply off > /dev/null",
        &["DEGRADED triggers"],
    ),
    mutation(
        "not-enabled",
        "systemctl -q disable vmcored",
        "systemctl -q enable vmcored",
        &["DEGRADED next-boot"],
    ),
    mutation(
        "other-tool",
        "ln -s /dev/null /etc/systemd/system/multi-user.target.wants/kdump-tools.service",
        "rm /etc/systemd/system/multi-user.target.wants/kdump-tools.service",
        &["DEGRADED other-tools"],
    ),
    mutation(
        "wrong-clock",
        "now=$(date +%s); date -s @946684800 > /dev/null",
        "date -s @$now > /dev/null",
        &["DEGRADED clock"],
    ),
];

/// What cannot be taken back before a restart.
pub const LASTING: &[Mutation] = &[
    mutation(
        "lowered-reservation",
        "vmcorectl disarm > /dev/null; echo 88080384 > /sys/kernel/kexec_crash_size; arm",
        "true",
        &["DEGRADED reservation"],
    ),
    mutation(
        "kexec-disabled",
        "sysctl -q kernel.kexec_load_disabled=1",
        "true",
        &["DEGRADED kexec-allowed", "DEGRADED reservation"],
    ),
];

/// Shell commands that do each, look, and take it back.
pub fn script(all: &[Mutation]) -> String {
    let one = |m: &Mutation| {
        format!("{}\nsection mutation-{} vmcorectl check --quiet\n{}\n", m.change, m.name, m.back)
    };
    all.iter().map(one).collect()
}

/// Checks that each was found by exactly its name.
pub fn found(console: &Console, all: &[Mutation]) -> Result<()> {
    for mutation in all {
        let name = format!("mutation-{}", mutation.name);
        let missing = || format!("no section {name}:\n{}", console.tail(40));
        let (text, status) = console.section(&name).with_context(missing)?;
        let complaint = |line: &str| {
            let mut words = line.split_whitespace();
            let state = words.next().filter(|state| ["FAILED", "DEGRADED"].contains(state))?;
            Some(format!("{state} {}", words.next()?))
        };
        let complaints: Vec<String> = text.lines().filter_map(complaint).collect();
        ensure!(
            complaints == mutation.finds,
            "{name}: {complaints:?} instead of {:?}:\n{text}",
            mutation.finds
        );
        let failed = mutation.finds.iter().any(|find| find.starts_with("FAILED"));
        let want = if failed { 2 } else { i32::from(!mutation.finds.is_empty()) };
        ensure!(status == want, "{name} exited with {status} instead of {want}:\n{text}");
    }
    Ok(())
}

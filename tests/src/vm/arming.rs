//! `vmcorectl` on a live machine: what it does, and how it says no.

use super::runner::Bench;
use crate::lab::console::Console;
use crate::lab::disk::{Contents, Disk};
use crate::lab::guest::{Guest, Paging};
use crate::lab::kernel::Series;
use anyhow::{Context, Result, ensure};
use std::time::Duration;

fn boot(bench: &Bench<'_>, name: &str, cmdline: &str, script: &str) -> Result<Console> {
    let dir = bench.scratch(name)?;
    let disk = Disk::create(&dir.join("disk.img"), 128, Contents::Ext4)?;
    let guest = Guest {
        kernel: bench.kernel(Series::V6_1)?,
        paging: Paging::Four,
        memory: 512,
        cmdline: cmdline.to_owned(),
        disks: vec![disk],
        script: format!("mount /dev/vda /var/crash; mkdir -p /etc\n{script}"),
        devices: Vec::new(),
        files: Vec::new(),
        limit: Duration::from_secs(180),
    };
    let run = bench.lab.run(&guest, &dir.join("console.log"))?;
    ensure!(run.ended, "the guest hangs:\n{}", run.console.tail(30));
    Ok(run.console)
}

/// Checks a section's exit status and that it says all of `wanted`, upper and lower case alike.
fn said(console: &Console, name: &str, status: i32, wanted: &[&str]) -> Result<()> {
    let (text, seen) =
        console.section(name).with_context(|| format!("no section {name}:\n{}", console.tail(30)))?;
    ensure!(seen == status, "{name} exited with {seen} instead of {status}:\n{text}");
    let lower = text.to_lowercase();
    for word in wanted {
        ensure!(lower.contains(&word.to_lowercase()), "{name} does not say {word:?}:\n{text}");
    }
    Ok(())
}

/// status, arm, status, explain, disarm, status; an image that `image ls` and `image cat` can show.
pub fn round_trip(bench: &Bench<'_>) -> Result<()> {
    let console = boot(
        bench,
        "arm-disarm-status",
        "crashkernel=128M",
        "
echo '[[target]]' > /etc/vmcored.toml; echo 'path = \"/var/crash\"' >> /etc/vmcored.toml
section status-before vmcorectl status
section arm vmcorectl arm
section loaded cat /sys/kernel/kexec_crash_loaded
section status-armed vmcorectl status
section again vmcorectl arm
section explain vmcorectl arm --explain
section list vmcorectl image ls
section plan vmcorectl image cat plan.json
echo 'host = \"another\"' > /tmp/new; cat /etc/vmcored.toml >> /tmp/new; cp /tmp/new /etc/vmcored.toml
section status-changed vmcorectl status
section disarm vmcorectl disarm
section unloaded cat /sys/kernel/kexec_crash_loaded
section status-after vmcorectl status",
    )?;
    said(&console, "status-before", 2, &["not ready", "vmcorectl arm"])?;
    said(&console, "arm", 0, &[])?;
    said(&console, "loaded", 0, &["1"])?;
    said(&console, "status-armed", 0, &[])?;
    said(&console, "again", 0, &[])?;
    said(&console, "explain", 0, &["nr_cpus=1", "reset_devices", "virtio_blk", crate::lab::disk::UUID])?;
    said(&console, "list", 0, &["plan.json", "virtio_blk", "ext4"])?;
    said(&console, "plan", 0, &["virtio_blk", "\"host\"", crate::lab::disk::UUID])?;
    said(&console, "status-changed", 1, &["degraded", "out of date"])?;
    said(&console, "disarm", 0, &[])?;
    said(&console, "unloaded", 0, &["0"])?;
    said(&console, "status-after", 2, &["not ready", "vmcorectl arm"])
}

/// Checks that a section failed and says all of `wanted`.
fn refused(console: &Console, name: &str, wanted: &[&str]) -> Result<()> {
    said(console, name, 2, wanted)
}

/// Each reason not to arm, in words.
pub fn refusals(bench: &Bench<'_>) -> Result<()> {
    let console = boot(
        bench,
        "arm-refusals",
        "crashkernel=128M",
        "
target() { { echo '[[target]]'; for line in \"$@\"; do echo \"$line\"; done; } > /etc/vmcored.toml; }
target 'path = \"/var/crash\"' 'nonsense = 1'
section bad-key vmcorectl arm
target 'device = \"UUID=00000000-dead-4bad-8000-000000000000\"' 'path = \"/\"'
section no-device vmcorectl arm
target 'path = \"/var/crash\"'
mkdir /hidden; for m in /lib/modules/*/kernel/drivers/block/virtio_blk.ko*; do mv $m /hidden/; done
section no-module vmcorectl arm
for m in /hidden/*; do mv $m /lib/modules/*/kernel/drivers/block/; done
umount /var/crash; mkswap /dev/vda > /dev/null; swapon /dev/vda
target 'device = \"/dev/vda\"' 'path = \"/\"'
section swap vmcorectl arm
target 'path = \"/var/crash\"'
section not-a-disk vmcorectl arm
echo 'nobody:x:65534:65534::/:/bin/sh' > /etc/passwd
section not-root su nobody -s /bin/sh -c 'vmcorectl arm'
echo 1 > /proc/sys/kernel/kexec_load_disabled
section disabled vmcorectl arm
section help vmcorectl --help",
    )?;
    refused(&console, "bad-key", &["vmcored.toml:3", "nonsense"])?;
    refused(&console, "no-device", &["00000000-dead-4bad-8000-000000000000"])?;
    refused(&console, "no-module", &["virtio_blk"])?;
    refused(&console, "swap", &["swap"])?;
    refused(&console, "not-a-disk", &["/var/crash"])?;
    refused(&console, "not-root", &["root"])?;
    refused(&console, "disabled", &["kexec_load_disabled"])?;
    said(&console, "help", 0, &["arm", "disarm", "status", "image"])?;

    let bare = boot(
        bench,
        "arm-refusals-no-reservation",
        "",
        "
section no-reservation vmcorectl arm
section status vmcorectl status",
    )?;
    refused(&bare, "no-reservation", &["crashkernel="])?;
    refused(&bare, "status", &["not ready", "crashkernel="])?;

    let locked = boot(
        bench,
        "arm-refusals-locked-down",
        "crashkernel=128M lockdown=integrity",
        "section lockdown vmcorectl arm",
    )?;
    refused(&locked, "lockdown", &["lockdown"])
}

//! Targets that the kernel does not find by itself: LVM, md, btrfs; and those that fail. A second guest, with the tools of the
//! distribution, reads what was written: what the collector has put together has to be left as they know it.

use super::crash::{Crash, Crashed, Dump};
use super::reader::Reader;
use super::runner::Bench;
use crate::kdump_reader::KdumpFile;
use crate::lab::command::{find, output};
use crate::lab::disk::{Contents, Disk};
use crate::lab::kernel::Series;
use anyhow::{Context, Result, anyhow, ensure};
use collector::manifest::{Manifest, Outcome};
use collector::problem::Code;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Tools of the distribution with the libraries they need, for a guest.
pub(super) fn tools(names: &[&str]) -> Result<Vec<(PathBuf, String)>> {
    let mut files = Vec::new();
    for name in names {
        let program =
            find(name).with_context(|| format!("{name} is not installed: run `cargo xtask setup`"))?;
        for word in output(Command::new("ldd").arg(&program))?.split_whitespace() {
            if word.starts_with('/') {
                files.push((PathBuf::from(word), word.to_owned()));
            }
        }
        files.push((program, format!("/usr/bin/{name}")));
    }
    Ok(files)
}

/// Disks besides the first: `vdb` and on, of these sizes in MiB and with these options.
fn disks(dir: &Path, wanted: &[(u64, &str)]) -> Result<(Vec<Disk>, Vec<String>)> {
    let (mut disks, mut devices) = (Vec::new(), Vec::new());
    for (number, (mib, options)) in wanted.iter().enumerate() {
        let disk = Disk::create(&dir.join(format!("{number}.img")), *mib, Contents::Blank)?;
        let drive = format!("if=none,id=d{number},file={},format=raw,cache=unsafe", disk.path.display());
        // Behind the slots that QEMU gives by itself, so that the first disk stays vda.
        let device = format!("virtio-blk-pci,drive=d{number},addr={:#x}{options}", 0x10 + number);
        devices.extend(["-drive".to_owned(), drive, "-device".to_owned(), device]);
        disks.push(disk);
    }
    Ok((disks, devices))
}

/// Shell for all guests here: waits for a disk, and runs lvm where there is no udev.
const SHELL: &str = "
await() { n=0; while [ ! -b $1 ] && [ $n -lt 100 ]; do usleep 100000; n=$((n+1)); done; }
lv() { LVM_SUPPRESS_FD_WARNINGS=1 lvm \"$@\" --config 'devices{use_devicesfile=0} activation{udev_sync=0 udev_rules=0 monitoring=0}'; }
quietly() { \"$@\" > /tmp/said 2>&1 || { echo \"LAB-FAILED $*\"; cat /tmp/said; }; }
mkdir -p /run/lock/lvm /etc/lvm /d
";

/// Has a second guest mount, by `script`, the file system with the dump at /mnt, and copies it out.
fn read_back(
    bench: &Bench<'_>,
    crashed: &Crashed,
    disks: &[Disk],
    script: &str,
    files: &[(PathBuf, String)],
) -> Result<(PathBuf, String)> {
    let script = format!("{SHELL}\n{script}");
    let reader = Reader { series: Series::V6_1, disks, script: &script, files, devices: &[] };
    reader.read(bench, &crashed.dir)
}

/// The dump is whole, and nobody but root reads it.
fn whole(bench: &Bench<'_>, dump: &Dump) -> Result<()> {
    dump.expect(Outcome::Complete, &["manifest.json", "vmcore", "vmcore-dmesg.txt"])?;
    let vmcore = dump.dir.join("vmcore");
    let file = KdumpFile::open(&vmcore).map_err(|e| anyhow!(e))?;
    let wrong = file.check();
    ensure!(wrong.is_empty(), "{wrong:#?}");
    output(Command::new(&bench.programs.control).arg("verify").arg(&vmcore))?;
    let log = std::fs::read_to_string(dump.dir.join("vmcore-dmesg.txt"))?;
    ensure!(log.contains("sysrq triggered crash"), "the log is not whole:\n{log}");
    Ok(())
}

fn has(manifest: &Manifest, code: Code) -> bool {
    manifest.problems.iter().any(|p| p.code == code)
}

/// One disk on two SCSI adapters.
fn two_ways(disk: &Disk) -> Vec<String> {
    let mut devices = vec![
        "-blockdev".to_owned(),
        format!("driver=raw,node-name=ways,file.driver=file,file.filename={}", disk.path.display()),
    ];
    for number in 0..2 {
        devices.extend([
            "-device".to_owned(),
            format!("virtio-scsi-pci,id=scsi{number}"),
            "-device".to_owned(),
        ]);
        devices.push(format!(
            "scsi-hd,bus=scsi{number}.0,drive=ways,share-rw=on,serial=ways,wwn=0x5000c500a1b2c3d4"
        ));
    }
    devices
}

/// A logical volume, first linear on one disk, then striped over both; and in the crash kernel the disks have each other's names.
/// The next rung, a disk by two ways, gets the log.
pub fn lvm(bench: &Bench<'_>) -> Result<()> {
    let dir = bench.scratch("storage-lvm-disks")?;
    let (mut disks, mut devices) = disks(&dir, &[(160, ""), (256, "")])?;
    let ways = Disk::create(&dir.join("ways.img"), 32, Contents::Blank)?;
    devices.extend(two_ways(&ways));
    disks.push(ways);
    let mut crash = Crash::new(bench, "storage-lvm", Series::V6_1)?;
    crash.disk = (16, Contents::Ext4);
    crash.devices = devices;
    crash.files = tools(&["lvm", "dmsetup", "mkfs.ext4"])?;
    crash.settings = "[[target]]\npath = \"/d\"\n[[target]]\npath = \"/w\"\n".to_owned();
    crash.before = format!(
        "{SHELL}
modprobe dm_mod; await /dev/vdb; await /dev/vdc
b=$(basename $(readlink -f /sys/block/vdb/device)); c=$(basename $(readlink -f /sys/block/vdc/device))
cd /sys/bus/virtio/drivers/virtio_blk; echo $b > unbind; echo $c > unbind; echo $c > bind; await /dev/vdb; echo $b > bind; cd /
await /dev/vdc
echo LAB-SIZE $(cat /sys/block/vdb/size)
quietly lv pvcreate -q /dev/vdb /dev/vdc
quietly lv vgcreate -q vg /dev/vdb /dev/vdc
quietly lv lvcreate -q -Wn -Zn -y -l 4 -n dumps vg /dev/vdc
quietly lv lvextend -q -i 2 -I 64k -l +60 vg/dumps
quietly mkfs.ext4 -q /dev/mapper/vg-dumps
mount -t ext4 /dev/mapper/vg-dumps /d
for m in virtio_scsi sd_mod dm_multipath dm_service_time; do modprobe $m; done; await /dev/sda; await /dev/sdb
dmsetup create --noudevsync ways --table '0 65536 multipath 0 0 2 1 service-time 0 1 1 8:0 1 service-time 0 1 1 8:16 1'
await /dev/dm-1; mkdir /w; quietly mkfs.ext4 -q /dev/dm-1; mount -t ext4 /dev/dm-1 /w
section explain vmcorectl arm --explain
section drawn vmcorectl target explain"
    );
    let crashed = crash.run(bench)?;
    let console = &crashed.run.console;
    ensure!(console.find("LAB-SIZE 524288").is_some(), "the disks were not swapped:\n{}", console.tail(30));
    let explained = console.section("explain").map(|(said, _)| said).unwrap_or_default();
    for wanted in [
        "vg-dumps (linear, striped), 16 MiB + 240 MiB in 2 stripes",
        "ways (2 ways to WWID=naa.5000c500a1b2c3d4)",
        "dm_mod",
        "dm_service_time",
    ] {
        ensure!(explained.contains(wanted), "no {wanted:?}:\n{explained}");
    }
    let drawn = console.section("drawn").map(|(said, _)| said).unwrap_or_default();
    ensure!(
        drawn.contains("on           vg-dumps (linear, striped), 16 MiB + 240 MiB in 2 stripes"),
        "{drawn}"
    );
    let script = "modprobe dm_mod; quietly lv vgchange -q -ay vg; mount -t ext4 /dev/mapper/vg-dumps /mnt
mkdir /w /mnt/ways; mount -t ext4 /dev/vdd /w; cp -a /w/lab-guest-* /mnt/ways";
    let (files, _) = read_back(bench, &crashed, &disks, script, &crash.files)?;
    let log = Dump::in_directory(&files.join("ways"))?;
    log.expect(Outcome::DmesgOnly, &["manifest.json", "vmcore-dmesg.txt"])?;
    let dump = Dump::in_directory(&files)?;
    whole(bench, &dump)?;
    ensure!(dump.manifest.problems.is_empty(), "{:#?}", dump.manifest.problems);
    let stack = bench.drgn()?.crashed_stack(&dump.dir.join("vmcore"), bench.vmlinux(Series::V6_1)?)?;
    ensure!(stack.contains("sysrq_handle_crash"), "drgn's stack:\n{stack}");
    Ok(())
}

/// A mirror that has lost one of its disks since it was recorded; afterwards it is clean. The next rung, a mirror with metadata
/// of the first kind, gets the log.
pub fn md(bench: &Bench<'_>) -> Result<()> {
    let dir = bench.scratch("storage-md-disks")?;
    let old = [",serial=old1", ",serial=old2"];
    let (disks, devices) = disks(&dir, &[(256, ""), (256, ""), (32, old[0]), (32, old[1])])?;
    let mut crash = Crash::new(bench, "storage-md", Series::V6_1)?;
    crash.disk = (16, Contents::Ext4);
    crash.devices = devices;
    crash.files = tools(&["mdadm", "mkfs.ext4"])?;
    crash.settings =
        "[[target]]\npath = \"/d\"\n[[target]]\ndevice = \"LABEL=old\"\npath = \"/\"\n".to_owned();
    let environment = "export MDADM_NO_UDEV=1; modprobe raid1; await /dev/vde";
    crash.before = format!(
        "{SHELL}
{environment}
quietly mdadm --create /dev/md0 --run --metadata=1.2 --level=1 --raid-devices=2 --assume-clean /dev/vdb /dev/vdc
quietly mdadm --create /dev/md1 --run --metadata=0.90 --level=1 --raid-devices=2 --assume-clean /dev/vdd /dev/vde
quietly mkfs.ext4 -q /dev/md0; quietly mkfs.ext4 -q -L old /dev/md1
mount -t ext4 /dev/md0 /d"
    );
    "quietly mdadm /dev/md0 --fail /dev/vdb --remove /dev/vdb; quietly mdadm --zero-superblock /dev/vdb
dd if=/dev/urandom of=/d/dirty bs=1M count=8 2>/dev/null"
        .clone_into(&mut crash.after);
    let crashed = crash.run(bench)?;
    let script = format!(
        "{environment}
quietly mdadm --assemble --run /dev/md0 /dev/vdc; quietly mdadm --assemble /dev/md1 /dev/vdd /dev/vde
echo LAB-STATE $(mdadm --detail /dev/md0 | grep 'State :')
echo LAB-OLD $(mdadm --detail /dev/md1 | grep -E 'Version|State :')
mount -t ext4 /dev/md0 /mnt; mkdir /mnt/old /old; mount -t ext4 /dev/md1 /old; cp -a /old/lab-guest-* /mnt/old"
    );
    let (files, said) = read_back(bench, &crashed, &disks, &script, &crash.files)?;
    ensure!(said.contains("LAB-STATE State : clean, degraded"), "the array was left dirty:\n{said}");
    ensure!(said.contains("LAB-OLD Version : 0.90 State : clean"), "the old array is not clean:\n{said}");
    let dump = Dump::in_directory(&files)?;
    whole(bench, &dump)?;
    ensure!(has(&dump.manifest, Code::ARRAY_DEGRADED), "{:#?}", dump.manifest.problems);
    let log = Dump::in_directory(&files.join("old"))?;
    log.expect(Outcome::DmesgOnly, &["manifest.json", "vmcore-dmesg.txt"])
}

/// A directory in a subvolume of a btrfs on two disks. The next rungs get the log: a btrfs that has lost one of its disks, and a
/// FAT.
pub fn btrfs(bench: &Bench<'_>) -> Result<()> {
    let dir = bench.scratch("storage-btrfs-disks")?;
    let (disks, devices) = disks(&dir, &[(160, ""), (160, ""), (64, ""), (128, ""), (128, "")])?;
    output(
        Command::new(find("mkfs.vfat").context("no mkfs.vfat")?).arg("-n").arg("FAT").arg(&disks[2].path),
    )?;
    let mut crash = Crash::new(bench, "storage-btrfs", Series::V6_1)?;
    crash.disk = (16, Contents::Ext4);
    crash.devices = devices;
    crash.files = tools(&["mkfs.btrfs", "btrfs"])?;
    crash.settings = "[[target]]\npath = \"/d/deep\"\n\
        [[target]]\ndevice = \"LABEL=twice\"\npath = \"/\"\n\
        [[target]]\ndevice = \"LABEL=FAT\"\npath = \"/Crash Dumps\"\n"
        .to_owned();
    crash.before = format!(
        "{SHELL}
modprobe btrfs; await /dev/vdf
quietly mkfs.btrfs -q -d raid0 -m raid1 /dev/vdb /dev/vdc
quietly mkfs.btrfs -q -L twice -d raid1 -m raid1 /dev/vde /dev/vdf
mount -t btrfs /dev/vdb /mnt; quietly btrfs subvolume create /mnt/@var; mkdir /mnt/@var/x; umount /mnt
mount -t btrfs -o subvol=@var /dev/vdb /mnt; mount -o bind /mnt/x /d; mkdir /d/deep"
    );
    "dd if=/dev/zero of=/dev/vde bs=1M count=128 conv=fsync 2>/dev/null".clone_into(&mut crash.after);
    let crashed = crash.run(bench)?;
    let script = "modprobe btrfs; modprobe vfat; modprobe nls_cp437; modprobe nls_ascii; await /dev/vdf
quietly btrfs device scan /dev/vdb /dev/vdc
mount -t btrfs -o subvol=@var /dev/vdb /d; mkdir -p /d/x/deep/fat /d/x/deep/once
mount -t vfat -o fmask=0177,dmask=0077 /dev/vdd /mnt; cp -a '/mnt/Crash Dumps' /d/x/deep/fat/; umount /mnt
mount -t btrfs -o degraded,ro /dev/vdf /mnt; cp -a /mnt/lab-guest-* /d/x/deep/once/; umount /mnt
mount -o bind /d/x/deep /mnt";
    let (files, _) = read_back(bench, &crashed, &disks, script, &crash.files)?;
    whole(bench, &Dump::in_directory(&files)?)?;
    for (log, lacks) in [("fat/Crash Dumps", false), ("once", true)] {
        let log = Dump::in_directory(&files.join(log))?;
        log.expect(Outcome::DmesgOnly, &["manifest.json", "vmcore-dmesg.txt"])?;
        ensure!(has(&log.manifest, Code::ARRAY_DEGRADED) == lacks, "{:#?}", log.manifest.problems);
    }
    Ok(())
}

/// A disk that fails under way, one that may not be written to, one that is gone, and at last one that is good, if only a FAT, on
/// NVMe.
pub fn faults(bench: &Bench<'_>) -> Result<()> {
    let dir = bench.scratch("storage-faults-disks")?;
    let (disks, mut devices) = disks(&dir, &[(200, ",serial=fails"), (32, ""), (32, ""), (256, "")])?;
    output(
        Command::new(find("mkfs.vfat").context("no mkfs.vfat")?).arg("-n").arg("FAT").arg(&disks[3].path),
    )?;
    for (disk, label) in [(&disks[1], "readonly"), (&disks[2], "gone")] {
        let mke2fs = find("mke2fs").context("no mke2fs")?;
        output(Command::new(mke2fs).args(["-q", "-F", "-t", "ext4", "-L", label]).arg(&disk.path))?;
    }
    if let Some(drive) = devices.iter_mut().find(|d| d.starts_with("if=none,id=d1,")) {
        drive.push_str(",readonly=on");
    }
    if let Some(device) = devices.iter_mut().find(|d| d.starts_with("virtio-blk-pci,drive=d3,")) {
        "nvme,drive=d3,serial=fat".clone_into(device);
    }
    let mut crash = Crash::new(bench, "storage-faults", Series::V6_1)?;
    crash.disk = (16, Contents::Ext4);
    crash.devices = devices;
    crash.files = tools(&["dmsetup", "mkfs.ext4"])?;
    crash.settings = "[[target]]\npath = \"/d\"\n\
        [[target]]\ndevice = \"LABEL=readonly\"\npath = \"/\"\n\
        [[target]]\ndevice = \"LABEL=gone\"\npath = \"/\"\nlimits = { reach = 6 }\n\
        [[target]]\ndevice = \"LABEL=FAT\"\npath = \"/\"\n\
        [[dump]]\nfile = \"vmcore\"\nlevel = 17\n"
        .to_owned();
    // All metadata lies in the first of its 16 MiB, there being one group of blocks; most of the data's blocks fail.
    crash.before = format!(
        "{SHELL}
modprobe dm_mod; modprobe nvme; await /dev/vdd; await /dev/nvme0n1
echo '0 245760 linear /dev/vdb 2048' | dmsetup create --noudevsync bad
await /dev/dm-0
quietly mkfs.ext4 -q -O ^has_journal /dev/dm-0
mount -t ext4 /dev/dm-0 /d
section suspended dmsetup suspend --noudevsync bad
printf '0 32768 linear /dev/vdb 2048\\n32768 212992 error\\n' | dmsetup load bad
section resumed dmsetup resume --noudevsync bad"
    );
    "dd if=/dev/zero of=/dev/vdd bs=1M count=4 conv=fsync 2>/dev/null".clone_into(&mut crash.after);
    let crashed = crash.run(bench)?;
    let script = "modprobe vfat; modprobe nls_cp437; modprobe nls_ascii; await /dev/vde; mount -t vfat -o fmask=0177,dmask=0077 /dev/vde /mnt";
    let (files, _) = read_back(bench, &crashed, &disks, script, &[])?;
    let dump = Dump::in_directory(&files)?;
    whole(bench, &dump)?;
    let told = &dump.manifest.targets;
    ensure!(told.len() == 4, "{told:#?}");
    ensure!(told[0].failure.is_some() && told[0].outcome != Outcome::Complete, "{told:#?}");
    for (record, words) in told.iter().zip(["", "readonly", "gone"]).skip(1) {
        ensure!(record.failure.is_some() && record.target.contains(words), "{told:#?}");
        ensure!(record.outcome == Outcome::Nothing, "{told:#?}");
    }
    ensure!(told[3].failure.is_none() && told[3].outcome == Outcome::Complete, "{told:#?}");
    let console = crashed.crash_console();
    ensure!(console.contains("nvme0n1"), "the last was not NVMe:\n{console}");
    ensure!(console.contains(&Code::TARGET_WRITE_FAILED.to_string()), "no write failed:\n{console}");
    Ok(())
}

/// More memory than a file of a FAT can hold: the dump that was asked for is known not to fit before any of it is written, and is
/// made of what matters most.
pub fn fat(bench: &Bench<'_>) -> Result<()> {
    let dir = bench.scratch("storage-fat-disks")?;
    let (disks, devices) = disks(&dir, &[(6 << 10, "")])?;
    let mut mkfs = Command::new(find("mkfs.vfat").context("no mkfs.vfat")?);
    output(mkfs.args(["-F", "32", "-n", "FAT"]).arg(&disks[0].path))?;
    let mut crash = Crash::new(bench, "storage-fat", Series::V6_1)?;
    crash.memory = 4800;
    crash.disk = (16, Contents::Ext4);
    crash.devices = devices;
    crash.settings = "[[target]]\ndevice = \"LABEL=FAT\"\npath = \"/crash\"\n\
        [[dump]]\nfile = \"vmcore\"\nlevel = 0\ncompression = \"none\"\n"
        .to_owned();
    crash.before = format!("{SHELL}\nawait /dev/vdb");
    let crashed = crash.run(bench)?;
    let script = "modprobe vfat; modprobe nls_cp437; modprobe nls_ascii; await /dev/vdb; mount -t vfat -o fmask=0177,dmask=0077 /dev/vdb /d
mkdir -p /mnt; mount -o bind /d/crash /mnt";
    let (files, _) = read_back(bench, &crashed, &disks, script, &[])?;
    let dump = Dump::in_directory(&files)?;
    whole(bench, &dump)?;
    let problems = &dump.manifest.problems;
    let raised = problems.iter().find(|p| p.code == Code::LEVEL_RAISED);
    ensure!(raised.is_some_and(|p| p.message.contains("do not fit into 4095 MiB")), "{problems:#?}");
    ensure!(dump.manifest.dumps.iter().all(|d| d.level_applied == 31), "{:#?}", dump.manifest.dumps);
    Ok(())
}

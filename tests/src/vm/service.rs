//! The life of an installed vmcored: a whole Debian 12 with systemd, our package installed in it by apt, crashed twice, and made unready in
//! each way that `vmcorectl check` has a name for.

use super::mutation::{self, LASTING, PASSING};
use super::runner::Bench;
use crate::lab::cache::Cache;
use crate::lab::console::Console;
use crate::lab::debian;
use crate::lab::disk::{Contents, Disk};
use crate::lab::guest::{GUEST_MODULES, Guest, Paging};
use crate::lab::kernel::Series;
use crate::lab::package;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What every boot has.
const TOOLS: &str = r#"#!/bin/sh
exec > /dev/ttyS0 2>&1
echo 1 > /proc/sys/kernel/printk
export DEBIAN_FRONTEND=noninteractive
apt() { apt-get -y -q -o Dpkg::Use-Pty=0 "$@"; }
section() {
  name=$1; shift
  echo "LAB-BEGIN $name"; "$@" 2>&1; echo "LAB-END $name $?"
}
target() { { echo '[[target]]'; for line in "$@"; do echo "$line"; done; } > /etc/vmcored.toml; }
arm() { vmcorectl arm > /dev/null 2>&1 || vmcorectl arm; }
settled() {
  n=0; while ! vmcorectl status > /dev/null 2>&1 && [ $n -lt 60 ]; do sleep 0.5; n=$((n+1)); done
  vmcorectl status
}
# What has just changed is in what is loaded, sooner or later.
caught_up() {
  n=0; sleep 3; while ! vmcorectl status > /dev/null 2>&1 && [ $n -lt 60 ]; do sleep 1; n=$((n+1)); done
  vmcorectl status --json
}
figures() {
  journalctl -b -q -o short-monotonic -u vmcored
  grep -E 'VmRSS|VmHWM' /proc/$(systemctl show -P MainPID vmcored)/status
  vmcorectl status --json
}
MESSAGE=MESSAGE_ID=a1d7c36b2f6f4d0d9f1c53b0a5e84c17
"#;

/// Installed, looked at, and crashed by `vmcorectl test`.
const FIRST: &str = r#"
section install apt install /lab/vmcored.deb
sleep 1
section settled settled
section active systemctl is-active vmcored
section check vmcorectl check
section estimate vmcorectl estimate
section list-none vmcorectl list
section prometheus vmcorectl check --no-write --prometheus -
section man sh -c 'gzip -dc /usr/share/man/man8/vmcorectl-check.8.gz | head -5'
sync; echo LAB-CRASH; sleep 0.5
vmcorectl test --crash --yes
"#;

/// The dump is accounted for; the daemon is killed, and hears of a thousand CPUs.
const SECOND: &str = r#"
systemctl start vmcored-harvest
section active systemctl is-active vmcored vmcored-harvest
section journal journalctl -q -b -o json $MESSAGE
section catalog journalctl -q -b -x -o short $MESSAGE
section list vmcorectl list
section info vmcorectl info
section path vmcorectl path
section verify vmcorectl verify 1
section again vmcorectl harvest
section check vmcorectl check
section figures figures
mount /dev/vdc /var/crash
section mounted caught_up
umount /var/crash
section unmounted caught_up
kill -9 $(systemctl show -P MainPID vmcored)
sleep 4
section killed systemctl is-active vmcored
section settled settled
before=$(vmcorectl status --json | sed -n 's/.*"loads": //p')
for n in $(seq 1000); do echo online > /sys/devices/system/cpu/cpu1/uevent; done
sleep 12
section hotplug sh -c "echo before $before; vmcorectl status --json"
systemctl stop vmcored; mkdir -p /hidden
"#;

/// The same machine with kdump's own file, which the daemon sees by itself.
const KDUMP_CONF: &str = r#"
rm -f /etc/vmcored.toml
section start systemctl start vmcored
printf 'path /var/crash\ncore_collector makedumpfile -l --message-level 7 -d 31\n' > /etc/kdump.conf
sleep 5
section kdump-conf settled
section plan sh -c 'vmcorectl image cat plan.json | grep compression'
section ready vmcorectl check
sync; echo LAB-CRASH; sleep 0.5
echo c > /proc/sysrq-trigger
"#;

/// Upgraded, it stays armed; removed, it leaves nothing armed; installed again, it goes on.
const REMOVED: &str = r#"
section upgrade apt install --reinstall /lab/vmcored.deb
section upgraded cat /sys/kernel/kexec_crash_loaded
section remove apt remove vmcored
section unloaded cat /sys/kernel/kexec_crash_loaded
section reinstall apt install /lab/vmcored.deb
sleep 1
section back settled
"#;

const UNIT: &str = "[Unit]
Description=What the lab wants to see
After=vmcored.service vmcored-harvest.service vmcored-verify.service
[Service]
Type=exec
ExecStart=/lab/start
";

/// Each boot has its script.
const START: &str = "#!/bin/sh
for word in $(cat /proc/cmdline); do
  case $word in lab.stage=*) exec /lab/boot-${word#lab.stage=} ;; esac
done
";

/// Installs, crashes, harvests, mutates, crashes, harvests, removes.
pub fn life(bench: &Bench<'_>) -> Result<()> {
    let dir = bench.scratch("service")?;
    let write = |name: &str, text: &str| -> Result<PathBuf> {
        let path = dir.join(name);
        fs::write(&path, text)?;
        Ok(path)
    };
    let third = format!(
        "systemctl start vmcored-harvest\nsection list vmcorectl list --json\n\
         section failed systemctl --failed --no-legend\n{REMOVED}{}\necho LAB-OVER\nsystemctl poweroff\n",
        mutation::script(LASTING)
    );
    let stages = [
        write("boot-1", &format!("{TOOLS}{FIRST}"))?,
        write("boot-2", &format!("{TOOLS}{SECOND}{}{KDUMP_CONF}", mutation::script(PASSING)))?,
        write("boot-3", &format!("{TOOLS}{third}"))?,
    ];
    let mut files = vec![
        (package::deb::make(bench.programs, &dir)?, "/lab/vmcored.deb", 0o644),
        (write("lab.service", UNIT)?, "/etc/systemd/system/lab.service", 0o644),
        (write("start", START)?, "/lab/start", 0o755),
    ];
    for (stage, to) in stages.into_iter().zip(["/lab/boot-1", "/lab/boot-2", "/lab/boot-3"]) {
        files.push((stage, to, 0o755));
    }
    let system = dir.join("system.img");
    debian::disk(&Cache::open()?, bench.kernel(Series::V6_1)?, GUEST_MODULES, &files, &system, 1024)?;
    let disks = [
        system,
        Disk::create(&dir.join("free.img"), 32, Contents::Blank)?.path,
        Disk::create(&dir.join("small.img"), 300, Contents::Ext4)?.path,
    ];

    let first = boot(bench, &dir, &disks, 1)?;
    said(&first, "install", &["setting up vmcored"])?;
    said(&first, "settled", &["ready", "daemon"])?;
    said(&first, "active", &["active"])?;
    said(&first, "check", &["ready", "image-intact", "MB/s"])?;
    said(&first, "estimate", &["of pages that were compressed", "dump         about"])?;
    said(&first, "list-none", &["no crashes"])?;
    said(&first, "prometheus", &["vmcored_readiness 0"])?;
    said(&first, "man", &["vmcorectl"])?;
    ensure!(first.find("outcome: complete").is_some(), "no dump:\n{}", first.tail(40));

    let second = boot(bench, &dir, &disks, 2)?;
    said(&second, "active", &["active\nactive"])?;
    for field in [
        "\"DUMP_STATUS\":\"complete\"",
        "\"DUMP_INTEGRITY\":\"sound\"",
        "\"DUMP_TYPE\":\"primary\"",
        "\"ERROR_CODE\":\"0\"",
        "\"DUMP_SEQUENCE\":\"1\"",
        "\"FILE_NAME\":\"/var/crash/lab-debian-",
        "\"CRASH_TEST\":\"test-",
        "\"PROCESSOR_ID\":\"",
        "\"CRASH_KIND\":\"requested\"",
        "\"CRASH_VERDICT\":\"",
        "\"CRASH_SIGNATURE\":\"",
    ] {
        said(&second, "journal", &[field])?;
    }
    let (journal, _) = second.section("journal").context("no journal")?;
    ensure!(journal.matches("DUMP_SEQUENCE").count() == 1, "told more than once:\n{journal}");
    said(&second, "catalog", &["`vmcorectl list` lists the crashes"])?;
    said(&second, "list", &["complete", "sound", "requested", "/var/crash/lab-debian-"])?;
    said(&second, "info", &["sysrq", "crash        #1", "signature    "])?;
    said(&second, "path", &["/vmcore"])?;
    said(&second, "verify", &["sound"])?;
    said(&second, "again", &["no new crash"])?;
    said(&second, "check", &["ready", "last-proof     test-"])?;
    // Another disk lies over the directory: the image is another, by itself.
    said(&second, "mounted", &["\"because\": \"mounts changed\"", "\"current\": true"])?;
    said(&second, "unmounted", &["\"because\": \"mounts changed\"", "\"current\": true"])?;
    said(&second, "killed", &["active"])?;
    said(&second, "settled", &["ready"])?;
    hotplug(&second)?;
    figures(&second, &dir)?;
    mutation::found(&second, PASSING)?;
    said(&second, "kdump-conf", &["ready"])?;
    said(&second, "plan", &["lzo"])?;
    said(&second, "ready", &["ready"])?;
    let complete = second.after("LAB-CRASH").iter().any(|line| line.text.contains("outcome: complete"));
    ensure!(complete, "no second dump:\n{}", second.tail(40));

    let third = boot(bench, &dir, &disks, 3)?;
    said(&third, "list", &["\"sequence\": 1", "\"sequence\": 2"])?;
    let (list, _) = third.section("list").context("no list")?;
    ensure!(list.matches("\"integrity\": \"sound\"").count() == 2, "not both are sound:\n{list}");
    let (failed, _) = third.section("failed").context("no list of failed units")?;
    ensure!(!failed.contains("vmcored"), "failed units:\n{failed}");
    said(&third, "upgrade", &["unpacking vmcored"])?;
    said(&third, "upgraded", &["1"])?;
    said(&third, "remove", &["removing vmcored"])?;
    said(&third, "unloaded", &["0"])?;
    said(&third, "back", &["ready"])?;
    mutation::found(&third, LASTING)
}

/// Boots from the first disk and waits for a restart or the end.
fn boot(bench: &Bench<'_>, dir: &Path, disks: &[PathBuf], stage: u32) -> Result<Console> {
    let drive = |disk: &PathBuf| {
        ["-drive".to_owned(), format!("file={},if=virtio,format=raw,cache=unsafe", disk.display())]
    };
    let guest = Guest {
        kernel: bench.kernel(Series::V6_1)?,
        paging: Paging::Four,
        memory: 768,
        cmdline: format!(
            "crashkernel=128M lab.stage={stage} rw quiet systemd.show_status=0 systemd.wants=lab.service \
             systemd.mask=serial-getty@ttyS0.service"
        ),
        disks: Vec::new(),
        script: "n=0; while [ ! -b /dev/vda ] && [ $n -lt 100 ]; do usleep 100000; n=$((n+1)); done
mount -t ext4 /dev/vda /mnt || echo LAB-NO-DISK
umount /sys/kernel/security /run /dev /sys /proc
exec switch_root /mnt /sbin/init"
            .to_owned(),
        devices: disks.iter().flat_map(drive).collect(),
        files: Vec::new(),
        // A busy machine that emulates has taken more than ten minutes for the first boot.
        limit: Duration::from_secs(1800),
    };
    let run = bench.lab.run(&guest, &dir.join(format!("boot-{stage}.log")))?;
    ensure!(run.ended, "boot {stage} hangs:\n{}", run.console.tail(40));
    println!("vm service: boot {stage} took {:.0} s", run.took.as_secs_f64());
    Ok(run.console)
}

/// Checks that a section ended with 0 and says all of `wanted`, upper and lower case alike.
fn said(console: &Console, name: &str, wanted: &[&str]) -> Result<()> {
    let (text, status) =
        console.section(name).with_context(|| format!("no section {name}:\n{}", console.tail(40)))?;
    ensure!(status == 0, "{name} exited with {status}:\n{text}");
    let lower = text.replace('\r', "").to_lowercase();
    for word in wanted {
        ensure!(lower.contains(&word.to_lowercase()), "{name} does not say {word:?}:\n{text}");
    }
    Ok(())
}

/// A thousand events are at most a few loads.
fn hotplug(console: &Console) -> Result<()> {
    let (text, _) = console.section("hotplug").context("no section hotplug")?;
    let number = |start: &str| -> Result<u64> {
        let mut rest = text.lines().filter_map(|line| line.trim().strip_prefix(start));
        let found = rest.find_map(|rest| rest.trim().trim_end_matches(',').parse().ok());
        found.with_context(|| format!("no {start}:\n{text}"))
    };
    let (before, after, events) = (number("before")?, number("\"loads\":")?, number("\"events\":")?);
    ensure!(events >= 2, "{events} events:\n{text}");
    // CPUs that go offline and come back are in the image already.
    ensure!(after >= before && after - before <= 4, "{before} loads, then {after}:\n{text}");
    Ok(())
}

/// Says what it took.
fn figures(console: &Console, dir: &Path) -> Result<()> {
    let (text, _) = console.section("figures").context("no section figures")?;
    fs::write(dir.join("figures"), &text)?;
    let wanted = ["VmRSS", "plan_ms", "armed_after_ms", "loaded the last"];
    for line in text.lines().filter(|line| wanted.iter().any(|word| line.contains(word))) {
        println!("vm service: {}", line.trim());
    }
    Ok(())
}

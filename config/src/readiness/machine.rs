//! Checks of the machine: its kernel, its reservation, what makes it panic, what surrounds a crash.

use super::{List, State};
use crate::arm::{ArmError, Prepared};
use crate::crashkernel::{self, boot};
use crate::kexec::KexecState;
use crate::settings::Settings;
use crate::triggers::{self, Profile};
use initramfs::root::Root;
use std::path::Path;

/// This program's own day of birth, 2026-01-01: no clock is right that shows an earlier one.
const BIRTH: u64 = 1_767_225_600;

/// SYSRQ_ENABLE_DUMP of include/linux/sysrq.h: what the keyboard needs for `c`.
const SYSRQ_DUMP: u64 = 8;

pub(super) fn kernel(kexec: &KexecState, prepared: Option<&Prepared>, list: &mut List) {
    match kexec.reserved {
        Some(_) => list.ok("kernel", "has kexec and crash dump"),
        None if !kexec.has_sysfs => {
            list.add("kernel", State::Failed, "/sys is not mounted", "mount sysfs on /sys");
        }
        None => list.add(
            "kernel",
            State::Failed,
            "no /sys/kernel/kexec_crash_loaded",
            "boot a kernel built with CONFIG_KEXEC_FILE and CONFIG_CRASH_DUMP",
        ),
    }
    let lockdown = kexec.lockdown.as_deref().unwrap_or("none");
    // What is loaded stays loaded; it can no longer follow changes.
    let state = if kexec.loaded { State::Degraded } else { State::Failed };
    if kexec.reserved.is_none() {
        list.skip("kexec-allowed", "this kernel has no kexec");
    } else if kexec.disabled {
        let remedy = "it cannot be set back before a reboot; remove it from sysctl.d";
        list.add("kexec-allowed", state, "kernel.kexec_load_disabled is 1", remedy);
    } else if kexec.limit == Some(0) {
        let remedy = "raise it in sysctl.d, and reboot";
        list.add("kexec-allowed", state, "kernel.kexec_load_limit_panic is 0", remedy);
    } else if lockdown == "none" {
        list.ok("kexec-allowed", "yes, no lockdown");
    } else if let Some(file) =
        prepared.map(|prepared| &prepared.resolved.kernel).filter(|kernel| kernel.signed == Some(false))
    {
        // IMA may take other signatures than this one; whether it is loaded is another check.
        list.add(
            "kexec-allowed",
            State::Degraded,
            format!("lockdown is {lockdown}, and {} is not signed", file.path.display()),
            "use the distribution's signed kernel, or sign it with a key that is enrolled (mokutil --import)",
        );
    } else {
        list.ok("kexec-allowed", format!("lockdown is {lockdown}: kernels that are signed"));
    }
}

pub(super) fn reservation(report: &crashkernel::Report, kexec: &KexecState, list: &mut List) {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let need = report.need.as_ref();
    let needed = need.map_or_else(|_| String::new(), |need| format!(", {} MiB needed", mib(need.total)));
    let value = format!("{} MiB reserved{needed} ({})", mib(report.reserved), report.state);
    let remedy = report.notes.first().cloned().unwrap_or_default();
    match report.state {
        _ if kexec.reserved.is_none() => list.skip("reservation", "this kernel has no kexec"),
        crashkernel::State::Reserved => list.ok("reservation", value),
        // Less than is needed: it may do.
        _ if report.reserved > 0 => list.add("reservation", State::Degraded, value, remedy),
        _ => list.add("reservation", State::Failed, value, remedy),
    }
}

pub(super) fn triggers(settings: Option<&Settings>, root: &Root, list: &mut List) {
    let wanted = settings.and_then(|settings| settings.triggers);
    let profile = wanted.unwrap_or(Profile::Server);
    let all = triggers::triggers(profile, root);
    let differ: Vec<String> = all
        .iter()
        .filter(|trigger| trigger.now != trigger.wanted)
        .map(|trigger| format!("{} is {}, not {}", trigger.name, trigger.now, trigger.wanted))
        .collect();
    match (wanted, differ.as_slice()) {
        (_, []) => list.ok("triggers", format!("as in profile {profile}")),
        (Some(_), differ) => list.add(
            "triggers",
            State::Degraded,
            differ.join(", "),
            format!("`vmcorectl triggers apply {profile}`"),
        ),
        (None, differ) => list.add(
            "triggers",
            State::Note,
            format!("{} sysctls differ from profile {profile}", differ.len()),
            format!("`vmcorectl triggers show {profile}`"),
        ),
    }
}

pub(super) fn surroundings(
    prepared: Option<&Prepared>,
    root: &Root,
    list: &mut List,
) -> Result<(), ArmError> {
    let number =
        |path: &str| Ok::<_, ArmError>(root.read_line(path)?.and_then(|text| text.parse::<u64>().ok()));
    match number("/proc/sys/kernel/sysrq")? {
        None => list.add("sysrq", State::Note, "the kernel has none", ""),
        Some(mask) if mask == 1 || mask & SYSRQ_DUMP != 0 => {
            list.ok("sysrq", format!("{mask}: from the keyboard, and by /proc/sysrq-trigger"));
        }
        Some(mask) => list.ok("sysrq", format!("{mask}: by /proc/sysrq-trigger, not from the keyboard")),
    }
    watchdog(prepared, root, list)?;
    let unknown = number("/proc/sys/kernel/unknown_nmi_panic")?;
    let hard = number("/proc/sys/kernel/nmi_watchdog")?;
    let on = |value: Option<u64>| value.map_or("not there", |value| if value == 0 { "off" } else { "on" });
    list.ok("nmi", format!("panic on an operator's NMI {}, lockup detector {}", on(unknown), on(hard)));
    clock(root, list)?;
    Ok(())
}

fn watchdog(prepared: Option<&Prepared>, root: &Root, list: &mut List) -> Result<(), ArmError> {
    const CLASS: &str = "/sys/class/watchdog";
    let mut running = Vec::new();
    for name in root.list(CLASS)? {
        let read = |file: &str| root.read_line(Path::new(CLASS).join(&name).join(file));
        if read("state")?.as_deref() == Some("active") {
            let identity = read("identity")?.unwrap_or(name.clone());
            running.push((identity, read("timeout")?.unwrap_or_else(|| "?".to_owned())));
        }
    }
    let fed = prepared.and_then(|prepared| prepared.resolved.plan.watchdog.as_ref());
    match (running.first(), fed) {
        (None, None) => list.ok("watchdog", "none runs"),
        (_, Some(fed)) => list.ok("watchdog", format!("{}, fed in the crash kernel", fed.identity)),
        (Some((identity, timeout)), None) if prepared.is_some() => list.add(
            "watchdog",
            State::Degraded,
            format!("{identity} runs and is not fed: it resets the machine {timeout} s into the dump"),
            "set `feed` in [watchdog] to active",
        ),
        (Some((identity, _)), None) => list.skip("watchdog", &format!("{identity} runs; there is no plan")),
    }
    Ok(())
}

fn clock(root: &Root, list: &mut List) -> Result<(), ArmError> {
    let now = crate::harvest::now();
    let hardware =
        root.read_line("/sys/class/rtc/rtc0/since_epoch")?.and_then(|text| text.parse::<u64>().ok());
    let shown = collector::utc::readable(now);
    let far = hardware.map(|hardware| hardware.abs_diff(now)).filter(|off| *off > 24 * 3600);
    let remedy = "set it: dumps are named by the time of the crash";
    if now < BIRTH {
        list.add("clock", State::Degraded, format!("it is {shown}"), remedy);
    } else if let Some(off) = far {
        let value = format!("it is {shown}, by the hardware clock {off} s off");
        list.add("clock", State::Degraded, value, "`hwclock --systohc`, or set the time");
    } else {
        list.ok("clock", shown);
    }
    Ok(())
}

pub(super) fn next_boot(report: &crashkernel::Report, root: &Root, list: &mut List) -> Result<(), ArmError> {
    const UNITS: [&str; 2] = ["vmcored.service", "vmcored-arm.service"];
    let coming = report
        .next
        .iter()
        .find(|asked| matches!(asked.kind, Some(boot::Kind::Entry | boot::Kind::GrubConfig)));
    let needed = report.need.as_ref().map_or(0, |need| need.total);
    let systemd = root.exists("/etc/systemd/system")?;
    let enabled = wanted(&UNITS, root)?;
    match (coming, enabled) {
        (Some(asked), _) if asked.bytes < needed.max(1) && report.reserved > 0 => list.add(
            "next-boot",
            State::Degraded,
            format!("{} MiB are asked for by {}", asked.bytes >> 20, asked.path),
            "`vmcorectl crashkernel set`",
        ),
        (_, None) if systemd => list.add(
            "next-boot",
            State::Degraded,
            "no unit arms the next boot",
            "`systemctl enable vmcored.service`",
        ),
        (Some(asked), _) => list.ok("next-boot", format!("{} MiB, by {}", asked.bytes >> 20, asked.path)),
        (None, _) => list.ok("next-boot", "armed again; where its command line comes from is not known"),
    }
    const OTHERS: [&str; 3] = ["kdump.service", "kdump-tools.service", "kdump-early.service"];
    match wanted(&OTHERS, root)? {
        Some(unit) => list.add(
            "other-tools",
            State::Degraded,
            format!("{unit} is enabled, and loads a crash kernel of its own"),
            format!("`systemctl disable --now {unit}`"),
        ),
        None => list.ok("other-tools", "none is enabled"),
    }
    Ok(())
}

/// The first of the units that some target of /etc/systemd/system wants.
fn wanted(units: &[&'static str], root: &Root) -> Result<Option<&'static str>, ArmError> {
    const UNITS: &str = "/etc/systemd/system";
    for directory in root.list(UNITS)? {
        if !directory.ends_with(".wants") && !directory.ends_with(".requires") {
            continue;
        }
        let names = root.list(Path::new(UNITS).join(directory))?;
        if let Some(unit) = units.iter().find(|unit| names.iter().any(|name| name == *unit)) {
            return Ok(Some(unit));
        }
    }
    Ok(None)
}

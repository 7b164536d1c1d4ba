//! The machine and its kernel: hardware, command line, taint, modules, load.

use crate::triage::{Dead, Known, Module, Unknown, taint_letters, taint_meanings};
use serde::Serialize;

/// What ran.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct System {
    /// Vendor and product, as the firmware calls it.
    pub hardware: Option<String>,
    /// Vendor, version and date of the firmware.
    pub firmware: Option<String>,
    /// The first CPU's name.
    pub cpu: Option<String>,
    /// CPUs that were online.
    pub cpus: u64,
    /// The load averages of 1, 5 and 15 minutes, in hundredths.
    pub load: Option<[u64; 3]>,
    /// The kernel's command line.
    pub command_line: Option<String>,
    /// The taint flags as a number; 0: not tainted.
    pub taint: Option<u64>,
    /// The flags' letters.
    pub taint_letters: String,
    /// Each flag's letter and meaning.
    pub taints: Vec<String>,
    /// Loaded modules, the last one first.
    pub modules: Vec<Module>,
}

impl System {
    /// Asks for everything.
    pub fn of(dead: &Dead<'_>) -> Self {
        let taint = dead.known("taint", dead.taint());
        let firmware = ["DMI_BIOS_VENDOR", "DMI_BIOS_VERSION", "DMI_BIOS_DATE"];
        Self {
            hardware: dmi(dead, &["DMI_SYS_VENDOR", "DMI_PRODUCT_NAME"]),
            firmware: dmi(dead, &firmware),
            cpu: cpu(dead).ok().filter(|name| !name.is_empty()),
            cpus: dead.known("CPUs", dead.online_cpus()).map_or(0, |cpus| cpus.len() as u64),
            load: dead.known("load", load(dead)),
            command_line: dead.known("command line", command_line(dead)),
            taint_letters: taint_letters(taint.unwrap_or(0)),
            taints: taint_meanings(taint.unwrap_or(0)).iter().map(|(c, why)| format!("{c}: {why}")).collect(),
            taint,
            modules: dead.modules(),
        }
    }

    /// Modules from outside of the kernel's tree.
    pub fn foreign(&self) -> impl Iterator<Item = &Module> {
        self.modules.iter().filter(|module| module.out_of_tree || module.taint.contains('P'))
    }
}

/// Strings that the firmware has told; empty where it is not known.
fn dmi(dead: &Dead<'_>, fields: &[&str]) -> Option<String> {
    let table = dead.symbol("dmi_ident").ok()?;
    let field = |name: &&str| {
        let index = u64::try_from(dead.enumerator(name).ok()?).ok()?;
        let at = dead.u64(table.wrapping_add(index.checked_mul(8)?)).ok()?;
        (at != 0).then(|| dead.cstring(at, 64).ok()).flatten()
    };
    let words: Vec<String> = fields.iter().filter_map(field).map(|word| word.trim().to_owned()).collect();
    (!words.is_empty()).then(|| words.join(" "))
}

fn cpu(dead: &Dead<'_>) -> Known<String> {
    let name = dead.text(dead.symbol("boot_cpu_data")?, "cpuinfo_x86", "x86_model_id")?;
    Ok(name.trim().to_owned())
}

/// `avenrun` counts in 2^-11.
fn load(dead: &Dead<'_>) -> Known<[u64; 3]> {
    let at = dead.symbol("avenrun")?;
    let hundredths =
        |index: u64| -> Known<u64> { Ok(dead.u64(at.wrapping_add(index * 8))?.saturating_mul(100) >> 11) };
    Ok([hundredths(0)?, hundredths(1)?, hundredths(2)?])
}

fn command_line(dead: &Dead<'_>) -> Known<String> {
    dead.cstring(dead.u64(dead.symbol("saved_command_line")?)?, 4096)
}

/// Microseconds since boot, sleep included, when the timekeeper was last advanced: what /proc/uptime says.
///
/// `tk_core`, a structure without a name; `struct tk_data` since Linux commit 206db8b13619 ("timekeeping: Define a struct type
/// for tk_core to make it reusable") (in v6.13), and the first of `timekeeper_data` since Linux commit 22c62b9a84b8
/// ("timekeeping: Introduce auxiliary timekeepers") (in v6.17).
pub(super) fn uptime_us(dead: &Dead<'_>) -> Known<u64> {
    let core = dead.symbol("tk_core").or_else(|why| dead.symbol("timekeeper_data").map_err(|_| why))?;
    let skip = match dead.member("tk_data", "timekeeper") {
        Ok(member) => member.offset,
        // What lies before it is its sequence counter.
        Err(_) => {
            let counter = dead.size_of("seqcount_raw_spinlock_t").or_else(|_| dead.size_of("seqcount_t"))?;
            counter.next_multiple_of(8)
        }
    };
    let at = core.wrapping_add(skip);
    let get = |path| dead.signed(at, "timekeeper", path);
    // Up to the last full second, which is there twice: where they differ, this is no timekeeper.
    let base = get("tkr_mono.base")?;
    let seconds = get("xtime_sec")?.checked_add(get("wall_to_monotonic.tv_sec")?);
    let nanoseconds = get("wall_to_monotonic.tv_nsec")?;
    if seconds.and_then(|s| s.checked_mul(1_000_000_000)?.checked_add(nanoseconds)) != Some(base) {
        return Err(Unknown::senseless("the kernel's clock contradicts itself"));
    }
    let shift = u32::try_from(get("tkr_mono.shift")?).unwrap_or(u32::MAX);
    let more = dead.get(at, "timekeeper", "tkr_mono.xtime_nsec")?.checked_shr(shift).unwrap_or(0);
    let asleep = get("offs_boot")?;
    let all = base.checked_add_unsigned(more).and_then(|ns| u64::try_from(ns.checked_add(asleep)?).ok());
    Ok(all.ok_or_else(|| Unknown::senseless("the kernel's clock is before its start"))? / 1000)
}

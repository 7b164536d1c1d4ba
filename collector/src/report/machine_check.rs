//! What processors reported of broken hardware: the kernel's own records of machine checks.
//!
//! The log has them in words, when the kernel came to printing them; the records are there also when it did not. Two places: the
//! pool of records that were still to be given to whoever listens, corrected ones among them, and the exception that a CPU was
//! handling. Only x86 has them.

use crate::triage::{Dead, Known, Unknown, hex};
use serde::Serialize;

/// What processors reported.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct MachineChecks {
    /// Exceptions that CPUs took since boot; what is corrected is no exception.
    pub exceptions: u64,
    /// Records in memory, that of the last exception first.
    pub records: Vec<MachineCheck>,
}

/// One error, as a bank of a CPU's registers had it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct MachineCheck {
    /// The CPU that found it.
    pub cpu: u64,
    /// The bank.
    pub bank: u64,
    /// MCi_STATUS.
    #[serde(serialize_with = "hex")]
    pub status: u64,
    /// It was `corrected`, `deferred` (the data is bad, and nobody has used it yet) or `uncorrected`.
    pub severity: &'static str,
    /// Further properties, in words.
    pub flags: Vec<&'static str>,
    /// What went wrong, decoded from the status.
    pub error: String,
    /// The physical address, where the processor knew one.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "hex_of")]
    pub address: Option<u64>,
    /// MCi_MISC, where it was valid.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "hex_of")]
    pub misc: Option<u64>,
    /// Seconds since 1970.
    pub time: u64,
    /// It is of the exception that a CPU was in.
    pub exception: bool,
}

#[expect(clippy::ref_option, reason = "serde hands over a reference")]
fn hex_of<S: serde::Serializer>(at: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
    hex(&at.unwrap_or(0), serializer)
}

/// Bits of MCi_STATUS: Intel SDM volume 3, "IA32_MCi_STATUS MSRS", and AMD APM volume 2, "Machine-Check Status Registers".
const VALID: u64 = 1 << 63;
const OVERFLOW: u64 = 1 << 62;
const UNCORRECTED: u64 = 1 << 61;
const MISC_VALID: u64 = 1 << 59;
const ADDRESS_VALID: u64 = 1 << 58;
const CONTEXT_CORRUPT: u64 = 1 << 57;
/// AMD alone has these two.
const DEFERRED: u64 = 1 << 44;
const POISON: u64 = 1 << 43;
/// `X86_VENDOR_AMD` and `X86_VENDOR_HYGON` of `struct mce`.
const AMD: [u64; 2] = [2, 9];

/// Records that are kept.
const MAX_RECORDS: usize = 64;
/// Bytes of the pool at most: it has two pages, and more where there are many CPUs.
const MAX_POOL: u64 = 4 << 20;
/// Bytes of a stack on which the record of an exception is looked for.
const MAX_STACK: u64 = 16 << 10;

impl MachineChecks {
    /// Asks for them. A kernel without machine checks has none.
    pub fn of(dead: &Dead<'_>) -> Self {
        let mut found = Self { exceptions: exceptions(dead), records: Vec::new() };
        if dead.symbol("mce_evt_pool").is_ok() {
            dead.known("machine checks", found.seen(dead));
            dead.known("machine checks", found.pool(dead));
        }
        found
    }

    /// Of each CPU the one that it was handling, as the kernel has it in `mces_seen`.
    ///
    /// `hw_errs_seen`, which has more around it, since Linux commit 750fd23926f1 ("x86/mce: Add wrapper for struct mce to export
    /// vendor specific info") (in v6.13).
    fn seen(&mut self, dead: &Dead<'_>) -> Known<()> {
        let (symbol, skip) = match dead.symbol("mces_seen") {
            Ok(symbol) => (symbol, 0),
            Err(why) => (
                dead.symbol("hw_errs_seen").map_err(|_| why)?,
                dead.member("mce_hw_err", "m").map_or(0, |member| member.offset),
            ),
        };
        for cpu in dead.online_cpus()? {
            let at = dead.percpu(*cpu, symbol)?.wrapping_add(skip);
            // Where no other CPU takes part, the kernel fills it before it knows the bank, and goes on with a copy on its stack.
            let at = match dead.get(at, "mce", "status")? & VALID {
                0 => on_stack(dead, *cpu, at)?,
                _ => Some(at),
            };
            if let Some(at) = at {
                self.add(record(dead, at, true)?);
            }
        }
        Ok(())
    }

    /// Those that were still to be told of.
    fn pool(&mut self, dead: &Dead<'_>) -> Known<()> {
        let pool = dead.u64(dead.symbol("mce_evt_pool")?)?;
        // Not made yet.
        if pool == 0 {
            return Ok(());
        }
        let skip = dead.member("mce_evt_llist", "mce").or_else(|_| dead.member("mce_evt_llist", "err.m"))?;
        let size = dead.size_of("mce_evt_llist")?;
        let order = u32::try_from(dead.get(pool, "gen_pool", "min_alloc_order")?).unwrap_or(u32::MAX);
        let unit = 1_u64.checked_shl(order).filter(|unit| (8..=4096).contains(unit));
        let unit = unit.ok_or_else(|| Unknown::senseless(format!("pieces of 2^{order} bytes")))?;
        let head = dead.place(pool, "gen_pool", "chunks")?;
        dead.list(head, "gen_pool_chunk", "next_chunk", |chunk| {
            let start = dead.get(chunk, "gen_pool_chunk", "start_addr")?;
            // Its last byte.
            let last = dead.get(chunk, "gen_pool_chunk", "end_addr")?;
            let bits = dead.place(chunk, "gen_pool_chunk", "bits")?;
            let len = last.wrapping_sub(start).wrapping_add(1);
            if len == 0 || len > MAX_POOL {
                return Err(Unknown::senseless(format!("a pool of {len:#x} bytes")));
            }
            let (units, each) = (len / unit, size.div_ceil(unit).max(1));
            let mut next = 0;
            for first in (0..units).step_by(64) {
                let word = dead.u64(bits.wrapping_add(first / 8))?;
                for index in (first..units).take(64).filter(|index| word >> (index - first) & 1 == 1) {
                    // One record takes several pieces.
                    if index >= next {
                        next = index + each;
                        let at = start.wrapping_add(index * unit).wrapping_add(skip.offset);
                        self.add(record(dead, at, false)?);
                    }
                }
            }
            Ok(())
        })
    }

    fn add(&mut self, record: Option<MachineCheck>) {
        let Some(record) = record else { return };
        let same = |other: &MachineCheck| {
            (other.cpu, other.bank, other.status, other.address, other.time)
                == (record.cpu, record.bank, record.status, record.address, record.time)
        };
        if self.records.len() < MAX_RECORDS && !self.records.iter().any(same) {
            self.records.push(record);
        }
    }
}

/// Exceptions of all CPUs: /proc/interrupts has them as MCE.
fn exceptions(dead: &Dead<'_>) -> u64 {
    let Ok(symbol) = dead.symbol("mce_exception_count") else { return 0 };
    let cpus = dead.online_cpus().unwrap_or_default().iter();
    let counts = cpus.filter_map(|cpu| dead.u32(dead.percpu(*cpu, symbol).ok()?).ok());
    counts.fold(0, |sum, count| sum.saturating_add(u64::from(count)))
}

/// The copy of the `struct mce` at `seen` on the stack that a CPU stopped on, if it has become valid there.
fn on_stack(dead: &Dead<'_>, cpu: u32, seen: u64) -> Known<Option<u64>> {
    let same = ["tsc", "time", "ip", "mcgstatus"];
    let want = same.map(|field| dead.get(seen, "mce", field));
    let [tsc, time, ip, state] = want;
    let want = [tsc?, time?, ip?, state?];
    let [_, time, ..] = want;
    let Some(registers) = dead.registers(cpu).filter(|_| time != 0) else { return Ok(None) };
    let start = registers.sp() & !7;
    for at in (0..MAX_STACK).step_by(8).map(|skip| start.wrapping_add(skip)) {
        // Where the stack ends nothing is mapped.
        let Ok(status) = dead.get(at, "mce", "status") else { break };
        let equal = status & VALID != 0
            && same.iter().zip(want).all(|(field, value)| dead.get(at, "mce", field) == Ok(value));
        if equal {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

/// The record at `at`, a `struct mce`; `None` where nothing was reported in it.
fn record(dead: &Dead<'_>, at: u64, exception: bool) -> Known<Option<MachineCheck>> {
    let get = |field| dead.get(at, "mce", field);
    let status = get("status")?;
    if status & VALID == 0 {
        return Ok(None);
    }
    let amd = AMD.contains(&get("cpuvendor")?);
    let address = if status & ADDRESS_VALID == 0 { None } else { Some(get("addr")?) };
    let misc = if status & MISC_VALID == 0 { None } else { Some(get("misc")?) };
    Ok(Some(MachineCheck {
        cpu: get("extcpu")?,
        bank: get("bank")?,
        status,
        severity: severity(status, amd),
        flags: flags(status, amd),
        error: error(status),
        address,
        misc,
        time: get("time")?,
        exception,
    }))
}

fn severity(status: u64, amd: bool) -> &'static str {
    if status & UNCORRECTED != 0 {
        "uncorrected"
    } else if amd && status & DEFERRED != 0 {
        "deferred"
    } else {
        "corrected"
    }
}

fn flags(status: u64, amd: bool) -> Vec<&'static str> {
    let all = [
        (status & CONTEXT_CORRUPT != 0, "processor context corrupt"),
        (status & OVERFLOW != 0, "others before it are lost"),
        (amd && status & POISON != 0, "poisoned data was used"),
    ];
    all.into_iter().filter_map(|(is, words)| is.then_some(words)).collect()
}

/// The architectural error code: Intel SDM volume 3, "Compound Error Codes"; AMD's are among them.
fn error(status: u64) -> String {
    // The bit says that the processor counts no further ones of the kind.
    let code = status & 0xffff & !0x1000;
    let pick = |words: &[&'static str], shift: u32, mask: u64| {
        let index = usize::try_from(code >> shift & mask).unwrap_or(usize::MAX);
        words.get(index).copied().unwrap_or("unknown")
    };
    let request = [
        "an access",
        "a read",
        "a write",
        "a data read",
        "a data write",
        "an instruction fetch",
        "a prefetch",
        "an eviction",
        "a snoop",
    ];
    let request = pick(&request, 4, 0xf);
    let kind = pick(&["instruction", "data", "unified"], 2, 3);
    let level = pick(&["level 0", "level 1", "level 2", "any level"], 0, 3);
    let memory = pick(&["an access", "a read", "a write", "an address or command", "scrubbing"], 4, 7);
    match code {
        0 => "no error code".to_owned(),
        1 => "unclassified".to_owned(),
        2 => "parity of the microcode ROM".to_owned(),
        3 => "reported by another processor".to_owned(),
        4 => "functional redundancy check".to_owned(),
        5 => "internal parity".to_owned(),
        6 => "the SMM handler's code was accessed from outside".to_owned(),
        0x400 => "internal timer".to_owned(),
        0xe0b => "I/O".to_owned(),
        0x00c..=0x00f => format!("cache of {level}"),
        0x010..=0x01f => format!("{kind} TLB of {level}"),
        0x080..=0x0ff => format!("memory controller, {memory}"),
        0x100..=0x1ff => format!("{kind} cache of {level}, {request}"),
        0x280..=0x2ff => format!("memory used as a cache, {memory}"),
        0x401..=0x7ff => "internal, unclassified".to_owned(),
        0x800..=0xfff => {
            let who = pick(&["asked by this processor", "answered by it", "seen by it", "of anybody"], 9, 3);
            let place = pick(&["memory", "reserved", "I/O", "other"], 2, 3);
            let late = if code & 0x100 == 0 { "" } else { ", timed out" };
            format!("bus or interconnect ({place}), {request} {who}{late}")
        }
        _ => format!("code {code:#x}"),
    }
}

impl std::fmt::Display for MachineCheck {
    /// `CPU 0, bank 4: uncorrected, processor context corrupt: data cache of level 1, a data read, at physical address 0x1234000`
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CPU {}, bank {}: {}", self.cpu, self.bank, self.severity)?;
        for flag in &self.flags {
            write!(f, ", {flag}")?;
        }
        write!(f, ": {}", self.error)?;
        match self.address {
            Some(at) => write!(f, ", at physical address {at:#x}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_words() {
        for (status, wanted) in [
            (0xbe00_0000_0000_0135, "data cache of level 1, a data read"),
            (0x9c00_0000_0001_009f, "memory controller, a read"),
            (0x8c00_0000_0000_10c1, "memory controller, scrubbing"),
            (0xb200_0000_0000_0402, "internal, unclassified"),
            (0xbe00_0000_0000_0400, "internal timer"),
            (0xf200_0000_0000_0011, "instruction TLB of level 1"),
            (0xb200_0000_0000_0005, "internal parity"),
            (0xb200_0000_0000_000e, "cache of level 2"),
            (0xba00_0000_0000_0e0b, "I/O"),
            (0xb200_0000_0000_0f0f, "bus or interconnect (other), an access of anybody, timed out"),
            (0x8000_0000_0000_0000, "no error code"),
            (0x8000_0000_0000_2001, "code 0x2001"),
        ] {
            assert_eq!(error(status), wanted, "{status:#x}");
        }
    }

    #[test]
    fn bits_of_the_status_have_words() {
        // status, AMD's, severity, flags
        for (status, amd, wanted, words) in [
            (0xbe00_0000_0000_0135, true, "uncorrected", &["processor context corrupt"][..]),
            (0xdc00_0000_0000_0135, false, "corrected", &["others before it are lost"]),
            (VALID | DEFERRED, true, "deferred", &[]),
            (VALID | DEFERRED | POISON, false, "corrected", &[]),
            (VALID | POISON | UNCORRECTED, true, "uncorrected", &["poisoned data was used"]),
        ] {
            assert_eq!(
                (severity(status, amd), flags(status, amd).as_slice()),
                (wanted, words),
                "{status:#x}"
            );
        }
    }

    #[test]
    fn the_same_record_is_kept_once() {
        let one = MachineCheck {
            cpu: 0,
            bank: 4,
            status: 0xbe00_0000_0000_0135,
            severity: "uncorrected",
            flags: vec!["processor context corrupt"],
            error: error(0x135),
            address: Some(0x123_4000),
            misc: Some(0x8c),
            time: 1,
            exception: true,
        };
        let mut checks = MachineChecks::default();
        checks.add(Some(one.clone()));
        checks.add(Some(MachineCheck { exception: false, ..one.clone() }));
        checks.add(None);
        checks.add(Some(MachineCheck { bank: 5, address: None, ..one }));
        let shown: Vec<String> = checks.records.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "CPU 0, bank 4: uncorrected, processor context corrupt: data cache of level 1, a data read, \
                 at physical address 0x1234000",
                "CPU 0, bank 5: uncorrected, processor context corrupt: data cache of level 1, a data read",
            ]
        );
        let json = serde_json::to_string(&checks).unwrap();
        assert!(json.contains("\"address\":\"0x1234000\"") && json.contains("0xbe00000000000135"), "{json}");
    }
}

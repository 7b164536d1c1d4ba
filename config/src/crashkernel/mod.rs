//! The reservation for the crash kernel: what was asked for, what there is, what is needed, and what the next boot asks for.
//!
//! ```text
//! /proc/cmdline, /proc/iomem ---(syntax)--> asked now -----+
//! /sys/kernel/kexec_crash_size -----------> reserved ------+--> State
//! boot entries, grub.cfg, defaults -(boot)-> asked next ---+
//! the prepared image and plan -----(need)--> needed -------+
//! ```

pub mod boot;
pub mod need;
pub mod set;
pub mod syntax;

use crate::kexec::KexecState;
use boot::{Kind, Line};
use initramfs::root::Root;
use need::Need;
use serde::Serialize;
use std::fmt;
use syntax::{options, request};

/// How the reservation stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Nothing is reserved, and the next boot asks for nothing.
    NotConfigured,
    /// The next boot asks for enough, or for what is not there yet.
    RebootRequired,
    /// Less than is needed is reserved, also by the next boot.
    ReservedTooSmall,
    /// Enough is reserved.
    Reserved,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotConfigured => "not-configured",
            Self::RebootRequired => "reboot-required",
            Self::ReservedTooSmall => "reserved-too-small",
            Self::Reserved => "reserved",
        })
    }
}

/// What one command line asks for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Asked {
    /// The file.
    pub path: String,
    /// What it is; none for the running command line.
    pub kind: Option<Kind>,
    /// Its crashkernel= options, as they stand there.
    pub options: Vec<String>,
    /// Bytes that they come to on this machine.
    pub bytes: u64,
    /// Why the kernel would not take them.
    pub wrong: Option<String>,
}

/// All of it; `vmcorectl crashkernel show --json` prints it as it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Report {
    /// How it stands.
    pub state: State,
    /// Bytes of memory of the machine (System RAM of /proc/iomem).
    pub memory: u64,
    /// Bytes reserved.
    pub reserved: u64,
    /// What the running command line asks for.
    pub running: Asked,
    /// What others ask for, what boots next first.
    pub next: Vec<Asked>,
    /// What is needed, or why that is not known: `null` as JSON, and a note.
    #[serde(serialize_with = "known")]
    pub need: Result<Need, String>,
    /// What to do, and what else there is to know, a sentence each.
    pub notes: Vec<String>,
}

impl Report {
    /// Looks at the system at `root`.
    pub fn read(root: &Root, need: Result<Need, String>) -> Result<Self, initramfs::Error> {
        let kexec = KexecState::read(root)?;
        let iomem = root.read("/proc/iomem")?.unwrap_or_default();
        let memory = match system_ram(&iomem) {
            // Who is not root sees ranges of zeros.
            0 => meminfo(&root.read("/proc/meminfo")?.unwrap_or_default()),
            bytes => bytes,
        };
        let cmdline = root.read("/proc/cmdline")?.unwrap_or_default();
        let running = asked("/proc/cmdline", None, &cmdline, memory);
        let next: Vec<Asked> = boot::lines(root)?
            .iter()
            .map(|Line { kind, path, cmdline }| {
                asked(&path.display().to_string(), Some(*kind), cmdline, memory)
            })
            .collect();
        let reserved = kexec.reserved.unwrap_or(0);
        let needed = need.as_ref().map_or(0, |need| need.total);
        // What boots; defaults count once something is made of them.
        let coming = next.iter().find(|asked| matches!(asked.kind, Some(Kind::Entry | Kind::GrubConfig)));
        let coming_bytes = coming.map(|asked| asked.bytes);
        let state = judge(reserved, needed, running.bytes, coming_bytes);
        let mut report = Self { state, memory, reserved, running, next, need, notes: Vec::new() };
        report.notes = report.advice(coming_bytes, kexec.reserved.is_none());
        Ok(report)
    }

    fn advice(&self, coming: Option<u64>, no_kexec: bool) -> Vec<String> {
        let mut notes = Vec::new();
        if no_kexec {
            notes.push(
                "this kernel has no kexec: boot one built with CONFIG_KEXEC_FILE and CONFIG_CRASH_DUMP"
                    .to_owned(),
            );
        }
        match self.state {
            State::NotConfigured => {
                notes.push("nothing is reserved: `vmcorectl crashkernel set`, then reboot".to_owned());
            }
            State::RebootRequired => notes.push("the next boot reserves it: reboot".to_owned()),
            State::ReservedTooSmall if self.reserved == 0 && self.running.bytes > 0 => {
                notes.push(
                    "the kernel found no room for what was asked for: see `dmesg | grep -i crashkernel`"
                        .to_owned(),
                );
            }
            State::ReservedTooSmall => {
                notes.push("raise it: `vmcorectl crashkernel set`, then reboot".to_owned());
            }
            State::Reserved => {}
        }
        if self.state == State::Reserved
            && coming.is_some_and(|bytes| bytes < self.reserved.min(self.needed()))
        {
            notes.push("the next boot reserves less than is needed: `vmcorectl crashkernel set`".to_owned());
        }
        let made = self.next.iter().find(|asked| asked.kind == Some(Kind::GrubConfig));
        let defaults = self.next.iter().find(|asked| asked.kind == Some(Kind::GrubDefaults));
        if let (Some(made), Some(defaults)) = (made, defaults)
            && made.options != defaults.options
        {
            notes.push(format!(
                "{} does not have what {} says: update-grub, or grub-mkconfig",
                made.path, defaults.path
            ));
        }
        let all = std::iter::once(&self.running).chain(&self.next);
        notes.extend(all.filter_map(|asked| Some(format!("{}: {}", asked.path, asked.wrong.as_ref()?))));
        if let Err(why) = &self.need {
            notes.push(format!("what is needed is not known: {why}"));
        }
        notes
    }

    fn needed(&self) -> u64 {
        self.need.as_ref().map_or(0, |need| need.total)
    }
}

fn asked(path: &str, kind: Option<Kind>, cmdline: &str, memory: u64) -> Asked {
    let request = request(cmdline);
    Asked {
        path: path.to_owned(),
        kind,
        options: options(cmdline),
        bytes: request.as_ref().map_or(0, |request| request.size_for(memory)),
        wrong: request.err().map(|e| e.to_string()),
    }
}

fn known<S: serde::Serializer>(need: &Result<Need, String>, to: S) -> Result<S::Ok, S::Error> {
    need.as_ref().ok().serialize(to)
}

fn judge(reserved: u64, needed: u64, running: u64, coming: Option<u64>) -> State {
    if reserved > 0 && reserved >= needed {
        return State::Reserved;
    }
    match coming {
        // What is asked for now was not granted, and will not be.
        Some(bytes) if bytes > running.max(reserved) => State::RebootRequired,
        _ if reserved > 0 || running > 0 => State::ReservedTooSmall,
        _ => State::NotConfigured,
    }
}

/// Bytes of `System RAM` of /proc/iomem, at its outermost.
fn system_ram(iomem: &str) -> u64 {
    let range = |line: &str| {
        let (range, what) = line.split_once(" : ")?;
        let (start, end) = range.split_once('-')?;
        let number = |text| u64::from_str_radix(text, 16).ok();
        let (start, end) = (number(start)?, number(end)?);
        (what.trim() == "System RAM" && end > start).then(|| end.saturating_sub(start).saturating_add(1))
    };
    iomem.lines().filter(|line| !line.starts_with(' ')).filter_map(range).fold(0, u64::saturating_add)
}

/// Bytes of MemTotal.
fn meminfo(text: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        writeln!(f, "{}", self.state)?;
        writeln!(f, "memory       {} MiB", mib(self.memory))?;
        writeln!(f, "reserved     {} MiB", mib(self.reserved))?;
        for (index, asked) in std::iter::once(&self.running).chain(&self.next).enumerate() {
            let what = match (index, asked.kind) {
                (0, _) => "now",
                (_, Some(Kind::Entry | Kind::GrubConfig)) => "next boot",
                _ => "written",
            };
            let options: Vec<String> = asked.options.iter().map(|one| format!("crashkernel={one}")).collect();
            let options = if options.is_empty() { "no crashkernel=".to_owned() } else { options.join(" ") };
            writeln!(f, "{what:<12} {options} ({} MiB; {})", mib(asked.bytes), asked.path)?;
        }
        if let Ok(need) = &self.need {
            writeln!(f, "needed       {} MiB, {} MiB recommended", mib(need.total), mib(need.recommended))?;
            for term in &need.terms {
                writeln!(f, "  {:>5} MiB  {}: {}", mib(term.bytes), term.what, term.why)?;
            }
        }
        for note in &self.notes {
            writeln!(f, "note         {note}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states() {
        for (reserved, needed, running, coming, want) in [
            (0, 90, 0, None, State::NotConfigured),
            (0, 90, 0, Some(0), State::NotConfigured),
            (0, 90, 0, Some(128), State::RebootRequired),
            (0, 90, 128, Some(128), State::ReservedTooSmall),
            (0, 90, 128, None, State::ReservedTooSmall),
            (64, 90, 64, Some(64), State::ReservedTooSmall),
            (64, 90, 64, Some(128), State::RebootRequired),
            (128, 90, 128, Some(128), State::Reserved),
            (128, 90, 128, Some(0), State::Reserved),
            (128, 0, 128, None, State::Reserved),
        ] {
            assert_eq!(
                judge(reserved, needed, running, coming),
                want,
                "{reserved} {needed} {running} {coming:?}"
            );
        }
    }

    #[test]
    fn memory_of_a_machine() {
        let iomem = "00001000-0009fbff : System RAM\n00100000-7fffffff : System RAM\n  01000000-02ffffff : System RAM\n";
        assert_eq!(system_ram(iomem), 0x9ec00 + 0x7ff0_0000);
        assert_eq!(system_ram("00000000-00000000 : System RAM\nnonsense\n"), 0);
        assert_eq!(meminfo("MemTotal:  1024 kB\n"), 1 << 20);
    }
}

//! Would a crash now be recorded? One named check a fact, each with the value seen and what to do about it.
//!
//! | name | fails when |
//! | --- | --- |
//! | `kernel` | this kernel has no kexec or no crash dump |
//! | `kexec-allowed` | kexec_load_disabled, kexec_load_limit_panic, lockdown |
//! | `settings` | they cannot be read |
//! | `reservation` | nothing, or too little, is reserved |
//! | `crash-kernel` | there is no kernel to load, or it is not the running one |
//! | `modules` | a module that the target needs is missing |
//! | `collector`, `hooks`, `network` | what the plan needs of them is not there |
//! | `target` | it does not exist, is swap, is read-only, cannot be mounted |
//! | `target-write` | a file cannot be written, synced, renamed and removed there |
//! | `target-space` | the predicted dump does not fit |
//! | `image-loaded` | no crash kernel is loaded, or not by vmcored |
//! | `image-current` | what is loaded is not what the plan says now |
//! | `image-intact` | the image on disk is not the one that was loaded |
//! | `triggers` | the sysctls are not those of the profile that the settings name |
//! | `sysrq` | never: it says what is possible |
//! | `watchdog` | one would fire while the dump is written |
//! | `nmi` | never: it says what an NMI does |
//! | `clock` | the time of day cannot be right |
//! | `next-boot` | the next boot reserves too little, or arms nothing |
//! | `other-tools` | another kdump service is enabled |
//! | `last-proof` | the last test crash has failed |
//!
//! A check that makes no sense because of another's failure is *skipped*, so that what is wrong has one name.

mod loaded;
mod machine;
pub mod probe;
pub mod prometheus;
mod target;

use crate::arm::{ArmError, Prepared, prepare};
use crate::crashkernel;
use crate::estimate::{self, Estimate};
use crate::harvest::places::Places;
use crate::kexec::KexecState;
use crate::resolve::ResolveError;
use crate::settings::Settings;
use crate::status::{Readiness, with_causes};
use initramfs::root::Root;
use serde::Serialize;
use std::fmt;

/// Version of the JSON that `vmcorectl check --json` prints.
pub const SCHEMA: u32 = 1;

/// What a check says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// Worth knowing; it lowers nothing.
    Note,
    /// It is not known to be as it should be, or will not stay so.
    Degraded,
    /// A crash now leaves nothing, or less than it should.
    Failed,
    /// Another failure leaves nothing to look at.
    Skipped,
}

/// A check.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Check {
    /// Its name; it stays.
    pub name: &'static str,
    /// What it says.
    pub state: State,
    /// What was seen.
    pub value: String,
    /// What to do; empty where there is nothing to do.
    pub remedy: String,
}

/// All of them. `vmcorectl check --json` prints it as it is.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Checked {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The answer.
    pub readiness: Readiness,
    /// When it was looked at, seconds since 1970.
    pub time: u64,
    /// The checks, in the order of the table above.
    pub checks: Vec<Check>,
    /// The dump that is to be expected; absent where that could not be found out.
    pub estimate: Option<Estimate>,
    /// MB/s that each target took, in the order of the plan; null where it was not written to.
    pub speeds: Vec<Option<f64>>,
    /// Bytes reserved for the crash kernel.
    pub reserved: Option<u64>,
}

/// How closely to look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Look {
    /// Write to the targets.
    pub write: bool,
    /// This is the running system: mount, log in, ask systemd.
    pub live: bool,
}

/// The checks so far.
#[derive(Debug, Default)]
struct List(Vec<Check>);

impl List {
    fn add(&mut self, name: &'static str, state: State, value: impl Into<String>, remedy: impl Into<String>) {
        self.0.push(Check { name, state, value: value.into(), remedy: remedy.into() });
    }
    fn ok(&mut self, name: &'static str, value: impl Into<String>) {
        self.add(name, State::Ok, value, "");
    }
    fn skip(&mut self, name: &'static str, because: &str) {
        self.add(name, State::Skipped, because, "");
    }
    fn fails(&self) -> bool {
        self.0.iter().any(|check| check.state == State::Failed)
    }
}

/// Looks at the system at `root`. `settings` is an error where they cannot be read.
pub fn check(settings: Result<&Settings, String>, root: &Root, look: Look) -> Result<Checked, ArmError> {
    let mut list = List::default();
    let kexec = KexecState::read(root)?;
    let prepared = settings.as_ref().ok().map(|settings| prepare(settings, root));
    machine::kernel(&kexec, prepared.as_ref().and_then(|p| p.as_ref().ok()), &mut list);
    let settings = match settings {
        Ok(settings) => {
            list.ok("settings", "understood");
            Some(settings)
        }
        Err(why) => {
            list.add("settings", State::Failed, why, "`vmcorectl config check`");
            None
        }
    };
    let need = match &prepared {
        Some(Ok(prepared)) => crashkernel::need::need(prepared, root).map_err(|e| with_causes(&e)),
        _ => Err("there is no plan".to_owned()),
    };
    let report = crashkernel::Report::read(root, need)?;
    machine::reservation(&report, &kexec, &mut list);
    let (mut estimate, mut speeds) = (None, Vec::new());
    match (&prepared, settings) {
        (Some(Ok(prepared)), Some(settings)) => {
            plan(prepared, root, &mut list)?;
            if let Some(spec) = prepared.resolved.plan.dumps.first() {
                match estimate::estimate(root, spec) {
                    Ok(found) => estimate = Some(found),
                    Err(why) => log::info!("no estimate: {why}"),
                }
            }
            let places = Places::of_plan(&prepared.resolved.plan.targets, Some(settings), root, look.live);
            speeds = target::targets(prepared, settings, &places, estimate.as_ref(), root, look, &mut list);
            if let (Some(found), Some(speed)) = (estimate.take(), speeds.first()) {
                estimate = Some(match speed {
                    Some(speed) => found.at(*speed),
                    None => found,
                });
            }
        }
        (Some(Err(e)), _) => no_plan(e, &mut list),
        _ => {}
    }
    loaded::loaded(&kexec, prepared.as_ref().and_then(|p| p.as_ref().ok()), root, &mut list)?;
    machine::triggers(settings, root, &mut list);
    machine::surroundings(prepared.as_ref().and_then(|p| p.as_ref().ok()), root, &mut list)?;
    machine::next_boot(&report, root, &mut list)?;
    loaded::proof(root, &mut list)?;
    let state = |state| list.0.iter().any(|check| check.state == state);
    let readiness = if list.fails() {
        Readiness::NotReady
    } else if state(State::Degraded) {
        Readiness::Degraded
    } else {
        Readiness::Ready
    };
    Ok(Checked {
        schema: SCHEMA,
        readiness,
        time: crate::harvest::now(),
        checks: list.0,
        estimate,
        speeds,
        reserved: kexec.reserved,
    })
}

/// What the plan was made of is there.
fn plan(prepared: &Prepared, root: &Root, list: &mut List) -> Result<(), ArmError> {
    let resolved = &prepared.resolved;
    let running = root.read_line("/proc/sys/kernel/osrelease")?.unwrap_or_default();
    let shown = format!("{} ({})", resolved.kernel.path.display(), resolved.kernel.release);
    if resolved.kernel.release == running {
        list.ok("crash-kernel", shown);
    } else {
        list.add(
            "crash-kernel",
            State::Note,
            format!("{shown}, while {running} runs"),
            "it is what the settings say; leave `image` out of [kernel] for the running one",
        );
    }
    list.ok("modules", format!("{} for {}", resolved.modules.modules.len(), resolved.kernel.release));
    Ok(())
}

/// One name for what keeps the plan from being made.
fn no_plan(error: &ArmError, list: &mut List) {
    let name = match error {
        ArmError::Resolve(e) => match e {
            ResolveError::Kernel(_) => "crash-kernel",
            ResolveError::NoCollector(_) => "collector",
            ResolveError::Aside(_) => "hooks",
            ResolveError::Network(_) => "network",
            ResolveError::NoRules(..) | ResolveError::EmptyRules(..) | ResolveError::Rules { .. } => {
                "settings"
            }
            ResolveError::Image(
                initramfs::Error::MissingModule { .. }
                | initramfs::Error::BadModule { .. }
                | initramfs::Error::Omitted { .. },
            ) => "modules",
            _ => "target",
        },
        ArmError::Cmdline(_) => "settings",
        _ => "image-current",
    };
    // Settings that could be read but not used: one check of that name.
    list.0.retain(|check| check.name != name);
    list.add(name, State::Failed, with_causes(error), "then `vmcorectl arm`");
    for (other, why) in [("target-write", "there is no plan"), ("target-space", "there is no plan")] {
        list.skip(other, why);
    }
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.readiness)?;
        for Check { name, state, value, remedy } in &self.checks {
            let sign = match state {
                State::Ok => "ok",
                State::Note => "note",
                State::Degraded => "DEGRADED",
                State::Failed => "FAILED",
                State::Skipped => "skipped",
            };
            writeln!(f, "  {sign:<9} {name:<14} {value}")?;
            if !remedy.is_empty() {
                writeln!(f, "  {:<9} {:<14} -> {remedy}", "", "")?;
            }
        }
        if let Some(estimate) = &self.estimate {
            write!(f, "{estimate}")?;
        }
        Ok(())
    }
}

//! Is this machine ready to record its own death? Looked at, never changed.

use crate::arm::{ArmError, Loaded, Prepared, loaded, prepare};
use crate::kexec::KexecState;
use crate::settings::Settings;
use initramfs::root::Root;
use serde::Serialize;

/// The answer. As a number, the exit code of `vmcorectl status`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Readiness {
    /// A crash now is recorded as the settings say.
    Ready = 0,
    /// Something is loaded, but it is not known to be what the settings say.
    Degraded = 1,
    /// A crash now leaves nothing.
    NotReady = 2,
}

impl std::fmt::Display for Readiness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::NotReady => "not ready",
        })
    }
}

/// The answer with its reasons; `vmcorectl status --json` prints it as it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Report {
    /// The answer.
    pub readiness: Readiness,
    /// Why it is no better: what happened, the value seen, what to do. Empty if ready.
    pub reasons: Vec<String>,
    /// Bytes reserved for the crash kernel.
    pub reserved: Option<u64>,
    /// A crash kernel is loaded.
    pub loaded: bool,
    /// What we loaded, if we did.
    pub ours: Option<Loaded>,
    /// Whether it is what would be loaded now; absent where that could not be found out.
    pub current: Option<bool>,
    /// What the user should know although it does not lower the readiness.
    pub warnings: Vec<String>,
    /// What the daemon says, where one runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub daemon: Option<crate::daemon::State>,
    /// The last test crash, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proof: Option<crate::harvest::proof::Proof>,
}

/// Looks at the system at `root`; plans and builds in memory to see whether what is loaded is current. `settings` is
/// an error where they cannot be read.
pub fn report(settings: Result<&Settings, String>, root: &Root) -> Result<Report, ArmError> {
    let kexec = KexecState::read(root)?;
    let ours = loaded(root)?;
    // Nobody needs an image built to hear that nothing is loaded.
    let prepared = match settings {
        Ok(settings) if kexec.loaded && ours.is_some() => {
            Some(prepare(settings, root).map_err(|e| with_causes(&e)))
        }
        Ok(_) => None,
        Err(why) => Some(Err(why)),
    };
    let report = assess(&kexec, ours, prepared);
    let proof = crate::harvest::proof::Proof::read(root)?;
    Ok(Report { daemon: crate::daemon::varlink::status(root), proof, ..report })
}

/// An error and what caused it, on one line.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

fn assess(kexec: &KexecState, ours: Option<Loaded>, prepared: Option<Result<Prepared, String>>) -> Report {
    let changed = match (&prepared, &ours) {
        (Some(Ok(prepared)), Some(ours)) => Some(Ok(prepared.differences(ours))),
        (Some(Err(why)), _) => Some(Err(why.clone())),
        _ => None,
    };
    let warnings = match prepared {
        Some(Ok(prepared)) => prepared.warnings,
        _ => Vec::new(),
    };
    judge(kexec, ours, changed.as_ref(), warnings)
}

fn judge(
    kexec: &KexecState,
    ours: Option<Loaded>,
    changed: Option<&Result<Vec<&'static str>, String>>,
    warnings: Vec<String>,
) -> Report {
    let mut reasons = Vec::new();
    let mut readiness = Readiness::Ready;
    let mut lower = |to: Readiness, reason: String| {
        readiness = readiness.max(to);
        reasons.push(reason);
    };
    if let Err(e) = kexec.check_reservation() {
        lower(Readiness::NotReady, e.to_string());
    } else if !kexec.loaded {
        lower(Readiness::NotReady, "a crash kernel is not loaded: run `vmcorectl arm`".to_owned());
        // Why arming will not help either.
        if let Err(e) = kexec.check_load(0) {
            lower(Readiness::NotReady, e.to_string());
        }
    } else if ours.is_none() {
        lower(
            Readiness::Degraded,
            "a crash kernel is loaded, but not by vmcored: run `vmcorectl arm`, and disable the other tool \
             (kdump-tools, kdump.service)"
                .to_owned(),
        );
    }
    match changed {
        Some(Ok(changed)) if !changed.is_empty() => lower(
            Readiness::Degraded,
            format!("what is loaded is out of date ({} changed): run `vmcorectl arm`", changed.join(", ")),
        ),
        Some(Err(why)) if kexec.loaded => {
            lower(Readiness::Degraded, format!("cannot tell whether what is loaded is current: {why}"));
        }
        Some(Err(why)) => lower(Readiness::NotReady, format!("nothing can be armed: {why}")),
        _ => {}
    }
    let current = changed.and_then(|c| c.as_ref().ok()).map(Vec::is_empty);
    let (reserved, loaded) = (kexec.reserved, kexec.loaded);
    Report { readiness, reasons, reserved, loaded, ours, current, warnings, daemon: None, proof: None }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}", self.readiness)?;
        for reason in &self.reasons {
            writeln!(f, "  {reason}")?;
        }
        match self.reserved {
            None => writeln!(f, "reservation  none, no kexec in this kernel")?,
            Some(bytes) => writeln!(f, "reservation  {} MiB", bytes >> 20)?,
        }
        match (&self.ours, self.loaded) {
            (_, false) => writeln!(f, "loaded       no")?,
            (None, true) => writeln!(f, "loaded       by another program")?,
            (Some(ours), true) => {
                writeln!(f, "loaded       {} at {}", ours.release, collector::utc::readable(ours.time))?;
                writeln!(f, "image        {}", ours.image)?;
            }
        }
        if let Some(current) = self.current {
            writeln!(f, "current      {}", if current { "yes" } else { "no" })?;
        }
        if let Some(daemon) = &self.daemon {
            let crate::daemon::State { plans, loads, events, pid, .. } = daemon;
            writeln!(f, "daemon       process {pid}: {plans} plans, {loads} loads, {events} events")?;
        }
        if let Some(proof) = &self.proof {
            let (when, seconds) = (collector::utc::readable(proof.time), proof.seconds.unwrap_or(0));
            let said = if proof.passed { "passed" } else { "FAILED" };
            let current = self.ours.as_ref().is_some_and(|ours| ours.image == proof.image);
            let with = if current { "this image" } else { "another image" };
            let mib = proof.bytes.div_ceil(1 << 20);
            writeln!(f, "last proof   {said} at {when}, with {with}: {seconds} s, {mib} MiB")?;
        }
        for warning in &self.warnings {
            writeln!(f, "warning      {warning}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        let good =
            KexecState { reserved: Some(1 << 27), loaded: true, has_sysfs: true, ..KexecState::default() };
        let ours = || {
            Some(Loaded {
                image: "ab".into(),
                kernel: "/boot/k".into(),
                kernel_sha256: "cd".into(),
                release: "6.1".into(),
                cmdline: String::new(),
                time: 7,
                boot_id: String::new(),
                layout: crate::layout::Layout::default(),
            })
        };
        let none = KexecState { reserved: Some(0), loaded: false, ..good.clone() };
        let idle = KexecState { loaded: false, ..good.clone() };
        let shut = KexecState { disabled: true, ..idle.clone() };
        let fresh = Ok(vec![]);
        let stale = Ok(vec!["image", "kernel"]);
        let broken = Err("no target".to_owned());
        let cases = [
            (&good, ours(), Some(&fresh), Readiness::Ready, ""),
            (&good, ours(), Some(&stale), Readiness::Degraded, "(image, kernel changed)"),
            (&good, ours(), Some(&broken), Readiness::Degraded, "no target"),
            (&good, None, None, Readiness::Degraded, "not by vmcored"),
            (&idle, None, None, Readiness::NotReady, "run `vmcorectl arm`"),
            (&idle, ours(), None, Readiness::NotReady, "a crash kernel is not loaded"),
            (&shut, None, None, Readiness::NotReady, "kexec_load_disabled"),
            (&none, None, None, Readiness::NotReady, "no memory is reserved"),
        ];
        for (kexec, ours, changed, want, reason) in cases {
            let report = judge(kexec, ours, changed, Vec::new());
            assert_eq!(report.readiness, want, "{report}");
            assert!(report.to_string().contains(reason), "{report}");
            assert_eq!(report.reasons.is_empty(), want == Readiness::Ready);
        }
    }
}

//! Settings of what is done besides dumping: `[hooks]`, `[watchdog]`, and what happens when there is no dump.

use super::{Check, DEFAULT_PATH, LocalSettings, Place, Settings, TargetSettings};
use collector::plan::{Action, RungLimits};
use serde::Deserialize;
use toml::Spanned;

/// What is done when the dump is not complete; `final_action` comes after the last two.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureAction {
    /// Restart.
    #[default]
    Reboot,
    /// Stop, power on.
    Halt,
    /// Power off.
    Poweroff,
    /// A shell on the console.
    Shell,
    /// The root file system is the last target.
    DumpToRootfs,
}

impl FailureAction {
    /// What the machine does at last.
    #[must_use]
    pub fn at_last(self, final_action: Action) -> Action {
        match self {
            Self::Reboot => Action::Reboot,
            Self::Halt => Action::Halt,
            Self::Poweroff => Action::Poweroff,
            Self::Shell | Self::DumpToRootfs => final_action,
        }
    }
}

/// `[hooks]`: programs of the user's, and where more of them are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HookSettings {
    /// Run when the log is saved, before the dump.
    pub pre: Vec<String>,
    /// Run after the dump.
    pub post: Vec<String>,
    /// Run when it is not complete.
    pub emergency: Vec<String>,
    /// Has directories `pre.d`, `post.d` and `emergency.d`; what can be executed in them is run, too.
    pub directory: String,
    /// An exit status other than 0 of one of `pre` means that no dump is wanted.
    pub pre_decides: bool,
    /// Seconds until one is killed.
    pub limit: u64,
}

impl Default for HookSettings {
    fn default() -> Self {
        Self {
            pre: Vec::new(),
            post: Vec::new(),
            emergency: Vec::new(),
            directory: "/etc/kdump".to_owned(),
            pre_decides: true,
            limit: 60,
        }
    }
}

/// `[watchdog]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WatchdogSettings {
    /// Which is fed.
    pub feed: Feed,
    /// Seconds without food after which it resets the machine.
    pub timeout: u32,
}

impl Default for WatchdogSettings {
    fn default() -> Self {
        Self { feed: Feed::default(), timeout: 60 }
    }
}

/// `[triage]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TriageSettings {
    /// Whether a report on the crash is written before the dump.
    pub enabled: bool,
}

impl Default for TriageSettings {
    fn default() -> Self {
        Self { enabled: true }
    }
}

/// Which hardware watchdog is fed in the crash kernel.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Feed {
    /// The one that is running when the machine is armed.
    #[default]
    Active,
    /// The one that there is, running or not.
    Any,
    /// None: one that runs resets the machine in the middle of the dump.
    None,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHooks {
    #[serde(default)]
    pre: Vec<Spanned<String>>,
    #[serde(default)]
    post: Vec<Spanned<String>>,
    #[serde(default)]
    emergency: Vec<Spanned<String>>,
    directory: Option<Spanned<String>>,
    pre_decides: Option<bool>,
    limit: Option<Spanned<i64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawWatchdog {
    feed: Option<Feed>,
    timeout: Option<Spanned<i64>>,
}

impl Check<'_> {
    pub(super) fn hooks(&mut self, raw: RawHooks) -> HookSettings {
        let default = HookSettings::default();
        HookSettings {
            pre: self.absolutes(raw.pre),
            post: self.absolutes(raw.post),
            emergency: self.absolutes(raw.emergency),
            directory: raw.directory.map_or(default.directory, |d| self.absolute(d)),
            pre_decides: raw.pre_decides.unwrap_or(default.pre_decides),
            limit: raw.limit.map_or(default.limit, |limit| self.limit(limit)),
        }
    }

    pub(super) fn absolutes(&mut self, raw: Vec<Spanned<String>>) -> Vec<String> {
        raw.into_iter().map(|path| self.absolute(path)).collect()
    }

    pub(super) fn watchdog(&mut self, raw: RawWatchdog) -> WatchdogSettings {
        let default = WatchdogSettings::default();
        let timeout =
            raw.timeout.map_or(default.timeout, |timeout| match u32::try_from(*timeout.get_ref()) {
                Ok(seconds) if (5..=3600).contains(&seconds) => seconds,
                _ => {
                    let message = format!("a watchdog's timeout of {} seconds", timeout.get_ref());
                    self.complain(timeout.span(), message, "expected 5 to 3600");
                    default.timeout
                }
            });
        WatchdogSettings { feed: raw.feed.unwrap_or_default(), timeout }
    }
}

impl Settings {
    /// The targets, with the last resort where there is one.
    #[must_use]
    pub fn ladder(&self) -> Vec<TargetSettings> {
        let mut ladder = self.targets.clone();
        if self.on_failure == FailureAction::DumpToRootfs {
            let path = self.rootfs_path.clone().unwrap_or_else(|| DEFAULT_PATH.to_owned());
            let last = Place::Local(LocalSettings { device: None, path, filesystem: None, options: None });
            if ladder.iter().all(|target| target.place != last) {
                ladder.push(TargetSettings { place: last, level: None, limits: RungLimits::default() });
            }
        }
        ladder
    }
}

//! `[harvest]`: what is done with dumps when the machine is up again.

use super::Check;
use serde::Deserialize;
use toml::Spanned;

/// What is done with dumps when the machine is up again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HarvestSettings {
    /// Read all of each new dump.
    pub verify: bool,
    /// Crashes whose dumps are kept; all unless set.
    pub keep: Option<u64>,
    /// Days that they are kept.
    pub keep_days: Option<u64>,
    /// MiB that they may take together.
    pub keep_mib: Option<u64>,
    /// A program that is told of each crash.
    pub notify: Option<String>,
}

impl Default for HarvestSettings {
    fn default() -> Self {
        Self { verify: true, keep: None, keep_days: None, keep_mib: None, notify: None }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHarvest {
    verify: Option<bool>,
    keep: Option<Spanned<i64>>,
    keep_days: Option<Spanned<i64>>,
    keep_mib: Option<Spanned<i64>>,
    notify: Option<Spanned<String>>,
}

impl Check<'_> {
    pub(super) fn harvest(&mut self, raw: RawHarvest) -> HarvestSettings {
        let mut number = |raw: Option<Spanned<i64>>, what: &str| {
            let raw = raw?;
            let number = u64::try_from(*raw.get_ref()).ok().filter(|n| (1..=1 << 40).contains(n));
            if number.is_none() {
                let advice = "expected 1 or more; leave it out to keep all";
                self.complain(raw.span(), format!("{} {what}", raw.get_ref()), advice);
            }
            number
        };
        let keep = number(raw.keep, "dumps to keep");
        let keep_days = number(raw.keep_days, "days to keep dumps");
        let keep_mib = number(raw.keep_mib, "MiB of dumps to keep");
        HarvestSettings {
            verify: raw.verify.unwrap_or(true),
            keep,
            keep_days,
            keep_mib,
            notify: raw.notify.map(|path| self.absolute(path)),
        }
    }
}

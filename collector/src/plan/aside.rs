//! What is done besides dumping: the user's hooks, a shell when there is no dump, the hardware watchdog.

use serde::{Deserialize, Serialize};

/// Programs of the user's, in the image under the paths that they have on the running system.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hooks {
    /// Run when the kernel log is saved, before the dump.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pre: Vec<Hook>,
    /// Run after the dump, whatever became of it; their argument is 0 when it is complete, else 1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub post: Vec<Hook>,
    /// Run when the dump is not complete, after those.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub emergency: Vec<Hook>,
}

impl Hooks {
    /// There are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pre.is_empty() && self.post.is_empty() && self.emergency.is_empty()
    }
}

/// One of them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    /// Its absolute path.
    pub program: String,
    /// Seconds until it is killed, with its process group.
    pub limit: u64,
    /// Of a pre hook: an exit status other than 0 means that no dump is wanted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub decides: bool,
}

/// A shell on the console, for whoever is there when the dump is not complete.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shell {
    /// Its absolute path.
    pub program: String,
    /// Its arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arguments: Vec<String>,
    /// It is busybox, which can install its other commands as links.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub busybox: bool,
    /// Seconds until it is ended; without, it is waited for until somebody leaves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

/// A hardware watchdog that is to be fed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watchdog {
    /// What its driver calls it, in `/sys/class/watchdog/*/identity`: `i6300ESB timer`. Empty where the kernel does not tell.
    pub identity: String,
    /// Seconds without food after which it resets the machine.
    pub timeout: u32,
}

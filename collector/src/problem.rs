//! Soft errors: what went wrong without stopping the dump. They end up in the manifest, under stable codes.

use serde::{Deserialize, Serialize};

/// A stable code that a person can look up and a script can match. Printed as `VC123`.
///
/// Ranges: 1xx vmcore, 2xx kernel and mem_map, 3xx filter, 4xx dump format, 5xx target, 6xx PID 1.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Code(pub u16);

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "VC{:03}", self.0)
    }
}

/// The table of codes: name, number, meaning.
macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal),* $(,)?) => {
        impl Code {
            $($(#[$doc])* pub const $name: Code = Code($number);)*
            /// Every code there is, with its name.
            pub const ALL: &'static [(Code, &'static str)] = &[$((Code($number), stringify!($name))),*];
        }
    };
}

codes! {
    /// Bytes of the vmcore could not be read.
    VMCORE_UNREADABLE = 101,
    /// A PT_NOTE or a note in it is malformed; the rest of the notes was used.
    NOTE_MALFORMED = 102,
    /// A PT_LOAD is malformed or reaches past the end of the file; what is there was used.
    SEGMENT_MALFORMED = 103,
    /// The dump that is read is incomplete: it says so, it is cut off, or a part of it is not there.
    INPUT_INCOMPLETE = 104,
    /// A VMCOREINFO key that the filter wants is missing; the level was lowered.
    VMCOREINFO_KEY_MISSING = 201,
    /// A virtual address could not be translated.
    TRANSLATION_FAILED = 202,
    /// A stretch of mem_map could not be read or makes no sense; its pages were kept.
    MEM_MAP_UNREADABLE = 203,
    /// mem_map could not be found at all; every page was kept.
    MEM_MAP_MISSING = 204,
    /// The kernel log could not be decoded, or only in part.
    LOG_DAMAGED = 205,
    /// The utsname of the crashed kernel could not be read.
    UTSNAME_UNREADABLE = 206,
    /// The report on the crash could not be made or written, or not all of it.
    TRIAGE_FAILED = 207,
    /// A struct page claims an order that cannot be; its pages were kept.
    ORDER_IMPOSSIBLE = 301,
    /// The account of pages does not add up.
    ACCOUNT_MISMATCH = 302,
    /// A rule of what to erase could not be resolved in full; what it means is still in the dump.
    ERASE_UNRESOLVED = 303,
    /// A page could not be read while it was being dumped.
    PAGE_UNREADABLE = 401,
    /// The target filled up; the dump is partial.
    TARGET_FULL = 501,
    /// Writing to the target failed.
    TARGET_WRITE_FAILED = 502,
    /// The target has not enough room for the dump as it was asked for; a higher level was taken.
    LEVEL_RAISED = 503,
    /// The SSH server could not be reached: refused, no route, no answer.
    SSH_UNREACHABLE = 531,
    /// The SSH server's host key is not the one that was pinned before the crash.
    SSH_HOST_KEY = 532,
    /// The SSH server does not accept the user or its key.
    SSH_KEY_REFUSED = 533,
    /// The SSH server has no sftp; the dump is flattened.
    SSH_NO_SFTP = 534,
    /// The SSH connection was lost, or stood still, under way.
    SSH_LOST = 535,
    /// What the server says is not SFTP.
    SSH_PROTOCOL = 536,
    /// The SSH server cannot make files durable; its operating system will in its own time.
    SSH_NOT_DURABLE = 537,
    /// The SSH client could not be started.
    SSH_CLIENT = 538,
    /// An array, or a file system of several devices, is used without one of its members.
    ARRAY_DEGRADED = 541,
    /// Not all ways to a multipath disk came back.
    PATHS_MISSING = 542,
    /// The disks are there, but what the target lies on could not be put together from them.
    LAYER_FAILED = 543,
    /// The partition for raw dumps was not prepared, or by another version; it is not written.
    RAW_NOT_PREPARED = 551,
    /// The partition for raw dumps holds something else; it is not written.
    RAW_FOREIGN = 552,
    /// The label or the directory of a raw partition is damaged, or chunks of a dump on it are.
    RAW_DAMAGED = 553,
    /// The partition for raw dumps is in use.
    RAW_BUSY = 554,
    /// The partition for raw dumps still holds a dump that nobody has recovered; it is kept.
    RAW_NOT_RECOVERED = 555,
    /// A hook failed, could not be started, or was killed at its deadline.
    HOOK_FAILED = 561,
    /// A pre hook says that no dump is wanted: only the log was saved.
    HOOK_REFUSED = 562,
    /// The hardware watchdog cannot be fed.
    WATCHDOG_FAILED = 563,
    /// A module could not be loaded.
    MODULE_FAILED = 601,
    /// A mount failed.
    MOUNT_FAILED = 602,
    /// The device of the target did not appear in time.
    DEVICE_MISSING = 603,
    /// The engine panicked or failed.
    ENGINE_FAILED = 604,
    /// The engine was killed by a signal.
    ENGINE_KILLED = 605,
    /// The engine or another stage ran over its deadline.
    DEADLINE = 606,
    /// The network did not come up, or the target's next hop does not answer.
    NETWORK_FAILED = 607,
}

/// One soft error.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Problem {
    /// Its stable code, `VC123`.
    pub code: Code,
    /// What happened, the value seen, and what was done about it.
    pub message: String,
    /// How often this code was met; only the first messages of a code are kept.
    pub times: u64,
}

/// The soft errors of a run. Memory is bounded whatever the vmcore says: after [`Problems::PER_CODE`] entries of
/// one code the rest is only counted.
#[derive(Clone, Default, Debug)]
pub struct Problems {
    list: Vec<Problem>,
}

impl Problems {
    /// How many messages of one code are kept.
    pub const PER_CODE: usize = 8;

    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Records one problem and logs it.
    pub fn push(&mut self, code: Code, message: impl Into<String>) {
        self.push_with(code, || message.into());
    }

    /// As [`Problems::push`]; the message is made only where it is kept.
    pub fn push_with(&mut self, code: Code, message: impl FnOnce() -> String) {
        let same = self.list.iter().filter(|p| p.code == code).count();
        if same < Self::PER_CODE {
            let message = message();
            log::warn!("{code}: {message}");
            self.list.push(Problem { code, message, times: 1 });
        } else {
            self.repeat(code, 1);
        }
    }

    /// Counts `times` more of a code that has messages.
    pub fn repeat(&mut self, code: Code, times: u64) {
        if let Some(last) = self.list.iter_mut().rev().find(|p| p.code == code) {
            last.times = last.times.saturating_add(times);
        }
    }

    /// Takes over what another part has recorded.
    pub fn extend(&mut self, others: impl IntoIterator<Item = Problem>) {
        self.list.extend(others);
    }

    /// What has been recorded, oldest first.
    pub fn list(&self) -> &[Problem] {
        &self.list
    }

    /// Nothing went wrong.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

//! Fault points: what tests make go wrong on purpose, chosen on the crash kernel's command line.
//!
//! `vmcored.fault=engine-kill@50` strikes when half of the dump is written. Several are separated by commas.
//! Without the cargo feature `faults`, which no installed build has, nothing of this is compiled in.
//!
//! | fault | what happens |
//! | --- | --- |
//! | `engine-panic`, `engine-kill`, `engine-hang` | the engine panics, is killed by SIGKILL, stops moving |
//! | `engine-oom` | the engine takes memory until the OOM killer comes |
//! | `modules-hang`, `devices-hang`, `finish-hang` | that stage stops moving |
//! | `finish-kill` | the finishing child is killed before anything has its final name |
//! | `triage-panic`, `triage-hang` | the report on the crash panics, stops moving |
//! | `supervisor-panic`, `supervisor-hang` | PID 1 panics, stops moving, after the engine |

#[cfg(feature = "faults")]
mod armed {
    use crate::pid1::argument;
    use std::time::Duration;

    /// Whether the command line asks for `fault`; at which percent.
    fn asked(fault: &str) -> Option<u64> {
        let list = argument("vmcored.fault")?;
        list.split(',').find_map(|one| {
            let (name, at) = one.split_once('@').unwrap_or((one, "0"));
            if name == fault { at.parse().ok() } else { None }
        })
    }

    fn hang() {
        loop {
            std::thread::sleep(Duration::from_secs(1));
        }
    }

    fn die() {
        let result = nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::Signal::SIGKILL);
        log::error!("cannot kill myself: {result:?}");
    }

    #[expect(clippy::panic, reason = "it is what is asked for")]
    fn panic(what: &str) {
        panic!("fault point {what}");
    }

    fn take_all_memory() {
        let mut taken = Vec::new();
        loop {
            // Not zero, or the pages would not be touched.
            taken.push(vec![1_u8; 1 << 20]);
            std::hint::black_box(&taken);
        }
    }

    /// Called as the dump goes on.
    pub fn engine(percent: u64) {
        let strikes = |fault| asked(fault).is_some_and(|at| percent >= at);
        if strikes("engine-panic") {
            panic("engine-panic");
        }
        if strikes("engine-kill") {
            die();
        }
        if strikes("engine-hang") {
            hang();
        }
        if strikes("engine-oom") {
            take_all_memory();
        }
    }

    /// Called before each module.
    pub fn modules() {
        if asked("modules-hang").is_some() {
            hang();
        }
    }

    /// Called before the device is waited for.
    pub fn devices() {
        if asked("devices-hang").is_some() {
            hang();
        }
    }

    /// Called at the begin of the last stage.
    pub fn finish() {
        if asked("finish-hang").is_some() {
            hang();
        }
        if asked("finish-kill").is_some() {
            die();
        }
    }

    /// Called before the report on the crash.
    pub fn triage() {
        if asked("triage-panic").is_some() {
            panic("triage-panic");
        }
        if asked("triage-hang").is_some() {
            hang();
        }
    }

    /// Called in PID 1 after the engine.
    pub fn supervisor() {
        if asked("supervisor-panic").is_some() {
            panic("supervisor-panic");
        }
        if asked("supervisor-hang").is_some() {
            hang();
        }
    }
}

#[cfg(not(feature = "faults"))]
mod armed {
    /// Called as the dump goes on.
    #[inline]
    pub fn engine(_percent: u64) {}
    /// Called before each module.
    #[inline]
    pub fn modules() {}
    /// Called before the device is waited for.
    #[inline]
    pub fn devices() {}
    /// Called at the begin of the last stage.
    #[inline]
    pub fn finish() {}
    /// Called before the report on the crash.
    #[inline]
    pub fn triage() {}
    /// Called in PID 1 after the engine.
    #[inline]
    pub fn supervisor() {}
}

pub use armed::{devices, engine, finish, modules, supervisor, triage};

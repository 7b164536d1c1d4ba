//! The last thing: reboot, halt or power off, whatever happened before.

use super::{clock, watchdog};
use crate::plan::Action;
use crate::sys;
use nix::sys::reboot::{RebootMode, reboot};
use std::fs;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

/// How long reboot(2) may take to shut devices down before the machine is reset without.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a PID 1 that panics does. The plan's `on_failure`, once the plan is known.
static ON_PANIC: AtomicU8 = AtomicU8::new(0);

/// Sets what a panic of PID 1 ends in. Reboot until then.
pub fn on_panic(action: Action) {
    let number = match action {
        Action::Reboot => 0,
        Action::Halt => 1,
        Action::Poweroff => 2,
    };
    ON_PANIC.store(number, Ordering::Relaxed);
}

/// Logs each panic, and in PID 1 ends in the last action. In a child the panic goes its way, and PID 1 hears of
/// it.
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("(no message)");
        let at = panic.location().map(|l| format!(" at {}:{}", l.file(), l.line())).unwrap_or_default();
        let in_pid1 = std::process::id() == 1;
        log::error!("{} panicked{at}: {message}", if in_pid1 { "PID 1" } else { "a child" });
        if in_pid1 {
            act(match ON_PANIC.load(Ordering::Relaxed) {
                1 => Action::Halt,
                2 => Action::Poweroff,
                _ => Action::Reboot,
            });
        }
    }));
}

/// The last line of the log: `rebooting after 7.2 s`.
pub fn announcement(action: Action) -> String {
    format!("{} after {:.1} s", word(action), clock::since_boot().as_secs_f64())
}

/// The word for an action.
pub fn word(action: Action) -> &'static str {
    match action {
        Action::Reboot => "rebooting",
        Action::Halt => "halting",
        Action::Poweroff => "powering off",
    }
}

/// Does it. Only PID 1 may call this.
pub fn act(action: Action) -> ! {
    let mode = match action {
        Action::Reboot => RebootMode::RB_AUTOBOOT,
        Action::Halt => RebootMode::RB_HALT_SYSTEM,
        Action::Poweroff => RebootMode::RB_POWER_OFF,
    };
    watchdog::before(action);
    if action != Action::Halt {
        // reboot(2) shuts every device down first, and a dead disk can keep it waiting for ever. The child is
        // still scheduled meanwhile. (A machine that is to halt has nothing to wait for.)
        let guard = sys::spawn(|| {
            std::thread::sleep(PATIENCE);
            reset();
            0
        });
        if let Err(e) = guard {
            log::warn!("no guard for the reboot: {e}");
        }
    }
    let Err(e) = reboot(mode);
    log::error!("reboot(2): {e}; resetting the machine");
    reset();
    log::error!("cannot reset the machine; it stays here");
    loop {
        std::thread::sleep(PATIENCE);
        reset();
    }
}

/// Resets at once: no sync, no shutting down. The kernel lets this file be used whatever kernel.sysrq says.
fn reset() {
    if let Err(e) = fs::write("/proc/sysrq-trigger", "b") {
        log::error!("/proc/sysrq-trigger: {e}");
    }
}

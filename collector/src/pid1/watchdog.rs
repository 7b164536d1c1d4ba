//! The hardware watchdog: fed by the loop that also enforces the deadlines, so that it bites when PID 1 itself stands still, and
//! never while a child still may.
//!
//! The dead kernel has left it running, so it is fed from the moment its driver is there.

use crate::plan::Action;
use crate::plan::aside::Watchdog;
use crate::problem::Code;
use crate::sys;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

/// Longest time between two meals.
const MEAL: Duration = Duration::from_secs(1);

/// Seconds that it leaves to a restart. More than the restart gets from us before the machine is reset without shutting down
/// (`last`).
const RESTART: i32 = 60;

static DOG: Mutex<Option<Dog>> = Mutex::new(None);

#[derive(Debug)]
struct Dog {
    wanted: Watchdog,
    state: State,
    /// When it was fed or looked for.
    at: Option<Instant>,
}

#[derive(Debug)]
enum State {
    /// Its driver is not there yet.
    Awaited,
    Fed {
        device: File,
        /// Seconds.
        timeout: i32,
    },
    /// It is not to be had, or not wanted any more.
    Left,
}

/// A panic while it is held must not hang the way to the restart.
fn dog() -> Option<MutexGuard<'static, Option<Dog>>> {
    match DOG.try_lock() {
        Ok(dog) => Some(dog),
        Err(TryLockError::Poisoned(dog)) => Some(dog.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// Says which one there is to feed.
pub fn expect(wanted: Option<&Watchdog>) {
    if let Some(mut dog) = dog() {
        *dog = wanted.map(|wanted| Dog { wanted: wanted.clone(), state: State::Awaited, at: None });
    }
}

/// Feeds it, if it is time. For the loop of PID 1, in which nothing hangs.
pub fn feed() {
    if let Some(mut dog) = dog()
        && let Some(dog) = dog.as_mut()
    {
        dog.feed();
    }
}

/// Whether one was expected that never came.
pub fn is_missing() -> Option<String> {
    let mut dog = dog()?;
    let dog = dog.as_mut()?;
    if matches!(dog.state, State::Awaited) {
        dog.look_for(Path::new("/sys"), Path::new("/dev"));
    }
    matches!(dog.state, State::Awaited).then(|| dog.wanted.identity.clone())
}

/// What a restart that hangs is to meet, and what a machine that stands still is not to.
pub fn before(action: Action) {
    if let Some(mut dog) = dog()
        && let Some(dog) = dog.as_mut()
    {
        if action == Action::Reboot { dog.shorten() } else { dog.leave() }
    }
}

/// It is fed no more, and stops: somebody is at the console.
pub fn leave() {
    if let Some(mut dog) = dog()
        && let Some(dog) = dog.as_mut()
    {
        dog.leave();
    }
}

impl Dog {
    fn feed(&mut self) {
        let interval = match &self.state {
            State::Left => return,
            State::Awaited => MEAL / 4,
            State::Fed { timeout, .. } => {
                MEAL.min(Duration::from_secs(u64::try_from(*timeout).unwrap_or(1)) / 4)
            }
        };
        if self.at.is_some_and(|at| at.elapsed() < interval) {
            return;
        }
        self.at = Some(Instant::now());
        match &mut self.state {
            State::Fed { device, .. } => {
                if let Err(e) = device.write_all(&[0]) {
                    log::warn!("{}: the watchdog cannot be fed: {e}", Code::WATCHDOG_FAILED);
                    self.state = State::Left;
                }
            }
            State::Awaited => self.look_for(Path::new("/sys"), Path::new("/dev")),
            State::Left => {}
        }
    }

    fn look_for(&mut self, sys: &Path, dev: &Path) {
        let Some(name) = find(sys, &self.wanted.identity) else { return };
        self.state = match open(&dev.join(&name), &self.wanted) {
            Ok((device, timeout)) => {
                log::info!("watchdog: {name} ({}) is fed, and waits {timeout} s", self.wanted.identity);
                State::Fed { device, timeout }
            }
            // udev is not here: the kernel makes the node a moment after the class's entry.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return,
            Err(e) => {
                log::warn!(
                    "{}: the watchdog {name} ({}) cannot be opened: {e}",
                    Code::WATCHDOG_FAILED,
                    self.wanted.identity
                );
                State::Left
            }
        };
    }

    fn shorten(&mut self) {
        if let State::Fed { device, timeout } = &mut self.state {
            if *timeout > RESTART {
                match sys::set_watchdog_timeout(device, RESTART) {
                    Ok(set) => *timeout = set,
                    Err(e) => log::debug!("watchdog: {RESTART} s: {e}"),
                }
            }
            match device.write_all(&[0]) {
                Ok(()) => log::info!("watchdog: a restart that hangs is cut after {timeout} s"),
                Err(e) => log::debug!("watchdog: {e}"),
            }
        }
    }

    fn leave(&mut self) {
        if let State::Fed { device, .. } = &mut self.state {
            // Both ways that there are: a child that was abandoned may still have it open, and then closing means nothing.
            let stopped = sys::stop_watchdog(device);
            let farewell = device.write_all(b"V");
            match stopped.and(farewell) {
                Ok(()) => log::info!("watchdog: stopped"),
                Err(e) => log::warn!("watchdog: it cannot be stopped, and resets the machine: {e}"),
            }
        }
        self.state = State::Left;
    }
}

/// The name of a watchdog, by what its driver calls it: `watchdog0`.
fn find(sys: &Path, identity: &str) -> Option<String> {
    let class = sys.join("class/watchdog");
    let entries = fs::read_dir(&class).ok()?;
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    names.into_iter().find(|name| {
        fs::read_to_string(class.join(name).join("identity")).unwrap_or_default().trim() == identity
    })
}

fn open(node: &Path, wanted: &Watchdog) -> io::Result<(File, i32)> {
    let mut device = OpenOptions::new().write(true).open(node)?;
    device.write_all(&[0])?;
    let timeout = i32::try_from(wanted.timeout).unwrap_or(i32::MAX);
    let set = sys::set_watchdog_timeout(&device, timeout).unwrap_or_else(|e| {
        // Its own time is the dead kernel's, or the driver's: food comes more often than any of these run out.
        log::warn!("watchdog: {timeout} s is not what it can be set to: {e}");
        timeout
    });
    if let Err(e) = sys::clear_watchdog_pretimeout(&device) {
        log::debug!("watchdog: it has no time before its time: {e}");
    }
    Ok((device, set))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dog(identity: &str) -> Dog {
        let wanted = Watchdog { identity: identity.to_owned(), timeout: 30 };
        Dog { wanted, state: State::Awaited, at: None }
    }

    fn machine(watchdogs: &[(&str, Option<&str>)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, identity) in watchdogs {
            let class = dir.path().join("class/watchdog").join(name);
            fs::create_dir_all(&class).unwrap();
            if let Some(identity) = identity {
                fs::write(class.join("identity"), format!("{identity}\n")).unwrap();
            }
        }
        dir
    }

    #[test]
    fn the_right_one_is_found() {
        let some = [("watchdog0", Some("Software Watchdog")), ("watchdog1", Some("iTCO_wdt"))];
        let sys = machine(&some);
        assert_eq!(find(sys.path(), "iTCO_wdt").as_deref(), Some("watchdog1"));
        assert_eq!(find(sys.path(), "i6300ESB timer"), None);
        assert_eq!(find(Path::new("/nonexistent"), "iTCO_wdt"), None);
        let silent = machine(&[("watchdog0", None)]);
        assert_eq!(find(silent.path(), "").as_deref(), Some("watchdog0"));
    }

    #[test]
    fn it_is_awaited_until_its_node_is_there() {
        let sys = machine(&[("watchdog0", Some("i6300esb"))]);
        let dev = tempfile::tempdir().unwrap();
        let mut dog = dog("i6300esb");
        dog.look_for(sys.path(), dev.path());
        assert!(matches!(dog.state, State::Awaited), "{dog:?}");
        // A file that is no watchdog: it takes food, and no settings.
        let node = dev.path().join("watchdog0");
        fs::write(&node, "").unwrap();
        dog.look_for(sys.path(), dev.path());
        assert!(matches!(dog.state, State::Fed { timeout: 30, .. }), "{dog:?}");
        let meals = || fs::metadata(&node).unwrap().len();
        assert_eq!(meals(), 1);
        dog.feed();
        dog.feed();
        assert_eq!(meals(), 2, "it is fed no more often than it needs");
        dog.shorten();
        assert_eq!(meals(), 3);
        dog.leave();
        dog.feed();
        assert_eq!(fs::read(&node).unwrap(), b"\0\0\0V", "nothing comes after the farewell");
    }

    #[test]
    fn none_is_expected_none_is_missed() {
        feed();
        before(Action::Reboot);
        leave();
        assert_eq!(is_missing(), None);
    }
}

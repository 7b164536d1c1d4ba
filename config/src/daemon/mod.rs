//! `vmcored`: keeps what is loaded true to what the system is now.
//!
//! ```text
//! last good image --(at once)--> loaded
//! inotify, uevents, routes --events--> debounced --(a thread)--> plan, image, load if its hash is another
//!                                                      |
//! varlink: status, readiness, subscribe <--- State <---+        a failure leaves what is loaded
//! ```
//!
//! One loop that waits and never works: planning and looking, which may wait for a resolver or a disk, are threads'. Whoever watches
//! the daemon hears of the loop alone. All that has to outlive it lies in files that are replaced whole, so that it may be killed at
//! any moment.

pub mod events;
mod looking;
mod patience;
pub mod supervisor;
pub mod varlink;

use crate::arm::{self, Outcome};
use crate::kexec::KexecState;
use crate::layout::kernel_follows;
use crate::load;
use crate::status::with_causes;
use collector::plan::Target;
use events::{Event, Events};
use initramfs::root::Root;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use patience::{Patience, Wait};
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use supervisor::Supervisor;
use varlink::Server;

/// Quiet after an event until it is acted on: a kernel package is a thousand files.
const QUIET: Duration = Duration::from_secs(2);
/// Where it is never quiet, after this.
const LONGEST: Duration = Duration::from_secs(20);
/// A plan that failed is tried again after this, doubled each time.
const RETRY: Duration = Duration::from_secs(15);
/// At the longest after this. Also how often it is looked whether anybody has unloaded the crash kernel.
const REGULAR: Duration = Duration::from_secs(600);

/// What the daemon knows; the keys of varlink's `status`.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct State {
    /// A crash kernel of ours is loaded.
    pub armed: bool,
    /// The image that is loaded.
    pub image: Option<String>,
    /// What is loaded is what the plan says; false while it is the last good one.
    pub current: bool,
    /// Why it is not.
    pub failure: Option<String>,
    /// When it was planned last, seconds since 1970.
    pub planned: Option<u64>,
    /// Milliseconds that took.
    pub plan_ms: Option<u64>,
    /// Milliseconds from the start of this daemon until something was loaded.
    pub armed_after_ms: Option<u64>,
    /// How often it was planned.
    pub plans: u64,
    /// How often it was loaded.
    pub loads: u64,
    /// How many events were seen that could matter.
    pub events: u64,
    /// What set off the last plan.
    pub because: String,
    /// Version of the daemon.
    pub version: String,
    /// Process id.
    pub pid: u32,
}

/// What a plan came to.
struct Planned {
    result: Result<(Outcome, String, bool), String>,
    /// Files besides those that always matter that it was made of.
    files: Vec<PathBuf>,
    took: Duration,
}

/// What is to be done, and when.
struct Due {
    first: Instant,
    last: Instant,
    because: String,
}

/// A plan that is being made.
struct Working {
    thread: JoinHandle<Planned>,
    since: Instant,
    /// It was said that it takes long.
    told: bool,
}

/// Runs until it is killed, or gives up on a plan that never ends.
pub fn run(root: &Root) -> io::Result<()> {
    watch(root, &Supervisor::from_environment(), Patience::default())
}

fn watch(root: &Root, supervisor: &Supervisor, patience: Patience) -> io::Result<()> {
    let started = Instant::now();
    let mut state = State {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        because: "start".to_owned(),
        ..State::default()
    };
    match arm::arm_last(root) {
        Ok(Some(image)) => {
            log::info!("loaded the last good image, {image}");
            state.armed_after_ms = Some(millis(started.elapsed()));
            state.loads += 1;
        }
        Ok(None) => {}
        Err(e) => log::warn!("the last good image cannot be loaded: {}", with_causes(&e)),
    }
    refresh(&mut state, root);
    let shared = Arc::new(Mutex::new(state));
    let mut server = Server::open(&root.path(varlink::SOCKET), root.clone())?;
    let mut events = Events::open(root)?;
    supervisor.ready(&said(&lock(&shared)));
    let (mut waker, woken) = UnixStream::pair()?;
    woken.set_nonblocking(true)?;
    let mut due = Some(Due { first: started, last: quiet_since(started), because: "start".to_owned() });
    let mut working: Option<Working> = None;
    let mut retry = RETRY;
    let mut next = Instant::now() + REGULAR;
    let mut reach_network = true;
    loop {
        let now = Instant::now();
        supervisor.alive();
        if let Some(working) = &mut working {
            match patience.with(working.since, now) {
                Wait::Fine => {}
                Wait::Slow if working.told => {}
                Wait::Slow => {
                    working.told = true;
                    slow(&mut lock(&shared), patience);
                    tell(&shared, supervisor, &mut server);
                }
                // Nothing that changes is followed meanwhile. Its thread is left where it waits: we are to be started anew.
                Wait::Hung => return Err(io::Error::new(io::ErrorKind::TimedOut, patience.given_up())),
            }
        }
        let act_at = due.as_ref().map(|due| (due.last + QUIET).min(due.first + LONGEST));
        if working.is_none()
            && act_at.is_some_and(|at| at <= now)
            && let Some(act) = due.take()
        {
            lock(&shared).because.clone_from(&act.because);
            let wake = waker.try_clone()?;
            let root = root.clone();
            #[expect(
                clippy::disallowed_methods,
                reason = "who gives up on a plan that hangs must not wait for its end"
            )]
            let thread = std::thread::spawn(move || {
                let planned = plan(&root);
                // The loop is waiting for it; if it is gone, so are we.
                drop((&wake).write_all(b"!"));
                planned
            });
            working = Some(Working { thread, since: now, told: false });
        }
        let wait = [
            act_at.filter(|_| working.is_none()),
            Some(next).filter(|_| working.is_none()),
            working.as_ref().map(|working| patience.next(working.since, now)),
            supervisor.next(),
        ];
        let wait = wait.into_iter().flatten().min();
        let wait = wait.map_or(REGULAR, |at| at.saturating_duration_since(now)) + Duration::from_millis(1);
        let timeout = PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX);
        let mut waiting: Vec<PollFd<'_>> = vec![PollFd::new(woken.as_fd(), PollFlags::POLLIN)];
        waiting.extend(events.descriptors().map(|(fd, flags)| PollFd::new(fd, flags)));
        waiting.extend(server.descriptors().map(|(fd, flags)| PollFd::new(fd, flags)));
        match poll(&mut waiting, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
        let mounts = events.mounts_changed(&waiting);
        drop(waiting);
        // The thread says so as the last thing it does: it is as good as over.
        let planned = (&woken).read(&mut [0; 16]).is_ok_and(|bytes| bytes > 0);

        for event in events.read(root, mounts) {
            let matters = match &event {
                Event::Network => reach_network,
                Event::Hotplug(what) => !kernel_follows(what, root),
                Event::File(_) | Event::Device(_) | Event::Mounts => true,
            };
            if !matters {
                continue;
            }
            lock(&shared).events += 1;
            let now = Instant::now();
            due.get_or_insert_with(|| Due { first: now, last: now, because: event.to_string() }).last = now;
        }
        if let Some(asked) = server.serve(&shared) {
            let now = Instant::now();
            due.get_or_insert(Due { first: now, last: quiet_since(now), because: asked });
        }
        if (planned || working.as_ref().is_some_and(|working| working.thread.is_finished()))
            && let Some(done) = working.take()
        {
            let planned = done.thread.join().unwrap_or_else(|_| Planned {
                result: Err("planning has panicked".to_owned()),
                files: Vec::new(),
                took: Duration::ZERO,
            });
            if !planned.files.is_empty() {
                events.watch_also(&planned.files);
            }
            let failed = planned.result.is_err();
            if let Ok((_, _, network)) = &planned.result {
                reach_network = *network;
            }
            note(planned, &mut lock(&shared), started);
            refresh(&mut lock(&shared), root);
            retry = if failed { (retry * 2).min(REGULAR) } else { RETRY };
            next = Instant::now() + if failed { retry } else { REGULAR };
            // What a failing plan waits for may be a route as well.
            reach_network |= failed;
            tell(&shared, supervisor, &mut server);
            events.rewatch(root);
        }
        if next <= Instant::now() && working.is_none() {
            next = Instant::now() + REGULAR;
            let before = lock(&shared).clone();
            refresh(&mut lock(&shared), root);
            let unloaded = before.armed && !lock(&shared).armed;
            if (unloaded || before.failure.is_some()) && due.is_none() {
                let now = Instant::now();
                let because = if unloaded { "the crash kernel was unloaded" } else { "another try" };
                due = Some(Due { first: now, last: quiet_since(now), because: because.to_owned() });
            }
        }
        waker.flush()?;
    }
}

/// An instant that lets what is due at `now` be done at once. The clock may have begun later than that.
fn quiet_since(now: Instant) -> Instant {
    now.checked_sub(QUIET).unwrap_or(now)
}

/// systemd and who has subscribed hear how it is.
fn tell(shared: &Mutex<State>, supervisor: &Supervisor, server: &mut Server) {
    let now = lock(shared).clone();
    supervisor.status(&said(&now));
    server.changed(&now);
}

/// A plan takes long.
fn slow(state: &mut State, patience: Patience) {
    let why = patience.slow_said(&state.because);
    log::warn!("{why}");
    state.current = false;
    state.failure = Some(why);
}

/// Plans, builds, loads where the hash is another. True: something of the plan is reached by the network.
fn plan(root: &Root) -> Planned {
    let start = Instant::now();
    let mut files = Vec::new();
    let mut attempt = || {
        if arm::is_disarmed(root) {
            return Err("disarmed by `vmcorectl disarm`; `vmcorectl arm` arms again".to_owned());
        }
        let settings = load::load(root).map_err(|e| with_causes(&e))?.settings;
        files = events::named(&settings);
        let prepared = arm::prepare(&settings, root).map_err(|e| with_causes(&e))?;
        let network = prepared.resolved.plan.network.is_some()
            || prepared.resolved.plan.targets.iter().any(|rung| {
                matches!(rung.to, Target::Ssh(_))
                    || matches!(&rung.to, Target::Share(share) if share.server.is_some())
            });
        let outcome = arm::arm(&prepared, root, false).map_err(|e| with_causes(&e))?;
        Ok((outcome, prepared.image.id, network))
    };
    let result = attempt();
    Planned { result, files, took: start.elapsed() }
}

fn note(planned: Planned, state: &mut State, started: Instant) {
    state.plans += 1;
    state.planned = Some(crate::harvest::now());
    state.plan_ms = Some(millis(planned.took));
    match planned.result {
        Ok((outcome, image, _)) => {
            if outcome == Outcome::Loaded {
                log::info!("loaded image {image} ({}; {} ms)", state.because, millis(planned.took));
                state.loads += 1;
            }
            state.armed_after_ms.get_or_insert(millis(started.elapsed()));
            state.failure = None;
            state.current = true;
        }
        Err(why) => {
            if state.failure.as_ref() != Some(&why) {
                log::warn!("no new plan ({}): {why}", state.because);
            }
            state.current = false;
            state.failure = Some(why);
        }
    }
}

/// What the kernel says.
fn refresh(state: &mut State, root: &Root) {
    let ours = arm::loaded(root).ok().flatten();
    state.armed = ours.is_some() && KexecState::read(root).is_ok_and(|kexec| kexec.loaded);
    state.image = ours.filter(|_| state.armed).map(|ours| ours.image);
}

/// For `systemctl status`.
fn said(state: &State) -> String {
    match (state.armed, &state.failure) {
        (true, None) if state.current => "armed".to_owned(),
        (true, None) => "armed with the last good image".to_owned(),
        (true, Some(why)) => format!("armed with an older image: {why}"),
        (false, None) => "not armed yet".to_owned(),
        (false, Some(why)) => format!("not armed: {why}"),
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;

//! One risky step in a child process, under a deadline.
//!
//! What can hang (a driver's probe, a mount, a write to a dying disk) hangs in a process that PID 1 can give
//! up. A child that even SIGKILL does not end, because it waits in the kernel for a device that never answers,
//! is abandoned.

use super::report::{Listener, Report, Reporter};
use super::watchdog;
use crate::sys;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, pipe2};
use std::cell::Cell;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// How long a killed child is waited for.
const GRACE: Duration = Duration::from_secs(2);
/// How often a child that has closed its pipe, or has been killed, is looked at.
const GLANCE: Duration = Duration::from_millis(5);
/// Longest sleep while the child runs.
const NAP: Duration = Duration::from_millis(250);
/// Exit status of a child whose work failed: its report says why.
const STATUS_FAILED: i32 = 1;
/// Exit status of a child that panicked, where panics unwind. (Released builds abort.)
const STATUS_PANICKED: i32 = 101;

/// What a child may take.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// In all.
    pub total: Duration,
    /// Without a report.
    pub stall: Duration,
    /// oom_score_adj, 0 to 1000: who is to die first when memory runs out.
    pub badness: u16,
}

/// How it ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ending {
    /// Its work is done.
    Done,
    /// It gave up; it has reported why.
    Failed,
    /// It ended with this status without having reported.
    Status(i32),
    /// A signal killed it.
    Signal(i32),
    /// It took too long.
    Deadline {
        /// It was killed after so long.
        after: Duration,
        /// Because nothing had been heard of it, not because of the total.
        stalled: bool,
        /// Even SIGKILL has not ended it: it may still hold files open.
        abandoned: bool,
    },
    /// There was no child: no process or no pipe could be had.
    NotStarted(String),
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Done => f.write_str("done"),
            Self::Failed => f.write_str("failed"),
            Self::Status(STATUS_PANICKED) => f.write_str("panicked"),
            Self::Status(status) => write!(f, "ended with status {status}"),
            Self::Signal(number) => match Signal::try_from(*number) {
                Ok(Signal::SIGABRT) => f.write_str("panicked (SIGABRT)"),
                Ok(signal) => write!(f, "was killed by {signal}"),
                Err(_) => write!(f, "was killed by signal {number}"),
            },
            Self::Deadline { after, stalled, abandoned } => {
                let how = if *stalled {
                    "made no progress and was killed"
                } else {
                    "was over its deadline and was killed"
                };
                write!(f, "{how} after {:.1} s", after.as_secs_f64())?;
                if *abandoned { f.write_str("; it does not die and was abandoned") } else { Ok(()) }
            }
            Self::NotStarted(why) => write!(f, "could not be started: {why}"),
        }
    }
}

/// How a child ended, and what it took.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ended {
    /// How.
    pub ending: Ending,
    /// Peak resident memory, KiB; unknown of an abandoned child.
    pub peak_kib: Option<u64>,
}

/// Runs `work` in a child process. Each report is handed to `hear` as it comes. Returns when the child is over
/// or given up, after `bounds.total` and [`GRACE`] at the latest. Only for single-threaded callers.
pub fn run(
    bounds: Bounds,
    hear: &mut dyn FnMut(Report),
    work: impl FnOnce(&Reporter) -> Result<(), String>,
) -> Ended {
    match start(bounds, work) {
        Ok((pid, listener)) => watch(pid, listener, bounds, hear),
        Err(e) => Ended { ending: Ending::NotStarted(e.to_string()), peak_kib: None },
    }
}

fn start(bounds: Bounds, work: impl FnOnce(&Reporter) -> Result<(), String>) -> io::Result<(Pid, Listener)> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    // Only PID 1's end: the child may wait for a reader that is always there.
    nix::fcntl::fcntl(&read, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let write = File::from(write);
    let pid = sys::spawn(move || {
        // The child of a PID 1 with -1000 would be spared by the OOM killer as PID 1 is.
        if let Err(e) = fs::write("/proc/self/oom_score_adj", bounds.badness.to_string()) {
            log::debug!("/proc/self/oom_score_adj: {e}");
        }
        let reporter = Reporter::new(write);
        match catch_unwind(AssertUnwindSafe(|| work(&reporter))) {
            Ok(Ok(())) => 0,
            Ok(Err(why)) => {
                reporter.tell(&Report::Failed(super::report::shortened(&why)));
                STATUS_FAILED
            }
            Err(_) => STATUS_PANICKED,
        }
    })?;
    Ok((pid, Listener::new(File::from(read))))
}

fn watch(pid: Pid, mut listener: Listener, bounds: Bounds, hear: &mut dyn FnMut(Report)) -> Ended {
    let start = Instant::now();
    let heard_at = Cell::new(start);
    let failed = Cell::new(false);
    let mut hear = |report: Report| {
        heard_at.set(Instant::now());
        failed.set(failed.get() || matches!(report, Report::Failed(_)));
        hear(report);
    };
    let mut open = true;
    loop {
        // Here alone: whoever comes by has looked at the child's deadlines a moment before.
        watchdog::feed();
        open = open && listener.listen(&mut hear);
        if let Some(exit) = reap(pid) {
            listener.listen(&mut hear);
            let ending = match exit.status {
                Ok(0) => Ending::Done,
                Ok(_) if failed.get() => Ending::Failed,
                Ok(status) => Ending::Status(status),
                Err(signal) => Ending::Signal(signal),
            };
            return Ended { ending, peak_kib: Some(exit.peak_kib) };
        }
        let of_total = bounds.total.saturating_sub(start.elapsed());
        let of_stall = bounds.stall.saturating_sub(heard_at.get().elapsed());
        if of_total.is_zero() || of_stall.is_zero() {
            let after = start.elapsed();
            let exit = end(pid);
            listener.listen(&mut hear);
            let ending = Ending::Deadline { after, stalled: !of_total.is_zero(), abandoned: exit.is_none() };
            return Ended { ending, peak_kib: exit.map(|e| e.peak_kib) };
        }
        if open {
            wait_for_word(&listener, of_total.min(of_stall).min(NAP));
        } else {
            std::thread::sleep(GLANCE);
        }
    }
}

/// Kills a child and waits for it, for a while. `None` when it does not die.
fn end(pid: Pid) -> Option<sys::Exit> {
    if let Err(e) = kill(pid, Signal::SIGKILL) {
        log::debug!("kill {pid}: {e}");
    }
    let start = Instant::now();
    loop {
        match reap(pid) {
            None if start.elapsed() < GRACE => std::thread::sleep(GLANCE),
            over => return over,
        }
    }
}

fn reap(pid: Pid) -> Option<sys::Exit> {
    match sys::wait_nohang(pid) {
        Ok(exit) => exit,
        Err(e) if e.kind() == io::ErrorKind::Interrupted => None,
        // There is no such child any more; that cannot be, and must not be waited for.
        Err(e) => {
            log::warn!("waiting for process {pid}: {e}");
            Some(sys::Exit { status: Err(0), peak_kib: 0 })
        }
    }
}

/// Sleeps until there is something to hear, or until the child's end closes the pipe.
fn wait_for_word(listener: &Listener, limit: Duration) {
    let timeout = PollTimeout::try_from(limit.max(GLANCE)).unwrap_or(PollTimeout::ZERO);
    let mut pipes = [PollFd::new(listener.pipe().as_fd(), PollFlags::POLLIN)];
    if let Err(e) = poll(&mut pipes, timeout) {
        log::debug!("poll: {e}");
        std::thread::sleep(GLANCE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Stage;

    const BRISK: Bounds = Bounds { total: Duration::from_millis(400), stall: Duration::MAX, badness: 0 };

    /// Whether the test `name` has a process without other threads, as PID 1 has: of a process with others a fork copies
    /// the locks they hold, that of the panic hook among them. If it has not, it is run in such a one here.
    fn alone(name: &str) -> bool {
        const ALONE: &str = "VMCORED_TEST_ALONE";
        if std::env::var_os(ALONE).is_some() {
            return true;
        }
        let mut program = std::process::Command::new(std::env::current_exe().unwrap());
        program.args(["--exact", "--nocapture", "--test-threads=1", name]).env(ALONE, "1");
        let ran = program.output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
        assert!(ran.status.success() && out.contains("1 passed"), "{out}{err}");
        false
    }

    fn nap(ms: u64) {
        std::thread::sleep(Duration::from_millis(ms));
    }

    fn run_quietly(
        bounds: Bounds,
        work: impl FnOnce(&Reporter) -> Result<(), String>,
    ) -> (Ended, Vec<Report>) {
        let mut reports = Vec::new();
        let ended = run(bounds, &mut |r| reports.push(r), work);
        (ended, reports)
    }

    fn quiet_panic() {
        std::panic::set_hook(Box::new(|_| {}));
        panic!("on purpose");
    }

    /// Everything a child can do, and how PID 1 sees it.
    #[test]
    fn endings() {
        if !alone("pid1::child::tests::endings") {
            return;
        }
        let patient = Bounds { total: Duration::from_secs(60), ..BRISK };
        let ignore_term = || {
            let set = nix::sys::signal::SigSet::from(Signal::SIGTERM);
            set.thread_block().unwrap();
            loop {
                nap(1000);
            }
        };
        type Work = Box<dyn FnOnce(&Reporter) -> Result<(), String>>;
        let cases: [(&str, Work, Ending); 7] = [
            ("ends well", Box::new(|_| Ok(())), Ending::Done),
            ("gives up", Box::new(|_| Err("no".to_owned())), Ending::Failed),
            (
                "is killed",
                Box::new(|_| {
                    kill(nix::unistd::getpid(), Signal::SIGKILL).unwrap();
                    nap(100_000);
                    Ok(())
                }),
                Ending::Signal(9),
            ),
            (
                "aborts",
                Box::new(|_| {
                    kill(nix::unistd::getpid(), Signal::SIGABRT).unwrap();
                    Ok(())
                }),
                Ending::Signal(6),
            ),
            (
                "panics",
                Box::new(|_| {
                    quiet_panic();
                    Ok(())
                }),
                Ending::Status(STATUS_PANICKED),
            ),
            (
                "sleeps",
                Box::new(|_| {
                    nap(60_000);
                    Ok(())
                }),
                Ending::Deadline { after: Duration::ZERO, stalled: false, abandoned: false },
            ),
            (
                "ignores SIGTERM",
                Box::new(move |_| ignore_term()),
                Ending::Deadline { after: Duration::ZERO, stalled: false, abandoned: false },
            ),
        ];
        for (name, work, expected) in cases {
            // Who ends by itself has the time it takes on a busy machine.
            let bounds = if matches!(expected, Ending::Deadline { .. }) { BRISK } else { patient };
            let start = Instant::now();
            let (mut ended, _) = run_quietly(bounds, work);
            assert!(start.elapsed() < Duration::from_secs(30), "{name} took {:?}", start.elapsed());
            if let Ending::Deadline { after, .. } = &mut ended.ending {
                assert!(*after >= BRISK.total, "{name}: {after:?}");
                *after = Duration::ZERO;
            }
            assert_eq!(ended.ending, expected, "{name}");
            assert!(ended.peak_kib.is_some(), "{name}");
        }
    }

    #[test]
    fn the_dead_leave_their_story() {
        let (ended, reports) = run_quietly(BRISK, |out| {
            out.tell(&Report::Begin(Stage::Dump));
            out.tell(&Report::LogSaved);
            kill(nix::unistd::getpid(), Signal::SIGKILL).unwrap();
            nap(10_000);
            Ok(())
        });
        assert_eq!(ended.ending, Ending::Signal(9));
        assert_eq!(reports, [Report::Begin(Stage::Dump), Report::LogSaved]);
    }

    #[test]
    fn the_reason_is_told() {
        let (_, reports) = run_quietly(BRISK, |_| Err("the disk is gone".to_owned()));
        assert_eq!(reports, [Report::Failed("the disk is gone".to_owned())]);
    }

    #[test]
    fn who_is_silent_is_stalled_and_who_speaks_is_not() {
        let bounds = Bounds { total: Duration::from_secs(20), stall: Duration::from_millis(300), badness: 0 };
        let (ended, _) = run_quietly(bounds, |out| {
            for _ in 0..8 {
                nap(100);
                out.tell(&Report::LogSaved);
            }
            Ok(())
        });
        assert_eq!(ended.ending, Ending::Done);
        let (ended, _) = run_quietly(bounds, |_| {
            nap(60_000);
            Ok(())
        });
        assert!(
            matches!(ended.ending, Ending::Deadline { stalled: true, abandoned: false, .. }),
            "{ended:?}"
        );
    }

    #[test]
    fn more_reports_than_the_pipe_holds() {
        let bounds = Bounds { total: Duration::from_secs(20), ..BRISK };
        let (ended, reports) = run_quietly(bounds, |out| {
            for n in 0..5000 {
                out.tell(&Report::Doing(format!("{n:0100}")));
            }
            Ok(())
        });
        assert_eq!((ended.ending, reports.len()), (Ending::Done, 5000));
    }

    #[test]
    fn endings_read_well() {
        let deadline =
            |stalled, abandoned| Ending::Deadline { after: Duration::from_millis(1500), stalled, abandoned };
        for (ending, text) in [
            (Ending::Signal(9), "was killed by SIGKILL"),
            (Ending::Signal(6), "panicked (SIGABRT)"),
            (Ending::Status(101), "panicked"),
            (deadline(false, false), "was over its deadline and was killed after 1.5 s"),
            (
                deadline(true, true),
                "made no progress and was killed after 1.5 s; it does not die and was abandoned",
            ),
        ] {
            assert_eq!(ending.to_string(), text);
        }
    }
}

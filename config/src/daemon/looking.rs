//! A look at readiness for somebody who has asked the daemon.

use super::varlink;
use crate::load;
use crate::readiness::{self, Look};
use crate::status::with_causes;
use initramfs::root::Root;
use serde_json::{Value, json};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

/// Who waits for longer is told so.
const LONGEST: Duration = Duration::from_secs(120);

/// It may wait for a resolver or a disk, and so is a thread's.
#[derive(Debug)]
pub struct Looking {
    since: Instant,
    told: Receiver<Value>,
    /// Ends when the thread does.
    woken: UnixStream,
}

/// What there is to say.
#[derive(Debug)]
pub enum Seen {
    /// Nothing yet.
    Nothing,
    /// The answer; that is all.
    Answer(Value),
    /// That it takes long: the answer for who waits, while the thread goes on.
    Slow(Value),
}

impl Looking {
    /// Begins.
    pub fn begin(root: &Root) -> io::Result<Self> {
        let (wake, woken) = UnixStream::pair()?;
        let (tell, told) = channel();
        let root = root.clone();
        #[expect(
            clippy::disallowed_methods,
            reason = "the daemon's end must not wait for a disk that hangs"
        )]
        std::thread::spawn(move || {
            // Nobody listens where the daemon ends.
            drop(tell.send(answer(&root)));
            drop(wake);
        });
        Ok(Self { since: Instant::now(), told, woken })
    }

    /// To be waited for.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.woken.as_fd()
    }

    /// What has come of it. Never waits.
    pub fn seen(&self) -> Seen {
        match self.told.try_recv() {
            Ok(answer) => Seen::Answer(answer),
            Err(TryRecvError::Disconnected) => Seen::Answer(varlink::not_readable("looking has panicked")),
            Err(TryRecvError::Empty) if self.since.elapsed() < LONGEST => Seen::Nothing,
            Err(TryRecvError::Empty) => {
                let why = "a disk, a server or a resolver has not answered for two minutes";
                Seen::Slow(varlink::not_readable(why))
            }
        }
    }
}

fn answer(root: &Root) -> Value {
    let settings = load::load(root).map(|loaded| loaded.settings).map_err(|e| with_causes(&e));
    // What writes and mounts is `vmcorectl check`'s.
    let look = Look { write: false, live: false };
    match readiness::check(settings.as_ref().map_err(Clone::clone), root, look) {
        Ok(checked) => json!({"parameters": {
            "readiness": checked.readiness, "time": checked.time, "checks": checked.checks,
        }}),
        Err(e) => varlink::not_readable(&with_causes(&e)),
    }
}

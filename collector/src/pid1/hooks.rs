//! The user's programs: before the dump, after it, and when it failed.
//!
//! Each runs in a process group of its own, with nothing on its standard input, for so long and no longer. What it says goes
//! into the log. Nothing that it does or leaves undone costs the dump, but for the one thing that it may decide: a pre hook
//! that ends by itself and says no.

use super::child::{self, Bounds, Ending};
use super::report::Report;
use super::story::Story;
use super::{MARGIN, secs};
use crate::manifest::{Outcome, Stage};
use crate::plan::aside::Hook;
use crate::problem::{Code, Problem};
use crate::target::store::Access;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::io::{self, PipeReader, Read};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Where programs are looked for, and all else that a hook knows by itself.
pub const ENVIRONMENT: [(&str, &str); 4] =
    [("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), ("HOME", "/"), ("TERM", "linux"), ("LC_ALL", "C")];

/// How often a hook is looked at.
const GLANCE: Duration = Duration::from_millis(20);
/// How long one that was killed is waited for.
const GRACE: Duration = Duration::from_secs(2);
/// Lines of one hook that are shown: a console may be slow.
const LINES: usize = 200;
/// Bytes of a line that are shown.
const LINE: usize = 600;

/// When hooks run, and what they are told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moment {
    /// The log is saved, the dump is next.
    Pre,
    /// The dump is over.
    Post(Outcome),
    /// It is not complete.
    Emergency(Outcome),
}

impl Moment {
    fn name(self) -> &'static str {
        match self {
            Self::Pre => "pre",
            Self::Post(_) => "post",
            Self::Emergency(_) => "emergency",
        }
    }
}

/// Where the dump goes, or went.
#[derive(Clone, Copy, Debug)]
pub struct Place<'p> {
    /// The target.
    pub access: Option<&'p Access>,
    /// The dump's directory there.
    pub directory: Option<&'p str>,
}

/// The variables of a hook.
fn variables(moment: Moment, place: Place<'_>) -> Vec<(&'static str, String)> {
    let mut all: Vec<(&str, String)> = ENVIRONMENT.map(|(name, value)| (name, value.to_owned())).to_vec();
    all.push(("VMCORED_HOOK", moment.name().to_owned()));
    if let Some(Access::Mounted { root, .. }) = place.access {
        all.push(("VMCORED_TARGET", root.display().to_string()));
        if let Some(directory) = place.directory {
            let path = root.join(directory.trim_start_matches('/'));
            all.push(("VMCORED_DIRECTORY", path.display().to_string()));
        }
    }
    if let Moment::Post(outcome) | Moment::Emergency(outcome) = moment {
        all.push(("VMCORED_OUTCOME", outcome.to_string()));
    }
    all
}

/// Runs hooks in their order. `Err`: one of them says that no dump is wanted; no other was run after it. What goes wrong is
/// told to the story, and returned for another one.
pub fn run(
    hooks: &[Hook],
    moment: Moment,
    place: Place<'_>,
    story: &mut Story,
    problems: &mut Vec<Problem>,
) -> Result<(), String> {
    if hooks.is_empty() {
        return Ok(());
    }
    if moment == Moment::Pre {
        story.begin(Stage::Hooks);
    }
    let variables = variables(moment, place);
    let argument = match moment {
        Moment::Post(outcome) => Some(if outcome == Outcome::Complete { "0" } else { "1" }),
        Moment::Pre | Moment::Emergency(_) => None,
    };
    for hook in hooks {
        log::info!("hook {}: started ({}, {} s at most)", hook.program, moment.name(), hook.limit);
        let Err((code, why)) = run_one(hook, argument, &variables) else { continue };
        story.problem(code, why.clone());
        problems.push(Problem { code, message: why.clone(), times: 1 });
        if code == Code::HOOK_REFUSED {
            story.end(Some(why.clone()));
            return Err(why);
        }
    }
    if moment == Moment::Pre {
        story.end(None);
    }
    Ok(())
}

fn run_one(hook: &Hook, argument: Option<&str>, variables: &[(&str, String)]) -> Result<(), (Code, String)> {
    let start = Instant::now();
    let limit = secs(hook.limit);
    // It is the child that ends the hook; it is itself ended only if it cannot.
    let bounds = Bounds {
        total: limit.saturating_add(GRACE).saturating_add(MARGIN),
        stall: Duration::MAX,
        badness: 900,
    };
    let (mut status, mut failed) = (None, None);
    let mut hear = |report: Report| match report {
        Report::HookEnded(number) => status = Some(number),
        Report::Failed(why) => failed = Some(why),
        _ => {}
    };
    let ended = child::run(bounds, &mut hear, |out| {
        let status = supervise(&hook.program, argument, variables, limit)?;
        out.tell(&Report::HookEnded(status));
        Ok(())
    });
    let program = &hook.program;
    match (ended.ending, status) {
        (_, Some(0)) => {
            log::info!("hook {program}: done in {:.1} s", start.elapsed().as_secs_f64());
            Ok(())
        }
        (_, Some(status)) if hook.decides => Err((
            Code::HOOK_REFUSED,
            format!("hook {program} ended with status {status}: no dump is wanted, only the log is saved"),
        )),
        (_, Some(status)) => Err((Code::HOOK_FAILED, format!("hook {program} ended with status {status}"))),
        (Ending::Failed, None) => {
            let why = failed.unwrap_or_else(|| "failed".to_owned());
            Err((Code::HOOK_FAILED, format!("hook {program} {why}")))
        }
        (ending, None) => Err((Code::HOOK_FAILED, format!("hook {program} {ending}"))),
    }
}

/// Starts a program and sees to it until it ends or its time is over. Its status, or what became of it.
fn supervise(
    program: &str,
    argument: Option<&str>,
    variables: &[(&str, String)],
    limit: Duration,
) -> Result<i32, String> {
    let not_started = |e: io::Error| format!("could not be started: {e}");
    let (mut says, end) = io::pipe().map_err(not_started)?;
    fcntl(&says, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|e| not_started(e.into()))?;
    let mut command = Command::new(program);
    command.args(argument).env_clear().envs(variables.iter().map(|(name, value)| (name, value)));
    command.current_dir("/").stdin(Stdio::null());
    command.stdout(end.try_clone().map_err(not_started)?).stderr(end).process_group(0);
    let mut child = command.spawn().map_err(not_started)?;
    // Its ends of the pipe are the program's alone.
    drop(command);
    let mut speech = Speech::new(program);
    let start = Instant::now();
    let mut open = true;
    loop {
        open = open && speech.listen(&mut says);
        match child.try_wait() {
            Ok(Some(status)) => {
                if open {
                    speech.listen(&mut says);
                }
                speech.end();
                return match (status.code(), status.signal()) {
                    (Some(code), _) => Ok(code),
                    (None, signal) => Err(Ending::Signal(signal.unwrap_or(0)).to_string()),
                };
            }
            Ok(None) => {}
            Err(e) => return Err(format!("cannot be waited for: {e}")),
        }
        let rest = limit.saturating_sub(start.elapsed());
        if rest.is_zero() {
            end_group(&mut child);
            speech.listen(&mut says);
            speech.end();
            return Err(format!("was over its deadline of {} s and was killed", limit.as_secs()));
        }
        if open {
            wait_for_word(&says, rest);
        } else {
            std::thread::sleep(GLANCE.min(rest));
        }
    }
}

/// Kills a hook and all that it has started, but for what has left its process group.
fn end_group(child: &mut Child) {
    match i32::try_from(child.id()) {
        Ok(pid) => {
            if let Err(e) = killpg(Pid::from_raw(pid), Signal::SIGKILL) {
                log::warn!("killing process group {pid}: {e}");
            }
        }
        Err(_) => drop(child.kill()),
    }
    let start = Instant::now();
    while matches!(child.try_wait(), Ok(None)) && start.elapsed() < GRACE {
        std::thread::sleep(GLANCE);
    }
}

fn wait_for_word(says: &PipeReader, limit: Duration) {
    let timeout = PollTimeout::try_from(limit.min(GLANCE)).unwrap_or(PollTimeout::ZERO);
    if let Err(e) = poll(&mut [PollFd::new(says.as_fd(), PollFlags::POLLIN)], timeout) {
        log::debug!("poll: {e}");
        std::thread::sleep(GLANCE);
    }
}

/// What a hook says, line by line into the log; so much of it and no more.
struct Speech {
    who: String,
    line: Vec<u8>,
    said: usize,
}

impl Speech {
    fn new(program: &str) -> Self {
        let who = Path::new(program).file_name().map(|name| name.to_string_lossy().into_owned());
        Self { who: who.unwrap_or_default(), line: Vec::new(), said: 0 }
    }

    /// Takes in what there is. False at the end.
    fn listen(&mut self, says: &mut PipeReader) -> bool {
        let mut bytes = [0; 4096];
        // A hook that never stops talking must not keep its deadline from being looked at.
        for _ in 0..64 {
            match says.read(&mut bytes) {
                Ok(0) => return false,
                Ok(n) => self.take(bytes.get(..n).unwrap_or_default()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return e.kind() == io::ErrorKind::WouldBlock,
            }
        }
        true
    }

    fn take(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|b| *b == b'\n').flat_map(|line| line.chunks(LINE)) {
            self.line.extend_from_slice(piece);
            if self.line.ends_with(b"\n") || self.line.len() >= LINE {
                self.end();
            }
        }
    }

    /// Says what is left.
    fn end(&mut self) {
        if let Some(text) = self.shown() {
            log::info!("hook {}: {text}", self.who);
        }
    }

    fn shown(&mut self) -> Option<String> {
        let line = std::mem::take(&mut self.line);
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end();
        if text.is_empty() {
            return None;
        }
        self.said = self.said.saturating_add(1);
        match self.said {
            0..LINES => Some(text.chars().take(LINE).collect()),
            LINES => Some("(it goes on, unheard)".to_owned()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    struct Scripts(tempfile::TempDir);

    impl Scripts {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn hook(&self, name: &str, script: &str, limit: u64, decides: bool) -> Hook {
            let path = self.path(name);
            fs::write(&path, script).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            Hook { program: path.display().to_string(), limit, decides }
        }
    }

    fn codes(problems: &[Problem]) -> Vec<(Code, bool)> {
        problems.iter().map(|p| (p.code, p.message.contains("killed"))).collect()
    }

    const NOWHERE: Place<'_> = Place { access: None, directory: None };

    #[test]
    fn only_a_hook_that_says_no_keeps_the_dump_from_being_written() {
        let s = Scripts::new();
        let missing = Hook { program: s.path("none").display().to_string(), limit: 5, decides: true };
        for (name, hook, refused, told) in [
            ("well", s.hook("a", "#!/bin/sh\nexit 0\n", 5, true), false, vec![]),
            ("no", s.hook("b", "#!/bin/sh\nexit 3\n", 5, true), true, vec![(Code::HOOK_REFUSED, false)]),
            (
                "a drop-in's no",
                s.hook("c", "#!/bin/sh\nexit 3\n", 5, false),
                false,
                vec![(Code::HOOK_FAILED, false)],
            ),
            ("hangs", s.hook("d", "#!/bin/sh\nsleep 60\n", 1, true), false, vec![(Code::HOOK_FAILED, true)]),
            ("dies", s.hook("e", "#!/bin/sh\nkill -9 $$\n", 5, true), false, vec![(Code::HOOK_FAILED, true)]),
            ("is not there", missing, false, vec![(Code::HOOK_FAILED, false)]),
            ("is no program", s.hook("f", "text", 5, true), false, vec![(Code::HOOK_FAILED, false)]),
        ] {
            let start = Instant::now();
            let mut story = Story::default();
            let mut problems = Vec::new();
            let said = run(&[hook], Moment::Pre, NOWHERE, &mut story, &mut problems);
            assert_eq!(said.is_err(), refused, "{name}: {said:?}");
            assert_eq!(codes(&problems), told, "{name}: {problems:?}");
            assert_eq!(story.failure().is_some(), refused, "{name}");
            assert!(start.elapsed() < Duration::from_secs(8), "{name} took {:?}", start.elapsed());
        }
    }

    #[test]
    fn the_first_no_is_the_last_word_and_other_failures_are_not() {
        let s = Scripts::new();
        let mark = s.path("mark").display().to_string();
        let after = s.hook("after", &format!("#!/bin/sh\necho x >> {mark}\n"), 5, false);
        for (first, marks) in [("#!/bin/sh\nexit 1\n", 0), ("#!/bin/sh\nkill -9 $$\n", 1)] {
            drop(fs::remove_file(&mark));
            let hooks = [s.hook("first", first, 5, true), after.clone()];
            drop(run(&hooks, Moment::Pre, NOWHERE, &mut Story::default(), &mut Vec::new()));
            assert_eq!(fs::read_to_string(&mark).unwrap_or_default().lines().count(), marks, "{first}");
        }
    }

    #[test]
    fn what_a_hook_is_told() {
        let s = Scripts::new();
        let out = s.path("out").display().to_string();
        let script =
            format!("#!/bin/sh\n{{ echo \"$#:$1\"; env; }} > {out}\nread line && echo input >> {out}\n");
        let hook = [s.hook("tell", &script, 5, false)];
        let access =
            Access::Mounted { root: "/target/1".into(), directory: "/var/crash".to_owned(), stack: None };
        let here = Place { access: Some(&access), directory: Some("/var/crash/h-1") };
        for (moment, place, argument, wanted) in [
            (Moment::Pre, here, "0:", "VMCORED_DIRECTORY=/target/1/var/crash/h-1"),
            (Moment::Pre, here, "0:", "VMCORED_TARGET=/target/1"),
            (Moment::Pre, here, "0:", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"),
            (Moment::Pre, here, "0:", "VMCORED_HOOK=pre"),
            (Moment::Post(Outcome::Complete), here, "1:0", "VMCORED_OUTCOME=complete"),
            (Moment::Post(Outcome::Partial), NOWHERE, "1:1", "VMCORED_OUTCOME=partial"),
            (Moment::Emergency(Outcome::DmesgOnly), NOWHERE, "0:", "VMCORED_OUTCOME=dmesg-only"),
        ] {
            run(&hook, moment, place, &mut Story::default(), &mut Vec::new()).unwrap();
            let text = fs::read_to_string(&out).unwrap();
            assert_eq!(text.lines().next(), Some(argument), "{moment:?}");
            assert!(text.lines().any(|l| l == wanted), "{moment:?}: no {wanted} in\n{text}");
            assert!(!text.contains("CARGO"), "the environment is the hook's own:\n{text}");
            assert!(!text.contains("input"), "there is nothing to read");
        }
    }

    /// A hook's children die with it, and one that has been left behind keeps nobody waiting.
    #[test]
    fn children_of_hooks() {
        let s = Scripts::new();
        let mark = s.path("mark").display().to_string();
        let hangs = s.hook("hangs", &format!("#!/bin/sh\n(sleep 2; echo x > {mark}) & sleep 60\n"), 1, false);
        run(&[hangs], Moment::Pre, NOWHERE, &mut Story::default(), &mut Vec::new()).unwrap();
        std::thread::sleep(Duration::from_secs(2));
        assert!(!Path::new(&mark).exists(), "its child lives on");
        let start = Instant::now();
        let leaves = s.hook("leaves", "#!/bin/sh\nsleep 3 &\n", 20, false);
        run(&[leaves], Moment::Pre, NOWHERE, &mut Story::default(), &mut Vec::new()).unwrap();
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    }

    #[test]
    fn a_flood_of_words_is_cut() {
        let mut speech = Speech::new("/etc/hook.sh");
        assert_eq!(speech.who, "hook.sh");
        let mut shown = Vec::new();
        for n in 0..500 {
            speech.line = format!("line {n}\n").into_bytes();
            shown.extend(speech.shown());
        }
        assert_eq!(shown.len(), LINES);
        assert_eq!((shown[0].as_str(), shown[LINES - 1].as_str()), ("line 0", "(it goes on, unheard)"));
        let s = Scripts::new();
        let yes = s.hook("yes", "#!/bin/sh\nyes\n", 1, false);
        let start = Instant::now();
        run(&[yes], Moment::Pre, NOWHERE, &mut Story::default(), &mut Vec::new()).unwrap();
        assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    }

    #[test]
    fn lines_that_are_none() {
        let mut speech = Speech::new("x");
        speech.take(&[b'a'; 3 * LINE]);
        speech.take(b"\n\n\xff\xfe\n");
        assert!(speech.line.is_empty());
        assert_eq!(speech.said, 4);
    }
}

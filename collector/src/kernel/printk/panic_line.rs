//! Which line of the log says why the kernel died.
//!
//! The situation: `Kernel panic - not syncing: …` is the last word, but often says nothing: after an oops it reads `Fatal
//! exception`, and with a crash kernel loaded it is missing altogether, as the oops itself starts the crash kernel. Before
//! it may lie the lines of older oopses that the machine survived.
//!
//! What is done: an *episode* is an oops' lines up to its `---[ end trace`; its first headline (`BUG: kernel NULL pointer
//! dereference, address: …`) is what a person would quote. The answer is
//! 1. the last panic's message, unless it is one of those that only say that something was fatal, and there is an episode;
//! 2. the headline of the episode that was open at the end of the log, else of the last one before the panic;
//! 3. the sysrq's line, when somebody pressed it and nothing above was found.
//!
//! A survived oops with neither panic nor open episode after it is no reason: then there is none. Some reports (`BUG: Bad
//! page state`) have no end line; so a headline that is [`FAR`] older than the next, than the panic or than the end of the
//! log belongs to something else.

/// Bytes of a line that are kept.
const MAX: usize = 512;

/// Nanoseconds within which an oops is printed, every CPU's backtrace on a slow console included.
const FAR: u64 = 30_000_000_000;

/// Nanoseconds within which the headlines of one oops follow each other.
const SAME: u64 = 2_000_000_000;

/// Every panic says this before its reason.
const PANIC: &str = "Kernel panic - not syncing: ";

/// Reasons of a panic that only say that an oops before it was fatal.
const GENERIC: &[&str] = &[
    "Fatal exception",
    "Fatal machine check on current CPU",
    "Aiee, killing interrupt handler",
    "Attempted to kill the idle task",
    "Attempted to kill init",
    "Oops failed to kill thread",
    "kernel: panic_on_warn set",
    "softlockup: hung tasks",
];

/// First lines of an oops, on any architecture. `Oops` itself comes after the more telling line, or alone.
const HEADLINES: &[&str] = &[
    "BUG: ",
    "kernel BUG at ",
    "Unable to handle kernel ",
    "general protection fault",
    "traps: PANIC: ",
    "PANIC: double fault",
    "divide error: ",
    "invalid opcode: ",
    "stack segment: ",
    "double fault: ",
    "alignment check: ",
    "int3: ",
    "Internal error: ",
    "Bad mode in ",
    "Unhandled ",
    "watchdog: BUG: ",
    "NMI watchdog: ",
    "Watchdog detected hard LOCKUP",
    "Machine check events logged",
    "Kernel access of bad area",
    "Oops: ",
    "Oops - ",
    "Kernel BUG at ",
    "WARNING: ",
];

/// A line and when it was printed.
type Line = (u64, String);

/// What has been seen so far. Memory: a few lines.
#[derive(Default, Debug)]
pub(super) struct PanicLine {
    /// The headline of the episode that has not ended.
    open: Option<Line>,
    /// The headline of the last episode that has.
    ended: Option<Line>,
    /// The last panic's line, and the headline before it.
    panic: Option<(String, Option<Line>)>,
    /// The sysrq that asks for a crash.
    sysrq: Option<Line>,
    /// When the last line was printed.
    now: u64,
}

impl PanicLine {
    /// Takes the next line, without its time, which is in nanoseconds.
    pub(super) fn see(&mut self, time: u64, line: &[u8]) {
        self.now = time;
        let line = String::from_utf8_lossy(line.get(..MAX).unwrap_or(line));
        let line = line.trim();
        if line.starts_with("---[ end Kernel panic") {
            // Said again when nobody took over: what was said first is the same, and whole.
        } else if let Some(at) = line.find(PANIC) {
            let line = line.get(at..).unwrap_or(line).to_owned();
            let open = recent(self.open.take(), time, FAR);
            self.panic = Some((line, open.or_else(|| recent(self.ended.take(), time, FAR))));
        } else if line.starts_with("---[ end trace") {
            self.ended = self.open.take().or_else(|| self.ended.take());
        } else if HEADLINES.iter().any(|h| line.starts_with(h)) {
            self.open = recent(self.open.take(), time, SAME).or_else(|| Some((time, line.to_owned())));
        } else if line.ends_with("Trigger a crash") {
            self.sysrq = Some((time, line.to_owned()));
        }
    }

    /// The line.
    pub(super) fn decide(self) -> Option<String> {
        if let Some((panic, oops)) = self.panic {
            let reason = panic.get(PANIC.len()..).unwrap_or_default();
            let generic = GENERIC.iter().any(|g| reason.starts_with(g));
            return Some(oops.filter(|_| generic).map_or(panic, |(_, headline)| headline));
        }
        let died = recent(self.open, self.now, FAR).filter(|(_, line)| !line.starts_with("WARNING: "));
        died.or(recent(self.sysrq, self.now, FAR)).map(|(_, line)| line)
    }
}

/// The line, unless it is more than `within` older than `now`.
fn recent(line: Option<Line>, now: u64, within: u64) -> Option<Line> {
    line.filter(|(time, _)| now.saturating_sub(*time) <= within)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_that_a_person_would_quote() {
        let table: &[(&str, &[&str], Option<&str>)] = &[
            ("nothing", &["Linux version 6.1", "hello"], None),
            (
                "sysrq, modern",
                &[
                    "sysrq: Trigger a crash",
                    "Kernel panic - not syncing: sysrq triggered crash",
                    "CPU: 0 PID: 1",
                ],
                Some("Kernel panic - not syncing: sysrq triggered crash"),
            ),
            (
                "sysrq before 5.0 was a NULL dereference",
                &[
                    "sysrq: SysRq : Trigger a crash",
                    "BUG: unable to handle kernel NULL pointer dereference at 0",
                ],
                Some("BUG: unable to handle kernel NULL pointer dereference at 0"),
            ),
            ("sysrq alone", &["sysrq: Trigger a crash"], Some("sysrq: Trigger a crash")),
            (
                "oops that starts the crash kernel itself",
                &[
                    "BUG: kernel NULL pointer dereference, address: 0",
                    "#PF: error",
                    "Oops: 0002 [#1] PREEMPT SMP",
                ],
                Some("BUG: kernel NULL pointer dereference, address: 0"),
            ),
            (
                "oops, then a panic that says nothing",
                &[
                    "BUG: unable to handle page fault for address: ffff",
                    "Oops: 0000 [#1]",
                    "---[ end trace 0 ]---",
                    "Kernel panic - not syncing: Fatal exception in interrupt",
                ],
                Some("BUG: unable to handle page fault for address: ffff"),
            ),
            (
                "a survived oops, then another panic",
                &[
                    "BUG: old",
                    "---[ end trace 1 ]---",
                    "Kernel panic - not syncing: Out of memory: system-wide",
                ],
                Some("Kernel panic - not syncing: Out of memory: system-wide"),
            ),
            ("a survived oops alone", &["BUG: old", "---[ end trace 1 ]---", "later"], None),
            (
                "a survived oops, then one that is fatal",
                &[
                    "BUG: old",
                    "---[ end trace 1 ]---",
                    "kernel BUG at mm/slub.c:1!",
                    "invalid opcode: 0000 [#2]",
                ],
                Some("kernel BUG at mm/slub.c:1!"),
            ),
            (
                "panic_on_warn",
                &[
                    "WARNING: CPU: 0 PID: 1 at x.c:1 f+0x1/0x2",
                    "Kernel panic - not syncing: kernel: panic_on_warn set ...",
                ],
                Some("WARNING: CPU: 0 PID: 1 at x.c:1 f+0x1/0x2"),
            ),
            (
                "a panic without an oops, however it words itself",
                &["Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b"],
                Some("Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b"),
            ),
        ];
        for (name, lines, want) in table {
            let mut seen = PanicLine::default();
            lines.iter().for_each(|l| seen.see(5, l.as_bytes()));
            assert_eq!(seen.decide().as_deref(), *want, "{name}");
        }
    }

    #[test]
    fn old_headlines_are_not_the_reason() {
        let hour = 3_600_000_000_000;
        let mut seen = PanicLine::default();
        seen.see(0, b"BUG: Bad page state in process x  pfn:1");
        seen.see(hour, b"BUG: kernel NULL pointer dereference, address: 0");
        seen.see(hour, b"Oops: 0002 [#1]");
        assert_eq!(seen.decide().as_deref(), Some("BUG: kernel NULL pointer dereference, address: 0"));

        let mut seen = PanicLine::default();
        seen.see(0, b"BUG: Bad page state in process x  pfn:1");
        seen.see(hour, b"eth0: link up");
        assert_eq!(seen.decide(), None);

        let mut seen = PanicLine::default();
        seen.see(0, b"BUG: old");
        seen.see(1, b"---[ end trace 0 ]---");
        seen.see(hour, b"Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100");
        assert_eq!(
            seen.decide().as_deref(),
            Some("Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100")
        );
    }
}

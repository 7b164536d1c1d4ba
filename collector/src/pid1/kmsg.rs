//! The log of PID 1 and its children: records for /dev/kmsg, from where the kernel takes them to every console.
//!
//! One record is one write(2), so lines of the engine and of PID 1 never mix. Nothing is written to the console
//! directly while /dev/kmsg works, or each line would be there twice.

use log::{Level, LevelFilter, Log, Metadata, Record};
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// The kernel refuses longer records (LOG_LINE_MAX, 1024 less the prefix).
const LONGEST: usize = 900;

/// A console level that lets our own lines through: 6 shows what is more severe than INFO, so a kernel that was
/// told to be quiet stays quiet but for us.
const CONSOLE_LEVEL: u8 = 6;

struct Kmsg {
    /// Opened at the first record: /dev may not be there before.
    file: OnceLock<File>,
    /// The kernel throws records away.
    thrown_away: AtomicBool,
}

static KMSG: Kmsg = Kmsg { file: OnceLock::new(), thrown_away: AtomicBool::new(false) };

/// Makes this the process's log. Works, on the console alone, even before there is a /dev.
pub fn install() {
    if log::set_logger(&KMSG).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}

/// Makes sure that records are neither rate-limited nor hidden. To be called when /proc is there.
pub fn unmute() {
    // Since Linux commit 750afe7babd1 ("printk: add kernel parameter to control writes to /dev/kmsg") (in v4.8)
    // only ten records in five seconds pass unless this is `on`; the kernel wants the line's end too.
    let knob = "/proc/sys/kernel/printk_devkmsg";
    if let Err(e) = fs::write(knob, "on\n") {
        log::debug!("{knob}: {e}");
    }
    // `printk.devkmsg=off` on the command line cannot be undone: records are then taken and thrown away.
    let thrown_away = fs::read_to_string(knob).is_ok_and(|v| v.trim() == "off");
    KMSG.thrown_away.store(thrown_away, Ordering::Relaxed);
    let levels = fs::read_to_string("/proc/sys/kernel/printk").unwrap_or_default();
    let current: u8 = levels.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0);
    if current < CONSOLE_LEVEL
        && let Err(e) = fs::write("/proc/sys/kernel/printk", CONSOLE_LEVEL.to_string())
    {
        log::debug!("/proc/sys/kernel/printk: {e}");
    }
}

impl Log for Kmsg {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let line = line(record.level(), record.args());
        let open = || OpenOptions::new().write(true).open("/dev/kmsg");
        if self.file.get().is_none()
            && let Ok(file) = open()
        {
            let _kept = self.file.set(file);
        }
        if let Some(mut file) = self.file.get()
            && file.write_all(line.as_bytes()).is_ok()
            && !self.thrown_away.load(Ordering::Relaxed)
        {
            return;
        }
        // No log: standard error is the console that the kernel opened for PID 1. If that fails too, nobody
        // listens.
        let plain = line.split_once('>').map_or(line.as_str(), |(_, text)| text);
        let _nobody_listens = writeln!(std::io::stderr(), "{plain}");
    }

    fn flush(&self) {}
}

/// `<5>vmcored: text`. Information is NOTICE to the kernel, which consoles show where INFO is hidden.
fn line(level: Level, text: &std::fmt::Arguments<'_>) -> String {
    let severity = match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 5,
        Level::Debug | Level::Trace => 7,
    };
    let mut line = format!("<{severity}>vmcored: ");
    let start = line.len();
    if write!(line, "{text}").is_err() {
        line.push_str("(a text that cannot be shown)");
    }
    let mut clean: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if clean.len() > LONGEST {
        let cut = (start..=LONGEST).rev().find(|at| clean.is_char_boundary(*at)).unwrap_or(start);
        clean.truncate(cut);
        clean.push('…');
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_whatever_the_text() {
        for (text, expected) in [
            ("stage mount started", "<5>vmcored: stage mount started"),
            ("two\nlines\r\x1b[31m", "<5>vmcored: two lines  [31m"),
            ("", "<5>vmcored: "),
        ] {
            assert_eq!(line(Level::Info, &format_args!("{text}")), expected);
        }
        assert!(line(Level::Error, &format_args!("x")).starts_with("<3>"));
        assert!(line(Level::Warn, &format_args!("x")).starts_with("<4>"));
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        let line = line(Level::Info, &format_args!("{}", "ä".repeat(2000)));
        assert!(line.len() <= LONGEST + '…'.len_utf8(), "{}", line.len());
        assert!(line.ends_with("ä…"));
    }
}

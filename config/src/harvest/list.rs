//! The crashes that are known and the dumps that are there: `vmcorectl list`, and what the other commands mean by a word.

use super::boots::Boots;
use super::dumps;
use super::places::{Places, is_passing};
use super::record::{Crashes, Record};
use super::verdict::Verdict;
use super::{Harvest, of_dumps};
use crate::arm::ArmError;
use crate::settings::{HarvestSettings, Settings};
use initramfs::root::Root;
use serde::Serialize;
use std::fmt;
use std::path::Path;

/// A crash, and whether its dump is still there.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// The crash. Its `sequence` is 0 where it was not harvested yet.
    #[serde(flatten)]
    pub record: Record,
    /// The dump, or what there is of it, is there.
    pub present: bool,
    /// It can be removed: one of our directories.
    #[serde(skip)]
    pub dumps: Vec<dumps::Dump>,
}

/// Crashes, the oldest first; `vmcorectl list --json` prints them as they are.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct List {
    /// Them.
    pub entries: Vec<Entry>,
    /// What is mounted to look at it.
    #[serde(skip)]
    _places: Places,
}

impl List {
    /// Reads what is known and what is there, on the system at `root`. Local targets that are not mounted are where this is the
    /// `live` one, until this is dropped.
    pub fn read(settings: Option<&Settings>, root: &Root, live: bool) -> Result<Self, ArmError> {
        let crashes = Crashes::read(root)?;
        let boots = Boots::read(root)?;
        let rungs = boots.boots.last().map_or(&[][..], |boot| &boot.targets);
        let places = Places::of_plan(rungs, settings, root, live);
        let found: Vec<_> = places.places.iter().flat_map(|place| dumps::read(place, root)).collect();
        let mut entries: Vec<Entry> = Vec::new();
        for mut record in crashes.crashes {
            let dumps: Vec<_> = found.iter().filter(|dump| dump.key == record.key).cloned().collect();
            let mut present = record.file.as_ref().is_some_and(|file| root.path(file).exists());
            // What is mounted only to look at it may be at another place each time.
            let name = record.file.as_ref().and_then(|file| file.file_name());
            let same =
                dumps.iter().filter_map(|dump| dump.file.as_ref()).find(|file| file.file_name() == name);
            if !present && let Some(file) = same {
                record.file = Some(file.clone());
                present = true;
            }
            entries.push(Entry { record, present, dumps });
        }
        let quick = Settings {
            harvest: HarvestSettings { verify: false, ..HarvestSettings::default() },
            ..Settings::default()
        };
        for dump in &found {
            if entries.iter().any(|entry| entry.record.key == dump.key) {
                continue;
            }
            let same: Vec<_> = found.iter().filter(|other| other.key == dump.key).collect();
            let record = of_dumps(dump, &same, &boots.boots, &places.away, Some(&quick), root);
            entries.push(Entry { record, present: true, dumps: same.into_iter().cloned().collect() });
        }
        entries.sort_by_key(|entry| (entry.record.time.unwrap_or(entry.record.found), entry.record.sequence));
        Ok(Self { entries, _places: places })
    }

    /// Keeps those that all of `words` match, and that died in `since..until`, seconds since 1970.
    pub fn retain(&mut self, words: &[String], since: Option<u64>, until: Option<u64>) {
        self.entries.retain(|entry| {
            let time = entry.record.time.unwrap_or(entry.record.found);
            words.iter().all(|word| matches(&entry.record, word))
                && since.is_none_or(|since| time >= since)
                && until.is_none_or(|until| time < until)
        });
    }
}

/// What a word may be: a number of `list`, a part of a directory's name (host, time), a time as it is shown, a release, a path, a
/// status, a signature, a function, a sort of crash.
fn matches(record: &Record, word: &str) -> bool {
    if let Some(number) = word.strip_prefix('#').unwrap_or(word).parse::<u64>().ok().filter(|n| *n < 100_000)
    {
        return record.sequence == number;
    }
    let path = Path::new(word);
    if path.is_absolute() {
        return record.file.as_ref().is_some_and(|file| file.starts_with(path))
            || record.directories.iter().any(|directory| directory.starts_with(path));
    }
    let time = record.time.map(collector::utc::readable).unwrap_or_default();
    record.key.contains(word)
        || time.starts_with(word)
        || record.kernel.as_deref() == Some(word)
        || record.status.to_string() == word
        || record.test.as_deref() == Some(word)
        || record.verdict.as_ref().is_some_and(|verdict| {
            verdict.kind == word
                || verdict.function.as_deref() == Some(word)
                || verdict.signature.as_deref() == Some(word)
        })
}

/// The table's columns.
const HEAD: [&str; 10] =
    ["#", "TIME", "KERNEL", "DUMP", "INTEGRITY", "SIZE", "VERDICT", "FUNCTION", "SIGNATURE", "FILE"];

/// `function [module]`, without the space that would be a column.
fn function(verdict: &Verdict) -> Option<String> {
    let function = verdict.function.as_ref()?;
    Some(match &verdict.module {
        Some(module) => format!("{function}[{module}]"),
        None => function.clone(),
    })
}

impl fmt::Display for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.entries.is_empty() {
            return writeln!(f, "no crashes");
        }
        let mut rows = vec![HEAD.map(str::to_owned)];
        for Entry { record, present, .. } in &self.entries {
            let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
            let verdict = record.verdict.as_ref();
            let file = match (&record.file, present) {
                (None, _) => "-".to_owned(),
                (Some(file), true) => file.display().to_string(),
                // It was looked at on a mount of ours, and nobody has mounted it since.
                (Some(file), false) if is_passing(file) => format!("on {} (not mounted)", record.device),
                (Some(file), false) => format!("{} (gone)", file.display()),
            };
            rows.push([
                if record.sequence == 0 { "-".to_owned() } else { record.sequence.to_string() },
                record.time.map_or_else(|| "-".to_owned(), collector::utc::readable),
                text(&record.kernel),
                record.status.to_string(),
                record.integrity.to_string(),
                if record.bytes == 0 { "-".to_owned() } else { crate::dump::human(record.bytes) },
                verdict.map_or_else(|| "-".to_owned(), |verdict| verdict.kind.clone()),
                text(&verdict.and_then(function)),
                text(&verdict.and_then(|verdict| verdict.signature.clone())),
                file,
            ]);
        }
        let mut widths = [0; HEAD.len()];
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.len().max(*width);
            }
        }
        for row in &rows {
            let cells: Vec<String> =
                row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            writeln!(f, "{}", cells.join("  ").trim_end())?;
        }
        Ok(())
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Record {
            sequence,
            time,
            status,
            integrity,
            kind,
            device,
            bytes,
            kernel,
            reason,
            verdict,
            cpu,
            error_code,
            seconds,
            test,
            ..
        } = &self.record;
        let mut line = |name: &str, value: Option<String>| match value {
            Some(value) if !value.is_empty() => writeln!(f, "{name:<12} {value}"),
            _ => Ok(()),
        };
        line(
            "crash",
            Some(if *sequence == 0 { "not harvested yet".to_owned() } else { format!("#{sequence}") }),
        )?;
        line("time", time.map(collector::utc::readable))?;
        line("kernel", kernel.clone())?;
        line("reason", reason.clone())?;
        line("verdict", verdict.as_ref().map(|verdict| format!("{} ({})", verdict.line, verdict.kind)))?;
        line("function", verdict.as_ref().and_then(function))?;
        line("signature", verdict.as_ref().and_then(|verdict| verdict.signature.clone()))?;
        line("CPU", cpu.map(|cpu| cpu.to_string()))?;
        line("saved", Some(format!("{status}, {integrity}, {}", crate::dump::human(*bytes))))?;
        line("error", Some(error_code.clone()).filter(|code| code != "0"))?;
        line("took", seconds.map(|seconds| format!("{seconds} s")))?;
        line("target", Some(format!("{device} ({kind})")).filter(|_| !device.is_empty()))?;
        line("test", test.clone())?;
        for directory in &self.record.directories {
            line("directory", Some(directory.display().to_string()))?;
        }
        for file in &self.record.pstore {
            line("pstore", Some(file.display().to_string()))?;
        }
        for fault in &self.record.faults {
            line("fault", Some(fault.clone()))?;
        }
        if let Some(file) = self.record.file.as_ref().filter(|_| !self.present) {
            let why = if is_passing(file) { "on the target, which is not mounted" } else { "gone" };
            line("file", Some(why.to_owned()))?;
        }
        Ok(())
    }
}

impl fmt::Display for Harvest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for record in &self.new {
            writeln!(f, "#{}: {}", record.sequence, record.sentence())?;
        }
        if self.new.is_empty() {
            writeln!(f, "no new crash")?;
        }
        for directory in &self.removed {
            writeln!(f, "removed {}: there were too many", directory.display())?;
        }
        Ok(())
    }
}

/// An instant that somebody wrote: `2026-11-22`, `2026-11-22 12:43`, `20261122T124310Z`, `@1795351390`; in UTC.
pub fn instant(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no time: expected 2026-11-22, 2026-11-22 12:43 or @SECONDS, in UTC");
    if let Some(seconds) = text.strip_prefix('@') {
        return seconds.parse().map_err(|_| wrong());
    }
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    let strange = |c: char| !(c.is_ascii_digit() || "-: TZ".contains(c));
    if text.contains(strange) || !matches!(digits.len(), 8 | 12 | 14) {
        return Err(wrong());
    }
    let (date, clock) = digits.split_at(8);
    collector::utc::parse_compact(&format!("{date}T{clock:0<6}Z")).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harvest::record::tests::sample;

    #[test]
    fn words_match() {
        let record = sample();
        for (word, want) in [
            ("3", true),
            ("#3", true),
            ("2", false),
            ("h-2026", true),
            ("20261122", true),
            ("2026-11-22", true),
            ("2026-11-22 12:4", true),
            ("2026-11-23", false),
            ("6.1.0", true),
            ("6.1", false),
            ("complete", true),
            ("partial", false),
            ("/var/crash", true),
            ("/var/crash/h-20261122T124310Z/vmcore", true),
            ("/var/cra", false),
        ] {
            assert_eq!(matches(&record, word), want, "{word}");
        }
    }

    #[test]
    fn instants_are_read() {
        for (text, want) in [
            ("2026-11-22", Some(1_795_305_600)),
            ("2026-11-22 12:43", Some(1_795_351_380)),
            ("2026-11-22 12:43:10", Some(1_795_351_390)),
            ("20261122T124310Z", Some(1_795_351_390)),
            ("@7", Some(7)),
            ("yesterday", None),
            ("2026", None),
            ("2026-13-01", None),
        ] {
            assert_eq!(instant(text).ok(), want, "{text}");
        }
    }
}

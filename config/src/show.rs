//! The settings in force, each with where it was written.

use crate::diagnostic::Severity;
use crate::load::Loaded;
use crate::settings::tree::{Leaf, quote};
use crate::settings::{DEFAULT_PATH, Settings};
use collector::plan::Limits;
use serde::Serialize;
use std::fmt;

/// One setting.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Setting {
    /// The table that it is in, `limits`, `target[0]`; empty at the top.
    pub table: String,
    /// Its key.
    pub key: String,
    /// Its value, as TOML.
    pub value: String,
    /// `file:line:column`; none for a default.
    pub origin: Option<String>,
}

/// All of them, and what there is to say.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Shown {
    /// The files that were read, the strongest last.
    pub files: Vec<String>,
    /// The settings, table by table.
    pub settings: Vec<Setting>,
    /// What will not be as it was written.
    pub warnings: Vec<String>,
}

impl Shown {
    /// Of what was loaded.
    pub fn of(loaded: &Loaded) -> Self {
        let mut settings: Vec<Setting> = loaded
            .leaves
            .iter()
            .map(|Leaf { table, key, value, span }| Setting {
                table: table.clone(),
                key: key.clone(),
                value: value.clone(),
                origin: Some(loaded.sources.origin(span).to_string()),
            })
            .collect();
        for default in defaults(&loaded.settings) {
            if !settings.iter().any(|s| s.table == default.table && s.key == default.key) {
                settings.push(default);
            }
        }
        // The top first, then the tables as they stand in the example; within one, what was written before the defaults.
        settings.sort_by_key(|s| (rank(&s.table), index(&s.table), s.table.clone()));
        let warnings =
            loaded.findings.iter().filter(|f| f.severity == Severity::Warning).map(ToString::to_string);
        Self {
            files: loaded.sources.names().map(|name| name.display().to_string()).collect(),
            settings,
            warnings: warnings.collect(),
        }
    }
}

fn rank(table: &str) -> usize {
    const ORDER: [&str; 11] = [
        "",
        "target",
        "dump",
        "limits",
        "triage",
        "fence_kdump",
        "hooks",
        "watchdog",
        "harvest",
        "kernel",
        "image",
    ];
    let name = table.split(['[', '.']).next().unwrap_or_default();
    ORDER.iter().position(|known| *known == name).unwrap_or(ORDER.len())
}

/// Which of several: 2 of `target[2].limits`.
fn index(table: &str) -> usize {
    table.split(['[', ']']).nth(1).and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// What holds where nothing was written.
fn defaults(settings: &Settings) -> Vec<Setting> {
    let default = Settings::default();
    let mut all = Vec::new();
    let mut add = |table: &str, key: &str, value: String| {
        all.push(Setting { table: table.to_owned(), key: key.to_owned(), value, origin: None });
    };
    // The actions and formats are written as their names in lower case.
    let name = |value: &dyn fmt::Debug| quote(&format!("{value:?}").to_lowercase());
    add("", "on_failure", name(&default.on_failure));
    add("", "final_action", name(&default.final_action));
    for index in 0..settings.targets.len() {
        add(&format!("target[{index}]"), "path", quote(DEFAULT_PATH));
    }
    for index in 0..settings.dumps.len() {
        for dump in &default.dumps {
            let table = format!("dump[{index}]");
            add(&table, "file", quote(&dump.file));
            add(&table, "level", dump.level.to_string());
            add(&table, "format", name(&dump.format));
            add(&table, "compression", quote(&dump.compression.to_string()));
        }
    }
    let Limits { modules, device, mount, stall, engine, finish } = default.limits;
    for (key, value) in [
        ("modules", modules),
        ("device", device),
        ("mount", mount),
        ("stall", stall),
        ("engine", engine),
        ("finish", finish),
    ] {
        add("limits", key, value.to_string());
    }
    add("triage", "enabled", default.triage.enabled.to_string());
    add("hooks", "directory", quote(&default.hooks.directory));
    add("hooks", "pre_decides", default.hooks.pre_decides.to_string());
    add("hooks", "limit", default.hooks.limit.to_string());
    add("watchdog", "feed", name(&default.watchdog.feed));
    add("watchdog", "timeout", default.watchdog.timeout.to_string());
    add("harvest", "verify", default.harvest.verify.to_string());
    all
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.files.as_slice() {
            [] => writeln!(f, "# no settings files: all defaults")?,
            files => writeln!(f, "# {}", files.join(", "))?,
        }
        let lines: Vec<String> = self.settings.iter().map(|s| format!("{} = {}", s.key, s.value)).collect();
        let width = lines.iter().map(|line| line.chars().count()).max().unwrap_or(0).min(60);
        let mut table = String::new();
        for (setting, line) in self.settings.iter().zip(&lines) {
            if setting.table != table {
                table.clone_from(&setting.table);
                match table.split_once(['[', ']']) {
                    // A table of one of several, `target[0].limits`, is written in it.
                    Some((name, rest)) => {
                        let inner =
                            rest.split_once("].").map_or(String::new(), |(_, inner)| format!(".{inner}"));
                        let brackets = if inner.is_empty() { ("[[", "]]") } else { ("[", "]") };
                        writeln!(f, "\n{}{name}{inner}{}", brackets.0, brackets.1)?;
                    }
                    None => writeln!(f, "\n[{table}]")?,
                }
            }
            writeln!(f, "{line:width$}  # {}", setting.origin.as_deref().unwrap_or("default"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load;
    use crate::settings;
    use std::path::Path;

    #[test]
    fn what_is_shown_is_a_settings_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.toml");
        let text = "host = \"h\"\n[[target]]\nnfs = \"a:/b\"\nlimits = { reach = 3 }\n[[target]]\n[limits]\nstall = 9\n";
        std::fs::write(&file, text).unwrap();
        let loaded = load::load_file(&file).unwrap();
        let shown = Shown::of(&loaded).to_string();
        assert_eq!(settings::parse(&shown, Path::new("shown")).unwrap(), loaded.settings, "{shown}");
        assert!(shown.contains("x.toml:1:8\n") && shown.contains("  # default\n"), "{shown}");
    }

    #[test]
    fn defaults_are_the_defaults() {
        let loaded = load::load(&initramfs::root::Root::new("/nonexistent")).unwrap();
        let shown = Shown::of(&loaded).to_string();
        assert_eq!(settings::parse(&shown, Path::new("shown")).unwrap(), Settings::default(), "{shown}");
    }
}

//! Settings as another program writes them: made from what an operator wrote for another tool, value by value, each with the
//! place that it comes from. Becomes a tree, or the text of a settings file.

use super::sources::Sources;
use super::tree::{Tree, quote};
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

/// A value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    /// A text.
    Text(String),
    /// A number, as digits.
    Number(String),
    /// Yes or no.
    Flag(bool),
    /// Texts, each with its place.
    List(Vec<(String, Range<usize>)>),
}

impl Value {
    /// A number from its decimal digits; TOML has no zeros in front.
    pub fn digits(text: &str) -> Self {
        let short = text.trim_start_matches('0');
        Self::Number(if short.is_empty() { "0" } else { short }.to_owned())
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(number.to_string())
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Entry {
    key: &'static str,
    value: Value,
    span: Range<usize>,
}

/// A table or one of several.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Section {
    name: &'static str,
    several: bool,
    entries: Vec<Entry>,
}

/// Settings, in the order of the example.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Written {
    sections: Vec<Section>,
}

/// The order in which sections are written.
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
/// Those of which there are several.
const SEVERAL: [&str; 2] = ["target", "dump"];

impl Written {
    /// Sets a key of a section (empty: the top). Of `target` and `dump` there is one each.
    pub fn set(
        &mut self,
        section: &'static str,
        key: &'static str,
        value: impl Into<Value>,
        span: Range<usize>,
    ) {
        let section = self.section(section);
        section.entries.retain(|entry| entry.key != key);
        section.entries.push(Entry { key, value: value.into(), span });
    }

    /// Adds to a list.
    pub fn add(
        &mut self,
        section: &'static str,
        key: &'static str,
        text: impl Into<String>,
        span: Range<usize>,
    ) {
        let section = self.section(section);
        let item = (text.into(), span.clone());
        match section.entries.iter_mut().find(|entry| entry.key == key) {
            Some(Entry { value: Value::List(list), .. }) => list.push(item),
            _ => section.entries.push(Entry { key, value: Value::List(vec![item]), span }),
        }
    }

    /// Whether a key is set.
    pub fn has(&self, section: &str, key: &str) -> bool {
        self.sections.iter().any(|s| s.name == section && s.entries.iter().any(|e| e.key == key))
    }

    fn section(&mut self, name: &'static str) -> &mut Section {
        let rank = |name: &str| ORDER.iter().position(|known| *known == name).unwrap_or(ORDER.len());
        let at = match self.sections.iter().position(|section| section.name == name) {
            Some(at) => at,
            None => {
                let at = self
                    .sections
                    .iter()
                    .position(|s| rank(s.name) > rank(name))
                    .unwrap_or(self.sections.len());
                self.sections
                    .insert(at, Section { name, several: SEVERAL.contains(&name), entries: Vec::new() });
                at
            }
        };
        &mut self.sections[at]
    }

    /// As a tree, in which every value has the place that it comes from.
    pub fn tree(&self) -> Tree<'_> {
        let mut tree = Tree::new();
        for section in &self.sections {
            let mut table = DeTable::new();
            for entry in &section.entries {
                table.insert(
                    key(entry.key, &entry.span),
                    Spanned::new(entry.span.clone(), value(&entry.value, &entry.span)),
                );
            }
            let span = section.entries.first().map_or(0..0, |entry| entry.span.clone());
            if section.name.is_empty() {
                tree.extend(table);
                continue;
            }
            let table = Spanned::new(span.clone(), DeValue::Table(table));
            let whole = if section.several {
                let mut array = DeArray::new();
                array.push(table);
                Spanned::new(span.clone(), DeValue::Array(array))
            } else {
                table
            };
            tree.insert(key(section.name, &span), whole);
        }
        tree
    }

    /// As the text of a settings file, in which a comment tells where each value comes from.
    pub fn text(&self, sources: &Sources) -> String {
        let mut text = String::new();
        let mut last = None;
        for section in &self.sections {
            match (section.name, section.several) {
                ("", _) => {}
                (name, false) => text.push_str(&format!("\n[{name}]\n")),
                (name, true) => text.push_str(&format!("\n[[{name}]]\n")),
            }
            for entry in &section.entries {
                let value = match &entry.value {
                    Value::Text(text) => quote(text),
                    Value::Number(digits) => digits.clone(),
                    Value::Flag(flag) => flag.to_string(),
                    Value::List(list) => {
                        let list: Vec<String> = list.iter().map(|(text, _)| quote(text)).collect();
                        format!("[{}]", list.join(", "))
                    }
                };
                let place = sources.diagnostic(&entry.span, "");
                let line = format!(
                    "{}:{}: {}",
                    place.file.display(),
                    place.line,
                    without_password(place.source_line().trim())
                );
                if last.as_ref() != Some(&line) {
                    text.push_str(&comment(&line));
                }
                last = Some(line);
                text.push_str(&format!("{} = {value}\n", entry.key));
            }
        }
        text
    }
}

/// A comment of one line. TOML has no control characters in them.
pub fn comment(text: &str) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    format!("# {clean}\n")
}

/// `ssh://user:password@host` without the password: what is written is read by others than who wrote it.
fn without_password(line: &str) -> String {
    let Some((before, rest)) = line.split_once("://") else { return line.to_owned() };
    let end = rest.find(|c: char| c == '/' || c.is_whitespace()).unwrap_or(rest.len());
    let (place, after) = rest.split_at(end);
    match place.rsplit_once('@').and_then(|(user, host)| Some((user.split_once(':')?.0, host))) {
        Some((user, host)) => format!("{before}://{user}:***@{host}{after}"),
        None => line.to_owned(),
    }
}

fn key<'a>(name: &'a str, span: &Range<usize>) -> Spanned<std::borrow::Cow<'a, str>> {
    Spanned::new(span.clone(), name.into())
}

fn value<'a>(written: &'a Value, span: &Range<usize>) -> DeValue<'a> {
    match written {
        Value::Text(text) => DeValue::String(text.as_str().into()),
        Value::Flag(flag) => DeValue::Boolean(*flag),
        Value::Number(digits) => match DeValue::parse(digits) {
            Ok(number) => number.into_inner(),
            // What is no number is complained of where it is read.
            Err(_) => DeValue::String(digits.as_str().into()),
        },
        Value::List(list) => {
            let mut array = DeArray::new();
            for (text, at) in list {
                let at = if at.is_empty() { span } else { at };
                array.push(Spanned::new(at.clone(), DeValue::String(text.as_str().into())));
            }
            DeValue::Array(array)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings;
    use std::path::Path;

    #[test]
    fn tree_and_text_are_the_same_settings() {
        let sources = Sources::of(Path::new("old.conf"), "line one\nline two\n");
        let mut written = Written::default();
        written.add("image", "extra_modules", "dm_mod", 0..4);
        written.set("target", "path", "/a \"b\"", 5..8);
        written.set("limits", "device", 7, 9..13);
        written.set("", "on_failure", "halt", 9..13);
        written.set("dump", "file", "vmcore", 0..0);
        written.set("dump", "exclude_vmemmap", Value::Flag(true), 0..0);
        written.add("image", "extra_modules", "raid1", 9..12);
        written.set("limits", "device", 8, 9..13);
        let text = written.text(&sources);
        let expected = "# old.conf:2: line two\non_failure = \"halt\"\n\n[[target]]\n# old.conf:1: line one\npath = '/a \"b\"'\n";
        assert!(text.starts_with(expected), "{text}");
        let read = settings::read(written.tree(), &sources).unwrap();
        assert_eq!(read, settings::parse(&text, Path::new("t")).unwrap());
        assert_eq!((read.limits.device, read.image.extra_modules.len()), (8, 2));
        assert!(written.has("limits", "device") && !written.has("limits", "mount"));
    }

    #[test]
    fn complaints_point_at_the_origin() {
        let sources = Sources::of(Path::new("old.conf"), "disk_timeout 0\n");
        let mut written = Written::default();
        written.set("limits", "device", 0, 13..14);
        let said = settings::read(written.tree(), &sources).unwrap_err().to_string();
        assert!(said.starts_with("old.conf:1:14: a limit of 0 seconds"), "{said}");
    }
}

//! A complaint about a line that a person wrote: `file:line:col: message`, the line, a caret, a suggestion.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// What is wrong with a stretch of a settings file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diagnostic {
    /// The file.
    pub file: PathBuf,
    /// Its line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong, with the value seen.
    pub message: String,
    /// What to do about it; may be empty.
    pub advice: String,
    text: String,
    width: usize,
}

impl Diagnostic {
    /// A complaint about `source[span]`. A span beyond the text points at its end.
    pub fn new(file: &Path, source: &str, span: Range<usize>, message: impl Into<String>) -> Self {
        let mut start = span.start.min(source.len());
        while !source.is_char_boundary(start) {
            start -= 1;
        }
        let before = source.get(..start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let text = source.get(line_start..).unwrap_or_default().lines().next().unwrap_or_default();
        let shown = source.get(start..span.end.max(start)).unwrap_or_default();
        Self {
            file: file.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before.get(line_start..).unwrap_or_default().chars().count() + 1,
            message: message.into(),
            advice: String::new(),
            text: text.to_owned(),
            width: shown.lines().next().unwrap_or_default().chars().count().max(1),
        }
    }

    /// The line that it is about.
    pub fn source_line(&self) -> &str {
        &self.text
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = advice.into();
        self
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}:{}:{}: {}", self.file.display(), self.line, self.column, self.message)?;
        let number = self.line.to_string();
        writeln!(f, "  {number} | {}", self.text)?;
        // Tabs stay tabs, so that the caret stands where the terminal puts the character.
        let indent: String =
            self.text.chars().take(self.column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        write!(f, "  {:1$} | {indent}{2}", "", number.len(), "^".repeat(self.width))?;
        if !self.advice.is_empty() {
            write!(f, " {}", self.advice)?;
        }
        Ok(())
    }
}

/// One or more complaints about one file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, one) in self.0.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            one.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

/// How much a finding matters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Nothing can be armed.
    Error,
    /// Something will not be as it was written, or as it was with the tool that it was written for.
    Warning,
    /// It is as it was, in another way.
    Remark,
}

/// What was found in a file that was written for another tool.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// What, and where.
    pub diagnostic: Diagnostic,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.severity {
            // As in files of our own.
            Severity::Error => return self.diagnostic.fmt(f),
            Severity::Warning => "warning",
            Severity::Remark => "remark",
        };
        let message = format!("{kind}: {}", self.diagnostic.message);
        Diagnostic { message, ..self.diagnostic.clone() }.fmt(f)
    }
}

/// The known word nearest to `word`, if it is near enough to be what was meant.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = word.chars().count().div_ceil(3).clamp(1, 3);
    known.into_iter().map(|k| (distance(word, k), k)).filter(|(d, _)| *d <= limit).min().map(|(_, k)| k)
}

/// Edits between two words: insertions, deletions, replacements, and neighbours swapped (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replace = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replace.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        let cases =
            [("", "", 0), ("level", "level", 0), ("levle", "level", 1), ("lvel", "level", 1), ("abc", "", 3)];
        for (a, b, want) in cases {
            assert_eq!(distance(a, b), want, "{a} {b}");
            assert_eq!(distance(b, a), want, "{b} {a}");
        }
    }

    #[test]
    fn only_near_words_are_suggested() {
        assert_eq!(nearest("levle", ["file", "level"]), Some("level"));
        assert_eq!(nearest("colour", ["file", "level"]), None);
        assert_eq!(nearest("devcie", ["device", "path"]), Some("device"));
    }

    #[test]
    fn caret_stands_under_the_span() {
        let source = "a = 1\n\tlevle = 31\n";
        let at = source.find("levle").unwrap();
        let shown = Diagnostic::new(Path::new("x.toml"), source, at..at + 5, "unknown key").to_string();
        assert_eq!(shown, "x.toml:2:2: unknown key\n  2 | \tlevle = 31\n    | \t^^^^^");
        // A span beyond the end, or inside a character, does not panic.
        drop(Diagnostic::new(Path::new("x"), "é", 1..9, "m").to_string());
        drop(Diagnostic::new(Path::new("x"), "", 7..9, "m").to_string());
    }
}

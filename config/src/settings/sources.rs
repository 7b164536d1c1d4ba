//! The files that settings come from, laid end to end: one span says which file, and where in it.

use crate::diagnostic::Diagnostic;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Texts of files, each at its own range of offsets.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Sources {
    files: Vec<File>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct File {
    name: PathBuf,
    text: String,
    start: usize,
}

/// Where a value was written: `file:line:column`, both from 1.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Origin {
    /// The file.
    pub file: PathBuf,
    /// Its line.
    pub line: usize,
    /// Column in characters.
    pub column: usize,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

impl Sources {
    /// One file, whose spans begin at 0.
    pub fn of(name: &Path, text: &str) -> Self {
        let mut sources = Self::default();
        sources.add(name, text);
        sources
    }

    /// Adds a file. Returns the offset at which its spans begin.
    pub fn add(&mut self, name: &Path, text: &str) -> usize {
        // One more than the text: its end is a place of its own.
        let start = self.files.last().map_or(0, |last| last.start + last.text.len() + 1);
        self.files.push(File { name: name.to_owned(), text: text.to_owned(), start });
        start
    }

    /// The files, in the order in which they were added.
    pub fn names(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|file| file.name.as_path())
    }

    /// A complaint about what is written at `span`.
    pub fn diagnostic(&self, span: &Range<usize>, message: impl Into<String>) -> Diagnostic {
        match self.files.iter().rfind(|file| file.start <= span.start) {
            Some(file) => {
                let local = span.start - file.start..span.end.saturating_sub(file.start);
                Diagnostic::new(&file.name, &file.text, local, message)
            }
            None => Diagnostic::new(Path::new("settings"), "", 0..0, message),
        }
    }

    /// Where `span` begins.
    pub fn origin(&self, span: &Range<usize>) -> Origin {
        let Diagnostic { file, line, column, .. } = self.diagnostic(span, "");
        Origin { file, line, column }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_finds_its_file() {
        let mut sources = Sources::default();
        assert_eq!(sources.add(Path::new("a"), "one\ntwo"), 0);
        assert_eq!(sources.add(Path::new("b"), ""), 8);
        assert_eq!(sources.add(Path::new("c"), "\n  x"), 9);
        for (at, want) in
            [(0, "a:1:1"), (5, "a:2:2"), (7, "a:2:4"), (8, "b:1:1"), (12, "c:2:3"), (99, "c:2:4")]
        {
            assert_eq!(sources.origin(&(at..at + 1)).to_string(), want, "{at}");
        }
        assert_eq!(Sources::default().origin(&(3..4)).to_string(), "settings:1:1");
    }
}

//! /etc/kdump.conf, as kdump-utils of Fedora and RHEL has it: every directive that there is or ever was, as settings.
//!
//! ```text
//! text --lines--> directive and value, each with its place --directives--> Written, findings
//!                                                               |- target     raw, nfs, ssh, ext4, net, --mount …
//!                                                               |- collector  makedumpfile's options, cp, scp
//!                                                               '- fence      fence_kdump_send's options
//! ```
//!
//! The rules of the file, from its readers: one `option value…` a line; everything from the first `#` on is a comment, also in
//! a value; one pair of double quotes around the whole value goes; no escapes, no continuation lines, no includes. kdump's
//! two readers differ over an option that is given twice: one takes the last, the other refuses; here it is refused.
//!
//! What kdump would do in the same way is silent; what is done in another way is a remark, what is not done a warning, and
//! what would lose the dump, or its secrecy, if it was passed over is an error. Options of the past are mapped.

pub mod collector;
mod directives;
pub mod fence;
pub mod target;

use crate::settings::sources::Sources;
use crate::settings::translation::Translation;
use std::ops::Range;

/// Where kdump's settings are.
pub const KDUMP_CONF: &str = "/etc/kdump.conf";

/// A word or a line of words with its place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Placed {
    /// The text.
    pub text: String,
    /// Where it is.
    pub span: Range<usize>,
}

impl Placed {
    /// The words of it, each with its own place.
    pub fn words(&self) -> Vec<Self> {
        let mut words = Vec::new();
        let mut from = 0;
        for word in self.text.split_whitespace() {
            let at = self.text.get(from..).and_then(|rest| rest.find(word)).map_or(from, |at| from + at);
            from = at + word.len();
            words.push(self.part(at..from));
        }
        words
    }

    /// A stretch of it, by offsets into its text.
    fn part(&self, range: Range<usize>) -> Self {
        let text = self.text.get(range.clone()).unwrap_or_default().to_owned();
        // A text that is not as long as its place was in quotes or had escapes: the whole is all that is known.
        let span = match self.span.len() == self.text.len() {
            true => self.span.start + range.start..self.span.start + range.end,
            false => self.span.clone(),
        };
        Self { text, span }
    }
}

/// One line.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Line {
    name: Placed,
    value: Placed,
    /// What looks as if it was meant to be part of the value, but is a comment.
    cut: Option<Range<usize>>,
}

/// Translates `text`, whose spans begin at `start` in `sources`.
pub fn translate<'a>(text: &str, start: usize, sources: &'a Sources) -> Translation<'a> {
    let mut translation = Translation::new(sources);
    translate_into(text, start, &mut translation);
    translation
}

/// As [`translate`], into what there is.
pub fn translate_into(text: &str, start: usize, out: &mut Translation<'_>) {
    directives::translate(&lines(text, start), out);
}

/// Whether a text could be a kdump.conf: one of its options is in it, or there is nothing but comments.
pub fn could_be(text: &str) -> bool {
    let lines = lines(text, 0);
    lines.is_empty() || lines.iter().any(|line| directives::is_known(&line.name.text))
}

fn lines(text: &str, start: usize) -> Vec<Line> {
    let mut found = Vec::new();
    let mut at = start;
    for line in text.split_inclusive('\n') {
        let code = line.split_once('#').map_or(line, |(code, _)| code);
        let blank = |c: char| c.is_whitespace() || c == '\u{feff}';
        let trimmed = code.trim_start_matches(blank).trim_end();
        if !trimmed.is_empty() {
            let from = at + (code.len() - code.trim_start_matches(blank).len());
            let whole = Placed { text: trimmed.to_owned(), span: from..from + trimmed.len() };
            let end = trimmed.find(char::is_whitespace).unwrap_or(trimmed.len());
            let rest = trimmed.get(end..).unwrap_or_default();
            let value_at = end + (rest.len() - rest.trim_start().len());
            let quoted = trimmed.get(value_at..).and_then(|v| v.strip_prefix('"')?.strip_suffix('"'));
            let value = match quoted {
                Some(inside) => whole.part(value_at + 1..value_at + 1 + inside.len()),
                None => whole.part(value_at..trimmed.len()),
            };
            let glued =
                code.len() < line.len() && !code.ends_with(char::is_whitespace) && end < trimmed.len();
            let cut = glued.then(|| at + code.len()..at + line.trim_end().len());
            found.push(Line { name: whole.part(0..end), value, cut });
        }
        at += line.len();
    }
    found
}

#[cfg(test)]
mod tests;

//! Files of shell variables, and words in shell quotes: read by the shell's quoting rules, never run. What a shell would expand
//! comes out as what it is, so that nobody takes it for a text.

use std::ops::Range;

/// A stretch of a value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Piece {
    /// As it is.
    Text(String),
    /// `$NAME` or `${NAME}`.
    Variable(String),
    /// Anything else that a shell would expand: `$(…)`, backquotes, `${NAME:-…}`, `$1`.
    Expansion(String),
}

/// `NAME=value`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Assignment {
    /// The variable.
    pub name: String,
    /// Its value.
    pub value: Vec<Piece>,
    /// `+=`.
    pub append: bool,
    /// Where all of it is.
    pub span: Range<usize>,
    /// Where the value is.
    pub value_span: Range<usize>,
}

/// A statement of such a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Statement {
    /// One that is understood.
    Assignment(Assignment),
    /// Anything else that a shell would do: where it is.
    Other(Range<usize>),
}

impl Assignment {
    /// The value where there is nothing to expand in it.
    pub fn text(&self) -> Option<String> {
        self.value
            .iter()
            .map(|piece| if let Piece::Text(text) = piece { Some(text.as_str()) } else { None })
            .collect()
    }
}

/// The statements of `source`.
pub fn statements(source: &str) -> Vec<Statement> {
    let mut cursor = Cursor { source, at: 0 };
    let mut found = Vec::new();
    loop {
        cursor.skip(|c| c.is_whitespace() || c == ';' || c == '\u{feff}');
        let Some(first) = cursor.peek() else { return found };
        if first == '#' {
            cursor.skip(|c| c != '\n');
            continue;
        }
        let start = cursor.at;
        if cursor.rest().starts_with("export ") {
            cursor.at += "export ".len();
            cursor.skip(|c| c == ' ' || c == '\t');
        }
        let assignment = cursor.assignment(start);
        // A word behind it makes it the environment of a command.
        cursor.skip(|c| c == ' ' || c == '\t' || c == '\r');
        let ends = matches!(cursor.peek(), None | Some('\n' | ';' | '#'));
        match assignment {
            Some(assignment) if ends => found.push(Statement::Assignment(assignment)),
            _ => {
                cursor.skip(|c| c != '\n');
                let line = source.get(start..cursor.at).unwrap_or_default();
                found.push(Statement::Other(start..start + line.trim_end().len()));
            }
        }
    }
}

/// The words of a text in shell quotes. `None` where a quote is not closed, or something would be expanded.
pub fn words(text: &str) -> Option<Vec<String>> {
    let mut cursor = Cursor { source: text, at: 0 };
    let mut words = Vec::new();
    loop {
        cursor.skip(char::is_whitespace);
        if cursor.peek().is_none() {
            return Some(words);
        }
        let pieces = cursor.word(&[])?;
        let plain = |piece| if let Piece::Text(text) = piece { Some(text) } else { None };
        words.push(pieces.into_iter().map(plain).collect::<Option<String>>()?);
    }
}

struct Cursor<'a> {
    source: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn rest(&self) -> &'a str {
        self.source.get(self.at..).unwrap_or_default()
    }
    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }
    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }
    fn skip(&mut self, unwanted: impl Fn(char) -> bool) {
        let rest = self.rest();
        self.at += rest.find(|c| !unwanted(c)).unwrap_or(rest.len());
    }
    fn take(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let start = self.at;
        self.skip(wanted);
        self.source.get(start..self.at).unwrap_or_default()
    }

    fn assignment(&mut self, start: usize) -> Option<Assignment> {
        let name = self.take(|c| c.is_ascii_alphanumeric() || c == '_');
        let append = self.rest().starts_with("+=");
        self.at += usize::from(append);
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || self.next() != Some('=') {
            return None;
        }
        let from = self.at;
        let value = self.word(&[';', '&', '|', '(', ')', '<', '>'])?;
        Some(Assignment {
            name: name.to_owned(),
            value,
            append,
            span: start..self.at,
            value_span: from..self.at,
        })
    }

    /// One word, up to a blank or one of `ends` outside quotes. `None` where a quote is not closed.
    fn word(&mut self, ends: &[char]) -> Option<Vec<Piece>> {
        let mut word = Word::default();
        while let Some(c) = self.peek() {
            if c.is_whitespace() || ends.contains(&c) {
                break;
            }
            self.at += c.len_utf8();
            match c {
                '\'' => {
                    let (inside, rest) = self.rest().split_once('\'')?;
                    word.text.push_str(inside);
                    self.at = self.source.len() - rest.len();
                }
                '"' => loop {
                    match self.next()? {
                        '"' => break,
                        // Inside double quotes a backslash stands for itself before all others.
                        '\\' => match self.next()? {
                            '\n' => {}
                            escaped @ ('$' | '`' | '"' | '\\') => word.text.push(escaped),
                            other => word.text.extend(['\\', other]),
                        },
                        c @ ('$' | '`') => self.expansion(c, &mut word)?,
                        other => word.text.push(other),
                    }
                },
                '\\' => match self.next() {
                    Some('\n') | None => {}
                    Some(escaped) => word.text.push(escaped),
                },
                '$' | '`' => self.expansion(c, &mut word)?,
                other => word.text.push(other),
            }
        }
        word.flush();
        Some(word.pieces)
    }

    /// What begins with a dollar or a backquote, which has been taken.
    fn expansion(&mut self, first: char, word: &mut Word) -> Option<()> {
        let start = self.at - 1;
        let is_name = |name: &str| {
            name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        };
        let piece = match (first, self.peek()) {
            ('`', _) => {
                let inside = self.rest().find('`')?;
                self.at += inside + 1;
                None
            }
            (_, Some('{')) => {
                let inside = self.rest().find('}')?;
                let name = self.rest().get(1..inside)?;
                self.at += inside + 1;
                is_name(name).then(|| Piece::Variable(name.to_owned()))
            }
            (_, Some('(')) => {
                self.brackets()?;
                None
            }
            (_, Some(c)) if c.is_ascii_alphabetic() || c == '_' => {
                Some(Piece::Variable(self.take(|c| c.is_ascii_alphanumeric() || c == '_').to_owned()))
            }
            (_, Some(c)) if c.is_ascii_digit() || "@*#?-$!".contains(c) => {
                self.at += 1;
                None
            }
            // A dollar alone is one.
            _ => {
                word.text.push('$');
                return Some(());
            }
        };
        word.flush();
        let text = self.source.get(start..self.at).unwrap_or_default();
        word.pieces.push(piece.unwrap_or_else(|| Piece::Expansion(text.to_owned())));
        Some(())
    }

    /// Passes `(…)`, brackets in it included. `None` where it is not closed.
    fn brackets(&mut self) -> Option<()> {
        let mut depth = 0_usize;
        loop {
            match self.next()? {
                '(' => depth += 1,
                ')' if depth == 1 => return Some(()),
                ')' => depth -= 1,
                _ => {}
            }
        }
    }
}

#[derive(Default)]
struct Word {
    pieces: Vec<Piece>,
    text: String,
}

impl Word {
    fn flush(&mut self) {
        if !self.text.is_empty() {
            self.pieces.push(Piece::Text(std::mem::take(&mut self.text)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_a_shell_reads_them() {
        for (line, want) in [
            ("A=b", Some("b")),
            ("A=", Some("")),
            ("A=\"\"", Some("")),
            ("export A='b c'", Some("b c")),
            (r#"A="b \"c\" \\ \n \$x""#, Some(r#"b "c" \ \n $x"#)),
            (r"A=b\ c\;", Some("b c;")),
            ("A='it'\\''s'", Some("it's")),
            ("A=\"one \\\ntwo\"", Some("one two")),
            ("A='one\ntwo' # why", Some("one\ntwo")),
            ("A=a#b", Some("a#b")),
            ("A=5$", Some("5$")),
            ("A=$(id)", None),
            ("A=\"`id -u`\"", None),
            ("A=${X:-y}", None),
            ("A=$((1 + (2)))", None),
            ("A=x$1", None),
            ("A=$B", None),
        ] {
            let all = statements(line);
            let [Statement::Assignment(one)] = all.as_slice() else { panic!("{line}: {all:?}") };
            assert_eq!(one.name, "A");
            assert_eq!(one.text().as_deref(), want, "{line}");
        }
    }

    #[test]
    fn variables_are_told_apart() {
        let all = statements("A=\"$B ${C}d\"; E+=f\n");
        let [Statement::Assignment(a), Statement::Assignment(e)] = all.as_slice() else { panic!("{all:?}") };
        assert_eq!(
            a.value,
            [
                Piece::Variable("B".into()),
                Piece::Text(" ".into()),
                Piece::Variable("C".into()),
                Piece::Text("d".into())
            ]
        );
        assert!(e.append && e.text().as_deref() == Some("f"));
        assert_eq!((a.span.clone(), a.value_span.clone()), (0..12, 2..12));
    }

    #[test]
    fn what_is_no_assignment_is_told() {
        for line in [
            "if [ -f /x ]; then",
            "A=1 reboot",
            ". /etc/x",
            "1A=b",
            "A=\"b",
            "A=`b",
            "A=$(b",
            "A=b(c)",
            "=",
            "-x",
        ] {
            let all = statements(line);
            assert_eq!(all, [Statement::Other(0..line.len())], "{line}");
        }
        assert_eq!(statements("# A=b\n\n ; \n"), []);
        assert_eq!(statements("\u{feff}A=b").len(), 1);
    }

    #[test]
    fn words_in_quotes() {
        let want =
            Some(vec!["--mount".to_owned(), "/dev/x /mnt ext4".to_owned(), "a b".to_owned(), String::new()]);
        assert_eq!(words("--mount \"/dev/x /mnt ext4\"  a\\ b ''"), want);
        assert_eq!(words("a \"b"), None);
        assert_eq!(words("a $b"), None);
        assert_eq!(words("  "), Some(Vec::new()));
    }
}

//! Reads words as getopt_long(3) does: options anywhere, letters joined, long names cut short as far as they stay unique.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// An option of a program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Spec<T> {
    /// What it is to the program.
    pub flag: T,
    /// Its letter.
    pub letter: Option<u8>,
    /// Its long name.
    pub name: Option<&'static str>,
    /// Whether a value follows.
    pub takes_value: bool,
}

/// One word, understood.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Word<T> {
    /// An option and its value.
    Option(T, Option<OsString>),
    /// Anything else.
    Operand(OsString),
}

/// Reads `words`. What was understood before the first mistake, and that mistake in getopt's words.
pub(super) fn read<T: Copy + PartialEq>(
    specs: &[Spec<T>],
    words: impl IntoIterator<Item = OsString>,
) -> (Vec<Word<T>>, Option<String>) {
    let mut read = Vec::new();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let bytes = word.as_bytes();
        let mistake = if bytes == b"--" {
            read.extend(words.by_ref().map(Word::Operand));
            None
        } else if let Some(long) = bytes.strip_prefix(b"--") {
            self::long(specs, long, &mut words).map(|word| read.push(word)).err()
        } else if let Some(letters @ [_, ..]) = bytes.strip_prefix(b"-") {
            self::letters(specs, letters, &mut words, &mut read).err()
        } else {
            read.push(Word::Operand(word));
            None
        };
        if mistake.is_some() {
            return (read, mistake);
        }
    }
    (read, None)
}

fn long<T: Copy + PartialEq>(
    specs: &[Spec<T>],
    word: &[u8],
    words: &mut impl Iterator<Item = OsString>,
) -> Result<Word<T>, String> {
    let (name, joined) = match word.iter().position(|b| *b == b'=') {
        Some(at) => (word.get(..at).unwrap_or_default(), word.get(at.saturating_add(1)..)),
        None => (word, None),
    };
    let shown = String::from_utf8_lossy(name);
    let named = || specs.iter().filter_map(|spec| Some((spec, spec.name?)));
    let mut candidates = named().filter(|(_, full)| full.as_bytes().starts_with(name));
    let exact = named().find(|(_, full)| full.as_bytes() == name);
    let (spec, full) = match (exact, candidates.next(), candidates.next()) {
        (Some(exact), ..) => exact,
        (None, Some(only), None) => only,
        (None, None, _) => return Err(format!("unrecognized option '--{shown}'")),
        (None, Some(_), Some(_)) => {
            let all: String = named()
                .filter(|(_, full)| full.as_bytes().starts_with(name))
                .map(|(_, full)| format!(" '--{full}'"))
                .collect();
            return Err(format!("option '--{shown}' is ambiguous; possibilities:{all}"));
        }
    };
    let value = match (spec.takes_value, joined) {
        (false, None) => None,
        (false, Some(_)) => return Err(format!("option '--{full}' doesn't allow an argument")),
        (true, Some(value)) => Some(OsStr::from_bytes(value).to_owned()),
        (true, None) => Some(words.next().ok_or_else(|| format!("option '--{full}' requires an argument"))?),
    };
    Ok(Word::Option(spec.flag, value))
}

fn letters<T: Copy + PartialEq>(
    specs: &[Spec<T>],
    letters: &[u8],
    words: &mut impl Iterator<Item = OsString>,
    read: &mut Vec<Word<T>>,
) -> Result<(), String> {
    let mut letters = letters;
    while let [letter, rest @ ..] = letters {
        letters = rest;
        let shown = char::from(*letter);
        let spec = specs
            .iter()
            .find(|spec| spec.letter == Some(*letter))
            .ok_or_else(|| format!("invalid option -- '{shown}'"))?;
        let value = match (spec.takes_value, rest) {
            (false, _) => None,
            (true, []) => {
                Some(words.next().ok_or_else(|| format!("option requires an argument -- '{shown}'"))?)
            }
            (true, joined) => {
                letters = &[];
                Some(OsString::from_vec(joined.to_vec()))
            }
        };
        read.push(Word::Option(spec.flag, value));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SPECS: &[Spec<char>] = &[
        Spec { flag: 'a', letter: Some(b'a'), name: None, takes_value: false },
        Spec { flag: 'b', letter: Some(b'b'), name: Some("bits"), takes_value: true },
        Spec { flag: 's', letter: None, name: Some("split"), takes_value: false },
        Spec { flag: 'z', letter: None, name: Some("splitblock-size"), takes_value: true },
    ];

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').filter(|w| !w.is_empty()).map(OsString::from).collect()
    }

    /// As `a b=3 IN`: letters of options, their values, operands.
    fn shown(line: &str) -> String {
        let (read, mistake) = read(SPECS, words(line));
        let mut text: Vec<String> = read
            .iter()
            .map(|word| match word {
                Word::Option(flag, None) => flag.to_string(),
                Word::Option(flag, Some(value)) => format!("{flag}={}", value.display()),
                Word::Operand(operand) => operand.display().to_string(),
            })
            .collect();
        text.extend(mistake.map(|m| format!("! {m}")));
        text.join(" ")
    }

    #[test]
    fn words_are_read_as_getopt_reads_them() {
        for (line, want) in [
            ("", ""),
            ("-a IN", "a IN"),
            ("IN -a OUT", "IN a OUT"),
            ("-ab3 IN", "a b=3 IN"),
            ("-ab 3 IN", "a b=3 IN"),
            ("-ba", "b=a"),
            ("-b=3", "b==3"),
            ("-b -a", "b=-a"),
            ("-b -- -a", "b=-- a"),
            ("-- -a -b", "-a -b"),
            ("- -a", "- a"),
            ("--bits 3", "b=3"),
            ("--bits=3", "b=3"),
            ("--bits= x", "b= x"),
            ("--bi=3", "b=3"),
            ("--split", "s"),
            ("--splitb 4", "z=4"),
            ("-a -q IN", "a ! invalid option -- 'q'"),
            ("-b", "! option requires an argument -- 'b'"),
            ("--bits", "! option '--bits' requires an argument"),
            ("--b", "! option '--bits' requires an argument"),
            ("--split=3", "! option '--split' doesn't allow an argument"),
            ("--spl", "! option '--spl' is ambiguous; possibilities: '--split' '--splitblock-size'"),
            ("--split-b 4", "! unrecognized option '--split-b'"),
            ("--frob=1 IN", "! unrecognized option '--frob'"),
            ("--=", "! option '--' is ambiguous; possibilities: '--bits' '--split' '--splitblock-size'"),
        ] {
            assert_eq!(shown(line), want, "{line:?}");
        }
    }

    proptest! {
        #[test]
        fn any_words_are_read(words in proptest::collection::vec("(--?)?[ab=sz-]{0,3}(plit)?\\PC?", 0..8)) {
            let given: Vec<OsString> = words.iter().map(OsString::from).collect();
            let (read, mistake) = read(SPECS, given.clone());
            prop_assert!(read.len() <= words.iter().map(|w| w.len().max(1)).sum());
            // What lies before a mistake is read the same without what follows.
            prop_assert!(mistake.is_some() || read.len() >= usize::from(!given.is_empty() && given != ["--"]) );
        }

        #[test]
        fn bytes_that_are_no_text_are_read(bytes in proptest::collection::vec(1_u8.., 0..12)) {
            let _ = read(SPECS, [OsString::from_vec(bytes)]);
        }
    }
}

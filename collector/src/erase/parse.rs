//! The rules as text: makedumpfile.conf(5), and what goes beyond it.
//!
//! ```text
//! [vmlinux]                                    # or a module's name
//! erase SYMBOL[:TYPE][.member...] [size NUMBER[K|M] | size EXPRESSION | nullify]
//! erase TYPE.member                            # of every instance that can be found
//! for ID in ARRAY | STRUCT via member | LIST_HEAD within STRUCT:member
//!     erase ID[.member...] ...
//! endfor
//! ```

/// What to erase.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Rules {
    pub(super) sections: Vec<Section>,
}

/// Why rules could not be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct ParseError {
    /// Where, from 1.
    pub line: u32,
    /// What is wrong, and what would be right.
    pub what: String,
}

/// Commands about one module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Section {
    /// Its name; `None` is the kernel itself.
    pub module: Option<String>,
    pub commands: Vec<Command>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Command {
    Erase(Erase),
    For(Loop),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Erase {
    pub line: u32,
    pub what: Expression,
    pub how: How,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum How {
    /// As much as its type says.
    Whole,
    Bytes(u64),
    BytesOf(Expression),
    Nullify,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Loop {
    pub line: u32,
    pub id: String,
    pub list: Expression,
    pub over: Over,
    pub body: Vec<Command>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Over {
    /// Elements of an array.
    Array,
    /// A structure, then what this member of it points at or is linked with.
    Via(Vec<String>),
    /// Structures of this type, on a `list_head` that is this member of them.
    Within(String, Vec<String>),
}

/// `root[:type][.member...]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Expression {
    /// As it was written.
    pub text: String,
    /// A symbol, a loop's variable, a type.
    pub root: String,
    /// The root's type, where the rule tells it.
    pub ty: Option<TypeName>,
    pub members: Vec<String>,
}

/// `name`, then `*` for each pointer, then `[length]`, or `[]` for as many as there is room for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct TypeName {
    pub name: String,
    pub pointers: u32,
    /// `Some(None)` is `[]`.
    pub array: Option<Option<u64>>,
}

/// Rules that are longer are not read: nobody writes a megabyte.
const MAX_TEXT: usize = 1 << 20;

/// Loops within loops.
const MAX_NESTING: usize = 8;

impl Rules {
    /// Reads rules.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        if text.len() > MAX_TEXT {
            return Err(ParseError { line: 1, what: format!("more than {MAX_TEXT} bytes of rules") });
        }
        let mut sections = vec![Section { module: None, commands: Vec::new() }];
        // Loops that are not closed yet, outermost first.
        let mut open: Vec<Loop> = Vec::new();
        let mut line = 0;
        for text in text.lines() {
            line += 1;
            let wrong = |what: String| ParseError { line, what };
            let words: Vec<&str> = text.split('#').next().unwrap_or_default().split_whitespace().collect();
            let Some(first) = words.first() else { continue };
            if first.starts_with('[') {
                let name = words.concat();
                let name = name.strip_prefix('[').and_then(|n| n.strip_suffix(']')).filter(|n| is_name(n));
                let name =
                    name.ok_or_else(|| wrong(format!("{text:?}: a section is [vmlinux] or [MODULE]")))?;
                closed(&open)?;
                let module = (name != "vmlinux").then(|| name.replace('-', "_"));
                sections.push(Section { module, commands: Vec::new() });
                continue;
            }
            let done = match *first {
                "erase" => Command::Erase(erase(line, &words, &open).map_err(wrong)?),
                "for" => {
                    if open.len() >= MAX_NESTING {
                        return Err(wrong(format!("more than {MAX_NESTING} loops within each other")));
                    }
                    open.push(head(line, &words).map_err(wrong)?);
                    continue;
                }
                "endfor" => match open.pop() {
                    Some(closed) if words.len() == 1 => Command::For(closed),
                    Some(_) => return Err(wrong("endfor stands alone in its line".to_owned())),
                    None => return Err(wrong("endfor without a for".to_owned())),
                },
                other => {
                    return Err(wrong(format!(
                        "{other:?} is no command: erase, for, endfor, or a [section]"
                    )));
                }
            };
            match (open.last_mut(), sections.last_mut()) {
                (Some(inner), _) => inner.body.push(done),
                (None, Some(section)) => section.commands.push(done),
                (None, None) => {}
            }
        }
        closed(&open)?;
        sections.retain(|s| !s.commands.is_empty());
        Ok(Self { sections })
    }

    /// There is nothing to erase.
    pub fn is_empty(&self) -> bool {
        self.sections.is_empty()
    }
}

fn closed(open: &[Loop]) -> Result<(), ParseError> {
    match open.last() {
        None => Ok(()),
        Some(open) => Err(ParseError { line: open.line, what: "this for has no endfor".to_owned() }),
    }
}

fn erase(line: u32, words: &[&str], open: &[Loop]) -> Result<Erase, String> {
    let (what, how) = match words {
        [_, what] => (what, How::Whole),
        [_, what, "nullify"] => (what, How::Nullify),
        [_, what, "size", size] => (what, self::size(size)?),
        _ => {
            return Err(
                "erase EXPRESSION, and then nothing, size NUMBER, size EXPRESSION, or nullify".to_owned()
            );
        }
    };
    let what = expression(what)?;
    if !open.is_empty() && !open.iter().any(|l| l.id == what.root) {
        let id = open.last().map_or("", |l| l.id.as_str());
        return Err(format!("inside a loop only its variable can be erased: {id}, not {}", what.root));
    }
    Ok(Erase { line, what, how })
}

fn size(text: &str) -> Result<How, String> {
    if !text.starts_with(|c: char| c.is_ascii_digit()) {
        return Ok(How::BytesOf(expression(text)?));
    }
    let unit = text.chars().last().unwrap_or('0').to_ascii_uppercase();
    let (digits, factor) = match unit {
        'K' => (text.get(..text.len() - 1), 1 << 10),
        'M' => (text.get(..text.len() - 1), 1 << 20),
        _ => (Some(text), 1),
    };
    let number = digits.and_then(|d| d.parse::<u64>().ok()).and_then(|n| n.checked_mul(factor));
    match number {
        Some(bytes @ 1..=super::resolve::MAX_HIT) => Ok(How::Bytes(bytes)),
        _ => Err(format!("size {text}: a number of bytes from 1 to 1024M")),
    }
}

fn head(line: u32, words: &[&str]) -> Result<Loop, String> {
    let path = |text: &str| {
        let members: Vec<String> = text.split('.').map(str::to_owned).collect();
        if members.iter().all(|m| is_name(m)) { Ok(members) } else { Err(format!("{text:?} is no member")) }
    };
    let (id, list, over) = match words {
        [_, id, "in", list] => (id, list, Over::Array),
        [_, id, "in", list, "via", member] => (id, list, Over::Via(path(member)?)),
        [_, id, "in", list, "within", pair] => {
            let (name, member) = pair
                .split_once(':')
                .filter(|(name, _)| is_name(name))
                .ok_or_else(|| format!("within wants STRUCT:member, not {pair:?}"))?;
            (id, list, Over::Within(name.to_owned(), path(member)?))
        }
        _ => {
            return Err("a loop is for ID in ARRAY, for ID in STRUCT via member, or \
                        for ID in LIST_HEAD within STRUCT:member"
                .to_owned());
        }
    };
    if !is_name(id) {
        return Err(format!("{id:?} is no name for a loop's variable"));
    }
    Ok(Loop { line, id: (*id).to_owned(), list: expression(list)?, over, body: Vec::new() })
}

pub(super) fn expression(text: &str) -> Result<Expression, String> {
    let wrong = || format!("{text:?}: an expression is SYMBOL[:TYPE][.member...], without spaces");
    let (symbol, members, ty) = match text.split_once(':') {
        Some((symbol, rest)) => {
            let end = rest.find('.').unwrap_or(rest.len());
            let (ty, members) = rest.split_at_checked(end).ok_or_else(wrong)?;
            (symbol.to_owned(), members.strip_prefix('.'), Some(type_name(ty).ok_or_else(wrong)?))
        }
        None => {
            let mut end = text.find('.').unwrap_or(text.len());
            // Static variables of functions are called `name.12`; no member starts with a digit.
            while let Some(rest) = text.get(end + 1..)
                && rest.starts_with(|c: char| c.is_ascii_digit())
            {
                end = rest.find('.').map_or(text.len(), |more| end + 1 + more);
            }
            let (symbol, members) = text.split_at_checked(end).ok_or_else(wrong)?;
            (symbol.to_owned(), members.strip_prefix('.'), None)
        }
    };
    let members: Vec<String> = members.map(|m| m.split('.').map(str::to_owned).collect()).unwrap_or_default();
    let symbol_ok =
        symbol.split('.').enumerate().all(|(i, part)| is_name(part) || (i > 0 && !part.is_empty()));
    if !symbol_ok || !members.iter().all(|m| is_name(m)) {
        return Err(wrong());
    }
    Ok(Expression { text: text.to_owned(), root: symbol, ty, members })
}

fn type_name(text: &str) -> Option<TypeName> {
    let (rest, array) = match text.split_once('[') {
        None => (text, None),
        Some((rest, length)) => match length.strip_suffix(']')? {
            "" => (rest, Some(None)),
            number => (rest, Some(Some(number.parse().ok()?))),
        },
    };
    let name = rest.trim_end_matches('*');
    let pointers = u32::try_from(rest.len().checked_sub(name.len())?).ok().filter(|p| *p <= 4)?;
    is_name(name).then(|| TypeName { name: name.to_owned(), pointers, array })
}

fn is_name(text: &str) -> bool {
    let rest = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-' || c == '$';
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.len() <= 256
        && text.chars().all(rest)
}

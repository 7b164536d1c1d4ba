//! Settings as a tree of values that know where they were written: of one file, or of several, merged.

use std::ops::Range;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

/// A table of settings.
pub type Tree<'a> = DeTable<'a>;

/// One value of a tree that is no table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Leaf {
    /// The table that it is in: `limits`, `target[0]`; empty at the top.
    pub table: String,
    /// Its key.
    pub key: String,
    /// As TOML.
    pub value: String,
    /// Where it was written.
    pub span: Range<usize>,
}

/// Reads the text of a TOML file. All spans are moved by `start`.
pub fn parse(text: &str, start: usize) -> Result<Tree<'_>, toml::de::Error> {
    Ok(moved_table(DeTable::parse(text)?.into_inner(), start))
}

fn moved(value: Spanned<DeValue<'_>>, by: usize) -> Spanned<DeValue<'_>> {
    let span = value.span();
    let value = match value.into_inner() {
        DeValue::Array(array) => {
            let mut all = DeArray::new();
            array.into_iter().for_each(|one| all.push(moved(one, by)));
            DeValue::Array(all)
        }
        DeValue::Table(table) => DeValue::Table(moved_table(table, by)),
        plain => plain,
    };
    Spanned::new(span.start + by..span.end + by, value)
}

fn moved_table(table: Tree<'_>, by: usize) -> Tree<'_> {
    let move_key = |key: Spanned<_>| {
        let span = key.span();
        Spanned::new(span.start + by..span.end + by, key.into_inner())
    };
    table.into_iter().map(|(key, value)| (move_key(key), moved(value, by))).collect()
}

/// Lays `over` on `under`: tables are merged key by key; any other value replaces the one below, lists and the ladder of
/// `[[target]]`s as a whole.
pub fn merge<'a>(under: &mut Tree<'a>, over: Tree<'a>) {
    for (key, value) in over {
        let span = value.span();
        let below = under.remove(&key).map(|below| (below.span(), below.into_inner()));
        let value = match (below, value.into_inner()) {
            (Some((span, DeValue::Table(mut below))), DeValue::Table(above)) => {
                merge(&mut below, above);
                Spanned::new(span, DeValue::Table(below))
            }
            (_, above) => Spanned::new(span, above),
        };
        under.insert(key, value);
    }
}

/// All values, in the order in which a file would have them: the keys of a table before the tables in it.
pub fn leaves(tree: &Tree<'_>) -> Vec<Leaf> {
    let mut found = Vec::new();
    gather(tree, "", &mut found);
    found
}

fn gather(tree: &Tree<'_>, table: &str, found: &mut Vec<Leaf>) {
    let inner = |key: &str| if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") };
    for (key, value) in tree {
        let leaf = |value: String, span| Leaf {
            table: table.to_owned(),
            key: key.get_ref().to_string(),
            value,
            span,
        };
        match value.get_ref() {
            DeValue::Table(_) => {}
            DeValue::Array(all) if is_tables(all) => {}
            plain => found.push(leaf(show(plain), value.span())),
        }
    }
    for (key, value) in tree {
        match value.get_ref() {
            DeValue::Table(below) => gather(below, &inner(key.get_ref()), found),
            DeValue::Array(all) if is_tables(all) => {
                for (index, one) in all.iter().enumerate() {
                    if let DeValue::Table(below) = one.get_ref() {
                        gather(below, &format!("{}[{index}]", inner(key.get_ref())), found);
                    }
                }
            }
            _ => {}
        }
    }
}

fn is_tables(array: &DeArray<'_>) -> bool {
    !array.is_empty() && array.iter().all(|one| matches!(one.get_ref(), DeValue::Table(_)))
}

/// A value as TOML has it.
fn show(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => quote(text),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(all) => {
            let all: Vec<String> = all.iter().map(|one| show(one.get_ref())).collect();
            format!("[{}]", all.join(", "))
        }
        DeValue::Table(table) => {
            let all: Vec<String> = table
                .iter()
                .map(|(key, one)| format!("{} = {}", key.get_ref(), show(one.get_ref())))
                .collect();
            format!("{{ {} }}", all.join(", "))
        }
    }
}

/// A text as a TOML string.
pub fn quote(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(tree: &Tree<'_>) -> Vec<String> {
        let line = |leaf: Leaf| format!("{}.{} = {} @{}", leaf.table, leaf.key, leaf.value, leaf.span.start);
        leaves(tree).into_iter().map(line).collect()
    }

    #[test]
    fn later_files_win_key_by_key() {
        let mut tree =
            parse("host = \"a\"\n[limits]\nstall = 5\nmount = 7\n[[target]]\npath = \"/x\"\n", 0).unwrap();
        let over =
            parse("[limits]\nstall = 9\n[[target]]\nnfs = \"h:/y\"\nlimits = { reach = 3 }\n", 1000).unwrap();
        merge(&mut tree, over);
        assert_eq!(
            listed(&tree),
            [
                ".host = \"a\" @7",
                "limits.mount = 7 @38",
                "limits.stall = 9 @1017",
                "target[0].nfs = \"h:/y\" @1036",
                "target[0].limits.reach = 3 @1062",
            ]
        );
    }

    #[test]
    fn a_value_of_another_kind_replaces() {
        let mut tree = parse("limits = 5", 0).unwrap();
        merge(&mut tree, parse("[limits]\nstall = 9", 100).unwrap());
        assert_eq!(listed(&tree), ["limits.stall = 9 @117"]);
        merge(&mut tree, parse("limits = \"q\\\"\"", 200).unwrap());
        assert_eq!(listed(&tree), [".limits = 'q\"' @209"]);
    }
}

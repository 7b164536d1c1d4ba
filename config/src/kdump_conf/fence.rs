//! `fence_kdump_nodes` and the options of `fence_kdump_send`.

use super::Placed;
use crate::settings::translation::Translation;
use crate::settings::written::Value;

/// Both lines.
pub fn lines(nodes: Option<&Placed>, args: Option<&Placed>, out: &mut Translation<'_>) {
    let Some(nodes) = nodes else {
        if let Some(args) = args {
            let advice = "nodes of a cluster that the cluster's own configuration names are not found out yet: add fence_kdump_nodes";
            out.warning(&args.span, "`fence_kdump_args` without `fence_kdump_nodes`: nobody is told", advice);
        }
        return;
    };
    for node in nodes.words() {
        out.written.add("fence_kdump", "nodes", node.text, node.span);
    }
    let mut words = args.map(Placed::words).unwrap_or_default().into_iter();
    while let Some(word) = words.next() {
        let (option, attached) = match word.text.split_once('=') {
            Some((option, value)) if option.starts_with("--") => (option, Some(value)),
            _ => match word.text.split_at_checked(2) {
                Some((letter, rest)) if !letter.starts_with("--") && !rest.is_empty() => (letter, Some(rest)),
                _ => (word.text.as_str(), None),
            },
        };
        let key = match option {
            "-p" | "--ipport" => "port",
            "-f" | "--family" => "family",
            "-c" | "--count" => "count",
            "-i" | "--interval" => "interval",
            "-v" | "--verbose" => {
                continue;
            }
            _ => {
                out.error(
                    &word.span,
                    format!("{option:?} is no option of fence_kdump_send"),
                    "expected -p, -f, -c, -i or -v",
                );
                continue;
            }
        };
        let value = match attached {
            Some(value) => Placed { text: value.to_owned(), span: word.span.clone() },
            None => match words.next() {
                Some(value) => value,
                None => {
                    out.error(&word.span, format!("`{option}` has no value"), "");
                    continue;
                }
            },
        };
        if key == "family" {
            out.written.set("fence_kdump", key, value.text, value.span);
        } else if !value.text.is_empty()
            && value.text.len() <= 9
            && value.text.bytes().all(|b| b.is_ascii_digit())
        {
            out.written.set("fence_kdump", key, Value::digits(&value.text), value.span);
        } else {
            out.error(&value.span, format!("`{option}` is {:?}", value.text), "expected a whole number");
        }
    }
}

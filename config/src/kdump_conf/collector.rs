//! `core_collector`: makedumpfile's options are understood, cp and its like mean the whole memory.

use super::Placed;
use crate::diagnostic::nearest;
use crate::settings::translation::Translation;
use crate::settings::written::Value;
use collector::makedumpfile::asked::{Asked, asked};
use collector::plan::Format;

/// A whole line, program first.
pub fn line(line: &Placed, out: &mut Translation<'_>) {
    let words = line.words();
    let Some((program, rest)) = words.split_first() else { return };
    match program.text.rsplit('/').next().unwrap_or_default() {
        "makedumpfile" | "vmcore-collect" => options(rest, line, out),
        "cp" | "cat" | "scp" | "dd" => {
            start(line, out);
            out.written.set("dump", "format", "raw", line.span.clone());
            if let Some(option) = rest.first() {
                out.remark(
                    &option.span,
                    "every byte is copied; options of the program that did it have no effect",
                    "",
                );
            }
        }
        other => {
            let advice = match nearest(other, ["makedumpfile", "scp"]) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "makedumpfile, cp, cat and scp are understood".to_owned(),
            };
            out.error(
                &program.span,
                format!("the program `{other}` cannot be run in the crash kernel"),
                &advice,
            );
        }
    }
}

/// Every `[[dump]]` has a name.
fn start(line: &Placed, out: &mut Translation<'_>) {
    out.written.set("dump", "file", "vmcore", line.span.clone());
}

/// makedumpfile's options, without the program.
pub fn options(words: &[Placed], line: &Placed, out: &mut Translation<'_>) {
    let texts: Vec<String> = words.iter().map(|word| word.text.clone()).collect();
    let asked = match asked(&texts) {
        Ok(asked) => asked,
        Err(why) => {
            let at =
                words.first().zip(words.last()).map_or(line.span.clone(), |(a, b)| a.span.start..b.span.end);
            let why = why.trim().trim_start_matches("makedumpfile: ");
            out.error(&at, format!("makedumpfile's options are wrong: {why}"), "");
            return;
        }
    };
    let Asked {
        format,
        compression,
        levels,
        limit,
        threads: _,
        flattened: _,
        exclude_vmemmap,
        erase,
        needless,
    } = asked;
    let find = |wanted: &[&str]| {
        let found = words.iter().find(|word| wanted.iter().any(|w| word.text.starts_with(w)));
        found.map_or(line.span.clone(), |word| word.span.clone())
    };
    start(line, out);
    let level_at = find(&["-d"]);
    if let Some(level) = levels.first() {
        out.written.set("dump", "level", u64::from(*level), level_at.clone());
    }
    if levels.len() > 1 {
        let message =
            format!("of the levels only the first, {}, is taken", levels.first().copied().unwrap_or(0));
        out.remark(&level_at, message, "a dump that does not fit is written at level 31");
    }
    if format == Format::Elf {
        out.written.set("dump", "format", "elf", find(&["-E"]));
    }
    out.written.set("dump", "compression", compression.to_string(), find(&["-l", "-c", "-p", "-z"]));
    if exclude_vmemmap {
        out.written.set("dump", "exclude_vmemmap", Value::Flag(true), find(&["-e"]));
    }
    if let Some(rules) = erase {
        out.written.set("dump", "erase", rules.display().to_string(), find(&["--config"]));
    }
    if limit.is_some() {
        out.warning(
            &find(&["-L"]),
            "the size of a dump is not limited by a number",
            "a dump that does not fit on the target is written at level 31",
        );
    }
    if needless.is_some() {
        out.remark(&find(&["-x", "-i"]), "debugging information is not needed", "");
    }
}

//! The variables of such a file, with their places.

use crate::cmdline;
use crate::cmdline::table::{ADDITIONS, REMOVALS};
use crate::diagnostic::nearest;
use crate::kdump_conf::Placed;
use crate::settings::translation::Translation;
use crate::shell::{self, Statement};
use std::collections::BTreeMap;

/// Values by name; the last assignment counts.
#[derive(Debug)]
pub(super) struct Variables {
    values: BTreeMap<String, Placed>,
}

impl Variables {
    /// Reads `text`, whose spans begin at `start`. What a shell would do more than assign is told.
    pub(super) fn read(text: &str, start: usize, out: &mut Translation<'_>) -> Self {
        let mut values: BTreeMap<String, Placed> = BTreeMap::new();
        for statement in shell::statements(text) {
            let (assignment, value) = match statement {
                Statement::Other(span) => {
                    let span = span.start + start..span.end + start;
                    out.warning(
                        &span,
                        "a command for a shell, which is not run",
                        "write out what it would set",
                    );
                    continue;
                }
                Statement::Assignment(assignment) => {
                    let value = assignment.text();
                    (assignment, value)
                }
            };
            let span = assignment.value_span.start + start..assignment.value_span.end + start;
            let Some(mut value) = value else {
                let message =
                    format!("a shell would expand the value of {}, which is left out", assignment.name);
                out.warning(&span, message, "write out what it would be");
                continue;
            };
            if assignment.append
                && let Some(before) = values.get(&assignment.name)
            {
                value.insert_str(0, &before.text);
            }
            // In quotes: the place of what is within them.
            let inner = match span.len() == value.len() + 2 {
                true => span.start + 1..span.end - 1,
                false => span,
            };
            values.insert(assignment.name, Placed { text: value, span: inner });
        }
        Self { values }
    }

    /// Takes a variable; `None` where it is not set or empty.
    pub(super) fn take(&mut self, name: &str) -> Option<Placed> {
        self.values.remove(name).filter(|value| !value.text.trim().is_empty())
    }

    /// Takes one that is yes or no, in the words that the tools take.
    pub(super) fn flag(&mut self, name: &str) -> Option<(bool, Placed)> {
        let value = self.take(name)?;
        let yes = matches!(value.text.to_ascii_lowercase().as_str(), "1" | "yes" | "true" | "on" | "y");
        Some((yes, value))
    }

    /// Takes those that are done in another way here, each with how.
    pub(super) fn done_otherwise(&mut self, all: &[(&str, &str)], out: &mut Translation<'_>) {
        for (name, how) in all {
            if let Some(value) = self.take(name) {
                out.remark(&value.span, format!("{name} is not needed: {how}"), "");
            }
        }
    }

    /// Takes those that have no counterpart, each with what to do.
    pub(super) fn not_done(&mut self, all: &[(&str, &str)], out: &mut Translation<'_>) {
        for (name, advice) in all {
            if let Some(value) = self.take(name) {
                out.warning(&value.span, format!("{name} has no effect here"), advice);
            }
        }
    }

    /// Tells what is left: nobody knows it.
    pub(super) fn finish(self, known: &[&str], out: &mut Translation<'_>) {
        for (name, value) in self.values {
            if value.text.trim().is_empty() {
                continue;
            }
            let advice = match nearest(&name, known.iter().copied()).filter(|near| *near != name) {
                Some(near) => format!("did you mean {near}?"),
                None => String::new(),
            };
            out.warning(&value.span, format!("the variable {name} is not known and has no effect"), &advice);
        }
    }
}

/// Arguments that the crash kernel was to have besides: those that vmcored does not decide about itself.
pub(super) fn append(value: &Placed, out: &mut Translation<'_>) {
    for argument in cmdline::split(&value.text) {
        let name = argument.split('=').next().unwrap_or_default();
        let ours = |other: &str| other.split('=').next().is_some_and(|o| o == name);
        // dracut, systemd and udev are not in the image.
        let absent = name.starts_with("rd.") || name.starts_with("systemd.") || name.starts_with("udev.");
        if absent {
            out.remark(&value.span, format!("{argument}: what it speaks to is not in the crash image"), "");
        } else if ADDITIONS.iter().any(|row| ours(row.argument)) {
            if !ADDITIONS.iter().any(|row| row.argument == argument) {
                let message = format!("{argument}: vmcored decides about {name} itself");
                out.warning(
                    &value.span,
                    message,
                    "`vmcorectl arm --explain` shows how; [kernel] append overrules it",
                );
            }
        } else {
            out.written.add("kernel", "append", argument, value.span.clone());
        }
    }
}

/// Arguments that were to be left out: those that vmcored does not leave out anyway.
pub(super) fn remove(value: &Placed, out: &mut Translation<'_>) {
    for name in value.text.split_whitespace() {
        let known = REMOVALS.iter().flat_map(|row| row.names).any(|removed| {
            *removed == name || removed.strip_suffix('*').is_some_and(|start| name.starts_with(start))
        });
        if !known {
            out.written.add("kernel", "remove", name, value.span.clone());
        }
    }
}

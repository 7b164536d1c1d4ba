//! What each directive means.

use super::target::{self, Ssh};
use super::{Line, Placed, collector, fence};
use crate::diagnostic::nearest;
use crate::settings::translation::Translation;
use crate::settings::written::Value;
use crate::shell;
use std::collections::BTreeMap;

/// Whether a directive may come several times.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Times {
    Once,
    Any,
}

/// Every directive there is or ever was.
const KNOWN: &[(&str, Times)] = &[
    ("auto_reset_crashkernel", Times::Once),
    ("action_on_fail", Times::Once),
    ("blacklist", Times::Any),
    ("btrfs", Times::Once),
    ("core_collector", Times::Once),
    ("debug_mem_level", Times::Once),
    ("default", Times::Once),
    ("disk_timeout", Times::Once),
    ("dracut_args", Times::Any),
    ("ext2", Times::Once),
    ("ext3", Times::Once),
    ("ext4", Times::Once),
    ("extra_bins", Times::Any),
    ("extra_modules", Times::Any),
    ("failure_action", Times::Once),
    ("fence_kdump_args", Times::Once),
    ("fence_kdump_nodes", Times::Once),
    ("final_action", Times::Once),
    ("force_no_rebuild", Times::Once),
    ("force_rebuild", Times::Once),
    ("kdump_emergency", Times::Once),
    ("kdump_post", Times::Once),
    ("kdump_pre", Times::Once),
    ("link_delay", Times::Once),
    ("minix", Times::Once),
    ("net", Times::Once),
    ("nfs", Times::Once),
    ("nfs4", Times::Once),
    ("options", Times::Any),
    ("override_resettable", Times::Once),
    ("path", Times::Once),
    ("raw", Times::Once),
    ("ssh", Times::Once),
    ("sshkey", Times::Once),
    ("virtiofs", Times::Once),
    ("xfs", Times::Once),
];

/// Whether there is or ever was a directive of this name.
pub(super) fn is_known(name: &str) -> bool {
    KNOWN.iter().any(|(known, _)| *known == name)
}

/// What has to be known of several lines at once.
#[derive(Default)]
struct Seen {
    names: BTreeMap<String, usize>,
    /// The line that names the target.
    target: Option<Placed>,
    ssh: Ssh,
    path: Option<Placed>,
    collector: Option<Placed>,
    fence_args: Option<Placed>,
    fence_nodes: Option<Placed>,
    failure: Option<Placed>,
    bins: Vec<Placed>,
    rebuild: bool,
}

/// Translates all lines.
pub(super) fn translate(lines: &[Line], out: &mut Translation<'_>) {
    let mut seen = Seen::default();
    for (number, line) in lines.iter().enumerate() {
        if let Some(cut) = &line.cut {
            out.warning(
                cut,
                format!("the value of `{}` ends here: from # on it is a comment", line.name.text),
                "kdump.conf cannot have a # in a value, vmcored.toml can: `vmcorectl config import`",
            );
        }
        let name = line.name.text.as_str();
        let Some((_, times)) = KNOWN.iter().find(|(known, _)| *known == name) else {
            unknown(line, out);
            continue;
        };
        if line.value.text.is_empty() {
            out.error(
                &line.name.span,
                format!("`{name}` has no value"),
                "give it one, or comment the line out",
            );
            continue;
        }
        if let Some(first) = seen.names.insert(name.to_owned(), number)
            && *times == Times::Once
        {
            let first =
                lines.get(first).map(|line| out.sources.origin(&line.name.span).line).unwrap_or_default();
            let message = format!("`{name}` is given a second time, after line {first}");
            out.error(&line.name.span, message, "leave one of them");
            continue;
        }
        directive(name, line, &mut seen, out);
    }
    finish(seen, out);
}

fn unknown(line: &Line, out: &mut Translation<'_>) {
    let word = line.name.text.as_str();
    let lower = word.to_lowercase();
    // A key of ours is no slip of the keyboard.
    let advice = match nearest(&lower, KNOWN.iter().map(|(name, _)| *name)) {
        Some(near) => format!("did you mean `{near}`?"),
        None if word.starts_with('[') || line.value.text.starts_with('=') => {
            "settings of this form go into /etc/vmcored.toml".to_owned()
        }
        None => "kdump.conf(5) has no such option".to_owned(),
    };
    out.error(&line.name.span, format!("unknown option `{word}`"), &advice);
}

fn directive(name: &str, line: &Line, seen: &mut Seen, out: &mut Translation<'_>) {
    let (at, value) = (&line.name.span, &line.value);
    match name {
        "raw" | "nfs" | "nfs4" | "net" | "ssh" | "virtiofs" | "ext2" | "ext3" | "ext4" | "xfs" | "btrfs"
        | "minix"
            if one_target(line, seen, out) =>
        {
            target::named(name, value, &mut seen.ssh, out);
        }
        "path" => seen.path = Some(value.clone()),
        "sshkey" => seen.ssh.key = Some(value.clone()),
        "core_collector" => seen.collector = Some(value.clone()),
        "fence_kdump_args" => seen.fence_args = Some(value.clone()),
        "fence_kdump_nodes" => seen.fence_nodes = Some(value.clone()),
        "failure_action" | "default" | "action_on_fail" => {
            if let Some(first) = &seen.failure {
                let first = out.sources.origin(&first.span).line;
                let message =
                    format!("`{name}` is `failure_action` under another name, given in line {first}");
                out.error(at, message, "leave one of them");
                return;
            }
            if name != "failure_action" {
                out.remark(at, format!("`{name}` is the old name of `failure_action`"), "");
            }
            seen.failure = Some(value.clone());
            action("on_failure", value, out);
        }
        "final_action" => action("final_action", value, out),
        "extra_modules" => {
            value
                .words()
                .into_iter()
                .for_each(|word| out.written.add("image", "extra_modules", word.text, word.span));
        }
        "blacklist" => {
            value
                .words()
                .into_iter()
                .for_each(|word| out.written.add("image", "omit_modules", word.text, word.span));
        }
        "options" => module_options(value, out),
        "extra_bins" => seen.bins.extend(value.words()),
        "kdump_pre" | "kdump_post" | "kdump_emergency" => {
            target::hook(name, value, out);
        }
        "disk_timeout" if number(name, value, out) => {
            let seconds = Value::digits(&value.text);
            out.written.set("limits", "device", seconds, value.span.clone());
        }
        "link_delay" if number(name, value, out) => {
            let advice = "the deadline is `reach` of [[target]]'s limits";
            out.remark(at, "links are waited for, and no longer than needed", advice);
        }
        "debug_mem_level" if number(name, value, out) && value.text != "0" => {
            let advice = "the manifest of a dump has the peak of what was used";
            out.warning(at, "memory is not traced in the crash kernel", advice);
        }
        "auto_reset_crashkernel" if value.text != "no" => {
            let advice = "`vmcorectl crashkernel set` does, and never lowers what an administrator has set";
            out.remark(at, "no update of a package changes crashkernel= here", advice);
        }
        "force_rebuild" | "force_no_rebuild" => {
            if !matches!(value.text.as_str(), "0" | "1") {
                out.error(&value.span, format!("`{name}` is {:?}", value.text), "expected 0 or 1");
            } else if value.text == "1" {
                if std::mem::replace(&mut seen.rebuild, true) {
                    out.error(at, "`force_rebuild` and `force_no_rebuild` are both 1", "leave one of them");
                } else if name == "force_rebuild" {
                    out.remark(
                        at,
                        "the image is built anew each time",
                        "it is the same unless what it is made of changed",
                    );
                } else {
                    out.warning(
                        at,
                        "the image is built anew each time",
                        "an image of other things than this machine has now would not save a dump",
                    );
                }
            }
        }
        "override_resettable" => {
            out.remark(at, "`override_resettable` has no effect, and never had one", "leave it out");
        }
        "dracut_args" => dracut(line, seen, out),
        _ => {}
    }
}

/// Whether this line may name the target.
fn one_target(line: &Line, seen: &mut Seen, out: &mut Translation<'_>) -> bool {
    match &seen.target {
        None => {
            seen.target = Some(line.name.clone());
            true
        }
        Some(first) => {
            let first = out.sources.origin(&first.span).line;
            let message = format!("a second target, after that of line {first}");
            out.error(
                &line.name.span,
                message,
                "kdump.conf has one; vmcored.toml has a ladder of [[target]]s",
            );
            false
        }
    }
}

fn action(key: &'static str, value: &Placed, out: &mut Translation<'_>) {
    let known: &[&str] = match key {
        "on_failure" => &["reboot", "halt", "poweroff", "shell", "dump_to_rootfs"],
        _ => &["reboot", "halt", "poweroff"],
    };
    match value.text.as_str() {
        word @ ("reboot" | "halt" | "poweroff") => out.written.set("", key, word, value.span.clone()),
        "shell" | "dump_to_rootfs" if key == "on_failure" => target::last_resort(value, out),
        // What RHEL 5 and 6 fell back to.
        "mount_root_run_init" if key == "on_failure" => target::last_resort(value, out),
        word => {
            let advice = match nearest(word, known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("expected one of {}", known.join(", ")),
            };
            out.error(&value.span, format!("unknown action `{word}`"), &advice);
        }
    }
}

fn number(name: &str, value: &Placed, out: &mut Translation<'_>) -> bool {
    let fine = value.text.len() <= 9 && value.text.bytes().all(|b| b.is_ascii_digit());
    if !fine {
        out.error(&value.span, format!("`{name}` is {:?}", value.text), "expected a whole number");
    }
    fine
}

/// `options MODULE PARAMETER=VALUE…`: as kernel arguments, which reach the modules of the image.
fn module_options(value: &Placed, out: &mut Translation<'_>) {
    let words = value.words();
    let Some((module, options)) = words.split_first().filter(|(_, options)| !options.is_empty()) else {
        out.error(
            &value.span,
            "`options` without options",
            "expected a module and its parameters: options e1000 debug=1",
        );
        return;
    };
    for option in options {
        out.written.add("kernel", "append", format!("{}.{}", module.text, option.text), option.span.clone());
    }
}

/// What dracut was told: a mount is a target, modules are modules, the rest is for an image that is not built here.
fn dracut(line: &Line, seen: &mut Seen, out: &mut Translation<'_>) {
    let Some(words) = shell::words(&line.value.text) else {
        out.error(&line.value.span, "a quote that is not closed, or something that a shell would expand", "");
        return;
    };
    let span = &line.value.span;
    let mut words = words.into_iter().peekable();
    while let Some(word) = words.next() {
        let (option, attached) = match word.split_once('=') {
            Some((option, value)) if option.starts_with("--") => (option.to_owned(), Some(value.to_owned())),
            _ => (word.clone(), None),
        };
        let mut value =
            || attached.clone().or_else(|| words.next_if(|next| !next.starts_with('-'))).unwrap_or_default();
        match option.as_str() {
            "--mount" => {
                let mount = value();
                if one_target(line, seen, out) {
                    target::mount(&Placed { text: mount, span: span.clone() }, out);
                }
            }
            "--add-drivers" | "--force-drivers" | "--omit-drivers" => {
                let key = if option == "--omit-drivers" { "omit_modules" } else { "extra_modules" };
                for name in value().split_whitespace() {
                    out.written.add("image", key, name, span.clone());
                }
            }
            "--install" | "-I" => {
                let files = value();
                let files =
                    files.split_whitespace().map(|file| Placed { text: file.to_owned(), span: span.clone() });
                seen.bins.extend(files);
            }
            _ if option.starts_with('-') => {
                let value = value();
                let shown = if value.is_empty() { option } else { format!("{option} {value}") };
                let advice = "what the target needs is found and packed; `vmcorectl arm --explain` shows it";
                out.warning(
                    span,
                    format!("dracut does not build the image: `{shown}` has no effect"),
                    advice,
                );
            }
            _ => out.warning(span, format!("`{word}` is no option of dracut's and has no effect"), ""),
        }
    }
}

/// What depends on several lines.
fn finish(seen: Seen, out: &mut Translation<'_>) {
    target::path(seen.path.as_ref(), seen.target.is_some(), out);
    target::finish_ssh(&seen.ssh, out);
    if let Some(line) = &seen.collector {
        collector::line(line, out);
    }
    fence::lines(seen.fence_nodes.as_ref(), seen.fence_args.as_ref(), out);
    target::bins(seen.bins, out);
}

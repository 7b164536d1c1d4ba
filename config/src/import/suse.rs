//! /etc/sysconfig/kdump of SUSE.

use super::variables::{self, Variables};
use crate::kdump_conf::{Placed, target};
use crate::settings::translation::Translation;
use crate::settings::written::Value;

const KNOWN: [&str; 39] = [
    "KDUMP_CRASHKERNEL",
    "KDUMP_UPDATE_BOOTLOADER",
    "KDUMP_AUTO_RESIZE",
    "KDUMP_KERNELVER",
    "KDUMP_CPUS",
    "KDUMP_COMMANDLINE",
    "KDUMP_COMMANDLINE_APPEND",
    "KDUMP_FADUMP",
    "KDUMP_FADUMP_SHELL",
    "FADUMP_COMMANDLINE_APPEND",
    "KEXEC_OPTIONS",
    "MAKEDUMPFILE_OPTIONS",
    "KDUMP_IMMEDIATE_REBOOT",
    "KDUMP_TRANSFER",
    "KDUMP_SAVEDIR",
    "KDUMP_KEEP_OLD_DUMPS",
    "KDUMP_FREE_DISK_SIZE",
    "KDUMP_VERBOSE",
    "KDUMP_DUMPLEVEL",
    "KDUMP_DUMPFORMAT",
    "KDUMP_CONTINUE_ON_ERROR",
    "KDUMP_REQUIRED_PROGRAMS",
    "KDUMP_PRESCRIPT",
    "KDUMP_POSTSCRIPT",
    "KDUMP_NETCONFIG",
    "KDUMP_NET_TIMEOUT",
    "KDUMP_SMTP_SERVER",
    "KDUMP_SMTP_USER",
    "KDUMP_SMTP_PASSWORD",
    "KDUMP_NOTIFICATION_TO",
    "KDUMP_NOTIFICATION_CC",
    "KDUMP_HOST_KEY",
    "KDUMP_SSH_IDENTITY",
    "KDUMPTOOL_FLAGS",
    "KDUMP_COPY_KERNEL",
    "KDUMP_DUMPDEV",
    "KDUMP_SPLIT",
    "KDUMP_NOSPLIT",
    "KDUMP_RUN_MULTIPATH",
];

/// Translates the variables.
pub(super) fn translate(mut from: Variables, out: &mut Translation<'_>) {
    let mut ssh = target::Ssh { is_target: false, key: from.take("KDUMP_SSH_IDENTITY") };
    if let Some(key) = &mut ssh.key
        && let Some(first) = key.words().into_iter().next()
    {
        *key = first;
    }
    if let Some(place) = from.take("KDUMP_SAVEDIR") {
        savedir(&place, &mut ssh, out);
    }
    target::finish_ssh(&ssh, out);
    if let Some(value) = from.take("KDUMP_HOST_KEY")
        && ssh.is_target
    {
        let advice = "`vmcorectl target propagate` records it";
        out.warning(&value.span, "the server's key is that of known_hosts, not KDUMP_HOST_KEY", advice);
    }
    dump(&mut from, out);
    if let Some(version) = from.take("KDUMP_KERNELVER") {
        let path = if version.text.starts_with('/') {
            version.text
        } else {
            format!("/boot/vmlinuz-{}", version.text)
        };
        out.written.set("kernel", "image", path, version.span);
    }
    if let Some(value) = from.take("KDUMP_COMMANDLINE_APPEND") {
        variables::append(&value, out);
    }
    if let Some((false, value)) = from.flag("KDUMP_IMMEDIATE_REBOOT") {
        out.warning(
            &value.span,
            "there is no shell after a dump is saved",
            "final_action is reboot, halt or poweroff",
        );
    }
    if let Some((false, value)) = from.flag("KDUMP_CONTINUE_ON_ERROR") {
        target::last_resort(&Placed { text: "shell".to_owned(), span: value.span }, out);
    }
    for (name, directive) in [("KDUMP_PRESCRIPT", "kdump_pre"), ("KDUMP_POSTSCRIPT", "kdump_post")] {
        if let Some(value) = from.take(name) {
            target::hook(directive, &value, out);
        }
    }
    for program in from.take("KDUMP_REQUIRED_PROGRAMS").iter().flat_map(Placed::words) {
        if program.text.starts_with('/') {
            out.written.add("image", "extra_bins", program.text, program.span);
        } else {
            let advice = "add its path to extra_bins of [image]";
            out.warning(&program.span, format!("{} is named without its directory", program.text), advice);
        }
    }
    if let Some((true, value)) = from.flag("KDUMP_FADUMP") {
        out.warning(&value.span, "firmware-assisted dump is not supported yet", "");
    }
    if let Some((true, value)) = from.flag("KDUMP_AUTO_RESIZE") {
        out.remark(
            &value.span,
            "memory that is not needed is given back on request",
            "`vmcorectl crashkernel shrink`",
        );
    }
    if let Some(value) = from.take("KDUMP_CPUS")
        && value.text != "1"
    {
        out.remark(
            &value.span,
            "the crash kernel runs on one CPU",
            "[kernel] append = [\"nr_cpus=N\"] gives it more",
        );
    }
    if let Some(value) = from.take("KDUMP_KEEP_OLD_DUMPS")
        && !value.text.is_empty()
        && value.text != "0"
    {
        // So many besides the new one. They go when that is safe; there, before it is written.
        match value.text.parse::<i32>() {
            Ok(old) if old < 0 => out.written.set("harvest", "keep", 1_u64, value.span),
            Ok(old) => out.written.set("harvest", "keep", u64::from(old.unsigned_abs()) + 1, value.span),
            Err(_) => out.error(
                &value.span,
                format!("KDUMP_KEEP_OLD_DUMPS is {:?}", value.text),
                "expected a whole number",
            ),
        }
    }
    if let Some(value) = from.take("KDUMP_FREE_DISK_SIZE")
        && value.text != "64"
    {
        let advice =
            "a dump is written as far as there is room; `keep_mib` of [harvest] limits what all take";
        out.warning(&value.span, "KDUMP_FREE_DISK_SIZE has no effect here", advice);
    }
    from.not_done(
        &[
            ("KDUMP_TRANSFER", "dumps go where [[target]] says"),
            (
                "KDUMP_COMMANDLINE",
                "the line is made from the running kernel's; [kernel] append and remove change it",
            ),
            ("KEXEC_OPTIONS", "kexec_file_load is called, not kexec"),
            ("KDUMP_SMTP_SERVER", "a program that can mail is `notify` of [harvest]"),
            ("KDUMP_NOTIFICATION_TO", "a program that can mail is `notify` of [harvest]"),
            ("KDUMP_DUMPDEV", "name it with `device` in [[target]]"),
        ],
        out,
    );
    if let Some(value) = from.take("KDUMP_NETCONFIG")
        && !value.text.starts_with("auto")
    {
        let advice = "`vmcorectl target explain HOST` shows it";
        out.warning(&value.span, "the crash kernel's network is that of the running system", advice);
    }
    from.done_otherwise(
        &[
            ("KDUMP_CRASHKERNEL", "`vmcorectl crashkernel set` reserves what is needed"),
            ("KDUMP_UPDATE_BOOTLOADER", "`vmcorectl crashkernel set` changes it, and nothing else does"),
            ("KDUMP_NET_TIMEOUT", "`reach` of [[target]]'s limits is how long is tried"),
            ("KDUMP_VERBOSE", "the console has each stage, kmsg and the manifest everything"),
            ("KDUMPTOOL_FLAGS", "it is of the past"),
            ("KDUMP_COPY_KERNEL", "the kernel is not copied"),
            ("KDUMP_SPLIT", "one file is written"),
            ("KDUMP_NOSPLIT", "one file is written"),
            ("KDUMP_RUN_MULTIPATH", "it is of the past"),
        ],
        out,
    );
    for name in [
        "KDUMP_SMTP_USER",
        "KDUMP_SMTP_PASSWORD",
        "KDUMP_NOTIFICATION_CC",
        "KDUMP_FADUMP_SHELL",
        "FADUMP_COMMANDLINE_APPEND",
    ] {
        // Told with what they belong to.
        drop(from.take(name));
    }
    from.finish(&KNOWN, out);
}

/// The level and the format, and makedumpfile's options, which had the last word.
fn dump(from: &mut Variables, out: &mut Translation<'_>) {
    let (level, format) = (from.take("KDUMP_DUMPLEVEL"), from.take("KDUMP_DUMPFORMAT"));
    let any = level.as_ref().or(format.as_ref()).map(|value| value.span.clone());
    if let Some(span) = any {
        out.written.set("dump", "file", "vmcore", span);
    }
    let level = level.filter(|level| {
        let fine =
            !level.text.is_empty() && level.text.len() < 4 && level.text.bytes().all(|b| b.is_ascii_digit());
        if !fine {
            out.warning(
                &level.span,
                format!("KDUMP_DUMPLEVEL is {:?}", level.text),
                "it is a number up to 31; 31 is taken",
            );
        }
        fine
    });
    if let Some(level) = level {
        out.written.set("dump", "level", Value::digits(&level.text), level.span);
    }
    let Some(format) = format else {
        if let Some(options) = from.take("MAKEDUMPFILE_OPTIONS") {
            out.warning(&options.span, "MAKEDUMPFILE_OPTIONS have no effect", "[[dump]] has what they set");
        }
        return;
    };
    let (key, value) = match format.text.to_ascii_lowercase().as_str() {
        "compressed" => ("compression", "zlib:1"),
        "lzo" => ("compression", "lzo"),
        "snappy" => ("compression", "snappy"),
        "zstd" => ("compression", "zstd:1"),
        "elf" => ("format", "elf"),
        "raw" => ("format", "raw"),
        "none" => {
            out.warning(
                &format.span,
                "a dump is written, not only the kernel's log",
                "level = 31 makes it small",
            );
            return;
        }
        other => {
            let message = format!("KDUMP_DUMPFORMAT {other:?} is not known");
            out.warning(&format.span, message, "compressed, lzo, snappy, zstd, ELF and raw are");
            return;
        }
    };
    out.written.set("dump", key, value, format.span.clone());
    if key == "format" {
        out.written.set("dump", "compression", "none", format.span);
    }
    if let Some(options) = from.take("MAKEDUMPFILE_OPTIONS") {
        out.warning(&options.span, "MAKEDUMPFILE_OPTIONS have no effect", "[[dump]] has what they set");
    }
}

/// `KDUMP_SAVEDIR`: a directory or a URL.
fn savedir(place: &Placed, ssh: &mut target::Ssh, out: &mut Translation<'_>) {
    let words = place.words();
    if let Some(second) = words.get(1) {
        out.warning(&second.span, "a second place to save to is left out", "add another [[target]]");
    }
    let Some(first) = words.into_iter().next() else { return };
    let part = |text: &str| Placed { text: text.to_owned(), span: first.span.clone() };
    let Some((scheme, rest)) = first.text.split_once("://") else {
        target::path(Some(&first), false, out);
        return;
    };
    let (host, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    match scheme {
        "file" => target::path(Some(&part(path)), false, out),
        "nfs" => {
            target::named("nfs", &part(&format!("{host}:{path}")), ssh, out);
            out.written.set("target", "path", "/", first.span.clone());
        }
        "ssh" | "sftp" | "scp" => {
            let (user, server) = host.rsplit_once('@').unwrap_or(("root", host));
            let (user, password) =
                user.split_once(':').map_or((user, None), |(user, password)| (user, Some(password)));
            if password.is_some() {
                let advice = "`vmcorectl target propagate` sets a key up";
                out.warning(&first.span, "servers are logged in to with a key, not with a password", advice);
            }
            target::named("ssh", &part(&format!("{user}@{server}")), ssh, out);
            target::path(Some(&part(path)).filter(|path| !path.text.is_empty()), true, out);
        }
        other => {
            out.error(&first.span, format!("{other} servers are no targets"), "choose nfs or ssh");
        }
    }
}

//! /etc/sysconfig/kdump of kdump-utils, which stands beside kdump.conf.

use super::variables::{self, Variables};
use crate::settings::translation::Translation;

const KNOWN: [&str; 14] = [
    "KDUMP_KERNELVER",
    "KDUMP_COMMANDLINE",
    "KDUMP_COMMANDLINE_REMOVE",
    "KDUMP_COMMANDLINE_APPEND",
    "FADUMP_COMMANDLINE_APPEND",
    "KEXEC_ARGS",
    "KDUMP_BOOTDIR",
    "KDUMP_IMG",
    "KDUMP_IMG_EXT",
    "KDUMP_FILE_LOAD",
    "VMCORE_CREATION_NOTIFICATION",
    "KDUMP_STDLOGLVL",
    "KDUMP_SYSLOGLVL",
    "KDUMP_KMSGLOGLVL",
];

/// Translates the variables.
pub(super) fn translate(mut from: Variables, out: &mut Translation<'_>) {
    let directory = from.take("KDUMP_BOOTDIR");
    let name = from.take("KDUMP_IMG");
    let ending = from.take("KDUMP_IMG_EXT");
    if let Some(version) = from.take("KDUMP_KERNELVER") {
        let text = |value: &Option<crate::kdump_conf::Placed>, default: &str| {
            value.as_ref().map_or(default.to_owned(), |value| value.text.clone())
        };
        let (directory, name, ending) =
            (text(&directory, "/boot"), text(&name, "vmlinuz"), text(&ending, ""));
        let path = format!("{directory}/{name}-{}{ending}", version.text);
        out.written.set("kernel", "image", path, version.span);
    }
    if let Some(value) = from.take("KDUMP_COMMANDLINE_REMOVE") {
        variables::remove(&value, out);
    }
    if let Some(value) = from.take("KDUMP_COMMANDLINE_APPEND") {
        variables::append(&value, out);
    }
    if let Some(value) = from.take("KEXEC_ARGS") {
        for word in value.words() {
            if !matches!(word.text.as_str(), "-s" | "-a" | "--kexec-file-syscall" | "--dt-no-old-root") {
                out.warning(
                    &word.span,
                    format!("`{}` of KEXEC_ARGS has no effect", word.text),
                    "kexec_file_load is called, not kexec",
                );
            }
        }
    }
    from.not_done(
        &[
            (
                "KDUMP_COMMANDLINE",
                "the line is made from the running kernel's; [kernel] append and remove change it",
            ),
            ("FADUMP_COMMANDLINE_APPEND", "firmware-assisted dump is not supported yet"),
        ],
        out,
    );
    from.done_otherwise(
        &[
            ("KDUMP_FILE_LOAD", "kexec_file_load is always used"),
            ("VMCORE_CREATION_NOTIFICATION", "`vmcorectl status` tells"),
            ("KDUMP_STDLOGLVL", "the console has each stage, kmsg and the manifest everything"),
            ("KDUMP_SYSLOGLVL", "the console has each stage, kmsg and the manifest everything"),
            ("KDUMP_KMSGLOGLVL", "the console has each stage, kmsg and the manifest everything"),
        ],
        out,
    );
    from.finish(&KNOWN, out);
}

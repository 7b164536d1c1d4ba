//! /etc/default/kdump-tools of Debian and Ubuntu.

use super::variables::{self, Variables};
use crate::kdump_conf::{Placed, collector, target};
use crate::settings::translation::Translation;
use crate::settings::written::Value;

const KNOWN: [&str; 28] = [
    "USE_KDUMP",
    "KDUMP_KERNEL",
    "KDUMP_INITRD",
    "KDUMP_COREDIR",
    "KDUMP_FAIL_CMD",
    "KDUMP_DUMP_DMESG",
    "KDUMP_NUM_DUMPS",
    "KDUMP_COMPRESSION",
    "MAKEDUMP_ARGS",
    "KDUMP_KEXEC_ARGS",
    "KDUMP_CMDLINE",
    "KDUMP_CMDLINE_APPEND",
    "KDUMP_SYSCTL",
    "HOSTTAG",
    "NFS",
    "NFS_TIMEO",
    "NFS_RETRANS",
    "NFS_MOUNT_RETRY",
    "FTP",
    "FTP_USER",
    "FTP_PASSWORD",
    "FTP_PORT",
    "SSH",
    "SSH_KEY",
    "SSH_KDUMP_RETRY",
    "KDUMP_SCRIPT",
    "LOAD_KEXEC",
    "KDUMP_RUNLEVEL",
];

/// Translates the variables.
pub(super) fn translate(mut from: Variables, out: &mut Translation<'_>) {
    if let Some((false, value)) = from.flag("USE_KDUMP") {
        out.warning(
            &value.span,
            "kdump was switched off",
            "vmcored is on as soon as vmcored-arm.service is enabled",
        );
    }
    let directory = from.take("KDUMP_COREDIR");
    target(&mut from, directory, out);
    if let Some(value) = from.take("MAKEDUMP_ARGS") {
        collector::options(&value.words(), &value, out);
    }
    if let Some(value) = from.take("KDUMP_KERNEL")
        && value.text != "/var/lib/kdump/vmlinuz"
    {
        out.written.set("kernel", "image", value.text, value.span);
    }
    if let Some(value) = from.take("KDUMP_INITRD")
        && value.text != "/var/lib/kdump/initrd.img"
    {
        out.remark(&value.span, "KDUMP_INITRD is not needed: vmcored makes its own image", "");
    }
    if let Some(value) = from.take("KDUMP_CMDLINE_APPEND") {
        variables::append(&value, out);
    }
    if let Some(value) = from.take("KDUMP_FAIL_CMD") {
        match value.text.split_whitespace().collect::<Vec<_>>().as_slice() {
            [action @ ("reboot" | "halt" | "poweroff"), "-f"]
            | [action @ ("reboot" | "halt" | "poweroff")] => {
                out.written.set("", "on_failure", *action, value.span);
            }
            _ => out.warning(
                &value.span,
                "KDUMP_FAIL_CMD is no command that can be run",
                "on_failure is reboot, halt or poweroff",
            ),
        }
    }
    if let Some((false, value)) = from.flag("KDUMP_DUMP_DMESG") {
        out.warning(&value.span, "the kernel's log is always saved", "");
    }
    if let Some(value) = from.take("KDUMP_NUM_DUMPS")
        && value.text != "0"
    {
        if !value.text.is_empty() && value.text.len() <= 9 && value.text.bytes().all(|b| b.is_ascii_digit()) {
            out.written.set("harvest", "keep", Value::digits(&value.text), value.span);
        } else {
            let message = format!("KDUMP_NUM_DUMPS is {:?}", value.text);
            out.error(&value.span, message, "expected a whole number");
        }
    }
    if let Some(value) = from.take("HOSTTAG")
        && value.text != "hostname"
    {
        out.warning(
            &value.span,
            "the dump's directory is named after the host, not its address",
            "`host` sets another name",
        );
    }
    from.not_done(
        &[
            ("KDUMP_COMPRESSION", "the pages of a dump are compressed: `compression` of [[dump]]"),
            (
                "KDUMP_CMDLINE",
                "the line is made from the running kernel's; [kernel] append and remove change it",
            ),
            ("KDUMP_KEXEC_ARGS", "kexec_file_load is called, not kexec"),
            ("KDUMP_SYSCTL", "set it in /etc/sysctl.d"),
            ("KDUMP_SCRIPT", "the collector is one program"),
        ],
        out,
    );
    from.finish(&KNOWN, out);
}

fn target(from: &mut Variables, directory: Option<Placed>, out: &mut Translation<'_>) {
    let (nfs, ssh, ftp) = (from.take("NFS"), from.take("SSH"), from.take("FTP"));
    let named: Vec<&Placed> = [&nfs, &ssh, &ftp].into_iter().flatten().collect();
    if let [_, second, ..] = named.as_slice() {
        out.warning(
            &second.span,
            "more than one of NFS, SSH and FTP is set",
            "the first counts; more are [[target]]s of a ladder",
        );
    }
    let mut is_ssh = target::Ssh { is_target: false, key: from.take("SSH_KEY") };
    let mut options = Vec::new();
    for (variable, option) in [("NFS_TIMEO", "timeo"), ("NFS_RETRANS", "retrans")] {
        if let Some(value) = from.take(variable) {
            options.push((format!("{option}={}", value.text.trim()), value.span));
        }
    }
    match (&nfs, &ssh, &ftp) {
        (Some(nfs), _, _) => {
            target::named("nfs", nfs, &mut is_ssh, out);
            // The directory was where the share was mounted: dumps lie at its root.
            out.written.set("target", "path", "/", nfs.span.clone());
            if let [(_, span), ..] = options.as_slice() {
                let text: Vec<&str> = options.iter().map(|(text, _)| text.as_str()).collect();
                out.written.set("target", "options", text.join(","), span.clone());
            }
        }
        (None, Some(ssh), _) => {
            target::named("ssh", ssh, &mut is_ssh, out);
            target::path(directory.as_ref(), true, out);
        }
        (None, None, Some(ftp)) => {
            out.error(&ftp.span, "FTP servers are no targets", "choose nfs or ssh");
        }
        (None, None, None) => target::path(directory.as_ref(), false, out),
    }
    target::finish_ssh(&is_ssh, out);
    for name in ["FTP_USER", "FTP_PASSWORD", "FTP_PORT"] {
        // Told with FTP itself; a password is not shown.
        drop(from.take(name));
    }
    from.done_otherwise(
        &[
            ("NFS_MOUNT_RETRY", "`reach` of [[target]]'s limits is how long is tried"),
            ("SSH_KDUMP_RETRY", "`reach` of [[target]]'s limits is how long is tried"),
        ],
        out,
    );
}

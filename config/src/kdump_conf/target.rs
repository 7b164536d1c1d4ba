//! Where dumps go, and what runs before and after: the directives that name it.

use super::Placed;
use crate::settings::translation::Translation;

/// What is said of SSH, in whatever order.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Ssh {
    /// The target is a server.
    pub is_target: bool,
    /// The key.
    pub key: Option<Placed>,
}

/// A directive that names the target.
pub fn named(name: &str, value: &Placed, ssh: &mut Ssh, out: &mut Translation<'_>) {
    match name {
        "nfs" | "nfs4" => nfs(value, out),
        "ssh" => server(value, ssh, out),
        "net" if value.text.contains(":/") => nfs(value, out),
        "net" => server(value, ssh, out),
        "virtiofs" => set(out, "virtiofs", value),
        "raw" => device("raw", value, out),
        filesystem => local(filesystem, value, out),
    }
}

fn set(out: &mut Translation<'_>, key: &'static str, value: &Placed) {
    out.written.set("target", key, value.text.clone(), value.span.clone());
}

fn nfs(value: &Placed, out: &mut Translation<'_>) {
    set(out, "nfs", value);
}

fn server(value: &Placed, ssh: &mut Ssh, out: &mut Translation<'_>) {
    ssh.is_target = true;
    set(out, "ssh", value);
}

fn local(filesystem: &str, named: &Placed, out: &mut Translation<'_>) {
    device("device", named, out);
    out.written.set("target", "filesystem", filesystem, named.span.clone());
}

/// A device: complained of here, where its place is known.
fn device(key: &'static str, named: &Placed, out: &mut Translation<'_>) {
    match named.text.parse::<collector::plan::DeviceId>() {
        Ok(id) => out.written.set("target", key, id.to_string(), named.span.clone()),
        Err(e) => out.error(&named.span, e.to_string(), ""),
    }
}

/// dracut's `--mount "DEVICE MOUNTPOINT TYPE [OPTIONS …]"`.
pub fn mount(mount: &Placed, out: &mut Translation<'_>) {
    let words: Vec<&str> = mount.text.split_whitespace().collect();
    let [what, _, kind, rest @ ..] = words.as_slice() else {
        let advice = "expected a device, a directory, a type and options";
        out.error(&mount.span, format!("{:?} is no mount", mount.text), advice);
        return;
    };
    let place = |text: &str| Placed { text: text.to_owned(), span: mount.span.clone() };
    match *kind {
        "nfs" | "nfs4" => set(out, "nfs", &place(what)),
        "virtiofs" => set(out, "virtiofs", &place(what)),
        "9p" => set(out, "9p", &place(what)),
        kind => local(kind, &place(what), out),
    }
    // `defaults` and what only fstab knows say nothing to mount(2); the kernel decides about the rest.
    let fstab =
        ["defaults", "auto", "noauto", "nofail", "nobootwait", "user", "users", "_netdev", "rw", "ro"];
    let options: Vec<&str> = rest
        .first()
        .into_iter()
        .flat_map(|options| options.split(','))
        .filter(|option| !fstab.contains(option) && !option.starts_with("x-") && !option.is_empty())
        .collect();
    if !options.is_empty() {
        out.written.set("target", "options", options.join(","), mount.span.clone());
    }
}

/// `path`, which is counted from the root of a target that is named.
pub fn path(path: Option<&Placed>, target_is_named: bool, out: &mut Translation<'_>) {
    let Some(path) = path else { return };
    let mut text = path.text.clone();
    if target_is_named && !text.starts_with('/') {
        text.insert(0, '/');
    }
    // kdump takes /var//crash/ for /var/crash.
    let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty()).collect();
    let text = if text.starts_with('/') { format!("/{}", parts.join("/")) } else { text };
    out.written.set("target", "path", text, path.span.clone());
}

/// `sshkey`, which counts where the target is a server.
pub fn finish_ssh(ssh: &Ssh, out: &mut Translation<'_>) {
    match &ssh.key {
        Some(key) if ssh.is_target => set(out, "key", key),
        Some(key) => out.remark(&key.span, "`sshkey` has no effect: the target is no SSH server", ""),
        None => {}
    }
}

/// A program to run before or after the dump.
pub fn hook(name: &str, value: &Placed, out: &mut Translation<'_>) {
    let key = match name {
        "kdump_pre" => "pre",
        "kdump_post" => "post",
        _ => "emergency",
    };
    let words = value.words();
    if let Some(argument) = words.get(1) {
        let advice = "name a script that calls it with them";
        out.error(&argument.span, "hooks are started without arguments of their own", advice);
    }
    for program in words.into_iter().take(1) {
        out.written.add("hooks", key, program.text, program.span);
    }
}

/// What to do when the dump failed, beyond ending the machine: a shell, or the root file system.
pub fn last_resort(value: &Placed, out: &mut Translation<'_>) {
    let action = if value.text == "shell" { "shell" } else { "dump_to_rootfs" };
    if action != value.text {
        let message = format!("`{}` mounted the root file system and went on booting", value.text);
        out.warning(&value.span, message, "the dump goes to the root file system, and the machine restarts");
    }
    out.written.set("", "on_failure", action, value.span.clone());
}

/// Files for the image.
pub fn bins(bins: Vec<Placed>, out: &mut Translation<'_>) {
    for file in bins {
        out.written.add("image", "extra_bins", file.text, file.span);
    }
}

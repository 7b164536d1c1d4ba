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
        "raw" => {
            out.error(&value.span, "raw partitions as targets are not supported yet", "name a file system");
        }
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

fn local(filesystem: &str, device: &Placed, out: &mut Translation<'_>) {
    // What the settings' own reader would say of it, but here, with the place.
    match device.text.parse::<collector::plan::DeviceId>() {
        Ok(id) => out.written.set("target", "device", id.to_string(), device.span.clone()),
        Err(e) => out.error(&device.span, e.to_string(), ""),
    }
    out.written.set("target", "filesystem", filesystem, device.span.clone());
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
    out.error(&value.span, format!("`{name}` is not supported yet"), "comment it out to dump without it");
}

/// What to do when the dump failed, beyond ending the machine.
pub fn last_resort(value: &Placed, out: &mut Translation<'_>) {
    let advice = "choose reboot, halt or poweroff";
    out.error(&value.span, format!("the action `{}` is not supported yet", value.text), advice);
}

/// Files for the image.
pub fn bins(bins: &[Placed], hooks: bool, out: &mut Translation<'_>) {
    if let (Some(first), false) = (bins.first(), hooks) {
        out.remark(&first.span, "no hook needs these files: they are left out of the image", "");
    }
}

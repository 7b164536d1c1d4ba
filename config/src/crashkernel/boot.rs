//! The command line of the next boot: what boot loaders and their tools have written down.
//!
//! | place | who reads it | who writes it |
//! | --- | --- | --- |
//! | /boot/loader/entries/*.conf (BLS; also /efi, /boot/efi) | GRUB of Fedora and RHEL, systemd-boot | grubby, kernel-install |
//! | /boot/grub/grub.cfg, /boot/grub2/grub.cfg | GRUB | update-grub, grub-mkconfig, from /etc/default/grub and grub.d |
//! | /etc/kernel/cmdline | kernel-install, for kernels to come | the administrator |

use crate::shell::{self, Piece, Statement};
use initramfs::root::Root;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// GRUB's defaults.
pub const GRUB_DEFAULTS: &str = "/etc/default/grub";
/// Their drop-ins, where the distribution has them (Debian, Ubuntu).
pub const GRUB_DROP_INS: &str = "/etc/default/grub.d";
/// The command line of kernels to come, for kernel-install.
pub const KERNEL_CMDLINE: &str = "/etc/kernel/cmdline";
/// Where boot entries are.
pub const ENTRIES: [&str; 4] = [
    "/boot/loader/entries",
    "/efi/loader/entries",
    "/boot/efi/loader/entries",
    "/boot/efi/EFI/loader/entries",
];
/// What GRUB reads.
pub const GRUB_CONFIGS: [&str; 3] =
    ["/boot/grub/grub.cfg", "/boot/grub2/grub.cfg", "/boot/efi/EFI/grub/grub.cfg"];

/// What wrote a command line down.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A boot entry: what boots.
    Entry,
    /// grub.cfg: what boots.
    GrubConfig,
    /// GRUB's defaults: what becomes of grub.cfg when it is made next.
    GrubDefaults,
    /// What kernels to come get.
    KernelCmdline,
}

/// A command line that is written down.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    /// What it is.
    pub kind: Kind,
    /// The file.
    pub path: PathBuf,
    /// The arguments.
    pub cmdline: String,
}

/// All of the system at `root`; what boots first comes first.
pub fn lines(root: &Root) -> Result<Vec<Line>, initramfs::Error> {
    let mut found = Vec::new();
    let environment = environment(root)?;
    for directory in ENTRIES {
        let mut entries = Vec::new();
        for name in root.list(directory)?.into_iter().filter(|name| name.ends_with(".conf")) {
            let path = Path::new(directory).join(&name);
            let Some(text) = root.read(&path)? else { continue };
            if let Some(options) = entry_options(&text) {
                entries
                    .push((name, Line { kind: Kind::Entry, path, cmdline: expand(&options, &environment) }));
            }
        }
        // The one that was chosen, else the newest; rescue systems never.
        let chosen =
            environment.get("saved_entry").map(|entry| format!("{}.conf", entry.trim_end_matches(".conf")));
        entries.sort_by(|(a, _), (b, _)| {
            let rank = |name: &String| (chosen.as_ref() != Some(name), name.contains("rescue"));
            rank(a).cmp(&rank(b)).then_with(|| version(b).cmp(&version(a)))
        });
        found.extend(entries.into_iter().map(|(_, line)| line));
    }
    for path in GRUB_CONFIGS {
        let Some(text) = root.read(path)? else { continue };
        // With boot entries grub.cfg has none of its own.
        if let Some(cmdline) = grub_config(&text) {
            found.push(Line { kind: Kind::GrubConfig, path: path.into(), cmdline });
        }
    }
    if let Some((path, cmdline)) = grub_defaults(root)? {
        found.push(Line { kind: Kind::GrubDefaults, path, cmdline });
    }
    if let Some(text) = root.read(KERNEL_CMDLINE)? {
        let cmdline = text.split_whitespace().collect::<Vec<_>>().join(" ");
        found.push(Line { kind: Kind::KernelCmdline, path: KERNEL_CMDLINE.into(), cmdline });
    }
    Ok(found)
}

/// The `options` of a boot entry; there may be several lines.
pub fn entry_options(text: &str) -> Option<String> {
    let options = text.lines().filter_map(|line| line.trim_start().strip_prefix("options"));
    let options: Vec<&str> = options.filter(|rest| rest.starts_with([' ', '\t'])).map(str::trim).collect();
    (!options.is_empty()).then(|| options.join(" "))
}

/// Numbers in a name as numbers: 6.12 is newer than 6.9.
fn version(name: &str) -> Vec<(u64, String)> {
    name.split(|c: char| !c.is_ascii_alphanumeric())
        .map(|part| (part.parse().unwrap_or(0), part.to_owned()))
        .collect()
}

/// GRUB's environment block: `name=value` lines.
fn environment(root: &Root) -> Result<BTreeMap<String, String>, initramfs::Error> {
    let mut all = BTreeMap::new();
    for path in ["/boot/grub2/grubenv", "/boot/grub/grubenv"] {
        let text = root.read(path)?.unwrap_or_default();
        let lines =
            text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='));
        all.extend(lines.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
    Ok(all)
}

/// `$kernelopts` and the like, by GRUB's environment.
fn expand(options: &str, environment: &BTreeMap<String, String>) -> String {
    let word = |word: &str| match word.strip_prefix('$') {
        Some(name) => environment.get(name.trim_matches(['{', '}'])).cloned().unwrap_or_default(),
        None => word.to_owned(),
    };
    options.split_whitespace().map(word).collect::<Vec<_>>().join(" ")
}

/// The command line of the first entry of a grub.cfg.
fn grub_config(text: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let command = words.next()?;
        if !matches!(command, "linux" | "linuxefi" | "linux16") {
            return None;
        }
        words.next()?;
        Some(words.collect::<Vec<_>>().join(" "))
    })
}

/// What GRUB's defaults and their drop-ins come to: the last file that there is, and the command line of an ordinary entry.
fn grub_defaults(root: &Root) -> Result<Option<(PathBuf, String)>, initramfs::Error> {
    let mut files = vec![PathBuf::from(GRUB_DEFAULTS)];
    let names = root.list(GRUB_DROP_INS)?.into_iter().filter(|name| name.ends_with(".cfg"));
    files.extend(names.map(|name| Path::new(GRUB_DROP_INS).join(name)));
    let mut values: BTreeMap<String, String> = BTreeMap::new();
    let mut last = None;
    for path in files {
        let Some(text) = root.read(&path)? else { continue };
        for statement in shell::statements(&text) {
            let Statement::Assignment(one) = statement else { continue };
            // These files build on each other: what is known of a variable is put in, commands are not run.
            let mut value =
                if one.append { values.get(&one.name).cloned().unwrap_or_default() } else { String::new() };
            for piece in &one.value {
                match piece {
                    Piece::Text(text) => value.push_str(text),
                    Piece::Variable(name) => value.push_str(values.get(name).map_or("", String::as_str)),
                    Piece::Expansion(_) => {}
                }
            }
            // Bounded: each file could double it.
            value.truncate(
                (0..=value.len().min(64 << 10)).rev().find(|at| value.is_char_boundary(*at)).unwrap_or(0),
            );
            if one.name.starts_with("GRUB_CMDLINE_LINUX") && value.contains("crashkernel=") {
                last = Some(path.clone());
            }
            values.insert(one.name, value);
        }
        last.get_or_insert(path);
    }
    let part = |name: &str| values.get(name).cloned().unwrap_or_default();
    let cmdline = format!("{} {}", part("GRUB_CMDLINE_LINUX"), part("GRUB_CMDLINE_LINUX_DEFAULT"));
    Ok(last.map(|path| (path, cmdline.trim().to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, Vec<(Kind, String, String)>) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let found = lines(&Root::new(dir.path())).unwrap();
        let found = found.into_iter().map(|line| (line.kind, line.path.display().to_string(), line.cmdline));
        (dir, found.collect())
    }

    #[test]
    fn debian() {
        let (_dir, found) = tree(&[
            (
                "etc/default/grub",
                "GRUB_CMDLINE_LINUX_DEFAULT=\"quiet\"\nGRUB_CMDLINE_LINUX='a=b'\nGRUB_DISTRIBUTOR=`lsb_release`\n",
            ),
            (
                "etc/default/grub.d/kdump-tools.cfg",
                "GRUB_CMDLINE_LINUX_DEFAULT=\"$GRUB_CMDLINE_LINUX_DEFAULT crashkernel=512M-:192M\"\n",
            ),
            (
                "boot/grub/grub.cfg",
                "menuentry 'x' {\n\tlinux\t/boot/vmlinuz-6.1 root=UUID=1 ro quiet\n}\n\tlinux /boot/vmlinuz-6.0 old\n",
            ),
        ]);
        assert_eq!(
            found,
            [
                (Kind::GrubConfig, "/boot/grub/grub.cfg".into(), "root=UUID=1 ro quiet".into()),
                (
                    Kind::GrubDefaults,
                    "/etc/default/grub.d/kdump-tools.cfg".into(),
                    "a=b quiet crashkernel=512M-:192M".into()
                )
            ]
        );
    }

    #[test]
    fn fedora() {
        let (_dir, found) = tree(&[
            ("boot/loader/entries/m-6.9.0.conf", "title x\noptions root=/dev/sda1 ro crashkernel=1G\n"),
            (
                "boot/loader/entries/m-6.12.0.conf",
                "title x\nversion 6.12\noptions $kernelopts $tuned_params\n",
            ),
            ("boot/loader/entries/m-0-rescue.conf", "options rescue\n"),
            (
                "boot/grub2/grubenv",
                "# GRUB Environment Block\nkernelopts=root=/dev/sda1 ro crashkernel=256M\n####",
            ),
            ("boot/grub2/grub.cfg", "blscfg\n"),
            ("etc/kernel/cmdline", "root=/dev/sda1\nro\n"),
        ]);
        let short: Vec<(&str, &str)> =
            found.iter().map(|(_, path, line)| (path.as_str(), line.as_str())).collect();
        assert_eq!(
            short,
            [
                ("/boot/loader/entries/m-6.12.0.conf", "root=/dev/sda1 ro crashkernel=256M "),
                ("/boot/loader/entries/m-6.9.0.conf", "root=/dev/sda1 ro crashkernel=1G"),
                ("/boot/loader/entries/m-0-rescue.conf", "rescue"),
                ("/etc/kernel/cmdline", "root=/dev/sda1 ro"),
            ]
        );
        let (_dir, found) = tree(&[
            ("boot/loader/entries/m-6.9.0.conf", "options a\n"),
            ("boot/loader/entries/m-6.12.0.conf", "options b\n"),
            ("boot/grub2/grubenv", "saved_entry=m-6.9.0\n"),
        ]);
        assert_eq!(found[0].2, "a");
    }

    #[test]
    fn nothing() {
        assert!(tree(&[]).1.is_empty());
        assert!(tree(&[("boot/loader/entries/x.conf", "optionsx\ntitle options\n")]).1.is_empty());
    }
}

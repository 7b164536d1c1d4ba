//! What the administrator says about modules: modprobe.d and the kernel's command line.

use std::collections::{BTreeMap, HashSet};

use super::index::{SoftDependency, parse_alias};
use super::pattern::{matches, module_name, normal};
use crate::Error;
use crate::root::Root;

/// Directories of configuration, the strongest first (modprobe.d(5)): a file hides those of the same name further
/// down.
const DIRECTORIES: [&str; 5] = [
    "/etc/modprobe.d",
    "/run/modprobe.d",
    "/usr/local/lib/modprobe.d",
    "/usr/lib/modprobe.d",
    "/lib/modprobe.d",
];

/// A command that modprobe would run in place of loading a module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Install {
    module: String,
    /// The command line.
    pub(super) command: String,
    /// `FILE:LINE`.
    pub(super) place: String,
}

impl Install {
    /// `install x /bin/false` and the like: the usual way to forbid a module.
    pub(super) fn forbids(&self) -> bool {
        let program = self.command.split_whitespace().next().unwrap_or_default();
        matches!(program.rsplit('/').next(), Some("true" | "false"))
    }
}

/// All of it together.
#[derive(Debug, Default)]
pub(super) struct Settings {
    /// Module and options, in order.
    options: Vec<(String, String)>,
    blacklist: HashSet<String>,
    /// Pattern and module.
    aliases: Vec<(String, String)>,
    soft: Vec<SoftDependency>,
    installs: Vec<Install>,
}

impl Settings {
    /// Reads modprobe.d and /proc/cmdline.
    pub(super) fn load(root: &Root) -> Result<Self, Error> {
        let mut files = BTreeMap::new();
        for directory in DIRECTORIES {
            for name in root.list(directory)?.into_iter().filter(|n| n.ends_with(".conf")) {
                files.entry(name).or_insert(directory);
            }
        }
        let mut settings = Self::default();
        for (name, directory) in files {
            let path = format!("{directory}/{name}");
            // A link to /dev/null hides the files of that name.
            if root.canonical(&path)?.as_deref() != Some("/dev/null".as_ref()) {
                settings.parse_file(&path, &root.read(&path)?.unwrap_or_default());
            }
        }
        settings.parse_command_line(&root.read("/proc/cmdline")?.unwrap_or_default());
        Ok(settings)
    }

    fn parse_file(&mut self, path: &str, text: &str) {
        let mut lines = (1_usize..).zip(text.lines());
        while let Some((number, line)) = lines.next() {
            let mut line = line.to_owned();
            while let Some(open) = line.strip_suffix('\\') {
                line = open.to_owned() + lines.next().map_or("", |(_, l)| l);
            }
            self.parse_line(line.trim(), &format!("{path}:{number}"));
        }
    }

    fn parse_line(&mut self, line: &str, place: &str) {
        let (word, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
        let rest = rest.trim();
        let (name, value) = rest.split_once([' ', '\t']).unwrap_or((rest, ""));
        let (module, value) = (module_name(name), value.trim().to_owned());
        match word {
            "options" if !value.is_empty() => self.options.push((module, value)),
            "blacklist" if !module.is_empty() => drop(self.blacklist.insert(module)),
            "alias" => self.aliases.extend(parse_alias(line)),
            "softdep" => self.soft.extend(SoftDependency::parse(rest)),
            "install" if !value.is_empty() => {
                self.installs.push(Install { module, command: value, place: place.to_owned() });
            }
            // `remove` has no part in loading, `config` and `include` are history.
            _ => {}
        }
    }

    /// `module.parameter=value` and `modprobe.blacklist=a,b` of the running kernel.
    fn parse_command_line(&mut self, line: &str) {
        for word in words(line) {
            if word == "--" {
                break;
            }
            if let Some(list) = word.strip_prefix("modprobe.blacklist=") {
                self.blacklist.extend(list.split(',').filter(|m| !m.is_empty()).map(module_name));
                continue;
            }
            let name_end = word.find('=').unwrap_or(word.len());
            let (name, value) = word.split_at(name_end);
            if let Some((module, parameter)) = name.split_once('.')
                && !module.is_empty()
                && !parameter.is_empty()
            {
                self.options.push((module_name(module), format!("{parameter}{value}")));
            }
        }
    }

    /// The options of a module, in the order in which they are to be applied; empty if none.
    pub(super) fn options(&self, name: &str) -> String {
        let of_module = self.options.iter().filter(|(module, _)| module == name);
        of_module.map(|(_, text)| text.as_str()).collect::<Vec<_>>().join(" ")
    }

    /// Whether a module must not be found by its own aliases.
    pub(super) fn is_blacklisted(&self, name: &str) -> bool {
        self.blacklist.contains(name)
    }

    /// Modules that the administrator's aliases lead to.
    pub(super) fn by_alias(&self, alias: &str) -> Vec<String> {
        let alias = normal(alias);
        self.aliases.iter().filter(|(p, _)| matches(p, &alias)).map(|(_, m)| m.clone()).collect()
    }

    /// The administrator's soft dependencies of a module.
    pub(super) fn soft(&self, name: &str) -> impl Iterator<Item = &SoftDependency> {
        self.soft.iter().filter(move |s| s.module == name)
    }

    /// The command that stands in for loading a module.
    pub(super) fn install(&self, name: &str) -> Option<&Install> {
        self.installs.iter().find(|i| matches(&i.module, name))
    }
}

/// The words of a kernel command line. A double quote keeps blanks together and stays where it is, since module
/// parameters are unquoted by the same code again (kernel/params.c, next_arg).
fn words(line: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    line.split(move |c: char| {
        quoted ^= c == '"';
        c.is_whitespace() && !quoted
    })
    .filter(|w| !w.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn load(files: &[(&str, &str)]) -> Settings {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            match text.strip_prefix("-> ") {
                Some(target) => std::os::unix::fs::symlink(target, path).unwrap(),
                None => fs::write(path, text).unwrap(),
            }
        }
        Settings::load(&Root::new(dir.path())).unwrap()
    }

    #[test]
    fn files_hide_each_other_and_come_in_order_of_name() {
        let settings = load(&[
            ("dev/null", ""),
            ("lib/modprobe.d/10-a.conf", "options x hidden=1\n"),
            ("etc/modprobe.d/10-a.conf", "options x a=1 \\\n b=2\noptions\ty-z\tc\n"),
            ("run/modprobe.d/05-b.conf", "# options x no\n  options x first=1  \n"),
            ("run/modprobe.d/20-c.conf", "options x last=1"),
            ("run/modprobe.d/readme.txt", "options x no=1"),
            ("usr/lib/modprobe.d/30-d.conf", "options x no=1"),
            ("etc/modprobe.d/30-d.conf", "-> /dev/null"),
        ]);
        assert_eq!(settings.options("x"), "first=1 a=1  b=2 last=1");
        assert_eq!(settings.options("y_z"), "c");
        assert_eq!(settings.options("none"), "");
    }

    #[test]
    fn the_command_line_speaks_last() {
        let settings = load(&[
            ("etc/modprobe.d/a.conf", "options nvme-core a=1\nblacklist  pcspkr\n"),
            (
                "proc/cmdline",
                "quiet nvme_core.b=\"2 3\" modprobe.blacklist=ahci,sr-mod x.flag .y=1 z.=1 root=/a.b -- nvme_core.c=4\n",
            ),
        ]);
        assert_eq!(settings.options("nvme_core"), "a=1 b=\"2 3\"");
        assert_eq!(settings.options("x"), "flag");
        for module in ["pcspkr", "ahci", "sr_mod"] {
            assert!(settings.is_blacklisted(module), "{module}");
        }
    }

    #[test]
    fn the_other_words() {
        let settings = load(&[(
            "etc/modprobe.d/a.conf",
            "alias fs-my-* ext4\nsoftdep nvme pre: vfio-pci\ninstall usb-storage /bin/false\n\
             install xfs /sbin/modprobe --ignore-install xfs && touch /x\ninstall\nblacklist\nalias\nsoftdep\nremove x y\n",
        )]);
        assert_eq!(settings.by_alias("fs-my-fs"), ["ext4"]);
        assert_eq!(settings.soft("nvme").flat_map(|s| s.before.iter()).collect::<Vec<_>>(), ["vfio-pci"]);
        let forbidden = settings.install("usb_storage").unwrap();
        assert!(forbidden.forbids());
        assert_eq!(forbidden.place, "/etc/modprobe.d/a.conf:3");
        assert!(!settings.install("xfs").unwrap().forbids());
        assert!(!settings.is_blacklisted(""));
    }
}

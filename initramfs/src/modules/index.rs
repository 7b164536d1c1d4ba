//! What depmod and the kernel's build wrote down about a kernel's modules: modules.dep, modules.alias, modules.softdep,
//! modules.builtin, modules.builtin.modinfo.

use std::collections::{HashMap, HashSet};

use super::pattern::{matches, module_name, normal};
use crate::Error;
use crate::root::Root;

/// A module that is a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ModuleFile {
    /// As in modules.dep: `kernel/fs/ext4/ext4.ko.xz`.
    pub(super) path: String,
    /// Names of all modules it needs, in load order.
    pub(super) needs: Vec<String>,
}

/// Modules to load before and after another, by name or alias.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct SoftDependency {
    /// Whose they are.
    pub(super) module: String,
    pub(super) before: Vec<String>,
    pub(super) after: Vec<String>,
}

impl SoftDependency {
    /// The part of a line behind the word `softdep`: `ext4 pre: crc32c post: x`.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let mut parsed = Self { module: module_name(words.next()?), before: Vec::new(), after: Vec::new() };
        let mut list = None;
        for word in words {
            match word {
                "pre:" => list = Some(&mut parsed.before),
                "post:" => list = Some(&mut parsed.after),
                _ => list.as_mut()?.push(word.to_owned()),
            }
        }
        Some(parsed)
    }
}

/// The modules of one kernel.
#[derive(Debug)]
pub(super) struct Index {
    /// The kernel's module directory, as the system sees it.
    pub(super) directory: String,
    files: HashMap<String, ModuleFile>,
    builtin: HashSet<String>,
    /// Pattern and module, in file order.
    aliases: Vec<(String, String)>,
    builtin_aliases: Vec<(String, String)>,
    soft: Vec<SoftDependency>,
}

impl Index {
    /// Reads the index of kernel `release`. A kernel without any is one without modules.
    pub(super) fn load(root: &Root, release: &str) -> Result<Self, Error> {
        let mut directory = format!("/lib/modules/{release}");
        if !root.exists(&directory)? {
            let merged = format!("/usr/lib/modules/{release}");
            if root.exists(&merged)? {
                directory = merged;
            }
        }
        let text = |name: &str| Ok::<_, Error>(root.read(format!("{directory}/{name}"))?.unwrap_or_default());
        let mut index = Self {
            files: text("modules.dep")?.lines().filter_map(parse_dependencies).collect(),
            builtin: text("modules.builtin")?.lines().map(module_name).collect(),
            aliases: text("modules.alias")?.lines().filter_map(parse_alias).collect(),
            builtin_aliases: Vec::new(),
            soft: text("modules.softdep")?
                .lines()
                .filter_map(|l| SoftDependency::parse(l.strip_prefix("softdep ")?))
                .collect(),
            directory: directory.clone(),
        };
        // Records `module.key=value`, each ended by a zero. It names modules that modules.builtin lacks: those without
        // a file of their own. Since Linux commit 898490c010b5 ("moduleparam: Save information about built-in modules
        // in separate file") (in v5.2).
        for record in text("modules.builtin.modinfo")?.split('\0') {
            let Some((module, field)) = record.split_once('.') else { continue };
            let module = module_name(module);
            if let Some(alias) = field.strip_prefix("alias=") {
                index.builtin_aliases.push((normal(alias), module.clone()));
            }
            index.builtin.insert(module);
        }
        Ok(index)
    }

    /// The module of this (normal) name, if it is a file.
    pub(super) fn file(&self, name: &str) -> Option<&ModuleFile> {
        self.files.get(name)
    }

    /// Whether the module of this (normal) name is part of the kernel.
    pub(super) fn is_builtin(&self, name: &str) -> bool {
        self.builtin.contains(name)
    }

    /// Modules whose own aliases match, each once, in the index's order.
    pub(super) fn by_alias(&self, alias: &str) -> Vec<String> {
        select(&self.aliases, &normal(alias))
    }

    /// Whether something built in answers to the alias.
    pub(super) fn builtin_by_alias(&self, alias: &str) -> bool {
        !select(&self.builtin_aliases, &normal(alias)).is_empty()
    }

    /// The module authors' soft dependencies of a module.
    pub(super) fn soft(&self, name: &str) -> impl Iterator<Item = &SoftDependency> {
        self.soft.iter().filter(move |s| s.module == name)
    }
}

fn select(aliases: &[(String, String)], alias: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for (pattern, module) in aliases {
        if matches(pattern, alias) && !found.contains(module) {
            found.push(module.clone());
        }
    }
    found
}

/// `path: dependency dependency`, the dependencies in the order of unloading.
fn parse_dependencies(line: &str) -> Option<(String, ModuleFile)> {
    let (path, needs) = line.split_once(':')?;
    let needs = needs.split_whitespace().rev().map(module_name).collect();
    Some((module_name(path), ModuleFile { path: path.trim().to_owned(), needs }))
}

/// `alias PATTERN MODULE`.
pub(super) fn parse_alias(line: &str) -> Option<(String, String)> {
    let mut words = line.strip_prefix("alias ")?.split_whitespace();
    let (pattern, module) = (words.next()?, words.next()?);
    Some((normal(pattern), module_name(module)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let (name, file) =
            parse_dependencies("kernel/fs/ext4/ext4.ko.xz: kernel/lib/crc16.ko.xz kernel/fs/j-bd2.ko")
                .unwrap();
        assert_eq!((name.as_str(), file.path.as_str()), ("ext4", "kernel/fs/ext4/ext4.ko.xz"));
        assert_eq!(file.needs, ["j_bd2", "crc16"]);
        assert_eq!(parse_dependencies("# nothing"), None);
        assert_eq!(
            parse_alias("alias crypto-crc32c crc32c-intel"),
            Some(("crypto_crc32c".into(), "crc32c_intel".into()))
        );
        assert_eq!(parse_alias("alias lonely"), None);
        let soft = SoftDependency::parse("ex-t4 pre: a b post: c pre: d").unwrap();
        assert_eq!(
            (soft.module.as_str(), soft.before, soft.after),
            ("ex_t4", vec!["a".into(), "b".into(), "d".into()], vec!["c".to_owned()])
        );
        assert_eq!(SoftDependency::parse("x stray"), None);
    }

    #[test]
    fn no_index_is_a_kernel_without_modules() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::load(&Root::new(dir.path()), "6.1").unwrap();
        assert!(index.file("ext4").is_none() && !index.is_builtin("ext4"));
        assert_eq!(index.directory, "/lib/modules/6.1");
    }

    #[test]
    fn built_in_modules_come_from_both_lists() {
        let dir = tempfile::tempdir().unwrap();
        let modules = dir.path().join("usr/lib/modules/6.1");
        std::fs::create_dir_all(&modules).unwrap();
        std::fs::write(modules.join("modules.builtin"), "kernel/lib/crc-x.ko\n").unwrap();
        std::fs::write(
            modules.join("modules.builtin.modinfo"),
            "crc32c_generic.alias=crypto-crc32c\0other.license=GPL\0",
        )
        .unwrap();
        let index = Index::load(&Root::new(dir.path()), "6.1").unwrap();
        assert_eq!(index.directory, "/usr/lib/modules/6.1");
        assert!(index.is_builtin("crc_x") && index.is_builtin("other") && index.is_builtin("crc32c_generic"));
        assert!(index.builtin_by_alias("crypto-crc32c") && !index.builtin_by_alias("crypto-sha"));
    }
}

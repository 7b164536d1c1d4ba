//! Which files the settings are in, and all of them together.
//!
//! 1. `--config FILE`: that file alone. Its name tells what it is: `….conf` is written as /etc/kdump.conf is, any other is TOML.
//! 2. /etc/vmcored.toml, and over it each /etc/vmcored.toml.d/*.toml, in the order of their names: a later file has the last word,
//!    key by key; lists, and the whole ladder of `[[target]]`s or `[[dump]]`s, are replaced by those of the later file.
//! 3. /etc/kdump.conf, as it is, where there are none of those.
//! 4. The defaults.

use crate::diagnostic::{Diagnostics, Finding, Severity};
use crate::kdump_conf::{self, KDUMP_CONF};
use crate::settings::sources::Sources;
use crate::settings::translation::Translation;
use crate::settings::tree::{self, Leaf, Tree};
use crate::settings::{self, SETTINGS_PATH, Settings};
use initramfs::root::Root;
use std::io;
use std::path::{Path, PathBuf};

/// Where files are that have the last word.
pub const DROP_INS: &str = "/etc/vmcored.toml.d";

/// Settings, and where they come from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// What was written, each value with its place.
    pub leaves: Vec<Leaf>,
    /// The files.
    pub sources: Sources,
    /// What there is to say of them; no errors.
    pub findings: Vec<Finding>,
}

impl Loaded {
    /// What an operator wants to hear each time: what will not be as it was written.
    pub fn warnings(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.severity == Severity::Warning)
    }
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file could not be read.
    #[error("cannot read {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// /etc could not be looked at.
    #[error(transparent)]
    System(#[from] initramfs::Error),
    /// The files are wrong.
    #[error("{0}")]
    Wrong(Diagnostics),
}

/// The settings of the system at `root`.
pub fn load(root: &Root) -> Result<Loaded, LoadError> {
    let mut files: Vec<PathBuf> = vec![SETTINGS_PATH.into()];
    let names = root.list(DROP_INS)?;
    // Editors and package managers leave others.
    let drop_ins = names.iter().filter(|name| name.ends_with(".toml") && !name.starts_with('.'));
    files.extend(drop_ins.map(|name| Path::new(DROP_INS).join(name)));
    let mut texts = Vec::new();
    for file in files {
        if root.exists(&file)? {
            texts.push((read(&file, root)?, file));
        }
    }
    if texts.is_empty()
        && let Some(text) = root.read(KDUMP_CONF)?
    {
        return of_kdump_conf(&text, Path::new(KDUMP_CONF));
    }
    of_toml(&texts)
}

/// The settings of one file alone.
pub fn load_file(file: &Path) -> Result<Loaded, LoadError> {
    let bytes = std::fs::read(file).map_err(|source| LoadError::Read { path: file.to_owned(), source })?;
    if file.extension().is_some_and(|ending| ending == "conf") {
        return of_kdump_conf(&String::from_utf8_lossy(&bytes), file);
    }
    of_toml(&[(utf8(bytes, file)?, file.to_owned())])
}

fn read(file: &Path, root: &Root) -> Result<String, LoadError> {
    let failed = |source| LoadError::Read { path: file.to_owned(), source };
    let on_disk = root.real(file)?.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
    utf8(std::fs::read(on_disk).map_err(failed)?, file)
}

/// TOML is UTF-8.
fn utf8(bytes: Vec<u8>, file: &Path) -> Result<String, LoadError> {
    let failed =
        |e| LoadError::Read { path: file.to_owned(), source: io::Error::new(io::ErrorKind::InvalidData, e) };
    String::from_utf8(bytes).map_err(failed)
}

/// Files of ours, the strongest last.
fn of_toml(files: &[(String, PathBuf)]) -> Result<Loaded, LoadError> {
    let mut sources = Sources::default();
    let starts: Vec<usize> = files.iter().map(|(text, name)| sources.add(name, text)).collect();
    let mut whole = Tree::new();
    let mut wrong = Vec::new();
    for ((text, _), start) in files.iter().zip(starts) {
        match tree::parse(text, start) {
            Ok(tree) => tree::merge(&mut whole, tree),
            Err(e) => wrong.push(settings::refusal(&sources, start, &e)),
        }
    }
    if !wrong.is_empty() {
        return Err(LoadError::Wrong(Diagnostics(wrong)));
    }
    let leaves = tree::leaves(&whole);
    let settings = settings::read(whole, &sources).map_err(LoadError::Wrong)?;
    Ok(Loaded { settings, leaves, sources, findings: Vec::new() })
}

/// kdump's file, or one written as it is.
fn of_kdump_conf(text: &str, file: &Path) -> Result<Loaded, LoadError> {
    let sources = Sources::of(file, text);
    let Translation { written, findings, .. } = kdump_conf::translate(text, 0, &sources);
    let (errors, findings): (Vec<_>, Vec<_>) =
        findings.into_iter().partition(|f| f.severity == Severity::Error);
    let mut wrong: Vec<_> = errors.into_iter().map(|finding| finding.diagnostic).collect();
    let tree = written.tree();
    let leaves = tree::leaves(&tree);
    match settings::read(tree, &sources) {
        Ok(settings) if wrong.is_empty() => Ok(Loaded { settings, leaves, sources, findings }),
        refused => {
            wrong.extend(refused.err().into_iter().flat_map(|more| more.0));
            wrong.sort_by_key(|diagnostic| (diagnostic.line, diagnostic.column));
            Err(LoadError::Wrong(Diagnostics(wrong)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, Result<Loaded, LoadError>) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let loaded = load(&Root::new(dir.path()));
        (dir, loaded)
    }

    fn places(loaded: &Loaded) -> Vec<String> {
        let line = |leaf: &Leaf| {
            let Leaf { table, key, value, span } = leaf;
            format!("{table}.{key} = {value} {}", loaded.sources.origin(span))
        };
        loaded.leaves.iter().map(line).collect()
    }

    #[test]
    fn files_in_their_order() {
        let (_dir, loaded) = tree(&[
            ("etc/vmcored.toml", "host = \"a\"\non_failure = \"halt\"\n[limits]\nstall = 5\n"),
            ("etc/vmcored.toml.d/20-b.toml", "host = \"c\"\n"),
            ("etc/vmcored.toml.d/10-a.toml", "host = \"b\"\n[limits]\nmount = 9\n"),
            ("etc/vmcored.toml.d/30-c.toml.dpkg-old", "nonsense"),
            ("etc/kdump.conf", "nonsense\n"),
        ]);
        let loaded = loaded.unwrap();
        assert_eq!(loaded.settings.host.as_deref(), Some("c"));
        assert_eq!((loaded.settings.limits.stall, loaded.settings.limits.mount), (5, 9));
        assert_eq!(
            places(&loaded),
            [
                ".host = \"c\" /etc/vmcored.toml.d/20-b.toml:1:8",
                ".on_failure = \"halt\" /etc/vmcored.toml:2:14",
                "limits.mount = 9 /etc/vmcored.toml.d/10-a.toml:3:9",
                "limits.stall = 5 /etc/vmcored.toml:4:9",
            ]
        );
    }

    #[test]
    fn complaints_name_the_file() {
        let (_dir, loaded) = tree(&[
            ("etc/vmcored.toml", "[limits]\nstall = 5\n"),
            ("etc/vmcored.toml.d/a.toml", "[limits]\nstall = 0\n"),
        ]);
        let said = loaded.unwrap_err().to_string();
        assert!(said.starts_with("/etc/vmcored.toml.d/a.toml:2:9: a limit of 0 seconds"), "{said}");
        let (_dir, loaded) =
            tree(&[("etc/vmcored.toml", "levle = 5\n"), ("etc/vmcored.toml.d/a.toml", "[limits\n")]);
        let said = loaded.unwrap_err().to_string();
        assert!(said.starts_with("/etc/vmcored.toml.d/a.toml:1:8: "), "{said}");
        let (_dir, loaded) = tree(&[("etc/vmcored.toml.d/b.toml", "\n[limits]\nstal = 5\n")]);
        let said = loaded.unwrap_err().to_string();
        assert!(
            said.contains("b.toml:3:1: unknown key `stal`") && said.contains("did you mean `stall`"),
            "{said}"
        );
    }

    #[test]
    fn kdump_conf_where_there_is_nothing_else() {
        let (_dir, loaded) = tree(&[("etc/kdump.conf", "# caf\u{e9}\nfailure_action halt\n")]);
        let loaded = loaded.unwrap();
        assert_eq!(places(&loaded), [".on_failure = \"halt\" /etc/kdump.conf:2:16"]);
        let (_dir, loaded) = tree(&[]);
        assert_eq!(loaded.unwrap().settings, Settings::default());
        let (_dir, loaded) = tree(&[("etc/vmcored.toml", ""), ("etc/kdump.conf", "failure_action halt\n")]);
        assert_eq!(loaded.unwrap().settings, Settings::default());
    }

    #[test]
    fn one_file_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let (conf, other) = (dir.path().join("x.conf"), dir.path().join("x.toml"));
        fs::write(&conf, b"# \xff\npath /d\n").unwrap();
        fs::write(&other, b"# \xff\n").unwrap();
        assert_eq!(load_file(&conf).unwrap().leaves.len(), 1);
        assert!(matches!(load_file(&other), Err(LoadError::Read { .. })));
        assert!(matches!(load_file(&dir.path().join("none")), Err(LoadError::Read { .. })));
    }
}

//! From names and aliases to a list of module files in load order, as modprobe would load them.

use std::collections::{HashMap, HashSet};

use super::index::{Index, SoftDependency};
use super::pattern::module_name;
use super::settings::Settings;
use crate::Error;
use crate::root::Root;

/// Dependencies of dependencies: real chains have fewer than ten links.
const MAX_DEPTH: usize = 64;

/// A module chosen, in load order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Chosen {
    pub(super) name: String,
    /// The file, as the system sees it.
    pub(super) file: String,
    pub(super) required: bool,
    pub(super) why: String,
}

/// What a name or an alias leads to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    modules: Vec<String>,
    builtin: bool,
}

/// The choice so far.
#[derive(Debug)]
pub(super) struct Resolver<'a> {
    root: &'a Root,
    release: &'a str,
    /// Whether `release` is the kernel that runs, so that /sys/module and /proc tell of it.
    pub(super) running: bool,
    index: Index,
    settings: Settings,
    omitted: HashSet<String>,
    chosen: Vec<Chosen>,
    position: HashMap<String, usize>,
    /// Modules whose dependencies are being resolved, outermost first: soft ones may go in circles.
    path: Vec<String>,
    /// In order of discovery, each once.
    pub(super) notes: Vec<String>,
}

impl<'a> Resolver<'a> {
    pub(super) fn new(root: &'a Root, release: &'a str, omit: &[String]) -> Result<Self, Error> {
        Ok(Self {
            root,
            release,
            running: root.read_line("/proc/sys/kernel/osrelease")?.is_none_or(|r| r == release),
            index: Index::load(root, release)?,
            settings: Settings::load(root)?,
            omitted: omit.iter().map(|name| module_name(name)).collect(),
            chosen: Vec::new(),
            position: HashMap::new(),
            path: Vec::new(),
            notes: Vec::new(),
        })
    }

    /// The modules in load order, and the options of each.
    pub(super) fn finish(self) -> (Vec<(Chosen, String)>, Vec<String>) {
        let options = |c: Chosen| {
            let options = self.settings.options(&c.name);
            (c, options)
        };
        (self.chosen.into_iter().map(options).collect(), self.notes)
    }

    /// Whether this kernel has the module as a file or built in.
    pub(super) fn has(&self, name: &str) -> Result<bool, Error> {
        let name = module_name(name);
        Ok(self.index.file(&name).is_some() || self.is_builtin(&name)?)
    }

    /// A module by name, which must be there if it is required. A blacklist does not concern it.
    pub(super) fn module(&mut self, name: &str, required: bool, why: &str) -> Result<(), Error> {
        let name = module_name(name);
        if self.settings.is_blacklisted(&name) && self.index.file(&name).is_some() {
            self.note(format!("{name} is blacklisted, and packed all the same: {why}"));
        }
        self.add(&name, required, why).map(drop)
    }

    /// A name or an alias, with modprobe's rules. False if it leads nowhere.
    pub(super) fn alias(&mut self, alias: &str, required: bool, why: &str) -> Result<bool, Error> {
        let found = self.find(alias, why)?;
        // Of several that answer, none is known to be the one.
        let required = required && found.modules.len() == 1 && !found.builtin;
        for module in &found.modules {
            self.add(module, required, why)?;
        }
        Ok(found.builtin || !found.modules.is_empty())
    }

    /// The error for a module that is nowhere.
    pub(super) fn missing(&self, module: &str, why: &str) -> Error {
        Error::MissingModule {
            module: module.to_owned(),
            why: why.to_owned(),
            release: self.release.to_owned(),
            directory: self.root.path(&self.index.directory),
        }
    }

    /// As modprobe looks a name up: the administrator's aliases, module names, the modules' own aliases.
    fn find(&mut self, alias: &str, why: &str) -> Result<Found, Error> {
        let by_settings = self.settings.by_alias(alias);
        if !by_settings.is_empty() {
            // `alias x off` is an old way to say: nothing.
            let modules = by_settings.into_iter().filter(|m| m != "off").collect();
            return Ok(Found { modules, builtin: false });
        }
        let name = module_name(alias);
        if self.index.file(&name).is_some() {
            return Ok(Found { modules: vec![name], builtin: false });
        }
        if self.is_builtin(&name)? {
            return Ok(Found { modules: Vec::new(), builtin: true });
        }
        let mut modules = Vec::new();
        for module in self.index.by_alias(alias) {
            if self.settings.is_blacklisted(&module) {
                self.note(format!("{module} is blacklisted and left out: {why}"));
            } else if let Some(install) = self.settings.install(&module).filter(|i| i.forbids()) {
                let note = format!("{module} is left out, since {} forbids it: {why}", install.place);
                self.note(note);
            } else {
                modules.push(module);
            }
        }
        Ok(Found { modules, builtin: self.index.builtin_by_alias(alias) })
    }

    fn is_builtin(&self, name: &str) -> Result<bool, Error> {
        if self.index.is_builtin(name) {
            return Ok(true);
        }
        // Only modules that were loaded have a state. Kernels without any modules have no lists of built-in ones
        // either.
        let module = format!("/sys/module/{name}");
        Ok(self.running && self.root.exists(&module)? && !self.root.exists(format!("{module}/initstate"))?)
    }

    /// Puts a module and all it needs on the list. False if it stays off: optional and not to be had, or omitted.
    fn add(&mut self, name: &str, required: bool, why: &str) -> Result<bool, Error> {
        if let Some(known) = self.position.get(name).and_then(|i| self.chosen.get(*i))
            && (known.required || !required)
        {
            return Ok(true);
        }
        let Some(file) = self.index.file(name) else {
            if self.is_builtin(name)? {
                return Ok(true);
            }
            if required {
                return Err(self.missing(name, why));
            }
            self.note(format!("there is no module {name}: {why}"));
            return Ok(false);
        };
        if self.omitted.contains(name) {
            self.note(format!("{name} is omitted by the settings: {why}"));
            return Ok(false);
        }
        if self.path.iter().any(|n| n == name) {
            return Ok(true);
        }
        if self.path.len() >= MAX_DEPTH {
            let path = self.root.path(&self.index.directory).join("modules.dep");
            let reason = format!("dependencies of {} are nested too deeply", self.path.join(", "));
            return Err(Error::BadModule { path, release: self.release.to_owned(), reason });
        }
        let (path, needs) = (file.path.clone(), file.needs.clone());
        self.path.push(name.to_owned());
        let result = self.add_with_dependencies(name, &path, &needs, required, why);
        self.path.pop();
        result
    }

    fn add_with_dependencies(
        &mut self,
        name: &str,
        path: &str,
        needs: &[String],
        required: bool,
        why: &str,
    ) -> Result<bool, Error> {
        if let Some(install) = self.settings.install(name) {
            let note = format!(
                "{name} is loaded as it is; {}: install {} is not run",
                install.place, install.command
            );
            self.note(note);
        }
        for needed in needs {
            if self.add(needed, required, &format!("needed by {name}"))? {
                continue;
            }
            if required {
                return Err(Error::Omitted { module: needed.clone(), needed_by: name.to_owned() });
            }
            self.note(format!("{name} is left out, since it needs {needed}: {why}"));
            return Ok(false);
        }
        let by_author: Vec<SoftDependency> = self.index.soft(name).cloned().collect();
        let by_administrator: Vec<SoftDependency> = self.settings.soft(name).cloned().collect();
        for soft in by_author.iter().flat_map(|s| &s.before) {
            self.add_soft(soft, name, required)?;
        }
        for soft in by_administrator.iter().flat_map(|s| &s.before) {
            self.add_soft(soft, name, false)?;
        }
        match self.position.get(name).and_then(|i| self.chosen.get_mut(*i)) {
            Some(known) => known.required |= required,
            None => {
                let file = if path.starts_with('/') {
                    path.to_owned()
                } else {
                    format!("{}/{path}", self.index.directory)
                };
                self.position.insert(name.to_owned(), self.chosen.len());
                self.chosen.push(Chosen { name: name.to_owned(), file, required, why: why.to_owned() });
            }
        }
        for soft in by_author.iter().chain(&by_administrator).flat_map(|s| &s.after) {
            self.add_soft(soft, name, false)?;
        }
        Ok(true)
    }

    /// What a module's author or the administrator would have loaded with it.
    ///
    /// Authors name algorithms so that the kernel finds them when the module asks, and in the crash kernel nobody
    /// answers when it asks: ext4 says `pre: crypto-crc32c`, and cannot mount without. Both crc32c_intel and
    /// crc32c_generic answer to that. What lies in the kernel's crypto/ and lib/ works on every CPU and is required;
    /// what lies in arch/ may refuse this CPU, is never required, and packed only if it is in use now.
    fn add_soft(&mut self, soft: &str, of: &str, required: bool) -> Result<(), Error> {
        let why = if module_name(soft) == soft {
            format!("softdep of {of}")
        } else {
            format!("softdep of {of}: {soft}")
        };
        let found = self.find(soft, &why)?;
        let several = found.builtin || found.modules.len() > 1;
        for module in &found.modules {
            let path = self.index.file(module).map_or("", |f| f.path.as_str());
            let path = path.strip_prefix("kernel/").unwrap_or(path);
            if path.starts_with("arch/") && several && !self.is_loaded(module)? {
                continue;
            }
            let portable = path.starts_with("crypto/") || path.starts_with("lib/");
            self.add(module, required && portable, &why)?;
        }
        if found == Found::default() {
            self.note(format!("{soft}, a softdep of {of}, is neither a module nor built in"));
        }
        Ok(())
    }

    /// Whether the running kernel uses the module; true where nobody can tell.
    fn is_loaded(&self, name: &str) -> Result<bool, Error> {
        Ok(!self.running
            || !self.root.exists("/sys/module")?
            || self.root.exists(format!("/sys/module/{name}"))?)
    }

    pub(super) fn note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }
}

//! From the settings of kdump-utils (Fedora, RHEL), kdump-tools (Debian, Ubuntu) and kdump (SUSE) to a vmcored.toml with
//! comments, and a word about each thing that will not be as it was.
//!
//! The files of shell variables are parsed by the shell's rules of quoting and never run: what a shell would expand is told
//! and left out.

mod debian;
mod fedora;
mod suse;
mod variables;

use crate::diagnostic::{Finding, Severity};
use crate::kdump_conf::{self, KDUMP_CONF};
use crate::load::LoadError;
use crate::settings;
use crate::settings::sources::Sources;
use crate::settings::translation::Translation;
use initramfs::root::Root;
use std::io;
use std::path::{Path, PathBuf};
use variables::Variables;

/// Fedora's and SUSE's variables.
const SYSCONFIG: &str = "/etc/sysconfig/kdump";
/// Debian's variables.
const KDUMP_TOOLS: &str = "/etc/default/kdump-tools";

/// What an import gives.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The text of a settings file.
    pub text: String,
    /// What there is to say, the gravest first.
    pub findings: Vec<Finding>,
}

impl Imported {
    /// Whether something will not be as it was.
    pub fn changes_meaning(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity != Severity::Remark)
    }
}

/// Why nothing was imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// There is nothing to import.
    #[error("nothing to import: there is no {KDUMP_CONF}, {SYSCONFIG} or {KDUMP_TOOLS}; name a file")]
    Nothing,
    /// Something else was named.
    #[error("{} is none of kdump's files: no line of it is an option of kdump.conf, or sets one of their variables", .0.display())]
    Foreign(PathBuf),
    /// A file could not be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// /etc could not be looked at.
    #[error(transparent)]
    System(#[from] initramfs::Error),
}

/// What wrote a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    KdumpConf,
    Fedora,
    Suse,
    Debian,
}

/// Imports the files of the system at `root`.
pub fn import(root: &Root) -> Result<Imported, ImportError> {
    let mut files = Vec::new();
    for path in [KDUMP_CONF, SYSCONFIG, KDUMP_TOOLS] {
        if let Some(text) = root.read(path)? {
            files.push((PathBuf::from(path), text));
        }
    }
    if files.is_empty() { Err(ImportError::Nothing) } else { Ok(translate(&files)) }
}

/// Imports these files.
pub fn import_files(paths: &[PathBuf]) -> Result<Imported, ImportError> {
    let mut files = Vec::new();
    for path in paths {
        let bytes = std::fs::read(path)
            .map_err(|source: io::Error| LoadError::Read { path: path.clone(), source })?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if kind(path, &text) == Kind::KdumpConf && !kdump_conf::could_be(&text) {
            return Err(ImportError::Foreign(path.clone()));
        }
        files.push((path.clone(), text));
    }
    Ok(translate(&files))
}

/// Translates texts with their names.
pub fn translate(files: &[(PathBuf, String)]) -> Imported {
    let mut sources = Sources::default();
    let starts: Vec<usize> = files.iter().map(|(name, text)| sources.add(name, text)).collect();
    let mut out = Translation::new(&sources);
    for ((name, text), start) in files.iter().zip(starts) {
        match kind(name, text) {
            Kind::KdumpConf => kdump_conf::translate_into(text, start, &mut out),
            Kind::Fedora => fedora::translate(Variables::read(text, start, &mut out), &mut out),
            Kind::Suse => suse::translate(Variables::read(text, start, &mut out), &mut out),
            Kind::Debian => debian::translate(Variables::read(text, start, &mut out), &mut out),
        }
    }
    // What our own reader would not take has to be known now, not when the file is first used.
    let refused = settings::read(out.written.tree(), &sources).err();
    let refused: Vec<_> = refused.into_iter().flat_map(|e| e.0).collect();
    let unusable = !refused.is_empty();
    out.findings
        .extend(refused.into_iter().map(|diagnostic| Finding { severity: Severity::Error, diagnostic }));
    out.findings.sort_by_key(|finding| finding.severity);
    let names: Vec<String> = files.iter().map(|(name, _)| name.display().to_string()).collect();
    let mut text = format!("# vmcored's settings, imported from {}.\n", names.join(", "));
    text.push_str("# Not written here: defaults. vmcored.toml.example has every setting.\n");
    let told = out.findings.iter().filter(|finding| finding.severity != Severity::Remark);
    let mut first = true;
    for finding in told {
        if std::mem::take(&mut first) {
            text.push_str("#\n# Not as it was:\n");
        }
        let place = format!("{}:{}", finding.diagnostic.file.display(), finding.diagnostic.line);
        let advice = match finding.diagnostic.advice.as_str() {
            "" => String::new(),
            advice => format!(" ({advice})"),
        };
        text.push_str(&settings::written::comment(&format!(
            "{place}: {}{advice}",
            finding.diagnostic.message
        )));
    }
    if unusable {
        text.push_str("#\n# With that in it this file is refused: `vmcorectl config check FILE`.\n");
    }
    text.push('\n');
    text.push_str(out.written.text(&sources).trim_start_matches('\n'));
    Imported { text, findings: out.findings }
}

fn kind(name: &Path, text: &str) -> Kind {
    let assigns = |variables: &[&str]| {
        text.lines().any(|line| {
            let line = line.trim_start().trim_start_matches("export ");
            variables.iter().any(|v| line.strip_prefix(v).is_some_and(|rest| rest.starts_with('=')))
        })
    };
    if assigns(&["USE_KDUMP", "KDUMP_COREDIR", "MAKEDUMP_ARGS", "KDUMP_SYSCTL", "HOSTTAG"])
        || name.ends_with("kdump-tools")
    {
        Kind::Debian
    } else if assigns(&[
        "KDUMP_SAVEDIR",
        "KDUMP_DUMPLEVEL",
        "KDUMP_DUMPFORMAT",
        "KDUMP_IMMEDIATE_REBOOT",
        "KDUMP_CRASHKERNEL",
    ]) {
        Kind::Suse
    } else if name.ends_with("sysconfig/kdump")
        || assigns(&[
            "KDUMP_KERNELVER",
            "KDUMP_COMMANDLINE",
            "KDUMP_COMMANDLINE_APPEND",
            "KEXEC_ARGS",
            "KDUMP_BOOTDIR",
            "KDUMP_IMG",
        ])
    {
        Kind::Fedora
    } else {
        Kind::KdumpConf
    }
}

#[cfg(test)]
mod tests;

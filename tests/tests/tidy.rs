//! Rules of the house that no lint knows.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const CRATES: [&str; 5] = ["collector", "config", "initramfs", "tests", "tests/fuzz"];
/// Lines of a file without its tests.
const LONGEST: usize = 800;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests is in the workspace")
}

fn rust_files(below: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(below).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Each source file of the workspace, relative to its root, and its text.
fn sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for name in CRATES {
        for part in ["src", "tests", "benches", "examples"] {
            rust_files(&root().join(name).join(part), &mut found);
        }
    }
    assert!(found.len() > 20, "found only {} files", found.len());
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).expect("a source file");
        (path.strip_prefix(root()).expect("below the root").display().to_string(), text)
    };
    found.into_iter().map(read).collect()
}

/// A line without its comment and without what its string literals say.
fn code(line: &str) -> String {
    let mut out = String::new();
    let mut chars = line.chars().peekable();
    let mut quoted = false;
    while let Some(c) = chars.next() {
        match c {
            '\\' if quoted => {
                chars.next();
            }
            '"' => quoted = !quoted,
            '/' if !quoted && chars.peek() == Some(&'/') => break,
            _ if quoted => {}
            _ => out.push(c),
        }
    }
    out
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// A file's lines up to its unit tests.
fn before_tests(text: &str) -> impl Iterator<Item = &str> {
    text.lines().take_while(|line| line.trim() != "#[cfg(test)]")
}

fn assert_none(what: &str, faults: Vec<String>) {
    assert!(faults.is_empty(), "{what}:\n{}", faults.join("\n"));
}

#[test]
fn unsafe_is_in_one_file() {
    let mut faults = Vec::new();
    for (path, text) in sources() {
        // A counting allocator cannot be had without; the tests' is the one exception.
        if path == "collector/src/sys.rs" || path == "tests/tests/synthetic_hostile.rs" {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            if words(&code(line)).any(|word| word == "unsafe") {
                faults.push(format!("{path}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert_none("unsafe outside of collector/src/sys.rs", faults);
}

#[test]
fn modules_are_named_for_what_they_are() {
    let empty = ["util", "utils", "common", "helper", "helpers", "misc", "manager"];
    let faults = sources().into_iter().map(|(path, _)| path).filter(|path| {
        Path::new(path).components().any(|part| {
            let part = part.as_os_str().to_string_lossy();
            empty.contains(&part.trim_end_matches(".rs"))
        })
    });
    assert_none("modules whose name says nothing", faults.collect());
}

#[test]
fn an_ignored_test_says_why() {
    let mut faults = Vec::new();
    for (path, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            if code(line).contains("#[ignore]") {
                faults.push(format!("{path}:{}", number + 1));
            }
        }
    }
    assert_none("#[ignore] without a reason", faults);
}

#[test]
fn files_are_short() {
    let faults = sources().into_iter().filter_map(|(path, text)| {
        let lines = before_tests(&text).count();
        (lines > LONGEST).then(|| format!("{path}: {lines} lines"))
    });
    assert_none("files of more than 800 lines without tests", faults.collect());
}

/// What runs after a crash sees the world through traits, so that it is the same on a laptop.
#[test]
fn the_engine_touches_nothing() {
    let banned = [
        "std::fs",
        "std::net",
        "std::process",
        "std::env",
        "nix::",
        "libc::",
        "crate::sys",
        "use nix",
        "use libc",
    ];
    let mut faults = Vec::new();
    for (path, text) in sources() {
        let engine = ["vmcore", "kernel", "filter", "format"];
        if !engine.iter().any(|part| path.starts_with(&format!("collector/src/{part}/")))
            || path.ends_with("/tests.rs")
        {
            continue;
        }
        for (number, line) in before_tests(&text).enumerate() {
            let line = code(line);
            if banned.iter().any(|name| line.contains(name)) {
                faults.push(format!("{path}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert_none("the engine reaches for the system", faults);
}

#[test]
fn each_dependency_has_its_reason() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).expect("Cargo.toml");
    let readme = std::fs::read_to_string(root().join("README.md")).expect("README.md");
    let table = readme.split("\n## ").find(|part| part.to_lowercase().starts_with("dependencies"));
    let table = table.expect("README.md has a section Dependencies");
    let section = manifest.split("[workspace.dependencies]").nth(1).expect("workspace dependencies");
    let section = section.split("\n[").next().unwrap_or_default();
    let names: Vec<&str> =
        section.lines().filter_map(|l| l.split_once('=')).map(|(name, _)| name.trim()).collect();
    let own: Vec<&str> = section.lines().filter(|line| line.contains("{ path = ")).collect();
    assert!(names.len() > 10, "{names:?}");
    let ours = |name: &&str| own.iter().any(|line| line.split(' ').next() == Some(*name));
    let known: BTreeSet<&str> = table.split(|c: char| !c.is_alphanumeric() && !"_-".contains(c)).collect();
    let faults =
        names.into_iter().filter(|name| !name.starts_with('#') && !ours(name) && !known.contains(name));
    assert_none("dependencies without a line in README.md", faults.map(str::to_owned).collect());
}

#[test]
fn problem_codes_are_unique() {
    let all = collector::problem::Code::ALL;
    let numbers: BTreeSet<u16> = all.iter().map(|(code, _)| code.0).collect();
    assert_eq!(numbers.len(), all.len(), "two codes share a number: {all:?}");
    assert!(numbers.iter().all(|n| (100..700).contains(n)), "a code is in no range: {numbers:?}");
}

#[test]
fn each_crate_says_what_it_is() {
    let mut faults = Vec::new();
    for (path, text) in sources() {
        let parts: Vec<&str> = path.split('/').collect();
        let head = matches!(parts[..], [_, "src", "lib.rs" | "main.rs"] | [_, "src", "bin", _]);
        if head && !text.starts_with("//! ") {
            faults.push(path);
        }
    }
    assert_none("a crate's head without its doc", faults);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_strings_are_no_code() {
        for (line, want) in [
            ("let x = 1; // unsafe", "let x = 1; "),
            ("say(\"unsafe // not\"); y", "say(); y"),
            ("say(\"a \\\" unsafe\")", "say()"),
        ] {
            assert_eq!(code(line), want);
        }
    }
}

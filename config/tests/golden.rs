//! `vmcorectl` against machines made of files: `cases/NN-name/{args, machine, root, expected}`.
//!
//! `args` are the command's arguments; `machine`, if there is one, changes the machine of `machine/mod.rs`; `root` is
//! laid over it; `expected` is what comes out, on both streams, with the exit code. `BLESS=1` writes `expected` anew.

mod machine;

use std::fs;
use std::path::Path;
use std::process::Command;

#[test]
fn cases() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut names: Vec<_> = fs::read_dir(&directory).unwrap().map(|e| e.unwrap().path()).collect();
    names.sort();
    assert!(names.len() >= 20, "the cases are missing");
    let wrong: Vec<String> = names.iter().filter_map(|case| check(case)).collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

fn check(case: &Path) -> Option<String> {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    machine::build(&root);
    for line in fs::read_to_string(case.join("machine")).unwrap_or_default().lines() {
        change(&root, line);
    }
    overlay(&case.join("root"), &root);
    let args = fs::read_to_string(case.join("args")).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_vmcorectl"))
        .arg("--root")
        .arg(&root)
        .args(args.split_whitespace())
        .output()
        .unwrap();
    let text = format!(
        "{}{}exit {}\n",
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
        output.status.code().unwrap()
    )
    .replace(root.to_str().unwrap(), "ROOT");
    let path = case.join("expected");
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    let name = case.file_name().unwrap().to_str().unwrap();
    (expected != text).then(|| format!("== {name}\n-- expected\n{expected}-- got\n{text}"))
}

fn change(root: &Path, line: &str) {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        ["remove", path] if root.join(path).is_dir() => fs::remove_dir_all(root.join(path)).unwrap(),
        ["remove", path] => fs::remove_file(root.join(path)).unwrap(),
        ["ext4", device, byte] => {
            let uuid = u8::from_str_radix(byte, 16).unwrap();
            machine::content(root, device, |d| machine::ext4(d, uuid));
        }
        ["swap", device] => machine::content(root, device, machine::swap),
        ["link", from, to] => std::os::unix::fs::symlink(to, root.join(from)).unwrap(),
        ["lvm", name] => {
            let device = format!("sys/devices/virtual/block/{name}");
            machine::block(root, &device, name, 253, 0);
            machine::put(root, &format!("{device}/dm/uuid"), "LVM-abc\n");
            machine::put(root, &format!("{device}/dm/name"), "vg-lv\n");
            machine::content(root, name, |d| machine::ext4(d, 0xd0));
        }
        ["kernel", release] => {
            let path = root.join("boot").join(format!("vmlinuz-{}", machine::RELEASE));
            fs::write(path, machine::kernel(release)).unwrap();
        }
        _ => panic!("not understood: {line:?}"),
    }
}

/// Copies a tree over another.
fn overlay(from: &Path, to: &Path) {
    let Ok(entries) = fs::read_dir(from) else { return };
    for entry in entries {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            fs::create_dir_all(&target).unwrap();
            overlay(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

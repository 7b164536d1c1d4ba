//! `vmcorectl` against machines made of files: `cases/NN-name/{args, machine, root, expected}`.
//!
//! `args` are the command's arguments; `machine`, if there is one, changes the machine of `machine/mod.rs`; `root` is
//! laid over it; with an `armed`, its plan is loaded, and the lines of that file change the machine afterwards; `expected` is what comes out, on both streams, with the exit code. `BLESS=1` writes `expected` anew.

mod machine;

use initramfs::root::Root;
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
    if let Ok(after) = fs::read_to_string(case.join("armed")) {
        let settings = config::load::load(&Root::new(&root)).unwrap().settings;
        machine::arm(&root, &settings);
        after.lines().for_each(|line| change(&root, line));
    }
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
    let text: String = text.lines().map(|line| masked(line) + "\n").collect();
    let path = case.join("expected");
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    let name = case.file_name().unwrap().to_str().unwrap();
    (expected != text).then(|| format!("== {name}\n-- expected\n{expected}-- got\n{text}"))
}

/// A line without what is another on each machine and each day: hashes, free space, the time.
fn masked(line: &str) -> String {
    let clock = line.split_whitespace().nth(1) == Some("clock");
    if let Some((name, _)) = line.split_once("_timestamp_seconds 1") {
        return format!("{name}_timestamp_seconds N");
    }
    if line.trim_start().starts_with("\"found\": ") {
        return "    \"found\": N,".to_owned();
    }
    let word = |word: &str| {
        let number = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
        if word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            "HASH".to_owned()
        } else if let Some((start, end)) = word.split_once("/image-").filter(|_| word.contains(".img")) {
            format!("{start}/image-HASH{}", end.trim_start_matches(|c: char| c.is_ascii_hexdigit()))
        } else if clock && word.bytes().any(|byte| byte.is_ascii_digit())
            || number && line.contains(&format!(" {word} MiB free"))
        {
            "N".to_owned()
        } else {
            word.to_owned()
        }
    };
    line.split(' ').map(word).collect::<Vec<_>>().join(" ")
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
        // A program for UEFI without a table of signatures.
        ["unsigned-kernel"] => {
            let path = root.join("boot").join(format!("vmlinuz-{}", machine::RELEASE));
            let mut bytes = machine::kernel(machine::RELEASE);
            for (at, field) in [
                (0, &b"MZ"[..]),
                (0x3c, &[0x40, 0, 0, 0]),
                (0x40, b"PE\0\0"),
                (0x58, &[0x0b, 0x02]),
                (0xc4, &[6]),
            ] {
                bytes[at..at + field.len()].copy_from_slice(field);
            }
            fs::write(path, bytes).unwrap();
        }
        ["damage-image"] => {
            let directory = root.join("var/lib/vmcored");
            let mut files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
            let image = files.find(|path| path.extension().is_some_and(|end| end == "img")).unwrap();
            fs::write(&image, "damaged").unwrap();
        }
        ["append", path, text @ ..] => {
            let before = fs::read_to_string(root.join(path)).unwrap();
            machine::put(root, path, &format!("{before}{}\n", text.join(" ")));
        }
        ["put", path, text @ ..] => machine::put(root, path, &format!("{}\n", text.join(" "))),
        // Flags of the first pages of memory: so many of each word.
        ["kpageflags", runs @ ..] => {
            let mut flags = Vec::new();
            for run in runs {
                let (count, word) = run.split_once('x').unwrap();
                let word = u64::from_str_radix(word, 16).unwrap().to_le_bytes();
                flags.extend(word.repeat(count.parse().unwrap()));
            }
            fs::write(root.join("proc/kpageflags"), flags).unwrap();
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

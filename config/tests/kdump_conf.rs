//! The kdump.conf beside this file, its options one by one: what each means. `BLESS=1` writes `kdump.conf.expected` anew.

use config::load;
use config::settings::tree::Leaf;
use initramfs::root::Root;
use std::fs;
use std::path::Path;

/// What comes of a kdump.conf: the settings that it makes and what is said, or what is wrong.
fn outcome(conf: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("etc")).unwrap();
    fs::write(dir.path().join("etc/kdump.conf"), conf).unwrap();
    match load::load(&Root::new(dir.path())) {
        Err(e) => format!("{e}\n"),
        Ok(loaded) => {
            let leaf = |Leaf { table, key, value, span }: &Leaf| {
                let line = loaded.sources.origin(span).line;
                format!("{table}{}{key} = {value}  # line {line}\n", if table.is_empty() { "" } else { "." })
            };
            let settings: String = loaded.leaves.iter().map(leaf).collect();
            settings + &loaded.findings.iter().map(|finding| format!("{finding}\n")).collect::<String>()
        }
    }
}

#[test]
fn each_line_in_turn() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let conf = fs::read_to_string(here.join("kdump.conf")).unwrap();
    let mut text = format!("== as it is\n{}", outcome(&conf));
    for (number, line) in conf.lines().enumerate() {
        let Some(option) =
            line.strip_prefix('#').filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()))
        else {
            continue;
        };
        let name = option.split_whitespace().next().unwrap_or_default();
        let changed: String = conf
            .lines()
            .enumerate()
            // One of its kind alone.
            .filter(|(at, other)| *at == number || other.split_whitespace().next() != Some(name))
            .map(|(at, other)| format!("{}\n", if at == number { option } else { other }))
            .collect();
        text.push_str(&format!("== {option}\n{}", outcome(&changed)));
    }
    let path = here.join("kdump.conf.expected");
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, expected);
}

#[test]
fn no_option_is_passed_over() {
    let conf = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kdump.conf")).unwrap();
    // Those of kdump.conf(5), and of its past.
    for option in [
        "raw",
        "nfs",
        "nfs4",
        "net",
        "ssh",
        "sshkey",
        "ext2",
        "ext3",
        "ext4",
        "xfs",
        "btrfs",
        "minix",
        "virtiofs",
        "path",
        "core_collector",
        "kdump_pre",
        "kdump_post",
        "kdump_emergency",
        "extra_bins",
        "extra_modules",
        "failure_action",
        "default",
        "final_action",
        "auto_reset_crashkernel",
        "force_rebuild",
        "force_no_rebuild",
        "dracut_args",
        "fence_kdump_args",
        "fence_kdump_nodes",
        "link_delay",
        "disk_timeout",
        "debug_mem_level",
        "blacklist",
        "options",
        "override_resettable",
    ] {
        let there =
            conf.lines().any(|line| line.trim_start_matches('#').split_whitespace().next() == Some(option));
        assert!(there, "{option}");
        let said = outcome(&format!("{option}\n"));
        assert!(said.contains("has no value"), "{option}: {said}");
    }
}

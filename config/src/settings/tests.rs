//! Settings that are read, and complaints about those that are not.

use super::*;

fn parsed(text: &str) -> Settings {
    parse(text, Path::new("t.toml")).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn nothing_means_the_defaults() {
    assert_eq!(parsed(""), Settings::default());
    assert_eq!(parsed("[[target]]\n"), Settings::default());
}

#[test]
fn everything_is_read() {
    let s = parsed(
        r#"
host = "db-1"
on_failure = "poweroff"
final_action = "halt"
[[target]]
device = "LABEL=crash"
path = "/dumps"
filesystem = "xfs"
options = "noatime"
[[dump]]
file = "vmcore"
level = 0
format = "elf"
compression = "none"
[[dump]]
file = "vmcore.raw"
format = "raw"
[limits]
device = 5
[kernel]
image = "/boot/k"
append = ["loglevel=7", 'x="a b"']
remove = ["irqpoll"]
[image]
extra_modules = ["dm_mod"]
omit_modules = ["nouveau"]
collector = "/opt/c"
"#,
    );
    assert_eq!(s.host.as_deref(), Some("db-1"));
    assert_eq!((s.on_failure, s.final_action), (Action::Poweroff, Action::Halt));
    let Place::Local(local) = &s.targets[0].place else { panic!("{:?}", s.targets) };
    assert_eq!(local.device, Some(DeviceId::Label("crash".into())));
    assert_eq!(local.filesystem.as_deref(), Some("xfs"));
    assert_eq!((s.dumps[0].level, s.dumps[0].format), (0, Format::Elf));
    assert_eq!((s.dumps[1].level, s.dumps[1].format), (31, Format::Raw));
    assert_eq!((s.limits.device, s.limits.modules), (5, Limits::default().modules));
    assert_eq!(s.kernel.append, ["loglevel=7", "x=\"a b\""]);
    assert_eq!(s.image.collector.as_deref(), Some(Path::new("/opt/c")));
}

#[test]
fn hosts_are_made_safe() {
    let cases = [
        ("web1.example.org", "web1.example.org"),
        ("../../etc", "_.._etc"),
        ("a b/c", "a_b_c"),
        ("\n", "localhost"),
        ("", "localhost"),
        ("übung", "_bung"),
    ];
    for (name, want) in cases {
        assert_eq!(sanitise_host(name), want, "{name:?}");
    }
    assert_eq!(sanitise_host(&"x".repeat(500)).len(), 64);
}

#[test]
fn the_example_is_true_in_all_its_lines() {
    let example = include_str!("../../vmcored.toml.example");
    parsed(example);
    // Every commented-out setting: `#key = …` and `#[table]`, without a space after the hash.
    let all: String = example
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => rest,
            _ => line,
        })
        .flat_map(|line| [line, "\n"])
        .collect();
    let s = parsed(&all);
    assert_eq!(s.dumps.len(), 2, "the example shows two dumps");
    let value: toml::Table = all.parse().unwrap();
    let limits: toml::Table = toml::Table::try_from(Limits::default()).unwrap();
    assert_eq!(value["limits"].as_table(), Some(&limits), "the example shows the default limits");
    // A key that the example does not show is a key that nobody finds.
    let keys = [
        "host",
        "on_failure",
        "nodes",
        "port",
        "interval",
        "count",
        "family",
        "final_action",
        "device",
        "nfs",
        "virtiofs",
        "ssh",
        "key",
        "known_hosts",
        "limits",
        "path",
        "filesystem",
        "options",
        "file",
        "level",
        "format",
        "compression",
        "exclude_vmemmap",
        "erase",
        "append",
        "remove",
        "image",
        "extra_modules",
        "omit_modules",
        "collector",
    ];
    for key in keys {
        assert!(all.lines().any(|l| l.starts_with(&format!("{key} = "))), "the example lacks {key}");
    }
}

#[test]
fn each_kind_of_target_is_read() {
    let s = parsed(
        "[[target]]\nnfs = \"[2001:db8::7]:/srv/x\"\npath = \"/c\"\nlevel = 1\nlimits = { reach = 5 }\n\
         [[target]]\n9p = \"tag\"\n[[target]]\nssh = \"root@h:2222\"\n[[target]]\ndevice = \"LABEL=x\"\n",
    );
    let [nfs, plan9, ssh, local] = s.targets.as_slice() else { panic!("{:?}", s.targets) };
    let Place::Share(share) = &nfs.place else { panic!("{nfs:?}") };
    assert_eq!(
        (share.kind, share.source.as_str(), share.path.as_str()),
        (ShareKind::Nfs, "[2001:db8::7]:/srv/x", "/c")
    );
    assert_eq!((nfs.level, nfs.limits.reach, nfs.limits.stall), (Some(1), Some(5), None));
    assert!(matches!(&plan9.place, Place::Share(share) if share.kind == ShareKind::Plan9));
    assert!(matches!(&ssh.place, Place::Ssh(ssh) if ssh.address.port == Some(2222)));
    assert!(matches!(&local.place, Place::Local(_)));
    for (text, why) in [
        ("[[target]]\nnfs = \"server\"", "is no NFS export"),
        ("[[target]]\nnfs = \"a b:/x\"", "names no share"),
        ("[[target]]\nnfs = \"a:/x\"\nssh = \"a@b\"", "several places"),
        ("[[target]]\n9p = \"a\"\nvirtiofs = \"b\"", "several places"),
        ("[[target]]\nssh = \"server\"", "is no SSH address"),
        ("[[target]]\nkey = \"/k\"", "a setting of ssh targets"),
        ("[[target]]\nlevel = 32", "out of range"),
    ] {
        let said = parse(text, Path::new("t.toml")).unwrap_err().to_string();
        assert!(said.contains(why), "{text}: {said}");
    }
}

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
    assert_eq!((s.on_failure, s.final_action), (FailureAction::Poweroff, Action::Halt));
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
        "shell_limit",
        "rootfs_path",
        "pre",
        "post",
        "emergency",
        "directory",
        "pre_decides",
        "limit",
        "feed",
        "timeout",
        "extra_bins",
        "device",
        "nfs",
        "virtiofs",
        "ssh",
        "raw",
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
    let raw = parsed("[[target]]\nraw = \"PARTUUID=1\"\npath = \"/srv\"\n");
    assert!(matches!(&raw.targets[0].place, Place::Raw(raw) if raw.path == "/srv"));
    for (text, why) in [
        ("[[target]]\nnfs = \"server\"", "is no NFS export"),
        ("[[target]]\nnfs = \"a b:/x\"", "names no share"),
        ("[[target]]\nnfs = \"a:/x\"\nssh = \"a@b\"", "several places"),
        ("[[target]]\n9p = \"a\"\nvirtiofs = \"b\"", "several places"),
        ("[[target]]\nssh = \"server\"", "is no SSH address"),
        ("[[target]]\nraw = \"/dev/a\"\nfilesystem = \"ext4\"", "several places"),
        ("[[target]]\nraw = \"/dev/a\"\ndevice = \"/dev/b\"", "several places"),
        ("[[target]]\nraw = \"a\"", "names no device"),
        ("[[target]]\nkey = \"/k\"", "a setting of ssh targets"),
        ("[[target]]\nlevel = 32", "out of range"),
    ] {
        let said = parse(text, Path::new("t.toml")).unwrap_err().to_string();
        assert!(said.contains(why), "{text}: {said}");
    }
}

#[test]
fn what_is_done_after_a_crash_is_read() {
    let s =
        parsed("triggers = \"lab\"\n[harvest]\nverify = false\nkeep = 3\nkeep_days = 9\nnotify = \"/n\"\n");
    assert_eq!(s.triggers, Some(crate::triggers::Profile::Lab));
    let want = HarvestSettings {
        verify: false,
        keep: Some(3),
        keep_days: Some(9),
        keep_mib: None,
        notify: Some("/n".into()),
    };
    assert_eq!(s.harvest, want);
    for (text, why) in [
        ("[harvest]\nkeep = 0", "0 dumps to keep"),
        ("[harvest]\nnotify = \"n\"", "is not a plain absolute path"),
        ("triggers = \"servers\"", "did you mean `server`"),
    ] {
        let said = parse(text, Path::new("t.toml")).unwrap_err().to_string();
        assert!(said.contains(why), "{text}: {said}");
    }
}

#[test]
fn what_is_done_besides_is_read() {
    let s = parsed(
        "on_failure = \"dump_to_rootfs\"\nfinal_action = \"poweroff\"\nrootfs_path = \"/srv\"\n\
         [[target]]\nnfs = \"a:/x\"\n[hooks]\npre = [\"/a\", \"/b\"]\npre_decides = false\nlimit = 5\n\
         [watchdog]\nfeed = \"none\"\ntimeout = 9\n[image]\nextra_bins = [\"/c\"]\n",
    );
    assert_eq!((s.hooks.pre.len(), s.hooks.pre_decides, s.hooks.limit), (2, false, 5));
    assert_eq!((s.watchdog.feed, s.watchdog.timeout), (aside::Feed::None, 9));
    assert_eq!(s.image.extra_bins, ["/c"]);
    let ladder = s.ladder();
    let Place::Local(last) = &ladder[1].place else { panic!("{ladder:?}") };
    assert_eq!((ladder.len(), last.path.as_str(), &last.device), (2, "/srv", &None));
    assert_eq!(s.on_failure.at_last(s.final_action), Action::Poweroff);
    // What is the last resort already is not tried twice.
    assert_eq!(parsed("on_failure = \"dump_to_rootfs\"").ladder().len(), 1);
    assert_eq!(parsed("on_failure = \"halt\"").ladder().len(), 1);
    for (action, last) in [
        (FailureAction::Reboot, Action::Reboot),
        (FailureAction::Halt, Action::Halt),
        (FailureAction::Shell, Action::Poweroff),
    ] {
        assert_eq!(action.at_last(Action::Poweroff), last);
    }
    for (text, why) in [
        ("on_failure = \"dump\"", "unknown value `dump`"),
        ("[hooks]\npre = [\"a\"]", "is not a plain absolute path"),
        ("[hooks]\nlimit = 0", "a limit of 0 seconds"),
        ("[watchdog]\ntimeout = 2", "a watchdog's timeout of 2 seconds"),
        ("shell_limit = -1", "a limit of -1 seconds"),
    ] {
        let said = parse(text, Path::new("t.toml")).unwrap_err().to_string();
        assert!(said.contains(why), "{text}: {said}");
    }
}

//! Lines, and what they mean as settings.

use super::*;
use crate::diagnostic::Severity;
use crate::settings::{self, Place, Settings};
use std::path::Path;

/// The settings, or all complaints; warnings and remarks besides.
fn read(text: &str) -> (Result<Settings, String>, String) {
    let sources = Sources::of(Path::new("kdump.conf"), text);
    let translation = translate(text, 0, &sources);
    let say = |severity: fn(Severity) -> bool| {
        let said = translation.findings.iter().filter(|f| severity(f.severity)).map(|f| format!("{f}\n"));
        said.collect::<String>()
    };
    let errors = say(|s| s == Severity::Error);
    let result = if errors.is_empty() {
        settings::read(translation.written.tree(), &sources).map_err(|e| e.to_string())
    } else {
        Err(errors)
    };
    (result, say(|s| s != Severity::Error))
}

fn toml(text: &str) -> Settings {
    settings::parse(text, Path::new("t.toml")).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn lines_are_read_as_kdump_reads_them() {
    let text = "# a\n\n  path   /a b \t# why\nxfs \"LABEL=x y\"\nnfs h:/a#b\nraw\r\npath \"\n";
    let all = lines(text, 100);
    let short: Vec<(&str, &str)> =
        all.iter().map(|l| (l.name.text.as_str(), l.value.text.as_str())).collect();
    assert_eq!(short, [("path", "/a b"), ("xfs", "LABEL=x y"), ("nfs", "h:/a"), ("raw", ""), ("path", "\"")]);
    let at = |needle: &str| 100 + text.find(needle).unwrap();
    assert_eq!(all[0].name.span, at("path")..at("path") + 4);
    assert_eq!(all[0].value.span, at("/a b")..at("/a b") + 4);
    assert_eq!(all[1].value.span, at("LABEL")..at("LABEL") + 9);
    assert_eq!(all[2].cut, Some(at("#b")..at("#b") + 2));
    assert_eq!(all[0].value.words()[1].span, at("b \t")..at("b \t") + 1);
}

#[test]
fn directives_are_settings() {
    for (conf, same) in [
        ("", ""),
        ("path /dumps/", "[[target]]\npath = \"/dumps\"\n"),
        (
            "xfs LABEL=crash\npath /",
            "[[target]]\ndevice = \"LABEL=crash\"\nfilesystem = \"xfs\"\npath = \"/\"\n",
        ),
        ("ext4 /dev/vg/crash", "[[target]]\ndevice = \"/dev/vg/crash\"\nfilesystem = \"ext4\"\n"),
        (
            "btrfs UUID=1-2\npath sub",
            "[[target]]\ndevice = \"UUID=1-2\"\nfilesystem = \"btrfs\"\npath = \"/sub\"\n",
        ),
        ("nfs h:/x", "[[target]]\nnfs = \"h:/x\"\n"),
        ("nfs4 [2001:db8::1]:/x", "[[target]]\nnfs = \"[2001:db8::1]:/x\"\n"),
        ("net h:/x", "[[target]]\nnfs = \"h:/x\"\n"),
        ("net root@h", "[[target]]\nssh = \"root@h\"\n"),
        ("ssh root@2001:db8::1\nsshkey /k", "[[target]]\nssh = \"root@[2001:db8::1]\"\nkey = \"/k\"\n"),
        ("raw /dev/sda5", "[[target]]\nraw = \"/dev/sda5\"\n"),
        ("virtiofs tag", "[[target]]\nvirtiofs = \"tag\"\n"),
        (
            "core_collector makedumpfile -l --message-level 7 -d 31",
            "[[dump]]\nfile = \"vmcore\"\nlevel = 31\ncompression = \"lzo\"\n",
        ),
        (
            "core_collector /sbin/makedumpfile -F -z -d 1",
            "[[dump]]\nfile = \"vmcore\"\nlevel = 1\ncompression = \"zstd:1\"\n",
        ),
        (
            "core_collector makedumpfile -E",
            "[[dump]]\nfile = \"vmcore\"\nlevel = 0\nformat = \"elf\"\ncompression = \"none\"\n",
        ),
        (
            "core_collector makedumpfile -c -e --config /r",
            "[[dump]]\nfile = \"vmcore\"\nlevel = 0\ncompression = \"zlib:1\"\nexclude_vmemmap = true\nerase = \"/r\"\n",
        ),
        ("core_collector cp --sparse=always", "[[dump]]\nfile = \"vmcore\"\nformat = \"raw\"\n"),
        (
            "failure_action poweroff\nfinal_action halt",
            "on_failure = \"poweroff\"\nfinal_action = \"halt\"\n",
        ),
        ("default halt", "on_failure = \"halt\"\n"),
        (
            "failure_action shell\nextra_bins /bin/x /bin/y",
            "on_failure = \"shell\"\n[image]\nextra_bins = [\"/bin/x\", \"/bin/y\"]\n",
        ),
        ("failure_action dump_to_rootfs", "on_failure = \"dump_to_rootfs\"\n"),
        ("default mount_root_run_init", "on_failure = \"dump_to_rootfs\"\n"),
        (
            "kdump_pre /a\nkdump_post /b\nkdump_emergency /c",
            "[hooks]\npre = [\"/a\"]\npost = [\"/b\"]\nemergency = [\"/c\"]\n",
        ),
        (
            "extra_modules gfs2 dm_mod\nblacklist nouveau\nblacklist i915",
            "[image]\nextra_modules = [\"gfs2\", \"dm_mod\"]\nomit_modules = [\"nouveau\", \"i915\"]\n",
        ),
        (
            "options e1000 debug=1 x\noptions b y=2",
            "[kernel]\nappend = [\"e1000.debug=1\", \"e1000.x\", \"b.y=2\"]\n",
        ),
        ("disk_timeout 30\nlink_delay 60\ndebug_mem_level 0", "[limits]\ndevice = 30\n"),
        (
            "fence_kdump_nodes a b\nfence_kdump_args -p 7411 -f ipv4 -c 0 -i5 -v",
            "[fence_kdump]\nnodes = [\"a\", \"b\"]\nport = 7411\nfamily = \"ipv4\"\ncount = 0\ninterval = 5\n",
        ),
        (
            "fence_kdump_nodes a\nfence_kdump_args --ipport=7412",
            "[fence_kdump]\nnodes = [\"a\"]\nport = 7412\n",
        ),
        (
            "dracut_args --mount \"h:/x /kdumproot nfs4 defaults,vers=4.1\" --add-drivers \"a b\"",
            "[[target]]\nnfs = \"h:/x\"\noptions = \"vers=4.1\"\n[image]\nextra_modules = [\"a\", \"b\"]\n",
        ),
        (
            "dracut_args --mount \"/dev/sda1 /mnt xfs rw 0 0\" --omit-drivers=c",
            "[[target]]\ndevice = \"/dev/sda1\"\nfilesystem = \"xfs\"\n[image]\nomit_modules = [\"c\"]\n",
        ),
        ("auto_reset_crashkernel yes\nforce_rebuild 1\nforce_no_rebuild 0\noverride_resettable 1", ""),
        ("fence_kdump_args -p 1", ""),
    ] {
        let (read, _) = read(conf);
        assert_eq!(read.unwrap_or_else(|e| panic!("{conf}\n{e}")), toml(same), "{conf}");
    }
}

#[test]
fn mistakes_are_shown_where_they_are() {
    for (conf, place, why) in [
        ("\npth /x", "2:1", "did you mean `path`?"),
        ("Path /x", "1:1", "did you mean `path`?"),
        ("[[target]]", "1:1", "/etc/vmcored.toml"),
        ("frobnicate x", "1:1", "no such option"),
        ("path", "1:1", "has no value"),
        ("path \"\"", "1:1", "has no value"),
        ("path /a\npath /b", "2:1", "after line 1"),
        ("nfs h:/x\nssh a@b", "2:1", "after that of line 1"),
        ("nfs h:/x\ndracut_args --mount \"/dev/a /b xfs\"", "2:1", "after that of line 1"),
        ("dracut_args --mount \"/dev/a\"", "1:13", "is no mount"),
        ("dracut_args --mount \"a", "1:13", "quote"),
        ("nfs h", "1:5", "is no NFS export"),
        ("ssh h", "1:5", "names no user"),
        ("xfs sda1", "1:5", "names no device"),
        ("path x", "1:6", "plain absolute path"),
        ("xfs LABEL=a\npath /a/../b", "2:6", "plain absolute path"),
        ("failure_action rebot", "1:16", "did you mean `reboot`?"),
        ("failure_action halt\ndefault halt", "2:1", "another name"),
        ("final_action shell", "1:14", "expected one of reboot, halt, poweroff"),
        ("force_rebuild yes", "1:15", "expected 0 or 1"),
        ("force_rebuild 1\nforce_no_rebuild 1", "2:1", "both 1"),
        ("disk_timeout 1m", "1:14", "whole number"),
        ("disk_timeout 0", "1:14", "604800"),
        ("options e1000", "1:9", "without options"),
        ("core_collector makedumpfile -d 99", "1:29", "Dump_level(99)"),
        ("core_collector makedumpfile --eppic x", "1:29", "eppic"),
        ("core_collector makedumpfil -c", "1:16", "did you mean `makedumpfile`?"),
        ("core_collector my-tool", "1:16", "makedumpfile, cp, cat and scp"),
        ("fence_kdump_nodes a\nfence_kdump_args -x", "2:18", "no option of fence_kdump_send"),
        ("fence_kdump_nodes a\nfence_kdump_args -p x", "2:21", "whole number"),
        ("fence_kdump_nodes a\nfence_kdump_args -p", "2:18", "has no value"),
        ("fence_kdump_nodes a/b", "1:19", "is no node"),
        ("kdump_pre a", "1:11", "plain absolute path"),
        ("kdump_post /a b", "1:15", "without arguments"),
        ("extra_modules a/b", "1:15", "not a module's name"),
    ] {
        let said = read(conf).0.expect_err(conf);
        assert!(said.contains(&format!("kdump.conf:{place}: ")), "{conf}: {said}");
        assert!(said.contains(why), "{conf}: {said}");
    }
}

#[test]
fn what_changes_meaning_is_told() {
    for (conf, why) in [
        ("nfs h:/a#b", "warning: the value of `nfs` ends here"),
        ("force_no_rebuild 1", "warning: the image is built anew"),
        ("debug_mem_level 3", "warning: memory is not traced"),
        ("dracut_args --add multipath", "warning: dracut does not build the image: `--add multipath`"),
        ("fence_kdump_args -p 1", "warning: `fence_kdump_args` without"),
        ("core_collector makedumpfile -L 1G", "warning: the size"),
        ("core_collector makedumpfile -d 1,31", "remark: of the levels only the first, 1,"),
        ("core_collector makedumpfile -x v", "remark: debugging information"),
        ("sshkey /k", "remark: `sshkey` has no effect"),
        ("default halt", "remark: `default` is the old name"),
        ("override_resettable 0", "remark: `override_resettable` has no effect"),
    ] {
        let (result, said) = read(conf);
        assert!(result.is_ok(), "{conf}: {result:?}");
        assert!(said.contains(why), "{conf}: {said}");
    }
    let (settings, said) = read("# only comments\nfailure_action reboot\nfinal_action reboot\n");
    assert_eq!((settings.unwrap(), said.as_str()), (Settings::default(), ""));
}

#[test]
fn a_local_target_is_local() {
    let Place::Local(local) = read("ext3 LABEL=\"a\"").0.unwrap().targets[0].place.clone() else { panic!() };
    assert_eq!(local.device, Some(::collector::plan::DeviceId::Label("a".into())));
}

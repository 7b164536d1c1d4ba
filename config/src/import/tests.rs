//! What each tool's file becomes.

use super::*;
use crate::settings::Settings;

fn imported(name: &str, text: &str) -> (Settings, Vec<String>) {
    let imported = translate(&[(name.into(), text.to_owned())]);
    let settings = settings::parse(&imported.text, Path::new("imported"));
    let settings = settings.unwrap_or_else(|e| panic!("{text}\n{}\n{e}", imported.text));
    (settings, imported.findings.iter().map(ToString::to_string).collect())
}

fn toml(text: &str) -> Settings {
    settings::parse(text, Path::new("t.toml")).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn files_are_told_apart() {
    for (name, text, want) in [
        ("/etc/kdump.conf", "", Kind::KdumpConf),
        ("x", "path /var/crash\n", Kind::KdumpConf),
        ("/etc/sysconfig/kdump", "KDUMP_IMG=\"vmlinuz\"\n", Kind::Fedora),
        ("/etc/sysconfig/kdump", "", Kind::Fedora),
        ("/etc/sysconfig/kdump", "KDUMP_COMMANDLINE=\nKDUMP_SAVEDIR=/x\n", Kind::Suse),
        ("/etc/default/kdump-tools", "", Kind::Debian),
        ("x", "USE_KDUMP=1\n", Kind::Debian),
    ] {
        assert_eq!(kind(Path::new(name), text), want, "{name} {text}");
    }
}

#[test]
fn other_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (text, taken) in [
        ("root:x:0:0:root:/root:/bin/sh\n", false),
        ("\x7fELF\0\0\0", false),
        ("path /var/crash\nfrobnicate 1\n", true),
        ("# nothing\n", true),
        ("USE_KDUMP=1\n", true),
    ] {
        let path = dir.path().join("file");
        std::fs::write(&path, text).unwrap();
        match import_files(&[path]) {
            Ok(_) => assert!(taken, "{text}"),
            Err(e) => assert!(!taken && e.to_string().contains("none of kdump's files"), "{text}: {e}"),
        }
    }
}

#[test]
fn each_tool_becomes_settings() {
    for (name, text, same, told) in [
        (
            "/etc/sysconfig/kdump",
            "KDUMP_KERNELVER=\"6.1\"\nKDUMP_COMMANDLINE=\"\"\nKEXEC_ARGS=\"-s\"\nKDUMP_IMG=\"vmlinuz\"\nKDUMP_STDLOGLVL=3",
            "[kernel]\nimage = \"/boot/vmlinuz-6.1\"\n",
            "",
        ),
        (
            "/etc/sysconfig/kdump",
            "KDUMP_COMMANDLINE_REMOVE=\"hugepages quiet foo\"\nKDUMP_COMMANDLINE_APPEND=\"nr_cpus=1 reset_devices rd.x=1 bar=2\"",
            "[kernel]\nappend = [\"bar=2\"]\nremove = [\"foo\"]\n",
            "",
        ),
        (
            "/etc/sysconfig/kdump",
            "KDUMP_COMMANDLINE_APPEND=\"nr_cpus=4\"",
            "",
            "warning: nr_cpus=4: vmcored decides",
        ),
        ("/etc/sysconfig/kdump", "KEXEC_ARGS=\"-s --no-checks\"", "", "`--no-checks` of KEXEC_ARGS"),
        ("/etc/sysconfig/kdump", "KDUMP_KERNELVR=6.1", "", "did you mean KDUMP_KERNELVER?"),
        (
            "/etc/sysconfig/kdump",
            "KDUMP_KERNELVER=$(uname -r)\nif true; then\n",
            "",
            "a shell would expand the value of KDUMP_KERNELVER",
        ),
        (
            "/etc/default/kdump-tools",
            "USE_KDUMP=1\nMAKEDUMP_ARGS=\"-c -d 31\"\nKDUMP_COREDIR=\"/dumps\"\nKDUMP_FAIL_CMD=\"poweroff -f\"",
            "on_failure = \"poweroff\"\n[[target]]\npath = \"/dumps\"\n[[dump]]\nfile = \"vmcore\"\nlevel = 31\ncompression = \"zlib:1\"\n",
            "",
        ),
        (
            "/etc/default/kdump-tools",
            "NFS=\"h:/x\"\nNFS_TIMEO=600\nNFS_RETRANS=3\nKDUMP_COREDIR=/var/crash",
            "[[target]]\nnfs = \"h:/x\"\npath = \"/\"\noptions = \"timeo=600,retrans=3\"\n",
            "",
        ),
        (
            "/etc/default/kdump-tools",
            "SSH=\"kdump@h\"\nSSH_KEY=/k\nHOSTTAG=hostname",
            "[[target]]\nssh = \"kdump@h\"\nkey = \"/k\"\n",
            "",
        ),
        ("/etc/default/kdump-tools", "USE_KDUMP=0\n", "", "kdump was switched off"),
        ("/etc/default/kdump-tools", "FTP=\"h\"\nFTP_PASSWORD=secret\n", "", "FTP servers are no targets"),
        (
            "/etc/default/kdump-tools",
            "KDUMP_FAIL_CMD=\"echo x; /bin/bash\"\n",
            "",
            "no command that can be run",
        ),
        (
            "/etc/sysconfig/kdump",
            "KDUMP_SAVEDIR=\"file:///dumps\"\nKDUMP_DUMPLEVEL=\"1\"\nKDUMP_DUMPFORMAT=\"lzo\"",
            "[[target]]\npath = \"/dumps\"\n[[dump]]\nfile = \"vmcore\"\nlevel = 1\ncompression = \"lzo\"\n",
            "",
        ),
        (
            "/etc/sysconfig/kdump",
            "KDUMP_SAVEDIR=\"nfs://h/x/y\"\nKDUMP_DUMPFORMAT=ELF",
            "[[target]]\nnfs = \"h:/x/y\"\npath = \"/\"\n[[dump]]\nfile = \"vmcore\"\nformat = \"elf\"\ncompression = \"none\"\n",
            "",
        ),
        (
            "/etc/sysconfig/kdump",
            "KDUMP_SAVEDIR=\"ssh://u:pw@h:22/d\"\nKDUMP_SSH_IDENTITY=/k",
            "[[target]]\nssh = \"u@h:22\"\npath = \"/d\"\nkey = \"/k\"\n",
            "not with a password",
        ),
        ("/etc/sysconfig/kdump", "KDUMP_SAVEDIR=\"cifs://h/x\"", "", "cifs servers are no targets"),
        (
            "/etc/sysconfig/kdump",
            "KDUMP_SAVEDIR=/x\nKDUMP_KEEP_OLD_DUMPS=5",
            "[[target]]\npath = \"/x\"\n[harvest]\nkeep = 6\n",
            "",
        ),
        (
            "/etc/default/kdump-tools",
            "USE_KDUMP=1\nKDUMP_COREDIR=/x\nKDUMP_NUM_DUMPS=3",
            "[[target]]\npath = \"/x\"\n[harvest]\nkeep = 3\n",
            "",
        ),
        (
            "/etc/sysconfig/kdump",
            "KDUMP_SAVEDIR=/x\nKDUMP_KEEP_OLD_DUMPS=-1\nKDUMP_FREE_DISK_SIZE=2000",
            "[[target]]\npath = \"/x\"\n[harvest]\nkeep = 1\n",
            "KDUMP_FREE_DISK_SIZE has no effect",
        ),
        (
            "/etc/sysconfig/kdump",
            "KDUMP_SAVEDIR=/x\nKDUMP_CPUS=32\nKDUMP_NETCONFIG=\"eth0:static\"",
            "[[target]]\npath = \"/x\"\n",
            "the crash kernel's network",
        ),
    ] {
        let (settings, findings) = imported(name, text);
        assert_eq!(settings, toml(same), "{name}: {text}");
        let grave: Vec<_> = findings.iter().filter(|f| !f.contains("remark: ")).collect();
        assert_eq!(grave.is_empty(), told.is_empty(), "{text}: {grave:?}");
        assert!(told.is_empty() || grave.iter().any(|f| f.contains(told)), "{text}: {grave:?}");
    }
}

#[test]
fn nothing_secret_and_nothing_twice() {
    let text = "KDUMP_SAVEDIR=\"ssh://u:secret@h/d\"\n";
    let imported = translate(&[("/etc/sysconfig/kdump".into(), text.to_owned())]);
    assert!(
        !imported.text.contains("secret") && imported.text.contains("ssh://u:***@h/d"),
        "{}",
        imported.text
    );
    assert_eq!(imported.text.matches("KDUMP_SAVEDIR").count(), 1, "{}", imported.text);
    assert!(imported.changes_meaning());
}

#[test]
fn kdump_conf_and_its_sysconfig_together() {
    let imported = translate(&[
        ("/etc/kdump.conf".into(), "path /var/crash\ncore_collector makedumpfile -l -d 31\n".to_owned()),
        ("/etc/sysconfig/kdump".into(), "KDUMP_COMMANDLINE_APPEND=\"foo\"\n".to_owned()),
    ]);
    assert!(!imported.changes_meaning(), "{:?}", imported.findings);
    let settings = toml(&imported.text);
    assert_eq!(settings.kernel.append, ["foo"]);
    assert!(
        imported.text.contains("# /etc/kdump.conf:2: core_collector makedumpfile -l -d 31\n"),
        "{}",
        imported.text
    );
}

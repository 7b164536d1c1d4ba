//! Images: the same inputs give the same bytes, others' tools read them, and what was packed comes back.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use collector::plan::{
    Action, Compression as PageCompression, DeviceId, DumpSpec, Format, Limits, LocalTarget, PLAN_VERSION,
    Plan, Rung, RungLimits, Target,
};
use initramfs::image::{Compression, Kind, Options, build, entries};
use initramfs::root::Root;
use initramfs::{Error, ModulePlan, ModuleRequest, plan_modules};

use crate::support;

const CODECS: [Compression; 4] = [Compression::None, Compression::Gzip, Compression::Xz, Compression::Zstd];

/// A plan that loads these modules.
pub fn plan(release: &str, modules: &ModulePlan) -> Plan {
    Plan {
        triage: true,
        version: PLAN_VERSION,
        host: "host".into(),
        kernel_release: release.into(),
        modules: modules.for_plan(),
        targets: vec![Rung {
            level: None,
            limits: RungLimits::default(),
            to: Target::Local(LocalTarget {
                device: DeviceId::Label("crash".into()),
                filesystem: "ext4".into(),
                options: String::new(),
                directory: "/var/crash".into(),
                stack: None,
            }),
        }],
        network: None,
        fence: None,
        dumps: vec![DumpSpec::new("vmcore", 31, Format::Kdump, PageCompression::DEFAULT)],
        limits: Limits::default(),
        final_action: Action::Reboot,
        on_failure: Action::Reboot,
        hooks: collector::plan::aside::Hooks::default(),
        shell: None,
        watchdog: None,
    }
}

/// A static program that says "hello", with symbols and debugging information; `None`, aloud, without a C compiler.
pub fn static_program(directory: &Path) -> Option<PathBuf> {
    let source = directory.join("hello.c");
    fs::write(&source, "#include <stdio.h>\nint main(void) { puts(\"hello\"); return 0; }\n").unwrap();
    let program = directory.join("hello");
    let compiled = Command::new("cc")
        .args(["-static", "-g", "-o"])
        .arg(&program)
        .arg(&source)
        .stderr(Stdio::null())
        .status();
    if compiled.is_ok_and(|s| s.success()) {
        return Some(program);
    }
    skip("cc -static does not work here");
    None
}

/// Says that a test, or a part of it, did not run; where everything must be there, that is a failure.
pub fn skip(reason: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "cannot be skipped in CI: {reason}");
    eprintln!("SKIPPED: {reason}");
}

struct Machine {
    directory: tempfile::TempDir,
    modules: ModulePlan,
    plan: Plan,
}

/// The machine of golden case 02, which has everything: modules in all compressions, firmware, options.
fn machine() -> Machine {
    let directory = tempfile::tempdir().unwrap();
    let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/02-nvme-xfs/root");
    support::make_tree(&directory.path().join("root"), &fs::read_to_string(case).unwrap());
    let firmware = support::compressed("disk.bin.xz", b"firmware");
    fs::write(directory.path().join("root/usr/lib/firmware/acme/disk.bin.xz"), firmware).unwrap();
    let root = Root::new(directory.path().join("root"));
    let modules = plan_modules(&ModuleRequest {
        root: &root,
        first: &[],
        release: "6.12.1",
        block_devices: &["nvme0n1p2".to_string()],
        layers: &[],
        filesystems: &["xfs".to_string()],
        network: initramfs::NetworkRequest::default(),
        extra: &[],
        omit: &[],
    })
    .unwrap();
    let plan = plan("6.12.1", &modules);
    Machine { directory, modules, plan }
}

#[test]
fn what_is_packed_comes_back() {
    let machine = machine();
    let Some(program) = static_program(machine.directory.path()) else { return };
    for compression in CODECS {
        let image = build(&machine.plan, &machine.modules, &program, &Options { compression }).unwrap();
        let found = entries(&image.bytes).unwrap();
        let paths: Vec<&str> = found.iter().map(|e| e.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "/dev",
                "/dev/console",
                "/dev/null",
                "/init",
                "/lib",
                "/lib/firmware",
                "/lib/firmware/acme",
                "/lib/firmware/acme/disk.bin",
                "/lib/modules",
                "/lib/modules/00-nvme_core.ko",
                "/lib/modules/01-nvme.ko",
                "/lib/modules/02-crc32c_generic.ko",
                "/lib/modules/03-libcrc32c.ko",
                "/lib/modules/04-xfs.ko",
                "/plan.json",
                "/proc",
                "/run",
                "/sys",
                "/target",
                "/tmp",
            ]
        );
        let get = |path: &str| found.iter().find(|e| e.path == path).unwrap();
        assert_eq!(serde_json::from_slice::<Plan>(&get("/plan.json").data).unwrap(), machine.plan);
        assert_eq!(get("/dev/console").kind, Kind::CharDevice { major: 5, minor: 1 });
        assert_eq!((get("/init").mode, get("/plan.json").mode), (0o755, 0o600));
        assert_eq!(get("/lib/firmware/acme/disk.bin").data, b"firmware");
        // gz, xz and zst alike are unpacked.
        for module in &machine.plan.modules {
            assert!(get(&module.path).data.starts_with(b"\x7fELF"), "{}", module.path);
        }
        assert_eq!(image.id.len(), 64);
        let listed: Vec<&str> = image.entries.iter().map(|e| e.path.as_str()).collect();
        assert_eq!(listed, paths);
    }
}

#[test]
fn the_same_inputs_give_the_same_bytes() {
    // The same machine in two places, made at two times.
    let (one, other) = (machine(), machine());
    let Some(a) = static_program(one.directory.path()) else { return };
    let b = other.directory.path().join("collector");
    fs::copy(&a, &b).unwrap();
    for compression in CODECS {
        let one = build(&one.plan, &one.modules, &a, &Options { compression }).unwrap();
        let other = build(&other.plan, &other.modules, &b, &Options { compression }).unwrap();
        assert!(one.bytes == other.bytes, "{compression:?}");
        assert_eq!(one.id, other.id);
    }
    let options = Options { compression: Compression::Zstd };
    let image = build(&one.plan, &one.modules, &a, &options).unwrap();
    let changed = Plan { host: "elsewhere".into(), ..one.plan.clone() };
    assert_ne!(build(&changed, &one.modules, &a, &options).unwrap().id, image.id);
}

#[test]
fn the_stripped_program_runs() {
    let machine = machine();
    let Some(program) = static_program(machine.directory.path()) else { return };
    let options = Options { compression: Compression::None };
    let image = build(&machine.plan, &machine.modules, &program, &options).unwrap();
    let init = entries(&image.bytes).unwrap().into_iter().find(|e| e.path == "/init").unwrap();
    assert!(u64::try_from(init.data.len()).unwrap() < fs::metadata(&program).unwrap().len());
    let path = machine.directory.path().join("init");
    fs::write(&path, &init.data).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(Command::new(&path).output().unwrap().stdout, b"hello\n");
}

#[test]
fn others_read_it() {
    let machine = machine();
    let Some(program) = static_program(machine.directory.path()) else { return };
    for (compression, tool) in [
        (Compression::None, "cat"),
        (Compression::Gzip, "gzip"),
        (Compression::Xz, "xz"),
        (Compression::Zstd, "zstd"),
    ] {
        let image = build(&machine.plan, &machine.modules, &program, &Options { compression }).unwrap();
        let arguments: &[&str] = if tool == "cat" { &[] } else { &["-dc"] };
        let Some(archive) = pipe(tool, arguments, &image.bytes) else { continue };
        assert_eq!(u64::try_from(archive.len()).unwrap(), image.unpacked);
        let Some(list) = pipe("cpio", &["-itv", "--quiet", "--numeric-uid-gid"], &archive) else { continue };
        let list = String::from_utf8(list).unwrap();
        let lines: Vec<&str> = list.lines().collect();
        assert_eq!(lines.len(), image.entries.len(), "{list}");
        for (line, entry) in lines.iter().zip(&image.entries) {
            let words: Vec<&str> = line.split_whitespace().collect();
            assert_eq!(words.last().copied(), Some(entry.path.trim_start_matches('/')), "{line}");
            assert_eq!(words[2..4], ["0", "0"], "{line}");
            match entry.kind {
                Kind::File => assert_eq!(words[4], entry.size.to_string(), "{line}"),
                Kind::Directory => assert!(line.starts_with("drwxr-xr-x"), "{line}"),
                Kind::CharDevice { .. } => {
                    let mode = if entry.mode == 0o666 { "crw-rw-rw-" } else { "crw-------" };
                    assert!(line.starts_with(mode), "{line}");
                }
                _ => panic!("{line}"),
            }
        }
    }
}

/// Runs a tool with these bytes on its input; `None`, aloud, if it is not installed.
fn pipe(tool: &str, arguments: &[&str], input: &[u8]) -> Option<Vec<u8>> {
    let spawned = Command::new(tool).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let Ok(mut child) = spawned else {
        skip(&format!("{tool} is not installed"));
        return None;
    };
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input).unwrap());
        child.wait_with_output().unwrap()
    });
    assert!(output.status.success(), "{tool} {arguments:?}: {}", output.status);
    Some(output.stdout)
}

#[test]
fn wrong_inputs_are_refused() {
    let machine = machine();
    let options = Options { compression: Compression::None };
    let refused = |program: &Path, plan: &Plan| build(plan, &machine.modules, program, &options).unwrap_err();

    let dynamic = std::env::current_exe().unwrap();
    let message = refused(&dynamic, &machine.plan).to_string();
    assert!(message.contains("dynamically linked") || message.contains("larger"), "{message}");

    let text = machine.directory.path().join("script");
    fs::write(&text, "#!/bin/sh\n").unwrap();
    assert!(matches!(refused(&text, &machine.plan), Error::BadCollector { .. }));
    assert!(matches!(refused(&text.join("none"), &machine.plan), Error::Read { .. }));

    let mut plan = machine.plan.clone();
    plan.modules[0].path = "/lib/modules/elsewhere.ko".into();
    assert!(
        matches!(refused(&text, &plan), Error::PlanMismatch { path } if path == "/lib/modules/elsewhere.ko")
    );
}

#[test]
fn foreign_images_are_read_and_hostile_ones_refused() {
    let machine = machine();
    let Some(program) = static_program(machine.directory.path()) else { return };
    let image =
        |compression| build(&machine.plan, &machine.modules, &program, &Options { compression }).unwrap();
    let (plain, packed) = (image(Compression::None), image(Compression::Zstd));
    // As distributions have it: an archive with microcode, zeros up to a page, the rest compressed.
    let mut both = plain.bytes.clone();
    both.resize(both.len().next_multiple_of(4096), 0);
    both.extend_from_slice(&packed.bytes);
    assert_eq!(entries(&both).unwrap().len(), 2 * plain.entries.len());

    // A gigabyte of zeros in a few kilobytes is not unpacked.
    let bomb = zstd::encode_all(std::io::Read::take(std::io::repeat(0), 1 << 30), 1).unwrap();
    assert!(matches!(entries(&bomb), Err(Error::TooLarge { .. })));

    for (bytes, part) in [
        (&b""[..], "empty"),
        (&[0; 64], "empty"),
        (b"MZ", "neither cpio nor"),
        (b"070701garbage", "cut short"),
        (&packed.bytes[..packed.bytes.len() / 2], "decompress"),
        (&plain.bytes[..plain.bytes.len() / 2], "cut short"),
    ] {
        let message = entries(bytes).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn the_codec_is_what_the_kernel_reads() {
    for (files, expected) in [
        ("/boot/config-6.1 <<\nCONFIG_RD_GZIP=y\nCONFIG_RD_XZ=y\nCONFIG_RD_ZSTD=y\n.\n", Compression::Zstd),
        (
            "/boot/config-6.1 <<\nCONFIG_RD_GZIP=y\nCONFIG_RD_XZ=y\n# CONFIG_RD_ZSTD is not set\n.\n",
            Compression::Xz,
        ),
        ("/lib/modules/6.1/config = CONFIG_RD_GZIP=y\n", Compression::Gzip),
        ("/boot/config-6.1 = # CONFIG_RD_GZIP is not set\n", Compression::None),
        ("/boot/config-6.2 = CONFIG_RD_ZSTD=y\n", Compression::Gzip),
        ("/proc/sys/kernel/osrelease = 6.1\n", Compression::Gzip),
    ] {
        let directory = tempfile::tempdir().unwrap();
        support::make_tree(directory.path(), files);
        let root = Root::new(directory.path());
        assert_eq!(Compression::for_kernel(&root, "6.1").unwrap(), expected, "{files}");
    }
    // The running kernel's own configuration.
    let directory = tempfile::tempdir().unwrap();
    support::make_tree(directory.path(), "/proc/sys/kernel/osrelease = 6.1\n");
    let config = support::compressed("config.gz", b"CONFIG_RD_ZSTD=y\n");
    fs::write(directory.path().join("proc/config.gz"), config).unwrap();
    let root = Root::new(directory.path());
    assert_eq!(Compression::for_kernel(&root, "6.1").unwrap(), Compression::Zstd);
    assert_eq!(Compression::for_kernel(&root, "6.2").unwrap(), Compression::Gzip);
}

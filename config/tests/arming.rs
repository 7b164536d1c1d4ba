//! From settings to an image in memory and back, and what becomes of it when something changes.

mod machine;

use config::arm;
use config::settings::Settings;
use config::status::{self, Readiness};
use initramfs::root::Root;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

#[test]
fn what_is_loaded_goes_stale() {
    let dir = tempfile::tempdir().unwrap();
    machine::build(dir.path());
    let root = Root::new(dir.path());
    let settings = Settings::default();
    let prepared = arm::prepare(&settings, &root).unwrap();
    assert!(prepared.cmdline.text.ends_with(&format!("vmcored.image={}", prepared.image.id)));
    assert_eq!(arm::prepare(&settings, &root).unwrap().image.id, prepared.image.id, "reproducible");
    machine::arm(dir.path(), &settings);

    let report = || status::report(Ok(&settings), &root).unwrap();
    assert_eq!((report().readiness, report().current), (Readiness::Ready, Some(true)), "{}", report());

    type Change = fn(&std::path::Path);
    let changes: [(&str, Change, Change); 4] = [
        (
            "(memory changed)",
            |r| {
                machine::put(
                    r,
                    "proc/iomem",
                    &format!("{}100000000-13fffffff : System RAM\n", machine::IOMEM),
                );
            },
            |r| machine::put(r, "proc/iomem", machine::IOMEM),
        ),
        (
            "(image changed)",
            |r| machine::put(r, "proc/sys/kernel/hostname", "other\n"),
            |r| machine::put(r, "proc/sys/kernel/hostname", "web 1\n"),
        ),
        (
            "(command line changed)",
            |r| machine::put(r, "proc/cpuinfo", "flags\t: fpu\n"),
            |r| machine::put(r, "proc/cpuinfo", "flags\t: fpu hypervisor\n"),
        ),
        (
            "(kernel changed)",
            |r| {
                let mut kernel = machine::kernel(machine::RELEASE);
                kernel.push(0);
                fs::write(r.join("boot/vmlinuz-6.1.0-test"), kernel).unwrap();
            },
            |r| fs::write(r.join("boot/vmlinuz-6.1.0-test"), machine::kernel(machine::RELEASE)).unwrap(),
        ),
    ];
    for (reason, change, back) in changes {
        change(dir.path());
        let stale = report();
        assert_eq!((stale.readiness, stale.current), (Readiness::Degraded, Some(false)));
        assert!(stale.to_string().contains(reason), "{stale}");
        back(dir.path());
        assert_eq!(report().readiness, Readiness::Ready, "{reason}");
    }

    // Settings that lead nowhere now leave what is loaded in place, and say so.
    fs::remove_dir(dir.path().join("var/crash")).unwrap();
    let broken = report();
    assert_eq!((broken.readiness, broken.current), (Readiness::Degraded, None));
    assert!(broken.to_string().contains("target /var/crash does not exist"), "{broken}");
    // The reboot after a crash unloads.
    machine::put(dir.path(), "sys/kernel/kexec_crash_loaded", "0\n");
    assert_eq!(report().readiness, Readiness::NotReady);
}

#[test]
fn an_image_can_be_built_and_looked_into() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    machine::build(&root);
    let run = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_vmcorectl"))
            .arg("--root")
            .arg(&root)
            .args(args)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        (output.status.code().unwrap(), text)
    };
    let image = dir.path().join("x.img");
    let image = image.to_str().unwrap();
    let (code, said) = run(&["image", "build", "-o", image]);
    assert_eq!(code, 0, "{said}");
    let mode = fs::metadata(image).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "an image may hold secrets");
    let (code, listed) = run(&["image", "ls", image]);
    assert_eq!(code, 0, "{listed}");
    assert!(listed.contains("-0755       120 /init\n") && listed.contains(" /plan.json\n"), "{listed}");
    let (code, summary) = run(&["image", "ls", "--summary", image]);
    assert!(code == 0 && summary.starts_with("packed ") && summary.contains(" entries\n"), "{summary}");
    let (code, plan) = run(&["image", "cat", "/plan.json", image]);
    assert_eq!(code, 0);
    let plan: collector::plan::Plan = serde_json::from_str(&plan).unwrap();
    assert_eq!(plan.host, "web_1");
    let shown = run(&["config", "show", "--plan"]);
    assert_eq!(shown, (0, serde_json::to_string_pretty(&plan).unwrap() + "\n"));

    assert_eq!(run(&["image", "cat", "/nothing", image]).0, 2);
    assert_eq!(
        run(&["image", "ls"]),
        (2, "vmcorectl: no image is loaded: name a file, or run `vmcorectl arm`\n".into())
    );

    let (code, explained) = run(&["arm", "--explain"]);
    assert_eq!(code, 0, "{explained}");
    for word in [
        "UUID=a1a1a1a1",
        "  + nr_cpus=1 ",
        "  - quiet ",
        "  = console=ttyS0 ",
        "  . irqpoll ",
        "0x2f000000..0x37000000",
    ] {
        assert!(explained.contains(word), "{word}: {explained}");
    }
    assert_eq!(run(&["arm"]).0, 2, "another root cannot be armed");
    assert_eq!(run(&["disarm"]).0, 2);
}

//! systemd agrees with our units.

use std::path::Path;
use std::process::Command;

#[test]
fn units_verify() {
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd");
    let dir = tempfile::tempdir().unwrap();
    let copies = ["vmcored-arm.service", "vmcored-recover.service"].map(|name| {
        // The program need not be installed for its unit to be right.
        let unit = std::fs::read_to_string(units.join(name)).unwrap();
        let copy = dir.path().join(name);
        std::fs::write(&copy, unit.replace("/usr/bin/vmcorectl", "/bin/true")).unwrap();
        copy
    });
    let verify = Command::new("systemd-analyze").args(["verify", "--man=no"]).args(&copies).output();
    let output = match verify {
        Ok(output) => output,
        Err(e) => {
            assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "systemd-analyze: {e}");
            eprintln!("SKIPPED: systemd-analyze is not installed ({e})");
            return;
        }
    };
    let said = String::from_utf8_lossy(&output.stderr);
    // It also complains about other units of the machine that ours is ordered after.
    let ours: Vec<&str> = said.lines().filter(|l| l.contains("vmcored")).collect();
    assert!(ours.is_empty() && output.status.success(), "{said}");
}

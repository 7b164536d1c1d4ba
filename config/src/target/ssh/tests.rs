//! Servers resolved against machines that are trees of files.

use super::*;
use initramfs::image::Kind;
use std::fs;
use std::os::unix::fs::PermissionsExt;

const HOST_KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGBUIqJLYC3vFqyn4pTqwBWMcWPeQIuyBpPRQ0JBxNyc";

struct Machine(tempfile::TempDir);

impl Machine {
    /// With a client that is a script, and a key of the old kind.
    fn new() -> Self {
        let machine = Self(tempfile::tempdir().unwrap());
        machine.file("/usr/bin/ssh", "#!/bin/sh\n", 0o755);
        machine.file("/bin/sh", "\n", 0o755);
        machine.file("/root/.ssh/kdump_id_rsa", "-----BEGIN RSA PRIVATE KEY-----\n", 0o600);
        machine.file("/root/.ssh/known_hosts", &format!("dumps,10.9.8.7 {HOST_KEY}\n"), 0o644);
        machine
    }

    fn file(&self, path: &str, text: &str, mode: u32) {
        let path = self.0.path().join(&path[1..]);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn remove(&self, path: &str) {
        fs::remove_file(self.0.path().join(&path[1..])).unwrap();
    }

    fn resolve(&self, address: &str) -> Result<SshPlan, String> {
        let settings = SshSettings {
            address: address.parse().unwrap(),
            path: "/var/crash".to_owned(),
            key: None,
            known_hosts: None,
        };
        let root = Root::new(self.0.path());
        let client = settings.client(&root).map_err(|e| e.to_string())?;
        let address = "192.0.2.1".parse().unwrap();
        settings.resolve(1, &client, address, None, &root).map_err(|e| e.to_string())
    }
}

#[test]
fn a_server_becomes_a_plan_and_files() {
    let machine = Machine::new();
    let plan = machine.resolve("kdump@Dumps").unwrap();
    assert_eq!(plan.target.to_string(), "ssh kdump@dumps (192.0.2.1) /var/crash");
    assert_eq!(plan.fingerprints.len(), 1);
    assert!(plan.fingerprints[0].starts_with("ED25519 SHA256:"), "{:?}", plan.fingerprints);
    assert_eq!(plan.warnings, [""; 0]);
    let files: Vec<_> = plan.packed.files().map(|(path, f)| format!("{path} {:o}", f.mode)).collect();
    assert_eq!(
        files,
        [
            "/bin/sh 755",
            "/etc/passwd 644",
            "/etc/vmcored/ssh/1/key 600",
            "/etc/vmcored/ssh/1/known_hosts 600",
            "/usr/bin/ssh 755"
        ]
    );
    let known = plan.packed.files().find(|(path, _)| *path == plan.target.known_hosts).unwrap().1;
    assert_eq!((known.kind, known.data.as_slice()), (Kind::File, format!("dumps {HOST_KEY}\n").as_bytes()));
    let text = serde_json::to_string(&plan.target).unwrap();
    assert!(!text.contains("PRIVATE"), "no secret in the plan");
}

#[test]
fn a_host_key_may_be_known_by_the_address() {
    let machine = Machine::new();
    machine.file("/root/.ssh/known_hosts", &format!("192.0.2.1 {HOST_KEY}\n"), 0o644);
    let plan = machine.resolve("root@dumps").unwrap();
    let known = plan.packed.files().find(|(path, _)| *path == plan.target.known_hosts).unwrap().1;
    assert_eq!(known.data, format!("dumps {HOST_KEY}\n").as_bytes(), "under the name all the same");
}

#[test]
fn what_is_refused_comes_with_its_remedy() {
    let machine = Machine::new();
    machine.file("/root/.ssh/kdump_id_rsa", "-----BEGIN RSA PRIVATE KEY-----\n", 0o644);
    let warnings = machine.resolve("root@dumps").unwrap().warnings;
    assert!(warnings[0].contains("chmod 600 /root/.ssh/kdump_id_rsa"), "{warnings:?}");
    assert_eq!(
        machine.resolve("root@other").unwrap_err(),
        "the host key of root@other is not known: /root/.ssh/known_hosts has no entry for it; \
         run `vmcorectl target propagate root@other`"
    );
    let revoked = format!("dumps {HOST_KEY}\n@revoked * {HOST_KEY}\n");
    machine.file("/root/.ssh/known_hosts", &revoked, 0o644);
    assert!(machine.resolve("root@dumps").unwrap_err().contains("all marked @revoked"));
    machine.remove("/root/.ssh/known_hosts");
    let error = machine.resolve("root@dumps").unwrap_err();
    assert!(error.contains("/etc/ssh/ssh_known_hosts have no entry"), "{error}");
    machine.file("/root/.ssh/kdump_id_rsa", "ssh-rsa AAAA\n", 0o600);
    let error = machine.resolve("root@dumps").unwrap_err();
    assert!(error.contains("it is a public key"), "{error}");
    machine.remove("/root/.ssh/kdump_id_rsa");
    assert_eq!(
        machine.resolve("root@dumps").unwrap_err(),
        "no key for root@dumps: /root/.ssh/kdump_id_rsa and /root/.ssh/kdump_id_ed25519 are not there; \
         run `vmcorectl target propagate root@dumps`"
    );
    machine.file("/root/.ssh/kdump_id_ed25519", "-----BEGIN RSA PRIVATE KEY-----\n", 0o600);
    machine.file("/root/.ssh/known_hosts", &format!("dumps {HOST_KEY}\n"), 0o644);
    machine.resolve("root@dumps").unwrap();
    machine.remove("/usr/bin/ssh");
    assert!(machine.resolve("root@dumps").unwrap_err().contains("no ssh client"));
}

use super::*;
use collector::plan::{DeviceId, LocalTarget, Rung, RungLimits, Target};
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

/// A machine of which the second boot runs; the first, armed, dumped to /var/crash.
struct Machine {
    dir: tempfile::TempDir,
    journal: UnixDatagram,
}

const BLOCK: &str = "sys/class/block/vda1";

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("proc/sys/kernel/random/boot_id", "two\n");
        put("proc/self/mountinfo", "28 1 254:1 / / rw - ext4 /dev/vda1 rw\n");
        put(&format!("{BLOCK}/dev"), "254:1\n");
        put("dev/vda1", "");
        fs::create_dir_all(dir.path().join("var/crash")).unwrap();
        fs::create_dir_all(dir.path().join("run/systemd/journal")).unwrap();
        let journal = UnixDatagram::bind(dir.path().join("run/systemd/journal/socket")).unwrap();
        journal.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        Self { dir, journal }
    }

    fn root(&self) -> Root {
        Root::new(self.dir.path())
    }

    fn boot(&self, id: &str, clean: bool, test: bool) {
        let local = LocalTarget {
            device: DeviceId::Path("/dev/vda1".into()),
            filesystem: "ext4".into(),
            options: String::new(),
            directory: "/var/crash".into(),
            stack: None,
        };
        let mut boots = Boots::read(&self.root()).unwrap();
        boots.boots.push(Boot {
            id: id.into(),
            armed: 1_795_350_000,
            image: "abc".into(),
            release: "6.1.0".into(),
            host: "h".into(),
            targets: vec![Rung { to: Target::Local(local), level: None, limits: RungLimits::default() }],
            clean,
            test: test.then(|| boots::Test { id: "test-1".into(), time: 5 }),
        });
        boots.write(&self.root()).unwrap();
    }

    fn dump(&self, name: &str, outcome: Option<&str>, files: &[&str]) -> std::path::PathBuf {
        let directory = self.dir.path().join("var/crash").join(name);
        fs::create_dir_all(&directory).unwrap();
        for file in files {
            fs::write(directory.join(file), "no dump at all").unwrap();
        }
        if let Some(outcome) = outcome {
            let text = format!(
                r#"{{"version":1,"writer":"t","outcome":"{outcome}","host":"h","image":"abc","kernel":{{"release":"6.1.0",
                "version":"","machine":"x86_64","nodename":"h","crash_time":1795351390,"panic_message":"sysrq: Trigger a crash"}},
                "dumps":[],"stages":[{{"stage":"finish","started_ms":8000,"took_ms":500,"failure":null}}],
                "problems":[{{"code":501,"message":"full","times":1}}],"engine_peak_kib":null,"mem_total_kib":null,
                "mem_available_min_kib":null}}"#
            );
            fs::write(directory.join("manifest.json"), text).unwrap();
        }
        directory
    }

    fn told(&self) -> Vec<String> {
        let mut all = Vec::new();
        let mut bytes = [0; 8192];
        while let Ok(length) = self.journal.recv(&mut bytes) {
            all.push(String::from_utf8_lossy(&bytes[..length]).into_owned());
        }
        all
    }

    fn harvest(&self) -> Harvest {
        harvest(Some(&Settings::default()), &self.root(), false).unwrap()
    }
}

fn field<'a>(record: &'a str, name: &str) -> &'a str {
    let line = record.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    line.unwrap_or_else(|| panic!("no {name} in {record}"))
}

#[test]
fn a_crash_is_told_once() {
    let machine = Machine::new();
    machine.boot("one", false, true);
    let name = "h-20261122T124310Z";
    let log = machine.dump(name, Some("partial"), &["vmcore-incomplete"]).join("vmcore-dmesg.txt");
    fs::write(&log, "[ 1.0] CPU: 1 PID: 9 Comm: sh\n").unwrap();
    let report = r#"{"schema":1,"verdict":{"kind":"software-bug","line":"bug in f [m]","evidence":[],"function":"f","module":"m",
        "signature":"0123456789abcdef"}}"#;
    fs::write(log.with_file_name(verdict::TRIAGE), report).unwrap();
    let done = machine.harvest();
    let told = machine.told();
    assert_eq!((done.new.len(), told.len()), (1, 1), "{done:?}");
    let record = &told[0];
    for (name, want) in [
        ("MESSAGE_ID", journal::MESSAGE_ID),
        ("DUMP_STATUS", "partial"),
        ("DUMP_INTEGRITY", "damaged"),
        ("DUMP_TYPE", "primary"),
        ("DUMP_DEVICE", "/dev/vda1 /var/crash"),
        ("DUMP_SIZE", "14"),
        ("ERROR_CODE", "VC501"),
        ("CRASH_TIME", "2026-11-22 12:43:10 UTC"),
        ("FILE_NAME", "/var/crash/h-20261122T124310Z/vmcore-incomplete"),
        ("PROCESSOR_ID", "1"),
        ("DUMP_SEQUENCE", "1"),
        ("CRASH_BOOT_ID", "one"),
        ("CRASH_TEST", "test-1"),
        ("CRASH_KIND", "software-bug"),
        ("CRASH_VERDICT", "bug in f [m]"),
        ("CRASH_FUNCTION", "f"),
        ("CRASH_MODULE", "m"),
        ("CRASH_SIGNATURE", "0123456789abcdef"),
        ("PRIORITY", "2"),
    ] {
        assert_eq!(field(record, name), want);
    }
    let proof = proof::Proof::read(&machine.root()).unwrap().unwrap();
    assert_eq!((proof.id.as_str(), proof.passed, proof.seconds), ("test-1", false, Some(9)));
    let label = fs::read_to_string(machine.dir.path().join("var/crash").join(name).join(LABEL)).unwrap();
    assert!(label.contains("\"integrity\": \"damaged\""), "{label}");
    let again = machine.harvest();
    assert!(again.new.is_empty() && again.faults.is_empty() && machine.told().is_empty(), "{again:?}");
}

#[test]
fn the_manifest_has_the_verdict() {
    let machine = Machine::new();
    machine.boot("one", false, false);
    let directory = machine.dump("h-20261122T124310Z", Some("complete"), &["vmcore"]);
    let path = directory.join("manifest.json");
    let triage = r#""triage":{"kind":"hung","verdict":"d waits for e","signature":"fedcba9876543210","asked_ms":1,"took_ms":1,
        "read_kib":1,"unknown":0},"problems""#;
    fs::write(&path, fs::read_to_string(&path).unwrap().replace("\"problems\"", triage)).unwrap();
    let done = machine.harvest();
    let verdict = done.new[0].verdict.as_ref().unwrap();
    assert_eq!((verdict.kind.as_str(), verdict.signature.as_deref()), ("hung", Some("fedcba9876543210")));
    assert!(field(&machine.told()[0], "MESSAGE").contains("d waits for e"));
}

#[test]
fn two_directories_are_one_crash() {
    let machine = Machine::new();
    machine.boot("one", false, false);
    machine.dump("h-20261122T124310Z", Some("dmesg-only"), &["vmcore-dmesg.txt"]);
    machine.dump("h-20261122T124310Z-2", Some("complete"), &["vmcore", "vmcore-dmesg.txt"]);
    let done = machine.harvest();
    assert_eq!(done.new.len(), 1);
    let record = &done.new[0];
    assert_eq!((record.status, record.directories.len()), (Status::Complete, 2));
    assert!(record.file.as_ref().unwrap().ends_with("h-20261122T124310Z-2/vmcore"));
}

#[test]
fn a_crash_without_a_dump() {
    let machine = Machine::new();
    machine.boot("one", false, false);
    let done = machine.harvest();
    assert_eq!(done.new.iter().map(|r| r.status).collect::<Vec<_>>(), [Status::Missing]);
    assert_eq!(field(&machine.told()[0], "ERROR_CODE"), "missing");
    machine.boot("shut down", true, false);
    assert!(machine.harvest().new.is_empty());
    // With what firmware has kept it is known why.
    machine.boot("three", false, false);
    let store = machine.dir.path().join("sys/fs/pstore");
    fs::create_dir_all(&store).unwrap();
    fs::write(store.join("dmesg-erst-1"), "Kernel panic - not syncing: hung\n").unwrap();
    let done = machine.harvest();
    assert_eq!(done.new[0].reason.as_deref(), Some("Kernel panic - not syncing: hung"));
    assert_eq!((done.new[0].sequence, done.new[0].pstore.len()), (2, 1));
}

#[test]
fn what_never_finished_is_labelled() {
    let machine = Machine::new();
    machine.boot("one", false, false);
    let directory = machine.dump("h-20261122T124310Z", None, &["vmcore-incomplete", "vmcore-dmesg.txt"]);
    let done = machine.harvest();
    let record = &done.new[0];
    assert_eq!((record.status, record.error_code.as_str()), (Status::Partial, "unfinished"));
    assert!(record.faults.iter().any(|fault| fault.contains("did not come to its end")), "{record:?}");
    assert!(directory.join(LABEL).exists());
}

#[test]
fn a_dump_that_went_to_a_server() {
    let machine = Machine::new();
    machine.boot("one", false, false);
    let mut boots = Boots::read(&machine.root()).unwrap();
    let ssh = serde_json::json!({"host_key_alias": "h", "address": "192.0.2.1", "port": 22, "user": "u", "directory": "/d",
        "program": "/usr/bin/ssh", "identity": "/k", "known_hosts": "/h", "scope": null, "options": []});
    let server = serde_json::from_value(ssh).map(Target::Ssh).unwrap();
    let name = server.to_string();
    let server = Rung { to: server, level: None, limits: RungLimits::default() };
    boots.boots[0].targets.insert(0, server.clone());
    boots.write(&machine.root()).unwrap();
    // The local disk has its log, as every local disk does.
    let directory = machine.dump("h-20261122T124310Z", Some("dmesg-only"), &["vmcore-dmesg.txt"]);
    let record = &machine.harvest().new[0];
    assert_eq!((record.status, record.device.as_str()), (Status::Elsewhere, name.as_str()));
    assert!(record.file.as_ref().unwrap().ends_with("vmcore-dmesg.txt"), "{record:?}");
    assert!(record.sentence().contains("; its log is in /var/crash/h-2026"), "{}", record.sentence());
    // A manifest that tells of the server's failure leaves nothing open.
    let path = directory.join("manifest.json");
    let tried = format!(
        r#""targets":[{{"target":"{name}","outcome":"nothing","directory":null,"failure":"refused"}}],"stages""#
    );
    let text = fs::read_to_string(&path).unwrap().replace("\"stages\"", &tried);
    let other = machine.dump("h-20261122T124410Z", Some("dmesg-only"), &["vmcore-dmesg.txt"]);
    fs::write(other.join("manifest.json"), text.replace("1795351390", "1795351450")).unwrap();
    machine.boot("three", false, false);
    let mut boots = Boots::read(&machine.root()).unwrap();
    boots.boots[0].targets.insert(0, server);
    boots.write(&machine.root()).unwrap();
    assert_eq!(machine.harvest().new[0].status, Status::DmesgOnly);
}

#[test]
fn old_dumps_of_others_are_no_crashes_of_ours() {
    let machine = Machine::new();
    machine.dump("127.0.0.1-2026-11-20-00:00:00", None, &["vmcore"]);
    assert!(machine.harvest().new.is_empty());
    machine.boot("one", false, false);
    machine.dump("127.0.0.1-2026-11-21-00:00:00", None, &["vmcore"]);
    let done = machine.harvest();
    assert_eq!(done.new.len(), 1, "{done:?}");
    assert!(done.new[0].key.contains("11-21"));
}

#[test]
fn killed_before_it_was_told() {
    let machine = Machine::new();
    machine.boot("one", false, false);
    machine.dump("h-20261122T124310Z", Some("complete"), &["vmcore"]);
    machine.harvest();
    machine.told();
    let mut crashes = Crashes::read(&machine.root()).unwrap();
    crashes.crashes[0].told = false;
    crashes.write(&machine.root()).unwrap();
    let done = machine.harvest();
    assert_eq!((done.new[0].sequence, machine.told().len()), (1, 1));
    assert_eq!(Crashes::read(&machine.root()).unwrap().last, 1);
}

#[test]
fn no_journal_is_no_reason_to_stop() {
    let machine = Machine::new();
    fs::remove_file(machine.dir.path().join("run/systemd/journal/socket")).unwrap();
    machine.boot("one", false, false);
    let done = machine.harvest();
    assert_eq!(done.new.len(), 1);
    assert!(done.faults.iter().any(|fault| fault.contains("journal")), "{done:?}");
    assert!(Path::new(&machine.dir.path().join("var/lib/vmcored/crashes.json")).exists());
}

use super::*;
use collector::plan::storage::{Place, Segment, To};
use std::fs;
use std::os::unix::fs::symlink;

/// A machine made of files: disks of a few sectors, and what lies on them.
struct Machine {
    dir: tempfile::TempDir,
    tables: Vec<(u32, Line)>,
    keys: Vec<&'static str>,
}

impl Tables for Machine {
    fn table(&mut self, _: u32, minor: u32) -> io::Result<Vec<Line>> {
        Ok(self.tables.iter().filter(|(m, _)| *m == minor).map(|(_, line)| line.clone()).collect())
    }

    fn has_key(&mut self, description: &str) -> io::Result<bool> {
        Ok(self.keys.contains(&description))
    }
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for path in ["sys/class/block", "sys/dev/block", "dev"] {
            fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        Self { dir, tables: Vec::new(), keys: Vec::new() }
    }

    fn root(&self) -> Root {
        Root::new(self.dir.path())
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A device below /sys/devices, with a node of these contents.
    fn device(&self, name: &str, number: &str, below: &str, contents: &[u8]) {
        let here = format!("sys/devices/{below}{name}");
        self.put(&format!("{here}/dev"), number);
        self.put(&format!("{here}/size"), "2048");
        fs::create_dir_all(self.dir.path().join(&here).join("holders")).unwrap();
        let up = format!("../../devices/{below}{name}");
        symlink(&up, self.dir.path().join("sys/class/block").join(name)).unwrap();
        symlink(&up, self.dir.path().join("sys/dev/block").join(number)).unwrap();
        let mut bytes = contents.to_vec();
        bytes.resize(16 << 10, 0);
        fs::write(self.dir.path().join("dev").join(name), bytes).unwrap();
    }

    fn mapped(&mut self, name: &str, minor: u32, called: &str, lines: &[(&str, &str)]) {
        self.device(name, &format!("253:{minor}"), "virtual/block/", &[]);
        self.put(&format!("sys/devices/virtual/block/{name}/dm/name"), called);
        self.put(&format!("sys/devices/virtual/block/{name}/dm/uuid"), "LVM-x");
        for (kind, parameters) in lines {
            let line = Line {
                start: 0,
                sectors: 64,
                kind: (*kind).to_owned(),
                parameters: (*parameters).to_owned(),
            };
            self.tables.push((minor, line));
        }
    }

    fn of(&mut self, name: &str) -> Result<Option<Storage>, StorageError> {
        let root = self.root();
        of_device(name, &root, self)
    }
}

/// An LVM label with the UUID that has this letter 32 times.
fn pv(letter: u8) -> Vec<u8> {
    let mut bytes = vec![0; 1024];
    bytes[512..520].copy_from_slice(b"LABELONE");
    bytes[536..544].copy_from_slice(b"LVM2 001");
    bytes[544..576].fill(letter);
    bytes
}

/// md metadata 1.2 of an array, and the member's own UUID.
fn member(own: u8) -> Vec<u8> {
    let mut bytes = vec![0; 8192];
    let mut put = |at: usize, data: &[u8]| bytes[4096 + at..4096 + at + data.len()].copy_from_slice(data);
    put(0, &0xa92b_4efc_u32.to_le_bytes());
    put(4, &1_u32.to_le_bytes());
    put(16, &[0xaa; 16]);
    put(144, &8_u64.to_le_bytes());
    put(168, &[own; 16]);
    bytes
}

#[test]
fn a_disk_is_no_stack() {
    let mut machine = Machine::new();
    machine.device("vda", "254:0", "pci0/block/", &[]);
    assert_eq!(machine.of("vda").unwrap(), None);
    assert!(matches!(machine.of("vdb"), Err(StorageError::Sysfs(_))));
}

#[test]
fn lvm_over_two_disks() {
    let mut machine = Machine::new();
    machine.device("vda", "254:0", "pci0/block/", &pv(b'a'));
    machine.device("vdb", "254:16", "pci1/block/", &pv(b'b'));
    machine.put("sys/devices/pci1/block/vdb/serial", "S1\n");
    machine.mapped("dm-0", 0, "vg-lv", &[("linear", "254:16 2048"), ("linear", "254:0 8")]);
    let found = machine.of("dm-0").unwrap().unwrap();
    let (disks, modules) = (found.disks.join(" "), found.modules.join(" "));
    assert_eq!((disks.as_str(), modules.as_str()), ("vdb vda", "dm_mod"));
    let id = |at: usize| match &found.stack.0[at] {
        Part::Disk(disk) => disk.id.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(id(0), "SERIAL=S1");
    assert_eq!(id(1), "UUID=aaaaaa-aaaa-aaaa-aaaa-aaaa-aaaa-aaaaaa");
    let linear = |part, start| Segment { sectors: 64, to: To::Linear(Place { part, start }) };
    let Part::Mapped(mapped) = &found.stack.0[2] else { panic!("{:?}", found.stack) };
    assert_eq!((mapped.name.as_str(), mapped.uuid.as_str()), ("vg-lv", "LVM-x"));
    assert_eq!(mapped.table, [linear(0, 2048), linear(1, 8)]);
    assert!(found.stack.is_sound() && found.warnings.is_empty(), "{found:?}");
    let drawn = explain::Drawn { stack: &found.stack, head: "| " }.to_string();
    assert_eq!(
        drawn,
        "| vg-lv (linear), 0 MiB + 0 MiB\n|   SERIAL=S1\n|   UUID=aaaaaa-aaaa-aaaa-aaaa-aaaa-aaaa-aaaaaa\n"
    );
}

#[test]
fn lvm_on_an_encrypted_disk() {
    let mut machine = Machine::new();
    machine.device("vda", "254:0", "pci0/block/", &pv(b'a'));
    machine.put("sys/devices/pci0/block/vda/serial", "S1\n");
    let table = "aes-xts-plain64 :64:logon:cryptsetup:x-d0 0 254:0 32768 1 allow_discards";
    machine.mapped("dm-0", 0, "luks", &[("crypt", table)]);
    machine
        .put("sys/devices/virtual/block/dm-0/dm/uuid", "CRYPT-LUKS2-5eed00007e574d15800000000000d100-luks");
    machine.mapped("dm-1", 1, "vg-lv", &[("linear", "253:0 2048")]);
    machine.put("proc/crypto", "name : xts(aes)\nmodule : aesni_intel\n");
    assert!(machine.of("dm-1").unwrap_err().to_string().contains("since Linux 6.16"));
    machine.put("sys/kernel/config/crash_dm_crypt_keys/count", "0\n");
    assert!(machine.of("dm-1").unwrap_err().to_string().contains("link-volume-key="));
    machine.keys.push("kdump-cryptsetup:vk-5eed0000-7e57-4d15-8000-00000000d100");
    let found = machine.of("dm-1").unwrap().unwrap();
    assert_eq!(found.modules, ["aesni_intel", "dm_crypt", "dm_mod"]);
    assert_eq!(found.keys, machine.keys);
    let Part::Mapped(mapped) = &found.stack.0[1] else { panic!("{:?}", found.stack) };
    let [Segment { to: To::Crypt { cipher, key, place, .. }, .. }] = mapped.table.as_slice() else {
        panic!("{mapped:?}")
    };
    assert_eq!((cipher.as_str(), *place), ("aes-xts-plain64", Place { part: 0, start: 32768 }));
    assert_eq!(key, ":64:user:kdump-cryptsetup:vk-5eed0000-7e57-4d15-8000-00000000d100");
    // What goes into the image is read back as it is.
    let plan = serde_json::to_string(&found.stack).unwrap();
    assert_eq!(serde_json::from_str::<Stack>(&plan).unwrap(), found.stack);
}

#[test]
fn lvm_on_an_array() {
    let mut machine = Machine::new();
    for (name, number, own) in [("sda", "8:0", 1), ("sdb", "8:16", 2)] {
        machine.device(name, number, "pci0/block/", &member(own));
    }
    machine.device("md0", "9:0", "virtual/block/", &[]);
    for (path, text) in [
        ("level", "raid1"),
        ("metadata_version", "1.2"),
        ("dev-sda/state", "in_sync"),
        ("dev-sdb/state", "in_sync,write_mostly"),
        ("dev-sdc/state", "faulty"),
    ] {
        machine.put(&format!("sys/devices/virtual/block/md0/md/{path}"), text);
    }
    for name in ["sda", "sdb", "sdc"] {
        let link = format!("sys/devices/virtual/block/md0/md/dev-{name}/block");
        symlink(format!("../../../../../pci0/block/{name}"), machine.dir.path().join(link)).unwrap();
    }
    machine.mapped("dm-0", 0, "vg-lv", &[("linear", "9:0 2048")]);
    let found = machine.of("dm-0").unwrap().unwrap();
    assert_eq!(found.modules, ["dm_mod", "md_mod", "raid1"]);
    assert_eq!(found.stack.0.len(), 4, "{found:?}");
    let Part::Array(array) = &found.stack.0[2] else { panic!("{:?}", found.stack) };
    assert_eq!((array.uuid.as_str(), array.metadata), ("aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa", (1, 2)));
    assert_eq!(array.members, [0, 1]);
    let Part::Disk(disk) = &found.stack.0[1] else { panic!("{:?}", found.stack) };
    assert_eq!(disk.id.to_string(), "UUID_SUB=02020202-0202-0202-0202-020202020202");

    machine.put("sys/devices/virtual/block/md0/md/metadata_version", "external:imsm");
    assert!(machine.of("md0").unwrap_err().to_string().contains("needs mdadm"));
}

#[test]
fn ways_to_one_disk() {
    let mut machine = Machine::new();
    for (name, number) in [("sda", "8:0"), ("sdb", "8:16")] {
        machine.device(name, number, "pci0/block/", &pv(b'a'));
        machine.put(&format!("sys/devices/pci0/block/{name}/device/wwid"), "naa.5000\n");
    }
    machine.mapped("dm-0", 0, "mpatha", &[("multipath", "0 1 alua 1 1 service-time 0 2 2 8:0 1 1 8:16 1 1")]);
    for way in ["sda", "sdb"] {
        machine.put(&format!("sys/devices/virtual/block/dm-0/slaves/{way}/x"), "");
    }
    let found = machine.of("dm-0").unwrap().unwrap();
    assert_eq!(found.modules, ["dm_mod", "dm_multipath", "dm_service_time", "scsi_dh_alua"]);
    let [Part::Multipath(paths)] = found.stack.0.as_slice() else { panic!("{:?}", found.stack) };
    assert_eq!((paths.id.to_string().as_str(), paths.paths), ("WWID=naa.5000", 2));
    assert_eq!(found.disks, ["sda", "sdb"]);
}

//! Against blkid and sfdisk, on images made by the real tools.

use super::*;
use proptest::prelude::*;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

/// Whether a tool is there; where it is mandatory its absence is a failure.
fn have(tool: &str) -> bool {
    let path = "/usr/sbin:/sbin:/usr/bin:/bin";
    let found = path.split(':').any(|dir| Path::new(dir).join(tool).exists());
    assert!(found || std::env::var_os("CI").is_none_or(|v| v != "true"), "{tool} is missing");
    if !found {
        eprintln!("skipped: {tool} is missing");
    }
    found
}

fn run(command: &str, arguments: &[&str], image: &Path) -> String {
    let path = "/usr/sbin:/sbin:/usr/bin:/bin";
    let out = Command::new(command).env("PATH", path).args(arguments).arg(image).output().unwrap();
    assert!(
        out.status.success() || command == "blkid",
        "{command}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8_lossy(&out.stdout).trim_end_matches('\n').to_owned()
}

fn image(dir: &Path, mib: u64) -> PathBuf {
    let path = dir.join("image");
    File::create(&path).unwrap().set_len(mib << 20).unwrap();
    path
}

fn blkid(image: &Path) -> Identity {
    let value = |key| Some(run("blkid", &["-p", "-o", "value", "-s", key], image)).filter(|v| !v.is_empty());
    Identity {
        filesystem: value("TYPE"),
        uuid: value("UUID"),
        label: value("LABEL"),
        member: value("UUID_SUB"),
    }
}

#[test]
fn as_blkid_says() {
    if !have("blkid") {
        return;
    }
    let cases: &[(&str, &[&str], u64)] = &[
        ("mkfs.ext4", &["-q", "-L", "crash dumps"], 16),
        ("mkfs.ext4", &["-q", "-L", "sixteen-letters-"], 16),
        ("mkfs.ext4", &["-q", "-O", "^has_journal"], 16),
        ("mkfs.ext4", &["-q", "-b", "1024", "-O", "64bit,metadata_csum"], 16),
        ("mkfs.ext3", &["-q", "-L", "old"], 16),
        ("mkfs.ext2", &["-q"], 16),
        ("mke2fs", &["-q", "-O", "journal_dev"], 16),
        ("mkfs.xfs", &["-q", "-L", "twelve-chars"], 300),
        ("mkfs.xfs", &["-q"], 300),
        ("mkfs.btrfs", &["-q", "-L", "butter"], 128),
        ("mkfs.vfat", &["-F", "12", "-n", "TWELVE"], 2),
        ("mkfs.vfat", &["-F", "16", "-n", "TWO WORDS"], 32),
        ("mkfs.vfat", &["-F", "16"], 32),
        ("mkfs.vfat", &["-F", "32", "-n", "THIRTYTWO"], 64),
        ("mkswap", &["-L", "swapped"], 2),
        ("mkswap", &["-p", "65536"], 2),
    ];
    for (tool, arguments, mib) in cases {
        if !have(tool) {
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        let image = image(dir.path(), *mib);
        run(tool, arguments, &image);
        let (ours, theirs) = (probe(&image).unwrap(), blkid(&image));
        assert!(theirs.filesystem.is_some(), "{tool} {arguments:?}");
        assert_eq!(ours, theirs, "{tool} {arguments:?}");
    }
}

/// Things for which there is no tool here, written by hand: bytes at places.
#[test]
fn what_wraps_a_file_system_comes_first() {
    let uuid: Vec<u8> = (1..=16).collect();
    let magic = 0xa92b_4efc_u32.to_le_bytes().to_vec();
    let one = 1_u32.to_le_bytes().to_vec();
    let xfs = (0, b"XFSB".to_vec());
    let raid = |at: u64| {
        vec![
            (at, magic.clone()),
            (at + 4, one.clone()),
            (at + 16, uuid.clone()),
            (at + 32, b"host:0".to_vec()),
            (at + 144, (at / 512).to_le_bytes().to_vec()),
        ]
    };
    let known = Some("01020304-0506-0708-090a-0b0c0d0e0f10");
    let near_end = (1 << 20) - (8 << 10);
    let luks = |version: u16| {
        vec![
            (0, b"LUKS\xba\xbe".to_vec()),
            (6, version.to_be_bytes().to_vec()),
            (24, b"a label".to_vec()),
            (168, b"3c3a8d6e-0000-4000-8000-000000000001".to_vec()),
        ]
    };
    let luks_uuid = Some("3c3a8d6e-0000-4000-8000-000000000001");
    let lvm = vec![
        (512, b"LABELONE".to_vec()),
        (512 + 24, b"LVM2 001".to_vec()),
        (512 + 32, b"abcdef1234ABCD5678efgh9012ijklmn".to_vec()),
    ];
    let lvm_uuid = Some("abcdef-1234-ABCD-5678-efgh-9012-ijklmn");
    for (name, bytes, filesystem, uuid, label) in [
        (
            "raid 1.0 over xfs",
            [raid(near_end), vec![xfs.clone()]].concat(),
            "linux_raid_member",
            known,
            Some("host:0"),
        ),
        ("raid 1.1", raid(0), "linux_raid_member", known, Some("host:0")),
        ("raid 1.2", raid(4096), "linux_raid_member", known, Some("host:0")),
        ("raid 0.90", vec![((1 << 20) - (64 << 10), magic.clone()), xfs], "linux_raid_member", None, None),
        ("luks 1", luks(1), "crypto_LUKS", luks_uuid, None),
        ("luks 2", luks(2), "crypto_LUKS", luks_uuid, Some("a label")),
        ("lvm", lvm, "LVM2_member", lvm_uuid, None),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = image(dir.path(), 1);
        let mut file = File::options().write(true).open(&path).unwrap();
        for (at, bytes) in bytes {
            file.seek(SeekFrom::Start(at)).unwrap();
            file.write_all(&bytes).unwrap();
        }
        let found = probe(&path).unwrap();
        let expected = Identity {
            filesystem: Some(filesystem.to_owned()),
            uuid: uuid.map(str::to_owned),
            label: label.map(str::to_owned),
            member: found.member.clone(),
        };
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn nothing_known_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(probe(&image(dir.path(), 1)).unwrap(), Identity::default());
    assert_eq!(probe(&image(dir.path(), 0)).unwrap(), Identity::default());
    assert!(probe(&dir.path().join("absent")).is_err());
}

/// A superblock that lies in each of its fields.
fn hostile() -> impl Strategy<Value = (usize, Vec<(usize, u8)>, usize)> {
    (0..8_usize, prop::collection::vec((0..2048_usize, any::<u8>()), 0..64), 0..(128_usize << 10))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn hostile_superblocks_are_survived((kind, changes, len) in hostile()) {
        let mut bytes = vec![0xff_u8; 128 << 10];
        let put = |bytes: &mut Vec<u8>, at: usize, what: &[u8]| bytes[at..at + what.len()].copy_from_slice(what);
        match kind {
            0 => put(&mut bytes, 1024 + 0x38, &[0x53, 0xef]),
            1 => put(&mut bytes, 0, b"XFSB"),
            2 => put(&mut bytes, 0x10040, b"_BHRfS_M"),
            3 => put(&mut bytes, 4086, b"SWAPSPACE2"),
            4 => put(&mut bytes, 0, b"LUKS\xba\xbe\0\x02"),
            5 => { put(&mut bytes, 0, b"LABELONE"); put(&mut bytes, 24, b"LVM2 001"); }
            6 => put(&mut bytes, 0, &[0xfc, 0x4e, 0x2b, 0xa9, 1, 0, 0, 0]),
            _ => {
                put(&mut bytes, 0x52, b"FAT32   ");
                put(&mut bytes, 11, &[0, 2, 8, 32, 0, 2]);
                put(&mut bytes, 510, &[0x55, 0xaa]);
            }
        }
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        bytes.truncate(len);
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&bytes).unwrap();
        probe(file.path()).unwrap();
    }
}

/// A /sys and a /dev with one disk and its partitions (number, start in 512-byte units).
fn machine(root: &Path, disk: &Path, block: u64, partitions: &[(u64, u64)]) -> (PathBuf, PathBuf) {
    let (sys, dev) = (root.join("sys"), root.join("dev"));
    let class = sys.join("class/block");
    let here = sys.join("devices/pci/block/vda");
    fs::create_dir_all(&class).unwrap();
    fs::create_dir_all(here.join("queue")).unwrap();
    fs::create_dir_all(&dev).unwrap();
    fs::write(here.join("queue/logical_block_size"), format!("{block}\n")).unwrap();
    fs::write(here.join("size"), "2048\n").unwrap();
    symlink(&here, class.join("vda")).unwrap();
    symlink(disk, dev.join("vda")).unwrap();
    for (number, start) in partitions {
        let name = format!("vda{number}");
        let part = here.join(&name);
        fs::create_dir_all(&part).unwrap();
        fs::write(part.join("partition"), format!("{number}\n")).unwrap();
        fs::write(part.join("start"), format!("{start}\n")).unwrap();
        fs::write(part.join("size"), "100\n").unwrap();
        symlink(&part, class.join(&name)).unwrap();
    }
    (sys, dev)
}

#[test]
fn partuuids_as_sfdisk_writes_them() {
    if !have("sfdisk") {
        return;
    }
    for (label, partuuid_of) in [("gpt", "--part-uuid"), ("dos", "--disk-id")] {
        let dir = tempfile::tempdir().unwrap();
        let disk = image(dir.path(), 16);
        let script = format!("label: {label}\n2048,4096\n8192,4096\n");
        let mut child = Command::new("/usr/sbin/sfdisk")
            .args(["-q", "--no-reread"])
            .arg(&disk)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
        let (sys, dev) = machine(dir.path(), &disk, 512, &[(1, 2048), (2, 8192)]);
        for number in [1, 2] {
            let mut out = Command::new("/usr/sbin/sfdisk");
            out.arg(partuuid_of).arg(&disk);
            if label == "gpt" {
                out.arg(number.to_string());
            }
            let said = String::from_utf8(out.output().unwrap().stdout).unwrap().trim().to_ascii_lowercase();
            let expected = match said.strip_prefix("0x") {
                Some(signature) => format!("{signature}-{number:02x}"),
                None => said,
            };
            let found = partuuid(&sys, &dev, &format!("vda{number}")).unwrap();
            assert_eq!(found.as_deref(), Some(expected.as_str()), "{label} {number}");
            let id = DeviceId::PartUuid(expected.to_ascii_uppercase());
            let node = find(&dev, &sys, &id).unwrap();
            assert_eq!(node, Some(dev.join(format!("vda{number}"))), "{label} {number}");
        }
        assert_eq!(partuuid(&sys, &dev, "vda").unwrap(), None, "a disk is no partition");
    }
}

/// A GPT of our own: header fields that matter, one entry a partition.
fn gpt(block: usize, table: u64, count: u32, size: u32, entries: &[(u8, u64)]) -> Vec<u8> {
    let mut disk = vec![0; 64 << 10];
    disk[block..block + 8].copy_from_slice(b"EFI PART");
    disk[block + 72..block + 80].copy_from_slice(&table.to_le_bytes());
    disk[block + 80..block + 84].copy_from_slice(&count.to_le_bytes());
    disk[block + 84..block + 88].copy_from_slice(&size.to_le_bytes());
    let base = usize::try_from(table).unwrap().saturating_mul(block);
    for (n, (fill, first)) in entries.iter().enumerate() {
        let at = base + n * usize::try_from(size).unwrap();
        if at + 48 <= disk.len() {
            disk[at + 16..at + 32]
                .copy_from_slice(&std::array::from_fn::<u8, 16, _>(|i| fill + u8::try_from(i).unwrap()));
            disk[at + 32..at + 40].copy_from_slice(&first.to_le_bytes());
        }
    }
    disk
}

#[test]
fn a_gpt_is_believed_only_where_the_kernel_agrees() {
    let good = Some("13121110-1514-1716-1819-1a1b1c1d1e1f");
    for (name, disk, block, start, expected) in [
        ("512-byte blocks", gpt(512, 2, 4, 128, &[(0x10, 40)]), 512, 40, good),
        ("4096-byte blocks", gpt(4096, 2, 4, 128, &[(0x10, 40)]), 4096, 320, good),
        ("large entries", gpt(512, 2, 4, 256, &[(0x10, 40)]), 512, 40, good),
        ("another start", gpt(512, 2, 4, 128, &[(0x10, 41)]), 512, 40, None),
        ("no entries", gpt(512, 2, 0, 128, &[(0x10, 40)]), 512, 40, None),
        ("tiny entries", gpt(512, 2, 4, 16, &[(0x10, 40)]), 512, 40, None),
        ("giant entries", gpt(512, 2, 4, u32::MAX, &[]), 512, 40, None),
        ("table past the end", gpt(512, 10_000, 4, 128, &[]), 512, 40, None),
        ("table past everything", gpt(512, u64::MAX / 512, 4, 128, &[]), 512, 40, None),
        ("start past everything", gpt(512, 2, 4, 128, &[(0x10, u64::MAX)]), 512, 40, None),
        ("no block size", gpt(512, 2, 4, 128, &[(0x10, 40)]), 3, 40, None),
        ("neither GPT nor MBR", vec![0; 8192], 512, 40, None),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        fs::write(&path, &disk).unwrap();
        let (sys, dev) = machine(dir.path(), &path, block, &[(1, start)]);
        assert_eq!(partuuid(&sys, &dev, "vda1").unwrap().as_deref(), expected, "{name}");
    }
}

#[test]
fn found_by_uuid_and_label_whatever_else_is_there() {
    if !have("mkfs.ext4") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let disk = image(dir.path(), 8);
    let uuid = "3c3a8d6e-1111-4000-8000-000000000001";
    run("mkfs.ext4", &["-q", "-L", "dumps", "-U", uuid], &disk);
    let (sys, dev) = machine(dir.path(), &disk, 512, &[(1, 0), (2, 0)]);
    // vda1 cannot be opened; vda2 is the same file system again, as the second path of a multipath device is.
    symlink(&disk, dev.join("vda2")).unwrap();
    let find = |id: &str| find(&dev, &sys, &id.parse().unwrap()).unwrap();
    assert_eq!(find(&format!("UUID={uuid}")), Some(dev.join("vda")));
    assert_eq!(find(&format!("UUID={}", uuid.to_uppercase())), Some(dev.join("vda")));
    assert_eq!(find("LABEL=dumps"), Some(dev.join("vda")));
    assert_eq!(find("LABEL=DUMPS"), None);
    assert_eq!(find("UUID=00000000-0000-0000-0000-000000000000"), None);
    assert_eq!(find("/dev/null"), None, "no block device");
    assert_eq!(find("/dev/absent"), None);
    // What something else is built upon is the second choice.
    fs::create_dir_all(sys.join("class/block/vda/holders/dm-0")).unwrap();
    assert_eq!(find("LABEL=dumps"), Some(dev.join("vda2")));
    fs::create_dir_all(sys.join("class/block/vda2/holders/dm-0")).unwrap();
    assert_eq!(find("LABEL=dumps"), Some(dev.join("vda")));
    // Without a medium.
    fs::write(sys.join("class/block/vda/size"), "0\n").unwrap();
    assert_eq!(find("LABEL=dumps"), Some(dev.join("vda2")));
}

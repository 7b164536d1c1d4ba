//! Recognising what is on a block device by its superblock.
//!
//! A few fields of each are wanted, so they are read by offset; each offset's source is the kernel's on-disk
//! header. Whatever a length or pointer in a superblock says, no more than [`Disk::MOST`] bytes are read at
//! once.

use super::identity::Identity;
use super::raw;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

/// A device or image that is being looked at.
struct Disk<'a> {
    file: &'a File,
    size: u64,
}

impl Disk<'_> {
    /// The most that is read at once.
    const MOST: usize = 64 << 10;

    /// `len` bytes from `at`, or `None` when they are not there or not readable.
    fn read(&self, at: u64, len: usize) -> Option<Vec<u8>> {
        let end = at.checked_add(u64::try_from(len).ok()?)?;
        if len > Self::MOST || end > self.size {
            return None;
        }
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, at).ok()?;
        Some(bytes)
    }
}

type Prober = fn(&Disk<'_>) -> Option<Identity>;

/// In this order: what wraps a file system comes before it, for a RAID1 member with its superblock at the end
/// looks like the file system itself, and writing to it would tear the mirror apart.
const PROBERS: [Prober; 9] = [raid, luks, lvm, swap, ext, xfs, btrfs, vfat, raw_dumps];

/// Says what `file` holds; an empty identity when that is nothing known.
pub(super) fn recognise(file: &File) -> io::Result<Identity> {
    let size = (&mut &*file).seek(SeekFrom::End(0))?;
    let disk = Disk { file, size };
    Ok(PROBERS.iter().find_map(|probe| probe(&disk)).unwrap_or_default())
}

/// A partition that was prepared for raw dumps. After all others: what anybody has made of it since counts.
fn raw_dumps(disk: &Disk<'_>) -> Option<Identity> {
    match raw::Label::parse(&disk.read(0, raw::layout::LABEL_LEN)?) {
        raw::Found::Label(label) => Some(identity(raw::FILESYSTEM, Some(label.uuid_text()), None)),
        _ => None,
    }
}

/// ext2, ext3, ext4. `struct ext4_super_block` (fs/ext4/ext4.h), at byte 1024.
fn ext(disk: &Disk<'_>) -> Option<Identity> {
    const COMPAT_HAS_JOURNAL: u32 = 4;
    const INCOMPAT_JOURNAL_DEV: u32 = 8;
    // What fs/ext3 knew: FILETYPE, RECOVER, META_BG; SPARSE_SUPER, LARGE_FILE, BTREE_DIR. Anything else means
    // ext4.
    const EXT3_INCOMPAT: u32 = 0x2 | 0x4 | 0x10;
    const EXT3_RO_COMPAT: u32 = 0x1 | 0x2 | 0x4;
    let sb = disk.read(1024, 1024)?;
    if le16(&sb, 0x38)? != 0xef53 {
        return None;
    }
    let (compat, incompat, ro_compat) = (le32(&sb, 0x5c)?, le32(&sb, 0x60)?, le32(&sb, 0x64)?);
    let name = if incompat & INCOMPAT_JOURNAL_DEV != 0 {
        "jbd"
    } else if incompat & !EXT3_INCOMPAT != 0 || ro_compat & !EXT3_RO_COMPAT != 0 {
        "ext4"
    } else if compat & COMPAT_HAS_JOURNAL != 0 {
        "ext3"
    } else {
        "ext2"
    };
    Some(identity(name, uuid(&sb, 0x68), text(&sb, 0x78, 16)))
}

/// XFS. `struct xfs_dsb` (fs/xfs/libxfs/xfs_format.h), at byte 0.
fn xfs(disk: &Disk<'_>) -> Option<Identity> {
    let sb = disk.read(0, 512)?;
    let found = sb.starts_with(b"XFSB");
    found.then(|| identity("xfs", uuid(&sb, 32), text(&sb, 108, 12)))
}

/// Btrfs. `struct btrfs_super_block` (include/uapi/linux/btrfs_tree.h), at 64 KiB.
fn btrfs(disk: &Disk<'_>) -> Option<Identity> {
    let sb = disk.read(64 << 10, 4096)?;
    let found = sb.get(0x40..0x48)? == b"_BHRfS_M";
    // The dev_item at 0xc9 is that of this very device.
    let member = uuid(&sb, 0xc9 + 66);
    found.then(|| Identity { member, ..identity("btrfs", uuid(&sb, 0x20), text(&sb, 0x12b, 256)) })
}

/// Swap. `union swap_header` (include/linux/swap.h); the magic ends the first page, whose size is not known.
fn swap(disk: &Disk<'_>) -> Option<Identity> {
    for page in [4096, 8192, 16384, 32768, 65536] {
        let Some(magic) = disk.read(page - 10, 10) else { break };
        if magic == b"SWAPSPACE2" || magic == b"SWAP-SPACE" {
            let sb = disk.read(1024, 64)?;
            return Some(identity("swap", uuid(&sb, 12), text(&sb, 28, 16)));
        }
    }
    None
}

/// LUKS 1 and 2: the UUID is text in both. LUKS 2 has a label.
fn luks(disk: &Disk<'_>) -> Option<Identity> {
    let sb = disk.read(0, 512)?;
    if !sb.starts_with(b"LUKS\xba\xbe") {
        return None;
    }
    let label = if sb.get(6..8)? == [0, 2] { text(&sb, 24, 48) } else { None };
    Some(identity("crypto_LUKS", text(&sb, 168, 40), label))
}

/// An LVM2 physical volume: its label is in one of the first four sectors, its UUID is 32 letters.
fn lvm(disk: &Disk<'_>) -> Option<Identity> {
    let head = disk.read(0, 2048)?;
    let sector =
        head.chunks_exact(512).find(|s| s.starts_with(b"LABELONE") && s.get(24..32) == Some(b"LVM2 001"))?;
    let letters = text(sector, 32, 32)?;
    let mut rest = letters.as_str();
    let mut groups = Vec::new();
    for len in [6, 4, 4, 4, 4, 4, 6] {
        let (group, after) = rest.split_at_checked(len)?;
        groups.push(group);
        rest = after;
    }
    Some(identity("LVM2_member", Some(groups.join("-")), None))
}

/// A member of a Linux software RAID. `struct mdp_superblock_1` (include/uapi/linux/raid/md_p.h): version 1.1
/// at the start, 1.2 at 4 KiB, 1.0 near the end; version 0.90 in the last whole 64 KiB but one.
fn raid(disk: &Disk<'_>) -> Option<Identity> {
    const MAGIC: u32 = 0xa92b_4efc;
    let near_end = disk.size.checked_sub(8 << 10).map(|at| at / 4096 * 4096);
    for at in [Some(0), Some(4096), near_end].into_iter().flatten() {
        let Some(sb) = disk.read(at, 256) else { continue };
        // super_offset says where the superblock believes to lie, in sectors.
        if le32(&sb, 0)? == MAGIC && le32(&sb, 4)? == 1 && le64(&sb, 144)? == at / 512 {
            let found = identity("linux_raid_member", uuid(&sb, 16), text(&sb, 32, 32));
            return Some(Identity { member: uuid(&sb, 168), ..found });
        }
    }
    let at = (disk.size / (64 << 10)).checked_sub(1)?.checked_mul(64 << 10)?;
    let sb = disk.read(at, 256)?;
    (le32(&sb, 0)? == MAGIC && le32(&sb, 4)? == 0).then(|| identity("linux_raid_member", None, None))
}

/// FAT12, FAT16, FAT32. The label is the root directory's; the boot sector has a copy that nobody keeps up to
/// date.
fn vfat(disk: &Disk<'_>) -> Option<Identity> {
    let boot = disk.read(0, 512)?;
    let fat32 = boot.get(0x52..0x5a)? == b"FAT32   ";
    let fat16 =
        [b"FAT16   ", b"FAT12   ", b"FAT     "].iter().any(|m| boot.get(0x36..0x3e) == Some(m.as_slice()));
    let sector = u64::from(le16(&boot, 11)?);
    let cluster = u64::from(*boot.get(13)?);
    let fats = u64::from(*boot.get(16)?);
    let sane =
        [512, 1024, 2048, 4096].contains(&sector) && cluster.is_power_of_two() && (1..=2).contains(&fats);
    if !(fat32 || fat16) || !sane || boot.get(510..512)? != [0x55, 0xaa] {
        return None;
    }
    let serial = le32(&boot, if fat32 { 0x43 } else { 0x27 })?;
    let reserved = u64::from(le16(&boot, 14)?);
    let fat_len = if fat32 { u64::from(le32(&boot, 0x24)?) } else { u64::from(le16(&boot, 0x16)?) };
    let after_fats = reserved.checked_add(fats.checked_mul(fat_len)?)?;
    // FAT32 has its root directory in a chain of clusters, of which the first, numbered from 2, has the label.
    let (root, root_len) = if fat32 {
        let first = u64::from(le32(&boot, 0x2c)?).checked_sub(2)?;
        (after_fats.checked_add(first.checked_mul(cluster)?)?, cluster.checked_mul(sector)?)
    } else {
        (after_fats, u64::from(le16(&boot, 0x11)?).checked_mul(32)?)
    };
    let label = root.checked_mul(sector).and_then(|at| fat_label(disk, at, root_len));
    Some(identity("vfat", Some(format!("{:04X}-{:04X}", serial >> 16, serial & 0xffff)), label))
}

/// The volume label among the entries of a FAT directory.
fn fat_label(disk: &Disk<'_>, at: u64, len: u64) -> Option<String> {
    const VOLUME_ID: u8 = 0x08;
    const LONG_NAME: u8 = 0x0f;
    let entries = disk.read(at, usize::try_from(len).ok()?.min(Disk::MOST))?;
    for entry in entries.chunks_exact(32) {
        let (first, attributes) = (*entry.first()?, *entry.get(11)?);
        if first == 0 {
            return None;
        }
        if first != 0xe5 && attributes & VOLUME_ID != 0 && attributes & LONG_NAME != LONG_NAME {
            return text(entry, 0, 11);
        }
    }
    None
}

fn identity(filesystem: &str, uuid: Option<String>, label: Option<String>) -> Identity {
    Identity { filesystem: Some(filesystem.to_owned()), uuid, label, member: None }
}

/// A UUID of 16 bytes in the order they are printed; `None` when it is all zero.
fn uuid(bytes: &[u8], at: usize) -> Option<String> {
    let raw: [u8; 16] = field(bytes, at)?;
    let n = u128::from_be_bytes(raw);
    let hex = format!("{n:032x}");
    let part = |range: std::ops::Range<usize>| hex.get(range).unwrap_or_default();
    (n != 0)
        .then(|| format!("{}-{}-{}-{}-{}", part(0..8), part(8..12), part(12..16), part(16..20), part(20..32)))
}

/// Text padded with NULs or blanks; `None` when there is none.
fn text(bytes: &[u8], at: usize, len: usize) -> Option<String> {
    let raw = bytes.get(at..at.checked_add(len)?)?;
    let raw = raw.split(|b| *b == 0).next().unwrap_or_default();
    let text = String::from_utf8_lossy(raw).trim_end().to_owned();
    (!text.is_empty()).then_some(text)
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn le16(bytes: &[u8], at: usize) -> Option<u16> {
    field(bytes, at).map(u16::from_le_bytes)
}

fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    field(bytes, at).map(u32::from_le_bytes)
}

fn le64(bytes: &[u8], at: usize) -> Option<u64> {
    field(bytes, at).map(u64::from_le_bytes)
}

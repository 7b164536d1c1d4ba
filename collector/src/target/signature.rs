//! Whether a device holds anything that somebody may miss.
//!
//! What a target may be is told by `superblock`; this knows more kinds, and nothing of them but that they are
//! there. Sources: the on-disk headers of the Linux kernel and of each format's own documentation.

use super::{raw, superblock};
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Where a signature is.
#[derive(Clone, Copy)]
enum At {
    /// Bytes from the start.
    Start(u64),
    /// Bytes before the end.
    End(u64),
}
use At::{End, Start};

/// What there is, where, and what stands there.
const SIGNATURES: &[(&str, At, &[u8])] = &[
    ("a GPT partition table", Start(512), b"EFI PART"),
    ("a GPT partition table", Start(4096), b"EFI PART"),
    ("the end of a GPT partition table", End(512), b"EFI PART"),
    ("the end of a GPT partition table", End(4096), b"EFI PART"),
    ("ntfs", Start(3), b"NTFS    "),
    ("exfat", Start(3), b"EXFAT   "),
    ("BitLocker", Start(3), b"-FVE-FS-"),
    ("f2fs", Start(1024), &[0x10, 0x20, 0xf5, 0xf2]),
    ("erofs", Start(1024), &[0xe2, 0xe1, 0xf5, 0xe0]),
    ("squashfs", Start(0), b"hsqs"),
    ("hfsplus", Start(1024), b"H+\0\x04"),
    ("hfsplus", Start(1024), b"HX\0\x05"),
    ("apfs", Start(32), b"NXSB"),
    ("iso9660", Start(32769), b"CD001"),
    ("udf", Start(32769), b"BEA01"),
    ("jfs", Start(32768), b"JFS1"),
    ("reiserfs", Start(65588), b"ReIsEr"),
    ("reiser4", Start(65536), b"ReIsEr4"),
    ("gfs2", Start(65536), &[0x01, 0x16, 0x19, 0x70]),
    ("nilfs2", Start(1030), &[0x34, 0x34]),
    ("VMFS", Start(1 << 20), &[0x0d, 0xd0, 0x01, 0xc0]),
    (
        "bcache or bcachefs",
        Start(4120),
        &[0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca, 0x82, 0x65, 0xf5, 0x7f, 0x48, 0xba, 0x6d, 0x81],
    ),
    (
        "bcachefs",
        Start(4120),
        &[0xc6, 0x85, 0x73, 0xf6, 0x66, 0xce, 0x90, 0xa9, 0xd9, 0x6a, 0x60, 0xcf, 0x80, 0x3d, 0xf7, 0xef],
    ),
    ("a hibernated system", Start(4086), b"S1SUSPEND"),
    ("a hibernated system", Start(4086), b"S2SUSPEND"),
    ("a hibernated system", Start(4086), b"LINHIB0001"),
    ("Ceph's bluestore", Start(0), b"bluestore block device"),
    ("dm-verity", Start(0), b"verity\0\0"),
    ("dm-integrity", Start(0), b"integrt\0"),
    ("VDO", Start(0), b"dmvdo001"),
    ("Stratis", Start(516), b"!Stra0tis\x86\xff\x02^\x41rh"),
    ("DRBD", End(4036), &[0x83, 0x74, 0x02, 0x6b]),
    ("DRBD", End(4036), &[0x83, 0x74, 0x02, 0x6c]),
    ("DRBD", End(4036), &[0x83, 0x74, 0x02, 0x6d]),
    ("a member of a DDF RAID", End(512), &[0xde, 0x11, 0xde, 0x11]),
    ("a member of an Intel RAID", End(1024), b"Intel Raid ISM Cfg Sig. "),
    ("a dump of kdump's", Start(0), b"KDUMP   "),
    ("a dump of kdump's", Start(0), b"makedumpfile\0"),
    ("an ELF file", Start(0), b"\x7fELF"),
];

/// Where ZFS keeps the uberblocks of its first label, one each KiB, and their magic in either byte order.
const ZFS: std::ops::Range<u64> = 128..256;
const ZFS_MAGICS: [[u8; 8]; 2] = [0x00ba_b10c_u64.to_le_bytes(), 0x00ba_b10c_u64.to_be_bytes()];

/// What the device holds that is not ours; `None` when that is nothing known.
pub fn foreign(device: &Path) -> io::Result<Option<String>> {
    let file = File::open(device)?;
    if let Some(known) = superblock::recognise(&file)?.filesystem
        && known != raw::FILESYSTEM
    {
        return Ok(Some(known));
    }
    let size = (&mut &file).seek(SeekFrom::End(0))?;
    let read = |at: u64, bytes: &mut [u8]| -> io::Result<bool> {
        let len = u64::try_from(bytes.len()).map_err(io::Error::other)?;
        if at.checked_add(len).is_none_or(|end| end > size) {
            return Ok(false);
        }
        file.read_exact_at(bytes, at).map(|()| true)
    };
    for (name, at, magic) in SIGNATURES {
        let at = match at {
            Start(at) => Some(*at),
            End(before) => size.checked_sub(*before),
        };
        let mut seen = [0; 32];
        if let (Some(at), Some(seen)) = (at, seen.get_mut(..magic.len()))
            && read(at, seen)?
            && seen == *magic
        {
            return Ok(Some((*name).to_owned()));
        }
    }
    for n in ZFS {
        let mut seen = [0; 8];
        if read(n << 10, &mut seen)? && ZFS_MAGICS.contains(&seen) {
            return Ok(Some("zfs".to_owned()));
        }
    }
    // Last: file systems have it too.
    let mut seen = [0; 2];
    if read(510, &mut seen)? && seen == [0x55, 0xaa] {
        return Ok(Some("an MBR partition table or a boot sector".to_owned()));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_found_and_nothing_is_nothing() {
        let size = 8 << 20;
        for (name, at, magic) in SIGNATURES {
            let file = tempfile::NamedTempFile::new().unwrap();
            file.as_file().set_len(size).unwrap();
            assert_eq!(foreign(file.path()).unwrap(), None);
            let at = match at {
                Start(at) => *at,
                End(before) => size - before,
            };
            file.as_file().write_all_at(magic, at).unwrap();
            let found = foreign(file.path()).unwrap().unwrap();
            assert!(found.starts_with(&name[..3]), "{name}: {found}");
        }
        for (magic, at, name) in
            [(&ZFS_MAGICS[0][..], 200 << 10, "zfs"), (&[0x55, 0xaa], 510, "an MBR"), (b"XFSB", 0, "xfs")]
        {
            let file = tempfile::NamedTempFile::new().unwrap();
            file.as_file().set_len(size).unwrap();
            file.as_file().write_all_at(magic, at).unwrap();
            assert!(foreign(file.path()).unwrap().unwrap().starts_with(name));
        }
        let tiny = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(foreign(tiny.path()).unwrap(), None);
    }
}

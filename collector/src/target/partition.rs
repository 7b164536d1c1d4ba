//! Partition tables: the PARTUUID of one partition of a disk.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// PARTUUID of partition `number` (from 1) of `disk`, whose logical blocks have `block` bytes. `start` is the
/// byte at which the kernel says that the partition begins: an entry of a GPT that says otherwise is not
/// believed.
///
/// GPT (UEFI 2.10, 5.3): the unique GUID of the entry. MBR: `disk signature-number`, and none where the
/// signature is 0.
pub(super) fn partuuid(disk: &File, block: u64, number: u64, start: u64) -> io::Result<Option<String>> {
    if !(512..=65536).contains(&block) || !block.is_power_of_two() {
        return Ok(None);
    }
    let mut header = [0; 92];
    if disk.read_exact_at(&mut header, block).is_ok() && header.starts_with(b"EFI PART") {
        return Ok(gpt_entry(disk, block, &header, number).and_then(|entry| gpt_guid(&entry, block, start)));
    }
    let mut mbr = [0; 512];
    disk.read_exact_at(&mut mbr, 0)?;
    let signed = mbr.get(510..512) == Some(&[0x55, 0xaa]);
    let signature = mbr.get(440..444).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
    Ok((signed && signature != 0).then(|| format!("{signature:08x}-{number:02x}")))
}

/// One entry of the GPT: the kernel numbers partitions by their entry's place, from 1.
fn gpt_entry(disk: &File, block: u64, header: &[u8], number: u64) -> Option<[u8; 48]> {
    let table = u64::from_le_bytes(header.get(72..80)?.try_into().ok()?);
    let count = u64::from(u32::from_le_bytes(header.get(80..84)?.try_into().ok()?));
    let size = u64::from(u32::from_le_bytes(header.get(84..88)?.try_into().ok()?));
    let index = number.checked_sub(1)?;
    if index >= count || !(128..=4096).contains(&size) {
        return None;
    }
    let mut entry = [0; 48];
    let at = table.checked_mul(block)?.checked_add(index.checked_mul(size)?)?;
    disk.read_exact_at(&mut entry, at).ok()?;
    Some(entry)
}

/// The unique GUID of an entry, whose first three fields are little-endian.
fn gpt_guid(entry: &[u8; 48], block: u64, start: u64) -> Option<String> {
    let first = u64::from_le_bytes(entry.get(32..40)?.try_into().ok()?);
    if first.checked_mul(block)? != start {
        return None;
    }
    let a = u32::from_le_bytes(entry.get(16..20)?.try_into().ok()?);
    let b = u16::from_le_bytes(entry.get(20..22)?.try_into().ok()?);
    let c = u16::from_le_bytes(entry.get(22..24)?.try_into().ok()?);
    let d = u16::from_be_bytes(entry.get(24..26)?.try_into().ok()?);
    let tail: [u8; 6] = entry.get(26..32)?.try_into().ok()?;
    let e = tail.iter().fold(0_u64, |n, byte| (n << 8) | u64::from(*byte));
    Some(format!("{a:08x}-{b:04x}-{c:04x}-{d:04x}-{e:012x}"))
}

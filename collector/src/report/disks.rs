//! What block devices were doing: requests that were under way, and for how long.
//!
//! Disks are found by their inodes, which the kernel's own file system of block devices has. A disk of which a driver takes
//! requests has them in tables of tags (`blk_mq_tags`); one that passes bios on (device mapper, md) only counts them, each CPU
//! for itself.

use crate::triage::{Dead, Known};
use serde::Serialize;

/// A disk with something under way.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Disk {
    /// `vda`, `dm-0`.
    pub name: String,
    /// Reads under way.
    pub reads: u64,
    /// Writes, discards and flushes under way.
    pub writes: u64,
    /// Milliseconds since the oldest began; `None` where it is not known.
    pub oldest_ms: Option<u64>,
}

/// Disks, queues and tags that are believed.
const MAX_DISKS: usize = 4096;
const MAX_QUEUES: u64 = 8192;
const MAX_TAGS: u64 = 65536;

/// A request that its driver has (`enum mq_rq_state`).
const IN_FLIGHT: u64 = 1;
/// The operation is in the low 8 bits of the flags; odd ones write (include/linux/blk_types.h).
const OPERATION: u64 = 0xff;

/// Disks that have something under way. `now`: nanoseconds since boot.
pub(super) fn in_flight(dead: &Dead<'_>, now: Option<u64>) -> Vec<Disk> {
    let mut disks = Vec::new();
    let mut seen = 0;
    let mut walk = || -> Known<()> {
        let superblock = dead.u64(dead.symbol("blockdev_superblock")?)?;
        let head = dead.place(superblock, "super_block", "s_inodes")?;
        let inode_at = dead.member("bdev_inode", "vfs_inode")?.offset;
        dead.list(head, "inode", "i_sb_list", |inode| {
            let bdev = dead.place(inode.wrapping_sub(inode_at), "bdev_inode", "bdev")?;
            let disk = dead.get(bdev, "block_device", "bd_disk")?;
            if disk == 0 || partition(dead, bdev)? != 0 || seen >= MAX_DISKS {
                return Ok(());
            }
            seen += 1;
            let name = dead.text(disk, "gendisk", "disk_name")?;
            let queue = dead.get(disk, "gendisk", "queue")?;
            if let Some(found) = dead.known(&format!("requests of {name}"), of(dead, bdev, queue, now))
                && (found.0 > 0 || found.1 > 0)
            {
                let (reads, writes, oldest_ms) = found;
                disks.push(Disk { name, reads, writes, oldest_ms });
            }
            Ok(())
        })
    };
    let walked = walk();
    dead.known("disks", walked);
    disks.sort_by(|a, b| a.name.cmp(&b.name));
    disks
}

/// 0 for the whole disk. A member of its own until Linux commit 1116b9fa15c0 ("bdev: infrastructure for flags") (in v6.10),
/// which put it into the low byte of the flags.
fn partition(dead: &Dead<'_>, bdev: u64) -> Known<u64> {
    if dead.has("block_device", "bd_partno") {
        return dead.get(bdev, "block_device", "bd_partno");
    }
    Ok(dead.get(bdev, "block_device", "__bd_flags")? & 0xff)
}

/// Reads and writes under way, and the age of the oldest.
fn of(dead: &Dead<'_>, bdev: u64, queue: u64, now: Option<u64>) -> Known<(u64, u64, Option<u64>)> {
    let set = if queue == 0 { 0 } else { dead.get(queue, "request_queue", "tag_set")? };
    if set == 0 {
        return counted(dead, bdev);
    }
    let (mut reads, mut writes, mut oldest) = (0, 0, None);
    let queues = dead.get(set, "blk_mq_tag_set", "nr_hw_queues")?.min(MAX_QUEUES);
    let table = dead.get(set, "blk_mq_tag_set", "tags")?;
    for index in 0..queues {
        let tags = dead.u64(table.wrapping_add(index * 8))?;
        if tags == 0 {
            continue;
        }
        let count = dead.get(tags, "blk_mq_tags", "nr_tags")?.min(MAX_TAGS);
        let requests = dead.get(tags, "blk_mq_tags", "rqs")?;
        for tag in 0..count {
            let request = dead.u64(requests.wrapping_add(tag * 8))?;
            // What is not in use any more is still pointed at.
            if request == 0
                || dead.get(request, "request", "q")? != queue
                || dead.get(request, "request", "state")? != IN_FLIGHT
            {
                continue;
            }
            if dead.get(request, "request", "cmd_flags")? & OPERATION & 1 == 0 {
                reads += 1;
            } else {
                writes += 1;
            }
            let start = dead.get(request, "request", "start_time_ns")?;
            oldest = Some(oldest.map_or(start, |before: u64| before.min(start)));
        }
    }
    let age = |start: u64| Some(now?.checked_sub(start)? / 1_000_000);
    Ok((reads, writes, oldest.and_then(age)))
}

/// What each CPU has begun and not ended; one may begin what another ends, so only the sum means something.
fn counted(dead: &Dead<'_>, bdev: u64) -> Known<(u64, u64, Option<u64>)> {
    let stats = dead.get(bdev, "block_device", "bd_stats")?;
    let place = dead.member("disk_stats", "in_flight")?;
    let mut sums = [0_i64; 2];
    for cpu in dead.possible_cpus()? {
        let at = dead.percpu(*cpu, stats)?.wrapping_add(place.offset);
        for (index, sum) in (0_u64..).zip(&mut sums) {
            *sum = sum.saturating_add(dead.i64(at.wrapping_add(index * 8))?);
        }
    }
    let [reads, writes] = sums.map(|sum| u64::try_from(sum).unwrap_or(0));
    Ok((reads, writes, None))
}

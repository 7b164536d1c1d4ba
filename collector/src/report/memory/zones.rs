//! Zones and nodes.

use crate::triage::{Dead, Known, Unknown};
use serde::Serialize;

/// A zone with memory, in KiB.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Zone {
    /// Its node.
    pub node: u32,
    /// `DMA32`, `Normal`, …
    pub name: String,
    /// Memory that the allocator has.
    pub managed: u64,
    /// Memory that is there.
    pub present: u64,
    /// Free.
    pub free: u64,
    /// Below this, only the kernel itself gets memory.
    pub min: u64,
    /// Below this, memory is reclaimed.
    pub low: u64,
    /// Up to this it is reclaimed.
    pub high: u64,
}

/// A node, in KiB.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Node {
    /// Its number.
    pub node: u32,
    /// Memory that the allocator has.
    pub managed: u64,
    /// Free.
    pub free: u64,
    /// Page cache.
    pub files: u64,
    /// Anonymous memory of programs.
    pub anonymous: u64,
    /// Slabs.
    pub slab: u64,
}

/// No kernel has more nodes (CONFIG_NODES_SHIFT of 10).
const MAX_NODES: u64 = 1024;

/// Each online node's `struct pglist_data`.
pub(super) fn nodes(dead: &Dead<'_>) -> Known<Vec<u64>> {
    let Ok(table) = dead.symbol("node_data") else {
        // A kernel without CONFIG_NUMA has the one.
        return Ok(vec![dead.symbol("contig_page_data")?]);
    };
    let online = u64::try_from(dead.enumerator("N_ONLINE")?).unwrap_or(0);
    let size = dead.size_of("nodemask_t")?;
    let mask = dead.symbol("node_states")?.wrapping_add(online.saturating_mul(size));
    let mut nodes = Vec::new();
    for node in 0..size.saturating_mul(8).min(MAX_NODES) {
        if dead.u64(mask.wrapping_add(node / 64 * 8))? & (1 << (node % 64)) != 0 {
            nodes.push(dead.u64(table.wrapping_add(node * 8))?);
        }
    }
    if nodes.is_empty() {
        return Err(Unknown::senseless("no node is online"));
    }
    Ok(nodes)
}

/// Each `struct zone` of a node.
pub(super) fn of_node(dead: &Dead<'_>, pgdat: u64) -> Known<Vec<u64>> {
    let all = dead.member("pglist_data", "node_zones")?;
    let elements = dead.elements(all.ty)?;
    let count = dead.get(pgdat, "pglist_data", "nr_zones")?.min(elements.count);
    Ok((0..count)
        .map(|i| pgdat.wrapping_add(all.offset).wrapping_add(i.saturating_mul(elements.size)))
        .collect())
}

/// One zone, of which `free` pages are free.
pub(super) fn read(dead: &Dead<'_>, pgdat: u64, at: u64, free: u64) -> Known<Zone> {
    let kib = |pages: u64| pages.saturating_mul(dead.page_size() / 1024);
    let boost = dead.get(at, "zone", "watermark_boost").unwrap_or(0);
    // `_watermark` since Linux commit a9214443c08e ("mm: move zone watermark accesses behind an accessor") (in v4.20 and v5.0).
    let marks = if dead.has("zone", "_watermark") { "_watermark" } else { "watermark" };
    let place = dead.place(at, "zone", marks)?;
    let mark =
        |index: u64| Ok::<_, Unknown>(kib(dead.u64(place.wrapping_add(index * 8))?.saturating_add(boost)));
    Ok(Zone {
        node: u32::try_from(dead.get(pgdat, "pglist_data", "node_id")?).unwrap_or(0),
        name: dead.cstring(dead.get(at, "zone", "name")?, 16)?,
        managed: kib(dead.get(at, "zone", "managed_pages")?),
        present: kib(dead.get(at, "zone", "present_pages")?),
        free: kib(free),
        min: mark(0)?,
        low: mark(1)?,
        high: mark(2)?,
    })
}

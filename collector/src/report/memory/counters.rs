//! The kernel's counters of pages: global, and each CPU's differences.

use super::zones::{self, Node, Zone};
use crate::triage::{Dead, Known, Unknown};

/// No kernel has so many counters in one array.
const MAX_ITEMS: u64 = 512;

/// All counters, by their numbers.
#[derive(Clone, Debug)]
pub(super) struct Counters {
    zone: Vec<i64>,
    node: Vec<i64>,
    /// Zones with memory.
    pub zones: Vec<Zone>,
    /// Nodes with memory.
    pub nodes: Vec<Node>,
}

impl Counters {
    pub(super) fn read(dead: &Dead<'_>) -> Known<Self> {
        let mut zone = array(dead, dead.symbol("vm_zone_stat")?, dead.elements_of("zone", "vm_stat")?.count)?;
        let mut node =
            array(dead, dead.symbol("vm_node_stat")?, dead.elements_of("pglist_data", "vm_stat")?.count)?;
        let free = number(dead, "NR_FREE_PAGES")?;
        let kib = dead.page_size() / 1024;
        let (mut zones, mut nodes) = (Vec::new(), Vec::new());
        for pgdat in zones::nodes(dead)? {
            let mut own = array(dead, dead.place(pgdat, "pglist_data", "vm_stat")?, node.len() as u64)?;
            let mut diff = vec![0; node.len()];
            if let Ok(stats) = dead.get(pgdat, "pglist_data", "per_cpu_nodestats") {
                add(dead, stats, "per_cpu_nodestat", "vm_node_stat_diff", &mut diff)?;
            }
            for ((to, own), more) in node.iter_mut().zip(&mut own).zip(&diff) {
                *to = to.saturating_add(*more);
                *own = own.saturating_add(*more);
            }
            let of = |name| pick(dead, &own, name).unwrap_or(0).saturating_mul(kib);
            let before = zones.len();
            let id = u32::try_from(dead.get(pgdat, "pglist_data", "node_id")?).unwrap_or(0);
            let (files, anonymous) = (of("NR_FILE_PAGES"), of("NR_ANON_MAPPED"));
            let slab = of("NR_SLAB_RECLAIMABLE_B").saturating_add(of("NR_SLAB_UNRECLAIMABLE_B"));
            for at in zones::of_node(dead, pgdat)? {
                let mut own = array(dead, dead.place(at, "zone", "vm_stat")?, zone.len() as u64)?;
                let mut diff = vec![0; zone.len()];
                // Since Linux commit 28f836b6777b ("mm/page_alloc: split per cpu page lists and zone stats") (in v5.14).
                if dead.has("zone", "per_cpu_zonestats") {
                    let stats = dead.get(at, "zone", "per_cpu_zonestats")?;
                    add(dead, stats, "per_cpu_zonestat", "vm_stat_diff", &mut diff)?;
                } else {
                    let stats = dead.get(at, "zone", "pageset")?;
                    add(dead, stats, "per_cpu_pageset", "vm_stat_diff", &mut diff)?;
                }
                for (to, more) in zone.iter_mut().zip(&diff) {
                    *to = to.saturating_add(*more);
                }
                for (to, more) in own.iter_mut().zip(&diff) {
                    *to = to.saturating_add(*more);
                }
                let free = own.get(free).copied().unwrap_or(0);
                zones.push(zones::read(dead, pgdat, at, u64::try_from(free).unwrap_or(0))?);
            }
            let sum = |of: fn(&Zone) -> u64| zones.iter().skip(before).map(of).fold(0, u64::saturating_add);
            let (managed, free) = (sum(|zone| zone.managed), sum(|zone| zone.free));
            nodes.push(Node { node: id, managed, free, files, anonymous, slab });
        }
        zones.retain(|zone: &Zone| zone.managed > 0);
        Ok(Self { zone, node, zones, nodes })
    }

    /// A counter of zones, pages. Below 0 is 0.
    pub(super) fn zone(&self, dead: &Dead<'_>, name: &str) -> Option<u64> {
        pick(dead, &self.zone, name)
    }

    /// A counter of nodes.
    pub(super) fn node(&self, dead: &Dead<'_>, name: &str) -> Option<u64> {
        pick(dead, &self.node, name)
    }
}

fn number(dead: &Dead<'_>, name: &str) -> Known<usize> {
    let value = dead.enumerator(name)?;
    usize::try_from(value).map_err(|_| Unknown::senseless(format!("{name} is {value}")))
}

fn pick(dead: &Dead<'_>, counters: &[i64], name: &str) -> Option<u64> {
    let index = number(dead, name).ok()?;
    counters.get(index).map(|value| u64::try_from(*value).unwrap_or(0))
}

/// An array of `atomic_long_t`.
fn array(dead: &Dead<'_>, at: u64, count: u64) -> Known<Vec<i64>> {
    if count > MAX_ITEMS {
        return Err(Unknown::senseless(format!("{count} counters of pages")));
    }
    (0..count).map(|index| dead.i64(at.wrapping_add(index.saturating_mul(8)))).collect()
}

/// Adds each CPU's differences, which are of one byte or two.
fn add(dead: &Dead<'_>, percpu: u64, ty: &'static str, member: &'static str, to: &mut [i64]) -> Known<()> {
    let place = dead.member(ty, member)?;
    let elements = dead.elements(place.ty)?;
    for cpu in dead.online_cpus()? {
        let at = dead.percpu(*cpu, percpu)?.wrapping_add(place.offset);
        let count = elements.count.min(to.len() as u64);
        let len = usize::try_from(count.saturating_mul(elements.size)).unwrap_or(0);
        let raw = dead.bytes(at, len)?;
        let endian = dead.endian();
        for (index, to) in to.iter_mut().enumerate().take(usize::try_from(count).unwrap_or(0)) {
            let more = match elements.size {
                1 => raw.get(index).map(|b| i64::from(b.cast_signed())),
                2 => endian.u16(&raw, index.saturating_mul(2)).map(|n| i64::from(n.cast_signed())),
                _ => None,
            };
            *to = to.saturating_add(more.unwrap_or(0));
        }
    }
    Ok(())
}

//! Slab caches and what they hold.

use crate::triage::{Dead, Known};
use serde::Serialize;

/// A slab cache.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Cache {
    /// Its name.
    pub name: String,
    /// Bytes of an object.
    pub object: u64,
    /// Objects that there is room for.
    pub objects: u64,
    /// KiB that it has.
    pub kib: u64,
}

/// The order of a slab's pages is above these bits of `kmem_cache_order_objects`, the number of objects below (OO_SHIFT).
const ORDER_SHIFT: u32 = 16;

/// All caches. Only SLUB counts its slabs, with CONFIG_SLUB_DEBUG.
pub(super) fn caches(dead: &Dead<'_>) -> Known<Vec<Cache>> {
    let page = dead.page_size() / 1024;
    let nodes = super::zones::nodes(dead)?.len() as u64;
    let node = dead.member("kmem_cache", "node")?;
    let per_node = dead.elements(node.ty)?.count.min(nodes);
    let mut caches = Vec::new();
    dead.list(dead.symbol("slab_caches")?, "kmem_cache", "list", |at| {
        let oo = dead.get(at, "kmem_cache", "oo.x")?;
        let order = u32::try_from(oo >> ORDER_SHIFT).unwrap_or(0);
        let (mut slabs, mut objects) = (0_u64, 0_u64);
        for index in 0..per_node {
            let of = dead.u64(at.wrapping_add(node.offset).wrapping_add(index * 8))?;
            if of != 0 {
                slabs = slabs.saturating_add(dead.get(of, "kmem_cache_node", "nr_slabs")?);
                objects = objects.saturating_add(dead.get(of, "kmem_cache_node", "total_objects")?);
            }
        }
        let kib = slabs.saturating_mul(page.checked_shl(order).unwrap_or(0));
        caches.push(Cache {
            name: dead.cstring(dead.get(at, "kmem_cache", "name")?, 64)?,
            object: dead.get(at, "kmem_cache", "size")?,
            objects,
            kib,
        });
        Ok(())
    })?;
    Ok(caches)
}

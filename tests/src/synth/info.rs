//! VMCOREINFO's text, key by key as kernels of each era export it.

use super::arch::Arch;
use super::core::Addresses;
use super::era::{Compound, LogKind};
use super::page::FREE_AREAS;
use super::spec::{Model, Spec};
use std::fmt::Write as _;

/// Seconds since 1970 of the crash.
pub const CRASH_TIME: u64 = 1_795_360_491;

/// The whole text.
pub fn vmcoreinfo(spec: &Spec, at: &Addresses) -> String {
    let era = spec.era;
    let mut keys: Vec<(String, String)> = Vec::new();
    let mut add = |key: &str, value: String| keys.push((key.to_owned(), value));
    add("OSRELEASE", era.release.to_owned());
    if era.since(5, 14) {
        add("BUILD-ID", "eb4fbcd037e7253717950bf2b93bd5566f47c56f".to_owned());
    }
    let facts = spec.arch.facts();
    let native = matches!(spec.arch, Arch::X86_64);
    add("PAGESIZE", facts.page().to_string());
    let hex = |value: u64| format!("{value:x}");
    for name in ["init_uts_ns", "node_online_map", "swapper_pg_dir", "_stext"] {
        add(&format!("SYMBOL({name})"), hex(at.symbol(name)));
    }
    if era.since(5, 11) {
        add("OFFSET(uts_namespace.name)", era.uts_name_offset().to_string());
    }
    if !era.since(6, 9) {
        add("SYMBOL(vmap_area_list)", hex(at.symbol("node_online_map") + 64));
        add("OFFSET(vmap_area.va_start)", "0".to_owned());
        add("OFFSET(vmap_area.list)", "40".to_owned());
    }
    if let (true, Some(vmemmap)) = (era.since(6, 12), at.vmemmap) {
        add("SYMBOL(vmemmap)", hex(vmemmap));
        add("NUMBER(VMALLOC_START)", format!("{:#x}", at.page_offset | 0x7fff_0000_0000));
    }
    match spec.model {
        Model::Flat => {
            add("SYMBOL(mem_map)", hex(at.symbol("mem_map")));
            add("SYMBOL(contig_page_data)", hex(at.symbol("node_online_map") + 128));
            add("OFFSET(pglist_data.node_mem_map)", "171568".to_owned());
        }
        Model::Extreme { .. } | Model::Sparse => {
            add("SYMBOL(mem_section)", hex(at.symbol("mem_section")));
            add("LENGTH(mem_section)", at.mem_section_len.to_string());
            add("SIZE(mem_section)", at.mem_section_size.to_string());
            add("OFFSET(mem_section.section_mem_map)", "0".to_owned());
            if era.since(5, 13) {
                add("NUMBER(SECTION_SIZE_BITS)", facts.section_bits.to_string());
            }
            if era.since(5, 8) {
                add("NUMBER(MAX_PHYSMEM_BITS)", at.max_physmem_bits.to_string());
            }
        }
    }
    let page = &spec.page;
    for (name, size) in [
        ("page", page.size),
        ("pglist_data", 174_208),
        ("zone", 1536),
        ("free_area", 88),
        ("list_head", 16),
        ("nodemask_t", 128),
    ] {
        add(&format!("SIZE({name})"), size.to_string());
    }
    let mut offset = |name: &str, value: u64| add(&format!("OFFSET({name})"), value.to_string());
    offset("page.flags", page.flags);
    offset("page._refcount", page.refcount);
    offset("page.mapping", page.mapping);
    offset("page.lru", page.lru);
    offset("page._mapcount", page.mapcount);
    offset("page.private", page.private);
    match era.compound {
        Compound::PageDtor => {
            offset("page.compound_dtor", page.lru + 8);
            offset("page.compound_order", page.lru + 9);
        }
        Compound::FolioDtor => {
            offset("folio._folio_dtor", page.size + page.lru + 8);
            offset("folio._folio_order", page.size + page.lru + 9);
        }
        Compound::Flags | Compound::Types => {}
    }
    offset(&format!("page.{}", era.compound_word()), page.lru);
    for (name, value) in [
        ("pglist_data.node_zones", 0),
        ("pglist_data.nr_zones", 171_552),
        ("pglist_data.node_start_pfn", 171_560),
        ("pglist_data.node_spanned_pages", 171_576),
        ("pglist_data.node_id", 171_584),
        ("zone.free_area", 256),
        ("zone.vm_stat", 1344),
        ("zone.spanned_pages", 144),
        ("free_area.free_list", 0),
        ("list_head.next", 0),
        ("list_head.prev", 8),
    ] {
        offset(name, value);
    }
    add("LENGTH(zone.free_area)", FREE_AREAS.to_string());
    let fixed = match era.log() {
        LogKind::Ring => RING_KEYS,
        LogKind::Records => RECORD_KEYS,
    };
    for name in at.log_symbols() {
        add(&format!("SYMBOL({name})"), hex(at.symbol(name)));
    }
    for (key, value) in fixed {
        add(key, value.to_string());
    }
    add("LENGTH(free_area.free_list)", "5".to_owned());
    let mut number = |name: &str, value: i64| add(&format!("NUMBER({name})"), value.to_string());
    let f = &era.flags;
    number("NR_FREE_PAGES", 0);
    number("PG_lru", f.lru.into());
    number("PG_private", f.private.into());
    number("PG_swapcache", f.swapcache.into());
    number("PG_swapbacked", f.swapbacked.into());
    number("PG_hwpoison", f.hwpoison.into());
    number("PG_head_mask", 1 << f.head);
    if let Some(bit) = f.slab {
        number("PG_slab", bit.into());
    }
    if let Some(bit) = f.hugetlb {
        number("PG_hugetlb", bit.into());
    }
    if matches!(era.compound, Compound::PageDtor | Compound::FolioDtor) {
        number("HUGETLB_PAGE_DTOR", 2);
    }
    let t = &era.types;
    for (name, value) in [
        ("BUDDY", Some(t.buddy)),
        ("OFFLINE", t.offline),
        ("HUGETLB", t.hugetlb),
        ("SLAB", t.slab),
        ("UNACCEPTED", t.unaccepted),
    ] {
        let Some(value) = value else { continue };
        // Whether the constant is signed in C has changed; tools cast it to 32 bits.
        let value = if era.since(6, 16) { i64::from(value.cast_unsigned()) } else { value.into() };
        number(&format!("PAGE_{name}_MAPCOUNT_VALUE"), value);
    }
    if native {
        number("phys_base", at.phys_base.cast_signed());
        number("pgtable_l5_enabled", i64::from(spec.five_level));
        number("KERNEL_IMAGE_SIZE", 1 << 30);
        number("sme_mask", at.sme_mask.cast_signed());
        add("SYMBOL(init_top_pgt)", hex(at.symbol("swapper_pg_dir")));
        add("KERNELOFFSET", hex(at.kernel_offset));
    }
    keys.extend(at.keys.iter().cloned());
    let mut add = |key: &str, value: String| keys.push((key.to_owned(), value));
    if spec.model != Model::Flat {
        add("SYMBOL(node_data)", hex(at.symbol("node_online_map") + 256));
        add("LENGTH(node_data)", "1024".to_owned());
    }
    add("CRASHTIME", CRASH_TIME.to_string());

    let mut text = String::new();
    for (key, value) in keys.iter().filter(|(key, _)| !spec.without.contains(key)) {
        writeln!(text, "{key}={value}").expect("a String");
    }
    text
}

const RING_KEYS: &[(&str, u64)] = &[
    ("SIZE(printk_ringbuffer)", 88),
    ("OFFSET(printk_ringbuffer.desc_ring)", 0),
    ("OFFSET(printk_ringbuffer.text_data_ring)", 48),
    ("OFFSET(printk_ringbuffer.fail)", 80),
    ("SIZE(prb_desc_ring)", 48),
    ("OFFSET(prb_desc_ring.count_bits)", 0),
    ("OFFSET(prb_desc_ring.descs)", 8),
    ("OFFSET(prb_desc_ring.infos)", 16),
    ("OFFSET(prb_desc_ring.head_id)", 24),
    ("OFFSET(prb_desc_ring.tail_id)", 32),
    ("SIZE(prb_desc)", 24),
    ("OFFSET(prb_desc.state_var)", 0),
    ("OFFSET(prb_desc.text_blk_lpos)", 8),
    ("SIZE(prb_data_blk_lpos)", 16),
    ("OFFSET(prb_data_blk_lpos.begin)", 0),
    ("OFFSET(prb_data_blk_lpos.next)", 8),
    ("SIZE(printk_info)", 88),
    ("OFFSET(printk_info.seq)", 0),
    ("OFFSET(printk_info.ts_nsec)", 8),
    ("OFFSET(printk_info.text_len)", 16),
    ("OFFSET(printk_info.caller_id)", 20),
    ("OFFSET(printk_info.dev_info)", 24),
    ("SIZE(dev_printk_info)", 64),
    ("OFFSET(dev_printk_info.subsystem)", 0),
    ("LENGTH(printk_info_subsystem)", 16),
    ("OFFSET(dev_printk_info.device)", 16),
    ("LENGTH(printk_info_device)", 48),
    ("SIZE(prb_data_ring)", 32),
    ("OFFSET(prb_data_ring.size_bits)", 0),
    ("OFFSET(prb_data_ring.data)", 8),
    ("OFFSET(prb_data_ring.head_lpos)", 16),
    ("OFFSET(prb_data_ring.tail_lpos)", 24),
    ("SIZE(atomic_long_t)", 8),
    ("OFFSET(atomic_long_t.counter)", 0),
    ("SIZE(latched_seq)", 24),
    ("OFFSET(latched_seq.val)", 8),
];

const RECORD_KEYS: &[(&str, u64)] = &[
    ("SIZE(printk_log)", 16),
    ("OFFSET(printk_log.ts_nsec)", 0),
    ("OFFSET(printk_log.len)", 8),
    ("OFFSET(printk_log.text_len)", 10),
    ("OFFSET(printk_log.dict_len)", 12),
];

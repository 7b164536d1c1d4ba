//! What is seen in a vmcore, for `--message-level 8`: scripts take `OSRELEASE=` and `CRASHTIME=` from it.

use crate::addr::{PhysAddr, VirtAddr};
use crate::engine::Engine;

/// Segments, VMCOREINFO and what follows from them.
pub(super) fn vmcore(engine: &Engine<'_>) -> String {
    let vmcore = engine.vmcore();
    let mut text = String::new();
    text.push_str("               phys_start         phys_end       virt_start         virt_end\n");
    for (i, segment) in vmcore.segments().iter().enumerate() {
        let end = |start: u64| start.saturating_add(segment.mem_len);
        let (phys, virt) = (segment.start.get(), segment.virt.get());
        text.push_str(&format!("LOAD[{i:2}] {phys:16x} {:16x} {virt:16x} {:16x}\n", end(phys), end(virt)));
    }
    text.push_str("Linux kdump\nVMCOREINFO   :\n");
    let note = vmcore.notes().get(vmcore.vmcoreinfo_range()).unwrap_or_default();
    for line in String::from_utf8_lossy(note).lines() {
        let line = line.trim_end_matches('\0');
        if !line.is_empty() {
            text.push_str(&format!("  {line}\n"));
        }
    }
    text.push_str(&format!("page_size    : {}\n", vmcore.page_size().bytes()));
    text.push_str(&format!("max_mapnr    : {:x}\n\n", vmcore.end_pfn().get()));
    text
}

/// How an address translates.
pub(super) fn translation(engine: &mut Engine<'_>, at: VirtAddr) -> String {
    let (steps, phys) = engine.trace(at);
    let at = at.get();
    let mut text = format!("\nTranslating virtual address {at:x} to physical address.\n");
    for (depth, step) in steps.iter().enumerate() {
        // With four levels the top one has the place of x86's P4D; everybody calls it the PGD.
        let level = if depth == 0 { "PGD" } else { step.level };
        text.push_str(&format!("  {level:<4}:{:17x} =>{:17x}\n", step.at, step.entry));
    }
    let phys = phys.map_or(u64::MAX, PhysAddr::get);
    text.push_str(&format!("VIRTUAL           PHYSICAL\n{at:16x}  {phys:x}\n\n"));
    text
}

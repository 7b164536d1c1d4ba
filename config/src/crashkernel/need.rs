//! How much memory a crash kernel needs, term by term.
//!
//! An estimate to choose a reservation by. The terms of vmcored itself were measured in virtual machines; what drivers of real
//! hardware allocate varies with it, and is why the recommendation has room.

use crate::arm::Prepared;
use collector::plan::Target;
use initramfs::root::Root;
use serde::Serialize;

/// One term.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Term {
    /// What it is for.
    pub what: &'static str,
    /// Bytes.
    pub bytes: u64,
    /// Where the figure comes from.
    pub why: String,
}

/// All terms, and what follows.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Need {
    /// The terms.
    pub terms: Vec<Term>,
    /// Their sum.
    pub total: u64,
    /// What to reserve: the sum and a quarter, in steps of 32 MiB.
    pub recommended: u64,
}

const MIB: u64 = 1 << 20;

/// What the prepared image, kernel and plan need on the system at `root`.
pub fn need(prepared: &Prepared, root: &Root) -> Result<Need, initramfs::Error> {
    /// What a distribution's x86-64 kernel takes when its file does not say.
    const KERNEL: u64 = 64 * MIB;
    /// Debian's 6.1 and 6.12, captured in QEMU: what is gone between the kernel's own size and the end of a capture.
    const RUNTIME: u64 = 14 * MIB;
    /// A per-CPU area of the kernel's and its threads, for each CPU that is brought up.
    const PER_CPU: u64 = MIB / 2;
    let resolved = &prepared.resolved;
    let mut terms = Vec::new();
    let mut add = |what, bytes: u64, why: String| {
        if bytes > 0 {
            terms.push(Term { what, bytes, why });
        }
    };
    match resolved.kernel.init_size {
        Some(size) => add("kernel", size, "init_size of its file".to_owned()),
        None => add("kernel", KERNEL, "its file does not say; as distributions' are".to_owned()),
    }
    add("image", length(prepared.image.bytes.len()), "its file, until it is unpacked".to_owned());
    add(
        "image unpacked",
        length(prepared.image.unpacked),
        "the collector, modules, firmware, programs".to_owned(),
    );
    let loaded = loaded_modules(root)?;
    let mut modules = 0_u64;
    let mut known = 0_usize;
    for module in &resolved.modules.modules {
        let name = module.plan.name.replace('-', "_");
        if let Some((_, size)) = loaded.iter().find(|(other, _)| *other == name) {
            modules = modules.saturating_add(*size);
            known += 1;
        }
    }
    let all = resolved.modules.modules.len();
    add("modules", modules, format!("as loaded now, {known} of {all} (/proc/modules)"));
    add("collector and kernel at work", RUNTIME, "measured, a capture to a virtual disk".to_owned());
    let cpus = cpus(&prepared.cmdline.text);
    add("CPUs", PER_CPU.saturating_mul(cpus), format!("{cpus}, by nr_cpus= of the crash command line"));
    let reserved = prepared.kexec.reserved.unwrap_or(0).max(128 * MIB);
    // 64 bytes of struct page for each 4 KiB, and page tables of a five hundred and twelfth.
    add("struct pages and page tables", reserved / 64 + reserved / 512, format!("of {} MiB", reserved / MIB));
    let network = resolved
        .plan
        .targets
        .iter()
        .filter(|rung| matches!(rung.to, Target::Share(_) | Target::Ssh(_)))
        .count();
    if network > 0 {
        add("network", network_bytes(prepared), "rings and buffers of the NICs' drivers, sockets".to_owned());
    }
    if prepared.facts.encrypted {
        add("bounce buffers", 64 * MIB, "memory is encrypted: swiotlb".to_owned());
    }
    let total = terms.iter().fold(0_u64, |sum, term| sum.saturating_add(term.bytes));
    let roomy = total.saturating_add(total / 4);
    let recommended = roomy.checked_next_multiple_of(32 * MIB).unwrap_or(u64::MAX);
    Ok(Need { terms, total, recommended })
}

fn length(bytes: impl TryInto<u64>) -> u64 {
    bytes.try_into().unwrap_or(u64::MAX)
}

/// What drivers of NICs take: of those known to be large what distributions found, else what most take.
fn network_bytes(prepared: &Prepared) -> u64 {
    /// Names, and bytes with one queue.
    const LARGE: [(&str, u64); 4] =
        [("mlx5_core", 124 * MIB), ("ice", 48 * MIB), ("i40e", 32 * MIB), ("bnxt_en", 32 * MIB)];
    let of = |name: &str| LARGE.iter().find(|(large, _)| *large == name).map(|(_, bytes)| *bytes);
    let modules = prepared.resolved.modules.modules.iter();
    modules.filter_map(|module| of(&module.plan.name)).max().unwrap_or(16 * MIB)
}

/// Names and bytes of the modules that are loaded now.
fn loaded_modules(root: &Root) -> Result<Vec<(String, u64)>, initramfs::Error> {
    let text = root.read("/proc/modules")?.unwrap_or_default();
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
    };
    Ok(text.lines().filter_map(line).collect())
}

/// CPUs that the crash kernel brings up.
fn cpus(cmdline: &str) -> u64 {
    let value = cmdline.split_whitespace().rev().find_map(|word| word.strip_prefix("nr_cpus="));
    value.and_then(|value| value.parse().ok()).filter(|cpus| (1..=8192).contains(cpus)).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_of_a_command_line() {
        for (line, want) in [("", 1), ("nr_cpus=4 nr_cpus=2", 2), ("nr_cpus=0", 1), ("nr_cpus=x", 1)] {
            assert_eq!(cpus(line), want, "{line}");
        }
    }
}

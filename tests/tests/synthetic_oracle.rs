//! makedumpfile on the same synthetic vmcores, for the eras that Debian's 1.7.2 knows: pfn by pfn the same pages.
//!
//! Where it is wrong the machine leaves the kind out: heads of impossible orders (it drops the head alone) and
//! blocks over a hole (it drops what there is of them).

mod harness;
#[path = "harness/whole.rs"]
mod whole;

use collector::plan::{Compression, Format};
use harness::dump_spec;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use vmcored_tests::kdump_reader::KdumpFile;
use vmcored_tests::synth::era::Era;
use vmcored_tests::synth::{Core, Spec};
use whole::dump;

/// Whether the tool is here; without it the test says so, and fails in CI.
fn makedumpfile() -> bool {
    let found = Command::new("makedumpfile").arg("-v").output().is_ok();
    if !found {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "makedumpfile is not installed");
        eprintln!("SKIPPED: makedumpfile is not installed (apt install makedumpfile)");
    }
    found
}

fn theirs(vmcore: &Path, level: u8) -> KdumpFile {
    let out = vmcore.with_extension(format!("d{level}"));
    let run =
        Command::new("makedumpfile").args(["-d", &level.to_string()]).arg(vmcore).arg(&out).output().unwrap();
    let said = String::from_utf8_lossy(&run.stderr).into_owned() + &String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "makedumpfile -d {level}: {said}");
    let dump = KdumpFile::open(&out).unwrap();
    std::fs::remove_file(&out).unwrap();
    dump
}

fn compare(core: &Core, label: &str, levels: impl Iterator<Item = u8>) {
    let dir = tempfile::tempdir().unwrap();
    let vmcore = dir.path().join("vmcore");
    std::fs::write(&vmcore, &core.file).unwrap();
    for level in levels {
        let theirs = theirs(&vmcore, level);
        let ours =
            KdumpFile::from_bytes(dump(core, &dump_spec(level, Format::Kdump, Compression::None)).0).unwrap();
        let label = format!("{label} level {level}");
        let name = |pfn: u64| format!("{pfn:#x} {:?}", core.pages.get(&pfn).map(|page| page.kind));
        let set = |dump: &KdumpFile| -> BTreeSet<u64> { dump.present_pfns().collect() };
        let (here, there) = (set(&ours), set(&theirs));
        // A segment's last page of which it has a part: 1.7.2 leaves it out.
        let tails: BTreeSet<u64> = core.partial_tails().collect();
        let missing: Vec<String> = there.difference(&here).take(20).map(|pfn| name(*pfn)).collect();
        assert_eq!(missing, Vec::<String>::new(), "{label}: present for makedumpfile only");
        let extra: BTreeSet<u64> = here.difference(&there).copied().collect();
        assert_eq!(extra, tails, "{label}: present for us only");
        let only = |a: &KdumpFile, b: &KdumpFile| -> Vec<String> {
            a.pfns().filter(|pfn| b.desc(*pfn).is_none() && !tails.contains(pfn)).take(20).map(name).collect()
        };
        assert_eq!(only(&theirs, &ours), Vec::<String>::new(), "{label}: only makedumpfile keeps these");
        assert_eq!(only(&ours, &theirs), Vec::<String>::new(), "{label}: only we keep these");
        for pfn in ours.pfns().filter(|pfn| !tails.contains(pfn)) {
            assert!(ours.page(pfn) == theirs.page(pfn), "{label}: page {} differs", name(pfn));
        }
        // The checker is right about a dump that crash and drgn have read for years.
        assert_eq!(theirs.check(), Vec::<String>::new(), "{label}: makedumpfile's file");
        let (a, b) = (&ours.header, &theirs.header);
        assert_eq!(a.utsname, b.utsname, "{label}");
        assert_eq!((a.tv_sec, a.nr_cpus, a.phys_base), (b.tv_sec, b.nr_cpus, b.phys_base), "{label}");
        assert_eq!((a.max_mapnr, a.bitmap_blocks), (b.max_mapnr, b.bitmap_blocks), "{label}");
        assert_eq!(ours.notes(), theirs.notes(), "{label}");
    }
}

/// The bestiary without what makedumpfile gets wrong.
fn sane(mut spec: Spec) -> Spec {
    let ram = spec.ram.clone();
    spec.blocks.retain(|block| {
        let (start, end) = (block.pfn * 4096, (block.pfn + (1 << block.kind.order())) * 4096);
        !block.kind.is_absurd() && ram.iter().any(|(from, to)| *from <= start && end <= *to)
    });
    spec
}

macro_rules! eras {
    ($($name:ident = $version:literal),* $(,)?) => {
        $(#[test]
        fn $name() {
            if makedumpfile() {
                compare(&sane(Spec::bestiary(Era::named($version))).build(), $version, 0..32);
            }
        })*
    };
}

eras! {
    linux_4_19 = "4.19",
    linux_5_4 = "5.4",
    linux_5_10 = "5.10",
    linux_5_15 = "5.15",
    linux_6_1 = "6.1",
}

#[test]
fn flatmem() {
    if makedumpfile() {
        compare(
            &sane(Spec::flat_bestiary(Era::named("6.1"))).build(),
            "flat",
            [0, 1, 2, 4, 8, 16, 31].into_iter(),
        );
    }
}

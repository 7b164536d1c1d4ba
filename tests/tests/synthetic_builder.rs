//! The builder itself: machines of every era can be built, and the tables in them lead where they should.

use vmcored_tests::elf_reader::ElfFile;
use vmcored_tests::synth::era::ERAS;
use vmcored_tests::synth::{PAGE, Spec};

#[test]
fn each_era_builds_and_reads_back() {
    for era in ERAS {
        let core = Spec::bestiary(era).build();
        let elf = ElfFile::from_bytes(core.file.clone()).unwrap();
        assert_eq!(elf.machine, 62);
        assert_eq!(elf.vmcoreinfo().unwrap(), core.info);
        for pfn in core.pages.keys() {
            assert_eq!(elf.page(*pfn, PAGE), Some(core.content(*pfn)), "{} pfn {pfn:#x}", era.release);
        }
        for virt in
            [core.at.symbol("init_uts_ns"), core.at.symbol("swapper_pg_dir"), core.at.page_offset + 0x2000]
        {
            assert!(core.tables.entry_of(&core.memory, virt).is_some(), "{} {virt:#x}", era.release);
        }
        assert!(core.lines.len() > 10, "{}: {} lines", era.release, core.lines.len());
    }
}

#[test]
fn other_memory_models_build() {
    let era = ERAS.last().unwrap();
    for spec in [Spec::flat_bestiary(era), Spec::sparse_bestiary(era), Spec::shuffled_bestiary(era)] {
        assert!(spec.build().pages.len() > 5000);
    }
}

use super::*;
use crate::kernel::testing::{Ram, Stored, put_symbols};
use crate::vmcore::Endian;

const TEXT: u64 = 0xffff_ffff_8100_0000;
const TABLES: u64 = TEXT + 0x20_0000;

/// Symbols as a kernel has them: per-CPU ones first, then `_stext`, many functions, static ones that repeat.
fn symbols(percpu: bool) -> Vec<(String, u64)> {
    let mut all: Vec<(String, u64)> = Vec::new();
    if percpu {
        all.push(("A__per_cpu_start".to_owned(), 0));
        all.push(("dcurrent_task".to_owned(), 0x1fc40));
    }
    all.push(("T_stext".to_owned(), TEXT));
    all.push(("T_text".to_owned(), TEXT));
    for i in 0..1500_u64 {
        let name = if i % 500 == 7 { "tinit_once".to_owned() } else { format!("Tfunction_{i}") };
        all.push((name, TEXT + 0x100 + i * 0x40));
    }
    // As Rust makes them: a length of two bytes.
    all.push((format!("t_R{}", "Nv".repeat(150)), TEXT + 0x10_0000));
    all.push(("Dswapper_pg_dir".to_owned(), TEXT + 0x10_1000));
    all.push(("Dinit_task".to_owned(), TEXT + 0x10_2000));
    all.push(("B_end".to_owned(), TEXT + 0x10_5000));
    all
}

fn keys(tables: &str) -> VmcoreInfo {
    let own = format!("SYMBOL(_stext)={TEXT:x}\nSYMBOL(swapper_pg_dir)={:x}\n", TEXT + 0x10_1000);
    VmcoreInfo::parse((own + tables).as_bytes())
}

#[test]
fn every_encoding_is_told_from_the_others() {
    for endian in [Endian::Little, Endian::Big] {
        for stored in [Stored::Addresses, Stored::Relative, Stored::AbsolutePercpu, Stored::PlaceRelative] {
            for new_order in [false, true] {
                if stored == Stored::PlaceRelative && !new_order {
                    // There is no kernel with both.
                    continue;
                }
                let own = symbols(stored == Stored::AbsolutePercpu);
                let list: Vec<(&str, u64)> = own.iter().map(|(n, a)| (n.as_str(), *a)).collect();
                let mut ram = Ram::new(endian);
                ram.put(TEXT, &[0x90; 4096]);
                let tables = put_symbols(&mut ram, TABLES, &list, stored, new_order);
                // With the keys of VMCOREINFO, and without.
                for tables in [tables.as_str(), ""] {
                    let what = format!("{endian:?} {stored:?} {new_order} {}", tables.is_empty());
                    let info = keys(tables);
                    let found = Kallsyms::open(&ram, &info).unwrap_or_else(|e| panic!("{what}: {e}"));
                    assert_eq!(found.count() as usize, list.len(), "{what}");
                    let mut seen = Vec::new();
                    found
                        .each(|index, kind, name| {
                            seen.push((
                                format!("{kind}{}", String::from_utf8_lossy(name)),
                                found.address(index).unwrap().get(),
                            ));
                            ControlFlow::Continue(())
                        })
                        .unwrap();
                    assert_eq!(seen, own, "{what}");
                }
            }
        }
    }
}

#[test]
fn symbols_are_found_by_name_and_by_address() {
    let own = symbols(true);
    let list: Vec<(&str, u64)> = own.iter().map(|(n, a)| (n.as_str(), *a)).collect();
    let mut ram = Ram::new(Endian::Little);
    let tables = put_symbols(&mut ram, TABLES, &list, Stored::AbsolutePercpu, true);
    let found = Kallsyms::open(&ram, &keys(&tables)).unwrap();
    let init_task = found.find("init_task").unwrap().unwrap();
    assert_eq!((init_task.kind, init_task.at.get()), ('D', TEXT + 0x10_2000));
    assert_eq!(found.find("init_tas").unwrap(), None);
    let [once, two, none] =
        found.find_all(&["init_once", "function_3", "nothing"], 2).unwrap().try_into().unwrap();
    assert_eq!((once.len(), two.len(), none.len()), (2, 1, 0));
    assert_eq!(two[0].at.get(), TEXT + 0x100 + 3 * 0x40);
    for (at, name) in [
        (0x1fc44, Some("current_task")),
        // The first of those at one address.
        (TEXT + 0x11, Some("_stext")),
        (TEXT + 0x100 + 4 * 0x40 + 0x3f, Some("function_4")),
        (TEXT + 0x10_2000, Some("init_task")),
        (u64::MAX, Some("_end")),
    ] {
        let symbol = found.at(VirtAddr::new(at)).unwrap();
        assert_eq!(symbol.as_ref().map(|s| s.name.as_str()), name, "{at:#x}");
    }
    assert_eq!(found.extent(init_task.at).unwrap(), Some(0x3000));
    // Behind the last symbol are the tables, which have none.
    assert_eq!(found.extent(VirtAddr::new(TEXT + 0x10_5000)).unwrap(), Some(TABLES - (TEXT + 0x10_5000)));
    assert_eq!(found.extent(VirtAddr::new(TABLES + 0x10_0000)).unwrap(), None);
}

#[test]
fn what_makes_no_sense_is_an_error_that_says_so() {
    let own = symbols(true);
    let list: Vec<(&str, u64)> = own.iter().map(|(n, a)| (n.as_str(), *a)).collect();
    let mut ram = Ram::new(Endian::Little);
    let tables = put_symbols(&mut ram, TABLES, &list, Stored::AbsolutePercpu, true);
    let place = |name: &str| {
        let line = tables.lines().find(|l| l.contains(&format!("kallsyms_{name})"))).unwrap();
        u64::from_str_radix(line.split('=').nth(1).unwrap(), 16).unwrap()
    };
    let case = |what: &str, change: &dyn Fn(&mut Ram), want: &str| {
        let mut broken = ram.clone();
        change(&mut broken);
        match Kallsyms::open(&broken, &keys(&tables)) {
            Ok(_) => panic!("{what}: opened"),
            Err(e) => {
                let said = crate::engine::chain(&e);
                assert!(said.contains(want), "{what}: {said}");
            }
        }
    };
    case("no symbols", &|r| r.put64(place("num_syms"), 0), "claims 0 symbols");
    case("many symbols", &|r| r.put32(place("num_syms"), 0xffff_ffff), "claims 4294967295 symbols");
    case("more symbols than there are names", &|r| r.put32(place("num_syms"), 4 << 20), "kallsyms");
    case("a wild index", &|r| r.put16(place("token_index") + 510, 0xffff), "last token");
    case("another base", &|r| r.put64(place("relative_base"), TEXT + 8), "no known encoding");
    let names = usize::try_from(place("token_table") - place("names")).unwrap();
    case("other names", &|r| r.put(place("names"), &vec![0x30; names]), "kallsyms");
    let nothing = Kallsyms::open(&Ram::new(Endian::Little), &keys("")).err().unwrap().to_string();
    assert!(nothing.contains("SYMBOL(kallsyms_names)"), "{nothing}");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
    /// Whatever is damaged: an answer or an error, in bounded time.
    #[test]
    fn damage_never_panics(seed in 0_u64..u64::MAX) {
        let own = symbols(true);
        let list: Vec<(&str, u64)> = own.iter().map(|(n, a)| (n.as_str(), *a)).collect();
        let mut ram = Ram::new(Endian::Little);
        let tables = put_symbols(&mut ram, TABLES, &list, Stored::AbsolutePercpu, true);
        let mut random = seed;
        for _ in 0..8 {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ram.put(TABLES + (random >> 33) % 0x8000, &random.to_le_bytes());
        }
        for info in [keys(&tables), keys("")] {
            if let Ok(found) = Kallsyms::open(&ram, &info) {
                drop(found.find("init_task"));
                drop(found.at(VirtAddr::new(TEXT + 0x1234)));
            }
        }
    }
}

use super::*;
use crate::kernel::testing::{Ram, Stored, Types, put_symbols};
use crate::vmcore::Endian;

const AT: u64 = 0xffff_ffff_8200_0004;

/// A task as small as can be, with everything that is awkward about the real one.
fn types() -> Types {
    let mut t = Types::new();
    let int = t.int("int", 4);
    let long = t.int("long unsigned int", 8);
    let letter = t.int("char", 1);
    let name = t.array(letter, 16);
    let head = t.next();
    t.composite(4, "list_head", 16, &[("next", head + 1, 0), ("prev", head + 1, 8)]);
    t.pointer(head);
    let number = t.typedef("pid_t", int);
    let fixed = t.add("", 10, 0, number, &[]);
    let inner = t.composite(5, "", 8, &[("pid", fixed, 0), ("raw", long, 0)]);
    let outer = t.composite(4, "", 24, &[("flags", long, 0), ("", inner, 8)]);
    let task = t.next() + 1;
    t.pointer(task);
    t.composite(
        4,
        "task_struct",
        128,
        &[
            ("state", int, 0),
            ("", outer, 8),
            ("tasks", head, 32),
            ("comm", name, 48),
            ("parent", task - 1, 64),
        ],
    );
    t.bits("page_flags", 8, &[("zone", int, 0, 3), ("node", int, 3, 10), ("rest", int, 32, 0)]);
    t.enumeration("zone_stat_item", &[("NR_FREE_PAGES", 0), ("NR_BAD", 0xffff_ffff)]);
    t.add("WIDE", 19, 1, 8, &[0, 1, 2]);
    let matrix = t.array(name, 4);
    t.typedef("names_t", matrix);
    let variable = t.add("current_task", 14, 0, task - 1, &[1]);
    t.add(".data..percpu", 15, 1, 8, &[variable, 0, 8]);
    t.add("vmlinux_fn", 12, 0, 0, &[]);
    t.add("float", 16, 0, 4, &[]);
    t
}

fn with<T>(endian: Endian, test: impl FnOnce(&Btf<'_>) -> T) -> T {
    let mut ram = Ram::new(endian);
    let len = types().put(&mut ram, AT);
    test(&Btf::at(&ram, VirtAddr::new(AT), len).unwrap())
}

#[test]
fn members_are_found_through_anonymous_ones_in_both_byte_orders() {
    for endian in [Endian::Little, Endian::Big] {
        with(endian, |btf| {
            let task = btf.find(Among::Composites, "task_struct").unwrap().unwrap();
            assert_eq!(btf.size(task).unwrap(), 128);
            for (path, offset, size, shown) in [
                ("state", 0, 4, "int"),
                ("flags", 8, 8, "long unsigned int"),
                ("pid", 16, 4, "pid_t"),
                ("raw", 16, 8, "long unsigned int"),
                ("tasks", 32, 16, "struct list_head"),
                ("tasks.prev", 40, 8, "struct list_head *"),
                ("comm", 48, 16, "char [16]"),
                ("parent", 64, 8, "struct task_struct *"),
            ] {
                let field = btf.member(task, path).unwrap();
                assert_eq!(field.offset(), Some(offset), "{path}");
                assert_eq!(btf.size(field.ty).unwrap(), size, "{path}");
                assert_eq!(btf.shown(field.ty).unwrap(), shown, "{path}");
            }
            for (path, want) in [
                ("nothing", "no member \"nothing\""),
                ("comm.x", "has no members"),
                ("parent.comm", "struct task_struct * has no members"),
                ("", "no member \"\""),
            ] {
                let said = btf.member(task, path).unwrap_err().to_string();
                assert!(said.contains(want), "{path}: {said}");
            }
            let mut names = Vec::new();
            btf.members(task, |name, _| names.push(name.to_owned())).unwrap();
            assert_eq!(names, ["state", "", "tasks", "comm", "parent"]);
        });
    }
}

#[test]
fn bit_fields_enumerators_variables_and_sizes() {
    with(Endian::Little, |btf| {
        let flags = btf.find(Among::Composites, "page_flags").unwrap().unwrap();
        let node = btf.member(flags, "node").unwrap();
        assert_eq!((node.bit_offset, node.bits, node.offset()), (3, Some(10), None));
        assert_eq!(btf.member(flags, "rest").unwrap().offset(), Some(4));
        assert_eq!(btf.enumerator("NR_FREE_PAGES").unwrap(), Some(0));
        assert_eq!(btf.enumerator("NR_BAD").unwrap(), Some(-1));
        assert_eq!(btf.enumerator("comm").unwrap(), None);
        let current = btf.variable("current_task").unwrap().unwrap();
        assert_eq!(btf.shown(current).unwrap(), "struct task_struct *");
        assert_eq!(btf.size(current).unwrap(), 8);
        assert_eq!(btf.variable("init_task").unwrap(), None);
        let names = btf.find(Among::Names, "names_t").unwrap().unwrap();
        assert_eq!(btf.size(names).unwrap(), 64);
        assert_eq!(btf.find(Among::Composites, "int").unwrap(), None);
        assert_eq!(btf.size(TypeId::VOID).unwrap(), 0);
        assert!(btf.get(TypeId(btf.count())).is_err());
        for id in 0..btf.count() {
            btf.shown(TypeId(id)).unwrap();
        }
    });
}

#[test]
fn it_is_found_by_its_symbols_or_by_its_magic_number() {
    // A kernel's types take more than 64 KiB.
    let mut types = types();
    for i in 0..2000 {
        types.composite(4, &format!("filler_{i}"), 8, &[("x", 1, 0), ("y", 1, 4)]);
    }
    const TEXT: u64 = 0xffff_ffff_8100_0000;
    let mut ram = Ram::new(Endian::Little);
    ram.put(TEXT, &[0x90; 4096]);
    // Something that only looks like it.
    ram.put(AT - 0x2004, &[0x9f, 0xeb, 1, 0, 24, 0, 0, 0]);
    let len = types.put(&mut ram, AT);
    let stop = AT + len;
    for ends in [true, false] {
        let mut symbols = vec![("T_stext", TEXT)];
        if ends {
            symbols.extend([("R__start_BTF", AT), ("R__stop_BTF", stop)]);
        }
        let tables = put_symbols(&mut ram, TEXT + 0x40_0000, &symbols, Stored::Relative, true);
        let info = VmcoreInfo::parse(format!("SYMBOL(_stext)={TEXT:x}\n{tables}").as_bytes());
        let symbols = Kallsyms::open(&ram, &info).unwrap();
        let btf = Btf::open(&ram, &info, &symbols).unwrap();
        assert!(btf.find(Among::Composites, "filler_1999").unwrap().is_some(), "{ends}");
    }
}

/// A kernel that has loaded a module with types of its own; `start_id` is what the kernel says is the first of them, less
/// what it is.
fn with_module<T>(start_id: i64, test: impl FnOnce(Result<Option<Btf<'_>>, BtfError>) -> T) -> T {
    const TEXT: u64 = 0xffff_ffff_8100_0000;
    const LIST: u64 = 0xffff_ffff_8300_0000;
    const HEAP: u64 = 0xffff_8880_0000_1000;
    const OWN: u64 = 0xffff_ffff_c000_0000;
    let mut kernel = types();
    let (int, long, head) = (1, 2, 5);
    let letter = kernel.int("char", 1);
    let name = kernel.array(letter, 56);
    kernel.composite(4, "btf_module", 32, &[("list", head, 0), ("btf", head + 1, 24)]);
    kernel.composite(
        4,
        "btf",
        128,
        &[
            ("data", long, 0),
            ("data_size", int, 8),
            ("start_id", int, 12),
            ("start_str_off", int, 16),
            ("name", name, 20),
        ],
    );
    let task = kernel.next() - 1;
    let mut own = Types::split(&kernel);
    let inner = own.composite(4, "only_here", 24, &[("comm", int, 0), ("of_module", head, 8)]);
    own.composite(4, "list_head_too", 40, &[("heads", head, 0), ("", inner, 16)]);
    own.enumeration("states", &[("ONLY_HERE_DEAD", 7)]);

    let mut ram = Ram::new(Endian::Little);
    let len = kernel.put(&mut ram, AT);
    let own_len = own.put(&mut ram, OWN);
    for (at, next) in [(LIST, HEAP), (HEAP, HEAP + 0x100), (HEAP + 0x100, LIST)] {
        ram.put64(at, next);
    }
    for (entry, btf, called) in [(HEAP, HEAP + 0x200, "other\0"), (HEAP + 0x100, HEAP + 0x300, "a_module\0")]
    {
        ram.put64(entry + 24, btf);
        ram.put(btf, &[0; 128]);
        ram.put64(btf, OWN);
        ram.put32(btf + 8, u32::try_from(own_len).unwrap());
        ram.put32(btf + 12, u32::try_from(i64::from(task) + 1 + start_id).unwrap());
        ram.put32(btf + 16, kernel.strings_len());
        ram.put(btf + 20, called.as_bytes());
    }
    ram.put(TEXT, &[0x90; 4096]);
    let stop = AT + len;
    let symbols = [("T_stext", TEXT), ("R__start_BTF", AT), ("R__stop_BTF", stop), ("dbtf_modules", LIST)];
    let tables = put_symbols(&mut ram, TEXT + 0x40_0000, &symbols, Stored::Relative, true);
    let info = VmcoreInfo::parse(format!("SYMBOL(_stext)={TEXT:x}\n{tables}").as_bytes());
    let symbols = Kallsyms::open(&ram, &info).unwrap();
    let base = Btf::open(&ram, &info, &symbols).unwrap();
    assert!(Btf::of_module(&ram, &base, &symbols, "not_loaded").unwrap().is_none());
    test(Btf::of_module(&ram, &base, &symbols, "a_module"))
}

#[test]
fn a_module_has_types_of_its_own_on_those_of_the_kernel() {
    with_module(0, |btf| {
        let btf = btf.unwrap().unwrap();
        for (name, size, member, offset, shown) in [
            ("only_here", 24, "comm", 0, "int"),
            ("only_here", 24, "of_module.prev", 16, "struct list_head *"),
            ("list_head_too", 40, "heads.next", 0, "struct list_head *"),
            ("list_head_too", 40, "of_module", 24, "struct list_head"),
            // The kernel's.
            ("task_struct", 128, "tasks.prev", 40, "struct list_head *"),
            ("task_struct", 128, "pid", 16, "pid_t"),
        ] {
            let ty = btf.find(Among::Composites, name).unwrap().unwrap();
            assert_eq!(btf.size(ty).unwrap(), size, "{name}");
            assert_eq!(btf.shown(ty).unwrap(), format!("struct {name}"));
            let field = btf.member(ty, member).unwrap();
            assert_eq!(field.offset(), Some(offset), "{name}.{member}");
            assert_eq!(btf.shown(field.ty).unwrap(), shown, "{name}.{member}");
        }
        assert_eq!(btf.enumerator("ONLY_HERE_DEAD").unwrap(), Some(7));
        assert_eq!(btf.enumerator("NR_BAD").unwrap(), Some(-1));
        assert!(btf.get(TypeId(btf.count())).is_err());
    });
    // Types that do not go on where the kernel's end would be read as others.
    with_module(-1, |btf| {
        let said = btf.err().map(|e| e.to_string()).unwrap();
        assert!(said.contains("a_module start with type"), "{said}");
    });
}

#[test]
fn types_that_lead_to_themselves_end() {
    let mut t = Types::new();
    let selfish = t.next();
    t.typedef("selfish", selfish);
    let array = t.next();
    t.array(array, 0xffff_ffff);
    let inside = t.next();
    t.composite(4, "", 8, &[("", inside, 0), ("", inside, 0)]);
    let pointer = t.next();
    t.pointer(pointer);
    t.composite(4, "outer", 8, &[("", inside, 0)]);
    let mut ram = Ram::new(Endian::Little);
    let len = t.put(&mut ram, AT);
    let btf = Btf::at(&ram, VirtAddr::new(AT), len).unwrap();
    assert!(btf.plain(TypeId(selfish)).is_err());
    assert!(btf.size(TypeId(array)).is_err());
    assert_eq!(btf.shown(TypeId(pointer)).unwrap(), "a type without end");
    let outer = btf.find(Among::Composites, "outer").unwrap().unwrap();
    let said = btf.member(outer, "selfish").unwrap_err().to_string();
    assert!(said.contains("without end"), "{said}");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(128))]
    /// Whatever is damaged: an answer or an error, in bounded time.
    #[test]
    fn damage_never_panics(hits in proptest::collection::vec((0_u64..1200, 0_u8..=255), 1..12)) {
        let mut ram = Ram::new(Endian::Little);
        let len = types().put(&mut ram, AT);
        for (at, byte) in hits {
            ram.put(AT + at, &[byte]);
        }
        if let Ok(btf) = Btf::at(&ram, VirtAddr::new(AT), len) {
            drop(btf.enumerator("NR_BAD"));
            for id in 0..btf.count() {
                drop(btf.shown(TypeId(id)));
                drop(btf.size(TypeId(id)));
                drop(btf.member(TypeId(id), "comm.pid"));
            }
        }
    }
}

use super::place::Access;
use super::resolve::resolve_in;
use super::*;
use crate::addr::{FileOffset, Pfn, PhysAddr, VirtAddr};
use crate::format::PageReader;
use crate::kernel::testing::{Ram, Stored, Types, put_symbols};
use crate::vmcore::fixture::Core;
use crate::vmcore::{Endian, ReadAt, ReadError, Vmcore, VmcoreInfo};

const TEXT: u64 = 0xffff_ffff_8100_0000;
const DATA: u64 = TEXT + 0x10_0000;
const HEAP: u64 = 0xffff_8880_0000_1000;
/// Virtual memory is where physical memory is, less this.
const SKEW: u64 = 0xffff_8000_0000_0000;

/// A kernel with three tasks on a list, of which the first is a symbol, an array, strings, a chain.
fn kernel() -> (Ram, VmcoreInfo) {
    let mut t = Types::new();
    let int = t.int("int", 4);
    let long = t.int("long int", 8);
    let letter = t.int("char", 1);
    let byte = t.int("unsigned char", 1);
    let string = t.pointer(letter);
    let bytes = t.pointer(byte);
    let anything = t.pointer(0);
    let name = t.array(letter, 16);
    let head = t.next();
    t.composite(4, "list_head", 16, &[("next", head + 1, 0), ("prev", head + 1, 8)]);
    t.pointer(head);
    let mm = t.composite(4, "mm_struct", 64, &[("start", long, 0)]);
    let mm_pointer = t.pointer(mm);
    let next = t.next() + 1;
    t.pointer(next);
    t.composite(
        4,
        "task_struct",
        128,
        &[
            ("pid", int, 0),
            ("comm", name, 8),
            ("tasks", head, 24),
            ("mm", mm_pointer, 40),
            ("note", string, 48),
            ("key", bytes, 56),
            ("stack", anything, 64),
            ("len", long, 72),
            ("next", next - 1, 80),
        ],
    );
    t.bits("flags_t", 8, &[("bit", int, 0, 1), ("whole", int, 32, 0)]);
    let counter = t.add("my_counter", 14, 0, long, &[1]);
    t.add(".data..percpu", 15, 1, 8, &[counter, 0, 8]);

    let mut ram = Ram::new(Endian::Little);
    ram.put(TEXT, &[0x90; 4096]);
    ram.put(DATA, &[0; 0x2000]);
    ram.put(HEAP, &[0; 0x3000]);
    let btf = TEXT + 0x18_0000;
    let len = t.put(&mut ram, btf);
    let mut symbols = vec![
        ("A__per_cpu_start", 0),
        ("dmy_counter", 0x40),
        ("A__per_cpu_end", 0x100),
        ("T_stext", TEXT),
        ("R__start_BTF", btf),
        ("R__stop_BTF", btf + len),
        ("Dinit_task", DATA),
        ("Dsaved_command_line", DATA + 0x80),
        ("Dtable", DATA + 0x90),
        ("Dtwice", DATA + 0xb0),
        ("Dtwice", DATA + 0xc0),
        ("Dempty_head", DATA + 0xd0),
        ("Dcount.12", DATA + 0xe0),
        ("D__per_cpu_offset", DATA + 0x100),
        ("Dnr_cpu_ids", DATA + 0x110),
        ("D_end", DATA + 0x200),
    ];
    symbols.sort_by_key(|s| s.1);
    let tables = put_symbols(&mut ram, TEXT + 0x20_0000, &symbols, Stored::AbsolutePercpu, true);
    // Tasks: init_task, and two that are allocated, across a page's end.
    let tasks = [DATA, HEAP + 0x100, HEAP + 0xff0];
    for (index, at) in tasks.iter().enumerate() {
        let after = tasks[(index + 1) % 3];
        let before = tasks[(index + 2) % 3];
        ram.put32(*at, u32::try_from(index).unwrap());
        ram.put(at + 8, b"name-of-a-task\0\0");
        ram.put64(at + 24, after + 24);
        ram.put64(at + 32, before + 24);
        ram.put64(at + 72, 5);
        ram.put64(at + 80, if index < 2 { after } else { 0 });
    }
    ram.put64(DATA + 48, HEAP + 0x800);
    ram.put64(DATA + 56, HEAP + 0x900);
    ram.put64(DATA + 64, HEAP + 0xa00);
    ram.put(HEAP + 0x800, b"secret\0behind");
    ram.put64(tasks[1] + 40, HEAP + 0x2000);
    ram.put64(tasks[2] + 48, 0x1234);
    ram.put64(DATA + 0x80, HEAP + 0x820);
    ram.put(HEAP + 0x820, &[b'c'; 1900]);
    ram.put64(DATA + 0xd0, DATA + 0xd0);
    ram.put32(DATA + 0xe0, 7);
    ram.put64(DATA + 0x100, HEAP + 0x2100);
    ram.put64(DATA + 0x108, HEAP + 0x2200);
    ram.put32(DATA + 0x110, 2);
    let info = VmcoreInfo::parse(format!("SYMBOL(_stext)={TEXT:x}\n{tables}").as_bytes());
    (ram, info)
}

fn resolved(ram: &Ram, info: &VmcoreInfo, rules: &str) -> Resolved {
    let translate = |at: VirtAddr| {
        let mut byte = [0];
        crate::kernel::printk::Memory::read(ram, at, &mut byte)?;
        Ok::<_, ReadError>(PhysAddr::new(at.get() - SKEW))
    };
    let rules = Rules::parse(rules).unwrap_or_else(|e| panic!("{rules}: {e}"));
    resolve_in(&rules, &Access { memory: ram, info, translate: &translate })
}

/// Virtual start, bytes, fill.
fn virt(resolved: &Resolved) -> Vec<(u64, u64, u8)> {
    resolved.patches.iter().map(|p| (p.start + SKEW, p.end - p.start, p.fill)).collect()
}

#[test]
fn what_rules_mean_in_memory() {
    let (ram, info) = kernel();
    let (second, third) = (HEAP + 0x100, HEAP + 0xff0);
    type Pieces<'a> = &'a [(u64, u64, u8)];
    let x = ERASED;
    let cases: &[(&str, Pieces<'_>, &str)] = &[
        ("erase init_task.comm", &[(DATA + 8, 16, x)], "erase init_task.comm size 16\n"),
        (
            "# a comment\n[vmlinux]\nerase init_task.comm size 4 # five",
            &[(DATA + 8, 4, x)],
            "erase init_task.comm size 4\n",
        ),
        ("erase init_task", &[(DATA, 128, x)], "erase init_task size 128\n"),
        // A string ends at its NUL; a longer one than makedumpfile's 1024 is erased to its end.
        ("erase init_task.note", &[(HEAP + 0x800, 6, x)], "erase init_task.note size 6\n"),
        ("erase saved_command_line", &[(HEAP + 0x820, 1900, x)], "erase saved_command_line size 1900\n"),
        ("erase init_task.key size init_task.len", &[(HEAP + 0x900, 5, x)], "erase init_task.key size 5\n"),
        ("erase init_task.stack size 1K", &[(HEAP + 0xa00, 1024, x)], "erase init_task.stack size 1024\n"),
        ("erase init_task.stack nullify", &[(DATA + 64, 8, NULLIFIED)], "erase init_task.stack nullify\n"),
        // A null pointer: there is nothing.
        ("erase init_task.mm", &[], ""),
        ("erase init_task.mm.start", &[], ""),
        ("erase table:char[]", &[(DATA + 0x90, 0x20, x)], "erase table:char[] size 32\n"),
        ("erase table:int[2]", &[(DATA + 0x90, 8, x)], "erase table:int[2] size 8\n"),
        ("erase count.12:int", &[(DATA + 0xe0, 4, x)], "erase count.12:int size 4\n"),
        ("erase table:task_struct*.comm", &[], ""),
        // On each CPU.
        (
            "erase my_counter",
            &[(HEAP + 0x2140, 8, x), (HEAP + 0x2240, 8, x)],
            "erase my_counter size 8\nerase my_counter size 8\n",
        ),
        (
            "for t in init_task.tasks.next within task_struct:tasks\nerase t.comm\nendfor",
            &[(second + 8, 16, x), (third + 8, 16, x)],
            "erase t.comm size 16\nerase t.comm size 16\n",
        ),
        (
            "for t in init_task.tasks within task_struct:tasks\nerase t.comm\nerase t.mm nullify\nendfor",
            &[
                (second + 8, 16, x),
                (second + 40, 8, NULLIFIED),
                (third + 8, 16, x),
                (third + 40, 8, NULLIFIED),
            ],
            "erase t.comm size 16\nerase t.mm nullify\nerase t.comm size 16\nerase t.mm nullify\n",
        ),
        (
            "for t in init_task via tasks\nerase t.pid\nendfor",
            &[(second, 4, x), (third, 4, x), (DATA, 4, x)],
            "erase t.pid size 4\nerase t.pid size 4\nerase t.pid size 4\n",
        ),
        (
            "for t in init_task via next\nerase t.pid\nendfor",
            &[(second, 4, x), (third, 4, x), (DATA, 4, x)],
            "erase t.pid size 4\nerase t.pid size 4\nerase t.pid size 4\n",
        ),
        ("for t in empty_head:list_head within task_struct:tasks\nerase t\nendfor", &[], ""),
        (
            "for c in table:int[2]\nerase c size 2\nendfor",
            &[(DATA + 0x90, 2, x), (DATA + 0x94, 2, x)],
            "erase c size 2\nerase c size 2\n",
        ),
        ("for c in init_task.comm\nerase c\nendfor", &[(DATA + 8, 16, x)], &"erase c size 1\n".repeat(16)),
    ];
    for (rules, want, record) in cases {
        let found = resolved(&ram, &info, rules);
        assert_eq!(found.unresolved, [""; 0], "{rules}");
        assert_eq!(virt(&found), *want, "{rules}");
        assert_eq!(found.record, *record, "{rules}");
    }
}

#[test]
fn what_cannot_be_resolved_is_said() {
    let (ram, info) = kernel();
    for (rules, want) in [
        ("erase nothing", "line 1: erase nothing: the kernel has no symbol nothing"),
        (
            "erase table",
            "name it, as in table:STRUCT, table:char* for a string, or table:char[] for the 32 bytes",
        ),
        ("erase table size 8", "does not tell the type of table"),
        ("erase twice:int", "has 2 symbols called twice"),
        ("erase table:nothing", "have no nothing"),
        ("erase init_task.nothing", "no member \"nothing\""),
        ("erase init_task.mm.nothing", "no member \"nothing\""),
        ("erase init_task.pid.x", "int has no members"),
        ("erase init_task.pid nullify", "it is int, no pointer"),
        ("erase init_task.key", "bytes whose number is not known"),
        ("erase init_task.stack", "add size NUMBER, or nullify"),
        ("erase init_task.key size init_task.comm", "is no number"),
        ("erase table:flags_t.bit", "is a bit-field"),
        ("erase mm_struct", "it is a type; name a member"),
        ("erase list_head.next", "known only of task_struct, mm_struct"),
        ("for t in init_task.tasks within task_struct:comm\nerase t\nendfor", "no struct list_head"),
        ("for t in init_task within task_struct:tasks\nerase t\nendfor", "init_task is struct task_struct"),
        ("for t in init_task\nerase t\nendfor", "no array"),
        ("for t in init_task via pid\nerase t\nendfor", "no pointer to the next"),
        // The third task's note points nowhere: the others are erased all the same.
        ("for t in init_task via tasks\nerase t.note\nendfor", "line 2: erase t.note: its string"),
        ("[a_module]\nerase x:int", "no `modules`"),
    ] {
        let found = resolved(&ram, &info, rules);
        let said = found.unresolved.join("\n");
        assert!(said.contains(want), "{rules}: {said:?}");
    }
    let partly = resolved(
        &ram,
        &info,
        "erase nothing\nfor t in init_task via tasks\nerase t.note\nendfor\nerase init_task.pid",
    );
    assert_eq!(partly.unresolved.len(), 2);
    assert_eq!(virt(&partly), [(HEAP + 0x800, 6, ERASED), (DATA, 4, ERASED)]);
}

#[test]
fn lists_that_are_damaged_end() {
    let rules = "for t in init_task.tasks within task_struct:tasks\nerase t.pid\nendfor";
    let (second, third) = (HEAP + 0x100, HEAP + 0xff0);
    for (next_of_third, want) in [
        (second + 24, "runs in a circle"),
        (third + 24, "runs in a circle"),
        (0, "ends in a null pointer"),
        (0xdead_0000_0000_0100, "the list is broken at"),
    ] {
        let (mut ram, info) = kernel();
        ram.put64(third + 24, next_of_third);
        let found = resolved(&ram, &info, rules);
        let said = found.unresolved.join("\n");
        assert!(said.contains(want), "{next_of_third:#x}: {said:?}");
        assert!(virt(&found).contains(&(second, 4, ERASED)), "{next_of_third:#x}");
    }
}

#[test]
fn wrong_rules_name_their_line() {
    for (text, line, want) in [
        ("erase", 1, "erase EXPRESSION"),
        ("\n\nfrobnicate x", 3, "\"frobnicate\" is no command"),
        ("erase a b", 1, "erase EXPRESSION"),
        ("erase a size", 1, "erase EXPRESSION"),
        ("erase a size 0", 1, "from 1 to"),
        ("erase a size 5X", 1, "from 1 to"),
        ("erase a size 2000M", 1, "from 1 to"),
        ("erase a size 99999999999999999999", 1, "from 1 to"),
        ("erase a..b", 1, "an expression is"),
        ("erase .a", 1, "an expression is"),
        ("erase a:", 1, "an expression is"),
        ("erase a:b*x", 1, "an expression is"),
        ("erase a->b", 1, "an expression is"),
        ("[x", 1, "a section is"),
        ("[]", 1, "a section is"),
        ("for x in a\nerase y\nendfor", 2, "only its variable"),
        ("for x in a\nerase x", 1, "no endfor"),
        ("for x in a\n[vmlinux]", 1, "no endfor"),
        ("endfor", 1, "without a for"),
        ("for x in a\nendfor x", 2, "stands alone"),
        ("for x of a", 1, "a loop is"),
        ("for x in a within b", 1, "STRUCT:member"),
        ("for 1 in a", 1, "is no name"),
        ("for x in a via b..c", 1, "is no member"),
    ] {
        let e = Rules::parse(text).unwrap_err();
        assert_eq!(e.line, line, "{text:?}: {e}");
        assert!(e.what.contains(want), "{text:?}: {e}");
    }
    assert!(Rules::parse("# nothing\n[vmlinux]\n\n").unwrap().is_empty());
    assert!(Rules::parse(&"for x in a\n".repeat(9)).unwrap_err().what.contains("more than 8 loops"));
}

#[test]
fn every_byte_is_in_one_patch() {
    let patch = |start, end, fill| Patch { start, end, fill };
    let all =
        tidy(vec![patch(10, 20, 1), patch(5, 12, 1), patch(15, 30, 2), patch(40, 40, 1), patch(12, 14, 2)]);
    assert_eq!(all, [patch(5, 20, 1), patch(20, 30, 2)]);
    for at in 0..40_u64 {
        let mut bytes = [9; 7];
        fill(&all, at, &mut bytes);
        for (index, byte) in bytes.iter().enumerate() {
            let here = at + index as u64;
            let want = all.iter().find(|p| p.start <= here && here < p.end).map_or(9, |p| p.fill);
            assert_eq!(*byte, want, "{here}");
        }
    }
}

#[test]
fn what_is_erased_is_in_no_window() {
    // Memory from 0x1000 on, and a part of it once more, as x86-64 shows the kernel's image.
    let memory: Vec<u8> = (0..0x40_0000_u32).map(|i| i.to_le_bytes()[1] | 0x80).collect();
    let image = memory[0x2000..0x5000].to_vec();
    let core = Core::new("PAGESIZE=4096\n").load(0x1000, memory.clone()).load(0x3000, image).build();
    let mut problems = crate::problem::Problems::new();
    let vmcore = Vmcore::open(&core, &mut problems).unwrap();
    let patches =
        [(0x3ff0, 0x4010, ERASED), (0x20_0000, 0x20_0008, NULLIFIED), (0x90_0000, 0x90_0001, ERASED)]
            .map(|(start, end, fill)| Patch { start, end, fill });
    let source = Source::new(&vmcore, &patches);
    let view = vmcore.through(&source);
    let mut want = memory.clone();
    want[0x2ff0..0x3010].fill(b'X');
    want[0x1f_f000..0x1f_f008].fill(0);

    // Pages, one by one and as writers read them.
    let mut reader = PageReader::new(&view);
    for pfn in 1..=0x400_u64 {
        let at = usize::try_from((pfn - 1) * 4096).unwrap();
        let mut page = [0; 4096];
        view.read_page(Pfn::new(pfn), &mut page).unwrap();
        assert_eq!(page[..], want[at..at + 4096], "{pfn:#x}");
        assert_eq!(reader.read(Pfn::new(pfn), Pfn::new(0x401)).unwrap(), &want[at..at + 4096], "{pfn:#x}");
    }
    // Windows of any length; too long a one with erased bytes is refused, not lent.
    for (at, len) in
        [(0x1000, 0x2ff0), (0x1000, 0x3000), (0x3ff0, 1), (0x400f, 1), (0x4010, 0x1000), (0x1000, 0x3f_ffff)]
    {
        let window = view.phys_window(PhysAddr::new(at), len).unwrap();
        let start = usize::try_from(at - 0x1000).unwrap();
        assert_eq!(window[..], want[start..start + window.len()], "{at:#x} {len:#x}");
    }
    // The file: both segments, and all of it as large windows.
    let mut file = vec![0; core.len()];
    source.read_at(FileOffset::new(0), &mut file).unwrap();
    let changed: Vec<usize> = (0..core.len()).filter(|i| core[*i] != file[*i]).collect();
    assert_eq!(changed.len(), 0x20 + 8 + 0x20);
    assert!(source.window(FileOffset::new(0), core.len()).is_err());
    assert!(source.window_len() <= 1 << 20);
}

proptest::proptest! {
    /// Rules of any text are read or refused.
    #[test]
    fn any_text_is_read_or_refused(text in "(erase|for|in|via|within|endfor|size|nullify|a\\.b|x:y|\\[m\\]|[ \\n#.:*\\[\\]0-9KM]){0,40}") {
        drop(Rules::parse(&text));
    }

    /// Whatever is damaged in memory: patches or sentences, in bounded time.
    #[test]
    fn damaged_memory_never_panics(hits in proptest::collection::vec((0_u64..0x3000, 0_u64..u64::MAX), 1..40)) {
        let (mut ram, info) = kernel();
        for (at, value) in hits {
            ram.put64(if at < 0x1000 { DATA + at } else { HEAP + at - 0x1000 }, value >> (at % 64));
        }
        resolved(&ram, &info, "for t in init_task via tasks\nerase t.note\nerase t.key size t.len\nendfor\n\
            for t in init_task.tasks within task_struct:tasks\nerase t.mm\nendfor\nerase saved_command_line");
    }
}

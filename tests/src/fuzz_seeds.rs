//! What fuzzing starts from: files of synthetic machines, and an input or a few for each target.

use crate::synth::arch::{Arch, Arm64, LoongArch64, Mmu, Ppc64, Relocation, Riscv64, S390x, Tells};
use crate::synth::era::Era;
use crate::synth::{Core, Kind, Leaf, Model, Spec};
use anyhow::{Context, Result};
use collector::addr::FileOffset;
use collector::engine::Engine;
use collector::format::stream::Flattened;
use collector::format::{DumpSink, Encoder};
use collector::plan::{Compression, DumpSpec, Format};
use collector::progress::Silent;
use collector::target::raw::{Directory, Dump, FileRecord, Label, State};
use std::io;
use std::sync::Mutex;

/// The codecs of pages.
const CODECS: [Compression; 5] =
    [Compression::None, Compression::Zlib(1), Compression::Lzo, Compression::Snappy, Compression::Zstd(-1)];

/// Kinds of pages that each machine has where its era does.
const KINDS: &[Kind] = &[
    Kind::Buddy(0),
    Kind::Buddy(4),
    Kind::Slab(1),
    Kind::Compound(2),
    Kind::Thp(2),
    Kind::LargeCache(1),
    Kind::Cache,
    Kind::CachePrivate,
    Kind::Shmem,
    Kind::Anon,
    Kind::AnonSwap,
    Kind::Ksm,
    Kind::Movable,
    Kind::Offline,
    Kind::Hwpoison,
    Kind::AbsurdOrder(63),
    Kind::BuddyAbsurd(63),
];

/// A small x86-64 machine.
fn native(era: &'static str, five_level: bool, model: Model) -> Core {
    let mut spec = Spec::new(Era::named(era));
    (spec.five_level, spec.model) = (five_level, model);
    spec.ram = vec![(0x1000, 0x9_fc00), (0x1a0_0000, 0x1a8_0000), (0x1ac_2400, 0x1ad_0800)];
    filled(spec)
}

/// A small machine of another architecture.
fn foreign(arch: Arch, era: &'static str, leaf: Leaf) -> Core {
    let mut spec = Spec::of(arch, Era::named(era), 0x80);
    spec.leaf = leaf;
    filled(spec)
}

fn filled(mut spec: Spec) -> Core {
    let era = spec.era;
    for kind in KINDS.iter().filter(|kind| kind.exists(era)) {
        spec.place(*kind);
    }
    spec.build()
}

/// Small machines with most kinds of pages, of several eras and of each architecture.
pub fn machines() -> [(&'static str, Core); 13] {
    let extreme = Model::Extreme { preinit: false };
    [
        ("x86_64-4.19", native("4.19", false, extreme)),
        ("x86_64-5.4-flat", native("5.4", false, Model::Flat)),
        ("x86_64-6.1-la57", native("6.1", true, extreme)),
        ("x86_64-6.6-sparse", native("6.6", false, Model::Sparse)),
        ("x86_64-7.1", native("7.1", false, Model::Extreme { preinit: true })),
        ("arm64-4k", foreign(Arch::Arm64(Arm64::new(12, 48)), "6.12", Leaf::Page)),
        ("arm64-52", foreign(Arch::Arm64(Arm64::new(12, 52).wide(true)), "6.12", Leaf::Page)),
        ("ppc64-radix", foreign(Arch::Ppc64(Ppc64::new(12, Mmu::Radix, Tells::Number)), "6.12", Leaf::Page)),
        (
            "ppc64-hash",
            foreign(
                Arch::Ppc64(Ppc64::new(12, Mmu::Hash { shift: 16 }, Tells::CpuSpec)),
                "5.15",
                Leaf::Large,
            ),
        ),
        ("s390x", foreign(Arch::S390x(S390x::new(3, Relocation::None)), "5.4", Leaf::Page)),
        ("s390x-relocated", foreign(Arch::S390x(S390x::new(3, Relocation::Told)), "6.12", Leaf::Page)),
        ("riscv64", foreign(Arch::Riscv64(Riscv64::new(48, false)), "6.12", Leaf::Page)),
        ("loongarch64", foreign(Arch::LoongArch64(LoongArch64::new(12, 3)), "6.9", Leaf::Page)),
    ]
}

/// The bases: their names and files. Names start with the container.
pub fn bases() -> Result<Vec<(String, Vec<u8>)>> {
    let machines = machines();
    let mut bases = Vec::new();
    for (name, core) in &machines {
        bases.push((format!("elf-{name}"), core.file.clone()));
    }
    let file = |wanted: &str| {
        let found = machines.iter().find(|(name, _)| *name == wanted).map(|(_, core)| &core.file);
        found.context("no such machine")
    };
    for (name, level, how) in [("x86_64-6.1-la57", 1, CODECS[4]), ("s390x", 31, CODECS[2])] {
        let dumped = dump(file(name)?, level, Format::Kdump, how)?;
        bases.push((format!("flat-{name}"), flat(&dumped)?));
        bases.push((format!("kdump-{name}"), dumped));
    }
    for (number, part) in split(file("x86_64-7.1")?, 3)?.into_iter().enumerate() {
        bases.push((format!("kdump-split-{number}"), part));
    }
    Ok(bases)
}

/// A target's inputs: a name for each, and its bytes.
pub fn seeds(target: &str, bases: &[(String, Vec<u8>)]) -> Result<Vec<(String, Vec<u8>)>> {
    let mut seeds = Vec::new();
    let mut add = |name: &str, parts: &[&[u8]]| seeds.push((name.to_owned(), parts.concat()));
    let how = |format: u8, codec: usize| [31, format | u8::try_from(codec << 3).unwrap_or(0)];
    let text = b"OSRELEASE=6.1.0\nPAGESIZE=4096\nSYMBOL(prb)=ffffffff81000000\nSIZE(page)=64\n\
        OFFSET(page.flags)=0\nLENGTH(zone.free_area)=11\nNUMBER(phys_base)=-1\nCRASHTIME=1700000000\n";
    match target {
        "elf" => {
            for big in [false, true] {
                let file = little_elf(big, text);
                for format in [0, 5, 6, 7] {
                    add(&format!("{big}-{format}"), &[&how(format, 0), &file]);
                }
            }
        }
        "notes" => {
            add("little", &[&[0], &how(0, 0), &notes(false, text)]);
            add("big", &[&[1], &how(6, 0), &notes(true, text)]);
        }
        "vmcoreinfo" => {
            for number in 0..13 {
                add(&format!("{number}-text"), &[&[number], &how(0, 0), text]);
                add(
                    &format!("{number}-page"),
                    &[&[number], &how(6, 0), b"SIZE(page)=56\nOFFSET(page._refcount)=52\n"],
                );
            }
        }
        "machine" | "log" => {
            for number in 0..u8::try_from(bases.len())? {
                for format in [0, 5, 6, 7] {
                    add(&format!("{number}-{format}"), &[&[number], &how(format, usize::from(number) % 5)]);
                }
                for phase in 0..3 {
                    add(
                        &format!("{number}-patch-{phase}"),
                        &[&[number], &how(0, 0), &[phase + 21, 0, 0, 64], &[0xff; 8]],
                    );
                }
            }
        }
        "split" => {
            for order in [0, 1, 2, 0x80] {
                add(&format!("{order}"), &[&[order], &how(order & 7, 1), &[4, 9, 0, 1, 0]]);
            }
        }
        "kdump" | "flattened" => {
            for big in [false, true] {
                let elf = little_elf(big, text);
                for (number, codec) in CODECS.into_iter().enumerate() {
                    let file = dump(&elf, 0, Format::Kdump, codec)?;
                    let file = if target == "kdump" { file } else { flat(&file)? };
                    add(&format!("{big}-{number}"), &[&how(0, number), &file]);
                }
                let file = if target == "kdump" { split(&elf, 2)?.swap_remove(0) } else { flat(&elf)? };
                add(&format!("{big}-other"), &[&how(6, 0), &file]);
            }
        }
        "decode" => {
            let page: Vec<u8> = (0..4096_usize).map(|i| (i / 48 % 251).to_le_bytes()[0]).collect();
            for (codec, what) in [(CODECS[1], 1), (CODECS[2], 2), (CODECS[3], 3), (CODECS[4], 4)] {
                let mut encoder = Encoder::new(codec)?;
                let mut out = vec![0; encoder.bound(page.len())];
                let len = encoder.encode(&page, &mut out).context("text gets shorter")?;
                add(&codec.to_string(), &[&[what], &out[..len]]);
            }
            add("raw", &[&[0], &page]);
        }
        "encode" => {
            for what in 0..6 {
                add(
                    &format!("{what}"),
                    &[&[what], b"text that is repeated, and repeated again ", &[what; 30]],
                );
                add(&format!("{what}-large"), &[&[what | 0x20], &(0..=255).collect::<Vec<u8>>()]);
            }
        }
        "options" => {
            for (number, line) in [
                "vmcore-collect -d31 -z3 -f --num-threads 4 /proc/vmcore out",
                "vmcore-collect --dump-dmesg --compress=lzo in -",
                "makedumpfile -l --message-level 7 -d 31,17 /proc/vmcore out",
                "makedumpfile --split -c -d 1 --splitblock-size=64 in a b c",
                "makedumpfile -F -p --num-threads=2 -x vmlinux in",
                "makedumpfile -R out",
                "makedumpfile --reassemble a b out",
                "makedumpfile --dump-dmesg --partial-dmesg -i info in out",
                "makedumpfile -E -b 8 -L 1G --cyclic-buffer 64 --work-dir /tmp --vtop ffff888000000000 in out",
                "makedumpfile --config filter.conf -x vmlinux -e -D -v --check-params in out",
            ]
            .into_iter()
            .enumerate()
            {
                add(&number.to_string(), &[line.replace(' ', "\0").as_bytes()]);
            }
        }
        "btf" => {
            for big in [false, true] {
                add(&format!("{big}"), &[&[u8::from(big)], &types(big)]);
            }
        }
        "kallsyms" => {
            for big in [false, true] {
                let (keys, memory) = symbols(big);
                for (name, keys) in
                    [("told", keys.as_str()), ("found", keys.lines().next().unwrap_or_default())]
                {
                    let len = u16::try_from(keys.len())? | u16::from(big) << 15;
                    add(&format!("{big}-{name}"), &[&len.to_be_bytes(), keys.as_bytes(), &memory]);
                }
            }
        }
        "report" => {
            for which in [0, 1] {
                add(&format!("{which}"), &[&[which]]);
                for page in 0..12 {
                    add(&format!("{which}-{page}"), &[&[which, page, 1, 0, 7], &[0xff; 8]]);
                }
            }
        }
        "rules" => {
            let text = "# secrets\n[vmlinux]\nerase saved_command_line:char* size 256\nerase cred.uid nullify\n\
                for task in init_task:task_struct.tasks within task_struct:tasks\n  erase task.comm\nendfor\n\
                for k in keys via next.first\n  erase k.payload size k.len\nendfor\n[dm_crypt]\nerase crypt_config.key\n";
            add("all", &[text.as_bytes()]);
            for (number, line) in text.lines().enumerate() {
                add(&number.to_string(), &[line.as_bytes()]);
            }
        }
        "raw" => {
            let label = Label { length: 64 << 20, uuid: [7; 16], prepared: 1_700_000_000 };
            add("label", &[&[0], &label.to_bytes()]);
            let dump = Dump { id: 1, state: State::Complete, first: 0, begun: 5, name: "host-1".to_owned() };
            let file = |id: u32, name: &str| FileRecord {
                dump: 1,
                id,
                finished: true,
                from: u64::from(id),
                first: Some(u64::from(id)),
                length: 5000,
                chunks: 1,
                name: name.to_owned(),
            };
            let directory = Directory {
                sequence: 9,
                next: 4,
                last_dump: 1,
                last_file: 3,
                dumps: vec![dump],
                files: vec![file(1, "vmcore"), file(2, "vmcore-dmesg.txt"), file(3, "manifest.json")],
            };
            let bytes = directory.to_bytes(&label);
            add("directory", &[&[1], bytes.get(32..).unwrap_or_default()]);
            // A chunk with 16 bytes, behind its magic and UUID.
            let numbers = integers(false, &[(1, 4), (1, 4), (3, 8), (16, 4), (0, 4)]);
            add("chunk", &[&[2], &numbers, &[0; 456], b"sixteen bytes...", text]);
        }
        "kdump_conf" => {
            for (number, text) in [
                "xfs LABEL=\"a b\" # c\npath /x\ncore_collector makedumpfile -F -c -d 31,1 --config /r\n",
                "ssh a@2001:db8::1\nsshkey /k\nfence_kdump_nodes a b\nfence_kdump_args -p1 -f ipv4 --count=2\n",
                "dracut_args --mount \"h:/x /m nfs4 rw,vers=4\" --add-drivers 'a b'\noptions m a=b\nblacklist n\n",
                "kdump_pre /a\ndefault shell\nextra_bins /b\ndisk_timeout 5\nforce_rebuild 1\nnfs4 h:/x\n",
                "USE_KDUMP=1\nMAKEDUMP_ARGS=\"-c -d 31\"\nNFS='h:/x'\nA=\"${B:-$(c)}\" # d\nexport E+=\\$f\n",
                "KDUMP_SAVEDIR=\"ssh://u:p@h/d\"\nKDUMP_DUMPLEVEL=1\nKDUMP_DUMPFORMAT=lzo\n",
            ]
            .into_iter()
            .enumerate()
            {
                add(&number.to_string(), &[text.as_bytes()]);
            }
        }
        "crashkernel" => {
            for (number, text) in [
                "quiet crashkernel=0x8000000@16M crashkernel=1G,high crashkernel=256M,low crashkernel=1T,cma",
                "crashkernel=2G-64G:256M,64G-:512M@1G \"x=a b\" -- crashkernel=1",
            ]
            .into_iter()
            .enumerate()
            {
                add(&number.to_string(), &[text.as_bytes()]);
            }
        }
        // A target nobody has seeds for starts from these few.
        _ => add("text", &[text]),
    }
    Ok(seeds)
}

/// Notes of one CPU, and VMCOREINFO.
fn notes(big: bool, text: &[u8]) -> Vec<u8> {
    let word = |value: usize| -> [u8; 4] {
        let value = u32::try_from(value).unwrap_or(0);
        if big { value.to_be_bytes() } else { value.to_le_bytes() }
    };
    let mut notes = [&word(5)[..], &word(336), &word(1), b"CORE\0\0\0\0", &[7; 336]].concat();
    notes.extend([&word(11)[..], &word(text.len()), &word(0), b"VMCOREINFO\0\0", text].concat());
    notes.resize(notes.len().next_multiple_of(4), 0);
    notes
}

/// Integers of a byte order, each with its length.
fn integers(big: bool, values: &[(u64, usize)]) -> Vec<u8> {
    let one = |(value, len): &(u64, usize)| {
        if big { value.to_be_bytes()[8 - len..].to_vec() } else { value.to_le_bytes()[..*len].to_vec() }
    };
    values.iter().flat_map(one).collect()
}

/// A BTF blob: int, a pointer to what follows, a list_head, an array, an enumeration, a typedef, a variable.
fn types(big: bool) -> Vec<u8> {
    let strings = b"\0int\0list_head\0next\0prev\0pageflags\0PG_lru\0list_t\0init_task\0";
    let name = |wanted: &str| {
        let found =
            strings.windows(wanted.len() + 1).position(|at| at == [wanted.as_bytes(), b"\0"].concat());
        found.map_or(0, |at| at as u64)
    };
    let words = [
        [name("int"), 1 << 24, 4, 32].as_slice(),
        &[0, 2 << 24, 3],
        &[name("list_head"), 4 << 24 | 2, 16, name("next"), 2, 0, name("prev"), 2, 64],
        &[0, 3 << 24, 0, 3, 1, 7],
        &[name("pageflags"), 6 << 24 | 1, 4, name("PG_lru"), 5],
        &[name("list_t"), 8 << 24, 3],
        &[name("init_task"), 14 << 24, 6, 1],
    ]
    .concat();
    let len = words.len() as u64 * 4;
    let head = [(0xeb9f, 2), (1, 1), (0, 1), (24, 4), (0, 4), (len, 4), (len, 4), (strings.len() as u64, 4)];
    let words: Vec<(u64, usize)> = words.into_iter().map(|word| (word, 4)).collect();
    [integers(big, &head), integers(big, &words), strings.to_vec()].concat()
}

/// A symbol table of four symbols at 0xffffffff81000000, as kernels since 6.4 lay it out, and VMCOREINFO's keys.
fn symbols(big: bool) -> (String, Vec<u8>) {
    let start = 0xffff_ffff_8100_0000_u64;
    let table = [("T_stext", 0_u64), ("Dprb", 0x1000), ("Dinit_uts_ns", 0x2000), ("D__start_BTF", 0x3000)];
    let mut keys = format!("SYMBOL(_stext)={start:x}\nSYMBOL(prb)={:x}\n", start + 0x1000);
    let mut memory = integers(big, &[(table.len() as u64, 4), (0, 4)]);
    let mut key =
        |name: &str, at: usize| keys.push_str(&format!("SYMBOL(kallsyms_{name})={:x}\n", start + at as u64));
    key("num_syms", 0);
    key("names", memory.len());
    for (name, _) in table {
        memory.push(name.len().to_le_bytes()[0]);
        memory.extend(name.as_bytes());
    }
    memory.resize(memory.len().next_multiple_of(8), 0);
    memory.extend(integers(big, &[(0, 4), (0, 4)])); // one marker
    key("token_table", memory.len());
    let mut places = Vec::new();
    let tokens = memory.len();
    for byte in 0..=255_u8 {
        places.push(((memory.len() - tokens) as u64, 2));
        memory.extend([if byte == 0 { b'~' } else { byte }, 0]);
    }
    memory.resize(memory.len().next_multiple_of(8), 0);
    key("token_index", memory.len());
    memory.extend(integers(big, &places));
    key("offsets", memory.len());
    memory.extend(integers(big, &table.map(|(_, at)| (at, 4))));
    key("relative_base", memory.len());
    memory.extend(integers(big, &[(start, 8)]));
    (keys, memory)
}

/// A machine of eight pages, in a file small enough to be changed anywhere.
fn little_elf(big: bool, text: &[u8]) -> Vec<u8> {
    // Text, zeros, and a little of what cannot be compressed.
    let mut memory: Vec<u8> = (0..0x1800_usize).map(|i| (i / 40).to_le_bytes()[0]).collect();
    memory.resize(0x2800, 0);
    let noise = (0..0x1000_usize).map(|i| ((i * i * 31) >> 5).to_le_bytes()[0]).collect();
    elf_file(big, text, &[(0x1000, memory, 0x2800), (0x8000, noise, 0x3000)])
}

/// A vmcore of x86-64, or of s390x where `big`, with one CPU, this VMCOREINFO, and memory: physical address, bytes in the
/// file, bytes of memory.
pub fn elf_file(big: bool, text: &[u8], loads: &[(u64, Vec<u8>, u64)]) -> Vec<u8> {
    let notes = notes(big, text);
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    file[5] = if big { 2 } else { 1 };
    let mut put = |value: u64, len: usize| {
        file.extend(if big {
            value.to_be_bytes()[8 - len..].to_vec()
        } else {
            value.to_le_bytes()[..len].to_vec()
        });
    };
    for (value, len) in [(4, 2), (if big { 22 } else { 62 }, 2), (1, 4), (0, 8), (64, 8), (0, 8), (0, 4)] {
        put(value, len);
    }
    let headers = 1 + loads.len() as u64;
    for value in [64, 56, headers, 0, 0, 0] {
        put(value, 2);
    }
    let notes_at = 64 + headers * 56;
    let mut at = notes_at + notes.len() as u64;
    let mut program = |kind, at, phys, len, memory| {
        put(kind, 4);
        put(7, 4);
        for value in [at, 0xffff_8880_0000_0000 + phys, phys, len, memory, 0] {
            put(value, 8);
        }
    };
    program(4, notes_at, 0, notes.len() as u64, notes.len() as u64);
    for (phys, bytes, memory) in loads {
        program(1, at, *phys, bytes.len() as u64, *memory);
        at += bytes.len() as u64;
    }
    file.extend(notes);
    loads.iter().for_each(|(_, bytes, _)| file.extend(bytes));
    file
}

/// A file in memory.
#[derive(Debug, Default)]
struct Disk(Mutex<Vec<u8>>);

impl Disk {
    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap_or_default()
    }
}

impl DumpSink for Disk {
    fn write_at(&self, at: FileOffset, bytes: &[u8]) -> io::Result<()> {
        let mut file = self.0.lock().map_err(|_| io::ErrorKind::Other)?;
        let from = usize::try_from(at.get()).map_err(io::Error::other)?;
        let len = file.len().max(from + bytes.len());
        file.resize(len, 0);
        file[from..from + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
    fn finish(&self) -> io::Result<()> {
        Ok(())
    }
}

fn spec(level: u8, format: Format, compression: Compression) -> DumpSpec {
    DumpSpec::new("vmcore", level, format, compression)
}

/// Our own dump of a file.
fn dump(file: &Vec<u8>, level: u8, format: Format, how: Compression) -> Result<Vec<u8>> {
    let disk = Disk::default();
    Engine::open(file)?.dump(&spec(level, format, how), &disk, &Silent)?;
    Ok(disk.bytes())
}

fn split(file: &Vec<u8>, parts: usize) -> Result<Vec<Vec<u8>>> {
    let disks: Vec<Disk> = (0..parts).map(|_| Disk::default()).collect();
    let lent: Vec<&dyn DumpSink> = disks.iter().map(|disk| disk as &dyn DumpSink).collect();
    for report in Engine::open(file)?.dump_split(&spec(31, Format::Kdump, CODECS[3]), &lent, 1, &Silent) {
        report?;
    }
    Ok(disks.into_iter().map(Disk::bytes).collect())
}

/// A file in records that do not lie in order.
fn flat(file: &[u8]) -> Result<Vec<u8>> {
    let sink = Flattened::new(Vec::new());
    let mut pieces: Vec<(usize, &[u8])> = file.chunks(5000).enumerate().collect();
    pieces.rotate_left(1);
    for (number, piece) in pieces {
        sink.write_at(FileOffset::new(number as u64 * 5000), piece)?;
    }
    sink.finish()?;
    Ok(sink.into_inner())
}

//! Pages that we compress, decompressed by the libraries that the readers of dumps use: liblzo2, libsnappy, zlib and
//! libzstd of the distribution. Debian's crash brings all four.

use collector::format::codec::Encoder;
use collector::format::layout::Flags;
use collector::plan::Compression;
use std::io::Write;
use std::process::{Command, Stdio};

const CODECS: [Compression; 9] = [
    Compression::Zlib(1),
    Compression::Zlib(9),
    Compression::Lzo,
    Compression::Snappy,
    Compression::Zstd(-7),
    Compression::Zstd(-1),
    Compression::Zstd(1),
    Compression::Zstd(3),
    Compression::Zstd(19),
];

/// Whether the libraries are here; without them the test says so, and fails in CI.
fn libraries() -> bool {
    let load = "import ctypes; [ctypes.CDLL(l) for l in ('liblzo2.so.2', 'libsnappy.so.1', 'libzstd.so.1')]";
    let found =
        Command::new("/usr/bin/python3").args(["-c", load]).output().is_ok_and(|o| o.status.success());
    if !found {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "python3 or one of the libraries is missing");
        eprintln!("SKIPPED: apt install python3 liblzo2-2 libsnappy1v5 libzstd1");
    }
    found
}

/// Text, code, tables, zeros and noise: this program, and what a kernel's memory has besides.
fn memory() -> Vec<u8> {
    let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    // A stretch of each tenth of it.
    let mut bytes: Vec<u8> =
        (0..10).flat_map(|tenth| program[program.len() / 10 * tenth..][..40 * 4096].to_vec()).collect();
    let mut x = 88_172_645_463_325_252_u64;
    let mut random = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x
    };
    // Lists of pointers, some of them empty; counters; bits.
    for i in 0..32 * 512 {
        let word = match i % 8 {
            0 | 1 => 0xffff_8880_0000_0000 | (random() & 0xffff_ffc0),
            2 => 0xdead_0000_0000_0100,
            3 => random() & 0xff,
            4 => 1,
            _ => 0,
        };
        bytes.extend(word.to_le_bytes());
    }
    // Noise, alone and broken by zeros.
    for i in 0..64 * 512_u64 {
        let word = if i / 512 % 3 == 0 && i % 16 < i / 512 % 16 { 0 } else { random() };
        bytes.extend(word.to_le_bytes());
    }
    bytes.resize(bytes.len().next_multiple_of(65536), 7);
    bytes
}

#[test]
fn the_libraries_give_our_pages_back() {
    if !libraries() {
        return;
    }
    let memory = memory();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/codecs/reference.py");
    for page_size in [4096, 16384, 65536] {
        for how in CODECS {
            let mut encoder = Encoder::new(how).unwrap();
            let flags = encoder.flags();
            let mut out = vec![0; encoder.bound(page_size)];
            let (mut records, mut expected, mut raw) = (Vec::new(), Vec::new(), 0);
            // A high level of zstd takes a second for all of it.
            for page in memory.chunks(page_size).step_by(if how == Compression::Zstd(19) { 7 } else { 1 }) {
                let Some(len) = encoder.encode(page, &mut out) else {
                    raw += 1;
                    continue;
                };
                for number in [flags.0, u32::try_from(page_size).unwrap(), u32::try_from(len).unwrap()] {
                    records.extend(number.to_le_bytes());
                }
                records.extend(&out[..len]);
                expected.push(page);
            }
            assert!(!expected.is_empty() && (raw > 0 || page_size > 4096), "{how}: {raw} raw pages");
            let got = decompress(script, records);
            assert_eq!(got.len(), expected.len() * page_size, "{how}");
            for (page, back) in expected.iter().zip(got.chunks(page_size)) {
                assert!(*page == back, "{how}, pages of {page_size}");
            }
        }
    }
    assert_eq!((Flags::ZLIB.0, Flags::LZO.0, Flags::SNAPPY.0, Flags::ZSTD.0), (1, 2, 4, 0x20));
}

fn decompress(script: &str, records: Vec<u8>) -> Vec<u8> {
    let mut child = Command::new("/usr/bin/python3")
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(&records).unwrap());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", output.status);
        output.stdout
    })
}

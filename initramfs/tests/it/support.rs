//! What the tests of this crate fabricate: module files and whole trees.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;

/// A kernel module as far as packing looks at it: an ELF file with a `.modinfo` section of these records. Written
/// from the ABI's text, apart from the reader under test.
pub fn module(records: &[String]) -> Vec<u8> {
    let mut info = Vec::new();
    for record in records {
        info.extend_from_slice(record.as_bytes());
        info.push(0);
    }
    let names = b"\0.shstrtab\0.modinfo\0";
    let mut out = Vec::new();
    out.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0"); // 64 bits, little-endian, version 1
    out.extend_from_slice(&1_u16.to_le_bytes()); // relocatable
    out.extend_from_slice(&62_u16.to_le_bytes()); // x86-64
    out.extend_from_slice(&1_u32.to_le_bytes());
    out.extend_from_slice(&[0; 16]); // no entry point, no program headers
    let sections = 64 + names.len() + info.len();
    out.extend_from_slice(&u64::try_from(sections).unwrap().to_le_bytes());
    out.extend_from_slice(&0_u32.to_le_bytes()); // flags
    for field in [64_u16, 0, 0, 64, 3, 1] {
        out.extend_from_slice(&field.to_le_bytes());
    }
    assert_eq!(out.len(), 64);
    out.extend_from_slice(names);
    out.extend_from_slice(&info);
    let mut header = |name: u32, kind: u32, offset: usize, size: usize| {
        out.extend_from_slice(&name.to_le_bytes());
        out.extend_from_slice(&kind.to_le_bytes());
        out.extend_from_slice(&[0; 16]); // flags, address
        out.extend_from_slice(&u64::try_from(offset).unwrap().to_le_bytes());
        out.extend_from_slice(&u64::try_from(size).unwrap().to_le_bytes());
        out.extend_from_slice(&[0; 24]); // link, info, alignment, entry size
    };
    header(0, 0, 0, 0);
    header(1, 3, 64, names.len());
    header(11, 1, 64 + names.len(), info.len());
    out
}

/// Packs by the suffix of a name, as a distribution does.
pub fn compressed(name: &str, bytes: &[u8]) -> Vec<u8> {
    match name.rsplit('.').next() {
        Some("xz") => {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        Some("zst") => zstd::encode_all(bytes, 1).unwrap(),
        Some("gz") => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        _ => bytes.to_vec(),
    }
}

/// Makes the tree that `text` describes below `root`. A line is one of
///
/// ```text
/// # a comment
/// PATH/                      an empty directory
/// PATH -> TARGET             a symbolic link
/// PATH = TEXT                a file of one line
/// PATH <<                    a file of the lines up to a lone full stop
/// PATH ko KEY=VALUE; …       a module; `name` and `vermagic` are filled in by PATH where they are not given
/// ```
pub fn make_tree(root: &Path, text: &str) {
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let line = line.trim_end();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (path, rest) = line.split_once(' ').unwrap_or((line, ""));
        let file = root.join(path.trim_start_matches('/'));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        match rest.split_once(' ').unwrap_or((rest, "")) {
            ("", "") if path.ends_with('/') => fs::create_dir_all(&file).unwrap(),
            ("->", target) => symlink(target, &file).unwrap(),
            ("=", text) => fs::write(&file, format!("{text}\n")).unwrap(),
            ("<<", "") => {
                let body: Vec<&str> = lines.by_ref().take_while(|l| *l != ".").collect();
                fs::write(&file, body.join("\n") + "\n").unwrap();
            }
            ("ko", fields) => {
                let mut records: Vec<String> =
                    fields.split(';').map(|f| f.trim().to_owned()).filter(|f| !f.is_empty()).collect();
                let name = path.rsplit('/').next().unwrap().split(".ko").next().unwrap().replace('-', "_");
                let release = path.split("/modules/").nth(1).unwrap().split('/').next().unwrap();
                for (key, value) in [("name", name), ("vermagic", format!("{release} SMP mod_unload "))] {
                    if !records.iter().any(|r| r.starts_with(&format!("{key}="))) {
                        records.push(format!("{key}={value}"));
                    }
                }
                fs::write(&file, compressed(path, &module(&records))).unwrap();
            }
            _ => panic!("not understood: {line}"),
        }
    }
}

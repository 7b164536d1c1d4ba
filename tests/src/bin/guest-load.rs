//! Fills a guest's memory before it is crashed, so that a dump has every class of page to decide about.
//!
//! `guest-load anon MIB`: MIB of anonymous memory, a third of it incompressible, a third text-like, a third zero, kept
//! until the machine dies. Under `GLIBC_TUNABLES=glibc.malloc.hugetlb=2` the same memory comes from hugetlb.
//!
//! `guest-load slab DIR COUNT`: COUNT small files, for their inodes and directory entries.

use std::io::Write;

fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match *words.as_slice() {
        ["anon", mib] => anon(number(mib)?),
        ["slab", dir, count] => slab(dir, number(count)?),
        _ => Err(std::io::Error::other("usage: guest-load anon MIB | slab DIR COUNT")),
    }
}

fn number(text: &str) -> std::io::Result<usize> {
    text.parse().map_err(std::io::Error::other)
}

fn anon(mib: usize) -> std::io::Result<()> {
    // One allocation above malloc's mmap threshold: its own mapping, page-aligned but for malloc's header.
    let mut memory = vec![0_u8; mib << 20];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for (index, page) in memory.chunks_mut(4096).enumerate() {
        match index % 3 {
            0 => {
                for word in page.chunks_mut(8) {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    word.copy_from_slice(&state.to_le_bytes()[..word.len()]);
                }
            }
            1 => {
                let line =
                    format!("page {index} of the memory of a process that is about to lose its kernel\n");
                for (to, from) in page.iter_mut().zip(line.bytes().cycle()) {
                    *to = from;
                }
            }
            // Written, so that it is there, but zero.
            _ => page.fill(std::hint::black_box(0)),
        }
    }
    println!("guest-load: {mib} MiB in place");
    std::io::stdout().flush()?;
    loop {
        std::thread::park();
        std::hint::black_box(&memory);
    }
}

fn slab(dir: &str, count: usize) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    for index in 0..count {
        std::fs::write(format!("{dir}/{index}"), index.to_string())?;
    }
    println!("guest-load: {count} files in {dir}");
    Ok(())
}

//! What guests need besides busybox. Before a crash it fills memory, so that a dump has every class of page to decide
//! about; for the benchmark in the crash kernel it changes what is loaded, and measures there.
//!
//! `guest-load anon MIB`: MIB of anonymous memory, a third of it incompressible, a third text-like, a third zero, kept
//! until the machine dies. Under `GLIBC_TUNABLES=glibc.malloc.hugetlb=2` the same memory comes from hugetlb.
//!
//! `guest-load slab DIR COUNT`: COUNT small files, for their inodes and directory entries.
//!
//! `guest-load rearm ARCHIVE ARGUMENT...`: loads again what `vmcorectl arm` has loaded, with ARCHIVE, an uncompressed
//! cpio, in front of the image and the ARGUMENTs behind the command line.
//!
//! `guest-load measure OUT LOG PROGRAM ARGUMENT...`: runs PROGRAM, which writes the file OUT and is heard in LOG, and
//! prints a [`vmcored_tests::lab::measured::Measured`] as JSON. The time until OUT is on the disk counts.

use anyhow::{Context, Result, bail};
use collector::sys::{KEXEC_FILE_ON_CRASH, kexec_file_load};
use config::arm;
use initramfs::root::Root;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use vmcored_tests::lab::measured;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match *words.as_slice() {
        ["anon", mib] => anon(number(mib)?),
        ["slab", dir, count] => slab(dir, number(count)?),
        ["rearm", archive, ref arguments @ ..] => rearm(Path::new(archive), arguments),
        ["measure", out, log, program, ref arguments @ ..] => {
            measure(Path::new(out), Path::new(log), program, arguments)
        }
        _ => bail!(
            "usage: guest-load anon MIB | slab DIR COUNT | rearm ARCHIVE ARGUMENT... | measure OUT LOG PROGRAM ARGUMENT..."
        ),
    }
}

fn number(text: &str) -> Result<usize> {
    text.parse().with_context(|| format!("{text:?} is no number"))
}

fn rearm(archive: &Path, arguments: &[&str]) -> Result<()> {
    let root = Root::new("/");
    let loaded = arm::loaded(&root)?.context("nothing is armed")?;
    let joined = Path::new("/run/rearmed.img");
    let mut bytes = fs::read(archive)?;
    bytes.extend(fs::read(arm::image_path(&loaded.image))?);
    fs::write(joined, bytes)?;
    let cmdline = CString::new([&[loaded.cmdline.as_str()], arguments].concat().join(" "))?;
    let (kernel, image) = (File::open(&loaded.kernel)?, File::open(joined)?);
    kexec_file_load(Some(&kernel), Some(&image), &cmdline, KEXEC_FILE_ON_CRASH)?;
    fs::remove_file(joined)?;
    println!("{}", cmdline.to_string_lossy());
    Ok(())
}

fn measure(out: &Path, log: &Path, program: &str, arguments: &[&str]) -> Result<()> {
    let log = File::create(log)?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let measured = measured::measure(&mut command, Some(out))?;
    println!("{}", serde_json::to_string(&measured)?);
    Ok(())
}

fn anon(mib: usize) -> Result<()> {
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

fn slab(dir: &str, count: usize) -> Result<()> {
    fs::create_dir_all(dir)?;
    for index in 0..count {
        fs::write(format!("{dir}/{index}"), index.to_string())?;
    }
    println!("guest-load: {count} files in {dir}");
    Ok(())
}

//! What each codec takes and gives, on the pages of a real dump:
//!
//! ```console
//! $ vmcore-collect -d 31 --compress none /proc/vmcore dump
//! $ cargo run --release -p collector --example codecs -- dump [ROUNDS] [CODEC]...
//! ```
//!
//! All codecs take turns on 64 pages at a time, and of each such stretch the best of all rounds counts: what else the
//! machine does disturbs some rounds of a stretch, hardly all.

use collector::addr::Pfn;
use collector::format::codec::Encoder;
use collector::format::read::{Found, KdumpFile};
use collector::plan::Compression;
use collector::source::FileSource;
use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

/// Pages of a stretch.
const STRETCH: usize = 64;

struct Candidate {
    how: Compression,
    encoder: Encoder,
    best: Vec<Duration>,
    bytes: usize,
    raw: usize,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("expected a dump: see the head of this example")?;
    let rounds: usize = args.next().map_or(Ok(10), |r| r.parse())?;
    let mut codecs = args.map(|a| a.parse()).collect::<Result<Vec<Compression>, _>>()?;
    if codecs.is_empty() {
        codecs = ["lzo", "snappy", "zstd:-1", "zstd:1", "zstd:3", "zlib:1", "zlib:6"]
            .map(str::parse)
            .into_iter()
            .collect::<Result<_, _>>()?;
    }
    let source = FileSource::open(Path::new(&path))?;
    let mut dump = KdumpFile::open(&source)?;
    let page = dump.page_size().len();
    let mut memory = Vec::new();
    let mut buf = vec![0; page];
    for pfn in (0..dump.end_pfn().get()).map(Pfn::new).collect::<Vec<_>>() {
        // Zero pages share a block and are not compressed.
        if matches!(dump.page(pfn, &mut buf)?, Found::Page) && buf.iter().any(|b| *b != 0) {
            memory.extend_from_slice(&buf);
        }
    }
    let pages = memory.len() / page;
    let stretches = pages.div_ceil(STRETCH);
    let mut candidates = codecs
        .into_iter()
        .map(|how| {
            let encoder = Encoder::new(how)?;
            Ok(Candidate { how, encoder, best: vec![Duration::MAX; stretches], bytes: 0, raw: 0 })
        })
        .collect::<std::io::Result<Vec<_>>>()?;
    for round in 0..rounds {
        for (i, stretch) in memory.chunks(STRETCH * page).enumerate() {
            for one in &mut candidates {
                let mut out = vec![0; one.encoder.bound(page)];
                let (mut bytes, mut raw) = (0, 0);
                let start = Instant::now();
                for page in stretch.chunks(page) {
                    match one.encoder.encode(page, &mut out) {
                        Some(len) => bytes += len,
                        None => (bytes, raw) = (bytes + page.len(), raw + 1),
                    }
                }
                let took = start.elapsed();
                if let Some(best) = one.best.get_mut(i) {
                    *best = took.min(*best);
                }
                if round == 0 {
                    (one.bytes, one.raw) = (one.bytes + bytes, one.raw + raw);
                }
            }
        }
    }
    println!("{pages} pages of {page} bytes, {rounds} rounds");
    println!("{:<10} {:>8} {:>12} {:>7} {:>7}", "codec", "us/page", "bytes/page", "ratio", "raw");
    for one in &candidates {
        let us = one.best.iter().sum::<Duration>().as_secs_f64() * 1e6 / pages as f64;
        let (each, ratio) = (one.bytes as f64 / pages as f64, memory.len() as f64 / one.bytes as f64);
        println!("{:<10} {us:>8.2} {each:>12.1} {ratio:>7.3} {:>7}", one.how.to_string(), one.raw);
    }
    Ok(())
}

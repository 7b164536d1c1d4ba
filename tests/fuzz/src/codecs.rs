//! Pages: compressed ones that nobody made, and any page there and back.

use crate::{Bases, Draw};
use collector::format::layout::Flags;
use collector::format::{Decoder, Encoder};
use collector::plan::Compression;

const LENGTHS: [usize; 3] = [4096, 16384, 65536];

/// The input is a page's stored bytes.
pub fn decode(_: &Bases, data: &[u8]) {
    let mut draw = Draw(data);
    let what = draw.byte();
    let flags = [Flags::RAW, Flags::ZLIB, Flags::LZO, Flags::SNAPPY, Flags::ZSTD, Flags(u32::from(what))];
    let mut page = vec![0; LENGTHS[usize::from(what >> 4) % LENGTHS.len()]];
    let mut decoder = Decoder::new().unwrap_or_else(|e| panic!("{e}"));
    let first = decoder.decode(flags[usize::from(what & 15) % flags.len()], draw.0, &mut page);
    // A decoder that has failed is as good as new.
    if first.is_ok() {
        let mut again = vec![1; page.len()];
        decoder
            .decode(flags[usize::from(what & 15) % flags.len()], draw.0, &mut again)
            .unwrap_or_else(|e| panic!("the second time: {e}"));
        assert!(again == page, "the second time another page");
    }
}

/// The input is a page, repeated until it is one.
pub fn encode(_: &Bases, data: &[u8]) {
    let codecs = [
        Compression::Zlib(1),
        Compression::Zlib(6),
        Compression::Lzo,
        Compression::Snappy,
        Compression::Zstd(-1),
        Compression::Zstd(3),
    ];
    let mut draw = Draw(data);
    let what = draw.byte();
    let how = codecs[usize::from(what & 15) % codecs.len()];
    let len = LENGTHS[usize::from(what >> 4) % LENGTHS.len()];
    if draw.0.is_empty() {
        return;
    }
    let page: Vec<u8> = draw.0.iter().copied().cycle().take(len).collect();
    let mut encoder = Encoder::new(how).unwrap_or_else(|e| panic!("{how}: {e}"));
    let mut out = vec![0; encoder.bound(len)];
    let mut decoder = Decoder::new().unwrap_or_else(|e| panic!("{e}"));
    // Twice: an encoder keeps what it has learnt.
    for _ in 0..2 {
        let Some(stored) = encoder.encode(&page, &mut out) else { continue };
        assert!(stored < len, "{how}: {stored}");
        let mut back = vec![1; len];
        decoder
            .decode(encoder.flags(), &out[..stored], &mut back)
            .unwrap_or_else(|e| panic!("{how}: our own page: {e}"));
        assert!(back == page, "{how}: another page came back");
    }
}

//! Whether a page is worth a slow codec's time: what has been compressed or encrypted already takes zlib longer than
//! anything else does, and gains nothing.

use super::lzo;

/// Stretches of a page that are looked at, and bytes of each.
const STRETCHES: usize = 16;
const BYTES: usize = 16;

/// Of 256 random bytes 162 are different, give or take 6. Machine code has about 90, text 60.
const DIFFERENT: usize = 144;

/// Of 256 random bytes hardly any value comes this often; what has a constant byte in each of 32 has.
const OFTEN: u8 = 8;

/// Of the first 64 of them 57 are different where all are random, give or take 2. Few other pages have as many as this, and
/// those that do not are done with after a quarter of the work.
const FIRST: usize = 4;
const FIRST_DIFFERENT: u32 = 48;

/// Finds hopeless pages. 72 KiB.
#[derive(Debug, Default)]
pub struct Probe {
    lzo: lzo::Encoder,
}

impl Probe {
    /// Whether the bytes of `page` are as different as random ones, and none of them repeat what was before: then neither
    /// shorter codes for frequent bytes nor matches can help. Scribbles on `out`.
    pub fn hopeless(&mut self, page: &[u8], out: &mut [u8]) -> bool {
        // The second look costs half a microsecond a page of 4 KiB, so the first one has to let few pages through.
        looks_random(page)
            && match page.len().checked_sub(1).and_then(|shorter| out.get_mut(..shorter)) {
                Some(out) => self.lzo.encode(page, out).is_none(),
                None => false,
            }
    }
}

fn looks_random(page: &[u8]) -> bool {
    // Whole stretches, as single bytes at even distances would all be the same field of a table's entries.
    let stretches = || page.chunks_exact((page.len() / STRETCHES).max(BYTES));
    let mut seen = [0_u64; 4];
    for byte in stretches().step_by(STRETCHES / FIRST).flat_map(|stretch| stretch.iter().take(BYTES)) {
        if let Some(word) = seen.get_mut(usize::from(byte / 64)) {
            *word |= 1 << (byte % 64);
        }
    }
    if seen.iter().map(|word| word.count_ones()).sum::<u32>() < FIRST_DIFFERENT {
        return false;
    }
    let mut counts = [0_u8; 256];
    for stretch in stretches() {
        for byte in stretch.iter().take(BYTES) {
            if let Some(count) = counts.get_mut(usize::from(*byte)) {
                *count = count.saturating_add(1);
            }
        }
    }
    let different: usize = counts.iter().map(|c| usize::from(*c != 0)).sum();
    different > DIFFERENT && counts.iter().all(|c| *c < OFTEN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize) -> Vec<u8> {
        let mut x = 88_172_645_463_325_252_u64;
        std::iter::repeat_with(|| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x.to_be_bytes()[0]
        })
        .take(len)
        .collect()
    }

    #[test]
    fn only_noise_is_hopeless() {
        let mut probe = Probe::default();
        for len in [4096, 16384, 65536] {
            let mut out = vec![0; len];
            let mut hopeless = |page: &[u8]| probe.hopeless(page, &mut out);
            let noise = noise(len);
            assert!(hopeless(&noise));
            // Half of it twice; a quarter of it zeros; letters; one byte of eight the same.
            assert!(!hopeless(&[&noise[..len / 2], &noise[..len / 2]].concat()));
            assert!(!hopeless(&[&noise[..len / 4 * 3], &vec![0; len / 4]].concat()));
            assert!(!hopeless(&noise.iter().map(|b| b'@' + b % 64).collect::<Vec<_>>()));
            let words: Vec<u8> =
                noise.iter().enumerate().map(|(i, b)| if i % 8 == 7 { 0x3f } else { *b }).collect();
            assert!(!hopeless(&words));
            assert!(!hopeless(&vec![0; len]));
        }
        assert!(!probe.hopeless(&[], &mut []));
        assert!(!probe.hopeless(&[1, 2, 3], &mut [0; 3]));
    }
}

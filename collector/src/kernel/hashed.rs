//! Names by what they hash to: one is found without a walk over all of them, for eight bytes each.

/// Any odd number does that is not near a power of two.
const BASE: u64 = 0x9e37_79b9_7f4a_7c15;

/// The hash of a string that is not at its end: a polynomial of its bytes, so that strings whose hashes are known are joined
/// without another look at their bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Hash(u64);

/// The hash of a part, and what joining it takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Part {
    hash: u64,
    power: u64,
}

impl Hash {
    /// Of no bytes.
    pub const EMPTY: Self = Self(0);

    /// One byte more.
    pub fn push(self, byte: u8) -> Self {
        Self(self.0.wrapping_mul(BASE).wrapping_add(u64::from(byte).wrapping_add(1)))
    }

    /// A part more.
    pub fn join(self, part: Part) -> Self {
        Self(self.0.wrapping_mul(part.power).wrapping_add(part.hash))
    }

    /// The upper bits depend on all bytes.
    pub fn finish(self) -> u32 {
        let mixed = (self.0 ^ self.0 >> 32).wrapping_mul(BASE);
        u32::try_from(mixed >> 32).unwrap_or(0)
    }
}

impl Part {
    pub fn of(bytes: &[u8]) -> Self {
        let hash = bytes.iter().fold(Hash::EMPTY, |state, byte| state.push(*byte)).0;
        Self { hash, power: bytes.iter().fold(1, |power: u64, _| power.wrapping_mul(BASE)) }
    }
}

/// The hash of a whole name.
pub(super) fn hash(name: &[u8]) -> u32 {
    name.iter().fold(Hash::EMPTY, |state, byte| state.push(*byte)).finish()
}

/// Bits of a hash that choose a bucket: of 160,000 names, 40 share one.
const BITS: u32 = 12;
const BUCKETS: usize = 1 << BITS;

/// Hashes and what has them.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Buckets {
    /// Where each bucket starts, and the last one ends.
    starts: Vec<u32>,
    entries: Vec<(u32, u32)>,
}

fn bucket(hash: u32) -> usize {
    usize::try_from(hash >> (u32::BITS - BITS)).unwrap_or(0)
}

impl Buckets {
    /// Sorts pairs of a hash and what has it.
    pub fn new(pairs: &[(u32, u32)]) -> Self {
        let mut starts = vec![0_u32; BUCKETS + 1];
        for (hash, _) in pairs {
            if let Some(count) = starts.get_mut(bucket(*hash) + 1) {
                *count = count.saturating_add(1);
            }
        }
        let mut sum = 0_u32;
        for start in &mut starts {
            sum = sum.saturating_add(*start);
            *start = sum;
        }
        let mut next = starts.clone();
        let mut entries = vec![(0, 0); pairs.len()];
        for pair in pairs {
            let Some(at) = next.get_mut(bucket(pair.0)) else { continue };
            if let Some(entry) = usize::try_from(*at).ok().and_then(|at| entries.get_mut(at)) {
                *entry = *pair;
            }
            *at = at.saturating_add(1);
        }
        Self { starts, entries }
    }

    /// What has this hash, in the order in which it was given.
    pub fn get(&self, wanted: u32) -> impl Iterator<Item = u32> + '_ {
        let place = |index: usize| self.starts.get(index).and_then(|at| usize::try_from(*at).ok());
        let range = place(bucket(wanted)).zip(place(bucket(wanted) + 1));
        let all = range.and_then(|(from, to)| self.entries.get(from..to)).unwrap_or_default();
        all.iter().filter(move |(hash, _)| *hash == wanted).map(|(_, what)| *what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_make_the_hash_of_the_whole() {
        for (parts, whole) in [(vec!["pan", "", "ic"], "panic"), (vec![], ""), (vec!["a"], "a")] {
            let joined = parts.iter().fold(Hash::EMPTY, |state, part| state.join(Part::of(part.as_bytes())));
            assert_eq!(joined.finish(), hash(whole.as_bytes()), "{whole}");
        }
        assert_ne!(hash(b"ab"), hash(b"ba"));
        assert_ne!(hash(b"a\0"), hash(b"a"));
    }

    #[test]
    fn buckets_keep_the_order() {
        let pairs = [(7, 1), (u32::MAX, 2), (7, 3), (0, 4), (8, 5)];
        let buckets = Buckets::new(&pairs);
        let of = |hash| buckets.get(hash).collect::<Vec<_>>();
        assert_eq!(
            (of(7), of(u32::MAX), of(0), of(8), of(9)),
            (vec![1, 3], vec![2], vec![4], vec![5], vec![])
        );
        assert_eq!(Buckets::default().get(7).count(), 0);
    }
}

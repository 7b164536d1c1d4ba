//! Each fuzz target on its seeds, and on damaged ones: without a fuzzer, as an ordinary test.

use vmcored_fuzz::{Base, Bases, TARGETS};
use vmcored_tests::fuzz_seeds::{bases, seeds};

#[test]
fn every_target_survives_its_seeds() {
    let files = bases().unwrap();
    let bases = Bases::of(files.iter().map(|(name, bytes)| Base::new(name.clone(), bytes.clone())).collect());
    for target in TARGETS {
        let inputs = seeds(target.name, &files).unwrap();
        assert!(!inputs.is_empty(), "{}", target.name);
        for (name, input) in inputs {
            assert!(input.len() <= target.max_len, "{} {name}: {} bytes", target.name, input.len());
            (target.run)(&bases, &input);
            (target.run)(&bases, &input[..input.len() / 2]);
        }
        (target.run)(&bases, &[]);
    }
}

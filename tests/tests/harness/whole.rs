//! A dump that must succeed.

use crate::harness::{Bytes, Sink};
use collector::engine::Engine;
use collector::manifest::DumpReport;
use collector::plan::DumpSpec;
use collector::problem::Problem;
use collector::progress::Silent;
use vmcored_tests::synth::Core;

/// Dumps; must succeed.
pub fn dump(core: &Core, spec: &DumpSpec) -> (Vec<u8>, DumpReport, Vec<Problem>) {
    let source = Bytes::new(&core.file);
    let mut engine = Engine::open(&source).unwrap_or_else(|e| panic!("{spec:?}: {e}"));
    let sink = Sink::default();
    let report = engine.dump(spec, &sink, &Silent).unwrap_or_else(|e| panic!("{spec:?}: {e}"));
    let (bytes, finished) = sink.into_parts();
    assert!(finished, "{spec:?}: the sink was not finished");
    (bytes, report, engine.problems.list().to_vec())
}

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
    let mut sink = Sink::default();
    let report = engine.dump(spec, &mut sink, &Silent).unwrap_or_else(|e| panic!("{spec:?}: {e}"));
    assert!(sink.finished, "{spec:?}: the sink was not finished");
    (sink.bytes, report, engine.problems.list().to_vec())
}

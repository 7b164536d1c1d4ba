//! `cargo xtask test`: everything, counted. `.ci/run` is this.

use super::{checks, fuzz, install, vm};
use crate::vm::runner::Tally;
use anyhow::Result;
use std::time::Instant;

/// Runs all checks to the end, even after one has failed, and closes with the count. Each check of the code counts as a
/// test.
pub fn test(_: &[String]) -> Result<()> {
    let check = ["--check".to_owned()];
    let mut tally = Tally::default();
    let mut complaints = Vec::new();
    let single: [(&str, &dyn Fn() -> Result<()>); 6] = [
        ("fmt", &|| checks::fmt(&check)),
        ("clippy", &|| checks::clippy(&[])),
        ("doc", &|| checks::doc(&[])),
        ("static", &|| checks::statics(&[])),
        ("units", &|| install::units(&[])),
        ("packages", &|| install::packages(&[])),
    ];
    for (name, check) in single {
        tally.add(timed(&mut complaints, name, || check().map(|()| Tally { passed: 1, ..Tally::default() })));
    }
    tally.add(timed(&mut complaints, "unit", || checks::tests(&[])));
    tally.add(timed(&mut complaints, "fuzz", fuzz::brief));
    tally.add(timed(&mut complaints, "vm", vm::all));
    // A skipped test is as good as a failed one where everything is there to run it.
    let good = tally.failed == 0 && (tally.skipped == 0 || std::env::var_os("CI").is_none());
    // Said again at the end, where it is found when only a log's end was kept.
    for complaint in complaints {
        println!("{complaint}");
    }
    // The last line, as CI reads it: nothing may come after it, not even an error.
    println!("{tally}");
    if good { Ok(()) } else { std::process::exit(1) }
}

/// Runs one part; what keeps it from running is one failure. A part that failed adds a line to `complaints`.
fn timed(complaints: &mut Vec<String>, name: &str, part: impl FnOnce() -> Result<Tally>) -> Tally {
    println!("== {name}");
    let start = Instant::now();
    let tally = part().unwrap_or_else(|why| {
        complaints.push(format!("{name} FAILED: {why:#}"));
        println!("{name} FAILED: {why:#}");
        Tally { failed: 1, ..Tally::default() }
    });
    println!("== {name}: {tally} ({:.1} s)", start.elapsed().as_secs_f64());
    if tally.failed > 0 && complaints.last().is_none_or(|last| !last.starts_with(name)) {
        complaints.push(format!("{name} FAILED: {tally}: {}", tally.names.join(", ")));
    }
    tally
}

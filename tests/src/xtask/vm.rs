//! `cargo xtask vm`: scenarios in guests.

use crate::lab::cache::Cache;
use crate::vm::runner::{Bench, Tally, run};
use crate::vm::{ON_REQUEST, SCENARIOS, Scenario};
use anyhow::{Result, bail, ensure};

/// Guests at a time: each has two CPUs, of which one is idle most of the time.
const AT_ONCE: usize = 2;

/// Runs all scenarios, or those whose names begin with one of the arguments.
pub fn vm(arguments: &[String]) -> Result<()> {
    if arguments.iter().any(|a| a == "--list") {
        SCENARIOS.iter().for_each(|s| println!("{}", s.name));
        ON_REQUEST.iter().for_each(|s| println!("{} (only when named)", s.name));
        return Ok(());
    }
    let named = if arguments.is_empty() { &[] } else { ON_REQUEST };
    let chosen: Vec<&Scenario> = SCENARIOS
        .iter()
        .chain(named)
        .filter(|s| arguments.is_empty() || arguments.iter().any(|a| s.name.starts_with(a.as_str())))
        .collect();
    ensure!(!chosen.is_empty(), "no scenario is called {arguments:?}; `cargo xtask vm --list` lists them");
    let tally = scenarios(&chosen)?;
    println!("{tally}");
    if tally.failed > 0 {
        bail!("{} scenarios failed", tally.failed)
    }
    Ok(())
}

/// Runs every scenario.
pub fn all() -> Result<Tally> {
    scenarios(&SCENARIOS.iter().collect::<Vec<_>>())
}

fn scenarios(chosen: &[&Scenario]) -> Result<Tally> {
    let cache = Cache::open()?;
    let programs = super::programs()?;
    let bench = Bench::with_oracles(&cache, &programs)?;
    // Made before the guests start, which all use it.
    bench.prepare()?;
    Ok(run(&bench, chosen, AT_ONCE))
}

//! Runs scenarios, two at a time, and keeps count.

use super::Scenario;
use crate::lab::cache::Cache;
use crate::lab::command::target_dir;
use crate::lab::crasher;
use crate::lab::foreign::{ALL, Architecture, Foreign};
use crate::lab::guest::Lab;
use crate::lab::kernel::{Kernel, Series};
use crate::lab::oracle::Drgn;
use crate::lab::programs::Programs;
use anyhow::{Context, Result};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// How many tests did what.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Tally {
    /// Tests that passed.
    pub passed: u64,
    /// Tests that failed.
    pub failed: u64,
    /// Tests that did not run, and said so.
    pub skipped: u64,
    /// Names of those that failed, where they are known.
    pub names: Vec<String>,
}

impl Tally {
    /// Adds another's counts.
    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.names.extend(other.names);
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// What scenarios run with.
#[derive(Debug)]
pub struct Bench<'a> {
    /// Runs guests.
    pub lab: Lab<'a>,
    /// The programs under test.
    pub programs: &'a Programs,
    kernels: HashMap<Series, Kernel>,
    debug: HashMap<Series, PathBuf>,
    crashers: HashMap<Series, PathBuf>,
    drgn: Option<Drgn>,
    foreign: Vec<Foreign>,
}

impl<'a> Bench<'a> {
    /// Kernels of `series`, without debug symbols.
    pub fn open(cache: &Cache, programs: &'a Programs, series: &[Series]) -> Result<Self> {
        let kernels = series.iter().map(|s| Ok((*s, Kernel::get(cache, *s)?))).collect::<Result<_>>()?;
        Ok(Self {
            lab: Lab::open(cache, programs)?,
            programs,
            kernels,
            debug: HashMap::new(),
            crashers: HashMap::new(),
            drgn: None,
            foreign: Vec::new(),
        })
    }

    /// Both kernels, their debug symbols, modules that crash them, drgn, and the kernels of other architectures.
    pub fn with_oracles(cache: &Cache, programs: &'a Programs) -> Result<Self> {
        let mut bench = Self::open(cache, programs, &[])?;
        for series in Series::ALL {
            let (kernel, vmlinux) = Kernel::with_debug(cache, series)?;
            bench.crashers.insert(series, crasher::build(cache, &kernel)?);
            bench.kernels.insert(series, kernel);
            bench.debug.insert(series, vmlinux);
        }
        bench.drgn = Some(Drgn::get(cache)?);
        for architecture in ALL {
            bench.foreign.push(Foreign::get(cache, architecture)?);
        }
        Ok(bench)
    }

    /// Makes what all guests of a kernel share, before several of them start at once.
    pub fn prepare(&self) -> Result<()> {
        self.kernels.values().try_for_each(|kernel| self.lab.base(kernel).map(drop))
    }

    /// The kernel of a series.
    pub fn kernel(&self, series: Series) -> Result<&Kernel> {
        self.kernels.get(&series).with_context(|| format!("no kernel {}", series.name()))
    }

    /// Its vmlinux with debug symbols.
    pub fn vmlinux(&self, series: Series) -> Result<&Path> {
        self.debug
            .get(&series)
            .map(PathBuf::as_path)
            .with_context(|| format!("no vmlinux for {}", series.name()))
    }

    /// The module that crashes it.
    pub fn crasher(&self, series: Series) -> Result<&Path> {
        let found = self.crashers.get(&series).map(PathBuf::as_path);
        found.with_context(|| format!("no crasher.ko for {}", series.name()))
    }

    /// drgn.
    pub fn drgn(&self) -> Result<&Drgn> {
        self.drgn.as_ref().context("no drgn")
    }

    /// The kernel of another architecture.
    pub fn foreign(&self, architecture: &Architecture) -> Result<&Foreign> {
        let found = self.foreign.iter().find(|f| f.architecture == architecture);
        found.with_context(|| format!("no kernel of {}", architecture.name))
    }

    /// A directory of a scenario's own, empty; what it leaves there is kept until its next run.
    pub fn scratch(&self, name: &str) -> Result<PathBuf> {
        let dir = target_dir().join("vm").join(name);
        if dir.exists() {
            std::fs::remove_dir_all(&dir)?;
        }
        std::fs::create_dir_all(&dir)?;
        Ok(dir)
    }
}

/// Runs `scenarios`, `at_once` at a time, and prints each one's result and time.
pub fn run(bench: &Bench<'_>, scenarios: &[&Scenario], at_once: usize) -> Tally {
    let next = AtomicUsize::new(0);
    let tally = Mutex::new(Tally::default());
    let work = || {
        while let Some(scenario) = scenarios.get(next.fetch_add(1, Ordering::Relaxed)) {
            let start = Instant::now();
            let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| (scenario.run)(bench)));
            let result = caught.unwrap_or_else(|_| Err(anyhow::anyhow!("panicked; the message is above")));
            let took = start.elapsed().as_secs_f64();
            let mut tally = tally.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            match result {
                Ok(()) => {
                    tally.passed += 1;
                    println!("vm {} ... ok ({took:.1} s)", scenario.name);
                }
                Err(why) => {
                    tally.failed += 1;
                    tally.names.push(scenario.name.to_owned());
                    println!("vm {} ... FAILED ({took:.1} s)\n{why:#}\n", scenario.name);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(work);
        }
    });
    tally.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())
}

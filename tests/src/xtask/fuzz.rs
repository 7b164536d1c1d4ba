//! `cargo xtask fuzz`: libFuzzer on each target, from seeds that the synthetic machines give.
//!
//! Everything lies in the cache, below `fuzz/`: `bases` and `seeds` are written anew each time, `corpus` grows from run to run,
//! `crashes` has inputs that broke something, `logs` what the fuzzer said last.

use super::checks::cargo;
use crate::fuzz_seeds;
use crate::lab::cache::Cache;
use crate::lab::command::{run, target_dir};
use crate::vm::runner::Tally;
use anyhow::{Context, Result, bail, ensure};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use vmcored_fuzz::{TARGETS, Target};

const HELP: &str = "cargo xtask fuzz [--seconds N] [--jobs N] [TARGET...]
  runs each target for N seconds (60), N of them at a time (1); `fuzz TARGET INPUT` runs one input
targets:";

/// Seconds of each target when everything is tested.
const BRIEF: u64 = 5;
/// What a build for fuzzing is made for. Naming it keeps build scripts and macros from being instrumented.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";
/// Coverage, as libFuzzer wants it, by a pass of LLVM that the stable compiler has.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing";

/// What is asked for.
struct Asked {
    seconds: u64,
    jobs: usize,
    targets: Vec<&'static Target>,
    input: Option<PathBuf>,
}

fn parse(arguments: &[String]) -> Result<Asked> {
    let mut asked = Asked { seconds: 60, jobs: 1, targets: Vec::new(), input: None };
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let mut number =
            || words.next().and_then(|n| n.parse().ok()).with_context(|| format!("{word} wants a number"));
        match word.as_str() {
            "--seconds" => asked.seconds = number()?,
            "--jobs" => asked.jobs = usize::try_from(number()?)?.max(1),
            name => match Target::named(name) {
                Some(target) => asked.targets.push(target),
                None if asked.targets.len() == 1 && Path::new(name).is_file() => {
                    asked.input = Some(name.into());
                }
                None => {
                    let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
                    bail!("no target {name:?}\n{HELP} {}", names.join(" "))
                }
            },
        }
    }
    if asked.targets.is_empty() {
        asked.targets = TARGETS.iter().collect();
    }
    Ok(asked)
}

/// The verb.
pub fn fuzz(arguments: &[String]) -> Result<()> {
    let asked = parse(arguments)?;
    let place = Place::prepare(&asked.targets)?;
    if let (Some(input), [target]) = (&asked.input, asked.targets.as_slice()) {
        return run(place.fuzzer(target).arg("-timeout=20").arg("-rss_limit_mb=512").arg(input));
    }
    let tally = place.all(&asked.targets, asked.seconds, asked.jobs);
    println!("{tally}");
    ensure!(tally.failed == 0, "{} targets failed", tally.failed);
    Ok(())
}

/// Each target for a moment, as one test.
pub fn brief() -> Result<Tally> {
    let targets: Vec<&Target> = TARGETS.iter().collect();
    Ok(Place::prepare(&targets)?.all(&targets, BRIEF, 2))
}

/// Where everything lies.
struct Place {
    program: PathBuf,
    root: PathBuf,
}

/// What the fuzzer's last lines say.
#[derive(Debug, Default, PartialEq, Eq)]
struct Figures {
    runs: u64,
    /// Places in the code that were reached.
    coverage: u64,
    corpus: u64,
}

impl Place {
    /// Builds the fuzzer and writes the bases and the seeds.
    fn prepare(targets: &[&Target]) -> Result<Self> {
        let target_dir = target_dir().join("fuzzing");
        let start = Instant::now();
        println!("building the fuzzer");
        let mut build = cargo("build");
        build.args(["--locked", "-p", "vmcored-fuzz", "--features", "libfuzzer", "--profile", "fuzz"]);
        build.args(["--target", TRIPLE, "--target-dir"]).arg(&target_dir);
        run(build.env("RUSTFLAGS", COVERAGE).env_remove("CARGO_ENCODED_RUSTFLAGS"))?;
        println!("built in {:.0} s", start.elapsed().as_secs_f64());
        let place = Self {
            program: target_dir.join(TRIPLE).join("fuzz/vmcored-fuzz"),
            root: Cache::open()?.path("fuzz"),
        };
        let bases = fuzz_seeds::bases()?;
        fill(&place.root.join("bases"), &bases)?;
        for target in targets {
            fill(&place.seeds(target), &fuzz_seeds::seeds(target.name, &bases)?)?;
            fs::create_dir_all(place.corpus(target))?;
        }
        fs::create_dir_all(place.root.join("crashes"))?;
        fs::create_dir_all(place.root.join("logs"))?;
        Ok(place)
    }

    fn seeds(&self, target: &Target) -> PathBuf {
        self.root.join("seeds").join(target.name)
    }
    fn corpus(&self, target: &Target) -> PathBuf {
        self.root.join("corpus").join(target.name)
    }

    fn fuzzer(&self, target: &Target) -> Command {
        let mut fuzzer = Command::new(&self.program);
        fuzzer.env("VMCORED_FUZZ", target.name).env("VMCORED_FUZZ_BASES", self.root.join("bases"));
        fuzzer.stdin(Stdio::null());
        fuzzer
    }

    /// Runs targets, `jobs` at a time.
    fn all(&self, targets: &[&Target], seconds: u64, jobs: usize) -> Tally {
        let next = std::sync::atomic::AtomicUsize::new(0);
        let tally = std::sync::Mutex::new(Tally::default());
        std::thread::scope(|scope| {
            for _ in 0..jobs {
                scope.spawn(|| {
                    while let Some(target) =
                        targets.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
                    {
                        let (text, good) = match self.one(target, seconds) {
                            Ok(Figures { runs, coverage, corpus }) => (
                                format!("ok: {runs} runs, coverage {coverage}, corpus {corpus}, no crash"),
                                true,
                            ),
                            Err(why) => (format!("FAILED\n{why:#}\n"), false),
                        };
                        println!("fuzz {:<12} ... {text}", target.name);
                        let mut tally = tally.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                        if good {
                            tally.passed += 1;
                        } else {
                            tally.failed += 1;
                            tally.names.push(target.name.to_owned());
                        }
                    }
                });
            }
        });
        tally.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Runs one target.
    fn one(&self, target: &Target, seconds: u64) -> Result<Figures> {
        let log = self.root.join("logs").join(target.name);
        let said = File::create(&log)?;
        let mut prefix = self.root.join("crashes").join(target.name).into_os_string();
        prefix.push("-");
        let mut artifacts = std::ffi::OsString::from("-artifact_prefix=");
        artifacts.push(&prefix);
        let mut fuzzer = self.fuzzer(target);
        fuzzer
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-max_len={}", target.max_len))
            .args(["-rss_limit_mb=512", "-timeout=20", "-print_final_stats=1", "-verbosity=1"])
            .arg(artifacts)
            .arg(self.corpus(target))
            .arg(self.seeds(target))
            .stdout(said.try_clone()?)
            .stderr(said);
        let mut child = fuzzer.spawn().with_context(|| format!("cannot start {}", self.program.display()))?;
        // libFuzzer ends by itself; a corpus that takes long to load comes on top.
        let limit = Duration::from_secs(seconds + 300);
        let status = crate::lab::command::wait(&mut child, limit)?;
        let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
        let tail = || {
            text.lines().rev().take(40).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n")
        };
        match status {
            None => bail!("still running after {limit:?} and killed; {} has what it said", log.display()),
            Some(status) if !status.success() => {
                bail!("{status}; the end of {}:\n{}", log.display(), tail())
            }
            Some(_) => {}
        }
        figures(&text).with_context(|| format!("{} has no figures", log.display()))
    }
}

/// `#1234 DONE   cov: 56 ft: 78 corp: 9/10Kb lim: 4096 exec/s: 99 rss: 40Mb`
fn figures(text: &str) -> Option<Figures> {
    let line = text.lines().rev().find(|line| line.starts_with('#') && line.contains("cov:"))?;
    let after = |key: &str| {
        let rest = line.split_once(key)?.1.trim_start();
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    Some(Figures { runs: after("#")?, coverage: after("cov:")?, corpus: after("corp:")? })
}

/// Makes a directory hold these files and no others.
fn fill(dir: &Path, files: &[(String, Vec<u8>)]) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
        _ => {}
    }
    fs::create_dir_all(dir)?;
    for (name, bytes) in files {
        fs::write(dir.join(name), bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fuzzers_figures_are_read() {
        let text = "#2\tINITED cov: 5 ft: 6 corp: 1/1b exec/s: 0 rss: 30Mb\n#1234\tDONE   cov: 56 ft: 78 corp: 9/10Kb lim: 4 exec/s: 99 rss: 40Mb\nDone 1234 runs in 5 second(s)\n";
        assert_eq!(figures(text), Some(Figures { runs: 1234, coverage: 56, corpus: 9 }));
        assert_eq!(figures("Running: crash"), None);
    }

    #[test]
    fn arguments() {
        let words = |line: &str| parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        let asked = words("--seconds 7 --jobs 2 elf notes").unwrap();
        assert_eq!((asked.seconds, asked.jobs, asked.targets.len()), (7, 2, 2));
        assert_eq!(words("").unwrap().targets.len(), TARGETS.len());
        assert!(words("nothing").is_err());
        assert!(words("--seconds x").is_err());
    }
}

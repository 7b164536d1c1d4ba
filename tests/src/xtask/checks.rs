//! The verbs that check the code itself.

use crate::lab::cache::Cache;
use crate::lab::command::{run, workspace};
use crate::lab::kernel::{Kernel, Series};
use crate::vm::runner::Tally;
use anyhow::{Context, Result, bail, ensure};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

/// Most bytes of the stripped static collector, which is in every image: 5 MiB. It unpacks into the crash kernel's
/// memory, so it must not grow unseen.
const COLLECTOR_LIMIT: u64 = 5 << 20;

/// Cargo, in the checkout.
pub(super) fn cargo(verb: &str) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace()).arg(verb);
    cargo
}

/// `cargo fmt`.
pub fn fmt(arguments: &[String]) -> Result<()> {
    run(cargo("fmt").arg("--all").args(arguments))
}

/// clippy over everything, with the collector's fault points too.
pub fn clippy(_: &[String]) -> Result<()> {
    run(cargo("clippy").args(["--locked", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    run(cargo("clippy").args([
        "--locked",
        "-p",
        "collector",
        "--features",
        "faults",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]))
}

/// rustdoc.
pub fn doc(_: &[String]) -> Result<()> {
    run(cargo("doc").args(["--locked", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))
}

/// The static programs and their sizes.
pub fn statics(_: &[String]) -> Result<()> {
    for (name, bytes) in super::programs()?.sizes()? {
        println!("{name:<16} {bytes:>9} bytes, static, stripped");
        ensure!(
            name != "vmcore-collect" || bytes <= COLLECTOR_LIMIT,
            "{name} is larger than {COLLECTOR_LIMIT} bytes"
        );
    }
    Ok(())
}

/// Unit, integration and documentation tests.
pub fn unit(arguments: &[String]) -> Result<()> {
    let tally = tests(arguments)?;
    println!("{tally}");
    if tally.failed > 0 {
        bail!("{} tests failed", tally.failed)
    }
    Ok(())
}

/// Runs `cargo test`, adds up what its programs say, and names the tests that failed. A run that ends badly without a failed test (it does not
/// compile, it was killed) is an error.
pub fn tests(arguments: &[String]) -> Result<Tally> {
    // Images are planned for real kernels, too.
    let cache = Cache::open()?;
    for series in Series::ALL {
        Kernel::get(&cache, series)?;
    }
    let mut command = cargo("test");
    command.args(["--locked", "--workspace", "--no-fail-fast"]).args(arguments).stdout(Stdio::piped());
    let mut child = command.spawn().context("cannot start cargo test")?;
    let mut tally = Tally::default();
    for line in BufReader::new(child.stdout.take().context("cargo's stdout")?).lines() {
        let line = line?;
        println!("{line}");
        if let Some(one) = result_line(&line) {
            tally.add(one);
        }
        tally.names.extend(failed_test(&line).map(str::to_owned));
    }
    let status = child.wait()?;
    ensure!(status.success() || tally.failed > 0, "cargo test ended with {status}");
    Ok(tally)
}

/// `test addr::tests::one ... FAILED`
fn failed_test(line: &str) -> Option<&str> {
    line.strip_prefix("test ")?.strip_suffix(" ... FAILED")
}

/// `test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s`
fn result_line(line: &str) -> Option<Tally> {
    let rest = line.strip_prefix("test result: ")?;
    let count = |what: &str| {
        rest.split([';', '.']).find_map(|part| part.trim().strip_suffix(what)?.trim().parse().ok())
    };
    Some(Tally {
        passed: count("passed")?,
        failed: count("failed")?,
        skipped: count("ignored")?,
        names: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_from_cargo() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.01s";
        assert_eq!(result_line(line), Some(Tally { passed: 12, failed: 3, skipped: 1, names: Vec::new() }));
        assert_eq!(result_line("test addr::tests::one ... ok"), None);
        assert_eq!(failed_test("test addr::tests::one ... ok"), None);
        assert_eq!(failed_test("test addr::tests::one ... FAILED"), Some("addr::tests::one"));
        assert_eq!(result_line("test result: garbled"), None);
    }
}

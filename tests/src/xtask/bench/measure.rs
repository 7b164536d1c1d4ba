//! One run of a program: wall and CPU time, peak memory, what it said.
//!
//! The kernel counts as a process's peak memory what it had before `exec` too, so a program that xtask itself starts
//! would be charged with xtask. A copy of xtask that has done nothing yet is in between: `xtask bench --measure`.

use crate::lab::command::shown;
use crate::lab::measured::{self, Took};
use anyhow::{Context, Result, bail, ensure};
use std::process::{Command, Stdio};

/// A run and what the program said on either stream.
#[derive(Clone, Debug, Default)]
pub struct Ran {
    pub took: Took,
    pub said: String,
}

/// Runs a command, which must succeed.
pub fn run(command: &Command) -> Result<Ran> {
    let mut wrapped = Command::new(std::env::current_exe()?);
    wrapped.args(["bench", "--measure"]).arg(command.get_program()).args(command.get_args());
    let done = wrapped.stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    ensure!(done.status.success(), "{} failed:\n{said}", shown(command));
    let took = serde_json::from_slice(&done.stdout).context("what was measured")?;
    Ok(Ran { took, said })
}

/// `xtask bench --measure PROGRAM ARGUMENT...`: what was measured to stdout, what the program says to stderr.
pub fn measure(words: &[String]) -> Result<()> {
    let [program, arguments @ ..] = words else { bail!("--measure wants a program") };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(std::io::stderr());
    let measured = measured::measure(&mut command, None)?;
    ensure!(measured.status == Some(0), "{} failed: {measured:?}", shown(&command));
    println!("{}", serde_json::to_string(&measured.took)?);
    Ok(())
}

/// The middle one of some numbers; of an even count the lower one.
pub fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}

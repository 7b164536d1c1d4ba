//! What the commands of [`crate::cli`] do, and what they share.

pub mod dumps;
mod meter;
pub mod ready;

use crate::cli::Cli;
use crate::load::{self, Loaded};
use crate::settings::Settings;
use initramfs::root::Root;
use std::io::{self, Write};

/// Prints a report.
pub fn print(report: &(impl serde::Serialize + std::fmt::Display), json: bool) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(report)?)?;
    } else {
        write!(out, "{report}")?;
    }
    Ok(())
}

/// A file that is named is a file of this system; the usual ones are looked for below the root.
pub fn load_settings(cli: &Cli, root: &Root) -> anyhow::Result<Loaded> {
    Ok(match &cli.config {
        Some(file) => load::load_file(file)?,
        None => load::load(root)?,
    })
}

/// The settings, with what will not be as it was written told.
pub fn read_settings(cli: &Cli, root: &Root) -> anyhow::Result<Settings> {
    let loaded = load_settings(cli, root)?;
    for finding in loaded.warnings() {
        eprintln!("vmcorectl: {finding}");
    }
    Ok(loaded.settings)
}

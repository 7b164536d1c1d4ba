//! `cargo xtask differential`: the comparison that captures end with, on a vmcore that is there already.

use crate::lab::cache::Cache;
use crate::lab::command::{find, target_dir};
use crate::lab::oracle::Drgn;
use crate::vm::differential::{Differential, Opened};
use crate::vm::stacks::stacks_agree;
use anyhow::{Context, Result, bail};
use std::path::PathBuf;

const USAGE: &str = "cargo xtask differential RAW VMLINUX [OPTION]...
  --peer PATH    makedumpfile to compare with [default: the installed one]
  --ours PATH    collector to compare [default: the static one, built now]
  --disagrees    this makedumpfile does not know this kernel: compare at levels without bit 8 alone, and leave out crash
  --levels N,... levels of which the sets of pages are compared [default: all]
  --no-crash     leave out crash
  --stacks       compare nothing but tasks and their stacks, with drgn's: of any dump";

/// The verb.
pub fn differential(arguments: &[String]) -> Result<()> {
    let (mut files, mut peer, mut ours) = (Vec::new(), None, None);
    let mut stacks = false;
    let (mut agrees, mut opened) = (true, Opened::All);
    let mut levels: Vec<u8> = (0..32).collect();
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let mut value =
            || words.next().map(PathBuf::from).with_context(|| format!("{word} wants a value\n{USAGE}"));
        match word.as_str() {
            "--peer" => peer = Some(value()?),
            "--ours" => ours = Some(value()?),
            "--stacks" => stacks = true,
            "--disagrees" => (agrees, opened) = (false, Opened::Nothing),
            "--levels" => {
                let list = value()?.to_string_lossy().into_owned();
                levels = list.split(',').map(str::parse).collect::<Result<_, _>>()?;
            }
            "--no-crash" => opened = Opened::Nothing,
            option if option.starts_with('-') => bail!("{option} is no option\n{USAGE}"),
            file => files.push(PathBuf::from(file)),
        }
    }
    let [raw, vmlinux] = files.as_slice() else { bail!("{USAGE}") };
    if stacks {
        return stacks_agree(&Drgn::get(&Cache::open()?)?, raw, &[vmlinux]);
    }
    let makedumpfile = peer.or_else(|| find("makedumpfile")).context("makedumpfile is not installed")?;
    let collector = match ours {
        Some(path) => path,
        None => super::programs()?.collector,
    };
    let scratch = target_dir().join("differential");
    std::fs::create_dir_all(&scratch)?;
    Differential {
        collector: &collector,
        makedumpfile: &makedumpfile,
        drgn: &Drgn::get(&Cache::open()?)?,
        raw,
        vmlinux,
        scratch: &scratch,
        agrees,
        levels: &levels,
        opened,
    }
    .check()
}

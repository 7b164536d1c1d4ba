//! The project's verbs: `cargo xtask VERB`. CI runs these same ones.

mod bench;
mod checks;
mod demo;
mod differential;
mod figures;
mod fuzz;
mod install;
mod setup;
mod test;
mod vm;

use crate::lab::programs::Programs;
use anyhow::{Result, bail};
use std::process::ExitCode;

/// A verb, what it needs to be installed, and what it does with the arguments after it.
struct Verb {
    name: &'static str,
    help: &'static str,
    needs: setup::For,
    run: fn(&[String]) -> Result<()>,
}

const VERBS: &[Verb] = &[
    Verb {
        name: "demo",
        help: "crash a stock kernel in QEMU and show the dump",
        needs: setup::For::Demo,
        run: demo::demo,
    },
    Verb {
        name: "test",
        help: "everything CI checks; closes with a count",
        needs: setup::For::Test,
        run: test::test,
    },
    Verb {
        name: "fmt",
        help: "rustfmt; `fmt --check` only looks",
        needs: setup::For::Build,
        run: checks::fmt,
    },
    Verb { name: "clippy", help: "clippy, warnings denied", needs: setup::For::Build, run: checks::clippy },
    Verb {
        name: "unit",
        help: "unit, integration and documentation tests",
        needs: setup::For::Test,
        run: checks::unit,
    },
    Verb { name: "doc", help: "rustdoc, warnings denied", needs: setup::For::Build, run: checks::doc },
    Verb {
        name: "static",
        help: "the static programs, and the collector's size limit",
        needs: setup::For::Build,
        run: checks::statics,
    },
    Verb {
        name: "install",
        help: "everything below a directory: `install --destdir DIR`",
        needs: setup::For::Build,
        run: install::install,
    },
    Verb {
        name: "units",
        help: "systemd-analyze verify, as they are installed",
        needs: setup::For::Test,
        run: install::units,
    },
    Verb {
        name: "packages",
        help: "both packages have what is installed",
        needs: setup::For::Test,
        run: install::packages,
    },
    Verb {
        name: "rpm",
        help: "the package for Fedora, RHEL and SUSE; needs rpmbuild",
        needs: setup::For::Build,
        run: install::rpm,
    },
    Verb { name: "deb", help: "the Debian package", needs: setup::For::Build, run: install::deb },
    Verb {
        name: "vm",
        help: "the VM scenarios, or those that are named; `vm --list`",
        needs: setup::For::Test,
        run: vm::vm,
    },
    Verb {
        name: "figures",
        help: "times, sizes and the smallest crashkernel= on 2 GB and 8 GB guests",
        needs: setup::For::Demo,
        run: figures::figures,
    },
    Verb {
        name: "bench",
        help: "our speed and makedumpfile's, in turn, as tables; `bench --help`",
        needs: setup::For::Demo,
        run: bench::bench,
    },
    Verb {
        name: "fuzz",
        help: "libFuzzer on each target; `fuzz --seconds N --jobs N TARGET...`",
        needs: setup::For::Test,
        run: fuzz::fuzz,
    },
    Verb {
        name: "differential",
        help: "our dumps of a given vmcore against makedumpfile's, and by other readers",
        needs: setup::For::Test,
        run: differential::differential,
    },
    Verb {
        name: "setup",
        help: "install and download all that the other verbs need",
        needs: setup::For::Test,
        run: setup::fetch,
    },
];

/// The program.
pub fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("xtask: {why:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(arguments: &[String]) -> Result<()> {
    if arguments.first().is_none_or(|a| matches!(a.as_str(), "help" | "--help" | "-h")) {
        println!("cargo xtask VERB [ARGUMENT]...\ncargo xtask VERB VERB...");
        for verb in VERBS {
            println!("  {:<12} {}", verb.name, verb.help);
        }
        return Ok(());
    }
    let found: Vec<Option<&Verb>> = arguments.iter().map(|a| VERBS.iter().find(|v| v.name == *a)).collect();
    // Several verbs are run in turn, without arguments; else everything after the first is the first's.
    if let Some(verbs) = found.iter().copied().collect::<Option<Vec<&Verb>>>() {
        return verbs.into_iter().try_for_each(|verb| verb.start(&[]));
    }
    match (found.first(), arguments) {
        (Some(Some(verb)), [_, rest @ ..]) => verb.start(rest),
        (_, [name, ..]) => bail!("no verb {name:?}; `cargo xtask help` lists them"),
        (_, []) => Ok(()),
    }
}

impl Verb {
    fn start(&self, arguments: &[String]) -> Result<()> {
        setup::install(self.needs)?;
        (self.run)(arguments)
    }
}

/// Builds the static programs, saying so: it is what takes long the first time.
fn programs() -> Result<Programs> {
    println!("building the static programs");
    Programs::build()
}

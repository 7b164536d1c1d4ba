//! The daemon: see [`config::daemon`].

use clap::Parser;
use initramfs::root::Root;
use std::process::ExitCode;

/// Keeps the crash kernel loaded, and true to the system; started by systemd. Ask it with `vmcorectl status`.
#[derive(Parser)]
#[command(name = "vmcored", version)]
struct Cli {}

fn main() -> ExitCode {
    // journald has the time and the name.
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info"))
        .format(|out, record| {
            use std::io::Write;
            let level = match record.level() {
                log::Level::Error => 3,
                log::Level::Warn => 4,
                log::Level::Info => 6,
                log::Level::Debug | log::Level::Trace => 7,
            };
            writeln!(out, "<{level}>{}", record.args())
        })
        .init();
    let Cli {} = Cli::parse();
    match config::daemon::run(&Root::new("/")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            log::error!("{e}");
            ExitCode::FAILURE
        }
    }
}

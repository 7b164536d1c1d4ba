//! The collector's command line, for tests that call it by several names.

fn main() -> std::process::ExitCode {
    collector::byhand::main(std::env::args_os())
}

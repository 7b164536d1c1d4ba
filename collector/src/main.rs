//! `vmcore-collect`: PID 1 in the crash kernel; a dump filter by hand, under its own name or makedumpfile's.

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::process::id() == 1 {
        collector::pid1::main()
    } else {
        collector::byhand::main(std::env::args_os())
    }
}

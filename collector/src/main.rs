//! `vmcore-collect`: PID 1 in the crash kernel; a dump filter by hand.
fn main() {}

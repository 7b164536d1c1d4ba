//! The project's verbs: `cargo xtask help`.

fn main() -> std::process::ExitCode {
    vmcored_tests::xtask::main()
}

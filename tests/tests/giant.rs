//! The machines that the benchmark scans: what is said of them is what is in them.

use collector::engine::Engine;
use collector::filter::Level;
use collector::progress::Silent;
use collector::source::FileSource;
use std::process::Command;
use vmcored_tests::synth::expect::Why;
use vmcored_tests::synth::giant::{Giant, Mix};

#[test]
fn counts_are_those_of_both_tools() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vmcore");
    for mix in Mix::ALL {
        let truth = Giant { gib: 9, mix }.write(&path).unwrap();
        for threads in [1, 2] {
            let source = FileSource::open(&path).unwrap();
            let mut engine = Engine::open(&source).unwrap();
            engine.threads = threads;
            let account = engine.select(Level::new(31).unwrap(), &Silent).unwrap().account;
            let label = format!("{} with {threads} threads: {account:?}", mix.name());
            assert!(engine.problems.is_empty(), "{label}: {:?}", engine.problems.list());
            assert_eq!(account.present, truth.present, "{label}");
            for (why, seen) in [
                (Why::Free, account.free),
                (Why::User, account.user),
                (Why::Cache, account.cache),
                (Why::CachePrivate, account.cache_private),
            ] {
                assert_eq!(seen, truth.of(why), "{label}: {why:?}");
            }
            assert_eq!(account.kept, truth.present - truth.dropped.values().sum::<u64>(), "{label}");
        }
        let mut makedumpfile = Command::new("makedumpfile");
        makedumpfile
            .args(["--dry-run", "--message-level", "16", "-d", "31"])
            .arg(&path)
            .arg(dir.path().join("out"));
        let Ok(done) = makedumpfile.output() else {
            assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "makedumpfile is not installed");
            eprintln!("SKIPPED: makedumpfile is not installed (apt install makedumpfile)");
            continue;
        };
        let said = String::from_utf8_lossy(&done.stdout) + String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{said}");
        assert_eq!(truth.disagrees(&said), None, "{}: {said}", mix.name());
    }
}

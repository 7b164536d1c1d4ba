//! The loop, while a plan hangs.

use super::*;
use std::os::unix::net::UnixDatagram;

#[test]
fn a_plan_that_hangs_is_told_and_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::new(dir.path());
    std::fs::create_dir_all(dir.path().join("etc")).unwrap();
    // Whoever opens this waits until somebody writes to it.
    let settings = dir.path().join("etc/vmcored.toml");
    nix::unistd::mkfifo(&settings, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let notify = dir.path().join("notify");
    let socket = UnixDatagram::bind(&notify).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let supervisor = Supervisor::new(notify.to_str(), Some(Duration::from_millis(150)));
    let patience = Patience { slow: Duration::from_millis(500), hung: Duration::from_secs(2) };
    let mut heard = Vec::new();
    let ended = std::thread::scope(|scope| {
        let watching = scope.spawn(|| watch(&root, &supervisor, patience));
        let mut bytes = [0; 1000];
        while !watching.is_finished() {
            if let Ok(length) = socket.recv(&mut bytes) {
                heard.push(String::from_utf8_lossy(&bytes[..length]).into_owned());
            }
        }
        watching.join().unwrap().unwrap_err()
    });
    assert_eq!(ended.kind(), io::ErrorKind::TimedOut, "{ended}");
    let at = |what: &str| heard.iter().position(|line| line.contains(what));
    let (ready, told) = (at("READY=1").unwrap(), at("has not ended").unwrap());
    assert!(ready < told, "{heard:?}");
    // Nobody has reason to take the daemon for dead, before and after.
    assert!(heard[ready..told].iter().any(|line| line == "WATCHDOG=1"), "{heard:?}");
    assert!(heard[told..].iter().any(|line| line == "WATCHDOG=1"), "{heard:?}");
    // Its thread may end now.
    drop(std::fs::OpenOptions::new().write(true).open(&settings).unwrap());
}
